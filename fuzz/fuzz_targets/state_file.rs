//! Any text is a saved ledger or an error; what is taken over is bounded, ends, and is saved again as it is.
#![no_main]

use ai_free_swap::limits::TOLD_FACTS_MAX;
use ai_free_swap::provider::{Limits, quota::rules};
use ai_free_swap::route::{
    Now,
    fit::Demand,
    ledger::{Ledger, Member, Salt, Scopes, Spent, Standing},
    saved::Saved,
};
use libfuzzer_sys::fuzz_target;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// The seeds are saved with this one, by members like these.
const SALT: Salt = [1, 2];
/// One place: two windows of at most 61 and 97 steps, and 16 facts, with numbers of 20 digits.
const PLACE_BYTES_MAX: usize = 16 * 1024;
/// No wait is believed that is longer than a month.
const WAIT_MAX: Duration = Duration::from_secs(32 * 24 * 3600);

fn members() -> Vec<Member> {
    let limits = Limits { rpm: Some(4), rpd: Some(30), tpm: Some(2000), tpd: None, concurrency: Some(3) };
    let member = |provider: &str, key: u32, account, model: &str| {
        let scopes = Scopes::new(SALT, provider, "https://p/v1", key, account, model);
        Member { limits, rules: rules(provider), grouped: account.is_some(), ..Member::new(scopes) }
    };
    vec![
        member("gemini", 1, None, "a"),
        member("openrouter", 1, None, "a:free"),
        member("groq", 1, Some("me"), "a"),
        member("groq", 2, Some("me"), "b"),
        member("groq", 2, Some("me"), "b"),
    ]
}

// The wall clock stands in the first line, in seconds; the rest is the file.
fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (wall, text) = text.split_once('\n').unwrap_or(("1795400000", text));
    let wall = UNIX_EPOCH.checked_add(Duration::from_secs(wall.parse().unwrap_or(1_795_400_000)));
    let (Some(wall), Ok(saved)) = (wall, Saved::parse(text)) else { return };
    let _ = saved.salt();
    // Late enough for what lies back a day to be a moment everywhere.
    let now = Now { mono: Instant::now(), wall };
    let mut ledger = Ledger::new(now, members());
    ledger.restore(&saved, now);

    let demand = Demand { tokens: 1, ..Demand::default() };
    let count = members().len();
    for backend in 0..count {
        for after in [0, 1, 3600, 100_000] {
            let at = now.mono + Duration::from_secs(after);
            let report = ledger.report(backend, at).unwrap();
            assert!(report.windows.len() <= 2 * (TOLD_FACTS_MAX + 4));
            let ends = report.windows.iter().filter_map(|window| window.resets);
            assert!(ends.into_iter().all(|end| end > at && end <= now.mono + WAIT_MAX));
            if let Standing::Benched { until, since, .. } = report.standing {
                assert!(since <= now.mono && until > at && until <= now.mono + WAIT_MAX);
            }
            let (left, _) = ledger.share_left(backend, at);
            assert!((0.0..=1.0).contains(&left), "{left}");
            ledger.unfit(backend, &demand, at);
        }
        let later = ledger.standing(backend, u64::MAX, now.mono + WAIT_MAX + Duration::from_secs(1));
        assert!(matches!(later, Standing::Open | Standing::HalfOpen), "{later:?} for ever");
        assert_eq!(ledger.unfit(backend, &demand, now.mono + Duration::from_secs(86_400)), None);
    }

    let again = ledger.save(SALT, now);
    let text = again.to_text();
    assert!(text.len() <= 200 + 20 * PLACE_BYTES_MAX, "{} bytes", text.len());
    let mut twin = Ledger::new(now, members());
    let parsed = Saved::parse(&text).unwrap();
    assert_eq!(parsed, again, "what is written can be read");
    twin.restore(&parsed, now);
    assert_eq!(twin.save(SALT, now), again, "what was restored is saved as it is");

    // It goes on with what it has.
    for backend in 0..count {
        let ticket = ledger.begin(backend, 10, now.mono);
        ledger.success(ticket);
        ledger.end(ticket, Spent::Tokens(u64::MAX));
        let _ = ledger.standing(backend, 1, now.mono);
    }
    let _ = ledger.save(SALT, now);
});
