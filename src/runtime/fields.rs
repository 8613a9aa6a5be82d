//! The fields of a payload as a program sets them, one by one.
//!
//! They become the text of the payload and are then read by the rules of its event, so that a program is told the same as
//! an agent, with every problem by its path. What can not be JSON at all is kept and told when the text is asked for.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::domain::rejection::{Reason, Rejection};

/// The fields of an object.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields {
    values: BTreeMap<&'static str, Box<RawValue>>,
    /// The first field that can not be JSON, and why.
    problem: Option<(String, String)>,
}

impl Fields {
    pub(super) fn set(&mut self, field: &'static str, value: &(impl Serialize + ?Sized)) {
        match to_raw_value(value) {
            Ok(value) => drop(self.values.insert(field, value)),
            Err(error) => drop(self.problem.get_or_insert((field.to_owned(), error.to_string()))),
        }
    }

    /// Sets a field to a list of objects.
    pub(super) fn set_list(&mut self, field: &'static str, list: impl IntoIterator<Item = Self>) {
        let mut objects = Vec::new();
        for (place, fields) in list.into_iter().enumerate() {
            if let Some((inner, message)) = fields.problem {
                self.problem
                    .get_or_insert((format!("{field}[{place}].{inner}"), message));
            }
            objects.push(fields.values);
        }
        self.set(field, &objects);
    }

    /// Calls a field by another name, if it is set.
    pub(super) fn rename(&mut self, from: &'static str, to: &'static str) {
        if let Some(value) = self.values.remove(from) {
            self.values.insert(to, value);
        }
    }

    /// Gives a field what another has, if that is set and the field is not.
    pub(super) fn default_to(&mut self, field: &'static str, other: &str) {
        if let Some(value) = self.values.get(other).cloned() {
            self.values.entry(field).or_insert(value);
        }
    }

    /// The object as text.
    ///
    /// # Errors
    ///
    /// [`Rejection`] for a field that can not be JSON.
    pub(super) fn into_payload(self) -> Result<String, Rejection> {
        if let Some((field, message)) = self.problem {
            return Err(Rejection::new(Reason::InvalidField, Some(&field), message));
        }
        serde_json::to_string(&self.values).map_err(|error| Rejection::new(Reason::Malformed, None, error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_json_is_told_by_its_path() {
        let mut bad = Fields::default();
        bad.set("args", &BTreeMap::from([((1, 2), 3)]));
        let mut whole = Fields::default();
        whole.set("name", "n");
        whole.set_list("steps", [Fields::default(), bad]);

        let told = whole.into_payload().unwrap_err().to_string();

        assert!(told.starts_with("invalid_field: `steps[1].args` "), "{told}");
    }

    #[test]
    fn a_field_that_is_not_set_is_left_out() {
        let mut fields = Fields::default();
        fields.set("task_name", "charge");
        fields.rename("task_name", "name");
        fields.rename("key", "task_id");
        fields.default_to("task_id", "name");
        fields.default_to("queue", "nothing");

        assert_eq!(
            fields.into_payload().unwrap(),
            r#"{"name":"charge","task_id":"charge"}"#
        );
    }
}
