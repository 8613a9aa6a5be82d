//! Who gets what: the order in which waiting tasks meet free slots.

use std::collections::VecDeque;

use super::{Appetite, Entry, Fact, Home, LOSSES_MAX, LaneKey, Model, Place, Started, Task, Turn};
use crate::domain::event::EventType;
use crate::domain::id::{Name, ReplicaId};
use crate::domain::priority::Priority;
use crate::domain::state::{TaskMove, TaskState};

/// One in so many tasks served may go to a lower priority that waited too long.
pub const RESCUE_EVERY: u64 = 8;
/// How often one call looks at lanes, for each slot, so that its work stays bounded where it may not start what stands in
/// front.
pub const LOOKS_PER_SLOT: usize = 4;
/// And beside that.
pub const LOOKS_BESIDE: usize = 64;
/// How long a task waits that may not run beside what its replica runs, before somebody looks again.
const RISKY_PAUSE_MS: i64 = 1000;

/// Which lanes a call looks at. The difference shows only in entries that no task waits in: an outsider's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looks {
    /// All, when a claim asks by itself.
    Everywhere,
    /// Those of the priorities at which some task is pending, on the side of another call.
    WhereSomethingWaits,
}

impl Model {
    /// Gives waiting tasks to free slots, highest priority first and first in first out within one; but every eighth
    /// task served is the one below the highest priority that has waited longest, if that is too long.
    pub(super) fn take(&mut self, turn: &mut Turn, appetite: &Appetite, looks: Looks) -> Vec<Started> {
        let mut started = Vec::new();
        let mut free = appetite.slots.len();
        // Whoever is not known (any more) would put tasks where nobody looks for them.
        if !self.replicas.contains_key(&turn.by) {
            free = 0;
        }
        if self.max_running > 0 {
            let room = self.max_running.saturating_sub(self.count_in(TaskState::Running));
            free = free.min(usize::try_from(room).unwrap_or(usize::MAX));
        }
        // One that tries a name does not serve the others.
        let is_fair = appetite.only.is_none();
        let rescues = u64::from(is_fair) * (self.served % RESCUE_EVERY + free as u64) / RESCUE_EVERY;
        for _ in 0..rescues.min(free as u64) {
            let Some(lane) = self.most_overdue(turn, appetite) else {
                break;
            };
            self.deliver(turn, appetite, &lane, 1, &mut started);
        }
        let mut looks_left = LOOKS_PER_SLOT * free + LOOKS_BESIDE;
        for priority in Priority::ALL {
            let waits = |task: &Task| task.state == TaskState::Pending && task.priority == priority;
            if looks == Looks::Everywhere || self.tasks.values().any(waits) {
                let wanted = (priority, free, &mut looks_left);
                self.take_in_order(turn, appetite, wanted, &mut started);
            }
        }
        started
    }

    /// Takes from the lanes of one priority in the order in which tasks entered them.
    fn take_in_order(
        &mut self,
        turn: &mut Turn,
        appetite: &Appetite,
        (priority, free, looks_left): (Priority, usize, &mut usize),
        started: &mut Vec<Started>,
    ) {
        loop {
            let need = free - started.len();
            let mut heads: Vec<((i64, u64), LaneKey)> = self
                .open_lanes(turn.by, appetite)
                .into_iter()
                .filter(|lane| lane.priority == priority)
                .filter_map(|lane| Some((self.lanes.get(&lane)?.waiting.front()?.place(), lane)))
                .collect();
            heads.sort();
            let Some((_, first)) = heads.first().filter(|_| need > 0) else {
                return;
            };
            let Some(left) = looks_left.checked_sub(1) else {
                return;
            };
            *looks_left = left;
            // All that is older than the head of any other lane.
            let is_next = |entry: &&Entry| heads.get(1).is_none_or(|(second, _)| entry.place() < *second);
            let waiting = self.lanes[first].waiting.iter();
            let count = waiting.take(need).take_while(is_next).count().max(1);
            let count = count.min(self.room_in(first));
            self.deliver(turn, appetite, first, count, started);
        }
    }

    /// The lane below the highest priority whose head has waited longest, if that is too long.
    fn most_overdue(&self, turn: &Turn, appetite: &Appetite) -> Option<LaneKey> {
        let limit_ms = turn.now_ms.saturating_sub_unsigned(appetite.max_wait_ms);
        self.open_lanes(turn.by, appetite)
            .into_iter()
            .filter(|lane| lane.priority != Priority::High)
            .filter_map(|lane| Some((self.lanes.get(&lane)?.waiting.front()?.since_ms, lane)))
            .filter(|(since_ms, _)| *since_ms <= limit_ms)
            .min_by_key(|(since_ms, _)| *since_ms)
            .map(|(_, lane)| lane)
    }

    /// Offers up to `count` entries of a lane to the caller; how many there were.
    fn deliver(
        &mut self,
        turn: &mut Turn,
        appetite: &Appetite,
        lane: &LaneKey,
        count: usize,
        started: &mut Vec<Started>,
    ) -> usize {
        for delivered in 0..count {
            let waiting = self.lanes.get_mut(lane).map(|lane| &mut lane.waiting);
            let Some(entry) = waiting.and_then(VecDeque::pop_front) else {
                return delivered;
            };
            self.offer(turn, appetite, lane, entry, started);
        }
        count
    }

    /// How many tasks a lane may give; what is parked under a name with a limit, no more than there is room for.
    fn room_in(&self, lane: &LaneKey) -> usize {
        let room = match &lane.home {
            Home::Parked(name) => self.room(name),
            Home::Queue(_) => None,
        };
        room.and_then(|room| usize::try_from(room).ok()).unwrap_or(usize::MAX)
    }

    /// Starts the task of an entry, or parks it where the caller lacks its handler or its name has no room. An entry that is not the one its
    /// task waits in is dropped.
    fn offer(
        &mut self,
        turn: &mut Turn,
        appetite: &Appetite,
        lane: &LaneKey,
        entry: Entry,
        started: &mut Vec<Started>,
    ) {
        let can_run = |name: &Name| self.can_run(turn.by, appetite, name);
        let Some(task) = self.tasks.get(&entry.task).filter(|task| task.entry == entry.number) else {
            return;
        };
        let Some(state) = task.state.after(TaskMove::Claim) else {
            return;
        };
        let queue = task.queue.clone();
        if self.paused.contains(&queue) {
            // Parked before its queue was paused. It waits there with the others, at the tail of its priority.
            self.wait(entry.task, None, turn.now_ms);
            return;
        }
        if !can_run(&task.name) || self.room(&task.name) == Some(0) {
            let home = Home::Parked(task.name.clone());
            // It keeps its place among what waits longer or shorter.
            let number = self.enter(home, lane.priority, entry.task, entry.since_ms, Some(entry.since_seq));
            self.change(entry.task, |task| {
                task.place = Place::Parked;
                task.entry = number;
            });
            return;
        }
        if task.losses + 1 >= LOSSES_MAX && self.runs_risky(turn.by) {
            // It is looked at again in a while.
            self.change(entry.task, |task| {
                task.place = Place::Delayed {
                    due_ms: turn.now_ms + RISKY_PAUSE_MS,
                };
            });
            return;
        }
        let slot = appetite.slots[started.len()];
        self.served += 1;
        self.lanes.entry(lane.clone()).or_default().hold(entry, turn.by);
        self.change(entry.task, |task| {
            task.state = state;
            task.attempt += 1;
            task.owner = Some((turn.by, slot));
            started.push(Started {
                task: entry.task,
                attempt: task.attempt,
                slot,
                retries: task.retries,
                max_retries: task.max_retries,
            });
        });
        let facts = vec![
            ("/worker_id", Fact::Text(format!("{}/{slot}", turn.by))),
            ("/started_at", Fact::Moment(turn.now_ms)),
        ];
        self.tell(turn, EventType::TaskStarted, entry.task, facts);
    }

    /// Whether a replica runs a task whose next loss would be its last.
    fn runs_risky(&self, by: ReplicaId) -> bool {
        self.tasks.values().any(|task| {
            task.state == TaskState::Running
                && task.losses + 1 >= LOSSES_MAX
                && task.owner.is_some_and(|(owner, _)| owner == by)
        })
    }

    fn can_run(&self, by: ReplicaId, appetite: &Appetite, name: &Name) -> bool {
        if let Some(only) = &appetite.only {
            return name == only;
        }
        appetite.runs_any
            || self
                .replicas
                .get(&by)
                .is_some_and(|replica| replica.names.contains(name))
    }

    /// The lanes that the caller may take from, in the order of service.
    fn open_lanes(&self, by: ReplicaId, appetite: &Appetite) -> Vec<LaneKey> {
        let is_open = |lane: &&LaneKey| match &lane.home {
            Home::Parked(name) => self.can_run(by, appetite, name) && self.room(name) != Some(0),
            Home::Queue(queue) => appetite.only.is_none() && !self.paused.contains(queue),
        };
        self.lanes.keys().filter(is_open).cloned().collect()
    }
}
