//! The ledger as a text that outlives the program: one JSON object with a version, absolute times, and no secret in
//! it. What it does not say, and what makes no sense, is as if it had never been.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::limits::TOLD_FACTS_MAX;
use crate::provider::ratelimit::{Span, Unit, WAIT_MAX, unix_ms};
use crate::route::Now;
use crate::route::bench::{Bench, End, KINDS, Steps};
use crate::route::fit::Abilities;
use crate::route::ledger::{Ledger, Place, Salt};
use crate::route::quota::{Amount, Clock, Day, Fact, Meter, Sliding};
use crate::route::verdict::Class;

/// The only version there is.
const VERSION: u64 = 1;

/// A ledger, saved. All times are milliseconds since 1970.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
pub struct Saved {
    version: u64,
    /// When.
    saved: i64,
    /// What the identities are hashed with, in hexadecimal.
    salt: [String; 2],
    places: Vec<SavedPlace>,
}

/// What is known of a backend, key, account or provider.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct SavedPlace {
    /// In hexadecimal. Equal backends have equal ones, in the order of the config.
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told: Option<SavedEnd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    guessed: Option<SavedEnd>,
    /// Number of failures in a row and the time of the last one, by kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    steps: Vec<(u32, Option<i64>)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warned: Option<String>,
    /// Beginning of the second, requests, tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    minute: Vec<(i64, u64, u64)>,
    /// The same by quarters of an hour, where the day slides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    day: Vec<(i64, u64, u64)>,
    /// Beginning and end of the day, requests, tokens, where it ends at some midnight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    today: Option<(i64, i64, u64, u64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    facts: Vec<SavedFact>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    learned: Option<SavedAbilities>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct SavedEnd {
    until: i64,
    since: i64,
    class: String,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct SavedFact {
    unit: String,
    span: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    remaining: u64,
    ends: i64,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct SavedAbilities {
    at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    context: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vision: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        let damaged = |e: serde_json::Error| Unreadable::Damaged(e.to_string());
        let Version { version } = serde_json::from_str(text).map_err(damaged)?;
        if version != VERSION {
            return Err(Unreadable::Version(version));
        }
        serde_json::from_str(text).map_err(damaged)
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
        let places = self.places.iter().enumerate().filter_map(|(at, place)| {
            let mut saved = save_place(place, self.clock(), now.mono);
            if let Some((learned, told_at)) =
                self.entries.get(at).filter(|_| at < own).and_then(|e| e.learned)
            {
                let Abilities { context, vision, tools } = learned;
                saved.learned =
                    Some(SavedAbilities { at: self.clock().wall(told_at), context, vision, tools });
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
        let mut taken = vec![false; saved.places.len()];
        for (at, place) in self.places.iter_mut().enumerate() {
            let is_it = |id: &str| u64::from_str_radix(id, 16) == Ok(place.identity);
            let mut found =
                saved.places.iter().zip(&mut taken).filter(|(old, taken)| !**taken && is_it(&old.id));
            let Some((old, taken)) = found.next() else { continue };
            *taken = true;
            restore_bench(&mut place.bench, old, &reading);
            restore_meter(&mut place.meter, old, &reading);
            if let (Some(entry), Some(learned)) = (self.entries.get_mut(at), &old.learned) {
                let SavedAbilities { context, vision, tools, .. } = *learned;
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
        minute: Vec::new(),
        day: Vec::new(),
        today: None,
        facts: Vec::new(),
        learned: None,
    }
}

fn save_place(place: &Place, clock: &Clock, now: Instant) -> SavedPlace {
    let Bench { told, guessed, steps, warned, .. } = &place.bench;
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
    let facts = meter.facts.iter().filter(|fact| fact.ends > now).map(|fact| SavedFact {
        unit: UNITS.iter().find(|(unit, _)| *unit == fact.unit).map_or("", |(_, name)| name).to_owned(),
        span: SPANS.iter().find(|(span, _)| *span == fact.span).map_or("", |(_, name)| name).to_owned(),
        limit: fact.limit,
        remaining: fact.left(meter.total),
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

/// How times of the file become moments.
struct Reading {
    /// The clock by which the file is read.
    clock: Clock,
    /// The one that numbers the steps of windows.
    grid: Clock,
    now: Instant,
}

impl Reading {
    /// A moment to come; `None` if it is over, or too far to be true.
    fn future(&self, at: i64) -> Option<Instant> {
        let moment = self.clock.moment(at).filter(|moment| *moment > self.now)?;
        (moment.duration_since(self.now) <= WAIT_MAX).then_some(moment)
    }

    /// A moment that is over.
    fn past(&self, at: i64) -> Instant {
        self.clock.moment(at).map_or(self.now, |moment| moment.min(self.now))
    }
}

fn restore_bench(bench: &mut Bench, saved: &SavedPlace, reading: &Reading) {
    let end = |saved: &Option<SavedEnd>| {
        let saved = saved.as_ref()?;
        let until = reading.future(saved.until);
        let until = until.or_else(|| Some(reading.past(saved.until)).filter(|past| *past < reading.now));
        Some(End { until: until?, since: reading.past(saved.since), class: Class::of_name(&saved.class)? })
    };
    bench.told = end(&saved.told).filter(|told| told.until > reading.now);
    bench.guessed = end(&saved.guessed);
    for (steps, (count, last)) in bench.steps.iter_mut().zip(saved.steps.iter().take(KINDS)) {
        *steps = Steps { count: *count, last: last.map(|last| reading.past(last)) };
    }
    bench.warned = saved.warned.as_deref().and_then(Class::of_name);
}

fn restore_meter(meter: &mut Meter, saved: &SavedPlace, reading: &Reading) {
    restore_window(&mut meter.minute, &saved.minute, reading);
    match (&mut meter.day, saved.today) {
        (Day::Rolling(window), _) => restore_window(window, &saved.day, reading),
        (Day::Turning { began, ends, used, .. }, Some((since, until, requests, tokens))) => {
            // Midnight is at most a day away, whatever the file says.
            let until =
                reading.future(until).filter(|until| *until - reading.now <= Duration::from_secs(25 * 3600));
            if let Some(until) = until {
                (*began, *ends, *used) = (reading.past(since), until, Amount { requests, tokens });
            }
        }
        (Day::Turning { .. }, None) => {}
    }
    for fact in saved.facts.iter().take(TOLD_FACTS_MAX) {
        let unit = UNITS.iter().find(|(_, name)| *name == fact.unit).map(|(unit, _)| *unit);
        let span = SPANS.iter().find(|(_, name)| *name == fact.span).map(|(span, _)| *span);
        if let (Some(unit), Some(span), Some(ends)) = (unit, span, reading.future(fact.ends)) {
            let (limit, remaining) = (fact.limit, fact.remaining);
            let fact = Fact { unit, span, limit, remaining, ends, began: reading.now, base: meter.total };
            meter.facts.push(fact);
        }
    }
}

fn restore_window(window: &mut Sliding, saved: &[(i64, u64, u64)], reading: &Reading) {
    let now = reading.grid.step(reading.now, window.step);
    for (begins, requests, tokens) in saved {
        let Some(begins) = reading.clock.moment(*begins) else { continue };
        let at = reading.grid.step(begins, window.step);
        // In order, none of the future, and none that counts no more: so there are no more than the window has steps.
        if at <= now && !window.is_over(at, now) {
            window.add(Amount { requests: *requests, tokens: *tokens }, at);
        }
    }
}
