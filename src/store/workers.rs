//! What workers do and did: the figures that replicas report, and the tasks that Redis says are running.
//!
//! A replica sends the figures of all its workers as one string. Those are up to a few seconds old, so which task a
//! worker runs is not taken from them but from the pending lists: that is what really runs.

use std::collections::BTreeMap;

use super::record::{HEADER_BYTES, OWNER, Record, SLOT};
use super::reply::{bytes, items, string, text};
use super::{Store, StoreError};
use crate::domain::id::{Partition, TaskId};
use crate::domain::state::TaskState;
use crate::domain::worker::WorkerState;

/// What one worker of a replica did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Its number.
    pub slot: u16,
    /// What it does right now.
    pub state: WorkerState,
    /// Tasks that it completed.
    pub completed: u64,
    /// Attempts that it saw fail.
    pub failed: u64,
    /// How long those took.
    pub ended_ms: u64,
    /// How long it was busy, also with what it runs now.
    pub busy_ms: u64,
    /// How long it has been there.
    pub uptime_ms: u64,
}

impl Figures {
    /// Those of a worker that did nothing yet.
    #[must_use]
    pub const fn new(slot: u16) -> Self {
        Self {
            slot,
            state: WorkerState::Idle,
            completed: 0,
            failed: 0,
            ended_ms: 0,
            busy_ms: 0,
            uptime_ms: 0,
        }
    }

    /// How long a task took on average, in seconds; `None` before the first.
    #[must_use]
    pub fn average_seconds(&self) -> Option<f64> {
        let count = self.completed + self.failed;
        (count > 0).then(|| as_float(self.ended_ms) / 1000.0 / as_float(count))
    }

    /// Which part of the tasks failed, from 0 to 1.
    #[must_use]
    pub fn error_rate(&self) -> f64 {
        as_float(self.failed) / as_float((self.completed + self.failed).max(1))
    }

    /// Which part of the time it was busy, in percent.
    #[must_use]
    pub fn utilization_percentage(&self) -> f64 {
        let part = as_float(self.busy_ms) * 100.0 / as_float(self.uptime_ms.max(1));
        part.min(100.0)
    }

    /// How long it has been there, in seconds.
    #[must_use]
    pub fn uptime_seconds(&self) -> f64 {
        as_float(self.uptime_ms) / 1000.0
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts and milliseconds stay far below 2^53")]
const fn as_float(count: u64) -> f64 {
    count as f64
}

/// What a replica reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// Its name.
    pub replica: String,
    /// Whether it takes no more tasks.
    pub is_draining: bool,
    /// How many workers it has.
    pub workers: u16,
    /// The fewest that it may have.
    pub min_workers: u16,
    /// The most that it may have.
    pub max_workers: u16,
    /// Whether it moves between the two by itself.
    pub autoscale: bool,
    /// The number of the last wish that it carried out.
    pub applied: u64,
    /// When it joined, RFC 3339.
    pub started_at: Option<String>,
    /// When the figures were reported, ms since the epoch.
    pub figures_ms: i64,
    /// Its workers, by number.
    pub figures: Vec<Figures>,
}

/// Figures as one string: seven words a worker, and a comma in between.
#[must_use]
pub fn pack(figures: &[Figures]) -> String {
    let rows: Vec<String> = figures
        .iter()
        .map(|one| {
            let letter = one.state.letter();
            let (slot, completed, failed) = (one.slot, one.completed, one.failed);
            let (ended_ms, busy_ms, uptime_ms) = (one.ended_ms, one.busy_ms, one.uptime_ms);
            format!("{slot} {letter} {completed} {failed} {ended_ms} {busy_ms} {uptime_ms}")
        })
        .collect();
    rows.join(",")
}

/// Figures read back; what can not be read is left out.
#[must_use]
pub fn unpack(text: &str) -> Vec<Figures> {
    let one = |row: &str| {
        let mut words = row.split(' ');
        let slot = words.next()?.parse().ok()?;
        let state = WorkerState::from_letter(words.next()?.chars().next()?)?;
        let mut number = || words.next()?.parse().ok();
        Some(Figures {
            slot,
            state,
            completed: number()?,
            failed: number()?,
            ended_ms: number()?,
            busy_ms: number()?,
            uptime_ms: number()?,
        })
    };
    text.split(',').filter_map(one).collect()
}

/// How many pending entries are read at once.
const PENDING_BATCH: usize = 500;

impl Store {
    /// What the replicas with workers report, by name.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn reported(&self) -> Result<Vec<Reported>, StoreError> {
        let home = Partition::default();
        let replicas: Vec<String> = self.beats(home).await?.into_keys().collect();
        if replicas.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for replica in &replicas {
            pipeline.cmd("HGETALL").arg(self.keys().replica_named(home, replica));
            pipeline.cmd("GET").arg(self.keys().figures(home, replica));
        }
        let answers = self.send_all(&pipeline).await?;
        let mut found = Vec::new();
        for (replica, answer) in replicas.into_iter().zip(answers.chunks_exact(2)) {
            let mut texts = items(answer[0].clone())
                .unwrap_or_default()
                .into_iter()
                .filter_map(string);
            let mut fields: BTreeMap<String, String> = BTreeMap::new();
            while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
                fields.insert(name, value);
            }
            let count = |name: &str| fields.get(name).and_then(|text| text.parse::<u16>().ok());
            // A program that takes tasks by hand has none.
            let Some(workers) = count("workers").filter(|workers| *workers > 0) else {
                continue;
            };
            let packed = text(&answer[1]).unwrap_or_default();
            let (figures_ms, packed) = packed.split_once(' ').unwrap_or_default();
            found.push(Reported {
                is_draining: fields.get("state").is_some_and(|state| state == "draining"),
                workers,
                min_workers: count("min").unwrap_or(1),
                max_workers: count("max").unwrap_or(workers),
                autoscale: fields.get("autoscale").is_some_and(|flag| flag == "1"),
                applied: fields.get("applied").and_then(|text| text.parse().ok()).unwrap_or(0),
                started_at: fields.get("started_at").cloned(),
                figures_ms: figures_ms.parse().unwrap_or(0),
                figures: unpack(packed),
                replica,
            });
        }
        Ok(found)
    }

    /// The tasks that run, by replica and slot. Those that programs took by hand are among them.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn running_tasks(&self) -> Result<BTreeMap<(String, u16), TaskId>, StoreError> {
        let mut found = BTreeMap::new();
        for partition in self.partitions() {
            for stream in self.task_streams(partition).await? {
                let stream = self.keys().behind(partition, &stream);
                let mut after = "-".to_owned();
                loop {
                    let pending = self.pending_ids(&stream, &after).await?;
                    let tasks = self.tasks_of_entries(&stream, &pending).await?;
                    self.note_owners(&tasks, &mut found).await?;
                    match pending.last() {
                        Some(last) if pending.len() == PENDING_BATCH => after = format!("({last}"),
                        _ => break,
                    }
                }
            }
        }
        Ok(found)
    }

    /// Some of the tasks that run, up to `limit`: of each queue those that entered it first.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn running_sample(&self, limit: usize) -> Result<Vec<Record>, StoreError> {
        let mut found = Vec::new();
        for partition in self.partitions() {
            for stream in self.task_streams(partition).await? {
                let stream = self.keys().behind(partition, &stream);
                let mut pending = self.pending_ids(&stream, "-").await?;
                pending.truncate(limit);
                let ids = self.tasks_of_entries(&stream, &pending).await?;
                let records = self.tasks(&ids).await?.into_iter().flatten();
                found.extend(records.filter(|record| record.state == TaskState::Running));
            }
        }
        found.sort_by_key(|record| record.started_ms);
        found.truncate(limit);
        Ok(found)
    }

    /// The ids of entries that are delivered and not finished.
    async fn pending_ids(&self, stream: &str, after: &str) -> Result<Vec<String>, StoreError> {
        let mut command = redis::cmd("XPENDING");
        command
            .arg(stream)
            .arg("workers")
            .arg(after)
            .arg("+")
            .arg(PENDING_BATCH);
        let rows = match self.send(&command).await {
            // A queue whose streams somebody removed has nothing that runs.
            Err(StoreError::Refused(_)) => return Ok(Vec::new()),
            answer => items(answer?).ok_or(StoreError::Protocol("XPENDING"))?,
        };
        let id = |row| items(row).and_then(|row| row.into_iter().next()).and_then(string);
        Ok(rows.into_iter().filter_map(id).collect())
    }

    async fn tasks_of_entries(&self, stream: &str, ids: &[String]) -> Result<Vec<TaskId>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for id in ids {
            pipeline.cmd("XRANGE").arg(stream).arg(id).arg(id);
        }
        let answers = self.send_all(&pipeline).await?;
        let task = |answer| {
            let entry = super::inbound::entries(answer)?.into_iter().next()?;
            let (_, id) = entry.fields.into_iter().next()?;
            std::str::from_utf8(&id).ok()?.parse().ok()
        };
        Ok(answers.into_iter().filter_map(task).collect())
    }

    async fn note_owners(
        &self,
        tasks: &[TaskId],
        found: &mut BTreeMap<(String, u16), TaskId>,
    ) -> Result<(), StoreError> {
        if tasks.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for task in tasks {
            pipeline
                .cmd("GETRANGE")
                .arg(self.keys().task(*task))
                .arg(0)
                .arg(HEADER_BYTES - 1);
        }
        for (task, answer) in tasks.iter().zip(self.send_all(&pipeline).await?) {
            let header = bytes(&answer).filter(|header| header.len() == HEADER_BYTES && header[0] == b'R');
            let Some(header) = header else { continue };
            if let Ok(owner) = std::str::from_utf8(&header[OWNER]) {
                let slot = u16::from_be_bytes([header[SLOT.start], header[SLOT.start + 1]]);
                found.insert((owner.to_owned(), slot), *task);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_back_as_they_were() {
        let figures: Vec<Figures> = WorkerState::ALL
            .into_iter()
            .zip(0..)
            .map(|(state, slot)| Figures {
                slot,
                state,
                completed: 7,
                failed: 1,
                ended_ms: 1_234_000,
                busy_ms: 1_234_567,
                uptime_ms: 86_400_000,
            })
            .collect();

        assert_eq!(unpack(&pack(&figures)), figures);
        assert_eq!(unpack(""), []);
    }
}
