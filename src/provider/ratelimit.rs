//! When a provider says it may be asked again: from headers, error bodies, and the known turns of its quotas.
//!
//! Reads, and decides nothing: whether and what to bench is `route`'s business. Knows no clock.

mod calendar;
mod structured;
mod told;

#[cfg(test)]
pub use calendar::rfc3339;
pub use calendar::{http_date, next_pacific_midnight, next_utc_midnight, unix_ms};
pub use told::{Heard, Span, Told, Unit, heard, heard_in_body, merge, told, told_in_body};

use std::time::Duration;

use serde_json::Value;

use super::quota::rules;

/// Longer waits are taken for a misreading: no provider has a window above a month.
pub const WAIT_MAX: Duration = Duration::from_secs(32 * 24 * 3600);

/// What was used up. A minute window has no name here: that is a rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// A daily quota, or a provider's session of some hours.
    Day,
    /// A monthly quota.
    Month,
    /// Money, or a model that the free tier does not include: waiting alone may not help.
    Credit,
}

/// The reset of the longest window that has nothing left.
///
/// A reset beside a remaining above 0 says when *that* window is full again, which is no reason to wait.
pub fn exhausted(told: &[Told]) -> Option<Duration> {
    told.iter().filter(|fact| fact.remaining == Some(0)).filter_map(|fact| fact.reset).max()
}

/// A wait the body names in a field of its own: Google's `RetryInfo`, or `retry_after` in seconds.
pub fn delay_field(body: &Value) -> Option<Duration> {
    fn walk(value: &Value, depth: usize) -> Option<Duration> {
        if depth == 0 {
            return None;
        }
        match value {
            Value::Array(items) => items.iter().filter_map(|item| walk(item, depth - 1)).max(),
            Value::Object(fields) => fields
                .iter()
                .filter_map(|(name, value)| match (name.as_str(), value) {
                    ("retryDelay", Value::String(text)) => duration(text).map(|(wait, _)| wait),
                    ("retry_after" | "retry_after_seconds" | "retryAfter", Value::Number(seconds)) => {
                        seconds.as_f64().and_then(wait)
                    }
                    ("retry_after_ms", Value::Number(ms)) => ms.as_f64().and_then(|ms| wait(ms / 1000.0)),
                    (_, value) => walk(value, depth - 1),
                })
                .max(),
            _ => None,
        }
    }
    // Google's own sits five levels deep.
    walk(body, 16).filter(|wait| *wait <= WAIT_MAX)
}

/// A wait told in words, in text already lower-cased: "try again in 7m12s", "retry in 20.04s", "after 1 seconds".
pub fn delay_words(text: &str) -> Option<Duration> {
    let mut longest = None;
    for lead in ["again in ", "retry in ", "retry after ", "again after ", "reset in ", "resets in ", "wait "]
    {
        for (at, _) in text.match_indices(lead) {
            let told = text.get(at + lead.len()..).and_then(duration).map(|(wait, _)| wait);
            longest = longest.max(told.filter(|wait| *wait <= WAIT_MAX));
        }
    }
    longest
}

/// A date told in words, in text already lower-cased: "you will regain access on 2026-12-01 at 00:00 utc".
pub fn date_words(text: &str, wall: i64) -> Option<Duration> {
    let mut longest = None;
    for lead in [
        "access on ",
        "reset on ",
        "resets on ",
        "reset at ",
        "resets at ",
        "again on ",
        "again at ",
        "until ",
    ] {
        for (at, _) in text.match_indices(lead) {
            let told = text.get(at + lead.len()..).and_then(calendar::date_prefix);
            longest = longest.max(told.and_then(|moment| until(moment, wall)));
        }
    }
    longest
}

/// When a quota comes back by the provider's published rule, where one is known; `text` is the lower-cased body.
pub fn turn(provider: &str, text: &str, window: Window, wall: i64) -> Option<Duration> {
    // Google also when it is configured by its URL alone.
    let is_google = text.contains("generativelanguage.googleapis.com");
    let moment = match window {
        Window::Day => rules(if is_google { "gemini" } else { provider }).day.turn(wall)?,
        Window::Month => calendar::next_utc_month(wall),
        // The monthly credit of the free plan; others mean a balance that no calendar refills.
        Window::Credit if provider == "huggingface" => calendar::next_utc_month(wall),
        _ => return None,
    };
    until(moment, wall)
}

/// A point in time or a wait, in whatever notation: epoch in ms or s, seconds, `1m2.5s`, RFC 3339, an HTTP date.
fn moment(text: &str, wall: i64) -> Option<Duration> {
    let text = text.trim();
    if let Some(number) = plain_number(text) {
        return match number {
            // Both fit an i64: a number has at most 20 digits, and `as` saturates.
            ms if ms > 1e12 => until(ms as i64, wall),
            seconds if seconds > 1e9 => until((seconds * 1000.0) as i64, wall),
            seconds => wait(seconds),
        };
    }
    match duration(text) {
        Some((told, "")) => Some(told).filter(|told| *told <= WAIT_MAX),
        _ => calendar::rfc3339(text)
            .or_else(|| calendar::http_date(text))
            .and_then(|moment| until(moment, wall)),
    }
}

/// The wait until a moment, unless it is past or implausibly far.
fn until(moment: i64, wall: i64) -> Option<Duration> {
    let ms = u64::try_from(moment.checked_sub(wall)?).ok()?;
    Some(Duration::from_millis(ms)).filter(|wait| !wait.is_zero() && *wait <= WAIT_MAX)
}

fn wait(seconds: f64) -> Option<Duration> {
    let told = Duration::try_from_secs_f64(seconds).ok()?;
    (!told.is_zero() && told <= WAIT_MAX).then_some(told)
}

/// A non-negative decimal number and nothing else: no sign, exponent, or "inf", which `f64` would parse.
fn plain_number(text: &str) -> Option<f64> {
    let text = text.trim();
    number(text).filter(|(_, rest)| rest.is_empty()).map(|(number, _)| number)
}

fn number(text: &str) -> Option<(f64, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(text);
    let mut used = whole;
    if let Some(fraction) = text.get(whole..)?.strip_prefix('.') {
        match digits(fraction) {
            // "20." at the end of a sentence: the point is not ours.
            0 => {}
            count => used = whole + 1 + count,
        }
    }
    if whole == 0 || used > 32 {
        return None;
    }
    let (number, rest) = text.split_at_checked(used)?;
    Some((number.parse().ok()?, rest))
}

/// `1m2.5s`, `17ms`, `1 hour and 5 minutes`, `7 seconds`: what it says, and what follows. A unit is required.
fn duration(text: &str) -> Option<(Duration, &str)> {
    let mut total = 0.0;
    let mut rest = text;
    let mut any = false;
    // Bounded by the text: each turn takes at least a digit and a unit.
    loop {
        let next = rest.trim_start_matches([' ', ',']);
        let next = if any { next.strip_prefix("and ").unwrap_or(next) } else { next };
        let Some((count, after)) = number(next) else { break };
        let after = after.trim_start();
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let Some((unit, after)) = after.split_at_checked(letters) else { break };
        let unit = match unit.to_ascii_lowercase().as_str() {
            "ms" | "msec" | "millisecond" | "milliseconds" => 0.001,
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3600.0,
            "d" | "day" | "days" => 86_400.0,
            _ => break,
        };
        total += count * unit;
        rest = after;
        any = true;
    }
    let told = Duration::try_from_secs_f64(total).ok()?;
    (any && !told.is_zero()).then_some((told, rest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// 2026-11-23T02:13:20Z.
    const NOW: i64 = 1_795_400_000_000;

    #[test]
    fn moments_in_every_notation() {
        for (text, expected) in [
            ("7", Some(7.0)),
            (" 7.25 ", Some(7.25)),
            ("33011.38", Some(33011.38)),
            ("1m2.5s", Some(62.5)),
            ("6m0s", Some(360.0)),
            ("17ms", Some(0.017)),
            ("2m59.56s", Some(179.56)),
            ("1h2m3s", Some(3723.0)),
            ("1d", Some(86_400.0)),
            ("1795400060000", Some(60.0)),
            ("1795400060", Some(60.0)),
            ("1795400060.5", Some(60.5)),
            ("2026-11-23T02:14:20Z", Some(60.0)),
            ("Mon, 23 Nov 2026 02:14:20 GMT", Some(60.0)),
            ("Monday, 23-Nov-26 02:14:20 GMT", Some(60.0)),
            ("Mon Nov 23 02:14:20 2026", Some(60.0)),
            // 32 days are believed, more are not.
            ("2764800", Some(2_764_800.0)),
            ("2764801", None),
            ("768h", Some(2_764_800.0)),
            ("768h1s", None),
            // The past, and nonsense.
            ("0", None),
            ("0s", None),
            ("1795399999", None),
            ("2026-11-23T02:13:20Z", None),
            ("-5", None),
            ("1e3", None),
            ("inf", None),
            ("NaN", None),
            ("7x", None),
            ("7s later", None),
            ("", None),
            ("99999999999999999999999999", None),
            ("999999999999999999999999999999999999999999999d", None),
            ("é", None),
        ] {
            assert_eq!(moment(text, NOW), expected.map(Duration::from_secs_f64), "{text}");
        }
    }

    #[test]
    fn the_longest_exhausted_window_counts() {
        let fact = |remaining, seconds| Told {
            unit: Unit::Tokens,
            span: Span::Unnamed,
            limit: None,
            remaining,
            reset: Some(Duration::from_secs(seconds)),
        };
        assert_eq!(exhausted(&[]), None);
        assert_eq!(exhausted(&[fact(Some(1), 6), fact(None, 7)]), None, "no reason to wait");
        let told = [fact(Some(0), 6), fact(Some(0), 8), fact(Some(1), 9)];
        assert_eq!(exhausted(&told), Some(Duration::from_secs(8)));
        assert_eq!(exhausted(&[Told { reset: None, ..told[0] }]), None);
    }

    #[test]
    fn waits_in_bodies() {
        let nested = json!([{"error": {"details": [{"retryDelay": "41s"}, {"retryDelay": "1.5s"}]}}]);
        assert_eq!(delay_field(&nested), Some(Duration::from_secs(41)));
        assert_eq!(delay_field(&json!({"retry_after": 2.5})), Some(Duration::from_millis(2500)));
        assert_eq!(delay_field(&json!({"retry_after": -1})), None);
        assert_eq!(delay_field(&json!({"retryDelay": "999999d"})), None);
    }

    #[test]
    fn waits_in_words() {
        for (text, expected) in [
            ("please try again in 7m12s. visit", Some(432.0)),
            ("please retry in 20.04466179s.", Some(20.044_661_79)),
            ("please try again after 1 seconds", Some(1.0)),
            ("try again in 1 hour and 5 minutes", Some(3900.0)),
            ("try again in 2 hours, 5 min", Some(7500.0)),
            ("retry in 5s or try again in 10s", Some(10.0)),
            ("try again in 500ms", Some(0.5)),
            ("try again in a moment", None),
            ("try again in 5", None),
            ("try again in 40 days", None),
            ("try again in ", None),
        ] {
            assert_eq!(delay_words(text), expected.map(Duration::from_secs_f64), "{text}");
        }
        let regain = "you will regain access on 2026-12-01 at 00:00 utc.";
        assert_eq!(date_words(regain, NOW), Some(Duration::from_millis(683_200_000)));
        assert_eq!(date_words("you will regain access on 2026-11-01", NOW), None);
    }

    #[test]
    fn quotas_turn_where_their_provider_lives() {
        let hours = |provider, window| turn(provider, "", window, NOW).map(|wait| wait.as_secs() / 3600);
        assert_eq!(hours("gemini", Window::Day), Some(5));
        assert_eq!(hours("openrouter", Window::Day), Some(21));
        assert_eq!(hours("cloudflare", Window::Day), Some(21));
        assert_eq!(hours("groq", Window::Day), None, "a rolling day has no midnight");
        assert_eq!(hours("cohere", Window::Month), Some(189));
        assert_eq!(hours("deepseek", Window::Credit), None);
        let by_url = turn("openai_compat", "generativelanguage.googleapis.com/x", Window::Day, NOW);
        assert_eq!(by_url, turn("gemini", "", Window::Day, NOW));
    }
}
