//! The events of a run held against the document of the bus, so that it can not say anything else than what is sent.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Value, json};
use waooaw_orchestration::service::asyncapi;

use super::log::LogEvent;

struct Known {
    headers: Validator,
    /// By the type of the event.
    payloads: BTreeMap<String, Validator>,
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
    let payloads = components["messages"].as_object().unwrap().values().map(|message| {
        let name = message["payload"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
        let mut schema = components["schemas"][name].clone();
        // Readers are told to expect more members; what this version sends must all be told.
        schema["additionalProperties"] = json!(false);
        (message["name"].as_str().unwrap().to_owned(), build(&schema))
    });
    Known {
        headers: build(&components["schemas"]["OutboundHeaders"]),
        payloads: payloads.collect(),
    }
});

/// Checks that the document knows each event, with every member of it.
pub(crate) fn check(events: &[LogEvent]) {
    for event in events {
        let headers: Value = event
            .fields
            .iter()
            .filter(|(name, _)| *name != "payload")
            .map(|(name, text)| (name.clone(), json!(text)))
            .collect();
        if let Err(error) = KNOWN.headers.validate(&headers) {
            panic!("docs/asyncapi.json says otherwise of the envelope of {event:?}: {error}");
        }
        let kind = format!("orchestration.{}", event.kind);
        let Some(payload) = KNOWN.payloads.get(&kind) else {
            panic!("docs/asyncapi.json does not know {kind}; src/domain/schema/outbound.rs makes it");
        };
        if let Err(error) = payload.validate(&event.payload) {
            panic!(
                "docs/asyncapi.json says otherwise of {kind}, at `{}`: {error}\n{}\nsrc/domain/schema/outbound.rs makes it",
                error.instance_path(),
                event.payload
            );
        }
    }
}
