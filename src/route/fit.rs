//! Whether a request can succeed at a backend at all. Guesses nothing: only what the config says or the backend has
//! said itself counts.

use std::fmt;

/// What a request asks of whoever answers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Its length in tokens, estimated.
    pub tokens: u64,
    /// It shows pictures.
    pub images: bool,
    /// It offers tools.
    pub tools: bool,
}

/// What a backend can do; `None`: not known, so it may try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Its context window in tokens.
    pub context: Option<u64>,
    /// Whether it takes pictures.
    pub vision: Option<bool>,
    /// Whether it takes tools.
    pub tools: Option<bool>,
}

/// Why a request cannot succeed at a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is longer than the context window.
    Window {
        /// Its length in tokens, estimated.
        tokens: u64,
        /// The window in tokens.
        window: u64,
    },
    /// It is longer than all that a minute allows.
    PerMinute {
        /// Its length in tokens, estimated.
        tokens: u64,
        /// Tokens a minute.
        limit: u64,
    },
    /// It shows pictures, and the model sees none.
    Vision,
    /// It offers tools, and the model takes none.
    Tools,
}

impl Abilities {
    /// What keeps a request out, if anything does. `per_minute`: tokens that one minute allows.
    pub fn unfit(&self, demand: &Demand, per_minute: Option<u64>) -> Option<Unfit> {
        let Demand { tokens, images, tools } = *demand;
        if let Some(window) = self.context.filter(|window| tokens > *window) {
            return Some(Unfit::Window { tokens, window });
        }
        if let Some(limit) = per_minute.filter(|limit| tokens > *limit) {
            return Some(Unfit::PerMinute { tokens, limit });
        }
        if images && self.vision == Some(false) {
            return Some(Unfit::Vision);
        }
        (tools && self.tools == Some(false)).then_some(Unfit::Tools)
    }

    /// These, and where they say nothing, the others.
    pub fn or(self, others: Self) -> Self {
        Self {
            context: self.context.or(others.context),
            vision: self.vision.or(others.vision),
            tools: self.tools.or(others.tools),
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window { tokens, window } => {
                write!(f, "about {tokens} tokens, and its context window has {window}")
            }
            Self::PerMinute { tokens, limit } => {
                write!(f, "about {tokens} tokens, and it takes {limit} a minute")
            }
            Self::Vision => f.write_str("it takes no images"),
            Self::Tools => f.write_str("it takes no tools"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_request_out() {
        let able = |context, vision, tools| Abilities { context, vision, tools };
        let window = |tokens, window| Some(Unfit::Window { tokens, window });
        for (abilities, per_minute, (tokens, images, tools), expected) in [
            (able(None, None, None), None, (u64::MAX, true, true), None),
            (able(Some(100), None, None), None, (100, false, false), None),
            (able(Some(100), None, None), None, (101, false, false), window(101, 100)),
            (able(Some(100), None, None), Some(50), (101, true, true), window(101, 100)),
            (able(None, None, None), Some(100), (100, false, false), None),
            (
                able(None, None, None),
                Some(100),
                (101, false, false),
                Some(Unfit::PerMinute { tokens: 101, limit: 100 }),
            ),
            (able(None, Some(false), None), None, (1, true, true), Some(Unfit::Vision)),
            (able(None, Some(false), None), None, (1, false, true), None),
            (able(None, Some(true), Some(false)), None, (1, true, true), Some(Unfit::Tools)),
            (able(None, Some(true), Some(false)), None, (1, true, false), None),
            (able(None, Some(true), Some(true)), None, (1, true, true), None),
        ] {
            let demand = Demand { tokens, images, tools };
            assert_eq!(
                abilities.unfit(&demand, per_minute),
                expected,
                "{abilities:?} {per_minute:?} {demand:?}"
            );
        }
    }

    #[test]
    fn what_one_says_counts_more_than_what_another_says() {
        let first = Abilities { context: Some(1), vision: None, tools: Some(false) };
        let second = Abilities { context: Some(2), vision: Some(true), tools: None };
        let expected = Abilities { context: Some(1), vision: Some(true), tools: Some(false) };
        assert_eq!(first.or(second), expected);
        assert_eq!(first.or(Abilities::default()), first);
        assert_eq!(Abilities::default().or(first), first);
    }

    #[test]
    fn reasons_in_words() {
        for (why, expected) in [
            (Unfit::Window { tokens: 9, window: 8 }, "about 9 tokens, and its context window has 8"),
            (Unfit::PerMinute { tokens: 9, limit: 8 }, "about 9 tokens, and it takes 8 a minute"),
            (Unfit::Vision, "it takes no images"),
            (Unfit::Tools, "it takes no tools"),
        ] {
            assert_eq!(why.to_string(), expected);
        }
    }
}
