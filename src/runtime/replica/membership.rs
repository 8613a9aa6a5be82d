//! A member that takes tasks by hand, for programs that dequeue.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use super::{ReplicaOptions, Run, Shared, bounds, join};
use crate::domain::id::{Partition, ReplicaId, TaskId};
use crate::error::Error;
use crate::runtime::handler::TaskContext;
use crate::runtime::meters::Meters;
use crate::runtime::recall::Recollection;
use crate::runtime::{member, sweep, watch};
use crate::store::functions::Claimed;
use crate::store::record::Record;
use crate::store::{Store, StoreError};

/// A member that takes tasks by hand: it beats and watches like a replica, and runs nothing by itself.
#[derive(Clone)]
pub(in crate::runtime) struct Membership {
    run: Arc<Run>,
}

impl Membership {
    /// Joins; what a lost answer handed out goes to `adopted`.
    pub(in crate::runtime) async fn begin(
        store: Store,
        beat_store: Store,
        options: ReplicaOptions,
        stop: CancellationToken,
        adopted: Arc<Mutex<VecDeque<Claimed>>>,
    ) -> Result<Self, Error> {
        let shared = Shared {
            bounds: &Arc::new(bounds(&options)),
            detached: &Arc::default(),
            meters: &Arc::new(Meters::new(&options.handlers)),
            recollection: &Recollection::default(),
        };
        let (run, _) = join(&store, &options, shared, &stop, true)
            .await?
            .ok_or_else(|| StoreError::NotConnected("the queue was closed".to_owned()))?;
        let mut run =
            Arc::into_inner(run).ok_or_else(|| StoreError::NotConnected("the queue was closed".to_owned()))?;
        run.adopted = Some(adopted);
        // Beating ends with the queue: there is nothing to drain.
        run.left = stop;
        let run = Arc::new(run);
        member::start_beating(Arc::clone(&run), beat_store)
            .map_err(|error| StoreError::NotConnected(format!("no thread for the beat: {error}")))?;
        // One that is taken for dead ends its loops with it.
        let fenced = Arc::clone(&run);
        tokio::spawn(async move {
            tokio::select! {
                () = fenced.left.cancelled() => {}
                () = fenced.fenced.cancelled() => {
                    fenced.stop.cancel();
                    fenced.left.cancel();
                }
            }
        });
        for partition in store.partitions() {
            tokio::spawn(watch::watch_others(Arc::clone(&run), partition));
            tokio::spawn(watch::promote_due(Arc::clone(&run), partition));
            tokio::spawn(sweep::sweep(Arc::clone(&run), partition));
            tokio::spawn(watch::listen(Arc::clone(&run), partition));
        }
        Ok(Self { run })
    }

    /// Its name.
    pub(in crate::runtime) fn replica(&self) -> ReplicaId {
        self.run.replica
    }

    /// Whether what it holds is its own.
    pub(in crate::runtime) fn is_alive(&self) -> bool {
        !self.run.fenced.is_cancelled()
    }

    /// Notes a task that was handed out; `false` when it is held already.
    pub(in crate::runtime) fn enter(&self, claimed: &Claimed) -> bool {
        self.run.holdings.enter(claimed.task_id, claimed.attempt).is_some()
    }

    /// The attempt of a task that is held.
    pub(in crate::runtime) fn attempt_of(&self, task: TaskId) -> Option<u32> {
        self.run
            .holdings
            .list()
            .into_iter()
            .find(|(held, _)| *held == task)
            .map(|(_, attempt)| attempt)
    }

    /// Forgets a task that is settled.
    pub(in crate::runtime) fn leave(&self, task: TaskId, attempt: u32) {
        self.run.holdings.leave(task, attempt);
    }

    /// Waits until something rings that may mean work.
    pub(in crate::runtime) async fn bell(&self) {
        self.run.bell.heard_any().await;
    }

    /// Says that there may be an earlier timer.
    pub(in crate::runtime) fn wake_timers(&self, partition: Partition) {
        self.run.timers.ring(partition);
    }

    /// What whoever runs the task is told.
    pub(in crate::runtime) async fn context(&self, claimed: &Claimed) -> Result<TaskContext, Error> {
        let record =
            Record::parse(claimed.task_id, &claimed.record).map_err(|_| StoreError::Protocol("task record"))?;
        let cancelled = self.run.holdings.token(claimed.task_id).unwrap_or_default();
        let inputs = self.run.inputs(claimed, &record).await?;
        Ok(TaskContext::new(claimed, record.body, inputs, cancelled))
    }
}
