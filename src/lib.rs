//! WAOOAW Orchestration Runtime.

pub mod domain;
