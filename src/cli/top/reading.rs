//! One look at everything that the screen shows.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::domain::priority::Priority;
use crate::domain::worker::WorkerState;
use crate::error::Error;
use crate::runtime::dead_letters::DeadLetters;
use crate::runtime::operate::{QueueStatus, list_queues};
use crate::runtime::overview::{Overview, look};
use crate::store::Store;
use crate::store::document::timestamp;
use crate::store::letter::DeadLetterDocument;
use crate::store::letter_listing::DeadLetterQuery;
use crate::store::record::{Owner, Record};
use crate::store::workers::Reported;

/// How many tasks that run are looked at.
const RUNNING_MAX: usize = 50;
/// How many failures.
const FAILURES_MAX: usize = 20;

/// The deployment at one moment.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Reading {
    /// When it was taken, by the clock of Redis.
    pub(super) taken_at: String,
    pub(super) pending: u64,
    pub(super) ready: u64,
    pub(super) running: u64,
    /// Tasks that ended, and those of them that did without success.
    pub(super) ended: u64,
    pub(super) failed: u64,
    pub(super) ended_per_minute: u64,
    pub(super) average_duration_seconds: Option<f64>,
    pub(super) max_size: u64,
    pub(super) max_running: u64,
    pub(super) dead_letters: u64,
    pub(super) triggers_waiting: u64,
    pub(super) oldest_waiting_seconds: f64,
    pub(super) utilization_percentage: f64,
    pub(super) by_priority: Vec<(&'static str, u64)>,
    pub(super) queues: Vec<QueueLine>,
    pub(super) replicas: Vec<ReplicaLine>,
    pub(super) tasks: Vec<TaskLine>,
    pub(super) failures: Vec<FailureLine>,
}

/// A queue.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct QueueLine {
    pub(super) name: String,
    pub(super) pending_count: u64,
    pub(super) running_count: u64,
    pub(super) by_priority: BTreeMap<&'static str, u64>,
    pub(super) paused: bool,
    pub(super) oldest_waiting_seconds: Option<f64>,
}

/// A replica.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct ReplicaLine {
    pub(super) replica: String,
    pub(super) workers: u16,
    pub(super) busy: usize,
    /// Workers whose last task failed just now.
    pub(super) failing: usize,
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) is_draining: bool,
}

/// A task that runs.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct TaskLine {
    pub(super) task_id: String,
    pub(super) task_name: String,
    pub(super) queue: String,
    pub(super) priority: &'static str,
    pub(super) attempt: u32,
    pub(super) worker: String,
    pub(super) seconds: f64,
}

/// Something that failed for good.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct FailureLine {
    pub(super) dead_letter_id: String,
    pub(super) kind: String,
    pub(super) task_name: Option<String>,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) seconds_ago: f64,
}

/// Looks.
pub(super) async fn read(store: &Store) -> Result<Reading, Error> {
    let overview = look(store).await?;
    let queues = list_queues(store).await?;
    let reported = store.reported().await?;
    let running = if overview.statistics.running_count > 0 {
        store.running_sample(RUNNING_MAX).await?
    } else {
        Vec::new()
    };
    let query = DeadLetterQuery::default();
    let letters = DeadLetters::new(store.clone()).list(&query, FAILURES_MAX, None).await?;
    let now_ms = store.now_ms().await?;
    let mut reading = counts(&overview);
    reading.taken_at = timestamp(now_ms);
    reading.queues = queues.into_iter().map(queue_line).collect();
    reading.replicas = reported.iter().map(replica_line).collect();
    reading.tasks = running.iter().map(|record| task_line(record, now_ms)).collect();
    reading
        .tasks
        .sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
    reading.failures = letters
        .items
        .iter()
        .map(|letter| failure_line(letter, now_ms))
        .collect();
    Ok(reading)
}

fn counts(overview: &Overview) -> Reading {
    let statistics = &overview.statistics;
    let failed = statistics.failed_count + statistics.timeout_count;
    Reading {
        pending: statistics.pending_count,
        ready: overview.ready_tasks,
        running: statistics.running_count,
        ended: statistics.completed_count + statistics.cancelled_count + failed,
        failed,
        ended_per_minute: statistics.throughput_per_minute,
        average_duration_seconds: statistics.average_duration_seconds,
        max_size: statistics.max_size,
        max_running: statistics.max_running,
        dead_letters: statistics.dead_letter_count,
        triggers_waiting: overview.inbound[0].1.waiting,
        oldest_waiting_seconds: overview.oldest_waiting_seconds(),
        utilization_percentage: statistics.worker_pool.utilization_percentage,
        by_priority: Priority::ALL
            .map(|priority| {
                let count = statistics.by_priority.get(priority.as_str());
                (priority.as_str(), count.copied().unwrap_or_default())
            })
            .to_vec(),
        ..Reading::default()
    }
}

fn queue_line(queue: QueueStatus) -> QueueLine {
    QueueLine {
        name: queue.name,
        pending_count: queue.pending_count,
        running_count: queue.running_count,
        by_priority: queue.by_priority,
        paused: queue.paused,
        oldest_waiting_seconds: queue.oldest_waiting_seconds,
    }
}

fn replica_line(reported: &Reported) -> ReplicaLine {
    let figures = &reported.figures;
    let count = |state| figures.iter().filter(|one| one.state == state).count();
    ReplicaLine {
        replica: reported.replica.clone(),
        workers: reported.workers,
        busy: count(WorkerState::Busy),
        failing: count(WorkerState::Error),
        completed: figures.iter().map(|one| one.completed).sum(),
        failed: figures.iter().map(|one| one.failed).sum(),
        is_draining: reported.is_draining,
    }
}

fn seconds_since(ms: i64, now_ms: i64) -> f64 {
    let passed_ms = u64::try_from(now_ms.saturating_sub(ms)).unwrap_or_default();
    Duration::from_millis(passed_ms).as_secs_f64()
}

fn task_line(record: &Record, now_ms: i64) -> TaskLine {
    TaskLine {
        task_id: record.id.to_string(),
        task_name: record.body.task_name.clone(),
        queue: record.body.queue.to_string(),
        priority: record.priority.as_str(),
        attempt: record.attempt,
        worker: match (&record.owner, &record.body.agent) {
            (Some(Owner::Worker(replica, slot)), _) => format!("{replica}/{slot}"),
            (Some(Owner::Agent), Some(agent)) => format!("agent:{}", agent.id),
            (Some(Owner::Agent), None) => "agent".to_owned(),
            (None, _) => String::new(),
        },
        seconds: record.started_ms.map_or(0.0, |ms| seconds_since(ms, now_ms)),
    }
}

fn failure_line(letter: &DeadLetterDocument, now_ms: i64) -> FailureLine {
    let error: serde_json::Value = serde_json::from_str(letter.error.get()).unwrap_or_default();
    let message = error["message"]
        .as_str()
        // Those of a trigger are a list.
        .or_else(|| error[0]["message"].as_str())
        .map_or_else(|| letter.error.get().to_owned(), str::to_owned);
    let at_ms = letter.dead_lettered_at.parse::<jiff::Timestamp>();
    FailureLine {
        dead_letter_id: letter.dead_letter_id.clone(),
        kind: letter.kind.clone(),
        task_name: letter.task_name.clone(),
        reason: letter.reason.clone(),
        message,
        seconds_ago: at_ms.map_or(0.0, |at| seconds_since(at.as_millisecond(), now_ms)),
    }
}
