//! How many tokens a request has: asked of the backend that would answer it, if that can tell, or estimated.

use super::attempt::send;
use super::job::{ClientFields, Endpoint, Job, Reading};
use super::state::State;
use super::upstream::Via;
use crate::config::Protocol;
use crate::dialect::ask::{Ask, Dialect};
use crate::dialect::error::ApiError;
use crate::dialect::raw;
use crate::dialect::request::estimate;
use crate::limits::{COUNT_TIME, ERROR_BODY_BYTES_MAX};
use crate::net::deadline::with_deadline;
use crate::respond::Reply;
use std::pin::pin;
use std::sync::OnceLock;
use std::time::Instant;

/// Answers `count_tokens` of Messages and `input_tokens` of Responses. `id` is the request's name in the log.
pub async fn count_tokens(
    state: &State,
    dialect: Dialect,
    body: impl AsRef<[u8]>,
    fields: &ClientFields,
    id: &str,
) -> Reply {
    let told = |error: ApiError| Reply::error(&error, dialect);
    let history = OnceLock::new();
    let (body, ask, reading) = match super::asked(state, dialect, body.as_ref(), &history) {
        Ok(asked) => asked,
        Err(error) => return told(error),
    };
    if dialect == Dialect::Messages
        && let Some(counted) =
            with_deadline(Instant::now() + COUNT_TIME, pin!(ask_backend(state, &ask, body, fields, id)))
                .await
                .ok()
                .flatten()
    {
        return Reply::json(200, counted);
    }
    let items = history.get().map_or(&[][..], |items| items.as_slice());
    match reading.map_or_else(|| Reading::new(dialect, body, items), Ok) {
        Ok(reading) => {
            let tokens = estimate::input_tokens(&reading.request);
            Reply::json(
                200,
                match dialect {
                    Dialect::Messages => format!("{{\"input_tokens\":{tokens}}}"),
                    _ => format!("{{\"object\":\"response.input_tokens\",\"input_tokens\":{tokens}}}"),
                },
            )
        }
        Err(error) => told(error),
    }
}

/// The answer of the backend that would be asked first, if it speaks Anthropic's protocol and knows.
async fn ask_backend(
    state: &State,
    ask: &Ask,
    body: &str,
    fields: &ClientFields,
    id: &str,
) -> Option<Vec<u8>> {
    let plan = state.plan(ask.model(), body.len(), || None, || None);
    let backend = plan.walk.first(&state.ledger(), Instant::now())?;
    let upstream = state.upstreams.get(backend)?;
    let Via::Http(http) = &upstream.via else { return None };
    if http.protocol != Protocol::Anthropic {
        return None;
    }
    let job = Job {
        id,
        ask,
        body,
        reading: None,
        translate: false,
        fields,
        signatures: &state.signatures,
        show_provider: false,
        hear: &|_| (),
        secrets: &state.secrets,
        until: Instant::now() + COUNT_TIME,
        seed: 0,
        created: 0,
    };
    let mut response = send(&state.pool, upstream, http, Endpoint::CountTokens, &job).await.ok()?;
    let body = response.read_to_end(ERROR_BODY_BYTES_MAX).await.ok()?;
    let counted = response.head.status == 200 && counts(&body);
    response.finish();
    counted.then_some(body)
}

/// Whether an answer holds what such an answer has to.
fn counts(body: &[u8]) -> bool {
    let body = String::from_utf8_lossy(body);
    let tokens = raw::members(&body, &["input_tokens"]).ok().and_then(|[tokens]| tokens);
    tokens.is_some_and(|tokens| tokens.parse::<u64>().is_ok())
}
