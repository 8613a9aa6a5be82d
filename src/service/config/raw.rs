//! The configuration as it was typed.
//!
//! Every key exists here once, with its default; `config/default.toml` repeats them with their meaning, and a test
//! compares the two. Types are as wide as what a file can hold, so that a value out of range is refused by name and with
//! its limits (see the sections' own files) and not by serde.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

/// All of it.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawConfig {
    pub(super) redis: RawRedis,
    pub(super) http: RawHttp,
    pub(super) shutdown: RawShutdown,
    pub(super) metrics: RawMetrics,
    pub(super) telemetry: RawTelemetry,
    pub(super) queue: RawQueue,
    pub(super) worker_pool: RawWorkerPool,
    pub(super) retry: RawRetry,
    pub(super) retention: RawRetention,
    pub(super) handlers_builtin: bool,
    pub(super) handlers: BTreeMap<String, Option<RawHandler>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawRedis {
    pub(super) url: String,
    pub(super) prefix: String,
    pub(super) partitions: i64,
    pub(super) cluster: bool,
    pub(super) ca_file: Option<String>,
    pub(super) load_functions: bool,
    pub(super) allow_no_persistence: bool,
    pub(super) connect_timeout: String,
    pub(super) response_timeout: String,
}

impl Default for RawRedis {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".into(),
            prefix: "waooaw".into(),
            partitions: 1,
            cluster: false,
            ca_file: None,
            load_functions: true,
            allow_no_persistence: false,
            connect_timeout: "2s".into(),
            response_timeout: "5s".into(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawHttp {
    pub(super) addr: String,
    pub(super) tokens: Vec<Option<RawToken>>,
    pub(super) allow_unauthenticated: bool,
}

impl Default for RawHttp {
    fn default() -> Self {
        Self {
            addr: "127.0.0.1:8001".into(),
            tokens: Vec::new(),
            allow_unauthenticated: false,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawToken {
    pub(super) token: Option<String>,
    pub(super) token_file: Option<String>,
    pub(super) role: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawShutdown {
    pub(super) grace: String,
}

impl Default for RawShutdown {
    fn default() -> Self {
        Self { grace: "30s".into() }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawMetrics {
    pub(super) snapshot_interval: String,
}

impl Default for RawMetrics {
    fn default() -> Self {
        Self {
            snapshot_interval: "10s".into(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawTelemetry {
    pub(super) slow_task: String,
    pub(super) log_level: String,
    pub(super) log_format: String,
    pub(super) otlp_endpoint: Option<String>,
}

impl Default for RawTelemetry {
    fn default() -> Self {
        Self {
            slow_task: "30s".into(),
            log_level: "info".into(),
            log_format: "auto".into(),
            otlp_endpoint: None,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawQueue {
    pub(super) max_size: i64,
    pub(super) max_running: i64,
    pub(super) max_wait: String,
    pub(super) reference_wait: String,
}

impl Default for RawQueue {
    fn default() -> Self {
        Self {
            max_size: 1000,
            max_running: 0,
            max_wait: "60s".into(),
            reference_wait: "30s".into(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawWorkerPool {
    /// A number or `"auto"`.
    pub(super) max_workers: Json,
    pub(super) min_workers: i64,
    pub(super) autoscale: bool,
}

impl Default for RawWorkerPool {
    fn default() -> Self {
        Self {
            max_workers: json!(10),
            min_workers: 2,
            autoscale: false,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawRetry {
    /// The name of a preset or a table.
    pub(super) default: Json,
}

impl Default for RawRetry {
    fn default() -> Self {
        Self {
            default: json!("STANDARD"),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawRetention {
    pub(super) age: String,
    pub(super) max_events: i64,
    pub(super) dead_letters: String,
}

impl Default for RawRetention {
    fn default() -> Self {
        Self {
            age: "24h".into(),
            max_events: 1_000_000,
            dead_letters: "30d".into(),
        }
    }
}

/// One `[handlers.<task_name>]`: the fields of every kind, none of them required before the kind is known.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawHandler {
    pub(super) kind: Option<String>,
    pub(super) queue: Option<String>,
    pub(super) timeout_seconds: Option<f64>,
    pub(super) retry: Option<Json>,
    pub(super) priority: Option<String>,
    pub(super) max_running: Option<i64>,
    pub(super) url: Option<String>,
    pub(super) headers: Option<BTreeMap<String, Option<String>>>,
    pub(super) signing_secret: Option<String>,
    pub(super) argv: Option<Vec<Option<String>>>,
    pub(super) env: Option<BTreeMap<String, Option<String>>>,
    pub(super) agent_id: Option<String>,
    pub(super) heartbeat_timeout_seconds: Option<f64>,
}
