//! What is known about all backends: who rests until when, what each may still take, what it cannot do, and who
//! waits for it. Per backend, key, account and provider.
//!
//! Holds no secret (identities are hashes), no clock and no dice; knows nothing of requests but their length.

use std::time::Instant;

use fastrand::Rng;

use crate::limits::{LEARNED_TIME, OUTPUT_TOKENS_RESERVED, WAITING_MAX};
use crate::provider::Limits;
use crate::provider::quota::{Rules, rules};
use crate::provider::ratelimit::{Told, unix_ms};
use crate::route::Now;
use crate::route::bench::{Bench, End};
use crate::route::fit::{Abilities, Demand, Unfit};
use crate::route::quota::{Amount, Clock, Meter, Shortage, WindowReport};
pub use crate::route::scopes::{Salt, Scopes};
use crate::route::verdict::{Class, Scope, Verdict};

/// One backend as the ledger has to know it.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// What it shares.
    pub scopes: Scopes,
    /// What it may take, by the config.
    pub limits: Limits,
    /// How its provider counts.
    pub rules: Rules,
    /// It belongs to an `account`, whose limits it shares.
    pub grouped: bool,
    /// What it can do, by the config.
    pub abilities: Abilities,
}

impl Member {
    /// One of which nothing else is known.
    pub fn new(scopes: Scopes) -> Self {
        let abilities = Abilities::default();
        Self { scopes, limits: Limits::default(), rules: rules(""), grouped: false, abilities }
    }
}

/// Whether a backend may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Yes.
    Open,
    /// It rested by our guess or for a limit, and that is over: one may try.
    HalfOpen,
    /// The same, and somebody is trying right now.
    Probing,
    /// Not before `until`.
    Benched {
        /// The end of the bench.
        until: Instant,
        /// Told by the provider or its calendar, not guessed.
        known: bool,
        /// Why.
        class: Class,
        /// When the failure behind it was noted.
        since: Instant,
    },
    /// It would refuse: its limits are reached.
    Short(Shortage),
}

/// An attempt that has begun. It ends with [`Ledger::end`], whatever else was noted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Index of the backend.
    pub backend: usize,
    began: Instant,
    /// Expected to be used.
    tokens: u64,
    /// All that was counted when it began, by meter.
    marks: [Amount; 2],
}

/// What an attempt has used in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// So many tokens, by the provider's word.
    Tokens(u64),
    /// What was expected: nobody has said.
    Expected,
    /// It was refused or has failed, which counts where the provider counts it.
    Refused,
    /// It has not reached the provider.
    Nothing,
}

/// What a failure has caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The end of the bench that is now in force for the scope of the verdict, if there is one.
    pub until: Option<Instant>,
    /// Somebody has to act (key, model, terms, credit) and has not been told since it last worked: warn.
    pub first: bool,
}

/// One backend as others see it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whether it may be asked.
    pub standing: Standing,
    /// Requests that run.
    pub in_flight: u64,
    /// Its limits.
    pub windows: Vec<WindowReport>,
    /// What it can do, configured or learned.
    pub abilities: Abilities,
}

/// All backends; the index of one is its place in the config.
///
/// Rules: a told end is never shortened or capped, only ever outlived, or lifted by a success that began after
/// it. A guessed end doubles with each *step*. Failures of attempts that began before the last step belong to that
/// step: twenty parallel 429s are one. A client's mistake benches nobody.
#[derive(Debug)]
pub struct Ledger {
    clock: Clock,
    pub(super) entries: Vec<Entry>,
    /// First one per backend, then those of keys, accounts and providers, shared by their backends.
    pub(super) places: Vec<Place>,
    waiting: Vec<Waiter>,
    next_waiter: u64,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) scopes: Scopes,
    limits: Limits,
    rules: Rules,
    abilities: Abilities,
    /// What its refusals have said, and when the last of them did.
    pub(super) learned: Option<(Abilities, Instant)>,
    /// Places in `Ledger::places`; valid by construction, as neither list changes.
    key: usize,
    account: usize,
    provider: usize,
    /// Where its limits are counted: its own place or that of the account.
    counted: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) identity: u64,
    pub(super) bench: Bench,
    pub(super) meter: Meter,
}

/// A request that waits, and the places whose limits it waits for.
#[derive(Debug)]
struct Waiter {
    number: u64,
    places: Vec<usize>,
}

impl Ledger {
    /// Nobody is benched, nothing is used.
    pub fn new(now: Now, members: impl IntoIterator<Item = Member>) -> Self {
        let members: Vec<Member> = members.into_iter().collect();
        let place = |identity, rules: Rules| Place {
            identity,
            bench: Bench::default(),
            meter: Meter::new(rules.day, now.mono),
        };
        let mut places: Vec<Place> =
            members.iter().map(|member| place(member.scopes.backend, member.rules)).collect();
        let own = places.len();
        let mut shared = |identity, rules| {
            let known = places.iter().skip(own).position(|place| place.identity == identity);
            known.map_or_else(
                || {
                    places.push(place(identity, rules));
                    places.len() - 1
                },
                |at| own + at,
            )
        };
        let entries = members.into_iter().enumerate().map(|(index, member)| {
            let Member { scopes, limits, rules, grouped, abilities } = member;
            let account = shared(scopes.account, rules);
            Entry {
                scopes,
                limits,
                rules,
                abilities,
                learned: None,
                key: shared(scopes.key, rules),
                account,
                provider: shared(scopes.provider, rules),
                counted: if grouped || rules.shared { account } else { index },
            }
        });
        let mut entries: Vec<Entry> = entries.collect();
        share_limits(&mut entries);
        let clock = Clock::new(now.mono, unix_ms(now.wall));
        Self { clock, entries, places, waiting: Vec::new(), next_waiter: 0 }
    }

    /// How moments of the ledger read on the wall.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The wall clock may have been set since the start (small boards have none of their own).
    pub fn set_clock(&mut self, now: Now) {
        if self.clock.set(now.mono, unix_ms(now.wall)) {
            self.places.iter_mut().for_each(|place| place.meter.clock_was_set(&self.clock));
        }
    }

    /// What the backend shares. `None` if there is no such backend.
    pub fn scopes(&self, backend: usize) -> Option<Scopes> {
        self.entries.get(backend).map(|entry| entry.scopes)
    }

    /// Whether it may be asked now, with so many tokens. A backend that does not exist is open.
    pub fn standing(&self, backend: usize, tokens: u64, now: Instant) -> Standing {
        // What keeps everybody out, and what is a mere guess that it is down, which may be put to the test.
        let (mut firm, mut down): (Option<(End, bool)>, Option<End>) = (None, None);
        let (mut doubtful, mut probing) = (false, false);
        for bench in self.places_of(backend).map(|place| &place.bench) {
            for (end, known) in bench.ends(now) {
                if end.class == Class::Down && !known {
                    down = down.filter(|last| last.until >= end.until).or(Some(end));
                } else {
                    firm = firm.filter(|(last, _)| last.until >= end.until).or(Some((end, known)));
                }
            }
            doubtful |= bench.is_doubtful(now);
            probing |= bench.is_doubtful(now) && bench.is_probed(now);
        }
        let benched = |End { until, since, class }, known| Standing::Benched { until, known, class, since };
        match (firm, self.shortage(backend, tokens, now)) {
            (Some((end, _)), Some(shortage @ Shortage::Spent { until, .. })) if until > end.until => {
                Standing::Short(shortage)
            }
            (Some((end, known)), _) => benched(end, known),
            (None, Some(shortage)) => Standing::Short(shortage),
            (None, None) if probing => Standing::Probing,
            (None, None) => match down {
                Some(end) => benched(end, false),
                None if doubtful => Standing::HalfOpen,
                None => Standing::Open,
            },
        }
    }

    /// Whether the probe that runs is about a limit, and not whether the backend is up.
    pub fn probes_limit(&self, backend: usize, now: Instant) -> bool {
        let mut benches = self.places_of(backend).map(|place| &place.bench);
        benches.any(|bench| bench.is_careful(now) && bench.is_probed(now))
    }

    fn shortage(&self, backend: usize, tokens: u64, now: Instant) -> Option<Shortage> {
        let entry = self.entries.get(backend)?;
        let mut last = None;
        for at in Self::meters_of(entry, backend) {
            let limits = if at == entry.counted { entry.limits } else { Limits::default() };
            let shortage = self.places.get(at)?.meter.shortage(&limits, tokens, now, &self.clock);
            last = match (last, shortage) {
                (Some(Shortage::Spent { until: last, .. }), Some(Shortage::Spent { until, .. }))
                    if until > last =>
                {
                    shortage
                }
                (Some(Shortage::Busy { .. }) | None, Some(_)) => shortage,
                (last, _) => last,
            };
        }
        last
    }

    /// How many failures were noted for this backend, or its provider as a whole.
    pub fn failures(&self, backend: usize) -> u32 {
        let entry = self.entries.get(backend);
        let places = entry.into_iter().flat_map(|entry| [backend, entry.provider]);
        places
            .filter_map(|at| self.places.get(at))
            .fold(0, |sum, place| sum.wrapping_add(place.bench.failures))
    }

    /// Why a request cannot succeed there, if that is known.
    pub fn unfit(&self, backend: usize, demand: &Demand, now: Instant) -> Option<Unfit> {
        let entry = self.entries.get(backend)?;
        let per_minute = Self::meters_of(entry, backend).into_iter().filter_map(|at| {
            let limits = if at == entry.counted { entry.limits } else { Limits::default() };
            self.places.get(at)?.meter.tokens_max(&limits, now)
        });
        entry.abilities(now).unfit(demand, per_minute.min())
    }

    /// Its context window in tokens, if that is known.
    pub fn context(&self, backend: usize, now: Instant) -> Option<u64> {
        self.entries.get(backend).and_then(|entry| entry.abilities(now).context)
    }

    /// The part of its scarcest limit that is left, and the requests it had today: who has most left is asked first
    /// by `selection: least_used`.
    pub fn share_left(&self, backend: usize, now: Instant) -> (f64, u64) {
        let Some(entry) = self.entries.get(backend) else { return (1.0, 0) };
        let mut left = 1.0_f64;
        for at in Self::meters_of(entry, backend) {
            let limits = if at == entry.counted { entry.limits } else { Limits::default() };
            let share = self.places.get(at).map(|place| place.meter.share_left(&limits, now, &self.clock));
            left = left.min(share.unwrap_or(1.0));
        }
        let used = self.places.get(entry.counted).map(|place| place.meter.used_today(now, &self.clock));
        (left, used.unwrap_or(0))
    }

    /// An attempt begins that is expected to use so many tokens. If the backend rested by a guess, it is the probe
    /// that others wait for.
    pub fn begin(&mut self, backend: usize, tokens: u64, now: Instant) -> Ticket {
        let mut ticket = Ticket { backend, began: now, tokens, marks: Default::default() };
        self.each_bench(backend, |bench| bench.begin(now));
        let Some(entry) = self.entries.get(backend) else { return ticket };
        for (at, mark) in [backend, entry.account].into_iter().zip(&mut ticket.marks) {
            if let Some(place) = self.places.get_mut(at) {
                *mark = place.meter.begin(tokens, now, &self.clock);
            }
        }
        ticket
    }

    /// An answer has told of limits.
    pub fn told(&mut self, ticket: Ticket, told: &[Told], now: Instant) {
        let Some(entry) = self.entries.get(ticket.backend) else { return };
        let [own, account] = ticket.marks;
        let (at, mark) = if entry.rules.shared { (entry.account, account) } else { (ticket.backend, own) };
        if let Some(place) = self.places.get_mut(at) {
            for fact in told {
                place.meter.told(fact, mark, now, &self.clock);
            }
        }
    }

    /// A refusal has told what the backend cannot do. It is believed for a day: accounts and models change.
    pub fn learn(&mut self, backend: usize, learned: Abilities, now: Instant) {
        let Some(entry) = self.entries.get_mut(backend).filter(|_| learned != Abilities::default()) else {
            return;
        };
        let before = entry.learned.filter(|(_, at)| is_fresh(*at, now)).map(|(before, _)| before);
        entry.learned = Some((learned.or(before.unwrap_or_default()), now));
    }

    /// Content has come: to be called at the first of it, not at the end of the answer.
    pub fn success(&mut self, ticket: Ticket) {
        self.each_bench(ticket.backend, |bench| bench.succeeded(ticket.began));
    }

    /// The attempt has failed: benches what the verdict says, for how long DESIGN says.
    pub fn failure(&mut self, ticket: Ticket, verdict: &Verdict, now: Instant, rng: &mut Rng) -> Noted {
        let nothing = Noted { until: None, first: false };
        let Some(entry) = self.entries.get(ticket.backend) else { return nothing };
        let at = match verdict.scope {
            Scope::Request => None,
            Scope::Backend => Some(ticket.backend),
            Scope::Key => Some(entry.key),
            Scope::Account => Some(entry.account),
            Scope::Provider => Some(entry.provider),
        };
        self.each_bench(ticket.backend, |bench| {
            bench.end_probe(ticket.began);
            if verdict.class != Class::Down {
                bench.has_answered(ticket.began);
            }
        });
        let whose = [Some(ticket.backend), at.filter(|at| *at != ticket.backend)];
        for at in whose.into_iter().flatten() {
            if let Some(place) = self.places.get_mut(at) {
                place.bench.failures = place.bench.failures.wrapping_add(1);
            }
        }
        let Some(place) = at.and_then(|at| self.places.get_mut(at)) else { return nothing };
        let bench = &mut place.bench;
        bench.failed(ticket.began, verdict.class, verdict.retry, now, rng);
        let first = verdict.class.needs_somebody() && bench.warned != Some(verdict.class);
        if first {
            bench.warned = Some(verdict.class);
        }
        let ends = [bench.told, bench.guessed].into_iter().flatten().map(|end| end.until);
        Noted { until: ends.max().filter(|until| *until > now), first }
    }

    /// The attempt runs no more. To be called once for each.
    pub fn end(&mut self, ticket: Ticket, spent: Spent) {
        let Some(entry) = self.entries.get(ticket.backend) else { return };
        let counted = match spent {
            Spent::Tokens(tokens) => Amount::of_request(tokens),
            Spent::Expected => Amount::of_request(ticket.tokens),
            // Refused before a token was made.
            Spent::Refused if entry.rules.counts_failures => Amount::of_request(0),
            Spent::Refused | Spent::Nothing => Amount::default(),
        };
        for (at, mark) in [ticket.backend, entry.account].into_iter().zip(ticket.marks) {
            if let Some(place) = self.places.get_mut(at) {
                place.meter.end(ticket.began, mark, ticket.tokens, counted, &self.clock);
            }
        }
        self.each_bench(ticket.backend, |bench| bench.end_probe(ticket.began));
    }

    /// Queues a request behind those that wait already, for any of these backends. One that waits has a number and
    /// keeps its turn. `None`: too many wait.
    pub fn wait(&mut self, number: Option<u64>, backends: &[usize]) -> Option<u64> {
        let counted = |backend: &usize| self.entries.get(*backend).map(|entry| entry.counted);
        let places: Vec<usize> = backends.iter().filter_map(counted).collect();
        if let Some(waiter) = self.waiting.iter_mut().find(|waiter| Some(waiter.number) == number) {
            waiter.places = places;
            return number;
        }
        if self.waiting.len() >= WAITING_MAX {
            return None;
        }
        let number = number.unwrap_or(self.next_waiter);
        self.next_waiter = self.next_waiter.max(number.saturating_add(1));
        // Who was here before, and has been refused, comes back to his turn.
        let at = self.waiting.partition_point(|waiter| waiter.number < number);
        self.waiting.insert(at, Waiter { number, places });
        Some(number)
    }

    /// It waits no more.
    pub fn leave(&mut self, number: u64) {
        self.waiting.retain(|waiter| waiter.number != number);
    }

    /// Whether somebody else waits for the backend who came before. `number`: who asks, if he waits himself.
    pub fn is_claimed(&self, backend: usize, number: Option<u64>) -> bool {
        let Some(entry) = self.entries.get(backend) else { return false };
        let mut before =
            self.waiting.iter().take_while(|waiter| number.is_none_or(|own| waiter.number < own));
        before.any(|waiter| waiter.places.contains(&entry.counted))
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What is known of one backend. `None` if there is no such backend.
    pub fn report(&self, backend: usize, now: Instant) -> Option<Report> {
        let entry = self.entries.get(backend)?;
        let mut windows: Vec<WindowReport> = Vec::new();
        for at in Self::meters_of(entry, backend) {
            let limits = if at == entry.counted { entry.limits } else { Limits::default() };
            for window in self.places.get(at)?.meter.windows(&limits, now, &self.clock) {
                let key = (window.span, window.unit);
                windows.insert(windows.partition_point(|other| (other.span, other.unit) <= key), window);
            }
        }
        Some(Report {
            // Of a request that says next to nothing.
            standing: self.standing(backend, OUTPUT_TOKENS_RESERVED, now),
            in_flight: self.places.get(backend)?.meter.in_flight(),
            windows,
            abilities: entry.abilities(now),
        })
    }

    /// Takes over, after a reload of the config, what `old` knew of the same backends, keys, accounts and providers.
    pub fn adopt(&mut self, old: &Ledger) {
        self.clock = old.clock;
        let (own, before) = (self.entries.len(), old.entries.len());
        let mut taken = vec![false; before];
        for (at, place) in self.places.iter_mut().enumerate() {
            let is_same =
                |from: &usize| old.places.get(*from).is_some_and(|old| old.identity == place.identity);
            let from = if at < own {
                // Entries that are equal in all but name: the first takes the first, and so on.
                (0..before).find(|from| is_same(from) && !taken.get(*from).is_none_or(|taken| *taken))
            } else {
                (before..old.places.len()).find(is_same)
            };
            let Some(from) = from else { continue };
            if let Some(taken) = taken.get_mut(from) {
                *taken = true;
            }
            if let Some(old) = old.places.get(from) {
                // What runs reports to the old ledger.
                (place.bench, place.meter) = (old.bench.without_probe(), old.meter.at_rest());
            }
            if let (Some(entry), Some(old)) = (self.entries.get_mut(at), old.entries.get(from)) {
                entry.learned = old.learned;
            }
        }
    }

    fn meters_of(entry: &Entry, backend: usize) -> [usize; 2] {
        [backend, entry.account]
    }

    fn places_of(&self, backend: usize) -> impl Iterator<Item = &Place> {
        let entry = self.entries.get(backend);
        let places = entry.into_iter().flat_map(move |e| [backend, e.key, e.account, e.provider]);
        places.filter_map(|at| self.places.get(at))
    }

    fn each_bench(&mut self, backend: usize, mut work: impl FnMut(&mut Bench)) {
        let Some(entry) = self.entries.get(backend) else { return };
        for at in [backend, entry.key, entry.account, entry.provider] {
            if let Some(place) = self.places.get_mut(at) {
                work(&mut place.bench);
            }
        }
    }
}

impl Entry {
    /// What it says itself counts more than the config.
    fn abilities(&self, now: Instant) -> Abilities {
        let learned = self.learned.filter(|(_, at)| is_fresh(*at, now)).map(|(learned, _)| learned);
        learned.unwrap_or_default().or(self.abilities)
    }
}

fn is_fresh(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < LEARNED_TIME
}

/// Members of an account share its limits: who states none of a kind has the tightest that another states.
fn share_limits(entries: &mut [Entry]) {
    let tightest = |entries: &[Entry], counted: usize, kind: fn(&mut Limits) -> &mut Option<u64>| {
        let same = entries.iter().filter(|entry| entry.counted == counted);
        same.filter_map(|entry| *kind(&mut { entry.limits })).min()
    };
    let kinds: [fn(&mut Limits) -> &mut Option<u64>; 5] =
        [|l| &mut l.rpm, |l| &mut l.rpd, |l| &mut l.tpm, |l| &mut l.tpd, |l| &mut l.concurrency];
    for kind in kinds {
        let shared: Vec<_> = entries.iter().map(|entry| tightest(entries, entry.counted, kind)).collect();
        for (entry, shared) in entries.iter_mut().zip(shared) {
            let own = kind(&mut entry.limits);
            *own = own.or(shared);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{BENCH_DAY, BENCH_DOWN, BENCH_KEY, BENCH_RATE, PROBE_TIME};
    use crate::limits::{CAREFUL_SUCCESSES, CAREFUL_TIME};
    use crate::route::verdict::{Failure, judge_failure};
    use crate::route::verdict::{Retry, Source, Window};
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);
    const SALT: Salt = [1, 2];

    fn now() -> Now {
        Now {
            mono: Instant::now(),
            wall: std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_400_000),
        }
    }

    /// Four backends: 0 and 1 share a key, 2 and 3 share an account with different keys.
    struct World {
        ledger: Ledger,
        now: Instant,
        rng: Rng,
    }

    fn scopes() -> Vec<Scopes> {
        vec![
            Scopes::new(SALT, "groq", "https://g/v1", 1, None, "a"),
            Scopes::new(SALT, "groq", "https://g/v1/", 1, None, "b"),
            Scopes::new(SALT, "groq", "https://g/v1", 2, Some("me"), "a"),
            Scopes::new(SALT, "groq", "https://g/v1", 3, Some("me"), "b"),
        ]
    }

    impl World {
        fn new() -> Self {
            Self {
                ledger: Ledger::new(now(), scopes().into_iter().map(Member::new)),
                now: Instant::now(),
                rng: Rng::with_seed(7),
            }
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }

        fn begin(&mut self, backend: usize) -> Ticket {
            self.pass(Duration::from_millis(1));
            self.ledger.begin(backend, 0, self.now)
        }

        fn fail(&mut self, ticket: Ticket, verdict: &Verdict) -> Noted {
            self.pass(Duration::from_millis(1));
            self.ledger.failure(ticket, verdict, self.now, &mut self.rng)
        }

        /// One attempt that fails at once.
        fn try_and_fail(&mut self, backend: usize, verdict: &Verdict) -> Noted {
            let ticket = self.begin(backend);
            self.fail(ticket, verdict)
        }

        fn standing(&self, backend: usize) -> Standing {
            self.ledger.standing(backend, 0, self.now)
        }

        /// How long the bench still lasts, and whether that is known.
        fn left(&self, backend: usize) -> Option<(Duration, bool)> {
            match self.standing(backend) {
                Standing::Benched { until, known, .. } => Some((until - self.now, known)),
                _ => None,
            }
        }

        fn told(&self, class: Class, scope: Scope, wait: Duration) -> Verdict {
            let retry = Some(Retry { until: self.now + wait, source: Source::Told });
            Verdict { retry, ..verdict(class, scope) }
        }
    }

    fn verdict(class: Class, scope: Scope) -> Verdict {
        Verdict { class, scope, status: None, retry: None, message: "".into(), quotes: false }
    }

    fn down() -> Verdict {
        judge_failure(&Failure::Closed)
    }

    fn limited() -> Verdict {
        verdict(Class::RateLimited, Scope::Backend)
    }

    #[test]
    fn guesses_double_up_to_their_caps() {
        for (verdict, [first, most]) in [
            (limited(), BENCH_RATE),
            (verdict(Class::QuotaDone(Window::Day), Scope::Backend), BENCH_DAY),
            (verdict(Class::KeyBad, Scope::Key), BENCH_KEY),
        ] {
            let mut world = World::new();
            let mut expected = first;
            for step in 0..80 {
                world.try_and_fail(0, &verdict);
                assert_eq!(world.left(0), Some((expected, false)), "{:?}, step {step}", verdict.class);
                world.pass(expected);
                assert_eq!(world.standing(0), Standing::HalfOpen, "{:?} is over", verdict.class);
                expected = (expected * 2).min(most);
            }
            let ticket = world.begin(0);
            world.ledger.success(ticket);
            world.try_and_fail(0, &verdict);
            assert_eq!(world.left(0), Some((first, false)), "a success starts over");
        }
    }

    #[test]
    fn down_doubles_with_jitter_and_is_probed_by_one_at_a_time() {
        let mut world = World::new();
        let mut expected = SECOND;
        for _ in 0..40 {
            world.try_and_fail(0, &down());
            let (left, known) = world.left(0).unwrap();
            assert!(left <= expected && left >= expected.mul_f64(0.75), "{left:?} of {expected:?}");
            assert!(!known);
            world.pass(left);
            assert_eq!(world.standing(0), Standing::HalfOpen);
            expected = (expected * 2).min(60 * SECOND);
        }
        let probe = world.begin(0);
        assert_eq!(world.standing(0), Standing::Probing);
        world.ledger.end(probe, Spent::Expected);
        assert_eq!(world.standing(0), Standing::HalfOpen, "the client left");
        world.begin(0);
        world.pass(PROBE_TIME);
        assert_eq!(world.standing(0), Standing::HalfOpen, "a probe that takes long, or was lost");
        let probe = world.begin(0);
        world.fail(probe, &verdict(Class::BadRequest, Scope::Request));
        assert_eq!(world.standing(0), Standing::Open, "even a refusal shows that it is up");
    }

    #[test]
    fn a_burst_is_one_step() {
        for verdict in [limited(), down(), verdict(Class::KeyBad, Scope::Key)] {
            let mut world = World::new();
            let tickets: Vec<_> = (0..20).map(|_| world.begin(0)).collect();
            for ticket in &tickets[..19] {
                world.fail(*ticket, &verdict);
            }
            let Standing::Benched { until, .. } = world.standing(0) else { panic!("not benched") };
            world.pass(until - world.now + SECOND);
            // The last one of the burst comes when the bench is over, and changes nothing.
            world.fail(tickets[19], &verdict);
            assert!(world.left(0).is_none(), "{:?}", verdict.class);
            world.try_and_fail(0, &verdict);
            let (left, _) = world.left(0).unwrap();
            let first =
                verdict.class.kind().map(|kind| [BENCH_RATE, BENCH_DAY, BENCH_KEY, BENCH_DOWN][kind][0]);
            assert!(left > first.unwrap() && left <= first.unwrap() * 2, "the second step: {left:?}");
        }
    }

    #[test]
    fn a_told_reset_is_neither_capped_nor_shortened() {
        let mut world = World::new();
        let told = world.told(Class::RateLimited, Scope::Backend, 6 * HOUR);
        let (old, late) = (world.begin(0), world.begin(0));
        world.try_and_fail(0, &told);
        let until = world.now + world.left(0).unwrap().0;
        let shorter = world.told(Class::RateLimited, Scope::Backend, SECOND);
        world.fail(late, &shorter);
        world.try_and_fail(0, &limited());
        world.try_and_fail(0, &down());
        assert_eq!(world.left(0), Some((until - world.now, true)));
        world.ledger.success(old);
        assert_eq!(world.left(0), Some((until - world.now, true)), "an older attempt proves nothing");
        let newer = world.begin(0);
        world.ledger.success(newer);
        assert_eq!(world.standing(0), Standing::HalfOpen, "a newer one does");

        let told = world.told(Class::QuotaDone(Window::Credit), Scope::Backend, 300 * HOUR);
        world.try_and_fail(1, &told);
        assert!(world.left(1).unwrap().0 > 299 * HOUR);
    }

    #[test]
    fn success_lifts_guesses() {
        let mut world = World::new();
        let old = world.begin(0);
        world.try_and_fail(0, &down());
        world.ledger.success(old);
        assert_eq!(world.standing(0), Standing::Open, "it is up");

        let old = world.begin(0);
        world.try_and_fail(0, &limited());
        world.ledger.success(old);
        assert!(world.left(0).is_some(), "let in before the limit was reached");
        let new = world.begin(0);
        world.ledger.success(new);
        assert_eq!(world.standing(0), Standing::HalfOpen);
    }

    /// All who have waited would run into the same limit at once.
    #[test]
    fn after_a_limit_they_go_one_by_one() {
        let told = |world: &World| world.told(Class::RateLimited, Scope::Backend, SECOND);
        let mut world = World::new();
        let limit = told(&world);
        world.try_and_fail(0, &limit);
        world.pass(SECOND);
        for _ in 0..CAREFUL_SUCCESSES {
            assert_eq!(world.standing(0), Standing::HalfOpen);
            let ticket = world.begin(0);
            assert_eq!(world.standing(0), Standing::Probing);
            assert!(world.ledger.probes_limit(0, world.now));
            world.ledger.success(ticket);
        }
        assert_eq!(world.standing(0), Standing::Open, "that was enough");

        let limit = told(&world);
        world.try_and_fail(0, &limit);
        world.pass(2 * SECOND);
        let ticket = world.begin(0);
        world.ledger.success(ticket);
        let limit = told(&world);
        world.try_and_fail(0, &limit);
        world.pass(2 * SECOND);
        assert_eq!(world.standing(0), Standing::HalfOpen, "it counts anew");
        world.pass(CAREFUL_TIME);
        assert_eq!(world.standing(0), Standing::Open, "after a while it is no matter any more");
    }

    #[test]
    fn scopes_reach_as_far_as_they_say() {
        let benched = |verdict: &Verdict, backend| {
            let mut world = World::new();
            world.try_and_fail(backend, verdict);
            (0..4).filter(|other| world.left(*other).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(benched(&verdict(Class::KeyBad, Scope::Key), 0), [0, 1], "all with this key");
        assert_eq!(benched(&verdict(Class::KeyBad, Scope::Key), 2), [2]);
        assert_eq!(benched(&verdict(Class::RateLimited, Scope::Account), 2), [2, 3]);
        assert_eq!(
            benched(&verdict(Class::RateLimited, Scope::Account), 0),
            [0, 1],
            "its key is its account"
        );
        assert_eq!(benched(&verdict(Class::RateLimited, Scope::Backend), 2), [2]);
        assert_eq!(benched(&down(), 1), [1]);
        for class in [Class::BadRequest, Class::TooLarge, Class::Blocked, Class::Empty, Class::OutputInvalid]
        {
            assert_eq!(benched(&verdict(class, Scope::Request), 0), [0; 0], "{class:?}");
        }
    }

    #[test]
    fn free_models_of_openrouter_share_limits_without_the_paid_ones() {
        let of = |account, model| Scopes::new(SALT, "openrouter", "https://o", 1, account, model);
        for account in [None, Some("me")] {
            let free = of(account, "x:free");
            assert_eq!(free.account, of(account, "y:free").account);
            assert_ne!(free.account, of(account, "y").account);
            assert_eq!(free.key, of(account, "y").key);
        }
    }

    #[test]
    fn fixed_benches_and_calendars() {
        let check = |class, source: Option<(Source, Duration)>, expected: Duration, known: bool| {
            let mut world = World::new();
            let retry = source.map(|(source, wait)| Retry { until: world.now + wait, source });
            let start = world.now;
            for _ in 0..3 {
                let verdict = Verdict { retry, ..verdict(class, Scope::Backend) };
                world.try_and_fail(0, &verdict);
                let (left, is_known) = world.left(0).unwrap();
                let slack = world.now - start;
                assert!(left <= expected && left + slack >= expected, "{class:?}: {left:?}");
                assert_eq!(is_known, known, "{class:?}");
            }
        };
        check(Class::ModelGone, None, HOUR, false);
        check(Class::Forbidden, None, 600 * SECOND, false);
        check(Class::QuotaDone(Window::Credit), None, HOUR, false);
        check(Class::QuotaDone(Window::Month), None, 24 * HOUR, false);
        let calendar = |wait| Some((Source::Calendar, wait));
        check(Class::QuotaDone(Window::Day), calendar(20 * HOUR), 20 * HOUR, true);
        check(Class::QuotaDone(Window::Month), calendar(200 * HOUR), 24 * HOUR, false);
        check(Class::QuotaDone(Window::Month), calendar(2 * HOUR), 2 * HOUR, false);
        check(Class::QuotaDone(Window::Credit), calendar(200 * HOUR), HOUR, false);
    }

    #[test]
    fn what_needs_somebody_is_said_once() {
        let mut world = World::new();
        let bad = verdict(Class::KeyBad, Scope::Key);
        assert!(world.try_and_fail(0, &bad).first);
        assert!(!world.try_and_fail(1, &bad).first, "the same key");
        assert!(world.try_and_fail(2, &bad).first, "another");
        assert!(!world.try_and_fail(3, &down()).first);
        let ticket = world.begin(0);
        world.ledger.success(ticket);
        assert!(world.try_and_fail(1, &bad).first, "it had worked in between");
    }

    #[test]
    fn a_reload_keeps_what_is_the_same() {
        let mut world = World::new();
        world.try_and_fail(1, &down());
        let bad = verdict(Class::KeyBad, Scope::Key);
        world.try_and_fail(2, &bad);
        let mut fresh = scopes();
        fresh.reverse();
        fresh.push(Scopes::new(SALT, "groq", "https://g/v1", 2, None, "new model, same key"));
        fresh.push(Scopes::new(SALT, "groq", "https://g/v1", 9, None, "a"));
        let mut ledger = Ledger::new(now(), fresh.into_iter().map(Member::new));
        ledger.adopt(&world.ledger);
        for (new, old) in [(0, 3), (1, 2), (2, 1), (3, 0), (4, 2), (5, 0)] {
            assert_eq!(ledger.standing(new, 0, world.now), world.standing(old), "{new}");
        }
    }

    #[test]
    fn a_guess_that_it_is_down_hides_no_limit() {
        // A guess may be put to the test; a limit that is reached, or a stated reset, may not.
        let limits = Limits { rpm: Some(1), ..Limits::default() };
        let members = scopes().into_iter().map(|scopes| Member { limits, ..Member::new(scopes) });
        let mut world = World::new();
        world.ledger = Ledger::new(now(), members);
        for _ in 0..8 {
            world.try_and_fail(0, &down());
            world.pass(SECOND);
        }
        let until = match world.standing(0) {
            Standing::Short(Shortage::Spent { until, .. }) => until,
            other => panic!("{other:?}"),
        };
        world.now = until;
        world.try_and_fail(0, &down());
        assert!(matches!(world.standing(0), Standing::Short(_)), "{:?}", world.standing(0));

        let mut world = World::new();
        for _ in 0..8 {
            world.try_and_fail(0, &down());
            world.pass(SECOND);
        }
        let told = world.told(Class::RateLimited, Scope::Account, 5 * SECOND);
        world.try_and_fail(1, &told);
        world.try_and_fail(0, &down());
        let (left, known) = world.left(0).unwrap();
        assert!(known && left <= 5 * SECOND, "{left:?}");
        world.pass(left);
        let down_until = world.left(0).expect("still down, by our guess");
        assert!(!down_until.1 && down_until.0 > 5 * SECOND, "{down_until:?}");
    }

    fn rpm(rpm: u64) -> Limits {
        Limits { rpm: Some(rpm), ..Limits::default() }
    }

    /// A world of members: limits, key, account, model, at this provider.
    fn world(provider: &str, members: &[(Limits, u32, Option<&str>, &str)]) -> World {
        let members = members.iter().map(|(limits, key, account, model)| {
            let scopes = Scopes::new(SALT, provider, "https://p/v1", key, *account, model);
            Member {
                limits: *limits,
                rules: rules(provider),
                grouped: account.is_some(),
                ..Member::new(scopes)
            }
        });
        World { ledger: Ledger::new(now(), members), ..World::new() }
    }

    impl World {
        fn is_short(&self, backend: usize) -> bool {
            matches!(self.standing(backend), Standing::Short(_))
        }

        /// So many requests that are answered.
        fn serve(&mut self, backend: usize, times: usize) {
            for _ in 0..times {
                let ticket = self.begin(backend);
                self.ledger.success(ticket);
                self.ledger.end(ticket, Spent::Tokens(0));
            }
        }
    }

    #[test]
    fn members_of_an_account_share_its_limits() {
        let me = Some("me");
        let none = Limits::default();
        let members = [
            (rpm(5), 1, me, "a"),
            (rpm(3), 2, me, "b"),
            (none, 3, me, "c"),
            (rpm(3), 1, None, "a"),
            (none, 1, None, "b"),
        ];
        let mut world = world("groq", &members);
        world.serve(0, 2);
        assert!((0..5).all(|backend| !world.is_short(backend)));
        world.serve(2, 1);
        let short: Vec<bool> = (0..5).map(|backend| world.is_short(backend)).collect();
        assert_eq!(
            short,
            [false, true, true, false, false],
            "who states none has the tightest of the others"
        );
        world.serve(1, 2);
        let short: Vec<bool> = (0..5).map(|backend| world.is_short(backend)).collect();
        assert_eq!(short, [true, true, true, false, false]);
    }

    #[test]
    fn where_the_account_is_counted_by_rule() {
        // OpenRouter counts its free models together; Groq counts each model.
        for (provider, shared) in [("openrouter", true), ("groq", false)] {
            let members =
                [(rpm(2), 1, None, "a:free"), (rpm(2), 1, None, "b:free"), (rpm(2), 2, None, "a:free")];
            let mut world = world(provider, &members);
            world.serve(0, 2);
            let short: Vec<bool> = (0..3).map(|backend| world.is_short(backend)).collect();
            assert_eq!(short, [true, shared, false], "{provider}: counted");

            let members = members.map(|(_, key, account, model)| (Limits::default(), key, account, model));
            let mut world = self::world(provider, &members);
            let ticket = world.begin(0);
            let (unit, span) =
                (crate::provider::ratelimit::Unit::Requests, crate::provider::ratelimit::Span::Day);
            let told = Told { unit, span, limit: Some(50), remaining: Some(0), reset: Some(HOUR) };
            world.ledger.told(ticket, &[told], world.now);
            let short: Vec<bool> = (0..3).map(|backend| world.is_short(backend)).collect();
            assert_eq!(short, [true, shared, false], "{provider}: told");
        }
    }

    #[test]
    fn what_counts_of_an_attempt() {
        for (provider, spent, expected) in [
            ("groq", Spent::Tokens(5), true),
            ("groq", Spent::Expected, true),
            ("groq", Spent::Refused, false),
            ("groq", Spent::Nothing, false),
            ("openrouter", Spent::Refused, true),
            ("openrouter", Spent::Nothing, false),
        ] {
            let mut world = world(provider, &[(rpm(1), 1, None, "a:free")]);
            let ticket = world.begin(0);
            assert!(world.is_short(0), "reserved");
            world.ledger.end(ticket, spent);
            assert_eq!(world.is_short(0), expected, "{provider} {spent:?}");
        }
    }

    #[test]
    fn a_provider_out_of_reach_is_so_for_all_its_backends() {
        let mut world = World::new();
        world.try_and_fail(1, &verdict(Class::Down, Scope::Provider));
        assert!((0..4).all(|backend| world.left(backend).is_some_and(|(_, known)| !known)));
        assert!((0..4).all(|backend| world.ledger.failures(backend) >= 1));
        let ticket = world.begin(3);
        world.ledger.success(ticket);
        assert!((0..4).all(|backend| world.standing(backend) == Standing::Open), "one success is for all");
    }

    #[test]
    fn first_come_first_served() {
        let mut ledger =
            world("groq", &[(rpm(1), 1, None, "a"), (rpm(1), 1, None, "b"), (rpm(1), 1, None, "c")]).ledger;
        let first = ledger.wait(None, &[0]);
        let second = ledger.wait(None, &[0, 1]);
        let claims = |ledger: &Ledger, who| [0, 1, 2].map(|backend| ledger.is_claimed(backend, who));
        assert_eq!(claims(&ledger, first), [false; 3], "nobody came before");
        assert_eq!(claims(&ledger, second), [true, false, false]);
        assert_eq!(claims(&ledger, None), [true, true, false], "who does not wait yet comes last");
        assert_eq!(ledger.wait(first, &[2]), first, "keeps its turn");
        assert_eq!(claims(&ledger, second), [false, false, true]);
        assert_eq!(ledger.wait(first, &[0]), first);
        ledger.leave(first.unwrap());
        assert_eq!(claims(&ledger, second), [false; 3], "who leaves frees the turn");
        assert_eq!(ledger.wait(first, &[0]), first);
        assert_eq!(claims(&ledger, second), [true, false, false], "who was refused comes back to his turn");
        let last = ledger.wait(None, &[2]);
        assert!(last > second, "who is new comes last");
        for number in [first, second, last, Some(77)] {
            ledger.leave(number.unwrap());
        }
        assert_eq!((ledger.waiting(), claims(&ledger, None)), (0, [false; 3]));
    }

    #[test]
    fn a_turn_for_an_account_is_one_for_all_its_backends() {
        let me = Some("me");
        let mut ledger =
            world("groq", &[(rpm(1), 1, me, "a"), (rpm(1), 2, me, "b"), (rpm(1), 3, None, "a")]).ledger;
        ledger.wait(None, &[0]);
        assert_eq!([0, 1, 2].map(|backend| ledger.is_claimed(backend, None)), [true, true, false]);
    }

    #[test]
    fn not_everybody_may_wait() {
        let mut ledger = World::new().ledger;
        let numbers: Vec<_> = (0..WAITING_MAX).map(|_| ledger.wait(None, &[0]).unwrap()).collect();
        assert_eq!(ledger.wait(None, &[1]), None, "one past the limit");
        assert_eq!(ledger.wait(Some(numbers[9]), &[1]), Some(numbers[9]), "who waits goes on waiting");
        ledger.leave(numbers[0]);
        assert!(ledger.wait(None, &[0]).is_some_and(|number| number > *numbers.last().unwrap()));
        assert_eq!(ledger.waiting(), WAITING_MAX);
    }

    #[test]
    fn what_was_learned_is_believed_for_a_day() {
        let mut world = World::new();
        let configured = Abilities { context: Some(32_000), vision: Some(true), tools: None };
        let scopes = Scopes::new(SALT, "p", "https://p", 1, None, "a");
        world.ledger = Ledger::new(now(), [Member { abilities: configured, ..Member::new(scopes) }]);
        let demand = Demand { tokens: 9000, images: true, tools: false };
        let unfit = |world: &World| world.ledger.unfit(0, &demand, world.now);
        assert_eq!(unfit(&world), None);
        world.ledger.learn(0, Abilities::default(), world.now);
        world.ledger.learn(0, Abilities { context: Some(8192), ..Abilities::default() }, world.now);
        assert_eq!(unfit(&world), Some(Unfit::Window { tokens: 9000, window: 8192 }));
        world.pass(HOUR);
        world.ledger.learn(0, Abilities { vision: Some(false), ..Abilities::default() }, world.now);
        assert_eq!(world.ledger.context(0, world.now), Some(8192), "the one does not undo the other");
        world.pass(24 * HOUR - SECOND);
        assert!(unfit(&world).is_some());
        world.pass(SECOND);
        assert_eq!((unfit(&world), world.ledger.context(0, world.now)), (None, Some(32_000)));
        world.ledger.learn(9, Abilities { context: Some(1), ..Abilities::default() }, world.now);
    }

    #[test]
    fn a_minute_that_is_too_small_keeps_a_request_out() {
        let limits = Limits { tpm: Some(8000), ..Limits::default() };
        let mut world = world("groq", &[(limits, 1, None, "a")]);
        let demand = Demand { tokens: 9000, ..Demand::default() };
        let unfit = |world: &World| world.ledger.unfit(0, &demand, world.now);
        assert_eq!(unfit(&world), Some(Unfit::PerMinute { tokens: 9000, limit: 8000 }));
        let ticket = world.begin(0);
        let (unit, span) =
            (crate::provider::ratelimit::Unit::Tokens, crate::provider::ratelimit::Span::Minute);
        let told = Told { unit, span, limit: Some(30_000), remaining: Some(9), reset: Some(SECOND) };
        world.ledger.told(ticket, &[told], world.now);
        assert_eq!(unfit(&world), None, "the provider knows better");
    }

    #[test]
    fn who_has_most_left() {
        let limits = Limits { rpm: Some(10), rpd: Some(100), concurrency: Some(4), ..Limits::default() };
        let mut world = world("groq", &[(limits, 1, None, "a"), (Limits::default(), 1, None, "b")]);
        let left = |world: &World, backend| world.ledger.share_left(backend, world.now);
        assert_eq!((left(&world, 0), left(&world, 1), left(&world, 9)), ((1.0, 0), (1.0, 0), (1.0, 0)));
        let ticket = world.begin(0);
        assert_eq!(left(&world, 0), (0.75, 1), "one of four that may run");
        world.ledger.end(ticket, Spent::Tokens(1));
        assert_eq!(left(&world, 0), (0.9, 1), "one of ten a minute");
        world.serve(1, 3);
        assert_eq!(left(&world, 1), (1.0, 3), "without limits, by their number");
        world.pass(100 * SECOND);
        assert_eq!(left(&world, 0), (0.99, 1), "one of hundred a day");
    }

    #[test]
    fn a_reload_keeps_what_was_counted() {
        let limits = Limits { concurrency: Some(1), ..rpm(2) };
        let members = [(limits, 1, None, "a"), (limits, 1, None, "b")];
        let mut world = world("groq", &members);
        world.serve(0, 1);
        world.begin(1);
        world.ledger.learn(1, Abilities { context: Some(7), ..Abilities::default() }, world.now);
        let more = Limits { rpm: Some(3), ..limits };
        let fresh =
            self::world("groq", &[(limits, 2, None, "a"), (more, 1, None, "b"), (limits, 1, None, "a")]);
        let old = std::mem::replace(&mut world.ledger, fresh.ledger);
        world.ledger.adopt(&old);
        let used = |backend| world.ledger.report(backend, world.now).unwrap().windows[0].used;
        assert_eq!([used(0), used(1), used(2)], [Some(0), Some(1), Some(1)]);
        assert_eq!(world.standing(1), Standing::Open, "what runs reports to the old one");
        assert_eq!(world.ledger.context(1, world.now), Some(7));
        world.serve(1, 1);
        assert!(!world.is_short(1), "the limits are those of the new config");
        world.serve(2, 1);
        assert!(world.is_short(2));
    }

    #[test]
    fn a_backend_that_does_not_exist_hurts_nobody() {
        let mut world = World::new();
        world.try_and_fail(9, &down());
        assert_eq!(world.standing(9), Standing::Open);
        assert!((0..4).all(|backend| world.standing(backend) == Standing::Open));
    }
}
