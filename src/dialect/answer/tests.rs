//! Readers and writers together, over the golden files.

use super::failure::read_failure;
use super::grammar::{Frames, Grammar, Said, SaidEnd, check_chat, check_messages, check_responses};
use super::think::ThinkTags;
use super::*;
use crate::dialect::error::ApiError;
use crate::dialect::model::{
    Block, ClientTool, ClientTools, Event, Failure, MARK, StopReason, ToolKind, Usage,
};
use crate::http::sse::{SseParser, push_event};
use crate::limits::BLOCK_CITATIONS_MAX;
use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;

fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// Names and contents of the golden files whose path begins so.
fn files(folder: &str, prefix: &str) -> Vec<(String, String)> {
    let mut found: Vec<_> = std::fs::read_dir(golden(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .map(|path| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(path).unwrap())
        })
        .collect();
    found.sort();
    found
}

fn reader(dialect: &str) -> Reader {
    match dialect {
        "chat" => Reader::Chat(Box::new(ChatReader::new(7, ThinkTags::None))),
        "messages" => Reader::Messages(Box::new(MessagesReader::new(7))),
        other => panic!("no reader for {other}"),
    }
}

fn writer(dialect: &str, tools: ClientTools) -> Writer {
    match dialect {
        "chat" => Writer::Chat(Box::new(ChatWriter::new(&names(), true, tools))),
        "messages" => Writer::Messages(Box::new(MessagesWriter::new(&names(), tools))),
        "responses" => Writer::Responses(Box::new(ResponsesWriter::new(&names(), tools, Echo::default()))),
        other => panic!("no writer for {other}"),
    }
}

/// How a stream ended for the one who drives it.
#[derive(Debug, PartialEq, Clone)]
enum Outcome {
    Done,
    Truncated,
    Error,
    Broken,
}

/// Drives a reader as the proxy does: failures in mid-answer are told in-band.
fn drive<'a>(
    dialect: &str,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    framed: bool,
    sink: Sink<'_>,
) -> (Outcome, bool) {
    let mut reader = reader(dialect);
    let outcome = drive_reader(&mut reader, pieces, framed, sink);
    (outcome, reader.has_content())
}

fn drive_reader<'a>(
    reader: &mut Reader,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    framed: bool,
    sink: Sink<'_>,
) -> Outcome {
    let mut parser = SseParser::default();
    let mut pieces = pieces.into_iter();
    let mut at_end = false;
    while !at_end && !reader.is_done() {
        match pieces.next() {
            Some(piece) => parser.feed(piece).unwrap(),
            None => {
                at_end = true;
                parser.finish();
            }
        }
        while let Some(event) = parser.next_event() {
            let read = match event.is_body {
                true => reader.whole(&event.data, sink),
                false => reader.event(&event.name, &event.data, sink),
            };
            match read {
                Ok(()) | Err(ReadError::Malformed) => {}
                Err(ReadError::Error(text)) => {
                    let (failure, message) = read_failure(&text);
                    sink(Event::Failed { failure, message: &message });
                    return Outcome::Error;
                }
                Err(ReadError::Broken(message)) => {
                    sink(Event::Failed { failure: Failure::Server, message });
                    return Outcome::Broken;
                }
            }
        }
    }
    let framed = framed && !parser.is_truncated();
    match reader.end(framed || reader.is_done(), sink) {
        Ok(()) => Outcome::Done,
        Err(Truncated) => {
            sink(Event::Failed { failure: Failure::Server, message: "The provider's answer broke off." });
            Outcome::Truncated
        }
    }
}

fn names() -> Names {
    Names {
        provider_json: Some("\"p\"".into()),
        model_json: "\"backend-model\"".into(),
        seed: 42,
        created: 1_795_400_000,
    }
}

/// The frames of a client for what `feed` says.
fn written(dialect: &str, tools: &ClientTools, feed: impl FnOnce(Sink<'_>)) -> Frames {
    let mut frames = Frames::new();
    let mut writer = writer(dialect, tools.clone());
    feed(&mut |event| writer.event(event, &mut |name, data| frames.push((name.to_owned(), data.to_owned()))));
    frames
}

#[track_caller]
fn check_frames(dialect: &str, frames: &Frames) {
    match dialect {
        "chat" => check_chat(frames, true),
        "messages" => check_messages(frames),
        _ => drop(check_responses(frames)),
    }
}

fn folded(dialect: &str, fold: Fold) -> String {
    match dialect {
        "chat" => fold.into_chat(&names(), &ClientTools::default()),
        "messages" => fold.into_messages(&names(), &ClientTools::default()),
        _ => fold.into_responses(&names(), ClientTools::default(), Echo::default()),
    }
}

/// Events of a stream through the grammar.
fn said(dialect: &str, stream: &[u8], framed: bool) -> (Said, Outcome, bool) {
    let mut grammar = Grammar::default();
    let (outcome, content) = drive(dialect, [stream], framed, &mut |event| grammar.event(&event));
    (grammar.said, outcome, content)
}

// --- Golden pairs -------------------------------------------------------------------------------------------

/// Compares by the rules of the pairs: absent is null, `<placeholders>` match their kind, and those with a number
/// match the same value everywhere.
struct Matcher {
    bound: HashMap<String, Value>,
}

impl Matcher {
    fn check(&mut self, path: &str, expected: &Value, actual: &Value) {
        match (expected, actual) {
            (Value::String(mark), _) if mark.starts_with('<') => self.placeholder(path, mark, actual),
            (Value::String(json), Value::String(text))
                if path.ends_with(".arguments") && !json.is_empty() =>
            {
                let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
                assert_eq!(parse(json), parse(text), "{path}");
            }
            (Value::Object(expected), Value::Object(actual)) => {
                // Other fields of a response echo the request; the table of usage names has the thinking tokens; the
                // provider's name is an addition of ours.
                let is_response = expected.get("object").is_some_and(|object| object == "response");
                let keys = expected.keys().chain(actual.keys().filter(|key| {
                    !is_response
                        && !["output_tokens_details", "completion_tokens_details", "provider_name"]
                            .contains(&key.as_str())
                }));
                for key in keys {
                    let null = Value::Null;
                    let (expected, actual) =
                        (expected.get(key).unwrap_or(&null), actual.get(key).unwrap_or(&null));
                    self.check(&format!("{path}.{key}"), expected, actual);
                }
            }
            (Value::Array(expected), Value::Array(actual)) => {
                assert_eq!(expected.len(), actual.len(), "{path}: {expected:#?} against {actual:#?}");
                for (n, (expected, actual)) in expected.iter().zip(actual).enumerate() {
                    self.check(&format!("{path}[{n}]"), expected, actual);
                }
            }
            _ => assert_eq!(expected, actual, "{path}"),
        }
    }

    fn placeholder(&mut self, path: &str, mark: &str, actual: &Value) {
        let text = actual.as_str().unwrap_or_default();
        let fits = match mark {
            "<ts>" => actual.is_u64(),
            "<model>" => actual == "backend-model",
            "<msg_id>" => text.starts_with("msg_"),
            "<resp_id>" => text.starts_with("resp_"),
            "<chatcmpl_id>" => text.starts_with("chatcmpl-"),
            "<own marker>" => text.starts_with(MARK),
            "<any>" | "<any text>" => !text.is_empty(),
            _ if mark.starts_with("<item_") => {
                ["msg_", "rs_", "fc_", "ctc_"].iter().any(|p| text.starts_with(p))
            }
            other => panic!("{path}: placeholder {other}"),
        };
        assert!(fits, "{path}: {actual} is no {mark}");
        if mark.contains(|c: char| c.is_ascii_digit()) {
            let known = self.bound.entry(mark.to_owned()).or_insert_with(|| actual.clone());
            assert_eq!(known, actual, "{path}: {mark}");
        }
    }
}

/// Adjacent deltas of one block joined, numbers of events left out.
fn joined(events: Vec<Value>) -> Vec<Value> {
    fn text_of(event: &Value) -> Option<&'static str> {
        [
            "/delta",
            "/delta/text",
            "/delta/thinking",
            "/delta/partial_json",
            "/choices/0/delta/content",
            "/choices/0/delta/reasoning_content",
            "/choices/0/delta/tool_calls/0/function/arguments",
        ]
        .into_iter()
        .find(|path| event.pointer(path).is_some_and(|text| text.is_string() && text != ""))
    }
    let mut out: Vec<Value> = Vec::new();
    for mut event in events {
        if let Some(object) = event.as_object_mut() {
            object.remove("sequence_number");
        }
        if let (Some(path), Some(last)) = (text_of(&event), out.last_mut()) {
            let text = event.pointer(path).unwrap().as_str().unwrap().to_owned();
            let mut blank = [last.clone(), event.clone()];
            blank.iter_mut().for_each(|event| {
                if let Some(text) = event.pointer_mut(path) {
                    *text = Value::Null;
                }
            });
            if text_of(last) == Some(path) && blank[0] == blank[1] {
                let whole = last.pointer(path).unwrap().as_str().unwrap().to_owned() + &text;
                *last.pointer_mut(path).unwrap() = Value::from(whole);
                continue;
            }
        }
        out.push(event);
    }
    out
}

fn pairs(kind: &str) -> Vec<(String, Value)> {
    files("pairs", kind)
        .into_iter()
        .map(|(name, text)| (name, serde_json::from_str(&text).unwrap()))
        .collect()
}

fn input(pair: &Value) -> (String, String, String) {
    let text = |key: &str| pair[key].as_str().unwrap().to_owned();
    (text("from"), text("to"), std::fs::read_to_string(golden(&text("input"))).unwrap())
}

#[test]
fn golden_pairs_of_whole_answers() {
    let pairs = pairs("res_");
    assert_eq!(pairs.len(), 16);
    for (name, pair) in pairs {
        let (from, to, text) = input(&pair);
        let mut fold = Fold::default();
        reader(&from).whole(&text, &mut |event| fold.event(event)).unwrap();
        let actual: Value = serde_json::from_str(&folded(&to, fold)).unwrap();
        assert_eq!(actual["provider_name"], "p");
        Matcher { bound: HashMap::new() }.check(&name, &pair["expect"], &actual);
    }
}

#[test]
fn golden_pairs_of_streams() {
    let pairs = pairs("str_");
    assert_eq!(pairs.len(), 15);
    for (name, pair) in pairs {
        let (from, to, stream) = input(&pair);
        let frames = written(&to, &ClientTools::default(), |sink| {
            drive(&from, [stream.as_bytes()], true, sink);
        });
        check_frames(&to, &frames);
        let actual = frames
            .iter()
            .filter(|(_, data)| data != "[DONE]")
            .map(|(_, data)| serde_json::from_str(data).unwrap());
        let actual = Value::from(joined(actual.collect()));
        let expected = Value::from(joined(pair["expect"].as_array().unwrap().clone()));
        Matcher { bound: HashMap::new() }.check(&name, &expected, &actual);
    }
}

#[test]
fn golden_pairs_of_errors() {
    let pairs = pairs("err_");
    assert_eq!(pairs.len(), 7);
    for (name, pair) in pairs {
        let error = match name.as_str() {
            "err_all_failed.json" => ApiError::new(503, "m").code("all_providers_failed"),
            "err_all_rate_limited.json" => ApiError::new(429, "m").code("rate_limit_exceeded"),
            "err_bad_request.json" => ApiError::new(400, "m"),
            "err_body_too_large.json" => ApiError::new(413, "m"),
            "err_context.json" => ApiError::new(400, "9000 of 8192").code("context_length_exceeded"),
            "err_proxy_key.json" => ApiError::new(401, "m"),
            "err_unknown_model.json" => ApiError::new(400, "m").code("model_not_found"),
            other => panic!("{other} is not known here"),
        };
        let parse = |text: String| serde_json::from_str::<Value>(&text).unwrap();
        let mut messages = pair["messages"].clone();
        if name == "err_context.json" {
            messages["body"]["error"]["message"] = "prompt is too long: 9000 tokens > 8192 maximum".into();
        }
        let mut openai = pair["chat_and_responses"].clone();
        if openai["body"]["error"]["code"] == "<any or absent>" {
            openai["body"]["error"]["code"] = Value::Null;
        }
        let mut matcher = Matcher { bound: HashMap::new() };
        assert_eq!(messages["status"], error.anthropic_status(), "{name}");
        matcher.check(&name, &messages["body"], &parse(error.to_anthropic()));
        assert_eq!(openai["status"], error.status, "{name}");
        matcher.check(&name, &openai["body"], &parse(error.to_openai()));
    }
}

// --- All samples --------------------------------------------------------------------------------------------

/// Dialect, name and bytes of every stream of a provider.
fn streams() -> Vec<(&'static str, String, String)> {
    let of = |dialect: &'static str| {
        files(dialect, "stream_").into_iter().map(move |(name, text)| (dialect, name, text))
    };
    let all: Vec<_> = of("chat").chain(of("messages")).collect();
    assert!(all.len() >= 44, "only {} streams found", all.len());
    all
}

fn wholes() -> Vec<(&'static str, String, String)> {
    let of = |dialect: &'static str| {
        files(dialect, "response_").into_iter().map(move |(name, text)| (dialect, name, text))
    };
    let all: Vec<_> =
        of("chat").chain(of("messages")).filter(|(_, name, _)| !name.contains("count_tokens")).collect();
    assert!(all.len() >= 28, "only {} answers found", all.len());
    all
}

#[test]
fn every_sample_says_the_same_at_every_split() {
    for (dialect, name, text) in streams() {
        let bytes = text.as_bytes();
        let expected = said(dialect, bytes, true);
        for cut in 0..=bytes.len() {
            let mut grammar = Grammar::default();
            let got =
                drive(dialect, [&bytes[..cut], &bytes[cut..]], true, &mut |event| grammar.event(&event));
            assert_eq!((grammar.said, got.0, got.1), expected, "{name} cut at {cut}");
        }
        let mut grammar = Grammar::default();
        drive(dialect, bytes.chunks(1), true, &mut |event| grammar.event(&event));
        assert_eq!(grammar.said, expected.0, "{name} byte by byte");
    }
}

#[test]
fn samples_end_as_they_should() {
    for (dialect, name, text) in streams() {
        let (said, outcome, content) = said(dialect, text.as_bytes(), true);
        let expected = match name.as_str() {
            "stream_cut.sse" => Outcome::Truncated,
            name if name.contains("_error_") || name.contains("html") => Outcome::Error,
            _ => Outcome::Done,
        };
        // A body that is no stream is told by the one who drives.
        if !name.contains("html") {
            assert_eq!(outcome, expected, "{dialect} {name}");
        }
        let empty =
            ["stream_empty.sse", "stream_error_first.sse", "stream_html_body.txt", "stream_refusal.sse"];
        assert_eq!(
            content,
            !empty.contains(&name.as_str()) || (dialect == "chat" && name == "stream_refusal.sse"),
            "{dialect} {name}: {said:?}"
        );
    }
}

#[test]
fn every_writer_satisfies_its_protocol_with_every_sample() {
    for to in ["chat", "messages", "responses"] {
        for (dialect, name, text) in streams() {
            let frames = written(to, &ClientTools::default(), |sink| {
                drive(dialect, [text.as_bytes()], true, sink);
            });
            println!("{dialect} {name} to {to}");
            check_frames(to, &frames);
        }
        for (dialect, name, text) in wholes() {
            let mut result = Ok(());
            let frames = written(to, &ClientTools::default(), |sink| {
                result = reader(dialect).whole(&text, sink);
            });
            println!("{dialect} {name} to {to}");
            match result {
                Ok(()) => check_frames(to, &frames),
                Err(error) => assert!(
                    matches!(error, ReadError::Error(_)) && name.contains("error"),
                    "{name}: {error:?}"
                ),
            }
        }
    }
}

/// What a whole answer and a stream have in common: everything but the ids that their writers made.
fn essence(json: &str) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(object) => {
                object.remove("signature");
                object.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = serde_json::from_str(json).unwrap();
    strip(&mut value);
    value
}

#[test]
fn a_whole_answer_is_the_fold_of_its_stream() {
    for to in ["chat", "messages", "responses"] {
        for (dialect, name, text) in wholes() {
            let (mut direct, mut ok) = (Fold::default(), false);
            let frames = written(to, &ClientTools::default(), |sink| {
                ok = reader(dialect)
                    .whole(&text, &mut |event| {
                        direct.event(event.clone());
                        sink(event);
                    })
                    .is_ok();
            });
            if !ok {
                continue;
            }
            let whole = essence(&folded(to, direct));
            if to == "responses" {
                assert_eq!(whole, check_responses(&frames), "{name}");
                continue;
            }
            let mut stream = Vec::new();
            frames.iter().for_each(|(name, data)| push_event(&mut stream, name, data));
            let mut again = Fold::default();
            drive(to, [&stream[..]], true, &mut |event| again.event(event));
            assert_eq!(whole, essence(&folded(to, again)), "{dialect} {name} to {to}");
        }
    }
}

/// Blocks with what a protocol cannot say made equal.
fn common(mut said: Said, through: &str) -> Said {
    said.id.clear();
    said.model.clear();
    if through == "messages" {
        // There is no place for them.
        said.cited.clear();
        said.logprobs.clear();
    }
    said.blocks.retain(|block| block.kind != "redacted" || through == "messages");
    for block in &mut said.blocks {
        block.signature = None;
        if block.kind == "tool" && block.text.is_empty() {
            block.text.push_str("{}");
        }
        if block.kind == "refusal" && through == "messages" {
            block.kind = "text";
        }
    }
    said.blocks.retain(|block| block.kind == "tool" || block.kind == "redacted" || !block.text.is_empty());
    if through == "chat"
        && let Some(SaidEnd::Finish(reason, sequence, _)) = &mut said.end
    {
        if *reason == StopReason::StopSequence {
            (*reason, *sequence) = (StopReason::End, None);
        }
        if *reason == StopReason::Refusal && said.blocks.iter().all(|block| block.kind != "refusal") {
            let block = super::grammar::SaidBlock {
                kind: "refusal",
                id: String::new(),
                name: String::new(),
                text: super::chat_write::REFUSAL.into(),
                signature: None,
            };
            said.blocks.push(block);
        }
    }
    said
}

#[test]
fn what_is_written_reads_back() {
    let mut compared = 0;
    for through in ["messages", "chat"] {
        for (dialect, name, text) in streams() {
            let (first, outcome, _) = said(dialect, text.as_bytes(), true);
            if outcome != Outcome::Done {
                continue;
            }
            let frames = written(through, &ClientTools::default(), |sink| {
                drive(dialect, [text.as_bytes()], true, sink);
            });
            let mut stream = Vec::new();
            frames.iter().for_each(|(name, data)| push_event(&mut stream, name, data));
            let (second, outcome, _) = said(through, &stream, true);
            assert_eq!(outcome, Outcome::Done, "{name}");
            assert_eq!(common(second, through), common(first, through), "{dialect} {name} through {through}");
            compared += 1;
        }
    }
    assert!(compared >= 70, "{compared}");
}

#[test]
fn answers_cut_at_every_byte_never_end_well_by_mistake() {
    for (dialect, name, text) in streams() {
        let bytes = text.as_bytes();
        let (whole, outcome, _) = said(dialect, bytes, true);
        for cut in 0..bytes.len() {
            for framed in [false, true] {
                let (part, ended, _) = said(dialect, &bytes[..cut], framed);
                assert!(part.end.is_some(), "{name} cut at {cut}: every stream gets an end");
                if framed || ended != Outcome::Done || outcome != Outcome::Done {
                    continue;
                }
                // A finish reason or the end mark was there, so only usage can be missing.
                assert_eq!(part.blocks, whole.blocks, "{name} cut at {cut}");
            }
        }
    }
    for (dialect, _, text) in wholes() {
        for cut in (0..text.trim_end().len()).filter(|&cut| text.is_char_boundary(cut)) {
            let mut grammar = Grammar::default();
            let read = reader(dialect).whole(&text[..cut], &mut |event| grammar.event(&event));
            assert!(read.is_err(), "{dialect} cut at {cut}: {:?}", &text[..cut]);
        }
    }
}

#[test]
fn nonsense_in_any_place_is_survived() {
    for (dialect, _, text) in streams().into_iter().chain(wholes()) {
        for at in (0..text.len()).step_by(3) {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = b"\"{]0\\"[at % 5];
            let (said, ..) = said(dialect, &bytes, false);
            assert!(said.end.is_some(), "{at} of {text}");
        }
    }
}

// --- Random answers -----------------------------------------------------------------------------------------

fn random_text(dice: &mut fastrand::Rng) -> String {
    let words = ["a", "\n", "\"", "\\\\", "ä", "😀", "\u{7f}", "\u{1}", "</think>", " ", "{", "}", "data: "];
    (0..dice.usize(1..12)).map(|_| words[dice.usize(..words.len())]).collect()
}

fn random_arguments(dice: &mut fastrand::Rng) -> String {
    serde_json::json!({ "a": random_text(dice), "b": [dice.u32(..), { "c": null }] }).to_string()
}

/// `text` in pieces.
fn random_pieces(dice: &mut fastrand::Rng, text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for c in text.chars() {
        if dice.u8(..4) == 0 {
            pieces.push(String::new());
        }
        pieces.last_mut().unwrap().push(c);
    }
    pieces
}

#[test]
fn random_answers_read_back() {
    for seed in 0..300 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut grammar = Grammar::default();
        let mut events: Vec<(&str, String, Vec<String>)> = Vec::new();
        for n in 0..dice.usize(1..6) {
            let kind = ["text", "thinking", "tool"][dice.usize(..3)];
            let text = if kind == "tool" { random_arguments(&mut dice) } else { random_text(&mut dice) };
            if kind == "tool" || events.last().is_none_or(|(last, ..)| *last != kind) {
                events.push((kind, format!("call_{n}"), random_pieces(&mut dice, &text)));
            }
        }
        // An answer of nothing but reasoning is said twice by design.
        events.push(("text", String::new(), vec!["end".into()]));
        events.dedup_by(|next, last| next.0 == "text" && last.0 == "text");
        let tools = events.iter().any(|(kind, ..)| *kind == "tool");
        let output = dice.u64(1..1000);
        let input = dice.u64(200..1000);
        let usage = Usage {
            input,
            cache_read: dice.u64(..100),
            cache_write: dice.u64(..100),
            output,
            reasoning: dice.u64(..output),
        };
        let reason = if tools { StopReason::ToolUse } else { StopReason::End };
        let feed = |sink: Sink<'_>| {
            let mut both = |event: Event<'_>| sink(event);
            both(Event::Start { id: "", model: "", usage: Usage::default() });
            for (kind, id, pieces) in &events {
                both(Event::Open(match *kind {
                    "text" => Block::Text,
                    "thinking" => Block::Thinking,
                    _ => Block::Tool { id, name: "f", signature: None },
                }));
                pieces.iter().filter(|piece| !piece.is_empty()).for_each(|piece| both(Event::Delta(piece)));
                both(Event::Close { signature: None });
            }
            both(Event::Finish { reason, stop_sequence: None, usage });
        };
        feed(&mut |event| grammar.event(&event));
        for through in ["chat", "messages"] {
            let frames = written(through, &ClientTools::default(), feed);
            check_frames(through, &frames);
            let mut stream = Vec::new();
            frames.iter().for_each(|(name, data)| push_event(&mut stream, name, data));
            let (again, outcome, _) = said(through, &stream, true);
            assert_eq!(outcome, Outcome::Done);
            assert_eq!(
                common(again, through),
                common(grammar.said.clone(), through),
                "seed {seed} through {through}"
            );
            let mut fold = Fold::default();
            feed(&mut |event| fold.event(event));
            let mut whole = Grammar::default();
            reader(through).whole(&folded(through, fold), &mut |event| whole.event(&event)).unwrap();
            if through == "messages" {
                assert_eq!(
                    common(whole.said, through),
                    common(grammar.said.clone(), through),
                    "seed {seed}, whole"
                );
            }
        }
        let frames = written("responses", &ClientTools::default(), feed);
        let mut fold = Fold::default();
        feed(&mut |event| fold.event(event));
        let whole: Value = serde_json::from_str(&folded("responses", fold)).unwrap();
        assert_eq!(check_responses(&frames), whole, "seed {seed}");
    }
}

#[test]
fn interleaved_calls_come_out_whole() {
    for seed in 0..300 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let count = dice.usize(1..5);
        let arguments: Vec<String> = (0..count).map(|_| random_arguments(&mut dice)).collect();
        let mut left: Vec<Vec<String>> = arguments
            .iter()
            .map(|arguments| random_pieces(&mut dice, arguments).into_iter().rev().collect())
            .collect();
        let (mut grammar, mut reader, mut text) = (Grammar::default(), reader("chat"), String::new());
        let mut begun = vec![false; count];
        while left.iter().any(|pieces| !pieces.is_empty()) {
            let delta = if dice.u8(..5) == 0 {
                text.push('x');
                serde_json::json!({ "content": "x" })
            } else {
                let n = dice.usize(..count);
                let Some(piece) = left[n].pop() else { continue };
                let mut call = serde_json::json!({ "index": n, "function": { "arguments": piece } });
                // Sometimes the name comes late.
                if !begun[n] && (left[n].is_empty() || dice.bool()) {
                    begun[n] = true;
                    call["id"] = format!("call_{n}").into();
                    call["function"]["name"] = format!("f{n}").into();
                }
                serde_json::json!({ "tool_calls": [call] })
            };
            let chunk = serde_json::json!({ "choices": [{ "delta": delta }] }).to_string();
            reader.event("", &chunk, &mut |event| grammar.event(&event)).unwrap();
        }
        reader.end(true, &mut |event| grammar.event(&event)).unwrap();
        let blocks = &grammar.said.blocks;
        for (n, arguments) in arguments.iter().enumerate() {
            let call = blocks.iter().find(|block| block.name == format!("f{n}")).unwrap();
            assert_eq!((&call.text, &*call.id), (arguments, &*format!("call_{n}")), "seed {seed}");
        }
        let texts: String =
            blocks.iter().filter(|block| block.kind == "text").map(|block| &*block.text).collect();
        assert_eq!(texts, text, "seed {seed}");
    }
}

// --- Tools as the client knows them -------------------------------------------------------------------------

fn client_tools() -> ClientTools {
    let tool = |name: &str, namespace: Option<&str>, kind| ClientTool {
        name: name.into(),
        namespace: namespace.map(str::to_owned),
        kind,
    };
    ClientTools(HashMap::from([
        ("apply_patch".to_owned(), tool("apply_patch", None, ToolKind::Custom)),
        ("agents__spawn".to_owned(), tool("spawn", Some("agents"), ToolKind::Function)),
        ("mcp_read".to_owned(), tool("mcp.read", None, ToolKind::Function)),
    ]))
}

fn calls(sink: Sink<'_>) {
    sink(Event::Start { id: "", model: "", usage: Usage::default() });
    let all: [(&str, &[&str]); 3] = [
        ("apply_patch", &["{\"inp", "ut\":\"*** Begin\\n\"}"]),
        ("agents__spawn", &["{\"message\":", "\"x\"}"]),
        ("mcp_read", &[]),
    ];
    for (name, pieces) in all {
        sink(Event::Open(Block::Tool { id: &format!("call_{name}"), name, signature: Some("sig") }));
        pieces.iter().for_each(|piece| sink(Event::Delta(piece)));
        sink(Event::Close { signature: None });
    }
    sink(Event::Finish { reason: StopReason::ToolUse, stop_sequence: None, usage: Usage::default() });
}

#[test]
fn responses_clients_get_custom_and_namespace_calls() {
    let frames = written("responses", &client_tools(), calls);
    let response = check_responses(&frames);
    let mut fold = Fold::default();
    calls(&mut |event| fold.event(event));
    let whole = fold.into_responses(&names(), client_tools(), Echo::default());
    assert_eq!(serde_json::from_str::<Value>(&whole).unwrap(), response);
    let mut output = response["output"].clone();
    output
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(|item| drop(item.as_object_mut().unwrap().remove("id")));
    let expected = serde_json::json!([
        {"type":"custom_tool_call","call_id":"call_apply_patch","name":"apply_patch","input":"*** Begin\n",
            "status":"completed"},
        {"type":"function_call","call_id":"call_agents__spawn","name":"spawn","namespace":"agents",
            "arguments":"{\"message\":\"x\"}","status":"completed"},
        {"type":"function_call","call_id":"call_mcp_read","name":"mcp.read","arguments":"{}","status":"completed"},
    ]);
    assert_eq!(output, expected);
}

#[test]
fn responses_clients_get_calls_of_tools_that_need_no_definition() {
    let tool = |name: &str, kind| (name.to_owned(), ClientTool { name: name.into(), namespace: None, kind });
    let tools = ClientTools(HashMap::from([
        tool("local_shell", ToolKind::LocalShell),
        tool("shell", ToolKind::Shell),
        tool("apply_patch", ToolKind::ApplyPatch),
    ]));
    let calls = |reason: StopReason, sink: Sink<'_>| {
        sink(Event::Start { id: "", model: "", usage: Usage::default() });
        sink(Event::Open(Block::Text));
        sink(Event::Delta("Look:"));
        sink(Event::Close { signature: None });
        let all: [(&str, &[&str]); 3] = [
            ("local_shell", &["{\"command\":[\"ls\"", ",\"-l\"]}"]),
            ("shell", &[]),
            ("apply_patch", &["{\"type\":\"delete_file\",\"path\":\"a\"", "}"]),
        ];
        for (name, pieces) in all {
            sink(Event::Open(Block::Tool { id: name, name, signature: None }));
            let cut = reason == StopReason::MaxTokens && name == "apply_patch";
            pieces.iter().take(if cut { 1 } else { 2 }).for_each(|piece| sink(Event::Delta(piece)));
            sink(Event::Close { signature: None });
        }
        sink(Event::Finish { reason, stop_sequence: None, usage: Usage::default() });
    };
    for reason in [StopReason::ToolUse, StopReason::MaxTokens] {
        let response = check_responses(&written("responses", &tools, |sink| calls(reason, sink)));
        let mut fold = Fold::default();
        calls(reason, &mut |event| fold.event(event));
        let whole = fold.into_responses(&names(), tools.clone(), Echo::default());
        assert_eq!(serde_json::from_str::<Value>(&whole).unwrap(), response);
        let mut output = response["output"].clone();
        let items = output.as_array_mut().unwrap();
        items.remove(0);
        items.iter_mut().for_each(|item| drop(item.as_object_mut().unwrap().remove("id")));
        let last = match reason {
            StopReason::ToolUse => {
                serde_json::json!({"type":"apply_patch_call","call_id":"apply_patch","status":"completed",
                "operation":{"type":"delete_file","path":"a"}})
            }
            _ => serde_json::json!({"type":"apply_patch_call","call_id":"apply_patch","status":"in_progress",
                "operation":{"type":"update_file","path":"","diff":"{\"type\":\"delete_file\",\"path\":\"a\""}}),
        };
        let expected = serde_json::json!([
            {"type":"local_shell_call","call_id":"local_shell","status":"completed",
                "action":{"type":"exec","command":["ls","-l"],"env":{}}},
            {"type":"shell_call","call_id":"shell","status":"completed",
                "action":{"commands":[],"timeout_ms":null,"max_output_length":null}},
            last,
        ]);
        assert_eq!(output, expected);
    }
}

#[test]
fn chat_and_messages_clients_get_their_own_names() {
    let frames = written("chat", &client_tools(), calls);
    check_chat(&frames, true);
    let mut fold = Fold::default();
    calls(&mut |event| fold.event(event));
    let whole: Value = serde_json::from_str(&fold.into_chat(&names(), &client_tools())).unwrap();
    let google = serde_json::json!({"google":{"thought_signature":"sig"}});
    let expected = serde_json::json!([
        {"id":"call_apply_patch","type":"custom","custom":{"name":"apply_patch","input":"*** Begin\n"},"extra_content":google},
        {"id":"call_agents__spawn","type":"function","function":{"name":"spawn","arguments":"{\"message\":\"x\"}"},"extra_content":google},
        {"id":"call_mcp_read","type":"function","function":{"name":"mcp.read","arguments":"{}"},"extra_content":google},
    ]);
    assert_eq!(whole["choices"][0]["message"]["tool_calls"], expected);
    let deltas: String = frames.iter().map(|(_, data)| data.as_str()).collect();
    assert!(deltas.contains(r#"{"index":0,"custom":{"input":"*** Begin\n"}}"#), "{deltas}");
    let frames = written("messages", &client_tools(), calls);
    check_messages(&frames);
    assert!(frames.iter().any(|(_, data)| data.contains(r#""name":"mcp.read""#)));
}

// --- What texts have beside their words ----------------------------------------------------------------------

const LOGPROBS: [&str; 2] = [
    r#"{"token":"Hé","logprob":-0.1,"bytes":[72],"top_logprobs":[{"token":"Yo","logprob":-2.5,"bytes":null}]}"#,
    r#"{"token":"llo","logprob":-1e-3,"bytes":[108],"top_logprobs":[]}"#,
];
const CITED: &str = r#"{"type":"url_citation","url_citation":{"url":"https://a.example/\"x\"","title":"A","start_index":3,"end_index":5}}"#;

/// The same answer whole and as a stream: two texts around a call, log probabilities, a citation in each text.
fn cited_chat(stream: bool) -> Vec<String> {
    let second = CITED.replace("3,", "7,").replace("5}", "9}");
    let logprobs = |list: &str| format!(r#"{{"content":[{list}],"refusal":null}}"#);
    let call = r#"[{"index":0,"id":"c","function":{"name":"f","arguments":"{}"}}]"#;
    if !stream {
        let message =
            format!(r#"{{"content":"Héllo","annotations":[{CITED},{{"type":"file"}}],"tool_calls":{call}}}"#);
        let logprobs = logprobs(&LOGPROBS.join(","));
        return vec![format!(
            r#"{{"choices":[{{"message":{message},"logprobs":{logprobs},"finish_reason":"tool_calls"}}]}}"#
        )];
    }
    let chunk = |delta: &str, more: &str| format!(r#"{{"choices":[{{"index":0,"delta":{delta}{more}}}]}}"#);
    vec![
        chunk(r#"{"content":"Hé"}"#, &format!(r#","logprobs":{}"#, logprobs(LOGPROBS[0]))),
        chunk(r#"{"content":"llo"}"#, &format!(r#","logprobs":{}"#, logprobs(LOGPROBS[1]))),
        chunk(&format!(r#"{{"annotations":[{CITED}]}}"#), ""),
        chunk(&format!(r#"{{"tool_calls":{call}}}"#), r#","logprobs":null"#),
        chunk(
            &format!(r#"{{"content":"dear","annotations":[{second},{{"type":"url_citation"}},7]}}"#),
            r#","logprobs":{"content":[]}"#,
        ),
        chunk("{}", r#","finish_reason":"tool_calls""#),
        "[DONE]".to_owned(),
    ]
}

fn read_cited(stream: bool, sink: Sink<'_>) {
    let mut reader = ChatReader::new(1, ThinkTags::None);
    for data in cited_chat(stream) {
        match stream {
            true => reader.event("", &data, sink).unwrap(),
            false => reader.whole(&data, sink).unwrap(),
        }
    }
    reader.end(true, sink).unwrap();
}

#[test]
fn sources_and_probabilities_reach_responses_clients() {
    let probable: Value = serde_json::from_str(&format!("[{}]", LOGPROBS.join(","))).unwrap();
    let source = |start: u64, end: u64| {
        serde_json::json!([{"type":"url_citation","url":"https://a.example/\"x\"","title":"A",
            "start_index":start,"end_index":end}])
    };
    for stream in [false, true] {
        let mut fold = Fold::default();
        read_cited(stream, &mut |event| fold.event(event));
        let whole = fold.into_responses(&names(), ClientTools::default(), Echo::default());
        let response =
            check_responses(&written("responses", &ClientTools::default(), |sink| read_cited(stream, sink)));
        assert_eq!(serde_json::from_str::<Value>(&whole).unwrap(), response);
        let part = &response["output"][0]["content"][0];
        assert_eq!(
            (&part["text"], &part["logprobs"], &part["annotations"]),
            (&"Héllo".into(), &probable, &source(3, 5))
        );
        if stream {
            let part = &response["output"][2]["content"][0];
            assert_eq!((&part["text"], &part["logprobs"]), (&"dear".into(), &Value::from([(); 0].to_vec())));
            assert_eq!(part["annotations"], source(2, 4), "counted in the part");
        }
    }
}

#[test]
fn a_whole_response_is_written_without_events() {
    let whole = |tools: ClientTools, feed: &dyn Fn(Sink<'_>)| {
        let mut writer = ResponsesWriter::new(&names(), tools, Echo::default()).whole();
        let mut handed_out = Vec::new();
        feed(&mut |event| writer.event(event, &mut |name, _| handed_out.push(name.to_owned())));
        handed_out
    };
    let shell = ClientTool { name: "shell".into(), namespace: None, kind: ToolKind::Shell };
    let mut tools = client_tools();
    tools.0.insert("mcp_read".into(), shell);
    assert_eq!(whole(tools, &calls), ["response.completed"]);
    for stream in [false, true] {
        let written = whole(ClientTools::default(), &|sink| read_cited(stream, sink));
        assert_eq!(written, ["response.completed"]);
    }
}

#[test]
fn sources_and_probabilities_reach_chat_clients() {
    for stream in [false, true] {
        let frames = written("chat", &ClientTools::default(), |sink| read_cited(stream, sink));
        check_chat(&frames, true);
        let mut fold = Fold::default();
        read_cited(stream, &mut |event| fold.event(event));
        let whole: Value = serde_json::from_str(&fold.into_chat(&names(), &ClientTools::default())).unwrap();
        let choice = &whole["choices"][0];
        let expected: Value = serde_json::from_str(CITED).unwrap();
        assert_eq!(choice["message"]["annotations"][0], expected);
        let chunks: Vec<Value> =
            frames.iter().filter_map(|(_, data)| serde_json::from_str(data).ok()).collect();
        let deltas = chunks.iter().filter_map(|chunk| chunk["choices"].get(0));
        let probable: Vec<Value> = deltas
            .clone()
            .filter_map(|choice| choice["logprobs"]["content"].as_array())
            .flatten()
            .cloned()
            .collect();
        let cited: Vec<Value> = deltas
            .filter_map(|choice| choice["delta"]["annotations"].as_array())
            .flatten()
            .cloned()
            .collect();
        assert_eq!(choice["logprobs"]["content"], Value::from(probable));
        assert_eq!(choice["logprobs"]["content"].as_array().unwrap().len(), 2);
        assert_eq!(choice["message"]["annotations"], Value::from(cited));
        check_messages(&written("messages", &ClientTools::default(), |sink| read_cited(stream, sink)));
    }
}

#[test]
fn pages_that_claude_cites_are_known_by_their_text() {
    let page = r#"{"type":"web_search_result_location","url":"https://a.example","title":null,"encrypted_index":"x","cited_text":"y"}"#;
    let result = r#"{"type":"search_result_location","source":"https://b.example","title":"B"}"#;
    let other = r#"{"type":"char_location","document_title":"Notes","start_char_index":0}"#;
    let whole = format!(
        r#"{{"content":[{{"type":"text","text":"Über "}},{{"type":"text","text":"grün","citations":[{page},{other},{result},7]}},{{"type":"text","text":"!","citations":null}}],"stop_reason":"end_turn"}}"#
    );
    let mut grammar = Grammar::default();
    MessagesReader::new(1).whole(&whole, &mut |event| grammar.event(&event)).unwrap();
    let expected = ["https://a.example  5..9", "https://b.example B 5..9"];
    assert_eq!(grammar.said.cited, expected);
    let block = |index: usize, text: &str| {
        format!(
            r#"{{"type":"content_block_delta","index":{index},"delta":{{"type":"text_delta","text":"{text}"}}}}"#
        )
    };
    let cite = |index: usize, citation: &str| {
        format!(
            r#"{{"type":"content_block_delta","index":{index},"delta":{{"type":"citations_delta","citation":{citation}}}}}"#
        )
    };
    let stop = |index: usize| format!(r#"{{"type":"content_block_stop","index":{index}}}"#);
    let start = |index: usize| {
        format!(
            r#"{{"type":"content_block_start","index":{index},"content_block":{{"type":"text","text":""}}}}"#
        )
    };
    let mut grammar = Grammar::default();
    let mut reader = MessagesReader::new(1);
    for data in [
        r#"{"type":"message_start","message":{}}"#.to_owned(),
        start(0),
        block(0, "Über "),
        stop(0),
        start(1),
        cite(1, page),
        block(1, "gr"),
        cite(1, other),
        block(1, "ün"),
        cite(1, result),
        stop(1),
        // Cited, but empty: there is no text to belong to.
        start(2),
        cite(2, page),
        stop(2),
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#.to_owned(),
    ] {
        reader.event("", &data, &mut |event| grammar.event(&event)).unwrap();
    }
    reader.end(true, &mut |event| grammar.event(&event)).unwrap();
    assert_eq!(grammar.said.cited, expected);
    for (over, kept) in [(0, BLOCK_CITATIONS_MAX), (1, BLOCK_CITATIONS_MAX)] {
        let pages = vec![page; BLOCK_CITATIONS_MAX + over].join(",");
        let whole = format!(
            r#"{{"content":[{{"type":"text","text":"x","citations":[{pages}]}}],"stop_reason":"end_turn"}}"#
        );
        let mut grammar = Grammar::default();
        MessagesReader::new(1).whole(&whole, &mut |event| grammar.event(&event)).unwrap();
        assert_eq!(grammar.said.cited.len(), kept, "{over} over");
    }
}

// --- Endings ------------------------------------------------------------------------------------------------

#[test]
fn failures_are_told_at_any_moment() {
    let failed = |sink: Sink<'_>, message: &str| sink(Event::Failed { failure: Failure::RateLimit, message });
    for to in ["chat", "messages", "responses"] {
        for block in [
            None,
            Some(Block::Text),
            Some(Block::Thinking),
            Some(Block::Tool { id: "t", name: "f", signature: None }),
        ] {
            let frames = written(to, &ClientTools::default(), |sink| {
                if let Some(block) = block {
                    sink(Event::Start { id: "", model: "", usage: Usage::default() });
                    sink(Event::Open(block));
                    sink(Event::Delta("x"));
                }
                failed(sink, "slow \"down\"");
                failed(sink, "twice");
            });
            check_frames(to, &frames);
            let (_, last) = frames.last().unwrap();
            assert!(last.contains(r#"slow \"down\""#), "{last}");
            let code = if to == "messages" { "rate_limit_error" } else { "rate_limit_exceeded" };
            assert!(last.contains(code), "{last}");
        }
    }
    assert!(Fold::default().into_chat(&names(), &ClientTools::default()).contains("broke off"));
    assert!(Fold::default().into_messages(&names(), &ClientTools::default()).contains("api_error"));
    let response = Fold::default().into_responses(&names(), ClientTools::default(), Echo::default());
    assert!(response.contains("\"status\":\"failed\""), "{response}");
}

#[test]
fn what_was_cut_off_is_incomplete() {
    let cut = |sink: Sink<'_>| {
        sink(Event::Start { id: "", model: "", usage: Usage::default() });
        for block in [Block::Text, Block::Tool { id: "t", name: "f", signature: None }] {
            sink(Event::Open(block));
            sink(Event::Delta("{\"a"));
            sink(Event::Close { signature: None });
        }
        sink(Event::Finish { reason: StopReason::MaxTokens, stop_sequence: None, usage: Usage::default() });
    };
    let response = check_responses(&written("responses", &ClientTools::default(), cut));
    assert_eq!(response["incomplete_details"]["reason"], "max_output_tokens");
    let statuses: Vec<_> =
        response["output"].as_array().unwrap().iter().map(|item| &item["status"]).collect();
    assert_eq!(statuses, ["completed", "incomplete"]);
    let mut fold = Fold::default();
    cut(&mut |event| fold.event(event));
    let message: Value =
        serde_json::from_str(&fold.into_messages(&names(), &ClientTools::default())).unwrap();
    assert_eq!(message["content"][1]["input"], serde_json::json!({"_raw": "{\"a"}));
    assert_eq!(message["stop_reason"], "max_tokens");
}

#[test]
fn refusals_keep_the_models_words() {
    let refuse = |words: bool| {
        move |sink: Sink<'_>| {
            sink(Event::Start { id: "", model: "", usage: Usage::default() });
            if words {
                sink(Event::Open(Block::Refusal));
                sink(Event::Delta("no"));
                sink(Event::Close { signature: None });
            }
            sink(Event::Finish { reason: StopReason::Refusal, stop_sequence: None, usage: Usage::default() });
        }
    };
    let response = check_responses(&written("responses", &ClientTools::default(), refuse(true)));
    assert_eq!(
        (&response["status"], &response["output"][0]["content"][0]["refusal"]),
        (&"completed".into(), &"no".into())
    );
    let response = check_responses(&written("responses", &ClientTools::default(), refuse(false)));
    assert_eq!(response["incomplete_details"]["reason"], "content_filter");
    for words in [true, false] {
        for to in ["chat", "messages"] {
            let frames = written(to, &ClientTools::default(), refuse(words));
            check_frames(to, &frames);
            let all: String = frames.into_iter().map(|(_, data)| data).collect();
            let expected = match (to, words) {
                ("chat", true) => r#""refusal":"no""#,
                ("chat", false) => super::chat_write::REFUSAL,
                (_, true) => r#""text":"no""#,
                (_, false) => r#""stop_reason":"refusal""#,
            };
            assert!(all.contains(expected), "{to}: {all}");
        }
    }
}

#[test]
fn signatures_survive_where_they_can() {
    let think = |sink: Sink<'_>| {
        sink(Event::Start { id: "", model: "", usage: Usage::default() });
        for (text, signature) in [("r", Some("sig")), ("", Some("only")), ("s", None)] {
            sink(Event::Open(Block::Thinking));
            if !text.is_empty() {
                sink(Event::Delta(text));
            }
            sink(Event::Close { signature });
        }
        sink(Event::Open(Block::RedactedThinking("data")));
        sink(Event::Close { signature: None });
        sink(Event::Finish { reason: StopReason::End, stop_sequence: None, usage: Usage::default() });
    };
    let response = check_responses(&written("responses", &ClientTools::default(), think));
    let encrypted: Vec<_> = (0..4).map(|n| response["output"][n]["encrypted_content"].as_str()).collect();
    let expected = [Some("aifs-sig-sig"), Some("aifs-sig-only"), None, Some("aifs-red-data")];
    assert_eq!(encrypted, expected);
    let frames = written("messages", &ClientTools::default(), think);
    check_messages(&frames);
    let signatures: Vec<String> = frames
        .iter()
        .filter_map(|(_, data)| {
            Some(serde_json::from_str::<Value>(data).ok()?["delta"]["signature"].as_str()?.to_owned())
        })
        .collect();
    assert_eq!(signatures[..2], ["sig", "only"]);
    assert!(signatures[2].starts_with(MARK) && signatures[2].len() > MARK.len());
    check_chat(&written("chat", &ClientTools::default(), think), true);
}

#[test]
fn a_response_repeats_its_request() {
    let fields = HashMap::from([
        ("tools", r#"[{"type":"function"}]"#),
        ("temperature", "null"),
        ("service_tier", "\"flex\""),
    ]);
    let echo = Echo::new(|key| fields.get(key).copied());
    let mut fold = Fold::default();
    calls(&mut |event| fold.event(event));
    let response: Value = serde_json::from_str(&fold.into_responses(&names(), client_tools(), echo)).unwrap();
    assert_eq!(response["tools"][0]["type"], "function");
    assert_eq!(
        (&response["temperature"], &response["service_tier"], &response["store"]),
        (&1.0.into(), &"flex".into(), &true.into())
    );
    assert_eq!((&response["provider_name"], &response["model"]), (&"p".into(), &"backend-model".into()));
}

#[test]
fn provider_names_are_where_clients_look() {
    for (to, place, every) in [
        ("chat", "/provider_name", true),
        ("messages", "/message/provider_name", false),
        ("responses", "/response/provider_name", false),
    ] {
        let frames = written(to, &ClientTools::default(), calls);
        for (n, (_, data)) in frames.iter().filter(|(_, data)| data != "[DONE]").enumerate() {
            let event: Value = serde_json::from_str(data).unwrap();
            let expected = every || n == 0 || event.get("response").is_some();
            assert_eq!(event.pointer(place).is_some_and(|name| name == "p"), expected, "{to} {data}");
        }
    }
}

#[test]
fn the_usage_chunk_is_for_those_who_asked() {
    for asked in [true, false] {
        let mut frames = Frames::new();
        let mut writer = ChatWriter::new(&names(), asked, ClientTools::default());
        calls(&mut |event| writer.event(event, &mut |name, data| frames.push((name.into(), data.into()))));
        check_chat(&frames, asked);
    }
}

#[test]
fn the_output_of_a_stream_has_a_limit() {
    use crate::limits::STREAM_OUTPUT_BYTES_MAX;
    for (over, status) in [(0, "completed"), (1, "failed")] {
        let frames = written("responses", &ClientTools::default(), |sink| {
            sink(Event::Start { id: "", model: "", usage: Usage::default() });
            sink(Event::Open(Block::Text));
            sink(Event::Delta(&"x".repeat(STREAM_OUTPUT_BYTES_MAX - 1)));
            sink(Event::Delta(&"x".repeat(1 + over)));
            sink(Event::Close { signature: None });
            sink(Event::Finish { reason: StopReason::End, stop_sequence: None, usage: Usage::default() });
        });
        assert_eq!(check_responses(&frames)["status"], status);
        let frames = written("chat", &client_tools(), |sink| {
            sink(Event::Start { id: "", model: "", usage: Usage::default() });
            sink(Event::Open(Block::Tool { id: "t", name: "apply_patch", signature: None }));
            sink(Event::Delta(&"x".repeat(STREAM_OUTPUT_BYTES_MAX - 1)));
            sink(Event::Delta(&"x".repeat(1 + over)));
            sink(Event::Close { signature: None });
            sink(Event::Finish { reason: StopReason::ToolUse, stop_sequence: None, usage: Usage::default() });
        });
        check_chat(&frames, true);
        assert_eq!(frames.last().unwrap().1 == "[DONE]", over == 0);
    }
}

#[test]
fn ids_are_all_different() {
    let mut ids: Vec<String> =
        (0..100).flat_map(|seed| (0..100).map(move |n| make_id("", seed, n))).collect();
    assert!(ids.iter().all(|id| id.len() == 24 && id.bytes().all(|b| b.is_ascii_alphanumeric())));
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 10_000);
}
