//! When a handler is paused because its target does not answer, and when it is tried again.
//!
//! A circuit remembers which of the last twenty calls could not reach the target. When half of them could not, it opens:
//! the replica claims no more tasks of that name, so they wait instead of using up their retries. After a wait that
//! doubles each time, one task is tried. Its answer closes the circuit, or opens it again for longer.
//!
//! Pure: time is how long the caller has been running, chance is an argument.

use std::time::Duration;

use super::retry::{RetryPolicy, RetryStrategy};

/// What one call says about the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It answered, whatever it said.
    Reached,
    /// It could not be reached.
    Missed,
    /// Nothing: the call was aborted.
    Nothing,
}

/// Whether tasks may be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// As many as there is room for.
    Closed,
    /// None before `until`, counted from the start of the caller.
    Open {
        /// When one is tried again.
        until: Duration,
    },
    /// One, to see whether the target is back.
    Trying,
}

/// The memory of one handler's calls.
#[derive(Debug, Clone)]
pub struct Circuit {
    /// The last calls, the newest in the lowest bit; a set bit is a miss.
    window: u32,
    phase: Phase,
    /// How often in a row it opened.
    openings: u32,
}

impl Default for Circuit {
    fn default() -> Self {
        Self::new()
    }
}

impl Circuit {
    /// How many calls are remembered.
    pub const CALLS: u32 = 20;
    /// How many of them must have missed.
    pub const MISSES: u32 = Self::CALLS / 2;
    /// The waits before one task is tried: 1 s doubling up to 30 s, a tenth more or less by chance, so that replicas
    /// that lost the same target do not come back at once.
    const WAITS: RetryPolicy = RetryPolicy {
        max_retries: u32::MAX,
        initial_delay_seconds: 1.0,
        max_delay_seconds: 30.0,
        backoff_multiplier: 2.0,
        strategy: RetryStrategy::Exponential,
        increment_seconds: 0.0,
        jitter: 0.1,
    };

    /// A closed circuit without memory.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            window: 0,
            phase: Phase::Closed,
            openings: 0,
        }
    }

    /// Whether tasks may be claimed.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether it is closed and remembers no miss: a call that reaches the target changes nothing then.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.window == 0 && self.phase == Phase::Closed
    }

    /// Takes in what a call showed at `now`; whether the phase changed. `chance` is a random number from 0 to 1.
    pub fn note(&mut self, sign: Sign, now: Duration, chance: f64) -> bool {
        match self.phase {
            Phase::Closed => {
                let is_miss = match sign {
                    Sign::Reached => 0,
                    Sign::Missed => 1,
                    Sign::Nothing => return false,
                };
                self.window = (self.window << 1 | is_miss) & ((1 << Self::CALLS) - 1);
                if self.window.count_ones() < Self::MISSES {
                    return false;
                }
                self.open(now, chance);
            }
            // Calls that began before it opened tell nothing new.
            Phase::Open { .. } => return false,
            Phase::Trying => match sign {
                Sign::Reached => *self = Self::new(),
                Sign::Missed => self.open(now, chance),
                // Nothing was learned, so the next may be tried at once.
                Sign::Nothing => self.phase = Phase::Open { until: now },
            },
        }
        true
    }

    /// Whether a task may be tried at `now`; from then on one is.
    pub fn begins_trying(&mut self, now: Duration) -> bool {
        match self.phase {
            Phase::Open { until } if until <= now => {
                self.phase = Phase::Trying;
                true
            }
            Phase::Open { .. } | Phase::Closed | Phase::Trying => false,
        }
    }

    fn open(&mut self, now: Duration, chance: f64) {
        self.openings = self.openings.saturating_add(1);
        let until = now + Self::WAITS.delay(self.openings, chance);
        self.phase = Phase::Open { until };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn opened(at: Duration) -> Circuit {
        let mut circuit = Circuit::new();
        for _ in 0..Circuit::MISSES {
            circuit.note(Sign::Missed, at, 0.5);
        }
        circuit
    }

    #[test]
    fn it_opens_when_half_of_the_last_twenty_calls_missed() {
        let mut circuit = Circuit::new();
        // Nine misses among any twenty calls are borne for ever.
        for call in 0..200 {
            let sign = if call % 20 < 9 { Sign::Missed } else { Sign::Reached };
            assert!(!circuit.note(sign, seconds(call), 0.5), "call {call}");
        }
        assert_eq!(circuit.phase(), Phase::Closed);
        assert!((0..Circuit::MISSES).any(|_| circuit.note(Sign::Missed, seconds(300), 0.5)));
        assert_eq!(circuit.phase(), Phase::Open { until: seconds(301) });
    }

    #[test]
    fn aborted_calls_and_calls_from_before_say_nothing() {
        let mut circuit = Circuit::new();
        for _ in 0..100 {
            assert!(!circuit.note(Sign::Nothing, seconds(0), 0.5));
        }
        let mut circuit = opened(seconds(0));
        assert!(!circuit.note(Sign::Missed, seconds(0), 0.5));
        assert!(!circuit.note(Sign::Reached, seconds(0), 0.5));
        assert_eq!(circuit.phase(), Phase::Open { until: seconds(1) });
    }

    #[test]
    fn one_task_is_tried_after_waits_that_double_up_to_half_a_minute() {
        let mut circuit = opened(seconds(0));
        let mut now = seconds(0);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let Phase::Open { until } = circuit.phase() else {
                panic!("{circuit:?}")
            };
            assert!(!circuit.begins_trying(until.saturating_sub(Duration::from_millis(1))));
            assert!(circuit.begins_trying(until) && !circuit.begins_trying(until));
            waits.push(until.saturating_sub(now).as_secs());
            now = until;
            assert!(circuit.note(Sign::Missed, now, 0.5));
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn an_answer_closes_it_with_a_clean_memory() {
        let mut circuit = opened(seconds(0));
        assert!(circuit.begins_trying(seconds(1)));
        assert!(circuit.note(Sign::Reached, seconds(1), 0.5));
        assert_eq!(circuit.phase(), Phase::Closed);
        for _ in 1..Circuit::MISSES {
            assert!(!circuit.note(Sign::Missed, seconds(2), 0.5));
        }
        assert!(circuit.note(Sign::Missed, seconds(2), 0.5));
        assert_eq!(circuit.phase(), Phase::Open { until: seconds(3) });
    }

    #[test]
    fn a_trial_that_was_aborted_is_made_again_at_once() {
        let mut circuit = opened(seconds(0));
        assert!(circuit.begins_trying(seconds(1)));
        assert!(circuit.note(Sign::Nothing, seconds(5), 0.5));
        assert!(circuit.begins_trying(seconds(5)));
    }
}
