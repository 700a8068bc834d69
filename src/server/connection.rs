//! One client connection: requests in order, each read whole, answered, and watched for the client leaving.

use super::Shared;
use super::budget::Share;
use super::connections::{Evicted, Slot};
use super::{guard, routes};
use crate::dialect::ask::Dialect;
use crate::dialect::error::ApiError;
use crate::http::body::{BodyLength, BodyReader};
use crate::http::head::{HeadScan, RequestHead};
use crate::limits::{
    BODY_MEMORY_WAIT, BODY_PROGRESS_TIME, BODY_RATE_MIN, DISCARD_BYTES_MAX, HEADER_TIME, IDLE_TIME,
    LINGER_BYTES_MAX, LINGER_TIME, READ_AHEAD_BYTES_MAX, READ_BYTES_MAX,
};
use crate::net::conn::Plain;
use crate::net::deadline::with_deadline;
use crate::respond::{Reply, Responder, write_all};
use futures_lite::future::yield_now;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// A request body, and its share of the memory for all bodies.
pub struct Body {
    bytes: Vec<u8>,
    skip: usize,
    _share: Share,
}

impl AsRef<[u8]> for Body {
    /// The whole body but for a byte order mark, which RFC 8259 §8.1 lets readers ignore.
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(self.skip..).unwrap_or_default()
    }
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why a request has no body.
pub enum BodyFailure {
    /// The client is to be told.
    Refused(ApiError),
    /// There is nobody to tell.
    Gone,
}

/// Serves a connection until it ends.
pub async fn serve(shared: Arc<Shared>, slot: Slot, io: Plain) {
    // The last parameter is dropped first: the descriptor is free before the place is.

    let mut input = Vec::new();
    loop {
        // Until its head is complete a request holds nothing that another connection could not need more.
        let head = match slot.idle(read_head(&io, &mut input)).await {
            Ok(Ok(Some(head))) => head,
            Ok(Ok(None)) | Err(Evicted) => return,
            Ok(Err(error)) => {
                let id = new_id();
                log::info!("[{id}] refused: {} ({})", error.message, error.status);
                let mut out = Responder::for_bad_head(&io, &id);
                if out.whole(&Reply::error(&error, Dialect::Chat)).await.is_ok() {
                    let _ = slot.idle(linger(&io)).await;
                }
                return;
            }
        };
        // Only while a request runs does a connection own the memory of one.
        let goes_on = Box::pin(one_request(&shared, &io, &slot, head, &mut input)).await;
        if !goes_on {
            return;
        }
        if input.is_empty() {
            input = Vec::new();
        } else {
            // Who sends one request behind the other must not keep the thread to itself.
            yield_now().await;
        }
    }
}

/// A name for the log, given to the client as `x-request-id`.
fn new_id() -> String {
    format!("{:08x}", fastrand::u32(..))
}

/// Answers one request; whether the connection may carry another.
async fn one_request(
    shared: &Arc<Shared>,
    io: &Plain,
    slot: &Slot,
    head: RequestHead,
    input: &mut Vec<u8>,
) -> bool {
    let id = new_id();
    let state = shared.state();
    let cors = guard::cors_origin(&state.config, &head);
    let mut out = Responder::new(io, &head, &id, cors.as_deref());
    if slot.is_draining() {
        out.close_after();
    }
    let mut incoming = Incoming { io, input, reader: BodyReader::new(head.body), declared: head.body };
    let served = routes::serve(shared, &state, &head, &mut incoming, &mut out).await;
    match served {
        Ok(()) if out.may_continue() && incoming.reader.is_done() => true,
        Ok(()) => {
            // Nothing is owed any more: whoever needs the place may have it.
            let _ = slot.idle(linger(io)).await;
            false
        }
        Err(_) => false,
    }
}

/// Reads up to the end of the next head; `None` when the connection ends between requests.
async fn read_head(io: &Plain, input: &mut Vec<u8>) -> Result<Option<RequestHead>, ApiError> {
    let mut scan = HeadScan::default();
    if input.is_empty() {
        match with_deadline(Instant::now() + IDLE_TIME, pin!(fill(io, input))).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) | Err(_) => return Ok(None),
        }
    }
    let deadline = Instant::now() + HEADER_TIME;
    loop {
        match scan.request(input) {
            Ok(Some((head, used))) => {
                input.drain(..used);
                return Ok(Some(head));
            }
            Ok(None) => {}
            Err(e) => return Err(ApiError::new(e.status(), e.to_string())),
        }
        match with_deadline(deadline, pin!(fill(io, input))).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return Ok(None),
            Err(_) => {
                let seconds = HEADER_TIME.as_secs();
                return Err(ApiError::new(408, format!("The request head did not come within {seconds} s.")));
            }
        }
    }
}

async fn fill(io: &Plain, input: &mut Vec<u8>) -> std::io::Result<usize> {
    poll_fn(|cx| io.poll_read(cx, input, READ_BYTES_MAX)).await
}

/// After an answer that ends the connection: tells the client so, and reads what it still sends. Closing with unread
/// bytes would reset the connection, and the answer with it.
async fn linger(io: &Plain) {
    if io.shutdown_write().is_err() {
        return;
    }
    let drain = pin!(async {
        let (mut sink, mut dropped) = (Vec::new(), 0);
        while let Ok(n @ 1..) = fill(io, &mut sink).await {
            dropped += n;
            sink.clear();
            if dropped > LINGER_BYTES_MAX {
                return;
            }
        }
    });
    // The deadline is the point: whatever is left is not waited for.
    let _ = with_deadline(Instant::now() + LINGER_TIME, drain).await;
}

/// The request's body, not read yet, and the bytes behind it.
pub struct Incoming<'a> {
    io: &'a Plain,
    input: &'a mut Vec<u8>,
    reader: BodyReader,
    declared: BodyLength,
}

impl Incoming<'_> {
    /// Reads the whole body, up to `max` bytes, within the memory for all bodies.
    pub async fn body(
        &mut self,
        shared: &Shared,
        max: usize,
        expect_continue: bool,
    ) -> Result<Body, BodyFailure> {
        if let BodyLength::Length(length) = self.declared
            && length > max as u64
        {
            return Err(BodyFailure::Refused(too_large(max)));
        }
        if expect_continue && self.input.is_empty() && !self.reader.is_done() {
            let sent = write_all(self.io, &[b"HTTP/1.1 100 Continue\r\n\r\n"]).await;
            sent.map_err(|_| BodyFailure::Gone)?;
        }
        let (bytes, share) = self.read(shared, max).await?;
        let skip = if bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        Ok(Body { bytes, skip, _share: share })
    }

    async fn read(&mut self, shared: &Shared, max: usize) -> Result<(Vec<u8>, Share), BodyFailure> {
        let mut share = shared.bodies.share();
        let mut bytes = Vec::new();
        let mut deadline = Instant::now() + BODY_PROGRESS_TIME;
        let mut memory_wait = BODY_MEMORY_WAIT;
        let mut seen = 0;
        loop {
            self.decode(&mut share, &mut memory_wait, &mut bytes, max).await?;
            if self.reader.is_done() {
                break;
            }
            deadline = body_deadline(deadline, bytes.len() - seen, Instant::now());
            seen = bytes.len();
            let received = with_deadline(deadline, pin!(self.receive(&mut bytes))).await;
            match received {
                Ok(Ok(1..)) => take_room(&mut share, &mut memory_wait, bytes.len() - seen).await?,
                Ok(Ok(0) | Err(_)) => return Err(BodyFailure::Gone),
                Err(_) => {
                    let error = ApiError::new(408, "The request body came too slowly, or not to its end.");
                    return Err(BodyFailure::Refused(error));
                }
            }
        }
        share.complete();
        Ok((bytes, share))
    }

    /// Reads from the socket: a body of known length straight to its place once a good part of it has come,
    /// anything else to be decoded.
    async fn receive(&mut self, bytes: &mut Vec<u8>) -> std::io::Result<usize> {
        let direct = self.input.is_empty() && matches!(self.declared, BodyLength::Length(_));
        if !direct || bytes.len() < READ_BYTES_MAX / 4 {
            return fill(self.io, self.input).await;
        }
        let before = bytes.len();
        let left = usize::try_from(self.reader.announced()).unwrap_or(usize::MAX);
        // Twice what has come at most, as if it grew by what comes: see `decode`.
        bytes.reserve(left.min(before));
        let left = left.min(bytes.capacity() - before);
        let count = poll_fn(|cx| self.io.poll_read(cx, bytes, left)).await?;
        // Never more than was announced, so all of it is data.
        let _ = self.reader.read(bytes.get(before..).unwrap_or_default());
        Ok(count)
    }

    /// Decodes what has been read so far. `memory_wait` is how long it may still wait for memory.
    async fn decode(
        &mut self,
        share: &mut Share,
        memory_wait: &mut Duration,
        bytes: &mut Vec<u8>,
        max: usize,
    ) -> Result<(), BodyFailure> {
        let mut at = 0;
        while !self.reader.is_done() {
            let rest = self.input.get(at..).unwrap_or_default();
            let (used, data) = self.reader.read(rest).map_err(|e| {
                BodyFailure::Refused(ApiError::new(
                    400,
                    format!("The request body is not framed properly: {e}."),
                ))
            })?;
            // A chunk is refused by its size, before it comes.
            if (data.len() as u64).saturating_add(self.reader.announced()) > (max - bytes.len()) as u64 {
                return Err(BodyFailure::Refused(too_large(max)));
            }
            if !data.is_empty() {
                take_room(share, memory_wait, data.len()).await?;
                // Not by what is announced: the allocator keeps for good what was written to, and an announcement
                // must not take address space either, of which a 32-bit system has little.
                bytes.extend_from_slice(data);
            }
            if used == 0 {
                break;
            }
            at += used;
        }
        self.input.drain(..at);
        if self.input.is_empty() {
            *self.input = Vec::new();
        }
        Ok(())
    }

    /// Reads and drops a small body, so that a request that was refused by its head need not cost the connection.
    /// Whether the body is out of the way.
    pub async fn discard_small(&mut self, shared: &Shared, expect_continue: bool) -> bool {
        if self.reader.is_done() {
            return true;
        }
        // Who waits for a 100 may send the body or not: only closing is clear.
        let small = matches!(self.declared, BodyLength::Length(length) if length <= DISCARD_BYTES_MAX as u64);
        small && !expect_continue && self.read(shared, DISCARD_BYTES_MAX).await.is_ok()
    }

    /// Whether nothing of the body is outstanding.
    pub fn is_read(&self) -> bool {
        self.reader.is_done()
    }

    /// Runs `work` until it ends or the client goes away, whichever comes first; dropping the work cancels it.
    ///
    /// A client that closes its sending side only is taken for gone, as by other proxies: the two look the same.
    /// Bytes of a next request are read ahead, a bounded number of them.
    ///
    /// The work comes pinned, as a value it would be held twice: here and in the future that made it.
    pub async fn while_here<F: Future>(&mut self, mut work: Pin<&mut F>) -> Option<F::Output> {
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.poll_gone(cx).map(|()| None),
        })
        .await
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.len() < READ_AHEAD_BYTES_MAX {
            // Only the event tells: a read that finds nothing would be one system call for each request.
            if ready!(self.io.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            match ready!(self.io.poll_read(cx, self.input, READ_AHEAD_BYTES_MAX)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

/// Takes memory for `more` bytes of a body, waiting for others to end for what is left of `memory_wait`.
async fn take_room(share: &mut Share, memory_wait: &mut Duration, more: usize) -> Result<(), BodyFailure> {
    let asked = Instant::now();
    let room = with_deadline(asked + *memory_wait, pin!(share.grow(more))).await;
    *memory_wait = memory_wait.saturating_sub(asked.elapsed());
    room.map_err(|_| {
        let text = "Too many large requests are in flight; try again in a moment.";
        BodyFailure::Refused(ApiError::new(503, text).code("overloaded"))
    })
}

/// When a body has to go on at the latest, once `count` more bytes of it have come.
fn body_deadline(deadline: Instant, count: usize, now: Instant) -> Instant {
    // In microseconds, as a body may come byte by byte.
    let earned = (count as u64).saturating_mul(1_000_000) / BODY_RATE_MIN;
    (deadline + Duration::from_micros(earned)).min(now + BODY_PROGRESS_TIME)
}

fn too_large(max: usize) -> ApiError {
    let text = format!(
        "The request body is larger than this proxy takes ({max} bytes); raise `server.max_body` in its config."
    );
    ApiError::new(413, text).code("request_too_large")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_must_keep_its_pace_whatever_came_before() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let first = start + BODY_PROGRESS_TIME;
        // A burst buys no more than silence is allowed anyway.
        assert_eq!(body_deadline(first, 30 * 1024 * 1024, start + second), first + second);
        assert_eq!(body_deadline(first, 0, start + second), first);
        // At the slowest pace the deadline stays as far ahead, a byte at a time or not; below it comes nearer.
        let pace = usize::try_from(BODY_RATE_MIN).unwrap();
        assert_eq!(body_deadline(first, pace, start + second), first + second);
        assert!(body_deadline(first, pace - 1, start + second) < first + second);
        let by_bytes = (0..pace).fold(first, |deadline, _| body_deadline(deadline, 1, start + second));
        assert!(first + second - by_bytes < Duration::from_millis(2));
        // One byte every 29 s: over in less than two times the allowed silence.
        let (mut now, mut deadline) = (start, first);
        while now < deadline {
            now += 29 * second;
            deadline = body_deadline(deadline, 1, now);
        }
        assert!(now - start < 2 * BODY_PROGRESS_TIME, "after {:?}", now - start);
    }
}
