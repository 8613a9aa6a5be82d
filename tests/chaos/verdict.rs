//! Whether everything is as it must be, once it is quiet again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use waooaw_orchestration::Store;
use waooaw_orchestration::domain::history;
use waooaw_orchestration::domain::id::Partition;

use super::agent::INBOX;
use super::answers;
use super::groups;
use super::load::{Asked, Record, Wish};
use super::rig::Rig;
use super::support::cli::Cli;
use super::support::clock::Clock;
use super::support::log::Log;
use super::support::oracle::{AGENT, is_of_time, lives, read};
use super::support::redis::{TestRedis, task_of};
use super::support::{history as stored, holds, wait_within};

/// How long after the last fault everything may take to come to its end: takeovers, retries, the deadlines of silent
/// connections, and a machine that is busy with other seeds.
const QUIET: Duration = Duration::from_secs(120);
/// What may be missing of what Redis took just before it ended: it flushes once a second, and puts off writing for up to
/// two when the disk is slow.
const CUT: Duration = Duration::from_millis(3500);

/// The assignments in an inbox.
const LEFT: &str = "
local left = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'event_type' and entry[2][i + 1] == 'orchestration.task.assigned' then
      left[#left + 1] = table.concat(entry[2], ' ')
    end
  end
end
return table.concat(left, ', ')";

/// What a seed came to.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) problems: Vec<String>,
    /// How many tasks there were.
    pub(crate) tasks: usize,
    /// How often things happened that show that faults had an effect.
    pub(crate) seen: BTreeMap<String, u64>,
}

/// Waits until nothing moves any more; what still hangs otherwise.
pub(crate) async fn until_quiet(rig: &mut Rig) -> Result<(), String> {
    let began = Instant::now();
    let mut open = String::new();
    let mut said = began;
    while began.elapsed() < QUIET {
        open = what_is_open(rig).await;
        if said.elapsed() > Duration::from_secs(5) {
            said = Instant::now();
            rig.journal.say(&format!("still open: {open}"));
        }
        if open.is_empty() {
            rig.journal.say("quiet");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!(
        "not quiet within {QUIET:?}: {open}{}",
        what_hangs(&rig.redis).await
    ))
}

async fn what_is_open(rig: &mut Rig) -> String {
    let mut open = String::new();
    for stream in ["waooaw:triggers", "waooaw:commands"] {
        let length: usize = rig.redis.ask(&["XLEN", stream]).await;
        let pending = rig.redis.pending(stream, "orchestrators").await;
        if length > 0 || pending > 0 {
            write!(open, "{stream}: {length} entries, {pending} pending; ").unwrap_or_default();
        }
    }
    match rig.redis.queue().await.get_statistics().await {
        Ok(statistics) if statistics.pending_count + statistics.running_count > 0 => write!(
            open,
            "{} tasks pending, {} running; ",
            statistics.pending_count, statistics.running_count
        )
        .unwrap_or_default(),
        Ok(_) => {}
        Err(error) => write!(open, "no statistics: {error}; ").unwrap_or_default(),
    }
    let known: BTreeSet<String> = rig
        .redis
        .ask::<Vec<String>>(&["HKEYS", "waooaw:{0}:beats"])
        .await
        .into_iter()
        .collect();
    let living = rig.living();
    if known != living {
        write!(open, "replicas {known:?} are known, {living:?} live; ").unwrap_or_default();
    }
    for (stream, group) in all_groups(&rig.redis).await {
        let strangers = rig.redis.consumers(&stream, group).await;
        // Agents hold what they are at, and come and go as they like.
        let is_strange = |name: &&String| !living.contains(*name) && !name.starts_with("agent:");
        if strangers.iter().any(|name| is_strange(&name)) {
            write!(open, "{stream} has consumers {strangers:?}; ").unwrap_or_default();
        }
    }
    if !rig.working.agent.is_idle() {
        open.push_str("the agent is at work; ");
    }
    let gone = rig
        .leaving
        .iter_mut()
        .filter_map(|process| process.is_alive().then_some(()))
        .count();
    if gone > 0 {
        write!(open, "{gone} replicas are still leaving; ").unwrap_or_default();
    }
    open
}

/// All streams that replicas read, with their groups.
async fn all_groups(redis: &TestRedis) -> Vec<(String, &'static str)> {
    let streams = redis.task_streams().await;
    let mut groups: Vec<(String, &str)> = streams.into_iter().map(|stream| (stream, "workers")).collect();
    for stream in ["waooaw:triggers", "waooaw:commands"] {
        groups.push((stream.to_owned(), "orchestrators"));
    }
    groups
}

/// The last that the log says of what has not ended, and where it is.
async fn what_hangs(redis: &TestRedis) -> String {
    let log = redis.log().await;
    let mut text = String::new();
    let hanging = lives(&log)
        .into_values()
        .filter(|events| !events.iter().any(|event| event.is_terminal()));
    for events in hanging.take(10) {
        if let Some(last) = events.last() {
            write!(text, "\n  {} {} {}", last.event_id, last.kind, last.payload).unwrap_or_default();
        }
    }
    for stream in redis.task_streams().await {
        let length: usize = redis.ask(&["XLEN", &stream]).await;
        if length > 0 {
            let pending = redis.pending(&stream, "workers").await;
            let consumers = redis.consumers(&stream, "workers").await;
            write!(
                text,
                "\n  {stream}: {length} entries, {pending} pending, consumers {consumers:?}"
            )
            .unwrap_or_default();
        }
    }
    let timers: Vec<String> = redis
        .ask(&["ZRANGE", "waooaw:{0}:timers", "0", "9", "WITHSCORES"])
        .await;
    let now: (u64, u64) = redis.ask(&["TIME"]).await;
    write!(text, "\n  timers {timers:?} at {now:?}").unwrap_or_default();
    text
}

/// Looks at everything. Panics where the shared check does.
pub(crate) async fn judge(rig: &mut Rig, record: &Record) -> Verdict {
    let mut verdict = Verdict::default();
    let log = rig.redis.log().await;
    verdict.problems.extend(against_the_record(rig, record, &log));
    verdict.tasks = lives(&log).len();
    verdict.seen = seen(&log);
    verdict.seen.append(&mut answers::seen(&rig.working.agent, &log));
    let is_undone = !rig.cuts.is_empty();
    verdict
        .problems
        .extend(answers::judge(&rig.working.agent, &log, is_undone));
    verdict.problems.extend(inbox(&rig.redis).await);

    let whole = whole_log(&rig.redis.store()).await;
    let by_log = history::verify(&whole);
    verdict
        .problems
        .extend(by_log.violations.iter().map(ToString::to_string));
    verdict.problems.extend(audit(&rig.redis).await);
    if verdict.problems.is_empty() {
        stored::check_all_ended(&rig.redis).await;
        verdict.problems.extend(leave(rig).await);
    }
    verdict
}

async fn whole_log(store: &Store) -> Vec<waooaw_orchestration::Event> {
    let (mut events, mut after) = (Vec::new(), "0-0".to_owned());
    loop {
        let (last, mut page) = store.read_log(Partition::default(), &after, 2000).await.unwrap();
        if last == after {
            return events;
        }
        after = last;
        events.append(&mut page);
    }
}

/// No assignment is left in the agent's inbox, and nothing that it read and did not acknowledge.
async fn inbox(redis: &TestRedis) -> Option<String> {
    let left: String = redis.ask(&["EVAL", LEFT, "1", INBOX]).await;
    let pending = redis.pending(INBOX, AGENT).await;
    (!left.is_empty() || pending > 0)
        .then(|| format!("{pending} letters are pending in the inbox, and left are: {left}"))
}

/// What the program's own checker says, as far as this version has one.
async fn audit(redis: &TestRedis) -> Option<String> {
    if Cli::new(&["audit", "verify", "--help"]).run().await.code != Some(0) {
        return None;
    }
    let ran = Cli::on(redis, &["audit", "verify"]).run().await;
    (ran.code != Some(0)).then(|| format!("audit verify: {}\n{}{}", ran.code.unwrap_or(-1), ran.out, ran.err))
}

/// Each trigger that was taken has its one task, or its rejection; each task ended as its handler must end it.
fn against_the_record(rig: &Rig, record: &Record, log: &Log<'_>) -> Vec<String> {
    let asked = record.asked.lock().unwrap();
    let mut problems = Vec::new();
    let (mut created, mut rejected) = (BTreeMap::<&str, u32>::new(), BTreeMap::<&str, u32>::new());
    for event in &log.events {
        let (counts, event_id) = match event.kind.as_str() {
            // Those of a group come with it.
            "task.created" if event.payload["key"].is_null() && event.payload["saga_id"].is_null() => {
                (&mut created, event.text("trigger_event_id"))
            }
            "workflow.started" | "saga.started" => (&mut created, event.subject.as_str()),
            "trigger.rejected" => (&mut rejected, event.text("trigger_event_id")),
            _ => continue,
        };
        *counts.entry(event_id).or_default() += 1;
    }
    for (event_id, asked) in asked.iter() {
        let created = created.remove(event_id.as_str()).unwrap_or_default();
        let rejected = rejected.remove(event_id.as_str()).unwrap_or_default();
        problems.extend(count_of(rig, event_id, asked, created, rejected));
        if let (Wish::Group(group), 1) = (&asked.wish, created) {
            let did_jump = rig.clock.as_ref().is_some_and(Clock::did_jump);
            problems.extend(groups::judge(group, event_id, log, did_jump));
        }
    }
    for unknown in created.keys().chain(rejected.keys()) {
        problems.push(format!("nobody asked for {unknown}"));
    }

    let may_have_lost = rig.may_have_lost();
    // Who finds that Redis lost its last moments begins anew under another name.
    let has_begun_anew = log.count("history.rolled_back") > 0;
    let did_jump = rig.clock.as_ref().is_some_and(Clock::did_jump);
    let lives = lives(log);
    for (event_id, asked) in asked.iter() {
        let task = task_of(event_id).to_string();
        let (Wish::Task(promise), Some(events)) = (&asked.wish, lives.get(task.as_str())) else {
            continue;
        };
        let told = read(promise, events);
        // Times tell nothing of an order when the clock that wrote them went back.
        let told_problems = told
            .problems
            .iter()
            .filter(|problem| !(did_jump && is_of_time(problem)));
        problems.extend(told_problems.map(|problem| format!("{event_id}: {problem}")));
        if told.end.is_empty() {
            problems.push(format!("{event_id} did not end"));
        }
        for replica in &told.lost_by {
            // What an agent may lose follows from its script.
            if !has_begun_anew && replica != AGENT && !may_have_lost.contains(replica) {
                problems.push(format!("{event_id} was lost by {replica}, to which nothing was done"));
            }
        }
    }
    problems
}

/// Whether a trigger was acted upon as often as it must be.
fn count_of(rig: &Rig, event_id: &str, asked: &Asked, created: u32, rejected: u32) -> Option<String> {
    // Redis may have forgotten what it took in its last moments.
    let is_doubtful = asked.accepted_at.is_some_and(|at| {
        let is_before = |cut: &Instant| {
            let frozen = rig.stood_still.iter();
            let frozen = frozen.map(|(since, until)| until.min(cut).saturating_duration_since(at.max(*since)));
            at <= *cut + Duration::from_millis(100)
                && cut.saturating_duration_since(at).saturating_sub(frozen.sum()) < CUT
        };
        rig.cuts.iter().any(is_before)
    });
    let (least, most, found, other) = match &asked.wish {
        Wish::Task(_) | Wish::Group(_) => (
            u32::from(asked.accepted > 0),
            u32::from(asked.tried > 0),
            created,
            rejected,
        ),
        // Each entry that can not be accepted is a dead letter of its own.
        Wish::Rejection => (asked.accepted, asked.tried, rejected, created),
    };
    let least = if is_doubtful { 0 } else { least };
    let is_fine = (least..=most).contains(&found) && other == 0;
    (!is_fine).then(|| {
        format!(
            "{event_id}, taken {} of {} times, was created {created} and rejected {rejected} times: {}",
            asked.accepted, asked.tried, asked.payload
        )
    })
}

/// How often the log tells of what only faults bring about.
fn seen(log: &Log<'_>) -> BTreeMap<String, u64> {
    let mut seen = BTreeMap::new();
    let mut count = |what: &str| *seen.entry(what.to_owned()).or_default() += 1;
    for event in &log.events {
        match event.kind.as_str() {
            "task.retry_scheduled" | "task.failed" if event.payload["error"]["type"] == "lost" => count("lost"),
            "task.released" => count("released"),
            "task.cancelled" => count("cancelled"),
            "task.requeued" => count("requeued"),
            "workflow.completed" | "workflow.failed" | "workflow.cancelled" => count("workflows"),
            "saga.completed" | "saga.failed" => count("sagas"),
            "saga.compensated" => count("sagas undone"),
            "task.timeout" => count("timeout"),
            "trigger.rejected" => count("rejected"),
            "history.rolled_back" => count("rolled back"),
            "worker_pool.status" if event.text("state") == "lost" => count("replicas lost"),
            _ => {}
        }
    }
    seen
}

/// All replicas end when they are asked to, and nothing of them is left.
async fn leave(rig: &mut Rig) -> Vec<String> {
    let mut problems = Vec::new();
    for process in rig.places.iter_mut().filter_map(|place| place.process.as_mut()) {
        process.signal("TERM");
    }
    for process in rig.places.iter_mut().filter_map(|place| place.process.as_mut()) {
        let status = process.ended().await;
        if !status.success() {
            problems.push(format!("a replica ended with {status} when it was asked to stop"));
        }
    }
    for (stream, group) in all_groups(&rig.redis).await {
        wait_within(Duration::from_secs(5), "no consumer is left", async || {
            let mut consumers = rig.redis.consumers(&stream, group).await;
            consumers.retain(|name| !name.starts_with("agent:"));
            holds(consumers.is_empty(), || format!("{stream}: {consumers:?}"))
        })
        .await;
    }
    problems
}
