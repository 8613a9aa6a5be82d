//! Looks at the store for an audit, and mends it: each look tells how far the log was written when it was taken.
//!
//! The functions decide on the spot whether a task stands where its record says, so what they name is no race between two
//! reads. What it means is for the caller to say.

use std::collections::BTreeMap;

use redis::Value;

use super::connection::Args;
use super::groups::GroupKind;
use super::inbound::{GROUP as INBOUND_GROUP, entries};
use super::library::Function;
use super::reply::{integer, items, string, text, worded};
use super::{Store, StoreError};
use crate::domain::event::{EntryId, Event};
use crate::domain::id::{Partition, ReplicaId, TaskId};
use crate::domain::priority::Priority;
use crate::domain::state::TaskState;

/// How many keys one step of a scan looks at.
const SCAN_STEP: usize = 1000;

/// A task as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its state.
    pub state: TaskState,
    /// Whether it belongs to a group that is not told of yet.
    pub is_staged: bool,
    /// Its priority.
    pub priority: Priority,
    /// How many attempts were started.
    pub attempt: u32,
    /// How many retries were used in this life.
    pub retry_count: u32,
    /// How many may be used.
    pub max_retries: u32,
    /// The number of its last event.
    pub seq: u64,
    /// The replica of its last attempt.
    pub owner: String,
    /// A step behind its saga's pivot: no number of retries is too many.
    pub is_excepted: bool,
    /// What is wrong about where it is: a word and a detail.
    pub problem: Option<(Misplaced, String)>,
}

/// What can be wrong about where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misplaced {
    /// It waits or runs, and its entry is not in the stream.
    NoEntry,
    /// It waits in a stream that is not listed, so nobody looks there.
    Unlisted,
    /// It waits in a stream without a group, so nobody is given it.
    NoGroup,
    /// It waits, and somebody holds its entry.
    Held,
    /// It waits behind what the group was given, so nobody is given it any more.
    Passed,
    /// It is delayed and has no timer.
    NoTimer,
    /// It is blocked and waits for nothing.
    Unblocked,
    /// It waits for a task that has ended.
    ReleasedLate,
    /// It waits for another number of tasks than it counts.
    Miscounted,
    /// It runs, and nobody holds its entry.
    Unheld,
    /// It runs, and another than its owner holds its entry.
    OtherHolder,
    /// It runs, and does not count for the limit of its name.
    Uncounted,
}

impl Misplaced {
    fn read(word: &str) -> Option<Self> {
        Some(match word {
            "no_entry" => Self::NoEntry,
            "unlisted" => Self::Unlisted,
            "no_group" => Self::NoGroup,
            "held" => Self::Held,
            "passed" => Self::Passed,
            "no_timer" => Self::NoTimer,
            "unblocked" => Self::Unblocked,
            "released_late" => Self::ReleasedLate,
            "miscounted" => Self::Miscounted,
            "unheld" => Self::Unheld,
            "other_holder" => Self::OtherHolder,
            "uncounted" => Self::Uncounted,
            _ => return None,
        })
    }
}

/// What is asked of one look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Question<'a> {
    /// The last entry that was read of the log.
    pub position: Option<EntryId>,
    /// Whether to measure what only a walk over all streams tells.
    pub measure: bool,
    /// These tasks.
    pub tasks: &'a [TaskId],
    /// These dead letters.
    pub letters: &'a [String],
}

/// A look at the store at one moment.
#[derive(Debug, Clone)]
pub struct Look {
    /// The last entry of the log at that moment.
    pub last: EntryId,
    /// Whether the position that was given is still part of the log, or was trimmed; else history went back.
    pub stands: bool,
    /// Fields of the partition's own hash and what was measured.
    pub facts: Facts,
    /// The tasks, in order; `None` where there is no record.
    pub tasks: Vec<Option<Stored>>,
    /// Whether each dead letter is there.
    pub letters: Vec<bool>,
}

/// Names and values that a partition keeps about itself.
#[derive(Debug, Clone, Default)]
pub struct Facts(BTreeMap<String, String>);

impl Facts {
    /// A number; 0 where there is none.
    #[must_use]
    pub fn number(&self, name: &str) -> i64 {
        self.0.get(name).and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// Whether there is such a field.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// How far the log was trimmed, if it ever was.
    #[must_use]
    pub fn trimmed_to(&self) -> Option<EntryId> {
        self.0.get("trimmed_to")?.parse().ok()
    }
}

/// What a survey walks over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Walk {
    /// The entries of a task stream, named behind the partition's prefix.
    Entries(String),
    /// What is held of it.
    Pending(String),
    /// The timers.
    Timers,
    /// What counts as running of names with a limit.
    Limits,
    /// The dead letters.
    Letters,
}

impl Walk {
    fn words(&self) -> (&'static str, &str) {
        match self {
            Self::Entries(stream) => ("entries", stream),
            Self::Pending(stream) => ("pending", stream),
            Self::Timers => ("timers", ""),
            Self::Limits => ("limits", ""),
            Self::Letters => ("letters", ""),
        }
    }
}

/// One finding of a survey, see `inspect.lua`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is.
    pub word: String,
    /// The entry, task or dead letter.
    pub place: String,
    /// The task; of a dead letter when it was made, in ms.
    pub task: String,
    /// More about it.
    pub detail: String,
}

/// A part of a survey.
#[derive(Debug, Clone)]
pub struct Survey {
    /// The last entry of the log at that moment.
    pub last: EntryId,
    /// Where the next part begins; empty at the end.
    pub next: String,
    /// How many were looked at.
    pub looked: u64,
    /// What was found.
    pub rows: Vec<Row>,
}

/// A part of the log with what was known when it was read.
#[derive(Debug, Clone)]
pub struct LogPart {
    /// The last entry that was read; `None` at the end.
    pub last: Option<EntryId>,
    /// The events.
    pub events: Vec<Event>,
    /// Entries that are no events.
    pub strangers: Vec<String>,
    /// How far the log was trimmed after it was read.
    pub trimmed_to: Option<EntryId>,
}

/// What is to be mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mend {
    /// Entries, held entries or timers that belong to no task, and dead letters without a copy; from a cursor on.
    Walk(Walk, String),
    /// Tasks that stand nowhere.
    Tasks(Vec<TaskId>),
    /// Groups of listed queues.
    Queues,
    /// Counters by differences; with how often they were mended before.
    Counters(i64, Vec<(String, i64)>),
    /// What is left of replicas that do not beat.
    Members(Vec<String>),
    /// Says it on the log: the actor and what was done, both JSON.
    Told(String, String),
}

/// The consumers of a group, with how many entries each holds.
pub type Consumers = Vec<(String, u64)>;

impl Store {
    /// Looks at tasks and dead letters at one moment.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn inspect(&self, partition: Partition, question: Question<'_>) -> Result<Look, StoreError> {
        const NAME: &str = "inspect";
        let mut args = Args::default();
        args.push("-")
            .push(question.position.map_or(String::new(), |entry| entry.to_string()))
            .flag(question.measure)
            .show(question.tasks.len());
        for task in question.tasks {
            args.show(task);
        }
        for letter in question.letters {
            args.push(letter.as_str());
        }
        let (_, mut rest) = worded(self.call(Function::Inspect, partition, args).await?, NAME)?;
        let mut next = || rest.next().ok_or(StoreError::Protocol(NAME));
        let last = entry_id(&next()?, NAME)?;
        let stands = text(&next()?) == Some("1");
        let mut facts = BTreeMap::new();
        let mut values = items(next()?).ok_or(StoreError::Protocol(NAME))?.into_iter();
        while let (Some(name), Some(value)) = (values.next(), values.next()) {
            let value = integer(&value).map_or_else(|| string(value), |number| Some(number.to_string()));
            facts.insert(string(name).unwrap_or_default(), value.unwrap_or_default());
        }
        let tasks = items(next()?).ok_or(StoreError::Protocol(NAME))?;
        let mut found = Vec::with_capacity(tasks.len());
        for task in tasks {
            let cells = items(task).ok_or(StoreError::Protocol(NAME))?;
            let is_there = !cells.is_empty();
            let read = is_there.then(|| stored(&cells).ok_or(StoreError::Protocol(NAME)));
            found.push(read.transpose()?);
        }
        let letters = items(next()?).ok_or(StoreError::Protocol(NAME))?;
        Ok(Look {
            last,
            stands,
            facts: Facts(facts),
            tasks: found,
            letters: letters.iter().map(|letter| text(letter) == Some("1")).collect(),
        })
    }

    /// Walks over a part of what tasks stand in, from a cursor on.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn survey(
        &self,
        partition: Partition,
        walk: &Walk,
        cursor: &str,
        limit: usize,
    ) -> Result<Survey, StoreError> {
        const NAME: &str = "survey";
        let (what, stream) = walk.words();
        let mut args = Args::default();
        args.push("-").push(what).push(stream).push(cursor).show(limit);
        let (_, mut rest) = worded(self.call(Function::Survey, partition, args).await?, NAME)?;
        let mut next = || rest.next().ok_or(StoreError::Protocol(NAME));
        let last = entry_id(&next()?, NAME)?;
        let cursor = string(next()?).ok_or(StoreError::Protocol(NAME))?;
        let looked = integer(&next()?).ok_or(StoreError::Protocol(NAME))?;
        let rows = items(next()?).ok_or(StoreError::Protocol(NAME))?;
        let rows = rows.into_iter().map(|row| {
            let mut cells = items(row)?.into_iter().map(|cell| string(cell).unwrap_or_default());
            Some(Row {
                word: cells.next()?,
                place: cells.next()?,
                task: cells.next()?,
                detail: cells.next()?,
            })
        });
        Ok(Survey {
            last,
            next: cursor,
            looked: u64::try_from(looked).unwrap_or_default(),
            rows: rows.collect::<Option<_>>().ok_or(StoreError::Protocol(NAME))?,
        })
    }

    /// Up to `count` entries of a partition's log behind `after` and, where it is given, up to `upto`; with how far the
    /// log was trimmed, asked behind the entries.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn log_part(
        &self,
        partition: Partition,
        after: EntryId,
        upto: Option<EntryId>,
        count: usize,
    ) -> Result<LogPart, StoreError> {
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("XRANGE")
            .arg(self.keys().events(partition))
            .arg(format!("({after}"))
            .arg(upto.map_or_else(|| "+".to_owned(), |upto| upto.to_string()))
            .arg("COUNT")
            .arg(count);
        pipeline.cmd("HGET").arg(self.keys().meta(partition)).arg("trimmed_to");
        let mut values = self.send_all(&pipeline).await?.into_iter();
        let found = values.next().and_then(entries).ok_or(StoreError::Protocol("XRANGE"))?;
        let trimmed_to = values.next().and_then(string).and_then(|entry| entry.parse().ok());
        let mut part = LogPart {
            last: found.last().and_then(|entry| entry.id.parse().ok()),
            events: Vec::with_capacity(found.len()),
            strangers: Vec::new(),
            trimmed_to,
        };
        for entry in found {
            match Event::from_fields(&entry.id, &entry.borrowed()) {
                Ok(event) => part.events.push(event),
                Err(_) => part.strangers.push(entry.id),
            }
        }
        Ok(part)
    }

    /// The ids of some of the partition's task records, and the cursor to go on with; `0` at the end. What exists all
    /// the time comes at least once.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn scan_tasks(&self, partition: Partition, cursor: &str) -> Result<(String, Vec<TaskId>), StoreError> {
        let (next, names) = self.scan(&self.keys().every_task(partition), cursor).await?;
        Ok((next, names.into_iter().filter_map(|name| name.parse().ok()).collect()))
    }

    /// Some of the partition's workflows and sagas, each with its kind and the letter of its state, and the cursor to go on
    /// with; as [`Store::scan_tasks`].
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn scan_groups(
        &self,
        partition: Partition,
        cursor: &str,
    ) -> Result<(String, Vec<(String, GroupKind, char)>), StoreError> {
        let pattern = self.keys().every_group_record(partition);
        let (next, names) = self.scan(&pattern, cursor).await?;
        let mut pipeline = redis::pipe();
        for name in &names {
            let key = format!("{}{name}", &pattern[..pattern.len() - 1]);
            pipeline.cmd("HMGET").arg(key).arg("kind").arg("state");
        }
        let records = if names.is_empty() {
            Vec::new()
        } else {
            self.send_all(&pipeline).await?
        };
        let groups = names.into_iter().zip(records).filter_map(|(name, record)| {
            let mut fields = items(record)?.into_iter().map(string);
            let (kind, state) = (fields.next()??, fields.next()??);
            let kind = [GroupKind::Workflow, GroupKind::Saga]
                .into_iter()
                .find(|known| known.as_str() == kind)?;
            Some((name, kind, state.chars().next()?))
        });
        Ok((next, groups.collect()))
    }

    /// What stands in place of the star in the names of some keys, and the cursor to go on with.
    async fn scan(&self, pattern: &str, cursor: &str) -> Result<(String, Vec<String>), StoreError> {
        let prefix = pattern.len() - 1;
        let mut command = redis::cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(glob(&pattern[..prefix]) + "*");
        command.arg("COUNT").arg(SCAN_STEP);
        let mut answer = items(self.send(&command).await?)
            .ok_or(StoreError::Protocol("SCAN"))?
            .into_iter();
        let next = answer.next().and_then(string).ok_or(StoreError::Protocol("SCAN"))?;
        let keys = answer.next().and_then(items).ok_or(StoreError::Protocol("SCAN"))?;
        let names = keys.into_iter().filter_map(string);
        Ok((
            next,
            names.filter_map(|key| Some(key.get(prefix..)?.to_owned())).collect(),
        ))
    }

    /// All streams of a partition that tasks wait in, named behind its prefix: listed queues, parked names, and the
    /// queues beside which something is for agents.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn task_streams(&self, partition: Partition) -> Result<Vec<String>, StoreError> {
        let mut streams = Vec::new();
        for (set, kind) in [
            (self.keys().queues(partition), "queue"),
            (self.keys().parks(partition), "parked"),
            (self.keys().desks(partition), "agents"),
        ] {
            let mut names = self.members(&set).await?;
            names.sort_unstable();
            for name in names {
                for priority in Priority::ALL {
                    streams.push(format!("{kind}:{name}:{}", priority.key_part()));
                }
            }
        }
        Ok(streams)
    }

    /// The consumers of a task stream's group; `None` without the stream or the group.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn task_holders(&self, partition: Partition, stream: &str) -> Result<Option<Consumers>, StoreError> {
        let key = self.keys().behind(partition, stream);
        self.consumers(&key, "workers").await
    }

    /// The consumers of an inbound stream's group; `None` without the stream or the group.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn inbound_holders(&self, stream: &str) -> Result<Option<Consumers>, StoreError> {
        self.consumers(stream, INBOUND_GROUP).await
    }

    async fn consumers(&self, key: &str, group: &str) -> Result<Option<Consumers>, StoreError> {
        let mut command = redis::cmd("XINFO");
        command.arg("CONSUMERS").arg(key).arg(group);
        let rows = match self.send(&command).await {
            Ok(rows) => items(rows).ok_or(StoreError::Protocol("XINFO"))?,
            Err(StoreError::Refused(error)) if is_absent(&error) => return Ok(None),
            Err(error) if error.is_wrong_type() => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(
            rows.into_iter()
                .filter_map(|row| {
                    let fields = items(row)?;
                    let field = |name: &str| {
                        let mut pairs = fields.chunks_exact(2);
                        pairs.find(|pair| text(&pair[0]) == Some(name)).map(|pair| &pair[1])
                    };
                    let held = field("pending").and_then(integer).unwrap_or_default();
                    Some((
                        text(field("name")?)?.to_owned(),
                        u64::try_from(held).unwrap_or_default(),
                    ))
                })
                .collect(),
        ))
    }

    /// How many entries of an inbound stream nobody was given yet.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn undelivered(&self, stream: &str) -> Result<u64, StoreError> {
        let mut command = redis::cmd("XINFO");
        command.arg("GROUPS").arg(stream);
        let groups = match self.send(&command).await {
            Ok(groups) => items(groups).unwrap_or_default(),
            Err(StoreError::Refused(error)) if is_absent(&error) => return Ok(0),
            Err(error) => return Err(error),
        };
        for group in groups {
            let fields = items(group).unwrap_or_default();
            let field = |name: &str| {
                let mut pairs = fields.chunks_exact(2);
                pairs.find(|pair| text(&pair[0]) == Some(name)).map(|pair| &pair[1])
            };
            if field("name").and_then(text) == Some(INBOUND_GROUP) {
                // Redis can not always tell; then all that stand there and are not held.
                if let Some(lag) = field("lag").and_then(integer) {
                    return Ok(u64::try_from(lag).unwrap_or_default());
                }
                let held = field("pending").and_then(integer).unwrap_or_default();
                let length = self.stream_length(stream).await?;
                return Ok(length.saturating_sub(u64::try_from(held).unwrap_or_default()));
            }
        }
        self.stream_length(stream).await
    }

    /// How many entries a stream has.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn stream_length(&self, stream: &str) -> Result<u64, StoreError> {
        let length = integer(&self.send(redis::cmd("XLEN").arg(stream)).await?);
        Ok(length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default())
    }

    /// The ids of replicas that left something behind: a report or a list of what they can run.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn scan_members(&self, partition: Partition) -> Result<Vec<String>, StoreError> {
        let mut found = std::collections::BTreeSet::new();
        for kind in ["can:", "replica:"] {
            let prefix = self.keys().behind(partition, kind);
            let mut cursor = "0".to_owned();
            loop {
                let mut command = redis::cmd("SCAN");
                command.arg(&cursor).arg("MATCH").arg(glob(&prefix) + "*");
                command.arg("COUNT").arg(SCAN_STEP);
                let mut answer = items(self.send(&command).await?)
                    .ok_or(StoreError::Protocol("SCAN"))?
                    .into_iter();
                cursor = answer.next().and_then(string).ok_or(StoreError::Protocol("SCAN"))?;
                let keys = answer.next().and_then(items).unwrap_or_default();
                found.extend(
                    keys.into_iter()
                        .filter_map(string)
                        .filter_map(|key| Some(key.get(prefix.len()..)?.to_owned())),
                );
                if cursor == "0" {
                    break;
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Those of some replicas of which nothing is left but the number of their last event: operators, who never joined.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn only_numbers(
        &self,
        partition: Partition,
        ids: &std::collections::BTreeSet<String>,
    ) -> Result<Vec<String>, StoreError> {
        let mut found = Vec::new();
        for id in ids {
            let report = self
                .hash(&self.keys().behind(partition, &format!("replica:{id}")))
                .await?;
            if !report.is_empty() && report.iter().all(|(name, _)| name == "seq") {
                found.push(id.clone());
            }
        }
        Ok(found)
    }

    /// Mends a bounded part; answers how much, and where to go on. `None` where the counters were mended meanwhile.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn repair(
        &self,
        partition: Partition,
        actor: ReplicaId,
        mend: &Mend,
        limit: usize,
    ) -> Result<Option<(u64, String)>, StoreError> {
        let mut args = Args::default();
        args.show(actor);
        match mend {
            Mend::Walk(walk, cursor) => {
                let (what, stream) = walk.words();
                args.push(what);
                if !stream.is_empty() {
                    args.push(stream);
                }
                args.push(cursor.as_str()).show(limit);
            }
            Mend::Tasks(ids) => {
                args.push("tasks");
                for id in ids {
                    args.show(id);
                }
            }
            Mend::Queues => {
                args.push("queues");
            }
            Mend::Counters(mends, differences) => {
                args.push("counters").show(mends);
                for (name, difference) in differences {
                    args.push(name.as_str()).show(difference);
                }
            }
            Mend::Members(ids) => {
                args.push("members");
                for id in ids {
                    args.push(id.as_str());
                }
            }
            Mend::Told(actor, members) => {
                args.push("told").push(actor.as_str()).push(members.as_str());
            }
        }
        let (word, mut rest) = worded(self.call(Function::Repair, partition, args).await?, "repair")?;
        if word == "again" {
            return Ok(None);
        }
        let mended = rest.next().as_ref().and_then(integer).unwrap_or_default();
        let next = rest.next().and_then(string).unwrap_or_default();
        Ok(Some((u64::try_from(mended).unwrap_or_default(), next)))
    }
}

fn stored(cells: &[Value]) -> Option<Stored> {
    let number = |at: usize| cells.get(at).and_then(integer);
    let small = |at: usize| number(at).and_then(|number| u32::try_from(number).ok());
    let word = cells.get(10).and_then(text)?;
    Some(Stored {
        state: TaskState::from_letter(u8::try_from(number(0)?).ok()?)?,
        is_staged: number(1)? == i64::from(b'S'),
        priority: Priority::from_rank(u8::try_from(number(2)?).ok()?)?,
        attempt: small(4)?,
        retry_count: small(5)?,
        max_retries: small(6)?,
        seq: u64::try_from(number(7)?).ok()?,
        owner: cells.get(8).and_then(text)?.to_owned(),
        is_excepted: cells.get(9).and_then(text) == Some("1"),
        problem: match word {
            "" => None,
            word => Some((Misplaced::read(word)?, cells.get(11).and_then(text)?.to_owned())),
        },
    })
}

fn entry_id(value: &Value, function: &'static str) -> Result<EntryId, StoreError> {
    text(value)
        .and_then(|entry| entry.parse().ok())
        .ok_or(StoreError::Protocol(function))
}

fn is_absent(error: &redis::RedisError) -> bool {
    error.code() == Some("NOGROUP") || error.to_string().contains("no such key")
}

/// A text that a pattern matches literally.
fn glob(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for letter in text.chars() {
        if "*?[]^\\".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}
