//! `GET /status`: what is known of each backend, for people and their scripts. No key, no URL, no words of a provider.

use super::state::State;
use super::stats::{Counts, Times};
use crate::date::Civil;
use crate::provider::ratelimit::{Span, Unit};
use crate::route::Now;
use crate::route::ledger::{Report, Standing};
use crate::route::quota::{Shortage, Source, WindowReport};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    started: String,
    uptime_seconds: u64,
    requests_in_flight: usize,
    requests_waiting: usize,
    backends: Vec<Backend<'a>>,
}

#[derive(Serialize)]
struct Backend<'a> {
    name: &'a str,
    provider: &'a str,
    model: &'a str,
    priority: u32,
    standing: &'static str,
    bench: Option<Bench>,
    in_flight: u64,
    limits: Vec<Limit>,
    context: Option<u64>,
    last_error: Option<LastError>,
    last_success: Option<String>,
    latency_ms: Latency,
    totals: Totals,
}

#[derive(Serialize)]
struct Bench {
    class: &'static str,
    source: &'static str,
    since: Option<String>,
    until: String,
    seconds_left: u64,
}

#[derive(Serialize)]
struct Limit {
    unit: &'static str,
    window: &'static str,
    limit: Option<u64>,
    used: Option<u64>,
    left: Option<u64>,
    resets: Option<String>,
    source: &'static str,
}

#[derive(Serialize)]
struct LastError {
    class: &'static str,
    status: Option<u16>,
    at: String,
}

#[derive(Serialize)]
struct Latency {
    stream: Option<u64>,
    whole: Option<u64>,
}

#[derive(Serialize)]
struct Totals {
    requests: BTreeMap<&'static str, u64>,
    attempts: BTreeMap<&'static str, u64>,
    input_tokens: u64,
    output_tokens: u64,
}

/// The whole page as JSON.
pub fn json(state: &State, now: Now) -> String {
    let reports = state.reports(now.mono);
    let backends = state.config.backends.iter().zip(reports).enumerate();
    let backends = backends.map(|(place, (config, report))| {
        let series = state.stats.backend(place);
        let counts = series.map(|series| series.counts()).unwrap_or_default();
        Backend {
            name: series.map_or(config.name.as_str(), |series| series.label.as_str()),
            provider: &config.provider,
            model: &config.model,
            priority: config.priority,
            standing: standing_name(report.standing),
            bench: bench(report.standing, now),
            in_flight: report.in_flight,
            limits: windows(&report).into_iter().map(|window| limit(window, now)).collect(),
            context: report.abilities.context,
            last_error: counts.last_error.map(|error| LastError {
                class: error.class.name(),
                status: error.status,
                at: moment(error.at, now),
            }),
            last_success: counts.last_success.map(|at| moment(at, now)),
            latency_ms: Latency { stream: mean(&counts.streams), whole: mean(&counts.wholes) },
            totals: totals(counts),
        }
    });
    let (began, began_at) = state.stats.began();
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        started: Civil::of(began_at).rfc3339(),
        uptime_seconds: now.mono.saturating_duration_since(began).as_secs(),
        requests_in_flight: state.stats.in_flight(),
        requests_waiting: state.ledger().waiting(),
        backends: backends.collect(),
    };
    // Only maps with keys that are no text could fail.
    serde_json::to_string_pretty(&status).unwrap_or_default() + "\n"
}

fn standing_name(standing: Standing) -> &'static str {
    match standing {
        Standing::Open => "open",
        Standing::HalfOpen => "half_open",
        Standing::Probing => "probing",
        Standing::Benched { .. } => "benched",
        Standing::Short(Shortage::Busy { .. }) => "busy",
        Standing::Short(Shortage::Spent { .. }) => "used_up",
    }
}

/// Whether it would not be asked for longer than a request runs.
pub fn rests(standing: Standing) -> bool {
    matches!(standing, Standing::Benched { .. } | Standing::Short(Shortage::Spent { .. }))
}

fn bench(standing: Standing, now: Now) -> Option<Bench> {
    let (class, source, since, until) = match standing {
        Standing::Benched { until, known, class, since } => {
            (class.name(), if known { "told" } else { "guessed" }, Some(since), until)
        }
        Standing::Short(Shortage::Spent { unit, until, source, .. }) => {
            let class = if unit == Unit::Requests { "requests_used_up" } else { "tokens_used_up" };
            (class, source_name(source), None, until)
        }
        _ => return None,
    };
    Some(Bench {
        class,
        source,
        since: since.map(|since| moment(since, now)),
        until: moment(until, now),
        seconds_left: seconds_up(until.saturating_duration_since(now.mono)),
    })
}

/// The windows of a backend, each once: where its account counts the same, the one with less left.
pub fn windows(report: &Report) -> Vec<WindowReport> {
    let mut windows: Vec<WindowReport> = Vec::new();
    for window in &report.windows {
        match windows.iter_mut().find(|known| (known.unit, known.span) == (window.unit, window.span)) {
            // What is not known is no reason to rest.
            Some(known) if window.left.unwrap_or(u64::MAX) < known.left.unwrap_or(u64::MAX) => {
                *known = *window
            }
            Some(_) => {}
            None => windows.push(*window),
        }
    }
    windows
}

fn limit(window: WindowReport, now: Now) -> Limit {
    let WindowReport { unit, span, limit, used, left, resets, source } = window;
    Limit {
        unit: unit_name(unit),
        window: span_name(span),
        limit,
        used,
        left,
        resets: resets.map(|resets| moment(resets, now)),
        source: source_name(source),
    }
}

/// The name of a unit in JSON and as a label.
pub fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Requests => "requests",
        Unit::Tokens => "tokens",
    }
}

/// The name of a window in JSON and as a label.
pub fn span_name(span: Span) -> &'static str {
    match span {
        Span::Minute => "minute",
        Span::Hour => "hour",
        Span::Day => "day",
        Span::Month => "month",
        Span::Unnamed => "unnamed",
    }
}

fn source_name(source: Source) -> &'static str {
    match source {
        Source::Told => "told",
        Source::Counted => "counted",
    }
}

/// Whole seconds, rounded up: after them it is over.
pub fn seconds_up(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

/// A moment of the monotonic clock as a date.
pub fn moment(at: Instant, now: Now) -> String {
    let wall = match at.checked_duration_since(now.mono) {
        Some(ahead) => now.wall.checked_add(ahead),
        None => now.wall.checked_sub(now.mono.saturating_duration_since(at)),
    };
    // Beyond what a clock can say: a wrong clock, or a bench for ages.
    Civil::of(wall.unwrap_or(now.wall)).rfc3339()
}

fn mean(times: &Times) -> Option<u64> {
    times.mean.map(|mean| u64::try_from(mean.as_millis()).unwrap_or(u64::MAX))
}

fn totals(counts: Counts) -> Totals {
    let mut requests = BTreeMap::new();
    for ((_, outcome), count) in counts.requests {
        *requests.entry(outcome).or_default() += count;
    }
    Totals {
        requests,
        attempts: counts.attempts,
        input_tokens: counts.input_tokens,
        output_tokens: counts.output_tokens,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn moments_are_told_by_the_wall() {
        let second = Duration::from_secs(1);
        let now = Now { mono: Instant::now() + 9 * second, wall: UNIX_EPOCH + 1_709_251_199 * second };
        for (at, expected) in [
            (now.mono, "2024-02-29T23:59:59Z"),
            (now.mono + second, "2024-03-01T00:00:00Z"),
            (now.mono - 9 * second, "2024-02-29T23:59:50Z"),
        ] {
            assert_eq!(moment(at, now), expected);
        }
        let no_clock = Now { wall: SystemTime::UNIX_EPOCH, ..now };
        assert_eq!(moment(now.mono - second, no_clock), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn of_two_windows_of_a_kind_the_scarcer_counts() {
        let window = |unit, left, source| WindowReport {
            unit,
            span: Span::Day,
            limit: Some(10),
            used: None,
            left,
            resets: None,
            source,
        };
        let report = |windows| Report {
            standing: Standing::Open,
            in_flight: 0,
            windows,
            abilities: Default::default(),
        };
        let (told, counted) = (Source::Told, Source::Counted);
        let found = windows(&report(vec![
            window(Unit::Requests, Some(7), counted),
            window(Unit::Requests, Some(3), told),
            window(Unit::Tokens, None, told),
            window(Unit::Requests, Some(9), told),
            window(Unit::Tokens, Some(u64::MAX - 1), counted),
        ]));
        let found: Vec<_> = found.iter().map(|window| (window.unit, window.left, window.source)).collect();
        let expected = [(Unit::Requests, Some(3), told), (Unit::Tokens, Some(u64::MAX - 1), counted)];
        assert_eq!(found, expected);
    }

    #[test]
    fn seconds_are_rounded_up() {
        let ms = Duration::from_millis;
        for (time, expected) in
            [(ms(0), 0), (ms(1), 1), (ms(1000), 1), (ms(1001), 2), (Duration::MAX, u64::MAX)]
        {
            assert_eq!(seconds_up(time), expected, "{time:?}");
        }
    }
}
