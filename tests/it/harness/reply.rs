//! What a scripted provider does after it has read a request: exact bytes, and what happens between them.

use super::Gate;

/// A script; after its last step the connection waits for the next request.
#[derive(Clone, Default)]
pub struct Reply {
    pub steps: Vec<Step>,
}

#[derive(Clone)]
pub enum Step {
    Write(Vec<u8>),
    /// One write per byte.
    Drip(Vec<u8>),
    /// Until the test opens the gate, or the peer leaves.
    Wait(Gate),
    /// Until the peer leaves.
    Stall,
    /// FIN.
    Close,
    /// RST.
    Reset,
}

/// Status and header fields that still need a body.
#[derive(Clone)]
pub struct Status {
    code: u16,
    fields: String,
}

pub fn status(code: u16) -> Status {
    Status { code, fields: String::new() }
}

impl Status {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.fields.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    fn head(&self, more: &str) -> String {
        format!("HTTP/1.1 {} Scripted\r\n{}{more}\r\n", self.code, self.fields)
    }

    pub fn body(self, kind: &str, body: impl AsRef<[u8]>) -> Reply {
        let body = body.as_ref();
        let kind = if kind.is_empty() { String::new() } else { format!("content-type: {kind}\r\n") };
        let mut bytes = self.head(&format!("{kind}content-length: {}\r\n", body.len())).into_bytes();
        bytes.extend_from_slice(body);
        raw(bytes)
    }

    pub fn json(self, body: impl AsRef<[u8]>) -> Reply {
        self.body("application/json", body)
    }

    /// The usual error of an OpenAI-like provider.
    pub fn error(self, message: &str) -> Reply {
        self.json(format!(
            r#"{{"error":{{"message":"{message}","type":"some_error","param":null,"code":null}}}}"#
        ))
    }

    /// Chunked, one chunk per piece.
    pub fn chunked<'a>(self, kind: &str, pieces: impl IntoIterator<Item = &'a [u8]>) -> Reply {
        let mut bytes =
            self.head(&format!("content-type: {kind}\r\ntransfer-encoding: chunked\r\n")).into_bytes();
        for piece in pieces {
            bytes.extend_from_slice(&chunk(piece));
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        raw(bytes)
    }

    /// No length at all: the end of the body is the end of the connection.
    pub fn until_close(self, kind: &str, body: impl AsRef<[u8]>) -> Reply {
        let mut bytes = self.head(&format!("content-type: {kind}\r\n")).into_bytes();
        bytes.extend_from_slice(body.as_ref());
        raw(bytes).close()
    }

    /// The head of a chunked event stream, to be followed by [`Reply::event`]s.
    pub fn stream_head(self) -> Reply {
        raw(self.head("content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"))
    }
}

/// A chunk of the chunked coding.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:x}\r\n", data.len()).into_bytes();
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

pub fn raw(bytes: impl Into<Vec<u8>>) -> Reply {
    Reply { steps: vec![Step::Write(bytes.into())] }
}

impl Reply {
    /// No answer at all yet.
    pub fn nothing() -> Self {
        Self::default()
    }

    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    pub fn write(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.then(Step::Write(bytes.into()))
    }

    /// One event as one chunk, behind [`Status::stream_head`].
    pub fn event(self, data: &str) -> Self {
        self.write(chunk(format!("data: {data}\n\n").as_bytes()))
    }

    pub fn end_chunks(self) -> Self {
        self.write("0\r\n\r\n")
    }

    pub fn wait(self, gate: &Gate) -> Self {
        self.then(Step::Wait(gate.clone()))
    }

    pub fn close(self) -> Self {
        self.then(Step::Close)
    }

    pub fn reset(self) -> Self {
        self.then(Step::Reset)
    }

    pub fn stall(self) -> Self {
        self.then(Step::Stall)
    }

    /// All bytes this script writes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for step in &self.steps {
            if let Step::Write(b) | Step::Drip(b) = step {
                bytes.extend_from_slice(b);
            }
        }
        bytes
    }

    /// Only the first `n` bytes; what happens then is for the caller to add.
    pub fn cut(&self, n: usize) -> Self {
        let mut bytes = self.bytes();
        bytes.truncate(n);
        raw(bytes)
    }

    /// Byte by byte.
    pub fn drip(&self) -> Self {
        Self { steps: vec![Step::Drip(self.bytes())] }
    }
}

/// The body of a whole chat answer.
pub fn whole_body(text: &str) -> String {
    let text = serde_json::to_string(text).unwrap();
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1795400000,"model":"real-model","choices":[{{"index":0,"message":{{"role":"assistant","content":{text}}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}}}"#
    )
}

pub fn chat_whole(text: &str) -> Reply {
    status(200).json(whole_body(text))
}

/// The data of one chunk of a chat stream.
pub fn event(delta: &str, finish: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795400000,"model":"real-model","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}"#
    )
}

/// A complete chat stream: role, the given pieces of text, finish, end mark.
pub fn sse_body(pieces: &[&str]) -> String {
    let mut body = format!("data: {}\n\n", event(r#"{"role":"assistant","content":""}"#, "null"));
    for piece in pieces {
        let piece = serde_json::to_string(piece).unwrap();
        body.push_str(&format!("data: {}\n\n", event(&format!(r#"{{"content":{piece}}}"#), "null")));
    }
    body.push_str(&format!("data: {}\n\ndata: [DONE]\n\n", event("{}", r#""stop""#)));
    body
}

/// An event stream, one chunk per event.
pub fn sse(body: &str) -> Reply {
    status(200).chunked("text/event-stream", body.split_inclusive("\n\n").map(str::as_bytes))
}

pub fn chat_stream(pieces: &[&str]) -> Reply {
    sse(&sse_body(pieces))
}
