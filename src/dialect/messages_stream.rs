//! Messages on their way through to a client that speaks them too: what each event means, our field spliced in.

use super::answer::json::text;
use super::answer::{MessagesReader, ReadError, Truncated};
use super::model::Usage;
use super::splice::{insert_member, pieces, span_of};
use super::{raw, skim};
use std::borrow::Cow;

/// Follows one stream of one backend, which goes on as it came.
#[derive(Debug)]
pub struct MessagesStream {
    /// `"provider_name":"…"` as JSON, or nothing.
    provider_json: Option<String>,
    reader: MessagesReader,
    stopped: bool,
    spliced: String,
}

impl MessagesStream {
    /// `provider_json` is a JSON text, quotes included.
    pub fn new(provider_json: Option<&str>) -> Self {
        Self {
            provider_json: provider_json.map(str::to_owned),
            reader: MessagesReader::new(0),
            stopped: false,
            spliced: String::new(),
        }
    }

    /// Reads one event: its name and data for the client, or nothing for it.
    ///
    /// # Errors
    /// As [`MessagesReader::event`].
    pub fn event<'a>(
        &'a mut self,
        name: &'a str,
        data: &'a str,
    ) -> Result<Option<(&'a str, &'a str)>, ReadError> {
        if self.stopped {
            return Ok(None);
        }
        self.reader.event(name, data, &mut |_| ())?;
        self.stopped = self.reader.is_done();
        if name == "message_start" || (name.is_empty() && data.contains("message_start")) {
            let message = raw::members(data, &["message"]).ok().and_then(|[message]| message);
            let object = message.filter(|message| !is_named(message));
            let object = object.and_then(|message| span_of(data, message));
            let member = self.provider_json.as_ref().map(|json| format!("\"provider_name\":{json}"));
            if let (Some(object), Some(member)) = (object, member)
                && let Some(edit) = insert_member(data.as_bytes(), object, &member)
            {
                let bytes = pieces(data.as_bytes(), &mut [edit]).concat();
                self.spliced = String::from_utf8(bytes).unwrap_or_default();
                return Ok(Some(("message_start", &self.spliced)));
            }
        }
        if !name.is_empty() {
            return Ok(Some((name, data)));
        }
        // SDKs drop events without a name.
        let kind = raw::members(data, &["type"]).ok().and_then(|[kind]| text(kind));
        self.spliced = kind.map(Cow::into_owned).unwrap_or_default();
        Ok(Some((&self.spliced, data)))
    }

    /// What the client is still owed when the provider's body has ended, as name and data.
    ///
    /// # Errors
    /// [`Truncated`] if the answer may be half.
    pub fn end(&mut self, framed: bool) -> Result<Option<(&'static str, &'static str)>, Truncated> {
        self.reader.end(framed, &mut |_| ())?;
        let owed = !std::mem::replace(&mut self.stopped, true);
        Ok(owed.then_some(("message_stop", r#"{"type":"message_stop"}"#)))
    }

    /// The name of the backend as JSON, if the client is to see it.
    pub fn provider_json(&self) -> Option<&str> {
        self.provider_json.as_deref()
    }

    /// Whether something has been said.
    pub fn has_content(&self) -> bool {
        self.reader.has_content()
    }

    /// Whether the provider has said that nothing follows.
    pub fn is_done(&self) -> bool {
        self.reader.is_done()
    }

    /// Whether the answer is complete.
    pub fn is_finished(&self) -> bool {
        self.reader.is_finished()
    }

    /// The usage told so far.
    pub fn usage(&self) -> Option<Usage> {
        self.reader.usage()
    }
}

/// Whether a message names its provider: another ai-free-swap behind this one knows better who answered.
fn is_named(message: &str) -> bool {
    message.contains("provider_name")
        && skim::members(message)
            .is_ok_and(|members| members.iter().any(|member| member.key == "provider_name"))
}

/// Our field for a whole message.
pub fn whole_with_provider(text: String, provider_json: Option<&str>) -> Vec<u8> {
    let provider_json = provider_json.filter(|_| !is_named(&text));
    let member = provider_json.map(|json| format!("\"provider_name\":{json}"));
    match member.and_then(|member| insert_member(text.as_bytes(), 0..text.len(), &member)) {
        Some(edit) => pieces(text.as_bytes(), &mut [edit]).concat(),
        None => text.into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = r#"{"type":"message_start","message":{"id":"m","model":"x","content":[],"usage":{"input_tokens":3,"output_tokens":1}}}"#;
    const DELTA: &str =
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}"#;

    #[test]
    fn events_go_on_as_they_came_but_for_our_field() {
        let mut stream = MessagesStream::new(Some(r#""p""#));
        let (name, data) = stream.event("message_start", START).unwrap().unwrap();
        assert_eq!(
            (name, data),
            ("message_start", &*START.replace("{\"id\"", "{\"provider_name\":\"p\",\"id\""))
        );
        let block = r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
        assert_eq!(stream.event("content_block_start", block), Ok(Some(("content_block_start", block))));
        assert!(!stream.has_content());
        assert_eq!(
            stream.event("", DELTA),
            Ok(Some(("content_block_delta", DELTA))),
            "the name is made up for"
        );
        assert!(stream.has_content());
        assert_eq!(stream.end(true), Err(Truncated));
        let stop = r#"{"type":"content_block_stop","index":0}"#;
        stream.event("content_block_stop", stop).unwrap();
        let delta =
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}"#;
        stream.event("message_delta", delta).unwrap();
        assert_eq!(stream.end(false), Ok(Some(("message_stop", r#"{"type":"message_stop"}"#))));
    }

    #[test]
    fn a_message_that_names_its_provider_keeps_the_name() {
        let named = START.replace("{\"id\"", "{\"id\":\"a\",\"provider_name\":\"theirs\",\"id2\"");
        let mut stream = MessagesStream::new(Some(r#""p""#));
        assert_eq!(stream.event("message_start", &named), Ok(Some(("message_start", &*named))));
        let whole = r#"{"provider_name":null,"content":[]}"#;
        assert_eq!(whole_with_provider(whole.into(), Some(r#""p""#)), whole.as_bytes());
        let inside = r#"{"content":[{"provider_name":"x"}]}"#;
        let expected = r#"{"provider_name":"p","content":[{"provider_name":"x"}]}"#;
        assert_eq!(whole_with_provider(inside.into(), Some(r#""p""#)), expected.as_bytes());
    }

    #[test]
    fn errors_are_told_apart() {
        let mut stream = MessagesStream::new(None);
        let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#;
        assert_eq!(stream.event("error", error), Err(ReadError::Error(error.into())));
        assert_eq!(stream.event("message_start", "{"), Err(ReadError::Malformed));
    }
}
