//! Whatever the first backend does, the client sees only the second one's good answer.

use crate::harness::*;

#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Both,
    Whole,
    Stream,
}
use For::{Both, Stream, Whole};

/// Every row against both kinds of request that it is for.
fn check(rows: Vec<(&'static str, For, Reply)>, line: &str) {
    let runs: Vec<(String, bool, Reply)> = rows
        .into_iter()
        .flat_map(|(name, of, reply)| {
            [(Whole, false), (Stream, true)]
                .into_iter()
                .filter(move |(kind, _)| of == Both || of == *kind)
                .map(move |(_, stream)| (format!("{name} (stream: {stream})"), stream, reply.clone()))
        })
        .collect();
    let replies: Vec<Reply> = runs.iter().map(|(.., reply)| reply.clone()).collect();
    let table = Table::with(Config::new(), line, runs.len(), move |row, _| replies[row].clone());
    every_at_once(
        runs.into_iter().enumerate().map(|(row, (name, stream, _))| (name, (row, stream))),
        |(row, stream)| table.check_rescued(row, stream),
    );
}

#[test]
fn an_error_status_is_invisible() {
    let rows = [
        401, 402, 403, 404, 405, 408, 409, 410, 413, 422, 425, 429, 498, 500, 501, 502, 503, 504, 520, 524,
        529, 599,
    ];
    check(rows.map(|code| ("status", Both, status(code).error("no"))).into(), "");
}

#[test]
fn an_odd_error_answer_is_invisible() {
    let html = golden("chat/stream_html_body.txt");
    check(
        vec![
            ("429 with Retry-After", Both, status(429).header("retry-after", "7").error("slow down")),
            (
                "429 with an absurd Retry-After",
                Both,
                status(429).header("retry-after", "99999999999999999999").error("x"),
            ),
            ("429 with a Retry-After of the past", Both, status(429).header("retry-after", "-5").error("x")),
            (
                "429 with a date",
                Both,
                status(429).header("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT").error("x"),
            ),
            ("503 with Retry-After", Both, status(503).header("retry-after", "30").error("x")),
            ("404 model", Both, status(404).json(r#"{"error":{"message":"no","code":"model_not_found"}}"#)),
            ("HTML 502", Both, status(502).body("text/html", &html)),
            ("HTML 200", Both, status(200).body("text/html", &html)),
            ("HTML 200 that says it is a stream", Both, status(200).body("text/event-stream", &html)),
            ("HTML 200 that says it is JSON", Both, status(200).json(&html)),
            ("empty 500", Both, status(500).body("", "")),
            ("500 until close", Both, status(500).until_close("text/plain", "oops")),
            (
                "an error as an array",
                Both,
                status(400).json(r#"[{"error":{"code":400,"message":"API key not valid."}}]"#),
            ),
            ("an error as a string", Both, status(403).json(r#"{"error":"no"}"#)),
            ("a huge error body", Both, status(500).body("text/plain", "x".repeat(1_000_000))),
            ("an endless error body", Both, status(500).chunked("text/plain", vec![&b"x"[..]; 100_000])),
            ("an error body that stops", Both, raw("HTTP/1.1 500 No\r\ncontent-length: 99\r\n\r\nx").close()),
            ("binary error body", Both, status(500).body("application/json", b"\xff\xfe\0\x01")),
            ("a redirect", Both, status(302).header("location", "/v1/elsewhere").body("", "")),
            (
                "a permanent redirect",
                Both,
                status(308).header("location", "https://example.com/").body("", ""),
            ),
            ("304", Both, raw("HTTP/1.1 304 Not Modified\r\n\r\n")),
            ("204", Both, raw("HTTP/1.1 204 No Content\r\n\r\n")),
            (
                "101",
                Both,
                raw("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").stall(),
            ),
        ],
        "extra: {timeout: 2}",
    );
}

#[test]
fn a_success_that_is_none_is_invisible() {
    let say = |body: &str| status(200).json(body);
    let choices = |message: &str| {
        say(&format!(r#"{{"id":"x","choices":[{{"index":0,"message":{message},"finish_reason":"stop"}}]}}"#))
    };
    check(
        vec![
            ("an error inside", Both, say(r#"{"error":{"message":"Rate limit","code":429}}"#)),
            ("an error beside no choices", Both, say(&golden("chat/response_200_error_body.json"))),
            ("an error as a string", Both, say(r#"{"error":"overloaded"}"#)),
            (
                "an error of base_resp",
                Both,
                say(r#"{"base_resp":{"status_code":1002,"status_msg":"rate limit"}}"#),
            ),
            ("empty body", Both, status(200).body("application/json", "")),
            ("blank body", Both, say(" \n ")),
            ("empty object", Both, say("{}")),
            ("null", Both, say("null")),
            ("no choices", Both, say(r#"{"id":"x","choices":[]}"#)),
            ("null choices", Both, say(r#"{"id":"x","choices":null}"#)),
            ("empty content", Both, choices(r#"{"role":"assistant","content":""}"#)),
            ("null content", Both, choices(r#"{"role":"assistant","content":null}"#)),
            ("no content", Both, choices(r#"{"role":"assistant"}"#)),
            ("no calls", Both, choices(r#"{"role":"assistant","content":null,"tool_calls":[]}"#)),
            ("garbage", Both, say("{\"choices\":[{]}")),
            ("cut JSON", Both, say(&whole_body("Hello")[..100])),
            ("plain text", Both, status(200).body("text/plain", "Hello")),
            ("an array", Both, say("[]")),
            (
                "invalid UTF-8",
                Both,
                status(200).json(b"{\"choices\":[{\"message\":{\"content\":\"\xff\"}}]}"),
            ),
            ("deep nesting", Both, say(&format!("{{\"choices\":{}", "[".repeat(10_000)))),
        ],
        "",
    );
}

#[test]
fn a_stream_that_never_says_anything_is_invisible() {
    let role = event(r#"{"role":"assistant","content":""}"#, "null");
    let finish = event("{}", r#""stop""#);
    let data = |items: &[&str]| items.iter().map(|i| format!("data: {i}\n\n")).collect::<String>();
    let null = event(r#"{"role":"assistant","content":null,"tool_calls":[]}"#, "null");
    let rows = vec![
        ("error first", golden("chat/stream_error_first.sse")),
        ("error behind the role", data(&[&role, r#"{"error":{"message":"boom","code":500}}"#])),
        ("error by name", format!("event: error\ndata: {{\"message\":\"boom\"}}\n\n{}", data(&["[DONE]"]))),
        ("error as a field", "error: {\"code\":500,\"message\":\"boom\"}\n\n".to_owned()),
        ("error as an array", data(&[r#"[{"error":{"message":"boom","code":503}}]"#])),
        ("error as a string", data(&[&role, r#"{"error":"boom"}"#])),
        ("only a role", data(&[&role])),
        ("role and end mark", data(&[&role, "[DONE]"])),
        ("role, finish, end mark", data(&[&role, &finish, "[DONE]"])),
        ("null content", data(&[&null, &finish, "[DONE]"])),
        ("only the end mark", golden("chat/stream_empty.sse")),
        ("nothing", String::new()),
        ("only comments", ": PROCESSING\n\n: PROCESSING\n\n".to_owned()),
        ("only pings", "event: ping\ndata: {}\n\n".to_owned()),
        ("garbage", "data: {\"choices\":[{\n\n".to_owned()),
        ("not an event stream", "hello\nworld\n\n".to_owned()),
        ("binary", "\u{0}\u{1}\u{2}".to_owned()),
        ("many empty chunks", data(&vec![role.as_str(); 200])),
        ("an endless line", "data: ".to_owned() + &"x".repeat(2 * 1024 * 1024)),
        ("endless start frames", data(&vec![role.as_str(); 10_000])),
    ];
    let replies = rows
        .into_iter()
        .map(|(name, body)| {
            (
                name,
                Stream,
                status(200)
                    .chunked("text/event-stream", [body.as_bytes()].into_iter().filter(|b| !b.is_empty())),
            )
        })
        .collect();
    check(replies, "");
}

#[test]
fn a_refused_answer_format_is_invisible() {
    let body = whole_body("Hello");
    let n = body.len();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let line = |l: &str| raw(format!("{head}{l}\r\n\r\n{body}")).close();
    check(
        vec![
            (
                "gzip",
                Both,
                status(200).header("content-encoding", "gzip").body("application/json", b"\x1f\x8b\x08\0\0"),
            ),
            ("br", Both, status(200).header("content-encoding", "br").json(&body)),
            (
                "transfer-encoding gzip",
                Both,
                raw(format!("{head}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n")).close(),
            ),
            ("length too long", Both, line(&format!("content-length: {}", n + 1))),
            ("length that is none", Both, line("content-length: many")),
            ("negative length", Both, line("content-length: -1")),
            ("signed length", Both, line(&format!("content-length: +{n}"))),
            ("absurd length", Both, line("content-length: 99999999999999999999999")),
            ("length above all limits", Both, line("content-length: 99999999999")),
            (
                "two lengths that differ",
                Both,
                line(&format!("content-length: {n}\r\ncontent-length: {}", n - 1)),
            ),
            ("a list of lengths that differ", Both, line(&format!("content-length: {n}, {}", n + 1))),
            (
                "bad chunk size",
                Both,
                raw(format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n{body}\r\n0\r\n\r\n")).close(),
            ),
            (
                "negative chunk size",
                Both,
                raw(format!("{head}transfer-encoding: chunked\r\n\r\n-1\r\n{body}\r\n0\r\n\r\n")).close(),
            ),
            (
                "huge chunk size",
                Both,
                raw(format!("{head}transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{body}")).close(),
            ),
            (
                "chunk longer than said",
                Both,
                raw(format!("{head}transfer-encoding: chunked\r\n\r\n5\r\n{body}\r\n0\r\n\r\n")).close(),
            ),
            (
                "no last chunk",
                Both,
                raw(format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{}", n, &body[..n - 1])).close(),
            ),
            ("oversize head", Both, raw(format!("{head}x: {}\r\n\r\n", "a".repeat(20_000))).close()),
            ("endless head", Both, raw(format!("{head}{}", "x: a\r\n".repeat(50_000))).close()),
            (
                "200 fields",
                Both,
                raw(format!("{head}{}content-length: {n}\r\n\r\n{body}", "x: a\r\n".repeat(200))).close(),
            ),
            ("no HTTP", Both, raw("SSH-2.0-OpenSSH_9.6\r\n").close()),
            ("TLS alert", Both, raw(b"\x15\x03\x01\x00\x02\x02\x46".to_vec()).close()),
            ("HTTP/2", Both, raw("HTTP/2 200\r\ncontent-length: 0\r\n\r\n").close()),
            ("HTTP/0.9", Both, raw(body.clone()).close()),
            (
                "bad status",
                Both,
                raw(format!("HTTP/1.1 2x0 OK\r\ncontent-length: {n}\r\n\r\n{body}")).close(),
            ),
            (
                "status 000",
                Both,
                raw(format!("HTTP/1.1 000 OK\r\ncontent-length: {n}\r\n\r\n{body}")).close(),
            ),
            (
                "status 999",
                Both,
                raw(format!("HTTP/1.1 999 OK\r\ncontent-length: {n}\r\n\r\n{body}")).close(),
            ),
            ("no colon", Both, raw(format!("{head}oops\r\ncontent-length: {n}\r\n\r\n{body}")).close()),
            (
                "NUL in the head",
                Both,
                raw(format!("{head}x: \0\r\ncontent-length: {n}\r\n\r\n{body}")).close(),
            ),
            ("interim answers without end", Both, raw("HTTP/1.1 100 Continue\r\n\r\n".repeat(1000)).close()),
            ("closed at once", Both, Reply::nothing().close()),
            ("reset at once", Both, Reply::nothing().reset()),
            ("reset in the head", Both, raw("HTTP/1.1 200").reset()),
            ("closed behind the head", Both, raw(format!("{head}content-length: {n}\r\n\r\n")).close()),
            (
                "closed in the body",
                Both,
                raw(format!("{head}content-length: {n}\r\n\r\n{}", &body[..50])).close(),
            ),
            (
                "reset in the body",
                Both,
                raw(format!("{head}content-length: {n}\r\n\r\n{}", &body[..50])).reset(),
            ),
            ("JSON cut by close", Both, status(200).until_close("application/json", &body[..n - 1])),
        ],
        "",
    );
}

/// Rows that each last a second: the backend's own time limit ends them.
#[test]
fn a_stall_before_content_is_invisible() {
    let role = event(r#"{"role":"assistant","content":""}"#, "null");
    let body = whole_body("Hello");
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    check(
        vec![
            ("before the head", Both, Reply::nothing().stall()),
            ("in the head", Both, raw("HTTP/1.1 200 OK\r\ncont").stall()),
            ("behind interim answers", Both, raw("HTTP/1.1 100 Continue\r\n\r\n").stall()),
            ("behind the head of a stream", Stream, status(200).stream_head().stall()),
            ("behind the role", Stream, status(200).stream_head().event(&role).stall()),
            (
                "in the first content",
                Stream,
                status(200).stream_head().write("40\r\ndata: {\"choices\":[{").stall(),
            ),
            ("behind the head", Whole, raw(format!("{head}content-length: {}\r\n\r\n", body.len())).stall()),
            (
                "in the body",
                Whole,
                raw(format!("{head}content-length: {}\r\n\r\n{}", body.len(), &body[..50])).stall(),
            ),
            ("in an error", Both, raw("HTTP/1.1 500 No\r\ncontent-length: 50\r\n\r\n{").stall()),
        ],
        "extra: {timeout: 1}",
    );
}

/// Something always comes, but never content: a limit on silence alone would wait for ever.
#[test]
fn a_provider_that_only_keeps_the_connection_alive_is_left_in_time() {
    let ticking = |data: &str| {
        let mut reply = status(200).stream_head();
        for _ in 0..200 {
            reply = reply.write(format!("{:x}\r\n{data}\r\n", data.len())).wait(&Gate::after(50));
        }
        reply.stall()
    };
    let role = format!("data: {}\n\n", event(r#"{"role":"assistant","content":""}"#, "null"));
    check(
        vec![("comments", Stream, ticking(": keep-alive\n\n")), ("roles", Stream, ticking(&role))],
        "extra: {timeout: 1}",
    );
}

#[test]
fn every_known_error_answer_of_every_provider_is_invisible() {
    let names = golden_names("errors");
    assert!(names.len() > 100, "{names:?}");
    let runs: Vec<(String, bool)> = names.into_iter().flat_map(|n| [(n.clone(), false), (n, true)]).collect();
    let replies: Vec<Reply> = runs.iter().map(|(name, _)| sample_reply(name)).collect();
    let table = Table::new(runs.len(), move |row, _| replies[row].clone());
    every(
        runs.into_iter().enumerate().map(|(row, (name, stream))| (name, (row, stream))),
        |(row, stream)| table.check_rescued(row, stream),
    );
}

/// An error sample as the provider sends it.
fn sample_reply(name: &str) -> Reply {
    let sample: serde_json::Value = serde_json::from_str(&golden(&format!("errors/{name}"))).unwrap();
    let body = sample["body"].as_str().map_or_else(|| sample["body"].to_string(), str::to_owned);
    let mut reply = status(sample["status"].as_u64().unwrap().try_into().unwrap());
    let mut kind = String::new();
    for (field, value) in sample["headers"].as_object().unwrap() {
        let value = value.as_str().unwrap();
        match field.as_str() {
            "content-type" => kind = value.to_owned(),
            "content-length" => {}
            _ => reply = reply.header(field, value),
        }
    }
    reply.body(&kind, body)
}

#[test]
fn an_unreachable_backend_is_invisible() {
    let refused = RefusedPort::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}/v1", silent.local_addr().unwrap());
    let upstream = Upstream::healthy("Hello");
    let tls_url = upstream.base_url().replace("http:", "https:");
    every_at_once(
        [
            ("refused", Backend::from(&refused)),
            ("no such host", Backend::at("http://nonexistent.invalid/v1").line("extra: {timeout: 1}")),
            ("accepted by nobody", Backend::at(silent_url).line("extra: {timeout: 1}")),
            ("plain text asked for TLS", Backend::at(tls_url).line("extra: {timeout: 1}")),
        ],
        |backend| {
            let good = Upstream::healthy("Hello");
            let proxy = Config::new().backend(backend.clone()).backend(&good).start();
            proxy.chat(HELLO).check_answer("Hello")?;
            let proxy = Config::new().backend(backend).backend(&good).start();
            let response = proxy.chat(STREAM_HELLO);
            response.try_events()?.check_complete("Hello")?;
            expect(response.header("x-ai-free-swap-attempts") == Some("2"), || format!("{:?}", response.head))
        },
    );
}

#[test]
fn a_chain_of_failures_ends_at_the_backend_that_works() {
    let bad: Vec<Upstream> =
        [500, 429, 401, 404, 503].map(|s| Upstream::replies([status(s).error("no")])).into();
    let good = Upstream::healthy("Hello");
    let config = bad.iter().fold(Config::new(), |config, upstream| config.backend(upstream));
    let response = config.backend(&good).start().chat(HELLO);
    response.check_answer("Hello").unwrap();
    assert_eq!(response.header("x-ai-free-swap-attempts"), Some("6"));
    assert_eq!(response.header("x-ai-free-swap-backend"), Some("zeta"));
    assert!(bad.iter().all(|upstream| upstream.hits() == 1));
}

#[test]
fn priorities_come_first_and_dice_decide_inside_one() {
    let upstream = Upstream::answering(|r| chat_whole(r.json()["model"].as_str().unwrap()));
    let last = Upstream::healthy("never");
    let config = (0..3).fold(Config::new(), |config, _| config.backend(&upstream)).same_priority();
    let proxy = config.backend(Backend::from(&last).priority(2)).start();
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..60 {
        let answer =
            proxy.chat(HELLO).json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        *seen.entry(answer).or_insert(0) += 1;
    }
    assert_eq!(last.hits(), 0);
    // Each of three misses 60 throws once in 10^10 runs.
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[test]
fn a_model_that_is_configured_is_matched_and_another_one_goes_anywhere() {
    let (a, b) = (Upstream::healthy("from a"), Upstream::healthy("from b"));
    let proxy = Config::new().backend(&a).backend(&b).top("model_routing: match").start();
    let ask = |model: &str| proxy.chat(&HELLO.replace("aifree", model));
    ask("model-beta").check_answer("from b").unwrap();
    ask("model-alpha").check_answer("from a").unwrap();
    ask("unheard-of").check_answer("from a").unwrap();
    ask("aifree").check_answer("from a").unwrap();
    assert_eq!((a.hits(), b.hits()), (3, 1));
}

#[test]
fn if_every_answer_is_empty_the_empty_answer_is_delivered() {
    let empty = whole_body("");
    let upstreams = [(); 2].map(|()| Upstream::replies([status(200).json(&empty)]));
    let proxy = Proxy::with_backends([&upstreams[0], &upstreams[1]]);
    proxy.chat(HELLO).check_answer("").unwrap();
    assert!(upstreams.iter().all(|u| u.hits() == 1));
}

#[test]
fn the_request_is_sent_in_full_to_each_backend() {
    let bad = Upstream::replies([status(500).error("no")]);
    let good = Upstream::healthy("Hello");
    let body = HELLO.replace("hi", &"long ".repeat(100_000));
    Proxy::with_backends([&bad, &good]).chat(&body).check_answer("Hello").unwrap();
    assert_eq!(bad.only_request().text(), body.replace("aifree", "model-alpha"));
    assert_eq!(good.only_request().text(), body.replace("aifree", "model-beta"));
    assert_eq!(good.only_request().header("authorization"), Some("Bearer sk-secret-beta"));
}

#[test]
fn a_redirect_is_not_followed_with_the_key() {
    let thief = Upstream::healthy("stolen");
    let location = format!("{}/chat/completions", thief.base_url());
    let bad = Upstream::replies([status(307).header("location", &location).body("", "")]);
    let good = Upstream::healthy("Hello");
    Proxy::with_backends([&bad, &good]).chat(HELLO).check_answer("Hello").unwrap();
    assert_eq!((thief.hits(), thief.connections()), (0, 0));
}
