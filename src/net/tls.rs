//! TLS to providers. The only file that names rustls.

use std::io::{self, BufRead, IoSlice, Write};
use std::task::{Context, Poll, Waker, ready};

use rustls::ClientConnection;

use super::conn::Plain;
use crate::limits::READ_BYTES_MAX;

/// A verified TLS connection to a provider; see [`Conn`](super::conn::Conn) for the contract of its methods.
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
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<u8>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let max = max.min(READ_BYTES_MAX);
        let before = into.len();
        loop {
            self.digest_unfed(into, max);
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
            if !stray.is_empty() || self.closed().is_some() {
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

/// Smallest read from the socket: a `max` of one byte must not mean one system call per byte of a TLS record.
const READ_BYTES_MIN: usize = 4096;

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
