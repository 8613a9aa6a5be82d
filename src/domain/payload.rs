//! Takes the fields of a payload one by one and notes what is wrong with each.
//!
//! A reader asks for every field it knows, by name and kind. A field that is absent or `null` gives `None`, and so does
//! one that is wrong, after its problem was noted: a reader goes on to the end, and looks at the problems once.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde_json::value::RawValue;

use super::id::shortened;
use super::object::{NotAnObject, Object, Text, kind};
use super::rejection::{Problems, Reason};

/// The fields of one JSON object, and the problems found in them so far.
pub(super) struct Payload<'a, 'p> {
    object: Object<'a>,
    /// What stands before a field's name in a problem: nothing, or as `retry.` or `tasks[3].retry.`.
    path: Cow<'static, str>,
    problems: &'p mut Problems,
}

impl<'a, 'p> Payload<'a, 'p> {
    /// Notes every field that is not in `known`.
    pub(super) fn new(
        object: Object<'a>,
        path: impl Into<Cow<'static, str>>,
        known: &[&str],
        problems: &'p mut Problems,
    ) -> Self {
        let path = path.into();
        for (key, _) in object.fields.iter().filter(|(key, _)| !known.contains(&&**key)) {
            // The message costs time, and there may be a hundred thousand.
            let message = if problems.is_full() {
                String::new()
            } else {
                unknown_field(key, known)
            };
            problems.add(Reason::UnknownField, Some(&format!("{path}{key}")), message);
        }
        Self { object, path, problems }
    }

    /// Notes a problem with a field.
    pub(super) fn note(&mut self, reason: Reason, field: &str, message: impl Into<String>) {
        self.problems
            .add(reason, Some(&format!("{}{field}", self.path)), message);
    }

    /// The value as it stands.
    pub(super) fn raw(&self, field: &str) -> Option<&'a RawValue> {
        self.object.get(field)
    }

    /// A string.
    pub(super) fn text(&mut self, field: &str) -> Option<Cow<'a, str>> {
        match as_text(self.raw(field)?) {
            Ok(text) => Some(text),
            Err(message) => {
                self.note(Reason::InvalidField, field, message);
                None
            }
        }
    }

    /// A string that stands for a `T`.
    pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, field: &str) -> Option<T> {
        match self.text(field)?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.note(Reason::InvalidField, field, error.to_string());
                None
            }
        }
    }

    /// A string that stands for a `T` and must be there.
    pub(super) fn required<T: FromStr<Err: fmt::Display>>(&mut self, field: &str) -> Option<T> {
        if self.raw(field).is_none() {
            self.note(Reason::MissingField, field, "is required");
        }
        self.parsed(field)
    }

    /// A string that must be there.
    pub(super) fn required_text(&mut self, field: &str) -> Option<Cow<'a, str>> {
        if self.raw(field).is_none() {
            self.note(Reason::MissingField, field, "is required");
        }
        self.text(field)
    }

    /// A string of at most so many bytes.
    pub(super) fn short_text(&mut self, field: &str, most: usize) -> Option<Cow<'a, str>> {
        let text = self.text(field)?;
        if text.len() > most {
            let message = format!("has {} bytes, must have at most {most}", text.len());
            self.note(Reason::InvalidField, field, message);
        }
        Some(text)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, field: &str) -> Option<bool> {
        let value = self.raw(field)?;
        let boolean = serde_json::from_str(value.get()).ok();
        if boolean.is_none() {
            self.note(
                Reason::InvalidField,
                field,
                format!("must be true or false, is {}", kind(value)),
            );
        }
        boolean
    }

    /// A number that `fits`; `expected` says which do, as `from 0 to 1`.
    pub(super) fn number(
        &mut self,
        field: &str,
        expected: impl fmt::Display,
        fits: impl Fn(f64) -> bool,
    ) -> Option<f64> {
        let value = self.raw(field)?;
        let number = serde_json::from_str(value.get()).ok().filter(|&number| fits(number));
        if number.is_none() {
            self.note(
                Reason::InvalidField,
                field,
                format!("must be a number {expected}, is {}", shown(value)),
            );
        }
        number
    }

    /// A whole number, at most `most`.
    pub(super) fn integer(&mut self, field: &str, most: u32) -> Option<u32> {
        let value = self.raw(field)?;
        let number = serde_json::from_str(value.get()).ok().filter(|&number| number <= most);
        if number.is_none() {
            let message = format!("must be an integer from 0 to {most}, is {}", shown(value));
            self.note(Reason::InvalidField, field, message);
        }
        number
    }

    /// An array, byte for byte.
    pub(super) fn array(&mut self, field: &str) -> Option<&'a RawValue> {
        self.of_kind(field, "an array")
    }

    /// An object, byte for byte.
    pub(super) fn object(&mut self, field: &str) -> Option<&'a RawValue> {
        self.of_kind(field, "an object")
    }

    fn of_kind(&mut self, field: &str, expected: &'static str) -> Option<&'a RawValue> {
        let value = self.raw(field)?;
        if kind(value) == expected {
            return Some(value);
        }
        self.note(
            Reason::InvalidField,
            field,
            format!("must be {expected}, is {}", kind(value)),
        );
        None
    }

    /// The entries of an array.
    pub(super) fn entries(&mut self, field: &str) -> Option<Vec<&'a RawValue>> {
        let array = self.array(field)?;
        Some(serde_json::from_str(array.get()).expect("it is an array: its kind was looked at"))
    }

    /// An object inside, with its own `known` fields.
    pub(super) fn inner<'s>(&'s mut self, field: &str, known: &[&str]) -> Option<Payload<'a, 's>> {
        let value = self.raw(field)?;
        self.object_at(field, value, known)
    }

    /// An object anywhere inside, as an entry of an array, with its own `known` fields; `place` is its path from here.
    pub(super) fn object_at<'s>(
        &'s mut self,
        place: &str,
        value: &'a RawValue,
        known: &[&str],
    ) -> Option<Payload<'a, 's>> {
        match Object::parse(value.get()) {
            Ok(object) => {
                let path = format!("{}{place}.", self.path);
                Some(Payload::new(object, path, known, self.problems))
            }
            Err(NotAnObject::OtherKind(kind)) => {
                self.note(Reason::InvalidField, place, format!("must be an object, is {kind}"));
                None
            }
            Err(error) => {
                self.note(Reason::InvalidField, place, error.to_string());
                None
            }
        }
    }

    /// The problems found so far.
    pub(super) fn problems(&mut self) -> &mut Problems {
        self.problems
    }
}

/// The string that a value is, or what is wrong with it.
pub(super) fn as_text(value: &RawValue) -> Result<Cow<'_, str>, String> {
    match serde_json::from_str::<Text<'_>>(value.get()) {
        Ok(Text(text)) => Ok(text),
        Err(_) if kind(value) == "a string" => Err("has a \\u escape that is no character".to_owned()),
        Err(_) => Err(format!("must be a string, is {}", kind(value))),
    }
}

/// A number as it stands, anything else by its kind: a message does not repeat what might be private.
fn shown(value: &RawValue) -> String {
    match kind(value) {
        "a number" => shortened(value.get()),
        other => other.to_owned(),
    }
}

/// What one kind of event calls otherwise than another.
const OTHERWISE: [(&str, &str); 8] = [
    ("task_name", "action"),
    ("task_name", "name"),
    ("name", "task_name"),
    ("key", "task_id"),
    ("key", "name"),
    ("task_id", "key"),
    ("dependencies", "depends_on"),
    ("depends_on", "dependencies"),
];

fn unknown_field(key: &str, known: &[&str]) -> String {
    let otherwise = OTHERWISE
        .into_iter()
        .find(|(name, meant)| *name == key && known.contains(meant))
        .map(|(_, meant)| meant);
    match otherwise.or_else(|| nearest(key, known)) {
        Some(meant) => format!("is not a known field; did you mean `{meant}`?"),
        None => format!("is not a known field; there are {}", known.join(", ")),
    }
}

/// The first of the closest among `known`, if it is at most two edits away.
pub(super) fn nearest<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .filter(|name| name.len().abs_diff(text.len()) <= 2)
        .map(|name| (edits(text.as_bytes(), name.as_bytes()), *name))
        .min_by_key(|(edits, _)| *edits)
        .filter(|(edits, name)| *edits <= 2 && *edits < name.len())
        .map(|(_, name)| name)
}

/// How many bytes have to be put in, taken out or replaced to turn one into the other (Levenshtein's distance).
fn edits(from: &[u8], to: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (place, byte) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = place + 1;
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(byte != other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_at_most_two_edits_away() {
        let known = ["task_name", "priority", "key", "tags"];
        for (text, meant) in [
            ("taskname", Some("task_name")),
            ("taskName", Some("task_name")),
            ("prioirty", Some("priority")),
            ("Priority", Some("priority")),
            ("tag", Some("tags")),
            ("prio", None),
            ("", None),
            ("colour", None),
        ] {
            assert_eq!(nearest(text, &known), meant, "{text}");
        }
        assert_eq!(edits(b"kitten", b"sitting"), 3);
    }

    #[test]
    fn a_field_that_is_wrong_is_noted_and_does_not_stop_the_others() {
        let mut problems = Problems::default();
        let object = Object::parse(r#"{"a":"x","b":-1,"c":{"d":[]},"e":"\ud800","f":null}"#).unwrap();
        let mut payload = Payload::new(object, "", &["a", "b", "c", "e", "f"], &mut problems);

        assert_eq!(payload.text("a").as_deref(), Some("x"));
        assert_eq!(payload.integer("b", 5), None);
        assert_eq!(payload.inner("c", &["d"]).unwrap().text("d"), None);
        assert_eq!(payload.text("e"), None);
        assert_eq!(payload.number("f", "", |_| true), None);

        assert_eq!(
            problems.into_rejection().unwrap().to_string(),
            "invalid_field: `b` must be an integer from 0 to 5, is -1; `c.d` must be a string, is an array; \
             `e` has a \\u escape that is no character"
        );
    }

    #[test]
    fn a_flood_of_unknown_fields_takes_no_time() {
        let mut problems = Problems::default();
        let fields: Vec<_> = (0..100_000).map(|number| format!("\"{number}\":0")).collect();
        let text = format!("{{{}}}", fields.join(","));

        Payload::new(Object::parse(&text).unwrap(), "", &["a"], &mut problems);

        assert_eq!(
            problems.into_rejection().unwrap().problems.len(),
            Problems::MAX_LISTED + 1
        );
    }
}
