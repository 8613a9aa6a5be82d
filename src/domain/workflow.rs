//! A workflow that is asked for: tasks that depend on each other, accepted whole or refused whole.
//!
//! The tasks may stand in any order. [`WorkflowTrigger`] has them in one in which each stands behind what it depends on,
//! with places instead of names: as they came if that will do, else layer by layer.

use std::fmt;
use std::str::FromStr;

use super::envelope::Envelope;
use super::id::{Name, shortened};
use super::links::{Links, Node, Vocabulary, tie};
use super::object::is_deeper_than;
use super::payload::Payload;
use super::plan::ExecutionPlan;
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
        check_bounds(payload)?;
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
    ///
    /// # Panics
    /// When somebody changed `tasks` so that they depend on each other in a ring; none that was read does.
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

/// Refuses what is larger or nested deeper than an event may be. For payloads that do not come in an envelope.
pub(super) fn check_bounds(payload: &str) -> Result<(), Rejection> {
    if payload.len() > Envelope::MAX_BYTES {
        let message = format!("has {} bytes, must have at most {}", payload.len(), Envelope::MAX_BYTES);
        return Err(Rejection::new(Reason::TooLarge, Some("payload"), message));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(payload: &str) -> String {
        WorkflowTrigger::parse(payload).unwrap_err().to_string()
    }

    /// The refusal of a workflow with these tasks.
    fn refused_tasks(tasks: &str) -> String {
        refused(&format!(r#"{{"tasks":[{tasks}]}}"#))
    }

    fn keys(workflow: &WorkflowTrigger) -> Vec<&str> {
        workflow.tasks.iter().map(|task| task.node().name.as_str()).collect()
    }

    #[test]
    fn every_field_arrives() {
        let workflow = WorkflowTrigger::parse(
            r#"{"workflow_id":"order-7","name":"An order","priority":"low","on_dependency_failure":"WAIT","tasks":[
                {"task_id":"check","args":[ 1e400 ],"kwargs":{"a":1},"priority":"HIGH","agent_id":"stock","queue":"q",
                 "parent_task_id":"0190f5d1-7c1e-8a3b-8c4d-000000000000","timeout_seconds":5,"max_retries":1,
                 "retry":"quick","delay_seconds":1,"tags":{"t":"1"},"metadata":{"m":[]}},
                {"task_id":"pay","name":"charge","dependencies":["check"],"on_dependency_failure":"run"}]}"#,
        )
        .unwrap();

        assert_eq!(workflow.workflow_id, "order-7".parse().ok());
        assert_eq!(workflow.name.as_deref(), Some("An order"));
        assert_eq!(workflow.priority, Some(Priority::Low));
        assert_eq!(workflow.on_dependency_failure, FailurePolicy::Wait);
        let [check, pay] = &workflow.tasks[..] else {
            panic!("not two tasks")
        };
        let task = &check.trigger;
        assert_eq!(
            (task.task_name.as_str(), task.key.as_ref()),
            ("check", "check".parse().ok().as_ref())
        );
        assert_eq!((task.args.get(), task.kwargs.get()), ("[ 1e400 ]", r#"{"a":1}"#));
        assert_eq!((task.priority, task.max_retries), (Some(Priority::High), Some(1)));
        assert_eq!((task.tags.get(), task.metadata.get()), (r#"{"t":"1"}"#, r#"{"m":[]}"#));
        assert!(task.parent_task_id.is_some() && task.retry.is_some() && task.timeout_seconds.is_some());
        assert_eq!((&check.depends_on[..], check.has_dependents), (&[][..], true));
        assert_eq!(check.on_dependency_failure, None);
        let task = &pay.trigger;
        assert_eq!(
            (task.task_name.as_str(), task.key.as_ref()),
            ("charge", "pay".parse().ok().as_ref())
        );
        assert_eq!((&pay.depends_on[..], pay.has_dependents), (&[0][..], false));
        assert_eq!(task.dependencies, ["check".parse().unwrap()]);
        assert_eq!(pay.on_dependency_failure, Some(FailurePolicy::Run));
    }

    #[test]
    fn tasks_stay_in_their_order_if_it_will_do_and_stand_layer_by_layer_if_not() {
        let sorted = WorkflowTrigger::parse(
            r#"{"tasks":[{"task_id":"a"},{"task_id":"b","dependencies":["a"]},{"task_id":"c"}]}"#,
        )
        .unwrap();
        let unsorted = WorkflowTrigger::parse(
            r#"{"tasks":[{"task_id":"d","dependencies":["c","b","b"]},{"task_id":"b","dependencies":["a"]},
                {"task_id":"c","dependencies":["a"]},{"task_id":"a"}]}"#,
        )
        .unwrap();

        assert_eq!(keys(&sorted), ["a", "b", "c"]);
        assert_eq!(sorted.plan().execution_batches, [vec!["a", "c"], vec!["b"]]);
        assert_eq!(keys(&unsorted), ["a", "b", "c", "d"]);
        let depends_on: Vec<_> = unsorted.tasks.iter().map(|task| &task.depends_on[..]).collect();
        assert_eq!(depends_on, [&[][..], &[0], &[0], &[2, 1]]);
        let has_dependents: Vec<_> = unsorted.tasks.iter().map(|task| task.has_dependents).collect();
        assert_eq!(has_dependents, [true, true, true, false]);
        assert_eq!(
            unsorted.plan().execution_batches,
            [vec!["a"], vec!["b", "c"], vec!["d"]]
        );
    }

    #[test]
    fn each_bad_graph_has_its_reason_and_its_names() {
        for (payload, message) in [
            ("{}", "missing_field: `tasks` is required"),
            (
                r#"{"tasks":[]}"#,
                "invalid_field: `tasks` is empty, must have at least one entry",
            ),
            (
                r#"{"tasks":{}}"#,
                "invalid_field: `tasks` must be an array, is an object",
            ),
            (
                r#"{"tasks":["a"]}"#,
                "invalid_field: `tasks[0]` must be an object, is a string",
            ),
            (
                r#"{"tasks":[{"task_id":"a"}],"on_dependency_failure":"stop"}"#,
                "invalid_field: `on_dependency_failure` `stop` is no failure policy: expected cancel, run or wait",
            ),
        ] {
            assert_eq!(refused(payload), message);
        }
        for (tasks, message) in [
            (
                r#"{"task_id":"a"},{"task_id":"b"},{"task_id":"a"}"#,
                "duplicate_key: `tasks[2].task_id` is `a`, as tasks[0] is called already",
            ),
            (
                r#"{"task_id":"alpha"},{"task_id":"b","dependencies":["alhpa"]}"#,
                "invalid_dependency: `tasks[1].dependencies` names `alhpa`, which is no task of this workflow; \
                 did you mean `alpha`?",
            ),
            (
                r#"{"task_id":"a","dependencies":["a"]}"#,
                "cyclic_dependency: `tasks[0].dependencies` depends on itself: a → a",
            ),
            (
                r#"{"task_id":"x","dependencies":["c"]},{"task_id":"c","dependencies":["b"]},
                   {"task_id":"b","dependencies":["c"]}"#,
                "cyclic_dependency: `tasks[1].dependencies` depends on itself: c → b → c",
            ),
        ] {
            assert_eq!(refused_tasks(tasks), message);
        }
    }

    #[test]
    fn all_problems_are_told_at_once_by_their_path() {
        assert_eq!(
            refused_tasks(
                r#"{"task_id":"a","task_name":"x","retry":{"jitter":2}},{"name":"b"},{"task_id":"c","depends_on":[]},
                   {"task_id":"d","workflow_id":"w","args":{}}"#
            ),
            "missing_field: `tasks[0].task_name` is not a known field; did you mean `name`?; \
             `tasks[0].retry.jitter` is 2, must be from 0 to 1; `tasks[1].task_id` is required; \
             `tasks[2].depends_on` is not a known field; did you mean `dependencies`?; \
             `tasks[3].workflow_id` is not a known field; there are task_id, name, dependencies, \
             on_dependency_failure, args, kwargs, priority, agent_id, queue, parent_task_id, timeout_seconds, \
             max_retries, retry, delay_seconds, run_at, tags, metadata; \
             `tasks[3].args` must be an array, is an object"
        );
        assert_eq!(
            refused_tasks(
                r#"{"task_id":"a","dependencies":["b","x"]},{"task_id":"b","dependencies":["a"]},{"task_id":"a"}"#
            ),
            "cyclic_dependency: `tasks[2].task_id` is `a`, as tasks[0] is called already; \
             `tasks[0].dependencies` names `x`, which is no task of this workflow; \
             `tasks[0].dependencies` depends on itself: a → b → a"
        );
    }

    #[test]
    fn the_ring_is_given_to_programs_as_well() {
        let payload = r#"{"tasks":[{"task_id":"a","dependencies":["b"]},{"task_id":"b","dependencies":["a"]}]}"#;

        assert_eq!(WorkflowTrigger::parse(payload).unwrap_err().cycle, ["a", "b", "a"]);
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let tasks = |count: usize, dependencies: &dyn Fn(usize) -> Vec<String>| {
            let tasks = (0..count).map(|number| {
                let dependencies = serde_json::to_string(&dependencies(number)).unwrap();
                format!(r#"{{"task_id":"{number}","dependencies":{dependencies}}}"#)
            });
            format!(r#"{{"tasks":[{}]}}"#, tasks.collect::<Vec<_>>().join(","))
        };
        let last =
            |most: usize| move |number: usize| (number.saturating_sub(most)..number).map(|on| on.to_string()).collect();

        let full = WorkflowTrigger::parse(&tasks(10_000, &last(10))).unwrap();
        assert_eq!(full.tasks.len(), 10_000);
        assert_eq!(full.plan().levels, 10_000);
        assert_eq!(
            refused(&tasks(10_001, &last(0))),
            "invalid_field: `tasks` has 10001 entries, must have at most 10000"
        );
        assert_eq!(
            refused(&tasks(1_000, &last(110))),
            "invalid_field: `tasks` have 103895 dependencies together, must have at most 100000"
        );
        assert!(refused(&format!(r#"{{"name":"{}","tasks":[]}}"#, "x".repeat(257))).contains("`name` has 257 bytes"));
        let deep = format!(r#"{{"tasks":{}{}}}"#, "[".repeat(64), "]".repeat(64));
        assert_eq!(refused(&deep), "too_deep: `payload` is nested deeper than 64 levels");
        let large = format!(r#"{{"tasks":[{{"task_id":"a","args":["{}"]}}]}}"#, "x".repeat(1 << 20));
        let told = format!(
            "too_large: `payload` has {} bytes, must have at most 1048576",
            large.len()
        );
        assert_eq!(refused(&large), told);
    }

    #[test]
    fn a_flood_of_mistakes_stays_small() {
        let tasks: Vec<_> = (0..10_000)
            .map(|number| format!(r#"{{"task_id":"{}","dependencies":["y{number}"],"x":1}}"#, number % 7))
            .collect();

        let rejection = WorkflowTrigger::parse(&format!(r#"{{"tasks":[{}]}}"#, tasks.join(","))).unwrap_err();

        assert_eq!(rejection.problems.len(), 33);
        assert!(rejection.errors_json().len() < 16_384);
    }
}
