//! Keeps out what can be read and not be carried out yet. The one place that does.

use crate::domain::rejection::{Reason, Rejection};
use crate::domain::trigger::{
    Inbound, SAGA_CANCEL, SAGA_START, TASK_HEARTBEAT, TASK_RESULT, TaskCancel, TaskTrigger, WORKFLOW_START,
    WORKFLOW_STOP,
};

/// What this version carries out.
pub(super) enum Supported {
    Task(Box<TaskTrigger>),
    Cancel(TaskCancel),
}

/// What is asked for, or that it has to wait for a later version.
pub(super) fn supported(inbound: Inbound) -> Result<Supported, Rejection> {
    let event_type = match inbound {
        Inbound::Task(trigger) if !trigger.dependencies.is_empty() => {
            let message = "must be empty: this version does not support them";
            return Err(Rejection::new(Reason::InvalidField, Some("dependencies"), message));
        }
        Inbound::Task(trigger) => return Ok(Supported::Task(trigger)),
        Inbound::Cancel(cancel) => return Ok(Supported::Cancel(cancel)),
        Inbound::Workflow(_) => WORKFLOW_START,
        Inbound::Saga(_) => SAGA_START,
        Inbound::WorkflowStop(_) => WORKFLOW_STOP,
        Inbound::SagaCancel(_) => SAGA_CANCEL,
        Inbound::Result(_) => TASK_RESULT,
        Inbound::Heartbeat(_) => TASK_HEARTBEAT,
    };
    let message = format!("`{event_type}` is not handled by this version yet");
    Err(Rejection::new(Reason::UnknownEventType, Some("event_type"), message))
}
