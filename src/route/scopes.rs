//! What a backend shares with others, as keyed hashes: nothing here, and nothing made of it, holds a secret.

use std::hash::{Hash, Hasher};

/// What the hashes are keyed with, so that a state file that gets into wrong hands tells nothing about keys.
pub type Salt = [u64; 2];

/// Equal values are the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes {
    /// One provider at one URL, as it is reached from here.
    pub provider: u64,
    /// One model there.
    pub model: u64,
    /// One key there.
    pub key: u64,
    /// What shares the limits of an account.
    pub account: u64,
    /// One model with one key.
    pub backend: u64,
}

impl Scopes {
    /// Without an `account` group the key stands for its account.
    pub fn new(
        salt: Salt,
        provider: &str,
        base_url: &str,
        key: impl Hash,
        account: Option<&str>,
        model: &str,
    ) -> Self {
        let base_url = base_url.trim_end_matches('/');
        // OpenRouter's free models share limits among themselves, not with the paid ones of the account.
        let free = model.ends_with(":free");
        let key = hash(salt, ("key", provider, base_url, key));
        Self {
            provider: hash(salt, ("provider", provider, base_url)),
            model: hash(salt, ("model", provider, base_url, model)),
            key,
            account: match account {
                // With the provider: "main" at two providers is not one account.
                Some(account) => hash(salt, ("group", provider, account, free)),
                None => hash(salt, ("account", key, free)),
            },
            backend: hash(salt, ("backend", key, account, model)),
        }
    }
}

/// SipHash 2-4. The hasher of the hash maps may change with every release of Rust, and a state file outlives those;
/// this one is deprecated in favour of it but stays what it is.
#[allow(deprecated, reason = "its successor promises no stable algorithm")]
fn hash(salt: Salt, value: impl Hash) -> u64 {
    let mut hasher = std::hash::SipHasher::new_with_keys(salt[0], salt[1]);
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_backend_has_the_same_identity_in_every_build() {
        let scopes = Scopes::new([1, 2], "groq", "https://api.groq.com/openai/v1/", "key", None, "m");
        assert_eq!(scopes, Scopes::new([1, 2], "groq", "https://api.groq.com/openai/v1", "key", None, "m"));
        // What a state file of an earlier build holds.
        assert_eq!(scopes.provider, 6_771_175_706_111_897_639);
        let other = Scopes::new([1, 3], "groq", "https://api.groq.com/openai/v1", "key", None, "m");
        assert_ne!(scopes.key, other.key, "the salt counts");
    }

    #[test]
    fn what_is_shared() {
        let of =
            |key: u32, account, model| Scopes::new([0, 0], "openrouter", "https://o/v1", key, account, model);
        let first = of(1, None, "a:free");
        for (other, expected) in [
            // Provider, model, key, account, backend.
            (of(1, None, "a:free"), [true, true, true, true, true]),
            (of(1, None, "b:free"), [true, false, true, true, false]),
            (of(1, None, "b"), [true, false, true, false, false]),
            (of(2, None, "a:free"), [true, true, false, false, false]),
            (of(1, Some("x"), "a:free"), [true, true, true, false, false]),
        ] {
            let same = [
                first.provider == other.provider,
                first.model == other.model,
                first.key == other.key,
                first.account == other.account,
                first.backend == other.backend,
            ];
            assert_eq!(same, expected, "{other:?}");
        }
        assert_eq!(of(1, Some("x"), "a").account, of(2, Some("x"), "b").account, "a group spans keys");
    }
}
