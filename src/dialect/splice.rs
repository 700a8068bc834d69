//! Replacing spans of a JSON text and leaving every other byte alone.
//!
//! Same protocol on both sides means that nobody re-serialises: unknown fields, key order, big numbers and odd
//! escapes survive because only the spans named here change.

use std::ops::Range;

/// One replaced span of a text. An empty span inserts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Byte range in the text.
    pub span: Range<usize>,
    /// What stands there instead.
    pub text: String,
}

/// The pieces of `body` with `edits` applied, in order; joined they are the new text.
///
/// Edits must not overlap; they may come in any order. An edit outside the body, or one that overlaps an earlier
/// one, is left out rather than trusted.
pub fn pieces<'a>(body: &'a [u8], edits: &'a mut [Edit]) -> Vec<&'a [u8]> {
    edits.sort_by_key(|edit| edit.span.start);
    let mut out = Vec::with_capacity(edits.len() * 2 + 1);
    let mut at = 0;
    for edit in edits.iter() {
        let (Some(before), true) = (body.get(at..edit.span.start), edit.span.end <= body.len()) else {
            continue;
        };
        out.push(before);
        out.push(edit.text.as_bytes());
        at = edit.span.end;
    }
    out.push(body.get(at..).unwrap_or_default());
    out.retain(|piece| !piece.is_empty());
    out
}

/// Where `part` lies in `whole`, if it is a slice of it.
pub fn span_of(whole: &str, part: &str) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

/// An edit that puts `member` (such as `"key":1`) first into the object at `object`.
///
/// `None` if the text does not begin with `{` (after white space).
pub fn insert_member(text: &[u8], object: Range<usize>, member: &str) -> Option<Edit> {
    let inside = text.get(object.clone())?;
    let brace =
        inside.iter().position(|&b| !is_space(b.into())).filter(|&at| inside.get(at) == Some(&b'{'))?;
    let first = inside.get(brace + 1..)?.iter().find(|&&b| !is_space(b.into()));
    let comma = if first == Some(&b'}') { "" } else { "," };
    let at = object.start + brace + 1;
    Some(Edit { span: at..at, text: format!("{member}{comma}") })
}

/// White space of JSON (RFC 8259 §2), which is less than that of Unicode.
pub fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(body: &str, mut edits: Vec<Edit>) -> String {
        pieces(body.as_bytes(), &mut edits)
            .into_iter()
            .map(|piece| std::str::from_utf8(piece).unwrap())
            .collect()
    }

    fn edit(span: Range<usize>, text: &str) -> Edit {
        Edit { span, text: text.into() }
    }

    #[test]
    fn edits_change_their_span_and_nothing_else() {
        let body = "0123456789";
        for (edits, expected) in [
            (vec![], "0123456789"),
            (vec![edit(0..0, "a")], "a0123456789"),
            (vec![edit(10..10, "a")], "0123456789a"),
            (vec![edit(2..4, "")], "01456789"),
            (vec![edit(6..7, "x"), edit(1..2, "y")], "0y2345x789"),
            (vec![edit(0..10, "all")], "all"),
            (vec![edit(3..4, "a"), edit(4..5, "b")], "012ab56789"),
            (vec![edit(9..11, "beyond")], "0123456789"),
            (vec![edit(2..6, "a"), edit(4..5, "overlaps")], "01a6789"),
        ] {
            assert_eq!(joined(body, edits.clone()), expected, "{edits:?}");
        }
    }

    #[test]
    fn members_go_behind_the_first_brace() {
        for (text, expected) in [
            ("{}", Some(r#"{"k":1}"#)),
            (" \n{ }", Some(" \n{\"k\":1 }")),
            (r#"{"a":2}"#, Some(r#"{"k":1,"a":2}"#)),
            ("[]", None),
            ("", None),
        ] {
            let edit = insert_member(text.as_bytes(), 0..text.len(), r#""k":1"#);
            assert_eq!(edit.map(|edit| joined(text, vec![edit])).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn spans_are_found_only_in_the_same_text() {
        let text = String::from("hello world");
        assert_eq!(span_of(&text, &text[6..]), Some(6..11));
        assert_eq!(span_of(&text, "elsewhere"), None);
    }
}
