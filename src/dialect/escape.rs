//! Strings of JSON (RFC 8259 §7): what must be escaped, eight bytes at a time, and both ways.

use std::fmt::Write;

/// Writes `text` as a JSON string.
pub fn push_string(out: &mut String, text: &str) {
    out.push('"');
    push_inside(out, text);
    out.push('"');
}

/// The same without the quotes, for a string put together from several texts.
pub fn push_inside(out: &mut String, text: &str) {
    // Most texts need few escapes: one growth instead of several.
    out.reserve(text.len());
    let mut rest = text;
    // All bytes looked for are ASCII, so every cut is a character boundary.
    while let Some(at) = special(rest.as_bytes()) {
        let (plain, after) = rest.split_at(at);
        out.push_str(plain);
        let mut chars = after.chars();
        match chars.next() {
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            // Writing into a `String` cannot fail.
            Some(control) => drop(write!(out, "\\u{:04x}", u32::from(control))),
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
}

/// Where the first byte is that cannot stand for itself in a JSON string: `"`, `\` or a control character.
#[inline(always)]
pub fn special(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    let mut rest = text;
    while let Some((word, behind)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        // With this bit turned, `"` and the control characters are all that is below 0x21: one comparison for both.
        let quote_or_control = (word ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
        let backslash = (word ^ (ONES * 0x5c)).wrapping_sub(ONES);
        // The high bit of each such byte. False ones stand behind a true one, and at what is beyond ASCII.
        let found = (quote_or_control | backslash) & HIGHS;
        if found != 0 && found & !word != 0 {
            return Some(text.len() - rest.len() + (found & !word).trailing_zeros() as usize / 8);
        }
        rest = behind;
    }
    while let Some((byte, behind)) = rest.split_first() {
        if let 0..0x20 | b'"' | b'\\' = byte {
            return Some(text.len() - rest.len());
        }
        rest = behind;
    }
    None
}

/// Resolves the escapes of a JSON string's inside, which the parser has checked. One allocation, where serde's takes
/// four. Half of a surrogate pair becomes U+FFFD: the model wrote it, and everything else is still worth having.
pub fn unescape(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut chars = escape.chars();
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let (c, behind) = unicode(chars.as_str());
                out.push(c);
                rest = behind;
                continue;
            }
            other => out.extend(other),
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    out
}

/// The character of `hhhh` or `hhhh\uhhhh`, and what is behind it.
fn unicode(digits: &str) -> (char, &str) {
    let hex = |text: &str| u32::from_str_radix(text.get(..4)?, 16).ok();
    let behind = digits.get(4..).unwrap_or_default();
    let Some(unit) = hex(digits) else { return (char::REPLACEMENT_CHARACTER, behind) };
    if let (0xd800..=0xdbff, Some(second)) = (unit, behind.strip_prefix("\\u"))
        && let Some(low @ 0xdc00..=0xdfff) = hex(second)
    {
        let pair = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
        let c = char::from_u32(pair).unwrap_or(char::REPLACEMENT_CHARACTER);
        return (c, second.get(4..).unwrap_or_default());
    }
    (char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER), behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_wherever_it_stands() {
        for inside in ["", "\"", "\\", "\n\r\t", "\u{1}\u{1f}", "é", "日本語🙂", "\u{7f}\u{80}", "\\\"\u{0}x"]
        {
            for before in 0..20 {
                for after in [0, 1, 7, 8, 9] {
                    let text = format!("{}{inside}{}", "é".repeat(before), "z".repeat(after));
                    let mut json = String::new();
                    push_string(&mut json, &text);
                    assert_eq!(json, serde_json::to_string(&text).unwrap().replace("\\u007f", "\u{7f}"));
                }
            }
        }
    }
}
