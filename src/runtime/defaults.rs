//! What a task gets where its trigger says nothing.

use std::collections::BTreeMap;

use crate::domain::id::{QueueName, TaskId};
use crate::domain::priority::Priority;
use crate::domain::retry::RetryPolicy;
use crate::domain::trigger::TaskTrigger;
use crate::store::record::NewTask;

/// What tasks of one handler get where their trigger says nothing.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct HandlerDefaults {
    /// The queue.
    pub queue: Option<QueueName>,
    /// The longest an attempt may run, in seconds.
    pub timeout_seconds: Option<f64>,
    /// When a failed attempt is followed by another.
    pub retry: Option<RetryPolicy>,
    /// The priority.
    pub priority: Option<Priority>,
}

/// Where a task comes from.
#[derive(Debug, Clone)]
pub struct Origin<'a> {
    /// Who asked for it.
    pub source_agent: &'a str,
    /// The event that did.
    pub event_id: &'a str,
    /// The chain that it belongs to, if one was named.
    pub correlation_id: Option<&'a str>,
    /// W3C trace context.
    pub trace: Option<(&'a str, Option<&'a str>)>,
}

/// All defaults of a replica or a program.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// The policy of tasks that name none.
    pub retry: RetryPolicy,
    /// By task name.
    pub handlers: BTreeMap<String, HandlerDefaults>,
}

impl Defaults {
    /// The task that a trigger asks for: trigger before handler before default.
    #[must_use]
    pub fn task(&self, trigger: TaskTrigger, origin: &Origin<'_>, partitions: u16) -> NewTask {
        let nothing = HandlerDefaults::default();
        let handler = self.handlers.get(trigger.task_name.as_str()).unwrap_or(&nothing);
        // A correlation id that makes no valid name is a chain, not a workflow.
        let workflow_id = trigger
            .workflow_id
            .clone()
            .or_else(|| origin.correlation_id.and_then(|id| id.parse().ok()));
        let mut retry = trigger.retry.or(handler.retry).unwrap_or(self.retry);
        if let Some(max_retries) = trigger.max_retries {
            retry.max_retries = max_retries;
        }
        let group = workflow_id.as_ref().map(crate::domain::id::Name::as_str);
        NewTask {
            id: TaskId::derive(origin.source_agent, origin.event_id, group, None, partitions),
            event_id: origin.event_id.to_owned(),
            correlation_id: origin.correlation_id.unwrap_or(origin.event_id).to_owned(),
            trace: origin
                .trace
                .map(|(parent, state)| (parent.to_owned(), state.map(str::to_owned))),
            retry,
            queue: trigger
                .queue
                .clone()
                .or_else(|| handler.queue.clone())
                .unwrap_or_default(),
            priority: trigger.priority.or(handler.priority).unwrap_or_default(),
            timeout_seconds: trigger.timeout_seconds.or(handler.timeout_seconds),
            workflow_id,
            saga: None,
            trigger,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_joins_the_workflow_that_its_correlation_id_names_where_it_names_none_and_may_leave_it() {
        let task = |correlation_id: Option<&str>, workflow_id: Option<&str>| {
            let mut trigger = TaskTrigger::new("t".parse().unwrap());
            trigger.workflow_id = workflow_id.map(|id| id.parse().unwrap());
            let origin = Origin {
                source_agent: "s",
                event_id: "e",
                correlation_id,
                trace: None,
            };
            let mut task = Defaults::default().task(trigger, &origin, 1);
            (
                task.workflow_id.clone().map(|id| id.to_string()),
                task.leave_default_workflow(),
            )
        };
        assert_eq!(task(Some("order-7"), None), (Some("order-7".to_owned()), true));
        assert_eq!(task(Some("order-7"), Some("w")), (Some("w".to_owned()), false));
        assert_eq!(task(Some("order 7"), None), (None, false));
        assert_eq!(task(None, None), (None, false));
    }
}
