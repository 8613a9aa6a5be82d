//! Looks at everything that a deployment stands on, says what is wrong and what to do, and mends what can be mended.
//!
//! First the server: what it is, how it keeps data, what the user may do. Then the keys: who lives, what was left behind,
//! and whether the places that must agree do, by an audit of the store without the log's past. Looking changes nothing.

mod mend;

use serde::Serialize;

use super::audit::{self, PartitionAudit, Progress, Report, Scope};
use crate::domain::history::Guarantee;
use crate::store::health::{Health, Persistence, Rights};
use crate::store::{Store, StoreError};
pub use mend::{Mended, mend};

/// A clock further away than this is worth a word.
const CLOCK_MS: i64 = 1000;
/// From this part of its limit on memory is short, in percent.
const MEMORY_PERCENT: u64 = 85;
/// A replica that was not heard of for so long counts as silent.
const SILENT_MS: i64 = 10_000;
/// How many names a message lists.
const NAMED_MAX: usize = 5;

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, and somebody should look.
    Warn,
    /// It does not work, or will lose something.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Its name, for programs.
    pub name: &'static str,
    /// What it came to.
    pub status: Status,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub advice: Option<String>,
    /// Whether `--repair` mends it.
    pub repairable: bool,
}

/// All checks.
#[derive(Debug, Clone, Serialize)]
pub struct Diagnosis {
    /// Whether none failed.
    pub ok: bool,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

/// What a repair needs to know of a diagnosis.
pub struct Findings {
    audits: Vec<PartitionAudit>,
    /// What is left of replicas that are gone, by partition.
    members: Vec<Vec<String>>,
    /// The same on the inbound streams: stream and consumer.
    readers: Vec<(String, String)>,
    misses_groups: bool,
}

/// What the configuration says about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expectations {
    /// A Redis that keeps nothing on disk is meant.
    pub allow_no_persistence: bool,
    /// Replicas load the function library themselves.
    pub load_functions: bool,
}

#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn add(&mut self, name: &'static str, status: Status, message: impl Into<String>, advice: Option<&str>) {
        self.0.push(Check {
            name,
            status,
            message: message.into(),
            advice: advice.map(str::to_owned),
            repairable: false,
        });
    }

    fn ok(&mut self, name: &'static str, message: impl Into<String>) {
        self.add(name, Status::Ok, message, None);
    }

    fn warn(&mut self, name: &'static str, message: impl Into<String>, advice: &str) {
        self.add(name, Status::Warn, message, Some(advice));
    }

    fn fail(&mut self, name: &'static str, message: impl Into<String>, advice: &str) {
        self.add(name, Status::Fail, message, Some(advice));
    }

    /// The check before is one that a repair mends.
    fn repairable(&mut self) {
        if let Some(check) = self.0.last_mut() {
            check.repairable = true;
        }
    }

    fn finish(self) -> Diagnosis {
        Diagnosis {
            ok: self.0.iter().all(|check| check.status != Status::Fail),
            checks: self.0,
        }
    }
}

/// Looks at everything.
///
/// # Errors
///
/// Any [`StoreError`] of the connection.
pub async fn examine(
    store: &Store,
    expectations: Expectations,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(Diagnosis, Findings), StoreError> {
    let mut checks = Checks::default();
    let mut findings = Findings {
        audits: Vec::new(),
        members: Vec::new(),
        readers: Vec::new(),
        misses_groups: false,
    };
    let health = store.health().await?;
    server(&mut checks, &health, expectations);
    if health.read_only().is_some() {
        // All that follows is to be asked of the primary.
        return Ok((checks.finish(), findings));
    }
    clock(&mut checks, store).await?;
    if health.too_old().is_some() || !library(&mut checks, store, expectations).await? {
        return Ok((checks.finish(), findings));
    }
    match store.rights().await {
        Ok(rights) => tell_rights(&mut checks, rights),
        Err(StoreError::NotJoined) => {}
        Err(error) => return Err(error),
    }
    if !is_set_up(store).await? {
        let message = format!("no replica has ever run under the prefix `{}`", store.keys().prefix());
        checks.warn(
            "keys",
            message,
            "start one with `waooaw serve`, or check redis.prefix and redis.url",
        );
        return Ok((checks.finish(), findings));
    }
    let wrong = streams(&mut checks, store).await?;
    groups(&mut checks, store, &mut findings, &wrong).await?;
    members(&mut checks, store, &mut findings).await?;
    let (report, audits) = audit::audit(store, Scope::Store, progress).await?;
    findings.audits = audits;
    agreement(&mut checks, &report);
    sizes(&mut checks, store, &report).await?;
    Ok((checks.finish(), findings))
}

fn server(checks: &mut Checks, health: &Health, expectations: Expectations) {
    match health.too_old() {
        Some(problem) => checks.fail("version", problem.fault(), problem.remedy()),
        None => checks.ok("version", health.version()),
    }
    match health.read_only() {
        Some(problem) => checks.fail("role", problem.fault(), problem.remedy()),
        None => checks.ok("role", "primary, takes writes"),
    }
    match health.evicts() {
        Some(problem) => checks.fail("eviction", problem.fault(), problem.remedy()),
        None if health.tells_policy() => checks.ok("eviction", "maxmemory-policy is noeviction"),
        None => checks.warn(
            "eviction",
            "could not look: INFO is not allowed",
            "see that maxmemory-policy is noeviction",
        ),
    }
    let persistence = health.persistence;
    match (health.failed_save(), persistence) {
        (Some(problem), _) => checks.fail("persistence", problem, "look at the disk and the log of redis"),
        (None, Persistence::AppendOnly) => checks.ok("persistence", "append-only file"),
        (None, Persistence::Snapshots) => checks.warn(
            "persistence",
            "snapshots only: a crash of redis undoes what came since the last one",
            "redis-cli CONFIG SET appendonly yes, and the same in its configuration file",
        ),
        (None, Persistence::Nothing) if expectations.allow_no_persistence => {
            checks.ok(
                "persistence",
                "none, and redis.allow_no_persistence says that it is meant",
            );
        }
        (None, Persistence::Nothing) => checks.warn(
            "persistence",
            "none: a restart of redis loses everything",
            "redis-cli CONFIG SET appendonly yes, and the same in its configuration file; \
             or redis.allow_no_persistence = true where that is meant",
        ),
        (None, Persistence::Unknown) => checks.warn(
            "persistence",
            "could not look: CONFIG GET is not allowed, and INFO tells of no append-only file",
            "see that the server keeps its data on disk",
        ),
    }
    let (used, limit) = health.memory();
    let text = format!("{} in use", bytes(used));
    match used.saturating_mul(100).checked_div(limit) {
        None => checks.ok("memory", format!("{text}, without a limit")),
        Some(percent) => {
            let text = format!("{text}, {percent} % of {}", bytes(limit));
            if percent >= MEMORY_PERCENT {
                let advice = "raise maxmemory, or lower retention.age or retention.max_events";
                checks.warn("memory", text, advice);
            } else {
                checks.ok("memory", text);
            }
        }
    }
}

fn bytes(count: u64) -> String {
    const MEBIBYTE: u64 = 1 << 20;
    if count < 10 * MEBIBYTE {
        format!("{} KiB", count >> 10)
    } else {
        format!("{} MiB", count / MEBIBYTE)
    }
}

async fn clock(checks: &mut Checks, store: &Store) -> Result<(), StoreError> {
    let before = jiff::Timestamp::now().as_millisecond();
    let there = store.now_ms().await?;
    let after = jiff::Timestamp::now().as_millisecond();
    // What the way there and back took is in doubt.
    let difference = if there < before {
        there - before
    } else {
        (there - after).max(0)
    };
    let text = format!(
        "redis is {} ms {} this machine",
        difference.abs(),
        if difference < 0 { "behind" } else { "ahead of" }
    );
    if difference == 0 {
        checks.ok("clock", "redis and this machine agree");
    } else if difference.abs() <= CLOCK_MS {
        checks.ok("clock", text);
    } else {
        let advice = "set both clocks by NTP; timers and times in events go by the clock of redis";
        checks.warn("clock", text, advice);
    }
    Ok(())
}

/// Whether functions can be called.
async fn library(checks: &mut Checks, store: &Store, expectations: Expectations) -> Result<bool, StoreError> {
    let own = Store::library_name();
    match store.libraries().await {
        Ok(None) => checks.ok(
            "functions",
            format!("{own}; which are loaded is not for this user to see"),
        ),
        Ok(Some(loaded)) if loaded.iter().any(|name| name == own) => {
            let others = loaded.len() - 1;
            let beside = if others > 0 {
                format!(", and {others} of other releases")
            } else {
                String::new()
            };
            checks.ok("functions", format!("{own} is loaded{beside}"));
        }
        Ok(Some(_)) if expectations.load_functions => {
            checks.ok(
                "functions",
                format!("{own} was not loaded; whoever calls first loads it"),
            );
        }
        Ok(Some(_)) => {
            checks.fail(
                "functions",
                format!("{own} is not loaded"),
                "run `waooaw functions load`",
            );
            return Ok(false);
        }
        Err(StoreError::NoFunctions) => {
            checks.fail(
                "functions",
                "the server has none",
                "install redis 7.0 or newer, or valkey",
            );
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    Ok(true)
}

fn tell_rights(checks: &mut Checks, rights: Rights) {
    match rights {
        Rights::Refused(refused) if refused.is_empty() => {
            checks.ok("rights", "the user may send every command that is needed");
        }
        Rights::Refused(mut refused) => {
            refused.dedup();
            checks.fail(
                "rights",
                format!("the user may not send {}", refused.join(", ")),
                "redis-cli ACL SETUSER <user> with + and each of them; a function that is refused half-way has half written",
            );
        }
        Rights::Unknown(problem) => checks.warn(
            "rights",
            format!("could not look: {problem}"),
            "compare with the documentation",
        ),
    }
}

async fn is_set_up(store: &Store) -> Result<bool, StoreError> {
    for partition in store.partitions() {
        match store.statistics(partition).await {
            Ok(_) => {}
            Err(StoreError::NotJoined) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Streams of tasks under whose keys something else stands.
async fn streams(checks: &mut Checks, store: &Store) -> Result<Vec<String>, StoreError> {
    let mut wrong = Vec::new();
    for partition in store.partitions() {
        wrong.extend(store.statistics(partition).await?.wrong_streams);
    }
    if wrong.is_empty() {
        checks.ok("streams", "nothing else stands under the key of a stream");
    } else {
        checks.fail(
            "streams",
            format!("no stream under the key of one, so its tasks wait: {}", named(&wrong)),
            "look what it is, redis-cli RENAME or DEL it, then `waooaw doctor --repair`",
        );
    }
    Ok(wrong)
}

async fn groups(
    checks: &mut Checks,
    store: &Store,
    findings: &mut Findings,
    wrong: &[String],
) -> Result<(), StoreError> {
    let mut missing = Vec::new();
    for stream in [store.keys().triggers(), store.keys().commands()] {
        if store.inbound_holders(&stream).await?.is_none() {
            missing.push(stream);
        }
    }
    for partition in store.partitions() {
        for stream in store.task_streams(partition).await? {
            let key = store.keys().behind(partition, &stream);
            let is_missing = store.task_holders(partition, &stream).await?.is_none() && stream.starts_with("queue:");
            if is_missing && !wrong.contains(&key) {
                missing.push(key);
            }
        }
    }
    if missing.is_empty() {
        checks.ok("groups", "every stream has its group");
        return Ok(());
    }
    findings.misses_groups = true;
    checks.fail(
        "groups",
        format!("no group on {}", named(&missing)),
        "`waooaw doctor --repair` makes them",
    );
    checks.repairable();
    Ok(())
}

/// The first of some names, and how many more there are.
fn named(names: &[String]) -> String {
    let first = names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// Who lives, who fell silent, and what is left of those that are gone.
async fn members(checks: &mut Checks, store: &Store, findings: &mut Findings) -> Result<(), StoreError> {
    let now_ms = store.now_ms().await?;
    let (mut living, mut silent, mut orphans) = (Vec::new(), Vec::new(), Vec::new());
    // Before the replicas: one that joins meanwhile is known before it reads.
    let mut readers = Vec::new();
    for stream in [store.keys().triggers(), store.keys().commands()] {
        let consumers = store.inbound_consumers(&stream).await?;
        readers.extend(consumers.into_iter().map(|consumer| (stream.clone(), consumer)));
    }
    for partition in store.partitions() {
        let statistics = store.statistics(partition).await?;
        let mut known = Vec::new();
        for (id, fields) in &statistics.replicas {
            let field = |name: &str| {
                let found = fields.iter().find(|(known, _)| known == name);
                found.and_then(|(_, value)| value.parse::<i64>().ok())
            };
            known.push(id.clone());
            if now_ms - field("seen_ms").unwrap_or(now_ms) > SILENT_MS {
                silent.push(id.clone());
            } else {
                living.push(id.clone());
            }
        }
        let mut gone: std::collections::BTreeSet<String> = store.scan_members(partition).await?.into_iter().collect();
        let mut holds = 0;
        for stream in store.task_streams(partition).await? {
            for (consumer, held) in store.task_holders(partition, &stream).await?.unwrap_or_default() {
                if !known.contains(&consumer) && !consumer.starts_with("agent:") {
                    holds += held;
                    gone.insert(consumer);
                }
            }
        }
        gone.retain(|id| !known.contains(id));
        readers.retain(|(_, consumer)| !known.contains(consumer));
        // What an operator's own events are numbered by stays for a while and is no orphan.
        let counters = store.only_numbers(partition, &gone).await?;
        gone.retain(|id| !counters.contains(id));
        if holds > 0 {
            silent.push(format!(
                "{} consumers without a beat, which hold {holds} entries",
                gone.len()
            ));
        }
        orphans.extend(gone.iter().cloned());
        findings.members.push(gone.into_iter().collect());
    }
    orphans.extend(readers.iter().map(|(_, consumer)| consumer.clone()));
    orphans.sort_unstable();
    orphans.dedup();
    findings.readers = readers;
    living.sort_unstable();
    living.dedup();
    silent.sort_unstable();
    silent.dedup();
    if living.is_empty() {
        checks.warn(
            "replicas",
            "none lives, so nothing runs",
            "start one with `waooaw serve`",
        );
    } else {
        checks.ok("replicas", format!("{} live: {}", living.len(), named(&living)));
    }
    if !silent.is_empty() {
        checks.warn(
            "silent",
            format!("silent: {}", named(&silent)),
            "a living replica takes their tasks back within about ten seconds; if none lives, start one",
        );
    }
    if orphans.is_empty() {
        checks.ok("consumers", "nothing is left of replicas that are gone");
    } else {
        let message = format!("left of replicas that are gone: {}", named(&orphans));
        checks.warn(
            "consumers",
            message,
            "`waooaw doctor --repair` removes what holds nothing",
        );
        checks.repairable();
    }
    Ok(())
}

/// What the audit of the store found, guarantee by guarantee.
fn agreement(checks: &mut Checks, report: &Report) {
    let kinds = [
        ("places", Guarantee::Places, "what waits stands where it should"),
        ("owners", Guarantee::Owners, "what runs is held by its owner"),
        (
            "dependencies",
            Guarantee::Dependencies,
            "what is blocked waits for something",
        ),
        (
            "records",
            Guarantee::StoredState,
            "records agree with the events that came meanwhile",
        ),
        ("counters", Guarantee::Counters, "counters are what counting anew gives"),
        ("dead_letters", Guarantee::DeadLetters, "every dead letter has its copy"),
    ];
    for (name, guarantee, fine) in kinds {
        let count = report
            .guarantees
            .iter()
            .find(|verdict| verdict.name == guarantee)
            .map_or(0, |verdict| verdict.violations);
        if count == 0 {
            checks.ok(name, fine);
            continue;
        }
        let found: Vec<String> = report
            .violations
            .iter()
            .filter(|finding| finding.guarantee == guarantee)
            .take(NAMED_MAX)
            .map(|finding| format!("{}: {}", finding.subject, finding.message))
            .collect();
        let more = count.saturating_sub(found.len() as u64);
        let rest = if more > 0 {
            format!("; and {more} more")
        } else {
            String::new()
        };
        let message = format!("{}{rest}", found.join("; "));
        if guarantee == Guarantee::StoredState {
            checks.fail(
                name,
                message,
                "`waooaw audit verify` tells all; this can not be mended by itself",
            );
        } else {
            checks.fail(name, message, "`waooaw doctor --repair` mends it");
            checks.repairable();
        }
    }
}

async fn sizes(checks: &mut Checks, store: &Store, report: &Report) -> Result<(), StoreError> {
    let (mut events, mut letters) = (0, 0);
    for partition in store.partitions() {
        events += store.stream_length(&store.keys().events(partition)).await?;
        letters += store.statistics(partition).await?.dead_letters;
    }
    let motion = report.in_motion;
    checks.ok(
        "sizes",
        format!(
            "{events} events, {} tasks wait, {} run, {} triggers and {} commands unread",
            motion.pending, motion.running, motion.triggers, motion.commands
        ),
    );
    if letters == 0 {
        checks.ok("dead_letter_count", "no dead letters");
    } else {
        checks.ok("dead_letter_count", format!("{letters} dead letters"));
    }
    Ok(())
}
