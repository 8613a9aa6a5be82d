//! Whether more replicas do more work, and how soon a new one takes its share.
//!
//! Sleepers keep a slot busy without keeping a core busy, so many replicas can be compared on few cores. The ideal is
//! that no slot is ever free: replicas × workers / sleep.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::figures::{decimals, float, grouped, per_second, percent};
use super::rig::{Rig, RigOptions, with_rig};
use super::tally::Tally;
use crate::cli::exit::Failure;
use crate::cli::output;

/// How long each task sleeps.
const SLEEP_MS: u32 = 20;
/// The sizes of the fleet.
const SIZES: [u16; 4] = [1, 2, 4, 8];
/// How many replicas work when another joins.
const VETERANS: u16 = 2;
/// The time over which the share of a new replica is taken.
const WINDOW_MS: u64 = 200;
/// The part of its fair share that a new replica is to reach.
const GOAL_OF_FAIR: f64 = 0.8;

/// What `bench scale` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct ScaleArgs {
    /// The largest fleet: of 1, 2, 4 and 8 replicas those that are not larger
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=8))]
    pub(super) replicas: u16,
    /// How many tasks each replica runs at once
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) workers: u16,
    /// For how long each fleet has work
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(super) seconds: u32,
}

/// One size of the fleet.
#[derive(Debug, Serialize, Deserialize)]
struct Fleet {
    replicas: u16,
    tasks: u64,
    tasks_per_second: f64,
    ideal_per_second: f64,
    efficiency: f64,
    redis_cpu_us_per_task: f64,
    replica_cpu_us_per_task: Option<f64>,
}

/// A replica that joins in the middle.
#[derive(Debug, Serialize, Deserialize)]
struct Newcomer {
    joins_as_replica: u16,
    fair_share: f64,
    first_start_ms: Option<f64>,
    share_reached_ms: Option<f64>,
    final_share: f64,
}

/// What was found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Scale {
    sleep_ms: u32,
    workers: u16,
    fleets: Vec<Fleet>,
    newcomer: Newcomer,
}

/// Measures once.
pub(super) async fn run(options: &RigOptions<'_>, args: &ScaleArgs) -> Result<Scale, Failure> {
    let mut fleets = Vec::new();
    for size in SIZES.into_iter().filter(|size| *size <= args.replicas) {
        fleets.push(with_rig(options, async |rig| one_fleet(rig, size, args).await).await?);
    }
    let newcomer = with_rig(options, async |rig| one_joins(rig, args).await).await?;
    Ok(Scale {
        sleep_ms: SLEEP_MS,
        workers: args.workers,
        fleets,
        newcomer,
    })
}

fn payload() -> String {
    format!(r#"{{"task_name":"sleep","kwargs":{{"ms":{SLEEP_MS}}}}}"#)
}

/// How many sleepers a fleet of ideal replicas ends in a time.
fn ideal_tasks(replicas: u16, workers: u16, milliseconds: u32) -> u32 {
    u32::from(replicas) * u32::from(workers) * (milliseconds / SLEEP_MS)
}

async fn one_fleet(rig: &mut Rig, size: u16, args: &ScaleArgs) -> Result<Fleet, Failure> {
    rig.start_replicas(size, args.workers, true).await?;
    let tasks = u64::from(ideal_tasks(size, args.workers, args.seconds * 1000));
    let (redis_us, replica_us) = (rig.store.server_cpu_us().await?, rig.replicas_cpu_us());
    let count = usize::try_from(tasks).unwrap_or(usize::MAX);
    rig.publish("scale, publish", (0..count).map(|_| payload())).await?;
    rig.until_ended("scale", tasks).await?;
    let redis_us = rig.store.server_cpu_us().await? - redis_us;
    let replica_us = replica_us
        .zip(rig.replicas_cpu_us())
        .map(|(before, after)| after - before);
    rig.stop_replicas().await;
    let tally = Tally::read(&rig.store).await?;
    tally.require_completed(&rig.store, tasks).await?;
    let achieved = per_second(tasks, tally.started.until(tally.completed));
    let ideal = f64::from(ideal_tasks(size, args.workers, 1000));
    Ok(Fleet {
        replicas: size,
        tasks,
        tasks_per_second: achieved,
        ideal_per_second: ideal,
        efficiency: achieved / ideal,
        redis_cpu_us_per_task: redis_us / float(tasks),
        replica_cpu_us_per_task: replica_us.map(|us| us / float(tasks)),
    })
}

async fn one_joins(rig: &mut Rig, args: &ScaleArgs) -> Result<Newcomer, Failure> {
    rig.start_replicas(VETERANS, args.workers, true).await?;
    // Two seconds alone and four together.
    let tasks = ideal_tasks(VETERANS, args.workers, 2000) + ideal_tasks(VETERANS + 1, args.workers, 4000);
    rig.publish("join, publish", (0..tasks as usize).map(|_| payload()))
        .await?;
    rig.until_ended("join, before", ideal_tasks(VETERANS, args.workers, 1500).into())
        .await?;
    rig.start_replicas(1, args.workers, false).await?;
    rig.until_ended("join, after", tasks.into()).await?;
    rig.stop_replicas().await;
    let tally = Tally::read(&rig.store).await?;
    tally.require_completed(&rig.store, tasks.into()).await?;
    let Some((joined, name)) = tally.joined.last() else {
        return Err(Failure::failed("no replica said that it joined"));
    };
    let fair = 1.0 / f64::from(VETERANS + 1);
    let mut later: Vec<(u64, bool)> = tally
        .starts
        .iter()
        .filter(|(moment, _)| moment >= joined)
        .map(|(moment, replica)| (*moment, replica == name))
        .collect();
    later.sort_by_key(|(moment, _)| *moment);
    let after_joining = |moment: u64| float(moment - joined);
    Ok(Newcomer {
        joins_as_replica: VETERANS + 1,
        fair_share: fair,
        first_start_ms: later
            .iter()
            .find(|(_, is_new)| *is_new)
            .map(|(moment, _)| after_joining(*moment)),
        share_reached_ms: share_reached(&later, GOAL_OF_FAIR * fair).map(after_joining),
        final_share: float(later.iter().filter(|(_, is_new)| *is_new).count() as u64) / float(later.len() as u64),
    })
}

/// The first moment at which the newcomer had at least `share` of the starts of the last [`WINDOW_MS`]. `starts` are
/// in order: the moment, and whether the newcomer made it.
fn share_reached(starts: &[(u64, bool)], share: f64) -> Option<u64> {
    let mut from = 0;
    let mut own = 0_u64;
    for (place, (moment, is_new)) in starts.iter().enumerate() {
        own += u64::from(*is_new);
        while starts[from].0 + WINDOW_MS < *moment {
            own -= u64::from(starts[from].1);
            from += 1;
        }
        // Before a window is full, one lucky batch would count as a share.
        let is_full = *moment >= starts[0].0 + WINDOW_MS;
        if is_full && float(own) >= share * float((place + 1 - from) as u64) {
            return Some(*moment);
        }
    }
    None
}

impl Scale {
    pub(super) fn print(&self) -> Result<(), Failure> {
        output::line(&format!(
            "scale: sleepers of {} ms, replicas of {} workers each",
            self.sleep_ms, self.workers
        ))?;
        let row = |fleet: &Fleet| {
            vec![
                fleet.replicas.to_string(),
                grouped(float(fleet.tasks)),
                grouped(fleet.tasks_per_second),
                grouped(fleet.ideal_per_second),
                decimals(Some(fleet.efficiency), 3),
                decimals(Some(fleet.redis_cpu_us_per_task), 1),
                decimals(fleet.replica_cpu_us_per_task, 1),
            ]
        };
        output::table(
            &[
                "replicas",
                "tasks",
                "per second",
                "ideal",
                "efficiency",
                "redis CPU, µs per task",
                "replica CPU, µs per task",
            ],
            self.fleets.iter().map(row).collect(),
        )?;
        let new = &self.newcomer;
        output::table(
            &[
                "joins as",
                "fair share",
                "first start, ms",
                "80 % of its share after, ms",
                "share of all starts since",
            ],
            vec![vec![
                format!("replica {}", new.joins_as_replica),
                percent(Some(new.fair_share)),
                decimals(new.first_start_ms, 0),
                decimals(new.share_reached_ms, 0),
                percent(Some(new.final_share)),
            ]],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_reached_when_a_whole_window_holds_it() {
        let mut starts: Vec<(u64, bool)> = (0..1000).map(|moment| (moment, false)).collect();
        assert_eq!(share_reached(&starts, 0.4), None);

        for start in starts.iter_mut().filter(|(moment, _)| *moment >= 500) {
            start.1 = start.0 % 2 == 0;
        }

        // 40 % of a window of 200 ms, when half of all starts are the newcomer's: 160 ms after its first.
        let reached = share_reached(&starts, 0.4).unwrap();
        assert!((658..=664).contains(&reached), "{reached}");
        assert_eq!(share_reached(&starts[..600], 0.4), None);
    }

    #[test]
    fn a_lucky_batch_at_the_very_beginning_is_no_share() {
        assert_eq!(share_reached(&[(0, true), (1, true)], 0.4), None);
    }
}
