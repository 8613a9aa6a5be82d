//! Who gets what: the order in which waiting tasks meet free slots.

use std::collections::VecDeque;

use super::{
    Appetite, Entry, Fact, Home, LOSSES_MAX, LaneKey, Loan, Model, Owner, Place, Reading, Reply, Started, Task, Turn,
    Word,
};
use crate::domain::event::EventType;
use crate::domain::id::{Name, QueueName, ReplicaId, TaskId};
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

/// How many tasks one call hands over to agents at most.
const HAND_BATCH: usize = 100;

/// Which lanes a call looks at. The difference shows only in entries that no task waits in: an outsider's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looks {
    /// All, when a claim asks by itself.
    Everywhere,
    /// Those of the priorities at which some task is pending, on the side of another call.
    WhereSomethingWaits,
}

/// What a call takes.
pub(super) struct Wish<'a> {
    appetite: &'a Appetite,
    looks: Looks,
    /// Somebody outside takes it.
    loan: Option<&'a Loan>,
    /// It hands over whether there seems to be something to hand over or not.
    hands: bool,
}

impl<'a> Wish<'a> {
    /// By itself.
    pub(super) const fn alone(appetite: &'a Appetite) -> Self {
        Self {
            looks: Looks::Everywhere,
            ..Self::beside(appetite)
        }
    }

    /// On the side of another call.
    pub(super) const fn beside(appetite: &'a Appetite) -> Self {
        Self {
            appetite,
            looks: Looks::WhereSomethingWaits,
            loan: None,
            hands: false,
        }
    }
}

/// What a take still may do, and did.
struct Taking<'a, 'w> {
    wish: &'a Wish<'w>,
    free: usize,
    looks_left: usize,
    handed: usize,
    started: Vec<Started>,
}

impl Model {
    /// Gives waiting tasks to free slots, highest priority first and first in first out within one; but every eighth
    /// task served is the one below the highest priority that has waited longest, if that is too long. What is for agents
    /// needs no slot.
    pub(super) fn take(&mut self, turn: &mut Turn, wish: &Wish<'_>) -> Vec<Started> {
        let mut free = wish.appetite.slots.len();
        // Whoever is not known (any more) would put tasks where nobody looks for them.
        if wish.loan.is_none() && !self.replicas.contains_key(&turn.by) {
            free = 0;
        }
        free = free.min(self.room_to_run());
        // One that tries a name does not serve the others.
        let is_fair = wish.appetite.only.is_none();
        let is_waited_for = wish.hands || self.waits_for_agents(turn);
        let hands_over = is_waited_for && is_fair && self.room_to_run() > 0;
        let mut taking = Taking {
            wish,
            free,
            looks_left: LOOKS_PER_SLOT * (free + usize::from(is_waited_for) * HAND_BATCH) + LOOKS_BESIDE,
            handed: 0,
            started: Vec::new(),
        };
        if free == 0 && !hands_over {
            return taking.started;
        }
        let rescues = u64::from(is_fair) * (self.served % RESCUE_EVERY + free as u64) / RESCUE_EVERY;
        for _ in 0..rescues.min(free as u64) {
            let Some(lane) = self.most_overdue(turn, wish) else {
                break;
            };
            self.deliver(turn, &lane, 1, &mut taking);
        }
        for priority in Priority::ALL {
            let waits = |task: &Task| task.state == TaskState::Pending && task.priority == priority;
            if wish.looks == Looks::Everywhere || self.tasks.values().any(waits) {
                self.take_in_order(turn, priority, &mut taking);
            }
            let is_more_to_hand = hands_over && (self.handing() > 0 || self.is_any_parked());
            if taking.started.len() >= free && !is_more_to_hand {
                break;
            }
        }
        taking.started
    }

    /// Hands over what waits for agents; with `all` also what is parked although no room was made.
    pub(super) fn hand_over(&mut self, turn: &mut Turn, all: bool) {
        let is_shelved = self
            .lanes
            .iter()
            .any(|(lane, entries)| matches!(lane.home, Home::Shelf(_)) && !entries.waiting.is_empty());
        if self.waits_for_agents(turn) || (all && is_shelved) {
            let appetite = Appetite {
                max_wait_ms: 60_000,
                ..Appetite::default()
            };
            let wish = Wish {
                hands: true,
                ..Wish::beside(&appetite)
            };
            self.take(turn, &wish);
        }
    }

    /// The same behind what changed something, if it did.
    pub(super) fn hand_over_if(&mut self, turn: &mut Turn, word: Word) {
        if word == Word::Ok {
            self.hand_over(turn, false);
        }
    }

    /// Hands out waiting tasks of one queue to somebody outside, and what stands unread in its inbox.
    pub(super) fn lend(&mut self, turn: &mut Turn, loan: &Loan) -> Reply {
        for name in loan.names.iter().flatten() {
            self.names.insert(name.clone(), turn.now_ms);
        }
        let mut assigned = Vec::new();
        if loan.reads_inbox && self.inboxes.contains_key(&loan.agent) {
            let agent = (&loan.agent, "http");
            for (is_assignment, task, attempt) in self.read_inbox(turn.now_ms, agent, loan.max.into(), false, false) {
                if is_assignment {
                    assigned.push((task, attempt));
                }
            }
            // Who answers for what has ended is told so.
            let is_told = |reading: &Reading| matches!(reading, Reading::Held { by, .. } if by == "http");
            let inbox = self.inboxes.entry(loan.agent.clone()).or_default();
            inbox.retain(|notice| notice.is_assignment || !is_told(&notice.reading));
        }
        let appetite = Appetite {
            slots: vec![0; usize::from(loan.max).saturating_sub(assigned.len())],
            runs_any: loan.names.is_none(),
            max_wait_ms: 300_000_000_000,
            only: None,
        };
        let wish = Wish {
            loan: Some(loan),
            ..Wish::alone(&appetite)
        };
        Reply::Lent(self.take(turn, &wish), assigned)
    }

    /// How many more tasks may run.
    fn room_to_run(&self) -> usize {
        if self.max_running == 0 {
            return usize::MAX;
        }
        let room = self.max_running.saturating_sub(self.count_in(TaskState::Running));
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// How many tasks wait to be handed over.
    #[must_use]
    pub fn handing(&self) -> usize {
        let waits = |task: &&Task| task.state == TaskState::Pending && task.place == Place::Desk;
        self.tasks.values().filter(waits).count()
    }

    fn is_any_parked(&self) -> bool {
        let is_parked = |task: &Task| task.state == TaskState::Pending && task.place == Place::Parked;
        self.tasks.values().any(is_parked)
    }

    /// Whether something may wait that can be handed over now.
    fn waits_for_agents(&self, turn: &Turn) -> bool {
        let has_room = |name: &Name| self.room(name).is_some_and(|room| room > 0);
        self.handing() > 0 || (self.is_any_parked() && turn.full.iter().any(has_room))
    }

    /// How many tasks of a lane may start.
    fn need(&self, lane: &LaneKey, taking: &Taking<'_, '_>) -> usize {
        let need = if lane.home.is_for_agents() {
            HAND_BATCH - taking.handed
        } else {
            taking.free - taking.started.len()
        };
        need.min(self.room_to_run()).min(self.room_in(lane))
    }

    /// Takes from the lanes of one priority in the order in which tasks entered them.
    fn take_in_order(&mut self, turn: &mut Turn, priority: Priority, taking: &mut Taking<'_, '_>) {
        loop {
            let mut heads: Vec<((i64, u64), LaneKey)> = self
                .open_lanes(turn.by, taking.wish)
                .into_iter()
                .filter(|lane| lane.priority == priority && self.need(lane, taking) > 0)
                .filter_map(|lane| Some((self.lanes.get(&lane)?.waiting.front()?.place(), lane)))
                .collect();
            heads.sort();
            let Some((_, first)) = heads.first() else {
                return;
            };
            let Some(left) = taking.looks_left.checked_sub(1) else {
                return;
            };
            taking.looks_left = left;
            // All that is older than the head of any other lane.
            let is_next = |entry: &&Entry| heads.get(1).is_none_or(|(second, _)| entry.place() < *second);
            let waiting = self.lanes[first].waiting.iter();
            let count = waiting
                .take(self.need(first, taking))
                .take_while(is_next)
                .count()
                .max(1);
            let count = count.min(self.room_in(first));
            self.deliver(turn, first, count, taking);
        }
    }

    /// The lane below the highest priority whose head has waited longest, if that is too long.
    fn most_overdue(&self, turn: &Turn, wish: &Wish<'_>) -> Option<LaneKey> {
        let limit_ms = turn.now_ms.saturating_sub_unsigned(wish.appetite.max_wait_ms);
        self.open_lanes(turn.by, wish)
            .into_iter()
            .filter(|lane| lane.priority != Priority::High)
            .filter_map(|lane| Some((self.lanes.get(&lane)?.waiting.front()?.since_ms, lane)))
            .filter(|(since_ms, _)| *since_ms <= limit_ms)
            .min_by_key(|(since_ms, _)| *since_ms)
            .map(|(_, lane)| lane)
    }

    /// Offers up to `count` entries of a lane; how many there were.
    fn deliver(&mut self, turn: &mut Turn, lane: &LaneKey, count: usize, taking: &mut Taking<'_, '_>) -> usize {
        for delivered in 0..count {
            let waiting = self.lanes.get_mut(lane).map(|lane| &mut lane.waiting);
            let Some(entry) = waiting.and_then(VecDeque::pop_front) else {
                return delivered;
            };
            self.offer(turn, lane, entry, taking);
        }
        count
    }

    /// How many tasks a lane may give; what is parked under a name with a limit, no more than there is room for.
    fn room_in(&self, lane: &LaneKey) -> usize {
        let room = match &lane.home {
            Home::Parked(name) | Home::Shelf(name) => self.room(name),
            Home::Queue(_) | Home::Desk(_) => None,
        };
        room.and_then(|room| usize::try_from(room).ok()).unwrap_or(usize::MAX)
    }

    /// Starts the task of an entry, or parks it where the caller lacks its handler or its name has no room. An entry that is not
    /// the one its task waits in is dropped.
    fn offer(&mut self, turn: &mut Turn, lane: &LaneKey, entry: Entry, taking: &mut Taking<'_, '_>) {
        let Some(task) = self.tasks.get(&entry.task).filter(|task| task.entry == entry.number) else {
            return;
        };
        let Some(state) = task.state.after(TaskMove::Claim) else {
            return;
        };
        let (queue, name) = (task.queue.clone(), task.name.clone());
        let is_for_agents = lane.home.is_for_agents();
        let is_asked_for = is_for_agents || taking.wish.loan.is_none_or(|loan| loan.queue == queue);
        if self.paused.contains(&queue) || !is_asked_for {
            // Parked before its queue was paused. It waits there with the others, at the tail of its priority.
            self.wait(entry.task, None, turn.now_ms);
            return;
        }
        let can_start = is_for_agents || self.can_run(turn.by, taking.wish, &name);
        if !lane.home.is_parked() && (!can_start || self.room(&name) == Some(0)) {
            let home = if is_for_agents {
                Home::Shelf(name)
            } else {
                Home::Parked(name)
            };
            // It keeps its place among what waits longer or shorter.
            let number = self.enter(home, lane.priority, entry.task, entry.since_ms, Some(entry.since_seq));
            self.change(entry.task, |task| {
                task.place = Place::Parked;
                task.entry = number;
            });
            taking.handed += usize::from(is_for_agents);
            return;
        }
        if is_for_agents {
            taking.handed += 1;
            self.hand(turn, lane, entry);
            return;
        }
        if let Some(loan) = taking.wish.loan {
            let route = super::Route {
                agent: loan.agent.clone(),
                silence_ms: loan.silence_ms,
                timeout_ms: task.timeout_ms.unwrap_or_default(),
            };
            self.begin(turn, lane, entry, route);
            taking.started.push(self.started(entry.task, 0));
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
        let slot = taking.wish.appetite.slots[taking.started.len()];
        self.served += 1;
        let owner = Owner::Worker(turn.by, slot);
        self.lanes.entry(lane.clone()).or_default().hold(entry, owner.clone());
        self.change(entry.task, |task| {
            task.state = state;
            task.attempt += 1;
            task.owner = Some(owner);
        });
        taking.started.push(self.started(entry.task, slot));
        let facts = vec![
            ("/worker_id", Fact::Text(format!("{}/{slot}", turn.by))),
            ("/started_at", Fact::Moment(turn.now_ms)),
        ];
        self.tell(turn, EventType::TaskStarted, entry.task, facts);
    }

    fn started(&self, id: TaskId, slot: u16) -> Started {
        let task = &self.tasks[&id];
        Started {
            task: id,
            attempt: task.attempt,
            slot,
            retries: task.retries,
            max_retries: task.max_retries,
        }
    }

    /// Whether a replica runs a task whose next loss would be its last.
    fn runs_risky(&self, by: ReplicaId) -> bool {
        self.tasks.values().any(|task| {
            task.state == TaskState::Running
                && task.losses + 1 >= LOSSES_MAX
                && task.owner.as_ref().and_then(Owner::replica) == Some(by)
        })
    }

    fn can_run(&self, by: ReplicaId, wish: &Wish<'_>, name: &Name) -> bool {
        if let Some(only) = &wish.appetite.only {
            return name == only;
        }
        if let Some(names) = wish.loan.and_then(|loan| loan.names.as_ref()) {
            return names.contains(name);
        }
        let has_it = |replica: &super::Replica| replica.names.contains(name);
        wish.appetite.runs_any || self.replicas.get(&by).is_some_and(has_it)
    }

    /// The lanes that the caller may take from, in the order of service.
    fn open_lanes(&self, by: ReplicaId, wish: &Wish<'_>) -> Vec<LaneKey> {
        let is_fair = wish.appetite.only.is_none();
        let is_asked_for = |queue: &QueueName| wish.loan.is_none_or(|loan| loan.queue == *queue);
        let is_open = |lane: &&LaneKey| match &lane.home {
            Home::Parked(name) => self.can_run(by, wish, name) && self.room(name) != Some(0),
            Home::Shelf(name) => is_fair && self.room(name) != Some(0),
            Home::Queue(queue) | Home::Desk(queue) => is_fair && !self.paused.contains(queue) && is_asked_for(queue),
        };
        self.lanes.keys().filter(is_open).cloned().collect()
    }
}
