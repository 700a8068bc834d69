//! What has been used of limits, and when there is room again: the meter of one backend or account.
//!
//! Counts what passes and believes what providers tell. Knows no backend, and no time but the one it is told.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits::TOLD_FACTS_MAX;
use crate::provider::Limits;
use crate::provider::quota::DayReset;
use crate::provider::ratelimit::{Span, Told, Unit};

/// Requests and their tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Requests.
    pub requests: u64,
    /// Tokens, in and out.
    pub tokens: u64,
}

impl Amount {
    /// One request with so many tokens.
    pub fn of_request(tokens: u64) -> Self {
        Self { requests: 1, tokens }
    }

    fn of(self, unit: Unit) -> u64 {
        match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.tokens,
        }
    }

    fn plus(self, more: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(more.requests),
            tokens: self.tokens.saturating_add(more.tokens),
        }
    }

    fn minus(self, less: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(less.requests),
            tokens: self.tokens.saturating_sub(less.tokens),
        }
    }
}

/// How a point of the monotonic clock reads on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// A moment, from which windows are counted.
    pub origin: Instant,
    /// The same in milliseconds since 1970.
    pub wall: i64,
    /// The first reading of it, by which steps are numbered: when the wall clock is set, they stay.
    grid: i64,
}

impl Clock {
    /// `origin` reads `wall`.
    pub fn new(origin: Instant, wall: i64) -> Self {
        Self { origin, wall, grid: wall }
    }

    /// Milliseconds since 1970.
    pub fn wall(&self, at: Instant) -> i64 {
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        match at.checked_duration_since(self.origin) {
            Some(after) => self.wall.saturating_add(ms(after)),
            None => self.wall.saturating_sub(ms(self.origin.saturating_duration_since(at))),
        }
    }

    /// The moment of a reading of the wall clock. `None` if it cannot be told.
    pub fn moment(&self, wall: i64) -> Option<Instant> {
        let apart = Duration::from_millis(wall.abs_diff(self.wall));
        if wall >= self.wall { self.origin.checked_add(apart) } else { self.origin.checked_sub(apart) }
    }

    /// Number of the step of a sliding window that `at` belongs to.
    pub(super) fn step(&self, at: Instant, step: Duration) -> i64 {
        let grid = self.wall(at).saturating_sub(self.wall).saturating_add(self.grid);
        grid.div_euclid(step_ms(step))
    }

    /// When a step begins, on the wall.
    pub(super) fn step_begins_at(&self, number: i64, step: Duration) -> i64 {
        let grid = number.saturating_mul(step_ms(step));
        grid.saturating_sub(self.grid).saturating_add(self.wall)
    }
}

fn step_ms(step: Duration) -> i64 {
    i64::try_from(step.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// A window that slides, in steps: what was used in a step counts until the whole of it is out of the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sliding {
    pub(super) step: Duration,
    steps: i64,
    /// By number of the step, oldest first; at most `steps + 1` of them.
    pub(super) slots: VecDeque<(i64, Amount)>,
    sum: Amount,
}

/// Steps of the sliding minute.
const MINUTE: (Duration, i64) = (Duration::from_secs(1), 60);
/// Steps of the sliding day.
const DAY: (Duration, i64) = (Duration::from_secs(15 * 60), 96);

impl Sliding {
    fn new((step, steps): (Duration, i64)) -> Self {
        Self { step, steps, slots: VecDeque::new(), sum: Amount::default() }
    }

    pub(super) fn add(&mut self, amount: Amount, at: i64) {
        while let Some((_, gone)) = self.slots.front().filter(|(number, _)| self.is_over(*number, at)) {
            self.sum = self.sum.minus(*gone);
            self.slots.pop_front();
        }
        match self.slots.back_mut() {
            // A step back would be a clock that runs backwards: counted with the last.
            Some((last, used)) if *last >= at => *used = used.plus(amount),
            _ => self.slots.push_back((at, amount)),
        }
        self.sum = self.sum.plus(amount);
    }

    pub(super) fn is_over(&self, number: i64, at: i64) -> bool {
        number.saturating_add(self.steps) < at
    }

    fn correct(&mut self, less: Amount, more: Amount, at: i64) {
        if let Some((_, used)) = self.slots.iter_mut().find(|(number, _)| *number == at) {
            let corrected = used.minus(less).plus(more);
            self.sum = self.sum.minus(*used).plus(corrected);
            *used = corrected;
        }
    }

    fn used(&self, at: i64) -> Amount {
        let gone = self.slots.iter().take_while(|(number, _)| self.is_over(*number, at));
        gone.fold(self.sum, |sum, (_, gone)| sum.minus(*gone))
    }

    /// When no more than `allowed` is in use, if nothing is added.
    fn room_at(&self, unit: Unit, allowed: u64, clock: &Clock) -> Option<Instant> {
        let mut used = self.sum.of(unit);
        let mut over = None;
        for (number, gone) in &self.slots {
            if used <= allowed {
                break;
            }
            used = used.saturating_sub(gone.of(unit));
            over = Some(number.saturating_add(self.steps).saturating_add(1));
        }
        clock.moment(clock.step_begins_at(over?, self.step))
    }
}

/// The day of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Day {
    Rolling(Sliding),
    /// Ends at midnight somewhere.
    Turning {
        reset: DayReset,
        began: Instant,
        ends: Instant,
        used: Amount,
    },
}

impl Day {
    fn used(&self, now: Instant, clock: &Clock) -> Amount {
        match self {
            Self::Rolling(window) => window.used(clock.step(now, window.step)),
            Self::Turning { ends, .. } if *ends <= now => Amount::default(),
            Self::Turning { used, .. } => *used,
        }
    }

    fn add(&mut self, amount: Amount, now: Instant, clock: &Clock) {
        match self {
            Self::Rolling(window) => window.add(amount, clock.step(now, window.step)),
            Self::Turning { reset, began, ends, used } => {
                if *ends <= now {
                    let turn = reset.turn(clock.wall(now)).and_then(|turn| clock.moment(turn));
                    (*began, *used) = (now, Amount::default());
                    *ends = turn.unwrap_or(now);
                }
                *used = used.plus(amount);
            }
        }
    }

    fn correct(&mut self, less: Amount, more: Amount, at: Instant, clock: &Clock) {
        match self {
            Self::Rolling(window) => window.correct(less, more, clock.step(at, window.step)),
            Self::Turning { began, used, .. } if at >= *began => *used = used.minus(less).plus(more),
            Self::Turning { .. } => {}
        }
    }

    fn room_at(&self, unit: Unit, allowed: u64, clock: &Clock) -> Option<Instant> {
        match self {
            Self::Rolling(window) => window.room_at(unit, allowed, clock),
            Self::Turning { ends, .. } => Some(*ends),
        }
    }
}

/// What a provider has told of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) unit: Unit,
    pub(super) span: Span,
    pub(super) limit: Option<u64>,
    pub(super) remaining: u64,
    /// When it stops to hold.
    pub(super) ends: Instant,
    /// When the request began that it came with.
    pub(super) began: Instant,
    /// All that was ever counted up to then: what came after is not in `remaining`.
    pub(super) base: Amount,
}

impl Fact {
    pub(super) fn left(&self, total: Amount) -> u64 {
        self.remaining.saturating_sub(total.minus(self.base).of(self.unit))
    }
}

/// Who says how much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The provider.
    Told,
    /// This program, by the limits of the config.
    Counted,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// As many requests run as may.
    Busy,
    /// A window is used up.
    Spent {
        /// What is short.
        unit: Unit,
        /// Of which window.
        span: Span,
        /// When there is room again.
        until: Instant,
        /// Told by the provider, or counted here.
        source: Source,
    },
}

/// One window as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowReport {
    /// What is limited.
    pub unit: Unit,
    /// In what time.
    pub span: Span,
    /// The limit, if it is known.
    pub limit: Option<u64>,
    /// Used of it.
    pub used: Option<u64>,
    /// Left of it.
    pub left: Option<u64>,
    /// When more is left again (counted) or all of it (told).
    pub resets: Option<Instant>,
    /// Who says so.
    pub source: Source,
}

/// What one backend, or one account, has used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meter {
    pub(super) minute: Sliding,
    pub(super) day: Day,
    /// Requests that run.
    in_flight: u64,
    /// Ever counted.
    pub(super) total: Amount,
    pub(super) facts: Vec<Fact>,
}

/// What can be limited in the config.
const GAUGES: [(Unit, Span); 4] = [
    (Unit::Requests, Span::Minute),
    (Unit::Tokens, Span::Minute),
    (Unit::Requests, Span::Day),
    (Unit::Tokens, Span::Day),
];

fn configured(limits: &Limits, unit: Unit, span: Span) -> Option<u64> {
    match (unit, span) {
        (Unit::Requests, Span::Minute) => limits.rpm,
        (Unit::Tokens, Span::Minute) => limits.tpm,
        (Unit::Requests, Span::Day) => limits.rpd,
        (Unit::Tokens, Span::Day) => limits.tpd,
        _ => None,
    }
}

impl Meter {
    /// Nothing is used. `origin` is any moment up to now.
    pub fn new(day: DayReset, origin: Instant) -> Self {
        let day = match day {
            DayReset::Rolling => Day::Rolling(Sliding::new(DAY)),
            reset => Day::Turning { reset, began: origin, ends: origin, used: Amount::default() },
        };
        Self { minute: Sliding::new(MINUTE), day, in_flight: 0, total: Amount::default(), facts: Vec::new() }
    }

    /// What it has counted, without what runs.
    pub fn at_rest(&self) -> Self {
        Self { in_flight: 0, ..self.clone() }
    }

    /// A request begins, with the tokens it is expected to take. The mark goes with what its answer tells.
    pub fn begin(&mut self, tokens: u64, now: Instant, clock: &Clock) -> Amount {
        let amount = Amount::of_request(tokens);
        self.minute.add(amount, clock.step(now, self.minute.step));
        self.day.add(amount, now, clock);
        self.in_flight += 1;
        self.total = self.total.plus(amount);
        self.total
    }

    /// It has ended. `counted` is what it took in the end, in place of what was expected.
    pub fn end(&mut self, began: Instant, expected: u64, counted: Amount, clock: &Clock) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let less = Amount::of_request(expected);
        if less != counted {
            self.minute.correct(less, counted, clock.step(began, self.minute.step));
            self.day.correct(less, counted, began, clock);
            self.total = self.total.minus(less).plus(counted);
        }
    }

    /// Takes what an answer told. `began` and `mark` are those of its request.
    pub fn told(&mut self, told: &Told, began: Instant, mark: Amount, now: Instant, clock: &Clock) {
        let Some(remaining) = told.remaining else { return };
        let reset = told.reset.and_then(|reset| now.checked_add(reset)).or_else(|| match told.span {
            Span::Minute => now.checked_add(Duration::from_secs(60)),
            Span::Hour => now.checked_add(Duration::from_secs(3600)),
            Span::Day => match &self.day {
                Day::Turning { reset, .. } => reset.turn(clock.wall(now)).and_then(|turn| clock.moment(turn)),
                Day::Rolling(_) => None,
            },
            // Nobody knows when it ends, so it may not keep anybody out.
            Span::Month | Span::Unnamed => None,
        });
        let Some(ends) = reset.filter(|ends| *ends > now) else { return };
        let (unit, span, limit) = (told.unit, told.span, told.limit);
        let fact = Fact { unit, span, limit, remaining, ends, began, base: mark };
        self.facts.retain(|fact| fact.ends > now);
        let has_room = self.facts.len() < TOLD_FACTS_MAX;
        match self.facts.iter_mut().find(|old| (old.unit, old.span) == (unit, span)) {
            // An answer that was overtaken by a later one.
            Some(old) if old.began > began => {}
            Some(old) => *old = fact,
            None if has_room => self.facts.push(fact),
            None => {}
        }
    }

    /// Why a request of so many tokens has to wait, if it has to: by the shortage that lasts longest.
    ///
    /// What a provider tells of a window holds in place of what is counted for it.
    pub fn shortage(&self, limits: &Limits, tokens: u64, now: Instant, clock: &Clock) -> Option<Shortage> {
        let need = |unit, limit: Option<u64>| {
            let need = if unit == Unit::Requests { 1 } else { tokens };
            // A request above the whole limit has to try its luck with an unused one.
            limit.map_or(need, |limit| need.min(limit))
        };
        let mut spent: Option<(Instant, Shortage)> = None;
        let mut note = |unit, span, until, source| {
            if spent.is_none_or(|(last, _)| last < until) {
                spent = Some((until, Shortage::Spent { unit, span, until, source }));
            }
        };
        for fact in self.facts.iter().filter(|fact| fact.ends > now) {
            if fact.left(self.total) < need(fact.unit, fact.limit) {
                note(fact.unit, fact.span, fact.ends, Source::Told);
            }
        }
        for (unit, span) in GAUGES {
            let Some(limit) = configured(limits, unit, span) else { continue };
            if self.fact(unit, span, now).is_some() {
                continue;
            }
            let allowed = limit - need(unit, Some(limit));
            if self.used(span, now, clock).of(unit) > allowed {
                let until = self.room_at(unit, span, allowed, clock).filter(|until| *until > now);
                note(unit, span, until.unwrap_or(now), Source::Counted);
            }
        }
        match spent {
            Some((_, spent)) => Some(spent),
            None => limits.concurrency.filter(|most| self.in_flight >= *most).map(|_| Shortage::Busy),
        }
    }

    /// The part of the scarcest window that is left, from 0 to 1. What is not limited is all there.
    pub fn share_left(&self, limits: &Limits, now: Instant, clock: &Clock) -> f64 {
        let share = |window: WindowReport| match (window.left, window.limit) {
            (Some(left), Some(limit)) if limit > 0 => left as f64 / limit as f64,
            _ => 1.0,
        };
        let running = limits
            .concurrency
            .map_or(1.0, |most| most.saturating_sub(self.in_flight) as f64 / most.max(1) as f64);
        self.windows(limits, now, clock).map(share).fold(running, f64::min)
    }

    /// Requests of the current day.
    pub fn used_today(&self, now: Instant, clock: &Clock) -> u64 {
        self.day.used(now, clock).requests
    }

    /// Requests that run.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// The largest request that can ever pass, in tokens.
    pub fn tokens_max(&self, limits: &Limits, now: Instant) -> Option<u64> {
        let told = self.fact(Unit::Tokens, Span::Minute, now).and_then(|fact| fact.limit);
        told.or(limits.tpm)
    }

    /// Every window that is limited, or told of.
    pub fn windows(
        &self,
        limits: &Limits,
        now: Instant,
        clock: &Clock,
    ) -> impl Iterator<Item = WindowReport> {
        let told = self.facts.iter().filter(move |fact| fact.ends > now).map(|fact| {
            let left = fact.left(self.total);
            WindowReport {
                unit: fact.unit,
                span: fact.span,
                limit: fact.limit,
                used: fact.limit.map(|limit| limit.saturating_sub(left)),
                left: Some(left),
                resets: Some(fact.ends),
                source: Source::Told,
            }
        });
        let (limits, clock) = (*limits, *clock);
        let counted = GAUGES.into_iter().filter_map(move |(unit, span)| {
            let limit = configured(&limits, unit, span)?;
            if self.fact(unit, span, now).is_some() {
                return None;
            }
            let used = self.used(span, now, &clock).of(unit);
            let resets = self.room_at(unit, span, used.saturating_sub(1), &clock);
            Some(WindowReport {
                unit,
                span,
                limit: Some(limit),
                used: Some(used),
                left: Some(limit.saturating_sub(used)),
                resets: resets.filter(|resets| used > 0 && *resets > now),
                source: Source::Counted,
            })
        });
        told.chain(counted)
    }

    fn fact(&self, unit: Unit, span: Span, now: Instant) -> Option<&Fact> {
        self.facts.iter().find(|fact| (fact.unit, fact.span) == (unit, span) && fact.ends > now)
    }

    fn used(&self, span: Span, now: Instant, clock: &Clock) -> Amount {
        match span {
            Span::Minute => self.minute.used(clock.step(now, self.minute.step)),
            _ => self.day.used(now, clock),
        }
    }

    fn room_at(&self, unit: Unit, span: Span, allowed: u64, clock: &Clock) -> Option<Instant> {
        match span {
            Span::Minute => self.minute.room_at(unit, allowed, clock),
            _ => self.day.room_at(unit, allowed, clock),
        }
    }
}
