//! One bench: until when something rests, by whose word, and how long the next guess is. Knows nobody but itself.

use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::limits::{
    BENCH_CREDIT, BENCH_DAY, BENCH_DOWN, BENCH_FORBIDDEN, BENCH_KEY, BENCH_MODEL, BENCH_MONTH, BENCH_RATE,
    CAREFUL_SUCCESSES, CAREFUL_TIME, PROBE_TIME,
};
use crate::route::verdict::{Class, Retry, Source, Window};

/// The end of a bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) until: Instant,
    /// When the failure behind it was noted.
    pub(super) since: Instant,
    pub(super) class: Class,
}

/// How often a kind of failure has been met in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) count: u32,
    pub(super) last: Option<Instant>,
}

/// Each kind of failure doubles by itself: a timeout between two 429s does not start them over.
pub(super) const KINDS: usize = 4;
/// The kinds that are limits come first.
const LIMIT_KINDS: usize = 2;

/// The failures of one backend, key, account or provider, and what follows from them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bench {
    pub(super) told: Option<End>,
    pub(super) guessed: Option<End>,
    pub(super) steps: [Steps; KINDS],
    /// When the running probe began.
    probe: Option<Instant>,
    /// All failures noted here: who waits for another's probe sees by it that the probe has failed.
    pub(super) failures: u32,
    pub(super) warned: Option<Class>,
    pub(super) careful: Option<Careful>,
}

/// After a limit, some have to succeed one by one before all may go again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Careful {
    /// How many.
    pub(super) left: u32,
    /// When the limit was noted.
    pub(super) since: Instant,
    /// Later it is no matter any more.
    pub(super) until: Instant,
}

impl Class {
    /// What doubles together. `None` benches for a fixed time.
    pub(super) fn kind(self) -> Option<usize> {
        match self {
            Self::RateLimited => Some(0),
            Self::QuotaDone(Window::Day) => Some(1),
            Self::KeyBad => Some(2),
            Self::Down => Some(3),
            _ => None,
        }
    }

    fn is_limit(self) -> bool {
        matches!(self, Self::RateLimited | Self::QuotaDone(_))
    }

    /// Somebody has to act.
    pub(super) fn needs_somebody(self) -> bool {
        matches!(self, Self::KeyBad | Self::ModelGone | Self::Forbidden | Self::QuotaDone(Window::Credit))
    }
}

impl Bench {
    /// Its ends that are still to come, and whether they are known.
    pub(super) fn ends(&self, now: Instant) -> impl Iterator<Item = (End, bool)> {
        let ends = [(self.told, true), (self.guessed, false)];
        let ends = ends.into_iter().filter_map(|(end, known)| Some((end?, known)));
        ends.filter(move |(end, _)| end.until > now)
    }

    /// Rested by a guess that nobody has proved wrong yet, or by a limit a moment ago: one may try, the others wait
    /// for what becomes of it. Else all who have waited would run into the same limit at once.
    pub(super) fn is_doubtful(&self, now: Instant) -> bool {
        self.guessed.is_some() || self.is_careful(now)
    }

    /// The doubt is about a limit: it proves nothing about others if the probe fails.
    pub(super) fn is_careful(&self, now: Instant) -> bool {
        self.careful.is_some_and(|careful| now < careful.until)
    }

    /// A limit was noted.
    fn be_careful(&mut self, since: Instant) {
        let ends = [self.told, self.guessed].into_iter().flatten().filter(|end| end.class.is_limit());
        let until = ends.map(|end| end.until).max().and_then(|until| until.checked_add(CAREFUL_TIME));
        self.careful = until.map(|until| Careful { left: CAREFUL_SUCCESSES, since, until });
    }

    /// Somebody is trying right now.
    pub(super) fn is_probed(&self, now: Instant) -> bool {
        self.probe.is_some_and(|began| now.saturating_duration_since(began) < PROBE_TIME)
    }

    pub(super) fn begin(&mut self, now: Instant) {
        if self.is_doubtful(now) {
            self.probe = Some(now);
        }
    }

    pub(super) fn end_probe(&mut self, began: Instant) {
        if self.probe == Some(began) {
            self.probe = None;
        }
    }

    /// Without the probe, which reports to somebody else.
    pub(super) fn without_probe(&self) -> Self {
        Self { probe: None, ..self.clone() }
    }

    /// Content has come from an attempt that began at `began`.
    pub(super) fn succeeded(&mut self, began: Instant) {
        self.end_probe(began);
        // What began before a limit was reached proves nothing about the limit.
        let outdated = |end: &End| end.since < began;
        self.told = self.told.filter(|end| !outdated(end));
        self.guessed = self.guessed.filter(|end| end.class.is_limit() && !outdated(end));
        for (kind, steps) in self.steps.iter_mut().enumerate() {
            if kind >= LIMIT_KINDS || steps.last.is_some_and(|last| last < began) {
                *steps = Steps::default();
            }
        }
        self.warned = None;
        if let Some(careful) = self.careful.as_mut().filter(|careful| careful.since < began) {
            careful.left = careful.left.saturating_sub(1);
        }
        self.careful = self.careful.filter(|careful| careful.left > 0);
    }

    /// Any answer but a breakdown shows that it is up, even a refusal.
    pub(super) fn has_answered(&mut self, began: Instant) {
        if self.guessed.is_some_and(|end| end.class == Class::Down && end.since < began) {
            self.guessed = None;
            if let Some(steps) = Class::Down.kind().and_then(|kind| self.steps.get_mut(kind)) {
                *steps = Steps::default();
            }
        }
    }

    /// An attempt that began at `began` has failed so.
    pub(super) fn failed(
        &mut self,
        began: Instant,
        class: Class,
        retry: Option<Retry>,
        now: Instant,
        rng: &mut Rng,
    ) {
        let known = |window| !matches!(window, Class::QuotaDone(Window::Month | Window::Credit));
        match retry {
            Some(Retry { until, source }) if source == Source::Told || known(class) => {
                later(&mut self.told, End { until, since: now, class }, now);
            }
            retry => {
                let Some(guess) = self.guess(began, class, now, rng) else { return };
                let until = now.checked_add(guess).unwrap_or(now);
                // A month by the calendar is our reading of the terms, so that our own cap holds.
                let until = retry.map_or(until, |retry| retry.until.min(until));
                later(&mut self.guessed, End { until, since: now, class }, now);
            }
        }
        if class.is_limit() {
            self.be_careful(now);
        }
    }

    /// How long to stay away if nobody says; `None` if this belongs to a step already taken or benches nobody.
    fn guess(&mut self, began: Instant, class: Class, now: Instant, rng: &mut Rng) -> Option<Duration> {
        let [first, most] = match class {
            Class::RateLimited => BENCH_RATE,
            Class::QuotaDone(Window::Day) => BENCH_DAY,
            Class::QuotaDone(Window::Month) => [BENCH_MONTH; 2],
            Class::QuotaDone(Window::Credit) => [BENCH_CREDIT; 2],
            Class::KeyBad => BENCH_KEY,
            Class::ModelGone => [BENCH_MODEL; 2],
            Class::Forbidden => [BENCH_FORBIDDEN; 2],
            Class::Down => BENCH_DOWN,
            Class::Empty | Class::TooLarge | Class::OutputInvalid | Class::Blocked | Class::BadRequest => {
                return None;
            }
        };
        let Some(steps) = class.kind().and_then(|kind| self.steps.get_mut(kind)) else { return Some(first) };
        if steps.last.is_some_and(|last| began <= last) {
            return None;
        }
        let doubled = 2_u32.checked_pow(steps.count).and_then(|factor| first.checked_mul(factor));
        *steps = Steps { count: steps.count.saturating_add(1), last: Some(now) };
        let guess = doubled.unwrap_or(most).min(most);
        // Downwards, so that the cap holds: many backends that broke together are not probed together.
        Some(if class == Class::Down { guess.mul_f64(0.75 + 0.25 * rng.f64()) } else { guess })
    }
}

/// Of two ends in force the later counts; one that is over counts no more.
fn later(end: &mut Option<End>, new: End, now: Instant) {
    if end.is_none_or(|old| old.until <= now || old.until <= new.until) {
        *end = Some(new);
    }
}
