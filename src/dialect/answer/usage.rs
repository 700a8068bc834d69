//! Token counts: from the names that providers have for them, to those of each protocol (translation §6).

use super::json::count;
use crate::dialect::chat::says_something;
use crate::dialect::model::Usage;
use crate::dialect::raw::members;

/// `usage` of a chat completion; `None` if it says nothing.
///
/// DeepSeek counts hits and misses, Moonshot has `cached_tokens` on top. xAI counts reasoning besides the completion,
/// which the total gives away.
pub fn read_chat(value: Option<&str>) -> Option<Usage> {
    let keys = &[
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
        "prompt_cache_hit_tokens",
        "prompt_cache_miss_tokens",
        "cached_tokens",
    ];
    let [prompt, completion, total, prompt_details, completion_details, hit, miss, cached] =
        members(value.filter(|_| says_something(value))?, keys).ok()?;
    let [cached_part, written, _] = details(prompt_details);
    let [_, _, reasoning] = details(completion_details);
    let hit = count(hit);
    let cache_read = count(cached_part).or(hit).or(count(cached)).unwrap_or(0);
    let input = count(prompt).or_else(|| Some(hit?.saturating_add(count(miss)?))).unwrap_or(0);
    let reasoning = count(reasoning).unwrap_or(0);
    let mut output = count(completion).unwrap_or(0);
    let on_top = input.saturating_add(output).saturating_add(reasoning);
    if reasoning > 0 && count(total) == Some(on_top) {
        output = output.saturating_add(reasoning);
    }
    Some(Usage { input, cache_read, cache_write: count(written).unwrap_or(0), output, reasoning })
}

/// What the details of both sides may hold: cached tokens, those written to a cache, reasoning.
fn details(value: Option<&str>) -> [Option<&str>; 3] {
    let keys = &["cached_tokens", "cache_write_tokens", "reasoning_tokens"];
    value.and_then(|raw| members(raw, keys).ok()).unwrap_or_default()
}

/// Takes `usage` of a message, or of a later event of its stream, over `known`.
///
/// Input may come early or late, and some vendors send zeros at the other place: the larger one counts. Output is
/// cumulative: the later one counts.
pub fn read_messages(value: Option<&str>, known: &mut Usage) {
    let keys = &[
        "input_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "output_tokens",
        "output_tokens_details",
    ];
    let Some([input, written, cached, output, details]) = value.and_then(|raw| members(raw, keys).ok())
    else {
        return;
    };
    let fresh = known.input.saturating_sub(known.cache_read).saturating_sub(known.cache_write);
    let larger = |old: u64, new: Option<&str>| old.max(count(new).unwrap_or(0));
    let fresh = larger(fresh, input);
    known.cache_read = larger(known.cache_read, cached);
    known.cache_write = larger(known.cache_write, written);
    known.input = fresh.saturating_add(known.cache_read).saturating_add(known.cache_write);
    known.output = count(output).unwrap_or(known.output);
    let thought = details.and_then(|raw| members(raw, &["thinking_tokens"]).ok());
    known.reasoning = thought.and_then(|[thought]| count(thought)).unwrap_or(known.reasoning);
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
        let expected = expected.map(|[input, cache_read, cache_write, output, reasoning]| Usage {
            input,
            cache_read,
            cache_write,
            output,
            reasoning,
        });
        assert_eq!(read_chat(Some(json)), expected, "{json}");
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
            read_messages(Some(json), &mut usage);
        }
        let expected = Usage { input: 1004, cache_read: 900, cache_write: 100, output: 7, reasoning: 3 };
        assert_eq!(usage, expected);
        let json = messages_json(usage);
        let mut again = Usage::default();
        read_messages(Some(&json), &mut again);
        assert_eq!(again, expected);
        let json = chat_json(usage);
        assert_eq!(read_chat(Some(&json)), Some(expected));
    }

    #[test]
    fn cached_input_is_never_more_than_all() {
        let usage = Usage { input: 3, cache_read: 5, ..Usage::default() };
        assert!(messages_json(usage).starts_with("{\"input_tokens\":0,"));
    }
}
