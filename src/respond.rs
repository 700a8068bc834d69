//! Writing answers: heads, whole bodies, streams. One write for each flush.

use crate::date::Civil;
use crate::dialect::ask::Dialect;
use crate::dialect::error::ApiError;
use crate::http::body::{CHUNK_END, LAST_CHUNK, push_chunk_size};
use crate::http::head::{Method, RequestHead, Version, push_header};
use crate::limits::WRITE_PROGRESS_TIME;
use crate::net::conn::Plain;
use crate::net::deadline::sleep_until;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Header fields beyond those that every answer has.
    pub headers: Vec<(&'static str, String)>,
    /// JSON text, unless a `content-type` among the headers says something else.
    pub body: Vec<u8>,
}

impl Reply {
    /// A JSON answer.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// An error in the shape that a client of `dialect` reads.
    pub fn error(error: &ApiError, dialect: Dialect) -> Self {
        Self::json(error.status_for(dialect), error.to_json(dialect))
    }

    /// The same with one more header field.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// How far the answer to the request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Nothing,
    Streaming,
    Complete,
}

/// The answer to one request. Whoever holds it owes the client exactly one.
pub struct Responder<'a> {
    io: &'a Plain,
    /// HTTP/1.0 knows no chunks: a stream ends with the connection.
    chunked: bool,
    head_only: bool,
    keep_alive: bool,
    cors_origin: Option<&'a str>,
    id: &'a str,
    progress: Progress,
    status: u16,
}

impl<'a> Responder<'a> {
    /// For the request with this head; `id` is the request's name in the log.
    pub fn new(io: &'a Plain, head: &RequestHead, id: &'a str, cors_origin: Option<&'a str>) -> Self {
        Self {
            io,
            chunked: head.version == Version::Http11,
            head_only: head.method == Method::Head,
            keep_alive: head.keep_alive,
            cors_origin,
            id,
            progress: Progress::Nothing,
            status: 0,
        }
    }

    /// For a request whose head could not be read; the connection ends with the answer.
    pub fn for_bad_head(io: &'a Plain, id: &'a str) -> Self {
        Self {
            io,
            chunked: true,
            head_only: false,
            keep_alive: false,
            cors_origin: None,
            id,
            progress: Progress::Nothing,
            status: 0,
        }
    }

    /// The connection is closed after this answer, and says so.
    pub fn close_after(&mut self) {
        self.keep_alive = false;
    }

    /// Whether another request may follow on the connection: the answer is complete and nobody asked to close.
    pub fn may_continue(&self) -> bool {
        self.keep_alive && self.progress == Progress::Complete
    }

    /// Whether the head of a stream has gone out.
    pub fn has_begun(&self) -> bool {
        self.progress != Progress::Nothing
    }

    /// The status sent, 0 before that.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The request's name in the log.
    pub fn id(&self) -> &'a str {
        self.id
    }

    /// Sends a whole answer.
    pub async fn whole(&mut self, reply: &Reply) -> io::Result<()> {
        let mut head = self.head(reply.status, &reply.headers);
        if !reply.headers.iter().any(|(name, _)| *name == "content-type") {
            head.extend_from_slice(b"content-type: application/json\r\n");
        }
        // `write!` to a Vec cannot fail.
        let _ = write!(head, "content-length: {}\r\n\r\n", reply.body.len());
        self.progress = Progress::Complete;
        let body: &[u8] = if self.head_only { &[] } else { &reply.body };
        write_all(self.io, &[&head, body]).await
    }

    /// Begins an event stream and sends `data` with its head, if that has not been done.
    pub async fn stream(&mut self, headers: &[(&'static str, String)], data: &[u8]) -> io::Result<()> {
        let mut out = Vec::new();
        if self.progress == Progress::Nothing {
            self.keep_alive &= self.chunked;
            out = self.head(200, headers);
            out.extend_from_slice(
                b"content-type: text/event-stream\r\ncache-control: no-store\r\nx-accel-buffering: no\r\n",
            );
            out.extend_from_slice(if self.chunked { b"transfer-encoding: chunked\r\n\r\n" } else { b"\r\n" });
            self.progress = Progress::Streaming;
        }
        if !self.chunked {
            return write_all(self.io, &[&out, data]).await;
        }
        if data.is_empty() {
            return write_all(self.io, &[&out]).await;
        }
        push_chunk_size(&mut out, data.len());
        write_all(self.io, &[&out, data, CHUNK_END]).await
    }

    /// Sends the last piece of a stream and its end.
    pub async fn end_stream(&mut self, data: &[u8]) -> io::Result<()> {
        self.progress = Progress::Complete;
        if !self.chunked {
            return write_all(self.io, &[data]).await;
        }
        if data.is_empty() {
            return write_all(self.io, &[LAST_CHUNK]).await;
        }
        let mut size = Vec::new();
        push_chunk_size(&mut size, data.len());
        write_all(self.io, &[&size, data, CHUNK_END, LAST_CHUNK]).await
    }

    fn head(&mut self, status: u16, headers: &[(&'static str, String)]) -> Vec<u8> {
        self.status = status;
        let mut head = Vec::with_capacity(512);
        let _ = write!(head, "HTTP/1.1 {status} {}\r\n", reason(status));
        push_date(&mut head);
        push_header(&mut head, "x-request-id", self.id);
        for (name, value) in headers {
            push_header(&mut head, name, value);
        }
        if let Some(origin) = self.cors_origin {
            push_header(&mut head, "access-control-allow-origin", origin);
            push_header(&mut head, "vary", "origin");
            push_header(
                &mut head,
                "access-control-expose-headers",
                "x-request-id, retry-after, x-ai-free-swap-backend, x-ai-free-swap-attempts",
            );
        }
        if !self.keep_alive {
            head.extend_from_slice(b"connection: close\r\n");
        } else if !self.chunked {
            head.extend_from_slice(b"connection: keep-alive\r\n");
        }
        head
    }
}

/// Reason phrases of the statuses we send; providers' own may come through with any.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        529 => "Overloaded",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}

/// The `Date` field, made once a second for each thread.
fn push_date(head: &mut Vec<u8>) {
    thread_local! {
        static LINE: RefCell<(u64, Vec<u8>)> = const { RefCell::new((0, Vec::new())) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    LINE.with_borrow_mut(|(made, line)| {
        if *made != second || line.is_empty() {
            *made = second;
            line.clear();
            push_header(line, "date", &Civil::of(now).http());
        }
        head.extend_from_slice(line);
    });
}

/// Writes all of `parts`.
///
/// # Errors
/// Those of the socket; `TimedOut` if the peer takes nothing for [`WRITE_PROGRESS_TIME`].
pub async fn write_all(io: &Plain, parts: &[&[u8]]) -> io::Result<()> {
    // At most four parts, see the callers; a fifth would only cost a longer array.
    let mut slices = [IoSlice::new(&[]); 4];
    for (slice, part) in slices.iter_mut().zip(parts) {
        *slice = IoSlice::new(part);
    }
    let mut rest = slices.get_mut(..parts.len().min(4)).unwrap_or_default();
    IoSlice::advance_slices(&mut rest, 0);
    let mut patience = sleep_until(Instant::now() + WRITE_PROGRESS_TIME);
    poll_fn(|cx| {
        while !rest.is_empty() {
            match io.poll_write_vectored(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    IoSlice::advance_slices(&mut rest, n);
                    if !rest.is_empty() {
                        patience.reset(Instant::now() + WRITE_PROGRESS_TIME);
                    }
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => {
                    return Pin::new(&mut patience).poll(cx).map(|_| Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}
