//! What can be wrong with a history, and which guarantee that breaks.

use std::fmt;

use super::guarantee::Guarantee;
use crate::domain::event::EventType;
use crate::domain::id::TaskId;
use crate::domain::saga_state::SagaState;
use crate::domain::state::TaskState;

/// What is wrong with one subject's history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// Numbers are missing.
    #[error("number {found} follows where {expected} is due")]
    Gap {
        /// The number that is due.
        expected: u64,
        /// The number that stands there.
        found: u64,
    },
    /// A number comes a second time.
    #[error("number {0} comes a second time")]
    Repeat(u64),
    /// An entry that is no event.
    #[error("the entry is no event")]
    NoEvent,
    /// An event of a task whose subject is none.
    #[error("`{0}` of a subject that is no task")]
    NoTask(EventType),
    /// Something happens to a task that was not created.
    #[error("`{0}` before the task was created")]
    NotCreated(EventType),
    /// A task is created a second time.
    #[error("created a second time")]
    CreatedTwice,
    /// A task is created by something else than the trigger that it names.
    #[error("created because of `{cause}`, but its trigger is `{trigger}`")]
    OtherTrigger {
        /// What the event names as its cause.
        cause: String,
        /// What the payload names as the trigger.
        trigger: String,
    },
    /// A move that the state does not allow: a start of what runs, an end of what ended, an end without a start.
    #[error("`{event}` of a task that is {state}")]
    IllegalMove {
        /// The state before.
        state: TaskState,
        /// What is said to have happened.
        event: EventType,
    },
    /// An attempt that does not count on.
    #[error("attempt {found} starts after attempt {before}")]
    AttemptNotRising {
        /// The attempt before.
        before: u64,
        /// The attempt that is said to start.
        found: u64,
    },
    /// A retry that does not count on.
    #[error("retry {found} follows where {expected} is due")]
    RetryNotCounted {
        /// The number that is due.
        expected: u32,
        /// The number that stands there.
        found: u32,
    },
    /// A life that is not the next one.
    #[error("life {found} begins after life {before}")]
    LifeNotNext {
        /// The life before.
        before: u64,
        /// The life that is said to begin.
        found: u64,
    },
    /// A life begins out of another dead letter than that of the life before.
    #[error("requeued out of the dead letter `{found}`, but lay in `{expected}`")]
    OtherDeadLetter {
        /// The dead letter of the life before.
        expected: String,
        /// The one that is named.
        found: String,
    },
    /// The chain changes within one task.
    #[error("the correlation id changes to `{0}`")]
    OtherChain(String),
    /// A task starts although what it depends on has not ended.
    #[error("starts before `{0}` has ended, which it depends on")]
    StartedTooEarly(TaskId),
    /// Something is told of a workflow that was not started.
    #[error("`{0}` of a workflow that was not started")]
    NotStarted(EventType),
    /// Something is told of a workflow that was started or ended before, and can not be told then.
    #[error("`{0}` comes a second time, or after the end")]
    ToldAgain(EventType),
    /// A workflow ends before its tasks.
    #[error("ends while {0} of its tasks have not ended")]
    EndedEarly(u64),
    /// A workflow ends otherwise than its tasks did.
    #[error("`{event}`, but {failed} of its tasks failed or timed out")]
    OtherEnd {
        /// What is told.
        event: EventType,
        /// How many tasks failed.
        failed: u64,
    },
    /// A workflow counts its tasks otherwise than they are told of.
    #[error("counts {told} tasks as {what}, but it has {found}")]
    Miscounted {
        /// What is counted: a state, or all of them.
        what: &'static str,
        /// What the event says.
        told: u64,
        /// What the log tells of the tasks.
        found: u64,
    },
    /// All tasks of a workflow have ended and it has not.
    #[error("all its tasks have ended and it has not")]
    NotEnded,
    /// Something is told of a saga that was not started.
    #[error("`{0}` of a saga that was not started")]
    SagaNotStarted(EventType),
    /// A saga is started a second time.
    #[error("`{0}` comes a second time")]
    SagaToldAgain(EventType),
    /// A move that the state of a saga does not allow.
    #[error("`{event}` of a saga that is {state}")]
    SagaMove {
        /// The state before.
        state: SagaState,
        /// What is said to have happened.
        event: EventType,
    },
    /// A saga ends or turns round before its steps have ended.
    #[error("ends or turns round while {0} of its steps have not ended")]
    SagaTurnedEarly(u64),
    /// What is told of a step is not what its task tells.
    #[error("`{event}` of step `{step}`, of which its task tells otherwise")]
    StepOtherwise {
        /// What is told.
        event: EventType,
        /// The step.
        step: String,
    },
    /// A step starts although its saga goes back or has ended.
    #[error("step `{0}` starts although the saga goes back or has ended")]
    StepAfterTurn(String),
    /// A saga ends otherwise than its steps did.
    #[error("`{event}`, but not undone is {left:?}")]
    SagaOtherEnd {
        /// What is told.
        event: EventType,
        /// The steps that were not undone.
        left: Vec<String>,
    },
    /// A saga turns round behind its pivot.
    #[error("turns round although its pivot is done")]
    BehindPivot,
    /// A list of steps is not what happened.
    #[error("names {told:?} as {what}, but it is {found:?}")]
    OtherSteps {
        /// The list.
        what: &'static str,
        /// What the event says.
        told: Vec<String>,
        /// What happened, in that order.
        found: Vec<String>,
    },
    /// A step is undone that is not the one whose turn it is.
    #[error("step `{step}` is undone, but due is {due:?}")]
    UndoneOutOfTurn {
        /// The step.
        step: String,
        /// The one whose turn it is.
        due: Option<String>,
    },
    /// A saga ends with a step that is to be undone.
    #[error("ends, but step `{0}` is still to be undone")]
    NotUndone(String),
    /// Nothing is left to be waited for and the saga has not ended.
    #[error("nothing is left to be waited for and it has not ended")]
    SagaNotEnded,
    /// The log is over and the task is not.
    #[error("the task is still {0} at the end of the log")]
    Unfinished(TaskState),
    /// A task failed for good and nothing says that it is kept.
    #[error("the task is {0} and lies in no dead letter")]
    NotBuried(TaskState),
}

impl Flaw {
    /// Which guarantee it breaks.
    #[must_use]
    pub const fn guarantee(&self) -> Guarantee {
        match self {
            Self::Gap { .. } | Self::Repeat(_) | Self::NoEvent => Guarantee::Sequence,
            Self::CreatedTwice | Self::NotCreated(_) | Self::OtherTrigger { .. } => Guarantee::OncePerTrigger,
            Self::IllegalMove { state, .. } => {
                // What comes after an end is more than a wrong turn.
                if state.is_terminal() {
                    Guarantee::OneEndPerLife
                } else {
                    Guarantee::LegalPath
                }
            }
            Self::Unfinished(_) => Guarantee::OneEndPerLife,
            Self::NoTask(_) | Self::OtherChain(_) | Self::AttemptNotRising { .. } | Self::LifeNotNext { .. } => {
                Guarantee::LegalPath
            }
            Self::RetryNotCounted { .. } => Guarantee::RetryBudget,
            Self::StartedTooEarly(_) => Guarantee::Dependencies,
            Self::NotStarted(_)
            | Self::ToldAgain(_)
            | Self::EndedEarly(_)
            | Self::OtherEnd { .. }
            | Self::Miscounted { .. }
            | Self::NotEnded => Guarantee::Workflows,
            Self::SagaNotStarted(_)
            | Self::SagaToldAgain(_)
            | Self::SagaMove { .. }
            | Self::SagaTurnedEarly(_)
            | Self::StepOtherwise { .. }
            | Self::StepAfterTurn(_)
            | Self::SagaNotEnded
            | Self::SagaOtherEnd {
                event: EventType::SagaCompleted,
                ..
            } => Guarantee::Sagas,
            // Which steps completed is no matter of the way back.
            Self::OtherSteps { what, .. } if matches!(what.as_bytes(), b"completed_steps") => Guarantee::Sagas,
            Self::SagaOtherEnd { .. }
            | Self::OtherSteps { .. }
            | Self::BehindPivot
            | Self::UndoneOutOfTurn { .. }
            | Self::NotUndone(_) => Guarantee::Compensations,
            Self::OtherDeadLetter { .. } | Self::NotBuried(_) => Guarantee::DeadLetters,
        }
    }
}

/// A flaw and where it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Whose history it is.
    pub subject: String,
    /// The entry of the log at which it shows; `None` for what shows only at the end.
    pub entry_id: Option<String>,
    /// What is wrong.
    pub flaw: Flaw,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.entry_id {
            Some(entry_id) => write!(f, "{} at {entry_id}: {}", self.subject, self.flaw),
            None => write!(f, "{}: {}", self.subject, self.flaw),
        }
    }
}
