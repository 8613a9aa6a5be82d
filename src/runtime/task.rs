//! A task as a program asks for it.
//!
//! What is said becomes the payload of `orchestration.task.trigger` and is read by the rules of that event.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::fields::Fields;
use super::request::read_trigger;
use crate::domain::id::TaskId;
use crate::domain::priority::Priority;
use crate::domain::retry::RetryPolicy;
use crate::domain::trigger::TaskTrigger;
use crate::domain::workflow::FailurePolicy;
use crate::error::Error;
use crate::store::document::timestamp;

/// A task to be put into a queue, with [`TaskQueue::enqueue`](crate::TaskQueue::enqueue), or into a workflow, with
/// [`WorkflowBuilder::add_task`](crate::WorkflowBuilder::add_task).
///
/// Nothing is checked before it is put in; then every problem is told at once.
///
/// ```
/// use std::time::Duration;
/// use waooaw_orchestration::{Priority, RetryPolicy, Task};
///
/// let task = Task::new("charge_customer")
///     .kwargs(serde_json::json!({ "customer": "cust-456", "amount": 99.99 }))
///     .priority(Priority::High)
///     .timeout(Duration::from_secs(300))
///     .retry(RetryPolicy::QUICK)
///     .tags([("shop", "berlin")]);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Task {
    fields: Fields,
    event_id: Option<String>,
}

impl Task {
    /// A task of this name with no arguments.
    pub fn new(name: &str) -> Self {
        let task = Self {
            fields: Fields::default(),
            event_id: None,
        };
        task.set("task_name", name)
    }

    fn set(mut self, field: &'static str, value: &(impl Serialize + ?Sized)) -> Self {
        self.fields.set(field, value);
        self
    }

    /// Positional arguments: anything that serializes to a JSON list. None unless said.
    pub fn args(self, args: impl Serialize) -> Self {
        self.set("args", &args)
    }

    /// Named arguments: anything that serializes to a JSON object. None unless said.
    pub fn kwargs(self, kwargs: impl Serialize) -> Self {
        self.set("kwargs", &kwargs)
    }

    /// Free-form data, which handlers see too: anything that serializes to a JSON object.
    pub fn metadata(self, metadata: impl Serialize) -> Self {
        self.set("metadata", &metadata)
    }

    /// Texts under names, to find it by: a map or an iterator of pairs.
    pub fn tags<K: Into<String>, V: Into<String>>(self, tags: impl IntoIterator<Item = (K, V)>) -> Self {
        let tags = tags.into_iter().map(|(name, text)| (name.into(), text.into()));
        self.set("tags", &tags.collect::<std::collections::BTreeMap<String, String>>())
    }

    /// How urgent it is; unless said as its parent, else as its workflow, else as its handler, else normal.
    pub fn priority(self, priority: Priority) -> Self {
        self.set("priority", priority.as_str())
    }

    /// The workflow that it belongs to. Not for a task of a [`WorkflowBuilder`](crate::WorkflowBuilder), which has one.
    pub fn workflow_id(self, workflow: &str) -> Self {
        self.set("workflow_id", workflow)
    }

    /// The caller's own name for it, unique in its workflow. In a [`WorkflowBuilder`](crate::WorkflowBuilder) it is what the
    /// task runs unless said.
    pub fn key(self, key: &str) -> Self {
        self.set("key", key)
    }

    /// Keys or ids of tasks of the same workflow that must have completed before it starts; at most 10,000. Their results
    /// are its inputs.
    pub fn dependencies(self, names: &[&str]) -> Self {
        self.set("dependencies", names)
    }

    /// What becomes of it when what it depends on ends without success, where that is not what its workflow says. Only for a
    /// task of a [`WorkflowBuilder`](crate::WorkflowBuilder).
    pub fn on_dependency_failure(self, policy: FailurePolicy) -> Self {
        self.set("on_dependency_failure", policy.as_str())
    }

    /// The task that asks for it, as a handler does: without a priority of its own it takes that one's.
    pub fn parent(self, parent: TaskId) -> Self {
        self.set("parent_task_id", &parent.to_string())
    }

    /// The queue that it waits in; unless said its handler's, else `default`.
    pub fn queue(self, queue: &str) -> Self {
        self.set("queue", queue)
    }

    /// The agent that is responsible. Where no replica has a handler of the task's name, it goes to that agent's inbox.
    pub fn agent_id(self, agent: &str) -> Self {
        self.set("agent_id", agent)
    }

    /// The longest that an attempt may run, over 0 and at most a year; without limit unless said.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.set("timeout_seconds", &timeout.as_secs_f64())
    }

    /// When a failed attempt is followed by another; [`RetryPolicy::STANDARD`] unless said.
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.set("retry", &policy)
    }

    /// How many attempts may follow the first, in place of the policy's own number.
    pub fn max_retries(self, max_retries: u32) -> Self {
        self.set("max_retries", &max_retries)
    }

    /// Waits so long before it may start, counted from when it is accepted; at most a year. Not together with
    /// [`Task::run_at`].
    pub fn delay(self, delay: Duration) -> Self {
        self.set("delay_seconds", &delay.as_secs_f64())
    }

    /// The earliest time at which it may start, to the millisecond; one that has passed is now.
    pub fn run_at(self, moment: SystemTime) -> Self {
        let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.set(
            "run_at",
            &timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// The caller's own id of the request, 1 to 256 bytes: putting the same one in again creates nothing. Drawn unless said.
    /// Not for a task of a [`WorkflowBuilder`](crate::WorkflowBuilder), which is one request as a whole.
    pub fn event_id(mut self, event_id: &str) -> Self {
        self.event_id = Some(event_id.to_owned());
        self
    }

    /// The fields that it has as one of a workflow's. What it can have by itself only is among them, and is refused there.
    pub(super) fn into_node(self) -> Fields {
        let mut fields = self.fields;
        fields.rename("task_name", "name");
        fields.rename("key", "task_id");
        fields.default_to("task_id", "name");
        if let Some(event_id) = &self.event_id {
            fields.set("event_id", event_id);
        }
        fields
    }

    /// What it asks for, checked, and the id of the request.
    pub(super) fn into_trigger(self, source_agent: &str) -> Result<(TaskTrigger, String), Error> {
        let payload = self.fields.into_payload()?;
        let event_id = self.event_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        Ok((read_trigger(source_agent, &event_id, &payload)?, event_id))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::trigger::Start;

    fn read(task: Task) -> TaskTrigger {
        task.into_trigger("tester").unwrap().0
    }

    fn refused(task: Task) -> String {
        task.into_trigger("tester").unwrap_err().to_string()
    }

    #[test]
    fn everything_that_is_said_arrives() {
        let parent = TaskId::derive("tester", "parent", None, None, 1);
        let task = Task::new("work")
            .args([1])
            .kwargs(json!({ "a": [] }))
            .metadata(json!({ "who": "me" }))
            .tags([("shop", "berlin")])
            .priority(Priority::High)
            .workflow_id("w-1")
            .key("k")
            .dependencies(&["before"])
            .parent(parent)
            .queue("billing")
            .agent_id("stock")
            .timeout(Duration::from_millis(500))
            .retry(RetryPolicy::QUICK)
            .max_retries(7)
            .delay(Duration::from_secs(90));

        let trigger = read(task);

        assert_eq!(
            [&trigger.args, &trigger.kwargs, &trigger.metadata, &trigger.tags].map(|json| json.get()),
            ["[1]", r#"{"a":[]}"#, r#"{"who":"me"}"#, r#"{"shop":"berlin"}"#]
        );
        let texts = [
            trigger.workflow_id.unwrap().to_string(),
            trigger.key.unwrap().to_string(),
            trigger.dependencies[0].to_string(),
            trigger.queue.unwrap().to_string(),
            trigger.agent_id.unwrap().to_string(),
        ];
        assert_eq!(texts, ["w-1", "k", "before", "billing", "stock"]);
        assert_eq!(
            (trigger.priority, trigger.parent_task_id),
            (Some(Priority::High), Some(parent))
        );
        assert_eq!((trigger.timeout_seconds, trigger.max_retries), (Some(0.5), Some(7)));
        assert_eq!(trigger.retry, Some(RetryPolicy::QUICK));
        assert_eq!(trigger.start, Start::After(Duration::from_secs(90)));
    }

    #[test]
    fn a_moment_is_a_time_on_the_wire() {
        let at = |moment| read(Task::new("work").run_at(moment)).start;
        let epoch = SystemTime::UNIX_EPOCH;

        assert_eq!(at(epoch + Duration::from_micros(1_500)), Start::At(1));
        assert_eq!(at(epoch - Duration::from_secs(1)), Start::At(0));
        assert!(refused(Task::new("work").run_at(epoch + Duration::from_secs(1 << 38))).contains("`run_at`"));
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let told = refused(
            Task::new("no name")
                .args(5)
                .timeout(Duration::ZERO)
                .delay(Duration::from_secs(1))
                .run_at(SystemTime::UNIX_EPOCH),
        );

        for field in ["`task_name`", "`args`", "`timeout_seconds`", "`run_at`"] {
            assert!(told.contains(field), "{field} in {told}");
        }
    }
}
