//! Who is benched until when: by failures of the past, per backend, per key, per account.
//!
//! Holds no secret (identities are hashes), no clock and no dice; knows nothing of requests.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::limits::{
    BENCH_CREDIT, BENCH_DAY, BENCH_DOWN, BENCH_FORBIDDEN, BENCH_KEY, BENCH_MODEL, BENCH_MONTH, BENCH_RATE,
    PROBE_TIME,
};
use crate::route::verdict::{Class, Retry, Scope, Source, Verdict, Window};

/// What a backend shares with others, as hashes: equal ones are the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes {
    /// One provider at one URL.
    pub provider: u64,
    /// One model there.
    pub model: u64,
    key: u64,
    account: u64,
    backend: u64,
}

impl Scopes {
    /// `key` is a hash of the key. Without an `account` group the key stands for its account.
    pub fn new(provider: &str, base_url: &str, key: u64, account: Option<&str>, model: &str) -> Self {
        fn hash(value: impl Hash) -> u64 {
            let mut hasher = DefaultHasher::new();
            value.hash(&mut hasher);
            hasher.finish()
        }
        let base_url = base_url.trim_end_matches('/');
        // OpenRouter's free models share limits among themselves, not with the paid ones of the account.
        let free = model.ends_with(":free");
        let key = hash((provider, base_url, key));
        Self {
            provider: hash((provider, base_url)),
            model: hash((provider, base_url, model)),
            key,
            account: match account {
                // With the provider: "main" at two providers is not one account.
                Some(account) => hash((provider, account, free)),
                None => hash((key, free)),
            },
            backend: hash((key, account, model)),
        }
    }
}

/// Whether a backend may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Yes.
    Open,
    /// It was down and its bench is over: one may try.
    HalfOpen,
    /// It was down, and somebody is trying right now.
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
}

/// An attempt that has begun. Give it back by `success`, `failure` or `abandon`; one that is lost only makes
/// others wait for [`PROBE_TIME`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Index of the backend.
    pub backend: usize,
    began: Instant,
}

/// What a failure has caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The end of the bench that is now in force for the scope of the verdict, if there is one.
    pub until: Option<Instant>,
    /// Somebody has to act (key, model, terms, credit) and has not been told since it last worked: warn.
    pub first: bool,
}

/// Benches of all backends; the index of a backend is its place in the config.
///
/// Rules: a told end is never shortened or capped, only ever outlived, or lifted by a success that began after
/// it. A guessed end doubles with each *step*. Failures of attempts that began before the last step belong to that
/// step: twenty parallel 429s are one. A client's mistake benches nobody.
#[derive(Debug)]
pub struct Ledger {
    entries: Vec<Entry>,
    /// First one per backend, then those of keys and accounts, shared by their backends.
    benches: Vec<Bench>,
}

#[derive(Debug)]
struct Entry {
    scopes: Scopes,
    /// Places in `Ledger::benches`; valid by construction, as neither list changes.
    key: usize,
    account: usize,
}

#[derive(Clone, Debug, Default)]
struct Bench {
    told: Option<End>,
    guessed: Option<End>,
    steps: [Steps; KINDS],
    /// When the running probe began.
    probe: Option<Instant>,
    /// All failures noted here: who waits for another's probe sees by it that the probe has failed.
    failures: u32,
    warned: Option<Class>,
}

#[derive(Clone, Copy, Debug)]
struct End {
    until: Instant,
    since: Instant,
    class: Class,
}

#[derive(Clone, Copy, Debug, Default)]
struct Steps {
    count: u32,
    last: Option<Instant>,
}

/// Each kind of failure doubles by itself: a timeout between two 429s does not start them over.
const KINDS: usize = 4;

impl Ledger {
    /// Nobody is benched.
    pub fn new(backends: impl IntoIterator<Item = Scopes>) -> Self {
        let mut entries: Vec<Entry> =
            backends.into_iter().map(|scopes| Entry { scopes, key: 0, account: 0 }).collect();
        let mut shared: Vec<u64> = Vec::new();
        let own = entries.len();
        let mut place = |identity: u64| {
            let at = shared.iter().position(|known| *known == identity).unwrap_or_else(|| {
                shared.push(identity);
                shared.len() - 1
            });
            own + at
        };
        for entry in &mut entries {
            entry.key = place(entry.scopes.key);
            entry.account = place(entry.scopes.account);
        }
        let benches = vec![Bench::default(); own + shared.len()];
        Self { entries, benches }
    }

    /// What the backend shares. `None` if there is no such backend.
    pub fn scopes(&self, backend: usize) -> Option<Scopes> {
        self.entries.get(backend).map(|entry| entry.scopes)
    }

    /// Whether it may be asked now. A backend that does not exist is open.
    pub fn standing(&self, backend: usize, now: Instant) -> Standing {
        let mut last: Option<(End, bool)> = None;
        for bench in self.places(backend).filter_map(|place| self.benches.get(place)) {
            for (end, known) in [(bench.told, true), (bench.guessed, false)] {
                if let Some(end) = end.filter(|end| end.until > now)
                    && last.is_none_or(|(last, _)| last.until < end.until)
                {
                    last = Some((end, known));
                }
            }
        }
        let probing = || self.benches.get(backend).is_some_and(|bench| bench.is_probed(now));
        match last {
            Some((End { class: Class::Down, .. }, false)) if probing() => Standing::Probing,
            Some((End { until, since, class }, known)) => Standing::Benched { until, known, class, since },
            None if !self.benches.get(backend).is_some_and(Bench::was_down) => Standing::Open,
            None if probing() => Standing::Probing,
            None => Standing::HalfOpen,
        }
    }

    /// How many failures were noted for this backend in all.
    pub fn failures(&self, backend: usize) -> u32 {
        self.benches.get(backend).map_or(0, |bench| bench.failures)
    }

    /// An attempt begins. If the backend was down, it is the probe that others wait for.
    pub fn begin(&mut self, backend: usize, now: Instant) -> Ticket {
        if let Some(bench) = self.benches.get_mut(backend).filter(|bench| bench.was_down()) {
            bench.probe = Some(now);
        }
        Ticket { backend, began: now }
    }

    /// Content has come: to be called at the first of it, not at the end of the answer.
    pub fn success(&mut self, ticket: Ticket) {
        for place in self.places(ticket.backend) {
            let Some(bench) = self.benches.get_mut(place) else { continue };
            bench.end_probe(ticket);
            // What began before a limit was reached proves nothing about the limit.
            let outdated = |end: &End| end.since < ticket.began;
            bench.told = bench.told.filter(|end| !outdated(end));
            bench.guessed = bench.guessed.filter(|end| end.class.is_limit() && !outdated(end));
            for (kind, steps) in bench.steps.iter_mut().enumerate() {
                if kind >= LIMIT_KINDS || steps.last.is_some_and(|last| last < ticket.began) {
                    *steps = Steps::default();
                }
            }
            bench.warned = None;
        }
    }

    /// The attempt has failed: benches what the verdict says, for how long DESIGN says.
    pub fn failure(&mut self, ticket: Ticket, verdict: &Verdict, now: Instant, rng: &mut Rng) -> Noted {
        let Some(entry) = self.entries.get(ticket.backend) else {
            return Noted { until: None, first: false };
        };
        let place = match verdict.scope {
            Scope::Request => None,
            Scope::Backend => Some(ticket.backend),
            Scope::Key => Some(entry.key),
            Scope::Account => Some(entry.account),
        };
        if let Some(own) = self.benches.get_mut(ticket.backend) {
            own.failures = own.failures.wrapping_add(1);
            own.end_probe(ticket);
            if verdict.class != Class::Down {
                own.has_answered(ticket);
            }
        }
        let Some(bench) = place.and_then(|place| self.benches.get_mut(place)) else {
            return Noted { until: None, first: false };
        };
        bench.note(ticket, verdict.class, verdict.retry, now, rng);
        let first = verdict.class.needs_somebody() && bench.warned != Some(verdict.class);
        if first {
            bench.warned = Some(verdict.class);
        }
        let ends = [bench.told, bench.guessed].into_iter().flatten().map(|end| end.until);
        Noted { until: ends.max().filter(|until| *until > now), first }
    }

    /// The client has left before the attempt showed anything.
    pub fn abandon(&mut self, ticket: Ticket) {
        if let Some(bench) = self.benches.get_mut(ticket.backend) {
            bench.end_probe(ticket);
        }
    }

    /// Takes over, after a reload of the config, what `old` knew of the same backends, keys and accounts.
    pub fn adopt(&mut self, old: &Ledger) {
        let mut taken = vec![false; old.entries.len()];
        for (index, entry) in self.entries.iter().enumerate() {
            let mut copy = |to: usize, from: usize| {
                if let (Some(to), Some(from)) = (self.benches.get_mut(to), old.benches.get(from)) {
                    // A running probe reports to the old ledger.
                    *to = Bench { probe: None, ..from.clone() };
                }
            };
            for (place, before) in old.entries.iter().enumerate() {
                if before.scopes.key == entry.scopes.key {
                    copy(entry.key, before.key);
                }
                if before.scopes.account == entry.scopes.account {
                    copy(entry.account, before.account);
                }
                // Entries that are equal in all but name: the first takes the first, and so on.
                if before.scopes.backend == entry.scopes.backend
                    && let Some(taken) = taken.get_mut(place).filter(|taken| !**taken)
                {
                    *taken = true;
                    copy(index, place);
                    break;
                }
            }
        }
    }

    fn places(&self, backend: usize) -> impl Iterator<Item = usize> + use<> {
        let places = self.entries.get(backend).map(|entry| [backend, entry.key, entry.account]);
        places.into_iter().flatten()
    }
}

/// The kinds that are limits come first.
const LIMIT_KINDS: usize = 2;

impl Class {
    /// What doubles together. `None` benches for a fixed time.
    fn kind(self) -> Option<usize> {
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

    fn needs_somebody(self) -> bool {
        matches!(self, Self::KeyBad | Self::ModelGone | Self::Forbidden | Self::QuotaDone(Window::Credit))
    }
}

impl Bench {
    fn was_down(&self) -> bool {
        self.guessed.is_some_and(|end| end.class == Class::Down)
    }

    fn is_probed(&self, now: Instant) -> bool {
        self.probe.is_some_and(|began| now.saturating_duration_since(began) < PROBE_TIME)
    }

    fn end_probe(&mut self, ticket: Ticket) {
        if self.probe == Some(ticket.began) {
            self.probe = None;
        }
    }

    /// Any answer but a breakdown shows that it is up, even a refusal.
    fn has_answered(&mut self, ticket: Ticket) {
        if self.guessed.is_some_and(|end| end.class == Class::Down && end.since < ticket.began) {
            self.guessed = None;
            if let Some(steps) = Class::Down.kind().and_then(|kind| self.steps.get_mut(kind)) {
                *steps = Steps::default();
            }
        }
    }

    fn note(&mut self, ticket: Ticket, class: Class, retry: Option<Retry>, now: Instant, rng: &mut Rng) {
        let known = |window| !matches!(window, Class::QuotaDone(Window::Month | Window::Credit));
        match retry {
            Some(Retry { until, source }) if source == Source::Told || known(class) => {
                later(&mut self.told, End { until, since: now, class }, now);
            }
            retry => {
                let Some(guess) = self.guess(ticket, class, now, rng) else { return };
                let until = now.checked_add(guess).unwrap_or(now);
                // A month by the calendar is our reading of the terms, so that our own cap holds.
                let until = retry.map_or(until, |retry| retry.until.min(until));
                later(&mut self.guessed, End { until, since: now, class }, now);
            }
        }
    }

    /// How long to stay away if nobody says; `None` if this belongs to a step already taken or benches nobody.
    fn guess(&mut self, ticket: Ticket, class: Class, now: Instant, rng: &mut Rng) -> Option<Duration> {
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
        if steps.last.is_some_and(|last| ticket.began <= last) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{BENCH_DAY, BENCH_RATE};
    use crate::route::verdict::{Failure, judge_failure};

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    /// Four backends: 0 and 1 share a key, 2 and 3 share an account with different keys.
    struct World {
        ledger: Ledger,
        now: Instant,
        rng: Rng,
    }

    fn scopes() -> Vec<Scopes> {
        vec![
            Scopes::new("groq", "https://g/v1", 1, None, "a"),
            Scopes::new("groq", "https://g/v1/", 1, None, "b"),
            Scopes::new("groq", "https://g/v1", 2, Some("me"), "a"),
            Scopes::new("groq", "https://g/v1", 3, Some("me"), "b"),
        ]
    }

    impl World {
        fn new() -> Self {
            Self { ledger: Ledger::new(scopes()), now: Instant::now(), rng: Rng::with_seed(7) }
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }

        fn begin(&mut self, backend: usize) -> Ticket {
            self.pass(Duration::from_millis(1));
            self.ledger.begin(backend, self.now)
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
            self.ledger.standing(backend, self.now)
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
                assert_eq!(world.standing(0), Standing::Open, "{:?} is over", verdict.class);
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
        world.ledger.abandon(probe);
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
        assert_eq!(world.standing(0), Standing::Open, "a newer one does");

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
        assert_eq!(world.standing(0), Standing::Open);
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
        let of = |account, model| Scopes::new("openrouter", "https://o", 1, account, model);
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
        fresh.push(Scopes::new("groq", "https://g/v1", 2, None, "new model, same key"));
        fresh.push(Scopes::new("groq", "https://g/v1", 9, None, "a"));
        let mut ledger = Ledger::new(fresh);
        ledger.adopt(&world.ledger);
        for (new, old) in [(0, 3), (1, 2), (2, 1), (3, 0), (4, 2), (5, 0)] {
            assert_eq!(ledger.standing(new, world.now), world.standing(old), "{new}");
        }
    }

    #[test]
    fn a_backend_that_does_not_exist_hurts_nobody() {
        let mut world = World::new();
        world.try_and_fail(9, &down());
        assert_eq!(world.standing(9), Standing::Open);
        assert!((0..4).all(|backend| world.standing(backend) == Standing::Open));
    }
}
