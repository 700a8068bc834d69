//! JSON text as a tree of what somebody will look into, on top of the scanner of `skim`. Knows no protocol.
//!
//! One pass, borrowed throughout: texts stay as they stand, and what nobody has named is kept as text. serde's derived
//! readers took a tenth of the binary for the same, and a list of structs took a hundred times the bytes of a body
//! that was written to that end.

use super::super::escape::unescape;
use super::super::skim::{Malformed, Scan};
use super::super::text::Text;
use crate::limits::{REQUEST_DEPTH_MAX, REQUEST_VALUES_MAX};
use std::borrow::Cow;

/// A value, and how it stands in the body.
#[derive(Debug)]
pub(super) struct Node<'a> {
    raw: &'a str,
    json: Json<'a>,
}

#[derive(Debug)]
enum Json<'a> {
    Null,
    Flag(bool),
    Number,
    /// `true`: it has escapes.
    Text(bool),
    List(Vec<Node<'a>>),
    Object(Members<'a>),
    /// A list or an object that nobody has announced to look into.
    Unread,
    /// One that is nested too deeply to be looked into: readers may be recursive.
    Deep,
}

impl<'a> Node<'a> {
    const ABSENT: Self = Self { raw: "null", json: Json::Null };

    /// `null` counts as absent: many clients send nulls for what they do not set.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self.json, Json::Null)
    }

    /// As it stands in the body; `None` if it is absent.
    pub(super) fn raw(&self) -> Option<&'a str> {
        (!self.is_absent()).then_some(self.raw)
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self.json, Json::Number)
    }

    pub(super) fn flag(&self) -> Option<bool> {
        if let Json::Flag(flag) = self.json { Some(flag) } else { None }
    }

    pub(super) fn text(&self) -> Option<Text<'a>> {
        let Json::Text(escapes) = self.json else { return None };
        Some(Text::of_json(inside(self.raw), escapes))
    }

    pub(super) fn list(self) -> Option<Vec<Node<'a>>> {
        match self.read().json {
            Json::List(list) => Some(list),
            _ => None,
        }
    }

    pub(super) fn object(self) -> Option<Members<'a>> {
        match self.read().json {
            Json::Object(members) => Some(members),
            _ => None,
        }
    }

    /// What was kept as text, looked into after all.
    fn read(self) -> Self {
        if !matches!(self.json, Json::Unread) {
            return self;
        }
        // It has been read over once already, so what is left to fail is a limit.
        Parser::new(self.raw, &[]).value(true).unwrap_or(self)
    }
}

/// A string without its quotes.
fn inside(string: &str) -> &str {
    string.get(1..string.len().saturating_sub(1)).unwrap_or_default()
}

/// Most names that are compared differ in length.
#[inline(always)]
fn is(name: &str, key: &str) -> bool {
    name.len() == key.len() && name == key
}

/// The members of an object, in their order. Each key is there once.
#[derive(Debug, Default)]
pub(super) struct Members<'a>(Vec<(Cow<'a, str>, Node<'a>)>);

impl<'a> Members<'a> {
    /// A member by name, which then counts as absent.
    pub(super) fn take(&mut self, key: &str) -> Option<Node<'a>> {
        let (_, node) = self.0.iter_mut().find(|(name, _)| is(name, key))?;
        Some(std::mem::replace(node, Node::ABSENT))
    }

    /// Whether a member is this very string.
    pub(super) fn says(&self, key: &str, word: &str) -> bool {
        let mut all = self.0.iter();
        all.find(|(name, _)| is(name, key))
            .and_then(|(_, node)| node.text())
            .is_some_and(|text| &*text == word)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(name, node)| is(name, key) && !node.is_absent())
    }

    /// The names of those that nobody has taken.
    pub(super) fn left(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, node)| !node.is_absent()).map(|(key, _)| key.as_ref())
    }

    /// A key that is there twice: two readers could take it to mean different things.
    fn twice(&self) -> Option<&str> {
        // So few can be compared one by one; in many that would take the square of their number.
        const FEW: usize = 32;
        if self.0.len() <= FEW {
            let mut rest = self.0.as_slice();
            while let Some(((key, _), before)) = rest.split_last() {
                if before.iter().any(|(other, _)| is(other, key)) {
                    return Some(key);
                }
                rest = before;
            }
            return None;
        }
        let mut sorted: Vec<&str> = self.0.iter().map(|(key, _)| key.as_ref()).collect();
        sorted.sort_unstable();
        sorted.windows(2).find(|pair| pair.first() == pair.last()).and_then(|pair| pair.first().copied())
    }
}

/// Why a text cannot be read.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// It is no JSON: what was found or missing.
    Malformed(&'static str),
    /// An object has this key twice.
    Twice(String),
    /// It holds more values than [`REQUEST_VALUES_MAX`].
    TooMany,
}

impl From<&'static str> for Unreadable {
    fn from(what: &'static str) -> Self {
        Self::Malformed(what)
    }
}

/// Reads a text that is one value. Below the top only the values of the keys in `into` are looked into at once; the
/// others are if somebody asks.
///
/// # Errors
/// What is wrong, and the first place where it is.
pub(super) fn parse<'a>(text: &'a str, into: &[&str]) -> Result<Node<'a>, (Unreadable, Malformed)> {
    let mut parser = Parser::new(text, into);
    let node = parser.value(true).and_then(|node| match parser.scan.is_at_end() {
        true => Ok(node),
        false => Err("something follows the value".into()),
    });
    node.map_err(|error| (error, parser.scan.malformed("")))
}

struct Parser<'a, 'i> {
    scan: Scan<'a>,
    into: &'i [&'i str],
    depth: usize,
    values: usize,
}

type Step<T> = Result<T, Unreadable>;

impl<'a, 'i> Parser<'a, 'i> {
    fn new(text: &'a str, into: &'i [&'i str]) -> Self {
        Self { scan: Scan::new(text), into, depth: 0, values: 0 }
    }

    /// The value here; `open`: a list or an object is looked into.
    fn value(&mut self, open: bool) -> Step<Node<'a>> {
        self.values += 1;
        if self.values > REQUEST_VALUES_MAX {
            return Err(Unreadable::TooMany);
        }
        self.scan.space();
        let start = self.scan.at();
        let deep = self.depth >= REQUEST_DEPTH_MAX;
        let json = match self.scan.peek() {
            Some(b'"') => Json::Text(self.scan.string("expected a string")?),
            Some(b'{') if open && !deep => self.nested(Self::object)?,
            Some(b'[') if open && !deep => self.nested(Self::list)?,
            byte => {
                self.scan.value()?;
                match byte {
                    Some(b'n') => Json::Null,
                    Some(b't') => Json::Flag(true),
                    Some(b'f') => Json::Flag(false),
                    Some(b'{' | b'[') if deep => Json::Deep,
                    Some(b'{' | b'[') => Json::Unread,
                    _ => Json::Number,
                }
            }
        };
        Ok(Node { raw: self.scan.span(start..self.scan.at()), json })
    }

    /// What is inside of a bracket.
    fn nested(&mut self, read: fn(&mut Self) -> Step<Json<'a>>) -> Step<Json<'a>> {
        self.depth += 1;
        self.scan.skip();
        let json = read(self)?;
        self.depth -= 1;
        Ok(json)
    }

    fn list(&mut self) -> Step<Json<'a>> {
        let mut list = Vec::new();
        while self.goes_on(list.is_empty(), b']', "expected `,` or `]`")? {
            list.push(self.value(true)?);
        }
        Ok(Json::List(list))
    }

    fn object(&mut self) -> Step<Json<'a>> {
        let mut members = Members::default();
        while self.goes_on(members.0.is_empty(), b'}', "expected `,` or `}`")? {
            let key = self.scan.key()?;
            let key = inside(self.scan.span(key));
            let key = if key.contains('\\') { Cow::Owned(unescape(key)) } else { Cow::Borrowed(key) };
            self.scan.space();
            let open = matches!(self.scan.peek(), Some(b'{' | b'[')) && self.into.contains(&&*key);
            members.0.push((key, self.value(open)?));
        }
        match members.twice() {
            Some(key) => Err(Unreadable::Twice(key.to_owned())),
            None => Ok(Json::Object(members)),
        }
    }

    /// Whether another one follows. If not, the bracket is behind us.
    fn goes_on(&mut self, first: bool, bracket: u8, what: &'static str) -> Step<bool> {
        self.scan.space();
        match self.scan.peek() {
            Some(b) if b == bracket => {
                self.scan.skip();
                Ok(false)
            }
            _ if first => Ok(true),
            Some(b',') => {
                self.scan.skip();
                self.scan.space();
                Ok(true)
            }
            None => Err("it ends too early".into()),
            _ => Err(what.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value};

    /// Everything that is in a text, by what readers see.
    fn all(node: Node<'_>) -> Value {
        if node.is_absent() {
            return Value::Null;
        }
        if let Some(flag) = node.flag() {
            return flag.into();
        }
        if let Some(text) = node.text() {
            return text.into_cow().into();
        }
        let raw = node.raw().unwrap();
        if node.is_number() {
            return serde_json::from_str(raw).unwrap();
        }
        if raw.starts_with('[') {
            return node.list().unwrap().into_iter().map(all).collect();
        }
        let members = node.object().unwrap();
        members.0.into_iter().map(|(key, node)| (key.into_owned(), all(node))).collect::<Map<_, _>>().into()
    }

    /// Whether a key is there twice, which serde_json's own tree does not mind.
    fn check_alike(text: &str, into: &[&str]) {
        let expected = serde_json::from_str::<Value>(text).ok();
        match parse(text, into) {
            Err((Unreadable::Twice(_), _)) => {}
            Err((Unreadable::Malformed(_), _)) => assert_eq!(None, expected, "{text}"),
            Err((Unreadable::TooMany, _)) => panic!("{text}"),
            Ok(node) => {
                assert_eq!(node.raw, text.trim_ascii(), "{text}");
                assert_eq!(Some(all(node)), expected, "{text}");
            }
        }
    }

    #[test]
    fn it_agrees_with_another_parser() {
        let texts = [
            r#" {"a":[[],{},[{}],"",0,-1,1.5e2,true,false,null,{"b":{"c":[1,2]}}],"\u0061b":"x"} "#,
            r#"["plain é日本語 and long enough","\"\\\/\b\f\n\r\t\u00e9 ",18446744073709551616]"#,
            "[ 1 ,\t\"a\"\r\n, { \"k\" : null , \"l\":[ ] } ]",
        ];
        for text in texts {
            for into in [&[][..], &["a", "b", "l"]] {
                for cut in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
                    check_alike(&text[..cut], into);
                }
                for (at, c) in text.char_indices() {
                    for other in ["\"", "{", "}", "[", "]", ",", ":", "0", "-", "x", " ", "\n", "\u{1f}", ""]
                    {
                        check_alike(&format!("{}{other}{}", &text[..at], &text[at + c.len_utf8()..]), into);
                    }
                }
            }
        }
    }

    #[test]
    fn a_key_is_there_once() {
        let many = |last: &str| {
            let keys: String = (0..100).map(|at| format!("\"k{at}\":0,")).collect();
            format!("{{{keys}\"{last}\":0}}")
        };
        for (text, expected) in [
            (r#"{"a":1,"b":2}"#.to_owned(), None),
            (r#"{"a":1,"b":2,"\u0061":3}"#.to_owned(), Some("a")),
            (r#"[{"a":{"b":1,"b":2}}]"#.to_owned(), Some("b")),
            (r#"{"unread":{"b":1,"b":2}}"#.to_owned(), None),
            (many("k"), None),
            (many("k50"), Some("k50")),
        ] {
            let twice = match parse(&text, &["a"]) {
                Err((Unreadable::Twice(key), _)) => Some(key),
                _ => None,
            };
            assert_eq!(twice.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn nesting_has_an_end_only_where_it_is_looked_into() {
        let text = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let mut node = parse(&text, &[]).unwrap();
        for _ in 0..REQUEST_DEPTH_MAX {
            node = node.list().unwrap().pop().unwrap();
        }
        assert!(node.raw().is_some_and(|raw| raw.starts_with('[')) && node.list().is_none());
    }

    #[test]
    fn a_body_of_nothing_but_values_is_not_read() {
        for (count, expected) in [(REQUEST_VALUES_MAX - 1, true), (REQUEST_VALUES_MAX, false)] {
            let text = format!("[{}0]", "0,".repeat(count - 1));
            assert_eq!(!matches!(parse(&text, &[]), Err((Unreadable::TooMany, _))), expected, "{count}");
        }
    }
}
