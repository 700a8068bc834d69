//! What providers quote in their errors, and how little of it gets out.

use crate::harness::*;

const KEYS: [&str; 5] = [
    // Z.ai's have a point in the middle.
    "0123456789abcdef0123456789abcdef.AbCdEfGh12345678",
    "AAAA1111bbbb2222cccc3333/xyzxyzxyz",
    "ab/cd+EFgh12==",
    "hunter2pass",
    "sk-secret-q",
];

/// No half of the key may be in the text.
fn check_clean(key: &str, text: &str, place: &str) -> Result<(), String> {
    let mut halves = key.split(['.', '/', '+']).filter(|half| half.len() > 4);
    match halves.find(|half| text.contains(half)) {
        Some(half) => Err(format!("{half} of {key} in the {place}: {text}")),
        None => Ok(()),
    }
}

fn error(message: &str) -> String {
    serde_json::json!({"error": {"message": message, "type": "t", "param": null, "code": null}}).to_string()
}

#[test]
fn a_quoted_key_reaches_neither_client_nor_log() {
    type Body = fn(&str) -> String;
    let bodies: [(&str, Body); 6] = [
        ("plain", |key| error(&format!("bad key {key}"))),
        ("where the message is cut", |key| error(&format!("{}{key}", "y ".repeat(145)))),
        ("escaped slashes", |key| error(&format!("bad key {key}")).replace('/', "\\/")),
        ("escaped letters", |key| {
            let escaped: String = key.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
            error("bad key K").replace('K', &escaped)
        }),
        ("param and code", |key| {
            serde_json::json!({"error": {"message": "bad", "param": key, "code": format!("x{key}")}})
                .to_string()
        }),
        ("text", |key| format!("bad key {key}")),
    ];
    let header = |key: &str| format!("headers: {{X-Auth-Token: \"Token {key}\"}}");
    let rows = KEYS.iter().flat_map(|key| bodies.iter().map(move |(name, body)| (key, name, body(key))));
    let rows = rows.flat_map(|(key, name, body)| {
        [400, 401, 500, 200].map(|code| (format!("{key}, {name}, {code}"), (*key, body.clone(), code)))
    });
    // A program per key would do, were it not for the benches.
    every_at_once(rows, |(key, body, code)| {
        let upstream = Upstream::answering(move |_| status(code).json(&body));
        let mut yaml = Config::new().backend(&upstream).yaml();
        yaml = yaml.replace("sk-secret-alpha", &format!("\"{key}\""));
        let (by_key, by_header) = (yaml.clone(), yaml.replace(&format!("\"{key}\""), "other"));
        for yaml in [by_key, format!("{by_header}        {}\n", header(key))] {
            let proxy = Proxy::start(&yaml);
            let response = proxy.chat(HELLO);
            expect(response.status() >= 400, || response.text())?;
            check_clean(key, &format!("{:?} {}", response.head, response.text()), "answer")?;
            check_clean(key, &proxy.whole_log(), "log")?;
        }
        Ok(())
    });
}

#[test]
fn a_key_quoted_inside_a_stream_reaches_neither_client_nor_log() {
    every_at_once(KEYS.map(|key| (key, key)), |key| {
        let error = error(&format!("bad key {key}"));
        let reply = status(200).stream_head().event(&event(r#"{"content":"Hel"}"#, "null")).event(&error);
        let upstream = Upstream::replies([reply.end_chunks()]);
        let yaml = Config::new().backend(&upstream).yaml().replace("sk-secret-alpha", &format!("\"{key}\""));
        let proxy = Proxy::start(&yaml);
        let response = proxy.chat(STREAM_HELLO);
        response.try_events()?.check_broken()?;
        check_clean(key, &response.text(), "answer")?;
        check_clean(key, &proxy.whole_log(), "log")
    });
}

#[test]
fn hosts_stay_inside_and_providers_too_if_they_are_not_shown() {
    let message = |r: &Request| format!("Quota of alpha at {} is used up", r.header("host").unwrap());
    let whole = Upstream::answering(move |r| status(500).error(&message(r)));
    let stream = Upstream::answering(move |r| {
        let error = error(&message(r));
        status(200).stream_head().event(&event(r#"{"content":"Hel"}"#, "null")).event(&error).end_chunks()
    });
    for (upstream, shown) in [(&whole, true), (&whole, false), (&stream, true), (&stream, false)] {
        let config = Config::new().backend(upstream).top(&format!("show_provider: {shown}"));
        let text = config.start().chat(STREAM_HELLO).text();
        assert!(!text.contains("127.0.0.1"), "{text}");
        assert_eq!(text.contains("Quota of alpha"), shown, "{text}");
    }
}

#[test]
fn the_clients_error_is_of_one_piece() {
    let refusing = |name: &str, code: u16| {
        let body = format!(r#"{{"error":{{"message":"{name} says","param":"{name}","code":"{name}"}}}}"#);
        Upstream::replies([status(code).json(body)])
    };
    let (first, second) = (refusing("first", 400), refusing("second", 422));
    let response = Proxy::with_backends([&first, &second]).chat(HELLO);
    assert_eq!(response.status(), 400);
    assert_eq!(
        response.text(),
        r#"{"error":{"message":"first says","type":"invalid_request_error","param":"first","code":"first"}}"#
    );
}
