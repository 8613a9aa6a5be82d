//! Workflows: how tests start them on the bus, and what every history of one must keep to.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::log::Log;
use super::redis::TestRedis;

/// Publishes an event of `tester`, of any type, on one of the inbound streams.
pub(crate) async fn publish(redis: &TestRedis, event_type: &str, event_id: &str, payload: &Value) -> String {
    let is_command = [
        "task.cancel",
        "workflow.stop",
        "saga.cancel",
        "task.result",
        "task.heartbeat",
    ];
    let stream = if is_command.contains(&event_type) {
        "waooaw:commands"
    } else {
        "waooaw:triggers"
    };
    let event_type = format!("orchestration.{event_type}");
    redis
        .add(
            stream,
            &[
                (b"event_type", event_type.as_bytes()),
                (b"source_agent", b"tester"),
                (b"event_id", event_id.as_bytes()),
                (b"payload", payload.to_string().as_bytes()),
            ],
        )
        .await
}

/// Publishes a workflow of tasks that do nothing, by key and dependencies.
pub(crate) async fn start_edges(redis: &TestRedis, id: &str, edges: &[(String, Vec<String>)]) {
    let tasks: Vec<Value> = edges
        .iter()
        .map(|(key, dependencies)| json!({ "task_id": key, "name": "noop", "dependencies": dependencies }))
        .collect();
    publish(
        redis,
        "workflow.start",
        id,
        &json!({ "workflow_id": id, "tasks": tasks }),
    )
    .await;
}

/// Holds a workflow's events against its edges: every task was created once, released once, completed once, and started
/// for the first time only behind the end of all that it depends on.
pub(crate) fn check_edges(log: &Log<'_>, id: &str, edges: &[(String, Vec<String>)]) {
    let mut key_of: HashMap<&str, &str> = HashMap::new();
    let mut created: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut started, mut ended): (HashMap<&str, usize>, HashMap<&str, usize>) = (HashMap::new(), HashMap::new());
    for (at, event) in log.events.iter().enumerate() {
        if event.text("workflow_id") != id || !event.kind.starts_with("task.") {
            continue;
        }
        match event.kind.as_str() {
            "task.created" => {
                let key = event.payload["key"].as_str().unwrap();
                key_of.insert(&event.subject, key);
                *created.entry(key).or_default() += 1;
            }
            "task.started" => {
                started.entry(key_of[event.subject.as_str()]).or_insert(at);
            }
            "task.completed" => {
                let before = ended.insert(key_of[event.subject.as_str()], at);
                assert_eq!(before, None, "completed twice: {event:?}");
            }
            _ => {}
        }
    }
    assert_eq!(created.len(), edges.len(), "tasks of {id}");
    for (key, dependencies) in edges {
        assert_eq!(created[key.as_str()], 1, "{key}");
        let start = started[key.as_str()];
        for dependency in dependencies {
            let end = ended.get(dependency.as_str());
            assert!(
                end.is_some_and(|end| *end < start),
                "{key} started before {dependency} ended"
            );
        }
    }
}
