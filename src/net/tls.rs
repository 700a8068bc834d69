//! TLS to providers: trust, handshake, and the connection after it. The only file that names rustls.
//!
//! Bytes come from the thread's read buffer and go to rustls only as fast as its plaintext is taken, so neither side
//! piles up. Verification is never switched off: who has a private CA names it. Knows no HTTP but its ALPN name.

use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::{CryptoProvider, KeyProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::SigningKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, PeerIncompatible, RootCertStore,
};

use super::conn::{Conn, Plain};
use super::deadline::with_deadline;
use crate::limits::{CA_FILE_BYTES_MAX, READ_BYTES_MAX, TLS_SESSIONS_MAX, TLS_WRITE_BYTES_MAX};

/// Whom to trust, and the sessions to resume. Cheap to clone; connections that share it share the sessions.
#[derive(Debug, Clone)]
pub struct TlsConfig(Arc<ClientConfig>);

impl TlsConfig {
    /// Trusts Mozilla's roots and the PEM certificates of the files: `tls_ca` of a backend, `SSL_CERT_FILE`.
    pub fn new(tls_ca: Option<&Path>, ssl_cert_file: Option<&Path>) -> Result<Self, TlsSetupError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for path in [tls_ca, ssl_cert_file].into_iter().flatten() {
            let (added, _) = roots.add_parsable_certificates(certificates(path)?);
            if added == 0 {
                return Err(TlsSetupError { path: path.to_owned(), why: Why::NoCertificate });
            }
        }
        // Explicit, so that nothing global decides. It supports both versions, so this cannot fail.
        let provider =
            CryptoProvider { key_provider: &NoClientKeys, ..rustls::crypto::ring::default_provider() };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|err| TlsSetupError { path: PathBuf::new(), why: Why::Rustls(err) })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(TLS_SESSIONS_MAX)));
        Ok(Self(Arc::new(config)))
    }
}

/// Providers know their clients by API keys, not by certificates. What would sign with a private key stays out of the
/// binary.
#[derive(Debug)]
struct NoClientKeys;

impl KeyProvider for NoClientKeys {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General("no client certificates".to_owned()))
    }
}

/// A file of certificates that cannot be used.
#[derive(Debug)]
pub struct TlsSetupError {
    path: PathBuf,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Io(io::Error),
    TooLarge,
    Pem(rustls::pki_types::pem::Error),
    NoCertificate,
    Rustls(rustls::Error),
}

impl fmt::Display for TlsSetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.why {
            Why::Io(err) => write!(f, "cannot read the certificates in {path}: {err}"),
            Why::TooLarge => {
                write!(f, "{path} is larger than {CA_FILE_BYTES_MAX} bytes: not a file of CA certificates")
            }
            Why::Pem(err) => write!(f, "{path} is damaged, expected PEM certificates: {err}"),
            Why::NoCertificate => {
                write!(f, "{path} has no usable certificate, expected PEM (-----BEGIN CERTIFICATE-----)")
            }
            Why::Rustls(err) => write!(f, "TLS cannot be set up: {err}"),
        }
    }
}

impl std::error::Error for TlsSetupError {}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let fail = |why| TlsSetupError { path: path.to_owned(), why };
    let mut pem = Vec::new();
    // One byte more than allowed tells a file that is too large from one that just fits.
    let limit = CA_FILE_BYTES_MAX as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut pem))
        .map_err(|err| fail(Why::Io(err)))?;
    if pem.len() > CA_FILE_BYTES_MAX {
        return Err(fail(Why::TooLarge));
    }
    CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|err| fail(Why::Pem(err)))
}

/// Why there is no TLS connection. The texts are for people and name the cause; they quote the peer only cleaned.
#[derive(Debug)]
pub enum TlsError {
    /// The peer has not shown that it is who it should be.
    Certificate(String),
    /// The peer knows TLS 1.1 or older only.
    TooOld,
    /// Something answered, but not in TLS: mostly plain HTTP on that port.
    NotTls,
    /// The peer closed in the middle of the handshake.
    Closed,
    /// The host of the URL is neither a DNS name nor an IP address.
    Host,
    /// Not done in time.
    Timeout,
    /// The connection broke.
    Io(io::Error),
    /// Anything else rustls objects to, in its words.
    Protocol(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Certificate(text) => f.write_str(text),
            TlsError::TooOld => f.write_str("the server speaks no TLS newer than 1.1"),
            TlsError::NotTls => f.write_str("the port does not speak TLS (http instead of https?)"),
            TlsError::Closed => f.write_str("the server closed the connection during the TLS handshake"),
            TlsError::Host => f.write_str("the host is neither a DNS name nor an IP address"),
            TlsError::Timeout => f.write_str("the server did not finish the TLS handshake in time"),
            TlsError::Io(err) => write!(f, "the connection broke during the TLS handshake: {err}"),
            TlsError::Protocol(text) => write!(f, "TLS: {text}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// Makes a TLS connection of `plain`, whose peer must prove to be `host` (a name, or an IP address with or without
/// brackets) until `deadline`.
pub async fn handshake(
    plain: Plain,
    host: &str,
    config: &TlsConfig,
    deadline: Instant,
) -> Result<Conn, TlsError> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // SNI has no trailing dot (RFC 6066 §3).
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    let name = ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::Host)?;
    let mut tls = ClientConnection::new(config.0.clone(), name).map_err(|err| describe(&err, false))?;
    tls.set_buffer_limit(Some(TLS_WRITE_BYTES_MAX));
    let mut conn =
        Box::new(TlsConn { plain, tls, unfed: Vec::new(), eof: false, broken: None, close_sent: false });
    match with_deadline(deadline, poll_fn(|cx| conn.poll_handshake(cx))).await {
        Ok(Ok(())) => Ok(Conn::Tls(conn)),
        Ok(Err(err)) => Err(err),
        Err(_) => Err(TlsError::Timeout),
    }
}

/// What `err` means to people. `heard` says whether the peer has spoken valid TLS before.
fn describe(err: &rustls::Error, heard: bool) -> TlsError {
    match err {
        rustls::Error::InvalidCertificate(err) => TlsError::Certificate(describe_certificate(err)),
        rustls::Error::NoCertificatesPresented => {
            TlsError::Certificate("the server has shown no certificate".to_owned())
        }
        rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        )
        | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => TlsError::TooOld,
        rustls::Error::InvalidMessage(_) if !heard => TlsError::NotTls,
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            TlsError::Certificate("the server does not know the host name it was asked for".to_owned())
        }
        err => TlsError::Protocol(err.to_string()),
    }
}

fn describe_certificate(err: &CertificateError) -> String {
    match err {
        CertificateError::Expired => "the certificate has expired".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("the certificate expired {} ago (or the clock here is wrong)", age(*not_after, *time))
        }
        CertificateError::NotValidYet => {
            "the certificate is not valid yet (is the clock here right?)".to_owned()
        }
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the certificate is not valid before {} from now (is the clock here right?)",
            age(*time, *not_before)
        ),
        CertificateError::UnknownIssuer => {
            "the certificate is self-signed or from an unknown issuer (a private CA goes into tls_ca)"
                .to_owned()
        }
        // Signed by somebody who merely bears the name of a trusted issuer, or damaged.
        CertificateError::BadSignature => {
            "the certificate is not signed by the issuer it names (a private CA goes into tls_ca)".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "the certificate is not for {} but for {}",
            expected.to_str(),
            names(presented).unwrap_or_else(|| "no name at all".to_owned())
        ),
        CertificateError::NotValidForName => "the certificate is for another name".to_owned(),
        CertificateError::Revoked => "the certificate is revoked".to_owned(),
        // webpki's word for a self-signed CA certificate that is used as a server's.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "the certificate is self-signed (a CA used as a server's certificate)".to_owned()
        }
        err => {
            format!("the certificate is not acceptable: {}", rustls::Error::InvalidCertificate(err.clone()))
        }
    }
}

fn age(from: UnixTime, to: UnixTime) -> String {
    let seconds = to.as_secs().saturating_sub(from.as_secs());
    match seconds {
        0..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The first names of a certificate, as the verifier shows them (`DnsName("a.example")`), without what could forge
/// a log line.
fn names(presented: &[String]) -> Option<String> {
    const NAMES_SHOWN: usize = 4;
    const NAME_CHARS_SHOWN: usize = 80;
    let shown: Vec<String> = presented
        .iter()
        .take(NAMES_SHOWN)
        .map(|name| {
            let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
            inner
                .chars()
                .filter(|c| c.is_ascii_alphanumeric() || ".-*_:".contains(*c))
                .take(NAME_CHARS_SHOWN)
                .collect()
        })
        .collect();
    let more = if presented.len() > NAMES_SHOWN { " and others" } else { "" };
    if shown.is_empty() { None } else { Some(shown.join(", ") + more) }
}

/// A verified TLS connection to a provider; see [`Conn`] for the contract of its methods.
#[derive(Debug)]
pub struct TlsConn {
    plain: Plain,
    tls: ClientConnection,
    /// Read from the socket, not yet taken by rustls because plaintext is pending: at most one read, mostly empty.
    unfed: Vec<u8>,
    /// The socket has ended.
    eof: bool,
    /// What rustls found wrong. Told once the plaintext before it is delivered.
    broken: Option<rustls::Error>,
    close_sent: bool,
}

impl TlsConn {
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TlsError>> {
        loop {
            if let Some(err) = &self.broken {
                let err = describe(err, self.tls.protocol_version().is_some());
                // The alert that tells the server why, if the socket takes it.
                let _ = self.poll_flush(cx);
                return Poll::Ready(Err(err));
            }
            ready!(self.poll_flush(cx)).map_err(TlsError::Io)?;
            if !self.tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if self.eof || self.tls.reader().fill_buf().is_ok() {
                return Poll::Ready(Err(TlsError::Closed));
            }
            ready!(self.poll_fill(cx, &mut Vec::new(), 0)).map_err(TlsError::Io)?;
        }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<u8>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let max = max.min(READ_BYTES_MAX);
        let before = into.len();
        loop {
            let taken = into.len().saturating_sub(before);
            self.digest_unfed(into, max.saturating_sub(taken));
            let taken = into.len().saturating_sub(before);
            if taken > 0 || max == 0 {
                return Poll::Ready(Ok(taken));
            }
            if let Some(closed) = self.closed() {
                // The alert that says why, if the socket takes it: nobody will flush a broken connection.
                let _ = self.poll_flush(cx);
                return Poll::Ready(closed.map(|()| 0));
            }
            ready!(self.poll_fill(cx, into, max))?;
        }
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bytes.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        loop {
            let taken = self.tls.writer().write_vectored(bytes)?;
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
            // The buffer is full: make room.
            if !self.tls.wants_write() {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            ready!(self.poll_send(cx))?;
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            ready!(self.poll_send(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.close_sent {
            self.close_sent = true;
            self.tls.send_close_notify();
        }
        ready!(self.poll_flush(cx))?;
        Poll::Ready(self.plain.shutdown_write())
    }

    pub(super) fn is_quiet(&mut self) -> bool {
        // Nobody waits for these reads: they are made only where the socket has something.
        let mut cx = Context::from_waker(Waker::noop());
        let mut stray = Vec::new();
        for _ in 0..QUIET_READS_MAX {
            self.digest_unfed(&mut stray, 1);
            if !stray.is_empty() {
                // It is gone from the stream, so nothing that follows can be believed.
                self.broken = Some(rustls::Error::General("data that nobody asked for".to_owned()));
            }
            if self.closed().is_some() {
                return false;
            }
            if self.plain.peek_is_quiet() {
                return true;
            }
            self.plain.expect_data();
            if !matches!(self.poll_fill(&mut cx, &mut stray, 1), Poll::Ready(Ok(()))) {
                return false;
            }
        }
        false
    }

    /// One socket write of what rustls has to send.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.tls.write_tls(&mut Sender { plain: &self.plain, cx }) {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            sent => Poll::Ready(sent),
        }
    }

    /// One socket read, fed to rustls as far as its plaintext has room.
    fn poll_fill(&mut self, cx: &mut Context<'_>, into: &mut Vec<u8>, max: usize) -> Poll<io::Result<()>> {
        // Answers to what the peer sent (key updates, alerts) go out with the next flush; waiting here for a peer
        // that does not read would be a deadlock, so this one try need not succeed.
        if self.tls.wants_write()
            && let Poll::Ready(Err(err)) = self.poll_flush(cx)
        {
            return Poll::Ready(Err(err));
        }
        let Self { plain, tls, unfed, eof, broken, .. } = self;
        // Never much more than there is room for, so that little is left over.
        let ask = max.clamp(READ_BYTES_MIN, READ_BYTES_MAX);
        plain.poll_read_with(cx, ask, |bytes| {
            *eof = bytes.is_empty();
            let fed = digest(tls, bytes, into, max, broken);
            unfed.extend_from_slice(bytes.get(fed..).unwrap_or_default());
        })
    }

    fn digest_unfed(&mut self, into: &mut Vec<u8>, room: usize) {
        let fed = digest(&mut self.tls, &self.unfed, into, room, &mut self.broken);
        if fed > 0 {
            self.unfed.drain(..fed.min(self.unfed.len()));
            if self.unfed.is_empty() {
                self.unfed = Vec::new();
            }
        }
    }

    /// How the stream has ended, if it has and all plaintext is delivered.
    fn closed(&mut self) -> Option<io::Result<()>> {
        if let Some(err) = &self.broken {
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, err.clone())));
        }
        match self.tls.reader().fill_buf() {
            Ok(_) => Some(Ok(())),
            Err(_) if self.eof => {
                Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without TLS close_notify")))
            }
            Err(_) => None,
        }
    }
}

/// Smallest read from the socket: a whole TLS record, as nothing of it can be handed out before its last byte.
const READ_BYTES_MIN: usize = 17 * 1024;

/// Reads of one probe. Servers send two to four session tickets, mostly in one segment.
const QUIET_READS_MAX: usize = 4;

/// Feeds `bytes` to rustls and moves plaintext to `into`, `room` bytes at most; stops while plaintext is left over.
/// Says how many bytes were used up.
fn digest(
    tls: &mut ClientConnection,
    bytes: &[u8],
    into: &mut Vec<u8>,
    mut room: usize,
    broken: &mut Option<rustls::Error>,
) -> usize {
    let mut rest = bytes;
    loop {
        let pending = drain(tls, into, &mut room);
        if pending || rest.is_empty() || broken.is_some() {
            return bytes.len().saturating_sub(rest.len());
        }
        match tls.read_tls(&mut rest) {
            // After `close_notify` nothing counts any more.
            Ok(0) => return bytes.len(),
            Ok(_) => {}
            // Its buffer is full although all of it was processed: a record longer than TLS allows.
            Err(err) => *broken = Some(rustls::Error::General(err.to_string())),
        }
        if let Err(err) = tls.process_new_packets() {
            *broken = Some(err);
        }
    }
}

/// Moves plaintext to `into` while there is room; says whether some is left.
fn drain(tls: &mut ClientConnection, into: &mut Vec<u8>, room: &mut usize) -> bool {
    let mut reader = tls.reader();
    while let Ok(chunk) = reader.fill_buf()
        && !chunk.is_empty()
    {
        let count = chunk.len().min(*room);
        if count == 0 {
            return true;
        }
        into.extend_from_slice(chunk.get(..count).unwrap_or_default());
        *room = room.saturating_sub(count);
        reader.consume(count);
    }
    false
}

/// Lends the socket to `write_tls`.
struct Sender<'a, 'b> {
    plain: &'a Plain,
    cx: &'a mut Context<'b>,
}

impl Write for Sender<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.plain.poll_write_vectored(self.cx, bytes) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A certificate authority and TLS servers on loopback, for the tests of this directory.
#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::{ServerConfig, ServerConnection, StreamOwned};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A CA whose certificate lies in a file of its own until it is dropped.
    pub struct Ca {
        issuer: Issuer<'static, KeyPair>,
        pub path: PathBuf,
    }

    impl Ca {
        pub fn new() -> Self {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let name = format!("afs-ca-{}-{}.pem", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
            params.distinguished_name.push(rcgen::DnType::CommonName, name.as_str());
            let key = KeyPair::generate().unwrap();
            let pem = params.self_signed(&key).unwrap().pem();
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, pem).unwrap();
            Self { issuer: Issuer::new(params, key), path }
        }

        pub fn trusted(&self) -> TlsConfig {
            TlsConfig::new(Some(&self.path), None).unwrap()
        }

        pub fn server(&self, names: &[&str]) -> Arc<ServerConfig> {
            self.server_with(names, |_| ())
        }

        pub fn server_with(
            &self,
            names: &[&str],
            change: impl FnOnce(&mut CertificateParams),
        ) -> Arc<ServerConfig> {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            change(&mut params);
            let key = KeyPair::generate().unwrap();
            let cert = params.signed_by(&key, &self.issuer).unwrap();
            server_config(cert.der().clone(), &key)
        }
    }

    impl Drop for Ca {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    pub fn server_config(cert: CertificateDer<'static>, key: &KeyPair) -> Arc<ServerConfig> {
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Arc::new(
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![cert], key)
                .unwrap(),
        )
    }

    pub type Stream = StreamOwned<ServerConnection, TcpStream>;

    /// Accepts connections for ever, each on a thread of its own.
    pub fn serve(with: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let with = Arc::new(with);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let with = with.clone();
                std::thread::spawn(move || with(stream));
            }
        });
        address
    }

    pub fn serve_tls(
        config: Arc<ServerConfig>,
        with: impl Fn(&mut Stream) + Send + Sync + 'static,
    ) -> SocketAddr {
        serve(move |stream| with(&mut accept(&config, stream)))
    }

    pub fn accept(config: &Arc<ServerConfig>, stream: TcpStream) -> Stream {
        StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;
    use crate::net::deadline::drive;
    use async_io::Async;
    use futures_lite::future::{block_on, or};
    use rcgen::KeyPair;
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    fn run<T>(f: impl Future<Output = T>) -> T {
        block_on(or(f, async {
            drive().await;
            unreachable!("the driver never ends")
        }))
    }

    async fn connect(address: SocketAddr, host: &str, config: &TlsConfig, ms: u64) -> Result<Conn, TlsError> {
        let plain = Plain::tcp(Async::<TcpStream>::connect(address).await.unwrap());
        handshake(plain, host, config, Instant::now() + Duration::from_millis(ms)).await
    }

    fn error(address: SocketAddr, host: &str, config: &TlsConfig) -> TlsError {
        run(connect(address, host, config, 10_000)).expect_err("the handshake must fail")
    }

    async fn write_all(conn: &mut Conn, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = poll_fn(|cx| conn.poll_write(cx, bytes)).await.unwrap();
            assert!(count > 0);
            bytes = &bytes[count..];
        }
        poll_fn(|cx| conn.poll_flush(cx)).await.unwrap();
    }

    async fn read_all(conn: &mut Conn, max: usize) -> (Vec<u8>, io::Result<()>) {
        let mut into = Vec::new();
        loop {
            let before = into.len();
            match poll_fn(|cx| conn.poll_read(cx, &mut into, max)).await {
                Ok(0) => return (into, Ok(())),
                Ok(count) => {
                    assert!(count <= max, "read {count} of at most {max}");
                    assert_eq!(into.len(), before + count);
                }
                Err(err) => return (into, Err(err)),
            }
        }
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n % 251) as u8).collect()
    }

    /// Reads `expect` bytes, sends them back, closes as told.
    fn echo(expect: usize, polite: bool) -> impl Fn(&mut Stream) + Send + Sync {
        move |stream| {
            let mut got = vec![0; expect];
            stream.read_exact(&mut got).unwrap();
            stream.write_all(&got).unwrap();
            if polite {
                stream.conn.send_close_notify();
            }
            stream.flush().unwrap();
        }
    }

    #[test]
    fn bytes_go_both_ways_whatever_the_sizes() {
        let ca = Ca::new();
        for (len, max) in
            [(1, 1), (1000, 1), (40_000, 7), (3_000_000, 1000), (3_000_000, 16_384), (3_000_000, 65_536)]
        {
            let address = serve_tls(ca.server(&["localhost"]), echo(len, true));
            run(async {
                let mut conn = connect(address, "localhost", &ca.trusted(), 10_000).await.unwrap();
                write_all(&mut conn, &pattern(len)).await;
                let (got, end) = read_all(&mut conn, max).await;
                assert!(got == pattern(len), "{len} bytes by {max} came back changed ({})", got.len());
                assert!(end.is_ok(), "{end:?}");
            });
        }
    }

    #[test]
    fn one_byte_writes_make_one_answer() {
        let ca = Ca::new();
        let address = serve_tls(ca.server(&["localhost"]), echo(300, true));
        run(async {
            let mut conn = connect(address, "localhost", &ca.trusted(), 10_000).await.unwrap();
            for byte in pattern(300) {
                write_all(&mut conn, &[byte]).await;
            }
            assert_eq!(read_all(&mut conn, 4096).await.0, pattern(300));
        });
    }

    #[test]
    fn a_cut_is_an_error_and_not_an_end() {
        let ca = Ca::new();
        for (polite, kind) in [(true, None), (false, Some(io::ErrorKind::UnexpectedEof))] {
            let address = serve_tls(ca.server(&["localhost"]), echo(5, polite));
            run(async {
                let mut conn = connect(address, "localhost", &ca.trusted(), 10_000).await.unwrap();
                write_all(&mut conn, b"hello").await;
                let (got, end) = read_all(&mut conn, 4096).await;
                assert_eq!(got, b"hello");
                assert_eq!(end.err().map(|err| err.kind()), kind, "close_notify: {polite}");
                // And it stays so.
                assert_eq!(read_all(&mut conn, 4096).await.1.err().map(|err| err.kind()), kind);
            });
        }
    }

    #[test]
    fn a_peer_that_does_not_read_holds_the_writer_within_the_limit() {
        let ca = Ca::new();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Mutex::new(held);
        let address = serve_tls(ca.server(&["localhost"]), move |stream| {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            let _ = held.lock().unwrap().recv();
        });
        run(async {
            let mut conn = connect(address, "localhost", &ca.trusted(), 10_000).await.unwrap();
            write_all(&mut conn, b"x").await;
            let block = vec![0; 1 << 20];
            let mut total = 0;
            let mut cx = Context::from_waker(Waker::noop());
            while let Poll::Ready(count) = conn.poll_write(&mut cx, &block) {
                total += count.unwrap();
                assert!(total < 64 << 20, "writes are never held back");
            }
            let Conn::Tls(tls) = &mut conn else { panic!("not TLS") };
            assert!(tls.tls.wants_write());
        });
        drop(hold);
    }

    #[test]
    fn only_session_tickets_leave_a_connection_quiet() {
        let ca = Ca::new();
        for (stray, polite, quiet) in [("", false, true), ("x", false, false), ("", true, false)] {
            let (done, wait) = std::sync::mpsc::channel::<()>();
            let wait = std::sync::Mutex::new(wait);
            let address = serve_tls(ca.server(&["localhost"]), move |stream| {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                stream.write_all(b"y").unwrap();
                stream.write_all(stray.as_bytes()).unwrap();
                if polite {
                    stream.conn.send_close_notify();
                }
                stream.flush().unwrap();
                let _ = wait.lock().unwrap().recv();
            });
            run(async {
                let mut conn = connect(address, "localhost", &ca.trusted(), 10_000).await.unwrap();
                // Nothing but tickets was sent (or not yet): fit for use.
                assert!(conn.is_quiet(), "fresh");
                write_all(&mut conn, b"x").await;
                let mut into = Vec::new();
                poll_fn(|cx| conn.poll_read(cx, &mut into, 1)).await.unwrap();
                // What the server sent in the same breath may take a moment.
                let deadline = Instant::now() + Duration::from_secs(5);
                while !quiet && conn.is_quiet() && Instant::now() < deadline {
                    std::thread::yield_now();
                }
                assert_eq!(conn.is_quiet(), quiet, "stray {stray:?}, close_notify {polite}");
                if quiet {
                    drop(done);
                    let deadline = Instant::now() + Duration::from_secs(5);
                    while conn.is_quiet() && Instant::now() < deadline {
                        std::thread::yield_now();
                    }
                    assert!(!conn.is_quiet(), "the server is gone");
                }
            });
        }
    }

    #[test]
    fn sessions_are_resumed() {
        let ca = Ca::new();
        let address = serve_tls(ca.server(&["localhost"]), echo(1, true));
        let config = ca.trusted();
        run(async {
            for expect in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
                let mut conn = connect(address, "localhost", &config, 10_000).await.unwrap();
                write_all(&mut conn, b"x").await;
                read_all(&mut conn, 100).await.1.unwrap();
                let Conn::Tls(tls) = &conn else { panic!("not TLS") };
                assert_eq!(tls.tls.handshake_kind(), Some(expect));
            }
        });
    }

    #[test]
    fn close_notify_is_sent() {
        let ca = Ca::new();
        let (told, tell) = std::sync::mpsc::channel();
        let address = serve_tls(ca.server(&["localhost"]), move |stream| {
            let mut got = Vec::new();
            let _ = told.send(stream.read_to_end(&mut got).map_err(|err| err.kind()).map(|_| got));
        });
        run(async {
            let mut conn = connect(address, "localhost", &ca.trusted(), 10_000).await.unwrap();
            poll_fn(|cx| conn.poll_write(cx, b"bye")).await.unwrap();
            poll_fn(|cx| conn.poll_close(cx)).await.unwrap();
            assert_eq!(tell.recv().unwrap(), Ok(b"bye".to_vec()));
        });
    }

    #[test]
    fn ip_addresses_are_names_too() {
        let ca = Ca::new();
        let address = serve_tls(ca.server(&["127.0.0.1", "::1"]), echo(1, true));
        for host in ["127.0.0.1", "::1", "[::1]"] {
            assert!(run(connect(address, host, &ca.trusted(), 10_000)).is_ok(), "{host}");
        }
        assert!(run(connect(address, "local host", &ca.trusted(), 10_000)).is_err());
    }

    #[test]
    fn certificate_errors_name_the_cause() {
        let ca = Ca::new();
        let trusted = ca.trusted();
        let check = |server, host, config: &TlsConfig, expect: &str| {
            let address = serve_tls(server, |stream| drop(stream.read(&mut [0])));
            let text = match error(address, host, config) {
                TlsError::Certificate(text) => text,
                other => panic!("expected a certificate error, got {other:?}"),
            };
            assert!(text.contains(expect), "expected {expect:?} in {text:?}");
        };
        check(
            ca.server(&["a.example", "*.b.example"]),
            "localhost",
            &trusted,
            "not for localhost but for a.example, *.b.example",
        );
        check(ca.server(&["127.0.0.2"]), "127.0.0.1", &trusted, "not for 127.0.0.1 but for ");
        check(
            ca.server_with(&["localhost"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1)),
            "localhost",
            &trusted,
            "expired",
        );
        check(
            ca.server_with(&["localhost"], |params| params.not_before = rcgen::date_time_ymd(3000, 1, 1)),
            "localhost",
            &trusted,
            "not valid before",
        );
        check(Ca::new().server(&["localhost"]), "localhost", &trusted, "unknown issuer");
        check(ca.server(&["localhost"]), "localhost", &TlsConfig::new(None, None).unwrap(), "unknown issuer");

        for is_ca in [rcgen::IsCa::NoCa, rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)] {
            let key = KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.is_ca = is_ca;
            let cert = params.self_signed(&key).unwrap();
            check(server_config(cert.der().clone(), &key), "localhost", &trusted, "self-signed");
        }
    }

    #[test]
    fn what_is_not_tls_is_told_apart() {
        let config = TlsConfig::new(None, None).unwrap();
        let check = |answer: &'static [u8], expect: &str| {
            let address = serve(move |mut stream| {
                // The ClientHello has to be read, or closing would reset the connection.
                let mut header = [0; 5];
                stream.read_exact(&mut header).unwrap();
                let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
                stream.read_exact(&mut hello).unwrap();
                stream.write_all(answer).unwrap();
            });
            let text = error(address, "localhost", &config).to_string();
            assert!(text.contains(expect), "expected {expect:?} in {text:?}");
        };
        check(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "does not speak TLS");
        check(b"220 mail.example ESMTP\r\n", "does not speak TLS");
        check(&[0xff; 100], "does not speak TLS");
        check(b"", "closed the connection");
        // Alert protocol_version, fatal.
        check(&[0x15, 3, 1, 0, 2, 2, 70], "no TLS newer than 1.1");
        // ServerHello of TLS 1.1 with TLS_RSA_WITH_AES_128_CBC_SHA.
        const HELLO: [u8; 47] = {
            let mut hello = [7; 47];
            let start = [0x16, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
            let mut i = 0;
            while i < start.len() {
                hello[i] = start[i];
                i += 1;
            }
            // After 32 bytes of random: no session id, the cipher suite, no compression.
            hello[43] = 0;
            hello[44] = 0;
            hello[45] = 0x2f;
            hello[46] = 0;
            hello
        };
        check(&HELLO, "no TLS newer than 1.1");
        // Alert internal_error.
        check(&[0x15, 3, 3, 0, 2, 2, 80], "TLS: ");
        // Half a record, then the end.
        check(&[0x16, 3, 3, 0, 42, 2], "closed the connection");
    }

    #[test]
    fn a_server_that_never_answers_is_cut_by_the_deadline() {
        let (_hold, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Mutex::new(held);
        let address = serve(move |_stream| held.lock().unwrap().recv().unwrap_or_default());
        let config = TlsConfig::new(None, None).unwrap();
        let outcome = run(connect(address, "localhost", &config, 50));
        assert!(matches!(outcome, Err(TlsError::Timeout)), "{outcome:?}");
    }

    #[test]
    fn certificate_files_are_checked() {
        let ca = Ca::new();
        let check = |bytes: &[u8], expect: &str| {
            std::fs::write(&ca.path, bytes).unwrap();
            let text = TlsConfig::new(None, Some(&ca.path)).expect_err(expect).to_string();
            assert!(text.contains(expect), "expected {expect:?} in {text:?}");
            assert!(text.contains(ca.path.to_str().unwrap()), "no path in {text:?}");
        };
        check(b"", "no usable certificate");
        check(b"\xff\xfe\x00", "no usable certificate");
        check(b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n", "damaged");
        check(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no usable certificate");
        check(&vec![b' '; CA_FILE_BYTES_MAX + 1], "larger than");
        let text =
            TlsConfig::new(Some(Path::new("/nonexistent.pem")), None).expect_err("missing").to_string();
        assert!(text.starts_with("cannot read the certificates in /nonexistent.pem: "), "{text}");
    }
}
