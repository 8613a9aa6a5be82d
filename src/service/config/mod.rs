//! The configuration: read from all its places, checked as a whole, each value with its source.
//!
//! Two stages. `RawConfig` is what was typed: compiled defaults below `config/default.toml`, the file that
//! `WAOOAW_ENV` names, the file of `--config`, the environment and the flags. [`Config`] is what is true: durations,
//! limits and policies that have been checked. Between the two every problem is collected, so that a start is refused
//! once and not once per mistake.
//!
//! The environment and the working directory are arguments: nothing here asks the process.

mod layers;
mod path;
mod tree;

mod raw;

mod check;
mod nearest;
mod problem;

mod handlers;
mod http;
mod redis;
mod worker_pool;

mod secret;
pub mod units;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::error::Error;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

pub use self::handlers::{HandlerConfig, HandlerKind};
pub use self::http::{HttpConfig, Role, TokenConfig, UnknownRole};
pub use self::problem::{ConfigErrors, ConfigProblem};
pub use self::redis::RedisConfig;
pub use self::secret::{Secret, SecretUrl};
pub use self::worker_pool::WorkerPoolConfig;

use self::check::{ANY_TIME, Check, SOME_TIME};
use self::layers::Layers;
use self::raw::RawConfig;
use self::tree::Tree;
use crate::domain::id::Name;
use crate::domain::retry::RetryPolicy;

/// Everything a process is told from outside. `config/default.toml` says what each value means and its unit.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Where Redis is and how to treat it.
    pub redis: RedisConfig,
    /// Where the HTTP service listens, and whom it lets in.
    pub http: HttpConfig,
    /// How a process ends.
    pub shutdown: ShutdownConfig,
    /// What is measured.
    pub metrics: MetricsConfig,
    /// What is logged.
    pub telemetry: TelemetryConfig,
    /// How much work is let in.
    pub queue: QueueConfig,
    /// How many tasks one replica runs at a time.
    pub worker_pool: WorkerPoolConfig,
    /// How failures are retried.
    pub retry: RetryConfig,
    /// How long things are kept.
    pub retention: RetentionConfig,
    /// Whether the functions that come with this program are handlers under their own names.
    pub handlers_builtin: bool,
    /// What runs a task, by the task's name.
    pub handlers: BTreeMap<Name, HandlerConfig>,
}

/// Section `shutdown`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShutdownConfig {
    /// How long running tasks may go on before they are handed back.
    pub grace: Duration,
}

/// Section `metrics`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MetricsConfig {
    /// How often each replica publishes `orchestration.metrics.snapshot`.
    pub snapshot_interval: Duration,
}

/// Section `telemetry`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TelemetryConfig {
    /// From when on a task is logged as slow.
    pub slow_task: Duration,
    /// What is logged: a level, or directives like `info,waooaw_orchestration::store=debug`.
    pub log_level: String,
    /// How a line looks.
    pub log_format: LogFormat,
    /// Where traces are sent: the address of a collector, without the path.
    pub otlp_endpoint: Option<String>,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LogFormat {
    /// For people on a terminal, else JSON.
    #[default]
    Auto,
    /// For people.
    Pretty,
    /// One JSON object per line.
    Json,
}

/// The text names no format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected `auto`, `pretty` or `json`")]
pub struct UnknownLogFormat;

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err(UnknownLogFormat),
        }
    }
}

/// Section `queue`. The two limits hold across all replicas until they are changed at run time.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct QueueConfig {
    /// The most tasks that are not yet terminal; `None` is no limit.
    pub max_size: Option<NonZeroU32>,
    /// The most tasks that run at a time; `None` is no limit.
    pub max_running: Option<NonZeroU32>,
    /// How long a task of low priority may wait before it gets every eighth turn.
    pub max_wait: Duration,
    /// How long a reference to something unknown waits for it to appear.
    pub reference_wait: Duration,
}

/// Section `retry`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RetryConfig {
    /// The policy of tasks whose trigger and handler name none.
    pub default: RetryPolicy,
}

/// Section `retention`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RetentionConfig {
    /// How long events and finished tasks are kept.
    pub age: Duration,
    /// How many events are kept per partition.
    pub max_events: NonZeroU64,
    /// How long dead letters are kept.
    pub dead_letters: Duration,
}

impl Config {
    fn checked(raw: RawConfig, check: &mut Check<'_>) -> Self {
        if let Err(error) = super::telemetry::parse_filter(&raw.telemetry.log_level) {
            let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
            check.refuse("telemetry.log_level", format!("{error}{cause}"));
        }
        let (queue, retention) = (raw.queue, raw.retention);
        Self {
            redis: RedisConfig::checked(raw.redis, check),
            http: HttpConfig::checked(raw.http, check),
            shutdown: ShutdownConfig {
                grace: check.duration("shutdown.grace", &raw.shutdown.grace, &ANY_TIME),
            },
            metrics: MetricsConfig {
                snapshot_interval: check.duration(
                    "metrics.snapshot_interval",
                    &raw.metrics.snapshot_interval,
                    &(Duration::from_millis(100)..=*SOME_TIME.end()),
                ),
            },
            telemetry: TelemetryConfig {
                slow_task: check.duration("telemetry.slow_task", &raw.telemetry.slow_task, &ANY_TIME),
                log_level: raw.telemetry.log_level,
                log_format: check
                    .parsed("telemetry.log_format", &raw.telemetry.log_format)
                    .unwrap_or_default(),
                otlp_endpoint: raw
                    .telemetry
                    .otlp_endpoint
                    .map(|endpoint| check.collector("telemetry.otlp_endpoint", endpoint)),
            },
            queue: QueueConfig {
                max_size: check.limit("queue.max_size", queue.max_size),
                max_running: check.limit("queue.max_running", queue.max_running),
                max_wait: check.duration("queue.max_wait", &queue.max_wait, &ANY_TIME),
                reference_wait: check.duration("queue.reference_wait", &queue.reference_wait, &ANY_TIME),
            },
            worker_pool: WorkerPoolConfig::checked(&raw.worker_pool, check),
            retry: RetryConfig {
                default: check.retry("retry.default", &raw.retry.default),
            },
            retention: RetentionConfig {
                age: check.duration("retention.age", &retention.age, &SOME_TIME),
                max_events: check
                    .whole("retention.max_events", retention.max_events, &(1..=i64::from(u32::MAX)))
                    .and_then(NonZeroU64::new)
                    .unwrap_or(NonZeroU64::MIN),
                dead_letters: check.duration("retention.dead_letters", &retention.dead_letters, &SOME_TIME),
            },
            handlers_builtin: raw.handlers_builtin,
            handlers: handlers::checked(raw.handlers, check),
        }
    }
}

impl Default for Config {
    /// The compiled defaults.
    fn default() -> Self {
        let layers = Layers {
            stack: vec![layers::compiled()],
            ..Layers::default()
        };
        resolve(layers, Path::new("."), 1)
            .expect("the defaults are valid, a test loads them")
            .config
    }
}

/// Where a configuration comes from.
#[derive(Debug, Clone)]
pub struct Sources<'a> {
    /// The working directory: `config/` is looked for here, and relative paths start here.
    pub directory: &'a Path,
    /// All variables of the environment.
    pub environment: &'a BTreeMap<String, String>,
    /// The file of `--config`, which must exist.
    pub file: Option<&'a Path>,
    /// What the command line says, in the order of precedence.
    pub flags: Vec<Flag>,
}

/// One value from the command line.
#[derive(Debug, Clone)]
pub struct Flag {
    /// What the user typed: `--redis-url`, or a command like `dev` that implies the value.
    pub name: &'static str,
    /// The key it sets, dotted.
    pub key: &'static str,
    /// The value.
    pub value: String,
}

/// A configuration that holds, and how it came about.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Loaded {
    /// What is true.
    pub config: Config,
    /// Every value by key, as `config check` prints it.
    pub values: Vec<EffectiveValue>,
    /// What is odd but stops nothing.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// Whether somebody chose the value of a key: it is another than the compiled one, or it stands elsewhere than in
    /// `config/default.toml`, which repeats what is compiled in.
    #[must_use]
    pub fn is_chosen(&self, key: &str) -> bool {
        let Some(value) = self.values.iter().find(|value| value.key == key) else {
            return false;
        };
        let is_default = |row: &EffectiveValue| row.key == key && row.value == value.value;
        let compiled = Tree::of(&[layers::compiled()]).rows();
        ![tree::COMPILED, layers::DEFAULT_FILE].contains(&value.source.as_str()) || !compiled.iter().any(is_default)
    }
}

/// One value in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EffectiveValue {
    /// Its key, dotted.
    pub key: String,
    /// The value as it was typed, secrets masked; empty where nothing is set.
    pub value: String,
    /// A file, a variable, a flag, or `default`.
    pub source: String,
}

/// Reads and checks the whole configuration.
///
/// # Errors
/// [`ConfigErrors`] with everything that is wrong.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, ConfigErrors> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    resolve(layers::read(sources), sources.directory, cores)
}

/// Lays the layers over each other and checks what is left, on a machine with `cores` cores.
fn resolve(layers: Layers, directory: &Path, cores: usize) -> Result<Loaded, ConfigErrors> {
    let Layers {
        stack,
        problems,
        warnings,
    } = layers;
    let tree = Tree::of(&stack);
    let mut check = Check {
        tree: &tree,
        directory,
        cores,
        problems,
        warnings,
        derived: Vec::new(),
    };
    let raw = check.typed();
    let config = Config::checked(raw, &mut check);
    if !check.problems.is_empty() {
        return Err(ConfigErrors(check.problems));
    }
    let mut values = tree.rows();
    for derived in check.derived {
        if let Some(value) = values.iter_mut().find(|value| value.key == derived.key) {
            *value = derived;
        }
    }
    Ok(Loaded {
        config,
        values,
        warnings: check.warnings,
    })
}
