//! Payloads that an agent finds in its inbox.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Definitions, about, object, or_null, reference};
use crate::domain::trigger::TASK_CANCEL;

/// What stands in an inbox, each with the name of its payload's schema.
pub const ASSIGNMENTS: [(&str, &str); 2] = [
    ("orchestration.task.assigned", "TaskAssigned"),
    (TASK_CANCEL, "AssignmentCancelled"),
];

/// Their schemas.
pub(super) fn definitions() -> Definitions {
    let attempt = json!({
        "type": "integer",
        "description": "To be named with each heartbeat and with the result",
        "minimum": 1,
    });
    let free = |description: &str| json!({ "type": "object", "description": description });
    BTreeMap::from([
        (
            "TaskAssigned",
            object(
                "A task is to be carried out; it may come twice with the same attempt",
                &[
                    "task_id",
                    "attempt",
                    "name",
                    "args",
                    "kwargs",
                    "inputs",
                    "workflow_id",
                    "metadata",
                    "deadline",
                ],
                json!({
                    "task_id": reference("TaskId"),
                    "attempt": attempt,
                    "name": about(reference("Name"), "The task's name"),
                    "args": { "type": "array", "description": "As they were given" },
                    "kwargs": free("As they were given"),
                    "inputs": or_null(free("The results of what it depends on, by name; null where they are too many or too large")),
                    "workflow_id": or_null(reference("Name")),
                    "metadata": free("As it was given"),
                    "deadline": or_null(json!({
                        "type": "string",
                        "description": "By when the attempt must have ended; null without a timeout",
                        "format": "date-time",
                    })),
                }),
            ),
        ),
        (
            "AssignmentCancelled",
            object(
                "Stop: the task has ended. The entry is to be acknowledged",
                &["task_id", "attempt", "reason"],
                json!({
                    "task_id": reference("TaskId"),
                    "attempt": attempt,
                    "reason": {
                        "type": "string",
                        "description": "Why",
                        "enum": ["requested", "dependency_failed", "workflow_stopped", "saga_aborted"],
                    },
                }),
            ),
        ),
    ])
}
