//! The way of one stream from a provider's protocol to the client's: events in, frames out.

use super::signatures::Signatures;
use crate::dialect::answer::{MessagesReader, MessagesWriter, Names, ReadError, Reader, Truncated, Writer};
use crate::dialect::chat::{Usage, Whole, judge_whole};
use crate::dialect::chat_stream::{ChatStream, Step, thought_signatures, whole_as_chunks};
use crate::dialect::error::ApiError;
use crate::dialect::messages_stream::MessagesStream;
use crate::dialect::model::{self, ClientTools, Event};
use crate::dialect::raw;
use crate::http::sse::push_event;
use crate::limits::STORED_RESPONSE_BYTES_MAX;
use std::sync::Arc;

/// How a stream is passed on.
pub enum Lane {
    /// Chat to chat: chunks go through. Signatures are remembered where they have to come back.
    Chat(Box<ChatStream>, Option<Arc<Signatures>>),
    /// Messages to messages: events go through.
    Messages(Box<MessagesStream>),
    /// Anything else: read and written anew.
    Translated(Box<Translated>),
}

/// A reader of the provider's protocol and a writer of the client's.
pub struct Translated {
    reader: Reader,
    writer: Writer,
    signatures: Arc<Signatures>,
    /// Keeps the response object of a Responses client.
    keep: bool,
    kept: Option<String>,
}

/// What became of an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Passed on, or nothing to pass on.
    Passed,
    /// The provider says that nothing follows.
    Done,
    /// An error of the provider: its text, to be judged.
    Error(String),
    /// No event of this protocol. One does not end a stream.
    Malformed,
    /// The stream makes no sense any more.
    Broken(&'static str),
}

impl Lane {
    /// Reads, and writes for somebody else. `keep`: whether the response object is wanted afterwards.
    pub fn translated(reader: Reader, writer: Writer, signatures: Arc<Signatures>, keep: bool) -> Self {
        Self::Translated(Box::new(Translated { reader, writer, signatures, keep, kept: None }))
    }

    /// Takes one event; frames for the client go to `out`.
    pub fn event(&mut self, name: &str, data: &str, out: &mut Vec<u8>) -> Taken {
        match self {
            Self::Chat(chat, signatures) => match chat.event(name, data) {
                Step::Forward { data, .. } => {
                    if let Some(signatures) = signatures {
                        thought_signatures(data, &mut |id, signature| signatures.remember(id, signature));
                    }
                    push_event(out, "", data);
                }
                Step::Hide => {}
                Step::Done => return Taken::Done,
                Step::Error => return Taken::Error(data.to_owned()),
                Step::Malformed => return Taken::Malformed,
            },
            Self::Messages(messages) => match messages.event(name, data) {
                Ok(Some((name, data))) => push_event(out, name, data),
                Ok(None) => {}
                Err(e) => return e.into(),
            },
            Self::Translated(lane) => {
                if let Err(e) = lane.read(|reader, sink| reader.event(name, data, sink), out) {
                    return e.into();
                }
            }
        }
        if self.is_done() { Taken::Done } else { Taken::Passed }
    }

    /// Takes a whole answer for the stream that it should have been. `None` if it is none.
    pub fn whole(&mut self, text: &str, out: &mut Vec<u8>) -> Option<Taken> {
        let is_chat = || matches!(judge_whole(text), Whole::Content(_) | Whole::Empty(_));
        match self {
            Self::Chat(..) => {
                let chunks = whole_as_chunks(text).filter(|_| is_chat())?;
                let mut taken = Taken::Passed;
                for chunk in chunks {
                    if taken == Taken::Passed {
                        taken = self.event("", &chunk, out);
                    }
                }
                Some(taken)
            }
            // Written anew, as no part of it is an event.
            Self::Messages(messages) => {
                let model_json = model_of_message(text)?;
                let provider_json = messages.provider_json().map(str::to_owned);
                let names = Names { provider_json, model_json, seed: fastrand::u64(..), ..Names::default() };
                let reader = Reader::Messages(Box::new(MessagesReader::new(names.seed)));
                let writer = MessagesWriter::new(&names, ClientTools::default());
                *self = Self::translated(reader, Writer::Messages(Box::new(writer)), Arc::default(), false);
                self.whole(text, out)
            }
            Self::Translated(lane) => {
                let fits = match &lane.reader {
                    Reader::Chat(_) => is_chat(),
                    Reader::Messages(_) => model_of_message(text).is_some(),
                };
                if !fits {
                    return None;
                }
                Some(match lane.read(|reader, sink| reader.whole(text, sink), out) {
                    Ok(()) => Taken::Done,
                    Err(e) => e.into(),
                })
            }
        }
    }

    /// The provider's body has ended, or said that it will: writes what the client is still owed.
    pub fn end(&mut self, framed: bool, out: &mut Vec<u8>) -> Result<(), Truncated> {
        match self {
            Self::Chat(chat, _) => {
                chat.check_end(framed).map_err(|_| Truncated)?;
                for owed in chat.end() {
                    push_event(out, "", &owed);
                }
                Ok(())
            }
            Self::Messages(messages) => {
                if let Some((name, data)) = messages.end(framed)? {
                    push_event(out, name, data);
                }
                Ok(())
            }
            Self::Translated(lane) => lane.read(|reader, sink| reader.end(framed, sink), out),
        }
    }

    /// Tells the client, in the stream, that it broke off.
    pub fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        match self {
            Self::Chat(..) => push_event(out, "", &error.to_openai()),
            Self::Messages(_) => push_event(out, "error", &error.to_anthropic()),
            Self::Translated(lane) => write_failure(&mut lane.writer, error, out),
        }
    }

    /// Whether something has been said, so that the client may see it.
    pub fn has_content(&self) -> bool {
        match self {
            Self::Chat(chat, _) => chat.has_content(),
            Self::Messages(messages) => messages.has_content(),
            Self::Translated(lane) => lane.reader.has_content(),
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Chat(..) => false,
            Self::Messages(messages) => messages.is_done(),
            Self::Translated(lane) => lane.reader.is_done(),
        }
    }

    /// Whether the answer is complete, so that a lost connection loses nothing.
    pub fn is_finished(&self) -> bool {
        match self {
            Self::Chat(chat, _) => chat.is_finished(),
            Self::Messages(messages) => messages.is_finished(),
            Self::Translated(lane) => lane.reader.is_finished(),
        }
    }

    /// The usage told so far.
    pub fn usage(&self) -> Option<Usage> {
        match self {
            Self::Chat(chat, _) => chat.usage(),
            Self::Messages(messages) => messages.usage().map(counted),
            Self::Translated(lane) => lane.reader.usage().map(counted),
        }
    }

    /// The response object, if it was to be kept and is complete.
    pub fn kept(&mut self) -> Option<String> {
        match self {
            Self::Translated(lane) => lane.kept.take(),
            _ => None,
        }
    }
}

/// Neutral counts as the log has them.
pub fn counted(usage: model::Usage) -> Usage {
    Usage { prompt_tokens: Some(usage.input), completion_tokens: Some(usage.output) }
}

impl From<ReadError> for Taken {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::Error(text) => Self::Error(text),
            ReadError::Malformed => Self::Malformed,
            ReadError::Broken(why) => Self::Broken(why),
        }
    }
}

impl Translated {
    fn read<T>(
        &mut self,
        read: impl FnOnce(&mut Reader, &mut dyn FnMut(Event<'_>)) -> T,
        out: &mut Vec<u8>,
    ) -> T {
        let Self { reader, writer, signatures, keep, kept } = self;
        let mut write = |event: Event<'_>| {
            writer.event(event, &mut |name, data| {
                push_event(out, name, data);
                let last = matches!(name, "response.completed" | "response.incomplete");
                if *keep && last && data.len() <= STORED_RESPONSE_BYTES_MAX {
                    *kept = response_of(data);
                }
            });
        };
        read(reader, &mut signatures.watch(&mut write))
    }
}

/// The `model` of a whole message, as JSON. `None` if the text is none: an error, or an event.
fn model_of_message(text: &str) -> Option<String> {
    let [content, model] = raw::members(text, &["content", "model"]).ok()?;
    content?.starts_with('[').then(|| model.unwrap_or("\"\"").to_owned())
}

/// The response object in the last event of a stream.
fn response_of(data: &str) -> Option<String> {
    let [response] = raw::members_and_nulls(data, &["response"]).ok()?;
    response.map(str::to_owned)
}

/// Writes a failure as the last of a stream.
pub fn write_failure(writer: &mut Writer, error: &ApiError, out: &mut Vec<u8>) {
    match writer {
        Writer::Chat(_) => push_event(out, "", &error.to_openai()),
        Writer::Messages(_) => push_event(out, "error", &error.to_anthropic()),
        // A response has to end as one.
        Writer::Responses(_) => {
            let event = Event::Failed { failure: error.failure(), message: &error.message };
            writer.event(event, &mut |name, data| push_event(out, name, data));
        }
    }
}
