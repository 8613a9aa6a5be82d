//! Counts what calls to Redis cost and how they fail, for the metrics.
//!
//! All handles that belong together share one: see [`Store::beside`](super::Store::beside). Counting takes no lock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::StoreError;
use super::library::Function;
use crate::domain::histogram::{Histogram, Reading};

/// How long calls take, in seconds.
const CALL_BOUNDS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];
/// More functions than the library will ever have.
const FUNCTIONS_MAX: usize = 128;

/// How a call to Redis failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// There was no answer in time.
    Timeout,
    /// The connection was refused, broke, or could not be made.
    Connection,
    /// Redis answered that it is not ready: it loads, follows another, can not write.
    Unready,
    /// Redis is short of memory.
    Memory,
    /// Redis refused the command, for want of rights for example.
    Refused,
    /// The answer made no sense, or the keys are another release's.
    Other,
}

impl Failure {
    /// All, in the order of their names in the metrics.
    pub const ALL: [Self; 6] = [
        Self::Timeout,
        Self::Connection,
        Self::Unready,
        Self::Memory,
        Self::Refused,
        Self::Other,
    ];

    /// Its name in the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Unready => "unready",
            Self::Memory => "memory",
            Self::Refused => "refused",
            Self::Other => "other",
        }
    }

    fn of(error: &StoreError) -> Option<Self> {
        Some(match error {
            StoreError::Unavailable(cause) if cause.is_timeout() => Self::Timeout,
            StoreError::Unavailable(cause) if cause.code().is_some() => Self::Unready,
            StoreError::Unavailable(_) | StoreError::NotConnected(_) => Self::Connection,
            StoreError::OutOfMemory => Self::Memory,
            StoreError::Refused(cause) => match cause.code() {
                // Asked on purpose, and answered by whoever called.
                Some("BUSYGROUP" | "NOGROUP") => return None,
                _ if super::connection::is_unknown_function(cause) => return None,
                _ => Self::Refused,
            },
            StoreError::Schema { .. }
            | StoreError::Partitions { .. }
            | StoreError::NoFunctions
            | StoreError::Unfit(_)
            | StoreError::Protocol(_)
            | StoreError::InvalidUrl(_) => Self::Other,
            // Nobody has joined yet; no failure of Redis.
            StoreError::NotJoined => return None,
        })
    }
}

/// What is counted.
pub struct Meters {
    /// By the number of the function.
    calls: Box<[OnceLock<(Function, Histogram)>]>,
    failures: [AtomicU64; Failure::ALL.len()],
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            calls: (0..FUNCTIONS_MAX).map(|_| OnceLock::new()).collect(),
            failures: Default::default(),
        }
    }
}

impl Meters {
    /// Counts a call that was answered.
    pub(super) fn note_call(&self, function: Function, took: Duration) {
        if let Some(place) = self.calls.get(function as usize) {
            let (_, histogram) = place.get_or_init(|| (function, Histogram::new(&CALL_BOUNDS)));
            histogram.observe(took);
        }
    }

    /// Counts a failure, where it is one, and hands it on.
    pub(super) fn note_failure(&self, error: StoreError) -> StoreError {
        if let Some(failure) = Failure::of(&error) {
            self.failures[failure as usize].fetch_add(1, Ordering::Relaxed);
        }
        error
    }

    /// The functions that were called, with how long their calls took.
    pub fn calls(&self) -> impl Iterator<Item = (&'static str, Reading)> + '_ {
        let called = self.calls.iter().filter_map(OnceLock::get);
        called.map(|(function, histogram)| (function.short_name(), histogram.read()))
    }

    /// How often calls failed, by how.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.failures.iter().map(|count| count.load(Ordering::Relaxed));
        Failure::ALL.into_iter().map(Failure::as_str).zip(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_is_counted_in_its_own_place() {
        for (number, failure) in Failure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, number, "{failure:?}");
        }
        let meters = Meters::default();

        let _told = meters.note_failure(StoreError::OutOfMemory);
        let _told = meters.note_failure(StoreError::NotConnected("gone".to_owned()));
        let _told = meters.note_failure(StoreError::NotJoined);

        let counted: Vec<_> = meters.failures().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("connection", 1), ("memory", 1)]);
    }

    #[test]
    fn a_function_appears_once_it_was_called() {
        let meters = Meters::default();
        assert_eq!(meters.calls().count(), 0);

        meters.note_call(Function::Rights, Duration::from_micros(300));

        let calls: Vec<_> = meters.calls().map(|(name, reading)| (name, reading.count)).collect();
        assert_eq!(calls, [("rights", 1)]);
    }
}
