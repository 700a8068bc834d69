//! Which request goes where, and who may ask.

use super::Shared;
use super::connection::{BodyFailure, Incoming};
use super::respond::{Reply, Responder};
use crate::config::{Config, ModelRouting};
use crate::dialect::error::ApiError;
use crate::http::body::BodyLength;
use crate::http::head::{Method, RequestHead, Version};
use crate::proxy::{self, State};
use crate::secret::Secret;
use serde_json::json;
use std::io;
use std::sync::Arc;

/// What a path stands for.
#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    Health,
    Models,
    Model(&'a str),
    Chat,
    Responses,
    Unknown,
}

impl<'a> Route<'a> {
    /// The paths of the API with and without `/v1`, and with trailing slashes.
    fn of(path: &'a str) -> Self {
        let path = path.trim_end_matches('/');
        let path =
            path.strip_prefix("/v1").filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(path);
        match path {
            "" | "/health" => Self::Health,
            "/models" => Self::Models,
            "/chat/completions" => Self::Chat,
            "/responses" => Self::Responses,
            _ => match path.strip_prefix("/models/") {
                Some(id) if !id.is_empty() => Self::Model(id),
                _ => Self::Unknown,
            },
        }
    }

    fn allow(&self) -> &'static str {
        match self {
            Self::Health | Self::Models | Self::Model(_) => "GET, HEAD",
            Self::Chat => "POST",
            Self::Responses | Self::Unknown => "",
        }
    }
}

/// Answers a request. An error means that the client is gone and nobody can be told.
pub async fn serve(
    shared: &Arc<Shared>,
    state: &Arc<State>,
    head: &RequestHead,
    incoming: &mut Incoming<'_>,
    out: &mut Responder<'_>,
) -> io::Result<()> {
    let route = Route::of(head.path());
    let refusal = refuse(&state.config, head, &route);
    if let Some(reply) = refusal {
        log::info!("[{}] {} {}: {}", out.id(), head.method.as_str(), head.path(), reply.status);
        if reply.status == 411 || !incoming.discard_small(shared, head.expect_continue).await {
            out.close_after();
        }
        return out.whole(&reply).await;
    }
    if route == Route::Chat {
        return chat(shared, state, head, incoming, out).await;
    }
    if !incoming.is_read() {
        // A GET with a body: what it means is nobody's business, but it has to be read before the next request, and
        // a large one is not worth its memory.
        if !incoming.discard_small(shared, head.expect_continue).await {
            out.close_after();
        }
    }
    let reply = match route {
        Route::Models => Reply::json(200, models(&state.config).to_string()),
        Route::Model(id) => model(&state.config, id),
        _ => Reply::json(200, r#"{"status":"ok"}"#),
    };
    log::debug!("[{}] {} {}: {}", out.id(), head.method.as_str(), head.path(), reply.status);
    out.whole(&reply).await
}

async fn chat(
    shared: &Arc<Shared>,
    state: &Arc<State>,
    head: &RequestHead,
    incoming: &mut Incoming<'_>,
    out: &mut Responder<'_>,
) -> io::Result<()> {
    let body = match incoming.body(shared, state.config.server.max_body, head.expect_continue).await {
        Ok(body) => body,
        Err(failure) => return refuse_body(failure, incoming, out).await,
    };
    let id = out.id();
    match incoming.while_here(proxy::chat(state, body, out)).await {
        Some(answered) => {
            // The client has everything, and may leave now without being called gone.
            if let Some(relay) = answered? {
                relay.finish().await;
            }
            Ok(())
        }
        None => {
            log::info!("[{id}] chat: the client left");
            Err(io::ErrorKind::ConnectionAborted.into())
        }
    }
}

async fn refuse_body(
    failure: BodyFailure,
    incoming: &Incoming<'_>,
    out: &mut Responder<'_>,
) -> io::Result<()> {
    match failure {
        BodyFailure::Gone => Err(io::ErrorKind::ConnectionAborted.into()),
        BodyFailure::Refused(error) => {
            log::info!("[{}] refused: {} ({})", out.id(), error.message, error.status);
            // Text that is not UTF-8 was read to its end, and the connection can go on.
            if !incoming.is_read() {
                out.close_after();
            }
            let reply = Reply::error(&error);
            let reply = if error.status == 503 { reply.header("retry-after", "5") } else { reply };
            out.whole(&reply).await
        }
    }
}

/// Everything that can be refused by the head alone.
fn refuse(config: &Config, head: &RequestHead, route: &Route<'_>) -> Option<Reply> {
    if head.method == Method::Options && cors_origin(config, head).is_some() {
        return Some(preflight(head));
    }
    if let Method::Other(name) = &head.method
        && !matches!(&**name, "PATCH")
    {
        return Some(Reply::error(&ApiError::new(501, format!("The method {name} is not supported."))));
    }
    if *route != Route::Health && !is_authorised(config.server.api_key.as_ref(), head) {
        let text = "The API key is missing or wrong: send `Authorization: Bearer KEY` with the `server.api_key` of \
                    this proxy's config.";
        return Some(
            Reply::error(&ApiError::new(401, text).code("invalid_api_key"))
                .header("www-authenticate", "Bearer"),
        );
    }
    if *route == Route::Responses && head.headers.get("upgrade").is_some() {
        // Codex tries a WebSocket first, and only a clean 426 sends it to POST at once.
        let text = "WebSocket is not spoken here; use POST.";
        return Some(
            Reply::error(&ApiError::new(426, text))
                .header("upgrade", "HTTP/1.1")
                .header("connection", "upgrade"),
        );
    }
    if matches!(route, Route::Unknown | Route::Responses) {
        let text = format!(
            "Unknown path {}: this proxy serves POST /v1/chat/completions, GET /v1/models and GET /health.",
            printable(head.path())
        );
        return Some(Reply::error(&ApiError::new(404, text).code("unknown_url")));
    }
    let get = matches!(head.method, Method::Get | Method::Head);
    if (*route == Route::Chat) != (head.method == Method::Post) || (*route != Route::Chat && !get) {
        let allow = route.allow();
        let text = format!("{} is not allowed here; use {allow}.", head.method.as_str());
        return Some(Reply::error(&ApiError::new(405, text)).header("allow", allow));
    }
    // Without meaning in HTTP/1.0, and to be ignored there (RFC 9110 §10.1.1).
    if head.version == Version::Http11 && head.headers.get("expect").is_some() && !head.expect_continue {
        return Some(Reply::error(&ApiError::new(417, "Only `Expect: 100-continue` is understood.")));
    }
    refuse_content(config, head, route)
}

/// Content that cannot be JSON. Forms and plain text are refused although they might hold it: a browser sends them
/// for any web page without asking, and so could spend the owner's quota. It does the same with no type at all, as
/// a `Blob` has none; clients that are no web page have no `Origin`.
fn refuse_content(config: &Config, head: &RequestHead, route: &Route<'_>) -> Option<Reply> {
    if *route != Route::Chat {
        return None;
    }
    if head.body == BodyLength::Length(0) && head.headers.get("content-length").is_none() {
        return Some(Reply::error(&ApiError::new(
            411,
            "The request has no body; send JSON with Content-Length.",
        )));
    }
    let unsupported = |text: String| Some(Reply::error(&ApiError::new(415, text)));
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
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn is_authorised(key: Option<&Secret>, head: &RequestHead) -> bool {
    let Some(key) = key else { return true };
    let given = match head.headers.get_str("authorization") {
        Some(value) => match value.split_once(' ') {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => Some(rest.trim()),
            _ => Some(value),
        },
        None => head.headers.get_str("x-api-key"),
    };
    given.is_some_and(|given| same(given.as_bytes(), key.expose().as_bytes()))
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
        .header("access-control-allow-methods", "GET, POST, OPTIONS")
        .header("access-control-allow-headers", printable(headers))
        .header("access-control-max-age", "600")
}

/// The ids a client may ask for: the alias, and with `match` every configured model.
fn model_ids(config: &Config) -> Vec<&str> {
    let mut ids = vec![config.model_name.as_str()];
    if config.model_routing == ModelRouting::Match {
        for backend in &config.backends {
            if !ids.contains(&backend.model.as_str()) {
                ids.push(&backend.model);
            }
        }
    }
    ids
}

/// One list for both families of SDKs: OpenAI's fields and Anthropic's beside each other.
fn models(config: &Config) -> serde_json::Value {
    let ids = model_ids(config);
    let (first, last) = (ids.first().copied(), ids.last().copied());
    let data: Vec<_> = ids.iter().map(|id| model_object(id)).collect();
    json!({"object": "list", "data": data, "has_more": false, "first_id": first, "last_id": last})
}

fn model_object(id: &str) -> serde_json::Value {
    json!({
        "id": id,
        "object": "model",
        "created": 0,
        "owned_by": "ai-free-swap",
        "type": "model",
        "display_name": id,
        "created_at": "1970-01-01T00:00:00Z",
    })
}

fn model(config: &Config, id: &str) -> Reply {
    match decode_percent(id) {
        Some(id) if model_ids(config).contains(&id.as_str()) => {
            Reply::json(200, model_object(&id).to_string())
        }
        _ => {
            let text = format!("The model `{}` is not known; GET /v1/models lists what is.", printable(id));
            Reply::error(&ApiError::new(404, text).code("model_not_found").param("model"))
        }
    }
}

/// `%2F` and the like; `None` if it is no text.
fn decode_percent(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|d| u8::try_from(d).ok());
        out.push(if byte == b'%' { digit(bytes.next())? * 16 + digit(bytes.next())? } else { byte });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_with_and_without_v1_and_slash() {
        for (path, expected) in [
            ("/", Route::Health),
            ("/v1", Route::Health),
            ("/health", Route::Health),
            ("/v1/models", Route::Models),
            ("/models/", Route::Models),
            ("/v1/models/a/b", Route::Model("a/b")),
            ("/v1/chat/completions", Route::Chat),
            ("/chat/completions/", Route::Chat),
            ("/v1/responses", Route::Responses),
            ("/v1chat/completions", Route::Unknown),
            ("/v2/models", Route::Unknown),
            ("*", Route::Unknown),
        ] {
            assert_eq!(Route::of(path), expected, "{path}");
        }
    }

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

    #[test]
    fn percent_signs_are_decoded_or_refused() {
        assert_eq!(decode_percent("a%2Fb%20c").as_deref(), Some("a/b c"));
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(decode_percent(bad), None, "{bad}");
        }
    }
}
