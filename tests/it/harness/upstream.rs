//! A provider that does as the test scripted it, and remembers what it was sent. A request that breaks RFC 9112 fails
//! the test when the provider is dropped: our client has to be as strict as our server.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::http::is_token;
use super::{DEADLINE, Reply, Step, Watched};

/// A request as it arrived; field names are in lower case.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which connection brought it, from 0.
    pub connection: usize,
    /// Its place on that connection, from 0.
    pub place: usize,
    /// Its place among all requests of this provider, from 0.
    pub number: usize,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Whether it asks for a stream. Does not parse: some bodies are beyond what serde_json holds.
    pub fn streams(&self) -> bool {
        let text: String = self.text().split_whitespace().collect();
        text.contains(r#""stream":true"#)
    }
}

#[derive(Default)]
struct Seen {
    connections: usize,
    requests: Vec<Request>,
    /// When peers left, in order, whether in mid-reply or between requests.
    left: Vec<Instant>,
    violations: Vec<String>,
    failed_handshakes: usize,
    /// To wake threads that read when the test is over.
    sockets: Vec<(usize, TcpStream)>,
    over: bool,
}

type Script = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

pub struct Upstream {
    addr: SocketAddr,
    tls: bool,
    seen: Watched<Seen>,
}

impl Upstream {
    /// One reply after the other; the last one repeats.
    pub fn replies(replies: impl IntoIterator<Item = Reply>) -> Self {
        let replies: Vec<Reply> = replies.into_iter().collect();
        Self::answering(move |r| replies[r.number.min(replies.len() - 1)].clone())
    }

    pub fn answering(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(Arc::new(script), None)
    }

    /// A healthy provider: `text` whole or in two pieces, as asked.
    pub fn healthy(text: &str) -> Self {
        let text = text.to_owned();
        Self::answering(move |r| good_answer(r, &text))
    }

    pub fn tls(
        config: Arc<ServerConfig>,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start(Arc::new(script), Some(config))
    }

    fn start(script: Script, tls: Option<Arc<ServerConfig>>) -> Self {
        Self::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), script, tls)
    }

    fn on(listener: TcpListener, script: Script, tls: Option<Arc<ServerConfig>>) -> Self {
        let addr = listener.local_addr().unwrap();
        let seen = Watched::new(Seen::default());
        let upstream = Self { addr, tls: tls.is_some(), seen: seen.clone() };
        thread::spawn(move || {
            for socket in listener.incoming() {
                let Ok(socket) = socket else { continue };
                let handle = socket.try_clone().unwrap();
                let number = seen.change(|s| {
                    if s.over {
                        return None;
                    }
                    s.sockets.push((s.connections, handle));
                    s.connections += 1;
                    Some(s.connections - 1)
                });
                let Some(number) = number else { return };
                let (script, seen, tls) = (script.clone(), seen.clone(), tls.clone());
                thread::spawn(move || Served { seen, number, script }.run(socket, tls));
            }
        });
        upstream
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn base_url(&self) -> String {
        format!("{}://{}/v1", if self.tls { "https" } else { "http" }, self.addr)
    }

    pub fn hits(&self) -> usize {
        self.seen.with(|s| s.requests.len())
    }

    pub fn connections(&self) -> usize {
        self.seen.with(|s| s.connections)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.seen.with(|s| s.requests.clone())
    }

    #[track_caller]
    pub fn only_request(&self) -> Request {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "expected one request upstream, got {requests:#?}");
        requests.into_iter().next().unwrap()
    }

    /// Waits until `n` requests have come in all.
    #[track_caller]
    pub fn wait_for_requests(&self, n: usize) {
        let got = self.seen.wait(DEADLINE, |s| (s.requests.len() >= n).then_some(()));
        assert!(got.is_some(), "expected {n} requests upstream, got {}", self.hits());
    }

    /// When the `n`-th peer (from 1) left; `None` if it has not within the time.
    pub fn wait_for_leaving(&self, n: usize, within: Duration) -> Option<Instant> {
        self.seen.wait(within, |s| s.left.get(n - 1).copied())
    }

    /// Waits until a handshake has failed.
    pub fn wait_for_failed_handshake(&self) -> bool {
        self.seen.wait(DEADLINE, |s| (s.failed_handshakes > 0).then_some(())).is_some()
    }
}

/// What a working backend says, streamed if the request asks so.
pub fn good_answer(request: &Request, text: &str) -> Reply {
    if !request.streams() {
        return super::chat_whole(text);
    }
    let middle = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at);
    super::chat_stream(&[&text[..middle], &text[middle..]])
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let violations = self.seen.change(|s| {
            s.over = true;
            for (_, socket) in s.sockets.drain(..) {
                let _ = socket.shutdown(Shutdown::Both);
            }
            std::mem::take(&mut s.violations)
        });
        // Wakes the accept loop, which then ends.
        let _ = TcpStream::connect(self.addr);
        if !thread::panicking() {
            assert!(
                violations.is_empty(),
                "the program broke RFC 9112 towards its provider: {violations:#?}"
            );
        }
    }
}

/// A port that is taken but refuses: bound, never listening, so that nobody else can get it meanwhile.
pub struct RefusedPort {
    addr: SocketAddr,
    socket: OwnedFd,
}

impl RefusedPort {
    pub fn new() -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = SocketAddr::try_from(getsockname(&socket).unwrap()).unwrap();
        Self { addr, socket }
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// The provider there comes up.
    pub fn comes_up(self, script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Upstream {
        rustix::net::listen(&self.socket, 128).unwrap();
        Upstream::on(TcpListener::from(self.socket), Arc::new(script), None)
    }
}

enum Peer {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Peer {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(s) => s,
            Self::Tls(s) => &s.sock,
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(s) => s.read(buf),
            Self::Tls(s) => s.read(buf),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(s) => s.write_all(bytes),
            Self::Tls(s) => s.write_all(bytes).and_then(|()| s.flush()),
        }
    }
}

/// One connection of a scripted provider.
struct Served {
    seen: Watched<Seen>,
    number: usize,
    script: Script,
}

/// Why a connection is over.
enum Over {
    PeerLeft,
    /// By the script.
    Closed,
    Reset,
    Violation(String),
}

impl Served {
    fn run(self, socket: TcpStream, tls: Option<Arc<ServerConfig>>) {
        socket.set_nodelay(true).unwrap();
        let mut peer = match tls {
            None => Peer::Plain(socket),
            Some(config) => {
                let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
                while stream.conn.is_handshaking() {
                    if stream.conn.complete_io(&mut stream.sock).is_err() {
                        self.seen.change(|s| s.failed_handshakes += 1);
                        self.forget_socket();
                        return;
                    }
                }
                Peer::Tls(Box::new(stream))
            }
        };
        let mut buf = Vec::new();
        for place in 0.. {
            let over = match self.exchange(&mut peer, &mut buf, place) {
                Ok(()) => continue,
                Err(over) => over,
            };
            // Remembered before the peer can see the close, so that a test that saw it finds this here.
            let reset = matches!(over, Over::Reset);
            self.seen.change(|s| match over {
                Over::PeerLeft => s.left.push(Instant::now()),
                Over::Violation(what) if !s.over => s.violations.push(what),
                _ => {}
            });
            if reset {
                rustix::net::sockopt::set_socket_linger(peer.socket(), Some(Duration::ZERO)).unwrap();
            } else if let Peer::Tls(stream) = &mut peer {
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
            self.forget_socket();
            return;
        }
    }

    /// The clone for waking threads would keep the socket open, and a reset back.
    fn forget_socket(&self) {
        self.seen.change(|s| s.sockets.retain(|(number, _)| *number != self.number));
    }

    fn exchange(&self, peer: &mut Peer, buf: &mut Vec<u8>, place: usize) -> Result<(), Over> {
        let mut request = read_request(peer, buf)?;
        (request.connection, request.place) = (self.number, place);
        self.seen.change(|s| {
            request.number = s.requests.len();
            s.requests.push(request.clone());
        });
        for step in (self.script)(&request).steps {
            match step {
                Step::Write(bytes) => peer.write(&bytes).map_err(|_| Over::PeerLeft)?,
                Step::Drip(bytes) => {
                    for byte in bytes {
                        peer.write(&[byte]).map_err(|_| Over::PeerLeft)?;
                    }
                }
                Step::Wait(gate) => {
                    // The gate and the socket are both waited for, so that a peer that leaves is seen at once.
                    peer.socket().set_read_timeout(Some(Duration::from_millis(3))).unwrap();
                    let since = Instant::now();
                    while !gate.is_open(since) {
                        read_more(peer, buf)?;
                    }
                    peer.socket().set_read_timeout(None).unwrap();
                }
                Step::Stall => loop {
                    read_more(peer, buf)?;
                },
                Step::Close => return Err(Over::Closed),
                Step::Reset => return Err(Over::Reset),
            }
        }
        Ok(())
    }
}

/// Adds what comes to `buf`; nothing within the socket's read timeout is no error.
fn read_more(peer: &mut Peer, buf: &mut Vec<u8>) -> Result<(), Over> {
    let mut scratch = [0; 16 * 1024];
    match peer.read(&mut scratch) {
        Ok(0) => Err(Over::PeerLeft),
        Ok(n) => {
            buf.extend_from_slice(&scratch[..n]);
            Ok(())
        }
        Err(e)
            if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) =>
        {
            Ok(())
        }
        Err(_) => Err(Over::PeerLeft),
    }
}

fn read_request(peer: &mut Peer, buf: &mut Vec<u8>) -> Result<Request, Over> {
    let end = loop {
        if let Some(at) = buf.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        read_more(peer, buf)?;
    };
    let head = String::from_utf8(buf.drain(..end).collect())
        .map_err(|_| Over::Violation("head not UTF-8".into()))?;
    let (mut request, framing) =
        parse_head(&head).map_err(|what| Over::Violation(format!("{what} in {head:?}")))?;
    match framing {
        Some(length) => {
            while buf.len() < length {
                read_more(peer, buf)?;
            }
            request.body = buf.drain(..length).collect();
        }
        None => request.body = read_chunks(peer, buf)?,
    }
    Ok(request)
}

/// The request and its length, `None` for chunked.
fn parse_head(head: &str) -> Result<(Request, Option<usize>), String> {
    let head = head.strip_suffix("\r\n\r\n").unwrap_or(head);
    if head.bytes().any(|b| (b < 0x20 && b != b'\r' && b != b'\n') || b == 0x7f) {
        return Err("a control character".into());
    }
    let mut lines = head.split("\r\n");
    let line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = line[..] else { return Err("a bad request line".into()) };
    if !target.starts_with('/') || !method.bytes().all(is_token) {
        return Err("a bad request line".into());
    }
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a field without colon")?;
        if name.is_empty() || !name.bytes().all(is_token) || value.contains(['\r', '\n']) {
            return Err("a bad field".into());
        }
        headers.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
    for single in ["host", "content-length", "transfer-encoding", "authorization", "content-type", "accept"] {
        if headers.iter().filter(|(n, _)| n == single).count() > 1 {
            return Err(format!("{single} twice"));
        }
    }
    let field = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    field("host").filter(|h| !h.is_empty()).ok_or("no host")?;
    let framing = match (field("content-length"), field("transfer-encoding").as_deref()) {
        (Some(n), None) => Some(n.parse().map_err(|_| "a bad content-length")?),
        (None, None) => Some(0),
        (None, Some("chunked")) => None,
        _ => return Err("unclear framing".into()),
    };
    let request = Request {
        connection: 0,
        place: 0,
        number: 0,
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
        body: Vec::new(),
    };
    Ok((request, framing))
}

fn read_chunks(peer: &mut Peer, buf: &mut Vec<u8>) -> Result<Vec<u8>, Over> {
    let bad = |what: &str| Over::Violation(format!("chunked body: {what}"));
    let mut body = Vec::new();
    loop {
        let at = loop {
            match buf.windows(2).position(|w| w == b"\r\n") {
                Some(at) => break at,
                None => read_more(peer, buf)?,
            }
        };
        let line: Vec<u8> = buf.drain(..at + 2).take(at).collect();
        let size = std::str::from_utf8(&line).ok().and_then(|l| usize::from_str_radix(l, 16).ok());
        let size = size.ok_or_else(|| bad("size"))?;
        while buf.len() < size + 2 {
            read_more(peer, buf)?;
        }
        body.extend(buf.drain(..size));
        if buf.drain(..2).ne(*b"\r\n") {
            return Err(bad("no CRLF behind a chunk"));
        }
        if size == 0 {
            return Ok(body);
        }
    }
}
