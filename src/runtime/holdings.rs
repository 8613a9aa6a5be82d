//! What a replica holds: every attempt that was given to it and is not yet confirmed as settled.
//!
//! The list goes out with every beat. An attempt enters once, however it arrives, so a reply that comes late and the
//! beat that repeats it do not run it twice.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::domain::id::TaskId;

/// The attempts by task.
#[derive(Default)]
pub(crate) struct Holdings {
    held: Mutex<HashMap<TaskId, Held>>,
}

struct Held {
    attempt: u32,
    /// Ends the attempt; it is not this replica's any more.
    cancel: CancellationToken,
    /// Asks the handler to end; the attempt is still this replica's to settle.
    give_up: CancellationToken,
}

impl Holdings {
    fn held(&self) -> MutexGuard<'_, HashMap<TaskId, Held>> {
        // The map is consistent at every step, so a panic elsewhere does not spoil it.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an attempt; answers the token that aborts it and the one that asks it to end, or `None` when it, or a later
    /// one, is held already.
    pub(crate) fn enter(&self, task: TaskId, attempt: u32) -> Option<(CancellationToken, CancellationToken)> {
        let mut held = self.held();
        if held.get(&task).is_some_and(|known| known.attempt >= attempt) {
            return None;
        }
        let (cancel, give_up) = (CancellationToken::new(), CancellationToken::new());
        if let Some(earlier) = held.insert(
            task,
            Held {
                attempt,
                cancel: cancel.clone(),
                give_up: give_up.clone(),
            },
        ) {
            earlier.cancel.cancel();
        }
        Some((cancel, give_up))
    }

    /// Forgets an attempt that is settled, or not the replica's any more.
    pub(crate) fn leave(&self, task: TaskId, attempt: u32) {
        let mut held = self.held();
        if held.get(&task).is_some_and(|known| known.attempt == attempt) {
            held.remove(&task);
        }
    }

    /// Aborts whatever attempt of a task is held.
    pub(crate) fn abort(&self, task: TaskId) {
        if let Some(known) = self.held().get(&task) {
            known.cancel.cancel();
        }
    }

    /// Asks whatever attempt of a task is held to end.
    pub(crate) fn give_up(&self, task: TaskId) {
        if let Some(known) = self.held().get(&task) {
            known.give_up.cancel();
        }
    }

    /// The token that aborts what is held of a task.
    pub(crate) fn token(&self, task: TaskId) -> Option<CancellationToken> {
        self.held().get(&task).map(|known| known.cancel.clone())
    }

    /// Aborts everything.
    pub(crate) fn abort_all(&self) {
        for known in self.held().values() {
            known.cancel.cancel();
        }
    }

    /// All attempts.
    pub(crate) fn list(&self) -> Vec<(TaskId, u32)> {
        self.held().iter().map(|(task, known)| (*task, known.attempt)).collect()
    }

    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.held().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_enters_once_and_a_later_one_aborts_it() {
        let holdings = Holdings::default();
        let task = TaskId::derive("s", "e", None, None, 1);

        let (first, _) = holdings.enter(task, 1).unwrap();
        assert!(holdings.enter(task, 1).is_none());
        let (second, _) = holdings.enter(task, 2).unwrap();

        assert!(first.is_cancelled() && !second.is_cancelled());
        holdings.leave(task, 1);
        assert_eq!(holdings.list(), [(task, 2)]);
        holdings.leave(task, 2);
        assert!(holdings.is_empty());
    }
}
