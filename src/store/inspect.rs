//! Looks at tasks and replicas without changing anything.

use std::collections::BTreeMap;

use super::inbound::entries;
use super::record::Record;
use super::reply::{bytes, integer, items, string};
use super::{Store, StoreError};
use crate::domain::id::{Name, Partition, QueueName, TaskId};
use crate::domain::priority::Priority;

/// A failed attempt of a task: JSON of `{attempt, worker_id, started_at, ended_at, error}`.
pub type AttemptNote = String;

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
    /// Any [`StoreError`].
    pub async fn tasks(&self, ids: &[TaskId]) -> Result<Vec<Option<Record>>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        // One GET each: the ids may lie in different cluster slots.
        let mut pipeline = redis::pipe();
        for id in ids {
            pipeline.cmd("GET").arg(self.keys().task(*id));
        }
        let values = self.send_all(&pipeline).await?;
        ids.iter()
            .zip(values)
            .map(|(id, value)| match bytes(&value) {
                Some(raw) => Record::parse(*id, raw)
                    .map(Some)
                    .map_err(|_| StoreError::Protocol("task record")),
                None => Ok(None),
            })
            .collect()
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

    async fn hash(&self, key: &str) -> Result<Vec<(String, String)>, StoreError> {
        let values = self.send(redis::cmd("HGETALL").arg(key)).await?;
        let values = pairs(values).ok_or(StoreError::Protocol("HGETALL"))?;
        Ok(values
            .into_iter()
            .filter_map(|(name, value)| Some((name, String::from_utf8(value).ok()?)))
            .collect())
    }
}

/// Names and values, from a list in turn or from a map.
fn pairs(value: redis::Value) -> Option<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut values = items(value)?.into_iter();
    while let (Some(name), Some(value)) = (values.next(), values.next()) {
        found.push((string(name)?, bytes(&value)?.to_vec()));
    }
    Some(found)
}
