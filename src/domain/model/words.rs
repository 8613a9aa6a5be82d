//! What can be asked of a partition, and what it answers: the vocabulary of the [model](super).

use std::collections::BTreeMap;
use std::fmt;

use super::agent::{Loan, Route};
use crate::domain::event::EventType;
use crate::domain::id::{Name, QueueName, ReplicaId, TaskId};
use crate::domain::priority::Priority;
use crate::domain::trigger::Start;

/// One call of one function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The caller makes itself known. Without `workers` it only makes the keys.
    Join {
        /// The limit of tasks that are not terminal; `None` leaves what is set.
        max_size: Option<u64>,
        /// The limit of tasks that run; `None` leaves what is set.
        max_running: Option<u64>,
        /// How many workers it has.
        workers: Option<u16>,
        /// Whether the log is to say so.
        announce: bool,
        /// The names of the tasks that it can run.
        names: Vec<Name>,
        /// How many tasks of a name may run at a time, where it says so.
        limits: BTreeMap<Name, u64>,
        /// The names of the tasks that it knows an agent for.
        agents: BTreeMap<Name, Route>,
    },
    /// Makes tasks, then hands out work.
    Create {
        /// Whether names that no replica registered are refused.
        check_names: bool,
        /// The tasks.
        tasks: Vec<NewTask>,
        /// What the caller takes.
        appetite: Appetite,
    },
    /// Hands out work.
    Claim(Appetite),
    /// Ends attempts, then hands out work.
    Settle {
        /// The attempts.
        settlements: Vec<Settlement>,
        /// What the caller takes.
        appetite: Appetite,
    },
    /// Stops tasks.
    Cancel {
        /// The `event_id` of the command; the same command may come twice.
        cause: Option<String>,
        /// The tasks.
        tasks: Vec<TaskId>,
    },
    /// Queues delayed tasks that are due.
    Promote {
        /// How many at most.
        limit: usize,
    },
    /// Takes what agents say.
    Answer(Vec<Saying>),
    /// Hands out waiting tasks to somebody outside.
    Lend(Loan),
    /// A process of an agent reads its inbox, past all functions.
    Read {
        /// The agent.
        agent: Name,
        /// The process.
        process: String,
        /// How many at most.
        count: usize,
        /// Whether it reads what it has read before and not acknowledged, else what is new.
        again: bool,
        /// Whether it acknowledges all that it reads.
        acknowledges: bool,
    },
    /// The caller lives.
    Beat {
        /// Counts up.
        number: u64,
        /// How many workers it has.
        workers: u16,
        /// Whether to look for what the caller was given and does not list.
        looks: bool,
        /// Whether it says its task names again.
        renew_names: bool,
        /// What it holds; each task once.
        held: Vec<(TaskId, u32)>,
    },
    /// Takes back what a silent replica held.
    Takeover {
        /// Who fell silent.
        victim: ReplicaId,
        /// The beat at which it was seen to stand still; empty for one without any.
        seen: String,
        /// How many tasks at most.
        limit: usize,
    },
    /// The caller says goodbye.
    Leave {
        /// Whether the log is to say so.
        announce: bool,
    },
    /// Changes limits; from then on no `Join` does.
    SetLimits {
        /// The limit of tasks that are not terminal, 0 for none.
        max_size: Option<u64>,
        /// The limit of tasks that run, 0 for none.
        max_running: Option<u64>,
    },
    /// Removes from the log what it need not keep, and tasks with it.
    Trim {
        /// Whether all of it is old.
        everything: bool,
        /// How many events may stay.
        max_events: usize,
        /// How many go at most.
        limit: usize,
    },
    /// The caller stops claiming the tasks of a name, or goes on with them.
    Circuit {
        /// The name.
        name: Name,
        /// Whether it stops.
        is_open: bool,
    },
    /// Hands out one parked task of a name that the caller stopped claiming.
    Trial {
        /// The name.
        name: Name,
        /// The free slot.
        slot: u16,
    },
    /// Lets tasks have another life; no limit refuses them.
    Requeue {
        /// The dead letters: a task and its last attempt.
        letters: Vec<(TaskId, u32)>,
        /// How often a failed attempt is followed by another from now on; `None` leaves it.
        max_retries: Option<u32>,
    },
    /// Removes dead letters.
    Discard {
        /// The dead letters: a task and its last attempt.
        letters: Vec<(TaskId, u32)>,
    },
    /// Hands out nothing more of a queue, or again.
    Pause {
        /// The queue.
        queue: QueueName,
        /// Whether nothing is handed out.
        is_paused: bool,
    },
    /// Somebody writes an entry into a queue past all functions.
    Stray {
        /// The queue.
        queue: QueueName,
        /// Its priority.
        priority: Priority,
        /// The task that the entry names, whatever its state; it need not exist.
        task: TaskId,
    },
}

/// A task to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTask {
    /// Its id.
    pub id: TaskId,
    /// Which handler runs it.
    pub name: Name,
    /// Where it waits.
    pub queue: QueueName,
    /// How urgent it is.
    pub priority: Priority,
    /// How often a failed attempt is followed by another.
    pub max_retries: u32,
    /// When it may start.
    pub start: Start,
    /// The `event_id` of its trigger.
    pub event_id: String,
    /// The agent that the caller names.
    pub agent: Option<Name>,
    /// How long an attempt may take, where that is said.
    pub timeout_ms: Option<i64>,
}

/// What somebody says of an attempt that an agent holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saying {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: u32,
    /// Who says so; `None` for whoever holds it.
    pub who: Option<String>,
    /// The event that says so.
    pub event_id: Option<String>,
    /// Its place among the commands.
    pub entry: Option<u64>,
    /// What.
    pub said: Said,
}

/// How an attempt of an agent goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It goes on; how far it is, where that is said.
    Beat(Option<String>),
    /// It is over.
    Ended(Outcome),
}

/// What a caller with free slots may be given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Appetite {
    /// The free slots.
    pub slots: Vec<u16>,
    /// Whether tasks of any name, or only of those that the caller registered.
    pub runs_any: bool,
    /// How long a lower priority may wait before it is served out of turn.
    pub max_wait_ms: u64,
    /// Takes nothing but parked tasks of this name, and these whatever the caller registered.
    pub only: Option<Name>,
}

/// An attempt that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With a result.
    Completed,
    /// With an error that another attempt may not meet.
    Failed {
        /// The wait before the next attempt.
        delay_ms: u32,
    },
    /// It ran out of time.
    Timeout {
        /// The wait before the next attempt.
        delay_ms: u32,
    },
    /// With an error that every attempt would meet.
    Rejected,
    /// Handed back unfinished.
    Released,
}

/// What a partition answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Joined, limits set, or a stray entry written.
    Done,
    /// A word for each item in order, and what was handed out.
    Words(Vec<Word>, Vec<Started>),
    /// A word for each dead letter in order, and the life that its task begins or began, if any.
    Lives(Vec<(Word, Option<u32>)>),
    /// How many timers were due, how long until the next is, and the attempts of agents whose time is up.
    Promoted(usize, Option<i64>, Vec<(TaskId, u32)>),
    /// What was handed out of a queue, and of an inbox.
    Lent(Vec<Started>, Vec<(TaskId, u32)>),
    /// What a process read: whether it is an assignment, else word of a cancel.
    Read(Vec<(bool, TaskId, u32)>),
    /// What the caller holds no more, and what it was given without knowing.
    Beaten {
        /// Not its own any more.
        gone: Vec<TaskId>,
        /// Its own without its knowing.
        lost: Vec<Started>,
    },
    /// Nobody knows the caller.
    Stranger,
    /// The caller never registered the name; nothing changed.
    Unregistered,
    /// How many entries were taken back, and whether nothing is left.
    TakenOver(usize, bool),
    /// The victim's beat has moved; nothing changed.
    Alive,
    /// How many events and tasks went, and whether there may be more.
    Trimmed(usize, usize, bool),
    /// Goodbye.
    Left,
    /// The caller still holds tasks; nothing changed.
    Busy,
}

/// What became of one item of a batch, by the word on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Done.
    Ok,
    /// Another attempt follows.
    Retry,
    /// Done before by the same caller; nothing changed.
    Duplicate,
    /// The attempt is not the caller's any more; nothing changed.
    Stale,
    /// Another agent has the attempt; nothing changed.
    Other,
    /// The time of the attempt is not up; nothing changed.
    Early,
    /// Ended before; nothing changed.
    Terminal,
    /// Its state does not allow it; nothing changed.
    Illegal,
    /// There is no such task.
    Missing,
    /// No replica has registered its name within the last hour.
    Unknown,
    /// The limit is reached; this and all after it must wait.
    Full,
}

/// A task that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// The task.
    pub task: TaskId,
    /// The number of the attempt.
    pub attempt: u32,
    /// The slot that it was given.
    pub slot: u16,
    /// Retries used so far.
    pub retries: u32,
    /// Retries that may be used.
    pub max_retries: u32,
}

/// An event that a call appends to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEvent {
    /// What it tells of.
    pub event_type: EventType,
    /// The task, or the replica.
    pub subject: String,
    /// Its number among the subject's.
    pub seq: u32,
    /// The attempts of the task that were started; `None` for a replica.
    pub attempt: Option<u32>,
    /// The `event_id` of what caused it.
    pub causation_id: String,
    /// The replica that made the call.
    pub source: ReplicaId,
    /// What the payload says beside: JSON pointer and value.
    pub facts: Vec<(&'static str, Fact)>,
}

/// A value in a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
    /// A moment, in milliseconds since the epoch.
    Moment(i64),
    /// `null`.
    Nothing,
}

impl fmt::Display for ModelEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.event_type.as_str(), self.subject, self.seq)
    }
}
