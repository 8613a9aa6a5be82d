//! Whether a history holds: the log against itself, against the stored tasks, and against the statistics.

use std::collections::{BTreeMap, BTreeSet};

use waooaw_orchestration::store::document::StatisticsDocument;
use waooaw_orchestration::store::record::Flags;
use waooaw_orchestration::{TaskId, TaskState};

use super::log::{Log, LogEvent};
use super::redis::TestRedis;
use super::scene::{told, verify};
use super::{holds, schema, wait_for};

/// A task as the events tell it; what counts against its retries, of its last life.
#[derive(Debug)]
struct Folded {
    state: TaskState,
    attempt: u64,
    retries: u64,
    released: u64,
    seq: u64,
    /// How many attempts there were before this life.
    attempts_before: u64,
    life: u64,
    dead_letter: Option<String>,
    priority: String,
    queue: String,
}

/// Checks everything, once what was published has been acted upon. Tasks may be pending or running still, as long as
/// nothing moves.
pub(crate) async fn check(redis: &TestRedis) {
    for stream in ["waooaw:triggers", "waooaw:commands"] {
        wait_for("everything published is acted upon", async || {
            let length: usize = redis.ask(&["XLEN", stream]).await;
            let pending = redis.pending(stream, "orchestrators").await;
            holds(length == 0 && pending == 0, || {
                format!("{stream}: {length} entries, {pending} pending")
            })
        })
        .await;
    }
    let log = redis.log().await;
    check_subjects(&log);
    schema::check(&log.events);
    let tasks = fold_all(&log);
    check_store(redis, &tasks).await;
    check_streams(redis, &tasks).await;
    check_statistics(&log, &tasks, &redis.queue().await.get_statistics().await.unwrap());
    // What users have, which must come to the same.
    let report = verify(&redis.store()).await;
    assert!(report.ok, "{}", told(&report.violations));
}

/// Checks, and that every task has ended.
pub(crate) async fn check_all_ended(redis: &TestRedis) {
    wait_for("every task has ended", async || {
        let statistics = redis.queue().await.get_statistics().await.unwrap();
        let open = statistics.pending_count + statistics.running_count;
        holds(open == 0, || format!("{open} have not"))
    })
    .await;
    check(redis).await;
}

/// For each subject `seq` counts from 1 without gap, and no id comes twice.
fn check_subjects(log: &Log<'_>) {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for event in &log.events {
        assert!(ids.insert(&event.event_id), "twice: {event:?}");
        let seq = last.entry(&event.subject).or_default();
        *seq += 1;
        assert_eq!(event.seq, *seq, "a gap before {event:?}");
        let source = &event.fields["source_agent"];
        assert!(source.starts_with("orchestration-runtime/r-"), "{source}");
    }
}

fn fold_all(log: &Log<'_>) -> BTreeMap<TaskId, Folded> {
    let mut lives: BTreeMap<&str, Vec<&LogEvent>> = BTreeMap::new();
    for event in log.events.iter().filter(|event| event.kind.starts_with("task.")) {
        lives.entry(&event.subject).or_default().push(event);
    }
    lives
        .into_iter()
        .map(|(id, events)| (id.parse().unwrap(), fold(&events)))
        .collect()
}

/// Walks all lives of a task: legal moves only, and the chain of causes is unbroken.
fn fold(events: &[&LogEvent]) -> Folded {
    let first = events[0];
    assert_eq!(first.kind, "task.created", "{first:?}");
    // What undoes a step comes from the end of another task.
    if first.payload["saga_id"].is_null() {
        assert_eq!(first.causation_id, first.text("trigger_event_id"));
    }
    let mut task = Folded {
        state: TaskState::Pending,
        attempt: 0,
        retries: 0,
        released: 0,
        seq: first.seq,
        attempts_before: 0,
        life: 1,
        dead_letter: None,
        priority: first.text("priority").to_owned(),
        queue: first.text("queue").to_owned(),
    };
    assert_eq!(first.payload["attempt"], 0);
    for pair in events.windows(2) {
        let (before, event) = (pair[0], pair[1]);
        assert_eq!(event.correlation_id, first.correlation_id, "{event:?}");
        for name in ["task_id", "task_name", "workflow_id", "trigger_event_id"] {
            assert_eq!(event.payload[name], first.payload[name], "{name} of {event:?}");
        }
        // Somebody asked for these.
        if !["task.cancelled", "task.requeued"].contains(&event.kind.as_str()) {
            assert_eq!(event.causation_id, before.event_id, "{event:?}");
        }
        let is_from = |state| assert_eq!(task.state, state, "{event:?} after {before:?}");
        match event.kind.as_str() {
            "task.started" => {
                is_from(TaskState::Pending);
                task.attempt += 1;
                task.state = TaskState::Running;
            }
            "task.retry_scheduled" => {
                is_from(TaskState::Running);
                task.retries += 1;
                task.state = TaskState::Pending;
                assert_eq!(event.payload["retry_count"], task.retries, "{event:?}");
            }
            "task.released" => {
                is_from(TaskState::Running);
                task.released += 1;
                task.state = TaskState::Pending;
            }
            "task.completed" => {
                is_from(TaskState::Running);
                task.state = TaskState::Completed;
            }
            "task.failed" | "task.timeout" => {
                is_from(TaskState::Running);
                task.state = if event.kind == "task.failed" {
                    TaskState::Failed
                } else {
                    TaskState::Timeout
                };
                assert_eq!(event.payload["attempts"], task.attempt, "{event:?}");
            }
            "task.cancelled" => {
                assert!(!task.state.is_terminal(), "{event:?} after {before:?}");
                task.state = TaskState::Cancelled;
            }
            "task.dead_lettered" => {
                assert!(
                    ["task.failed", "task.timeout"].contains(&before.kind.as_str()),
                    "{event:?} after {before:?}"
                );
                task.dead_letter = Some(event.text("dead_letter_id").to_owned());
            }
            "task.requeued" => {
                assert_eq!(
                    task.dead_letter.take().as_deref(),
                    event.payload["dead_letter_id"].as_str()
                );
                task.state = TaskState::Pending;
                task.life += 1;
                task.attempts_before = task.attempt;
                (task.retries, task.released) = (0, 0);
                assert_eq!(event.payload["life"], task.life, "{event:?}");
            }
            other => panic!("unexpected {other}: {event:?}"),
        }
        assert_eq!(event.payload["attempt"], task.attempt, "{event:?}");
        task.seq = event.seq;
    }
    let is_failed = matches!(task.state, TaskState::Failed | TaskState::Timeout);
    assert_eq!(task.dead_letter.is_some(), is_failed, "{events:?}");
    task
}

/// What the events add up to is what is stored.
async fn check_store(redis: &TestRedis, tasks: &BTreeMap<TaskId, Folded>) {
    let store = redis.store();
    let ids: Vec<TaskId> = tasks.keys().copied().collect();
    for chunk in ids.chunks(500) {
        for (id, record) in chunk.iter().zip(store.tasks(chunk).await.unwrap()) {
            let (folded, record) = (&tasks[id], record.unwrap_or_else(|| panic!("no record of {id}")));
            assert_eq!(record.state, folded.state, "{id}");
            assert_eq!(u64::from(record.attempt), folded.attempt, "{id}");
            assert_eq!(u64::from(record.retry_count), folded.retries, "{id}");
            assert_eq!(u64::from(record.seq), folded.seq, "{id}");
            let used = folded.attempt - folded.attempts_before - folded.released;
            // Behind the pivot of its saga a step is tried for as long as it takes.
            let is_bounded = !record.flags.has(Flags::IS_STEP);
            assert!(
                !is_bounded || used <= 1 + u64::from(record.max_retries),
                "{id}: {folded:?}"
            );
        }
    }
    let queue = redis.queue().await;
    for id in ids.iter().take(20) {
        let document = queue.get_task(*id).await.unwrap();
        let folded = &tasks[id];
        assert_eq!(document.state, folded.state.as_str());
        assert_eq!(u64::from(document.attempt), folded.attempt);
        assert_eq!(document.priority, folded.priority);
        assert_eq!(
            document.completed_at.is_some(),
            folded.state.is_terminal(),
            "{document:?}"
        );
    }
}

/// What runs is what is pending in the streams, and what has ended is nowhere.
async fn check_streams(redis: &TestRedis, tasks: &BTreeMap<TaskId, Folded>) {
    let timers: Vec<String> = redis.ask(&["ZRANGE", "waooaw:{0}:timers", "0", "-1"]).await;
    // Those of running tasks look after agents.
    let is_pending = |id: &&String| {
        let task = id.parse().ok().and_then(|id: TaskId| tasks.get(&id));
        task.is_some_and(|task| task.state == TaskState::Pending)
    };
    let delayed = timers.iter().filter(is_pending).count();
    let (mut entries, mut running) = (0, 0);
    for stream in redis.task_streams().await {
        entries += redis.ask::<usize>(&["XLEN", &stream]).await;
        running += redis.pending(&stream, "workers").await;
    }
    let in_state = |state| tasks.values().filter(|task| task.state == state).count();
    assert_eq!(running, in_state(TaskState::Running), "pending entries of the queues");
    assert_eq!(
        entries + delayed,
        in_state(TaskState::Running) + in_state(TaskState::Pending),
        "entries of the queues and timers"
    );
}

/// The counters are what counting anew gives.
fn check_statistics(log: &Log<'_>, tasks: &BTreeMap<TaskId, Folded>, statistics: &StatisticsDocument) {
    let count = |wanted: &dyn Fn(&Folded) -> bool| tasks.values().filter(|task| wanted(task)).count() as u64;
    let in_state = |state| count(&|task| task.state == state);
    // Each life ends once, and its end stays counted.
    let ends = |kind| log.count(kind) as u64;
    let (pending, running) = (in_state(TaskState::Pending), in_state(TaskState::Running));
    let ended = ends("task.completed") + ends("task.failed") + ends("task.timeout") + ends("task.cancelled");
    assert_eq!(
        [
            statistics.pending_count,
            statistics.running_count,
            statistics.completed_count,
            statistics.failed_count,
            statistics.timeout_count,
            statistics.cancelled_count,
            statistics.total_count,
        ],
        [
            pending,
            running,
            ends("task.completed"),
            ends("task.failed"),
            ends("task.timeout"),
            ends("task.cancelled"),
            pending + running + ended,
        ],
        "pending, running, completed, failed, timeout, cancelled, total"
    );
    for (priority, waiting) in &statistics.by_priority {
        let expected = count(&|task| task.state == TaskState::Pending && task.priority == *priority);
        assert_eq!(*waiting, expected, "{priority}");
    }
    for (name, queue) in &statistics.by_queue {
        let expected = count(&|task| task.state == TaskState::Running && task.queue == *name);
        assert_eq!(queue.running_count, expected, "running of {name}");
    }
    let took_away = |event: &&&LogEvent| ["requeue", "discard"].contains(&event.text("action"));
    // What undoes a step comes out of its dead letter when the saga is resumed.
    let resumed =
        |event: &&&LogEvent| event.payload["saga_id"].is_string() && event.payload["dead_letter_id"].is_string();
    let gone = log.all("operator.action").iter().filter(took_away).count()
        + log.all("task.requeued").iter().filter(resumed).count();
    let is_kept = |event: &&&LogEvent| event.payload["dead_letter_id"].is_string();
    let late = log.all("saga.step_late_success").iter().filter(is_kept).count();
    let undone = |event: &&LogEvent| event.payload["dead_letter_ids"].as_array().unwrap().len();
    let gone = gone + log.all("saga.resumed").iter().map(undone).sum::<usize>();
    let dead = log.count("task.dead_lettered") + log.count("trigger.rejected") + late - gone;
    assert_eq!(statistics.dead_letter_count, dead as u64, "dead letters");
    let durations: Vec<f64> = log
        .all("task.completed")
        .iter()
        .map(|event| event.payload["duration_ms"].as_f64().unwrap())
        .collect();
    let average = statistics.average_duration_seconds;
    if durations.is_empty() {
        assert_eq!(average, None);
    } else {
        #[allow(clippy::cast_precision_loss, reason = "a test has few tasks")]
        let expected = durations.iter().sum::<f64>() / 1000.0 / durations.len() as f64;
        assert!(
            (average.unwrap() - expected).abs() < 0.001,
            "{average:?}, not {expected}"
        );
    }
}
