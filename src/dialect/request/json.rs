//! Writing JSON text, and looking at JSON text without a tree. Knows no protocol.

use super::super::splice::is_space;
use super::super::text::Text;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The empty parameter list: a tool that takes nothing.
pub(super) const NO_PARAMETERS: &str = r#"{"type":"object","properties":{}}"#;

pub(super) use super::super::escape::{push_inside, push_string};

use super::super::escape::special;

/// An object under construction: members in the order they are added.
pub(super) struct Members<'o> {
    out: &'o mut String,
    empty: bool,
}

impl<'o> Members<'o> {
    /// Opens an object.
    pub(super) fn open(out: &'o mut String) -> Self {
        out.push('{');
        Self { out, empty: true }
    }

    /// A key, which needs no escapes; its value is to be appended to what comes back.
    pub(super) fn key(&mut self, key: &'static str) -> &mut String {
        self.out.push_str(if self.empty { "\"" } else { ",\"" });
        self.empty = false;
        self.out.push_str(key);
        self.out.push_str("\":");
        self.out
    }

    /// For the rest of a value that is written piece by piece.
    pub(super) fn more(&mut self) -> &mut String {
        self.out
    }

    pub(super) fn text(&mut self, key: &'static str, text: &str) {
        push_string(self.key(key), text);
    }

    pub(super) fn said(&mut self, key: &'static str, text: &Text<'_>) {
        let out = self.key(key);
        out.push('"');
        text.push_inside(out);
        out.push('"');
    }

    /// A member whose value is JSON already.
    pub(super) fn raw(&mut self, key: &'static str, json: &str) {
        self.key(key).push_str(json);
    }

    /// The same under a name that is not ours alone, such as one of the config.
    pub(super) fn named(&mut self, name: &str, json: &str) {
        if !std::mem::replace(&mut self.empty, false) {
            self.out.push(',');
        }
        push_string(self.out, name);
        self.out.extend([":", json]);
    }

    pub(super) fn close(self) {
        self.out.push('}');
    }
}

/// Texts as one string; `between` them stands as it is, escaped already.
pub(super) fn push_joined<'t>(
    out: &mut String,
    between: &str,
    texts: impl IntoIterator<Item = &'t Text<'t>>,
) {
    out.push('"');
    for (at, text) in texts.into_iter().enumerate() {
        out.push_str(if at == 0 { "" } else { between });
        text.push_inside(out);
    }
    out.push('"');
}

/// Whether `text` is one JSON object and nothing else.
pub(super) fn is_object(text: &str) -> bool {
    text.trim_start_matches(is_space).starts_with('{') && serde_json::from_str::<&RawValue>(text).is_ok()
}

/// JSON without the white space between its tokens; `text` must be JSON.
pub(in super::super) fn compact(text: &str) -> Cow<'_, str> {
    let mut out: Option<String> = None;
    let (mut rest, mut kept) = (text.as_bytes(), 0);
    while let Some((&byte, behind)) = rest.split_first() {
        let at = text.len() - rest.len();
        rest = behind;
        if byte == b'"' {
            rest = behind_string(rest);
        } else if is_space(byte.into()) {
            // Both ends lie beside an ASCII byte: a character boundary.
            out.get_or_insert_with(|| String::with_capacity(text.len()))
                .push_str(text.get(kept..at).unwrap_or_default());
            kept = at + 1;
        }
    }
    match out {
        None => Cow::Borrowed(text),
        Some(mut out) => {
            out.push_str(text.get(kept..).unwrap_or_default());
            Cow::Owned(out)
        }
    }
}

/// What is behind a string that has begun.
fn behind_string(text: &[u8]) -> &[u8] {
    let mut rest = text;
    while let Some(at) = special(rest) {
        rest = rest.get(at..).unwrap_or_default();
        match rest {
            [b'\\', _, behind @ ..] => rest = behind,
            [b'"', behind @ ..] => return behind,
            [_, behind @ ..] => rest = behind,
            [] => break,
        }
    }
    &[]
}

/// A call's arguments as an object (translation §5): models and clients put many other things there.
pub(super) fn arguments(text: Cow<'_, str>) -> Cow<'_, str> {
    if is_object(&text) {
        return text;
    }
    let inner = without_fence(text.trim());
    if inner.is_empty() || inner == "null" {
        return Cow::Borrowed("{}");
    }
    if is_object(inner) {
        return Cow::Owned(inner.to_owned());
    }
    if let Ok(unwrapped) = serde_json::from_str::<String>(inner)
        && is_object(&unwrapped)
    {
        return Cow::Owned(unwrapped);
    }
    let mut out = String::with_capacity(inner.len() + 16);
    let mut members = Members::open(&mut out);
    match serde_json::from_str::<&RawValue>(inner) {
        Ok(value) => members.raw("value", value.get()),
        Err(_) => members.text("_raw", &text),
    }
    members.close();
    Cow::Owned(out)
}

/// What stands inside a Markdown code fence, if the text is one.
fn without_fence(text: &str) -> &str {
    let inner = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    inner.map_or(text, |rest| rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).trim())
}

/// A schema that says `"type":"object"`, as Anthropic insists on one.
pub(super) fn object_schema(schema: &str) -> Cow<'_, str> {
    #[derive(Deserialize)]
    struct Top<'a> {
        #[serde(borrow, default)]
        r#type: Option<&'a RawValue>,
    }
    let inside = schema.trim_matches(is_space).strip_prefix('{');
    match (serde_json::from_str::<Top>(schema), inside) {
        (Ok(Top { r#type: None }), Some(inside)) => {
            let comma = if inside.trim_start_matches(is_space).starts_with('}') { "" } else { "," };
            Cow::Owned(format!("{{\"type\":\"object\"{comma}{inside}"))
        }
        _ => Cow::Borrowed(schema),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_what_serde_reads_back() {
        for text in ["", "plain", "a\"b\\c", "\n\r\t\u{1}\u{1f}\u{7f}", "é\"ü\u{2028}🦀\\"] {
            let mut out = String::new();
            push_string(&mut out, text);
            assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text, "{out}");
        }
    }

    #[test]
    fn arguments_become_an_object() {
        for (text, expected) in [
            ("", "{}"),
            ("  ", "{}"),
            ("null", "{}"),
            (r#"{"a":1}"#, r#"{"a":1}"#),
            (r#" {"a": 1}"#, r#" {"a": 1}"#),
            ("```json\n{\"a\":1}\n```", r#"{"a":1}"#),
            (r#""{\"a\":1}""#, r#"{"a":1}"#),
            ("[1]", r#"{"value":[1]}"#),
            ("\"x\"", r#"{"value":"x"}"#),
            ("{\"a\":", r#"{"_raw":"{\"a\":"}"#),
            ("```", r#"{"_raw":"```"}"#),
            ("{\"a\":1} {}", r#"{"_raw":"{\"a\":1} {}"}"#),
        ] {
            assert_eq!(arguments(text.into()), expected, "{text}");
        }
    }

    #[test]
    fn compacting_spares_strings() {
        for (text, expected) in [
            ("{}", "{}"),
            ("{ \"a\" : [ 1,\n2 ] }", "{\"a\":[1,2]}"),
            (r#"{"a b": "c \" d\\" }"#, r#"{"a b":"c \" d\\"}"#),
        ] {
            assert_eq!(compact(text), expected);
        }
    }

    #[test]
    fn a_schema_gets_its_type() {
        for (schema, expected) in [
            ("{}", r#"{"type":"object"}"#),
            (r#"{"type":"object"}"#, r#"{"type":"object"}"#),
            (r#" {"properties":{}}"#, r#"{"type":"object","properties":{}}"#),
        ] {
            assert_eq!(object_schema(schema), expected);
        }
    }
}
