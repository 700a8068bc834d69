//! Reads a Chat Completions request (openai-chat §1 to §3) into the neutral form.

use super::super::error::ApiError;
use super::super::model::{Format, Part, Request, Role, Tool, ToolChoice, ToolKind};
use super::fields::{Body, Content, Field, List, Path, TextOr, Texts};
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
    let functions: List<'_> = body.take("functions")?.unwrap_or_default();
    for (at, function) in functions.each() {
        let path = Path::Top("functions");
        let path = path.at(at);
        let function = function.need(&path)?;
        define(function, &path, &mut request, &mut names)?;
    }
    let messages_path = Path::Top("messages");
    let messages: List<'_> = body.field("messages").need(&messages_path)?;
    if messages.is_empty() {
        return Err(messages_path.error("is empty; it must hold at least one message"));
    }
    let mut turns = Turns::default();
    for (at, message) in messages.each() {
        let path = messages_path.at(at);
        let message = message.need(&path)?;
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

fn read_tools<'a>(tools: List<'a>, request: &mut Request<'a>, names: &mut Names<'a>) -> Result<(), ApiError> {
    let list = Path::Top("tools");
    for (at, tool) in tools.each() {
        let path = list.at(at);
        let mut tool = tool.need(&path)?;
        let kind = tool.opt_word(&path, "type")?;
        match kind.as_deref() {
            None | Some("function") => {
                let path = path.key("function");
                define(tool.field("function").need(&path)?, &path, request, names)?;
            }
            Some("custom") => {
                let path = path.key("custom");
                let mut tool: Members<'_> = tool.field("custom").need(&path)?;
                let name = tool.word(&path, "name")?;
                let description = tool.opt(&path, "description")?;
                let format = path.key("format");
                let grammar = match tool.field::<Members<'_>>("format").opt(&format)? {
                    Some(mut found) => found.opt::<Members<'_>>(&format, "grammar")?,
                    None => None,
                };
                let grammar = match grammar {
                    Some(mut grammar) => Some((
                        grammar.opt(&format, "syntax")?.unwrap_or_default(),
                        grammar.opt(&format, "definition")?.unwrap_or_default(),
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
    mut function: Members<'a>,
    path: &Path,
    request: &mut Request<'a>,
    names: &mut Names<'a>,
) -> Result<(), ApiError> {
    let name = function.word(path, "name")?;
    let description = function.opt(path, "description")?;
    let schema = schema(function.raw("parameters"), &path.key("parameters"))?;
    let strict = function.opt(path, "strict")?.unwrap_or(false);
    match names.define(None, name.clone(), ToolKind::Function) {
        Some(name) => request.tools.push(Tool { name, description, schema, strict }),
        None => note(&mut request.dropped, &name),
    }
    Ok(())
}

fn read_message<'a>(
    mut message: Members<'a>,
    path: &Path,
    request: &mut Request<'a>,
    turns: &mut Turns<'a>,
    names: &mut Names<'a>,
) -> Result<(), ApiError> {
    let content_path = path.key("content");
    let role_path = path.key("role");
    if message.raw("name").is_some() {
        note(&mut request.dropped, "messages[].name");
    }
    match &*message.field::<Cow<_>>("role").need(&role_path)? {
        "system" | "developer" => {
            let content = message.field("content").need(&content_path)?;
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
            let content = message.field("content").need(&content_path)?;
            for part in read_content(content, &content_path, &mut request.dropped)? {
                turns.push(Role::User, part);
            }
        }
        "assistant" => read_assistant(message, path, &mut request.dropped, turns, names)?,
        "tool" | "function" => {
            let id = message.opt(path, "tool_call_id")?;
            let parts = match message.field("content").opt(&content_path)? {
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
    mut message: Members<'a>,
    path: &Path,
    dropped: &mut Vec<String>,
    turns: &mut Turns<'a>,
    names: &mut Names<'a>,
) -> Result<(), ApiError> {
    let thought = match message.opt_word(path, "reasoning_content")? {
        Some(thought) => Some(thought),
        None => message.lenient("reasoning"),
    };
    if let Some(text) = thought.filter(|text| !text.is_empty()) {
        turns.push(Role::Assistant, Part::Thinking { text, signature: None });
    }
    let content_path = path.key("content");
    if let Some(content) = message.field("content").opt(&content_path)? {
        for part in read_content(content, &content_path, dropped)? {
            turns.push(Role::Assistant, part);
        }
    }
    if let Some(refusal) = message.opt(path, "refusal")? {
        turns.push(Role::Assistant, Part::Refusal(refusal));
    }
    let calls_path = path.key("tool_calls");
    for (at, call) in message.field::<List<'a>>("tool_calls").opt(&calls_path)?.unwrap_or_default().each() {
        let path = calls_path.at(at);
        let mut call = call.need(&path)?;
        let id = call.opt(&path, "id")?;
        let google = call.lenient("extra_content").and_then(|mut extra: Members<'a>| extra.lenient("google"));
        let signature = google.and_then(|mut google: Members<'a>| google.lenient("thought_signature"));
        if call.opt_word(&path, "type")?.as_deref() == Some("custom") {
            let path = path.key("custom");
            let mut call: Members<'a> = call.field("custom").need(&path)?;
            let name = names.called(None, call.need(&path, "name")?, ToolKind::Custom);
            let input = call.opt_word(&path, "input")?.unwrap_or_default();
            turns.call(id, name, custom_arguments(&input).into(), signature);
        } else {
            let path = path.key("function");
            let mut call: Members<'a> = call.field("function").need(&path)?;
            let name = names.called(None, call.need(&path, "name")?, ToolKind::Function);
            let arguments = call_arguments(call.raw("arguments"), &path.key("arguments"))?;
            turns.call(id, name, arguments, signature);
        }
    }
    let path = path.key("function_call");
    if let Some(mut call) = message.field::<Members<'a>>("function_call").opt(&path)? {
        let name = names.called(None, call.need(&path, "name")?, ToolKind::Function);
        turns.call(None, name, call_arguments(call.raw("arguments"), &path.key("arguments"))?, None);
    }
    Ok(())
}

fn read_content<'a>(
    content: Content<'a>,
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
        let mut block = block.need(&path)?;
        let kind = block.word(&path, "type")?;
        parts.push(match &*kind {
            "text" => Part::Text(block.need(&path, "text")?),
            "refusal" => Part::Refusal(block.need(&path, "refusal")?),
            "image_url" => {
                let path = path.key("image_url");
                let url = match block.field("image_url").need(&path)? {
                    TextOr::Text(url) => url,
                    TextOr::Object(mut image) => {
                        if image.raw("detail").is_some_and(|detail| !matches!(detail, "\"auto\"")) {
                            note(dropped, "image_url.detail");
                        }
                        image.need(&path, "url")?
                    }
                };
                Part::Image(source(url))
            }
            "file" => {
                let path = path.key("file");
                let mut found: Members<'_> = block.field("file").need(&path)?;
                let name = found.opt(&path, "filename")?;
                match found.opt(&path, "file_data")? {
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
    let choice: Option<TextOr<'a>> = body.take("tool_choice")?;
    request.tool_choice = match choice {
        None => None,
        Some(TextOr::Text(text)) => Some(word(&text, &path)?),
        Some(TextOr::Object(mut choice)) => match &*choice.word(&path, "type")? {
            "function" => {
                Some(ToolChoice::Tool(chosen(choice.field("function"), &path.key("function"), names)?))
            }
            "custom" => Some(ToolChoice::Tool(chosen(choice.field("custom"), &path.key("custom"), names)?)),
            "allowed_tools" => {
                let path = path.key("allowed_tools");
                let mut allowed: Members<'a> = choice.field("allowed_tools").need(&path)?;
                let mode_path = path.key("mode");
                let mode = allowed.field::<Cow<_>>("mode").opt(&mode_path)?.unwrap_or("auto".into());
                let list = path.key("tools");
                let mut kept = Vec::new();
                for (at, tool) in allowed.field::<List<'a>>("tools").need(&list)?.each() {
                    let path = list.at(at);
                    let mut tool = tool.need(&path)?;
                    let key = if tool.has("custom") { "custom" } else { "function" };
                    kept.push(chosen(tool.field(key), &path.key("function"), names)?);
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
    let old: Option<TextOr<'a>> = body.take("function_call")?;
    match old {
        None => {}
        Some(TextOr::Text(text)) => request.tool_choice = Some(word(&text, &path)?),
        Some(TextOr::Object(mut choice)) => {
            let name = choice.need(&path, "name")?;
            request.tool_choice = Some(ToolChoice::Tool(names.chosen(None, name)));
        }
    }
    request.parallel_tools = body.take("parallel_tool_calls")?;
    Ok(())
}

fn chosen<'a>(
    function: Field<Members<'a>>,
    path: &Path,
    names: &Names<'a>,
) -> Result<Cow<'a, str>, ApiError> {
    let mut function = function.need(path)?;
    Ok(names.chosen(None, function.need(path, "name")?))
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
    let options: Option<Members<'a>> = body.take("stream_options")?;
    if let (true, Some(mut options)) = (request.stream, options) {
        let path = Path::Top("stream_options");
        request.include_usage = options.opt(&path, "include_usage")?.unwrap_or(false);
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
    let format: Option<Members<'a>> = body.take("response_format")?;
    let Some(mut format) = format else { return Ok(()) };
    match &*format.word(&path, "type")? {
        "text" => {}
        "json_object" => request.format = Format::JsonObject,
        "json_schema" => {
            let path = path.key("json_schema");
            let mut found: Members<'a> = format.field("json_schema").need(&path)?;
            request.format = Format::JsonSchema {
                name: found.opt(&path, "name")?,
                schema: schema(found.raw("schema"), &path.key("schema"))?,
                strict: found.opt(&path, "strict")?.unwrap_or(false),
            };
        }
        _ => note(&mut request.dropped, "response_format"),
    }
    Ok(())
}
