//! Which loops get through to Redis, for readiness: triggers and tasks are being consumed, and not only a PING answered.
//!
//! Each loop says when it got through. The longest healthy gap is that of the beat, which is a write every 2 s; an idle
//! reader gets through every second. A loop that has not for [`PATIENCE`] is deaf.
//!
//! The time that counts is the time in which the process runs. On a machine that is too busy, or after the process was
//! stopped for a while, the loops are late and Redis is not to blame: a clock that ticks among them is as late as they are,
//! and does not count what it missed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::replica::Run;
use crate::domain::id::Partition;

/// A loop that has not got through for so long is deaf. Whoever asks learns of a Redis that does not answer within 5 s.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often the clock ticks.
const TICK: Duration = Duration::from_millis(250);
/// The most that counts of the time between two ticks.
const TICK_MAX: Duration = Duration::from_secs(1);
/// The loops that every replica has, whatever it does.
const NEEDED: [&str; 3] = ["triggers", "commands", "beat"];

/// When each loop last got through.
pub(crate) struct Progress {
    state: Mutex<State>,
}

struct State {
    /// By loop and partition; none while it waits for something that is not Redis.
    marks: BTreeMap<(&'static str, u16), Option<Duration>>,
    /// The time that has counted until the last tick.
    counted: Duration,
    ticked: Instant,
}

impl State {
    fn now(&self) -> Duration {
        self.counted + self.ticked.elapsed().min(TICK_MAX)
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                marks: BTreeMap::new(),
                counted: Duration::ZERO,
                ticked: Instant::now(),
            }),
        }
    }
}

impl Progress {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every step leaves it whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop got through.
    pub(super) fn mark(&self, name: &'static str) {
        self.mark_in(name, Partition::default());
    }

    /// The loop of a partition got through.
    pub(super) fn mark_in(&self, name: &'static str, partition: Partition) {
        let mut state = self.state();
        let now = state.now();
        state.marks.insert((name, partition.number()), Some(now));
    }

    /// The loop of a partition waits for something that is not Redis.
    pub(super) fn idle(&self, name: &'static str, partition: Partition) {
        self.state().marks.insert((name, partition.number()), None);
    }

    /// The loop of a partition asks Redis; from now on it is expected to get through.
    pub(super) fn expect(&self, name: &'static str, partition: Partition) {
        let mut state = self.state();
        let now = state.now();
        let mark = state.marks.entry((name, partition.number())).or_insert(None);
        mark.get_or_insert(now);
    }

    /// For each loop how long ago it got through in the partition where that is longest; none for one that waits for
    /// something else in all of them.
    pub(super) fn ages(&self) -> Vec<(&'static str, Option<Duration>)> {
        let state = self.state();
        let now = state.now();
        let mut ages: BTreeMap<&'static str, Option<Duration>> = BTreeMap::new();
        for ((name, _), mark) in &state.marks {
            let age = ages.entry(name).or_insert(None);
            *age = (*age).max(mark.map(|mark| now.saturating_sub(mark)));
        }
        ages.into_iter().collect()
    }

    /// The loops that do not get through.
    pub(super) fn deaf(&self) -> Vec<&'static str> {
        let ages = self.ages();
        let missing = NEEDED
            .iter()
            .filter(|name| ages.iter().all(|(known, _)| known != *name));
        let late = ages.iter().filter(|(_, age)| age.is_some_and(|age| age > PATIENCE));
        let deaf: BTreeSet<&'static str> = missing.copied().chain(late.map(|(name, _)| *name)).collect();
        deaf.into_iter().collect()
    }

    fn tick(&self) {
        let mut state = self.state();
        state.counted = state.now();
        state.ticked = Instant::now();
    }
}

/// Lets the clock tick until the run has left.
pub(super) async fn keep_time(run: Arc<Run>) {
    loop {
        run.progress.tick();
        tokio::select! {
            () = run.left.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets time pass with the clock ticking, or without.
    fn pass(progress: &Progress, time: Duration, is_running: bool) {
        let mut state = progress.state();
        if is_running {
            state.counted += time;
        } else {
            state.ticked -= time;
        }
    }

    fn heard() -> Progress {
        let progress = Progress::default();
        for name in NEEDED {
            progress.mark(name);
        }
        progress
    }

    #[test]
    fn a_loop_is_deaf_until_it_got_through_and_when_it_has_not_for_too_long() {
        let progress = Progress::default();
        progress.mark("beat");
        assert_eq!(progress.deaf(), ["commands", "triggers"]);

        let progress = heard();
        assert!(progress.deaf().is_empty());
        pass(&progress, PATIENCE, true);
        progress.mark("triggers");
        pass(&progress, Duration::from_millis(10), true);
        assert_eq!(progress.deaf(), ["beat", "commands"]);
    }

    #[test]
    fn what_the_process_could_not_run_does_not_count() {
        let progress = heard();

        for _ in 0..3 {
            pass(&progress, PATIENCE * 10, false);
            progress.tick();
        }

        assert!(progress.deaf().is_empty(), "{:?}", progress.ages());
        pass(&progress, PATIENCE, true);
        assert_eq!(progress.deaf(), ["beat", "commands", "triggers"]);
    }

    #[test]
    fn a_loop_that_waits_for_something_else_hides_none_of_another_partition() {
        let [zero, one] = [0, 1].map(|number| Partition::new(number).unwrap());
        let progress = heard();
        progress.expect("take", zero);
        progress.idle("take", one);
        pass(&progress, PATIENCE + TICK, true);
        for name in NEEDED {
            progress.mark(name);
        }

        assert_eq!(progress.deaf(), ["take"]);
        progress.idle("take", zero);
        assert!(progress.deaf().is_empty());
    }
}
