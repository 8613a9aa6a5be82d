//! The loops: the only place that spawns.
//!
//! A replica is a few loops around one [`crate::store::Store`]. `ingest` turns inbound events into tasks; `work`
//! takes tasks for free slots, runs them and settles them; `member` says that the replica lives and aborts what is
//! not its own any more; `watch` does what must be done by somebody: queueing what is due, taking back what silent
//! replicas held. None of them keeps state that Redis does not have, and any may die at any instant.
//!
//! [`queue::TaskQueue`] and [`bus::EventBus`] offer the same to programs that link the library.

pub mod audit;
pub mod backoff;
pub mod builtin;
pub mod bus;
pub mod defaults;
pub mod doctor;
pub mod explain;
pub mod handler;
pub mod holdings;
mod ingest;
mod member;
pub mod queue;
pub mod replica;
pub mod request;
mod safety;
mod slots;
mod watch;
mod work;
