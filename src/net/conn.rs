//! Connections: a plain socket by `&self` (a server task reads and writes at once) and what a provider is reached
//! over, plain or TLS. Knows no HTTP, no deadlines, and of TLS only that it exists.
//!
//! A connection that waits owns no read buffer: reads go through one buffer per thread and only what arrived is
//! kept. System calls are saved by waiting first where nothing can be there: a read that brought less than it had
//! room for has emptied the socket, a write that was cut short has filled it.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use async_io::Async;

use super::tls::TlsConn;
use crate::limits::READ_BYTES_MAX;

/// A socket without TLS. Readers and writers may share it; each direction has one task at a time.
#[derive(Debug)]
pub struct Plain {
    socket: Socket,
    /// The last read emptied the socket: wait for the reactor before the next one.
    read_empty: AtomicBool,
    /// The last read filled the whole buffer: let others have a turn before the next one.
    read_full: AtomicBool,
    /// The last write filled the socket: likewise.
    write_full: AtomicBool,
}

#[derive(Debug)]
enum Socket {
    Tcp(Async<TcpStream>),
    Unix(Async<UnixStream>),
}

impl Plain {
    /// Takes a TCP stream and switches Nagle's algorithm off: every write here is a whole flush.
    pub fn tcp(stream: Async<TcpStream>) -> Self {
        // It fails only on a socket that is dead already; the first read says so better.
        let _ = stream.get_ref().set_nodelay(true);
        Self::new(Socket::Tcp(stream))
    }

    /// Takes a unix stream.
    pub fn unix(stream: Async<UnixStream>) -> Self {
        Self::new(Socket::Unix(stream))
    }

    fn new(socket: Socket) -> Self {
        let [read_empty, read_full, write_full] = Default::default();
        Self { socket, read_empty, read_full, write_full }
    }

    /// Reads at most `max` bytes (and at most [`READ_BYTES_MAX`]) and appends them to `into`. 0 is the end of the
    /// stream, or `max` was 0.
    pub fn poll_read(&self, cx: &mut Context<'_>, into: &mut Vec<u8>, max: usize) -> Poll<io::Result<usize>> {
        self.poll_read_with(cx, max, |bytes| {
            into.extend_from_slice(bytes);
            bytes.len()
        })
    }

    /// Waits until there is something to read (data, end or error), without reading. May be ready for nothing.
    ///
    /// Being polled again while it waits costs no system call. Once it was ready, read before waiting again: what
    /// stays in the socket makes it ready at once.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(match &self.socket {
            Socket::Tcp(stream) => stream.poll_readable(cx),
            Socket::Unix(stream) => stream.poll_readable(cx),
        })?;
        // The reactor tells each event once: the next read must not wait for another.
        self.read_empty.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    /// Writes what the socket takes of `bytes`: more than 0 unless `bytes` is empty.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, bytes.len(), |socket| socket.write(bytes))
    }

    /// Writes what the socket takes of the slices in one call: more than 0 unless all are empty.
    pub fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bytes.iter().map(|slice| slice.len()).fold(0, usize::saturating_add);
        self.poll_write_with(cx, len, |socket| socket.write_vectored(bytes))
    }

    /// Whether nothing at all (no data, no end, no error) can be read right now: what an idle connection must be
    /// to be used again. Unix streams cannot be peeked at and always count as quiet; no provider is on one.
    pub fn peek_is_quiet(&self) -> bool {
        match &self.socket {
            Socket::Tcp(stream) => would_block(&stream.get_ref().peek(&mut [0])),
            Socket::Unix(_) => true,
        }
    }

    /// Tells the peer that nothing more will be written; reading goes on.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(stream) => stream.get_ref().shutdown(Shutdown::Write),
            Socket::Unix(stream) => stream.get_ref().shutdown(Shutdown::Write),
        }
    }

    /// The next read looks at the socket whatever the last one found.
    pub(super) fn expect_data(&self) {
        self.read_empty.store(false, Ordering::Relaxed);
    }

    /// Reads at most `max` bytes into the buffer of the thread and lends them to `take` (which must not read).
    /// An empty slice is the end of the stream, or `max` was 0.
    pub(super) fn poll_read_with<T>(
        &self,
        cx: &mut Context<'_>,
        max: usize,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Poll<io::Result<T>> {
        if self.read_full.swap(false, Ordering::Relaxed) {
            // A peer that is always faster than this program would never let the task wait, nor the thread go.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            if self.read_empty.load(Ordering::Relaxed) {
                ready!(self.poll_read_ready(cx))?;
            }
            let read = SCRATCH.with_borrow_mut(|scratch| {
                if scratch.is_empty() {
                    scratch.resize(READ_BYTES_MAX, 0);
                }
                let room = scratch.get_mut(..max.min(READ_BYTES_MAX)).unwrap_or_default();
                let count = self.socket.read(room)?;
                // It had less than asked for: it is empty now. The end of the stream stays readable for ever.
                self.read_empty.store(0 < count && count < room.len(), Ordering::Relaxed);
                self.read_full.store(count == READ_BYTES_MAX, Ordering::Relaxed);
                Ok(count)
            });
            match read {
                Ok(count) => {
                    let taken = SCRATCH.with_borrow(|scratch| take(scratch.get(..count).unwrap_or_default()));
                    return Poll::Ready(Ok(taken));
                }
                read if would_block(&read) => self.read_empty.store(true, Ordering::Relaxed),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Poll::Ready(Err(err)),
            }
        }
    }

    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        len: usize,
        mut write: impl FnMut(&Socket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        loop {
            if self.write_full.load(Ordering::Relaxed) {
                ready!(match &self.socket {
                    Socket::Tcp(stream) => stream.poll_writable(cx),
                    Socket::Unix(stream) => stream.poll_writable(cx),
                })?;
                self.write_full.store(false, Ordering::Relaxed);
            }
            match write(&self.socket) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    self.write_full.store(count < len, Ordering::Relaxed);
                    return Poll::Ready(Ok(count));
                }
                written if would_block(&written) => self.write_full.store(true, Ordering::Relaxed),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Poll::Ready(Err(err)),
            }
        }
    }
}

thread_local! {
    /// Where every read of this thread lands. Made at the first read: some threads never read.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Socket {
    fn read(&self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.get_ref().read(room),
            Socket::Unix(stream) => stream.get_ref().read(room),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.get_ref().write(bytes),
            Socket::Unix(stream) => stream.get_ref().write(bytes),
        }
    }

    fn write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.get_ref().write_vectored(bytes),
            Socket::Unix(stream) => stream.get_ref().write_vectored(bytes),
        }
    }
}

fn would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(err) if err.kind() == io::ErrorKind::WouldBlock)
}

/// A connection to a provider.
///
/// With TLS an end without `close_notify` is an error of kind [`io::ErrorKind::UnexpectedEof`], not an end: a body
/// that lasts until the close may have been cut by somebody on the way.
#[derive(Debug)]
pub enum Conn {
    /// Without TLS, or not yet with it.
    Plain(Plain),
    /// With TLS: the peer is verified.
    Tls(Box<TlsConn>),
}

impl Conn {
    /// Reads at most `max` bytes (and at most [`READ_BYTES_MAX`]) and appends them to `into`. 0 is the clean end
    /// of the stream, or `max` was 0.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<u8>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Conn::Plain(plain) => plain.poll_read(cx, into, max),
            Conn::Tls(tls) => tls.poll_read(cx, into, max),
        }
    }

    /// Takes some of `bytes`: more than 0 unless `bytes` is empty. What TLS took may wait for
    /// [`poll_flush`](Self::poll_flush).
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Conn::Plain(plain) => plain.poll_write(cx, bytes),
            Conn::Tls(tls) => tls.poll_write_vectored(cx, &[IoSlice::new(bytes)]),
        }
    }

    /// As [`poll_write`](Self::poll_write), for several slices in one socket write or TLS record.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Conn::Plain(plain) => plain.poll_write_vectored(cx, bytes),
            Conn::Tls(tls) => tls.poll_write_vectored(cx, bytes),
        }
    }

    /// Sends what was taken and not yet sent. Needed before waiting for an answer.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Conn::Plain(_) => Poll::Ready(Ok(())),
            Conn::Tls(tls) => tls.poll_flush(cx),
        }
    }

    /// Ends our side: flush, TLS `close_notify`, FIN. Best effort; dropping closes too, only less politely.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Conn::Plain(plain) => Poll::Ready(plain.shutdown_write()),
            Conn::Tls(tls) => tls.poll_close(cx),
        }
    }

    /// Whether an idle connection can carry another request: nothing was said since the last answer ended, by
    /// one system call at most. TLS session tickets that came meanwhile are taken in and count as nothing.
    pub fn is_quiet(&mut self) -> bool {
        match self {
            Conn::Plain(plain) => plain.peek_is_quiet(),
            Conn::Tls(tls) => tls.is_quiet(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};
    use std::future::poll_fn;
    use std::net::TcpListener;

    fn pair() -> (Plain, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Plain::tcp(Async::new(listener.accept().unwrap().0).unwrap()), peer)
    }

    #[test]
    fn a_connection_is_small() {
        assert!(size_of::<Conn>() <= 64, "{} bytes", size_of::<Conn>());
    }

    #[test]
    fn reads_append_up_to_max_and_end_with_0() {
        let (plain, mut peer) = pair();
        assert!(plain.socket_nodelay());
        peer.write_all(b"hello").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let mut into = b"> ".to_vec();
        block_on(async {
            for (max, expect) in [(0, 0), (2, 2), (100, 3), (100, 0), (100, 0)] {
                let count = poll_fn(|cx| plain.poll_read(cx, &mut into, max)).await.unwrap();
                assert_eq!(count, expect, "read of {max}");
            }
        });
        assert_eq!(into, b"> hello");
    }

    #[test]
    fn never_more_than_one_read_of_the_thread_buffer() {
        let (plain, mut peer) = pair();
        let writer = std::thread::spawn(move || peer.write_all(&vec![7; 4 * READ_BYTES_MAX]));
        let mut total = 0;
        block_on(async {
            loop {
                let mut into = Vec::new();
                let count = poll_fn(|cx| plain.poll_read(cx, &mut into, usize::MAX)).await.unwrap();
                assert_eq!(into.len(), count);
                assert!(count <= READ_BYTES_MAX, "read {count}");
                total += count;
                if count == 0 {
                    break;
                }
            }
        });
        assert_eq!(total, 4 * READ_BYTES_MAX);
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn waiting_first_does_not_lose_the_event() {
        let (plain, mut peer) = pair();
        block_on(async {
            for _ in 0..3 {
                assert!(poll_once(poll_fn(|cx| plain.poll_read_ready(cx))).await.is_none());
                peer.write_all(b"x").unwrap();
                poll_fn(|cx| plain.poll_read_ready(cx)).await.unwrap();
                let mut into = Vec::new();
                // The byte is on loopback, announced, and must come without another event.
                let count = poll_once(poll_fn(|cx| plain.poll_read(cx, &mut into, 10))).await;
                assert_eq!(count.unwrap().unwrap(), 1);
            }
        });
    }

    #[test]
    fn writes_are_complete_against_a_slow_reader() {
        let (plain, mut peer) = pair();
        let sent: Vec<u8> = (0..8_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            peer.read_to_end(&mut got).map(|_| got)
        });
        block_on(async {
            let mut rest = sent.as_slice();
            while !rest.is_empty() {
                let half = rest.len() / 2;
                let slices = [IoSlice::new(&rest[..half]), IoSlice::new(&rest[half..])];
                let count = poll_fn(|cx| plain.poll_write_vectored(cx, &slices)).await.unwrap();
                assert!(count > 0);
                rest = &rest[count..];
            }
            assert_eq!(poll_fn(|cx| plain.poll_write(cx, b"")).await.unwrap(), 0);
        });
        plain.shutdown_write().unwrap();
        assert!(reader.join().unwrap().unwrap() == sent, "bytes were lost or changed");
    }

    #[test]
    fn a_peer_that_is_always_faster_does_not_keep_the_thread() {
        let (plain, mut peer) = pair();
        peer.set_nonblocking(true).unwrap();
        // Until the socket takes no more, so that a read can fill its buffer.
        while peer.write(&[7; READ_BYTES_MAX]).is_ok() {}
        block_on(async {
            let mut into = Vec::new();
            let count = poll_fn(|cx| plain.poll_read(cx, &mut into, READ_BYTES_MAX)).await.unwrap();
            assert_eq!(count, READ_BYTES_MAX, "the socket should have had more than one read takes");
            let mut next = std::pin::pin!(poll_fn(|cx| plain.poll_read(cx, &mut into, READ_BYTES_MAX)));
            assert!(poll_once(next.as_mut()).await.is_none(), "others should have their turn first");
            assert!(next.await.unwrap() > 0, "and then it goes on by itself");
        });
    }

    #[test]
    fn quiet_means_neither_data_nor_end() {
        let (plain, mut peer) = pair();
        let wait = |plain: &Plain| block_on(poll_fn(|cx| plain.poll_read_ready(cx))).unwrap();
        assert!(plain.peek_is_quiet());
        peer.write_all(b"HTTP/1.1 408 Request Timeout\r\n").unwrap();
        wait(&plain);
        assert!(!plain.peek_is_quiet(), "data");
        block_on(poll_fn(|cx| plain.poll_read(cx, &mut Vec::new(), 100))).unwrap();
        assert!(plain.peek_is_quiet(), "peeking must not be needed after the data is read");
        drop(peer);
        wait(&plain);
        assert!(!plain.peek_is_quiet(), "end");
    }

    #[test]
    fn unix_streams_work_alike() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let plain = Plain::unix(Async::new(ours).unwrap());
        block_on(async {
            assert_eq!(poll_fn(|cx| plain.poll_write(cx, b"ping")).await.unwrap(), 4);
            let mut got = [0; 4];
            theirs.read_exact(&mut got).unwrap();
            theirs.write_all(&got).unwrap();
            drop(theirs);
            let mut into = Vec::new();
            while poll_fn(|cx| plain.poll_read(cx, &mut into, 100)).await.unwrap() > 0 {}
            assert_eq!(into, b"ping");
        });
    }

    impl Plain {
        fn socket_nodelay(&self) -> bool {
            matches!(&self.socket, Socket::Tcp(stream) if stream.get_ref().nodelay().unwrap())
        }
    }
}
