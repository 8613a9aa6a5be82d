//! What the runtime says on its log of events, and how a reader picks from it.
//!
//! Events are written by the functions in Redis, in the same step as the change they tell of. Here they are read back:
//! an entry of the log is checked and becomes an [`Event`], and a [`Pattern`] says which types are wanted.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use serde_json::value::RawValue;

use super::id::shortened;
use super::object::opens_object;

/// The types of events that tell of triggers, commands, tasks, workflows, sagas and replicas. The log may hold others, of later versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// A trigger was refused.
    TriggerRejected,
    /// A command was refused and changed nothing.
    CommandRefused,
    /// A task exists.
    TaskCreated,
    /// An attempt began.
    TaskStarted,
    /// An attempt failed, and another will follow.
    TaskRetryScheduled,
    /// An attempt was handed back without using a retry.
    TaskReleased,
    /// A task succeeded.
    TaskCompleted,
    /// A task failed for good.
    TaskFailed,
    /// A task's last attempt took too long.
    TaskTimeout,
    /// A task that failed for good lies in the dead letters.
    TaskDeadLettered,
    /// A task was ended before it was done.
    TaskCancelled,
    /// A task came back from the dead letters and has a new life.
    TaskRequeued,
    /// A workflow exists.
    WorkflowStarted,
    /// All tasks of a workflow succeeded.
    WorkflowCompleted,
    /// All tasks of a workflow are over, and one failed.
    WorkflowFailed,
    /// A workflow was stopped, and all its tasks are over.
    WorkflowCancelled,
    /// A saga exists.
    SagaStarted,
    /// A step began.
    SagaStepStarted,
    /// A step is done.
    SagaStepCompleted,
    /// A step failed for good.
    SagaStepFailed,
    /// A saga turned back.
    SagaCompensating,
    /// A step is undone.
    SagaStepCompensated,
    /// A step can not be undone.
    SagaStepCompensationFailed,
    /// A step that was given up succeeded after its saga had ended.
    SagaStepLateSuccess,
    /// All steps of a saga are done.
    SagaCompleted,
    /// All that a saga did is undone.
    SagaCompensated,
    /// A saga ended with steps that are not undone.
    SagaFailed,
    /// An operator has the rest of a saga undone again.
    SagaResumed,
    /// A replica came, went or changed its size.
    WorkerPoolStatus,
    /// An operator changed something.
    OperatorAction,
    /// Redis lost its last moments.
    HistoryRolledBack,
    /// The numbers of one replica, every few seconds; not part of the log.
    MetricsSnapshot,
}

impl EventType {
    /// Every type.
    pub const ALL: [Self; 32] = [
        Self::TriggerRejected,
        Self::CommandRefused,
        Self::TaskCreated,
        Self::TaskStarted,
        Self::TaskRetryScheduled,
        Self::TaskReleased,
        Self::TaskCompleted,
        Self::TaskFailed,
        Self::TaskTimeout,
        Self::TaskDeadLettered,
        Self::TaskCancelled,
        Self::TaskRequeued,
        Self::WorkflowStarted,
        Self::WorkflowCompleted,
        Self::WorkflowFailed,
        Self::WorkflowCancelled,
        Self::SagaStarted,
        Self::SagaStepStarted,
        Self::SagaStepCompleted,
        Self::SagaStepFailed,
        Self::SagaCompensating,
        Self::SagaStepCompensated,
        Self::SagaStepCompensationFailed,
        Self::SagaStepLateSuccess,
        Self::SagaCompleted,
        Self::SagaCompensated,
        Self::SagaFailed,
        Self::SagaResumed,
        Self::WorkerPoolStatus,
        Self::OperatorAction,
        Self::HistoryRolledBack,
        Self::MetricsSnapshot,
    ];

    /// The type of this name, if it is one of them.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TriggerRejected => "orchestration.trigger.rejected",
            Self::CommandRefused => "orchestration.command.refused",
            Self::TaskCreated => "orchestration.task.created",
            Self::TaskStarted => "orchestration.task.started",
            Self::TaskRetryScheduled => "orchestration.task.retry_scheduled",
            Self::TaskReleased => "orchestration.task.released",
            Self::TaskCompleted => "orchestration.task.completed",
            Self::TaskFailed => "orchestration.task.failed",
            Self::TaskTimeout => "orchestration.task.timeout",
            Self::TaskDeadLettered => "orchestration.task.dead_lettered",
            Self::TaskCancelled => "orchestration.task.cancelled",
            Self::TaskRequeued => "orchestration.task.requeued",
            Self::WorkflowStarted => "orchestration.workflow.started",
            Self::WorkflowCompleted => "orchestration.workflow.completed",
            Self::WorkflowFailed => "orchestration.workflow.failed",
            Self::WorkflowCancelled => "orchestration.workflow.cancelled",
            Self::SagaStarted => "orchestration.saga.started",
            Self::SagaStepStarted => "orchestration.saga.step_started",
            Self::SagaStepCompleted => "orchestration.saga.step_completed",
            Self::SagaStepFailed => "orchestration.saga.step_failed",
            Self::SagaCompensating => "orchestration.saga.compensating",
            Self::SagaStepCompensated => "orchestration.saga.step_compensated",
            Self::SagaStepCompensationFailed => "orchestration.saga.step_compensation_failed",
            Self::SagaStepLateSuccess => "orchestration.saga.step_late_success",
            Self::SagaCompleted => "orchestration.saga.completed",
            Self::SagaCompensated => "orchestration.saga.compensated",
            Self::SagaFailed => "orchestration.saga.failed",
            Self::SagaResumed => "orchestration.saga.resumed",
            Self::WorkerPoolStatus => "orchestration.worker_pool.status",
            Self::OperatorAction => "orchestration.operator.action",
            Self::HistoryRolledBack => "orchestration.history.rolled_back",
            Self::MetricsSnapshot => "orchestration.metrics.snapshot",
        }
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where an entry stands in a stream; ids rise with time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// Milliseconds since the epoch, by the clock of Redis as it was.
    pub ms: u64,
    /// The number within the millisecond.
    pub number: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.number)
    }
}

/// The text is not the whole id of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not the id of an entry: expected two numbers with a `-` between them")]
pub struct InvalidEntryId;

impl FromStr for EntryId {
    type Err = InvalidEntryId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ms, number) = text.split_once('-').ok_or(InvalidEntryId)?;
        let read = |part: &str| {
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| part.parse().ok()).flatten().ok_or(InvalidEntryId)
        };
        Ok(Self {
            ms: read(ms)?,
            number: read(number)?,
        })
    }
}

/// One event of the log. As JSON its fields stand in this order.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Event {
    /// Where it stands in the log.
    pub entry_id: String,
    /// What happened; one of [`EventType`], or of a later version.
    pub event_type: String,
    /// Who says so.
    pub source_agent: String,
    /// `<subject>/<seq>`, unique.
    pub event_id: String,
    /// Constant over the whole chain that a trigger starts.
    pub correlation_id: String,
    /// The `event_id` of what directly caused it.
    pub causation_id: String,
    /// RFC 3339 UTC with milliseconds.
    pub timestamp: String,
    /// A JSON object, byte for byte.
    #[schema(value_type = Object)]
    pub payload: Box<RawValue>,
    /// The W3C trace context's parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub traceparent: Option<String>,
    /// The W3C trace context's vendor part.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub tracestate: Option<String>,
}

/// An entry of the log that is no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the entry `{entry_id}` is no event: `{field}` {problem}")]
pub struct MalformedEvent {
    /// Where it stands in the log.
    pub entry_id: String,
    /// The field at fault.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Event {
    /// Reads an entry of the log. Fields that are not known are passed over.
    ///
    /// # Errors
    /// [`MalformedEvent`] where a field is absent, is not text, or cannot be what it is.
    pub fn from_fields(entry_id: &str, fields: &[(&[u8], &[u8])]) -> Result<Self, MalformedEvent> {
        let wrong = |field, problem: &str| MalformedEvent {
            entry_id: entry_id.to_owned(),
            field,
            problem: problem.to_owned(),
        };
        let optional = |field: &'static str| {
            let value = fields
                .iter()
                .find(|(name, _)| *name == field.as_bytes())
                .map(|(_, value)| value.to_vec());
            value
                .map(String::from_utf8)
                .transpose()
                .map_err(|_| wrong(field, "is not valid UTF-8"))
        };
        let required = |field| optional(field)?.ok_or_else(|| wrong(field, "is missing"));

        let event_id = required("event_id")?;
        if split_id(&event_id).is_none() {
            return Err(wrong("event_id", "is not a subject, a `/` and a number from 1"));
        }
        let payload = required("payload")?;
        opens_object(&payload).map_err(|error| wrong("payload", &error.to_string()))?;
        Ok(Self {
            entry_id: entry_id.to_owned(),
            event_type: required("event_type")?,
            source_agent: required("source_agent")?,
            event_id,
            correlation_id: required("correlation_id")?,
            causation_id: required("causation_id")?,
            timestamp: required("timestamp")?,
            payload: RawValue::from_string(payload).map_err(|error| wrong("payload", &error.to_string()))?,
            traceparent: optional("traceparent")?,
            tracestate: optional("tracestate")?,
        })
    }

    /// What it is about: the id of a task, a workflow, a saga, a dead letter, an entry or a replica.
    #[must_use]
    pub fn subject(&self) -> &str {
        split_id(&self.event_id).map_or(&*self.event_id, |(subject, _)| subject)
    }

    /// Its number among the events about its subject, from 1; 0 for an `event_id` without one, which no entry that was
    /// read has.
    #[must_use]
    pub fn seq(&self) -> u64 {
        split_id(&self.event_id).map_or(0, |(_, seq)| seq)
    }
}

/// The subject may have slashes itself: the last one counts.
fn split_id(event_id: &str) -> Option<(&str, u64)> {
    let (subject, seq) = event_id.rsplit_once('/')?;
    let is_plain = seq.bytes().all(|byte| byte.is_ascii_digit()) && !seq.starts_with('0');
    let seq = seq.parse().ok().filter(|_| is_plain && !subject.is_empty())?;
    Some((subject, seq))
}

/// Which types of events are wanted: one by its name, all that begin alike (`orchestration.task.*`), all (`*`), or several of
/// these with commas between them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(Box<[Kinds]>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kinds {
    begin: Box<str>,
    is_open: bool,
}

/// The text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a pattern: expected an event type, or the beginning of one and a `*` at its end, or several with commas \
     between them"
)]
pub struct InvalidPattern(String);

impl Pattern {
    /// Whether events of this type are wanted.
    #[must_use]
    pub fn matches(&self, event_type: &str) -> bool {
        self.0.iter().any(|kinds| {
            if kinds.is_open {
                event_type.starts_with(&*kinds.begin)
            } else {
                event_type == &*kinds.begin
            }
        })
    }
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let kinds = text.split(',').map(|one| {
            let (begin, is_open) = one.strip_suffix('*').map_or((one, false), |begin| (begin, true));
            let is_one = !begin.contains('*') && !one.is_empty();
            is_one.then(|| Kinds {
                begin: begin.into(),
                is_open,
            })
        });
        let kinds: Option<Box<[Kinds]>> = kinds.collect();
        kinds.map(Self).ok_or_else(|| InvalidPattern(shortened(text)))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, kinds) in self.0.iter().enumerate() {
            f.write_str(if place == 0 { "" } else { "," })?;
            f.write_str(&kinds.begin)?;
            f.write_str(if kinds.is_open { "*" } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: [(&str, &str); 8] = [
        ("payload", r#"{"n":1e400,"a":[]}"#),
        ("event_type", "orchestration.task.created"),
        ("source_agent", "orchestration-runtime/r-00000000"),
        ("event_id", "team/order-7/12"),
        ("correlation_id", "c"),
        ("causation_id", "e"),
        ("timestamp", "2026-01-31T12:00:00.000Z"),
        ("colour", "blue"),
    ];

    fn read(fields: &[(&str, &str)]) -> Result<Event, MalformedEvent> {
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        Event::from_fields("5-0", &fields)
    }

    #[test]
    fn an_event_comes_out_as_one_object_in_a_fixed_order() {
        let event = read(&FIELDS).unwrap();

        assert_eq!((event.subject(), event.seq()), ("team/order-7", 12));
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            concat!(
                r#"{"entry_id":"5-0","event_type":"orchestration.task.created","#,
                r#""source_agent":"orchestration-runtime/r-00000000","event_id":"team/order-7/12","#,
                r#""correlation_id":"c","causation_id":"e","timestamp":"2026-01-31T12:00:00.000Z","#,
                r#""payload":{"n":1e400,"a":[]}}"#
            )
        );
        let mut traced = FIELDS.to_vec();
        traced.push(("traceparent", "00-x"));
        assert!(
            serde_json::to_string(&read(&traced).unwrap())
                .unwrap()
                .ends_with(r#"]},"traceparent":"00-x"}"#)
        );
    }

    #[test]
    fn an_entry_that_is_no_event_says_which_field_is_at_fault() {
        for (at_fault, _) in &FIELDS[..7] {
            let fields: Vec<_> = FIELDS.into_iter().filter(|(name, _)| name != at_fault).collect();
            let error = read(&fields).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("the entry `5-0` is no event: `{at_fault}` is missing")
            );
        }
        for (name, value) in [
            ("event_id", "t"),
            ("event_id", "t/"),
            ("event_id", "/1"),
            ("event_id", "t/0"),
            ("event_id", "t/01"),
            ("event_id", "t/+1"),
            ("event_id", "t/18446744073709551616"),
            ("payload", "[]"),
            ("payload", "{"),
        ] {
            let fields = FIELDS.map(|field| if field.0 == name { (name, value) } else { field });
            assert_eq!(read(&fields).unwrap_err().field, name, "{value}");
        }
        assert_eq!(
            Event::from_fields("5-0", &[(b"event_id", b"\xff")]).unwrap_err().field,
            "event_id"
        );
    }

    #[test]
    fn every_type_has_its_own_name_under_one_prefix() {
        let names: std::collections::BTreeSet<_> = EventType::ALL.iter().map(ToString::to_string).collect();

        assert_eq!(names.len(), EventType::ALL.len());
        assert!(
            names
                .iter()
                .all(|name| name.starts_with("orchestration.") && name.split('.').count() == 3)
        );
    }

    #[test]
    fn a_pattern_is_exact_or_open_at_its_end() {
        for (pattern, matching, other) in [
            (
                "orchestration.task.failed",
                "orchestration.task.failed",
                "orchestration.task.failed_twice",
            ),
            (
                "orchestration.task.*",
                "orchestration.task.created",
                "orchestration.tasks.created",
            ),
            (
                "orchestration.t*",
                "orchestration.trigger.rejected",
                "orchestration.saga.started",
            ),
            (
                "orchestration.saga.started,orchestration.task.*",
                "orchestration.task.created",
                "orchestration.saga.failed",
            ),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            assert!(parsed.matches(matching) && !parsed.matches(other), "{pattern}");
            assert_eq!(parsed.to_string(), pattern);
        }
        assert!("*".parse::<Pattern>().unwrap().matches(""));
        for illegal in [
            "",
            "**",
            "*.failed",
            "orchestration.*.failed",
            "a*b*",
            "a,",
            ",",
            "a, *b",
        ] {
            assert!(illegal.parse::<Pattern>().is_err(), "{illegal}");
        }
    }
}
