//! The search of one request for an answer: backend after backend, until one says something.

use super::attempt::{Answer, Failed, attempt};
use super::job::{ClientFields, Job, Reading, passes, strip_thinking};
use super::state::State;
use super::upstream::Upstream;
use crate::config::Protocol;
use crate::dialect::answer::response_id;
use crate::dialect::ask::Ask;
use crate::dialect::error::ApiError;
use crate::net::deadline::sleep_until;
use crate::route::ledger::Ticket;
use crate::route::plan::{Outcome, Step, Walk};
use crate::route::verdict::{Class, Scope, Verdict};
use std::borrow::Cow;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What a search found.
pub struct Found {
    /// With the attempt that brought it.
    pub answer: Result<(Ticket, Answer), Refusal>,
    /// Attempts made.
    pub attempts: usize,
    /// If a client may go on from the answer: its id, and the items of the conversation up to it.
    pub keep: Option<(String, Vec<String>)>,
}

/// An error for the client.
pub struct Refusal {
    /// What it is told.
    pub error: ApiError,
    /// When asking again is worth it.
    pub retry_at: Option<Instant>,
}

/// A request and whose it is.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// What is known of it.
    pub ask: &'a Ask,
    /// Its text.
    pub body: &'a str,
    /// The items of the response that it goes on from.
    pub history: &'a [String],
    /// What the client said beside it.
    pub fields: &'a ClientFields,
    /// Its name in the log.
    pub id: &'a str,
}

/// The walk of one request over the backends.
pub struct Search<'a> {
    state: &'a State,
    call: Call<'a>,
    /// The request in the neutral form, once a backend needs it.
    reading: Option<Reading<'a>>,
    /// A provider has refused the request's thinking: it goes on without.
    stripped: bool,
    until: Instant,
    seed: u64,
    walk: Walk,
    waited: bool,
    /// The first empty answer, for when nobody has a better one.
    empty: Option<(Ticket, Answer)>,
    /// By backend, the answers that found fault with the request itself.
    clients_errors: Vec<(usize, ApiError)>,
}

impl<'a> Search<'a> {
    /// Plans it. `reading`: the request in the neutral form, if somebody has read it.
    pub fn new(state: &'a State, call: Call<'a>, reading: Option<Reading<'a>>) -> Self {
        let until = Instant::now() + state.config.request_timeout;
        let walk = state.walk(call.ask.model());
        Self {
            state,
            call,
            reading: reading.map(|reading| remembered(state, reading)),
            stripped: false,
            until,
            seed: fastrand::u64(..),
            walk,
            waited: false,
            empty: None,
            clients_errors: Vec::new(),
        }
    }

    /// Tries one backend after the other.
    pub async fn run(mut self) -> Found {
        loop {
            let time = Instant::now();
            if time >= self.until {
                return self.failed();
            }
            let step = self.walk.next(&mut self.state.ledger(), time);
            match step {
                Step::Try(ticket) => {
                    let running = Running { state: self.state, ticket: Some(ticket) };
                    if let Err(error) = self.read_for(ticket.backend) {
                        if !self.may_pass() {
                            return self.found(Err(Refusal { error, retry_at: None }));
                        }
                        self.unreadable(ticket.backend, error);
                    } else if let Some(answer) = self.attempt(ticket, running).await {
                        return self.found(Ok((ticket, answer)));
                    }
                }
                Step::Wait(until) => {
                    if !std::mem::replace(&mut self.waited, true) {
                        log::debug!("[{}] all backends rest, waiting", self.call.id);
                    }
                    sleep_until(until.min(self.until)).await;
                }
                Step::Exhausted => return self.failed(),
            }
        }
    }

    fn found(&mut self, answer: Result<(Ticket, Answer), Refusal>) -> Found {
        let keep = self.reading.take().filter(|reading| reading.store).map(|reading| {
            let history = self.call.history.iter().cloned();
            let items = history.chain(reading.items.into_iter().map(Cow::into_owned)).collect();
            (response_id(self.seed), items)
        });
        Found { answer, attempts: self.walk.attempts(), keep }
    }

    /// Understands the request, if the backend speaks another protocol and nobody has asked before.
    fn read_for(&mut self, backend: usize) -> Result<(), ApiError> {
        let upstream = self.state.upstreams.get(backend);
        let goes_through = upstream.is_none_or(|upstream| passes(self.call.ask, self.call.body, upstream));
        if self.reading.is_none() && (self.stripped || !goes_through) {
            self.reading = Some(self.read()?);
        }
        Ok(())
    }

    /// Whether some backend could take the request as it is.
    fn may_pass(&self) -> bool {
        !self.stripped
            && self.state.upstreams.iter().any(|upstream| passes(self.call.ask, self.call.body, upstream))
    }

    /// The request cannot be told to this backend. One that takes it as it is may know better.
    fn unreadable(&mut self, backend: usize, error: ApiError) {
        self.walk.failed(Verdict {
            class: Class::BadRequest,
            scope: Scope::Request,
            status: None,
            retry: None,
            message: error.message.as_ref().into(),
            quotes: false,
        });
        self.clients_errors.push((backend, error));
    }

    fn read(&self) -> Result<Reading<'a>, ApiError> {
        let Call { ask, body, history, .. } = self.call;
        Reading::new(ask.dialect(), body, history).map(|reading| remembered(self.state, reading))
    }

    async fn attempt(&mut self, ticket: Ticket, running: Running<'_>) -> Option<Answer> {
        let upstream = self.state.upstreams.get(ticket.backend)?;
        let mut result = attempt(&self.state.pool, upstream, &self.job()).await;
        if let Err(failed) = &result
            && is_about_thinking(upstream, &failed.verdict)
            && self.strip()
        {
            log::debug!(
                "[{}] {}: refuses the thinking of others, once more without",
                self.call.id,
                upstream.name
            );
            result = attempt(&self.state.pool, upstream, &self.job()).await;
        }
        match result {
            Ok(answer) => {
                running.succeeded();
                log::debug!("[{}] {}: answers", self.call.id, upstream.name);
                Some(answer)
            }
            Err(Failed { mut verdict, empty, error_body }) => {
                verdict.message = self.state.masked(&verdict.message).into();
                running.failed(self.call.id, &verdict);
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

    fn job(&self) -> Job<'_> {
        Job {
            ask: self.call.ask,
            body: self.call.body,
            reading: self.reading.as_ref(),
            translate: self.stripped,
            fields: self.call.fields,
            signatures: &self.state.signatures,
            show_provider: self.state.config.show_provider,
            secrets: &self.state.secrets,
            until: self.until,
            seed: self.seed,
            created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        }
    }

    /// Takes the thinking out of the request, once. `false`: there is none.
    fn strip(&mut self) -> bool {
        if std::mem::replace(&mut self.stripped, true) {
            return false;
        }
        if self.reading.is_none() {
            self.reading = self.read().ok();
        }
        self.stripped = self.reading.as_mut().is_some_and(strip_thinking);
        self.stripped
    }

    /// Nobody has an answer: says so, in the words that fit.
    fn failed(&mut self) -> Found {
        let empty = self.empty.take();
        let outcome = self.walk.outcome(&self.state.ledger(), Instant::now());
        let refusal = match (outcome, empty) {
            (Outcome::AllEmpty, Some(answer)) => return self.found(Ok(answer)),
            (Outcome::ClientError { backend, verdict }, _) => {
                let known = self.clients_errors.iter().find(|(whose, _)| *whose == backend);
                let error = known.map(|(_, error)| error.clone());
                let error = error.unwrap_or_else(|| self.clients_error(verdict, b""));
                Refusal { error, retry_at: None }
            }
            (Outcome::AllFailed { retry_at }, _) => self.all_failed(retry_at),
            (Outcome::AllEmpty, None) => self.all_failed(None),
        };
        self.found(Err(refusal))
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
            let name =
                match self.state.upstreams.get(record.backend).filter(|_| self.state.config.show_provider) {
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

/// With the signatures that the client has dropped.
fn remembered<'a>(state: &State, mut reading: Reading<'a>) -> Reading<'a> {
    state.signatures.fill(&mut reading.request);
    reading
}

/// A signature is good only where it was made (translation §8).
fn is_about_thinking(upstream: &Upstream, verdict: &Verdict) -> bool {
    let words = verdict.message.to_ascii_lowercase();
    upstream.protocol() == Protocol::Anthropic
        && verdict.class == Class::BadRequest
        && (words.contains("signature") || words.contains("thinking"))
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
