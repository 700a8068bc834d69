//! The HTTP/1.1 client: one request, one answer, on a pooled or a fresh connection.

use super::conn::Conn;
use super::dial::{DialError, DialTimes, Route, dial};
use super::pool::Pool;
use crate::http::body::{BodyError, BodyLength, BodyReader};
use crate::http::head::{HeadScan, ResponseError, ResponseHead};
use crate::limits::{HEAD_BYTES_MAX, INTERIM_RESPONSES_MAX, READ_BYTES_MAX, WRITE_PIECES_MAX};
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

/// Where requests go: a route, and the name under which its idle connections are kept.
pub struct Origin {
    /// How to get there.
    pub route: Route,
    /// Same text, same connections: scheme, host, port, proxy and trust.
    pub pool_key: Arc<str>,
}

/// Why an exchange brought no answer, or not all of it.
#[derive(Debug)]
pub enum ExchangeError {
    /// Nothing was sent.
    Dial(DialError),
    /// The connection ended before the first byte of an answer.
    Closed(Option<io::Error>),
    /// The connection ended inside the answer.
    Truncated,
    /// The answer is not HTTP/1.1 as it should be.
    Garbled(String),
    /// The body is longer than the reader's limit.
    TooLong,
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial(e) => e.fmt(f),
            Self::Closed(None) => f.write_str("connection closed before an answer"),
            Self::Closed(Some(e)) => write!(f, "connection lost before an answer ({e})"),
            Self::Truncated => f.write_str("connection ended inside the answer"),
            Self::Garbled(what) => write!(f, "not a valid HTTP answer: {what}"),
            Self::TooLong => f.write_str("the answer is larger than this proxy takes"),
        }
    }
}

impl From<BodyError> for ExchangeError {
    fn from(e: BodyError) -> Self {
        Self::Garbled(e.to_string())
    }
}

impl From<ResponseError> for ExchangeError {
    fn from(e: ResponseError) -> Self {
        Self::Garbled(e.to_string())
    }
}

/// Sends `request` (head and body in pieces) and reads the head of the answer.
///
/// A pooled connection that dies before the first byte of an answer is replaced by a fresh one, once: the provider
/// had closed it before the request came. Deadlines are the caller's; dropping the future closes the connection.
pub async fn send(pool: &Arc<Pool>, origin: &Origin, request: &[&[u8]]) -> Result<Response, ExchangeError> {
    if let Some(conn) = pool.take(&origin.pool_key, Instant::now()) {
        match exchange(conn, request).await {
            Err(ExchangeError::Closed(_)) => log::debug!("pooled connection had died, taking a fresh one"),
            other => return other.map(|answer| answer.at_home(pool, origin)),
        }
    }
    let mut made_room = false;
    let conn = loop {
        match dial(&origin.route, DialTimes::default()).await {
            // Idle connections must not cost a provider its turn.
            Err(e) if e.is_out_of_descriptors() && !made_room => {
                log::warn!("out of descriptors: closing idle connections to providers");
                pool.clear();
                made_room = true;
            }
            dialled => break dialled.map_err(ExchangeError::Dial)?,
        }
    };
    exchange(conn, request).await.map(|answer| answer.at_home(pool, origin))
}

async fn exchange(mut conn: Conn, request: &[&[u8]]) -> Result<Response, ExchangeError> {
    let mut input = Vec::new();
    let sent = write_request(&mut conn, request, &mut input).await?;
    let mut scan = HeadScan::default();
    let mut interim = 0;
    loop {
        if let Some((head, used)) = scan.response(&input)? {
            input.drain(..used);
            if head.status == 101 {
                return Err(ExchangeError::Garbled("101, but no upgrade was asked for".into()));
            }
            if head.status >= 200 {
                let length = head.body_length(false)?;
                let body = BodyReader::new(length);
                let reusable = sent && head.keep_alive && length != BodyLength::UntilClose;
                return Ok(Response { head, conn, input, body, length, reusable, home: None });
            }
            interim += 1;
            if interim > INTERIM_RESPONSES_MAX {
                return Err(ExchangeError::Garbled("too many interim answers".into()));
            }
            scan = HeadScan::default();
            continue;
        }
        let before = input.len();
        match poll_fn(|cx| conn.poll_read(cx, &mut input, READ_BYTES_MAX)).await {
            Ok(0) if before == 0 && interim == 0 => return Err(ExchangeError::Closed(None)),
            Ok(0) => return Err(ExchangeError::Truncated),
            Ok(_) => {}
            Err(e) if before == 0 && interim == 0 => return Err(ExchangeError::Closed(Some(e))),
            Err(_) => return Err(ExchangeError::Truncated),
        }
    }
}

/// Writes all pieces. `false` if the provider began to answer before it had them all: it need not read on
/// (RFC 9112 §9.5), and the connection is not used again.
async fn write_request(
    conn: &mut Conn,
    request: &[&[u8]],
    input: &mut Vec<u8>,
) -> Result<bool, ExchangeError> {
    let mut slices: Vec<IoSlice<'_>> = request.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut rest = slices.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0);
    poll_fn(|cx| {
        loop {
            let wrote = if rest.is_empty() {
                match conn.poll_flush(cx) {
                    Poll::Ready(Ok(())) => return Poll::Ready(Ok(true)),
                    Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
                    Poll::Pending => Poll::Pending,
                }
            } else {
                // Each layer below counts what it is given, so all of them each time would be quadratic.
                let ahead = rest.get(..rest.len().min(WRITE_PIECES_MAX)).unwrap_or_default();
                conn.poll_write_vectored(cx, ahead)
            };
            match wrote {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ExchangeError::Closed(None))),
                Poll::Ready(Ok(n)) => IoSlice::advance_slices(&mut rest, n),
                Poll::Ready(Err(e)) => {
                    // It may have said why before it closed.
                    let _ = conn.poll_read(cx, input, READ_BYTES_MAX);
                    let silent = input.is_empty();
                    return Poll::Ready(if silent { Err(ExchangeError::Closed(Some(e))) } else { Ok(false) });
                }
                Poll::Pending => match ready!(conn.poll_read(cx, input, READ_BYTES_MAX)) {
                    Ok(0) if input.is_empty() => return Poll::Ready(Err(ExchangeError::Closed(None))),
                    // It goes on reading behind a `100 Continue` that nobody asked for.
                    Ok(1..) if is_interim(input) => {}
                    Ok(_) => return Poll::Ready(Ok(false)),
                    Err(e) if input.is_empty() => return Poll::Ready(Err(ExchangeError::Closed(Some(e)))),
                    Err(_) => return Poll::Ready(Ok(false)),
                },
            }
        }
    })
    .await
}

/// Whether what came while the request was being sent begins with an interim answer.
fn is_interim(input: &[u8]) -> bool {
    const START: &[u8] = b"HTTP/1.1 1";
    let is_start = input.iter().zip(START).all(|(byte, wanted)| byte == wanted);
    is_start && input.len() <= HEAD_BYTES_MAX
}

/// An answer whose head has come. Dropping it closes the connection; [`Response::finish`] keeps it.
pub struct Response {
    /// Status and header fields.
    pub head: ResponseHead,
    conn: Conn,
    /// Read from the socket, not yet decoded. Without memory of its own while the answer is waited for.
    input: Vec<u8>,
    body: BodyReader,
    length: BodyLength,
    reusable: bool,
    home: Option<(Arc<Pool>, Arc<str>)>,
}

impl Response {
    fn at_home(mut self, pool: &Arc<Pool>, origin: &Origin) -> Self {
        self.home = Some((Arc::clone(pool), Arc::clone(&origin.pool_key)));
        self
    }

    /// Whether the end of the body is marked, so that a cut is noticed.
    pub fn is_framed(&self) -> bool {
        self.length != BodyLength::UntilClose
    }

    /// Whether the body has been read to its end.
    pub fn is_done(&self) -> bool {
        self.body.is_done()
    }

    /// Hands the next piece of the body to `sink`, in one or more slices. `false` at the end of the body.
    pub async fn read(&mut self, mut sink: impl FnMut(&[u8])) -> Result<bool, ExchangeError> {
        poll_fn(|cx| self.poll_body(cx, &mut sink)).await
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut impl FnMut(&[u8]),
    ) -> Poll<Result<bool, ExchangeError>> {
        loop {
            if self.decode(sink)? {
                return Poll::Ready(Ok(true));
            }
            if self.body.is_done() {
                return Poll::Ready(Ok(false));
            }
            match ready!(self.conn.poll_read(cx, &mut self.input, READ_BYTES_MAX)) {
                Ok(0) => {
                    self.reusable = false;
                    self.body.end_of_input().map_err(|_| ExchangeError::Truncated)?;
                }
                Ok(_) => {}
                Err(_) => return Poll::Ready(Err(ExchangeError::Truncated)),
            }
        }
    }

    /// Decodes what has been read; whether any of it was data.
    fn decode(&mut self, sink: &mut impl FnMut(&[u8])) -> Result<bool, ExchangeError> {
        let mut any = false;
        let mut rest = self.input.as_slice();
        while !self.body.is_done() {
            let (used, data) = self.body.read(rest)?;
            if !data.is_empty() {
                any = true;
                sink(data);
            }
            match rest.get(used..) {
                Some(after) if used > 0 => rest = after,
                _ => break,
            }
        }
        let used = self.input.len() - rest.len();
        if used == self.input.len() {
            self.input = Vec::new();
        } else {
            self.input.drain(..used);
        }
        Ok(any)
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// [`ExchangeError::TooLong`] above `limit` bytes; and as [`Response::read`].
    pub async fn read_to_end(&mut self, limit: usize) -> Result<Vec<u8>, ExchangeError> {
        let mut all = Vec::new();
        if let BodyLength::Length(length) = self.length {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > limit {
                return Err(ExchangeError::TooLong);
            }
            // Honest peers need no second allocation; a liar gets one read's worth.
            all.reserve_exact(length.min(READ_BYTES_MAX));
        }
        let mut too_long = false;
        while self
            .read(|data| match all.len() + data.len() > limit {
                true => too_long = true,
                false => all.extend_from_slice(data),
            })
            .await?
        {
            if too_long {
                return Err(ExchangeError::TooLong);
            }
        }
        Ok(all)
    }

    /// Gives the connection back to the pool if the exchange ended cleanly; closes it otherwise.
    pub fn finish(self) {
        let clean = self.reusable && self.body.is_done() && self.input.is_empty();
        if let (true, Some((pool, key))) = (clean, self.home) {
            pool.put(&key, self.conn, Instant::now());
        }
    }
}
