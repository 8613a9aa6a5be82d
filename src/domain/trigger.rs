//! What an event asks for: a task, a workflow or a saga, or something about one that exists.
//!
//! [`interpret`] reads the payload of an [`Envelope`] by its event type, in one pass over the top level. What it gives
//! is checked as far as the text alone allows. Whether a handler for the task exists, or the task to cancel, is for
//! those who know the handlers and the store.
//!
//! `args`, `kwargs`, `tags` and `metadata` are carried as the bytes they came as: big numbers, the order of keys and
//! spaces arrive as they were sent.

use std::time::Duration;

use serde_json::value::RawValue;

use super::command::{
    SAGA_CANCEL_FIELDS, TASK_CANCEL_FIELDS, TASK_HEARTBEAT_FIELDS, TASK_RESULT_FIELDS, WORKFLOW_STOP_FIELDS,
};
pub use super::command::{SagaCancel, TaskCancel, TaskHeartbeat, TaskResult, WorkflowStop};
use super::envelope::Envelope;
use super::id::{Name, QueueName, TaskId, shortened};
use super::object::{NotAnObject, Object};
use super::payload::{Payload, nearest};
use super::priority::Priority;
use super::rejection::{Problems, Reason, Rejection};
use super::retry::RetryPolicy;
use super::saga::{SAGA_FIELDS, SagaTrigger};
use super::task_fields::TASK_TRIGGER_FIELDS;
use super::workflow::{WORKFLOW_FIELDS, WorkflowTrigger};

/// Asks for a task.
pub const TASK_TRIGGER: &str = "orchestration.task.trigger";
/// Asks for a workflow.
pub const WORKFLOW_START: &str = "orchestration.workflow.start";
/// Asks for a saga.
pub const SAGA_START: &str = "orchestration.saga.start";
/// Asks for the end of a task.
pub const TASK_CANCEL: &str = "orchestration.task.cancel";
/// Asks for the end of a workflow.
pub const WORKFLOW_STOP: &str = "orchestration.workflow.stop";
/// Asks a saga to turn back.
pub const SAGA_CANCEL: &str = "orchestration.saga.cancel";
/// Says how an agent's attempt ended.
pub const TASK_RESULT: &str = "orchestration.task.result";
/// Says that an agent is still at work.
pub const TASK_HEARTBEAT: &str = "orchestration.task.heartbeat";

/// Every type of event that is acted upon.
const KNOWN: [&str; 8] = [
    TASK_TRIGGER,
    WORKFLOW_START,
    SAGA_START,
    TASK_CANCEL,
    WORKFLOW_STOP,
    SAGA_CANCEL,
    TASK_RESULT,
    TASK_HEARTBEAT,
];

/// What an event that came in asks for.
#[derive(Debug, Clone)]
pub enum Inbound {
    /// A task is to be made.
    Task(Box<TaskTrigger>),
    /// Tasks are to be made that depend on each other.
    Workflow(Box<WorkflowTrigger>),
    /// Steps are to be made that can be undone.
    Saga(Box<SagaTrigger>),
    /// A task is to end.
    Cancel(TaskCancel),
    /// A workflow is to end.
    WorkflowStop(WorkflowStop),
    /// A saga is to turn back.
    SagaCancel(SagaCancel),
    /// An agent's attempt has ended.
    Result(TaskResult),
    /// An agent is still at work.
    Heartbeat(TaskHeartbeat),
}

/// A task that is asked for. What it leaves open is filled in from the handler and the configuration.
#[derive(Debug, Clone)]
pub struct TaskTrigger {
    /// Which handler is meant.
    pub task_name: Name,
    /// A JSON array.
    pub args: Box<RawValue>,
    /// A JSON object.
    pub kwargs: Box<RawValue>,
    /// How urgent it is.
    pub priority: Option<Priority>,
    /// The workflow that the payload names.
    pub workflow_id: Option<Name>,
    /// The agent it is for.
    pub agent_id: Option<Name>,
    /// The queue it waits in.
    pub queue: Option<QueueName>,
    /// The caller's own name for it within its workflow.
    pub key: Option<Name>,
    /// Keys or ids of the tasks that must end before it starts.
    pub dependencies: Vec<Name>,
    /// The task that asked for it.
    pub parent_task_id: Option<TaskId>,
    /// The longest that one attempt may take: over 0, at most [`TaskTrigger::LONGEST_SECONDS`].
    pub timeout_seconds: Option<f64>,
    /// Extra attempts after the first, over the policy's own number.
    pub max_retries: Option<u32>,
    /// When a failed attempt is followed by another.
    pub retry: Option<RetryPolicy>,
    /// When it may start.
    pub start: Start,
    /// A JSON object whose values are strings.
    pub tags: Box<RawValue>,
    /// A JSON object, the caller's own.
    pub metadata: Box<RawValue>,
}

/// When a task may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// As soon as a worker is free.
    #[default]
    Now,
    /// This long after it was created, at most a year.
    After(Duration),
    /// At this time in milliseconds since the Unix epoch. Never before the epoch; what is past is due at once.
    At(i64),
}

impl TaskTrigger {
    /// The most that one task can depend on: as many as a workflow can have.
    pub const MAX_DEPENDENCIES: usize = 10_000;
    /// The longest timeout or delay, in seconds: a year.
    pub const LONGEST_SECONDS: f64 = RetryPolicy::LONGEST_DELAY_SECONDS;

    /// A task with nothing but its name.
    #[must_use]
    pub fn new(task_name: Name) -> Self {
        Self {
            task_name,
            args: literal("[]"),
            kwargs: literal("{}"),
            priority: None,
            workflow_id: None,
            agent_id: None,
            queue: None,
            key: None,
            dependencies: Vec::new(),
            parent_task_id: None,
            timeout_seconds: None,
            max_retries: None,
            retry: None,
            start: Start::Now,
            tags: literal("{}"),
            metadata: literal("{}"),
        }
    }
}

/// Reads what an event asks for.
///
/// # Errors
/// [`Rejection`] with every problem of the payload. A payload that is not JSON is `malformed`, whatever the event type.
pub fn interpret(envelope: &Envelope<'_>) -> Result<Inbound, Rejection> {
    let payload = &*envelope.payload;
    match &*envelope.event_type {
        TASK_TRIGGER => {
            read(payload, &TASK_TRIGGER_FIELDS, TaskTrigger::read).map(|trigger| Inbound::Task(Box::new(trigger)))
        }
        WORKFLOW_START => {
            read(payload, &WORKFLOW_FIELDS, WorkflowTrigger::read).map(|trigger| Inbound::Workflow(Box::new(trigger)))
        }
        SAGA_START => read(payload, &SAGA_FIELDS, SagaTrigger::read).map(|trigger| Inbound::Saga(Box::new(trigger))),
        TASK_CANCEL => read(payload, &TASK_CANCEL_FIELDS, TaskCancel::read).map(Inbound::Cancel),
        WORKFLOW_STOP => read(payload, &WORKFLOW_STOP_FIELDS, WorkflowStop::read).map(Inbound::WorkflowStop),
        SAGA_CANCEL => read(payload, &SAGA_CANCEL_FIELDS, SagaCancel::read).map(Inbound::SagaCancel),
        TASK_RESULT => read(payload, &TASK_RESULT_FIELDS, TaskResult::read).map(Inbound::Result),
        TASK_HEARTBEAT => read(payload, &TASK_HEARTBEAT_FIELDS, TaskHeartbeat::read).map(Inbound::Heartbeat),
        other => Err(parse(payload).map_or_else(|rejection| rejection, |_| unknown_event_type(other))),
    }
}

/// Reads one payload by its `reader`, which gives nothing only after it noted a problem.
pub(super) fn read<T>(
    text: &str,
    known: &[&str],
    reader: impl FnOnce(&mut Payload<'_, '_>) -> Option<T>,
) -> Result<T, Rejection> {
    let object = parse(text)?;
    let mut problems = Problems::default();
    let outcome = reader(&mut Payload::new(object, "", known, &mut problems));
    match (outcome, problems.into_rejection()) {
        (Some(outcome), None) => Ok(outcome),
        (Some(_) | None, Some(rejection)) => Err(rejection),
        (None, None) => unreachable!("nothing is left out without a problem"),
    }
}

fn parse(text: &str) -> Result<Object<'_>, Rejection> {
    Object::parse(text).map_err(|error| {
        let message = error.to_string();
        match error {
            NotAnObject::Malformed(_) => Rejection::new(Reason::Malformed, Some("payload"), message),
            NotAnObject::OtherKind(_) => Rejection::new(Reason::InvalidField, Some("payload"), message),
            NotAnObject::DuplicateKey(key) => Rejection::new(Reason::Malformed, Some(&key), message),
        }
    })
}

fn unknown_event_type(event_type: &str) -> Rejection {
    let shown = shortened(event_type);
    let message = match nearest(event_type, &KNOWN) {
        Some(meant) => format!("`{shown}` is not a known type; did you mean `{meant}`?"),
        None => format!("`{shown}` is not a known type"),
    };
    Rejection::new(Reason::UnknownEventType, Some("event_type"), message)
}

/// A value that is known to be JSON.
pub(super) fn literal(json: &'static str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).expect("it is written here as JSON")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(event_type: &str, payload: &str) -> Result<Inbound, Rejection> {
        let fields = [
            ("event_type", event_type),
            ("source_agent", "s"),
            ("payload", payload),
            ("correlation_id", "c"),
        ];
        let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        interpret(&Envelope::decode("1-0", &fields).map_err(|refused| refused.rejection)?)
    }

    fn task(payload: &str) -> TaskTrigger {
        let Ok(Inbound::Task(trigger)) = asked(TASK_TRIGGER, payload) else {
            panic!("not a task")
        };
        *trigger
    }

    #[test]
    fn a_name_is_enough_for_a_task() {
        let trigger = task(r#"{"task_name":"echo","args":null,"retry":null,"run_at":null,"dependencies":[]}"#);

        let plain = TaskTrigger::new("echo".parse().unwrap());
        assert_eq!(format!("{trigger:?}"), format!("{plain:?}"));
        assert_eq!(
            (trigger.args.get(), trigger.kwargs.get(), trigger.start),
            ("[]", "{}", Start::Now)
        );
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let payload = r#"{"prioritty":"HIGH","timeout_seconds":-1,"queue":"a b","tags":{"x":"1","y":2}}"#;

        assert_eq!(
            asked(TASK_TRIGGER, payload).unwrap_err().to_string(),
            "missing_field: `prioritty` is not a known field; did you mean `priority`?; `task_name` is required; \
             `queue` `a b` is not a valid queue: expected 1 to 64 characters of A-Z a-z 0-9 . _ -; \
             `timeout_seconds` must be a number over 0, at most 31536000, is -1; `tags.y` must be a string, is a number"
        );
    }

    #[test]
    fn a_payload_that_cannot_be_read_is_malformed_and_says_where() {
        for (payload, field) in [
            (r#"{"task_name":"t""#, "payload"),
            (r#"{"task_name":"t",}"#, "payload"),
            (r#"{"task_name":"t","args":[01]}"#, "payload"),
            ("{\"task_name\":\"t\0\"}", "payload"),
            (r#"{"task_name":"t"} {}"#, "payload"),
            (r#"{"task_name":"t","args":[],"args":[1]}"#, "args"),
        ] {
            for event_type in [TASK_TRIGGER, TASK_CANCEL, "orchestration.unheard.of"] {
                let rejection = asked(event_type, payload).unwrap_err();
                assert_eq!(rejection.reason, Reason::Malformed, "{payload}");
                assert_eq!(rejection.problems[0].field.as_deref(), Some(field), "{payload}");
            }
        }
    }

    #[test]
    fn a_type_that_is_not_handled_is_said_to_be_unknown() {
        for (event_type, message) in [
            (
                "orchestration.task.triger",
                "`orchestration.task.triger` is not a known type; did you mean `orchestration.task.trigger`?",
            ),
            ("hello", "`hello` is not a known type"),
        ] {
            let rejection = asked(event_type, "{}").unwrap_err();
            assert_eq!(
                rejection,
                Rejection::new(Reason::UnknownEventType, Some("event_type"), message)
            );
        }
    }

    #[test]
    fn a_group_is_read_from_its_event_and_has_an_id_only_where_one_was_given() {
        let workflow = asked(WORKFLOW_START, r#"{"tasks":[{"task_id":"a"}]}"#);
        let saga = asked(SAGA_START, r#"{"saga_id":"s","steps":[{"name":"a","action":"x"}]}"#);

        // The correlation id is `c`, a legal name.
        assert!(matches!(workflow, Ok(Inbound::Workflow(workflow)) if workflow.workflow_id.is_none()));
        assert!(matches!(saga, Ok(Inbound::Saga(saga)) if saga.saga_id == "s".parse().ok()));
    }

    /// JSON as text, with the spaces, escapes, numbers and repeated keys that a tree of values would not keep.
    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?",
            "\"([a-z{}\\[\\],: é]|\\\\[\"\\\\/bfnrt]|\\\\u[0-9a-fA-F]{4}){0,8}\"",
            "true|false|null",
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(|values| format!("[{}]", values.join(" , "))),
                prop::collection::vec(("[a-c]{0,2}", inner), 0..5).prop_map(|fields| {
                    let fields: Vec<_> = fields
                        .iter()
                        .map(|(key, value)| format!("\"{key}\":\t{value}"))
                        .collect();
                    format!("{{{}}}", fields.join(","))
                }),
            ]
        })
    }

    fn every_field() -> Vec<&'static str> {
        let lists: [&[&str]; 5] = [
            &TASK_TRIGGER_FIELDS,
            &WORKFLOW_FIELDS,
            &SAGA_FIELDS,
            &TASK_RESULT_FIELDS,
            &[
                "task_id",
                "action",
                "compensation",
                "compensation_args",
                "depends_on",
                "pivot",
                "progress",
            ],
        ];
        lists.concat()
    }

    proptest! {
        #[test]
        fn what_a_task_is_given_arrives_byte_for_byte(
            args in prop::collection::vec(json(), 0..4),
            kwargs in prop::collection::vec(json(), 0..4),
        ) {
            let args = format!("[ {}]", args.join(",\n"));
            let kwargs: Vec<_> = kwargs.iter().map(|value| format!("\"k\": {value} ")).collect();
            let kwargs = format!("{{{}}}", kwargs.join(","));

            let trigger = task(&format!(r#"{{"args" : {args} ,"task_name":"t","kwargs":{kwargs},"metadata": {kwargs}}}"#));

            prop_assert_eq!(trigger.args.get(), args);
            prop_assert_eq!(trigger.kwargs.get(), &kwargs);
            prop_assert_eq!(trigger.metadata.get(), &kwargs);
        }

        #[test]
        fn no_payload_makes_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            fields in prop::collection::vec((prop::sample::select(every_field()), json()), 0..6),
            event_type in prop::sample::select(KNOWN.to_vec()),
        ) {
            let fields: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            let plausible = format!("{{{}}}", fields.join(","));
            let list = format!(r#"{{"tasks":[{plausible},{{"task_id":"a"}}],"steps":[{plausible}]}}"#);
            for payload in [&bytes[..], &[b"{", &bytes[..]].concat(), plausible.as_bytes(), list.as_bytes()] {
                let entry = [(&b"event_type"[..], event_type.as_bytes()), (b"source_agent", b"s"), (b"payload", payload)];
                if let Ok(envelope) = Envelope::decode("1-0", &entry)
                    && let Err(rejection) = interpret(&envelope)
                {
                    prop_assert!(!rejection.problems.is_empty());
                }
            }
        }
    }
}
