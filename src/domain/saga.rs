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
use super::workflow::{check_depth, in_order, read_list, read_name};

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
        check_depth(payload)?;
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
