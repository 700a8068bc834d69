//! The search of one request for an answer: backend after backend, until one says something.

use super::attempt::{Answer, Failed, Job, attempt};
use super::state::State;
use crate::dialect::chat::ChatRequest;
use crate::dialect::error::ApiError;
use crate::net::deadline::sleep_until;
use crate::route::ledger::Ticket;
use crate::route::plan::{Outcome, Step, Walk};
use crate::route::verdict::{Class, Verdict};
use std::time::Instant;

/// What a search found.
pub struct Found {
    /// With the attempt that brought it.
    pub answer: Result<(Ticket, Answer), Refusal>,
    /// Attempts made.
    pub attempts: usize,
}

/// An error for the client.
pub struct Refusal {
    /// What it is told.
    pub error: ApiError,
    /// When asking again is worth it.
    pub retry_at: Option<Instant>,
}

/// The walk of one request over the backends.
pub struct Search<'a> {
    state: &'a State,
    job: Job<'a>,
    walk: Walk,
    id: &'a str,
    waited: bool,
    /// The first empty answer, for when nobody has a better one.
    empty: Option<(Ticket, Answer)>,
    /// By backend, the answers that found fault with the request itself.
    clients_errors: Vec<(usize, ApiError)>,
}

impl<'a> Search<'a> {
    /// Plans it; `id` is the request's name in the log.
    pub fn new(state: &'a State, request: &'a ChatRequest, body: &'a [u8], id: &'a str) -> Self {
        let config = &state.config;
        let until = Instant::now() + config.request_timeout;
        let job = Job { request, body, show_provider: config.show_provider, secrets: &state.secrets, until };
        let walk = state.walk(request.model.as_deref());
        Self { state, job, walk, id, waited: false, empty: None, clients_errors: Vec::new() }
    }

    /// Tries one backend after the other.
    pub async fn run(mut self) -> Found {
        loop {
            let time = Instant::now();
            if time >= self.job.until {
                return self.failed();
            }
            let step = self.walk.next(&mut self.state.ledger(), time);
            match step {
                Step::Try(ticket) => {
                    if let Some(answer) = self.attempt(ticket).await {
                        return Found { answer: Ok((ticket, answer)), attempts: self.walk.attempts() };
                    }
                }
                Step::Wait(until) => {
                    if !std::mem::replace(&mut self.waited, true) {
                        log::debug!("[{}] all backends rest, waiting", self.id);
                    }
                    sleep_until(until.min(self.job.until)).await;
                }
                Step::Exhausted => return self.failed(),
            }
        }
    }

    async fn attempt(&mut self, ticket: Ticket) -> Option<Answer> {
        let running = Running { state: self.state, ticket: Some(ticket) };
        let upstream = self.state.upstreams.get(ticket.backend)?;
        match attempt(&self.state.pool, upstream, &self.job).await {
            Ok(answer) => {
                running.succeeded();
                log::debug!("[{}] {}: answers", self.id, upstream.name);
                Some(answer)
            }
            Err(Failed { mut verdict, empty, error_body }) => {
                verdict.message = self.state.masked(&verdict.message).into();
                running.failed(self.id, &verdict);
                if let Some(body) = error_body {
                    self.clients_errors.push((ticket.backend, self.clients_error(&verdict, &body)));
                }
                self.walk.failed(verdict);
                if let (None, Some(answer)) = (&self.empty, empty) {
                    self.empty = Some((ticket, *answer));
                }
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
            (Outcome::AllEmpty, Some(answer)) => return Found { answer: Ok(answer), attempts },
            (Outcome::ClientError { backend, verdict }, _) => {
                let known = self.clients_errors.iter().find(|(whose, _)| *whose == backend);
                let error = known.map(|(_, error)| error.clone());
                let error = error.unwrap_or_else(|| self.clients_error(verdict, b""));
                Refusal { error, retry_at: None }
            }
            (Outcome::AllFailed { retry_at }, _) => self.all_failed(retry_at),
            (Outcome::AllEmpty, None) => self.all_failed(None),
        };
        Found { answer: Err(refusal), attempts }
    }

    /// The provider's own error, with its status.
    fn clients_error(&self, verdict: &Verdict, body: &[u8]) -> ApiError {
        let status = verdict.status.filter(|status| (400..500).contains(status)).unwrap_or(400);
        let error = ApiError::new(status, self.state.without_hosts(&verdict.message));
        let error = error.with_details_of(body, |text| self.state.without_hosts(&self.state.masked(text)));
        // Agents shorten their conversation when they see this code, whatever the provider called it.
        if verdict.class == Class::TooLarge { error.code("context_length_exceeded") } else { error }
    }

    fn all_failed(&self, retry_at: Option<Instant>) -> Refusal {
        let mut text = String::from("All configured providers failed");
        let mut separator = ": ";
        for record in self.walk.records() {
            let name = match self.state.upstreams.get(record.backend).filter(|_| self.job.show_provider) {
                Some(upstream) => upstream.name.clone(),
                None => format!("backend {}", record.backend + 1),
            };
            text.push_str(&format!("{separator}{name}: {}", self.state.told(record)));
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

    fn failed(mut self, id: &str, verdict: &Verdict) {
        if let Some(ticket) = self.ticket.take() {
            note_failure(self.state, ticket, id, verdict);
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

/// Tells ledger and log of a failed attempt, or of an answer that broke off.
pub fn note_failure(state: &State, ticket: Ticket, id: &str, verdict: &Verdict) {
    let name = state.upstreams.get(ticket.backend).map_or("?", |upstream| &upstream.name);
    if verdict.class.is_clients() {
        // What a provider says of a bad request may quote it, and prompts do not belong into a log.
        log::debug!("[{id}] {name}: {} ({})", verdict.class.words(), verdict.status.unwrap_or(0));
    } else {
        log::debug!("[{id}] {name}: {verdict}");
    }
    let noted = state.ledger().failure(ticket, verdict, Instant::now(), &mut fastrand::Rng::new());
    if noted.first {
        log::warn!("backend {name}: {verdict}");
    }
}
