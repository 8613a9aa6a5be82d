//! The calls of housekeeping: forgetting what was kept for long enough, noticing that Redis lost its last moments, and
//! how much memory it has left.

use std::time::Duration;

use redis::Value;

use super::connection::Args;
use super::library::Function;
use super::reply::{integer, items, string, worded};
use super::{Store, StoreError};
use crate::domain::id::{Partition, ReplicaId};

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Events, and with the last event of its life the record of a task.
    pub age: Duration,
    /// The most events of a partition; the limit that is reached first counts.
    pub max_events: u64,
    /// Dead letters.
    pub dead_letters: Duration,
}

impl Default for Retention {
    /// A day, a million events, and thirty days for dead letters.
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            age: DAY,
            max_events: 1_000_000,
            dead_letters: DAY * 30,
        }
    }
}

/// What one call removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trimmed {
    /// Events.
    pub events: u64,
    /// Tasks that went with them.
    pub tasks: u64,
    /// Dead letters whose time was over.
    pub dead_letters: u64,
    /// Whether there is more to remove.
    pub is_more: bool,
}

/// How far back a partition's log reaches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Horizon {
    /// The last entry that was removed; `None` while all is there.
    pub trimmed_to: Option<String>,
    /// How many events were removed.
    pub events: u64,
    /// How many tasks went with them.
    pub tasks: u64,
    /// How often Redis was found to have lost its last moments.
    pub cuts: u64,
    /// By how much its clock went back altogether, in milliseconds.
    pub went_back_ms: u64,
}

/// What a replica remembers of a partition's log, to find out whether it is still there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remembered {
    /// The entry id of the newest event; empty before the first look.
    pub entry_id: String,
    /// Its `event_id`.
    event_id: String,
    /// When and by whom the keys were made.
    foundation: String,
    /// How many cuts were announced until then.
    cuts: u64,
}

/// The log ends before an event that somebody saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The newest event that was left, `0-0` when none.
    pub now_at: String,
    /// Whether this call put it on the log; else another did.
    pub is_announced: bool,
}

impl Store {
    /// Removes up to `limit` events, with their tasks, and up to `limit` dead letters, where they were kept for long
    /// enough; `None` when nobody knows the replica. Without `retention` what other replicas last said counts.
    /// `is_memory_short` has new tasks refused for the next seconds.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn trim(
        &self,
        partition: Partition,
        replica: ReplicaId,
        retention: Option<&Retention>,
        limit: u32,
        is_memory_short: bool,
    ) -> Result<Option<Trimmed>, StoreError> {
        let mut args = Args::default();
        args.show(replica);
        match retention {
            Some(kept) => args
                .show(kept.age.as_millis())
                .show(kept.max_events)
                .show(kept.dead_letters.as_millis()),
            None => args.push("").push("").push(""),
        };
        args.show(limit).flag(is_memory_short);
        let (word, mut rest) = worded(self.call(Function::Trim, partition, args).await?, "trim")?;
        if word == "stranger" {
            return Ok(None);
        }
        let mut count = || {
            let number = rest.next().as_ref().and_then(integer);
            number
                .and_then(|number| u64::try_from(number).ok())
                .ok_or(StoreError::Protocol("trim"))
        };
        let (events, tasks, dead_letters) = (count()?, count()?, count()?);
        Ok(Some(Trimmed {
            events,
            tasks,
            dead_letters,
            is_more: rest.next().and_then(string).as_deref() == Some("1"),
        }))
    }

    /// Compares what is remembered of a partition's log with what is there, and remembers anew. A cut, when what was
    /// remembered is gone and nobody removed it.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn recall(
        &self,
        partition: Partition,
        replica: ReplicaId,
        remembered: &mut Remembered,
    ) -> Result<Option<Cut>, StoreError> {
        let mut args = Args::default();
        args.show(replica)
            .push(remembered.entry_id.as_str())
            .push(remembered.event_id.as_str())
            .push(remembered.foundation.as_str())
            .show(remembered.cuts);
        let (word, rest) = worded(self.call(Function::Recall, partition, args).await?, "recall")?;
        if word == "stranger" {
            // Whoever is not known joins anew, and asks again then.
            return Ok(None);
        }
        let mut cuts = 0;
        let mut texts = Vec::new();
        for value in rest {
            match integer(&value) {
                Some(number) if matches!(value, Value::Int(_)) => cuts = u64::try_from(number).unwrap_or_default(),
                _ => texts.push(string(value).ok_or(StoreError::Protocol("recall"))?),
            }
        }
        let [entry_id, event_id, foundation, now_at, announced] =
            <[String; 5]>::try_from(texts).map_err(|_| StoreError::Protocol("recall"))?;
        *remembered = Remembered {
            entry_id,
            event_id,
            foundation,
            cuts,
        };
        Ok((word == "rolled_back").then_some(Cut {
            now_at,
            is_announced: announced == "1",
        }))
    }

    /// How far back a partition's log reaches.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn horizon(&self, partition: Partition) -> Result<Horizon, StoreError> {
        let mut command = redis::cmd("HMGET");
        command.arg(self.keys().meta(partition)).arg(&[
            "trimmed_to",
            "trimmed_events",
            "trimmed_tasks",
            "cuts",
            "went_back_ms",
        ]);
        let mut values = items(self.send(&command).await?)
            .ok_or(StoreError::Protocol("HMGET"))?
            .into_iter();
        let trimmed_to = values.next().and_then(string);
        let mut count = || {
            let number = values.next().and_then(string);
            number.and_then(|number| number.parse().ok()).unwrap_or_default()
        };
        Ok(Horizon {
            trimmed_to,
            events: count(),
            tasks: count(),
            cuts: count(),
            went_back_ms: count(),
        })
    }

    /// How much of its memory Redis uses, as a fraction; `None` where it has no limit.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`], such as [`StoreError::Refused`] for a user that may not ask.
    pub async fn memory_used(&self) -> Result<Option<f64>, StoreError> {
        let text = string(self.send(redis::cmd("INFO").arg("memory")).await?).ok_or(StoreError::Protocol("INFO"))?;
        Ok(fraction_used(&text))
    }
}

/// `used_memory` by `maxmemory` in what `INFO memory` says; `None` without a limit.
fn fraction_used(info: &str) -> Option<f64> {
    let number = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<f64>().ok())
    };
    let limit = number("maxmemory").filter(|limit| *limit > 0.0)?;
    Some(number("used_memory")? / limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_used_is_a_fraction_of_the_limit_and_nothing_without_one() {
        let info = |limit| format!("# Memory\r\nused_memory:750\r\nused_memory_rss:9\r\nmaxmemory:{limit}\r\n");

        assert_eq!(fraction_used(&info(1000)), Some(0.75));
        assert_eq!(fraction_used(&info(0)), None);
        assert_eq!(fraction_used(""), None);
    }
}
