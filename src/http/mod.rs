//! HTTP/1.1 and event-stream framing as pure state machines: bytes in, bytes out. Knows no JSON and no socket.

pub mod body;
pub mod head;
pub mod sse;
