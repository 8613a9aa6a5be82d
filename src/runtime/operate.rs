//! What operators see of queues and workers, and what they do to them.
//!
//! The command line and the HTTP service ask through this module. Whatever changes something takes an [`Operator`], who
//! stands on the log with it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::request::make_keys;
use crate::domain::id::{Partition, QueueName, shortened};
use crate::domain::priority::Priority;
use crate::domain::rejection::{Reason, Rejection};
use crate::domain::worker::WorkerState;
use crate::error::Error;
use crate::store::dead_letters::Operator;
use crate::store::document::timestamp;
use crate::store::operate::{Limits, Scaled, Scaling, Wish};
use crate::store::workers::{Figures, Reported};
use crate::store::{Store, StoreError};

/// The most workers that a replica may have.
pub const WORKERS_MAX: u16 = 10_000;
/// The highest limit of tasks, as in configuration.
pub const LIMIT_MAX: u64 = u32::MAX as u64;
/// How long replicas may take to carry out what was asked of them.
const CARRY_OUT: Duration = Duration::from_secs(5);
/// How often it is looked whether they have.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A queue as it is right now.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
#[schema(as = Queue)]
#[non_exhaustive]
pub struct QueueStatus {
    /// Its name.
    pub name: String,
    /// Tasks that are pending, wherever they wait.
    pub pending_count: u64,
    /// Those of them that could start at once.
    pub ready_count: u64,
    /// Tasks that run.
    pub running_count: u64,
    /// The pending ones by priority.
    pub by_priority: BTreeMap<&'static str, u64>,
    /// Whether nothing of it is handed out.
    pub paused: bool,
    /// Since when.
    pub paused_at: Option<String>,
    /// Who paused it.
    pub paused_by: Option<String>,
    /// Why, in their words.
    pub paused_reason: Option<String>,
    /// Since when the oldest task that could start waits.
    pub oldest_waiting_at: Option<String>,
    /// How long that is.
    pub oldest_waiting_seconds: Option<f64>,
    /// The most tasks that are not terminal, of all queues together; 0 is no limit.
    pub max_size: u64,
    /// The most tasks that run, of all queues together; 0 is no limit.
    pub max_running: u64,
}

/// Who paused a queue, as it stands in Redis.
#[derive(Deserialize)]
struct Pause {
    actor: String,
    reason: Option<String>,
    paused_at: String,
}

/// All queues, by name; the one that tasks go to by default is there before its first task.
///
/// # Errors
///
/// [`Error::RedisUnavailable`].
pub async fn list_queues(store: &Store) -> Result<Vec<QueueStatus>, Error> {
    let mut queues: BTreeMap<String, QueueStatus> = BTreeMap::new();
    queues.insert(QueueName::default().to_string(), QueueStatus::default());
    let mut oldest: BTreeMap<String, i64> = BTreeMap::new();
    let (mut max_size, mut max_running) = (0, 0);
    for partition in store.partitions() {
        let statistics = match store.statistics(partition).await {
            Ok(statistics) => statistics,
            Err(StoreError::NotJoined) => continue,
            Err(error) => return Err(error.into()),
        };
        for (name, value) in &statistics.counters {
            match name.as_str() {
                "max_size" => max_size += value,
                "max_running" => max_running += value,
                _ => {}
            }
        }
        for (name, ranks) in &statistics.queues {
            let queue = queues.entry(name.clone()).or_default();
            for (priority, (waiting, running)) in Priority::ALL.into_iter().zip(ranks) {
                queue.pending_count += waiting;
                queue.ready_count += waiting;
                queue.running_count += running;
                *queue.by_priority.entry(priority.as_str()).or_default() += waiting;
            }
        }
        for (name, ranks) in &statistics.aside {
            let queue = queues.entry(name.clone()).or_default();
            for (priority, waiting) in Priority::ALL.into_iter().zip(ranks) {
                queue.pending_count += waiting;
                *queue.by_priority.entry(priority.as_str()).or_default() += waiting;
            }
        }
        for (name, words) in &statistics.paused {
            let queue = queues.entry(name.clone()).or_default();
            queue.paused = true;
            if let Ok(pause) = serde_json::from_str::<Pause>(words) {
                queue.paused_at = Some(pause.paused_at);
                queue.paused_by = Some(pause.actor);
                queue.paused_reason = pause.reason;
            }
        }
        for (name, since_ms) in statistics.oldest_by_queue {
            let known = oldest.entry(name).or_insert(since_ms);
            *known = since_ms.min(*known);
        }
    }
    let now_ms = if oldest.is_empty() { 0 } else { store.now_ms().await? };
    for (name, queue) in &mut queues {
        queue.name.clone_from(name);
        (queue.max_size, queue.max_running) = (max_size, max_running);
        for priority in Priority::ALL {
            queue.by_priority.entry(priority.as_str()).or_default();
        }
        if queue.paused {
            queue.ready_count = 0;
        }
        if let Some(since_ms) = oldest.get(name) {
            queue.oldest_waiting_at = Some(timestamp(*since_ms));
            let waited_ms = u64::try_from(now_ms - since_ms).unwrap_or_default();
            queue.oldest_waiting_seconds = Some(Duration::from_millis(waited_ms).as_secs_f64());
        }
    }
    Ok(queues.into_values().collect())
}

/// One queue.
///
/// # Errors
///
/// [`Error::QueueNotFound`], [`Error::RedisUnavailable`].
pub async fn queue(store: &Store, name: &str) -> Result<QueueStatus, Error> {
    let mut queues = list_queues(store).await?.into_iter();
    queues
        .find(|queue| queue.name == name)
        .ok_or_else(|| Error::QueueNotFound(shortened(name)))
}

/// The name of a queue that exists in some partition; the one by default always does.
async fn known_queue(store: &Store, name: &str) -> Result<QueueName, Error> {
    let not_found = || Error::QueueNotFound(shortened(name));
    let parsed: QueueName = name.parse().map_err(|_| not_found())?;
    if parsed == QueueName::default() {
        return Ok(parsed);
    }
    for partition in store.partitions() {
        if store.knows_queue(partition, &parsed).await? {
            return Ok(parsed);
        }
    }
    Err(not_found())
}

/// Hands out nothing more of a queue until it is resumed; `false` when it was paused before. What runs goes on, and tasks
/// still enter it.
///
/// # Errors
///
/// [`Error::QueueNotFound`], [`Error::RedisUnavailable`]; asking again is safe.
pub async fn pause_queue(store: &Store, operator: &Operator, name: &str) -> Result<bool, Error> {
    set_paused(store, operator, name, true).await
}

/// Hands out a queue's tasks again; `false` when it was not paused.
///
/// # Errors
///
/// [`Error::QueueNotFound`], [`Error::RedisUnavailable`]; asking again is safe.
pub async fn resume_queue(store: &Store, operator: &Operator, name: &str) -> Result<bool, Error> {
    set_paused(store, operator, name, false).await
}

async fn set_paused(store: &Store, operator: &Operator, name: &str, is_paused: bool) -> Result<bool, Error> {
    let queue = known_queue(store, name).await?;
    // Also where it has no task yet: one may come at any time.
    on_all_partitions(store, operator, |partition| {
        store.set_paused(partition, operator, &queue, is_paused)
    })
    .await
}

/// Sets something on all partitions, also before the first replica; `false` when it was set so before.
async fn on_all_partitions<F: Future<Output = Result<bool, StoreError>>>(
    store: &Store,
    operator: &Operator,
    set: impl Fn(Partition) -> F,
) -> Result<bool, Error> {
    let mut has_changed = false;
    for partition in store.partitions() {
        has_changed |= match set(partition).await {
            Err(StoreError::NotJoined) => {
                make_keys(store, operator.id, None, None).await?;
                set(partition).await?
            }
            answer => answer?,
        };
    }
    Ok(has_changed)
}

/// Sets limits over all queues and replicas, at once and for good: from now on configuration files do not change them.
/// They are those of all queues together; one that is `named` must exist, and stands on the log. `false` when they were
/// set so before.
///
/// # Errors
///
/// [`Error::InvalidField`] without any limit, [`Error::QueueNotFound`], [`Error::RedisUnavailable`]; asking again is safe.
pub async fn set_limits(
    store: &Store,
    operator: &Operator,
    named: Option<&str>,
    limits: Limits,
) -> Result<bool, Error> {
    if limits == Limits::default() {
        let problem = "give at least one of max_size and max_running".to_owned();
        return Err(Error::InvalidField(Rejection::new(Reason::MissingField, None, problem)));
    }
    for (field, limit) in [("max_size", limits.max_size), ("max_running", limits.max_running)] {
        if let Some(limit) = limit.filter(|&limit| limit > LIMIT_MAX) {
            let problem = format!("is {limit}, must be at most {LIMIT_MAX}");
            return Err(Error::InvalidField(Rejection::new(
                Reason::InvalidField,
                Some(field),
                problem,
            )));
        }
    }
    let queue = match named {
        Some(name) => Some(known_queue(store, name).await?),
        None => None,
    };
    on_all_partitions(store, operator, |partition| {
        store.set_limits(partition, operator, queue.as_ref(), limits)
    })
    .await
}

/// A worker as it is right now.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Worker)]
#[non_exhaustive]
pub struct WorkerDocument {
    /// Its name: `<replica>/<slot>`.
    pub worker_id: String,
    /// The replica that it belongs to.
    pub replica: String,
    /// What it does.
    #[schema(value_type = WorkerState)]
    pub state: &'static str,
    /// The task that it runs.
    pub current_task_id: Option<String>,
    /// Tasks that it completed.
    pub tasks_completed: u64,
    /// Attempts that failed in it.
    pub tasks_failed: u64,
    /// How long an attempt took on average; null before the first.
    pub average_duration_seconds: Option<f64>,
    /// Which part of its tasks failed, from 0 to 1.
    pub error_rate: f64,
    /// Which part of its time it was busy, from 0 to 100.
    pub utilization_percentage: f64,
    /// How long it has been there.
    pub uptime_seconds: f64,
}

/// A replica with its workers as a whole.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Replica)]
#[non_exhaustive]
pub struct ReplicaDocument {
    /// Its name.
    pub replica: String,
    /// `running` or `draining`.
    pub state: &'static str,
    /// How many workers it has.
    pub workers: u16,
    /// Those of them that run a task.
    pub busy_workers: usize,
    /// The fewest that it may be scaled to.
    pub min_workers: u16,
    /// The most that it may be scaled to.
    pub max_workers: u16,
    /// Whether it moves between the two by itself.
    pub autoscale: bool,
    /// When it joined.
    pub started_at: Option<String>,
    /// Tasks that its workers completed.
    pub tasks_completed: u64,
    /// Attempts that they saw fail.
    pub tasks_failed: u64,
}

/// Workers, and the replicas that they belong to.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
#[non_exhaustive]
pub struct WorkerPage {
    /// The workers, by replica and number.
    pub items: Vec<WorkerDocument>,
    /// Where the list goes on.
    pub next_cursor: Option<String>,
    /// All replicas with workers.
    pub replicas: Vec<ReplicaDocument>,
}

/// The workers of all replicas, or of one, up to `limit` behind `cursor`. Tasks are those that run right now; counts are up
/// to some seconds old.
///
/// # Errors
///
/// [`Error::WorkerNotFound`] for a replica that is not there, [`Error::RedisUnavailable`].
pub async fn list_workers(
    store: &Store,
    replica: Option<&str>,
    cursor: Option<&str>,
    limit: usize,
) -> Result<WorkerPage, Error> {
    let mut reported = store.reported().await?;
    if let Some(replica) = replica {
        reported.retain(|one| one.replica == replica);
        if reported.is_empty() {
            return Err(Error::WorkerNotFound(shortened(replica)));
        }
    }
    if reported.is_empty() {
        return Ok(WorkerPage::default());
    }
    let running = store.running_tasks().await?;
    let now_ms = store.now_ms().await?;
    let mut page = WorkerPage::default();
    let after = cursor.and_then(|cursor| {
        let (replica, slot) = cursor.rsplit_once('/')?;
        Some((replica.to_owned(), slot.parse::<u16>().ok()?))
    });
    let mut is_full = false;
    for one in &reported {
        let workers = workers_of(one, &running, now_ms);
        page.replicas.push(replica_document(one, &workers));
        for (slot, worker) in workers {
            let is_behind = after
                .as_ref()
                .is_none_or(|after| (&one.replica, slot) > (&after.0, after.1));
            if !is_behind {
                continue;
            }
            if page.items.len() == limit {
                is_full = true;
                break;
            }
            page.items.push(worker);
        }
    }
    if is_full {
        page.next_cursor = page.items.last().map(|worker| worker.worker_id.clone());
    }
    Ok(page)
}

/// One worker.
///
/// # Errors
///
/// [`Error::WorkerNotFound`], [`Error::RedisUnavailable`].
pub async fn worker(store: &Store, worker_id: &str) -> Result<WorkerDocument, Error> {
    let not_found = || Error::WorkerNotFound(shortened(worker_id));
    let (replica, _) = worker_id.rsplit_once('/').ok_or_else(not_found)?;
    let page = match list_workers(store, Some(replica), None, usize::MAX).await {
        Err(Error::WorkerNotFound(_)) => return Err(not_found()),
        page => page?,
    };
    let mut workers = page.items.into_iter();
    workers
        .find(|worker| worker.worker_id == worker_id)
        .ok_or_else(not_found)
}

type Running = BTreeMap<(String, u16), crate::domain::id::TaskId>;

/// A replica's workers by number: what it reported, with what really runs.
fn workers_of(one: &Reported, running: &Running, now_ms: i64) -> BTreeMap<u16, WorkerDocument> {
    let mut figures: BTreeMap<u16, Figures> = one.figures.iter().map(|figures| (figures.slot, *figures)).collect();
    if figures.is_empty() {
        // It has just joined.
        figures.extend((0..one.workers).map(|slot| (slot, Figures::new(slot))));
    }
    let held = running.range((one.replica.clone(), 0)..=(one.replica.clone(), u16::MAX));
    let held: BTreeMap<u16, String> = held.map(|((_, slot), task)| (*slot, task.to_string())).collect();
    for slot in held.keys() {
        figures.entry(*slot).or_insert_with(|| Figures::new(*slot));
    }
    let age_ms = if one.figures_ms > 0 { now_ms - one.figures_ms } else { 0 };
    let document = |(slot, mut figures): (u16, Figures)| {
        let current_task_id = held.get(&slot).cloned();
        figures.uptime_ms += u64::try_from(age_ms).unwrap_or_default();
        let state = match figures.state {
            _ if current_task_id.is_some() => WorkerState::Busy,
            // Over since it was reported.
            WorkerState::Busy if one.is_draining => WorkerState::Stopped,
            WorkerState::Busy => WorkerState::Idle,
            state @ (WorkerState::Idle | WorkerState::Error | WorkerState::Stopped) => state,
        };
        let worker = WorkerDocument {
            worker_id: format!("{}/{slot}", one.replica),
            replica: one.replica.clone(),
            state: state.as_str(),
            current_task_id,
            tasks_completed: figures.completed,
            tasks_failed: figures.failed,
            average_duration_seconds: figures.average_seconds(),
            error_rate: figures.error_rate(),
            utilization_percentage: figures.utilization_percentage(),
            uptime_seconds: figures.uptime_seconds(),
        };
        (slot, worker)
    };
    figures.into_iter().map(document).collect()
}

fn replica_document(one: &Reported, workers: &BTreeMap<u16, WorkerDocument>) -> ReplicaDocument {
    let is_busy = |worker: &&WorkerDocument| worker.current_task_id.is_some();
    ReplicaDocument {
        replica: one.replica.clone(),
        state: if one.is_draining { "draining" } else { "running" },
        workers: one.workers,
        busy_workers: workers.values().filter(is_busy).count(),
        min_workers: one.min_workers,
        max_workers: one.max_workers,
        autoscale: one.autoscale,
        started_at: one.started_at.clone(),
        tasks_completed: workers.values().map(|worker| worker.tasks_completed).sum(),
        tasks_failed: workers.values().map(|worker| worker.tasks_failed).sum(),
    }
}

/// What a replica was asked for, and whether it did it.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Scaled)]
#[non_exhaustive]
pub struct ScaledDocument {
    /// The replica.
    pub replica: String,
    /// How many workers it had.
    pub workers_before: u16,
    /// How many it has, or will have.
    pub workers: u16,
    /// How many were added, or removed.
    pub changed: i32,
    /// How many it may have.
    pub max_workers: u16,
    /// Whether it has done so by now.
    #[serde(rename = "done")]
    pub is_done: bool,
}

/// Asks one replica, or all, for more or fewer workers, and waits until they have them. All of them can do it, or nothing is
/// changed. Running tasks of workers that are to go end first.
///
/// # Errors
///
/// [`Error::WorkerPoolFull`] over the maximum, [`Error::WorkerNotFound`], [`Error::NoWorkersAvailable`] where there is
/// nobody to be asked, [`Error::InvalidField`], [`Error::RedisUnavailable`]; asking again with the same operator is safe.
pub async fn scale(
    store: &Store,
    operator: &Operator,
    scaling: Scaling,
    replica: Option<&str>,
) -> Result<Vec<ScaledDocument>, Error> {
    let (field, count) = match scaling {
        Scaling::Add(count) => ("add", count),
        Scaling::Remove(count) => ("remove", count),
        Scaling::Max(count) => ("max", count),
    };
    if !(1..=WORKERS_MAX).contains(&count) {
        let problem = format!("is {count}, must be from 1 to {WORKERS_MAX}");
        return Err(Error::InvalidField(Rejection::new(
            Reason::InvalidField,
            Some(field),
            problem,
        )));
    }
    let wishes = match store.scale(operator, scaling, replica).await {
        Ok(Scaled::Ok(wishes)) => wishes,
        Ok(Scaled::Full(_, workers, max_workers)) => {
            return Err(Error::WorkerPoolFull {
                workers,
                max_workers,
                asked: count,
            });
        }
        Ok(Scaled::Missing(name)) => return Err(Error::WorkerNotFound(name)),
        Err(StoreError::NotJoined) if replica.is_some() => {
            return Err(Error::WorkerNotFound(shortened(replica.unwrap_or_default())));
        }
        Ok(Scaled::Empty) | Err(StoreError::NotJoined) => return Err(Error::NoWorkersAvailable),
        Err(error) => return Err(error.into()),
    };
    let deadline = Instant::now() + CARRY_OUT;
    loop {
        let reported = store.reported().await?;
        let is_done = |wish: &Wish| {
            let known = reported.iter().find(|one| one.replica == wish.replica);
            known.is_some_and(|known| known.applied >= wish.number)
        };
        let has_left = |wish: &Wish| reported.iter().all(|one| one.replica != wish.replica);
        if wishes.iter().all(|wish| is_done(wish) || has_left(wish)) || Instant::now() >= deadline {
            let document = |wish: &Wish| ScaledDocument {
                replica: wish.replica.clone(),
                workers_before: wish.before,
                workers: wish.workers,
                changed: i32::from(wish.workers) - i32::from(wish.before),
                max_workers: wish.max_workers,
                is_done: is_done(wish),
            };
            return Ok(wishes.iter().map(document).collect());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
