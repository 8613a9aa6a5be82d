//! Looks at tasks and replicas without changing anything.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::inbound::entries;
use super::record::{DamagedRecord, Flags, Record};
use super::reply::{bytes, integer, items, string};
use super::{Store, StoreError};
use crate::domain::id::{Name, Partition, QueueName, TaskId};
use crate::domain::priority::Priority;
use crate::domain::state::TaskState;

/// A failed attempt of a task: JSON of `{attempt, worker_id, started_at, ended_at, error}`.
pub type AttemptNote = String;

/// One task that another waits for or waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// Which.
    pub task_id: TaskId,
    /// What its result is called.
    pub name: String,
    /// Whether it is still waited for.
    pub is_open: bool,
}

/// How many records are read at once for their results: first the fewer, and then as many as are likely to be no more bytes than these.
const INPUTS_AT_FIRST: usize = 64;
const INPUTS_AT_MOST: usize = 1000;
const INPUT_BYTES: usize = 8 << 20;

/// What is kept of a task.
#[derive(Debug)]
pub enum Kept {
    /// Its record.
    Record(Box<Record>),
    /// Nothing, or what its group does not tell of yet.
    Nothing,
    /// Something that is no record; somebody wrote past the functions.
    Damaged,
}

/// Results by name as a JSON object.
#[must_use]
pub fn inputs_json(inputs: Vec<(String, String)>) -> Box<RawValue> {
    let members: Vec<String> = inputs
        .into_iter()
        .map(|(name, result)| format!("{}:{result}", super::record::json_text(&name)))
        .collect();
    RawValue::from_string(format!("{{{}}}", members.join(","))).unwrap_or_default()
}

impl Store {
    /// A task's record, or `None` when there is none (any more).
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn task(&self, id: TaskId) -> Result<Option<Record>, StoreError> {
        Ok(self.tasks(&[id]).await?.pop().flatten())
    }

    /// The records of several tasks, in order.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; [`StoreError::Protocol`] when one of them is damaged.
    pub async fn tasks(&self, ids: &[TaskId]) -> Result<Vec<Option<Record>>, StoreError> {
        let kept = self.kept(ids).await?;
        kept.into_iter()
            .map(|kept| match kept {
                Kept::Record(record) => Ok(Some(*record)),
                Kept::Nothing => Ok(None),
                Kept::Damaged => Err(StoreError::Protocol("task record")),
            })
            .collect()
    }

    /// The same, for those who can do without a record that is damaged.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn kept(&self, ids: &[TaskId]) -> Result<Vec<Kept>, StoreError> {
        match self.kept_in_one_go(ids).await {
            // Under the key of one of them is no record at all.
            Err(error) if error.is_wrong_type() && ids.len() > 1 => {}
            Err(error) if error.is_wrong_type() => return Ok(vec![Kept::Damaged]),
            kept => return kept,
        }
        let mut kept = Vec::with_capacity(ids.len());
        for id in ids {
            kept.push(match self.kept_in_one_go(&[*id]).await {
                Err(error) if error.is_wrong_type() => Kept::Damaged,
                one => one?.pop().unwrap_or(Kept::Nothing),
            });
        }
        Ok(kept)
    }

    async fn kept_in_one_go(&self, ids: &[TaskId]) -> Result<Vec<Kept>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        // One GET each: the ids may lie in different cluster slots.
        let mut pipeline = redis::pipe();
        for id in ids {
            pipeline.cmd("GET").arg(self.keys().task(*id));
        }
        let values = self.send_all(&pipeline).await?;
        let kept = ids.iter().zip(values).map(|(id, value)| match bytes(&value) {
            None => Kept::Nothing,
            Some(raw) => match Record::parse(*id, raw) {
                Ok(record) if record.is_staged => Kept::Nothing,
                Ok(record) => Kept::Record(Box::new(record)),
                Err(DamagedRecord) => Kept::Damaged,
            },
        });
        Ok(kept.collect())
    }

    /// What a task waits for or waited for: the task, the name of the input, and whether it is still waited for.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn dependencies(&self, id: TaskId) -> Result<Vec<Dependency>, StoreError> {
        let fields = self.hash(&self.keys().dependencies(id)).await?;
        let mut found: Vec<Dependency> = fields
            .into_iter()
            .filter_map(|(field, value)| {
                Some(Dependency {
                    task_id: field.parse().ok()?,
                    is_open: value.starts_with('1'),
                    name: value.get(1..)?.to_owned(),
                })
            })
            .collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// The results of what a task depends on, by name; `null` where there is none.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn inputs(&self, record: &Record) -> Result<Vec<(String, String)>, StoreError> {
        let sources: Vec<(TaskId, String)> = match &record.body.saga {
            Some((saga, _)) if record.flags.has(Flags::IS_STEP) => self.steps_before(saga, record.id).await?,
            _ if record.flags.has(Flags::HAS_DEPENDENCIES) => {
                let found = self.dependencies(record.id).await?;
                found.into_iter().map(|one| (one.task_id, one.name)).collect()
            }
            _ => Vec::new(),
        };
        // What undoes a step is given the result of its late success.
        let undone_in = record.body.saga.as_ref().map(|(saga, _)| saga);
        let undone_in = undone_in.filter(|_| record.flags.has(Flags::IS_COMPENSATION));
        let mut inputs = Vec::with_capacity(sources.len());
        let (mut rest, mut batch, mut read) = (sources.as_slice(), INPUTS_AT_FIRST, 0);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(batch.min(rest.len()));
            rest = later;
            let ids: Vec<TaskId> = now.iter().map(|(id, _)| *id).collect();
            for ((id, name), source) in now.iter().zip(self.tasks(&ids).await?) {
                let result = source
                    .filter(|source| source.state == TaskState::Completed)
                    .and_then(|source| source.tail)
                    .map(|result| result.get().to_owned());
                let result = match (result, undone_in) {
                    (None, Some(saga)) => self.late_result(saga, *id).await?,
                    (result, _) => result,
                };
                let result = result.unwrap_or_else(|| "null".to_owned());
                read += result.len();
                inputs.push((name.clone(), result));
            }
            let each = read.div_ceil(inputs.len()).max(1);
            batch = (INPUT_BYTES / each).clamp(1, INPUTS_AT_MOST);
        }
        Ok(inputs)
    }

    /// The notes on a task's failed attempts, first to last.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn attempt_notes(&self, id: TaskId) -> Result<Vec<AttemptNote>, StoreError> {
        let fields = self.hash(&self.keys().attempts(id)).await?;
        let mut notes: Vec<(u64, String)> = fields
            .into_iter()
            .filter_map(|(name, note)| Some((name.strip_prefix('a')?.parse().ok()?, note)))
            .collect();
        notes.sort_unstable();
        Ok(notes.into_iter().map(|(_, note)| note).collect())
    }

    /// The tasks of a workflow, in order of creation.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn workflow_tasks(&self, workflow: &Name) -> Result<Vec<TaskId>, StoreError> {
        let key = self.keys().group(workflow, self.partition_count());
        let mut command = redis::cmd("LRANGE");
        command.arg(key).arg(0).arg(-1);
        let ids = items(self.send(&command).await?).ok_or(StoreError::Protocol("LRANGE"))?;
        Ok(ids
            .into_iter()
            .filter_map(string)
            .filter_map(|id| id.parse().ok())
            .collect())
    }

    /// The tasks whose entries stand in one queue at one priority, oldest first: those that wait and those that run.
    /// Up to `count` after the entry `after`; with the entry id of each.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn queue_entries(
        &self,
        partition: Partition,
        queue: &QueueName,
        priority: Priority,
        after: &str,
        count: usize,
    ) -> Result<Vec<(String, TaskId)>, StoreError> {
        let mut command = redis::cmd("XRANGE");
        command
            .arg(self.keys().queue(partition, queue, priority))
            .arg(format!("({after}"))
            .arg("+");
        command.arg("COUNT").arg(count);
        let found = entries(self.send(&command).await?).ok_or(StoreError::Protocol("XRANGE"))?;
        Ok(found
            .into_iter()
            .filter_map(|entry| {
                let (_, id) = entry.fields.into_iter().next()?;
                Some((entry.id, std::str::from_utf8(&id).ok()?.parse().ok()?))
            })
            .collect())
    }

    /// How many tasks of a partition are pending, wherever they wait.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn pending_count(&self, partition: Partition) -> Result<u64, StoreError> {
        let mut command = redis::cmd("HMGET");
        command.arg(self.keys().meta(partition)).arg(&["p0", "p1", "p2", "p3"]);
        let counts = items(self.send(&command).await?).ok_or(StoreError::Protocol("HMGET"))?;
        Ok(counts
            .iter()
            .filter_map(|count| u64::try_from(integer(count)?).ok())
            .sum())
    }

    /// The delayed tasks, the next due first.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn delayed_tasks(&self, partition: Partition, count: usize) -> Result<Vec<TaskId>, StoreError> {
        let mut command = redis::cmd("ZRANGE");
        command.arg(self.keys().timers(partition)).arg(0).arg(count);
        let ids = items(self.send(&command).await?).ok_or(StoreError::Protocol("ZRANGE"))?;
        Ok(ids
            .into_iter()
            .filter_map(string)
            .filter_map(|id| id.parse().ok())
            .collect())
    }

    /// When a delayed task is due, ms since the epoch.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn due_ms(&self, id: TaskId) -> Result<Option<i64>, StoreError> {
        let mut command = redis::cmd("ZSCORE");
        command.arg(self.keys().timers(id.partition())).arg(id.to_string());
        #[allow(
            clippy::cast_possible_truncation,
            reason = "a score is a whole number of milliseconds"
        )]
        Ok(string(self.send(&command).await?)
            .and_then(|score| score.parse::<f64>().ok())
            .map(|score| score as i64))
    }

    /// What time it is where tasks are timed, ms since the epoch.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn now_ms(&self) -> Result<i64, StoreError> {
        let parts = items(self.send(&redis::cmd("TIME")).await?).ok_or(StoreError::Protocol("TIME"))?;
        let part = |place: usize| parts.get(place).and_then(integer).ok_or(StoreError::Protocol("TIME"));
        Ok(part(0)?.saturating_mul(1000).saturating_add(part(1)? / 1000))
    }

    /// The queue names of a partition, sorted.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn queue_names(&self, partition: Partition) -> Result<Vec<QueueName>, StoreError> {
        let mut names: Vec<QueueName> = self
            .members(&self.keys().queues(partition))
            .await?
            .into_iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Whether a partition has ever seen a queue, or somebody paused it there.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn knows_queue(&self, partition: Partition, queue: &QueueName) -> Result<bool, StoreError> {
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("SISMEMBER")
            .arg(self.keys().queues(partition))
            .arg(queue.as_str());
        pipeline
            .cmd("HEXISTS")
            .arg(self.keys().paused(partition))
            .arg(queue.as_str());
        pipeline.cmd("HGETALL").arg(self.keys().aside(partition));
        let answers = self.send_all(&pipeline).await?;
        // One whose tasks all wait for others has no stream yet. Its rank is one digit in front of the name.
        let waits_aside = pairs(answers[2].clone()).unwrap_or_default();
        let waits_aside = waits_aside
            .iter()
            .any(|(field, _)| field.get(1..) == Some(queue.as_str()));
        Ok(waits_aside || answers[..2].iter().any(|answer| integer(answer) == Some(1)))
    }

    /// The replicas that are known, with the beat of each.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn beats(&self, partition: Partition) -> Result<BTreeMap<String, String>, StoreError> {
        Ok(self.hash(&self.keys().beats(partition)).await?.into_iter().collect())
    }

    /// One dead letter's fields; none when it does not exist.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn dead_letter(&self, partition: Partition, id: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let values = self
            .send(redis::cmd("HGETALL").arg(self.keys().dead_letter(partition, id)))
            .await?;
        let mut values = pairs(values).ok_or(StoreError::Protocol("HGETALL"))?;
        values.sort();
        Ok(values)
    }

    /// The ids of the newest dead letters.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn dead_letters(&self, partition: Partition, count: usize) -> Result<Vec<String>, StoreError> {
        let mut command = redis::cmd("ZREVRANGE");
        command
            .arg(self.keys().dead(partition))
            .arg(0)
            .arg(count.saturating_sub(1));
        let ids = items(self.send(&command).await?).ok_or(StoreError::Protocol("ZREVRANGE"))?;
        Ok(ids.into_iter().filter_map(string).collect())
    }

    /// The numbers of one section of `INFO` by name.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn server_info(&self, section: &str) -> Result<BTreeMap<String, String>, StoreError> {
        let text = string(self.send(redis::cmd("INFO").arg(section)).await?).unwrap_or_default();
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect())
    }

    pub(super) async fn hash(&self, key: &str) -> Result<Vec<(String, String)>, StoreError> {
        let values = self.send(redis::cmd("HGETALL").arg(key)).await?;
        let values = pairs(values).ok_or(StoreError::Protocol("HGETALL"))?;
        Ok(values
            .into_iter()
            .filter_map(|(name, value)| Some((name, String::from_utf8(value).ok()?)))
            .collect())
    }
}

/// Names and values as text; numbers are shown.
pub(super) fn named_values(value: redis::Value) -> Vec<(String, String)> {
    let mut values = items(value).unwrap_or_default().into_iter();
    let mut found = Vec::new();
    while let (Some(name), Some(value)) = (values.next().and_then(string), values.next()) {
        let shown = integer(&value).map(|number| number.to_string());
        found.push((name, string(value).or(shown).unwrap_or_default()));
    }
    found
}

/// Names and values, from a list in turn or from a map.
pub(super) fn pairs(value: redis::Value) -> Option<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut values = items(value)?.into_iter();
    while let (Some(name), Some(value)) = (values.next(), values.next()) {
        found.push((string(name)?, bytes(&value)?.to_vec()));
    }
    Some(found)
}
