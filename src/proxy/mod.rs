//! A chat request on its way: plan, attempts, commit, delivery. The only place that knows both sides.

pub mod attempt;
pub mod deliver;
pub mod demo;
pub mod relay;
pub mod search;
pub mod state;
pub mod upstream;

pub use relay::Relay;
pub use state::State;

use crate::dialect::chat::{ChatRequest, Usage};
use crate::http::sse::{push_comment, push_event};
use crate::limits::{KEEP_ALIVE_TIME, LOG_MODEL_CHARS_MAX, RETRY_AFTER_SECONDS_MAX};
use crate::net::deadline::with_deadline;
use crate::server::respond::{Reply, Responder};
use search::{Found, Refusal, Search};
use std::io;
use std::time::Instant;

/// Answers one chat request; an error means that the client is gone.
///
/// What is left of a stream that ended well is handed back: when the client has everything, [`Relay::finish`] saves
/// the connection to the provider.
pub async fn chat(
    state: &State,
    body: impl AsRef<[u8]>,
    out: &mut Responder<'_>,
) -> io::Result<Option<Relay>> {
    let start = Instant::now();
    let request = match ChatRequest::parse(body.as_ref()) {
        Ok(request) => request,
        Err(error) => {
            log::info!("[{}] chat refused: {}", out.id(), error.message);
            return out.whole(&Reply::error(&error)).await.map(|()| None);
        }
    };
    let model = request.model.as_deref().unwrap_or(&state.config.model_name);
    let model = model.chars().take(LOG_MODEL_CHARS_MAX).collect();
    let found = find(Search::new(state, &request, body.as_ref(), out.id()), request.stream, out).await?;
    // Nothing can be tried again from here on.
    drop(body);
    let mut log = LogLine { id: out.id(), model, backend: "-", attempts: found.attempts, start };
    match found.answer {
        Ok((ticket, answer)) => {
            let headers = log.answered_by(state, ticket.backend);
            deliver::deliver(state, ticket, answer, headers, out, &log).await
        }
        Err(refusal) => {
            let sent = refuse(&refusal, out).await;
            log.write(&refusal.error.status.to_string(), None);
            sent.map(|()| None)
        }
    }
}

/// Searches; a streaming client that hears nothing for too long gets comments meanwhile.
async fn find(search: Search<'_>, stream: bool, out: &mut Responder<'_>) -> io::Result<Found> {
    // The search is large and ends before the delivery: it does not stay part of the connection's memory.
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
async fn refuse(refusal: &Refusal, out: &mut Responder<'_>) -> io::Result<()> {
    if out.has_begun() {
        let mut event = Vec::new();
        push_event(&mut event, "", &refusal.error.to_openai());
        return out.end_stream(&event).await;
    }
    let mut reply = Reply::error(&refusal.error);
    if let Some(at) = refusal.retry_at {
        let seconds = at.saturating_duration_since(Instant::now()).as_secs() + 1;
        reply = reply.header("retry-after", seconds.min(RETRY_AFTER_SECONDS_MAX).to_string());
    }
    out.whole(&reply).await
}

/// The one line about a request at `info`.
pub struct LogLine<'a> {
    id: &'a str,
    model: String,
    backend: &'a str,
    attempts: usize,
    start: Instant,
}

impl<'a> LogLine<'a> {
    /// Notes who answered, and gives the headers that tell the client.
    fn answered_by(&mut self, state: &'a State, backend: usize) -> Vec<(&'static str, String)> {
        let Some(upstream) = state.upstreams.get(backend) else { return Vec::new() };
        self.backend = &upstream.name;
        if !state.config.show_provider {
            return Vec::new();
        }
        vec![
            ("x-ai-free-swap-backend", upstream.name.clone()),
            ("x-ai-free-swap-attempts", self.attempts.to_string()),
        ]
    }

    fn write(&self, status: &str, usage: Option<Usage>) {
        let Usage { prompt_tokens, completion_tokens } = usage.unwrap_or_default();
        let count = |tokens: Option<u64>| tokens.map_or_else(|| "?".into(), |tokens| tokens.to_string());
        log::info!(
            "[{}] chat model={} backend={} attempts={} status={status} tokens={}+{} ms={}",
            self.id,
            self.model.escape_debug(),
            self.backend,
            self.attempts,
            count(prompt_tokens),
            count(completion_tokens),
            self.start.elapsed().as_millis()
        );
    }
}
