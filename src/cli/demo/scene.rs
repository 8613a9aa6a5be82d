//! The scenes of the tour, in their order; each publishes, watches, and judges what the log says.

use serde_json::json;

use super::Verdict;
use super::groups;
use super::seen::{Seen, count, of};
use super::stage::{Stage, WORKERS};
use super::takeover;
use crate::cli::exit::Failure;
use crate::domain::event::EventType;
use crate::domain::id::Partition;
use crate::domain::priority::Priority;
use crate::domain::trigger::{TASK_CANCEL, TASK_TRIGGER};

/// One scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scene {
    Priorities,
    Retry,
    BadInput,
    SameTrigger,
    Graph,
    Saga,
    KilledReplica,
}

impl Scene {
    /// All of them, in the order of the tour.
    pub(super) const ALL: [Self; 7] = [
        Self::Priorities,
        Self::Retry,
        Self::BadInput,
        Self::SameTrigger,
        Self::Graph,
        Self::Saga,
        Self::KilledReplica,
    ];

    /// What it is called.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Priorities => "Priorities",
            Self::Retry => "A retry",
            Self::BadInput => "Bad input",
            Self::SameTrigger => "The same trigger again",
            Self::Graph => "A graph",
            Self::Saga => "A saga",
            Self::KilledReplica => "A killed replica",
        }
    }

    /// What it shows.
    pub(super) const fn shows(self) -> &'static str {
        match self {
            Self::Priorities => {
                "all workers are busy while twelve tasks are asked for, least urgent first; then workers come free"
            }
            Self::Retry => "a task fails twice and then succeeds, with a growing wait in between",
            Self::BadInput => "what can not be accepted is answered with all its faults and kept; good work goes on",
            Self::SameTrigger => "one trigger is published a hundred times",
            Self::Graph => "five tasks wait for each other, and each starts as soon as it may",
            Self::Saga => "an order is reserved and charged and can not be shipped; what was done is undone in reverse",
            Self::KilledReplica => "a replica dies in the middle of its work and another takes its tasks over",
        }
    }

    /// Plays it.
    pub(super) async fn run(self, stage: &mut Stage) -> Result<Verdict, Failure> {
        match self {
            Self::Priorities => priorities(stage).await,
            Self::Retry => retry(stage).await,
            Self::BadInput => bad_input(stage).await,
            Self::SameTrigger => same_trigger(stage).await,
            Self::Graph => groups::graph(stage).await,
            Self::Saga => groups::saga(stage).await,
            Self::KilledReplica => takeover::run(stage).await,
        }
    }
}

/// Urgency is judged among tasks that wait together: every worker is held until all twelve are in the queue.
async fn priorities(stage: &mut Stage) -> Result<Verdict, Failure> {
    const EACH: usize = 3;
    let workers = 2 * usize::from(WORKERS);
    let mark = stage.mark();
    for number in 1..=workers {
        let payload = json!({ "task_name": "sleep", "kwargs": { "ms": 60_000 }, "priority": "HIGH" });
        stage.publish(TASK_TRIGGER, &format!("busy-{number}"), &payload).await?;
    }
    let busy = |seen: &[Seen]| count(seen, EventType::TaskStarted, "busy-");
    stage
        .watch(
            mark,
            &[EventType::TaskStarted],
            |seen| format!("{} of {workers} workers are busy", busy(seen)),
            |seen| busy(seen) == workers,
        )
        .await?;

    let mark = stage.mark();
    let names =
        |priority: Priority| (1..=EACH).map(move |number| format!("{}-{number}", priority.as_str().to_lowercase()));
    let wanted: Vec<(Priority, String)> = Priority::ALL
        .into_iter()
        .flat_map(|priority| names(priority).map(move |name| (priority, name)))
        .collect();
    for (priority, name) in wanted.iter().rev() {
        let payload = json!({ "task_name": "sleep", "kwargs": { "ms": 100 }, "priority": priority.as_str() });
        stage.publish(TASK_TRIGGER, name, &payload).await?;
    }
    let of_ours = |seen: &[Seen], kind| -> Vec<String> {
        let events = of(seen, kind, "").map(|event| event.label().to_owned());
        events
            .filter(|label| wanted.iter().any(|(_, name)| name == label))
            .collect()
    };
    let all = wanted.len();
    let is_queued = stage
        .watch(
            mark,
            &[EventType::TaskCreated],
            |seen| format!("{} of {all} created", of_ours(seen, EventType::TaskCreated).len()),
            |seen| of_ours(seen, EventType::TaskCreated).len() == all,
        )
        .await?;

    // The workers come free by a command that cancels what they run.
    let held: Vec<String> = of(stage.since(0), EventType::TaskStarted, "busy-")
        .map(|event| event.subject.clone())
        .collect();
    stage.screen.happened(
        stage.seconds(),
        "cancel",
        "",
        &format!("{} commands end what keeps the workers busy", held.len()),
    )?;
    for (place, task_id) in held.iter().enumerate() {
        let payload = json!({ "task_id": task_id, "reason": "the workers are needed" });
        stage.publish(TASK_CANCEL, &format!("free-{place}"), &payload).await?;
    }
    stage
        .watch(
            mark,
            &[EventType::TaskStarted],
            |seen| format!("{} of {all} completed", of_ours(seen, EventType::TaskCompleted).len()),
            |seen| of_ours(seen, EventType::TaskCompleted).len() == all,
        )
        .await?;

    let seen = stage.since(mark);
    let (created, started) = (
        of_ours(seen, EventType::TaskCreated),
        of_ours(seen, EventType::TaskStarted),
    );
    let completed = of_ours(seen, EventType::TaskCompleted).len();
    let mut expected = created.clone();
    expected.sort_by_key(|label| {
        wanted
            .iter()
            .position(|(_, name)| name == label)
            .map(|place| place / EACH)
    });
    let is_good = is_queued && started == expected && completed == all;
    let order = if started == expected {
        "high, normal, low, background, and within each in the order of creation".to_owned()
    } else {
        format!("{}; due was {}", started.join(" "), expected.join(" "))
    };
    Ok(Verdict::new(
        is_good,
        format!(
            "{} of {all} tasks started in this order: {order}; {completed} completed",
            started.len()
        ),
    ))
}

async fn retry(stage: &mut Stage) -> Result<Verdict, Failure> {
    let mark = stage.mark();
    let payload = json!({
        "task_name": "flaky",
        "kwargs": { "fail_times": 2 },
        "retry": { "max_retries": 3, "initial_delay_seconds": 0.4, "backoff_multiplier": 2, "jitter": 0 },
    });
    stage.publish(TASK_TRIGGER, "flaky-1", &payload).await?;
    let kinds = [
        EventType::TaskCreated,
        EventType::TaskStarted,
        EventType::TaskRetryScheduled,
        EventType::TaskCompleted,
        EventType::TaskFailed,
    ];
    let ends = |seen: &[Seen]| {
        count(seen, EventType::TaskCompleted, "flaky-1") + count(seen, EventType::TaskFailed, "flaky-1") > 0
    };
    stage
        .watch(
            mark,
            &kinds,
            |seen| format!("attempt {}", count(seen, EventType::TaskStarted, "flaky-1")),
            ends,
        )
        .await?;

    let seen = stage.since(mark);
    let starts: Vec<&Seen> = of(seen, EventType::TaskStarted, "flaky-1").collect();
    let failures: Vec<&Seen> = of(seen, EventType::TaskRetryScheduled, "flaky-1").collect();
    let announced: Vec<f64> = failures
        .iter()
        .map(|event| event.payload["delay_seconds"].as_f64().unwrap_or_default())
        .collect();
    #[allow(clippy::cast_precision_loss, reason = "a tour lasts less than 2^53 ms")]
    let waited: Vec<f64> = failures
        .iter()
        .zip(starts.iter().skip(1))
        .map(|(failure, start)| (start.at_ms - failure.at_ms) as f64 / 1000.0)
        .collect();
    let result = of(seen, EventType::TaskCompleted, "flaky-1")
        .next()
        .map(|event| event.result.as_str());
    let is_good = starts.len() == 3
        && announced == [0.4, 0.8]
        && waited
            .iter()
            .zip(&announced)
            .all(|(waited, announced)| waited >= announced)
        && result == Some(r#"{"attempt":3}"#);
    let in_seconds = |values: &[f64]| {
        let values: Vec<String> = values.iter().map(|value| format!("{value:.2} s")).collect();
        values.join(" and ")
    };
    let attempts = starts.len();
    let end = result.map_or("not completed".to_owned(), |result| format!("completed with {result}"));
    Ok(Verdict::new(
        is_good,
        format!(
            "{attempts} attempts, waits of {} where {} were due; {end}",
            in_seconds(&waited),
            in_seconds(&announced)
        ),
    ))
}

/// Three faulty triggers, and a good one behind them.
async fn bad_input(stage: &mut Stage) -> Result<Verdict, Failure> {
    const BAD: [(&str, &str, &str); 3] = [
        ("bad-1", r#"{"task_name": "echo", "args": ["#, "malformed"),
        (
            "bad-2",
            r#"{"task_name": "echo", "argz": ["hi"], "priority": "URGENT"}"#,
            "invalid_field",
        ),
        ("bad-3", r#"{"task_name": "no_such_task"}"#, "unknown_task"),
    ];
    let mark = stage.mark();
    for (name, payload, _) in BAD {
        stage.publish_text(TASK_TRIGGER, name, payload).await?;
    }
    let payload = json!({ "task_name": "echo", "args": ["still here"] });
    stage.publish(TASK_TRIGGER, "good-1", &payload).await?;
    let rejected = |seen: &[Seen]| count(seen, EventType::TriggerRejected, "bad-");
    let good = |seen: &[Seen]| count(seen, EventType::TaskCompleted, "good-1");
    stage
        .watch(
            mark,
            &[EventType::TriggerRejected, EventType::TaskCompleted],
            |seen| format!("{} of {} rejected", rejected(seen), BAD.len()),
            |seen| rejected(seen) >= BAD.len() && good(seen) > 0,
        )
        .await?;

    let mut kept = 0;
    let mut reasons = Vec::new();
    for (name, payload, reason) in BAD {
        let Some(event) = of(stage.since(mark), EventType::TriggerRejected, name).next() else {
            continue;
        };
        if event.text("reason") == reason {
            reasons.push(reason);
        }
        let letter = stage
            .store
            .dead_letter(Partition::default(), event.text("dead_letter_id"))
            .await?;
        let original = letter
            .iter()
            .find(|(field, _)| field == "original")
            .map(|(_, bytes)| bytes);
        let is_whole = |bytes: &Vec<u8>| bytes.windows(payload.len()).any(|part| part == payload.as_bytes());
        kept += usize::from(original.is_some_and(is_whole));
    }
    let seen = stage.since(mark);
    let (answers, made) = (rejected(seen), count(seen, EventType::TaskCreated, "bad-"));
    let is_good =
        answers == BAD.len() && reasons.len() == BAD.len() && kept == BAD.len() && made == 0 && good(seen) == 1;
    Ok(Verdict::new(
        is_good,
        format!(
            "{answers} of {} rejected ({}), {kept} kept in the dead letters with every byte, {made} tasks made of them; \
             {} of 1 good trigger completed",
            BAD.len(),
            reasons.join(", "),
            good(seen)
        ),
    ))
}

async fn same_trigger(stage: &mut Stage) -> Result<Verdict, Failure> {
    const TIMES: usize = 100;
    let mark = stage.mark();
    let payload = json!({ "task_name": "add", "args": [40, 2] });
    stage
        .publish_again_and_again(TIMES, TASK_TRIGGER, "order-7", &payload)
        .await?;
    let kinds = [EventType::TaskCreated, EventType::TaskStarted, EventType::TaskCompleted];
    let completed = |seen: &[Seen]| count(seen, EventType::TaskCompleted, "order-7");
    stage
        .watch(mark, &kinds, |_| String::new(), |seen| completed(seen) > 0)
        .await?;
    // A second task would be made by a copy that is still in the stream.
    let triggers = stage.store.keys().triggers();
    let mut left = stage.store.inbound_length(&triggers).await?;
    for _ in 0..100 {
        if left == 0 {
            break;
        }
        stage.read_on(&kinds).await?;
        left = stage.store.inbound_length(&triggers).await?;
    }
    stage.read_on(&kinds).await?;

    let seen = stage.since(mark);
    let numbers = kinds.map(|kind| count(seen, kind, "order-7"));
    let result = of(seen, EventType::TaskCompleted, "order-7").next();
    let result = result.map_or("nothing", |event| &event.result);
    Ok(Verdict::new(
        numbers == [1, 1, 1] && left == 0 && result == "42",
        format!(
            "{TIMES} triggers, {left} still unread: {} created, {} started, {} completed with {result}",
            numbers[0], numbers[1], numbers[2]
        ),
    ))
}
