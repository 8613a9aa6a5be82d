//! What the whole deployment has to do and has to do it with: one look for the metrics and for whoever scales it.
//!
//! A look costs a function call a partition and a few commands, so those who ask often share one of the last seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tracing::debug;

use crate::domain::priority::Priority;
use crate::error::Error;
use crate::store::Store;
use crate::store::document::StatisticsDocument;
use crate::store::statistics::Statistics;

/// How long a look, or that there was no answer, is good for.
const GOOD_FOR: Duration = Duration::from_secs(5);
/// How long a look may take. Whoever asks shall learn that Redis does not answer before they lose patience themselves.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);

/// An inbound stream.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct InboundStatus {
    /// Entries that are not acted upon.
    pub waiting: u64,
    /// Those of them that a replica has read.
    pub pending: u64,
    /// For how long the oldest has been there; 0 without any.
    pub oldest_seconds: f64,
}

/// The workflows, or the sagas.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GroupFigures {
    /// `workflow` or `saga`.
    pub kind: &'static str,
    /// How many are under way.
    pub running: u64,
    /// How often one ended how; one that was resumed ends once more.
    pub ended: [(&'static str, u64); 3],
}

/// The deployment at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Overview {
    /// What `stats` shows.
    pub statistics: StatisticsDocument,
    /// Tasks that could start at once if there were workers.
    pub ready_tasks: u64,
    /// For how long the oldest task of each priority could have started; 0 without any. Tasks of paused queues do not count.
    pub ready_oldest_seconds: [(Priority, f64); 4],
    /// Workflows and sagas: how many are under way, and how often one ended how.
    pub groups: [GroupFigures; 2],
    /// Triggers and commands.
    pub inbound: [(&'static str, InboundStatus); 2],
    /// Replicas with workers.
    pub replicas: u64,
    /// Bytes that Redis uses, and how many it may (0 for no limit); `None` where the user may not ask.
    pub memory: Option<(u64, u64)>,
}

impl Overview {
    /// For how long the task or trigger that has waited longest could have started; 0 without any.
    #[must_use]
    pub fn oldest_waiting_seconds(&self) -> f64 {
        let ready = self.ready_oldest_seconds.iter().map(|(_, seconds)| *seconds);
        ready.chain([self.inbound[0].1.oldest_seconds]).fold(0.0, f64::max)
    }

    /// All workers as they are now, whether busy, idle or held.
    #[must_use]
    pub fn workers(&self) -> u64 {
        let pool = &self.statistics.worker_pool;
        pool.active_workers + pool.idle_workers + pool.detached_workers
    }
}

/// Looks.
///
/// # Errors
///
/// [`Error::RedisUnavailable`].
pub async fn look(store: &Store) -> Result<Overview, Error> {
    let partitions = store.all_statistics().await?;
    let now_ms = store.now_ms().await?;
    let since = |ms: i64| {
        let ms = u64::try_from(now_ms.saturating_sub(ms)).unwrap_or_default();
        Duration::from_millis(ms).as_secs_f64()
    };
    let keys = store.keys();
    let mut inbound = [("triggers", keys.triggers()), ("commands", keys.commands())].map(|(name, stream)| {
        let nothing = InboundStatus {
            waiting: 0,
            pending: 0,
            oldest_seconds: 0.0,
        };
        (name, nothing, stream)
    });
    for (_, status, stream) in &mut inbound {
        let found = store.inbound_look(stream).await?;
        *status = InboundStatus {
            waiting: found.waiting,
            pending: found.pending,
            oldest_seconds: found
                .oldest_ms
                .map_or(0.0, |ms| since(i64::try_from(ms).unwrap_or(i64::MAX))),
        };
    }
    let oldest = |priority: Priority| {
        let of_partitions = partitions.iter();
        let oldest_ms = of_partitions
            .filter_map(|one| one.ready_since[usize::from(priority.rank())])
            .min();
        (priority, oldest_ms.map_or(0.0, since))
    };
    Ok(Overview {
        ready_tasks: partitions.iter().map(ready_tasks).sum(),
        ready_oldest_seconds: Priority::ALL.map(oldest),
        groups: [
            group_figures(&partitions, "workflow", ["completed", "failed", "cancelled"]),
            group_figures(&partitions, "saga", ["completed", "compensated", "failed"]),
        ],
        inbound: inbound.map(|(name, status, _)| (name, status)),
        replicas: partitions.first().map_or(0, replicas),
        memory: store.memory().await?,
        statistics: StatisticsDocument::sum(&partitions),
    })
}

/// What waits in the streams of queues that are not paused.
fn ready_tasks(statistics: &Statistics) -> u64 {
    let is_open = |name: &String| statistics.paused.iter().all(|(paused, _)| paused != name);
    let open = statistics.queues.iter().filter(|(name, _)| is_open(name));
    open.flat_map(|(_, ranks)| ranks).map(|(waiting, _)| waiting).sum()
}

fn group_figures(partitions: &[Statistics], kind: &'static str, outcomes: [&'static str; 3]) -> GroupFigures {
    let count = |name: &str| partitions.iter().filter_map(|one| one.groups.get(name)).sum();
    GroupFigures {
        kind,
        running: count(kind),
        ended: outcomes.map(|outcome| (outcome, count(&format!("{kind} {outcome}")))),
    }
}

/// Those with workers; every partition knows all of them.
fn replicas(statistics: &Statistics) -> u64 {
    let has_workers =
        |fields: &[(String, String)]| fields.iter().any(|(name, count)| name == "workers" && count != "0");
    let with_workers = statistics.replicas.iter().filter(|(_, fields)| has_workers(fields));
    with_workers.count() as u64
}

/// Looks for all who ask, at most every few seconds.
pub struct Lookout {
    store: Store,
    last: Mutex<Option<(Instant, Option<Arc<Overview>>)>>,
}

impl Lookout {
    /// Looks through `store`; not yet.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            last: Mutex::new(None),
        }
    }

    /// What was seen within the last seconds; `None` when Redis does not answer.
    pub async fn overview(&self) -> Option<Arc<Overview>> {
        // Those who come while somebody looks share what is seen.
        let mut last = self.last.lock().await;
        if let Some((at, seen)) = &*last
            && at.elapsed() < GOOD_FOR
        {
            return seen.clone();
        }
        let seen = match tokio::time::timeout(LOOK_PATIENCE, look(&self.store)).await {
            Ok(Ok(overview)) => Some(Arc::new(overview)),
            Ok(Err(problem)) => {
                debug!(%problem, "can not look at the deployment");
                None
            }
            Err(_) => None,
        };
        *last = Some((Instant::now(), seen.clone()));
        seen
    }
}
