//! Calls of tools that Responses knows without a definition: what their items hold, out of the arguments of the function
//! that stands for them (openai-responses §2).

use super::json::{object, push_member, push_string, text};
use crate::dialect::model::ToolKind;
use crate::dialect::request::compact;
use serde::Deserialize;
use serde_json::value::RawValue;

type Raw<'a> = Option<&'a RawValue>;

#[derive(Default, Deserialize)]
struct Arguments<'a> {
    #[serde(borrow, default)]
    command: Raw<'a>,
    #[serde(borrow, default)]
    commands: Raw<'a>,
    #[serde(borrow, default)]
    env: Raw<'a>,
    #[serde(borrow, default)]
    timeout_ms: Raw<'a>,
    #[serde(borrow, default)]
    working_directory: Raw<'a>,
    #[serde(borrow, default)]
    max_output_length: Raw<'a>,
}

/// The `action` or `operation` of a call, as a JSON member. What a model got wrong must not break the client, which then
/// has nothing to run; but nothing is run that is not sure.
pub(super) fn member(kind: ToolKind, arguments: &str) -> String {
    let object = object(arguments);
    // A frame is one line.
    let object = &*compact(object.as_deref().unwrap_or("{}"));
    let read: Arguments<'_> = serde_json::from_str(object).unwrap_or_default();
    match kind {
        ToolKind::ApplyPatch => operation(object, arguments),
        ToolKind::LocalShell => {
            let command = match text(read.command) {
                // As shells are called by Codex itself.
                Some(line) => list(&["bash", "-lc", &line]),
                None => array(read.command).to_owned(),
            };
            let env = read.env.map(RawValue::get).filter(|env| env.starts_with('{')).unwrap_or("{}");
            let mut out = format!("\"action\":{{\"type\":\"exec\",\"command\":{command},\"env\":{env}");
            if let Some(time) = number(read.timeout_ms) {
                out.extend([",\"timeout_ms\":", time]);
            }
            if let Some(place) = text(read.working_directory) {
                out.push(',');
                push_member(&mut out, "working_directory", &place);
            }
            out + "}"
        }
        _ => {
            let commands = match text(read.commands.or(read.command)) {
                Some(line) => list(&[&line]),
                None => array(read.commands).to_owned(),
            };
            let (time, length) = (number(read.timeout_ms), number(read.max_output_length));
            let (time, length) = (time.unwrap_or("null"), length.unwrap_or("null"));
            format!(
                "\"action\":{{\"commands\":{commands},\"timeout_ms\":{time},\"max_output_length\":{length}}}"
            )
        }
    }
}

/// What is no operation becomes one that no file fits: the client tells the model.
fn operation(object: &str, arguments: &str) -> String {
    #[derive(Deserialize)]
    struct Operation<'a> {
        #[serde(borrow, rename = "type")]
        _type: &'a RawValue,
        #[serde(borrow, rename = "path")]
        _path: &'a RawValue,
    }
    if serde_json::from_str::<Operation<'_>>(object).is_ok() {
        return format!("\"operation\":{object}");
    }
    let mut out = String::from("\"operation\":{\"type\":\"update_file\",\"path\":\"\",");
    push_member(&mut out, "diff", arguments);
    out + "}"
}

fn number(raw: Raw<'_>) -> Option<&str> {
    raw.map(RawValue::get).filter(|raw| raw.starts_with(|c: char| c.is_ascii_digit()))
}

/// An array of texts; anything else is an empty one.
fn array<'a>(raw: Raw<'a>) -> &'a str {
    let raw = raw.map_or("[]", RawValue::get);
    if serde_json::from_str::<Vec<&RawValue>>(raw)
        .is_ok_and(|all| all.iter().all(|it| text(Some(it)).is_some()))
    {
        return raw;
    }
    "[]"
}

fn list(texts: &[&str]) -> String {
    let mut out = String::from("[");
    for (at, text) in texts.iter().enumerate() {
        out.push_str(if at == 0 { "" } else { "," });
        push_string(&mut out, text);
    }
    out + "]"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_the_shape_that_clients_run() {
        for (kind, arguments, expected) in [
            (
                ToolKind::LocalShell,
                r#"{"type":"exec","command":["ls","-l"],"working_directory":"/t","timeout_ms":5}"#,
                r#""action":{"type":"exec","command":["ls","-l"],"env":{},"timeout_ms":5,"working_directory":"/t"}"#,
            ),
            (
                ToolKind::LocalShell,
                r#"{"command":"ls \"x\"","env":{"A":"b"},"timeout_ms":"5"}"#,
                r#""action":{"type":"exec","command":["bash","-lc","ls \"x\""],"env":{"A":"b"}}"#,
            ),
            (ToolKind::LocalShell, r#"{"command":[1]}"#, r#""action":{"type":"exec","command":[],"env":{}}"#),
            (ToolKind::LocalShell, "rm -rf", r#""action":{"type":"exec","command":[],"env":{}}"#),
            (
                ToolKind::Shell,
                r#"{"commands":["a","b"],"timeout_ms":7,"max_output_length":9}"#,
                r#""action":{"commands":["a","b"],"timeout_ms":7,"max_output_length":9}"#,
            ),
            (
                ToolKind::Shell,
                r#"{"commands":"a"}"#,
                r#""action":{"commands":["a"],"timeout_ms":null,"max_output_length":null}"#,
            ),
            (ToolKind::Shell, "", r#""action":{"commands":[],"timeout_ms":null,"max_output_length":null}"#),
            (
                ToolKind::ApplyPatch,
                "{\"type\":\"create_file\",\n \"path\":\"a\",\"diff\":\"+x\"}",
                r#""operation":{"type":"create_file","path":"a","diff":"+x"}"#,
            ),
            (
                ToolKind::ApplyPatch,
                "*** Begin \"",
                r#""operation":{"type":"update_file","path":"","diff":"*** Begin \""}"#,
            ),
        ] {
            assert_eq!(member(kind, arguments), expected, "{kind:?} {arguments}");
        }
    }
}
