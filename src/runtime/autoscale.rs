//! Moves a replica between its fewest and its most workers, by what waits.
//!
//! Every second it looks at how many tasks could start now: over a hundred, and there are five more workers; under twenty
//! for three looks in a row, and two that are idle go. The gap between the two numbers and the patience below keep a load
//! that wavers from moving the pool to and fro.

use std::sync::Arc;
use std::time::Duration;

use super::replica::Run;
use crate::store::StoreError;

/// The time between looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// With more waiting, there are to be more workers.
const MANY: u64 = 100;
/// How many more.
const STEP_UP: u16 = 5;
/// With fewer waiting, there may be fewer workers.
const FEW: u64 = 20;
/// How many fewer.
const STEP_DOWN: u16 = 2;
/// For how many looks in a row.
const PATIENCE: u32 = 3;

/// What a look comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Up,
    Down,
    Stay,
}

/// How long little has waited.
#[derive(Default)]
struct Calm {
    looks: u32,
}

impl Calm {
    fn look(&mut self, waiting: u64) -> Step {
        if waiting >= FEW {
            self.looks = 0;
            return if waiting > MANY { Step::Up } else { Step::Stay };
        }
        self.looks += 1;
        if self.looks < PATIENCE {
            return Step::Stay;
        }
        self.looks = 0;
        Step::Down
    }
}

/// Moves the pool until the run stops.
pub(super) async fn autoscale(run: Arc<Run>) {
    let mut calm = Calm::default();
    loop {
        tokio::select! {
            () = run.stop.cancelled() => return,
            () = run.fenced.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        let waiting = match ready_tasks(&run).await {
            Ok(waiting) => waiting,
            Err(problem) => {
                run.report(&problem, "can not see how much waits");
                continue;
            }
        };
        let (min, max) = run.bounds.range();
        let changed = match calm.look(waiting) {
            Step::Up => run.slots.add(STEP_UP, max),
            Step::Down => run.slots.remove_free(STEP_DOWN, min),
            Step::Stay => 0,
        };
        if changed > 0 {
            run.bounds.note(run.slots.size());
            run.scaling.notify_one();
        }
    }
}

/// How many tasks could start now if there were workers.
async fn ready_tasks(run: &Run) -> Result<u64, StoreError> {
    let mut ready = 0;
    for partition in run.store.partitions() {
        // The exact number costs a look at every queue; below the mark it is not needed.
        let pending = run.store.pending_count(partition).await?;
        if pending <= FEW {
            ready += pending;
            continue;
        }
        let statistics = run.store.statistics(partition).await?;
        let is_open = |name: &String| statistics.paused.iter().all(|(paused, _)| paused != name);
        for (_, ranks) in statistics.queues.iter().filter(|(name, _)| is_open(name)) {
            ready += ranks.iter().map(|(waiting, _)| waiting).sum::<u64>();
        }
    }
    Ok(ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_that_wavers_moves_nothing() {
        let steps = |loads: &[u64]| {
            let mut calm = Calm::default();
            loads.iter().map(|load| calm.look(*load)).collect::<Vec<_>>()
        };

        assert_eq!(steps(&[101, 100, 20]), [Step::Up, Step::Stay, Step::Stay]);
        assert_eq!(steps(&[19, 19, 20, 19, 19]), [Step::Stay; 5]);
        let falling = [Step::Stay, Step::Stay, Step::Down];
        assert_eq!(steps(&[19, 0, 0, 0, 0, 0]), [falling, falling].concat());
    }
}
