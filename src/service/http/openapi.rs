//! The OpenAPI document: made of the routes as they are, so that it can not be about others.
//!
//! What a route takes and answers stands at its function. Added here is what follows from where it stands: the token that it
//! needs, and the problems that any route of its kind can answer, each by its status with the codes that may stand in it.
//! Payloads of the bus are described in [`schema`](crate::domain::schema), once for this document and for that of the bus.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::access::{Access, role_name};
use super::problem::{CODES, PROBLEM_JSON, Problem};
use super::routes::{Described, Routes};
use crate::domain::dead_letter::DeadLetterKind;
use crate::domain::schema::{definitions, inbound, reference};
use crate::domain::state::TaskState;
use crate::service::config::Role;

pub(super) fn routes(routes: Routes) -> Routes {
    routes.add(__path_show, show, Access::Needs(Role::Read), &[])
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", operation_id = "get_openapi", tag = "health",
    responses((status = 200, body = Object, description = "OpenAPI 3.1")))]
pub(super) async fn show() -> impl IntoResponse {
    static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str())
}

/// A retry policy: the name of a preset, or an object.
#[derive(ToSchema)]
pub(super) struct Retry;

/// The payload of `orchestration.workflow.start`.
#[derive(ToSchema)]
pub(super) struct WorkflowStart;

/// How events are told.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "only its description is used")]
pub(super) enum Format {
    /// As on the bus.
    Native,
    /// As CloudEvents 1.0.
    CloudEvents,
}

/// The envelope of an event that starts something.
#[derive(ToSchema)]
pub(super) struct Trigger;

/// The envelope of an event about something that exists.
#[derive(ToSchema)]
pub(super) struct Command;

const ABOUT: &str = "\
Agents publish trigger events; replicas turn them into prioritised tasks, run them, resolve graphs, compensate sagas, and write \
every lifecycle event to a log that holds in an audit.

Errors are problem documents (RFC 9457) with a `code` that does not change. Lists are `{\"items\": […], \"next_cursor\": …}`; \
`cursor` goes on where a page ended. A body is JSON of at most 1 MiB. Every answer has an `x-request-id`, which is also in the \
log of the replica; one that a request brings is kept.

Once tokens are configured (`http.tokens`) every route but `/healthz` and `/readyz` needs one: `read` for GET, `trigger` to \
publish triggers and to work for a queue, `admin` for the rest. A higher role includes the lower ones.";

/// The whole document.
#[must_use]
pub fn document() -> Value {
    describe(&super::routes())
}

fn describe(routes: &Routes) -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in routes.described() {
        let verb = route.method.as_str().to_ascii_lowercase();
        paths.entry(&route.path).or_default().insert(verb, operation(route));
    }
    let mut schemas: BTreeMap<String, Value> = routes
        .schemas()
        .iter()
        .map(|(name, schema)| (name.clone(), value(schema)))
        .collect();
    add::<Problem>(&mut schemas);
    // Those of parameters are not among what a route brings.
    add::<TaskState>(&mut schemas);
    add::<DeadLetterKind>(&mut schemas);
    add::<Format>(&mut schemas);
    schemas.insert("Trigger".to_owned(), envelopes(&inbound::TRIGGERS));
    schemas.insert("Command".to_owned(), envelopes(&inbound::COMMANDS));
    describe_payloads(&mut schemas);
    // What their fields alone can not tell.
    let given = |field: &str| json!({ "required": [field] });
    if let Some(limits) = schemas.get_mut("Limits") {
        limits["anyOf"] = json!([given("max_size"), given("max_running")]);
    }
    if let Some(scale) = schemas.get_mut("ScaleWorkers") {
        scale["oneOf"] = json!([given("add"), given("remove"), given("max")]);
    }
    let asked = asked_for(&paths, &schemas);
    for (name, schema) in &mut schemas {
        if asked.contains(name) {
            drop_null_defaults(schema);
        } else {
            require_what_may_be_null(schema);
        }
    }
    for operation in paths.values_mut().flat_map(Map::values_mut) {
        let mut named = Vec::new();
        references(&operation["requestBody"], &mut named);
        let schema = named.first().and_then(|name| schemas.get(name));
        let may_be_empty = |schema: &Value| {
            let needs = ["required", "anyOf", "oneOf"];
            schema["type"] == "object" && needs.iter().all(|word| schema[word].is_null())
        };
        if schema.is_some_and(may_be_empty) {
            operation["requestBody"]["required"] = json!(false);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "WAOOAW Orchestration Runtime",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:8001", "description": "`http.addr` by default" }],
        "tags": TAGS.map(|(name, description)| json!({ "name": name, "description": description })),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of `http.tokens`. Without tokens the service listens on loopback and asks for none.",
                },
            },
        },
    })
}

const TAGS: [(&str, &str); 11] = [
    ("health", "Whether it lives and works, and what it offers"),
    ("triggers", "Starting things, and events about what exists"),
    ("tasks", "Single pieces of work"),
    ("workflows", "Tasks that depend on each other"),
    ("sagas", "Steps that can be undone"),
    ("dead letters", "What failed for good or was rejected"),
    ("queues", "Where tasks wait"),
    (
        "agents",
        "Work from outside: claim tasks, say how it goes, end attempts",
    ),
    ("workers", "What runs them"),
    ("figures", "Counts and measures"),
    ("events", "The log"),
];

/// The forms of an envelope around one of these payloads. Other fields of it are ignored.
fn envelopes(kinds: &[(&str, &str)]) -> Value {
    let name = |longest: u32| json!({ "type": ["string", "null"], "maxLength": longest, "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]*$" });
    let required = |longest: u32| json!({ "type": "string", "minLength": 1, "maxLength": longest, "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]*$" });
    let own = |event_type: &str, payload: &str| {
        json!({
            "title": event_type,
            "type": "object",
            "required": ["event_type", "source_agent", "payload"],
            "properties": {
                "event_type": { "const": event_type },
                "source_agent": required(256),
                "event_id": name(256),
                "correlation_id": name(256),
                "timestamp": { "type": ["string", "null"], "format": "date-time" },
                "payload": reference(payload),
            },
        })
    };
    let cloud = |event_type: &str, payload: &str| {
        json!({
            "title": format!("{event_type} as a CloudEvent"),
            "type": "object",
            "required": ["specversion", "type", "source", "data"],
            "properties": {
                "specversion": { "const": "1.0" },
                "type": { "const": event_type },
                "source": required(256),
                "id": name(256),
                "correlationid": name(256),
                "time": { "type": ["string", "null"], "format": "date-time" },
                "data": reference(payload),
            },
            "not": { "required": ["event_type"] },
        })
    };
    let forms = kinds.iter().map(|(event_type, payload)| own(event_type, payload));
    let forms = forms.chain(kinds.iter().map(|(event_type, payload)| cloud(event_type, payload)));
    json!({
        "description": "An event. The `event_id` is the sender's own: sending it twice has one effect; by default a new one. The \
                        `correlation_id` is constant over a chain of events; by default the `event_id`.",
        "anyOf": forms.collect::<Vec<Value>>(),
    })
}

/// Puts in the descriptions of payloads, as far as something refers to them.
fn describe_payloads(schemas: &mut BTreeMap<String, Value>) {
    let known = definitions();
    let mut open: Vec<String> = schemas.keys().cloned().collect();
    for schema in schemas.values() {
        references(schema, &mut open);
    }
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        let Some(schema) = known.get(name.as_str()) else {
            continue;
        };
        if seen.insert(name.clone()) {
            references(schema, &mut open);
            schemas.insert(name, schema.clone());
        }
    }
}

/// Adds a schema that no route brings, with what it refers to.
fn add<T: ToSchema>(schemas: &mut BTreeMap<String, Value>) {
    let mut parts = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut parts);
    schemas.extend(parts.iter().map(|(name, schema)| (name.clone(), value(schema))));
}

fn value(described: &impl serde::Serialize) -> Value {
    // A description is made of texts, numbers and lists.
    serde_json::to_value(described).unwrap_or_default()
}

/// The codes that a route can answer, its own and those that follow from what it is.
fn codes(route: &Described) -> BTreeSet<&'static str> {
    let operation = &route.operation;
    let mut codes: BTreeSet<_> = route.codes.iter().copied().collect();
    codes.extend(["Forbidden", "Internal"]);
    if route.access != Access::Open {
        codes.extend(["Unauthorized", "RedisUnavailable", "IncompatibleStore"]);
    }
    if operation.request_body.is_some() {
        codes.extend([
            "InvalidField",
            "PayloadTooLarge",
            "UnsupportedMediaType",
            "RequestTimeout",
        ]);
    }
    if operation.parameters.is_some() || !route.takes_any_query() {
        codes.insert("InvalidField");
    }
    if route.path.contains('{') {
        codes.insert("NotFound");
    }
    codes
}

/// An operation with what follows from where it stands.
fn operation(route: &Described) -> Value {
    let mut told = value(&route.operation);
    let mut by_status: BTreeMap<StatusCode, Vec<(&str, &str)>> = BTreeMap::new();
    for code in codes(route) {
        if let Some((code, status, title)) = CODES.iter().find(|(known, ..)| *known == code) {
            by_status.entry(*status).or_default().push((code, title));
        }
    }
    for (status, codes) in by_status {
        let key = status.as_str();
        let answer = problem_answer(status, &codes);
        match told["responses"].get_mut(key) {
            // A status that is also a regular answer.
            Some(regular) => {
                if let Some(content) = regular["content"].as_object_mut() {
                    content.insert(PROBLEM_JSON.to_owned(), answer["content"][PROBLEM_JSON].clone());
                }
            }
            None => told["responses"][key] = answer,
        }
    }
    if let Some(responses) = told["responses"].as_object_mut() {
        for response in responses.values_mut() {
            response["headers"]["x-request-id"] = json!({
                "description": "Names the request in the log of the replica",
                "schema": { "type": "string" },
            });
        }
    }
    name_ids(&route.path, &mut told);
    link(&mut told);
    let note = match route.access {
        Access::Open => "Needs no token.".to_owned(),
        Access::Needs(role) => {
            told["security"] = json!([{ "token": [] }]);
            told["x-role"] = json!(role_name(role));
            format!(
                "Needs a token of role `{}` where tokens are configured.",
                role_name(role)
            )
        }
    };
    told["description"] = match told["description"].as_str() {
        Some(text) if !text.is_empty() => json!(format!("{text}\n\n{note}")),
        Some(_) | None => json!(note),
    };
    told
}

/// Says what kind of id a path takes.
fn name_ids(path: &str, operation: &mut Value) {
    let kind = match path.split('/').nth(2) {
        Some("tasks") => "TaskId",
        Some("workflows" | "sagas") => "Name",
        Some("queues") => "QueueName",
        Some(_) | None => return,
    };
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        if parameter["in"] == "path" {
            parameter["schema"] = reference(kind);
        }
    }
}

/// Which answers hold the ids that other operations take: operation, status, where the id stands, who takes it.
const LINKS: [(&str, &str, &str, &[&str]); 7] = [
    (
        "publish_trigger",
        "202",
        "/task_id",
        &["get_task", "get_task_events", "explain_task", "cancel_task"],
    ),
    (
        "publish_trigger",
        "202",
        "/workflow_id",
        &["get_workflow", "list_workflow_tasks", "stop_workflow"],
    ),
    (
        "publish_trigger",
        "202",
        "/saga_id",
        &["get_saga", "cancel_saga", "resume_saga"],
    ),
    (
        "list_tasks",
        "200",
        "/items/0/task_id",
        &["get_task", "get_task_events", "explain_task", "cancel_task"],
    ),
    (
        "list_dead_letters",
        "200",
        "/items/0/dead_letter_id",
        &["get_dead_letter", "requeue_dead_letter", "discard_dead_letter"],
    ),
    (
        "list_queues",
        "200",
        "/items/0/name",
        &["set_limits", "pause_queue", "resume_queue"],
    ),
    ("list_workers", "200", "/items/0/worker_id", &["get_worker_by_id"]),
];

fn link(operation: &mut Value) {
    for (from, status, place, takers) in LINKS {
        if operation["operationId"] != from {
            continue;
        }
        for taker in takers {
            let field = place.rsplit('/').next().unwrap_or_default();
            operation["responses"][status]["links"][format!("{taker}_by_{field}")] = json!({
                "operationId": taker,
                "parameters": { "id": format!("$response.body#{place}") },
            });
        }
    }
}

fn problem_answer(status: StatusCode, codes: &[(&str, &str)]) -> Value {
    let lines: Vec<String> = codes
        .iter()
        .map(|(code, title)| format!("`{code}`: {title}."))
        .collect();
    let names: Vec<&str> = codes.iter().map(|(code, _)| *code).collect();
    let schema = json!({
        "allOf": [{ "$ref": "#/components/schemas/Problem" }],
        "properties": { "code": { "enum": names }, "status": { "const": status.as_u16() } },
    });
    let mut answer = json!({
        "description": lines.join(" "),
        "content": { PROBLEM_JSON: { "schema": schema } },
    });
    if [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status) {
        answer["headers"]["retry-after"] = json!({
            "description": "After how many seconds it makes sense to ask again",
            "schema": { "type": "integer", "minimum": 1 },
        });
    }
    if status == StatusCode::UNAUTHORIZED {
        answer["headers"]["www-authenticate"] = json!({ "schema": { "type": "string" } });
    }
    answer
}

/// The names of schemas that are sent, not answered.
fn asked_for(paths: &BTreeMap<&str, Map<String, Value>>, schemas: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<String> = Vec::new();
    for operation in paths.values().flat_map(Map::values) {
        references(&operation["requestBody"], &mut open);
        references(&operation["parameters"], &mut open);
    }
    while let Some(name) = open.pop() {
        if let Some(schema) = schemas.get(&name)
            && found.insert(name)
        {
            references(schema, &mut open);
        }
    }
    found
}

fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(Value::as_str) {
                found.extend(name.rsplit('/').next().map(str::to_owned));
            }
            fields.values().for_each(|inner| references(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What is absent by default need not be told to be null.
fn drop_null_defaults(schema: &mut Value) {
    let fields = schema.get_mut("properties").and_then(Value::as_object_mut);
    for field in fields.into_iter().flat_map(Map::values_mut) {
        if let Some(field) = field.as_object_mut()
            && field.get("default").is_some_and(Value::is_null)
        {
            field.remove("default");
        }
    }
}

/// In answers, what may be null is there all the same.
fn require_what_may_be_null(schema: &mut Value) {
    let Some(fields) = schema["properties"].as_object() else {
        return;
    };
    let is_null = |kind: &Value| kind == "null";
    let may_be_null = |schema: &Value| {
        schema["type"].as_array().is_some_and(|kinds| kinds.iter().any(is_null))
            || schema["oneOf"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| is_null(&one["type"])))
    };
    let nullable: Vec<Value> = fields
        .iter()
        .filter(|(_, schema)| may_be_null(schema))
        .map(|(name, _)| json!(name))
        .collect();
    if nullable.is_empty() {
        return;
    }
    let mut required = schema["required"].as_array().cloned().unwrap_or_default();
    for name in nullable {
        if !required.contains(&name) {
            required.push(name);
        }
    }
    schema["required"] = required.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &str = include_str!("../../../docs/openapi.json");

    #[test]
    fn the_committed_document_is_the_one_that_is_served() {
        let committed: Value = serde_json::from_str(COMMITTED).unwrap_or_default();

        assert!(
            committed == document(),
            "docs/openapi.json is not what the routes say: cargo run -- api openapi > docs/openapi.json"
        );
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_only_known_codes_and_tags() {
        let routes = super::super::routes();
        let mut names = BTreeSet::new();

        for route in routes.described() {
            let (method, path, operation) = (&route.method, &route.path, &route.operation);
            let name = operation.operation_id.clone().unwrap_or_default();
            assert!(names.insert(name.clone()), "{method} {path}: `{name}` comes twice");
            assert!(operation.summary.is_some(), "{method} {path} has no summary");
            for tag in operation.tags.iter().flatten() {
                assert!(
                    TAGS.iter().any(|(known, _)| known == tag),
                    "{method} {path}: tag `{tag}`"
                );
            }
            for code in route.codes {
                assert!(
                    CODES.iter().any(|(known, ..)| known == code),
                    "{method} {path}: `{code}`"
                );
            }
            let asked: BTreeSet<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
            let told = value(&operation.parameters);
            let told = told.as_array().into_iter().flatten().filter(|one| one["in"] == "path");
            let told: BTreeSet<&str> = told.filter_map(|one| one["name"].as_str()).collect();
            assert_eq!(asked, told, "{method} {path}");
        }
    }

    /// The documents that the contract lists, field by field; all fields are always there.
    const DOCUMENTS: [(&str, &str); 8] = [
        (
            "Task",
            "task_id key name queue priority state args kwargs inputs agent_id workflow_id dependencies blocked_by \
             parent_task_id tags metadata attempt retry_count max_retries timeout_seconds created_at run_at started_at \
             completed_at duration_ms worker_id progress result error trigger_event_id correlation_id",
        ),
        (
            "Workflow",
            "workflow_id name state total_tasks counts ready_tasks execution_batches root_cause_task_id created_at \
             completed_at duration_ms",
        ),
        (
            "Saga",
            "saga_id name state steps completed_steps compensated_steps uncompensated_steps failed_step \
             compensation_status started_at completed_at duration_ms",
        ),
        (
            "Step",
            "name state task_id result error compensation_task_id compensated_at",
        ),
        (
            "DeadLetter",
            "dead_letter_id kind task_id task_name reason error attempts original dead_lettered_at correlation_id",
        ),
        (
            "Worker",
            "worker_id replica state current_task_id tasks_completed tasks_failed average_duration_seconds error_rate \
             utilization_percentage uptime_seconds",
        ),
        (
            "Stats",
            "pending_count running_count completed_count failed_count timeout_count cancelled_count total_count \
             by_priority by_queue average_duration_seconds oldest_pending_at throughput_per_minute max_size max_running \
             dead_letter_count worker_pool",
        ),
        (
            "WorkerPool",
            "active_workers idle_workers max_workers utilization_percentage tasks_completed tasks_failed \
             average_duration_seconds throughput_per_minute",
        ),
    ];

    #[test]
    fn documents_have_the_fields_of_the_contract() {
        let document = document();
        for (name, fields) in DOCUMENTS {
            let schema = &document["components"]["schemas"][name];
            for field in fields.split_whitespace() {
                assert!(schema["properties"].get(field).is_some(), "{name} has no {field}");
                let required = schema["required"].as_array().unwrap();
                assert!(required.contains(&json!(field)), "{name} may be without {field}");
            }
        }
    }

    #[test]
    fn no_two_types_have_the_same_name() {
        let routes = super::super::routes();
        let mut known: BTreeMap<&str, Value> = BTreeMap::new();

        for (name, schema) in routes.schemas() {
            let schema = value(schema);
            let other = known.entry(name).or_insert_with(|| schema.clone());
            assert_eq!(
                *other, schema,
                "`{name}`: give one of them another name with `#[schema(as = …)]`"
            );
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);

        for name in found {
            assert!(
                document["components"]["schemas"]
                    .get(&name)
                    .is_some_and(Value::is_object),
                "{name}"
            );
        }
    }
}
