//! Reading the top level of a JSON object without parsing what is below it.
//!
//! The whole text is checked against the grammar (RFC 8259), once, at a few bytes a cycle: request
//! bodies are hundreds of kilobytes of strings, and nobody here needs what is in them. Not recursive, so nesting
//! costs a bit of memory a level and no stack.

use super::escape::special;
use crate::limits::REQUEST_MEMBERS_MAX;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// One member of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    /// The key, its escapes decoded.
    pub key: Cow<'a, str>,
    /// Where the value stands, white space around it left out.
    pub value: Range<usize>,
}

/// Why a text is not a JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// What was found or missing.
    pub what: &'static str,
    /// Line, from 1.
    pub line: usize,
    /// Column in bytes, from 1.
    pub column: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (line {}, column {})", self.what, self.line, self.column)
    }
}

/// The `what` of a text with more members than [`REQUEST_MEMBERS_MAX`].
pub(super) const TOO_MANY: &str = "too many members";

/// The members of the object that `text` is, in order; duplicates included.
///
/// # Errors
/// The first place at which the text is no JSON object, or has too many members.
pub fn members(text: &str) -> Result<Vec<Member<'_>>, Malformed> {
    let mut scan = Scan::new(text);
    scan.object().map_err(|what| scan.malformed(what))
}

/// A body as text.
///
/// # Errors
/// The first byte that is not UTF-8.
pub fn utf8(body: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(body)
        .map_err(|error| Malformed::at(body, error.valid_up_to(), "a byte that is not UTF-8"))
}

impl Malformed {
    fn at(text: &[u8], at: usize, what: &'static str) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|&&b| b != b'\n').count() + 1;
        Self { what, line, column }
    }
}

/// Walks over JSON text and checks it on the way.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    text: &'a str,
    /// What is ahead. It begins beside an ASCII byte or at an end: at a character boundary.
    rest: &'a [u8],
}

pub(super) type Step<T> = Result<T, &'static str>;

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, rest: text.as_bytes() }
    }

    /// The text between two places.
    #[inline(always)]
    pub(super) fn span(&self, span: Range<usize>) -> &'a str {
        self.text.get(span).unwrap_or_default()
    }

    /// What is wrong here.
    pub(super) fn malformed(&self, what: &'static str) -> Malformed {
        Malformed::at(self.text.as_bytes(), self.at(), what)
    }

    #[inline(always)]
    pub(super) fn at(&self) -> usize {
        self.text.len() - self.rest.len()
    }

    /// Goes on behind a byte that was peeked at.
    #[inline(always)]
    pub(super) fn skip(&mut self) {
        self.go(1);
    }

    #[inline(always)]
    fn go(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// Whether nothing is left but white space.
    pub(super) fn is_at_end(&mut self) -> bool {
        self.space();
        self.rest.is_empty()
    }

    fn object(&mut self) -> Step<Vec<Member<'a>>> {
        let mut members = Vec::new();
        self.space();
        self.take(b'{', "it must be a JSON object")?;
        self.space();
        if self.peek() == Some(b'}') {
            self.skip();
        } else {
            loop {
                if members.len() == REQUEST_MEMBERS_MAX {
                    return Err(TOO_MANY);
                }
                let key = self.key()?;
                let key = decoded(self.span(key));
                self.space();
                let start = self.at();
                self.value()?;
                members.push(Member { key, value: start..self.at() });
                self.space();
                match self.peek() {
                    Some(b',') => self.skip(),
                    Some(b'}') => break self.skip(),
                    _ => return Err("expected `,` or `}`"),
                }
                self.space();
            }
        }
        if self.is_at_end() { Ok(members) } else { Err("something follows the object") }
    }

    #[inline(always)]
    pub(super) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    #[inline(always)]
    pub(super) fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.skip();
        }
    }

    #[inline(always)]
    pub(super) fn take(&mut self, byte: u8, what: &'static str) -> Step<()> {
        if self.peek() != Some(byte) {
            return Err(what);
        }
        self.skip();
        Ok(())
    }

    /// A key and its colon; where the key stands, quotes included.
    pub(super) fn key(&mut self) -> Step<Range<usize>> {
        let start = self.at();
        self.string("expected a key in double quotes")?;
        let end = self.at();
        self.space();
        self.take(b':', "expected `:`")?;
        Ok(start..end)
    }

    /// Any value, with everything in it.
    pub(super) fn value(&mut self) -> Step<()> {
        let mut open = Nesting::default();
        loop {
            self.space();
            match self.peek() {
                Some(b'{') => {
                    self.skip();
                    self.space();
                    open.push(true);
                    if self.peek() != Some(b'}') {
                        self.key()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.skip();
                    self.space();
                    open.push(false);
                    if self.peek() != Some(b']') {
                        continue;
                    }
                }
                Some(b'"') => drop(self.string("expected a string")?),
                Some(b't') => self.word(b"true")?,
                Some(b'f') => self.word(b"false")?,
                Some(b'n') => self.word(b"null")?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(_) => return Err("expected a value"),
                None => return Err("it ends too early"),
            }
            if !self.close(&mut open)? {
                return Ok(());
            }
        }
    }

    /// Behind a value: closes what ends here. `true` if another value follows.
    fn close(&mut self, open: &mut Nesting) -> Step<bool> {
        while let Some(object) = open.top() {
            self.space();
            match (self.peek(), object) {
                (Some(b','), _) => {
                    self.skip();
                    if object {
                        self.space();
                        self.key()?;
                    }
                    return Ok(true);
                }
                (Some(b'}'), true) | (Some(b']'), false) => {
                    self.skip();
                    open.pop();
                }
                (None, _) => return Err("it ends too early"),
                (_, true) => return Err("expected `,` or `}`"),
                (_, false) => return Err("expected `,` or `]`"),
            }
        }
        Ok(false)
    }

    pub(super) fn word(&mut self, word: &[u8]) -> Step<()> {
        if !self.rest.starts_with(word) {
            return Err("expected a value");
        }
        self.go(word.len());
        Ok(())
    }

    pub(super) fn number(&mut self) -> Step<()> {
        const BAD: &str = "malformed number";
        if self.peek() == Some(b'-') {
            self.skip();
        }
        match self.peek() {
            Some(b'0') => self.skip(),
            _ => self.digits(BAD)?,
        }
        if self.peek() == Some(b'.') {
            self.skip();
            self.digits(BAD)?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.skip();
            if let Some(b'+' | b'-') = self.peek() {
                self.skip();
            }
            self.digits(BAD)?;
        }
        // `01`: the digit would be taken for what follows the number.
        if self.peek().is_some_and(|b| b.is_ascii_digit()) { Err(BAD) } else { Ok(()) }
    }

    fn digits(&mut self, what: &'static str) -> Step<()> {
        let start = self.at();
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.skip();
        }
        if self.at() > start { Ok(()) } else { Err(what) }
    }

    /// A string, and whether it has escapes.
    pub(super) fn string(&mut self, what: &'static str) -> Step<bool> {
        self.take(b'"', what)?;
        let mut escapes = false;
        loop {
            let Some(plain) = special(self.rest) else {
                self.rest = &[];
                return Err("a string that does not end");
            };
            self.go(plain);
            match self.peek() {
                Some(b'"') => break self.skip(),
                Some(b'\\') => self.escape()?,
                _ => return Err("a control character in a string; write it as an escape"),
            }
            escapes = true;
        }
        Ok(escapes)
    }

    fn escape(&mut self) -> Step<()> {
        const BAD: &str = "an unknown escape in a string";
        self.skip();
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.skip(),
            Some(b'u') => {
                let digits = self.rest.get(1..5).ok_or(BAD)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(BAD);
                }
                self.go(5);
            }
            _ => return Err(BAD),
        }
        Ok(())
    }
}

/// The text of a key. Half a surrogate pair is good grammar and no text: such a key is none of ours.
fn decoded(raw: &str) -> Cow<'_, str> {
    let inside = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    match inside.contains('\\') {
        false => Cow::Borrowed(inside),
        true => Cow::Owned(serde_json::from_str(raw).unwrap_or_default()),
    }
}

/// Which brackets are open: one bit for each, set for an object.
#[derive(Default)]
struct Nesting {
    /// Of the first 64: few texts are deeper, and this costs no allocation.
    first: u64,
    /// Of those below.
    more: Vec<u64>,
    depth: usize,
}

impl Nesting {
    fn push(&mut self, object: bool) {
        let bit = self.depth % 64;
        let bits = match self.depth / 64 {
            0 => &mut self.first,
            word => {
                if word > self.more.len() {
                    self.more.push(0);
                }
                let Some(bits) = self.more.get_mut(word - 1) else { return };
                bits
            }
        };
        *bits = *bits & !(1 << bit) | u64::from(object) << bit;
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    fn top(&self) -> Option<bool> {
        let last = self.depth.checked_sub(1)?;
        let bits = match last / 64 {
            0 => self.first,
            word => *self.more.get(word - 1)?,
        };
        Some(bits >> (last % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(text: &str) -> Result<Vec<(String, &str)>, Malformed> {
        let found = members(text)?;
        Ok(found.into_iter().map(|member| (member.key.into_owned(), &text[member.value])).collect())
    }

    #[test]
    fn members_are_found_with_the_span_of_their_value() {
        let text = " {\"a\" : [1, {\"b\":\"}\"}] ,\n\"\\u0061\":-0.5e+3,\"\":\"x\\\"\\\\\", \"l\":null } ";
        assert_eq!(
            spans(text).unwrap(),
            [
                ("a".to_owned(), r#"[1, {"b":"}"}]"#),
                ("a".to_owned(), "-0.5e+3"),
                (String::new(), r#""x\"\\""#),
                ("l".to_owned(), "null")
            ]
        );
        assert_eq!(spans("{ }").unwrap(), []);
        let many = |count| format!("{{{}}}", vec!["\"a\":1"; count].join(","));
        assert_eq!(members(&many(REQUEST_MEMBERS_MAX)).map(|found| found.len()), Ok(REQUEST_MEMBERS_MAX));
        assert_eq!(members(&many(REQUEST_MEMBERS_MAX + 1)).map_err(|e| e.what), Err(TOO_MANY));
    }

    #[test]
    fn the_first_fault_is_named_with_its_place() {
        for (text, what, column) in [
            ("", "it must be a JSON object", 1),
            ("[]", "it must be a JSON object", 1),
            ("{", "expected a key in double quotes", 2),
            ("{\"a\"", "expected `:`", 5),
            ("{\"a\":", "it ends too early", 6),
            ("{\"a\":1", "expected `,` or `}`", 7),
            ("{\"a\":1,}", "expected a key in double quotes", 8),
            ("{\"a\":[1,]}", "expected a value", 9),
            ("{\"a\":[1}", "expected `,` or `]`", 8),
            ("{\"a\":{\"b\":1]}", "expected `,` or `}`", 12),
            ("{\"a\":[", "it ends too early", 7),
            ("{\"a\":01}", "malformed number", 7),
            ("{\"a\":1.}", "malformed number", 8),
            ("{\"a\":-}", "malformed number", 7),
            ("{\"a\":tru}", "expected a value", 6),
            ("{\"a\":\"x", "a string that does not end", 8),
            ("{\"a\":\"\\x\"}", "an unknown escape in a string", 8),
            ("{\"a\":\"\\u12g4\"}", "an unknown escape in a string", 8),
            ("{\"a\":\"\n\"}", "a control character in a string; write it as an escape", 7),
            ("{} x", "something follows the object", 4),
            ("{'a':1}", "expected a key in double quotes", 2),
            ("{a:1}", "expected a key in double quotes", 2),
        ] {
            assert_eq!(spans(text), Err(Malformed { what, line: 1, column }), "{text}");
        }
        assert_eq!(spans("{\n\"a\":\n x}").unwrap_err().to_string(), "expected a value (line 3, column 2)");
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_wherever_they_stand() {
        for filler in 0..70 {
            let mut text = format!("{{\"a\":\"{}é", "x".repeat(filler)).into_bytes();
            let at = text.len();
            text.push(0xff);
            text.extend_from_slice(b"yyy\"}");
            let error = utf8(&text).unwrap_err();
            assert_eq!((error.what, error.column), ("a byte that is not UTF-8", at + 1), "{filler}");
        }
        assert!(utf8(b"{\xff}").is_err());
    }

    #[test]
    fn it_agrees_with_another_parser() {
        let texts = [
            r#"{"a":[[],{},[{}],"",0,-1,1e5,1E-5,0.1,true,false,null,{"b":{"c":[1,2,3]}}]}"#,
            r#"{"long":"0123456789abcdef0123456789abcdef0123456789abcdef\n\u00e9\ud83d\ude00é日本語","b":"\\"}"#,
            "{\"a\" :\t1 ,\r\n \"b\":[ ] , \"c\" : { } }",
        ];
        for text in texts {
            // Every cut, and every byte replaced by others, is judged alike.
            for cut in 0..=text.len() {
                check_alike(&text.as_bytes()[..cut]);
            }
            for at in 0..text.len() {
                for byte in
                    [b'"', b'\\', b'{', b'}', b'[', b']', b',', b':', b'0', b'x', b' ', b'\n', 0xff, 0x1f]
                {
                    let mut changed = text.as_bytes().to_vec();
                    changed[at] = byte;
                    check_alike(&changed);
                }
            }
        }
    }

    #[track_caller]
    fn check_alike(text: &[u8]) {
        let object = |text: &str| {
            text.trim_start().starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
        };
        let expected = std::str::from_utf8(text).is_ok_and(object);
        assert_eq!(utf8(text).and_then(members).is_ok(), expected, "{}", String::from_utf8_lossy(text));
    }

    #[test]
    fn nesting_costs_no_stack() {
        let deep = format!("{{\"a\":{}{}}}", "[{\"b\":".repeat(100_000), "}]".repeat(100_000));
        assert_eq!(members(&deep).unwrap_err().what, "expected a value");
        let deep = format!("{{\"a\":{}1{}}}", "[{\"b\":".repeat(100_000), "}]".repeat(100_000));
        assert_eq!(members(&deep).unwrap().len(), 1);
    }
}
