//! Answers that are good but come in another dress than asked for.

use crate::harness::*;

const CHUNK: &str = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":"stop"}]}"#;

/// Every body is understood as it is: nobody else is asked.
#[track_caller]
fn check_taken(kind: &'static str, bodies: Vec<(&'static str, String)>, stream: bool) {
    let replies: Vec<String> = bodies.iter().map(|(_, body)| body.clone()).collect();
    let table = Table::new(replies.len(), move |row, _| status(200).body(kind, &replies[row]));
    every(bodies.iter().enumerate().map(|(row, (name, _))| (*name, row)), |row| {
        let response = table.ask(row, stream)?;
        expect(response.header("x-ai-free-swap-attempts") == Some("1"), || "fell over".into())?;
        if stream { response.try_events()?.check_complete("Hello") } else { response.check_answer("Hello") }
    });
}

fn wholes() -> Vec<(&'static str, String)> {
    let body = whole_body("Hello");
    let beside = r#""finish_reason":"stop"}"#;
    vec![
        ("plain", body.clone()),
        ("a BOM", format!("\u{feff}{body}")),
        ("blank lines first", format!("\n\n \r\n{body}")),
        ("a choice without a message", body.replacen(beside, &format!(r#"{beside},{{"index":1}}"#), 1)),
    ]
}

#[test]
fn a_whole_answer_is_understood_whatever_its_label() {
    for kind in ["application/json", "APPLICATION/JSON; Charset=UTF-8", "text/plain", ""] {
        check_taken(kind, wholes(), false);
        check_taken(kind, wholes(), true);
    }
}

#[test]
fn a_stream_is_understood_whatever_its_label() {
    let events = sse_body(&["Hel", "lo"]);
    let lines = events.replace("data: ", "").replace("\n\n", "\n").replace("[DONE]\n", "");
    let rows = vec![("events", events), ("lines of JSON", lines), ("one chunk", CHUNK.to_owned())];
    for kind in ["application/json", "text/event-stream", "application/x-ndjson", ""] {
        check_taken(kind, rows.clone(), true);
    }
}

#[test]
fn a_chunk_or_a_completion_of_text_is_no_whole_answer() {
    let text = r#"{"id":"c","object":"text_completion","choices":[{"index":0,"text":"Hello"}]}"#;
    let rows = [CHUNK, text];
    let table = Table::new(rows.len(), move |row, _| status(200).json(rows[row]));
    every([("chunk", 0), ("text", 1)], |row| table.check_rescued(row, false));
}
