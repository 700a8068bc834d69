//! A provider's stream on its way to the client: bytes in, frames for the client out, and how it ended.

use super::demo::DemoAnswer;
use super::lane::{Lane, Taken};
use crate::dialect::chat::Usage;
use crate::http::sse::SseParser;
use crate::limits::{HELD_BYTES_MAX, STREAM_TAIL_TIME};
use crate::net::client::{ExchangeError, Response};
use crate::net::deadline::with_deadline;
use std::pin::pin;
use std::time::Instant;

/// Where a stream comes from.
pub enum Source {
    /// A provider.
    Http(Box<Response>),
    /// The built-in demo.
    Demo(Box<DemoAnswer>),
    /// All of it has been read: a whole answer turned into a stream.
    Read,
}

/// How far a stream has come.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// More is expected.
    Running,
    /// It ended as it should.
    Done,
    /// The provider sent an error: its text, to be judged.
    Error(String),
    /// The connection, or the sense of it, was lost.
    Broken(Break),
}

/// Why a stream broke.
#[derive(Debug, PartialEq, Eq)]
pub enum Break {
    /// It ended before its answer did.
    Truncated,
    /// It is not what it should be.
    Garbled(String),
    /// A frame, or all frames before the first content, were longer than their limit.
    TooLong,
}

/// One stream of one backend.
pub struct Relay {
    source: Source,
    parser: SseParser,
    /// From the provider's protocol to the client's.
    pub lane: Lane,
    /// Frames for the client, not sent yet.
    pub out: Vec<u8>,
    /// How far it has come.
    pub state: State,
    /// Whether something has been said, so that the client may see it.
    pub has_content: bool,
    malformed: u32,
}

impl Relay {
    /// Begins one.
    pub fn new(source: Source, lane: Lane) -> Self {
        Self {
            source,
            parser: SseParser::default(),
            lane,
            out: Vec::new(),
            state: State::Running,
            has_content: false,
            malformed: 0,
        }
    }

    /// Begins one from an answer that has been read: a whole one, or events after all.
    pub fn from_text(text: &str, lane: Lane) -> Self {
        let mut relay = Self::new(Source::Read, lane);
        if let Some(taken) = relay.lane.whole(text, &mut relay.out) {
            relay.took(taken, text);
            relay.end(true);
            return relay;
        }
        // The first feed is never refused: an event that is too long shows as a cut.
        let _ = relay.parser.feed(text.as_bytes());
        relay.parser.finish();
        relay.take_events();
        relay.end(true);
        relay
    }

    /// Waits for the provider and turns what comes into frames. To be called while `state` is [`State::Running`].
    pub async fn advance(&mut self) {
        match &mut self.source {
            Source::Http(response) => {
                let mut too_long = false;
                let parser = &mut self.parser;
                let read = response.read(|data| too_long |= parser.feed(data).is_err()).await;
                if too_long {
                    self.state = State::Broken(Break::TooLong);
                    return;
                }
                match read {
                    Ok(true) => self.take_events(),
                    Ok(false) => {
                        let framed = response.is_framed();
                        self.parser.finish();
                        self.take_events();
                        self.end(framed);
                    }
                    Err(e) => {
                        self.take_events();
                        self.lost(e);
                    }
                }
            }
            Source::Demo(demo) => match demo.next().await {
                Some(data) => self.event("", &data),
                None => self.end(true),
            },
            Source::Read => self.end(true),
        }
    }

    fn take_events(&mut self) {
        // The parser lends its events, and handling one needs the rest of `self`: it is put aside for the while.
        let mut parser = std::mem::take(&mut self.parser);
        while self.state == State::Running {
            let Some(event) = parser.next_event() else { break };
            // Not an error that has choices too: as chunks it would lose what makes it one.
            if event.is_body
                && let Some(taken) = self.lane.whole(&event.data, &mut self.out)
            {
                self.took(taken, &event.data);
                continue;
            }
            if event.is_body && event.data.trim_start().starts_with('<') {
                self.state = State::Error(event.data.into_owned());
                break;
            }
            self.event(&event.name, &event.data);
        }
        self.parser = parser;
    }

    fn event(&mut self, name: &str, data: &str) {
        let taken = self.lane.event(name, data, &mut self.out);
        self.took(taken, data);
    }

    fn took(&mut self, taken: Taken, data: &str) {
        self.has_content = self.lane.has_content();
        match taken {
            Taken::Passed if !self.has_content && self.out.len() > HELD_BYTES_MAX => {
                self.state = State::Broken(Break::TooLong);
            }
            Taken::Passed => {}
            Taken::Done => self.end(true),
            Taken::Error(text) => self.state = State::Error(text),
            Taken::Broken(why) => self.state = State::Broken(Break::Garbled(why.into())),
            Taken::Malformed => {
                self.malformed += 1;
                log::debug!("skipped {} bytes of the stream that are no event of its protocol", data.len());
            }
        }
    }

    /// The body has ended, or `[DONE]` has come.
    fn end(&mut self, framed: bool) {
        if self.state != State::Running {
            return;
        }
        if self.malformed > 0 && !self.has_content {
            self.state = State::Broken(Break::Garbled("no event of the stream is JSON".into()));
            return;
        }
        let framed = framed && !self.parser.is_truncated();
        if self.lane.end(framed, &mut self.out).is_err() {
            self.state = State::Broken(Break::Truncated);
            return;
        }
        // Held back text and calls come out at the end.
        self.has_content = self.lane.has_content();
        self.state = State::Done;
    }

    /// The connection failed. After `[DONE]` or a finish reason nothing can be missing.
    fn lost(&mut self, error: ExchangeError) {
        if self.state != State::Running {
            return;
        }
        if self.lane.is_finished() {
            self.end(false);
            return;
        }
        self.state = State::Broken(match error {
            ExchangeError::Garbled(what) => Break::Garbled(what),
            ExchangeError::TooLong => Break::TooLong,
            _ => Break::Truncated,
        });
    }

    /// The usage told so far.
    pub fn usage(&self) -> Option<Usage> {
        self.lane.usage()
    }

    /// After the client has everything: waits a moment for the end of the provider's body, so that its connection
    /// can serve again.
    pub async fn finish(self) {
        let Source::Http(mut response) = self.source else { return };
        if self.state != State::Done {
            return;
        }
        if !response.is_done() {
            // What follows the end is not the client's. More than one piece of it costs the connection.
            let tail = pin!(async {
                let _ = response.read(|_| ()).await;
                response.read(|_| ()).await
            });
            let ended = with_deadline(Instant::now() + STREAM_TAIL_TIME, tail).await;
            if !matches!(ended, Ok(Ok(false))) {
                return;
            }
        }
        response.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::chat_stream::ChatStream;

    /// What a body that is no event stream comes to.
    fn state_of(body: &str) -> State {
        let lane = Lane::Chat(Box::new(ChatStream::new(None, "\"m\"", false)), None);
        Relay::from_text(body, lane).state
    }

    #[test]
    fn an_error_with_choices_is_no_answer() {
        for body in [
            r#"{"choices":[{"message":{"content":"x"}}],"error":{"code":429}}"#,
            r#"{"choices":[{"message":{"content":""},"error":{"code":429}}]}"#,
            r#"{"choices":[],"base_resp":{"status_code":1002}}"#,
        ] {
            assert_eq!(state_of(body), State::Error(body.to_owned()));
        }
        assert_eq!(state_of(r#"{"choices":[{"message":{"content":"x"}}]}"#), State::Done);
    }
}
