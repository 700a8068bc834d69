//! What the headers of an answer tell of limits.

use std::time::Duration;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// Requests.
    Requests,
    /// Tokens.
    Tokens,
}

/// In what time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Span {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A month.
    Month,
    /// The provider does not say.
    Unnamed,
}

/// One window of one provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// What is limited.
    pub unit: Unit,
    /// In what time.
    pub span: Span,
    /// How much of it.
    pub limit: Option<u64>,
    /// What is left.
    pub remaining: Option<u64>,
    /// From now until all of it is there again.
    pub reset: Option<Duration>,
}
