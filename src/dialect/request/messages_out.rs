//! Writes an Anthropic Messages request (translation §3) as one model takes it. The same request gives the same
//! bytes, so that prompt caches stay warm.

use super::super::model::{Effort, Format, Part, Request, Role, Source, Text, ToolChoice};
use super::json::{Members, NO_PARAMETERS, object_schema, push_joined, push_string};
use super::tools::fit_id;
use super::{Target, note, room};
use crate::dialect::model::MARK;
use crate::provider::quirks::{Messages, ToolIds};
use std::borrow::Cow;
use std::collections::HashSet;

/// Said for the user where Anthropic wants a user's message and there is none.
const CONTINUE: &str = "Continue.";
/// The only message of a conversation in which nothing was said.
const NOTHING: &str = ".";
/// Pictures Anthropic takes; the last is not a registered name, but a common one.
const IMAGES: [&str; 5] = ["image/jpeg", "image/png", "image/gif", "image/webp", "image/jpg"];
/// Least budget Anthropic takes, in tokens.
const BUDGET_MIN: u64 = 1024;

/// The request body, and the names of what the model cannot be told.
pub fn write(request: &Request<'_>, target: &Target<'_>) -> (String, Vec<String>) {
    let mut out = String::with_capacity(room(request));
    let mut dropped = request.dropped.clone();
    let knows = target.quirks.written.messages;
    let thinking = thinking(request, knows, &mut dropped);
    let mut max_tokens = request.max_tokens.unwrap_or(u64::from(target.default_max_tokens));
    if let Thinking::Budget(budget) = thinking
        && max_tokens <= budget
    {
        // The budget is part of the limit at Anthropic; what the client wanted said shall have its room.
        max_tokens = max_tokens.saturating_add(budget);
    }
    let mut body = Members::open(&mut out);
    body.raw("model", target.model_json);
    body.raw("max_tokens", &max_tokens.to_string());
    let system = system(request, knows);
    if !system.is_empty() {
        push_joined(body.key("system"), "\\n\\n", &system);
    }
    let messages = body.key("messages");
    messages.push('[');
    let may_end = knows.prefill && !thinking.is_on();
    Conversation { out: messages, open: None, dropped: &mut dropped }.write(request, may_end);
    messages.push(']');
    tools(&mut body, request, knows);
    parameters(&mut body, request, knows, thinking, &mut dropped);
    body.close();
    (out, dropped)
}

fn system<'r>(request: &'r Request<'_>, knows: Messages) -> Vec<Text<'r>> {
    let mut texts: Vec<Text<'r>> = request.system.iter().map(Text::reborrow).collect();
    match &request.format {
        Format::JsonSchema { schema, .. } if !knows.format => {
            let line = format!("Answer with one JSON object only. It must fit this JSON schema:\n{schema}");
            texts.push(line.into());
        }
        Format::JsonObject => texts.push("Answer with one JSON object only.".into()),
        _ => {}
    }
    texts
}

/// What becomes of `thinking`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thinking {
    Unsaid,
    Off,
    Adaptive(Option<&'static str>),
    Budget(u64),
}

impl Thinking {
    fn is_on(self) -> bool {
        matches!(self, Thinking::Adaptive(_) | Thinking::Budget(_))
    }
}

/// Translation §7.
fn thinking(request: &Request<'_>, knows: Messages, dropped: &mut Vec<String>) -> Thinking {
    let asked = request.reasoning;
    if asked.effort == Some(Effort::None) && knows.thinking {
        return Thinking::Off;
    }
    if asked.effort.is_none_or(|effort| effort == Effort::None) && asked.budget.is_none() {
        return Thinking::Unsaid;
    }
    let forced = matches!(request.tool_choice, Some(ToolChoice::Required | ToolChoice::Tool(_)));
    // Both together are a 400, and a tool that must be called matters more.
    if !knows.thinking || (forced && !request.tools.is_empty()) {
        note(dropped, "reasoning effort");
        return Thinking::Unsaid;
    }
    if knows.adaptive {
        return Thinking::Adaptive(asked.effort.map(|effort| match effort {
            Effort::None | Effort::Minimal | Effort::Low => "low",
            Effort::Medium => "medium",
            Effort::High => "high",
            Effort::XHigh if knows.xhigh => "xhigh",
            Effort::XHigh => "high",
            Effort::Max => "max",
        }));
    }
    // With a budget, a turn of tool calls has to begin with its thinking, which other providers' turns do not have.
    if last_calls_lack_thinking(request) {
        note(dropped, "reasoning effort");
        return Thinking::Unsaid;
    }
    let budget = asked.budget.unwrap_or(match asked.effort {
        Some(Effort::None | Effort::Minimal | Effort::Low) | None => 1024,
        Some(Effort::Medium) => 4096,
        Some(Effort::High) => 8192,
        Some(Effort::XHigh | Effort::Max) => 16384,
    });
    Thinking::Budget(budget.max(BUDGET_MIN))
}

fn last_calls_lack_thinking(request: &Request<'_>) -> bool {
    let last = request.turns.iter().rev().find(|turn| turn.role == Role::Assistant);
    last.is_some_and(|turn| {
        turn.parts.iter().any(|part| matches!(part, Part::ToolCall { .. }))
            && !turn.parts.iter().any(|part| match part {
                Part::Thinking { signature, .. } => is_native(signature.as_deref()),
                Part::RedactedThinking(_) => true,
                _ => false,
            })
    })
}

/// Whether a signature may be Anthropic's. Another vendor's cannot be told from one of its own.
fn is_native(signature: Option<&str>) -> bool {
    signature.is_some_and(|signature| !signature.is_empty() && !signature.starts_with(MARK))
}

/// The array of messages under construction: a message begins with its first block, so that none is empty.
struct Conversation<'c> {
    out: &'c mut String,
    open: Option<Role>,
    dropped: &'c mut Vec<String>,
}

impl Conversation<'_> {
    fn write(mut self, request: &Request<'_>, may_end_with_assistant: bool) {
        let turns = &request.turns;
        for (at, turn) in turns.iter().enumerate() {
            for (place, part) in turn.parts.iter().enumerate() {
                // Anthropic refuses white space at the end of a text to be continued.
                let is_end = at + 1 == turns.len() && place + 1 == turn.parts.len();
                match part {
                    Part::Text(text) if is_end && turn.role == Role::Assistant => {
                        self.text(turn.role, &text.trim_end().into());
                    }
                    part => self.part(turn.role, part),
                }
            }
        }
        match self.open {
            None => self.text(Role::User, &NOTHING.into()),
            Some(Role::Assistant) if !may_end_with_assistant => self.text(Role::User, &CONTINUE.into()),
            Some(_) => {}
        }
        self.out.push_str("]}");
    }

    /// A new block of this role's message; the block is to be appended to what comes back.
    fn block(&mut self, role: Role) -> &mut String {
        if self.open.is_none() && role == Role::Assistant {
            self.text(Role::User, &CONTINUE.into());
        }
        if self.open == Some(role) {
            self.out.push(',');
        } else {
            if self.open.is_some() {
                self.out.push_str("]},");
            }
            self.out.push_str(match role {
                Role::User => r#"{"role":"user","content":["#,
                Role::Assistant => r#"{"role":"assistant","content":["#,
            });
            self.open = Some(role);
        }
        self.out
    }

    /// White space alone is refused like an empty text.
    fn text(&mut self, role: Role, text: &Text<'_>) {
        if !text.is_blank() {
            push_text(self.block(role), text);
        }
    }

    fn part(&mut self, role: Role, part: &Part<'_>) {
        match part {
            Part::Text(text) | Part::System(text) | Part::Refusal(text) => self.text(role, text),
            Part::Image(_) | Part::Document { .. } if role == Role::Assistant => {
                note(self.dropped, "image of the assistant");
            }
            Part::Image(_) | Part::Document { .. } => match refused(part) {
                None => push_shown(self.block(role), part),
                Some(text) => {
                    note(self.dropped, if matches!(part, Part::Image(_)) { "image" } else { "document" });
                    self.text(role, &text.into());
                }
            },
            Part::ToolCall { id, name, arguments, .. } => {
                let mut block = Members::open(self.block(role));
                block.text("type", "tool_use");
                block.text("id", &fit_id(id, ToolIds::Plain));
                block.text("name", name);
                block.raw("input", arguments);
                block.close();
            }
            Part::ToolResult { id, parts, is_error } => self.result(role, id, parts, *is_error),
            Part::Thinking { text, signature: Some(signature) } if is_native(Some(signature)) => {
                let mut block = Members::open(self.block(role));
                block.text("type", "thinking");
                block.text("thinking", text);
                block.text("signature", signature);
                block.close();
            }
            Part::Thinking { .. } => note(self.dropped, "thinking"),
            Part::RedactedThinking(data) => {
                let mut block = Members::open(self.block(role));
                block.text("type", "redacted_thinking");
                block.text("data", data);
                block.close();
            }
        }
    }

    fn result(&mut self, role: Role, id: &str, parts: &[Part<'_>], is_error: bool) {
        let mut block = Members::open(self.block(role));
        block.text("type", "tool_result");
        block.text("tool_use_id", &fit_id(id, ToolIds::Plain));
        match parts {
            [] => {}
            [Part::Text(text)] => block.said("content", text),
            parts => {
                let content = block.key("content");
                content.push('[');
                let mut comma = "";
                for part in parts {
                    let text = match part {
                        Part::Text(text) | Part::System(text) | Part::Refusal(text) => Some(text.reborrow()),
                        part => refused(part).map(Text::from),
                    };
                    if text.as_ref().is_some_and(Text::is_blank) {
                        continue;
                    }
                    content.push_str(std::mem::replace(&mut comma, ","));
                    match text {
                        Some(text) => push_text(content, &text),
                        None => push_shown(content, part),
                    }
                }
                content.push(']');
            }
        }
        if is_error {
            block.raw("is_error", "true");
        }
        block.close();
    }
}

fn push_text(out: &mut String, text: &Text<'_>) {
    let mut block = Members::open(out);
    block.text("type", "text");
    block.said("text", text);
    block.close();
}

/// The text that stands for a picture or document that Anthropic does not take; for other parts nothing.
fn refused<'p>(part: &'p Part<'_>) -> Option<Cow<'p, str>> {
    match part {
        Part::Image(Source::Base64 { media_type, .. }) if IMAGES.contains(&&**media_type) => None,
        Part::Image(Source::Base64 { media_type, .. }) => {
            Some(format!("[image left out: {media_type}]").into())
        }
        Part::Image(Source::Url(url)) if is_web(url) => None,
        Part::Image(_) => Some("[image left out: its address is not on the web]".into()),
        Part::Document { source: Source::Text(_), .. } => None,
        Part::Document { source: Source::Url(url), .. } if is_web(url) => None,
        Part::Document { source: Source::Base64 { media_type, .. }, .. }
            if media_type == "application/pdf" =>
        {
            None
        }
        Part::Document { source, name } => {
            let name = name.as_deref().unwrap_or("Document");
            Some(match source {
                Source::Base64 { media_type, .. } => {
                    format!("[document left out: {name} ({media_type})]").into()
                }
                _ => format!("[document left out: {name}]").into(),
            })
        }
        _ => Some(Cow::default()),
    }
}

/// The block of a picture or document that is not [`refused`].
fn push_shown(out: &mut String, part: &Part<'_>) {
    let (kind, source, title) = match part {
        Part::Image(source) => ("image", source, None),
        Part::Document { source, name } => ("document", source, name.as_deref()),
        _ => return,
    };
    let mut block = Members::open(out);
    block.text("type", kind);
    let mut inner = Members::open(block.key("source"));
    match source {
        Source::Base64 { media_type, data } => {
            inner.text("type", "base64");
            inner.text("media_type", if media_type == "image/jpg" { "image/jpeg" } else { media_type });
            inner.text("data", data);
        }
        Source::Url(url) => {
            inner.text("type", "url");
            inner.text("url", url);
        }
        Source::Text(text) => {
            inner.text("type", "text");
            inner.text("media_type", "text/plain");
            inner.text("data", text);
        }
    }
    inner.close();
    if let Some(title) = title {
        block.text("title", title);
    }
    block.close();
}

fn is_web(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("http://")
}

fn tools(body: &mut Members<'_>, request: &Request<'_>, knows: Messages) {
    let out = if request.tools.is_empty() {
        // A history with calls and no tools is a 400: their names stand in, and none may be called.
        let calls = request.turns.iter().flat_map(|turn| &turn.parts).filter_map(|part| match part {
            Part::ToolCall { name, .. } => Some(&**name),
            _ => None,
        });
        let mut seen = HashSet::new();
        let names: Vec<&str> = calls.filter(|name| seen.insert(*name)).collect();
        if names.is_empty() {
            return;
        }
        let out = body.key("tools");
        for (at, name) in names.iter().enumerate() {
            out.push(if at == 0 { '[' } else { ',' });
            let mut tool = Members::open(out);
            tool.text("name", name);
            tool.raw("input_schema", NO_PARAMETERS);
            tool.close();
        }
        out.push(']');
        body.raw("tool_choice", r#"{"type":"none"}"#);
        return;
    } else {
        body.key("tools")
    };
    for (at, tool) in request.tools.iter().enumerate() {
        out.push(if at == 0 { '[' } else { ',' });
        let mut entry = Members::open(out);
        entry.text("name", &tool.name);
        if let Some(description) = &tool.description {
            entry.said("description", description);
        }
        entry.raw("input_schema", &object_schema(&tool.schema));
        if tool.strict && knows.format {
            entry.raw("strict", "true");
        }
        entry.close();
    }
    out.push(']');
    let serial = request.parallel_tools == Some(false);
    let choice = match &request.tool_choice {
        None if serial => &ToolChoice::Auto,
        None => return,
        Some(choice) => choice,
    };
    let mut out = Members::open(body.key("tool_choice"));
    match choice {
        ToolChoice::Auto => out.text("type", "auto"),
        ToolChoice::None => out.text("type", "none"),
        ToolChoice::Required => out.text("type", "any"),
        ToolChoice::Tool(name) => {
            out.text("type", "tool");
            out.text("name", name);
        }
    }
    if serial && *choice != ToolChoice::None {
        out.raw("disable_parallel_tool_use", "true");
    }
    out.close();
}

fn parameters(
    body: &mut Members<'_>,
    request: &Request<'_>,
    knows: Messages,
    thinking: Thinking,
    dropped: &mut Vec<String>,
) {
    sampling(body, request, knows, thinking, dropped);
    let stop: Vec<&str> =
        request.stop.iter().map(Cow::as_ref).filter(|text| !text.trim().is_empty()).collect();
    if stop.len() < request.stop.len() {
        note(dropped, "stop");
    }
    for (at, text) in stop.iter().enumerate() {
        let out = if at == 0 { body.key("stop_sequences") } else { &mut *body.more() };
        out.push(if at == 0 { '[' } else { ',' });
        push_string(out, text);
    }
    if !stop.is_empty() {
        body.more().push(']');
    }
    match thinking {
        Thinking::Unsaid => {}
        Thinking::Off => body.raw("thinking", r#"{"type":"disabled"}"#),
        Thinking::Adaptive(_) => body.raw("thinking", r#"{"type":"adaptive"}"#),
        Thinking::Budget(budget) => {
            body.raw("thinking", &format!(r#"{{"type":"enabled","budget_tokens":{budget}}}"#));
        }
    }
    let effort = if let Thinking::Adaptive(effort) = thinking { effort } else { None };
    let schema = match &request.format {
        Format::JsonSchema { schema, .. } if knows.format => Some(schema),
        _ => None,
    };
    if effort.is_some() || schema.is_some() {
        let mut config = Members::open(body.key("output_config"));
        if let Some(effort) = effort {
            config.text("effort", effort);
        }
        if let Some(schema) = schema {
            let mut format = Members::open(config.key("format"));
            format.text("type", "json_schema");
            format.raw("schema", schema);
            format.close();
        }
        config.close();
    }
    if let Some(user) = &request.user {
        let mut metadata = Members::open(body.key("metadata"));
        metadata.text("user_id", user);
        metadata.close();
    }
    if request.stream {
        body.raw("stream", "true");
    }
    for (name, value) in &request.chat_only {
        if (*name, *value) != ("n", "1") {
            note(dropped, name);
        }
    }
}

fn sampling(
    body: &mut Members<'_>,
    request: &Request<'_>,
    knows: Messages,
    thinking: Thinking,
    dropped: &mut Vec<String>,
) {
    let given = [("temperature", request.temperature), ("top_p", request.top_p), ("top_k", request.top_k)];
    for (name, value) in given {
        let Some(value) = value else { continue };
        // Some models refuse `top_p` beside a temperature.
        let doubled = name == "top_p" && request.temperature.is_some();
        if !knows.sampling || thinking.is_on() || doubled {
            note(dropped, name);
        } else if name == "temperature" && value.parse::<f64>().is_ok_and(|value| value > 1.0) {
            body.raw(name, "1");
        } else {
            body.raw(name, value);
        }
    }
}
