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
        // Most sizes are not known without decoding; this is that of a large picture.
        Part::Image(_) => 1500,
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
