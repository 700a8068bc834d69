//! Events as the stream of a response (openai-responses §4 to §6).

use super::built_in;
use super::json::{custom_input, push_listed, push_member, push_page, push_string};
use super::usage::responses_json;
use super::{Names, Out, make_id};
use crate::dialect::model::{Block, Citation, ClientTools, Event, Failure, StopReason, ToolKind, Usage};
use crate::dialect::model::{MARK_REDACTED, MARK_SIGNATURE};
use crate::limits::STREAM_OUTPUT_BYTES_MAX;
use std::fmt::Write;

/// Fields of the request that its response repeats, as JSON members.
#[derive(Debug, Clone)]
pub struct Echo(String);

/// What a response repeats, and what stands there if the request has no such field.
const ECHOED: [(&str, Option<&str>); 18] = [
    ("instructions", Some("null")),
    ("max_output_tokens", Some("null")),
    ("max_tool_calls", None),
    ("metadata", Some("{}")),
    ("parallel_tool_calls", Some("true")),
    ("previous_response_id", Some("null")),
    ("prompt_cache_key", None),
    ("reasoning", Some("{\"effort\":null,\"summary\":null}")),
    ("safety_identifier", None),
    ("service_tier", None),
    // Kept unless the client says no, as at OpenAI.
    ("store", Some("true")),
    ("temperature", Some("1.0")),
    ("text", Some("{\"format\":{\"type\":\"text\"}}")),
    ("tool_choice", Some("\"auto\"")),
    ("tools", Some("[]")),
    ("top_p", Some("1.0")),
    ("truncation", Some("\"disabled\"")),
    ("user", Some("null")),
];

impl Echo {
    /// `field` gives the JSON text of a field of the request, if it is there and what its type demands; nulls count
    /// as missing.
    pub fn new<'a>(mut field: impl FnMut(&str) -> Option<&'a str>) -> Self {
        let mut members = String::new();
        for (key, default) in ECHOED {
            if let Some(value) = field(key).filter(|value| *value != "null").or(default) {
                members.extend([",\"", key, "\":", value]);
            }
        }
        Self(members)
    }
}

impl Default for Echo {
    fn default() -> Self {
        Self::new(|_| None)
    }
}

/// The id of the response that is made of this seed, for those who keep it.
pub fn response_id(seed: u64) -> String {
    make_id("resp_", seed, 0)
}

/// Writes one answer for one client. Feed it every event in order.
///
/// An item is announced when its block opens and finished when the next one opens or the answer ends: only then is
/// known whether it was cut off.
#[derive(Debug)]
pub struct ResponsesWriter {
    names: Names,
    echo: Echo,
    tools: ClientTools,
    id: String,
    /// Events sent.
    sequence: u64,
    /// Items finished, as JSON parted by commas.
    output: String,
    /// Number of the open item; the next one's if none is open.
    index: u64,
    item: Option<Item>,
    /// What the open item says so far: text, or arguments.
    said: String,
    /// What else its text has.
    extras: Extras,
    /// Log probabilities of the next piece of text.
    logprobs: String,
    /// Characters of the texts finished.
    chars: u64,
    output_max: usize,
    /// Only the response at the end is wanted, no event before it.
    whole: bool,
    frame: String,
    refused: bool,
    begun: bool,
    ended: bool,
}

/// What a text has beside its words, each as JSON parted by commas.
#[derive(Debug, Default)]
struct Extras {
    annotations: String,
    annotated: usize,
    logprobs: String,
}

#[derive(Debug)]
struct Item {
    kind: Kind,
    id: String,
    /// `"item_id":…,"output_index":…,…_index":0` of its events.
    place: String,
    /// Of a call: `"call_id":…,"name":…,` as JSON members.
    call: String,
    name_json: String,
    /// Of reasoning: what only its maker can read, our mark before it.
    encrypted: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Refusal,
    Reasoning,
    Function,
    Custom,
    /// A tool that needs no definition. Its item is announced when it is complete.
    BuiltIn(ToolKind),
}

/// How an item or answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    InProgress,
    Completed,
    Incomplete,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
        }
    }
}

impl ResponsesWriter {
    /// `tools`: what the client calls them, and which are custom or in a namespace.
    pub fn new(names: &Names, tools: ClientTools, echo: Echo) -> Self {
        Self {
            id: response_id(names.seed),
            names: names.clone(),
            echo,
            tools,
            sequence: 0,
            output: String::new(),
            index: 0,
            item: None,
            said: String::new(),
            extras: Extras::default(),
            logprobs: String::new(),
            chars: 0,
            output_max: STREAM_OUTPUT_BYTES_MAX,
            whole: false,
            frame: String::new(),
            refused: false,
            begun: false,
            ended: false,
        }
    }

    /// The same for an answer that is in memory anyway: without a limit of its own, and what it hands out is one
    /// response, at the end.
    pub(super) fn whole(self) -> Self {
        Self { output_max: usize::MAX, whole: true, ..self }
    }

    /// The id of the response, for those who keep it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The items finished so far, as JSON parted by commas, for those who keep the response.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// Writes what the event means for the client.
    pub fn event(&mut self, event: Event<'_>, out: Out<'_>) {
        if self.ended {
            return;
        }
        match event {
            Event::Start { .. } => self.start(out),
            Event::Open(block) => self.open(&block, out),
            Event::Delta(piece) => self.delta(piece, out),
            Event::Cited(citation) => self.cite(&citation, out),
            Event::Logprobs(list) if self.logprobs.len() + list.len() <= self.output_max => {
                push_listed(&mut self.logprobs, list);
            }
            Event::Logprobs(_) => {}
            Event::Close { signature } => {
                if let (Some(signature), Some(item)) = (signature, &mut self.item) {
                    item.encrypted = Some(format!("{MARK_SIGNATURE}{signature}"));
                }
            }
            Event::Finish { reason, usage, .. } => self.finish(reason, usage, out),
            Event::Failed { failure, message } => self.fail(failure, message, out),
        }
    }

    fn start(&mut self, out: Out<'_>) {
        if self.begun {
            return;
        }
        self.begun = true;
        if self.whole {
            return;
        }
        let response = self.response("in_progress", "null", "null", "null");
        self.send("response.created", &format!("\"response\":{response}"), out);
        self.send("response.in_progress", &format!("\"response\":{response}"), out);
    }

    fn open(&mut self, block: &Block<'_>, out: Out<'_>) {
        self.settle(Status::Completed, out);
        self.extras = Extras::default();
        let item = self.item_of(block);
        self.refused |= item.kind == Kind::Refusal;
        if !self.whole {
            self.announce(&item, out);
        }
        self.item = Some(item);
    }

    /// Says that the item begins.
    fn announce(&mut self, item: &Item, out: Out<'_>) {
        if matches!(item.kind, Kind::BuiltIn(_)) {
            return;
        }
        self.added(&item.json(Status::InProgress, None), out);
        match item.kind {
            Kind::Text | Kind::Refusal => {
                let body = format!("{},\"part\":{}", item.place, part(item.kind, "", &self.extras));
                self.send("response.content_part.added", &body, out);
            }
            Kind::Reasoning | Kind::Function | Kind::Custom | Kind::BuiltIn(_) => {}
        }
    }

    fn added(&mut self, item: &str, out: Out<'_>) {
        let body = format!("\"output_index\":{},\"item\":{item}", self.index);
        self.send("response.output_item.added", &body, out);
    }

    fn item_of(&self, block: &Block<'_>) -> Item {
        let (index, n) = (self.index, self.index + 1);
        let (mut call, mut name_json, mut encrypted) = (String::new(), String::new(), None);
        let (kind, prefix, part) = match *block {
            Block::Text => (Kind::Text, "msg_", ",\"content_index\":0"),
            Block::Refusal => (Kind::Refusal, "msg_", ",\"content_index\":0"),
            Block::Thinking => (Kind::Reasoning, "rs_", ",\"summary_index\":0"),
            Block::RedactedThinking(data) => {
                encrypted = Some(format!("{MARK_REDACTED}{data}"));
                (Kind::Reasoning, "rs_", ",\"summary_index\":0")
            }
            Block::Tool { id, name, .. } => {
                let tool = self.tools.0.get(name);
                push_string(&mut name_json, tool.map_or(name, |tool| &tool.name));
                push_member(&mut call, "call_id", id);
                // A tool without a definition has no name either.
                if tool.is_none_or(|tool| matches!(tool.kind, ToolKind::Function | ToolKind::Custom)) {
                    call.extend([",\"name\":", &name_json]);
                }
                if let Some(namespace) = tool.and_then(|tool| tool.namespace.as_deref()) {
                    call.push(',');
                    push_member(&mut call, "namespace", namespace);
                }
                match tool.map(|tool| tool.kind).unwrap_or_default() {
                    ToolKind::Function => (Kind::Function, "fc_", ""),
                    ToolKind::Custom => (Kind::Custom, "ctc_", ""),
                    kind @ ToolKind::LocalShell => (Kind::BuiltIn(kind), "lsh_", ""),
                    kind @ ToolKind::Shell => (Kind::BuiltIn(kind), "sh_", ""),
                    kind @ ToolKind::ApplyPatch => (Kind::BuiltIn(kind), "apc_", ""),
                }
            }
        };
        let id = make_id(prefix, self.names.seed, n);
        let place = format!("\"item_id\":\"{id}\",\"output_index\":{index}{part}");
        Item { kind, id, place, call, name_json, encrypted }
    }

    fn delta(&mut self, piece: &str, out: Out<'_>) {
        let held = self.said.len() + self.extras.size() + self.logprobs.len();
        if self.output.len() + held + piece.len() > self.output_max {
            self.fail(Failure::Server, "The answer is longer than this proxy holds.", out);
            return;
        }
        let Some(item) = &self.item else { return };
        let first = self.said.is_empty();
        self.said.push_str(piece);
        if self.whole {
            if item.kind == Kind::Text && !self.logprobs.is_empty() {
                push_listed(&mut self.extras.logprobs, &std::mem::take(&mut self.logprobs));
            }
            return;
        }
        let (name, tail) = match item.kind {
            Kind::Text if !self.logprobs.is_empty() => return self.probable(piece, out),
            Kind::Text => ("response.output_text.delta", ",\"logprobs\":[]"),
            Kind::Refusal => ("response.refusal.delta", ""),
            Kind::Reasoning => ("response.reasoning_summary_text.delta", ""),
            Kind::Function => ("response.function_call_arguments.delta", ""),
            // Wrapped in JSON: unwrapped when it is complete.
            Kind::Custom | Kind::BuiltIn(_) => return,
        };
        if first && item.kind == Kind::Reasoning {
            let body = format!("{},\"part\":{}", item.place, part(Kind::Reasoning, "", &self.extras));
            self.send("response.reasoning_summary_part.added", &body, out);
        }
        self.send_delta(name, piece, tail, out);
    }

    /// A piece of text with its log probabilities.
    fn probable(&mut self, piece: &str, out: Out<'_>) {
        let list = std::mem::take(&mut self.logprobs);
        self.send_delta("response.output_text.delta", piece, &format!(",\"logprobs\":[{list}]"), out);
        push_listed(&mut self.extras.logprobs, &list);
    }

    /// Says where text of the open item comes from; what comes behind its item has no place any more.
    fn cite(&mut self, citation: &Citation<'_>, out: Out<'_>) {
        let Some(item) = self.item.as_ref().filter(|item| item.kind == Kind::Text) else { return };
        let size = citation.url.len() + citation.title.len();
        if self.output.len() + self.said.len() + self.extras.size() + size > self.output_max {
            return;
        }
        // Chat counts over all text, a part over its own.
        let own = |at: u64| at.saturating_sub(self.chars);
        let mut json = String::from("{\"type\":\"url_citation\",");
        push_page(&mut json, citation, own(citation.start), own(citation.end));
        json.push('}');
        if !self.whole {
            let index = self.extras.annotated;
            let body = format!("{},\"annotation_index\":{index},\"annotation\":{json}", item.place);
            self.send("response.output_text.annotation.added", &body, out);
        }
        self.extras.annotated += 1;
        push_listed(&mut self.extras.annotations, &json);
    }

    /// A delta of the open item, without a copy in between.
    fn send_delta(&mut self, name: &str, piece: &str, tail: &str, out: Out<'_>) {
        let Some(item) = self.item.as_ref().filter(|_| !self.whole) else { return };
        self.frame.clear();
        // Writing into a `String` cannot fail.
        let _ =
            write!(self.frame, "{{\"type\":\"{name}\",\"sequence_number\":{},{},", self.sequence, item.place);
        push_member(&mut self.frame, "delta", piece);
        self.frame.extend([tail, "}"]);
        self.sequence += 1;
        out(name, &self.frame);
    }

    /// Finishes the open item.
    fn settle(&mut self, status: Status, out: Out<'_>) {
        let Some(kind) = self.item.as_ref().map(|item| item.kind) else { return };
        match kind {
            Kind::Function if self.said.is_empty() => {
                self.said.push_str("{}");
                self.send_delta("response.function_call_arguments.delta", "{}", "", out);
            }
            Kind::Custom => {
                let input = custom_input(&self.said).into_owned();
                self.send_delta("response.custom_tool_call_input.delta", &input, "", out);
                self.said = input;
            }
            _ => {}
        }
        let said = std::mem::take(&mut self.said);
        let Some(item) = self.item.take() else { return };
        let extras = std::mem::take(&mut self.extras);
        if kind == Kind::Text {
            self.chars = self.chars.saturating_add(said.chars().count() as u64);
        }
        let json = item.json(status, Some((&said, &extras)));
        if !self.whole {
            self.close(&item, (&said, &extras), &json, out);
        }
        if !self.output.is_empty() {
            self.output.push(',');
        }
        self.output.push_str(&json);
        self.index += 1;
    }

    /// Says that the item is complete.
    fn close(&mut self, item: &Item, said: (&str, &Extras), json: &str, out: Out<'_>) {
        let (kind, place, (text_said, extras)) = (item.kind, &item.place, said);
        let mut text = String::new();
        push_string(&mut text, text_said);
        let part_done = format!("{place},\"part\":{}", part(kind, text_said, extras));
        match kind {
            Kind::Text => {
                let body = format!("{place},\"text\":{text},\"logprobs\":[{}]", extras.logprobs);
                self.send("response.output_text.done", &body, out);
                self.send("response.content_part.done", &part_done, out);
            }
            Kind::Refusal => {
                self.send("response.refusal.done", &format!("{place},\"refusal\":{text}"), out);
                self.send("response.content_part.done", &part_done, out);
            }
            Kind::Reasoning if text_said.is_empty() => {}
            Kind::Reasoning => {
                self.send("response.reasoning_summary_text.done", &format!("{place},\"text\":{text}"), out);
                self.send("response.reasoning_summary_part.done", &part_done, out);
            }
            Kind::Function => {
                let body = format!("{place},\"name\":{},\"arguments\":{text}", item.name_json);
                self.send("response.function_call_arguments.done", &body, out);
            }
            Kind::Custom => {
                self.send("response.custom_tool_call_input.done", &format!("{place},\"input\":{text}"), out);
            }
            Kind::BuiltIn(_) => self.added(&item.json(Status::InProgress, Some(said)), out),
        }
        self.send(
            "response.output_item.done",
            &format!("\"output_index\":{},\"item\":{json}", self.index),
            out,
        );
    }

    fn finish(&mut self, reason: StopReason, usage: Usage, out: Out<'_>) {
        self.start(out);
        let why = match reason {
            StopReason::MaxTokens => Some("{\"reason\":\"max_output_tokens\"}"),
            // A refusal in the model's own words is a complete answer.
            StopReason::Refusal if !self.refused => Some("{\"reason\":\"content_filter\"}"),
            _ => None,
        };
        let status = if why.is_some() { Status::Incomplete } else { Status::Completed };
        self.settle(status, out);
        let response = self.response(status.word(), "null", why.unwrap_or("null"), &responses_json(usage));
        let name = if why.is_some() { "response.incomplete" } else { "response.completed" };
        self.end(name, &response, out);
    }

    /// What is half stays unfinished: a client would run a call that is announced as done.
    fn fail(&mut self, failure: Failure, message: &str, out: Out<'_>) {
        self.start(out);
        let code = match failure {
            Failure::Server | Failure::Overloaded => "server_error",
            Failure::RateLimit => "rate_limit_exceeded",
            Failure::ContextTooLong => "context_length_exceeded",
            Failure::InvalidRequest => "invalid_prompt",
        };
        let mut error = format!("{{\"code\":\"{code}\",");
        push_member(&mut error, "message", message);
        error.push('}');
        let response = self.response("failed", &error, "null", "null");
        self.end("response.failed", &response, out);
    }

    fn end(&mut self, name: &str, response: &str, out: Out<'_>) {
        match self.whole {
            true => out(name, response),
            false => self.send(name, &format!("\"response\":{response}"), out),
        }
        self.ended = true;
    }

    fn send(&mut self, name: &str, body: &str, out: Out<'_>) {
        self.frame.clear();
        // Writing into a `String` cannot fail.
        let _ = write!(self.frame, "{{\"type\":\"{name}\",\"sequence_number\":{},{body}}}", self.sequence);
        self.sequence += 1;
        out(name, &self.frame);
    }

    fn response(&self, status: &str, error: &str, incomplete: &str, usage: &str) -> String {
        let (id, created, model) = (&self.id, self.names.created, &self.names.model_json);
        let (provider, output, echo) = (self.names.provider_member(), &self.output, &self.echo.0);
        format!(
            "{{{provider}\"id\":\"{id}\",\"object\":\"response\",\"created_at\":{created},\"status\":\"{status}\",\
             \"background\":false,\"error\":{error},\"incomplete_details\":{incomplete},\"model\":{model},\
             \"output\":[{output}]{echo},\"usage\":{usage}}}"
        )
    }
}

impl Extras {
    fn size(&self) -> usize {
        self.annotations.len() + self.logprobs.len()
    }
}

impl Item {
    /// The item as JSON; without `said` it has only begun.
    fn json(&self, status: Status, said: Option<(&str, &Extras)>) -> String {
        let (id, status) = (&self.id, status.word());
        let text = said.map(|(text, _)| text).unwrap_or_default();
        match self.kind {
            Kind::Text | Kind::Refusal => {
                let content = said.map(|(text, extras)| part(self.kind, text, extras)).unwrap_or_default();
                format!(
                    "{{\"type\":\"message\",\"id\":\"{id}\",\"status\":\"{status}\",\"role\":\"assistant\",\
                     \"content\":[{content}]}}"
                )
            }
            Kind::Reasoning => {
                let summary = match said {
                    Some((text, extras)) if !text.is_empty() => part(self.kind, text, extras),
                    _ => String::new(),
                };
                let mut json = format!("{{\"type\":\"reasoning\",\"id\":\"{id}\",\"summary\":[{summary}]");
                if let Some(encrypted) = &self.encrypted {
                    json.push(',');
                    push_member(&mut json, "encrypted_content", encrypted);
                }
                json.push('}');
                json
            }
            Kind::Function => {
                let mut json = format!("{{\"type\":\"function_call\",\"id\":\"{id}\",{},", self.call);
                push_member(&mut json, "arguments", text);
                json.extend([",\"status\":\"", status, "\"}"]);
                json
            }
            Kind::BuiltIn(kind) => {
                let name = match kind {
                    ToolKind::LocalShell => "local_shell_call",
                    ToolKind::Shell => "shell_call",
                    _ => "apply_patch_call",
                };
                // An operation has no word for what was cut off.
                let status = match (kind, status) {
                    (ToolKind::ApplyPatch, "incomplete") => "in_progress",
                    (_, status) => status,
                };
                let (call, action) = (&self.call, built_in::member(kind, text));
                format!("{{\"type\":\"{name}\",\"id\":\"{id}\",{call},{action},\"status\":\"{status}\"}}")
            }
            Kind::Custom => {
                let mut json = format!("{{\"type\":\"custom_tool_call\",\"id\":\"{id}\",{},", self.call);
                push_member(&mut json, "input", text);
                // Not in the description, but OpenAI sends it, and the AI SDK refuses an item without.
                json.extend([",\"status\":\"", status, "\"}"]);
                json
            }
        }
    }
}

/// A part of an item's content or summary.
fn part(kind: Kind, text: &str, extras: &Extras) -> String {
    let mut json = String::new();
    match kind {
        Kind::Refusal => {
            json.push_str("{\"type\":\"refusal\",");
            push_member(&mut json, "refusal", text);
        }
        Kind::Reasoning => {
            json.push_str("{\"type\":\"summary_text\",");
            push_member(&mut json, "text", text);
        }
        _ => {
            json.push_str("{\"type\":\"output_text\",");
            push_member(&mut json, "text", text);
            json.extend([
                ",\"annotations\":[",
                &extras.annotations,
                "],\"logprobs\":[",
                &extras.logprobs,
                "]",
            ]);
        }
    }
    json.push('}');
    json
}
