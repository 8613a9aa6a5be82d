//! The events of a run held against the document of the bus, so that it can not say anything else than what is sent.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Value, json};
use waooaw_orchestration::service::asyncapi;

use super::log::LogEvent;

struct Known {
    headers: Validator,
    /// What stands in the log, by the type of the event.
    payloads: BTreeMap<String, Validator>,
    /// What stands in inboxes, by the same.
    assignments: BTreeMap<String, Validator>,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let document = asyncapi::document();
    let components = &document["components"];
    let build = |schema: &Value| {
        let mut whole = schema.clone();
        whole["components"] = json!({ "schemas": components["schemas"] });
        jsonschema::options()
            .should_validate_formats(true)
            .build(&whole)
            .unwrap()
    };
    let payloads = |channel: &str| {
        let messages = document["channels"][channel]["messages"].as_object().unwrap();
        let payloads = messages.values().map(|message| {
            let message = &document.pointer(&message["$ref"].as_str().unwrap()[1..]).unwrap();
            let name = message["payload"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
            let mut schema = components["schemas"][name].clone();
            // Readers are told to expect more members; what this version sends must all be told.
            schema["additionalProperties"] = json!(false);
            (message["name"].as_str().unwrap().to_owned(), build(&schema))
        });
        payloads.collect()
    };
    Known {
        headers: build(&components["schemas"]["OutboundHeaders"]),
        payloads: payloads("events"),
        assignments: payloads("inbox"),
    }
});

/// Checks that the document knows each event, with every member of it.
pub(crate) fn check(events: &[LogEvent]) {
    for event in events {
        let kind = format!("orchestration.{}", event.kind);
        check_one(&KNOWN.payloads, &kind, &event.fields, &event.payload);
    }
}

/// The same of what stands in an agent's inbox.
pub(crate) fn check_assignment(fields: &BTreeMap<String, String>) {
    let payload = serde_json::from_str(&fields["payload"]).unwrap();
    check_one(&KNOWN.assignments, &fields["event_type"], fields, &payload);
}

fn check_one(known: &BTreeMap<String, Validator>, kind: &str, fields: &BTreeMap<String, String>, payload: &Value) {
    let headers: Value = fields
        .iter()
        .filter(|(name, _)| *name != "payload")
        .map(|(name, text)| (name.clone(), json!(text)))
        .collect();
    if let Err(error) = KNOWN.headers.validate(&headers) {
        panic!("docs/asyncapi.json says otherwise of the envelope of {fields:?}: {error}");
    }
    let Some(schema) = known.get(kind) else {
        panic!("docs/asyncapi.json does not know {kind}; src/domain/schema makes it");
    };
    if let Err(error) = schema.validate(payload) {
        panic!(
            "docs/asyncapi.json says otherwise of {kind}, at `{}`: {error}\n{payload}\nsrc/domain/schema makes it",
            error.instance_path(),
        );
    }
}
