//! Takes tasks for free slots, runs them, settles them.
//!
//! One loop a partition waits for free slots and asks for work; another gathers what ended while its last call was
//! under way and settles it in one call, which hands out the next tasks for the slots that came free. So under load
//! there is one round trip a batch and no loop ever waits on a timer to fill one.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::backoff::Waits;
use super::detached::Threads;
use super::handler::{HandlerResult, TaskContext, TaskError};
use super::meters::{End, Label};
use super::replica::Run;
use super::slots::Verdict;
use super::spans::{Attempt, AttemptSpan, ResultSpan};
use crate::domain::circuit::Sign;
use crate::domain::digest::sha256_hex;
use crate::domain::id::{Partition, TaskId};
use crate::domain::retry::RetryPolicy;
use crate::store::StoreError;
use crate::store::doorbell::Doorbell;
use crate::store::functions::{Appetite, Claimed, Outcome, Release, Settled, Settlement};
use crate::store::record::{Body, Flags, Record};

/// How many ended attempts one call settles at most.
const SETTLE_BATCH: usize = 80;
/// How many tasks one call hands out at most.
const CLAIM_BATCH: usize = 80;
/// How long an idle loop waits for the doorbell before it looks by itself.
pub(super) const IDLE_WAIT: Duration = Duration::from_secs(2);
/// How long what an attempt left behind may go on after its time was up, before a saga goes on without it.
const EXPIRED_PATIENCE: Duration = Duration::from_secs(6);
/// The largest result that events carry; a larger one is only in the task's record.
const RESULT_IN_EVENT_BYTES: usize = 64 << 10;
/// The largest result that is kept at all.
pub(super) const RESULT_BYTES_MAX: usize = 1 << 20;
/// The longest wait before a retry that a target may ask for.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// The longest error message that is kept.
const ERROR_BYTES_MAX: usize = 8 << 10;

/// An attempt that is over.
pub(crate) struct Ended {
    task_id: TaskId,
    attempt: u32,
    /// The slot that came free; `None` while a thread of the attempt goes on in it.
    slot: Option<u16>,
    /// How it ended; `None` when it is not the replica's to settle.
    outcome: Option<Outcome>,
    /// Where it is counted and traced; `None` when it did not come so far.
    trail: Option<Trail>,
}

/// What is left of an attempt for its result to follow.
struct Trail {
    label: Label,
    span: Option<ResultSpan>,
}

impl Run {
    fn appetite(&self, slots: Vec<u16>) -> Appetite {
        Appetite {
            slots,
            runs_any: false,
            max_wait_ms: u64::try_from(self.options.max_wait.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Free slots for a call that can hand out work on the side; none while draining.
    pub(super) fn spare_appetite(&self) -> Appetite {
        self.appetite(if self.stop.is_cancelled() {
            Vec::new()
        } else {
            self.slots.take_spare()
        })
    }

    /// Starts what a call handed out for `offered` slots, and gives the other slots back.
    pub(super) fn start_all(self: &Arc<Self>, offered: Vec<u16>, claimed: Vec<Claimed>) {
        let mut unused = offered;
        for task in claimed {
            unused.retain(|slot| *slot != task.slot);
            self.start(task);
        }
        self.slots.give_back(unused);
    }

    /// Runs an attempt in the slot that it was given, unless it runs already.
    pub(super) fn start(self: &Arc<Self>, claimed: Claimed) {
        let Some((cancel, give_up)) = self.holdings.enter(claimed.task_id, claimed.attempt) else {
            self.slots.give_back([claimed.slot]);
            return;
        };
        let run = Arc::clone(self);
        run.slots.begin(claimed.slot);
        let attempt = async move {
            let threads = Threads::default();
            let mut trail = None;
            let outcome = run.attempt(&claimed, &threads, &cancel, &give_up, &mut trail).await;
            run.slots.end(claimed.slot, verdict(outcome.as_ref()));
            cancel.cancel();
            let token = (claimed.task_id, claimed.attempt);
            let slot = run.detached.part(&threads, token, claimed.slot, &run.slots);
            if Flags::of(&claimed.record).has(Flags::IS_STEP) {
                run.report_late_success(&threads, token);
            }
            let ended = Ended {
                task_id: claimed.task_id,
                attempt: claimed.attempt,
                slot,
                outcome,
                trail,
            };
            let queue = &run.ended[usize::from(claimed.task_id.partition().number())];
            if queue.send(ended).await.is_err() {
                // The settling loop ends last; only a run that was fenced drops what ended.
                run.slots.give_back(slot);
            }
        };
        // Named, since the beat starts what it finds from a runtime of its own.
        self.tracker.spawn_on(attempt, &self.runtime);
    }

    /// Says so when a thread that went on after its attempt succeeds all the same: a saga undoes what it did.
    fn report_late_success(self: &Arc<Self>, threads: &Threads, (task_id, attempt): (TaskId, u32)) {
        let run = Arc::clone(self);
        threads.when_late(Box::new(move |result| {
            let ended = Ended {
                task_id,
                attempt,
                slot: None,
                outcome: Some(completed(&result)),
                trail: None,
            };
            let queue = run.ended[usize::from(task_id.partition().number())].clone();
            // Nobody is left to tell it to once the run is over.
            run.runtime
                .spawn(async move { queue.send(ended).await.unwrap_or_default() });
        }));
    }

    /// Hands back an attempt that the replica was given without knowing, and can not run.
    pub(super) fn hand_back_unstarted(&self, claimed: &Claimed) {
        let attempt = (claimed.task_id, claimed.attempt);
        if self.holdings.list().contains(&attempt) {
            // The answer was late and not lost.
            return;
        }
        let ended = Ended {
            task_id: claimed.task_id,
            attempt: claimed.attempt,
            slot: None,
            trail: None,
            outcome: Some(Outcome::Released(Release::NoWorker)),
        };
        let queue = &self.ended[usize::from(claimed.task_id.partition().number())];
        if queue.try_send(ended).is_ok() {
            info!(task_id = %claimed.task_id, attempt = claimed.attempt,
                "handed back an attempt whose assignment was lost: no worker is free");
        }
        // Else the next beat meets it again.
    }

    /// The results of what a task depends on, by name.
    pub(super) async fn inputs(&self, claimed: &Claimed, record: &Record) -> Result<Vec<(String, String)>, StoreError> {
        match &claimed.inputs {
            Some(inputs) => Ok(inputs.clone()),
            None => self.store.inputs(record).await,
        }
    }

    /// The results of what a task depends on, however long Redis is away; else how the attempt ends before it began.
    async fn gather(
        &self,
        claimed: &Claimed,
        record: &Record,
        cancel: &CancellationToken,
    ) -> Result<Vec<(String, String)>, Option<Outcome>> {
        let mut waits = Waits::new();
        loop {
            let problem = match self.inputs(claimed, record).await {
                Ok(inputs) => return Ok(inputs),
                Err(problem) => problem,
            };
            self.report(&problem, "can not read what a task depends on");
            if !problem.is_retryable() && !problem.is_denied() {
                // Handed back it would come again at once, and for ever.
                let message = format!("can not read what the task depends on: {problem}");
                let policy = record.body.spec.retry.unwrap_or(RetryPolicy::STANDARD);
                let delay = policy.delay(record.retry_count + 1, chance());
                return Err(Some(Outcome::Failed {
                    error: error_json(&TaskError::new(&message).with_kind("inputs_unreadable")),
                    delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                }));
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(None),
                () = self.hand_back.cancelled() => return Err(Some(Outcome::Released(Release::Shutdown))),
                () = tokio::time::sleep(waits.next()) => {}
            }
        }
    }

    /// One attempt from its arguments to its outcome.
    async fn attempt(
        &self,
        claimed: &Claimed,
        threads: &Threads,
        cancel: &CancellationToken,
        give_up: &CancellationToken,
        trail: &mut Option<Trail>,
    ) -> Option<Outcome> {
        let record = match Record::parse(claimed.task_id, &claimed.record) {
            Ok(record) => record,
            Err(damage) => {
                return Some(Outcome::Rejected {
                    error: error_json(&TaskError::permanent("damaged", &damage.to_string())),
                });
            }
        };
        let inputs = match self.gather(claimed, &record, cancel).await {
            Ok(inputs) => inputs,
            Err(outcome) => return outcome,
        };
        let retry = record.retry_count + 1;
        let is_step = record.flags.has(Flags::IS_STEP);
        let Some(registered) = self.options.handlers.get(&record.body.task_name) else {
            return Some(Outcome::Released(Release::Shutdown));
        };
        if self.circuits.is_open(&record.body.task_name) {
            // Claimed by a call that was under way when it opened. It costs the task nothing.
            self.circuits.until_told(&record.body.task_name).await;
            return Some(Outcome::Released(Release::CircuitOpen));
        }
        self.meters.started(&record);
        let label = self.meters.label(&record);
        let (span, mut body) = self.traced(claimed, record);
        let policy = body.spec.retry.unwrap_or(RetryPolicy::STANDARD);
        // Whoever made the task may not know the handlers, as the command line does not.
        body.spec.timeout_seconds = body.spec.timeout_seconds.or(registered.defaults.timeout_seconds);
        let mut task = TaskContext::new(claimed, body, inputs, cancel.child_token());
        task.threads = threads.clone();
        let timeout = task.timeout;
        let name = task.name.clone();
        let told = task.cancelled.clone();
        let began = Instant::now();
        let handler = Arc::clone(&registered.handler);
        let (has_target, patience) = (handler.has_target(), handler.patience());
        // A panic in a handler ends the attempt, not the replica.
        let mut work = pin!(AssertUnwindSafe(async move { handler.run(task).await }).catch_unwind());
        let finished = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            () = self.hand_back.cancelled() => Some(Ending::HandedBack),
            () = given_up(give_up, &told, patience) => Some(Ending::GivenUp),
            result = &mut work => Some(Ending::Returned(result.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))))),
            () = expiry(timeout) => Some(Ending::Expired),
        };
        told.cancel();
        if is_step && matches!(finished, Some(Ending::Expired)) {
            wound_down(work, cancel, patience).await;
        }
        let elapsed = began.elapsed();
        // A log takes no wider number as one.
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if elapsed > self.options.slow_task {
            warn!(task_id = %claimed.task_id, attempt = claimed.attempt, task_name = name, elapsed_ms, "slow task");
        }
        let sign = finished
            .as_ref()
            .map_or(Sign::Nothing, |ending| ending.sign(has_target));
        self.circuits.note(&name, sign).await;
        let delay_ms = |asked: Option<Duration>| {
            let asked = asked.unwrap_or_default().min(RETRY_AFTER_MAX);
            let delay = policy.delay(retry, chance()).max(asked);
            u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
        };
        let Some(finished) = finished else {
            self.count_taken_away(label, elapsed);
            span.end("cancelled");
            return None;
        };
        let outcome = match finished {
            Ending::HandedBack => Outcome::Released(Release::Shutdown),
            Ending::GivenUp => Outcome::Aborted,
            // It was told to end, and did.
            Ending::Returned(Err(_)) | Ending::Expired if give_up.is_cancelled() => Outcome::Aborted,
            Ending::Expired => Outcome::Timeout {
                error: error_json(&expired(timeout)),
                delay_ms: delay_ms(None),
            },
            Ending::Returned(Ok(result)) => completed(&result),
            Ending::Returned(Err(error)) if error.is_retryable => Outcome::Failed {
                error: error_json(&error),
                delay_ms: delay_ms(error.retry_after),
            },
            Ending::Returned(Err(error)) => Outcome::Rejected {
                error: error_json(&error),
            },
        };
        self.count_end(label, &outcome, elapsed);
        *trail = Some(Trail {
            label,
            span: span.end(outcome_word(&outcome)),
        });
        debug!(task_id = %claimed.task_id, attempt = claimed.attempt, task_name = name,
            elapsed_ms, outcome = outcome_word(&outcome), "attempt ended");
        Some(outcome)
    }

    /// The span of an attempt, which starts now, and what its handler is told, which goes on from there.
    fn traced(&self, claimed: &Claimed, record: Record) -> (AttemptSpan, Body) {
        let span = AttemptSpan::begin(|| Attempt {
            task_id: claimed.task_id,
            number: claimed.attempt,
            body: &record.body,
            priority: record.priority.as_str(),
            worker: format!("{}/{}", self.replica, claimed.slot),
        });
        let mut body = record.body;
        if let Some((parent, state)) = span.context() {
            (body.traceparent, body.tracestate) = (Some(parent), state);
        }
        (span, body)
    }

    /// Counts an attempt that is not this replica's to settle.
    fn count_taken_away(&self, place: Label, elapsed: Duration) {
        self.meters.ran(place, End::Cancelled, elapsed);
        if !self.fenced.is_cancelled() {
            self.meters.cancelled(place);
        }
    }

    /// Counts an attempt that ended.
    fn count_end(&self, place: Label, outcome: &Outcome, elapsed: Duration) {
        self.meters.ran(place, End::of(Some(outcome)), elapsed);
        let counter = if matches!(outcome, Outcome::Completed { .. }) {
            &self.completed
        } else {
            &self.failed
        };
        counter.fetch_add(u64::from(!matches!(outcome, Outcome::Released(_))), Ordering::Relaxed);
    }
}

/// How a handler came to its end.
enum Ending {
    Returned(HandlerResult),
    Expired,
    HandedBack,
    GivenUp,
}

/// Waits until nothing of an attempt goes on whose time was up, within bounds: what undoes a step must not begin while the
/// step may still do something.
async fn wound_down(work: impl Future, cancel: &CancellationToken, patience: Duration) {
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        _ = work => {}
        () = tokio::time::sleep(patience.min(EXPIRED_PATIENCE)) => {}
    }
}

/// Tells a handler to end, and ends when it had its time to do so; never where nobody asks.
async fn given_up(give_up: &CancellationToken, told: &CancellationToken, patience: Duration) {
    give_up.cancelled().await;
    told.cancel();
    tokio::time::sleep(patience).await;
}

impl Ending {
    /// What it says about the target of the handler.
    fn sign(&self, has_target: bool) -> Sign {
        match self {
            Self::Returned(Err(error)) if error.is_unreachable => Sign::Missed,
            Self::Expired if has_target => Sign::Missed,
            Self::Returned(_) | Self::Expired => Sign::Reached,
            Self::HandedBack | Self::GivenUp => Sign::Nothing,
        }
    }
}

/// Why an attempt that ran out of time ended.
fn expired(timeout: Option<Duration>) -> TaskError {
    let limit = timeout.unwrap_or_default().as_secs_f64();
    let message = format!("the attempt exceeded max execution time of {limit} s");
    TaskError::permanent("timeout", &message)
}

/// Ends when the attempt's time is up; never without a limit.
async fn expiry(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

/// What an outcome says of the worker that saw it.
const fn verdict(outcome: Option<&Outcome>) -> Verdict {
    match outcome {
        Some(Outcome::Completed { .. }) => Verdict::Completed,
        Some(Outcome::Failed { .. } | Outcome::Timeout { .. } | Outcome::Rejected { .. }) => Verdict::Failed,
        Some(Outcome::Released(_) | Outcome::Aborted) | None => Verdict::Neither,
    }
}

const fn outcome_word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Completed { .. } => "completed",
        Outcome::Failed { .. } => "failed",
        Outcome::Timeout { .. } => "timeout",
        Outcome::Rejected { .. } => "rejected",
        Outcome::Released(_) => "released",
        Outcome::Aborted => "aborted",
    }
}

pub(super) fn completed(result: &RawValue) -> Outcome {
    let text = result.get();
    if text.len() > RESULT_BYTES_MAX {
        let message = format!(
            "the result has {} bytes, at most {RESULT_BYTES_MAX} are kept",
            text.len()
        );
        return Outcome::Rejected {
            error: error_json(&TaskError::permanent("result_too_large", &message)),
        };
    }
    let summary = (text.len() > RESULT_IN_EVENT_BYTES).then(|| {
        let digest = sha256_hex(text.as_bytes());
        format!("\"result_bytes\":{},\"result_sha256\":\"{digest}\"", text.len())
    });
    Outcome::Completed {
        result: text.to_owned(),
        summary,
    }
}

/// The error as events carry it.
#[derive(Serialize)]
struct ErrorBody<'a> {
    r#type: &'a str,
    message: &'a str,
}

pub(super) fn error_json(error: &TaskError) -> String {
    let mut end = error.message.len().min(ERROR_BYTES_MAX);
    while !error.message.is_char_boundary(end) {
        end -= 1;
    }
    let body = ErrorBody {
        r#type: &error.kind,
        message: &error.message[..end],
    };
    serde_json::to_string(&body).unwrap_or_else(|_| "{}".to_owned())
}

pub(super) fn panicked(panic: &(dyn std::any::Any + Send)) -> TaskError {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    TaskError::new(&format!("the handler panicked: {}", text.unwrap_or("no message"))).with_kind("panic")
}

/// A random number from 0 to 1.
pub(super) fn chance() -> f64 {
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    // The leading 32 bits: exact in a float.
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

/// Asks for work whenever slots are free, and waits for the doorbell when there is none.
pub(super) async fn take_work(run: Arc<Run>, partition: Partition) {
    let mut doorbell = Doorbell::new(&run.store, IDLE_WAIT);
    let mut waits = Waits::new();
    loop {
        run.progress.idle("take", partition);
        let offered = tokio::select! {
            biased;
            () = run.stop.cancelled() => return,
            offered = run.slots.take_some(partition) => offered,
        };
        // No call hands out more than this many; the others are asked for by the next.
        let mut offered = offered;
        let rest = offered.split_off(offered.len().min(CLAIM_BATCH));
        run.slots.give_back(rest);
        run.progress.expect("take", partition);
        let wanted = offered.len();
        let bells = match run
            .store
            .claim(partition, run.replica, &run.appetite(offered.clone()))
            .await
        {
            Ok((claimed, bells)) => {
                waits.reset();
                run.progress.mark_in("take", partition);
                let is_sated = claimed.len() == wanted;
                run.start_all(offered, claimed);
                if is_sated {
                    continue;
                }
                bells
            }
            Err(error) => {
                run.slots.give_back(offered);
                run.report(&error, "can not take work");
                if waits.pause(&run.stop).await {
                    continue;
                }
                return;
            }
        };
        let news = tokio::select! {
            biased;
            () = run.stop.cancelled() => return,
            () = run.bell.heard(partition) => Ok(()),
            news = doorbell.wait(&bells) => news,
        };
        if let Err(error) = news {
            run.report(&error, "can not wait for work");
            if !waits.pause(&run.stop).await {
                return;
            }
        }
    }
}

/// Settles what ended. Ends when the run does and everything is settled.
pub(super) async fn settle_work(run: Arc<Run>, partition: Partition, mut queue: mpsc::Receiver<Ended>) {
    let mut waits = Waits::new();
    let mut batch = Vec::new();
    loop {
        batch.clear();
        let received = tokio::select! {
            biased;
            () = run.fenced.cancelled() => return,
            received = queue.recv_many(&mut batch, SETTLE_BATCH) => received,
        };
        if received == 0 {
            return;
        }
        let (settlements, mut trails): (Vec<Settlement>, Vec<Option<Trail>>) = batch
            .iter_mut()
            .filter_map(|ended| {
                let outcome = ended.outcome.take()?;
                let settlement = Settlement {
                    task_id: ended.task_id,
                    attempt: ended.attempt,
                    outcome,
                };
                Some((settlement, ended.trail.take()))
            })
            .unzip();
        let freed = run
            .slots
            .keep_share(partition, batch.iter().filter_map(|ended| ended.slot).collect());
        let mut claimed = Vec::new();
        run.progress.expect("settle", partition);
        while !settlements.is_empty() {
            let offered = if run.stop.is_cancelled() {
                Vec::new()
            } else {
                freed.clone()
            };
            match run
                .store
                .settle(partition, run.replica, &run.appetite(offered), &settlements)
                .await
            {
                Ok((words, next)) => {
                    waits.reset();
                    claimed = next;
                    run.note_settled(&settlements, &mut trails, &words);
                    break;
                }
                Err(error) => {
                    // The same call again is safe, and until it gets through these attempts stay on the list of what
                    // the replica holds.
                    run.report(&error, "can not settle");
                    if !error.is_retryable() && !error.is_denied() {
                        // No waiting mends this. Whoever takes over from this replica may do better.
                        error!(replica = %run.replica, problem = %error, attempts = settlements.len(),
                            "giving up on attempts that can not be settled; joining anew");
                        run.fenced.cancel();
                        return;
                    }
                    tokio::select! {
                        () = run.fenced.cancelled() => return,
                        () = tokio::time::sleep(waits.next()) => {}
                    }
                }
            }
        }
        for ended in &batch {
            run.holdings.leave(ended.task_id, ended.attempt);
        }
        run.progress.idle("settle", partition);
        run.start_all(freed, claimed);
        run.room.notify_one();
    }
}

impl Run {
    fn note_settled(&self, settlements: &[Settlement], trails: &mut [Option<Trail>], words: &[Settled]) {
        for ((settlement, trail), word) in settlements.iter().zip(trails).zip(words) {
            if let Some(Trail { label, span }) = trail.take() {
                self.meters.settled(label, &settlement.outcome, *word);
                if let Some(span) = span {
                    span.end(word.as_str());
                }
            }
            match word {
                Settled::Ok | Settled::Duplicate => {}
                Settled::Retry => self.timers.ring(settlement.task_id.partition()),
                Settled::Stale => {
                    warn!(task_id = %settlement.task_id, attempt = settlement.attempt,
                        "a late result was refused: the attempt is not this replica's any more");
                }
                Settled::Missing => {
                    error!(task_id = %settlement.task_id, attempt = settlement.attempt,
                        "redis does not know a task that ran: its keys were removed");
                }
            }
        }
    }
}
