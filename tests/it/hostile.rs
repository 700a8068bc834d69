//! Peers that break the rules of HTTP, or only just keep them. Every refusal is an answer with a reason, then a close;
//! nothing unclear goes upstream, and the process goes on.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::*;

/// A chat request with these further field lines and this body, exactly.
fn request(fields: &str, body: &str) -> Vec<u8> {
    format!("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{fields}\r\n{body}")
        .into_bytes()
}

fn with_length(body: &str) -> Vec<u8> {
    request(&format!("Content-Length: {}\r\n", body.len()), body)
}

/// What a refused request must not be able to hide behind itself.
const SMUGGLED: &str = "GET /v1/models HTTP/1.1\r\nHost: smuggled\r\n\r\n";

fn check_refused(rows: Vec<(&'static str, Vec<u8>, &'static [u16])>) {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    every(rows.into_iter().map(|(name, bytes, statuses)| (name, (bytes, statuses))), |(bytes, statuses)| {
        let mut all = bytes;
        all.extend_from_slice(SMUGGLED.as_bytes());
        let responses = proxy.raw(&all)?;
        let [response] = &responses[..] else {
            return Err(format!("expected one answer and a close, got {responses:#?}"));
        };
        response.try_error()?;
        expect(statuses.contains(&response.status()), || {
            format!("{} {}", response.status(), response.text())
        })?;
        expect(response.head.closes(), || "does not say that it closes".into())?;
        proxy.check_alive()
    });
    assert_eq!(upstream.hits(), 0, "something unclear went upstream");
}

#[test]
fn unclear_framing_is_refused() {
    let chunked = "Transfer-Encoding: chunked\r\n";
    let length = format!("Content-Length: {}\r\n", HELLO.len());
    let as_chunk = format!("{:x}\r\n{HELLO}\r\n0\r\n\r\n", HELLO.len());
    let body = |fields: String| request(&fields, HELLO);
    check_refused(vec![
        ("length and chunked", request(&format!("{length}{chunked}"), &as_chunk), &[400]),
        ("chunked and length", request(&format!("{chunked}{length}"), &as_chunk), &[400]),
        ("two lengths that differ", body(format!("{length}Content-Length: 5\r\n")), &[400]),
        ("a list of lengths that differ", body(format!("Content-Length: {}, 5\r\n", HELLO.len())), &[400]),
        ("signed length", body(format!("Content-Length: +{}\r\n", HELLO.len())), &[400]),
        ("negative length", body("Content-Length: -1\r\n".into()), &[400]),
        ("hex length", body("Content-Length: 0x10\r\n".into()), &[400]),
        ("length with a space", body("Content-Length: 1 6\r\n".into()), &[400]),
        ("empty length", body("Content-Length: \r\n".into()), &[400]),
        ("length that overflows", body("Content-Length: 18446744073709551617\r\n".into()), &[400, 413]),
        ("chunked twice", request("Transfer-Encoding: chunked, chunked\r\n", &as_chunk), &[400, 501]),
        ("chunked in two fields", request(&format!("{chunked}{chunked}"), &as_chunk), &[400, 501]),
        ("gzip, chunked", request("Transfer-Encoding: gzip, chunked\r\n", &as_chunk), &[400, 501]),
        ("chunked, identity", request("Transfer-Encoding: chunked, identity\r\n", &as_chunk), &[400, 501]),
        ("identity", request("Transfer-Encoding: identity\r\n", HELLO), &[400, 501]),
        ("xchunked", request("Transfer-Encoding: xchunked\r\n", &as_chunk), &[400, 501]),
        (
            "a vertical tab before chunked",
            request("Transfer-Encoding: \x0bchunked\r\n", &as_chunk),
            &[400, 501],
        ),
        ("quoted chunked", request("Transfer-Encoding: \"chunked\"\r\n", &as_chunk), &[400, 501]),
        (
            "a space before the colon",
            request(&format!("Transfer-Encoding : chunked\r\n{length}"), HELLO),
            &[400],
        ),
        (
            "chunked under HTTP/1.0",
            format!("POST /v1/chat/completions HTTP/1.0\r\n{chunked}\r\n{as_chunk}").into(),
            &[400, 501],
        ),
    ]);
}

#[test]
fn bad_chunks_are_refused() {
    let chunks = |text: &str| request("Transfer-Encoding: chunked\r\n", text);
    let n = format!("{:x}", HELLO.len());
    check_refused(vec![
        ("no size", chunks(&format!("\r\n{HELLO}\r\n0\r\n\r\n")), &[400]),
        ("letters", chunks(&format!("zz\r\n{HELLO}\r\n0\r\n\r\n")), &[400]),
        ("0x", chunks(&format!("0x{n}\r\n{HELLO}\r\n0\r\n\r\n")), &[400]),
        ("signed", chunks(&format!("+{n}\r\n{HELLO}\r\n0\r\n\r\n")), &[400]),
        ("negative", chunks(&format!("-{n}\r\n{HELLO}\r\n0\r\n\r\n")), &[400]),
        ("a space in front", chunks(&format!(" {n}\r\n{HELLO}\r\n0\r\n\r\n")), &[400]),
        ("overflow", chunks(&format!("1000000000000000{n}\r\n{HELLO}\r\n0\r\n\r\n")), &[400, 413]),
        ("larger than all memory", chunks(&format!("fffffffffffffff\r\n{HELLO}")), &[400, 413]),
        ("LF alone behind the size", chunks(&format!("{n}\n{HELLO}\r\n0\r\n\r\n")), &[400]),
        ("CR alone behind the size", chunks(&format!("{n}\r{HELLO}\r\n0\r\n\r\n")), &[400]),
        ("longer than said", chunks(&format!("5\r\n{HELLO}\r\n0\r\n\r\n")), &[400]),
        (
            "an endless extension",
            chunks(&format!("{n};{}\r\n{HELLO}\r\n0\r\n\r\n", "a".repeat(5000))),
            &[400],
        ),
        ("LF in an extension", chunks(&format!("{n};a\nb\r\n{HELLO}\r\n0\r\n\r\n")), &[400]),
        (
            "endless trailers",
            chunks(&format!("{n}\r\n{HELLO}\r\n0\r\n{}\r\n", "x: y\r\n".repeat(5000))),
            &[400, 431],
        ),
    ]);
}

#[test]
fn broken_heads_are_refused() {
    let get = |line: &str, fields: &str| format!("{line}\r\n{fields}\r\n").into_bytes();
    let host = "Host: x\r\n";
    let many: String = (0..200).map(|i| format!("x-{i}: y\r\n")).collect();
    let long = "a".repeat(17 * 1024);
    check_refused(vec![
        ("no host", get("GET /health HTTP/1.1", ""), &[400]),
        ("two hosts", get("GET /health HTTP/1.1", "Host: x\r\nHost: y\r\n"), &[400]),
        ("a folded field", get("GET /health HTTP/1.1", "Host: x\r\nx: a\r\n b\r\n"), &[400]),
        ("a fold behind the request line", get("GET /health HTTP/1.1", " x: a\r\nHost: x\r\n"), &[400]),
        ("LF alone in the middle", b"GET /health HTTP/1.1\r\nHost: x\nx: y\r\n\r\n".to_vec(), &[400]),
        ("CR alone in a field", get("GET /health HTTP/1.1", "Host: x\r\nx: a\rb\r\n"), &[400]),
        ("NUL in a field", get("GET /health HTTP/1.1", "Host: x\r\nx: a\0b\r\n"), &[400]),
        ("NUL in a name", get("GET /health HTTP/1.1", "Host: x\r\nx\0: a\r\n"), &[400]),
        ("NUL in the path", get("GET /hea\0lth HTTP/1.1", host), &[400]),
        ("a field without colon", get("GET /health HTTP/1.1", "Host: x\r\noops\r\n"), &[400]),
        ("a field without name", get("GET /health HTTP/1.1", "Host: x\r\n: y\r\n"), &[400]),
        ("a space in a name", get("GET /health HTTP/1.1", "Host: x\r\na b: y\r\n"), &[400]),
        ("no version", get("GET /health", host), &[400, 505]),
        ("HTTP/1.2", get("GET /health HTTP/1.2", host), &[400, 505]),
        ("HTTP/3.0", get("GET /health HTTP/3.0", host), &[400, 505]),
        ("http in small letters", get("GET /health http/1.1", host), &[400, 505]),
        ("two spaces", get("GET  /health HTTP/1.1", host), &[400]),
        ("a space in the path", get("GET /he alth HTTP/1.1", host), &[400, 505]),
        ("no slash", get("GET health HTTP/1.1", host), &[400]),
        ("a control character as method", get("G\x01T /health HTTP/1.1", host), &[400]),
        ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[400, 505]),
        ("a TLS hello", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n".to_vec(), &[400]),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec(), &[400]),
        ("a head of 17 KiB", get("GET /health HTTP/1.1", &format!("Host: x\r\nx: {long}\r\n")), &[431]),
        ("200 fields", get("GET /health HTTP/1.1", &format!("Host: x\r\n{many}")), &[431]),
        (
            "101 fields",
            get("GET /health HTTP/1.1", &format!("Host: x\r\n{}", "x: y\r\n".repeat(100))),
            &[431],
        ),
        ("a path of 17 KiB", get(&format!("GET /{long} HTTP/1.1"), host), &[414, 431]),
        ("an endless method", get(&format!("{long} / HTTP/1.1"), host), &[400, 414, 431]),
    ]);
}

#[test]
fn a_hundred_fields_and_15_kib_are_fine() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let fields: String = (0..97).map(|i| format!("x-{i}: {}\r\n", "y".repeat(100))).collect();
    assert_eq!(proxy.connect().send(get("/health", &fields)).response().status(), 200);
    let long = format!("x: {}\r\n", "y".repeat(15 * 1024));
    assert_eq!(proxy.connect().send(get("/health", &long)).response().status(), 200);
}

#[test]
fn odd_methods_are_told_so() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    every(
        [
            ("BREW /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", &[405, 501][..]),
            ("get /health HTTP/1.1\r\nHost: x\r\n\r\n", &[400, 405, 501]),
            ("TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", &[405, 501]),
            ("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", &[400, 404, 405, 501]),
            ("GET http://169.254.169.254/latest HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", &[404]),
        ]
        .map(|(bytes, statuses)| (bytes, (bytes, statuses))),
        |(bytes, statuses)| {
            let response = proxy.connect().send(bytes).try_response(Asked::USUAL)?;
            response.try_error()?;
            expect(statuses.contains(&response.status()), || {
                format!("{} {}", response.status(), response.text())
            })?;
            proxy.check_alive()
        },
    );
    // OPTIONS is for browsers, off unless configured, but it must not hang or break the connection.
    let mut connection = proxy.connect();
    let response = connection.send("OPTIONS /v1/models HTTP/1.1\r\nHost: x\r\n\r\n").response();
    assert!(matches!(response.status(), 200 | 204 | 405), "{}", response.status());
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn an_expectation_is_met_before_the_body_is_sent() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    for word in ["100-continue", "100-Continue"] {
        let mut connection = proxy.connect();
        connection.send(request(&format!("Expect: {word}\r\nContent-Length: {}\r\n", HELLO.len()), ""));
        let interim = connection.head();
        assert_eq!((interim.status, interim.framing(Asked::USUAL)), (100, Ok(Framing::Nothing)));
        connection.send(HELLO).response().check_answer("Hello").unwrap();
        connection.send(get("/health", "")).response();
    }
    // A client that does not wait for it is served too.
    let all = request(&format!("Expect: 100-continue\r\nContent-Length: {}\r\n", HELLO.len()), HELLO);
    let mut connection = proxy.connect();
    connection.send(all);
    let head = connection.head();
    if head.status == 100 {
        connection.response().check_answer("Hello").unwrap();
    } else {
        assert_eq!(head.status, 200);
    }
}

#[test]
fn an_expectation_that_will_be_refused_saves_the_body() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Config::new().backend(&upstream).server("api_key: client-key").start();
    let mut connection = proxy.connect();
    let response =
        connection.send(request("Expect: 100-continue\r\nContent-Length: 1000000\r\n", "")).response();
    assert_eq!(response.status(), 401);
    assert!(response.head.closes(), "the body that may or may not follow would be read as a request");
    connection.closed();
}

#[test]
fn an_expectation_nobody_can_meet_is_417() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let fields = format!("Expect: 200-maybe\r\nContent-Length: {}\r\n", HELLO.len());
    let response = proxy.connect().send(request(&fields, HELLO)).response();
    assert_eq!(response.status(), 417);
    response.error();
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn a_chunked_request_is_understood_and_goes_out_clean() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let pieces: String = HELLO
        .as_bytes()
        .chunks(7)
        .map(|c| format!("{:x}\r\n{}\r\n", c.len(), String::from_utf8_lossy(c)))
        .collect();
    every(
        [
            ("pieces", format!("{pieces}0\r\n\r\n")),
            ("an extension", format!("{:x};a=b\r\n{HELLO}\r\n0\r\n\r\n", HELLO.len())),
            ("leading zeros and capitals", format!("000{:X}\r\n{HELLO}\r\n000\r\n\r\n", HELLO.len())),
            ("a trailer", format!("{:x}\r\n{HELLO}\r\n0\r\nx-sum: 1\r\n\r\n", HELLO.len())),
        ],
        |chunks| {
            let mut connection = proxy.connect();
            connection.send(request("Transfer-Encoding: Chunked\r\n", &chunks));
            connection.try_response(Asked::USUAL)?.check_answer("Hello")?;
            let sent = upstream.requests().pop().unwrap().text();
            expect(sent == HELLO.replace("aifree", "model-alpha"), || sent)?;
            connection.send(get("/health", "")).try_response(Asked::USUAL).map(drop)
        },
    );
}

#[test]
fn a_post_without_a_length_has_an_empty_body() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let response = proxy.connect().send(request("", "")).response();
    assert!(matches!(response.status(), 400 | 411), "{}", response.text());
    response.error();
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn equal_lengths_twice_are_refused_or_one() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let length = format!("Content-Length: {}\r\n", HELLO.len());
    let response = proxy.connect().send(request(&format!("{length}{length}"), HELLO)).response();
    assert!(matches!(response.status(), 200 | 400), "{}", response.text());
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let mut connection = proxy.connect();
    for _ in 0..2 {
        for byte in with_length(HELLO) {
            connection.send([byte]);
        }
        connection.response().check_answer("Hello").unwrap();
    }
}

#[test]
fn blank_lines_before_a_request_are_skipped() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let mut connection = proxy.connect();
    for _ in 0..2 {
        connection.send(format!("\r\n{}", String::from_utf8_lossy(&get("/health", ""))));
        assert_eq!(connection.response().status(), 200);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::answering(|r| chat_whole(r.json()["user"].as_str().unwrap()));
    let proxy = Proxy::with_backends([&upstream]);
    let mut connection = proxy.connect();
    let one =
        |user: &str| with_length(&HELLO.replace("{\"model\"", &format!("{{\"user\":\"{user}\",\"model\"")));
    let all =
        [one("first"), get("/v1/models", ""), one("second"), get("/nothing", ""), one("third")].concat();
    connection.send(all);
    connection.response().check_answer("first").unwrap();
    assert_eq!(connection.response().json()["object"], "list");
    connection.response().check_answer("second").unwrap();
    assert_eq!(connection.response().status(), 404);
    connection.response().check_answer("third").unwrap();
}

#[test]
fn a_pipelined_request_behind_a_stream_is_answered() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let mut connection = proxy.connect();
    connection.send([with_length(STREAM_HELLO), get("/health", "")].concat());
    connection.response().events().check_complete("Hello").unwrap();
    assert_eq!(connection.response().status(), 200);
}

#[test]
fn a_client_that_ends_its_sending_side_still_gets_its_answer() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream =
        Upstream::answering(move |_| Reply::nothing().wait(&held).write(chat_whole("Hello").bytes()));
    let proxy = Proxy::with_backends([&upstream]);
    let mut connection = proxy.connect();
    connection.send(with_length(HELLO));
    upstream.wait_for_requests(1);
    connection.end_sending();
    // A half-close looks like a client that left; RFC 9112 §9.6 lets a server treat it so. What it may not do is hang.
    gate.open();
    match connection.try_response(Asked::USUAL) {
        Ok(response) => response.check_answer("Hello").unwrap(),
        Err(why) => assert!(why.contains("end inside a line") || why.contains("reset"), "{why}"),
    }
    proxy.check_alive().unwrap();
}

#[test]
fn http_1_0_gets_what_it_can_read() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let ask = |fields: &str, body: &str| {
        format!("POST /v1/chat/completions HTTP/1.0\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let mut connection = proxy.connect();
    connection.send(ask("", HELLO)).response_to(Asked::HTTP10).check_answer("Hello").unwrap();
    connection.closed();

    let mut connection = proxy.connect();
    for _ in 0..2 {
        let response = connection.send(ask("Connection: keep-alive\r\n", HELLO)).response_to(Asked::HTTP10);
        response.check_answer("Hello").unwrap();
        let kept = response.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("keep-alive"));
        assert!(kept, "a client of HTTP/1.0 has to be told that the connection stays: {:?}", response.head);
    }

    // No length is known and chunks are unknown to it: the end of a stream is the end of the connection.
    let mut connection = proxy.connect();
    let response = connection.send(ask("", STREAM_HELLO)).response_to(Asked::HTTP10);
    response.events().check_complete("Hello").unwrap();
    connection.closed();
}

#[test]
fn close_means_close() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    for body in [HELLO, STREAM_HELLO] {
        let mut connection = proxy.connect();
        let length = format!("Connection: close\r\nContent-Length: {}\r\n", body.len());
        let response = connection.send(request(&length, body)).response();
        assert!(response.head.closes(), "{:?}", response.head);
        connection.closed();
    }
}

#[test]
fn a_refused_but_well_framed_request_keeps_the_connection() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let mut connection = proxy.connect();
    for (bytes, status) in [
        (with_length("not JSON"), 400),
        (post("/v1/nothing", "{}"), 404),
        (get("/v1/chat/completions", ""), 405),
        (with_length(HELLO), 200),
    ] {
        let response = connection.send(bytes).response();
        assert_eq!(response.status(), status, "{}", response.text());
        assert!(!response.head.closes());
    }
}

#[test]
fn a_body_above_the_limit_is_told_whose_limit_it_is() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Config::new().backend(&upstream).server("max_body: 2000").start();
    let big = HELLO.replace("hi", &"x".repeat(300_000));
    let fitting = HELLO.replace("hi", &"x".repeat(2000 - HELLO.len() + 2));
    assert_eq!(fitting.len(), 2000);
    proxy.chat(&fitting).check_answer("Hello").unwrap();
    every(
        [
            ("announced only", request("Content-Length: 300000\r\n", "")),
            ("one byte more", with_length(&fitting.replacen('x', "xx", 1))),
            ("sent in full", with_length(&big)),
            (
                "in chunks",
                request("Transfer-Encoding: chunked\r\n", &format!("{:x}\r\n{big}\r\n0\r\n\r\n", big.len())),
            ),
            ("expected", request("Expect: 100-continue\r\nContent-Length: 300000\r\n", "")),
            ("beyond all integers of 32 bits", request("Content-Length: 5000000000\r\n", "")),
        ],
        |bytes| {
            let mut connection = proxy.connect();
            let _ = connection.try_send(&bytes);
            let response = connection.try_response(Asked::USUAL)?;
            let (message, ..) = response.try_error()?;
            expect(response.status() == 413, || format!("{} {message}", response.status()))?;
            expect(message.contains("max_body") && message.contains("2000"), || {
                format!("names no limit: {message}")
            })?;
            proxy.check_alive()
        },
    );
    assert_eq!(upstream.hits(), 1);
}

#[test]
fn a_client_that_dies_in_its_request_leaves_no_trace() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let whole = with_length(HELLO);
    for n in [1, 10, 40, whole.len() - HELLO.len(), whole.len() - 1] {
        let mut connection = proxy.connect();
        connection.send(&whole[..n]).end_sending();
        // Nothing, or an error: but an end.
        if let Ok(responses) = connection.responses_until_close(Asked::USUAL) {
            assert!(responses.iter().all(|r| r.status() == 400 || r.status() == 408), "{responses:?}");
        }
        drop(connection);
    }
    proxy.check_alive().unwrap();
    assert_eq!(upstream.hits(), 0);
}

/// The only test that waits for a real limit of the server: ten seconds.
#[test]
fn a_slow_head_is_given_up() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let mut connection = proxy.connect();
    let began = Instant::now();
    connection.send("GET /health HTTP/1.1\r\nHost:");
    let responses = connection.responses_until_close(Asked::USUAL).unwrap();
    let waited = began.elapsed().as_secs();
    assert_eq!(responses.iter().map(Response::status).collect::<Vec<_>>(), [408]);
    assert!((8..16).contains(&waited), "after {waited} s");
    responses[0].error();
}

#[test]
fn idle_connections_do_not_lock_others_out() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Config::new().backend(&upstream).server("max_connections: 20").start();
    let mut idle: Vec<Connection> = (0..60).map(|_| proxy.connect()).collect();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    // The same with connections that have been used, which wait for a next request.
    for connection in idle.iter_mut().skip(50) {
        let _ = connection.try_send(&get("/health", ""));
    }
    proxy.chat(HELLO).check_answer("Hello").unwrap();
}

/// Only a peer that waits at the door is a reason to send one away.
#[test]
fn a_full_house_closes_no_idle_connection_for_nobody() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Config::new().backend(&upstream).server("max_connections: 2").start();
    let mut guests = [proxy.connect(), proxy.connect()];
    for round in 0..3 {
        for guest in &mut guests {
            guest.send(get("/health", ""));
            assert_eq!(guest.response().status(), 200, "round {round}");
        }
    }
}

#[test]
fn busy_connections_are_not_closed_for_new_ones() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::answering(move |_| {
        status(200)
            .stream_head()
            .event(&event(r#"{"content":"Hel"}"#, "null"))
            .wait(&held)
            .event(&event(r#"{"content":"lo"}"#, r#""stop""#))
            .event("[DONE]")
            .end_chunks()
    });
    let proxy = Config::new().backend(&upstream).server("max_connections: 5").start();
    let mut busy: Vec<Stream> = (0..5).map(|_| proxy.stream(STREAM_HELLO)).collect();
    for stream in &mut busy {
        assert_eq!(stream.next_event().unwrap().content().as_deref(), Some("Hel"));
    }
    // Waits in the listener's queue until one of the five ends.
    let mut late = proxy.connect();
    late.send(get("/health", ""));
    gate.open();
    for stream in busy {
        stream.rest().check_complete("lo").unwrap();
    }
    assert_eq!(late.response().status(), 200);
}

#[test]
fn bodies_wait_for_their_share_of_memory() {
    let upstream = Upstream::healthy("Hello");
    let limits = Config::new().backend(&upstream).server("max_body: 100000").server("body_memory: 100000");
    let proxy = limits.start();
    let body = HELLO.replace("hi", &"x".repeat(60_000));
    let whole = with_length(&body);
    let mut first = proxy.connect();
    first.send(&whole[..50_000]);
    thread::scope(|scope| {
        let second = scope.spawn(|| proxy.chat(&body));
        first.send(&whole[50_000..]).response().check_answer("Hello").unwrap();
        second.join().unwrap().check_answer("Hello").unwrap();
    });
}

#[test]
fn many_clients_at_once_are_all_served() {
    let upstream = Upstream::answering(|r| good_answer(r, r.json()["user"].as_str().unwrap()));
    let proxy = Proxy::with_backends([&upstream]);
    thread::scope(|scope| {
        for client in 0..20 {
            let proxy = &proxy;
            scope.spawn(move || {
                let mut connection = proxy.connect();
                for round in 0..10 {
                    let user = format!("client {client} round {round}");
                    let model = format!("{{\"user\":\"{user}\",\"model\"");
                    let body = STREAM_HELLO.replace("{\"model\"", &model);
                    connection.send(with_length(&body)).response().events().check_complete(&user).unwrap();
                    connection.send(with_length(&HELLO.replace("{\"model\"", &model)));
                    connection.response().check_answer(&user).unwrap();
                }
            });
        }
    });
    assert_eq!(upstream.hits(), 400);
}

/// A reader that stops costs its own connection only, and the provider is slowed down instead of buffered.
#[test]
fn a_client_that_does_not_read_holds_nobody_else_up() {
    let chunk = event(&format!(r#"{{"content":"{}"}}"#, "x".repeat(50_000)), "null");
    let upstream = Upstream::answering(move |r| {
        if r.number > 0 {
            return good_answer(r, "Hello");
        }
        let mut reply = status(200).stream_head();
        for _ in 0..1000 {
            reply = reply.event(&chunk);
        }
        reply.stall()
    });
    let proxy = Proxy::with_backends([&upstream]);
    let mut lazy = proxy.stream(STREAM_HELLO);
    lazy.next_event().unwrap();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    let resident = resident_bytes(&proxy);
    assert!(resident < 30 * 1024 * 1024, "{resident} bytes resident while 50 MB wait");
    lazy.close();
    assert!(upstream.wait_for_leaving(1, Duration::from_secs(5)).is_some(), "the provider is still held");
}

fn resident_bytes(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
