//! Any error answer gets a verdict: one line for people, and a time that is neither past nor absurd.
#![no_main]

use ai_free_swap::route::{
    Now,
    verdict::{Class, Failure, Scope, judge_answer, judge_failure},
};
use libfuzzer_sys::fuzz_target;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Longer than a word and with digits: it must never come out.
const SECRET: &str = "a1b2c3d4e5f6g7h8i9j0k1l2";
/// An ellipsis stands behind a message that was cut.
const MESSAGE_CHARS_MAX: usize = 300 + 1;
const WAIT_MAX: Duration = Duration::from_secs(32 * 24 * 3600);

/// `PROVIDER STATUS SECONDS-SINCE-1970`, then header lines, an empty line, and the body.
fn parts(text: &[u8]) -> (String, u16, u64, Vec<(String, String)>, &[u8]) {
    let split = text.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = split.map_or((text, &b""[..]), |at| (&text[..at], &text[at + 2..]));
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let provider = first.next().unwrap_or_default().to_owned();
    let status = first.next().and_then(|status| status.parse().ok()).unwrap_or(429);
    let wall = first.next().and_then(|wall| wall.parse().ok()).unwrap_or(1_795_400_000);
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    (provider, status, wall, headers, body)
}

fn check_message(message: &str) {
    assert!(!message.contains(|c: char| c.is_control() || c == '\u{2028}' || c == '\u{2029}'), "{message:?}");
    assert!(message.chars().count() <= MESSAGE_CHARS_MAX, "{}", message.chars().count());
    assert!(!message.contains(SECRET), "{message:?}");
}

fuzz_target!(|data: &[u8]| {
    let (provider, status, wall, headers, body) = parts(data);
    let fields = || headers.iter().map(|(name, value)| (&name[..], value.as_bytes()));
    // Any clock is a clock, but not every number is a time.
    let Some(wall) = UNIX_EPOCH.checked_add(Duration::from_secs(wall)) else { return };
    let now = Now { mono: Instant::now(), wall };
    let judged = judge_answer(&provider, status, fields(), body, now, &[]);
    let verdict = &judged.verdict;
    check_message(&verdict.message);
    assert!(!verdict.to_string().contains(char::is_control));
    assert!(verdict.status != Some(0));
    if !(200..300).contains(&status) && status != 0 {
        assert_eq!(verdict.status, Some(status), "the status is kept");
    }
    if let Some(retry) = verdict.retry {
        assert!(retry.until > now.mono && retry.until <= now.mono + WAIT_MAX, "{:?}", retry.until - now.mono);
        assert!(matches!(verdict.class, Class::RateLimited | Class::QuotaDone(_)));
    }
    if verdict.class.is_clients() {
        assert_eq!(verdict.scope, Scope::Request, "a client's mistake benches nobody");
    }
    if judged.learned.context.is_some() {
        assert_eq!(verdict.class, Class::TooLarge);
    }
    assert_eq!(judge_answer(&provider, status, fields(), body, now, &[]), judged);

    let words = String::from_utf8_lossy(body).into_owned();
    for failure in [Failure::Connect(words.clone()), Failure::Tls(words.clone()), Failure::Garbled(words)] {
        check_message(&judge_failure(&failure).message);
    }
});
