//! What any head and any body say about limits is sound: bounded in number, no more left than there is, and a time
//! that is neither past nor absurd.
#![no_main]

use ai_free_swap::limits::TOLD_FACTS_MAX;
use ai_free_swap::provider::learn;
use ai_free_swap::provider::ratelimit::{Told, WAIT_MAX, exhausted, heard, merge, told, told_in_body};
use libfuzzer_sys::fuzz_target;

/// `PROVIDER SECONDS-SINCE-1970`, then header lines, an empty line, and the body.
fn parts(data: &[u8]) -> (&str, i64, Vec<(&str, &[u8])>, &[u8]) {
    let split = data.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = split.map_or((data, &b""[..]), |at| (&data[..at], &data[at + 2..]));
    let mut lines = head.split(|b| *b == b'\n');
    let first = std::str::from_utf8(lines.next().unwrap_or_default()).unwrap_or_default();
    let (provider, wall) = first.split_once(' ').unwrap_or((first, ""));
    let wall = wall.parse::<i64>().ok().and_then(|wall| wall.checked_mul(1000)).unwrap_or(1_795_400_000_000);
    let fields = lines.filter_map(|line| {
        let colon = line.windows(2).position(|pair| pair == b": ")?;
        Some((std::str::from_utf8(&line[..colon]).ok()?, &line[colon + 2..]))
    });
    (provider, wall, fields.collect(), body)
}

fn check(facts: &[Told]) {
    assert!(facts.len() <= TOLD_FACTS_MAX, "{}", facts.len());
    for fact in facts {
        assert!(fact.limit.or(fact.remaining).is_some(), "{fact:?}");
        assert!(fact.limit.is_none_or(|limit| fact.remaining.is_none_or(|left| left <= limit)), "{fact:?}");
        assert!(fact.reset.is_none_or(|reset| !reset.is_zero() && reset <= WAIT_MAX), "{fact:?}");
    }
    assert!(exhausted(facts).is_none_or(|wait| wait <= WAIT_MAX));
}

fuzz_target!(|data: &[u8]| {
    let (provider, wall, fields, body) = parts(data);
    let facts = told(provider, fields.iter().copied(), wall);
    check(&facts);
    assert!(facts.iter().all(|fact| fact.limit != Some(0)), "{facts:?}");
    assert_eq!(heard(provider, fields.iter().copied(), wall).told, facts);
    let upper: Vec<String> = fields.iter().map(|(name, _)| name.to_ascii_uppercase()).collect();
    let upper = upper.iter().zip(&fields).map(|(name, (_, value))| (&name[..], *value));
    assert_eq!(told(provider, upper, wall), facts, "names have no case");

    let json = serde_json::from_slice(body).unwrap_or_default();
    let repeated = told_in_body(provider, &json, wall);
    check(&repeated);
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    let in_words = learn::limit(&text);
    check(in_words.as_slice());
    let mut all = facts;
    repeated.into_iter().chain(in_words).for_each(|fact| merge(&mut all, fact));
    check(&all);
    if let Some(window) = learn::context_window(&text) {
        let digits = text.replace(',', "");
        assert!(digits.contains(&window.to_string()), "{window} is not in {text}");
    }
    learn::context_field(&json);
    learn::lacks(&text);
});
