//! The OpenAPI document: made of the routes as they are, so that it can not be about others.
//!
//! What a route takes and answers stands at its function. Added here is what follows from where it stands: the token that it
//! needs, and the problems that any route of its kind can answer, each by its status with the codes that may stand in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::access::{Access, role_name};
use super::problem::{CODES, PROBLEM_JSON, Problem};
use super::routes::{Described, Routes};
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
        if schema.is_some_and(|schema| schema["type"] == "object" && schema["required"].is_null()) {
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

const TAGS: [(&str, &str); 10] = [
    ("health", "Whether it lives and works, and what it offers"),
    ("triggers", "Starting things, and events about what exists"),
    ("tasks", "Single pieces of work"),
    ("workflows", "Tasks that depend on each other"),
    ("sagas", "Steps that can be undone"),
    ("dead letters", "What failed for good or was rejected"),
    ("queues", "Where tasks wait"),
    ("workers", "What runs them"),
    ("figures", "Counts and measures"),
    ("events", "The log"),
];

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
    if operation.parameters.as_ref().is_some_and(|all| !all.is_empty()) {
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
    for field in schema["properties"]
        .as_object_mut()
        .into_iter()
        .flat_map(Map::values_mut)
    {
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
