//! How many tasks ended between the looks of the last minutes.

use std::collections::VecDeque;
use std::time::Duration;

/// How many looks are remembered: more than a screen is wide.
const LOOKS_MAX: usize = 600;

/// Counts at one look; they only grow, unless Redis lost its keys.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Look {
    at: Duration,
    ended: u64,
    failed: u64,
}

/// The looks so far. Times are since some beginning.
#[derive(Debug, Default)]
pub(super) struct History {
    looks: VecDeque<Look>,
    /// Tasks a second between each look and the one before.
    rates: VecDeque<f64>,
}

#[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn as_float(count: u64) -> f64 {
    count as f64
}

impl History {
    /// Notes how many tasks had ended, and how many of them without success.
    pub(super) fn note(&mut self, at: Duration, ended: u64, failed: u64) {
        if let Some(last) = self.looks.back() {
            if ended < last.ended {
                // They are others' counts now.
                self.looks.clear();
                self.rates.clear();
            } else {
                let passed = at.saturating_sub(last.at).as_secs_f64();
                if passed > 0.0 {
                    self.rates.push_back(as_float(ended - last.ended) / passed);
                }
            }
        }
        self.looks.push_back(Look { at, ended, failed });
        while self.looks.len() > LOOKS_MAX {
            self.looks.pop_front();
        }
        while self.rates.len() > LOOKS_MAX {
            self.rates.pop_front();
        }
    }

    /// Tasks a second between the looks, up to `count` of the latest, the oldest first.
    pub(super) fn rates(&self, count: usize) -> impl Iterator<Item = f64> + '_ {
        let skipped = self.rates.len().saturating_sub(count);
        self.rates.iter().skip(skipped).copied()
    }

    /// Tasks a second between the last two looks; `None` before there are two.
    pub(super) fn now(&self) -> Option<f64> {
        self.rates.back().copied()
    }

    /// Which part of the tasks that ended within `span` ended without success, 0 to 1; `None` where none ended.
    pub(super) fn failing(&self, span: Duration) -> Option<f64> {
        let last = self.looks.back()?;
        let first = self.looks.iter().find(|look| last.at.saturating_sub(look.at) <= span)?;
        let ended = last.ended - first.ended;
        (ended > 0).then(|| as_float(last.failed.saturating_sub(first.failed)) / as_float(ended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_rate_is_what_ended_between_two_looks_by_the_time_between() {
        let mut history = History::default();
        assert_eq!(history.now(), None);

        history.note(seconds(0), 100, 0);
        history.note(seconds(2), 120, 5);
        history.note(seconds(3), 120, 5);

        assert_eq!(history.rates(10).collect::<Vec<_>>(), [10.0, 0.0]);
        assert_eq!(history.rates(1).collect::<Vec<_>>(), [0.0]);
        assert_eq!(history.failing(seconds(60)), Some(0.25));
        assert_eq!(history.failing(seconds(1)), None);
    }

    #[test]
    fn counts_that_shrink_begin_anew() {
        let mut history = History::default();
        history.note(seconds(0), 100, 0);
        history.note(seconds(1), 200, 0);

        history.note(seconds(2), 3, 0);

        assert_eq!(history.now(), None);
        history.note(seconds(3), 5, 0);
        assert_eq!(history.now(), Some(2.0));
    }
}
