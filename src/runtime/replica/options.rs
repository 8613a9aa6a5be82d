//! How a replica runs.

use std::time::Duration;

use crate::domain::retry::RetryPolicy;
use crate::runtime::handler::Handlers;
use crate::store::upkeep::Retention;

/// How a replica runs. Begin with [`ReplicaOptions::new`] and change fields; what is said here of defaults is what that sets.
#[derive(Clone)]
#[non_exhaustive]
pub struct ReplicaOptions {
    /// What it can run.
    pub handlers: Handlers,
    /// How many tasks it runs at once, 10 by default; with `autoscale`, at most.
    pub workers: u16,
    /// The fewest workers that it may be scaled to, 2 by default; a smaller `workers` lowers it.
    pub min_workers: u16,
    /// Whether it moves between the two by how much waits, from the fewest on; not by default.
    pub autoscale: bool,
    /// The limit of tasks that are not terminal, over all replicas, 1,000 by default; 0 is no limit. `None` leaves what is set.
    pub max_size: Option<u64>,
    /// The limit of tasks that run, over all replicas; 0, the default, is no limit. `None` leaves what is set.
    pub max_running: Option<u64>,
    /// How long a lower priority may wait before it is served out of turn; 60 s by default.
    pub max_wait: Duration,
    /// How long a reference to something unknown may wait for it; 30 s by default.
    pub reference_wait: Duration,
    /// The policy of tasks that name none; [`RetryPolicy::STANDARD`] by default.
    pub retry: RetryPolicy,
    /// How long running tasks may go on after a stop was asked for; 30 s by default.
    pub grace: Duration,
    /// From which duration on an attempt is logged as slow; 30 s by default.
    pub slow_task: Duration,
    /// How long events, ended tasks and dead letters are kept; [`Retention::default`] by default. `None` leaves that to other replicas, or to the default
    /// where there are none.
    pub retention: Option<Retention>,
    /// How often it publishes a snapshot of the statistics; 10 s by default.
    pub snapshot_interval: Duration,
    /// Whether a Redis that keeps nothing on disk is meant; else the start says aloud that it is not safe. Not by
    /// default.
    pub allow_no_persistence: bool,
}

impl ReplicaOptions {
    /// Ten workers for these handlers; everything else as in `config/default.toml`.
    #[must_use]
    pub fn new(handlers: Handlers) -> Self {
        Self {
            handlers,
            workers: 10,
            min_workers: 2,
            autoscale: false,
            max_size: Some(1000),
            max_running: Some(0),
            max_wait: Duration::from_secs(60),
            reference_wait: Duration::from_secs(30),
            retry: RetryPolicy::STANDARD,
            grace: Duration::from_secs(30),
            slow_task: Duration::from_secs(30),
            retention: Some(Retention::default()),
            snapshot_interval: Duration::from_secs(10),
            allow_no_persistence: false,
        }
    }
}
