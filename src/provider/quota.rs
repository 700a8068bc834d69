//! How each provider counts: when its day turns, whether refused calls count, and whose the limits are.
//!
//! Data only. What is not known is left at the default, which claims nothing. Sources: providers.md §2 and §5, and what
//! the error samples say.

use super::ratelimit::{next_pacific_midnight, next_utc_midnight};

/// When a daily quota is full again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DayReset {
    /// At 00:00 UTC.
    Utc,
    /// At midnight in Los Angeles.
    Pacific,
    /// 24 h after each use, or unknown: the cautious reading.
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
    /// When its day turns.
    pub day: DayReset,
    /// Calls that bring no answer count, too.
    pub counts_failures: bool,
    /// Limits it tells hold for all models of the account together, not for one model.
    pub shared: bool,
}

const UNKNOWN: Rules = Rules { day: DayReset::Rolling, counts_failures: false, shared: false };

/// The rules of a preset, by its name.
pub fn rules(provider: &str) -> Rules {
    match provider {
        // Per project and model; the day turns at midnight Pacific (vendor). A prompt that is too long burns quota
        // (issue reports).
        "gemini" => Rules { day: DayReset::Pacific, counts_failures: true, ..UNKNOWN },
        // It tells only the limits over all `:free` models of an account; its day is UTC (catalogue, and the reset in
        // its own 429). Failed calls count (from memory, and other routers' issues).
        "openrouter" => Rules { day: DayReset::Utc, counts_failures: true, shared: true },
        // 10 000 neurons a day over all models, from 00:00 UTC (vendor).
        "cloudflare" => Rules { day: DayReset::Utc, shared: true, ..UNKNOWN },
        // A trial key's calls are counted together, whatever they ask for (catalogue).
        "cohere" => Rules { shared: true, ..UNKNOWN },
        // "Your account … request reached max RPM": tiers belong to the account (error bodies, catalogue).
        "moonshot" | "moonshot-cn" => Rules { shared: true, ..UNKNOWN },
        // Session and week by GPU time, one model at a time (adapter code).
        "ollama-cloud" => Rules { shared: true, ..UNKNOWN },
        // 200 requests an hour per address (adapter code).
        "kilo" => Rules { shared: true, ..UNKNOWN },
        // Per organisation and model, and refilled bit by bit (vendor).
        "groq" => UNKNOWN,
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_count_differently() {
        use DayReset::{Pacific, Rolling, Utc};
        for (provider, day, counts_failures, shared) in [
            ("gemini", Pacific, true, false),
            ("openrouter", Utc, true, true),
            ("cloudflare", Utc, false, true),
            ("cohere", Rolling, false, true),
            ("moonshot-cn", Rolling, false, true),
            ("groq", Rolling, false, false),
            ("openai_compat", Rolling, false, false),
            ("", Rolling, false, false),
        ] {
            assert_eq!(rules(provider), Rules { day, counts_failures, shared }, "{provider}");
        }
    }

    #[test]
    fn every_name_is_a_preset() {
        let source = include_str!("quota.rs");
        let table = source.split("match provider {").nth(1).unwrap().split("_ => UNKNOWN").next().unwrap();
        let rows = table.lines().filter_map(|line| line.split_once("\" => ")).map(|(names, _)| names);
        let names = rows.flat_map(|names| names.split('|')).map(|name| name.trim().trim_matches('"'));
        let names: Vec<&str> = names.collect();
        assert!(names.len() >= 8, "{names:?}");
        for name in names {
            assert!(crate::provider::preset(name).is_some(), "{name}");
        }
    }
}
