//! Payloads that the runtime sends, by the type of their event.
//!
//! A later version may add members: read those that you know.

use serde_json::{Map, Value, json};

use super::{Definitions, about, object, or_null, reference};
use crate::domain::event::EventType;
use crate::domain::rejection::Reason;

/// The name of the schema of a payload.
#[must_use]
pub const fn name(kind: EventType) -> &'static str {
    match kind {
        EventType::TriggerRejected => "TriggerRejected",
        EventType::CommandRefused => "CommandRefused",
        EventType::TaskCreated => "TaskCreated",
        EventType::TaskStarted => "TaskStarted",
        EventType::TaskRetryScheduled => "TaskRetryScheduled",
        EventType::TaskReleased => "TaskReleased",
        EventType::TaskCompleted => "TaskCompleted",
        EventType::TaskFailed => "TaskFailed",
        EventType::TaskTimeout => "TaskTimeout",
        EventType::TaskDeadLettered => "TaskDeadLettered",
        EventType::TaskCancelled => "TaskCancelled",
        EventType::TaskRequeued => "TaskRequeued",
        EventType::WorkflowStarted => "WorkflowStarted",
        EventType::WorkflowCompleted => "WorkflowCompleted",
        EventType::WorkflowFailed => "WorkflowFailed",
        EventType::WorkflowCancelled => "WorkflowCancelled",
        EventType::SagaStarted => "SagaStarted",
        EventType::SagaStepStarted => "SagaStepStarted",
        EventType::SagaStepCompleted => "SagaStepCompleted",
        EventType::SagaStepFailed => "SagaStepFailed",
        EventType::SagaCompensating => "SagaCompensating",
        EventType::SagaStepCompensated => "SagaStepCompensated",
        EventType::SagaStepCompensationFailed => "SagaStepCompensationFailed",
        EventType::SagaStepLateSuccess => "SagaStepLateSuccess",
        EventType::SagaCompleted => "SagaCompleted",
        EventType::SagaCompensated => "SagaCompensated",
        EventType::SagaFailed => "SagaFailed",
        EventType::SagaResumed => "SagaResumed",
        EventType::WorkerPoolStatus => "WorkerPoolStatus",
        EventType::OperatorAction => "OperatorAction",
        EventType::HistoryRolledBack => "HistoryRolledBack",
        EventType::MetricsSnapshot => "MetricsSnapshot",
    }
}

/// Their schemas, and those that they refer to.
pub(super) fn definitions() -> Definitions {
    let mut all: Definitions = EventType::ALL
        .into_iter()
        .map(|kind| (name(kind), payload(kind)))
        .collect();
    all.insert(
        "TaskError",
        object(
            "Why a task failed",
            &["type", "message"],
            json!({
                "type": text("`handler_error`, `timeout`, `lost`, a reason of a rejection, or the handler's own"),
                "message": text("In words"),
            }),
        ),
    );
    all
}

/// The schema of the payload of an event.
#[must_use]
pub fn payload(kind: EventType) -> Value {
    match kind {
        EventType::TriggerRejected => refused(
            "A trigger was refused; all that is wrong, at once",
            &["trigger_event_id", "dead_letter_id"],
            json!({
                "trigger_event_id": text("As the sender gave it, else the id of its entry"),
                "dead_letter_id": text("Where the original is kept"),
            }),
        ),
        EventType::CommandRefused => refused(
            "A command was refused and changed nothing",
            &["command"],
            json!({
                "command": nullable("string", "Its event type"),
                "task_id": text("The task that it named"),
                "workflow_id": text("The workflow that it named"),
                "saga_id": text("The saga that it named"),
                "attempt": { "type": "number", "description": "The attempt that it named, where its payload is faulty" },
            }),
        ),
        EventType::TaskCreated => task(
            "A task exists",
            &[
                "priority",
                "queue",
                "agent_id",
                "key",
                "blocked_by",
                "run_at",
                "created_at",
            ],
            json!({
                "priority": reference("Priority"),
                "queue": reference("QueueName"),
                "agent_id": or_null(reference("Name")),
                "key": or_null(reference("Name")),
                "blocked_by": list(reference("TaskId"), "What it waits for; of more than 1,000 only some"),
                "run_at": or_null(moment("When it may start")),
                "created_at": moment("When it was made"),
            }),
        ),
        EventType::TaskStarted => task(
            "An attempt began",
            &["worker_id", "started_at"],
            json!({ "worker_id": worker(), "started_at": moment("When") }),
        ),
        EventType::TaskRetryScheduled => task(
            "An attempt failed, and another follows",
            &["error", "retry_count", "delay_seconds", "due_at"],
            json!({
                "error": reference("TaskError"),
                "retry_count": count("Retries so far"),
                "delay_seconds": { "type": "number", "description": "Until the next attempt", "minimum": 0 },
                "due_at": moment("When that is"),
            }),
        ),
        EventType::TaskReleased => task(
            "An attempt was handed back; no retry is used",
            &["reason"],
            json!({ "reason": { "type": "string", "enum": ["shutdown", "circuit_open", "no_worker"] } }),
        ),
        EventType::TaskCompleted => task(
            "A task succeeded",
            &["result", "duration_ms", "worker_id", "completed_at"],
            json!({
                "result": { "description": "Any JSON; null where it has over 64 KiB, and then the next two are there" },
                "result_bytes": count("How long it is"),
                "result_sha256": { "type": "string", "pattern": "^[0-9a-f]{64}$" },
                "duration_ms": count("Of the last attempt"),
                "worker_id": worker(),
                "completed_at": moment("When"),
            }),
        ),
        EventType::TaskFailed => failed("A task failed for good"),
        EventType::TaskTimeout => failed("A task's last attempt took too long"),
        EventType::TaskDeadLettered => task(
            "A task that failed for good lies in the dead letters",
            &["dead_letter_id"],
            json!({ "dead_letter_id": text("Where the full copy is kept") }),
        ),
        EventType::TaskCancelled => task(
            "A task was ended before it was done",
            &["reason", "root_cause_task_id"],
            json!({
                "reason": {
                    "type": "string",
                    "enum": ["requested", "dependency_failed", "workflow_stopped", "saga_aborted"],
                },
                "root_cause_task_id": or_null(reference("TaskId")),
                "message": nullable("string", "The caller's own words"),
            }),
        ),
        EventType::TaskRequeued => task(
            "A task begins another life",
            &["dead_letter_id", "life", "actor"],
            json!({
                "dead_letter_id": nullable("string", "The dead letter that it was; null where there was none"),
                "life": { "type": "integer", "description": "Which life begins", "minimum": 2 },
                "actor": nullable("string", "Who did it"),
            }),
        ),
        EventType::WorkflowStarted => workflow("A workflow exists"),
        EventType::WorkflowCompleted => workflow("All tasks of a workflow succeeded"),
        EventType::WorkflowFailed => workflow("All tasks of a workflow are over, and one failed"),
        EventType::WorkflowCancelled => workflow("A workflow was stopped, and all its tasks are over"),
        EventType::SagaStarted => saga(
            "A saga exists",
            &["total_steps", "pivot"],
            json!({
                "total_steps": count("How many steps it has"),
                "pivot": about(or_null(reference("Name")), "The step behind which there is no way back, where it has one"),
            }),
        ),
        EventType::SagaStepStarted => step("A step began", &[], json!({})),
        EventType::SagaStepCompleted => step(
            "A step is done",
            &["result"],
            json!({ "result": { "description": "As of the task's event" } }),
        ),
        EventType::SagaStepFailed => step(
            "A step failed for good",
            &["error"],
            json!({ "error": reference("TaskError") }),
        ),
        EventType::SagaCompensating => saga(
            "A saga turned back",
            &["failed_step", "steps_to_compensate"],
            json!({
                "failed_step": or_null(reference("Name")),
                "steps_to_compensate": list(reference("Name"), "What is to be undone, in this order"),
                "message": text("What whoever cancelled it said"),
            }),
        ),
        EventType::SagaStepCompensated => step(
            "A step is undone; without a task where it has no compensation",
            &[],
            json!({}),
        ),
        EventType::SagaStepCompensationFailed => step(
            "A step can not be undone",
            &["error"],
            json!({ "error": reference("TaskError") }),
        ),
        EventType::SagaStepLateSuccess => step(
            "A step that was given up succeeded",
            &["has_compensation"],
            json!({
                "has_compensation": { "type": "boolean", "description": "Whether it can be undone" },
                "dead_letter_id": text("Where it is kept, if the saga had ended") }),
        ),
        EventType::SagaCompleted => saga_end("All steps of a saga are done"),
        EventType::SagaCompensated => saga_end("All that a saga did is undone"),
        EventType::SagaFailed => saga_end("A saga ended with steps that are not undone"),
        EventType::SagaResumed => saga(
            "An operator has the rest of a saga undone again",
            &["actor"],
            json!({
                "actor": nullable("string", "Who did it"),
                "dead_letter_ids": list(text("A dead letter"), "Those of late successes, which are gone with it"),
            }),
        ),
        EventType::WorkerPoolStatus => object(
            "A replica came, went or changed its size",
            &["replica", "state", "workers"],
            json!({
                "replica": text("Its id"),
                "state": { "type": "string", "enum": ["joined", "scaled", "draining", "left", "lost"] },
                "workers": count("How many workers it has"),
            }),
        ),
        EventType::OperatorAction => operator_action(),
        EventType::HistoryRolledBack => object(
            "Redis lost its last moments",
            &["replica", "last_seen", "now_at"],
            json!({
                "replica": text("Who noticed"),
                "last_seen": entry("The newest event that it had seen"),
                "now_at": entry("The newest that is left; `0-0` where none is"),
            }),
        ),
        EventType::MetricsSnapshot => snapshot(),
    }
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn nullable(kind: &str, description: &str) -> Value {
    json!({ "type": [kind, "null"], "description": description })
}

fn count(description: &str) -> Value {
    json!({ "type": "integer", "description": description, "minimum": 0 })
}

fn list(items: Value, description: &str) -> Value {
    json!({ "type": "array", "description": description, "items": items })
}

fn moment(description: &str) -> Value {
    json!({ "type": "string", "description": description, "format": "date-time" })
}

fn entry(description: &str) -> Value {
    json!({ "type": "string", "description": description, "pattern": "^[0-9]+-[0-9]+$" })
}

fn worker() -> Value {
    text("`<replica>/<slot>`, or `agent:<id>`")
}

/// An object with the members of `common` and `own`.
fn together(description: &str, common: (&[&str], Value), own: (&[&str], Value)) -> Value {
    let required: Vec<&str> = common.0.iter().chain(own.0).copied().collect();
    let mut properties = Map::new();
    for part in [common.1, own.1] {
        if let Value::Object(part) = part {
            properties.extend(part);
        }
    }
    object(description, &required, properties.into())
}

fn task(description: &str, required: &[&str], own: Value) -> Value {
    let common = json!({
        "task_id": reference("TaskId"),
        "task_name": about(reference("Name"), "Which handler runs it"),
        "workflow_id": or_null(reference("Name")),
        "saga_id": about(reference("Name"), "Of a saga's step or compensation"),
        "step": about(reference("Name"), "Of a saga's step or compensation"),
        "trigger_event_id": text("The event that asked for it"),
        "attempt": count("Attempts started so far, over all lives"),
    });
    let always = &["task_id", "task_name", "workflow_id", "trigger_event_id", "attempt"];
    together(description, (always, common), (required, own))
}

fn failed(description: &str) -> Value {
    task(
        description,
        &["error", "retry_count", "attempts", "worker_id", "failed_at"],
        json!({
            "error": reference("TaskError"),
            "retry_count": count("Retries of this life"),
            "attempts": count("Attempts over all lives"),
            "worker_id": worker(),
            "failed_at": moment("When"),
        }),
    )
}

fn refused(description: &str, required: &[&str], own: Value) -> Value {
    let fault = object(
        "One fault",
        &["field", "message"],
        json!({ "field": nullable("string", "Its path; null where it is the whole"), "message": text("In words") }),
    );
    let common = json!({
        "reason": { "type": "string", "description": "The gravest fault", "enum": Reason::ALL.map(Reason::as_str) },
        "errors": list(fault, "All faults"),
    });
    together(description, (&["reason", "errors"], common), (required, own))
}

fn counts() -> Value {
    let states = ["PENDING", "RUNNING", "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"];
    let properties: Map<String, Value> = states
        .iter()
        .map(|state| ((*state).to_owned(), json!({ "type": "integer", "minimum": 0 })))
        .collect();
    object("Its tasks by state", &states, properties.into())
}

fn workflow(description: &str) -> Value {
    object(
        description,
        &[
            "workflow_id",
            "name",
            "total_tasks",
            "counts",
            "root_cause_task_id",
            "duration_ms",
        ],
        json!({
            "workflow_id": reference("Name"),
            "name": nullable("string", "For people"),
            "total_tasks": count("How many tasks it has"),
            "counts": counts(),
            "root_cause_task_id": or_null(reference("TaskId")),
            "duration_ms": { "type": ["integer", "null"], "description": "Null as long as it runs", "minimum": 0 },
        }),
    )
}

fn saga(description: &str, required: &[&str], own: Value) -> Value {
    let common = json!({ "saga_id": reference("Name"), "name": nullable("string", "For people") });
    together(description, (&["saga_id", "name"], common), (required, own))
}

fn step(description: &str, required: &[&str], own: Value) -> Value {
    let common = json!({
        "step": reference("Name"),
        "index": count("Its place in the list as it came, from 0"),
        "task_id": or_null(reference("TaskId")),
    });
    let (mut all, mut properties) = (vec!["step", "index", "task_id"], common);
    all.extend(required);
    if let (Value::Object(properties), Value::Object(own)) = (&mut properties, own) {
        properties.extend(own);
    }
    saga(description, &all, properties)
}

fn saga_end(description: &str) -> Value {
    saga(
        description,
        &[
            "completed_steps",
            "compensated_steps",
            "uncompensated_steps",
            "failed_step",
            "duration_ms",
        ],
        json!({
            "completed_steps": list(reference("Name"), "Those that completed"),
            "compensated_steps": list(reference("Name"), "Those that were undone"),
            "uncompensated_steps": list(reference("Name"), "Those that should have been undone and are not"),
            "failed_step": or_null(reference("Name")),
            "duration_ms": count("From its start"),
        }),
    )
}

fn operator_action() -> Value {
    object(
        "Somebody did something by hand, or the system removed part of its own log",
        &["action", "target", "actor", "reason"],
        json!({
            "action": {
                "type": "string",
                "enum": ["pause", "resume", "set", "scale", "discard", "requeue", "repair", "trim"],
            },
            "target": text("A queue, a replica, a dead letter, `events`, or what was mended"),
            "actor": nullable("string", "Who did it"),
            "reason": nullable("string", "Why, in their words"),
            "max_size": count("Of `set`"),
            "max_running": count("Of `set`"),
            "workers": count("Of `scale`: what it is to have"),
            "max_workers": count("Of `scale`: what it may have"),
            "replica": text("Of `trim`"),
            "events": count("Of `trim`: how many were removed"),
            "tasks": count("Of `trim`: how many were removed"),
            "dead_letters": count("Of `trim`: how many were removed"),
            "trimmed_to": { "type": ["string", "null"], "description": "Of `trim`: the newest entry that was removed" },
        }),
    )
}

fn snapshot() -> Value {
    let number = json!({ "type": ["number", "null"], "minimum": 0 });
    let short = [
        "total_tasks",
        "pending",
        "running",
        "completed",
        "failed",
        "timeout",
        "cancelled",
    ];
    let mut properties: Map<String, Value> = short
        .iter()
        .map(|field| ((*field).to_owned(), json!({ "type": "integer", "minimum": 0 })))
        .collect();
    properties.insert(
        "by_priority".to_owned(),
        json!({ "type": "object", "additionalProperties": number }),
    );
    let pool = [
        "active_workers",
        "idle_workers",
        "max_workers",
        "utilization_percentage",
        "tasks_completed",
        "tasks_failed",
        "average_duration_seconds",
        "throughput_per_minute",
    ];
    let pool_properties: Map<String, Value> = pool.iter().map(|field| ((*field).to_owned(), number.clone())).collect();
    object(
        "The sums over all replicas, whichever says so",
        &["replica", "task_queue", "worker_pool"],
        json!({
            "replica": text("Who says so"),
            "task_queue": object("As in `waooaw stats`, and by short names", &short, properties.into()),
            "worker_pool": object("The workers of all replicas", &pool, pool_properties.into()),
        }),
    )
}
