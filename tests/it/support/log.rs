//! The log of events, read with plain Redis commands.

use std::collections::BTreeMap;

use redis::FromRedisValue;
use redis::streams::StreamRangeReply;
use serde_json::Value;
use waooaw_orchestration::TaskId;

use super::redis::TestRedis;
use super::wait_for;

/// One event.
#[derive(Debug, Clone)]
pub(crate) struct LogEvent {
    /// The type without `orchestration.`.
    pub(crate) kind: String,
    pub(crate) subject: String,
    pub(crate) seq: u64,
    pub(crate) event_id: String,
    pub(crate) correlation_id: String,
    pub(crate) causation_id: String,
    pub(crate) payload: Value,
    /// All fields as they stand in the stream.
    pub(crate) fields: BTreeMap<String, String>,
}

impl LogEvent {
    fn new(fields: BTreeMap<String, String>) -> Self {
        let text = |name: &str| {
            fields
                .get(name)
                .unwrap_or_else(|| panic!("no {name} in {fields:?}"))
                .clone()
        };
        let event_id = text("event_id");
        let (subject, seq) = event_id.rsplit_once('/').expect("<subject>/<seq>");
        Self {
            kind: text("event_type").strip_prefix("orchestration.").unwrap().to_owned(),
            subject: subject.to_owned(),
            seq: seq.parse().unwrap(),
            correlation_id: text("correlation_id"),
            causation_id: text("causation_id"),
            payload: serde_json::from_str(&text("payload")).unwrap(),
            event_id,
            fields,
        }
    }

    /// A text of the payload; empty where there is none.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.payload[name].as_str().unwrap_or_default()
    }

    /// A time of the payload, ms since the epoch.
    pub(crate) fn time_ms(&self, name: &str) -> i64 {
        time_ms(self.text(name))
    }

    /// The replica in `worker_id`.
    pub(crate) fn replica(&self) -> &str {
        self.text("worker_id").split('/').next().unwrap_or_default()
    }

    /// Whether it ends its task.
    pub(crate) fn is_terminal(&self) -> bool {
        ["task.completed", "task.failed", "task.timeout", "task.cancelled"].contains(&self.kind.as_str())
    }
}

/// A moment in the form of all events, ms since the epoch.
pub(crate) fn time_ms(text: &str) -> i64 {
    assert!(
        text.len() == 24 && text.ends_with('Z'),
        "not in the form of all times: {text}"
    );
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// The log as far as it was read.
pub(crate) struct Log<'a> {
    redis: &'a TestRedis,
    after: String,
    pub(crate) events: Vec<LogEvent>,
}

impl<'a> Log<'a> {
    pub(super) fn new(redis: &'a TestRedis) -> Self {
        Self {
            redis,
            after: "0".to_owned(),
            events: Vec::new(),
        }
    }

    /// Reads what came since.
    pub(crate) async fn refresh(&mut self) {
        loop {
            let after = format!("({}", self.after);
            let page: StreamRangeReply = self
                .redis
                .ask(&["XRANGE", "waooaw:{0}:events", &after, "+", "COUNT", "2000"])
                .await;
            let Some(last) = page.ids.last() else { return };
            self.after.clone_from(&last.id);
            for entry in page.ids {
                let fields = entry
                    .map
                    .into_iter()
                    .map(|(name, value)| (name, String::from_redis_value(value).unwrap()));
                self.events.push(LogEvent::new(fields.collect()));
            }
        }
    }

    /// Reads on until `find` finds something.
    pub(crate) async fn until<T>(&mut self, what: &str, find: impl Fn(&Self) -> Option<T>) -> T {
        wait_for(what, async || {
            self.refresh().await;
            find(self).ok_or_else(|| self.summary())
        })
        .await
    }

    /// Reads on until there are so many events of a kind.
    pub(crate) async fn until_count(&mut self, kind: &str, count: usize) {
        self.until(&format!("{count} of {kind}"), |log| {
            (log.count(kind) >= count).then_some(())
        })
        .await;
    }

    /// Reads on until a task has an event of this kind.
    pub(crate) async fn until_task(&mut self, task: TaskId, kind: &str) -> LogEvent {
        let subject = task.to_string();
        self.until(&format!("{kind} of {task}"), |log| {
            let mut found = log.of(&subject).into_iter().filter(|event| event.kind == kind);
            found.next().cloned()
        })
        .await
    }

    /// All events of a kind.
    pub(crate) fn all(&self, kind: &str) -> Vec<&LogEvent> {
        self.events.iter().filter(|event| event.kind == kind).collect()
    }

    /// How many events there are of a kind.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.events.iter().filter(|event| event.kind == kind).count()
    }

    /// The events about a subject.
    pub(crate) fn of(&self, subject: &str) -> Vec<&LogEvent> {
        self.events.iter().filter(|event| event.subject == subject).collect()
    }

    /// What happened to a task, in short words.
    pub(crate) fn life(&self, task: TaskId) -> Vec<&str> {
        self.of(&task.to_string())
            .into_iter()
            .map(|event| event.kind.strip_prefix("task.").unwrap_or(&event.kind))
            .collect()
    }

    /// The ids of the triggers of started tasks, in the order of the starts.
    pub(crate) fn started(&self) -> Vec<&str> {
        self.all("task.started")
            .into_iter()
            .map(|event| event.text("trigger_event_id"))
            .collect()
    }

    /// How many tasks ran at once after each event.
    pub(crate) fn running(&self) -> Vec<usize> {
        let mut running = std::collections::BTreeSet::new();
        self.events
            .iter()
            .map(|event| {
                if event.kind == "task.started" {
                    running.insert(&event.subject);
                } else if event.kind.starts_with("task.") {
                    running.remove(&event.subject);
                }
                running.len()
            })
            .collect()
    }

    /// What is in it, for messages.
    pub(crate) fn summary(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for event in &self.events {
            *counts.entry(&event.kind).or_default() += 1;
        }
        let from = self.events.len().saturating_sub(12);
        let tail: Vec<String> = self.events[from..]
            .iter()
            .map(|event| format!("{} {} {}", event.event_id, event.kind, event.payload))
            .collect();
        format!("{counts:?}\n{}", tail.join("\n"))
    }
}
