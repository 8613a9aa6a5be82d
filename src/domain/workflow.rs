//! A workflow that is asked for: tasks that depend on each other, accepted whole or refused whole.
//!
//! The tasks may stand in any order. [`WorkflowTrigger`] has them in one in which each stands behind what it depends on,
//! with places instead of names: as they came if that will do, else layer by layer.

use std::fmt;
use std::str::FromStr;

use super::envelope::Envelope;
use super::graph::ExecutionPlan;
use super::id::{Name, shortened};
use super::links::{Links, Node, Vocabulary, tie};
use super::object::is_deeper_than;
use super::payload::Payload;
use super::priority::Priority;
use super::rejection::{Reason, Rejection};
use super::trigger::{TaskTrigger, read};

/// What becomes of tasks that depend on one that ended without success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FailurePolicy {
    /// They are cancelled, and so is what depends on them.
    #[default]
    Cancel,
    /// They run all the same, with null for that input.
    Run,
    /// They stay blocked until an operator requeues what failed or cancels them.
    Wait,
}

impl FailurePolicy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cancel, Self::Run, Self::Wait];

    /// The name on the wire: `cancel`, `run` or `wait`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Run => "run",
            Self::Wait => "wait",
        }
    }
}

impl fmt::Display for FailurePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no failure policy: expected cancel, run or wait")]
pub struct UnknownPolicy(String);

impl FromStr for FailurePolicy {
    type Err = UnknownPolicy;

    /// Reads a name in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownPolicy(shortened(text)))
    }
}

/// A workflow that is asked for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorkflowTrigger {
    /// Its id, where the caller chose one.
    pub workflow_id: Option<Name>,
    /// Its name, for people; at most [`WorkflowTrigger::MAX_NAME_BYTES`].
    pub name: Option<String>,
    /// The priority of tasks that have none of their own and no parent's.
    pub priority: Option<Priority>,
    /// What becomes of tasks that depend on one that failed, where a task does not say it for itself.
    pub on_dependency_failure: FailurePolicy,
    /// Its tasks, at least one, each behind what it depends on.
    pub tasks: Vec<WorkflowTask>,
}

/// One task of a workflow.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorkflowTask {
    /// The task: `key` is the node's key, `dependencies` are keys of the same workflow, `workflow_id` is open.
    pub trigger: TaskTrigger,
    /// The places in [`WorkflowTrigger::tasks`] of what it depends on, in the order of `trigger.dependencies`; none twice.
    pub depends_on: Vec<u32>,
    /// Whether another task depends on it.
    pub has_dependents: bool,
    /// What becomes of it when what it depends on fails, where that is not the workflow's policy.
    pub on_dependency_failure: Option<FailurePolicy>,
}

/// What the payload of `orchestration.workflow.start` may have.
pub(super) const WORKFLOW_FIELDS: [&str; 5] = ["workflow_id", "name", "priority", "on_dependency_failure", "tasks"];

/// What one of its tasks may have: the options of a task, with its own names for key and task name.
const WORKFLOW_TASK_FIELDS: [&str; 17] = [
    "task_id",
    "name",
    "dependencies",
    "on_dependency_failure",
    "args",
    "kwargs",
    "priority",
    "agent_id",
    "queue",
    "parent_task_id",
    "timeout_seconds",
    "max_retries",
    "retry",
    "delay_seconds",
    "run_at",
    "tags",
    "metadata",
];

const WORDS: Vocabulary = Vocabulary {
    list: "tasks",
    name: "task_id",
    dependencies: "dependencies",
    node: "task of this workflow",
};

impl WorkflowTrigger {
    /// The most tasks that a workflow can have when it starts; more may join it later.
    pub const MAX_TASKS: usize = 10_000;
    /// The most dependencies that all its tasks can have together; repeated ones count once.
    pub const MAX_DEPENDENCIES: usize = super::links::MAX_DEPENDENCIES;
    /// The longest name.
    pub const MAX_NAME_BYTES: usize = 256;

    /// Reads the payload of `orchestration.workflow.start`, of any length.
    ///
    /// # Errors
    /// [`Rejection`] with every problem, as for the event.
    pub fn parse(payload: &str) -> Result<Self, Rejection> {
        check_depth(payload)?;
        read(payload, &WORKFLOW_FIELDS, Self::read)
    }

    pub(super) fn read(payload: &mut Payload<'_, '_>) -> Option<Self> {
        let workflow_id = payload.parsed("workflow_id");
        let name = read_name(payload);
        let priority = payload.parsed("priority");
        let on_dependency_failure = payload.parsed("on_dependency_failure").unwrap_or_default();
        let tasks = read_list(
            payload,
            &WORDS,
            Self::MAX_TASKS,
            &WORKFLOW_TASK_FIELDS,
            WorkflowTask::read,
        )?;

        let nodes: Vec<_> = tasks.iter().map(WorkflowTask::node).collect();
        let links = tie(&nodes, WORDS, payload.problems())?;
        Some(Self {
            workflow_id,
            name,
            priority,
            on_dependency_failure,
            tasks: in_order(tasks, links, |task, depends_on, has_dependents| {
                task.depends_on = depends_on;
                task.has_dependents = has_dependents;
            }),
        })
    }

    /// In what order its tasks can run, and how many at once. In a batch they stand as they came.
    #[must_use]
    pub fn plan(&self) -> ExecutionPlan {
        ExecutionPlan::of(
            self.tasks.len(),
            |place| self.tasks[place].node().name.to_string(),
            |place| &self.tasks[place].depends_on,
        )
        .expect("each task stands behind what it depends on, so there is no ring")
    }
}

impl WorkflowTask {
    fn read(payload: &mut Payload<'_, '_>) -> Option<Self> {
        let key: Option<Name> = payload.required("task_id");
        // The key is the task's name only where none was given, not where a wrong one was.
        let name = if payload.raw("name").is_some() {
            payload.parsed("name")
        } else {
            key.clone()
        };
        let on_dependency_failure = payload.parsed("on_dependency_failure");
        let trigger = TaskTrigger::read_options(payload, name);
        Some(Self {
            trigger: TaskTrigger {
                key: Some(key?),
                workflow_id: None,
                ..trigger?
            },
            depends_on: Vec::new(),
            has_dependents: false,
            on_dependency_failure,
        })
    }

    fn node(&self) -> Node<'_> {
        Node {
            name: self.trigger.key.as_ref().expect("it is read with a key"),
            dependencies: &self.trigger.dependencies,
        }
    }
}

/// Refuses what is nested deeper than an event may be. For payloads that do not come in an envelope.
pub(super) fn check_depth(payload: &str) -> Result<(), Rejection> {
    if is_deeper_than(payload.as_bytes(), Envelope::MAX_DEPTH) {
        let message = format!("is nested deeper than {} levels", Envelope::MAX_DEPTH);
        return Err(Rejection::new(Reason::TooDeep, Some("payload"), message));
    }
    Ok(())
}

/// The name of a workflow or a saga, for people.
pub(super) fn read_name(payload: &mut Payload<'_, '_>) -> Option<String> {
    payload
        .short_text("name", WorkflowTrigger::MAX_NAME_BYTES)
        .map(Into::into)
}

/// Reads a list of objects. `None` when one of them can not be read so far that the list makes sense without it.
pub(super) fn read_list<T>(
    payload: &mut Payload<'_, '_>,
    words: &Vocabulary,
    most: usize,
    known: &[&str],
    reader: impl Fn(&mut Payload<'_, '_>) -> Option<T>,
) -> Option<Vec<T>> {
    let field = words.list;
    if payload.raw(field).is_none() {
        payload.note(Reason::MissingField, field, "is required");
    }
    let entries = payload.entries(field)?;
    if entries.is_empty() {
        payload.note(Reason::InvalidField, field, "is empty, must have at least one entry");
        return None;
    }
    if entries.len() > most {
        let message = format!("has {} entries, must have at most {most}", entries.len());
        payload.note(Reason::InvalidField, field, message);
        return None;
    }
    let mut list = Vec::with_capacity(entries.len());
    for (place, entry) in entries.iter().enumerate() {
        let read = payload
            .object_at(&format!("{field}[{place}]"), entry, known)
            .and_then(|mut fields| reader(&mut fields));
        list.extend(read);
    }
    (list.len() == entries.len()).then_some(list)
}

/// Puts a list into the order of its links, and gives each its own.
pub(super) fn in_order<T>(list: Vec<T>, links: Links, give: impl Fn(&mut T, Vec<u32>, bool)) -> Vec<T> {
    let mut list: Vec<_> = list.into_iter().map(Some).collect();
    let links = links.order.iter().zip(links.dependencies).zip(links.has_dependents);
    links
        .map(|((&place, depends_on), has_dependents)| {
            let mut entry = list[place as usize].take().expect("no place comes twice in an order");
            give(&mut entry, depends_on, has_dependents);
            entry
        })
        .collect()
}
