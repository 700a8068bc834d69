//! The counters in the text format of Prometheus, version 0.0.4. Counts nothing itself.

use super::state::State;
use super::stats::{Counts, NOBODY, Times};
use super::status::{rests, span_name, unit_name, windows};
use crate::route::ledger::Report;
use crate::route::quota::WindowReport;
use std::fmt::{Display, Write};
use std::time::{Instant, UNIX_EPOCH};

/// The media type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything that was counted, and how the backends stand.
pub fn text(state: &State, now: Instant) -> String {
    let all: Vec<(&str, Counts)> =
        state.stats.series().map(|series| (series.label.as_str(), series.counts())).collect();
    let mut page = Page::default();
    process(&mut page, state);
    backends(&mut page, state, now);
    counters(&mut page, &all);
    times(&mut page, &all);
    page.text
}

fn process(page: &mut Page, state: &State) {
    page.family("build_info", "gauge", "Always 1; the version is the label.");
    page.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.family("start_time_seconds", "gauge", "When the program began, in seconds since 1970.");
    let began = state.stats.began().1.duration_since(UNIX_EPOCH).unwrap_or_default();
    page.sample("start_time_seconds", &[], began.as_secs_f64());
    page.family("requests_in_flight", "gauge", "Requests that run now.");
    page.sample("requests_in_flight", &[], state.stats.in_flight());
    page.family("requests_waiting", "gauge", "Of those, requests that wait for room at a backend.");
    page.sample("requests_waiting", &[], state.ledger().waiting());
}

fn backends(page: &mut Page, state: &State, now: Instant) {
    let label = |backend| state.stats.backend(backend).map_or("", |series| series.label.as_str());
    page.family("backend_info", "gauge", "Always 1; what is configured is the labels.");
    for (backend, config) in state.config.backends.iter().enumerate() {
        let labels = [
            ("backend", label(backend)),
            ("provider", config.provider.as_str()),
            ("model", config.model.as_str()),
            ("priority", &config.priority.to_string()),
        ];
        page.sample("backend_info", &labels, 1);
    }
    let reports: Vec<(&str, Report)> =
        state.reports(now).into_iter().enumerate().map(|(place, report)| (label(place), report)).collect();
    page.family("backend_benched", "gauge", "1 while a backend rests or its limits are used up, else 0.");
    for (backend, report) in &reports {
        page.sample("backend_benched", &[("backend", *backend)], u8::from(rests(report.standing)));
    }
    page.family("backend_requests_in_flight", "gauge", "Requests that run at a backend now.");
    for (backend, report) in &reports {
        page.sample("backend_requests_in_flight", &[("backend", *backend)], report.in_flight);
    }
    let windows: Vec<_> = reports.iter().map(|(backend, report)| (*backend, windows(report))).collect();
    let quota = |page: &mut Page, name, help, value: fn(&WindowReport) -> Option<u64>| {
        page.family(name, "gauge", help);
        for (backend, window) in
            windows.iter().flat_map(|(name, all)| all.iter().map(move |one| (*name, one)))
        {
            let labels =
                [("backend", backend), ("unit", unit_name(window.unit)), ("window", span_name(window.span))];
            if let Some(value) = value(window) {
                page.sample(name, &labels, value);
            }
        }
    };
    quota(page, "quota_limit", "What may be used in a window, as configured or told.", |window| window.limit);
    quota(page, "quota_left", "What is left in a window, as counted or told.", |window| window.left);
}

fn counters(page: &mut Page, all: &[(&str, Counts)]) {
    page.family(
        "requests_total",
        "counter",
        "Requests by the client's protocol, the backend that answered, and outcome.",
    );
    for (backend, counts) in all {
        for ((dialect, outcome), count) in &counts.requests {
            let labels = [("dialect", *dialect), ("backend", *backend), ("outcome", *outcome)];
            page.sample("requests_total", &labels, count);
        }
    }
    // Nobody is never called.
    let called = || all.iter().filter(|(backend, _)| *backend != NOBODY);
    page.family("attempts_total", "counter", "Calls of backends by what became of them.");
    for (backend, counts) in called() {
        for (class, count) in &counts.attempts {
            page.sample("attempts_total", &[("backend", *backend), ("class", *class)], count);
        }
    }
    page.family("tokens_total", "counter", "Tokens by backend and direction, as far as providers told them.");
    for (backend, counts) in called() {
        for (direction, count) in [("input", counts.input_tokens), ("output", counts.output_tokens)] {
            page.sample("tokens_total", &[("backend", *backend), ("direction", direction)], count);
        }
    }
}

fn times(page: &mut Page, all: &[(&str, Counts)]) {
    page.family(
        "first_content_seconds",
        "histogram",
        "From the beginning of an attempt to the first content of a stream, or to the end of a whole answer.",
    );
    for (backend, counts) in all {
        for (stream, times) in [("true", &counts.streams), ("false", &counts.wholes)] {
            if times.count > 0 {
                histogram(page, backend, stream, times);
            }
        }
    }
}

fn histogram(page: &mut Page, backend: &str, stream: &str, times: &Times) {
    let mut bucket = |end: &str, count: u64| {
        let labels = [("backend", backend), ("stream", stream), ("le", end)];
        page.sample("first_content_seconds_bucket", &labels, count);
    };
    for (end, count) in times.up_to() {
        bucket(&end.to_string(), count);
    }
    bucket("+Inf", times.count);
    let labels = [("backend", backend), ("stream", stream)];
    page.sample("first_content_seconds_sum", &labels, times.sum.as_secs_f64());
    page.sample("first_content_seconds_count", &labels, times.count);
}

/// Begins the name of every metric.
const PREFIX: &str = "ai_free_swap_";

/// A page in the making. Writing to a `String` cannot fail.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    /// Begins a metric; all its samples have to follow. `help` has neither a line end nor a backslash.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.text, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{PREFIX}{name}");
        let mut separator = '{';
        for (label, value) in labels {
            let _ = write!(self.text, "{separator}{label}=\"");
            self.escaped(value);
            self.text.push('"');
            separator = ',';
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    /// A label's value: the three characters that have a meaning there are escaped.
    fn escaped(&mut self, value: &str) {
        for c in value.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                c => self.text.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_end_its_label() {
        let mut page = Page::default();
        page.sample("x_total", &[("a", "\\\"\n} 1\r"), ("b", "é")], 2);
        page.sample("y", &[], 0.5);
        assert_eq!(page.text, "ai_free_swap_x_total{a=\"\\\\\\\"\\n} 1\r\",b=\"é\"} 2\nai_free_swap_y 0.5\n");
    }
}
