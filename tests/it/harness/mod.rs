//! Scripted providers, the program as a child process, and a client that forgives no framing mistake.

mod certs;
mod client;
mod http;
mod proxy;
mod reply;
mod said;
mod selftest;
mod speaks;
mod table;
mod upstream;

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub use certs::{Authority, Certificate};
pub use client::{Connection, Event, Events, Stream, get, post};
pub use http::{Asked, Framing, Response};
pub use proxy::{Backend, Config, Proxy, TempDir, run};
pub use reply::{Reply, Step, chat_stream, chat_whole, event, raw, sse, sse_body, status, whole_body};
pub use said::{Said, Surface};
pub use speaks::{Answer, Protocol, USAGE};
pub use table::{RESCUE, Table};
pub use upstream::{RefusedPort, Request, Upstream, good_answer};

/// For every wait that ends as soon as its event comes: far above what a loaded machine needs.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The smallest useful requests; `model` is what every client sends that has not been told another one.
pub const HELLO: &str = r#"{"model":"aifree","messages":[{"role":"user","content":"hi"}]}"#;
pub const STREAM_HELLO: &str =
    r#"{"model":"aifree","messages":[{"role":"user","content":"hi"}],"stream":true}"#;

/// Every key the tests hand out begins with this, and nothing the program says may contain it.
pub const KEY_MARK: &str = "sk-secret-";

/// A value that threads change and wait for.
pub struct Watched<T>(Arc<(Mutex<T>, Condvar)>);

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Watched<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new((Mutex::new(value), Condvar::new())))
    }

    pub fn with<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.0.0.lock().unwrap_or_else(|e| e.into_inner()))
    }

    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.0.0.lock().unwrap_or_else(|e| e.into_inner()));
        self.0.1.notify_all();
        result
    }

    /// The first `Some` of `probe`, or `None` when the deadline passes.
    pub fn wait<R>(&self, deadline: Duration, mut probe: impl FnMut(&T) -> Option<R>) -> Option<R> {
        let end = Instant::now() + deadline;
        let mut value = self.0.0.lock().unwrap_or_else(|e| e.into_inner());
        loop {
            if let Some(result) = probe(&value) {
                return Some(result);
            }
            let left = end.checked_duration_since(Instant::now())?;
            value = self.0.1.wait_timeout(value, left).unwrap_or_else(|e| e.into_inner()).0;
        }
    }
}

/// Holds a scripted reply back until the test opens it.
#[derive(Clone)]
pub struct Gate(Watched<bool>, Option<Duration>);

impl Gate {
    pub fn new() -> Self {
        Self(Watched::new(false), None)
    }

    /// Opens by itself so long after the script reached it: for providers whose slowness is what is tested.
    pub fn after(milliseconds: u64) -> Self {
        Self(Watched::new(false), Some(Duration::from_millis(milliseconds)))
    }

    pub fn open(&self) {
        self.0.change(|open| *open = true);
    }

    /// Whether it is open for a script that has waited since then.
    pub fn is_open(&self, since: Instant) -> bool {
        self.1.is_some_and(|delay| since.elapsed() >= delay) || self.0.with(|open| *open)
    }
}

/// Runs every row, and reports all that fail instead of the first.
#[track_caller]
pub fn every<T>(
    rows: impl IntoIterator<Item = (impl Into<String>, T)>,
    check: impl Fn(T) -> Result<(), String>,
) {
    let (mut seen, mut failed) = (0, Vec::new());
    for (name, row) in rows {
        seen += 1;
        if let Err(why) = check(row) {
            failed.push(format!("{}: {why}", name.into()));
        }
    }
    assert!(seen > 0, "no rows: a loop over nothing passes");
    assert!(failed.is_empty(), "{} of {seen} failed:\n  {}", failed.len(), failed.join("\n  "));
}

/// The same for rows that wait: all at once, as a thread costs nothing while it waits.
#[track_caller]
pub fn every_at_once<T: Send>(
    rows: impl IntoIterator<Item = (impl Into<String>, T)>,
    check: impl Fn(T) -> Result<(), String> + Sync,
) {
    let results = std::thread::scope(|scope| {
        let check = &check;
        let running: Vec<_> =
            rows.into_iter().map(|(name, row)| (name.into(), scope.spawn(move || check(row)))).collect();
        let join = |(name, thread): (String, std::thread::ScopedJoinHandle<'_, _>)| {
            (name, thread.join().unwrap_or_else(|_| Err("panicked".into())))
        };
        running.into_iter().map(join).collect::<Vec<_>>()
    });
    every(results, |result| result);
}

/// A sample of `tests/golden/`.
#[track_caller]
pub fn golden(name: &str) -> String {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The body of a provider's error in `tests/golden/errors/`.
#[track_caller]
pub fn error_sample(name: &str) -> String {
    let sample: serde_json::Value = serde_json::from_str(&golden(&format!("errors/{name}.json"))).unwrap();
    sample["body"].to_string()
}

/// The names of the samples in a directory of `tests/golden/`.
#[track_caller]
pub fn golden_names(dir: &str) -> Vec<String> {
    let path = format!("{}/tests/golden/{dir}", env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<String> = std::fs::read_dir(&path)
        .unwrap_or_else(|e| panic!("{path}: {e}"))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// `Err` with what was expected, for use inside [`every`].
pub fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
