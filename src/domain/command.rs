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

#[cfg(test)]
mod tests {
    use super::super::envelope::Envelope;
    use super::super::rejection::Rejection;
    use super::super::trigger::{
        Inbound, SAGA_CANCEL, TASK_CANCEL, TASK_HEARTBEAT, TASK_RESULT, WORKFLOW_STOP, interpret,
    };
    use super::*;

    const ID: &str = "0190f5d1-7c1e-8a3b-8c4d-000000000000";

    fn asked(event_type: &str, payload: &str) -> Result<Inbound, Rejection> {
        let fields = [("event_type", event_type), ("source_agent", "s"), ("payload", payload)];
        let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        interpret(&Envelope::decode("1-0", &fields).map_err(|refused| refused.rejection)?)
    }

    /// What is asked about attempt 3 of the task, with these fields on top.
    fn about_attempt(event_type: &str, rest: &str) -> Result<Inbound, Rejection> {
        asked(event_type, &format!(r#"{{"task_id":"{ID}","attempt":3,{rest}}}"#))
    }

    fn outcome(rest: &str) -> Result<Outcome, String> {
        match about_attempt(TASK_RESULT, rest) {
            Ok(Inbound::Result(result)) => {
                assert_eq!((result.task_id.to_string().as_str(), result.attempt), (ID, 3));
                Ok(result.outcome)
            }
            Ok(other) => panic!("not a result: {other:?}"),
            Err(rejection) => Err(rejection.to_string()),
        }
    }

    #[test]
    fn a_cancel_names_its_task_and_may_say_why() {
        let cancel = |rest: &str| asked(TASK_CANCEL, &format!(r#"{{"task_id":"{ID}"{rest}}}"#));

        let Ok(Inbound::Cancel(plain)) = cancel(r#","reason":"changed\u0020my mind""#) else {
            panic!("not a cancel")
        };

        assert_eq!(plain.task_id.to_string(), ID);
        assert_eq!(plain.reason.as_deref(), Some("changed my mind"));
        let long = format!(r#","reason":"{}""#, "x".repeat(1025));
        assert_eq!(cancel(&long).unwrap_err().reason, Reason::InvalidField);
        assert_eq!(cancel(r#","force":true"#).unwrap_err().reason, Reason::UnknownField);
        assert_eq!(asked(TASK_CANCEL, "{}").unwrap_err().reason, Reason::MissingField);
    }

    #[test]
    fn the_end_of_a_workflow_or_a_saga_is_asked_for_by_its_id() {
        let stop = asked(WORKFLOW_STOP, r#"{"workflow_id":"order-7","reason":"no more"}"#);
        let cancel = asked(SAGA_CANCEL, r#"{"saga_id":"order-7"}"#);

        let (Ok(Inbound::WorkflowStop(stop)), Ok(Inbound::SagaCancel(cancel))) = (stop, cancel) else {
            panic!("not a stop and a cancel")
        };
        assert_eq!(
            (stop.workflow_id.as_str(), stop.reason.as_deref()),
            ("order-7", Some("no more"))
        );
        assert_eq!((cancel.saga_id.as_str(), cancel.reason), ("order-7", None));
        for (event_type, payload) in [(WORKFLOW_STOP, "{}"), (SAGA_CANCEL, r#"{"saga_id":null}"#)] {
            assert_eq!(asked(event_type, payload).unwrap_err().reason, Reason::MissingField);
        }
        assert_eq!(
            asked(SAGA_CANCEL, r#"{"saga_id":"a b"}"#).unwrap_err().reason,
            Reason::InvalidField
        );
    }

    #[test]
    fn a_result_arrives_byte_for_byte() {
        for (rest, expected) in [
            (r#""status":"completed","result": {"n": 1e400 }"#, r#"{"n": 1e400 }"#),
            (
                r#""status":"completed","result":null,"error":null,"retryable":true"#,
                "null",
            ),
            (r#""status":"completed""#, "null"),
        ] {
            match outcome(rest) {
                Ok(Outcome::Completed { result }) => assert_eq!(result.get(), expected),
                other => panic!("{rest}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_failure_says_as_much_as_its_agent_can() {
        for (rest, kind, message, retryable) in [
            (
                r#""status":"failed""#,
                "handler_error",
                "the agent gave no message",
                true,
            ),
            (
                r#""status":"failed","error":{"type":"OutOfStock","message":"none left"},"retryable":false"#,
                "OutOfStock",
                "none left",
                false,
            ),
        ] {
            match outcome(rest) {
                Ok(Outcome::Failed { error, is_retryable }) => {
                    assert_eq!(
                        (&*error.kind, &*error.message, is_retryable),
                        (kind, message, retryable)
                    );
                }
                other => panic!("{rest}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_answer_that_contradicts_itself_is_refused() {
        for (rest, message) in [
            (r#""result":1"#, "missing_field: `status` is required"),
            (
                r#""status":"done""#,
                "invalid_field: `status` must be `completed` or `failed`",
            ),
            (
                r#""status":"completed","error":{}"#,
                "invalid_field: `error` must not be given together with status `completed`",
            ),
            (
                r#""status":"failed","result":1"#,
                "invalid_field: `result` must not be given together with status `failed`",
            ),
            (
                r#""status":"failed","error":"boom""#,
                "invalid_field: `error` must be an object, is a string",
            ),
            (
                r#""status":"failed","error":{"type":"","code":7}"#,
                "invalid_field: `error.code` is not a known field; there are type, message; \
                 `error.type` must have 1 to 128 bytes and no line breaks",
            ),
            (
                r#""status":"failed","retryable":"no""#,
                "invalid_field: `retryable` must be true or false, is a string",
            ),
        ] {
            assert_eq!(outcome(rest).unwrap_err(), message, "{rest}");
        }
        for attempt in ["0", "-1", "4294967296", "\"3\"", "1.5"] {
            let payload = format!(r#"{{"task_id":"{ID}","attempt":{attempt},"status":"completed"}}"#);
            let rejection = asked(TASK_RESULT, &payload).unwrap_err();
            assert_eq!(rejection.reason, Reason::InvalidField, "{attempt}");
            assert_eq!(rejection.problems[0].field.as_deref(), Some("attempt"));
        }
    }

    #[test]
    fn a_heartbeat_may_say_how_far_it_is() {
        let beat = |rest: &str| match asked(TASK_HEARTBEAT, &format!(r#"{{"task_id":"{ID}","attempt":1{rest}}}"#)) {
            Ok(Inbound::Heartbeat(beat)) => Ok(beat.progress.map(|progress| progress.get().to_owned())),
            Ok(other) => panic!("not a heartbeat: {other:?}"),
            Err(rejection) => Err(rejection.to_string()),
        };

        assert_eq!(beat(""), Ok(None));
        assert_eq!(beat(r#","progress":[ 0.50 ]"#), Ok(Some("[ 0.50 ]".to_owned())));
        let long = format!(r#","progress":"{}""#, "x".repeat(16 << 10));
        assert_eq!(
            beat(&long).unwrap_err(),
            "invalid_field: `progress` has 16386 bytes, must have at most 16384"
        );
        assert_eq!(
            asked(TASK_HEARTBEAT, "{}").unwrap_err().to_string(),
            "missing_field: `task_id` is required; `attempt` is required"
        );
    }
}
