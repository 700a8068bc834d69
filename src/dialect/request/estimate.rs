//! How many tokens a request may take, where nobody can be asked (translation §11). Rather too many: clients decide
//! by it when to shorten a conversation.

use super::super::model::{Part, Request, Source};

/// Divides by 4, 2 and 7, so that the weights below are whole numbers.
const UNITS_PER_TOKEN: u64 = 56;

/// The estimate, in tokens, rounded up by a tenth.
pub fn input_tokens(request: &Request<'_>) -> u64 {
    let mut tokens = 0u64;
    let mut add = |more: u64| tokens = tokens.saturating_add(more);
    for system in &request.system {
        add(4);
        add(text(system));
    }
    for turn in &request.turns {
        add(4);
        turn.parts.iter().for_each(|part| add(self::part(part)));
    }
    if !request.tools.is_empty() {
        add(300);
    }
    for tool in &request.tools {
        add(8);
        add(text(&tool.name));
        add(text(tool.description.as_deref().unwrap_or_default()));
        add(json(&tool.schema));
    }
    tokens.saturating_add(tokens.div_ceil(10))
}

fn part(part: &Part<'_>) -> u64 {
    match part {
        Part::Text(said) | Part::System(said) | Part::Refusal(said) => text(said),
        Part::Thinking { text: thought, .. } => text(thought),
        Part::RedactedThinking(data) => text(data),
        Part::Image(source) => picture(source),
        Part::Document { source, name } => {
            let name = text(name.as_deref().unwrap_or_default());
            name.saturating_add(match source {
                Source::Base64 { data, .. } => (data.len() as u64).div_ceil(8),
                Source::Url(_) => 1500,
                Source::Text(content) => text(content),
            })
        }
        Part::ToolCall { name, arguments, .. } => text(name).saturating_add(json(arguments)),
        Part::ToolResult { parts, .. } => parts.iter().map(self::part).fold(4, u64::saturating_add),
    }
}

/// By its size, where the first bytes tell it: screenshots are PNG. Otherwise as a large one.
fn picture(source: &Source<'_>) -> u64 {
    let size = match source {
        Source::Base64 { data, .. } => png_size(data),
        _ => None,
    };
    size.map_or(1500, |(width, height)| width.saturating_mul(height).div_ceil(750).clamp(1, 1600))
}

/// Width and height of a PNG in base64 (PNG §11.2.1: bytes 16 to 24).
fn png_size(data: &str) -> Option<(u64, u64)> {
    let head = data.get(..32).filter(|head| head.starts_with("iVBORw0KGgo"))?;
    let mut bytes = Vec::with_capacity(24);
    for four in head.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for byte in four {
            let digit = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(digit);
        }
        bytes.extend_from_slice(bits.to_be_bytes().get(1..)?);
    }
    let number = |at: usize| {
        let four = bytes.get(at..at + 4)?;
        Some(four.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    Some((number(16)?, number(20)?))
}

/// JSON has more punctuation than prose.
fn json(text: &str) -> u64 {
    (text.len() as u64).saturating_mul(2).div_ceil(7)
}

/// By character: ASCII words 4 to a token, other ASCII 2, CJK 1 to 1.5, anything else 2.
fn text(text: &str) -> u64 {
    let units = text.chars().map(|c| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' => UNITS_PER_TOKEN / 4,
        '\0'..='\x7f' => UNITS_PER_TOKEN / 2,
        '\u{2e80}'..='\u{9fff}'
        | '\u{ac00}'..='\u{d7af}'
        | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3ffff}' => UNITS_PER_TOKEN * 6 / 7,
        _ => UNITS_PER_TOKEN / 2,
    });
    units.fold(0, u64::saturating_add).div_ceil(UNITS_PER_TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::request::chat_in;

    #[test]
    fn texts_are_counted_by_their_letters() {
        for (input, expected) in [
            ("", 0),
            ("abcd", 1),
            ("abcde", 2),
            ("{}{}", 2),
            ("日本語日本語日", 6),
            ("éé", 1),
            ("word word wo", 3),
        ] {
            assert_eq!(text(input), expected, "{input}");
        }
    }

    #[test]
    fn a_png_says_its_size() {
        let header = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ";
        assert_eq!(png_size(header), Some((1, 1)));
        for (data, expected) in [
            (header, 1),
            // 1024 × 768.
            ("iVBORw0KGgoAAAANSUhEUgAABAAAAAMACAYAAA", 1049),
            // As large as the numbers get.
            ("iVBORw0KGgoAAAANSUhEUv//////////CAYAAA", 1600),
            ("iVBORw0KGgoAAAANSUhEU", 1500),
            ("iVBORw0KGgoAAAANSUhEUg====AAABCAYAAA", 1500),
            ("/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgI", 1500),
        ] {
            let source = Source::Base64 { media_type: "image/png".into(), data: data.into() };
            assert_eq!(picture(&source), expected, "{data}");
        }
    }

    #[test]
    fn everything_counts() {
        let count = |body: &str| input_tokens(&chat_in::read(body).unwrap().request);
        let plain = count(r#"{"messages":[{"role":"user","content":"Hello there"}]}"#);
        assert_eq!(plain, 8, "4 for the message, 3 for its text, a tenth rounded up");
        for more in [
            r#"{"messages":[{"role":"system","content":"x"},{"role":"user","content":"Hello there"}]}"#,
            r#"{"messages":[{"role":"user","content":"Hello there"},{"role":"assistant","content":"x"}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"Hello there"},{"type":"image_url","image_url":"https://x"}]}]}"#,
            r#"{"messages":[{"role":"user","content":"Hello there"}],"tools":[{"type":"function","function":{"name":"f"}}]}"#,
        ] {
            assert!(count(more) > plain, "{more}");
        }
    }
}
