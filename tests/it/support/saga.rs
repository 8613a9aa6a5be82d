//! Sagas: how tests start them, handlers that do what the arguments say, and what is read of them afterwards.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use waooaw_orchestration::domain::saga::SagaTrigger;
use waooaw_orchestration::runtime::defaults::{Defaults, Origin};
use waooaw_orchestration::runtime::group;
use waooaw_orchestration::runtime::request::new_actor;
use waooaw_orchestration::runtime::saga_execution::saga_execution;
use waooaw_orchestration::{Error, Handlers, ReplicaOptions, TaskContext, TaskError};

use super::local::LocalReplica;
use super::log::{Log, LogEvent};
use super::redis::TestRedis;
use super::wait_for;

/// Starts a saga as a program does, under an event of this name.
pub(crate) async fn try_start(redis: &TestRedis, id: &str, steps: &Value) -> Result<group::Started, Error> {
    let store = redis.store();
    let payload = json!({ "saga_id": id, "name": format!("Saga {id}"), "steps": steps }).to_string();
    let trigger = SagaTrigger::parse(&payload).unwrap();
    let event_id = format!("start-{id}");
    let origin = Origin {
        source_agent: "tester",
        event_id: &event_id,
        correlation_id: None,
        trace: None,
    };
    let group = Defaults::default().saga(trigger, &origin, store.partition_count());
    group::start(&store, new_actor(), group).await
}

/// Starts a saga, which must be a new one.
pub(crate) async fn start(redis: &TestRedis, id: &str, steps: &Value) {
    assert!(try_start(redis, id, steps).await.unwrap().is_new);
}

/// Lets a saga go back.
pub(crate) async fn cancel(redis: &TestRedis, id: &str) -> Result<(), Error> {
    group::cancel_saga(
        &redis.store(),
        new_actor(),
        &id.parse().unwrap(),
        Some("changed my mind"),
    )
    .await
}

/// Lets a saga try again what is left.
pub(crate) async fn resume(redis: &TestRedis, id: &str) -> Result<(), Error> {
    group::resume_saga(&redis.store(), new_actor(), &id.parse().unwrap(), "tester").await
}

/// Its document, as programs get it.
pub(crate) async fn show(redis: &TestRedis, id: &str) -> Value {
    let document = saga_execution(&redis.store(), &id.parse().unwrap()).await.unwrap();
    serde_json::to_value(document).unwrap()
}

/// Waits until it is in a state, and answers its document.
pub(crate) async fn until(redis: &TestRedis, id: &str, state: &str) -> Value {
    wait_for(&format!("saga {id} is {state}"), async || {
        let document = show(redis, id).await;
        if document["state"] == state {
            Ok(document)
        } else {
            Err(format!("{document:#}"))
        }
    })
    .await
}

/// What its events tell, in short words: kind and step.
pub(crate) fn story(log: &Log<'_>, id: &str) -> Vec<String> {
    let short = |event: &&LogEvent| {
        let kind = event.kind.strip_prefix("saga.").unwrap();
        let step = event.text("step");
        if step.is_empty() {
            kind.to_owned()
        } else {
            format!("{} {step}", kind.strip_prefix("step_").unwrap_or(kind))
        }
    };
    log.of(id).iter().map(short).collect()
}

/// What a handler does: its arguments.
#[derive(Debug, Default, Deserialize)]
struct Deed {
    /// Which step it is for.
    #[serde(default)]
    of: String,
    /// How many attempts fail; all when negative.
    #[serde(default)]
    fails: i64,
    /// Whether a failure is one that every attempt would meet.
    #[serde(default)]
    permanent: bool,
    /// Whether it takes effect before it fails, or before it waits.
    #[serde(default)]
    acts_first: bool,
    /// Waits until this gate is opened.
    #[serde(default)]
    gate: Option<String>,
    /// How many attempts never return.
    #[serde(default)]
    hangs: u32,
    /// Does not listen when it is told to end.
    #[serde(default)]
    deaf: bool,
}

/// A place where handlers have effects, which tests look at.
#[derive(Clone, Default)]
pub(crate) struct Shop {
    inner: Arc<Inner>,
}

struct Inner {
    /// What was done, in order.
    book: Mutex<Vec<String>>,
    /// The inputs of each deed.
    inputs: Mutex<BTreeMap<String, Value>>,
    gates: watch::Sender<Vec<String>>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            book: Mutex::default(),
            inputs: Mutex::default(),
            gates: watch::Sender::new(Vec::new()),
        }
    }
}

impl Shop {
    /// Everything that was done, in order: `+a` is a step's action, `-a` its compensation.
    pub(crate) fn book(&self) -> Vec<String> {
        self.inner.book.lock().unwrap().clone()
    }

    /// The inputs that a deed got.
    pub(crate) fn inputs(&self, deed: &str) -> Value {
        self.inner.inputs.lock().unwrap()[deed].clone()
    }

    /// What is done and not undone: names of steps in order, each as often as it is open.
    pub(crate) fn open(&self) -> Vec<String> {
        let mut open: Vec<String> = Vec::new();
        for entry in self.book() {
            let (sign, name) = entry.split_at(1);
            let place = open.iter().position(|known| known == name);
            match (sign, place) {
                // Each effect is of one kind: done twice is done, undone twice is undone.
                ("+", None) => open.push(name.to_owned()),
                ("-", Some(place)) => drop(open.remove(place)),
                _ => {}
            }
        }
        open
    }

    /// Lets everything through that waits, or will wait, at a gate.
    pub(crate) fn open_gate(&self, gate: &str) {
        self.inner.gates.send_modify(|gates| gates.push(gate.to_owned()));
    }

    /// Writes down that something was done.
    pub(crate) fn note(&self, entry: String) {
        self.inner.book.lock().unwrap().push(entry);
    }

    async fn act(self, sign: char, deed: Deed, task: TaskContext) -> Result<Value, TaskError> {
        let entry = format!("{sign}{}", deed.of);
        let inputs = serde_json::from_str(task.inputs.get()).unwrap();
        self.inner.inputs.lock().unwrap().insert(entry.clone(), inputs);
        if deed.acts_first {
            self.note(entry.clone());
        }
        if task.attempt <= deed.hangs {
            std::future::pending::<()>().await;
        }
        if let Some(gate) = &deed.gate {
            let mut gates = self.inner.gates.subscribe();
            let passed = gates.wait_for(|open| open.contains(gate));
            tokio::select! {
                passed = passed => drop(passed.unwrap()),
                () = task.cancelled.cancelled(), if !deed.deaf => return Err(TaskError::new("told to end")),
            }
        }
        if deed.fails < 0 || i64::from(task.attempt) <= deed.fails {
            let error = TaskError::new("no luck");
            return Err(if deed.permanent {
                TaskError::permanent("refused", "no luck")
            } else {
                error
            });
        }
        if !deed.acts_first {
            self.note(entry);
        }
        Ok(json!({ "did": deed.of, "attempt": task.attempt }))
    }

    /// Whether a gate is open.
    pub(crate) fn is_open(&self, gate: &str) -> bool {
        self.inner.gates.borrow().iter().any(|open| open == gate)
    }

    /// The handlers `do` and `undo`.
    pub(crate) fn handlers(&self) -> Handlers {
        let (doing, undoing) = (self.clone(), self.clone());
        Handlers::new()
            .with_async("do", move |deed: Deed, task| doing.clone().act('+', deed, task))
            .with_async("undo", move |deed: Deed, task| undoing.clone().act('-', deed, task))
    }

    /// A replica with them.
    pub(crate) async fn replica(&self, redis: &TestRedis) -> LocalReplica {
        LocalReplica::start(redis, ReplicaOptions::new(self.handlers())).await
    }
}

/// A quick way to fail for good, and one that goes on for longer.
pub(crate) fn retry(max_retries: u32) -> Value {
    json!({ "max_retries": max_retries, "initial_delay_seconds": 0.01, "max_delay_seconds": 0.05 })
}

/// A step that does and undoes something under its name; `more` is set beside, and `deed` among the arguments of both,
/// `undo` among those of the compensation.
pub(crate) fn step(name: &str, deed: &Value, undo: &Value, more: &Value) -> Value {
    let with = |given: &Value| {
        let mut arguments = json!({ "of": name });
        arguments
            .as_object_mut()
            .unwrap()
            .extend(given.as_object().cloned().unwrap_or_default());
        arguments
    };
    let mut step = json!({
        "name": name, "action": "do", "compensation": "undo", "kwargs": with(deed), "compensation_kwargs": with(undo),
        "retry": retry(0), "compensation_retry": retry(2),
    });
    let fields = step.as_object_mut().unwrap();
    fields.extend(more.as_object().cloned().unwrap_or_default());
    if fields["compensation"].is_null() {
        fields.remove("compensation_kwargs");
        fields.remove("compensation_retry");
    }
    step
}

/// A step that goes well.
pub(crate) fn plain(name: &str) -> Value {
    step(name, &json!({}), &json!({}), &json!({}))
}

/// A step that fails for good at once.
pub(crate) fn failing(name: &str) -> Value {
    step(name, &json!({ "fails": -1, "permanent": true }), &json!({}), &json!({}))
}
