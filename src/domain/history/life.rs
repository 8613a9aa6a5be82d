//! One task as its events tell it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;

use super::flaw::Flaw;
use crate::domain::event::{EntryId, Event, EventType};
use crate::domain::id::TaskId;
use crate::domain::priority::Priority;
use crate::domain::state::{TaskMove, TaskState};

/// A task as far as its events were read.
#[derive(Debug, Clone)]
pub struct TaskLife {
    /// Its state; `None` while what was read does not tell.
    pub state: Option<TaskState>,
    /// The last attempt that was started.
    pub attempt: u64,
    /// How many retries this life used; `None` while what was read does not tell.
    pub retries: Option<u32>,
    /// How many attempts of this life were started, as far as it was read.
    pub started: u32,
    /// How many of them were handed back.
    pub released: u32,
    /// Its priority, where its creation was read.
    pub priority: Option<Priority>,
    /// Whether it lies in the dead letters.
    pub is_buried: bool,
    /// Which of its lives this is, from 1; `None` while what was read does not tell.
    pub life: Option<u64>,
    /// The dead letter that it lies in, or last lay in.
    letter: Option<Box<str>>,
    /// The entry of its last event.
    pub last: EntryId,
    /// The chain that it belongs to, as a hash: ids are long and only ever compared.
    chain: u64,
    /// What must have ended before it starts, each with the life that it was in.
    waits_for: Box<[(TaskId, u64)]>,
    /// The started workflow that it belongs to.
    pub(super) flow: Option<std::sync::Arc<str>>,
}

/// What of an event's payload counts here.
#[derive(Deserialize, Default)]
pub(super) struct Counted {
    #[serde(default)]
    pub(super) attempt: Option<u64>,
    #[serde(default)]
    pub(super) retry_count: Option<u32>,
    #[serde(default)]
    pub(super) priority: Option<String>,
    #[serde(default)]
    pub(super) trigger_event_id: Option<String>,
    #[serde(default)]
    pub(super) saga_id: Option<String>,
    #[serde(default)]
    pub(super) step: Option<String>,
    #[serde(default)]
    pub(super) task_id: Option<String>,
    #[serde(default)]
    pub(super) error: Option<CountedError>,
    #[serde(default)]
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) total_steps: Option<u64>,
    #[serde(default)]
    pub(super) pivot: Option<String>,
    #[serde(default)]
    pub(super) has_compensation: Option<bool>,
    #[serde(default)]
    pub(super) steps_to_compensate: Option<Vec<String>>,
    #[serde(default)]
    pub(super) completed_steps: Option<Vec<String>>,
    #[serde(default)]
    pub(super) compensated_steps: Option<Vec<String>>,
    #[serde(default)]
    pub(super) uncompensated_steps: Option<Vec<String>>,
    #[serde(default)]
    pub(super) workflow_id: Option<String>,
    #[serde(default)]
    pub(super) total_tasks: Option<u64>,
    #[serde(default)]
    pub(super) counts: Option<BTreeMap<String, u64>>,
    #[serde(default)]
    pub(super) blocked_by: Vec<String>,
    #[serde(default)]
    pub(super) dead_letter_id: Option<String>,
    #[serde(default)]
    pub(super) dead_letter_ids: Vec<String>,
    #[serde(default)]
    pub(super) life: Option<u64>,
    #[serde(default)]
    pub(super) duration_ms: Option<u64>,
    #[serde(default)]
    pub(super) action: Option<String>,
    #[serde(default)]
    pub(super) target: Option<String>,
    #[serde(default)]
    pub(super) last_seen: Option<String>,
    #[serde(default)]
    pub(super) now_at: Option<String>,
}

/// What of an error counts here.
#[derive(Deserialize)]
pub(super) struct CountedError {
    #[serde(default, rename = "type")]
    pub(super) kind: Option<String>,
}

impl Counted {
    pub(super) fn of(event: &Event) -> Self {
        serde_json::from_str(event.payload.get()).unwrap_or_default()
    }
}

/// A short stand-in for a text that is only ever compared.
pub(super) fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl TaskLife {
    /// A task that is created.
    pub(super) fn created(event: &Event, counted: &Counted, at: EntryId) -> Self {
        Self {
            state: Some(TaskState::Pending),
            attempt: counted.attempt.unwrap_or(0),
            retries: Some(0),
            started: 0,
            released: 0,
            priority: counted.priority.as_deref().and_then(|name| name.parse().ok()),
            is_buried: false,
            life: Some(1),
            letter: None,
            last: at,
            chain: hash(&event.correlation_id),
            waits_for: counted
                .blocked_by
                .iter()
                .filter_map(|id| Some((id.parse().ok()?, 1)))
                .collect(),
            flow: None,
        }
    }

    /// A task of which only this event and what follows is known.
    pub(super) fn found(kind: EventType, event: &Event, counted: &Counted, at: EntryId) -> Self {
        let mut life = Self {
            priority: None,
            retries: None,
            life: None,
            waits_for: Box::default(),
            ..Self::created(event, counted, at)
        };
        life.state = move_of(kind).map(claimed_state);
        life.note(kind, counted, at);
        life
    }

    /// A task that a later version told of first.
    pub(super) fn unknown(event: &Event, at: EntryId) -> Self {
        Self {
            state: None,
            retries: None,
            life: None,
            priority: None,
            ..Self::created(event, &Counted::default(), at)
        }
    }

    /// Notes which lives of others it waits for, where they have had several: the end of that life lets it start, also when
    /// a later one has begun meanwhile.
    pub(super) fn wait_for_lives(&mut self, life_of: impl Fn(TaskId) -> Option<u64>) {
        for (id, life) in &mut self.waits_for {
            *life = life_of(*id).unwrap_or(*life);
        }
    }

    /// Forgets what a part of the log that is not there may have changed.
    pub(super) fn lose_track(&mut self) {
        self.state = None;
        self.retries = None;
        self.life = None;
        self.letter = None;
        self.waits_for = Box::default();
    }

    /// One of its later events; `may_start` tells of the lives of other tasks whether they let this one start, where that
    /// is known.
    pub(super) fn follow(
        &mut self,
        kind: EventType,
        event: &Event,
        counted: &Counted,
        at: EntryId,
        flaws: &mut Vec<Flaw>,
        may_start: impl Fn(TaskId, u64) -> Option<bool>,
    ) {
        let chain = hash(&event.correlation_id);
        if self.chain != chain {
            flaws.push(Flaw::OtherChain(event.correlation_id.clone()));
            self.chain = chain;
        }
        if kind == EventType::TaskDeadLettered {
            let has_failed = self
                .state
                .is_none_or(|state| matches!(state, TaskState::Failed | TaskState::Timeout));
            if self.is_buried || !has_failed {
                flaws.push(Flaw::IllegalMove {
                    state: self.state.unwrap_or(TaskState::Failed),
                    event: kind,
                });
            }
        }
        if let Some(step) = move_of(kind) {
            self.go(step, kind, counted, flaws);
            if step == TaskMove::Claim {
                let (before, found) = (self.attempt, counted.attempt.unwrap_or(0));
                if found <= before {
                    flaws.push(Flaw::AttemptNotRising { before, found });
                }
                for (id, awaited) in std::mem::take(&mut self.waits_for) {
                    if may_start(id, awaited) == Some(false) {
                        flaws.push(Flaw::StartedTooEarly(id));
                    }
                }
            }
            if step == TaskMove::Requeue {
                self.begin_life(counted, flaws);
            }
            if step == TaskMove::Retry
                && let (Some(before), Some(found)) = (self.retries, counted.retry_count)
                && found != before + 1
            {
                flaws.push(Flaw::RetryNotCounted {
                    expected: before + 1,
                    found,
                });
            }
        }
        self.note(kind, counted, at);
    }

    /// The next life begins out of the dead letter of the one before.
    fn begin_life(&mut self, counted: &Counted, flaws: &mut Vec<Flaw>) {
        if let (Some(before), Some(found)) = (self.life, counted.life)
            && found != before + 1
        {
            flaws.push(Flaw::LifeNotNext { before, found });
        }
        self.life = counted.life.or(self.life.map(|life| life + 1));
        if let (Some(expected), Some(found)) = (self.letter.take(), &counted.dead_letter_id)
            && *expected != **found
        {
            let expected = expected.into();
            let found = found.clone();
            flaws.push(Flaw::OtherDeadLetter { expected, found });
        }
    }

    fn go(&mut self, step: TaskMove, kind: EventType, counted: &Counted, flaws: &mut Vec<Flaw>) {
        if let Some(state) = self.state {
            // What undoes a step of a saga comes back after a cancel too.
            let is_resumed = step == TaskMove::Requeue && state == TaskState::Cancelled && counted.saga_id.is_some();
            if state.after(step).is_none() && !is_resumed {
                flaws.push(Flaw::IllegalMove { state, event: kind });
            }
        }
        // Believed all the same, or one flaw would show as many.
        self.state = Some(claimed_state(step));
    }

    /// What an event changes apart from the state.
    fn note(&mut self, kind: EventType, counted: &Counted, at: EntryId) {
        self.last = at;
        if kind == EventType::TaskDeadLettered {
            self.is_buried = true;
            self.letter = counted.dead_letter_id.as_deref().map(Into::into);
        }
        let Some(step) = move_of(kind) else { return };
        match step {
            TaskMove::Claim => {
                self.attempt = counted.attempt.unwrap_or(self.attempt);
                self.started += 1;
            }
            TaskMove::Retry => self.retries = counted.retry_count.or(self.retries.map(|count| count + 1)),
            TaskMove::Release => self.released += 1,
            TaskMove::Requeue => {
                self.is_buried = false;
                self.retries = Some(0);
                self.started = 0;
                self.released = 0;
            }
            TaskMove::Succeed | TaskMove::Fail | TaskMove::Expire | TaskMove::Cancel => {
                self.waits_for = Box::default();
            }
        }
    }
}

/// The move that an event tells of.
pub(super) const fn move_of(kind: EventType) -> Option<TaskMove> {
    match kind {
        EventType::TaskStarted => Some(TaskMove::Claim),
        EventType::TaskRetryScheduled => Some(TaskMove::Retry),
        EventType::TaskReleased => Some(TaskMove::Release),
        EventType::TaskCompleted => Some(TaskMove::Succeed),
        EventType::TaskFailed => Some(TaskMove::Fail),
        EventType::TaskTimeout => Some(TaskMove::Expire),
        EventType::TaskCancelled => Some(TaskMove::Cancel),
        EventType::TaskRequeued => Some(TaskMove::Requeue),
        EventType::TaskCreated
        | EventType::TaskDeadLettered
        | EventType::TriggerRejected
        | EventType::CommandRefused
        | EventType::WorkflowStarted
        | EventType::WorkflowCompleted
        | EventType::WorkflowFailed
        | EventType::WorkflowCancelled
        | EventType::SagaStarted
        | EventType::SagaStepStarted
        | EventType::SagaStepCompleted
        | EventType::SagaStepFailed
        | EventType::SagaCompensating
        | EventType::SagaStepCompensated
        | EventType::SagaStepCompensationFailed
        | EventType::SagaStepLateSuccess
        | EventType::SagaCompleted
        | EventType::SagaCompensated
        | EventType::SagaFailed
        | EventType::SagaResumed
        | EventType::WorkerPoolStatus
        | EventType::OperatorAction
        | EventType::HistoryRolledBack
        | EventType::MetricsSnapshot => None,
    }
}

/// The state that a move leads to, wherever it comes from.
const fn claimed_state(step: TaskMove) -> TaskState {
    match step {
        TaskMove::Claim => TaskState::Running,
        TaskMove::Succeed => TaskState::Completed,
        TaskMove::Retry | TaskMove::Release | TaskMove::Requeue => TaskState::Pending,
        TaskMove::Fail => TaskState::Failed,
        TaskMove::Expire => TaskState::Timeout,
        TaskMove::Cancel => TaskState::Cancelled,
    }
}
