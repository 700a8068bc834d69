//! OpenAI's Responses: what is kept of a conversation, for how long, and errors in OpenAI's envelope.

use serde_json::{Value, json};

use crate::harness::*;

const PATH: &str = "/v1/responses";

fn proxy_over(protocol: Protocol, upstream: &Upstream) -> Proxy {
    Config::new().backend(protocol.backend(upstream, "")).start()
}

/// Numbers its answers.
fn counting(protocol: Protocol) -> Upstream {
    Upstream::answering(move |r| protocol.reply(r, &Answer::text(&format!("Answer {}", r.number + 1))))
}

fn ask(proxy: &Proxy, body: &Value) -> Response {
    proxy.post(PATH, &body.to_string())
}

/// The response object, whole or from the last event.
fn object(response: &Response, stream: bool) -> Value {
    if !stream {
        return response.json();
    }
    response.events().0.last().map(|last| last.json()["response"].clone()).unwrap_or_default()
}

fn delete(proxy: &Proxy, id: &str) -> Response {
    let request = format!("DELETE {PATH}/{id} HTTP/1.1\r\nHost: x\r\n\r\n");
    proxy.connect().send(request).response()
}

/// The texts of all messages that a provider was sent, in order.
fn texts(request: &Request) -> Vec<String> {
    let body = request.json();
    let text_of = |message: &Value| match &message["content"] {
        Value::String(text) => text.clone(),
        parts => parts.as_array().into_iter().flatten().filter_map(|part| part["text"].as_str()).collect(),
    };
    body["messages"].as_array().into_iter().flatten().map(text_of).collect()
}

#[test]
fn a_conversation_goes_on_from_its_last_response() {
    for protocol in Protocol::ALL {
        for stream in [false, true] {
            let upstream = counting(protocol);
            let proxy = proxy_over(protocol, &upstream);
            let mut previous = Value::Null;
            for turn in 1..=3 {
                let body = json!({"model": "aifree", "input": format!("Question {turn}"), "stream": stream,
                    "previous_response_id": previous});
                let response = ask(&proxy, &body);
                Surface::Responses.check_said(&response, stream, &format!("Answer {turn}")).unwrap();
                let object = object(&response, stream);
                assert_eq!(object["previous_response_id"], previous, "{object}");
                previous = object["id"].clone();
            }
            let said = texts(&upstream.requests()[2]);
            let expected = ["Question 1", "Answer 1", "Question 2", "Answer 2", "Question 3"];
            assert_eq!(said, expected, "{protocol:?}, stream {stream}");
        }
    }
}

#[test]
fn instructions_are_not_inherited() {
    let upstream = counting(Protocol::OpenAi);
    let proxy = proxy_over(Protocol::OpenAi, &upstream);
    let first = ask(&proxy, &json!({"model": "aifree", "input": "A", "instructions": "Be a pirate."})).json();
    ask(&proxy, &json!({"model": "aifree", "input": "B", "previous_response_id": first["id"]}));
    assert_eq!(texts(&upstream.requests()[1]), ["A", "Answer 1", "B"]);
}

#[test]
fn a_tool_result_finds_its_call_in_the_last_response() {
    for protocol in Protocol::ALL {
        let call = Some(("call_1", "get_weather", r#"{"city":"Oslo"}"#));
        let upstream = Upstream::answering(move |r| match r.number {
            0 => protocol.reply(r, &Answer { thinking: "Hm.", call, ..Answer::default() }),
            _ => protocol.reply(r, &Answer::text("Cold.")),
        });
        let proxy = proxy_over(protocol, &upstream);
        let tools = json!([{"type": "function", "name": "get_weather", "parameters": {"type": "object"}}]);
        let first = ask(&proxy, &json!({"model": "aifree", "input": "Weather?", "tools": tools})).json();
        let called = first["output"].as_array().unwrap().iter().find(|item| item["type"] == "function_call");
        let result =
            json!([{"type": "function_call_output", "call_id": called.unwrap()["call_id"], "output": "3 C"}]);
        let body =
            json!({"model": "aifree", "input": result, "tools": tools, "previous_response_id": first["id"]});
        Surface::Responses.check_said(&ask(&proxy, &body), false, "Cold.").unwrap();
        let sent = upstream.requests()[1].json();
        let messages = sent["messages"].as_array().unwrap();
        let (call, result) = (&messages[1], &messages[2]);
        let (called, answered) = match protocol {
            Protocol::OpenAi => (&call["tool_calls"][0]["id"], &result["tool_call_id"]),
            Protocol::Anthropic => {
                let used = call["content"].as_array().unwrap().last().unwrap();
                (&used["id"], &result["content"][0]["tool_use_id"])
            }
        };
        assert!(called.is_string() && called == answered, "{sent}");
    }
}

#[test]
fn a_response_can_be_asked_for_again_and_deleted() {
    for stream in [false, true] {
        let upstream = counting(Protocol::OpenAi);
        let proxy = proxy_over(Protocol::OpenAi, &upstream);
        let response = ask(&proxy, &json!({"model": "aifree", "input": "A", "stream": stream}));
        let object = object(&response, stream);
        assert_eq!(object["store"], true, "stream {stream}");
        let id = object["id"].as_str().unwrap();
        let path = format!("{PATH}/{id}");
        let again = proxy.get(&path);
        assert_eq!((again.status(), again.json()), (200, object.clone()), "stream {stream}");
        let deleted = delete(&proxy, id);
        assert_eq!(deleted.json(), json!({"id": id, "object": "response", "deleted": true}));
        for response in [proxy.get(&path), delete(&proxy, id)] {
            Surface::Responses.check_error(&response, 404, "invalid_request_error", id).unwrap();
        }
        let body = json!({"model": "aifree", "input": "B", "previous_response_id": id});
        check_unknown(&ask(&proxy, &body)).unwrap();
        assert_eq!(upstream.hits(), 1);
    }
}

fn check_unknown(response: &Response) -> Result<(), String> {
    Surface::Responses.check_error(response, 400, "invalid_request_error", "previous response")?;
    let error = response.json()["error"].clone();
    let named = error["code"] == "previous_response_not_found" && error["param"] == "previous_response_id";
    expect(named, || error.to_string())
}

#[test]
fn what_is_not_to_be_stored_is_not() {
    for stream in [false, true] {
        let upstream = counting(Protocol::OpenAi);
        let proxy = proxy_over(Protocol::OpenAi, &upstream);
        let response =
            ask(&proxy, &json!({"model": "aifree", "input": "A", "stream": stream, "store": false}));
        let object = object(&response, stream);
        assert_eq!(object["store"], false);
        let id = object["id"].as_str().unwrap();
        assert_eq!(proxy.get(&format!("{PATH}/{id}")).status(), 404);
        for id in [id, "resp_nobody_gave"] {
            let body = json!({"model": "aifree", "input": "B", "stream": stream, "previous_response_id": id});
            check_unknown(&ask(&proxy, &body)).unwrap();
        }
        assert_eq!(upstream.hits(), 1);
    }
}

#[test]
fn a_response_that_broke_off_is_not_kept() {
    let whole = Protocol::OpenAi.stream(&Answer::text("Hello"));
    let begun: String = whole.split_inclusive("\n\n").take(2).collect();
    let upstream = Upstream::replies([sse(&begun).cut(sse(&begun).bytes().len() - 2).close()]);
    let proxy = proxy_over(Protocol::OpenAi, &upstream);
    let response = ask(&proxy, &json!({"model": "aifree", "input": "A", "stream": true}));
    let object = object(&response, true);
    assert_eq!(object["status"], "failed");
    assert_eq!(proxy.get(&format!("{PATH}/{}", object["id"].as_str().unwrap())).status(), 404);
}

#[test]
fn the_length_of_an_answer_is_told() {
    for (protocol, reason, cut) in [
        (Protocol::OpenAi, "\"stop\"", "\"length\""),
        (Protocol::Anthropic, "\"end_turn\"", "\"max_tokens\""),
    ] {
        for stream in [false, true] {
            let upstream = Upstream::answering(move |r| {
                let answer = Answer::text("Half");
                match r.streams() {
                    true => sse(&protocol.stream(&answer).replace(reason, cut)),
                    false => status(200).json(protocol.whole(&answer).replace(reason, cut)),
                }
            });
            let proxy = proxy_over(protocol, &upstream);
            let response = ask(&proxy, &json!({"model": "aifree", "input": "A", "stream": stream}));
            let said = Surface::Responses.said(&response, stream).unwrap();
            assert_eq!((said.text.as_str(), said.stop.as_str()), ("Half", "incomplete"));
            let why = &object(&response, stream)["incomplete_details"]["reason"];
            assert_eq!(why, "max_output_tokens");
        }
    }
}

#[test]
fn errors_are_told_in_openais_envelope() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Config::new().backend(&upstream).server("api_key: right").start();
    let typed = "Authorization: Bearer right\r\nContent-Type: application/json\r\n";
    let request = |method: &str, path: &str, fields: &str, body: &str| {
        let length = body.len();
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    };
    let send = |fields: &str, body: &str| request("POST", PATH, fields, body);
    let invalid = "invalid_request_error";
    let item = r#"{"input":[{"role":"user","content":[{"type":"input_image","image_url":7}]}]}"#;
    type Row<'a> = (Vec<u8>, u16, &'a str, &'a str);
    let rows: Vec<(&str, Row<'_>)> = vec![
        ("no key", (send("Content-Type: application/json\r\n", "{}"), 401, "auth_error", "API key")),
        ("no key to read", (request("GET", "/v1/responses/resp_1", "", ""), 401, "auth_error", "API key")),
        ("PATCH", (request("PATCH", "/v1/responses/resp_1", typed, ""), 405, invalid, "PATCH")),
        (
            "plain text",
            (send("Authorization: Bearer right\r\nContent-Type: text/plain\r\n", "{}"), 415, invalid, ""),
        ),
        ("no JSON", (send(typed, "{"), 400, invalid, "JSON")),
        ("no input", (send(typed, r#"{"model":"aifree"}"#), 400, invalid, "input")),
        ("a wrong item", (send(typed, item), 400, invalid, "input[0].content[0].image_url")),
        (
            "a wrong id",
            (send(typed, r#"{"input":"x","previous_response_id":1}"#), 400, invalid, "previous_response_id"),
        ),
    ];
    every(rows, |(bytes, status, kind, part)| {
        let response = proxy.connect().send(bytes).try_response(Asked::USUAL)?;
        Surface::Responses.check_error(&response, status, kind, part)
    });
    assert_eq!(upstream.hits(), 0, "nobody should have been asked");
}

#[test]
fn total_failure_is_a_503_in_openais_envelope() {
    for protocol in Protocol::ALL {
        for stream in [false, true] {
            let upstream = Upstream::replies([protocol.error(529, "overloaded_error", "Overloaded")]);
            let config = Config::new().backend(protocol.backend(&upstream, "")).top("max_wait: 0");
            let response = config.start().post(PATH, &Surface::Responses.hello("aifree", stream));
            let failed = "All configured providers failed: alpha";
            Surface::Responses.check_error(&response, 503, "server_error", failed).unwrap();
            assert_eq!(response.error().2, "all_providers_failed");
        }
    }
}

#[test]
fn input_tokens_are_counted() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let body = json!({"model": "aifree", "input": "seven little words make up one sentence"}).to_string();
    let counted = proxy.post("/v1/responses/input_tokens", &body).json();
    assert_eq!(counted["object"], "response.input_tokens");
    assert!(counted["input_tokens"].as_u64().is_some_and(|n| (5..40).contains(&n)), "{counted}");
    assert_eq!(upstream.hits(), 0);
    // The conversation so far is part of what is sent.
    let long = "seven little words make up one sentence ".repeat(20);
    let first = ask(&proxy, &json!({"model": "aifree", "input": long})).json();
    let count = |id: &Value| {
        let body = json!({"model": "aifree", "input": "go on", "previous_response_id": id});
        proxy.post("/v1/responses/input_tokens", &body.to_string())
    };
    let counted = count(&first["id"]).json();
    assert!(counted["input_tokens"].as_u64().is_some_and(|n| n > 100), "{counted}");
    check_unknown(&count(&"resp_nobody_gave".into())).unwrap();
}
