//! Limits of the server, each at its value and one past it. Those of time that would take half a minute are tested
//! beside their code, with a clock of their own.

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::harness::*;

const HEAD_BYTES: usize = 16 * 1024;
const HEAD_FIELDS: usize = 100;
const CHUNK_LINE_BYTES: usize = 256;
const TRAILER_BYTES: usize = 8 * 1024;
const EMPTY_LINES: usize = 4;
const DISCARD_BYTES: usize = 64 * 1024;

fn chunked(text: &str) -> Vec<u8> {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n{text}"
    )
    .into_bytes()
}

/// A chat request in one chunk with this much behind its size, and this trailer section.
fn one_chunk(extension: &str, trailer: &str) -> Vec<u8> {
    chunked(&format!("{:x}{extension}\r\n{HELLO}\r\n0\r\n{trailer}\r\n", HELLO.len()))
}

#[test]
fn one_past_each_limit_is_refused_and_the_limit_itself_is_not() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let head = |bytes: usize| {
        let empty = get("/health", "x: \r\n").len();
        get("/health", &format!("x: {}\r\n", "y".repeat(bytes - empty)))
    };
    // One field is the host.
    let fields = |count: usize| get("/health", &"x: y\r\n".repeat(count - 1));
    let size = format!("{:x}", HELLO.len()).len();
    let line = |bytes: usize| one_chunk(&format!(";{}", "x".repeat(bytes - size - 1)), "");
    let trailer = |bytes: usize| one_chunk("", &format!("x:{}\r\n", "y".repeat(bytes - 2)));
    let empty_lines = |count: usize| [b"\r\n".repeat(count), get("/health", "")].concat();
    every(
        [
            ("bytes of a head", head(HEAD_BYTES), head(HEAD_BYTES + 1), 431),
            ("fields of a head", fields(HEAD_FIELDS), fields(HEAD_FIELDS + 1), 431),
            ("a chunk-size line", line(CHUNK_LINE_BYTES), line(CHUNK_LINE_BYTES + 1), 400),
            ("a trailer section", trailer(TRAILER_BYTES), trailer(TRAILER_BYTES + 1), 400),
            ("empty lines", empty_lines(EMPTY_LINES), empty_lines(EMPTY_LINES + 1), 400),
        ]
        .map(|(name, fits, one_more, status)| (name, (fits, one_more, status))),
        |(fits, one_more, status)| {
            let response = proxy.connect().send(fits).try_response(Asked::USUAL)?;
            expect(response.status() == 200, || format!("at the limit: {}", response.text()))?;
            let response = proxy.connect().send(one_more).try_response(Asked::USUAL)?;
            expect(response.status() == status, || {
                format!("one past it: {} {}", response.status(), response.text())
            })?;
            expect(response.head.closes(), || "stays open".into())
        },
    );
}

#[test]
fn a_line_behind_the_last_chunk_that_is_no_field_is_refused() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    for line in ["GET /v1/models HTTP/1.1\r\n", " x: y\r\n", "x\r\n", ": y\r\n"] {
        let response = proxy.connect().send(one_chunk("", line)).response();
        assert_eq!(response.status(), 400, "{line:?}");
    }
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn a_body_that_nobody_needs_costs_no_memory() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let with_body = |announced: usize, sent: usize| {
        let mut bytes = get("/health", &format!("Content-Length: {announced}\r\n"));
        bytes.resize(bytes.len() + sent, b'x');
        bytes
    };
    // A small one is dropped and the connection stays.
    let mut connection = proxy.connect();
    connection.send(with_body(DISCARD_BYTES, DISCARD_BYTES));
    assert_eq!(connection.response().status(), 200);
    assert_eq!(connection.send(get("/health", "")).response().status(), 200);
    // A larger one is not waited for.
    let response = proxy.connect().send(with_body(DISCARD_BYTES + 1, 10)).response();
    assert_eq!((response.status(), response.head.closes()), (200, true));
}

/// Waits for a real limit of the server: ten seconds.
#[test]
fn a_request_that_gets_no_memory_is_told_503_and_the_next_one_is_served() {
    let upstream = Upstream::healthy("Hello");
    let limits = Config::new().backend(&upstream).server("max_body: 100000").server("body_memory: 100000");
    let proxy = limits.start();
    let body = HELLO.replace("hi", &"x".repeat(60_000));
    let whole = post("/v1/chat/completions", &body);
    let mut first = proxy.connect();
    first.send(&whole[..50_000]);
    // Nothing tells when the first has its share; until then another one fits.
    let refused = (0..100).map(|_| proxy.chat(&body)).find(|response| response.status() != 200).unwrap();
    assert_eq!((refused.status(), refused.header("retry-after")), (503, Some("5")), "{}", refused.text());
    first.send(&whole[50_000..]).response().check_answer("Hello").unwrap();
    proxy.chat(&body).check_answer("Hello").unwrap();
}

#[test]
fn an_expectation_of_http_1_0_has_no_meaning() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    for word in ["100-continue", "anything"] {
        let length = HELLO.len();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.0\r\nExpect: {word}\r\nContent-Length: {length}\r\n\r\n{HELLO}"
        );
        proxy.connect().send(request).response_to(Asked::HTTP10).check_answer("Hello").unwrap();
    }
}

#[test]
fn a_model_of_any_length_is_one_short_line_in_the_log() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    let model = "m\\n\\u001b[31m".repeat(100_000);
    proxy.chat(&HELLO.replace("aifree", &model)).check_answer("Hello").unwrap();
    let log = proxy.whole_log();
    let line = log.lines().find(|line| line.contains("status=200")).unwrap();
    assert!(line.len() < 2000 && !line.contains('\u{1b}'), "{} bytes", line.len());
}

/// Kept connections to eight other providers take all descriptors; the ninth must not pay for it.
#[test]
fn idle_connections_to_providers_give_way_when_descriptors_run_out() {
    let silent: Vec<Upstream> = (0..8).map(|_| Upstream::answering(|_| chat_whole(""))).collect();
    let last = Upstream::healthy("Hello");
    let config = silent.iter().fold(Config::new(), |config, upstream| config.backend(upstream));
    let proxy = config.backend(&last).start();
    let mut connection = proxy.connect();
    connection.send(get("/health", "")).response();
    let open = std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().count() as u64;
    let limit = Rlimit { current: Some(open + 4), maximum: Some(open + 4) };
    prlimit(Pid::from_raw(i32::try_from(proxy.pid()).unwrap()), Resource::Nofile, limit).unwrap();
    connection.send(post("/v1/chat/completions", HELLO)).response().check_answer("Hello").unwrap();
    assert!(silent.iter().all(|upstream| upstream.hits() == 1));
}
