//! What stands before a task, for whoever asks why it waits.

use super::reply::{integer, items, string, text};
use super::{Store, StoreError};
use crate::domain::event::EntryId;
use crate::domain::id::Partition;

impl Store {
    /// Who paused a queue, why and when, as JSON; `None` when it is not paused.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn pause_of(&self, partition: Partition, queue: &str) -> Result<Option<String>, StoreError> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys().paused(partition)).arg(queue);
        Ok(string(self.send(&command).await?))
    }

    /// How many tasks of a name run, and how many may; `None` where it has no limit.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn limit_of(&self, partition: Partition, name: &str) -> Result<Option<(u64, u64)>, StoreError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("HGET").arg(self.keys().limits(partition)).arg(name);
        pipeline.cmd("SCARD").arg(self.keys().running(partition, name));
        let mut answers = self.send_all(&pipeline).await?.into_iter();
        // Behind the number may stand that what runs is still being counted.
        let limit = answers.next().and_then(string);
        let most = limit.and_then(|limit| limit.split(' ').next()?.parse().ok());
        let running = answers.next().as_ref().and_then(integer).unwrap_or_default();
        Ok(most.map(|most| (u64::try_from(running).unwrap_or_default(), most)))
    }

    /// The names of the tasks that a replica can run, sorted.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn names_of(&self, partition: Partition, replica: &str) -> Result<Vec<String>, StoreError> {
        let mut names = self.members(&self.keys().can(partition, replica)).await?;
        names.sort_unstable();
        Ok(names)
    }

    /// How many entries of a task stream wait.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn waiting(&self, partition: Partition, stream: &str) -> Result<u64, StoreError> {
        let length = match self.stream_length(&self.keys().behind(partition, stream)).await {
            Err(error) if error.is_wrong_type() => 0,
            length => length?,
        };
        let held = self.task_holders(partition, stream).await?.unwrap_or_default();
        Ok(length.saturating_sub(held.iter().map(|(_, count)| count).sum()))
    }

    /// How many entries of a task stream wait in front of an entry, and whether that is all: counted up to `limit`.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn waiting_before(
        &self,
        partition: Partition,
        stream: &str,
        entry: &EntryId,
        limit: usize,
    ) -> Result<(u64, bool), StoreError> {
        let key = self.keys().behind(partition, stream);
        let mut command = redis::cmd("XINFO");
        command.arg("GROUPS").arg(&key);
        let groups = match self.send(&command).await {
            Ok(groups) => items(groups).unwrap_or_default(),
            // No such stream: nothing waits there.
            Err(StoreError::Refused(_)) => return Ok((0, true)),
            Err(error) => return Err(error),
        };
        let delivered = groups.into_iter().find_map(|group| {
            let fields = items(group)?;
            let field = |name: &str| {
                let mut pairs = fields.chunks_exact(2);
                pairs
                    .find(|pair| text(&pair[0]) == Some(name))
                    .map(|pair| text(&pair[1]))
            };
            (field("name")? == Some("workers")).then(|| field("last-delivered-id")?.map(str::to_owned))?
        });
        let mut command = redis::cmd("XRANGE");
        command
            .arg(&key)
            .arg(format!("({}", delivered.as_deref().unwrap_or("0-0")))
            .arg(format!("({entry}"))
            .arg("COUNT")
            .arg(limit);
        let found = items(self.send(&command).await?).ok_or(StoreError::Protocol("XRANGE"))?;
        let ids = found
            .into_iter()
            .filter_map(|row| items(row)?.into_iter().next().and_then(string));
        let count = ids.count();
        Ok((count as u64, count < limit))
    }
}
