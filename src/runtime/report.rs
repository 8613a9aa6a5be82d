//! Says what a replica's workers do, and carries out what was asked for: more of them or fewer.
//!
//! A wish stands in Redis; the bell tells of it, and a report that finds one would do so too. What a replica was scaled to
//! outlives its name: one that joins anew goes on with as many.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::info;

use super::backoff::Waits;
use super::replica::Run;
use crate::store::StoreError;
use crate::store::operate::{Report, ReportReply};
use crate::store::workers::pack;

/// The time between reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);
/// From how many workers on their figures go out less often: they are long.
const MANY_WORKERS: u16 = 256;
/// How often then.
const MANY_INTERVAL: Duration = Duration::from_secs(10);
/// How long a replica that stops tries to say so.
const FAREWELL: Duration = Duration::from_secs(1);

/// How many workers a replica may have, across its names.
pub(crate) struct Bounds {
    /// The fewest that were configured; a smaller maximum lowers it.
    min: u16,
    /// How many it has, and may have.
    now: Mutex<(u16, u16)>,
}

impl Bounds {
    /// Bounds of a replica that begins with `size` workers.
    pub(crate) fn new(min: u16, size: u16, max: u16) -> Self {
        Self {
            min,
            now: Mutex::new((size, max)),
        }
    }

    fn now(&self) -> (u16, u16) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many it has, or begins with under its next name.
    pub(crate) fn size(&self) -> u16 {
        self.now().0
    }

    /// The fewest and the most.
    pub(crate) fn range(&self) -> (u16, u16) {
        let (_, max) = self.now();
        (self.min.min(max), max)
    }

    /// Notes how many it has.
    pub(crate) fn note(&self, size: u16) {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).0 = size;
    }

    fn set(&self, size: u16, max: u16) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = (size, max);
    }
}

impl Run {
    fn report_now(&self, applied: u64, has_figures: bool) -> Report {
        let is_draining = self.stop.is_cancelled();
        let (min_workers, max_workers) = self.bounds.range();
        Report {
            is_draining,
            workers: self.slots.size(),
            min_workers,
            max_workers,
            autoscale: self.options.autoscale,
            applied,
            figures: if has_figures {
                pack(&self.slots.figures(is_draining))
            } else {
                String::new()
            },
        }
    }

    /// Says at once that the replica takes no more tasks.
    pub(super) async fn report_draining(&self) {
        let report = self.report_now(u64::MAX, true);
        let told = tokio::time::timeout(FAREWELL, self.store.report(self.replica, &report)).await;
        if let Ok(Err(problem)) = told {
            self.report(&problem, "can not say that the replica drains");
        }
    }
}

/// Reports until the run has left.
pub(super) async fn report_workers(run: Arc<Run>) {
    let mut waits = Waits::new();
    let mut applied = 0;
    let mut figures_at = None::<Instant>;
    loop {
        let is_many = run.slots.size() > MANY_WORKERS;
        let has_figures = !is_many || figures_at.is_none_or(|at| at.elapsed() >= MANY_INTERVAL);
        let report = run.report_now(applied, has_figures);
        let pause = match run.store.report(run.replica, &report).await {
            Ok(reply) => {
                waits.reset();
                if has_figures {
                    figures_at = Some(Instant::now());
                }
                match reply {
                    ReportReply::Wish {
                        number,
                        workers,
                        max_workers,
                    } if number > applied && !report.is_draining => {
                        run.slots.resize(workers);
                        run.bounds.set(workers, max_workers);
                        applied = number;
                        info!(replica = %run.replica, workers, max_workers, "scaled");
                        continue;
                    }
                    // A stranger learns from its beat what became of it.
                    ReportReply::Wish { .. } | ReportReply::Ok | ReportReply::Stranger => REPORT_INTERVAL,
                }
            }
            // Before the first replica joined anew nobody knows it.
            Err(StoreError::NotJoined) => REPORT_INTERVAL,
            Err(problem) => {
                run.report(&problem, "can not report");
                waits.next()
            }
        };
        tokio::select! {
            () = run.left.cancelled() => return,
            () = run.scaling.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_maximum_lowers_the_minimum_with_it() {
        let bounds = Bounds::new(2, 10, 10);
        assert_eq!((bounds.size(), bounds.range()), (10, (2, 10)));

        bounds.set(1, 1);
        assert_eq!((bounds.size(), bounds.range()), (1, (1, 1)));
        bounds.set(20, 20);
        assert_eq!((bounds.size(), bounds.range()), (20, (2, 20)));
    }
}
