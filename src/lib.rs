//! The WAOOAW Orchestration Runtime: turns trigger events on a Redis Stream into prioritised tasks, runs them, and keeps
//! a record that holds in an audit.
//!
//! All state is in Redis and every change of it is one atomic call of one function library, which also writes the
//! lifecycle event that tells of it. Replicas are stateless: any may die at any instant.
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
//! - [`service`]: configuration, logs, HTTP. [`cli`] beside it: the commands of the binary.
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
//!
//! # For programs
//!
//! [`TaskQueue`] puts tasks in and takes them out; [`EventBus`] publishes triggers and follows the log; [`Handlers`]
//! holds the functions that a replica of one's own runs. [`RetryPolicy::execute_with_retry`] tries any operation again by
//! the same policies. [`WorkflowBuilder`] and [`Workflows`] start tasks that depend on each other, [`SagaBuilder`] and
//! [`Sagas`] tasks that end as a whole or are undone; both wait for the end.
//! [`DeadLetters`] lists what failed for good and brings it back;
//! [`WorkerPool`] runs functions without any Redis; [`DependencyGraph`] plans tasks that depend on each other.

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

pub use domain::dead_letter::{DeadLetterId, DeadLetterKind};
pub use domain::event::{Event, Pattern};
pub use domain::graph::{DependencyGraph, ExecutionPlan, GraphError, GraphStatistics, TaskNode};
pub use domain::id::TaskId;
pub use domain::priority::Priority;
pub use domain::retry::{RetryPolicy, RetryStrategy};
pub use domain::saga_state::{CompensationStatus, SagaState, StepState};
pub use domain::state::TaskState;
pub use domain::worker::WorkerState;
pub use domain::workflow::FailurePolicy;
pub use domain::workflow_state::WorkflowState;
pub use error::Error;
pub use runtime::bus::{EventBus, NewEvent, Subscription};
pub use runtime::dead_letters::{DeadLetterPage, DeadLetters, Requeued, Sweep};
pub use runtime::handler::{Handler, Handlers, TaskContext, TaskError};
pub use runtime::pool::{AsyncFunction, BlockingFunction, WorkerMetrics, WorkerPool, WorkerPoolMetrics};
pub use runtime::queue::{TaskQueue, TaskQueueOptions};
pub use runtime::replica::{Replica, ReplicaHandle, ReplicaOptions};
pub use runtime::retrying::RetryContext;
pub use runtime::saga_builder::{Saga, SagaBuilder, SagaStep};
pub use runtime::saga_execution::{SagaExecution, StepExecution};
pub use runtime::sagas::Sagas;
pub use runtime::task::Task;
pub use runtime::workflow_builder::{Workflow, WorkflowBuilder};
pub use runtime::workflow_execution::WorkflowExecution;
pub use runtime::workflows::Workflows;
pub use store::dead_letters::Operator;
pub use store::letter::DeadLetterDocument;
pub use store::letter_listing::DeadLetterQuery;
pub use store::operate::{Limits, Scaling};
pub use store::upkeep::Retention;
pub use store::{Endpoint, Store, StoreError};
