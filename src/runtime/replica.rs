//! One replica: joins, runs its loops, drains, leaves; and joins anew when it finds itself fenced.

mod handle;
mod leaving;
mod membership;
mod options;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

pub use handle::{Readiness, ReplicaHandle, WorkerCount};
use leaving::{GOODBYE_PATIENCE, abandon, drain, give_back_inbound};
pub(super) use membership::Membership;
pub use options::ReplicaOptions;

use super::backoff::Waits;
use super::circuits::{self, Circuits};
use super::defaults::Defaults;
use super::detached::{self, Detached};
use super::holdings::Holdings;
use super::ingest::{self, Source};
use super::meters::{self, Meters};
use super::progress::{self, Progress};
use super::recall::Recollection;
use super::report::{self, Bounds};
use super::slots::Slots;
use super::wakes::Wakes;
use super::watch::OwnBeats;
use super::work::Ended;
use super::{autoscale, member, recall, safety, snapshot, sweep, watch, work};
use crate::domain::id::{Partition, ReplicaId};
use crate::store::functions::{Claimed, Joining};
use crate::store::{Store, StoreError};

/// What the loops of one run share.
pub(crate) struct Run {
    pub(super) store: Store,
    pub(super) replica: ReplicaId,
    pub(super) options: ReplicaOptions,
    pub(super) defaults: Defaults,
    pub(super) slots: Arc<Slots>,
    pub(super) bounds: Arc<Bounds>,
    pub(super) circuits: Circuits,
    /// Blocking functions that outlived their attempts, also those of earlier runs.
    pub(super) detached: Arc<Detached>,
    pub(super) holdings: Holdings,
    pub(super) runtime: Handle,
    pub(super) tracker: TaskTracker,
    /// Where ended attempts go, by partition.
    pub(super) ended: Vec<mpsc::Sender<Ended>>,
    /// Where found attempts go when somebody takes tasks by hand, instead of being run.
    pub(super) adopted: Option<Arc<Mutex<VecDeque<Claimed>>>>,
    /// Read no more, claim no more.
    pub(super) stop: CancellationToken,
    /// The grace is over: running attempts are handed back.
    pub(super) hand_back: CancellationToken,
    /// The replica was taken for dead: nothing that it holds is its own.
    pub(super) fenced: CancellationToken,
    /// Everything is settled: beat no more.
    pub(super) left: CancellationToken,
    /// Something rang that may mean work.
    pub(super) bell: Wakes,
    /// There may be room in the queue.
    pub(super) room: Notify,
    /// There may be an earlier timer.
    pub(super) timers: Wakes,
    /// What the workers do is to be reported now.
    pub(super) scaling: Notify,
    /// Whether to read again what is pending under the replica's name, for triggers and commands.
    pub(super) reread: [AtomicBool; 2],
    pub(super) beats: OwnBeats,
    pub(super) recollection: Recollection,
    /// Redis has used most of its memory.
    pub(super) is_memory_short: AtomicBool,
    pub(super) progress: Progress,
    pub(super) meters: Arc<Meters>,
    pub(super) completed: AtomicU64,
    pub(super) failed: AtomicU64,
    reports: Mutex<Option<Instant>>,
}

impl Run {
    /// Logs a failure of Redis, once in a while: every loop meets the same outage.
    pub(super) fn report(&self, problem: &StoreError, what: &'static str) {
        const SILENCE: Duration = Duration::from_secs(5);
        let mut last = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < SILENCE) {
            return;
        }
        *last = Some(Instant::now());
        let cause = std::error::Error::source(problem).map(ToString::to_string);
        if ingest::is_final(problem) || !problem.is_retryable() {
            error!(replica = %self.replica, problem = %problem, cause, "{what}");
        } else {
            warn!(replica = %self.replica, problem = %problem, cause, "{what}; trying again");
        }
        if matches!(problem, StoreError::NotJoined) {
            // Redis lost its keys; joining anew makes them.
            self.fenced.cancel();
        }
    }
}

/// A replica that is to run until it is told to stop.
pub struct Replica {
    store: Store,
    beat_store: Store,
    options: ReplicaOptions,
    detached: Arc<Detached>,
    handle: ReplicaHandle,
    recollection: Recollection,
}

impl Replica {
    /// A replica on `store`, to be stopped by `stop`. `beat_store` must be a handle of its own to the same Redis: its
    /// connection lives on another thread.
    #[must_use]
    pub fn new(store: Store, beat_store: Store, options: ReplicaOptions, stop: CancellationToken) -> Self {
        let bounds = Arc::new(bounds(&options));
        let meters = Arc::new(Meters::new(&options.handlers));
        Self {
            store,
            beat_store,
            options,
            detached: Arc::default(),
            handle: ReplicaHandle {
                current: Arc::default(),
                meters,
                bounds,
                stop,
            },
            recollection: Recollection::default(),
        }
    }

    /// What others may ask.
    #[must_use]
    pub fn handle(&self) -> ReplicaHandle {
        self.handle.clone()
    }

    /// Runs until stopped: drains for the grace, hands the rest back, leaves.
    ///
    /// # Errors
    ///
    /// A [`StoreError`] that no waiting can mend, such as keys of another release or a server that must not be used. An
    /// outage is waited out.
    pub async fn run(self) -> Result<(), StoreError> {
        let stop = self.handle.stop.clone();
        if !safety::refuse_unfit(&self.store, self.options.allow_no_persistence, &stop).await? {
            return Ok(());
        }
        let mut is_first = true;
        while !stop.is_cancelled() {
            let Some((run, queues)) = join(
                &self.store,
                &self.options,
                Shared {
                    bounds: &self.handle.bounds,
                    detached: &self.detached,
                    meters: &self.handle.meters,
                    recollection: &self.recollection,
                },
                &stop,
                is_first,
            )
            .await?
            else {
                break;
            };
            is_first = false;
            self.run_once(run, queues).await;
        }
        self.options.handlers.cleaned_up().await;
        Ok(())
    }

    /// One run under one name: until it is stopped or fenced.
    async fn run_once(&self, run: Arc<Run>, queues: Vec<mpsc::Receiver<Ended>>) {
        info!(replica = %run.replica, workers = run.slots.size(), handlers = run.options.handlers.names().len(), "joined");
        *self.handle.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&run));
        // A connection ends with the thread that it was made on, and each run has one of its own. The address was good before.
        let beat_store = self.beat_store.beside().unwrap_or_else(|_| self.beat_store.clone());
        let beating = member::start_beating(Arc::clone(&run), beat_store);
        if let Err(problem) = beating {
            error!(%problem, "can not start the beating thread");
            run.fenced.cancel();
        }
        let readers = TaskTracker::new();
        for source in [Source::Triggers, Source::Commands] {
            // One batch ahead: reading goes on while the one before is acted upon. In one task, so that a trigger
            // does not wait for another thread to wake up.
            let (batches, received) = mpsc::channel(1);
            let run = Arc::clone(&run);
            readers.spawn(async move {
                tokio::join!(
                    ingest::read(Arc::clone(&run), source, batches),
                    ingest::act(run, source, received)
                );
            });
        }
        let loops = TaskTracker::new();
        loops.spawn(detached::report(Arc::clone(&run)));
        let settling = TaskTracker::new();
        readers.spawn(circuits::mind(Arc::clone(&run)));
        for (partition, queue) in self.store.partitions().zip(queues) {
            readers.spawn(work::take_work(Arc::clone(&run), partition));
            readers.spawn(watch::watch_others(Arc::clone(&run), partition));
            readers.spawn(watch::promote_due(Arc::clone(&run), partition));
            readers.spawn(sweep::sweep(Arc::clone(&run), partition));
            readers.spawn(recall::recall(Arc::clone(&run), partition));
            loops.spawn(watch::listen(Arc::clone(&run), partition));
            settling.spawn(work::settle_work(Arc::clone(&run), partition, queue));
        }
        loops.spawn(report::report_workers(Arc::clone(&run)));
        loops.spawn(meters::compare_clocks(Arc::clone(&run)));
        loops.spawn(progress::keep_time(Arc::clone(&run)));
        loops.spawn(snapshot::publish_snapshots(Arc::clone(&run)));
        if run.options.autoscale {
            loops.spawn(autoscale::autoscale(Arc::clone(&run)));
        }
        for tracker in [&readers, &loops, &settling, &run.tracker] {
            tracker.close();
        }
        tokio::select! {
            () = run.stop.cancelled() => {}
            () = run.fenced.cancelled() => {}
        }
        let is_fenced = run.fenced.is_cancelled();
        if is_fenced {
            abandon(&run).await;
        } else {
            drain(&run, &readers).await;
        }
        run.left.cancel();
        run.fenced.cancel();
        readers.wait().await;
        loops.wait().await;
        settling.wait().await;
        if is_fenced {
            // A read that was under way made its consumer anew after the takeover had removed it.
            tokio::time::timeout(GOODBYE_PATIENCE, give_back_inbound(&run))
                .await
                .unwrap_or_default();
        }
        *self.handle.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Joins a partition, and says so if it lost what this process saw of it under an earlier name.
async fn join_one(
    store: &Store,
    partition: Partition,
    replica: ReplicaId,
    joining: &Joining<'_>,
    recollection: &Recollection,
) -> Result<(), StoreError> {
    store.join(partition, replica, joining).await?;
    recollection.look(store, partition, replica).await.map(drop)
}

/// How many workers a replica begins with, and may have.
fn bounds(options: &ReplicaOptions) -> Bounds {
    let min = options.min_workers.min(options.workers);
    let size = if options.autoscale { min } else { options.workers };
    Bounds::new(min, size, options.workers)
}

/// What outlives the name under which a replica joins.
#[derive(Clone, Copy)]
struct Shared<'a> {
    bounds: &'a Arc<Bounds>,
    detached: &'a Arc<Detached>,
    meters: &'a Arc<Meters>,
    recollection: &'a Recollection,
}

/// Joins under a fresh name; `None` when stopped before Redis answered. That the user may not is told the first time, and
/// waited out later: somebody changes rights or a password under a system that works.
async fn join(
    store: &Store,
    options: &ReplicaOptions,
    shared: Shared<'_>,
    stop: &CancellationToken,
    is_first: bool,
) -> Result<Option<(Arc<Run>, Vec<mpsc::Receiver<Ended>>)>, StoreError> {
    let Shared {
        bounds,
        detached,
        meters,
        recollection,
    } = shared;
    let replica = ReplicaId::from_random(uuid::Uuid::new_v4().as_u64_pair().1);
    let (mut names, limits) = (options.handlers.names(), options.handlers.limits());
    names.extend(options.handlers.assignments());
    let started_at = jiff::Timestamp::now().to_string();
    let joining = Joining {
        max_size: options.max_size,
        max_running: options.max_running,
        workers: Some(bounds.size()),
        started_at: &started_at,
        announce: options.workers > 0,
        task_names: &names,
        limits: &limits,
    };
    let mut waits = Waits::new();
    let mut told = None::<Instant>;
    'again: loop {
        for partition in store.partitions() {
            let joined = tokio::select! {
                () = stop.cancelled() => return Ok(None),
                joined = join_one(store, partition, replica, &joining, recollection) => joined,
            };
            match joined {
                Ok(()) => {}
                Err(problem) if problem.is_retryable() || (!is_first && problem.is_denied()) => {
                    if told.is_none_or(|told| told.elapsed() > Duration::from_secs(5)) {
                        let cause = std::error::Error::source(&problem).map(ToString::to_string);
                        warn!(problem = %problem, cause, "can not join; trying again");
                        told = Some(Instant::now());
                    }
                    if !waits.pause(stop).await {
                        return Ok(None);
                    }
                    continue 'again;
                }
                Err(problem) => return Err(problem),
            }
        }
        break;
    }
    let slots = Arc::new(Slots::new(bounds.size()));
    detached.move_to(&slots);
    let (ended, queues) = store.partitions().map(|_| mpsc::channel(1024)).unzip();
    let run_stop = stop.child_token();
    let run = Run {
        store: store.clone(),
        replica,
        options: options.clone(),
        defaults: Defaults {
            retry: options.retry,
            handlers: options.handlers.defaults(),
        },
        slots,
        bounds: Arc::clone(bounds),
        circuits: Circuits::new(&options.handlers, run_stop.clone()),
        detached: Arc::clone(detached),
        holdings: Holdings::default(),
        runtime: Handle::current(),
        tracker: TaskTracker::new(),
        ended,
        adopted: None,
        stop: run_stop,
        hand_back: CancellationToken::new(),
        fenced: CancellationToken::new(),
        left: CancellationToken::new(),
        bell: Wakes::new(store.partition_count()),
        room: Notify::new(),
        timers: Wakes::new(store.partition_count()),
        scaling: Notify::new(),
        reread: [AtomicBool::new(false), AtomicBool::new(false)],
        beats: OwnBeats::default(),
        recollection: recollection.clone(),
        is_memory_short: AtomicBool::new(false),
        progress: Progress::default(),
        meters: Arc::clone(meters),
        completed: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        reports: Mutex::new(None),
    };
    Ok(Some((Arc::new(run), queues)))
}
