//! The Redis edge: the only place that knows keys and commands.
//!
//! All state is in Redis and every change of it is one call of one function library (`lua/`). A function checks
//! everything first and then writes everything: the task's record, its queue entry, the pending list, the counters and
//! the lifecycle event. So log and state can not disagree, and a replica may die between any two instructions.
//!
//! The keys of a partition share the hash tag `{p}`:
//!
//! | key under `waooaw:{p}:` | what |
//! |---|---|
//! | `meta` | hash: schema number, limits, counters |
//! | `t:<task>` | string: the task's record, see [`record`] |
//! | `x:<task>` | hash: errors of its failed attempts |
//! | `queue:<queue>:<priority>` | stream with group `workers`: what waits, and as pending entries what runs |
//! | `parked:<task name>:<priority>` | the same for tasks whose handler the asking replica lacked |
//! | `queues`, `parks` | sets: the names of both |
//! | `timers` | sorted set: delayed tasks by due time |
//! | `group:<workflow>` | list: the tasks of a workflow |
//! | `events` | stream: the log |
//! | `bell` | short stream: wakes replicas for what no queue tells them |
//! | `beats`, `replica:<id>`, `can:<id>` | who lives, what they report, which tasks they can run |
//! | `handlers` | sorted set: task names by when a replica last registered them |
//! | `dead`, `dead:<id>` | dead letters by time, and each one's copy |
//! | `refused:<entry>` | a refused command, for a day |
//! | `paused` | hash: the queues that are paused, with who, why and when |
//! | `rate` | hash: tasks ended in each of the last 64 seconds |
//!
//! Never decides policy, never sleeps, never retries a task: that is the runtime's.

mod ahead;
pub mod audit;
mod connection;
pub mod cursor;
pub mod document;
pub mod doorbell;
pub mod error;
pub mod functions;
pub mod groups;
pub mod health;
pub mod inbound;
pub mod inspect;
pub mod keys;
pub mod library;
pub mod listing;
pub mod log;
pub mod measure;
pub mod record;
mod reply;

pub use connection::{Blocking, Endpoint, Store};
pub use error::StoreError;
