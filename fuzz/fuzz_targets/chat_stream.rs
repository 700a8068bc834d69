//! Chunks and whole answers go through with our fields added and nothing else changed, whatever a provider sends.
#![no_main]

use ai_free_swap::dialect::{
    chat::{Whole, judge_whole},
    chat_stream::{ChatStream, Step, whole_as_chunks, whole_with_fields},
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, value::RawValue};

const PROVIDER: &str = r#""groq \"1\"""#;
const MODEL: &str = r#""backend\\m""#;

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// `out` is `text` with members put behind the first brace, of those we may add and the text lacks.
fn check_added(text: &str, out: &str, provider: bool) {
    assert!(is_json(text) && is_json(out), "{out}");
    // A `Value` may not hold it: then only the bytes are compared.
    let fields = serde_json::from_str::<Value>(text).ok();
    let lacks = |key: &str| fields.as_ref().map(|fields| fields.get(key).is_none());
    let brace = text.find('{').map_or(0, |at| at + 1);
    let (head, rest) = text.split_at(brace);
    let added = out.strip_prefix(head).and_then(|out| out.strip_suffix(rest)).expect("every byte is kept");
    let names = format!("\"provider_name\":{PROVIDER}");
    let model = format!("\"model\":{MODEL}");
    let both = format!("{names},{model}");
    let comma = if rest.trim_start_matches(is_space).starts_with('}') { "" } else { "," };
    let allowed = [("", false, false), (&names, true, false), (&model, false, true), (&both, true, true)];
    let found = allowed.iter().find(|(members, ..)| {
        added == if members.is_empty() { String::new() } else { format!("{members}{comma}") }
    });
    let (_, named, modelled) = *found.unwrap_or_else(|| panic!("added {added:?}"));
    if let Some(lacks_name) = lacks("provider_name") {
        assert_eq!(named, provider && lacks_name, "{out}");
    }
    if let Some(lacks_model) = lacks("model") {
        assert_eq!(modelled, lacks_model, "{out}");
    }
}

/// What a stream came to: whether something was said, and how it ended.
struct Seen {
    content: bool,
    forwarded: usize,
    refused: usize,
}

fn follow<'a>(
    stream: &mut ChatStream,
    events: impl IntoIterator<Item = (&'a str, &'a str)>,
    provider: bool,
) -> Seen {
    let mut seen = Seen { content: false, forwarded: 0, refused: 0 };
    for (name, data) in events {
        let was_done = stream.is_finished();
        let trimmed = data.trim_matches(is_space);
        match stream.event(name, data) {
            Step::Forward { data, content } => {
                check_added(trimmed, data, provider);
                assert!(!content || trimmed.contains("choices") || trimmed.contains('\\'));
                seen.content |= content;
                seen.forwarded += 1;
            }
            Step::Hide => {}
            Step::Done => assert_eq!(trimmed, "[DONE]"),
            Step::Error => seen.refused += 1,
            Step::Malformed => {
                assert!(!trimmed.starts_with('['));
                seen.refused += 1;
            }
        }
        assert!(stream.is_finished() || !was_done, "an end is not taken back");
    }
    let unframed = stream.check_end(false).is_ok();
    assert_eq!(unframed, stream.is_finished());
    assert!(stream.check_end(true).is_ok() || !unframed);
    let owed = stream.end();
    let (last, chunks) = owed.split_last().expect("the end is always told");
    assert_eq!(last, "[DONE]");
    assert!(chunks.len() <= usize::from(seen.content), "a reason is owed to content only");
    assert!(chunks.iter().all(|chunk| is_json(chunk)), "{chunks:?}");
    seen
}

fn check_whole(text: &str, provider: Option<&str>) {
    let judged = judge_whole(text);
    let good = matches!(judged, Whole::Content(_) | Whole::Empty(_));
    let out = whole_with_fields(text.to_owned(), provider, MODEL);
    let out = String::from_utf8(out).expect("text stays text");
    if good {
        check_added(text, &out, provider.is_some());
        let again = whole_with_fields(out.clone(), provider, MODEL);
        assert!(provider.is_none() || again == out.as_bytes(), "a second time changes nothing");
        assert_eq!(judge_whole(&out), judged);
    }
    let Some(chunks) = whole_as_chunks(text) else { return };
    let (last, json) = chunks.split_last().expect("at least the end");
    assert_eq!(last, "[DONE]");
    assert!(json.iter().all(|chunk| is_json(chunk)), "{json:?}");
    // A message beside a `delta` is neither one nor the other.
    if good && !text.contains("delta") && !text.contains('\\') {
        let mut stream = ChatStream::new(provider, MODEL, true);
        let seen = follow(&mut stream, chunks.iter().map(|chunk| ("", chunk.as_str())), provider.is_some());
        assert_eq!(seen.refused, 0, "{chunks:?}");
        assert_eq!(seen.content, matches!(judged, Whole::Content(_)), "{chunks:?}");
        assert!(stream.check_end(false).is_ok());
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&flags, input)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(input) else { return };
    let provider = (flags & 1 == 1).then_some(PROVIDER);
    check_whole(text, provider);

    let mut stream = ChatStream::new(provider, MODEL, flags & 2 == 2);
    // One event each line; `!` in front names it an error.
    let events = text.lines().map(|line| match line.strip_prefix('!') {
        Some(line) => ("error", line),
        None => ("", line),
    });
    let seen = follow(&mut stream, events, provider.is_some());
    assert!(!seen.content || seen.forwarded > 0);
});
