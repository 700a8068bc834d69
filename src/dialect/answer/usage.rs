//! Token counts: from the names that providers have for them, to those of each protocol (translation §6).

use super::json::count;
use crate::dialect::chat::says_something;
use crate::dialect::model::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;

type Raw<'a> = Option<&'a RawValue>;

/// `usage` of a chat completion; `None` if it says nothing.
///
/// DeepSeek counts hits and misses, Moonshot has `cached_tokens` on top. xAI counts reasoning besides the completion,
/// which the total gives away.
pub fn read_chat(value: Option<&RawValue>) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Chat<'a> {
        #[serde(borrow, default)]
        prompt_tokens: Raw<'a>,
        #[serde(borrow, default)]
        completion_tokens: Raw<'a>,
        #[serde(borrow, default)]
        total_tokens: Raw<'a>,
        #[serde(borrow, default)]
        prompt_tokens_details: Raw<'a>,
        #[serde(borrow, default)]
        completion_tokens_details: Raw<'a>,
        #[serde(borrow, default)]
        prompt_cache_hit_tokens: Raw<'a>,
        #[serde(borrow, default)]
        prompt_cache_miss_tokens: Raw<'a>,
        #[serde(borrow, default)]
        cached_tokens: Raw<'a>,
    }
    #[derive(Default, Deserialize)]
    struct Details<'a> {
        #[serde(borrow, default)]
        cached_tokens: Raw<'a>,
        #[serde(borrow, default)]
        cache_write_tokens: Raw<'a>,
        #[serde(borrow, default)]
        reasoning_tokens: Raw<'a>,
    }
    fn details<'a>(value: Raw<'a>) -> Details<'a> {
        object(value).and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default()
    }
    let chat: Chat = serde_json::from_str(object(value).filter(|_| says_something(value))?).ok()?;
    let prompt = details(chat.prompt_tokens_details);
    let hit = count(chat.prompt_cache_hit_tokens);
    let cache_read = count(prompt.cached_tokens).or(hit).or(count(chat.cached_tokens)).unwrap_or(0);
    let input = count(chat.prompt_tokens)
        .or_else(|| Some(hit?.saturating_add(count(chat.prompt_cache_miss_tokens)?)))
        .unwrap_or(0);
    let reasoning = count(details(chat.completion_tokens_details).reasoning_tokens).unwrap_or(0);
    let mut output = count(chat.completion_tokens).unwrap_or(0);
    let on_top = input.saturating_add(output).saturating_add(reasoning);
    if reasoning > 0 && count(chat.total_tokens) == Some(on_top) {
        output = output.saturating_add(reasoning);
    }
    Some(Usage {
        input,
        cache_read,
        cache_write: count(prompt.cache_write_tokens).unwrap_or(0),
        output,
        reasoning,
    })
}

/// Takes `usage` of a message, or of a later event of its stream, over `known`.
///
/// Input may come early or late, and some vendors send zeros at the other place: the larger one counts. Output is
/// cumulative: the later one counts.
pub fn read_messages(value: Option<&RawValue>, known: &mut Usage) {
    #[derive(Deserialize)]
    struct Messages<'a> {
        #[serde(borrow, default)]
        input_tokens: Raw<'a>,
        #[serde(borrow, default)]
        cache_creation_input_tokens: Raw<'a>,
        #[serde(borrow, default)]
        cache_read_input_tokens: Raw<'a>,
        #[serde(borrow, default)]
        output_tokens: Raw<'a>,
        #[serde(borrow, default)]
        output_tokens_details: Raw<'a>,
    }
    #[derive(Deserialize)]
    struct Details<'a> {
        #[serde(borrow, default)]
        thinking_tokens: Raw<'a>,
    }
    let Some(usage) = object(value).and_then(|raw| serde_json::from_str::<Messages>(raw).ok()) else {
        return;
    };
    let fresh = known.input.saturating_sub(known.cache_read).saturating_sub(known.cache_write);
    let larger = |old: u64, new: Raw<'_>| old.max(count(new).unwrap_or(0));
    let fresh = larger(fresh, usage.input_tokens);
    known.cache_read = larger(known.cache_read, usage.cache_read_input_tokens);
    known.cache_write = larger(known.cache_write, usage.cache_creation_input_tokens);
    known.input = fresh.saturating_add(known.cache_read).saturating_add(known.cache_write);
    known.output = count(usage.output_tokens).unwrap_or(known.output);
    let details =
        object(usage.output_tokens_details).and_then(|raw| serde_json::from_str::<Details>(raw).ok());
    known.reasoning = details.and_then(|details| count(details.thinking_tokens)).unwrap_or(known.reasoning);
}

/// serde reads a struct from an array, too: objects only.
fn object(value: Raw<'_>) -> Option<&str> {
    value.map(RawValue::get).filter(|raw| raw.starts_with('{'))
}

/// `usage` of a chat completion.
pub fn chat_json(usage: Usage) -> String {
    let Usage { input, cache_read, cache_write, output, reasoning } = usage;
    let total = input.saturating_add(output);
    let written =
        if cache_write > 0 { format!(",\"cache_write_tokens\":{cache_write}") } else { String::new() };
    let thought = if reasoning > 0 {
        format!(",\"completion_tokens_details\":{{\"reasoning_tokens\":{reasoning}}}")
    } else {
        String::new()
    };
    format!(
        "{{\"prompt_tokens\":{input},\"completion_tokens\":{output},\"total_tokens\":{total},\
         \"prompt_tokens_details\":{{\"cached_tokens\":{cache_read}{written}}}{thought}}}"
    )
}

/// `usage` of a message: `input_tokens` counts what no cache had to do with.
pub fn messages_json(usage: Usage) -> String {
    let Usage { input, cache_read, cache_write, output, reasoning } = usage;
    let fresh = input.saturating_sub(cache_read).saturating_sub(cache_write);
    let thought = if reasoning > 0 {
        format!(",\"output_tokens_details\":{{\"thinking_tokens\":{reasoning}}}")
    } else {
        String::new()
    };
    format!(
        "{{\"input_tokens\":{fresh},\"cache_creation_input_tokens\":{cache_write},\
         \"cache_read_input_tokens\":{cache_read},\"output_tokens\":{output}{thought}}}"
    )
}

/// `usage` of a response; SDKs require both details.
pub fn responses_json(usage: Usage) -> String {
    let Usage { input, cache_read, cache_write, output, reasoning } = usage;
    let total = input.saturating_add(output);
    format!(
        "{{\"input_tokens\":{input},\"input_tokens_details\":{{\"cached_tokens\":{cache_read},\
         \"cache_write_tokens\":{cache_write}}},\"output_tokens\":{output},\
         \"output_tokens_details\":{{\"reasoning_tokens\":{reasoning}}},\"total_tokens\":{total}}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_chat(json: &str, expected: Option<[u64; 5]>) {
        let raw: &RawValue = serde_json::from_str(json).unwrap();
        let expected = expected.map(|[input, cache_read, cache_write, output, reasoning]| Usage {
            input,
            cache_read,
            cache_write,
            output,
            reasoning,
        });
        assert_eq!(read_chat(Some(raw)), expected, "{json}");
    }

    #[test]
    fn every_providers_names_are_known() {
        check_chat("null", None);
        check_chat("{}", None);
        check_chat("[1]", None);
        check_chat(r#"{"prompt_tokens":3,"completion_tokens":4}"#, Some([3, 0, 0, 4, 0]));
        check_chat(
            r#"{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":2}}"#,
            Some([9, 4, 2, 0, 0]),
        );
        check_chat(r#"{"prompt_cache_hit_tokens":4,"prompt_cache_miss_tokens":5}"#, Some([9, 4, 0, 0, 0]));
        check_chat(r#"{"prompt_tokens":9,"cached_tokens":4}"#, Some([9, 4, 0, 0, 0]));
        check_chat(
            r#"{"prompt_tokens":20,"completion_tokens":7,"total_tokens":57,"completion_tokens_details":{"reasoning_tokens":30}}"#,
            Some([20, 0, 0, 37, 30]),
        );
        check_chat(
            r#"{"prompt_tokens":20,"completion_tokens":37,"total_tokens":57,"completion_tokens_details":{"reasoning_tokens":30}}"#,
            Some([20, 0, 0, 37, 30]),
        );
        check_chat(
            r#"{"prompt_tokens":null,"completion_tokens":"x","completion_tokens_details":null,"cost":0.1}"#,
            Some([0; 5]),
        );
    }

    #[test]
    fn late_message_usage_wins_where_it_is_larger() {
        let mut usage = Usage::default();
        for json in [
            r#"{"input_tokens":4,"cache_creation_input_tokens":100,"cache_read_input_tokens":900,"output_tokens":1}"#,
            r#"{"output_tokens":5}"#,
            r#"{"input_tokens":0,"output_tokens":7,"output_tokens_details":{"thinking_tokens":3}}"#,
            "null",
        ] {
            let raw: &RawValue = serde_json::from_str(json).unwrap();
            read_messages(Some(raw), &mut usage);
        }
        let expected = Usage { input: 1004, cache_read: 900, cache_write: 100, output: 7, reasoning: 3 };
        assert_eq!(usage, expected);
        let json = messages_json(usage);
        let raw: &RawValue = serde_json::from_str(&json).unwrap();
        let mut again = Usage::default();
        read_messages(Some(raw), &mut again);
        assert_eq!(again, expected);
        let json = chat_json(usage);
        let raw: &RawValue = serde_json::from_str(&json).unwrap();
        assert_eq!(read_chat(Some(raw)), Some(expected));
    }

    #[test]
    fn cached_input_is_never_more_than_all() {
        let usage = Usage { input: 3, cache_read: 5, ..Usage::default() };
        assert!(messages_json(usage).starts_with("{\"input_tokens\":0,"));
    }
}
