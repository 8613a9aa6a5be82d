//! The workers of a replica or a pool: numbered slots that one task each may run in, and what each of them did.
//!
//! A slot is free, offered to a call that may hand out a task for it, or busy. There may be more or fewer of them at any
//! time: new ones are free at once, of those that are to go the free ones go first, and a busy one when its task has
//! ended. So never more tasks start than there are to be workers, and none is interrupted.
//!
//! Partitions share the slots. Who waits for one is known by partition, so that one with much to do does not keep them
//! all: what comes free then goes round.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::domain::id::Partition;
use crate::domain::worker::WorkerState;
use crate::store::workers::Figures;

/// How long a failure is shown of a worker that got no other task since.
const FAILURE_SHOWN: Duration = Duration::from_secs(5);

/// How a worker's task ended, for its figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// With a result.
    Completed,
    /// With an error, a timeout or a panic.
    Failed,
    /// It was cancelled or handed back.
    Neither,
}

/// The slots.
pub(crate) struct Slots {
    state: Mutex<State>,
    some_free: Notify,
}

struct State {
    /// The numbers of the free ones, the lowest last.
    free: Vec<u16>,
    /// How many there are to be.
    size: u16,
    /// How many that are not free go as soon as they could be.
    surplus: u16,
    /// By number; those that went keep their figures until the number is used again.
    workers: Vec<Worker>,
    /// The partitions that wait for a slot.
    hungry: BTreeSet<u16>,
    /// Counts what came free while others waited.
    turn: usize,
}

#[derive(Clone)]
struct Worker {
    is_there: bool,
    since: Instant,
    /// When it went.
    until: Option<Instant>,
    busy_since: Option<Instant>,
    busy: Duration,
    /// The part of it that tasks took which were completed or failed.
    ended: Duration,
    completed: u64,
    failed: u64,
    failed_at: Option<Instant>,
}

impl Worker {
    fn new(now: Instant) -> Self {
        Self {
            is_there: true,
            since: now,
            until: None,
            busy_since: None,
            busy: Duration::ZERO,
            ended: Duration::ZERO,
            completed: 0,
            failed: 0,
            failed_at: None,
        }
    }

    fn leave(&mut self) {
        self.is_there = false;
        self.until = Some(Instant::now());
    }

    fn state(&self, is_stopping: bool, now: Instant) -> WorkerState {
        let failed_just_now = || self.failed_at.is_some_and(|at| now.duration_since(at) < FAILURE_SHOWN);
        if self.busy_since.is_some() {
            WorkerState::Busy
        } else if !self.is_there || is_stopping {
            WorkerState::Stopped
        } else if failed_just_now() {
            WorkerState::Error
        } else {
            WorkerState::Idle
        }
    }

    fn figures(&self, slot: u16, is_stopping: bool) -> Figures {
        let now = Instant::now();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let current = self
            .busy_since
            .map_or(Duration::ZERO, |since| now.duration_since(since));
        Figures {
            slot,
            state: self.state(is_stopping, now),
            completed: self.completed,
            failed: self.failed,
            ended_ms: ms(self.ended),
            busy_ms: ms(self.busy + current),
            uptime_ms: ms(self.until.unwrap_or(now).duration_since(self.since)),
        }
    }
}

impl State {
    fn free_up(&mut self, slot: u16) {
        if self.surplus > 0 {
            self.surplus -= 1;
            self.workers[usize::from(slot)].leave();
        } else {
            self.free.push(slot);
        }
    }

    fn sort(&mut self) {
        self.free.sort_unstable_by(|a, b| b.cmp(a));
    }

    fn grow(&mut self, count: u16) {
        // Those that were to go stay first.
        let kept = count.min(self.surplus);
        self.surplus -= kept;
        let mut missing = count - kept;
        let now = Instant::now();
        for (slot, worker) in (0..).zip(&mut self.workers) {
            if missing == 0 {
                break;
            }
            if !worker.is_there && worker.busy_since.is_none() {
                *worker = Worker::new(now);
                self.free.push(slot);
                missing -= 1;
            }
        }
        for _ in 0..missing {
            if let Ok(slot) = u16::try_from(self.workers.len()) {
                self.workers.push(Worker::new(now));
                self.free.push(slot);
            }
        }
        self.size += count;
        self.sort();
    }

    /// Lets up to `count` free ones go, those with the highest numbers; answers how many went.
    fn shrink_free(&mut self, count: u16) -> u16 {
        let mut gone = 0;
        while gone < count && !self.free.is_empty() {
            let slot = self.free.remove(0);
            self.workers[usize::from(slot)].leave();
            gone += 1;
        }
        self.size -= gone;
        gone
    }
}

impl Slots {
    /// `size` free slots, numbered from 0.
    pub(crate) fn new(size: u16) -> Self {
        let mut state = State {
            free: Vec::new(),
            size: 0,
            surplus: 0,
            workers: Vec::new(),
            hungry: BTreeSet::new(),
            turn: 0,
        };
        state.grow(size);
        Self {
            state: Mutex::new(state),
            some_free: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The lists are consistent at every step, so a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many slots there are to be.
    pub(crate) fn size(&self) -> u16 {
        self.state().size
    }

    /// How many are busy.
    pub(crate) fn busy(&self) -> u16 {
        let busy = self
            .state()
            .workers
            .iter()
            .filter(|worker| worker.busy_since.is_some())
            .count();
        u16::try_from(busy).unwrap_or(u16::MAX)
    }

    /// Takes all that are free right now for a call that could use them by the way, the lowest first; none while
    /// somebody waits for one.
    pub(crate) fn take_spare(&self) -> Vec<u16> {
        let mut state = self.state();
        if !state.hungry.is_empty() {
            return Vec::new();
        }
        let mut taken = std::mem::take(&mut state.free);
        taken.reverse();
        taken
    }

    /// Takes one, if one is free.
    pub(crate) fn take_one(&self) -> Option<u16> {
        self.state().free.pop()
    }

    /// Takes this one, if it is free.
    pub(crate) fn withhold(&self, slot: u16) -> bool {
        let mut state = self.state();
        let place = state.free.iter().position(|known| *known == slot);
        place.map(|place| state.free.remove(place)).is_some()
    }

    /// Waits until one is free and takes it.
    pub(crate) async fn take_next(&self) -> u16 {
        loop {
            {
                let mut state = self.state();
                if let Some(slot) = state.free.pop() {
                    if !state.free.is_empty() {
                        self.some_free.notify_one();
                    }
                    return slot;
                }
            }
            self.some_free.notified().await;
        }
    }

    /// Waits until at least one is free and takes the partition's share: all that are free, unless other partitions wait
    /// too.
    pub(crate) async fn take_some(&self, partition: Partition) -> Vec<u16> {
        let _hunger = Hunger::new(self, partition);
        loop {
            {
                let mut state = self.state();
                if !state.free.is_empty() {
                    let share = state.free.len().div_ceil(state.hungry.len().max(1));
                    let rest = state.free.len() - share;
                    let mut taken = state.free.split_off(rest);
                    taken.reverse();
                    if rest > 0 {
                        self.some_free.notify_one();
                    }
                    return taken;
                }
            }
            // A permit is kept when nobody waits, so a slot that comes free in between is not missed.
            self.some_free.notified().await;
        }
    }

    /// What a partition may keep of the slots that its tasks left: all of them, unless others wait. Then they go round,
    /// and the others' are given back.
    pub(crate) fn keep_share(&self, partition: Partition, freed: Vec<u16>) -> Vec<u16> {
        let mut state = self.state();
        let others = state
            .hungry
            .iter()
            .filter(|waiting| **waiting != partition.number())
            .count();
        // What is to go must not be offered again.
        if others == 0 && state.surplus == 0 {
            return freed;
        }
        let (mut kept, mut left) = (Vec::new(), Vec::new());
        for slot in freed {
            state.turn = (state.turn + 1) % (others + 1);
            if state.turn == 0 && state.surplus == 0 {
                kept.push(slot);
            } else if state.surplus > 0 {
                state.free_up(slot);
            } else {
                left.push(slot);
            }
        }
        drop(state);
        self.give_back(left);
        kept
    }

    /// Gives slots back.
    pub(crate) fn give_back(&self, slots: impl IntoIterator<Item = u16>) {
        let mut state = self.state();
        let before = state.free.len();
        for slot in slots {
            state.free_up(slot);
        }
        if state.free.len() > before {
            state.sort();
            drop(state);
            self.some_free.notify_one();
        }
    }

    /// A slot's task begins.
    pub(crate) fn begin(&self, slot: u16) {
        if let Some(worker) = self.state().workers.get_mut(usize::from(slot)) {
            worker.busy_since = Some(Instant::now());
            worker.failed_at = None;
        }
    }

    /// A slot's task is over.
    pub(crate) fn end(&self, slot: u16, verdict: Verdict) {
        if let Some(worker) = self.state().workers.get_mut(usize::from(slot)) {
            let now = Instant::now();
            let took = worker
                .busy_since
                .take()
                .map_or(Duration::ZERO, |since| now.duration_since(since));
            worker.busy += took;
            if verdict != Verdict::Neither {
                worker.ended += took;
            }
            match verdict {
                Verdict::Completed => worker.completed += 1,
                Verdict::Failed => {
                    worker.failed += 1;
                    worker.failed_at = Some(now);
                }
                Verdict::Neither => {}
            }
        }
    }

    /// Lets there be so many slots.
    pub(crate) fn resize(&self, size: u16) {
        let mut state = self.state();
        if size > state.size {
            let more = size - state.size;
            state.grow(more);
            drop(state);
            self.some_free.notify_one();
        } else {
            let fewer = state.size - size;
            let rest = fewer - state.shrink_free(fewer);
            state.surplus += rest;
            state.size -= rest;
        }
    }

    /// Adds up to `count` slots, with no more than `max` altogether; answers how many were added.
    pub(crate) fn add(&self, count: u16, max: u16) -> u16 {
        let mut state = self.state();
        let added = count.min(max.saturating_sub(state.size));
        state.grow(added);
        drop(state);
        if added > 0 {
            self.some_free.notify_one();
        }
        added
    }

    /// Adds `count` slots, unless there would be more than `max`: then it answers how many there are.
    pub(crate) fn add_all(&self, count: u16, max: u16) -> Result<u16, u16> {
        let mut state = self.state();
        if count > max.saturating_sub(state.size) {
            return Err(state.size);
        }
        state.grow(count);
        drop(state);
        self.some_free.notify_one();
        Ok(count)
    }

    /// Lets up to `count` free slots go, with no fewer than `min` left; answers how many went.
    pub(crate) fn remove_free(&self, count: u16, min: u16) -> u16 {
        let mut state = self.state();
        let most = count.min(state.size.saturating_sub(min));
        state.shrink_free(most)
    }

    /// What each of the slots did, by number; while stopping, one that is not busy counts as stopped.
    pub(crate) fn figures(&self, is_stopping: bool) -> Vec<Figures> {
        let state = self.state();
        let there = (0..).zip(&state.workers);
        let there = there.filter(|(_, worker)| worker.is_there || worker.busy_since.is_some());
        there.map(|(slot, worker)| worker.figures(slot, is_stopping)).collect()
    }

    /// What all did, also those that went.
    pub(crate) fn all_figures(&self) -> Vec<Figures> {
        let state = self.state();
        let workers = (0..).zip(&state.workers);
        workers.map(|(slot, worker)| worker.figures(slot, false)).collect()
    }

    /// What one slot did, also of one that went.
    pub(crate) fn figures_of(&self, slot: u16, is_stopping: bool) -> Option<Figures> {
        let state = self.state();
        let worker = state.workers.get(usize::from(slot))?;
        Some(worker.figures(slot, is_stopping))
    }
}

/// A partition waits for a slot, until this is dropped.
struct Hunger<'a> {
    slots: &'a Slots,
    partition: u16,
}

impl<'a> Hunger<'a> {
    fn new(slots: &'a Slots, partition: Partition) -> Self {
        let partition = partition.number();
        slots.state().hungry.insert(partition);
        Self { slots, partition }
    }
}

impl Drop for Hunger<'_> {
    fn drop(&mut self) {
        self.slots.state().hungry.remove(&self.partition);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn partition(number: u16) -> Partition {
        Partition::new(number).unwrap()
    }

    #[tokio::test]
    async fn a_slot_given_back_wakes_who_waits() {
        let slots = Arc::new(Slots::new(2));
        assert_eq!(slots.take_some(partition(0)).await, [0, 1]);

        let waiting = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.take_some(partition(0)).await }
        });
        tokio::task::yield_now().await;
        slots.give_back([1]);

        assert_eq!(waiting.await.unwrap(), [1]);
    }

    #[tokio::test]
    async fn what_comes_free_goes_round_among_the_partitions_that_wait() {
        let slots = Arc::new(Slots::new(4));
        let all = slots.take_some(partition(0)).await;
        assert_eq!(slots.keep_share(partition(0), all.clone()), all);

        let waiting = [1, 2].map(|number| {
            let slots = Arc::clone(&slots);
            tokio::spawn(async move { slots.take_some(partition(number)).await })
        });
        tokio::task::yield_now().await;
        let kept = slots.keep_share(partition(0), all);
        let mut others = Vec::new();
        for waiting in waiting {
            others.push(waiting.await.unwrap().len());
        }

        assert_eq!(kept.len(), 1);
        others.sort_unstable();
        assert_eq!(others, [1, 2]);
    }

    #[tokio::test]
    async fn who_asks_by_the_way_does_not_take_what_others_wait_for() {
        let slots = Arc::new(Slots::new(1));
        let taken = slots.take_spare();
        let waiting = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.take_some(partition(1)).await }
        });
        tokio::task::yield_now().await;

        slots.give_back(taken);

        assert!(slots.take_spare().is_empty());
        assert_eq!(waiting.await.unwrap(), [0]);
    }

    #[test]
    fn of_those_that_are_to_go_the_free_go_first_and_the_busy_when_they_are_done() {
        let slots = Slots::new(4);
        let busy = [
            slots.take_one().unwrap(),
            slots.take_one().unwrap(),
            slots.take_one().unwrap(),
        ];
        for slot in &busy {
            slots.begin(*slot);
        }

        slots.resize(1);
        assert_eq!((slots.size(), slots.take_one()), (1, None));
        assert_eq!(slots.figures(false).len(), 3);
        for slot in busy {
            slots.end(slot, Verdict::Completed);
            slots.give_back([slot]);
        }

        assert_eq!(slots.figures(false).len(), 1);
        assert_eq!(
            slots.figures_of(0, false).map(|figures| figures.state),
            Some(WorkerState::Stopped)
        );
        assert_eq!((slots.take_one(), slots.take_one()), (Some(2), None));
    }

    #[test]
    fn those_that_were_to_go_stay_when_more_are_wanted_again() {
        let slots = Slots::new(2);
        let busy = slots.take_spare();
        for slot in &busy {
            slots.begin(*slot);
        }

        slots.resize(1);
        slots.resize(3);
        assert_eq!(slots.take_spare(), [2]);
        for slot in &busy {
            slots.end(*slot, Verdict::Neither);
        }
        slots.give_back(busy);

        assert_eq!(slots.take_spare(), [0, 1]);
    }

    #[test]
    fn only_free_ones_are_removed_and_never_below_the_minimum() {
        let slots = Slots::new(5);
        let _taken = slots.take_one();

        assert_eq!(slots.remove_free(2, 2), 2);
        assert_eq!(slots.remove_free(9, 2), 1);
        assert_eq!(slots.remove_free(9, 0), 1);
        assert_eq!(slots.remove_free(9, 0), 0);
        assert_eq!((slots.add(4, 3), slots.size()), (2, 3));
    }

    #[test]
    fn a_worker_shows_that_it_failed_until_it_goes_on() {
        let slots = Slots::new(1);
        let state = || slots.figures(false)[0].state;
        let slot = slots.take_one().unwrap();
        assert_eq!(state(), WorkerState::Idle);

        slots.begin(slot);
        assert_eq!(state(), WorkerState::Busy);
        slots.end(slot, Verdict::Failed);
        assert_eq!(state(), WorkerState::Error);
        slots.begin(slot);
        slots.end(slot, Verdict::Completed);

        assert_eq!(state(), WorkerState::Idle);
        assert_eq!(
            (slots.figures(false)[0].completed, slots.figures(false)[0].failed),
            (1, 1)
        );
    }
}
