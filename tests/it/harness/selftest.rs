//! The harness against itself: a checker that accepts everything checks nothing.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::http::Wire;
use super::*;

fn request(upstream: &Upstream) -> Connection {
    let mut connection = Connection::open(upstream.addr());
    connection.send(post("/v1/chat/completions", HELLO));
    connection
}

#[test]
fn the_checker_accepts_what_is_right() {
    every(
        [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", (Asked::USUAL, Framing::Length(2))),
            ("HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", (Asked::USUAL, Framing::Length(0))),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", (Asked::HEAD, Framing::Nothing)),
            ("HTTP/1.1 204 No Content\r\n\r\n", (Asked::USUAL, Framing::Nothing)),
            ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhi", (Asked::USUAL, Framing::UntilClose)),
            ("HTTP/1.1 200 OK\r\n\r\nhi", (Asked::HTTP10, Framing::UntilClose)),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n",
                (Asked::USUAL, Framing::Chunked),
            ),
        ]
        .map(|(bytes, row)| (bytes, (bytes, row))),
        |(bytes, (asked, framing))| {
            let mut wire = Wire::new(bytes.as_bytes());
            let response = wire.response(asked)?;
            wire.closed()?;
            expect(response.framing == framing, || {
                format!("expected {framing:?}, got {:?}", response.framing)
            })?;
            let text = response.text();
            expect(text == "hi" || text.is_empty(), || format!("body {text:?}"))
        },
    );
}

#[test]
fn the_checker_refuses_what_is_wrong() {
    every(
        [
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\ncontent-length: 0\n\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nno colon\r\ncontent-length: 2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nx: a\x01b\r\ncontent-length: 2\r\n\r\nhi",
            "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 405 No\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi!\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\nhi\n0\n\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx: y\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nmore",
        ]
        .map(|bytes| (bytes, bytes)),
        |bytes| {
            let mut wire = Wire::new(bytes.as_bytes());
            let result = wire.response(Asked::USUAL).and_then(|_| wire.closed());
            expect(result.is_err(), || "should have been refused".into())
        },
    );
}

#[test]
fn a_scripted_provider_answers_in_order_and_remembers() {
    let upstream =
        Upstream::replies([status(429).header("retry-after", "7").error("busy"), chat_whole("Hello")]);
    let mut connection = request(&upstream);
    let first = connection.response();
    assert_eq!((first.status(), first.header("retry-after")), (429, Some("7")));
    assert_eq!(first.error().0, "busy");
    for _ in 0..2 {
        connection.send(post("/again", HELLO)).response().check_answer("Hello").unwrap();
    }
    let requests = upstream.requests();
    assert_eq!((upstream.hits(), upstream.connections(), requests.len()), (3, 1, 3));
    assert_eq!(
        (requests[2].target.as_str(), requests[2].place, requests[2].text()),
        ("/again", 2, HELLO.into())
    );
}

#[test]
fn a_scripted_stream_arrives_event_by_event() {
    let gate = Gate::new();
    let upstream = Upstream::replies([status(200)
        .stream_head()
        .event(&event(r#"{"content":"Hel"}"#, "null"))
        .wait(&gate)
        .event(&event(r#"{"content":"lo"}"#, "null"))
        .event(&event("{}", r#""stop""#))
        .event("[DONE]")
        .end_chunks()]);
    let mut stream = request(&upstream).stream();
    assert_eq!(stream.next_event().and_then(|e| e.content()).as_deref(), Some("Hel"));
    gate.open();
    let rest = stream.rest();
    assert_eq!(rest.text(), "lo");
    rest.check_complete("lo").unwrap();
    rest.check_broken().unwrap_err();
}

#[test]
fn every_way_of_sending_an_answer_reads_the_same() {
    let body = sse_body(&["Hel", "lo"]);
    let kind = "text/event-stream";
    every(
        [
            ("chunk per event", sse(&body)),
            ("one chunk", status(200).chunked(kind, [body.as_bytes()])),
            ("chunk per byte", status(200).chunked(kind, body.as_bytes().chunks(1))),
            ("length", status(200).body(kind, &body)),
            ("until close", status(200).header("connection", "close").until_close(kind, &body)),
            ("dripped", sse(&body).drip()),
        ],
        |reply| {
            let upstream = Upstream::replies([reply]);
            let response = request(&upstream).try_response(Asked::USUAL)?;
            response.try_events()?.check_complete("Hello")?;
            expect(response.text() == body, || response.text())
        },
    );
}

#[test]
fn a_scripted_provider_dies_as_told() {
    let whole = chat_whole("Hello");
    for (name, reply, told) in [
        ("at once", Reply::nothing().close(), "the end inside a line"),
        ("in the head", whole.cut(20).close(), "the end inside a line"),
        ("in the body", whole.cut(whole.bytes().len() - 1).close(), "1 bytes missing"),
        ("with a reset", Reply::nothing().reset(), "reset"),
    ] {
        let upstream = Upstream::replies([reply]);
        let error = request(&upstream).try_response(Asked::USUAL).unwrap_err();
        assert!(error.contains(told), "{name}: expected {told:?}, got {error:?}");
    }
}

#[test]
fn a_scripted_provider_sees_its_peer_leave() {
    for reply in [Reply::nothing().stall(), Reply::nothing().wait(&Gate::new()), chat_whole("x")] {
        let upstream = Upstream::replies([reply]);
        let connection = request(&upstream);
        upstream.wait_for_requests(1);
        assert_eq!(upstream.wait_for_leaving(1, Duration::ZERO), None);
        let before = Instant::now();
        drop(connection);
        assert!(upstream.wait_for_leaving(1, DEADLINE).unwrap() >= before);
    }
}

#[test]
#[should_panic(expected = "broke RFC 9112")]
fn a_request_with_unclear_framing_is_told() {
    let upstream = Upstream::healthy("x");
    let mut connection = Connection::open(upstream.addr());
    connection.send(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    connection.closed();
}

#[test]
fn a_chunked_request_is_understood() {
    let upstream = Upstream::replies([chat_whole("x")]);
    let mut connection = Connection::open(upstream.addr());
    connection.send(
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    );
    connection.response();
    assert_eq!(upstream.only_request().text(), "abcde");
}

#[test]
fn a_refused_port_refuses() {
    let port = RefusedPort::new();
    let addr = port.base_url().replace("http://", "").replace("/v1", "");
    let error = TcpStream::connect(addr).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_provider_speaks_tls_and_only_the_good_certificate_passes() {
    let authority = Authority::new();
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    for (certificate, good) in
        [(Certificate::Good, true), (Certificate::WrongName, false), (Certificate::Expired, false)]
    {
        let upstream = Upstream::tls(authority.server(certificate), |_| chat_whole("Hello"));
        let socket = TcpStream::connect(upstream.addr()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), socket);
        let sent = stream.write_all(&post("/v1/chat/completions", HELLO));
        if good {
            sent.unwrap();
            Wire::new(&mut stream).response(Asked::USUAL).unwrap().check_answer("Hello").unwrap();
        } else {
            sent.unwrap_err();
            drop(stream);
            assert!(upstream.wait_for_failed_handshake());
        }
        assert_eq!(upstream.hits(), usize::from(good));
    }
}

#[test]
fn the_config_of_the_tests_is_what_it_should_be() {
    let yaml = Config::new()
        .backend(Backend::at("http://a/v1"))
        .backend(Backend::at("http://b/v1").line("extra: {timeout: 1}"))
        .same_priority()
        .top("keep_cycles: 2")
        .server("api_key: k")
        .yaml();
    assert_eq!(
        yaml,
        "keep_cycles: 2\nserver:\n  api_key: k\nproviders:\n  \
         - priority: 1\n    backends:\n      - provider: provider-alpha\n        name: alpha\n        \
         model: model-alpha\n        api_key: sk-secret-alpha\n        base_url: http://a/v1\n  \
         - priority: 1\n    backends:\n      - provider: provider-beta\n        name: beta\n        \
         model: model-beta\n        api_key: sk-secret-beta\n        base_url: http://b/v1\n        \
         extra: {timeout: 1}\n"
    );
}

/// Drops every event of a good stream, and doubles it.
#[track_caller]
fn check_strict(surface: Surface, stream: &str) {
    let good = Events::parse(stream.as_bytes()).unwrap();
    let said = surface.said_in(&good).unwrap();
    let noticed = |what: String, events: Vec<Event>| {
        let read = surface.said_in(&Events(events));
        assert!(read.as_ref() != Ok(&said), "{surface:?}: {what} is not noticed");
    };
    for at in 0..good.0.len() {
        let name = good.0[at].name().unwrap_or_default();
        if name == "ping" {
            continue;
        }
        let mut events = good.0.clone();
        events.remove(at);
        noticed(format!("{name} left out at {at}"), events);
        // More of these are allowed.
        if name != "message_delta" {
            let mut events = good.0.clone();
            events.insert(at, good.0[at].clone());
            noticed(format!("{name} twice at {at}"), events);
        }
    }
}

#[test]
fn the_readers_of_streams_miss_what_is_missing() {
    let call = Some(("toolu_1", "look", r#"{"at":"sky"}"#));
    let answer = Answer { thinking: "Hm.", text: "Hello".into(), call };
    check_strict(Surface::Messages, &Protocol::Anthropic.stream(&answer));
    for name in ["stream_text", "stream_thinking_tool"] {
        check_strict(Surface::Messages, &golden(&format!("messages/{name}.sse")));
    }
    for name in ["stream_text", "stream_function_calls", "stream_reasoning_summary", "stream_reasoning_text"]
    {
        check_strict(Surface::Responses, &golden(&format!("responses/{name}.sse")));
    }
}
