//! Says why a task does not run, or where it does.
//!
//! One code for programs, one sentence for people, and details by name. Nothing is guessed from times: each reason is
//! read from what the functions themselves go by.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::domain::id::{Partition, TaskId};
use crate::domain::model::LOSSES_MAX;
use crate::domain::priority::Priority;
use crate::domain::state::TaskState;
use crate::error::Error;
use crate::store::document::timestamp;
use crate::store::record::{Flags, Owner, Record};
use crate::store::{Store, StoreError};

/// How many entries ahead are counted one by one; beyond it the number is a lower bound.
const COUNTED_MAX: usize = 10_000;
/// How many tasks are named that another waits for.
const NAMED_MAX: usize = 20;
/// How many of those are looked at in one go.
const STATES_BATCH: usize = 1000;

/// Why a task is where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Why {
    /// It waits for other tasks to end.
    Blocked,
    /// It waits for the time that was asked for.
    Delayed,
    /// Its last attempt failed, and the pause before the next is not over.
    RetryWait,
    /// Its queue is paused.
    QueuePaused,
    /// No live replica runs tasks of its name.
    NoHandler,
    /// Of all live replicas that run tasks of its name the handler does not reach its target.
    TargetDown,
    /// As many tasks run as may.
    LimitReached,
    /// No replica lives at all.
    NoReplicas,
    /// Others are before it.
    Waiting,
    /// It is the next to be taken.
    Next,
    /// It runs.
    Running,
    /// It runs for a replica that has fallen silent and will be taken back.
    OwnerSilent,
    /// It waits in the inbox of its agent, which has not read it.
    Unread,
    /// It ended.
    Ended,
}

/// The answer.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Explanation {
    /// The task.
    pub task_id: String,
    /// Its state.
    #[schema(value_type = TaskState)]
    pub state: &'static str,
    /// Why.
    pub reason: Why,
    /// The same as a sentence.
    pub summary: String,
    /// What it is about, by name; which names there are depends on the reason.
    #[schema(value_type = Object)]
    pub details: Map<String, Value>,
}

/// Who lives and what they can run.
struct Fleet {
    replicas: Vec<Member>,
}

struct Member {
    id: String,
    seen_ms: i64,
    workers: u64,
    /// It takes no more tasks.
    is_draining: bool,
    names: Vec<String>,
    /// Names whose circuits are open here, each with when the target is tried again.
    circuits: BTreeMap<String, String>,
}

/// A replica that was not heard of for so long, in ms, counts as silent here; whoever takes over goes by its own clock.
const SILENT_MS: i64 = 8000;

/// Explains a task.
///
/// # Errors
///
/// [`Error::TaskNotFound`], [`Error::RedisUnavailable`].
pub async fn explain(store: &Store, id: TaskId) -> Result<Explanation, Error> {
    let Some(record) = store.task(id).await? else {
        return Err(Error::TaskNotFound(id.to_string()));
    };
    let now_ms = store.now_ms().await?;
    let (reason, summary, details) = match record.state {
        TaskState::Pending => pending(store, &record, now_ms).await?,
        TaskState::Running => running(store, &record, now_ms).await?,
        TaskState::Completed | TaskState::Failed | TaskState::Timeout | TaskState::Cancelled => {
            ended(store, &record).await?
        }
    };
    let Value::Object(details) = details else {
        return Err(Error::Store(StoreError::Protocol("explain")));
    };
    Ok(Explanation {
        task_id: id.to_string(),
        state: record.state.as_str(),
        reason,
        summary,
        details,
    })
}

type Answer = (Why, String, Value);

async fn pending(store: &Store, record: &Record, now_ms: i64) -> Result<Answer, StoreError> {
    if record.is_blocked {
        return blocked(store, record).await;
    }
    let partition = record.id.partition();
    if record.is_delayed {
        let due_ms = store.due_ms(record.id).await?.unwrap_or(now_ms);
        // What is due goes on by whichever replica lives.
        if due_ms > now_ms || fleet(store, partition, now_ms).await?.taking(now_ms).next().is_some() {
            return delayed(store, record, due_ms, now_ms).await;
        }
    }
    let (queue, name) = (record.body.queue.to_string(), &record.body.task_name);
    if let Some(pause) = store.pause_of(partition, &queue).await? {
        let pause: Value = serde_json::from_str(&pause).unwrap_or_default();
        let by = pause["actor"]
            .as_str()
            .map_or_else(String::new, |actor| format!(" by {actor}"));
        let summary = format!("its queue `{queue}` is paused{by}");
        return Ok((Why::QueuePaused, summary, json!({ "queue": queue, "pause": pause })));
    }
    if record.flags.has(Flags::FOR_AGENT) {
        return for_agent(store, record).await;
    }
    let fleet = fleet(store, partition, now_ms).await?;
    let living: Vec<&Member> = fleet.taking(now_ms).collect();
    if living.is_empty() {
        let (draining, silent): (Vec<&Member>, Vec<&Member>) =
            fleet.replicas.iter().partition(|member| member.is_living(now_ms));
        let summary = match draining.len() {
            0 => "no replica lives; tasks run when one does".to_owned(),
            1 => "the only replica that lives is draining; tasks run when another does".to_owned(),
            count => format!("all {count} replicas that live are draining; tasks run when another does"),
        };
        let ids = |members: &[&Member]| members.iter().map(|member| member.id.clone()).collect::<Vec<_>>();
        let details = json!({ "silent": ids(&silent), "draining": ids(&draining) });
        return Ok((Why::NoReplicas, summary, details));
    }
    let able: Vec<&str> = living
        .iter()
        .filter(|member| member.names.iter().any(|known| known == name))
        .map(|member| &*member.id)
        .collect();
    if able.is_empty() {
        return Ok(nobody_can(name, &living));
    }
    if let Some(reached) = name_limit(store, record).await? {
        return Ok(reached);
    }
    let statistics = store.statistics(partition).await?;
    let counter = |name: &str| {
        let found = statistics.counters.iter().find(|(known, _)| known == name);
        found.map_or(0, |(_, value)| *value)
    };
    let (running, max_running) = (counter("running"), counter("max_running"));
    let ahead = ahead(store, record, &living).await?;
    let workers: u64 = living.iter().map(|member| member.workers).sum();
    let details = json!({
        "queue": queue,
        "priority": record.priority.as_str(),
        "ahead": ahead.total(),
        "ahead_of_higher_priority": ahead.higher,
        "ahead_of_same_priority": ahead.same,
        "is_exact": ahead.is_exact,
        "running": running,
        "max_running": max_running,
        "workers": workers,
        "able_replicas": able,
    });
    if max_running > 0 && running >= max_running {
        let summary = format!(
            "{running} tasks run, and `queue.max_running` is {max_running}; {} are before it",
            ahead.text()
        );
        return Ok((Why::LimitReached, summary, details));
    }
    if ahead.total() == 0 {
        let summary = format!("it is the next; {running} tasks run on {workers} workers");
        return Ok((Why::Next, summary, details));
    }
    let summary = format!(
        "{} tasks are before it ({} of higher priority); {running} tasks run on {workers} workers",
        ahead.text(),
        ahead.higher
    );
    Ok((Why::Waiting, summary, details))
}

/// Why none of the living replicas takes tasks of a name.
fn nobody_can(name: &str, living: &[&Member]) -> Answer {
    let paused = living.iter().filter_map(|member| {
        let until = member.circuits.get(name)?;
        Some(json!({ "replica": member.id, "tried_again_at": until }))
    });
    let paused: Vec<Value> = paused.collect();
    if !paused.is_empty() {
        let summary = format!("the target of the handler for `{name}` does not answer; it is tried again by itself");
        let details = json!({ "task_name": name, "replicas": paused });
        return (Why::TargetDown, summary, details);
    }
    let mut known: Vec<&str> = living
        .iter()
        .flat_map(|member| member.names.iter().map(|name| &**name))
        .collect();
    known.sort_unstable();
    known.dedup();
    let nearest = nearest(name, &known);
    let summary = match nearest {
        Some(nearest) => format!("no live replica has a handler for `{name}`; the nearest name is `{nearest}`"),
        None => format!("no live replica has a handler for `{name}`"),
    };
    let details = json!({ "task_name": name, "handlers": known, "nearest": nearest });
    (Why::NoHandler, summary, details)
}

async fn blocked(store: &Store, record: &Record) -> Result<Answer, StoreError> {
    let mut open: Vec<_> = store.dependencies(record.id).await?;
    open.retain(|dependency| dependency.is_open);
    // Under any other policy an end is about to release or cancel it.
    let may_be_in_the_way = record.flags.has(Flags::WAITS_ANYWAY);
    let (mut named, mut in_the_way) = (Vec::new(), None);
    for part in open.chunks(STATES_BATCH) {
        if !named.is_empty() && (in_the_way.is_some() || !may_be_in_the_way) {
            break;
        }
        let ids: Vec<TaskId> = part.iter().map(|dependency| dependency.task_id).collect();
        for (dependency, state) in part.iter().zip(store.states(&ids).await?) {
            if let Some(state) = state.filter(|_| may_be_in_the_way && in_the_way.is_none()) {
                in_the_way = in_the_way_for_good(&dependency.name, state);
            }
            if named.len() < NAMED_MAX {
                named.push(json!({
                    "task_id": dependency.task_id.to_string(),
                    "name": dependency.name,
                    "state": state.map(TaskState::as_str),
                }));
            }
        }
    }
    let first = open.first().map(|dependency| &*dependency.name);
    let summary = in_the_way.unwrap_or_else(|| waits_for(open.len(), first));
    Ok((
        Why::Blocked,
        summary,
        json!({ "open": open.len(), "blocked_by": named }),
    ))
}

fn waits_for(count: usize, first: Option<&str>) -> String {
    let tasks = if count == 1 { "task" } else { "tasks" };
    let first = first.map_or_else(String::new, |name| format!(": `{name}`"));
    let more = if count > 1 {
        format!(" and {} more", count - 1)
    } else {
        String::new()
    };
    format!("it waits for {count} other {tasks} to end{first}{more}")
}

fn in_the_way_for_good(name: &str, state: TaskState) -> Option<String> {
    let what = match state {
        TaskState::Failed | TaskState::Timeout => "requeue it from the dead letters, or cancel this task",
        TaskState::Cancelled => "cancel this task",
        TaskState::Pending | TaskState::Running | TaskState::Completed => return None,
    };
    Some(format!(
        "it waits for `{name}`, which ended as {}: {what}",
        state.as_str()
    ))
}

async fn delayed(store: &Store, record: &Record, due_ms: i64, now_ms: i64) -> Result<Answer, StoreError> {
    let in_ms = (due_ms - now_ms).max(0);
    let due_at = timestamp(due_ms);
    let (seconds, rest) = (in_ms / 1000, in_ms % 1000);
    if record.attempt == 0 {
        let summary = format!("it is due at {due_at}, in {seconds}.{rest:03} s");
        return Ok((Why::Delayed, summary, json!({ "due_at": due_at, "due_in_ms": in_ms })));
    }
    let notes = store.attempt_notes(record.id).await?;
    let note = notes.last().and_then(|note| serde_json::from_str::<Value>(note).ok());
    let error = note.as_ref().map_or(Value::Null, |note| note["error"].clone());
    let message = error["message"].as_str().unwrap_or("unknown").to_owned();
    let alone = if record.losses + 1 >= LOSSES_MAX {
        "; another loss would be its last, so no replica runs it beside another such task"
    } else {
        ""
    };
    let summary = format!(
        "attempt {} failed ({message}); retry {} of {} is due at {due_at}, in {seconds}.{rest:03} s{alone}",
        record.attempt, record.retry_count, record.max_retries
    );
    let details = json!({
        "due_at": due_at,
        "due_in_ms": in_ms,
        "attempt": record.attempt,
        "retry_count": record.retry_count,
        "max_retries": record.max_retries,
        "error": error,
    });
    Ok((Why::RetryWait, summary, details))
}

/// Whether as many tasks of its name run as may.
async fn name_limit(store: &Store, record: &Record) -> Result<Option<Answer>, StoreError> {
    let name = &record.body.task_name;
    let limit = store.limit_of(record.id.partition(), name).await?;
    Ok(limit
        .filter(|(running, max_running)| running >= max_running)
        .map(|(running, max_running)| {
            let summary =
                format!("{running} tasks of `{name}` run, and `handlers.{name}.max_running` is {max_running}");
            let details = json!({ "task_name": name, "running": running, "max_running": max_running });
            (Why::LimitReached, summary, details)
        }))
}

/// One that waits to be handed over to its agent; nothing but a limit keeps it.
async fn for_agent(store: &Store, record: &Record) -> Result<Answer, StoreError> {
    if let Some(reached) = name_limit(store, record).await? {
        return Ok(reached);
    }
    let agent = record.body.agent.as_ref().map_or("", |agent| agent.id.as_str());
    let statistics = store.statistics(record.id.partition()).await?;
    let counter = |name: &str| {
        let found = statistics.counters.iter().find(|(known, _)| known == name);
        found.map_or(0, |(_, value)| *value)
    };
    let (running, max_running) = (counter("running"), counter("max_running"));
    let details = json!({ "agent_id": agent, "running": running, "max_running": max_running });
    if max_running > 0 && running >= max_running {
        let summary =
            format!("{running} tasks run, and `queue.max_running` is {max_running}; then agent `{agent}` gets it");
        return Ok((Why::LimitReached, summary, details));
    }
    let summary = format!("the next call hands it over to agent `{agent}`");
    Ok((Why::Next, summary, details))
}

/// One that an agent holds.
async fn held_by_agent(store: &Store, record: &Record, now_ms: i64) -> Result<Answer, StoreError> {
    let side = store.agent_side(record.id).await?;
    let started_ms = record.started_ms.unwrap_or(now_ms);
    let since = timestamp(started_ms);
    let is_read = match &side.inbox {
        Some(entry) => store.has_read(record.id.partition(), &side.agent, entry).await?,
        None => true,
    };
    let details = json!({
        "worker_id": format!("agent:{}", side.agent),
        "agent_id": side.agent,
        "attempt": record.attempt,
        "started_at": since,
        "running_ms": (now_ms - started_ms).max(0),
        "timeout_seconds": record.body.spec.timeout_seconds,
        "is_read": is_read,
        "last_heartbeat_at": side.beat_ms.map(timestamp),
        "heartbeat_timeout_ms": side.silence_ms,
        "progress": side.progress,
    });
    if is_read {
        let summary = format!(
            "agent `{}` has it since {since}, attempt {}",
            side.agent, record.attempt
        );
        return Ok((Why::Running, summary, details));
    }
    let summary = format!(
        "it waits in the inbox of agent `{}` since {since}; no process of the agent has read it",
        side.agent
    );
    Ok((Why::Unread, summary, details))
}

async fn running(store: &Store, record: &Record, now_ms: i64) -> Result<Answer, StoreError> {
    let (replica, slot) = match record.owner.clone() {
        Some(Owner::Agent) => return held_by_agent(store, record, now_ms).await,
        Some(Owner::Worker(replica, slot)) => (replica, slot),
        None => (String::new(), 0),
    };
    let fleet = fleet(store, record.id.partition(), now_ms).await?;
    let owner = fleet.replicas.iter().find(|member| member.id == replica);
    let started_ms = record.started_ms.unwrap_or(now_ms);
    let since = timestamp(started_ms);
    let last_beat = owner.map(|member| timestamp(member.seen_ms));
    let silent_ms = owner.map(|member| (now_ms - member.seen_ms).max(0));
    let details = json!({
        "worker_id": format!("{replica}/{slot}"),
        "attempt": record.attempt,
        "started_at": since,
        "running_ms": (now_ms - started_ms).max(0),
        "timeout_seconds": record.body.spec.timeout_seconds,
        "owner_last_beat_at": last_beat,
        "owner_silent_ms": silent_ms,
    });
    match silent_ms {
        Some(silent_ms) if silent_ms <= SILENT_MS => {
            let summary = format!("it runs on {replica}/{slot} since {since}, attempt {}", record.attempt);
            Ok((Why::Running, summary, details))
        }
        Some(silent_ms) => {
            let summary = format!(
                "it runs on {replica}/{slot}, which has been silent for {} s; another replica will take it back",
                silent_ms / 1000
            );
            Ok((Why::OwnerSilent, summary, details))
        }
        None => {
            let summary = format!("it runs on {replica}/{slot}, which nobody knows; another replica will take it back");
            Ok((Why::OwnerSilent, summary, details))
        }
    }
}

async fn ended(store: &Store, record: &Record) -> Result<Answer, StoreError> {
    let state = record.state;
    let tail = record
        .tail
        .as_ref()
        .filter(|_| state != TaskState::Completed)
        .and_then(|tail| serde_json::from_str::<Value>(tail.get()).ok())
        .unwrap_or(Value::Null);
    let ended_at = record.finished_ms.map(timestamp);
    let mut details = json!({
        "ended_at": ended_at,
        "attempt": record.attempt,
        "retry_count": record.retry_count,
        "max_retries": record.max_retries,
    });
    let at = ended_at.unwrap_or_default();
    let message = tail["message"].as_str().unwrap_or("unknown");
    let summary = match state {
        TaskState::Pending | TaskState::Running | TaskState::Completed => format!("it completed at {at}"),
        TaskState::Cancelled => {
            details["cancel_reason"] = tail["message"].clone();
            details["root_cause_task_id"] = tail["root_cause_task_id"].clone();
            format!("it was cancelled at {at}: {message}")
        }
        TaskState::Failed | TaskState::Timeout => {
            let letter = format!("{}.{}", record.id, record.attempt);
            let is_kept = !store.dead_letter(record.id.partition(), &letter).await?.is_empty();
            details["error"] = tail.clone();
            details["dead_letter_id"] = if is_kept { json!(letter) } else { Value::Null };
            let how = if state == TaskState::Timeout {
                "ran out of time"
            } else {
                "failed"
            };
            format!("it {how} for good at {at} after {} attempts: {message}", record.attempt)
        }
    };
    Ok((Why::Ended, summary, details))
}

/// How many entries are before a task's.
struct Ahead {
    higher: u64,
    same: u64,
    is_exact: bool,
}

impl Ahead {
    fn total(&self) -> u64 {
        self.higher + self.same
    }

    fn text(&self) -> String {
        if self.is_exact {
            self.total().to_string()
        } else {
            format!("at least {}", self.total())
        }
    }
}

async fn ahead(store: &Store, record: &Record, living: &[&Member]) -> Result<Ahead, StoreError> {
    let partition = record.id.partition();
    let mut ahead = Ahead {
        higher: 0,
        same: 0,
        is_exact: true,
    };
    let mut streams = store.task_streams(partition).await?;
    // What is parked and nobody can run is in nobody's way.
    streams.retain(
        |stream| match stream.strip_prefix("parked:").and_then(|rest| rest.rsplit_once(':')) {
            Some((name, _)) => living
                .iter()
                .any(|member| member.names.iter().any(|known| known == name)),
            None => true,
        },
    );
    let higher = Priority::ALL
        .into_iter()
        .filter(|priority| priority.rank() < record.priority.rank());
    for priority in higher {
        for stream in of_rank(&streams, priority) {
            ahead.higher += store.waiting(partition, stream).await?;
        }
    }
    for stream in of_rank(&streams, record.priority) {
        let (count, is_exact) = store
            .waiting_before(partition, stream, &record.entry_id, COUNTED_MAX)
            .await?;
        ahead.same += count;
        ahead.is_exact &= is_exact;
    }
    Ok(ahead)
}

fn of_rank(streams: &[String], priority: Priority) -> impl Iterator<Item = &str> {
    let rank = format!(":{}", priority.key_part());
    streams
        .iter()
        .map(String::as_str)
        .filter(move |stream| stream.ends_with(&rank))
}

impl Member {
    fn is_living(&self, now_ms: i64) -> bool {
        self.workers > 0 && now_ms - self.seen_ms <= SILENT_MS
    }
}

impl Fleet {
    /// Those that take tasks.
    fn taking(&self, now_ms: i64) -> impl Iterator<Item = &Member> {
        let takes = move |member: &&Member| member.is_living(now_ms) && !member.is_draining;
        self.replicas.iter().filter(takes)
    }
}

async fn fleet(store: &Store, partition: Partition, now_ms: i64) -> Result<Fleet, StoreError> {
    let statistics = store.statistics(partition).await?;
    let mut replicas = Vec::new();
    for (id, fields) in statistics.replicas {
        let number = |name: &str| {
            let found = fields.iter().find(|(known, _)| known == name);
            found.and_then(|(_, value)| value.parse::<i64>().ok())
        };
        replicas.push(Member {
            seen_ms: number("seen_ms").unwrap_or(now_ms),
            workers: number("workers")
                .and_then(|count| u64::try_from(count).ok())
                .unwrap_or_default(),
            is_draining: fields
                .iter()
                .any(|(name, state)| name == "state" && state == "draining"),
            names: store.names_of(partition, &id).await?,
            circuits: fields
                .iter()
                .filter_map(|(name, until)| Some((name.strip_prefix("circuit:")?.to_owned(), until.clone())))
                .collect(),
            id,
        });
    }
    Ok(Fleet { replicas })
}

/// The known name that was most likely meant.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate))
        .min()
        .filter(|(differs_by, candidate)| *differs_by <= candidate.len().max(name.len()) / 3)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near() {
        assert_eq!(nearest("ecoh", &["add", "echo"]), Some("echo"));
        assert_eq!(nearest("send_mail", &["add", "echo"]), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
