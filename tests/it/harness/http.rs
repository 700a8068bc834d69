//! A strict reader of HTTP/1.1 responses: it is the checker of what our server writes, so it accepts nothing that
//! RFC 9112 only asks recipients to tolerate.

use std::io::{ErrorKind, Read};

use serde_json::Value;

/// Reads one connection. Errors are sentences for people: a test fails with them.
pub struct Wire<R> {
    source: R,
    buf: Vec<u8>,
}

/// A response head; field names are in lower case.
#[derive(Debug, Clone)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

/// A response with the whole of its body.
#[derive(Debug, Clone)]
pub struct Response {
    pub head: Head,
    pub body: Vec<u8>,
    /// How the end of the body was told.
    pub framing: Framing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A response that has no body at all: 1xx, 204, 304, an answer to HEAD.
    Nothing,
    Length(u64),
    Chunked,
    UntilClose,
}

/// Where a body that is read piece by piece stands.
pub struct BodyState {
    framing: Framing,
    left: u64,
    ended: bool,
}

/// What the client asked: it decides how an answer may be framed.
#[derive(Clone, Copy)]
pub struct Asked {
    pub head: bool,
    pub http10: bool,
}

impl Asked {
    pub const USUAL: Self = Self { head: false, http10: false };
    pub const HEAD: Self = Self { head: true, http10: false };
    pub const HTTP10: Self = Self { head: false, http10: true };
}

impl Head {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether the server said that it closes.
    pub fn closes(&self) -> bool {
        self.get("connection").is_some_and(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case("close")))
    }

    /// How the body is framed, checked against what may be.
    pub fn framing(&self, asked: Asked) -> Result<Framing, String> {
        let length = match self.get("content-length") {
            None => None,
            Some(v) if !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()) => {
                Some(v.parse().map_err(|_| format!("content-length {v:?}"))?)
            }
            Some(v) => return Err(format!("content-length {v:?}")),
        };
        let chunked = match self.get("transfer-encoding") {
            None => false,
            Some("chunked") if !asked.http10 => true,
            Some(v) => return Err(format!("transfer-encoding {v:?} (to HTTP/1.0: {})", asked.http10)),
        };
        if length.is_some() && chunked {
            return Err("both content-length and transfer-encoding".into());
        }
        if (100..200).contains(&self.status) || self.status == 204 {
            return match length.is_some() || chunked {
                true => Err(format!("a {} with a body length", self.status)),
                false => Ok(Framing::Nothing),
            };
        }
        match (asked.head || self.status == 304, length, chunked) {
            (true, ..) => Ok(Framing::Nothing),
            (false, Some(n), _) => Ok(Framing::Length(n)),
            (false, None, true) => Ok(Framing::Chunked),
            (false, None, false) if asked.http10 || self.closes() => Ok(Framing::UntilClose),
            (false, None, false) => Err("no length, and the connection is not said to close".into()),
        }
    }

    /// Fields that a status obliges the server to send (RFC 9110 §15.5.6, §15.5.22).
    fn obligations(&self) -> Result<(), String> {
        let needed = match self.status {
            405 => "allow",
            426 => "upgrade",
            _ => return Ok(()),
        };
        self.get(needed).map(|_| ()).ok_or_else(|| format!("a {} without {needed}", self.status))
    }
}

impl Response {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.get(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| {
            panic!("{} with a body that is not JSON ({e}): {}", self.status(), self.text())
        })
    }

    /// The error of an answer in OpenAI shape: message, type, code (empty where absent or null).
    pub fn try_error(&self) -> Result<(String, String, String), String> {
        let told = || format!("status {}, body {:?}", self.status(), self.text());
        expect_json(self).map_err(|e| format!("{e}; {}", told()))?;
        let body: Value =
            serde_json::from_slice(&self.body).map_err(|e| format!("not JSON ({e}): {}", told()))?;
        let error = &body["error"];
        let message = error["message"].as_str().unwrap_or_default();
        let kind = error["type"].as_str().unwrap_or_default();
        if message.trim().is_empty() || kind.is_empty() {
            return Err(format!("no error in OpenAI shape: {}", told()));
        }
        let code = error["code"].as_str().unwrap_or_default();
        Ok((message.to_owned(), kind.to_owned(), code.to_owned()))
    }

    #[track_caller]
    pub fn error(&self) -> (String, String, String) {
        self.try_error().unwrap()
    }
}

fn expect_json(response: &Response) -> Result<(), String> {
    let kind = response.header("content-type").unwrap_or_default();
    if kind == "application/json" || kind.starts_with("application/json;") {
        return Ok(());
    }
    Err(format!("content-type {kind:?}"))
}

impl<R: Read> Wire<R> {
    pub fn new(source: R) -> Self {
        Self { source, buf: Vec::new() }
    }

    pub fn source(&mut self) -> &mut R {
        &mut self.source
    }

    /// Reads more; 0 at the end.
    fn fill(&mut self) -> Result<usize, String> {
        let mut scratch = [0; 16 * 1024];
        loop {
            match self.source.read(&mut scratch) {
                Ok(n) => {
                    self.buf.extend_from_slice(&scratch[..n]);
                    return Ok(n);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(format!(
                        "nothing came in time; so far {:?}",
                        String::from_utf8_lossy(&self.buf)
                    ));
                }
                Err(e) => return Err(format!("read: {e}")),
            }
        }
    }

    /// A line without its CRLF.
    fn line(&mut self) -> Result<String, String> {
        loop {
            if let Some(at) = self.buf.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.buf.drain(..=at).collect();
                let Some(line) = line.strip_suffix(b"\r\n") else {
                    return Err(format!(
                        "a line that ends in LF alone: {:?}",
                        String::from_utf8_lossy(&line)
                    ));
                };
                if line.iter().any(|&b| (b < 0x20 && b != b'\t') || b == 0x7f) {
                    return Err(format!("a control character in {:?}", String::from_utf8_lossy(line)));
                }
                return String::from_utf8(line.to_vec()).map_err(|_| "a head that is not UTF-8".into());
            }
            if self.buf.len() > 64 * 1024 {
                return Err("an endless line".into());
            }
            if self.fill()? == 0 {
                return Err(format!("the end inside a line: {:?}", String::from_utf8_lossy(&self.buf)));
            }
        }
    }

    pub fn head(&mut self) -> Result<Head, String> {
        let line = self.line()?;
        let status = line
            .strip_prefix("HTTP/1.1 ")
            .filter(|rest| rest.as_bytes().get(3) == Some(&b' '))
            .and_then(|rest| rest.get(..3))
            .filter(|code| code.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|code| code.parse().ok())
            .filter(|code| (100..600).contains(code))
            .ok_or_else(|| format!("status line {line:?}"))?;
        let mut headers: Vec<(String, String)> = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| format!("field line {line:?}"))?;
            if name.is_empty() || !name.bytes().all(is_token) {
                return Err(format!("field name {name:?}"));
            }
            headers.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
        }
        for single in [
            "content-length",
            "transfer-encoding",
            "content-type",
            "connection",
            "retry-after",
            "date",
            "server",
            "x-ai-free-swap-backend",
            "x-ai-free-swap-attempts",
        ] {
            if headers.iter().filter(|(n, _)| n == single).count() > 1 {
                return Err(format!("{single} twice"));
            }
        }
        let head = Head { status, headers };
        head.obligations()?;
        Ok(head)
    }

    pub fn body(&mut self, framing: Framing) -> BodyState {
        let left = if let Framing::Length(n) = framing { n } else { 0 };
        BodyState { framing, left, ended: matches!(framing, Framing::Nothing | Framing::Length(0)) }
    }

    /// The next bytes of a body, as soon as there are any; `None` at its proper end.
    pub fn piece(&mut self, body: &mut BodyState) -> Result<Option<Vec<u8>>, String> {
        if body.ended {
            return Ok(None);
        }
        if body.framing == Framing::Chunked && body.left == 0 {
            body.left = self.chunk_size()?;
            if body.left == 0 {
                body.ended = true;
                let line = self.line()?;
                return if line.is_empty() { Ok(None) } else { Err(format!("a trailer: {line:?}")) };
            }
        }
        if self.buf.is_empty() && self.fill()? == 0 {
            body.ended = true;
            return match body.framing {
                Framing::UntilClose => Ok(None),
                _ => Err(format!("the end inside the body, {} bytes missing", body.left)),
            };
        }
        if body.framing == Framing::UntilClose {
            return Ok(Some(std::mem::take(&mut self.buf)));
        }
        let take = usize::try_from(body.left).unwrap_or(usize::MAX).min(self.buf.len());
        let piece: Vec<u8> = self.buf.drain(..take).collect();
        body.left -= piece.len() as u64;
        if body.left == 0 {
            match body.framing {
                Framing::Chunked => {
                    let line = self.line()?;
                    if !line.is_empty() {
                        return Err(format!("a chunk longer than its size: {line:?} follows"));
                    }
                }
                _ => body.ended = true,
            }
        }
        Ok(Some(piece))
    }

    fn chunk_size(&mut self) -> Result<u64, String> {
        let line = self.line()?;
        if line.is_empty() || line.len() > 16 || !line.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("chunk size {line:?}"));
        }
        u64::from_str_radix(&line, 16).map_err(|_| format!("chunk size {line:?}"))
    }

    /// One whole response; interim ones are an error, as nobody asked for them.
    pub fn response(&mut self, asked: Asked) -> Result<Response, String> {
        let head = self.head()?;
        if head.status < 200 {
            return Err(format!("an interim {} that nobody asked for", head.status));
        }
        let framing = head.framing(asked)?;
        let (mut state, mut body) = (self.body(framing), Vec::new());
        while let Some(piece) = self.piece(&mut state)? {
            body.extend_from_slice(&piece);
        }
        Ok(Response { head, body, framing })
    }

    /// Checks that the server closes and says nothing more. A reset counts: it follows a close over unread input.
    pub fn closed(&mut self) -> Result<(), String> {
        loop {
            if !self.buf.is_empty() {
                return Err(format!("bytes after the end: {:?}", String::from_utf8_lossy(&self.buf)));
            }
            match self.fill() {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) if e.contains("reset") => return Ok(()),
                Err(e) => return Err(format!("the connection should be closed: {e}")),
            }
        }
    }

    /// Whether the peer has closed, without an error if it has not; for servers that may or may not answer first.
    pub fn is_at_end(&mut self) -> Result<bool, String> {
        if !self.buf.is_empty() {
            return Ok(false);
        }
        match self.fill() {
            Ok(n) => Ok(n == 0),
            Err(e) if e.contains("reset") => Ok(true),
            Err(e) => Err(e),
        }
    }
}

pub fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}
