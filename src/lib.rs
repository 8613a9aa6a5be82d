//! The WAOOAW Orchestration Runtime: turns trigger events on a Redis Stream into prioritised tasks, runs them, and keeps
//! a record that holds in an audit.
//!
//! All state is in Redis and every change of it is one atomic call of one function library, which also writes the
//! lifecycle event that tells of it. Replicas are stateless: any may die at any instant.
//!
//! # Begin here
//!
//! A program that runs tasks registers functions and joins the replicas on a Redis; one that wants tasks done puts them into
//! the queue. Here it is the same program:
//!
//! ```no_run
//! use std::time::Duration;
//! use tokio_util::sync::CancellationToken;
//! use waooaw_orchestration::{
//!     Endpoint, Handlers, Priority, Replica, ReplicaOptions, Store, Task, TaskQueue, TaskQueueOptions,
//! };
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let url = "redis://127.0.0.1:6379";
//! let handlers = Handlers::new().with_async("add", |(x, y): (i64, i64), _task| async move { Ok(x + y) });
//! let store = || Store::new(Endpoint::new(url));
//! let stop = CancellationToken::new();
//! let replica = Replica::new(store()?, store()?, ReplicaOptions::new(handlers), stop.clone());
//! let running = tokio::spawn(replica.run());
//!
//! let queue = TaskQueue::connect(TaskQueueOptions::new(url)).await?;
//! let task_id = queue.enqueue(Task::new("add").args([5, 3]).priority(Priority::High)).await?;
//! let task = queue.wait(task_id, Some(Duration::from_secs(10))).await?;
//! println!("{} {:?}", task.state, task.result); // COMPLETED, 8
//!
//! stop.cancel(); // runs what it has begun to its end, and hands the rest back
//! running.await??;
//! # Ok(())
//! # }
//! ```
//!
//! | to | there is |
//! |---|---|
//! | put tasks in, wait for them, take them out by hand | [`TaskQueue`], [`Task`] |
//! | run tasks | [`Handlers`] in a [`Replica`] |
//! | run tasks that depend on each other, and wait for the end | [`WorkflowBuilder`], [`Workflows`] |
//! | run steps that end as a whole or are undone, and wait for the end | [`SagaBuilder`], [`Sagas`] |
//! | publish triggers and follow the log of events | [`EventBus`] |
//! | look at what failed for good and bring it back | [`DeadLetters`] |
//! | plan tasks that depend on each other, without Redis | [`DependencyGraph`] |
//! | run functions on a bounded number of workers, without Redis | [`WorkerPool`] |
//! | try any operation again by the same policies | [`RetryPolicy::execute_with_retry`] |
//!
//! Names are those of the Python library of the same purpose, but for a few: `TaskPriority` is [`Priority`], `TaskMetadata`
//! [`TaskDocument`], `TaskStatistics` [`StatisticsDocument`], `RetryConfig` the [`RetryPolicy`] itself, whose presets are its
//! constants, and each `…Error` a variant of [`Error`]. A search of these pages for the old name finds the new one.
//!
//! Every call that can fail says so by one enum, [`Error`], which also knows whether asking again may help.
//!
//! # The map
//!
//! Imports point to the left only, and a test keeps it so:
//!
//! ```text
//! domain  <-  store  <-  runtime  <-  service  <-  main
//! rules       Redis      loops        process      arguments
//! ```
//!
//! - [`domain`]: what is true without Redis: ids, priorities, the table of states, retries, what an event looks like.
//! - [`store`]: the only place that knows keys and commands; the functions are in `store/lua`.
//! - [`runtime`]: the only place that spawns: reading triggers, running handlers, beating, watching.
//! - [`service`]: configuration, logs, HTTP. `cli` beside it: the commands of the binary.
//!
//! What programs need stands on this page too. The rest of the modules is public for the binary, the tests and the curious,
//! and may change with any release.
//!
//! # Data flow
//!
//! A trigger is read ([`runtime`]'s ingest), checked ([`domain::envelope`], [`domain::trigger`]) and made a task by the
//! function `create`. A free slot claims it (`claim`, or on the side of `create` and `settle`), a handler runs it, and
//! `settle` ends it. Each of the three writes its event to `waooaw:{p}:events`.
//!
//! # Choices that a measurement made
//!
//! - A task's record is one string, not a hash: `MGET` and `MSET` move a whole batch in a command each.
//! - Finished queue entries are trimmed together up to the oldest pending one; deleting each costs more than all else.
//! - Function arguments that tasks of a batch share are sent once: Lua hashes every string that it is given, byte by byte.
//! - What a lost answer had handed out comes again with the next beat, as the same attempt, instead of back to the queue.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

#[doc(hidden)]
pub mod cli;
pub mod domain;
mod error;
pub mod runtime;
pub mod service;
pub mod store;

#[doc(inline)]
pub use domain::{
    dead_letter::{DeadLetterId, DeadLetterKind},
    event::{Event, Pattern},
    graph::{DependencyGraph, GraphError, GraphStatistics, TaskNode},
    id::{Name, QueueName, TaskId},
    plan::ExecutionPlan,
    priority::Priority,
    rejection::{Reason, Rejection},
    retry::{RetryPolicy, RetryStrategy},
    saga_state::{CompensationStatus, SagaState, StepState},
    state::TaskState,
    worker::WorkerState,
    workflow::FailurePolicy,
    workflow_state::WorkflowState,
};
pub use error::Error;
#[doc(inline)]
pub use runtime::{
    bus::{EventBus, NewEvent, Subscription},
    dead_letters::{DeadLetterPage, DeadLetters, Requeued, Sweep},
    defaults::HandlerDefaults,
    handler::{Handler, HandlerFuture, HandlerResult, Handlers, TaskContext, TaskError},
    pool::{AsyncFunction, BlockingFunction, WorkerMetrics, WorkerPool, WorkerPoolMetrics},
    queue::{TaskQueue, TaskQueueOptions},
    replica::{Readiness, Replica, ReplicaHandle, ReplicaOptions},
    retrying::RetryContext,
    saga_builder::{Saga, SagaBuilder, SagaStep},
    saga_execution::{SagaExecution, StepExecution},
    sagas::Sagas,
    task::Task,
    workflow_builder::{Workflow, WorkflowBuilder},
    workflow_execution::WorkflowExecution,
    workflows::Workflows,
};
#[doc(inline)]
pub use store::{
    Endpoint, Store, StoreError,
    dead_letters::Operator,
    document::{QueueDocument, StatisticsDocument, TaskDocument, WorkerPoolDocument},
    letter::DeadLetterDocument,
    letter_listing::DeadLetterQuery,
    operate::{Limits, Scaling},
    upkeep::Retention,
};
