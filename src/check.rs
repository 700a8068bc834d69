//! `ai-free-swap check`: one tiny call to each backend, side by side, as a table.

use crate::dialect::ask::{Ask, Dialect};
use crate::limits::CHECKS_AT_ONCE_MAX;
use crate::provider::ratelimit::{Span, Told};
use crate::proxy::attempt::attempt;
use crate::proxy::job::{ClientFields, Job, Reading};
use crate::proxy::state::State;
use crate::proxy::status::{span_name, unit_name};
use crate::proxy::upstream::Upstream;
use crate::route::verdict::{Class, Window};
use futures_lite::future;
use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

/// A question that costs a few tokens. Reasoning models need some room before they say anything.
const BODY: &str = r#"{"messages":[{"role":"user","content":"Reply with OK."}],"max_tokens":64}"#;
/// Nobody waits longer for a table.
const CHECK_TIME: Duration = Duration::from_secs(60);

/// What is configured, for `check --offline`.
pub fn list(state: &State) -> String {
    let count = state.upstreams.len();
    let mut text =
        format!("The configuration is good: {count} backend{}.\n", if count == 1 { "" } else { "s" });
    for (backend, upstream) in state.config.backends.iter().zip(&state.upstreams) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  priority {}  {} ({})", backend.priority, upstream.name, upstream.model);
    }
    text
}

/// Calls every backend; the table, and whether all of them answered.
pub async fn check(state: &State) -> (String, bool) {
    let rows = all(state
        .upstreams
        .iter()
        .enumerate()
        .map(|(place, upstream)| row(state, place, upstream))
        .collect())
    .await;
    let good = rows.iter().all(|row| row.word == OK);
    let width = |of: fn(&Row) -> &str| rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0);
    let (names, words) = (width(|row| &row.name), width(|row| row.word));
    let mut table = String::new();
    for Row { name, word, ms, text } in &rows {
        let line = format!("{name:<names$}  {word:<words$}  {ms:>6} ms  {text}");
        // Writing to a String cannot fail.
        let _ = writeln!(table, "{}", line.trim_end());
    }
    (table, good)
}

struct Row {
    name: String,
    /// How it stands, in a word.
    word: &'static str,
    ms: u128,
    text: String,
}

const OK: &str = "ok";

/// What a failure comes to for who reads the table.
fn word(class: Class) -> &'static str {
    match class {
        // The key and the model are good; the answer to so short a question may be.
        Class::Empty => OK,
        Class::RateLimited => "limited",
        Class::QuotaDone(Window::Day | Window::Month) => "no quota",
        Class::QuotaDone(Window::Credit) => "no credit",
        Class::KeyBad => "bad key",
        Class::ModelGone => "no model",
        Class::Down => "down",
        Class::Forbidden => "forbidden",
        Class::Blocked => "blocked",
        Class::TooLarge | Class::OutputInvalid | Class::BadRequest => "refused",
    }
}

async fn row(state: &State, place: usize, upstream: &Upstream) -> Row {
    let start = Instant::now();
    let label = state.stats.backend(place).map_or(&upstream.name, |series| &series.label);
    let name = format!("{label} ({})", upstream.model);
    let read =
        Ask::parse(Dialect::Chat, BODY).and_then(|ask| Ok((Reading::new(Dialect::Chat, BODY, &[])?, ask)));
    let (reading, ask) = match read {
        Ok(read) => read,
        Err(e) => return Row { name, word: word(Class::BadRequest), ms: 0, text: e.message.into_owned() },
    };
    let heard = Mutex::new(Vec::new());
    let hear = |told: &[Told]| add(&heard, told);
    let job = Job {
        id: "check",
        ask: &ask,
        body: BODY,
        reading: Some(&reading),
        translate: false,
        fields: &ClientFields::default(),
        signatures: &state.signatures,
        show_provider: false,
        hear: &hear,
        secrets: &state.secrets,
        until: start + CHECK_TIME,
        seed: 0,
        created: 0,
    };
    let (word, text) = match attempt(&state.pool, upstream, &job).await {
        Ok(_) => (OK, String::new()),
        Err(failed) => {
            add(&heard, failed.learned.as_ref().map(|learned| learned.told.as_slice()).unwrap_or_default());
            match failed.verdict.class {
                Class::Empty => (OK, "answers, though with an empty text".into()),
                class => (word(class), state.masked(&failed.verdict.to_string())),
            }
        }
    };
    let mut texts = vec![text, limits(&heard.into_inner().unwrap_or_else(PoisonError::into_inner))];
    texts.retain(|text| !text.is_empty());
    Row { name, word, ms: start.elapsed().as_millis(), text: texts.join("; ") }
}

fn add(heard: &Mutex<Vec<Told>>, told: &[Told]) {
    heard.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(told);
}

/// The limits that an answer told.
fn limits(told: &[Told]) -> String {
    let mut words: Vec<String> = Vec::new();
    for Told { unit, span, limit, remaining, .. } in told {
        let what = match span {
            Span::Unnamed => unit_name(*unit).to_owned(),
            span => format!("{}/{}", unit_name(*unit), span_name(*span)),
        };
        let word = match (remaining, limit) {
            (Some(left), Some(limit)) => format!("{left} of {limit} {what} left"),
            (Some(left), None) => format!("{left} {what} left"),
            (None, Some(limit)) => format!("{limit} {what}"),
            (None, None) => continue,
        };
        // Header and body may say the same.
        if !words.contains(&word) {
            words.push(word);
        }
    }
    if words.is_empty() { String::new() } else { format!("limits: {}", words.join(", ")) }
}

/// Runs all side by side, so many at a time.
async fn all<T>(work: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<Pin<Box<_>>> = work.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = running.iter().map(|_| None).collect();
    future::poll_fn(|cx| {
        let mut pending = 0;
        for (work, done) in running.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            // Those behind begin when one of these ends.
            if pending == CHECKS_AT_ONCE_MAX {
                break;
            }
            match work.as_mut().poll(cx) {
                Poll::Ready(value) => *done = Some(value),
                Poll::Pending => pending += 1,
            }
        }
        if pending == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, yield_now};
    use std::cell::Cell;

    #[test]
    fn limits_in_words() {
        use crate::provider::ratelimit::Unit;
        let told = |unit, span, limit, remaining| Told { unit, span, limit, remaining, reset: None };
        let day = told(Unit::Requests, Span::Day, Some(1000), Some(998));
        for (told, expected) in [
            (vec![], ""),
            (vec![day, day], "limits: 998 of 1000 requests/day left"),
            (
                vec![
                    told(Unit::Tokens, Span::Minute, Some(8), None),
                    told(Unit::Tokens, Span::Unnamed, None, Some(0)),
                ],
                "limits: 8 tokens/minute, 0 tokens left",
            ),
        ] {
            assert_eq!(limits(&told), expected);
        }
    }

    #[test]
    fn never_more_than_so_many_run_at_a_time_and_all_come_to_an_end() {
        for count in [0, 1, CHECKS_AT_ONCE_MAX, CHECKS_AT_ONCE_MAX + 1, 5 * CHECKS_AT_ONCE_MAX] {
            let (running, most) = (Cell::new(0), Cell::new(0));
            let work = (0..count).map(|number| {
                let (running, most) = (&running, &most);
                async move {
                    running.set(running.get() + 1);
                    most.set(most.get().max(running.get()));
                    for _ in 0..number % 3 {
                        yield_now().await;
                    }
                    running.set(running.get() - 1);
                    number
                }
            });
            let done = block_on(all(work.collect()));
            assert_eq!(done, (0..count).collect::<Vec<_>>());
            assert!(most.get() <= CHECKS_AT_ONCE_MAX, "{} of {count}", most.get());
            assert!(count < 2 || most.get() > 1, "one after the other");
        }
    }
}
