//! The listener on a path.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::harness::*;

fn ask(path: &Path) -> String {
    let mut socket = UnixStream::connect(path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = String::from_utf8(post("/v1/chat/completions", HELLO)).unwrap();
    socket.write_all(request.replacen("Host: x", "Host: x\r\nConnection: close", 1).as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_path_serves_like_a_port_and_a_file_left_behind_is_replaced() {
    let upstream = Upstream::healthy("Hello");
    let dir = TempDir::new();
    let path = dir.path().join("socket");
    // Its owner is gone without tidying up.
    drop(UnixListener::bind(&path).unwrap());
    let proxy = Config::new().backend(&upstream).server(&format!("socket: {}", path.display())).start();
    let answer = ask(&path);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("Hello"), "{answer}");
    proxy.chat(HELLO).check_answer("Hello").unwrap();
}

#[test]
fn a_path_in_use_is_left_alone() {
    let dir = TempDir::new();
    let busy = dir.path().join("busy");
    let owner = UnixListener::bind(&busy).unwrap();
    let file = dir.write("file", "precious");
    for path in [&busy, &file] {
        let yaml = Config::new().backend(Backend::at("http://127.0.0.1:1/v1"));
        let yaml = yaml.server(&format!("socket: {}", path.display())).yaml();
        let config = dir.write("config.yaml", &yaml);
        let args = ["--config", config.to_str().unwrap(), "--host", "127.0.0.1", "--port", "0"];
        let output = run(&dir, &args, &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("cannot listen on") && said.contains(path.to_str().unwrap()), "{said}");
    }
    owner.accept().expect("its owner still listens: the program has knocked");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "precious");
}
