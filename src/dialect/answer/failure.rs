//! What a provider's error says, as far as it may be told in the middle of an answer.

use super::json::some_text;
use crate::dialect::model::Failure;
use crate::dialect::raw::members;

/// Length of a provider's error message that is passed on, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Kind and message of an error event or body, in OpenAI's or Anthropic's shape; else a general one. The kind comes
/// from its `type` and `code` only: the words of the message are free.
pub fn read_failure(text: &str) -> (Failure, String) {
    let text = text.trim();
    let [error] = members(text, &["error"]).unwrap_or_default();
    let keys = &["message", "type", "code"];
    let [message, kind, code] = members(error.unwrap_or(text), keys).unwrap_or_default();
    let message = some_text(message).or_else(|| some_text(error));
    let message = message.as_deref().unwrap_or("The provider reported an error.");
    let mut end = message.len().min(MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let known = |word: Option<&str>| failure_of(word?.trim_matches('"'));
    let failure = known(code).or_else(|| known(kind)).unwrap_or(Failure::Server);
    (failure, message.get(..end).unwrap_or_default().to_owned())
}

fn failure_of(word: &str) -> Option<Failure> {
    Some(match word {
        "overloaded_error" | "overloaded" | "529" | "503" => Failure::Overloaded,
        "rate_limit_error" | "rate_limit_exceeded" | "insufficient_quota" | "429" => Failure::RateLimit,
        "context_length_exceeded" => Failure::ContextTooLong,
        "invalid_request_error" | "invalid_prompt" => Failure::InvalidRequest,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_both_protocols_are_read() {
        for (text, failure, message) in [
            (
                r#"{"error":{"message":"no","type":"server_error","code":"server_error"}}"#,
                Failure::Server,
                "no",
            ),
            (
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
                Failure::Overloaded,
                "Overloaded",
            ),
            (r#"{"error":{"message":"slow","code":429}}"#, Failure::RateLimit, "slow"),
            (r#"{"message":"boom","type":"x"}"#, Failure::Server, "boom"),
            (r#"{"error":"just text"}"#, Failure::Server, "just text"),
            (
                r#"{"error":{"message":"m","type":"invalid_request_error","code":"context_length_exceeded"}}"#,
                Failure::ContextTooLong,
                "m",
            ),
            ("<html>", Failure::Server, "The provider reported an error."),
            ("[1]", Failure::Server, "The provider reported an error."),
        ] {
            assert_eq!(read_failure(text), (failure, message.to_owned()), "{text}");
        }
        let long = format!("{{\"message\":\"{}\"}}", "ä".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(read_failure(&long).1.len(), MESSAGE_BYTES_MAX);
    }
}
