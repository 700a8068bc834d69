//! Clients that leave, and connections to providers that are kept, die, or are not to be trusted any more.

use std::time::{Duration, Instant};

use crate::harness::*;

/// Seen at 100 ms or less; the bound leaves room for a loaded machine.
const SOON: Duration = Duration::from_secs(1);

fn check_leaving(reply: Reply, leave: impl FnOnce(&Proxy, &Upstream)) {
    let upstream = Upstream::replies([reply]);
    let never = Upstream::healthy("never");
    let proxy = Proxy::with_backends([&upstream, &never]);
    leave(&proxy, &upstream);
    let left = Instant::now();
    let seen = upstream.wait_for_leaving(1, SOON);
    assert!(seen.is_some(), "after {SOON:?} the provider still works for nobody");
    eprintln!("the provider saw it after {:?}", seen.unwrap().saturating_duration_since(left));
    assert_eq!(never.hits(), 0, "a client that left needs no other backend");
    // And it is no failure of the backend: it is the first choice still.
    let log = proxy.log();
    assert!(!log.contains("WARN"), "{log}");
}

#[test]
fn a_client_that_leaves_while_waiting_for_the_head_frees_the_provider() {
    for body in [HELLO, STREAM_HELLO] {
        check_leaving(Reply::nothing().stall(), |proxy, upstream| {
            let mut connection = proxy.connect();
            connection.send(post("/v1/chat/completions", body));
            upstream.wait_for_requests(1);
            drop(connection);
        });
    }
}

#[test]
fn a_client_that_leaves_in_a_whole_answer_frees_the_provider() {
    check_leaving(raw("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{").stall(), |proxy, upstream| {
        let mut connection = proxy.connect();
        connection.send(post("/v1/chat/completions", HELLO));
        upstream.wait_for_requests(1);
        drop(connection);
    });
}

#[test]
fn a_client_that_leaves_in_mid_stream_frees_the_provider() {
    let say = event(r#"{"content":"Hel"}"#, "null");
    check_leaving(status(200).stream_head().event(&say).stall(), |proxy, _| {
        let mut stream = proxy.stream(STREAM_HELLO);
        assert_eq!(stream.next_event().unwrap().content().as_deref(), Some("Hel"));
        stream.close();
    });
}

#[test]
fn a_client_that_left_does_not_bench_the_backend() {
    let upstream =
        Upstream::answering(
            |r| if r.number == 0 { Reply::nothing().stall() } else { good_answer(r, "first") },
        );
    let second = Upstream::healthy("second");
    let proxy = Proxy::with_backends([&upstream, &second]);
    let mut connection = proxy.connect();
    connection.send(post("/v1/chat/completions", HELLO));
    upstream.wait_for_requests(1);
    drop(connection);
    assert!(upstream.wait_for_leaving(1, DEADLINE).is_some());
    proxy.chat(HELLO).check_answer("first").unwrap();
}

#[test]
fn one_connection_to_the_provider_serves_many_requests() {
    let body = whole_body("Hello");
    every(
        [
            ("with a length", status(200).json(&body)),
            ("chunked", status(200).chunked("application/json", [body.as_bytes()])),
            ("an error", status(400).error("no")),
            ("a stream", sse(&sse_body(&["Hello"]))),
        ],
        |reply| {
            let upstream = Upstream::replies([reply]);
            let proxy = Proxy::with_backends([&upstream]);
            for _ in 0..5 {
                proxy.chat(STREAM_HELLO);
            }
            expect(upstream.hits() == 5, || format!("{} hits", upstream.hits()))?;
            let connections = upstream.connections();
            expect(connections == 1, || format!("{connections} connections"))
        },
    );
}

#[test]
fn answers_that_end_the_connection_end_it() {
    let body = whole_body("Hello");
    every(
        [
            ("connection: close", status(200).header("connection", "close").json(&body)),
            ("until close", status(200).until_close("application/json", &body)),
            ("HTTP/1.0", raw(format!("HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()))),
            // What is behind an answer belongs to nobody: a next answer read from it would be someone else's. In one
            // write: of what comes only when the next request is under way, nobody can tell whose it is.
            ("stray bytes", raw([status(200).json(&body).bytes(), b"x".to_vec()].concat())),
            ("a stray answer", raw([chat_whole("Hello").bytes(), chat_whole("poison").bytes()].concat())),
        ],
        |reply| {
            let upstream = Upstream::replies([reply]);
            let proxy = Proxy::with_backends([&upstream]);
            for _ in 0..3 {
                let response = proxy.chat(HELLO);
                response.check_answer("Hello")?;
                expect(response.header("x-ai-free-swap-attempts") == Some("1"), || {
                    "counted an attempt".into()
                })?;
            }
            let (connections, hits) = (upstream.connections(), upstream.hits());
            expect((connections, hits) == (3, 3), || format!("{connections} connections for {hits} requests"))
        },
    );
}

/// The provider closes an idle connection just when the next request is under way: the classic race of keep-alive.
#[test]
fn a_kept_connection_that_died_is_replaced_unnoticed() {
    for death in [Reply::nothing().close(), Reply::nothing().reset()] {
        let upstream =
            Upstream::answering(move |r| if r.place == 0 { good_answer(r, "Hello") } else { death.clone() });
        let never = Upstream::healthy("never");
        let proxy = Proxy::with_backends([&upstream, &never]);
        for round in 0..4 {
            let response = proxy.chat(if round % 2 == 0 { HELLO } else { STREAM_HELLO });
            assert_eq!(response.status(), 200);
            assert_eq!(response.header("x-ai-free-swap-attempts"), Some("1"), "round {round}");
            assert_eq!(response.header("x-ai-free-swap-backend"), Some("alpha"), "round {round}");
        }
        assert_eq!(never.hits(), 0);
    }
}

#[test]
fn a_kept_connection_that_was_closed_meanwhile_is_replaced_unnoticed() {
    let upstream = Upstream::answering(|r| good_answer(r, "Hello").close());
    let proxy = Proxy::with_backends([&upstream]);
    for _ in 0..4 {
        let response = proxy.chat(HELLO);
        response.check_answer("Hello").unwrap();
        assert_eq!(response.header("x-ai-free-swap-attempts"), Some("1"));
    }
}

/// The free retry is for connections that died without a word. A request that was answered in part is never repeated.
#[test]
fn a_request_whose_answer_had_begun_is_not_repeated() {
    let upstream = Upstream::answering(|r| match r.place {
        0 => good_answer(r, "Hello"),
        _ => raw("HTTP/1.1 200 OK\r\ncontent-le").close(),
    });
    let second = Upstream::healthy("second");
    let proxy = Proxy::with_backends([&upstream, &second]);
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    let response = proxy.chat(HELLO);
    response.check_answer("second").unwrap();
    assert_eq!((upstream.hits(), response.header("x-ai-free-swap-attempts")), (2, Some("2")));
}

#[test]
fn a_connection_that_failed_is_not_used_again() {
    let upstream = Upstream::answering(|r| match r.number {
        0 => status(200).stream_head().event("{\"choices\":[{").end_chunks().write("junk"),
        _ => good_answer(r, "Hello"),
    });
    let proxy = Config::new().backend(&upstream).top("keep_cycles: 3").start();
    proxy.chat(STREAM_HELLO).events().check_complete("Hello").unwrap();
    assert!(upstream.requests().iter().skip(1).all(|r| r.connection > 0), "{:?}", upstream.requests());
}

#[test]
fn keys_do_not_share_answers_though_they_share_connections() {
    let upstream = Upstream::answering(|r| {
        let key = r.header("authorization").unwrap().rsplit('-').next().unwrap().to_owned();
        chat_whole(&format!("{key} {}", r.json()["model"].as_str().unwrap()))
    });
    let proxy = Config::new().backend(&upstream).backend(&upstream).top("model_routing: match").start();
    for _ in 0..3 {
        for name in ["alpha", "beta"] {
            let response = proxy.chat(&HELLO.replace("aifree", &format!("model-{name}")));
            response.check_answer(&format!("{name} model-{name}")).unwrap();
        }
    }
}
