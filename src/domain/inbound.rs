//! The event types that agents may send, by the stream that each belongs to.
//!
//! An event that lands on the other stream is handled all the same; the family only decides how a refusal is told: a
//! refused trigger becomes a dead letter, a refused command an answer.

/// Events that start something.
const TRIGGERS: [&str; 3] = [
    "orchestration.task.trigger",
    "orchestration.workflow.start",
    "orchestration.saga.start",
];

/// Events about something that exists.
const COMMANDS: [&str; 5] = [
    "orchestration.task.cancel",
    "orchestration.workflow.stop",
    "orchestration.saga.cancel",
    "orchestration.task.result",
    "orchestration.task.heartbeat",
];

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
