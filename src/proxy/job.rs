//! A request as all attempts see it, and what each protocol makes of it.

use super::lane::Lane;
use super::signatures::Signatures;
use super::upstream::{Upstream, Via};
use crate::config::Protocol;
use crate::dialect::answer::{
    ChatReader, ChatWriter, Echo, Fold, MessagesReader, MessagesWriter, Names, Reader, ResponsesWriter,
    Writer,
};
use crate::dialect::ask::{Ask, Dialect};
use crate::dialect::chat_stream::ChatStream;
use crate::dialect::error::ApiError;
use crate::dialect::messages_stream::MessagesStream;
use crate::dialect::model::{ClientTools, Request};
use crate::dialect::request::{
    self, Read, Target, chat_in, chat_out, messages_in, messages_out, responses_in,
};
use crate::dialect::skim;
use crate::dialect::splice::{Edit, pieces};
use crate::http::head::push_header;
use crate::limits::{DEFAULT_MAX_TOKENS, STREAM_FIRST_CONTENT_TIME, WHOLE_ANSWER_TIME};
use crate::provider::ratelimit::Told;
use crate::secret::Secret;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a provider is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// A chat completion.
    Chat,
    /// A message.
    Messages,
    /// The number of tokens of a message.
    CountTokens,
}

impl Endpoint {
    /// Its path behind the root.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
        }
    }
}

/// What a Messages client says outside of its body, for providers that speak the same.
#[derive(Debug, Clone, Default)]
pub struct ClientFields {
    /// `anthropic-version`.
    pub version: Option<String>,
    /// `anthropic-beta`.
    pub beta: Option<String>,
    /// `?…` of the path, or nothing.
    pub query: String,
}

/// What is sent when the client named no version of Anthropic's API.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// A request in the neutral form.
pub struct Reading<'a> {
    /// What it says.
    pub request: Request<'a>,
    /// How its tools are called on the client's side.
    pub tools: ClientTools,
    /// What a response repeats of it; only Responses clients are told.
    pub echo: Option<Echo>,
    /// The items of a Responses request, for the next one.
    pub items: Vec<Cow<'a, str>>,
    /// Whether the response is kept.
    pub store: bool,
    /// The response that a Responses request goes on from.
    pub previous: Option<String>,
}

impl<'a> Reading<'a> {
    /// Reads a body; `history` are the items of the response that a Responses request goes on from.
    ///
    /// # Errors
    /// What is wrong with the request, and where.
    pub fn new(dialect: Dialect, text: &'a str, history: &'a [String]) -> Result<Self, ApiError> {
        let plain = |read: Read<'a>| Self {
            request: read.request,
            tools: read.tools,
            echo: None,
            items: Vec::new(),
            store: false,
            previous: None,
        };
        match dialect {
            Dialect::Chat => chat_in::read(text).map(plain),
            Dialect::Messages => messages_in::read(text).map(plain),
            Dialect::Responses => {
                let read = responses_in::read_after(history, text)?;
                let members = skim::members(text).unwrap_or_default();
                let echo = Echo::new(|key| {
                    let member = members.iter().find(|member| member.key == key)?;
                    text.get(member.value.clone())
                });
                let (request, tools, items) = (read.request, read.tools, read.items);
                let previous = read.previous_response_id.map(Cow::into_owned);
                Ok(Self { request, tools, echo: Some(echo), items, store: read.store, previous })
            }
        }
    }

    /// What can be known of the request without reading it.
    pub fn ask(&self, dialect: Dialect) -> Ask {
        let model = self.request.model.as_ref().map(|model| model.clone().into_owned());
        Ask::of_reading(dialect, model, self.request.stream, self.previous.clone())
    }
}

/// A request as one attempt sees it.
pub struct Job<'a> {
    /// Its name in the log.
    pub id: &'a str,
    /// What is known of it.
    pub ask: &'a Ask,
    /// Its text.
    pub body: &'a str,
    /// The same, understood; there for every backend that it cannot go through to.
    pub reading: Option<&'a Reading<'a>>,
    /// It is to be translated even where it could go through.
    pub translate: bool,
    /// What the client said beside it.
    pub fields: &'a ClientFields,
    /// Where the thought signatures of answers are remembered.
    pub signatures: &'a Arc<Signatures>,
    /// Whether answers name their backend.
    pub show_provider: bool,
    /// Hears what answers tell of limits.
    pub hear: &'a (dyn Fn(&[Told]) + Sync),
    /// What must not be quoted of an answer.
    pub secrets: &'a [Secret],
    /// The end of the request's budget.
    pub until: Instant,
    /// What ids are made of.
    pub seed: u64,
    /// Seconds since 1970.
    pub created: u64,
}

/// Whether requests in a dialect may go through to this backend as they come.
pub fn speaks(upstream: &Upstream, dialect: Dialect) -> bool {
    matches!(
        (dialect, upstream.protocol()),
        (Dialect::Chat, Protocol::OpenAi) | (Dialect::Messages, Protocol::Anthropic)
    )
}

/// Whether a request goes through as it came; `body` is its text.
pub fn passes(ask: &Ask, body: &str, upstream: &Upstream) -> bool {
    speaks(upstream, ask.dialect()) && ask.passes(body)
}

impl Job<'_> {
    /// Whether the request goes through to this backend as it came.
    pub fn passes(&self, upstream: &Upstream) -> bool {
        !self.translate && passes(self.ask, self.body, upstream)
    }

    /// `provider_name` as JSON, if the client is to see it.
    pub fn provider_json<'u>(&self, upstream: &'u Upstream) -> Option<&'u str> {
        self.show_provider.then_some(upstream.name_json.as_str())
    }

    /// When the first content, or the whole answer, has to be there.
    pub fn deadline(&self, configured: Option<Duration>) -> Instant {
        let default = if self.ask.stream() { STREAM_FIRST_CONTENT_TIME } else { WHOLE_ANSWER_TIME };
        self.until.min(Instant::now() + configured.unwrap_or(default))
    }

    /// The edits of a request that goes through.
    pub fn edits(&self, upstream: &Upstream) -> Vec<Edit> {
        let mut edits = self.ask.edits(self.body, &upstream.model_json, upstream.quirks.stream_options);
        if upstream.protocol() == Protocol::OpenAi && self.passes(upstream) {
            let signature = |id: &str| self.signatures.of(id);
            let repairs = self.ask.repairs(self.body, &upstream.quirks, &signature);
            edits.extend(repairs.edits);
            self.note_dropped(upstream, &repairs.dropped);
        }
        edits
    }

    fn note_dropped(&self, upstream: &Upstream, dropped: &[String]) {
        if !dropped.is_empty() {
            let names = dropped.join(", ");
            log::debug!(
                "[{}] {}: not said to this backend: {}",
                self.id,
                upstream.name,
                names.escape_debug()
            );
        }
    }

    /// The request in the backend's words, if it cannot go through.
    pub fn translated(&self, upstream: &Upstream) -> Option<String> {
        let reading = self.reading.filter(|_| !self.passes(upstream))?;
        let default_max_tokens = match &upstream.via {
            Via::Http(http) => http.default_max_tokens,
            Via::Demo(_) => DEFAULT_MAX_TOKENS,
        };
        let target =
            Target { model_json: &upstream.model_json, quirks: &upstream.quirks, default_max_tokens };
        let (body, dropped) = match upstream.protocol() {
            Protocol::OpenAi => chat_out::write(&reading.request, &target),
            Protocol::Anthropic => messages_out::write(&reading.request, &target),
        };
        self.note_dropped(upstream, &dropped);
        Some(body)
    }

    /// The body that goes out.
    pub fn pieces<'b>(&'b self, translated: &'b Option<String>, edits: &'b mut [Edit]) -> Vec<&'b [u8]> {
        match translated {
            Some(body) => vec![body.as_bytes()],
            None => pieces(self.body.as_bytes(), edits),
        }
    }

    /// Header fields of this request alone.
    pub fn fields_for(&self, protocol: Protocol) -> String {
        if protocol == Protocol::OpenAi {
            return String::new();
        }
        let version = self.fields.version.as_deref().unwrap_or(ANTHROPIC_VERSION);
        let mut fields = Vec::new();
        push_header(&mut fields, "anthropic-version", version);
        if let Some(beta) = &self.fields.beta {
            push_header(&mut fields, "anthropic-beta", beta);
        }
        String::from_utf8(fields).unwrap_or_default()
    }

    fn names(&self, upstream: &Upstream) -> Names {
        Names {
            provider_json: self.provider_json(upstream).map(str::to_owned),
            model_json: upstream.model_json.clone(),
            seed: self.seed,
            created: self.created,
        }
    }

    fn tools(&self) -> ClientTools {
        self.reading.map(|reading| reading.tools.clone()).unwrap_or_default()
    }

    fn echo(&self) -> Echo {
        self.reading.and_then(|reading| reading.echo.clone()).unwrap_or_default()
    }

    /// Reads the answers of a backend.
    pub fn reader(&self, upstream: &Upstream) -> Reader {
        match upstream.protocol() {
            Protocol::OpenAi => {
                Reader::Chat(Box::new(ChatReader::new(self.seed, upstream.quirks.think_tags)))
            }
            Protocol::Anthropic => Reader::Messages(Box::new(MessagesReader::new(self.seed))),
        }
    }

    /// Writes the stream that the client reads.
    pub fn writer(&self, upstream: &Upstream) -> Writer {
        let (names, tools) = (self.names(upstream), self.tools());
        match self.ask.dialect() {
            Dialect::Chat => Writer::Chat(Box::new(ChatWriter::new(&names, self.ask.include_usage(), tools))),
            Dialect::Messages => Writer::Messages(Box::new(MessagesWriter::new(&names, tools))),
            Dialect::Responses => {
                Writer::Responses(Box::new(ResponsesWriter::new(&names, tools, self.echo())))
            }
        }
    }

    /// The way of a stream from this backend to the client.
    pub fn lane(&self, upstream: &Upstream) -> Lane {
        if !self.passes(upstream) {
            return self.translating_lane(upstream);
        }
        let provider = self.provider_json(upstream);
        match self.ask.dialect() {
            Dialect::Messages => Lane::Messages(Box::new(MessagesStream::new(provider))),
            _ => {
                let include_usage = self.ask.include_usage();
                let stream = ChatStream::new(provider, &upstream.model_json, include_usage);
                let signed = upstream.quirks.written.thought_signatures;
                Lane::Chat(Box::new(stream), signed.then(|| Arc::clone(self.signatures)))
            }
        }
    }

    /// The same where nothing can go through as it comes.
    pub fn translating_lane(&self, upstream: &Upstream) -> Lane {
        let keep = self.reading.is_some_and(|reading| reading.store);
        Lane::translated(self.reader(upstream), self.writer(upstream), Arc::clone(self.signatures), keep)
    }

    /// A whole answer as the client reads it.
    pub fn render(&self, fold: Fold, upstream: &Upstream) -> Vec<u8> {
        let names = self.names(upstream);
        let text = match self.ask.dialect() {
            Dialect::Chat => fold.into_chat(&names, &self.tools()),
            Dialect::Messages => fold.into_messages(&names, &self.tools()),
            Dialect::Responses => fold.into_responses(&names, self.tools(), self.echo()),
        };
        text.into_bytes()
    }
}

/// Takes all thinking out of a request whose provider refused a signature. `false`: there was none.
pub fn strip_thinking(reading: &mut Reading<'_>) -> bool {
    request::strip_thinking(&mut reading.request)
}
