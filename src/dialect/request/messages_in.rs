//! Reads an Anthropic Messages request (anthropic-messages §3 to §5) into the neutral form.

use super::super::error::ApiError;
use super::super::model::{
    Effort, Format, Part, Reasoning, Request, Role, Source, Text, Tool, ToolChoice, ToolKind,
};
use super::fields::{Body, Content, Field, List, Path, TextOr, Texts, whole};
use super::json::compact;
use super::parse::Members;
use super::parts::{effort, left_out, schema, source};
use super::tools::{Names, settle};
use super::turns::Turns;
use super::{Read, note};
use std::borrow::Cow;

/// Claude Code's first system block: noise that can change with every request and would spoil prompt caches.
pub const BILLING: &str = "x-anthropic-billing-header:";

/// The values that are read, so that one pass finds all there is in them.
const LOOKED_INTO: &[&str] = &["messages", "content", "source", "tools", "system"];

/// Reads a request body. A missing `max_tokens` is let through: token counts come without it, and only Anthropic
/// insists.
///
/// # Errors
/// 400, naming the field, if the body is not JSON, a field has the wrong type, or one that must be there is missing.
pub fn read(body: &str) -> Result<Read<'_>, ApiError> {
    let mut body = Body::read(body, LOOKED_INTO)?;
    let mut request = Request { model: body.model()?, ..Request::default() };
    let mut names = Names::default();
    let tools = body.take("tools")?.unwrap_or_default();
    read_tools(tools, &mut request, &mut names)?;
    let system: Option<Content<'_>> = body.take("system")?;
    if let Some(system) = system {
        let parts = texts(system, &Path::Top("system"), &mut request.dropped)?;
        request.system = parts.into_iter().filter(|text| !text.starts_with(BILLING)).collect();
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
    if request.turns.is_empty() {
        return Err(messages_path.error("has no content; at least one message must say something"));
    }
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
        // Server tools run at Anthropic, and what their clients run (`bash_…`) has no schema to show.
        let kind: Option<Cow<'a, str>> = tool.opt(&path, "type")?;
        if let Some(kind) = kind.filter(|kind| kind != "custom") {
            note(&mut request.dropped, &kind);
            continue;
        }
        let name = tool.word(&path, "name")?;
        let description = tool.opt(&path, "description")?;
        let schema_path = path.key("input_schema");
        if !tool.has("input_schema") {
            return Err(schema_path.error("is missing; it must be an object"));
        }
        let schema = schema(tool.raw("input_schema"), &schema_path)?;
        let strict = tool.opt(&path, "strict")?.unwrap_or(false);
        match names.define(None, name.clone(), ToolKind::Function) {
            Some(name) => request.tools.push(Tool { name, description, schema, strict }),
            None => note(&mut request.dropped, &name),
        }
    }
    Ok(())
}

/// The non-empty texts of a content that may hold nothing else.
fn texts<'a>(
    content: Content<'a>,
    path: &Path,
    dropped: &mut Vec<String>,
) -> Result<Vec<Text<'a>>, ApiError> {
    let blocks = match content {
        Content::Text(text) if text.is_empty() => return Ok(Vec::new()),
        Content::Text(text) => return Ok(vec![text]),
        Content::Parts(blocks) => blocks,
    };
    let mut out: Vec<Text<'a>> = Vec::with_capacity(blocks.len());
    for (at, block) in blocks.each() {
        let path = path.at(at);
        let mut block = block.need(&path)?;
        let kind = block.word(&path, "type")?;
        if kind == "text" {
            out.push(block.need(&path, "text")?);
        } else {
            note(dropped, &kind);
        }
    }
    out.retain(|text| !text.is_empty());
    Ok(out)
}

fn read_message<'a>(
    mut message: Members<'a>,
    path: &Path,
    request: &mut Request<'a>,
    turns: &mut Turns<'a>,
    names: &mut Names<'a>,
) -> Result<(), ApiError> {
    let role_path = path.key("role");
    let role = message.word(path, "role")?;
    let path = path.key("content");
    let content = message.field("content").need(&path)?;
    let role = match &*role {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "system" => {
            for text in texts(content, &path, &mut request.dropped)? {
                if turns.is_empty() {
                    request.system.push(text);
                } else {
                    turns.push(Role::User, Part::System(text));
                }
            }
            return Ok(());
        }
        _ => return Err(role_path.error("must be user, assistant or system")),
    };
    match content {
        Content::Text(text) => turns.text(role, text),
        Content::Parts(blocks) => {
            for (at, block) in blocks.each() {
                let path = path.at(at);
                let block = block.need(&path)?;
                read_block(block, role, &path, &mut request.dropped, turns, names)?;
            }
        }
    }
    Ok(())
}

fn read_block<'a>(
    mut block: Members<'a>,
    role: Role,
    path: &Path,
    dropped: &mut Vec<String>,
    turns: &mut Turns<'a>,
    names: &mut Names<'a>,
) -> Result<(), ApiError> {
    let kind_path = path.key("type");
    let kind = block.word(path, "type")?;
    match (&*kind, role) {
        ("tool_use", Role::Assistant) => {
            let id = block.need(path, "id")?;
            let name = names.called(None, block.need(path, "name")?, ToolKind::Function);
            let input = match block.raw("input") {
                None => "{}".into(),
                Some(input) if input.starts_with('{') => compact(input),
                Some(_) => return Err(path.key("input").error("must be an object")),
            };
            turns.call(Some(id), name, input, None);
        }
        ("tool_result", Role::User) => {
            let id = block.need(path, "tool_use_id")?;
            let is_error = block.opt(path, "is_error")?.unwrap_or(false);
            let path = path.key("content");
            let mut parts = Vec::new();
            match block.field("content").opt(&path)? {
                None => {}
                Some(Content::Text(text)) => parts.push(Part::Text(text)),
                Some(Content::Parts(blocks)) => {
                    read_all_shown(blocks, &path, dropped, &mut parts)?;
                }
            }
            parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
            turns.result(Some(id), parts, is_error);
        }
        ("tool_use" | "tool_result", _) => {
            let whose = if role == Role::User { "an assistant" } else { "a user" };
            return Err(kind_path.error(format_args!("`{kind}` belongs into {whose} message")));
        }
        ("thinking", Role::Assistant) => {
            let text = block.need(path, "thinking")?;
            let signature = block.opt(path, "signature")?;
            turns.push(role, Part::Thinking { text, signature });
        }
        ("redacted_thinking", Role::Assistant) => {
            turns.push(role, Part::RedactedThinking(block.need(path, "data")?));
        }
        ("text" | "image" | "document" | "search_result", _) | (_, Role::User) => {
            let mut parts = Vec::with_capacity(1);
            read_shown(&kind, block, path, dropped, &mut parts)?;
            parts.into_iter().for_each(|part| turns.push(role, part));
        }
        // Calls that Anthropic itself answered, and what came of them. Words in their place would be put into the
        // model's mouth.
        (_, Role::Assistant) => note(dropped, &kind),
    }
    Ok(())
}

fn read_all_shown<'a>(
    blocks: List<'a>,
    path: &Path,
    dropped: &mut Vec<String>,
    out: &mut Vec<Part<'a>>,
) -> Result<(), ApiError> {
    for (at, block) in blocks.each() {
        let path = path.at(at);
        let mut block = block.need(&path)?;
        let kind = block.word(&path, "type")?;
        read_shown(&kind, block, &path, dropped, out)?;
    }
    Ok(())
}

/// What a user or a tool can show: texts, pictures, documents.
fn read_shown<'a>(
    kind: &str,
    mut block: Members<'a>,
    path: &Path,
    dropped: &mut Vec<String>,
    out: &mut Vec<Part<'a>>,
) -> Result<(), ApiError> {
    let source_path = path.key("source");
    match kind {
        "text" => out.push(Part::Text(block.need(path, "text")?)),
        "image" => {
            let found = object_source(block.field("source"), &source_path)?;
            out.push(match read_source(found, &source_path, dropped)? {
                Some(source) => Part::Image(source),
                None => left_out("image file_id", dropped),
            });
        }
        "document" => {
            let name = block.opt_word(path, "title")?.filter(|title| !title.is_empty());
            let context = block.opt_word(path, "context")?;
            out.extend(context.filter(|text| !text.is_empty()).map(|text| Part::Text(text.into())));
            let mut found = object_source(block.field("source"), &source_path)?;
            if found.says("type", "content") {
                out.extend(name.map(|name| Part::Text(name.into())));
                return match found.need(&source_path, "content")? {
                    Content::Text(text) => {
                        out.push(Part::Text(text));
                        Ok(())
                    }
                    Content::Parts(blocks) => {
                        read_all_shown(blocks, &source_path.key("content"), dropped, out)
                    }
                };
            }
            out.push(match read_source(found, &source_path, dropped)? {
                Some(source) => Part::Document { source, name },
                None => left_out("document file_id", dropped),
            });
        }
        "search_result" => {
            let title = block.opt_word(path, "title")?.unwrap_or_default();
            let address = match block.field("source").opt(&source_path)? {
                Some(TextOr::Text(address)) => address,
                _ => Cow::default(),
            };
            let path = path.key("content");
            let mut text = format!("{title}\n{address}");
            if let Some(content) = block.field("content").opt(&path)? {
                for found in texts(content, &path, dropped)? {
                    text.push('\n');
                    text.push_str(&found);
                }
            }
            out.push(Part::Text(text.trim().to_owned().into()));
        }
        other => out.push(left_out(other, dropped)),
    }
    Ok(())
}

fn object_source<'a>(source: Field<TextOr<'a>>, path: &Path) -> Result<Members<'a>, ApiError> {
    match source.need(path)? {
        TextOr::Object(source) => Ok(source),
        TextOr::Text(_) => Err(path.error("must be an object")),
    }
}

/// `None`: a file at Anthropic, which nobody else can read.
fn read_source<'a>(
    mut found: Members<'a>,
    path: &Path,
    dropped: &mut Vec<String>,
) -> Result<Option<Source<'a>>, ApiError> {
    let kind_path = path.key("type");
    match &*found.field::<Cow<_>>("type").need(&kind_path)? {
        "base64" => {
            let media_type = found.need(path, "media_type")?;
            let data = found.need(path, "data")?;
            Ok(Some(Source::Base64 { media_type, data }))
        }
        "url" => Ok(Some(source(found.need(path, "url")?))),
        "text" => Ok(Some(Source::Text(found.need(path, "data")?))),
        "file" => Ok(None),
        other => {
            note(dropped, other);
            Err(kind_path.error("must be base64, url, text, content or file"))
        }
    }
}

fn read_choice<'a>(
    body: &mut Body<'a>,
    request: &mut Request<'a>,
    names: &Names<'a>,
) -> Result<(), ApiError> {
    let path = Path::Top("tool_choice");
    let choice: Option<Members<'a>> = body.take("tool_choice")?;
    let Some(mut choice) = choice else { return Ok(()) };
    let kind_path = path.key("type");
    request.tool_choice = Some(match &*choice.field::<Cow<_>>("type").need(&kind_path)? {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Tool(names.chosen(None, choice.need(&path, "name")?)),
        _ => return Err(kind_path.error("must be auto, any, tool or none")),
    });
    let path = path.key("disable_parallel_tool_use");
    request.parallel_tools =
        choice.field("disable_parallel_tool_use").opt(&path)?.filter(|off| *off).map(|_| false);
    Ok(())
}

fn read_parameters<'a>(body: &mut Body<'a>, request: &mut Request<'a>) -> Result<(), ApiError> {
    request.max_tokens = body.whole("max_tokens")?;
    request.temperature = body.number("temperature")?;
    request.top_p = body.number("top_p")?;
    request.top_k = body.number("top_k")?;
    let stop: Option<Texts<'a>> = body.take("stop_sequences")?;
    request.stop = stop.map_or(Ok(Vec::new()), |stop| stop.checked(&Path::Top("stop_sequences")))?;
    request.stream = body.take("stream")?.unwrap_or(false);
    let metadata: Option<Members<'a>> = body.take("metadata")?;
    if let Some(mut metadata) = metadata {
        request.user = metadata.opt(&Path::Top("metadata"), "user_id")?;
    }
    let path = Path::Top("output_config");
    let config: Option<Members<'a>> = body.take("output_config")?;
    if let Some(mut config) = config {
        let word = config.opt_word(&path, "effort")?;
        request.reasoning.effort = word.as_deref().and_then(effort);
        if word.is_some() && request.reasoning.effort.is_none() {
            note(&mut request.dropped, "output_config.effort");
        }
        let path = path.key("format");
        if let Some(mut format) = config.field::<Members<'a>>("format").opt(&path)? {
            match &*format.word(&path, "type")? {
                "json_schema" => {
                    let schema = schema(format.raw("schema"), &path.key("schema"))?;
                    request.format = Format::JsonSchema { name: None, schema, strict: true };
                }
                _ => note(&mut request.dropped, "output_config.format"),
            }
        }
    }
    request.reasoning = read_thinking(body, request.reasoning)?;
    Ok(())
}

/// Translation §7. `adaptive` without an effort says nothing: every model decides by itself.
fn read_thinking(body: &mut Body<'_>, asked: Reasoning) -> Result<Reasoning, ApiError> {
    let path = Path::Top("thinking");
    let thinking: Option<Members<'_>> = body.take("thinking")?;
    let Some(mut thinking) = thinking else { return Ok(asked) };
    let kind_path = path.key("type");
    match &*thinking.word(&path, "type")? {
        "adaptive" => Ok(asked),
        "disabled" | "between_tools" => Ok(Reasoning { effort: Some(Effort::None), budget: None }),
        "enabled" => {
            let budget = whole(thinking.raw("budget_tokens"), &path.key("budget_tokens"))?;
            let by_budget = budget.map(|budget| match budget {
                ..2048 => Effort::Low,
                2048..8192 => Effort::Medium,
                _ => Effort::High,
            });
            Ok(Reasoning { effort: asked.effort.or(by_budget), budget })
        }
        _ => Err(kind_path.error("must be enabled, adaptive, disabled or between_tools")),
    }
}
