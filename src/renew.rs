//! After a panic the program starts anew, in the same process.
//!
//! A panic ends the process and with it all streams: unwinding would spare the others, and costs a quarter of the
//! binary (ARCHITECTURE.md). No panic is known. For the one that is not, the program does not depend on somebody to
//! restart it: it executes itself again, so that its process number, and what a service manager knows of it, stay.

use crate::limits::{RENEWAL_GAP, RENEWALS_MAX};
use std::ffi::OsString;
use std::fmt::Arguments;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// How often in a row the program has started anew; handed on in the environment.
const COUNT: &str = "AI_FREE_SWAP_RENEWALS";

/// From now on a panic is told on stderr as ever, and then the program is executed again with its own command line.
pub fn on_panic() {
    let begun = Instant::now();
    let before = std::env::var(COUNT).ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        let Some(count) = next(before, begun.elapsed()) else { return };
        say(format_args!("that is a defect in ai-free-swap, please report what stands above; starting anew"));
        execute(count);
    }));
}

/// The number of this renewal, or `None` if the program would only do the same again.
fn next(before: u32, ran: Duration) -> Option<u32> {
    let count = if ran < RENEWAL_GAP { before.saturating_add(1) } else { 1 };
    (count <= RENEWALS_MAX).then_some(count)
}

/// Comes back only if that failed. All descriptors are closed by it, so the ports are free.
fn execute(count: u32) {
    let mut args = std::env::args_os();
    let name = args.next();
    let args: Vec<OsString> = args.collect();
    // The second for a system without /proc, or a file that has been replaced since.
    let paths = [std::env::current_exe().ok().map(OsString::from), name];
    for path in paths.into_iter().flatten() {
        let error = Command::new(&path).args(&args).env(COUNT, count.to_string()).exec();
        say(format_args!("cannot start {} anew: {error}", path.display()));
    }
}

/// Nobody is left to tell if stderr is closed, and a panic in here would be one too many.
fn say(what: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_defect_at_every_start_is_given_up() {
        let soon = RENEWAL_GAP - Duration::from_millis(1);
        for (before, ran, expected) in [
            (0, soon, Some(1)),
            (RENEWALS_MAX - 1, soon, Some(RENEWALS_MAX)),
            (RENEWALS_MAX, soon, None),
            (u32::MAX, soon, None),
            (RENEWALS_MAX, RENEWAL_GAP, Some(1)),
        ] {
            assert_eq!(next(before, ran), expected, "{before} before, after {ran:?}");
        }
    }

    /// Not a test of its own but the program of the next one: it always panics.
    #[test]
    fn child() {
        const PANICS: &str = "AI_FREE_SWAP_TEST_PANICS";
        if std::env::var_os(PANICS).is_some() {
            on_panic();
            // On this thread there is no harness around it that would catch it.
            std::thread::spawn(|| panic!("on purpose, process {}", std::process::id())).join().unwrap_err();
            std::process::exit(7);
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "renew::tests::child", "--nocapture"])
            .env(PANICS, "1")
            .env_remove(COUNT)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        let mut panics: Vec<_> = told.lines().filter(|line| line.starts_with("on purpose")).collect();
        assert_eq!(panics.len(), 1 + RENEWALS_MAX as usize, "{told}");
        panics.dedup();
        assert_eq!(panics.len(), 1, "the process stays the same: {told}");
        assert_eq!(output.status.code(), Some(7), "in the end the panic goes its way: {told}");
    }
}
