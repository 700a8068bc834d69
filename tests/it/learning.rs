//! What answers tell of limits, windows and abilities is heeded from then on, and survives a restart.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::*;

/// A good answer, with these fields in its head.
fn with_fields(request: &Request, fields: &[(String, String)]) -> Reply {
    let head = fields.iter().fold(status(200), |head, (name, value)| head.header(name, value));
    match request.streams() {
        true => head.chunked("text/event-stream", [sse_body(&["Hel", "lo"]).as_bytes()]),
        false => head.json(whole_body("Hello")),
    }
}

fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Answers its first request with these fields, and all others without.
fn telling(fields: &[(&str, &str)]) -> Upstream {
    let fields = pairs(fields);
    Upstream::answering(move |r| with_fields(r, if r.number == 0 { &fields } else { &[] }))
}

fn by(response: &Response) -> Result<String, String> {
    expect(response.status() == 200, || format!("{} {}", response.status(), response.text()))?;
    Ok(response.header("x-ai-free-swap-backend").unwrap_or_default().to_owned())
}

/// Two hours from now, as timestamps are written.
fn in_two_hours() -> (String, String) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 7200;
    (now.to_string(), format!("{now}000"))
}

#[test]
fn a_good_answer_that_says_nothing_is_left_keeps_the_next_request_away() {
    let (seconds, milliseconds) = in_two_hours();
    type Row<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>);
    let rows: Vec<Row<'_>> = vec![
        (
            "requests, Go durations",
            "groq",
            vec![
                ("x-ratelimit-limit-requests", "1000"),
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "2h59m56s"),
            ],
        ),
        (
            "tokens",
            "groq",
            vec![
                ("x-ratelimit-limit-tokens", "8000"),
                ("x-ratelimit-remaining-tokens", "10"),
                ("x-ratelimit-reset-tokens", "55.5s"),
            ],
        ),
        (
            "any provider",
            "mine",
            vec![("X-RateLimit-Remaining-Requests", "0"), ("X-RateLimit-Reset-Requests", "3600")],
        ),
        (
            "a moment in milliseconds",
            "openrouter",
            vec![
                ("x-ratelimit-limit", "50"),
                ("x-ratelimit-remaining", "0"),
                ("x-ratelimit-reset", &milliseconds),
            ],
        ),
        (
            "a moment in seconds",
            "mine",
            vec![("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &seconds)],
        ),
        (
            "Cerebras",
            "cerebras",
            vec![
                ("x-ratelimit-limit-requests-day", "14400"),
                ("x-ratelimit-remaining-requests-day", "0"),
                ("x-ratelimit-reset-requests-day", "33011.4"),
            ],
        ),
        ("the draft", "mine", vec![("ratelimit", "\"default\";r=0;t=600")]),
        ("the older draft", "mine", vec![("ratelimit-remaining", "0"), ("ratelimit-reset", "600")]),
    ];
    for stream in [false, true] {
        every(rows.clone().into_iter().map(|(name, provider, fields)| (name, (provider, fields))), |row| {
            let (provider, fields) = row;
            let upstream = telling(&fields);
            let second = Upstream::healthy("second");
            let first = Backend::from(&upstream).provider(provider);
            let proxy = Config::new().backend(first).backend(&second).start();
            let ask = || by(&proxy.chat(if stream { STREAM_HELLO } else { HELLO }));
            let seen = [ask()?, ask()?, ask()?];
            expect(seen == ["alpha", "beta", "beta"] && upstream.hits() == 1, || format!("{seen:?}"))
        });
    }
}

#[test]
fn anthropics_fields_are_heard_from_whichever_client_asks() {
    let reset = "2099-01-01T00:00:00Z";
    for surface in Surface::ALL {
        for stream in [false, true] {
            let upstream = Upstream::answering(move |r| {
                let answer = Protocol::Anthropic.reply(r, &Answer::text("Hello"));
                // More than a month away is a misreading, so it is told by the provider's own clock.
                let fields = format!(
                    "anthropic-ratelimit-requests-limit: 50\r\nanthropic-ratelimit-requests-remaining: 0\r\n\
                     anthropic-ratelimit-requests-reset: {reset}\r\ndate: Wed, 31 Dec 2098 23:59:30 GMT\r\n"
                );
                let text = String::from_utf8(answer.bytes()).unwrap();
                raw(text.replacen("\r\n", &format!("\r\n{fields}"), 1))
            });
            let second = Upstream::healthy("second");
            let first = Protocol::Anthropic.backend(&upstream, "");
            let proxy = Config::new().backend(first).backend(&second).start();
            let ask = || by(&proxy.post(surface.path(), &surface.hello("aifree", stream)));
            assert_eq!([ask(), ask()], [Ok("alpha".into()), Ok("beta".into())], "{surface:?} {stream}");
        }
    }
}

#[test]
fn what_the_provider_tells_holds_in_place_of_what_is_counted() {
    // More than we thought.
    let generous = pairs(&[
        ("x-ratelimit-limit-requests", "1000"),
        ("x-ratelimit-remaining-requests", "990"),
        ("x-ratelimit-reset-requests", "2h"),
    ]);
    let upstream = Upstream::answering(move |r| with_fields(r, &generous));
    let backend = Backend::from(&upstream).provider("groq").line("limits: {rpd: 2}");
    let proxy = Config::new().backend(backend).top("max_wait: 0").start();
    for _ in 0..5 {
        proxy.chat(HELLO).check_answer("Hello").unwrap();
    }
    // Another window than the one that is told stays ours.
    let upstream = telling(&[
        ("x-ratelimit-limit-requests", "1000"),
        ("x-ratelimit-remaining-requests", "990"),
        ("x-ratelimit-reset-requests", "2h"),
    ]);
    let backend = Backend::from(&upstream).provider("groq").line("limits: {rpm: 2}");
    let proxy = Config::new().backend(backend).top("max_wait: 0").start();
    let codes = [(); 3].map(|()| proxy.chat(HELLO).status());
    assert_eq!(codes, [200, 200, 503]);
}

/// What is told is counted down until the next word.
#[test]
fn what_is_left_is_counted_down_from_what_was_told() {
    let upstream = telling(&[
        ("x-ratelimit-limit-requests", "1000"),
        ("x-ratelimit-remaining-requests", "2"),
        ("x-ratelimit-reset-requests", "2h"),
    ]);
    let second = Upstream::healthy("second");
    let first = Backend::from(&upstream).provider("groq");
    let proxy = Config::new().backend(first).backend(&second).start();
    let seen = [(); 5].map(|()| by(&proxy.chat(HELLO)).unwrap());
    assert_eq!(seen, ["alpha", "alpha", "alpha", "beta", "beta"]);
}

#[test]
fn a_reset_that_is_near_is_waited_for_and_a_far_one_is_told() {
    let near = telling(&[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "1s")]);
    let proxy = Proxy::with_backends([&near]);
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    let asked = Instant::now();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    let waited = asked.elapsed();
    assert!(waited > Duration::from_millis(700) && waited < Duration::from_secs(5), "waited {waited:?}");
    let far = telling(&[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "40s")]);
    let proxy = Proxy::with_backends([&far]);
    for (surface, code) in [(Surface::Chat, 503), (Surface::Messages, 529), (Surface::Responses, 503)] {
        if surface == Surface::Chat {
            proxy.chat(HELLO).check_answer("Hello").unwrap();
        }
        let asked = Instant::now();
        let response = proxy.post(surface.path(), &surface.hello("aifree", false));
        assert!(asked.elapsed() < Duration::from_secs(5));
        let seconds: u64 = response.header("retry-after").unwrap().parse().unwrap();
        assert!(response.status() == code && (30..=40).contains(&seconds), "{response:?}");
        assert!(response.text().contains("room in "), "{}", response.text());
    }
    assert_eq!(far.hits(), 1);
}

#[test]
fn what_an_account_was_told_holds_for_all_its_models() {
    let (_, reset) = in_two_hours();
    let fields =
        pairs(&[("x-ratelimit-limit", "50"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &reset)]);
    let upstream =
        Upstream::answering(move |r| match r.json()["model"].as_str().unwrap().ends_with(":free") {
            true => with_fields(r, &fields),
            false => with_fields(r, &[]),
        });
    let model = |name: &str| Backend::from(&upstream).provider("openrouter").model(name);
    let config = Config::new().backend(model("a:free")).backend(model("b:free")).backend(model("b"));
    let yaml = config
        .yaml()
        .replace("sk-secret-beta", "sk-secret-alpha")
        .replace("sk-secret-gamma", "sk-secret-alpha");
    let proxy = Proxy::start(&yaml);
    let seen = [(); 3].map(|()| by(&proxy.chat(HELLO)).unwrap());
    assert_eq!(seen, ["alpha", "gamma", "gamma"], "its free models share their limit, the paid ones do not");
}

#[test]
fn nonsense_about_limits_is_ignored() {
    every(
        [
            vec![("x-ratelimit-remaining-requests", "none"), ("x-ratelimit-reset-requests", "soon")],
            vec![("x-ratelimit-remaining-requests", "-1"), ("x-ratelimit-reset-requests", "1h")],
            vec![("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "-3s")],
            vec![("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "99999999999h")],
            vec![("x-ratelimit-remaining-requests", "99999999999999999999999999")],
            vec![("x-ratelimit-limit-requests", "0"), ("x-ratelimit-remaining-requests", "0")],
            vec![("ratelimit", "\"a\";r=;t=,,,;;=\"")],
            vec![("ratelimit", ";;;;;;;;"), ("ratelimit-policy", "\"\\\"")],
            vec![
                ("anthropic-ratelimit-tokens-remaining", "0.5.1"),
                ("anthropic-ratelimit-tokens-reset", "soon"),
            ],
        ]
        .map(|fields| (format!("{fields:?}"), fields)),
        |fields| {
            let upstream = telling(&fields);
            let proxy = Config::new().backend(&upstream).top("max_wait: 0").start();
            for _ in 0..3 {
                proxy.chat(HELLO).check_answer("Hello")?;
            }
            Ok(())
        },
    );
}

#[test]
fn what_was_told_outlives_a_restart() {
    let dir = TempDir::new();
    let state = format!("state_file: {}", dir.path().join("state.json").display());
    let upstream = telling(&[
        ("x-ratelimit-limit-requests", "1000"),
        ("x-ratelimit-remaining-requests", "1"),
        ("x-ratelimit-reset-requests", "2h"),
    ]);
    let second = Upstream::healthy("second");
    let first = Backend::from(&upstream).provider("groq");
    let config = Config::new().backend(first).backend(&second).top(&state);
    for expected in [&["alpha"][..], &["alpha", "beta"], &["beta"]] {
        let proxy = config.clone().start();
        let seen: Vec<_> = expected.iter().map(|_| by(&proxy.chat(HELLO)).unwrap()).collect();
        assert_eq!(seen, expected);
        proxy.whole_log();
    }
}

/// About 1500 tokens.
fn long_request() -> String {
    json!({"messages": [{"role": "user", "content": "word ".repeat(1200)}]}).to_string()
}

#[test]
fn a_window_that_was_too_small_once_is_known_from_then_on() {
    let dir = TempDir::new();
    let state = format!("state_file: {}", dir.path().join("state.json").display());
    let upstream = Upstream::answering(|r| match r.body.len() > 2000 {
        true => {
            status(400).error("This model's maximum context length is 1024 tokens. Please reduce the length.")
        }
        false => good_answer(r, "small"),
    });
    let large = Upstream::healthy("large");
    let config = Config::new().backend(&upstream).backend(&large).top(&state);
    let proxy = config.clone().start();
    for _ in 0..3 {
        proxy.chat(&long_request()).check_answer("large").unwrap();
        proxy.chat(HELLO).check_answer("small").unwrap();
    }
    assert_eq!(upstream.hits(), 4, "the long one was sent once");
    proxy.whole_log();
    let proxy = config.start();
    proxy.chat(&long_request()).check_answer("large").unwrap();
    assert_eq!(upstream.hits(), 4, "and not again after a restart");
    proxy.chat(HELLO).check_answer("small").unwrap();
}

#[test]
fn what_no_backend_has_room_for_any_more_is_refused_without_a_call() {
    let upstream =
        Upstream::replies([status(400)
            .error("This model's maximum context length is 1024 tokens. Please reduce the length.")]);
    let proxy = Proxy::with_backends([&upstream]);
    for surface in Surface::ALL {
        let body = surface.hello("aifree", false).replace("hi", &"word ".repeat(1200));
        for _ in 0..2 {
            let response = proxy.post(surface.path(), &body);
            surface.check_error(&response, 400, "invalid_request_error", "").unwrap();
            assert!(response.text().contains("1024"), "{}", response.text());
        }
    }
    assert_eq!(upstream.hits(), 1);
}
