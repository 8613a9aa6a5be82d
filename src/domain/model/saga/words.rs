//! What the model of a saga is asked and answers: calls, ends, replies, events, and the parts that it is made of.

use std::collections::BTreeSet;

use crate::domain::event::EventType;
use crate::domain::state::TaskState;

/// A step that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The steps that it waits for; all stand before it.
    pub depends_on: BTreeSet<usize>,
    /// Whether there is no way back behind it.
    pub is_pivot: bool,
    /// How often a failed attempt is followed by another.
    pub max_retries: u32,
    /// The same of what undoes it; `None` where nothing does.
    pub undo_retries: Option<u32>,
}

/// A task of the saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// What carries out a step.
    Step(usize),
    /// What undoes it; the number counts, over all steps, what had to be undone once more.
    Undo(usize, u32),
}

impl Work {
    pub(super) const fn step(self) -> usize {
        match self {
            Self::Step(step) | Self::Undo(step, _) => step,
        }
    }

    pub(super) const fn is_step(self) -> bool {
        matches!(self, Self::Step(_))
    }
}

/// A task as far as a saga has to do with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaTask {
    /// Where it is.
    pub state: TaskState,
    /// Whether it waits for others.
    pub is_blocked: bool,
    /// When it is due, where it waits for its time.
    pub due_ms: Option<i64>,
    /// How many attempts were started.
    pub attempt: u32,
    /// How many retries this life used.
    pub retries: u32,
    /// How many it may use.
    pub max_retries: u32,
    /// How often in a row its owner was lost.
    pub losses: u8,
    /// The number of its last event.
    pub seq: u32,
    /// The entry that it waits or runs in.
    pub(super) entry: u64,
    /// Who ran its last attempt.
    pub owner: Option<u8>,
    /// Whether any attempt ended so that it may have taken effect.
    pub is_doubtful: bool,
    /// Which of its lives this is.
    pub life: u32,
}

/// What is known of a step beside its tasks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepFate {
    /// C completed, D in doubt, X undone, U not.
    pub fate: Option<char>,
    /// The place of its end among those that completed.
    pub place: Option<u32>,
    /// The place of its verdict among those of the way back.
    pub verdict: Option<u32>,
    /// What undoes it, or last did.
    pub undo: Option<Work>,
    /// Whether a success was reported after it had been given up.
    pub has_come_late: bool,
}

/// Why it goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// It does not.
    None,
    /// A step failed.
    Failed,
    /// Somebody asked for it.
    Cancelled,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SagaOutcome {
    /// With a result.
    Completed,
    /// With an error that another attempt may not meet, and that says that nothing was done.
    Failed,
    /// The same, but nobody knows if anything was done.
    Broken,
    /// With an error that every attempt would meet.
    Rejected,
    /// It ran out of time.
    Timeout,
    /// Its replica stops, and its handler was told to end in the middle.
    HandedBack,
    /// It was handed back before its handler was called.
    Unstarted,
    /// It was told to end for its saga's sake, and did.
    Aborted,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SagaOp {
    /// Starts the saga.
    Start,
    /// Takes waiting tasks.
    Claim {
        /// Who takes.
        by: u8,
        /// How many at most.
        slots: usize,
    },
    /// Ends an attempt.
    Settle {
        /// Who says so.
        by: u8,
        /// Of which task.
        work: Work,
        /// Which attempt.
        attempt: u32,
        /// How it ended.
        outcome: SagaOutcome,
    },
    /// Cancels one task.
    CancelTask(Work),
    /// Lets the saga go back, by a command of this number, where it is one.
    Cancel(Option<u8>),
    /// Lets it try again.
    Resume,
    /// Takes back what somebody held.
    Takeover(u8),
    /// Lets those wait for their turn whose time has come.
    Promote,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SagaReply {
    /// A word.
    Word(&'static str),
    /// What was taken, with the attempt.
    Taken(Vec<(Work, u32)>),
    /// How many.
    Count(usize),
}

/// Whose event it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The saga's.
    Saga,
    /// A task's.
    Task(Work),
}

/// An event that a call appends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaEvent {
    /// What it tells of.
    pub kind: EventType,
    /// Whose it is.
    pub subject: Subject,
    /// Its number among those.
    pub seq: u32,
    /// The step that it names.
    pub step: Option<usize>,
    /// The step whose failure it names; `Some(None)` where it says that there is none.
    pub failed_step: Option<Option<usize>>,
    /// The lists of steps that it names, in the order of the contract.
    pub lists: Vec<Vec<usize>>,
}
