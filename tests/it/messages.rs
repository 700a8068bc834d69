//! Anthropic's Messages: through to those who speak the same, errors in its envelope, tokens counted.

use serde_json::{Value, json};

use crate::harness::*;

const PATH: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

fn anthropic(upstream: &Upstream) -> Backend {
    Protocol::Anthropic.backend(upstream, "")
}

/// A request with further header lines.
fn post_with(path: &str, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\n{fields}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Odd spacing, escapes, numbers and unknown fields: what a client says is nobody's to reword.
fn odd_request(model: &str, stream: bool) -> String {
    format!(
        r#"{{ "max_tokens":1e2,"model" : "{model}" ,"stream":{stream}, "system":[{{"type":"text","text":"\u00fc\/","cache_control":{{"type":"ephemeral"}}}}],"messages":[{{"role":"user","content":"hi"}},{{"role":"assistant","content":[{{"type":"thinking","thinking":"t","signature":"c2ln=="}},{{"type":"text","text":"x"}}]}},{{"role":"user","content":[{{"type":"hologram","x":1.0}}]}}],"context_management":{{"edits":[]}},"unknown":[1e400,-0.0]}}"#
    )
}

#[test]
fn a_request_goes_through_byte_for_byte_but_for_the_model() {
    for (stream, query) in [(false, ""), (true, "?beta=true")] {
        let upstream = Protocol::Anthropic.saying(Answer::text("Hello"));
        let proxy = Config::new().backend(anthropic(&upstream)).start();
        let fields = "anthropic-version: 2024-01-02\r\nanthropic-beta: a-1,b-2\r\nx-api-key: client-secret\r\n\
                      Authorization: Bearer client-secret\r\nx-stainless-lang: python\r\nCookie: c=1\r\n";
        let body = odd_request("claude-sonnet-4-5", stream);
        let response = proxy.connect().send(post_with(&format!("{PATH}{query}"), fields, &body)).response();
        Surface::Messages.check_said(&response, stream, "Hello").unwrap();
        let request = upstream.only_request();
        assert_eq!(request.target, format!("{PATH}{query}"));
        assert_eq!(request.text(), body.replace("claude-sonnet-4-5", "model-alpha"));
        assert_eq!(request.header("anthropic-version"), Some("2024-01-02"));
        assert_eq!(request.header("anthropic-beta"), Some("a-1,b-2"));
        assert_eq!(request.header("x-api-key"), Some("sk-secret-alpha"));
        assert!(!format!("{:?}", request.headers).contains("client-secret"), "{:?}", request.headers);
        assert_eq!((request.header("authorization"), request.header("cookie")), (None, None));
    }
}

#[test]
fn the_usual_version_is_named_for_a_client_that_names_none() {
    for surface in Surface::ALL {
        let upstream = Protocol::Anthropic.saying(Answer::text("Hello"));
        let proxy = Config::new().backend(anthropic(&upstream)).start();
        let response = proxy.post(surface.path(), &surface.hello("aifree", false));
        surface.check_said(&response, false, "Hello").unwrap();
        let request = upstream.only_request();
        assert_eq!(request.header("anthropic-version"), Some("2023-06-01"), "{surface:?}");
        assert_eq!(request.header("anthropic-beta"), None, "{surface:?}");
    }
}

const WHOLE: &str = r#"{ "type":"message","id":"msg_\u0031","role":"assistant","model":"real","content":[{"type":"thinking","thinking":"h","signature":"c2ln=="},{"type":"text","text":"H\u0069","citations":null},{"type":"server_tool_use","id":"s","name":"web_search","input":{}}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1e1,"output_tokens":2,"service_tier":"x"},"new_field":[1.0] }"#;

const STREAM: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"real\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":10,\"output_tokens\":1}}, \"x\":1.0}\n\n",
    "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"h\\u00fc\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"c2ln==\"}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
    "event: brand_new\ndata: {\"type\":\"brand_new\",\"n\":1e2}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":1}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":5}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
);

#[test]
fn an_answer_comes_through_byte_for_byte_but_for_the_name_of_its_backend() {
    for shown in [true, false] {
        let upstream =
            Upstream::answering(|r| if r.streams() { sse(STREAM) } else { status(200).json(WHOLE) });
        let config = Config::new().backend(anthropic(&upstream)).top(&format!("show_provider: {shown}"));
        let proxy = config.start();
        let whole = proxy.post(PATH, &Surface::Messages.hello("aifree", false)).text();
        let stream = proxy.post(PATH, &Surface::Messages.hello("aifree", true)).text();
        if !shown {
            assert_eq!((whole.as_str(), stream.as_str()), (WHOLE, STREAM));
            continue;
        }
        let json: Value = serde_json::from_str(&whole).unwrap();
        assert_eq!(json["provider_name"], "alpha");
        // Wherever the member was put, it is all that was.
        let member = "\"provider_name\":\"alpha\"";
        let without = |text: &str| {
            [format!(",{member}"), format!("{member},")]
                .iter()
                .map(|member| text.replacen(member, "", 1))
                .find(|shorter| shorter != text)
                .unwrap_or_default()
        };
        assert_eq!(without(&whole), WHOLE);
        assert_eq!(without(&stream), STREAM);
        let start = Events::parse(stream.as_bytes()).unwrap().0[0].json();
        assert_eq!(start["message"]["provider_name"], "alpha");
    }
}

#[test]
fn errors_are_told_in_the_envelope_of_the_api_that_was_called() {
    let upstream = Upstream::healthy("Hello");
    let config = Config::new().backend(&upstream).server("api_key: right").server("max_body: 1MiB");
    let proxy = config.start();
    let auth = "x-api-key: right\r\n";
    let json = "Content-Type: application/json\r\n";
    let request = |method: &str, path: &str, fields: &str, body: &str| {
        let length = body.len();
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    };
    let hello = Surface::Messages.hello("aifree", false);
    let typed = format!("{auth}{json}");
    let text = format!("{auth}Content-Type: text/plain\r\n");
    let zipped = format!("{typed}Content-Encoding: gzip\r\n");
    let large = "x".repeat(1024 * 1024 + 1);
    let no_length = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: x\r\n{typed}\r\n").into_bytes();
    let send = |path: &str, fields: &str, body: &str| request("POST", path, fields, body);
    let image = r#"{"max_tokens":1,"messages":[{"role":"user","content":[{"type":"image","source":7}]}]}"#;
    let invalid = "invalid_request_error";
    type Row<'a> = (Vec<u8>, u16, &'a str, &'a str);
    let rows: Vec<(&str, Row<'_>)> = vec![
        ("no key", (send(PATH, json, &hello), 401, "authentication_error", "API key")),
        ("no key to count", (send(COUNT, json, &hello), 401, "authentication_error", "API key")),
        ("GET", (request("GET", PATH, auth, ""), 405, invalid, "GET")),
        ("no length", (no_length(PATH), 411, invalid, "Content-Length")),
        ("plain text", (send(PATH, &text, &hello), 415, invalid, "text/plain")),
        ("gzip", (send(PATH, &zipped, &hello), 415, invalid, "gzip")),
        ("too large", (send(PATH, &typed, &large), 413, "request_too_large", "1048576")),
        ("no JSON", (send(PATH, &typed, "{\"model\":"), 400, invalid, "JSON")),
        ("nothing", (send(PATH, &typed, ""), 400, invalid, "")),
        ("an array to count", (send(COUNT, &typed, "[]"), 400, invalid, "JSON")),
        ("a wrong type", (send(PATH, &typed, r#"{"model":1,"messages":[]}"#), 400, invalid, "model")),
        ("a wrong block", (send(PATH, &typed, image), 400, invalid, "messages[0].content[0].source")),
        (
            "a wrong block to count",
            (send(COUNT, &typed, image), 400, invalid, "messages[0].content[0].source"),
        ),
    ];
    every(rows, |(bytes, status, kind, part)| {
        let mut connection = proxy.connect();
        // One that is too large may be cut short.
        let _ = connection.try_send(&bytes);
        let response = connection.try_response(Asked::USUAL)?;
        Surface::Messages.check_error(&response, status, kind, part)
    });
    assert_eq!(upstream.hits(), 0, "nobody should have been asked");
}

#[test]
fn total_failure_is_a_529_that_says_when_to_come_back() {
    for protocol in Protocol::ALL {
        for stream in [false, true] {
            let busy = Upstream::replies([status(429).header("retry-after", "30").error("slow down")]);
            let dead = RefusedPort::new();
            let config = Config::new().backend(protocol.backend(&busy, "")).backend(&dead).top("max_wait: 0");
            let response = config.start().post(PATH, &Surface::Messages.hello("aifree", stream));
            let failed = "All configured providers failed: alpha";
            Surface::Messages.check_error(&response, 529, "overloaded_error", failed).unwrap();
            let seconds: u64 = response.header("retry-after").expect("a time is known").parse().unwrap();
            assert!((1..=60).contains(&seconds), "{protocol:?} {stream}: {seconds}");
        }
    }
}

#[test]
fn an_error_of_the_client_comes_back_as_its_own() {
    for first in Protocol::ALL {
        for second in Protocol::ALL {
            for surface in Surface::ALL {
                for stream in [false, true] {
                    let refuse = move |protocol: Protocol| {
                        Upstream::replies([protocol.error(
                            400,
                            "invalid_request_error",
                            "top_k: must be below 500",
                        )])
                    };
                    let (a, b) = (refuse(first), refuse(second));
                    let config = Config::new().backend(first.backend(&a, "")).backend(second.backend(&b, ""));
                    let response = config.start().post(surface.path(), &surface.hello("aifree", stream));
                    surface
                        .check_error(&response, 400, "invalid_request_error", "top_k: must be below 500")
                        .unwrap_or_else(|why| panic!("{surface:?} over {first:?}, {second:?}: {why}"));
                    assert_eq!(response.header("retry-after"), None);
                }
            }
        }
    }
}

#[test]
fn a_conversation_that_is_too_long_is_said_in_the_words_that_agents_know() {
    let refusals = [
        (
            Protocol::OpenAi,
            "This model's maximum context length is 8192 tokens, however you requested 10000 tokens",
        ),
        (Protocol::Anthropic, "prompt is too long: 10000 tokens > 8192 maximum"),
    ];
    for (protocol, message) in refusals {
        let upstream = Upstream::replies([protocol.error(400, "invalid_request_error", message)]);
        let proxy = Config::new().backend(protocol.backend(&upstream, "")).start();
        let hello = |surface: Surface| proxy.post(surface.path(), &surface.hello("aifree", true));
        let response = hello(Surface::Messages);
        let words = "prompt is too long: 10000 tokens > 8192 maximum";
        Surface::Messages.check_error(&response, 400, "invalid_request_error", words).unwrap();
        for surface in [Surface::Chat, Surface::Responses] {
            assert_eq!(hello(surface).error().2, "context_length_exceeded", "{surface:?} over {protocol:?}");
        }
    }
}

#[test]
fn a_backend_that_speaks_messages_counts_tokens_itself() {
    let upstream = Upstream::replies([status(200).json(r#"{"input_tokens":42, "x":1}"#)]);
    let proxy = Config::new().backend(anthropic(&upstream)).start();
    let fields = "anthropic-beta: token-counting-1\r\nx-api-key: client-secret\r\n";
    let body = r#"{"model":"claude-x", "messages":[{"role":"user","content":"hi"}],"unknown":1.0}"#;
    let response = proxy.connect().send(post_with(&format!("{COUNT}?beta=true"), fields, body)).response();
    assert_eq!((response.status(), response.json()["input_tokens"].as_u64()), (200, Some(42)));
    let request = upstream.only_request();
    assert_eq!(request.target, format!("{COUNT}?beta=true"));
    assert_eq!(request.text(), body.replace("claude-x", "model-alpha"));
    assert_eq!(request.header("x-api-key"), Some("sk-secret-alpha"));
    assert_eq!(request.header("anthropic-beta"), Some("token-counting-1"));
}

#[test]
fn tokens_are_estimated_where_nobody_can_be_asked() {
    let body = |words: usize| {
        let text = "seven little words make up one sentence ".repeat(words);
        json!({"model": "m", "messages": [{"role": "user", "content": text}]}).to_string()
    };
    let chat = Upstream::healthy("Hello");
    let refusing = Upstream::replies([Protocol::Anthropic.error(404, "not_found_error", "no such path")]);
    let nonsense = Upstream::replies([status(200).json(r#"{"tokens":"many"}"#)]);
    let dead = RefusedPort::new();
    let dead = Backend::at(dead.base_url()).line("protocol: anthropic");
    let rows = [
        ("a chat backend", Backend::from(&chat)),
        ("one that has no such path", anthropic(&refusing)),
        ("one that answers nonsense", anthropic(&nonsense)),
        ("one that is dead", dead),
    ];
    every(rows, |backend| {
        let proxy = Config::new().backend(backend).start();
        let count = |words| proxy.post(COUNT, &body(words)).json()["input_tokens"].as_u64();
        let (few, many) = (count(1), count(100));
        let sane =
            few.is_some_and(|n| (5..40).contains(&n)) && many.is_some_and(|n| (500..2000).contains(&n));
        expect(sane, || format!("{few:?} and {many:?}"))?;
        // To count costs nobody their turn.
        expect(!proxy.log().contains("WARN"), || proxy.log())
    });
    assert_eq!(chat.hits(), 0, "a chat backend cannot count");
}

#[test]
fn thinking_that_a_backend_refuses_is_left_out_once_and_unseen() {
    let refusal = "messages.1.content.0: Invalid `signature` in `thinking` block";
    for stream in [false, true] {
        let upstream = Upstream::answering(move |r| match r.text().contains("signature") {
            true => Protocol::Anthropic.error(400, "invalid_request_error", refusal),
            false => Protocol::Anthropic.reply(r, &Answer::text("Hello")),
        });
        let other = Upstream::healthy("Hello from the other");
        let proxy = Config::new().backend(anthropic(&upstream)).backend(&other).start();
        let body = json!({"model": "claude-x", "max_tokens": 2000, "stream": stream, "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "Zm9yZWlnbg=="},
                {"type": "text", "text": "Yes?"}]},
            {"role": "user", "content": "go on"}]});
        let response = proxy.post(PATH, &body.to_string());
        Surface::Messages.check_said(&response, stream, "Hello").unwrap();
        assert_eq!((upstream.hits(), other.hits()), (2, 0));
        let second = upstream.requests()[1].json();
        assert!(!second.to_string().contains("thinking\":\"hm"), "{second}");
        assert!(
            second.to_string().contains("Yes?") && second["messages"].as_array().unwrap().len() == 3,
            "{second}"
        );
        // It is nobody's failure: the next request goes there at once.
        let response = proxy.post(PATH, &Surface::Messages.hello("aifree", stream));
        Surface::Messages.check_said(&response, stream, "Hello").unwrap();
        assert_eq!((upstream.hits(), other.hits()), (3, 0));
    }
}

#[test]
fn a_backend_that_refuses_without_thinking_too_is_not_asked_a_third_time() {
    let refuse =
        || Upstream::replies([Protocol::Anthropic.error(400, "invalid_request_error", "bad signature")]);
    let upstream = refuse();
    let proxy = Config::new().backend(anthropic(&upstream)).start();
    let body = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "eA=="},
            {"type": "text", "text": "x"}]}, {"role": "user", "content": "y"}]});
    let response = proxy.post(PATH, &body.to_string());
    Surface::Messages.check_error(&response, 400, "invalid_request_error", "bad signature").unwrap();
    assert_eq!(upstream.hits(), 2);
    // And nobody is asked again for a request that has none.
    let upstream = refuse();
    let proxy = Config::new().backend(anthropic(&upstream)).start();
    proxy.post(PATH, &Surface::Messages.hello("aifree", false));
    assert_eq!(upstream.hits(), 1);
}

#[test]
fn models_are_listed_for_both_families() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Config::new().backend(anthropic(&upstream)).server("api_key: right").start();
    let ask = |path: &str, fields: &str| proxy.connect().send(get(path, fields)).response();
    let anthropic = "anthropic-version: 2023-06-01\r\nx-api-key: right\r\n";
    for fields in [anthropic, "Authorization: Bearer right\r\n"] {
        let list = ask("/v1/models?limit=1000", fields).json();
        let model = &list["data"][0];
        assert_eq!((&list["object"], &list["has_more"]), (&json!("list"), &json!(false)));
        assert_eq!((&list["first_id"], &list["last_id"]), (&json!("aifree"), &json!("aifree")));
        assert_eq!(
            (&model["id"], &model["object"], &model["type"]),
            (&json!("aifree"), &json!("model"), &json!("model"))
        );
        assert!(model["display_name"].is_string() && model["created"].is_u64(), "{model}");
        assert!(model["created_at"].as_str().is_some_and(|time| time.contains('T')), "{model}");
        assert_eq!(ask("/v1/models/aifree", fields).json()["id"], "aifree");
    }
    let refused = ask("/v1/models", "anthropic-version: 2023-06-01\r\n");
    Surface::Messages.check_error(&refused, 401, "authentication_error", "API key").unwrap();
    let unknown = ask("/v1/models/claude-nope", anthropic);
    Surface::Messages.check_error(&unknown, 404, "not_found_error", "claude-nope").unwrap();
}
