//! JSON schemas as a provider takes them. One pass over the text, order kept; knows where a key is a word and where it
//! is the name of a property.

use super::json::push_string;
use crate::limits::SCHEMA_BYTES_MAX;
use crate::provider::quirks::{Word, Written};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// The schema without the words that are refused; `const` among them becomes an `enum` of one. Where they must be tidy,
/// arrays without `items` are of strings, and `required` loses what is no property and what it says twice. What is no
/// JSON, longer than [`SCHEMA_BYTES_MAX`] or nested deeper than the parser follows, stays as it is.
pub(super) fn cleaned<'s>(schema: &'s str, quirks: &Written) -> Cow<'s, str> {
    let (drop, tidy) = (quirks.schema_drop.as_slice(), quirks.schema_tidy);
    let untidy = tidy && ["array", "required"].iter().any(|word| schema.contains(word));
    if schema.len() > SCHEMA_BYTES_MAX || !untidy && !drop.iter().any(|word| schema.contains(&**word)) {
        return Cow::Borrowed(schema);
    }
    let mut out = String::with_capacity(schema.len());
    let mut json = serde_json::Deserializer::from_str(schema);
    let copy = Copy { out: &mut out, drop, tidy, place: Place::Schema, names: None };
    let done = copy.deserialize(&mut json);
    match done.and_then(|()| json.end()) {
        Ok(()) => Cow::Owned(out),
        Err(_) => Cow::Borrowed(schema),
    }
}

/// What the value at hand is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A schema, or an array of schemas: keys are words.
    Schema,
    /// Schemas by name: keys are the client's.
    Names,
    /// Anything; copied.
    Data,
}

fn inside(place: Place, key: &str) -> Place {
    match (place, key) {
        (Place::Names, _) => Place::Schema,
        (_, "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas") => {
            Place::Names
        }
        (
            _,
            "items"
            | "prefixItems"
            | "additionalItems"
            | "unevaluatedItems"
            | "contains"
            | "additionalProperties"
            | "unevaluatedProperties"
            | "propertyNames"
            | "anyOf"
            | "oneOf"
            | "allOf"
            | "not"
            | "if"
            | "then"
            | "else",
        ) => Place::Schema,
        _ => Place::Data,
    }
}

struct Copy<'o> {
    out: &'o mut String,
    drop: &'o [Word],
    tidy: bool,
    place: Place,
    /// Where the names of properties are noted.
    names: Option<&'o mut HashSet<String>>,
}

impl<'de> DeserializeSeed<'de> for Copy<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if self.place == Place::Data {
            self.out.push_str(<&RawValue>::deserialize(from)?.get());
            return Ok(());
        }
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Copy<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a schema")
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.out.push_str("null");
        Ok(())
    }
    fn visit_bool<E: Error>(self, flag: bool) -> Result<(), E> {
        self.out.push_str(if flag { "true" } else { "false" });
        Ok(())
    }
    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.out.push_str(&number.to_string());
        Ok(())
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        push_string(self.out, text);
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { out, drop, tidy, place, .. } = self;
        out.push('[');
        let mut first = true;
        loop {
            let before = out.len();
            if !std::mem::replace(&mut first, false) {
                out.push(',');
            }
            if seq.next_element_seed(Copy { out, drop, tidy, place, names: None })?.is_none() {
                out.truncate(before);
                out.push(']');
                return Ok(());
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { out, drop, tidy, place, mut names } = self;
        let is_schema = place == Place::Schema;
        // Of this object, where it is a schema that must be tidy.
        let (mut is_array, mut has_items, mut required) = (false, false, None);
        let mut properties = HashSet::new();
        out.push('{');
        let mut empty = true;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if let Some(names) = &mut names {
                names.insert(key.clone().into_owned());
            }
            let refused = is_schema && drop.iter().any(|word| *word == *key);
            if refused && key != "const" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if is_schema && tidy && key == "required" {
                required = Some(map.next_value::<&RawValue>()?);
                continue;
            }
            if !std::mem::replace(&mut empty, false) {
                out.push(',');
            }
            if refused {
                out.push_str("\"enum\":[");
                map.next_value_seed(Copy { out, drop, tidy, place: Place::Data, names: None })?;
                out.push(']');
                continue;
            }
            push_string(out, &key);
            out.push(':');
            let from = out.len();
            let names = (is_schema && tidy && key == "properties").then_some(&mut properties);
            map.next_value_seed(Copy { out, drop, tidy, place: inside(place, &key), names })?;
            if is_schema {
                has_items |= key == "items";
                is_array |= key == "type" && out.get(from..).is_some_and(|kind| kind.contains("\"array\""));
            }
        }
        let mut comma = if empty { "" } else { "," };
        if tidy && is_array && !has_items {
            out.extend([comma, "\"items\":{\"type\":\"string\"}"]);
            comma = ",";
        }
        if let Some(required) = required {
            push_required(out, comma, required.get(), properties);
        }
        out.push('}');
        Ok(())
    }
}

/// Writes `required`, each property once; nothing if none is left.
fn push_required(out: &mut String, comma: &str, required: &str, mut properties: HashSet<String>) {
    let names: Vec<Cow<'_, str>> = serde_json::from_str(required).unwrap_or_default();
    let mut any = false;
    for name in names.into_iter().filter(|name| properties.remove(&**name)) {
        match std::mem::replace(&mut any, true) {
            false => out.extend([comma, "\"required\":["]),
            true => out.push(','),
        }
        push_string(out, &name);
    }
    if any {
        out.push(']');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quirks(schema_tidy: bool) -> Written {
        let schema_drop = ["$schema", "additionalProperties", "const"].map(Cow::Borrowed).to_vec();
        Written { schema_drop, schema_tidy, ..crate::provider::quirks::Quirks::of(None, "").written }
    }

    #[track_caller]
    fn check(schema: &str, expected: &str) {
        assert_eq!(cleaned(schema, &quirks(false)), expected);
    }

    #[track_caller]
    fn check_tidy(schema: &str, expected: &str) {
        let found = cleaned(schema, &quirks(true));
        assert_eq!(found, expected);
        assert_eq!(cleaned(&found, &quirks(true)), expected, "what is tidy stays");
    }

    #[test]
    fn arrays_say_what_they_hold_and_required_names_what_is_there() {
        check(r#"{"type":"array","required":["a"]}"#, r#"{"type":"array","required":["a"]}"#);
        check_tidy(r#"{"type":"array"}"#, r#"{"type":"array","items":{"type":"string"}}"#);
        check_tidy(
            r#"{"type":["array","null"],"description":"\"array\""}"#,
            r#"{"type":["array","null"],"description":"\"array\"","items":{"type":"string"}}"#,
        );
        check_tidy(
            r#"{"items":{"type":"array","items":{}},"type":"array"}"#,
            r#"{"items":{"type":"array","items":{}},"type":"array"}"#,
        );
        check_tidy(
            r#"{"type":"object","required":["a","b","a"],"properties":{"a":{"type":"array"},"array":{}}}"#,
            r#"{"type":"object","properties":{"a":{"type":"array","items":{"type":"string"}},"array":{}},"required":["a"]}"#,
        );
        check_tidy(
            r#"{"anyOf":[{"required":["a"]},{"type":"string"}]}"#,
            r#"{"anyOf":[{},{"type":"string"}]}"#,
        );
        check_tidy(r#"{"type":"object","required":"a"}"#, r#"{"type":"object"}"#);
        check_tidy(r#"{"required":["a"],"type":"array"}"#, r#"{"type":"array","items":{"type":"string"}}"#);
        // Names of properties are no words.
        check_tidy(
            r#"{"properties":{"required":{"type":"string"},"type":{"enum":["array"]},"items":{}}}"#,
            r#"{"properties":{"required":{"type":"string"},"type":{"enum":["array"]},"items":{}}}"#,
        );
        check_tidy(
            r#"{"required":["é"],"properties":{"\u00e9":true}}"#,
            r#"{"properties":{"é":true},"required":["é"]}"#,
        );
        check_tidy(r#"{"default":{"type":"array"}}"#, r#"{"default":{"type":"array"}}"#);
    }

    #[test]
    fn words_go_and_names_stay() {
        check(r#"{"type": "object"}"#, r#"{"type": "object"}"#);
        check(r#"{"$schema":"x","type":"object"}"#, r#"{"type":"object"}"#);
        check(r#"{"additionalProperties":{"a":[1]}}"#, "{}");
        check(
            r#"{"properties":{"additionalProperties":{"type":"string","additionalProperties":true},"b":true}}"#,
            r#"{"properties":{"additionalProperties":{"type":"string"},"b":true}}"#,
        );
        check(
            r#"{"anyOf":[{"const":1},{"$schema":"x"},{"items":[{"const":{"const":2}}]}]}"#,
            r#"{"anyOf":[{"enum":[1]},{},{"items":[{"enum":[{"const":2}]}]}]}"#,
        );
        check(r#"{"default":{"$schema":1},"not":false}"#, r#"{"default":{"$schema":1},"not":false}"#);
        check(r#"{"$defs":{"$schema":{"const":"a"}}}"#, r#"{"$defs":{"$schema":{"enum":["a"]}}}"#);
    }

    #[test]
    fn what_cannot_be_read_stays() {
        let deep = format!("{}{}{}", r#"{"not":"#.repeat(200), r#"{"$schema":1}"#, "}".repeat(200));
        check(&deep, &deep);
        check(r#"{"$schema":"#, r#"{"$schema":"#);
        let of_len =
            |len: usize| format!(r#"{{"$schema":"{}"}}"#, "x".repeat(len - r#"{"$schema":""}"#.len()));
        check(&of_len(SCHEMA_BYTES_MAX), "{}");
        let long = of_len(SCHEMA_BYTES_MAX + 1);
        check(&long, &long);
    }
}
