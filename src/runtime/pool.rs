//! A pool of workers for programs that link the library: functions run in it, a bounded number at a time.
//!
//! It needs no Redis and no replica. What it is made of, numbered workers that come and go and the figures of each, is what
//! a replica runs its tasks in.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handler::TaskError;
use super::slots::{Slots, Verdict};
use super::work::panicked;
use crate::domain::rejection::{Reason, Rejection};
use crate::domain::worker::WorkerState;
use crate::error::Error;
use crate::store::workers::Figures;

/// An async function with up to six arguments, which come as a tuple.
pub trait AsyncFunction<A>: Send + 'static {
    /// What it gives.
    type Output: Send + 'static;

    /// Calls it.
    fn call(self, args: A) -> impl Future<Output = Result<Self::Output, TaskError>> + Send + 'static;
}

/// A function that computes or waits without yielding, with up to six arguments, which come as a tuple.
pub trait BlockingFunction<A>: Send + 'static {
    /// What it gives.
    type Output: Send + 'static;

    /// Calls it.
    ///
    /// # Errors
    ///
    /// The function's own.
    fn call(self, args: A) -> Result<Self::Output, TaskError>;
}

macro_rules! functions {
    ($(($($name:ident: $kind:ident),*))*) => { $(
        impl<F, Fut, R, $($kind),*> AsyncFunction<($($kind,)*)> for F
        where
            F: FnOnce($($kind),*) -> Fut + Send + 'static,
            Fut: Future<Output = Result<R, TaskError>> + Send + 'static,
            R: Send + 'static,
            $($kind: Send + 'static,)*
        {
            type Output = R;

            fn call(self, ($($name,)*): ($($kind,)*)) -> impl Future<Output = Result<R, TaskError>> + Send + 'static {
                // In the worker from its first line on, should it panic before its first wait.
                async move { self($($name),*).await }
            }
        }

        impl<F, R, $($kind),*> BlockingFunction<($($kind,)*)> for F
        where
            F: FnOnce($($kind),*) -> Result<R, TaskError> + Send + 'static,
            R: Send + 'static,
            $($kind: Send + 'static,)*
        {
            type Output = R;

            fn call(self, ($($name,)*): ($($kind,)*)) -> Result<R, TaskError> {
                self($($name),*)
            }
        }
    )* };
}

functions! {
    ()
    (a: A)
    (a: A, b: B)
    (a: A, b: B, c: C)
    (a: A, b: B, c: C, d: D)
    (a: A, b: B, c: C, d: D, e: E)
    (a: A, b: B, c: C, d: D, e: E, f: G)
}

/// A pool as it is right now.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerPoolMetrics {
    /// Workers that there are; none before the start and after the stop.
    pub total_workers: u16,
    /// Those that run a task.
    pub active_workers: u16,
    /// Those that are ready for one.
    pub idle_workers: u16,
    /// The fewest that it can be scaled to.
    pub min_workers: u16,
    /// The most that it can be scaled to.
    pub max_workers: u16,
    /// Tasks that were completed since the start.
    pub tasks_completed: u64,
    /// Tasks that failed since the start.
    pub tasks_failed: u64,
    /// How long a task took on average; `None` before the first.
    pub average_duration_seconds: Option<f64>,
    /// Tasks that ended in the last 60 s.
    pub throughput_per_minute: u64,
    /// Which part of the workers is active, from 0 to 100.
    pub utilization_percentage: f64,
    /// Which part of the tasks failed, from 0 to 1.
    pub error_rate: f64,
}

/// One worker as it is right now.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WorkerMetrics {
    /// Its name.
    pub worker_id: String,
    /// What it does.
    pub state: WorkerState,
    /// Tasks that it completed.
    pub tasks_completed: u64,
    /// Tasks that failed in it.
    pub tasks_failed: u64,
    /// How long a task took on average; `None` before the first.
    pub average_duration_seconds: Option<f64>,
    /// Which part of its tasks failed, from 0 to 1.
    pub error_rate: f64,
    /// Which part of its time it was busy, from 0 to 100.
    pub utilization_percentage: f64,
    /// How long it has been there, or was.
    pub uptime_seconds: f64,
}

/// A pool of workers, each of which runs one function at a time.
///
/// It begins with the fewest workers, and is scaled by its owner between the fewest and the most. A task that finds no idle
/// worker waits for one. A panic fails its task; the worker goes on.
///
/// ```
/// use waooaw_orchestration::{Error, TaskError, WorkerPool};
///
/// async fn add(x: i64, y: i64) -> Result<i64, TaskError> {
///     Ok(x + y)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// let pool = WorkerPool::new(2, 10)?;
/// pool.start();
/// assert_eq!(pool.execute_task(add, (5, 3)).await?, 8);
/// assert_eq!(pool.execute_blocking(|n: u64| Ok((1..=n).product::<u64>()), (20,)).await?, 2_432_902_008_176_640_000);
///
/// pool.scale_up(3)?;
/// assert_eq!(pool.scale_down(2)?, 2);
/// let metrics = pool.get_metrics();
/// assert_eq!((metrics.idle_workers, metrics.max_workers, metrics.tasks_completed), (3, 10, 2));
/// assert_eq!(pool.get_worker_metrics("worker-1")?.state.as_str(), "IDLE");
///
/// pool.stop().await;
/// assert!(matches!(pool.execute_task(add, (5, 3)).await, Err(Error::NoWorkersAvailable)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct WorkerPool {
    min: u16,
    max: u16,
    max_execution_time: Option<Duration>,
    current: Arc<Mutex<Option<Arc<PoolRun>>>>,
}

/// From one start to its stop.
struct PoolRun {
    slots: Slots,
    tracker: TaskTracker,
    /// Takes no more tasks.
    stop: CancellationToken,
    /// Ends those that run.
    abort: CancellationToken,
    rate: Mutex<Rate>,
    began: Instant,
}

/// How many tasks ended in each of the last 60 seconds.
struct Rate {
    seconds: [(u64, u64); 60],
}

impl Rate {
    fn place(second: u64) -> usize {
        usize::try_from(second % 60).unwrap_or_default()
    }

    fn note(&mut self, second: u64) {
        let (known, count) = &mut self.seconds[Self::place(second)];
        if *known != second {
            (*known, *count) = (second, 0);
        }
        *count += 1;
    }

    fn last_minute(&self, second: u64) -> u64 {
        let is_recent = |known: u64| known <= second && second - known < 60;
        let recent = self.seconds.iter().filter(|(known, _)| is_recent(*known));
        recent.map(|(_, count)| count).sum()
    }
}

/// A worker that runs something, until this is dropped.
struct Busy {
    run: Arc<PoolRun>,
    slot: u16,
    verdict: Verdict,
}

impl Busy {
    fn begin(run: Arc<PoolRun>, slot: u16) -> Self {
        run.slots.begin(slot);
        Self {
            run,
            slot,
            verdict: Verdict::Neither,
        }
    }

    fn note<T>(&mut self, result: &Result<T, Error>) {
        self.verdict = match result {
            Ok(_) => Verdict::Completed,
            Err(Error::TaskFailed(_)) => Verdict::Failed,
            Err(_) => Verdict::Neither,
        };
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.run.slots.end(self.slot, self.verdict);
        if self.verdict != Verdict::Neither {
            let second = self.run.began.elapsed().as_secs();
            self.run
                .rate
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .note(second);
        }
        self.run.slots.give_back([self.slot]);
    }
}

impl WorkerPool {
    /// A pool that is not started, for at least `min_workers` and at most `max_workers`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] unless `min_workers` is from 1 to `max_workers`.
    pub fn new(min_workers: u16, max_workers: u16) -> Result<Self, Error> {
        if min_workers == 0 || min_workers > max_workers {
            let problem = format!("is {min_workers}, must be from 1 to max_workers, which is {max_workers}");
            return Err(Error::InvalidField(Rejection::new(
                Reason::InvalidField,
                Some("min_workers"),
                problem,
            )));
        }
        Ok(Self {
            min: min_workers,
            max: max_workers,
            max_execution_time: None,
            current: Arc::default(),
        })
    }

    /// Ends every task that takes longer; without limit unless said. A blocking function goes on in its worker, but nobody
    /// waits for it.
    #[must_use]
    pub fn with_max_execution_time(mut self, limit: Duration) -> Self {
        self.max_execution_time = Some(limit);
        self
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<PoolRun>>> {
        // It is replaced as a whole, so a panic elsewhere does not spoil it.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Result<Arc<PoolRun>, Error> {
        let current = self.slot();
        let running = current.as_ref().filter(|run| !run.stop.is_cancelled());
        running.map(Arc::clone).ok_or(Error::NoWorkersAvailable)
    }

    /// Brings up the fewest workers. Starting twice is harmless; after a stop it begins anew.
    pub fn start(&self) {
        let mut current = self.slot();
        if current.as_ref().is_none_or(|run| run.stop.is_cancelled()) {
            *current = Some(Arc::new(PoolRun {
                slots: Slots::new(self.min),
                tracker: TaskTracker::new(),
                stop: CancellationToken::new(),
                abort: CancellationToken::new(),
                rate: Mutex::new(Rate { seconds: [(0, 0); 60] }),
                began: Instant::now(),
            }));
        }
    }

    /// Takes no more tasks and waits until those that run have ended; those that wait for a worker get
    /// [`Error::NoWorkersAvailable`].
    pub async fn stop(&self) {
        let Some(run) = self.slot().clone() else { return };
        run.stop.cancel();
        run.tracker.close();
        run.tracker.wait().await;
        run.slots.resize(0);
    }

    /// The same, but ends what takes longer than `patience`; its callers get [`Error::NoWorkersAvailable`].
    pub async fn stop_within(&self, patience: Duration) {
        let Some(run) = self.slot().clone() else { return };
        if tokio::time::timeout(patience, self.stop()).await.is_err() {
            run.abort.cancel();
            self.stop().await;
        }
    }

    /// Runs an async function with its arguments in the next idle worker, and gives what it gives.
    ///
    /// # Errors
    ///
    /// [`Error::TaskFailed`] with the function's error, its panic or its time being over; [`Error::NoWorkersAvailable`] in a
    /// pool that is not started or is stopping.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call ends the function and frees the worker.
    pub async fn execute_task<A, F: AsyncFunction<A>>(&self, function: F, args: A) -> Result<F::Output, Error> {
        let mut busy = self.next_worker().await?;
        let run = Arc::clone(&busy.run);
        let limit = self.max_execution_time;
        let work = AssertUnwindSafe(function.call(args)).catch_unwind();
        // On a task of its own, so that functions of one caller run side by side.
        let worker = run.tracker.spawn(async move {
            let abort = busy.run.abort.clone();
            let result = tokio::select! {
                biased;
                () = abort.cancelled() => Err(Error::NoWorkersAvailable),
                result = work => over(result),
                error = expired(limit) => Err(Error::TaskFailed(error)),
            };
            busy.note(&result);
            result
        });
        let _aborts = AbortOnDrop(worker.abort_handle());
        worker.await.unwrap_or(Err(Error::NoWorkersAvailable))
    }

    /// Runs a function that computes or waits without yielding, on a thread of its own, in the next idle worker.
    ///
    /// # Errors
    ///
    /// As for [`WorkerPool::execute_task`].
    ///
    /// # Cancel safety
    ///
    /// A function can not be stopped from outside: it goes on in its worker when the call is dropped.
    pub async fn execute_blocking<A, F>(&self, function: F, args: A) -> Result<F::Output, Error>
    where
        A: Send + 'static,
        F: BlockingFunction<A>,
    {
        let mut busy = self.next_worker().await?;
        let run = Arc::clone(&busy.run);
        let limit = self.max_execution_time;
        let (answer, answered) = oneshot::channel();
        run.tracker.spawn_blocking(move || {
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| function.call(args)));
            let result = over(result);
            busy.note(&result);
            // Idle before the caller knows, who may look at once.
            drop(busy);
            // Nobody may wait for it any more.
            answer.send(result).map_err(drop).unwrap_or_default();
        });
        tokio::select! {
            biased;
            result = answered => result.unwrap_or(Err(Error::NoWorkersAvailable)),
            () = run.abort.cancelled() => Err(Error::NoWorkersAvailable),
            error = expired(limit) => Err(Error::TaskFailed(error)),
        }
    }

    async fn next_worker(&self) -> Result<Busy, Error> {
        let run = self.running()?;
        let slot = tokio::select! {
            biased;
            () = run.stop.cancelled() => return Err(Error::NoWorkersAvailable),
            slot = run.slots.take_next() => slot,
        };
        Ok(Busy::begin(run, slot))
    }

    /// Adds workers; answers how many. All of them or none.
    ///
    /// # Errors
    ///
    /// [`Error::WorkerPoolFull`] when there would be more than the most; [`Error::NoWorkersAvailable`] in a pool that is not
    /// started or is stopping.
    pub fn scale_up(&self, workers_to_add: u16) -> Result<u16, Error> {
        let run = self.running()?;
        run.slots
            .add_all(workers_to_add, self.max)
            .map_err(|workers| Error::WorkerPoolFull {
                workers,
                max_workers: self.max,
                asked: workers_to_add,
            })
    }

    /// Removes idle workers, as far as there are any and the fewest stay; answers how many. No task is interrupted.
    ///
    /// # Errors
    ///
    /// [`Error::NoWorkersAvailable`] in a pool that is not started or is stopping.
    pub fn scale_down(&self, workers_to_remove: u16) -> Result<u16, Error> {
        Ok(self.running()?.slots.remove_free(workers_to_remove, self.min))
    }

    /// The pool as it is right now.
    #[must_use]
    pub fn get_metrics(&self) -> WorkerPoolMetrics {
        let run = self.slot().clone();
        let (mut figures, mut throughput_per_minute) = (Vec::new(), 0);
        let (mut total_workers, mut active_workers) = (0, 0);
        if let Some(run) = &run {
            figures = run.slots.all_figures();
            active_workers = run.slots.busy();
            total_workers = run.slots.size().max(active_workers);
            let rate = run.rate.lock().unwrap_or_else(PoisonError::into_inner);
            throughput_per_minute = rate.last_minute(run.began.elapsed().as_secs());
        }
        let mut sum = Figures::new(0);
        for one in &figures {
            sum.completed += one.completed;
            sum.failed += one.failed;
            sum.ended_ms += one.ended_ms;
        }
        WorkerPoolMetrics {
            total_workers,
            active_workers,
            idle_workers: total_workers - active_workers,
            min_workers: self.min,
            max_workers: self.max,
            tasks_completed: sum.completed,
            tasks_failed: sum.failed,
            average_duration_seconds: sum.average_seconds(),
            throughput_per_minute,
            utilization_percentage: f64::from(active_workers) * 100.0 / f64::from(total_workers.max(1)),
            error_rate: sum.error_rate(),
        }
    }

    /// One worker as it is right now, or as it was when it went; they are called `worker-1`, `worker-2` and so on.
    ///
    /// # Errors
    ///
    /// [`Error::WorkerNotFound`].
    pub fn get_worker_metrics(&self, worker_id: &str) -> Result<WorkerMetrics, Error> {
        let not_found = || Error::WorkerNotFound(worker_id.to_owned());
        let run = self.slot().clone().ok_or_else(not_found)?;
        let number = worker_id
            .strip_prefix("worker-")
            .and_then(|number| number.parse::<u16>().ok());
        let slot = number.and_then(|number| number.checked_sub(1)).ok_or_else(not_found)?;
        let figures = run.slots.figures_of(slot, run.stop.is_cancelled());
        figures.map(metrics).ok_or_else(not_found)
    }

    /// The workers that there are.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerMetrics> {
        let Some(run) = self.slot().clone() else {
            return Vec::new();
        };
        run.slots
            .figures(run.stop.is_cancelled())
            .into_iter()
            .map(metrics)
            .collect()
    }
}

fn metrics(figures: Figures) -> WorkerMetrics {
    WorkerMetrics {
        worker_id: format!("worker-{}", u32::from(figures.slot) + 1),
        state: figures.state,
        tasks_completed: figures.completed,
        tasks_failed: figures.failed,
        average_duration_seconds: figures.average_seconds(),
        error_rate: figures.error_rate(),
        utilization_percentage: figures.utilization_percentage(),
        uptime_seconds: figures.uptime_seconds(),
    }
}

/// What came of a function that may have panicked.
fn over<T>(result: Result<Result<T, TaskError>, Box<dyn Any + Send>>) -> Result<T, Error> {
    let result = result.unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
    result.map_err(Error::TaskFailed)
}

/// Ends when a task's time is over; never without a limit.
async fn expired(limit: Option<Duration>) -> TaskError {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    tokio::time::sleep(limit).await;
    let message = format!("the task exceeded max execution time of {} s", limit.as_secs_f64());
    TaskError::new(&message).with_kind("timeout")
}

/// Ends a task with its owner.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
