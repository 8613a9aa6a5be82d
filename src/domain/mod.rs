//! The rules, and nothing else.
//!
//! What a task is, which moves its state allows, how long a retry waits, what an event on the bus must look like.
//! Everything here is pure: no async, no Redis, no clock and no randomness. Time and chance come in as arguments, so
//! every rule can be tested as a table. Every other ring imports this one; this one imports none.

pub mod digest;
pub mod histogram;
pub mod id;
pub mod netstring;
pub mod priority;
pub mod state;

pub mod circuit;
pub mod retry;
pub mod rfc3339;

pub mod address;

pub mod dead_letter;
pub mod rejection;

pub mod envelope;
mod parts;
mod trace_context;

pub mod command;
pub mod inbound;
pub mod saga;
pub mod saga_state;
pub mod trigger;
pub mod worker;
pub mod workflow;
pub mod workflow_state;

mod task_fields;

pub mod graph;
pub mod plan;

mod layers;
mod links;

mod object;
mod payload;

pub mod schema;

pub mod event;
pub mod history;

pub mod model;
