//! How a conversation began: what its requests have in common, however long it gets. Reads no further than that.

use super::ask::Dialect;
use super::request::messages_in::BILLING;
use super::skim::{self, Scan};
use super::{raw, text::Text};

/// The texts of a request up to the end of the first turn of the user. `None` if there is none.
///
/// Marks for caches wander through a conversation, and are left out; so is what else may look different the next time:
/// a text may be a string or a list of parts. `history` are the items of the response that a Responses request goes on
/// from.
pub fn opening(dialect: Dialect, body: &str, history: &[String]) -> Option<String> {
    let members = skim::members(body).ok()?;
    let member = |key: &str| {
        let value = members.iter().find(|member| member.key == key)?.value.clone();
        body.get(value)
    };
    let (system, turns) = match dialect {
        Dialect::Chat => (None, member("messages")?),
        Dialect::Messages => (member("system"), member("messages")?),
        Dialect::Responses => (member("instructions"), member("input").unwrap_or("[]")),
    };
    let mut text = String::new();
    texts(system.unwrap_or_default(), &mut text)?;
    for item in history {
        texts(item, &mut text)?;
        if is_users(item) {
            return Some(text);
        }
    }
    if turns.starts_with('"') {
        texts(turns, &mut text)?;
        return Some(text);
    }
    for turn in raw::elements(turns) {
        let turn = turn.ok()?;
        texts(turn, &mut text)?;
        if is_users(turn) {
            return Some(text);
        }
    }
    None
}

/// What is no text of a turn.
const MARKS: [&str; 5] = ["cache_control", "id", "role", "status", "type"];

/// Every text in a value, each with an end. `value` is known to be JSON, or is empty.
fn texts(value: &str, out: &mut String) -> Option<()> {
    let mut scan = Scan::new(value);
    while let Some(byte) = scan.peek() {
        if byte != b'"' {
            scan.skip();
            continue;
        }
        let start = scan.at() + 1;
        let escapes = scan.string("expected a string").ok()?;
        let text = Text::of_json(scan.span(start..scan.at() - 1), escapes);
        scan.space();
        match scan.peek() {
            Some(b':') => {
                scan.skip();
                if MARKS.contains(&&*text) {
                    scan.value().ok()?;
                }
            }
            _ if text.starts_with(BILLING) => {}
            _ => {
                out.push_str(&text);
                out.push('\0');
            }
        }
    }
    Some(())
}

fn is_users(turn: &str) -> bool {
    matches!(raw::members(turn, &["role"]), Ok([Some("\"user\"")]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_keeps_its_opening() {
        let chat = |body: &str| opening(Dialect::Chat, body, &[]);
        let first = chat(r#"{"messages":[{"role":"system","content":"S"},{"role":"user","content":"U"}]}"#);
        assert!(first.is_some());
        for (same, body) in [
            (
                true,
                r#"{"messages":[{"role":"system","content":"S"},{"role":"user","content":"U"},{"role":"assistant","content":"A"},{"role":"user","content":"V"}],"temperature":1}"#,
            ),
            (false, r#"{"messages":[{"role":"system","content":"S"},{"role":"user","content":"V"}]}"#),
            (false, r#"{"messages":[{"role":"user","content":"U"}]}"#),
        ] {
            assert_eq!(chat(body) == first, same, "{body}");
        }
        for none in [
            r#"{"messages":[]}"#,
            r#"{"messages":[{"role":"system","content":"S"}]}"#,
            "{}",
            "[",
            "{\"messages\":7}",
        ] {
            assert_eq!(chat(none), None, "{none}");
        }
    }

    #[test]
    fn texts_are_found_wherever_they_stand() {
        for (value, expected) in [
            (r#"{ "role" : "user" , "content" : "a\u00e9" }"#, "a\u{e9}\0"),
            (r#"[{"type":"text","text":"a"},["b",{"x":{"y":"c"}}],1,null,true,"\"d:"]"#, "a\0b\0c\0\"d:\0"),
            (r#"{"cache_control":{"type":"x","y":["z"]},"id":"1","status":"s","a":"b"}"#, "b\0"),
            ("[{},[],\"\"]", "\0"),
            ("", ""),
        ] {
            let mut out = String::new();
            assert_eq!(texts(value, &mut out), Some(()));
            assert_eq!(out, expected, "{value}");
        }
    }

    #[test]
    fn marks_of_caches_do_not_count() {
        let messages = |body: &str| opening(Dialect::Messages, body, &[]);
        let first =
            messages(r#"{"system":"S","messages":[{"role":"user","content":[{"type":"text","text":"U"}]}]}"#);
        let marked = messages(
            r#"{"system":"S","messages":[{"role":"user","content":[{"type":"text","text":"U","cache_control":{"type":"ephemeral"}}]},{"role":"assistant","content":"A"}]}"#,
        );
        assert_eq!(first, marked);
        let plain =
            messages(r#"{"system":[{"type":"text","text":"S"}],"messages":[{"role":"user","content":"U"}]}"#);
        assert_eq!(first, plain, "the mark needs a list of parts, and without it there may be none");
        assert_ne!(
            first,
            messages(r#"{"system":"T","messages":[{"role":"user","content":[{"type":"text","text":"U"}]}]}"#)
        );
    }

    #[test]
    fn a_response_goes_on_with_its_history() {
        let item =
            r#"{"type":"message","role":"user","content":[{"type":"input_text","text":"U"}]}"#.to_owned();
        let open = |body: &str, history: &[String]| opening(Dialect::Responses, body, history);
        let first = open(&format!(r#"{{"instructions":"I","input":[{item}]}}"#), &[]);
        assert!(first.is_some());
        assert_eq!(open(r#"{"instructions":"I","input":"U"}"#, &[]), first, "the short form of the same");
        assert_eq!(open(r#"{"instructions":"I","input":"more"}"#, &[item]), first);
        assert_eq!(open(r#"{"input":"U"}"#, &[]).as_deref(), Some("U\0"));
    }
}
