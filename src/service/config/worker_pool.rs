//! How many tasks one replica runs at a time.

use std::num::NonZeroUsize;

use serde_json::Value as Json;

use super::EffectiveValue;
use super::check::Check;
use super::layers::DEFAULT_FILE;
use super::raw::RawWorkerPool;
use super::tree::COMPILED;

/// Section `worker_pool`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorkerPoolConfig {
    /// The most tasks at a time, agents' tasks not counted.
    pub max_workers: NonZeroUsize,
    /// How far the pool shrinks with `autoscale`; never above `max_workers`.
    pub min_workers: NonZeroUsize,
    /// Whether the pool moves between the two with the queue's depth.
    pub autoscale: bool,
}

/// The most workers that `"auto"` gives: more cores than that rarely have one replica to themselves.
const AUTO_WORKERS_MAX: usize = 10;

impl WorkerPoolConfig {
    pub(super) fn checked(raw: &RawWorkerPool, check: &mut Check<'_>) -> Self {
        const RULE: &str = "worker_pool.min_workers must be from 1 to worker_pool.max_workers";
        let (max, is_auto) = max_workers(&raw.max_workers, check);
        let min_source = check.tree.source(&"worker_pool.min_workers".into());
        let max_source = check.tree.source(&"worker_pool.max_workers".into());
        // A minimum that nobody chose for this maximum gives way to it: the sample file repeats the default, and `auto`
        // leaves the choice to the machine.
        let gives_way = is_auto || min_source == COMPILED || (min_source == DEFAULT_FILE && max_source != DEFAULT_FILE);
        let min = match usize::try_from(raw.min_workers).ok().and_then(NonZeroUsize::new) {
            Some(min) if min <= max => min,
            Some(_) if gives_way => {
                check.derived.push(EffectiveValue {
                    key: "worker_pool.min_workers".into(),
                    value: max.to_string(),
                    source: format!("{max_source}, lowered to worker_pool.max_workers"),
                });
                max
            }
            Some(_) => {
                check.refuse(
                    "worker_pool.min_workers",
                    format!("{RULE}, which is {max} ({max_source})"),
                );
                max
            }
            None => {
                check.refuse("worker_pool.min_workers", RULE);
                max
            }
        };
        Self {
            max_workers: max,
            min_workers: min,
            autoscale: raw.autoscale,
        }
    }
}

/// The maximum, and whether it was left to the machine.
fn max_workers(typed: &Json, check: &mut Check<'_>) -> (NonZeroUsize, bool) {
    const RANGE: std::ops::RangeInclusive<i64> = 1..=10_000;
    let key = "worker_pool.max_workers";
    if typed.as_str().is_some_and(|text| text.eq_ignore_ascii_case("auto")) {
        let workers = NonZeroUsize::new(check.cores.min(AUTO_WORKERS_MAX)).unwrap_or(NonZeroUsize::MIN);
        check.derived.push(EffectiveValue {
            key: key.into(),
            value: workers.to_string(),
            source: format!("{}, auto", check.tree.source(&key.into())),
        });
        return (workers, true);
    }
    let fitting = typed
        .as_i64()
        .filter(|number| RANGE.contains(number))
        .and_then(|number| usize::try_from(number).ok());
    if let Some(workers) = fitting.and_then(NonZeroUsize::new) {
        return (workers, false);
    }
    check.refuse(
        key,
        format!(
            "expected \"auto\" or a whole number from {} to {}",
            RANGE.start(),
            RANGE.end()
        ),
    );
    // The largest there is, so that no minimum is blamed for it.
    (NonZeroUsize::MAX, false)
}
