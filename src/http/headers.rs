//! Header fields of one message: kept as they came, found by name without regard to case.
//!
//! Refuses to know what a field means; `head` does.

use std::fmt;

use super::head_error::HeadError;
use crate::limits::{HEAD_BYTES_MAX, HEAD_FIELDS_MAX};

// Offsets into a head are kept in 16 bits.
const _: () = assert!(HEAD_BYTES_MAX <= u16::MAX as usize);

/// The fields of one head: a copy of its bytes and, for each field, four offsets into it.
///
/// `Debug` shows names only: values hold API keys.
#[derive(Clone, Default)]
pub struct Headers {
    bytes: Box<[u8]>,
    fields: Box<[Field]>,
}

/// Where one field stands in `Headers::bytes`.
#[derive(Clone, Copy)]
struct Field {
    name_start: u16,
    name_end: u16,
    value_start: u16,
    value_end: u16,
}

impl Headers {
    /// Parses header lines up to and including the empty one. `block` holds nothing else and is at most
    /// `HEAD_BYTES_MAX` long; its line ends have been checked to be CRLF.
    pub(super) fn parse(block: &[u8]) -> Result<Self, HeadError> {
        let mut slots = [httparse::EMPTY_HEADER; HEAD_FIELDS_MAX];
        let parsed = match httparse::parse_headers(block, &mut slots) {
            Ok(httparse::Status::Complete((end, parsed))) if end == block.len() => parsed,
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyFields),
            _ => return Err(HeadError::FieldLine),
        };
        let fields = parsed
            .iter()
            .map(|field| {
                let name = span(block, field.name.as_bytes())?;
                let value = if field.value.is_empty() { (0, 0) } else { span(block, field.value)? };
                Some(Field { name_start: name.0, name_end: name.1, value_start: value.0, value_end: value.1 })
            })
            .collect::<Option<_>>()
            .ok_or(HeadError::TooLarge)?;
        Ok(Self { bytes: block.into(), fields })
    }

    /// Value of the first field of that name, without surrounding white space.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let mut fields = &*self.fields;
        while let Some((field, behind)) = fields.split_first() {
            if self.is_named(field, name) {
                return Some(self.slice(field.value_start, field.value_end));
            }
            fields = behind;
        }
        None
    }

    /// As `get`; `None` also if the value is not UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// Values of all fields of that name, in order.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |field| self.is_named(field, name))
            .map(|field| self.slice(field.value_start, field.value_end))
    }

    /// A head is asked for some twenty names, and few are as long as the one that is asked for.
    #[inline(always)]
    fn is_named(&self, field: &Field, name: &str) -> bool {
        usize::from(field.name_end - field.name_start) == name.len()
            && is_same(self.slice(field.name_start, field.name_end), name.as_bytes())
    }

    #[inline(always)]
    fn slice(&self, start: u16, end: u16) -> &[u8] {
        self.bytes.get(start.into()..end.into()).unwrap_or_default()
    }

    /// All fields in order, names as they were written.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|field| {
            // Always a token, so always UTF-8.
            let name = std::str::from_utf8(self.slice(field.name_start, field.name_end)).unwrap_or_default();
            (name, self.slice(field.value_start, field.value_end))
        })
    }

    /// Whether `token` is a member of the comma list that all fields of that name make together (RFC 9110 §5.6.1).
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(|&b| b == b','))
            .any(|member| member.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

/// Offsets of `part`, which is a slice of `whole`.
fn span(whole: &[u8], part: &[u8]) -> Option<(u16, u16)> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    Some((start.try_into().ok()?, start.checked_add(part.len())?.try_into().ok()?))
}

/// Writes one header line. Can never write a second one, nor end the head: a control character in `value` becomes a
/// space, and a field whose name is not a token (RFC 9110 §5.6.2) is left out.
pub fn push_header(out: &mut Vec<u8>, name: &str, value: &str) {
    if !is_token(name.as_bytes()) {
        return;
    }
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    match super::position(value.as_bytes(), |b| b.is_ascii_control()) {
        None => out.extend_from_slice(value.as_bytes()),
        Some(_) => out.extend(value.bytes().map(|b| if b.is_ascii_control() { b' ' } else { b })),
    }
    out.extend_from_slice(b"\r\n");
}

/// Two names without regard to case.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let (mut rest, mut others) = (a, b);
    while let (Some((a, behind_a)), Some((b, behind_b))) = (rest.split_first(), others.split_first()) {
        if a != b && (a ^ b != 0x20 || !a.is_ascii_alphabetic()) {
            return false;
        }
        (rest, others) = (behind_a, behind_b);
    }
    a.len() == b.len()
}

/// RFC 9110 §5.6.2, `token`.
pub(super) fn is_token(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some((byte, behind)) = rest.split_first() {
        if !is_token_byte(*byte) {
            return false;
        }
        rest = behind;
    }
    !text.is_empty()
}

/// RFC 9110 §5.6.2, `tchar`.
#[inline(always)]
pub(super) fn is_token_byte(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'#'..=b'\'' | b'!' | b'*' | b'+' | b'-' | b'.' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(block: &str) -> Headers {
        Headers::parse(block.as_bytes()).unwrap()
    }

    #[test]
    fn fields_are_found_by_name() {
        let headers =
            headers("Host: a\r\nX-One:  1 \t\r\nx-one:2\r\nEmpty:\r\nBlank: \t \r\nBad: \u{e9}\r\n\r\n");
        assert_eq!(headers.get("HOST"), Some(&b"a"[..]));
        assert_eq!(headers.get_str("x-ONE"), Some("1"));
        assert_eq!(headers.all("x-one").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(headers.get_str("empty"), Some(""));
        assert_eq!(headers.get_str("blank"), Some(""));
        assert_eq!(headers.get_str("bad"), Some("é"));
        assert_eq!(headers.get("hos"), None);
        let names: Vec<_> = headers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["Host", "X-One", "x-one", "Empty", "Blank", "Bad"]);
    }

    #[test]
    fn names_and_tokens_agree_with_their_definitions() {
        for a in 0..=255u8 {
            let token = a.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&a);
            assert_eq!(is_token(&[b'a', a]), token, "{a}");
            for b in 0..=255u8 {
                assert_eq!(is_same(&[b'-', a], &[b'-', b]), a.eq_ignore_ascii_case(&b), "{a} {b}");
            }
        }
        assert!(!is_token(b"") && !is_same(b"a", b"") && !is_same(b"", b"a") && is_same(b"", b""));
    }

    #[test]
    fn text_must_be_utf8() {
        let headers = Headers::parse(b"A: \xff\r\n\r\n").unwrap();
        assert_eq!((headers.get("a"), headers.get_str("a")), (Some(&b"\xff"[..]), None));
    }

    #[test]
    fn tokens_are_members_of_a_list() {
        let headers = headers("Connection: close , Upgrade\r\nconnection:\tTE\r\n\r\n");
        for token in ["close", "upgrade", "te"] {
            assert!(headers.has_token("connection", token), "{token}");
        }
        assert!(!headers.has_token("connection", "clos"));
        assert!(!headers.has_token("upgrade", "te"));
    }

    #[test]
    fn debug_output_hides_values() {
        let text = format!("{:?}", headers("Authorization: Bearer sk-secret\r\n\r\n"));
        assert_eq!(text, r#"["Authorization"]"#);
    }

    #[test]
    fn a_written_header_is_one_line() {
        let written = |name, value| {
            let mut out = Vec::new();
            push_header(&mut out, name, value);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written("a-b", "c: d é"), "a-b: c: d é\r\n");
        assert_eq!(written("a", "b\r\nEvil: 1\0\x7f"), "a: b  Evil: 1  \r\n");
        for name in ["", "a b", "a:", "a\r\nb", "é"] {
            assert_eq!(written(name, "x"), "", "{name:?}");
        }
    }
}
