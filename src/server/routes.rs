//! Which request goes where.

use super::Shared;
use super::connection::{BodyFailure, Incoming};
use super::guard::{printable, refuse};
use crate::config::{Config, ModelRouting};
use crate::dialect::ask::Dialect;
use crate::dialect::error::ApiError;
use crate::http::head::{Method, RequestHead};
use crate::proxy::job::ClientFields;
use crate::proxy::state::now;
use crate::proxy::{self, State, metrics, status};
use crate::respond::{Reply, Responder};
use serde_json::json;
use std::io;
use std::pin::pin;
use std::sync::Arc;

/// What a path stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// `/` and `/health`.
    Health,
    /// What is known of the backends, as JSON.
    Status,
    /// What was counted, for Prometheus.
    Metrics,
    /// The list of models.
    Models,
    /// One of them.
    Model(&'a str),
    /// A model is to answer.
    Answer(Dialect),
    /// How many tokens a request has, as a client of that protocol asks.
    Count(Dialect),
    /// A response that was kept.
    Response(&'a str),
    /// Nothing.
    Unknown,
}

impl<'a> Route<'a> {
    /// The paths of the API with and without `/v1`, and with trailing slashes.
    pub fn of(path: &'a str) -> Self {
        let path = path.trim_end_matches('/');
        let path =
            path.strip_prefix("/v1").filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(path);
        match path {
            "" | "/health" => Self::Health,
            "/status" => Self::Status,
            "/metrics" => Self::Metrics,
            "/models" => Self::Models,
            "/chat/completions" => Self::Answer(Dialect::Chat),
            "/responses" => Self::Answer(Dialect::Responses),
            "/responses/input_tokens" => Self::Count(Dialect::Responses),
            "/messages" => Self::Answer(Dialect::Messages),
            "/messages/count_tokens" => Self::Count(Dialect::Messages),
            _ => match (path.strip_prefix("/models/"), path.strip_prefix("/responses/")) {
                (Some(id), _) if !id.is_empty() => Self::Model(id),
                (_, Some(id)) if !id.is_empty() && !id.contains('/') => Self::Response(id),
                _ => Self::Unknown,
            },
        }
    }

    /// The methods it knows.
    pub fn allow(&self) -> &'static [Method] {
        match self {
            Self::Health | Self::Status | Self::Metrics | Self::Models | Self::Model(_) => {
                &[Method::Get, Method::Head]
            }
            Self::Answer(_) | Self::Count(_) => &[Method::Post],
            Self::Response(_) => &[Method::Get, Method::Delete],
            Self::Unknown => &[],
        }
    }

    /// In whose shape errors are told.
    pub fn dialect(&self, head: &RequestHead) -> Dialect {
        match self {
            Self::Answer(dialect) | Self::Count(dialect) => *dialect,
            Self::Response(_) => Dialect::Responses,
            // Both families have this path; only one of them says so.
            Self::Models | Self::Model(_) if head.headers.get("anthropic-version").is_some() => {
                Dialect::Messages
            }
            _ => Dialect::Chat,
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
    if let Some(reply) = refuse(&state.config, head, &route) {
        log::info!("[{}] {} {}: {}", out.id(), head.method.as_str(), head.path(), reply.status);
        if reply.status == 411 || !incoming.discard_small(shared, head.expect_continue).await {
            out.close_after();
        }
        return out.whole(&reply).await;
    }
    if let Route::Answer(dialect) | Route::Count(dialect) = route {
        let counts = matches!(route, Route::Count(_));
        return asked(shared, state, head, dialect, counts, incoming, out).await;
    }
    // A GET with a body: what it means is nobody's business, but it has to be read before the next request, and a
    // large one is not worth its memory.
    if !incoming.is_read() && !incoming.discard_small(shared, head.expect_continue).await {
        out.close_after();
    }
    let dialect = route.dialect(head);
    let reply = match route {
        Route::Status => Reply::json(200, status::json(state, now())).header("cache-control", "no-store"),
        Route::Metrics => Reply::json(200, metrics::text(state, now().mono))
            .header("content-type", metrics::CONTENT_TYPE)
            .header("cache-control", "no-store"),
        Route::Models => Reply::json(200, models(&state.config).to_string()),
        Route::Model(id) => model(&state.config, id, dialect),
        Route::Response(id) => response(state, id, head.method == Method::Delete),
        _ => Reply::json(200, r#"{"status":"ok"}"#),
    };
    log::debug!("[{}] {} {}: {}", out.id(), head.method.as_str(), head.path(), reply.status);
    out.whole(&reply).await
}

/// A request with a body for a model.
async fn asked(
    shared: &Arc<Shared>,
    state: &Arc<State>,
    head: &RequestHead,
    dialect: Dialect,
    counts: bool,
    incoming: &mut Incoming<'_>,
    out: &mut Responder<'_>,
) -> io::Result<()> {
    let body = match incoming.body(shared, state.config.server.max_body, head.expect_continue).await {
        Ok(body) => body,
        Err(failure) => return refuse_body(failure, dialect, incoming, out).await,
    };
    let fields = if dialect == Dialect::Messages { client_fields(head) } else { ClientFields::default() };
    let id = out.id();
    let work = pin!(async {
        match counts {
            true => {
                // Rare and large: not part of every stream's memory.
                let counting = Box::pin(proxy::count::count_tokens(state, dialect, body, &fields, id));
                let reply = counting.await;
                log::debug!("[{id}] {} tokens counted: {}", dialect.name(), reply.status);
                out.whole(&reply).await.map(|()| None)
            }
            false => proxy::answer(state, dialect, body, &fields, out).await,
        }
    });
    match incoming.while_here(work).await {
        Some(answered) => {
            // The client has everything, and may leave now without being called gone.
            if let Some(relay) = answered? {
                relay.finish().await;
            }
            Ok(())
        }
        None => {
            log::info!("[{id}] {}: the client left", dialect.name());
            Err(io::ErrorKind::ConnectionAborted.into())
        }
    }
}

/// What goes along from a Messages client to providers that speak the same. The key never does.
fn client_fields(head: &RequestHead) -> ClientFields {
    let field = |name| head.headers.get_str(name).map(str::to_owned);
    ClientFields {
        version: field("anthropic-version"),
        beta: field("anthropic-beta"),
        query: head.query().map(|query| format!("?{query}")).unwrap_or_default(),
    }
}

async fn refuse_body(
    failure: BodyFailure,
    dialect: Dialect,
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
            let reply = Reply::error(&error, dialect);
            let reply = if error.status == 503 { reply.header("retry-after", "5") } else { reply };
            out.whole(&reply).await
        }
    }
}

/// Gives or forgets a response that was kept.
fn response(state: &State, id: &str, forget: bool) -> Reply {
    if forget && state.responses.forget(id) {
        return Reply::json(200, json!({"id": id, "object": "response", "deleted": true}).to_string());
    }
    match state.responses.response(id).filter(|_| !forget) {
        Some(response) => Reply::json(200, response.as_bytes()),
        None => {
            let text = format!(
                "The response `{}` is not known: only the last ones are kept, in memory.",
                printable(id)
            );
            Reply::error(&ApiError::new(404, text), Dialect::Responses)
        }
    }
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

fn model(config: &Config, id: &str, dialect: Dialect) -> Reply {
    match decode_percent(id) {
        Some(id) if model_ids(config).contains(&id.as_str()) => {
            Reply::json(200, model_object(&id).to_string())
        }
        _ => {
            let text = format!("The model `{}` is not known; GET /v1/models lists what is.", printable(id));
            Reply::error(&ApiError::new(404, text).code("model_not_found").param("model"), dialect)
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
            ("/status", Route::Status),
            ("/v1/status/", Route::Status),
            ("/metrics/", Route::Metrics),
            ("/v1/metrics", Route::Metrics),
            ("/metrics/x", Route::Unknown),
            ("/models/", Route::Models),
            ("/v1/models/a/b", Route::Model("a/b")),
            ("/v1/chat/completions", Route::Answer(Dialect::Chat)),
            ("/chat/completions/", Route::Answer(Dialect::Chat)),
            ("/v1/responses", Route::Answer(Dialect::Responses)),
            ("/v1/responses/resp_1/", Route::Response("resp_1")),
            ("/v1/responses/resp_1/cancel", Route::Unknown),
            ("/v1/messages", Route::Answer(Dialect::Messages)),
            ("/messages/count_tokens", Route::Count(Dialect::Messages)),
            ("/v1chat/completions", Route::Unknown),
            ("/v2/models", Route::Unknown),
            ("*", Route::Unknown),
        ] {
            assert_eq!(Route::of(path), expected, "{path}");
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
