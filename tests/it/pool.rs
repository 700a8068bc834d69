//! Connections to providers under load, and providers that say more than they should.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::thread;

use crate::harness::*;

#[test]
fn a_hundred_connections_serve_the_next_hundred_requests_too() {
    let upstream = Upstream::answering(|r| {
        let answer = good_answer(r, "Hello");
        // Slow enough that all of a round are under way at once.
        Reply::nothing().wait(&Gate::after(150)).write(answer.bytes())
    });
    let proxy = Proxy::with_backends([&upstream]);
    for body in [HELLO, STREAM_HELLO, HELLO] {
        every_at_once((0..100).map(|n| (n.to_string(), ())), |()| {
            let response = proxy.chat(body);
            expect(response.status() == 200, || response.text())
        });
    }
    assert!(upstream.connections() <= 100, "{} connections", upstream.connections());
}

#[test]
fn what_follows_an_answer_is_not_taken_for_the_next() {
    let evil = chat_whole("Evil").bytes();
    let chunked = |text: &str, tail: &str| {
        let body = whole_body(text);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        raw(format!("{head}{:x};name=\"v\"\r\n{body}\r\n0;x\r\nTrailer: x\r\n\r\n{tail}", body.len()))
    };
    let evil_text = String::from_utf8(evil.clone()).unwrap();
    let rows = [
        ("in one write", raw([chat_whole("Good").bytes(), evil].concat())),
        ("behind the last chunk", chunked("Good", &evil_text)),
    ];
    every(rows, |reply| {
        let upstream = Upstream::replies([reply]);
        let proxy = Proxy::with_backends([&upstream]);
        for _ in 0..3 {
            proxy.chat(HELLO).check_answer("Good")?;
        }
        Ok(())
    });
    // Extensions and trailers alone are no reason to give up a connection.
    let upstream = Upstream::replies([chunked("Good", "")]);
    let proxy = Proxy::with_backends([&upstream]);
    for _ in 0..3 {
        proxy.chat(HELLO).check_answer("Good").unwrap();
    }
    assert_eq!(upstream.connections(), 1);
}

/// Says so after the head and goes on reading; a client that takes it for an answer stops sending.
#[test]
fn an_interim_answer_in_the_middle_of_a_request_does_not_stop_it() {
    const BODY: usize = 8_000_000;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let provider = thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            peer.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        peer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.split_once("content-length: ").unwrap().1.split_once("\r\n").unwrap().0;
        let mut body = vec![0; length.parse().unwrap()];
        peer.read_exact(&mut body).unwrap();
        peer.write_all(&chat_whole("Hello").bytes()).unwrap();
    });
    let proxy = Config::new().backend(Backend::at(url).line("extra: {timeout: 10}")).start();
    let body = format!(r#"{{"messages":[],"padding":"{}"}}"#, "x".repeat(BODY));
    proxy.chat(&body).check_answer("Hello").unwrap();
    provider.join().unwrap();
}
