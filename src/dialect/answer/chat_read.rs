//! A chat completion, streamed or whole, as events (openai-chat §4 to §6, translation §9).

use super::assemble::{Assembler, Fragment, Kind};
use super::json::{count, object, some_text, text};
use super::think::{ThinkFilter, ThinkTags};
use super::usage::read_chat;
use super::{ReadError, Sink, Truncated};
use crate::dialect::chat::{Answer, says_something};
use crate::dialect::model::{Event, StopReason, Usage};
use crate::dialect::splice::is_space;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::Deserialize;
use serde_json::value::RawValue;
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

type Raw<'a> = Option<&'a RawValue>;

/// A chunk, or a whole answer. Leaves stay raw, so that no vendor's types can break the read.
#[derive(Default, Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    id: Raw<'a>,
    #[serde(borrow, default)]
    model: Raw<'a>,
    #[serde(borrow, default)]
    choices: Choices<'a>,
    #[serde(borrow, default)]
    usage: Raw<'a>,
    #[serde(borrow, default)]
    error: Raw<'a>,
    #[serde(borrow, default)]
    base_resp: Raw<'a>,
    #[serde(borrow, default)]
    x_groq: Option<XGroq<'a>>,
}

#[derive(Deserialize)]
struct XGroq<'a> {
    #[serde(borrow, default)]
    usage: Raw<'a>,
    #[serde(borrow, default)]
    error: Raw<'a>,
}

/// The choices of a chunk, of which one matters: no list is built.
#[derive(Default)]
struct Choices<'a> {
    is_list: bool,
    first: Option<Choice<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    index: Raw<'a>,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    message: Option<Delta<'a>>,
    #[serde(borrow, default)]
    finish_reason: Raw<'a>,
    /// vLLM: the stop string that matched, or a token's number.
    #[serde(borrow, default)]
    stop_reason: Raw<'a>,
    #[serde(borrow, default)]
    error: Raw<'a>,
}

#[derive(Default, Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Raw<'a>,
    #[serde(borrow, default)]
    reasoning_content: Raw<'a>,
    #[serde(borrow, default)]
    reasoning: Raw<'a>,
    #[serde(borrow, default)]
    reasoning_details: Raw<'a>,
    #[serde(borrow, default)]
    refusal: Raw<'a>,
    #[serde(borrow, default)]
    tool_calls: Raw<'a>,
    #[serde(borrow, default)]
    function_call: Raw<'a>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow, default)]
    index: Raw<'a>,
    #[serde(borrow, default)]
    id: Raw<'a>,
    #[serde(borrow, default)]
    function: Option<Function<'a>>,
    #[serde(borrow, default)]
    extra_content: Raw<'a>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow, default)]
    name: Raw<'a>,
    #[serde(borrow, default)]
    arguments: Raw<'a>,
}

/// A part of content in an array (Mistral), of reasoning in `reasoning_details`, or of either in them.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    r#type: Raw<'a>,
    #[serde(borrow, default)]
    text: Raw<'a>,
    #[serde(borrow, default)]
    summary: Raw<'a>,
    #[serde(borrow, default)]
    thinking: Raw<'a>,
    #[serde(borrow, default)]
    refusal: Raw<'a>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Choices<'a> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Choices<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of choices")
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Choices::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut choices = Choices { is_list: true, first: None };
                while choices.first.is_none() {
                    let Some(choice) = list.next_element::<Choice<'de>>()? else { return Ok(choices) };
                    choices.first = Some(choice).filter(|choice| count(choice.index).unwrap_or(0) == 0);
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(choices)
            }
        }
        value.deserialize_any(List)
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
    /// See [`ReadError`]. Nothing of the event has been given out then.
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
        match (&choice.delta, &choice.message) {
            (Some(delta), _) => self.delta(delta, sink)?,
            // The whole message in place of a delta; behind deltas it only repeats them.
            (None, Some(message)) if !self.has_content() => self.message(message, finish, sink)?,
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
        let Self { think, blocks, .. } = self;
        // What the filter held is at most a tag long; it waits behind an open call or goes out, and if it is one too
        // many to hold, it is lost with a call that is half.
        think.end(&mut |thinks, text| {
            let _ = blocks.say(if thinks { Kind::Thinking } else { Kind::Text }, text, sink);
        });
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
        let groq = || read_chat(chunk.x_groq.as_ref()?.usage);
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
        for_calls(delta, &mut |fragment, _| self.blocks.call(fragment, sink))
    }

    fn message(
        &mut self,
        message: &Delta<'_>,
        finish: Option<Finish>,
        sink: Sink<'_>,
    ) -> Result<(), ReadError> {
        self.texts(message, sink)?;
        let Self { think, blocks, .. } = self;
        let mut held = Ok(());
        think.end(&mut |thinks, text| {
            held = blocks.say(if thinks { Kind::Thinking } else { Kind::Text }, text, sink);
        });
        held?;
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

    /// Reasoning, text and refusal of a delta.
    fn texts(&mut self, delta: &Delta<'_>, sink: Sink<'_>) -> Result<(), ReadError> {
        // The same words may stand in two of them: one is taken.
        if let Some(words) = some_text(delta.reasoning_content).or_else(|| some_text(delta.reasoning)) {
            self.blocks.say(Kind::Thinking, &words, sink)?;
        } else {
            for_parts(delta.reasoning_details, &mut |part| {
                let words = some_text(part.text).or_else(|| some_text(part.summary)).unwrap_or_default();
                self.blocks.say(Kind::Thinking, &words, sink)
            })?;
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
        let is_text = matches!(text(part.r#type).as_deref(), None | Some("text" | "output_text"));
        match some_text(part.text).filter(|_| is_text) {
            Some(words) => self.content(&words, sink),
            None => Ok(()),
        }
    }
}

impl<'a> Chunk<'a> {
    /// Reads a chunk that is no error.
    fn read(data: &'a str) -> Result<Self, ReadError> {
        // serde reads a struct from an array, too; an array is an error shape of Gemini.
        let chunk = Some(data).filter(|data| data.starts_with('{')).map(serde_json::from_str::<Self>);
        if let Some(Ok(chunk)) = chunk {
            let groq_error = chunk.x_groq.as_ref().and_then(|groq| groq.error);
            let in_choice = chunk.choices.first.as_ref().and_then(|choice| choice.error);
            let plain = chunk.choices.is_list && !says_something(chunk.base_resp);
            if [chunk.error, groq_error, in_choice].into_iter().any(says_something) {
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
    let mut hand = |call: &Call<'_>| {
        let function = call.function.as_ref();
        let (id, name) = (text(call.id).unwrap_or_default(), function.and_then(|f| text(f.name)));
        // Some servers send the object itself instead of its text.
        let arguments = function.and_then(|f| f.arguments).filter(|raw| raw.get() != "null");
        let arguments = arguments.map(|raw| text(Some(raw)).unwrap_or(Cow::Borrowed(raw.get())));
        let arguments = arguments.unwrap_or_default();
        let signature = thought_signature(call.extra_content);
        let fragment = Fragment {
            index: count(call.index),
            id: &id,
            name: name.as_deref().unwrap_or_default(),
            signature: signature.as_deref(),
            arguments: &arguments,
        };
        take(&fragment, &arguments)
    };
    if let Some(list) = delta.tool_calls.filter(|_| says_something(delta.tool_calls)) {
        let calls: Vec<Call<'_>> = serde_json::from_str(list.get()).map_err(|_| ReadError::Malformed)?;
        return calls.iter().try_for_each(hand);
    }
    // The form before tools: one call, no id.
    if let Some(function) = delta.function_call.filter(|_| says_something(delta.function_call)) {
        let function = serde_json::from_str(function.get()).map_err(|_| ReadError::Malformed)?;
        return hand(&Call { index: None, id: None, function: Some(function), extra_content: None });
    }
    Ok(())
}

/// `extra_content.google.thought_signature`.
fn thought_signature<'a>(extra: Raw<'a>) -> Option<Cow<'a, str>> {
    #[derive(Deserialize)]
    struct Extra<'a> {
        #[serde(borrow)]
        google: Google<'a>,
    }
    #[derive(Deserialize)]
    struct Google<'a> {
        #[serde(borrow)]
        thought_signature: &'a RawValue,
    }
    let extra: Extra<'a> = serde_json::from_str(extra?.get()).ok()?;
    some_text(Some(extra.google.thought_signature))
}

/// Hands on each part of an array; anything else has none.
fn for_parts(
    list: Raw<'_>,
    take: &mut dyn FnMut(&Part<'_>) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let Some(list) = list.map(RawValue::get).filter(|raw| raw.starts_with('[')) else { return Ok(()) };
    let parts: Vec<Option<Part<'_>>> = serde_json::from_str(list).unwrap_or_default();
    parts.iter().flatten().try_for_each(take)
}
