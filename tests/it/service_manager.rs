//! What systemd is told, with a socket of the test in its place.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::harness::*;

/// The manager's end.
struct Manager(UnixDatagram);

impl Manager {
    fn at(address: &SocketAddr) -> Self {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(socket)
    }

    /// The next message, but for signs of life.
    #[track_caller]
    fn hears(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.0.recv(&mut buffer).expect("a message");
            let lines = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if lines != "WATCHDOG=1" {
                return lines.lines().map(str::to_owned).collect();
            }
        }
    }
}

#[track_caller]
fn check_tells(name: &str, address: &SocketAddr) {
    let manager = Manager::at(address);
    let upstream = Upstream::healthy("Hello");
    let config = Config::new().backend(&upstream);
    let mut proxy = config.clone().env("NOTIFY_SOCKET", name).start();
    assert_eq!(manager.hears(), ["READY=1", "STATUS=1 backends"]);
    proxy.check_alive().unwrap();
    let yaml = config.clone().backend(&upstream).yaml();
    for (yaml, outcome) in
        [(yaml.as_str(), "STATUS=2 backends"), ("nonsense: 1", "STATUS=2 backends; the last reload")]
    {
        proxy.reload(yaml);
        let reloading = manager.hears();
        assert_eq!(reloading[0], "RELOADING=1");
        let micros = reloading[1].strip_prefix("MONOTONIC_USEC=").expect("a time stamp");
        assert!(micros.parse::<u64>().is_ok(), "{reloading:?}");
        let ready = manager.hears();
        assert_eq!(ready[0], "READY=1");
        assert!(ready[1].starts_with(outcome), "{ready:?}");
        assert_eq!(ready.len(), 2, "{ready:?}");
    }
    proxy.stop();
    assert_eq!(manager.hears()[0], "STOPPING=1");
    assert_eq!(proxy.exit_status().code(), Some(0));
}

#[test]
fn ready_reload_and_stop_on_a_path() {
    let dir = TempDir::new();
    let path = dir.path().join("notify");
    check_tells(path.to_str().unwrap(), &SocketAddr::from_pathname(&path).unwrap());
}

#[test]
fn ready_reload_and_stop_on_an_abstract_name() {
    let name = format!("ai-free-swap-it-{}", std::process::id());
    check_tells(&format!("@{name}"), &SocketAddr::from_abstract_name(name).unwrap());
}

#[test]
fn signs_of_life_come_for_as_long_as_it_runs() {
    let dir = TempDir::new();
    let path = dir.path().join("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let upstream = Upstream::healthy("Hello");
    let config = Config::new().backend(&upstream).env("NOTIFY_SOCKET", path.to_str().unwrap());
    let _proxy = config.env("WATCHDOG_USEC", "20000").start();
    let mut buffer = [0; 64];
    for _ in 0..5 {
        while manager.0.recv(&mut buffer).expect("a sign of life") != b"WATCHDOG=1".len() {}
    }
}

#[test]
fn nobody_there_to_tell_is_no_failure() {
    let upstream = Upstream::healthy("Hello");
    let long = format!("/{}", "x".repeat(200));
    for name in ["", "/nowhere/at/all", "@nobody-listens-here", "vsock:2:1234", "relative", &long] {
        let mut proxy = Config::new().backend(&upstream).env("NOTIFY_SOCKET", name).start();
        proxy.chat(HELLO).check_answer("Hello").unwrap();
        proxy.stop();
        assert_eq!(proxy.exit_status().code(), Some(0), "{name}");
    }
}
