//! Errors of this program in the shape of the API that was called.

use serde::{Deserialize, Serialize};
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
        #[derive(Deserialize)]
        struct Envelope {
            error: Inner,
        }
        #[derive(Deserialize)]
        struct Inner {
            #[serde(default)]
            param: serde_json::Value,
            #[serde(default)]
            code: serde_json::Value,
        }
        // Several vendors have numbers there, which say no more than the status.
        let text = |value: serde_json::Value| {
            value.as_str().filter(|text| text.len() <= DETAIL_BYTES_MAX).map(|text| Cow::Owned(clean(text)))
        };
        if let Ok(Envelope { error }) = serde_json::from_slice(body) {
            self.param = text(error.param);
            self.code = text(error.code);
        }
        self
    }

    /// `{"error":{"message","type","param","code"}}`, as OpenAI writes it.
    pub fn to_openai(&self) -> String {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            message: &'a str,
            r#type: &'a str,
            param: Option<&'a str>,
            code: Option<&'a str>,
        }
        let inner = Inner {
            message: &self.message,
            r#type: self.kind,
            param: self.param.as_deref(),
            code: self.code.as_deref(),
        };
        // Strings and nothing else: serialising cannot fail. Should it ever, the status still tells.
        serde_json::to_string(&Envelope { error: inner }).unwrap_or_else(|_| "{\"error\":{}}".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
