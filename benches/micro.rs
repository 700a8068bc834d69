//! What the pure parts cost: one line for each, median of the rounds. `cargo bench --bench micro [-- FILTER]`.
//!
//! No allocation counts: a counting allocator needs `unsafe`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark may end itself")]

use ai_free_swap::dialect::answer::think::ThinkTags;
use ai_free_swap::dialect::answer::{
    ChatReader, ChatWriter, Echo, MessagesReader, MessagesWriter, Names, Reader, ResponsesWriter, Writer,
};
use ai_free_swap::dialect::ask::{Ask, Dialect};
use ai_free_swap::dialect::chat::{ChatRequest, judge_whole};
use ai_free_swap::dialect::chat_stream::{ChatStream, Step, whole_with_fields};
use ai_free_swap::dialect::model::ClientTools;
use ai_free_swap::dialect::splice::pieces;
use ai_free_swap::http::body::{BodyLength, BodyReader, CHUNK_END, push_chunk_size};
use ai_free_swap::http::head::HeadScan;
use ai_free_swap::http::sse::{SseParser, push_event};
use ai_free_swap::provider::Limits;
use ai_free_swap::provider::quirks::Quirks;
use ai_free_swap::provider::ratelimit::{Span, Told, Unit, told};
use ai_free_swap::route::Now;
use ai_free_swap::route::fit::Demand;
use ai_free_swap::route::ledger::{Ledger, Member, Scopes, Spent};
use ai_free_swap::route::plan::{self, Candidate, Walk};
use ai_free_swap::route::verdict::judge_answer;
use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime};

const ROUNDS: usize = 21;
/// One round repeats the work until it has taken about this long.
const ROUND_TIME: Duration = Duration::from_millis(20);

struct Bench {
    filter: Option<String>,
}

impl Bench {
    /// Measures `work`, which takes `bytes` bytes of input (0: not a matter of bytes) and consists of `units` pieces.
    fn run<T>(&self, name: &str, bytes: usize, units: usize, mut work: impl FnMut() -> T) {
        if self.filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            return;
        }
        let mut time = |times: u32| {
            let start = Instant::now();
            for _ in 0..times {
                black_box(work());
            }
            start.elapsed()
        };
        // Doubling until a round is long enough warms up, too.
        let mut times = 1;
        while time(times) < ROUND_TIME {
            times *= 2;
        }
        let mut rounds: Vec<f64> =
            (0..ROUNDS).map(|_| time(times).as_secs_f64() * 1e9 / f64::from(times)).collect();
        rounds.sort_by(f64::total_cmp);
        let (median, least) = (rounds[ROUNDS / 2], rounds[0]);
        let each = if units > 1 { format!("{:10.0} ns each", median / units as f64) } else { String::new() };
        let rate = match bytes {
            0 => String::new(),
            bytes => format!("{:9.1} MB/s", bytes as f64 * 1000.0 / median),
        };
        println!("{name:<44}{median:>12.0} ns (least {least:.0}) {rate:<16}{each}");
    }
}

const REQUEST_HEAD: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\
    Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nAccept: application/json\r\n\
    Content-Type: application/json\r\nUser-Agent: OpenAI/Python 2.8.1\r\nX-Stainless-Lang: python\r\n\
    X-Stainless-Package-Version: 2.8.1\r\nX-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\n\
    X-Stainless-Runtime: CPython\r\nX-Stainless-Runtime-Version: 3.12.3\r\n\
    Authorization: Bearer sk-0123456789abcdef0123456789abcdef\r\nX-Stainless-Async: false\r\n\
    x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\nContent-Length: 2048\r\n\r\n";

const RESPONSE_HEAD: &str = "HTTP/1.1 200 OK\r\nDate: Wed, 25 Nov 2026 10:00:00 GMT\r\n\
    Content-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\
    Cache-Control: no-cache\r\nvary: Origin\r\nx-ratelimit-limit-requests: 1000\r\nx-ratelimit-limit-tokens: 8000\r\n\
    x-ratelimit-remaining-requests: 999\r\nx-ratelimit-remaining-tokens: 7900\r\nx-ratelimit-reset-requests: 1m26.4s\r\n\
    x-ratelimit-reset-tokens: 750ms\r\nx-request-id: req_01jdefghijklmnopqrstuvwxyz\r\nvia: 1.1 google\r\n\
    alt-svc: h3=\":443\"; ma=86400\r\nCF-Cache-Status: DYNAMIC\r\nServer: cloudflare\r\nCF-RAY: 9a0123456789abcd-FRA\r\n\
    Set-Cookie: __cf_bm=abcdefghijklmnopqrstuvwxyz0123456789-1795400000-1.0.1.1-abcdefghijklmnop; path=/; HttpOnly\r\n\r\n";

/// A chat body of about `size` bytes: turns of code-like text, whose quotes and line ends are escaped.
fn body(size: usize) -> String {
    let line = r#"    if let Some(x) = y.get(\"key\") {\n        println!(\"{x} – {}\", z + 1);\n    }\n"#;
    let mut turns = String::new();
    while turns.len() + 200 < size {
        let content = line.repeat((size / 20).clamp(200, 4000) / line.len());
        turns.push_str(&format!(",{{\"role\":\"user\",\"content\":\"{content}\"}}"));
    }
    format!(
        r#"{{"messages":[{{"role":"system","content":"Be brief."}}{turns}],"model":"aifree","temperature":0.2,"stream":true}}"#
    )
}

fn chunk(n: usize, model: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-01jdefghijklmnopqrstuv","object":"chat.completion.chunk","created":1795400000,"model":"{model}","system_fingerprint":"fp_0123456789","choices":[{{"index":0,"delta":{{"content":" word{n}"}},"logprobs":null,"finish_reason":null}}]}}"#
    )
}

/// A provider's stream of `chunks` chunks, as it comes: a few events in each read.
fn stream(chunks: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for n in 0..chunks {
        push_event(&mut wire, "", &chunk(n, "openai/gpt-oss-120b"));
    }
    push_event(&mut wire, "", "[DONE]");
    wire
}

fn relay(wire: &[u8], read: usize) -> usize {
    let mut parser = SseParser::default();
    let mut chat = ChatStream::new(Some("\"groq-large\""), "\"openai/gpt-oss-120b\"", false);
    let (mut out, mut sent) = (Vec::new(), 0);
    for piece in wire.chunks(read) {
        parser.feed(piece).unwrap();
        while let Some(event) = parser.next_event() {
            match chat.event(&event.name, &event.data) {
                Step::Forward { data, .. } => push_event(&mut out, "", data),
                Step::Done => out.extend_from_slice(b"data: [DONE]\n\n"),
                step => panic!("{step:?}"),
            }
        }
        sent += out.len();
        out.clear();
    }
    sent
}

fn http(bench: &Bench) {
    let head = REQUEST_HEAD.as_bytes();
    bench.run("http: request head of an SDK", head.len(), 1, || {
        HeadScan::default().request(black_box(head)).unwrap().unwrap()
    });
    let head = RESPONSE_HEAD.as_bytes();
    bench.run("http: response head behind a CDN", head.len(), 1, || {
        HeadScan::default().response(black_box(head)).unwrap().unwrap()
    });
    for size in [300, 16 * 1024] {
        let mut wire = Vec::new();
        let data = vec![b'x'; size];
        for _ in 0..(64 * 1024_usize).div_ceil(size) {
            push_chunk_size(&mut wire, size);
            wire.extend_from_slice(&data);
            wire.extend_from_slice(CHUNK_END);
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        bench.run(&format!("http: chunked body, 64 KB, chunks of {size}"), wire.len(), 1, || {
            let mut reader = BodyReader::new(BodyLength::Chunked);
            let (mut at, mut got) = (0, 0);
            while !reader.is_done() {
                let (consumed, data) = reader.read(black_box(&wire[at..])).unwrap();
                at += consumed;
                got += data.len();
            }
            got
        });
    }
}

fn dialect(bench: &Bench) {
    for size in [2 * 1024, 20 * 1024, 100 * 1024, 1024 * 1024] {
        let body = body(size);
        bench.run(&format!("chat: ChatRequest::parse, {} KB", size / 1024), body.len(), 1, || {
            ChatRequest::parse(black_box(&body)).unwrap()
        });
        bench.run(&format!("chat: parse + edits + pieces, {} KB", size / 1024), body.len(), 1, || {
            let request = ChatRequest::parse(black_box(&body)).unwrap();
            let mut edits = request.edits(&body, "\"openai/gpt-oss-120b\"", true);
            pieces(body.as_bytes(), &mut edits).len()
        });
        for preset in ["openrouter", "together", "mistral", "gemini"] {
            let quirks = Quirks::of(Some(preset), "m");
            let name = format!("chat: parse + edits + repairs for {preset} + pieces, {} KB", size / 1024);
            bench.run(&name, body.len(), 1, || {
                let ask = Ask::parse(Dialect::Chat, black_box(&body)).unwrap();
                let mut edits = ask.edits(&body, "\"openai/gpt-oss-120b\"", true);
                edits.extend(ask.repairs(&body, &quirks, &|_| None).edits);
                pieces(body.as_bytes(), &mut edits).len()
            });
        }
        bench.run(&format!("  floor: serde_json IgnoredAny, {} KB", size / 1024), body.len(), 1, || {
            serde_json::from_str::<serde::de::IgnoredAny>(black_box(&body)).unwrap()
        });
    }
    let whole = format!(
        r#"{{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":9,"completion_tokens":500}}}}"#,
        "Some words of an answer. ".repeat(80)
    );
    bench.run("chat: whole answer, 2 KB, judged and named", whole.len(), 1, || {
        black_box(judge_whole(black_box(&whole)));
        whole_with_fields(whole.clone(), Some("\"groq\""), "\"m\"")
    });
    for (chunks, read) in [(20, 400), (1000, 400), (1000, 16 * 1024)] {
        let wire = stream(chunks);
        let name = format!("stream: {chunks} chunks, reads of {read}");
        bench.run(&name, wire.len(), chunks, || relay(black_box(&wire), read));
    }
    let data: Vec<String> = (0..1000).map(|n| chunk(n, "m")).collect();
    let bytes = data.iter().map(String::len).sum();
    bench.run("  of it ChatStream::event, 1000 chunks", bytes, 1000, || {
        let mut chat = ChatStream::new(Some("\"groq-large\""), "\"m\"", false);
        for data in &data {
            assert!(matches!(chat.event("", black_box(data)), Step::Forward { content: true, .. }));
        }
    });
    bench.run("  floor: serde_json IgnoredAny, 1000 chunks", bytes, 1000, || {
        for data in &data {
            serde_json::from_str::<serde::de::IgnoredAny>(black_box(data)).unwrap();
        }
    });
    let wire = stream(1000);
    bench.run("  of it SseParser, 1000 chunks, reads of 400", wire.len(), 1000, || {
        let mut parser = SseParser::default();
        let mut seen = 0;
        for piece in wire.chunks(400) {
            parser.feed(black_box(piece)).unwrap();
            while let Some(event) = parser.next_event() {
                seen += event.data.len();
            }
        }
        seen
    });
    let mut out = Vec::new();
    bench.run("  of it push_event, 1000 chunks", bytes, 1000, || {
        for data in &data {
            out.clear();
            push_event(&mut out, "", black_box(data));
        }
        out.len()
    });
}

/// Every pair of a reader and a writer, by text deltas.
fn answers(bench: &Bench) {
    let names = Names { model_json: "\"m\"".into(), seed: 1, created: 1, ..Names::default() };
    let chat: Vec<String> = (0..1000).map(|n| chunk(n, "openai/gpt-oss-120b")).collect();
    let messages: Vec<String> = (0..1000)
        .map(|n| {
            format!(
                r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":" word{n}"}}}}"#
            )
        })
        .collect();
    for (from, data) in [("chat", &chat), ("messages", &messages)] {
        let bytes = data.iter().map(String::len).sum();
        for to in ["chat", "messages", "responses"] {
            bench.run(&format!("answer: {from} to {to}, 1000 deltas"), bytes, 1000, || {
                let mut reader = match from {
                    "chat" => Reader::Chat(Box::new(ChatReader::new(1, ThinkTags::None))),
                    _ => Reader::Messages(Box::new(MessagesReader::new(1))),
                };
                let tools = ClientTools::default();
                let mut writer = match to {
                    "chat" => Writer::Chat(Box::new(ChatWriter::new(&names, false, tools))),
                    "messages" => Writer::Messages(Box::new(MessagesWriter::new(&names, tools))),
                    _ => Writer::Responses(Box::new(ResponsesWriter::new(&names, tools, Echo::default()))),
                };
                let mut written = 0;
                for data in data {
                    let mut out = |_: &str, frame: &str| written += frame.len();
                    reader.event("", black_box(data), &mut |event| writer.event(event, &mut out)).unwrap();
                }
                written
            });
        }
    }
}

fn route(bench: &Bench) {
    let wall = SystemTime::now();
    let start = Instant::now();
    let members = (0..100_u64).map(|n| {
        let model = format!("m{}", n % 7);
        let scopes = Scopes::new([1, 2], "groq", "https://api.groq.com", n % 10, None, &model);
        let limits = Limits {
            rpm: Some(90),
            rpd: Some(1_000_000),
            tpm: Some(80_000),
            tpd: None,
            concurrency: Some(9),
        };
        Member { limits, ..Member::new(scopes) }
    });
    let mut ledger = Ledger::new(Now { mono: start, wall }, members);
    let candidates: Vec<Candidate> = (0..100)
        .map(|n| Candidate { backend: n, priority: n as u32 / 30, rank: 0, context: None, unfit: None })
        .collect();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut now = start;
    let demand = Demand { tokens: 500, ..Demand::default() };
    let fact = |unit, span, limit, reset| {
        let (limit, remaining, reset) = (Some(limit), Some(limit / 2), Some(Duration::from_secs(reset)));
        Told { unit, span, limit, remaining, reset }
    };
    let facts = [fact(Unit::Requests, Span::Day, 100_000, 86), fact(Unit::Tokens, Span::Minute, 80_000, 8)];
    bench.run("route: plan, reserve, settle of 100 backends", 0, 1, || {
        // 25 a second over all of them: the windows are in use.
        now += Duration::from_millis(40);
        let mut order = candidates.clone();
        for candidate in &mut order {
            candidate.unfit = ledger.unfit(candidate.backend, &demand, now);
        }
        plan::order(&mut order, &mut rng);
        let mut walk = Walk::new(&order, &ledger, 500, 1, now, Duration::from_secs(20));
        let plan::Step::Try(ticket) = walk.next(&mut ledger, now) else { panic!("somebody is free") };
        ledger.told(ticket, &facts, now);
        ledger.success(ticket);
        ledger.end(ticket, Spent::Tokens(100));
    });
    let now = start;
    let body = br#"{"error":{"message":"Rate limit reached for model `openai/gpt-oss-120b` in organization `org_01j` service tier `on_demand` on tokens per minute (TPM): Limit 8000, Used 7900, Requested 600. Please try again in 3.75s. Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing","type":"tokens","code":"rate_limit_exceeded"}}"#;
    let fields: [(&str, &[u8]); 4] = [
        ("date", b"Wed, 25 Nov 2026 10:00:00 GMT"),
        ("retry-after", b"4"),
        ("x-ratelimit-remaining-tokens", b"0"),
        ("x-ratelimit-reset-tokens", b"3.75s"),
    ];
    let now = Now { mono: now, wall: SystemTime::now() };
    bench.run("route: judge_answer of a 429", body.len(), 1, || {
        judge_answer("groq", 429, fields.into_iter(), black_box(body), now, &[])
    });
}

fn provider(bench: &Bench) {
    let head = HeadScan::default().response(RESPONSE_HEAD.as_bytes()).unwrap().unwrap();
    let extra: [(&str, &[u8]); 4] = [
        ("strict-transport-security", b"max-age=15552000"),
        ("x-content-type-options", b"nosniff"),
        ("x-groq-region", b"us-east-1"),
        ("access-control-allow-origin", b"*"),
    ];
    let with_limits: Vec<(&str, &[u8])> = head.0.headers.iter().chain(extra).collect();
    let is_limit = |name: &str| name.starts_with("x-ratelimit-");
    let without: Vec<_> = with_limits.iter().copied().filter(|(name, _)| !is_limit(name)).collect();
    for (name, fields, facts) in [("6 of them limits", &with_limits, 2), ("none a limit", &without, 0)] {
        let name = format!("provider: told, {} fields, {name}", fields.len());
        bench.run(&name, 0, 1, || {
            let told = told("groq", black_box(fields).iter().copied(), 1_795_600_800_000);
            assert_eq!(told.len(), facts);
            told
        });
    }
}

fn main() {
    // Cargo adds `--bench`.
    let bench = Bench { filter: std::env::args().skip(1).find(|word| !word.starts_with("--")) };
    http(&bench);
    dialect(&bench);
    answers(&bench);
    provider(&bench);
    route(&bench);
}
