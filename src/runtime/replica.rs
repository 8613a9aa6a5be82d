//! One replica: joins, runs its loops, drains, leaves; and joins anew when it finds itself fenced.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::backoff::Waits;
use super::circuits::{self, Circuits, OpenCircuit};
use super::defaults::Defaults;
use super::detached::{self, Detached};
use super::handler::{Handlers, TaskContext};
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
use crate::domain::id::{Partition, ReplicaId, TaskId};
use crate::domain::retry::RetryPolicy;
use crate::error::Error;
use crate::store::functions::{Claimed, Joining};
use crate::store::record::Record;
use crate::store::upkeep::Retention;
use crate::store::{Store, StoreError};

/// How a replica runs. Begin with [`ReplicaOptions::new`] and change fields; what is said here of defaults is what that sets.
#[derive(Clone)]
#[non_exhaustive]
pub struct ReplicaOptions {
    /// What it can run.
    pub handlers: Handlers,
    /// How many tasks it runs at once, 10 by default; with `autoscale`, at most.
    pub workers: u16,
    /// The fewest workers that it may be scaled to, 2 by default; a smaller `workers` lowers it.
    pub min_workers: u16,
    /// Whether it moves between the two by how much waits, from the fewest on; not by default.
    pub autoscale: bool,
    /// The limit of tasks that are not terminal, over all replicas, 1,000 by default; 0 is no limit. `None` leaves what is set.
    pub max_size: Option<u64>,
    /// The limit of tasks that run, over all replicas; 0, the default, is no limit. `None` leaves what is set.
    pub max_running: Option<u64>,
    /// How long a lower priority may wait before it is served out of turn; 60 s by default.
    pub max_wait: Duration,
    /// How long a reference to something unknown may wait for it; 30 s by default.
    pub reference_wait: Duration,
    /// The policy of tasks that name none; [`RetryPolicy::STANDARD`] by default.
    pub retry: RetryPolicy,
    /// How long running tasks may go on after a stop was asked for; 30 s by default.
    pub grace: Duration,
    /// From which duration on an attempt is logged as slow; 30 s by default.
    pub slow_task: Duration,
    /// How long events, ended tasks and dead letters are kept; [`Retention::default`] by default. `None` leaves that to other replicas, or to the default
    /// where there are none.
    pub retention: Option<Retention>,
    /// How often it publishes a snapshot of the statistics; 10 s by default.
    pub snapshot_interval: Duration,
    /// Whether a Redis that keeps nothing on disk is meant; else the start says aloud that it is not safe. Not by
    /// default.
    pub allow_no_persistence: bool,
}

impl ReplicaOptions {
    /// Ten workers for these handlers; everything else as in `config/default.toml`.
    #[must_use]
    pub fn new(handlers: Handlers) -> Self {
        Self {
            handlers,
            workers: 10,
            min_workers: 2,
            autoscale: false,
            max_size: Some(1000),
            max_running: Some(0),
            max_wait: Duration::from_secs(60),
            reference_wait: Duration::from_secs(30),
            retry: RetryPolicy::STANDARD,
            grace: Duration::from_secs(30),
            slow_task: Duration::from_secs(30),
            retention: Some(Retention::default()),
            snapshot_interval: Duration::from_secs(10),
            allow_no_persistence: false,
        }
    }
}

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

/// What others may ask of a running replica.
#[derive(Clone)]
pub struct ReplicaHandle {
    current: Arc<Mutex<Option<Arc<Run>>>>,
    meters: Arc<Meters>,
    bounds: Arc<Bounds>,
    stop: CancellationToken,
}

/// How many workers a replica has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WorkerCount {
    /// All.
    pub slots: u16,
    /// Those that run a task.
    pub busy: u16,
    /// Those held by a blocking function whose attempt is over.
    pub detached: u16,
    /// How many there may be.
    pub max: u16,
}

/// Whether a replica does its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Triggers and tasks are being consumed.
    Ready,
    /// It is not joined (yet).
    Joining,
    /// It is stopping.
    Draining,
    /// These loops do not get through to Redis.
    Deaf(Vec<&'static str>),
    /// Every worker is held by a blocking function that goes on after its attempt has ended.
    Exhausted,
}

impl ReplicaHandle {
    /// Whether triggers and tasks are really being consumed.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        if self.stop.is_cancelled() {
            return Readiness::Draining;
        }
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            None => Readiness::Joining,
            Some(run) => {
                let deaf = run.progress.deaf();
                if !deaf.is_empty() {
                    Readiness::Deaf(deaf)
                } else if run.is_exhausted() {
                    Readiness::Exhausted
                } else {
                    Readiness::Ready
                }
            }
        }
    }

    /// The handlers that are paused since their target does not answer.
    #[must_use]
    pub fn open_circuits(&self) -> Vec<OpenCircuit> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map_or_else(Vec::new, |run| run.circuits.open())
    }

    /// What the replica counted since the process began, under whatever names it joined.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// The workers as they are right now.
    #[must_use]
    pub fn workers(&self) -> WorkerCount {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, max) = self.bounds.range();
        current.as_ref().map_or(
            WorkerCount {
                max,
                ..WorkerCount::default()
            },
            |run| WorkerCount {
                slots: run.slots.size(),
                busy: run.slots.busy(),
                detached: run.detached.count(),
                max,
            },
        )
    }

    /// For each loop how long ago it got through to Redis; none for one that waits for something else.
    #[must_use]
    pub fn progress(&self) -> Vec<(&'static str, Option<Duration>)> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map_or_else(Vec::new, |run| run.progress.ages())
    }

    /// The names of all handlers, with whether each is paused since its target does not answer.
    #[must_use]
    pub fn circuits(&self) -> Vec<(String, bool)> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map_or_else(Vec::new, |run| run.circuits.all())
    }

    /// How many blocking functions go on after their attempts have ended.
    #[must_use]
    pub fn detached(&self) -> u16 {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map_or(0, |run| run.detached.count())
    }

    /// The replica's id right now.
    #[must_use]
    pub fn replica_id(&self) -> Option<ReplicaId> {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(|run| run.replica)
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

/// A member that takes tasks by hand: it beats and watches like a replica, and runs nothing by itself.
#[derive(Clone)]
pub(super) struct Membership {
    run: Arc<Run>,
}

impl Membership {
    /// Joins; what a lost answer handed out goes to `adopted`.
    pub(super) async fn begin(
        store: Store,
        beat_store: Store,
        options: ReplicaOptions,
        stop: CancellationToken,
        adopted: Arc<Mutex<VecDeque<Claimed>>>,
    ) -> Result<Self, Error> {
        let shared = Shared {
            bounds: &Arc::new(bounds(&options)),
            detached: &Arc::default(),
            meters: &Arc::new(Meters::new(&options.handlers)),
            recollection: &Recollection::default(),
        };
        let (run, _) = join(&store, &options, shared, &stop, true)
            .await?
            .ok_or_else(|| StoreError::NotConnected("the queue was closed".to_owned()))?;
        let mut run =
            Arc::into_inner(run).ok_or_else(|| StoreError::NotConnected("the queue was closed".to_owned()))?;
        run.adopted = Some(adopted);
        // Beating ends with the queue: there is nothing to drain.
        run.left = stop;
        let run = Arc::new(run);
        member::start_beating(Arc::clone(&run), beat_store)
            .map_err(|error| StoreError::NotConnected(format!("no thread for the beat: {error}")))?;
        // One that is taken for dead ends its loops with it.
        let fenced = Arc::clone(&run);
        tokio::spawn(async move {
            tokio::select! {
                () = fenced.left.cancelled() => {}
                () = fenced.fenced.cancelled() => {
                    fenced.stop.cancel();
                    fenced.left.cancel();
                }
            }
        });
        for partition in store.partitions() {
            tokio::spawn(watch::watch_others(Arc::clone(&run), partition));
            tokio::spawn(watch::promote_due(Arc::clone(&run), partition));
            tokio::spawn(sweep::sweep(Arc::clone(&run), partition));
            tokio::spawn(watch::listen(Arc::clone(&run), partition));
        }
        Ok(Self { run })
    }

    /// Its name.
    pub(super) fn replica(&self) -> ReplicaId {
        self.run.replica
    }

    /// Whether what it holds is its own.
    pub(super) fn is_alive(&self) -> bool {
        !self.run.fenced.is_cancelled()
    }

    /// Notes a task that was handed out; `false` when it is held already.
    pub(super) fn enter(&self, claimed: &Claimed) -> bool {
        self.run.holdings.enter(claimed.task_id, claimed.attempt).is_some()
    }

    /// The attempt of a task that is held.
    pub(super) fn attempt_of(&self, task: TaskId) -> Option<u32> {
        self.run
            .holdings
            .list()
            .into_iter()
            .find(|(held, _)| *held == task)
            .map(|(_, attempt)| attempt)
    }

    /// Forgets a task that is settled.
    pub(super) fn leave(&self, task: TaskId, attempt: u32) {
        self.run.holdings.leave(task, attempt);
    }

    /// Waits until something rings that may mean work.
    pub(super) async fn bell(&self) {
        self.run.bell.heard_any().await;
    }

    /// Says that there may be an earlier timer.
    pub(super) fn wake_timers(&self, partition: Partition) {
        self.run.timers.ring(partition);
    }

    /// What whoever runs the task is told.
    pub(super) async fn context(&self, claimed: &Claimed) -> Result<TaskContext, Error> {
        let record =
            Record::parse(claimed.task_id, &claimed.record).map_err(|_| StoreError::Protocol("task record"))?;
        let cancelled = self.run.holdings.token(claimed.task_id).unwrap_or_default();
        let inputs = self.run.inputs(claimed, &record).await?;
        Ok(TaskContext::new(claimed, record.body, inputs, cancelled))
    }
}

/// Nothing that the run holds is its own any more: everything is aborted and nothing is settled.
async fn abandon(run: &Run) {
    const PATIENCE: Duration = Duration::from_secs(1);
    run.stop.cancel();
    run.holdings.abort_all();
    // The next run counts what goes on, so the attempts must have ended. Only a handler that blocks where it must not
    // takes longer.
    tokio::time::timeout(PATIENCE, run.tracker.wait())
        .await
        .unwrap_or_default();
}

/// How long a replica that leaves tries to hand back what it runs.
const HAND_BACK_PATIENCE: Duration = Duration::from_secs(5);
/// How long all that follows may take, should Redis not answer.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(10);

/// Lets running tasks finish for the grace, hands the rest back, says goodbye.
async fn drain(run: &Arc<Run>, readers: &TaskTracker) {
    info!(replica = %run.replica, running = run.holdings.list().len(), detached = run.detached.count(), "draining");
    let deadline = tokio::time::Instant::now() + run.options.grace;
    run.report_draining().await;
    // A claim under way may still hand out tasks; they run or are handed back like the others.
    let quiet = async {
        readers.wait().await;
        // At once: others may have to wait for their turn behind what this replica holds.
        give_back_inbound(run).await;
        until_empty(run).await;
        run.detached.until_none().await;
    };
    if tokio::time::timeout_at(deadline, quiet).await.is_err() || run.hand_back.is_cancelled() {
        info!(replica = %run.replica, running = run.holdings.list().len(), detached = run.detached.count(),
            "the grace is over; handing back");
        run.hand_back.cancel();
        // Handing back needs Redis; while it is away there is nobody to hand back to.
        tokio::time::timeout(HAND_BACK_PATIENCE, until_empty(run))
            .await
            .unwrap_or_default();
    }
    let goodbye = async {
        give_back_inbound(run).await;
        say_goodbye(run).await;
        // What an answer under way delivered after that.
        give_back_inbound(run).await;
    };
    if tokio::time::timeout(GOODBYE_PATIENCE, goodbye).await.is_err() {
        warn!(replica = %run.replica, "left without a goodbye; another replica will notice");
    }
    match run.detached.count() {
        0 => info!(replica = %run.replica, "left"),
        abandoned => warn!(replica = %run.replica, abandoned,
            "left while blocking functions go on; they end with the process"),
    }
}

/// Leaves all partitions. Where Redis thinks that the replica runs something that it knows nothing of, such as what a
/// claim handed out in an answer that got lost, the next beat finds it, and it is handed back too.
async fn say_goodbye(run: &Arc<Run>) {
    let deadline = tokio::time::Instant::now() + HAND_BACK_PATIENCE;
    for partition in run.store.partitions() {
        loop {
            match run.store.leave(partition, run.replica, true).await {
                Ok(true) => break,
                Ok(false) if tokio::time::Instant::now() < deadline => {
                    run.hand_back.cancel();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(false) => {
                    warn!(replica = %run.replica, "left with tasks in hand; another replica will take them over");
                    break;
                }
                Err(problem) => {
                    run.report(&problem, "can not say goodbye");
                    break;
                }
            }
        }
    }
}

/// Returns the inbound events that were read ahead and not acted upon.
async fn give_back_inbound(run: &Run) {
    for stream in [run.store.keys().triggers(), run.store.keys().commands()] {
        match run.store.give_back_inbound(&stream, run.replica).await {
            Ok(0) => {}
            Ok(count) => info!(replica = %run.replica, stream, entries = count, "gave back inbound events"),
            Err(problem) => run.report(&problem, "can not give back inbound events"),
        }
    }
}

/// Waits until every attempt is settled.
async fn until_empty(run: &Run) {
    // The settling loop rings after each batch.
    while !run.holdings.is_empty() {
        tokio::select! {
            () = run.room.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}
