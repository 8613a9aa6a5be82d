//! What a benchmark asks of the server: what it spent, what things weigh, and what bare commands would have cost.
//!
//! The only reads and writes here that no replica ever does. [`Store::remove_everything`] stays under the prefix of
//! its store.

use std::collections::BTreeMap;

use serde::Serialize;

use super::reply::{integer, items, string};
use super::{Store, StoreError};
use crate::domain::id::Partition;

/// Calls commands in an empty loop.
const FLOOR: &str = include_str!("lua/floor.lua");

/// The commands of some tasks: how often each was called, and how many elements the calls carried together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FloorPlan {
    /// Calls by command, in lower case; those of `XADD` follow from the entries below.
    pub calls: BTreeMap<String, u64>,
    /// Triggers published.
    pub triggers: u64,
    /// Entries put into queues.
    pub queued: u64,
    /// Events logged.
    pub events: u64,
    /// Triggers read, acknowledged and removed.
    pub read_triggers: u64,
    /// Queue entries read, acknowledged and removed.
    pub read_queue: u64,
    /// Records whose existence was asked for.
    pub checked: u64,
    /// Records read.
    pub loaded: u64,
    /// Records written.
    pub saved: u64,
}

impl FloorPlan {
    /// Slice number `number` of `count`, from 0; all slices together are the whole.
    #[must_use]
    pub fn slice(&self, number: u64, count: u64) -> Self {
        let part = |whole: u64| whole * (number + 1) / count - whole * number / count;
        Self {
            calls: self
                .calls
                .iter()
                .map(|(command, calls)| (command.clone(), part(*calls)))
                .collect(),
            triggers: part(self.triggers),
            queued: part(self.queued),
            events: part(self.events),
            read_triggers: part(self.read_triggers),
            read_queue: part(self.read_queue),
            checked: part(self.checked),
            loaded: part(self.loaded),
            saved: part(self.saved),
        }
    }
}

/// Texts of the size that a benchmark's tasks have.
#[derive(Debug, Clone)]
pub struct FloorTexts<'a> {
    /// The payload of a trigger.
    pub trigger: &'a str,
    /// The payload of an event.
    pub event: &'a str,
    /// A task's record.
    pub record: &'a str,
}

impl Store {
    /// The CPU time that the server has used, user and system, in microseconds.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn server_cpu_us(&self) -> Result<f64, StoreError> {
        let info = self.server_info("cpu").await?;
        let seconds = |name| info.get(name).and_then(|text: &String| text.parse::<f64>().ok());
        let sum = seconds("used_cpu_user").zip(seconds("used_cpu_sys"));
        sum.map(|(user, system)| (user + system) * 1e6)
            .ok_or(StoreError::Protocol("INFO"))
    }

    /// How often each command was called since the server started, also by functions. Subcommands count as their
    /// command.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn command_calls(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let mut calls = BTreeMap::new();
        for (name, text) in self.server_info("commandstats").await? {
            let Some(name) = name.strip_prefix("cmdstat_") else {
                continue;
            };
            let command = name.split('|').next().unwrap_or(name);
            let count = text
                .strip_prefix("calls=")
                .and_then(|rest| rest.split(',').next()?.parse::<u64>().ok())
                .ok_or(StoreError::Protocol("INFO"))?;
            *calls.entry(command.to_owned()).or_default() += count;
        }
        Ok(calls)
    }

    /// The memory that the server has allocated, in bytes.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn used_memory_bytes(&self) -> Result<u64, StoreError> {
        let info = self.server_info("memory").await?;
        info.get("used_memory")
            .and_then(|text| text.parse().ok())
            .ok_or(StoreError::Protocol("INFO"))
    }

    /// How many objects wait to be freed in the background.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn objects_to_free(&self) -> Result<u64, StoreError> {
        let info = self.server_info("memory").await?;
        info.get("lazyfree_pending_objects")
            .and_then(|text| text.parse().ok())
            .ok_or(StoreError::Protocol("INFO"))
    }

    /// What several keys weigh together with all that they hold, in bytes.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn keys_bytes(&self, keys: &[String]) -> Result<u64, StoreError> {
        if keys.is_empty() {
            return Ok(0);
        }
        let mut pipeline = redis::pipe();
        for key in keys {
            pipeline.cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(0);
        }
        let weights = self.send_all(&pipeline).await?;
        Ok(weights
            .iter()
            .filter_map(|weight| u64::try_from(integer(weight)?).ok())
            .sum())
    }

    /// Keeps the server from rewriting its append-only file; for a server of one's own.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn never_rewrite(&self) -> Result<(), StoreError> {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg("auto-aof-rewrite-percentage").arg(0);
        self.send(&command).await.map(drop)
    }

    /// Calls the commands of a plan in an empty loop on keys of its own; `records` are the numbers of its records.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn run_floor(
        &self,
        plan: &FloorPlan,
        texts: &FloorTexts<'_>,
        records: std::ops::Range<u64>,
    ) -> Result<(), StoreError> {
        let plan = serde_json::to_string(plan).map_err(|_| StoreError::Protocol("EVAL"))?;
        let mut command = redis::cmd("EVAL");
        command
            .arg(FLOOR)
            .arg(1)
            .arg(self.keys().scratch(Partition::default()))
            .arg(plan)
            .arg(texts.trigger)
            .arg(texts.event)
            .arg(texts.record)
            .arg(records.start)
            .arg(records.end);
        self.send(&command).await.map(drop)
    }

    /// Removes every key under the prefix; answers how many there were.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn remove_everything(&self) -> Result<u64, StoreError> {
        const WRONG: StoreError = StoreError::Protocol("SCAN");
        let pattern = self.keys().everything();
        let mut removed = 0;
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1000);
            let mut answer = items(self.send(&scan).await?).ok_or(WRONG)?.into_iter();
            cursor = answer.next().and_then(string).ok_or(WRONG)?;
            let keys: Vec<String> = answer
                .next()
                .and_then(items)
                .ok_or(WRONG)?
                .into_iter()
                .filter_map(string)
                .collect();
            let mut pipeline = redis::pipe();
            for key in &keys {
                // One each: the keys may lie in different cluster slots.
                pipeline.cmd("UNLINK").arg(key);
            }
            if !keys.is_empty() {
                let unlinked = self.send_all(&pipeline).await?;
                removed += unlinked.iter().filter(|count| integer(count) == Some(1)).count() as u64;
            }
            if cursor == "0" {
                return Ok(removed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slices_of_a_plan_add_up() {
        let plan = FloorPlan {
            calls: BTreeMap::from([("mset".to_owned(), 7)]),
            triggers: 10,
            saved: 31,
            ..FloorPlan::default()
        };

        let slices: Vec<FloorPlan> = (0..4).map(|number| plan.slice(number, 4)).collect();

        assert_eq!(slices.iter().map(|slice| slice.triggers).sum::<u64>(), 10);
        assert_eq!(slices.iter().map(|slice| slice.saved).sum::<u64>(), 31);
        assert_eq!(slices.iter().map(|slice| slice.calls["mset"]).sum::<u64>(), 7);
    }
}
