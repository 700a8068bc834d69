//! Errors of this program in the shape of the API that was called.

use super::answer::json::{push_member, push_string, text};
use super::ask::Dialect;
use super::model::Failure;
use super::raw;
use std::borrow::Cow;

/// `param` or `code` of a provider's error; a longer one is neither.
const DETAIL_BYTES_MAX: usize = 256;

/// An error answer. It knows its HTTP status as a number because every API defines one for each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// `error.type`.
    pub kind: &'static str,
    /// `error.code`, where the API knows one.
    pub code: Option<Cow<'static, str>>,
    /// `error.param`: the field at fault.
    pub param: Option<Cow<'static, str>>,
    /// What was wrong, where, and what to do; never a key or an address.
    pub message: Cow<'static, str>,
}

impl ApiError {
    /// An error of the given status with the `type` that OpenAI uses for it (openai-chat §7) and no code.
    pub fn new(status: u16, message: impl Into<Cow<'static, str>>) -> Self {
        let kind = match status {
            401 => "auth_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        Self { status, kind, code: None, param: None, message: message.into() }
    }

    /// The same with `error.code`.
    pub fn code(self, code: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Some(code.into()), ..self }
    }

    /// The same with `error.param`.
    pub fn param(self, param: &'static str) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    /// Takes `param` and `code` from a provider's own error, where it has them in OpenAI's shape. `clean` takes out of
    /// them what nobody may see.
    pub fn with_details_of(mut self, body: &[u8], clean: impl Fn(&str) -> String) -> Self {
        let body = String::from_utf8_lossy(body);
        let error = raw::members(&body, &["error"]).ok();
        let inner = error.and_then(|[error]| raw::members(error?, &["param", "code"]).ok());
        if let Some([param, code]) = inner {
            // Several vendors have numbers there, which say no more than the status.
            let detail = |raw: Option<&str>| {
                let text = text(raw).filter(|text| text.len() <= DETAIL_BYTES_MAX)?;
                Some(Cow::Owned(clean(&text)))
            };
            (self.param, self.code) = (detail(param), detail(code));
        }
        self
    }

    /// `{"error":{"message","type","param","code"}}`, as OpenAI writes it.
    pub fn to_openai(&self) -> String {
        let mut json = String::from("{\"error\":{");
        push_member(&mut json, "message", &self.message);
        json.push(',');
        push_member(&mut json, "type", self.kind);
        for (key, value) in [("param", &self.param), ("code", &self.code)] {
            json.extend([",\"", key, "\":"]);
            match value {
                Some(value) => push_string(&mut json, value),
                None => json.push_str("null"),
            }
        }
        json + "}}"
    }

    /// The status that a client of `dialect` knows for it.
    pub fn status_for(&self, dialect: Dialect) -> u16 {
        if dialect == Dialect::Messages { self.anthropic_status() } else { self.status }
    }

    /// The body in the shape that a client of `dialect` reads.
    pub fn to_json(&self, dialect: Dialect) -> String {
        if dialect == Dialect::Messages { self.to_anthropic() } else { self.to_openai() }
    }

    /// The status that Anthropic has for it: clients know 529 as "try later" where others say 503.
    pub fn anthropic_status(&self) -> u16 {
        if self.status == 503 { 529 } else { self.status }
    }

    /// `{"type":"error","error":{"type","message"}}`, as Anthropic writes it (anthropic-messages §8).
    pub fn to_anthropic(&self) -> String {
        let code = self.code.as_deref();
        let message = match code {
            Some("context_length_exceeded") => too_long(&self.message),
            _ => Cow::Borrowed(&*self.message),
        };
        let kind = match (self.status, code) {
            (400, Some("model_not_found")) => "not_found_error",
            (401, _) => "authentication_error",
            (402, _) => "billing_error",
            (403, _) => "permission_error",
            (404, _) => "not_found_error",
            (409, _) => "conflict_error",
            (413, _) => "request_too_large",
            (429, _) => "rate_limit_error",
            (503 | 529, _) => "overloaded_error",
            (504, _) => "timeout_error",
            (500.., _) => "api_error",
            _ => "invalid_request_error",
        };
        let mut json = String::from("{\"type\":\"error\",\"error\":{");
        push_member(&mut json, "type", kind);
        json.push(',');
        push_member(&mut json, "message", &message);
        json + "}}"
    }

    /// What an answer that has begun may say of it in its own words.
    pub fn failure(&self) -> Failure {
        match (self.status, self.code.as_deref()) {
            (_, Some("context_length_exceeded")) => Failure::ContextTooLong,
            (429, _) => Failure::RateLimit,
            (503 | 529, _) => Failure::Overloaded,
            (500.., _) => Failure::Server,
            _ => Failure::InvalidRequest,
        }
    }
}

/// The words by which Claude Code knows that it has to compact: `prompt is too long: N tokens > M maximum`. The
/// numbers are those of the provider's message: the two largest that can be token counts.
fn too_long(message: &str) -> Cow<'_, str> {
    if message.starts_with("prompt is too long: ") {
        return Cow::Borrowed(message);
    }
    let mut counts: Vec<u64> = message
        .replace(',', "")
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .filter(|count| (256..100_000_000).contains(count))
        .collect();
    counts.sort_unstable();
    counts.dedup();
    Cow::Owned(match *counts {
        [.., limit, asked] => format!("prompt is too long: {asked} tokens > {limit} maximum"),
        [limit] => format!("prompt is too long: {} tokens > {limit} maximum", limit.saturating_add(1)),
        [] => format!("prompt is too long: {message}"),
    })
}

/// A parser error for the client: what and where, without the words of the library for our types.
pub(super) fn describe(text: &str, line: usize, column: usize) -> Cow<'static, str> {
    let place = format!("line {line}, column {column}");
    if text.starts_with("duplicate field") {
        let key = text.split('`').nth(1).unwrap_or("a key");
        return format!("The body has `{key}` twice ({place}); send it once.").into();
    }
    format!("The body is not valid JSON: {text} ({place}).").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anthropic_has_its_own_statuses_and_types() {
        for (status, code, kind, seen) in [
            (400, None, "invalid_request_error", 400),
            (400, Some("model_not_found"), "not_found_error", 400),
            (401, None, "authentication_error", 401),
            (402, None, "billing_error", 402),
            (403, None, "permission_error", 403),
            (404, None, "not_found_error", 404),
            (405, None, "invalid_request_error", 405),
            (413, None, "request_too_large", 413),
            (429, Some("rate_limit_exceeded"), "rate_limit_error", 429),
            (500, None, "api_error", 500),
            (502, None, "api_error", 502),
            (503, Some("all_providers_failed"), "overloaded_error", 529),
            (504, None, "timeout_error", 504),
        ] {
            let error = ApiError { code: code.map(Cow::Borrowed), ..ApiError::new(status, "m") };
            let expected = format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"m"}}}}"#);
            assert_eq!((error.to_anthropic(), error.anthropic_status()), (expected, seen), "{status}");
        }
    }

    #[test]
    fn a_prompt_that_is_too_long_is_told_in_the_words_that_clients_know() {
        for (message, expected) in [
            ("prompt is too long: 2 tokens > 1 maximum", "prompt is too long: 2 tokens > 1 maximum"),
            (
                "This model's maximum context length is 8192 tokens. However, you requested 10,240 tokens (10 in the messages).",
                "prompt is too long: 10240 tokens > 8192 maximum",
            ),
            ("at most 8192 tokens", "prompt is too long: 8193 tokens > 8192 maximum"),
            ("too much", "prompt is too long: too much"),
        ] {
            assert_eq!(too_long(message), expected);
            let error = ApiError::new(400, message).code("context_length_exceeded");
            assert!(error.to_anthropic().contains(expected), "{expected}");
            assert_eq!(error.failure(), Failure::ContextTooLong);
        }
        assert_eq!(ApiError::new(429, "").failure(), Failure::RateLimit);
        assert_eq!(ApiError::new(503, "").failure(), Failure::Overloaded);
    }

    #[test]
    fn a_providers_details_are_kept_whatever_their_types() {
        for (body, param, code) in [
            (r#"{"error":{"message":"m","param":"n","code":"bad_n"}}"#, Some("n"), Some("bad_n")),
            (r#"{"error":{"message":"m","param":"n","code":400}}"#, Some("n"), None),
            (r#"{"error":{"message":"m","param":null}}"#, None, None),
            (r#"{"error":"text"}"#, None, None),
            ("<html>", None, None),
        ] {
            let error = ApiError::new(400, "m").with_details_of(body.as_bytes(), str::to_owned);
            assert_eq!((error.param.as_deref(), error.code.as_deref()), (param, code), "{body}");
        }
    }

    #[test]
    fn the_openai_shape_has_all_four_fields_in_their_order() {
        let error = ApiError::new(400, "`model` must be a string").param("model");
        assert_eq!(
            error.to_openai(),
            r#"{"error":{"message":"`model` must be a string","type":"invalid_request_error","param":"model","code":null}}"#
        );
        let error = ApiError::new(503, "say \"when\"\n").code("all_providers_failed");
        assert_eq!(
            error.to_openai(),
            r#"{"error":{"message":"say \"when\"\n","type":"server_error","param":null,"code":"all_providers_failed"}}"#
        );
    }
}
