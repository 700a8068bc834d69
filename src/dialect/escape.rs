//! Writing strings of JSON (RFC 8259 §7), eight bytes at a time.

/// Writes `text` as a JSON string.
pub fn push_string(out: &mut String, text: &str) {
    out.push('"');
    push_inside(out, text);
    out.push('"');
}

/// The same without the quotes, for a string put together from several texts.
pub fn push_inside(out: &mut String, text: &str) {
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
            Some(control) => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
}

/// Where the first byte is that needs an escape: `"`, `\` or a control character.
fn special(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    let (words, tail) = text.as_chunks::<8>();
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word;
    for (count, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        // The high bit of each such byte; false ones only behind a true one.
        let found = (has_zero(word ^ (ONES * 0x22)) | has_zero(word ^ (ONES * 0x5c)) | control) & HIGHS;
        if found != 0 {
            return Some(count * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let at = tail.iter().position(|&b| b < 0x20 || b == b'"' || b == b'\\')?;
    Some(words.len() * 8 + at)
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
