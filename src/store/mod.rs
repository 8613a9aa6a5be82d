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
//! | `meta` | hash: schema number, limits, counters, how far the log was trimmed |
//! | `t:<task>` | string: the task's record, see [`record`] |
//! | `x:<task>` | hash: errors of its failed attempts, and its lives where it had several |
//! | `queue:<queue>:<priority>` | stream with group `workers`: what waits, and as pending entries what runs |
//! | `parked:<task name>:<priority>` | the same for tasks whose handler the asking replica lacked, or of whose name as many run as may; `parked:@<task name>:<priority>` for those of agents |
//! | `queues`, `parks` | sets: the names of both |
//! | `timers`, `shifting` | sorted sets: delayed tasks by due time; those still to be moved after the clock went back |
//! | `forgetting`, `forgetting:<group>:<time>` | lists: tasks of forgotten groups that are left to be forgotten |
//! | `group:<workflow>` | list: the tasks of a workflow |
//! | `events` | stream: the log |
//! | `ready` | short stream: wakes who waits for work when some was put into a queue and not taken at once |
//! | `bell` | short stream: wakes replicas for all else: a cancel, room under a limit, a new queue |
//! | `limits`, `running:<task name>` | hash: how many tasks of a name may run at a time; sets: those of such a name that run |
//! | `beats`, `replica:<id>`, `can:<id>` | who lives, what they report (open circuits too), which tasks they can run |
//! | `figures:<id>` | string: what each worker of a replica did, for two minutes |
//! | `aside` | hash: pending tasks by rank and queue that wait elsewhere than in its streams |
//! | `handlers` | sorted set: task names by when a replica last registered them |
//! | `dead`, `dead:<id>` | dead letters by time, and each one's copy |
//! | `gone:<id>` | what became of a rejected trigger's dead letter, for a day |
//! | `refused:<entry>` | a refused command, for a day |
//! | `paused` | hash: the queues that are paused, with who, why and when |
//! | `rate` | hash: tasks ended in each of the last 64 seconds |
//!
//! Never decides policy, never pauses between tries, never retries a task: that is the runtime's.

pub mod agents;
mod ahead;
pub mod audit;
pub mod cancels;
mod circuits;
mod connection;
pub mod cursor;
pub mod dead_letters;
pub mod document;
pub mod doorbell;
pub mod error;
pub mod functions;
pub mod groups;
pub mod health;
pub mod inbound;
pub mod inspect;
pub mod keys;
pub mod letter;
pub mod letter_listing;
pub mod library;
pub mod listing;
pub mod log;
pub mod measure;
pub mod meters;
pub mod operate;
mod partitions;
pub mod record;
mod reply;
pub mod snapshot;
pub mod statistics;
pub mod upkeep;
pub mod workers;

pub use connection::{Blocking, Endpoint, Store};
pub use error::StoreError;
