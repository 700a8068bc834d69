//! Order of attempts and judgement of their outcome. Pure: time and dice are arguments.

mod bench;
pub mod fit;
pub mod ledger;
mod message;
pub mod plan;
pub mod quota;
pub mod saved;
mod scopes;
pub mod verdict;

use std::time::{Instant, SystemTime};

pub use message::mask;

/// One reading of both clocks: the monotonic one measures, the wall one understands dates.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For benches and waits.
    pub mono: Instant,
    /// For what providers tell as a date.
    pub wall: SystemTime,
}
