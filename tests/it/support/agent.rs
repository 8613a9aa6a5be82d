//! An agent that a test plays: it reads its inbox and answers on the bus.

use std::collections::BTreeMap;

use redis::FromRedisValue;
use serde_json::{Value, json};

use super::redis::TestRedis;
use super::{schema, wait_for};

/// One process of an agent.
pub(crate) struct Agent<'a> {
    pub(crate) redis: &'a TestRedis,
    pub(crate) id: &'static str,
    pub(crate) process: &'static str,
}

/// What an inbox holds.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) entry: String,
    pub(crate) kind: String,
    pub(crate) event_id: String,
    pub(crate) payload: Value,
    pub(crate) text: String,
}

impl<'a> Agent<'a> {
    pub(crate) fn new(redis: &'a TestRedis, id: &'static str) -> Self {
        Self {
            redis,
            id,
            process: "one",
        }
    }

    pub(crate) fn inbox(&self) -> String {
        format!("waooaw:{{0}}:agent:{}", self.id)
    }

    /// What came since it was last read.
    pub(crate) async fn read(&self) -> Vec<Letter> {
        self.read_up_to(100).await
    }

    pub(crate) async fn read_up_to(&self, count: usize) -> Vec<Letter> {
        let mut command = redis::cmd("XREADGROUP");
        command
            .arg("GROUP")
            .arg(self.id)
            .arg(self.process)
            .arg("COUNT")
            .arg(count);
        command.arg("STREAMS").arg(self.inbox()).arg(">");
        match self.redis.try_send::<redis::Value>(&command).await {
            Ok(value) => letters(value),
            Err(error) if error.code() == Some("NOGROUP") => Vec::new(),
            Err(error) => panic!("{error}"),
        }
    }

    /// The next assignment.
    pub(crate) async fn next(&self) -> Letter {
        wait_for("an assignment", async || {
            let letters = self.read_up_to(1).await;
            let assigned = letters
                .iter()
                .find(|letter| letter.kind == "orchestration.task.assigned");
            assigned.cloned().ok_or_else(|| format!("{letters:?}"))
        })
        .await
    }

    pub(crate) async fn say(&self, kind: &str, payload: Value) -> String {
        self.say_as(self.id, None, kind, payload).await
    }

    pub(crate) async fn say_as(&self, source: &str, event_id: Option<&str>, kind: &str, payload: Value) -> String {
        let kind = format!("orchestration.task.{kind}");
        let payload = payload.to_string();
        let mut fields = vec![
            (b"event_type".as_slice(), kind.as_bytes()),
            (b"source_agent".as_slice(), source.as_bytes()),
            (b"payload".as_slice(), payload.as_bytes()),
        ];
        if let Some(event_id) = event_id {
            fields.push((b"event_id".as_slice(), event_id.as_bytes()));
        }
        self.redis.add("waooaw:commands", &fields).await
    }

    pub(crate) async fn complete(&self, letter: &Letter, result: Value) -> String {
        let (task, attempt) = (&letter.payload["task_id"], &letter.payload["attempt"]);
        let payload = json!({ "task_id": task, "attempt": attempt, "status": "completed", "result": result });
        self.say("result", payload).await
    }

    pub(crate) async fn fail(&self, letter: &Letter, retryable: bool) -> String {
        let (task, attempt) = (&letter.payload["task_id"], &letter.payload["attempt"]);
        let payload = json!({ "task_id": task, "attempt": attempt, "status": "failed", "retryable": retryable,
            "error": { "type": "OutOfStock", "message": "none left" } });
        self.say("result", payload).await
    }
}

/// What an answer of XREADGROUP or XRANGE holds.
pub(crate) fn letters(value: redis::Value) -> Vec<Letter> {
    type Entry = (String, Vec<String>);
    let streams: Option<Vec<(String, Vec<Entry>)>> = FromRedisValue::from_redis_value(value).unwrap();
    let entries = streams.into_iter().flatten().flat_map(|(_, entries)| entries);
    entries
        .map(|(entry, fields)| {
            let fields: BTreeMap<String, String> = fields
                .chunks_exact(2)
                .map(|pair| (pair[0].clone(), pair[1].clone()))
                .collect();
            schema::check_assignment(&fields);
            let field = |name: &str| fields[name].clone();
            Letter {
                entry,
                kind: field("event_type"),
                event_id: field("event_id"),
                payload: serde_json::from_str(&field("payload")).unwrap(),
                text: field("payload"),
            }
        })
        .collect()
}
