//! Where requests go: the base URL as people write it.

use crate::harness::*;

/// Serves chat at `root` only.
fn at_root(root: &'static str) -> Upstream {
    Upstream::answering(move |request| match request.target == format!("{root}/chat/completions") {
        true => good_answer(request, "Hello"),
        false => status(404).body("text/plain", "404 page not found"),
    })
}

#[test]
fn a_base_url_works_with_and_without_slash_and_v1() {
    every(
        [
            ("/v1 at /v1", ("/v1", "/v1", vec!["/v1"])),
            ("/v1/ at /v1", ("/v1/", "/v1", vec!["/v1"])),
            ("/v1/chat/completions at /v1", ("/v1/chat/completions", "/v1", vec!["/v1"])),
            ("/api/paas/v4/ at /api/paas/v4", ("/api/paas/v4/", "/api/paas/v4", vec!["/api/paas/v4"])),
            (" at ", ("", "", vec!["", ""])),
            ("/ at ", ("/", "", vec!["", ""])),
            // Found once, the root stays found.
            (" at /v1", ("", "/v1", vec!["", "/v1", "/v1"])),
        ],
        |(given, root, expected)| {
            let upstream = at_root(root);
            let base = format!("http://{}{given}", upstream.addr());
            let proxy = Config::new().backend(Backend::at(base)).start();
            proxy.chat(HELLO).check_answer("Hello")?;
            proxy.chat(HELLO).check_answer("Hello")?;
            let targets: Vec<String> = upstream.requests().iter().map(|r| r.target.clone()).collect();
            let mut expected: Vec<String> =
                expected.iter().map(|root| format!("{root}/chat/completions")).collect();
            while expected.len() < 2 {
                expected.push(expected[0].clone());
            }
            if targets == expected { Ok(()) } else { Err(format!("{given}: {targets:?}")) }
        },
    );
}

#[test]
fn an_unknown_model_at_a_bare_host_is_told_in_the_words_of_the_first_answer() {
    let upstream =
        Upstream::replies([status(404).error("no such model: x"), status(404).error("no such path")]);
    let base = format!("http://{}", upstream.addr());
    let proxy = Config::new().backend(Backend::at(base)).start();
    let response = proxy.chat(HELLO);
    assert_eq!(response.status(), 503, "{}", response.text());
    assert!(response.text().contains("no such model: x"), "{}", response.text());
    assert_eq!(upstream.hits(), 2);
}

#[test]
fn a_chat_clients_query_stays_here() {
    let upstream = Upstream::replies([status(500).error("whatever")]);
    let backend = Backend::at(format!("http://{}", upstream.addr())).line("protocol: anthropic");
    let proxy = Config::new().backend(backend).start();
    proxy.post("/v1/chat/completions?key=its-own", HELLO);
    proxy.post("/v1/messages?beta=true", r#"{"max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#);
    let targets: Vec<String> = upstream.requests().iter().map(|r| r.target.clone()).collect();
    assert!(targets.contains(&"/v1/messages".to_owned()), "{targets:?}");
    assert!(targets.contains(&"/v1/messages?beta=true".to_owned()), "{targets:?}");
    assert!(!targets.iter().any(|target| target.contains("its-own")), "{targets:?}");
}
