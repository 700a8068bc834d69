//! Writes a Chat Completions request (translation §2, §4) as one provider takes it. The same request gives the same
//! bytes, so that prompt caches stay warm.

use super::super::model::{Effort, Format, Part, Request, Role, Source, Text, Tool, ToolChoice, Turn};
use super::json::{Members, push_inside, push_joined, push_string};
use super::schema::cleaned;
use super::tools::fit_id;
use super::{Target, note, room};
use crate::provider::quirks::{Bounds, EFFORTS, Quirks, ToolChoices};
use std::borrow::Cow;

/// What Google documents for a call whose signature nobody knows.
pub(super) const NO_SIGNATURE: &str = "skip_thought_signature_validator";
/// Longest `user` that OpenAI takes, in characters.
const USER_CHARS_MAX: usize = 64;

/// The request body, and the names of what the provider cannot be told.
pub fn write(request: &Request<'_>, target: &Target<'_>) -> (String, Vec<String>) {
    let mut out = String::with_capacity(room(request));
    let mut dropped = request.dropped.clone();
    let mut body = Members::open(&mut out);
    body.raw("model", target.model_json);
    let mut writer = Writer { quirks: target.quirks, dropped: &mut dropped };
    let system = writer.system(request);
    let messages = body.key("messages");
    messages.push('[');
    writer.messages(messages, &system, &request.turns);
    messages.push(']');
    writer.tools(&mut body, request);
    writer.format(&mut body, &request.format);
    writer.parameters(&mut body, request);
    body.close();
    (out, dropped)
}

struct Writer<'w> {
    quirks: &'w Quirks,
    dropped: &'w mut Vec<String>,
}

/// A piece of a user message.
enum Piece<'p> {
    Text(Text<'p>),
    Image(&'p Source<'p>),
    File { media_type: &'p str, data: &'p str, name: Option<&'p str> },
}

impl<'w> Writer<'w> {
    /// Whether the provider knows a parameter; if not, it is noted.
    fn takes(&mut self, name: &str) -> bool {
        let refused = self.quirks.drop_params.iter().any(|param| param == name);
        if refused {
            note(self.dropped, name);
        }
        !refused
    }

    fn system<'r>(&self, request: &'r Request<'_>) -> Vec<Text<'r>> {
        let mut texts: Vec<Text<'r>> = request.system.iter().map(Text::reborrow).collect();
        let format = self.quirks.written.json_schema && !self.quirks.drop_params.iter().any(is_format);
        let line = match &request.format {
            Format::JsonSchema { schema, .. } if !format => Some(schema_words(schema)),
            Format::JsonObject if self.quirks.drop_params.iter().any(is_format) => {
                Some("Answer with one JSON object only.".to_owned())
            }
            _ => None,
        };
        texts.extend(line.map(Text::from));
        texts
    }

    fn messages(&mut self, out: &mut String, system: &[Text<'_>], turns: &[Turn<'_>]) {
        let mut list = MessageList { out, empty: true };
        if !system.is_empty() {
            push_joined(list.open("system").key("content"), "\\n\\n", system);
            list.close();
        }
        // Kept until something else is said: an assistant turn with nothing left in it vanishes, and its
        // neighbours are one message then.
        let mut user = Vec::new();
        let mut last_is_tool = false;
        for (at, turn) in turns.iter().enumerate() {
            match turn.role {
                Role::User => {
                    for part in &turn.parts {
                        if let Part::ToolResult { id, parts, is_error } = part {
                            let lines = self.result(parts, *is_error, &mut user);
                            let mut message = list.open("tool");
                            message.text("tool_call_id", &fit_id(id, self.quirks.written.tool_ids));
                            push_joined(message.key("content"), "\\n", &lines);
                            list.close();
                            last_is_tool = true;
                        }
                    }
                    for part in &turn.parts {
                        self.piece(part, &mut user);
                    }
                }
                Role::Assistant => {
                    if !turn.parts.iter().any(is_said) {
                        turn.parts.iter().for_each(|part| self.unsaid(part));
                        continue;
                    }
                    self.user(&mut list, &mut user, last_is_tool);
                    last_is_tool = false;
                    self.assistant(&mut list, &turn.parts, at + 1 == turns.len());
                }
            }
        }
        self.user(&mut list, &mut user, last_is_tool);
    }

    fn user<'p>(&mut self, list: &mut MessageList<'_>, pieces: &mut Vec<Piece<'p>>, after_tool: bool) {
        if pieces.is_empty() {
            return;
        }
        if after_tool && !self.quirks.written.user_after_tool {
            list.open("assistant").text("content", "OK.");
            list.close();
        }
        let mut message = list.open("user");
        let content = message.key("content");
        if pieces.iter().all(|piece| matches!(piece, Piece::Text(_))) {
            push_joined(content, "\\n\\n", pieces.iter().filter_map(Piece::as_text));
        } else {
            content.push('[');
            for (at, piece) in pieces.iter().enumerate() {
                if at > 0 {
                    content.push(',');
                }
                piece.write(content);
            }
            content.push(']');
        }
        list.close();
        pieces.clear();
    }

    fn assistant(&mut self, list: &mut MessageList<'_>, parts: &[Part<'_>], is_last: bool) {
        let quirks = &self.quirks.written;
        let texts = parts.iter().filter_map(|part| match part {
            Part::Text(text) | Part::System(text) | Part::Refusal(text) => Some(text),
            _ => None,
        });
        let has_calls = parts.iter().any(|part| matches!(part, Part::ToolCall { .. }));
        let mut message = list.open("assistant");
        if has_calls && quirks.null_content && texts.clone().next().is_none() {
            message.raw("content", "null");
        } else {
            push_joined(message.key("content"), "\\n\\n", texts);
        }
        let thoughts = parts.iter().filter_map(|part| match part {
            Part::Thinking { text, .. } => Some(Text::from(&**text)),
            _ => None,
        });
        match quirks.reasoning_echo {
            // Even if there is none, because the conversation began elsewhere: without the key it is a 400.
            Some(key) if has_calls => {
                push_joined(message.key(key), "\\n\\n", &thoughts.collect::<Vec<_>>());
            }
            _ => parts.iter().for_each(|part| self.unsaid(part)),
        }
        if has_calls {
            self.calls(message.key("tool_calls"), parts);
        } else if let Some(key) = quirks.prefill.filter(|_| is_last) {
            message.raw(key, "true");
        }
        list.close();
    }

    fn calls(&mut self, out: &mut String, parts: &[Part<'_>]) {
        let quirks = &self.quirks.written;
        let mut first = true;
        out.push('[');
        for part in parts {
            let Part::ToolCall { id, name, arguments, signature } = part else { continue };
            let is_first = std::mem::replace(&mut first, false);
            if !is_first {
                out.push(',');
            }
            let mut call = Members::open(out);
            call.text("id", &fit_id(id, quirks.tool_ids));
            call.text("type", "function");
            let mut function = Members::open(call.key("function"));
            function.text("name", name);
            function.text("arguments", arguments);
            function.close();
            let signature = signature.as_deref().or(is_first.then_some(NO_SIGNATURE));
            if let Some(signature) = signature.filter(|_| quirks.thought_signatures) {
                let mut extra = Members::open(call.key("extra_content"));
                let mut google = Members::open(extra.key("google"));
                google.text("thought_signature", signature);
                google.close();
                extra.close();
            }
            call.close();
        }
        out.push(']');
    }

    /// Notes what an assistant turn loses.
    fn unsaid(&mut self, part: &Part<'_>) {
        match part {
            Part::Thinking { .. } => note(self.dropped, "thinking"),
            Part::RedactedThinking(_) => note(self.dropped, "redacted_thinking"),
            _ => {}
        }
    }

    /// The lines of a result. Tool messages carry nothing else: pictures and files go into the user message that
    /// follows.
    fn result<'p>(
        &mut self,
        parts: &'p [Part<'p>],
        is_error: bool,
        user: &mut Vec<Piece<'p>>,
    ) -> Vec<Text<'p>> {
        let mut pieces = Vec::new();
        parts.iter().for_each(|part| self.piece(part, &mut pieces));
        let mut lines: Vec<Text<'p>> = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match piece {
                Piece::Text(text) => lines.push(text),
                other => {
                    let what = if matches!(other, Piece::Image(_)) { "image" } else { "file" };
                    lines.push(format!("[{what} attached in the next message]").into());
                    user.push(other);
                }
            }
        }
        if is_error {
            let says_so = |text: &str| text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("error"));
            match lines.first_mut() {
                Some(first) if says_so(first) => {}
                Some(first) => *first = format!("Error: {}", &**first).into(),
                None => lines.push("Error: ".into()),
            }
        }
        lines
    }

    fn piece<'p>(&mut self, part: &'p Part<'p>, out: &mut Vec<Piece<'p>>) {
        out.push(match part {
            Part::Text(text) | Part::System(text) | Part::Refusal(text) => Piece::Text(text.reborrow()),
            Part::Image(source) => Piece::Image(source),
            Part::Document { source, name } => self.document(source, name.as_deref()),
            _ => return,
        });
    }

    fn document<'p>(&mut self, source: &'p Source<'p>, name: Option<&'p str>) -> Piece<'p> {
        let title = name.unwrap_or("Document");
        match source {
            Source::Text(text) => Piece::Text(format!("{title}:\n{text}").into()),
            Source::Url(url) => Piece::Text(format!("{title}: {url}").into()),
            Source::Base64 { media_type, data } if self.quirks.written.files => {
                Piece::File { media_type, data, name }
            }
            Source::Base64 { media_type, .. } => {
                note(self.dropped, "document");
                Piece::Text(format!("[document left out: {title} ({media_type})]").into())
            }
        }
    }

    fn tools(&mut self, body: &mut Members<'_>, request: &Request<'_>) {
        if request.tools.is_empty() {
            return;
        }
        let choices = self.quirks.written.tool_choice;
        let understood = !self.quirks.drop_params.iter().any(|param| param == "tool_choice");
        // A provider that cannot be told "none" must not see the tools.
        if request.tool_choice == Some(ToolChoice::None) && (choices == ToolChoices::Auto || !understood) {
            note(self.dropped, "tools");
            return;
        }
        let out = body.key("tools");
        out.push('[');
        for (at, tool) in request.tools.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            self.tool(out, tool);
        }
        out.push(']');
        match &request.tool_choice {
            None => {}
            Some(_) if !understood => note(self.dropped, "tool_choice"),
            Some(ToolChoice::Auto) => body.text("tool_choice", "auto"),
            Some(ToolChoice::None) => body.text("tool_choice", "none"),
            Some(_) if choices != ToolChoices::All => note(self.dropped, "tool_choice"),
            Some(ToolChoice::Required) => body.text("tool_choice", "required"),
            Some(ToolChoice::Tool(name)) => {
                let mut choice = Members::open(body.key("tool_choice"));
                choice.text("type", "function");
                let mut function = Members::open(choice.key("function"));
                function.text("name", name);
                function.close();
                choice.close();
            }
        }
        let parallel = if self.quirks.written.single_calls { Some(false) } else { request.parallel_tools };
        if let Some(parallel) = parallel.filter(|_| self.takes("parallel_tool_calls")) {
            body.raw("parallel_tool_calls", if parallel { "true" } else { "false" });
        }
    }

    fn tool(&mut self, out: &mut String, tool: &Tool<'_>) {
        let mut entry = Members::open(out);
        entry.text("type", "function");
        let mut function = Members::open(entry.key("function"));
        function.text("name", &tool.name);
        if let Some(description) = &tool.description {
            function.said("description", description);
        }
        function.raw("parameters", &cleaned(&tool.schema, &self.quirks.written));
        if tool.strict && self.quirks.written.strict {
            function.raw("strict", "true");
        }
        function.close();
        entry.close();
    }

    fn format(&mut self, body: &mut Members<'_>, format: &Format<'_>) {
        if matches!(format, Format::Text) || !self.takes("response_format") {
            return;
        }
        let mut out = Members::open(body.key("response_format"));
        match format {
            Format::JsonSchema { name, schema, strict } if self.quirks.written.json_schema => {
                out.text("type", "json_schema");
                let mut inner = Members::open(out.key("json_schema"));
                inner.text("name", name.as_deref().unwrap_or("output"));
                if *strict {
                    inner.raw("strict", "true");
                }
                inner.raw("schema", &cleaned(schema, &self.quirks.written));
                inner.close();
            }
            _ => out.text("type", "json_object"),
        }
        out.close();
    }

    fn parameters(&mut self, body: &mut Members<'_>, request: &Request<'_>) {
        let quirks = &self.quirks.written;
        let limit = request.max_tokens.or(quirks.max_tokens_default.map(u64::from));
        if let Some(limit) = limit {
            let most = quirks.max_tokens_cap.map_or(u64::MAX, u64::from);
            let newer = self.quirks.max_completion_tokens;
            let name = if newer { "max_completion_tokens" } else { "max_tokens" };
            body.raw(name, &limit.min(most).to_string());
        }
        for (name, value) in
            [("temperature", request.temperature), ("top_p", request.top_p), ("top_k", request.top_k)]
        {
            let Some(value) = value else { continue };
            let bounds = match name {
                "temperature" => quirks.temperature,
                "top_p" => quirks.top_p,
                _ => None,
            };
            if name == "top_k" && !quirks.top_k {
                note(self.dropped, name);
            } else if let Some(nearest) = bounds.and_then(|bounds| nearest(value, bounds)) {
                if self.takes(name) {
                    note(self.dropped, name);
                    body.raw(name, &nearest);
                }
            } else if self.takes(name) {
                body.raw(name, value);
            }
        }
        self.stop(body, &request.stop);
        self.effort(body, request.reasoning.effort);
        if let Some(user) = &request.user {
            // Claude Code puts a JSON document with the ids of device and account there: not for other vendors.
            if user.chars().count() > USER_CHARS_MAX || user.starts_with('{') {
                note(self.dropped, "user");
            } else if self.takes("user") {
                body.text("user", user);
            }
        }
        for (name, value) in &request.chat_only {
            if *name == "n" && !self.quirks.n {
                if *value != "1" {
                    note(self.dropped, "n");
                }
                continue;
            }
            let new = quirks.renamed.iter().find(|(old, _)| old == name).map_or(*name, |(_, new)| &**new);
            let is_there = |name: &str| request.chat_only.iter().any(|(other, _)| *other == name);
            if self.takes(name) && (new == *name || !is_there(new)) {
                body.named(new, value);
            }
        }
        if request.stream {
            body.raw("stream", "true");
            if self.quirks.stream_options {
                body.raw("stream_options", r#"{"include_usage":true}"#);
            }
        }
    }

    fn stop(&mut self, body: &mut Members<'_>, stop: &[Cow<'_, str>]) {
        let sent: Vec<&str> = stop.iter().map(Cow::as_ref).filter(|text| !text.is_empty()).collect();
        if sent.is_empty() || !self.takes("stop") {
            return;
        }
        if sent.len() > self.quirks.written.stop_max {
            note(self.dropped, "stop");
        }
        let out = body.key("stop");
        out.push('[');
        for (at, text) in sent.iter().take(self.quirks.written.stop_max).enumerate() {
            if at > 0 {
                out.push(',');
            }
            push_string(out, text);
        }
        out.push(']');
    }

    fn effort(&mut self, body: &mut Members<'_>, effort: Option<Effort>) {
        let Some(effort) = effort else { return };
        match clamped(effort, &self.quirks.written.efforts) {
            Some(word) if self.takes("reasoning_effort") => body.text("reasoning_effort", word),
            Some(_) => {}
            None => note(self.dropped, "reasoning_effort"),
        }
    }
}

/// A schema that the answer must fit, in words.
pub(super) fn schema_words(schema: &str) -> String {
    format!("Answer with one JSON object only. It must fit this JSON schema:\n{schema}")
}

pub(super) fn is_format(param: &String) -> bool {
    param == "response_format"
}

/// The number that is taken in place of one out of bounds.
pub(super) fn nearest(number: &str, bounds: Bounds) -> Option<String> {
    let value: f64 = number.parse().ok()?;
    let outside = value < bounds.least || value > bounds.most;
    outside.then(|| value.max(bounds.least).min(bounds.most).to_string())
}

/// Whether anything of a part of an assistant turn reaches a chat provider.
fn is_said(part: &Part<'_>) -> bool {
    match part {
        Part::Text(_) | Part::System(_) | Part::Refusal(_) | Part::ToolCall { .. } => true,
        Part::Image(_) | Part::Document { .. } | Part::ToolResult { .. } => false,
        Part::Thinking { .. } | Part::RedactedThinking(_) => false,
    }
}

/// The nearest word that the provider knows, rather up than down. `none` stands for itself only.
fn clamped(effort: Effort, known: &[&'static str]) -> Option<&'static str> {
    let at = effort as usize;
    let find = |word: &str| known.iter().find(|known| **known == word).copied();
    if effort == Effort::None {
        return find("none");
    }
    let (below, above) = EFFORTS.split_at(at);
    let above = above.iter().find_map(|word| find(word));
    above.or_else(|| below.iter().skip(1).rev().find_map(|word| find(word)))
}

impl Piece<'_> {
    fn as_text(&self) -> Option<&Text<'_>> {
        match self {
            Piece::Text(text) => Some(text),
            _ => None,
        }
    }

    fn write(&self, out: &mut String) {
        let mut part = Members::open(out);
        match self {
            Piece::Text(text) => {
                part.text("type", "text");
                part.said("text", text);
            }
            Piece::Image(source) => {
                part.text("type", "image_url");
                let mut image = Members::open(part.key("image_url"));
                match source {
                    Source::Url(url) | Source::Text(url) => image.text("url", url),
                    Source::Base64 { media_type, data } => push_data_uri(image.key("url"), media_type, data),
                }
                image.close();
            }
            Piece::File { media_type, data, name } => {
                part.text("type", "file");
                let mut file = Members::open(part.key("file"));
                file.text("filename", name.unwrap_or("document.pdf"));
                push_data_uri(file.key("file_data"), media_type, data);
                file.close();
            }
        }
        part.close();
    }
}

fn push_data_uri(out: &mut String, media_type: &str, data: &str) {
    out.reserve(data.len() + media_type.len() + 16);
    out.push_str("\"data:");
    push_inside(out, media_type);
    out.push_str(";base64,");
    push_inside(out, data);
    out.push('"');
}

/// The array of messages under construction.
struct MessageList<'o> {
    out: &'o mut String,
    empty: bool,
}

impl MessageList<'_> {
    fn open(&mut self, role: &str) -> Members<'_> {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        let mut message = Members::open(self.out);
        message.text("role", role);
        message
    }

    fn close(&mut self) {
        self.out.push('}');
    }
}
