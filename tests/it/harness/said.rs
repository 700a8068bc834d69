//! What a client of each API makes of an answer. Streams are read strictly, by the reference of their API: what a
//! lenient SDK would let pass fails here.

use serde_json::Value;

use super::{Event, Events, Response, expect, post};

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    Chat,
    Messages,
    Responses,
}

/// An answer, whole or put together from a stream.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Said {
    pub thinking: String,
    pub text: String,
    /// Id, name and arguments.
    pub calls: Vec<(String, String, Value)>,
    /// Why it ended, in the words of the API.
    pub stop: String,
    pub usage: Value,
    pub provider: Option<String>,
    /// What it broke off with.
    pub error: Option<Value>,
}

impl Surface {
    pub const ALL: [Self; 3] = [Self::Chat, Self::Messages, Self::Responses];

    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Messages => "/v1/messages",
            Self::Responses => "/v1/responses",
        }
    }

    /// The smallest useful request.
    pub fn hello(self, model: &str, stream: bool) -> String {
        let what = match self {
            Self::Chat => r#""messages":[{"role":"user","content":"hi"}]"#,
            Self::Messages => r#""max_tokens":100,"messages":[{"role":"user","content":"hi"}]"#,
            Self::Responses => r#""input":"hi""#,
        };
        format!(r#"{{"model":"{model}",{what},"stream":{stream}}}"#)
    }

    pub fn post(self, body: &str) -> Vec<u8> {
        post(self.path(), body)
    }

    /// How a normal end is called, without and with tool calls.
    fn normal(self, calls: bool) -> &'static str {
        match (self, calls) {
            (Self::Chat, false) => "stop",
            (Self::Chat, true) => "tool_calls",
            (Self::Messages, false) => "end_turn",
            (Self::Messages, true) => "tool_use",
            (Self::Responses, _) => "completed",
        }
    }

    /// Reads an answer with status 200.
    pub fn said(self, response: &Response, stream: bool) -> Result<Said, String> {
        if stream {
            return self.said_in(&response.try_events()?);
        }
        let json: Value = serde_json::from_slice(&response.body).unwrap_or(Value::Null);
        expect(response.status() == 200 && json.is_object(), || {
            format!("expected an answer, got {} {:?}", response.status(), response.text())
        })?;
        match self {
            Self::Chat => chat_whole(&json),
            Self::Messages => message_whole(&json),
            Self::Responses => response_whole(&json),
        }
    }

    /// Reads a stream. One that ends without its proper last event is an error.
    pub fn said_in(self, events: &Events) -> Result<Said, String> {
        let read = match self {
            Self::Chat => chat_stream(events),
            Self::Messages => MessageReader::default().read(events),
            Self::Responses => ResponseReader::default().read(events),
        };
        let said = read.map_err(|why| format!("{why} in {:#?}", events.0))?;
        // Only an answer that was cut may have half a call.
        let whole = said.calls.iter().all(|(.., arguments)| arguments.is_object());
        let normal = said.error.is_none() && said.stop == self.normal(!said.calls.is_empty());
        expect(whole || !normal, || format!("arguments that are no object: {said:?}"))?;
        Ok(said)
    }

    /// A complete answer with this text alone.
    pub fn check_said(self, response: &Response, stream: bool, text: &str) -> Result<(), String> {
        let said = self.said(response, stream)?;
        self.check_complete(&said, text)
    }

    pub fn check_complete(self, said: &Said, text: &str) -> Result<(), String> {
        let normal = said.error.is_none() && said.stop == self.normal(!said.calls.is_empty());
        expect(normal && said.text == text, || format!("expected a complete {text:?}, got {said:?}"))
    }

    /// An answer that broke off, and says so.
    pub fn check_broken(self, said: &Said) -> Result<(), String> {
        let message = said.error.as_ref().and_then(|e| e["message"].as_str()).unwrap_or_default();
        let honest = !message.is_empty() && said.stop != self.normal(!said.calls.is_empty());
        expect(honest, || format!("expected an honest error, got {said:?}"))
    }

    /// An error answer with this status, `error.type` and a part of the message, in the envelope of the API.
    pub fn check_error(self, response: &Response, status: u16, kind: &str, part: &str) -> Result<(), String> {
        let json: Value = serde_json::from_slice(&response.body).unwrap_or(Value::Null);
        let error = &json["error"];
        let enveloped = match self {
            Self::Messages => json["type"] == "error",
            _ => json.get("type").is_none() && error.get("param").is_some() && error.get("code").is_some(),
        };
        let message = error["message"].as_str().unwrap_or_default();
        let good = response.status() == status && error["type"] == kind && message.contains(part);
        let json_type = response.header("content-type") == Some("application/json");
        expect(enveloped && good && json_type && !message.is_empty(), || {
            format!("expected {status} {kind} {part:?}, got {} {}", response.status(), response.text())
        })
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What is cut is left as text.
fn parsed(arguments: &str) -> Value {
    serde_json::from_str(arguments).unwrap_or_else(|_| arguments.into())
}

fn chat_whole(json: &Value) -> Result<Said, String> {
    let message = &json["choices"][0]["message"];
    let mut said = Said {
        thinking: text_of(&message["reasoning_content"]),
        text: text_of(&message["content"]),
        stop: text_of(&json["choices"][0]["finish_reason"]),
        usage: json["usage"].clone(),
        provider: json["provider_name"].as_str().map(str::to_owned),
        ..Said::default()
    };
    expect(json["object"] == "chat.completion" && message["role"] == "assistant", || json.to_string())?;
    for call in message["tool_calls"].as_array().into_iter().flatten() {
        let function = &call["function"];
        let arguments = parsed(function["arguments"].as_str().unwrap_or_default());
        said.calls.push((text_of(&call["id"]), text_of(&function["name"]), arguments));
    }
    Ok(said)
}

fn message_whole(json: &Value) -> Result<Said, String> {
    let good = json["type"] == "message" && json["role"] == "assistant" && json["usage"].is_object();
    expect(good && json["id"].is_string(), || format!("no message: {json}"))?;
    let mut said = Said {
        stop: text_of(&json["stop_reason"]),
        usage: json["usage"].clone(),
        provider: json["provider_name"].as_str().map(str::to_owned),
        ..Said::default()
    };
    for block in json["content"].as_array().ok_or("no content")? {
        match block["type"].as_str() {
            Some("text") => said.text.push_str(&text_of(&block["text"])),
            Some("thinking") => said.thinking.push_str(&text_of(&block["thinking"])),
            Some("tool_use") => {
                said.calls.push((text_of(&block["id"]), text_of(&block["name"]), block["input"].clone()));
            }
            _ => return Err(format!("a block nobody said: {block}")),
        }
    }
    Ok(said)
}

fn response_whole(json: &Value) -> Result<Said, String> {
    let id = json["id"].as_str().is_some_and(|id| id.starts_with("resp_"));
    expect(id && json["object"] == "response", || format!("no response: {json}"))?;
    let mut said = Said {
        stop: text_of(&json["status"]),
        usage: json["usage"].clone(),
        provider: json["provider_name"].as_str().map(str::to_owned),
        ..Said::default()
    };
    said.error = Some(json["error"].clone()).filter(|error| !error.is_null());
    for item in json["output"].as_array().ok_or("no output")? {
        expect(item["id"].is_string(), || format!("an item without id: {item}"))?;
        match item["type"].as_str() {
            Some("message") => {
                for part in item["content"].as_array().ok_or("a message without content")? {
                    said.text.push_str(&text_of(&part["text"]));
                    said.text.push_str(&text_of(&part["refusal"]));
                }
            }
            Some("reasoning") => {
                let parts = item["summary"].as_array().into_iter().chain(item["content"].as_array());
                parts.flatten().for_each(|part| said.thinking.push_str(&text_of(&part["text"])));
            }
            Some("function_call") => {
                let arguments = parsed(item["arguments"].as_str().unwrap_or_default());
                said.calls.push((text_of(&item["call_id"]), text_of(&item["name"]), arguments));
            }
            _ => return Err(format!("an item nobody said: {item}")),
        }
    }
    Ok(said)
}

fn chat_stream(events: &Events) -> Result<Said, String> {
    let (mut said, mut calls) = (Said::default(), Vec::<(String, String, String)>::new());
    let mut data = events.data();
    let done = data.last().is_some_and(|last| last == "[DONE]");
    if done {
        data.pop();
    }
    let mut id = None;
    for data in &data {
        let json: Value = serde_json::from_str(data).map_err(|e| format!("{data:?} is no JSON ({e})"))?;
        expect(said.error.is_none(), || "an event behind an error".into())?;
        if json["error"].is_object() {
            said.error = Some(json["error"].clone());
            continue;
        }
        expect(json["object"] == "chat.completion.chunk", || format!("no chunk: {json}"))?;
        let first = id.get_or_insert_with(|| json["id"].clone());
        expect(json["id"] == *first, || "the id changes".into())?;
        if let Some(provider) = json["provider_name"].as_str() {
            said.provider = Some(provider.to_owned());
        }
        if json["usage"].is_object() {
            said.usage = json["usage"].clone();
        }
        let (delta, finish) = (&json["choices"][0]["delta"], &json["choices"][0]["finish_reason"]);
        expect(said.stop.is_empty() || delta.as_object().is_none_or(|d| d.is_empty()), || {
            format!("content behind the finish: {json}")
        })?;
        said.text.push_str(&text_of(&delta["content"]));
        said.thinking.push_str(&text_of(&delta["reasoning_content"]));
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().and_then(|at| usize::try_from(at).ok()).ok_or("no index")?;
            if index == calls.len() {
                let (id, name) = (text_of(&call["id"]), text_of(&call["function"]["name"]));
                expect(!id.is_empty() && !name.is_empty(), || format!("a call begins with {call}"))?;
                calls.push((id, name, String::new()));
            }
            let known = calls.get_mut(index).ok_or("a call out of order")?;
            known.2.push_str(&text_of(&call["function"]["arguments"]));
        }
        if finish.is_string() {
            said.stop = text_of(finish);
        }
    }
    if said.error.is_none() {
        expect(done && !said.stop.is_empty(), || "a silent end".into())?;
        for (id, name, arguments) in calls {
            said.calls.push((id, name, parsed(&arguments)));
        }
    }
    Ok(said)
}

/// A stream of Anthropic's Messages (anthropic-messages §7).
#[derive(Default)]
struct MessageReader {
    said: Said,
    started: bool,
    /// The open block: its index, kind, and arguments so far.
    open: Option<(u64, String, String)>,
    blocks: u64,
    told_stop: bool,
    ended: bool,
}

/// The event's data, after checking that its name says the same.
fn named(event: &Event) -> Result<Option<(String, Value)>, String> {
    let Some(data) = event.data() else {
        return expect(event.0.starts_with(':'), || format!("neither event nor comment: {:?}", event.0))
            .map(|()| None);
    };
    let json: Value = serde_json::from_str(&data).map_err(|e| format!("{data:?} is no JSON ({e})"))?;
    let name = event.name().ok_or_else(|| format!("an event without name: {data}"))?;
    expect(json["type"] == *name, || format!("event {name} with {data}"))?;
    Ok(Some((name, json)))
}

impl MessageReader {
    fn read(mut self, events: &Events) -> Result<Said, String> {
        for event in &events.0 {
            let Some((name, json)) = named(event)? else { continue };
            expect(!self.ended, || format!("{name} behind the end"))?;
            self.event(&name, &json).map_err(|why| format!("{why}: {json}"))?;
        }
        expect(self.ended, || "a silent end".into())?;
        Ok(self.said)
    }

    fn event(&mut self, name: &str, json: &Value) -> Result<(), String> {
        if name == "error" {
            self.said.error = Some(json["error"].clone());
            self.ended = true;
            let typed = json["error"]["type"].is_string() && json["error"]["message"].is_string();
            return expect(typed, || "an error without type or message".into());
        }
        if name == "ping" {
            return Ok(());
        }
        if name == "message_start" {
            expect(!std::mem::replace(&mut self.started, true), || "a second start".into())?;
            let message = &json["message"];
            let head = message_whole(message)?;
            self.said.usage = head.usage;
            self.said.provider = head.provider;
            let empty = message["content"].as_array().is_some_and(Vec::is_empty);
            return expect(empty && message["stop_reason"].is_null(), || "not a start".into());
        }
        expect(self.started, || "an event before the start".into())?;
        match name {
            "content_block_start" => self.block_starts(json),
            "content_block_delta" => self.block_goes_on(json),
            "content_block_stop" => self.block_ends(json),
            "message_delta" => {
                expect(self.open.is_none(), || "a block is open".into())?;
                self.told_stop = true;
                self.said.stop = text_of(&json["delta"]["stop_reason"]);
                for (key, value) in json["usage"].as_object().ok_or("no usage")? {
                    self.said.usage[key] = value.clone();
                }
                Ok(())
            }
            "message_stop" => {
                self.ended = true;
                expect(self.told_stop && !self.said.stop.is_empty(), || "no stop_reason before".into())
            }
            _ => Err("an unknown event".into()),
        }
    }

    fn block_starts(&mut self, json: &Value) -> Result<(), String> {
        let (index, block) = (json["index"].as_u64(), &json["content_block"]);
        expect(self.open.is_none() && !self.told_stop, || "a block begins at the wrong time".into())?;
        expect(index == Some(self.blocks), || format!("expected index {}", self.blocks))?;
        let empty = match block["type"].as_str() {
            Some("text") => block["text"] == "",
            Some("thinking") => block["thinking"] == "" && block["signature"] == "",
            // It comes whole.
            Some("redacted_thinking") => block["data"].is_string(),
            Some("tool_use") => {
                self.said.calls.push((text_of(&block["id"]), text_of(&block["name"]), Value::Null));
                block["input"] == serde_json::json!({})
                    && block["id"].is_string()
                    && block["name"].is_string()
            }
            _ => false,
        };
        self.open = Some((self.blocks, text_of(&block["type"]), String::new()));
        self.blocks += 1;
        expect(empty, || "not an empty block".into())
    }

    fn block_goes_on(&mut self, json: &Value) -> Result<(), String> {
        let (index, kind, arguments) = self.open.as_mut().ok_or("no block is open")?;
        expect(json["index"].as_u64() == Some(*index), || "the delta of another block".into())?;
        let delta = &json["delta"];
        match (kind.as_str(), delta["type"].as_str().unwrap_or_default()) {
            ("text", "text_delta") => self.said.text.push_str(&text_of(&delta["text"])),
            ("thinking", "thinking_delta") => self.said.thinking.push_str(&text_of(&delta["thinking"])),
            // Once and at the end.
            ("thinking", "signature_delta") => "signed".clone_into(kind),
            ("tool_use", "input_json_delta") => arguments.push_str(&text_of(&delta["partial_json"])),
            other => return Err(format!("{other:?}")),
        }
        Ok(())
    }

    fn block_ends(&mut self, json: &Value) -> Result<(), String> {
        let (index, kind, arguments) = self.open.take().ok_or("no block is open")?;
        expect(json["index"].as_u64() == Some(index), || "the end of another block".into())?;
        expect(kind != "thinking", || "thinking without a signature".into())?;
        if kind == "tool_use" {
            // Claude Code runs a tool with nothing if no delta came.
            self.said.calls.last_mut().ok_or("no call")?.2 = parsed(&arguments);
        }
        Ok(())
    }
}

/// A stream of OpenAI's Responses (openai-responses §5, §6).
#[derive(Default)]
struct ResponseReader {
    number: u64,
    id: Option<Value>,
    items: Vec<Item>,
    last: Option<Value>,
}

#[derive(Default)]
struct Item {
    /// As it was announced.
    added: Value,
    /// The text of its parts, or its arguments, from the deltas.
    deltas: String,
    part_open: bool,
    /// As it ended.
    done: Option<Value>,
}

impl ResponseReader {
    fn read(mut self, events: &Events) -> Result<Said, String> {
        for event in &events.0 {
            let Some((name, json)) = named(event)? else { continue };
            expect(json["sequence_number"].as_u64() == Some(self.number), || {
                format!("expected sequence_number {}: {json}", self.number)
            })?;
            expect(self.last.is_none(), || format!("{name} behind the end"))?;
            expect((self.number == 0) == (name == "response.created"), || {
                format!("{name} at {}", self.number)
            })?;
            self.number += 1;
            self.event(&name, &json).map_err(|why| format!("{why}: {json}"))?;
        }
        let last = self.last.ok_or("a silent end")?;
        let mut said = response_whole(&last)?;
        if said.stop == "failed" {
            // What had been said may be left out of the last event.
            let message = |item: &Item| item.added["type"] == "message";
            let text: String = self.items.iter().filter(|i| message(i)).map(|i| i.deltas.as_str()).collect();
            said.text = text;
            expect(said.error.is_some(), || "failed without an error".into())?;
            return Ok(said);
        }
        let done: Vec<&Value> = self.items.iter().filter_map(|item| item.done.as_ref()).collect();
        expect(done.len() == self.items.len(), || "an item that never ended".into())?;
        let output: Vec<&Value> = last["output"].as_array().into_iter().flatten().collect();
        expect(output == done, || format!("the output {output:?} is not what was said: {done:?}"))?;
        Ok(said)
    }

    fn event(&mut self, name: &str, json: &Value) -> Result<(), String> {
        let response = &json["response"];
        if response.is_object() {
            let id = self.id.get_or_insert_with(|| response["id"].clone());
            expect(response["id"] == *id && id.is_string(), || "the id changes".into())?;
        }
        match name {
            "response.created" | "response.in_progress" => {
                let empty = response["output"].as_array().is_some_and(Vec::is_empty);
                expect(empty && response["status"] == "in_progress" && self.items.is_empty(), || {
                    "not a beginning".into()
                })
            }
            "response.completed" | "response.incomplete" | "response.failed" => {
                self.last = Some(response.clone());
                let status = name.trim_start_matches("response.");
                expect(response["status"] == status, || "another status".into())
            }
            "response.output_item.added" => {
                let index = json["output_index"].as_u64();
                expect(index == Some(self.items.len() as u64), || "announced out of order".into())?;
                let added = json["item"].clone();
                let good = added["id"].is_string() && !added["type"].is_null();
                expect(good, || "an item without id or type".into())?;
                expect(added.get("arguments").is_none_or(|a| a == ""), || "arguments too early".into())?;
                self.items.push(Item { added, ..Item::default() });
                Ok(())
            }
            _ => self.item_event(name, json),
        }
    }

    fn item_event(&mut self, name: &str, json: &Value) -> Result<(), String> {
        let index = json["output_index"].as_u64().and_then(|at| usize::try_from(at).ok());
        let item = index.and_then(|at| self.items.get_mut(at)).ok_or("an item nobody announced")?;
        expect(item.done.is_none(), || "behind the end of its item".into())?;
        let id = if name == "response.output_item.done" { &json["item"]["id"] } else { &json["item_id"] };
        expect(*id == item.added["id"], || "another item's id".into())?;
        let all_of = |key: &str, item: &Item| {
            expect(json[key] == *item.deltas, || format!("the deltas said {:?}", item.deltas))
        };
        match name {
            "response.content_part.added" | "response.reasoning_summary_part.added" => {
                expect(!std::mem::replace(&mut item.part_open, true), || "a part is open".into())
            }
            "response.output_text.delta"
            | "response.refusal.delta"
            | "response.reasoning_text.delta"
            | "response.reasoning_summary_text.delta" => {
                item.deltas.push_str(&text_of(&json["delta"]));
                expect(item.part_open, || "no part is open".into())
            }
            "response.output_text.annotation.added" => {
                let known = json["annotation"]["type"] == "url_citation" && json["annotation_index"].is_u64();
                expect(item.part_open && known, || "an annotation of nothing".into())
            }
            "response.function_call_arguments.delta" => {
                item.deltas.push_str(&text_of(&json["delta"]));
                expect(item.added["type"] == "function_call", || "no function call".into())
            }
            "response.output_text.done"
            | "response.reasoning_text.done"
            | "response.reasoning_summary_text.done" => all_of("text", item),
            "response.refusal.done" => all_of("refusal", item),
            "response.function_call_arguments.done" => all_of("arguments", item),
            "response.content_part.done" | "response.reasoning_summary_part.done" => {
                let part = &json["part"];
                let text = if part["type"] == "refusal" { &part["refusal"] } else { &part["text"] };
                expect(*text == *item.deltas, || "the part lacks text".into())?;
                expect(std::mem::replace(&mut item.part_open, false), || "no part is open".into())
            }
            "response.output_item.done" => {
                let done = &json["item"];
                let same = |key: &str| done[key] == item.added[key];
                expect(same("type") && same("call_id") && same("name"), || "became another item".into())?;
                expect(!item.part_open, || "a part is open".into())?;
                if done["type"] == "function_call" {
                    expect(done["arguments"] == *item.deltas, || "the arguments differ".into())?;
                }
                item.done = Some(done.clone());
                Ok(())
            }
            _ => Err("an unknown event".into()),
        }
    }
}
