//! OpenAI Chat Completions: the request's few fields that the proxy needs, and whole answers.
//!
//! Everything else stays text: requests and answers pass through, with spans replaced (`splice`).

use super::error::ApiError;
use super::raw::{self, Read, Unread};
use super::request::repair::{Place, Repairs, repairs};
use super::skim::{self, Scan};
use super::splice::{Edit, insert_member, is_space};
use super::top::{Top, flag};
use crate::provider::quirks::Quirks;
use std::ops::Range;

/// What the proxy has to know of a request; spans are byte ranges of the body it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatRequest {
    /// The client's model, trimmed; `None` if it is missing, null or blank.
    pub model: Option<String>,
    /// Whether the client wants an event stream.
    pub stream: bool,
    /// Whether the client itself asked for the usage chunk.
    pub include_usage: bool,
    /// Where the value of `model` stands; `None` if there is no such key.
    model_span: Option<Range<usize>>,
    usage: UsageSwitch,
    places: Vec<Place>,
}

/// How `stream_options.include_usage` can be switched on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum UsageSwitch {
    /// It is on already, or the request is not a stream.
    Nothing,
    /// No `stream_options`: the member goes into the body.
    NoOptions,
    /// `stream_options` is an object without the key.
    NoKey(Range<usize>),
    /// This value has to become another: `null` options or a `false`.
    Replace(Range<usize>, &'static str),
}

const USAGE_OPTIONS: &str = r#"{"include_usage":true}"#;

impl ChatRequest {
    /// Reads a request body. The whole text is checked to be JSON; nothing is kept of it but spans.
    ///
    /// Linear, and not recursive: nesting depth is the provider's business.
    pub fn parse(body: &str) -> Result<Self, ApiError> {
        let top = Top::read(body)?;
        let (model, model_span, stream) = (top.model()?, top.span("model")?, top.stream()?);
        // Without `stream`, providers refuse the options or ignore them: theirs to say.
        let options = top.span("stream_options")?.filter(|_| stream);
        let (usage, include_usage) = match (stream, options) {
            (false, _) => (UsageSwitch::Nothing, false),
            (true, None) => (UsageSwitch::NoOptions, false),
            (true, Some(span)) => usage_switch(body, span)?,
        };
        Ok(Self { model, stream, include_usage, model_span, usage, places: top.places() })
    }

    /// What else has to change for a provider with these quirks; see [`repairs`].
    pub fn repairs(
        &self,
        body: &str,
        quirks: &Quirks,
        signature: &dyn Fn(&str) -> Option<String>,
    ) -> Repairs {
        repairs(body, &self.places, quirks, signature)
    }

    /// The edits that make the body fit a backend: its model, and the usage chunk if it may be asked for.
    ///
    /// `model_json` is the backend's model as JSON text, quotes included.
    pub fn edits(&self, body: &str, model_json: &str, ask_usage: bool) -> Vec<Edit> {
        let mut edits = Vec::with_capacity(2);
        let mut members = String::new();
        match &self.model_span {
            Some(span) => edits.push(Edit { span: span.clone(), text: model_json.to_owned() }),
            None => members = format!("\"model\":{model_json}"),
        }
        match &self.usage {
            UsageSwitch::NoOptions if ask_usage => {
                let comma = if members.is_empty() { "" } else { "," };
                members = format!("{members}{comma}\"stream_options\":{USAGE_OPTIONS}");
            }
            UsageSwitch::NoKey(object) if ask_usage => {
                edits.extend(insert_member(body.as_bytes(), object.clone(), r#""include_usage":true"#));
            }
            UsageSwitch::Replace(span, text) if ask_usage => {
                edits.push(Edit { span: span.clone(), text: (*text).to_owned() });
            }
            _ => {}
        }
        if !members.is_empty() {
            edits.extend(insert_member(body.as_bytes(), 0..body.len(), &members));
        }
        edits
    }
}

/// How the usage chunk can be asked for where `stream_options` stands at `span`, and whether it was.
fn usage_switch(body: &str, span: Range<usize>) -> Result<(UsageSwitch, bool), ApiError> {
    let refuse = |message: &'static str| ApiError::new(400, message).param("stream_options");
    let options = body.get(span.clone()).unwrap_or_default();
    if options == "null" {
        return Ok((UsageSwitch::Replace(span, USAGE_OPTIONS), false));
    }
    let members = skim::members(options).map_err(|_| refuse("`stream_options` must be an object."))?;
    let mut found = members.iter().filter(|member| member.key == "include_usage");
    let Some(member) = found.next() else { return Ok((UsageSwitch::NoKey(span), false)) };
    if found.next().is_some() {
        return Err(refuse("`stream_options` names a key twice."));
    }
    match flag(options.get(member.value.clone())) {
        None => Err(refuse("`stream_options.include_usage` must be true or false.")),
        Some(true) => Ok((UsageSwitch::Nothing, true)),
        Some(false) => {
            let place = span.start + member.value.start..span.start + member.value.end;
            Ok((UsageSwitch::Replace(place, "true"), false))
        }
    }
}

/// Tokens of an answer as the provider counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input, cached part included.
    pub prompt_tokens: Option<u64>,
    /// Output, reasoning included (at most providers).
    pub completion_tokens: Option<u64>,
}

impl Usage {
    /// `None` if it is no object, or counts in anything but whole numbers.
    pub(super) fn read(value: Option<&str>) -> Option<Self> {
        let [prompt, completion] = raw::members(value?, &["prompt_tokens", "completion_tokens"]).ok()?;
        let count = |value: Option<&str>| value.map(str::parse).transpose().ok();
        Some(Self { prompt_tokens: count(prompt)?, completion_tokens: count(completion)? })
    }
}

/// What a whole answer turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// It says something.
    Content(Option<Usage>),
    /// A proper answer without text, tool call or reasoning.
    Empty(Option<Usage>),
    /// JSON, but an error or something else that is no chat completion.
    Error,
    /// Not JSON.
    Garbled,
}

/// The fields of an answer or a chunk that decide; leaves stay raw, so that no vendor's types can break the read.
#[derive(Default)]
pub(super) struct Answer<'a> {
    pub(super) choices: Option<Choices>,
    error: Option<&'a str>,
    base_resp: Option<&'a str>,
    /// Errors of FastAPI (`detail`), Cloudflare (`errors`), Mistral and others (`message`).
    foreign: [Option<&'a str>; 3],
    /// The whole text was an array: Gemini's error shape.
    is_array: bool,
    pub(super) usage: Option<&'a str>,
    pub(super) id: Option<&'a str>,
    pub(super) created: Option<&'a str>,
    /// A null stays: a second `model` beside it would be refused by strict readers.
    pub(super) model: Option<&'a str>,
    pub(super) provider_name: Option<&'a str>,
}

/// What the choices of an answer or a chunk say together.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Choices {
    /// There is at least one.
    pub(super) any: bool,
    /// One has a message, and no mere delta.
    whole: bool,
    error: bool,
    pub(super) finished: bool,
    pub(super) content: bool,
    /// Tool calls are content, too.
    pub(super) calls: bool,
}

impl Choices {
    fn read(scan: &mut Scan<'_>) -> Read<Self> {
        let (mut all, mut list) = (Self::default(), raw::List::default());
        while list.next(scan)? {
            all.any = true;
            let keys = &["finish_reason", "error"];
            let [finish, error] = raw::object_with(scan, keys, &["message", "delta"], &mut |at, scan| {
                all.whole |= at == 0;
                all.message(scan)
            })?;
            all.finished |= says_something(finish);
            all.error |= says_something(error);
        }
        Ok(all)
    }

    /// Reads a message or a delta: the carriers of content (openai-chat §2, §6).
    fn message(&mut self, scan: &mut Scan<'_>) -> Read<()> {
        const CARRIERS: [&str; 9] = [
            "tool_calls",
            "function_call",
            "content",
            "reasoning_content",
            "reasoning",
            "reasoning_details",
            "refusal",
            "audio",
            "images",
        ];
        let [call, old_call, texts @ ..] = raw::object(scan, &CARRIERS)?;
        let calls = says_something(call) || says_something(old_call);
        self.calls |= calls;
        self.content |= calls || texts.into_iter().any(says_something);
        Ok(())
    }
}

/// Whether a raw value is there and not null, `""`, `[]` or `{}`.
pub(super) fn says_something(value: Option<&str>) -> bool {
    let Some(raw) = value else { return false };
    match raw.as_bytes() {
        b"null" | b"\"\"" | b"false" => false,
        [b'[' | b'{', inner @ .., _] => !inner.iter().all(|&b| is_space(b.into())),
        _ => true,
    }
}

impl<'a> Answer<'a> {
    pub(super) fn read(text: &'a str) -> Read<Self> {
        if text.trim_start_matches(is_space).starts_with('[') {
            return Ok(Self { is_array: true, ..Self::default() });
        }
        raw::read(text, Self::object)
    }

    fn object(scan: &mut Scan<'a>) -> Read<Self> {
        const KEYS: [&str; 10] = [
            "id",
            "created",
            "model",
            "usage",
            "provider_name",
            "error",
            "base_resp",
            "detail",
            "errors",
            "message",
        ];
        let mut choices = None;
        let [id, created, model, usage, provider_name, error, base_resp, foreign @ ..] =
            raw::object_and_nulls(scan, &KEYS, &["choices"], &mut |_, scan| {
                choices = Some(Choices::read(scan)?);
                Ok(())
            })?;
        let is_array = false;
        Ok(Self { choices, error, base_resp, foreign, is_array, usage, id, created, model, provider_name })
    }

    /// An error beside or instead of choices: at the top, in a choice (OpenRouter), or MiniMax's `base_resp`.
    pub(super) fn is_error(&self) -> bool {
        says_something(self.error)
            || self.base_resp.is_some_and(is_bad_base)
            || self.choices.is_some_and(|choices| choices.error)
            || (self.choices.is_none() && self.is_foreign_error())
    }

    fn is_foreign_error(&self) -> bool {
        self.is_array || self.foreign.into_iter().any(says_something)
    }

    /// Whether it is a chat completion, and no chunk of a stream or completion of a text. One without choices may be
    /// an empty answer.
    fn is_whole(&self) -> bool {
        self.choices.is_some_and(|choices| !choices.any || choices.whole)
    }

    fn judge(&self) -> Whole {
        let usage = Usage::read(self.usage);
        match () {
            () if self.is_error() || !self.is_whole() => Whole::Error,
            () if self.has_content() => Whole::Content(usage),
            () => Whole::Empty(usage),
        }
    }

    fn edit(&self, text: &str, provider_json: Option<&str>, model_json: &str) -> Option<Edit> {
        let provider = provider_json.filter(|_| self.provider_name.is_none());
        let model = self.model.is_none().then_some(model_json);
        let members = match (provider, model) {
            (None, None) => return None,
            (Some(provider), None) => format!("\"provider_name\":{provider}"),
            (None, Some(model)) => format!("\"model\":{model}"),
            (Some(provider), Some(model)) => format!("\"provider_name\":{provider},\"model\":{model}"),
        };
        insert_member(text.as_bytes(), 0..text.len(), &members)
    }

    pub(super) fn has_content(&self) -> bool {
        self.choices.is_some_and(|choices| choices.content)
    }
}

/// MiniMax's `base_resp`, if it tells of an error.
fn is_bad_base(base: &str) -> bool {
    let status = raw::members(base, &["status_code"]).ok().and_then(|[code]| code?.parse::<i64>().ok());
    status.is_some_and(|status| status != 0)
}

/// Judges a whole answer with a 2xx status.
pub fn judge_whole(text: &str) -> Whole {
    judge_and_edit(text, None, "null").0
}

/// The same and the edit of [`answer_edit`], for which the text is read once.
pub fn judge_and_edit(text: &str, provider_json: Option<&str>, model_json: &str) -> (Whole, Option<Edit>) {
    match Answer::read(text) {
        Ok(answer) => (answer.judge(), answer.edit(text, provider_json, model_json)),
        // A duplicate key or a `choices` of another type is still JSON: somebody else may name the error in it.
        Err(Unread::Misshapen) => (Whole::Error, None),
        Err(Unread::Malformed) => (Whole::Garbled, None),
    }
}

/// The edits that add our fields to an answer or chunk: `provider_name`, and `model` where the provider left it out.
///
/// `provider_json` and `model_json` are JSON texts, quotes included. An answer that already has a `provider_name`
/// (another ai-free-swap behind this one) keeps it: it knows better who answered.
pub fn answer_edit(text: &str, provider_json: Option<&str>, model_json: &str) -> Option<Edit> {
    Answer::read(text).ok()?.edit(text, provider_json, model_json)
}

#[cfg(test)]
mod tests {
    use super::super::splice::pieces;
    use super::*;

    fn spliced(body: &str, ask_usage: bool) -> String {
        let request = ChatRequest::parse(body).unwrap();
        let mut edits = request.edits(body, r#""m-1""#, ask_usage);
        let bytes = pieces(body.as_bytes(), &mut edits).concat();
        String::from_utf8(bytes).unwrap()
    }

    #[track_caller]
    fn check_splice(body: &str, expected: &str) {
        assert_eq!(spliced(body, true), expected);
        serde_json::from_str::<serde::de::IgnoredAny>(expected).unwrap();
    }

    #[test]
    fn only_the_model_changes() {
        check_splice(r#"{"model":"x","a":1}"#, r#"{"model":"m-1","a":1}"#);
        check_splice(
            "{ \"a\" : 12345678901234567890.000 ,\n\"model\"\t: \"x\\n\" , \"b\":\"\\u00e9é\"}",
            "{ \"a\" : 12345678901234567890.000 ,\n\"model\"\t: \"m-1\" , \"b\":\"\\u00e9é\"}",
        );
        check_splice(r#"{"model":null}"#, r#"{"model":"m-1"}"#);
        check_splice(r#"{"mod\u0065l":"x"}"#, r#"{"mod\u0065l":"m-1"}"#);
        check_splice(
            r#"{"messages":[{"model":"inner"}]}"#,
            r#"{"model":"m-1","messages":[{"model":"inner"}]}"#,
        );
        check_splice("{}", r#"{"model":"m-1"}"#);
    }

    #[test]
    fn usage_is_asked_for_in_streams_only() {
        let on = r#""stream_options":{"include_usage":true}"#;
        for (body, expected) in [
            (r#"{"model":"x","stream":true}"#.to_owned(), format!(r#"{{{on},"model":"m-1","stream":true}}"#)),
            (r#"{"stream":true}"#.to_owned(), format!(r#"{{"model":"m-1",{on},"stream":true}}"#)),
            (
                format!(r#"{{"model":"x","stream":true,{on}}}"#),
                format!(r#"{{"model":"m-1","stream":true,{on}}}"#),
            ),
            (
                r#"{"stream_options":{"include_usage":false},"model":"x","stream":true}"#.to_owned(),
                format!(r#"{{{on},"model":"m-1","stream":true}}"#),
            ),
            (
                r#"{"model":"x","stream":true,"stream_options":null}"#.to_owned(),
                format!(r#"{{"model":"m-1","stream":true,{on}}}"#),
            ),
            (
                r#"{"model":"x","stream":true,"stream_options":{"x":1}}"#.to_owned(),
                r#"{"model":"m-1","stream":true,"stream_options":{"include_usage":true,"x":1}}"#.to_owned(),
            ),
            (r#"{"model":"x","stream":false}"#.to_owned(), r#"{"model":"m-1","stream":false}"#.to_owned()),
            (
                r#"{"model":"x","stream_options":{"x":1}}"#.to_owned(),
                r#"{"model":"m-1","stream_options":{"x":1}}"#.to_owned(),
            ),
        ] {
            check_splice(&body, &expected);
        }
        assert_eq!(spliced(r#"{"model":"x","stream":true}"#, false), r#"{"model":"m-1","stream":true}"#);
    }

    #[test]
    fn what_the_client_asked_is_known() {
        let asked =
            |body: &str| ChatRequest::parse(body).map(|r| (r.model, r.stream, r.include_usage)).unwrap();
        assert_eq!(asked(r#"{"model":" x "}"#), (Some("x".into()), false, false));
        assert_eq!(asked(r#"{"model":"  ","stream":null}"#), (None, false, false));
        assert_eq!(asked(r#"{"stream":true,"stream_options":{"include_usage":true}}"#), (None, true, true));
    }

    #[test]
    fn bad_bodies_are_named() {
        for (body, expected) in [
            ("", "The body is empty; it must be a JSON object."),
            (" \n", "The body is empty; it must be a JSON object."),
            (
                "[{\"model\":\"x\"}]",
                "The body is not valid JSON: it must be a JSON object (line 1, column 1).",
            ),
            ("\"x\"", "The body is not valid JSON: it must be a JSON object (line 1, column 1)."),
            ("{", "The body is not valid JSON: expected a key in double quotes (line 1, column 2)."),
            (
                "{\"model\":\"x\",}",
                "The body is not valid JSON: expected a key in double quotes (line 1, column 14).",
            ),
            ("{} x", "The body is not valid JSON: something follows the object (line 1, column 4)."),
            ("{\"model\":1}", "`model` must be a string."),
            ("{\"model\":{}}", "`model` must be a string."),
            ("{\"model\":\"a\",\"model\":\"b\"}", "The body has `model` twice; send it once."),
            ("{\"stream\":\"yes\"}", "`stream` must be true or false."),
            ("{\"stream\":true,\"stream_options\":1}", "`stream_options` must be an object."),
            (
                "{\"stream\":true,\"stream_options\":{\"include_usage\":1}}",
                "`stream_options.include_usage` must be true or false.",
            ),
        ] {
            let error = ChatRequest::parse(body).unwrap_err();
            assert_eq!((error.status, &*error.message), (400, expected), "{body}");
        }
        let many = format!("{{\n{}}}", vec!["\"a\":1"; 1025].join(","));
        assert_eq!(
            ChatRequest::parse(&many).unwrap_err().message,
            "The body has more than 1024 members (line 2, column 6145)."
        );
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let deep = format!(r#"{{"messages":{}{},"model":"x"}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert!(spliced(&deep, true).ends_with(r#","model":"m-1"}"#));
        assert_eq!(judge_whole(&format!("{}{}", "[".repeat(10_000), "]".repeat(10_000))), Whole::Error);
        let answer = format!(
            r#"{{"choices":[{{"message":{{"content":{}{}}}}}]}}"#,
            "[".repeat(10_000),
            "]".repeat(10_000)
        );
        assert_eq!(judge_whole(&answer), Whole::Content(None));
    }

    #[test]
    fn whole_answers_are_judged_by_content() {
        let message = |inner: &str| {
            format!(r#"{{"choices":[{{"index":0,"message":{{"role":"assistant",{inner}}}}}]}}"#)
        };
        let said = Whole::Content(None);
        let empty = Whole::Empty(None);
        for (inner, expected) in [
            (r#""content":"x""#, said),
            (r#""content":null"#, empty),
            (r#""content":"""#, empty),
            (r#""content":[ ]"#, empty),
            (r#""content":"","refusal":null,"tool_calls":[]"#, empty),
            (r#""content":null,"tool_calls":[{}]"#, said),
            (r#""content":"","reasoning_content":"r""#, said),
            (r#""content":"","reasoning":"r""#, said),
            (r#""content":null,"refusal":"no""#, said),
            (r#""content":[{"type":"text"}]"#, said),
        ] {
            assert_eq!(judge_whole(&message(inner)), expected, "{inner}");
        }
        for (text, expected) in [
            (r#"{"choices":[]}"#, empty),
            (r#"{"choices":null}"#, Whole::Error),
            (r#"{"error":{"message":"x"},"choices":[]}"#, Whole::Error),
            (r#"{"error":null,"choices":[{"message":{"content":"x"}}]}"#, said),
            (r#"{"choices":[{"message":{"content":""},"error":{"code":502}}]}"#, Whole::Error),
            (r#"{"base_resp":{"status_code":1008},"choices":null}"#, Whole::Error),
            (r#"{"base_resp":{"status_code":0},"choices":[{"message":{"content":"x"}}]}"#, said),
            (r#"[{"error":{}}]"#, Whole::Error),
            ("{}", Whole::Error),
            ("<html>", Whole::Garbled),
            ("{\"choices\":[", Whole::Garbled),
            ("", Whole::Garbled),
        ] {
            assert_eq!(judge_whole(text), expected, "{text}");
        }
        let usage = Usage { prompt_tokens: Some(3), completion_tokens: Some(4) };
        let text = r#"{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":3,"completion_tokens":4,"x":{}}}"#;
        assert_eq!(judge_whole(text), Whole::Content(Some(usage)));
    }

    #[test]
    fn our_fields_go_first_and_never_twice() {
        let edited = |text: &str, provider: Option<&str>| match answer_edit(text, provider, r#""m""#) {
            Some(edit) => String::from_utf8(pieces(text.as_bytes(), &mut [edit]).concat()).unwrap(),
            None => text.to_owned(),
        };
        let p = Some(r#""p \"1\"""#);
        assert_eq!(edited(r#"{"model":"x"}"#, p), r#"{"provider_name":"p \"1\"","model":"x"}"#);
        assert_eq!(edited(r#"{"id":1}"#, p), r#"{"provider_name":"p \"1\"","model":"m","id":1}"#);
        assert_eq!(edited(r#"{"id":1}"#, None), r#"{"model":"m","id":1}"#);
        assert_eq!(edited(r#"{"model":"x"}"#, None), r#"{"model":"x"}"#);
        assert_eq!(edited(r#"{"model":"x","provider_name":"q"}"#, p), r#"{"model":"x","provider_name":"q"}"#);
        assert_eq!(edited(r#"{"model":null}"#, p), r#"{"provider_name":"p \"1\"","model":null}"#);
        assert_eq!(edited(r#"{"model":null}"#, None), r#"{"model":null}"#);
    }
}
