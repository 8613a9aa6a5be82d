//! Counts durations by size, without a lock: what the metrics show of waits and runs.
//!
//! A duration goes into the first bucket whose bound it does not exceed. The numbers are read one after the other while
//! others count, so a reading may lack what came meanwhile; it never counts anything twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts of durations. The bounds are in seconds and rise.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and one for what exceeds all.
    buckets: Box<[AtomicU64]>,
    sum_us: AtomicU64,
}

impl Histogram {
    /// No durations yet.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_us: AtomicU64::new(0),
        }
    }

    /// Counts one.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let place = self.bounds.partition_point(|bound| *bound < seconds);
        self.buckets[place].fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn read(&self) -> Reading {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        Reading {
            count: buckets.iter().map(|(_, count)| count).sum(),
            sum_seconds: Duration::from_micros(self.sum_us.load(Ordering::Relaxed)).as_secs_f64(),
            buckets,
        }
    }
}

/// What a histogram had counted at some moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// All durations.
    pub count: u64,
    /// Their sum.
    pub sum_seconds: f64,
    /// How many lie in each bucket and in none below, with its upper bound in seconds; the last has none.
    pub buckets: Vec<(f64, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_lies_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(&[0.1, 1.0]);

        for ms in [50, 100, 101, 1000, 5000] {
            histogram.observe(Duration::from_millis(ms));
        }

        let reading = histogram.read();
        assert_eq!(reading.buckets, [(0.1, 2), (1.0, 2), (f64::INFINITY, 1)]);
        assert_eq!(reading.count, 5);
        assert!((reading.sum_seconds - 6.251).abs() < 1e-9, "{reading:?}");
    }
}
