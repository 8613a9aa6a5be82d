//! Blocking functions that go on after their attempt has ended.
//!
//! An async handler is dropped when its time is up or its task is cancelled. A thread can not be stopped from outside: its
//! attempt ends for the task, and the function runs on until it returns by itself. Such a function is *detached*. Its slot
//! stays taken until then, so a replica never has more of these threads than workers, however often a runaway function
//! is retried. They are counted in every beat, logged again and again, and waited for when the replica stops.
//!
//! Blocking functions get threads of their own and not those of tokio: there they would take the places that name
//! resolution and files need, and the end of a tokio runtime waits for them.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tracing::{debug, error, info, warn};

use super::handler::{HandlerResult, TaskError};
use super::replica::Run;
use super::slots::Slots;
use crate::domain::id::TaskId;

/// How long a function may go on before it is logged; those that look at their token end well before.
const FIRST_REPORT: Duration = Duration::from_secs(1);
/// The longest time between two reports of the same function; each waits twice as long as the one before.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// Runs a function on a thread of its own, named after the task. Dropping the future leaves the thread alone.
pub(super) async fn run_blocking(
    task_name: &str,
    threads: &Threads,
    function: impl FnOnce() -> HandlerResult + Send + 'static,
) -> HandlerResult {
    let (sender, receiver) = oneshot::channel();
    let running = threads.hold();
    let runtime = Handle::current();
    let body = move || {
        let entered = runtime.enter();
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(function));
        drop(entered);
        // First the thread is over and then its result is known: who has the result finds the slot free.
        let threads = running.0.clone();
        drop(running);
        // Nobody listens any more once the attempt has ended.
        if let Err(Ok(Ok(result))) = sender.send(outcome) {
            threads.succeed_late(result);
        }
    };
    // A NUL is the one thing that no name of a thread may hold; names of tasks never do.
    let thread = std::thread::Builder::new().name(task_name.replace('\0', ""));
    if let Err(problem) = thread.spawn(body) {
        return Err(TaskError::new(&format!("no thread for a blocking function: {problem}")));
    }
    match receiver.await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(_) => Err(TaskError::new(
            "the thread of a blocking function ended without a result",
        )),
    }
}

/// The threads of one attempt.
#[derive(Clone, Default)]
pub(crate) struct Threads {
    state: Arc<Mutex<ThreadsState>>,
}

#[derive(Default)]
struct ThreadsState {
    running: u32,
    /// What is to happen when the last one ends; set once the attempt is over.
    when_none: Option<Box<dyn FnOnce() + Send>>,
    /// What is to happen with a result that nobody waited for.
    when_late: Option<WhenLate>,
    /// Such a result, until somebody says what is to happen with it.
    late: Option<Box<RawValue>>,
}

/// Takes a result that nobody waited for.
pub(super) type WhenLate = Box<dyn FnOnce(Box<RawValue>) + Send>;

impl Threads {
    fn state(&self) -> MutexGuard<'_, ThreadsState> {
        // Every step leaves it whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is to happen with the result of a function that succeeds after its attempt was over.
    pub(super) fn when_late(&self, then: WhenLate) {
        let mut state = self.state();
        if let Some(result) = state.late.take() {
            drop(state);
            then(result);
        } else {
            state.when_late = Some(then);
        }
    }

    fn succeed_late(&self, result: Box<RawValue>) {
        let mut state = self.state();
        if let Some(then) = state.when_late.take() {
            drop(state);
            then(result);
        } else {
            state.late = Some(result);
        }
    }

    /// Counts a thread as long as the answer lives.
    fn hold(&self) -> Running {
        self.state().running += 1;
        Running(self.clone())
    }
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Threads")
            .field("running", &self.state().running)
            .finish_non_exhaustive()
    }
}

/// One thread that runs.
struct Running(Threads);

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.running -= 1;
        let then = if state.running == 0 {
            state.when_none.take()
        } else {
            None
        };
        drop(state);
        if let Some(then) = then {
            then();
        }
    }
}

/// The detached functions of a replica. They outlive its runs: being fenced does not end a thread.
#[derive(Default)]
pub(crate) struct Detached {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    count_ever: u64,
    going_on: BTreeMap<u64, Entry>,
}

struct Entry {
    task_id: TaskId,
    attempt: u32,
    slot: u16,
    /// Where the slot goes back to; `None` where nobody waits for it.
    slots: Option<Arc<Slots>>,
    since: Instant,
    report_at: Instant,
    silence: Duration,
}

impl Detached {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every step leaves it whole, so a panic elsewhere does not spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many go on.
    pub(crate) fn count(&self) -> u16 {
        u16::try_from(self.inner().going_on.len()).unwrap_or(u16::MAX)
    }

    /// An attempt is over: answers its slot, which is free, or `None` when a thread of it goes on and keeps the slot until it
    /// ends.
    pub(crate) fn part(
        self: &Arc<Self>,
        threads: &Threads,
        (task_id, attempt): (TaskId, u32),
        slot: u16,
        slots: &Arc<Slots>,
    ) -> Option<u16> {
        let mut state = threads.state();
        if state.running == 0 {
            return Some(slot);
        }
        let now = Instant::now();
        let mut inner = self.inner();
        inner.count_ever += 1;
        let number = inner.count_ever;
        let entry = Entry {
            task_id,
            attempt,
            slot,
            slots: Some(Arc::clone(slots)),
            since: now,
            report_at: now + FIRST_REPORT,
            silence: FIRST_REPORT,
        };
        inner.going_on.insert(number, entry);
        drop(inner);
        let detached = Arc::clone(self);
        state.when_none = Some(Box::new(move || detached.end(number)));
        drop(state);
        self.changed.notify_waiters();
        None
    }

    fn end(&self, number: u64) {
        let Some(entry) = self.inner().going_on.remove(&number) else {
            return;
        };
        let detached_ms = entry.since.elapsed().as_millis();
        let Entry { task_id, attempt, .. } = entry;
        if entry.silence > FIRST_REPORT {
            info!(%task_id, attempt, detached_ms, "a detached blocking function has ended");
        } else {
            debug!(%task_id, attempt, detached_ms, "a detached blocking function has ended");
        }
        if let Some(slots) = entry.slots {
            slots.give_back([entry.slot]);
        }
        self.changed.notify_waiters();
    }

    /// A new run begins with slots of its own: those with the numbers of the slots that are kept are not free in it either.
    pub(crate) fn move_to(&self, slots: &Arc<Slots>) {
        for entry in self.inner().going_on.values_mut() {
            entry.slots = slots.withhold(entry.slot).then(|| Arc::clone(slots));
        }
    }

    /// Waits until none goes on.
    pub(crate) async fn until_none(&self) {
        loop {
            let changed = self.changed.notified();
            if self.count() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Waits until one goes on.
    async fn until_some(&self) {
        loop {
            let changed = self.changed.notified();
            if self.count() > 0 {
                return;
            }
            changed.await;
        }
    }

    /// Logs those that have gone on for longer than when they were logged last.
    fn report_due(&self, now: Instant) {
        for entry in self.inner().going_on.values_mut() {
            if now < entry.report_at {
                continue;
            }
            entry.silence = (entry.silence * 2).min(LONGEST_SILENCE);
            entry.report_at = now + entry.silence;
            warn!(task_id = %entry.task_id, attempt = entry.attempt,
                detached_ms = now.duration_since(entry.since).as_millis(),
                "a blocking function goes on after its attempt has ended; its slot stays taken until it returns");
        }
    }
}

/// Logs what goes on, and says so when nothing else can run any more.
pub(super) async fn report(run: Arc<Run>) {
    let mut told = None::<Instant>;
    loop {
        tokio::select! {
            () = run.left.cancelled() => return,
            () = run.detached.until_some() => {}
        }
        tokio::select! {
            () = run.left.cancelled() => return,
            () = tokio::time::sleep(FIRST_REPORT) => {}
        }
        let now = Instant::now();
        run.detached.report_due(now);
        if run.is_exhausted() && told.is_none_or(|told| now.duration_since(told) >= LONGEST_SILENCE) {
            error!(replica = %run.replica, workers = run.slots.size(),
                "every worker is held by a blocking function that does not end: nothing runs here until one returns");
            told = Some(now);
        }
    }
}

impl Run {
    /// Whether all slots are held by functions that go on after their attempts, so that nothing can run.
    pub(super) fn is_exhausted(&self) -> bool {
        self.slots.size() > 0 && self.detached.count() >= self.slots.size()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use serde_json::value::RawValue;

    use super::*;

    fn task() -> (TaskId, u32) {
        (TaskId::derive("s", "e", None, None, 1), 1)
    }

    #[tokio::test]
    async fn a_function_that_returned_leaves_its_slot_free() {
        let (detached, slots) = (Arc::new(Detached::default()), Arc::new(Slots::new(1)));
        let threads = Threads::default();
        let taken = slots.take_spare();

        let result = run_blocking("name", &threads, || Ok(RawValue::NULL.to_owned())).await;

        assert_eq!(result.unwrap().get(), "null");
        assert_eq!(detached.part(&threads, task(), taken[0], &slots), Some(0));
        assert_eq!(detached.count(), 0);
    }

    #[tokio::test]
    async fn a_function_that_goes_on_keeps_its_slot_until_it_returns_also_in_the_next_run() {
        let (detached, slots) = (Arc::new(Detached::default()), Arc::new(Slots::new(2)));
        let threads = Threads::default();
        let taken = slots.take_spare();
        let (let_go, wait) = mpsc::channel::<()>();
        let running = run_blocking("name", &threads, move || {
            wait.recv().unwrap();
            Ok(RawValue::NULL.to_owned())
        });
        assert!(tokio::time::timeout(Duration::from_millis(20), running).await.is_err());

        assert_eq!(detached.part(&threads, task(), taken[1], &slots), None);
        slots.give_back([taken[0]]);
        assert_eq!(detached.count(), 1);
        let next = Arc::new(Slots::new(2));
        detached.move_to(&next);
        assert_eq!(next.take_spare(), [0]);

        let_go.send(()).unwrap();
        detached.until_none().await;
        assert_eq!(next.take_some(crate::domain::id::Partition::default()).await, [1]);
        // The slots of the run that is over do not get it back.
        assert_eq!(slots.take_spare(), [0]);
    }

    #[tokio::test]
    async fn a_panic_in_a_function_reaches_the_attempt() {
        let threads = Threads::default();
        let panics = run_blocking("name", &threads, || panic!("on purpose"));

        let outcome = futures_util::FutureExt::catch_unwind(AssertUnwindSafe(panics)).await;

        assert_eq!(outcome.unwrap_err().downcast_ref::<&str>(), Some(&"on purpose"));
        assert_eq!(threads.state().running, 0);
    }
}
