//! The service on a real Redis: every test starts a server of its own, and most start replicas as processes.
//!
//! A test ends with `support::history::check`, which reads the whole log and compares it with itself, with the stored
//! tasks and with the statistics.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test, and the place says enough"
)]

#[allow(dead_code, reason = "the chaos program stands on it too, and needs some of it alone")]
mod support;

mod acl;
mod agents;
mod audit;
mod bench;
mod bus_api;
mod circuit;
mod cli;
mod clock;
mod command_handler;
mod crash;
mod damage;
mod dead_letters;
mod deploy;
mod detached;
mod dlq;
mod docs;
mod groups_cli;
mod handler_limits;
mod http;
mod http_api;
mod http_docs;
mod http_events;
mod http_handler;
mod http_security;
mod ingest;
mod lifecycle;
mod limits;
mod logs;
mod memory;
mod metrics;
mod network;
mod outage;
mod outside;
mod partitions;
mod pausing;
mod policies;
mod priority;
mod profiles;
mod queue_api;
mod readiness;
mod retention;
mod rollback;
mod saga_api;
mod saga_ledger;
mod saga_rules;
mod saga_speed;
mod sagas;
mod scaling;
mod sharing;
mod shutdown;
mod snapshots;
mod takeover;
mod tampering;
mod tls;
mod tour;
mod traces;
mod worker_pool;
mod workflow_api;
mod workflow_plan;
mod workflow_rules;
mod workflows;
