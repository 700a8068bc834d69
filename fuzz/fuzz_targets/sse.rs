//! An event stream reads the same however it is split; what is written reads back.
#![no_main]

use ai_free_swap::http::sse::{SseParser, push_comment, push_event};
use libfuzzer_sys::fuzz_target;

/// Name, data, `is_body` of each event.
type Seen = Vec<(String, String, bool)>;

fn drain(parser: &mut SseParser, seen: &mut Seen) {
    while let Some(event) = parser.next_event() {
        seen.push((event.name.into_owned(), event.data.into_owned(), event.is_body));
    }
}

/// The events before the end of the body, those it brought, and whether it was truncated.
fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Seen, Seen, bool) {
    let mut parser = SseParser::default();
    let (mut before, mut after) = (Seen::new(), Seen::new());
    for piece in pieces {
        parser.feed(piece).expect("inputs are far below the limit");
        drain(&mut parser, &mut before);
    }
    parser.finish();
    drain(&mut parser, &mut after);
    assert!(parser.next_event().is_none(), "the end comes once");
    (before, after, parser.is_truncated())
}

fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, input)) = data.split_first() else { return };
    let cut = input.len() * usize::from(cut) / 255;
    let whole = parse([input]);
    assert_eq!(parse([&input[..cut], &input[cut..]]), whole, "cut at {cut}");
    assert_eq!(parse(input.chunks(1)), whole, "byte by byte");

    let (name, text) = input.split_at(cut);
    let (name, text) = (String::from_utf8_lossy(name), String::from_utf8_lossy(text));
    // Two readings of data are not the standard's: a doubled prefix, and lines that are events of their own.
    let text = text.replace("data:", "data;");
    let (text, last) = if lines(&text).contains('\n') { (format!("text {text}"), "x") } else { (text, "{}") };
    let mut wire = Vec::new();
    push_comment(&mut wire, &text);
    push_event(&mut wire, &name, &text);
    push_comment(&mut wire, &name);
    push_event(&mut wire, "", last);
    let event = |name: String, data: String| (name, data, false);
    let expected =
        vec![event(name.replace(['\r', '\n'], ""), lines(&text)), event(String::new(), last.to_owned())];
    assert_eq!(parse([&wire[..]]), (expected, Seen::new(), false));
});
