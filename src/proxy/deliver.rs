//! Giving the client its answer. From here on a failure cannot be hidden any more.

use super::attempt::{Answer, broken, judge};
use super::lease::Lease;
use super::relay::{Relay, State as StreamState};
use super::state::State;
use super::stats::Outcome;
use super::{LogLine, keep_alive};
use crate::dialect::error::ApiError;
use crate::limits::{KEEP_ALIVE_TIME, STREAM_SILENCE_TIME};
use crate::net::deadline::with_deadline;
use crate::respond::{Reply, Responder};
use crate::route::verdict::{Failure, Phase, Verdict, judge_failure};
use std::io;
use std::pin::pin;
use std::time::Instant;

/// An answer, whose it is, and what is to be done with it.
pub struct Answered<'a> {
    /// The attempt that brought it.
    pub lease: Lease<'a>,
    /// What it brought.
    pub answer: Answer,
    /// What it is counted as, if it comes to its end.
    pub outcome: Outcome,
    /// Header fields beyond the usual.
    pub headers: Vec<(&'static str, String)>,
    /// The id of the response and the items of the conversation, if it is to be kept with them.
    pub keep: Option<(String, Vec<String>)>,
}

/// Sends an answer. A stream that ended well is handed back.
pub async fn deliver(
    state: &State,
    answered: Answered<'_>,
    out: &mut Responder<'_>,
    log: LogLine<'_>,
) -> io::Result<Option<Relay>> {
    let Answered { mut lease, answer, outcome, headers, keep } = answered;
    let mut relay = match answer {
        Answer::Whole(body, usage) => {
            if let (Some((id, items)), Ok(response)) = (keep, str::from_utf8(&body)) {
                state.responses.keep(id, response.to_owned(), items);
            }
            // Nothing of it runs any more, however long the client takes to read it.
            lease.settle(usage);
            let sent = out.whole(&Reply { status: 200, headers, body }).await;
            let outcome = if sent.is_ok() { outcome } else { Outcome::ClientLeft };
            log.write(outcome, "200", usage);
            return sent.map(|()| None);
        }
        Answer::Stream(relay) => *relay,
    };
    relay_frames(&mut relay, &headers, out).await?;
    let mut last = std::mem::take(&mut relay.out);
    let verdict = verdict_of(state, lease.backend(), &mut relay);
    if let Some(verdict) = &verdict {
        // Before its end is known to those that wait for it.
        lease.failed(out.id(), verdict);
    }
    lease.settle(relay.usage());
    if let Some(verdict) = &verdict {
        let error = ApiError::new(502, format!("The answer broke off: {}", state.told(verdict)))
            .code("upstream_error");
        relay.lane.fail(&error, &mut last);
    }
    if let (Some((id, items)), Some(response)) = (keep, relay.lane.kept()) {
        // Before the client hears of the end: it may go on at once.
        state.responses.keep(id, response, items);
    }
    if !out.has_begun() {
        out.stream(&headers, &std::mem::take(&mut last)).await?;
    }
    out.end_stream(&last).await?;
    match verdict {
        None => {
            log.write(outcome, "200", relay.usage());
            Ok(Some(relay))
        }
        Some(verdict) => {
            log.write(Outcome::BrokeOff, &format!("200, broke off: {verdict}"), relay.usage());
            Ok(None)
        }
    }
}

/// Passes frames on until the stream has ended, in whatever way; the last ones are left in it.
async fn relay_frames(
    relay: &mut Relay,
    headers: &[(&'static str, String)],
    out: &mut Responder<'_>,
) -> io::Result<()> {
    let (mut heard, mut told) = (Instant::now(), Instant::now());
    while relay.state == StreamState::Running {
        if !relay.out.is_empty() {
            // Taken, so that a stream that waits holds no buffer.
            let frames = std::mem::take(&mut relay.out);
            out.stream(headers, &frames).await?;
            told = Instant::now();
        }
        // Counted from what the client was told: the provider's own comments are not passed on.
        match with_deadline(told + KEEP_ALIVE_TIME, pin!(relay.advance())).await {
            Ok(()) => heard = Instant::now(),
            Err(_) if heard.elapsed() >= STREAM_SILENCE_TIME => return Ok(()),
            Err(_) => {
                keep_alive(out).await?;
                told = Instant::now();
            }
        }
    }
    Ok(())
}

/// How the stream ended, if not well.
fn verdict_of(state: &State, backend: usize, relay: &mut Relay) -> Option<Verdict> {
    let mut verdict = match std::mem::replace(&mut relay.state, StreamState::Done) {
        StreamState::Done => return None,
        StreamState::Running => judge_failure(&Failure::Timeout(Phase::Silence)),
        StreamState::Broken(why) => judge_failure(&broken(why)),
        StreamState::Error(text) => {
            let upstream = state.upstreams.get(backend)?;
            judge(upstream, &state.secrets, 200, None, text.as_bytes())
        }
    };
    verdict.message = state.masked(&verdict.message).into();
    Some(verdict)
}
