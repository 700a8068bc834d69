//! The messages of chat requests that go through: roles, turns and calls as the provider takes them.
//!
//! One pass, borrowed; what is kept of a message is its edits.

use super::super::raw;
use super::super::splice::{Edit, insert_member, span_of};
use super::chat_out::NO_SIGNATURE;
use super::json::push_string;
use super::tools::fit_id;
use crate::limits::REPAIRS_MAX;
use crate::provider::quirks::{ToolIds, Written};
use std::borrow::Cow;

/// What has to change in `messages`, a part of `text`. `no_developer`: that role is not known there. `signature` knows
/// thought signatures by the id of their call.
///
/// Nothing at all if some of it cannot be understood, or more than [`REPAIRS_MAX`] would change: half a repair is none.
pub(super) fn edits(
    text: &str,
    messages: &str,
    written: &Written,
    no_developer: bool,
    signature: &dyn Fn(&str) -> Option<String>,
) -> Vec<Edit> {
    let mut walk = Walk { text, written, no_developer, signature, edits: Vec::new() };
    match walk.messages(messages) {
        Some(()) => walk.edits,
        None => Vec::new(),
    }
}

/// The members of a message that matter. Where `null` is something else than absent, it is kept.
struct Message<'a> {
    raw: &'a str,
    role: &'a str,
    content: Option<&'a str>,
    tool_call_id: Option<&'a str>,
    reasoning_content: Option<&'a str>,
    reasoning: Option<&'a str>,
    /// An array, if it is as it should be.
    tool_calls: Option<&'a str>,
}

impl<'a> Message<'a> {
    fn read(raw: &'a str) -> Option<Self> {
        let keys = ["role", "content", "tool_call_id", "reasoning_content", "reasoning", "tool_calls"];
        let [role, content, tool_call_id, reasoning_content, reasoning, tool_calls] =
            raw::members_and_nulls(raw, &keys).ok()?;
        let given = |value: &&str| *value != "null";
        Some(Self {
            raw,
            role: role.unwrap_or_default(),
            content,
            tool_call_id: tool_call_id.filter(given),
            reasoning_content,
            reasoning,
            tool_calls: tool_calls.filter(given),
        })
    }
}

/// Goes through the messages. `None`: they are not as they should be.
struct Walk<'a> {
    text: &'a str,
    written: &'a Written,
    no_developer: bool,
    signature: &'a dyn Fn(&str) -> Option<String>,
    edits: Vec<Edit>,
}

impl Walk<'_> {
    fn edit(&mut self, edit: Edit) -> Option<()> {
        if self.edits.len() == REPAIRS_MAX {
            return None;
        }
        self.edits.push(edit);
        Some(())
    }

    fn replace(&mut self, value: &str, text: impl Into<String>) -> Option<()> {
        self.edit(Edit { span: span_of(self.text, value)?, text: text.into() })
    }

    fn insert(&mut self, object: &str, member: &str) -> Option<()> {
        let span = span_of(self.text, object)?;
        self.edit(insert_member(self.text.as_bytes(), span, member)?)
    }

    fn messages(&mut self, messages: &str) -> Option<()> {
        let mut after_tool = false;
        for message in raw::elements(messages) {
            let message = Message::read(message.ok()?)?;
            if message.role == "\"developer\"" && self.no_developer {
                self.replace(message.role, "\"system\"")?;
            }
            if after_tool && message.role == "\"user\"" && !self.written.user_after_tool {
                let start = span_of(self.text, message.raw)?.start;
                let text = "{\"role\":\"assistant\",\"content\":\"OK.\"},".to_owned();
                self.edit(Edit { span: start..start, text })?;
            }
            after_tool = message.role == "\"tool\"";
            if let Some(id) = message.tool_call_id.filter(|_| after_tool) {
                self.id(id)?;
            }
            if let Some(calls) = message.tool_calls {
                self.calls(&message, calls)?;
            }
        }
        Some(())
    }

    fn calls(&mut self, message: &Message<'_>, calls: &str) -> Option<()> {
        for (at, call) in raw::elements(calls).enumerate() {
            if at == 0 {
                self.caller(message)?;
            }
            self.call(call.ok()?, at == 0)?;
        }
        Some(())
    }

    /// What a message with calls must have.
    fn caller(&mut self, message: &Message<'_>) -> Option<()> {
        let echoed = match self.written.reasoning_echo {
            Some("reasoning") => message.reasoning,
            _ => message.reasoning_content,
        };
        if let Some(key) = self.written.reasoning_echo.filter(|_| echoed.is_none()) {
            self.insert(message.raw, &format!("\"{key}\":\"\""))?;
        }
        match message.content {
            Some(content) if content == "null" && !self.written.null_content => self.replace(content, "\"\""),
            _ => Some(()),
        }
    }

    /// A call's id and signature; the first call of a turn gets Google's word for an unknown one.
    fn call(&mut self, call: &str, is_first: bool) -> Option<()> {
        let [id, extra] = raw::members_and_nulls(call, &["id", "extra_content"]).ok()?;
        let id = id.filter(|id| *id != "null");
        if let Some(id) = id {
            self.id(id)?;
        }
        if !self.written.thought_signatures || extra.is_some_and(|extra| extra != "null") {
            return Some(());
        }
        let id: Option<Cow<'_, str>> = id.and_then(|id| serde_json::from_str(id).ok());
        let known = id.and_then(|id| (self.signature)(&id));
        let Some(signature) = known.or_else(|| is_first.then(|| NO_SIGNATURE.to_owned())) else {
            return Some(());
        };
        let mut signed = "{\"google\":{\"thought_signature\":".to_owned();
        push_string(&mut signed, &signature);
        signed.push_str("}}");
        match extra {
            Some(null) => self.replace(null, signed),
            None => self.insert(call, &format!("\"extra_content\":{signed}")),
        }
    }

    fn id(&mut self, raw: &str) -> Option<()> {
        if self.written.tool_ids != ToolIds::Nine {
            return Some(());
        }
        let id: Cow<'_, str> = serde_json::from_str(raw).ok()?;
        if let Cow::Owned(fitted) = fit_id(&id, ToolIds::Nine) {
            let mut text = String::new();
            push_string(&mut text, &fitted);
            self.replace(raw, text)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::splice::pieces;
    use super::*;
    use crate::provider::quirks::Quirks;

    fn of(preset: &str, model: &str) -> Quirks {
        Quirks::of(Some(preset), model)
    }

    fn repaired(quirks: &Quirks, messages: &str) -> String {
        let known = |id: &str| (id == "known").then(|| "sig\"1".to_owned());
        let mut edits = edits(messages, messages, &quirks.written, quirks.passing.no_developer, &known);
        let joined = String::from_utf8(pieces(messages.as_bytes(), &mut edits).concat()).unwrap();
        serde_json::from_str::<serde::de::IgnoredAny>(&joined).unwrap_or_else(|e| panic!("{e}: {joined}"));
        joined
    }

    /// `messages` before and after.
    #[track_caller]
    fn check_messages(quirks: &Quirks, messages: &str, expected: &str) {
        assert_eq!(repaired(quirks, messages), expected, "{messages}");
        assert_eq!(repaired(quirks, expected), expected, "once is enough");
    }

    #[test]
    fn roles_and_turns_are_those_that_are_known() {
        let mistral = of("mistral", "m");
        check_messages(
            &mistral,
            r#"[ {"content":"\"developer\"","role": "developer"}, {"role":"user","content":"developer"} ]"#,
            r#"[ {"content":"\"developer\"","role": "system"}, {"role":"user","content":"developer"} ]"#,
        );
        let groq = r#"[{"role":"developer","content":"x"}]"#;
        check_messages(&of("groq", "m"), groq, groq);
        check_messages(
            &mistral,
            r#"[{"role":"assistant","tool_calls":[{"id":"abcdef123"}]},{"role":"tool","tool_call_id":"abcdef123"}, {"role":"user","content":"x"}]"#,
            r#"[{"role":"assistant","tool_calls":[{"id":"abcdef123"}]},{"role":"tool","tool_call_id":"abcdef123"}, {"role":"assistant","content":"OK."},{"role":"user","content":"x"}]"#,
        );
    }

    #[test]
    fn calls_have_what_the_provider_wants_with_them() {
        let long = fit_id("call_1", ToolIds::Nine).into_owned();
        check_messages(
            &of("mistral", "m"),
            r#"[{"role":"assistant","tool_calls":[{"id": "call_1"}]},{"role":"tool","tool_call_id":"call_1"}]"#,
            &format!(
                r#"[{{"role":"assistant","tool_calls":[{{"id": "{long}"}}]}},{{"role":"tool","tool_call_id":"{long}"}}]"#
            ),
        );
        check_messages(
            &of("deepseek", "m"),
            r#"[{"role":"assistant","tool_calls":[{}]},{"role":"assistant","reasoning_content":null,"tool_calls":[{}]},{"role":"assistant","tool_calls":[]}]"#,
            r#"[{"reasoning_content":"","role":"assistant","tool_calls":[{}]},{"role":"assistant","reasoning_content":null,"tool_calls":[{}]},{"role":"assistant","tool_calls":[]}]"#,
        );
        check_messages(
            &of("cloudflare", "m"),
            r#"[{"role":"assistant","content": null,"tool_calls":[{}]},{"role":"assistant","content":null}]"#,
            r#"[{"role":"assistant","content": "","tool_calls":[{}]},{"role":"assistant","content":null}]"#,
        );
        let signed = |signature: &str| {
            format!(r#""extra_content":{{"google":{{"thought_signature":"{signature}"}}}}"#)
        };
        check_messages(
            &of("gemini", "m"),
            r#"[{"tool_calls":[{"id":"a"},{"id":"known"},{"id":"b"}]},{"tool_calls":[ {"id":"c","extra_content":{"google":1}}]},{"tool_calls":[{"extra_content":null}]},{"tool_calls":[{ }]}]"#,
            &format!(
                r#"[{{"tool_calls":[{{{},"id":"a"}},{{{},"id":"known"}},{{"id":"b"}}]}},{{"tool_calls":[ {{"id":"c","extra_content":{{"google":1}}}}]}},{{"tool_calls":[{{{}}}]}},{{"tool_calls":[{{{} }}]}}]"#,
                signed(NO_SIGNATURE),
                signed(r#"sig\"1"#),
                signed(NO_SIGNATURE),
                signed(NO_SIGNATURE)
            ),
        );
    }

    #[test]
    fn what_cannot_be_read_is_left_alone() {
        for messages in [
            r#""tool_calls""#,
            r#"[{"role":"developer","tool_calls":7}]"#,
            r#"[{"role":"developer","tool_calls":[1]}]"#,
            r#"[1,{"role":"developer","tool_calls":[{}]}]"#,
            r#"[{"role":"developer","role":"developer","tool_calls":[{}]}]"#,
        ] {
            for preset in ["mistral", "deepseek"] {
                let mut quirks = of(preset, "m");
                quirks.passing.no_developer = true;
                check_messages(&quirks, messages, messages);
            }
        }
    }

    #[test]
    fn more_places_than_its_limit_are_left_alone() {
        let many = |count| format!("[{}]", vec![r#"{"role":"developer"}"#; count].join(","));
        let mut quirks = of("mistral", "m");
        quirks.passing.no_developer = true;
        check_messages(&quirks, &many(REPAIRS_MAX), &many(REPAIRS_MAX).replace("developer", "system"));
        check_messages(&quirks, &many(REPAIRS_MAX + 1), &many(REPAIRS_MAX + 1));
    }
}
