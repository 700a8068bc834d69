//! Which backends a request tries, in which order, and when it stops: the walk of one request.
//!
//! Sends nothing and sleeps nowhere: the caller does what [`Step`] says and reports back.

use std::fmt;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::limits::{ATTEMPTS_MAX, HELD_RETRIES_MAX, LAST_RESORT_GAP, PROBE_STEP};
use crate::provider::ratelimit::{Span, Unit};
use crate::route::fit::Unfit;
use crate::route::ledger::{Ledger, Standing, Ticket};
use crate::route::quota::Shortage;
use crate::route::verdict::{Class, Scope, Verdict};

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
    /// Inside a priority, lower ones are tried first.
    pub rank: u64,
    /// Context window in tokens, where it is known.
    pub context: Option<u64>,
    /// Why this request cannot succeed there.
    pub unfit: Option<Unfit>,
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

/// Sorts by priority and rank; among equals, every order is equally likely.
pub fn order(candidates: &mut [Candidate], rng: &mut Rng) {
    rng.shuffle(candidates);
    // Stable, so that the shuffle survives among equals.
    candidates.sort_by_key(|candidate| (candidate.priority, candidate.rank));
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Attempt this backend; the ledger has it noted. Then call `failed`, or be done.
    Try(Ticket),
    /// Nothing can be tried before this moment, or before another request ends: sleep until then (or until the client
    /// leaves), then ask again. The walk has its place in the queue: see [`Walk::queued`].
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
    /// The request fits nowhere.
    AllUnfit {
        /// Where it came nearest to: by the first in the order if nothing else decides.
        backend: usize,
        /// Why not even there.
        why: Unfit,
    },
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
    Unfit(Unfit),
    /// The same model at the same provider has refused the request.
    SameModel,
    /// The same provider has blocked the request.
    SameProvider,
    /// Its window is not larger than one that was too small.
    SmallWindow,
    /// Benched, for the seconds that were left when last looked at (rounded up).
    Benched(Class, u64),
    /// Its limits are reached, for the seconds that were left when last looked at (rounded up), if that is known.
    Short(Shortage, Option<u64>),
    /// Others have waited longer.
    Queued,
    /// Another request's probe was running, or has failed while this one waited for it.
    Probed,
    /// Its provider could not be reached.
    SameAddress,
    /// The walk ended before.
    NotReached,
}

/// With `#`, without what providers said.
impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.failure, self.skipped) {
            (Some(failure), _) => {
                failure.fmt(f)?;
                if self.tries > 1 { write!(f, " (tried {} times)", self.tries) } else { Ok(()) }
            }
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
            (None, Some(Skipped::Short(shortage, seconds))) => {
                write!(f, "skipped: {}", words(shortage))?;
                seconds.map_or(Ok(()), |seconds| write!(f, ", room in {seconds} s"))
            }
            (None, Some(Skipped::Queued)) => f.write_str("skipped: other requests have waited longer for it"),
            (None, Some(Skipped::Probed)) => {
                f.write_str("skipped: it was down, and another request's probe failed")
            }
            (None, Some(Skipped::SameAddress)) => f.write_str("skipped: its provider cannot be reached"),
            (None, Some(Skipped::NotReached)) => f.write_str("not reached"),
            (None, None) => f.write_str("no answer"),
        }
    }
}

/// A shortage in a few words.
pub fn words(shortage: Shortage) -> &'static str {
    match shortage {
        Shortage::Busy { .. } => "running requests take all there is",
        Shortage::Spent { unit: Unit::Requests, span, .. } => match span {
            Span::Minute => "requests of the minute used up",
            Span::Hour => "requests of the hour used up",
            Span::Day => "requests of the day used up",
            Span::Month => "requests of the month used up",
            Span::Unnamed => "requests used up",
        },
        Shortage::Spent { unit: Unit::Tokens, span, .. } => match span {
            Span::Minute => "too few tokens left in the minute",
            Span::Hour => "too few tokens left in the hour",
            Span::Day => "too few tokens left today",
            Span::Month => "too few tokens left in the month",
            Span::Unnamed => "too few tokens left",
        },
    }
}

/// The walk of one request over its candidates.
///
/// First `keep_cycles` passes over the order: the first skips who is benched, the later ones are for those that
/// failed transiently *in this request*, whose own benches they ignore. Then, unless somebody found fault with the
/// request itself: backends benched by our mere guess that they are down are probed, as nothing else is left, and
/// a bench or shortage that is known to end within `max_wait` of the arrival is waited for, in the order of arrival.
#[derive(Debug)]
pub struct Walk {
    slots: Vec<Slot>,
    /// Expected to be used, in tokens.
    tokens: u64,
    /// Number in the queue of those who wait, while it waits.
    queued: Option<u64>,
    /// The same for good: who was let go and refused comes back to his turn.
    number: Option<u64>,
    /// The pass is one after a wait: only for those who were not asked yet.
    is_fresh: bool,
    /// The passes are over.
    is_last_resort: bool,
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
    /// A walk over `order`, which is not empty in a valid config, of a request that is expected to use so many
    /// tokens. `keep_cycles` is at least 1.
    pub fn new(
        order: &[Candidate],
        ledger: &Ledger,
        tokens: u64,
        keep_cycles: u32,
        arrival: Instant,
        max_wait: Duration,
    ) -> Self {
        let slots = order.iter().map(|candidate| {
            let scopes = ledger.scopes(candidate.backend);
            let unfit = candidate.unfit;
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
            tokens,
            queued: None,
            number: None,
            is_fresh: false,
            is_last_resort: false,
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

    /// Its number in the queue while it waits. Who drops a walk that has one tells the ledger that it leaves.
    pub fn queued(&self) -> Option<u64> {
        self.queued
    }

    /// Who would be tried now, without trying.
    pub fn first(&self, ledger: &Ledger, now: Instant) -> Option<usize> {
        let open = |slot: &&Slot| {
            let standing = ledger.standing(slot.backend, self.tokens, now);
            !slot.closed && matches!(standing, Standing::Open | Standing::HalfOpen)
        };
        self.slots.iter().find(open).map(|slot| slot.backend)
    }

    /// What to do now. Call it under the lock of the ledger: it notes the attempt that it answers with.
    pub fn next(&mut self, ledger: &mut Ledger, now: Instant) -> Step {
        let step = self.step(ledger, now);
        if !matches!(step, Step::Wait(_))
            && let Some(number) = self.queued.take()
        {
            ledger.leave(number);
        }
        step
    }

    fn step(&mut self, ledger: &mut Ledger, now: Instant) -> Step {
        if self.attempts >= ATTEMPTS_MAX {
            return Step::Exhausted;
        }
        if self.queued.is_some() {
            // Whom it has waited for gets the passes that he would have had without.
            (self.at, self.is_fresh) = (0, true);
        }
        loop {
            while let Some(slot) = self.slots.get_mut(self.at) {
                self.at += 1;
                let is_passed_over = slot.closed || (self.is_fresh && slot.failure.is_some());
                if !is_passed_over && slot.may_pass(ledger, self.tokens, self.number, now) {
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
            self.is_fresh = false;
        }
        // Whatever the last resorts bring is no reason for a pass.
        self.tried_in_pass = false;
        self.is_last_resort = true;
        self.last_resort(ledger, now)
    }

    /// The attempt of the last `Try` has failed so; the ledger is told by the caller.
    pub fn failed(&mut self, verdict: Verdict) {
        let Some(slot) = self.slots.get_mut(self.current) else { return };
        let (class, provider, model, context) = (verdict.class, slot.provider, slot.model, slot.context);
        // Once more may help, for each of its models does not.
        let unreachable = verdict.scope == Scope::Provider && self.is_last_resort;
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
                Class::Down if unreachable && slot.provider == provider => Skipped::SameAddress,
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
        let unfit = self.slots.iter().map(|slot| match slot.skipped {
            Some(Skipped::Unfit(why)) if slot.tries == 0 => Some((slot.backend, why)),
            _ => None,
        });
        if let Some(Some((backend, why))) = unfit.reduce(|first, next| nearer(first?, next?)) {
            return Outcome::AllUnfit { backend, why };
        }
        let open = self.slots.iter().filter(|slot| !matches!(slot.skipped, Some(Skipped::Unfit(_))));
        let known = open.filter_map(|slot| match ledger.standing(slot.backend, self.tokens, now) {
            Standing::Benched { until, known: true, .. } | Standing::Short(Shortage::Spent { until, .. }) => {
                Some(until)
            }
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
        Step::Try(ledger.begin(slot.backend, self.tokens, now))
    }

    /// Nothing is left of the passes: probe who may be up again, or wait for who will be.
    fn last_resort(&mut self, ledger: &mut Ledger, now: Instant) -> Step {
        if self.slots.iter().any(|slot| slot.failure.as_ref().is_some_and(|v| v.class.is_clients())) {
            return Step::Exhausted;
        }
        let mut wake: Option<Instant> = None;
        // Nothing that comes later is worth the wait.
        let deadline = self.arrival.checked_add(self.max_wait).filter(|deadline| *deadline > now);
        let may_ask_again = self.held_retries < HELD_RETRIES_MAX;
        let mut awaited = Vec::new();
        for place in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(place).filter(|slot| !slot.closed) else { continue };
            if slot.failure.is_some() && !may_ask_again {
                continue;
            }
            let chance = slot.last_chance(ledger, self.tokens, now, self.max_wait.is_zero());
            let claimed = ledger.is_claimed(slot.backend, self.number);
            let (then, claims) = match chance {
                Chance::Now if !claimed => {
                    self.held_retries += usize::from(slot.failure.is_some());
                    return self.begin(place, ledger, now);
                }
                Chance::At(then) if !claimed => (Some(then), true),
                // A mere hope keeps nobody else out who fits in now.
                Chance::Busy(Some(until)) if deadline.is_some_and(|deadline| until > deadline) => {
                    (deadline, false)
                }
                Chance::Busy(Some(until)) if !claimed => (Some(until), true),
                // Woken when somebody leaves.
                Chance::Now | Chance::At(_) | Chance::Busy(_) => (deadline, true),
                Chance::None => (None, false),
            };
            if let Some(then) = then.filter(|then| deadline.is_some_and(|deadline| *then <= deadline)) {
                wake = Some(wake.map_or(then, |wake| wake.min(then)));
                if claims {
                    awaited.push(slot.backend);
                }
            }
        }
        let Some(wake) = wake else { return Step::Exhausted };
        self.queued = ledger.wait(self.number, &awaited);
        self.number = self.queued.or(self.number);
        if self.queued.is_some() { Step::Wait(wake) } else { Step::Exhausted }
    }
}

/// Of two reasons the one that is closer to a fit: more room before less, and room before abilities.
fn nearer(first: (usize, Unfit), next: (usize, Unfit)) -> Option<(usize, Unfit)> {
    let room = |why: Unfit| match why {
        Unfit::Window { window, .. } => window,
        Unfit::PerMinute { limit, .. } => limit,
        Unfit::Vision | Unfit::Tools => 0,
    };
    Some(if room(next.1) > room(first.1) { next } else { first })
}

fn is_about_output(class: Class) -> bool {
    matches!(class, Class::Empty | Class::OutputInvalid)
}

enum Chance {
    Now,
    At(Instant),
    /// When one of those that run ends, or at this moment.
    Busy(Option<Instant>),
    None,
}

impl Slot {
    fn is_transient(&self) -> bool {
        !self.closed && self.failure.as_ref().is_some_and(|verdict| verdict.class.is_transient())
    }

    /// Whether a pass tries it; notes why not.
    fn may_pass(&mut self, ledger: &Ledger, tokens: u64, number: Option<u64>, now: Instant) -> bool {
        let standing = ledger.standing(self.backend, tokens, now);
        self.note(standing, now);
        match standing {
            // The first come are first served.
            Standing::Open | Standing::HalfOpen if ledger.is_claimed(self.backend, number) => {
                self.skipped = Some(Skipped::Queued);
                false
            }
            Standing::Open | Standing::HalfOpen => self.failure.is_none() || self.is_transient(),
            // The bench, or the probe, of this request's own failure.
            Standing::Probing | Standing::Benched { known: false, class: Class::Down, .. } => {
                self.is_transient()
            }
            Standing::Benched { .. } | Standing::Short(_) => false,
        }
    }

    /// What is left of it when the passes are over.
    fn last_chance(&mut self, ledger: &Ledger, tokens: u64, now: Instant, no_wait: bool) -> Chance {
        let standing = ledger.standing(self.backend, tokens, now);
        self.note(standing, now);
        // Never asked, or refused until a stated moment.
        let waits = self.failure.as_ref().is_none_or(|verdict| verdict.retry.is_some());
        match standing {
            Standing::Open | Standing::HalfOpen if waits => Chance::Now,
            Standing::Benched { until, known: true, .. } if waits => Chance::At(until),
            Standing::Short(Shortage::Spent { until, .. }) if waits => Chance::At(until),
            Standing::Short(Shortage::Busy { until }) if waits => Chance::Busy(until),
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
            // If the limit still holds, the probe brings its new end.
            Standing::Probing if waits && ledger.probes_limit(self.backend, now) => {
                now.checked_add(PROBE_STEP).map_or(Chance::None, Chance::At)
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
            Standing::Short(shortage) => {
                let left = match shortage {
                    Shortage::Busy { .. } => None,
                    Shortage::Spent { until, .. } => Some(until.saturating_duration_since(now)),
                };
                let seconds =
                    left.map(|left| u64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u64::MAX));
                self.skipped = Some(Skipped::Short(shortage, seconds));
            }
            Standing::Probing => self.skipped = Some(Skipped::Probed),
            Standing::Open | Standing::HalfOpen => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_WAIT_TIME;
    use crate::provider::Limits;
    use crate::route::Now;
    use crate::route::ledger::{Member, Scopes, Spent};
    use crate::route::verdict::{Failure, Retry, Scope, Source, Window, judge_failure};

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn wall() -> Now {
        Now { mono: Instant::now(), wall: std::time::SystemTime::UNIX_EPOCH + 1_795_400_000 * SECOND }
    }

    /// Requests against backends that all have another provider, unless said otherwise.
    struct World {
        ledger: Ledger,
        backends: usize,
        now: Instant,
        rng: Rng,
        keep_cycles: u32,
        max_wait: Duration,
    }

    impl World {
        fn new(backends: usize) -> Self {
            let name = |index| format!("https://{index}/v1");
            Self::of(
                (0..backends).map(|index| Scopes::new([1, 2], "p", &name(index), 1, None, "m")).collect(),
            )
        }

        fn of(scopes: Vec<Scopes>) -> Self {
            let backends = scopes.len();
            Self {
                ledger: Ledger::new(wall(), scopes.into_iter().map(Member::new)),
                backends,
                now: Instant::now(),
                rng: Rng::with_seed(3),
                keep_cycles: 1,
                max_wait: MAX_WAIT_TIME,
            }
        }

        fn candidates(&self) -> Vec<Candidate> {
            let candidate = |backend| Candidate { backend, priority: 1, rank: 0, context: None, unfit: None };
            (0..self.backends).map(candidate).collect()
        }

        fn walk(&self) -> Walk {
            self.walk_over(&self.candidates())
        }

        fn walk_over(&self, order: &[Candidate]) -> Walk {
            Walk::new(order, &self.ledger, 0, self.keep_cycles, self.now, self.max_wait)
        }

        fn next(&mut self, walk: &mut Walk) -> Step {
            self.now += MS;
            walk.next(&mut self.ledger, self.now)
        }

        fn fail(&mut self, walk: &mut Walk, ticket: Ticket, verdict: &Verdict) {
            self.now += MS;
            self.ledger.failure(ticket, verdict, self.now, &mut self.rng);
            self.ledger.end(ticket, Spent::Refused);
            walk.failed(verdict.clone());
        }

        /// A request of its own that fails at this backend.
        fn bench(&mut self, backend: usize, verdict: &Verdict) {
            let ticket = self.ledger.begin(backend, 0, self.now);
            self.now += MS;
            self.ledger.failure(ticket, verdict, self.now, &mut self.rng);
        }

        /// Walks to the end, each backend answering by `answer`; which were tried, and what time was slept.
        fn run(&mut self, walk: &mut Walk, answer: impl Fn(usize) -> Verdict) -> (Vec<usize>, Duration) {
            let (mut tried, mut slept) = (Vec::new(), Duration::ZERO);
            loop {
                match self.next(walk) {
                    Step::Try(ticket) => {
                        tried.push(ticket.backend);
                        self.fail(walk, ticket, &answer(ticket.backend));
                    }
                    Step::Wait(until) => {
                        assert!(until > self.now, "a wait is in the future");
                        slept += until - self.now;
                        self.now = until;
                    }
                    Step::Exhausted => return (tried, slept),
                }
            }
        }

        fn told(&self, class: Class, wait: Duration) -> Verdict {
            let retry = Some(Retry { until: self.now + wait, source: Source::Told });
            Verdict { retry, ..verdict(class) }
        }
    }

    fn verdict(class: Class) -> Verdict {
        let scope = match class {
            Class::KeyBad => Scope::Key,
            Class::Down | Class::RateLimited | Class::QuotaDone(_) | Class::ModelGone | Class::Forbidden => {
                Scope::Backend
            }
            _ => Scope::Request,
        };
        Verdict { class, scope, status: None, retry: None, message: "why".into(), quotes: true }
    }

    fn down() -> Verdict {
        judge_failure(&Failure::Closed)
    }

    #[test]
    fn candidates_by_model() {
        let models = ["a", "b", "A", "b"];
        let check = |routing, requested, expected: &[usize]| {
            assert_eq!(
                candidates(routing, requested, "aifree", models.into_iter()),
                expected,
                "{requested:?}"
            );
        };
        check(Routing::Any, Some("a"), &[0, 1, 2, 3]);
        check(Routing::Match, Some("b"), &[1, 3]);
        check(Routing::Match, Some(" a "), &[0]);
        check(Routing::Match, Some("A"), &[2]);
        check(Routing::Match, Some("none of them"), &[0, 1, 2, 3]);
        check(Routing::Match, Some("aifree"), &[0, 1, 2, 3]);
        check(Routing::Match, Some(" "), &[0, 1, 2, 3]);
        check(Routing::Match, None, &[0, 1, 2, 3]);
    }

    #[test]
    fn priorities_ascend_and_every_order_inside_one_is_equally_likely() {
        let mut rng = Rng::with_seed(1);
        let mut seen = std::collections::HashMap::new();
        let rounds = 24_000;
        for _ in 0..rounds {
            let mut world = World::new(6).candidates();
            for (candidate, priority) in world.iter_mut().zip([2, 1, 2, 3, 2, 2]) {
                candidate.priority = priority;
            }
            order(&mut world, &mut rng);
            let order: Vec<usize> = world.iter().map(|candidate| candidate.backend).collect();
            assert_eq!((order[0], order[5]), (1, 3));
            *seen.entry(order).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 24, "all permutations of four");
        for (order, count) in seen {
            // 1000 expected; six standard deviations are 186.
            assert!((814..1186).contains(&count), "{order:?} came {count} times");
        }
    }

    #[test]
    fn each_backend_is_tried_once_and_those_that_failed_transiently_again() {
        let mut world = World::new(3);
        world.keep_cycles = 3;
        let mut walk = world.walk();
        let answer = |backend| if backend == 1 { verdict(Class::KeyBad) } else { down() };
        assert_eq!(world.run(&mut walk, answer), (vec![0, 1, 2, 0, 2, 0, 2], Duration::ZERO));
        assert_eq!(walk.attempts(), 7);

        for (class, again) in [
            (Class::Down, true),
            (Class::Empty, true),
            (Class::OutputInvalid, true),
            (Class::RateLimited, false),
            (Class::QuotaDone(Window::Credit), false),
            (Class::KeyBad, false),
            (Class::ModelGone, false),
            (Class::Forbidden, false),
            (Class::TooLarge, false),
            (Class::Blocked, false),
            (Class::BadRequest, false),
        ] {
            let mut world = World::new(1);
            world.keep_cycles = 2;
            let mut walk = world.walk();
            let (tried, _) = world.run(&mut walk, |_| verdict(class));
            assert_eq!(tried.len(), if again { 2 } else { 1 }, "{class:?}");
        }
    }

    #[test]
    fn attempts_are_capped() {
        let mut world = World::new(5);
        world.keep_cycles = u32::MAX;
        let mut walk = world.walk();
        assert_eq!(world.run(&mut walk, |_| down()).0.len(), ATTEMPTS_MAX);
        // A pass that can try nobody ends the walk at once, however many are left.
        let mut world = World::new(1);
        world.keep_cycles = u32::MAX;
        let mut walk = world.walk();
        let Step::Try(ticket) = world.next(&mut walk) else { panic!("open") };
        world.fail(&mut walk, ticket, &down());
        let far = world.told(Class::RateLimited, 3600 * SECOND);
        world.bench(0, &far);
        assert_eq!(world.next(&mut walk), Step::Exhausted);
    }

    #[test]
    fn who_is_benched_is_not_asked() {
        let mut world = World::new(4);
        let told = world.told(Class::RateLimited, 6 * 3600 * SECOND);
        world.bench(0, &told);
        world.bench(1, &verdict(Class::KeyBad));
        world.bench(3, &verdict(Class::RateLimited));
        let mut walk = world.walk();
        assert_eq!(world.run(&mut walk, |_| verdict(Class::KeyBad)), (vec![2], Duration::ZERO));
        let retry_at = told.retry.map(|retry| retry.until);
        assert_eq!(walk.outcome(&world.ledger, world.now), Outcome::AllFailed { retry_at });
        let said: Vec<String> = walk.records().map(|record| record.to_string()).collect();
        assert_eq!(
            said,
            [
                "skipped: rate limited, benched for 21600 s",
                "skipped: key refused, benched for 600 s",
                "key refused: why",
                "skipped: rate limited, benched for 15 s",
            ]
        );
    }

    #[test]
    fn a_bad_key_is_not_tried_with_its_other_models() {
        let of = |key, model| Scopes::new([1, 2], "p", "https://p", key, None, model);
        let mut world = World::of(vec![of(1, "a"), of(1, "b"), of(2, "a")]);
        let mut walk = world.walk();
        assert_eq!(world.run(&mut walk, |_| verdict(Class::KeyBad)).0, [0, 2]);
    }

    #[test]
    fn a_known_end_is_waited_for() {
        let mut world = World::new(2);
        let (soon, late) =
            (world.told(Class::RateLimited, 5 * SECOND), world.told(Class::RateLimited, 9 * SECOND));
        world.bench(0, &late);
        world.bench(1, &soon);
        let mut walk = world.walk();
        let Step::Wait(until) = world.next(&mut walk) else { panic!("waits") };
        assert_eq!(Some(until), soon.retry.map(|retry| retry.until));
        world.now = until;
        assert!(matches!(world.next(&mut walk), Step::Try(ticket) if ticket.backend == 1));
    }

    #[test]
    fn only_known_ends_within_the_patience_are_waited_for() {
        for (max_wait, wait, waits) in [(20, 19, true), (20, 21, false), (0, 1, false), (3600, 3000, true)]
            .map(|(a, b, w)| (SECOND * a, SECOND * b, w))
        {
            let mut world = World::new(1);
            world.max_wait = max_wait;
            let told = world.told(Class::RateLimited, wait);
            world.bench(0, &told);
            let mut walk = world.walk();
            assert_eq!(matches!(world.next(&mut walk), Step::Wait(_)), waits, "{wait:?} of {max_wait:?}");
        }
        let mut world = World::new(1);
        world.bench(0, &verdict(Class::RateLimited));
        let mut walk = world.walk();
        assert_eq!(world.next(&mut walk), Step::Exhausted, "15 s, but only guessed");
    }

    #[test]
    fn a_request_that_is_told_to_wait_waits_but_not_for_ever() {
        let mut world = World::new(1);
        let mut walk = world.walk();
        let (mut tried, mut slept) = (0, Duration::ZERO);
        loop {
            match world.next(&mut walk) {
                Step::Try(ticket) => {
                    tried += 1;
                    let told = world.told(Class::RateLimited, SECOND / 2);
                    world.fail(&mut walk, ticket, &told);
                }
                Step::Wait(until) => {
                    slept += until - world.now;
                    world.now = until;
                }
                Step::Exhausted => break,
            }
        }
        assert_eq!(tried, 1 + HELD_RETRIES_MAX);
        assert!(slept <= MAX_WAIT_TIME);
    }

    #[test]
    fn one_backend_that_hiccuped_is_probed_at_once() {
        let mut world = World::new(1);
        world.bench(0, &down());
        world.now += LAST_RESORT_GAP;
        let mut walk = world.walk();
        let Step::Try(ticket) = world.next(&mut walk) else { panic!("probes") };
        world.ledger.success(ticket);
        let mut walk = world.walk();
        assert!(matches!(world.next(&mut walk), Step::Try(_)));
        assert_eq!(world.ledger.standing(0, 0, world.now), Standing::Open);

        // Right after the failure, the probe comes after a short pause, if the client has any patience.
        for (max_wait, pause) in [(MAX_WAIT_TIME, true), (Duration::ZERO, false)] {
            let mut world = World::new(1);
            world.max_wait = max_wait;
            world.bench(0, &down());
            let mut walk = world.walk();
            let (tried, slept) = world.run(&mut walk, |_| down());
            assert_eq!(tried, [0]);
            assert_eq!((slept <= LAST_RESORT_GAP, !slept.is_zero()), (true, pause));
        }
    }

    #[test]
    fn the_last_resort_is_also_for_those_whose_others_failed() {
        let mut world = World::new(3);
        world.bench(0, &down());
        world.now += LAST_RESORT_GAP;
        let mut walk = world.walk();
        let (tried, _) = world.run(&mut walk, |_| verdict(Class::RateLimited));
        assert_eq!(tried, [1, 2, 0], "it may be the one that works");

        let mut world = World::new(2);
        world.bench(0, &down());
        world.now += LAST_RESORT_GAP;
        let mut walk = world.walk();
        let (tried, _) = world.run(&mut walk, |_| verdict(Class::BadRequest));
        assert_eq!(tried, [1], "but not for a request that is at fault itself");
    }

    #[test]
    fn many_requests_share_one_probe() {
        let mut world = World::new(1);
        world.bench(0, &down());
        world.now += LAST_RESORT_GAP;
        let mut walks: Vec<Walk> = (0..50).map(|_| world.walk()).collect();
        let steps: Vec<Step> = walks.iter_mut().map(|walk| walk.next(&mut world.ledger, world.now)).collect();
        let Step::Try(probe) = steps[0] else { panic!("the first probes") };
        assert_eq!(steps[1], Step::Wait(world.now + PROBE_STEP), "the second looks again");
        let deadline = Step::Wait(world.now + MAX_WAIT_TIME);
        assert!(steps[2..].iter().all(|step| *step == deadline), "the others wait for their turn");

        // It fails: they have their answer too.
        world.fail(&mut walks[0], probe, &down());
        world.now += PROBE_STEP;
        for walk in &mut walks {
            assert_eq!(walk.next(&mut world.ledger, world.now), Step::Exhausted);
        }

        // It works: all go.
        world.now += LAST_RESORT_GAP;
        let mut walks: Vec<Walk> = (0..50).map(|_| world.walk()).collect();
        let steps: Vec<Step> = walks.iter_mut().map(|walk| walk.next(&mut world.ledger, world.now)).collect();
        let Step::Try(probe) = steps[0] else { panic!("the first probes") };
        world.ledger.success(probe);
        world.now += PROBE_STEP;
        for walk in &mut walks[1..] {
            assert!(matches!(walk.next(&mut world.ledger, world.now), Step::Try(_)));
        }
    }

    #[test]
    fn a_fault_of_the_request_is_not_asked_about_twice() {
        let of = |provider: &str, model| Scopes::new([1, 2], "p", provider, 1, None, model);
        let scopes = || vec![of("x", "a"), of("x", "a"), of("x", "b"), of("y", "a")];
        for (class, expected) in [
            (Class::BadRequest, vec![0, 2, 3]),
            (Class::TooLarge, vec![0, 2, 3]),
            (Class::Blocked, vec![0, 3]),
        ] {
            let mut world = World::of(scopes());
            world.keep_cycles = 5;
            let mut walk = world.walk();
            assert_eq!(world.run(&mut walk, |_| verdict(class)).0, expected, "{class:?}");
            let expected = verdict(class);
            assert_eq!(
                walk.outcome(&world.ledger, world.now),
                Outcome::ClientError { backend: 0, verdict: &expected }
            );
        }
    }

    #[test]
    fn too_large_goes_on_to_larger_or_unknown_windows() {
        let mut world = World::new(5);
        let mut order = world.candidates();
        for (candidate, context) in order.iter_mut().zip([Some(8), Some(8), Some(4), Some(16), None]) {
            candidate.context = context;
        }
        let mut walk = world.walk_over(&order);
        assert_eq!(world.run(&mut walk, |_| verdict(Class::TooLarge)).0, [0, 3, 4]);
    }

    #[test]
    fn unfit_ones_are_skipped() {
        let mut world = World::new(3);
        let mut order = world.candidates();
        order[0].unfit = Some(Unfit::Vision);
        order[2].unfit = Some(Unfit::Window { tokens: 9, window: 8 });
        let mut walk = world.walk_over(&order);
        assert_eq!(world.run(&mut walk, |_| down()).0, [1]);
        assert_eq!(
            walk.records().next().map(|record| record.to_string()).as_deref(),
            Some("skipped: it takes no images")
        );
        assert_eq!(walk.outcome(&world.ledger, world.now), Outcome::AllFailed { retry_at: None });

        let mut walk = world.walk_over(&[order[0], order[2]]);
        assert!(world.run(&mut walk, |_| down()).0.is_empty(), "no call is spent");
        let why = Unfit::Window { tokens: 9, window: 8 };
        assert_eq!(walk.outcome(&world.ledger, world.now), Outcome::AllUnfit { backend: 2, why });
    }

    #[test]
    fn outcomes() {
        use Class::*;
        let check = |classes: &[Class], expected: Option<Class>, empty: bool| {
            let mut world = World::new(classes.len());
            let mut walk = world.walk();
            world.run(&mut walk, |backend| verdict(classes[backend]));
            let found = match walk.outcome(&world.ledger, world.now) {
                Outcome::ClientError { verdict, .. } => (Some(verdict.class), false),
                Outcome::AllEmpty => (None, true),
                Outcome::AllFailed { .. } | Outcome::AllUnfit { .. } => (None, false),
            };
            assert_eq!(found, (expected, empty), "{classes:?}");
        };
        check(&[BadRequest, BadRequest], Some(BadRequest), false);
        check(&[Down, BadRequest, RateLimited, KeyBad], Some(BadRequest), false);
        check(&[TooLarge], Some(TooLarge), false);
        check(&[BadRequest, OutputInvalid], None, false);
        check(&[BadRequest, Blocked], None, false);
        check(&[Empty, BadRequest], None, false);
        check(&[Empty, Empty], None, true);
        check(&[Empty, Down], None, false);
        check(&[Down, RateLimited], None, false);
    }

    #[test]
    fn a_walk_over_nothing_ends() {
        let mut world = World::new(0);
        let mut walk = world.walk();
        assert_eq!(world.next(&mut walk), Step::Exhausted);
        assert_eq!(walk.outcome(&world.ledger, world.now), Outcome::AllFailed { retry_at: None });
    }

    #[test]
    fn whatever_happens_the_walk_keeps_its_promises() {
        let mut rng = Rng::with_seed(11);
        let classes = [
            Class::RateLimited,
            Class::QuotaDone(Window::Day),
            Class::KeyBad,
            Class::ModelGone,
            Class::Down,
            Class::Down,
            Class::Empty,
            Class::TooLarge,
            Class::Forbidden,
            Class::OutputInvalid,
            Class::Blocked,
            Class::BadRequest,
        ];
        let mut world = World::new(6);
        for _ in 0..5000 {
            world.keep_cycles = rng.u32(1..4);
            world.max_wait = SECOND * rng.u32(0..30);
            let mut walk = world.walk();
            let (start, mut tries) = (world.now, 0);
            loop {
                let known: Vec<bool> = (0..6)
                    .map(|b| {
                        matches!(
                            world.ledger.standing(b, 0, world.now + MS),
                            Standing::Benched { known: true, .. }
                        )
                    })
                    .collect();
                match world.next(&mut walk) {
                    Step::Try(ticket) => {
                        tries += 1;
                        assert!(!known[ticket.backend], "no attempt on a known bench");
                        world.now += MS * rng.u32(1..3000);
                        if rng.u8(..) < 30 {
                            world.ledger.success(ticket);
                            break;
                        }
                        let class = classes[rng.usize(..classes.len())];
                        let told = matches!(class, Class::RateLimited | Class::QuotaDone(_)) && rng.bool();
                        let verdict =
                            if told { world.told(class, SECOND * rng.u32(1..60)) } else { verdict(class) };
                        world.fail(&mut walk, ticket, &verdict);
                    }
                    Step::Wait(until) => {
                        assert!(until > world.now && until <= start + world.max_wait, "patience");
                        world.now = until;
                    }
                    Step::Exhausted => break,
                }
                assert!(tries <= ATTEMPTS_MAX && tries == walk.attempts());
            }
            world.now += SECOND * rng.u32(0..20);
        }
    }

    /// A walk among others.
    struct Walking {
        walk: Walk,
        tokens: u64,
        running: Option<Ticket>,
    }

    #[test]
    fn no_interleaving_exceeds_a_limit() {
        let limits = |rpm, tpm, concurrency| Limits { rpm, tpm, concurrency, ..Limits::default() };
        let account = limits(Some(6), None, None);
        let members = [
            (limits(Some(3), None, Some(2)), None),
            (limits(None, Some(900), None), None),
            (account, Some("me")),
            (account, Some("me")),
        ];
        let members: Vec<Member> = members
            .iter()
            .enumerate()
            .map(|(index, (limits, account))| {
                let scopes = Scopes::new([1, 2], "p", "https://p/v1", index as u32, *account, "m");
                Member { limits: *limits, grouped: account.is_some(), ..Member::new(scopes) }
            })
            .collect();
        let mut world = World::new(members.len());
        world.ledger = Ledger::new(wall(), members.iter().copied());
        let mut rng = Rng::with_seed(23);
        let mut walks: Vec<Walking> = Vec::new();
        // What has been sent, unless it turned out not to count: when, where, tokens.
        let mut sent: Vec<(Ticket, Instant, u64)> = Vec::new();
        let (mut tries, mut waits) = (0, 0);
        for _ in 0..20_000 {
            world.now += MS * rng.u32(0..900);
            if walks.len() < 12 && rng.u8(..) < 60 {
                let tokens = rng.u64(1..400);
                world.keep_cycles = rng.u32(1..4);
                let mut order = world.candidates();
                rng.shuffle(&mut order);
                let (keep_cycles, max_wait) = (world.keep_cycles, SECOND * rng.u32(0..30));
                let walk = Walk::new(&order, &world.ledger, tokens, keep_cycles, world.now, max_wait);
                walks.push(Walking { walk, tokens, running: None });
            }
            if walks.is_empty() {
                continue;
            }
            let at = rng.usize(..walks.len());
            let Walking { walk, tokens, running } = &mut walks[at];
            if let Some(ticket) = running.take() {
                let spent =
                    [Spent::Tokens(rng.u64(0..=*tokens)), Spent::Expected, Spent::Refused, Spent::Nothing];
                let spent = spent[rng.usize(..4)];
                let answer = [Class::Down, Class::Down, Class::RateLimited, Class::Empty][rng.usize(..4)];
                let succeeds = rng.bool();
                if succeeds {
                    world.ledger.success(ticket);
                } else {
                    let wait = SECOND * rng.u32(1..90);
                    let told = answer == Class::RateLimited && rng.bool();
                    let verdict = if told { world.told(answer, wait) } else { verdict(answer) };
                    world.ledger.failure(ticket, &verdict, world.now, &mut rng);
                    walk.failed(verdict);
                }
                world.ledger.end(ticket, spent);
                match (spent, sent.iter().position(|(of, ..)| *of == ticket)) {
                    (Spent::Refused | Spent::Nothing, Some(at)) => drop(sent.swap_remove(at)),
                    (Spent::Tokens(took), Some(at)) => sent[at].2 = took,
                    _ => {}
                }
                if succeeds {
                    walks.swap_remove(at);
                }
                continue;
            }
            if rng.u8(..) < 4 {
                // The client leaves.
                if let Some(number) = walk.queued() {
                    world.ledger.leave(number);
                }
                walks.swap_remove(at);
                continue;
            }
            let before: Vec<Standing> = (0..members.len())
                .map(|backend| world.ledger.standing(backend, *tokens, world.now))
                .collect();
            match walk.next(&mut world.ledger, world.now) {
                Step::Try(ticket) => {
                    tries += 1;
                    let is_down = |standing| {
                        matches!(standing, Standing::Benched { known: false, class: Class::Down, .. })
                    };
                    let standing = before[ticket.backend];
                    assert!(
                        matches!(standing, Standing::Open | Standing::HalfOpen | Standing::Probing)
                            || is_down(standing),
                        "{standing:?}"
                    );
                    sent.push((ticket, world.now, *tokens));
                    *running = Some(ticket);
                }
                Step::Wait(until) => {
                    waits += 1;
                    assert!(until > world.now);
                }
                Step::Exhausted => drop(walks.swap_remove(at)),
            }
            sent.retain(|(_, at, _)| world.now - *at < 60 * SECOND);
            let used = |group: &[usize]| {
                let sent = sent.iter().filter(|(ticket, ..)| group.contains(&ticket.backend));
                sent.fold((0, 0), |(requests, sum), (.., tokens)| (requests + 1, sum + tokens))
            };
            assert!(used(&[0]).0 <= 3 && used(&[1]).1 <= 900 && used(&[2, 3]).0 <= 6, "a minute");
            let runs =
                walks.iter().filter_map(|walking| walking.running).filter(|ticket| ticket.backend == 0);
            assert!(runs.count() <= 2, "at a time");
        }
        assert!(tries > 1000 && waits > 1000, "{tries} tries, {waits} waits");
        for Walking { walk, .. } in walks {
            if let Some(number) = walk.queued() {
                world.ledger.leave(number);
            }
        }
        assert_eq!(world.ledger.waiting(), 0, "nobody is forgotten in the queue");
    }
}
