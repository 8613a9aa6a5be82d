//! What a waiting task weighs in Redis.
//!
//! Tasks are made by the ingest of a replica that has no workers, from triggers with arguments of 100 bytes; it is gone
//! before anything is weighed. The total is the growth of what the server has allocated; the parts are weighed key by
//! key, and what is left over is the key table's slack and the allocator's.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::figures::{decimals, float, grouped};
use super::rig::{Rig, RigOptions, with_rig};
use super::tally::Tally;
use super::throughput::{handlers, payload};
use crate::cli::exit::Failure;
use crate::cli::output;
use crate::domain::id::{Partition, QueueName};
use crate::domain::priority::Priority;
use crate::runtime::handler::Handlers;
use crate::store::Store;
use crate::store::functions::Joining;

/// How many bytes of arguments a task has.
const PAYLOAD_BYTES: usize = 100;
/// How many records are weighed.
const SAMPLE: usize = 2_000;

/// What `bench memory` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct MemoryArgs {
    /// How many tasks
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    pub(super) tasks: u32,
}

/// What was found; all of it per task.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Memory {
    tasks: u64,
    payload_bytes: u64,
    total_bytes: f64,
    created_event_bytes: f64,
    record_bytes: f64,
    queue_entry_bytes: f64,
    other_bytes: f64,
}

/// Measures once.
pub(super) async fn run(options: &RigOptions<'_>, args: &MemoryArgs) -> Result<Memory, Failure> {
    with_rig(options, async |rig| measure(rig, args).await).await
}

async fn measure(rig: &mut Rig, args: &MemoryArgs) -> Result<Memory, Failure> {
    let tasks = u64::from(args.tasks);
    let partition = Partition::default();
    // The library and the keys that exist but once are not what a task weighs.
    let nobody = Joining {
        max_size: Some(0),
        max_running: Some(0),
        workers: None,
        started_at: "",
        announce: false,
        task_names: &Handlers::new().names(),
        limits: &BTreeMap::new(),
    };
    let id = crate::domain::id::ReplicaId::from_random(0);
    rig.store.join(partition, id, &nobody).await?;
    let before = settled_memory(&rig.store).await?;

    let count = args.tasks as usize;
    let payloads = (0..count).map(|number| payload("noop", u32::try_from(number).unwrap_or_default(), PAYLOAD_BYTES));
    rig.publish("memory, publish", payloads).await?;
    let creator = rig.start_inside(handlers(), 0)?;
    rig.until_created("memory, create", tasks).await?;
    creator.stop().await?;
    let after = settled_memory(&rig.store).await?;

    let tally = Tally::read(&rig.store).await?;
    tally.require_pending(&rig.store, tasks).await?;
    let keys = rig.store.keys();
    let records: Vec<String> = tally.task_ids().take(SAMPLE).map(|task| keys.task(task)).collect();
    let each = |bytes: u64| float(bytes) / float(tasks);
    let total = each(after.saturating_sub(before));
    let event = each(rig.store.keys_bytes(&[keys.events(partition)]).await?);
    let record = float(rig.store.keys_bytes(&records).await?) / float(records.len() as u64);
    let queue = keys.queue(partition, &QueueName::default(), Priority::Normal);
    let entry = each(rig.store.keys_bytes(&[queue]).await?);
    Ok(Memory {
        tasks,
        payload_bytes: PAYLOAD_BYTES as u64,
        total_bytes: total,
        created_event_bytes: event,
        record_bytes: record,
        queue_entry_bytes: entry,
        other_bytes: total - event - record - entry,
    })
}

/// What is allocated once buffers of connections and tables that grow have settled: the least of a few looks.
async fn settled_memory(store: &Store) -> Result<u64, Failure> {
    const LOOKS: u32 = 8;
    let mut least = u64::MAX;
    for _ in 0..LOOKS {
        tokio::time::sleep(Duration::from_millis(250)).await;
        least = least.min(store.used_memory_bytes().await?);
    }
    Ok(least)
}

impl Memory {
    pub(super) fn print(&self) -> Result<(), Failure> {
        output::line(&format!(
            "memory: {} pending tasks with {} bytes of arguments",
            grouped(float(self.tasks)),
            self.payload_bytes
        ))?;
        let row = |name: &str, bytes: f64| vec![name.to_owned(), decimals(Some(bytes), 0)];
        output::table(
            &["", "bytes per task"],
            vec![
                row("record", self.record_bytes),
                row("queue entry", self.queue_entry_bytes),
                row("created event", self.created_event_bytes),
                row("everything else", self.other_bytes),
                row("total", self.total_bytes),
                row("total without the event", self.total_bytes - self.created_event_bytes),
            ],
        )
    }
}
