//! The functions of the library as typed calls.
//!
//! One method, one function; arguments and answers are described in the header of its Lua file.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use redis::Value;

use super::connection::Args;
use super::library::Function;
use super::record::NewTask;
use super::reply::{integer, items, string, text, worded};
use super::{Store, StoreError};
use crate::domain::id::{Partition, ReplicaId, TaskId};
use crate::domain::rejection::Reason;

/// What a caller that has free slots may be given.
#[derive(Debug, Clone)]
pub struct Appetite {
    /// The free slots.
    pub slots: Vec<u16>,
    /// Whether tasks of any name may be handed out, not only those that the replica registered.
    pub runs_any: bool,
    /// How long a lower priority may wait before it is served out of turn, in milliseconds.
    pub max_wait_ms: u64,
}

impl Appetite {
    /// Wants nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            slots: Vec::new(),
            runs_any: false,
            max_wait_ms: 60_000,
        }
    }

    pub(super) fn push(&self, args: &mut Args) {
        let mut slots = String::with_capacity(self.slots.len() * 4);
        for slot in &self.slots {
            slots.push_str(&slot.to_string());
            slots.push(',');
        }
        args.push(slots).flag(self.runs_any).show(self.max_wait_ms);
    }
}

/// A task that was handed out: one attempt, to be run now.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The task.
    pub task_id: TaskId,
    /// The number of the attempt; the fencing token.
    pub attempt: u32,
    /// The slot that it was given.
    pub slot: u16,
    /// The record as it was before, for [`super::record::Record::parse`].
    pub record: Vec<u8>,
    /// The results of what it depends on, by name; `None` when it depends on nothing, or on so much that they must be
    /// asked for.
    pub inputs: Option<Vec<(String, String)>>,
}

/// Who asks for a task to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A program that takes its tasks by hand: the name needs no handler.
    Program,
    /// Somebody who gets an answer: the name must have been registered within the last hour.
    Caller,
    /// A trigger stream: as for a caller, and while older triggers wait for room it waits too.
    Stream,
    /// A trigger stream whose oldest waiting trigger this is.
    StreamInTurn,
}

impl Asker {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Program => "any",
            Self::Caller => "named",
            Self::Stream => "stream",
            Self::StreamInTurn => "turn",
        }
    }
}

/// What became of a task that was to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// It exists now.
    Ok,
    /// It existed already; nothing changed.
    Duplicate,
    /// No replica has registered its name within the last hour.
    Unknown,
    /// The queue is full; nothing changed.
    Full,
    /// There are as many named queues as there may be; nothing changed.
    TooManyQueues,
    /// It depends on something that is not known (yet), of this name; nothing changed.
    Unresolved(String),
    /// Another task of its workflow has its key; nothing changed.
    KeyTaken,
    /// Its workflow has ended; nothing changed.
    Ended,
    /// Redis is short of memory; nothing changed.
    MemoryShort,
}

impl Created {
    fn read(word: &str) -> Option<Self> {
        Some(match word {
            "ok" => Self::Ok,
            "duplicate" => Self::Duplicate,
            "unknown" => Self::Unknown,
            "full" => Self::Full,
            "queues" => Self::TooManyQueues,
            "key" => Self::KeyTaken,
            "ended" => Self::Ended,
            "memory" => Self::MemoryShort,
            _ => Self::Unresolved(word.strip_prefix("unresolved ")?.to_owned()),
        })
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With a result, JSON.
    Completed {
        /// The result.
        result: String,
        /// What the event carries in place of a large result: JSON members.
        summary: Option<String>,
    },
    /// With an error that another attempt may not meet.
    Failed {
        /// `{type, message}`.
        error: String,
        /// The wait before the next attempt.
        delay_ms: u64,
    },
    /// It ran out of time.
    Timeout {
        /// `{type, message}`.
        error: String,
        /// The wait before the next attempt.
        delay_ms: u64,
    },
    /// With an error that every attempt would meet.
    Rejected {
        /// `{type, message}`.
        error: String,
    },
    /// Handed back unfinished.
    Released(Release),
    /// Its saga was cancelled, and the handler has ended.
    Aborted,
}

/// Why an attempt was handed back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Its replica stops.
    Shutdown,
    /// The circuit of its handler opened before it began.
    CircuitOpen,
    /// It was handed out in an answer that got lost, and when the replica heard of it no worker was free.
    NoWorker,
}

/// The error of an attempt that ended because its saga was cancelled.
const ABORTED: &str = r#"{"type":"cancelled","message":"the saga was cancelled"}"#;

/// An attempt that ended.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The task.
    pub task_id: TaskId,
    /// The attempt.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Outcome,
}

impl Settlement {
    /// The verdict and the data as the function takes them.
    pub(super) fn verdict(&self) -> (String, &str) {
        let attempt = self.attempt;
        match &self.outcome {
            Outcome::Completed { result, summary: None } => (format!("{attempt} completed 0"), result),
            Outcome::Completed {
                result,
                summary: Some(summary),
            } => (format!("{attempt} completed 0 {summary}"), result),
            Outcome::Failed { error, delay_ms } => (format!("{attempt} failed {delay_ms}"), error),
            Outcome::Timeout { error, delay_ms } => (format!("{attempt} timeout {delay_ms}"), error),
            Outcome::Rejected { error } => (format!("{attempt} rejected 0"), error),
            Outcome::Released(Release::Shutdown) => (format!("{attempt} released 0"), "\"shutdown\""),
            Outcome::Released(Release::CircuitOpen) => (format!("{attempt} released 0"), "\"circuit_open\""),
            Outcome::Released(Release::NoWorker) => (format!("{attempt} released 0"), "\"no_worker\""),
            Outcome::Aborted => (format!("{attempt} aborted 0"), ABORTED),
        }
    }
}

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It ended the task, or handed it back.
    Ok,
    /// Another attempt follows.
    Retry,
    /// This attempt was settled before; nothing changed.
    Duplicate,
    /// The attempt is not the caller's any more; nothing changed.
    Stale,
    /// There is no such task.
    Missing,
}

impl Settled {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Retry => "retry",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::Missing => "missing",
        }
    }
}

/// What became of a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It is cancelled now.
    Ok,
    /// It had ended before; nothing changed.
    Terminal,
    /// There is no such task.
    Missing,
}

/// What became of the wish to pause the tasks of a name, or to go on with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paused {
    /// Done.
    Ok,
    /// Nobody knows the replica.
    Stranger,
    /// The replica never registered the name; nothing changed.
    Unknown,
}

/// Streams with an entry id each, for waiting for what comes after.
pub type Bells = Vec<(String, String)>;

/// What a replica says when it joins.
#[derive(Debug, Clone)]
pub struct Joining<'a> {
    /// Its limit of tasks that are not terminal; `None` leaves what is set.
    pub max_size: Option<u64>,
    /// Its limit of tasks that run; `None` leaves what is set.
    pub max_running: Option<u64>,
    /// How many workers it has; `None` for a program that never holds a task and only needs the keys.
    pub workers: Option<u16>,
    /// When it started, RFC 3339.
    pub started_at: &'a str,
    /// Whether the log is to say so.
    pub announce: bool,
    /// The names of the tasks that it can run.
    pub task_names: &'a [String],
    /// How many tasks of a name may run at a time, over all replicas; by name, where it knows a limit.
    pub limits: &'a BTreeMap<String, NonZeroU32>,
}

/// What a replica says with each beat.
#[derive(Debug, Clone, Default)]
pub struct Beat {
    /// Counts up.
    pub number: u64,
    /// Pending entries at least this old must be known to the replica; `None` does not look.
    pub since_ms: Option<u64>,
    /// Busy slots.
    pub busy: u16,
    /// All slots.
    pub workers: u16,
    /// Busy slots whose attempt is over: a blocking function of it goes on.
    pub detached: u16,
    /// Tasks that it completed.
    pub completed: u64,
    /// Attempts that it saw fail.
    pub failed: u64,
    /// Whether to say again which tasks it can run.
    pub renew_names: bool,
    /// All that it holds.
    pub held: Vec<(TaskId, u32)>,
}

/// What a replica learns with a beat.
#[derive(Debug, Clone)]
pub enum BeatReply {
    /// It is known.
    Ok {
        /// What it holds no more.
        gone: Vec<TaskId>,
        /// What it was given without knowing.
        lost: Vec<Claimed>,
    },
    /// Nobody knows it: it was taken for dead, or Redis lost its keys.
    Stranger,
}

/// What became of an attempt to take over from a silent replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takeover {
    /// Tasks were taken back; `true` when nothing is left.
    Ok(u64, bool),
    /// Its beat has moved; nothing changed.
    Alive,
}

/// What a look at the timers came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Promoted {
    /// How many timers were due.
    pub count: u64,
    /// How long until the next is.
    pub next_ms: Option<u64>,
    /// Attempts that agents hold and whose time is up.
    pub expired: Vec<(TaskId, u32)>,
    /// How many attempts were lost, as their agents were silent.
    pub lost: u64,
}

/// An inbound event that can not be accepted.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The dead letter's id, or the entry id of a command.
    pub subject: String,
    /// Whether it is a command; else a trigger.
    pub is_command: bool,
    /// The event's id.
    pub event_id: String,
    /// The chain that it belongs to.
    pub correlation_id: String,
    /// Why.
    pub reason: Reason,
    /// What is wrong in detail, a JSON list.
    pub errors: String,
    /// What else the event says: JSON members.
    pub members: String,
    /// All fields and values as they came.
    pub original: Vec<u8>,
    /// Where that is only the beginning: what the whole was.
    pub cut: Option<Cut>,
}

/// What was cut off to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// How many bytes the whole had.
    pub bytes: usize,
    /// The SHA-256 of the whole, in hexadecimal.
    pub sha256: String,
}

impl Store {
    /// A partition's part of a limit over all of them, rounded up; 0 is no limit.
    pub(super) fn share_of(&self, limit: u64) -> u64 {
        limit.div_ceil(u64::from(self.partition_count()))
    }

    /// One partition's part of a limit over all of them: the parts are as even as can be and come to the limit together,
    /// but each is at least 1, or its tasks would wait for ever.
    fn share_in(&self, partition: Partition, limit: NonZeroU32) -> u32 {
        let partitions = u32::from(self.partition_count());
        let is_larger = u32::from(partition.number()) < limit.get() % partitions;
        (limit.get() / partitions + u32::from(is_larger)).max(1)
    }

    /// Makes a replica known; loads the function library first when it is missing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] and [`StoreError::Partitions`] when this release or its configuration does not fit.
    pub async fn join(
        &self,
        partition: Partition,
        replica: ReplicaId,
        joining: &Joining<'_>,
    ) -> Result<(), StoreError> {
        let optional = |limit: Option<u64>| limit.map_or(String::new(), |limit| self.share_of(limit).to_string());
        let mut args = Args::default();
        args.show(replica)
            .show(self.partition_count())
            .push(optional(joining.max_size))
            .push(optional(joining.max_running))
            .push(joining.workers.map_or(String::new(), |workers| workers.to_string()))
            .push(joining.started_at)
            .flag(joining.announce);
        for known in joining.task_names {
            // Behind the name of a task of an agent stands what there is to know of that.
            let name = known.split(' ').next().unwrap_or_default();
            match joining.limits.get(name) {
                Some(limit) => args.push(format!("{known} {}", self.share_in(partition, *limit))),
                None => args.push(known.as_str()),
            };
        }
        let (word, mut rest) = worded(self.call(Function::Join, partition, args).await?, "join")?;
        if word == "partitions" {
            let found = rest.next().and_then(string).unwrap_or_default();
            return Err(StoreError::Partitions {
                found,
                configured: self.partition_count(),
            });
        }
        Ok(())
    }

    /// Makes tasks, and hands out work for the free slots.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn create(
        &self,
        partition: Partition,
        replica: ReplicaId,
        asker: Asker,
        appetite: &Appetite,
        tasks: &[NewTask],
    ) -> Result<(Vec<Created>, Vec<Claimed>), StoreError> {
        let mut args = Args::default();
        args.show(replica).push(asker.as_str());
        appetite.push(&mut args);
        for task in tasks {
            args.show(task.id)
                .push(task.routing())
                .push(task.origin())
                .push(task.created_payload())
                .push(task.body());
        }
        let (_, mut rest) = worded(self.call(Function::Create, partition, args).await?, "create")?;
        let words = words(rest.next(), "create", Created::read)?;
        Ok((words, claimed(rest.next(), "create")?))
    }

    /// Hands out work for the free slots; answers also what to wait behind when slots stay free.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. When it is unknown whether the call took effect, the next beat tells what was handed out.
    pub async fn claim(
        &self,
        partition: Partition,
        replica: ReplicaId,
        appetite: &Appetite,
    ) -> Result<(Vec<Claimed>, Bells), StoreError> {
        let mut args = Args::default();
        args.show(replica);
        appetite.push(&mut args);
        args.flag(true);
        let (_, mut rest) = worded(self.call(Function::Claim, partition, args).await?, "claim")?;
        let tasks = claimed(rest.next(), "claim")?;
        let bells = rest.next().and_then(items).ok_or(StoreError::Protocol("claim"))?;
        let mut texts = bells.into_iter().filter_map(string);
        let after = texts.next().unwrap_or_default();
        Ok((tasks, texts.map(|stream| (stream, after.clone())).collect()))
    }

    /// Ends attempts, and hands out work for the free slots.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn settle(
        &self,
        partition: Partition,
        replica: ReplicaId,
        appetite: &Appetite,
        settlements: &[Settlement],
    ) -> Result<(Vec<Settled>, Vec<Claimed>), StoreError> {
        let mut args = Args::default();
        args.show(replica);
        appetite.push(&mut args);
        for settlement in settlements {
            let (verdict, data) = settlement.verdict();
            args.show(settlement.task_id).push(verdict).push(data);
        }
        let (_, mut rest) = worded(self.call(Function::Settle, partition, args).await?, "settle")?;
        let words = words(rest.next(), "settle", |word| match word {
            "ok" => Some(Settled::Ok),
            "retry" => Some(Settled::Retry),
            "duplicate" => Some(Settled::Duplicate),
            "stale" => Some(Settled::Stale),
            "missing" => Some(Settled::Missing),
            _ => None,
        })?;
        Ok((words, claimed(rest.next(), "settle")?))
    }

    /// Stops tasks on request. `cause` is the `event_id` of the command that asks, `message` the caller's own words.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn cancel(
        &self,
        partition: Partition,
        actor: ReplicaId,
        cause: Option<&str>,
        message: Option<&str>,
        tasks: &[TaskId],
    ) -> Result<Vec<Cancelled>, StoreError> {
        let members = message.map_or(String::new(), |text| {
            format!(",\"message\":{}", super::record::json_text(text))
        });
        let mut args = Args::default();
        args.show(actor)
            .push("requested")
            .push(cause.unwrap_or_default())
            .push(members);
        for task in tasks {
            args.show(task);
        }
        let (_, mut rest) = worded(self.call(Function::Cancel, partition, args).await?, "cancel")?;
        words(rest.next(), "cancel", |word| match word {
            "ok" => Some(Cancelled::Ok),
            "terminal" => Some(Cancelled::Terminal),
            "missing" => Some(Cancelled::Missing),
            _ => None,
        })
    }

    /// Says that a replica lives and what it holds.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn beat(&self, partition: Partition, replica: ReplicaId, beat: &Beat) -> Result<BeatReply, StoreError> {
        let mut args = Args::default();
        args.show(replica)
            .show(beat.number)
            .push(beat.since_ms.map_or("-1".to_owned(), |since_ms| since_ms.to_string()))
            .show(beat.busy)
            .show(beat.workers)
            .show(beat.completed)
            .show(beat.failed)
            .flag(beat.renew_names)
            .show(beat.detached);
        for (task, attempt) in &beat.held {
            if task.partition() == partition {
                args.show(task).show(attempt);
            }
        }
        let (word, mut rest) = worded(self.call(Function::Beat, partition, args).await?, "beat")?;
        if word == "stranger" {
            return Ok(BeatReply::Stranger);
        }
        let gone = rest.next().and_then(items).ok_or(StoreError::Protocol("beat"))?;
        let gone = gone.iter().filter_map(text).filter_map(|id| id.parse().ok()).collect();
        Ok(BeatReply::Ok {
            gone,
            lost: claimed(rest.next(), "beat")?,
        })
    }

    /// Takes back what `victim` held, provided its beat is still the one that the caller saw.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn takeover(
        &self,
        partition: Partition,
        replica: ReplicaId,
        victim: &str,
        seen_beat: &str,
        limit: u32,
    ) -> Result<Takeover, StoreError> {
        let mut args = Args::default();
        args.show(replica).push(victim).push(seen_beat).show(limit);
        let (word, mut rest) = worded(self.call(Function::Takeover, partition, args).await?, "takeover")?;
        if word == "alive" {
            return Ok(Takeover::Alive);
        }
        let moved = rest.next().as_ref().and_then(integer).unwrap_or_default();
        let is_done = rest.next().as_ref().and_then(text) == Some("1");
        Ok(Takeover::Ok(u64::try_from(moved).unwrap_or_default(), is_done))
    }

    /// Says goodbye; `false` when the replica still holds tasks.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn leave(&self, partition: Partition, replica: ReplicaId, announce: bool) -> Result<bool, StoreError> {
        let mut args = Args::default();
        args.show(replica).flag(announce);
        let (word, _) = worded(self.call(Function::Leave, partition, args).await?, "leave")?;
        Ok(word == "ok")
    }

    /// Queues delayed tasks that are due; answers how many, how long until the next, and the attempts of agents whose time is
    /// up.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn promote(&self, partition: Partition, replica: ReplicaId, limit: u32) -> Result<Promoted, StoreError> {
        let mut args = Args::default();
        args.show(replica).show(limit);
        let (_, mut rest) = worded(self.call(Function::Promote, partition, args).await?, "promote")?;
        let mut number = || {
            rest.next()
                .as_ref()
                .and_then(integer)
                .ok_or(StoreError::Protocol("promote"))
        };
        let (promoted, next_ms) = (number()?, number()?);
        let expired = rest.next().and_then(items).unwrap_or_default();
        let expired = expired.chunks_exact(2).filter_map(|pair| {
            let attempt = integer(&pair[1]).and_then(|attempt| u32::try_from(attempt).ok())?;
            Some((text(&pair[0])?.parse().ok()?, attempt))
        });
        let expired = expired.collect();
        let lost = rest.next().as_ref().and_then(integer).unwrap_or_default();
        Ok(Promoted {
            count: u64::try_from(promoted).unwrap_or_default(),
            next_ms: u64::try_from(next_ms).ok(),
            expired,
            lost: u64::try_from(lost).unwrap_or_default(),
        })
    }

    /// Keeps inbound events that can not be accepted, and says why on the log.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn reject(
        &self,
        partition: Partition,
        replica: ReplicaId,
        refusals: &[Refusal],
    ) -> Result<(), StoreError> {
        let mut args = Args::default();
        args.show(replica);
        for refusal in refusals {
            args.push(refusal.subject.as_str())
                .push(if refusal.is_command { "command" } else { "trigger" })
                .push(refusal.event_id.as_str())
                .push(refusal.correlation_id.as_str())
                .push(refusal.reason.as_str())
                .push(refusal.errors.as_str())
                .push(refusal.members.as_str())
                .push(refusal.original.clone())
                .push(
                    refusal
                        .cut
                        .as_ref()
                        .map_or(String::new(), |cut| format!("{} {}", cut.bytes, cut.sha256)),
                );
        }
        worded(self.call(Function::Reject, partition, args).await?, "reject").map(drop)
    }
}

/// A list of words, each read by `read`.
pub(super) fn words<T>(
    value: Option<Value>,
    function: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, StoreError> {
    let list = value.and_then(items).ok_or(StoreError::Protocol(function))?;
    list.iter()
        .map(|word| text(word).and_then(&read).ok_or(StoreError::Protocol(function)))
        .collect()
}

/// A list of tasks that were handed out.
pub(super) fn claimed(value: Option<Value>, function: &'static str) -> Result<Vec<Claimed>, StoreError> {
    let list = value.and_then(items).ok_or(StoreError::Protocol(function))?;
    list.into_iter()
        .map(|row| items(row).and_then(one_claimed).ok_or(StoreError::Protocol(function)))
        .collect()
}

fn one_claimed(row: Vec<Value>) -> Option<Claimed> {
    let mut row = row.into_iter();
    let task_id = text(&row.next()?)?.parse().ok()?;
    let mut number = || row.next().as_ref().and_then(integer);
    let attempt = u32::try_from(number()?).ok()?;
    let slot = u16::try_from(number()?).ok()?;
    let Value::BulkString(record) = row.next()? else {
        return None;
    };
    let inputs = row.next().and_then(items).map(|list| {
        let mut texts = list.into_iter().filter_map(string);
        std::iter::from_fn(|| Some((texts.next()?, texts.next()?))).collect()
    });
    Some(Claimed {
        task_id,
        attempt,
        slot,
        record,
        inputs,
    })
}
