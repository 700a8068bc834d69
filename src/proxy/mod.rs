//! A request on its way: plan, attempts, commit, delivery. The only place that knows both sides.

pub mod affinity;
pub mod attempt;
pub mod bell;
pub mod count;
pub mod deliver;
pub mod demand;
pub mod demo;
pub mod job;
pub mod lane;
pub mod lease;
pub mod metrics;
pub mod relay;
pub mod search;
pub mod signatures;
pub mod state;
pub mod stats;
pub mod status;
pub mod store;
pub mod upstream;

pub use relay::Relay;
pub use state::State;

use crate::dialect::answer::{ChatWriter, Echo, MessagesWriter, Names, ResponsesWriter, Writer};
use crate::dialect::ask::{self, Ask, Dialect, Envelope};
use crate::dialect::chat::Usage;
use crate::dialect::error::ApiError;
use crate::dialect::model::ClientTools;
use crate::http::sse::push_comment;
use crate::limits::{KEEP_ALIVE_TIME, LOG_MODEL_CHARS_MAX, RETRY_AFTER_SECONDS_MAX};
use crate::net::deadline::with_deadline;
use crate::respond::{Reply, Responder};
use job::{ClientFields, Reading, speaks};
use lane::write_failure;
use search::{Call, Found, Refusal, Search};
use stats::{Outcome, RequestCount};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Answers one request; an error means that the client is gone.
///
/// What is left of a stream that ended well is handed back: when the client has everything, [`Relay::finish`] saves
/// the connection to the provider.
pub async fn answer(
    state: &State,
    dialect: Dialect,
    body: impl AsRef<[u8]>,
    fields: &ClientFields,
    out: &mut Responder<'_>,
) -> io::Result<Option<Relay>> {
    let start = Instant::now();
    let mut count = state.stats.request(dialect);
    let history = OnceLock::new();
    let (text, ask, reading) = match asked(state, dialect, body.as_ref(), &history) {
        Ok(asked) => asked,
        Err(error) => {
            log::info!("[{}] {} refused: {}", out.id(), dialect.name(), error.message);
            count.ended(Outcome::ClientError, None);
            return out.whole(&Reply::error(&error, dialect)).await.map(|()| None);
        }
    };
    let model = ask.model().unwrap_or(&state.config.model_name);
    let model = model.chars().take(LOG_MODEL_CHARS_MAX).collect();
    let history = history.get().map_or(&[][..], |items| items.as_slice());
    let call = Call { ask: &ask, body: text, history, fields, id: out.id() };
    let found = find(Box::new(Search::new(state, call, reading)), ask.stream(), out).await?;
    // Nothing can be tried again from here on.
    drop(body);
    let mut log =
        LogLine { id: out.id(), dialect, model, backend: "-", attempts: found.attempts, start, count };
    match found.answer {
        Ok((lease, answer)) => {
            let headers = log.answered_by(state, lease.backend());
            let outcome = if found.is_empty { Outcome::Empty } else { Outcome::Ok };
            let answered = deliver::Answered { lease, answer, outcome, headers, keep: found.keep };
            deliver::deliver(state, answered, out, log).await
        }
        Err(refusal) => {
            let sent = refuse(&refusal, dialect, out).await;
            let outcome = if refusal.error.status < 500 { Outcome::ClientError } else { Outcome::Failed };
            log.write(outcome, &refusal.error.status_for(dialect).to_string(), None);
            sent.map(|()| None)
        }
    }
}

/// The conversation before a request, once it is known.
type History = OnceLock<Arc<Vec<String>>>;

/// What is asked: the body as text, its top level, and all of it if nobody can take it as it is.
fn asked<'a>(
    state: &State,
    dialect: Dialect,
    body: &'a [u8],
    history: &'a History,
) -> Result<(&'a str, Ask, Option<Reading<'a>>), ApiError> {
    let text = ask::text(body)?;
    if dialect == Dialect::Chat || state.upstreams.iter().any(|upstream| speaks(upstream, dialect)) {
        let ask = Ask::parse(dialect, text)?;
        remember(state, &ask, history)?;
        return Ok((text, ask, None));
    }
    // One walk over the body instead of two: reading it tells everything.
    let mut reading = Reading::new(dialect, text, &[])?;
    let ask = reading.ask(dialect);
    let items = remember(state, &ask, history)?;
    if !items.is_empty() {
        reading = Reading::new(dialect, text, items)?;
    }
    Ok((text, ask, Some(reading)))
}

/// The conversation that a Responses request goes on from.
fn remember<'h>(state: &State, ask: &Ask, history: &'h History) -> Result<&'h [String], ApiError> {
    let Ask::Other(_, Envelope { previous: Some(id), .. }) = ask else { return Ok(&[]) };
    let items = state.responses.items(id).ok_or_else(|| {
        let text = "The previous response is not known here: only the last ones are kept, in memory. Send the whole \
                    conversation in `input`.";
        ApiError::new(400, text).code("previous_response_not_found").param("previous_response_id")
    })?;
    Ok(history.get_or_init(|| items))
}

/// Searches; a streaming client that hears nothing for too long gets comments meanwhile.
async fn find<'s>(
    mut search: Box<Search<'s, '_>>,
    stream: bool,
    out: &mut Responder<'_>,
) -> io::Result<Found<'s>> {
    // Both are large and end before the delivery: they do not stay part of the connection's memory.
    let mut search = Box::pin(search.run());
    if !stream {
        return Ok(search.await);
    }
    loop {
        match with_deadline(Instant::now() + KEEP_ALIVE_TIME, search.as_mut()).await {
            Ok(found) => return Ok(found),
            Err(_) => keep_alive(out).await?,
        }
    }
}

async fn keep_alive(out: &mut Responder<'_>) -> io::Result<()> {
    let mut comment = Vec::new();
    push_comment(&mut comment, "keep-alive");
    out.stream(&[], &comment).await
}

/// Sends an error: as a whole answer, or inside a stream whose head has gone out.
async fn refuse(refusal: &Refusal, dialect: Dialect, out: &mut Responder<'_>) -> io::Result<()> {
    if out.has_begun() {
        let mut frames = Vec::new();
        write_failure(&mut empty_writer(dialect), &refusal.error, &mut frames);
        return out.end_stream(&frames).await;
    }
    let mut reply = Reply::error(&refusal.error, dialect);
    if let Some(at) = refusal.retry_at {
        let seconds = at.saturating_duration_since(Instant::now()).as_secs() + 1;
        reply = reply.header("retry-after", seconds.min(RETRY_AFTER_SECONDS_MAX).to_string());
    }
    out.whole(&reply).await
}

/// For a stream that nobody has begun: it can only fail.
fn empty_writer(dialect: Dialect) -> Writer {
    let names = Names { model_json: "\"\"".into(), seed: fastrand::u64(..), ..Names::default() };
    match dialect {
        Dialect::Chat => Writer::Chat(Box::new(ChatWriter::new(&names, false, ClientTools::default()))),
        Dialect::Messages => Writer::Messages(Box::new(MessagesWriter::new(&names, ClientTools::default()))),
        Dialect::Responses => {
            Writer::Responses(Box::new(ResponsesWriter::new(&names, ClientTools::default(), Echo::default())))
        }
    }
}

/// The one line about a request at `info`, and its place in the counters.
pub struct LogLine<'a> {
    id: &'a str,
    dialect: Dialect,
    model: String,
    backend: &'a str,
    attempts: usize,
    start: Instant,
    count: RequestCount<'a>,
}

impl<'a> LogLine<'a> {
    /// Notes who answered, and gives the headers that tell the client.
    fn answered_by(&mut self, state: &'a State, backend: usize) -> Vec<(&'static str, String)> {
        let Some(upstream) = state.upstreams.get(backend) else { return Vec::new() };
        self.backend = &upstream.name;
        self.count.answered_by(backend);
        if !state.config.show_provider {
            return Vec::new();
        }
        vec![
            ("x-ai-free-swap-backend", upstream.name.clone()),
            ("x-ai-free-swap-attempts", self.attempts.to_string()),
        ]
    }

    fn write(mut self, outcome: Outcome, status: &str, usage: Option<Usage>) {
        self.count.ended(outcome, usage);
        let Usage { prompt_tokens, completion_tokens } = usage.unwrap_or_default();
        let count = |tokens: Option<u64>| tokens.map_or_else(|| "?".into(), |tokens| tokens.to_string());
        log::info!(
            "[{}] {} model={} backend={} attempts={} status={status} tokens={}+{} ms={}",
            self.id,
            self.dialect.name(),
            self.model.escape_debug(),
            self.backend,
            self.attempts,
            count(prompt_tokens),
            count(completion_tokens),
            self.start.elapsed().as_millis()
        );
    }
}
