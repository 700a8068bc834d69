//! Reading JSON whose types nobody has checked: one pass, and a wrong type is found where it is used, with its path.
//!
//! serde's own message for a wrong type names a line and a column; a client needs the field.

use super::super::error::ApiError;
use super::super::error::describe;
use super::super::splice::is_space;
use super::super::text::Text;
use super::parse::{ParseError, Parser};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::marker::PhantomData;

/// The value of a member. `null` is absent: many clients send nulls for what they do not set.
#[derive(Debug, Default)]
pub(super) enum Field<T> {
    /// Not there, or null.
    #[default]
    Absent,
    /// There, and of the right type.
    Is(T),
    /// There, but something else.
    Wrong,
}

/// What a [`Field`] may hold: a type takes the JSON types it overrides and refuses the others.
pub(super) trait Shape<'de>: Sized {
    /// For "must be …".
    const WHAT: &'static str;
    fn text(_: Text<'de>) -> Option<Self> {
        None
    }
    fn flag(_: bool) -> Option<Self> {
        None
    }
    fn list<A: SeqAccess<'de>>(mut seq: A) -> Result<Option<Self>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
    fn object<A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

impl<'de: 'a, 'a> Shape<'de> for Cow<'a, str> {
    const WHAT: &'static str = "a string";
    fn text(text: Text<'de>) -> Option<Self> {
        Some(text.into_cow())
    }
}

impl<'de: 'a, 'a> Shape<'de> for Text<'a> {
    const WHAT: &'static str = "a string";
    fn text(text: Text<'de>) -> Option<Self> {
        Some(text)
    }
}

impl Shape<'_> for bool {
    const WHAT: &'static str = "true or false";
    fn flag(flag: bool) -> Option<Self> {
        Some(flag)
    }
}

impl<'de, T: Deserialize<'de>> Shape<'de> for Vec<T> {
    const WHAT: &'static str = "an array";
    fn list<A: SeqAccess<'de>>(seq: A) -> Result<Option<Self>, A::Error> {
        collect(seq).map(Some)
    }
}

/// An object, read as a struct.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Shape<'de> for Object<T> {
    const WHAT: &'static str = "an object";
    fn object<A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
        T::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(|object| Some(Object(object)))
    }
}

/// A list of objects.
pub(super) type List<T> = Vec<Field<Object<T>>>;

/// A string, or a list of objects: the content of messages in all protocols.
#[derive(Debug)]
pub(super) enum Content<'a, T> {
    /// Short for one text.
    Text(Text<'a>),
    /// Parts, each yet to be looked at.
    Parts(List<T>),
}

impl<'de: 'a, 'a, T: Deserialize<'de>> Shape<'de> for Content<'a, T> {
    const WHAT: &'static str = "a string or an array";
    fn text(text: Text<'de>) -> Option<Self> {
        Some(Content::Text(text))
    }
    fn list<A: SeqAccess<'de>>(seq: A) -> Result<Option<Self>, A::Error> {
        collect(seq).map(|parts| Some(Content::Parts(parts)))
    }
}

/// A string, or one object: `tool_choice`, and some addresses.
#[derive(Debug)]
pub(super) enum TextOr<'a, T> {
    /// The short form.
    Text(Cow<'a, str>),
    /// The long form.
    Object(T),
}

impl<'de: 'a, 'a, T: Deserialize<'de>> Shape<'de> for TextOr<'a, T> {
    const WHAT: &'static str = "a string or an object";
    fn text(text: Text<'de>) -> Option<Self> {
        Some(TextOr::Text(text.into_cow()))
    }
    fn object<A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
        let object = T::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
        Ok(Some(TextOr::Object(object)))
    }
}

/// One string or several: `stop`.
#[derive(Debug)]
pub(super) struct Texts<'a>(Vec<Field<Cow<'a, str>>>);

impl<'a> Texts<'a> {
    pub(super) fn checked(self, path: &Path) -> Result<Vec<Cow<'a, str>>, ApiError> {
        self.0.into_iter().enumerate().map(|(at, text)| text.need(&path.at(at))).collect()
    }
}

impl<'de: 'a, 'a> Shape<'de> for Texts<'a> {
    const WHAT: &'static str = "a string or an array of strings";
    fn text(text: Text<'de>) -> Option<Self> {
        Some(Self(vec![Field::Is(text.into_cow())]))
    }
    fn list<A: SeqAccess<'de>>(seq: A) -> Result<Option<Self>, A::Error> {
        collect(seq).map(|texts| Some(Self(texts)))
    }
}

fn collect<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(mut seq: A) -> Result<Vec<T>, A::Error> {
    let mut list = Vec::new();
    while let Some(item) = seq.next_element()? {
        list.push(item);
    }
    Ok(list)
}

impl<'de, T: Shape<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(FieldVisitor(PhantomData))
    }
}

struct FieldVisitor<T>(PhantomData<T>);

impl<'de, T: Shape<'de>> Visitor<'de> for FieldVisitor<T> {
    type Value = Field<T>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(T::WHAT)
    }
    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Field::Absent)
    }
    fn visit_bool<E: Error>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(T::flag(flag).map_or(Field::Wrong, Field::Is))
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Field::Wrong)
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Field::Wrong)
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Field::Wrong)
    }
    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(T::text(Text::of_json(text, false)).map_or(Field::Wrong, Field::Is))
    }
    /// A string with escapes, as [`Parser`] gives it.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        let inside = <&str>::deserialize(from)?;
        Ok(T::text(Text::of_json(inside, true)).map_or(Field::Wrong, Field::Is))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        Ok(T::list(seq)?.map_or(Field::Wrong, Field::Is))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Ok(T::object(map)?.map_or(Field::Wrong, Field::Is))
    }
}

impl<'de, T: Shape<'de>> Field<T> {
    /// The value, if it is there; `path` is its place in the body.
    pub(super) fn opt(self, path: &Path) -> Result<Option<T>, ApiError> {
        match self {
            Field::Absent => Ok(None),
            Field::Is(value) => Ok(Some(value)),
            Field::Wrong => Err(path.error(format_args!("must be {}", T::WHAT))),
        }
    }

    /// The value of what is no part of the protocol but some vendor's own: another type is another vendor's.
    pub(super) fn lenient(self) -> Option<T> {
        if let Field::Is(value) = self { Some(value) } else { None }
    }

    /// The value, which must be there.
    pub(super) fn need(self, path: &Path) -> Result<T, ApiError> {
        self.opt(path)?.ok_or_else(|| path.error(format_args!("is missing; it must be {}", T::WHAT)))
    }
}

/// Where in the body a value stands: `messages[3].content[0].source`. Costs nothing until it is printed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'p> {
    Top(&'p str),
    Key(&'p Path<'p>, &'static str),
    At(&'p Path<'p>, usize),
}

impl Path<'_> {
    pub(super) fn key<'q>(&'q self, key: &'static str) -> Path<'q> {
        Path::Key(self, key)
    }

    pub(super) fn at<'q>(&'q self, index: usize) -> Path<'q> {
        Path::At(self, index)
    }

    /// A 400 that names this field; `what` goes on after it.
    pub(super) fn error(&self, what: impl fmt::Display) -> ApiError {
        let error = ApiError::new(400, format!("`{self}` {what}."));
        ApiError { param: Some(self.to_string().into()), ..error }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Path::Top(name) => f.write_str(name),
            Path::Key(of, key) => write!(f, "{of}.{key}"),
            Path::At(of, index) => write!(f, "{of}[{index}]"),
        }
    }
}

/// Reads a value that was kept as text.
pub(super) fn value<'a, T: Shape<'a>>(raw: &'a RawValue, path: &Path) -> Result<Option<T>, ApiError> {
    let mut json = Parser::new(raw.get());
    let field: Field<T> = Field::deserialize(&mut json)
        .map_err(|error| path.error(format_args!("cannot be read: {}", told(&json, &error))))?;
    field.opt(path)
}

fn told(json: &Parser<'_>, error: &ParseError) -> Cow<'static, str> {
    let place = json.place();
    describe(&error.to_string(), place.line, place.column)
}

/// A number, kept as the client wrote it.
pub(super) fn number<'a>(raw: Option<&'a RawValue>, path: &Path) -> Result<Option<&'a RawValue>, ApiError> {
    match raw {
        Some(raw) if raw.get() == "null" => Ok(None),
        Some(raw) if !raw.get().starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
            Err(path.error("must be a number"))
        }
        raw => Ok(raw),
    }
}

/// A whole number from 0; `100.0` is one, too.
pub(super) fn whole(raw: Option<&RawValue>, path: &Path) -> Result<Option<u64>, ApiError> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(None) };
    let whole = raw.get().parse().ok().or_else(|| {
        // Below 2^53 every whole float is exact.
        let float: f64 = raw.get().parse().ok()?;
        (float.fract() == 0.0 && (0.0..9e15).contains(&float)).then_some(float as u64)
    });
    whole.map(Some).ok_or_else(|| path.error("must be a whole number from 0"))
}

/// The members of a body: the two that are large read in the same pass, the others kept as text.
#[derive(Debug)]
pub(super) struct Body<'a, M, T> {
    /// `messages` or `input`.
    pub(super) turns: Field<M>,
    pub(super) tools: Field<Vec<Field<Object<T>>>>,
    /// In alphabetical order, so that nothing depends on a hash.
    rest: BTreeMap<Cow<'a, str>, &'a RawValue>,
}

impl<'a, M: Shape<'a>, T: Deserialize<'a>> Body<'a, M, T> {
    /// `turns` is the key of the conversation. The whole text is checked to be JSON.
    pub(super) fn read(body: &'a str, turns: &'static str) -> Result<Self, ApiError> {
        if body.trim_matches(is_space).is_empty() {
            return Err(ApiError::new(400, "The body is empty; it must be a JSON object."));
        }
        if !body.trim_start_matches(is_space).starts_with('{') {
            return Err(ApiError::new(400, "The body must be a JSON object."));
        }
        let mut json = Parser::new(body);
        let seed = BodySeed { turns, kind: PhantomData };
        let read = seed.deserialize(&mut json);
        read.and_then(|read| json.end().map(|()| read))
            .map_err(|error| ApiError::new(400, told(&json, &error)))
    }

    /// A member by name; it will not be among the [`unknown`](Self::unknown) ones.
    pub(super) fn raw(&mut self, key: &str) -> Option<&'a RawValue> {
        self.rest.remove(key).filter(|raw| raw.get() != "null")
    }

    pub(super) fn take<S: Shape<'a>>(&mut self, key: &'static str) -> Result<Option<S>, ApiError> {
        self.raw(key).map_or(Ok(None), |raw| value(raw, &Path::Top(key)))
    }

    pub(super) fn number(&mut self, key: &'static str) -> Result<Option<&'a RawValue>, ApiError> {
        number(self.raw(key), &Path::Top(key))
    }

    pub(super) fn whole(&mut self, key: &'static str) -> Result<Option<u64>, ApiError> {
        whole(self.raw(key), &Path::Top(key))
    }

    /// The model, trimmed; blank is none.
    pub(super) fn model(&mut self) -> Result<Option<Cow<'a, str>>, ApiError> {
        let model = self.take("model")?.map(|model| match model {
            Cow::Borrowed(name) => Cow::Borrowed(str::trim(name)),
            Cow::Owned(name) => Cow::Owned(name.trim().to_owned()),
        });
        Ok(model.filter(|name| !name.is_empty()))
    }

    /// The names of the members that nobody asked for and that are not null.
    pub(super) fn unknown(&self) -> impl Iterator<Item = &str> {
        self.rest.iter().filter(|(_, raw)| raw.get() != "null").map(|(key, _)| key.as_ref())
    }
}

struct BodySeed<M, T> {
    turns: &'static str,
    kind: PhantomData<(M, T)>,
}

impl<'de, M: Shape<'de>, T: Deserialize<'de>> DeserializeSeed<'de> for BodySeed<M, T> {
    type Value = Body<'de, M, T>;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, M: Shape<'de>, T: Deserialize<'de>> Visitor<'de> for BodySeed<M, T> {
    type Value = Body<'de, M, T>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut body = Body { turns: Field::Absent, tools: Field::Absent, rest: BTreeMap::new() };
        let (mut has_turns, mut has_tools) = (false, false);
        let twice = |key: &str| A::Error::custom(format_args!("duplicate field `{key}`"));
        while let Some(Name(key)) = map.next_key()? {
            if key == self.turns {
                if std::mem::replace(&mut has_turns, true) {
                    return Err(twice(&key));
                }
                body.turns = map.next_value()?;
            } else if key == "tools" {
                if std::mem::replace(&mut has_tools, true) {
                    return Err(twice(&key));
                }
                body.tools = map.next_value()?;
            } else {
                let value = map.next_value()?;
                match body.rest.entry(key) {
                    Entry::Occupied(entry) => return Err(twice(entry.key())),
                    Entry::Vacant(entry) => entry.insert(value),
                };
            }
        }
        Ok(body)
    }
}

/// A key, borrowed where it can be; serde's own `Cow` never is.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
