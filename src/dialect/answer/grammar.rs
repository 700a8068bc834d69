//! Judges for tests: the grammar of events that every reader owes, and what clients of each protocol insist on, written
//! from the protocols' descriptions and not from the writers.

use crate::dialect::model::{Block, Event, Failure, StopReason, Usage};
use serde_json::Value;
use std::collections::HashSet;

/// What an answer said, once its events have proved well-formed.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Said {
    pub(super) id: String,
    pub(super) model: String,
    pub(super) blocks: Vec<SaidBlock>,
    /// `URL TITLE START..END` of each.
    pub(super) cited: Vec<String>,
    pub(super) logprobs: Vec<String>,
    pub(super) end: Option<SaidEnd>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct SaidBlock {
    /// `text`, `thinking`, `redacted`, `refusal`, or `tool`.
    pub(super) kind: &'static str,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) text: String,
    pub(super) signature: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum SaidEnd {
    Finish(StopReason, Option<String>, Usage),
    Failed(Failure, String),
}

/// Takes events one by one and fails the test at the first that must not come.
#[derive(Default)]
pub(super) struct Grammar {
    started: bool,
    open: bool,
    pub(super) said: Said,
}

impl Grammar {
    #[track_caller]
    pub(super) fn event(&mut self, event: &Event<'_>) {
        assert!(self.said.end.is_none(), "{event:?} after the end");
        if let Event::Start { id, model, .. } = event {
            assert!(!std::mem::replace(&mut self.started, true), "a second start");
            self.said.id = (*id).to_owned();
            self.said.model = (*model).to_owned();
            return;
        }
        assert!(self.started || matches!(event, Event::Failed { .. }), "{event:?} before the start");
        match event {
            Event::Start { .. } => {}
            Event::Open(block) => {
                assert!(!std::mem::replace(&mut self.open, true), "blocks overlap");
                self.open_block(block);
            }
            Event::Delta(piece) => {
                assert!(self.open && !piece.is_empty(), "an empty delta, or one without a block");
                let block = self.said.blocks.last_mut().unwrap();
                assert_ne!(block.kind, "redacted", "redacted thinking is complete");
                block.text.push_str(piece);
            }
            Event::Cited(citation) => {
                assert!(!citation.url.is_empty());
                self.said.cited.push(format!(
                    "{} {} {}..{}",
                    citation.url, citation.title, citation.start, citation.end
                ));
            }
            Event::Logprobs(list) => self.said.logprobs.push((*list).to_owned()),
            Event::Close { signature } => {
                assert!(std::mem::replace(&mut self.open, false), "a close without an open");
                let block = self.said.blocks.last_mut().unwrap();
                assert!(signature.is_none() || block.kind == "thinking");
                assert!(
                    matches!(block.kind, "tool" | "redacted")
                        || !block.text.is_empty()
                        || signature.is_some(),
                    "an empty block"
                );
                if block.kind == "thinking" {
                    block.signature = signature.map(str::to_owned);
                }
            }
            Event::Finish { reason, stop_sequence, usage } => {
                assert!(!self.open, "a finish in an open block");
                assert_eq!(stop_sequence.is_some(), *reason == StopReason::StopSequence, "a stop sequence");
                let tools = self.said.blocks.iter().any(|block| block.kind == "tool");
                assert!(tools || *reason != StopReason::ToolUse, "tool use without tools");
                assert!(usage.reasoning <= usage.output.max(usage.reasoning));
                self.said.end = Some(SaidEnd::Finish(*reason, stop_sequence.map(str::to_owned), *usage));
            }
            Event::Failed { failure, message } => {
                self.said.end = Some(SaidEnd::Failed(*failure, (*message).to_owned()));
            }
        }
    }

    #[track_caller]
    fn open_block(&mut self, block: &Block<'_>) {
        let (kind, id, name, text, signature) = match *block {
            Block::Text => ("text", "", "", "", None),
            Block::Thinking => ("thinking", "", "", "", None),
            Block::RedactedThinking(data) => ("redacted", "", "", data, None),
            Block::Refusal => ("refusal", "", "", "", None),
            Block::Tool { id, name, signature } => {
                assert!(!id.is_empty() && !name.is_empty(), "a call without id or name");
                assert!(self.said.blocks.iter().all(|block| block.id != id), "id {id} twice");
                ("tool", id, name, "", signature)
            }
        };
        self.said.blocks.push(SaidBlock {
            kind,
            id: id.to_owned(),
            name: name.to_owned(),
            text: text.to_owned(),
            signature: signature.map(str::to_owned),
        });
    }
}

/// Frames for a client: event name and data.
pub(super) type Frames = Vec<(String, String)>;

fn parsed(frames: &Frames) -> Vec<(&str, Value)> {
    frames
        .iter()
        .filter(|(_, data)| data != "[DONE]")
        .map(|(name, data)| {
            assert!(!data.contains('\n'), "one line of data");
            (name.as_str(), serde_json::from_str(data).unwrap())
        })
        .collect()
}

/// openai-chat §5: equal identity, role first, calls numbered 0, 1, 2… and begun before they go on, one finish, usage
/// only if asked and last, `[DONE]`; or an error and nothing behind it.
#[track_caller]
pub(super) fn check_chat(frames: &Frames, include_usage: bool) {
    let events = parsed(frames);
    let (_, last) = events.last().expect("at least one frame");
    let failed = last.get("error").is_some();
    let done = frames.iter().filter(|(_, data)| data == "[DONE]").count();
    assert_eq!(done, usize::from(!failed), "[DONE] once and never behind an error");
    assert!(failed || frames.last().unwrap().1 == "[DONE]");
    let (mut finished, mut usages, mut role) = (false, 0, false);
    let mut calls: Vec<bool> = Vec::new();
    for (name, event) in &events {
        assert_eq!(*name, "", "chat events have no names");
        if let Some(error) = event.get("error") {
            assert!(error["message"].is_string() && error["type"].is_string() && !finished);
            continue;
        }
        assert_eq!(event["object"], "chat.completion.chunk");
        for key in ["id", "created", "model", "provider_name"] {
            assert_eq!(event.get(key), events[0].1.get(key), "{key} is the same in all chunks");
        }
        assert!(event["id"].as_str().unwrap().starts_with("chatcmpl-") && event["created"].is_u64());
        let choices = event["choices"].as_array().unwrap();
        if choices.is_empty() {
            usages += 1;
            assert!(finished && event["usage"]["total_tokens"].is_u64());
            continue;
        }
        assert!(choices.len() == 1 && choices[0]["index"] == 0 && !finished);
        let delta = choices[0]["delta"].as_object().unwrap();
        assert_eq!(
            delta.contains_key("role"),
            !std::mem::replace(&mut role, true),
            "the role once and first"
        );
        for call in delta.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
            let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
            let begins = call.get("id").is_some();
            assert!(if begins { index == calls.len() } else { index + 1 == calls.len() }, "call {index}");
            let kind = if call.get("custom").is_some() { "custom" } else { "function" };
            if begins {
                assert!(call["type"] == kind && !call[kind]["name"].as_str().unwrap().is_empty());
                calls.push(false);
            } else {
                calls[index] = true;
            }
            let text = if kind == "custom" { "input" } else { "arguments" };
            assert!(call[kind][text].is_string());
        }
        let reason = &choices[0]["finish_reason"];
        finished = !reason.is_null();
        if finished {
            let known = ["stop", "length", "tool_calls", "content_filter"];
            assert!(known.contains(&reason.as_str().unwrap()) && delta.is_empty());
            assert!(
                calls.iter().all(|&said| said),
                "every call says its arguments, `{{}}` if there are none"
            );
        }
    }
    assert_eq!((finished, usages), (!failed, usize::from(include_usage && !failed)));
}

/// anthropic-messages §7.
#[track_caller]
pub(super) fn check_messages(frames: &Frames) {
    let events = parsed(frames);
    let (mut next, mut open, mut ended) = (0, None::<(String, String, bool)>, false);
    let mut stop = String::new();
    for (n, (name, event)) in events.iter().enumerate() {
        assert_eq!(event["type"], *name, "the name is the type");
        assert!(!ended, "{name} after the end");
        assert!(*name == "error" || (n == 0) == (*name == "message_start"), "message_start first and once");
        match *name {
            "message_start" => {
                let message = &event["message"];
                assert!(
                    message["id"].as_str().unwrap().starts_with("msg_")
                        && message["content"] == Value::from([(); 0].to_vec())
                );
                assert!(
                    message["stop_reason"].is_null()
                        && message["role"] == "assistant"
                        && message["type"] == "message"
                );
                check_messages_usage(&message["usage"]);
            }
            "content_block_start" => {
                assert!(open.is_none() && event["index"] == next, "blocks in order, one at a time");
                let block = &event["content_block"];
                let kind = block["type"].as_str().unwrap().to_owned();
                match &*kind {
                    "text" => assert_eq!(block["text"], ""),
                    "thinking" => assert!(block["thinking"] == "" && block["signature"] == ""),
                    "redacted_thinking" => assert!(block["data"].is_string()),
                    "tool_use" => {
                        assert!(
                            !block["id"].as_str().unwrap().is_empty()
                                && block["input"] == serde_json::json!({})
                        );
                        assert!(!block["name"].as_str().unwrap().is_empty());
                    }
                    other => panic!("block {other}"),
                }
                open = Some((kind, String::new(), false));
            }
            "content_block_delta" => {
                let (kind, said, signed) = open.as_mut().expect("a block is open");
                assert_eq!(event["index"], next);
                assert!(!*signed, "the signature is last");
                let delta = &event["delta"];
                match (&**kind, delta["type"].as_str().unwrap()) {
                    ("text", "text_delta") => said.push_str(delta["text"].as_str().unwrap()),
                    ("thinking", "thinking_delta") => said.push_str(delta["thinking"].as_str().unwrap()),
                    ("thinking", "signature_delta") => {
                        *signed = !delta["signature"].as_str().unwrap().is_empty()
                    }
                    ("tool_use", "input_json_delta") => {
                        said.push_str(delta["partial_json"].as_str().unwrap())
                    }
                    other => panic!("{other:?}"),
                }
            }
            "content_block_stop" => {
                assert_eq!(event["index"], next);
                let (kind, said, signed) = open.take().expect("a block is open");
                assert_eq!(signed, kind == "thinking", "a signature for every thinking block");
                assert!(kind != "text" || !said.is_empty(), "the API refuses empty texts in the next turn");
                assert!(kind != "tool_use" || !said.is_empty(), "at least one input_json_delta");
                next += 1;
            }
            "message_delta" => {
                assert!(open.is_none() && stop.is_empty());
                event["delta"]["stop_reason"].as_str().unwrap().clone_into(&mut stop);
                let known = ["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"];
                assert!(known.contains(&&*stop));
                assert_eq!(event["delta"]["stop_sequence"].is_string(), stop == "stop_sequence");
                check_messages_usage(&event["usage"]);
            }
            "message_stop" => {
                assert!(!stop.is_empty(), "message_delta before message_stop");
                ended = true;
            }
            "error" => {
                assert!(event["error"]["type"].is_string() && event["error"]["message"].is_string());
                assert!(stop.is_empty());
                ended = true;
            }
            other => panic!("event {other}"),
        }
    }
    assert!(ended, "message_stop or error");
}

#[track_caller]
fn check_messages_usage(usage: &Value) {
    for key in ["input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"] {
        assert!(usage[key].is_u64(), "{key}");
    }
}

/// openai-responses §4 to §6. Returns the final response.
#[track_caller]
pub(super) fn check_responses(frames: &Frames) -> Value {
    let events = parsed(frames);
    let mut items: Vec<Value> = Vec::new();
    let mut open: Option<(String, String, String, bool)> = None;
    let mut ids = HashSet::new();
    let mut terminal = None;
    let (mut annotations, mut logprobs) = (Vec::new(), Vec::new());
    for (n, (name, event)) in events.iter().enumerate() {
        assert_eq!(event["type"], *name);
        assert_eq!(event["sequence_number"], n, "sequence numbers without gaps");
        assert!(terminal.is_none(), "{name} behind the terminal event");
        let expected = ["response.created", "response.in_progress"].get(n);
        assert!(expected.is_none_or(|expected| expected == name), "{name} as event {n}");
        if let Some(response) = event.get("response") {
            assert_eq!(response["id"], events[0].1["response"]["id"]);
            assert!(response["id"].as_str().unwrap().starts_with("resp_"));
            let required =
                ["parallel_tool_calls", "tool_choice", "tools", "created_at", "model", "output", "metadata"];
            assert!(required.iter().all(|key| !response[*key].is_null()), "{response}");
        }
        match *name {
            "response.created" | "response.in_progress" => {
                assert!(n < 2 && event["response"]["status"] == "in_progress");
                assert!(event["response"]["output"].as_array().unwrap().is_empty());
            }
            "response.output_item.added" => {
                assert_eq!(event["output_index"], items.len(), "items in order");
                assert!(open.is_none(), "one item at a time");
                let item = &event["item"];
                let (id, kind) = (item["id"].as_str().unwrap(), item["type"].as_str().unwrap());
                let prefix = match kind {
                    "message" => "msg_",
                    "reasoning" => "rs_",
                    "function_call" => "fc_",
                    "custom_tool_call" => "ctc_",
                    "local_shell_call" => "lsh_",
                    "shell_call" => "sh_",
                    "apply_patch_call" => "apc_",
                    other => panic!("item {other}"),
                };
                assert!(id.starts_with(prefix) && ids.insert(id.to_owned()), "{id}");
                let empty = ["content", "summary", "arguments", "input"].map(|key| item[key].clone());
                assert!(
                    empty.iter().all(|v| v.is_null() || v == "" || v.as_array().is_some_and(Vec::is_empty))
                );
                open = Some((id.to_owned(), kind.to_owned(), String::new(), false));
            }
            "response.output_item.done" => {
                let (id, kind, said, part) = open.take().expect("an item is open");
                let item = &event["item"];
                assert!(
                    event["output_index"] == items.len()
                        && item["id"] == *id
                        && item["type"] == *kind
                        && !part
                );
                let text = match &*kind {
                    "message" => match &item["content"][0]["type"] {
                        kind if kind == "refusal" => &item["content"][0]["refusal"],
                        _ => {
                            let part = &item["content"][0];
                            assert_eq!(part["annotations"], Value::from(std::mem::take(&mut annotations)));
                            assert_eq!(part["logprobs"], Value::from(std::mem::take(&mut logprobs)));
                            &item["content"][0]["text"]
                        }
                    },
                    "reasoning" if said.is_empty() => &Value::from(""),
                    "reasoning" => &item["summary"][0]["text"],
                    "function_call" => &item["arguments"],
                    "custom_tool_call" => &item["input"],
                    _ => &Value::from(""),
                };
                assert_eq!(*text, *said, "the item holds what its deltas said");
                let calls = ["function_call", "custom_tool_call"];
                assert_eq!(item["call_id"].is_string() && item["name"].is_string(), calls.contains(&&*kind));
                let built_in = ["local_shell_call", "shell_call", "apply_patch_call"].contains(&&*kind);
                assert_eq!(item["action"].is_object() || item["operation"].is_object(), built_in);
                assert!(!built_in || item["call_id"].is_string() && item["name"].is_null());
                items.push(item.clone());
            }
            "response.completed" | "response.incomplete" | "response.failed" => {
                let response = &event["response"];
                assert_eq!(*name, format!("response.{}", response["status"].as_str().unwrap()));
                assert_eq!(response["output"], Value::from(items.clone()), "the full output");
                assert_eq!(response["error"].is_object(), *name == "response.failed");
                assert_eq!(response["incomplete_details"].is_object(), *name == "response.incomplete");
                if *name != "response.failed" {
                    assert!(open.is_none());
                    let usage = &response["usage"];
                    assert!(usage["input_tokens_details"]["cached_tokens"].is_u64());
                    assert!(usage["output_tokens_details"]["reasoning_tokens"].is_u64());
                    assert!(usage["total_tokens"].is_u64());
                }
                terminal = Some(response.clone());
            }
            _ => {
                let (id, kind, said, part) = open.as_mut().expect("an item is open");
                assert!(event["item_id"] == **id && event["output_index"] == items.len(), "{event}");
                let in_part = matches!(&**kind, "message" | "reasoning");
                let (what, step) = name.rsplit_once('.').unwrap();
                match (what, step) {
                    ("response.content_part" | "response.reasoning_summary_part", "added") => {
                        assert!(in_part && !std::mem::replace(part, true));
                    }
                    ("response.content_part" | "response.reasoning_summary_part", "done") => {
                        assert!(in_part && std::mem::replace(part, false));
                    }
                    ("response.output_text.annotation", "added") => {
                        assert!(*part && event["annotation"]["url"].is_string());
                        assert_eq!(event["annotation_index"], annotations.len());
                        annotations.push(event["annotation"].clone());
                        continue;
                    }
                    (_, "delta") => {
                        logprobs.extend(event["logprobs"].as_array().into_iter().flatten().cloned());
                        assert_eq!(*part, in_part, "a part before its deltas");
                        said.push_str(event["delta"].as_str().unwrap());
                    }
                    (_, "done") => {
                        let key = match what {
                            "response.refusal" => "refusal",
                            "response.function_call_arguments" => "arguments",
                            "response.custom_tool_call_input" => "input",
                            _ => "text",
                        };
                        assert_eq!(event[key], **said, "done says what the deltas said");
                    }
                    other => panic!("{other:?}"),
                }
                let belongs = match what {
                    "response.output_text" | "response.refusal" | "response.content_part" => "message",
                    "response.reasoning_summary_text" | "response.reasoning_summary_part" => "reasoning",
                    "response.function_call_arguments" => "function_call",
                    _ => "custom_tool_call",
                };
                assert_eq!(kind, belongs, "{name}");
            }
        }
    }
    terminal.expect("a terminal event")
}
