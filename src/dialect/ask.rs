//! What the proxy has to know of a request before anything is planned: whose protocol, which model, stream or not.

use super::chat::ChatRequest;
use super::error::ApiError;
use super::request::repair::Repairs;
use super::splice::{Edit, insert_member};
use super::top::Top;
pub use super::top::text;
use super::unmark;
use crate::provider::quirks::Quirks;
use std::ops::Range;
use std::sync::OnceLock;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI Chat Completions.
    Chat,
    /// OpenAI Responses.
    Responses,
    /// Anthropic Messages.
    Messages,
}

impl Dialect {
    /// For the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Responses => "responses",
            Self::Messages => "messages",
        }
    }
}

/// A request, skimmed.
#[derive(Debug, Clone)]
pub enum Ask {
    /// Chat knows how to switch usage on, too.
    Chat(ChatRequest),
    /// The others.
    Other(Dialect, Envelope),
}

/// The top level of a Messages or Responses request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The client's model, trimmed; `None` if it is missing, null or blank.
    pub model: Option<String>,
    /// Whether the client wants an event stream.
    pub stream: bool,
    /// The response that a Responses request goes on from.
    pub previous: Option<String>,
    /// What takes this program's own thinking out of a Messages request; `None` if only a translation can. Looked for
    /// once a backend speaks Messages: the others need no second walk over the body.
    unmarked: OnceLock<Option<Vec<Edit>>>,
    /// Where the value of `model` stands.
    model_span: Option<Range<usize>>,
}

impl Ask {
    /// Reads a body.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(dialect: Dialect, body: &str) -> Result<Self, ApiError> {
        match dialect {
            Dialect::Chat => ChatRequest::parse(body).map(Self::Chat),
            other => Envelope::parse(other, body).map(|envelope| Self::Other(other, envelope)),
        }
    }

    /// The same of a Messages or Responses request that has been read already, and that goes through to nobody.
    pub fn of_reading(
        dialect: Dialect,
        model: Option<String>,
        stream: bool,
        previous: Option<String>,
    ) -> Self {
        let unmarked = OnceLock::from(None);
        Self::Other(dialect, Envelope { model, stream, previous, unmarked, model_span: None })
    }

    /// Whose protocol it is in.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Chat(_) => Dialect::Chat,
            Self::Other(dialect, _) => *dialect,
        }
    }

    /// The client's model, if it names one.
    pub fn model(&self) -> Option<&str> {
        match self {
            Self::Chat(request) => request.model.as_deref(),
            Self::Other(_, envelope) => envelope.model.as_deref(),
        }
    }

    /// Whether edits are enough to make it fit for a backend of the same protocol. `body` is what it was read from.
    pub fn passes(&self, body: &str) -> bool {
        match self {
            Self::Chat(_) => true,
            Self::Other(_, envelope) => envelope.unmarked(body).is_some(),
        }
    }

    /// Whether the client wants an event stream.
    pub fn stream(&self) -> bool {
        match self {
            Self::Chat(request) => request.stream,
            Self::Other(_, envelope) => envelope.stream,
        }
    }

    /// Whether a chat client asked for the usage chunk.
    pub fn include_usage(&self) -> bool {
        matches!(self, Self::Chat(request) if request.include_usage)
    }

    /// What of a chat request a provider with these quirks is known to refuse; `signature` knows thought signatures by
    /// the id of their call.
    pub fn repairs(
        &self,
        body: &str,
        quirks: &Quirks,
        signature: &dyn Fn(&str) -> Option<String>,
    ) -> Repairs {
        match self {
            Self::Chat(request) if quirks.change_passing() => request.repairs(body, quirks, signature),
            _ => Repairs::default(),
        }
    }

    /// The edits for a backend of the same protocol.
    pub fn edits(&self, body: &str, model_json: &str, ask_usage: bool) -> Vec<Edit> {
        match self {
            Self::Chat(request) => request.edits(body, model_json, ask_usage),
            Self::Other(_, envelope) => envelope.edits(body, model_json),
        }
    }
}

impl Envelope {
    fn parse(dialect: Dialect, body: &str) -> Result<Self, ApiError> {
        let top = Top::read(body)?;
        let (model, model_span, stream) = (top.model()?, top.span("model")?, top.stream()?);
        let previous = match dialect {
            Dialect::Responses => top.string("previous_response_id")?,
            _ => None,
        };
        Ok(Self { model, stream, previous, unmarked: OnceLock::new(), model_span })
    }

    fn unmarked(&self, body: &str) -> Option<&Vec<Edit>> {
        self.unmarked.get_or_init(|| unmark::edits(body)).as_ref()
    }

    fn edits(&self, body: &str, model_json: &str) -> Vec<Edit> {
        let model: Vec<Edit> = match &self.model_span {
            Some(span) => vec![Edit { span: span.clone(), text: model_json.to_owned() }],
            None => insert_member(body.as_bytes(), 0..body.len(), &format!("\"model\":{model_json}"))
                .into_iter()
                .collect(),
        };
        model.into_iter().chain(self.unmarked(body).into_iter().flatten().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::splice::pieces;
    use super::*;

    #[test]
    fn a_messages_request_goes_on_with_another_model_and_nothing_else() {
        let body = r#"{"model":"claude-x","max_tokens":5,"stream":true,"messages":[{"role":"user","content":"\u00e9"}],"x":1e2}"#;
        let ask = Ask::parse(Dialect::Messages, body).unwrap();
        assert_eq!((ask.model(), ask.stream(), ask.dialect()), (Some("claude-x"), true, Dialect::Messages));
        let joined = pieces(body.as_bytes(), &mut ask.edits(body, "\"m\"", true)).concat();
        assert_eq!(joined, body.replace("claude-x", "m").into_bytes());
        let mut edits = Ask::parse(Dialect::Messages, "{}").unwrap().edits("{}", "\"m\"", true);
        assert_eq!(pieces(b"{}", &mut edits).concat(), br#"{"model":"m"}"#);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, expected) in [
            ("", "The body is empty; it must be a JSON object."),
            ("[]", "The body is not valid JSON: it must be a JSON object (line 1, column 1)."),
            (r#"{"model":1}"#, "`model` must be a string."),
            (r#"{"stream":1}"#, "`stream` must be true or false."),
            (r#"{"previous_response_id":1}"#, "`previous_response_id` must be a string."),
            (r#"{"model":"a","model":"b"}"#, "The body has `model` twice; send it once."),
        ] {
            assert_eq!(Ask::parse(Dialect::Responses, body).unwrap_err().message, expected);
        }
    }
}
