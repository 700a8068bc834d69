//! A chat completion, streamed or whole, as events (openai-chat §4 to §6, translation §9).

use super::assemble::{Assembler, Fragment, Kind};
use super::json::{count, for_each, object, some_text, text};
use super::think::{ThinkFilter, ThinkTags};
use super::usage::read_chat;
use super::{ReadError, Sink, Truncated};
use crate::dialect::chat::{Answer, says_something};
use crate::dialect::model::{Citation, Event, StopReason, Usage};
use crate::dialect::raw::{self, Read};
use crate::dialect::request::compact;
use crate::dialect::skim::Scan;
use crate::dialect::splice::is_space;
use std::borrow::Cow;

/// Reads one answer of one backend: every event of its stream in order, then the end; or a whole answer.
///
/// The first choice only. Blocks open with their first piece, so that an empty one never shows.
#[derive(Debug)]
pub struct ChatReader {
    think: ThinkFilter,
    blocks: Assembler,
    started: bool,
    done: bool,
    ended: bool,
    finish: Option<Finish>,
    stop_sequence: Option<String>,
    usage: Option<Usage>,
}

/// What the provider gave as the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    Stop,
    Length,
    Filter,
}

/// As it stands in the answer, so that no vendor's types can break the read.
type Raw<'a> = Option<&'a str>;

/// A chunk, or a whole answer.
#[derive(Default)]
struct Chunk<'a> {
    id: Raw<'a>,
    model: Raw<'a>,
    choices: Choices<'a>,
    usage: Raw<'a>,
    error: Raw<'a>,
    base_resp: Raw<'a>,
    x_groq: XGroq<'a>,
}

#[derive(Default)]
struct XGroq<'a> {
    usage: Raw<'a>,
    error: Raw<'a>,
}

/// The choices of a chunk, of which one matters: no list is built.
#[derive(Default)]
struct Choices<'a> {
    is_list: bool,
    first: Option<Choice<'a>>,
}

struct Choice<'a> {
    index: Raw<'a>,
    delta: Option<Delta<'a>>,
    message: Option<Delta<'a>>,
    finish_reason: Raw<'a>,
    logprobs: Raw<'a>,
    /// vLLM: the stop string that matched, or a token's number.
    stop_reason: Raw<'a>,
    error: Raw<'a>,
}

struct Delta<'a> {
    content: Raw<'a>,
    reasoning_content: Raw<'a>,
    reasoning: Raw<'a>,
    reasoning_details: Raw<'a>,
    refusal: Raw<'a>,
    tool_calls: Raw<'a>,
    function_call: Raw<'a>,
    annotations: Raw<'a>,
}

/// A part of content in an array (Mistral), of reasoning in `reasoning_details`, or of either in them.
struct Part<'a> {
    kind: Raw<'a>,
    text: Raw<'a>,
    summary: Raw<'a>,
    thinking: Raw<'a>,
    refusal: Raw<'a>,
}

impl<'a> Choices<'a> {
    fn read(scan: &mut Scan<'a>) -> Read<Self> {
        let (mut choices, mut list) = (Self { is_list: true, first: None }, raw::List::default());
        while list.next(scan)? {
            if choices.first.is_some() {
                scan.value()?;
                continue;
            }
            let choice = Choice::read(scan)?;
            choices.first = Some(choice).filter(|choice| count(choice.index).unwrap_or(0) == 0);
        }
        Ok(choices)
    }
}

impl<'a> Choice<'a> {
    fn read(scan: &mut Scan<'a>) -> Read<Self> {
        let keys = &["index", "finish_reason", "logprobs", "stop_reason", "error"];
        let (mut delta, mut message) = (None, None);
        let [index, finish_reason, logprobs, stop_reason, error] =
            raw::object_with(scan, keys, &["delta", "message"], &mut |at, scan| {
                let said = Some(Delta::read(scan)?);
                if at == 0 {
                    delta = said;
                } else {
                    message = said;
                }
                Ok(())
            })?;
        Ok(Self { index, delta, message, finish_reason, logprobs, stop_reason, error })
    }
}

impl<'a> Delta<'a> {
    fn read(scan: &mut Scan<'a>) -> Read<Self> {
        let keys = &[
            "content",
            "reasoning_content",
            "reasoning",
            "reasoning_details",
            "refusal",
            "tool_calls",
            "function_call",
            "annotations",
        ];
        let [
            content,
            reasoning_content,
            reasoning,
            reasoning_details,
            refusal,
            tool_calls,
            function_call,
            annotations,
        ] = raw::object(scan, keys)?;
        Ok(Self {
            content,
            reasoning_content,
            reasoning,
            reasoning_details,
            refusal,
            tool_calls,
            function_call,
            annotations,
        })
    }
}

impl ChatReader {
    /// `seed` is what ids are made of where the provider sends none.
    pub fn new(seed: u64, think: ThinkTags) -> Self {
        Self {
            think: ThinkFilter::new(think),
            blocks: Assembler::new(seed),
            started: false,
            done: false,
            ended: false,
            finish: None,
            stop_sequence: None,
            usage: None,
        }
    }

    /// Whether text, reasoning or a call has been given out.
    pub fn has_content(&self) -> bool {
        self.blocks.has_content
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
        self.done || self.finish.is_some()
    }

    /// Reads one event of the stream.
    ///
    /// # Errors
    /// See [`ReadError`]. Nothing of the event has been given out if it is malformed or an error.
    pub fn event(&mut self, name: &str, data: &str, sink: Sink<'_>) -> Result<(), ReadError> {
        let data = data.trim_matches(is_space);
        if self.done || self.ended || data.is_empty() {
            return Ok(());
        }
        if data == "[DONE]" {
            self.done = true;
            return Ok(());
        }
        if name == "error" {
            return Err(ReadError::Error(data.to_owned()));
        }
        let chunk = Chunk::read(data)?;
        self.take_usage(&chunk);
        let Some(choice) = &chunk.choices.first else { return Ok(()) };
        let finish = read_finish(choice, data)?;
        self.start(&chunk, sink);
        give_logprobs(choice.logprobs, sink);
        match (&choice.delta, &choice.message) {
            (Some(delta), _) => self.delta(delta, sink).map_err(half_read)?,
            // The whole message in place of a delta; behind deltas it only repeats them.
            (None, Some(message)) if !self.has_content() => {
                self.message(message, finish, sink).map_err(half_read)?;
            }
            _ => {}
        }
        self.take_finish(choice, finish);
        Ok(())
    }

    /// The provider's body has ended, or [`Self::is_done`]. `framed` tells that the end was marked, so that nothing
    /// can be missing behind it.
    ///
    /// # Errors
    /// [`Truncated`] if the answer may be half: no finish reason, and no mark or a call whose arguments may go on.
    pub fn end(&mut self, framed: bool, sink: Sink<'_>) -> Result<(), Truncated> {
        if self.ended {
            return Ok(());
        }
        let marked = self.done || framed;
        if self.finish.is_none() && !(marked && self.blocks.calls_are_complete(self.done)) {
            return Err(Truncated);
        }
        self.ended = true;
        self.start(&Chunk::default(), sink);
        // At most a tag; if it is what is one too many to hold, the blocks before it still end.
        let _ = self.end_think(sink);
        self.blocks.end(self.finish != Some(Finish::Length) && self.finish != Some(Finish::Filter), sink);
        let reason = self.reason();
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
    /// See [`ReadError`]; also if a call's arguments are no JSON although the answer was not cut off by a limit.
    pub fn whole(&mut self, text: &str, sink: Sink<'_>) -> Result<(), ReadError> {
        let text = text.trim_matches(is_space);
        let chunk = Chunk::read(text)?;
        if !chunk.choices.is_list {
            return Err(ReadError::Error(text.to_owned()));
        }
        self.take_usage(&chunk);
        self.start(&chunk, sink);
        if let Some(choice) = &chunk.choices.first {
            let finish = read_finish(choice, text)?;
            give_logprobs(choice.logprobs, sink);
            if let Some(message) = choice.message.as_ref().or(choice.delta.as_ref()) {
                self.message(message, finish, sink)?;
            }
            self.take_finish(choice, finish);
        }
        self.done = true;
        self.end(true, sink).map_err(|Truncated| ReadError::Malformed)
    }

    fn start(&mut self, chunk: &Chunk<'_>, sink: Sink<'_>) {
        if !self.started {
            self.started = true;
            let (id, model) = (text(chunk.id).unwrap_or_default(), text(chunk.model).unwrap_or_default());
            sink(Event::Start { id: &id, model: &model, usage: self.usage.unwrap_or_default() });
        }
    }

    fn take_usage(&mut self, chunk: &Chunk<'_>) {
        let groq = || read_chat(chunk.x_groq.usage);
        self.usage = read_chat(chunk.usage).or_else(groq).or(self.usage);
    }

    fn take_finish(&mut self, choice: &Choice<'_>, finish: Option<Finish>) {
        self.finish = finish.or(self.finish);
        if let Some(stop) = some_text(choice.stop_reason) {
            self.stop_sequence = Some(stop.into_owned());
        }
    }

    /// What a client should do now decides before what the provider calls it; but a call that was cut off must not
    /// be run (translation §6).
    fn reason(&self) -> StopReason {
        match self.finish {
            Some(Finish::Length) => StopReason::MaxTokens,
            Some(Finish::Filter) => StopReason::Refusal,
            _ if self.blocks.has_calls => StopReason::ToolUse,
            _ if self.blocks.has_refusal => StopReason::Refusal,
            _ if self.stop_sequence.is_some() => StopReason::StopSequence,
            _ => StopReason::End,
        }
    }

    fn delta(&mut self, delta: &Delta<'_>, sink: Sink<'_>) -> Result<(), ReadError> {
        self.texts(delta, sink)?;
        give_citations(delta.annotations, sink);
        if says_something(delta.tool_calls) || says_something(delta.function_call) {
            self.end_think(sink)?;
        }
        for_calls(delta, &mut |fragment, _| self.blocks.call(fragment, sink))
    }

    fn message(
        &mut self,
        message: &Delta<'_>,
        finish: Option<Finish>,
        sink: Sink<'_>,
    ) -> Result<(), ReadError> {
        self.texts(message, sink)?;
        self.end_think(sink)?;
        give_citations(message.annotations, sink);
        let blocks = &mut self.blocks;
        for_calls(message, &mut |fragment, arguments| {
            let repaired = match object(arguments) {
                Some(object) => object,
                None if finish == Some(Finish::Length) => Cow::Borrowed(arguments),
                None => return Err(ReadError::Malformed),
            };
            let whole = Fragment { arguments: &repaired, ..*fragment };
            blocks.whole_call(&whole, sink)
        })
    }

    /// Gives out what might have become a tag.
    fn end_think(&mut self, sink: Sink<'_>) -> Result<(), ReadError> {
        let mut said = Ok(());
        let Self { think, blocks, .. } = self;
        think.end(&mut |thinks, text| {
            said = blocks.say(if thinks { Kind::Thinking } else { Kind::Text }, text, sink);
        });
        said
    }

    /// Reasoning, text and refusal of a delta.
    fn texts(&mut self, delta: &Delta<'_>, sink: Sink<'_>) -> Result<(), ReadError> {
        // The same words may stand in two of them: one is taken.
        if let Some(words) = some_text(delta.reasoning_content).or_else(|| some_text(delta.reasoning)) {
            // A server that parts them leaves no tags.
            self.think.pass();
            self.blocks.say(Kind::Thinking, &words, sink)?;
        } else {
            let details = for_parts(delta.reasoning_details, &mut |part| {
                let words = some_text(part.text).or_else(|| some_text(part.summary)).unwrap_or_default();
                self.blocks.say(Kind::Thinking, &words, sink)
            });
            // Of reasoning in a form that nobody knows, nothing is missed.
            details.or_else(|error| if error == ReadError::Malformed { Ok(()) } else { Err(error) })?;
        }
        if let Some(words) = some_text(delta.content) {
            self.content(&words, sink)?;
        } else {
            for_parts(delta.content, &mut |part| self.part(part, sink))?;
        }
        let refusal = some_text(delta.refusal).unwrap_or_default();
        self.blocks.say(Kind::Refusal, &refusal, sink)
    }

    fn content(&mut self, words: &str, sink: Sink<'_>) -> Result<(), ReadError> {
        if self.think.is_off() {
            return self.blocks.say(Kind::Text, words, sink);
        }
        let mut said = Ok(());
        let Self { think, blocks, .. } = self;
        think.take(words, &mut |thinks, words| {
            if said.is_ok() {
                said = blocks.say(if thinks { Kind::Thinking } else { Kind::Text }, words, sink);
            }
        });
        said
    }

    fn part(&mut self, part: &Part<'_>, sink: Sink<'_>) -> Result<(), ReadError> {
        if says_something(part.thinking) {
            let words = some_text(part.thinking).unwrap_or_default();
            self.blocks.say(Kind::Thinking, &words, sink)?;
            return for_parts(part.thinking, &mut |inner| {
                self.blocks.say(Kind::Thinking, &some_text(inner.text).unwrap_or_default(), sink)
            });
        }
        if let Some(words) = some_text(part.refusal) {
            return self.blocks.say(Kind::Refusal, &words, sink);
        }
        let is_text = matches!(text(part.kind).as_deref(), None | Some("text" | "output_text"));
        match some_text(part.text).filter(|_| is_text) {
            Some(words) => self.content(&words, sink),
            None => Ok(()),
        }
    }
}

impl<'a> Chunk<'a> {
    /// Reads a chunk that is no error.
    fn read(data: &'a str) -> Result<Self, ReadError> {
        if let Ok(chunk) = raw::read(data, Self::object) {
            let in_choice = chunk.choices.first.as_ref().and_then(|choice| choice.error);
            let plain = chunk.choices.is_list && !says_something(chunk.base_resp);
            if [chunk.error, chunk.x_groq.error, in_choice].into_iter().any(says_something) {
                return Err(ReadError::Error(data.to_owned()));
            }
            if plain || !Answer::read(data).is_ok_and(|answer| answer.is_error()) {
                return Ok(chunk);
            }
            return Err(ReadError::Error(data.to_owned()));
        }
        match Answer::read(data) {
            Ok(answer) if answer.is_error() => Err(ReadError::Error(data.to_owned())),
            _ => Err(ReadError::Malformed),
        }
    }

    fn object(scan: &mut Scan<'a>) -> Read<Self> {
        let (mut choices, mut x_groq) = (Choices::default(), XGroq::default());
        let keys = &["id", "model", "usage", "error", "base_resp"];
        let [id, model, usage, error, base_resp] =
            raw::object_with(scan, keys, &["choices", "x_groq"], &mut |at, scan| {
                if at == 0 {
                    choices = Choices::read(scan)?;
                } else {
                    let [usage, error] = raw::object(scan, &["usage", "error"])?;
                    x_groq = XGroq { usage, error };
                }
                Ok(())
            })?;
        Ok(Self { id, model, choices, usage, error, base_resp, x_groq })
    }
}

/// A chunk of which a part is lost must not be skipped like a bad line: what is missing may be a call.
fn half_read(error: ReadError) -> ReadError {
    match error {
        ReadError::Malformed => ReadError::Broken("a part of the answer has an unknown form"),
        error => error,
    }
}

/// The finish reason of a choice; words that nobody knows mean `stop`.
///
/// # Errors
/// The provider broke off: OpenRouter's `error`, Z.ai's `network_error`, DeepSeek's `insufficient_system_resource`,
/// vLLM's `abort`.
fn read_finish(choice: &Choice<'_>, data: &str) -> Result<Option<Finish>, ReadError> {
    Ok(match some_text(choice.finish_reason).as_deref() {
        None => None,
        Some("length" | "max_tokens" | "model_length") => Some(Finish::Length),
        Some("content_filter" | "sensitive" | "refusal") => Some(Finish::Filter),
        Some("error" | "network_error" | "insufficient_system_resource" | "abort") => {
            return Err(ReadError::Error(data.to_owned()));
        }
        Some(_) => Some(Finish::Stop),
    })
}

/// Hands on each call of a delta: what is known of it, and its arguments as text.
fn for_calls(
    delta: &Delta<'_>,
    take: &mut dyn FnMut(&Fragment<'_>, &str) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    if let Some(list) = delta.tool_calls.filter(|_| says_something(delta.tool_calls)) {
        return for_each(list, &mut |call| {
            let [index, id, function, extra] =
                raw::members(call, &["index", "id", "function", "extra_content"])?;
            let (id, signature) = (text(id).unwrap_or_default(), thought_signature(extra));
            let (id, signature) = (&*id, signature.as_deref());
            let call = Fragment { index: count(index), id, signature, ..Fragment::default() };
            hand(call, function.unwrap_or("{}"), take)
        });
    }
    // The form before tools: one call, no id.
    match delta.function_call.filter(|_| says_something(delta.function_call)) {
        Some(function) => hand(Fragment::default(), function, take),
        None => Ok(()),
    }
}

/// Hands on a call with what its function says.
fn hand(
    call: Fragment<'_>,
    function: &str,
    take: &mut dyn FnMut(&Fragment<'_>, &str) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let [name, arguments] = raw::members(function, &["name", "arguments"])?;
    // Some servers send the object itself instead of its text.
    let arguments = arguments.map(|raw| text(Some(raw)).unwrap_or(Cow::Borrowed(raw))).unwrap_or_default();
    let name = text(name).unwrap_or_default();
    take(&Fragment { name: &name, arguments: &arguments, ..call }, &arguments)
}

/// Hands on the log probabilities of a choice.
fn give_logprobs(logprobs: Raw<'_>, sink: Sink<'_>) {
    if !says_something(logprobs) {
        return;
    }
    let content = logprobs.and_then(|raw| raw::members(raw, &["content"]).ok()).and_then(|[content]| content);
    let list = content.and_then(|raw| raw.strip_prefix('[')?.strip_suffix(']'));
    if let Some(list) = list.filter(|list| !list.trim_matches(is_space).is_empty()) {
        // A frame is one line.
        sink(Event::Logprobs(&compact(list)));
    }
}

/// Hands on the pages that a text comes from. Other annotations have no counterpart.
fn give_citations(annotations: Raw<'_>, sink: Sink<'_>) {
    let Some(list) = annotations.filter(|_| says_something(annotations)) else { return };
    // What is misshapen is nothing that an answer could not do without.
    let _ = for_each(list, &mut |annotation| {
        let [page] = raw::members(annotation, &["url_citation"])?;
        let keys = &["url", "title", "start_index", "end_index"];
        let [url, title, start, end] = raw::members(page.unwrap_or("{}"), keys)?;
        if let Some(url) = some_text(url) {
            let (title, start) = (text(title).unwrap_or_default(), count(start).unwrap_or(0));
            let end = count(end).unwrap_or(start);
            sink(Event::Cited(Citation { url: &url, title: &title, start, end }));
        }
        Ok(())
    });
}

/// `extra_content.google.thought_signature`.
pub fn thought_signature(extra: Raw<'_>) -> Option<Cow<'_, str>> {
    let [google] = raw::members(extra?, &["google"]).ok()?;
    let [signature] = raw::members(google?, &["thought_signature"]).ok()?;
    some_text(signature)
}

/// Hands on each part of an array; anything else has none.
fn for_parts(
    list: Raw<'_>,
    take: &mut dyn FnMut(&Part<'_>) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let Some(list) = list.filter(|raw| raw.starts_with('[')) else { return Ok(()) };
    let keys = &["type", "text", "summary", "thinking", "refusal"];
    for_each(list, &mut |part| {
        if part == "null" {
            return Ok(());
        }
        let [kind, text, summary, thinking, refusal] = raw::members(part, keys)?;
        take(&Part { kind, text, summary, thinking, refusal })
    })
}

#[cfg(test)]
mod tests {
    use super::super::grammar::{Grammar, Said, SaidEnd};
    use super::*;

    /// What is said, one line for each block.
    fn lines(said: &Said) -> String {
        let mut lines: Vec<String> = said
            .blocks
            .iter()
            .map(|block| match block.kind {
                "tool" => {
                    let id = if block.id.len() == 29 { "made-up" } else { &block.id };
                    let signature = block.signature.as_ref().map(|s| format!(" {s}")).unwrap_or_default();
                    format!("{}({id}){signature} {}", block.name, block.text)
                }
                kind => format!("{kind} {}", block.text),
            })
            .collect();
        lines.extend(said.end.as_ref().map(|end| match end {
            SaidEnd::Finish(reason, sequence, _) => {
                format!("{reason:?}{}", sequence.as_ref().map(|s| format!(" {s}")).unwrap_or_default())
            }
            SaidEnd::Failed(..) => "failed".to_owned(),
        }));
        lines.join(" | ")
    }

    fn read(think: ThinkTags, deltas: &[&str], finish: &str) -> Result<(Said, ChatReader), String> {
        let (mut grammar, mut reader) = (Grammar::default(), ChatReader::new(1, think));
        for delta in deltas {
            let data = format!("{{\"choices\":[{{\"delta\":{delta}}}]}}");
            reader.event("", &data, &mut |event| grammar.event(&event)).map_err(|e| format!("{e:?}"))?;
        }
        if !finish.is_empty() {
            let data = format!("{{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"{finish}\"}}]}}");
            reader.event("", &data, &mut |event| grammar.event(&event)).map_err(|e| format!("{e:?}"))?;
        }
        reader.end(true, &mut |event| grammar.event(&event)).map_err(|e| format!("{e:?}"))?;
        Ok((grammar.said, reader))
    }

    #[track_caller]
    fn check(deltas: &[&str], finish: &str, expected: &str) {
        check_think(ThinkTags::None, deltas, finish, expected);
    }

    #[track_caller]
    fn check_think(think: ThinkTags, deltas: &[&str], finish: &str, expected: &str) {
        let got = read(think, deltas, finish).map(|(said, _)| lines(&said));
        assert_eq!(got.unwrap_or_else(|e| e), expected, "{deltas:?}");
    }

    /// A delta with one call: its members, and those of its function.
    fn call(members: &str, function: &str) -> String {
        format!("{{\"tool_calls\":[{{{members}\"function\":{{{function}}}}}]}}")
    }

    #[track_caller]
    fn check_calls(fragments: &[(&str, &str)], expected: &str) {
        let deltas: Vec<String> =
            fragments.iter().map(|(members, function)| call(members, function)).collect();
        check(&deltas.iter().map(String::as_str).collect::<Vec<_>>(), "tool_calls", expected);
    }

    const F: &str = r#""name":"f","arguments":"{\"a\":1}""#;
    const G: &str = r#""name":"g","arguments":"{}""#;

    #[test]
    fn calls_are_told_apart() {
        // Index, id, both, neither.
        check_calls(
            &[(r#""index":0,"id":"a","#, F), (r#""index":1,"id":"b","#, G)],
            r#"f(a) {"a":1} | g(b) {} | ToolUse"#,
        );
        check_calls(
            &[(r#""index":0,"id":"a","#, F), (r#""index":0,"id":"b","#, F)],
            r#"f(a) {"a":1} | f(b) {"a":1} | ToolUse"#,
        );
        check_calls(&[(r#""id":"a","#, F), (r#""id":"b","#, G)], r#"f(a) {"a":1} | g(b) {} | ToolUse"#);
        check_calls(&[("", F), ("", G)], r#"f(made-up) {"a":1} | g(made-up) {} | ToolUse"#);
        check_calls(&[("", F), ("", F)], r#"f(made-up) {"a":1} | f(made-up) {"a":1} | ToolUse"#);
        check_calls(
            &[(r#""index":0,"#, F), (r#""index":0,"#, F)],
            r#"f(made-up) {"a":1} | f(made-up) {"a":1} | ToolUse"#,
        );
        check_calls(&[(r#""index":null,"id":null,"#, F)], r#"f(made-up) {"a":1} | ToolUse"#);
        // The same id at another index.
        check_calls(
            &[(r#""index":0,"id":"a","#, F), (r#""index":1,"id":"a","#, G)],
            r#"f(a) {"a":1} | g(made-up) {} | ToolUse"#,
        );
    }

    #[test]
    fn fragments_find_their_call() {
        let (begin, end) = (r#""name":"f","arguments":"{\"a\"""#, r#""arguments":":1}""#);
        let expected = r#"f(a) {"a":1} | ToolUse"#;
        check_calls(&[(r#""index":0,"id":"a","#, begin), (r#""index":0,"#, end)], expected);
        check_calls(&[(r#""index":0,"id":"a","#, begin), (r#""index":0,"id":"","#, end)], expected);
        check_calls(&[(r#""index":0,"id":"a","#, begin), (r#""index":0,"id":"other","#, end)], expected);
        check_calls(&[(r#""id":"a","#, begin), ("", end)], expected);
        check_calls(&[(r#""id":"a","#, begin), (r#""id":"a","#, end)], expected);
        // Arguments before the name, the id in the middle.
        check_calls(
            &[
                (r#""index":0,"#, r#""arguments":"{\"a\"""#),
                (r#""index":0,"id":"a","#, r#""name":"f""#),
                (r#""index":0,"#, end),
            ],
            expected,
        );
        // Repeated when complete, empty ones, white space around.
        check_calls(&[(r#""index":0,"id":"a","#, F), (r#""index":0,"id":"a","#, F)], expected);
        check_calls(
            &[
                (r#""index":0,"id":"a","#, r#""name":"f","arguments":"""#),
                (r#""index":0,"#, r#""arguments":" ""#),
                (r#""index":0,"#, r#""arguments":"{\"a\":1}\n""#),
            ],
            r#"f(a) {"a":1} | ToolUse"#,
        );
        check_calls(&[(r#""index":0,"id":"a","#, r#""name":"f","arguments":{"a":1}"#)], expected);
        check_calls(&[(r#""index":0,"id":"a","#, r#""name":"f","arguments":null"#)], "f(a)  | ToolUse");
        check_calls(&[(r#""index":0,"id":"a","#, r#""arguments":"{}""#)], "End");
    }

    #[test]
    fn what_comes_in_between_waits_its_turn() {
        let a = call(r#""index":0,"id":"a","#, r#""name":"f","arguments":"{""#);
        let a_end = call(r#""index":0,"#, r#""arguments":"}""#);
        let b = call(r#""index":1,"id":"b","#, r#""name":"g","arguments":"{""#);
        let b_end = call(r#""index":1,"#, r#""arguments":"}""#);
        let x = r#"{"content":"x"}"#;
        check(&[&a, x, x, &a_end], "tool_calls", "f(a) {} | text xx | ToolUse");
        check(&[&a, &b, &b_end, &a_end, x], "tool_calls", "f(a) {} | g(b) {} | text x | ToolUse");
        check(&[&a, &b, x, &a_end, &b_end], "tool_calls", "f(a) {} | g(b) {} | text x | ToolUse");
        check(
            &[&a, x, &b, r#"{"reasoning":"r"}"#],
            "length",
            "f(a) { | text x | g(b) { | thinking r | MaxTokens",
        );
        check(&[&a, x], "", "Truncated");
        check(&[&a, &a_end], "", "f(a) {} | ToolUse");
    }

    #[test]
    fn text_has_many_names() {
        check(&[r#"{"content":"a","reasoning_content":"r"}"#], "stop", "thinking r | text a | End");
        check(
            &[r#"{"reasoning":"r","reasoning_content":"r"}"#, r#"{"content":"a"}"#],
            "stop",
            "thinking r | text a | End",
        );
        check(
            &[
                r#"{"reasoning_details":[{"type":"reasoning.text","text":"r"},{"type":"reasoning.summary","summary":"s"},{"type":"reasoning.encrypted","data":"x"}]}"#,
                r#"{"content":"a"}"#,
            ],
            "stop",
            "thinking rs | text a | End",
        );
        check(
            &[
                r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"r"}]},{"type":"text","text":"a"},{"type":"reference"},null]}"#,
            ],
            "stop",
            "thinking r | text a | End",
        );
        check(&[r#"{"content":"a","refusal":"no"}"#], "stop", "text a | refusal no | Refusal");
        check(
            &[r#"{"content":null,"function_call":{"name":"f","arguments":"{}"}}"#],
            "function_call",
            "f(made-up) {} | ToolUse",
        );
        check(&[r#"{"reasoning":"only"}"#], "stop", "thinking only | text only | End");
        check(&[r#"{"reasoning":"only"}"#], "length", "thinking only | MaxTokens");
        check(&[r#"{"reasoning_details":["odd"],"content":"a"}"#], "stop", "text a | End");
        check(&[r#"{"content":["odd"]}"#], "stop", "Broken(\"a part of the answer has an unknown form\")");
        check(&[r#"{"tool_calls":["odd"]}"#], "stop", "Broken(\"a part of the answer has an unknown form\")");
        check(&[r#"{"content":"\ud83d"}"#], "stop", "text \u{fffd} | End");
        check(
            &[
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"},"extra_content":{"google":{"thought_signature":"sig"}}}]}"#,
            ],
            "stop",
            "f(a) sig {} | ToolUse",
        );
    }

    #[test]
    fn tags_part_text_only_where_told() {
        let deltas = [r#"{"content":"<thi"}"#, r#"{"content":"nk>r</think>"}"#, r#"{"content":"\na"}"#];
        check_think(ThinkTags::Leading, &deltas, "stop", "thinking r | text a | End");
        check_think(ThinkTags::None, &deltas, "stop", "text <think>r</think>\na | End");
        let both = [r#"{"reasoning":"r"}"#, r#"{"content":"a"}"#];
        check_think(ThinkTags::Unopened, &both, "stop", "thinking r | text a | End");
        check_think(ThinkTags::Unopened, &[r#"{"content":"a"}"#], "stop", "thinking a | text a | End");
        let call = call(r#""index":0,"id":"a","#, G);
        check_think(
            ThinkTags::Leading,
            &[r#"{"content":"<th"}"#, &call],
            "stop",
            "text <th | g(a) {} | ToolUse",
        );
    }

    #[test]
    fn finish_reasons_mean_what_clients_do() {
        for (finish, expected) in [
            ("stop", "text x | End"),
            ("eos_token", "text x | End"),
            ("tool_calls", "text x | End"),
            ("length", "text x | MaxTokens"),
            ("model_length", "text x | MaxTokens"),
            ("content_filter", "text x | Refusal"),
            ("sensitive", "text x | Refusal"),
            ("", "text x | End"),
        ] {
            check(&[r#"{"content":"x"}"#], finish, expected);
        }
        for finish in ["error", "network_error", "insufficient_system_resource", "abort"] {
            assert!(read(ThinkTags::None, &[], finish).is_err_and(|e| e.starts_with("Error")), "{finish}");
        }
        let mut reader = ChatReader::new(1, ThinkTags::None);
        let mut grammar = Grammar::default();
        let data = r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"stop","stop_reason":"END"}]}"#;
        reader.event("", data, &mut |event| grammar.event(&event)).unwrap();
        assert!(reader.is_finished() && !reader.is_done());
        reader.end(false, &mut |event| grammar.event(&event)).unwrap();
        assert_eq!(lines(&grammar.said), "text x | StopSequence END");
    }

    #[test]
    fn errors_and_bad_lines_are_told_apart() {
        let error = |data: &str| {
            let read = ChatReader::new(1, ThinkTags::None).event("", data, &mut |event| panic!("{event:?}"));
            match read {
                Ok(()) => "nothing",
                Err(ReadError::Error(text)) if text == data => "error",
                Err(ReadError::Malformed) => "malformed",
                Err(_) => "broken",
            }
        };
        for (data, expected) in [
            (r#"{"error":{"message":"x"}}"#, "error"),
            (r#"{"choices":[{"delta":{}}],"error":"x"}"#, "error"),
            (r#"{"choices":[{"delta":{},"error":{"code":1}}]}"#, "error"),
            (r#"{"choices":[{"delta":{}}],"x_groq":{"error":"x"}}"#, "error"),
            (r#"{"choices":[],"base_resp":{"status_code":1002}}"#, "error"),
            (r#"[{"error":{"code":429}}]"#, "error"),
            (r#"{"detail":"no"}"#, "error"),
            (r#"{"error":null,"choices":[],"base_resp":{"status_code":0}}"#, "nothing"),
            (r#"{"choices":null,"usage":{"prompt_tokens":1}}"#, "nothing"),
            (r#"{"usage":{"prompt_tokens":1}}"#, "nothing"),
            (r#"{"choices":[{"index":1,"delta":{"content":"x"}}]}"#, "nothing"),
            (r#"{"choices":{}}"#, "malformed"),
            (r#"{"choices":["#, "malformed"),
            ("<html>", "malformed"),
            ("", "nothing"),
        ] {
            assert_eq!(error(data), expected, "{data}");
        }
    }

    #[test]
    fn bad_arguments_of_a_whole_answer_are_repaired_or_refused() {
        for (arguments, finish, expected) in [
            (r#""{\"a\":1}""#, "tool_calls", r#"f(a) {"a":1} | ToolUse"#),
            (r#""""#, "tool_calls", "f(a) {} | ToolUse"),
            (r#""[1]""#, "tool_calls", r#"f(a) {"value":[1]} | ToolUse"#),
            (r#"{"a":1}"#, "stop", r#"f(a) {"a":1} | ToolUse"#),
            (r#""{\"a\":""#, "length", r#"f(a) {"a": | MaxTokens"#),
            (r#""{\"a\":""#, "tool_calls", "Malformed"),
        ] {
            let whole = format!(
                r#"{{"choices":[{{"message":{{"tool_calls":[{{"id":"a","function":{{"name":"f","arguments":{arguments}}}}}]}},"finish_reason":"{finish}"}}]}}"#
            );
            let mut grammar = Grammar::default();
            let read = ChatReader::new(1, ThinkTags::None).whole(&whole, &mut |event| grammar.event(&event));
            let got = read.map_or_else(|e| format!("{e:?}"), |()| lines(&grammar.said));
            assert_eq!(got, expected, "{arguments}");
        }
    }

    #[test]
    fn what_is_held_has_limits() {
        use crate::limits::{
            ANSWER_BLOCKS_MAX, ANSWER_CALLS_MAX, REORDER_BYTES_MAX, SPARE_REASONING_BYTES_MAX,
        };
        let half = call(r#""index":0,"id":"a","#, r#""name":"f","arguments":"{""#);
        for (over, fits) in [(0, true), (1, false)] {
            let text = format!("{{\"content\":\"{}\"}}", "x".repeat(REORDER_BYTES_MAX - 1));
            let rest = format!("{{\"content\":\"{}\"}}", "x".repeat(1 + over));
            assert_eq!(read(ThinkTags::None, &[&half, &text, &rest], "length").is_ok(), fits, "{over} over");
            let calls: Vec<String> =
                (0..ANSWER_CALLS_MAX + over).map(|n| call(&format!("\"index\":{n},"), G)).collect();
            let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
            assert_eq!(read(ThinkTags::None, &calls, "stop").is_ok(), fits, "{over} over");
            let blocks = [r#"{"content":"x"}"#, r#"{"reasoning":"x"}"#];
            let blocks: Vec<&str> = blocks.into_iter().cycle().take(ANSWER_BLOCKS_MAX + over).collect();
            assert_eq!(read(ThinkTags::None, &blocks, "stop").is_ok(), fits, "{over} over");
            let spare = format!("{{\"reasoning\":\"{}\"}}", "x".repeat(SPARE_REASONING_BYTES_MAX + over));
            let (said, _) = read(ThinkTags::None, &[&spare], "stop").unwrap();
            assert_eq!(said.blocks.len(), if fits { 2 } else { 1 }, "{over} over");
        }
    }
}
