//! `RateLimit` and `RateLimit-Policy` of the IETF draft (draft-ietf-httpapi-ratelimit-headers) in the forms it went
//! through: `"default";r=50;t=30` with `"default";q=100;w=60`, `limit=100, remaining=50, reset=30` with `100;w=60`,
//! and the list in `RateLimit-Limit: 100, 100;w=60`.
//!
//! Takes what is clear and leaves the rest.

use super::told::{Span, Told, Unit, count, merge};
use super::{plain_number, wait};
use crate::limits::TOLD_FACTS_MAX;

/// The facts of all values of both fields.
pub(super) fn facts(limits: &[&str], policies: &[&str], facts: &mut Vec<Told>) {
    let policies: Vec<Policy> = policies
        .iter()
        .flat_map(|value| split(value, ','))
        .filter_map(Policy::read)
        .take(TOLD_FACTS_MAX)
        .collect();
    for value in limits {
        let whole = dictionary(value);
        let members = split(value, ',').take(TOLD_FACTS_MAX);
        let items = members.filter_map(|member| item(member, &policies));
        for fact in whole.into_iter().chain(items).filter_map(Told::checked) {
            merge(facts, fact);
        }
    }
    for policy in &policies {
        // Those that an item named are there already, with the same limit.
        if let Some(fact) = policy.told().and_then(Told::checked) {
            merge(facts, fact);
        }
    }
}

/// `100` or `100, 100;w=60`: the limit in force, and its window if it has one. A list whose further members are no
/// policies may be a number in groups of three, and is nothing.
pub(super) fn limit(text: &str) -> Option<(u64, Span)> {
    let mut members = split(text, ',');
    let first = members.next()?;
    let limit = count(bare(first))?;
    let mut span = window(first);
    for member in members {
        param(member, "w")?;
        if span.is_none() && count(bare(member)) == Some(limit) {
            span = window(member);
        }
    }
    Some((limit, span.unwrap_or(Span::Unnamed)))
}

struct Policy<'h> {
    /// Without quotes; in the older form the quota itself.
    name: &'h str,
    unit: Unit,
    quota: Option<u64>,
    span: Span,
}

impl<'h> Policy<'h> {
    /// `None` also if it counts something else: bytes, or calls at a time.
    fn read(member: &'h str) -> Option<Self> {
        let unit = match param(member, "qu") {
            None | Some("requests") => Unit::Requests,
            Some("tokens") => Unit::Tokens,
            Some(_) => return None,
        };
        let name = bare(member);
        let quota = param(member, "q").map_or_else(|| count(name), count);
        Some(Self { name, unit, quota, span: window(member).unwrap_or(Span::Unnamed) })
    }

    fn told(&self) -> Option<Told> {
        Some(Told {
            unit: self.unit,
            span: self.span,
            limit: Some(self.quota?),
            remaining: None,
            reset: None,
        })
    }
}

/// `"default";r=50;t=30`
fn item(member: &str, policies: &[Policy]) -> Option<Told> {
    let remaining = Some(count(param(member, "r")?)?);
    let reset = param(member, "t").and_then(plain_number).and_then(wait);
    let named = |policy: &&Policy| policy.name == bare(member);
    let told = policies.iter().find(named).map(|policy| (policy.unit, policy.span, policy.quota));
    let (unit, span, limit) = told.unwrap_or((Unit::Requests, Span::Unnamed, None));
    Some(Told { unit, span, limit, remaining, reset })
}

/// `limit=100, remaining=50, reset=30`
fn dictionary(value: &str) -> Option<Told> {
    let find = |wanted: &str| {
        let mut pairs = split(value, ',').filter_map(|member| bare(member).split_once('='));
        pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    let limit = find("limit").and_then(count);
    let remaining = find("remaining").and_then(count);
    let reset = find("reset").and_then(plain_number).and_then(wait);
    limit.or(remaining)?;
    Some(Told { unit: Unit::Requests, span: Span::Unnamed, limit, remaining, reset })
}

/// A member without its parameters and quotes.
fn bare(member: &str) -> &str {
    split(member, ';').next().unwrap_or_default().trim_matches('"')
}

/// The value of a parameter, without quotes.
fn param<'a>(member: &'a str, wanted: &str) -> Option<&'a str> {
    let mut params = split(member, ';').skip(1).filter_map(|param| param.split_once('='));
    let (_, value) = params.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted))?;
    Some(value.trim().trim_matches('"'))
}

fn window(member: &str) -> Option<Span> {
    param(member, "w").and_then(count).map(Span::of_seconds)
}

/// Pieces between separators that stand outside quotes, without white space around them.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c: char| {
        quoted ^= c == '"';
        c == separator && !quoted
    })
    .map(str::trim)
}
