//! Requests through readers and writers: the samples in `tests/golden/`, and a table of rows for each group of fields.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may end itself")]

use ai_free_swap::dialect::error::ApiError;
use ai_free_swap::dialect::model::{Part, Request, Source, Tool, Turn};
use ai_free_swap::dialect::request::*;
use ai_free_swap::provider::quirks::Quirks;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

const MODEL: &str = "\"<backend model>\"";

/// The samples in a folder whose names begin so, by name.
fn samples(folder: &str, prefix: &str) -> Vec<(String, String)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (format!("{folder}/{name}"), fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// By the name of a protocol.
fn read<'a>(protocol: &str, body: &'a str) -> Result<Read<'a>, ApiError> {
    match protocol {
        "chat" => chat_in::read(body),
        "messages" => messages_in::read(body),
        "responses" => responses_in::read(body).map(|read| Read { request: read.request, tools: read.tools }),
        other => panic!("{other}"),
    }
}

/// As for an unknown chat server, or for `claude`.
fn write(protocol: &str, request: &Request<'_>, claude: &str) -> (String, Vec<String>) {
    match protocol {
        "chat" => {
            let quirks = Quirks::of(None, "m");
            chat_out::write(request, &Target { model_json: MODEL, quirks: &quirks, default_max_tokens: 4096 })
        }
        "messages" => {
            let quirks = Quirks::of(Some("anthropic"), claude);
            messages_out::write(
                request,
                &Target { model_json: MODEL, quirks: &quirks, default_max_tokens: 4096 },
            )
        }
        other => panic!("{other}"),
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Where `found` is not what `expected` says; placeholders stand for any value of their kind.
fn difference(expected: &Value, found: &Value, path: &str) -> Option<String> {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            let absent = &Value::Null;
            let keys = expected.keys().chain(found.keys().filter(|key| !expected.contains_key(*key)));
            keys.filter_map(|key| {
                let (expected, found) =
                    (expected.get(key).unwrap_or(absent), found.get(key).unwrap_or(absent));
                difference(expected, found, &format!("{path}.{key}"))
            })
            .next()
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => expected
            .iter()
            .zip(found)
            .enumerate()
            .find_map(|(at, (expected, found))| difference(expected, found, &format!("{path}[{at}]"))),
        (Value::String(expected), Value::String(found)) if path.ends_with(".arguments") => {
            (json(expected) != json(found)).then(|| format!("{path}: {expected} / {found}"))
        }
        (Value::String(expected), Value::Number(_)) if expected == "<default>" => None,
        (Value::String(expected), Value::String(_))
            if expected.starts_with('<') && expected.ends_with('>') =>
        {
            None
        }
        _ => (expected != found).then(|| format!("{path}: expected {expected}, found {found}")),
    }
}

#[test]
fn pairs() {
    let pairs = samples("pairs", "req_");
    assert_eq!(pairs.len(), 15);
    for (name, pair) in pairs {
        let pair = json(&pair);
        let (from, to) = (pair["from"].as_str().unwrap(), pair["to"].as_str().unwrap());
        let input =
            format!("{}/tests/golden/{}", env!("CARGO_MANIFEST_DIR"), pair["input"].as_str().unwrap());
        let input = fs::read_to_string(input).unwrap();
        let read = read(from, &input).unwrap();
        let (body, dropped) = write(to, &read.request, "claude-sonnet-4-5");
        let difference = difference(&pair["expect"], &json(&body), "");
        assert_eq!(difference, None, "{name}, dropped {dropped:?}:\n{body}");
    }
}

/// What must survive the way through a target, in its words: chat knows texts and no pictures in results, Messages
/// knows thinking with its proof.
fn outline(turns: &[Turn<'_>], chat: bool) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for turn in turns {
        let mut lines = Vec::new();
        let (mut texts, mut pictures) = (Vec::new(), Vec::new());
        for part in &turn.parts {
            match part {
                Part::Text(text) | Part::System(text) | Part::Refusal(text) => texts.push(text.to_string()),
                Part::Image(source) => pictures.push(format!("{source:?}")),
                Part::Document { source: Source::Text(text), name } if chat => {
                    texts.push(format!("{}:\n{text}", name.as_deref().unwrap_or("Document")));
                }
                Part::Document { source, name } => pictures.push(format!("{name:?} {source:?}")),
                Part::ToolCall { id, name, arguments, .. } => {
                    lines.push(format!("call {id} {name} {}", json(arguments)));
                }
                Part::ToolResult { id, parts, is_error } => {
                    let mut text = Vec::new();
                    for part in parts {
                        match part {
                            Part::Text(line) => text.push(line.to_string()),
                            Part::Image(source) => {
                                pictures.push(format!("{source:?}"));
                                text.extend(chat.then(|| "[image attached in the next message]".to_owned()));
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                    let error = if chat && *is_error { "Error: " } else { "" };
                    lines.push(format!("result {id} {error}{} {}", text.join("\n"), !chat && *is_error));
                }
                Part::Thinking { text, signature: Some(signature) } if !chat => {
                    lines.push(format!("thinking {text} {signature}"));
                }
                Part::RedactedThinking(data) if !chat => lines.push(format!("redacted {data}")),
                Part::Thinking { .. } | Part::RedactedThinking(_) => {}
            }
        }
        lines.push(texts.join("\n\n"));
        lines.extend(pictures);
        out.push(format!("{:?}: {}", turn.role, lines.join(" | ")));
    }
    out
}

fn tools(request: &Request<'_>) -> Vec<String> {
    let show = |tool: &Tool<'_>| format!("{} {:?} {}", tool.name, tool.description, json(&tool.schema));
    request.tools.iter().map(show).collect()
}

#[test]
fn samples_survive_the_way_to_every_target() {
    let mut seen = 0;
    for from in ["chat", "messages", "responses"] {
        for (name, body) in samples(from, "request_") {
            let first = read(from, &body).unwrap_or_else(|error| panic!("{name}: {error:?}")).request;
            for to in ["chat", "messages"] {
                let quirks =
                    Quirks::of(Some(if to == "chat" { "openai" } else { "anthropic" }), "claude-sonnet-4-5");
                let target = Target { model_json: MODEL, quirks: &quirks, default_max_tokens: 4096 };
                let write = if to == "chat" { chat_out::write } else { messages_out::write };
                let (text, dropped) = write(&first, &target);
                let second =
                    read(to, &text).unwrap_or_else(|error| panic!("{name}: {error:?}\n{text}")).request;
                let chat = to == "chat";
                assert_eq!(outline(&second.turns, chat), outline(&first.turns, chat), "{name} {to}\n{text}");
                assert_eq!(second.system.join("\n\n"), first.system.join("\n\n"), "{name} {to}");
                assert_eq!(tools(&second), tools(&first), "{name} {to}");
                assert_eq!(second.tool_choice, first.tool_choice, "{name} {to}");
                assert_eq!(second.stream, first.stream, "{name} {to}");
                let visible = |request: &Request<'_>| {
                    request.stop.iter().filter(|text| !text.trim().is_empty()).count()
                };
                assert_eq!(visible(&second), visible(&first), "{name} {to}");
                assert_eq!(write(&first, &target).0, text, "the same bytes again");
                assert!(dropped.iter().all(|name| !name.is_empty()), "{dropped:?}");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 80);
}

#[test]
fn a_cut_body_is_an_error() {
    for from in ["chat", "messages", "responses"] {
        for (name, body) in samples(from, "request_") {
            let body = body.trim_end();
            for end in (0..body.len()).filter(|end| body.is_char_boundary(*end)) {
                let error = read(from, &body[..end]).err().unwrap_or_else(|| panic!("{name} cut at {end}"));
                assert_eq!(error.status, 400, "{name} cut at {end}");
            }
        }
    }
}

/// Every value of `tree` replaced by `new`, one at a time.
fn mutants(tree: &Value, new: &Value) -> Vec<Value> {
    let mut out = vec![new.clone()];
    match tree {
        Value::Object(members) => {
            for (key, value) in members {
                for mutant in mutants(value, new) {
                    let mut members = members.clone();
                    members[key] = mutant;
                    out.push(Value::Object(members));
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                for mutant in mutants(item, new) {
                    let mut items = items.clone();
                    items[at] = mutant;
                    out.push(Value::Array(items));
                }
            }
        }
        _ => {}
    }
    out
}

#[test]
fn any_value_anywhere_is_read_or_refused() {
    let (mut taken, mut refused) = (0, 0);
    for from in ["chat", "messages", "responses"] {
        for (name, body) in samples(from, "request_") {
            for new in [r#"null"#, "true", "-7.5", r#""x""#, "[]", "{}", r#"[null]"#, r#"" ""#] {
                for mutant in mutants(&json(&body), &json(new)) {
                    let body = mutant.to_string();
                    match read(from, &body) {
                        Err(error) => {
                            assert_eq!(error.status, 400, "{name}: {body}");
                            assert!(
                                error.param.is_some() || error.message.starts_with("The body"),
                                "{name}: {error:?} does not name a field\n{body}"
                            );
                            refused += 1;
                        }
                        Ok(read) => {
                            for to in ["chat", "messages"] {
                                let (text, _) = write(to, &read.request, "claude-opus-4-8");
                                let written = json(&text);
                                check_messages(&written, to, &body);
                            }
                            assert!(estimate::input_tokens(&read.request) < 100_000);
                            taken += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(taken > 3000 && refused > 3000, "{taken} taken, {refused} refused");
}

/// What both providers insist on, from their documentation and not from the writers: calls answered at once, in
/// order and once, no empty messages, Anthropic's roles in turn.
fn check_messages(body: &Value, to: &str, input: &str) {
    let messages = body["messages"].as_array().unwrap();
    let mut open: Vec<String> = Vec::new();
    let mut ids = std::collections::HashSet::new();
    let mut last_role = "";
    for message in messages {
        let role = message["role"].as_str().unwrap();
        let content = &message["content"];
        if to == "chat" {
            if role == "tool" {
                assert_eq!(message["tool_call_id"].as_str().unwrap(), open.remove(0), "{input}\n{body}");
                assert!(content.is_string());
                last_role = role;
                continue;
            }
            assert!(open.is_empty(), "open calls: {input}\n{body}");
            assert!(role != last_role, "{role} twice: {input}\n{body}");
            assert!(content.is_string() || content.is_array() || message.get("tool_calls").is_some());
            let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
            open.extend(calls.iter().map(|call| call["id"].as_str().unwrap().to_owned()));
        } else {
            let blocks = content.as_array().unwrap();
            assert!(!blocks.is_empty(), "{input}\n{body}");
            assert!(role != last_role && (!last_role.is_empty() || role == "user"), "order: {input}\n{body}");
            let mut others = false;
            for block in blocks {
                match block["type"].as_str().unwrap() {
                    "tool_result" => {
                        assert!(!others, "results come first: {input}\n{body}");
                        assert_eq!(block["tool_use_id"].as_str().unwrap(), open.remove(0), "{input}\n{body}");
                    }
                    kind => {
                        others = true;
                        assert!(
                            kind == "tool_use" || role == "assistant" || open.is_empty(),
                            "{input}\n{body}"
                        );
                        assert!(kind != "text" || !block["text"].as_str().unwrap().trim().is_empty());
                        if kind == "tool_use" {
                            assert!(block["input"].is_object(), "{input}\n{body}");
                            open.push(block["id"].as_str().unwrap().to_owned());
                        }
                    }
                }
            }
        }
        for id in &open {
            assert!(!id.is_empty());
            assert!(role != "assistant" || ids.insert(id.clone()), "{id} twice: {input}\n{body}");
        }
        last_role = role;
    }
    assert!(open.is_empty(), "open calls: {input}\n{body}");
}
