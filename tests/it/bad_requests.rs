//! Bodies nobody expected: each has a defined answer, and the process lives.

use crate::harness::*;

/// `Ok(model)`: answered, and the provider saw this model once. `Err(statuses)`: refused with one of them.
type Expected = Result<&'static str, &'static [u16]>;

const REFUSED: Expected = Err(&[400]);

fn check(rows: Vec<(&'static str, (Vec<u8>, Expected))>) {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    every(rows, |(body, expected)| {
        let before = upstream.hits();
        let mut request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body);
        let mut connection = proxy.connect();
        let _ = connection.try_send(&request);
        let response = connection.try_response(Asked::USUAL)?;
        proxy.check_alive()?;
        match expected {
            Ok(model) => {
                expect(response.status() == 200, || response.text())?;
                let sent = upstream.requests().pop().unwrap();
                expect(sent.json()["model"] == model, || format!("sent {}", sent.text()))
            }
            Err(statuses) => {
                let (_, kind, _) = response.try_error()?;
                expect(statuses.contains(&response.status()), || response.text())?;
                expect(kind == "invalid_request_error", || format!("type {kind}"))?;
                expect(upstream.hits() == before, || "a provider was asked".into())
            }
        }
    });
}

#[test]
fn every_spelling_of_the_model_is_replaced() {
    let good = Ok("model-alpha");
    check(
        [
            ("usual", HELLO),
            ("null", r#"{"model":null,"messages":[]}"#),
            ("absent", r#"{"messages":[]}"#),
            ("nothing at all", "{}"),
            ("nothing and a space", "{ }"),
            ("blank", r#"{"model":"  ","messages":[]}"#),
            ("empty", r#"{"model":"","messages":[]}"#),
            ("escaped key", r#"{"mod\u0065l":"aifree","messages":[]}"#),
            ("escaped value", r#"{"model":"\u0061ifree","messages":[]}"#),
            ("spaces around", "\n\t { \"model\" \n:\t\"aifree\" } \r\n"),
            ("last", r#"{"messages":[],"model":"x"}"#),
            ("an inner one", r#"{"messages":[{"model":"inner"}],"model":"x"}"#),
            ("quotes inside", r#"{"model":"a\"b\\","messages":[]}"#),
            ("no messages", r#"{"model":"aifree"}"#),
        ]
        .map(|(name, body)| (name, (body.as_bytes().to_vec(), good)))
        .into(),
    );
}

#[test]
fn a_body_that_is_no_chat_request_is_refused() {
    check(vec![
        ("empty", (Vec::new(), REFUSED)),
        ("a space", (b" ".to_vec(), REFUSED)),
        ("duplicate model", (br#"{"model":"a","messages":[],"model":"b"}"#.to_vec(), REFUSED)),
        ("duplicate model, one escaped", (br#"{"model":"a","mod\u0065l":"b"}"#.to_vec(), REFUSED)),
        ("an array", (br#"["aifree",[]]"#.to_vec(), REFUSED)),
        ("a string", (br#""aifree""#.to_vec(), REFUSED)),
        ("null", (b"null".to_vec(), REFUSED)),
        ("a number as model", (br#"{"model":1}"#.to_vec(), REFUSED)),
        ("an object as model", (br#"{"model":{"a":1}}"#.to_vec(), REFUSED)),
        ("true as model", (br#"{"model":true}"#.to_vec(), REFUSED)),
        ("a string as stream", (br#"{"model":"aifree","stream":"yes"}"#.to_vec(), REFUSED)),
        ("truncated", (br#"{"model":"aifree","messages":[{"role":"us"#.to_vec(), REFUSED)),
        ("something behind", (br#"{"model":"aifree"} {"#.to_vec(), REFUSED)),
        ("two objects", (br#"{"model":"aifree"}{"model":"aifree"}"#.to_vec(), REFUSED)),
        ("a trailing comma", (br#"{"model":"aifree",}"#.to_vec(), REFUSED)),
        ("single quotes", (br"{'model':'aifree'}".to_vec(), REFUSED)),
        ("a raw control character", (b"{\"model\":\"ai\nfree\"}".to_vec(), REFUSED)),
        ("invalid UTF-8 in a value", (b"{\"model\":\"aifree\",\"user\":\"\xff\xfe\"}".to_vec(), REFUSED)),
        ("invalid UTF-8 in a key", (b"{\"model\":\"aifree\",\"\xc3\":1}".to_vec(), REFUSED)),
        ("UTF-16", (b"\xff\xfe{\0}\0".to_vec(), REFUSED)),
        ("10000 open arrays", (format!("{{\"messages\":{}", "[".repeat(10_000)).into_bytes(), REFUSED)),
        ("HTML", (b"<html>".to_vec(), REFUSED)),
    ]);
}

#[test]
fn a_byte_order_mark_is_refused_or_dropped_but_not_passed_on() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let response = proxy.chat(&format!("\u{feff}{HELLO}"));
    match response.status() {
        200 => assert_eq!(upstream.only_request().json()["model"], "model-alpha"),
        400 => drop(response.error()),
        other => panic!("{other}: {}", response.text()),
    }
    proxy.check_alive().unwrap();
}

/// What goes through is not ours to judge, but a parser that recurses would die of it.
#[test]
fn deep_nesting_passes_or_is_refused_and_kills_nobody() {
    every(
        [
            ("100 arrays", "[", "", "]", 100),
            ("10000 arrays", "[", "", "]", 10_000),
            ("objects", "{\"a\":", "0", "}", 10_000),
        ]
        .map(|(name, open, middle, close, n)| {
            (name, (format!("{}{middle}{}", open.repeat(n), close.repeat(n)), n))
        }),
        |(nested, depth)| {
            let upstream = Upstream::healthy("Hello");
            let proxy = Proxy::with_backends([&upstream]);
            for stream in [false, true] {
                let body = format!(r#"{{"model":"aifree","tools":{nested},"stream":{stream}}}"#);
                let response = proxy.chat(&body);
                proxy.check_alive()?;
                if depth > 100 && response.status() == 400 {
                    response.try_error()?;
                    continue;
                }
                expect(response.status() == 200, || response.text())?;
                let sent = upstream.requests().pop().unwrap().text();
                expect(sent.contains(&nested) && sent.contains("model-alpha"), || "it was changed".into())?;
            }
            Ok(())
        },
    );
}

#[test]
fn a_body_of_another_kind_is_refused() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    every(
        [
            ("a form", "Content-Type: application/x-www-form-urlencoded\r\n"),
            ("text", "Content-Type: text/plain\r\n"),
            ("compressed", "Content-Type: application/json\r\nContent-Encoding: gzip\r\n"),
        ],
        |fields| {
            let body = "model=aifree";
            let request = format!(
                "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: 12\r\n\r\n{body}"
            );
            let response = proxy.connect().send(request).try_response(Asked::USUAL)?;
            response.try_error()?;
            expect(matches!(response.status(), 400 | 415), || response.text())?;
            proxy.check_alive()
        },
    );
    assert_eq!(upstream.hits(), 0);
}
