//! What the file may say: its keys, its shape, and the text of each value as written. The only place that names the
//! YAML crate; knows nothing of what a value means.
//!
//! Not serde's derive: its errors repeat the value they refuse, which may be a key; it would turn `api_key: 1e5`
//! into a number before we see it; and it knows no merge keys (`<<`), which YAML files made for other loaders use.

use crate::limits::{CONFIG_BRACKETS_MAX, CONFIG_BYTES_MAX, CONFIG_EXPANDED_BYTES_MAX};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::cell::{Cell, RefCell};
use std::fmt;

/// Looks up an environment variable.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What may stand at a place of the file.
pub(super) enum Shape {
    /// A scalar of any type. It is kept as written and read when its use is known.
    Text,
    /// A list.
    List(&'static Shape),
    /// One value or a list of them.
    OneOrMore,
    /// A map with these keys and no others.
    Map(&'static [(&'static str, Shape)]),
    /// A map with these keys; other keys are kept, their values are not.
    Open(&'static [(&'static str, Shape)]),
    /// A map from any name to text.
    Names,
}

/// The root of the file.
pub(super) static ROOT: Shape = Shape::Map(&[
    ("keep_cycles", Shape::Text),
    ("model_name", Shape::Text),
    ("show_provider", Shape::Text),
    ("model_routing", Shape::Text),
    ("selection", Shape::Text),
    ("max_wait", Shape::Text),
    ("request_timeout", Shape::Text),
    ("state_file", Shape::Text),
    ("server", SERVER),
    ("providers", Shape::List(&GROUP)),
]);
const SERVER: Shape = Shape::Map(&[
    ("host", Shape::Text),
    ("port", Shape::Text),
    ("api_key", Shape::Text),
    ("max_body", Shape::Text),
    ("body_memory", Shape::Text),
    ("max_connections", Shape::Text),
    ("threads", Shape::Text),
    ("socket", Shape::Text),
    ("cors", Shape::OneOrMore),
]);
static GROUP: Shape = Shape::Map(&[("priority", Shape::Text), ("backends", Shape::List(&BACKEND))]);
static BACKEND: Shape = Shape::Map(&[
    ("name", Shape::Text),
    ("provider", Shape::Text),
    ("api_key", Shape::Text),
    ("model", Shape::Text),
    ("base_url", Shape::Text),
    ("protocol", Shape::Text),
    ("account", Shape::Text),
    ("context", Shape::Text),
    ("vision", Shape::Text),
    ("tools", Shape::Text),
    ("limits", LIMITS),
    ("headers", Shape::Names),
    ("proxy", Shape::Text),
    ("tls_ca", Shape::Text),
    ("quirks", QUIRKS),
    ("extra", Shape::Open(&[("timeout", Shape::Text), ("default_max_tokens", Shape::Text)])),
]);
const LIMITS: Shape = Shape::Map(&[
    ("rpm", Shape::Text),
    ("rpd", Shape::Text),
    ("tpm", Shape::Text),
    ("tpd", Shape::Text),
    ("concurrency", Shape::Text),
]);
const QUIRKS: Shape = Shape::Map(&[
    ("stream_options", Shape::Text),
    ("max_completion_tokens", Shape::Text),
    ("developer_role", Shape::Text),
    ("n", Shape::Text),
    ("drop_params", Shape::OneOrMore),
    ("think_tags", Shape::Text),
    ("tool_ids", Shape::Text),
    ("tool_choice", Shape::Text),
    ("single_calls", Shape::Text),
    ("strict", Shape::Text),
    ("schema_drop", Shape::OneOrMore),
    ("schema_tidy", Shape::Text),
    ("null_content", Shape::Text),
    ("reasoning_echo", Shape::Text),
    ("efforts", Shape::OneOrMore),
    ("thought_signatures", Shape::Text),
    ("user_after_tool", Shape::Text),
    ("files", Shape::Text),
    ("top_k", Shape::Text),
    ("stop_max", Shape::Text),
    ("json_schema", Shape::Text),
    ("renamed", Shape::Names),
    ("prefill", Shape::Text),
    ("max_tokens_default", Shape::Text),
    ("max_tokens_cap", Shape::Text),
    ("temperature", Shape::List(&Shape::Text)),
    ("top_p", Shape::List(&Shape::Text)),
    ("anthropic", ANTHROPIC),
]);
const ANTHROPIC: Shape = Shape::Map(&[
    ("thinking", Shape::Text),
    ("adaptive", Shape::Text),
    ("xhigh", Shape::Text),
    ("sampling", Shape::Text),
    ("prefill", Shape::Text),
    ("format", Shape::Text),
]);

/// A value of the file. Text has its `${NAME}` replaced and is trimmed.
#[derive(Clone)]
pub(super) enum Node {
    Null,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// One step from the root to a value.
#[derive(Clone, PartialEq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Where a value is: `providers[0].backends[1].model`.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Path(pub(super) Vec<Step>);

impl Path {
    pub(super) fn with(&self, step: Step) -> Path {
        let mut path = self.clone();
        path.0.push(step);
        path
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) => write!(f, "{}{}", if at == 0 { "" } else { "." }, shown(key))?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A key as it may be shown: one that might be a misplaced secret is not.
pub(super) fn shown(key: &str) -> &str {
    let word = !key.is_empty()
        && key.len() <= 32
        && key.bytes().all(|b| b.is_ascii_alphabetic() || b"_-".contains(&b));
    if word && !key.contains("sk-") { key } else { "…" }
}

/// Something is wrong at `path`; the text says what, and what to do.
pub(super) struct Problem {
    pub(super) path: Path,
    pub(super) line: Option<usize>,
    pub(super) what: String,
}

/// Reads the file into nodes that fit [`ROOT`].
pub(super) fn parse(text: &str, env: Env<'_>) -> Result<Node, Problem> {
    let text = without_bom(text);
    let whole = |what: &str| Problem { path: Path::default(), line: None, what: what.to_owned() };
    if text.len() > CONFIG_BYTES_MAX {
        return Err(whole("the file is larger than 256 KiB; is it the right one?"));
    }
    if too_many_brackets(text) {
        return Err(whole("the file has too many open brackets; is it the right one?"));
    }
    let reader = Reader {
        env,
        path: RefCell::default(),
        problem: RefCell::new(None),
        budget: Cell::new(CONFIG_EXPANDED_BYTES_MAX),
    };
    let seed = Seed { reader: &reader, shape: &ROOT };
    seed.deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| match reader.problem.take() {
        Some((path, what)) => Problem { line: line_of(text, &path), path, what },
        None => Problem {
            path: Path::default(),
            line: error.location().map(|at| at.line()),
            what: syntax_problem(&error.to_string()).to_owned(),
        },
    })
}

/// The line where the value at `path` begins, or the innermost map or list on the way that is there.
pub(super) fn line_of(text: &str, path: &Path) -> Option<usize> {
    let finder = Finder(&path.0);
    let error = finder.deserialize(serde_yaml::Deserializer::from_str(without_bom(text))).err()?;
    error.location().map(|at| at.line())
}

fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn too_many_brackets(text: &str) -> bool {
    let mut open = 0_usize;
    text.bytes().any(|byte| {
        match byte {
            b'[' | b'{' => open = open.saturating_add(1),
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        open > CONFIG_BRACKETS_MAX
    })
}

/// Our words for an error of the YAML crate, whose own may repeat a piece of the file.
fn syntax_problem(error: &str) -> &'static str {
    const KNOWN: &[(&str, &str)] = &[
        ("more than one document", "the file holds more than one document; remove the `---` lines"),
        ("repetition limit", "aliases (`*name`) are repeated too often; write the values out"),
        ("recursion limit", "values are nested too deeply"),
        ("unknown anchor", "an alias (`*name`) has no anchor (`&name`) above it"),
        (
            "mapping values are not allowed",
            "not valid YAML: a `:` stands where none may; quote the value or mind the indentation",
        ),
        ("did not find expected key", "not valid YAML: a key was expected; mind the indentation"),
        (
            "did not find expected '-'",
            "not valid YAML: the next list item `- ` was expected; mind the indentation",
        ),
        ("block sequence entries are not allowed", "not valid YAML: `- ` stands where no list may begin"),
        ("cannot start any token", "not valid YAML: quote the value, or indent with spaces instead of tabs"),
        ("could not find expected ':'", "not valid YAML: a `:` and a space are missing after a key"),
        ("unexpected end of stream", "not valid YAML: a quote is not closed"),
        ("did not find expected ',' or", "not valid YAML: a bracket is not closed"),
        ("alphabetic or numeric character", "not valid YAML: quote a value that begins with `*` or `&`"),
        ("control characters are not allowed", "not valid YAML: it contains control characters"),
    ];
    KNOWN.iter().find(|(theirs, _)| error.contains(theirs)).map_or("not valid YAML", |(_, ours)| ours)
}

/// Replaces each `${NAME}` by the variable's value, once. Anything else with a `$` stays.
fn expand(text: &str, env: Env<'_>, budget: usize) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        match after.split_once('}').filter(|(name, _)| is_variable(name)) {
            Some((name, behind)) => {
                let value = env(name).ok_or_else(|| {
                    format!("the environment variable {name} is not set; set it before the start")
                })?;
                if out.len().saturating_add(value.len()) > budget {
                    return Err(TOO_MUCH.to_owned());
                }
                out.push_str(&value);
                rest = behind;
            }
            None => {
                out.push_str("${");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

const TOO_MUCH: &str = "the values are too large once aliases and variables are expanded";

struct Reader<'a> {
    env: Env<'a>,
    path: RefCell<Path>,
    /// The first problem; the error that serde carries is only the way out.
    problem: RefCell<Option<(Path, String)>>,
    /// Bytes that may still be kept.
    budget: Cell<usize>,
}

impl Reader<'_> {
    fn fail<E: serde::de::Error>(&self, what: impl Into<String>) -> E {
        self.problem.borrow_mut().get_or_insert_with(|| (self.path.borrow().clone(), what.into()));
        E::custom("")
    }

    fn spend<E: serde::de::Error>(&self, bytes: usize) -> Result<(), E> {
        // Each node takes about 32 bytes besides its text.
        let left = self
            .budget
            .get()
            .checked_sub(bytes.saturating_add(32))
            .ok_or_else(|| self.fail::<E>(TOO_MUCH))?;
        self.budget.set(left);
        Ok(())
    }

    fn within<T, E>(&self, step: Step, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.path.borrow_mut().0.push(step);
        let result = read();
        self.path.borrow_mut().0.pop();
        result
    }
}

/// Reads one value that should fit `shape`.
#[derive(Clone, Copy)]
struct Seed<'a> {
    reader: &'a Reader<'a>,
    shape: &'static Shape,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let visited = Cell::new(false);
        let inner = Inner { seed: self, visited: &visited, merging: false };
        let (result, expected) = match self.shape {
            Shape::Text => (deserializer.deserialize_str(inner), "must be a single value"),
            Shape::List(_) => {
                (deserializer.deserialize_seq(inner), "must be a list (lines that begin with `- `)")
            }
            Shape::OneOrMore => (deserializer.deserialize_any(inner), "must be a value or a list of values"),
            _ => (deserializer.deserialize_map(inner), "must be a map (lines like `key: value`)"),
        };
        result.map_err(|error| if visited.get() { error } else { self.reader.fail(expected) })
    }
}

/// The value itself, once it is known to be there.
struct Inner<'a> {
    seed: Seed<'a>,
    visited: &'a Cell<bool>,
    /// Reads what `<<` refers to: a map, or a list of maps.
    merging: bool,
}

impl Inner<'_> {
    fn text<E: serde::de::Error>(&self, text: &str) -> Result<Node, E> {
        self.visited.set(true);
        let reader = self.seed.reader;
        let text = expand(text, reader.env, reader.budget.get()).map_err(|what| reader.fail::<E>(what))?;
        reader.spend(text.len())?;
        Ok(Node::Text(text.trim().to_owned()))
    }
}

impl<'de> Visitor<'de> for Inner<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Node, E> {
        match self.seed.shape {
            Shape::Text | Shape::OneOrMore if !self.merging => self.text(text),
            _ => Err(E::custom("")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let reader = self.seed.reader;
        let shape = match self.seed.shape {
            Shape::List(item) => item,
            Shape::OneOrMore => &Shape::Text,
            shape if self.merging => shape,
            _ => return Err(A::Error::custom("")),
        };
        self.visited.set(true);
        let mut list = Vec::new();
        loop {
            reader.spend(0)?;
            let seed = Seed { reader, shape };
            let item = reader.within(Step::Index(list.len()), || items.next_element_seed(seed))?;
            match item {
                Some(item) => list.push(item),
                None => return Ok(Node::List(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let (reader, shape) = (self.seed.reader, self.seed.shape);
        if matches!(shape, Shape::Text | Shape::List(_) | Shape::OneOrMore) {
            return Err(A::Error::custom(""));
        }
        self.visited.set(true);
        let mut map: Vec<(String, Node)> = Vec::new();
        let mut merged = Vec::new();
        while let Some(key) = entries.next_key_seed(KeySeed)? {
            reader.spend(key.len())?;
            if key == "<<" {
                merged.push(entries.next_value_seed(MergeSeed(self.seed))?);
                continue;
            }
            let value = reader.within(Step::Key(key.clone()), || {
                if map.iter().any(|(earlier, _)| *earlier == key) {
                    return Err(reader.fail("is there twice; remove one"));
                }
                match inside(shape, &key) {
                    Ok(Some(shape)) => entries.next_value_seed(Seed { reader, shape }),
                    Ok(None) => entries.next_value::<IgnoredAny>().map(|_| Node::Null),
                    Err(what) => Err(reader.fail(what)),
                }
            })?;
            map.push((key, value));
        }
        // The map's own keys win, then the first map of a list.
        for node in
            merged.into_iter().flat_map(|node| if let Node::List(maps) = node { maps } else { vec![node] })
        {
            let Node::Map(defaults) = node else { continue };
            for (key, value) in defaults {
                if !map.iter().any(|(own, _)| *own == key) {
                    map.push((key, value));
                }
            }
        }
        Ok(Node::Map(map))
    }
}

/// The shape of `key` in a map of shape `shape`; `None` if its value does not matter.
fn inside(shape: &'static Shape, key: &str) -> Result<Option<&'static Shape>, String> {
    match shape {
        Shape::Map(keys) => {
            keys.iter().find(|(name, _)| *name == key).map(|(_, shape)| Some(shape)).ok_or_else(|| {
                let names: Vec<&str> = keys.iter().map(|(name, _)| *name).collect();
                format!("is not a known key; known here: {}", names.join(", "))
            })
        }
        Shape::Open(keys) => Ok(keys.iter().find(|(name, _)| *name == key).map(|(_, shape)| shape)),
        _ => Ok(Some(&Shape::Text)),
    }
}

/// What stands behind `<<`.
struct MergeSeed<'a>(Seed<'a>);

impl<'de> DeserializeSeed<'de> for MergeSeed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let visited = Cell::new(false);
        let inner = Inner { seed: self.0, visited: &visited, merging: true };
        deserializer.deserialize_any(inner).map_err(|error| {
            if visited.get() {
                error
            } else {
                self.0.reader.fail("`<<` must refer to a map or a list of maps")
            }
        })
    }
}

/// A key of a map: any scalar.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = String;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E>(self, text: &str) -> Result<String, E> {
                Ok(text.to_owned())
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Walks to a value and fails there, because only errors have a position.
struct Finder<'a>(&'a [Step]);

impl<'de> DeserializeSeed<'de> for Finder<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Finder<'_> {
    type Value = ();

    // Every other kind of value fails by serde's default: arrived.
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if let Some((Step::Index(index), rest)) = self.0.split_first() {
            for _ in 0..*index {
                items.next_element::<IgnoredAny>()?;
            }
            items.next_element_seed(Finder(rest))?;
        }
        Err(A::Error::custom(""))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        if let Some((Step::Key(wanted), rest)) = self.0.split_first() {
            while let Some(key) = entries.next_key::<String>()? {
                if key == *wanted {
                    entries.next_value_seed(Finder(rest))?;
                }
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Err(A::Error::custom(""))
    }
}
