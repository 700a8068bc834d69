//! Server-sent events (WHATWG HTML, "Event stream interpretation"): a parser for what model servers really send, and
//! a writer for what every client understands.
//!
//! One parser, which follows the standard except where servers are known not to; each exception needs a mark that no
//! correct stream of JSON events has:
//! - No blank line between events: a `data` line that is a whole JSON object or `[DONE]`, followed by one that begins
//!   another, is an event of its own. Joined by a newline the two could never be one JSON text.
//! - `data: data: {…}` from chained proxies: the second prefix is dropped too.
//! - `error: …` as a field of its own: an event named `error`.
//! - A bare JSON object on a line (NDJSON, an error in the middle of a stream), or a body that begins with `{`, `[` or
//!   `<` and so is no event stream at all: an event with `is_body`.
//! - An end of the body in the middle of an event: see [`SseParser::finish`].
//!
//! Refuses to know JSON beyond the balance of its brackets, and what an event means.

use std::{borrow::Cow, mem, ops::Range};

use super::position;
use crate::limits::SSE_EVENT_BYTES_MAX;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// One event, borrowed from the parser except when its data came on several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The `event` field; empty if there was none, which means `message`.
    pub name: Cow<'a, str>,
    /// The `data` lines, joined by newlines. Invalid UTF-8 has become U+FFFD.
    pub data: Cow<'a, str>,
    /// The data is no event of a stream but a text outside of it: one line of NDJSON, or the whole body if that is
    /// JSON or HTML. `name` is empty then.
    pub is_body: bool,
}

/// One event, or the body of something else, is longer than `SSE_EVENT_BYTES_MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTooLarge;

impl std::fmt::Display for EventTooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an event of the stream is longer than {SSE_EVENT_BYTES_MAX} bytes")
    }
}

impl std::error::Error for EventTooLarge {}

/// Cuts a byte stream into events. Feed what arrived, then ask for events until there is none.
///
/// An event is handed out at the line end that finishes it, be it LF or CR: a CR ends its line at once, and a LF that
/// follows is swallowed whenever it comes. Owns no memory while no event is unfinished.
///
/// Invariant: `start <= line <= searched <= buf.len()`, and the spans of the unfinished event lie between `start` and
/// `line`.
#[derive(Debug, Default)]
pub struct SseParser {
    buf: Vec<u8>,
    /// Where the unfinished event begins; what is before it was handed out.
    start: usize,
    /// Where the line under the scan begins.
    line: usize,
    /// No line end between `line` and here. Without it a slow drip costs quadratic time.
    searched: usize,
    mode: Mode,
    /// The last line ended with a CR at the end of what was fed.
    swallow_lf: bool,
    /// The `event` line before the data.
    name: Span,
    /// The `event` line behind the data: it wins, unless the data turns out to be an event of its own.
    late_name: Option<Span>,
    data: Data,
    /// The last `data` line had no line end.
    cut: bool,
    ended: bool,
    truncated: bool,
    too_large: bool,
}

type Span = Range<usize>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// At the very start, where a BOM may stand.
    #[default]
    Bom,
    /// Nothing but white space and NDJSON so far.
    Sniff,
    Events,
    /// On the first line of something that is no event stream.
    BodyLine,
    /// Behind that line: the rest of the body belongs to it.
    Body,
}

/// The `data` lines of an event.
#[derive(Debug, Default)]
enum Data {
    #[default]
    None,
    Line(Span),
    Joined(Vec<u8>),
}

/// An event whose borrow from the buffer is still to be made.
struct Ready {
    name: Span,
    data: Data,
    is_body: bool,
}

impl SseParser {
    /// Takes the next bytes of the body. Every event that the bytes before finished must have been fetched.
    ///
    /// The error tells that an event grew too large in what was fed *before*; events in front of it were handed out,
    /// however long they are together.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), EventTooLarge> {
        if self.too_large {
            return Err(EventTooLarge);
        }
        self.release();
        self.buf.extend_from_slice(bytes);
        Ok(())
    }

    /// The next event; `None` until more bytes are fed.
    pub fn next_event(&mut self) -> Option<Event<'_>> {
        let Some(Ready { name, data, is_body }) = self.advance() else {
            self.release();
            return None;
        };
        let data = match data {
            Data::None => Cow::Borrowed(""),
            Data::Line(span) => text(self.slice(span)),
            Data::Joined(bytes) => Cow::Owned(match String::from_utf8(bytes) {
                Ok(text) => text,
                Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
            }),
        };
        Some(Event { name: text(self.slice(name)), data, is_body })
    }

    /// Tells the parser that the body has ended cleanly; `next_event` then hands out what is left.
    ///
    /// By the standard an unfinished event is dropped, but model servers do end this way. It is handed out if it is
    /// whole: `[DONE]`, balanced JSON, or a finished line of anything else. A fragment is dropped, and `is_truncated`
    /// tells. Nothing may be fed from here on.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// Whether the body ended in the middle of an event. Known once `next_event` said `None` after `finish`.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    fn advance(&mut self) -> Option<Ready> {
        while !self.too_large {
            match self.mode {
                Mode::Bom => self.skip_bom()?,
                Mode::Sniff => self.sniff()?,
                Mode::BodyLine => {
                    let Some(line) = self.next_line() else { return self.end_body() };
                    if is_whole(self.slice(line.clone())) {
                        self.mode = Mode::Sniff;
                        self.start = self.line;
                        return Some(Ready { name: 0..0, data: Data::Line(line), is_body: true });
                    }
                    self.mode = Mode::Body;
                }
                Mode::Body => return self.end_body(),
                Mode::Events => {
                    let Some(line) = self.next_line() else { return self.end_events() };
                    let ready = self.take_line(line);
                    if ready.is_some() {
                        return ready;
                    }
                }
            }
        }
        None
    }

    /// Drops one leading BOM, which may come in pieces.
    fn skip_bom(&mut self) -> Option<()> {
        if self.buf.len() < BOM.len() && BOM.starts_with(&self.buf) && !self.ended {
            return None;
        }
        if self.buf.starts_with(BOM) {
            self.restart_at(BOM.len());
        }
        self.mode = Mode::Sniff;
        Some(())
    }

    /// Looks at the first byte that is not blank. Blank lines mean nothing here.
    fn sniff(&mut self) -> Option<()> {
        loop {
            match self.buf.get(self.searched) {
                None => {
                    self.check_size(self.searched);
                    if self.ended {
                        self.restart_at(self.searched);
                    }
                    return None;
                }
                Some(b'\n' | b'\r') => self.restart_at(self.searched + 1),
                Some(b' ' | b'\t') => self.searched += 1,
                Some(b'{' | b'[' | b'<') => {
                    self.check_size(self.searched);
                    self.restart_at(self.searched);
                    self.mode = Mode::BodyLine;
                    return Some(());
                }
                Some(_) => {
                    self.searched = self.line;
                    self.mode = Mode::Events;
                    return Some(());
                }
            }
        }
    }

    /// The next line without its end; `None` if that is still to come.
    fn next_line(&mut self) -> Option<Span> {
        if self.swallow_lf {
            let &byte = self.buf.get(self.searched)?;
            self.swallow_lf = false;
            if byte == b'\n' {
                self.searched += 1;
                self.line = self.searched;
                self.forget_if_idle();
            }
        }
        let rest = self.buf.get(self.searched..).unwrap_or_default();
        let Some(at) = position(rest, |b| b == b'\n' || b == b'\r') else {
            self.searched = self.buf.len();
            self.check_size(self.searched);
            return None;
        };
        let line = self.line..self.searched + at;
        self.check_size(line.end);
        if self.too_large {
            return None;
        }
        let mut next = line.end + 1;
        if self.buf.get(line.end) == Some(&b'\r') {
            match self.buf.get(next) {
                Some(b'\n') => next += 1,
                Some(_) => {}
                None => self.swallow_lf = true,
            }
        }
        self.line = next;
        self.searched = next;
        Some(line)
    }

    /// Takes one line of an event stream. The event returned may be the one before that line.
    fn take_line(&mut self, line: Span) -> Option<Ready> {
        let text = self.slice(line.clone());
        if text.is_empty() {
            return self.dispatch();
        }
        let (name_len, value) = split_field(text);
        let value = line.start + value..line.end;
        let mut ready = None;
        match text.get(..name_len).unwrap_or_default() {
            b"data" => ready = self.add_data(value),
            b"event" if matches!(self.data, Data::None) => self.name = value,
            b"event" => self.late_name = Some(value),
            b"error" if !value.is_empty() => {
                ready = self.add_data(value);
                self.name = line.start..line.start + name_len;
                self.late_name = None;
                // Behind an event that lacked its blank line, `start` is already at the value.
                self.start = self.start.min(line.start);
            }
            _ if matches!(self.data, Data::None) && text.starts_with(b"{") && is_whole(text) => {
                ready = Some(Ready { name: 0..0, data: Data::Line(line), is_body: true });
            }
            _ => {}
        }
        self.forget_if_idle();
        ready
    }

    /// Adds a `data` line. Returns the event before it if only a blank line was missing between the two.
    fn add_data(&mut self, value: Span) -> Option<Ready> {
        match mem::take(&mut self.data) {
            Data::None => self.data = Data::Line(value),
            Data::Line(first)
                if begins_event(self.slice(value.clone())) && is_whole(self.slice(first.clone())) =>
            {
                let name = mem::replace(&mut self.name, self.late_name.take().unwrap_or_default());
                self.start = if self.name.is_empty() { value.start } else { self.name.start };
                self.data = Data::Line(value);
                return Some(Ready { name, data: Data::Line(first), is_body: false });
            }
            Data::Line(first) => {
                let joined = [self.slice(first), self.slice(value)].join(&b'\n');
                self.data = Data::Joined(joined);
            }
            Data::Joined(mut joined) => {
                joined.push(b'\n');
                joined.extend_from_slice(self.slice(value));
                self.data = Data::Joined(joined);
            }
        }
        None
    }

    /// Ends the event at a blank line. Without data there is none, and its name is forgotten.
    fn dispatch(&mut self) -> Option<Ready> {
        let name = mem::take(&mut self.name);
        let name = self.late_name.take().unwrap_or(name);
        let data = mem::take(&mut self.data);
        self.start = self.line;
        (!matches!(data, Data::None)).then_some(Ready { name, data, is_body: false })
    }

    /// What is left of an event stream at the end of the body.
    fn end_events(&mut self) -> Option<Ready> {
        if !self.ended || self.too_large {
            return None;
        }
        let last = mem::replace(&mut self.line, self.buf.len())..self.buf.len();
        let text = self.slice(last.clone());
        let (name_len, _) = split_field(text);
        let is_data = matches!(text.get(..name_len), Some(b"data" | b"error"));
        if is_data || is_whole(text) {
            self.cut = is_data;
            // An event before that line goes first; the next call finds no line left and goes on below.
            if let Some(ready) = self.take_line(last) {
                return Some(ready);
            }
        } else if !text.is_empty() && !text.starts_with(b":") {
            self.truncated = true;
        }
        let whole = match &self.data {
            Data::None => self.name.is_empty(),
            Data::Line(span) => self.is_finished(self.slice(span.clone())),
            Data::Joined(joined) => self.is_finished(joined),
        };
        self.truncated |= !whole;
        self.dispatch().filter(|_| whole)
    }

    /// Whether data without a blank line behind it may be taken for whole. What does not begin like JSON cannot be
    /// weighed; then its line end has to do.
    fn is_finished(&self, data: &[u8]) -> bool {
        is_whole(data) || (!self.cut && !matches!(data.trim_ascii_start(), [b'{' | b'[' | b'"', ..]))
    }

    /// The whole body, once it has ended, if it was no event stream.
    fn end_body(&mut self) -> Option<Ready> {
        self.searched = self.buf.len();
        self.check_size(self.searched);
        if !self.ended || self.too_large {
            return None;
        }
        let text = self.slice(self.start..self.buf.len()).trim_ascii_end();
        if text.is_empty() {
            return None;
        }
        let data = Data::Line(self.start..self.start + text.len());
        self.truncated = !text.starts_with(b"<") && !is_whole(text);
        self.restart_at(self.buf.len());
        Some(Ready { name: 0..0, data, is_body: true })
    }

    fn slice(&self, span: Span) -> &[u8] {
        self.buf.get(span).unwrap_or_default()
    }

    /// Drops everything before `at`, where a line begins.
    fn restart_at(&mut self, at: usize) {
        self.start = at;
        self.line = at;
        self.searched = at;
    }

    /// Without an unfinished event, lines that were read need not be kept: comments may come for hours.
    fn forget_if_idle(&mut self) {
        if matches!(self.data, Data::None) && self.name.is_empty() && self.late_name.is_none() {
            self.start = self.line;
        }
    }

    /// Gives up if the unfinished event reaches to `end` and so is too large. Line ends at `end` do not count, so the
    /// verdict does not depend on how the bytes were split.
    fn check_size(&mut self, end: usize) {
        if end.saturating_sub(self.start) > SSE_EVENT_BYTES_MAX {
            *self = Self { too_large: true, truncated: true, ended: self.ended, ..Self::default() };
        }
    }

    /// Frees what was handed out. Linear over all calls: what is moved came with the last feed or is moved once for
    /// each time the buffer halves.
    fn release(&mut self) {
        let start = mem::take(&mut self.start);
        if start > 0 {
            self.buf.drain(..start.min(self.buf.len()));
            let shift = |at: &mut usize| *at = at.saturating_sub(start);
            let shift_span = |span: &mut Span| {
                shift(&mut span.start);
                shift(&mut span.end);
            };
            shift(&mut self.line);
            shift(&mut self.searched);
            shift_span(&mut self.name);
            self.late_name.iter_mut().for_each(shift_span);
            if let Data::Line(span) = &mut self.data {
                shift_span(span);
            }
        }
        if self.buf.capacity() / 2 > self.buf.len() {
            self.buf.shrink_to_fit();
        }
    }
}

/// Writes one event: `name` if it is not empty, and `data` on as many lines as it has.
///
/// Every line end in `data` reads back as a newline. Line ends in `name` are left out.
pub fn push_event(out: &mut Vec<u8>, name: &str, data: &str) {
    out.reserve(name.len() + data.len() + 20);
    if !name.is_empty() {
        out.extend_from_slice(b"event: ");
        out.extend(name.bytes().filter(|b| !matches!(b, b'\r' | b'\n')));
        out.push(b'\n');
    }
    push_lines(out, b"data: ", data);
    out.push(b'\n');
}

/// Writes a comment, which every client ignores. It ends like an event, for clients that cut at blank lines.
pub fn push_comment(out: &mut Vec<u8>, text: &str) {
    push_lines(out, b": ", text);
    out.push(b'\n');
}

fn push_lines(out: &mut Vec<u8>, prefix: &[u8], text: &str) {
    let mut rest = text.as_bytes();
    loop {
        out.extend_from_slice(prefix);
        let Some(at) = position(rest, |b| b == b'\n' || b == b'\r') else {
            out.extend_from_slice(rest);
            out.push(b'\n');
            return;
        };
        let (line, end) = rest.split_at_checked(at).unwrap_or((rest, b""));
        out.extend_from_slice(line);
        out.push(b'\n');
        rest = end.strip_prefix(b"\r\n").or(end.get(1..)).unwrap_or_default();
    }
}

/// Bytes as text, what is no UTF-8 replaced. Nearly all of it is UTF-8, and the checked conversion takes ASCII a word
/// at a time, the lossy one byte by byte.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// Where the name of a field ends and where its value begins.
fn split_field(line: &[u8]) -> (usize, usize) {
    let after_space = |at: usize| at + usize::from(line.get(at) == Some(&b' '));
    if !line.starts_with(b"data:") {
        let name_len = line.iter().position(|&b| b == b':').unwrap_or(line.len());
        return (name_len, after_space(name_len + 1).min(line.len()));
    }
    let value = after_space(5);
    if line.get(value..).is_some_and(|rest| rest.starts_with(b"data:")) {
        let inner = after_space(value + 5);
        // Only before JSON or `[DONE]`: plain text may begin like this.
        if matches!(line.get(inner), Some(b'{' | b'[')) {
            return (4, inner);
        }
    }
    (4, value)
}

/// Whether `value` can only be the beginning of an event: what begins like this never continues another JSON text.
fn begins_event(value: &[u8]) -> bool {
    let value = value.trim_ascii();
    value.starts_with(b"{") || value == b"[DONE]"
}

/// Whether `text` is `[DONE]`, or a JSON object or array by the balance of its brackets.
fn is_whole(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    if text == b"[DONE]" {
        return true;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' if depth > 0 => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 1 => depth -= 1,
            b'}' | b']' => return depth == 1 && at + 1 == text.len(),
            _ if depth == 0 => return false,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name and data of each event; a body has the name `body!`.
    type Seen = Vec<(String, String)>;

    fn drain(parser: &mut SseParser, seen: &mut Seen) {
        while let Some(event) = parser.next_event() {
            let name = if event.is_body { "body!".into() } else { event.name.into_owned() };
            seen.push((name, event.data.into_owned()));
        }
    }

    /// The events of `pieces` before the end of the body, those it brought, and whether it was truncated.
    fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Seen, Seen, bool) {
        let mut parser = SseParser::default();
        let (mut before, mut after) = (Seen::new(), Seen::new());
        for piece in pieces {
            parser.feed(piece).unwrap();
            drain(&mut parser, &mut before);
        }
        parser.finish();
        drain(&mut parser, &mut after);
        assert_eq!(parser.next_event(), None, "the end comes once");
        assert_eq!(parser.buf.capacity(), 0, "nothing may be held at the end");
        (before, after, parser.is_truncated())
    }

    fn owned(events: &[(&str, &str)]) -> Seen {
        events.iter().map(|&(name, data)| (name.to_owned(), data.to_owned())).collect()
    }

    #[track_caller]
    fn check_all(input: &[u8], before: &[(&str, &str)], after: &[(&str, &str)], truncated: bool) {
        let expected = (owned(before), owned(after), truncated);
        for cut in 0..=input.len() {
            assert_eq!(parse([&input[..cut], &input[cut..]]), expected, "cut at {cut}");
        }
        assert_eq!(parse(input.chunks(1)), expected, "byte by byte");
    }

    /// A stream without anything left at its end.
    #[track_caller]
    fn check(input: &str, events: &[(&str, &str)]) {
        check_all(input.as_bytes(), events, &[], false);
    }

    /// A stream whose end brings `after`.
    #[track_caller]
    fn check_end(input: &str, before: &[(&str, &str)], after: &[(&str, &str)]) {
        check_all(input.as_bytes(), before, after, false);
    }

    #[track_caller]
    fn check_truncated(input: &str, before: &[(&str, &str)], after: &[(&str, &str)]) {
        check_all(input.as_bytes(), before, after, true);
    }

    #[test]
    fn every_line_end_ends_a_line() {
        for end in ["\n", "\r\n", "\r"] {
            let input = format!("event: x{end}data: a{end}{end}data: b{end}data: c{end}{end}");
            check(&input, &[("x", "a"), ("", "b\nc")]);
        }
        check("data: a\r\r\ndata: b\n\r\n", &[("", "a"), ("", "b")]);
    }

    #[test]
    fn an_event_is_not_held_back() {
        for input in ["data: a\n\n", "data: a\r\n\r", "data: a\r\r", "data: a\n\r"] {
            let mut parser = SseParser::default();
            parser.feed(input.as_bytes()).unwrap();
            let event = parser.next_event().expect("the event is finished");
            assert_eq!(event.data, Cow::Borrowed("a"), "{input:?}");
            assert!(matches!(event.data, Cow::Borrowed(_)), "one line is not copied");
            assert_eq!(parser.next_event(), None);
            assert_eq!(parser.buf.capacity(), 0, "a waiting stream owns no memory");
        }
    }

    #[test]
    fn only_what_is_left_over_is_kept() {
        let mut parser = SseParser::default();
        let input = "data: 0123456789\n\n".repeat(1000) + "data: x";
        parser.feed(input.as_bytes()).unwrap();
        while parser.next_event().is_some() {}
        assert!(parser.buf.capacity() < 64, "{}", parser.buf.capacity());
        parser.feed(b"y\n\n").unwrap();
        assert_eq!(parser.next_event().unwrap().data, "xy");
    }

    #[test]
    fn names_belong_to_their_event() {
        check("event: x\n\ndata: a\n\n", &[("", "a")]);
        check("event: x\nevent:\ndata: a\n\n", &[("", "a")]);
        check("data: a\nevent: late\n\ndata: b\n\n", &[("late", "a"), ("", "b")]);
        check("event: x\ndata: a\nevent:\n\n", &[("", "a")]);
        let input = "event: x\ndata: {\"a\":1}\nevent: y\ndata: {\"b\":2}\ndata: [DONE]\n\n";
        check(input, &[("x", r#"{"a":1}"#), ("y", r#"{"b":2}"#), ("", "[DONE]")]);
    }

    #[test]
    fn a_missing_blank_line_is_found() {
        check("data: {\"a\":1}\ndata: {\"b\":\ndata: 2}\n\n", &[("", "{\"a\":1}"), ("", "{\"b\":\n2}")]);
        check("data: {\ndata: {}\ndata: }\n\n", &[("", "{\n{}\n}")]);
        check("data: [\ndata: {},\ndata: {}\ndata: ]\n\n", &[("", "[\n{},\n{}\n]")]);
        check("data: \"}\"\ndata: {}\n\n", &[("", "\"}\"\n{}")]);
        check("data: [DONE]\ndata: [DONE]\n\n", &[("", "[DONE]"), ("", "[DONE]")]);
        check_truncated("data: {}\ndata: {\"a", &[], &[("", "{}")]);
    }

    #[test]
    fn the_end_of_the_body_ends_whole_events() {
        check_end("data: {\"a\":[\"}\\\"\"]}", &[], &[("", "{\"a\":[\"}\\\"\"]}")]);
        check_end("event: x\ndata: [DONE]", &[], &[("x", "[DONE]")]);
        check_end("data:[DONE] ", &[], &[("", "[DONE] ")]);
        check_end("data: text\n", &[], &[("", "text")]);
        check_end("data: a\n\n: comm", &[("", "a")], &[]);
        check_end("data: {}\ndata: {\"a\":1}", &[], &[("", "{}"), ("", "{\"a\":1}")]);
        check_end("data: {}\r", &[], &[("", "{}")]);
        check_end("error: {}", &[], &[("error", "{}")]);
        check_end("data: text\n{}", &[], &[("", "text")]);
        check_end("data: a\n\n{\"error\":1}", &[("", "a")], &[("body!", "{\"error\":1}")]);
        check("", &[]);
        check("\n\n", &[]);
        check(" \t", &[]);
    }

    #[test]
    fn fragments_at_the_end_are_reported() {
        for rest in [
            "data: {\"a\":{}",
            "data: {\"a\":1\n",
            "data: [DO",
            "data: [DON\n",
            "data: text",
            "data: ",
            "data",
            "da",
            "event: x",
            "event: x\n",
            "data: {}}",
            "data: \"te\n",
            "event: x\nda",
        ] {
            check_truncated(&format!("data: a\n\n{rest}"), &[("", "a")], &[]);
        }
        check_truncated("data: {}\nevent: y", &[], &[("", "{}")]);
    }

    #[test]
    fn error_fields_are_events() {
        check("error: {\"a\":1}\n\n", &[("error", "{\"a\":1}")]);
        check("error:overloaded\n\n", &[("error", "overloaded")]);
        check("error\n\nerror:\n\n", &[]);
        check("data: {}\nerror: {\"a\":1}\n\n", &[("", "{}"), ("error", "{\"a\":1}")]);
        check("event: x\ndata: {}\nevent: y\nerror: {\"a\":1}\n\n", &[("x", "{}"), ("error", "{\"a\":1}")]);
    }

    #[test]
    fn doubled_prefixes_are_dropped() {
        check("data: data: {}\n\ndata:data:[DONE]\n\n", &[("", "{}"), ("", "[DONE]")]);
        check("data: data: text\n\n", &[("", "data: text")]);
    }

    #[test]
    fn bodies_are_told_apart() {
        check_end(" \r\n\t{\"a\":\n 1}\n", &[], &[("body!", "{\"a\":\n 1}")]);
        check_end(
            "\u{feff}<html>\n\ndata: x\n\n</html>\n",
            &[],
            &[("body!", "<html>\n\ndata: x\n\n</html>")],
        );
        check_end("[{}\n]", &[], &[("body!", "[{}\n]")]);
        check("{\"a\":1}\r\n\r\n{\"b\":2}\r\n", &[("body!", "{\"a\":1}"), ("body!", "{\"b\":2}")]);
        check("{}\ndata: a\n\n{\"b\":2}\n\n", &[("body!", "{}"), ("", "a"), ("body!", "{\"b\":2}")]);
        check("data: a\n{}\n\n", &[("", "a")]);
        check("data: a\n\n{nothing\n[1]\n<x>\n", &[("", "a")]);
        check_truncated("{\"error\":", &[], &[("body!", "{\"error\":")]);
        check("  data: a\n\ndata: b\n\n", &[("", "b")]);
    }

    #[test]
    fn invalid_utf8_is_replaced() {
        let input = b"event: \xff\ndata: a\xe2\x82\n\ndata: \xf0\ndata: \x9f\n\n";
        check_all(input, &[("\u{fffd}", "a\u{fffd}"), ("", "\u{fffd}\n\u{fffd}")], &[], false);
    }

    #[test]
    fn a_bom_is_dropped_once() {
        check("\u{feff}data: a\n\n\u{feff}data: b\n\n", &[("", "a")]);
        check("\u{feff}\u{feff}data: a\n\n", &[]);
        check_truncated("\u{feff}\u{feff}", &[], &[]);
        check_all(b"\xef\xbb", &[], &[], true);
    }

    /// How many events come, and whether the parser then gives up.
    fn feed_all(input: &[u8], step: usize) -> (usize, bool) {
        let mut parser = SseParser::default();
        let mut count = 0;
        for piece in input.chunks(step) {
            if parser.feed(piece).is_err() {
                return (count, true);
            }
            while parser.next_event().is_some() {
                count += 1;
            }
        }
        (count, parser.feed(b"").is_err())
    }

    /// `input` fits with padding that fills up to the limit, and with one byte more the parser gives up before its
    /// last event.
    #[track_caller]
    fn check_bounded(before: &str, start: &str, end: &str, after: &str, events: usize) {
        for (over, expected) in [(0, (events, false)), (1, (before.matches("\n\n").count(), true))] {
            let padding = "x".repeat(SSE_EVENT_BYTES_MAX + over - start.len() - end.len());
            let input = format!("{before}{start}{padding}{end}{after}");
            for step in [input.len(), SSE_EVENT_BYTES_MAX - 1, SSE_EVENT_BYTES_MAX, 65_536, 1_000] {
                assert_eq!(
                    feed_all(input.as_bytes(), step),
                    expected,
                    "{start:?}, {over} over, {step} at a time"
                );
            }
        }
    }

    #[test]
    fn an_event_is_bounded() {
        check_bounded("data: 1\n\n", "data: ", "\n", "\ndata: 3\n\n", 3);
        check_bounded("data: 1\n\n", "event: x\r\ndata: 2\r\ndata: ", "\r\n", "\r\n", 2);
        check_bounded("", "data: 1\r", "\r", "\rdata: 2\n\n", 2);
        check_bounded("{}\n\n", "{\"", "\"}", "\n", 2);
        check_bounded("{}\n\n", "{\n", "", "", 1);
        check_bounded("data: 1\n\n", ": ", "", "\ndata: 2\n\n", 2);
        let blanks = |len| " ".repeat(len) + "{}\n";
        assert_eq!(feed_all(blanks(SSE_EVENT_BYTES_MAX).as_bytes(), 1_000_000), (1, false));
        for step in [1_000, usize::MAX] {
            assert_eq!(
                feed_all(blanks(SSE_EVENT_BYTES_MAX + 1).as_bytes(), step),
                (0, true),
                "{step} at a time"
            );
        }
    }

    #[test]
    fn many_events_together_may_be_larger() {
        let event = format!("data: {}\n\n", "x".repeat(999));
        let count = 3 * SSE_EVENT_BYTES_MAX / event.len();
        assert_eq!(feed_all(event.repeat(count).as_bytes(), usize::MAX), (count, false));
        let comments = ": ping\n".repeat(SSE_EVENT_BYTES_MAX / 3);
        assert_eq!(feed_all(comments.as_bytes(), usize::MAX), (0, false));
        assert_eq!(feed_all(comments.as_bytes(), 10_000), (0, false));
    }

    #[test]
    fn what_is_written_reads_back() {
        let written = |name: &str, data: &str| {
            let mut out = Vec::new();
            push_event(&mut out, name, data);
            push_comment(&mut out, "a\r\nb");
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written("", "{}"), "data: {}\n\n: a\n: b\n\n");
        assert_eq!(written("x\ny\r", "1"), "event: xy\ndata: 1\n\n: a\n: b\n\n");
        for (data, expected) in [
            ("", ""),
            ("a\nb", "a\nb"),
            ("\r\n\ra\n", "\n\na\n"),
            (" a", " a"),
            (": a", ": a"),
            ("id: 1", "id: 1"),
        ] {
            check(&written("x", data), &[("x", expected)]);
        }
    }

    fn base64(text: &str) -> Vec<u8> {
        let (mut out, mut bits, mut count) = (Vec::new(), 0u32, 0);
        for byte in text.bytes().filter(|&b| b != b'=') {
            let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            bits = bits << 6 | alphabet.iter().position(|&b| b == byte).expect("base64") as u32;
            count += 6;
            if count >= 8 {
                count -= 8;
                out.push((bits >> count) as u8);
            }
        }
        out
    }

    #[test]
    fn golden_vectors() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sse/vectors.json");
        let vectors: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let vectors = vectors.as_array().unwrap();
        assert!(vectors.len() >= 40, "only {} vectors found", vectors.len());
        for vector in vectors {
            let name = vector["name"].as_str().unwrap();
            let chunks: Vec<_> = vector["chunks_b64"]
                .as_array()
                .unwrap()
                .iter()
                .map(|chunk| base64(chunk.as_str().unwrap()))
                .collect();
            let expected = vector.get("lenient_expect").unwrap_or(&vector["expect"]).as_array().unwrap();
            let expected: Seen = expected
                .iter()
                .map(|event| {
                    let name = match event["event"].as_str().unwrap() {
                        "message" => "",
                        "body" => "body!",
                        name => name,
                    };
                    (name.to_owned(), event["data"].as_str().unwrap().to_owned())
                })
                .collect();
            let whole = chunks.concat();
            let step = if whole.len() > 10_000 { 997 } else { 1 };
            for pieces in
                [chunks.iter().map(Vec::as_slice).collect(), vec![&whole[..]], whole.chunks(step).collect()]
            {
                let (mut seen, after, truncated) = parse(pieces);
                seen.extend(after);
                assert_eq!(seen, expected, "{name}");
                assert_eq!(truncated, name == "eof_cut_json", "{name}");
            }
        }
    }
}
