//! Members and elements by name and place, as the raw text they are in the JSON around them.
//!
//! One walk over `skim`'s scanner for all who read answers: serde's derived readers are 2 to 6 KB of machine code for
//! each struct. Leaves stay text, so that no vendor's types can break a read; what nobody asked for is checked against
//! the grammar and left out.

use super::escape::unescape;
use super::skim::Scan;
use std::borrow::Cow;

/// Why a text could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is not JSON.
    Malformed,
    /// It is something else than an object or an array, or an object has a member twice that was asked for.
    Misshapen,
}

/// What the scanner says is no news here: nobody is told the place of a fault in an answer.
impl From<&'static str> for Unread {
    fn from(_: &'static str) -> Self {
        Self::Malformed
    }
}

/// What was read, or why it was not.
pub type Read<T> = Result<T, Unread>;

/// Reads the value of a nested member, of which it gets the number.
type Nested<'t, 'a> = &'t mut dyn FnMut(usize, &mut Scan<'a>) -> Read<()>;

/// The members `keys` of the object that `text` is, as raw text. `null` counts as absent.
///
/// # Errors
/// See [`Unread`].
#[inline]
pub fn members<'a, const N: usize>(text: &'a str, keys: &[&str; N]) -> Read<[Option<&'a str>; N]> {
    read(text, |scan| object(scan, keys))
}

/// The same, but a `null` is kept.
///
/// # Errors
/// See [`Unread`].
#[inline]
pub fn members_and_nulls<'a, const N: usize>(text: &'a str, keys: &[&str; N]) -> Read<[Option<&'a str>; N]> {
    read(text, |scan| object_and_nulls(scan, keys, &[], &mut |_, _| Ok(())))
}

/// The elements of the array that `text` is, as raw text. The last one is an error if it is no array.
pub fn elements(text: &str) -> Elements<'_> {
    Elements { scan: Scan::new(text), list: List::default(), over: false }
}

/// The text of the one value that `text` is, white space around it left out.
///
/// # Errors
/// [`Unread::Malformed`].
pub fn value(text: &str) -> Read<&str> {
    read(text, raw)
}

/// Reads a text that is one value.
#[inline]
pub(super) fn read<'a, T>(text: &'a str, of: impl FnOnce(&mut Scan<'a>) -> Read<T>) -> Read<T> {
    let mut scan = Scan::new(text);
    let value = of(&mut scan)?;
    if scan.is_at_end() { Ok(value) } else { Err(Unread::Malformed) }
}

/// The members `keys` of the object here.
#[inline]
pub(super) fn object<'a, const N: usize>(
    scan: &mut Scan<'a>,
    keys: &[&str; N],
) -> Read<[Option<&'a str>; N]> {
    object_with(scan, keys, &[], &mut |_, _| Ok(()))
}

/// The same, in one pass with what is nested: at a value of `nested` that is not `null`, `into` goes on with its number
/// and has to read the whole of it.
#[inline]
pub(super) fn object_with<'a, const N: usize>(
    scan: &mut Scan<'a>,
    keys: &[&str; N],
    nested: &[&str],
    into: Nested<'_, 'a>,
) -> Read<[Option<&'a str>; N]> {
    let mut slots = [None; N];
    fill(scan, keys, &mut slots, false, nested, into)?;
    Ok(slots)
}

/// The same, but a `null` of `keys` is kept.
#[inline]
pub(super) fn object_and_nulls<'a, const N: usize>(
    scan: &mut Scan<'a>,
    keys: &[&str; N],
    nested: &[&str],
    into: Nested<'_, 'a>,
) -> Read<[Option<&'a str>; N]> {
    let mut slots = [None; N];
    fill(scan, keys, &mut slots, true, nested, into)?;
    Ok(slots)
}

/// What all of these do: one body, whatever the number of keys. `nulls`: they are kept.
fn fill<'a>(
    scan: &mut Scan<'a>,
    keys: &[&str],
    slots: &mut [Option<&'a str>],
    nulls: bool,
    nested: &[&str],
    into: Nested<'_, 'a>,
) -> Read<()> {
    open(scan, b'{')?;
    // One bit for each of `keys` and `nested`, which are a dozen at most.
    let mut seen = 0_u32;
    let mut first = true;
    while goes_on(scan, std::mem::take(&mut first), b'}')? {
        let key = key(scan)?;
        let Some(at) = keys.iter().chain(nested).position(|name| **name == *key) else {
            scan.value()?;
            continue;
        };
        if seen >> at & 1 == 1 {
            return Err(Unread::Misshapen);
        }
        seen |= 1 << at;
        scan.space();
        let is_null = scan.peek() == Some(b'n');
        match slots.get_mut(at) {
            Some(slot) if nulls || !is_null => *slot = Some(raw(scan)?),
            _ if is_null => scan.word(b"null")?,
            _ => into(at - slots.len(), scan)?,
        }
    }
    Ok(())
}

/// A key and its colon. Half a surrogate pair in it is none of ours, whatever it becomes.
fn key<'a>(scan: &mut Scan<'a>) -> Read<Cow<'a, str>> {
    let start = scan.at() + 1;
    let escapes = scan.string("expected a key")?;
    let key = scan.span(start..scan.at() - 1);
    scan.space();
    scan.take(b':', "expected `:`")?;
    Ok(if escapes { Cow::Owned(unescape(key)) } else { Cow::Borrowed(key) })
}

/// The value here as raw text.
pub(super) fn raw<'a>(scan: &mut Scan<'a>) -> Read<&'a str> {
    scan.space();
    let start = scan.at();
    scan.value()?;
    Ok(scan.span(start..scan.at()))
}

/// Goes on behind the bracket of an object or array.
fn open(scan: &mut Scan<'_>, bracket: u8) -> Read<()> {
    scan.space();
    match scan.peek() {
        Some(byte) if byte == bracket => {
            scan.skip();
            return Ok(());
        }
        // What is in them makes no difference any more.
        Some(b'{' | b'[') => {}
        _ => scan.value()?,
    }
    Err(Unread::Misshapen)
}

/// Whether another member or element follows. If not, the bracket is behind us.
fn goes_on(scan: &mut Scan<'_>, first: bool, bracket: u8) -> Read<bool> {
    scan.space();
    match scan.peek() {
        Some(byte) if byte == bracket => {
            scan.skip();
            Ok(false)
        }
        _ if first => Ok(true),
        Some(b',') => {
            scan.skip();
            scan.space();
            Ok(true)
        }
        _ => Err(Unread::Malformed),
    }
}

/// Walks over the array at a place in a text: whoever asks for the next element has to read it there.
#[derive(Debug, Default)]
pub(super) struct List {
    begun: bool,
}

impl List {
    /// Whether there is another element. If not, the array is behind us.
    pub(super) fn next(&mut self, scan: &mut Scan<'_>) -> Read<bool> {
        let first = !std::mem::replace(&mut self.begun, true);
        if first {
            open(scan, b'[')?;
        }
        goes_on(scan, first, b']')
    }
}

/// See [`elements`].
#[derive(Debug)]
pub struct Elements<'a> {
    scan: Scan<'a>,
    list: List,
    over: bool,
}

impl<'a> Elements<'a> {
    fn step(&mut self) -> Read<Option<&'a str>> {
        if self.list.next(&mut self.scan)? {
            return raw(&mut self.scan).map(Some);
        }
        if self.scan.is_at_end() { Ok(None) } else { Err(Unread::Malformed) }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Read<&'a str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let step = self.step();
        self.over = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Unread::{Malformed, Misshapen};

    const A: &str = r#"{"a":1}"#;

    #[test]
    fn members_are_found_by_name() {
        for (text, expected) in [
            ("{}", Ok([None, None])),
            (" { } ", Ok([None, None])),
            (A, Ok([Some("1"), None])),
            (
                "\t{ \"x\" : [1,{\"a\":2}] ,\n\"b\":\"\\\"}\" , \"a\" : {\"b\":[ ]}\r}\n",
                Ok([Some("{\"b\":[ ]}"), Some("\"\\\"}\"")]),
            ),
            (r#"{"\u0061":1,"\u0062":-2.5e+3}"#, Ok([Some("1"), Some("-2.5e+3")])),
            (r#"{"\ud83d":1,"\\a":2,"":3,"ab":4}"#, Ok([None, None])),
            (r#"{"a":null,"b":"null"}"#, Ok([None, Some("\"null\"")])),
            (r#"{"x":1,"x":2}"#, Ok([None, None])),
            (r#"{"x":{"a":1,"a":2},"a":3}"#, Ok([Some("3"), None])),
            (r#"{"a":1,"a":1}"#, Err(Misshapen)),
            (r#"{"a":null,"\u0061":1}"#, Err(Misshapen)),
            ("[]", Err(Misshapen)),
            ("[\"a\",1]", Err(Misshapen)),
            ("null", Err(Misshapen)),
            (" \"a\" ", Err(Misshapen)),
            ("1", Err(Misshapen)),
            ("", Err(Malformed)),
            ("{", Err(Malformed)),
            ("<html>", Err(Malformed)),
            ("{} {}", Err(Malformed)),
            (r#"{"a":1,}"#, Err(Malformed)),
            (r#"{,"a":1}"#, Err(Malformed)),
            (r#"{"a":1 "b":2}"#, Err(Malformed)),
            (r#"{"a" 1}"#, Err(Malformed)),
            (r#"{"a":01}"#, Err(Malformed)),
            (r#"{"x":"\x"}"#, Err(Malformed)),
            (r#"{"x":[1,{]}"#, Err(Malformed)),
            ("{\"x\":\"\n\"}", Err(Malformed)),
        ] {
            assert_eq!(members(text, &["a", "b"]), expected, "{text}");
        }
        assert_eq!(members_and_nulls(r#"{"a":null}"#, &["a", "b"]), Ok([Some("null"), None]));
    }

    #[test]
    fn elements_are_handed_on_until_a_fault() {
        for (text, expected, fault) in [
            ("[]", &[][..], None),
            (" [ ] ", &[], None),
            ("[1, \"]\" ,[2],{\"a\":[]},null]", &["1", "\"]\"", "[2]", "{\"a\":[]}", "null"], None),
            ("[1,]", &["1"], Some(Malformed)),
            ("[,1]", &[], Some(Malformed)),
            ("[1 2]", &["1"], Some(Malformed)),
            ("[1", &["1"], Some(Malformed)),
            ("[1}", &["1"], Some(Malformed)),
            ("[1] 2", &["1"], Some(Malformed)),
            ("[", &[], Some(Malformed)),
            ("", &[], Some(Malformed)),
            ("x", &[], Some(Malformed)),
            (A, &[], Some(Misshapen)),
            ("null", &[], Some(Misshapen)),
        ] {
            let mut found = Vec::new();
            let mut end = None;
            for element in elements(text) {
                assert_eq!(end, None, "nothing follows a fault");
                match element {
                    Ok(raw) => found.push(raw),
                    Err(fault) => end = Some(fault),
                }
            }
            assert_eq!((&*found, end), (expected, fault), "{text}");
        }
    }

    /// What is nested: the `a` of each object in `list`.
    fn nested(text: &str) -> Read<(Option<&str>, Vec<Option<&str>>)> {
        read(text, |scan| {
            let mut found = Vec::new();
            let [b] = object_with(scan, &["b"], &["list", "one"], &mut |at, scan| {
                if at == 1 {
                    object(scan, &["a"]).map(|[a]| found.push(a))?;
                    return Ok(());
                }
                let mut list = List::default();
                while list.next(scan)? {
                    object(scan, &["a"]).map(|[a]| found.push(a))?;
                }
                Ok(())
            })?;
            Ok((b, found))
        })
    }

    #[test]
    fn what_is_nested_is_read_in_place() {
        for (text, expected) in [
            (
                r#"{"list":[{"a":1},{},{"x":[],"a":null}],"b":2,"one":{"a":3}}"#,
                Ok((Some("2"), vec![Some("1"), None, None, Some("3")])),
            ),
            (r#"{"list": null ,"one":null,"b":null}"#, Ok((None, vec![]))),
            (r#"{"list":[],"b":2}"#, Ok((Some("2"), vec![]))),
            (r#"{"list":[1]}"#, Err(Misshapen)),
            (r#"{"list":[null]}"#, Err(Misshapen)),
            (r#"{"list":{}}"#, Err(Misshapen)),
            (r#"{"list":"x"}"#, Err(Misshapen)),
            (r#"{"one":[]}"#, Err(Misshapen)),
            (r#"{"one":{},"one":{}}"#, Err(Misshapen)),
            (r#"{"one":null,"one":null}"#, Err(Misshapen)),
            (r#"{"list":[{"a":1},]}"#, Err(Malformed)),
            (r#"{"list":[{"a":1}"#, Err(Malformed)),
            (r#"{"one":nul}"#, Err(Malformed)),
            (r#"{"one":{"a":1}x}"#, Err(Malformed)),
        ] {
            assert_eq!(nested(text), expected, "{text}");
        }
    }

    #[test]
    fn it_judges_like_another_parser_at_every_cut_and_change() {
        let text = r#" {"list":[{"a":"é\n\u00e9"},{"x":[1.5e3,-0,true,false,null,{}]}],"b":{"c":[ ]},"one":{"a":""}} "#;
        let judge = |text: &[u8]| {
            let Ok(text) = std::str::from_utf8(text) else { return };
            let json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
            // A fault of the shape may come before one of the grammar.
            match nested(text) {
                Ok(_) => assert!(json, "{text}"),
                Err(Malformed) => assert!(!json, "{text}"),
                Err(Misshapen) => {}
            }
            assert_eq!(value(text).is_ok(), json, "{text}");
            let list = serde_json::from_str::<Vec<serde::de::IgnoredAny>>(text);
            assert_eq!(elements(text).all(|element| element.is_ok()), list.is_ok(), "{text}");
        };
        for cut in 0..=text.len() {
            judge(&text.as_bytes()[..cut]);
            judge(&text.as_bytes()[cut..]);
        }
        for at in 0..text.len() {
            for byte in b"\"\\{}[],:0x n\n\x1f" {
                let mut changed = text.as_bytes().to_vec();
                changed[at] = *byte;
                judge(&changed);
            }
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let text = format!("{{\"a\":{deep},\"x\":{deep}}}");
        assert_eq!(members(&text, &["a"]), Ok([Some(&*deep)]));
        assert_eq!(elements(&deep).count(), 1);
        assert_eq!(members(&text[..text.len() - 1], &["a"]), Err(Malformed));
    }
}
