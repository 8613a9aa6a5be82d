//! Mends what does not agree: tasks first, then what is left over, then the counters, which depend on both.

use serde::Serialize;

use super::Findings;
use crate::domain::id::{Partition, ReplicaId};
use crate::runtime::audit::{self, Progress, Scope};
use crate::store::audit::{Mend, Walk};
use crate::store::{Store, StoreError};

/// How much one call mends.
const BATCH: usize = 100;
/// How often the counters are counted anew when somebody else mends them at the same time.
const TRIES: usize = 3;

/// What was mended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mended {
    /// What.
    pub what: String,
    /// How many.
    pub count: u64,
}

/// Mends what was found; answers what was done, nothing where nothing was to be done.
///
/// # Errors
///
/// Any [`StoreError`]; mending again goes on where it ended.
pub async fn mend(
    store: &Store,
    actor: ReplicaId,
    actor_name: &str,
    findings: &Findings,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Vec<Mended>, StoreError> {
    let mut mended = Vec::new();
    if findings.misses_groups {
        for stream in [store.keys().triggers(), store.keys().commands()] {
            store.make_inbound_group(&stream).await?;
        }
    }
    for (place, partition) in store.partitions().enumerate() {
        let mut done: Vec<(&'static str, u64)> = Vec::new();
        if findings.misses_groups {
            done.push(("groups made", one(store, partition, actor, &Mend::Queues).await?));
        }
        if let Some(found) = findings.audits.iter().find(|found| found.partition == partition) {
            let tasks = &found.repairable.tasks;
            let mut count = 0;
            for batch in tasks.chunks(BATCH) {
                count += one(store, partition, actor, &Mend::Tasks(batch.to_vec())).await?;
                progress(Progress {
                    stage: "tasks",
                    done: count,
                });
            }
            done.push(("tasks put back", count));
            for walk in &found.repairable.walks {
                let what = match walk {
                    Walk::Entries(_) => "entries removed",
                    Walk::Pending(_) => "held entries released",
                    Walk::Timers => "timers removed",
                    Walk::Limits => "tasks that run no more taken off the limit of their name",
                    Walk::Letters => "dead letters without a copy removed",
                };
                done.push((what, all(store, partition, actor, walk).await?));
            }
        }
        if place == 0 {
            let mut count = 0;
            for (stream, consumer) in &findings.readers {
                // What one still holds, the next replica takes over, and the consumer goes with it.
                count += u64::from(store.forget_inbound_consumer(stream, consumer).await?);
            }
            done.push(("readers that are gone removed", count));
        }
        let members = findings.members.get(place).cloned().unwrap_or_default();
        let mut count = 0;
        for batch in members.chunks(BATCH) {
            count += one(store, partition, actor, &Mend::Members(batch.to_vec())).await?;
        }
        done.push(("replicas that are gone forgotten", count));
        done.push(("counters set right", counters(store, partition, actor, progress).await?));
        let done = summed(done);
        tell(store, partition, actor, actor_name, &done).await?;
        mended.extend(done);
    }
    Ok(mended)
}

/// Each kind once, without those of which there was nothing.
fn summed(done: Vec<(&'static str, u64)>) -> Vec<Mended> {
    let mut sums: Vec<Mended> = Vec::new();
    for (what, count) in done {
        if let Some(sum) = sums.iter_mut().find(|sum| sum.what == what) {
            sum.count += count;
        } else if count > 0 {
            sums.push(Mended {
                what: what.to_owned(),
                count,
            });
        }
    }
    sums
}

async fn one(store: &Store, partition: Partition, actor: ReplicaId, mend: &Mend) -> Result<u64, StoreError> {
    Ok(store
        .repair(partition, actor, mend, BATCH)
        .await?
        .map_or(0, |(count, _)| count))
}

/// A whole walk, part by part.
async fn all(store: &Store, partition: Partition, actor: ReplicaId, walk: &Walk) -> Result<u64, StoreError> {
    let (mut cursor, mut sum) = (String::new(), 0);
    loop {
        let mend = Mend::Walk(walk.clone(), cursor);
        let Some((count, next)) = store.repair(partition, actor, &mend, BATCH).await? else {
            return Ok(sum);
        };
        sum += count;
        if next.is_empty() {
            return Ok(sum);
        }
        cursor = next;
    }
}

/// Counts anew after all else, and applies the differences.
async fn counters(
    store: &Store,
    partition: Partition,
    actor: ReplicaId,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<u64, StoreError> {
    for _ in 0..TRIES {
        let (_, audits) = audit::audit(store, Scope::Store, progress).await?;
        let Some(found) = audits.into_iter().find(|found| found.partition == partition) else {
            return Ok(0);
        };
        if found.repairable.counters.is_empty() {
            return Ok(0);
        }
        let mend = Mend::Counters(found.repairable.mends, found.repairable.counters);
        if let Some((count, _)) = store.repair(partition, actor, &mend, BATCH).await? {
            return Ok(count);
        }
    }
    Ok(0)
}

/// Says on the log what was done.
async fn tell(
    store: &Store,
    partition: Partition,
    actor: ReplicaId,
    actor_name: &str,
    done: &[Mended],
) -> Result<(), StoreError> {
    if done.is_empty() {
        return Ok(());
    }
    let what: Vec<String> = done
        .iter()
        .map(|mended| format!("{} {}", mended.count, mended.what))
        .collect();
    let what = serde_json::Value::from(what.join(", ")).to_string();
    let name = serde_json::Value::from(actor_name).to_string();
    store
        .repair(partition, actor, &Mend::Told(name, what), BATCH)
        .await
        .map(drop)
}
