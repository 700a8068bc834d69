//! Taking thinking of our own making out of a Messages request that otherwise goes through as it came.
//!
//! Providers that sign their thinking refuse it, and translating the whole request instead would cost its cache marks.

use super::answer::json::text;
use super::model::MARK;
use super::raw::{self, Read};
use super::splice::{Edit, span_of};
use crate::limits::REQUEST_VALUES_MAX;

/// The edits that do it. `None`: it takes more than that, as a message would be left empty, or the model could not
/// go on thinking in a turn whose thinking is gone.
pub fn edits(body: &str) -> Option<Vec<Edit>> {
    if !body.contains(MARK) {
        return Some(Vec::new());
    }
    let [messages, thinking] = raw::members(body, &["messages", "thinking"]).ok()?;
    // Contents, and where the last one of the model is.
    let (mut contents, mut last) = (Vec::new(), None);
    for message in raw::elements(messages?) {
        let [role, content] = raw::members_and_nulls(message.ok()?, &["role", "content"]).ok()?;
        if text(role)? == "assistant" {
            last = Some(contents.len());
        }
        contents.push(content?);
    }
    let mut edits = Vec::new();
    for (at, content) in contents.into_iter().enumerate() {
        // Text cannot hold a block.
        if content.contains(MARK) && content.starts_with('[') {
            edits.extend(edits_of(body, content, thinking.is_some() && last == Some(at))?);
        }
    }
    Some(edits)
}

fn edits_of(body: &str, content: &str, must_think: bool) -> Option<Vec<Edit>> {
    let blocks: Read<Vec<&str>> = raw::elements(content).take(REQUEST_VALUES_MAX).collect();
    // Whoever reads all of it refuses so many.
    let blocks = blocks.ok().filter(|blocks| blocks.len() < REQUEST_VALUES_MAX)?;
    let mut edits = Vec::new();
    let (mut kept, mut calls) = (false, false);
    for (at, raw) in blocks.iter().enumerate() {
        let [kind, signature] = raw::members_and_nulls(raw, &["type", "signature"]).ok()?;
        let (kind, signature) = (text(kind)?, text(signature.or(Some("\"\"")))?);
        calls |= kind == "tool_use";
        let ours = kind == "thinking" && signature.starts_with(MARK);
        kept |= !ours;
        if !ours {
            continue;
        }
        // With the comma before it, or, where nothing is kept before it, the one behind.
        let this = span_of(body, raw)?;
        let span = match kept {
            true => span_of(body, blocks.get(at.checked_sub(1)?)?)?.end..this.end,
            false => this.start..span_of(body, blocks.get(at + 1)?)?.start,
        };
        edits.push(Edit { span, text: String::new() });
    }
    let possible = kept && (edits.is_empty() || !(must_think && calls));
    possible.then_some(edits)
}

#[cfg(test)]
mod tests {
    use super::super::splice::pieces;
    use super::*;

    const OURS: &str = r#"{"type":"thinking","thinking":"t","signature":"aifs-1"}"#;
    const THEIRS: &str = r#"{"type":"thinking","thinking":"t","signature":"x"}"#;
    const TEXT: &str = r#"{"type":"text","text":"aifs-","cache_control":{"type":"ephemeral"}}"#;
    const CALL: &str = r#"{"type":"tool_use","id":"a","name":"f","input":{}}"#;

    fn request(blocks: &[&str], more: &str) -> String {
        let blocks = blocks.join(" , ");
        format!(
            r#"{{"messages":[{{"role":"user","content":"aifs-"}}, {{"role":"assistant","content":[ {blocks} ]}}]{more}}}"#
        )
    }

    #[test]
    fn blocks_of_ours_go_and_everything_else_stays() {
        for (blocks, expected) in [
            (&[TEXT][..], &[TEXT][..]),
            (&[OURS, TEXT], &[TEXT]),
            (&[OURS, OURS, TEXT], &[TEXT]),
            (&[TEXT, OURS], &[TEXT]),
            (&[TEXT, OURS, OURS], &[TEXT]),
            (&[OURS, THEIRS, OURS, TEXT, OURS], &[THEIRS, TEXT]),
        ] {
            let body = request(blocks, "");
            let mut edits = edits(&body).unwrap();
            let joined = pieces(body.as_bytes(), &mut edits).concat();
            assert_eq!(String::from_utf8(joined).unwrap(), request(expected, ""), "{blocks:?}");
        }
    }

    #[test]
    fn some_requests_need_more_than_edits() {
        let thinks = r#","thinking":{"type":"enabled","budget_tokens":1024}"#;
        for (blocks, more, possible) in [
            (&[OURS, CALL][..], "", true),
            (&[OURS, CALL], thinks, false),
            (&[OURS, TEXT], thinks, true),
            (&[THEIRS, TEXT, CALL], thinks, true),
            (&[OURS], "", false),
            (&["1", OURS, TEXT], "", false),
        ] {
            assert_eq!(edits(&request(blocks, more)).is_some(), possible, "{blocks:?}{more}");
        }
        assert_eq!(edits(r#"{"messages":"aifs-"}"#), None);
        for (count, possible) in [(REQUEST_VALUES_MAX - 1, true), (REQUEST_VALUES_MAX, false)] {
            let mut blocks = vec![r#"{"type":""}"#; count];
            blocks[0] = OURS;
            assert_eq!(edits(&request(&blocks, "")).is_some(), possible, "{count} blocks");
        }
        assert_eq!(edits(r#"{"messages":7}"#), Some(Vec::new()), "not ours to judge");
    }
}
