//! Requests between protocols: readers make the neutral form, writers speak it. Knows no HTTP and no backend but by
//! its quirks.
//!
//! `chat_in`, `messages_in` and `responses_in` share `fields` (types and paths), `turns` (the order of a
//! conversation) and `tools` (names); `chat_out` and `messages_out` share `json` and `schema`. Any reader goes with
//! any writer.

pub mod chat_in;
pub mod chat_out;
pub mod estimate;
mod fields;
mod json;
pub mod messages_in;
pub mod messages_out;
mod parse;
mod parts;
pub mod repair;
mod repair_messages;
pub mod responses_in;
mod responses_parts;
mod schema;
mod tools;
mod turns;

pub(super) use json::compact;

use super::model::{ClientTools, Part, Reasoning, Request, Role, Source, Text};
use crate::limits::{DROPPED_NAME_BYTES_MAX, DROPPED_NAMES_MAX};
use crate::provider::quirks::Quirks;

/// A request as read, and how its tools are called on the client's side.
#[derive(Debug)]
pub struct Read<'a> {
    /// In the neutral form.
    pub request: Request<'a>,
    /// For the way back.
    pub tools: ClientTools,
}

/// Whom a request is written for.
#[derive(Debug, Clone, Copy)]
pub struct Target<'q> {
    /// The backend's model as JSON text, quotes included.
    pub model_json: &'q str,
    /// What the backend refuses.
    pub quirks: &'q Quirks,
    /// The output limit in tokens where the protocol demands one and the client gave none.
    pub default_max_tokens: u32,
}

/// Takes all thinking out of a request whose provider refused a signature, for one more attempt (translation §8).
/// `false`: there was none, and nothing to gain.
pub fn strip_thinking(request: &mut Request<'_>) -> bool {
    let is_thinking = |part: &Part<'_>| matches!(part, Part::Thinking { .. } | Part::RedactedThinking(_));
    if !request.turns.iter().flat_map(|turn| &turn.parts).any(is_thinking) {
        return false;
    }
    let calls = request
        .turns
        .iter()
        .rev()
        .find(|turn| turn.role == Role::Assistant)
        .is_some_and(|turn| turn.parts.iter().any(|part| matches!(part, Part::ToolCall { .. })));
    if calls {
        // Going on with thinking would need the block that began the turn.
        request.reasoning = Reasoning::default();
    }
    request.turns = turns::without_thinking(std::mem::take(&mut request.turns));
    true
}

/// About the bytes that a request takes when it is written: growing by doubling would copy most of it once more.
fn room(request: &Request<'_>) -> usize {
    fn one(part: &Part<'_>) -> usize {
        // With keys, quotes and brackets.
        64 + match part {
            Part::Text(text) | Part::System(text) | Part::Refusal(text) => text.written(),
            Part::ToolCall { arguments, .. } => arguments.len() + arguments.len() / 8,
            Part::ToolResult { parts, .. } => parts.iter().map(one).sum(),
            Part::Image(Source::Base64 { data, .. }) => data.len(),
            Part::Document { source: Source::Base64 { data, .. }, .. } => data.len(),
            _ => 0,
        }
    }
    let turns = request.turns.iter().map(|turn| 64 + turn.parts.iter().map(one).sum::<usize>());
    let tools = request
        .tools
        .iter()
        .map(|tool| 128 + tool.schema.len() + tool.description.as_ref().map_or(0, Text::written));
    // The sum of pieces of a body that is in memory.
    512 + request.system.iter().map(Text::written).chain(turns).chain(tools).sum::<usize>()
}

/// Notes what cannot be said, by name and once.
fn note(dropped: &mut Vec<String>, name: &str) {
    let mut end = name.len().min(DROPPED_NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1; // 0 is a boundary.
    }
    let name = name.get(..end).unwrap_or_default();
    if dropped.len() < DROPPED_NAMES_MAX && !dropped.iter().any(|known| known == name) {
        dropped.push(name.to_owned());
    }
}
