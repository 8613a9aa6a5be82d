//! The scene in which a replica is killed.

use std::collections::BTreeSet;

use serde_json::json;

use super::Verdict;
use super::seen::{Seen, count, of};
use super::stage::{Stage, WORKERS};
use crate::cli::exit::Failure;
use crate::domain::event::EventType;
use crate::domain::trigger::TASK_TRIGGER;

/// How many tasks the two replicas have when one is killed.
const JOBS: usize = 12;
/// How many come after another one has joined.
const MORE: usize = 8;
/// The replica that is killed.
const VICTIM: usize = 2;

const KINDS: [EventType; 5] = [
    EventType::TaskStarted,
    EventType::TaskCompleted,
    EventType::TaskRetryScheduled,
    EventType::TaskFailed,
    EventType::WorkerPoolStatus,
];

pub(super) async fn run(stage: &mut Stage) -> Result<Verdict, Failure> {
    let mark = stage.mark();
    publish(stage, "job", JOBS, 2000).await?;
    let busy = 2 * usize::from(WORKERS);
    stage
        .watch(
            mark,
            &KINDS,
            |seen| format!("{} of {JOBS} started", count(seen, EventType::TaskStarted, "job-")),
            |seen| {
                count(seen, EventType::TaskCreated, "job-") >= JOBS
                    && count(seen, EventType::TaskStarted, "job-") >= busy
            },
        )
        .await?;

    let process = stage.process_id(VICTIM);
    stage.kill_replica(VICTIM).await;
    let killed = stage.seconds();
    let victim = stage.replica_id(VICTIM).to_owned();
    // What it ended in its last moment is in the log by now, and nothing comes after.
    stage.read_on(&KINDS).await?;
    let held = held_by(stage.since(mark), &victim);
    stage.screen.happened(
        killed,
        "SIGKILL",
        "",
        &format!(
            "replica {VICTIM} (process {process}) with {} tasks in its hands",
            held.len()
        ),
    )?;
    stage.screen.happened(
        killed,
        "silence",
        "",
        "the other takes over once it has seen no beat for 8 s while its own beats got through",
    )?;
    let began = std::time::Instant::now();
    stage
        .watch(
            mark,
            &KINDS,
            |seen| {
                let done = count(seen, EventType::TaskCompleted, "job-");
                let lost = count(seen, EventType::TaskRetryScheduled, "job-");
                let silence = began.elapsed().as_secs_f64();
                match lost {
                    0 => format!("{done} of {JOBS} completed; replica {VICTIM} silent for {silence:.1} s"),
                    _ => format!("{done} of {JOBS} completed; {lost} taken over"),
                }
            },
            |seen| count(seen, EventType::TaskCompleted, "job-") >= JOBS,
        )
        .await?;

    let later = stage.mark();
    let newcomer = stage.add_replica().await?;
    publish(stage, "more", MORE, 300).await?;
    stage
        .watch(
            later,
            &KINDS,
            |seen| format!("{} of {MORE} completed", count(seen, EventType::TaskCompleted, "more-")),
            |seen| count(seen, EventType::TaskCompleted, "more-") >= MORE,
        )
        .await?;
    Ok(judge(
        stage.since(mark),
        &victim,
        &held,
        (newcomer, stage.replica_id(newcomer)),
    ))
}

async fn publish(stage: &Stage, name: &str, tasks: usize, ms: u64) -> Result<(), Failure> {
    let payload = json!({ "task_name": "sleep", "kwargs": { "ms": ms } });
    for number in 1..=tasks {
        stage
            .publish(TASK_TRIGGER, &format!("{name}-{number}"), &payload)
            .await?;
    }
    Ok(())
}

/// The tasks that a replica has started and not ended.
fn held_by(seen: &[Seen], replica: &str) -> BTreeSet<String> {
    let mut held = BTreeSet::new();
    for event in seen {
        if event.is(EventType::TaskStarted, "job-") && event.replica() == replica {
            held.insert(event.label().to_owned());
        } else if event.is(EventType::TaskCompleted, "job-") {
            held.remove(event.label());
        }
    }
    held
}

fn judge(seen: &[Seen], victim: &str, held: &BTreeSet<String>, newcomer: (usize, &str)) -> Verdict {
    let labels = |events: &mut dyn Iterator<Item = &Seen>| -> BTreeSet<String> {
        events.map(|event| event.label().to_owned()).collect()
    };
    let lost = labels(&mut of(seen, EventType::TaskRetryScheduled, "job-").filter(|event| event.error().0 == "lost"));
    let completed = of(seen, EventType::TaskCompleted, "job-");
    let done = completed.clone().count();
    let once = labels(&mut completed.clone()).len();
    let again = completed
        .filter(|event| held.contains(event.label()) && event.attempt() == 2 && event.replica() != victim)
        .count();
    let is_declared = seen.iter().any(|event| {
        event.kind == Some(EventType::WorkerPoolStatus) && event.subject == victim && event.text("state") == "lost"
    });
    let more = of(seen, EventType::TaskCompleted, "more-");
    let by_newcomer = more.clone().filter(|event| event.replica() == newcomer.1).count();
    let is_good = !held.is_empty()
        && lost == *held
        && again == held.len()
        && (done, once) == (JOBS, JOBS)
        && is_declared
        && more.count() == MORE
        && by_newcomer > 0;
    Verdict::new(
        is_good,
        format!(
            "{} tasks in the hands of the killed replica, {} reported lost, {again} completed elsewhere with attempt 2; \
             {done} of {JOBS} completed, {once} different; the new replica {} did {by_newcomer} of the next {MORE}",
            held.len(),
            lost.len(),
            newcomer.0
        ),
    )
}
