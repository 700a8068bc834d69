//! An Anthropic message, streamed or whole, as events (anthropic-messages §6, §7).

use super::json::{count, for_each, object, some_text, text};
use super::usage::read_messages;
use super::{ReadError, Sink, Truncated, make_id};
use crate::dialect::chat::says_something;
use crate::dialect::model::{Block, Citation, Event, StopReason, Usage};
use crate::dialect::raw::{self, Read, Unread};
use crate::dialect::skim::Scan;
use crate::dialect::splice::is_space;
use crate::limits::{ANSWER_BLOCKS_MAX, ANSWER_CALLS_MAX, BLOCK_CITATIONS_MAX};
use std::borrow::Cow;

/// Reads one answer of one backend: every event of its stream in order, then the end; or a whole answer.
///
/// Blocks of servers (searches and their results) have no counterpart and are left out, and so are citations of anything
/// but pages. Texts and
/// reasoning open with their first piece, so that an empty one never shows.
#[derive(Debug)]
pub struct MessagesReader {
    seed: u64,
    open: Open,
    /// The number the provider gave the open block.
    index: Option<u64>,
    /// Of the open block.
    signature: String,
    /// Characters of text so far, and at the beginning of the open block.
    chars: u64,
    chars_before: u64,
    /// Addresses and titles of the pages that the open block comes from.
    cited: Vec<(String, String)>,
    blocks: usize,
    calls: usize,
    ids: Vec<String>,
    started: bool,
    done: bool,
    ended: bool,
    has_content: bool,
    reason: Option<StopReason>,
    stop_sequence: Option<String>,
    usage: Option<Usage>,
}

#[derive(Debug)]
enum Open {
    Nothing,
    /// A block that nobody else knows.
    Ignored,
    /// `shown`: its `Open` has been given out.
    Text {
        shown: bool,
    },
    Thinking {
        shown: bool,
    },
    /// `input` is what stood in its start, for providers that send no deltas.
    Tool {
        input: String,
        begun: bool,
    },
}

/// As it stands in the answer, so that no vendor's types can break the read.
type Raw<'a> = Option<&'a str>;

struct Frame<'a> {
    kind: Raw<'a>,
    index: Raw<'a>,
    message: Raw<'a>,
    content_block: Option<Content<'a>>,
    delta: Option<Delta<'a>>,
    usage: Raw<'a>,
    error: Raw<'a>,
}

struct Delta<'a> {
    kind: Raw<'a>,
    text: Raw<'a>,
    partial_json: Raw<'a>,
    thinking: Raw<'a>,
    signature: Raw<'a>,
    citation: Raw<'a>,
    stop: Stop<'a>,
}

/// Why an answer ended.
struct Stop<'a> {
    reason: Raw<'a>,
    sequence: Raw<'a>,
    details: Raw<'a>,
}

/// A content block, of a whole message or as a stream begins it.
struct Content<'a> {
    kind: Raw<'a>,
    text: Raw<'a>,
    thinking: Raw<'a>,
    signature: Raw<'a>,
    data: Raw<'a>,
    id: Raw<'a>,
    name: Raw<'a>,
    input: Raw<'a>,
    citations: Raw<'a>,
}

struct Message<'a> {
    kind: Raw<'a>,
    id: Raw<'a>,
    model: Raw<'a>,
    content: Raw<'a>,
    stop: Stop<'a>,
    usage: Raw<'a>,
    error: Raw<'a>,
}

impl<'a> Frame<'a> {
    fn read(scan: &mut Scan<'a>) -> Read<Self> {
        let (mut content_block, mut delta) = (None, None);
        let keys = &["type", "index", "message", "usage", "error"];
        let [kind, index, message, usage, error] =
            raw::object_with(scan, keys, &["content_block", "delta"], &mut |at, scan| {
                match at {
                    0 => content_block = Some(Content::read(scan)?),
                    _ => delta = Some(Delta::read(scan)?),
                }
                Ok(())
            })?;
        Ok(Self { kind, index, message, content_block, delta, usage, error })
    }
}

impl<'a> Delta<'a> {
    fn read(scan: &mut Scan<'a>) -> Read<Self> {
        let keys = &[
            "type",
            "text",
            "partial_json",
            "thinking",
            "signature",
            "citation",
            "stop_reason",
            "stop_sequence",
            "stop_details",
        ];
        let [kind, text, partial_json, thinking, signature, citation, reason, sequence, details] =
            raw::object(scan, keys)?;
        let stop = Stop { reason, sequence, details };
        Ok(Self { kind, text, partial_json, thinking, signature, citation, stop })
    }
}

impl<'a> Content<'a> {
    fn read(scan: &mut Scan<'a>) -> Read<Self> {
        let keys = &["type", "text", "thinking", "signature", "data", "id", "name", "input", "citations"];
        let [kind, text, thinking, signature, data, id, name, input, citations] = raw::object(scan, keys)?;
        Ok(Self { kind, text, thinking, signature, data, id, name, input, citations })
    }
}

impl<'a> Message<'a> {
    fn read(text: &'a str) -> Read<Self> {
        let keys = &[
            "type",
            "id",
            "model",
            "content",
            "stop_reason",
            "stop_sequence",
            "stop_details",
            "usage",
            "error",
        ];
        let [kind, id, model, content, reason, sequence, details, usage, error] = raw::members(text, keys)?;
        let stop = Stop { reason, sequence, details };
        Ok(Self { kind, id, model, content, stop, usage, error })
    }
}

impl MessagesReader {
    /// `seed` is what ids are made of where the provider sends none.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            open: Open::Nothing,
            index: None,
            signature: String::new(),
            chars: 0,
            chars_before: 0,
            cited: Vec::new(),
            blocks: 0,
            calls: 0,
            ids: Vec::new(),
            started: false,
            done: false,
            ended: false,
            has_content: false,
            reason: None,
            stop_sequence: None,
            usage: None,
        }
    }

    /// Whether text, reasoning or a call has been given out.
    pub fn has_content(&self) -> bool {
        self.has_content
    }

    /// The usage told so far.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Whether the provider has said that nothing follows: [`Self::end`] is due.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Whether the answer is complete, so that a lost connection loses nothing.
    pub fn is_finished(&self) -> bool {
        self.done || self.reason.is_some()
    }

    /// Reads one event of the stream. Its name is only looked at where the data has no `type`.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn event(&mut self, name: &str, data: &str, sink: Sink<'_>) -> Result<(), ReadError> {
        let data = data.trim_matches(is_space);
        if self.done || self.ended || data.is_empty() || data == "[DONE]" {
            return Ok(());
        }
        let error = || ReadError::Error(data.to_owned());
        if name == "error" {
            return Err(error());
        }
        let frame = raw::read(data, Frame::read)?;
        let kind = text(frame.kind).unwrap_or(Cow::Borrowed(name));
        if kind == "error" || says_something(frame.error) {
            return Err(error());
        }
        match &*kind {
            "content_block_delta" => match &frame.delta {
                Some(delta) => self.delta(count(frame.index), delta, sink),
                None => Err(ReadError::Malformed),
            },
            "content_block_start" => match &frame.content_block {
                Some(block) => {
                    self.close(sink);
                    self.start(None, sink);
                    self.index = count(frame.index);
                    self.open_block(block, sink)
                }
                None => Err(ReadError::Malformed),
            },
            "content_block_stop" => {
                if count(frame.index) == self.index {
                    self.close(sink);
                }
                Ok(())
            }
            "message_start" => {
                let message = Message::read(frame.message.ok_or(ReadError::Malformed)?)?;
                self.start(Some(&message), sink);
                Ok(())
            }
            "message_delta" => {
                self.start(None, sink);
                self.take_usage(frame.usage);
                let Some(delta) = &frame.delta else { return Ok(()) };
                self.close(sink);
                self.take_reason(&delta.stop, sink);
                Ok(())
            }
            "message_stop" => {
                self.done = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The provider's body has ended, or [`Self::is_done`]. How it ended makes no difference: this protocol says
    /// when an answer is complete.
    ///
    /// # Errors
    /// [`Truncated`] if neither a stop reason nor `message_stop` has come, or a block is still open.
    pub fn end(&mut self, _framed: bool, sink: Sink<'_>) -> Result<(), Truncated> {
        if self.ended {
            return Ok(());
        }
        let in_call = matches!(self.open, Open::Tool { .. });
        if !self.is_finished() || in_call {
            return Err(Truncated);
        }
        self.ended = true;
        self.start(None, sink);
        self.close(sink);
        let reason = match self.reason.unwrap_or(StopReason::End) {
            // What the client should do now decides, whatever the provider calls it.
            StopReason::End | StopReason::ToolUse | StopReason::StopSequence if self.calls > 0 => {
                StopReason::ToolUse
            }
            StopReason::ToolUse => StopReason::End,
            StopReason::StopSequence if self.stop_sequence.is_none() => StopReason::End,
            reason => reason,
        };
        sink(Event::Finish {
            reason,
            stop_sequence: self.stop_sequence.as_deref().filter(|_| reason == StopReason::StopSequence),
            usage: self.usage.unwrap_or_default(),
        });
        Ok(())
    }

    /// Reads a whole answer, end included.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn whole(&mut self, text: &str, sink: Sink<'_>) -> Result<(), ReadError> {
        let text = text.trim_matches(is_space);
        let error = || ReadError::Error(text.to_owned());
        if !text.starts_with('{') {
            return Err(if raw::value(text).is_ok() { error() } else { ReadError::Malformed });
        }
        let message = Message::read(text).map_err(|unread| match unread {
            Unread::Misshapen => error(),
            Unread::Malformed => ReadError::Malformed,
        })?;
        let content = message.content.filter(|raw| raw.starts_with('['));
        let is_error = super::json::text(message.kind).as_deref() == Some("error");
        let (Some(content), false) = (content, is_error || says_something(message.error)) else {
            return Err(error());
        };
        self.start(Some(&message), sink);
        for_each(content, &mut |block| {
            self.open_block(&raw::read(block, Content::read)?, sink)?;
            self.close(sink);
            Ok(())
        })?;
        self.take_reason(&message.stop, sink);
        self.done = true;
        self.end(true, sink).map_err(|Truncated| ReadError::Malformed)
    }

    fn start(&mut self, message: Option<&Message<'_>>, sink: Sink<'_>) {
        if let Some(message) = message {
            self.take_usage(message.usage);
        }
        if !self.started {
            self.started = true;
            let id = message.and_then(|message| text(message.id)).unwrap_or_default();
            let model = message.and_then(|message| text(message.model)).unwrap_or_default();
            sink(Event::Start { id: &id, model: &model, usage: self.usage.unwrap_or_default() });
        }
    }

    fn take_usage(&mut self, usage: Raw<'_>) {
        if says_something(usage) {
            read_messages(usage, self.usage.get_or_insert_default());
        }
    }

    fn take_reason(&mut self, stop: &Stop<'_>, sink: Sink<'_>) {
        let Some(reason) = some_text(stop.reason) else { return };
        let reason = match &*reason {
            "stop_sequence" => StopReason::StopSequence,
            "max_tokens" | "model_context_window_exceeded" => StopReason::MaxTokens,
            "tool_use" => StopReason::ToolUse,
            "refusal" => StopReason::Refusal,
            _ => StopReason::End,
        };
        self.stop_sequence = some_text(stop.sequence).map(Cow::into_owned).or(self.stop_sequence.take());
        let first = self.reason.replace(reason).is_none();
        // Why a model refused is told beside its content; other protocols have it inside.
        if reason == StopReason::Refusal && first {
            let details = stop.details.and_then(|raw| raw::members(raw, &["explanation"]).ok());
            if let Some(why) = details.and_then(|[why]| some_text(why)) {
                sink(Event::Open(Block::Refusal));
                self.say(&why, sink);
                sink(Event::Close { signature: None });
            }
        }
    }

    fn say(&mut self, piece: &str, sink: Sink<'_>) {
        self.has_content = true;
        sink(Event::Delta(piece));
    }

    fn open_block(&mut self, block: &Content<'_>, sink: Sink<'_>) -> Result<(), ReadError> {
        self.blocks += 1;
        if self.blocks > ANSWER_BLOCKS_MAX {
            return Err(ReadError::Broken("the answer has more blocks than we take"));
        }
        let kind = text(block.kind).unwrap_or_default();
        match &*kind {
            "text" => {
                self.open = Open::Text { shown: false };
                self.text(&some_text(block.text).unwrap_or_default(), sink);
                if let Some(list) = block.citations.filter(|_| says_something(block.citations)) {
                    // What is misshapen is nothing that an answer could not do without.
                    let _ = for_each(list, &mut |citation| {
                        self.cite(Some(citation));
                        Ok(())
                    });
                }
            }
            "thinking" => {
                self.open = Open::Thinking { shown: false };
                self.signature.push_str(&some_text(block.signature).unwrap_or_default());
                self.thinking(&some_text(block.thinking).unwrap_or_default(), sink);
            }
            "redacted_thinking" => {
                sink(Event::Open(Block::RedactedThinking(&text(block.data).unwrap_or_default())));
                sink(Event::Close { signature: None });
                self.open = Open::Ignored;
            }
            "tool_use" => {
                if self.calls >= ANSWER_CALLS_MAX {
                    return Err(ReadError::Broken("the answer has more tool calls than we take"));
                }
                let Some(name) = some_text(block.name) else {
                    return Err(ReadError::Broken("a tool call without a name"));
                };
                let id = some_text(block.id).filter(|id| !self.ids.iter().any(|known| known == id));
                let id = match id {
                    Some(id) => id.into_owned(),
                    None => make_id("toolu_", self.seed, self.calls as u64),
                };
                self.calls += 1;
                self.has_content = true;
                sink(Event::Open(Block::Tool { id: &id, name: &name, signature: None }));
                self.ids.push(id);
                let input = object(block.input.unwrap_or_default())
                    .filter(|input| !is_empty_object(input))
                    .unwrap_or_default();
                self.open = Open::Tool { input: input.into_owned(), begun: false };
            }
            _ => self.open = Open::Ignored,
        }
        Ok(())
    }

    fn text(&mut self, piece: &str, sink: Sink<'_>) {
        if !piece.is_empty() {
            if let Open::Text { shown: shown @ false } = &mut self.open {
                *shown = true;
                self.chars_before = self.chars;
                sink(Event::Open(Block::Text));
            }
            self.chars = self.chars.saturating_add(piece.chars().count() as u64);
            self.say(piece, sink);
        }
    }

    fn thinking(&mut self, piece: &str, sink: Sink<'_>) {
        if !piece.is_empty() {
            if let Open::Thinking { shown: shown @ false } = &mut self.open {
                *shown = true;
                sink(Event::Open(Block::Thinking));
            }
            self.say(piece, sink);
        }
    }

    fn delta(&mut self, index: Option<u64>, delta: &Delta<'_>, sink: Sink<'_>) -> Result<(), ReadError> {
        let kind = text(delta.kind).unwrap_or_default();
        if matches!(self.open, Open::Nothing) || index != self.index {
            match &*kind {
                // Some servers forget to begin or to end blocks.
                "text_delta" | "thinking_delta" => {
                    self.close(sink);
                    self.start(None, sink);
                    self.index = index;
                    self.open = match &*kind {
                        "text_delta" => Open::Text { shown: false },
                        _ => Open::Thinking { shown: false },
                    };
                }
                "input_json_delta" => return Err(ReadError::Broken("arguments of a call that is not open")),
                _ => return Ok(()),
            }
        }
        match (&*kind, &mut self.open) {
            ("text_delta", Open::Text { .. }) => self.text(&some_text(delta.text).unwrap_or_default(), sink),
            ("thinking_delta", Open::Thinking { .. }) => {
                self.thinking(&some_text(delta.thinking).unwrap_or_default(), sink);
            }
            ("citations_delta", Open::Text { .. }) => self.cite(delta.citation),
            ("signature_delta", Open::Thinking { .. }) => {
                self.signature.push_str(&some_text(delta.signature).unwrap_or_default());
            }
            ("input_json_delta", Open::Tool { begun, .. }) => {
                if let Some(piece) = some_text(delta.partial_json) {
                    *begun = true;
                    self.say(&piece, sink);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Keeps a source for the end of its block, if it is a page: other places have no counterpart.
    fn cite(&mut self, citation: Raw<'_>) {
        let keys = &["url", "source", "title"];
        let Some([url, source, title]) = citation.and_then(|raw| raw::members(raw, keys).ok()) else {
            return;
        };
        // A search result that the client sent has a source.
        let source = || some_text(source).filter(|source| source.starts_with("http"));
        if let Some(url) = some_text(url).or_else(source)
            && self.cited.len() < BLOCK_CITATIONS_MAX
        {
            self.cited.push((url.into_owned(), text(title).unwrap_or_default().into_owned()));
        }
    }

    fn close(&mut self, sink: Sink<'_>) {
        let cited = std::mem::take(&mut self.cited);
        let signature = std::mem::take(&mut self.signature);
        let signature = Some(signature.as_str()).filter(|signature| !signature.is_empty());
        match std::mem::replace(&mut self.open, Open::Nothing) {
            Open::Nothing | Open::Ignored | Open::Text { shown: false } => {}
            Open::Text { shown: true } => {
                for (url, title) in cited {
                    let (start, end) = (self.chars_before, self.chars);
                    sink(Event::Cited(Citation { url: &url, title: &title, start, end }));
                }
                sink(Event::Close { signature: None });
            }
            Open::Thinking { shown } => {
                if !shown && signature.is_some() {
                    sink(Event::Open(Block::Thinking));
                }
                if shown || signature.is_some() {
                    sink(Event::Close { signature });
                }
            }
            Open::Tool { input, begun } => {
                if !begun && !input.is_empty() {
                    self.say(&input, sink);
                }
                sink(Event::Close { signature: None });
            }
        }
    }
}

fn is_empty_object(text: &str) -> bool {
    text.strip_prefix('{').is_some_and(|rest| rest.trim_start_matches(is_space) == "}")
}

#[cfg(test)]
mod tests {
    use super::super::grammar::{Grammar, SaidEnd};
    use super::*;

    /// Reads the events of a stream; their texts, then how it ended.
    fn read(events: &[&str]) -> (Vec<(&'static str, String)>, String) {
        let (mut grammar, mut reader) = (Grammar::default(), MessagesReader::new(1));
        let mut result = Ok(());
        for data in events {
            match reader.event("", data, &mut |event| grammar.event(&event)) {
                Ok(()) | Err(ReadError::Malformed) => {}
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let blocks = |grammar: &Grammar| {
            let said = grammar.said.blocks.iter();
            said.map(|block| (block.kind, format!("{}{}", block.name, block.text))).collect()
        };
        if let Err(error) = result {
            return (blocks(&grammar), format!("{error:?}"));
        }
        let ended = reader.end(true, &mut |event| grammar.event(&event));
        let end = match (ended, &grammar.said.end) {
            (Ok(()), Some(SaidEnd::Finish(reason, ..))) => format!("{reason:?}"),
            (ended, _) => format!("{ended:?}"),
        };
        (blocks(&grammar), end)
    }

    #[track_caller]
    fn check(events: &[&str], blocks: &[(&'static str, &str)], end: &str) {
        let blocks = blocks.iter().map(|(kind, text)| (*kind, (*text).to_owned())).collect();
        assert_eq!(read(events), (blocks, end.to_owned()));
    }

    const START: &str = r#"{"type":"message_start","message":{"id":"m"}}"#;
    const TEXT: &str = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}"#;
    const TOOL: &str = r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t","name":"f","input":{"a":1}}}"#;
    const JSON: &str =
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{}"}}"#;
    const STOP_1: &str = r#"{"type":"content_block_stop","index":1}"#;
    const STOP: &str = r#"{"type":"message_stop"}"#;

    fn reason(reason: &str) -> String {
        format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"{reason}"}}}}"#)
    }

    #[test]
    fn sloppy_servers_are_understood() {
        let end = reason("end_turn");
        check(&[START, TEXT, &end, STOP], &[("text", "x")], "End");
        check(&[TEXT, &end], &[("text", "x")], "End");
        check(&[START, TEXT, TOOL, STOP_1, &end], &[("text", "x"), ("tool", r#"f{"a":1}"#)], "ToolUse");
        check(&[START, TOOL, JSON, STOP_1, STOP], &[("tool", "f{}")], "ToolUse");
        check(&[START, TOOL, JSON, &end], &[("tool", "f{}")], "ToolUse");
        check(&[START, "junk", TEXT, "[1]", &end, STOP, TEXT], &[("text", "x")], "End");
        check(&[START, &reason("tool_use"), STOP], &[], "End");
        check(&[START, &reason("stop_sequence"), STOP], &[], "End");
        check(&[START, TEXT, &reason("pause_turn"), STOP], &[("text", "x")], "End");
    }

    #[test]
    fn half_answers_are_no_answers() {
        check(&[START, TEXT], &[("text", "x")], "Err(Truncated)");
        check(&[START, TOOL, JSON], &[("tool", "f{}")], "Err(Truncated)");
        check(&[START, TOOL, JSON, STOP], &[("tool", "f{}")], "Err(Truncated)");
        check(&[START, JSON], &[], r#"Broken("arguments of a call that is not open")"#);
        let error = r#"{"type":"error","error":{"type":"overloaded_error"}}"#;
        check(&[START, TEXT, error], &[("text", "x")], &format!("{:?}", ReadError::Error(error.into())));
        let nameless =
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t"}}"#;
        check(&[START, nameless], &[], r#"Broken("a tool call without a name")"#);
    }

    #[test]
    fn a_refusal_says_why() {
        let why = r#"{"type":"message_delta","delta":{"stop_reason":"refusal","stop_details":{"explanation":"no"}}}"#;
        check(&[START, TEXT, why, why, STOP], &[("text", "x"), ("refusal", "no")], "Refusal");
    }

    #[test]
    fn whole_answers_are_judged() {
        for (text, expected) in [
            (r#"{"type":"error","error":{"type":"api_error","message":"m"}}"#, "error"),
            (r#"{"error":{"message":"m"}}"#, "error"),
            (r#"{"detail":"no"}"#, "error"),
            ("[]", "error"),
            ("<html>", "malformed"),
            (r#"{"content":["#, "malformed"),
            (r#"{"content":["x"]}"#, "malformed"),
            (r#"{"content":[]}"#, "answer"),
            (
                r#"{"content":[{"type":"tool_use","id":"a","name":"f"},{"type":"tool_use","id":"a","name":"f"}]}"#,
                "answer",
            ),
        ] {
            let mut grammar = Grammar::default();
            let got = match MessagesReader::new(1).whole(text, &mut |event| grammar.event(&event)) {
                Ok(()) => "answer",
                Err(ReadError::Error(_)) => "error",
                Err(ReadError::Malformed) => "malformed",
                Err(ReadError::Broken(_)) => "broken",
            };
            assert_eq!(got, expected, "{text}");
        }
    }

    #[test]
    fn blocks_and_calls_have_limits() {
        for (over, fits) in [(0, true), (1, false)] {
            for (block, limit) in [
                (r#"{"type":"text","text":"x"}"#, ANSWER_BLOCKS_MAX),
                (r#"{"type":"tool_use","name":"f"}"#, ANSWER_CALLS_MAX),
            ] {
                let text = format!("{{\"content\":[{}]}}", vec![block; limit + over].join(","));
                assert_eq!(
                    MessagesReader::new(1).whole(&text, &mut |_| ()).is_ok(),
                    fits,
                    "{block} {over} over"
                );
            }
        }
    }
}
