//! Says that the replica lives, and learns what is not its own any more.
//!
//! Every two seconds one beat a partition goes out with the list of all that the replica holds. It runs on a thread
//! with a runtime and a connection of its own: a handler that blocks the others must not make the replica look dead.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::backoff::Waits;
use super::replica::Run;
use crate::domain::id::{Partition, TaskId};
use crate::store::functions::{Beat, BeatReply, Claimed};
use crate::store::{Store, StoreError};

/// The time between beats.
pub(super) const BEAT_INTERVAL: Duration = Duration::from_secs(2);
/// How many beats apart the names of the tasks that can be run are said again.
const RENEW_NAMES_EVERY: u64 = 30;
/// How long an attempt whose assignment was lost waits for a worker.
const SLOT_PATIENCE: Duration = Duration::from_secs(1);

/// Starts the beating thread; it ends with the run.
pub(super) fn start_beating(run: Arc<Run>, store: Store) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("beat".to_owned()).spawn(
        move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(beat(run, store)),
            Err(error) => {
                warn!(%error, "no runtime for the beat; the replica leaves");
                run.fenced.cancel();
            }
        },
    )
}

async fn beat(run: Arc<Run>, store: Store) {
    let partitions: Vec<Partition> = store.partitions().collect();
    let mut number = 0;
    let mut before: Option<Instant> = None;
    let mut waits = Waits::new();
    loop {
        number += 1;
        let began = Instant::now();
        let mut worked = true;
        for partition in &partitions {
            let beat = Beat {
                number,
                since_ms: before.map(|before| u64::try_from(before.elapsed().as_millis()).unwrap_or(u64::MAX)),
                busy: run.slots.busy(),
                workers: run.slots.size(),
                detached: run.detached.count(),
                completed: run.completed.load(Ordering::Relaxed),
                failed: run.failed.load(Ordering::Relaxed),
                renew_names: number % RENEW_NAMES_EVERY == 0,
                held: run.holdings.list(),
            };
            match store.beat(*partition, run.replica, &beat).await {
                Ok(BeatReply::Ok { gone, lost }) => learn(&run, &beat.held, &gone, lost),
                Ok(BeatReply::Stranger) | Err(StoreError::NotJoined) => {
                    warn!(replica = %run.replica, "redis does not know this replica any more; joining anew");
                    run.fenced.cancel();
                    return;
                }
                Err(error) => {
                    run.report(&error, "can not beat");
                    worked = false;
                    break;
                }
            }
        }
        let pause = if worked {
            waits.reset();
            run.progress.mark("beat");
            run.beats.note(began);
            before = Some(began);
            BEAT_INTERVAL.saturating_sub(began.elapsed())
        } else {
            waits.next()
        };
        tokio::select! {
            () = run.left.cancelled() => break,
            () = run.fenced.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
    if run.adopted.is_some() {
        say_goodbye(&run, &store, &partitions).await;
    }
}

/// A program that took tasks by hand lets go of its queue. What it still holds goes to others once it has been silent.
async fn say_goodbye(run: &Run, store: &Store, partitions: &[Partition]) {
    for partition in partitions {
        if let Err(problem) = store.leave(*partition, run.replica, false).await {
            run.report(&problem, "can not say goodbye");
        }
    }
}

fn learn(run: &Arc<Run>, held: &[(TaskId, u32)], gone: &[TaskId], lost: Vec<Claimed>) {
    for task in gone {
        // What was settled or given anew while the beat was under way is no loss.
        let still_held = run.holdings.list();
        // Nor is one that has ended and whose settling is under way: its token is cancelled with its end.
        if let Some(entry) = held.iter().find(|(id, _)| id == task)
            && still_held.contains(entry)
            && !run.holdings.token(*task).is_some_and(|token| token.is_cancelled())
        {
            info!(task_id = %task, "an attempt is not this replica's any more; aborting it");
            run.holdings.abort(*task);
            if run.adopted.is_some() {
                // Whoever took it by hand may never ask for it again.
                run.holdings.leave(entry.0, entry.1);
            }
        }
    }
    for claimed in lost {
        if let Some(adopted) = &run.adopted {
            let claimed_in = claimed.task_id.partition();
            if run.holdings.enter(claimed.task_id, claimed.attempt).is_some() {
                adopted
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_back(claimed);
                run.bell.ring(claimed_in);
            }
            continue;
        }
        let finder = Arc::clone(run);
        run.tracker
            .spawn_on(async move { find_slot(&finder, claimed).await }, &run.runtime);
    }
}

/// Starts an attempt whose assignment was lost, once there is a worker for it; else hands it back.
async fn find_slot(run: &Arc<Run>, mut claimed: Claimed) {
    // The slot that it was given may be another's by now, and idle ones are offered to a call now and then.
    let Ok(slot) = tokio::time::timeout(SLOT_PATIENCE, run.slots.take_next()).await else {
        // Under load none may be free for long, and nobody else would run it.
        run.hand_back_unstarted(&claimed);
        return;
    };
    claimed.slot = slot;
    info!(task_id = %claimed.task_id, attempt = claimed.attempt, "found an attempt whose assignment was lost");
    run.start(claimed);
}
