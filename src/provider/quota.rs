//! How providers count what they limit, as data.

use crate::provider::ratelimit::{next_pacific_midnight, next_utc_midnight};

/// When the day of a provider's quotas ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DayReset {
    /// At midnight UTC.
    Utc,
    /// At midnight in Los Angeles.
    Pacific,
    /// Never at once: the last 24 hours count.
    Rolling,
}

impl DayReset {
    /// The end of the day that `wall` (milliseconds since 1970, like the answer) is in. A rolling one has none.
    pub fn turn(self, wall: i64) -> Option<i64> {
        match self {
            Self::Utc => Some(next_utc_midnight(wall)),
            Self::Pacific => Some(next_pacific_midnight(wall)),
            Self::Rolling => None,
        }
    }
}

/// How one provider counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// When its day ends.
    pub day: DayReset,
    /// Refused and failed calls count as well.
    pub counts_failures: bool,
    /// What it tells of limits holds for the account, not for one model.
    pub shared: bool,
}

/// The rules of a provider by the name of its preset.
pub fn rules(provider: &str) -> Rules {
    let plain = Rules { day: DayReset::Rolling, counts_failures: false, shared: false };
    match provider {
        "gemini" => Rules { day: DayReset::Pacific, ..plain },
        "openrouter" => Rules { day: DayReset::Utc, counts_failures: true, shared: true },
        "cloudflare" => Rules { day: DayReset::Utc, shared: true, ..plain },
        _ => plain,
    }
}
