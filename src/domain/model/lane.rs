//! Where tasks wait: one lane is one stream, its order and its pending list.

use std::collections::VecDeque;

use super::Owner;
use crate::domain::id::{Name, QueueName, TaskId};
use crate::domain::priority::Priority;

/// Names a lane. The order is the order of service: by priority, and what was parked waited longer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneKey {
    /// How urgent its tasks are.
    pub priority: Priority,
    /// What its tasks have in common.
    pub home: Home,
}

/// What the tasks of a lane have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Home {
    /// Their handler, of which as many ran as may, where agents carry them out.
    Shelf(Name),
    /// Their handler, which the replica that was offered them lacked, or of which as many ran as may.
    Parked(Name),
    /// Their queue.
    Queue(QueueName),
    /// Their queue, where agents carry them out.
    Desk(QueueName),
}

impl Home {
    /// Whether its tasks wait beside their queue, with their like.
    #[must_use]
    pub const fn is_parked(&self) -> bool {
        match self {
            Self::Shelf(_) | Self::Parked(_) => true,
            Self::Queue(_) | Self::Desk(_) => false,
        }
    }

    /// Whether its tasks are for agents.
    #[must_use]
    pub const fn is_for_agents(&self) -> bool {
        match self {
            Self::Shelf(_) | Self::Desk(_) => true,
            Self::Parked(_) | Self::Queue(_) => false,
        }
    }
}

/// One place in a lane. A task knows the number of the entry that it waits in, so any other entry with its id is known
/// as a stranger's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Counts up over all lanes.
    pub number: u64,
    /// The task.
    pub task: TaskId,
    /// When it entered.
    pub since_ms: i64,
    /// Its place among what entered any lane within the same millisecond.
    pub since_seq: u64,
}

impl Entry {
    /// Its place in the order of all entries.
    pub(super) const fn place(&self) -> (i64, u64) {
        (self.since_ms, self.since_seq)
    }
}

/// The entries of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lane {
    /// What waits, first in first out.
    pub waiting: VecDeque<Entry>,
    /// What runs, oldest entry first, with its owner: the pending list.
    pub held: Vec<(Entry, Owner)>,
}

impl Lane {
    /// Lists a delivered entry as its owner's.
    pub(super) fn hold(&mut self, entry: Entry, owner: Owner) {
        self.held.push((entry, owner));
        self.held.sort_by_key(|(entry, _)| entry.number);
    }

    /// Removes an entry, wherever it stands.
    pub(super) fn remove(&mut self, number: u64) {
        self.held.retain(|(entry, _)| entry.number != number);
        self.waiting.retain(|entry| entry.number != number);
    }
}
