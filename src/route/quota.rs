//! What has been used of limits, and when there is room again: the meter of one backend or account.
//!
//! Counts what passes and believes what providers tell. Knows no backend, and no time but the one it is told.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits::{LEARNED_TIME, TOLD_FACTS_MAX};
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

    /// The wall clock may have been set. `false`: it has not.
    pub(super) fn set(&mut self, mono: Instant, wall: i64) -> bool {
        let since = i64::try_from(mono.saturating_duration_since(self.origin).as_millis());
        let wall = wall.saturating_sub(since.unwrap_or(i64::MAX));
        // Not for every millisecond of drift: a midnight may come a second late.
        let was_set = wall.abs_diff(self.wall) > 1000;
        if was_set {
            self.wall = wall;
        }
        was_set
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

    /// The day ends when it does by the clock as it is now.
    fn clock_was_set(&mut self, clock: &Clock) {
        if let Self::Turning { reset, began, ends, .. } = self
            && *ends > *began
        {
            let turn = reset.turn(clock.wall(*began)).and_then(|turn| clock.moment(turn));
            *ends = turn.unwrap_or(*ends);
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
    /// Number of the request that it came with.
    pub(super) request: u64,
    /// Used by those that began later: not in `remaining`.
    pub(super) since: Amount,
}

impl Fact {
    pub(super) fn left(&self) -> u64 {
        self.remaining.saturating_sub(self.since.of(self.unit))
    }

    /// Its limit is still believed, when what was left has long changed.
    pub(super) fn is_remembered(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.ends) < LEARNED_TIME
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
    /// What runs takes all there is, for now.
    Busy {
        /// When there is room even if that goes on, if it is known.
        until: Option<Instant>,
    },
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
    /// Tokens set aside for them: most take less in the end.
    reserved: u64,
    /// All that ever began, as it was expected. The requests in it number them.
    begun: Amount,
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
        Self {
            minute: Sliding::new(MINUTE),
            day,
            in_flight: 0,
            reserved: 0,
            begun: Amount::default(),
            facts: Vec::new(),
        }
    }

    /// What it has counted, without what runs.
    pub fn at_rest(&self) -> Self {
        Self { in_flight: 0, reserved: 0, ..self.clone() }
    }

    /// The wall clock was set: midnight comes at another moment.
    pub fn clock_was_set(&mut self, clock: &Clock) {
        self.day.clock_was_set(clock);
    }

    /// A request begins, with the tokens it is expected to take. The mark goes with what its answer tells.
    pub fn begin(&mut self, tokens: u64, now: Instant, clock: &Clock) -> Amount {
        let amount = Amount::of_request(tokens);
        self.minute.add(amount, clock.step(now, self.minute.step));
        self.day.add(amount, now, clock);
        self.in_flight += 1;
        self.reserved = self.reserved.saturating_add(tokens);
        self.begun = self.begun.plus(amount);
        for fact in &mut self.facts {
            fact.since = fact.since.plus(amount);
        }
        self.begun
    }

    /// It has ended. `began` and `mark` are those of [`Meter::begin`]; `counted` is what it took in the end, in place
    /// of what was expected.
    pub fn end(&mut self, began: Instant, mark: Amount, expected: u64, counted: Amount, clock: &Clock) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.reserved = self.reserved.saturating_sub(expected);
        let less = Amount::of_request(expected);
        if less != counted {
            self.minute.correct(less, counted, clock.step(began, self.minute.step));
            self.day.correct(less, counted, began, clock);
            // Who began before a fact's request is in what that tells.
            for fact in self.facts.iter_mut().filter(|fact| fact.request < mark.requests) {
                fact.since = fact.since.minus(less).plus(counted);
            }
        }
    }

    /// Takes what an answer told. `mark` is that of its request.
    pub fn told(&mut self, told: &Told, mark: Amount, now: Instant, clock: &Clock) {
        // A limit of nothing is either none or a mistake. If it is meant, refusals say so.
        let Some(remaining) = told.remaining.filter(|_| told.limit != Some(0)) else { return };
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
        let (unit, span, limit) = (told.unit, told.span, told.limit);
        self.facts.retain(|fact| fact.is_remembered(now));
        let old = self.facts.iter().position(|old| (old.unit, old.span) == (unit, span));
        if let Some(old) = old {
            if self.facts.get(old).is_some_and(|old| old.request > mark.requests) {
                // An answer that was overtaken by a later one.
                return;
            }
            self.facts.swap_remove(old);
        }
        let Some(ends) = reset.filter(|ends| *ends > now) else { return };
        if self.facts.len() < TOLD_FACTS_MAX {
            let (request, since) = (mark.requests, self.begun.minus(mark));
            self.facts.push(Fact { unit, span, limit, remaining, ends, request, since });
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
        // By the end of what runs, there may be room for what was set aside and not used.
        let mut busy = limits.concurrency.is_some_and(|most| self.in_flight >= most).then_some(None);
        let mut spent: Option<(Instant, Shortage)> = None;
        let mut note = |unit, span, until, source, for_now| {
            if for_now {
                busy = Some(busy.map_or(Some(until), |last| last.map(|last: Instant| last.max(until))));
            } else if spent.is_none_or(|(last, _)| last < until) {
                spent = Some((until, Shortage::Spent { unit, span, until, source }));
            }
        };
        for fact in self.facts.iter().filter(|fact| fact.ends > now) {
            let (need, left) = (need(fact.unit, fact.limit), fact.left());
            if left < need {
                let for_now = left.saturating_add(self.reserved_of(fact)) >= need;
                note(fact.unit, fact.span, fact.ends, Source::Told, for_now);
            }
        }
        for (unit, span) in GAUGES {
            let Some(limit) = configured(limits, unit, span) else { continue };
            if self.fact(unit, span, now).is_some() {
                continue;
            }
            let allowed = limit - need(unit, Some(limit));
            let used = self.used(span, now, clock).of(unit);
            if used > allowed {
                let reserved = if unit == Unit::Tokens { self.reserved } else { 0 };
                let until = self.room_at(unit, span, allowed, clock).filter(|until| *until > now);
                let for_now = used.saturating_sub(reserved) <= allowed;
                note(unit, span, until.unwrap_or(now), Source::Counted, for_now);
            }
        }
        match spent {
            Some((_, spent)) => Some(spent),
            None => busy.map(|until| Shortage::Busy { until }),
        }
    }

    /// What is set aside of that which was taken off what a provider told.
    fn reserved_of(&self, fact: &Fact) -> u64 {
        if fact.unit == Unit::Tokens { self.reserved.min(fact.since.tokens) } else { 0 }
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
        let its =
            |fact: &&Fact| (fact.unit, fact.span) == (Unit::Tokens, Span::Minute) && fact.is_remembered(now);
        let told = self.facts.iter().find(its).and_then(|fact| fact.limit);
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
            let left = fact.left();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::ratelimit::rfc3339;
    use fastrand::Rng;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);
    const WALL: i64 = 1_795_400_000_000;
    const NONE: Limits = Limits { rpm: None, rpd: None, tpm: None, tpd: None, concurrency: None };

    /// One meter and its time.
    struct World {
        clock: Clock,
        now: Instant,
        meter: Meter,
        limits: Limits,
    }

    /// A request that runs.
    #[derive(Clone, Copy)]
    struct Running {
        began: Instant,
        mark: Amount,
        expected: u64,
    }

    impl World {
        fn new(day: DayReset, limits: Limits) -> Self {
            let now = Instant::now();
            Self { clock: Clock::new(now, WALL), now, meter: Meter::new(day, now), limits }
        }

        fn begin(&mut self, expected: u64) -> Running {
            let mark = self.meter.begin(expected, self.now, &self.clock);
            Running { began: self.now, mark, expected }
        }

        fn end(&mut self, running: Running, counted: Amount) {
            let Running { began, mark, expected } = running;
            self.meter.end(began, mark, expected, counted, &self.clock);
        }

        fn told(&mut self, running: Running, unit: Unit, remaining: u64, reset: Option<Duration>) {
            let told =
                Told { unit, span: Span::Minute, limit: Some(1000), remaining: Some(remaining), reset };
            self.meter.told(&told, running.mark, self.now, &self.clock);
        }

        fn shortage(&self, tokens: u64) -> Option<Shortage> {
            self.meter.shortage(&self.limits, tokens, self.now, &self.clock)
        }

        fn left(&self, unit: Unit) -> Option<u64> {
            let mut windows = self.meter.windows(&self.limits, self.now, &self.clock);
            windows.find(|window| window.unit == unit).and_then(|window| window.left)
        }
    }

    #[test]
    fn what_began_after_a_fact_is_subtracted_from_it() {
        let mut world = World::new(DayReset::Rolling, NONE);
        let before = world.begin(900);
        let with = world.begin(100);
        let overlapping = world.begin(50);
        world.told(with, Unit::Tokens, 500, None);
        assert_eq!(world.left(Unit::Tokens), Some(450), "without what began later");
        // It took less than was set aside, which the fact knows already.
        world.end(before, Amount::of_request(10));
        world.end(with, Amount::of_request(10));
        assert_eq!(world.left(Unit::Tokens), Some(450));
        world.end(overlapping, Amount::of_request(70));
        assert_eq!(world.left(Unit::Tokens), Some(430), "as much as it took");
        let after = world.begin(400);
        assert_eq!(world.left(Unit::Tokens), Some(30));
        world.end(after, Amount::default());
        assert_eq!(world.left(Unit::Tokens), Some(430), "it has not reached the provider");
    }

    #[test]
    fn told_facts_come_and_go() {
        let check = |told: &[(usize, u64, Option<Duration>)], expected: Option<u64>| {
            let mut world = World::new(DayReset::Rolling, NONE);
            let running: Vec<Running> = (0..3).map(|_| world.begin(0)).collect();
            for (whose, remaining, reset) in told {
                world.told(running[*whose], Unit::Tokens, *remaining, *reset);
            }
            assert_eq!(world.left(Unit::Tokens), expected, "{told:?}");
        };
        check(&[(0, 5, Some(SECOND)), (1, 9, Some(SECOND))], Some(9));
        check(&[(1, 9, Some(SECOND)), (0, 5, Some(SECOND))], Some(9));
        check(&[(0, 5, Some(SECOND)), (1, 9, Some(Duration::ZERO))], None);
        check(&[(1, 9, Some(SECOND)), (0, 5, Some(Duration::ZERO))], Some(9));
        check(&[(0, 5, None)], Some(5));
        check(&[(0, 5, Some(Duration::MAX))], Some(5));
    }

    #[test]
    fn a_told_limit_is_remembered_longer_than_what_was_left() {
        let mut world = World::new(DayReset::Rolling, limits(0, 9000, 0, 0));
        let running = world.begin(0);
        world.told(running, Unit::Tokens, 5, Some(SECOND));
        let tokens_max = |world: &World| world.meter.tokens_max(&world.limits, world.now);
        for (after, expected, left) in [
            (Duration::ZERO, 1000, 5),
            (SECOND, 1000, 9000),
            (24 * HOUR - SECOND, 1000, 9000),
            (SECOND, 9000, 9000),
        ] {
            world.now += after;
            assert_eq!(
                (tokens_max(&world), world.left(Unit::Tokens)),
                (Some(expected), Some(left)),
                "{after:?}"
            );
        }
    }

    #[test]
    fn a_told_limit_of_nothing_is_ignored() {
        let mut world = World::new(DayReset::Rolling, NONE);
        let running = world.begin(0);
        let told =
            Told { unit: Unit::Tokens, span: Span::Minute, limit: Some(0), remaining: Some(0), reset: None };
        world.meter.told(&told, running.mark, world.now, &world.clock);
        assert_eq!((world.left(Unit::Tokens), world.meter.tokens_max(&NONE, world.now)), (None, None));
    }

    #[test]
    fn a_day_ends_by_the_clock_that_was_set() {
        let limits = Limits { rpd: Some(1), ..NONE };
        // Counted at 1970-01-01 00:01; what the clock says a minute later; hours until there is room.
        for (set_to, expected) in [
            ("2026-11-23T17:00:00Z", 7.0),
            ("2026-11-23T23:59:00Z", 1.0 / 60.0),
            // It began before midnight.
            ("2026-11-24T00:00:30Z", 0.0),
            ("1970-01-01T00:02:00Z", 24.0 - 2.0 / 60.0),
        ] {
            let mut world = World::new(DayReset::Utc, limits);
            world.clock = Clock::new(world.now, 60_000);
            world.begin(0);
            world.now += 60 * SECOND;
            if world.clock.set(world.now, rfc3339(set_to).unwrap()) {
                world.meter.clock_was_set(&world.clock);
            }
            let hours = match world.shortage(0) {
                Some(Shortage::Spent { until, .. }) => (until - world.now).as_secs_f64() / 3600.0,
                _ => 0.0,
            };
            assert!((hours - expected).abs() < 0.001, "{set_to}: {hours}");
        }
    }

    fn limits(rpm: u64, tpm: u64, rpd: u64, tpd: u64) -> Limits {
        let some = |limit| Some(limit).filter(|limit| *limit > 0);
        Limits { rpm: some(rpm), tpm: some(tpm), rpd: some(rpd), tpd: some(tpd), concurrency: None }
    }

    /// Whatever is let through stays within the limit of every minute and every 24 hours; a shortage ends exactly when
    /// it says.
    #[test]
    fn no_window_ever_holds_more_than_its_limit() {
        let day = 24 * HOUR;
        for (limits, gap_ms) in [
            (limits(7, 0, 0, 0), 9_000),
            (limits(1, 0, 0, 0), 70_000),
            (limits(0, 1000, 0, 0), 9_000),
            (limits(0, 0, 20, 0), 2 * 3_600_000),
            (limits(0, 0, 0, 2000), 3_600_000),
            (limits(4, 700, 200, 30_000), 120_000),
        ] {
            let mut rng = Rng::with_seed(5);
            let mut world = World::new(DayReset::Rolling, limits);
            // Steps do not begin with the meter.
            world.clock = Clock::new(world.now, WALL + 437);
            let mut sent: VecDeque<(Instant, u64)> = VecDeque::new();
            let mut shortages = 0;
            for _ in 0..3000 {
                world.now += Duration::from_millis(rng.u64(0..gap_ms));
                let tokens = rng.u64(1..300);
                match world.shortage(tokens) {
                    None => {
                        let running = world.begin(tokens);
                        let took = if rng.bool() { tokens } else { rng.u64(0..=tokens) };
                        world.end(running, Amount::of_request(took));
                        sent.push_back((world.now, took));
                    }
                    Some(Shortage::Spent { until, .. }) => {
                        shortages += 1;
                        assert!(until > world.now);
                        let asked = world.now;
                        world.now = until - Duration::from_millis(1);
                        assert!(world.shortage(tokens).is_some(), "{limits:?}: open before it said");
                        world.now = until;
                        assert_eq!(world.shortage(tokens), None, "{limits:?}: not open when it said");
                        world.now = if rng.bool() { until } else { asked };
                    }
                    Some(Shortage::Busy { .. }) => panic!("no such limit"),
                }
                while sent.front().is_some_and(|(at, _)| world.now - *at >= day) {
                    sent.pop_front();
                }
                let within = |window: Duration| {
                    let sent = sent.iter().filter(|(at, _)| world.now - *at < window);
                    sent.fold((0, 0), |(requests, sum), (_, tokens)| (requests + 1, sum + tokens))
                };
                let (minute, day) = (within(60 * SECOND), within(day));
                for (used, limit) in
                    [(minute.0, limits.rpm), (minute.1, limits.tpm), (day.0, limits.rpd), (day.1, limits.tpd)]
                {
                    assert!(limit.is_none_or(|limit| used <= limit), "{limits:?}: {used} used");
                }
            }
            assert!(shortages > 100, "{limits:?}: only {shortages}");
            let Day::Rolling(day) = &world.meter.day else { panic!("rolling") };
            assert!(world.meter.minute.slots.len() <= 61 && day.slots.len() <= 97);
        }
    }

    #[test]
    fn a_day_turns_at_its_midnight() {
        for (reset, now, midnight) in [
            (DayReset::Utc, "2026-11-23T20:53:20Z", "2026-11-24T00:00:00Z"),
            (DayReset::Pacific, "2026-11-23T07:59:59Z", "2026-11-23T08:00:00Z"),
            (DayReset::Pacific, "2026-11-23T08:00:00Z", "2026-11-24T08:00:00Z"),
            (DayReset::Pacific, "2026-07-01T08:00:00Z", "2026-07-02T07:00:00Z"),
            // The days of 23 and of 25 hours.
            (DayReset::Pacific, "2026-03-08T08:00:00Z", "2026-03-09T07:00:00Z"),
            (DayReset::Pacific, "2026-11-01T07:00:00Z", "2026-11-02T08:00:00Z"),
        ] {
            let mut world = World::new(reset, limits(0, 0, 1, 0));
            let (from, to) = (rfc3339(now).unwrap(), rfc3339(midnight).unwrap());
            world.clock = Clock::new(world.now, from);
            let late = world.begin(10);
            let until = world.now + Duration::from_millis((to - from) as u64);
            let (unit, span) = (Unit::Requests, Span::Day);
            let expected = Shortage::Spent { unit, span, until, source: Source::Counted };
            assert_eq!(world.shortage(0), Some(expected), "{now}");
            world.now = until - Duration::from_millis(1);
            assert_eq!(world.shortage(0), Some(expected), "{now}");
            world.now = until;
            assert_eq!(
                (world.shortage(0), world.meter.used_today(world.now, &world.clock)),
                (None, 0),
                "{now}"
            );
            world.begin(10);
            world.end(late, Amount::default());
            assert_eq!(
                world.meter.used_today(world.now, &world.clock),
                1,
                "yesterday's is not taken off today"
            );
        }
    }

    #[test]
    fn reserved_settled_released() {
        for day in [DayReset::Rolling, DayReset::Utc] {
            for (counted, expected) in [
                (Amount::of_request(100), (1, 100)),
                (Amount::of_request(7), (1, 7)),
                (Amount::of_request(900), (1, 900)),
                (Amount::of_request(0), (1, 0)),
                (Amount::default(), (0, 0)),
            ] {
                let mut world = World::new(day, limits(1000, 1000, 1000, 1000));
                let running = world.begin(100);
                let used = |world: &World| {
                    let windows = world.meter.windows(&world.limits, world.now, &world.clock);
                    windows.map(|window| window.used.unwrap()).collect::<Vec<_>>()
                };
                assert_eq!((used(&world), world.meter.in_flight()), (vec![1, 100, 1, 100], 1));
                world.now += 5 * SECOND;
                world.end(running, counted);
                let (requests, tokens) = expected;
                assert_eq!(used(&world), [requests, tokens, requests, tokens], "{counted:?}");
                assert_eq!(world.meter.in_flight(), 0);
                world.now += 70 * SECOND;
                world.end(running, Amount::of_request(1));
                assert_eq!(used(&world)[..2], [0, 0], "what has left the window is not corrected");
            }
        }
    }

    #[test]
    fn what_a_provider_tells_wins_over_what_is_counted() {
        let mut world = World::new(DayReset::Rolling, limits(2, 1000, 0, 0));
        for _ in 0..2 {
            world.begin(10);
        }
        assert!(world.shortage(0).is_some(), "counted");
        let running = world.begin(10);
        world.told(running, Unit::Requests, 3, Some(20 * SECOND));
        assert_eq!(world.shortage(0), None, "told that there is more");
        world.told(running, Unit::Tokens, 50, Some(10 * SECOND));
        let source = Source::Told;
        let short = |unit, until| Some(Shortage::Spent { unit, span: Span::Minute, until, source });
        assert_eq!(world.shortage(60), short(Unit::Tokens, world.now + 10 * SECOND));
        assert_eq!(world.shortage(50), None);
        for _ in 0..3 {
            world.begin(0);
        }
        assert_eq!(
            world.shortage(60),
            short(Unit::Requests, world.now + 20 * SECOND),
            "the one that lasts longest"
        );
        world.now += 20 * SECOND;
        assert!(
            matches!(world.shortage(60), Some(Shortage::Spent { source: Source::Counted, .. })),
            "what is told expires"
        );
    }

    #[test]
    fn a_request_above_the_whole_limit_may_have_an_unused_one() {
        let mut world = World::new(DayReset::Rolling, limits(0, 100, 0, 0));
        assert_eq!(world.shortage(5000), None);
        world.begin(1);
        assert!(world.shortage(5000).is_some());
        assert_eq!(world.shortage(99), None);
    }

    #[test]
    fn as_many_run_as_may() {
        let mut world = World::new(DayReset::Rolling, Limits { concurrency: Some(2), ..limits(3, 0, 0, 0) });
        let first = world.begin(0);
        assert_eq!(world.shortage(0), None);
        world.begin(0);
        assert_eq!(world.shortage(0), Some(Shortage::Busy { until: None }));
        world.end(first, Amount::of_request(0));
        assert_eq!(world.shortage(0), None);
        world.begin(0);
        assert!(
            matches!(world.shortage(0), Some(Shortage::Spent { .. })),
            "spent says until when, busy does not"
        );
    }

    #[test]
    fn nonsense_amounts_saturate() {
        let mut world = World::new(DayReset::Rolling, limits(0, 100, 0, 100));
        for _ in 0..3 {
            let running = world.begin(u64::MAX);
            world.now += 2 * SECOND;
            world.end(running, Amount::of_request(u64::MAX - 1));
        }
        let Some(Shortage::Spent { until, .. }) = world.shortage(u64::MAX) else { panic!("short") };
        assert!(until - world.now <= 25 * HOUR);
        world.now = until;
        assert_eq!(world.shortage(u64::MAX), None);
    }
}
