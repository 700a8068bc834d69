//! Same dialect on both sides: bytes go through, apart from what the program owns.

use crate::harness::*;

/// Valid JSON that no reader may "improve": spaces, big numbers, escapes, order, unknown fields.
const ODD_REQUEST: &str = r#"{ "zeta":12345678901234567890.000 , "messages":[{"role":"user","content":"\u00e9é\ud83d\ude00\/","name":null}],
 "model" : "aifree","temperature":1E+2,"unknown":{"model":"inner","b":-0.0,"a":[1e400,[],{}]},"stream":false , "seed":0}"#;
const ODD_ANSWER: &str = r#"{ "zeta":12345678901234567890.000,"choices" : [{"message":{"content":"\u00e9é\ud83d\ude00\/","role":"assistant"},"finish_reason":"stop","index":0}],"model":"as told","id":"","a":[1e400,{"provider_name":"inner"}] }"#;

#[test]
fn a_request_goes_out_as_it_came_but_for_the_model() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    assert_eq!(proxy.chat(ODD_REQUEST).status(), 200);
    let sent = upstream.only_request();
    assert_eq!(sent.text(), ODD_REQUEST.replace("\"aifree\"", "\"model-alpha\""));
    assert_eq!((sent.method.as_str(), sent.target.as_str()), ("POST", "/v1/chat/completions"));
}

#[test]
fn every_sample_request_goes_out_as_it_came_but_for_the_model() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let samples =
        golden_names("chat").into_iter().filter(|n| n.starts_with("request_")).map(|n| (n.clone(), n));
    every(samples, |name| {
        let body = golden(&format!("chat/{name}"));
        let response = proxy.chat(&body);
        expect(response.status() == 200, || response.text())?;
        let sent = upstream.requests().pop().unwrap().text();
        let expected = body.replace("\"aifree\"", "\"model-alpha\"");
        // A stream that does not ask for usage is asked for it: tested on its own.
        let same = sent == expected || (name.contains("stream") && !expected.contains("include_usage"));
        expect(same, || format!("expected {expected}\ngot {sent}"))
    });
}

#[test]
fn a_whole_answer_comes_back_as_it_was() {
    let upstream = Upstream::replies([status(200).json(ODD_ANSWER)]);
    let named = Proxy::with_backends([&upstream]).chat(HELLO);
    assert_eq!(named.text(), ODD_ANSWER.replacen('{', r#"{"provider_name":"alpha","#, 1));
    assert_eq!(named.header("x-ai-free-swap-backend"), Some("alpha"));
    assert_eq!(named.header("x-ai-free-swap-attempts"), Some("1"));
    let plain = Config::new().backend(&upstream).top("show_provider: false").start().chat(HELLO);
    assert_eq!(plain.text(), ODD_ANSWER);
    for response in [&named, &plain] {
        assert_eq!(response.status(), 200);
        assert!(response.header("content-type").unwrap().starts_with("application/json"));
    }
    let ours: Vec<_> = plain.head.headers.iter().filter(|(n, _)| n.starts_with("x-ai-free-swap")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[test]
fn the_provider_is_named_by_its_name_or_else_its_kind() {
    let upstream = Upstream::healthy("Hello");
    let yaml = format!(
        "providers: [{{priority: 1, backends: [{{provider: openai_compat, api_key: k, model: m, base_url: '{}'}}]}}]",
        upstream.base_url()
    );
    let response = Proxy::start(&yaml).chat(HELLO);
    assert_eq!(response.json()["provider_name"], "openai_compat");
    assert_eq!(response.header("x-ai-free-swap-backend"), Some("openai_compat"));
}

#[test]
fn every_sample_answer_comes_back_as_it_was() {
    let names: Vec<String> = golden_names("chat")
        .into_iter()
        .filter(|n| n.starts_with("response_") && !n.contains("error") && !n.contains("content_filter"))
        .collect();
    let samples = names.clone();
    let config = Config::new().top("show_provider: false");
    let table = Table::with(config, "", names.len(), move |row, _| {
        status(200).json(golden(&format!("chat/{}", samples[row])))
    });
    every(names.iter().enumerate().map(|(row, n)| (n.clone(), (row, n))), |(row, name)| {
        let response = table.ask(row, false)?;
        let expected = golden(&format!("chat/{name}"));
        expect(response.text() == expected, || format!("expected {expected}\ngot {}", response.text()))
    });
}

/// Samples that are complete answers.
fn good_streams() -> Vec<String> {
    let not_whole = ["_error_", "_cut", "_empty.", "_no_done", "_no_finish"];
    golden_names("chat")
        .into_iter()
        .filter(|n| n.ends_with(".sse") && not_whole.iter().all(|part| !n.contains(part)))
        .collect()
}

/// What a client sees that has not asked for usage. A chunk without choices may also carry something else.
fn without_usage_chunk(body: &str) -> String {
    let hidden = |e: &&str| e.contains("\"choices\":[]") && e.contains("\"usage\":{");
    body.split_inclusive("\n\n").filter(|e| !hidden(e)).collect()
}

/// Comments keep a connection alive; whether they go further is the proxy's own business.
fn without_comments(body: &str) -> String {
    body.split_inclusive("\n\n").filter(|e| !e.starts_with(':')).collect()
}

fn name_every_chunk(body: &str, name: &str) -> String {
    body.replace("data: {", &format!("data: {{\"provider_name\":\"{name}\","))
}

#[test]
fn every_sample_stream_comes_back_as_it_was() {
    for named in [false, true] {
        let names = good_streams();
        let samples = names.clone();
        let config = Config::new().top(&format!("show_provider: {named}"));
        let table = Table::with(config, "", names.len(), move |row, _| {
            sse(&golden(&format!("chat/{}", samples[row])))
        });
        every(names.iter().enumerate().map(|(row, n)| (n.clone(), (row, n))), |(row, name)| {
            let response = table.ask(row, true)?;
            response.try_events()?;
            let mut expected = without_usage_chunk(&golden(&format!("chat/{name}")));
            if named {
                expected = name_every_chunk(&expected, &format!("first-{row}"));
            }
            let (expected, got) = (without_comments(&expected), without_comments(&response.text()));
            expect(got == expected, || format!("expected {expected}\ngot {got}"))
        });
    }
}

/// The TypeScript SDK raises where there is no finish_reason, the Python one takes anything for an end.
#[test]
fn a_stream_without_finish_or_end_mark_is_given_one() {
    let names = ["stream_no_done.sse", "stream_no_finish_reason.sse"];
    let table = Table::new(names.len(), move |row, _| sse(&golden(&format!("chat/{}", names[row]))));
    every(names.iter().enumerate().map(|(row, name)| (*name, row)), |row| {
        table.ask(row, true)?.try_events()?.check_complete("Hello!")
    });
}

#[test]
fn a_stream_reads_the_same_however_it_is_cut_and_framed() {
    let body = sse_body(&["Hel", "é😀", "lo"]);
    let kind = "text/event-stream; charset=utf-8";
    let wholes = [
        ("one chunk", status(200).chunked(kind, [body.as_bytes()])),
        ("a chunk per byte", status(200).chunked(kind, body.as_bytes().chunks(1))),
        ("seven bytes a chunk", status(200).chunked(kind, body.as_bytes().chunks(7))),
        ("with a length", status(200).body(kind, &body)),
        ("until close", status(200).until_close(kind, &body)),
        ("byte by byte", sse(&body).drip()),
        ("no content type", status(200).body("", &body)),
        (
            "chunk extensions and a trailer",
            raw(format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nTransfer-Encoding: Chunked\r\n\r\n{:X};a=b\r\n{body}\r\n0\r\nx: y\r\n\r\n",
                body.len()
            )),
        ),
        ("HTTP/1.0", raw(format!("HTTP/1.0 200 OK\r\ncontent-type: {kind}\r\n\r\n{body}")).close()),
        (
            "interim answers first",
            raw(format!(
                "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )),
        ),
    ];
    let names: Vec<_> = wholes.iter().enumerate().map(|(row, (name, _))| (*name, row)).collect();
    let config = Config::new().top("show_provider: false");
    let table = Table::with(config, "", wholes.len(), move |row, _| wholes[row].1.clone());
    every(names, |row| {
        let response = table.ask(row, true)?;
        expect(response.status() == 200 && response.text() == body, || response.text())
    });
}

#[test]
fn odd_but_legal_event_streams_are_understood() {
    let good = sse_body(&["Hel", "lo"]);
    let rows: Vec<(&str, String)> = vec![
        ("CRLF", good.replace('\n', "\r\n")),
        ("no space behind the colon", good.replace("data: ", "data:")),
        ("a BOM", format!("\u{feff}{good}")),
        ("comments and pings between", good.replace("\n\n", "\n\n: keep-alive\n\n")),
        ("ids and retries", good.replace("data: ", "id: 1\nretry: 5\ndata: ")),
        ("blank lines first", format!("\n\n{good}")),
        ("no blank line behind the end mark", good.trim_end().to_owned()),
        ("something behind the end mark", format!("{good}data: {{\"late\":1}}\n\n")),
        ("two end marks", format!("{good}data: [DONE]\n\n")),
        ("no end mark", good.replace("data: [DONE]\n\n", "")),
    ];
    let bodies: Vec<String> = rows.iter().map(|(_, body)| body.clone()).collect();
    let table = Table::new(rows.len(), move |row, _| sse(&bodies[row]));
    every(rows.iter().enumerate().map(|(row, (name, _))| (*name, row)), |row| {
        let response = table.ask(row, true)?;
        expect(response.header("x-ai-free-swap-attempts") == Some("1"), || "fell over".into())?;
        // Byte for byte, so even what follows an end mark may follow here: SDKs stop there.
        let mut events = response.try_events()?;
        if let Some(end) = events.0.iter().position(|e| e.data().is_some_and(|d| d.trim() == "[DONE]")) {
            events.0.truncate(end + 1);
        }
        events.check_complete("Hello")
    });
}

#[test]
fn usage_is_always_asked_for_and_shown_only_to_who_asked() {
    let sample = golden("chat/stream_text_usage.sse");
    let without = without_usage_chunk(&sample);
    assert_ne!(sample, without);
    let base = r#"{"model":"aifree","messages":[],"stream":true}"#;
    let asking = |options: &str| base.replace('}', &format!(r#","stream_options":{options}}}"#));
    every(
        [
            ("absent", (base.to_owned(), false)),
            ("null", (asking("null"), false)),
            ("empty", (asking("{}"), false)),
            ("another option", (asking(r#"{"include_obfuscation":false}"#), false)),
            ("false", (asking(r#"{"include_usage":false}"#), false)),
            ("true", (asking(r#"{"include_usage":true}"#), true)),
        ],
        |(body, shown)| {
            let upstream = Upstream::replies([sse(&sample)]);
            let proxy = Config::new().backend(&upstream).top("show_provider: false").start();
            let response = proxy.chat(&body);
            let expected = if shown { &sample } else { &without };
            expect(&response.text() == expected, || format!("expected {expected}\ngot {}", response.text()))?;
            let sent = upstream.only_request();
            let mut json = sent.json();
            if !body.contains("false") {
                let asked = &json["stream_options"]["include_usage"];
                expect(asked == true, || format!("sent {}", sent.text()))?;
            }
            let mut original: serde_json::Value = serde_json::from_str(&body).unwrap();
            original["model"] = "model-alpha".into();
            let keeps = original["stream_options"]["include_obfuscation"]
                == json["stream_options"]["include_obfuscation"];
            expect(keeps, || format!("an option was lost: {}", sent.text()))?;
            for value in [&mut json, &mut original] {
                value.as_object_mut().unwrap().remove("stream_options");
            }
            expect(json == original, || format!("something else was changed: {}", sent.text()))
        },
    );
}

#[test]
fn usage_asked_for_by_the_client_leaves_the_request_as_it_was() {
    let upstream = Upstream::healthy("Hello");
    let body =
        r#"{"stream_options":{ "include_usage" : true },"stream":true,"model":"aifree","messages":[]}"#;
    Proxy::with_backends([&upstream]).chat(body);
    assert_eq!(upstream.only_request().text(), body.replace("aifree", "model-alpha"));
}

#[test]
fn a_whole_request_is_not_asked_for_stream_options() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    proxy.chat(HELLO);
    proxy.chat(r#"{"model":"aifree","stream":null,"messages":[]}"#);
    for request in upstream.requests() {
        assert!(!request.text().contains("stream_options"), "{}", request.text());
    }
}

#[test]
fn chunks_are_not_held_back() {
    let (first, second) = (Gate::new(), Gate::new());
    let say = |text: &str| event(&format!(r#"{{"content":"{text}"}}"#), "null");
    let upstream = Upstream::replies([status(200)
        .stream_head()
        .event(&event(r#"{"role":"assistant","content":""}"#, "null"))
        .event(&say("Hel"))
        .wait(&first)
        .event(&say("lo"))
        .wait(&second)
        .event(&event("{}", r#""stop""#))
        .event("[DONE]")
        .end_chunks()]);
    let proxy = Proxy::with_backends([&upstream]);
    let mut stream = proxy.stream(STREAM_HELLO);
    assert_eq!(stream.head.get("content-type").unwrap().split(';').next(), Some("text/event-stream"));
    assert_eq!(stream.next_event().unwrap().content().as_deref(), Some(""));
    assert_eq!(stream.next_event().unwrap().content().as_deref(), Some("Hel"));
    first.open();
    assert_eq!(stream.next_event().unwrap().content().as_deref(), Some("lo"));
    second.open();
    stream.rest().check_complete("").unwrap();
}

#[test]
fn a_big_answer_and_a_big_event_come_through() {
    let text = "0123456789abcdef".repeat(40_000);
    let upstream = Upstream::healthy(&text);
    let proxy = Proxy::with_backends([&upstream]);
    proxy.chat(HELLO).check_answer(&text).unwrap();
    proxy.chat(STREAM_HELLO).events().check_complete(&text).unwrap();
}

#[test]
fn a_big_request_comes_through() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let body = HELLO.replace("hi", &"0123456789abcdef".repeat(200_000));
    proxy.chat(&body).check_answer("Hello").unwrap();
    assert!(
        upstream.only_request().text() == body.replace("aifree", "model-alpha"),
        "3.2 MB changed on the way"
    );
}

#[test]
fn a_request_changed_in_many_places_comes_through() {
    let upstream = Upstream::healthy("Hello");
    let backend = Backend::from(&upstream).line("quirks: {developer_role: false}");
    let proxy = Config::new().backend(backend).start();
    // More pieces than a system call takes, in more bytes than a socket buffers.
    let turn = format!(r#"{{"role":"developer","content":"{}"}}"#, "x".repeat(1000));
    let body = format!(r#"{{"model":"aifree","messages":[{}]}}"#, vec![turn; 10_000].join(","));
    proxy.chat(&body).check_answer("Hello").unwrap();
    let expected = body.replace("aifree", "model-alpha").replace("developer", "system");
    assert!(upstream.only_request().text() == expected, "10 MB changed on the way");
}

#[test]
fn a_whole_answer_to_a_stream_request_becomes_a_stream() {
    let upstream = Upstream::replies([chat_whole("Hello")]);
    let good = Upstream::healthy("Hello");
    // Either is right for a client: the first answer turned into a stream, or the next backend's own stream.
    Proxy::with_backends([&upstream, &good]).chat(STREAM_HELLO).events().check_complete("Hello").unwrap();
}

#[test]
fn only_what_the_provider_needs_is_sent_to_it() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let private = "Authorization: Bearer client-key\r\nX-Api-Key: client-key\r\nCookie: a=b\r\nX-Stainless-Lang: python\r\n\
        Accept-Encoding: gzip, deflate\r\nOrigin: http://client\r\nReferer: http://client\r\nX-Forwarded-For: 10.1.2.3\r\n\
        Forwarded: for=10.1.2.3\r\nVia: 1.1 client\r\nOpenAI-Organization: client-org\r\nTraceparent: client\r\n\
        Accept-Language: client\r\nX-Session-Id: client\r\nUser-Agent: client-agent\r\nProxy-Authorization: client-key\r\n\
        TE: trailers\r\nKeep-Alive: 7\r\nConnection: keep-alive, x-private\r\nX-Private: client\r\n\r\n";
    let request =
        String::from_utf8(post("/v1/chat/completions", HELLO)).unwrap().replacen("\r\n\r\n", "\r\n", 1);
    let (head, _) = request.split_once(HELLO).unwrap();
    let response = proxy.connect().send(format!("{head}{private}{HELLO}")).response();
    assert_eq!(response.status(), 200);
    let sent = upstream.only_request();
    let host = upstream.addr().to_string();
    assert_eq!(sent.header("authorization"), Some("Bearer sk-secret-alpha"));
    assert_eq!(sent.header("host"), Some(host.as_str()));
    assert!(sent.header("content-type").unwrap().starts_with("application/json"));
    assert!(
        sent.header("user-agent").is_some_and(|a| !a.is_empty()),
        "some hosts refuse requests without one"
    );
    assert!(matches!(sent.header("accept-encoding"), None | Some("identity")), "{:?}", sent.headers);
    let dump = format!("{:?}", sent.headers).to_lowercase();
    for word in ["client", "10.1.2.3", "stainless", "cookie", "trailers", "gzip", "x-api-key"] {
        assert!(!dump.contains(word), "{word} went upstream: {dump}");
    }
}

#[test]
fn every_spelling_of_the_path_works() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let paths = [
        "/v1/chat/completions",
        "/chat/completions",
        "/v1/chat/completions/",
        "/chat/completions/",
        "/v1/chat/completions?api-version=1",
        "http://any.example/v1/chat/completions",
    ];
    every(paths.map(|p| (p, p)), |path| proxy.post(path, HELLO).check_answer("Hello"));
    for request in upstream.requests() {
        assert_eq!(request.target, "/v1/chat/completions");
    }
}

#[test]
fn base_urls_are_joined_without_doubling() {
    let upstream = Upstream::healthy("Hello");
    let root = upstream.base_url().replace("/v1", "");
    every(
        [("/v1", "/v1"), ("/v1/", "/v1"), ("/a/b", "/a/b"), ("/v1beta/openai/", "/v1beta/openai")]
            .map(|(path, expected)| (path, (path, expected))),
        |(path, expected)| {
            let proxy = Config::new().backend(Backend::at(format!("{root}{path}"))).start();
            proxy.chat(HELLO).check_answer("Hello")?;
            let target = upstream.requests().pop().unwrap().target;
            expect(target == format!("{expected}/chat/completions"), || target.clone())
        },
    );
}

#[test]
fn a_host_name_is_resolved_and_kept() {
    let upstream = Upstream::healthy("Hello");
    let url = upstream.base_url().replace("127.0.0.1", "localhost");
    let proxy = Config::new().backend(Backend::at(url)).start();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    let host = format!("localhost:{}", upstream.addr().port());
    assert_eq!(upstream.only_request().header("host"), Some(host.as_str()));
}

#[test]
fn a_backend_that_cannot_be_told_is_passed_over_for_one_that_takes_it_as_it_is() {
    let (other, same) = (Upstream::healthy("not asked"), Upstream::healthy("Hello"));
    let body = r#"{"model":"aifree","messages":[{"role":"critic","content":"hi"}]}"#;
    let config = || Config::new().backend(Backend::from(&other).provider("anthropic"));
    let alone = config().start().chat(body);
    assert_eq!(alone.status(), 400);
    assert!(alone.text().contains("messages[0].role"), "{}", alone.text());
    let both = config().backend(&same).start().chat(body);
    assert_eq!((both.status(), both.header("x-ai-free-swap-backend")), (200, Some("beta")));
    assert!(other.requests().is_empty());
    assert!(same.only_request().text().contains("critic"));
}

#[test]
fn what_a_preset_is_known_to_refuse_is_changed_and_nothing_else() {
    let body = r#"{ "model":"aifree" , "messages":[ {"role":"developer", "content":"\u00e9"},{"role":"user","content":"x"}], "max_completion_tokens":5,"store":true ,"seed":1,"temperature":1.70, "unknown":-0.0}"#;
    let model = body.replace("aifree", "model-alpha");
    every(
        [
            ("unknown", ("openai_compat", "", model.clone())),
            ("openrouter", ("openrouter", "", model.clone())),
            (
                "mistral",
                (
                    "mistral",
                    "",
                    model
                        .replace("developer", "system")
                        .replace("max_completion_tokens", "max_tokens")
                        .replace(",\"store\":true", "")
                        .replace("seed", "random_seed")
                        .replace("1.70", "1.5"),
                ),
            ),
            ("groq", ("groq", "", model.clone())),
            (
                "as the config says",
                (
                    "openai_compat",
                    "quirks: {developer_role: false, drop_params: [store, unknown]}",
                    model
                        .replace("developer", "system")
                        .replace(",\"store\":true", "")
                        .replace(", \"unknown\":-0.0", ""),
                ),
            ),
        ]
        .map(|(name, row)| (name.to_owned(), row)),
        |(provider, quirks, expected)| {
            let upstream = Upstream::healthy("Hello");
            let mut backend = Backend::from(&upstream).provider(provider);
            if !quirks.is_empty() {
                backend = backend.line(quirks);
            }
            let proxy = Config::new().backend(backend).start();
            expect(proxy.chat(body).status() == 200, || "no answer".into())?;
            let sent = upstream.only_request().text();
            expect(sent == expected, || format!("expected {expected}\ngot {sent}"))
        },
    );
}
