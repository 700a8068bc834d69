//! Who goes first inside a priority: anybody, who has most left, or who knows the conversation.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::json;

use crate::harness::*;

/// Backends of one priority at one address, which answer with the name of their model.
fn equals(lines: &[&str]) -> (Upstream, Config) {
    let upstream = Upstream::answering(|r| good_answer(r, r.json()["model"].as_str().unwrap_or_default()));
    let config = lines.iter().fold(Config::new(), |config, line| {
        let backend = Backend::from(&upstream);
        config.backend(if line.is_empty() { backend } else { backend.line(*line) })
    });
    (upstream, config.same_priority())
}

#[track_caller]
fn by(response: &Response) -> String {
    assert_eq!(response.status(), 200, "{}", response.text());
    response.header("x-ai-free-swap-backend").unwrap().to_owned()
}

/// The next turn of the conversation that began with this text.
fn turn(surface: Surface, first: &str, number: usize) -> String {
    let mut turns = vec![json!({"role": "user", "content": first})];
    for n in 0..number {
        turns.push(json!({"role": "assistant", "content": format!("Answer {n}")}));
        turns.push(json!({"role": "user", "content": format!("Question {n}")}));
    }
    let body = match surface {
        Surface::Chat => {
            turns.insert(0, json!({"role": "system", "content": "Be kind."}));
            json!({"messages": turns})
        }
        Surface::Messages => json!({"max_tokens": 100, "system": "Be kind.", "messages": turns}),
        Surface::Responses => json!({"instructions": "Be kind.", "input": turns}),
    };
    body.to_string()
}

fn ask(proxy: &Proxy, surface: Surface, first: &str, number: usize) -> String {
    by(&proxy.post(surface.path(), &turn(surface, first, number)))
}

#[test]
fn random_asks_everybody() {
    let (_upstream, config) = equals(&[""; 3]);
    for config in [config.clone(), config.top("selection: random")] {
        let proxy = config.start();
        let seen: BTreeSet<String> = (0..60).map(|_| by(&proxy.chat(HELLO))).collect();
        assert_eq!(seen.len(), 3, "{seen:?}");
    }
}

#[test]
fn least_used_asks_who_has_most_left() {
    for (lines, requests, expected) in [
        // As many requests each, in any order.
        (["", "", ""], 9, [3, 3, 3]),
        // In proportion to what each may take.
        (["limits: {rpd: 10}", "limits: {rpd: 20}", "limits: {rpd: 10}"], 8, [2, 4, 2]),
        (["limits: {rpm: 100, rpd: 10}", "limits: {rpm: 20}", "limits: {rpm: 10, rpd: 999}"], 8, [2, 4, 2]),
        // Who has no limit is always less used, and who has none left is left alone.
        (["limits: {rpd: 10}", "", "limits: {rpd: 1}"], 8, [1, 6, 1]),
    ] {
        let (upstream, config) = equals(&lines);
        let proxy = config.top("selection: least_used").start();
        for _ in 0..requests {
            by(&proxy.chat(HELLO));
        }
        let hits = ["alpha", "beta", "gamma"].map(|name| {
            let model = format!("model-{name}");
            upstream.requests().iter().filter(|r| r.json()["model"] == *model).count()
        });
        if lines[1].is_empty() && !lines[0].is_empty() {
            assert!(hits[0] <= 1 && hits[2] <= 1 && hits[1] >= 6, "{hits:?} for {lines:?}");
        } else {
            assert_eq!(hits, expected, "for {lines:?}");
        }
    }
}

#[test]
fn least_used_sees_what_runs() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream =
        Upstream::answering(move |r| Reply::nothing().wait(&held).write(good_answer(r, "Hello").bytes()));
    let config = (0..4).fold(Config::new(), |config, _| config.backend(&upstream)).same_priority();
    let proxy = config.top("selection: least_used").start();
    let mut connections: Vec<Connection> = (0..8).map(|_| proxy.connect()).collect();
    for (n, connection) in connections.iter_mut().enumerate() {
        connection.send(post("/v1/chat/completions", HELLO));
        upstream.wait_for_requests(n + 1);
    }
    gate.open();
    let mut seen: Vec<String> = connections.iter_mut().map(|connection| by(&connection.response())).collect();
    seen.sort();
    assert_eq!(seen, ["alpha", "alpha", "beta", "beta", "delta", "delta", "gamma", "gamma"]);
}

#[test]
fn priorities_come_before_whatever_is_left_or_known() {
    for selection in ["random", "least_used", "sticky"] {
        let (first, second) = (
            Upstream::replies([status(500).error("hiccup"), chat_whole("first")]),
            Upstream::healthy("second"),
        );
        let backend = Backend::from(&first).line("limits: {rpd: 1000}");
        let config = Config::new().backend(backend).backend(&second).top(&format!("selection: {selection}"));
        let proxy = config.start();
        proxy.chat(HELLO).check_answer("second").unwrap();
        // When it is back, it goes first again: the second one costs money, or is worse.
        let start = Instant::now();
        while proxy.chat(HELLO).check_answer("first").is_err() {
            assert!(start.elapsed() < DEADLINE, "{selection}: the first one is never asked again");
        }
    }
}

#[test]
fn a_conversation_stays_where_it_began_and_others_spread() {
    let (_upstream, config) = equals(&[""; 4]);
    let proxy = config.top("selection: sticky").start();
    for surface in Surface::ALL {
        let mut homes = BTreeSet::new();
        for conversation in 0..24 {
            let first = format!("Conversation {conversation}");
            let home = ask(&proxy, surface, &first, 0);
            for number in 1..5 {
                assert_eq!(ask(&proxy, surface, &first, number), home, "{surface:?}, turn {number}");
            }
            homes.insert(home);
        }
        // All in three of four has a chance of one to two hundred and fifty; all in two of one to a million.
        assert!(homes.len() > 2, "{surface:?}: not spread: {homes:?}");
    }
}

#[test]
fn a_response_that_goes_on_stays_too() {
    let (_upstream, config) = equals(&[""; 6]);
    let proxy = config.top("selection: sticky").start();
    for conversation in 0..4 {
        let ask = |body: serde_json::Value| proxy.post(Surface::Responses.path(), &body.to_string());
        let mut last = ask(json!({"input": format!("Conversation {conversation}")}));
        let home = by(&last);
        for _ in 0..5 {
            last = ask(json!({"input": "more", "previous_response_id": last.json()["id"]}));
            assert_eq!(by(&last), home);
        }
    }
}

/// Claude Code's first system block is another one each time, and its marks for caches wander.
#[test]
fn a_conversation_is_known_by_what_stays_of_it() {
    let (_upstream, config) = equals(&[""; 8]);
    let proxy = config.top("selection: sticky").start();
    let ask = |system: serde_json::Value, content: serde_json::Value| {
        let body =
            json!({"max_tokens": 9, "system": system, "messages": [{"role": "user", "content": content}]});
        by(&proxy.post(Surface::Messages.path(), &body.to_string()))
    };
    let text = |text: &str| json!({"type": "text", "text": text});
    let marked = |text: &str| json!({"type": "text", "text": text, "cache_control": {"type": "ephemeral"}});
    let home = ask(json!("Be kind."), json!("Hi"));
    for n in 0..3 {
        let billing = text(&format!("x-anthropic-billing-header: cc_version=2.1.177.0{n}c; cch=36ee{n};"));
        for content in [json!("Hi"), json!([text("Hi")]), json!([marked("Hi")])] {
            assert_eq!(ask(json!([billing, text("Be kind.")]), content.clone()), home);
            assert_eq!(ask(json!([billing, marked("Be kind.")]), content), home);
        }
    }
}

/// Caches are warm at the new one by then.
#[test]
fn a_conversation_whose_home_rests_moves_and_stays_there() {
    let upstream = Upstream::answering(|r| match r.text().contains("hiccup") {
        true if r.number == 1 => status(500).error("boom"),
        _ => good_answer(r, "Hello"),
    });
    let config = (0..3).fold(Config::new(), |config, _| config.backend(&upstream)).same_priority();
    let proxy = config.top("selection: sticky").start();
    let old = ask(&proxy, Surface::Chat, "Tell me of a hiccup", 0);
    let new = ask(&proxy, Surface::Chat, "Tell me of a hiccup", 1);
    assert_ne!(old, new, "the home of the conversation had failed");
    let start = Instant::now();
    for other in 0.. {
        // Until others show that the old one is back.
        if ask(&proxy, Surface::Chat, &format!("Another {other}"), 0) == old {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "it never comes back");
    }
    for number in 2..8 {
        assert_eq!(ask(&proxy, Surface::Chat, "Tell me of a hiccup", number), new, "turn {number}");
    }
}

#[test]
fn a_conversation_stays_over_a_reload() {
    let (_upstream, config) = equals(&[""; 6]);
    let yaml = config.top("selection: sticky").yaml();
    let proxy = Proxy::start(&yaml);
    let homes: Vec<String> =
        (0..5).map(|n| ask(&proxy, Surface::Chat, &format!("Conversation {n}"), 0)).collect();
    for round in 1..3 {
        let before = proxy.log_lines();
        proxy.reload(&yaml);
        proxy.wait_for_log(before, |line| line.contains("configuration reloaded"));
        for (n, home) in homes.iter().enumerate() {
            assert_eq!(ask(&proxy, Surface::Chat, &format!("Conversation {n}"), round), *home);
        }
    }
}

#[test]
fn what_was_used_counts_after_a_reload() {
    let (upstream, config) = equals(&["limits: {rpd: 2}", "limits: {rpd: 2}"]);
    let yaml = config.top("selection: least_used").top("max_wait: 0").yaml();
    let proxy = Proxy::start(&yaml);
    for request in 0..4 {
        by(&proxy.chat(HELLO));
        let before = proxy.log_lines();
        proxy.reload(&yaml);
        proxy.wait_for_log(before, |line| line.contains("configuration reloaded"));
        assert_eq!(upstream.hits(), request + 1);
    }
    assert_eq!(proxy.chat(HELLO).status(), 503);
    // A new limit counts what was used before it was set.
    let before = proxy.log_lines();
    proxy.reload(&yaml.replace("rpd: 2", "rpd: 3"));
    proxy.wait_for_log(before, |line| line.contains("configuration reloaded"));
    assert_eq!(
        [proxy.chat(HELLO).status(), proxy.chat(HELLO).status(), proxy.chat(HELLO).status()],
        [200, 200, 503]
    );
}
