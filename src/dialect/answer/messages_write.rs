//! Events as the stream of an Anthropic message (anthropic-messages §7).

use super::json::{push_member, push_string};
use super::usage::messages_json;
use super::{Names, Out, make_id};
use crate::dialect::model::MARK;
use crate::dialect::model::{Block, ClientTools, Event, Failure, StopReason, Usage};

/// Writes one answer for one client. Feed it every event in order.
#[derive(Debug)]
pub struct MessagesWriter {
    names: Names,
    tools: ClientTools,
    frame: String,
    /// A delta of the open block up to its text.
    delta_head: String,
    open: Open,
    /// Of the open block; the next one's if none is open.
    index: usize,
    begun: bool,
    ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Nothing,
    Text,
    Thinking,
    /// `begun`: some of its arguments have gone out.
    Tool {
        begun: bool,
    },
    /// Complete with its start.
    Whole,
}

impl MessagesWriter {
    /// `tools`: what the client calls them.
    pub fn new(names: &Names, tools: ClientTools) -> Self {
        Self {
            names: names.clone(),
            tools,
            frame: String::new(),
            delta_head: String::new(),
            open: Open::Nothing,
            index: 0,
            begun: false,
            ended: false,
        }
    }

    /// Writes what the event means for the client.
    pub fn event(&mut self, event: Event<'_>, out: Out<'_>) {
        if self.ended {
            return;
        }
        match event {
            Event::Start { usage, .. } => self.start(usage, out),
            Event::Open(block) => self.open(block, out),
            Event::Delta(piece) => self.delta(piece, out),
            Event::Close { signature } => self.close(signature, out),
            // Anthropic's citations hold an index that only Anthropic can make, and refuses from others.
            Event::Cited(_) | Event::Logprobs(_) => {}
            Event::Finish { reason, stop_sequence, usage } => {
                self.start(usage, out);
                self.frame.clear();
                self.frame.extend([
                    "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"",
                    stop_reason(reason),
                    "\",\"stop_sequence\":",
                ]);
                push_optional(&mut self.frame, stop_sequence);
                self.frame.extend(["},\"usage\":", &messages_json(usage), "}"]);
                out("message_delta", &self.frame);
                out("message_stop", "{\"type\":\"message_stop\"}");
                self.ended = true;
            }
            Event::Failed { failure, message } => {
                out("error", &error_json(failure, message));
                self.ended = true;
            }
        }
    }

    fn start(&mut self, usage: Usage, out: Out<'_>) {
        if self.begun {
            return;
        }
        self.begun = true;
        let message = message_json(&self.names, "", None, None, usage);
        out("message_start", &format!("{{\"type\":\"message_start\",\"message\":{message}}}"));
    }

    fn open(&mut self, block: Block<'_>, out: Out<'_>) {
        let mut content = String::new();
        push_block(&mut content, &block, &self.tools, Filling::default());
        let (open, delta) = match block {
            // There is no block for refusals: the stop reason tells.
            Block::Text | Block::Refusal => (Open::Text, "text_delta\",\"text\":"),
            Block::Thinking => (Open::Thinking, "thinking_delta\",\"thinking\":"),
            Block::RedactedThinking(_) => (Open::Whole, ""),
            Block::Tool { .. } => (Open::Tool { begun: false }, "input_json_delta\",\"partial_json\":"),
        };
        self.open = open;
        let index = self.index;
        self.delta_head =
            format!("{{\"type\":\"content_block_delta\",\"index\":{index},\"delta\":{{\"type\":\"{delta}");
        out(
            "content_block_start",
            &format!("{{\"type\":\"content_block_start\",\"index\":{index},\"content_block\":{content}}}"),
        );
    }

    fn delta(&mut self, piece: &str, out: Out<'_>) {
        if let Open::Tool { begun } = &mut self.open {
            *begun = true;
        }
        self.frame.clear();
        self.frame.push_str(&self.delta_head);
        push_string(&mut self.frame, piece);
        self.frame.push_str("}}");
        out("content_block_delta", &self.frame);
    }

    fn close(&mut self, signature: Option<&str>, out: Out<'_>) {
        let index = self.index;
        match self.open {
            // Claude Code runs a tool with what the deltas say: one must say it (anthropic-messages §7).
            Open::Tool { begun: false } => self.delta("{}", out),
            Open::Thinking => {
                self.frame.clear();
                self.frame.push_str(&format!(
                    "{{\"type\":\"content_block_delta\",\"index\":{index},\
                     \"delta\":{{\"type\":\"signature_delta\","
                ));
                push_signature(&mut self.frame, signature, &self.names, index);
                self.frame.push_str("}}");
                out("content_block_delta", &self.frame);
            }
            _ => {}
        }
        out("content_block_stop", &format!("{{\"type\":\"content_block_stop\",\"index\":{index}}}"));
        self.open = Open::Nothing;
        self.index += 1;
    }
}

/// What a block of a whole message holds; nothing at the start of one in a stream.
#[derive(Default, Clone, Copy)]
pub(super) struct Filling<'a> {
    /// Its text.
    pub(super) text: &'a str,
    /// A JSON object.
    pub(super) input: Option<&'a str>,
    /// `"signature":"…"` if it is no empty one.
    pub(super) signature: Option<&'a str>,
}

/// Writes a content block.
pub(super) fn push_block(out: &mut String, block: &Block<'_>, tools: &ClientTools, filling: Filling<'_>) {
    match *block {
        Block::Text | Block::Refusal => {
            out.push_str("{\"type\":\"text\",");
            push_member(out, "text", filling.text);
        }
        Block::Thinking => {
            out.push_str("{\"type\":\"thinking\",");
            push_member(out, "thinking", filling.text);
            out.extend([",", filling.signature.unwrap_or("\"signature\":\"\"")]);
        }
        Block::RedactedThinking(data) => {
            out.push_str("{\"type\":\"redacted_thinking\",");
            push_member(out, "data", data);
        }
        Block::Tool { id, name, .. } => {
            out.push_str("{\"type\":\"tool_use\",");
            push_member(out, "id", id);
            out.push(',');
            push_member(out, "name", tools.0.get(name).map_or(name, |tool| &tool.name));
            out.extend([",\"input\":", filling.input.unwrap_or("{}")]);
        }
    }
    out.push('}');
}

/// Writes `"signature":"…"`: the provider's, or one of ours that is known when it comes back.
pub(super) fn push_signature(out: &mut String, signature: Option<&str>, names: &Names, index: usize) {
    match signature {
        Some(signature) => push_member(out, "signature", signature),
        None => push_member(out, "signature", &make_id(MARK, names.seed, index as u64 + 1)),
    }
}

/// A message; `content` is its blocks, parted by commas.
pub(super) fn message_json(
    names: &Names,
    content: &str,
    reason: Option<StopReason>,
    stop_sequence: Option<&str>,
    usage: Usage,
) -> String {
    let (id, model) = (make_id("msg_", names.seed, 0), &names.model_json);
    let mut json = format!(
        "{{{}\"id\":\"{id}\",\"type\":\"message\",\"role\":\"assistant\",\"model\":{model},\"content\":[{content}],\
         \"stop_reason\":",
        names.provider_member()
    );
    push_optional(&mut json, reason.map(stop_reason));
    json.push_str(",\"stop_sequence\":");
    push_optional(&mut json, stop_sequence);
    json.extend([",\"usage\":", &messages_json(usage), "}"]);
    json
}

fn push_optional(out: &mut String, text: Option<&str>) {
    match text {
        Some(text) => push_string(out, text),
        None => out.push_str("null"),
    }
}

/// `stop_reason` (translation §6).
fn stop_reason(reason: StopReason) -> &'static str {
    match reason {
        StopReason::End => "end_turn",
        StopReason::StopSequence => "stop_sequence",
        StopReason::MaxTokens => "max_tokens",
        StopReason::ToolUse => "tool_use",
        StopReason::Refusal => "refusal",
    }
}

/// An error, in a stream or as a body.
pub(super) fn error_json(failure: Failure, message: &str) -> String {
    let kind = match failure {
        Failure::Server => "api_error",
        Failure::Overloaded => "overloaded_error",
        Failure::RateLimit => "rate_limit_error",
        Failure::ContextTooLong | Failure::InvalidRequest => "invalid_request_error",
    };
    let mut json = format!("{{\"type\":\"error\",\"error\":{{\"type\":\"{kind}\",");
    push_member(&mut json, "message", message);
    json.push_str("}}");
    json
}
