//! What answers say about their limits: header fields of every known family, and error bodies, read into facts.
//!
//! Every answer comes by here, so its fields are looked at once and nothing is allocated unless one is about limits.
//! Says what was told; what follows from it is the ledger's business. Knows no clock.

use std::time::Duration;

use log::debug;
use serde_json::Value;

use super::{http_date, moment, plain_number, structured, wait};
use crate::limits::{TOLD_FACTS_MAX, TOLD_VALUE_BYTES_MAX};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// Calls.
    Requests,
    /// Tokens, of input if the provider counts input and output apart.
    Tokens,
}

/// The window in which it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Span {
    /// 60 s.
    Minute,
    /// 60 min.
    Hour,
    /// 24 h.
    Day,
    /// A calendar month, or 28 to 31 days.
    Month,
    /// Not said, or none of these.
    Unnamed,
}

impl Span {
    /// The window of so many seconds.
    pub(super) fn of_seconds(seconds: u64) -> Self {
        const DAY: u64 = 24 * 3600;
        match seconds {
            60 => Self::Minute,
            3600 => Self::Hour,
            DAY => Self::Day,
            _ if (28 * DAY..=31 * DAY).contains(&seconds) => Self::Month,
            _ => Self::Unnamed,
        }
    }
}

/// One limit as the provider told it. At least one of `limit` and `remaining` is known, and none contradicts the
/// other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Told {
    /// What is counted.
    pub unit: Unit,
    /// In which window.
    pub span: Span,
    /// Most of it in one window. 0 only where a body says that the free tier lacks the model.
    pub limit: Option<u64>,
    /// Left in this window.
    pub remaining: Option<u64>,
    /// From now until the window is full again; `None` if it is unknown or over. Never zero, at most 32 days.
    pub reset: Option<Duration>,
}

impl Told {
    /// `None` for what is no fact: nothing known, more left than there is, or a limit of 0, by which some say that
    /// they do not count.
    pub(super) fn checked(self) -> Option<Self> {
        let known = self.limit.or(self.remaining).is_some();
        let sound =
            self.limit.is_none_or(|limit| limit > 0 && self.remaining.is_none_or(|left| left <= limit));
        (known && sound).then_some(self)
    }

    /// Adds what `other` knows of the same window.
    fn fill(&mut self, other: Told) {
        let sound =
            |limit: Option<u64>, left: Option<u64>| left.is_none() || limit.is_none() || left <= limit;
        self.limit = self.limit.or(other.limit.filter(|limit| sound(Some(*limit), self.remaining)));
        self.remaining = self.remaining.or(other.remaining.filter(|left| sound(self.limit, Some(*left))));
        self.reset = self.reset.or(other.reset);
    }
}

/// Adds a fact from another place of the same answer. What is there already wins; a window without a name gets that
/// of its limit's double (OpenRouter's fields do not say which limit was hit, its message does).
pub fn merge(facts: &mut Vec<Told>, more: Told) {
    let same = |fact: &&mut Told| fact.unit == more.unit && fact.span == more.span;
    let double = |fact: &&mut Told| {
        let unnamed = fact.span == Span::Unnamed || more.span == Span::Unnamed;
        unnamed && fact.unit == more.unit && fact.limit == more.limit && more.limit.is_some()
    };
    if let Some(fact) = facts.iter_mut().find(same) {
        if fact.limit.is_none() || more.limit.is_none() || fact.limit == more.limit {
            fact.fill(more);
            return;
        }
    } else if let Some(fact) = facts.iter_mut().find(double) {
        // `Unnamed` is the last of them.
        fact.span = fact.span.min(more.span);
        fact.fill(more);
        return;
    }
    push(facts, more);
}

/// What the head of one answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The provider's clock, in milliseconds since 1970; ours if it sends none.
    pub wall: i64,
    /// `Retry-After` in its three spellings.
    pub retry_after: Option<Duration>,
    /// Its limits, at most [`TOLD_FACTS_MAX`].
    pub told: Vec<Told>,
}

/// Reads the head of an answer. `provider` is the preset's name; `wall`, our clock in milliseconds since 1970, gives
/// way to the answer's own `Date`, as moments are told by the provider's clock and routers may have none.
pub fn heard<'h>(provider: &str, fields: impl Iterator<Item = (&'h str, &'h [u8])>, wall: i64) -> Heard {
    let mut head = Head::default();
    fields.for_each(|(name, value)| head.field(name, value));
    let wall = head.wall(wall);
    let ms = head.retry_after_ms.and_then(plain_number).and_then(|ms| wait(ms / 1000.0));
    let retry_after = ms.max(head.retry_after.and_then(|text| moment(text, wall)));
    Heard { wall, retry_after, told: head.facts(provider, wall) }
}

/// Only the limits: for answers that are no refusal.
pub fn told<'h>(provider: &str, fields: impl Iterator<Item = (&'h str, &'h [u8])>, wall: i64) -> Vec<Told> {
    let mut head = Head::default();
    fields.for_each(|(name, value)| head.field(name, value));
    if head.is_silent() {
        return Vec::new();
    }
    let wall = head.wall(wall);
    head.facts(provider, wall)
}

/// The same from an error body: OpenRouter repeats its fields in `error.metadata.headers`, Google names the limits
/// that were hit in a `QuotaFailure`.
pub fn told_in_body(provider: &str, body: &Value, wall: i64) -> Vec<Told> {
    heard_in_body(provider, body, wall).told
}

/// The same with the `Retry-After` among OpenRouter's repeated fields.
pub fn heard_in_body(provider: &str, body: &Value, wall: i64) -> Heard {
    let repeated = body.pointer("/error/metadata/headers").and_then(Value::as_object);
    // A number is as good as its text.
    let fields: Vec<(&str, String)> = repeated
        .into_iter()
        .flatten()
        .take(crate::limits::HEAD_FIELDS_MAX)
        .filter_map(|(name, value)| match value {
            Value::String(text) => Some((name.as_str(), text.clone())),
            Value::Number(number) => Some((name.as_str(), number.to_string())),
            _ => None,
        })
        .collect();
    let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
    let mut heard = heard(provider, fields, wall);
    if let Some(span) = openrouter_span(body) {
        heard.told.iter_mut().filter(|fact| fact.span == Span::Unnamed).for_each(|fact| fact.span = span);
    }
    // Google's own sits three levels deep.
    quota_failures(body, 8, &mut heard.told);
    heard
}

/// Which of the limits over its free models OpenRouter means: the fields do not say.
fn openrouter_span(body: &Value) -> Option<Span> {
    let source = body.pointer("/error/metadata/limit_source").and_then(Value::as_str).unwrap_or_default();
    let message = body.pointer("/error/message").and_then(Value::as_str).unwrap_or_default();
    if source.ends_with("_daily") || message.contains("free-models-per-day") {
        Some(Span::Day)
    } else if source.ends_with("_minute") || message.contains("free-models-per-min") {
        Some(Span::Minute)
    } else {
        None
    }
}

/// `google.rpc.QuotaFailure`: each violation is a limit that is used up. Its `RetryInfo` is of no use here: with
/// several limits nobody knows whose it is.
fn quota_failures(value: &Value, depth: usize, facts: &mut Vec<Told>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    match value {
        Value::Array(items) => items.iter().for_each(|item| quota_failures(item, depth, facts)),
        Value::Object(fields) => {
            let kind = fields.get("@type").and_then(Value::as_str).unwrap_or_default();
            if !kind.ends_with("google.rpc.QuotaFailure") {
                return fields.values().for_each(|value| quota_failures(value, depth, facts));
            }
            let violations = fields.get("violations").and_then(Value::as_array);
            for violation in violations.into_iter().flatten().take(TOLD_FACTS_MAX) {
                let text = |name: &str| violation.get(name).and_then(Value::as_str).unwrap_or_default();
                let id = text("quotaId");
                let span = match id {
                    _ if id.contains("PerDay") => Span::Day,
                    _ if id.contains("PerHour") => Span::Hour,
                    _ if id.contains("PerMinute") => Span::Minute,
                    _ => Span::Unnamed,
                };
                let tokens = id.contains("Token") || text("quotaMetric").contains("token");
                let unit = if tokens { Unit::Tokens } else { Unit::Requests };
                let limit =
                    violation.get("quotaValue").and_then(Value::as_u64).or_else(|| count(text("quotaValue")));
                push(facts, Told { unit, span, limit, remaining: Some(0), reset: None });
            }
        }
        _ => {}
    }
}

/// A family of fields by what its names begin with, and what they mean as long as nothing else is said.
struct Family {
    prefix: &'static str,
    what: What,
    span: Span,
}

#[rustfmt::skip]
static FAMILIES: [Family; 7] = [
    Family { prefix: "x-ratelimit-", what: What::Requests, span: Span::Unnamed },
    Family { prefix: "ratelimit-", what: What::Requests, span: Span::Unnamed },
    // Anthropic's limits are all per minute.
    Family { prefix: "anthropic-ratelimit-", what: What::Requests, span: Span::Minute },
    // Mistral's, without a window in the oldest form.
    Family { prefix: "x-ratelimitbysize-", what: What::Tokens, span: Span::Unnamed },
    Family { prefix: "ratelimitbysize-", what: What::Tokens, span: Span::Unnamed },
    // Cohere: 20 calls a minute to one endpoint of a trial key, 1000 a month to all of them.
    Family { prefix: "x-trial-endpoint-", what: What::Requests, span: Span::Minute },
    Family { prefix: "x-endpoint-", what: What::Requests, span: Span::Unnamed },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Requests,
    Tokens,
    Input,
    Output,
}

#[derive(Clone, Copy)]
enum Part {
    Limit,
    Remaining,
    Reset,
}

#[derive(Clone, Copy)]
enum Word {
    Part(Part),
    What(What),
    Span(Span),
}

/// What may follow the prefix, in any order. A name with any other word is not about a limit
/// (`x-ratelimit-tokens-query-cost`) or about none that can be counted here: windows of a second are over before
/// they matter, and Nebius' `x-ratelimit-over-limit` flags answers that were given all the same.
static WORDS: [(&str, Word); 18] = [
    ("limit", Word::Part(Part::Limit)),
    ("remaining", Word::Part(Part::Remaining)),
    ("reset", Word::Part(Part::Reset)),
    ("requests", Word::What(What::Requests)),
    ("request", Word::What(What::Requests)),
    ("req", Word::What(What::Requests)),
    ("call", Word::What(What::Requests)),
    ("tokens", Word::What(What::Tokens)),
    ("token", Word::What(What::Tokens)),
    ("input", Word::What(What::Input)),
    ("prompt", Word::What(What::Input)),
    ("output", Word::What(What::Output)),
    ("generated", Word::What(What::Output)),
    ("minute", Word::Span(Span::Minute)),
    ("hour", Word::Span(Span::Hour)),
    ("day", Word::Span(Span::Day)),
    ("month", Word::Span(Span::Month)),
    ("monthly", Word::Span(Span::Month)),
];

/// The fields of one limit, gathered.
struct Slot<'h> {
    family: usize,
    what: What,
    span: Span,
    limit: Option<u64>,
    /// The window that stands behind the limit, in the draft's list form.
    window: Span,
    remaining: Option<u64>,
    reset: Option<&'h str>,
    /// A field of it, for the log.
    field: (&'h str, &'h [u8]),
}

impl Slot<'_> {
    fn is_tokens(&self) -> bool {
        self.what != What::Requests
    }
}

/// The fields of one head that matter here.
#[derive(Default)]
struct Head<'h> {
    date: Option<&'h str>,
    retry_after: Option<&'h str>,
    retry_after_ms: Option<&'h str>,
    slots: Vec<Slot<'h>>,
    /// `RateLimit` and `RateLimit-Policy`, which may stand in several fields.
    structured: Vec<&'h str>,
    policies: Vec<&'h str>,
    nonsense: Option<(&'h str, &'h [u8])>,
}

impl<'h> Head<'h> {
    fn field(&mut self, name: &'h str, value: &'h [u8]) {
        // Most fields are about something else, and the first letter says so.
        match name.as_bytes().first().map(u8::to_ascii_lowercase) {
            Some(b'd') if name.eq_ignore_ascii_case("date") => self.date = text(value),
            Some(b'x' | b'a') => self.limit_field(name, value),
            Some(b'r') => match name.len() {
                11 if name.eq_ignore_ascii_case("retry-after") => self.retry_after = text(value),
                14 if name.eq_ignore_ascii_case("retry-after-ms") => self.retry_after_ms = text(value),
                9 if name.eq_ignore_ascii_case("ratelimit") => list(&mut self.structured, value),
                16 if name.eq_ignore_ascii_case("ratelimit-policy") => list(&mut self.policies, value),
                _ => self.limit_field(name, value),
            },
            _ => {}
        }
    }

    fn limit_field(&mut self, name: &'h str, value: &'h [u8]) {
        let Some((family, what, span, part)) = meaning(name) else { return };
        let known = self
            .slots
            .iter()
            .position(|slot| slot.family == family && slot.what == what && slot.span == span);
        let at = match known {
            Some(at) => at,
            None if self.slots.len() < TOLD_FACTS_MAX => {
                let field = (name, value);
                let (limit, window) = (None, Span::Unnamed);
                self.slots.push(Slot {
                    family,
                    what,
                    span,
                    limit,
                    window,
                    remaining: None,
                    reset: None,
                    field,
                });
                self.slots.len() - 1
            }
            None => return,
        };
        let Some(slot) = self.slots.get_mut(at) else { return };
        // Of fields that are there twice, the first counts: one in between added its own behind the provider's.
        let read = match (part, text(value)) {
            (Part::Limit, Some(text)) if slot.limit.is_none() => {
                structured::limit(text).map(|(limit, window)| {
                    (slot.limit, slot.window) = (Some(limit), window);
                })
            }
            (Part::Remaining, Some(text)) if slot.remaining.is_none() => count(text).map(|left| {
                slot.remaining = Some(left);
            }),
            (Part::Reset, Some(text)) => {
                slot.reset = slot.reset.or(Some(text));
                Some(())
            }
            (_, text) => text.map(|_| ()),
        };
        if read.is_none() {
            self.nonsense.get_or_insert((name, value));
        }
    }

    fn is_silent(&self) -> bool {
        self.slots.is_empty()
            && self.structured.is_empty()
            && self.policies.is_empty()
            && self.nonsense.is_none()
    }

    fn wall(&self, ours: i64) -> i64 {
        self.date.and_then(http_date).unwrap_or(ours)
    }

    fn facts(mut self, provider: &str, wall: i64) -> Vec<Told> {
        let mut facts = Vec::new();
        for (at, slot) in self.slots.iter().enumerate() {
            let kin =
                |other: &&Slot| other.is_tokens() && other.family == slot.family && other.span == slot.span;
            // All about the tokens of one window makes one fact, told at the first of them.
            let is_told = slot.is_tokens() && self.slots.iter().take(at).any(|other| kin(&other));
            let group = || self.slots.iter().filter(kin);
            let fact = match slot.is_tokens() {
                _ if is_told => continue,
                true => tokens(group, wall),
                false => Some(slot.told(wall)),
            };
            let Some(mut fact) = fact else { continue };
            if fact.span == Span::Unnamed {
                fact.span = usual_span(provider, fact.unit);
            }
            match fact.checked() {
                Some(fact) => push(&mut facts, fact),
                None if fact.limit == Some(0) => {}
                None if fact.limit.is_some() => _ = self.nonsense.get_or_insert(slot.field),
                // A reset alone says nothing.
                None => {}
            }
        }
        for slot in &self.slots {
            if let Some(text) = slot.reset.filter(|text| !is_moment(text)) {
                self.nonsense.get_or_insert((slot.field.0, text.as_bytes()));
            }
        }
        structured::facts(&self.structured, &self.policies, &mut facts);
        if let Some((name, value)) = self.nonsense {
            debug!("{provider}: ignored {name}{}", shown(value));
        }
        facts
    }
}

impl Slot<'_> {
    fn told(&self, wall: i64) -> Told {
        let unit = if self.is_tokens() { Unit::Tokens } else { Unit::Requests };
        // `Unnamed` is the last of them.
        let span = self.span.min(self.window);
        let reset = self.reset.and_then(|text| moment(text, wall));
        Told { unit, span, limit: self.limit, remaining: self.remaining, reset }
    }
}

/// One fact of what a family says about the tokens of one window.
///
/// Requests are measured by their input, so the limit is that of the input: to hold a long prompt against the smaller
/// limit of the output (which Anthropic's `tokens` shows when it is the tighter one) would refuse what the provider
/// takes. But once any of them is used up nothing can be answered, until the last of those is full again.
fn tokens<'s, 'h: 's, I: Iterator<Item = &'s Slot<'h>>>(group: impl Fn() -> I, wall: i64) -> Option<Told> {
    let of = |what| group().find(|slot| slot.what == what);
    let spent = || group().filter(|slot| slot.remaining == Some(0));
    let main = of(What::Input).or_else(|| of(What::Tokens)).or_else(|| spent().next())?;
    let mut fact = main.told(wall);
    if main.what == What::Output {
        fact.limit = None;
    }
    if spent().next().is_some() {
        fact.remaining = Some(0);
        fact.reset = spent().filter_map(|slot| slot.told(wall).reset).max();
    }
    Some(fact)
}

/// The window a provider means by a name without one: Groq counts requests by the day and tokens by the minute,
/// SambaNova has fields for the day beside those for the minute (providers.md §3).
fn usual_span(provider: &str, unit: Unit) -> Span {
    match (provider, unit) {
        ("groq", Unit::Requests) => Span::Day,
        ("groq", Unit::Tokens) | ("sambanova", Unit::Requests) => Span::Minute,
        _ => Span::Unnamed,
    }
}

/// Family, what is counted, window, and which number it is: `None` for a field that is no limit.
fn meaning(name: &str) -> Option<(usize, What, Span, Part)> {
    let starts = |family: &Family| {
        let head = name.as_bytes().get(..family.prefix.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(family.prefix.as_bytes()))
    };
    let (at, family) = FAMILIES.iter().enumerate().find(|(_, family)| starts(family))?;
    let (mut what, mut span, mut part) = (None, None, None);
    for word in name.get(family.prefix.len()..)?.split('-') {
        match WORDS.iter().find(|(known, _)| word.eq_ignore_ascii_case(known))?.1 {
            Word::Part(_) if part.is_some() => return None,
            Word::Part(new) => part = Some(new),
            // `input-tokens`, `tokens-prompt`
            Word::What(What::Tokens) if what.is_some() => {}
            Word::What(new) => what = Some(new),
            Word::Span(_) if span.is_some() => return None,
            Word::Span(new) => span = Some(new),
        }
    }
    Some((at, what.unwrap_or(family.what), span.unwrap_or(family.span), part?))
}

/// A field's value, unless it is longer than any that makes sense.
fn text(value: &[u8]) -> Option<&str> {
    let value = Some(value.trim_ascii()).filter(|value| value.len() <= TOLD_VALUE_BYTES_MAX)?;
    std::str::from_utf8(value).ok()
}

fn list<'h>(values: &mut Vec<&'h str>, value: &'h [u8]) {
    if let Some(text) = text(value).filter(|_| values.len() < TOLD_FACTS_MAX) {
        values.push(text);
    }
}

/// A number of requests or tokens.
pub(super) fn count(text: &str) -> Option<u64> {
    /// Above the largest limits there are, a thousand times.
    const COUNT_MAX: f64 = 1e12;
    // Whole: what is left of a token is none.
    plain_number(text).filter(|number| *number <= COUNT_MAX).map(|number| number as u64)
}

/// Whether a reset has the look of a moment, be it one that is over.
fn is_moment(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) || http_date(text).is_some()
}

pub(super) fn push(facts: &mut Vec<Told>, fact: Told) {
    if facts.len() < TOLD_FACTS_MAX && !facts.contains(&fact) {
        facts.push(fact);
    }
}

/// A value for the log: only if it is short and printable.
fn shown(value: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 32;
    let short = value.len() <= SHOWN_BYTES_MAX && value.iter().all(|b| (b' '..=b'~').contains(b));
    if short { format!(": {}", String::from_utf8_lossy(value)) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::Span::{Day, Hour, Minute, Month, Unnamed};
    use super::Unit::{Requests, Tokens};
    use super::*;
    use serde_json::json;

    /// 2026-11-23T02:13:20Z.
    const NOW: i64 = 1_795_400_000_000;

    type Fields = [(&'static str, &'static str)];

    fn read(provider: &str, fields: &Fields) -> Vec<Told> {
        told(provider, fields.iter().map(|(name, value)| (*name, value.as_bytes())), NOW)
    }

    fn fact(unit: Unit, span: Span, limit: u64, remaining: u64, seconds: f64) -> Told {
        let reset = Some(Duration::from_secs_f64(seconds)).filter(|reset| !reset.is_zero());
        Told { unit, span, limit: Some(limit), remaining: Some(remaining), reset }
    }

    /// The facts, whatever the case and the order of the fields, and whatever nonsense stands around them.
    #[track_caller]
    fn check(provider: &str, fields: &Fields, expected: &[Told]) {
        let sorted = |mut facts: Vec<Told>| {
            facts.sort_by_key(|fact| (fact.unit, fact.span, fact.limit, fact.remaining));
            facts
        };
        let expected = sorted(expected.to_vec());
        assert_eq!(sorted(read(provider, fields)), expected, "{fields:?}");
        let upper: Vec<(String, &str)> =
            fields.iter().rev().map(|(name, value)| (name.to_ascii_uppercase(), *value)).collect();
        let upper = upper.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        assert_eq!(sorted(told(provider, upper, NOW)), expected, "backwards in upper case: {fields:?}");
        // Of each name, the first that makes sense counts.
        for nonsense in [&b"-1"[..], b"", b"soon", b"1e3", b"NaN", b"\xff", b"99999999999999", &[b'1'; 600]] {
            let bad = fields.iter().filter(|(name, _)| !name.to_ascii_lowercase().contains("reset"));
            let bad = bad.filter(|(name, _)| name.contains('-') && !name.ends_with("olicy"));
            let bad = bad.map(|(name, _)| (*name, nonsense));
            let good = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
            assert_eq!(sorted(told(provider, bad.clone().chain(good), NOW)), expected, "{nonsense:?}");
        }
    }

    #[test]
    fn openai_and_those_like_it() {
        let fields = [
            ("x-ratelimit-limit-requests", "3"),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "20s"),
            ("x-ratelimit-limit-tokens", "40000"),
            ("x-ratelimit-remaining-tokens", "39000"),
            ("x-ratelimit-reset-tokens", "1m2.5s"),
            ("x-request-id", "req_1"),
            ("x-ratelimit-over-limit", "yes"),
        ];
        check(
            "openai",
            &fields,
            &[fact(Requests, Unnamed, 3, 0, 20.0), fact(Tokens, Unnamed, 40_000, 39_000, 62.5)],
        );
        check(
            "groq",
            &fields,
            &[fact(Requests, Day, 3, 0, 20.0), fact(Tokens, Minute, 40_000, 39_000, 62.5)],
        );
        check(
            "fireworks",
            &[
                ("x-ratelimit-limit-tokens-prompt", "900000"),
                ("x-ratelimit-remaining-tokens-prompt", "899000"),
                ("x-ratelimit-limit-tokens-generated", "36000"),
                ("x-ratelimit-remaining-tokens-generated", "100"),
                ("x-ratelimit-limit-tokens-cached-prompt", "9"),
            ],
            &[fact(Tokens, Unnamed, 900_000, 899_000, 0.0)],
        );
    }

    #[test]
    fn windows_in_names() {
        check(
            "cerebras",
            &[
                ("x-ratelimit-limit-requests-day", "14400"),
                ("x-ratelimit-remaining-requests-day", "14000"),
                ("x-ratelimit-reset-requests-day", "33011.38"),
                ("x-ratelimit-limit-tokens-minute", "60000"),
                ("x-ratelimit-remaining-tokens-minute", "60000"),
                ("x-ratelimit-reset-tokens-minute", "11.38"),
            ],
            &[fact(Requests, Day, 14_400, 14_000, 33_011.38), fact(Tokens, Minute, 60_000, 60_000, 11.38)],
        );
        check(
            "sambanova",
            &[
                ("x-ratelimit-limit-requests", "20"),
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "1795400060"),
                ("x-ratelimit-limit-requests-day", "20"),
                ("x-ratelimit-remaining-requests-day", "3"),
                ("x-ratelimit-reset-requests-day", "1795478400"),
            ],
            &[fact(Requests, Minute, 20, 0, 60.0), fact(Requests, Day, 20, 3, 78_400.0)],
        );
        check(
            "mistral",
            &[
                ("x-ratelimit-limit-req-minute", "60"),
                ("x-ratelimit-remaining-req-minute", "59"),
                ("x-ratelimit-limit-tokens-minute", "500000"),
                ("x-ratelimit-remaining-tokens-minute", "499000"),
                ("x-ratelimit-limit-req-day", "2000"),
                ("x-ratelimit-remaining-req-day", "1999"),
                ("x-ratelimit-limit-tokens-month", "1000000000"),
                ("x-ratelimit-remaining-tokens-month", "999000000"),
                ("x-ratelimit-reset-tokens-month", "86400"),
                ("x-ratelimit-tokens-query-cost", "25"),
                ("x-ratelimit-limit-req-second", "1"),
            ],
            &[
                fact(Requests, Minute, 60, 59, 0.0),
                fact(Tokens, Minute, 500_000, 499_000, 0.0),
                fact(Requests, Day, 2000, 1999, 0.0),
                fact(Tokens, Month, 1_000_000_000, 999_000_000, 86_400.0),
            ],
        );
        check(
            "mistral",
            &[
                ("ratelimitbysize-limit", "2000000"),
                ("ratelimitbysize-remaining", "1999000"),
                ("ratelimitbysize-reset", "24"),
                ("ratelimitbysize-query-cost", "32"),
                ("x-ratelimitbysize-limit-month", "10000000000"),
                ("x-ratelimitbysize-remaining-month", "9999000000"),
            ],
            &[
                fact(Tokens, Unnamed, 2_000_000, 1_999_000, 24.0),
                fact(Tokens, Month, 10_000_000_000, 9_999_000_000, 0.0),
            ],
        );
        check(
            "cohere",
            &[
                ("x-trial-endpoint-call-limit", "20"),
                ("x-trial-endpoint-call-remaining", "19"),
                ("x-endpoint-monthly-call-limit", "1000"),
                ("x-endpoint-load-metrics", "1"),
            ],
            &[
                fact(Requests, Minute, 20, 19, 0.0),
                Told { remaining: None, ..fact(Requests, Month, 1000, 0, 0.0) },
            ],
        );
        check(
            "x",
            &[("x-ratelimit-limit-hour", "9"), ("x-ratelimit-remaining-hour", "8")],
            &[fact(Requests, Hour, 9, 8, 0.0)],
        );
    }

    #[test]
    fn plain_names() {
        let check = |limit, remaining, reset, expected: Told| {
            let fields = [
                ("x-ratelimit-limit", limit),
                ("x-ratelimit-remaining", remaining),
                ("x-ratelimit-reset", reset),
            ];
            check("openrouter", &fields, &[expected]);
        };
        check("50", "0", "1795478400000", fact(Requests, Unnamed, 50, 0, 78_400.0));
        check("1", "0", "2", fact(Requests, Unnamed, 1, 0, 2.0));
        check("5000", "4999", "1795400060", fact(Requests, Unnamed, 5000, 4999, 60.0));
        // A reset that is over, or none, takes nothing from the rest.
        check("5", "4", "1795399999", fact(Requests, Unnamed, 5, 4, 0.0));
        check("5", "4", "soon", fact(Requests, Unnamed, 5, 4, 0.0));
        check("5", "4.9", "9999999", fact(Requests, Unnamed, 5, 4, 0.0));
    }

    #[test]
    fn anthropics_tokens_are_those_of_the_input() {
        let limit = ("anthropic-ratelimit-input-tokens-limit", "50000");
        let input = ("anthropic-ratelimit-input-tokens-remaining", "48000");
        let reset = ("anthropic-ratelimit-input-tokens-reset", "2026-11-23T02:13:22Z");
        let requests = [
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "49"),
            ("anthropic-ratelimit-requests-reset", "2026-11-23T02:13:21Z"),
            ("anthropic-ratelimit-unified-status", "allowed"),
        ];
        check("anthropic", &requests, &[fact(Requests, Minute, 50, 49, 1.0)]);
        let output = |left| {
            [
                ("anthropic-ratelimit-output-tokens-limit", "10000"),
                ("anthropic-ratelimit-output-tokens-remaining", left),
                ("anthropic-ratelimit-output-tokens-reset", "2026-11-23T02:13:50Z"),
            ]
        };
        let combined = [
            ("anthropic-ratelimit-tokens-limit", "10000"),
            ("anthropic-ratelimit-tokens-remaining", "9000"),
            ("anthropic-ratelimit-tokens-reset", "2026-11-23T02:13:26Z"),
        ];
        let [a, b, c] = output("9000");
        let all = [limit, input, reset, a, b, c, combined[0], combined[1], combined[2]];
        check("anthropic", &all, &[fact(Tokens, Minute, 50_000, 48_000, 2.0)]);
        check("anthropic", &combined, &[fact(Tokens, Minute, 10_000, 9000, 6.0)]);
        check("anthropic", &output("9000"), &[]);
        let [a, b, c] = output("0");
        check("anthropic", &[limit, input, reset, a, b, c], &[fact(Tokens, Minute, 50_000, 0, 30.0)]);
        check("anthropic", &output("0"), &[Told { limit: None, ..fact(Tokens, Minute, 1, 0, 30.0) }]);
    }

    #[test]
    fn the_ietf_draft_in_its_forms() {
        for (limit, span) in [
            ("100", Unnamed),
            ("100, 100;w=60", Minute),
            ("100;w=3600", Hour),
            ("100, 1000;w=3600, 100;w=86400;comment=\"a, b; w=60\"", Day),
            ("100, 10;w=1", Unnamed),
            ("100, 100;w=7", Unnamed),
        ] {
            let fields =
                [("ratelimit-limit", limit), ("ratelimit-remaining", "50"), ("ratelimit-reset", "30")];
            check("x", &fields, &[fact(Requests, span, 100, 50, 30.0)]);
        }
        check(
            "x",
            &[("ratelimit-limit", "1,000"), ("ratelimit-remaining", "5")],
            &[Told { limit: None, ..fact(Requests, Unnamed, 1, 5, 0.0) }],
        );
        let default = [fact(Requests, Minute, 100, 50, 30.0)];
        check(
            "x",
            &[("ratelimit", "\"default\";r=50;t=30"), ("ratelimit-policy", "\"default\";q=100;w=60")],
            &default,
        );
        check(
            "x",
            &[("ratelimit", "limit=100, remaining=50, reset=30"), ("ratelimit-policy", "100;w=60")],
            &default,
        );
        check(
            "x",
            &[
                ("ratelimit-limit", "100"),
                ("ratelimit-remaining", "50"),
                ("ratelimit-reset", "30"),
                ("ratelimit-policy", "100;w=60"),
            ],
            &default,
        );
        check(
            "x",
            &[
                ("ratelimit", "\"a,;\" ; r=0;t=1 , day;r=900;t=3600;pk=:eA==:"),
                ("ratelimit-policy", "\"a,;\";q=10;w=1"),
                ("ratelimit-policy", "day;q=1000;w=86400;qu=\"tokens\",\"bytes\";q=9;qu=\"content-bytes\""),
            ],
            &[fact(Requests, Unnamed, 10, 0, 1.0), fact(Tokens, Day, 1000, 900, 3600.0)],
        );
        for nonsense in ["", ",,;;", "\"a", "\"a\";r;t", "\"a\";r=-1;t=30", "r=5", "\"a\";r=x", "limit=x"] {
            check("x", &[("ratelimit", nonsense)], &[]);
            check("x", &[("ratelimit-policy", nonsense)], &[]);
        }
    }

    #[test]
    fn nonsense_is_no_fact() {
        for (limit, remaining) in [("10", "11"), ("0", "0"), ("-1", "-1"), ("", ""), ("1000000000001", "x")] {
            check("x", &[("x-ratelimit-limit", limit), ("x-ratelimit-remaining", remaining)], &[]);
        }
        for name in [
            "x-ratelimit-",
            "x-ratelimit",
            "x-ratelimit-limit-limit",
            "x-ratelimit-limit-day-minute",
            "x-ratelimit-requests",
            "x-ratelimit-used",
            "x-ratelimit-reset",
            "x-ratelimit-limit-",
            "x-ratelimit--limit",
            "ratelimit-",
            "limit",
            "x",
            "",
        ] {
            check("x", &[(name, "5")], &[]);
        }
        assert_eq!(read("x", &[("é-ratelimit-limit", "5"), ("x-ratelimit-limité", "5")]), []);
    }

    #[test]
    fn there_is_a_most_of_facts() {
        let mut names = Vec::new();
        for prefix in ["x-ratelimit", "ratelimit", "x-ratelimitbysize", "anthropic-ratelimit"] {
            for span in ["", "-minute", "-hour", "-day", "-month"] {
                names.push(format!("{prefix}-limit-requests{span}"));
                names.push(format!("{prefix}-limit-tokens{span}"));
            }
        }
        let fields: Vec<_> = names.iter().zip(1..).map(|(name, n): (_, u64)| (name, n.to_string())).collect();
        assert!(fields.len() > TOLD_FACTS_MAX);
        let told = told("x", fields.iter().map(|(name, value)| (&name[..], value.as_bytes())), NOW);
        assert_eq!(told.len(), TOLD_FACTS_MAX);
    }

    #[test]
    fn moments_are_the_providers() {
        let fields = [
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "2026-11-23T11:01:00Z"),
            ("date", "Mon, 23 Nov 2026 11:00:00 GMT"),
        ];
        assert_eq!(read("x", &fields)[0].reset, Some(Duration::from_secs(60)));
        let heard = heard("x", fields.iter().map(|(name, value)| (*name, value.as_bytes())), NOW);
        assert_eq!(heard.wall - NOW, 31_600_000);
    }

    #[test]
    fn retry_after_headers() {
        let check = |fields: &Fields, expected: Option<f64>| {
            let heard = heard("x", fields.iter().map(|(name, value)| (*name, value.as_bytes())), NOW);
            assert_eq!(heard.retry_after, expected.map(Duration::from_secs_f64), "{fields:?}");
        };
        check(&[("Retry-After", "20")], Some(20.0));
        check(&[("retry-after", "1.5")], Some(1.5));
        check(&[("retry-after", "Mon, 23 Nov 2026 08:13:20 GMT")], Some(21_600.0));
        check(&[("retry-after", "Mon, 23 Nov 2026 01:13:20 GMT")], None);
        check(&[("retry-after-ms", "1500")], Some(1.5));
        check(&[("retry-after-ms", "1500"), ("retry-after", "2")], Some(2.0));
        check(&[("retry-after", "soon")], None);
        check(&[], None);
    }

    #[test]
    fn openrouter_repeats_its_fields() {
        let body = |message: &str, source: &str| {
            json!({"error": {"message": message, "metadata": {"limit_source": source, "headers": {
                "X-RateLimit-Limit": "50", "X-RateLimit-Remaining": 0, "X-RateLimit-Reset": 1_795_400_060_000_u64,
                "Retry-After": 7, "X-Other": null, "X-RateLimit-Limit-Day": "x".repeat(600),
            }}}})
        };
        for (message, source, span) in [
            ("Rate limit exceeded: free-models-per-day. Add", "", Day),
            ("Rate limit exceeded: free-models-per-min. ", "", Minute),
            ("Rate limit exceeded", "openrouter_free_tier_daily", Day),
            ("Rate limit exceeded", "x", Unnamed),
        ] {
            let heard = heard_in_body("openrouter", &body(message, source), NOW);
            assert_eq!(heard.told, [fact(Requests, span, 50, 0, 60.0)], "{message}");
            assert_eq!(heard.retry_after, Some(Duration::from_secs(7)));
        }
        for nonsense in [json!(null), json!([]), json!({"error": {"metadata": {"headers": [1]}}})] {
            assert_eq!(told_in_body("openrouter", &nonsense, NOW), []);
        }
    }

    #[test]
    fn google_names_the_limits_that_were_hit() {
        let body = |violations: Value| {
            json!([{"error": {"details": [
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "30s"},
            ]}}])
        };
        let violations = json!([
            {"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "quotaValue": "5"},
            {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "20"},
            {"quotaId": "GenerateContentInputTokensPerModelPerMinute-FreeTier", "quotaValue": 250_000},
            {"quotaId": "x", "quotaMetric": "x_input_token_count"},
            {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "0"},
            7,
        ]);
        let spent = |unit, span, limit| Told { unit, span, limit, remaining: Some(0), reset: None };
        assert_eq!(
            told_in_body("gemini", &body(violations), NOW),
            [
                spent(Requests, Minute, Some(5)),
                spent(Requests, Day, Some(20)),
                spent(Tokens, Minute, Some(250_000)),
                spent(Tokens, Unnamed, None),
                spent(Requests, Day, Some(0)),
                spent(Requests, Unnamed, None),
            ]
        );
        assert_eq!(told_in_body("gemini", &body(json!(null)), NOW), []);
    }

    #[test]
    fn facts_from_two_places_become_one() {
        let check = |first: Told, second: Told, expected: &[Told]| {
            let mut facts = vec![first];
            merge(&mut facts, second);
            assert_eq!(facts, expected);
        };
        let day = fact(Requests, Day, 50, 0, 60.0);
        let unnamed = fact(Requests, Unnamed, 50, 0, 60.0);
        let bare = Told { limit: Some(50), remaining: None, reset: None, ..day };
        check(unnamed, day, &[day]);
        check(day, unnamed, &[day]);
        check(day, bare, &[day]);
        check(bare, day, &[day]);
        check(unnamed, bare, &[day]);
        check(day, fact(Requests, Unnamed, 20, 0, 1.0), &[day, fact(Requests, Unnamed, 20, 0, 1.0)]);
        check(day, fact(Tokens, Day, 50, 0, 60.0), &[day, fact(Tokens, Day, 50, 0, 60.0)]);
        check(bare, fact(Requests, Day, 20, 0, 1.0), &[bare, fact(Requests, Day, 20, 0, 1.0)]);
        let above = Told { limit: None, ..fact(Requests, Day, 0, 51, 60.0) };
        check(bare, above, &[Told { reset: above.reset, ..bare }]);
        check(above, bare, &[above]);
    }

    #[test]
    fn only_short_text_is_shown() {
        assert_eq!(shown(b"-1"), ": -1");
        for hidden in [&b"\x1b[31m"[..], "é".as_bytes(), &[b'x'; 33]] {
            assert_eq!(shown(hidden), "");
        }
    }
}
