//! One value of the file with its place, and the readers for each kind of value. A reader that fails says where.

use super::raw::{Node, Path, Problem, Step, shown};
use crate::limits::CONFIG_TIME_MAX;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A value of the file and where it stands. An absent one is `Null`.
pub(super) struct Item<'a> {
    pub(super) node: &'a Node,
    pub(super) path: Path,
}

impl<'a> Item<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        Item { node, path: Path::default() }
    }

    /// The value of `key`; `Null` if there is none.
    pub(super) fn get(&self, key: &str) -> Item<'a> {
        let found = match self.node {
            Node::Map(map) => map.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        };
        Item { node: found.unwrap_or(&Node::Null), path: self.path.with(Step::Key(key.to_owned())) }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node, Node::Null)
    }

    /// The items of a list; a single value is a list of one.
    pub(super) fn items(&self) -> Vec<Item<'a>> {
        match self.node {
            Node::List(list) => list
                .iter()
                .enumerate()
                .map(|(at, node)| Item { node, path: self.path.with(Step::Index(at)) })
                .collect(),
            Node::Null => Vec::new(),
            node => vec![Item { node, path: self.path.clone() }],
        }
    }

    /// The entries of a map.
    pub(super) fn entries(&self) -> Vec<(&'a str, Item<'a>)> {
        let Node::Map(map) = self.node else { return Vec::new() };
        map.iter()
            .map(|(key, node)| (key.as_str(), Item { node, path: self.path.with(Step::Key(key.clone())) }))
            .collect()
    }

    pub(super) fn problem(&self, what: impl Into<String>) -> Problem {
        Problem { path: self.path.clone(), line: None, what: what.into() }
    }

    /// The trimmed text, which may be empty.
    pub(super) fn text(&self) -> Option<&'a str> {
        match self.node {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text, if the key is there; then it must say something, on one line.
    pub(super) fn filled(&self) -> Result<Option<&'a str>, Problem> {
        match self.text() {
            Some("") => Err(self.problem("must not be empty; give a value or remove the key")),
            Some(text) if text.contains(char::is_control) => {
                Err(self.problem("contains a line break or control character; give it on one line"))
            }
            text => Ok(text),
        }
    }

    /// A whole number in `range`; `None` if absent.
    pub(super) fn integer(&self, range: RangeInclusive<u64>) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text() else { return Ok(None) };
        let (low, high) = (*range.start(), *range.end());
        // Other loaders read `8_000` and `8000.0` as the same number.
        let digits = text.strip_suffix(".0").unwrap_or(text).replace('_', "");
        let number = digits.parse::<u64>().ok().filter(|number| range.contains(number));
        number.map(Some).ok_or_else(|| {
            let bounds = if high >= u64::from(u32::MAX) {
                format!("of at least {low}")
            } else {
                format!("from {low} to {high}")
            };
            self.problem(format!("must be a whole number {bounds}"))
        })
    }

    /// `true` or `false`, in the spellings of YAML 1.1.
    pub(super) fn boolean(&self) -> Result<Option<bool>, Problem> {
        let Some(text) = self.text() else { return Ok(None) };
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(Some(true)),
            "false" | "no" | "off" | "0" => Ok(Some(false)),
            _ => Err(self.problem("must be `true` or `false`")),
        }
    }

    /// Seconds as a number, or with a unit: `500ms`, `20s`, `2m`, `1h`.
    pub(super) fn duration(&self, least: Duration) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.text() else { return Ok(None) };
        let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let scale = match unit.to_ascii_lowercase().as_str() {
            "ms" => Some(0.001),
            "" | "s" => Some(1.0),
            "m" => Some(60.0),
            "h" => Some(3600.0),
            _ => None,
        };
        let seconds = scale.and_then(|scale| Some(number.trim().parse::<f64>().ok()? * scale));
        seconds
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .filter(|time| (least..=CONFIG_TIME_MAX).contains(time))
            .map(Some)
            .ok_or_else(|| {
                let (low, high) = (least.as_secs_f64(), CONFIG_TIME_MAX.as_secs());
                self.problem(format!(
                    "must be a time from {low} to {high} seconds, such as `90`, `20s` or `2m`"
                ))
            })
    }

    /// Bytes as a number, or with a unit: `64MiB`, `64M` (the same), `64MB` (millions).
    pub(super) fn bytes(&self, range: RangeInclusive<usize>) -> Result<Option<usize>, Problem> {
        let Some(text) = self.text() else { return Ok(None) };
        let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let scale: Option<u64> = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => Some(1),
            "k" | "kib" => Some(1 << 10),
            "m" | "mib" => Some(1 << 20),
            "g" | "gib" => Some(1 << 30),
            "kb" => Some(1_000),
            "mb" => Some(1_000_000),
            "gb" => Some(1_000_000_000),
            _ => None,
        };
        let number = number.trim().replace('_', "").parse::<u64>().ok();
        let bytes = scale.zip(number).and_then(|(scale, number)| scale.checked_mul(number));
        bytes
            .and_then(|bytes| usize::try_from(bytes).ok())
            .filter(|bytes| range.contains(bytes))
            .map(Some)
            .ok_or_else(|| {
                let (low, high) = (range.start(), range.end());
                self.problem(format!("must be a size from {low} to {high} bytes, such as `64MiB`"))
            })
    }

    /// One of the words of `table`, in any case.
    pub(super) fn word<T: Copy>(&self, table: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(text) = self.text() else { return Ok(None) };
        let found = table.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        found.map(|(_, value)| Some(*value)).ok_or_else(|| {
            let words: Vec<String> = table.iter().map(|(word, _)| format!("`{word}`")).collect();
            let (last, others) = words.split_last().map_or(("", &[][..]), |(last, others)| (last, others));
            self.problem(format!("must be {} or {last}", others.join(", ")))
        })
    }
}

/// A count of at least 1; `None` if absent.
pub(super) fn natural(item: &Item<'_>) -> Result<Option<u32>, Problem> {
    Ok(item.integer(1..=u64::from(u32::MAX))?.and_then(|number| u32::try_from(number).ok()))
}

/// A provider's name as an error may repeat it.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", shown(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(text: &str, read: impl FnOnce(&Item<'_>) -> Result<Option<T>, Problem>) -> Result<T, String> {
        let node = Node::Text(text.to_owned());
        read(&Item::root(&node)).map(Option::unwrap).map_err(|problem| problem.what)
    }

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("20", 20_000),
            ("20s", 20_000),
            ("2m", 120_000),
            ("1.5", 1500),
            ("500ms", 500),
            ("24H", 86_400_000),
        ] {
            let found = with(text, |item| item.duration(Duration::ZERO));
            assert_eq!(found, Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1", "nan", "inf", "1e300", "86401", "2d", "1m30s", "1 2"] {
            assert!(with(text, |item| item.duration(Duration::ZERO)).is_err(), "{text}");
        }
        assert!(with("0", |item| item.duration(Duration::from_millis(1))).is_err());
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1024", 1024),
            ("64MiB", 64 << 20),
            ("34M", 34 << 20),
            ("5 kb", 5000),
            ("1G", 1 << 30),
            ("7B", 7),
        ] {
            assert_eq!(with(text, |item| item.bytes(1..=1 << 30)), Ok(bytes), "{text}");
        }
        for text in
            ["", "M", "-1", "1.5M", "1T", "1073741825", "0", "99999999999999999999G", "18446744073709551615G"]
        {
            assert!(with(text, |item| item.bytes(1..=1 << 30)).is_err(), "{text}");
        }
    }

    #[test]
    fn integers_and_booleans() {
        for (text, number) in [("8", Some(8)), ("8.0", Some(8)), ("1_0", Some(10)), ("0", None), ("11", None)]
        {
            assert_eq!(with(text, |item| item.integer(1..=10)).ok(), number, "{text}");
        }
        for text in ["", "x", "-1", "1.5", "99999999999999999999"] {
            assert!(with(text, |item| item.integer(0..=u64::MAX)).is_err(), "{text}");
        }
        for (text, value) in [("True", Some(true)), ("off", Some(false)), ("NO", Some(false)), ("2", None)] {
            assert_eq!(with(text, |item| item.boolean()).ok(), value, "{text}");
        }
    }
}
