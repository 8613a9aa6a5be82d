//! A partition with a task in every place, at rest: made by calls of the functions, with nobody at work. It can be broken and
//! put back.

use std::collections::BTreeMap;

use waooaw_orchestration::domain::id::{Name, Partition, ReplicaId};
use waooaw_orchestration::domain::trigger::{Start, TaskTrigger};
use waooaw_orchestration::runtime::audit::{self, Finding, Report, Scope};
use waooaw_orchestration::store::functions::{Appetite, Asker, Joining, Outcome, Settlement};
use waooaw_orchestration::store::record::NewTask;
use waooaw_orchestration::{Priority, RetryPolicy, Store, TaskId};

use super::redis::TestRedis;

const ERROR: &str = r#"{"type":"handler_error","message":"no luck"}"#;

/// The tasks by where they are.
pub(crate) struct Scene {
    pub(crate) redis: TestRedis,
    pub(crate) store: Store,
    pub(crate) replica: ReplicaId,
    pub(crate) completed: TaskId,
    pub(crate) failed: TaskId,
    pub(crate) retried: TaskId,
    pub(crate) running: TaskId,
    pub(crate) waiting: TaskId,
    pub(crate) blocked: TaskId,
    pub(crate) delayed: TaskId,
    pub(crate) parked: TaskId,
    saved: Vec<(String, Vec<u8>)>,
}

fn task(event_id: &str, name: &str, workflow: Option<&str>) -> NewTask {
    let workflow_id: Option<Name> = workflow.map(|name| name.parse().unwrap());
    NewTask {
        id: TaskId::derive("scene", event_id, workflow, None, 1),
        trigger: TaskTrigger::new(name.parse().unwrap()),
        event_id: event_id.to_owned(),
        correlation_id: event_id.to_owned(),
        trace: None,
        workflow_id,
        saga: None,
        retry: RetryPolicy::STANDARD,
        queue: "default".parse().unwrap(),
        priority: Priority::Normal,
        timeout_seconds: None,
    }
}

impl Scene {
    pub(crate) async fn start() -> Self {
        let redis = TestRedis::start().await;
        let store = redis.store();
        let replica = ReplicaId::from_random(7);
        let here = Partition::default();
        let joining = Joining {
            max_size: Some(1000),
            max_running: Some(0),
            workers: Some(4),
            started_at: "2026-01-31T12:00:00Z",
            announce: true,
            task_names: &["work".to_owned()],
            limits: &BTreeMap::new(),
        };
        store.join(here, replica, &joining).await.unwrap();
        for stream in [store.keys().triggers(), store.keys().commands()] {
            store.make_inbound_group(&stream).await.unwrap();
        }
        let hungry = |slots: &[u16]| Appetite {
            slots: slots.to_vec(),
            ..Appetite::none()
        };
        let create = async |tasks: &[NewTask], slots: &[u16]| {
            let made = store.create(here, replica, Asker::Program, &hungry(slots), tasks).await;
            made.unwrap();
        };
        let settle = async |id: TaskId, attempt: u32, outcome: Outcome, slots: &[u16]| {
            let settlement = Settlement {
                task_id: id,
                attempt,
                outcome,
            };
            store
                .settle(here, replica, &hungry(slots), &[settlement])
                .await
                .unwrap();
        };
        let done = || Outcome::Completed {
            result: "42".to_owned(),
            summary: None,
        };
        let again = || Outcome::Failed {
            error: ERROR.to_owned(),
            delay_ms: 0,
        };

        let completed = task("completed", "work", None);
        create(std::slice::from_ref(&completed), &[0]).await;
        settle(completed.id, 1, done(), &[]).await;
        let failed = task("failed", "work", None);
        create(std::slice::from_ref(&failed), &[0]).await;
        let outcome = Outcome::Rejected {
            error: ERROR.to_owned(),
        };
        settle(failed.id, 1, outcome, &[]).await;
        let retried = task("retried", "work", None);
        create(std::slice::from_ref(&retried), &[0]).await;
        settle(retried.id, 1, again(), &[0]).await;
        settle(retried.id, 2, again(), &[0]).await;
        settle(retried.id, 3, done(), &[]).await;
        let parked = task("parked", "nobody_runs_this", None);
        create(std::slice::from_ref(&parked), &[0]).await;
        let running = task("running", "work", None);
        create(std::slice::from_ref(&running), &[1]).await;
        let mut delayed = task("delayed", "work", None);
        delayed.trigger.start = Start::After(std::time::Duration::from_secs(3600));
        let waiting = task("waiting", "work", Some("w-1"));
        let mut blocked = task("blocked", "work", Some("w-1"));
        blocked.trigger.dependencies = vec![waiting.id.to_string().parse().unwrap()];
        create(&[waiting.clone(), delayed.clone()], &[]).await;
        create(std::slice::from_ref(&blocked), &[]).await;

        let mut scene = Self {
            redis,
            store,
            replica,
            completed: completed.id,
            failed: failed.id,
            retried: retried.id,
            running: running.id,
            waiting: waiting.id,
            blocked: blocked.id,
            delayed: delayed.id,
            parked: parked.id,
            saved: Vec::new(),
        };
        scene.save().await;
        scene
    }

    /// Remembers every key.
    async fn save(&mut self) {
        for key in self.redis.ask::<Vec<String>>(&["KEYS", "*"]).await {
            let dump: Vec<u8> = self.redis.send(redis::cmd("DUMP").arg(&key)).await;
            self.saved.push((key, dump));
        }
    }

    /// Puts everything back.
    pub(crate) async fn restore(&self) {
        let () = self.redis.ask(&["FLUSHALL"]).await;
        for (key, dump) in &self.saved {
            let () = self.redis.send(redis::cmd("RESTORE").arg(key).arg(0).arg(dump)).await;
        }
    }

    /// Writes past all functions: commands with words between spaces, `~` for a space in one.
    pub(crate) async fn write(&self, commands: &[String]) {
        for command in commands {
            let words: Vec<String> = command.split(' ').map(|word| word.replace('~', " ")).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let _: redis::Value = self.redis.ask(&words).await;
        }
    }

    pub(crate) async fn verify(&self) -> Report {
        verify(&self.store).await
    }

    /// The entry of a task that waits or runs.
    pub(crate) async fn entry(&self, id: TaskId) -> String {
        self.store.task(id).await.unwrap().unwrap().entry_id.to_string()
    }

    /// The entry of the log that holds an event.
    pub(crate) async fn event(&self, id: TaskId, seq: u64) -> String {
        let wanted = format!("{id}/{seq}");
        let events = self.store.events_after(Partition::default(), "0", 1000).await.unwrap();
        let event = events.into_iter().find(|event| event.event_id == wanted);
        event.unwrap().entry_id
    }
}

/// Audits everything.
pub(crate) async fn verify(store: &Store) -> Report {
    audit::verify(store, Scope::Everything, &|_| {}).await.unwrap()
}

/// What was found, one to a line.
pub(crate) fn told(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings
        .iter()
        .map(|finding| format!("{} {}: {}", finding.guarantee, finding.subject, finding.message))
        .collect();
    lines.join("\n")
}
