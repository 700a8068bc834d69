//! The client: raw bytes out, strictly read answers in, server-sent events in the order of their arrival.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::Value;

use super::http::{Asked, BodyState, Head, Response, Wire};
use super::{DEADLINE, KEY_MARK};

/// One connection to the program.
pub struct Connection {
    wire: Wire<TcpStream>,
}

/// An answer that is read while it comes.
pub struct Stream {
    connection: Connection,
    pub head: Head,
    body: BodyState,
    text: String,
}

/// One server-sent event block, without the blank line that ended it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event(pub String);

/// The events of a whole stream, with the questions tests ask.
#[derive(Debug, Clone)]
pub struct Events(pub Vec<Event>);

/// A POST with JSON, as SDKs send it.
pub fn post(path: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}")
        .into_bytes()
}

/// A GET with any further header lines, each ending in CRLF.
pub fn get(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n").into_bytes()
}

impl Connection {
    #[track_caller]
    pub fn open(addr: SocketAddr) -> Self {
        let socket = TcpStream::connect_timeout(&addr, DEADLINE).expect("the program should accept");
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        Self { wire: Wire::new(socket) }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes.as_ref()).expect("the program should read");
        self
    }

    /// For requests that the server may refuse before they are sent in full.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.wire.source().write_all(bytes)
    }

    /// Ends our direction only.
    pub fn end_sending(&mut self) {
        self.wire.source().shutdown(Shutdown::Write).unwrap();
    }

    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.response_to(Asked::USUAL)
    }

    #[track_caller]
    pub fn response_to(&mut self, asked: Asked) -> Response {
        self.try_response(asked).unwrap()
    }

    pub fn try_response(&mut self, asked: Asked) -> Result<Response, String> {
        let response = self.wire.response(asked)?;
        check_no_key(&response.head, &response.body)?;
        Ok(response)
    }

    /// Every response until the server closes.
    pub fn responses_until_close(&mut self, asked: Asked) -> Result<Vec<Response>, String> {
        let mut responses = Vec::new();
        while !self.wire.is_at_end()? {
            responses.push(self.try_response(asked)?);
        }
        Ok(responses)
    }

    /// A head alone: for interim responses.
    #[track_caller]
    pub fn head(&mut self) -> Head {
        self.wire.head().unwrap()
    }

    #[track_caller]
    pub fn stream(mut self) -> Stream {
        let head = self.head();
        let body = self.wire.body(head.framing(Asked::USUAL).unwrap());
        Stream { connection: self, head, body, text: String::new() }
    }

    #[track_caller]
    pub fn closed(&mut self) {
        self.wire.closed().unwrap();
    }
}

fn check_no_key(head: &Head, body: &[u8]) -> Result<(), String> {
    let everything = format!("{head:?}{}", String::from_utf8_lossy(body));
    if everything.contains(KEY_MARK) {
        return Err(format!("a key in an answer: {everything}"));
    }
    Ok(())
}

impl Stream {
    /// The next event as soon as it is there, `None` at the proper end of the body.
    #[track_caller]
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = split_block(&self.text) {
                let event = Event(block.to_owned());
                self.text = rest.to_owned();
                return Some(event);
            }
            let piece = self.connection.wire.piece(&mut self.body).unwrap();
            let Some(piece) = piece else {
                assert_eq!(self.text, "", "the stream ends inside an event");
                return None;
            };
            self.text.push_str(std::str::from_utf8(&piece).expect("tests send whole characters"));
        }
    }

    /// Everything that is still to come.
    #[track_caller]
    pub fn rest(mut self) -> Events {
        let mut events = Vec::new();
        while let Some(event) = self.next_event() {
            events.push(event);
        }
        Events(events)
    }

    /// Leaves in the middle, as a user does who presses Escape.
    pub fn close(self) {
        drop(self);
    }
}

fn split_block(text: &str) -> Option<(&str, &str)> {
    let lf = text.find("\n\n").map(|at| (at, 2));
    let crlf = text.find("\r\n\r\n").map(|at| (at, 4));
    let (at, len) = lf.into_iter().chain(crlf).min()?;
    Some((&text[..at], &text[at + len..]))
}

impl Event {
    /// The data lines joined; `None` for a comment.
    pub fn data(&self) -> Option<String> {
        let lines: Vec<&str> = self
            .0
            .lines()
            .filter_map(|l| l.strip_prefix("data:"))
            .map(|d| d.strip_prefix(' ').unwrap_or(d))
            .collect();
        if lines.is_empty() { None } else { Some(lines.join("\n")) }
    }

    /// The name, if it has one.
    pub fn name(&self) -> Option<String> {
        self.0.lines().find_map(|l| l.strip_prefix("event:")).map(|name| name.trim().to_owned())
    }

    /// The data as JSON; null for comments, `[DONE]` and anything else.
    pub fn json(&self) -> Value {
        self.data().and_then(|d| serde_json::from_str(&d).ok()).unwrap_or(Value::Null)
    }

    pub fn content(&self) -> Option<String> {
        self.json()["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
    }
}

impl Events {
    /// Of a whole body; an unfinished last event is an error of the server.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let mut rest = std::str::from_utf8(body).map_err(|_| "a stream that is not UTF-8")?;
        let mut events = Vec::new();
        while let Some((block, after)) = split_block(rest) {
            events.push(Event(block.to_owned()));
            rest = after;
        }
        if rest.is_empty() {
            Ok(Self(events))
        } else {
            Err(format!("the stream ends inside an event: {rest:?}"))
        }
    }

    /// All text of the answer.
    pub fn text(&self) -> String {
        self.0.iter().filter_map(Event::content).collect()
    }

    pub fn finish_reason(&self) -> Option<String> {
        self.0.iter().find_map(|e| e.json()["choices"][0]["finish_reason"].as_str().map(str::to_owned))
    }

    /// Whether the last event is the end mark.
    pub fn is_done(&self) -> bool {
        self.0.last().and_then(Event::data).as_deref() == Some("[DONE]")
    }

    /// The in-band error, if there is one.
    pub fn error(&self) -> Option<Value> {
        self.0.iter().map(Event::json).find(|v| v["error"].is_object()).map(|v| v["error"].clone())
    }

    /// The data of all events, comments left out.
    pub fn data(&self) -> Vec<String> {
        self.0.iter().filter_map(Event::data).collect()
    }

    /// A finished answer with this text and no error, as an SDK sees it.
    pub fn check_complete(&self, text: &str) -> Result<(), String> {
        let good =
            self.text() == text && self.finish_reason().is_some() && self.is_done() && self.error().is_none();
        if good { Ok(()) } else { Err(format!("expected a complete stream of {text:?}, got {:#?}", self.0)) }
    }

    /// An answer that broke off: an error event is the last thing (an end mark may follow), and no normal end.
    pub fn check_broken(&self) -> Result<(), String> {
        let mut data = self.data();
        if data.last().map(String::as_str) == Some("[DONE]") {
            data.pop();
        }
        let last: Value = data.last().and_then(|d| serde_json::from_str(d).ok()).unwrap_or(Value::Null);
        let honest = last["error"]["message"].as_str().is_some_and(|m| !m.is_empty());
        if honest && self.finish_reason().is_none() {
            return Ok(());
        }
        Err(format!("expected the stream to end with an error event and no finish_reason, got {:#?}", self.0))
    }
}

impl Response {
    #[track_caller]
    pub fn events(&self) -> Events {
        self.try_events().unwrap()
    }

    pub fn try_events(&self) -> Result<Events, String> {
        let kind = self.header("content-type").unwrap_or_default();
        if self.status() != 200 || !kind.starts_with("text/event-stream") {
            return Err(format!("expected a stream, got {} {kind} {:?}", self.status(), self.text()));
        }
        Events::parse(&self.body)
    }

    /// A whole chat answer with this text.
    pub fn check_answer(&self, text: &str) -> Result<(), String> {
        let json: Value = serde_json::from_slice(&self.body).unwrap_or(Value::Null);
        let said = json["choices"][0]["message"]["content"].as_str();
        if self.status() == 200 && said == Some(text) {
            return Ok(());
        }
        Err(format!("expected 200 and {text:?}, got {} {:?}", self.status(), self.text()))
    }
}
