//! JSON text for serde, on top of the scanner of `skim`: strings with escapes are not resolved but handed over as
//! they stand. Knows no protocol.
//!
//! serde_json takes four times as long for the same: it copies every such string twice, and every value that is kept
//! as text is walked over once more.

use super::super::skim::{Malformed, Scan};
use crate::limits::REQUEST_DEPTH_MAX;
use serde::Deserializer;
use serde::de::value::{BorrowedStrDeserializer, MapDeserializer};
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use std::fmt;

/// Reads one value.
pub(super) struct Parser<'de> {
    scan: Scan<'de>,
    depth: usize,
}

/// Why a text cannot be read.
#[derive(Debug)]
pub(super) enum ParseError {
    /// It is no JSON.
    Malformed(&'static str),
    /// It is JSON, and wrong.
    Wrong(String),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => f.write_str(what),
            Self::Wrong(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for ParseError {}

impl Error for ParseError {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self::Wrong(what.to_string())
    }
}

impl From<&'static str> for ParseError {
    fn from(what: &'static str) -> Self {
        Self::Malformed(what)
    }
}

impl<'de> Parser<'de> {
    pub(super) fn new(text: &'de str) -> Self {
        Self { scan: Scan::new(text), depth: 0 }
    }

    /// The text has to end here.
    pub(super) fn end(&mut self) -> Result<(), ParseError> {
        if self.scan.is_at_end() { Ok(()) } else { Err("something follows the value".into()) }
    }

    /// Where it stands now.
    pub(super) fn place(&self) -> Malformed {
        self.scan.malformed("")
    }

    /// The inside of the string here, and whether it has escapes.
    fn string(&mut self) -> Result<(&'de str, bool), ParseError> {
        let start = self.scan.at() + 1;
        let escapes = self.scan.string("expected a string")?;
        Ok((self.scan.span(start..self.scan.at() - 1), escapes)) // Both quotes have been seen.
    }

    fn number<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, ParseError> {
        let start = self.scan.at();
        self.scan.number()?;
        let text = self.scan.span(start..self.scan.at());
        match (text.parse::<u64>(), text.parse::<i64>()) {
            (Ok(number), _) => visitor.visit_u64(number),
            (_, Ok(number @ ..0)) => visitor.visit_i64(number),
            _ => visitor.visit_f64(text.parse().map_err(|_| "malformed number")?),
        }
    }

    /// What is inside of a bracket.
    fn inside<T>(
        &mut self,
        read: impl FnOnce(Elements<'_, 'de>) -> Result<T, ParseError>,
    ) -> Result<T, ParseError> {
        self.depth += 1;
        if self.depth > REQUEST_DEPTH_MAX {
            return Err("it is nested too deeply".into());
        }
        self.scan.skip();
        let value = read(Elements { parser: self, first: true })?;
        self.depth -= 1;
        Ok(value)
    }
}

impl<'de> Deserializer<'de> for &mut Parser<'de> {
    type Error = ParseError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParseError> {
        self.scan.space();
        match self.scan.peek() {
            // As what it is inside of: only those who know that this is no text of characters can take it.
            Some(b'"') => match self.string()? {
                (inside, true) => visitor.visit_newtype_struct(BorrowedStrDeserializer::new(inside)),
                (inside, false) => visitor.visit_borrowed_str(inside),
            },
            Some(b'{') => self.inside(|elements| visitor.visit_map(elements)),
            Some(b'[') => self.inside(|elements| visitor.visit_seq(elements)),
            Some(b't') => {
                self.scan.word(b"true")?;
                visitor.visit_bool(true)
            }
            Some(b'f') => {
                self.scan.word(b"false")?;
                visitor.visit_bool(false)
            }
            Some(b'n') => {
                self.scan.word(b"null")?;
                visitor.visit_unit()
            }
            Some(b'-' | b'0'..=b'9') => self.number(visitor),
            Some(_) => Err("expected a value".into()),
            None => Err("it ends too early".into()),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParseError> {
        self.scan.space();
        if self.scan.peek() == Some(b'n') {
            self.scan.word(b"null")?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParseError> {
        self.scan.value()?;
        visitor.visit_unit()
    }

    /// Nothing here is one but `RawValue`, which wants its text under its own name.
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ParseError> {
        self.scan.space();
        let start = self.scan.at();
        self.scan.value()?;
        let text = self.scan.span(start..self.scan.at());
        let member = (BorrowedStrDeserializer::new(name), BorrowedStrDeserializer::new(text));
        visitor.visit_map(MapDeserializer::new(std::iter::once(member)))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct enum identifier
    }
}

/// The elements of an array, or the members of an object.
struct Elements<'p, 'de> {
    parser: &'p mut Parser<'de>,
    first: bool,
}

impl Elements<'_, '_> {
    /// Whether another one follows. If not, the bracket is behind us.
    fn goes_on(&mut self, bracket: u8, what: &'static str) -> Result<bool, ParseError> {
        let scan = &mut self.parser.scan;
        scan.space();
        let first = std::mem::replace(&mut self.first, false);
        match scan.peek() {
            Some(b) if b == bracket => {
                scan.skip();
                Ok(false)
            }
            _ if first => Ok(true),
            Some(b',') => {
                scan.skip();
                scan.space();
                Ok(true)
            }
            None => Err("it ends too early".into()),
            _ => Err(what.into()),
        }
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = ParseError;
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ParseError> {
        match self.goes_on(b']', "expected `,` or `]`")? {
            true => seed.deserialize(&mut *self.parser).map(Some),
            false => Ok(None),
        }
    }
}

impl<'de> MapAccess<'de> for Elements<'_, 'de> {
    type Error = ParseError;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ParseError> {
        if !self.goes_on(b'}', "expected `,` or `}`")? {
            return Ok(None);
        }
        let key = self.parser.scan.key()?;
        seed.deserialize(Key(self.parser.scan.span(key))).map(Some)
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ParseError> {
        seed.deserialize(&mut *self.parser)
    }
}

/// A key with its quotes.
struct Key<'de>(&'de str);

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = ParseError;
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParseError> {
        let inside = self.0.get(1..self.0.len().saturating_sub(1)).unwrap_or_default();
        if !inside.contains('\\') {
            return visitor.visit_borrowed_str(inside);
        }
        visitor.visit_string(serde_json::from_str(self.0).map_err(ParseError::custom)?)
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ParseError> {
        visitor.visit_newtype_struct(self)
    }
    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::text::Text;
    use super::*;
    use serde::Deserialize;
    use serde_json::value::RawValue;
    use serde_json::{Map, Number, Value};

    /// Everything that is in a text, by the data model that readers see.
    struct Any(Value);

    impl<'de> Deserialize<'de> for Any {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            struct All;
            impl<'de> Visitor<'de> for All {
                type Value = Any;
                fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                    f.write_str("anything")
                }
                fn visit_unit<E>(self) -> Result<Any, E> {
                    Ok(Any(Value::Null))
                }
                fn visit_bool<E>(self, flag: bool) -> Result<Any, E> {
                    Ok(Any(flag.into()))
                }
                fn visit_u64<E>(self, number: u64) -> Result<Any, E> {
                    Ok(Any(number.into()))
                }
                fn visit_i64<E>(self, number: i64) -> Result<Any, E> {
                    Ok(Any(number.into()))
                }
                fn visit_f64<E>(self, number: f64) -> Result<Any, E> {
                    Ok(Any(Number::from_f64(number).into()))
                }
                fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Any, E> {
                    assert!(!text.contains('\\'));
                    Ok(Any(text.into()))
                }
                fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Any, D::Error> {
                    let inside = <&str>::deserialize(from)?;
                    assert!(inside.contains('\\'));
                    Ok(Any(Text::of_json(inside, true).into_cow().into()))
                }
                fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Any, A::Error> {
                    let mut list = Vec::new();
                    while let Some(Any(value)) = seq.next_element()? {
                        list.push(value);
                    }
                    Ok(Any(list.into()))
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Any, A::Error> {
                    let mut object = Map::new();
                    while let Some((key, Any(value))) = map.next_entry::<String, _>()? {
                        object.insert(key, value);
                    }
                    Ok(Any(object.into()))
                }
            }
            from.deserialize_any(All)
        }
    }

    fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Option<T> {
        let mut parser = Parser::new(text);
        let value = T::deserialize(&mut parser).ok()?;
        parser.end().ok().map(|()| value)
    }

    #[track_caller]
    fn check_alike(text: &str) {
        let expected = serde_json::from_str::<Value>(text).ok();
        assert_eq!(read::<Any>(text).map(|Any(value)| value), expected, "{text}");
        let raw = serde_json::from_str::<&RawValue>(text).ok();
        assert_eq!(read::<&RawValue>(text).map(RawValue::get), raw.map(RawValue::get), "{text}");
    }

    #[test]
    fn it_agrees_with_another_parser() {
        let texts = [
            r#" {"a":[[],{},[{}],"",0,-1,1.5e2,true,false,null,{"b":{"c":[1,2]}}],"\u0061b":"x"} "#,
            r#"["plain é日本語 and long enough","\"\\\/\b\f\n\r\t\u00e9 ",18446744073709551616]"#,
            "[ 1 ,\t\"a\"\r\n, { \"k\" : null , \"l\":[ ] } ]",
        ];
        for text in texts {
            for cut in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
                check_alike(&text[..cut]);
            }
            for (at, c) in text.char_indices() {
                for other in ["\"", "{", "}", "[", "]", ",", ":", "0", "-", "x", " ", "\n", "\u{1f}", ""] {
                    check_alike(&format!("{}{other}{}", &text[..at], &text[at + c.len_utf8()..]));
                }
            }
        }
    }

    #[test]
    fn nesting_has_an_end_only_where_it_is_looked_into() {
        for (depth, expected) in [(REQUEST_DEPTH_MAX, true), (REQUEST_DEPTH_MAX + 1, false)] {
            let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(read::<Any>(&text).is_some(), expected, "{depth}");
        }
        let text = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read::<serde::de::IgnoredAny>(&text).is_some() && read::<&RawValue>(&text).is_some());
    }
}
