//! What a system weighs at one moment.

use std::fmt;

use super::support::redis::TestRedis;
use super::support::replica::ReplicaProcess;

/// By how much a figure may differ between two times of a steady load, as a part of it.
const TOLERANCE: f64 = 0.25;

/// The figures of one moment; those of replicas are of the one that has most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    keys: u64,
    redis_bytes: u64,
    replica_bytes: u64,
    files: u64,
    threads: u64,
}

/// A figure, and by how much it may differ whatever its size.
type Figure = (&'static str, fn(&Sample) -> u64, u64);

const FIGURES: [Figure; 5] = [
    ("keys of Redis", |sample| sample.keys, 200),
    ("bytes of Redis", |sample| sample.redis_bytes, 2 << 20),
    ("bytes of a replica", |sample| sample.replica_bytes, 16 << 20),
    ("open files of a replica", |sample| sample.files, 8),
    ("threads of a replica", |sample| sample.threads, 8),
];

impl Sample {
    pub(crate) async fn take(redis: &TestRedis, replicas: &[ReplicaProcess]) -> Self {
        let memory: String = redis.ask(&["INFO", "memory"]).await;
        let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:"));
        let most = |figure: fn(u32) -> u64| replicas.iter().map(|replica| figure(replica.process())).max();
        Self {
            keys: redis.ask(&["DBSIZE"]).await,
            redis_bytes: used.and_then(|used| used.trim().parse().ok()).unwrap_or_default(),
            replica_bytes: most(|process| status(process, "VmRSS:") * 1024).unwrap_or_default(),
            files: most(files).unwrap_or_default(),
            threads: most(|process| status(process, "Threads:")).unwrap_or_default(),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:6} keys  {:5} KiB in Redis  {:6} KiB, {:3} files, {:2} threads in a replica",
            self.keys,
            self.redis_bytes >> 10,
            self.replica_bytes >> 10,
            self.files,
            self.threads
        )
    }
}

/// A number out of what Linux tells of a process; 0 elsewhere.
fn status(process: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_default();
    line.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or_default()
}

fn files(process: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{process}/fd")).map_or(0, |entries| entries.count() as u64)
}

/// What weighs more in the last quarter than it did in the second, of each the median.
pub(crate) fn grown(samples: &[Sample]) -> Vec<String> {
    let quarter = samples.len() / 4;
    let (before, after) = (&samples[quarter..2 * quarter], &samples[3 * quarter..]);
    let mut problems = Vec::new();
    for (name, figure, slack) in FIGURES {
        let (before, after) = (median(before, figure), median(after, figure));
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "figures are far below 2^52"
        )]
        let bound = (before as f64 * (1.0 + TOLERANCE)) as u64 + slack;
        if after > bound {
            problems.push(format!("{name} grew from {before} to {after}"));
        }
    }
    problems
}

fn median(samples: &[Sample], figure: fn(&Sample) -> u64) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(figure).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}
