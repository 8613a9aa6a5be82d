//! What programs that use the library are told when something can not be done.

use crate::domain::graph::GraphError;
use crate::domain::rejection::{Reason, Rejection, cycle_in_words};
use crate::domain::saga_state::CompensationStatus;
use crate::domain::workflow_state::WorkflowState;
use crate::runtime::handler::TaskError;
use crate::store::StoreError;

/// A request that was not carried out, by what the caller can do about it. The names are those of the problem
/// documents over HTTP.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such task (any more).
    #[error("there is no task `{0}`")]
    #[doc(alias = "TaskNotFoundError")]
    TaskNotFound(String),
    /// There is no such workflow (any more).
    #[error("there is no workflow `{0}`")]
    WorkflowNotFound(String),
    /// There is no such saga (any more).
    #[error("there is no saga `{0}`")]
    SagaNotFound(String),
    /// There is no such dead letter (any more).
    #[error("there is no dead letter `{0}`")]
    DeadLetterNotFound(String),
    /// There is no queue of this name.
    #[error("there is no queue `{0}`")]
    QueueNotFound(String),
    /// There is no such worker, or no such replica (any more).
    #[error("there is no worker or replica `{0}`")]
    WorkerNotFound(String),
    /// A pool can not have so many workers; nothing was changed.
    #[error(
        "the worker pool is at max capacity: it has {workers} of {max_workers} workers, {asked} more were asked for"
    )]
    #[doc(alias = "WorkerPoolFullError")]
    WorkerPoolFull {
        /// How many it has.
        workers: u16,
        /// How many it may have.
        max_workers: u16,
        /// How many more were asked for.
        asked: u16,
    },
    /// There is no worker that could take a task: the pool is not started, or it is stopping.
    #[error("no workers are available: none has started, or all are stopping")]
    #[doc(alias = "NoWorkersAvailableError")]
    NoWorkersAvailable,
    /// What a worker was given to do failed.
    #[error("the task failed: {0}")]
    TaskFailed(TaskError),
    /// The queue holds as many unfinished tasks as it may; try again when some have ended.
    #[error("the queue is at capacity: {max_size} of {max_size} tasks are unfinished")]
    #[doc(alias = "TaskQueueFullError")]
    TaskQueueFull {
        /// The limit.
        max_size: u64,
    },
    /// No replica has registered a handler of this name within the last hour.
    #[error("no replica can run `{0}`: none has registered it within the last hour")]
    UnknownTask(String),
    /// A value is out of its range or of the wrong kind.
    #[error("{0}")]
    InvalidField(Rejection),
    /// What was asked for has more bytes than an event may have.
    #[error("{0}")]
    PayloadTooLarge(Rejection),
    /// Tasks depend on each other in a ring.
    #[error("`{}` {}", cycle.first().map_or("", String::as_str), cycle_in_words(cycle))]
    #[doc(alias = "CyclicDependencyError")]
    CyclicDependency {
        /// One such ring: each on the next, the first again at the end.
        cycle: Vec<String>,
    },
    /// A task depends on something that is not known.
    #[error("{0}")]
    #[doc(alias = "InvalidDependencyError")]
    InvalidDependency(Rejection),
    /// A task can not be completed before what it depends on.
    #[error("`{task_id}` still depends on `{}`", waits_for.join("`, `"))]
    DependencyNotSatisfied {
        /// The task.
        task_id: String,
        /// What is not completed.
        waits_for: Vec<String>,
    },
    /// The task is not in a state that allows this.
    #[error("{0}")]
    InvalidTransition(String),
    /// A workflow did not complete.
    #[error(
        "workflow `{workflow_id}` ended as {state}{}",
        root_cause_task_id.as_ref().map_or(String::new(), |task| format!(", because of task `{task}`"))
    )]
    WorkflowExecution {
        /// The workflow.
        workflow_id: String,
        /// How it ended.
        state: WorkflowState,
        /// The task whose failure is the reason; `None` where it was stopped.
        root_cause_task_id: Option<String>,
    },
    /// A saga did not complete.
    #[error(
        "saga `{saga_id}` did not complete{}; compensation: {compensation_status}",
        failed_step.as_ref().map_or(String::new(), |step| format!(": step `{step}` failed"))
    )]
    #[doc(alias = "SagaExecutionError")]
    SagaExecution {
        /// The saga.
        saga_id: String,
        /// The step whose failure let it go back; `None` for one that was cancelled.
        failed_step: Option<String>,
        /// How far the way back got.
        compensation_status: CompensationStatus,
    },
    /// What was waited for has not ended in time; it goes on.
    #[error("{0}")]
    WaitTimeout(String),
    /// Every attempt of an operation failed.
    #[error("failed after {attempts} attempts: {last_error}")]
    #[doc(alias = "MaxRetriesExceededError")]
    MaxRetriesExceeded {
        /// How many were made.
        attempts: u32,
        /// What the last one said.
        last_error: String,
    },
    /// An operation failed in a way that every further attempt would meet.
    #[error("failed for good at attempt {attempt}")]
    PermanentFailure {
        /// The attempt that found out, from 1.
        attempt: u32,
        /// What it said.
        #[source]
        error: TaskError,
    },
    /// Redis can not be reached or does not do what is needed of it.
    #[error("redis is unavailable")]
    RedisUnavailable(#[source] StoreError),
    /// Redis holds something that this release can not work with.
    #[error(transparent)]
    Store(StoreError),
}

impl Error {
    /// The code over HTTP and in the command line's JSON.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TaskNotFound(_) => "TaskNotFound",
            Self::WorkflowNotFound(_) => "WorkflowNotFound",
            Self::SagaNotFound(_) => "SagaNotFound",
            Self::DeadLetterNotFound(_) => "DeadLetterNotFound",
            Self::QueueNotFound(_) => "QueueNotFound",
            Self::WorkerNotFound(_) => "WorkerNotFound",
            Self::WorkerPoolFull { .. } => "WorkerPoolFull",
            Self::NoWorkersAvailable => "NoWorkersAvailable",
            Self::TaskFailed(_) => "TaskFailed",
            Self::TaskQueueFull { .. } => "TaskQueueFull",
            Self::UnknownTask(_) => "UnknownTask",
            Self::InvalidField(_) => "InvalidField",
            Self::PayloadTooLarge(_) => "PayloadTooLarge",
            Self::CyclicDependency { .. } => "CyclicDependency",
            Self::InvalidDependency(_) => "InvalidDependency",
            Self::DependencyNotSatisfied { .. } => "DependencyNotSatisfied",
            Self::InvalidTransition(_) => "InvalidTransition",
            Self::WorkflowExecution { .. } => "WorkflowExecution",
            Self::SagaExecution { .. } => "SagaExecution",
            Self::WaitTimeout(_) => "WaitTimeout",
            Self::MaxRetriesExceeded { .. } => "MaxRetriesExceeded",
            Self::PermanentFailure { .. } => "PermanentFailure",
            Self::RedisUnavailable(_) => "RedisUnavailable",
            Self::Store(_) => "Store",
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::TaskQueueFull { .. }
            | Self::NoWorkersAvailable
            | Self::WaitTimeout(_)
            | Self::RedisUnavailable(_) => true,
            Self::TaskFailed(error) => error.is_retryable,
            Self::TaskNotFound(_)
            | Self::WorkflowNotFound(_)
            | Self::SagaNotFound(_)
            | Self::QueueNotFound(_)
            | Self::WorkerNotFound(_)
            | Self::WorkerPoolFull { .. }
            | Self::DeadLetterNotFound(_)
            | Self::UnknownTask(_)
            | Self::InvalidField(_)
            | Self::PayloadTooLarge(_)
            | Self::CyclicDependency { .. }
            | Self::InvalidDependency(_)
            | Self::DependencyNotSatisfied { .. }
            | Self::InvalidTransition(_)
            | Self::WorkflowExecution { .. }
            | Self::SagaExecution { .. }
            | Self::MaxRetriesExceeded { .. }
            | Self::PermanentFailure { .. }
            | Self::Store(_) => false,
        }
    }
}

impl From<Rejection> for Error {
    /// What can not be accepted, by its gravest problem.
    fn from(rejection: Rejection) -> Self {
        match rejection.reason {
            Reason::CyclicDependency => Self::CyclicDependency { cycle: rejection.cycle },
            Reason::InvalidDependency => Self::InvalidDependency(rejection),
            Reason::TooLarge => Self::PayloadTooLarge(rejection),
            Reason::UnknownTask
            | Reason::Malformed
            | Reason::MissingField
            | Reason::InvalidField
            | Reason::UnknownField
            | Reason::UnknownEventType
            | Reason::TooDeep
            | Reason::DuplicateKey
            | Reason::DuplicateId
            | Reason::NotFound
            | Reason::StaleAttempt
            | Reason::InvalidTransition => Self::InvalidField(rejection),
        }
    }
}

impl From<GraphError> for Error {
    fn from(error: GraphError) -> Self {
        let said = error.to_string();
        match error {
            GraphError::CyclicDependency { cycle } => Self::CyclicDependency { cycle },
            GraphError::InvalidDependency { .. } => {
                Self::InvalidDependency(Rejection::new(Reason::InvalidDependency, Some("dependencies"), said))
            }
            GraphError::DependencyNotSatisfied { task_id, waits_for } => {
                Self::DependencyNotSatisfied { task_id, waits_for }
            }
            GraphError::DuplicateTask(_) => {
                Self::InvalidField(Rejection::new(Reason::DuplicateKey, Some("task_id"), said))
            }
            GraphError::TaskNotFound(task_id) => Self::TaskNotFound(task_id),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        if error.is_retryable() {
            Self::RedisUnavailable(error)
        } else {
            Self::Store(error)
        }
    }
}
