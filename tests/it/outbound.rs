//! Outbound proxies: what goes through them, in which form, and what happens when they refuse or die.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::harness::*;

/// What a proxy does with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Forward,
    /// These bytes, then the end.
    Say(&'static str),
    /// Grants the tunnel and dies.
    Drop,
}

/// A proxy for which every name is the same host. It lives as long as the process, as tests do.
struct FakeProxy {
    addr: SocketAddr,
    heads: Watched<Vec<String>>,
}

impl FakeProxy {
    fn new(manner: Manner, target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (addr, heads) = (listener.local_addr().unwrap(), Watched::new(Vec::new()));
        let seen = heads.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let seen = seen.clone();
                thread::spawn(move || serve(client, manner, target, &seen));
            }
        });
        Self { addr, heads }
    }

    fn url(&self, credentials: &str) -> String {
        format!("http://{credentials}{}", self.addr)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.with(Clone::clone)
    }
}

fn serve(mut client: TcpStream, manner: Manner, target: SocketAddr, seen: &Watched<Vec<String>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if client.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    seen.change(|s| s.push(head.clone()));
    let granted = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Connection Established\r\nX: y\r\n\r\n";
    match manner {
        Manner::Say(words) => {
            let _ = client.write_all(words.as_bytes());
            return;
        }
        Manner::Drop => {
            let _ = client.write_all(granted.as_bytes());
            return;
        }
        Manner::Forward => {}
    }
    let mut server = TcpStream::connect(target).unwrap();
    if head.starts_with("CONNECT ") {
        client.write_all(granted.as_bytes()).unwrap();
    } else {
        // As a proxy must: its own credentials stay with it, and the target gets the origin form.
        let own = |line: &&str| !line.to_ascii_lowercase().starts_with("proxy-authorization:");
        let head: Vec<&str> = head.split("\r\n").filter(own).collect();
        let head = head.join("\r\n").replacen("http://upstream.test:81", "", 1);
        server.write_all(head.as_bytes()).unwrap();
    }
    let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut up, &mut down);
        let _ = down.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
}

/// A name that only the proxy can know.
const PLAIN: &str = "http://upstream.test:81/v1";
const CREDENTIALS: &str = "me:sk-secret-proxy@";
/// `me:sk-secret-proxy`
const BASIC: &str = "Proxy-Authorization: Basic bWU6c2stc2VjcmV0LXByb3h5\r\n";

#[test]
fn a_plain_target_is_asked_for_in_absolute_form() {
    let upstream = Upstream::healthy("Hello");
    let proxy = FakeProxy::new(Manner::Forward, upstream.addr());
    let program = Config::new().backend(Backend::at(PLAIN)).env("HTTP_PROXY", proxy.url(CREDENTIALS)).start();
    program.chat(HELLO).check_answer("Hello").unwrap();
    let heads = proxy.heads();
    let head = &heads[0];
    assert!(head.starts_with("POST http://upstream.test:81/v1/chat/completions HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nHost: upstream.test:81\r\n") && head.contains(BASIC), "{head}");
    assert_eq!(upstream.only_request().header("authorization"), Some("Bearer sk-secret-alpha"));
}

#[test]
fn a_tls_target_is_reached_through_a_tunnel_that_hides_everything() {
    let authority = Authority::new();
    let dir = TempDir::new();
    let ca = dir.write("ca.pem", &authority.pem());
    let upstream = Upstream::tls(authority.server(Certificate::Good), |r| good_answer(r, "Hello"));
    let proxy = FakeProxy::new(Manner::Forward, upstream.addr());
    let start = |host| {
        let backend = Backend::at(format!("https://{host}:4443/v1"));
        let backend = backend.line(format!("tls_ca: {}", ca.display()));
        let backend = backend.line(format!("proxy: \"{}\"", proxy.url(CREDENTIALS)));
        Config::new().backend(backend).start()
    };
    let connect = |host: &str| format!("CONNECT {host}:4443 HTTP/1.1\r\nHost: {host}:4443\r\n{BASIC}\r\n");
    // The certificate is for another name: a tunnel is no excuse.
    assert_eq!(start("upstream.test").chat(HELLO).status(), 503);
    assert_eq!(proxy.heads(), [connect("upstream.test")]);
    assert_eq!(upstream.hits(), 0);
    let program = start("localhost");
    program.chat(HELLO).check_answer("Hello").unwrap();
    program.chat(STREAM_HELLO).events().check_complete("Hello").unwrap();
    assert_eq!(proxy.heads()[1..], [connect("localhost")], "one tunnel for both");
    for request in upstream.requests() {
        assert_eq!(request.header("proxy-authorization"), None);
        assert_eq!(request.target, "/v1/chat/completions");
    }
}

#[test]
fn a_proxy_that_does_not_help_is_a_backend_that_is_down() {
    let nobody = RefusedPort::new();
    let denied = "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 4\r\n\r\nno!\n";
    let rows = [
        ("407", Manner::Say(denied), "407"),
        ("closed", Manner::Say(""), "outbound proxy: it closed the connection"),
        ("no HTTP", Manner::Say("SSH-2.0-OpenSSH_9.6\r\n\r\n"), "outbound proxy: it does not answer in HTTP"),
        ("early bytes", Manner::Say("HTTP/1.1 200 OK\r\n\r\nhello"), "before the TLS handshake"),
        ("no tunnel after all", Manner::Drop, "TLS"),
    ];
    every(rows.map(|(name, manner, words)| (name, (manner, words))), |(manner, words)| {
        let rescue = Upstream::healthy("Hello");
        let proxy = FakeProxy::new(manner, rescue.addr());
        let first = Backend::at("https://upstream.test/v1");
        let second = Backend::from(&rescue);
        let config = Config::new().backend(first).backend(second).env("HTTPS_PROXY", proxy.url(CREDENTIALS));
        let program = config.start();
        program.chat(HELLO).check_answer("Hello")?;
        program.wait_for_log(0, |line| line.contains("alpha: failed") && line.contains(words));
        Ok(())
    });
    let url = nobody.base_url().replace("/v1", "");
    let program = Config::new().backend(Backend::at(PLAIN)).env("ALL_PROXY", url).start();
    let (message, ..) = program.chat(HELLO).error();
    assert!(message.contains("outbound proxy: cannot connect"), "{message}");
}

#[test]
fn the_environment_says_what_goes_through_and_the_config_has_the_last_word() {
    let upstream = Upstream::healthy("Hello");
    let proxy = FakeProxy::new(Manner::Forward, upstream.addr());
    let (url, hostless) = (proxy.url(""), proxy.addr.to_string());
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<String>, bool);
    let rows: [Row<'_>; 9] = [
        ("for all", &[("ALL_PROXY", &url)], None, true),
        ("lower case, no scheme", &[("http_proxy", &hostless)], None, true),
        ("for TLS only", &[("HTTPS_PROXY", &url)], None, false),
        ("but for this name", &[("HTTP_PROXY", &url), ("NO_PROXY", "x,.test")], None, false),
        ("but for another port", &[("HTTP_PROXY", &url), ("NO_PROXY", "upstream.test:82")], None, true),
        ("switched off in lower case", &[("http_proxy", ""), ("HTTP_PROXY", &url)], None, false),
        ("by the config", &[], Some(format!("proxy: {url}")), true),
        ("by the config in spite of NO_PROXY", &[("NO_PROXY", "*")], Some(format!("proxy: {url}")), true),
        ("direct by the config", &[("ALL_PROXY", &url)], Some("proxy: direct".into()), false),
    ];
    every(rows.map(|(name, env, line, goes)| (name, (env, line, goes))), |(env, line, goes)| {
        let before = proxy.heads().len();
        let backend = Backend::at(PLAIN);
        let backend = line.into_iter().fold(backend, Backend::line);
        let config = env.iter().fold(Config::new().backend(backend), |c, (name, value)| c.env(name, *value));
        let status = config.start().chat(HELLO).status();
        expect(status == if goes { 200 } else { 503 }, || format!("status {status}"))?;
        expect(proxy.heads().len() - before == usize::from(goes), || "the way is another".into())
    });
}

#[test]
fn loopback_is_never_proxied() {
    let upstream = Upstream::healthy("Hello");
    let proxy = FakeProxy::new(Manner::Say(""), upstream.addr());
    for host in ["127.0.0.1", "localhost"] {
        let url = upstream.base_url().replace("127.0.0.1", host);
        let program = Config::new().backend(Backend::at(url)).env("ALL_PROXY", proxy.url("")).start();
        program.chat(HELLO).check_answer("Hello").unwrap();
    }
    assert_eq!(proxy.heads(), Vec::<String>::new());
}

#[test]
fn a_password_that_the_proxy_quotes_goes_nowhere() {
    let nobody = Upstream::healthy("Hello");
    // `me:hunter2pass`
    let refusal =
        "HTTP/1.1 407 No\r\ncontent-length: 51\r\n\r\nnot with hunter2pass, that is bWU6aHVudGVyMnBhc3M=";
    for (url, variable) in [(PLAIN, "HTTP_PROXY"), ("https://upstream.test/v1", "HTTPS_PROXY")] {
        let proxy = FakeProxy::new(Manner::Say(refusal), nobody.addr());
        let config = Config::new().backend(Backend::at(url)).env(variable, proxy.url("me:hunter2pass@"));
        let program = config.start();
        let response = program.chat(HELLO);
        assert_eq!(response.status(), 503);
        let said = format!("{} {}", response.text(), program.whole_log());
        assert!(said.contains("407"), "{said}");
        assert!(!said.contains("hunter2pass") && !said.contains("bWU6aHVu"), "{said}");
    }
}
