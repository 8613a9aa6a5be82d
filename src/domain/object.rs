//! The top level of a JSON object, read in one pass.
//!
//! Values stay text. A tree of values would round big numbers, refuse `1e400` and forget the order of keys, and what a
//! sender put into `args` has to reach its handler byte for byte. So only the keys are decoded, each value is kept as
//! the piece of text it came from, and whoever wants one reads it from there.
//!
//! Nesting is measured on the bytes, before any parser sees them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::id::shortened;

/// The fields of a JSON object, in their order; no key comes twice.
#[derive(Debug)]
pub(super) struct Object<'a> {
    pub(super) fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// The text is not a JSON object.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAnObject {
    /// It is not JSON.
    #[error("is not valid JSON: {0}")]
    Malformed(String),
    /// It is JSON of another kind.
    #[error("must be a JSON object, is {0}")]
    OtherKind(&'static str),
    /// A key comes twice.
    #[error("comes twice")]
    DuplicateKey(String),
}

impl<'a> Object<'a> {
    /// Reads the whole text as one object. Its values are valid JSON, whatever they are.
    pub(super) fn parse(text: &'a str) -> Result<Self, NotAnObject> {
        opens_object(text)?;
        let fields = serde_json::from_str::<Fields<'a>>(text)
            .map_err(|error| malformed(text, &error))?
            .0;
        match first_duplicate(&fields) {
            Some(key) => Err(NotAnObject::DuplicateKey(shortened(key))),
            None => Ok(Self { fields }),
        }
    }

    /// The value under `key`. `null` counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.fields
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| *value)
            .filter(|value| value.get() != "null")
    }
}

/// Whether the text begins as an object does; if not, what it is instead.
pub(super) fn opens_object(text: &str) -> Result<(), NotAnObject> {
    if text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{') {
        return Ok(());
    }
    match serde_json::from_str::<&RawValue>(text) {
        Ok(value) => Err(NotAnObject::OtherKind(kind(value))),
        Err(error) => Err(malformed(text, &error)),
    }
}

fn malformed(text: &str, error: &serde_json::Error) -> NotAnObject {
    NotAnObject::Malformed(if text.starts_with('\u{feff}') {
        "it begins with a byte order mark".to_owned()
    } else {
        error.to_string()
    })
}

/// What a JSON value is, with its article.
pub(super) fn kind(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(_) | None => "a number",
    }
}

/// Whether arrays and objects lie more than `limit` deep in each other.
///
/// One look at each byte and no recursion, so any depth is measured with the same stack. On text that is not JSON the
/// answer means nothing, but it comes.
pub(super) fn is_deeper_than(text: &[u8], limit: usize) -> bool {
    let mut depth = 0_usize;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    false
}

/// Moves past the closing quote.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

/// A string that borrows from the input unless it has escapes.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// The key that comes twice, if any. A few are compared with each other, many are hashed: a mebibyte of keys would
/// otherwise take seconds.
fn first_duplicate<'o>(fields: &'o [(Cow<'_, str>, &RawValue)]) -> Option<&'o str> {
    if fields.len() <= 32 {
        let comes_before = |place: usize| fields[..place].iter().any(|(key, _)| *key == fields[place].0);
        return (0..fields.len())
            .find(|&place| comes_before(place))
            .map(|place| &*fields[place].0);
    }
    let mut seen = HashSet::with_capacity(fields.len());
    fields.iter().map(|(key, _)| &**key).find(|key| !seen.insert(*key))
}

struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::with_capacity(8);
        while let Some(Text(key)) = map.next_key()? {
            fields.push((key, map.next_value()?));
        }
        Ok(Fields(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_as_the_text_they_came_as() {
        let text = " {\"a\" : [1e400, 12345678901234567890123 ],\"b\\u0063\":{\"z\":1,\"a\":2} }\n";

        let object = Object::parse(text).unwrap();

        assert_eq!(object.get("a").unwrap().get(), "[1e400, 12345678901234567890123 ]");
        assert_eq!(object.get("bc").unwrap().get(), r#"{"z":1,"a":2}"#);
        assert!(matches!(object.fields[0].0, Cow::Borrowed("a")));
    }

    #[test]
    fn null_is_as_good_as_absent() {
        assert!(Object::parse(r#"{"a":null}"#).unwrap().get("a").is_none());
    }

    #[test]
    fn what_is_no_object_is_told_from_what_is_no_json() {
        assert_eq!(Object::parse(" [1]").unwrap_err(), NotAnObject::OtherKind("an array"));
        assert_eq!(Object::parse("true").unwrap_err(), NotAnObject::OtherKind("a boolean"));
        assert_eq!(Object::parse("-0").unwrap_err(), NotAnObject::OtherKind("a number"));
        for text in [
            "",
            "{",
            "{\"a\":}",
            "{} x",
            "{'a':1}",
            "{\"a\":1,}",
            "\u{feff}{}",
            "{\"a\":\"\0\"}",
            "\0",
        ] {
            assert!(
                matches!(Object::parse(text), Err(NotAnObject::Malformed(_))),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_key_that_comes_twice_is_found_among_few_and_among_many() {
        let few = r#"{"a":1,"\u0061":2}"#;
        let many: Vec<_> = (0..100_000).map(|number| format!("\"{number}\":0")).collect();
        let many = format!("{{{},\"7\":0}}", many.join(","));

        assert_eq!(Object::parse(few).unwrap_err(), NotAnObject::DuplicateKey("a".into()));
        assert_eq!(Object::parse(&many).unwrap_err(), NotAnObject::DuplicateKey("7".into()));
    }

    #[test]
    fn depth_is_measured_outside_of_strings_and_on_any_stack() {
        assert!(!is_deeper_than(br#"{"a":["[[[[\"[["]}"#, 2));
        assert!(is_deeper_than(br#"{"a":[{"b":"]"}]}"#, 2));
        assert!(!is_deeper_than(b"[][][][]", 1));
        assert!(is_deeper_than("[".repeat(100_000).as_bytes(), 99_999));
        assert!(!is_deeper_than("[".repeat(100_000).as_bytes(), 100_000));
        assert!(!is_deeper_than(b"]]\"\\", 0));
    }
}
