//! What others may ask of a running replica: whether it does its work, and how it does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Run;
use crate::domain::id::ReplicaId;
use crate::runtime::circuits::OpenCircuit;
use crate::runtime::meters::Meters;
use crate::runtime::report::Bounds;

/// What others may ask of a running replica.
#[derive(Clone)]
pub struct ReplicaHandle {
    pub(super) current: Arc<Mutex<Option<Arc<Run>>>>,
    pub(super) meters: Arc<Meters>,
    pub(super) bounds: Arc<Bounds>,
    pub(super) stop: CancellationToken,
}

/// How many workers a replica has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WorkerCount {
    /// All.
    pub slots: u16,
    /// Those that run a task.
    pub busy: u16,
    /// Those held by a blocking function whose attempt is over.
    pub detached: u16,
    /// How many there may be.
    pub max: u16,
}

/// Whether a replica does its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Triggers and tasks are being consumed.
    Ready,
    /// It is not joined (yet).
    Joining,
    /// It is stopping.
    Draining,
    /// These loops do not get through to Redis.
    Deaf(Vec<&'static str>),
    /// Every worker is held by a blocking function that goes on after its attempt has ended.
    Exhausted,
}

impl ReplicaHandle {
    /// Whether triggers and tasks are really being consumed.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        if self.stop.is_cancelled() {
            return Readiness::Draining;
        }
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            None => Readiness::Joining,
            Some(run) => {
                let deaf = run.progress.deaf();
                if !deaf.is_empty() {
                    Readiness::Deaf(deaf)
                } else if run.is_exhausted() {
                    Readiness::Exhausted
                } else {
                    Readiness::Ready
                }
            }
        }
    }

    /// The handlers that are paused since their target does not answer.
    #[must_use]
    pub fn open_circuits(&self) -> Vec<OpenCircuit> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map_or_else(Vec::new, |run| run.circuits.open())
    }

    /// What the replica counted since the process began, under whatever names it joined.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// The workers as they are right now.
    #[must_use]
    pub fn workers(&self) -> WorkerCount {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, max) = self.bounds.range();
        current.as_ref().map_or(
            WorkerCount {
                max,
                ..WorkerCount::default()
            },
            |run| WorkerCount {
                slots: run.slots.size(),
                busy: run.slots.busy(),
                detached: run.detached.count(),
                max,
            },
        )
    }

    /// For each loop how long ago it got through to Redis; none for one that waits for something else.
    #[must_use]
    pub fn progress(&self) -> Vec<(&'static str, Option<Duration>)> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map_or_else(Vec::new, |run| run.progress.ages())
    }

    /// The names of all handlers, with whether each is paused since its target does not answer.
    #[must_use]
    pub fn circuits(&self) -> Vec<(String, bool)> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map_or_else(Vec::new, |run| run.circuits.all())
    }

    /// How many blocking functions go on after their attempts have ended.
    #[must_use]
    pub fn detached(&self) -> u16 {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map_or(0, |run| run.detached.count())
    }

    /// The replica's id right now.
    #[must_use]
    pub fn replica_id(&self) -> Option<ReplicaId> {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(|run| run.replica)
    }
}
