//! An attempt as the ledger holds it: it begins with a reservation and ends once, whatever happens to its request.

use super::state::State;
use crate::dialect::chat::Usage;
use crate::provider::learn::Lack;
use crate::provider::ratelimit::Told;
use crate::route::fit::Abilities;
use crate::route::ledger::{Spent, Ticket};
use crate::route::verdict::{Class, Learned, Scope, Verdict};
use std::time::Instant;

/// A running attempt. Dropped without a result, the client has left: it proves nothing, and counts as it was expected.
pub struct Lease<'a> {
    state: &'a State,
    ticket: Ticket,
    is_running: bool,
}

impl<'a> Lease<'a> {
    /// Of an attempt that has begun.
    pub fn new(state: &'a State, ticket: Ticket) -> Self {
        Self { state, ticket, is_running: true }
    }

    /// Whose it is.
    pub fn backend(&self) -> usize {
        self.ticket.backend
    }

    /// Its answer has told of limits.
    pub fn told(&self, told: &[Told]) {
        if !told.is_empty() {
            self.state.ledger().told(self.ticket, told, Instant::now());
        }
    }

    /// Its refusal says something for later requests.
    pub fn learned(&self, learned: &Learned) {
        self.told(&learned.told);
        let lacks = |what| (learned.lacks == Some(what)).then_some(false);
        let abilities =
            Abilities { context: learned.context, vision: lacks(Lack::Vision), tools: lacks(Lack::Tools) };
        self.state.ledger().learn(self.ticket.backend, abilities, Instant::now());
    }

    /// The first content has come.
    pub fn succeeded(&self) {
        self.state.ledger().success(self.ticket);
        // Benches may be lifted that others wait for.
        self.state.bell.ring();
    }

    /// It has failed, before or after the first content.
    pub fn failed(&self, id: &str, verdict: &Verdict) {
        let state = self.state;
        let name = state.upstreams.get(self.ticket.backend).map_or("?", |upstream| &upstream.name);
        if verdict.class.is_clients() {
            // What a provider says of a bad request may quote it, and prompts do not belong into a log.
            log::debug!("[{id}] {name}: {} ({})", verdict.class.words(), verdict.status.unwrap_or(0));
        } else {
            log::debug!("[{id}] {name}: {verdict}");
        }
        state.stats.failed(self.ticket.backend, verdict, Instant::now());
        let noted = state.ledger().failure(self.ticket, verdict, Instant::now(), &mut fastrand::Rng::new());
        if noted.first {
            log::warn!("backend {name}: {verdict}");
        }
    }

    /// Nothing was sent.
    pub fn unused(mut self) {
        self.end(Spent::Nothing);
    }

    /// It is over: an error answer, or none.
    pub fn refused(&mut self, verdict: &Verdict) {
        self.end(match (verdict.status, verdict.class, verdict.scope) {
            // An answer without content is an answer all the same.
            (_, Class::Empty, _) => Spent::Expected,
            (_, _, Scope::Provider) => Spent::Nothing,
            (Some(_), ..) => Spent::Refused,
            // A timeout: who knows.
            (None, ..) => Spent::Expected,
        });
    }

    /// It is over, and this is what it took.
    pub fn settle(&mut self, usage: Option<Usage>) {
        let usage = usage.unwrap_or_default();
        let total = match (usage.prompt_tokens, usage.completion_tokens) {
            (None, None) => None,
            (input, output) => Some(input.unwrap_or(0).saturating_add(output.unwrap_or(0))),
        };
        self.end(total.map_or(Spent::Expected, Spent::Tokens));
    }

    fn end(&mut self, spent: Spent) {
        if std::mem::take(&mut self.is_running) {
            self.state.ledger().end(self.ticket, spent);
            self.state.bell.ring();
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.end(Spent::Expected);
    }
}
