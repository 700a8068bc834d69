//! The stream of a chat completion on its way through: what each chunk means, and how the stream must end.
//!
//! Chunks stay text; the framing around them is somebody else's.

use super::answer::chat_read::thought_signature;
use super::answer::json::some_text;
use super::chat::{Answer, Usage, answer_edit, says_something};
use super::raw::{self, Read};
use super::splice::{Edit, insert_member, is_space, pieces, span_of};
use crate::limits::{ANSWER_CALLS_MAX, ANSWER_CHOICES_MAX};
use std::borrow::Cow;

/// Follows one stream of one backend. Feed every event's data in order, then ask for the end.
#[derive(Debug)]
pub struct ChatStream {
    /// `"provider_name":"…"` as JSON, or nothing.
    provider_json: Option<String>,
    model_json: String,
    /// Whether the client asked for the usage chunk; otherwise it is kept from it.
    include_usage: bool,
    content: bool,
    tools: bool,
    finished: bool,
    done: bool,
    usage: Option<Usage>,
    /// `"id":…,"created":…,"model":…` of the first chunk, for a chunk of our own.
    identity: String,
    spliced: String,
}

/// What an event of the provider's stream means.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Goes to the client with this data. `content` is true if it says something (text, reasoning, tool call).
    Forward {
        /// The chunk, our fields added.
        data: &'a str,
        /// Whether this chunk may commit the stream.
        content: bool,
    },
    /// Not for this client: the usage chunk it did not ask for, or what follows the end.
    Hide,
    /// `[DONE]`.
    Done,
    /// An error of the provider, in place of a chunk or inside one. The data tells which.
    Error,
    /// Not JSON. One bad line does not end a stream.
    Malformed,
}

/// The provider's stream ended before its answer did.
#[derive(Debug, PartialEq, Eq)]
pub struct Truncated;

/// Length of an id or model that is remembered for a chunk of our own, in bytes; longer ones are not.
const IDENTITY_VALUE_BYTES_MAX: usize = 256;

impl ChatStream {
    /// `provider_json` and `model_json` are JSON texts, quotes included.
    pub fn new(provider_json: Option<&str>, model_json: &str, include_usage: bool) -> Self {
        Self {
            provider_json: provider_json.map(str::to_owned),
            model_json: model_json.to_owned(),
            include_usage,
            content: false,
            tools: false,
            finished: false,
            done: false,
            usage: None,
            identity: String::new(),
            spliced: String::new(),
        }
    }

    /// The usage the provider has told so far.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Whether something has been said.
    pub fn has_content(&self) -> bool {
        self.content
    }

    /// Whether the answer is complete: a finish reason or `[DONE]` has come.
    pub fn is_finished(&self) -> bool {
        self.finished || self.done
    }

    /// Reads one event.
    pub fn event<'a>(&'a mut self, name: &str, data: &'a str) -> Step<'a> {
        let data = data.trim_matches(is_space);
        if self.done || data.is_empty() {
            return Step::Hide;
        }
        if data == "[DONE]" {
            self.done = true;
            return Step::Done;
        }
        if name == "error" {
            return Step::Error;
        }
        let Ok(chunk) = Answer::read(data) else { return Step::Malformed };
        if chunk.is_error() {
            return Step::Error;
        }
        let choices = chunk.choices.unwrap_or_default();
        if !choices.any && says_something(chunk.usage) {
            return self.usage_chunk(data, &chunk);
        }
        self.content |= choices.content;
        self.tools |= choices.calls;
        self.finished |= choices.finished;
        self.usage = Usage::read(chunk.usage).or(self.usage);
        self.forward(data, &chunk, choices.content)
    }

    fn usage_chunk<'a>(&'a mut self, data: &'a str, chunk: &Answer<'a>) -> Step<'a> {
        self.usage = Usage::read(chunk.usage).or(self.usage);
        if self.include_usage { self.forward(data, chunk, false) } else { Step::Hide }
    }

    fn forward<'a>(&'a mut self, data: &'a str, chunk: &Answer<'a>, content: bool) -> Step<'a> {
        if self.identity.is_empty() && says_something(chunk.id) {
            self.remember(chunk);
        }
        let provider = self.provider_json.as_deref().filter(|_| chunk.provider_name.is_none());
        if provider.is_none() && chunk.model.is_some() {
            return Step::Forward { data, content };
        }
        self.spliced.clear();
        let rest = data.strip_prefix('{').unwrap_or(data);
        self.spliced.push('{');
        let comma = if rest.trim_start_matches(is_space).starts_with('}') { "" } else { "," };
        if let Some(provider) = provider {
            let comma = if chunk.model.is_none() { "," } else { comma };
            self.spliced.extend(["\"provider_name\":", provider, comma]);
        }
        if chunk.model.is_none() {
            self.spliced.extend(["\"model\":", &self.model_json, comma]);
        }
        self.spliced.push_str(rest);
        Step::Forward { data: &self.spliced, content }
    }

    fn remember<'a>(&mut self, chunk: &Answer<'a>) {
        let known = |value: Option<&'a str>| {
            value.filter(|raw| *raw != "null" && raw.len() <= IDENTITY_VALUE_BYTES_MAX)
        };
        let id = known(chunk.id).unwrap_or("\"\"");
        let created = known(chunk.created).unwrap_or("0");
        let model = known(chunk.model).unwrap_or(&self.model_json);
        self.identity = format!(
            "\"id\":{id},\"object\":\"chat.completion.chunk\",\"created\":{created},\"model\":{model}"
        );
    }

    /// What the client is still owed at a good end ([`Self::check_end`]): always `[DONE]`, and before it a finish
    /// reason if the provider forgot one, as helpers of the official SDKs refuse a stream without (openai-chat §5).
    pub fn end(&mut self) -> Vec<String> {
        let mut owed = Vec::new();
        if !self.finished && self.content {
            let reason = if self.tools { "tool_calls" } else { "stop" };
            let provider = match &self.provider_json {
                Some(json) => format!("\"provider_name\":{json},"),
                None => String::new(),
            };
            let identity = match self.identity.as_str() {
                "" => format!(
                    "\"id\":\"\",\"object\":\"chat.completion.chunk\",\"created\":0,\"model\":{}",
                    self.model_json
                ),
                identity => identity.to_owned(),
            };
            owed.push(format!(
                "{{{provider}{identity},\"choices\":[{{\"index\":0,\"delta\":{{}},\"logprobs\":null,\"finish_reason\":\"{reason}\"}}]}}"
            ));
        }
        owed.push("[DONE]".into());
        owed
    }

    /// Whether the provider's body may end here. `framed` tells that its end was marked (length or last chunk), so
    /// that nothing can be missing behind it.
    ///
    /// # Errors
    /// [`Truncated`] if the answer may be half: no `[DONE]`, no finish reason, and either no mark or a tool call
    /// whose arguments may go on.
    pub fn check_end(&self, framed: bool) -> Result<(), Truncated> {
        let complete = self.is_finished() || (framed && !self.tools);
        if complete { Ok(()) } else { Err(Truncated) }
    }
}

/// A whole answer as the chunks it would have come in: for providers that answer a stream request with one.
///
/// `None` if it is no chat completion, or has more choices than [`ANSWER_CHOICES_MAX`] or more calls than
/// [`ANSWER_CALLS_MAX`]. The last one is `[DONE]`.
pub fn whole_as_chunks(text: &str) -> Option<Vec<String>> {
    let keys = &["id", "created", "model", "choices", "usage"];
    let [id, created, model, choices, usage] = raw::members(text, keys).ok()?;
    let mut identity = format!(
        "\"id\":{},\"object\":\"chat.completion.chunk\",\"created\":{}",
        id.unwrap_or("\"\""),
        created.unwrap_or("0")
    );
    if let Some(model) = model {
        identity = format!("{identity},\"model\":{model}");
    }
    let mut deltas = Vec::new();
    let mut ends = Vec::new();
    for (index, choice) in raw::elements(choices?).enumerate() {
        if index == ANSWER_CHOICES_MAX {
            return None;
        }
        let keys = &["message", "finish_reason", "logprobs"];
        let [message, reason, logprobs] = raw::members(choice.ok()?, keys).ok()?;
        let delta = with_call_indexes(message.unwrap_or("{}"))?;
        let logprobs = logprobs.unwrap_or("null");
        deltas.push(format!(
            "{{\"index\":{index},\"delta\":{delta},\"logprobs\":{logprobs},\"finish_reason\":null}}"
        ));
        let reason = reason.unwrap_or("\"stop\"");
        ends.push(format!(
            "{{\"index\":{index},\"delta\":{{}},\"logprobs\":null,\"finish_reason\":{reason}}}"
        ));
    }
    let chunk = |choices: &[String]| format!("{{{identity},\"choices\":[{}]}}", choices.join(","));
    let mut chunks = vec![chunk(&deltas), chunk(&ends)];
    if let Some(usage) = usage {
        chunks.push(format!("{{{identity},\"choices\":[],\"usage\":{usage}}}"));
    }
    chunks.push("[DONE]".into());
    Some(chunks)
}

/// Tool calls of a whole message have no `index`; in a delta it is what tells them apart. `None`: they are too many.
fn with_call_indexes(message: &str) -> Option<String> {
    let calls = raw::members(message, &["tool_calls"]).ok().and_then(|[calls]| calls);
    let calls: Read<Vec<&str>> = raw::elements(calls.unwrap_or("[]")).take(ANSWER_CALLS_MAX + 1).collect();
    let calls = Some(calls.unwrap_or_default()).filter(|calls| calls.len() <= ANSWER_CALLS_MAX)?;
    let calls = calls.into_iter().enumerate();
    let mut edits: Vec<_> = calls.filter_map(|(n, call)| index(message, call, n)).collect();
    let bytes = pieces(message.as_bytes(), &mut edits).concat();
    String::from_utf8(bytes).ok()
}

/// The edit that gives the `n`th call its `index`, if it has none.
fn index(message: &str, call: &str, n: usize) -> Option<Edit> {
    let [index] = raw::members_and_nulls(call, &["index"]).ok()?;
    match index {
        None => insert_member(message.as_bytes(), span_of(message, call)?, &format!("\"index\":{n}")),
        Some(null @ "null") => Some(Edit { span: span_of(message, null)?, text: n.to_string() }),
        Some(_) => None,
    }
}

/// Hands on Gemini's thought signatures of a chunk or a whole answer, each with the id of its call.
pub fn thought_signatures(data: &str, take: &mut dyn FnMut(&str, &str)) {
    if !data.contains("\"thought_signature\"") {
        return;
    }
    // None of an answer that makes no sense somewhere.
    for (id, signature) in signed_calls(data).unwrap_or_default() {
        take(&id, &signature);
    }
}

/// An id and a signature.
type Signed<'a> = (Cow<'a, str>, Cow<'a, str>);

fn signed_calls(data: &str) -> Read<Vec<Signed<'_>>> {
    let mut signed = Vec::new();
    let [choices] = raw::members(data, &["choices"])?;
    for choice in raw::elements(choices.unwrap_or("[]")) {
        for said in raw::members(choice?, &["delta", "message"])?.into_iter().flatten() {
            let [calls] = raw::members(said, &["tool_calls"])?;
            for call in raw::elements(calls.unwrap_or("[]")) {
                let [id, extra] = raw::members(call?, &["id", "extra_content"])?;
                signed.extend(some_text(id).zip(thought_signature(extra)));
            }
        }
    }
    Ok(signed)
}

/// Our fields for a whole answer: the text with `provider_name` and a missing `model` added.
pub fn whole_with_fields(text: String, provider_json: Option<&str>, model_json: &str) -> Vec<u8> {
    let edit = answer_edit(&text, provider_json, model_json);
    edited(text, edit)
}

/// The text with one edit.
pub fn edited(text: String, edit: Option<Edit>) -> Vec<u8> {
    match edit {
        Some(edit) => pieces(text.as_bytes(), &mut [edit]).concat(),
        None => text.into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: &str = r#"{"id":"c1","object":"chat.completion.chunk","created":7,"model":"m","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}"#;

    fn stream(include_usage: bool) -> ChatStream {
        ChatStream::new(Some(r#""p""#), r#""backend-m""#, include_usage)
    }

    #[test]
    fn each_event_means_one_thing() {
        let role =
            r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
        for (name, data, expected) in [
            ("", CHUNK, "content"),
            ("", role, "start"),
            ("", r#"{"model":"m","choices":[]}"#, "start"),
            ("", r#"{"model":"m","choices":[{"delta":{"reasoning":"hm"}}]}"#, "content"),
            ("", r#"{"model":"m","choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#, "content"),
            ("", r#"{"model":"m","choices":[],"usage":{"prompt_tokens":1}}"#, "hide"),
            ("", r#"{"model":"m","usage":{"prompt_tokens":1}}"#, "hide"),
            ("", "[DONE]", "done"),
            ("", " [DONE] ", "done"),
            ("", "", "hide"),
            ("", r#"{"error":{"message":"x"}}"#, "error"),
            ("error", r#"{"message":"x"}"#, "error"),
            (
                "",
                r#"{"model":"m","choices":[{"delta":{"content":""},"finish_reason":"error"}],"error":{"code":502}}"#,
                "error",
            ),
            ("", r#"[{"error":{"code":429}}]"#, "error"),
            ("", r#"{"detail":"no"}"#, "error"),
            ("", r#"{"success":false,"errors":[{"code":1}]}"#, "error"),
            ("", r#"{"some":"extension"}"#, "start"),
            ("", r#"{"choices":[{"delta":{"content":"#, "malformed"),
            ("", "<html>", "malformed"),
        ] {
            let mut stream = stream(false);
            let step = match stream.event(name, data) {
                Step::Forward { content: true, .. } => "content",
                Step::Forward { content: false, .. } => "start",
                Step::Hide => "hide",
                Step::Done => "done",
                Step::Error => "error",
                Step::Malformed => "malformed",
            };
            assert_eq!(step, expected, "{name} {data}");
        }
    }

    #[test]
    fn chunks_get_our_fields_and_keep_every_other_byte() {
        let mut s = stream(false);
        let Step::Forward { data, .. } = s.event("", CHUNK) else { panic!("a chunk goes on") };
        assert_eq!(data, CHUNK.replacen('{', r#"{"provider_name":"p","#, 1));
        let Step::Forward { data, .. } = s.event("", r#"{ "choices":[]}"#) else { panic!("a chunk goes on") };
        assert_eq!(data, r#"{"provider_name":"p","model":"backend-m", "choices":[]}"#);
        let Step::Forward { data, .. } = s.event("", "{ }") else { panic!("a chunk goes on") };
        assert_eq!(data, r#"{"provider_name":"p","model":"backend-m" }"#);
        let mut plain = ChatStream::new(None, r#""backend-m""#, false);
        assert_eq!(plain.event("", CHUNK), Step::Forward { data: CHUNK, content: true });
    }

    #[test]
    fn thought_signatures_are_found_with_their_call() {
        let call = |id: &str, extra: &str| format!(r#"{{"id":{id},"function":{{"name":"f"}}{extra}}}"#);
        let signed = r#","extra_content":{"google":{"thought_signature":"s\n1"}}"#;
        let other = r#","extra_content":{"google":{"thought":"\"thought_signature\""}}"#;
        for key in ["delta", "message"] {
            let calls = [
                call("\"a\"", signed),
                call("\"b\"", ""),
                call("\"\"", signed),
                call("null", signed),
                call("\"c\"", other),
            ];
            let data = format!(r#"{{"choices":[{{"{key}":{{"tool_calls":[{}]}}}}]}}"#, calls.join(","));
            let mut found = Vec::new();
            thought_signatures(&data, &mut |id, signature| found.push((id.to_owned(), signature.to_owned())));
            assert_eq!(found, [("a".to_owned(), "s\n1".to_owned())], "{key}");
        }
        thought_signatures(r#"{"thought_signature""#, &mut |_, _| panic!("no signature is there"));
    }

    #[test]
    fn a_null_model_gets_no_second_one() {
        let data = r#"{"id":"c","model":null,"choices":[{"delta":{"content":"a"}}]}"#;
        let expected = r#"{"provider_name":"p","id":"c","model":null,"choices":[{"delta":{"content":"a"}}]}"#;
        let mut s = stream(false);
        assert_eq!(s.event("", data), Step::Forward { data: expected, content: true });
        assert!(s.end()[0].contains(r#""model":"backend-m""#), "our own chunk names one");
    }

    #[test]
    fn usage_is_shown_to_those_who_asked() {
        let usage = r#"{"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
        for asked in [true, false] {
            let mut s = stream(asked);
            assert_eq!(matches!(s.event("", usage), Step::Forward { content: false, .. }), asked);
            assert_eq!(s.usage(), Some(Usage { prompt_tokens: Some(3), completion_tokens: Some(4) }));
        }
    }

    #[test]
    fn nothing_follows_done() {
        let mut s = stream(true);
        assert_eq!(s.event("", "[DONE]"), Step::Done);
        assert_eq!(s.event("", CHUNK), Step::Hide);
        assert_eq!(s.event("", "[DONE]"), Step::Hide);
    }

    #[test]
    fn the_end_is_complete_or_truncated() {
        let finish = r#"{"model":"m","choices":[{"delta":{},"finish_reason":"stop"}]}"#;
        let tool = r#"{"model":"m","choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#;
        let made_up = |reason: &str| {
            format!(
                r#"{{"provider_name":"p","id":"c1","object":"chat.completion.chunk","created":7,"model":"m","choices":[{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"{reason}"}}]}}"#
            )
        };
        for (events, framed, expected) in [
            (vec![CHUNK, finish, "[DONE]"], false, Some(vec!["[DONE]".to_owned()])),
            (vec![CHUNK, finish], false, Some(vec!["[DONE]".to_owned()])),
            (vec![CHUNK, "[DONE]"], false, Some(vec![made_up("stop"), "[DONE]".to_owned()])),
            (vec![CHUNK], true, Some(vec![made_up("stop"), "[DONE]".to_owned()])),
            (vec![CHUNK], false, None),
            (vec![CHUNK, tool], true, None),
            (vec![CHUNK, tool, "[DONE]"], true, Some(vec![made_up("tool_calls"), "[DONE]".to_owned()])),
        ] {
            let mut s = stream(false);
            for event in &events {
                s.event("", event);
            }
            let end = s.check_end(framed).ok().map(|()| s.end());
            assert_eq!(end, expected, "{events:?} {framed}");
        }
    }

    #[test]
    fn a_whole_answer_becomes_chunks() {
        let whole = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"x","tool_calls":[{"id":"a"},{"id":"b","index":5},{"index":null}]},"logprobs":{"content":[]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":1}}"#;
        let identity = r#""id":"c","object":"chat.completion.chunk","created":1,"model":"m""#;
        assert_eq!(
            whole_as_chunks(whole).unwrap(),
            [
                format!(
                    r#"{{{identity},"choices":[{{"index":0,"delta":{{"role":"assistant","content":"x","tool_calls":[{{"index":0,"id":"a"}},{{"id":"b","index":5}},{{"index":2}}]}},"logprobs":{{"content":[]}},"finish_reason":null}}]}}"#
                ),
                format!(
                    r#"{{{identity},"choices":[{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"tool_calls"}}]}}"#
                ),
                format!(r#"{{{identity},"choices":[],"usage":{{"prompt_tokens":1}}}}"#),
                "[DONE]".to_owned(),
            ]
        );
        assert_eq!(whole_as_chunks(r#"{"error":{}}"#), None);
        for (count, expected) in [(ANSWER_CHOICES_MAX, true), (ANSWER_CHOICES_MAX + 1, false)] {
            let whole = format!(r#"{{"choices":[{}]}}"#, vec![r#"{"message":{}}"#; count].join(","));
            assert_eq!(whole_as_chunks(&whole).is_some(), expected, "{count} choices");
        }
        for (count, expected) in [(ANSWER_CALLS_MAX, true), (ANSWER_CALLS_MAX + 1, false)] {
            let calls = vec!["{}"; count].join(",");
            let whole = format!(r#"{{"choices":[{{"message":{{"tool_calls":[{calls}]}}}}]}}"#);
            assert_eq!(whole_as_chunks(&whole).is_some(), expected, "{count} calls");
        }
    }
}
