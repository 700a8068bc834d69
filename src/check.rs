//! `ai-free-swap check`: one tiny call to each backend, side by side, as a table.

use crate::dialect::ask::{Ask, Dialect};
use crate::proxy::attempt::attempt;
use crate::proxy::job::{ClientFields, Job, Reading};
use crate::proxy::state::State;
use crate::route::verdict::Class;
use futures_lite::future;
use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;
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
    let rows = all(state.upstreams.iter().map(|upstream| row(state, upstream)).collect()).await;
    let good = rows.iter().all(|row| row.good);
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let mut table = String::new();
    for row in rows {
        let verdict = if row.good { "ok" } else { "FAIL" };
        // Writing to a String cannot fail.
        let _ = writeln!(table, "{:<width$}  {verdict:<4}  {:>6} ms  {}", row.name, row.ms, row.text);
    }
    (table, good)
}

struct Row {
    name: String,
    good: bool,
    ms: u128,
    text: String,
}

async fn row(state: &State, upstream: &crate::proxy::upstream::Upstream) -> Row {
    let start = Instant::now();
    let name = format!("{} ({})", upstream.name, upstream.model);
    let read =
        Ask::parse(Dialect::Chat, BODY).and_then(|ask| Ok((Reading::new(Dialect::Chat, BODY, &[])?, ask)));
    let (reading, ask) = match read {
        Ok(read) => read,
        Err(e) => return Row { name, good: false, ms: 0, text: e.message.into_owned() },
    };
    let job = Job {
        ask: &ask,
        body: BODY,
        reading: Some(&reading),
        translate: false,
        fields: &ClientFields::default(),
        signatures: &state.signatures,
        show_provider: false,
        secrets: &state.secrets,
        until: start + CHECK_TIME,
        seed: 0,
        created: 0,
    };
    let (good, text) = match attempt(&state.pool, upstream, &job).await {
        Ok(_) => (true, String::new()),
        // The key and the model are good; the answer to so short a question may be.
        Err(failed) if failed.verdict.class == Class::Empty => {
            (true, "answers, though with an empty text".into())
        }
        Err(failed) => (false, state.masked(&failed.verdict.to_string())),
    };
    Row { name, good, ms: start.elapsed().as_millis(), text }
}

/// Runs all at once.
async fn all<T>(work: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<Pin<Box<_>>> = work.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = running.iter().map(|_| None).collect();
    future::poll_fn(|cx| {
        for (work, done) in running.iter_mut().zip(&mut done) {
            if done.is_none()
                && let Poll::Ready(value) = work.as_mut().poll(cx)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}
