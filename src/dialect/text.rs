//! A text of a request, which mostly goes out as it came in.

use super::escape::{push_inside, unescape};
use std::borrow::{Borrow, Cow};
use std::fmt;
use std::ops::Deref;
use std::sync::OnceLock;

/// A text that remembers how it stood in the body: the inside of a JSON string is one in every protocol, so that
/// what nobody looks into is copied, where it would be unescaped and escaped again. Conversations are mostly that.
///
/// It is a `str` for whoever asks; half of a surrogate pair, which no `str` can hold, is U+FFFD there.
#[derive(Clone)]
pub struct Text<'a>(Form<'a>);

#[derive(Clone)]
enum Form<'a> {
    /// Made here.
    Own(Cow<'a, str>),
    /// From a JSON string without escapes.
    Plain(&'a str),
    /// The inside of a JSON string with escapes, and its characters once somebody has asked for them.
    Escaped(&'a str, OnceLock<Box<str>>),
}

impl<'a> Text<'a> {
    /// The inside of a JSON string, known to be one; `escapes`: it has some.
    pub fn of_json(inside: &'a str, escapes: bool) -> Self {
        Self(if escapes { Form::Escaped(inside, OnceLock::new()) } else { Form::Plain(inside) })
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Form::Own(text) => text.is_empty(),
            // Every escape is a character.
            Form::Plain(inside) | Form::Escaped(inside, _) => inside.is_empty(),
        }
    }

    /// Whether it is nothing but white space.
    pub fn is_blank(&self) -> bool {
        match &self.0 {
            // Only an escape at the front can be white space that does not look like it.
            Form::Escaped(inside, _) if !inside.trim_start().starts_with('\\') => false,
            _ => self.trim().is_empty(),
        }
    }

    /// The same text for a while; whoever asks for its characters does so anew.
    pub fn reborrow(&self) -> Text<'_> {
        Text(match &self.0 {
            Form::Own(text) => Form::Own(Cow::Borrowed(text)),
            Form::Plain(inside) => Form::Plain(inside),
            Form::Escaped(inside, _) => Form::Escaped(inside, OnceLock::new()),
        })
    }

    /// About how many bytes it takes when it is written.
    pub fn written(&self) -> usize {
        match &self.0 {
            Form::Own(text) => text.len(),
            Form::Plain(inside) | Form::Escaped(inside, _) => inside.len(),
        }
    }

    /// Writes it into a JSON string.
    pub fn push_inside(&self, out: &mut String) {
        match &self.0 {
            Form::Own(text) => push_inside(out, text),
            Form::Plain(inside) | Form::Escaped(inside, _) => out.push_str(inside),
        }
    }

    /// Its characters, borrowed where that is possible.
    pub fn into_cow(self) -> Cow<'a, str> {
        match self.0 {
            Form::Own(text) => text,
            Form::Plain(inside) => Cow::Borrowed(inside),
            Form::Escaped(inside, known) => {
                Cow::Owned(known.into_inner().map_or_else(|| unescape(inside), String::from))
            }
        }
    }
}

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match &self.0 {
            Form::Own(text) => text,
            Form::Plain(inside) => inside,
            Form::Escaped(inside, known) => known.get_or_init(|| unescape(inside).into()),
        }
    }
}

/// For `join`.
impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        self
    }
}

impl Default for Text<'_> {
    fn default() -> Self {
        Self(Form::Plain(""))
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<'a> From<Cow<'a, str>> for Text<'a> {
    fn from(text: Cow<'a, str>) -> Self {
        Self(Form::Own(text))
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Form::Own(text.into()))
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Self(Form::Own(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_text_however_it_came() {
        for (inside, expected) in [
            ("", ""),
            ("plain é", "plain é"),
            (r#"a\n\"b\"\u00e9\/"#, "a\n\"b\"é/"),
            (r"\ud83d\ude00", "😀"),
            (r" \n\u0020", " \n "),
            (r" \n\u0021", " \n!"),
            (r"half \ud83d", "half \u{fffd}"),
        ] {
            let text = Text::of_json(inside, inside.contains('\\'));
            assert_eq!(&*text, expected);
            assert_eq!(text.is_empty(), expected.is_empty());
            assert_eq!(text.is_blank(), expected.trim().is_empty());
            assert_eq!(text.clone().into_cow(), expected);
            assert_eq!(text, Text::from(expected));
            let mut json = String::new();
            text.push_inside(&mut json);
            assert_eq!(json, inside, "as it came");
            let mut made = String::new();
            Text::from(expected).push_inside(&mut made);
            assert_eq!(unescape(&made), expected);
        }
    }
}
