//! `ai-free-swap health`, as a container platform runs it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::*;

/// `health` with a config in front of `args`.
fn health(dir: &TempDir, config: &str, args: &[&str]) -> Output {
    let path = dir.write("health.yaml", config);
    let mut all = vec!["health", "--config", path.to_str().unwrap()];
    all.extend(args);
    run(dir, &all, &[])
}

#[track_caller]
fn check_well(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

#[track_caller]
fn check_unwell(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(why) && said.lines().count() == 1, "`{why}` is not in: {said}");
}

fn yaml(host: &str, port: u16, server: &str) -> String {
    let backends = Config::new().backend(Backend::at("http://127.0.0.1:1/v1")).yaml();
    format!("server:\n  host: \"{host}\"\n  port: {port}\n  api_key: client-key\n{server}{backends}")
}

#[test]
fn it_knows_where_the_program_listens() {
    let upstream = Upstream::healthy("Hello");
    let dir = TempDir::new();
    let socket = dir.path().join("socket");
    let listens = format!("socket: {}", socket.display());
    let mut proxy = Config::new().backend(&upstream).server("api_key: client-key").server(&listens).start();
    let port = proxy.addr().port();
    let on_socket = format!("  {listens}\n");
    for host in ["127.0.0.1", "0.0.0.0", "localhost"] {
        check_well(&health(&dir, &yaml(host, port, ""), &[]));
    }
    check_well(&health(&dir, &yaml("127.0.0.1", port, &on_socket), &[]));
    // The options win, as they do for the program.
    check_well(&health(
        &dir,
        &yaml("192.0.2.1", 1, ""),
        &["--host", "127.0.0.1", "--port", &port.to_string()],
    ));
    // Without a file: as the program itself would start here.
    check_well(&run(&dir, &["health"], &[("PORT", &port.to_string())]));
    let elsewhere = format!("  socket: {}\n", dir.path().join("elsewhere").display());
    check_unwell(&health(&dir, &yaml("127.0.0.1", port, &elsewhere), &[]), "unhealthy: unix:");
    proxy.stop();
    proxy.exit_status();
    check_unwell(&health(&dir, &yaml("127.0.0.1", port, ""), &[]), "unhealthy: 127.0.0.1");
}

#[test]
fn what_answers_otherwise_is_not_healthy() {
    let dir = TempDir::new();
    for (answer, why) in [
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "answered `HTTP/1.1 503`"),
        ("SSH-2.0-OpenSSH\r\n", "answered `SSH-2.0-Open`"),
        ("HTTP/1.1 2", "unhealthy"),
        ("", "unhealthy"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 11];
            stream.read_exact(&mut asked).unwrap();
            assert_eq!(&asked, b"GET /health");
            stream.write_all(answer.as_bytes()).unwrap();
        });
        check_unwell(&health(&dir, &yaml("127.0.0.1", port, ""), &[]), why);
        peer.join().unwrap();
    }
}

#[test]
fn it_waits_two_seconds_and_no_longer() {
    let dir = TempDir::new();
    // Connections are made by the system, and nobody takes them.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let began = Instant::now();
    check_unwell(&health(&dir, &yaml("127.0.0.1", port, ""), &[]), "no answer within 2 s");
    assert!(began.elapsed() >= Duration::from_secs(2));
}

#[test]
fn a_config_with_a_mistake_is_told_as_ever() {
    let dir = TempDir::new();
    check_unwell(&health(&dir, "nonsense: 1", &[]), "Error loading config");
}
