//! Every client protocol over every provider protocol: what is said arrives, and what fails is invisible or honest.

use std::sync::Mutex;

use serde_json::{Value, json};

use crate::cuts::check_rows;
use crate::harness::*;

/// All pairs of client and provider, whole and as a stream.
fn pairs() -> Vec<(String, (Surface, Protocol, bool))> {
    let mut rows = Vec::new();
    for surface in Surface::ALL {
        for protocol in Protocol::ALL {
            for stream in [false, true] {
                let name = format!("{surface:?} over {protocol:?}, stream {stream}");
                rows.push((name, (surface, protocol, stream)));
            }
        }
    }
    rows
}

fn proxy_over(protocol: Protocol, upstream: &Upstream) -> Proxy {
    Config::new().backend(protocol.backend(upstream, "")).start()
}

fn ask(proxy: &Proxy, surface: Surface, body: &Value) -> Response {
    proxy.post(surface.path(), &body.to_string())
}

const CALL: (&str, &str, &str) = ("toolu_01", "get_weather", r#"{"city":"Zürich \"old town\""}"#);

fn arguments() -> Value {
    serde_json::from_str(CALL.2).unwrap()
}

/// 1x1 transparent PNG.
const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";

fn tools(surface: Surface) -> Value {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let (name, about) = (CALL.1, "Says how the weather is");
    match surface {
        Surface::Chat => {
            json!([{"type": "function", "function": {"name": name, "description": about, "parameters": schema}}])
        }
        Surface::Messages => json!([{"name": name, "description": about, "input_schema": schema}]),
        Surface::Responses => {
            json!([{"type": "function", "name": name, "description": about, "parameters": schema}])
        }
    }
}

/// A question with a system prompt, a picture and a tool.
fn question(surface: Surface, stream: bool) -> Value {
    let url = format!("data:image/png;base64,{PNG}");
    let (system, text) = ("Be brief.", "Weather here?");
    let mut body = match surface {
        Surface::Chat => {
            json!({"messages": [{"role": "system", "content": system}, {"role": "user", "content":
            [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]}],
            "stream_options": {"include_usage": true}})
        }
        Surface::Messages => {
            json!({"max_tokens": 900, "system": system, "messages": [{"role": "user", "content": [
            {"type": "text", "text": text},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}]}]})
        }
        Surface::Responses => json!({"instructions": system, "input": [{"role": "user", "content": [
            {"type": "input_text", "text": text}, {"type": "input_image", "image_url": url}]}]}),
    };
    if surface == Surface::Chat && !stream {
        body.as_object_mut().unwrap().remove("stream_options");
    }
    body["model"] = "aifree".into();
    body["tools"] = tools(surface);
    body["stream"] = stream.into();
    body
}

/// The same conversation one turn later: the tool was called, and this is its result.
fn answered(surface: Surface, stream: bool, said: &Said) -> Value {
    let (id, name, arguments) = said.calls[0].clone();
    let mut body = question(surface, stream);
    let more = match surface {
        Surface::Chat => {
            let function = json!({"name": name, "arguments": arguments.to_string()});
            vec![
                json!({"role": "assistant", "content": said.text, "tool_calls":
                    [{"id": id, "type": "function", "function": function}]}),
                json!({"role": "tool", "tool_call_id": id, "content": "3 C"}),
            ]
        }
        Surface::Messages => vec![
            json!({"role": "assistant", "content": [{"type": "text", "text": said.text},
                {"type": "tool_use", "id": id, "name": name, "input": arguments}]}),
            json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "3 C"}]}),
        ],
        Surface::Responses => vec![
            json!({"type": "function_call", "call_id": id, "name": name, "arguments": arguments.to_string()}),
            json!({"type": "function_call_output", "call_id": id, "output": "3 C"}),
        ],
    };
    let key = if surface == Surface::Responses { "input" } else { "messages" };
    body[key].as_array_mut().unwrap().extend(more);
    body
}

/// What a provider has to have been asked, in its own words.
fn check_question(protocol: Protocol, request: &Request, stream: bool) -> Result<(), String> {
    let body = request.json();
    let told = || format!("asked {} {body}", request.target);
    expect(body["model"] == "model-alpha" && request.streams() == stream, told)?;
    let text = body.to_string();
    expect(text.contains("Be brief.") && text.contains("Weather here?") && text.contains(PNG), told)?;
    let (path, user, image, tool, key) = match protocol {
        Protocol::OpenAi => {
            let user = &body["messages"][1];
            let image = user["content"][1]["image_url"]["url"] == format!("data:image/png;base64,{PNG}");
            let tool = &body["tools"][0]["function"];
            ("/v1/chat/completions", user, image, (tool, &tool["parameters"]), "authorization")
        }
        Protocol::Anthropic => {
            let user = &body["messages"][0];
            let image = user["content"][1]["source"]
                == json!({"type": "base64", "media_type": "image/png", "data": PNG});
            let tool = &body["tools"][0];
            ("/v1/messages", user, image, (tool, &tool["input_schema"]), "x-api-key")
        }
    };
    expect(request.target == path && user["role"] == "user" && image, told)?;
    expect(tool.0["name"] == CALL.1 && tool.1["required"] == json!(["city"]), told)?;
    expect(request.header(key).is_some_and(|value| value.contains(KEY_MARK)), || {
        format!("no key in {:?}", request.headers)
    })?;
    let limited = protocol == Protocol::OpenAi || body["max_tokens"].as_u64().is_some_and(|n| n > 0);
    expect(limited, || format!("Anthropic insists on max_tokens: {body}"))
}

/// The tool's result behind its call, under one id.
fn check_result(protocol: Protocol, request: &Request) -> Result<(), String> {
    let body = request.json();
    let messages = body["messages"].as_array().ok_or("no messages")?;
    let [.., call, result] = &messages[..] else { return Err(format!("too few messages: {body}")) };
    let good = match protocol {
        Protocol::OpenAi => {
            let call = &call["tool_calls"][0];
            let arguments: Value =
                serde_json::from_str(call["function"]["arguments"].as_str().unwrap_or_default())
                    .unwrap_or_default();
            result["role"] == "tool"
                && result["tool_call_id"] == call["id"]
                && call["function"]["name"] == CALL.1
                && arguments == self::arguments()
                && result["content"].to_string().contains("3 C")
        }
        Protocol::Anthropic => {
            let used = call["content"].as_array().and_then(|blocks| blocks.last()).ok_or("no tool_use")?;
            let result = &result["content"][0];
            used["type"] == "tool_use"
                && used["name"] == CALL.1
                && used["input"] == arguments()
                && result["type"] == "tool_result"
                && result["tool_use_id"] == used["id"]
                && result["content"].to_string().contains("3 C")
        }
    };
    expect(good, || format!("the result went out as {body}"))
}

/// The usage in the words of the API: Anthropic counts what came from the cache beside the input.
fn check_usage(surface: Surface, said: &Said) -> Result<(), String> {
    let (input, cached, output) = USAGE;
    let usage = &said.usage;
    let (expected, got) = match surface {
        Surface::Chat => (
            [input, cached, output],
            [
                &usage["prompt_tokens"],
                &usage["prompt_tokens_details"]["cached_tokens"],
                &usage["completion_tokens"],
            ],
        ),
        Surface::Messages => (
            [input - cached, cached, output],
            [&usage["input_tokens"], &usage["cache_read_input_tokens"], &usage["output_tokens"]],
        ),
        Surface::Responses => (
            [input, cached, output],
            [
                &usage["input_tokens"],
                &usage["input_tokens_details"]["cached_tokens"],
                &usage["output_tokens"],
            ],
        ),
    };
    expect(got.iter().zip(expected).all(|(got, expected)| **got == expected), || format!("usage {usage}"))
}

#[test]
fn a_tool_is_called_and_its_result_understood_on_every_way() {
    every(pairs(), |(surface, protocol, stream)| {
        let asks = Answer { thinking: "Let me look outside.", text: "One moment.".into(), call: Some(CALL) };
        let upstream = Upstream::answering(move |r| {
            let answer = if r.number == 0 { asks.clone() } else { Answer::text("Cold: 3 °C.") };
            protocol.reply(r, &answer)
        });
        let proxy = proxy_over(protocol, &upstream);
        let response = ask(&proxy, surface, &question(surface, stream));
        let said = surface.said(&response, stream)?;
        surface.check_complete(&said, "One moment.")?;
        expect(said.thinking == "Let me look outside.", || format!("thinking: {said:?}"))?;
        let [(id, name, input)] = &said.calls[..] else { return Err(format!("calls: {said:?}")) };
        expect(!id.is_empty() && name == CALL.1 && *input == arguments(), || format!("{said:?}"))?;
        check_usage(surface, &said)?;
        expect(said.provider.as_deref() == Some("alpha"), || format!("provider_name: {said:?}"))?;
        let response = ask(&proxy, surface, &answered(surface, stream, &said));
        surface.check_said(&response, stream, "Cold: 3 °C.")?;
        let requests = upstream.requests();
        check_question(protocol, &requests[0], stream)?;
        check_result(protocol, &requests[1])
    });
}

#[test]
fn a_backend_stays_unnamed_if_providers_are_not_shown() {
    every(pairs(), |(surface, protocol, stream)| {
        let upstream = protocol.saying(Answer::text("Hello"));
        let config = Config::new().backend(protocol.backend(&upstream, "")).top("show_provider: false");
        let response = config.start().post(surface.path(), &surface.hello("aifree", stream));
        let said = surface.said(&response, stream)?;
        surface.check_complete(&said, "Hello")?;
        let all = format!("{:?} {}", response.head, response.text());
        let silent = ["provider_name", "x-ai-free-swap-backend", "x-ai-free-swap-attempts", "\"alpha\""];
        expect(silent.iter().all(|word| !all.contains(word)), || all.clone())
    });
}

#[test]
fn an_answer_is_understood_in_the_dress_that_was_not_asked_for() {
    every(pairs(), |(surface, protocol, stream)| {
        let answer = Answer { thinking: "Hm.", text: "Hello".into(), call: None };
        let upstream = Upstream::replies([match stream {
            true => status(200).json(protocol.whole(&answer)),
            false => sse(&protocol.stream(&answer)),
        }]);
        let response = proxy_over(protocol, &upstream).post(surface.path(), &surface.hello("aifree", stream));
        let said = surface.said(&response, stream)?;
        surface.check_complete(&said, "Hello")?;
        expect(said.thinking == "Hm.", || format!("{said:?}"))?;
        if surface != Surface::Chat || !stream {
            check_usage(surface, &said)?;
        }
        Ok(())
    });
}

#[test]
fn an_answer_is_understood_whatever_its_label() {
    let mut rows = Vec::new();
    for (name, row) in pairs() {
        for whole in [true, false] {
            for kind in ["application/json; charset=utf-8", "text/plain", "text/event-stream", ""] {
                rows.push((format!("{name}, whole {whole} as {kind:?}"), (row, whole, kind)));
            }
        }
    }
    // Only a whole answer is awaited to its end whatever it is called; events called JSON or nothing are its own matter.
    rows.retain(|(_, ((.., stream), whole, kind))| *stream || *whole || *kind == "text/event-stream");
    every(rows, |((surface, protocol, stream), whole, kind)| {
        let answer = Answer::text("Hello");
        let body = if whole { protocol.whole(&answer) } else { protocol.stream(&answer) };
        let upstream = Upstream::replies([status(200).body(kind, body)]);
        let response = proxy_over(protocol, &upstream).post(surface.path(), &surface.hello("aifree", stream));
        surface.check_said(&response, stream, "Hello")
    });
}

#[test]
fn a_stream_is_understood_byte_by_byte() {
    let rows = pairs().into_iter().filter(|(_, (.., stream))| *stream);
    every(rows, |(surface, protocol, _)| {
        let answer = Answer { thinking: "Grüße.", text: "Zürich — ja".into(), call: Some(CALL) };
        let upstream = Upstream::replies([sse(&protocol.stream(&answer)).drip()]);
        let response = proxy_over(protocol, &upstream).post(surface.path(), &surface.hello("aifree", true));
        let said = surface.said(&response, true)?;
        surface.check_complete(&said, "Zürich — ja")?;
        expect(said.thinking == "Grüße." && said.calls[0].2 == arguments(), || format!("{said:?}"))
    });
}

/// What can go wrong before the first word, in the words of the provider.
fn failures(protocol: Protocol, stream: bool) -> Vec<(&'static str, Reply)> {
    let mut rows = vec![
        ("closes", Reply::nothing().close()),
        ("resets", Reply::nothing().reset()),
        ("401", protocol.error(401, "authentication_error", "invalid x-api-key")),
        ("404", protocol.error(404, "not_found_error", "model: real-model")),
        ("429", protocol.error(429, "rate_limit_error", "slow down")),
        ("500", protocol.error(500, "api_error", "Internal server error")),
        ("529", protocol.error(529, "overloaded_error", "Overloaded")),
        ("a web page", status(200).body("text/html", "<html>Sign in</html>")),
        ("half a JSON", status(200).json("{\"type\":\"message\",\"role\":\"assis")),
        ("an error that says 200", protocol.error(200, "overloaded_error", "Overloaded")),
        ("nothing said", protocol.empty(stream)),
    ];
    if stream {
        rows.push(("an error event", protocol.error_event("overloaded_error", "Overloaded")));
        rows.push(("an end after the start", sse(&first_events(protocol, 1))));
    }
    rows
}

/// The first events of a stream.
fn first_events(protocol: Protocol, n: usize) -> String {
    protocol.stream(&Answer::text("Hello")).split_inclusive("\n\n").take(n).collect()
}

#[test]
fn a_failure_is_invisible_whatever_the_next_backend_speaks() {
    let mut names = Vec::new();
    for surface in Surface::ALL {
        for speaks in [
            [Protocol::OpenAi, Protocol::Anthropic],
            [Protocol::Anthropic, Protocol::OpenAi],
            [Protocol::Anthropic, Protocol::Anthropic],
        ] {
            for stream in [false, true] {
                names.push((
                    format!("{surface:?} over {speaks:?}, stream {stream}"),
                    (surface, speaks, stream),
                ));
            }
        }
    }
    every(names, |(surface, speaks, stream)| {
        let rows = failures(speaks[0], stream);
        let replies: Vec<Reply> = rows.iter().map(|(_, reply)| reply.clone()).collect();
        let table = Table::between(speaks, Config::new(), "", rows.len(), move |row, _| replies[row].clone());
        let failed: Vec<String> = rows
            .iter()
            .enumerate()
            .filter_map(|(row, (name, _))| {
                let why = table.check_rescued_as(surface, row, stream).err()?;
                Some(format!("{name}: {why}"))
            })
            .collect();
        expect(failed.is_empty(), || failed.join("; "))
    });
}

/// Where in the bytes of a reply the event that holds `text` ends, but for its last line end.
fn end_of_event(bytes: &[u8], text: &str) -> usize {
    let all = String::from_utf8_lossy(bytes);
    let at = all.find(text).unwrap();
    at + all[at..].find("\n\n").unwrap()
}

/// Closes the first backend's answer after 0, 1, … bytes, in tables small enough for a config.
#[track_caller]
fn check_every_cut(
    full: &Reply,
    cuts: usize,
    speaks: [Protocol; 2],
    check: impl Fn(&Table, usize, usize) -> Result<(), String> + Sync,
) {
    const ROWS: usize = 500;
    for begin in (0..cuts).step_by(ROWS) {
        let full = full.clone();
        let dies = move |row: usize, _: &Request| full.cut(begin + row).close();
        let table = Table::between(speaks, Config::new(), "", ROWS, dies);
        check_rows(ROWS.min(cuts - begin), |row| check(&table, begin + row, row));
    }
}

/// The provider closes after n bytes, for every n.
#[track_caller]
fn check_cuts(surface: Surface, protocol: Protocol) {
    let full = sse(&protocol.stream(&Answer::text("Hello")));
    let bytes = full.bytes();
    let total = bytes.len();
    let content = end_of_event(&bytes, "\"He\"");
    let last = match protocol {
        Protocol::OpenAi => end_of_event(&bytes, "[DONE]"),
        Protocol::Anthropic => end_of_event(&bytes, "\"message_stop\""),
    };
    // From here on the answer is known to be whole.
    let finish = match protocol {
        Protocol::OpenAi => end_of_event(&bytes, "\"stop\""),
        Protocol::Anthropic => end_of_event(&bytes, "\"end_turn\""),
    };
    let second = match protocol {
        Protocol::OpenAi => Protocol::Anthropic,
        Protocol::Anthropic => Protocol::OpenAi,
    };
    let broken = Mutex::new(0);
    check_every_cut(&full, total + 1, [protocol, second], |table, cut, row| {
        let said = surface.said(&table.ask_as(surface, row, true)?, true)?;
        let rescued = surface.check_complete(&said, RESCUE);
        let honest = surface.check_broken(&said);
        let complete = surface.check_complete(&said, "Hello");
        if honest.is_ok() {
            *broken.lock().unwrap() += 1;
            expect("Hello".starts_with(&said.text) && !said.text.is_empty(), || format!("{said:?}"))?;
        }
        match cut {
            _ if cut < content => rescued,
            // The line end may be what tells that the event is whole.
            _ if cut < content + 8 && rescued.is_ok() => Ok(()),
            _ if cut < finish => honest,
            _ if cut < last => complete.or(honest),
            _ => complete,
        }
    });
    assert!(broken.into_inner().unwrap() > 20, "cuts in mid-stream should have been seen by clients");
}

#[test]
fn messages_over_chat_cut_anywhere_are_rescued_or_honestly_broken() {
    check_cuts(Surface::Messages, Protocol::OpenAi);
}

#[test]
fn messages_over_messages_cut_anywhere_are_rescued_or_honestly_broken() {
    check_cuts(Surface::Messages, Protocol::Anthropic);
}

#[test]
fn responses_over_chat_cut_anywhere_are_rescued_or_honestly_broken() {
    check_cuts(Surface::Responses, Protocol::OpenAi);
}

#[test]
fn responses_over_messages_cut_anywhere_are_rescued_or_honestly_broken() {
    check_cuts(Surface::Responses, Protocol::Anthropic);
}

#[test]
fn chat_over_messages_cut_anywhere_is_rescued_or_honestly_broken() {
    check_cuts(Surface::Chat, Protocol::Anthropic);
}

#[test]
fn a_whole_answer_cut_anywhere_is_invisible_on_every_way() {
    for (surface, protocol) in [
        (Surface::Messages, Protocol::Anthropic),
        (Surface::Messages, Protocol::OpenAi),
        (Surface::Responses, Protocol::Anthropic),
        (Surface::Chat, Protocol::Anthropic),
    ] {
        let full = status(200).json(protocol.whole(&Answer::text("Hello")));
        let total = full.bytes().len();
        check_every_cut(&full, total, [protocol, Protocol::OpenAi], |table, _, row| {
            table.check_rescued_as(surface, row, false)
        });
    }
}

#[test]
fn what_goes_wrong_after_content_is_told_in_band_on_every_surface() {
    let rows = pairs().into_iter().filter(|(_, (.., stream))| *stream);
    every(rows, |(surface, protocol, _)| {
        let begun = first_events(protocol, if protocol == Protocol::OpenAi { 2 } else { 4 });
        let (name, error) = match protocol {
            Protocol::OpenAi => ("", r#"{"error":{"message":"boom","type":"server_error","code":503}}"#),
            Protocol::Anthropic => {
                ("event: error\n", r#"{"type":"error","error":{"type":"overloaded_error","message":"boom"}}"#)
            }
        };
        let endings = [
            ("an error event", sse(&format!("{begun}{name}data: {error}\n\n"))),
            ("a close", sse(&begun).cut(sse(&begun).bytes().len() - 2).close()),
        ];
        for (ending, reply) in endings {
            let upstream = Upstream::replies([reply]);
            let response =
                proxy_over(protocol, &upstream).post(surface.path(), &surface.hello("aifree", true));
            let said = surface.said(&response, true).map_err(|why| format!("{ending}: {why}"))?;
            expect(said.text == "He", || format!("{ending}: {said:?}"))?;
            surface.check_broken(&said).map_err(|why| format!("{ending}: {why}"))?;
        }
        Ok(())
    });
}

/// The samples of the API of this client.
fn samples(surface: Surface, prefix: &str) -> Vec<String> {
    let dir = match surface {
        Surface::Chat => "chat",
        Surface::Messages => "messages",
        Surface::Responses => "responses",
    };
    let names = golden_names(dir).into_iter().filter(|name| name.starts_with(prefix));
    names.map(|name| format!("{dir}/{name}")).collect()
}

/// An answer that is proper for its API, or an error that is.
fn check_proper(surface: Surface, response: &Response, stream: bool) -> Result<(), String> {
    if response.status() != 200 {
        let (status, kind) = match surface {
            Surface::Messages => (529, "overloaded_error"),
            _ => (503, "server_error"),
        };
        return surface.check_error(response, status, kind, "All configured providers failed");
    }
    let said = surface.said(response, stream)?;
    let spoke = !(said.text.is_empty() && said.calls.is_empty() && said.thinking.is_empty());
    expect(spoke || said.error.is_none(), || format!("began to say nothing: {said:?}"))?;
    expect(said.error.is_some() || !said.stop.is_empty(), || format!("{said:?}"))
}

#[test]
fn every_known_answer_becomes_a_proper_one_on_every_surface() {
    let mut rows = Vec::new();
    for (native, protocol) in [(Surface::Chat, Protocol::OpenAi), (Surface::Messages, Protocol::Anthropic)] {
        // What goes through is as good as its provider.
        for surface in Surface::ALL.into_iter().filter(|surface| *surface != native) {
            for name in samples(native, "stream_") {
                rows.push((format!("{name} as {surface:?}"), (name, surface, protocol, true)));
            }
            let wholes =
                samples(native, "response_").into_iter().filter(|name| !name.contains("count_tokens"));
            for name in wholes {
                for stream in [false, true] {
                    let row = (name.clone(), surface, protocol, stream);
                    rows.push((format!("{name} as {surface:?}, stream {stream}"), row));
                }
            }
        }
    }
    every(rows, |(name, surface, protocol, stream)| {
        let sample = golden(&name);
        let upstream = match name.ends_with(".sse") {
            true => Upstream::replies([sse(&sample)]),
            false => Upstream::replies([status(200).json(&sample)]),
        };
        let config = Config::new().backend(protocol.backend(&upstream, "")).top("max_wait: 0");
        let response = config.start().post(surface.path(), &surface.hello("aifree", stream));
        check_proper(surface, &response, stream)
    });
}

#[test]
fn every_known_request_is_understood_by_every_provider() {
    let mut rows = Vec::new();
    for surface in Surface::ALL {
        for name in samples(surface, "request_") {
            for protocol in Protocol::ALL {
                rows.push((format!("{name} over {protocol:?}"), (name.clone(), surface, protocol)));
            }
        }
    }
    every(rows, |(name, surface, protocol)| {
        let body: Value = serde_json::from_str(&golden(&name)).map_err(|e| e.to_string())?;
        let upstream = protocol.saying(Answer::text("Hello"));
        let stream = body["stream"] == true;
        let response = ask(&proxy_over(protocol, &upstream), surface, &body);
        if !body["previous_response_id"].is_null() {
            let code = response.try_error()?.2;
            return expect(code == "previous_response_not_found", || response.text());
        }
        surface.check_said(&response, stream, "Hello")?;
        let sent = upstream.only_request();
        expect(sent.json()["messages"].as_array().is_some_and(|m| !m.is_empty()), || sent.text())?;
        expect(sent.streams() == stream, || sent.text())
    });
}

#[test]
fn a_conversation_goes_on_when_its_backend_changes() {
    let mut rows = Vec::new();
    for surface in Surface::ALL {
        for [from, to] in [[Protocol::OpenAi, Protocol::Anthropic], [Protocol::Anthropic, Protocol::OpenAi]] {
            for stream in [false, true] {
                let name = format!("{surface:?} from {from:?} to {to:?}, stream {stream}");
                rows.push((name, (surface, from, to, stream)));
            }
        }
    }
    every(rows, |(surface, from, to, stream)| {
        let asks = Answer { thinking: "Let me look outside.", text: "One moment.".into(), call: Some(CALL) };
        let first = Upstream::answering(move |r| match r.number {
            0 => from.reply(r, &asks),
            _ => from.error(500, "api_error", "gone for good"),
        });
        let second = to.saying(Answer::text("Cold: 3 °C."));
        let config = Config::new().backend(from.backend(&first, "")).backend(to.backend(&second, ""));
        let proxy = config.start();
        let response = ask(&proxy, surface, &question(surface, stream));
        let said = surface.said(&response, stream)?;
        let mut body = answered(surface, stream, &said);
        if surface == Surface::Messages {
            // As clients do: the turn goes back as it came, thinking and signature included.
            let thinking = match stream {
                false => response.json()["content"][0].clone(),
                true => {
                    let signature = response
                        .events()
                        .0
                        .iter()
                        .map(Event::json)
                        .find_map(|event| event["delta"]["signature"].as_str().map(str::to_owned));
                    json!({"type": "thinking", "thinking": said.thinking, "signature": signature})
                }
            };
            expect(thinking["type"] == "thinking" && thinking["signature"].is_string(), || {
                thinking.to_string()
            })?;
            body["messages"][1]["content"].as_array_mut().unwrap().insert(0, thinking);
        }
        let response = ask(&proxy, surface, &body);
        surface.check_said(&response, stream, "Cold: 3 °C.")?;
        let sent = second.only_request();
        check_result(to, &sent)?;
        // Nobody is sent thinking that another one has signed, or that nobody has.
        let foreign = from == Protocol::OpenAi && sent.text().contains("signature");
        expect(!foreign, || format!("foreign thinking: {}", sent.text()))
    });
}

/// One of these behind another: both name the provider, but no object says it twice.
#[test]
fn behind_another_proxy_the_provider_is_named_once() {
    every(pairs(), |(surface, protocol, stream)| {
        let upstream = Protocol::OpenAi.saying(Answer::text("Hello"));
        let inner = Config::new().backend(Backend::from(&upstream).name("inner")).start();
        let base = match protocol {
            Protocol::OpenAi => Backend::at(format!("http://{}/v1", inner.addr())),
            Protocol::Anthropic => {
                Backend::at(format!("http://{}", inner.addr())).line("protocol: anthropic")
            }
        };
        let outer = Config::new().backend(base).start();
        let response = ask(&outer, surface, &question(surface, stream));
        surface.check_said(&response, stream, "Hello")?;
        let texts = if stream { response.events().data() } else { vec![response.text()] };
        let named = texts.iter().map(|text| text.matches("\"provider_name\"").count());
        expect(named.clone().all(|count| count <= 1) && named.sum::<usize>() >= 1, || texts.join("\n"))
    });
}
