//! Forgets what was kept for long enough, and keeps an eye on the memory of Redis.
//!
//! Every replica does it; a call removes a bounded part, and while there is more the next follows at once. The same calls
//! report when Redis has used most of its memory: new tasks are refused then, before Redis refuses everything, so that
//! what is there can end and make room.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::replica::Run;
use crate::domain::id::Partition;
use crate::store::StoreError;

/// How often there is a look.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How many events one call removes at most; it takes 2 ms of Redis, 5 where results are large.
const SWEEP_BATCH: u32 = 300;
/// Above this part of its memory Redis is given no new tasks.
const MEMORY_PART_MAX: f64 = 0.85;

/// Looks at the memory of Redis; what is known of it is shared by the loops of all partitions.
#[derive(Default)]
struct Memory {
    is_hidden: bool,
}

impl Memory {
    async fn look(&mut self, run: &Run) {
        let used = match run.store.memory_used().await {
            Ok(used) => used.unwrap_or_default(),
            Err(problem @ StoreError::Refused(_)) => {
                if !self.is_hidden {
                    let cause = std::error::Error::source(&problem).map(ToString::to_string);
                    warn!(
                        cause,
                        "can not see how much memory redis uses: new tasks are refused only when it is full"
                    );
                }
                self.is_hidden = true;
                return;
            }
            Err(problem) => return run.report(&problem, "can not see how much memory redis uses"),
        };
        let is_short = used > MEMORY_PART_MAX;
        if run.is_memory_short.swap(is_short, Ordering::Relaxed) != is_short {
            if is_short {
                warn!(used, "redis is short of memory; new tasks wait or are refused");
            } else {
                info!(used, "redis has memory again; new tasks are taken");
            }
        }
    }
}

/// Sweeps one partition until the run stops.
pub(super) async fn sweep(run: Arc<Run>, partition: Partition) {
    let mut memory = Memory::default();
    loop {
        if partition == Partition::default() {
            memory.look(&run).await;
        }
        loop {
            let trimmed = run.store.trim(
                partition,
                run.replica,
                run.options.retention.as_ref(),
                SWEEP_BATCH,
                run.is_memory_short.load(Ordering::Relaxed),
            );
            match trimmed.await {
                Ok(Some(trimmed)) => {
                    if trimmed.events + trimmed.dead_letters > 0 {
                        debug!(%partition, events = trimmed.events, tasks = trimmed.tasks,
                            dead_letters = trimmed.dead_letters, "forgot what was kept for long enough");
                    }
                    if !trimmed.is_more || run.stop.is_cancelled() {
                        break;
                    }
                }
                // Nobody knows the replica; its next beat finds out too.
                Ok(None) => break,
                Err(problem) => {
                    run.report(&problem, "can not forget what was kept for long enough");
                    break;
                }
            }
        }
        tokio::select! {
            () = run.stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP_INTERVAL) => {}
        }
    }
}
