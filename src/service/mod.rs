//! What surrounds the runtime in a process: its configuration and its log.
//!
//! Only this ring and the binary read files, environment and arguments. The rings below get values that are already
//! checked; this one names no key in Redis.

pub mod asyncapi;
pub mod config;
mod http;
mod log_lines;
pub mod telemetry;
pub mod traces;
pub mod wiring;

pub use http::openapi;
