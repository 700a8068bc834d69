//! Calls of tools that Responses knows without a definition: what their items hold, out of the arguments of the function
//! that stands for them (openai-responses §2).

use super::json::{object, push_member, push_string, text};
use crate::dialect::model::ToolKind;
use crate::dialect::raw;
use crate::dialect::request::compact;

/// The `action` or `operation` of a call, as a JSON member. What a model got wrong must not break the client, which then
/// has nothing to run; but nothing is run that is not sure.
pub(super) fn member(kind: ToolKind, arguments: &str) -> String {
    let object = object(arguments);
    // A frame is one line.
    let object = &*compact(object.as_deref().unwrap_or("{}"));
    let keys = &["command", "commands", "env", "timeout_ms", "working_directory", "max_output_length"];
    let [command, commands, env, time, place, length] = raw::members(object, keys).unwrap_or_default();
    match kind {
        ToolKind::ApplyPatch => operation(object, arguments),
        ToolKind::LocalShell => {
            let command = match text(command) {
                // As shells are called by Codex itself.
                Some(line) => list(&["bash", "-lc", &line]),
                None => array(command).to_owned(),
            };
            let env = env.filter(|env| env.starts_with('{')).unwrap_or("{}");
            let mut out = format!("\"action\":{{\"type\":\"exec\",\"command\":{command},\"env\":{env}");
            if let Some(time) = number(time) {
                out.extend([",\"timeout_ms\":", time]);
            }
            if let Some(place) = text(place) {
                out.push(',');
                push_member(&mut out, "working_directory", &place);
            }
            out + "}"
        }
        _ => {
            let commands = match text(commands.or(command)) {
                Some(line) => list(&[&line]),
                None => array(commands).to_owned(),
            };
            let (time, length) = (number(time), number(length));
            let (time, length) = (time.unwrap_or("null"), length.unwrap_or("null"));
            format!(
                "\"action\":{{\"commands\":{commands},\"timeout_ms\":{time},\"max_output_length\":{length}}}"
            )
        }
    }
}

/// What is no operation becomes one that no file fits: the client tells the model.
fn operation(object: &str, arguments: &str) -> String {
    if let Ok([Some(_), Some(_)]) = raw::members_and_nulls(object, &["type", "path"]) {
        return format!("\"operation\":{object}");
    }
    let mut out = String::from("\"operation\":{\"type\":\"update_file\",\"path\":\"\",");
    push_member(&mut out, "diff", arguments);
    out + "}"
}

fn number(value: Option<&str>) -> Option<&str> {
    value.filter(|raw| raw.starts_with(|c: char| c.is_ascii_digit()))
}

/// An array of texts; anything else is an empty one.
fn array(value: Option<&str>) -> &str {
    let all_texts = |list: &&str| raw::elements(list).all(|it| it.is_ok_and(|it| text(Some(it)).is_some()));
    value.filter(all_texts).unwrap_or("[]")
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
