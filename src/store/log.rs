//! Reads the log of lifecycle events.

use super::connection::Blocking;
use super::inbound::{Entry, entries, wait_behind};
use super::reply::{items, string};
use super::{Store, StoreError};
use crate::domain::event::Event;
use crate::domain::id::Partition;

/// The events of some entries; an entry that is none is left out, since anybody may write to a stream.
fn events(entries: Vec<Entry>) -> Vec<Event> {
    entries
        .into_iter()
        .filter_map(|entry| Event::from_fields(&entry.id, &entry.borrowed()).ok())
        .collect()
}

impl Store {
    /// Up to `count` events of a partition after the entry `after` (`0` for all), oldest first.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn events_after(
        &self,
        partition: Partition,
        after: &str,
        count: usize,
    ) -> Result<Vec<Event>, StoreError> {
        Ok(self.read_log(partition, after, count).await?.1)
    }

    /// As [`Store::events_after`], with the id to continue from: an entry that is no event counts too.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn read_log(
        &self,
        partition: Partition,
        after: &str,
        count: usize,
    ) -> Result<(String, Vec<Event>), StoreError> {
        let mut command = redis::cmd("XRANGE");
        command
            .arg(self.keys().events(partition))
            .arg(format!("({after}"))
            .arg("+")
            .arg("COUNT")
            .arg(count);
        let found = entries(self.send(&command).await?).ok_or(StoreError::Protocol("XRANGE"))?;
        let last = found.last().map_or(after, |entry| &entry.id).to_owned();
        Ok((last, events(found)))
    }

    /// Up to `count` events of a partition before the entry `before` (`+` for the newest), newest first.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn events_before(
        &self,
        partition: Partition,
        before: &str,
        count: usize,
    ) -> Result<Vec<Event>, StoreError> {
        Ok(self.read_log_back(partition, before, count).await?.2)
    }

    /// As [`Store::events_before`], with the id to continue from and how many entries were read: one that is no event
    /// counts too.
    pub(super) async fn read_log_back(
        &self,
        partition: Partition,
        before: &str,
        count: usize,
    ) -> Result<(String, usize, Vec<Event>), StoreError> {
        let end = if before == "+" {
            before.to_owned()
        } else {
            format!("({before}")
        };
        let mut command = redis::cmd("XREVRANGE");
        command
            .arg(self.keys().events(partition))
            .arg(end)
            .arg("-")
            .arg("COUNT")
            .arg(count);
        let found = entries(self.send(&command).await?).ok_or(StoreError::Protocol("XREVRANGE"))?;
        let last = found.last().map_or(before, |entry| &entry.id).to_owned();
        Ok((last, found.len(), events(found)))
    }

    /// The id of the last entry of a partition's log, `0-0` while it is empty.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn last_event_id(&self, partition: Partition) -> Result<String, StoreError> {
        let mut command = redis::cmd("XREVRANGE");
        command
            .arg(self.keys().events(partition))
            .arg("+")
            .arg("-")
            .arg("COUNT")
            .arg(1);
        let found = entries(self.send(&command).await?).ok_or(StoreError::Protocol("XREVRANGE"))?;
        Ok(found.into_iter().next().map_or("0-0".to_owned(), |entry| entry.id))
    }

    /// Waits for events after the entry `after`; the id to continue from, and what came.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn follow_events(
        &self,
        reader: &mut Blocking,
        partition: Partition,
        after: &str,
    ) -> Result<(String, Vec<Event>), StoreError> {
        let news = wait_behind(reader, &[(self.keys().events(partition), after.to_owned())]).await?;
        let found: Vec<Entry> = news.into_iter().flat_map(|(_, entries)| entries).collect();
        let last = found.last().map_or(after, |entry| &entry.id).to_owned();
        Ok((last, events(found)))
    }

    /// Waits until some partition has events after its entry.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn wait_for_events(
        &self,
        reader: &mut Blocking,
        places: &[(Partition, String)],
    ) -> Result<(), StoreError> {
        let streams: Vec<(String, String)> = places
            .iter()
            .map(|(partition, after)| (self.keys().events(*partition), after.clone()))
            .collect();
        wait_behind(reader, &streams).await.map(drop)
    }

    /// Makes a consumer group on a partition's log where it is missing; it begins at `from` (`0` for all, `$` for new).
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn make_subscription(&self, partition: Partition, group: &str, from: &str) -> Result<(), StoreError> {
        let mut command = redis::cmd("XGROUP");
        command
            .arg("CREATE")
            .arg(self.keys().events(partition))
            .arg(group)
            .arg(from)
            .arg("MKSTREAM");
        match self.send(&command).await {
            Err(StoreError::Refused(error)) if error.code() == Some("BUSYGROUP") => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Reads events for a group: those delivered to `consumer` and not acknowledged after `own`, or new ones when `own`
    /// is `None` (waiting for them). Entries that are no events are answered as ids, to be acknowledged.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn read_subscription(
        &self,
        reader: &mut Blocking,
        partition: Partition,
        group: &str,
        consumer: &str,
        own: Option<&str>,
    ) -> Result<(Vec<String>, Vec<Event>), StoreError> {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(group).arg(consumer).arg("COUNT").arg(100);
        if own.is_none() {
            command.arg("BLOCK").arg(reader.wait_ms());
        }
        command
            .arg("STREAMS")
            .arg(self.keys().events(partition))
            .arg(own.unwrap_or(">"));
        let answer = items(reader.send(&command).await?).ok_or(StoreError::Protocol("XREADGROUP"))?;
        let Some(stream) = answer.into_iter().next() else {
            return Ok((Vec::new(), Vec::new()));
        };
        let found = items(stream)
            .and_then(|pair| pair.into_iter().nth(1))
            .and_then(entries)
            .ok_or(StoreError::Protocol("XREADGROUP"))?;
        let ids = found.iter().map(|entry| entry.id.clone()).collect();
        Ok((ids, events(found)))
    }

    /// Acknowledges events for a group. They stay in the log: other groups read it too.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn acknowledge_events(
        &self,
        partition: Partition,
        group: &str,
        ids: &[String],
    ) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("XACK");
        command.arg(self.keys().events(partition)).arg(group).arg(ids);
        self.send(&command).await.map(drop)
    }

    /// The names in a set.
    pub(super) async fn members(&self, key: &str) -> Result<Vec<String>, StoreError> {
        let names = items(self.send(redis::cmd("SMEMBERS").arg(key)).await?).ok_or(StoreError::Protocol("SMEMBERS"))?;
        Ok(names.into_iter().filter_map(string).collect())
    }
}
