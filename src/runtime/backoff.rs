//! How long to wait after a failure: the one place that uses the `backoff` crate.
//!
//! Loops that lost Redis wait without end (`Waits`); an operation under a retry policy has a number of tries
//! (`Schedule`). Both are schedules in the sense of the crate's `Backoff` trait. The crate is unmaintained
//! (RUSTSEC-2025-0012); it is kept behind this file, and only the trait and its exponential schedule are used, never its
//! own sleeping.

use std::time::Duration;

pub(crate) use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use tokio_util::sync::CancellationToken;

use crate::domain::retry::RetryPolicy;

/// The waits of one loop: 50 ms growing to 2 s, half of it by chance, without end. Many replicas that lost the same
/// Redis so come back spread out.
pub(crate) struct Waits {
    schedule: ExponentialBackoff,
}

impl Waits {
    /// A schedule at its beginning.
    pub(crate) fn new() -> Self {
        let schedule = ExponentialBackoffBuilder::new()
            .with_initial_interval(Duration::from_millis(50))
            .with_multiplier(2.0)
            .with_randomization_factor(0.5)
            .with_max_interval(Duration::from_secs(2))
            .with_max_elapsed_time(None)
            .build();
        Self { schedule }
    }

    /// Begins anew: the loop got through.
    pub(crate) fn reset(&mut self) {
        self.schedule.reset();
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        self.schedule.next_backoff().unwrap_or(Duration::from_secs(2))
    }

    /// Waits its turn; `false` when `stop` came first.
    pub(crate) async fn pause(&mut self, stop: &CancellationToken) -> bool {
        let wait = self.next();
        tokio::select! {
            () = stop.cancelled() => false,
            () = tokio::time::sleep(wait) => true,
        }
    }
}

/// The waits of one operation under a policy: as many as it has retries, and then none.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    policy: RetryPolicy,
    /// How many waits were given out.
    retries: u32,
    /// Places each wait in the band of the jitter, 0 to 1.
    chance: fn() -> f64,
}

impl Schedule {
    /// The schedule of `policy` at its beginning.
    pub(crate) const fn new(policy: RetryPolicy, chance: fn() -> f64) -> Self {
        Self {
            policy,
            retries: 0,
            chance,
        }
    }

    /// How many waits are left.
    pub(crate) const fn retries_left(&self) -> u32 {
        self.policy.max_retries.saturating_sub(self.retries)
    }
}

impl Backoff for Schedule {
    fn reset(&mut self) {
        self.retries = 0;
    }

    fn next_backoff(&mut self) -> Option<Duration> {
        if self.retries_left() == 0 {
            return None;
        }
        self.retries += 1;
        Some(self.policy.delay(self.retries, (self.chance)()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_ends_with_the_retries_of_its_policy_and_begins_anew_when_told() {
        let mut schedule = Schedule::new(RetryPolicy::CONSERVATIVE, || 0.5);
        let seconds = |schedule: &mut Schedule| {
            std::iter::from_fn(|| schedule.next_backoff())
                .map(|wait| wait.as_secs_f64())
                .collect::<Vec<_>>()
        };

        assert_eq!(seconds(&mut schedule), [2.0, 6.0]);
        assert_eq!((schedule.next_backoff(), schedule.retries_left()), (None, 0));
        schedule.reset();
        assert_eq!(seconds(&mut schedule), [2.0, 6.0]);
    }

    #[test]
    fn the_waits_grow_to_their_bound_and_never_end() {
        let mut waits = Waits::new();
        let first = waits.next();
        let last = (0..100).map(|_| waits.next()).last().unwrap();

        assert!(first <= Duration::from_millis(75), "{first:?}");
        assert!(
            (Duration::from_secs(1)..=Duration::from_secs(3)).contains(&last),
            "{last:?}"
        );
        waits.reset();
        assert!(waits.next() <= Duration::from_millis(75));
    }
}
