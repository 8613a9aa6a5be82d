//! The service on a real Redis: every test starts a server of its own, and most start replicas as processes.
//!
//! A test ends with `support::history::check`, which reads the whole log and compares it with itself, with the stored
//! tasks and with the statistics.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test, and the place says enough"
)]

mod support;

mod bench;
mod bus_api;
mod cli;
mod dead_letters;
mod dlq;
mod docs;
mod http;
mod ingest;
mod lifecycle;
mod limits;
mod outage;
mod partitions;
mod pausing;
mod priority;
mod profiles;
mod queue_api;
mod scaling;
mod sharing;
mod shutdown;
mod snapshots;
mod takeover;
mod tour;
mod worker_pool;
