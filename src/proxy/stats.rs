//! What the program counts: requests, attempts, tokens, times. Every label is a name of the config or a word of the
//! program: a client cannot make a series. Knows no key, no URL and no text of a provider; writes nothing itself.

use crate::dialect::ask::Dialect;
use crate::dialect::chat::Usage;
use crate::route::verdict::{Class, Verdict};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The label of what no backend can be named for.
pub const NOBODY: &str = "-";

/// The counters of one configuration. Those of the same backends go on after a reload.
pub struct Stats {
    all: Arc<All>,
    /// In the order of the config.
    backends: Vec<Arc<Series>>,
}

/// What does not depend on the configuration.
struct All {
    began: Instant,
    began_at: SystemTime,
    in_flight: AtomicUsize,
    nobody: Arc<Series>,
    totals: Mutex<Totals>,
}

/// The counters of one backend.
pub struct Series {
    /// The backend's name. The second one of the same name is `NAME#2`, and so on.
    pub label: String,
    counts: Mutex<Counts>,
}

/// What was counted for one backend.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Requests by dialect and outcome.
    pub requests: BTreeMap<(&'static str, &'static str), u64>,
    /// Attempts by outcome: `ok`, the class of the failure, or `abandoned`.
    pub attempts: BTreeMap<&'static str, u64>,
    /// Tokens of requests, as far as they were told.
    pub input_tokens: u64,
    /// Tokens of answers, as far as they were told.
    pub output_tokens: u64,
    /// From the beginning of an attempt to the first content of a stream.
    pub streams: Times,
    /// From the beginning of an attempt to the end of a whole answer.
    pub wholes: Times,
    /// The last failure, be it of an attempt or of an answer that broke off.
    pub last_error: Option<LastError>,
    /// When an attempt last brought content.
    pub last_success: Option<Instant>,
}

/// A failure, without anything the provider said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastError {
    /// What it meant.
    pub class: Class,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// When it was noted.
    pub at: Instant,
}

/// Upper ends of the classes of [`Times`]; above the last there is one more.
pub const BUCKETS: [Duration; 9] = [
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// A histogram of durations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// How many fell into each class of [`BUCKETS`], not those below it.
    pub buckets: [u64; BUCKETS.len()],
    /// How many there were.
    pub count: u64,
    /// All together.
    pub sum: Duration,
    /// The mean, in which the last ones count most; `None` before the first.
    pub mean: Option<Duration>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer.
    Ok,
    /// With an answer that says nothing, as no backend had a better one.
    Empty,
    /// With an error after the first content.
    BrokeOff,
    /// The client went away before the end.
    ClientLeft,
    /// The request was at fault, as we or the providers found.
    ClientError,
    /// Nobody had an answer.
    Failed,
}

impl Outcome {
    /// Its name as a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Empty => "empty",
            Self::BrokeOff => "broke_off",
            Self::ClientLeft => "client_left",
            Self::ClientError => "client_error",
            Self::Failed => "failed",
        }
    }
}

/// What all backends together have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests that have ended.
    pub requests: u64,
    /// Those with an answer.
    pub ok: u64,
    /// Calls of backends.
    pub attempts: u64,
    /// Tokens of requests, as far as they were told.
    pub input_tokens: u64,
    /// Tokens of answers, as far as they were told.
    pub output_tokens: u64,
}

impl Totals {
    /// What has come on top of `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            ok: self.ok.saturating_sub(before.ok),
            attempts: self.attempts.saturating_sub(before.attempts),
            input_tokens: self.input_tokens.saturating_sub(before.input_tokens),
            output_tokens: self.output_tokens.saturating_sub(before.output_tokens),
        }
    }
}

/// A line about the time since the last one; `None` if nothing has happened. `rest` of the `backends` are benched.
pub fn summary(done: Totals, rest: usize, backends: usize) -> Option<String> {
    if done.requests == 0 && done.attempts == 0 {
        return None;
    }
    let Totals { requests, ok, attempts, input_tokens, output_tokens } = done;
    // Per mille in integers, rounded down: 100 % is said only of all.
    let share = u128::from(ok) * 1000 / u128::from(requests.max(1));
    Some(format!(
        "last hour: requests={requests} ok={}.{}% attempts={attempts} tokens={input_tokens}+{output_tokens} \
         resting={rest}/{backends}",
        share / 10,
        share % 10
    ))
}

impl Stats {
    /// Counters for backends of these names. Those that `previous` has go on.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>, previous: Option<&Self>) -> Self {
        let labels = labels(names);
        let Some(previous) = previous else {
            let backends = labels.into_iter().map(Series::new).collect();
            return Self { all: Arc::new(All::new()), backends };
        };
        let known: HashMap<&str, &Arc<Series>> =
            previous.backends.iter().map(|series| (series.label.as_str(), series)).collect();
        let backends = labels
            .into_iter()
            .map(|label| {
                known.get(label.as_str()).map_or_else(|| Series::new(label), |same| Arc::clone(same))
            })
            .collect();
        Self { all: Arc::clone(&previous.all), backends }
    }

    /// When the program began to count.
    pub fn began(&self) -> (Instant, SystemTime) {
        (self.all.began, self.all.began_at)
    }

    /// Requests that run now.
    pub fn in_flight(&self) -> usize {
        self.all.in_flight.load(Ordering::Relaxed)
    }

    /// What was counted in all.
    pub fn totals(&self) -> Totals {
        *lock(&self.all.totals)
    }

    /// The counters of one backend, by its place in the config.
    pub fn backend(&self, backend: usize) -> Option<&Series> {
        self.backends.get(backend).map(|series| &**series)
    }

    /// All series: the backends in the order of the config, and [`NOBODY`].
    pub fn series(&self) -> impl Iterator<Item = &Series> {
        self.backends.iter().chain([&self.all.nobody]).map(|series| &**series)
    }

    /// A request has come. It counts when what this gives is dropped.
    pub fn request(&self, dialect: Dialect) -> RequestCount<'_> {
        self.all.in_flight.fetch_add(1, Ordering::Relaxed);
        RequestCount {
            stats: self,
            dialect,
            backend: None,
            outcome: Outcome::ClientLeft,
            usage: Usage::default(),
        }
    }

    /// A backend is called. It counts when what this gives is used or dropped.
    pub fn attempt(&self, backend: usize, stream: bool) -> AttemptCount<'_> {
        AttemptCount { stats: self, backend, stream, began: Instant::now(), outcome: ABANDONED }
    }

    /// Something has gone wrong with a backend.
    pub fn failed(&self, backend: usize, verdict: &Verdict, now: Instant) {
        if let Some(series) = self.backends.get(backend) {
            let error = LastError { class: verdict.class, status: verdict.status, at: now };
            lock(&series.counts).last_error = Some(error);
        }
    }
}

/// Each name once: a further one of the same name gets a number.
fn labels<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let names: Vec<&str> = names.collect();
    // A name is not given to another, whoever comes first.
    let mut taken: HashSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    taken.insert(NOBODY.to_owned());
    let mut numbers: HashMap<&str, u32> = HashMap::from([(NOBODY, 1)]);
    let mut labels = Vec::with_capacity(names.len());
    for name in names {
        let number = numbers.entry(name).or_default();
        *number += 1;
        let mut label = name.to_owned();
        if *number > 1 {
            label = format!("{name}#{number}");
            while !taken.insert(label.clone()) {
                *number += 1;
                label = format!("{name}#{number}");
            }
        }
        labels.push(label);
    }
    labels
}

impl All {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            began_at: SystemTime::now(),
            in_flight: AtomicUsize::new(0),
            nobody: Series::new(NOBODY.to_owned()),
            totals: Mutex::default(),
        }
    }
}

impl Series {
    fn new(label: String) -> Arc<Self> {
        Arc::new(Self { label, counts: Mutex::default() })
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        lock(&self.counts).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counters cannot be left half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request. If nobody says how it ended, the client has left.
pub struct RequestCount<'a> {
    stats: &'a Stats,
    dialect: Dialect,
    backend: Option<usize>,
    outcome: Outcome,
    usage: Usage,
}

impl RequestCount<'_> {
    /// This backend has an answer.
    pub fn answered_by(&mut self, backend: usize) {
        self.backend = Some(backend);
    }

    /// It has ended so.
    pub fn ended(&mut self, outcome: Outcome, usage: Option<Usage>) {
        self.outcome = outcome;
        self.usage = usage.unwrap_or_default();
    }
}

impl Drop for RequestCount<'_> {
    fn drop(&mut self) {
        let all = &self.stats.all;
        all.in_flight.fetch_sub(1, Ordering::Relaxed);
        let input = self.usage.prompt_tokens.unwrap_or(0);
        let output = self.usage.completion_tokens.unwrap_or(0);
        {
            let series = self.backend.and_then(|backend| self.stats.backends.get(backend));
            let mut counts = lock(&series.unwrap_or(&all.nobody).counts);
            *counts.requests.entry((self.dialect.name(), self.outcome.name())).or_default() += 1;
            // A provider may name any number.
            counts.input_tokens = counts.input_tokens.saturating_add(input);
            counts.output_tokens = counts.output_tokens.saturating_add(output);
        }
        let mut totals = lock(&all.totals);
        totals.requests += 1;
        totals.ok += u64::from(self.outcome == Outcome::Ok);
        totals.input_tokens = totals.input_tokens.saturating_add(input);
        totals.output_tokens = totals.output_tokens.saturating_add(output);
    }
}

const OK: &str = "ok";
const ABANDONED: &str = "abandoned";

/// One call of a backend. Dropped without a result, it was abandoned: the client has left.
pub struct AttemptCount<'a> {
    stats: &'a Stats,
    backend: usize,
    stream: bool,
    began: Instant,
    outcome: &'static str,
}

impl AttemptCount<'_> {
    /// The first content of a stream, or a whole answer, has come.
    pub fn answered(mut self) {
        self.outcome = OK;
    }

    /// It brought nothing.
    pub fn failed(mut self, class: Class) {
        self.outcome = class.name();
    }
}

impl Drop for AttemptCount<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        if let Some(series) = self.stats.backends.get(self.backend) {
            let mut counts = lock(&series.counts);
            *counts.attempts.entry(self.outcome).or_default() += 1;
            if self.outcome == OK {
                counts.last_success = Some(now);
                let times = if self.stream { &mut counts.streams } else { &mut counts.wholes };
                times.add(now.saturating_duration_since(self.began));
            }
        }
        lock(&self.stats.all.totals).attempts += 1;
    }
}

/// The newest time makes up one part in this many of a mean.
const MEAN_OF: u32 = 5;

impl Times {
    fn add(&mut self, time: Duration) {
        let class = BUCKETS.iter().position(|end| time <= *end);
        if let Some(bucket) = class.and_then(|class| self.buckets.get_mut(class)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(time);
        let mean = self.mean.unwrap_or(time);
        self.mean = Some(mean.saturating_mul(MEAN_OF - 1).saturating_add(time) / MEAN_OF);
    }

    /// Upper end in seconds and how many were not above it, for each class but the last.
    pub fn up_to(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut below = 0;
        BUCKETS.iter().zip(self.buckets).map(move |(end, count)| {
            below += count;
            (end.as_secs_f64(), below)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::verdict::{Scope, Window};

    fn stats(names: &[&str]) -> Stats {
        Stats::new(names.iter().copied(), None)
    }

    fn labels_of(stats: &Stats) -> Vec<&str> {
        stats.series().map(|series| series.label.as_str()).collect()
    }

    #[test]
    fn each_backend_has_a_label_of_its_own() {
        for (names, expected) in [
            (&["a", "b"][..], &["a", "b", "-"][..]),
            (&["a", "a", "b", "a"], &["a", "a#2", "b", "a#3", "-"]),
            (&["a", "a", "a#2", "a#2"], &["a", "a#3", "a#2", "a#2#2", "-"]),
            (&["-", "-"], &["-#2", "-#3", "-"]),
            (&["", ""], &["", "#2", "-"]),
            (&[], &["-"]),
        ] {
            assert_eq!(labels_of(&stats(names)), expected);
        }
    }

    #[test]
    fn a_request_counts_once_and_for_whom_it_was_answered() {
        let stats = stats(&["a", "b"]);
        let usage = |prompt, completion| Some(Usage { prompt_tokens: prompt, completion_tokens: completion });
        let mut request = stats.request(Dialect::Chat);
        let left = stats.request(Dialect::Messages);
        assert_eq!(stats.in_flight(), 2);
        request.answered_by(1);
        request.ended(Outcome::Ok, usage(Some(3), Some(u64::MAX)));
        drop(request);
        drop(left);
        assert_eq!(stats.in_flight(), 0);
        let mut again = stats.request(Dialect::Chat);
        again.answered_by(1);
        again.ended(Outcome::Ok, usage(None, Some(1)));
        drop(again);
        let counts: Vec<Counts> = stats.series().map(Series::counts).collect();
        assert_eq!(counts[0].requests.len(), 0);
        assert_eq!(counts[1].requests, BTreeMap::from([(("chat", "ok"), 2)]));
        assert_eq!((counts[1].input_tokens, counts[1].output_tokens), (3, u64::MAX), "no overflow");
        assert_eq!(counts[2].requests, BTreeMap::from([(("messages", "client_left"), 1)]));
        let totals = stats.totals();
        assert_eq!((totals.requests, totals.ok, totals.attempts), (3, 2, 0));
    }

    #[test]
    fn an_attempt_counts_by_what_became_of_it() {
        let stats = stats(&["a"]);
        stats.attempt(0, true).answered();
        stats.attempt(0, false).failed(Class::QuotaDone(Window::Day));
        drop(stats.attempt(0, false));
        let counts = stats.backend(0).unwrap().counts();
        assert_eq!(counts.attempts, BTreeMap::from([("ok", 1), ("quota_day", 1), ("abandoned", 1)]));
        assert_eq!((counts.streams.count, counts.wholes.count), (1, 0));
        assert!(counts.last_success.is_some() && counts.last_error.is_none());
        assert_eq!(stats.totals().attempts, 3);
        // A backend that is not there, as after a defect, is nobody's panic.
        stats.attempt(7, true).answered();
    }

    #[test]
    fn a_reload_goes_on_counting_for_the_same_names() {
        let old = stats(&["a", "b", "b"]);
        let running = old.request(Dialect::Chat);
        old.attempt(2, true).answered();
        let new = Stats::new(["b", "b", "c"].into_iter(), Some(&old));
        assert_eq!(labels_of(&new), ["b", "b#2", "c", "-"]);
        assert_eq!(new.backend(1).unwrap().counts().attempts, BTreeMap::from([("ok", 1)]));
        assert_eq!((new.in_flight(), new.began()), (1, old.began()));
        // What began under the old configuration still counts, in both.
        old.attempt(1, true).answered();
        drop(running);
        assert_eq!(new.backend(0).unwrap().counts().attempts, BTreeMap::from([("ok", 1)]));
        assert_eq!((new.in_flight(), new.totals().requests, new.totals().attempts), (0, 1, 2));
    }

    #[test]
    fn the_last_error_keeps_no_words() {
        let stats = stats(&["a"]);
        let verdict = Verdict {
            class: Class::KeyBad,
            scope: Scope::Key,
            status: Some(401),
            retry: None,
            message: "said".into(),
            quotes: true,
        };
        let now = Instant::now();
        stats.failed(0, &verdict, now);
        let expected = LastError { class: Class::KeyBad, status: Some(401), at: now };
        assert_eq!(stats.backend(0).unwrap().counts().last_error, Some(expected));
    }

    #[test]
    fn times_fall_into_their_class() {
        let ms = Duration::from_millis;
        let mut times = Times::default();
        for time in [ms(0), ms(100), ms(101), ms(60_000), ms(60_001), Duration::MAX] {
            times.add(time);
        }
        let up_to: Vec<(f64, u64)> = times.up_to().collect();
        assert_eq!((up_to[0], up_to[1], up_to[8]), ((0.1, 2), (0.25, 3), (60.0, 4)));
        assert_eq!((times.count, times.sum), (6, Duration::MAX));
    }

    #[test]
    fn the_mean_follows_the_last_times() {
        let mut times = Times::default();
        let second = Duration::from_secs(1);
        times.add(second);
        assert_eq!(times.mean, Some(second));
        times.add(second * 6);
        assert_eq!(times.mean, Some(second * 2));
        (0..40).for_each(|_| times.add(second * 9));
        assert!(times.mean.is_some_and(|mean| mean > second * 8 && mean <= second * 9), "{:?}", times.mean);
    }

    #[test]
    fn the_summary_is_silent_about_nothing() {
        let done =
            |requests, ok, attempts| Totals { requests, ok, attempts, input_tokens: 7, output_tokens: 8 };
        for (done, expected) in [
            (done(0, 0, 0), None),
            (done(0, 0, 1), Some("requests=0 ok=0.0% attempts=1 tokens=7+8 resting=1/3")),
            (done(1, 1, 1), Some("requests=1 ok=100.0% attempts=1 tokens=7+8 resting=1/3")),
            (
                done(10_000, 9_999, 12_000),
                Some("requests=10000 ok=99.9% attempts=12000 tokens=7+8 resting=1/3"),
            ),
            (done(u64::MAX, u64::MAX, 1), Some("ok=100.0%")),
        ] {
            let line = summary(done, 1, 3);
            match expected {
                None => assert_eq!(line, None),
                Some(expected) => assert!(line.as_ref().is_some_and(|l| l.contains(expected)), "{line:?}"),
            }
        }
        let (before, after) = (done(2, 1, 3), done(5, 3, 7));
        assert_eq!(after.since(before), Totals { input_tokens: 0, output_tokens: 0, ..done(3, 2, 4) });
    }
}
