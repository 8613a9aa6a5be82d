//! Reads a task's record: the layout that `lua/record.lua` writes.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::event::EntryId;
use crate::domain::id::{Name, QueueName, ReplicaId, TaskId};
use crate::domain::priority::Priority;
use crate::domain::retry::RetryPolicy;
use crate::domain::state::TaskState;
use crate::domain::trigger::{Start, TaskTrigger};

/// How many bytes of a record change; the body follows.
pub const HEADER_BYTES: usize = 64;
/// Where the replica that runs the task, and the slot, stand in a record.
pub(super) const OWNER: std::ops::Range<usize> = 30..40;
pub(super) const SLOT: std::ops::Range<usize> = 40..42;
/// Where the rank of the priority stands in a record.
pub(super) const RANK_AT: usize = 2;
/// Where the flags stand in a record.
const FLAGS_AT: usize = 4;

/// What never changes of a task and passes through Redis untouched: the `spec` of the record's body. Defaults are left
/// out, since every pending task is held in memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Positional arguments, a JSON list.
    #[serde(default = "empty_list", skip_serializing_if = "is_empty_list")]
    pub args: Box<RawValue>,
    /// Named arguments, a JSON object.
    #[serde(default = "empty_object", skip_serializing_if = "is_empty_object")]
    pub kwargs: Box<RawValue>,
    /// The longest an attempt may run, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// When a failed attempt is followed by another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// The agent that is responsible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// The caller's own name for the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What must complete first, as the caller named it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<String>,
    /// The task that started this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_task_id: Option<String>,
    /// The due time that was asked for, ms since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at_ms: Option<i64>,
    /// The delay that was asked for, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Labels.
    #[serde(default = "empty_object", skip_serializing_if = "is_empty_object")]
    pub tags: Box<RawValue>,
    /// Free-form data.
    #[serde(default = "empty_object", skip_serializing_if = "is_empty_object")]
    pub metadata: Box<RawValue>,
}

impl Spec {
    /// The spec as the record holds it. How long args, kwargs and metadata are stands in front, where there are any: the
    /// functions put together from them what agents are told, and read no JSON.
    pub(super) fn text(&self) -> String {
        let length = |value: &RawValue, is_default: bool| if is_default { 0 } else { value.get().len() };
        let lengths = [
            length(&self.args, is_empty_list(&self.args)),
            length(&self.kwargs, is_empty_object(&self.kwargs)),
            length(&self.metadata, is_empty_object(&self.metadata)),
        ];
        let spec = serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned());
        match lengths {
            [0, 0, 0] => spec,
            [args, kwargs, metadata] => format!("{args}.{kwargs}.{metadata}{spec}"),
        }
    }

    /// Reads what [`Spec::text`] wrote.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.')).ok()
    }
}

fn raw(text: &str) -> Box<RawValue> {
    // The callers pass JSON literals.
    RawValue::from_string(text.to_owned()).unwrap_or_default()
}

fn empty_list() -> Box<RawValue> {
    raw("[]")
}

fn empty_object() -> Box<RawValue> {
    raw("{}")
}

fn is_empty_list(value: &RawValue) -> bool {
    value.get() == "[]"
}

fn is_empty_object(value: &RawValue) -> bool {
    value.get() == "{}"
}

/// A task to be made: a checked trigger with the names of what asked for it.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Its id, derived from the trigger.
    pub id: TaskId,
    /// What the trigger says.
    pub trigger: TaskTrigger,
    /// The `event_id` of the trigger, which is the cause of the `created` event.
    pub event_id: String,
    /// The `correlation_id` of the whole chain.
    pub correlation_id: String,
    /// W3C trace context: `traceparent` and `tracestate`.
    pub trace: Option<(String, Option<String>)>,
    /// The workflow that the task belongs to.
    pub workflow_id: Option<Name>,
    /// The saga that the task belongs to, and the step.
    pub saga: Option<(Name, Name)>,
    /// How often a failed attempt is followed by another, resolved from trigger, handler and default.
    pub retry: RetryPolicy,
    /// The queue, resolved from trigger and handler.
    pub queue: QueueName,
    /// The priority, resolved from trigger, parent and default.
    pub priority: Priority,
    /// The timeout in seconds, resolved from trigger and handler.
    pub timeout_seconds: Option<f64>,
}

impl NewTask {
    /// Takes the task out of a workflow that it would have joined only by its correlation id; `false` where the trigger names
    /// the workflow itself. Its id stays, so that the same trigger still makes one task.
    pub fn leave_default_workflow(&mut self) -> bool {
        let is_default = self.trigger.workflow_id.is_none() && self.saga.is_none();
        is_default && self.workflow_id.take().is_some()
    }

    /// The inside of the event id as a JSON string.
    fn event_id_json(&self) -> String {
        let text = json_text(&self.event_id);
        text[1..text.len() - 1].to_owned()
    }

    /// The payload of the `created` event up to what only Redis knows: its last members and the brace.
    pub(super) fn created_payload(&self) -> String {
        format!(
            concat!(
                "{{\"task_id\":\"{}\",\"task_name\":\"{}\",\"workflow_id\":{}{},\"trigger_event_id\":\"{}\",\"attempt\":0,",
                "\"priority\":\"{}\",\"queue\":\"{}\",{}"
            ),
            self.id,
            self.trigger.task_name,
            name_json(self.workflow_id.as_ref()),
            self.saga.as_ref().map_or(String::new(), |(saga, step)| format!(
                ",\"saga_id\":\"{saga}\",\"step\":\"{step}\""
            )),
            self.event_id_json(),
            self.priority,
            self.queue,
            self.caller_members()
        )
    }

    /// What the `created` event says that only the caller named. The rest can be put together from the record.
    pub(super) fn caller_members(&self) -> String {
        let (agent, key) = (&self.trigger.agent_id, &self.trigger.key);
        format!(
            "\"agent_id\":{},\"key\":{}",
            name_json(agent.as_ref()),
            name_json(key.as_ref())
        )
    }

    /// Where the task goes: what the function reads once for all tasks that share it.
    pub(super) fn routing(&self) -> String {
        let trigger = &self.trigger;
        let start = self.start_text();
        let mut routing = format!(
            "{}{} {} {} {} {start} {}",
            trigger.task_name,
            self.wanted_agent(),
            self.queue,
            self.priority.rank(),
            self.retry.max_retries,
            self.workflow_id.as_ref().map_or("-", Name::as_str)
        );
        if trigger.key.is_some() || !trigger.dependencies.is_empty() {
            routing.push(' ');
            routing.push_str(trigger.key.as_ref().map_or("-", Name::as_str));
            for name in &trigger.dependencies {
                routing.push(' ');
                routing.push_str(name.as_str());
            }
        }
        routing
    }

    /// Where a task of a group goes: as [`NewTask::routing`], with what the group knows of it. `depends_on` may be only the
    /// first of `total`.
    pub(super) fn staged_routing(&self, flags: u16, total: usize, depends_on: &[(TaskId, Name)]) -> String {
        format!(
            "{} {} {} {flags}{} {} {} {total}{}",
            self.queue,
            self.priority.rank(),
            self.retry.max_retries,
            self.wanted_agent(),
            self.start_text(),
            self.trigger.key.as_ref().map_or("-", Name::as_str),
            edges_text(depends_on)
        )
    }

    /// How to write the task that undoes a step, for the saga that keeps it until then.
    pub(crate) fn undo_recipe(&self) -> String {
        format!(
            "{}\n{} {} {} {}\n{}\n{}",
            self.id,
            self.queue,
            self.priority.rank(),
            self.retry.max_retries,
            self.trigger.agent_id.as_ref().map_or("", Name::as_str),
            self.created_payload(),
            self.body()
        )
    }

    /// The agent that the caller named, behind an `@`. The task is for it unless a handler carries out tasks of the name.
    fn wanted_agent(&self) -> String {
        let agent = self.trigger.agent_id.as_ref();
        agent.map_or_else(String::new, |agent| format!("@{agent}"))
    }

    /// When the task may start: at once, after a delay, at a time.
    fn start_text(&self) -> String {
        match self.trigger.start {
            Start::Now => "-".to_owned(),
            Start::After(delay) => format!("+{}", delay.as_millis()),
            Start::At(due_ms) => due_ms.max(0).to_string(),
        }
    }

    /// Where the task comes from: the cause alone when it is also the chain and nobody traces.
    pub(super) fn origin(&self) -> String {
        if self.trace.is_none() && self.correlation_id == self.event_id {
            return self.event_id.clone();
        }
        format!("{}\n{}\n{}", self.event_id, self.correlation_id, self.trace_text())
    }

    /// W3C trace context in the form of the record: `traceparent`, a unit separator, `tracestate`; empty without.
    fn trace_text(&self) -> String {
        match &self.trace {
            Some((parent, Some(state))) => format!("{parent}\u{1f}{state}"),
            Some((parent, None)) => parent.clone(),
            None => String::new(),
        }
    }

    /// The record's body.
    pub(super) fn body(&self) -> String {
        let trigger = &self.trigger;
        let (run_at_ms, delay_ms) = match trigger.start {
            Start::Now => (None, None),
            Start::After(delay) => (None, Some(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))),
            Start::At(due) => (Some(due), None),
        };
        let spec = Spec {
            args: trigger.args.clone(),
            kwargs: trigger.kwargs.clone(),
            timeout_seconds: self.timeout_seconds,
            retry: (self.retry != RetryPolicy::STANDARD).then_some(self.retry),
            agent_id: trigger.agent_id.as_ref().map(ToString::to_string),
            key: trigger.key.as_ref().map(ToString::to_string),
            dependencies: trigger.dependencies.iter().map(ToString::to_string).collect(),
            parent_task_id: trigger.parent_task_id.as_ref().map(ToString::to_string),
            run_at_ms,
            delay_ms,
            tags: trigger.tags.clone(),
            metadata: trigger.metadata.clone(),
        };
        let trace = self.trace_text();
        let spec = spec.text();
        let event_id = self.event_id_json();
        // Left out where it is the event id and reads the same: held in memory for every pending task.
        let is_implied = self.correlation_id == self.event_id && event_id == self.event_id;
        format!(
            "{}\n{}\n{}\n{event_id}\n{}\n{trace}\n{spec}",
            self.queue,
            self.trigger.task_name,
            match (&self.saga, &self.workflow_id) {
                (Some((saga, step)), _) => format!("{saga} {step}"),
                (None, Some(workflow)) => workflow.to_string(),
                (None, None) => String::new(),
            },
            if is_implied { "" } else { &self.correlation_id }
        )
    }
}

/// What a task depends on, as a part of its routing.
pub(super) fn edges_text(depends_on: &[(TaskId, Name)]) -> String {
    let mut text = String::new();
    for (id, name) in depends_on {
        write!(text, " {id} {name}").expect("a string takes all");
    }
    text
}

fn name_json(name: Option<&Name>) -> String {
    name.map_or_else(|| "null".to_owned(), |name| format!("\"{name}\""))
}

/// A text as JSON, quotes included.
pub(super) fn json_text(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_else(|_| "null".to_owned())
}

/// The body of a record: everything about a task that never changes.
#[derive(Debug, Clone)]
pub struct Body {
    /// The queue it waits in.
    pub queue: QueueName,
    /// What to run.
    pub task_name: String,
    /// The agent that it is for.
    pub agent: Option<Assignee>,
    /// The workflow that it belongs to.
    pub workflow_id: Option<String>,
    /// The saga that it belongs to, and the step.
    pub saga: Option<(String, String)>,
    /// The `event_id` of the trigger that made it.
    pub trigger_event_id: String,
    /// The chain that it belongs to.
    pub correlation_id: String,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// W3C trace state.
    pub tracestate: Option<String>,
    /// Arguments and options.
    pub spec: Spec,
}

/// An agent that a task is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignee {
    /// Its id.
    pub id: String,
    /// How long it may be silent.
    pub silence_ms: u64,
    /// How long an attempt may take where the task does not say; 0 for no limit.
    pub timeout_ms: u64,
}

/// A record or body that does not have the layout of this release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the task record is damaged or of another release")]
pub struct DamagedRecord;

impl Body {
    /// Reads the body of a record.
    ///
    /// # Errors
    ///
    /// [`DamagedRecord`] when a part is missing or is not what it should be.
    pub fn parse(text: &str) -> Result<Self, DamagedRecord> {
        let mut parts = text.splitn(7, '\n');
        let mut part = || parts.next().ok_or(DamagedRecord);
        let (queue, task_name, group, event_id) = (part()?, part()?, part()?, part()?);
        let saga = group
            .split_once(' ')
            .map(|(saga, step)| (saga.to_owned(), step.to_owned()));
        let (correlation_id, trace, spec) = (part()?, part()?, part()?);
        let mut words = task_name.split(' ');
        let task_name = words.next().unwrap_or_default().to_owned();
        let agent = match (words.next(), words.next(), words.next()) {
            (Some(id), Some(silence_ms), Some(timeout_ms)) => Some(Assignee {
                id: id.to_owned(),
                silence_ms: silence_ms.parse().map_err(|_| DamagedRecord)?,
                timeout_ms: timeout_ms.parse().map_err(|_| DamagedRecord)?,
            }),
            _ => None,
        };
        let trigger_event_id: String = serde_json::from_str(&format!("\"{event_id}\"")).map_err(|_| DamagedRecord)?;
        let correlation_id = if correlation_id.is_empty() {
            &trigger_event_id
        } else {
            correlation_id
        }
        .to_owned();
        let (traceparent, tracestate) = match trace.split_once('\u{1f}') {
            Some((parent, state)) => (Some(parent.to_owned()), Some(state.to_owned())),
            None if trace.is_empty() => (None, None),
            None => (Some(trace.to_owned()), None),
        };
        Ok(Self {
            queue: queue.parse().map_err(|_| DamagedRecord)?,
            task_name,
            agent,
            workflow_id: (!group.is_empty() && saga.is_none()).then(|| group.to_owned()),
            saga,
            correlation_id,
            trigger_event_id,
            traceparent,
            tracestate,
            spec: Spec::read(spec).ok_or(DamagedRecord)?,
        })
    }
}

/// Who has an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A worker of a replica: the replica and the slot.
    Worker(String, u16),
    /// An agent; which is kept beside the record.
    Agent,
}

/// A task as it is right now.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its id.
    pub id: TaskId,
    /// Where it is in its life.
    pub state: TaskState,
    /// Its priority.
    pub priority: Priority,
    /// How often in a row its owner fell silent.
    pub losses: u8,
    /// How many attempts were started.
    pub attempt: u32,
    /// How many retries were used in this life.
    pub retry_count: u32,
    /// How many it may use.
    pub max_retries: u32,
    /// The number of its last event.
    pub seq: u32,
    /// Whether it waits for its time.
    pub is_delayed: bool,
    /// Whether it waits for other tasks to end.
    pub is_blocked: bool,
    /// Whether it belongs to a group that is not told of yet: for everybody else there is no such task.
    pub is_staged: bool,
    /// What it has to do with other tasks.
    pub flags: Flags,
    /// Its last entry in a task stream.
    pub entry_id: EntryId,
    /// Who has its last attempt.
    pub owner: Option<Owner>,
    /// When it was made, ms since the epoch.
    pub created_ms: i64,
    /// When its last attempt began.
    pub started_ms: Option<i64>,
    /// When it ended.
    pub finished_ms: Option<i64>,
    /// What never changes of it.
    pub body: Body,
    /// The result of a completed task, the error of a failed one; JSON.
    pub tail: Option<Box<RawValue>>,
}

impl Record {
    /// About how many bytes its parts have that can be long.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let spec = &self.body.spec;
        let parts = [&spec.args, &spec.kwargs, &spec.tags, &spec.metadata];
        parts
            .into_iter()
            .chain(&self.tail)
            .map(|part| part.get().len())
            .sum::<usize>()
            + spec.dependencies.iter().map(String::len).sum::<usize>()
    }

    /// Reads a record.
    ///
    /// # Errors
    ///
    /// [`DamagedRecord`] when it does not have the layout of this release.
    pub fn parse(id: TaskId, bytes: &[u8]) -> Result<Self, DamagedRecord> {
        let mut header = Cursor(bytes.get(..HEADER_BYTES).ok_or(DamagedRecord)?);
        let state = TaskState::from_letter(header.byte()).ok_or(DamagedRecord)?;
        let place = header.byte();
        let priority = Priority::from_rank(header.byte()).ok_or(DamagedRecord)?;
        let losses = header.byte();
        let flags = Flags(header.number(2)?);
        let attempt = header.number::<u32>(4)?;
        let retry_count = header.number(3)?;
        let max_retries = header.number(3)?;
        let seq = header.number(4)?;
        let entry_id = EntryId {
            ms: header.number(6)?,
            number: header.number(4)?,
        };
        let owner = header.take(ReplicaId::LENGTH);
        let slot = header.number(2)?;
        let created_ms = header.number(6)?;
        let started_ms = header.number(6)?;
        let finished_ms = header.number(6)?;
        let body_bytes: usize = header.number(4)?;
        let body = bytes
            .get(HEADER_BYTES..HEADER_BYTES + body_bytes)
            .ok_or(DamagedRecord)?;
        let tail = &bytes[HEADER_BYTES + body_bytes..];
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| DamagedRecord);
        let owner = text(owner)?;
        Ok(Self {
            id,
            state,
            priority,
            losses,
            attempt,
            retry_count,
            max_retries,
            seq,
            is_delayed: state == TaskState::Pending && place == b'D',
            is_blocked: state == TaskState::Pending && place == b'B',
            is_staged: place == b'S',
            flags,
            entry_id,
            owner: match owner {
                "agent-----" => Some(Owner::Agent),
                replica if replica.starts_with("r-") => Some(Owner::Worker(replica.to_owned(), slot)),
                _ => None,
            },
            created_ms,
            started_ms: (started_ms != 0).then_some(started_ms),
            finished_ms: (finished_ms != 0).then_some(finished_ms),
            body: Body::parse(text(body)?)?,
            // Behind the body of a staged task stands what its first event will say.
            tail: if tail.is_empty() || place == b'S' {
                None
            } else {
                Some(RawValue::from_string(text(tail)?.to_owned()).map_err(|_| DamagedRecord)?)
            },
        })
    }
}

/// What a task has to do with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u16);

impl Flags {
    /// Those of a record as it is stored; none of what is no record.
    #[must_use]
    pub fn of(record: &[u8]) -> Self {
        let found = record
            .get(FLAGS_AT..FLAGS_AT + 2)
            .and_then(|bytes| bytes.try_into().ok());
        Self(found.map_or(0, u16::from_be_bytes))
    }

    /// It waits, or waited, for others to end.
    pub const HAS_DEPENDENCIES: u16 = 1;
    /// Others wait, or waited, for its end.
    pub const HAS_DEPENDENTS: u16 = 2;
    /// It counts in a started workflow or saga.
    pub const IN_GROUP: u16 = 4;
    /// It carries out a step of a saga.
    pub const IS_STEP: u16 = 8;
    /// It undoes a step of a saga.
    pub const IS_COMPENSATION: u16 = 16;
    /// An attempt of it may have had its effect although it failed.
    pub const IN_DOUBT: u16 = 32;
    /// It runs although what it depends on failed.
    pub const RUNS_ANYWAY: u16 = 64;
    /// It stays blocked when what it depends on failed.
    pub const WAITS_ANYWAY: u16 = 128;
    /// An agent is to carry it out.
    pub const FOR_AGENT: u16 = 256;
    /// An agent has or had it.
    pub const BY_AGENT: u16 = 512;

    /// It has at most 16 dependencies.
    pub const HAS_FEW_DEPENDENCIES: u16 = 1024;

    /// Whether all of these are set.
    #[must_use]
    pub const fn has(self, flags: u16) -> bool {
        self.0 & flags == flags
    }
}

/// Reads the header front to back; its length was checked.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        front
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    /// A number of `count` bytes, the most significant first.
    fn number<T: TryFrom<u64>>(&mut self, count: usize) -> Result<T, DamagedRecord> {
        let value = self
            .take(count)
            .iter()
            .fold(0, |value: u64, byte| (value << 8) | u64::from(*byte));
        T::try_from(value).map_err(|_| DamagedRecord)
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.task_name)
    }
}
