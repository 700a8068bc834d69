//! Readers and writers of whichever protocol, for those who choose it at run time.

use super::{
    ChatReader, ChatWriter, MessagesReader, MessagesWriter, Out, ReadError, ResponsesWriter, Sink, Truncated,
};
use crate::dialect::model::{Event, Usage};

/// The reader of one answer; see the variants' types for what each method does.
#[derive(Debug)]
#[allow(missing_docs, reason = "the types say it")]
pub enum Reader {
    Chat(Box<ChatReader>),
    Messages(Box<MessagesReader>),
}

#[allow(missing_docs, reason = "the variants' methods say it")]
impl Reader {
    pub fn event(&mut self, name: &str, data: &str, sink: Sink<'_>) -> Result<(), ReadError> {
        match self {
            Self::Chat(reader) => reader.event(name, data, sink),
            Self::Messages(reader) => reader.event(name, data, sink),
        }
    }

    pub fn whole(&mut self, text: &str, sink: Sink<'_>) -> Result<(), ReadError> {
        match self {
            Self::Chat(reader) => reader.whole(text, sink),
            Self::Messages(reader) => reader.whole(text, sink),
        }
    }

    pub fn end(&mut self, framed: bool, sink: Sink<'_>) -> Result<(), Truncated> {
        match self {
            Self::Chat(reader) => reader.end(framed, sink),
            Self::Messages(reader) => reader.end(framed, sink),
        }
    }

    pub fn has_content(&self) -> bool {
        match self {
            Self::Chat(reader) => reader.has_content(),
            Self::Messages(reader) => reader.has_content(),
        }
    }

    pub fn is_done(&self) -> bool {
        match self {
            Self::Chat(reader) => reader.is_done(),
            Self::Messages(reader) => reader.is_done(),
        }
    }

    pub fn is_finished(&self) -> bool {
        match self {
            Self::Chat(reader) => reader.is_finished(),
            Self::Messages(reader) => reader.is_finished(),
        }
    }

    pub fn usage(&self) -> Option<Usage> {
        match self {
            Self::Chat(reader) => reader.usage(),
            Self::Messages(reader) => reader.usage(),
        }
    }
}

/// The writer of one answer.
#[derive(Debug)]
#[allow(missing_docs, reason = "the types say it")]
pub enum Writer {
    Chat(Box<ChatWriter>),
    Messages(Box<MessagesWriter>),
    Responses(Box<ResponsesWriter>),
}

impl Writer {
    /// Writes what the event means for the client.
    pub fn event(&mut self, event: Event<'_>, out: Out<'_>) {
        match self {
            Self::Chat(writer) => writer.event(event, out),
            Self::Messages(writer) => writer.event(event, out),
            Self::Responses(writer) => writer.event(event, out),
        }
    }
}
