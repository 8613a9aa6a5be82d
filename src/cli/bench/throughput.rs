//! How many tasks a second, and what each costs.
//!
//! Each run has two servers' worth of work, one after the other on fresh servers:
//!
//! 1. *In steps*: triggers are **published** while nobody reads them; a replica without workers **creates** the tasks
//!    (the ingest of every replica, which has no slot to offer); then replica processes **drain** the full queue.
//! 2. *Whole life*: replicas are ready, and all of it happens at once.
//!
//! Rates are taken from the moments in the log (created: first to last `created`; drained: first `started` to last
//! `completed`; whole life: first trigger entry to last `completed`), published from this process's clock. CPU times are
//! differences over each step, those of replica processes that begin with a step from their start.
//!
//! The floor is what the same number of the same commands costs in an empty loop inside Redis, on the same server after
//! the run; see `store/lua/floor.lua`.

use std::collections::BTreeMap;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::figures::{decimals, float, grouped, per_second, percent};
use super::rig::{Rig, RigOptions, inside_cpu_us, with_rig};
use super::tally::Tally;
use crate::cli::exit::Failure;
use crate::cli::output;
use crate::runtime::builtin::with_builtin;
use crate::runtime::handler::Handlers;
use crate::store::Store;
use crate::store::measure::{FloorPlan, FloorTexts};

/// How many tasks one call of the floor stands for: far below a tenth of a second, so that Redis stays responsive.
const FLOOR_SLICE: u64 = 2_000;

/// What `bench throughput` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct ThroughputArgs {
    /// How many tasks
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) tasks: u32,
    /// How many replicas, each a process
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) replicas: u16,
    /// How many tasks each replica runs at once
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(super) workers: u16,
    /// Print how often each Redis command was called
    #[arg(long)]
    pub(super) commands: bool,
}

/// One step of a task's life.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Step {
    tasks_per_second: f64,
    redis_cpu_us_per_task: f64,
    replica_cpu_us_per_task: Option<f64>,
    floor_us_per_task: f64,
    floor_share: f64,
    commands_per_task: BTreeMap<String, f64>,
}

/// What was found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Throughput {
    tasks: u64,
    replicas: u16,
    workers: u16,
    published: Step,
    created: Step,
    drained: Step,
    whole_life: Step,
}

/// A step's cost while it is measured.
pub(super) struct Meter {
    cpu_us: f64,
    calls: BTreeMap<String, u64>,
    replica_us: Option<f64>,
}

/// What a step cost.
pub(super) struct Cost {
    pub(super) cpu_us: f64,
    pub(super) calls: BTreeMap<String, u64>,
    pub(super) replica_us: Option<f64>,
}

impl Meter {
    pub(super) async fn start(store: &Store, replica_us: Option<f64>) -> Result<Self, Failure> {
        Ok(Self {
            calls: store.command_calls().await?,
            cpu_us: store.server_cpu_us().await?,
            replica_us,
        })
    }

    pub(super) async fn end(self, store: &Store, replica_us: Option<f64>) -> Result<Cost, Failure> {
        let cpu_us = store.server_cpu_us().await? - self.cpu_us;
        let mut calls = store.command_calls().await?;
        for (command, count) in &mut calls {
            *count -= self.calls.get(command).copied().unwrap_or_default();
        }
        calls.retain(|command, count| *count > 0 && command != "info");
        Ok(Cost {
            cpu_us,
            calls,
            replica_us: self.replica_us.zip(replica_us).map(|(before, after)| after - before),
        })
    }
}

/// What a step does with every task, in elements of commands.
struct Elements {
    triggers: u64,
    queued: u64,
    events: u64,
    read_triggers: u64,
    read_queue: u64,
    checked: u64,
    loaded: u64,
    saved: u64,
}

const PUBLISHED: Elements = Elements {
    triggers: 1,
    queued: 0,
    events: 0,
    read_triggers: 0,
    read_queue: 0,
    checked: 0,
    loaded: 0,
    saved: 0,
};
const CREATED: Elements = Elements {
    triggers: 0,
    queued: 1,
    events: 1,
    read_triggers: 1,
    read_queue: 0,
    checked: 1,
    loaded: 0,
    saved: 1,
};
const DRAINED: Elements = Elements {
    triggers: 0,
    queued: 0,
    events: 2,
    read_triggers: 0,
    read_queue: 1,
    checked: 0,
    loaded: 2,
    saved: 2,
};
const WHOLE_LIFE: Elements = Elements {
    triggers: 1,
    queued: 1,
    events: 3,
    read_triggers: 1,
    read_queue: 1,
    checked: 1,
    loaded: 2,
    saved: 3,
};

impl Elements {
    fn plan(&self, tasks: u64, calls: &BTreeMap<String, u64>) -> FloorPlan {
        FloorPlan {
            calls: calls.clone(),
            triggers: self.triggers * tasks,
            queued: self.queued * tasks,
            events: self.events * tasks,
            read_triggers: self.read_triggers * tasks,
            read_queue: self.read_queue * tasks,
            checked: self.checked * tasks,
            loaded: self.loaded * tasks,
            saved: self.saved * tasks,
        }
    }
}

/// The payload of trigger number `number`, with arguments of `bytes` bytes.
pub(super) fn payload(task_name: &str, number: u32, bytes: usize) -> String {
    let text = bytes - 4;
    format!(r#"{{"task_name":"{task_name}","args":["{number:0text$}"]}}"#)
}

/// The handlers of the tasks that benchmarks make.
pub(super) fn handlers() -> Handlers {
    with_builtin(Handlers::new())
}

/// Measures once.
pub(super) async fn run(options: &RigOptions<'_>, args: &ThroughputArgs) -> Result<Throughput, Failure> {
    let [published, created, drained] = with_rig(options, async |rig| in_steps(rig, args).await).await?;
    let whole_life = with_rig(options, async |rig| at_once(rig, args).await).await?;
    Ok(Throughput {
        tasks: args.tasks.into(),
        replicas: args.replicas,
        workers: args.workers,
        published,
        created,
        drained,
        whole_life,
    })
}

fn payloads(count: u32) -> impl ExactSizeIterator<Item = String> {
    let count = count as usize;
    (0..count).map(|number| payload("noop", u32::try_from(number).unwrap_or_default(), 100))
}

async fn in_steps(rig: &mut Rig, args: &ThroughputArgs) -> Result<[Step; 3], Failure> {
    let tasks = u64::from(args.tasks);

    let meter = Meter::start(&rig.store, None).await?;
    let publishing = rig.publish("publish", payloads(args.tasks)).await?;
    let published = meter.end(&rig.store, None).await?;

    let meter = Meter::start(&rig.store, Some(0.0)).await?;
    let creator = rig.start_inside(handlers(), 0)?;
    rig.until_created("create", tasks).await?;
    let created = meter.end(&rig.store, inside_cpu_us()).await?;
    creator.stop().await?;

    let meter = Meter::start(&rig.store, Some(0.0)).await?;
    rig.start_replicas(args.replicas, args.workers, false).await?;
    rig.until_ended("drain", tasks).await?;
    let drained = meter.end(&rig.store, rig.replicas_cpu_us()).await?;
    rig.stop_replicas().await;

    let tally = Tally::read(&rig.store).await?;
    tally.require_completed(&rig.store, tasks).await?;
    let floors = floors(
        &rig.store,
        tasks,
        &[
            PUBLISHED.plan(tasks, &published.calls),
            CREATED.plan(tasks, &created.calls),
            DRAINED.plan(tasks, &drained.calls),
        ],
    )
    .await?;
    Ok([
        step(tasks, per_second(tasks, publishing), &published, floors[0]),
        step(
            tasks,
            per_second(tasks, tally.created.until(tally.created)),
            &created,
            floors[1],
        ),
        step(
            tasks,
            per_second(tasks, tally.started.until(tally.completed)),
            &drained,
            floors[2],
        ),
    ])
}

async fn at_once(rig: &mut Rig, args: &ThroughputArgs) -> Result<Step, Failure> {
    let tasks = u64::from(args.tasks);
    rig.start_replicas(args.replicas, args.workers, true).await?;

    let meter = Meter::start(&rig.store, rig.replicas_cpu_us()).await?;
    rig.publish("whole life, publish", payloads(args.tasks)).await?;
    rig.until_ended("whole life", tasks).await?;
    let cost = meter.end(&rig.store, rig.replicas_cpu_us()).await?;
    rig.stop_replicas().await;

    let tally = Tally::read(&rig.store).await?;
    tally.require_completed(&rig.store, tasks).await?;
    let floors = floors(&rig.store, tasks, &[WHOLE_LIFE.plan(tasks, &cost.calls)]).await?;
    let rate = per_second(tasks, tally.triggered.until(tally.completed));
    Ok(step(tasks, rate, &cost, floors[0]))
}

/// What the plans cost, each in microseconds. A plan may read what the one before it added.
async fn floors(store: &Store, tasks: u64, plans: &[FloorPlan]) -> Result<Vec<f64>, Failure> {
    let trigger = payload("noop", 0, 100);
    // The payloads of a task's three events have 230 to 330 bytes, its record 290 and a few more for the result.
    let (event, record) = ("p".repeat(270), "r".repeat(290));
    let texts = FloorTexts {
        trigger: &trigger,
        event: &event,
        record: &record,
    };
    let slices = tasks.div_ceil(FLOOR_SLICE);
    let mut costs = vec![0.0; plans.len()];
    for number in 0..slices {
        let records = tasks * number / slices..tasks * (number + 1) / slices;
        for (plan, cost) in plans.iter().zip(&mut costs) {
            let before = store.server_cpu_us().await?;
            store
                .run_floor(&plan.slice(number, slices), &texts, records.clone())
                .await?;
            *cost += store.server_cpu_us().await? - before;
        }
    }
    Ok(costs)
}

fn step(tasks: u64, rate: f64, cost: &Cost, floor_us: f64) -> Step {
    let each = |whole: f64| whole / float(tasks);
    Step {
        tasks_per_second: rate,
        redis_cpu_us_per_task: each(cost.cpu_us),
        replica_cpu_us_per_task: cost.replica_us.map(each),
        floor_us_per_task: each(floor_us),
        floor_share: floor_us / cost.cpu_us,
        commands_per_task: cost
            .calls
            .iter()
            .map(|(command, calls)| (command.clone(), each(float(*calls))))
            .collect(),
    }
}

impl Throughput {
    pub(super) fn print(&self, commands: bool) -> Result<(), Failure> {
        let steps = [
            ("triggers published", &self.published),
            ("tasks created", &self.created),
            ("tasks drained", &self.drained),
            ("whole life", &self.whole_life),
        ];
        output::line(&format!(
            "throughput: {} no-op tasks, {} replica(s) of {} workers",
            grouped(float(self.tasks)),
            self.replicas,
            self.workers
        ))?;
        let row = |(name, step): &(&str, &Step)| {
            vec![
                (*name).to_owned(),
                grouped(step.tasks_per_second),
                decimals(Some(step.redis_cpu_us_per_task), 1),
                decimals(step.replica_cpu_us_per_task, 1),
                decimals(Some(step.floor_us_per_task), 1),
                percent(Some(step.floor_share)),
            ]
        };
        output::table(
            &[
                "",
                "per second",
                "redis CPU, µs per task",
                "replica CPU, µs per task",
                "floor, µs per task",
                "floor's share",
            ],
            steps.iter().map(row).collect(),
        )?;
        if !commands {
            return Ok(());
        }
        let mut names: Vec<&String> = steps
            .iter()
            .flat_map(|(_, step)| step.commands_per_task.keys())
            .collect();
        names.sort();
        names.dedup();
        let row = |name: &String| {
            let calls = steps
                .iter()
                .map(|(_, step)| decimals(step.commands_per_task.get(name).copied(), 4));
            std::iter::once(name.clone()).chain(calls).collect()
        };
        output::table(
            &["calls per task", "published", "created", "drained", "whole life"],
            names.into_iter().map(row).collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_arguments_of_the_size_that_was_asked_for() {
        let payload: serde_json::Value = serde_json::from_str(&payload("noop", 17, 100)).unwrap();

        assert_eq!(payload["task_name"], "noop");
        assert_eq!(payload["args"].to_string().len(), 100);
    }

    #[test]
    fn the_steps_together_are_the_whole_life() {
        let sum = |pick: fn(&Elements) -> u64| pick(&PUBLISHED) + pick(&CREATED) + pick(&DRAINED);

        assert_eq!(sum(|step| step.triggers), WHOLE_LIFE.triggers);
        assert_eq!(sum(|step| step.queued), WHOLE_LIFE.queued);
        assert_eq!(sum(|step| step.events), WHOLE_LIFE.events);
        assert_eq!(sum(|step| step.read_triggers), WHOLE_LIFE.read_triggers);
        assert_eq!(sum(|step| step.read_queue), WHOLE_LIFE.read_queue);
        assert_eq!(sum(|step| step.checked), WHOLE_LIFE.checked);
        assert_eq!(sum(|step| step.loaded), WHOLE_LIFE.loaded);
        assert_eq!(sum(|step| step.saved), WHOLE_LIFE.saved);
    }
}
