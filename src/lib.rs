//! WAOOAW Orchestration Runtime.

pub mod domain;
pub mod service;
