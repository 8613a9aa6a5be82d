//! What a command was about that can not be read in full.
//!
//! Whoever sent it looks for the answer under the id that it named, so the answer names it too, as far as the payload is
//! JSON at all. What is copied is bounded and never trusted: it may be the id of nothing.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::store::inbound::Entry;

/// The longest id that is copied, in bytes; no id is longer.
const ID_BYTES_MAX: usize = 128;
/// The longest number that is copied.
const NUMBER_BYTES_MAX: usize = 20;

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    task_id: Option<&'a RawValue>,
    #[serde(borrow)]
    workflow_id: Option<&'a RawValue>,
    #[serde(borrow)]
    saga_id: Option<&'a RawValue>,
    #[serde(borrow)]
    attempt: Option<&'a RawValue>,
}

/// A whole event of CloudEvents in one field.
#[derive(Deserialize)]
struct Structured<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// The ids that the payload of an entry names, as members of the event that refuses it: `,"task_id":"…"` and the like.
pub(super) fn members(entry: &Entry) -> String {
    let field = |name: &str| {
        let found = entry.fields.iter().find(|(known, _)| known == name.as_bytes());
        found.and_then(|(_, value)| str::from_utf8(value).ok())
    };
    let payload = field("payload").or_else(|| field("data")).or_else(|| {
        let event: Structured<'_> = serde_json::from_str(field("cloudevent")?).ok()?;
        Some(event.data?.get())
    });
    let Some(Ok(named)) = payload.map(serde_json::from_str::<Named<'_>>) else {
        return String::new();
    };
    let mut members = Vec::new();
    for (name, value) in [
        ("task_id", named.task_id),
        ("workflow_id", named.workflow_id),
        ("saga_id", named.saga_id),
    ] {
        let id = value.and_then(|value| serde_json::from_str::<String>(value.get()).ok());
        if let Some(id) = id.filter(|id| id.len() <= ID_BYTES_MAX) {
            members.push(format!(",\"{name}\":{}", serde_json::json!(id)));
        }
    }
    let number = named.attempt.map(RawValue::get).filter(|text| {
        text.len() <= NUMBER_BYTES_MAX && text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
    });
    if let Some(number) = number {
        members.push(format!(",\"attempt\":{number}"));
    }
    members.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, value: &str) -> String {
        members(&Entry {
            id: "1-0".to_owned(),
            fields: vec![(name.into(), value.into())],
        })
    }

    #[test]
    fn what_a_faulty_payload_names_is_copied_and_nothing_else_is() {
        let long = "x".repeat(129);
        for (payload, expected) in [
            (
                r#"{"task_id":"a\"b","attempt":2,"status":7}"#,
                r#","task_id":"a\"b","attempt":2"#,
            ),
            (r#"{"workflow_id":"w","reason":[]}"#, r#","workflow_id":"w""#),
            (r#"{"saga_id":"s","x":{}}"#, r#","saga_id":"s""#),
            (r#"{"task_id":5,"attempt":"2"}"#, ""),
            (r#"{"task_id":null,"attempt":null}"#, ""),
            (r#"{"task_id":"a","task_id":"b"}"#, ""),
            (r#"{"task_id":"a""#, ""),
            (&format!(r#"{{"task_id":"{long}"}}"#), ""),
            ("[]", ""),
            ("", ""),
        ] {
            assert_eq!(of("payload", payload), expected, "{payload}");
        }
    }

    #[test]
    fn it_is_found_in_every_form_of_an_event() {
        assert_eq!(of("data", r#"{"task_id":"a"}"#), r#","task_id":"a""#);
        let whole = r#"{"specversion":"1.0","type":"t","data":{"task_id":"a"}}"#;
        assert_eq!(of("cloudevent", whole), r#","task_id":"a""#);
        assert_eq!(of("colour", r#"{"task_id":"a"}"#), "");
    }
}
