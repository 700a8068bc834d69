//! Reads a Chat Completions request (openai-chat §1 to §3) into the neutral form.

use super::super::error::ApiError;
use super::super::model::{Format, Part, Request, Role, Text, Tool, ToolChoice, ToolKind};
use super::fields::{Body, Content, Field, List, Object, Path, TextOr, Texts, object};
use super::parse::Members;
use super::parts::{call_arguments, effort, file, left_out, schema, source};
use super::tools::{Names, custom, custom_arguments, keep, settle};
use super::turns::Turns;
use super::{Read, note};
use std::borrow::Cow;

/// Parameters that only chat endpoints know: OpenAI's own first, then those of other vendors.
const CHAT_ONLY: &[&str] = &[
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "n",
    "store",
    "metadata",
    "service_tier",
    "modalities",
    "audio",
    "prediction",
    "verbosity",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "safety_identifier",
    "web_search_options",
    "moderation",
    "min_p",
    "repetition_penalty",
    "thinking",
    "enable_thinking",
    "thinking_budget",
    "chat_template_kwargs",
    "reasoning",
    "reasoning_format",
    "reasoning_split",
    "provider",
    "models",
    "extra_body",
    "safe_prompt",
    "random_seed",
    "do_sample",
    "tool_stream",
];

/// The values that are read, so that one pass finds all there is in them.
const LOOKED_INTO: &[&str] = &[
    "messages",
    "content",
    "tool_calls",
    "function",
    "custom",
    "image_url",
    "file",
    "extra_content",
    "google",
    "tools",
    "format",
    "grammar",
];

object! {
    struct Message<'a> {
        role: Field<Cow<'a, str>>,
        content: Field<Content<'a, Block<'a>>>,
        tool_calls: Field<List<'a, Call<'a>>>,
        tool_call_id: Field<Cow<'a, str>>,
        function_call: Field<Object<Function<'a>>>,
        refusal: Field<Text<'a>>,
        reasoning_content: Field<Cow<'a, str>>,
        reasoning: Field<Cow<'a, str>>,
        name: Option<&'a str>,
    }
}

object! {
    struct Block<'a> {
        r#type: Field<Cow<'a, str>>,
        text: Field<Text<'a>>,
        refusal: Field<Text<'a>>,
        image_url: Field<TextOr<'a, ImageUrl<'a>>>,
        file: Field<Object<File<'a>>>,
    }
}

object! {
    struct ImageUrl<'a> {
        url: Field<Cow<'a, str>>,
        detail: Option<&'a str>,
    }
}

object! {
    struct File<'a> {
        file_data: Field<Cow<'a, str>>,
        filename: Field<Cow<'a, str>>,
    }
}

object! {
    struct Call<'a> {
        id: Field<Cow<'a, str>>,
        r#type: Field<Cow<'a, str>>,
        function: Field<Object<Function<'a>>>,
        custom: Field<Object<Function<'a>>>,
        extra_content: Field<Object<Extra<'a>>>,
    }
}

object! {
    struct Extra<'a> {
        google: Field<Object<Google<'a>>>,
    }
}

object! {
    struct Google<'a> {
        thought_signature: Field<Cow<'a, str>>,
    }
}

object! {
    /// A function as it is defined, called or chosen, and the same for custom tools.
    struct Function<'a> {
        name: Field<Cow<'a, str>>,
        description: Field<Text<'a>>,
        parameters: Option<&'a str>,
        strict: Field<bool>,
        arguments: Option<&'a str>,
        input: Field<Cow<'a, str>>,
        format: Field<Object<ToolFormat<'a>>>,
    }
}

object! {
    struct ToolFormat<'a> {
        grammar: Field<Object<Grammar<'a>>>,
    }
}

object! {
    struct Grammar<'a> {
        syntax: Field<Cow<'a, str>>,
        definition: Field<Cow<'a, str>>,
    }
}

object! {
    /// A tool's definition, and a choice of one.
    struct ToolDef<'a> {
        r#type: Field<Cow<'a, str>>,
        function: Field<Object<Function<'a>>>,
        custom: Field<Object<Function<'a>>>,
        allowed_tools: Field<Object<Allowed<'a>>>,
        /// The choice of the old form.
        name: Field<Cow<'a, str>>,
    }
}

object! {
    struct Allowed<'a> {
        mode: Field<Cow<'a, str>>,
        tools: Field<List<'a, ToolDef<'a>>>,
    }
}

object! {
    struct ResponseFormat<'a> {
        r#type: Field<Cow<'a, str>>,
        json_schema: Field<Object<JsonSchema<'a>>>,
    }
}

object! {
    struct JsonSchema<'a> {
        name: Field<Cow<'a, str>>,
        schema: Option<&'a str>,
        strict: Field<bool>,
    }
}

/// Reads a request body.
///
/// # Errors
/// 400, naming the field, if the body is not JSON, a field has the wrong type, or one that must be there is missing.
pub fn read(body: &str) -> Result<Read<'_>, ApiError> {
    let mut body = Body::read(body, LOOKED_INTO)?;
    let mut request = Request { model: body.model()?, ..Request::default() };
    let mut names = Names::default();
    let tools = body.take("tools")?.unwrap_or_default();
    read_tools(tools, &mut request, &mut names)?;
    let functions: List<'_, Function<'_>> = body.take("functions")?.unwrap_or_default();
    for (at, function) in functions.each() {
        let path = Path::Top("functions");
        let path = path.at(at);
        let Object(function) = function.need(&path)?;
        define(function, &path, &mut request, &mut names)?;
    }
    let messages_path = Path::Top("messages");
    let messages: List<'_, Message<'_>> = body.field("messages").need(&messages_path)?;
    if messages.is_empty() {
        return Err(messages_path.error("is empty; it must hold at least one message"));
    }
    let mut turns = Turns::default();
    for (at, message) in messages.each() {
        let path = messages_path.at(at);
        let Object(message) = message.need(&path)?;
        read_message(message, &path, &mut request, &mut turns, &mut names)?;
    }
    request.turns = turns.finish();
    read_choice(&mut body, &mut request, &names)?;
    read_parameters(&mut body, &mut request)?;
    settle(&mut request);
    for name in body.unknown() {
        note(&mut request.dropped, name);
    }
    Ok(Read { request, tools: names.into_client_tools() })
}

fn read_tools<'a>(
    tools: List<'a, ToolDef<'a>>,
    request: &mut Request<'a>,
    names: &mut Names<'a>,
) -> Result<(), ApiError> {
    let list = Path::Top("tools");
    for (at, tool) in tools.each() {
        let path = list.at(at);
        let Object(tool) = tool.need(&path)?;
        let kind = tool.r#type.opt(&path.key("type"))?;
        match kind.as_deref() {
            None | Some("function") => {
                let path = path.key("function");
                define(tool.function.need(&path)?.0, &path, request, names)?;
            }
            Some("custom") => {
                let path = path.key("custom");
                let Object(tool) = tool.custom.need(&path)?;
                let name = tool.name.need(&path.key("name"))?;
                let description = tool.description.opt(&path.key("description"))?;
                let format = path.key("format");
                let grammar = match tool.format.opt(&format)? {
                    Some(Object(found)) => found.grammar.opt(&format.key("grammar"))?,
                    None => None,
                };
                let grammar = match grammar {
                    Some(Object(grammar)) => Some((
                        grammar.syntax.opt(&format.key("syntax"))?.unwrap_or_default(),
                        grammar.definition.opt(&format.key("definition"))?.unwrap_or_default(),
                    )),
                    None => None,
                };
                match names.define(None, name.clone(), ToolKind::Custom) {
                    Some(name) => request.tools.push(custom(name, description, grammar)),
                    None => note(&mut request.dropped, &name),
                }
            }
            Some(other) => note(&mut request.dropped, other),
        }
    }
    Ok(())
}

fn define<'a>(
    function: Function<'a>,
    path: &Path,
    request: &mut Request<'a>,
    names: &mut Names<'a>,
) -> Result<(), ApiError> {
    let name = function.name.need(&path.key("name"))?;
    let description = function.description.opt(&path.key("description"))?;
    let schema = schema(function.parameters, &path.key("parameters"))?;
    let strict = function.strict.opt(&path.key("strict"))?.unwrap_or(false);
    match names.define(None, name.clone(), ToolKind::Function) {
        Some(name) => request.tools.push(Tool { name, description, schema, strict }),
        None => note(&mut request.dropped, &name),
    }
    Ok(())
}

fn read_message<'a>(
    mut message: Message<'a>,
    path: &Path,
    request: &mut Request<'a>,
    turns: &mut Turns<'a>,
    names: &mut Names<'a>,
) -> Result<(), ApiError> {
    let content_path = path.key("content");
    let role_path = path.key("role");
    if message.name.is_some() {
        note(&mut request.dropped, "messages[].name");
    }
    match &*std::mem::take(&mut message.role).need(&role_path)? {
        "system" | "developer" => {
            let content = message.content.need(&content_path)?;
            for part in read_content(content, &content_path, &mut request.dropped)? {
                match part {
                    Part::Text(text) if text.is_empty() => {}
                    Part::Text(text) if turns.is_empty() => request.system.push(text),
                    Part::Text(text) => turns.push(Role::User, Part::System(text)),
                    other => turns.push(Role::User, other),
                }
            }
        }
        "user" => {
            let content = message.content.need(&content_path)?;
            for part in read_content(content, &content_path, &mut request.dropped)? {
                turns.push(Role::User, part);
            }
        }
        "assistant" => read_assistant(message, path, &mut request.dropped, turns, names)?,
        "tool" | "function" => {
            let id = message.tool_call_id.opt(&path.key("tool_call_id"))?;
            let parts = match message.content.opt(&content_path)? {
                Some(content) => read_content(content, &content_path, &mut request.dropped)?,
                None => Vec::new(),
            };
            turns.result(id, parts, false);
        }
        _ => {
            return Err(role_path.error("must be system, developer, user, assistant, tool or function"));
        }
    }
    Ok(())
}

fn read_assistant<'a>(
    message: Message<'a>,
    path: &Path,
    dropped: &mut Vec<String>,
    turns: &mut Turns<'a>,
    names: &mut Names<'a>,
) -> Result<(), ApiError> {
    let thought = match message.reasoning_content.opt(&path.key("reasoning_content"))? {
        Some(thought) => Some(thought),
        None => message.reasoning.lenient(),
    };
    if let Some(text) = thought.filter(|text| !text.is_empty()) {
        turns.push(Role::Assistant, Part::Thinking { text, signature: None });
    }
    let content_path = path.key("content");
    if let Some(content) = message.content.opt(&content_path)? {
        for part in read_content(content, &content_path, dropped)? {
            turns.push(Role::Assistant, part);
        }
    }
    if let Some(refusal) = message.refusal.opt(&path.key("refusal"))? {
        turns.push(Role::Assistant, Part::Refusal(refusal));
    }
    let calls_path = path.key("tool_calls");
    for (at, call) in message.tool_calls.opt(&calls_path)?.unwrap_or_default().each() {
        let path = calls_path.at(at);
        let Object(call) = call.need(&path)?;
        let id = call.id.opt(&path.key("id"))?;
        let google = call.extra_content.lenient().and_then(|Object(extra)| extra.google.lenient());
        let signature = google.and_then(|Object(google)| google.thought_signature.lenient());
        if call.r#type.opt(&path.key("type"))?.as_deref() == Some("custom") {
            let path = path.key("custom");
            let Object(call) = call.custom.need(&path)?;
            let name = names.called(None, call.name.need(&path.key("name"))?, ToolKind::Custom);
            let input = call.input.opt(&path.key("input"))?.unwrap_or_default();
            turns.call(id, name, custom_arguments(&input).into(), signature);
        } else {
            let path = path.key("function");
            let Object(call) = call.function.need(&path)?;
            let name = names.called(None, call.name.need(&path.key("name"))?, ToolKind::Function);
            let arguments = call_arguments(call.arguments, &path.key("arguments"))?;
            turns.call(id, name, arguments, signature);
        }
    }
    let path = path.key("function_call");
    if let Some(Object(call)) = message.function_call.opt(&path)? {
        let name = names.called(None, call.name.need(&path.key("name"))?, ToolKind::Function);
        turns.call(None, name, call_arguments(call.arguments, &path.key("arguments"))?, None);
    }
    Ok(())
}

fn read_content<'a>(
    content: Content<'a, Block<'a>>,
    path: &Path,
    dropped: &mut Vec<String>,
) -> Result<Vec<Part<'a>>, ApiError> {
    let blocks = match content {
        Content::Text(text) => return Ok(vec![Part::Text(text)]),
        Content::Parts(blocks) => blocks,
    };
    let mut parts = Vec::with_capacity(blocks.len());
    for (at, block) in blocks.each() {
        let path = path.at(at);
        let Object(block) = block.need(&path)?;
        let kind = block.r#type.need(&path.key("type"))?;
        parts.push(match &*kind {
            "text" => Part::Text(block.text.need(&path.key("text"))?),
            "refusal" => Part::Refusal(block.refusal.need(&path.key("refusal"))?),
            "image_url" => {
                let path = path.key("image_url");
                let url = match block.image_url.need(&path)? {
                    TextOr::Text(url) => url,
                    TextOr::Object(image) => {
                        if image.detail.is_some_and(|detail| !matches!(detail, "\"auto\"")) {
                            note(dropped, "image_url.detail");
                        }
                        image.url.need(&path.key("url"))?
                    }
                };
                Part::Image(source(url))
            }
            "file" => {
                let path = path.key("file");
                let Object(found) = block.file.need(&path)?;
                let name = found.filename.opt(&path.key("filename"))?;
                match found.file_data.opt(&path.key("file_data"))? {
                    Some(data) => file(data, name),
                    None => left_out("file_id", dropped),
                }
            }
            other => left_out(other, dropped),
        });
    }
    parts.retain(|part| !matches!(part, Part::Text(text) | Part::Refusal(text) if text.is_empty()));
    Ok(parts)
}

fn read_choice<'a>(
    body: &mut Body<'a>,
    request: &mut Request<'a>,
    names: &Names<'a>,
) -> Result<(), ApiError> {
    let path = Path::Top("tool_choice");
    let word = |word: &str, path: &Path| match word {
        "auto" => Ok(ToolChoice::Auto),
        "none" => Ok(ToolChoice::None),
        "required" | "any" => Ok(ToolChoice::Required),
        _ => Err(path.error("must be none, auto, required or an object")),
    };
    let choice: Option<TextOr<'a, ToolDef<'a>>> = body.take("tool_choice")?;
    request.tool_choice = match choice {
        None => None,
        Some(TextOr::Text(text)) => Some(word(&text, &path)?),
        Some(TextOr::Object(choice)) => match &*choice.r#type.need(&path.key("type"))? {
            "function" => Some(ToolChoice::Tool(chosen(choice.function, &path.key("function"), names)?)),
            "custom" => Some(ToolChoice::Tool(chosen(choice.custom, &path.key("custom"), names)?)),
            "allowed_tools" => {
                let path = path.key("allowed_tools");
                let Object(allowed) = choice.allowed_tools.need(&path)?;
                let mode_path = path.key("mode");
                let mode = allowed.mode.opt(&mode_path)?.unwrap_or("auto".into());
                let list = path.key("tools");
                let mut kept = Vec::new();
                for (at, tool) in allowed.tools.need(&list)?.each() {
                    let path = list.at(at);
                    let Object(tool) = tool.need(&path)?;
                    let function =
                        if matches!(tool.custom, Field::Absent) { tool.function } else { tool.custom };
                    kept.push(chosen(function, &path.key("function"), names)?);
                }
                keep(request, &kept);
                Some(word(&mode, &mode_path)?)
            }
            // Some clients write the words as Anthropic's objects.
            other => {
                let choice = word(other, &path).ok();
                if choice.is_none() {
                    note(&mut request.dropped, other);
                }
                choice
            }
        },
    };
    let path = Path::Top("function_call");
    let old: Option<TextOr<'a, ToolDef<'a>>> = body.take("function_call")?;
    match old {
        None => {}
        Some(TextOr::Text(text)) => request.tool_choice = Some(word(&text, &path)?),
        Some(TextOr::Object(choice)) => {
            let name = choice.name.need(&path.key("name"))?;
            request.tool_choice = Some(ToolChoice::Tool(names.chosen(None, name)));
        }
    }
    request.parallel_tools = body.take("parallel_tool_calls")?;
    Ok(())
}

fn chosen<'a>(
    function: Field<Object<Function<'a>>>,
    path: &Path,
    names: &Names<'a>,
) -> Result<Cow<'a, str>, ApiError> {
    let Object(function) = function.need(path)?;
    Ok(names.chosen(None, function.name.need(&path.key("name"))?))
}

fn read_parameters<'a>(body: &mut Body<'a>, request: &mut Request<'a>) -> Result<(), ApiError> {
    let older = body.whole("max_tokens")?;
    request.max_tokens = body.whole("max_completion_tokens")?.or(older);
    request.temperature = body.number("temperature")?;
    request.top_p = body.number("top_p")?;
    request.top_k = body.number("top_k")?;
    let stop: Option<Texts<'a>> = body.take("stop")?;
    request.stop = stop.map_or(Ok(Vec::new()), |stop| stop.checked(&Path::Top("stop")))?;
    let word: Option<Cow<'a, str>> = body.take("reasoning_effort")?;
    request.reasoning.effort = word.as_deref().and_then(effort);
    if word.is_some() && request.reasoning.effort.is_none() {
        note(&mut request.dropped, "reasoning_effort");
    }
    read_format(body, request)?;
    request.stream = body.take("stream")?.unwrap_or(false);
    let options: Option<Object<Members<'a>>> = body.take("stream_options")?;
    if let (true, Some(Object(mut options))) = (request.stream, options) {
        let path = Path::Top("stream_options");
        request.include_usage =
            Field::of(options.take("include_usage")).opt(&path.key("include_usage"))?.unwrap_or(false);
    }
    request.user = body.take("user")?;
    if request.user.is_none() {
        request.user = body.take("safety_identifier")?;
    }
    for name in CHAT_ONLY {
        request.chat_only.extend(body.raw(name).map(|value| (*name, value)));
    }
    Ok(())
}

fn read_format<'a>(body: &mut Body<'a>, request: &mut Request<'a>) -> Result<(), ApiError> {
    let path = Path::Top("response_format");
    let format: Option<Object<ResponseFormat<'a>>> = body.take("response_format")?;
    let Some(Object(format)) = format else { return Ok(()) };
    match &*format.r#type.need(&path.key("type"))? {
        "text" => {}
        "json_object" => request.format = Format::JsonObject,
        "json_schema" => {
            let path = path.key("json_schema");
            let Object(found) = format.json_schema.need(&path)?;
            request.format = Format::JsonSchema {
                name: found.name.opt(&path.key("name"))?,
                schema: schema(found.schema, &path.key("schema"))?,
                strict: found.strict.opt(&path.key("strict"))?.unwrap_or(false),
            };
        }
        _ => note(&mut request.dropped, "response_format"),
    }
    Ok(())
}
