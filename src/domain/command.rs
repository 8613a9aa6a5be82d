//! What can be asked of things that exist: their end, or word of how an agent's work goes.
//!
//! Each is checked as far as its text alone allows. Whether the task, workflow or saga is known, and whether the attempt
//! is still the current one, is for those who know the store.

use serde_json::value::RawValue;

use super::id::{Name, TaskId};
use super::payload::Payload;
use super::rejection::Reason;
use super::trigger::literal;

pub(super) const TASK_CANCEL_FIELDS: [&str; 2] = ["task_id", "reason"];
pub(super) const WORKFLOW_STOP_FIELDS: [&str; 2] = ["workflow_id", "reason"];
pub(super) const SAGA_CANCEL_FIELDS: [&str; 2] = ["saga_id", "reason"];
pub(super) const TASK_RESULT_FIELDS: [&str; 6] = ["task_id", "attempt", "status", "result", "error", "retryable"];
pub(super) const TASK_HEARTBEAT_FIELDS: [&str; 3] = ["task_id", "attempt", "progress"];

const ERROR_FIELDS: [&str; 2] = ["type", "message"];

/// A task that is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskCancel {
    /// Which.
    pub task_id: TaskId,
    /// The caller's words, at most [`TaskCancel::MAX_REASON_BYTES`].
    pub reason: Option<String>,
}

/// A workflow that is to end: what of it is not over is cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkflowStop {
    /// Which.
    pub workflow_id: Name,
    /// The caller's words, at most [`TaskCancel::MAX_REASON_BYTES`].
    pub reason: Option<String>,
}

/// A saga that is to turn back: what it did is undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaCancel {
    /// Which.
    pub saga_id: Name,
    /// The caller's words, at most [`TaskCancel::MAX_REASON_BYTES`].
    pub reason: Option<String>,
}

/// An agent's word that its attempt is over.
#[derive(Debug, Clone)]
pub struct TaskResult {
    /// Which task.
    pub task_id: TaskId,
    /// Which attempt, from 1; an answer for any other than the current one is stale.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an attempt ended, as its agent says.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It is done.
    Completed {
        /// JSON, byte for byte; `null` where none was given.
        result: Box<RawValue>,
    },
    /// It failed.
    Failed {
        /// What went wrong.
        error: ReportedError,
        /// Whether another attempt makes sense.
        is_retryable: bool,
    },
}

/// What went wrong, as an agent says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedError {
    /// The agent's own word for it, 1 to [`ReportedError::MAX_KIND_BYTES`]; `handler_error` where it has none.
    pub kind: String,
    /// For people; of any length that fits the entry.
    pub message: String,
}

/// An agent's word that it is still at work.
#[derive(Debug, Clone)]
pub struct TaskHeartbeat {
    /// Which task.
    pub task_id: TaskId,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// How far it is: JSON, byte for byte, at most [`TaskHeartbeat::MAX_PROGRESS_BYTES`]. Without it what was said
    /// before stays.
    pub progress: Option<Box<RawValue>>,
}

impl TaskCancel {
    /// The longest reason that a caller may give.
    pub const MAX_REASON_BYTES: usize = 1024;

    pub(super) fn read(payload: &mut Payload<'_, '_>) -> Option<Self> {
        let task_id = payload.required("task_id");
        let reason = read_reason(payload);
        Some(Self {
            task_id: task_id?,
            reason,
        })
    }
}

impl WorkflowStop {
    pub(super) fn read(payload: &mut Payload<'_, '_>) -> Option<Self> {
        let workflow_id = payload.required("workflow_id");
        let reason = read_reason(payload);
        Some(Self {
            workflow_id: workflow_id?,
            reason,
        })
    }
}

impl SagaCancel {
    pub(super) fn read(payload: &mut Payload<'_, '_>) -> Option<Self> {
        let saga_id = payload.required("saga_id");
        let reason = read_reason(payload);
        Some(Self {
            saga_id: saga_id?,
            reason,
        })
    }
}

impl TaskResult {
    pub(super) fn read(payload: &mut Payload<'_, '_>) -> Option<Self> {
        let task_id = payload.required("task_id");
        let attempt = read_attempt(payload);
        let status = payload.required_text("status");
        let result = payload.raw("result");
        let error = ReportedError::read(payload);
        let is_retryable = payload.boolean("retryable").unwrap_or(true);
        let outcome = match status.as_deref() {
            Some("completed") => {
                if payload.raw("error").is_some() {
                    payload.note(
                        Reason::InvalidField,
                        "error",
                        "must not be given together with status `completed`",
                    );
                }
                let result = result.map_or_else(|| literal("null"), RawValue::to_owned);
                Some(Outcome::Completed { result })
            }
            Some("failed") => {
                if result.is_some() {
                    payload.note(
                        Reason::InvalidField,
                        "result",
                        "must not be given together with status `failed`",
                    );
                }
                Some(Outcome::Failed { error, is_retryable })
            }
            Some(_) => {
                payload.note(Reason::InvalidField, "status", "must be `completed` or `failed`");
                None
            }
            None => None,
        };
        Some(Self {
            task_id: task_id?,
            attempt: attempt?,
            outcome: outcome?,
        })
    }
}

impl ReportedError {
    /// The longest word for an error.
    pub const MAX_KIND_BYTES: usize = 128;

    /// An agent that fails may be in no state to say why, so nothing of it is required.
    fn read(payload: &mut Payload<'_, '_>) -> Self {
        let mut error = Self {
            kind: "handler_error".to_owned(),
            message: "the agent gave no message".to_owned(),
        };
        let Some(mut fields) = payload.inner("error", &ERROR_FIELDS) else {
            return error;
        };
        if let Some(kind) = fields.text("type") {
            if kind.is_empty() || kind.len() > Self::MAX_KIND_BYTES || kind.contains(char::is_control) {
                let message = format!("must have 1 to {} bytes and no line breaks", Self::MAX_KIND_BYTES);
                fields.note(Reason::InvalidField, "type", message);
            } else {
                error.kind = kind.into_owned();
            }
        }
        if let Some(message) = fields.text("message") {
            error.message = message.into_owned();
        }
        error
    }
}

impl TaskHeartbeat {
    /// The most that an agent may say of its progress: it is kept in the task's record, beside what every claim moves.
    pub const MAX_PROGRESS_BYTES: usize = 16 << 10;

    pub(super) fn read(payload: &mut Payload<'_, '_>) -> Option<Self> {
        let task_id = payload.required("task_id");
        let attempt = read_attempt(payload);
        let progress = payload.raw("progress");
        if let Some(bytes) = progress
            .map(|progress| progress.get().len())
            .filter(|&bytes| bytes > Self::MAX_PROGRESS_BYTES)
        {
            let message = format!("has {bytes} bytes, must have at most {}", Self::MAX_PROGRESS_BYTES);
            payload.note(Reason::InvalidField, "progress", message);
        }
        Some(Self {
            task_id: task_id?,
            attempt: attempt?,
            progress: progress.map(RawValue::to_owned),
        })
    }
}

fn read_reason(payload: &mut Payload<'_, '_>) -> Option<String> {
    payload
        .short_text("reason", TaskCancel::MAX_REASON_BYTES)
        .map(Into::into)
}

fn read_attempt(payload: &mut Payload<'_, '_>) -> Option<u32> {
    if payload.raw("attempt").is_none() {
        payload.note(Reason::MissingField, "attempt", "is required");
    }
    let attempt = payload.integer("attempt", u32::MAX)?;
    if attempt == 0 {
        payload.note(Reason::InvalidField, "attempt", "is 0, the first is 1");
    }
    Some(attempt)
}
