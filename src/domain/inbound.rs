//! The event types that agents may send, by the stream that each belongs to.
//!
//! An event that lands on the other stream is handled all the same; the family only decides how a refusal is told: a
//! refused trigger becomes a dead letter, a refused command an answer.

use super::trigger::{
    SAGA_CANCEL, SAGA_START, TASK_CANCEL, TASK_HEARTBEAT, TASK_RESULT, TASK_TRIGGER, WORKFLOW_START, WORKFLOW_STOP,
};

/// Events that start something.
const TRIGGERS: [&str; 3] = [TASK_TRIGGER, WORKFLOW_START, SAGA_START];

/// Events about something that exists.
const COMMANDS: [&str; 5] = [TASK_CANCEL, WORKFLOW_STOP, SAGA_CANCEL, TASK_RESULT, TASK_HEARTBEAT];

/// Whether events of this type start something.
#[must_use]
pub fn is_trigger(event_type: &str) -> bool {
    TRIGGERS.contains(&event_type)
}

/// Whether events of this type are about something that exists.
#[must_use]
pub fn is_command(event_type: &str) -> bool {
    COMMANDS.contains(&event_type)
}
