//! Tasks and statistics as people and programs are shown them: one JSON document each, over HTTP, on the command line
//! and in the library.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::agents::AgentSide;
use super::inspect::{AttemptNote, inputs_json};
use super::record::{Owner, Record};
use super::statistics::Statistics;
use crate::domain::id::TaskId;
use crate::domain::priority::Priority;
use crate::domain::state::TaskState;

/// A moment in the form that all documents and events use: RFC 3339 in UTC with milliseconds.
#[must_use]
pub fn timestamp(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |moment| format!("{moment:.3}"))
}

/// A task.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Task)]
#[doc(alias = "TaskMetadata")]
pub struct TaskDocument {
    /// Its id.
    pub task_id: String,
    /// The caller's own name for it, unique in its workflow.
    pub key: Option<String>,
    /// What it runs: the name of a handler.
    pub name: String,
    /// The queue that it waits in.
    pub queue: String,
    /// How urgent it is.
    #[schema(value_type = Priority)]
    pub priority: &'static str,
    /// Where it is in its life.
    #[schema(value_type = TaskState)]
    pub state: &'static str,
    /// Positional arguments, JSON as it came.
    #[schema(value_type = Vec<serde_json::Value>)]
    pub args: Box<RawValue>,
    /// Named arguments, JSON as it came.
    #[schema(value_type = Object)]
    pub kwargs: Box<RawValue>,
    /// The results of what it depends on, by key; null where there is none.
    #[schema(value_type = Object)]
    pub inputs: Box<RawValue>,
    /// The agent that carries it out.
    pub agent_id: Option<String>,
    /// The workflow that it belongs to.
    pub workflow_id: Option<String>,
    /// Keys or ids of what it depends on, as they were given.
    pub dependencies: Vec<String>,
    /// The ids of those among them that it still waits for.
    pub blocked_by: Vec<String>,
    /// The task that asked for it.
    pub parent_task_id: Option<String>,
    /// The caller's texts under names.
    #[schema(value_type = Object)]
    pub tags: Box<RawValue>,
    /// The caller's free-form data.
    #[schema(value_type = Object)]
    pub metadata: Box<RawValue>,
    /// How many attempts have started, over all its lives.
    pub attempt: u32,
    /// How many retries of this life were used.
    pub retry_count: u32,
    /// How many attempts may follow the first of a life.
    pub max_retries: u32,
    /// The longest that an attempt may run; without limit when null.
    pub timeout_seconds: Option<f64>,
    /// When it was accepted.
    pub created_at: String,
    /// When it was to start, where it was delayed; while it waits for a retry, when that is due.
    pub run_at: Option<String>,
    /// When its last attempt started.
    pub started_at: Option<String>,
    /// When it ended.
    pub completed_at: Option<String>,
    /// How long its last attempt took, once it has ended.
    pub duration_ms: Option<i64>,
    /// Who ran or runs the last attempt: `<replica>/<slot>` or `agent:<id>`.
    pub worker_id: Option<String>,
    /// What its handler or agent last said of its progress.
    #[schema(value_type = serde_json::Value, required = true)]
    pub progress: Option<Box<RawValue>>,
    /// What it came to, once it has completed.
    #[schema(value_type = serde_json::Value, required = true)]
    pub result: Option<Box<RawValue>>,
    /// Why it did not complete, or why its last attempt failed.
    #[schema(value_type = Option<TaskErrorDocument>)]
    pub error: Option<Box<RawValue>>,
    /// The event that asked for it.
    pub trigger_event_id: String,
    /// The chain of events that it belongs to.
    pub correlation_id: String,
}

/// Why a task failed.
#[derive(Debug, Clone, utoipa::ToSchema)]
#[schema(as = TaskError)]
#[allow(
    dead_code,
    reason = "only its description is used: errors pass through as they are kept"
)]
pub(crate) struct TaskErrorDocument {
    /// `handler_error`, `timeout`, `lost`, a reason of a rejection, or the handler's own.
    #[schema(rename = "type")]
    kind: String,
    /// In words.
    message: String,
}

/// An attempt of a task.
#[derive(Debug, Clone, utoipa::ToSchema)]
#[schema(as = Attempt)]
#[allow(
    dead_code,
    reason = "only its description is used: attempts pass through as they are kept"
)]
pub(crate) struct AttemptDocument {
    /// From 1, over all lives.
    attempt: u32,
    /// Who ran it.
    worker_id: Option<String>,
    /// When it began.
    started_at: Option<String>,
    /// When it ended.
    ended_at: Option<String>,
    /// How it failed.
    error: Option<TaskErrorDocument>,
}

/// What is kept of a cancel without the command that asked for it, which only tells a second delivery.
#[derive(serde::Serialize, serde::Deserialize)]
struct Cancel {
    #[serde(rename = "type")]
    kind: String,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root_cause_task_id: Option<String>,
}

/// An error as it is kept, for whoever looks at the task.
fn shown(error: &RawValue, state: TaskState) -> Box<RawValue> {
    let cancel = (state == TaskState::Cancelled).then(|| serde_json::from_str::<Cancel>(error.get()).ok());
    let cancel = cancel.flatten().and_then(|cancel| to_raw_value(&cancel).ok());
    cancel.unwrap_or_else(|| error.to_owned())
}

#[derive(serde::Deserialize)]
struct Note {
    error: Box<RawValue>,
}

/// What stands beside a task's record: what it has to do with those that it depends on, and with an agent.
#[derive(Debug, Clone, Default)]
pub struct Ties {
    /// Their results by name.
    pub inputs: Vec<(String, String)>,
    /// Those that it waits for.
    pub blocked_by: Vec<TaskId>,
    /// The agent that has or had it.
    pub agent: Option<AgentSide>,
}

impl TaskDocument {
    /// The document of a record. `due_ms` is when a delayed task is due; `notes` are its failed attempts, whose last
    /// error is shown as long as the task goes on; `ties` are what it depends on.
    #[must_use]
    pub fn new(record: Record, due_ms: Option<i64>, notes: &[AttemptNote], ties: Ties) -> Self {
        let body = record.body;
        let spec = body.spec;
        let ended_well = record.state == TaskState::Completed;
        let last_error = || {
            notes
                .last()
                .and_then(|note| serde_json::from_str::<Note>(note).ok())
                .map(|note| note.error)
        };
        let is_running_or_over = record.state != TaskState::Pending;
        let started_ms = record.started_ms.filter(|_| is_running_or_over && record.attempt > 0);
        let side = ties.agent.unwrap_or_default();
        let worker_id = record.owner.as_ref().map(|owner| match owner {
            Owner::Worker(replica, slot) => format!("{replica}/{slot}"),
            Owner::Agent => format!("agent:{}", side.agent),
        });
        Self {
            task_id: record.id.to_string(),
            key: spec.key,
            name: body.task_name,
            queue: body.queue.to_string(),
            priority: record.priority.as_str(),
            state: record.state.as_str(),
            args: spec.args,
            kwargs: spec.kwargs,
            inputs: inputs_json(ties.inputs),
            agent_id: spec.agent_id.or_else(|| body.agent.map(|agent| agent.id)),
            workflow_id: body.workflow_id,
            dependencies: spec.dependencies,
            blocked_by: if record.is_blocked {
                ties.blocked_by.iter().map(ToString::to_string).collect()
            } else {
                Vec::new()
            },
            parent_task_id: spec.parent_task_id,
            tags: spec.tags,
            metadata: spec.metadata,
            attempt: record.attempt,
            retry_count: record.retry_count,
            max_retries: record.max_retries,
            timeout_seconds: spec.timeout_seconds,
            created_at: timestamp(record.created_ms),
            run_at: due_ms
                .or(spec.run_at_ms)
                .or_else(|| {
                    spec.delay_ms
                        .and_then(|delay| record.created_ms.checked_add(i64::try_from(delay).ok()?))
                })
                .map(timestamp),
            started_at: started_ms.map(timestamp),
            completed_at: record.finished_ms.map(timestamp),
            duration_ms: started_ms.zip(record.finished_ms).map(|(from, to)| (to - from).max(0)),
            worker_id: worker_id.filter(|_| is_running_or_over),
            progress: side.progress,
            error: if ended_well {
                None
            } else {
                let tail = record.tail.as_ref();
                tail.map(|error| shown(error, record.state)).or_else(last_error)
            },
            result: if ended_well { record.tail } else { None },
            trigger_event_id: body.trigger_event_id,
            correlation_id: body.correlation_id,
        }
    }
}

/// Where tasks wait and run in one queue.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
#[schema(as = QueueFigures)]
pub struct QueueDocument {
    /// Tasks that wait, also those that are delayed or blocked.
    pub pending_count: u64,
    /// Tasks that run.
    pub running_count: u64,
    /// Those that wait, by priority.
    pub by_priority: BTreeMap<&'static str, u64>,
}

/// The workers of all live replicas.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
#[schema(as = WorkerPool)]
pub struct WorkerPoolDocument {
    /// Workers that run a task.
    pub active_workers: u64,
    /// Workers that are free.
    pub idle_workers: u64,
    /// Neither active nor idle: a blocking function of an attempt that is over goes on. Left out where there are none.
    #[serde(skip_serializing_if = "is_zero")]
    pub detached_workers: u64,
    /// The most workers that they run.
    pub max_workers: u64,
    /// Which part of them is active, from 0 to 100.
    pub utilization_percentage: f64,
    /// Tasks that they completed, since their replicas started.
    pub tasks_completed: u64,
    /// Attempts that failed in them.
    pub tasks_failed: u64,
    /// How long an attempt took on average; null before the first.
    pub average_duration_seconds: Option<f64>,
    /// Tasks that they ended in the last 60 s.
    pub throughput_per_minute: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The statistics of all partitions; the same whichever replica is asked. Ends are counted by life: a task that failed, was
/// requeued and completed counts once as failed and once as completed, and `total_count` counts lives.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
#[schema(as = Stats)]
#[doc(alias = "TaskStatistics")]
pub struct StatisticsDocument {
    /// Tasks that wait, also those that are delayed or blocked.
    pub pending_count: u64,
    /// Tasks that a worker or an agent holds.
    pub running_count: u64,
    /// Lives that ended with a result.
    pub completed_count: u64,
    /// Lives that ended with an error.
    pub failed_count: u64,
    /// Lives whose last attempt ran out of time.
    pub timeout_count: u64,
    /// Lives that were cancelled.
    pub cancelled_count: u64,
    /// All lives, ended or not.
    pub total_count: u64,
    /// Those that wait, by priority.
    pub by_priority: BTreeMap<&'static str, u64>,
    /// By queue.
    pub by_queue: BTreeMap<String, QueueDocument>,
    /// How long a completed task took on average, from its last start to its end; null before the first.
    pub average_duration_seconds: Option<f64>,
    /// Since when the one that waits longest does.
    pub oldest_pending_at: Option<String>,
    /// Tasks that ended in the last 60 s.
    pub throughput_per_minute: u64,
    /// How many tasks may be unfinished; 0 is no limit.
    pub max_size: u64,
    /// How many tasks may run; 0 is no limit.
    pub max_running: u64,
    /// Dead letters that are kept.
    pub dead_letter_count: u64,
    /// Workflows that were started and have not ended. Left out where there are none.
    #[serde(skip_serializing_if = "is_zero")]
    pub running_workflows: u64,
    /// Sagas that were started and have not ended. Left out where there are none.
    #[serde(skip_serializing_if = "is_zero")]
    pub running_sagas: u64,
    /// The workers of all live replicas.
    pub worker_pool: WorkerPoolDocument,
    /// Streams of tasks under whose keys something else stands; not part of the document.
    #[serde(skip)]
    #[schema(ignore)]
    pub wrong_streams: Vec<String>,
}

impl StatisticsDocument {
    /// The sum of the partitions' statistics.
    #[must_use]
    pub fn sum(partitions: &[Statistics]) -> Self {
        let mut sum = Self::default();
        let (mut duration_ms, mut oldest_ms) = (0, None::<i64>);
        let mut workers: BTreeMap<&str, [u64; 4]> = BTreeMap::new();
        for partition in partitions {
            let counter = |name: &str| {
                partition
                    .counters
                    .iter()
                    .find(|(known, _)| known == name)
                    .map_or(0, |(_, value)| *value)
            };
            for priority in Priority::ALL {
                let waiting = counter(&format!("p{}", priority.rank()));
                *sum.by_priority.entry(priority.as_str()).or_default() += waiting;
                sum.pending_count += waiting;
            }
            sum.running_count += counter("running");
            sum.completed_count += counter("completed");
            sum.failed_count += counter("failed");
            sum.timeout_count += counter("timeout");
            sum.cancelled_count += counter("cancelled");
            // Each partition has its share of the limits.
            sum.max_size += counter("max_size");
            sum.max_running += counter("max_running");
            duration_ms += counter("duration_ms");
            sum.dead_letter_count += partition.dead_letters;
            let under_way = |kind: &str| partition.groups.get(kind).copied().unwrap_or_default();
            sum.running_workflows += under_way("workflow");
            sum.running_sagas += under_way("saga");
            sum.wrong_streams.extend_from_slice(&partition.wrong_streams);
            sum.throughput_per_minute += partition.ended_last_minute;
            oldest_ms = match (oldest_ms, partition.oldest_ms) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            for (name, ranks) in &partition.queues {
                let queue = sum.by_queue.entry(name.clone()).or_default();
                for (priority, (waiting, running)) in Priority::ALL.into_iter().zip(ranks) {
                    queue.pending_count += waiting;
                    queue.running_count += running;
                    *queue.by_priority.entry(priority.as_str()).or_default() += waiting;
                }
            }
            for (replica, fields) in &partition.replicas {
                let field = |name: &str| {
                    let value = fields.iter().find(|(known, _)| known == name);
                    value.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
                };
                // Every partition is told the same of a replica, but its bounds: those are known in one. What it runs is
                // counted in each.
                let (known, max) = (field("workers"), field("max"));
                let [all, most, busy, detached] = workers.entry(replica).or_default();
                *all = known;
                *most = (*most).max(max);
                *busy += field("running");
                *detached = field("detached");
            }
            for (name, waiting) in &partition.aside {
                let queue = sum.by_queue.entry(name.clone()).or_default();
                for (priority, waiting) in Priority::ALL.into_iter().zip(waiting) {
                    queue.pending_count += waiting;
                    *queue.by_priority.entry(priority.as_str()).or_default() += waiting;
                }
            }
        }
        sum.total_count = sum.pending_count
            + sum.running_count
            + sum.completed_count
            + sum.failed_count
            + sum.timeout_count
            + sum.cancelled_count;
        sum.average_duration_seconds = average_seconds(duration_ms, sum.completed_count);
        sum.oldest_pending_at = oldest_ms.map(timestamp);
        let pool = &mut sum.worker_pool;
        let mut current = 0;
        // A program that takes tasks by hand holds some and has no workers.
        for [all, most, busy, detached] in workers.values().filter(|[all, ..]| *all > 0) {
            pool.max_workers += (*most).max(*all);
            // While a replica gets fewer, those that are to go may be busy still.
            current += (*all).max(*busy);
            pool.active_workers += busy;
            pool.detached_workers += detached;
        }
        pool.idle_workers = (current - pool.active_workers).saturating_sub(pool.detached_workers);
        pool.tasks_completed = sum.completed_count;
        pool.tasks_failed = sum.failed_count + sum.timeout_count;
        pool.average_duration_seconds = sum.average_duration_seconds;
        pool.throughput_per_minute = sum.throughput_per_minute;
        if current > 0 {
            pool.utilization_percentage = as_float(pool.active_workers) * 100.0 / as_float(current);
        }
        sum
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts and milliseconds stay far below 2^53")]
const fn as_float(count: u64) -> f64 {
    count as f64
}

fn average_seconds(duration_ms: u64, count: u64) -> Option<f64> {
    (count > 0).then(|| as_float(duration_ms) / 1000.0 / as_float(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_three_digits_of_a_second_and_a_z() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(1_795_447_172_120), "2026-11-23T15:19:32.120Z");
    }

    #[test]
    fn no_task_has_no_average() {
        assert_eq!(StatisticsDocument::sum(&[]).average_duration_seconds, None);
    }
}
