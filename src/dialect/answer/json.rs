//! Small JSON matters: strings in and out, and whether a text that comes in pieces is complete.

use super::super::escape::unescape;
use super::ReadError;
use crate::dialect::model::Citation;
use crate::dialect::raw;
use crate::limits::ANSWER_LIST_MAX;
use std::borrow::Cow;

/// The text of a JSON string; `None` if the value is missing or something else. Borrowed unless it has escapes.
pub fn text(value: Option<&str>) -> Option<Cow<'_, str>> {
    let inner = value?.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.as_bytes().contains(&b'\\') {
        return Some(Cow::Borrowed(inner));
    }
    Some(Cow::Owned(unescape(inner)))
}

/// The same, and empty ones count as missing.
pub fn some_text(value: Option<&str>) -> Option<Cow<'_, str>> {
    text(value).filter(|text| !text.is_empty())
}

/// A count: any JSON number from 0 up, fractions cut.
pub fn count(value: Option<&str>) -> Option<u64> {
    let raw = value?;
    raw.parse().ok().or_else(|| {
        let number: f64 = raw.parse().ok()?;
        // `as` saturates, and JSON has no NaN.
        (number >= 0.0 && raw.starts_with(|c: char| c.is_ascii_digit())).then_some(number as u64)
    })
}

/// Hands on each element of a JSON array without building a list: a long one of small elements would take many times
/// its bytes.
///
/// # Errors
/// What `take` says, or [`ReadError::Malformed`] if the text is no array or has more than [`ANSWER_LIST_MAX`] elements.
pub fn for_each<'a>(
    list: &'a str,
    take: &mut dyn FnMut(&'a str) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    raw::elements(list).enumerate().try_for_each(|(at, element)| match at {
        ANSWER_LIST_MAX.. => Err(ReadError::Malformed),
        _ => take(element?),
    })
}

pub use super::super::escape::push_string;

/// Writes `"key":"text"`. The key needs no escapes.
pub fn push_member(out: &mut String, key: &str, text: &str) {
    out.extend(["\"", key, "\":"]);
    push_string(out, text);
}

/// Adds elements of a JSON array to others, all parted by commas.
pub fn push_listed(list: &mut String, more: &str) {
    if !list.is_empty() {
        list.push(',');
    }
    list.push_str(more);
}

/// Writes the members of a citation that chat and Responses share.
pub(super) fn push_page(out: &mut String, citation: &Citation<'_>, start: u64, end: u64) {
    out.extend(["\"start_index\":", &start.to_string(), ",\"end_index\":", &end.to_string(), ","]);
    push_member(out, "url", citation.url);
    out.push(',');
    push_member(out, "title", citation.title);
}

/// Follows a JSON object or array that comes in pieces until it is complete. Work is linear in the bytes.
#[derive(Debug, Default)]
pub struct Completeness {
    depth: u32,
    begun: bool,
    in_string: bool,
    escaped: bool,
    complete: bool,
}

impl Completeness {
    /// Whether the value's last bracket has been seen.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether anything but white space has been seen.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Takes the next piece and gives back what of it belongs to the value: all, or what is before its end.
    pub fn take<'a>(&mut self, piece: &'a str) -> &'a str {
        if self.complete {
            return "";
        }
        for (at, byte) in piece.bytes().enumerate() {
            self.begun |= !byte.is_ascii_whitespace();
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        self.complete = true;
                        // Behind an ASCII byte is a character boundary.
                        return piece.get(..=at).unwrap_or(piece);
                    }
                }
                _ => {}
            }
        }
        piece
    }
}

/// The arguments of a call as the JSON object that they must be; `None` if they cannot be read as one
/// (translation §5). Anthropic's `input` is an object, and models write what they like.
pub fn object(arguments: &str) -> Option<Cow<'_, str>> {
    let mut text = arguments.trim();
    if let Some(inner) = text.strip_prefix("```").and_then(|text| text.strip_suffix("```")) {
        text = inner.strip_prefix("json").unwrap_or(inner).trim();
    }
    if text.is_empty() || text == "null" {
        return Some(Cow::Borrowed("{}"));
    }
    let raw = raw::value(text).ok()?;
    match raw.as_bytes().first() {
        Some(b'{') => Some(Cow::Borrowed(raw)),
        Some(b'"') => {
            let inner: String = serde_json::from_str(text).ok()?;
            // JSON in a string, once; a second wrapping is not unwrapped, so this does not go on for ever.
            match raw::value(inner.trim()) {
                Ok(object) if object.starts_with('{') => Some(Cow::Owned(object.to_owned())),
                _ => Some(Cow::Owned(format!("{{\"value\":{text}}}"))),
            }
        }
        _ => Some(Cow::Owned(format!("{{\"value\":{text}}}"))),
    }
}

/// The free text of a wrapped custom tool: `{"input":"…"}`. Anything else is taken as it is.
pub fn custom_input(arguments: &str) -> Cow<'_, str> {
    match raw::members_and_nulls(arguments, &["input"]) {
        Ok([Some(input)]) => Cow::Owned(text(Some(input)).map_or_else(|| input.to_owned(), Cow::into_owned)),
        _ => Cow::Borrowed(arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_handed_on_up_to_its_limit() {
        for (count, expected) in [(ANSWER_LIST_MAX, Ok(())), (ANSWER_LIST_MAX + 1, Err(ReadError::Malformed))]
        {
            let mut taken = 0;
            let mut take = |_: &str| {
                taken += 1;
                Ok(())
            };
            assert_eq!(for_each(&format!("[{}]", vec!["1"; count].join(",")), &mut take), expected);
            assert_eq!(taken, ANSWER_LIST_MAX);
        }
        assert_eq!(for_each("{}", &mut |_| Ok(())), Err(ReadError::Malformed));
    }

    #[test]
    fn strings_come_and_go() {
        let all: String = (0..0x3000).filter_map(char::from_u32).collect();
        let mut out = String::new();
        push_string(&mut out, &all);
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), all);
        assert_eq!(text(Some(&out)).unwrap(), all);
        for (json, expected) in [
            (r#""a""#, Some("a")),
            (r#""\u00e4\n""#, Some("ä\n")),
            (r#""a\ud83d b\"""#, Some("a\u{fffd} b\"")),
            (r#""\ud83d\ud83d\ude00\ude00\u0041""#, Some("\u{fffd}😀\u{fffd}A")),
            (r#""\/\b\f\r\t\\\\n""#, Some("/\u{8}\u{c}\r\t\\\\n")),
            (r#""\ud83d\ude00\ud83d\\""#, Some("😀\u{fffd}\\")),
            ("null", None),
            ("[]", None),
            ("1", None),
        ] {
            assert_eq!(text(Some(json)).as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn counts_are_lenient() {
        for (json, expected) in [
            ("7", Some(7)),
            ("7.9", Some(7)),
            ("1e3", Some(1000)),
            ("-1", None),
            ("null", None),
            ("\"7\"", None),
            ("1e400", Some(u64::MAX)),
        ] {
            assert_eq!(count(Some(json)), expected, "{json}");
        }
    }

    #[test]
    fn completeness_is_seen_at_every_cut() {
        for (input, taken, complete) in [
            (r#"{"a":"}\"]","b":[1,{}]}"#, r#"{"a":"}\"]","b":[1,{}]}"#, true),
            (r#" {} "#, " {}", true),
            (r#"{}{}"#, "{}", true),
            (r#"{"a":"#, r#"{"a":"#, false),
            (r#""x""#, r#""x""#, false),
            ("", "", false),
            ("{\"ä\\\\\":\"ü\"}x", "{\"ä\\\\\":\"ü\"}", true),
        ] {
            for cut in (0..=input.len()).filter(|&cut| input.is_char_boundary(cut)) {
                let mut scan = Completeness::default();
                let got = scan.take(&input[..cut]).to_owned() + scan.take(&input[cut..]);
                assert_eq!((got.as_str(), scan.is_complete()), (taken, complete), "{input} cut at {cut}");
            }
        }
    }

    #[test]
    fn arguments_become_objects() {
        for (arguments, expected) in [
            ("", Some("{}")),
            ("null", Some("{}")),
            (r#" {"a": 1} "#, Some(r#"{"a": 1}"#)),
            ("```json\n{\"a\":1}\n```", Some(r#"{"a":1}"#)),
            (r#""{\"a\":1}""#, Some(r#"{"a":1}"#)),
            (r#""x""#, Some(r#"{"value":"x"}"#)),
            ("[1]", Some(r#"{"value":[1]}"#)),
            (r#"{"a":"#, None),
        ] {
            assert_eq!(object(arguments).as_deref(), expected, "{arguments}");
        }
    }

    #[test]
    fn custom_input_is_unwrapped() {
        for (arguments, expected) in [
            (r#"{"input":"a\nb"}"#, "a\nb"),
            (r#"{"input":{"a":1}}"#, r#"{"a":1}"#),
            (r#"{"other":1}"#, r#"{"other":1}"#),
            ("plain", "plain"),
            (r#"["x"]"#, r#"["x"]"#),
        ] {
            assert_eq!(custom_input(arguments), expected);
        }
    }
}
