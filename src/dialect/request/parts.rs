//! Small things that several readers understand alike: addresses of pictures and files, schemas, arguments, words.

use super::super::error::ApiError;
use super::super::model::{Effort, Part, Source};
use super::fields::{Path, value};
use super::json::{NO_PARAMETERS, arguments, compact};
use super::note;
use std::borrow::Cow;

/// What an address holds: a data URI its content, any other only itself.
pub(super) fn source(url: Cow<'_, str>) -> Source<'_> {
    let Some((header, _)) = url.strip_prefix("data:").and_then(|rest| rest.split_once(',')) else {
        return Source::Url(url);
    };
    let Some(kind) = header.strip_suffix(";base64") else { return Source::Url(url) };
    let kind = kind.split(';').next().unwrap_or_default().to_ascii_lowercase();
    let start = "data:".len() + header.len() + 1;
    let media_type: Cow<'static, str> = match kind.as_str() {
        "image/png" => "image/png".into(),
        // Not a registered name, but a common one.
        "image/jpeg" | "image/jpg" => "image/jpeg".into(),
        "" => "application/octet-stream".into(),
        _ => kind.into(),
    };
    let data = match url {
        Cow::Borrowed(url) => Cow::Borrowed(url.get(start..).unwrap_or_default()),
        Cow::Owned(mut url) => {
            url.drain(..start.min(url.len())); // The comma before it is ASCII.
            Cow::Owned(url)
        }
    };
    Source::Base64 { media_type, data }
}

/// A file in a message: OpenAI wants a data URI, some clients send bare base64.
pub(super) fn file<'a>(data: Cow<'a, str>, name: Option<Cow<'a, str>>) -> Part<'a> {
    let source = if data.starts_with("data:") {
        source(data)
    } else {
        let text = name.as_ref().is_some_and(|name| name.ends_with(".txt") || name.ends_with(".md"));
        let media_type = if text { "text/plain" } else { "application/pdf" };
        Source::Base64 { media_type: media_type.into(), data }
    };
    Part::Document { source, name }
}

/// Stands in for what no target can have; the model should know that there was something.
pub(super) fn left_out<'a>(what: &str, dropped: &mut Vec<String>) -> Part<'a> {
    note(dropped, what);
    let shown: String = what.chars().take(64).collect();
    Part::Text(format!("[{shown} left out]").into())
}

/// Arguments of a call in history: a string that should hold an object, or the object itself (Ollama's style).
pub(super) fn call_arguments<'a>(raw: Option<&'a str>, path: &Path) -> Result<Cow<'a, str>, ApiError> {
    match raw {
        None => Ok("{}".into()),
        Some(raw) if raw.starts_with('{') => Ok(compact(raw)),
        Some(raw) => Ok(arguments(value(raw, path)?.unwrap_or_default())),
    }
}

/// The schema of a tool's parameters; none is an empty one.
pub(super) fn schema<'a>(raw: Option<&'a str>, path: &Path) -> Result<Cow<'a, str>, ApiError> {
    match raw {
        None => Ok(NO_PARAMETERS.into()),
        Some(schema) if schema.starts_with('{') => Ok(schema.into()),
        Some(_) => Err(path.error("must be an object")),
    }
}

/// An effort by its word.
pub(super) fn effort(word: &str) -> Option<Effort> {
    Some(match word {
        "none" => Effort::None,
        "minimal" => Effort::Minimal,
        "low" => Effort::Low,
        "medium" => Effort::Medium,
        "high" => Effort::High,
        "xhigh" => Effort::XHigh,
        "max" => Effort::Max,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_uris_are_content() {
        for (url, expected) in [
            ("data:image/png;base64,AAAA", Some(("image/png", "AAAA"))),
            ("data:image/JPG;base64,AA,A", Some(("image/jpeg", "AA,A"))),
            ("data:image/webp;charset=utf-8;base64,", Some(("image/webp", ""))),
            ("data:;base64,AAAA", Some(("application/octet-stream", "AAAA"))),
            ("data:text/plain,hello", None),
            ("data:", None),
            ("https://example.com/a.png", None),
        ] {
            for url in [Cow::Borrowed(url), Cow::Owned(url.to_owned())] {
                match (source(url.clone()), expected) {
                    (Source::Base64 { media_type, data }, Some(expected)) => {
                        assert_eq!((&*media_type, &*data), expected);
                    }
                    (Source::Url(same), None) => assert_eq!(same, url),
                    (other, _) => panic!("{url}: {other:?}"),
                }
            }
        }
    }
}
