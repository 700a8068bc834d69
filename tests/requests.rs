//! Requests through readers and writers: the samples in `tests/golden/`, and a table of rows for each group of fields.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may end itself")]

use ai_free_swap::dialect::ask::{Ask, Dialect};
use ai_free_swap::dialect::error::ApiError;
use ai_free_swap::dialect::model::{Part, Request, Source, Tool, ToolKind, Turn};
use ai_free_swap::dialect::request::*;
use ai_free_swap::dialect::splice::pieces;
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
    assert_eq!(pairs.len(), 16);
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

/// A chat request that goes through, as a backend with these quirks gets it.
fn passed(body: &str, quirks: &Quirks) -> String {
    let ask = Ask::parse(Dialect::Chat, body).unwrap();
    let mut edits = ask.edits(body, MODEL, false);
    edits.extend(ask.repairs(body, quirks, &|_| Some("signature".to_owned())).edits);
    String::from_utf8(pieces(body.as_bytes(), &mut edits).concat()).unwrap()
}

#[test]
fn what_goes_through_stays_json_whatever_is_in_it() {
    let presets = ["mistral", "gemini", "deepseek", "zai", "nvidia", "cloudflare", "openai", "together"];
    let mut changed = 0;
    for (name, body) in samples("chat", "request_") {
        for new in ["null", "-7.5", r#""x""#, "[]", "{}", "[null]"] {
            for mutant in mutants(&json(&body), &json(new)) {
                let body = mutant.to_string();
                if Ask::parse(Dialect::Chat, &body).is_err() {
                    continue;
                }
                assert_eq!(json(&passed(&body, &Quirks::of(None, "m")))["messages"], mutant["messages"]);
                for preset in presets {
                    let quirks = Quirks::of(Some(preset), "m");
                    let once = passed(&body, &quirks);
                    let tree = json(&once);
                    assert_eq!(passed(&once, &quirks), once, "{name} for {preset}: a second time\n{body}");
                    for param in &quirks.passing.drop_params {
                        assert!(tree.get(param).is_none(), "{name} for {preset}: {param}\n{once}");
                    }
                    changed += usize::from(tree["messages"] != mutant["messages"]);
                }
            }
        }
    }
    assert!(changed > 1000, "only {changed} conversations changed");
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

/// Writes `body` for a preset's model (`anthropic`: as Messages) and looks at one place of what comes out; `null` is
/// also what is not there.
#[track_caller]
fn check(from: &str, preset: &str, model: &str, body: &str, pointer: &str, expected: &str) {
    let quirks = Quirks::of(Some(preset), model);
    let target = Target { model_json: MODEL, quirks: &quirks, default_max_tokens: 4096 };
    let read = read(from, body).unwrap_or_else(|error| panic!("{error:?}\n{body}"));
    let (text, dropped) = match preset {
        "anthropic" => messages_out::write(&read.request, &target),
        _ => chat_out::write(&read.request, &target),
    };
    let written = json(&text);
    let found = written.pointer(pointer).unwrap_or(&Value::Null);
    assert_eq!(found, &json(expected), "{pointer} of {text}\ndropped: {dropped:?}\nfrom {body}");
}

/// A body with one user message and these members.
fn with(members: &str) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"Hi"}}],{members}}}"#)
}

const TOOL: &str =
    r#"{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{}}}}"#;
const TOOLS: &str = r#""tools":[{"name":"f","input_schema":{}},{"name":"g","input_schema":{}}]"#;

#[test]
fn output_limits() {
    for (preset, model, body, pointer, expected) in [
        ("anthropic", "claude-opus-4-8", "\"x\":1", "/max_tokens", "4096"),
        ("anthropic", "claude-opus-4-8", r#""max_tokens":7"#, "/max_tokens", "7"),
        ("anthropic", "glm-5", r#""max_tokens":7,"max_completion_tokens":9.0"#, "/max_tokens", "9"),
        ("openai", "gpt-5", r#""max_tokens":7"#, "/max_completion_tokens", "7"),
        ("openai", "gpt-5", r#""max_tokens":7"#, "/max_tokens", "null"),
        ("mistral", "m", r#""max_completion_tokens":7"#, "/max_tokens", "7"),
        ("mistral", "m", "\"x\":1", "/max_tokens", "null"),
        ("cloudflare", "m", "\"x\":1", "/max_completion_tokens", "8192"),
        ("cerebras", "m", r#""max_tokens":64000"#, "/max_completion_tokens", "16384"),
    ] {
        check("chat", preset, model, &with(body), pointer, expected);
    }
}

#[test]
fn sampling_and_stop() {
    for (preset, model, body, pointer, expected) in [
        ("anthropic", "claude-sonnet-4-5", r#""temperature":1.5"#, "/temperature", "1"),
        ("anthropic", "claude-sonnet-4-5", r#""temperature":0.25,"top_p":0.5"#, "/temperature", "0.25"),
        ("anthropic", "claude-sonnet-4-5", r#""temperature":0.25,"top_p":0.5"#, "/top_p", "null"),
        ("anthropic", "claude-sonnet-4-5", r#""top_p":0.5,"top_k":3"#, "/top_p", "0.5"),
        ("anthropic", "claude-sonnet-4-5", r#""top_p":0.5,"top_k":3"#, "/top_k", "3"),
        ("anthropic", "claude-opus-4-8", r#""temperature":0.25"#, "/temperature", "null"),
        ("anthropic", "claude-opus-4-8", r#""stop":"END""#, "/stop_sequences", r#"["END"]"#),
        ("anthropic", "claude-opus-4-8", r#""stop":["\n","a\"b"]"#, "/stop_sequences", r#"["a\"b"]"#),
        ("anthropic", "claude-opus-4-8", r#""stop":["\n"]"#, "/stop_sequences", "null"),
        ("groq", "m", r#""stop":["1","2","3","4","5"]"#, "/stop", r#"["1","2","3","4"]"#),
        ("groq", "m", r#""stop":["",null]"#, "/stop", "null"),
        ("groq", "m", r#""top_k":3"#, "/top_k", "null"),
        ("vllm", "m", r#""top_k":3"#, "/top_k", "3"),
        ("groq", "m", r#""temperature":null"#, "/temperature", "null"),
        ("groq", "m", r#""seed":7,"logit_bias":{"1":2}"#, "/seed", "7"),
        ("groq", "m", r#""seed":7,"logit_bias":{"1":2}"#, "/logit_bias", "null"),
        ("mistral", "m", r#""seed":7"#, "/random_seed", "7"),
        ("mistral", "m", r#""seed":7"#, "/seed", "null"),
        ("openai", "m", r#""n":3"#, "/n", "3"),
        ("groq", "m", r#""n":3"#, "/n", "null"),
        ("openai", "m", r#""user":"u""#, "/user", "\"u\""),
        ("anthropic", "claude-opus-4-8", r#""user":"u""#, "/metadata/user_id", "\"u\""),
        ("openai", "m", r#""stream":true"#, "/stream_options/include_usage", "true"),
        ("mistral", "m", r#""stream":true"#, "/stream_options", "null"),
        ("anthropic", "claude-opus-4-8", r#""stream":true"#, "/stream", "true"),
    ] {
        if body.contains("null]") {
            assert!(chat_in::read(&with(body)).is_err());
            continue;
        }
        check("chat", preset, model, &with(body), pointer, expected);
    }
    check("messages", "openai", "m", &with(r#""stop_sequences":["a"]"#), "/stop", r#"["a"]"#);
    let long = "u".repeat(65);
    check(
        "messages",
        "openai",
        "m",
        &with(&format!(r#""metadata":{{"user_id":"{long}"}}"#)),
        "/user",
        "null",
    );
}

#[test]
fn tool_choices() {
    let openai = |choice: &str| with(&format!(r#""tools":[{TOOL}],"tool_choice":{choice}"#));
    let anthropic = |choice: &str| with(&format!(r#"{TOOLS},"tool_choice":{choice}"#));
    for (choice, expected) in [
        (r#""auto""#, r#"{"type":"auto"}"#),
        (r#""none""#, r#"{"type":"none"}"#),
        (r#""required""#, r#"{"type":"any"}"#),
        (r#"{"type":"function","function":{"name":"f"}}"#, r#"{"type":"tool","name":"f"}"#),
        (r#"{"type":"function","function":{"name":"gone"}}"#, "null"),
        (
            r#"{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"function","function":{"name":"f"}}]}}"#,
            r#"{"type":"any"}"#,
        ),
        ("null", "null"),
    ] {
        check("chat", "anthropic", "claude-opus-4-8", &openai(choice), "/tool_choice", expected);
    }
    for (choice, expected) in [
        (r#"{"type":"auto"}"#, r#""auto""#),
        (r#"{"type":"none"}"#, r#""none""#),
        (r#"{"type":"any"}"#, r#""required""#),
        (r#"{"type":"tool","name":"g"}"#, r#"{"type":"function","function":{"name":"g"}}"#),
        (r#"{"type":"tool","name":"web_search"}"#, "null"),
    ] {
        check("messages", "openai", "m", &anthropic(choice), "/tool_choice", expected);
    }
    let serial = anthropic(r#"{"type":"any","disable_parallel_tool_use":true}"#);
    check("messages", "openai", "m", &serial, "/parallel_tool_calls", "false");
    let serial = with(&format!(r#""tools":[{TOOL}],"parallel_tool_calls":false"#));
    let expected = r#"{"type":"auto","disable_parallel_tool_use":true}"#;
    check("chat", "anthropic", "claude-opus-4-8", &serial, "/tool_choice", expected);
    check("messages", "nvidia", "m", &with(TOOLS), "/parallel_tool_calls", "false");
    // Who knows `auto` only is not shown the tools that must not be called.
    check("messages", "zai", "m", &anthropic(r#"{"type":"none"}"#), "/tools", "null");
    check("messages", "zai", "m", &anthropic(r#"{"type":"any"}"#), "/tool_choice", "null");
    check("messages", "minimax", "m", &anthropic(r#"{"type":"none"}"#), "/tools", "null");
    check("messages", "minimax", "m", &anthropic(r#"{"type":"auto"}"#), "/tool_choice", "null");
    check(
        "messages",
        "moonshot",
        "kimi-k2-thinking",
        &anthropic(r#"{"type":"any"}"#),
        "/tool_choice",
        "null",
    );
    check(
        "messages",
        "moonshot",
        "kimi-k2-thinking",
        &anthropic(r#"{"type":"none"}"#),
        "/tool_choice",
        "\"none\"",
    );
    let allowed = r#"{"input":"x","tools":[{"type":"function","name":"f"},{"type":"custom","name":"g"},{"type":"function","name":"h"}],
        "tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"custom","name":"g"},{"type":"web_search"}]}}"#;
    check("responses", "openai", "m", allowed, "/tools/0/function/name", "\"g\"");
    check("responses", "openai", "m", allowed, "/tools/1", "null");
    // Nothing left to choose from.
    let server_only =
        with(r#""tools":[{"type":"web_search_20250305","name":"web_search"}],"tool_choice":{"type":"any"}"#);
    check("messages", "openai", "m", &server_only, "/tools", "null");
    check("messages", "openai", "m", &server_only, "/tool_choice", "null");
}

#[test]
fn tools_and_schemas() {
    let dotted = with(
        r#""tools":[{"type":"function","function":{"name":"mcp.read","strict":true}}],
        "tool_choice":{"type":"function","function":{"name":"mcp.read"}}"#,
    );
    let schema = r#"{"type":"object","properties":{}}"#;
    check("chat", "anthropic", "claude-opus-4-8", &dotted, "/tools/0/name", "\"mcp_read\"");
    check("chat", "anthropic", "claude-opus-4-8", &dotted, "/tool_choice/name", "\"mcp_read\"");
    check("chat", "anthropic", "claude-opus-4-8", &dotted, "/tools/0/input_schema", schema);
    check("chat", "anthropic", "claude-opus-4-8", &dotted, "/tools/0/strict", "true");
    check("chat", "openai", "m", &dotted, "/tools/0/function/strict", "true");
    check("chat", "groq", "m", &dotted, "/tools/0/function/strict", "null");
    let back = chat_in::read(&dotted).unwrap().tools;
    assert_eq!(back.0["mcp_read"].name, "mcp.read");
    let typeless =
        with(r#""tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"a":{}}}}}]"#);
    let expected = r#"{"type":"object","properties":{"a":{}}}"#;
    check("chat", "anthropic", "claude-opus-4-8", &typeless, "/tools/0/input_schema", expected);
    let words = with(
        r#""tools":[{"name":"f","input_schema":{"$schema":"x","type":"object","properties":{"$schema":{"type":"string","additionalProperties":false}}}}]"#,
    );
    let expected = r#"{"type":"object","properties":{"$schema":{"type":"string"}}}"#;
    check("messages", "gemini", "gemini-2.5-flash", &words, "/tools/0/function/parameters", expected);
    check("messages", "cohere", "m", &words, "/tools/0/function/parameters", expected);
    check("messages", "openai", "m", &words, "/tools/0/function/parameters/$schema", "\"x\"");
    // Calls in the history, and no tools: stubs that may not be called.
    let bare = r#"{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":""}}]},{"role":"tool","tool_call_id":"a","content":"1"}]}"#;
    check(
        "chat",
        "anthropic",
        "claude-opus-4-8",
        bare,
        "/tools",
        &format!(r#"[{{"name":"f","input_schema":{schema}}}]"#),
    );
    check("chat", "anthropic", "claude-opus-4-8", bare, "/tool_choice", r#"{"type":"none"}"#);
    check("chat", "anthropic", "claude-opus-4-8", bare, "/messages/1/content/0/input", "{}");
    let codex = samples("responses", "request_codex_like").remove(0).1;
    let tools = responses_in::read(&codex).unwrap().tools.0;
    assert_eq!(tools.len(), 2);
    let spawn = &tools["multi_agent_v1__spawn_agent"];
    assert_eq!(
        (spawn.name.as_str(), spawn.namespace.as_deref(), spawn.kind),
        ("spawn_agent", Some("multi_agent_v1"), ToolKind::Function)
    );
    assert!(tools["apply_patch"].is_custom());
    let added = r#"{"input":[{"type":"additional_tools","role":"developer","tools":[{"type":"namespace","name":"functions","tools":[{"type":"custom","name":"exec"}]}]},{"role":"user","content":"Hi"},
        {"type":"custom_tool_call","call_id":"c","name":"exec","namespace":"functions","input":"ls\n"}]}"#;
    check("responses", "openai", "m", added, "/tools/0/function/name", "\"functions__exec\"");
    check(
        "responses",
        "openai",
        "m",
        added,
        "/messages/1/tool_calls/0/function/arguments",
        r#""{\"input\":\"ls\\n\"}""#,
    );
    check("responses", "openai", "m", added, "/messages/2/content", "\"(no result)\"");
}

#[test]
fn tool_calls_and_results() {
    let history = |call: &str, result: &str| {
        format!(
            r#"{{"messages":[{{"role":"user","content":"Hi"}},{{"role":"assistant","content":[{call}]}},{{"role":"user","content":[{result}]}}]}}"#
        )
    };
    let call = r#"{"type":"tool_use","id":"toolu.1","name":"f","input":{ "a" : 1 }}"#;
    let result =
        |rest: &str| history(call, &format!(r#"{{"type":"tool_result","tool_use_id":"toolu.1"{rest}}}"#));
    for (rest, expected) in [
        ("", "\"\""),
        (r#","content":"x""#, "\"x\""),
        (r#","content":[{"type":"text","text":"x"},{"type":"text","text":"y"}]"#, r#""x\ny""#),
        (r#","content":"x","is_error":true"#, r#""Error: x""#),
        (r#","content":"error: x","is_error":true"#, r#""error: x""#),
        (r#","content":"é","is_error":true"#, r#""Error: é""#),
        (
            r#","content":[{"type":"search_result","source":"https://x","title":"T","content":[{"type":"text","text":"y"}]}]"#,
            r#""T\nhttps://x\ny""#,
        ),
        (r#","content":[{"type":"tool_reference","tool_name":"x"}]"#, r#""[tool_reference left out]""#),
    ] {
        check("messages", "openai", "m", &result(rest), "/messages/2/content", expected);
    }
    check(
        "messages",
        "openai",
        "m",
        &result(""),
        "/messages/1/tool_calls/0/function/arguments",
        r#""{\"a\":1}""#,
    );
    check("messages", "llamacpp", "m", &result(""), "/messages/1/tool_calls/0/id", "\"toolu.1\"");
    check("messages", "cloudflare", "m", &result(""), "/messages/1/content", "\"\"");
    check("messages", "openai", "m", &result(""), "/messages/1/content", "null");
    // A provider's pattern: the same new id in call and result.
    for (preset, length) in [("mistral", 9), ("openai", 23)] {
        let quirks = Quirks::of(Some(preset), "m");
        let target = Target { model_json: MODEL, quirks: &quirks, default_max_tokens: 1 };
        let body = result("");
        let written = json(&chat_out::write(&messages_in::read(&body).unwrap().request, &target).0);
        let id = written["messages"][1]["tool_calls"][0]["id"].as_str().unwrap();
        assert_eq!((id.len(), &written["messages"][2]["tool_call_id"]), (length, &Value::from(id)));
    }
    let user = result("").replace("}]}]}", r#"},{"type":"text","text":"and?"}]}]}"#);
    check("messages", "mistral", "m", &user, "/messages/3", r#"{"role":"assistant","content":"OK."}"#);
    check("messages", "mistral", "m", &user, "/messages/4/content", "\"and?\"");
    check("messages", "openai", "m", &user, "/messages/3/content", "\"and?\"");
    // Gemini's signatures come back, or what stands for one on the first call.
    let echo = samples("chat", "request_gemini_signature").remove(0).1;
    let signature = "/messages/1/tool_calls/0/extra_content/google/thought_signature";
    check("chat", "gemini", "gemini-3-pro", &echo, signature, "\"c2lnbmF0dXJl\"");
    check(
        "messages",
        "gemini",
        "gemini-3-pro",
        &result(""),
        signature,
        "\"skip_thought_signature_validator\"",
    );
    check("chat", "openai", "m", &echo, "/messages/1/tool_calls/0/extra_content", "null");
    // Arguments that are none, from clients of other protocols.
    for (arguments, expected) in [
        (r#""""#, "{}"),
        (r#""{\"a\": 1}""#, r#"{"a":1}"#),
        (r#"{"a":1}"#, r#"{"a":1}"#),
        (r#""[1]""#, r#"{"value":[1]}"#),
        (r#""{\"a\"""#, r#"{"_raw":"{\"a\""}"#),
        ("null", "{}"),
    ] {
        let body = format!(
            r#"{{"messages":[{{"role":"user","content":"Hi"}},{{"role":"assistant","tool_calls":[{{"function":{{"name":"f","arguments":{arguments}}}}}]}}]}}"#
        );
        check("chat", "anthropic", "claude-opus-4-8", &body, "/messages/1/content/0/input", expected);
    }
    let old = samples("chat", "request_legacy").remove(0).1;
    check("chat", "anthropic", "claude-opus-4-8", &old, "/messages/2/content/0/content", "\"3 C\"");
    check("chat", "anthropic", "claude-opus-4-8", &old, "/tools/0/name", "\"get_weather\"");
    check("chat", "anthropic", "claude-opus-4-8", &old, "/tool_choice/type", "\"auto\"");
}

#[test]
fn reasoning() {
    for (preset, model, effort, pointer, expected) in [
        ("anthropic", "claude-opus-4-8", "low", "/thinking", r#"{"type":"adaptive"}"#),
        ("anthropic", "claude-opus-4-8", "minimal", "/output_config/effort", "\"low\""),
        ("anthropic", "claude-opus-4-8", "xhigh", "/output_config/effort", "\"xhigh\""),
        ("anthropic", "claude-opus-4-6", "xhigh", "/output_config/effort", "\"high\""),
        ("anthropic", "claude-opus-4-8", "none", "/thinking", r#"{"type":"disabled"}"#),
        ("anthropic", "claude-sonnet-4-5", "high", "/thinking", r#"{"type":"enabled","budget_tokens":8192}"#),
        ("anthropic", "claude-sonnet-4-5", "high", "/max_tokens", "12288"),
        ("anthropic", "claude-sonnet-4-5", "low", "/max_tokens", "4096"),
        ("anthropic", "claude-sonnet-4-5", "high", "/output_config", "null"),
        ("anthropic", "claude-sonnet-4-5", "high", "/temperature", "null"),
        ("anthropic", "claude-3-5-haiku-20241022", "high", "/thinking", "null"),
        ("anthropic", "claude-3-5-haiku-20241022", "none", "/thinking", "null"),
        ("openai", "gpt-5", "minimal", "/reasoning_effort", "\"minimal\""),
        ("openai", "gpt-5", "max", "/reasoning_effort", "\"high\""),
        ("openai", "gpt-5", "none", "/reasoning_effort", "null"),
        ("openai", "gpt-4.1", "high", "/reasoning_effort", "null"),
        ("deepseek", "deepseek-chat", "minimal", "/reasoning_effort", "\"low\""),
        ("deepseek", "deepseek-chat", "medium", "/reasoning_effort", "\"high\""),
        ("deepseek", "deepseek-chat", "max", "/reasoning_effort", "\"max\""),
        ("openrouter", "m", "none", "/reasoning_effort", "\"none\""),
        ("groq", "llama", "high", "/reasoning_effort", "null"),
    ] {
        let body = with(&format!(r#""reasoning_effort":"{effort}","temperature":0.5"#));
        check("chat", preset, model, &body, pointer, expected);
    }
    for (members, expected) in [
        (r#""thinking":{"type":"enabled","budget_tokens":1024}"#, "\"low\""),
        (r#""thinking":{"type":"enabled","budget_tokens":2048}"#, "\"medium\""),
        (r#""thinking":{"type":"enabled","budget_tokens":8192}"#, "\"high\""),
        (r#""thinking":{"type":"enabled"}"#, "null"),
        (r#""thinking":{"type":"adaptive"}"#, "null"),
        (r#""thinking":{"type":"adaptive"},"output_config":{"effort":"max"}"#, "\"high\""),
        (r#""thinking":{"type":"disabled"},"output_config":{"effort":"max"}"#, "null"),
        (r#""output_config":{"effort":"low"}"#, "\"low\""),
    ] {
        check("messages", "openai", "gpt-5", &with(members), "/reasoning_effort", expected);
    }
    let budget = with(r#""max_tokens":9000,"thinking":{"type":"enabled","budget_tokens":5000}"#);
    check("messages", "anthropic", "claude-sonnet-4-5", &budget, "/thinking/budget_tokens", "5000");
    // A tool that must be called matters more than thinking.
    let forced = with(&format!(r#""tools":[{TOOL}],"tool_choice":"required","reasoning_effort":"high""#));
    check("chat", "anthropic", "claude-opus-4-8", &forced, "/thinking", "null");
    check("chat", "anthropic", "claude-opus-4-8", &forced, "/tool_choice/type", "\"any\"");
    // With a budget, calls without their thinking turn it off.
    let echo = samples("chat", "request_reasoning_echo").remove(0).1;
    let echo = echo.replacen('{', r#"{"reasoning_effort":"high","#, 1);
    check("chat", "anthropic", "claude-sonnet-4-5", &echo, "/thinking", "null");
    check("chat", "anthropic", "claude-opus-4-8", &echo, "/thinking/type", "\"adaptive\"");
    check("chat", "anthropic", "claude-opus-4-8", &echo, "/messages/1/content/0/type", "\"tool_use\"");
    check("chat", "deepseek", "m", &echo, "/messages/1/reasoning_content", "\"Need the tool.\"");
    check("chat", "moonshot", "kimi-k3", &echo, "/messages/1/reasoning_content", "\"Need the tool.\"");
    check("chat", "groq", "m", &echo, "/messages/1/reasoning_content", "null");
    let tools = samples("messages", "request_tools_roundtrip").remove(0).1;
    check("messages", "deepseek", "m", &tools, "/messages/1/reasoning_content", "\"\"");
}

#[test]
fn thinking_goes_only_where_it_came_from() {
    let thinking = samples("messages", "request_thinking_roundtrip").remove(0).1;
    let native = r#"{"type":"thinking","thinking":"Need the tool.","signature":"RXhhbXBsZVNpZ25hdHVyZQ=="}"#;
    check("messages", "anthropic", "claude-sonnet-4-5", &thinking, "/messages/1/content/0", native);
    check(
        "messages",
        "anthropic",
        "claude-sonnet-4-5",
        &thinking,
        "/messages/1/content/1/type",
        "\"redacted_thinking\"",
    );
    check("messages", "anthropic", "claude-sonnet-4-5", &thinking, "/thinking/budget_tokens", "2048");
    for signature in ["", "aifs-x"] {
        let ours = thinking.replace("RXhhbXBsZVNpZ25hdHVyZQ==", signature);
        check(
            "messages",
            "anthropic",
            "claude-sonnet-4-5",
            &ours,
            "/messages/1/content/0/type",
            "\"redacted_thinking\"",
        );
        check("messages", "deepseek", "m", &ours, "/messages/1/reasoning_content", "\"Need the tool.\"");
    }
    let item = |encrypted: &str| {
        format!(
            r#"{{"input":[{{"role":"user","content":"Hi"}},{{"type":"reasoning","id":"rs_1","summary":[{{"type":"summary_text","text":"Hm."}}],"encrypted_content":"{encrypted}"}},
            {{"type":"function_call","call_id":"c","name":"f","arguments":"{{}}"}},{{"type":"function_call_output","call_id":"c","output":"1"}}]}}"#
        )
    };
    let first = "/messages/1/content/0";
    let native = r#"{"type":"thinking","thinking":"Hm.","signature":"U2ln"}"#;
    check("responses", "anthropic", "claude-sonnet-4-5", &item("aifs-sig-U2ln"), first, native);
    let redacted = r#"{"type":"redacted_thinking","data":"ZGF0YQ"}"#;
    check("responses", "anthropic", "claude-sonnet-4-5", &item("aifs-red-ZGF0YQ"), first, redacted);
    for foreign in ["gAAAopaque", "aifs-", ""] {
        check(
            "responses",
            "anthropic",
            "claude-sonnet-4-5",
            &item(foreign),
            "/messages/1/content/0/type",
            "\"tool_use\"",
        );
        check("responses", "deepseek", "m", &item(foreign), "/messages/1/reasoning_content", "\"Hm.\"");
    }
    // A turn that was only thinking vanishes, and its neighbours are one.
    let only = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"thinking","thinking":"t","signature":""}]},{"role":"user","content":"b"}]}"#;
    check("messages", "openai", "m", only, "/messages", r#"[{"role":"user","content":"a\n\nb"}]"#);
    check("messages", "anthropic", "m", only, "/messages/0/content/1/text", "\"b\"");
}

#[test]
fn thinking_can_be_taken_out() {
    let thinking = samples("messages", "request_thinking_roundtrip").remove(0).1;
    let mut request = messages_in::read(&thinking).unwrap().request;
    assert!(strip_thinking(&mut request) && !strip_thinking(&mut request));
    let text = write("messages", &request, "claude-sonnet-4-5").0;
    assert!(!text.contains("thinking"), "{text}");
    let only = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"thinking","thinking":"t","signature":"s"}]},{"role":"user","content":"b"}],"thinking":{"type":"enabled","budget_tokens":2000}}"#;
    let mut request = messages_in::read(only).unwrap().request;
    assert!(strip_thinking(&mut request));
    assert_eq!(outline(&request.turns, false), ["User: a\n\nb"]);
    assert_eq!(request.reasoning.budget, Some(2000));
}

#[test]
fn nesting_is_refused_or_read_whatever_its_depth() {
    for depth in [1, 30, 60, 100, 100_000] {
        for (from, open, close) in [
            ("messages", r#"{"type":"tool_result","tool_use_id":"a","content":["#, "]}"),
            ("messages", r#"{"type":"document","source":{"type":"content","content":["#, "]}}"),
            ("messages", r#"{"type":"x","a":["#, "]}"),
            ("chat", "[", "]"),
            ("chat", r#"{"type":"text","text":["#, "]}"),
            ("responses", r#"{"type":"input_text","text":"x","b":{"b":["#, "]}}"),
        ] {
            let nested = format!("{}{}", open.repeat(depth), close.repeat(depth));
            let key = if from == "responses" { "input" } else { "messages" };
            let body = format!(r#"{{"{key}":[{{"role":"user","content":[{nested}]}}]}}"#);
            if let Err(error) = read(from, &body) {
                assert_eq!(error.status, 400);
            }
        }
        let deep = format!("{}{}", r#"{"not":"#.repeat(depth), "0") + &"}".repeat(depth);
        let body = with(&format!(r#""tools":[{{"name":"f","input_schema":{deep}}}]"#));
        check(
            "messages",
            "gemini",
            "gemini-2.5-pro",
            &body.replacen("not", "$schema", 1),
            "/tools/0/type",
            "\"function\"",
        );
    }
}

#[test]
fn formats() {
    let schema = r#"{"type":"object","properties":{"x":{"type":"number"}}}"#;
    let chat = with(&format!(
        r#""response_format":{{"type":"json_schema","json_schema":{{"name":"p","strict":true,"schema":{schema}}}}}"#
    ));
    let line = format!("Answer with one JSON object only. It must fit this JSON schema:\n{schema}");
    let line = Value::from(line).to_string();
    check("chat", "anthropic", "claude-opus-4-8", &chat, "/output_config/format/schema", schema);
    check("chat", "anthropic", "claude-3-5-haiku-20241022", &chat, "/output_config", "null");
    check("chat", "anthropic", "claude-3-5-haiku-20241022", &chat, "/system", &line);
    check("chat", "deepseek", "m", &chat, "/response_format", r#"{"type":"json_object"}"#);
    check("chat", "deepseek", "m", &chat, "/messages/0/content", &line);
    check("chat", "minimax", "m", &chat, "/response_format", "null");
    check("chat", "minimax", "m", &chat, "/messages/0/content", &line);
    check("chat", "groq", "m", &chat, "/response_format/json_schema/name", "\"p\"");
    let object = with(r#""response_format":{"type":"json_object"}"#);
    check("chat", "groq", "m", &object, "/response_format", r#"{"type":"json_object"}"#);
    check("chat", "groq", "m", &object, "/messages/0/role", "\"user\"");
    check(
        "chat",
        "anthropic",
        "claude-opus-4-8",
        &object,
        "/system",
        "\"Answer with one JSON object only.\"",
    );
    let responses = r#"{"input":"x","text":{"verbosity":"low","format":{"type":"json_object"}}}"#;
    check("responses", "groq", "m", responses, "/response_format", r#"{"type":"json_object"}"#);
    check("responses", "openai", "m", responses, "/verbosity", "\"low\"");
    check("responses", "groq", "m", responses, "/verbosity", "null");
}

#[test]
fn pictures_and_documents() {
    let part = |part: &str| format!(r#"{{"messages":[{{"role":"user","content":[{part}]}}]}}"#);
    let first = "/messages/0/content/0";
    for (shown, expected) in [
        (
            r#"{"type":"image_url","image_url":{"url":"data:image/jpg;base64,AA\/A"}}"#,
            r#"{"type":"image","source":{"type":"base64","media_type":"image/jpeg","data":"AA/A"}}"#,
        ),
        (
            r#"{"type":"image_url","image_url":"https://x"}"#,
            r#"{"type":"image","source":{"type":"url","url":"https://x"}}"#,
        ),
        (
            r#"{"type":"image_url","image_url":"data:image/tiff;base64,AA"}"#,
            r#"{"type":"text","text":"[image left out: image/tiff]"}"#,
        ),
        (
            r#"{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,AA"}}"#,
            r#"{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AA"},"title":"a.pdf"}"#,
        ),
        (r#"{"type":"file","file":{"file_id":"file-1"}}"#, r#"{"type":"text","text":"[file_id left out]"}"#),
        (
            r#"{"type":"input_audio","input_audio":{"data":"AA","format":"wav"}}"#,
            r#"{"type":"text","text":"[input_audio left out]"}"#,
        ),
    ] {
        check("chat", "anthropic", "claude-opus-4-8", &part(shown), first, expected);
    }
    let content = "/messages/0/content";
    let pdf = r#"{"type":"document","title":"T","source":{"type":"base64","media_type":"application/pdf","data":"AA"}}"#;
    check(
        "messages",
        "openai",
        "m",
        &part(pdf),
        first,
        r#"{"type":"file","file":{"filename":"T","file_data":"data:application/pdf;base64,AA"}}"#,
    );
    check("messages", "groq", "m", &part(pdf), content, "\"[document left out: T (application/pdf)]\"");
    let text =
        r#"{"type":"document","title":"T","source":{"type":"text","media_type":"text/plain","data":"x"}}"#;
    check("messages", "groq", "m", &part(text), content, r#""T:\nx""#);
    let nested = r#"{"type":"document","source":{"type":"content","content":[{"type":"text","text":"x"},{"type":"text","text":"y"}]}}"#;
    check("messages", "groq", "m", &part(nested), content, r#""x\n\ny""#);
    let url = r#"{"type":"document","source":{"type":"url","url":"https://x"}}"#;
    check("messages", "groq", "m", &part(url), content, "\"Document: https://x\"");
    let file = r#"{"type":"image","source":{"type":"file","file_id":"f"}}"#;
    check("messages", "groq", "m", &part(file), content, "\"[image file_id left out]\"");
}

#[test]
fn order_and_roles() {
    let messages = |list: &str| format!(r#"{{"messages":[{list}]}}"#);
    for (list, preset, model, pointer, expected) in [
        (
            r#"{"role":"assistant","content":"a"}"#,
            "anthropic",
            "claude-opus-4-8",
            "/messages/0/content/0/text",
            "\"Continue.\"",
        ),
        (
            r#"{"role":"assistant","content":"a"}"#,
            "anthropic",
            "claude-opus-4-8",
            "/messages/2/content/0/text",
            "\"Continue.\"",
        ),
        (
            r#"{"role":"assistant","content":"a \n"}"#,
            "anthropic",
            "claude-sonnet-4-5",
            "/messages/1/content/0/text",
            "\"a\"",
        ),
        (r#"{"role":"assistant","content":"a"}"#, "anthropic", "claude-sonnet-4-5", "/messages/2", "null"),
        (
            r#"{"role":"user","content":" "}"#,
            "anthropic",
            "claude-opus-4-8",
            "/messages/0/content/0/text",
            "\".\"",
        ),
        (
            r#"{"role":"user","content":"u"},{"role":"assistant","content":"a"}"#,
            "mistral",
            "m",
            "/messages/1/prefix",
            "true",
        ),
        (
            r#"{"role":"user","content":"u"},{"role":"assistant","content":"a"}"#,
            "openai",
            "m",
            "/messages/1/prefix",
            "null",
        ),
        (
            r#"{"role":"user","content":"u"},{"role":"assistant","content":null,"refusal":"no"}"#,
            "openai",
            "m",
            "/messages/1/content",
            "\"no\"",
        ),
        (
            r#"{"role":"user","content":"u"},{"role":"user","content":"v","name":"n"}"#,
            "openai",
            "m",
            "/messages",
            r#"[{"role":"user","content":"u\n\nv"}]"#,
        ),
        (
            r#"{"role":"developer","content":"d"},{"role":"user","content":"u"}"#,
            "groq",
            "m",
            "/messages/0/role",
            "\"system\"",
        ),
    ] {
        check("chat", preset, model, &messages(list), pointer, expected);
    }
    let instructions = r#"{"instructions":"I","input":[{"role":"developer","content":"D"},{"role":"user","content":"u"},{"role":"system","content":"S"}]}"#;
    check(
        "responses",
        "groq",
        "m",
        instructions,
        "/messages",
        r#"[{"role":"system","content":"I\n\nD"},{"role":"user","content":"u\n\nS"}]"#,
    );
    let shell = samples("responses", "request_shell_items").remove(0).1;
    check("responses", "groq", "m", &shell, "/tools/0/function/name", "\"local_shell\"");
    check("responses", "groq", "m", &shell, "/messages/2/tool_call_id", "\"call_s1\"");
}

#[test]
fn fields_of_responses_are_mapped_or_named() {
    let input = |members: &str| format!(r#"{{"input":"x",{members}}}"#);
    let dropped = |members: &str, preset: &str| {
        let body = input(members);
        let request = responses_in::read(&body).unwrap().request;
        let quirks = Quirks::of(Some(preset), "claude-sonnet-4-5");
        let target = Target { model_json: MODEL, quirks: &quirks, default_max_tokens: 4096 };
        match preset {
            "anthropic" => messages_out::write(&request, &target).1,
            _ => chat_out::write(&request, &target).1,
        }
    };
    let logprobs =
        r#""include":["message.output_text.logprobs","reasoning.encrypted_content"],"top_logprobs":3"#;
    check("responses", "openai", "m", &input(logprobs), "/logprobs", "true");
    check("responses", "openai", "m", &input(logprobs), "/top_logprobs", "3");
    check("responses", "openai", "m", &input(r#""top_logprobs":2"#), "/logprobs", "true");
    check("responses", "openai", "m", &input(r#""top_logprobs":0"#), "/logprobs", "null");
    check("responses", "groq", "m", &input(logprobs), "/logprobs", "null");
    for (members, preset, expected) in [
        (logprobs, "openai", &[][..]),
        (logprobs, "anthropic", &["top_logprobs", "logprobs"]),
        (r#""include":["file_search_call.results"]"#, "openai", &["file_search_call.results"]),
        (
            r#""background":false,"truncation":"disabled","max_tool_calls":3,"stream_options":{}"#,
            "openai",
            &[],
        ),
        (r#""truncation":"auto","context_management":[]"#, "openai", &["truncation", "context_management"]),
        (
            r#""reasoning":{"mode":"pro","context":"all","summary":"auto"}"#,
            "openai",
            &["reasoning.context", "reasoning.mode"],
        ),
    ] {
        assert_eq!(dropped(members, preset), expected, "{members} {preset}");
    }
}

#[test]
fn tools_without_a_definition_are_called_and_answered() {
    let body = r#"{"tools":[{"type":"shell"},{"type":"apply_patch"},{"type":"local_shell"}],"tool_choice":{"type":"shell"},"input":[
        {"role":"user","content":"x"},
        {"type":"shell_call","id":"sh_1","call_id":"a","status":"completed","action":{"commands":["ls"],"timeout_ms":null,"max_output_length":null}},
        {"type":"apply_patch_call","id":"apc_1","call_id":"b","status":"completed","operation":{"type":"delete_file","path":"p"}},
        {"type":"local_shell_call","id":"lsh_1","call_id":"c","status":"completed","action":{"type":"exec","command":["ls"],"env":{}}},
        {"type":"shell_call_output","call_id":"a","output":[{"stdout":"out","stderr":"err","outcome":{"type":"exit","exit_code":1}}]},
        {"type":"apply_patch_call_output","call_id":"b","status":"failed","output":"no such file"},
        {"type":"local_shell_call_output","id":"c","output":"done"}]}"#;
    let read = responses_in::read(body).unwrap();
    for (name, kind) in [
        ("shell", ToolKind::Shell),
        ("apply_patch", ToolKind::ApplyPatch),
        ("local_shell", ToolKind::LocalShell),
    ] {
        assert_eq!((read.tools.0[name].kind, read.tools.0[name].name.as_str()), (kind, name));
        assert!(read.request.tools.iter().any(|tool| tool.name == name), "{name}");
    }
    let expected = [
        "User: x",
        r#"Assistant: call a shell {"commands":["ls"],"max_output_length":null,"timeout_ms":null} | call b apply_patch {"path":"p","type":"delete_file"} | call c local_shell {"command":["ls"],"env":{},"type":"exec"} | "#,
        r#"User: result a outerr {"type":"exit","exit_code":1} false | result b no such file true | result c done false | "#,
    ];
    let found: Vec<String> =
        outline(&read.request.turns, false).iter().map(|line| line.replace('\n', " ")).collect();
    assert_eq!(found, expected);
    check("responses", "openai", "m", body, "/tool_choice/function/name", "\"shell\"");
}

#[test]
fn responses_go_on_from_kept_items() {
    let first = r#"{"input":"one","instructions":"I"}"#;
    let first = responses_in::read(first).unwrap();
    assert_eq!((first.store, first.previous_response_id.is_none()), (true, true));
    let mut kept: Vec<String> = first.items.into_iter().map(|item| item.into_owned()).collect();
    kept.push(r#"{"type":"function_call","call_id":"c","name":"f","arguments":"{}"}"#.to_owned());
    let second = r#"{"input":[{"type":"function_call_output","call_id":"c","output":"1"}],"previous_response_id":"resp_1","store":false}"#;
    let second = responses_in::read_after(&kept, second).unwrap();
    assert_eq!(
        (second.store, second.previous_response_id.as_deref(), second.items.len()),
        (false, Some("resp_1"), 1)
    );
    let expected = ["User: one", "Assistant: call c f {} | ", "User: result c 1 false | "];
    assert_eq!(outline(&second.request.turns, false), expected);
    assert!(second.request.system.is_empty(), "instructions are not carried over");
    let alone = responses_in::read(r#"{"previous_response_id":"resp_1"}"#).unwrap();
    assert!(alone.request.turns.is_empty() && alone.items.is_empty());
}

#[test]
fn bad_fields_are_named() {
    for (from, body, param) in [
        ("messages", r#"{"messages":[{"role":"user","content":""}]}"#.to_owned(), "messages"),
        ("responses", r#"{"input":""}"#.to_owned(), "input"),
        ("responses", r#"{"input":[{"type":"unheard_of"}]}"#.to_owned(), "input"),
        ("chat", "{}".to_owned(), "messages"),
        ("chat", r#"{"messages":[]}"#.into(), "messages"),
        ("chat", r#"{"messages":{}}"#.into(), "messages"),
        ("chat", r#"{"messages":[1]}"#.into(), "messages[0]"),
        ("chat", r#"{"messages":[{"content":"x"}]}"#.into(), "messages[0].role"),
        ("chat", r#"{"messages":[{"role":"boss","content":"x"}]}"#.into(), "messages[0].role"),
        ("chat", r#"{"messages":[{"role":"user","content":7}]}"#.into(), "messages[0].content"),
        ("chat", r#"{"messages":[{"role":"user"}]}"#.into(), "messages[0].content"),
        ("chat", r#"{"messages":[{"role":"user","content":[{"text":"x"}]}]}"#.into(), "messages[0].content[0].type"),
        ("chat", r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]}"#.into(), "messages[0].content[0].image_url.url"),
        ("chat", r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":1}}]}]}"#.into(), "messages[0].tool_calls[0].function.name"),
        ("chat", with(r#""tools":[{"type":"function","function":{"name":"f","parameters":[]}}]"#), "tools[0].function.parameters"),
        ("chat", with(r#""tools":[{"type":"function"}]"#), "tools[0].function"),
        ("chat", with(r#""tool_choice":"perhaps""#), "tool_choice"),
        ("chat", with(r#""temperature":"hot""#), "temperature"),
        ("chat", with(r#""max_tokens":1.5"#), "max_tokens"),
        ("chat", with(r#""max_tokens":-1"#), "max_tokens"),
        ("chat", with(r#""stop":7"#), "stop"),
        ("chat", with(r#""stop":["a",7]"#), "stop[1]"),
        ("chat", with(r#""stream":"yes""#), "stream"),
        ("chat", with(r#""model":7"#), "model"),
        ("chat", with(r#""user":7"#), "user"),
        ("chat", with(r#""reasoning_effort":7"#), "reasoning_effort"),
        ("chat", with(r#""response_format":"json""#), "response_format"),
        ("chat", with(r#""response_format":{"type":"json_schema","json_schema":{"schema":7}}"#), "response_format.json_schema.schema"),
        ("chat", with(r#""parallel_tool_calls":"no""#), "parallel_tool_calls"),
        ("messages", r#"{"messages":[{"role":"user","content":[{"type":"image","source":"x"}]}]}"#.into(), "messages[0].content[0].source"),
        ("messages", r#"{"messages":[{"role":"user","content":[{"type":"image"}]}]}"#.into(), "messages[0].content[0].source"),
        ("messages", r#"{"messages":[{"role":"user","content":[{"type":"image","source":{"type":"ftp"}}]}]}"#.into(), "messages[0].content[0].source.type"),
        ("messages", r#"{"messages":[{"role":"user","content":[{"type":"tool_use","id":"a","name":"f","input":{}}]}]}"#.into(), "messages[0].content[0].type"),
        ("messages", r#"{"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":7}]}]}"#.into(), "messages[0].content[0].input"),
        ("messages", r#"{"messages":[{"role":"user","content":[{"type":"tool_result"}]}]}"#.into(), "messages[0].content[0].tool_use_id"),
        ("messages", r#"{"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":[{"type":"text"}]}]}]}"#.into(), "messages[0].content[0].content[0].text"),
        ("messages", with(r#""system":7"#), "system"),
        ("messages", with(r#""system":[{"type":"text","text":7}]"#), "system[0].text"),
        ("messages", with(r#""tools":[{"name":"f"}]"#), "tools[0].input_schema"),
        ("messages", with(r#""tool_choice":"auto""#), "tool_choice"),
        ("messages", with(r#""tool_choice":{"type":"tool"}"#), "tool_choice.name"),
        ("messages", with(r#""thinking":{"type":"enabled","budget_tokens":"x"}"#), "thinking.budget_tokens"),
        ("messages", with(r#""thinking":{"type":"hard"}"#), "thinking.type"),
        ("messages", with(r#""metadata":{"user_id":7}"#), "metadata.user_id"),
        ("messages", with(r#""output_config":{"format":{}}"#), "output_config.format.type"),
        ("responses", "{}".into(), "input"),
        ("responses", r#"{"input":7}"#.into(), "input"),
        ("responses", r#"{"input":["x"]}"#.into(), "input[0]"),
        ("responses", r#"{"input":[{"role":"boss","content":"x"}]}"#.into(), "input[0].role"),
        ("responses", r#"{"input":[{"role":"user","content":[{"type":"input_image","image_url":7}]}]}"#.into(), "input[0].content[0].image_url"),
        ("responses", r#"{"input":[{"type":"item_reference","id":"x"}]}"#.into(), "input[0]"),
        ("responses", r#"{"input":[{"id":"x"}]}"#.into(), "input[0]"),
        ("responses", r#"{"input":[{"type":"function_call_output","output":"x"}]}"#.into(), "input[0].call_id"),
        ("responses", r#"{"input":[{"type":"function_call","call_id":"x"}]}"#.into(), "input[0].name"),
        ("responses", r#"{"input":"x","tools":[{"type":"namespace","name":"n","tools":[{"type":"function"}]}]}"#.into(), "tools[0].tools[0].name"),
        ("responses", r#"{"input":"x","prompt":{"id":"p"}}"#.into(), "prompt"),
        ("responses", r#"{"input":"x","conversation":"c"}"#.into(), "conversation"),
        ("responses", r#"{"input":"x","background":true}"#.into(), "background"),
        ("responses", r#"{"input":"x","background":"no"}"#.into(), "background"),
        ("responses", r#"{"input":"x","include":"all"}"#.into(), "include"),
        ("responses", r#"{"input":"x","include":[7]}"#.into(), "include[0]"),
        ("responses", r#"{"input":"x","top_logprobs":"x"}"#.into(), "top_logprobs"),
        ("responses", r#"{"input":"x","truncation":"some"}"#.into(), "truncation"),
        ("responses", r#"{"input":"x","max_tool_calls":-1}"#.into(), "max_tool_calls"),
        ("responses", r#"{"input":"x","stream_options":7}"#.into(), "stream_options"),
        ("responses", r#"{"input":"x","store":"no"}"#.into(), "store"),
        ("responses", r#"{"input":"x","instructions":[]}"#.into(), "instructions"),
        ("responses", r#"{"input":"x","reasoning":{"effort":7}}"#.into(), "reasoning.effort"),
        ("responses", r#"{"input":"x","text":{"format":7}}"#.into(), "text.format"),
    ] {
        let error = read(from, &body).err().unwrap_or_else(|| panic!("taken: {body}"));
        assert_eq!((error.status, error.param.as_deref()), (400, Some(param)), "{error:?}\n{body}");
        assert!(error.message.contains(param), "{error:?}");
    }
    for body in [
        "",
        "  ",
        "[]",
        "7",
        "{",
        r#"{"model":"a","model":"b","messages":[]}"#,
        r#"{"messages":[],"messages":[]}"#,
    ] {
        for from in ["chat", "messages", "responses"] {
            let error = read(from, body).err().unwrap_or_else(|| panic!("{from} took {body}"));
            assert!(error.status == 400 && error.message.starts_with("The body"), "{error:?}");
        }
    }
}
