//! What is remembered of a failure, and for how long.

use std::time::{Duration, Instant};

use crate::harness::*;

/// Two requests; the first backend fails with `reply`: how often is it asked?
fn hits_of_two(reply: Reply) -> usize {
    let bad = Upstream::replies([reply]);
    let good = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&bad, &good]);
    for _ in 0..2 {
        proxy.chat(HELLO).check_answer("Hello").unwrap();
    }
    assert_eq!(good.hits(), 2);
    bad.hits()
}

#[test]
fn a_benched_backend_is_left_alone() {
    every(
        [
            ("429 with a time", (status(429).header("retry-after", "30").error("slow down"), 1)),
            ("429 without", (status(429).error("slow down"), 1)),
            ("503 with a time", (status(503).header("retry-after", "30").error("later"), 1)),
            ("a bad key", (status(401).error("bad key"), 1)),
            ("Google's bad key", (status(400).json(error_sample("gemini_400_bad_key")), 1)),
            ("a model that is gone", (status(404).json(error_sample("openai_404_model")), 1)),
            ("no credit", (status(402).error("pay first"), 1)),
            ("a forbidden region", (status(403).json(error_sample("openai_403_region")), 1)),
            ("a rate limit inside a success", (status(200).json(error_sample("minimax_200_1002")), 1)),
            ("a bad request", (status(400).error("bad request"), 2)),
            ("an empty answer", (status(200).json(whole_body("")), 2)),
            ("a prompt too long", (status(400).json(error_sample("openai_400_context")), 2)),
            ("a failed tool call", (status(400).json(error_sample("groq_400_tool_use_failed")), 2)),
        ],
        |(reply, expected)| {
            let hits = hits_of_two(reply);
            expect(hits == expected, || format!("expected {expected} hits, got {hits}"))
        },
    );
}

#[test]
fn a_bench_ends_when_the_provider_said() {
    let bad =
        Upstream::replies([status(429).header("retry-after", "1").error("slow down"), chat_whole("back")]);
    let good = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&bad, &good]);
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    let benched = Instant::now();
    loop {
        let response = proxy.chat(HELLO);
        if response.check_answer("back").is_ok() {
            break;
        }
        response.check_answer("Hello").unwrap();
        assert!(benched.elapsed() < Duration::from_secs(5), "the bench of 1 s never ends");
    }
    assert!(benched.elapsed() > Duration::from_millis(800), "the provider's word was shortened");
}

#[test]
fn a_bad_key_benches_the_key_and_not_its_neighbour() {
    let upstream = Upstream::answering(|r| match r.header("authorization") {
        Some("Bearer sk-secret-alpha") => status(401).error("bad key"),
        _ => chat_whole("Hello"),
    });
    let proxy = Config::new()
        .backend(Backend::from(&upstream).provider("same"))
        .backend(Backend::from(&upstream).provider("same"))
        .start();
    for _ in 0..2 {
        proxy.chat(HELLO).check_answer("Hello").unwrap();
    }
    assert_eq!(upstream.hits(), 3);
}

#[test]
fn a_bad_key_is_warned_about_once() {
    let (bad, good) = (Upstream::replies([status(401).error("bad key")]), Upstream::healthy("Hello"));
    let proxy = Proxy::with_backends([&bad, &good]);
    for _ in 0..3 {
        proxy.chat(HELLO).check_answer("Hello").unwrap();
    }
    let log = proxy.whole_log();
    let warnings = log.lines().filter(|l| l.contains("WARN") && l.contains("alpha")).count();
    assert_eq!(warnings, 1, "{log}");
}

/// A client that has only one backend must not be punished for a hiccup of it.
#[test]
fn a_single_backend_that_failed_once_answers_the_next_request_at_once() {
    let upstream = Upstream::replies([status(500).error("hiccup"), chat_whole("Hello")]);
    let proxy = Proxy::with_backends([&upstream]);
    let first = proxy.chat(HELLO);
    if first.status() != 200 {
        assert_eq!(first.status(), 503);
        let asked = Instant::now();
        proxy.chat(HELLO).check_answer("Hello").unwrap();
        assert!(asked.elapsed() < Duration::from_secs(3), "it waited {:?}", asked.elapsed());
    }
}

#[test]
fn a_transient_failure_is_tried_again_in_the_next_cycle() {
    let upstream = Upstream::replies([status(500).error("hiccup"), chat_whole("Hello")]);
    let response = Config::new().backend(&upstream).top("keep_cycles: 2").start().chat(HELLO);
    response.check_answer("Hello").unwrap();
    assert_eq!((upstream.hits(), response.header("x-ai-free-swap-attempts")), (2, Some("2")));
}

#[test]
fn a_lasting_failure_is_not_tried_again_in_the_next_cycle() {
    for code in [401, 404, 402] {
        let upstream = Upstream::replies([status(code).error("no")]);
        let response = Config::new().backend(&upstream).top("keep_cycles: 5").start().chat(HELLO);
        assert_eq!((response.status(), upstream.hits()), (503, 1), "after {code}");
    }
}

#[test]
fn cycles_are_bounded() {
    let upstream = Upstream::replies([Reply::nothing().close()]);
    let config = Config::new().backend(&upstream).top("keep_cycles: 1000000").top("request_timeout: 3");
    let asked = Instant::now();
    let response = config.start().chat(HELLO);
    assert_eq!(response.status(), 503);
    // 64 attempts at most; each may count twice here if a free retry went with it, which a fresh connection has none of.
    assert!(upstream.hits() <= 64, "{} hits", upstream.hits());
    assert!(asked.elapsed() < Duration::from_secs(10), "took {:?}", asked.elapsed());
}

#[test]
fn the_whole_request_has_one_budget() {
    let stalled = [(); 4].map(|()| Upstream::replies([Reply::nothing().stall()]));
    let config = stalled.iter().fold(Config::new(), |config, u| config.backend(u)).top("request_timeout: 2");
    let asked = Instant::now();
    let response = config.start().chat(HELLO);
    assert_eq!((response.status(), response.error().2.as_str()), (503, "all_providers_failed"));
    assert!((1..8).contains(&asked.elapsed().as_secs()), "took {:?}", asked.elapsed());
}

/// Where nobody answers, each model would fail the same way: one attempt shows it, and one shows that it is back.
#[test]
fn a_provider_that_cannot_be_reached_is_tried_for_one_of_its_models_only() {
    let (dead, good) = (RefusedPort::new(), Upstream::healthy("elsewhere"));
    let member = || Backend::from(&dead).provider("same");
    let config = (0..3).fold(Config::new(), |config, _| config.backend(member()));
    let proxy = config.backend(&good).top("keep_cycles: 3").start();
    let response = proxy.chat(HELLO);
    response.check_answer("elsewhere").unwrap();
    assert_eq!(response.header("x-ai-free-swap-attempts"), Some("2"), "each model was tried");
    let response = proxy.chat(HELLO);
    assert_eq!(response.header("x-ai-free-swap-attempts"), Some("1"), "benched as a whole");
    let revived = dead.comes_up(|r| good_answer(r, "back"));
    let start = Instant::now();
    while proxy.chat(HELLO).check_answer("back").is_err() {
        assert!(start.elapsed() < DEADLINE, "it is never asked again");
    }
    assert_eq!(revived.hits(), 1);
    // All its models are back with the one.
    for _ in 0..3 {
        let response = proxy.chat(HELLO);
        response.check_answer("back").unwrap();
        assert_eq!(response.header("x-ai-free-swap-attempts"), Some("1"));
    }
}

#[test]
fn a_request_for_which_nothing_else_is_left_waits_for_one_probe_of_a_dead_provider() {
    let dead = RefusedPort::new();
    let member = || Backend::from(&dead).provider("same");
    let proxy = (0..3).fold(Config::new(), |config, _| config.backend(member())).start();
    for round in 0..3 {
        let response = proxy.chat(HELLO);
        let (message, _, code) = response.error();
        assert_eq!((response.status(), code.as_str()), (503, "all_providers_failed"));
        for part in ["alpha: ", "beta: ", "gamma: "] {
            assert!(message.contains(part), "{message}");
        }
        assert!(message.matches("refused").count() <= 2, "round {round} tried each model: {message}");
    }
}

#[test]
fn one_model_that_fails_does_not_stand_for_the_others() {
    let upstream = Upstream::answering(|r| match r.json()["model"] == "model-alpha" {
        true => status(500).error("boom"),
        false => good_answer(r, "Hello"),
    });
    let member = || Backend::from(&upstream).provider("same");
    let proxy = Config::new().backend(member()).backend(member()).start();
    let response = proxy.chat(HELLO);
    response.check_answer("Hello").unwrap();
    assert_eq!(response.header("x-ai-free-swap-attempts"), Some("2"));
    assert_eq!(proxy.chat(HELLO).header("x-ai-free-swap-attempts"), Some("1"));
}
