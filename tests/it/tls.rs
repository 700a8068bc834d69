//! Providers behind TLS: only a verified one ever sees the key.

use crate::harness::*;

/// The first backend is behind TLS, the second one healthy and plain.
struct Setting {
    dir: TempDir,
    authority: Authority,
    upstream: Upstream,
    good: Upstream,
}

fn setting(certificate: Certificate) -> Setting {
    let authority = Authority::new();
    let upstream = Upstream::tls(authority.server(certificate), |r| good_answer(r, "over TLS"));
    Setting { dir: TempDir::new(), authority, upstream, good: Upstream::healthy("plain") }
}

impl Setting {
    fn ca_path(&self) -> String {
        self.dir.write("ca.pem", &self.authority.pem()).to_str().unwrap().to_owned()
    }

    fn trusting(&self) -> Proxy {
        let backend = Backend::from(&self.upstream).line(format!("tls_ca: {}", self.ca_path()));
        Config::new().backend(backend).backend(&self.good).start()
    }
}

#[test]
fn a_ca_from_the_config_is_trusted() {
    let setting = setting(Certificate::Good);
    let proxy = setting.trusting();
    proxy.chat(HELLO).check_answer("over TLS").unwrap();
    proxy.chat(STREAM_HELLO).events().check_complete("over TLS").unwrap();
    assert_eq!((setting.upstream.hits(), setting.upstream.connections()), (2, 1));
    assert_eq!(setting.upstream.requests()[0].header("authorization"), Some("Bearer sk-secret-alpha"));
}

#[test]
fn a_request_in_many_pieces_comes_through() {
    let setting = setting(Certificate::Good);
    let backend = Backend::from(&setting.upstream).line(format!("tls_ca: {}", setting.ca_path()));
    let proxy = Config::new().backend(backend.line("quirks: {developer_role: false}")).start();
    let turn = format!(r#"{{"role":"developer","content":"{}"}}"#, "x".repeat(100));
    let body = format!(r#"{{"model":"aifree","messages":[{}]}}"#, vec![turn; 10_000].join(","));
    proxy.chat(&body).check_answer("over TLS").unwrap();
    let expected = body.replace("aifree", "model-alpha").replace("developer", "system");
    assert!(setting.upstream.only_request().text() == expected, "1 MB changed on the way");
}

#[test]
fn a_ca_from_the_environment_is_trusted() {
    let setting = setting(Certificate::Good);
    let config = Config::new().backend(&setting.upstream).backend(&setting.good);
    let proxy = config.env("SSL_CERT_FILE", setting.ca_path()).start();
    proxy.chat(HELLO).check_answer("over TLS").unwrap();
}

#[test]
fn a_host_name_is_verified_too() {
    let setting = setting(Certificate::Good);
    let url = setting.upstream.base_url().replace("127.0.0.1", "localhost");
    let backend = Backend::at(url).line(format!("tls_ca: {}", setting.ca_path()));
    let proxy = Config::new().backend(backend).backend(&setting.good).start();
    proxy.chat(HELLO).check_answer("over TLS").unwrap();
}

/// Falls over, sends nothing, and the log says why with one of these words.
#[track_caller]
fn check_refused(proxy: Proxy, setting: &Setting, words: &[&str]) {
    for body in [HELLO, STREAM_HELLO] {
        let response = proxy.chat(body);
        assert_eq!((response.status(), response.header("x-ai-free-swap-backend")), (200, Some("beta")));
    }
    assert_eq!(setting.upstream.hits(), 0, "a request, and with it the key, went to an unverified provider");
    let log = proxy.whole_log().to_lowercase();
    assert!(words.iter().any(|w| log.contains(w)), "expected one of {words:?} in the log: {log}");
}

#[test]
fn an_unknown_authority_is_refused() {
    let setting = setting(Certificate::Good);
    let proxy = Config::new().backend(&setting.upstream).backend(&setting.good).start();
    check_refused(proxy, &setting, &["unknownissuer", "unknown issuer", "not trusted", "untrusted"]);
}

#[test]
fn another_authority_is_refused() {
    let (setting, other) = (setting(Certificate::Good), setting(Certificate::Good));
    let backend = Backend::from(&setting.upstream).line(format!("tls_ca: {}", other.ca_path()));
    let proxy = Config::new().backend(backend).backend(&setting.good).start();
    check_refused(
        proxy,
        &setting,
        &["unknownissuer", "unknown issuer", "not trusted", "untrusted", "not signed by"],
    );
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let setting = setting(Certificate::WrongName);
    check_refused(setting.trusting(), &setting, &["not valid for name", "notvalidforname", "other.example"]);
}

#[test]
fn an_expired_certificate_is_refused() {
    let setting = setting(Certificate::Expired);
    check_refused(setting.trusting(), &setting, &["expired"]);
}

#[test]
fn trust_of_one_backend_is_not_trust_of_another() {
    let (setting, other) = (setting(Certificate::Good), setting(Certificate::Good));
    let first = Backend::from(&setting.upstream).line(format!("tls_ca: {}", setting.ca_path()));
    // Same provider, same address even: but this entry does not trust its authority.
    let second = Backend::from(&setting.upstream).model("untrusting");
    let config =
        Config::new().backend(first).backend(second).backend(&other.good).top("model_routing: match");
    let proxy = config.start();
    proxy.chat(&HELLO.replace("aifree", "model-alpha")).check_answer("over TLS").unwrap();
    let response = proxy.chat(&HELLO.replace("aifree", "untrusting"));
    assert_eq!(response.status(), 503, "{}", response.text());
    assert_eq!(setting.upstream.hits(), 1);
}

#[test]
fn plain_text_on_a_tls_port_falls_over() {
    let plain = Upstream::healthy("plain text");
    let talking = Upstream::replies([raw("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").close()]);
    every_at_once([("silent", &plain), ("talking", &talking)], |upstream| {
        let good = Upstream::healthy("Hello");
        let backend = Backend::at(upstream.base_url().replace("http:", "https:")).line("extra: {timeout: 1}");
        let proxy = Config::new().backend(backend).backend(&good).start();
        proxy.chat(HELLO).check_answer("Hello")?;
        expect(upstream.hits() == 0, || "it saw a request".into())
    });
}

#[test]
fn a_server_that_only_speaks_old_tls_falls_over_and_is_named() {
    // The alert `protocol_version`, as a server sends it that knows nothing newer than TLS 1.1.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let _ = socket.read(&mut [0; 4096]);
            let _ = socket.write_all(b"\x15\x03\x02\x00\x02\x02\x46");
        }
    });
    let good = Upstream::healthy("Hello");
    let proxy = Config::new().backend(Backend::at(url)).backend(&good).start();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    let log = proxy.whole_log().to_lowercase();
    assert!(log.contains("no tls newer than 1.1") || log.contains("protocol version"), "{log}");
}

#[test]
fn a_truncated_tls_stream_is_no_normal_end() {
    let authority = Authority::new();
    let content = event(r#"{"content":"Hel"}"#, "null");
    let upstream = Upstream::tls(authority.server(Certificate::Good), move |_| {
        raw(format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {content}\n\n")).reset()
    });
    let dir = TempDir::new();
    let ca = dir.write("ca.pem", &authority.pem());
    let proxy =
        Config::new().backend(Backend::from(&upstream).line(format!("tls_ca: {}", ca.display()))).start();
    let response = proxy.chat(STREAM_HELLO);
    if response.status() == 200 {
        response.events().check_broken().unwrap();
    } else {
        // The reset overtook the content.
        assert_eq!(response.status(), 503);
    }
}
