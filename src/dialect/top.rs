//! The top level of a request body, with the errors that clients read.

use super::error::ApiError;
use super::request::repair::Place;
use super::skim::{self, Member};
use super::splice::is_space;
use crate::limits::REQUEST_MEMBERS_MAX;
use std::ops::Range;

/// A body as text.
///
/// # Errors
/// 400 with the first byte that is not UTF-8.
pub fn text(body: &[u8]) -> Result<&str, ApiError> {
    skim::utf8(body).map_err(|e| ApiError::new(400, format!("The body is not valid JSON: {e}.")))
}

/// The members of a body that is one JSON object.
pub(super) struct Top<'a> {
    body: &'a str,
    members: Vec<Member<'a>>,
}

impl<'a> Top<'a> {
    /// Checks the whole text. Linear, and not recursive: nesting depth is the provider's business.
    ///
    /// # Errors
    /// 400 with the first place at which it is no JSON object.
    pub(super) fn read(body: &'a str) -> Result<Self, ApiError> {
        if body.trim_start_matches(is_space).is_empty() {
            return Err(ApiError::new(400, "The body is empty; it must be a JSON object."));
        }
        let members = skim::members(body).map_err(|e| {
            let what = match e.what {
                skim::TOO_MANY => format!(
                    "The body has more than {REQUEST_MEMBERS_MAX} members (line {}, column {}).",
                    e.line, e.column
                ),
                _ => format!("The body is not valid JSON: {e}."),
            };
            ApiError::new(400, what)
        })?;
        Ok(Self { body, members })
    }

    /// Where the value of `key` stands.
    ///
    /// # Errors
    /// 400 if the key is there twice: readers differ in which one they take.
    pub(super) fn span(&self, key: &'static str) -> Result<Option<Range<usize>>, ApiError> {
        let mut found = self.members.iter().filter(|member| member.key == key);
        match (found.next(), found.next()) {
            (member, None) => Ok(member.map(|member| member.value.clone())),
            (_, Some(_)) => {
                Err(ApiError::new(400, format!("The body has `{key}` twice; send it once.")).param(key))
            }
        }
    }

    /// Where its members stand.
    pub(super) fn places(&self) -> Vec<Place> {
        Place::of(self.body, &self.members)
    }

    /// A string; null and absent are `None`.
    pub(super) fn string(&self, key: &'static str) -> Result<Option<String>, ApiError> {
        let Some(span) = self.span(key)? else { return Ok(None) };
        serde_json::from_str(self.body.get(span).unwrap_or_default())
            .map_err(|_| ApiError::new(400, format!("`{key}` must be a string.")).param(key))
    }

    /// The client's model, trimmed; `None` if it is missing, null or blank.
    pub(super) fn model(&self) -> Result<Option<String>, ApiError> {
        let name = self.string("model")?;
        Ok(name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()))
    }

    /// Whether an event stream is wanted.
    pub(super) fn stream(&self) -> Result<bool, ApiError> {
        let span = self.span("stream")?;
        flag(span.and_then(|span| self.body.get(span)))
            .ok_or_else(|| ApiError::new(400, "`stream` must be true or false.").param("stream"))
    }
}

/// A boolean where null and absent mean false; `None` for anything else.
pub(super) fn flag(value: Option<&str>) -> Option<bool> {
    match value {
        None | Some("null" | "false") => Some(false),
        Some("true") => Some(true),
        Some(_) => None,
    }
}
