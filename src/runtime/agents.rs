//! Tasks that agents carry out: what their answers mean, whose time is up, and the same over HTTP.
//!
//! The functions in Redis decide whether an answer counts. What they can not reckon is how long a failed attempt waits for the
//! next, as that follows the task's policy; it is worked out here, from the record of the attempt that the answer names.

use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::handler::{TaskContext, TaskError};
use super::invocation;
use super::meters::Meters;
use super::replica::Run;
use super::work::{chance, completed, error_json};
use crate::domain::command::{self, TaskResult};
use crate::domain::id::{Name, Partition, QueueName, ReplicaId, TaskId};
use crate::domain::retry::RetryPolicy;
use crate::error::Error;
use crate::store::agents::{Answer, Answered, Loan, Said, Verdict};
use crate::store::doorbell::Doorbell;
use crate::store::functions::{Claimed, Outcome};
use crate::store::record::Record;
use crate::store::{Store, StoreError};

/// How an attempt ended, by what its agent says.
pub(super) async fn outcome(store: &Store, result: &TaskResult) -> Result<Outcome, StoreError> {
    match &result.outcome {
        command::Outcome::Completed { result } => Ok(completed(result)),
        command::Outcome::Failed { error, is_retryable } => {
            let error = error_json(&TaskError::new(&error.message).with_kind(&error.kind));
            if !is_retryable {
                return Ok(Outcome::Rejected { error });
            }
            let delay_ms = delay_ms(store, result.task_id).await?;
            Ok(Outcome::Failed { error, delay_ms })
        }
    }
}

/// The wait before the next attempt of a task, by its policy; none where there is no such task.
async fn delay_ms(store: &Store, task: TaskId) -> Result<u64, StoreError> {
    Ok(store.task(task).await?.map_or(0, |record| delay_of(&record)))
}

fn delay_of(record: &Record) -> u64 {
    let policy = record.body.spec.retry.unwrap_or(RetryPolicy::STANDARD);
    let delay = policy.delay(record.retry_count + 1, chance());
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
}

/// Ends attempts whose time is up. What does not get through is found again by whoever looks at the timers next.
pub(super) async fn expire(run: &Run, partition: Partition, expired: &[(TaskId, u32)]) {
    for (task, attempt) in expired {
        if let Err(error) = expire_one(run, partition, *task, *attempt).await {
            run.report(&error, "can not end an agent's attempt whose time is up");
        }
    }
}

async fn expire_one(run: &Run, partition: Partition, task: TaskId, attempt: u32) -> Result<(), StoreError> {
    let Some(record) = run.store.task(task).await? else {
        return Ok(());
    };
    let limit = record.body.spec.timeout_seconds.or_else(|| {
        let default = record.body.agent.as_ref().map(|agent| agent.timeout_ms)?;
        Some(Duration::from_millis(default).as_secs_f64())
    });
    let message = format!(
        "the attempt exceeded max execution time of {} s",
        limit.unwrap_or_default()
    );
    let answer = Answer {
        task_id: task,
        attempt,
        who: None,
        event_id: None,
        entry_id: None,
        said: Said::Ended(Outcome::Timeout {
            error: error_json(&TaskError::permanent("timeout", &message)),
            delay_ms: delay_of(&record),
        }),
    };
    let verdicts = run
        .store
        .answer(partition, run.replica, std::slice::from_ref(&answer))
        .await?;
    let Some(verdict) = verdicts.first() else {
        return Ok(());
    };
    run.meters.answered(&answer.said, verdict);
    if matches!(verdict.word, Answered::Ok | Answered::Retry) {
        warn!(task_id = %task, attempt, "an agent's attempt took too long");
        run.timers.ring(partition);
    }
    Ok(())
}

/// What a worker outside asks for.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Its name, by which it owns what it is given.
    pub worker: Name,
    /// Whether that is an agent's id, whose unread assignments it is given too.
    pub is_agent: bool,
    /// How many tasks at most.
    pub max: u16,
    /// The names of the tasks that it carries out; none for all that wait in the queue.
    pub task_names: Vec<Name>,
    /// How long to wait for the first.
    pub wait: Duration,
    /// How long it may be silent.
    pub heartbeat_timeout: Duration,
}

/// Hands out waiting tasks of a queue as assignments: JSON each, the same that an agent finds in its inbox.
///
/// # Errors
///
/// [`Error::RedisUnavailable`]. What was handed out in an answer that got lost goes to others when its time of silence is over.
pub async fn claim(
    store: &Store,
    actor: ReplicaId,
    queue: &QueueName,
    claim: &Claim,
    stop: &CancellationToken,
) -> Result<Vec<Box<RawValue>>, Error> {
    let deadline = Instant::now() + claim.wait;
    let mut doorbell = Doorbell::new(store, claim.wait.max(Duration::from_secs(1)));
    loop {
        let mut found = Vec::new();
        let mut bells = Vec::new();
        for partition in store.partitions() {
            let taken = u16::try_from(found.len()).unwrap_or(u16::MAX);
            let loan = Loan {
                agent: &claim.worker,
                queue,
                max: claim.max.saturating_sub(taken),
                silence_ms: u64::try_from(claim.heartbeat_timeout.as_millis()).unwrap_or(u64::MAX),
                max_wait_ms: 60_000,
                reads_inbox: claim.is_agent,
                task_names: &claim.task_names,
            };
            if loan.max == 0 {
                break;
            }
            let lent = store.lend(partition, actor, &loan).await?;
            for text in lent.assignments {
                found.push(RawValue::from_string(text).map_err(|_| StoreError::Protocol("assignment"))?);
            }
            for claimed in &lent.tasks {
                found.push(assignment(store, claimed).await?);
            }
            bells.extend(lent.bells);
        }
        if !found.is_empty() || Instant::now() >= deadline {
            return Ok(found);
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(found),
            () = tokio::time::sleep_until(deadline) => return Ok(found),
            rung = doorbell.wait(&bells) => rung?,
        }
    }
}

/// What whoever carries out an attempt is told.
async fn assignment(store: &Store, claimed: &Claimed) -> Result<Box<RawValue>, StoreError> {
    let record = Record::parse(claimed.task_id, &claimed.record).map_err(|_| StoreError::Protocol("task record"))?;
    let inputs = match &claimed.inputs {
        Some(inputs) => inputs.clone(),
        None => store.inputs(&record).await?,
    };
    let task = TaskContext::new(claimed, record.body, inputs, CancellationToken::new());
    RawValue::from_string(invocation::json(&task)).map_err(|_| StoreError::Protocol("assignment"))
}

/// Notes that whoever holds an attempt is at work. `who` is its name, where it says it.
///
/// # Errors
///
/// [`Error::TaskNotFound`]; [`Error::InvalidTransition`] when the attempt is over or another's; [`Error::RedisUnavailable`].
pub async fn heartbeat(
    store: &Store,
    actor: ReplicaId,
    beat: &command::TaskHeartbeat,
    who: Option<&Name>,
) -> Result<(), Error> {
    let progress = beat.progress.as_ref().map(|progress| progress.get().to_owned());
    let said = Said::Beat(progress);
    let answer = spoken(beat.task_id, beat.attempt, who, said);
    tell(store, actor, &answer).await.map(drop)
}

/// Ends an attempt as whoever holds it says, and counts it.
///
/// # Errors
///
/// As [`heartbeat`].
pub async fn finish(
    store: &Store,
    meters: &Meters,
    actor: ReplicaId,
    result: &TaskResult,
    who: Option<&Name>,
) -> Result<(), Error> {
    let said = Said::Ended(outcome(store, result).await?);
    let answer = spoken(result.task_id, result.attempt, who, said);
    let verdict = tell(store, actor, &answer).await?;
    meters.answered(&answer.said, &verdict);
    Ok(())
}

/// What is said over HTTP, where no event tells one time from the next.
fn spoken(task_id: TaskId, attempt: u32, who: Option<&Name>, said: Said) -> Answer {
    Answer {
        task_id,
        attempt,
        who: who.map(ToString::to_string),
        event_id: None,
        entry_id: None,
        said,
    }
}

async fn tell(store: &Store, actor: ReplicaId, answer: &Answer) -> Result<Verdict, Error> {
    let (task_id, attempt) = (answer.task_id, answer.attempt);
    let missing = || Error::TaskNotFound(task_id.to_string());
    let partition = task_id.partition();
    if partition.number() >= store.partition_count() {
        return Err(missing());
    }
    let verdicts = match store.answer(partition, actor, std::slice::from_ref(answer)).await {
        Err(StoreError::NotJoined) => return Err(missing()),
        verdicts => verdicts?,
    };
    let Some(verdict) = verdicts.into_iter().next() else {
        return Err(Error::Store(StoreError::Protocol("answer")));
    };
    let refused = |message: String| Err(Error::InvalidTransition(message));
    match verdict.word {
        Answered::Ok | Answered::Retry | Answered::Duplicate | Answered::Early => Ok(verdict),
        Answered::Stale => refused(format!(
            "attempt {attempt} of task {task_id} is not under way, or no agent's"
        )),
        Answered::Other => refused(format!("attempt {attempt} of task {task_id} is another agent's")),
        Answered::Terminal => refused(format!("task {task_id} has ended")),
        Answered::Missing => Err(missing()),
    }
}
