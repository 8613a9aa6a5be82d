//! The loops: the only place that spawns.
//!
//! A replica is a few loops around one [`crate::store::Store`]. `ingest` turns inbound events into tasks; `work`
//! takes tasks for free slots, runs them and settles them; `member` says that the replica lives and aborts what is
//! not its own any more; `circuits` pauses handlers whose target does not answer; `watch` does what must be done by somebody: queueing what is due, taking back what silent
//! replicas held; `sweep` forgets what was kept for long enough; `recall` notices when Redis lost its last moments. None of them keeps state that Redis does not have, and any may die at any instant.
//!
//! [`queue::TaskQueue`] and [`bus::EventBus`] offer the same to programs that link the library.

pub mod agents;
pub mod audit;
mod autoscale;
pub mod backoff;
pub mod builtin;
pub mod bus;
pub mod circuits;
pub mod command_handler;
pub mod dead_letters;
pub mod defaults;
mod detached;
pub mod doctor;
mod excerpt;
pub mod explain;
mod fields;
pub mod group;
mod group_client;
pub mod handler;
pub mod holdings;
pub mod http_handler;
mod ingest;
mod inherit;
mod invocation;
mod member;
pub mod meters;
pub mod operate;
pub mod overview;
pub mod pool;
mod progress;
pub mod queue;
mod recall;
mod reference;
pub mod replica;
mod report;
pub mod request;
pub mod retrying;
mod safety;
pub mod saga_builder;
pub mod saga_execution;
pub mod sagas;
mod slots;
mod snapshot;
pub mod spans;
mod sweep;
pub mod task;
pub mod waiting;
mod wakes;
mod watch;
mod work;
pub mod workflow_builder;
pub mod workflow_execution;
pub mod workflows;
