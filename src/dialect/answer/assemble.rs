//! Blocks out of chat deltas: one open at a time, in an order that makes sense (translation §9).
//!
//! A call whose arguments are not complete stays open; what comes meanwhile, text or other calls, waits.

use super::json::Completeness;
use super::{ReadError, Sink, make_id};
use crate::dialect::model::{Block, Event};
use crate::limits::{ANSWER_BLOCKS_MAX, ANSWER_CALLS_MAX, REORDER_BYTES_MAX, SPARE_REASONING_BYTES_MAX};
use std::collections::VecDeque;

const TOO_MANY_BLOCKS: ReadError = ReadError::Broken("the answer has more blocks than we take");

/// What a piece of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Thinking,
    Refusal,
}

/// A piece of a tool call as a delta brings it; what it does not say is `None` or empty.
#[derive(Debug, Default)]
pub(super) struct Fragment<'a> {
    pub(super) index: Option<u64>,
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    pub(super) signature: Option<&'a str>,
    pub(super) arguments: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Nothing,
    Text(Kind),
    Call(usize),
}

#[derive(Debug)]
enum Waiting {
    Text(Kind, String),
    /// An index of `calls`.
    Call(usize),
}

#[derive(Debug, Default)]
struct Call {
    index: Option<u64>,
    id: String,
    name: String,
    signature: Option<String>,
    scan: Completeness,
    /// Arguments that came before its turn.
    held: String,
    opened: bool,
}

/// Puts pieces together to blocks.
#[derive(Debug)]
pub(super) struct Assembler {
    seed: u64,
    open: Open,
    calls: Vec<Call>,
    waiting: VecDeque<Waiting>,
    /// Bytes in `waiting` and in `held` of the calls.
    held_bytes: usize,
    /// Reasoning so far, while it may turn out to be all there is.
    spare: String,
    spare_lost: bool,
    /// Blocks of text so far.
    opened: usize,
    /// Text, a refusal or a call has been opened.
    answered: bool,
    pub(super) has_content: bool,
    pub(super) has_calls: bool,
    pub(super) has_refusal: bool,
}

impl Assembler {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            open: Open::Nothing,
            calls: Vec::new(),
            waiting: VecDeque::new(),
            held_bytes: 0,
            spare: String::new(),
            spare_lost: false,
            opened: 0,
            answered: false,
            has_content: false,
            has_calls: false,
            has_refusal: false,
        }
    }

    /// Takes a piece of text.
    pub(super) fn say(&mut self, kind: Kind, text: &str, sink: Sink<'_>) -> Result<(), ReadError> {
        if text.is_empty() {
            return Ok(());
        }
        if self.waiting.is_empty() && !self.in_half_call() {
            self.emit(kind, text, sink);
            return if self.opened > ANSWER_BLOCKS_MAX { Err(TOO_MANY_BLOCKS) } else { Ok(()) };
        }
        if self.waiting.len() >= ANSWER_BLOCKS_MAX {
            return Err(TOO_MANY_BLOCKS);
        }
        self.hold(text.len())?;
        match self.waiting.back_mut() {
            Some(Waiting::Text(last, held)) if *last == kind => held.push_str(text),
            _ => self.waiting.push_back(Waiting::Text(kind, text.to_owned())),
        }
        Ok(())
    }

    /// Takes a piece of a call.
    pub(super) fn call(&mut self, fragment: &Fragment<'_>, sink: Sink<'_>) -> Result<(), ReadError> {
        let found = self.find(fragment);
        let at = match found {
            Some(at) => at,
            None if self.calls.len() >= ANSWER_CALLS_MAX => {
                return Err(ReadError::Broken("the answer has more tool calls than we take"));
            }
            None => {
                self.calls.push(Call { index: fragment.index, ..Call::default() });
                self.waiting.push_back(Waiting::Call(self.calls.len() - 1));
                self.calls.len() - 1
            }
        };
        let Some(call) = self.calls.get_mut(at) else { return Ok(()) };
        if !call.opened {
            let fill = |field: &mut String, text: &str| {
                if field.is_empty() {
                    field.push_str(text);
                }
            };
            fill(&mut call.id, fragment.id);
            fill(&mut call.name, fragment.name);
            if let Some(signature) = fragment.signature {
                call.signature.get_or_insert_with(|| signature.to_owned());
            }
        }
        let piece = call.scan.take(fragment.arguments);
        // White space in front of arguments that never come would not be JSON.
        if !piece.is_empty() && call.scan.has_begun() {
            if call.opened {
                self.has_content = true;
                sink(Event::Delta(piece));
            } else {
                call.held.push_str(piece);
                self.hold(piece.len())?;
            }
        }
        self.advance(sink);
        Ok(())
    }

    /// A call that is complete, as whole answers have them.
    pub(super) fn whole_call(&mut self, fragment: &Fragment<'_>, sink: Sink<'_>) -> Result<(), ReadError> {
        if self.calls.len() >= ANSWER_CALLS_MAX {
            return Err(ReadError::Broken("the answer has more tool calls than we take"));
        }
        if fragment.name.is_empty() {
            return Ok(());
        }
        self.calls.push(Call {
            id: fragment.id.to_owned(),
            name: fragment.name.to_owned(),
            signature: fragment.signature.map(str::to_owned),
            ..Call::default()
        });
        self.open_call(self.calls.len() - 1, sink);
        if !fragment.arguments.is_empty() {
            sink(Event::Delta(fragment.arguments));
        }
        self.close(sink);
        Ok(())
    }

    /// Whether no call can go on: what a stream without a finish reason must show to count as ended. A call without
    /// arguments counts only if the provider said that it is `done`.
    pub(super) fn calls_are_complete(&self, done: bool) -> bool {
        self.calls.iter().all(|call| call.scan.is_complete() || (done && !call.scan.has_begun()))
    }

    /// Nothing follows: emits what waits and closes what is open. Calls that never got a name are dropped, as nobody
    /// could run them. With `answer_expected`, reasoning that came alone is handed out once more as text: some
    /// servers put the answer there (openai-chat §6).
    pub(super) fn end(&mut self, answer_expected: bool, sink: Sink<'_>) {
        while let Some(waiting) = self.waiting.pop_front() {
            match waiting {
                Waiting::Text(kind, text) => self.emit(kind, &text, sink),
                Waiting::Call(at) => self.open_call(at, sink),
            }
        }
        if answer_expected && !self.answered && !self.spare_lost && !self.spare.is_empty() {
            let spare = std::mem::take(&mut self.spare);
            self.emit(Kind::Text, &spare, sink);
        }
        self.close(sink);
    }

    fn in_half_call(&self) -> bool {
        match self.open {
            Open::Call(at) => self.calls.get(at).is_some_and(|call| !call.scan.is_complete()),
            _ => false,
        }
    }

    /// The call that a fragment belongs to; `None`: it begins one (openai-chat §5).
    fn find(&self, fragment: &Fragment<'_>) -> Option<usize> {
        let same_id = |call: &Call| !fragment.id.is_empty() && call.id == fragment.id;
        let (at, call) = match fragment.index {
            Some(_) => self.calls.iter().enumerate().rfind(|(_, call)| call.index == fragment.index)?,
            None if !fragment.id.is_empty() => {
                return self.calls.iter().rposition(same_id);
            }
            None => {
                let (at, call) = self.calls.iter().enumerate().next_back()?;
                // Without index and id only another name tells.
                if !fragment.name.is_empty() && !call.name.is_empty() && fragment.name != call.name {
                    return None;
                }
                (at, call)
            }
        };
        // Gemini numbers every call 0: another id at the same index is another call. So is a name with arguments
        // behind arguments that are complete, where there are no ids at all.
        // Without a name it goes on: some servers make up an id for every fragment.
        let other_id = !fragment.id.is_empty() && !call.id.is_empty() && !same_id(call);
        let other_id = other_id && !fragment.name.is_empty();
        let begins = !fragment.name.is_empty() && !fragment.arguments.is_empty();
        let again = call.scan.is_complete() && begins && !same_id(call);
        (!other_id && !again).then_some(at)
    }

    /// Opens what waits, as far as its turn has come.
    fn advance(&mut self, sink: Sink<'_>) {
        while !self.in_half_call() {
            match self.waiting.front() {
                Some(&Waiting::Call(at)) if self.calls.get(at).is_some_and(|call| call.name.is_empty()) => {
                    return;
                }
                None => return,
                Some(_) => {}
            }
            match self.waiting.pop_front() {
                Some(Waiting::Call(at)) => self.open_call(at, sink),
                Some(Waiting::Text(kind, text)) => {
                    self.held_bytes = self.held_bytes.saturating_sub(text.len());
                    self.emit(kind, &text, sink);
                }
                None => return,
            }
        }
    }

    fn hold(&mut self, bytes: usize) -> Result<(), ReadError> {
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        if self.held_bytes > REORDER_BYTES_MAX {
            return Err(ReadError::Broken("interleaved parts of the answer are larger than we hold"));
        }
        Ok(())
    }

    fn open_call(&mut self, at: usize, sink: Sink<'_>) {
        let Some(call) = self.calls.get(at).filter(|call| !call.name.is_empty()) else { return };
        let is_taken = |id: &str| self.calls.iter().any(|other| other.opened && other.id == id);
        let made_up =
            (call.id.is_empty() || is_taken(&call.id)).then(|| make_id("call_", self.seed, at as u64));
        self.close(sink);
        self.answer();
        self.has_calls = true;
        self.has_content = true;
        self.open = Open::Call(at);
        let Some(call) = self.calls.get_mut(at) else { return };
        call.opened = true;
        let id = made_up.as_deref().unwrap_or(&call.id);
        sink(Event::Open(Block::Tool { id, name: &call.name, signature: call.signature.as_deref() }));
        let held = std::mem::take(&mut call.held);
        if !held.is_empty() {
            self.held_bytes = self.held_bytes.saturating_sub(held.len());
            sink(Event::Delta(&held));
        }
    }

    fn emit(&mut self, kind: Kind, text: &str, sink: Sink<'_>) {
        if self.open != Open::Text(kind) {
            self.close(sink);
            self.open = Open::Text(kind);
            self.opened += 1;
            sink(Event::Open(match kind {
                Kind::Text => Block::Text,
                Kind::Thinking => Block::Thinking,
                Kind::Refusal => Block::Refusal,
            }));
        }
        match kind {
            Kind::Thinking if self.answered => {}
            Kind::Thinking if self.spare.len() + text.len() <= SPARE_REASONING_BYTES_MAX => {
                self.spare.push_str(text);
            }
            Kind::Thinking => {
                self.spare_lost = true;
                self.spare = String::new();
            }
            Kind::Refusal => {
                self.has_refusal = true;
                self.answer();
            }
            Kind::Text => self.answer(),
        }
        self.has_content = true;
        sink(Event::Delta(text));
    }

    fn answer(&mut self) {
        if !self.answered {
            self.answered = true;
            self.spare = String::new();
        }
    }

    fn close(&mut self, sink: Sink<'_>) {
        if self.open != Open::Nothing {
            self.open = Open::Nothing;
            sink(Event::Close { signature: None });
        }
    }
}
