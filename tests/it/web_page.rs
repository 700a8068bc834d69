//! What a browser sends for a page that was not invited: it must not spend the owner's quota.

use crate::harness::*;

fn from_page(content_type: &[u8], origin: &str) -> Vec<u8> {
    let length = HELLO.len();
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n",
        content_type,
        format!("{origin}Content-Length: {length}\r\n\r\n{HELLO}").as_bytes(),
    ]
    .concat()
}

const EVIL: &str = "Origin: https://evil.example\r\n";
const INVITED: &str = "Origin: https://app.example\r\n";

/// All of these pass without a preflight; a body that is a `Blob` without type has no content type at all.
#[test]
fn what_needs_no_preflight_is_refused() {
    let upstream = Upstream::healthy("Hello");
    for cors in ["cors: []", "cors: https://app.example"] {
        let proxy = Config::new().backend(&upstream).server(cors).start();
        every(
            [
                &b""[..],
                b"Content-Type: text/plain\r\n",
                b"Content-Type: text/plain; a=\xff\r\n",
                b"Content-Type: \r\n",
                b"Content-Type: multipart/form-data; boundary=application/json\r\n",
            ]
            .map(|kind| (String::from_utf8_lossy(kind), kind)),
            |kind| {
                let response = proxy.connect().send(from_page(kind, EVIL)).try_response(Asked::USUAL)?;
                response.try_error()?;
                expect(response.status() == 415, || format!("{} {}", response.status(), response.text()))
            },
        );
    }
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn invited_pages_and_programs_need_no_content_type() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Config::new().backend(&upstream).server("cors: https://app.example").start();
    for origin in [INVITED, ""] {
        proxy.connect().send(from_page(b"", origin)).response().check_answer("Hello").unwrap();
    }
    let json = b"Content-Type: application/json\r\n";
    proxy.connect().send(from_page(json, EVIL)).response().check_answer("Hello").unwrap();
}
