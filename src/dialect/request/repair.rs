//! Chat requests that go through to a provider known to refuse something in them: the spans that have to change. All
//! other bytes stay.
//!
//! What cannot be read is left as it is: it is the provider's to judge.

use super::super::raw;
use super::super::skim::Member;
use super::super::splice::{Edit, insert_member, is_space, span_of};
use super::chat_out::{is_format, nearest, schema_words};
use super::json::push_string;
use super::schema::cleaned;
use super::{note, repair_messages};
use crate::limits::REPAIRS_MAX;
use crate::provider::quirks::{Quirks, ToolChoices, Written};
use std::borrow::Cow;
use std::ops::Range;

/// A member at the top of a body: byte ranges of its key, without quotes, and of its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The key.
    pub key: Range<usize>,
    /// The value.
    pub value: Range<usize>,
}

/// What becomes of a request.
#[derive(Debug, Default)]
pub struct Repairs {
    /// They may touch each other, but do not overlap.
    pub edits: Vec<Edit>,
    /// Names of what the provider is not told, or is told otherwise.
    pub dropped: Vec<String>,
}

/// What has to change in the body `text`, whose top level is `places`, for a provider with these quirks. `signature` knows thought
/// signatures by the id of their call.
pub fn repairs(
    text: &str,
    places: &[Place],
    quirks: &Quirks,
    signature: &dyn Fn(&str) -> Option<String>,
) -> Repairs {
    let mut top = Top { text, places, gone: vec![false; places.len()], out: Repairs::default() };
    top.parameters(quirks);
    top.tools(quirks);
    if !quirks.written.json_schema && !quirks.drop_params.iter().any(is_format) {
        top.say_schema();
    }
    top.out.edits.extend(top.removals());
    if let Some(messages) = top.value("messages") {
        let written = &quirks.written;
        let no_developer = quirks.passing.no_developer && messages.contains("\"developer\"");
        let calls = written.change_messages() && messages.contains("\"tool_calls\"");
        if no_developer || calls {
            top.out.edits.extend(repair_messages::edits(text, messages, written, no_developer, signature));
        }
    }
    top.out
}

/// The schema of a tool.
fn parameters(tool: &str) -> Option<&str> {
    let [function] = raw::members(tool, &["function"]).ok()?;
    let [parameters] = raw::members(function?, &["parameters"]).ok()?;
    parameters
}

struct Top<'a> {
    text: &'a str,
    places: &'a [Place],
    /// By place: it is left out.
    gone: Vec<bool>,
    out: Repairs,
}

impl<'a> Top<'a> {
    fn key(&self, place: &Place) -> &'a str {
        self.text.get(place.key.clone()).unwrap_or_default()
    }

    /// A member that is not left out.
    fn find(&self, key: &str) -> Option<&'a Place> {
        let mut kept = self.places.iter().zip(&self.gone).filter(|(_, gone)| !**gone);
        kept.find(|(place, _)| self.key(place) == key).map(|(place, _)| place)
    }

    fn value(&self, key: &str) -> Option<&'a str> {
        self.text.get(self.find(key)?.value.clone())
    }

    fn remove(&mut self, key: &str) {
        for (place, gone) in self.places.iter().zip(&mut self.gone) {
            if self.text.get(place.key.clone()) == Some(key) && !std::mem::replace(gone, true) {
                note(&mut self.out.dropped, key);
            }
        }
    }

    fn replace(&mut self, span: Range<usize>, text: impl Into<String>) {
        self.out.edits.push(Edit { span, text: text.into() });
    }

    fn parameters(&mut self, quirks: &Quirks) {
        for param in &quirks.passing.drop_params {
            self.remove(param);
        }
        if let Some(name) = quirks.passing.limit {
            self.limit(name);
        }
        for (old, new) in &quirks.written.renamed {
            match (self.find(old), self.find(new)) {
                (Some(_), Some(_)) => self.remove(old),
                (Some(place), None) => self.replace(place.key.clone(), new.clone()),
                (None, _) => {}
            }
        }
        for (name, bounds) in [("temperature", quirks.written.temperature), ("top_p", quirks.written.top_p)] {
            let place = self.find(name).zip(self.value(name).zip(bounds));
            let Some((place, (value, bounds))) = place else { continue };
            if let Some(nearest) = nearest(value, bounds) {
                note(&mut self.out.dropped, name);
                self.replace(place.value.clone(), nearest);
            }
        }
    }

    /// The output limit under the only name that is taken. Of both, the newer one counts.
    fn limit(&mut self, name: &'static str) {
        const NEWER: &str = "max_completion_tokens";
        let other = if name == NEWER { "max_tokens" } else { NEWER };
        let said = |key| self.value(key).is_some_and(|value| value != "null");
        let (has, other_counts) = (self.find(name).is_some(), said(other) && !(name == NEWER && said(name)));
        match self.find(other) {
            Some(place) if !has => self.replace(place.key.clone(), name),
            Some(place) if other_counts => {
                self.forget(name);
                self.replace(place.key.clone(), name);
            }
            Some(_) => self.forget(other),
            None => {}
        }
    }

    /// Leaves out what is said elsewhere.
    fn forget(&mut self, key: &str) {
        for (place, gone) in self.places.iter().zip(&mut self.gone) {
            *gone |= self.text.get(place.key.clone()) == Some(key);
        }
    }

    fn tools(&mut self, quirks: &Quirks) {
        let written = &quirks.written;
        let untold = quirks.passing.drop_params.iter().any(|param| param == "tool_choice");
        match self.value("tool_choice") {
            Some("\"none\"") if untold || written.tool_choice == ToolChoices::Auto => {
                self.remove("tool_choice");
                self.remove("parallel_tool_calls");
                return self.remove("tools");
            }
            None | Some("\"auto\"" | "\"none\"" | "null") => {}
            Some(_) if written.tool_choice != ToolChoices::All => self.remove("tool_choice"),
            Some(_) => {}
        }
        if written.clean_schemas() {
            self.schemas(written);
        }
        let has_tools = self.value("tools").is_some_and(|tools| tools.contains('{'));
        if written.single_calls && has_tools {
            match self.find("parallel_tool_calls") {
                Some(place) if self.value("parallel_tool_calls") != Some("false") => {
                    self.replace(place.value.clone(), "false");
                }
                Some(_) => {}
                None => {
                    let member = "\"parallel_tool_calls\":false";
                    self.out.edits.extend(insert_member(self.text.as_bytes(), 0..self.text.len(), member));
                }
            }
        }
    }

    /// The schema of `response_format`.
    fn format(&self) -> Option<&'a str> {
        let format = self.value("response_format").filter(|format| format.contains("json_schema"))?;
        let [inner] = raw::members(format, &["json_schema"]).ok()?;
        let [schema] = raw::members(inner?, &["schema"]).ok()?;
        schema
    }

    /// Says in words what `response_format` cannot say there.
    fn say_schema(&mut self) {
        let places = self.find("response_format").zip(self.find("messages"));
        let (Some(schema), Some((format, messages))) = (self.format(), places) else { return };
        let inside = self.text.get(messages.value.clone()).and_then(|list| list.strip_prefix('['));
        let Some(inside) = inside else { return };
        let mut message = String::from("{\"role\":\"system\",\"content\":");
        push_string(&mut message, &schema_words(schema));
        message.push_str(if inside.trim_matches(is_space) == "]" { "}" } else { "}," });
        let at = messages.value.start + 1;
        self.replace(at..at, message);
        self.replace(format.value.clone(), "{\"type\":\"json_object\"}");
        note(&mut self.out.dropped, "json_schema");
    }

    fn schemas(&mut self, written: &Written) {
        let tools = raw::elements(self.value("tools").unwrap_or("[]"));
        let schemas = tools.filter_map(|tool| parameters(tool.ok()?));
        // One that is said in words keeps all of them.
        for schema in schemas.chain(self.format().filter(|_| written.json_schema)) {
            if let (Cow::Owned(clean), Some(span)) = (cleaned(schema, written), span_of(self.text, schema))
                && clean != schema
            {
                if self.out.edits.len() == REPAIRS_MAX {
                    return;
                }
                self.replace(span, clean);
            }
        }
    }

    /// The edits that take out what is gone, each with one comma.
    fn removals(&self) -> Vec<Edit> {
        let mut edits = Vec::new();
        // A request of which nothing is left is somebody else's to refuse.
        if self.gone.iter().all(|gone| *gone) {
            return edits;
        }
        let mut kept = false;
        for (at, (place, gone)) in self.places.iter().zip(&self.gone).enumerate() {
            if !gone {
                kept = true;
                continue;
            }
            let before = at.checked_sub(1).and_then(|at| self.places.get(at));
            let span = match (kept, before, self.places.get(at + 1)) {
                (true, Some(before), _) => before.value.end..place.value.end,
                // Up to the next key's quote; the quotes are no part of the ranges.
                (_, _, Some(next)) => place.key.start.saturating_sub(1)..next.key.start.saturating_sub(1),
                _ => continue,
            };
            edits.push(Edit { span, text: String::new() });
        }
        edits
    }
}

impl Place {
    /// Those of a body's members; none if a key has escapes, which nobody writes.
    pub fn of(body: &str, members: &[Member<'_>]) -> Vec<Place> {
        let place = |member: &Member<'_>| match &member.key {
            Cow::Borrowed(key) => Some(Place { key: span_of(body, key)?, value: member.value.clone() }),
            Cow::Owned(_) => None,
        };
        members.iter().map(place).collect::<Option<Vec<_>>>().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::chat::ChatRequest;
    use super::super::super::splice::pieces;
    use super::*;
    use crate::provider::quirks::{Bounds, Passing, ToolIds};

    fn repaired(body: &str, quirks: &Quirks) -> (String, Vec<String>) {
        let request = ChatRequest::parse(body).unwrap();
        let known = |id: &str| (id == "known").then(|| "sig\"1".to_owned());
        let repairs = request.repairs(body, quirks, &known);
        let mut edits = request.edits(body, "\"m\"", false);
        edits.extend(repairs.edits);
        let joined = String::from_utf8(pieces(body.as_bytes(), &mut edits).concat()).unwrap();
        serde_json::from_str::<serde::de::IgnoredAny>(&joined).unwrap_or_else(|e| panic!("{e}: {joined}"));
        (joined, repairs.dropped)
    }

    /// `expected` has the same model as `body`, as that is changed in any case.
    #[track_caller]
    fn check(quirks: &Quirks, body: &str, expected: &str) {
        assert_eq!(repaired(body, quirks).0, expected, "{body}");
        // Once is enough.
        assert_eq!(repaired(expected, quirks).0, expected, "again");
    }

    fn unknown() -> Quirks {
        Quirks::of(None, "m")
    }

    fn of(preset: &str, model: &str) -> Quirks {
        Quirks::of(Some(preset), model)
    }

    #[test]
    fn members_go_with_one_comma_each() {
        let drop_params = ["a", "b", "c"].map(str::to_owned).to_vec();
        let quirks = Quirks { passing: Passing { drop_params, ..Passing::default() }, ..unknown() };
        for (body, expected) in [
            (r#"{ "a" : 1 , "model":"m" }"#, r#"{ "model":"m" }"#),
            (r#"{ "model":"m" , "a" : [1,{"a":2}] }"#, r#"{ "model":"m" }"#),
            (r#"{"a":1,"b":2,"model":"m","x":3}"#, r#"{"model":"m","x":3}"#),
            (r#"{"a":1,"model":"m","b":2, "x":3,"c":4}"#, r#"{"model":"m", "x":3}"#),
            (r#"{"model":"m","a":1,"b":2,"c":3}"#, r#"{"model":"m"}"#),
            (r#"{"model":"m","a":1,"a":2}"#, r#"{"model":"m"}"#),
            (r#"{"model":"m","messages":[{"a":1}]}"#, r#"{"model":"m","messages":[{"a":1}]}"#),
            (r#"{"model":"m","a":1,"\u0062":2}"#, r#"{"model":"m","a":1,"\u0062":2}"#),
        ] {
            check(&quirks, body, expected);
        }
        assert_eq!(
            repaired(r#"{"x":0,"b":2,"a":1}"#, &quirks),
            (r#"{"model":"m","x":0}"#.into(), vec!["a".into(), "b".into()])
        );
        assert_eq!(repaired(r#"{"a":1,"x":0}"#, &quirks).0, r#"{"model":"m","x":0}"#);
        assert_eq!(repaired(r#"{"a":1}"#, &quirks).0, r#"{"model":"m","a":1}"#);
    }

    #[test]
    fn an_unknown_server_gets_every_byte() {
        let body = r#"{"model":"m","store":true,"max_completion_tokens":5,"temperature":9,"messages":[{"role":"developer","content":"d"},{"role":"assistant","content":null,"tool_calls":[{"id":"x.y"}]}],"tools":[{"function":{"parameters":{"$schema":"s","type":"array"}}}],"tool_choice":"required"}"#;
        for quirks in [unknown(), of("openrouter", "m"), of("openai", "gpt-4.1"), of("lmstudio", "m")] {
            assert!(!quirks.change_passing() || quirks.written.tool_ids == ToolIds::Plain);
            check(&quirks, body, body);
        }
    }

    #[test]
    fn the_output_limit_has_one_name() {
        for (body, expected) in [
            (r#"{"model":"m","max_completion_tokens":5}"#, r#"{"model":"m","max_tokens":5}"#),
            (r#"{"model":"m","max_tokens":5}"#, r#"{"model":"m","max_tokens":5}"#),
            (r#"{"max_completion_tokens":5,"model":"m","max_tokens":7}"#, r#"{"max_tokens":5,"model":"m"}"#),
            (
                r#"{"max_completion_tokens":null,"model":"m","max_tokens":7}"#,
                r#"{"model":"m","max_tokens":7}"#,
            ),
        ] {
            check(&of("deepseek", "m"), body, expected);
        }
        for (body, expected) in [
            (r#"{"model":"m","max_tokens":5}"#, r#"{"model":"m","max_completion_tokens":5}"#),
            (
                r#"{"max_completion_tokens":5,"model":"m","max_tokens":7}"#,
                r#"{"max_completion_tokens":5,"model":"m"}"#,
            ),
            (
                r#"{"max_completion_tokens":null,"model":"m","max_tokens":7}"#,
                r#"{"model":"m","max_completion_tokens":7}"#,
            ),
        ] {
            check(&of("openai", "o3"), body, expected);
        }
        let kept = r#"{"model":"m","max_tokens":5}"#;
        check(&of("openai", "gpt-4.1"), kept, kept);
        check(&of("groq", "m"), kept, kept);
    }

    #[test]
    fn names_and_numbers_fit() {
        let mistral = of("mistral", "m");
        check(
            &mistral,
            r#"{"model":"m","seed":5,"user":"u","metadata":{}}"#,
            r#"{"model":"m","random_seed":5,"metadata":{}}"#,
        );
        check(&mistral, r#"{"model":"m","seed":5,"random_seed":6}"#, r#"{"model":"m","random_seed":6}"#);
        let zai = of("zai", "m");
        check(
            &zai,
            r#"{"model":"m","temperature":1.3,"top_p":0}"#,
            r#"{"model":"m","temperature":1,"top_p":0.01}"#,
        );
        check(
            &zai,
            r#"{"model":"m","temperature":0.50,"top_p":1.0}"#,
            r#"{"model":"m","temperature":0.50,"top_p":1.0}"#,
        );
        check(&of("minimax", "m"), r#"{"model":"m","temperature":0}"#, r#"{"model":"m","temperature":0.01}"#);
        check(&zai, r#"{"model":"m","temperature":"hot"}"#, r#"{"model":"m","temperature":"hot"}"#);
        let mut fixed = of("moonshot", "kimi-k3");
        fixed.written.temperature = Some(Bounds { least: 0.0, most: 1.0 });
        check(&fixed, r#"{"model":"m","temperature":2}"#, r#"{"model":"m"}"#);
    }

    #[test]
    fn tools_are_offered_as_they_are_taken() {
        let zai = of("zai", "m");
        check(
            &zai,
            r#"{"model":"m","tools":[{}],"tool_choice":"required"}"#,
            r#"{"model":"m","tools":[{}]}"#,
        );
        check(&zai, r#"{"model":"m","tools":[{}],"tool_choice":"none"}"#, r#"{"model":"m"}"#);
        check(
            &zai,
            r#"{"model":"m","tools":[{}],"tool_choice":"auto"}"#,
            r#"{"model":"m","tools":[{}],"tool_choice":"auto"}"#,
        );
        let kimi = of("moonshot", "kimi-k2");
        check(
            &kimi,
            r#"{"model":"m","tools":[{}],"tool_choice":"none"}"#,
            r#"{"model":"m","tools":[{}],"tool_choice":"none"}"#,
        );
        check(&kimi, r#"{"model":"m","tool_choice":{"type":"function"}}"#, r#"{"model":"m"}"#);
        let nvidia = of("nvidia", "m");
        check(
            &nvidia,
            r#"{"model":"m","tools":[{}]}"#,
            r#"{"parallel_tool_calls":false,"model":"m","tools":[{}]}"#,
        );
        check(
            &nvidia,
            r#"{"model":"m","tools":[{}],"parallel_tool_calls":true}"#,
            r#"{"model":"m","tools":[{}],"parallel_tool_calls":false}"#,
        );
        check(&nvidia, r#"{"model":"m","tools":[]}"#, r#"{"model":"m","tools":[]}"#);
        check(
            &of("gemini", "m"),
            r#"{"model":"m","tools":[ {"type":"function","function":{"name":"f","parameters":{"$schema":"x", "type":"object"}}} ,{"function":{"parameters":{"type": "object"}}}],"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"array"}}}}"#,
            r#"{"model":"m","tools":[ {"type":"function","function":{"name":"f","parameters":{"type":"object"}}} ,{"function":{"parameters":{"type": "object"}}}],"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"array","items":{"type":"string"}}}}}"#,
        );
    }

    #[test]
    fn schemas_beyond_the_limit_are_left_alone() {
        let dirty = r#"{"function":{"parameters":{"$schema":1}}}"#;
        let clean = dirty.replace(r#""$schema":1"#, "");
        let body = |cleaned: usize, kept: usize| {
            let tools = [vec![&*clean; cleaned], vec![dirty; kept]].concat().join(",");
            format!(r#"{{"model":"m","tools":[{tools}]}}"#)
        };
        let gemini = of("gemini", "m");
        for (count, kept) in [(REPAIRS_MAX, 0), (REPAIRS_MAX + 1, 1)] {
            let (found, _) = repaired(&body(0, count), &gemini);
            assert!(found == body(count - kept, kept), "{kept} of {count} tools should be as they were");
        }
    }

    #[test]
    fn a_schema_is_said_in_words_where_the_format_has_no_place_for_it() {
        let format = r#""response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type": "object"}}}"#;
        let object = r#""response_format":{"type":"json_object"}"#;
        let words = serde_json::Value::from(schema_words(r#"{"type": "object"}"#));
        let system = format!(r#"{{"role":"system","content":{words}}}"#);
        let deepseek = of("deepseek", "m");
        check(
            &deepseek,
            &format!(r#"{{"model":"m",{format},"messages":[ {{"role":"user"}}]}}"#),
            &format!(r#"{{"model":"m",{object},"messages":[{system}, {{"role":"user"}}]}}"#),
        );
        check(
            &deepseek,
            &format!(r#"{{"model":"m","messages":[ ],{format}}}"#),
            &format!(r#"{{"model":"m","messages":[{system} ],{object}}}"#),
        );
        let kept = format!(r#"{{"model":"m","messages":[],{format}}}"#);
        check(&of("minimax", "m"), &kept, &kept);
        let kept = format!(r#"{{"model":"m","messages":"x",{format}}}"#);
        check(&deepseek, &kept, &kept);
    }
}
