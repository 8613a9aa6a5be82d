//! The task queue for programs that link the library: put tasks in, take tasks out, look at them.
//!
//! A program that takes tasks out is a member like a replica: it beats, it can be taken for dead, and what it held then
//! comes back to another. Membership begins with the first [`TaskQueue::dequeue`]; a program that only puts tasks in
//! holds nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::defaults::{Defaults, Origin};
use super::handler::{Handlers, TaskContext};
use super::replica::{Membership, ReplicaOptions};
use super::request::{self, create_one, make_keys, new_actor};
use super::task::Task;
use super::waiting;
use crate::domain::id::{ReplicaId, TaskId};
use crate::domain::rejection::{Reason, Rejection};
use crate::domain::retry::RetryPolicy;
use crate::error::Error;
use crate::store::dead_letters::Operator;
use crate::store::document::{StatisticsDocument, TaskDocument};
use crate::store::doorbell::Doorbell;
use crate::store::functions::{Appetite, Asker, Claimed, Outcome, Settled, Settlement};
use crate::store::operate::Limits;
use crate::store::{Endpoint, Store, StoreError};

fn invalid(field: &str, error: &impl std::fmt::Display) -> Rejection {
    Rejection::new(Reason::InvalidField, Some(field), error.to_string())
}

/// How much later than asked for a call that waits may end, for Redis to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// How a program uses a queue.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TaskQueueOptions {
    /// Where Redis is.
    pub endpoint: Endpoint,
    /// Who the tasks come from.
    pub source_agent: String,
    /// The limit of tasks that are not terminal, over everyone; 0 is no limit. `None` leaves what is set.
    pub max_size: Option<u64>,
    /// The limit of tasks that run, over everyone; 0 is no limit. `None` leaves what is set.
    pub max_running: Option<u64>,
}

impl TaskQueueOptions {
    /// The queue on the Redis at `url`, with its limits as they are set.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self {
            endpoint: Endpoint::new(url),
            source_agent: "task-queue".to_owned(),
            max_size: None,
            max_running: None,
        }
    }
}

/// A queue of prioritised tasks, shared by everyone on the same Redis.
///
/// ```no_run
/// # async fn example() -> Result<(), waooaw_orchestration::Error> {
/// use std::time::Duration;
/// use waooaw_orchestration::{Priority, Task, TaskQueue, TaskQueueOptions};
///
/// let queue = TaskQueue::connect(TaskQueueOptions::new("redis://127.0.0.1:6379")).await?;
/// let task = Task::new("process_data").args(["data-123"]).priority(Priority::High).workflow_id("workflow-1");
/// let task_id = queue.enqueue(task).await?;
///
/// // In any other process:
/// if let Some(task) = queue.dequeue(Duration::from_secs(5)).await? {
///     queue.complete_task(task.task_id, &"done").await?;
/// }
/// println!("{} pending", queue.get_statistics().await?.pending_count);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TaskQueue {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    options: TaskQueueOptions,
    actor: ReplicaId,
    defaults: Defaults,
    member: tokio::sync::Mutex<Option<Membership>>,
    stop: CancellationToken,
    adopted: Arc<Mutex<VecDeque<Claimed>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl TaskQueue {
    /// Connects and makes the keys where they are missing.
    ///
    /// # Errors
    ///
    /// [`Error::RedisUnavailable`], or [`Error::Store`] when Redis holds something of another release or another number of
    /// partitions than the endpoint names.
    pub async fn connect(options: TaskQueueOptions) -> Result<Self, Error> {
        let store = Store::new(options.endpoint.clone())?;
        store.find_partitions().await?;
        let actor = new_actor();
        make_keys(&store, actor, options.max_size, options.max_running).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                options,
                actor,
                defaults: Defaults::default(),
                member: tokio::sync::Mutex::new(None),
                stop: CancellationToken::new(),
                adopted: Arc::default(),
            }),
        })
    }

    /// Puts a task in; answers its id. The name needs no handler: whoever dequeues decides what it means.
    /// A task with an agent goes to that agent, unless a handler has its name.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] with everything that is wrong, [`Error::PayloadTooLarge`], [`Error::InvalidDependency`],
    /// [`Error::TaskQueueFull`], [`Error::RedisUnavailable`]. With an event id of one's own, asking again is safe.
    pub async fn enqueue(&self, task: Task) -> Result<TaskId, Error> {
        let inner = &self.inner;
        let (trigger, event_id) = task.into_trigger(&inner.options.source_agent)?;
        let origin = Origin {
            source_agent: &inner.options.source_agent,
            event_id: &event_id,
            correlation_id: None,
            trace: None,
        };
        // Any name will do for whoever dequeues; what an agent is to have is handed over as for any other caller.
        let asker = if trigger.agent_id.is_some() {
            Asker::Caller
        } else {
            Asker::Program
        };
        let task = inner.defaults.task(trigger, &origin, inner.store.partition_count());
        let submitted = create_one(&inner.store, inner.actor, asker, task).await?;
        Ok(submitted.task_id)
    }

    /// Takes the most urgent task, waiting up to `timeout` for one; `None` when none came. The wait costs no CPU.
    ///
    /// # Errors
    ///
    /// [`Error::RedisUnavailable`], at the latest a second after the timeout; calling again is safe.
    ///
    /// # Cancel safety
    ///
    /// A task that was handed out to a call that was dropped is found by a later call within a few seconds.
    pub async fn dequeue(&self, timeout: Duration) -> Result<Option<TaskContext>, Error> {
        let deadline = tokio::time::Instant::now() + timeout;
        // What Redis answers may come a little later; while it is away nobody waits for longer.
        match tokio::time::timeout_at(deadline + ANSWER_PATIENCE, self.dequeue_until(deadline, timeout)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::RedisUnavailable(StoreError::NotConnected(format!(
                "no answer within {timeout:?}"
            )))),
        }
    }

    async fn dequeue_until(
        &self,
        deadline: tokio::time::Instant,
        timeout: Duration,
    ) -> Result<Option<TaskContext>, Error> {
        let member = self.member().await?;
        // Short waits, since the deadline of an answer is the wait and a margin.
        let wait = timeout.clamp(Duration::from_millis(1), super::work::IDLE_WAIT);
        let mut doorbell = Doorbell::new(&self.inner.store, wait);
        loop {
            let adopted = self
                .inner
                .adopted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            if let Some(claimed) = adopted {
                return member.context(&claimed).await.map(Some);
            }
            let mut bells = Vec::new();
            for partition in self.inner.store.partitions() {
                let appetite = Appetite {
                    slots: vec![0],
                    runs_any: true,
                    ..Appetite::none()
                };
                let (claimed, mut behind) = self.inner.store.claim(partition, member.replica(), &appetite).await?;
                if let Some(claimed) = claimed.into_iter().next() {
                    if member.enter(&claimed) {
                        return member.context(&claimed).await.map(Some);
                    }
                    continue;
                }
                bells.append(&mut behind);
            }
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => return Ok(None),
                () = member.bell() => {}
                news = doorbell.wait(&bells) => news?,
            }
        }
    }

    /// The live membership; a new one when there was none or it was taken for dead.
    async fn member(&self) -> Result<Membership, Error> {
        let inner = &self.inner;
        let mut slot = inner.member.lock().await;
        if let Some(member) = &*slot
            && member.is_alive()
        {
            return Ok(member.clone());
        }
        let options = ReplicaOptions {
            max_size: None,
            max_running: None,
            // It runs nothing by itself, so it is no part of the pool.
            workers: 0,
            retention: None,
            ..ReplicaOptions::new(Handlers::new())
        };
        // What the earlier membership was given is not this one's.
        inner.adopted.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let beat_store = inner.store.beside()?;
        let adopted = Arc::clone(&inner.adopted);
        let member = Membership::begin(
            inner.store.clone(),
            beat_store,
            options,
            inner.stop.child_token(),
            adopted,
        )
        .await?;
        *slot = Some(member.clone());
        Ok(member)
    }

    /// Ends a dequeued task with a result.
    ///
    /// # Errors
    ///
    /// [`Error::TaskNotFound`], or [`Error::InvalidTransition`] when this process does not hold the task (any more).
    pub async fn complete_task(&self, task: TaskId, result: &impl Serialize) -> Result<(), Error> {
        let result =
            serde_json::value::to_raw_value(result).map_err(|error| Error::InvalidField(invalid("result", &error)))?;
        if result.get().len() > super::work::RESULT_BYTES_MAX {
            let message = format!("the result has more than {} bytes", super::work::RESULT_BYTES_MAX);
            return Err(Error::InvalidField(invalid("result", &message)));
        }
        self.settle(task, super::work::completed(&result)).await
    }

    /// Ends a dequeued task's attempt with an error; it is retried as its policy says.
    ///
    /// # Errors
    ///
    /// As for [`TaskQueue::complete_task`].
    pub async fn fail_task(&self, task: TaskId, error: &str) -> Result<(), Error> {
        let record = self
            .inner
            .store
            .task(task)
            .await?
            .ok_or_else(|| Error::TaskNotFound(task.to_string()))?;
        let policy = record.body.spec.retry.unwrap_or(RetryPolicy::STANDARD);
        let delay = policy.delay(record.retry_count + 1, super::work::chance());
        let error = super::work::error_json(&super::handler::TaskError::new(error));
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.settle(task, Outcome::Failed { error, delay_ms }).await
    }

    async fn settle(&self, task: TaskId, outcome: Outcome) -> Result<(), Error> {
        let member = self.inner.member.lock().await.clone();
        let held = member
            .as_ref()
            .and_then(|member| Some((member, member.attempt_of(task)?)));
        let Some((member, attempt)) = held else {
            return match self.inner.store.task(task).await? {
                None => Err(Error::TaskNotFound(task.to_string())),
                Some(record) => Err(Error::InvalidTransition(format!(
                    "task `{task}` is {} and not held by this process",
                    record.state
                ))),
            };
        };
        let settlement = Settlement {
            task_id: task,
            attempt,
            outcome,
        };
        let (words, _) = self
            .inner
            .store
            .settle(task.partition(), member.replica(), &Appetite::none(), &[settlement])
            .await?;
        member.leave(task, attempt);
        match words.first() {
            Some(Settled::Retry) => {
                member.wake_timers(task.partition());
                Ok(())
            }
            Some(Settled::Ok | Settled::Duplicate) => Ok(()),
            Some(Settled::Stale) => Err(Error::InvalidTransition(format!(
                "attempt {attempt} of task `{task}` is not this process's any more"
            ))),
            Some(Settled::Missing) | None => Err(Error::TaskNotFound(task.to_string())),
        }
    }

    /// Stops a task that waits or runs, wherever; `false` when it had ended before.
    ///
    /// # Errors
    ///
    /// [`Error::TaskNotFound`], [`Error::RedisUnavailable`].
    pub async fn cancel_task(&self, task: TaskId) -> Result<bool, Error> {
        request::cancel(&self.inner.store, self.inner.actor, task, None).await
    }

    /// A task as it is right now.
    ///
    /// # Errors
    ///
    /// [`Error::TaskNotFound`], [`Error::RedisUnavailable`].
    pub async fn get_task(&self, task: TaskId) -> Result<TaskDocument, Error> {
        request::task_document(&self.inner.store, task).await
    }

    /// Waits until a task has ended, whoever runs it; the task as it is then, however it ended. Without `timeout` it waits for
    /// as long as that takes.
    ///
    /// # Errors
    ///
    /// [`Error::WaitTimeout`] when it has not ended within `timeout`; [`Error::TaskNotFound`], also when it is forgotten
    /// meanwhile; [`Error::RedisUnavailable`] when Redis is away at the beginning or for longer than half a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call changes nothing; the task goes on.
    pub async fn wait(&self, task: TaskId, timeout: Option<Duration>) -> Result<TaskDocument, Error> {
        let deadline = timeout.map(|timeout| tokio::time::Instant::now() + timeout);
        let (document, is_over) = waiting::wait_until_over(&self.inner.store, task, deadline).await?;
        if is_over {
            return Ok(document);
        }
        let seconds = timeout.unwrap_or_default().as_secs_f64();
        let message = format!(
            "task `{task}` is {} after {seconds} s of waiting, and goes on",
            document.state
        );
        Err(Error::WaitTimeout(message))
    }

    /// All tasks of a workflow, in order of creation.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`], [`Error::RedisUnavailable`].
    pub async fn get_workflow_tasks(&self, workflow: &str) -> Result<Vec<TaskDocument>, Error> {
        let name = workflow
            .parse()
            .map_err(|error| Error::InvalidField(invalid("workflow_id", &error)))?;
        request::workflow_tasks(&self.inner.store, &name).await
    }

    /// The statistics over everyone.
    ///
    /// # Errors
    ///
    /// [`Error::RedisUnavailable`].
    pub async fn get_statistics(&self) -> Result<StatisticsDocument, Error> {
        statistics(&self.inner.store).await
    }

    /// Changes how many tasks may run at once, over everyone; 0 is no limit. Takes effect with the next claim.
    ///
    /// # Errors
    ///
    /// [`Error::RedisUnavailable`].
    pub async fn set_max_running(&self, max_running: u64) -> Result<(), Error> {
        let limits = Limits {
            max_running: Some(max_running),
            ..Limits::default()
        };
        let operator = Operator::new(&self.inner.options.source_agent, None);
        super::operate::set_limits(&self.inner.store, &operator, None, limits).await?;
        Ok(())
    }
}

/// The statistics of all partitions; zeros where no replica has ever run.
///
/// # Errors
///
/// [`Error::RedisUnavailable`].
pub async fn statistics(store: &Store) -> Result<StatisticsDocument, Error> {
    Ok(StatisticsDocument::sum(&store.all_statistics().await?))
}
