//! Payloads that agents and operators send.
//!
//! A field that is not listed is refused by name. One that is null counts as absent.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Definitions, about, object, or_null, reference};
use crate::domain::command::{ReportedError, TaskCancel, TaskHeartbeat};
use crate::domain::retry::RetryPolicy;
use crate::domain::saga::SagaTrigger;
use crate::domain::trigger::{
    SAGA_CANCEL, SAGA_START, TASK_CANCEL, TASK_HEARTBEAT, TASK_RESULT, TASK_TRIGGER, TaskTrigger, WORKFLOW_START,
    WORKFLOW_STOP,
};
use crate::domain::workflow::{FailurePolicy, WorkflowTrigger};

/// Events that start something, each with the name of its payload's schema.
pub const TRIGGERS: [(&str, &str); 3] = [
    (TASK_TRIGGER, "TaskTrigger"),
    (WORKFLOW_START, "WorkflowStart"),
    (SAGA_START, "SagaStart"),
];

/// Events about something that exists, each with the name of its payload's schema.
pub const COMMANDS: [(&str, &str); 5] = [
    (TASK_CANCEL, "TaskCancel"),
    (WORKFLOW_STOP, "WorkflowStop"),
    (SAGA_CANCEL, "SagaCancel"),
    (TASK_RESULT, "TaskResult"),
    (TASK_HEARTBEAT, "TaskHeartbeat"),
];

/// Their schemas, and those that they refer to.
pub(super) fn definitions() -> Definitions {
    BTreeMap::from([
        ("Retry", retry()),
        ("TaskTrigger", task_trigger()),
        ("WorkflowStart", workflow_start()),
        ("WorkflowTask", workflow_task()),
        ("SagaStart", saga_start()),
        ("SagaStep", saga_step()),
        (
            "TaskCancel",
            ending("Ends a task that waits, is delayed or runs", "task_id", "TaskId"),
        ),
        (
            "WorkflowStop",
            ending("Cancels what has not ended of a workflow", "workflow_id", "Name"),
        ),
        (
            "SagaCancel",
            ending("Lets a saga turn back: what it did is undone", "saga_id", "Name"),
        ),
        ("TaskResult", task_result()),
        ("TaskHeartbeat", task_heartbeat()),
    ])
}

/// An object in which only its own fields may stand.
fn closed(description: &str, required: &[&str], properties: Value) -> Value {
    let mut schema = object(description, required, properties);
    schema["additionalProperties"] = json!(false);
    schema
}

fn seconds(description: &str) -> Value {
    or_null(
        json!({ "type": "number", "description": description, "minimum": 0, "maximum": TaskTrigger::LONGEST_SECONDS }),
    )
}

fn names(description: &str) -> Value {
    or_null(json!({
        "type": "array",
        "description": description,
        "items": reference("Name"),
        "maxItems": TaskTrigger::MAX_DEPENDENCIES,
    }))
}

fn optional(name: &str, description: &str) -> Value {
    about(or_null(reference(name)), description)
}

fn retry() -> Value {
    let number = |description: &str, minimum: f64, maximum: f64| {
        or_null(json!({ "type": "number", "description": description, "minimum": minimum, "maximum": maximum }))
    };
    let policy = closed(
        "What it leaves out is STANDARD's",
        &[],
        json!({
            "max_retries": or_null(json!({
                "type": "integer",
                "description": "Extra attempts after the first",
                "minimum": 0,
                "maximum": RetryPolicy::MOST_RETRIES,
            })),
            "initial_delay_seconds": number("Before the first retry", 0.0, RetryPolicy::LONGEST_DELAY_SECONDS),
            "max_delay_seconds": number("No delay is longer, after jitter", 0.0, RetryPolicy::LONGEST_DELAY_SECONDS),
            "backoff_multiplier": number("EXPONENTIAL: each delay is so many times the one before", 1.0, 1000.0),
            "strategy": about(
                or_null(json!({ "type": "string", "enum": ["EXPONENTIAL", "LINEAR", "FIBONACCI"] })),
                "How delays grow",
            ),
            "increment_seconds": number(
                "LINEAR: each delay is so much longer than the one before", 0.0, RetryPolicy::LONGEST_DELAY_SECONDS,
            ),
            "jitter": number("The part of a delay by which it may vary, both ways", 0.0, 1.0),
        }),
    );
    json!({
        "description": "When a failed attempt is followed by another: the name of a preset, or a policy",
        "anyOf": [
            { "type": "string", "enum": ["AGGRESSIVE", "STANDARD", "CONSERVATIVE", "QUICK"] },
            policy,
        ],
    })
}

/// What every task that is asked for may say, whatever the names of its key and handler.
fn options() -> Map<String, Value> {
    let options = json!({
        "args": or_null(json!({ "type": "array", "description": "Its arguments by place, byte for byte" })),
        "kwargs": or_null(json!({ "type": "object", "description": "Its arguments by name, byte for byte" })),
        "priority": optional("Priority", "NORMAL by default"),
        "agent_id": optional("Name", "The agent that it is for"),
        "queue": optional("QueueName", "The queue that it waits in; `default` by default"),
        "parent_task_id": optional("TaskId", "The task that asks for it"),
        "timeout_seconds": or_null(json!({
            "type": "number",
            "description": "The longest that one attempt may take; none by default",
            "exclusiveMinimum": 0,
            "maximum": TaskTrigger::LONGEST_SECONDS,
        })),
        "max_retries": or_null(json!({
            "type": "integer",
            "description": "Extra attempts after the first, over the policy's own number",
            "minimum": 0,
            "maximum": RetryPolicy::MOST_RETRIES,
        })),
        "retry": optional("Retry", "STANDARD by default"),
        "delay_seconds": seconds("How long it waits before it may start"),
        "run_at": or_null(json!({
            "type": "string",
            "description": "When it may start; not together with `delay_seconds`",
            "format": "date-time",
        })),
        "tags": or_null(json!({
            "type": "object",
            "description": "Yours: texts by name",
            "additionalProperties": { "type": "string" },
        })),
        "metadata": or_null(json!({ "type": "object", "description": "Yours: anything" })),
    });
    match options {
        Value::Object(options) => options,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

/// A task with its options and these fields; of the two ways to say when it starts at most one.
fn task(description: &str, required: &[&str], own: Value) -> Value {
    let mut properties = options();
    if let Value::Object(own) = own {
        properties.extend(own);
    }
    let mut schema = closed(description, required, properties.into());
    let given = json!({ "not": { "type": "null" } });
    schema["not"] = json!({
        "required": ["delay_seconds", "run_at"],
        "properties": { "delay_seconds": given, "run_at": given },
    });
    schema
}

fn task_trigger() -> Value {
    task(
        "A task that is asked for",
        &["task_name"],
        json!({
            "task_name": about(reference("Name"), "Which handler runs it"),
            "workflow_id": optional("Name", "The workflow that it joins; by default the envelope's `correlation_id`, if given and not of an ended workflow or a saga"),
            "key": optional("Name", "Your own name for the task, unique in its workflow"),
            "dependencies": names("Keys or ids of tasks of the same workflow that must have completed before it starts"),
        }),
    )
}

fn on_dependency_failure(description: &str) -> Value {
    let policy = json!({ "type": "string", "enum": FailurePolicy::ALL.map(FailurePolicy::as_str) });
    about(or_null(policy), description)
}

fn group_name(description: &str) -> Value {
    or_null(json!({
        "type": "string",
        "description": description,
        "maxLength": WorkflowTrigger::MAX_NAME_BYTES,
    }))
}

fn workflow_start() -> Value {
    closed(
        "Tasks that depend on each other, accepted whole or refused whole",
        &["tasks"],
        json!({
            "workflow_id": optional("Name", "By default derived from the event"),
            "name": group_name("For people"),
            "priority": optional("Priority", "Of tasks that have none of their own"),
            "on_dependency_failure": on_dependency_failure(
                "What becomes of tasks when one that they depend on ends without success; `cancel` by default",
            ),
            "tasks": {
                "type": "array",
                "description": "In any order",
                "items": reference("WorkflowTask"),
                "minItems": 1,
                "maxItems": WorkflowTrigger::MAX_TASKS,
            },
        }),
    )
}

fn workflow_task() -> Value {
    task(
        "One task of a workflow",
        &["task_id"],
        json!({
            "task_id": about(reference("Name"), "Its key, unique in the workflow"),
            "name": optional("Name", "Which handler runs it; by default the one that is called like the key"),
            "dependencies": names("Keys of what must have completed before it starts"),
            "on_dependency_failure": on_dependency_failure("By default the workflow's"),
        }),
    )
}

fn saga_start() -> Value {
    closed(
        "Steps that can be undone",
        &["steps"],
        json!({
            "saga_id": optional("Name", "By default derived from the event"),
            "name": group_name("For people"),
            "steps": {
                "type": "array",
                "description": "By default one after the other; at most one is the pivot",
                "items": reference("SagaStep"),
                "minItems": 1,
                "maxItems": SagaTrigger::MAX_STEPS,
            },
        }),
    )
}

fn saga_step() -> Value {
    let arguments = |description: &str| json!({ "type": ["array", "object", "null"], "description": description });
    let by_name = |description: &str| or_null(json!({ "type": "object", "description": description }));
    closed(
        "One step of a saga",
        &["name", "action"],
        json!({
            "name": about(reference("Name"), "Unique in the saga"),
            "action": about(reference("Name"), "Which handler does it"),
            "compensation": optional("Name", "Which handler undoes it; without one it counts as undone"),
            "args": arguments("The action's arguments; an object is read as `kwargs`"),
            "kwargs": by_name("The action's arguments by name"),
            "compensation_args": arguments("By default the step's own; an object is read as `compensation_kwargs`"),
            "compensation_kwargs": by_name("By default the step's own"),
            "depends_on": names("Names of steps; by default the one before"),
            "pivot": or_null(json!({ "type": "boolean", "description": "Once it has completed there is no way back" })),
            "priority": optional("Priority", "NORMAL by default"),
            "timeout_seconds": or_null(json!({
                "type": "number",
                "description": "The longest that one attempt may take",
                "exclusiveMinimum": 0,
                "maximum": TaskTrigger::LONGEST_SECONDS,
            })),
            "retry": optional("Retry", "Of the action; STANDARD by default"),
            "compensation_retry": optional("Retry", "Of the compensation; AGGRESSIVE with 10 retries by default"),
            "agent_id": optional("Name", "The agent that both are for"),
            "queue": optional("QueueName", "The queue that both wait in"),
        }),
    )
}

fn reason() -> Value {
    or_null(json!({
        "type": "string",
        "description": "Your own words, for the event",
        "maxLength": TaskCancel::MAX_REASON_BYTES,
    }))
}

fn ending(description: &str, field: &str, kind: &str) -> Value {
    closed(
        description,
        &[field],
        json!({ field: reference(kind), "reason": reason() }),
    )
}

fn attempt() -> Value {
    json!({ "type": "integer", "description": "Which attempt, from 1", "minimum": 1, "maximum": u32::MAX })
}

fn task_result() -> Value {
    let mut schema = closed(
        "An agent's word that its attempt is over",
        &["task_id", "attempt", "status"],
        json!({
            "task_id": reference("TaskId"),
            "attempt": attempt(),
            "status": { "type": "string", "enum": ["completed", "failed"] },
            "result": { "description": "Of one that completed: any JSON" },
            "error": or_null(closed(
                "Of one that failed",
                &[],
                json!({
                    "type": or_null(json!({
                        "type": "string",
                        "description": "The agent's own word for it; `handler_error` by default",
                        "minLength": 1,
                        "maxLength": ReportedError::MAX_KIND_BYTES,
                    })),
                    "message": or_null(json!({ "type": "string", "description": "For people" })),
                }),
            )),
            "retryable": or_null(json!({ "type": "boolean", "description": "Whether another attempt makes sense; true by default" })),
        }),
    );
    let only = |status: &str, absent: &str| json!({ "properties": { "status": { "const": status }, absent: { "type": "null" } } });
    schema["anyOf"] = json!([only("completed", "error"), only("failed", "result")]);
    schema
}

fn task_heartbeat() -> Value {
    closed(
        "An agent's word that it is still at work",
        &["task_id", "attempt"],
        json!({
            "task_id": reference("TaskId"),
            "attempt": attempt(),
            "progress": {
                "description": format!(
                    "How far it is: any JSON of at most {} bytes; without it what was said before stays",
                    TaskHeartbeat::MAX_PROGRESS_BYTES
                ),
            },
        }),
    )
}
