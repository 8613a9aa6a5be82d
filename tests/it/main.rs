//! The service on a real Redis: every test starts a server of its own, and most start replicas as processes.
//!
//! A test ends with `support::history::check`, which reads the whole log and compares it with itself, with the stored
//! tasks and with the statistics.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test, and the place says enough"
)]

mod support;

mod audit;
mod bench;
mod bus_api;
mod cli;
mod docs;
mod http;
mod ingest;
mod lifecycle;
mod limits;
mod outage;
mod priority;
mod queue_api;
mod sharing;
mod shutdown;
mod takeover;
mod tour;
