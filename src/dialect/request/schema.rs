//! JSON schemas without the words a provider refuses. One pass over the text, order kept; knows where a key is a
//! word and where it is the name of a property.

use super::json::push_string;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The schema without the words in `drop`; `const` there becomes an `enum` of one. What is no JSON, or nested deeper
/// than the parser follows, stays as it is.
pub(super) fn cleaned<'s>(schema: &'s str, drop: &[&str]) -> Cow<'s, str> {
    if !drop.iter().any(|word| schema.contains(word)) {
        return Cow::Borrowed(schema);
    }
    let mut out = String::with_capacity(schema.len());
    let mut json = serde_json::Deserializer::from_str(schema);
    let done = Copy { out: &mut out, drop, place: Place::Schema }.deserialize(&mut json);
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
    drop: &'o [&'o str],
    place: Place,
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
        let Self { out, drop, place } = self;
        out.push('[');
        let mut first = true;
        loop {
            let before = out.len();
            if !std::mem::replace(&mut first, false) {
                out.push(',');
            }
            if seq.next_element_seed(Copy { out, drop, place })?.is_none() {
                out.truncate(before);
                out.push(']');
                return Ok(());
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { out, drop, place } = self;
        out.push('{');
        let mut empty = true;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let refused = place == Place::Schema && drop.contains(&&*key);
            if refused && key != "const" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if !std::mem::replace(&mut empty, false) {
                out.push(',');
            }
            if refused {
                out.push_str("\"enum\":[");
                map.next_value_seed(Copy { out, drop, place: Place::Data })?;
                out.push(']');
            } else {
                push_string(out, &key);
                out.push(':');
                map.next_value_seed(Copy { out, drop, place: inside(place, &key) })?;
            }
        }
        out.push('}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schema: &str, expected: &str) {
        assert_eq!(cleaned(schema, &["$schema", "additionalProperties", "const"]), expected);
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
    }
}
