//! What a handler outside this process is told about its attempt, and how its result is read: JSON both ways, the same
//! for all kinds.

use serde::Serialize;
use serde_json::value::RawValue;

use super::handler::TaskContext;
use crate::store::document::timestamp;

/// The members in the order in which they are written. Parts that are JSON already pass through byte for byte.
#[derive(Serialize)]
struct Invocation<'a> {
    task_id: String,
    attempt: u32,
    name: &'a str,
    args: &'a RawValue,
    kwargs: &'a RawValue,
    inputs: &'a RawValue,
    workflow_id: Option<&'a str>,
    metadata: &'a RawValue,
    deadline: Option<String>,
}

/// `{task_id, attempt, name, args, kwargs, inputs, workflow_id, metadata, deadline}`.
#[must_use]
pub(crate) fn json(task: &TaskContext) -> String {
    let invocation = Invocation {
        task_id: task.task_id.to_string(),
        attempt: task.attempt,
        name: &task.name,
        args: &task.args,
        kwargs: &task.kwargs,
        inputs: &task.inputs,
        workflow_id: task.workflow_id.as_deref(),
        metadata: &task.metadata,
        deadline: deadline(task),
    };
    serde_json::to_string(&invocation).expect("every key is text and every part was read as JSON")
}

/// By when the attempt must have ended, RFC 3339 in UTC.
#[must_use]
pub(crate) fn deadline(task: &TaskContext) -> Option<String> {
    task.deadline_ms.map(timestamp)
}

/// The JSON that a handler wrote, byte for byte; `null` for nothing but white space.
///
/// # Errors
///
/// Whatever makes it no JSON.
pub(crate) fn result(written: &[u8]) -> serde_json::Result<Box<RawValue>> {
    if written.iter().all(u8::is_ascii_whitespace) {
        return serde_json::from_str("null");
    }
    serde_json::from_slice(written)
}
