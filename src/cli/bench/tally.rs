//! Reads the whole log after a run: did every task live exactly one life, and when did things happen?
//!
//! The moments are those of the entries, so all come from the clock of Redis. A function's entries carry the moment of
//! its call.

use std::collections::HashMap;
use std::time::Duration;

use crate::cli::exit::Failure;
use crate::domain::event::{Event, EventType};
use crate::domain::id::{Partition, TaskId};
use crate::store::document::StatisticsDocument;
use crate::store::{Store, StoreError};

/// How many violations are told one by one.
const TOLD_MAX: usize = 5;

/// How often the events of one task were found.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    created: u32,
    started: u32,
    completed: u32,
    others: u32,
    last_seq: u64,
    has_gap: bool,
}

impl Seen {
    const fn is_one_life(self) -> bool {
        self.created == 1
            && self.started == 1
            && self.completed == 1
            && self.others == 0
            && self.last_seq == 3
            && !self.has_gap
    }

    const fn is_pending(self) -> bool {
        self.created == 1 && self.started == 0 && self.completed == 0 && self.others == 0 && self.last_seq == 1
    }
}

/// The earliest and the latest of some moments, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span(Option<(u64, u64)>);

impl Span {
    pub(super) fn add(&mut self, moment: u64) {
        let (first, last) = self.0.unwrap_or((moment, moment));
        self.0 = Some((first.min(moment), last.max(moment)));
    }

    /// Whether there is no moment.
    pub(super) const fn is_empty(self) -> bool {
        self.0.is_none()
    }

    /// The time from the first moment here to the last one of `end`.
    pub(super) fn until(self, end: Self) -> Duration {
        let time = self
            .0
            .zip(end.0)
            .map(|((first, _), (_, last))| last.saturating_sub(first));
        Duration::from_millis(time.unwrap_or_default())
    }
}

/// What the log says.
#[derive(Debug, Default)]
pub(super) struct Tally {
    tasks: HashMap<TaskId, Seen>,
    /// When triggers were published, by their entry ids.
    pub(super) triggered: Span,
    /// When tasks were created.
    pub(super) created: Span,
    /// When tasks were started.
    pub(super) started: Span,
    /// When tasks completed.
    pub(super) completed: Span,
    /// Each start: the moment and the replica.
    pub(super) starts: Vec<(u64, String)>,
    /// When each replica joined.
    pub(super) joined: Vec<(u64, String)>,
}

impl Tally {
    /// Reads the log from its first entry to its last.
    pub(super) async fn read(store: &Store) -> Result<Self, Failure> {
        let mut tally = Self::default();
        each_event(store, |event| tally.add(event)).await?;
        Ok(tally)
    }

    fn add(&mut self, event: &Event) {
        let moment = moment(&event.entry_id);
        let kind = event.event_type.as_str();
        let speaker = event.source_agent.rsplit('/').next().unwrap_or_default();
        if kind == EventType::WorkerPoolStatus.as_str() {
            if event.payload.get().contains("\"state\":\"joined\"") {
                self.joined.push((moment, speaker.to_owned()));
            }
            return;
        }
        let Ok(task) = event.subject().parse::<TaskId>() else {
            return;
        };
        let seen = self.tasks.entry(task).or_default();
        seen.has_gap |= event.seq() != seen.last_seq + 1;
        seen.last_seq = event.seq();
        if kind == EventType::TaskCreated.as_str() {
            seen.created += 1;
            self.created.add(moment);
            // Triggers without an id of their own have that of their entry.
            self.triggered.add(self::moment(&event.causation_id));
        } else if kind == EventType::TaskStarted.as_str() {
            seen.started += 1;
            self.started.add(moment);
            self.starts.push((moment, speaker.to_owned()));
        } else if kind == EventType::TaskCompleted.as_str() {
            seen.completed += 1;
            self.completed.add(moment);
        } else {
            seen.others += 1;
        }
    }

    /// The tasks that were found.
    pub(super) fn task_ids(&self) -> impl Iterator<Item = TaskId> {
        self.tasks.keys().copied()
    }

    /// Fails unless there are exactly `expected` tasks, each created, started and completed once, and the statistics
    /// agree.
    pub(super) async fn require_completed(&self, store: &Store, expected: u64) -> Result<(), Failure> {
        self.require(store, expected, Seen::is_one_life, |found| {
            (found.completed_count, found.pending_count + found.running_count)
        })
        .await
    }

    /// Fails unless there are exactly `expected` tasks, each created once and nothing else, and the statistics agree.
    pub(super) async fn require_pending(&self, store: &Store, expected: u64) -> Result<(), Failure> {
        self.require(store, expected, Seen::is_pending, |found| {
            (found.pending_count, found.completed_count + found.running_count)
        })
        .await
    }

    async fn require(
        &self,
        store: &Store,
        expected: u64,
        is_right: impl Fn(Seen) -> bool,
        counted: impl Fn(&StatisticsDocument) -> (u64, u64),
    ) -> Result<(), Failure> {
        let mut problems = Vec::new();
        if self.tasks.len() as u64 != expected {
            problems.push(format!("{} tasks in the log, {expected} triggered", self.tasks.len()));
        }
        let mut wrong: Vec<_> = self.tasks.iter().filter(|(_, seen)| !is_right(**seen)).collect();
        wrong.sort_by_key(|(task, _)| **task);
        for (task, seen) in wrong.iter().take(TOLD_MAX) {
            problems.push(format!(
                "task {task}: {} created, {} started, {} completed, {} other events, last seq {}{}",
                seen.created,
                seen.started,
                seen.completed,
                seen.others,
                seen.last_seq,
                if seen.has_gap { " with gaps" } else { "" }
            ));
        }
        if wrong.len() > TOLD_MAX {
            problems.push(format!("{} more tasks like these", wrong.len() - TOLD_MAX));
        }
        let statistics = statistics(store).await?;
        let failed = statistics.failed_count + statistics.timeout_count + statistics.cancelled_count;
        let (here, elsewhere) = counted(&statistics);
        if here != expected || elsewhere != 0 || failed != 0 {
            problems.push(format!(
                "the statistics count {} pending, {} running, {} completed, {failed} failed of {expected}",
                statistics.pending_count, statistics.running_count, statistics.completed_count
            ));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Failure::failed(&format!(
                "the result is wrong, so its numbers mean nothing: {}",
                problems.join("; ")
            )))
        }
    }
}

/// Shows every event of the log, from the first to the last.
pub(super) async fn each_event(store: &Store, mut show: impl FnMut(&Event)) -> Result<(), Failure> {
    const PAGE: usize = 1000;
    let mut after = "0".to_owned();
    loop {
        let page = store.events_after(Partition::default(), &after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after.clone_from(&last.entry_id);
        page.iter().for_each(&mut show);
    }
}

/// The statistics over everyone; all nought before the first replica has joined.
pub(super) async fn statistics(store: &Store) -> Result<StatisticsDocument, Failure> {
    let mut partitions = Vec::new();
    for partition in store.partitions() {
        match store.statistics(partition).await {
            Ok(found) => partitions.push(found),
            Err(StoreError::NotJoined) => {}
            Err(problem) => return Err(problem.into()),
        }
    }
    Ok(StatisticsDocument::sum(&partitions))
}

/// The moment of an entry id, `<ms>-<number>`; 0 for anything else.
pub(super) fn moment(entry_id: &str) -> u64 {
    entry_id
        .split_once('-')
        .and_then(|(ms, _)| ms.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    const TASK: &str = "018f0000-0000-8000-8000-000000000000";

    fn event(entry_id: &str, kind: EventType, seq: u64) -> Event {
        Event {
            entry_id: entry_id.to_owned(),
            event_type: kind.to_string(),
            source_agent: "orchestration-runtime/r-00000001".to_owned(),
            event_id: format!("{TASK}/{seq}"),
            correlation_id: "90-0".to_owned(),
            causation_id: "90-0".to_owned(),
            timestamp: "1970-01-01T00:00:00.100Z".to_owned(),
            payload: RawValue::from_string("{}".to_owned()).unwrap(),
            traceparent: None,
            tracestate: None,
        }
    }

    fn tally(events: &[Event]) -> Tally {
        let mut tally = Tally::default();
        for event in events {
            tally.add(event);
        }
        tally
    }

    #[test]
    fn a_life_is_created_started_completed() {
        let life = [
            event("100-0", EventType::TaskCreated, 1),
            event("110-0", EventType::TaskStarted, 2),
            event("125-0", EventType::TaskCompleted, 3),
        ];
        let is_right = |events: &[Event]| tally(events).tasks.values().all(|seen| seen.is_one_life());

        assert!(is_right(&life));
        assert!(!is_right(&life[..2]));
        assert!(!is_right(&[life[0].clone(), life[2].clone()]));
        let mut twice = life.to_vec();
        twice.push(event("126-0", EventType::TaskCompleted, 4));
        assert!(!is_right(&twice));
    }

    #[test]
    fn times_span_from_the_first_to_the_last() {
        let found = tally(&[
            event("110-0", EventType::TaskStarted, 1),
            event("105-3", EventType::TaskStarted, 2),
            event("125-0", EventType::TaskCompleted, 3),
        ]);

        assert_eq!(found.started.until(found.completed), Duration::from_millis(20));
        assert_eq!(found.created.until(found.completed), Duration::ZERO);
    }
}
