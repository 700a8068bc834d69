//! Which backends a request tries, in which order, and when it stops: the walk of one request.
//!
//! Sends nothing and sleeps nowhere: the caller does what [`Step`] says and reports back.

use std::fmt;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::limits::{ATTEMPTS_MAX, HELD_RETRIES_MAX, LAST_RESORT_GAP, PROBE_STEP};
use crate::route::ledger::{Ledger, Standing, Ticket};
use crate::route::verdict::{Class, Verdict};

/// What the model named by the client means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// Nothing: any backend will do.
    Any,
    /// Only backends with exactly this model, unless there are none.
    Match,
}

/// One backend as seen by one request.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Index in the config and in the ledger.
    pub backend: usize,
    /// Lower ones are tried first.
    pub priority: u32,
    /// Context window in tokens, where the config or preset says.
    pub context: Option<u64>,
    /// Why this request cannot succeed there, where that is certain enough to save the call.
    pub unfit: Option<&'static str>,
}

/// The backends that may serve a request for `requested`: all, or with `Match` those with that model.
///
/// No model, a blank one, the proxy's own `alias`, and a model nobody has mean all.
pub fn candidates<'a>(
    routing: Routing,
    requested: Option<&str>,
    alias: &str,
    models: impl Iterator<Item = &'a str> + Clone,
) -> Vec<usize> {
    let wanted = requested.map(str::trim).filter(|name| !name.is_empty() && *name != alias);
    if let (Routing::Match, Some(wanted)) = (routing, wanted) {
        let matching: Vec<usize> = models
            .clone()
            .enumerate()
            .filter(|(_, model)| *model == wanted)
            .map(|(index, _)| index)
            .collect();
        if !matching.is_empty() {
            return matching;
        }
    }
    (0..models.count()).collect()
}

/// Sorts by priority; inside one, every order is equally likely.
pub fn order(candidates: &mut [Candidate], rng: &mut Rng) {
    rng.shuffle(candidates);
    // Stable, so that the shuffle survives inside each priority.
    candidates.sort_by_key(|candidate| candidate.priority);
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Attempt this backend; the ledger has it noted. Then call `failed`, or be done.
    Try(Ticket),
    /// Nothing can be tried before this moment: sleep until then (or until the client leaves), then ask again.
    Wait(Instant),
    /// No attempt is left: see [`Walk::outcome`].
    Exhausted,
}

/// How a request ends that nobody answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// All that looked at the request found the same fault with it: the client gets this answer.
    ClientError {
        /// Whose answer it is: the first in the order.
        backend: usize,
        /// The answer.
        verdict: &'a Verdict,
    },
    /// All that were tried gave an empty answer: the client gets it.
    AllEmpty,
    /// Something else, or a mixture.
    AllFailed {
        /// The earliest moment at which a bench ends by the word of a provider.
        retry_at: Option<Instant>,
    },
}

/// What became of one candidate, for the log and the final message.
#[derive(Debug)]
pub struct Record<'a> {
    /// Index of the backend.
    pub backend: usize,
    /// How often it was tried.
    pub tries: u32,
    /// The last failure of it.
    pub failure: Option<&'a Verdict>,
    /// Why it was passed over, if it never was tried.
    pub skipped: Option<Skipped>,
}

/// Why a candidate was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// The request cannot succeed there.
    Unfit(&'static str),
    /// The same model at the same provider has refused the request.
    SameModel,
    /// The same provider has blocked the request.
    SameProvider,
    /// Its window is not larger than one that was too small.
    SmallWindow,
    /// Benched, for the seconds that were left when last looked at (rounded up).
    Benched(Class, u64),
    /// Another request's probe was running, or has failed while this one waited for it.
    Probed,
    /// The walk ended before.
    NotReached,
}

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.failure, self.skipped) {
            (Some(failure), _) if self.tries > 1 => write!(f, "{failure} (tried {} times)", self.tries),
            (Some(failure), _) => write!(f, "{failure}"),
            (None, Some(Skipped::Unfit(why))) => write!(f, "skipped: {why}"),
            (None, Some(Skipped::SameModel)) => {
                f.write_str("skipped: the same model has refused the request")
            }
            (None, Some(Skipped::SameProvider)) => {
                f.write_str("skipped: its provider has blocked the request")
            }
            (None, Some(Skipped::SmallWindow)) => f.write_str("skipped: its context window is too small"),
            (None, Some(Skipped::Benched(class, seconds))) => {
                write!(f, "skipped: {}, benched for {seconds} s", class.words())
            }
            (None, Some(Skipped::Probed)) => {
                f.write_str("skipped: it was down, and another request's probe failed")
            }
            (None, Some(Skipped::NotReached)) => f.write_str("not reached"),
            (None, None) => f.write_str("no answer"),
        }
    }
}

/// The walk of one request over its candidates.
///
/// First `keep_cycles` passes over the order: the first skips who is benched, the later ones are for those that
/// failed transiently *in this request*, whose own benches they ignore. Then, unless somebody found fault with the
/// request itself: backends benched by our mere guess that they are down are probed, as nothing else is left, and
/// a bench that is known to end within `max_wait` of the arrival is waited for.
#[derive(Debug)]
pub struct Walk {
    slots: Vec<Slot>,
    /// Next place in `slots`, of this pass.
    at: usize,
    cycle: u32,
    keep_cycles: u32,
    tried_in_pass: bool,
    /// Place of the attempt that runs.
    current: usize,
    attempts: usize,
    held_retries: usize,
    arrival: Instant,
    max_wait: Duration,
}

#[derive(Debug)]
struct Slot {
    backend: usize,
    context: Option<u64>,
    provider: u64,
    model: u64,
    tries: u32,
    failure: Option<Verdict>,
    skipped: Option<Skipped>,
    /// Not to be tried any more in this request.
    closed: bool,
    /// Its failures in the ledger when this request began to wait for a probe of it.
    awaited: Option<u32>,
}

impl Walk {
    /// A walk over `order`, which is not empty in a valid config. `keep_cycles` is at least 1.
    pub fn new(
        order: &[Candidate],
        ledger: &Ledger,
        keep_cycles: u32,
        arrival: Instant,
        max_wait: Duration,
    ) -> Self {
        // Estimates err: if nobody seems fit, an honest refusal from a provider is better than ours.
        let all_unfit = order.iter().all(|candidate| candidate.unfit.is_some());
        let slots = order.iter().map(|candidate| {
            let scopes = ledger.scopes(candidate.backend);
            let unfit = candidate.unfit.filter(|_| !all_unfit);
            Slot {
                backend: candidate.backend,
                context: candidate.context,
                provider: scopes.map_or(0, |scopes| scopes.provider),
                model: scopes.map_or(0, |scopes| scopes.model),
                tries: 0,
                failure: None,
                skipped: Some(unfit.map_or(Skipped::NotReached, Skipped::Unfit)),
                closed: unfit.is_some(),
                awaited: None,
            }
        });
        Self {
            slots: slots.collect(),
            at: 0,
            cycle: 1,
            keep_cycles,
            tried_in_pass: false,
            current: 0,
            attempts: 0,
            held_retries: 0,
            arrival,
            max_wait,
        }
    }

    /// Attempts begun so far.
    pub fn attempts(&self) -> usize {
        self.attempts
    }

    /// What to do now. Call it under the lock of the ledger: it notes the attempt that it answers with.
    pub fn next(&mut self, ledger: &mut Ledger, now: Instant) -> Step {
        if self.attempts >= ATTEMPTS_MAX {
            return Step::Exhausted;
        }
        loop {
            while let Some(slot) = self.slots.get_mut(self.at) {
                self.at += 1;
                if !slot.closed && slot.may_pass(ledger.standing(slot.backend, now), now) {
                    self.tried_in_pass = true;
                    return self.begin(self.at - 1, ledger, now);
                }
            }
            // A pass that tried nothing would only be repeated by another.
            let again = self.tried_in_pass && self.slots.iter().any(|slot| slot.is_transient());
            if !again || self.cycle >= self.keep_cycles {
                break;
            }
            self.cycle += 1;
            self.at = 0;
            self.tried_in_pass = false;
        }
        // Passes are over for good, whatever the last resorts bring.
        self.cycle = self.keep_cycles;
        self.last_resort(ledger, now)
    }

    /// The attempt of the last `Try` has failed so; the ledger is told by the caller.
    pub fn failed(&mut self, verdict: Verdict) {
        let Some(slot) = self.slots.get_mut(self.current) else { return };
        let (class, provider, model, context) = (verdict.class, slot.provider, slot.model, slot.context);
        // Limits may end while the request is held for them.
        slot.closed = !(class.is_transient() || matches!(class, Class::RateLimited | Class::QuotaDone(_)));
        slot.failure = Some(verdict);
        for slot in self.slots.iter_mut().filter(|slot| !slot.closed) {
            let skipped = match class {
                Class::BadRequest | Class::TooLarge if slot.model == model => Skipped::SameModel,
                Class::TooLarge if matches!((slot.context, context), (Some(its), Some(small)) if its <= small) => {
                    Skipped::SmallWindow
                }
                Class::Blocked if slot.provider == provider => Skipped::SameProvider,
                _ => continue,
            };
            slot.closed = true;
            slot.skipped = Some(skipped);
        }
    }

    /// How the request ends, when `next` said `Exhausted`.
    pub fn outcome(&self, ledger: &Ledger, now: Instant) -> Outcome<'_> {
        let failures = || self.slots.iter().filter_map(|slot| Some((slot.backend, slot.failure.as_ref()?)));
        // Who was down, limited or did not take the key has not looked at the request, and cannot disagree.
        let mut judges =
            failures().filter(|(_, verdict)| verdict.class.is_clients() || is_about_output(verdict.class));
        if let Some((backend, verdict)) = judges.next()
            && verdict.class.is_clients()
            && judges.all(|(_, other)| other.class == verdict.class)
        {
            return Outcome::ClientError { backend, verdict };
        }
        if failures().next().is_some() && failures().all(|(_, verdict)| verdict.class == Class::Empty) {
            return Outcome::AllEmpty;
        }
        let known = self.slots.iter().filter_map(|slot| match ledger.standing(slot.backend, now) {
            Standing::Benched { until, known: true, .. } => Some(until),
            _ => None,
        });
        Outcome::AllFailed { retry_at: known.min() }
    }

    /// What became of each candidate, in the order of the walk.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.slots.iter().map(|slot| Record {
            backend: slot.backend,
            tries: slot.tries,
            failure: slot.failure.as_ref(),
            skipped: slot.skipped.filter(|_| slot.tries == 0),
        })
    }

    fn begin(&mut self, place: usize, ledger: &mut Ledger, now: Instant) -> Step {
        let Some(slot) = self.slots.get_mut(place) else { return Step::Exhausted };
        slot.tries += 1;
        self.current = place;
        self.attempts += 1;
        Step::Try(ledger.begin(slot.backend, now))
    }

    /// Nothing is left of the passes: probe who may be up again, or wait for who will be.
    fn last_resort(&mut self, ledger: &mut Ledger, now: Instant) -> Step {
        if self.slots.iter().any(|slot| slot.failure.as_ref().is_some_and(|v| v.class.is_clients())) {
            return Step::Exhausted;
        }
        let mut wake: Option<Instant> = None;
        let may_ask_again = self.held_retries < HELD_RETRIES_MAX;
        for place in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(place).filter(|slot| !slot.closed) else { continue };
            if slot.failure.is_some() && !may_ask_again {
                continue;
            }
            match slot.last_chance(ledger, now, self.max_wait.is_zero()) {
                Chance::Now => {
                    self.held_retries += usize::from(slot.failure.is_some());
                    return self.begin(place, ledger, now);
                }
                Chance::At(then) => wake = Some(wake.map_or(then, |wake| wake.min(then))),
                Chance::None => {}
            }
        }
        match (wake, self.arrival.checked_add(self.max_wait)) {
            (Some(wake), Some(deadline)) if wake <= deadline => Step::Wait(wake),
            _ => Step::Exhausted,
        }
    }
}

fn is_about_output(class: Class) -> bool {
    matches!(class, Class::Empty | Class::OutputInvalid)
}

enum Chance {
    Now,
    At(Instant),
    None,
}

impl Slot {
    fn is_transient(&self) -> bool {
        !self.closed && self.failure.as_ref().is_some_and(|verdict| verdict.class.is_transient())
    }

    /// Whether a pass tries it; notes why not.
    fn may_pass(&mut self, standing: Standing, now: Instant) -> bool {
        self.note(standing, now);
        match standing {
            Standing::Open | Standing::HalfOpen => self.failure.is_none() || self.is_transient(),
            // The bench, or the probe, of this request's own failure.
            Standing::Probing | Standing::Benched { known: false, class: Class::Down, .. } => {
                self.is_transient()
            }
            Standing::Benched { .. } => false,
        }
    }

    /// What is left of it when the passes are over.
    fn last_chance(&mut self, ledger: &Ledger, now: Instant, no_wait: bool) -> Chance {
        let standing = ledger.standing(self.backend, now);
        self.note(standing, now);
        // Never asked, or refused until a stated moment.
        let waits = self.failure.as_ref().is_none_or(|verdict| verdict.retry.is_some());
        match standing {
            Standing::Open | Standing::HalfOpen if waits => Chance::Now,
            Standing::Benched { until, known: true, .. } if waits => Chance::At(until),
            // Only our guess keeps it out. A client whose one backend had a hiccup must not be refused for that.
            Standing::Benched { known: false, class: Class::Down, since, .. } if self.failure.is_none() => {
                let again = since.checked_add(LAST_RESORT_GAP).unwrap_or(now);
                if self.probe_has_failed(ledger) {
                    Chance::None
                } else if again <= now || no_wait {
                    Chance::Now
                } else {
                    Chance::At(again)
                }
            }
            Standing::Probing if self.failure.is_none() => {
                if self.probe_has_failed(ledger) {
                    return Chance::None;
                }
                now.checked_add(PROBE_STEP).map_or(Chance::None, Chance::At)
            }
            _ => Chance::None,
        }
    }

    /// Many requests wait for one probe; when it fails, all of them have their answer, and none probes again.
    fn probe_has_failed(&mut self, ledger: &Ledger) -> bool {
        let failures = ledger.failures(self.backend);
        if *self.awaited.get_or_insert(failures) == failures {
            return false;
        }
        self.skipped = Some(Skipped::Probed);
        self.closed = true;
        true
    }

    fn note(&mut self, standing: Standing, now: Instant) {
        match standing {
            Standing::Benched { until, class, .. } => {
                let left = until.saturating_duration_since(now).as_millis().div_ceil(1000);
                self.skipped = Some(Skipped::Benched(class, u64::try_from(left).unwrap_or(u64::MAX)));
            }
            Standing::Probing => self.skipped = Some(Skipped::Probed),
            Standing::Open | Standing::HalfOpen => {}
        }
    }
}
