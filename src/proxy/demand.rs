//! What a request asks of a backend, found out as cheaply as the backends' limits allow.

use crate::dialect::model::{Part, Request};
use crate::dialect::request::estimate;
use crate::route::fit::Demand;
use crate::route::ledger::Ledger;
use std::time::Instant;

/// Pictures given by their address are short, but take this many tokens; some of them fit into a request that is
/// not looked at closer.
const SLACK_TOKENS: u64 = 4000;

/// Whether a request of so many bytes fits wherever it may go, whatever is in it: most are far from every limit.
pub fn certainly_fits(ledger: &Ledger, candidates: &[usize], bytes: usize, now: Instant) -> bool {
    // No text takes more.
    let most = Demand { tokens: bytes as u64 / 2 + SLACK_TOKENS, images: true, tools: true };
    candidates.iter().all(|backend| ledger.unfit(*backend, &most, now).is_none())
}

/// By its length alone.
pub fn rough(bytes: usize) -> Demand {
    Demand { tokens: bytes as u64 / 4, images: false, tools: false }
}

/// From the request itself.
pub fn exact(request: &Request<'_>) -> Demand {
    let parts = request.turns.iter().flat_map(|turn| &turn.parts);
    Demand {
        tokens: estimate::input_tokens(request),
        images: parts.into_iter().any(shows_image),
        tools: !request.tools.is_empty(),
    }
}

/// The least that it may be in truth: estimates are high by up to a half, so that clients shorten their conversation in
/// time. To refuse a request is not what they are made for.
pub fn at_least(demand: &Demand) -> Demand {
    Demand { tokens: demand.tokens / 3 * 2, ..*demand }
}

fn shows_image(part: &Part<'_>) -> bool {
    match part {
        Part::Image(_) => true,
        Part::ToolResult { parts, .. } => parts.iter().any(shows_image),
        _ => false,
    }
}
