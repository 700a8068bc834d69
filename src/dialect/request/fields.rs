//! Reading JSON whose types nobody has checked: one pass, and a wrong type is found where it is used, with its path.

use super::super::error::ApiError;
use super::super::error::describe;
use super::super::splice::is_space;
use super::super::text::Text;
use super::parse::{Members, Node, Unreadable, parse};
use crate::limits::REQUEST_VALUES_MAX;
use std::borrow::Cow;
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
pub(super) trait Shape<'a>: Sized {
    /// For "must be …".
    const WHAT: &'static str;
    /// `None`: it is something else.
    fn of(node: Node<'a>) -> Option<Self>;
}

impl<'a> Shape<'a> for Cow<'a, str> {
    const WHAT: &'static str = "a string";
    fn of(node: Node<'a>) -> Option<Self> {
        node.text().map(Text::into_cow)
    }
}

impl<'a> Shape<'a> for Text<'a> {
    const WHAT: &'static str = "a string";
    fn of(node: Node<'a>) -> Option<Self> {
        node.text()
    }
}

impl Shape<'_> for bool {
    const WHAT: &'static str = "true or false";
    fn of(node: Node<'_>) -> Option<Self> {
        node.flag()
    }
}

/// A list whose elements are made one by one, as they are asked for.
#[derive(Debug)]
pub(super) struct Items<'a, T> {
    nodes: Vec<Node<'a>>,
    shape: PhantomData<T>,
}

impl<T> Default for Items<'_, T> {
    fn default() -> Self {
        Self { nodes: Vec::new(), shape: PhantomData }
    }
}

impl<'a, T: Shape<'a>> Shape<'a> for Items<'a, T> {
    const WHAT: &'static str = "an array";
    fn of(node: Node<'a>) -> Option<Self> {
        node.list().map(|nodes| Self { nodes, shape: PhantomData })
    }
}

impl<'a, T: Shape<'a>> Items<'a, T> {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn each(self) -> impl Iterator<Item = (usize, Field<T>)> {
        self.nodes.into_iter().map(Field::of).enumerate()
    }
}

impl<'a> Shape<'a> for Members<'a> {
    const WHAT: &'static str = "an object";
    fn of(node: Node<'a>) -> Option<Self> {
        node.object()
    }
}

/// The members of an object at `path`, by their names. Each can be had once.
impl<'a> Members<'a> {
    pub(super) fn field<T: Shape<'a>>(&mut self, key: &str) -> Field<T> {
        self.take(key).map_or(Field::Absent, Field::of)
    }

    pub(super) fn opt<T: Shape<'a>>(
        &mut self,
        path: &Path,
        key: &'static str,
    ) -> Result<Option<T>, ApiError> {
        self.field(key).opt(&path.key(key))
    }

    pub(super) fn need<T: Shape<'a>>(&mut self, path: &Path, key: &'static str) -> Result<T, ApiError> {
        self.field(key).need(&path.key(key))
    }

    /// A string that must be there.
    pub(super) fn word(&mut self, path: &Path, key: &'static str) -> Result<Cow<'a, str>, ApiError> {
        self.need(path, key)
    }

    /// A string that may be there.
    pub(super) fn opt_word(
        &mut self,
        path: &Path,
        key: &'static str,
    ) -> Result<Option<Cow<'a, str>>, ApiError> {
        self.opt(path, key)
    }

    /// For what is no part of the protocol but some vendor's own: another type is another vendor's.
    pub(super) fn lenient<T: Shape<'a>>(&mut self, key: &str) -> Option<T> {
        if let Field::Is(value) = self.field(key) { Some(value) } else { None }
    }

    /// As it stands in the body.
    pub(super) fn raw(&mut self, key: &str) -> Option<&'a str> {
        self.take(key)?.raw()
    }
}

/// A list of objects.
pub(super) type List<'a> = Items<'a, Members<'a>>;

/// A string, or a list of objects: the content of messages in all protocols.
#[derive(Debug)]
pub(super) enum Content<'a> {
    /// Short for one text.
    Text(Text<'a>),
    /// Parts, each yet to be looked at.
    Parts(List<'a>),
}

impl<'a> Shape<'a> for Content<'a> {
    const WHAT: &'static str = "a string or an array";
    fn of(node: Node<'a>) -> Option<Self> {
        match node.text() {
            Some(text) => Some(Content::Text(text)),
            None => List::of(node).map(Content::Parts),
        }
    }
}

/// A string, or one object: `tool_choice`, and some addresses.
#[derive(Debug)]
pub(super) enum TextOr<'a> {
    /// The short form.
    Text(Cow<'a, str>),
    /// The long form.
    Object(Members<'a>),
}

impl<'a> Shape<'a> for TextOr<'a> {
    const WHAT: &'static str = "a string or an object";
    fn of(node: Node<'a>) -> Option<Self> {
        match node.text() {
            Some(text) => Some(TextOr::Text(text.into_cow())),
            None => node.object().map(TextOr::Object),
        }
    }
}

/// One string or several: `stop`.
#[derive(Debug)]
pub(super) struct Texts<'a>(Vec<Node<'a>>);

impl<'a> Texts<'a> {
    pub(super) fn checked(self, path: &Path) -> Result<Vec<Cow<'a, str>>, ApiError> {
        let texts = self.0.into_iter().map(Field::of).enumerate();
        texts.map(|(at, text)| text.need(&path.at(at))).collect()
    }
}

impl<'a> Shape<'a> for Texts<'a> {
    const WHAT: &'static str = "a string or an array of strings";
    fn of(node: Node<'a>) -> Option<Self> {
        match node.text() {
            Some(_) => Some(Self(vec![node])),
            None => node.list().map(Self),
        }
    }
}

impl<'a, T: Shape<'a>> Field<T> {
    pub(super) fn of(node: Node<'a>) -> Self {
        match node.is_absent() {
            true => Field::Absent,
            false => T::of(node).map_or(Field::Wrong, Field::Is),
        }
    }

    /// The value, if it is there; `path` is its place in the body.
    pub(super) fn opt(self, path: &Path) -> Result<Option<T>, ApiError> {
        match self {
            Field::Absent => Ok(None),
            Field::Is(value) => Ok(Some(value)),
            Field::Wrong => Err(path.error(format_args!("must be {}", T::WHAT))),
        }
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
pub(super) fn value<'a, T: Shape<'a>>(raw: &'a str, path: &Path) -> Result<Option<T>, ApiError> {
    let node = parse(raw, &[]).map_err(|(error, place)| {
        path.error(format_args!("cannot be read: {}", told(error, place.line, place.column)))
    })?;
    Field::of(node).opt(path)
}

fn told(error: Unreadable, line: usize, column: usize) -> Cow<'static, str> {
    match error {
        Unreadable::Malformed(what) => describe(what, line, column),
        Unreadable::Twice(key) => describe(&format!("duplicate field `{key}`"), line, column),
        Unreadable::TooMany => {
            format!("The body holds more than {REQUEST_VALUES_MAX} values (line {line}, column {column}).")
                .into()
        }
    }
}

/// A whole number from 0; `100.0` is one, too.
pub(super) fn whole(raw: Option<&str>, path: &Path) -> Result<Option<u64>, ApiError> {
    let Some(raw) = raw else { return Ok(None) };
    let whole = raw.parse().ok().or_else(|| {
        // Below 2^53 every whole float is exact.
        let float: f64 = raw.parse().ok()?;
        (float.fract() == 0.0 && (0.0..9e15).contains(&float)).then_some(float as u64)
    });
    whole.map(Some).ok_or_else(|| path.error("must be a whole number from 0"))
}

/// The members of a body.
#[derive(Debug)]
pub(super) struct Body<'a>(Members<'a>);

impl<'a> Body<'a> {
    /// The whole text is checked to be JSON; the values of the keys in `into` are read with it.
    pub(super) fn read(body: &'a str, into: &[&str]) -> Result<Self, ApiError> {
        if body.trim_matches(is_space).is_empty() {
            return Err(ApiError::new(400, "The body is empty; it must be a JSON object."));
        }
        if !body.trim_start_matches(is_space).starts_with('{') {
            return Err(ApiError::new(400, "The body must be a JSON object."));
        }
        let node = parse(body, into)
            .map_err(|(error, place)| ApiError::new(400, told(error, place.line, place.column)))?;
        Ok(Self(node.object().unwrap_or_default()))
    }

    /// A member by name; it will not be among the [`unknown`](Self::unknown) ones.
    pub(super) fn raw(&mut self, key: &str) -> Option<&'a str> {
        self.0.raw(key)
    }

    /// A member by name, which `path` is made of, too.
    pub(super) fn field<S: Shape<'a>>(&mut self, key: &str) -> Field<S> {
        self.0.field(key)
    }

    pub(super) fn take<S: Shape<'a>>(&mut self, key: &'static str) -> Result<Option<S>, ApiError> {
        self.field(key).opt(&Path::Top(key))
    }

    /// A number, kept as the client wrote it.
    pub(super) fn number(&mut self, key: &'static str) -> Result<Option<&'a str>, ApiError> {
        match self.0.take(key) {
            Some(node) if !node.is_absent() && !node.is_number() => {
                Err(Path::Top(key).error("must be a number"))
            }
            node => Ok(node.and_then(|node| node.raw())),
        }
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
        self.0.left()
    }
}
