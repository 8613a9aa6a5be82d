//! One replica: joins, runs its loops, drains, leaves; and joins anew when it finds itself fenced.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::backoff::Waits;
use super::defaults::Defaults;
use super::handler::{Handlers, TaskContext};
use super::holdings::Holdings;
use super::ingest::{self, Source};
use super::slots::Slots;
use super::watch::OwnBeats;
use super::work::Ended;
use super::{member, safety, watch, work};
use crate::domain::id::{ReplicaId, TaskId};
use crate::domain::retry::RetryPolicy;
use crate::error::Error;
use crate::store::functions::{Claimed, Joining};
use crate::store::record::Record;
use crate::store::{Store, StoreError};

/// How a replica runs.
#[derive(Clone)]
#[non_exhaustive]
pub struct ReplicaOptions {
    /// What it can run.
    pub handlers: Handlers,
    /// How many tasks it runs at once.
    pub workers: u16,
    /// The limit of tasks that are not terminal, over all replicas; 0 is no limit. `None` leaves what is set.
    pub max_size: Option<u64>,
    /// The limit of tasks that run, over all replicas; 0 is no limit. `None` leaves what is set.
    pub max_running: Option<u64>,
    /// How long a lower priority may wait before it is served out of turn.
    pub max_wait: Duration,
    /// How long a reference to something unknown may wait for it.
    pub reference_wait: Duration,
    /// The policy of tasks that name none.
    pub retry: RetryPolicy,
    /// How long running tasks may go on after a stop was asked for.
    pub grace: Duration,
    /// From which duration on an attempt is logged as slow.
    pub slow_task: Duration,
    /// Whether a Redis that keeps nothing on disk is meant; else the start says aloud that it is not safe.
    pub allow_no_persistence: bool,
}

impl ReplicaOptions {
    /// Ten workers for these handlers; everything else as in `config/default.toml`.
    #[must_use]
    pub fn new(handlers: Handlers) -> Self {
        Self {
            handlers,
            workers: 10,
            max_size: Some(1000),
            max_running: Some(0),
            max_wait: Duration::from_secs(60),
            reference_wait: Duration::from_secs(30),
            retry: RetryPolicy::STANDARD,
            grace: Duration::from_secs(30),
            slow_task: Duration::from_secs(30),
            allow_no_persistence: false,
        }
    }
}

/// When each loop last got through, for readiness.
#[derive(Default)]
pub(crate) struct Progress {
    marks: Mutex<BTreeMap<&'static str, Option<Instant>>>,
}

impl Progress {
    /// A loop that has not got through for so long is deaf: several times its longest wait.
    const PATIENCE: Duration = Duration::from_secs(10);

    fn marks(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Option<Instant>>> {
        // Every step leaves the map whole, so a panic elsewhere does not spoil it.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop got through.
    pub(super) fn mark(&self, name: &'static str) {
        self.marks().insert(name, Some(Instant::now()));
    }

    /// The loop waits for something that is not Redis.
    pub(super) fn idle(&self, name: &'static str) {
        self.marks().insert(name, None);
    }

    /// The loop asks Redis; from now on it is expected to get through.
    pub(super) fn expect(&self, name: &'static str) {
        self.marks()
            .entry(name)
            .or_insert(None)
            .get_or_insert_with(Instant::now);
    }

    /// The loops that do not get through.
    fn deaf(&self) -> Vec<&'static str> {
        let marks = self.marks();
        let needed = ["triggers", "commands", "beat"];
        let missing = needed.iter().filter(|name| !marks.contains_key(**name)).copied();
        let stale = marks
            .iter()
            .filter(|(_, mark)| mark.is_some_and(|mark| mark.elapsed() > Self::PATIENCE));
        missing.chain(stale.map(|(name, _)| *name)).collect()
    }
}

/// What the loops of one run share.
pub(crate) struct Run {
    pub(super) store: Store,
    pub(super) replica: ReplicaId,
    pub(super) options: ReplicaOptions,
    pub(super) defaults: Defaults,
    pub(super) slots: Slots,
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
    pub(super) bell: Notify,
    /// There may be room in the queue.
    pub(super) room: Notify,
    /// There may be an earlier timer.
    pub(super) timers: Notify,
    /// Whether to read again what is pending under the replica's name, for triggers and commands.
    pub(super) reread: [AtomicBool; 2],
    pub(super) beats: OwnBeats,
    pub(super) progress: Progress,
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
    stop: CancellationToken,
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
                if deaf.is_empty() {
                    Readiness::Ready
                } else {
                    Readiness::Deaf(deaf)
                }
            }
        }
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
    handle: ReplicaHandle,
}

impl Replica {
    /// A replica on `store`, to be stopped by `stop`. `beat_store` must be a handle of its own to the same Redis: its
    /// connection lives on another thread.
    #[must_use]
    pub fn new(store: Store, beat_store: Store, options: ReplicaOptions, stop: CancellationToken) -> Self {
        Self {
            store,
            beat_store,
            options,
            handle: ReplicaHandle {
                current: Arc::default(),
                stop,
            },
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
        while !stop.is_cancelled() {
            let Some((run, queues)) = join(&self.store, &self.options, &stop).await? else {
                break;
            };
            self.run_once(run, queues).await;
        }
        Ok(())
    }

    /// One run under one name: until it is stopped or fenced.
    async fn run_once(&self, run: Arc<Run>, queues: Vec<mpsc::Receiver<Ended>>) {
        info!(replica = %run.replica, workers = run.slots.size(), handlers = run.options.handlers.names().len(), "joined");
        *self.handle.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&run));
        let beating = member::start_beating(Arc::clone(&run), self.beat_store.clone());
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
        let settling = TaskTracker::new();
        for (partition, queue) in self.store.partitions().zip(queues) {
            readers.spawn(work::take_work(Arc::clone(&run), partition));
            readers.spawn(watch::watch_others(Arc::clone(&run), partition));
            readers.spawn(watch::promote_due(Arc::clone(&run), partition));
            loops.spawn(watch::listen(Arc::clone(&run), partition));
            settling.spawn(work::settle_work(Arc::clone(&run), partition, queue));
        }
        for tracker in [&readers, &loops, &settling, &run.tracker] {
            tracker.close();
        }
        tokio::select! {
            () = run.stop.cancelled() => {}
            () = run.fenced.cancelled() => {}
        }
        if run.fenced.is_cancelled() {
            abandon(&run);
        } else {
            drain(&run, &readers).await;
        }
        run.left.cancel();
        run.fenced.cancel();
        readers.wait().await;
        loops.wait().await;
        settling.wait().await;
        *self.handle.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Joins under a fresh name; `None` when stopped before Redis answered.
async fn join(
    store: &Store,
    options: &ReplicaOptions,
    stop: &CancellationToken,
) -> Result<Option<(Arc<Run>, Vec<mpsc::Receiver<Ended>>)>, StoreError> {
    let replica = ReplicaId::from_random(uuid::Uuid::new_v4().as_u64_pair().1);
    let names = options.handlers.names();
    let started_at = jiff::Timestamp::now().to_string();
    let joining = Joining {
        max_size: options.max_size,
        max_running: options.max_running,
        workers: Some(options.workers),
        started_at: &started_at,
        announce: options.workers > 0,
        task_names: &names,
    };
    let mut waits = Waits::new();
    let mut told = None::<Instant>;
    'again: loop {
        for partition in store.partitions() {
            let joined = tokio::select! {
                () = stop.cancelled() => return Ok(None),
                joined = store.join(partition, replica, &joining) => joined,
            };
            match joined {
                Ok(()) => {}
                Err(problem) if problem.is_retryable() => {
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
    let (ended, queues) = store.partitions().map(|_| mpsc::channel(1024)).unzip();
    let run = Run {
        store: store.clone(),
        replica,
        options: options.clone(),
        defaults: Defaults {
            retry: options.retry,
            handlers: options.handlers.defaults(),
        },
        slots: Slots::new(options.workers),
        holdings: Holdings::default(),
        runtime: Handle::current(),
        tracker: TaskTracker::new(),
        ended,
        adopted: None,
        stop: stop.child_token(),
        hand_back: CancellationToken::new(),
        fenced: CancellationToken::new(),
        left: CancellationToken::new(),
        bell: Notify::new(),
        room: Notify::new(),
        timers: Notify::new(),
        reread: [AtomicBool::new(false), AtomicBool::new(false)],
        beats: OwnBeats::default(),
        progress: Progress::default(),
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
        let (run, _) = join(&store, &options, &stop)
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
        self.run.bell.notified().await;
    }

    /// Says that there may be an earlier timer.
    pub(super) fn wake_timers(&self) {
        self.run.timers.notify_one();
    }

    /// What whoever runs the task is told.
    pub(super) async fn context(&self, claimed: &Claimed) -> Result<TaskContext, Error> {
        let record =
            Record::parse(claimed.task_id, &claimed.record).map_err(|_| StoreError::Protocol("task record"))?;
        let cancelled = self.run.holdings.token(claimed.task_id).unwrap_or_default();
        let inputs = self.run.inputs(claimed, record.flags).await?;
        Ok(TaskContext::new(claimed, record.body, inputs, cancelled))
    }
}

/// Nothing that the run holds is its own any more: everything is aborted and nothing is settled.
fn abandon(run: &Run) {
    run.stop.cancel();
    run.holdings.abort_all();
}

/// Lets running tasks finish for the grace, hands the rest back, says goodbye.
async fn drain(run: &Arc<Run>, readers: &TaskTracker) {
    info!(replica = %run.replica, running = run.holdings.list().len(), "draining");
    let deadline = tokio::time::Instant::now() + run.options.grace;
    // A claim under way may still hand out tasks; they run or are handed back like the others.
    let quiet = async {
        readers.wait().await;
        until_empty(run).await;
    };
    if tokio::time::timeout_at(deadline, quiet).await.is_err() {
        info!(replica = %run.replica, running = run.holdings.list().len(), "the grace is over; handing back");
        run.hand_back.cancel();
        // Handing back needs Redis; while it is away there is nobody to hand back to.
        let patience = Duration::from_secs(5);
        if tokio::time::timeout(patience, until_empty(run)).await.is_err() {
            warn!(replica = %run.replica, "left with tasks in hand; another replica will take them over");
            return;
        }
    }
    for partition in run.store.partitions() {
        match run.store.leave(partition, run.replica, true).await {
            Ok(true) => {}
            Ok(false) => warn!(replica = %run.replica, "left with tasks in hand; another replica will take them over"),
            Err(problem) => run.report(&problem, "can not say goodbye"),
        }
    }
    for stream in [run.store.keys().triggers(), run.store.keys().commands()] {
        if let Err(problem) = run.store.forget_inbound_consumer(&stream, run.replica.as_str()).await {
            run.report(&problem, "can not leave an inbound stream");
        }
    }
    info!(replica = %run.replica, "left");
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
