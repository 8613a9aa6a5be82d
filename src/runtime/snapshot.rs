//! Publishes what the statistics say, every few seconds, to a stream that keeps an hour of it.

use std::sync::Arc;

use serde::Serialize;
use tracing::error;

use super::queue::statistics;
use super::replica::Run;
use crate::error::Error;
use crate::store::document::{StatisticsDocument, WorkerPoolDocument};

/// The payload: the sums over all replicas, whoever publishes them.
#[derive(Serialize)]
struct Snapshot<'a> {
    replica: &'a str,
    task_queue: QueueSection<'a>,
    worker_pool: &'a WorkerPoolDocument,
}

/// The counts by the bare words of the mission document, and all that the statistics say by their names.
#[derive(Serialize)]
struct QueueSection<'a> {
    total_tasks: u64,
    pending: u64,
    running: u64,
    completed: u64,
    failed: u64,
    timeout: u64,
    cancelled: u64,
    #[serde(flatten)]
    statistics: &'a StatisticsDocument,
}

fn payload(replica: &str, statistics: &StatisticsDocument) -> Result<String, serde_json::Error> {
    let mut value = serde_json::to_value(Snapshot {
        replica,
        task_queue: QueueSection {
            total_tasks: statistics.total_count,
            pending: statistics.pending_count,
            running: statistics.running_count,
            completed: statistics.completed_count,
            failed: statistics.failed_count,
            timeout: statistics.timeout_count,
            cancelled: statistics.cancelled_count,
            statistics,
        },
        worker_pool: &statistics.worker_pool,
    })?;
    // It has a section of its own.
    if let Some(section) = value["task_queue"].as_object_mut() {
        section.remove("worker_pool");
    }
    serde_json::to_string(&value)
}

/// Publishes until the run stops; the first at once.
pub(super) async fn publish_snapshots(run: Arc<Run>) {
    let mut seq = 0;
    loop {
        match statistics(&run.store).await {
            Ok(statistics) => {
                tell_wrong_streams(&statistics);
                match payload(run.replica.as_str(), &statistics) {
                    Ok(payload) => match run.store.publish_snapshot(run.replica, seq + 1, &payload).await {
                        Ok(()) => seq += 1,
                        Err(problem) => run.report(&problem, "can not publish a metrics snapshot"),
                    },
                    Err(problem) => error!(%problem, "can not write a metrics snapshot"),
                }
            }
            Err(Error::RedisUnavailable(problem) | Error::Store(problem)) => {
                run.report(&problem, "can not take a metrics snapshot");
            }
            Err(problem) => error!(%problem, "can not take a metrics snapshot"),
        }
        tokio::select! {
            () = run.stop.cancelled() => return,
            () = run.fenced.cancelled() => return,
            () = tokio::time::sleep(run.options.snapshot_interval) => {}
        }
    }
}

/// Says aloud what only a person can mend.
fn tell_wrong_streams(statistics: &StatisticsDocument) {
    for stream in &statistics.wrong_streams {
        error!(
            stream,
            "something else stands under the key of a stream, and its tasks wait: remove it, then `waooaw doctor --repair`"
        );
    }
}
