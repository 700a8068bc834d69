//! What the program tells about itself: `/status`, `/metrics`, `explain`, `check`.

use std::time::Duration;

use serde_json::Value;

use crate::harness::*;

/// The samples of `/metrics` that have all of `words`, as `labels value` without the prefix.
fn samples(proxy: &Proxy, words: &[&str]) -> Vec<String> {
    let page = proxy.get("/metrics").text();
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.filter(|line| words.iter().all(|word| line.contains(word)));
    samples.map(|line| line.strip_prefix("ai_free_swap_").unwrap_or(line).to_owned()).collect()
}

/// Asks again until the page is as `wanted`: what a request leaves behind is counted after its last byte.
#[track_caller]
fn wait_for<T>(mut ask: impl FnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let begun = std::time::Instant::now();
    loop {
        let got = ask();
        if wanted(&got) || begun.elapsed() > DEADLINE {
            return got;
        }
        std::thread::yield_now();
    }
}

#[track_caller]
fn check_samples(proxy: &Proxy, words: &[&str], expected: &[&str]) {
    let got = wait_for(|| samples(proxy, words), |got| got == expected);
    assert_eq!(got, expected, "{}", proxy.get("/metrics").text());
}

#[test]
fn both_pages_are_for_who_has_the_key_and_for_reading_only() {
    let upstream = Upstream::healthy("Hello");
    let open = Config::new().backend(&upstream).start();
    let locked = Config::new().backend(&upstream).server("api_key: client-key").start();
    let key = "Authorization: Bearer client-key\r\n";
    let kinds = [("/metrics", "text/plain; version=0.0.4; charset=utf-8"), ("/status", "application/json")];
    every(kinds.map(|(path, kind)| (path, (path, kind))), |(path, kind)| {
        for (proxy, fields, expected) in [(&open, "", 200), (&locked, "", 401), (&locked, key, 200)] {
            for path in [path.to_owned(), format!("/v1{path}"), format!("{path}/?x=1")] {
                let whole = proxy.connect().send(get(&path, fields)).try_response(Asked::USUAL)?;
                expect(whole.status() == expected, || {
                    format!("{path}: {} {}", whole.status(), whole.text())
                })?;
                if expected == 401 {
                    expect(whole.try_error()?.2 == "invalid_api_key", || whole.text())?;
                    continue;
                }
                expect(whole.header("content-type") == Some(kind), || format!("{:?}", whole.head))?;
                expect(whole.header("cache-control") == Some("no-store"), || format!("{:?}", whole.head))?;
                let mut connection = proxy.connect();
                connection.send([b"HEAD", &get(&path, fields)[3..]].concat());
                let head = connection.try_response(Asked::HEAD)?;
                expect(head.status() == 200 && head.body.is_empty(), || format!("{:?}", head.head))?;
                expect(head.header("content-type") == Some(kind), || format!("{:?}", head.head))?;
            }
        }
        let refused = open.connect().send(post(path, "{}")).try_response(Asked::USUAL)?;
        let allow = refused.header("allow").unwrap_or_default().to_owned();
        expect(refused.status() == 405 && allow == "GET, HEAD", || format!("{} {allow}", refused.status()))?;
        Ok(())
    });
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn requests_and_attempts_are_counted_by_what_became_of_them() {
    let bad = Upstream::replies([status(429).header("retry-after", "600").error("slow down")]);
    let good = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&bad, &good]);
    for surface in Surface::ALL {
        for stream in [false, true] {
            let answer = proxy.connect().send(surface.post(&surface.hello("aifree", stream))).response();
            surface.check_said(&answer, stream, "Hello").unwrap();
        }
    }
    proxy.chat("{}{");
    check_samples(
        &proxy,
        &["requests_total"],
        &[
            r#"requests_total{dialect="chat",backend="beta",outcome="ok"} 2"#,
            r#"requests_total{dialect="messages",backend="beta",outcome="ok"} 2"#,
            r#"requests_total{dialect="responses",backend="beta",outcome="ok"} 2"#,
            r#"requests_total{dialect="chat",backend="-",outcome="client_error"} 1"#,
        ],
    );
    check_samples(
        &proxy,
        &["attempts_total"],
        &[
            r#"attempts_total{backend="alpha",class="rate_limited"} 1"#,
            r#"attempts_total{backend="beta",class="ok"} 6"#,
        ],
    );
    // A stream of the scripted provider tells no usage; a whole answer says 3 and 2.
    check_samples(
        &proxy,
        &["tokens_total", "beta"],
        &[
            r#"tokens_total{backend="beta",direction="input"} 9"#,
            r#"tokens_total{backend="beta",direction="output"} 6"#,
        ],
    );
    check_samples(
        &proxy,
        &["first_content_seconds", "+Inf"],
        &[
            r#"first_content_seconds_bucket{backend="beta",stream="true",le="+Inf"} 3"#,
            r#"first_content_seconds_bucket{backend="beta",stream="false",le="+Inf"} 3"#,
        ],
    );
    check_samples(
        &proxy,
        &["backend_benched"],
        &[r#"backend_benched{backend="alpha"} 1"#, r#"backend_benched{backend="beta"} 0"#],
    );
    check_samples(&proxy, &["swap_requests_in_flight"], &["requests_in_flight 0"]);
}

#[test]
fn every_end_of_a_request_has_its_outcome() {
    let half = |last: Reply| {
        let begun = status(200).stream_head().event(&event(r#"{"content":"Hel"}"#, "null"));
        Reply { steps: [begun.steps, last.steps].concat() }
    };
    every(
        [
            ("an answer", (chat_whole("Hello"), HELLO, "alpha", "ok", "ok")),
            ("an empty one", (status(200).json(whole_body("")), HELLO, "alpha", "empty", "empty")),
            ("a bad request", (status(400).error("no"), HELLO, "-", "client_error", "bad_request")),
            ("a bad key", (status(401).error("no"), HELLO, "-", "failed", "key_bad")),
            ("a cut stream", (half(Reply::nothing().close()), STREAM_HELLO, "alpha", "broke_off", "ok")),
        ],
        |(reply, body, backend, outcome, class)| {
            let upstream = Upstream::replies([reply]);
            let proxy = Config::new().backend(&upstream).top("max_wait: 0").start();
            proxy.chat(body);
            let requests =
                format!("requests_total{{dialect=\"chat\",backend=\"{backend}\",outcome=\"{outcome}\"}} 1");
            let attempts = format!("attempts_total{{backend=\"alpha\",class=\"{class}\"}} 1");
            for (family, expected) in [("requests_total", requests), ("attempts_total", attempts)] {
                let got = wait_for(|| samples(&proxy, &[family]), |got| *got == [expected.as_str()]);
                expect(got == [expected.as_str()], || format!("expected {expected}, got {got:?}"))?;
            }
            Ok(())
        },
    );
}

#[test]
fn a_client_that_leaves_is_counted_and_in_flight_no_more() {
    let gate = Gate::new();
    let upstream = {
        let gate = gate.clone();
        Upstream::answering(move |request| match request.number {
            // Before the first content, and after it.
            0 => Reply::nothing().wait(&gate),
            _ => status(200).stream_head().event(&event(r#"{"content":"Hel"}"#, "null")).wait(&gate),
        })
    };
    let proxy = Proxy::with_backends([&upstream]);
    let mut silent = proxy.connect();
    silent.send(post("/v1/chat/completions", STREAM_HELLO));
    upstream.wait_for_requests(1);
    check_samples(&proxy, &["swap_requests_in_flight"], &["requests_in_flight 1"]);
    drop(silent);
    let unanswered = r#"requests_total{dialect="chat",backend="-",outcome="client_left"} 1"#;
    check_samples(&proxy, &["requests_total"], &[unanswered]);
    check_samples(&proxy, &["attempts_total"], &[r#"attempts_total{backend="alpha",class="abandoned"} 1"#]);
    let mut stream = proxy.stream(STREAM_HELLO);
    stream.next_event();
    stream.close();
    let answered = r#"requests_total{dialect="chat",backend="alpha",outcome="client_left"} 1"#;
    check_samples(&proxy, &["requests_total"], &[answered, unanswered]);
    check_samples(&proxy, &["swap_requests_in_flight"], &["requests_in_flight 0"]);
    gate.open();
}

#[test]
fn a_client_cannot_make_a_series() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Config::new().backend(&upstream).top("model_routing: match").start();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    let names = |page: &str| -> Vec<String> {
        page.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    let one = r#"requests_total{dialect="chat",backend="alpha",outcome="ok"} 1"#;
    check_samples(&proxy, &["requests_total"], &[one]);
    let before = names(&proxy.get("/metrics").text());
    for number in 0..20 {
        let model = format!("made-up-{number}\\\"}} 1");
        proxy.chat(&HELLO.replace("aifree", &model)).check_answer("Hello").unwrap();
        proxy.get(&format!("/v1/nothing-{number}"));
        proxy.get(&format!("/v1/models/made-up-{number}"));
    }
    check_samples(&proxy, &["requests_total"], &[&one.replace("} 1", "} 21")]);
    let after = names(&proxy.get("/metrics").text());
    assert_eq!(after, before);
    assert!(!proxy.get("/metrics").text().contains("made-up"));
}

#[test]
fn the_counters_survive_a_reload() {
    let upstream = Upstream::healthy("Hello");
    let backend = || Backend::from(&upstream).priority(1);
    let config = Config::new().backend(backend().name("same")).backend(backend().name("old"));
    let proxy = config.start();
    for _ in 0..8 {
        proxy.chat(HELLO).check_answer("Hello").unwrap();
    }
    let sum = |proxy: &Proxy| -> u64 {
        let all = samples(proxy, &["requests_total"]);
        all.iter().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    };
    assert_eq!(wait_for(|| sum(&proxy), |sum| *sum == 8), 8);
    let same = samples(&proxy, &["requests_total", "same"]);
    proxy.reload(&Config::new().backend(backend().name("new")).backend(backend().name("same")).yaml());
    proxy.wait_for_log(0, |line| line.contains("configuration reloaded"));
    check_samples(&proxy, &["requests_total"], &same.iter().map(String::as_str).collect::<Vec<_>>());
    check_samples(
        &proxy,
        &["backend_info"],
        &[
            r#"backend_info{backend="new",provider="provider-new",model="model-new",priority="1"} 1"#,
            r#"backend_info{backend="same",provider="provider-same",model="model-same",priority="1"} 1"#,
        ],
    );
}

/// Strictly: one HELP and one TYPE before the samples of each metric, every sample once, every value a number.
#[test]
fn the_page_is_what_prometheus_reads() {
    let upstream = Upstream::healthy("Hello");
    let odd = Backend::from(&upstream).name(r#""a\"b\\c{},""#).model("'\"é x'");
    let proxy = Config::new().backend(odd).backend(Backend::from(&upstream).name(r#""a\"b\\c{},""#)).start();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    check_samples(&proxy, &["attempts_total"], &[r#"attempts_total{backend="a\"b\\c{},",class="ok"} 1"#]);
    let page = proxy.get("/metrics").text();
    assert!(page.ends_with('\n') && page.contains(r#"backend="a\"b\\c{},#2""#), "{page}");
    let mut family = (String::new(), String::new());
    let (mut families, mut seen) = (Vec::new(), Vec::new());
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = (help.split_once(' ').unwrap().0.to_owned(), String::new());
            assert!(!families.contains(&family.0), "{} comes twice", family.0);
            families.push(family.0.clone());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!((name, &*family.1), (&*family.0, ""), "{line}");
            kind.clone_into(&mut family.1);
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let parts: &[&str] = if family.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(parts.iter().any(|part| name == format!("{}{part}", family.0)), "{line}");
            assert!(family.1 != "counter" || name.ends_with("_total"), "{line}");
            assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
            assert!(!seen.contains(&series), "{series} comes twice");
            seen.push(series);
        }
    }
    assert!(families.len() >= 8 && seen.len() >= 20, "{page}");
}

#[test]
fn limits_are_told_as_they_are_counted() {
    let upstream = Upstream::healthy("Hello");
    let limited = Backend::from(&upstream).line("limits: {rpm: 2, tpd: 10000}").line("context: 8192");
    let proxy = Config::new().backend(limited).backend(&upstream).top("max_wait: 0").start();
    for _ in 0..3 {
        proxy.chat(HELLO).check_answer("Hello").unwrap();
    }
    check_samples(
        &proxy,
        &["quota_"],
        &[
            r#"quota_limit{backend="alpha",unit="requests",window="minute"} 2"#,
            r#"quota_limit{backend="alpha",unit="tokens",window="day"} 10000"#,
            r#"quota_left{backend="alpha",unit="requests",window="minute"} 0"#,
            // An answer of the scripted provider takes 5.
            r#"quota_left{backend="alpha",unit="tokens",window="day"} 9990"#,
        ],
    );
    let benched = [r#"backend_benched{backend="alpha"} 1"#, r#"backend_benched{backend="beta"} 0"#];
    check_samples(&proxy, &["backend_benched"], &benched);
    let page = proxy.get("/status").json();
    let alpha = backend(&page, "alpha");
    assert_eq!((&alpha["standing"], &alpha["context"]), (&"used_up".into(), &8192.into()), "{page}");
    let bench = &alpha["bench"];
    assert_eq!((&bench["class"], &bench["source"]), (&"requests_used_up".into(), &"counted".into()));
    assert!(
        (1..=61).contains(&bench["seconds_left"].as_u64().unwrap()) && bench["since"].is_null(),
        "{bench}"
    );
    let minute = &alpha["limits"][0];
    assert_eq!((&minute["unit"], &minute["window"]), (&"requests".into(), &"minute".into()), "{alpha}");
    assert_eq!((&minute["limit"], &minute["used"], &minute["left"]), (&2.into(), &2.into(), &0.into()));
    assert_eq!((&minute["source"], minute["resets"].is_string()), (&"counted".into(), true), "{minute}");
    assert_eq!((&alpha["limits"][1]["used"], &alpha["limits"][2]), (&10.into(), &Value::Null), "{alpha}");
    let beta = backend(&page, "beta");
    assert_eq!(
        (&beta["standing"], &beta["limits"], &beta["context"]),
        (&"open".into(), &Value::Array(vec![]), &Value::Null)
    );
}

/// An answer with what Groq tells in each: requests of the day, tokens of the minute.
fn with_limits(code: u16, body: &str) -> Reply {
    let fields = [
        ("x-ratelimit-limit-requests", "1000"),
        ("x-ratelimit-remaining-requests", "998"),
        ("x-ratelimit-reset-requests", "2m52.8s"),
        ("x-ratelimit-limit-tokens", "8000"),
        ("x-ratelimit-remaining-tokens", "7990"),
        ("x-ratelimit-reset-tokens", "55.5s"),
    ];
    fields.iter().fold(status(code), |status, (name, value)| status.header(name, value)).json(body)
}

#[test]
fn limits_are_told_as_the_provider_tells_them() {
    let upstream = Upstream::replies([with_limits(200, &whole_body("Hello"))]);
    let proxy = Config::new().backend(Backend::from(&upstream).provider("groq")).start();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    check_samples(
        &proxy,
        &["quota_left"],
        &[
            r#"quota_left{backend="alpha",unit="tokens",window="minute"} 7990"#,
            r#"quota_left{backend="alpha",unit="requests",window="day"} 998"#,
        ],
    );
    let page = proxy.get("/status").json();
    let limits = &backend(&page, "alpha")["limits"];
    for (place, unit, limit) in [(0, "tokens", 8000), (1, "requests", 1000)] {
        let told = &limits[place];
        assert_eq!(
            (&told["unit"], &told["source"], &told["limit"]),
            (&unit.into(), &"told".into(), &limit.into())
        );
    }
}

#[test]
fn a_check_shows_the_limits_it_has_learned() {
    let told = "998 of 1000 requests/day left, 7990 of 8000 tokens/minute left";
    let good = Upstream::replies([with_limits(200, &whole_body("OK"))]);
    let bad = Upstream::replies([with_limits(429, r#"{"error":{"message":"slow down"}}"#)]);
    let dir = TempDir::new();
    let groq = |upstream: &Upstream| Backend::from(upstream).provider("groq");
    dir.write("config.yaml", &Config::new().backend(groq(&good)).backend(groq(&bad)).yaml());
    let table = String::from_utf8(run(&dir, &["check"], &[]).stdout).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("alpha (model-alpha)  ok ")
            && lines[0].ends_with(&format!("ms  limits: {told}")),
        "{table}"
    );
    assert!(
        lines[1].contains("limited") && lines[1].ends_with(&format!("slow down; limits: {told}")),
        "{table}"
    );
}

#[test]
fn the_gauge_of_a_backend_follows_what_runs_there() {
    let gate = Gate::new();
    let upstream = {
        let gate = gate.clone();
        Upstream::answering(move |_| {
            Reply::nothing().wait(&gate).then(Step::Write(chat_whole("Hello").bytes()))
        })
    };
    let busy = Backend::from(&upstream).line("limits: {concurrency: 1}");
    let proxy = Config::new().backend(busy).start();
    let mut first = proxy.connect();
    first.send(post("/v1/chat/completions", HELLO));
    upstream.wait_for_requests(1);
    check_samples(
        &proxy,
        &["_in_flight"],
        &["requests_in_flight 1", r#"backend_requests_in_flight{backend="alpha"} 1"#],
    );
    assert_eq!(backend(&proxy.get("/status").json(), "alpha")["standing"], "busy");
    let mut second = proxy.connect();
    second.send(post("/v1/chat/completions", HELLO));
    check_samples(&proxy, &["requests_waiting"], &["requests_waiting 1"]);
    gate.open();
    first.response().check_answer("Hello").unwrap();
    second.response().check_answer("Hello").unwrap();
    check_samples(&proxy, &["requests_waiting"], &["requests_waiting 0"]);
    check_samples(
        &proxy,
        &["_in_flight"],
        &["requests_in_flight 0", r#"backend_requests_in_flight{backend="alpha"} 0"#],
    );
}

fn backend<'a>(page: &'a Value, name: &str) -> &'a Value {
    let backends = page["backends"].as_array().unwrap();
    backends.iter().find(|backend| backend["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn the_status_says_how_each_backend_stands() {
    let told = Upstream::replies([status(429).header("retry-after", "600").error("sk-not-to-be-seen")]);
    let guessed = Upstream::replies([status(401).error("bad key")]);
    let good = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&told, &guessed, &good]);
    let fresh = proxy.get("/status").json();
    assert_eq!(fresh["version"], env!("CARGO_PKG_VERSION"));
    for name in ["alpha", "beta", "gamma"] {
        let backend = backend(&fresh, name);
        assert_eq!(backend["standing"], "open", "{fresh}");
        for key in ["bench", "last_error", "last_success"] {
            assert!(backend[key].is_null(), "{key} in {backend}");
        }
    }
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    let done = |page: &Value| backend(page, "gamma")["totals"]["requests"]["ok"] == 1;
    let page = wait_for(|| proxy.get("/status").json(), done);
    let (alpha, beta, gamma) = (backend(&page, "alpha"), backend(&page, "beta"), backend(&page, "gamma"));
    assert_eq!(
        (&alpha["standing"], &alpha["bench"]["source"]),
        (&"benched".into(), &"told".into()),
        "{page}"
    );
    assert_eq!(alpha["bench"]["class"], "rate_limited");
    let left = alpha["bench"]["seconds_left"].as_u64().unwrap();
    assert!((1..=600).contains(&left) && left > 500, "{alpha}");
    assert_eq!((&beta["bench"]["class"], &beta["bench"]["source"]), (&"key_bad".into(), &"guessed".into()));
    assert_eq!(
        (&beta["last_error"]["class"], &beta["last_error"]["status"]),
        (&"key_bad".into(), &401.into())
    );
    assert_eq!((&gamma["standing"], &gamma["priority"]), (&"open".into(), &3.into()));
    assert_eq!((&gamma["provider"], &gamma["model"]), (&"provider-gamma".into(), &"model-gamma".into()));
    assert!(gamma["latency_ms"]["whole"].is_u64() && gamma["latency_ms"]["stream"].is_null(), "{gamma}");
    assert_eq!(gamma["totals"]["attempts"]["ok"], 1);
    assert_eq!((&gamma["totals"]["input_tokens"], &gamma["totals"]["output_tokens"]), (&3.into(), &2.into()));
    for moment in [&page["started"], &alpha["bench"]["until"], &gamma["last_success"]] {
        let text = moment.as_str().unwrap_or_default();
        assert!(text.len() == 20 && text.starts_with("20") && text.ends_with('Z'), "{moment}");
    }
    let text = page.to_string();
    for secret in ["sk-", "127.0.0.1", "bad key"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[test]
fn a_backend_that_was_down_is_half_open_until_somebody_tries() {
    let upstream = Upstream::replies([Reply::nothing().close(), chat_whole("Hello")]);
    let proxy = Config::new().backend(&upstream).top("max_wait: 0").start();
    assert_eq!(proxy.chat(HELLO).status(), 503);
    let standing = |page: &Value| backend(page, "alpha")["standing"].clone();
    let page = wait_for(|| proxy.get("/status").json(), |page| standing(page) == "half_open");
    assert_eq!(standing(&page), "half_open");
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    assert_eq!(standing(&proxy.get("/status").json()), "open");
}

#[test]
fn scraping_does_not_hold_up_a_stream() {
    let gate = Gate::new();
    let upstream = {
        let gate = gate.clone();
        Upstream::answering(move |_| {
            let begun = status(200).stream_head().event(&event(r#"{"content":"Hel"}"#, "null"));
            begun.wait(&gate).event(&event(r#"{"content":"lo"}"#, r#""stop""#)).event("[DONE]").end_chunks()
        })
    };
    let proxy = Proxy::with_backends([&upstream]);
    let mut stream = proxy.stream(STREAM_HELLO);
    assert_eq!(stream.next_event().unwrap().content().as_deref(), Some("Hel"));
    for path in ["/status", "/metrics"] {
        let asked = std::time::Instant::now();
        assert_eq!(proxy.get(path).status(), 200);
        assert!(asked.elapsed() < Duration::from_secs(2), "{path} took {:?}", asked.elapsed());
    }
    gate.open();
    stream.rest().check_complete("lo").unwrap();
}

/// What `explain` says of a config.
#[track_caller]
fn explained(config: &Config, files: &[(&str, &str)], args: &[&str]) -> (i32, String, String) {
    let dir = TempDir::new();
    dir.write("config.yaml", &config.yaml());
    for (name, text) in files {
        dir.write(name, text);
    }
    let output = run(&dir, &[&["explain"], args].concat(), &[]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_plan_is_explained_without_asking_anybody() {
    let upstream = Upstream::healthy("Hello");
    let backend = || Backend::from(&upstream);
    let config = Config::new()
        .backend(backend())
        .backend(backend().line("protocol: anthropic"))
        .same_priority()
        .backend(backend().priority(2))
        .top("keep_cycles: 2")
        .top("model_routing: match");
    let all = "priority 1, in random order:\n  alpha (model-alpha)\n  beta (model-beta)\npriority 2:\n  \
               gamma (model-gamma)\n";
    let hello = |surface: Surface| surface.hello("aifree", false);
    let files: Vec<(&str, String)> = vec![
        ("chat.json", r#"{"messages":[{"role":"system","content":"x"}]}"#.into()),
        ("messages.json", hello(Surface::Messages)),
        ("responses.json", Surface::Responses.hello("model-beta", true)),
        ("untranslatable.json", r#"{"messages":7,"stop":"x"}"#.into()),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    every(
        [
            (&[][..], &["no model: any", all, "in up to 2 passes", "Nothing is remembered"][..]),
            (
                &["--model", "model-alpha"],
                &["\npriority 1:\n  alpha (model-alpha)\n", "another model: beta (m"],
            ),
            (&["--model", "unheard-of"], &["`unheard-of`", all]),
            (
                &["--file", "chat.json"],
                &[
                    "in chat (guessed",
                    "whole answer",
                    "alpha)  as it came\n",
                    "beta)    translated to messages\n",
                ],
            ),
            (
                &["--file", "messages.json"],
                &["in messages", "`aifree`", "alpha)  translated to chat\n", "beta)    as it came\n"],
            ),
            (
                &["--file", "messages.json", "--dialect", "chat"],
                &["in chat, for", "alpha)  as it came\n", "beta)    translated to messages\n"],
            ),
            (
                &["--file", "responses.json"],
                &["in responses", "stream", "`model-beta`", "beta)    translated"],
            ),
            (&["--file", "responses.json", "--model", "model-gamma"], &["\npriority 2:\n  gamma"]),
            (
                &["--file", "untranslatable.json"],
                &[
                    "cannot be translated: `messages`",
                    "alpha)  as it came\n",
                    "beta)    cannot be translated to m",
                ],
            ),
        ]
        .map(|row| (row.0.join(" "), row)),
        |(args, words)| {
            let (code, said, errors) = explained(&config, &files, args);
            expect(code == 0 && errors.is_empty(), || format!("exit {code}: {errors}"))?;
            for word in words {
                expect(said.contains(word), || format!("expected {word:?} in {said}"))?;
            }
            Ok(())
        },
    );
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_plan_knows_what_a_run_has_left() {
    let told = Upstream::replies([status(429).header("retry-after", "600").error("slow down")]);
    let good = Upstream::healthy("Hello");
    let dir = TempDir::new();
    let file = dir.path().join("state.json");
    let config = Config::new()
        .backend(&told)
        .backend(Backend::from(&good).line("limits: {rpd: 1}"))
        .backend(Backend::from(&good).line("context: 100"))
        .top(&format!("state_file: {}", file.display()));
    let mut proxy = config.clone().start();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    proxy.stop();
    proxy.exit_status();
    let kept = std::fs::read_to_string(&file).unwrap();
    let long = HELLO.replace("hi", &"many words ".repeat(100));
    let (code, said, errors) = explained(&config, &[("long.json", &long)], &["--file", "long.json"]);
    assert_eq!((code, errors.as_str()), (0, ""), "{said}");
    for word in [
        "alpha (model-alpha)  skipped: rate limited, benched until 20",
        "s, told by the provider)",
        "beta (model-beta)    skipped: requests of the day used up until 20",
        "s, counted)",
        "gamma (model-gamma)  skipped: about ",
        "its context window has 100",
    ] {
        assert!(said.contains(word), "expected {word:?} in {said}");
    }
    assert!(!said.contains("Nothing is remembered"), "{said}");
    // It is the file of a run, and none of ours.
    assert_eq!(std::fs::read_to_string(&file).unwrap(), kept);
    std::fs::write(&file, "{ damaged").unwrap();
    let (code, said, errors) = explained(&config, &[], &[]);
    assert!(code == 0 && said.contains("alpha (model-alpha)\n"), "exit {code}: {said}");
    assert!(errors.contains("WARN") && errors.contains("state.json"), "{errors}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{ damaged");
}

#[test]
fn what_cannot_be_explained_is_one_line_and_exit_1() {
    let config = Config::new().backend(Backend::at("http://127.0.0.1:1/v1")).server("max_body: 1KiB");
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(1024));
    let files = [("bad.json", "{\"model\":1}"), ("no.json", "}"), ("large.json", large.as_str())];
    every(
        [
            (&["--file", "nowhere.json"][..], "nowhere.json: "),
            (&["--file", "."], ".: "),
            (&["--file", "bad.json"], "bad.json: the request is refused as chat: `model` must be a string"),
            (
                &["--file", "no.json", "--dialect", "responses"],
                "refused as responses: The body is not valid JSON",
            ),
            (&["--file", "large.json"], "larger than server.max_body (1024 bytes)"),
        ]
        .map(|row| (row.0.join(" "), row)),
        |(args, word)| {
            let (code, said, errors) = explained(&config, &files, args);
            expect(code == 1 && said.is_empty(), || format!("exit {code}: {said}{errors}"))?;
            let one = errors.trim_end();
            expect(one.contains(word) && !one.contains('\n'), || format!("expected {word:?} in {errors:?}"))
        },
    );
}

#[test]
fn a_check_says_in_a_word_what_is_wrong_with_each() {
    let rows = [
        ("ok", chat_whole("OK"), ""),
        ("ok", status(200).json(whole_body("")), "empty text"),
        ("bad key", status(401).error("who are you"), "401"),
        ("no model", status(404).json(error_sample("openai_404_model")), "404"),
        ("limited", status(429).header("retry-after", "7").error("slow down"), "slow down"),
        ("no credit", status(402).error("pay first"), "402"),
        ("down", status(500).error("hiccup"), "500"),
        ("forbidden", status(403).json(error_sample("openai_403_region")), "403"),
        ("refused", status(400).error("bad request"), "400"),
    ];
    let upstreams: Vec<Upstream> = rows.iter().map(|row| Upstream::replies([row.1.clone()])).collect();
    let config = upstreams.iter().enumerate().fold(Config::new(), |config, (number, upstream)| {
        config.backend(Backend::from(upstream).name(&format!("no{number}")).model("m"))
    });
    let dir = TempDir::new();
    dir.write("config.yaml", &config.yaml());
    let output = run(&dir, &["check"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8(output.stdout).unwrap();
    for (number, (line, (word, _, text))) in table.lines().zip(&rows).enumerate() {
        let start = format!("no{number} (m)  {word:<9}  ");
        assert!(
            line.starts_with(&start) && line.contains(" ms") && line.contains(text),
            "{line:?} of {table}"
        );
        assert_eq!(upstreams[number].hits(), 1, "{line}");
    }
    assert_eq!(table.lines().count(), rows.len(), "{table}");
}
