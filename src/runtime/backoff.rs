//! How loops wait after a failure: the one place that uses the `backoff` crate.
//!
//! The crate is unmaintained (RUSTSEC-2025-0012); it is kept behind this file, and only its `Backoff` trait and its
//! exponential schedule are used, never its own sleeping.

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use tokio_util::sync::CancellationToken;

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

#[cfg(test)]
mod tests {
    use super::*;

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
