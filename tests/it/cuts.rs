//! The provider dies after n bytes, for every n; and what a client is told when it had already heard something.

use std::sync::Mutex;
use std::thread;

use crate::harness::*;

/// How a provider dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Close,
    Reset,
}

/// Small, so that every one of its bytes can be the last.
const STREAM: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"}}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"}}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
    data: [DONE]\n\n";

/// Asks every row from two threads: the machine may have two cores, and a failure should not hide others.
pub fn check_rows(rows: usize, check: impl Fn(usize) -> Result<(), String> + Sync) {
    assert!(rows > 0, "no rows: a loop over nothing passes");
    let (next, failed) = (Mutex::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let row = {
                        let mut next = next.lock().unwrap();
                        *next += 1;
                        *next - 1
                    };
                    if row >= rows {
                        return;
                    }
                    if let Err(why) = check(row) {
                        failed.lock().unwrap().push(format!("after {row} bytes: {why}"));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    let count = failed.len();
    failed.truncate(5);
    assert!(failed.is_empty(), "{count} of {rows} failed, such as:\n  {}", failed.join("\n  "));
}

fn dying(reply: &Reply, n: usize, death: Death) -> Reply {
    match death {
        Death::Close => reply.cut(n).close(),
        Death::Reset => reply.cut(n).reset(),
    }
}

fn check_whole(full: Reply, death: Death) {
    let total = full.bytes().len();
    let table = Table::new(total, move |row, _| dying(&full, row, death));
    check_rows(total, |row| table.check_rescued(row, false));
}

#[test]
fn a_whole_answer_cut_anywhere_is_invisible() {
    let text = "Hello from the first";
    check_whole(chat_whole(text), Death::Close);
    check_whole(chat_whole(text), Death::Reset);
}

#[test]
fn a_chunked_whole_answer_cut_anywhere_is_invisible() {
    let body = whole_body("Hello from the first");
    check_whole(status(200).chunked("application/json", body.as_bytes().chunks(100)), Death::Close);
}

/// Where in the bytes of a reply the event that holds `text` ends, its blank line included.
fn end_of_event(bytes: &[u8], text: &str) -> usize {
    let all = String::from_utf8_lossy(bytes);
    let at = all.find(text).unwrap();
    at + all[at..].find("\n\n").unwrap() + 2
}

fn check_stream(full: Reply, death: Death) {
    let bytes = full.bytes();
    let total = bytes.len();
    let content = end_of_event(&bytes, "Hel");
    let finish = end_of_event(&bytes, "finish_reason");
    let done = end_of_event(&bytes, "[DONE]");
    let table = Table::new(total + 1, move |row, _| dying(&full, row, death));
    let broken = Mutex::new(0);
    check_rows(total + 1, |row| {
        let events = table.ask(row, true)?.try_events()?;
        let rescued = events.check_complete(RESCUE);
        let honest = events.check_broken();
        let text = events.text();
        // The last line end of an event is not needed to know it.
        if row < content - 2 {
            return rescued;
        }
        if honest.is_ok() {
            *broken.lock().unwrap() += 1;
            expect("Hello".starts_with(&text) && !text.is_empty(), || format!("broken off after {text:?}"))?;
        }
        let complete = events.check_complete("Hello").is_ok();
        // A reset may destroy what came before it, so with one anything honest is right.
        match row {
            _ if rescued.is_ok() && (row < content + 8 || death == Death::Reset) => Ok(()),
            _ if row < finish - 2 => honest,
            _ if row < done || death == Death::Reset => {
                let told = events.error().is_some() && "Hello".starts_with(&text);
                expect(complete || told, || format!("neither complete nor broken: {:?}", events.0))
            }
            _ => events.check_complete("Hello"),
        }
    });
    assert!(broken.into_inner().unwrap() > 20, "cuts in mid-stream should have been seen by clients");
}

#[test]
fn a_stream_closed_anywhere_is_rescued_or_honestly_broken() {
    check_stream(sse(STREAM), Death::Close);
}

#[test]
fn a_stream_reset_anywhere_is_rescued_or_honestly_broken() {
    check_stream(sse(STREAM), Death::Reset);
}

#[test]
fn a_stream_without_length_closed_anywhere_is_rescued_or_honestly_broken() {
    check_stream(
        raw(format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{STREAM}")),
        Death::Close,
    );
}

#[test]
fn what_goes_wrong_after_content_is_told_in_band() {
    let content = event(r#"{"role":"assistant","content":"Hel"}"#, "null");
    let say = || status(200).stream_head().event(&content);
    let rows = vec![
        ("an error chunk", sse(&golden("chat/stream_error_midway.sse"))),
        ("an error event", sse(&golden("chat/stream_error_event_name.sse"))),
        ("an error beside a finish", sse(&golden("chat/stream_error_openrouter.sse"))),
        ("a cut event", sse(&golden("chat/stream_cut.sse"))),
        (
            "an error as an array",
            say().event(r#"[{"error":{"message":"boom","code":503}}]"#).event("[DONE]").end_chunks(),
        ),
        ("an error as a string", say().event(r#"{"error":"boom"}"#).event("[DONE]").end_chunks()),
        ("closed", say().close()),
        ("closed in a chunk", say().write("40\r\ndata: {\"choi").close()),
        ("bad chunk size", say().write("zz\r\n").close()),
        ("an event above the limit", say().event(&"x".repeat(2 * 1024 * 1024)).close()),
    ];
    let replies: Vec<Reply> = rows.iter().map(|(_, reply)| reply.clone()).collect();
    let table = Table::new(rows.len(), move |row, _| replies[row].clone());
    every(rows.iter().enumerate().map(|(row, (name, _))| (*name, row)), |row| {
        let events = table.ask(row, true)?.try_events()?;
        let error = events.error().ok_or_else(|| format!("no error in {:#?}", events.0))?;
        expect(error["message"].as_str().is_some_and(|m| !m.is_empty()), || format!("{error}"))?;
        expect(events.text() == "Hel", || format!("text {:?}", events.text()))?;
        let finish = events.finish_reason();
        expect(matches!(finish.as_deref(), None | Some("error")), || format!("a normal end: {finish:?}"))
    });
}

#[test]
fn a_malformed_event_in_the_middle_does_not_end_the_stream_in_silence() {
    let good = sse_body(&["Hel", "lo"]);
    let at = good.find("data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1795400000,\"model\":\"real-model\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"").unwrap();
    let rows = ["data: {\"cut\":\n\n", "data: hello\n\n", "data\n\n", "nonsense\n\n"];
    let bodies = rows.map(|bad| format!("{}{bad}{}", &good[..at], &good[at..]));
    let table = Table::new(rows.len(), move |row, _| sse(&bodies[row]));
    every(rows.iter().enumerate().map(|(row, bad)| (*bad, row)), |row| {
        let events = table.ask(row, true)?.try_events()?;
        // Passed on, skipped, or told: but never a normal end that lacks text.
        let whole = events.text() == "Hello" && events.is_done();
        expect(whole || events.check_broken().is_ok(), || format!("{:#?}", events.0))
    });
}

#[test]
fn the_stream_is_over_as_soon_as_its_end_mark_came() {
    let gate = Gate::new();
    let upstream = Upstream::replies([raw(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{}",
        sse_body(&["Hel", "lo"])
    ))
    .wait(&gate)
    .close()]);
    let proxy = Proxy::with_backends([&upstream]);
    // The provider keeps its connection open, as some do; the client must not be kept waiting for that.
    let mut stream = proxy.stream(STREAM_HELLO);
    let mut seen = Vec::new();
    while let Some(event) = stream.next_event() {
        seen.push(event);
    }
    Events(seen).check_complete("Hello").unwrap();
    gate.open();
}
