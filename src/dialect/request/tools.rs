//! Tools as every provider takes them (translation §4, §5): plain names, JSON parameters, ids by pattern. Knows the
//! way back, and no protocol.

use super::super::model::{ClientTool, ClientTools, Request, Text, Tool, ToolChoice, ToolKind};
use super::json::{Members, push_string};
use super::note;
use crate::limits::TOOL_NAME_BYTES_MAX;
use crate::provider::quirks::ToolIds;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// What a custom tool becomes: its free text is the one property.
const CUSTOM_SCHEMA: &str = r#"{"type":"object","properties":{"input":{"type":"string","description":"The whole input of the tool, as plain text."}},"required":["input"],"additionalProperties":false}"#;

/// Names for the target, one to one.
#[derive(Debug, Default)]
pub(super) struct Names<'a> {
    /// Client's name (`namespace NUL name` if there is a namespace) → target's.
    known: HashMap<Cow<'a, str>, Cow<'a, str>>,
    taken: HashSet<Cow<'a, str>>,
    tools: ClientTools,
}

impl<'a> Names<'a> {
    /// The target's name of a tool that is being defined; `None` if it was defined before.
    pub(super) fn define(
        &mut self,
        namespace: Option<&str>,
        name: Cow<'a, str>,
        kind: ToolKind,
    ) -> Option<Cow<'a, str>> {
        let key = key(namespace, name);
        if self.known.contains_key(&key) {
            return None;
        }
        Some(self.add(namespace, key, kind))
    }

    /// The target's name of a tool that was called.
    pub(super) fn called(
        &mut self,
        namespace: Option<&str>,
        name: Cow<'a, str>,
        kind: ToolKind,
    ) -> Cow<'a, str> {
        let key = key(namespace, name);
        match self.known.get(&key) {
            Some(known) => known.clone(),
            None => self.add(namespace, key, kind),
        }
    }

    /// The target's name of a tool that is chosen; unlike a call, a choice does not make a tool.
    pub(super) fn chosen(&self, namespace: Option<&str>, name: Cow<'a, str>) -> Cow<'a, str> {
        let key = key(namespace, name);
        self.known.get(&key).cloned().unwrap_or(key)
    }

    fn add(&mut self, namespace: Option<&str>, key: Cow<'a, str>, kind: ToolKind) -> Cow<'a, str> {
        let plain: Cow<'a, str> = match namespace {
            None if fits(&key) => key.clone(),
            None => Cow::Owned(fitted(&key)),
            Some(_) => Cow::Owned(fitted(&key.replacen('\0', "__", 1))),
        };
        let mut target = plain.clone();
        let mut count = 1;
        while self.taken.contains(&target) {
            count += 1;
            // The hash first: counting alone would take the square of the tools that become one name.
            let tail = if count == 2 { format!("_{}", hashed(&key, 0)) } else { format!("_{count}") };
            let room = TOOL_NAME_BYTES_MAX.saturating_sub(tail.len());
            let head = plain.get(..room.min(plain.len())).unwrap_or_default(); // All ASCII.
            target = Cow::Owned(format!("{head}{tail}"));
        }
        self.taken.insert(target.clone());
        let name = key.split_once('\0').filter(|_| namespace.is_some()).map_or(&*key, |(_, name)| name);
        if kind != ToolKind::Function || namespace.is_some() || *name != *target {
            let namespace = namespace.map(str::to_owned);
            self.tools
                .0
                .insert(target.clone().into_owned(), ClientTool { name: name.to_owned(), namespace, kind });
        }
        self.known.insert(key, target.clone());
        target
    }

    pub(super) fn into_client_tools(self) -> ClientTools {
        self.tools
    }
}

fn key<'a>(namespace: Option<&str>, name: Cow<'a, str>) -> Cow<'a, str> {
    match namespace {
        None => name,
        Some(namespace) => Cow::Owned(format!("{namespace}\0{name}")),
    }
}

fn is_plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-'
}

fn fits(name: &str) -> bool {
    !name.is_empty() && name.len() <= TOOL_NAME_BYTES_MAX && name.bytes().all(is_plain)
}

/// The name with `_` for everything that is not plain (MCP servers like dots), cut to the limit.
fn fitted(name: &str) -> String {
    let plain = |c: char| if u8::try_from(c).is_ok_and(is_plain) { c } else { '_' };
    let name: String = name.chars().map(plain).take(TOOL_NAME_BYTES_MAX).collect();
    if name.is_empty() { "_".into() } else { name }
}

/// A custom (free-text) tool as a function. `grammar`: its syntax and definition.
pub(super) fn custom<'a>(
    name: Cow<'a, str>,
    description: Option<Text<'a>>,
    grammar: Option<(Cow<'a, str>, Cow<'a, str>)>,
) -> Tool<'a> {
    let mut text = description.unwrap_or_default().into_cow().into_owned();
    if !text.is_empty() {
        text.push_str("\n\n");
    }
    text.push_str("Takes plain text, not JSON, as `input`.");
    if let Some((syntax, definition)) = grammar {
        text.push_str(&format!(" It must follow this {syntax} grammar:\n{definition}"));
    }
    Tool { name, description: Some(text.into()), schema: CUSTOM_SCHEMA.into(), strict: false }
}

/// The arguments of a call to a wrapped custom tool.
pub(super) fn custom_arguments(input: &str) -> String {
    let mut out = String::with_capacity(input.len() + 16);
    let mut members = Members::open(&mut out);
    push_string(members.key("input"), input);
    members.close();
    out
}

/// Keeps the tools that `allowed_tools` names.
pub(super) fn keep(request: &mut Request<'_>, allowed: &[Cow<'_, str>]) {
    let allowed: HashSet<&str> = allowed.iter().map(Cow::as_ref).collect();
    request.tools.retain(|tool| allowed.contains(&*tool.name));
}

/// A choice goes with its tool: one that was dropped cannot be chosen, and without tools there is no choice.
pub(super) fn settle(request: &mut Request<'_>) {
    let gone = match &request.tool_choice {
        Some(ToolChoice::Tool(name)) => !request.tools.iter().any(|tool| tool.name == *name),
        Some(ToolChoice::Required) => request.tools.is_empty(),
        Some(ToolChoice::Auto | ToolChoice::None) if request.tools.is_empty() => {
            request.tool_choice = None;
            false
        }
        _ => false,
    };
    if gone {
        request.tool_choice = None;
        note(&mut request.dropped, "tool_choice");
    }
    if request.tools.is_empty() {
        request.parallel_tools = None;
    }
}

/// The id as the target takes it. What does not fit becomes a hash: the same in call and result, and on every turn,
/// so that caches stay warm and no table is needed.
pub(super) fn fit_id<'i>(id: &'i str, pattern: ToolIds) -> Cow<'i, str> {
    match pattern {
        ToolIds::Any => Cow::Borrowed(id),
        ToolIds::Plain if fits(id) => Cow::Borrowed(id),
        ToolIds::Plain => Cow::Owned(format!("call_{}{}", hashed(id, 0), hashed(id, 1))),
        ToolIds::Nine if id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()) => Cow::Borrowed(id),
        ToolIds::Nine => Cow::Owned(hashed(id, 0)),
    }
}

/// Nine letters and digits: FNV-1a, 64 bits.
fn hashed(id: &str, salt: u64) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325 ^ salt;
    for byte in id.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut out = String::with_capacity(9);
    for _ in 0..9 {
        // A remainder of 62 is inside the table.
        out.push(char::from(DIGITS.get((hash % 62) as usize).copied().unwrap_or(b'0')));
        hash /= 62;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use ToolKind::{Custom, Function};

    #[test]
    fn names_fit_and_find_their_way_back() {
        let long = "x".repeat(70);
        let mut names = Names::default();
        for (namespace, name, kind, target) in [
            (None, "plain", Function, "plain"),
            (None, "a.b", Function, "a_b"),
            (None, "a_b", Function, "a_b_zM4S9um8N"),
            (Some("ns"), "f", Function, "ns__f"),
            (None, "ns__f", Function, "ns__f_6mcSaWZuI"),
            (None, "patch", Custom, "patch"),
            (None, &long, Function, &long[..64]),
            (Some("é"), "ü", Custom, "____"),
        ] {
            let found = names.define(namespace, name.to_owned().into(), kind);
            assert_eq!(found.as_deref(), Some(target));
            assert_eq!(names.called(namespace, name.to_owned().into(), Function), target);
            assert_eq!(names.chosen(namespace, name.to_owned().into()), target);
            assert!(fits(target) && names.define(namespace, name.to_owned().into(), kind).is_none());
            let back = names.tools.0.get(target);
            if (namespace, kind, name) == (None, Function, target) {
                assert_eq!(back, None, "{name} is the same on both sides");
            } else {
                let expected =
                    ClientTool { name: name.into(), namespace: namespace.map(str::to_owned), kind };
                assert_eq!(back, Some(&expected));
            }
        }
        let mut names = Names::default();
        let first = names.define(None, format!("{long}1").into(), Function);
        let second = names.define(None, format!("{long}2").into(), Function);
        assert!(first != second && second.as_deref().is_some_and(fits), "{second:?}");
    }

    #[test]
    fn ids_follow_the_pattern() {
        for (id, pattern, keeps) in [
            ("call_1", ToolIds::Any, true),
            ("call.1:x", ToolIds::Any, true),
            ("call_1", ToolIds::Plain, true),
            ("call.1:x", ToolIds::Plain, false),
            ("abcDEF123", ToolIds::Nine, true),
            ("call_1", ToolIds::Nine, false),
            ("abc-EF123", ToolIds::Nine, false),
        ] {
            let found = fit_id(id, pattern);
            assert_eq!(found == id, keeps, "{id} {pattern:?} {found}");
            assert_eq!(found, fit_id(&found, pattern), "a fitted id fits");
            assert_ne!(found, fit_id(&format!("{id}2"), pattern), "{id}");
        }
    }
}
