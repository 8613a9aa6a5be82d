//! What agents ask for while things break, and the record of it.
//!
//! Triggers of all kinds go straight to Redis, each again and again under the same event id until Redis has taken it, as
//! a careful agent does. The record is what the log is held against in the end.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waooaw_orchestration::{DeadLetterKind, DeadLetterQuery, DeadLetters, Operator, RetryPolicy, RetryStrategy};

use super::agent::SILENCE;
use super::chance::Chance;
use super::groups::{self, Group};
use super::journal::Journal;
use super::rig::HANDMADE;
use super::support::oracle::{AGENT, Behaviour, Promise};
use super::support::redis::{TestRedis, task_of};
use super::support::script::{Act, Script};

/// What must become of what was asked for.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    /// It can only be rejected.
    Rejection,
    /// A task.
    Task(Promise),
    /// A workflow or saga, under the id of the event.
    Group(Group),
}

impl Wish {
    /// The type of the event that asks for it.
    const fn event_type(&self) -> &'static str {
        match self {
            Self::Rejection | Self::Task(_) => "orchestration.task.trigger",
            Self::Group(Group::Workflow(_)) => "orchestration.workflow.start",
            Self::Group(Group::Saga(_)) => "orchestration.saga.start",
        }
    }
}

/// What one event id stands for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) payload: String,
    pub(crate) wish: Wish,
    /// How often Redis said that it took it.
    pub(crate) accepted: u32,
    /// How often it may have.
    pub(crate) tried: u32,
    /// When it took it last.
    pub(crate) accepted_at: Option<Instant>,
}

/// The record, by event id.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) asked: Mutex<BTreeMap<String, Asked>>,
}

impl Record {
    /// Notes an answer of Redis to a trigger; whether it has taken it.
    fn note(&self, event_id: &str, answer: &redis::RedisResult<String>) -> bool {
        let mut asked = self.asked.lock().unwrap();
        let asked = asked.get_mut(event_id).expect("it was added first");
        // What Redis refuses with a reason it did not take; after anything else nobody knows.
        let is_refused = answer.as_ref().err().is_some_and(|error| error.code().is_some());
        asked.tried += u32::from(!is_refused);
        if answer.is_ok() {
            asked.accepted += 1;
            asked.accepted_at = Some(Instant::now());
        }
        answer.is_ok()
    }
}

/// A policy with delays that a short run can wait for.
pub(crate) fn quick(chance: &mut Chance) -> RetryPolicy {
    let strategies = [
        RetryStrategy::Exponential,
        RetryStrategy::Linear,
        RetryStrategy::Fibonacci,
    ];
    let mut policy = RetryPolicy::QUICK;
    policy.max_retries = u32::try_from(chance.within(0..4)).unwrap_or_default();
    policy.initial_delay_seconds = 0.1;
    policy.max_delay_seconds = 0.5;
    policy.increment_seconds = 0.1;
    policy.jitter = 0.2;
    policy.strategy = *chance.pick(&strategies);
    policy
}

/// Something that only becomes a dead letter.
fn malformed(chance: &mut Chance) -> String {
    let texts = [
        "",
        "no json",
        "[1,2,3]",
        "{}",
        r#"{"task_name":""}"#,
        r#"{"task_name":"echo","no_such_field":1}"#,
        r#"{"task_name":"echo","priority":"URGENT"}"#,
        r#"{"task_name":"echo","timeout_seconds":-1}"#,
        r#"{"task_name":"nobody_has_this"}"#,
    ];
    (*chance.pick(&texts)).to_owned()
}

/// What an agent is to do with the attempts of a task; most go well.
pub(crate) fn script(chance: &mut Chance) -> Script {
    let acts = [
        Act::Succeeds,
        Act::Succeeds,
        Act::Succeeds,
        Act::Beats,
        Act::Repeats,
        Act::Repeats,
        Act::Fails,
        Act::Fails,
        Act::GivesUp,
        Act::ComesLate,
        Act::KeepsSilent,
        Act::KeepsSilent,
    ];
    Script([(); 4].map(|()| *chance.pick(&acts)))
}

/// What becomes of a task.
pub(crate) fn promise(behaviour: Behaviour, policy: RetryPolicy) -> Promise {
    let mut promise = Promise::new(behaviour, policy);
    promise.silence_ms = i64::try_from(SILENCE.as_millis()).unwrap_or_default();
    promise
}

/// A task that an agent carries out.
fn handmade(chance: &mut Chance, policy: RetryPolicy) -> (Value, Promise) {
    let script = script(chance);
    let mut payload = json!({ "task_name": HANDMADE, "kwargs": script.kwargs() });
    let mut promise = promise(Behaviour::Scripted(script), policy);
    if chance.once_in(2) {
        payload["agent_id"] = json!(AGENT);
    }
    if chance.once_in(8) {
        payload["timeout_seconds"] = json!(1.5);
        promise.timeout_ms = Some(1500);
    }
    (payload, promise)
}

/// A task of any kind, and what must become of it.
fn task(chance: &mut Chance) -> (Value, Promise) {
    let policy = quick(chance);
    let (mut payload, mut promise) = match chance.within(0..20) {
        number @ 0..16 => {
            let (payload, behaviour) = machine_made(chance, number);
            (payload, promise(behaviour, policy))
        }
        _ => handmade(chance, policy),
    };
    payload["retry"] = json!(policy);
    payload["priority"] = json!(*chance.pick(&["HIGH", "NORMAL", "NORMAL", "LOW", "BACKGROUND"]));
    if chance.once_in(3) {
        payload["queue"] = json!(*chance.pick(&["mail", "reports"]));
    }
    if chance.once_in(6) {
        let delay_ms = chance.within(100..3000);
        payload["delay_seconds"] = json!(std::time::Duration::from_millis(delay_ms).as_secs_f64());
        promise.delay_ms = i64::try_from(delay_ms).unwrap_or_default();
    }
    (payload, promise)
}

/// One of the tasks that replicas carry out themselves, by a number below 16.
fn machine_made(chance: &mut Chance, number: u64) -> (Value, Behaviour) {
    match number {
        0..4 => (
            json!({ "task_name": "echo", "args": [[], {}, 9_007_199_254_740_993_u64, "ä\n"] }),
            Behaviour::Succeeds,
        ),
        // Not every replica has the handler.
        4..6 => (json!({ "task_name": "add", "args": [40, 2] }), Behaviour::Succeeds),
        6..9 => {
            let ms = chance.within(5..600);
            (
                json!({ "task_name": "sleep", "kwargs": { "ms": ms } }),
                Behaviour::Succeeds,
            )
        }
        9 => (
            json!({ "task_name": "sleep", "kwargs": { "ms": chance.within(2000..5000) } }),
            Behaviour::Succeeds,
        ),
        10..13 => {
            let times = chance.within(1..5);
            (
                json!({ "task_name": "flaky", "kwargs": { "fail_times": times } }),
                Behaviour::FailsFor(times),
            )
        }
        13..15 => (
            json!({ "task_name": "fail", "kwargs": { "message": "as asked" } }),
            Behaviour::Fails,
        ),
        _ => (
            json!({ "task_name": "sleep", "kwargs": { "ms": 60_000 }, "timeout_seconds": 0.2 }),
            Behaviour::Outlasts,
        ),
    }
}

/// Asks for things until `until`.
pub(crate) async fn run(redis: &TestRedis, record: &Record, journal: &Journal, seed: u64, until: Instant) {
    let mut chance = Chance::new(seed, 2);
    let mut number = 0;
    let mut known: Vec<String> = Vec::new();
    while Instant::now() < until {
        // Now and then many at once.
        let burst = if chance.once_in(40) { 60 } else { 1 };
        for _ in 0..burst {
            number += 1;
            match chance.within(0..24) {
                0 if !known.is_empty() => {
                    let again = chance.pick(&known).clone();
                    publish(redis, record, &again).await;
                }
                1 if !known.is_empty() => {
                    let victim = chance.pick(&known).clone();
                    cancel(redis, record, number, &victim).await;
                }
                2 => {
                    let event_id = format!("bad-{number}");
                    add(record, &event_id, malformed(&mut chance), Wish::Rejection);
                    publish(redis, record, &event_id).await;
                    if chance.once_in(3) {
                        publish(redis, record, &event_id).await;
                    }
                }
                3 => {
                    let event_id = format!("workflow-{number}");
                    let (payload, group) = groups::workflow(&mut chance, &event_id);
                    add(record, &event_id, payload.to_string(), Wish::Group(group));
                    publish(redis, record, &event_id).await;
                    known.push(event_id);
                }
                4 => {
                    let event_id = format!("saga-{number}");
                    let (payload, group) = groups::saga(&mut chance, &event_id);
                    add(record, &event_id, payload.to_string(), Wish::Group(group));
                    publish(redis, record, &event_id).await;
                    known.push(event_id);
                }
                5 => requeue(redis).await,
                _ => {
                    let event_id = format!("e-{number}");
                    let (payload, promise) = task(&mut chance);
                    add(record, &event_id, payload.to_string(), Wish::Task(promise));
                    publish(redis, record, &event_id).await;
                    known.push(event_id);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(chance.within(5..50))).await;
    }
    journal.say(&format!("asked for {number} things"));
}

fn add(record: &Record, event_id: &str, payload: String, wish: Wish) {
    let asked = Asked {
        payload,
        wish,
        accepted: 0,
        tried: 0,
        accepted_at: None,
    };
    record.asked.lock().unwrap().insert(event_id.to_owned(), asked);
}

/// Publishes one trigger until Redis has taken it.
async fn publish(redis: &TestRedis, record: &Record, event_id: &str) {
    let (event_type, payload) = {
        let asked = record.asked.lock().unwrap();
        let asked = &asked[event_id];
        (asked.wish.event_type(), asked.payload.clone())
    };
    let command = event("waooaw:triggers", event_type, event_id, &payload);
    loop {
        let answer = redis.try_send::<String>(&command).await;
        if record.note(event_id, &answer) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn event(stream: &str, event_type: &str, event_id: &str, payload: &str) -> redis::Cmd {
    let fields = [
        ("event_type", event_type),
        ("source_agent", "tester"),
        ("event_id", event_id),
        ("payload", payload),
    ];
    let mut command = redis::cmd("XADD");
    command.arg(stream).arg("*").arg(&fields);
    command
}

/// Asks once for the end of a task, workflow or saga. Whether it comes in time is open.
async fn cancel(redis: &TestRedis, record: &Record, number: u64, event_id: &str) {
    let (event_type, payload) = match &mut record
        .asked
        .lock()
        .unwrap()
        .get_mut(event_id)
        .expect("it is known")
        .wish
    {
        Wish::Task(promise) => {
            promise.is_cancelled = true;
            let id = task_of(event_id).to_string();
            ("orchestration.task.cancel", json!({ "task_id": id }))
        }
        Wish::Group(Group::Workflow(_)) => ("orchestration.workflow.stop", json!({ "workflow_id": event_id })),
        Wish::Group(Group::Saga(_)) => ("orchestration.saga.cancel", json!({ "saga_id": event_id })),
        Wish::Rejection => return,
    };
    let command = event(
        "waooaw:commands",
        event_type,
        &format!("cancel-{number}"),
        &payload.to_string(),
    );
    // Lost is lost: that, too, is something that agents do.
    redis.try_send::<String>(&command).await.map(drop).unwrap_or_default();
}

/// Lets the latest of the tasks that failed for good live again, if Redis is there to be asked.
async fn requeue(redis: &TestRedis) {
    let letters = DeadLetters::new(redis.store());
    let query = DeadLetterQuery {
        kind: Some(DeadLetterKind::Task),
        ..DeadLetterQuery::default()
    };
    let requeued = async {
        let page = letters.list(&query, 1, None).await.ok()?;
        let id = page.items.first()?.dead_letter_id.clone();
        letters.requeue(&Operator::new("tester", None), &id, None).await.ok()
    };
    // It may be refused, as a step of a saga is, and it may be unknown what came of it.
    tokio::time::timeout(Duration::from_secs(2), requeued)
        .await
        .map(drop)
        .unwrap_or_default();
}
