//! Workflows over the bus: graphs of tasks that start when what they depend on has completed.

use serde_json::{Value, json};
use waooaw_orchestration::TaskId;

use crate::support::history::check_all_ended;
use crate::support::redis::TestRedis;
use crate::support::workflow::{check_edges, publish};

/// Keys with what each depends on.
fn edges(list: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    list.iter()
        .map(|(key, dependencies)| ((*key).to_owned(), owned(dependencies)))
        .collect()
}

/// The task of a node in a workflow that the event of the same name started.
fn node(workflow: &str, key: &str) -> TaskId {
    TaskId::derive("tester", workflow, Some(workflow), Some(key), 1)
}

#[tokio::test]
async fn a_diamond_runs_in_order_and_hands_results_on() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    let diamond = json!({ "workflow_id": "w", "name": "A diamond", "priority": "high", "tasks": [
        { "task_id": "d", "name": "echo", "dependencies": ["b", "c"], "priority": "LOW" },
        { "task_id": "b", "name": "add", "args": [1, 1], "dependencies": ["a"] },
        { "task_id": "c", "name": "multiply", "args": [2, 3], "dependencies": ["a"] },
        { "task_id": "a", "name": "echo", "args": ["x"] },
    ]});
    publish(&redis, "workflow.start", "w", &diamond).await;
    publish(&redis, "workflow.start", "w", &diamond).await;
    let mut log = redis.log().await;
    log.until_count("workflow.completed", 1).await;

    check_all_ended(&redis).await;
    log.refresh().await;
    check_edges(
        &log,
        "w",
        &edges(&[("a", &[]), ("b", &["a"]), ("c", &["a"]), ("d", &["b", "c"])]),
    );
    let own: Vec<&str> = log.of("w").iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(own, ["workflow.started", "workflow.completed"]);
    let started = log.all("workflow.started")[0];
    assert_eq!((started.text("workflow_id"), started.text("name")), ("w", "A diamond"));
    assert_eq!(started.payload["total_tasks"], 4);
    assert_eq!(started.causation_id, "w");
    let completed = log.all("workflow.completed")[0];
    let counts = json!({ "PENDING": 0, "RUNNING": 0, "COMPLETED": 4, "FAILED": 0, "TIMEOUT": 0, "CANCELLED": 0 });
    assert_eq!(completed.payload["counts"], counts);
    assert_eq!(completed.payload["root_cause_task_id"], Value::Null);
    let last = node("w", "d").to_string();
    let created = log.of(&last)[0];
    let blocked_by = json!([node("w", "b").to_string(), node("w", "c").to_string()]);
    let mut found = created.payload["blocked_by"].clone();
    found.as_array_mut().unwrap().sort_by_key(|id| *id != blocked_by[0]);
    assert_eq!(found, blocked_by);
    assert_eq!((created.text("priority"), created.text("key")), ("LOW", "d"));
    assert_eq!(log.of(&node("w", "a").to_string())[0].text("priority"), "HIGH");
    let result = &log.of(&last)[2].payload["result"];
    assert_eq!(result["inputs"], json!({ "b": 2, "c": 6 }));
}

#[tokio::test]
async fn a_saga_starts_on_the_bus_and_goes_back_on_a_command() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    let steps = json!([
        { "name": "reserve", "action": "echo", "args": [1], "compensation": "echo" },
        { "name": "pay", "action": "add", "args": [1, 2] },
    ]);
    publish(
        &redis,
        "saga.start",
        "s-1",
        &json!({ "saga_id": "s-1", "steps": steps }),
    )
    .await;
    // Read before the saga that it is about, it waits.
    publish(
        &redis,
        "saga.cancel",
        "c-1",
        &json!({ "saga_id": "s-2", "reason": "changed my mind" }),
    )
    .await;
    let mut log = redis.log().await;
    log.until_count("saga.completed", 1).await;
    let steps = json!([
        { "name": "reserve", "action": "noop", "compensation": "noop" },
        { "name": "wait", "action": "sleep", "kwargs": { "ms": 60_000 } },
    ]);
    publish(
        &redis,
        "saga.start",
        "s-2",
        &json!({ "saga_id": "s-2", "steps": steps }),
    )
    .await;
    log.until_count("saga.compensated", 1).await;

    publish(&redis, "saga.cancel", "c-2", &json!({ "saga_id": "s-1" })).await;
    log.until_count("command.refused", 1).await;
    let refused = log.all("command.refused")[0];
    assert_eq!(
        (refused.text("reason"), refused.text("saga_id")),
        ("invalid_transition", "s-1")
    );
    assert_eq!(refused.text("command"), "orchestration.saga.cancel");
    check_all_ended(&redis).await;
}
