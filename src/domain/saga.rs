//! A saga that is asked for: steps, each with what undoes it.
//!
//! The steps may stand in any order; [`SagaTrigger`] has them in one in which each stands behind what it depends on, and
//! each knows its place in the list as it came.

use serde_json::value::RawValue;

use super::id::{Name, QueueName};
use super::links::{Node, Vocabulary, tie};
use super::object::kind;
use super::payload::Payload;
use super::priority::Priority;
use super::rejection::{Reason, Rejection};
use super::retry::RetryPolicy;
use super::task_fields::{read_names, read_retry, read_timeout};
use super::trigger::{TaskTrigger, literal, read};
use super::workflow::{check_bounds, in_order, read_list, read_name};

/// A saga that is asked for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SagaTrigger {
    /// Its id, where the caller chose one.
    pub saga_id: Option<Name>,
    /// Its name, for people; at most [`super::workflow::WorkflowTrigger::MAX_NAME_BYTES`].
    pub name: Option<String>,
    /// Its steps, at least one, each behind what it depends on.
    pub steps: Vec<SagaStep>,
}

/// One step of a saga.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SagaStep {
    /// Its name, unique in the saga.
    pub name: Name,
    /// Its place in the list as it came, from 0.
    pub index: u32,
    /// The task that does it: `key` is the step's name, `dependencies` are names of steps, `workflow_id` is open.
    pub action: TaskTrigger,
    /// The task that undoes it, without `key` and `dependencies`. It has the step's queue, agent, priority and timeout,
    /// and the step's `args` and `kwargs` where it was given none.
    pub compensation: Option<TaskTrigger>,
    /// The places in [`SagaTrigger::steps`] of what it depends on, in the order of `action.dependencies`; none twice.
    pub depends_on: Vec<u32>,
    /// Whether another step depends on it.
    pub has_dependents: bool,
    /// Whether there is no way back once it is done. At most one step of a saga is.
    pub pivot: bool,
}

/// What the payload of `orchestration.saga.start` may have.
pub(super) const SAGA_FIELDS: [&str; 3] = ["saga_id", "name", "steps"];

const STEP_FIELDS: [&str; 15] = [
    "name",
    "action",
    "compensation",
    "args",
    "kwargs",
    "compensation_args",
    "compensation_kwargs",
    "depends_on",
    "pivot",
    "priority",
    "timeout_seconds",
    "retry",
    "compensation_retry",
    "agent_id",
    "queue",
];

const WORDS: Vocabulary = Vocabulary {
    list: "steps",
    name: "name",
    dependencies: "depends_on",
    node: "step of this saga",
};

impl SagaTrigger {
    /// The most steps that a saga can have.
    pub const MAX_STEPS: usize = 1_000;

    /// Reads the payload of `orchestration.saga.start`, of any length.
    ///
    /// # Errors
    /// [`Rejection`] with every problem, as for the event.
    pub fn parse(payload: &str) -> Result<Self, Rejection> {
        check_bounds(payload)?;
        read(payload, &SAGA_FIELDS, Self::read)
    }

    pub(super) fn read(payload: &mut Payload<'_, '_>) -> Option<Self> {
        let saga_id = payload.parsed("saga_id");
        let name = read_name(payload);
        let list = read_list(payload, &WORDS, Self::MAX_STEPS, &STEP_FIELDS, SagaStep::read)?;
        let steps = one_after_the_other(list);
        check_pivot(&steps, payload);

        let nodes: Vec<_> = steps.iter().map(SagaStep::node).collect();
        let links = tie(&nodes, WORDS, payload.problems())?;
        Some(Self {
            saga_id,
            name,
            steps: in_order(steps, links, |step, depends_on, has_dependents| {
                step.depends_on = depends_on;
                step.has_dependents = has_dependents;
            }),
        })
    }
}

/// Gives each step its place, and the step before as what it depends on where it does not say.
fn one_after_the_other(list: Vec<(SagaStep, Option<Vec<Name>>)>) -> Vec<SagaStep> {
    let mut steps: Vec<SagaStep> = Vec::with_capacity(list.len());
    for ((mut step, depends_on), index) in list.into_iter().zip(0_u32..) {
        step.index = index;
        step.action.dependencies =
            depends_on.unwrap_or_else(|| steps.last().map(|before| before.name.clone()).into_iter().collect());
        steps.push(step);
    }
    steps
}

fn check_pivot(steps: &[SagaStep], payload: &mut Payload<'_, '_>) {
    let mut pivots = steps.iter().filter(|step| step.pivot);
    let Some(first) = pivots.next() else { return };
    for second in pivots {
        let message = format!("must not be true: `{}` is the pivot, and there is only one", first.name);
        payload.note(Reason::InvalidField, &format!("steps[{}].pivot", second.index), message);
    }
}

impl SagaStep {
    /// When a failed compensation is followed by another attempt, where nothing is said: longer than forward steps.
    pub const COMPENSATION_RETRY: RetryPolicy = RetryPolicy {
        max_retries: 10,
        ..RetryPolicy::AGGRESSIVE
    };

    /// A step, and what it says of its dependencies, if anything.
    fn read(payload: &mut Payload<'_, '_>) -> Option<(Self, Option<Vec<Name>>)> {
        let name: Option<Name> = payload.required("name");
        let action_name: Option<Name> = payload.required("action");
        let compensation_name: Option<Name> = payload.parsed("compensation");
        let input = Input::read(payload, "args", "kwargs");
        let compensation_input = Input::read(payload, "compensation_args", "compensation_kwargs");
        let depends_on = read_names(payload, "depends_on");
        let pivot = payload.boolean("pivot").unwrap_or_default();
        let compensation_retry = read_retry(payload, "compensation_retry");
        let options = Options {
            priority: payload.parsed("priority"),
            timeout_seconds: read_timeout(payload),
            agent_id: payload.parsed("agent_id"),
            queue: payload.parsed("queue"),
        };
        let retry = read_retry(payload, "retry");
        if payload.raw("compensation").is_none() {
            for field in ["compensation_args", "compensation_kwargs", "compensation_retry"] {
                if payload.raw(field).is_some() {
                    payload.note(Reason::InvalidField, field, "must not be given without `compensation`");
                }
            }
        }
        let name = name?;
        let args = input.args.unwrap_or_else(|| literal("[]"));
        let kwargs = input.kwargs.unwrap_or_else(|| literal("{}"));
        let compensation = compensation_name.map(|task_name| TaskTrigger {
            args: compensation_input.args.unwrap_or_else(|| args.clone()),
            kwargs: compensation_input.kwargs.unwrap_or_else(|| kwargs.clone()),
            retry: Some(compensation_retry.unwrap_or(Self::COMPENSATION_RETRY)),
            ..options.task(task_name)
        });
        let action = TaskTrigger {
            key: Some(name.clone()),
            args,
            kwargs,
            retry,
            ..options.task(action_name?)
        };
        let step = Self {
            name,
            index: 0,
            action,
            compensation,
            depends_on: Vec::new(),
            has_dependents: false,
            pivot,
        };
        Some((step, depends_on))
    }

    fn node(&self) -> Node<'_> {
        Node {
            name: &self.name,
            dependencies: &self.action.dependencies,
        }
    }
}

/// What an action and its compensation have in common.
struct Options {
    priority: Option<Priority>,
    timeout_seconds: Option<f64>,
    agent_id: Option<Name>,
    queue: Option<QueueName>,
}

impl Options {
    fn task(&self, task_name: Name) -> TaskTrigger {
        TaskTrigger {
            priority: self.priority,
            timeout_seconds: self.timeout_seconds,
            agent_id: self.agent_id.clone(),
            queue: self.queue.clone(),
            ..TaskTrigger::new(task_name)
        }
    }
}

/// What a task is called with, as far as it was said.
struct Input {
    args: Option<Box<RawValue>>,
    kwargs: Option<Box<RawValue>>,
}

impl Input {
    /// `args` may be an object, which is read as `kwargs`: then there are no positional arguments.
    fn read(payload: &mut Payload<'_, '_>, args: &str, kwargs: &str) -> Self {
        let Some(object) = payload.raw(args).filter(|value| kind(value) == "an object") else {
            return Self {
                args: payload.array(args).map(RawValue::to_owned),
                kwargs: payload.object(kwargs).map(RawValue::to_owned),
            };
        };
        if payload.raw(kwargs).is_some() {
            let message = format!("must not be given as well while `{args}` is an object, which is read as it");
            payload.note(Reason::InvalidField, kwargs, message);
        }
        Self {
            args: Some(literal("[]")),
            kwargs: Some(object.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saga(steps: &str) -> SagaTrigger {
        SagaTrigger::parse(&format!(r#"{{"steps":[{steps}]}}"#)).unwrap()
    }

    fn refused(steps: &str) -> String {
        SagaTrigger::parse(&format!(r#"{{"steps":[{steps}]}}"#))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn what_no_event_could_hold_is_refused() {
        let large = format!(r#"{{"name":"a","action":"work","args":["{}"]}}"#, "x".repeat(1 << 20));

        assert!(
            refused(&large).starts_with("too_large: `payload` has 1048"),
            "{}",
            refused(&large)
        );
    }

    #[test]
    fn every_field_arrives() {
        let saga = SagaTrigger::parse(
            r#"{"saga_id":"order-7","name":"An order","steps":[
                {"name":"charge","action":"pay","compensation":"refund","args":[ 1e400 ],"kwargs":{"a":1},
                 "compensation_args":[2],"compensation_kwargs":{"b":2},"depends_on":[],"pivot":true,"priority":"HIGH",
                 "timeout_seconds":5,"retry":"quick","compensation_retry":{"max_retries":2},"agent_id":"bank",
                 "queue":"q"}]}"#,
        )
        .unwrap();

        assert_eq!(saga.saga_id, "order-7".parse().ok());
        assert_eq!(saga.name.as_deref(), Some("An order"));
        let [step] = &saga.steps[..] else {
            panic!("not one step")
        };
        let (action, compensation) = (&step.action, step.compensation.as_ref().unwrap());
        assert_eq!((step.name.as_str(), step.index, step.pivot), ("charge", 0, true));
        assert_eq!(action.key.as_ref(), Some(&step.name));
        assert_eq!((action.args.get(), action.kwargs.get()), ("[ 1e400 ]", r#"{"a":1}"#));
        assert_eq!(action.retry, Some(RetryPolicy::QUICK));
        assert_eq!(
            (compensation.args.get(), compensation.kwargs.get()),
            ("[2]", r#"{"b":2}"#)
        );
        assert_eq!(compensation.retry.map(|retry| retry.max_retries), Some(2));
        assert_eq!(compensation.key, None);
        for (task, name) in [(action, "pay"), (compensation, "refund")] {
            assert_eq!(task.task_name.as_str(), name);
            assert_eq!((task.priority, task.timeout_seconds), (Some(Priority::High), Some(5.0)));
            assert_eq!((&task.agent_id, &task.queue), (&"bank".parse().ok(), &"q".parse().ok()));
        }
    }

    #[test]
    fn steps_follow_each_other_unless_they_say_otherwise() {
        let saga = saga(
            r#"{"name":"a","action":"x"},{"name":"b","action":"x"},{"name":"c","action":"x","depends_on":[]},
               {"name":"d","action":"x","depends_on":["b","c"]}"#,
        );

        let depends_on: Vec<_> = saga.steps.iter().map(|step| &step.depends_on[..]).collect();
        assert_eq!(depends_on, [&[][..], &[0], &[], &[1, 2]]);
        let has_dependents: Vec<_> = saga.steps.iter().map(|step| step.has_dependents).collect();
        assert_eq!(has_dependents, [true, true, true, false]);
        assert_eq!(saga.steps[1].action.dependencies, ["a".parse().unwrap()]);
    }

    #[test]
    fn a_step_that_moves_keeps_its_index() {
        let saga = saga(r#"{"name":"a","action":"x","depends_on":["b"]},{"name":"b","action":"x","depends_on":[]}"#);

        let steps: Vec<_> = saga.steps.iter().map(|step| (step.name.as_str(), step.index)).collect();
        assert_eq!(steps, [("b", 1), ("a", 0)]);
        assert_eq!(saga.steps[1].depends_on, [0]);
    }

    #[test]
    fn a_compensation_gets_what_its_step_got_where_nothing_is_said() {
        let given = |fields: &str| {
            let saga = saga(&format!(r#"{{"name":"a","action":"x","compensation":"y"{fields}}}"#));
            let undo = saga.steps[0].compensation.as_ref().unwrap();
            format!("{} {}", undo.args.get(), undo.kwargs.get())
        };

        assert_eq!(given(""), "[] {}");
        assert_eq!(given(r#","args":[1],"kwargs":{"k":1}"#), r#"[1] {"k":1}"#);
        assert_eq!(given(r#","args":[1],"compensation_kwargs":{"k":2}"#), r#"[1] {"k":2}"#);
        assert_eq!(given(r#","kwargs":{"k":1},"compensation_args":[]"#), r#"[] {"k":1}"#);
        assert_eq!(given(r#","args":{"k":1}"#), r#"[] {"k":1}"#);
        assert_eq!(given(r#","args":[1],"compensation_args":{"k":2}"#), r#"[] {"k":2}"#);
        let saga =
            saga(r#"{"name":"a","action":"x","compensation":"y"},{"name":"b","action":"x","compensation":null}"#);
        let retry = saga.steps[0].compensation.as_ref().unwrap().retry.unwrap();
        assert_eq!((retry.max_retries, retry.initial_delay_seconds), (10, 0.5));
        assert!(saga.steps[1].compensation.is_none());
    }

    #[test]
    fn each_bad_saga_has_its_reason_and_its_names() {
        for (steps, message) in [
            ("", "invalid_field: `steps` is empty, must have at least one entry"),
            (
                r#"{"task_id":"a","task_name":"x"}"#,
                "missing_field: `steps[0].task_id` is not a known field; there are name, action, compensation, args, \
                 kwargs, compensation_args, compensation_kwargs, depends_on, pivot, priority, timeout_seconds, retry, \
                 compensation_retry, agent_id, queue; \
                 `steps[0].task_name` is not a known field; did you mean `action`?; \
                 `steps[0].name` is required; `steps[0].action` is required",
            ),
            (
                r#"{"name":"a","action":"x"},{"name":"a","action":"x"}"#,
                "duplicate_key: `steps[1].name` is `a`, as steps[0] is called already",
            ),
            (
                r#"{"name":"a","action":"x","depends_on":["z"]}"#,
                "invalid_dependency: `steps[0].depends_on` names `z`, which is no step of this saga",
            ),
            (
                r#"{"name":"a","action":"x","depends_on":["b"]},{"name":"b","action":"x"}"#,
                "cyclic_dependency: `steps[0].depends_on` depends on itself: a → b → a",
            ),
            (
                r#"{"name":"a","action":"x","pivot":true},{"name":"b","action":"x","pivot":true}"#,
                "invalid_field: `steps[1].pivot` must not be true: `a` is the pivot, and there is only one",
            ),
            (
                r#"{"name":"a","action":"x","pivot":"yes"}"#,
                "invalid_field: `steps[0].pivot` must be true or false, is a string",
            ),
            (
                r#"{"name":"a","action":"x","args":{},"kwargs":{}}"#,
                "invalid_field: `steps[0].kwargs` must not be given as well while `args` is an object, which is read as it",
            ),
            (
                r#"{"name":"a","action":"x","compensation_args":[]}"#,
                "invalid_field: `steps[0].compensation_args` must not be given without `compensation`",
            ),
            (
                r#"{"name":"a","action":"x","compensation":"y","compensation_retry":"SLOW"}"#,
                "invalid_field: `steps[0].compensation_retry` is `SLOW`, which is no preset: expected AGGRESSIVE, \
                 STANDARD, CONSERVATIVE or QUICK",
            ),
        ] {
            assert_eq!(refused(steps), message);
        }
        let many: Vec<_> = (0..1_001)
            .map(|number| format!(r#"{{"name":"{number}","action":"x"}}"#))
            .collect();
        assert_eq!(saga(&many[..1_000].join(",")).steps.len(), 1_000);
        assert_eq!(
            refused(&many.join(",")),
            "invalid_field: `steps` has 1001 entries, must have at most 1000"
        );
    }
}
