//! Scripted providers of both protocols that say the same.

use serde_json::{Value, json};

use super::{Backend, Reply, Request, Upstream, event, sse, status};

/// What a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    OpenAi,
    Anthropic,
}

/// What it says: any of these, in this order.
#[derive(Clone, Default)]
pub struct Answer {
    pub thinking: &'static str,
    pub text: String,
    /// Id, name and arguments of a tool call.
    pub call: Option<(&'static str, &'static str, &'static str)>,
}

/// What every answer here has cost: tokens in, of them from the cache, out.
pub const USAGE: (u64, u64, u64) = (30, 10, 7);

impl Answer {
    pub fn text(text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }
    }
}

impl Protocol {
    pub const ALL: [Self; 2] = [Self::OpenAi, Self::Anthropic];

    /// A backend of this protocol; `path` goes before the usual one.
    pub fn backend(self, upstream: &Upstream, path: &str) -> Backend {
        match self {
            Self::OpenAi => Backend::at(upstream.base_url().replace("/v1", &format!("{path}/v1"))),
            Self::Anthropic => {
                Backend::at(upstream.base_url().replace("/v1", path)).line("protocol: anthropic")
            }
        }
    }

    /// A healthy provider that says this to everybody.
    pub fn saying(self, answer: Answer) -> Upstream {
        Upstream::answering(move |r| self.reply(r, &answer))
    }

    /// The answer whole or as a stream, as asked.
    pub fn reply(self, request: &Request, answer: &Answer) -> Reply {
        if request.streams() { sse(&self.stream(answer)) } else { status(200).json(self.whole(answer)) }
    }

    pub fn whole(self, answer: &Answer) -> String {
        match self {
            Self::OpenAi => {
                let mut message = json!({"role": "assistant", "content": answer.text});
                if !answer.thinking.is_empty() {
                    message["reasoning_content"] = answer.thinking.into();
                }
                if let Some((id, name, arguments)) = answer.call {
                    let function = json!({"name": name, "arguments": arguments});
                    message["tool_calls"] = json!([{"id": id, "type": "function", "function": function}]);
                }
                let choice = json!({"index": 0, "message": message, "finish_reason": finish(answer)});
                let mut body =
                    json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1795400000});
                body["model"] = "real-model".into();
                body["choices"] = json!([choice]);
                body["usage"] = chat_usage();
                body.to_string()
            }
            Self::Anthropic => message(answer).to_string(),
        }
    }

    /// A complete stream, texts in two pieces.
    pub fn stream(self, answer: &Answer) -> String {
        match self {
            Self::OpenAi => chat_events(answer),
            Self::Anthropic => message_events(answer),
        }
    }

    /// An answer without a word.
    pub fn empty(self, stream: bool) -> Reply {
        let nothing = Answer::default();
        if stream { sse(&self.stream(&nothing)) } else { status(200).json(self.whole(&nothing)) }
    }

    /// An error answer.
    pub fn error(self, code: u16, kind: &str, message: &str) -> Reply {
        status(code).json(self.error_body(kind, message).to_string())
    }

    fn error_body(self, kind: &str, message: &str) -> Value {
        match self {
            Self::OpenAi => {
                json!({"error": {"message": message, "type": kind, "param": null, "code": null}})
            }
            Self::Anthropic => json!({"type": "error", "error": {"type": kind, "message": message}}),
        }
    }

    /// An error inside a stream that says nothing else but how it begins.
    pub fn error_event(self, kind: &str, message: &str) -> Reply {
        let body = self.error_body(kind, message);
        match self {
            Self::OpenAi => sse(&format!("data: {body}\n\n")),
            Self::Anthropic => {
                let all = message_events(&Answer::default());
                let start = all.split_inclusive("\n\n").next().unwrap_or_default();
                sse(&format!("{start}event: error\ndata: {body}\n\n"))
            }
        }
    }
}

fn finish(answer: &Answer) -> &'static str {
    if answer.call.is_some() { "tool_calls" } else { "stop" }
}

fn chat_usage() -> Value {
    let (input, cached, output) = USAGE;
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
        "prompt_tokens_details": {"cached_tokens": cached}})
}

fn halves(text: &str) -> [&str; 2] {
    let middle = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at);
    let (first, second) = text.split_at(middle);
    [first, second]
}

fn chat_events(answer: &Answer) -> String {
    let mut deltas = vec![json!({"role": "assistant", "content": ""})];
    let pieces = |text| halves(text).into_iter().filter(|piece| !piece.is_empty());
    deltas.extend(pieces(answer.thinking).map(|piece| json!({"reasoning_content": piece})));
    deltas.extend(pieces(&answer.text).map(|piece| json!({"content": piece})));
    if let Some((id, name, arguments)) = answer.call {
        let function = json!({"name": name, "arguments": ""});
        let start = json!({"index": 0, "id": id, "type": "function", "function": function});
        deltas.push(json!({"tool_calls": [start]}));
        for piece in halves(arguments) {
            deltas.push(json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}));
        }
    }
    let mut body = String::new();
    for delta in deltas {
        body.push_str(&format!("data: {}\n\n", event(&delta.to_string(), "null")));
    }
    body.push_str(&format!("data: {}\n\n", event("{}", &format!("{:?}", finish(answer)))));
    let mut usage = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795400000});
    usage["model"] = "real-model".into();
    usage["choices"] = json!([]);
    usage["usage"] = chat_usage();
    body.push_str(&format!("data: {usage}\n\ndata: [DONE]\n\n"));
    body
}

/// Anthropic counts what came from the cache beside the input.
fn message_usage(output: u64) -> Value {
    let (input, cached, _) = USAGE;
    json!({"input_tokens": input - cached, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached, "output_tokens": output})
}

fn message(answer: &Answer) -> Value {
    let mut content = Vec::new();
    if !answer.thinking.is_empty() {
        content.push(json!({"type": "thinking", "thinking": answer.thinking, "signature": "c2ln"}));
    }
    if !answer.text.is_empty() {
        content.push(json!({"type": "text", "text": answer.text}));
    }
    if let Some((id, name, arguments)) = answer.call {
        let input: Value = serde_json::from_str(arguments).unwrap();
        content.push(json!({"type": "tool_use", "id": id, "name": name, "input": input}));
    }
    let stop = if answer.call.is_some() { "tool_use" } else { "end_turn" };
    json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "real-claude", "content": content,
        "stop_reason": stop, "stop_sequence": null, "usage": message_usage(USAGE.2)})
}

fn message_events(answer: &Answer) -> String {
    let whole = message(answer);
    let mut start = whole.clone();
    start["content"] = json!([]);
    start["stop_reason"] = Value::Null;
    start["usage"] = message_usage(1);
    let mut events = vec![json!({"type": "message_start", "message": start}), json!({"type": "ping"})];
    for (index, block) in whole["content"].as_array().into_iter().flatten().enumerate() {
        let delta = |delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
        let (empty, deltas): (Value, Vec<Value>) = match block["type"].as_str() {
            Some("text") => (
                json!({"type": "text", "text": ""}),
                halves(&answer.text).map(|t| json!({"type": "text_delta", "text": t})).into(),
            ),
            Some("thinking") => {
                let thinking = json!({"type": "thinking_delta", "thinking": answer.thinking});
                let signature = json!({"type": "signature_delta", "signature": "c2ln"});
                (json!({"type": "thinking", "thinking": "", "signature": ""}), vec![thinking, signature])
            }
            _ => {
                let mut empty = block.clone();
                empty["input"] = json!({});
                let arguments = answer.call.map_or("", |(.., arguments)| arguments);
                let piece = |piece| json!({"type": "input_json_delta", "partial_json": piece});
                (empty, halves(arguments).map(piece).into())
            }
        };
        events.push(json!({"type": "content_block_start", "index": index, "content_block": empty}));
        events.extend(deltas.into_iter().map(delta));
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    let stop = json!({"stop_reason": whole["stop_reason"], "stop_sequence": null});
    events.push(json!({"type": "message_delta", "delta": stop, "usage": {"output_tokens": USAGE.2}}));
    events.push(json!({"type": "message_stop"}));
    events
        .iter()
        .map(|e| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().unwrap_or_default()))
        .collect()
}
