//! What may stand in the payloads of the bus, as JSON Schema.
//!
//! Made from the names and limits that the readers use, and held to them by tests: a corpus that both must judge alike, and
//! the events of real runs. The words are those that JSON Schema draft 7 and 2020-12 have in common, so that the documents of
//! the bus (AsyncAPI) and of HTTP (OpenAPI) can take them as they are. References lead to `#/components/schemas/`, which both
//! documents have.
//!
//! Schemas do not say all: that keys are unique, that no task depends on itself in a ring, how many bytes an entry has. They
//! are stricter where readers are lenient: words are read in any case.

#![allow(
    clippy::needless_pass_by_value,
    clippy::too_many_lines,
    reason = "schemas are flat tables, made of parts that are given away"
)]

pub mod inbound;
pub mod inbox;
pub mod outbound;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::id::{Name, QueueName};
use super::priority::Priority;

/// Schemas by name.
pub type Definitions = BTreeMap<&'static str, Value>;

/// All of them, by the names under which they refer to each other.
#[must_use]
pub fn definitions() -> Definitions {
    let mut all = BTreeMap::from([
        (
            "Name",
            json!({
                "type": "string",
                "description": "A name that a caller chose: of a task's handler, a workflow, a saga, an agent, a key",
                "pattern": "^[A-Za-z0-9._:/-]+$",
                "minLength": 1,
                "maxLength": Name::MAX_LENGTH,
            }),
        ),
        (
            "QueueName",
            json!({
                "type": "string",
                "description": "The name of a queue",
                "pattern": "^[A-Za-z0-9._-]+$",
                "minLength": 1,
                "maxLength": QueueName::MAX_LENGTH,
            }),
        ),
        (
            "TaskId",
            json!({ "type": "string", "description": "The id of a task", "format": "uuid" }),
        ),
        (
            "Priority",
            json!({
                "type": "string",
                "description": "How urgent a task is",
                "enum": Priority::ALL.map(Priority::as_str),
            }),
        ),
    ]);
    all.extend(inbound::definitions());
    all.extend(outbound::definitions());
    all.extend(inbox::definitions());
    all
}

/// A reference to one of the [`definitions`].
#[must_use]
pub fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The same, or null: what may be left out may be null as well.
fn or_null(schema: Value) -> Value {
    let mut schema = schema;
    if let Some(kind) = schema.get("type").and_then(Value::as_str).map(str::to_owned)
        && schema.get("enum").is_none()
    {
        schema["type"] = json!([kind, "null"]);
        return schema;
    }
    let description = schema.as_object_mut().and_then(|fields| fields.remove("description"));
    let mut either = json!({ "anyOf": [schema, { "type": "null" }] });
    if let Some(description) = description {
        either["description"] = description;
    }
    either
}

/// Adds words for people.
fn about(schema: Value, description: &str) -> Value {
    let mut schema = schema;
    if schema.get("$ref").is_some() {
        // Beside a reference nothing else counts in draft 7.
        schema = json!({ "allOf": [schema] });
    }
    schema["description"] = json!(description);
    schema
}

/// An object with these fields.
fn object(description: &str, required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "description": description, "required": required, "properties": properties })
}

#[cfg(test)]
mod tests {
    use super::super::envelope::Envelope;
    use super::super::trigger::interpret;
    use super::*;

    const ID: &str = "4c59c34d-2213-81c6-8600-111abb62a000";

    fn validator(name: &str) -> jsonschema::Validator {
        let schema =
            json!({ "components": { "schemas": definitions() }, "$ref": format!("#/components/schemas/{name}") });
        jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)
            .unwrap()
    }

    /// Why the reader refuses a payload, if it does.
    fn refusal(event_type: &str, payload: &Value) -> Option<String> {
        let payload = payload.to_string();
        let fields = [
            ("event_type", event_type),
            ("source_agent", "s"),
            ("payload", &*payload),
        ];
        let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let envelope = Envelope::decode("1-0", &fields).unwrap();
        interpret(&envelope).err().map(|rejection| rejection.to_string())
    }

    /// Something of every kind, each at and beside the limits of some field.
    fn probes() -> Vec<Value> {
        let long = |length: usize| json!("x".repeat(length));
        let (nested, strings) = (json!({ "a": { "b": [1] } }), json!({ "a": "b" }));
        vec![
            json!(null),
            json!(true),
            json!(false),
            json!(0),
            json!(-1),
            json!(1),
            json!(0.5),
            json!(1.5),
            json!(1000),
            json!(1001),
            json!(1_000_000),
            json!(1_000_001),
            json!(31_536_000),
            json!(31_536_001),
            json!(u32::MAX),
            json!(u64::from(u32::MAX) + 1),
            json!(""),
            json!("a"),
            json!("a b"),
            json!("a:b"),
            json!("a/b"),
            json!("ü"),
            json!("a\n"),
            json!("HIGH"),
            json!("STANDARD"),
            json!("SLOW"),
            json!("LINEAR"),
            json!("wait"),
            json!("completed"),
            json!("failed"),
            json!(ID),
            json!("2026-01-31T12:00:00Z"),
            json!("2026-01-31"),
            json!("2026-01-31T25:00:00Z"),
            long(64),
            long(65),
            long(128),
            long(129),
            long(256),
            long(257),
            long(1024),
            long(1025),
            json!([]),
            json!(["a"]),
            json!(["b"]),
            json!(["a b"]),
            json!([1]),
            json!([null]),
            json!({}),
            nested,
            strings,
            json!({ "max_retries": 1, "jitter": 0.5 }),
            json!({ "jitter": 2 }),
            json!({ "jiter": 0.1 }),
            json!({ "backoff_multiplier": 0.5 }),
            json!({ "strategy": "FIBONACCI" }),
            json!({ "strategy": "SQUARE" }),
            json!({ "type": "a", "message": "m" }),
            json!({ "type": "" }),
            json!({ "type": 1 }),
            json!({ "kind": "a" }),
        ]
    }

    /// Whether both judge alike, for what the words of a schema can tell.
    fn check(validator: &jsonschema::Validator, event_type: &str, payload: &Value) -> bool {
        let refusal = refusal(event_type, payload);
        // Relations between entries are nothing that a schema can tell.
        let is_beyond = refusal.as_deref().is_some_and(|text| {
            let beyond = [
                "cyclic_dependency",
                "invalid_dependency",
                "duplicate_key",
                "must not be given as well while",
            ];
            beyond.iter().any(|words| text.contains(words)) || text.contains("must not be given without `compensation`")
        });
        let by_schema = validator.validate(payload).err().map(|error| error.to_string());
        assert!(
            is_beyond || refusal.is_some() == by_schema.is_some(),
            "{event_type} {payload}\nreader: {refusal:?}\nschema: {by_schema:?}"
        );
        refusal.is_none()
    }

    /// Each field of an object replaced by each probe, and one that nobody knows.
    fn walk(fields: &[&str], mut judge: impl FnMut(&str, Value) -> bool) -> (usize, usize) {
        let (mut taken, mut refused) = (0, 0);
        for field in fields.iter().chain(&["nobody_knows"]) {
            for probe in probes() {
                if judge(field, probe) {
                    taken += 1;
                } else {
                    refused += 1;
                }
            }
        }
        (taken, refused)
    }

    fn fields_of(name: &str) -> Vec<String> {
        let all = definitions();
        all[name]["properties"].as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn readers_and_schemas_judge_alike() {
        let plain: [(&str, &str, Value); 6] = [
            ("orchestration.task.trigger", "TaskTrigger", json!({ "task_name": "t" })),
            ("orchestration.task.cancel", "TaskCancel", json!({ "task_id": ID })),
            (
                "orchestration.workflow.stop",
                "WorkflowStop",
                json!({ "workflow_id": "w" }),
            ),
            ("orchestration.saga.cancel", "SagaCancel", json!({ "saga_id": "s" })),
            (
                "orchestration.task.result",
                "TaskResult",
                json!({ "task_id": ID, "attempt": 1, "status": "failed" }),
            ),
            (
                "orchestration.task.heartbeat",
                "TaskHeartbeat",
                json!({ "task_id": ID, "attempt": 1 }),
            ),
        ];
        for (event_type, name, base) in plain {
            let validator = validator(name);
            let fields = fields_of(name);
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            assert!(check(&validator, event_type, &base), "{base}");

            let (taken, refused) = walk(&fields, |field, probe| {
                let mut payload = base.clone();
                payload[field] = probe;
                check(&validator, event_type, &payload)
            });
            assert!(
                taken > fields.len() && refused > fields.len(),
                "{name}: {taken} {refused}"
            );
            for field in base.as_object().unwrap().keys() {
                let mut payload = base.clone();
                payload.as_object_mut().unwrap().remove(field);
                assert!(!check(&validator, event_type, &payload), "{payload}");
            }
        }
    }

    #[test]
    fn readers_and_schemas_judge_groups_alike() {
        let groups: [(&str, &str, &str, &str, Value); 2] = [
            (
                "orchestration.workflow.start",
                "WorkflowStart",
                "WorkflowTask",
                "tasks",
                json!({ "task_id": "a" }),
            ),
            (
                "orchestration.saga.start",
                "SagaStart",
                "SagaStep",
                "steps",
                json!({ "name": "a", "action": "t", "compensation": "u" }),
            ),
        ];
        for (event_type, name, item, list, base) in groups {
            let validator = validator(name);
            let fields = fields_of(name);
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            walk(&fields, |field, probe| {
                let mut payload = json!({ list: [base] });
                payload[field] = probe;
                check(&validator, event_type, &payload)
            });
            let fields = fields_of(item);
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            let (taken, refused) = walk(&fields, |field, probe| {
                let mut changed = base.clone();
                changed[field] = probe;
                check(&validator, event_type, &json!({ list: [changed] }))
            });
            assert!(
                taken > fields.len() && refused > fields.len(),
                "{item}: {taken} {refused}"
            );
        }
    }

    #[test]
    fn a_task_starts_later_or_at_a_time_by_schema_too() {
        let validator = validator("TaskTrigger");
        for (delay, time, is_fine) in [
            (json!(1), json!("2026-01-31T12:00:00Z"), false),
            (json!(null), json!("2026-01-31T12:00:00Z"), true),
            (json!(1), json!(null), true),
        ] {
            let payload = json!({ "task_name": "t", "delay_seconds": delay, "run_at": time });
            assert_eq!(
                check(&validator, "orchestration.task.trigger", &payload),
                is_fine,
                "{payload}"
            );
        }
    }
}
