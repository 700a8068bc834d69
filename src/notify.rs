//! Tells the service manager how the program is: the protocol of systemd's `sd_notify(3)`, which is one datagram of
//! `NAME=value` lines to the socket that `NOTIFY_SOCKET` names. Knows nothing of what the program does.
//!
//! Nobody listening is no failure: without the variable nothing is sent, and a message that cannot be delivered is lost.

use crate::limits::NOTIFY_TIME;
use rustix::time::{ClockId, clock_gettime};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
}

impl Notifier {
    /// `name` is the value of `NOTIFY_SOCKET`: a path, or `@` and a name in Linux' abstract namespace.
    ///
    /// # Errors
    /// Nobody listens there, or it is an address of another kind. [`Notifier::default`] says nothing to nobody.
    pub fn connect(name: &OsStr) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address(name.as_bytes())?)?;
        // The manager reads slowly while a whole system starts: worth a moment, as a lost READY is a failed start.
        socket.set_write_timeout(Some(NOTIFY_TIME))?;
        Ok(Self { socket: Some(socket) })
    }

    /// The listeners are open and the configuration is in force.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// The configuration is being read again; [`Notifier::ready`] must follow, whatever comes of it.
    pub fn reloading(&self) {
        // By the time stamp the manager knows that this answers its own signal, and no older one.
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading the configuration"));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=waiting for running requests");
    }

    /// Still alive. Due at least once in the time that `WATCHDOG_USEC` names.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket
            && let Err(e) = socket.send(message.as_bytes())
        {
            log::debug!("the service manager was not told: {e}");
        }
    }
}

/// How often to call [`Notifier::alive`], as `WATCHDOG_USEC` (microseconds) and `WATCHDOG_PID` have it: twice in the
/// time, as `sd_watchdog_enabled(3)` recommends. `None`: nobody waits for it, or for another process.
pub fn watchdog_gap(micros: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    let ours = pid.is_none_or(|pid| pid.parse() == Ok(own_pid));
    let micros: u64 = micros?.parse().ok()?;
    (ours && micros > 1).then(|| Duration::from_micros(micros / 2))
}

fn address(name: &[u8]) -> io::Result<SocketAddr> {
    match name.split_first() {
        Some((b'/', _)) => SocketAddr::from_pathname(OsStr::from_bytes(name)),
        #[cfg(target_os = "linux")]
        Some((b'@', name)) => {
            use std::os::linux::net::SocketAddrExt;
            SocketAddr::from_abstract_name(name)
        }
        // `vsock:` and whatever else may come.
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
}

/// A line end would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (name, good) in
            [("/run/x", true), ("@x", cfg!(target_os = "linux")), ("", false), ("vsock:2:1", false)]
        {
            assert_eq!(address(name.as_bytes()).is_ok(), good, "{name}");
        }
        let long = format!("/{}", "x".repeat(200));
        assert!(address(long.as_bytes()).is_err());
        assert!(address(b"/a\0b").is_err());
    }

    #[test]
    fn watchdog() {
        let half = Some(Duration::from_secs(15));
        for (micros, pid, expected) in [
            (None, None, None),
            (Some("30000000"), None, half),
            (Some("30000000"), Some("7"), half),
            (Some("30000000"), Some("8"), None),
            (Some("30000000"), Some("x"), None),
            (Some("0"), None, None),
            (Some("1"), None, None),
            (Some("-5"), None, None),
            (Some("soon"), Some("7"), None),
        ] {
            assert_eq!(watchdog_gap(micros, pid, 7), expected, "{micros:?} {pid:?}");
        }
    }

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(one_line("a\nREADY=0\r\u{85}b"), "a READY=0  b");
    }
}
