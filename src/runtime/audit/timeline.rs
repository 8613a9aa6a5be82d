//! The history of one task: its events in order, each with what counts in it.
//!
//! The log has no index by subject. What the record says of times bounds the search; where that does not find all of the
//! events, since a clock went back or the record is gone, the whole log is read.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Progress;
use crate::domain::event::{EntryId, Event};
use crate::domain::id::TaskId;
use crate::domain::rfc3339;
use crate::error::Error;
use crate::store::Store;
use crate::store::record::Record;

/// How many events are read at once.
const EVENTS: usize = 1000;
/// How far the times of records and those of entries may lie apart, in ms.
const SLACK_MS: u64 = 2000;

/// One event of a task.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Its number.
    pub seq: u64,
    /// What happened, without `orchestration.task.`.
    pub event: String,
    /// When.
    pub timestamp: String,
    /// How long after the first event that is shown, in ms.
    pub since_first_ms: i64,
    /// How long after the event before, in ms.
    pub since_last_ms: i64,
    /// Which life of the task; each requeue begins another.
    pub life: u64,
    /// Which attempt.
    pub attempt: u64,
    /// Who ran it.
    pub worker_id: Option<String>,
    /// How the attempt failed.
    pub error: Option<Box<RawValue>>,
    /// How many retries were used.
    pub retry_count: Option<u64>,
    /// How long the next attempt waits.
    pub delay_seconds: Option<f64>,
    /// Until when it waits.
    pub due_at: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// The caller's own words.
    pub message: Option<String>,
    /// Who did it by hand.
    pub actor: Option<String>,
    /// Where it is kept after it failed for good.
    pub dead_letter_id: Option<String>,
    /// How long the attempt took, in ms.
    pub duration_ms: Option<u64>,
    /// What it waits for.
    pub blocked_by: Vec<String>,
    /// The event that caused this one.
    pub causation_id: String,
    /// Who wrote it.
    pub source_agent: String,
    /// Where it stands in the log.
    pub entry_id: String,
}

/// The history of one task.
#[derive(Debug, Clone, Serialize)]
pub struct Timeline {
    /// The task.
    pub task_id: String,
    /// What it runs.
    pub task_name: String,
    /// Its state as it is stored; `None` when its record is gone.
    pub state: Option<&'static str>,
    /// The chain that it belongs to.
    pub correlation_id: String,
    /// Whether all events are here; else the first were trimmed.
    pub complete: bool,
    /// Its events.
    pub events: Vec<Step>,
}

#[derive(Deserialize, Default)]
struct Payload {
    #[serde(default)]
    task_name: Option<String>,
    #[serde(default)]
    attempt: Option<u64>,
    #[serde(default)]
    worker_id: Option<String>,
    #[serde(default)]
    error: Option<Box<RawValue>>,
    #[serde(default)]
    retry_count: Option<u64>,
    #[serde(default)]
    delay_seconds: Option<f64>,
    #[serde(default)]
    due_at: Option<String>,
    #[serde(default)]
    run_at: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    actor: Option<String>,
    #[serde(default)]
    dead_letter_id: Option<String>,
    #[serde(default)]
    duration_ms: Option<u64>,
    #[serde(default)]
    life: Option<u64>,
    #[serde(default)]
    blocked_by: Vec<String>,
}

/// All events of a task that are still there, in order, and its record.
///
/// # Errors
///
/// [`Error::TaskNotFound`] when neither the store nor the log knows it.
pub async fn task_events(
    store: &Store,
    id: TaskId,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(Option<Record>, Vec<Event>), Error> {
    let record = store.task(id).await?;
    let mut events = Vec::new();
    if let Some(record) = &record {
        let ms = |time: i64| u64::try_from(time).unwrap_or_default();
        let from = EntryId {
            ms: ms(record.created_ms).saturating_sub(SLACK_MS),
            number: 0,
        };
        let upto = record.finished_ms.map(|finished| EntryId {
            ms: ms(finished).saturating_add(SLACK_MS),
            number: u64::MAX,
        });
        events = search(store, id, from, upto, Some(u64::from(record.seq)), progress).await?;
        if events.len() as u64 != u64::from(record.seq) {
            events.clear();
        }
    }
    if events.is_empty() {
        let last = record.as_ref().map(|record| u64::from(record.seq));
        events = search(store, id, EntryId::default(), None, last, progress).await?;
    }
    if events.is_empty() && record.is_none() {
        return Err(Error::TaskNotFound(id.to_string()));
    }
    Ok((record, events))
}

/// Reads the history of a task.
///
/// # Errors
///
/// [`Error::TaskNotFound`] when neither the store nor the log knows it.
pub async fn timeline(
    store: &Store,
    id: TaskId,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Timeline, Error> {
    let (record, events) = task_events(store, id, progress).await?;
    let mut timeline = Timeline {
        task_id: id.to_string(),
        task_name: record
            .as_ref()
            .map_or_else(String::new, |record| record.body.task_name.clone()),
        state: record.as_ref().map(|record| record.state.as_str()),
        correlation_id: record.map_or_else(String::new, |record| record.body.correlation_id),
        complete: events.first().is_some_and(|event| event.seq() == 1),
        events: Vec::with_capacity(events.len()),
    };
    let mut life = 1;
    let (mut first_ms, mut last_ms) = (None, None);
    for event in events {
        let payload: Payload = serde_json::from_str(event.payload.get()).unwrap_or_default();
        if timeline.task_name.is_empty() {
            timeline.task_name = payload.task_name.clone().unwrap_or_default();
        }
        if timeline.correlation_id.is_empty() {
            timeline.correlation_id.clone_from(&event.correlation_id);
        }
        if event.event_type.ends_with(".requeued") {
            life = payload.life.unwrap_or(life + 1);
        }
        let at_ms = rfc3339::parse_ms(&event.timestamp);
        first_ms = first_ms.or(at_ms);
        let since = |from: Option<i64>| at_ms.zip(from).map_or(0, |(at, from)| at - from);
        let (since_first_ms, since_last_ms) = (since(first_ms), since(last_ms.or(first_ms)));
        last_ms = at_ms.or(last_ms);
        timeline
            .events
            .push(step(&event, payload, life, since_first_ms, since_last_ms));
    }
    Ok(timeline)
}

fn step(event: &Event, payload: Payload, life: u64, since_first_ms: i64, since_last_ms: i64) -> Step {
    Step {
        seq: event.seq(),
        event: event.event_type.trim_start_matches("orchestration.task.").to_owned(),
        timestamp: event.timestamp.clone(),
        since_first_ms,
        since_last_ms,
        life,
        attempt: payload.attempt.unwrap_or_default(),
        worker_id: payload.worker_id,
        error: payload.error,
        retry_count: payload.retry_count,
        delay_seconds: payload.delay_seconds,
        due_at: payload.due_at.or(payload.run_at),
        reason: payload.reason,
        message: payload.message,
        actor: payload.actor,
        dead_letter_id: payload.dead_letter_id,
        duration_ms: payload.duration_ms,
        blocked_by: payload.blocked_by,
        causation_id: event.causation_id.clone(),
        source_agent: event.source_agent.clone(),
        entry_id: event.entry_id.clone(),
    }
}

/// The events of a task in a part of the log; the search ends with the event of number `last`.
async fn search(
    store: &Store,
    id: TaskId,
    from: EntryId,
    upto: Option<EntryId>,
    last: Option<u64>,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Vec<Event>, Error> {
    let subject = id.to_string();
    let mut found: Vec<Event> = Vec::new();
    let (mut after, mut done) = (from, 0);
    loop {
        let part = store.log_part(id.partition(), after, upto, EVENTS).await?;
        let Some(end) = part.last else { break };
        done += part.events.len() as u64;
        found.extend(part.events.into_iter().filter(|event| event.subject() == subject));
        progress(Progress { stage: "events", done });
        if last.is_some_and(|last| found.last().is_some_and(|event| event.seq() >= last)) {
            break;
        }
        after = end;
    }
    Ok(found)
}
