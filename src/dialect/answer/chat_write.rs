//! Events as chunks of a chat completion (openai-chat §5).

use super::json::{custom_input, push_listed, push_member, push_page, push_string};
use super::usage::chat_json;
use super::{Names, Out, make_id};
use crate::dialect::model::{Block, Citation, ClientTool, ClientTools, Event, Failure, StopReason};
use crate::limits::STREAM_OUTPUT_BYTES_MAX;

/// What a client reads where the provider refused without a word.
pub(super) const REFUSAL: &str = "The model declined to answer.";

/// Writes one answer for one client. Feed it every event in order.
#[derive(Debug)]
pub struct ChatWriter {
    include_usage: bool,
    tools: ClientTools,
    /// A chunk up to its delta.
    head: String,
    /// A chunk from `choices` on is not in it: for the usage chunk.
    identity: usize,
    frame: String,
    open: Open,
    /// Log probabilities of the next piece of text.
    logprobs: String,
    /// Calls begun so far.
    calls: usize,
    begun: bool,
    refused: bool,
    ended: bool,
}

#[derive(Debug)]
enum Open {
    Nothing,
    Text(&'static str),
    /// Its arguments go out as they come; `begun`: some have.
    Function {
        begun: bool,
    },
    /// A custom tool takes text: its wrapped arguments are collected.
    Custom(String),
}

const TAIL: &str = "},\"logprobs\":null,\"finish_reason\":null}]}";

impl ChatWriter {
    /// The usage chunk goes out only if the client asked for it.
    pub fn new(names: &Names, include_usage: bool, tools: ClientTools) -> Self {
        let id = make_id("chatcmpl-", names.seed, 0);
        let (created, model, provider) = (names.created, &names.model_json, names.provider_member());
        let mut head = format!(
            "{{{provider}\"id\":\"{id}\",\"object\":\"chat.completion.chunk\",\"created\":{created},\"model\":{model},"
        );
        let identity = head.len();
        head.push_str("\"choices\":[{\"index\":0,\"delta\":{");
        Self {
            include_usage,
            tools,
            head,
            identity,
            frame: String::new(),
            open: Open::Nothing,
            logprobs: String::new(),
            calls: 0,
            begun: false,
            refused: false,
            ended: false,
        }
    }

    /// Writes what the event means for the client; the frames have no names.
    pub fn event(&mut self, event: Event<'_>, out: Out<'_>) {
        if self.ended {
            return;
        }
        match event {
            Event::Start { .. } => self.start(out),
            Event::Open(block) => self.open(block, out),
            Event::Delta(piece) => self.delta(piece, out),
            Event::Close { .. } => self.close(out),
            Event::Cited(citation) => {
                let mut delta = String::from("\"annotations\":[");
                push_citation(&mut delta, &citation);
                delta.push(']');
                self.chunk(&delta, out);
            }
            Event::Logprobs(list) if self.logprobs.len() + list.len() <= STREAM_OUTPUT_BYTES_MAX => {
                push_listed(&mut self.logprobs, list);
            }
            Event::Logprobs(_) => {}
            Event::Finish { reason, usage, .. } => {
                self.start(out);
                if reason == StopReason::Refusal && !self.refused {
                    self.text("refusal", REFUSAL, out);
                }
                self.frame.clear();
                self.frame.push_str(&self.head);
                self.frame.extend([
                    "},\"logprobs\":null,\"finish_reason\":\"",
                    finish_reason(reason),
                    "\"}]}",
                ]);
                out("", &self.frame);
                if self.include_usage {
                    let identity = self.head.get(..self.identity).unwrap_or_default();
                    out("", &format!("{identity}\"choices\":[],\"usage\":{}}}", chat_json(usage)));
                }
                out("", "[DONE]");
                self.ended = true;
            }
            Event::Failed { failure, message } => {
                out("", &error_json(failure, message));
                self.ended = true;
            }
        }
    }

    fn start(&mut self, out: Out<'_>) {
        if !self.begun {
            self.begun = true;
            self.chunk("\"role\":\"assistant\",\"content\":\"\"", out);
        }
    }

    fn open(&mut self, block: Block<'_>, out: Out<'_>) {
        self.open = match block {
            Block::Text => Open::Text("content"),
            Block::Thinking => Open::Text("reasoning_content"),
            Block::Refusal => {
                self.refused = true;
                Open::Text("refusal")
            }
            Block::RedactedThinking(_) => Open::Nothing,
            Block::Tool { id, name, signature } => {
                let tool = self.tools.0.get(name);
                let custom = tool.is_some_and(ClientTool::is_custom);
                let mut call = format!("\"tool_calls\":[{{\"index\":{},", self.calls);
                push_call(&mut call, id, name, tool, signature, "");
                call.push_str("}]");
                self.calls += 1;
                self.chunk(&call, out);
                if custom { Open::Custom(String::new()) } else { Open::Function { begun: false } }
            }
        };
    }

    fn delta(&mut self, piece: &str, out: Out<'_>) {
        match &mut self.open {
            Open::Nothing => {}
            Open::Text(key) => {
                let key = *key;
                self.text(key, piece, out);
            }
            Open::Function { begun } => {
                *begun = true;
                self.arguments(piece, out);
            }
            Open::Custom(held) if held.len() + piece.len() <= STREAM_OUTPUT_BYTES_MAX => held.push_str(piece),
            Open::Custom(_) => {
                out(
                    "",
                    &error_json(Failure::Server, "The input of a tool call is longer than this proxy holds."),
                );
                self.ended = true;
            }
        }
    }

    fn close(&mut self, out: Out<'_>) {
        match std::mem::replace(&mut self.open, Open::Nothing) {
            Open::Function { begun: false } => self.arguments("{}", out),
            Open::Custom(arguments) => {
                let mut delta =
                    format!("\"tool_calls\":[{{\"index\":{},\"custom\":{{", self.calls.saturating_sub(1));
                push_member(&mut delta, "input", &custom_input(&arguments));
                delta.push_str("}}]");
                self.chunk(&delta, out);
            }
            _ => {}
        }
    }

    fn text(&mut self, key: &str, piece: &str, out: Out<'_>) {
        self.frame.clear();
        self.frame.push_str(&self.head);
        push_member(&mut self.frame, key, piece);
        if self.logprobs.is_empty() || key != "content" {
            self.frame.push_str(TAIL);
        } else {
            let list = std::mem::take(&mut self.logprobs);
            self.frame.extend(["},\"logprobs\":", &logprobs_json(&list), ",\"finish_reason\":null}]}"]);
        }
        out("", &self.frame);
    }

    fn arguments(&mut self, piece: &str, out: Out<'_>) {
        use std::fmt::Write;
        self.frame.clear();
        self.frame.push_str(&self.head);
        // Writing into a `String` cannot fail.
        let _ = write!(
            self.frame,
            "\"tool_calls\":[{{\"index\":{},\"function\":{{",
            self.calls.saturating_sub(1)
        );
        push_member(&mut self.frame, "arguments", piece);
        self.frame.extend(["}}]", TAIL]);
        out("", &self.frame);
    }

    fn chunk(&mut self, delta: &str, out: Out<'_>) {
        self.frame.clear();
        self.frame.extend([&self.head, delta, TAIL]);
        out("", &self.frame);
    }
}

/// Writes an annotation.
pub(super) fn push_citation(out: &mut String, citation: &Citation<'_>) {
    out.push_str("{\"type\":\"url_citation\",\"url_citation\":{");
    push_page(out, citation, citation.start, citation.end);
    out.push_str("}}");
}

/// `logprobs` of a choice.
pub(super) fn logprobs_json(list: &str) -> String {
    match list.is_empty() {
        true => "null".to_owned(),
        false => format!("{{\"content\":[{list}],\"refusal\":null}}"),
    }
}

/// Writes the members of a call, as a chunk begins it and as a message has it.
pub(super) fn push_call(
    out: &mut String,
    id: &str,
    name: &str,
    tool: Option<&ClientTool>,
    signature: Option<&str>,
    arguments: &str,
) {
    let custom = tool.is_some_and(ClientTool::is_custom);
    let (kind, key) = if custom { ("custom", "input") } else { ("function", "arguments") };
    push_member(out, "id", id);
    out.extend([",\"type\":\"", kind, "\",\"", kind, "\":{"]);
    push_member(out, "name", tool.map_or(name, |tool| &tool.name));
    out.push(',');
    push_member(out, key, arguments);
    out.push('}');
    if let Some(signature) = signature {
        out.push_str(",\"extra_content\":{\"google\":{\"thought_signature\":");
        push_string(out, signature);
        out.push_str("}}");
    }
}

/// `finish_reason` (translation §6).
pub(super) fn finish_reason(reason: StopReason) -> &'static str {
    match reason {
        StopReason::End | StopReason::StopSequence => "stop",
        StopReason::MaxTokens => "length",
        StopReason::ToolUse => "tool_calls",
        StopReason::Refusal => "content_filter",
    }
}

/// An error in place of a chunk.
pub(super) fn error_json(failure: Failure, message: &str) -> String {
    let (kind, code) = match failure {
        Failure::Server => ("server_error", "\"server_error\""),
        Failure::Overloaded => ("server_error", "\"overloaded_error\""),
        Failure::RateLimit => ("rate_limit_error", "\"rate_limit_exceeded\""),
        Failure::ContextTooLong => ("invalid_request_error", "\"context_length_exceeded\""),
        Failure::InvalidRequest => ("invalid_request_error", "null"),
    };
    let mut json = String::from("{\"error\":{");
    push_member(&mut json, "message", message);
    json.extend([",\"type\":\"", kind, "\",\"param\":null,\"code\":", code, "}}"]);
    json
}
