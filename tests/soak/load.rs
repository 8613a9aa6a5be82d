//! What agents ask for, in equal parts for ever.

use std::ops::Range;

use serde_json::{Value, json};

use super::support::redis::{TestRedis, task_of};
use super::support::workflow::publish;

/// Asks for the items of these numbers.
pub(crate) async fn send(redis: &TestRedis, numbers: Range<u64>) {
    for number in numbers {
        let id = format!("soak-{number}");
        match number % 10 {
            8 => {
                publish(redis, "workflow.start", &id, &workflow(&id)).await;
            }
            9 => {
                publish(redis, "saga.start", &id, &saga(&id, number % 20 == 9)).await;
            }
            kind => {
                redis.trigger(&id, &task(kind)).await;
                if kind == 7 {
                    redis.cancel(&format!("cancel-{number}"), task_of(&id)).await;
                }
            }
        }
    }
}

fn task(kind: u64) -> Value {
    match kind {
        0 => json!({ "task_name": "sleep", "kwargs": { "ms": 50 }, "priority": "LOW" }),
        1 => json!({ "task_name": "noop", "delay_seconds": 0.5, "priority": "HIGH" }),
        2 => json!({ "task_name": "flaky", "kwargs": { "fail_times": 1 }, "retry": "QUICK" }),
        3 => json!({ "task_name": "fail", "kwargs": { "permanent": true } }),
        // Not read: it becomes a dead letter.
        4 => json!({ "task_name": "echo", "prioritee": 1 }),
        // Cancelled before it is due.
        7 => json!({ "task_name": "noop", "delay_seconds": 60 }),
        _ => json!({ "task_name": "echo", "args": ["a", 1], "tags": { "kind": "soak" } }),
    }
}

/// Four tasks, one of which waits for two others.
fn workflow(id: &str) -> Value {
    json!({ "workflow_id": id, "tasks": [
        { "task_id": "first", "name": "echo", "args": [1] },
        { "task_id": "left", "name": "echo", "args": [2], "dependencies": ["first"] },
        { "task_id": "right", "name": "noop", "dependencies": ["first"] },
        { "task_id": "last", "name": "echo", "args": [3], "dependencies": ["left", "right"] },
    ] })
}

/// Three steps, of which the last may fail for good.
fn saga(id: &str, fails: bool) -> Value {
    let last = if fails {
        json!({ "name": "last", "action": "fail", "kwargs": { "permanent": true }, "compensation": "noop" })
    } else {
        json!({ "name": "last", "action": "noop", "compensation": "noop" })
    };
    json!({ "saga_id": id, "steps": [
        { "name": "first", "action": "echo", "args": [1], "compensation": "echo" },
        { "name": "second", "action": "noop", "compensation": "noop" },
        last,
    ] })
}
