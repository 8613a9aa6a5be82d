//! How a run ends: drained within the grace, with what is left handed back; or abandoned, when it is fenced.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::Run;

/// Nothing that the run holds is its own any more: everything is aborted and nothing is settled.
pub(super) async fn abandon(run: &Run) {
    const PATIENCE: Duration = Duration::from_secs(1);
    run.stop.cancel();
    run.holdings.abort_all();
    // The next run counts what goes on, so the attempts must have ended. Only a handler that blocks where it must not
    // takes longer.
    tokio::time::timeout(PATIENCE, run.tracker.wait())
        .await
        .unwrap_or_default();
}

/// How long a replica that leaves tries to hand back what it runs.
const HAND_BACK_PATIENCE: Duration = Duration::from_secs(5);
/// How long all that follows may take, should Redis not answer.
pub(super) const GOODBYE_PATIENCE: Duration = Duration::from_secs(10);

/// Lets running tasks finish for the grace, hands the rest back, says goodbye.
pub(super) async fn drain(run: &Arc<Run>, readers: &TaskTracker) {
    info!(replica = %run.replica, running = run.holdings.list().len(), detached = run.detached.count(), "draining");
    let deadline = tokio::time::Instant::now() + run.options.grace;
    run.report_draining().await;
    // A claim under way may still hand out tasks; they run or are handed back like the others.
    let quiet = async {
        readers.wait().await;
        // At once: others may have to wait for their turn behind what this replica holds.
        give_back_inbound(run).await;
        until_empty(run).await;
        run.detached.until_none().await;
    };
    if tokio::time::timeout_at(deadline, quiet).await.is_err() || run.hand_back.is_cancelled() {
        info!(replica = %run.replica, running = run.holdings.list().len(), detached = run.detached.count(),
            "the grace is over; handing back");
        run.hand_back.cancel();
        // Handing back needs Redis; while it is away there is nobody to hand back to.
        tokio::time::timeout(HAND_BACK_PATIENCE, until_empty(run))
            .await
            .unwrap_or_default();
    }
    let goodbye = async {
        give_back_inbound(run).await;
        say_goodbye(run).await;
        // What an answer under way delivered after that.
        give_back_inbound(run).await;
    };
    if tokio::time::timeout(GOODBYE_PATIENCE, goodbye).await.is_err() {
        warn!(replica = %run.replica, "left without a goodbye; another replica will notice");
    }
    match run.detached.count() {
        0 => info!(replica = %run.replica, "left"),
        abandoned => warn!(replica = %run.replica, abandoned,
            "left while blocking functions go on; they end with the process"),
    }
}

/// Leaves all partitions. Where Redis thinks that the replica runs something that it knows nothing of, such as what a
/// claim handed out in an answer that got lost, the next beat finds it, and it is handed back too.
async fn say_goodbye(run: &Arc<Run>) {
    let deadline = tokio::time::Instant::now() + HAND_BACK_PATIENCE;
    for partition in run.store.partitions() {
        loop {
            match run.store.leave(partition, run.replica, true).await {
                Ok(true) => break,
                Ok(false) if tokio::time::Instant::now() < deadline => {
                    run.hand_back.cancel();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(false) => {
                    warn!(replica = %run.replica, "left with tasks in hand; another replica will take them over");
                    break;
                }
                Err(problem) => {
                    run.report(&problem, "can not say goodbye");
                    break;
                }
            }
        }
    }
}

/// Returns the inbound events that were read ahead and not acted upon.
pub(super) async fn give_back_inbound(run: &Run) {
    for stream in [run.store.keys().triggers(), run.store.keys().commands()] {
        match run.store.give_back_inbound(&stream, run.replica).await {
            Ok(0) => {}
            Ok(count) => info!(replica = %run.replica, stream, entries = count, "gave back inbound events"),
            Err(problem) => run.report(&problem, "can not give back inbound events"),
        }
    }
}

/// Waits until every attempt is settled.
async fn until_empty(run: &Run) {
    // The settling loop rings after each batch.
    while !run.holdings.is_empty() {
        tokio::select! {
            () = run.room.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}
