//! Signals at odd moments, and a config file that comes and goes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::harness::*;

/// An editor that saves by removing and writing, a volume that is gone: the environment is no substitute.
#[test]
fn a_reload_without_the_file_keeps_the_old_config() {
    let upstream = Upstream::healthy("Hello");
    let yaml = Config::new().backend(&upstream).server("api_key: client-key").yaml();
    for proxy in [Proxy::start(&yaml), Proxy::start_beside(&yaml)] {
        let lines = proxy.log_lines();
        proxy.reload_without_file();
        proxy.wait_for_log(lines, |line| line.contains("reloaded"));
        assert!(proxy.log().contains("the old one stays"), "{}", proxy.log());
        assert_eq!(proxy.chat(HELLO).status(), 401, "the key is gone");
        let lines = proxy.log_lines();
        proxy.reload(&yaml);
        proxy.wait_for_log(lines, |line| line.contains("configuration reloaded"));
        assert_eq!(proxy.chat(HELLO).status(), 401);
    }
}

#[test]
fn reloads_under_load_lose_no_request() {
    let upstream = Upstream::healthy("Hello");
    let yaml = Config::new().backend(&upstream).yaml();
    let proxy = Proxy::start(&yaml);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = proxy.connect();
                    for _ in 0..50 {
                        connection.send(post("/v1/chat/completions", HELLO));
                        connection.response().check_answer("Hello").unwrap();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                proxy.reload(&yaml);
                thread::yield_now();
            }
        });
        let results: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        ended.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    proxy.check_alive().unwrap();
}

/// A head that is not complete holds nothing up, a body on its way is waited for.
#[test]
fn a_stop_waits_for_a_body_but_not_for_a_head() {
    let upstream = Upstream::healthy("Hello");
    let mut proxy = Proxy::with_backends([&upstream]);
    let whole = post("/v1/chat/completions", HELLO);
    let (start, end) = whole.split_at(whole.len() - 3);
    // The interim answer tells that the head has been read.
    let mut body = proxy.connect();
    let expecting = String::from_utf8_lossy(start).replacen("\r\n", "\r\nExpect: 100-continue\r\n", 1);
    let (head, rest) = expecting.split_at(expecting.find("\r\n\r\n").unwrap() + 4);
    body.send(head);
    assert_eq!(body.head().status, 100);
    body.send(rest);
    let mut half = proxy.connect();
    half.send("GET /health HT");
    proxy.stop();
    half.closed();
    let response = body.send(end).response();
    response.check_answer("Hello").unwrap();
    assert_eq!(proxy.exit_status().code(), Some(0));
}

/// Behind a balancer, who is being connected when the stop comes would be a failed request.
#[test]
fn a_stop_answers_those_who_wait_to_be_accepted() {
    let upstream = Upstream::healthy("Hello");
    let mut proxy = Proxy::with_backends([&upstream]);
    proxy.freeze();
    let mut waiting: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
    for connection in &mut waiting {
        connection.send(post("/v1/chat/completions", HELLO));
    }
    proxy.stop();
    proxy.thaw();
    for mut connection in waiting {
        connection.response().check_answer("Hello").unwrap();
    }
    assert_eq!(proxy.exit_status().code(), Some(0));
}
