//! The question of `ai-free-swap health`: does the program that runs with this configuration answer? For container
//! images, which have no shell and no other client. Asks the program itself, never a provider.

use crate::config::Server;
use crate::limits::HEALTH_TIME;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;

const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Asks everything that the program listens on, within [`HEALTH_TIME`].
///
/// # Errors
/// One line that says which address does not answer as it should.
pub fn ask(server: &Server) -> Result<(), String> {
    let (tell, told) = mpsc::channel();
    let server = server.clone();
    // A thread, as neither a name's resolution nor connecting to a path takes a deadline. It ends with the process.
    thread::Builder::new()
        .spawn(move || tell.send(ask_all(&server)))
        .map_err(|e| format!("cannot start a thread: {e}"))?;
    told.recv_timeout(HEALTH_TIME)
        .unwrap_or_else(|_| Err(format!("unhealthy: no answer within {} s", HEALTH_TIME.as_secs())))
}

fn ask_all(server: &Server) -> Result<(), String> {
    if let Some(path) = &server.socket {
        let answer = UnixStream::connect(path).and_then(exchange);
        answer.map_err(|e| format!("unhealthy: unix:{}: {e}", path.display()))?;
    }
    let host = reachable(&server.host);
    let answer = TcpStream::connect((host, server.port)).and_then(exchange);
    answer.map_err(|e| format!("unhealthy: {host}, port {}: {e}", server.port))
}

/// "Every address" is none to connect to.
fn reachable(host: &str) -> &str {
    match host {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    }
}

fn exchange(mut stream: impl Read + Write) -> io::Result<()> {
    stream.write_all(REQUEST)?;
    // `HTTP/1.1 200`
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    if start.starts_with(b"HTTP/1.") && start.ends_with(b" 200") {
        return Ok(());
    }
    Err(io::Error::other(format!("answered `{}`", start.escape_ascii())))
}
