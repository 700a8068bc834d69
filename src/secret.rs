//! A string that cannot be printed by accident: API keys, the proxy's own key, proxy passwords.

use std::fmt;

/// Secret text. `Debug` shows a placeholder, there is no `Display`, and nothing serialises it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(Box<str>);

impl Secret {
    /// Takes the text out of circulation.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The only way to the text: grep for it to see every place a key leaves memory.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_does_not_show_the_text() {
        assert_eq!(
            format!("{:?} {:#?}", Secret::new("sk-1"), Some(Secret::new("sk-2"))),
            "[secret] Some(\n    [secret],\n)"
        );
    }
}
