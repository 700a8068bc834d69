//! Reads a Responses request (openai-responses §1 to §3) into the neutral form, after the items of earlier turns.

use super::super::error::ApiError;
use super::super::model::{ClientTools, Format, Part, Request, Role, Text, Tool, ToolChoice, ToolKind};
use super::fields::{Body, Content, Field, Items, List, Path, Shape, TextOr, value, whole};
use super::json::{self, compact};
use super::note;
use super::parse::{Members, Node, parse};
use super::parts::{call_arguments, effort, schema};
use super::responses_parts::{built_in, collect_texts, shown};
use super::tools::{Names, custom, custom_arguments, keep, settle};
use super::turns::Turns;
use crate::dialect::model::{MARK_REDACTED, MARK_SIGNATURE};
use std::borrow::Cow;

/// A request as read, and what the store of responses needs.
#[derive(Debug)]
pub struct ReadResponses<'a> {
    /// In the neutral form.
    pub request: Request<'a>,
    /// For the way back.
    pub tools: ClientTools,
    /// The response that this request goes on from.
    pub previous_response_id: Option<Cow<'a, str>>,
    /// Whether the client may ask for the answer again; true unless it says no.
    pub store: bool,
    /// The items of this request's own `input`, each as JSON text: with those of the answer they are the history of
    /// the next one. Instructions are not among them: they are not carried over.
    pub items: Vec<Cow<'a, str>>,
}

enum Input<'a> {
    Text(Text<'a>),
    Items(Vec<Node<'a>>),
}

/// The values that are read, so that one pass finds all there is in them.
const LOOKED_INTO: &[&str] = &["input", "content", "output", "summary", "tools", "format", "image_url"];

impl<'a> Shape<'a> for Input<'a> {
    const WHAT: &'static str = "a string or an array";
    fn of(node: Node<'a>) -> Option<Self> {
        match node.text() {
            Some(text) => Some(Input::Text(text)),
            None => node.list().map(Input::Items),
        }
    }
}

/// Reads a request body.
///
/// # Errors
/// 400, naming the field, if the body is not JSON, a field has the wrong type, one that must be there is missing, or
/// it needs something that is kept at OpenAI only (`prompt`, `conversation`, `item_reference`) or goes on there without
/// its client (`background`).
pub fn read(body: &str) -> Result<ReadResponses<'_>, ApiError> {
    read_after::<&str>(&[], body)
}

/// Reads a request body that goes on from `history`: the items of all earlier requests and answers, oldest first.
///
/// # Errors
/// As [`read`].
pub fn read_after<'a, S: AsRef<str>>(history: &'a [S], body: &'a str) -> Result<ReadResponses<'a>, ApiError> {
    let mut body = Body::read(body, LOOKED_INTO)?;
    for kept_elsewhere in ["prompt", "conversation"] {
        if body.raw(kept_elsewhere).is_some() {
            let path = Path::Top(kept_elsewhere);
            return Err(path.error("refers to something kept at OpenAI; send the input itself"));
        }
    }
    if body.take("background")?.unwrap_or(false) {
        let path = Path::Top("background");
        return Err(path.error("is not possible here: nothing goes on without its client; leave it out"));
    }
    let previous_response_id: Option<Cow<'a, str>> = body.take("previous_response_id")?;
    let store = body.take("store")?.unwrap_or(true);
    let mut reader = Reader::default();
    reader.request.model = body.model()?;
    let instructions: Option<Text<'a>> = body.take("instructions")?;
    reader.request.system.extend(instructions.filter(|text| !text.is_empty()));
    let tools = body.take("tools")?.unwrap_or_default();
    reader.tools(tools, &Path::Top("tools"))?;

    let input_path = Path::Top("input");
    let input = match body.field("input") {
        Field::Absent if previous_response_id.is_some() => Input::Items(Vec::new()),
        input => input.need(&input_path)?,
    };
    let old: Vec<Node<'a>> = history
        .iter()
        .map(|item| parse(item.as_ref(), LOOKED_INTO))
        .collect::<Result<_, _>>()
        .map_err(|_| ApiError::new(500, "The kept history is not JSON."))?;
    let history_path = Path::Top("previous_response_id");
    reader.define_added(&old, &history_path)?;
    if let Input::Items(items) = &input {
        reader.define_added(items, &input_path)?;
    }
    for (at, item) in old.into_iter().enumerate() {
        reader.item(item, &history_path.at(at))?;
    }
    let mut own = Vec::new();
    match input {
        Input::Text(text) => {
            own.push(Cow::Owned(user_item(&text)));
            reader.turns.text(Role::User, text);
        }
        Input::Items(items) => {
            for (at, item) in items.into_iter().enumerate() {
                own.extend(item.raw().map(Cow::Borrowed));
                reader.item(item, &input_path.at(at))?;
            }
        }
    }
    let Reader { mut request, turns, names, .. } = reader;
    request.turns = turns.finish();
    if request.turns.is_empty() && request.system.is_empty() && previous_response_id.is_none() {
        return Err(input_path.error("has no content; at least one item must say something"));
    }
    read_choice(&mut body, &mut request, &names)?;
    read_parameters(&mut body, &mut request)?;
    settle(&mut request);
    for name in body.unknown() {
        note(&mut request.dropped, name);
    }
    let tools = names.into_client_tools();
    Ok(ReadResponses { request, tools, previous_response_id, store, items: own })
}

/// What `input` as a string is short for.
fn user_item(text: &Text<'_>) -> String {
    let mut out = String::with_capacity(text.len() + 48);
    let mut members = json::Members::open(&mut out);
    members.text("type", "message");
    members.text("role", "user");
    members.said("content", text);
    members.close();
    out
}

#[derive(Default)]
struct Reader<'a> {
    request: Request<'a>,
    turns: Turns<'a>,
    names: Names<'a>,
}

impl<'a> Reader<'a> {
    /// Codex sends the tools of models it knows as an input item: they count before any call does.
    fn define_added(&mut self, items: &[Node<'a>], path: &Path) -> Result<(), ApiError> {
        for (at, item) in items.iter().enumerate() {
            let Some(item) = item.raw().filter(|item| item.contains("additional_tools")) else { continue };
            let path = path.at(at);
            let Some(mut item) = value::<Members<'a>>(item, &path)? else { continue };
            if item.says("type", "additional_tools") {
                let path = path.key("tools");
                let tools = item.field("tools").need(&path)?;
                self.tools(tools, &path)?;
            }
        }
        Ok(())
    }

    fn tools(&mut self, tools: List<'a>, list: &Path) -> Result<(), ApiError> {
        for (at, tool) in tools.each() {
            let path = list.at(at);
            let mut tool = tool.need(&path)?;
            if tool.says("type", "namespace") {
                let namespace = tool.word(&path, "name")?;
                let list = path.key("tools");
                for (at, tool) in tool.field::<List<'a>>("tools").need(&list)?.each() {
                    let path = list.at(at);
                    let tool = tool.need(&path)?;
                    self.tool(tool, Some(&namespace), &path)?;
                }
            } else {
                self.tool(tool, None, &path)?;
            }
        }
        Ok(())
    }

    fn tool(&mut self, mut tool: Members<'a>, namespace: Option<&str>, path: &Path) -> Result<(), ApiError> {
        let kind = tool.word(path, "type")?;
        let made = match &*kind {
            "function" => {
                let name = tool.word(path, "name")?;
                let description = tool.opt(path, "description")?;
                let schema = schema(tool.raw("parameters"), &path.key("parameters"))?;
                let strict = tool.opt(path, "strict")?.unwrap_or(false);
                self.names.define(namespace, name, ToolKind::Function).map(|name| Tool {
                    name,
                    description,
                    schema,
                    strict,
                })
            }
            "custom" => {
                let name = tool.word(path, "name")?;
                let description = tool.opt(path, "description")?;
                let path = path.key("format");
                let mut grammar = None;
                if let Some(mut format) = tool.field::<Members<'a>>("format").opt(&path)?
                    && format.opt_word(&path, "type")?.as_deref() == Some("grammar")
                {
                    let syntax = format.opt(&path, "syntax")?.unwrap_or_default();
                    grammar = Some((syntax, format.need(&path, "definition")?));
                }
                self.names
                    .define(namespace, name, ToolKind::Custom)
                    .map(|name| custom(name, description, grammar))
            }
            // Run by the client, so that any model can use them.
            "local_shell" | "shell" | "apply_patch" => match built_in(&kind) {
                Some((kind, name, description, schema)) => {
                    self.names.define(None, name.into(), kind).map(|name| Tool {
                        name,
                        description: Some(description.into()),
                        schema: schema.into(),
                        strict: false,
                    })
                }
                None => None,
            },
            _ => None,
        };
        match made {
            Some(tool) => self.request.tools.push(tool),
            None => note(&mut self.request.dropped, &kind),
        }
        Ok(())
    }

    fn item(&mut self, item: Node<'a>, path: &Path) -> Result<(), ApiError> {
        let Field::Is(mut item) = Field::<Members<'a>>::of(item) else {
            return Err(path.error("must be an object"));
        };
        let is_reference = !item.has("role") && item.has("id");
        let kind = match item.opt_word(path, "type")? {
            Some(kind) => kind,
            None if is_reference => "item_reference".into(),
            None => "message".into(),
        };
        match &*kind {
            "message" => self.message(item, path),
            "function_call" | "custom_tool_call" | "local_shell_call" | "shell_call" | "apply_patch_call" => {
                self.call(&kind, item, path)
            }
            "function_call_output"
            | "custom_tool_call_output"
            | "local_shell_call_output"
            | "shell_call_output"
            | "apply_patch_call_output" => self.output(&kind, item, path),
            "reasoning" => self.reasoning(item, path),
            "item_reference" => Err(path.error("refers to an item kept at OpenAI; send the item itself")),
            "additional_tools" => Ok(()),
            // Hosted calls, compaction and the like: no other model knows what to do with them.
            other => {
                note(&mut self.request.dropped, other);
                Ok(())
            }
        }
    }

    fn message(&mut self, mut item: Members<'a>, path: &Path) -> Result<(), ApiError> {
        let role_path = path.key("role");
        let role = item.word(path, "role")?;
        let path = path.key("content");
        let parts = shown(item.field("content").need(&path)?, &path, &mut self.request.dropped)?;
        for part in parts {
            match (&*role, part) {
                ("system" | "developer", Part::Text(text)) if self.turns.is_empty() => {
                    self.request.system.push(text);
                }
                ("system" | "developer", Part::Text(text)) => {
                    self.turns.push(Role::User, Part::System(text));
                }
                ("user" | "system" | "developer", part) => self.turns.push(Role::User, part),
                ("assistant", part) => self.turns.push(Role::Assistant, part),
                _ => return Err(role_path.error("must be user, assistant, system or developer")),
            }
        }
        match &*role {
            "user" | "system" | "developer" | "assistant" => Ok(()),
            _ => Err(role_path.error("must be user, assistant, system or developer")),
        }
    }

    fn call(&mut self, kind: &str, mut item: Members<'a>, path: &Path) -> Result<(), ApiError> {
        let call_id = item.opt(path, "call_id")?;
        let id = match call_id {
            Some(id) => Some(id),
            None => item.opt(path, "id")?,
        };
        let namespace = item.opt_word(path, "namespace")?.filter(|text| !text.is_empty());
        let namespace = namespace.as_deref();
        let action = |raw: Option<&'a str>, key| match raw {
            Some(action) if action.starts_with('{') => Ok(compact(action)),
            Some(_) => Err(path.key(key).error("must be an object")),
            None => Ok("{}".into()),
        };
        let (name, arguments) = match kind {
            "function_call" => {
                let name = self.names.called(namespace, item.need(path, "name")?, ToolKind::Function);
                (name, call_arguments(item.raw("arguments"), &path.key("arguments"))?)
            }
            "custom_tool_call" => {
                let name = self.names.called(namespace, item.need(path, "name")?, ToolKind::Custom);
                let input = item.opt_word(path, "input")?.unwrap_or_default();
                (name, custom_arguments(&input).into())
            }
            "apply_patch_call" => (
                self.names.called(None, "apply_patch".into(), ToolKind::ApplyPatch),
                action(item.raw("operation"), "operation")?,
            ),
            "shell_call" => (
                self.names.called(None, "shell".into(), ToolKind::Shell),
                action(item.raw("action"), "action")?,
            ),
            _ => (
                self.names.called(None, "local_shell".into(), ToolKind::LocalShell),
                action(item.raw("action"), "action")?,
            ),
        };
        self.turns.call(id, name, arguments, None);
        Ok(())
    }

    fn output(&mut self, kind: &str, mut item: Members<'a>, path: &Path) -> Result<(), ApiError> {
        let call_id = item.opt(path, "call_id")?;
        // The output of a local shell has the call's id in `id`.
        let id = match call_id {
            Some(id) => Some(id),
            None if kind == "local_shell_call_output" => item.opt(path, "id")?,
            None => return Err(path.key("call_id").error("is missing; it must be a string")),
        };
        let failed = item.opt_word(path, "status")?.as_deref() == Some("failed");
        let path = path.key("output");
        let parts = match item.field("output").opt(&path)? {
            Some(output) => shown(output, &path, &mut self.request.dropped)?,
            None => Vec::new(),
        };
        self.turns.result(id, parts, failed && kind == "apply_patch_call_output");
        Ok(())
    }

    /// Only what carries our own mark is understood: what OpenAI encrypted nobody else can read.
    fn reasoning(&mut self, mut item: Members<'a>, path: &Path) -> Result<(), ApiError> {
        let encrypted = item.opt_word(path, "encrypted_content")?;
        if let Some(data) = encrypted.as_deref().and_then(|text| text.strip_prefix(MARK_REDACTED)) {
            self.turns.push(Role::Assistant, Part::RedactedThinking(data.to_owned().into()));
            return Ok(());
        }
        let signature = encrypted.as_deref().and_then(|text| text.strip_prefix(MARK_SIGNATURE));
        let signature = signature.map(|signature| Cow::Owned(signature.to_owned()));
        let content_path = path.key("content");
        let summary_path = path.key("summary");
        let mut texts = Vec::new();
        // `content` is the whole of it where a model shows that.
        if let Some(Content::Parts(blocks)) = item.field("content").opt(&content_path)? {
            collect_texts(blocks, &content_path, &mut texts)?;
        }
        let summary = item.field("summary").opt(&summary_path)?.unwrap_or_default();
        if texts.is_empty() {
            collect_texts(summary, &summary_path, &mut texts)?;
        }
        let text = match texts.len() {
            0 | 1 => texts.pop().unwrap_or_default(),
            _ => texts.join("\n\n").into(),
        };
        if !text.is_empty() || signature.is_some() {
            self.turns.push(Role::Assistant, Part::Thinking { text, signature });
        }
        Ok(())
    }
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
        "required" => Ok(ToolChoice::Required),
        _ => Err(path.error("must be none, auto, required or an object")),
    };
    let named = |mut choice: Members<'a>, path: &Path| -> Result<Cow<'a, str>, ApiError> {
        let namespace = choice.opt_word(path, "namespace")?;
        Ok(names.chosen(namespace.as_deref(), choice.need(path, "name")?))
    };
    let choice: Option<TextOr<'a>> = body.take("tool_choice")?;
    request.tool_choice = match choice {
        None => None,
        Some(TextOr::Text(text)) => Some(word(&text, &path)?),
        Some(TextOr::Object(mut choice)) => {
            let kind = choice.word(&path, "type")?;
            match &*kind {
                "function" | "custom" => Some(ToolChoice::Tool(named(choice, &path)?)),
                "shell" | "apply_patch" | "local_shell" => {
                    Some(ToolChoice::Tool(names.chosen(None, kind.clone())))
                }
                "allowed_tools" => {
                    let list = path.key("tools");
                    let mut kept = Vec::new();
                    for (at, tool) in choice.field::<List<'a>>("tools").need(&list)?.each() {
                        let path = list.at(at);
                        let tool = tool.need(&path)?;
                        // Hosted tools have no name, and are not offered anyway.
                        if tool.has("name") {
                            kept.push(named(tool, &path)?);
                        }
                    }
                    keep(request, &kept);
                    let path = path.key("mode");
                    let mode = choice.field::<Cow<_>>("mode").opt(&path)?.unwrap_or("auto".into());
                    Some(word(&mode, &path)?)
                }
                other => {
                    note(&mut request.dropped, other);
                    None
                }
            }
        }
    };
    request.parallel_tools = body.take("parallel_tool_calls")?;
    Ok(())
}

/// What the answer is to hold besides, and other fields without a counterpart.
fn read_extras<'a>(body: &mut Body<'a>, request: &mut Request<'a>) -> Result<(), ApiError> {
    const LOGPROBS: &str = "message.output_text.logprobs";
    let path = Path::Top("include");
    let include: Option<Items<'a, Cow<'a, str>>> = body.take("include")?;
    let mut logprobs = false;
    for (at, what) in include.unwrap_or_default().each() {
        match &*what.need(&path.at(at))? {
            LOGPROBS => logprobs = true,
            // Always there, where a provider signs its reasoning.
            "reasoning.encrypted_content" => {}
            // Of hosted tools, which nobody has.
            other => note(&mut request.dropped, other),
        }
    }
    let top = body.raw("top_logprobs");
    if whole(top, &Path::Top("top_logprobs"))?.is_some_and(|count| count > 0) {
        logprobs = true;
        request.chat_only.extend(top.map(|value| ("top_logprobs", value)));
    }
    if logprobs {
        request.chat_only.push(("logprobs", "true"));
    }
    let path = Path::Top("truncation");
    match body.take::<Cow<'a, str>>("truncation")?.as_deref() {
        None | Some("disabled") => {}
        // Too long a conversation is an error all the same: what could be left out nobody here can judge.
        Some("auto") => note(&mut request.dropped, "truncation"),
        Some(_) => return Err(path.error("must be auto or disabled")),
    }
    // Counts calls of hosted tools, of which there are none.
    body.whole("max_tool_calls")?;
    // Obfuscation hides lengths on OpenAI's own wire.
    body.take::<Members<'a>>("stream_options")?;
    Ok(())
}

fn read_parameters<'a>(body: &mut Body<'a>, request: &mut Request<'a>) -> Result<(), ApiError> {
    read_extras(body, request)?;
    request.max_tokens = body.whole("max_output_tokens")?;
    request.temperature = body.number("temperature")?;
    request.top_p = body.number("top_p")?;
    request.stream = body.take("stream")?.unwrap_or(false);
    request.user = body.take("user")?;
    if request.user.is_none() {
        request.user = body.take("safety_identifier")?;
    }
    let reasoning: Option<Members<'a>> = body.take("reasoning")?;
    if let Some(mut reasoning) = reasoning {
        let word = reasoning.opt_word(&Path::Top("reasoning"), "effort")?;
        request.reasoning.effort = word.as_deref().and_then(effort);
        if word.is_some() && request.reasoning.effort.is_none() {
            note(&mut request.dropped, "reasoning.effort");
        }
        for (name, value) in
            [("reasoning.context", reasoning.raw("context")), ("reasoning.mode", reasoning.raw("mode"))]
        {
            if value.is_some() {
                note(&mut request.dropped, name);
            }
        }
    }
    let path = Path::Top("text");
    let text: Option<Members<'a>> = body.take("text")?;
    if let Some(mut text) = text {
        request.chat_only.extend(text.raw("verbosity").map(|value| ("verbosity", value)));
        let path = path.key("format");
        if let Some(mut format) = text.field::<Members<'a>>("format").opt(&path)? {
            match &*format.word(&path, "type")? {
                "text" => {}
                "json_object" => request.format = Format::JsonObject,
                "json_schema" => {
                    request.format = Format::JsonSchema {
                        name: format.opt(&path, "name")?,
                        schema: schema(format.raw("schema"), &path.key("schema"))?,
                        strict: format.opt(&path, "strict")?.unwrap_or(false),
                    };
                }
                _ => note(&mut request.dropped, "text.format"),
            }
        }
    }
    Ok(())
}
