//! Request and response heads (RFC 9112 §2 to §6): where a head ends, what it says, and how its body is framed.
//!
//! Strict on both sides: a head that two readers could frame differently is refused, never repaired. Refuses to know
//! sockets, bodies, and what an endpoint wants from a request.

use std::fmt;

use super::{body::BodyLength, headers::is_token, headers::is_token_byte, position};
pub use super::{
    head_error::{HeadError, RequestError, ResponseError},
    headers::{Headers, push_header},
};
use crate::limits::{HEAD_BYTES_MAX, LEADING_EMPTY_LINES_MAX};

/// The protocol versions spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunks, and a connection ends unless `keep-alive` was agreed.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Request methods; compared with regard to case (RFC 9110 §9.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
    /// Any other token.
    Other(Box<str>),
}

impl Method {
    /// The method as it stands in the request line.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Other(name) => name,
        }
    }

    fn from_token(token: &str) -> Self {
        match token {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            _ => Self::Other(token.into()),
        }
    }
}

/// A request head that passed every check.
///
/// `Debug` leaves out the query and all header values: both may hold API keys.
#[derive(Clone)]
pub struct RequestHead {
    /// What to do.
    pub method: Method,
    /// The target as it was sent: origin-form, absolute-form or `*`; visible ASCII.
    pub target: Box<str>,
    /// Version of the client.
    pub version: Version,
    /// All header fields.
    pub headers: Headers,
    /// How the body is framed; never `UntilClose`.
    pub body: BodyLength,
    /// Whether the client lets the connection live on (RFC 9112 §9.3).
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body (RFC 9110 §10.1.1). An `Expect` field
    /// while this is false, on HTTP/1.1, is an expectation to answer with 417.
    pub expect_continue: bool,
}

impl RequestHead {
    /// The path without the query: `/` for an absolute-form target without path, `*` for `OPTIONS *`.
    pub fn path(&self) -> &str {
        let (path, _) = split_query(&self.target);
        match absolute_form(path) {
            Some((_, "")) => "/",
            Some((_, path)) => path,
            None => path,
        }
    }

    /// The query without its `?`; `None` if there is no `?`.
    pub fn query(&self) -> Option<&str> {
        split_query(&self.target).1
    }
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, version, headers, body, keep_alive, expect_continue, .. } = self;
        f.debug_struct("RequestHead")
            .field("method", method)
            .field("path", &self.path())
            .field("version", version)
            .field("headers", headers)
            .field("body", body)
            .field("keep_alive", keep_alive)
            .field("expect_continue", expect_continue)
            .finish()
    }
}

/// A response head that passed every check.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    /// Version of the server.
    pub version: Version,
    /// All header fields.
    pub headers: Headers,
    /// Whether the server lets the connection live on (RFC 9112 §9.3). A body `UntilClose` ends it all the same.
    pub keep_alive: bool,
}

impl ResponseHead {
    /// How the body is framed (RFC 9112 §6.3). Not for the answer to CONNECT, where a tunnel begins behind a 2xx.
    ///
    /// Contradictory framing is an error even where no body can follow: whoever sent it is not to be trusted with the
    /// rest of the connection.
    pub fn body_length(&self, request_was_head: bool) -> Result<BodyLength, ResponseError> {
        let framed = framing(&self.headers, self.version)?;
        if request_was_head || matches!(self.status, 100..=199 | 204 | 304) {
            return Ok(BodyLength::Length(0));
        }
        Ok(framed.unwrap_or(BodyLength::UntilClose))
    }
}

/// Finds and reads one head at the front of a buffer. Remembers how far it searched, so that a head which comes byte
/// by byte costs no more than one which comes at once.
///
/// The buffer always begins at the head; while the answer is `None` it may only grow. After a head was found the scan
/// is ready for the next one; after an error it is of no further use.
#[derive(Clone, Debug, Default)]
pub struct HeadScan {
    /// Where the first line begins: behind the empty lines skipped.
    start: usize,
    /// Where the first line ends, CRLF included; 0 until that is known.
    fields: usize,
    /// Where the line under the scan begins.
    line: usize,
    /// No line end and no forbidden byte between `line` and here.
    searched: usize,
}

impl HeadScan {
    /// Reads a request head: the head and how many bytes it took, empty lines before it included (RFC 9112 §2.2 wants
    /// those skipped); `None` if it is not all there yet.
    pub fn request(&mut self, buf: &[u8]) -> Result<Option<(RequestHead, usize)>, RequestError> {
        if !self.skip_empty_lines(buf)? {
            return Ok(None);
        }
        let end = match self.find_end(buf, |line| request_line(line).map(drop)) {
            Ok(Some(end)) => end,
            Ok(None) => return Ok(None),
            Err(RequestError::Head(HeadError::TooLarge)) if self.fields == 0 => {
                return Err(RequestError::TargetTooLong);
            }
            Err(error) => return Err(error),
        };
        let (method, target, version) = request_line(self.first_line(buf))?;
        let headers = Headers::parse(buf.get(self.fields..end).unwrap_or_default())?;
        check_host(&headers, version)?;
        let body = framing(&headers, version)?.unwrap_or(BodyLength::Length(0));
        let keep_alive = keep_alive(&headers, version);
        let expect_continue = version == Version::Http11 && headers.has_token("expect", "100-continue");
        let target = target.into();
        *self = Self::default();
        Ok(Some((RequestHead { method, target, version, headers, body, keep_alive, expect_continue }, end)))
    }

    /// Reads a response head: the head and how many bytes it took; `None` if it is not all there yet. Interim (1xx)
    /// responses are heads like any other.
    pub fn response(&mut self, buf: &[u8]) -> Result<Option<(ResponseHead, usize)>, ResponseError> {
        // As early as it can be known: not every peer that speaks something else ever sends a line end.
        if let Some((_, &wrong)) = b"HTTP/".iter().zip(buf).find(|(expected, found)| expected != found) {
            // 21 and 22 are the TLS records alert and handshake.
            return Err(if matches!(wrong, 21 | 22) { ResponseError::Tls } else { ResponseError::NotHttp });
        }
        let Some(end) = self.find_end(buf, |line| status_line(line).map(drop))? else { return Ok(None) };
        let (version, status) = status_line(self.first_line(buf))?;
        let headers = Headers::parse(buf.get(self.fields..end).unwrap_or_default())?;
        framing(&headers, version)?;
        let keep_alive = keep_alive(&headers, version);
        *self = Self::default();
        Ok(Some((ResponseHead { status, version, headers, keep_alive }, end)))
    }

    /// Skips empty lines before a request; false if more bytes are needed to see its first one.
    fn skip_empty_lines(&mut self, buf: &[u8]) -> Result<bool, RequestError> {
        while self.searched == self.start {
            match buf.get(self.start..).unwrap_or_default() {
                [b'\r', b'\n', ..] if self.start >= LEADING_EMPTY_LINES_MAX * 2 => {
                    return Err(RequestError::EmptyLines);
                }
                [b'\r', b'\n', ..] => {
                    self.start += 2;
                    self.line = self.start;
                    self.searched = self.start;
                }
                [] | [b'\r'] => return Ok(false),
                [22, ..] => return Err(RequestError::Tls),
                [b'\r' | b'\n', ..] => break,
                [byte, ..] if is_token_byte(*byte) => break,
                _ => return Err(RequestError::NotHttp),
            }
        }
        Ok(true)
    }

    /// Position behind the empty line that ends the head. `check_first` sees the first line as soon as it is there, so
    /// that a wrong one is refused before the rest arrives.
    ///
    /// Goes strictly from left to right and never past `HEAD_BYTES_MAX`, so the result does not depend on how the
    /// bytes were split.
    fn find_end<E: From<HeadError>>(
        &mut self,
        buf: &[u8],
        check_first: impl Fn(&[u8]) -> Result<(), E>,
    ) -> Result<Option<usize>, E> {
        let window = buf.get(..HEAD_BYTES_MAX).unwrap_or(buf);
        while let Some(at) = position(window.get(self.searched..).unwrap_or_default(), is_control) {
            let at = self.searched + at;
            match window.get(at..).unwrap_or_default() {
                [b'\r', b'\n', ..] => {}
                // Its LF may be still to come.
                [b'\r'] if window.len() < HEAD_BYTES_MAX => {
                    self.searched = at;
                    return Ok(None);
                }
                [b'\r'] => break,
                [b'\r', ..] => return Err(HeadError::BareCr.into()),
                [b'\n', ..] => return Err(HeadError::BareLf.into()),
                _ => return Err(HeadError::Control.into()),
            }
            let line = window.get(self.line..at).unwrap_or_default();
            self.line = at + 2;
            self.searched = at + 2;
            if self.fields == 0 {
                check_first(line)?;
                self.fields = at + 2;
            } else if line.is_empty() {
                return Ok(Some(at + 2));
            } else if line.starts_with(b" ") || line.starts_with(b"\t") {
                return Err(HeadError::ObsFold.into());
            }
        }
        if window.len() >= HEAD_BYTES_MAX {
            return Err(HeadError::TooLarge.into());
        }
        self.searched = window.len();
        Ok(None)
    }

    /// The first line of a complete head, without its CRLF.
    fn first_line<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        buf.get(self.start..self.fields.saturating_sub(2)).unwrap_or_default()
    }
}

/// Takes a request line apart (RFC 9112 §3).
fn request_line(line: &[u8]) -> Result<(Method, &str, Version), RequestError> {
    // Not UTF-8 means not ASCII, which no part of the line may be.
    let line = std::str::from_utf8(line).map_err(|_| RequestError::RequestLine)?;
    let mut parts = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(RequestError::RequestLine);
    };
    if !is_token(method.as_bytes()) {
        return Err(RequestError::RequestLine);
    }
    let version = match version {
        "HTTP/1.1" => Version::Http11,
        "HTTP/1.0" => Version::Http10,
        _ if is_version(version.as_bytes()) => return Err(RequestError::Version),
        _ => return Err(RequestError::RequestLine),
    };
    let method = Method::from_token(method);
    let (path, _) = split_query(target);
    // A fragment stays with the client (RFC 9112 §3.2).
    let visible = target.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    let known_form = path.starts_with('/')
        || (target == "*" && method == Method::Options)
        || absolute_form(path).is_some_and(|(authority, _)| !authority.is_empty() && is_authority(authority));
    if !visible || !known_form {
        return Err(RequestError::Target);
    }
    Ok((method, target, version))
}

/// Takes a status line apart (RFC 9112 §4). A missing space before an empty reason is common and harmless.
fn status_line(line: &[u8]) -> Result<(Version, u16), ResponseError> {
    let (version, rest) = line.split_at_checked(8).unwrap_or((line, b""));
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        // "HTTP/2 200" is how newer versions are written.
        _ if is_version(version) || version.starts_with(b"HTTP/2 ") || version.starts_with(b"HTTP/3 ") => {
            return Err(ResponseError::Version);
        }
        _ => return Err(ResponseError::StatusLine),
    };
    match rest {
        [b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9']
        | [b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ', ..] => {
            let digit = |byte: &u8| u16::from(byte - b'0');
            Ok((version, digit(a) * 100 + digit(b) * 10 + digit(c)))
        }
        _ => Err(ResponseError::StatusLine),
    }
}

/// `HTTP/` DIGIT `.` DIGIT
fn is_version(text: &[u8]) -> bool {
    matches!(text, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

fn split_query(target: &str) -> (&str, Option<&str>) {
    target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)))
}

/// Authority and path of an absolute-form target without its query (RFC 9112 §3.2.2).
fn absolute_form(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    Some(rest.find('/').and_then(|slash| rest.split_at_checked(slash)).unwrap_or((rest, "")))
}

/// RFC 9112 §3.2: exactly one valid Host in HTTP/1.1, at most one in HTTP/1.0.
fn check_host(headers: &Headers, version: Version) -> Result<(), RequestError> {
    let mut hosts = headers.all("host");
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(RequestError::HostRepeated),
        (None, _) if version == Version::Http11 => Err(RequestError::HostMissing),
        (None, _) => Ok(()),
        (Some(host), None) => match std::str::from_utf8(host) {
            Ok(host) if is_authority(host) => Ok(()),
            _ => Err(RequestError::HostInvalid),
        },
    }
}

/// Host and optional port (RFC 3986 §3.2 without user information); the empty host is one.
fn is_authority(text: &str) -> bool {
    let (host_valid, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let valid = !address.is_empty()
                && address.bytes().all(|b| b.is_ascii_alphanumeric() || b":.%-_~".contains(&b));
            (valid, if port.is_empty() { Some("") } else { port.strip_prefix(':') })
        }
        None => {
            let (name, port) = text.split_once(':').unwrap_or((text, ""));
            let valid = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b));
            (valid, Some(port))
        }
    };
    let port_valid = port.is_some_and(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok())
    });
    host_valid && port_valid
}

/// The one framing that the fields state (RFC 9112 §6.3), if they state any.
fn framing(headers: &Headers, version: Version) -> Result<Option<BodyLength>, HeadError> {
    let mut length = None;
    for value in headers.all("content-length") {
        let number = decimal(value).ok_or(HeadError::Length)?;
        if length.is_some_and(|earlier| earlier != number) {
            return Err(HeadError::LengthsDiffer);
        }
        length = Some(number);
    }
    if headers.get("transfer-encoding").is_none() {
        return Ok(length.map(BodyLength::Length));
    }
    if length.is_some() {
        return Err(HeadError::TwoFramings);
    }
    if version == Version::Http10 {
        return Err(HeadError::EncodingInHttp10);
    }
    transfer_encoding(headers).map(Some)
}

/// RFC 9112 §6.1, of which only `chunked` alone is supported.
fn transfer_encoding(headers: &Headers) -> Result<BodyLength, HeadError> {
    let (mut codings, mut chunked, mut chunked_last) = (0, 0, false);
    for coding in headers.all("transfer-encoding").flat_map(|value| value.split(|&b| b == b',')) {
        let coding = coding.trim_ascii();
        let name = coding.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
        if name.is_empty() {
            return Err(HeadError::Encoding);
        }
        codings += 1;
        chunked += i32::from(name.eq_ignore_ascii_case(b"chunked"));
        chunked_last = coding.eq_ignore_ascii_case(b"chunked");
    }
    match (codings, chunked, chunked_last) {
        (1, 1, true) => Ok(BodyLength::Chunked),
        (_, 0, _) | (_, 1, true) => Err(HeadError::EncodingUnsupported),
        _ => Err(HeadError::Encoding),
    }
}

/// `1*DIGIT` below 2^64; `str::parse` would take a sign.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// RFC 9112 §9.3; `close` wins over `keep-alive`.
fn keep_alive(headers: &Headers, version: Version) -> bool {
    let agreed = version == Version::Http11 || headers.has_token("connection", "keep-alive");
    agreed && !headers.has_token("connection", "close")
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::HEAD_FIELDS_MAX;

    type Read = Result<Option<(String, usize)>, RequestError>;

    /// Feeds growing prefixes of `input` as the lengths say, until there is an answer.
    fn scan<T, E>(
        input: &[u8],
        lengths: impl IntoIterator<Item = usize>,
        mut read: impl FnMut(&mut HeadScan, &[u8]) -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        let mut scan = HeadScan::default();
        for len in lengths {
            match read(&mut scan, &input[..len]) {
                Ok(None) => {}
                answer => return answer,
            }
        }
        Ok(None)
    }

    fn summary(head: &RequestHead) -> String {
        format!("{} {} {:?} {:?}", head.method.as_str(), head.path(), head.body, head.keep_alive)
    }

    #[track_caller]
    fn check(input: &[u8], expected: Read) {
        let read = |scan: &mut HeadScan, buf: &[u8]| {
            Ok(scan.request(buf)?.map(|(head, consumed)| (summary(&head), consumed)))
        };
        for cut in 0..=input.len() {
            assert_eq!(scan(input, [cut, input.len()], read), expected, "cut at {cut}");
        }
        assert_eq!(scan(input, 0..=input.len(), read), expected, "byte by byte");
    }

    /// `fields` go into a POST of HTTP/1.1 with a Host.
    #[track_caller]
    fn check_fields(fields: &str, expected: Result<&str, RequestError>) {
        let input = format!("POST /v1 HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        check(input.as_bytes(), expected.map(|text| Some((format!("POST /v1 {text}"), input.len()))));
    }

    #[track_caller]
    fn check_line(line: &str, expected: Result<&str, RequestError>) {
        let input = format!("{line}\r\nHost: h\r\n\r\n");
        check(input.as_bytes(), expected.map(|text| Some((text.to_owned(), input.len()))));
    }

    #[track_caller]
    fn check_response(input: &str, request_was_head: bool, expected: Result<&str, ResponseError>) {
        let input = input.as_bytes();
        let read = |scan: &mut HeadScan, buf: &[u8]| {
            let Some((head, consumed)) = scan.response(buf)? else { return Ok(None) };
            assert_eq!(consumed, input.len());
            let length = head.body_length(request_was_head)?;
            Ok(Some(format!("{} {:?} {:?}", head.status, length, head.keep_alive)))
        };
        let expected = expected.map(|text| Some(text.to_owned()));
        for cut in 0..=input.len() {
            assert_eq!(scan(input, [cut, input.len()], read), expected, "cut at {cut}");
        }
        assert_eq!(scan(input, 0..=input.len(), read), expected, "byte by byte");
    }

    const LENGTH_0: &str = "Length(0) true";

    #[test]
    fn the_next_message_is_left_alone() {
        let input = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\n";
        check(input, Ok(Some((format!("GET / {LENGTH_0}"), 27))));
        let mut scan = HeadScan::default();
        for _ in 0..2 {
            let (_, consumed) = scan.request(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap().unwrap();
            assert_eq!(consumed, 27, "the scan starts afresh");
        }
    }

    #[test]
    fn an_unfinished_head_is_no_error() {
        let input = b"\r\nPOST /v1 HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n";
        for len in 0..input.len() {
            check(&input[..len], Ok(None));
        }
    }

    #[test]
    fn empty_lines_before_a_request_are_skipped() {
        let request = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let lines = |count| "\r\n".repeat(count) + request;
        let most = lines(LEADING_EMPTY_LINES_MAX);
        check(most.as_bytes(), Ok(Some((format!("GET / {LENGTH_0}"), most.len()))));
        check(lines(LEADING_EMPTY_LINES_MAX + 1).as_bytes(), Err(RequestError::EmptyLines));
        check(b"\nGET / HTTP/1.1\r\n", Err(HeadError::BareLf.into()));
        check(b"\rGET / HTTP/1.1\r\n", Err(HeadError::BareCr.into()));
    }

    #[test]
    fn other_protocols_are_refused_at_the_first_byte() {
        check(b"\x16\x03\x01", Err(RequestError::Tls));
        check(b"\0", Err(RequestError::NotHttp));
        check(b" GET / HTTP/1.1", Err(RequestError::NotHttp));
        check(b"\xff", Err(RequestError::NotHttp));
        check(b"SSH-2.0-OpenSSH_9.0\r\n", Err(RequestError::RequestLine));
        check(b"GET /\r\n", Err(RequestError::RequestLine));
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Err(RequestError::Version));
        check_response("\x15\x03\x03", false, Err(ResponseError::Tls));
        check_response("<html>", false, Err(ResponseError::NotHttp));
        check_response("HTTQ", false, Err(ResponseError::NotHttp));
        check_response("\r\nHTTP/1.1 200 OK\r\n\r\n", false, Err(ResponseError::NotHttp));
    }

    #[test]
    fn request_lines() {
        check_line("OPTIONS * HTTP/1.1", Ok("OPTIONS * Length(0) true"));
        check_line("GET /a?b=c?d HTTP/1.1", Ok("GET /a Length(0) true"));
        check_line("get / HTTP/1.1", Ok("get / Length(0) true"));
        check_line("GET http://h:80/a/b?c HTTP/1.1", Ok("GET /a/b Length(0) true"));
        check_line("GET HTTPS://h HTTP/1.1", Ok("GET / Length(0) true"));
        check_line("GET http://[::1]:1?q HTTP/1.1", Ok("GET / Length(0) true"));
        check_line("GET /?u=http://x/y HTTP/1.1", Ok("GET / Length(0) true"));
        check_line("GET / HTTP/1.0", Ok("GET / Length(0) false"));
        for line in
            ["GET", "GET /", "GET  / HTTP/1.1", "GET / HTTP/1.1 ", "GET\t/ HTTP/1.1", "G@T / HTTP/1.1"]
        {
            check_line(line, Err(RequestError::RequestLine));
        }
        for version in ["http/1.1", "HTTP/1", "HTTP/11", "HTTP/1.1x", "HTTQ/1.1", "HTTP/ 1.1", ""] {
            check_line(&format!("GET / {version}"), Err(RequestError::RequestLine));
        }
        for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/3.0"] {
            check_line(&format!("GET / {version}"), Err(RequestError::Version));
        }
        let targets = [
            "*",
            "a",
            "h:80",
            "http://",
            "http:///a",
            "http://u@h/",
            "http://h:x/",
            "ftp://h/",
            "/a#b",
            "/a\tb",
            "?a",
        ];
        for target in targets {
            check_line(&format!("GET {target} HTTP/1.1"), Err(RequestError::Target));
        }
        check_line("CONNECT h:443 HTTP/1.1", Err(RequestError::Target));
        check_line("GET /é HTTP/1.1", Err(RequestError::Target));
    }

    #[test]
    fn queries() {
        let query = |target: &str| {
            let input = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
            let (head, _) = HeadScan::default().request(input.as_bytes()).unwrap().unwrap();
            head.query().map(str::to_owned)
        };
        assert_eq!(query("/a"), None);
        assert_eq!(query("/a?"), Some(String::new()));
        assert_eq!(query("/a?b?c"), Some("b?c".to_owned()));
        assert_eq!(query("http://h?b"), Some("b".to_owned()));
    }

    #[test]
    fn framing_is_stated_once() {
        for (fields, expected) in [
            ("", "Length(0)"),
            ("Content-Length: 0\r\n", "Length(0)"),
            ("content-length:007\r\n", "Length(7)"),
            ("Content-Length: 18446744073709551615\r\n", "Length(18446744073709551615)"),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", "Length(5)"),
            ("Transfer-Encoding: chunked\r\n", "Chunked"),
            ("transfer-encoding:\tCHUNKED \r\n", "Chunked"),
        ] {
            check_fields(fields, Ok(&format!("{expected} true")));
        }
        for length in
            ["", "+5", "-5", "5,5", "5, 6", "5 5", "0x5", "5.0", "5;", "18446744073709551616", "\u{ff15}"]
        {
            check_fields(&format!("Content-Length: {length}\r\n"), Err(HeadError::Length.into()));
        }
        check_fields("Content-Length: 5\r\nContent-Length: 6\r\n", Err(HeadError::LengthsDiffer.into()));
        check_fields(
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            Err(HeadError::TwoFramings.into()),
        );
        check_fields("Transfer-Encoding: x\r\nContent-Length: 0\r\n", Err(HeadError::TwoFramings.into()));
        for coding in ["", "chunked,", "chunked, chunked", "chunked, gzip", "chunked;a=b", ",chunked"] {
            check_fields(&format!("Transfer-Encoding: {coding}\r\n"), Err(HeadError::Encoding.into()));
        }
        let twice = "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n";
        check_fields(twice, Err(HeadError::Encoding.into()));
        for coding in ["gzip", "gzip, chunked", "identity", "xchunked", "\"chunked\""] {
            check_fields(
                &format!("Transfer-Encoding: {coding}\r\n"),
                Err(HeadError::EncodingUnsupported.into()),
            );
        }
        let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(old, Err(HeadError::EncodingInHttp10.into()));
    }

    #[test]
    fn line_tricks_are_refused() {
        for (fields, expected) in [
            ("A: b\nC: d\r\n", HeadError::BareLf),
            ("A: b\n\r\n", HeadError::BareLf),
            ("A: b\rC: d\r\n", HeadError::BareCr),
            ("A: b\r\r\n", HeadError::BareCr),
            ("A: b\0\r\n", HeadError::Control),
            ("A: b\x0bc\r\n", HeadError::Control),
            ("A\x7f: b\r\n", HeadError::Control),
            ("A: b\r\n c\r\n", HeadError::ObsFold),
            ("A: b\r\n\tc\r\n", HeadError::ObsFold),
            (" A: b\r\n", HeadError::ObsFold),
            ("A : b\r\n", HeadError::FieldLine),
            ("A\t: b\r\n", HeadError::FieldLine),
            (": b\r\n", HeadError::FieldLine),
            ("A\r\n", HeadError::FieldLine),
            ("A b: c\r\n", HeadError::FieldLine),
            ("Transfer\u{2d}Enc\u{f6}ding: c\r\n", HeadError::FieldLine),
        ] {
            check_fields(fields, Err(expected.into()));
            let response = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            check_response(&response, false, Err(expected.into()));
        }
    }

    #[test]
    fn hosts() {
        for host in ["", "h", "a.b:80", "a:", "127.0.0.1:8000", "[::1]", "[fe80::1%25eth0]:8000", "ex%41mple"]
        {
            check(
                format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(),
                Ok(Some((format!("GET / {LENGTH_0}"), 26 + host.len()))),
            );
        }
        for host in [
            "a b", "a/b", "u@h", "a:b", "a:65536", "a:1:2", "[::1", "[]", "[::1]x", "[::1]:x", "é", "a\"",
            "http://h",
        ] {
            let input = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            check(input.as_bytes(), Err(RequestError::HostInvalid));
        }
        check(b"GET / HTTP/1.1\r\nHostx: a\r\n\r\n", Err(RequestError::HostMissing));
        check(b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", Err(RequestError::HostRepeated));
        check(b"GET / HTTP/1.0\r\nHost: a\r\nhost: a\r\n\r\n", Err(RequestError::HostRepeated));
        check(b"GET / HTTP/1.0\r\n\r\n", Ok(Some(("GET / Length(0) false".to_owned(), 18))));
    }

    #[test]
    fn connections_live_on_as_agreed() {
        for (version, fields, expected) in [
            ("1.1", "", true),
            ("1.1", "Connection: Close\r\n", false),
            ("1.1", "Connection: keep-alive, close\r\n", false),
            ("1.1", "Connection: x\r\nConnection: y, close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ] {
            let input = format!("GET / HTTP/{version}\r\nHost: h\r\n{fields}\r\n");
            check(input.as_bytes(), Ok(Some((format!("GET / Length(0) {expected}"), input.len()))));
            let input = format!("HTTP/{version} 204 x\r\n{fields}\r\n");
            check_response(&input, false, Ok(&format!("204 Length(0) {expected}")));
        }
    }

    #[test]
    fn expectations() {
        let expects = |version: &str, value: &str| {
            let input = format!("POST / HTTP/{version}\r\nHost: h\r\nExpect: {value}\r\n\r\n");
            HeadScan::default().request(input.as_bytes()).unwrap().unwrap().0.expect_continue
        };
        assert!(expects("1.1", "100-Continue"));
        assert!(!expects("1.1", "something"));
        assert!(!expects("1.0", "100-continue"));
    }

    #[test]
    fn heads_are_bounded() {
        let request = |target: usize, value: usize| {
            let (target, value) = ("t".repeat(target), "v".repeat(value));
            format!("GET /{target} HTTP/1.1\r\nHost: h\r\nA: {value}\r\n\r\n")
        };
        let read = |input: &str, lengths: &[usize]| {
            let lengths = lengths.iter().copied().chain([input.len()]);
            scan(input.as_bytes(), lengths, |scan, buf| scan.request(buf))
                .map(|head| head.map(|(_, consumed)| consumed))
        };
        let empty = request(0, 0).len();
        let cuts = [0, 100, HEAD_BYTES_MAX - 3, HEAD_BYTES_MAX - 2, HEAD_BYTES_MAX - 1, HEAD_BYTES_MAX];
        let most = request(0, HEAD_BYTES_MAX - empty);
        assert_eq!(read(&most, &cuts), Ok(Some(HEAD_BYTES_MAX)));
        assert_eq!(read(&most, &[]), Ok(Some(HEAD_BYTES_MAX)));
        let too_large = request(0, HEAD_BYTES_MAX - empty + 1);
        assert_eq!(read(&too_large, &cuts), Err(HeadError::TooLarge.into()));
        assert_eq!(read(&too_large, &[]), Err(HeadError::TooLarge.into()));
        let too_long = request(HEAD_BYTES_MAX, 0);
        assert_eq!(read(&too_long, &cuts), Err(RequestError::TargetTooLong));
        assert_eq!(read(&too_long, &[]), Err(RequestError::TargetTooLong));
        let response = format!("HTTP/1.1 200 {}", "r".repeat(HEAD_BYTES_MAX));
        assert_eq!(HeadScan::default().response(response.as_bytes()).err(), Some(HeadError::TooLarge.into()));
    }

    #[test]
    fn fields_are_bounded() {
        let fields = |count: usize| "A: b\r\n".repeat(count - 1);
        let read = |count| {
            let input = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", fields(count));
            HeadScan::default()
                .request(input.as_bytes())
                .map(|head| head.map(|(head, _)| head.headers.iter().count()))
        };
        assert_eq!(read(HEAD_FIELDS_MAX), Ok(Some(HEAD_FIELDS_MAX)));
        assert_eq!(read(HEAD_FIELDS_MAX + 1), Err(HeadError::TooManyFields.into()));
    }

    #[test]
    fn response_bodies() {
        let cases = [
            ("200 OK", "Content-Length: 5\r\n", "200 Length(5) true"),
            ("200 OK", "Transfer-Encoding: chunked\r\n", "200 Chunked true"),
            ("200 OK", "", "200 UntilClose true"),
            ("200", "Connection: close\r\n", "200 UntilClose false"),
            ("999 \u{fc}", "Content-Length: 5\r\n", "999 Length(5) true"),
            ("100 Continue", "", "100 Length(0) true"),
            ("204 x", "Content-Length: 5\r\n", "204 Length(0) true"),
            ("304 x", "Content-Length: 5\r\n", "304 Length(0) true"),
        ];
        for (status, fields, expected) in cases {
            check_response(&format!("HTTP/1.1 {status}\r\n{fields}\r\n"), false, Ok(expected));
        }
        check_response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, Ok("200 Length(0) true"));
        check_response("HTTP/1.0 200 OK\r\n\r\n", false, Ok("200 UntilClose false"));
        for (fields, expected) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", HeadError::TwoFramings),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", HeadError::LengthsDiffer),
            ("Content-Length: 5,5\r\n", HeadError::Length),
            ("Transfer-Encoding: gzip, chunked\r\n", HeadError::EncodingUnsupported),
        ] {
            for status in [200, 204] {
                let input = format!("HTTP/1.1 {status} x\r\n{fields}\r\n");
                check_response(&input, true, Err(expected.into()));
            }
        }
        let old = "HTTP/1.0 200 x\r\nTransfer-Encoding: chunked\r\n\r\n";
        check_response(old, false, Err(HeadError::EncodingInHttp10.into()));
    }

    #[test]
    fn status_lines() {
        for line in
            ["HTTP/1.1", "HTTP/1.1 ", "HTTP/1.1 20", "HTTP/1.1 2000", "HTTP/1.1 099 x", "HTTP/1.1  200 x"]
        {
            check_response(&format!("{line}\r\n"), false, Err(ResponseError::StatusLine));
        }
        for line in ["HTTP/1.1200", "HTTP/1.1 +20 x", "HTTP/1.1 200x", "HTTP/x.1 200 x"] {
            check_response(&format!("{line}\r\n"), false, Err(ResponseError::StatusLine));
        }
        for line in ["HTTP/2 200", "HTTP/2.0 200 OK", "HTTP/1.2 200 OK", "HTTP/0.9 200"] {
            check_response(&format!("{line}\r\n"), false, Err(ResponseError::Version));
        }
    }

    #[test]
    fn errors_have_a_status() {
        for (error, status) in [
            (HeadError::BareLf.into(), 400),
            (HeadError::TwoFramings.into(), 400),
            (RequestError::HostMissing, 400),
            (RequestError::TargetTooLong, 414),
            (HeadError::TooLarge.into(), 431),
            (HeadError::TooManyFields.into(), 431),
            (HeadError::EncodingUnsupported.into(), 501),
            (RequestError::Version, 505),
        ] {
            assert_eq!(error.status(), status, "{error}");
        }
    }

    #[test]
    fn debug_output_hides_secrets() {
        let input = b"GET /a?key=sk-1 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer sk-2\r\n\r\n";
        let (head, _) = HeadScan::default().request(input).unwrap().unwrap();
        let text = format!("{head:?}");
        assert!(text.contains("/a") && text.contains("Authorization"), "{text}");
        assert!(!text.contains("sk-"), "{text}");
    }
}
