//! A whole answer out of its events, for clients that did not ask for a stream.

use super::chat_write::{REFUSAL, error_json, finish_reason, logprobs_json, push_call, push_citation};
use super::json::{custom_input, object, push_listed, push_member, push_string};
use super::messages_write::{self, Filling, message_json, push_block, push_signature};
use super::responses_write::{Echo, ResponsesWriter};
use super::usage::chat_json;
use super::{Names, make_id};
use crate::dialect::model::{Block, Citation, ClientTool, ClientTools, Event, Failure, StopReason, Usage};
use std::borrow::Cow;

/// Collects the events of one answer, to be rendered in the client's protocol.
#[derive(Debug, Default)]
pub struct Fold {
    blocks: Vec<Folded>,
    /// Log probabilities whose text has not come.
    logprobs: String,
    end: End,
}

#[derive(Debug)]
struct Folded {
    kind: Kind,
    said: String,
    signature: Option<String>,
    logprobs: String,
    cited: Vec<Cited>,
}

/// [`Citation`], owned.
#[derive(Debug)]
struct Cited {
    url: String,
    title: String,
    start: u64,
    end: u64,
}

impl Cited {
    fn citation(&self) -> Citation<'_> {
        Citation { url: &self.url, title: &self.title, start: self.start, end: self.end }
    }
}

/// [`Block`], owned.
#[derive(Debug)]
enum Kind {
    Text,
    Thinking,
    Redacted(String),
    Tool { id: String, name: String, signature: Option<String> },
    Refusal,
}

#[derive(Debug)]
enum End {
    Finish { reason: StopReason, stop_sequence: Option<String>, usage: Usage },
    Failed { failure: Failure, message: String },
}

impl Default for End {
    /// Until another one comes.
    fn default() -> Self {
        Self::Failed { failure: Failure::Server, message: "The answer broke off.".into() }
    }
}

impl Folded {
    fn block(&self) -> Block<'_> {
        match &self.kind {
            Kind::Text => Block::Text,
            Kind::Thinking => Block::Thinking,
            Kind::Redacted(data) => Block::RedactedThinking(data),
            Kind::Refusal => Block::Refusal,
            Kind::Tool { id, name, signature } => Block::Tool { id, name, signature: signature.as_deref() },
        }
    }
}

impl Fold {
    /// Takes the next event.
    pub fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start { .. } => {}
            Event::Open(block) => {
                let kind = match block {
                    Block::Text => Kind::Text,
                    Block::Thinking => Kind::Thinking,
                    Block::RedactedThinking(data) => Kind::Redacted(data.to_owned()),
                    Block::Refusal => Kind::Refusal,
                    Block::Tool { id, name, signature } => Kind::Tool {
                        id: id.to_owned(),
                        name: name.to_owned(),
                        signature: signature.map(str::to_owned),
                    },
                };
                let (said, logprobs) = (String::new(), String::new());
                self.blocks.push(Folded { kind, said, signature: None, logprobs, cited: Vec::new() });
            }
            Event::Delta(piece) => {
                if let Some(block) = self.blocks.last_mut() {
                    block.said.push_str(piece);
                    if matches!(block.kind, Kind::Text) && !self.logprobs.is_empty() {
                        push_listed(&mut block.logprobs, &std::mem::take(&mut self.logprobs));
                    }
                }
            }
            Event::Logprobs(list) => push_listed(&mut self.logprobs, list),
            Event::Cited(Citation { url, title, start, end }) => {
                if let Some(block) = self.blocks.last_mut() {
                    block.cited.push(Cited { url: url.into(), title: title.into(), start, end });
                }
            }
            Event::Close { signature } => {
                if let Some(block) = self.blocks.last_mut() {
                    block.signature = signature.map(str::to_owned);
                }
            }
            Event::Finish { reason, stop_sequence, usage } => {
                let stop_sequence = stop_sequence.map(str::to_owned);
                self.end = End::Finish { reason, stop_sequence, usage };
            }
            Event::Failed { failure, message } => {
                self.end = End::Failed { failure, message: message.to_owned() };
            }
        }
    }

    /// The answer as a chat completion, or an error if it failed.
    pub fn into_chat(self, names: &Names, tools: &ClientTools) -> String {
        let (reason, usage) = match &self.end {
            End::Finish { reason, usage, .. } => (*reason, *usage),
            End::Failed { failure, message } => return error_json(*failure, message),
        };
        let [mut content, mut reasoning, mut refusal, mut calls] = [const { String::new() }; 4];
        let [mut annotations, mut logprobs] = [const { String::new() }; 2];
        for block in &self.blocks {
            if !block.logprobs.is_empty() {
                push_listed(&mut logprobs, &block.logprobs);
            }
            for cited in &block.cited {
                push_listed(&mut annotations, "");
                push_citation(&mut annotations, &cited.citation());
            }
            match &block.kind {
                Kind::Text => content.push_str(&block.said),
                Kind::Thinking => reasoning.push_str(&block.said),
                Kind::Refusal => refusal.push_str(&block.said),
                Kind::Redacted(_) => {}
                Kind::Tool { id, name, signature } => {
                    let tool = tools.0.get(name);
                    let arguments = match &*block.said {
                        "" => Cow::Borrowed("{}"),
                        said if tool.is_some_and(ClientTool::is_custom) => custom_input(said),
                        said => Cow::Borrowed(said),
                    };
                    calls.push_str(if calls.is_empty() { "{" } else { ",{" });
                    push_call(&mut calls, id, name, tool, signature.as_deref(), &arguments);
                    calls.push('}');
                }
            }
        }
        if reason == StopReason::Refusal && refusal.is_empty() {
            refusal.push_str(REFUSAL);
        }
        let (id, created, model) = (make_id("chatcmpl-", names.seed, 0), names.created, &names.model_json);
        let mut json = format!(
            "{{{}\"id\":\"{id}\",\"object\":\"chat.completion\",\"created\":{created},\"model\":{model},\
             \"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":",
            names.provider_member()
        );
        // Callers take a string for granted where nothing else is there.
        match content.is_empty() && !(calls.is_empty() && refusal.is_empty()) {
            true => json.push_str("null"),
            false => push_string(&mut json, &content),
        }
        json.push_str(",\"refusal\":");
        match refusal.is_empty() {
            true => json.push_str("null"),
            false => push_string(&mut json, &refusal),
        }
        if !reasoning.is_empty() {
            json.push(',');
            push_member(&mut json, "reasoning_content", &reasoning);
        }
        if !calls.is_empty() {
            json.extend([",\"tool_calls\":[", &calls, "]"]);
        }
        if !annotations.is_empty() {
            json.extend([",\"annotations\":[", &annotations, "]"]);
        }
        json.extend(["},\"logprobs\":", &logprobs_json(&logprobs), ",\"finish_reason\":\""]);
        json.extend([finish_reason(reason), "\"}],\"usage\":"]);
        json.extend([&chat_json(usage), "}"]);
        json
    }

    /// The answer as an Anthropic message, or an error if it failed.
    pub fn into_messages(self, names: &Names, tools: &ClientTools) -> String {
        let (reason, stop_sequence, usage) = match &self.end {
            End::Finish { reason, stop_sequence, usage } => (*reason, stop_sequence.as_deref(), *usage),
            End::Failed { failure, message } => return messages_write::error_json(*failure, message),
        };
        let mut content = String::new();
        for (index, block) in self.blocks.iter().enumerate() {
            if !content.is_empty() {
                content.push(',');
            }
            let mut signature = String::new();
            push_signature(&mut signature, block.signature.as_deref(), names, index);
            // Readers see to it that arguments are an object, unless a limit cut them off; nobody runs that call.
            let input = object(&block.said).unwrap_or_else(|| {
                let mut raw = String::from("{");
                push_member(&mut raw, "_raw", &block.said);
                raw.push('}');
                Cow::Owned(raw)
            });
            let filling =
                Filling { text: &block.said, input: Some(&input), signature: Some(signature.as_str()) };
            push_block(&mut content, &block.block(), tools, filling);
        }
        message_json(names, &content, Some(reason), stop_sequence, usage)
    }

    /// The answer as a response; a failed one if it failed.
    pub fn into_responses(self, names: &Names, tools: ClientTools, echo: Echo) -> String {
        let mut writer = ResponsesWriter::new(names, tools, echo).whole();
        let mut last = String::new();
        let none = &mut |_: &str, _: &str| ();
        writer.event(Event::Start { id: "", model: "", usage: Usage::default() }, none);
        for block in &self.blocks {
            writer.event(Event::Open(block.block()), none);
            if !block.logprobs.is_empty() {
                writer.event(Event::Logprobs(&block.logprobs), none);
            }
            if !block.said.is_empty() {
                writer.event(Event::Delta(&block.said), none);
            }
            block.cited.iter().for_each(|cited| writer.event(Event::Cited(cited.citation()), none));
            writer.event(Event::Close { signature: block.signature.as_deref() }, none);
        }
        let end = match &self.end {
            End::Finish { reason, stop_sequence, usage } => {
                Event::Finish { reason: *reason, stop_sequence: stop_sequence.as_deref(), usage: *usage }
            }
            End::Failed { failure, message } => Event::Failed { failure: *failure, message },
        };
        writer.event(end, &mut |_, response| response.clone_into(&mut last));
        last
    }
}
