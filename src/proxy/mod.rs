//! A chat request on its way: plan, attempts, commit, delivery. The only place that knows both sides.

pub mod attempt;
pub mod demo;
pub mod relay;
pub mod state;
pub mod upstream;

pub use state::State;

use crate::dialect::chat::{ChatRequest, Usage};
use crate::dialect::error::ApiError;
use crate::http::sse::{push_comment, push_event};
use crate::limits::{KEEP_ALIVE_TIME, RETRY_AFTER_SECONDS_MAX, STREAM_SILENCE_TIME};
use crate::net::deadline::{sleep_until, with_deadline};
use crate::route::ledger::Ticket;
use crate::route::plan::{Outcome, Step, Walk};
use crate::route::verdict::{Failure, Phase, Verdict, judge_failure};
use crate::server::connection::Body;
use crate::server::respond::{Reply, Responder};
use attempt::{Answer, Failed, Job, attempt, broken, judge};
use relay::{Relay, State as StreamState};
use std::io;
use std::time::Instant;

/// Answers one chat request. An error means that the client is gone.
pub async fn chat(state: &State, body: Body, out: &mut Responder<'_>) -> io::Result<()> {
    let start = Instant::now();
    let request = match ChatRequest::parse(&body.text) {
        Ok(request) => request,
        Err(error) => {
            log::info!("[{}] chat refused: {}", out.id(), error.message);
            return out.whole(&Reply::error(&error)).await;
        }
    };
    let asked = request.model.clone().unwrap_or_else(|| state.config.model_name.clone());
    let found = {
        let search = Search::new(state, &request, &body.text, out.id());
        find(search, request.stream, out).await?
    };
    drop(body);
    let mut log = LogLine { id: out.id(), model: asked, backend: "-", attempts: found.attempts, start };
    match found.answer {
        Ok(answer) => {
            let headers = log.answered_by(state, found.backend);
            deliver(state, found.backend, answer, headers, out, &log).await
        }
        Err(error) => {
            let status = error.error.status;
            let sent = refuse(&error, out).await;
            log.write(&status.to_string(), None);
            sent
        }
    }
}

/// What a search for an answer found.
struct Found {
    answer: Result<Answer, Refusal>,
    /// Index of the backend that answered; meaningless without an answer.
    backend: usize,
    attempts: usize,
}

/// An error for the client.
struct Refusal {
    error: ApiError,
    /// When asking again is worth it.
    retry_at: Option<Instant>,
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

/// The walk of one request over the backends.
struct Search<'a> {
    state: &'a State,
    job: Job<'a>,
    walk: Walk,
    id: &'a str,
    /// The first empty answer, for when nobody has a better one.
    empty: Option<(usize, Answer)>,
    /// The last answer that said the request itself was wrong.
    error_body: Option<Vec<u8>>,
}

impl<'a> Search<'a> {
    fn new(state: &'a State, request: &'a ChatRequest, body: &'a str, id: &'a str) -> Self {
        let config = &state.config;
        let until = Instant::now() + config.request_timeout;
        let job = Job { request, body, show_provider: config.show_provider, until };
        let walk = state.walk(request.model.as_deref());
        Self { state, job, walk, id, empty: None, error_body: None }
    }

    async fn run(mut self) -> Found {
        loop {
            let time = Instant::now();
            if time >= self.job.until {
                return self.failed();
            }
            let step = self.walk.next(&mut self.state.ledger(), time);
            match step {
                Step::Try(ticket) => {
                    let backend = ticket.backend;
                    if let Some(answer) = self.attempt(ticket).await {
                        return Found { answer: Ok(answer), backend, attempts: self.walk.attempts() };
                    }
                }
                Step::Wait(until) => {
                    log::debug!("[{}] all backends rest, waiting", self.id);
                    sleep_until(until.min(self.job.until)).await;
                }
                Step::Exhausted => return self.failed(),
            }
        }
    }

    async fn attempt(&mut self, ticket: Ticket) -> Option<Answer> {
        let backend = ticket.backend;
        let running = Running { state: self.state, ticket: Some(ticket) };
        let upstream = self.state.upstreams.get(backend)?;
        let result = attempt(&self.state.pool, upstream, &self.job).await;
        match result {
            Ok(answer) => {
                running.succeeded();
                log::debug!("[{}] {}: answers", self.id, upstream.name);
                Some(answer)
            }
            Err(Failed { mut verdict, empty, error_body }) => {
                verdict.message = self.state.masked(&verdict.message).into();
                log::debug!("[{}] {}: {verdict}", self.id, upstream.name);
                running.failed(&verdict);
                self.walk.failed(verdict);
                if let (None, Some(answer)) = (&self.empty, empty) {
                    self.empty = Some((backend, *answer));
                }
                self.error_body = error_body.or(self.error_body.take());
                None
            }
        }
    }

    /// Nobody has an answer: says so, in the words that fit.
    fn failed(&mut self) -> Found {
        let attempts = self.walk.attempts();
        let empty = self.empty.take();
        let outcome = self.walk.outcome(&self.state.ledger(), Instant::now());
        let refusal = match (outcome, empty) {
            (Outcome::AllEmpty, Some((backend, answer))) => {
                return Found { answer: Ok(answer), backend, attempts };
            }
            (Outcome::ClientError { verdict, .. }, _) => {
                Refusal { error: self.clients_error(verdict), retry_at: None }
            }
            (Outcome::AllFailed { retry_at }, _) => self.all_failed(retry_at),
            (Outcome::AllEmpty, None) => self.all_failed(None),
        };
        Found { answer: Err(refusal), backend: 0, attempts }
    }

    /// The provider's own error, with its status.
    fn clients_error(&self, verdict: &Verdict) -> ApiError {
        let status = verdict.status.filter(|status| (400..500).contains(status)).unwrap_or(400);
        let error = ApiError::new(status, verdict.message.to_string());
        match &self.error_body {
            Some(body) => error.with_details_of(body),
            None => error,
        }
    }

    fn all_failed(&self, retry_at: Option<Instant>) -> Refusal {
        let mut text = String::from("All configured providers failed");
        let mut separator = ": ";
        for record in self.walk.records() {
            let name = match self.state.upstreams.get(record.backend).filter(|_| self.job.show_provider) {
                Some(upstream) => upstream.name.clone(),
                None => format!("backend {}", record.backend + 1),
            };
            text.push_str(&format!("{separator}{name}: {record}"));
            separator = "; ";
        }
        let error = ApiError::new(503, text).code("all_providers_failed");
        Refusal { error, retry_at }
    }
}

/// An attempt in the ledger. Dropped without a result, the client has left: it proves nothing.
struct Running<'a> {
    state: &'a State,
    ticket: Option<Ticket>,
}

impl Running<'_> {
    fn succeeded(mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.state.ledger().success(ticket);
        }
    }

    fn failed(mut self, verdict: &Verdict) {
        let Some(ticket) = self.ticket.take() else { return };
        let backend = ticket.backend;
        let mut dice = fastrand::Rng::new();
        let noted = self.state.ledger().failure(ticket, verdict, Instant::now(), &mut dice);
        if let (true, Some(upstream)) = (noted.first, self.state.upstreams.get(backend)) {
            log::warn!("backend {}: {verdict}", upstream.name);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.state.ledger().abandon(ticket);
        }
    }
}

/// Gives the client its answer. From here on a failure cannot be hidden any more.
async fn deliver(
    state: &State,
    backend: usize,
    answer: Answer,
    headers: Vec<(&'static str, String)>,
    out: &mut Responder<'_>,
    log: &LogLine<'_>,
) -> io::Result<()> {
    match answer {
        Answer::Whole(body, usage) => {
            let sent = out.whole(&Reply { status: 200, headers, body }).await;
            log.write("200", usage);
            sent
        }
        Answer::Stream(relay) => stream(state, backend, *relay, headers, out, log).await,
    }
}

async fn stream(
    state: &State,
    backend: usize,
    mut relay: Relay,
    headers: Vec<(&'static str, String)>,
    out: &mut Responder<'_>,
    log: &LogLine<'_>,
) -> io::Result<()> {
    let mut heard = Instant::now();
    while relay.state == StreamState::Running {
        if !relay.out.is_empty() {
            // Taken, so that a stream that waits holds no buffer.
            let frames = std::mem::take(&mut relay.out);
            out.stream(&headers, &frames).await?;
        }
        match with_deadline(Instant::now() + KEEP_ALIVE_TIME, relay.advance()).await {
            Ok(()) => heard = Instant::now(),
            Err(_) if heard.elapsed() >= STREAM_SILENCE_TIME => break,
            Err(_) => keep_alive(out).await?,
        }
    }
    let mut last = std::mem::take(&mut relay.out);
    let verdict = match std::mem::replace(&mut relay.state, StreamState::Done) {
        StreamState::Done => None,
        StreamState::Running => Some(judge_failure(&Failure::Timeout(Phase::Silence))),
        StreamState::Broken(why) => Some(judge_failure(&broken(why))),
        StreamState::Error(text) => {
            state.upstreams.get(backend).map(|upstream| judge(upstream, 200, None, text.as_bytes()))
        }
    };
    if let Some(verdict) = &verdict {
        let text = format!("The answer broke off: {}", state.masked(&verdict.to_string()));
        let error = ApiError::new(502, text).code("upstream_error");
        push_event(&mut last, "", &error.to_openai());
    }
    if !out.has_begun() {
        out.stream(&headers, &std::mem::take(&mut last)).await?;
    }
    out.end_stream(&last).await?;
    match verdict {
        None => {
            log.write("200", relay.usage());
            relay.finish().await;
        }
        Some(verdict) => {
            log.write(&format!("200, broke off: {}", state.masked(&verdict.to_string())), relay.usage())
        }
    }
    Ok(())
}

/// The one line about a request at `info`.
struct LogLine<'a> {
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
