//! Notices that Redis lost its last moments.
//!
//! Twice a second a replica looks which event is the newest, and whether the one that it saw before is still there. One
//! that is gone, and that nobody removed, was undone together with the state that it told of: by a power loss with an
//! append-only file that was not yet on disk, by a copy that became the master too early, by somebody who emptied Redis.
//! The first replica to notice says so on the log. Each lets go of what it runs, since it can not know which of it Redis
//! still knows, gives back what Redis thinks that it runs, and goes on under another name.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::warn;

use super::replica::Run;
use crate::domain::id::{Partition, ReplicaId};
use crate::store::upkeep::Remembered;
use crate::store::{Store, StoreError};

/// How often there is a look. What was written and lost in between is not missed by anybody.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What a process remembers of the logs, by partition; it outlives the name under which it joined.
#[derive(Clone, Default)]
pub(super) struct Recollection {
    remembered: Arc<Mutex<Vec<Remembered>>>,
}

impl Recollection {
    fn all(&self) -> MutexGuard<'_, Vec<Remembered>> {
        // Every step leaves the list whole, so a panic elsewhere does not spoil it.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a partition; whether its last moments are lost. Says so where nobody did.
    pub(super) async fn look(
        &self,
        store: &Store,
        partition: Partition,
        replica: ReplicaId,
    ) -> Result<bool, StoreError> {
        let place = usize::from(partition.number());
        let mut remembered = {
            let mut all = self.all();
            if all.len() <= place {
                all.resize_with(place + 1, Remembered::default);
            }
            all[place].clone()
        };
        let last_seen = remembered.entry_id.clone();
        let cut = store.recall(partition, replica, &mut remembered).await?;
        self.all()[place] = remembered;
        if let Some(cut) = &cut {
            warn!(%partition, last_seen, now_at = cut.now_at, announced = cut.is_announced,
                "redis lost its last moments");
        }
        Ok(cut.is_some())
    }
}

/// Looks until the run stops; ends it when something was undone.
pub(super) async fn recall(run: Arc<Run>, partition: Partition) {
    loop {
        tokio::select! {
            () = run.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        match run.recollection.look(&run.store, partition, run.replica).await {
            Ok(false) => {}
            Ok(true) => {
                // The replica's own stop is not asked for: it drains without a grace and joins anew.
                run.hand_back.cancel();
                run.stop.cancel();
            }
            Err(problem) => run.report(&problem, "can not compare the log with what was seen of it"),
        }
    }
}
