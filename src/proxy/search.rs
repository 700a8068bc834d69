//! The search of one request for an answer: backend after backend, until one says something.

use super::attempt::{Answer, Failed, attempt};
use super::demand;
use super::job::{ClientFields, Job, Reading, passes, strip_thinking};
use super::lease::Lease;
use super::state::{Plan, State};
use super::upstream::Upstream;
use crate::config::Protocol;
use crate::dialect::answer::response_id;
use crate::dialect::ask::Ask;
use crate::dialect::error::ApiError;
use crate::dialect::opening::opening;
use crate::net::deadline::with_deadline;
use crate::provider::ratelimit::Told;
use crate::route::fit::Unfit;
use crate::route::ledger::Ticket;
use crate::route::plan::{Outcome, Step, Walk};
use crate::route::verdict::{Class, Scope, Verdict};
use std::borrow::Cow;
use std::pin::pin;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What a search found.
pub struct Found<'a> {
    /// With the attempt that brought it.
    pub answer: Result<(Lease<'a>, Answer), Refusal>,
    /// Whether it says nothing, as nobody had a better one.
    pub is_empty: bool,
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
pub struct Search<'s, 'a> {
    state: &'s State,
    call: Call<'a>,
    /// The request in the neutral form, once a backend needs it.
    reading: Option<Reading<'a>>,
    /// A provider has refused the request's thinking: it goes on without.
    stripped: bool,
    until: Instant,
    seed: u64,
    walk: Walk,
    conversation: Option<u64>,
    waited: bool,
    /// The first empty answer, for when nobody has a better one.
    empty: Option<(Lease<'s>, Answer)>,
    /// By backend, the answers that found fault with the request itself.
    clients_errors: Vec<(usize, ApiError)>,
}

impl<'s, 'a> Search<'s, 'a> {
    /// Plans it. `reading`: the request in the neutral form, if somebody has read it.
    pub fn new(state: &'s State, call: Call<'a>, reading: Option<Reading<'a>>) -> Self {
        let until = Instant::now() + state.config.request_timeout;
        let Call { ask, body, history, .. } = call;
        let mut reading = reading.map(|reading| remembered(state, reading));
        let exact = || {
            // What cannot be understood is refused later, by somebody who says why.
            reading = reading.take().or_else(|| read(state, call).ok());
            reading.as_ref().map(|reading| demand::exact(&reading.request))
        };
        let bytes = history.iter().fold(body.len(), |sum, item| sum + item.len());
        let opening = || opening(ask.dialect(), body, history);
        let Plan { walk, conversation, .. } = state.plan(ask.model(), bytes, exact, opening);
        Self {
            state,
            call,
            reading,
            stripped: false,
            until,
            seed: fastrand::u64(..),
            walk,
            conversation,
            waited: false,
            empty: None,
            clients_errors: Vec::new(),
        }
    }

    /// Tries one backend after the other.
    pub async fn run(&mut self) -> Found<'s> {
        loop {
            let time = Instant::now();
            if time >= self.until {
                return self.failed();
            }
            let rings = self.state.bell.rings();
            match self.next(time) {
                Step::Try(ticket) => {
                    let lease = Lease::new(self.state, ticket);
                    if let Err(error) = self.read_for(ticket.backend) {
                        lease.unused();
                        if !self.may_pass() {
                            return self.found(Err(Refusal { error, retry_at: None }));
                        }
                        self.unreadable(ticket.backend, error);
                    } else if let Some(answer) = self.attempt(ticket, lease).await {
                        return self.found(Ok(answer));
                    }
                }
                Step::Wait(until) => {
                    if !std::mem::replace(&mut self.waited, true) {
                        log::debug!("[{}] nobody can take it now, waiting: {}", self.call.id, self.clauses());
                    }
                    // Either will do: the walk looks what has changed.
                    let _ = with_deadline(until.min(self.until), pin!(self.state.bell.heard(rings))).await;
                }
                Step::Exhausted => return self.failed(),
            }
        }
    }

    fn next(&mut self, time: Instant) -> Step {
        let waited = self.walk.queued().is_some();
        let step = self.walk.next(&mut self.state.ledger(), time);
        if waited && self.walk.queued().is_none() {
            // The turn is another's.
            self.state.bell.ring();
        }
        step
    }

    fn found(&mut self, answer: Result<(Lease<'s>, Answer), Refusal>) -> Found<'s> {
        let keep = self.reading.take().filter(|reading| reading.store).map(|reading| {
            let history = self.call.history.iter().cloned();
            let items = history.chain(reading.items.into_iter().map(Cow::into_owned)).collect();
            (response_id(self.seed), items)
        });
        Found { answer, is_empty: false, attempts: self.walk.attempts(), keep }
    }

    /// Understands the request, if the backend speaks another protocol and nobody has asked before.
    fn read_for(&mut self, backend: usize) -> Result<(), ApiError> {
        let upstream = self.state.upstreams.get(backend);
        let goes_through = upstream.is_none_or(|upstream| passes(self.call.ask, self.call.body, upstream));
        if self.reading.is_none() && (self.stripped || !goes_through) {
            self.reading = Some(read(self.state, self.call)?);
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

    async fn attempt(&mut self, ticket: Ticket, mut lease: Lease<'s>) -> Option<(Lease<'s>, Answer)> {
        let upstream = self.state.upstreams.get(ticket.backend)?;
        let count = self.state.stats.attempt(ticket.backend, self.call.ask.stream());
        let hear = |told: &[Told]| lease.told(told);
        let mut result = attempt(&self.state.pool, upstream, &self.job(&hear)).await;
        if let Err(failed) = &result
            && is_about_thinking(upstream, &failed.verdict)
            && self.strip()
        {
            log::debug!(
                "[{}] {}: refuses the thinking of others, once more without",
                self.call.id,
                upstream.name
            );
            result = attempt(&self.state.pool, upstream, &self.job(&hear)).await;
        }
        match result {
            Ok(answer) => {
                lease.succeeded();
                count.answered();
                self.remember(ticket.backend);
                log::debug!("[{}] {}: answers", self.call.id, upstream.name);
                Some((lease, answer))
            }
            Err(Failed { mut verdict, learned, empty, error_body }) => {
                verdict.message = self.state.masked(&verdict.message).into();
                lease.failed(self.call.id, &verdict);
                if let Some(learned) = learned {
                    lease.learned(&learned);
                }
                lease.refused(&verdict);
                count.failed(verdict.class);
                if let Some(body) = error_body {
                    self.clients_errors.push((ticket.backend, self.clients_error(&verdict, &body)));
                }
                self.walk.failed(verdict);
                if let (None, Some(answer)) = (&self.empty, empty) {
                    self.empty = Some((lease, *answer));
                }
                None
            }
        }
    }

    /// Whose conversation it is now.
    fn remember(&self, backend: usize) {
        let identity = self.state.ledger().scopes(backend).map(|scopes| scopes.backend);
        if let (Some(conversation), Some(identity)) = (self.conversation, identity) {
            self.state.affinity.answered(conversation, identity);
        }
    }

    fn job<'j>(&'j self, hear: &'j (dyn Fn(&[Told]) + Sync)) -> Job<'j> {
        Job {
            id: self.call.id,
            ask: self.call.ask,
            body: self.call.body,
            reading: self.reading.as_ref(),
            translate: self.stripped,
            fields: self.call.fields,
            signatures: &self.state.signatures,
            show_provider: self.state.config.show_provider,
            hear,
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
            self.reading = read(self.state, self.call).ok();
        }
        self.stripped = self.reading.as_mut().is_some_and(strip_thinking);
        self.stripped
    }

    /// Nobody has an answer: says so, in the words that fit.
    fn failed(&mut self) -> Found<'s> {
        let empty = self.empty.take();
        let outcome = self.walk.outcome(&self.state.ledger(), Instant::now());
        let refusal = match (outcome, empty) {
            (Outcome::AllEmpty, Some(answer)) => {
                return Found { is_empty: true, ..self.found(Ok(answer)) };
            }
            (Outcome::ClientError { backend, verdict }, _) => {
                let known = self.clients_errors.iter().find(|(whose, _)| *whose == backend);
                let error = known.map(|(_, error)| error.clone());
                let error = error.unwrap_or_else(|| self.clients_error(verdict, b""));
                Refusal { error, retry_at: None }
            }
            (Outcome::AllUnfit { backend, why }, _) => {
                log::debug!("[{}] nobody can take it: {}", self.call.id, self.clauses());
                Refusal { error: self.unfit(backend, why), retry_at: None }
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

    /// No backend can take it, and none was asked.
    fn unfit(&self, backend: usize, why: Unfit) -> ApiError {
        let model = self.state.upstreams.get(backend).map_or("?", |upstream| &upstream.model);
        match why {
            // Agents shorten their conversation when they see this code, or the first words.
            Unfit::Window { tokens, window: limit } | Unfit::PerMinute { tokens, limit } => {
                let what =
                    if matches!(why, Unfit::Window { .. }) { "context window" } else { "tokens a minute" };
                let text = format!(
                    "prompt is too long: about {tokens} tokens > {limit} maximum. No configured backend takes that \
                     much; most takes `{model}` ({what})."
                );
                ApiError::new(400, text).code("context_length_exceeded")
            }
            Unfit::Vision => {
                ApiError::new(400, "The request shows images, and no configured backend takes any.")
            }
            Unfit::Tools => ApiError::new(400, "The request has tools, and no configured backend takes any."),
        }
    }

    /// What became of each backend, for the log: without the words of providers, who may quote the request.
    fn clauses(&self) -> String {
        let clauses = self.walk.records().map(|record| {
            let name = self.state.upstreams.get(record.backend).map_or("?", |upstream| &upstream.name);
            format!("{name}: {record:#}")
        });
        clauses.collect::<Vec<_>>().join("; ")
    }

    fn all_failed(&self, retry_at: Option<Instant>) -> Refusal {
        log::debug!("[{}] no backend has an answer: {}", self.call.id, self.clauses());
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

fn read<'a>(state: &State, call: Call<'a>) -> Result<Reading<'a>, ApiError> {
    let Call { ask, body, history, .. } = call;
    Reading::new(ask.dialect(), body, history).map(|reading| remembered(state, reading))
}

/// One that waits gives its place in the queue back, however it ends.
impl Drop for Search<'_, '_> {
    fn drop(&mut self) {
        if let Some(number) = self.walk.queued() {
            self.state.ledger().leave(number);
            self.state.bell.ring();
        }
    }
}
