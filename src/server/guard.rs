//! Who may ask, and what can be refused by the head of a request alone.

use super::routes::Route;
use crate::config::Config;
use crate::dialect::ask::Dialect;
use crate::dialect::error::ApiError;
use crate::http::body::BodyLength;
use crate::http::head::{Method, RequestHead, Version};
use crate::respond::Reply;
use crate::secret::Secret;

/// Everything that can be refused by the head alone.
pub fn refuse(config: &Config, head: &RequestHead, route: &Route<'_>) -> Option<Reply> {
    let told = |error: ApiError| Reply::error(&error, route.dialect(head));
    if head.method == Method::Options && cors_origin(config, head).is_some() {
        return Some(preflight(head));
    }
    if let Method::Other(name) = &head.method
        && !matches!(&**name, "PATCH")
    {
        return Some(told(ApiError::new(501, format!("The method {name} is not supported."))));
    }
    if *route != Route::Health && !is_authorised(config.server.api_key.as_ref(), head) {
        let text = "The API key is missing or wrong: send `Authorization: Bearer KEY` with the `server.api_key` of \
                    this proxy's config.";
        return Some(
            told(ApiError::new(401, text).code("invalid_api_key")).header("www-authenticate", "Bearer"),
        );
    }
    if *route == Route::Answer(Dialect::Responses) && head.headers.has_token("upgrade", "websocket") {
        // Codex tries a WebSocket first, and only a clean 426 sends it to POST at once.
        let text = "WebSocket is not spoken here; use POST.";
        return Some(
            told(ApiError::new(426, text)).header("upgrade", "HTTP/1.1").header("connection", "upgrade"),
        );
    }
    if *route == Route::Unknown {
        let text = format!(
            "Unknown path {}: this proxy serves POST /v1/chat/completions, /v1/responses and /v1/messages, \
             GET /v1/models, /status, /metrics and /health.",
            printable(head.path())
        );
        return Some(told(ApiError::new(404, text).code("unknown_url")));
    }
    if !route.allow().contains(&head.method) {
        let allow = route.allow().iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let text = format!("{} is not allowed here; use {allow}.", head.method.as_str());
        return Some(told(ApiError::new(405, text)).header("allow", allow));
    }
    // Without meaning in HTTP/1.0, and to be ignored there (RFC 9110 §10.1.1).
    if head.version == Version::Http11 && head.headers.get("expect").is_some() && !head.expect_continue {
        return Some(told(ApiError::new(417, "Only `Expect: 100-continue` is understood.")));
    }
    refuse_content(config, head, route)
}

/// Content that cannot be JSON. Forms and plain text are refused although they might hold it: a browser sends them
/// for any web page without asking, and so could spend the owner's quota. It does the same with no type at all, as
/// a `Blob` has none; clients that are no web page have no `Origin`.
fn refuse_content(config: &Config, head: &RequestHead, route: &Route<'_>) -> Option<Reply> {
    let told = |error: ApiError| Reply::error(&error, route.dialect(head));
    if !matches!(route, Route::Answer(_) | Route::Count(_)) {
        return None;
    }
    if head.body == BodyLength::Length(0) && head.headers.get("content-length").is_none() {
        return Some(told(ApiError::new(411, "The request has no body; send JSON with Content-Length.")));
    }
    let unsupported = |text: String| Some(told(ApiError::new(415, text)));
    let text = |name| head.headers.get(name).map(String::from_utf8_lossy);
    match text("content-type") {
        Some(given) if !is_json(&given) => {
            return unsupported(format!(
                "The content type must be application/json, not {}.",
                printable(&given)
            ));
        }
        None if head.headers.get("origin").is_some() && cors_origin(config, head).is_none() => {
            return unsupported("A web page must send the content type application/json.".into());
        }
        _ => {}
    }
    match text("content-encoding") {
        Some(given) if !given.eq_ignore_ascii_case("identity") => unsupported(format!(
            "Content-Encoding {} is not supported: send the body as it is.",
            printable(&given)
        )),
        _ => None,
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// A client's text fit for an error message: cut, and without control characters.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// One right key is enough: some clients send both fields, the other one filled from elsewhere.
fn is_authorised(key: Option<&Secret>, head: &RequestHead) -> bool {
    let Some(key) = key else { return true };
    let bearer = head.headers.get_str("authorization").map(|value| match value.split_once(' ') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim(),
        _ => value,
    });
    let given = [bearer, head.headers.get_str("x-api-key")].into_iter().flatten();
    given.fold(false, |right, given| right | same(given.as_bytes(), key.expose().as_bytes()))
}

/// Compares without telling by its time how much was right; lengths may be told.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (x, y)| differs | (x ^ y)) == 0
}

/// The `Access-Control-Allow-Origin` for this request: its origin, if the config allows it.
pub fn cors_origin(config: &Config, head: &RequestHead) -> Option<String> {
    let origin = head.headers.get_str("origin")?;
    let allowed =
        config.server.cors.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin));
    allowed.then(|| origin.to_owned())
}

fn preflight(head: &RequestHead) -> Reply {
    let headers =
        head.headers.get_str("access-control-request-headers").unwrap_or("authorization, content-type");
    Reply::json(200, "{}")
        .header("access-control-allow-methods", "GET, POST, DELETE, OPTIONS")
        .header("access-control-allow-headers", printable(headers))
        .header("access-control-max-age", "600")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_types_are_told_from_what_a_web_page_may_send() {
        for (given, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/vnd.api+json", true),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("multipart/form-data; boundary=json", false),
            ("", false),
        ] {
            assert_eq!(is_json(given), expected, "{given}");
        }
    }
}
