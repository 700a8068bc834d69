//! From a host to a connection: name, race of its addresses, outbound proxy, TLS. Knows HTTP only as far as the
//! CONNECT method needs it; decides nothing about retries.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use async_io::Async;

use super::conn::{Conn, Plain};
use super::deadline::{sleep_until, with_deadline};
use super::tls::{TlsConfig, TlsError, handshake};
use crate::limits::{
    ADDRESS_RACE_TIME, ADDRESSES_MAX, CONNECT_TIME, HEAD_BYTES_MAX, HEAD_FIELDS_MAX, INTERIM_RESPONSES_MAX,
    TLS_TIME,
};
use crate::secret::Secret;
use crate::url::ProxyUrl;
use rustix::io::Errno;

/// The way to one target.
#[derive(Debug, Clone)]
pub struct Route {
    /// Whom to trust; `None` for plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Name or IP address, IPv6 with or without brackets.
    pub host: String,
    /// TCP port of the target.
    pub port: u16,
    /// The outbound proxy, if the target is not reached directly.
    pub proxy: Option<ProxyUrl>,
}

impl Route {
    /// Whether requests must name their target in absolute form (RFC 9112 §3.2.2), with
    /// [`proxy_authorization`](Self::proxy_authorization): the connection leads to a proxy that reads them.
    pub fn is_forward_proxy(&self) -> bool {
        self.proxy.is_some() && self.tls.is_none()
    }

    /// The value of `Proxy-Authorization`, for the proxy only: never send it through a tunnel.
    pub fn proxy_authorization(&self) -> Option<Secret> {
        let credentials = self.proxy.as_ref()?.credentials.as_ref()?;
        // RFC 7617 §2: there is always a colon.
        let colon = if credentials.expose().contains(':') { "" } else { ":" };
        let text = format!("{}{colon}", credentials.expose());
        Some(Secret::new(format!("Basic {}", base64(text.as_bytes()))))
    }
}

/// How long each step of [`dial`] may take.
#[derive(Debug, Clone, Copy)]
pub struct DialTimes {
    /// Name and TCP; again for the answer of a proxy, which does the same.
    pub connect: Duration,
    /// The TLS handshake.
    pub tls: Duration,
}

impl Default for DialTimes {
    fn default() -> Self {
        Self { connect: CONNECT_TIME, tls: TLS_TIME }
    }
}

/// A step of [`dial`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Name resolution and TCP, to the target or to its proxy.
    Connect,
    /// The answer of the proxy to CONNECT.
    Proxy,
    /// The TLS handshake.
    Tls,
}

/// Why there is no connection. The texts hold no address and no credentials.
#[derive(Debug)]
pub enum DialError {
    /// The host has no address, or cannot be a host at all.
    Name(io::Error),
    /// No address of it takes a connection; the first failure.
    Connect(io::Error),
    /// The outbound proxy is not reached or refuses.
    Proxy(String),
    /// No TLS, or not with the one it should be.
    Tls(TlsError),
    /// A step took too long.
    Timeout(Phase),
}

impl DialError {
    /// Whether this process, or the system, has no descriptor left: the provider is not to blame.
    pub fn is_out_of_descriptors(&self) -> bool {
        let (Self::Name(e) | Self::Connect(e)) = self else { return false };
        let exhausted = [Errno::MFILE, Errno::NFILE].map(|errno| errno.raw_os_error());
        e.raw_os_error().is_some_and(|code| exhausted.contains(&code))
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::Name(err) => write!(f, "the host name cannot be resolved: {err}"),
            DialError::Connect(err) => write!(f, "cannot connect: {err}"),
            DialError::Proxy(text) => write!(f, "outbound proxy: {text}"),
            DialError::Tls(err) => err.fmt(f),
            DialError::Timeout(Phase::Connect) => f.write_str("no connection in time"),
            DialError::Timeout(Phase::Proxy) => f.write_str("outbound proxy: no answer to CONNECT in time"),
            DialError::Timeout(Phase::Tls) => TlsError::Timeout.fmt(f),
        }
    }
}

impl std::error::Error for DialError {}

/// Makes a connection to the target of `route`, ready for a request. Dropping the future drops all that was begun.
pub async fn dial(route: &Route, times: DialTimes) -> Result<Conn, DialError> {
    let (host, port) = match &route.proxy {
        Some(proxy) => (proxy.host.as_str(), proxy.port),
        None => (route.host.as_str(), route.port),
    };
    let plain = match with_deadline(after(times.connect), pin!(connect(host, port))).await {
        Ok(Ok(plain)) => plain,
        Ok(Err(err)) if route.proxy.is_some() => return Err(DialError::Proxy(err.to_string())),
        Ok(Err(err)) => return Err(err),
        Err(_) => return Err(DialError::Timeout(Phase::Connect)),
    };
    let Some(tls) = &route.tls else { return Ok(Conn::Plain(plain)) };
    if route.proxy.is_some() {
        with_deadline(after(times.connect), pin!(tunnel(&plain, route)))
            .await
            .map_err(|_| DialError::Timeout(Phase::Proxy))??;
    }
    handshake(plain, &route.host, tls, after(times.tls)).await.map_err(|err| match err {
        TlsError::Timeout => DialError::Timeout(Phase::Tls),
        err => DialError::Tls(err),
    })
}

/// Connects to the first of `addresses` that answers: each gets `head_start` before the next is tried beside it, a
/// failure starts the next at once, losers are dropped (RFC 8305 §5). If all fail: the first failure.
pub async fn race(addresses: &[SocketAddr], head_start: Duration) -> io::Result<Plain> {
    race_with(addresses, head_start, |address| Box::pin(Async::<TcpStream>::connect(address)))
        .await
        .map(Plain::tcp)
}

type Attempt<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

async fn race_with<T>(
    addresses: &[SocketAddr],
    head_start: Duration,
    connect: impl Fn(SocketAddr) -> Attempt<T>,
) -> io::Result<T> {
    let mut waiting = addresses.iter();
    let mut running: Vec<Attempt<T>> = Vec::new();
    let mut failure = None;
    let mut next = sleep_until(Instant::now());
    poll_fn(|cx| {
        loop {
            let mut start_next = running.is_empty();
            let mut index = 0;
            while let Some(attempt) = running.get_mut(index) {
                match attempt.as_mut().poll(cx) {
                    Poll::Ready(Ok(winner)) => return Poll::Ready(Ok(winner)),
                    Poll::Ready(Err(err)) => {
                        failure.get_or_insert(err);
                        // In range: `get_mut` found it.
                        drop(running.remove(index));
                        start_next = true;
                    }
                    Poll::Pending => index += 1,
                }
            }
            if waiting.len() > 0 && !start_next {
                start_next = Pin::new(&mut next).poll(cx).is_ready();
            }
            match if start_next { waiting.next() } else { None } {
                Some(address) => {
                    running.push(connect(*address));
                    next.reset(after(head_start));
                }
                None if running.is_empty() => {
                    let failure = failure.take().unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
                    return Poll::Ready(Err(failure));
                }
                None => return Poll::Pending,
            }
        }
    })
    .await
}

async fn connect(host: &str, port: u16) -> Result<Plain, DialError> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let addresses = match bare.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        // On a thread of the blocking pool: the system's resolver knows /etc/hosts, search domains and all the rest.
        Err(_) => interleave(&async_net::resolve((bare, port)).await.map_err(DialError::Name)?),
    };
    if addresses.is_empty() {
        return Err(DialError::Name(io::Error::new(io::ErrorKind::NotFound, "it has no address")));
    }
    race(&addresses, ADDRESS_RACE_TIME).await.map_err(DialError::Connect)
}

/// Alternates the address families, beginning with the resolver's favourite, and keeps the order inside each
/// (RFC 8305 §4): a family that is broken as a whole costs one head start, not one per address.
fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut favourite, mut other): (Vec<_>, Vec<_>) =
        addresses.iter().partition(|address| address.is_ipv6() == first_is_v6);
    favourite.truncate(ADDRESSES_MAX);
    other.truncate(ADDRESSES_MAX);
    let mut mixed: Vec<SocketAddr> = Vec::new();
    let (mut favourite, mut other) = (favourite.into_iter(), other.into_iter());
    loop {
        let pair = [favourite.next(), other.next()];
        if pair == [None, None] || mixed.len() >= ADDRESSES_MAX {
            mixed.truncate(ADDRESSES_MAX);
            return mixed;
        }
        // The C library names an address once per socket type on some systems.
        for address in pair.into_iter().flatten() {
            if !mixed.contains(address) {
                mixed.push(*address);
            }
        }
    }
}

/// Asks the proxy for a tunnel to the target (RFC 9110 §9.3.6).
async fn tunnel(plain: &Plain, route: &Route) -> Result<(), DialError> {
    let request = connect_request(route)?;
    let broken = |err: io::Error| DialError::Proxy(format!("the connection broke: {err}"));
    let mut rest = request.as_bytes();
    while !rest.is_empty() {
        let count = poll_fn(|cx| plain.poll_write(cx, rest)).await.map_err(broken)?;
        rest = rest.get(count..).unwrap_or_default();
    }
    let mut answer = ConnectAnswer::default();
    loop {
        let room = HEAD_BYTES_MAX.saturating_sub(answer.bytes.len());
        if room == 0 {
            return Err(DialError::Proxy(format!("answers with a head of more than {HEAD_BYTES_MAX} bytes")));
        }
        let count = poll_fn(|cx| plain.poll_read(cx, &mut answer.bytes, room)).await.map_err(broken)?;
        if let Some(outcome) = answer.judge() {
            return outcome.map_err(DialError::Proxy);
        }
        if count == 0 {
            return Err(DialError::Proxy("it closed the connection before it answered CONNECT".to_owned()));
        }
    }
}

fn connect_request(route: &Route) -> Result<String, DialError> {
    let host = route.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&route.host);
    // Whatever the configuration let through: no host can end the line and add a field.
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
    if host.is_empty() || !host.bytes().all(valid) {
        return Err(DialError::Name(io::Error::new(io::ErrorKind::InvalidInput, "it is not a host name")));
    }
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let authority = format!("{host}:{}", route.port);
    let authorization = match route.proxy_authorization() {
        Some(value) => format!("Proxy-Authorization: {}\r\n", value.expose()),
        None => String::new(),
    };
    Ok(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{authorization}\r\n"))
}

/// What the proxy has said so far.
#[derive(Default)]
struct ConnectAnswer {
    bytes: Vec<u8>,
    line_start: usize,
    /// No line end between `line_start` and this: a slow drip costs linear time.
    searched: usize,
    interim: usize,
}

impl ConnectAnswer {
    /// `None` while the head is not complete.
    fn judge(&mut self) -> Option<Result<(), String>> {
        loop {
            let end = self.head_end()?;
            let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS_MAX];
            let mut head = httparse::Response::new(&mut fields);
            let parsed = head.parse(self.bytes.get(..end).unwrap_or_default());
            let (Ok(httparse::Status::Complete(end)), Some(status)) = (parsed, head.code) else {
                return Some(Err("it does not answer in HTTP".to_owned()));
            };
            match status {
                200..=299 if end == self.bytes.len() => return Some(Ok(())),
                // Whoever speaks now is not the target: that one waits for our ClientHello.
                200..=299 => return Some(Err("it sent something before the TLS handshake".to_owned())),
                100 | 102..=199 if self.interim < INTERIM_RESPONSES_MAX => {
                    self.interim = self.interim.saturating_add(1);
                    self.bytes.drain(..end.min(self.bytes.len()));
                    (self.line_start, self.searched) = (0, 0);
                }
                status => {
                    return Some(Err(format!("it says {status} {}", clean(head.reason.unwrap_or_default()))));
                }
            }
        }
    }

    /// Behind the empty line; a bare LF ends a line too (RFC 9112 §2.2).
    fn head_end(&mut self) -> Option<usize> {
        while let Some(ahead) = self.bytes.get(self.searched..)
            && let Some(length) = ahead.iter().position(|b| *b == b'\n')
        {
            let line_end = self.searched.saturating_add(length);
            let empty = matches!(self.bytes.get(self.line_start..line_end), Some(b"" | b"\r"));
            self.line_start = line_end.saturating_add(1);
            self.searched = self.line_start;
            if empty {
                return Some(self.line_start);
            }
        }
        self.searched = self.bytes.len();
        None
    }
}

/// The words of a stranger, fit for a log line.
fn clean(reason: &str) -> String {
    const REASON_CHARS_SHOWN: usize = 80;
    reason.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(REASON_CHARS_SHOWN).collect()
}

fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now)
}

/// RFC 4648 §4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = (at(0) << 16) | (at(1) << 8) | at(2);
        for digit in 0..4_usize {
            // Six bits are below 64, the length of the alphabet.
            let six = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= group.len() { char::from(ALPHABET[six]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tls::testing::{Ca, accept, serve};
    use super::*;
    use crate::net::deadline::drive;
    use futures_lite::future::{block_on, or};
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Mutex;
    use std::sync::mpsc;

    fn run<T>(f: impl Future<Output = T>) -> T {
        block_on(or(f, async {
            drive().await;
            unreachable!("the driver never ends")
        }))
    }

    fn listener(ip: &str) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Refuses: the port is taken on another address only.
    fn refused() -> (TcpListener, SocketAddr) {
        let (listener, address) = listener("127.0.0.1");
        (listener, SocketAddr::new([127, 77, 0, 1].into(), address.port()))
    }

    fn address(n: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], n))
    }

    /// Counts itself out when it is dropped.
    struct Running(std::sync::Arc<Mutex<Vec<u16>>>, u16);

    impl Drop for Running {
        fn drop(&mut self) {
            self.0.lock().unwrap().retain(|port| *port != self.1);
        }
    }

    #[test]
    fn the_race() {
        // By port: 1 to 9 never answer, 10 to 19 fail at once, the others win at once.
        let check = |ports: &[u16], head_starts: u32, expect: Result<u16, &str>| {
            let addresses: Vec<SocketAddr> = ports.iter().map(|port| address(*port)).collect();
            let running = std::sync::Arc::new(Mutex::new(Vec::new()));
            let head_start = Duration::from_millis(20);
            let begin = Instant::now();
            let outcome = run(race_with(&addresses, head_start, |address| {
                running.lock().unwrap().push(address.port());
                let guard = Running(running.clone(), address.port());
                Box::pin(async move {
                    let port = guard.1;
                    match port {
                        1..10 => std::future::pending().await,
                        10..20 => Err(io::Error::other(format!("failure of {port}"))),
                        port => Ok(port),
                    }
                })
            }));
            let outcome = outcome.map_err(|err| err.to_string());
            assert_eq!(outcome.as_ref().copied().map_err(String::as_str), expect, "{ports:?}");
            assert!(begin.elapsed() >= head_start * head_starts, "{ports:?}: no head start");
            assert_eq!(*running.lock().unwrap(), Vec::<u16>::new(), "{ports:?}: losers are left");
        };
        check(&[20], 0, Ok(20));
        check(&[20, 21], 0, Ok(20));
        check(&[1, 20], 1, Ok(20));
        check(&[1, 2, 3, 20], 3, Ok(20));
        check(&[10, 20], 0, Ok(20));
        check(&[10, 11, 20], 0, Ok(20));
        check(&[1, 10, 20], 1, Ok(20));
        check(&[10, 1, 20], 1, Ok(20));
        check(&[10, 11, 12], 0, Err("failure of 10"));
        check(&[], 0, Err("address not available"));
    }

    #[test]
    fn a_failure_starts_the_next_without_waiting() {
        // With a head start of an hour only the failure can have done it.
        let outcome = run(race_with(&[address(10), address(20)], Duration::from_secs(3600), |address| {
            Box::pin(
                async move { if address.port() == 10 { Err(io::ErrorKind::Other.into()) } else { Ok(()) } },
            )
        }));
        assert!(outcome.is_ok());
    }

    #[test]
    fn a_dead_address_does_not_hide_a_living_one() {
        let (_held, dead) = refused();
        let (alive, address) = listener("127.0.0.1");
        run(async {
            race(&[dead, address], Duration::from_secs(3600)).await.unwrap();
            let err = race(&[dead], Duration::from_millis(1)).await.unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::ConnectionRefused);
            if let Ok(v6) = TcpListener::bind(("::1", 0)) {
                race(&[dead, v6.local_addr().unwrap()], Duration::from_secs(3600)).await.unwrap();
            }
        });
        drop(alive);
    }

    #[test]
    fn families_alternate() {
        let check = |from: &[&str], expect: &[&str]| {
            let parse = |texts: &[&str]| -> Vec<SocketAddr> {
                texts.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 443)).collect()
            };
            assert_eq!(interleave(&parse(from)), parse(expect), "{from:?}");
        };
        check(&[], &[]);
        check(&["1.1.1.1"], &["1.1.1.1"]);
        check(&["1.1.1.1", "2.2.2.2", "::1", "::2"], &["1.1.1.1", "::1", "2.2.2.2", "::2"]);
        check(&["::1", "::2", "::3", "1.1.1.1"], &["::1", "1.1.1.1", "::2", "::3"]);
        check(&["::1", "::1", "1.1.1.1", "1.1.1.1"], &["::1", "1.1.1.1"]);
        let many: Vec<SocketAddr> = (1..100).map(address).collect();
        assert_eq!(interleave(&many), &many[..ADDRESSES_MAX]);
    }

    fn route(tls: Option<TlsConfig>, address: SocketAddr, proxy: Option<&str>) -> Route {
        Route {
            tls,
            host: "localhost".to_owned(),
            port: address.port(),
            proxy: proxy.map(|url| ProxyUrl::parse(url).unwrap()),
        }
    }

    #[test]
    fn direct() {
        let address = serve(|mut stream| stream.write_all(b"hi").unwrap());
        run(async {
            for host in ["localhost", "127.0.0.1"] {
                let route = Route { host: host.to_owned(), ..route(None, address, None) };
                let mut conn = dial(&route, DialTimes::default()).await.unwrap();
                let mut into = Vec::new();
                while poll_fn(|cx| conn.poll_read(cx, &mut into, 10)).await.unwrap() > 0 {}
                assert_eq!(into, b"hi");
            }
            let (_held, dead) = refused();
            let route = Route { host: dead.ip().to_string(), ..route(None, dead, None) };
            let err = dial(&route, DialTimes::default()).await.unwrap_err();
            assert!(matches!(err, DialError::Connect(_)), "{err:?}");
            assert!(!err.to_string().contains("127.77"), "{err}");
            for host in ["no-such-host.invalid", "nul\0", "", "a b"] {
                let route = Route { host: host.to_owned(), ..route.clone() };
                let err = dial(&route, DialTimes::default()).await.unwrap_err();
                assert!(matches!(err, DialError::Name(_)), "{host:?}: {err:?}");
            }
        });
    }

    #[test]
    fn a_silent_tls_server_is_a_timeout_of_that_step() {
        let (_silent, address) = listener("127.0.0.1");
        let times = DialTimes { tls: Duration::from_millis(30), ..DialTimes::default() };
        let tls = TlsConfig::new(None, None).unwrap();
        let err = run(dial(&route(Some(tls.clone()), address, None), times)).unwrap_err();
        assert!(matches!(err, DialError::Timeout(Phase::Tls)), "{err:?}");

        let times = DialTimes { connect: Duration::from_millis(100), ..DialTimes::default() };
        let proxy = format!("127.0.0.1:{}", address.port());
        let err = run(dial(&route(Some(tls), address, Some(&proxy)), times)).unwrap_err();
        assert!(matches!(err, DialError::Timeout(Phase::Proxy)), "{err:?}");
    }

    fn read_head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    #[test]
    fn a_tunnel_carries_tls_and_the_credentials_stay_outside() {
        let ca = Ca::new();
        let config = ca.server(&["localhost"]);
        let (told, tell) = mpsc::channel();
        let proxy = serve(move |mut stream| {
            told.send(read_head(&mut stream)).unwrap();
            // Byte by byte, and with an interim answer before.
            for byte in b"HTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n" {
                stream.write_all(&[*byte]).unwrap();
            }
            let mut tls = accept(&config, stream);
            let mut got = [0; 4];
            tls.read_exact(&mut got).unwrap();
            tls.write_all(&got).unwrap();
        });
        let url = format!("http://me:p%40ss@127.0.0.1:{}", proxy.port());
        let route = route(Some(ca.trusted()), address(443), Some(&url));
        assert!(!route.is_forward_proxy());
        run(async {
            let mut conn = dial(&route, DialTimes::default()).await.unwrap();
            assert!(matches!(conn, Conn::Tls(_)));
            poll_fn(|cx| conn.poll_write(cx, b"ping")).await.unwrap();
            poll_fn(|cx| conn.poll_flush(cx)).await.unwrap();
            let mut into = Vec::new();
            poll_fn(|cx| conn.poll_read(cx, &mut into, 10)).await.unwrap();
            assert_eq!(into, b"ping");
        });
        assert_eq!(
            tell.recv().unwrap(),
            "CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\nProxy-Authorization: Basic bWU6cEBzcw==\r\n\r\n"
        );
    }

    #[test]
    fn a_proxy_that_refuses_says_why() {
        let tls = TlsConfig::new(None, None).unwrap();
        let check = |answer: &'static [u8], expect: &str| {
            let proxy = serve(move |mut stream| {
                read_head(&mut stream);
                let _ = stream.write_all(answer);
            });
            let url = format!("http://me:hunter2@127.0.0.1:{}", proxy.port());
            let err = run(dial(&route(Some(tls.clone()), address(443), Some(&url)), DialTimes::default()));
            let text = err.unwrap_err().to_string();
            assert!(
                text.starts_with("outbound proxy: ") && text.contains(expect),
                "expected {expect:?} in {text:?}"
            );
            assert!(!text.contains("hunter2") && !text.contains("127.0.0.1"), "{text}");
        };
        check(
            b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n",
            "it says 407 Proxy Authentication Required",
        );
        check(b"HTTP/1.0 403 No\x1b[31m way\n\n", "it does not answer in HTTP");
        check(b"HTTP/1.0 503 \n\n", "it says 503 ");
        check(b"HTTP/1.1 101 Switching\r\n\r\n", "it says 101 ");
        check(b"", "closed the connection");
        check(b"HTTP/1.1 200 OK\r\n", "closed the connection");
        check(b"SSH-2.0-OpenSSH\r\n\r\n", "does not answer in HTTP");
        check(b"HTTP/1.1 200 OK\r\n\r\n\x15", "before the TLS handshake");
        check(&[b'a'; HEAD_BYTES_MAX + 1], "head of more than");
        let (_held, dead) = refused();
        let url = format!("http://{dead}");
        let err =
            run(dial(&route(Some(tls.clone()), address(443), Some(&url)), DialTimes::default())).unwrap_err();
        assert!(err.to_string().starts_with("outbound proxy: cannot connect: "), "{err}");
    }

    #[test]
    fn the_answer_to_connect_may_come_in_any_pieces() {
        let check = |text: &str, expect: Option<Result<(), &str>>| {
            for split in 0..=text.len() {
                let mut answer = ConnectAnswer::default();
                let (a, b) = text.as_bytes().split_at(split);
                answer.bytes.extend_from_slice(a);
                let mut got = answer.judge();
                if got.is_none() {
                    answer.bytes.extend_from_slice(b);
                    got = answer.judge();
                } else {
                    assert_eq!(split, text.len(), "judged {text:?} after {split}");
                }
                assert_eq!(
                    got.as_ref().map(|got| got.as_ref().copied().map_err(String::as_str)),
                    expect,
                    "{text:?}"
                );
            }
        };
        check("HTTP/1.1 200 OK\r\nA: b\r\n\r\n", Some(Ok(())));
        check("HTTP/1.1 200\n\n", Some(Ok(())));
        check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 x\r\n\r\n", Some(Ok(())));
        check("HTTP/1.1 502 Bad Gateway\r\n\r\n", Some(Err("it says 502 Bad Gateway")));
        check("HTTP/1.1 200 OK\r\nA: b\r\n", None);
        check(&"HTTP/1.1 100 x\r\n\r\n".repeat(INTERIM_RESPONSES_MAX + 1), Some(Err("it says 100 x")));
    }

    #[test]
    fn plain_http_through_a_proxy_is_forwarding() {
        let proxy = serve(|_| ());
        let url = format!("http://me@127.0.0.1:{}", proxy.port());
        let route = route(None, address(80), Some(&url));
        assert!(route.is_forward_proxy());
        assert_eq!(route.proxy_authorization().unwrap().expose(), "Basic bWU6");
        assert!(matches!(run(dial(&route, DialTimes::default())), Ok(Conn::Plain(_))));
    }

    #[test]
    fn connect_requests() {
        let tls = TlsConfig::new(None, None).unwrap();
        let check = |host: &str, expect: Option<&str>| {
            let route =
                Route { host: host.to_owned(), ..route(Some(tls.clone()), address(8443), Some("proxy")) };
            assert_eq!(connect_request(&route).ok().as_deref(), expect, "{host:?}");
        };
        let v6 = "CONNECT [::1]:8443 HTTP/1.1\r\nHost: [::1]:8443\r\n\r\n";
        check("::1", Some(v6));
        check("[::1]", Some(v6));
        check("a.example", Some("CONNECT a.example:8443 HTTP/1.1\r\nHost: a.example:8443\r\n\r\n"));
        for bad in ["", "a b", "a\r\nX: y", "a/b", "a@b", "a\0"] {
            check(bad, None);
        }
    }

    #[test]
    fn base64_of_rfc_4648() {
        let check = |text: &str, expect: &str| assert_eq!(base64(text.as_bytes()), expect, "{text:?}");
        check("", "");
        check("f", "Zg==");
        check("fo", "Zm8=");
        check("foo", "Zm9v");
        check("foob", "Zm9vYg==");
        check("fooba", "Zm9vYmE=");
        check("foobar", "Zm9vYmFy");
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn futures_can_move_between_threads() {
        fn is_send<T: Send>(_: &T) {}
        let route = route(None, address(80), None);
        is_send(&dial(&route, DialTimes::default()));
        is_send(&route);
    }
}
