//! The ledger as a text that outlives the program: one JSON object with a version, absolute times, and no secret in
//! it. What it does not say, and what makes no sense, is as if it had never been.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::limits::{BENCH_MONTH, CAREFUL_SUCCESSES, CAREFUL_TIME, TOLD_FACTS_MAX};
use crate::provider::ratelimit::{Span, Unit, WAIT_MAX, unix_ms};
use crate::route::Now;
use crate::route::bench::{Bench, Careful, End, KINDS, Steps};
use crate::route::fit::Abilities;
use crate::route::ledger::{Ledger, Place, Salt};
use crate::route::quota::{Amount, Clock, Day, Fact, Meter, Sliding};
use crate::route::verdict::Class;

/// The only version there is.
const VERSION: u64 = 1;

/// A ledger, saved. All times are milliseconds since 1970.
#[derive(Debug, Serialize, PartialEq)]
pub struct Saved {
    version: u64,
    /// When.
    saved: i64,
    /// What the identities are hashed with, in hexadecimal.
    salt: [String; 2],
    places: Vec<SavedPlace>,
}

/// What is known of a backend, key, account or provider.
#[derive(Debug, Serialize, PartialEq)]
struct SavedPlace {
    /// In hexadecimal. Equal backends have equal ones, in the order of the config.
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    told: Option<SavedEnd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guessed: Option<SavedEnd>,
    /// Number of failures in a row and the time of the last one, by kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<(u32, Option<i64>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warned: Option<String>,
    /// How many still have to succeed one by one after a limit, when it was noted, and until when that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    careful: Option<(u32, i64, i64)>,
    /// Beginning of the second, requests, tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    minute: Vec<(i64, u64, u64)>,
    /// The same by quarters of an hour, where the day slides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    day: Vec<(i64, u64, u64)>,
    /// Beginning and end of the day, requests, tokens, where it ends at some midnight.
    #[serde(skip_serializing_if = "Option::is_none")]
    today: Option<(i64, i64, u64, u64)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    facts: Vec<SavedFact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    learned: Option<SavedAbilities>,
}

#[derive(Debug, Serialize, PartialEq)]
struct SavedEnd {
    until: i64,
    since: i64,
    class: String,
}

#[derive(Debug, Serialize, PartialEq)]
struct SavedFact {
    unit: String,
    span: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    remaining: u64,
    ends: i64,
}

#[derive(Debug, Serialize, PartialEq)]
struct SavedAbilities {
    at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vision: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<bool>,
}

/// Why a text is not a saved ledger.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Of a later program.
    Version(u64),
    /// Damaged; where.
    Damaged(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => {
                write!(f, "it has version {version}, and this program knows {VERSION} only")
            }
            Self::Damaged(what) => write!(f, "it is damaged: {what}"),
        }
    }
}

impl Saved {
    /// Reads what was written.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        let file: Value = serde_json::from_str(text).map_err(|e| Unreadable::Damaged(e.to_string()))?;
        let damaged = |what: &str| Unreadable::Damaged(format!("{what} is not what it should be"));
        let version = file.get("version").and_then(Value::as_u64).ok_or_else(|| damaged("`version`"))?;
        if version != VERSION {
            return Err(Unreadable::Version(version));
        }
        let saved = file.get("saved").and_then(Value::as_i64).ok_or_else(|| damaged("`saved`"))?;
        let salt = file.get("salt").and_then(read_salt).ok_or_else(|| damaged("`salt`"))?;
        let places = file.get("places").and_then(Value::as_array).ok_or_else(|| damaged("`places`"))?;
        let places = places.iter().enumerate();
        let places =
            places.map(|(at, place)| read_place(place).ok_or_else(|| damaged(&format!("`places[{at}]`"))));
        Ok(Self { version, saved, salt, places: places.collect::<Result<_, _>>()? })
    }

    /// As it is written, on one line.
    pub fn to_text(&self) -> String {
        // Numbers, names and lists cannot fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What its identities are hashed with. `None` if that makes no sense.
    pub fn salt(&self) -> Option<Salt> {
        let [first, second] = &self.salt;
        Some([u64::from_str_radix(first, 16).ok()?, u64::from_str_radix(second, 16).ok()?])
    }

    /// Whether it says the same as another, whenever that was.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.salt == other.salt && self.places == other.places
    }
}

impl Ledger {
    /// What is known, to be kept.
    pub fn save(&self, salt: Salt, now: Now) -> Saved {
        let own = self.entries.len();
        // It may have been set since the last request.
        let mut clock = *self.clock();
        clock.set(now.mono, unix_ms(now.wall));
        let places = self.places.iter().enumerate().filter_map(|(at, place)| {
            let mut saved = save_place(place, &clock, now.mono);
            if let Some((learned, told_at)) =
                self.entries.get(at).filter(|_| at < own).and_then(|e| e.learned)
            {
                let Abilities { context, vision, tools } = learned;
                saved.learned = Some(SavedAbilities { at: clock.wall(told_at), context, vision, tools });
            }
            let says_nothing = saved == SavedPlace { id: saved.id.clone(), ..nothing() };
            // One of several equal backends has to stand in its place.
            Some(saved).filter(|_| at < own || !says_nothing)
        });
        Saved {
            version: VERSION,
            saved: unix_ms(now.wall),
            salt: salt.map(|half| format!("{half:x}")),
            places: places.collect(),
        }
    }

    /// Takes over what was saved of the same backends, keys, accounts and providers. For a ledger that knows nothing
    /// yet and whose identities have the same salt.
    pub fn restore(&mut self, saved: &Saved, now: Now) {
        // A board without a clock of its own begins in 1970 and would wait for decades.
        let wall = unix_ms(now.wall).max(saved.saved);
        let reading = Reading { clock: Clock::new(now.mono, wall), grid: *self.clock(), now: now.mono };
        let id = |old: &SavedPlace| u64::from_str_radix(&old.id, 16).ok();
        let mut olds: Vec<_> = saved.places.iter().map(|old| (old, id(old), false)).collect();
        for (at, place) in self.places.iter_mut().enumerate() {
            let mut found = olds.iter_mut().filter(|(_, id, taken)| !*taken && *id == Some(place.identity));
            let Some((old, _, taken)) = found.next() else { continue };
            *taken = true;
            restore_bench(&mut place.bench, old, &reading);
            restore_meter(&mut place.meter, old, &reading);
            if let (Some(entry), Some(learned)) = (self.entries.get_mut(at), &old.learned) {
                let SavedAbilities { context, vision, tools, .. } = *learned;
                let context = context.filter(|context| *context > 0);
                let told_at = reading.past(learned.at);
                entry.learned = Some((Abilities { context, vision, tools }, told_at));
            }
        }
    }
}

fn nothing() -> SavedPlace {
    SavedPlace {
        id: String::new(),
        told: None,
        guessed: None,
        steps: Vec::new(),
        warned: None,
        careful: None,
        minute: Vec::new(),
        day: Vec::new(),
        today: None,
        facts: Vec::new(),
        learned: None,
    }
}

// Read by hand: what serde derives for the same is three times as much code.

fn read_salt(salt: &Value) -> Option<[String; 2]> {
    match salt.as_array()?.as_slice() {
        [first, second] => Some([string(first)?, string(second)?]),
        _ => None,
    }
}

fn read_place(place: &Value) -> Option<SavedPlace> {
    Some(SavedPlace {
        id: string(place.get("id")?)?,
        told: optional(place, "told", read_end)?,
        guessed: optional(place, "guessed", read_end)?,
        steps: list(place, "steps", read_steps)?,
        warned: optional(place, "warned", string)?,
        careful: optional(place, "careful", read_careful)?,
        minute: list(place, "minute", read_slot)?,
        day: list(place, "day", read_slot)?,
        today: optional(place, "today", read_today)?,
        facts: list(place, "facts", read_fact)?,
        learned: optional(place, "learned", read_abilities)?,
    })
}

fn read_end(end: &Value) -> Option<SavedEnd> {
    let time = |name| end.get(name)?.as_i64();
    Some(SavedEnd { until: time("until")?, since: time("since")?, class: string(end.get("class")?)? })
}

fn read_steps(steps: &Value) -> Option<(u32, Option<i64>)> {
    match steps.as_array()?.as_slice() {
        [count, Value::Null] => Some((count_of(count)?, None)),
        [count, last] => Some((count_of(count)?, Some(last.as_i64()?))),
        _ => None,
    }
}

fn read_careful(careful: &Value) -> Option<(u32, i64, i64)> {
    match careful.as_array()?.as_slice() {
        [left, since, until] => Some((count_of(left)?, since.as_i64()?, until.as_i64()?)),
        _ => None,
    }
}

fn read_slot(slot: &Value) -> Option<(i64, u64, u64)> {
    match slot.as_array()?.as_slice() {
        [begins, requests, tokens] => Some((begins.as_i64()?, requests.as_u64()?, tokens.as_u64()?)),
        _ => None,
    }
}

fn read_today(today: &Value) -> Option<(i64, i64, u64, u64)> {
    match today.as_array()?.as_slice() {
        [began, ends, requests, tokens] => {
            Some((began.as_i64()?, ends.as_i64()?, requests.as_u64()?, tokens.as_u64()?))
        }
        _ => None,
    }
}

fn read_fact(fact: &Value) -> Option<SavedFact> {
    Some(SavedFact {
        unit: string(fact.get("unit")?)?,
        span: string(fact.get("span")?)?,
        limit: optional(fact, "limit", Value::as_u64)?,
        remaining: fact.get("remaining")?.as_u64()?,
        ends: fact.get("ends")?.as_i64()?,
    })
}

fn read_abilities(learned: &Value) -> Option<SavedAbilities> {
    Some(SavedAbilities {
        at: learned.get("at")?.as_i64()?,
        context: optional(learned, "context", Value::as_u64)?,
        vision: optional(learned, "vision", Value::as_bool)?,
        tools: optional(learned, "tools", Value::as_bool)?,
    })
}

/// `Some(None)` if there is none, `None` if it makes no sense.
fn optional<T>(object: &Value, name: &str, read: fn(&Value) -> Option<T>) -> Option<Option<T>> {
    match object.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(value) => read(value).map(Some),
    }
}

/// Empty if there is none, `None` if something in it makes no sense.
fn list<T>(object: &Value, name: &str, read: fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    match object.get(name) {
        None => Some(Vec::new()),
        Some(values) => values.as_array()?.iter().map(read).collect(),
    }
}

fn string(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn count_of(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

fn save_place(place: &Place, clock: &Clock, now: Instant) -> SavedPlace {
    let Bench { told, guessed, steps, warned, careful, .. } = &place.bench;
    let end = |end: End| SavedEnd {
        until: clock.wall(end.until),
        since: clock.wall(end.since),
        class: end.class.name().to_owned(),
    };
    let stepped = steps.iter().any(|steps| *steps != Steps::default());
    let meter = &place.meter;
    let (day, today) = match &meter.day {
        Day::Rolling(window) => (save_window(window, clock, now), None),
        Day::Turning { ends, .. } if *ends <= now => (Vec::new(), None),
        Day::Turning { began, ends, used, .. } => {
            let times = (clock.wall(*began), clock.wall(*ends));
            (Vec::new(), Some((times.0, times.1, used.requests, used.tokens)))
        }
    };
    let facts = meter.facts.iter().filter(|fact| fact.is_remembered(now)).map(|fact| SavedFact {
        unit: UNITS.iter().find(|(unit, _)| *unit == fact.unit).map_or("", |(_, name)| name).to_owned(),
        span: SPANS.iter().find(|(span, _)| *span == fact.span).map_or("", |(_, name)| name).to_owned(),
        limit: fact.limit,
        remaining: fact.left(),
        ends: clock.wall(fact.ends),
    });
    SavedPlace {
        id: format!("{:x}", place.identity),
        told: told.filter(|told| told.until > now).map(end),
        guessed: guessed.map(end),
        steps: steps
            .iter()
            .filter(|_| stepped)
            .map(|steps| (steps.count, steps.last.map(|last| clock.wall(last))))
            .collect(),
        warned: warned.map(|class| class.name().to_owned()),
        careful: careful
            .filter(|careful| careful.until > now)
            .map(|careful| (careful.left, clock.wall(careful.since), clock.wall(careful.until))),
        minute: save_window(&meter.minute, clock, now),
        day,
        today,
        facts: facts.collect(),
        learned: None,
    }
}

fn save_window(window: &Sliding, clock: &Clock, now: Instant) -> Vec<(i64, u64, u64)> {
    let at = clock.step(now, window.step);
    let slots = window.slots.iter().filter(|(number, _)| !window.is_over(*number, at));
    slots
        .map(|(number, used)| (clock.step_begins_at(*number, window.step), used.requests, used.tokens))
        .collect()
}

const UNITS: [(Unit, &str); 2] = [(Unit::Requests, "requests"), (Unit::Tokens, "tokens")];
const SPANS: [(Span, &str); 5] = [
    (Span::Minute, "minute"),
    (Span::Hour, "hour"),
    (Span::Day, "day"),
    (Span::Month, "month"),
    (Span::Unnamed, "unnamed"),
];

/// Midnight is not further away than this. In autumn a day has 25 hours.
const DAY_MAX: Duration = Duration::from_secs(25 * 3600);

/// Two clocks that were read one after the other, and rounded, differ by less.
const APART_MAX: Duration = Duration::from_millis(20);

/// How times of the file become moments.
struct Reading {
    /// The clock by which the file is read.
    clock: Clock,
    /// The one that numbers the steps of windows.
    grid: Clock,
    now: Instant,
}

impl Reading {
    /// A moment, which may be over. `None` if it is too far away to be true.
    fn until(&self, at: i64, most: Duration) -> Option<Instant> {
        self.clock.moment(at).filter(|moment| moment.saturating_duration_since(self.now) <= most)
    }

    /// A moment to come.
    fn future(&self, at: i64, most: Duration) -> Option<Instant> {
        self.until(at, most).filter(|moment| *moment > self.now)
    }

    /// A moment that is over.
    fn past(&self, at: i64) -> Instant {
        self.clock.moment(at).map_or(self.now, |moment| moment.min(self.now))
    }
}

fn restore_bench(bench: &mut Bench, saved: &SavedPlace, reading: &Reading) {
    let end = |saved: &Option<SavedEnd>, most| {
        let SavedEnd { until, since, class } = saved.as_ref()?;
        let (until, since) = (reading.until(*until, most)?, reading.past(*since));
        Some(End { until, since, class: Class::of_name(class)? })
    };
    bench.told = end(&saved.told, WAIT_MAX).filter(|told| told.until > reading.now);
    // The longest guess there is.
    bench.guessed = end(&saved.guessed, BENCH_MONTH);
    for (steps, (count, last)) in bench.steps.iter_mut().zip(saved.steps.iter().take(KINDS)) {
        *steps = Steps { count: *count, last: last.map(|last| reading.past(last)) };
    }
    bench.warned = saved.warned.as_deref().and_then(Class::of_name);
    bench.careful = saved.careful.and_then(|(left, since, until)| {
        let until = reading.future(until, WAIT_MAX + CAREFUL_TIME).filter(|_| left > 0)?;
        Some(Careful { left: left.min(CAREFUL_SUCCESSES), since: reading.past(since), until })
    });
}

fn restore_meter(meter: &mut Meter, saved: &SavedPlace, reading: &Reading) {
    restore_window(&mut meter.minute, &saved.minute, reading);
    match (&mut meter.day, saved.today) {
        (Day::Rolling(window), _) => restore_window(window, &saved.day, reading),
        (Day::Turning { began, ends, used, .. }, Some((since, until, requests, tokens))) => {
            if let Some(until) = reading.future(until, DAY_MAX) {
                (*began, *ends, *used) = (reading.past(since), until, Amount { requests, tokens });
            }
        }
        (Day::Turning { .. }, None) => {}
    }
    for fact in saved.facts.iter().filter(|fact| fact.limit != Some(0)).take(TOLD_FACTS_MAX) {
        let unit = UNITS.iter().find(|(_, name)| *name == fact.unit).map(|(unit, _)| *unit);
        let span = SPANS.iter().find(|(_, name)| *name == fact.span).map(|(span, _)| *span);
        if let (Some(unit), Some(span), Some(ends)) = (unit, span, reading.until(fact.ends, WAIT_MAX)) {
            if meter.facts.iter().any(|known| (known.unit, known.span) == (unit, span)) {
                continue;
            }
            let (limit, remaining) = (fact.limit, fact.remaining);
            let fact = Fact { unit, span, limit, remaining, ends, request: 0, since: Amount::default() };
            meter.facts.push(fact);
        }
    }
}

fn restore_window(window: &mut Sliding, saved: &[(i64, u64, u64)], reading: &Reading) {
    let now = reading.grid.step(reading.now, window.step);
    for (begins, requests, tokens) in saved {
        let Some(begins) = reading.clock.moment(*begins).filter(|begins| *begins <= reading.now) else {
            continue;
        };
        // The last step that it may be part of: they need not begin with those of the file. If all but the reading of
        // the clocks says that they do, it is the same one.
        let last = begins.checked_add(window.step.saturating_sub(APART_MAX)).unwrap_or(begins);
        let at = reading.grid.step(last.min(reading.now), window.step);
        // In order, none of the future, and none that counts no more: so there are no more than the window has steps.
        if !window.is_over(at, now) {
            window.add(Amount { requests: *requests, tokens: *tokens }, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Limits;
    use crate::provider::quota::rules;
    use crate::provider::ratelimit::Told;
    use crate::route::fit::Demand;
    use crate::route::ledger::{Member, Scopes, Spent, Standing, Ticket};
    use crate::route::quota::Shortage;
    use crate::route::verdict::{Retry, Scope, Source, Verdict, Window};
    use fastrand::Rng;
    use std::time::SystemTime;

    const SALT: Salt = [1, 2];
    const WALL: i64 = 1_795_400_000_437;
    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    fn members() -> Vec<Member> {
        let limits =
            Limits { rpm: Some(4), rpd: Some(30), tpm: Some(2000), tpd: Some(40_000), concurrency: Some(3) };
        let member = |provider: &str, key: u32, account, model: &str| {
            let scopes = Scopes::new(SALT, provider, "https://p/v1", key, account, model);
            Member { limits, rules: rules(provider), grouped: account.is_some(), ..Member::new(scopes) }
        };
        vec![
            member("gemini", 1, None, "a"),
            member("gemini", 1, None, "b"),
            member("openrouter", 1, None, "a:free"),
            member("openrouter", 1, None, "b:free"),
            member("groq", 1, Some("me"), "a"),
            member("groq", 2, Some("me"), "b"),
            // Equal in all but name.
            member("mistral", 1, None, "a"),
            member("mistral", 1, None, "a"),
            Member { limits: Limits::default(), ..member("cohere", 1, None, "a") },
        ]
    }

    /// Two clocks that agree.
    #[derive(Clone, Copy)]
    struct Time {
        base: Instant,
        ms: u64,
    }

    impl Time {
        fn now(self) -> Now {
            let since = Duration::from_millis(self.ms);
            let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(WALL as u64) + since;
            Now { mono: self.base + since, wall }
        }

        /// Whole milliseconds, as a file has them.
        fn of(self, at: Instant) -> i64 {
            match at.checked_duration_since(self.base) {
                Some(after) => after.as_millis() as i64,
                None => -(self.base.duration_since(at).as_nanos().div_ceil(1_000_000) as i64),
            }
        }
    }

    /// All that others see of one backend at some moment.
    fn view(ledger: &Ledger, backend: usize, time: Time, after: Duration) -> String {
        let at = time.now().mono + after;
        let standing = |tokens| match ledger.standing(backend, tokens, at) {
            Standing::Benched { until, known, class, since } => {
                format!("benched {} {known} {class:?} {}", time.of(until), time.of(since))
            }
            Standing::Short(Shortage::Spent { unit, span, until, source }) => {
                format!("short {unit:?} {span:?} {} {source:?}", time.of(until))
            }
            other => format!("{other:?}"),
        };
        let report = ledger.report(backend, at).unwrap();
        let windows = report.windows.iter().map(|window| {
            let resets = window.resets.map(|at| time.of(at));
            format!(
                "{:?} {:?} {:?} {:?} {resets:?} {:?}",
                window.unit, window.span, window.used, window.left, window.source
            )
        });
        let windows: Vec<String> = windows.collect();
        let (share, used) = ledger.share_left(backend, at);
        let unfit = ledger.unfit(backend, &Demand { tokens: 1500, ..Demand::default() }, at);
        format!(
            "{} | {} | {windows:?} {:?} {unfit:?} {share} {used}",
            standing(0),
            standing(900),
            report.abilities
        )
    }

    fn restored(text: &str, time: Time) -> Ledger {
        let mut ledger = Ledger::new(time.now(), members());
        ledger.restore(&Saved::parse(text).unwrap(), time.now());
        ledger
    }

    /// Two ledgers that live through the same, one of them with restarts.
    struct Pair {
        ledgers: [Ledger; 2],
        time: Time,
        rng: Rng,
        running: Vec<Ticket>,
    }

    impl Pair {
        fn assert_same(&self, after: Duration, what: &str) {
            for backend in 0..members().len() {
                let [straight, restarted] = &self.ledgers;
                let views = [straight, restarted].map(|ledger| view(ledger, backend, self.time, after));
                assert_eq!(
                    views[0], views[1],
                    "{what}: backend {backend}, {after:?} after {} ms",
                    self.time.ms
                );
            }
        }

        fn begin(&mut self) {
            let backend = self.rng.usize(..members().len());
            let tokens = self.rng.u64(0..900);
            let now = self.time.now().mono;
            let [first, second] = self.ledgers.each_mut().map(|ledger| ledger.begin(backend, tokens, now));
            assert_eq!(first.backend, second.backend);
            self.running.push(first);
            self.running.push(second);
        }

        fn end(&mut self) {
            let now = self.time.now().mono;
            let pair: Vec<Ticket> = self.running.drain(..2).collect();
            let facts: Vec<Told> = (0..self.rng.usize(..3)).map(|_| self.fact()).collect();
            let (verdict, seed) = (self.failure(), self.rng.u64(..));
            let spent =
                [Spent::Tokens(self.rng.u64(..1500)), Spent::Expected, Spent::Refused, Spent::Nothing];
            let (spent, succeeds) = (spent[self.rng.usize(..4)], self.rng.bool());
            let learned = Abilities { context: Some(self.rng.u64(1..9)), ..Abilities::default() };
            let learns = self.rng.u8(..) < 20;
            for (ledger, ticket) in self.ledgers.iter_mut().zip(pair) {
                ledger.told(ticket, &facts, now);
                if succeeds {
                    ledger.success(ticket);
                } else {
                    ledger.failure(ticket, &verdict, now, &mut Rng::with_seed(seed));
                }
                if learns {
                    ledger.learn(ticket.backend, learned, now);
                }
                ledger.end(ticket, spent);
            }
        }

        fn fact(&mut self) -> Told {
            let reset = Some(Duration::from_millis(self.rng.u64(0..90_000))).filter(|_| self.rng.bool());
            let (unit, _) = UNITS[self.rng.usize(..2)];
            let (span, _) = SPANS[self.rng.usize(..5)];
            Told {
                unit,
                span,
                limit: Some(self.rng.u64(1000..2000)),
                remaining: Some(self.rng.u64(0..1000)),
                reset,
            }
        }

        fn failure(&mut self) -> Verdict {
            let classes = [
                Class::RateLimited,
                Class::QuotaDone(Window::Day),
                Class::QuotaDone(Window::Credit),
                Class::KeyBad,
                Class::Down,
                Class::Forbidden,
                Class::BadRequest,
            ];
            let class = classes[self.rng.usize(..classes.len())];
            let scopes = [Scope::Backend, Scope::Key, Scope::Account, Scope::Provider];
            let scope = if class == Class::BadRequest { Scope::Request } else { scopes[self.rng.usize(..4)] };
            let until = self.time.now().mono + Duration::from_millis(self.rng.u64(1..100_000));
            let told = matches!(class, Class::RateLimited | Class::QuotaDone(_)) && self.rng.bool();
            let retry = told.then_some(Retry { until, source: Source::Told });
            Verdict { class, scope, status: None, retry, message: "".into(), quotes: false }
        }
    }

    #[test]
    fn a_restart_at_any_moment_changes_nothing() {
        for seed in 0..4 {
            let time = Time { base: Instant::now(), ms: 0 };
            let ledgers = [0, 1].map(|_| Ledger::new(time.now(), members()));
            let mut pair = Pair { ledgers, time, rng: Rng::with_seed(seed), running: Vec::new() };
            let mut restarts = 0;
            for _ in 0..250 {
                let longest = [2, 3_000, 30_000, 5 * 3_600_000][pair.rng.usize(..4)];
                pair.time.ms += pair.rng.u64(1..longest);
                pair.ledgers.iter_mut().for_each(|ledger| ledger.set_clock(pair.time.now()));
                if pair.running.len() >= 8 || (!pair.running.is_empty() && pair.rng.bool()) {
                    pair.end();
                } else {
                    pair.begin();
                }
                pair.assert_same(Duration::ZERO, "as it goes");
                if pair.running.is_empty() {
                    restarts += 1;
                    let saved = pair.ledgers[1].save(SALT, pair.time.now());
                    let text = saved.to_text();
                    pair.time.ms += pair.rng.u64(0..5_000);
                    pair.ledgers[1] = restored(&text, pair.time);
                    for after in [0, 1, 1000, 59_000, 61_000, 1_000_000, 50_000_000, 90_000_000] {
                        pair.assert_same(Duration::from_millis(after), "after a restart");
                    }
                    let again = pair.ledgers[1].save(SALT, pair.time.now());
                    let twice = restored(&again.to_text(), pair.time).save(SALT, pair.time.now());
                    assert_eq!(again, twice, "what was restored is saved as it is");
                }
            }
            assert!(restarts > 10, "only {restarts} restarts");
        }
    }

    #[test]
    fn texts_that_are_no_saved_ledger() {
        let good = Ledger::new(Time { base: Instant::now(), ms: 0 }.now(), members());
        let good = good.save(SALT, Time { base: Instant::now(), ms: 0 }.now()).to_text();
        assert!(Saved::parse(&good).is_ok());
        for cut in 0..good.len() {
            assert!(matches!(Saved::parse(&good[..cut]), Err(Unreadable::Damaged(_))), "cut at {cut}");
        }
        let damaged = [
            "null",
            "[]",
            "{}",
            "1",
            r#"{"version":-1}"#,
            r#"{"version":"1"}"#,
            r#"{"version":1}"#,
            r#"{"version":1,"saved":0,"salt":["1"],"places":[]}"#,
            r#"{"version":1,"saved":0,"salt":["1","2"],"places":[{}]}"#,
            r#"{"version":1,"saved":0,"salt":["1","2"],"places":[{"id":"1","minute":[[0,-1,0]]}]}"#,
            r#"{"version":1,"saved":99999999999999999999,"salt":["1","2"],"places":[]}"#,
        ];
        for text in damaged {
            assert!(matches!(Saved::parse(text), Err(Unreadable::Damaged(_))), "{text}");
        }
        let of_later = r#"{"version":2,"places":"quite different"}"#;
        assert_eq!(Saved::parse(of_later), Err(Unreadable::Version(2)));
        assert!(Saved::parse(of_later).unwrap_err().to_string().contains("version 2"));
        let salted = |salt: &str| {
            Saved::parse(&format!(r#"{{"version":1,"saved":0,"salt":[{salt}],"places":[]}}"#)).unwrap().salt()
        };
        assert_eq!(salted(r#""ff","0""#), Some([255, 0]));
        assert_eq!((salted(r#""","0""#), salted(r#""-1","0""#)), (None, None));
    }

    #[test]
    fn nonsense_values_are_as_if_they_had_never_been() {
        let time = Time { base: Instant::now(), ms: 0 };
        let id = members()[8].scopes.backend;
        let limited = members()[0].scopes.backend;
        let day = 24 * 3_600_000;
        let far = WALL + 33 * day;
        let end =
            |until: i64, class: &str| format!(r#"{{"until":{until},"since":{WALL},"class":"{class}"}}"#);
        let fact = |unit: &str, limit: &str, ends: i64| {
            format!(r#"{{"unit":"{unit}","span":"minute",{limit}"remaining":0,"ends":{ends}}}"#)
        };
        let (soon, short) = (WALL + 1000, "short Tokens Minute 1000 Told");
        for (id, fields, expected) in [
            (id, format!(r#""told":{}"#, end(soon, "rate_limited")), "benched 1000 true RateLimited 0"),
            (id, format!(r#""told":{}"#, end(soon, "of_the_future")), "Open"),
            (id, format!(r#""told":{}"#, end(far, "rate_limited")), "Open"),
            (id, format!(r#""told":{}"#, end(i64::MAX, "rate_limited")), "Open"),
            (id, format!(r#""told":{}"#, end(i64::MIN, "rate_limited")), "Open"),
            (id, format!(r#""guessed":{}"#, end(WALL + 25 * 3_600_000, "down")), "Open"),
            (id, format!(r#""guessed":{}"#, end(WALL, "down")), "HalfOpen"),
            (id, format!(r#""guessed":{}"#, end(-5, "down")), "HalfOpen"),
            (id, format!(r#""steps":[[4294967295,{far}],[1,null],[1,1],[1,1],[1,1],[9,9]]"#), "Open"),
            (id, r#""warned":"nobody","unheard_of":[1]"#.to_owned(), "Open"),
            (id, format!(r#""facts":[{}]"#, fact("tokens", "", soon)), "Open"),
            (limited, format!(r#""facts":[{}]"#, fact("tokens", "", soon)), "Open"),
            (limited, format!(r#""facts":[{}]"#, fact("tokens", r#""limit":0,"#, soon)), "Open"),
            (limited, format!(r#""facts":[{}]"#, fact("tokens", r#""limit":1,"#, far)), "Open"),
            (limited, format!(r#""facts":[{}]"#, fact("bananas", "", soon)), "Open"),
            (limited, format!(r#""minute":[[{far},9,9],[{},9,9],[{},9,9]]"#, i64::MIN, i64::MAX), "Open"),
            (limited, format!(r#""today":[{},{},99,99]"#, i64::MIN, WALL + 26 * 3_600_000), "Open"),
            (limited, format!(r#""today":[{far},{},99,99]"#, WALL - 1), "Open"),
            (limited, format!(r#""today":[{far},{soon},99,99]"#), "short Requests Day 1000 Counted"),
            (limited, format!(r#""day":[[{WALL},99,99]]"#), "Open"),
            (id, r#""learned":{"at":99999999999999,"context":0}"#.to_owned(), "Open"),
        ] {
            let places = format!(r#"{{"id":"{id:x}",{fields}}}"#);
            let text = format!(r#"{{"version":1,"saved":{WALL},"salt":["1","2"],"places":[{places}]}}"#);
            let ledger = restored(&text, time);
            let backend = usize::from(id != limited) * 8;
            let seen = view(&ledger, backend, time, Duration::ZERO);
            assert!(seen.starts_with(expected), "{fields}: {seen}");
            assert!(ledger.context(backend, time.now().mono).is_none(), "{fields}");
            let later = view(&ledger, backend, time, 33 * 24 * HOUR);
            assert!(later.starts_with("Open") || later.starts_with("HalfOpen"), "{fields}: {later}");
        }
        // Twice the same window: the first counts.
        let twice = format!("{},{}", fact("tokens", "", soon), fact("tokens", "", WALL + 9000));
        let text = format!(
            r#"{{"version":1,"saved":{WALL},"salt":["1","2"],"places":[{{"id":"{limited:x}","facts":[{twice}]}}]}}"#
        );
        assert!(view(&restored(&text, time), 0, time, Duration::ZERO).contains(short));
    }

    #[test]
    fn huge_amounts_keep_nobody_out_for_longer_than_their_window() {
        let time = Time { base: Instant::now(), ms: 0 };
        let id = members()[0].scopes.backend;
        let slot = format!("[{WALL},{max},{max}]", max = u64::MAX);
        let slots = vec![slot; 1000].join(",");
        let text = format!(
            r#"{{"version":1,"saved":{WALL},"salt":["1","2"],"places":[{{"id":"{id:x}","minute":[{slots}]}}]}}"#
        );
        let mut ledger = restored(&text, time);
        let now = time.now().mono;
        assert!(matches!(ledger.standing(0, 1, now), Standing::Short(_)));
        assert_eq!(ledger.standing(0, 1, now + 62 * SECOND), Standing::Open);
        let ticket = ledger.begin(0, u64::MAX, now);
        ledger.end(ticket, Spent::Tokens(u64::MAX));
        assert!(ledger.save(SALT, time.now()).to_text().len() < 10_000);
    }

    #[test]
    fn clocks_that_are_read_a_moment_apart_move_no_window() {
        let (base, wall) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_millis(WALL as u64));
        let at = |mono: u64, wall_us: u64| Now {
            mono: base + Duration::from_micros(mono),
            wall: wall + Duration::from_micros(wall_us),
        };
        for apart in [0, 400, 900, 1600, 15_000] {
            let mut ledger = Ledger::new(at(0, apart), members());
            let ticket = ledger.begin(0, 10, base);
            ledger.end(ticket, Spent::Tokens(5));
            let saved = ledger.save(SALT, at(1700, 1700));
            for (mono, wall) in
                [(600_000, 600_000), (1_200_300, 1_200_000 + apart), (2_000_000 + apart, 2_000_100)]
            {
                let mut again = Ledger::new(at(mono, wall), members());
                let later = at(mono + 300, wall + apart);
                again.restore(&saved, later);
                let places = again.save(SALT, later).places;
                assert_eq!(
                    (&places[0].minute, &places[0].day),
                    (&saved.places[0].minute, &saved.places[0].day),
                    "{apart} {mono}"
                );
            }
        }
    }

    #[test]
    fn equal_backends_keep_their_own_and_strangers_leave_nothing() {
        let mut time = Time { base: Instant::now(), ms: 0 };
        let mut ledger = Ledger::new(time.now(), members());
        for _ in 0..3 {
            let ticket = ledger.begin(7, 0, time.now().mono);
            ledger.end(ticket, Spent::Tokens(1));
        }
        let mut saved = ledger.save(SALT, time.now());
        let copy = || SavedPlace { id: format!("{:x}", members()[6].scopes.backend), ..nothing() };
        saved.places.push(copy());
        saved.places.push(SavedPlace { id: "not a number".into(), ..nothing() });
        time.ms += 1;
        let ledger = restored(&saved.to_text(), time);
        let used = |backend| ledger.report(backend, time.now().mono).unwrap().windows[0].used;
        assert_eq!((used(6), used(7)), (Some(0), Some(3)));
        let places = ledger.save(SALT, time.now()).places.len();
        assert!(places <= ledger.places.len(), "{places}");
    }

    #[test]
    fn a_board_that_begins_in_1970_takes_the_time_of_the_file() {
        let time = Time { base: Instant::now(), ms: 0 };
        let mut ledger = Ledger::new(time.now(), members());
        let ticket = ledger.begin(0, 10, time.now().mono);
        let retry = Some(Retry { until: time.now().mono + HOUR, source: Source::Told });
        let class = Class::RateLimited;
        let verdict =
            Verdict { class, scope: Scope::Backend, status: None, retry, message: "".into(), quotes: false };
        ledger.failure(ticket, &verdict, time.now().mono, &mut Rng::with_seed(1));
        ledger.end(ticket, Spent::Expected);
        let saved = ledger.save(SALT, time.now());

        let boot = Now { mono: time.base + 9000 * SECOND, wall: SystemTime::UNIX_EPOCH + 40 * SECOND };
        let mut ledger = Ledger::new(boot, members());
        ledger.restore(&saved, boot);
        let left = |ledger: &Ledger| match ledger.standing(0, 0, boot.mono) {
            Standing::Benched { until, .. } => until - boot.mono,
            other => panic!("{other:?}"),
        };
        assert_eq!(left(&ledger), HOUR);
        // Its clock is set later. What it then saves has the right times.
        let set = Now { wall: time.now().wall + HOUR / 2, ..boot };
        let saved = ledger.save(SALT, set);
        let mut again = Ledger::new(set, members());
        again.restore(&saved, set);
        assert_eq!(left(&again), HOUR);
        ledger.set_clock(set);
        assert_eq!(left(&ledger), HOUR, "no moment is moved by the wall clock");
    }
}
