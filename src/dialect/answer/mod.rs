//! Answers: what providers say as [`Event`](super::model::Event)s, and events as what clients read.
//!
//! Readers own every inference (which block, which call, why it ended); writers translate one event at a time. Bytes,
//! framing and the decision what an error means for the attempt are somebody else's.

pub mod any;
mod assemble;
mod built_in;
pub mod chat_read;
pub mod chat_write;
pub mod failure;
pub mod fold;
#[cfg(test)]
mod grammar;
pub mod json;
pub mod messages_read;
pub mod messages_write;
pub mod responses_write;
#[cfg(test)]
mod tests;
pub mod think;
pub mod usage;

pub use any::{Reader, Writer};
pub use chat_read::ChatReader;
pub use chat_write::ChatWriter;
pub use fold::Fold;
pub use messages_read::MessagesReader;
pub use messages_write::MessagesWriter;
pub use responses_write::{Echo, ResponsesWriter, response_id};

use super::raw::Unread;

/// Why a reader could make nothing of an event.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The provider says that something went wrong. The text is its event, to be judged.
    Error(String),
    /// Not JSON, or not this protocol. One bad event need not end a stream.
    Malformed,
    /// It makes no sense any more, or is more than we hold; the stream is lost. Says why.
    Broken(&'static str),
}

/// Another shape is another protocol.
impl From<Unread> for ReadError {
    fn from(_: Unread) -> Self {
        Self::Malformed
    }
}

/// The provider's stream ended before its answer did.
#[derive(Debug, PartialEq, Eq)]
pub struct Truncated;

/// Where events of an answer go.
pub type Sink<'s> = &'s mut dyn FnMut(super::model::Event<'_>);
/// Where frames for the client go: SSE event name (empty for none) and data.
pub type Out<'s> = &'s mut dyn FnMut(&str, &str);

/// What an answer says about itself.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// The value of `provider_name` as JSON, quotes included, or nothing.
    pub provider_json: Option<String>,
    /// The value of `model` as JSON, quotes included.
    pub model_json: String,
    /// What ids are made of: each answer needs another one.
    pub seed: u64,
    /// Seconds since 1970.
    pub created: u64,
}

impl Names {
    /// `"provider_name":"…",` or nothing.
    fn provider_member(&self) -> String {
        match &self.provider_json {
            Some(json) => format!("\"provider_name\":{json},"),
            None => String::new(),
        }
    }
}

/// The `n`th id of an answer: `prefix` and 24 letters and digits.
fn make_id(prefix: &str, seed: u64, n: u64) -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut id = String::with_capacity(prefix.len() + 24);
    id.push_str(prefix);
    // splitmix64: neighbours in, strangers out.
    let mut state = seed ^ n.wrapping_mul(0xd134_2543_de82_ef95);
    for _ in 0..3 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        for _ in 0..8 {
            // Below 62, so it is an index of the alphabet.
            id.push(char::from(ALPHABET[(word % 62) as usize]));
            word /= 62;
        }
    }
    id
}
