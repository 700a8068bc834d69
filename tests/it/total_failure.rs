//! When no backend has an answer: what the client is told.

use crate::harness::*;

fn failing(status_code: u16) -> Upstream {
    Upstream::replies([status(status_code).error("The words of the provider")])
}

fn retry_after(response: &Response) -> Option<u64> {
    response.header("retry-after").map(|v| v.parse().expect("whole seconds"))
}

#[test]
fn total_failure_is_one_503_that_says_what_happened_where() {
    let (a, b) = (failing(500), failing(401));
    for body in [HELLO, STREAM_HELLO] {
        let response = Proxy::with_backends([&a, &b]).chat(body);
        let (message, kind, code) = response.error();
        assert_eq!(response.status(), 503);
        assert_eq!((kind.as_str(), code.as_str()), ("server_error", "all_providers_failed"));
        assert!(message.starts_with("All configured providers failed"), "{message}");
        for part in ["alpha", "beta", "500", "401"] {
            assert!(message.contains(part), "expected {part} in {message:?}");
        }
    }
}

#[test]
fn names_and_addresses_stay_inside_if_providers_are_not_shown() {
    let upstream = failing(500);
    let refused = RefusedPort::new();
    let nowhere = Backend::at("http://nonexistent.invalid/v1");
    for shown in [true, false] {
        let config = Config::new().backend(&upstream).backend(&refused).backend(nowhere.clone());
        let response = config.top(&format!("show_provider: {shown}")).start().chat(HELLO);
        assert_eq!(response.status(), 503);
        let text = format!("{:?} {}", response.head, response.text());
        assert!(response.error().0.starts_with("All configured providers failed"), "{text}");
        for inner in ["127.0.0.1", "nonexistent.invalid", "Bearer"] {
            assert!(!text.contains(inner), "{inner} in {text}");
        }
        for name in ["alpha", "beta", "gamma"] {
            assert_eq!(response.error().0.contains(name), shown, "{name} in {text}");
        }
    }
}

#[test]
fn a_key_that_a_provider_quotes_does_not_reach_the_client_or_the_log() {
    // The client's reader and the log's check fail the test if the key is anywhere.
    let quoting = |code: u16| {
        Upstream::answering(move |r| {
            status(code).error(&format!("bad key: {}", r.header("authorization").unwrap()))
        })
    };
    for code in [400, 401, 500] {
        let (a, b) = (quoting(code), quoting(code));
        let response = Proxy::with_backends([&a, &b]).chat(HELLO);
        response.error();
    }
}

#[test]
fn the_client_is_told_how_long_to_wait_but_never_long() {
    every(
        [("7", 1..=7), ("30", 20..=30), ("3600", 60..=60), ("86400", 60..=60)]
            .map(|(told, range)| (told, (told, range))),
        |(told, range)| {
            let upstream = Upstream::replies([status(429).header("retry-after", told).error("slow down")]);
            let proxy = Config::new().backend(&upstream).top("max_wait: 0").start();
            for attempt in 0..2 {
                let response = proxy.chat(HELLO);
                let code = response.try_error()?.2;
                expect(response.status() == 503 && code == "all_providers_failed", || response.text())?;
                let seconds =
                    retry_after(&response).ok_or_else(|| format!("no Retry-After, request {attempt}"))?;
                expect(range.contains(&seconds), || format!("Retry-After {seconds}"))?;
            }
            expect(upstream.hits() == 1, || format!("hammered: {} hits", upstream.hits()))
        },
    );
}

#[test]
fn the_shortest_wait_of_all_backends_is_told() {
    let limited =
        |seconds: &str| Upstream::replies([status(429).header("retry-after", seconds).error("slow down")]);
    let (a, b) = (limited("50"), limited("25"));
    let response = Config::new().backend(&a).backend(&b).top("max_wait: 0").start().chat(HELLO);
    assert!((15..=25).contains(&retry_after(&response).unwrap()), "{:?}", response.head);
}

#[test]
fn a_wait_that_is_short_and_known_is_waited_out() {
    let upstream =
        Upstream::replies([status(429).header("retry-after", "1").error("slow down"), chat_whole("Hello")]);
    let proxy = Proxy::with_backends([&upstream]);
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    assert_eq!(upstream.hits(), 2);
}

#[test]
fn a_bad_request_of_the_client_comes_back_as_one_if_providers_agree() {
    let bad = |code: u16, text: &str| {
        let body = format!(
            r#"{{"error":{{"message":"{text}","type":"invalid_request_error","param":"seed","code":"invalid_value"}}}}"#
        );
        Upstream::replies([status(code).json(body)])
    };
    for body in [HELLO, STREAM_HELLO] {
        let (a, b, never) =
            (bad(400, "seed must be a number"), bad(400, "seed must be a number"), bad(400, "x"));
        let proxy = Proxy::with_backends([&a, &b, &never]);
        let response = proxy.chat(body);
        let (message, kind, _) = response.error();
        assert_eq!((response.status(), kind.as_str()), (400, "invalid_request_error"));
        assert!(message.contains("seed must be a number"), "{message}");
        assert_eq!((a.hits(), b.hits()), (1, 1));
        // The client's mistake benches nobody.
        let response = proxy.chat(body);
        assert_eq!((response.status(), a.hits()), (400, 2));
    }
}

#[test]
fn a_single_provider_that_refuses_the_request_has_its_say() {
    for code in [400, 422] {
        let upstream = Upstream::replies([status(code).error("unknown field foo")]);
        let response = Proxy::with_backends([&upstream]).chat(HELLO);
        assert_eq!(response.status(), code);
        assert!(response.error().0.contains("unknown field foo"));
        assert_eq!(upstream.hits(), 1);
    }
}

#[test]
fn one_providers_strictness_is_no_bad_request() {
    let strict = Upstream::replies([status(400).error("unknown field")]);
    let good = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&strict, &good]);
    for _ in 0..2 {
        proxy.chat(HELLO).check_answer("Hello").unwrap();
    }
    assert_eq!(strict.hits(), 2, "a 400 must not bench");
}

#[test]
fn a_provider_that_is_down_does_not_turn_a_bad_request_into_a_503() {
    let bad = Upstream::replies([status(400).error("seed must be a number")]);
    let down = failing(500);
    let response = Proxy::with_backends([&bad, &down]).chat(HELLO);
    // Nobody could serve it, and the only provider that judged it named the client's mistake.
    assert!(matches!(response.status(), 400 | 503), "{}", response.text());
    assert!(
        response.error().0.contains(if response.status() == 400 { "seed" } else { "400" }),
        "{}",
        response.text()
    );
}
