//! Pauses handlers whose target does not answer, and finds out when it is back.
//!
//! Each attempt's end says whether the target was reached. When a [`Circuit`] opens, Redis is told to hand this replica no
//! more tasks of that name; they wait, parked, for a replica that reaches the target. When its wait is over, the
//! handler probes the target without a task, and then one task is tried. Only one task at a time pays for finding out.
//!
//! Nothing here outlives the run: a replica that joins anew has closed circuits, and one that leaves or dies takes its
//! pauses along.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backoff::Waits;
use super::handler::Handlers;
use super::replica::Run;
use super::work::chance;
use crate::domain::circuit::{Circuit, Phase, Sign};
use crate::store::StoreError;
use crate::store::functions::Claimed;

/// How long an attempt waits until Redis knows that the circuit opened. Its settlement could claim more of the same.
const TOLD_WAIT: Duration = Duration::from_secs(2);
/// How often a trial is asked for while no task of the name waits; what is parked meanwhile rings.
const IDLE_LOOK: Duration = Duration::from_secs(1);
/// How often a free slot for a trial is looked for while all are busy.
const SLOT_LOOK: Duration = Duration::from_millis(100);

/// A handler that is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenCircuit {
    /// The name of its tasks.
    pub task_name: String,
    /// How long until its target is tried again; `None` while it is being tried.
    pub retry_in: Option<Duration>,
}

/// One handler's circuit and what waits for it.
struct Guard {
    circuit: Mutex<Circuit>,
    /// Closed and without a miss in memory, so that a call that went well need not be noted.
    is_calm: AtomicBool,
    /// Rings when the phase changed.
    changed: Notify,
    /// Whether Redis knows that it is open.
    is_told: watch::Sender<bool>,
}

impl Guard {
    fn new() -> Self {
        Self {
            circuit: Mutex::new(Circuit::new()),
            is_calm: AtomicBool::new(true),
            changed: Notify::new(),
            is_told: watch::Sender::new(false),
        }
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        // Every step leaves it whole, so a panic elsewhere does not spoil it.
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self) -> Phase {
        self.circuit().phase()
    }
}

/// The circuits of a run by task name.
pub(crate) struct Circuits {
    guards: BTreeMap<String, Guard>,
    began: Instant,
    /// From when on nothing is claimed any more.
    stop: CancellationToken,
    /// Rings when one opened.
    opened: Notify,
    /// Rings when something was parked.
    parked: Notify,
}

impl Circuits {
    /// Closed ones for all handlers.
    pub(super) fn new(handlers: &Handlers, stop: CancellationToken) -> Self {
        Self {
            guards: handlers.names().into_iter().map(|name| (name, Guard::new())).collect(),
            began: Instant::now(),
            stop,
            opened: Notify::new(),
            parked: Notify::new(),
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Says that something was parked.
    pub(super) fn ring(&self) {
        self.parked.notify_waiters();
    }

    /// Whether tasks of a name should not be begun.
    pub(super) fn is_open(&self, name: &str) -> bool {
        self.guards
            .get(name)
            .is_some_and(|guard| !guard.is_calm.load(Ordering::Acquire) && matches!(guard.phase(), Phase::Open { .. }))
    }

    /// The names of all handlers, with whether each is paused.
    pub(super) fn all(&self) -> Vec<(String, bool)> {
        let is_paused = |guard: &Guard| !matches!(guard.phase(), Phase::Closed);
        let all = self.guards.iter();
        all.map(|(name, guard)| (name.clone(), is_paused(guard))).collect()
    }

    /// The handlers that are paused.
    pub(super) fn open(&self) -> Vec<OpenCircuit> {
        let now = self.now();
        let open = self.guards.iter().filter_map(|(name, guard)| {
            let retry_in = match guard.phase() {
                Phase::Closed => return None,
                Phase::Open { until } => Some(until.saturating_sub(now)),
                Phase::Trying => None,
            };
            Some(OpenCircuit {
                task_name: name.clone(),
                retry_in,
            })
        });
        open.collect()
    }

    /// Takes in what an attempt showed. One that opens the circuit, or ends while Redis does not know yet that it is open,
    /// returns only when Redis does: what is settled after this claims no more tasks of the name.
    pub(super) async fn note(&self, name: &str, sign: Sign) {
        let Some(guard) = self.guards.get(name) else { return };
        if sign != Sign::Missed && guard.is_calm.load(Ordering::Acquire) {
            return;
        }
        let phase = {
            let mut circuit = guard.circuit();
            let has_changed = circuit.note(sign, self.now(), chance());
            guard.is_calm.store(circuit.is_calm(), Ordering::Release);
            if has_changed {
                guard.changed.notify_one();
            }
            circuit.phase()
        };
        if matches!(phase, Phase::Open { .. }) {
            self.opened.notify_one();
            self.until_told(name).await;
        }
    }

    /// Waits, not for ever, until Redis knows that a circuit is open.
    pub(super) async fn until_told(&self, name: &str) {
        let Some(guard) = self.guards.get(name) else { return };
        let mut is_told = guard.is_told.subscribe();
        // Without an answer nothing can be claimed either.
        tokio::select! {
            _ = is_told.wait_for(|is_told| *is_told) => {}
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(TOLD_WAIT) => {}
        }
    }
}

/// Looks after each circuit that opens, until it is closed again. Ends with the run.
pub(super) async fn mind(run: Arc<Run>) {
    let mut minders = JoinSet::new();
    let mut minded = BTreeSet::new();
    loop {
        for OpenCircuit { task_name, .. } in run.circuits.open() {
            if minded.insert(task_name.clone()) {
                let run = Arc::clone(&run);
                minders.spawn(async move {
                    mind_one(&run, &task_name).await;
                    task_name
                });
            }
        }
        tokio::select! {
            biased;
            () = run.stop.cancelled() => return,
            Some(closed) = minders.join_next(), if !minders.is_empty() => {
                // One that panicked leaves its name here, and its tasks to other replicas.
                if let Ok(name) = closed {
                    minded.remove(&name);
                }
            }
            () = run.circuits.opened.notified() => {}
        }
    }
}

/// Looks after one circuit from its opening until Redis knows that it is closed.
async fn mind_one(run: &Arc<Run>, name: &str) {
    let Some(guard) = run.circuits.guards.get(name) else {
        return;
    };
    loop {
        match guard.phase() {
            Phase::Open { until } => {
                let wait = until.saturating_sub(run.circuits.now());
                warn!(replica = %run.replica, task_name = name, retry_in_ms = wait.as_millis(),
                    "the target of a handler does not answer; its tasks wait");
                tell(run, name, Some(wait)).await;
                guard.is_told.send_replace(true);
                let until = tokio::time::Instant::from_std(run.circuits.began + until);
                tokio::time::sleep_until(until).await;
                begin_trial(run, name, guard).await;
            }
            Phase::Trying => try_one(run, name, guard).await,
            Phase::Closed => {
                guard.is_told.send_replace(false);
                tell(run, name, None).await;
                info!(replica = %run.replica, task_name = name, "the target of a handler answers again");
                for partition in run.store.partitions() {
                    run.bell.ring(partition);
                }
                return;
            }
        }
    }
}

/// Probes the target. Only one that may be there is worth a task.
async fn begin_trial(run: &Run, name: &str, guard: &Guard) {
    if !guard.circuit().begins_trying(run.circuits.now()) {
        return;
    }
    let Some(registered) = run.options.handlers.get(name) else {
        return;
    };
    if !registered.handler.probe().await {
        guard.circuit().note(Sign::Missed, run.circuits.now(), chance());
    }
}

/// Tries one task, or waits until there is one to try.
async fn try_one(run: &Arc<Run>, name: &str, guard: &Guard) {
    let Some(claimed) = claim_trial(run, name).await else {
        tokio::select! {
            () = tokio::time::sleep(IDLE_LOOK) => {}
            () = run.circuits.parked.notified() => {}
            () = guard.changed.notified() => {}
        }
        return;
    };
    let (task_id, attempt) = (claimed.task_id, claimed.attempt);
    info!(replica = %run.replica, task_name = name, %task_id, attempt, "trying whether the target of a handler is back");
    run.start(claimed);
    while guard.phase() == Phase::Trying {
        tokio::select! {
            () = guard.changed.notified() => {}
            () = tokio::time::sleep(IDLE_LOOK) => {
                // Taken away before it began, or damaged.
                if !run.holdings.list().contains(&(task_id, attempt)) {
                    guard.circuit().note(Sign::Nothing, run.circuits.now(), chance());
                }
            }
        }
    }
}

/// One parked task of the name for a free slot, from whichever partition has one.
async fn claim_trial(run: &Run, name: &str) -> Option<Claimed> {
    let slot = loop {
        match run.slots.take_one() {
            Some(slot) => break slot,
            None => tokio::time::sleep(SLOT_LOOK).await,
        }
    };
    for partition in run.store.partitions() {
        match run.store.claim_trial(partition, run.replica, slot, name).await {
            Ok(Some(claimed)) => return Some(claimed),
            Ok(None) => {}
            Err(problem) => run.report(&problem, "can not ask for a task to try"),
        }
    }
    run.slots.give_back([slot]);
    None
}

/// Tells Redis that the tasks of a name are to wait, or not any more; until it knows.
async fn tell(run: &Run, name: &str, pause: Option<Duration>) {
    let mut waits = Waits::new();
    while let Err(problem) = tell_all(run, name, pause).await {
        run.report(&problem, "can not pause or resume a handler");
        tokio::time::sleep(waits.next()).await;
    }
}

async fn tell_all(run: &Run, name: &str, pause: Option<Duration>) -> Result<(), StoreError> {
    for partition in run.store.partitions() {
        // A stranger learns from its next beat that it is one.
        run.store.set_circuit(partition, run.replica, name, pause).await?;
    }
    Ok(())
}
