//! The model and a real partition side by side: every call goes to both, and everything is compared after each.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use redis::Value;
use redis::aio::MultiplexedConnection;
use waooaw_orchestration::domain::dead_letter::DeadLetterId;
use waooaw_orchestration::domain::event::Event;
use waooaw_orchestration::domain::id::{Partition, ReplicaId, TaskId};
use waooaw_orchestration::domain::model::{
    self, Appetite, Fact, Home, Lane, LaneKey, Model, ModelEvent, NewTask, Op, Outcome, Place, Reply, Started, Word,
};
use waooaw_orchestration::domain::priority::Priority;
use waooaw_orchestration::domain::retry::RetryPolicy;
use waooaw_orchestration::domain::rfc3339::parse_ms;
use waooaw_orchestration::domain::state::TaskState;
use waooaw_orchestration::domain::trigger::{Start, TaskTrigger};
use waooaw_orchestration::store::agents::{self, Answer, Answered};
use waooaw_orchestration::store::dead_letters::{Operator, Removal, Removed, Requeue, RequeuedTask};
use waooaw_orchestration::store::functions::{self as real, Beat, BeatReply, Claimed, Joining, Takeover};
use waooaw_orchestration::store::letter_listing::DeadLetterQuery;
use waooaw_orchestration::store::operate::Limits;
use waooaw_orchestration::store::record::{self, Owner, Record};
use waooaw_orchestration::store::upkeep::Retention;
use waooaw_orchestration::{Endpoint, Store};

use crate::inboxes;
use crate::server::Server;
use crate::steps::{Step, TASKS, prologue, task_id};

const LOOK: &str = include_str!("look.lua");
/// Moves all that is timed into the past.
const ELAPSE: &str = include_str!("elapse.lua");
/// How far Redis and the model may differ about when something is due that counts from a time which Redis takes itself. All
/// that anybody waits for takes much longer.
const TOLERANCE_MS: i64 = 5_000;
/// Somebody looks at the timers more often than that.
const LOOK_GAP: Duration = Duration::from_millis(2_500);
/// How long nobody looked.
const GAP_MS: i64 = 10_000;
/// Every key of the partition as Redis would save it.
const DUMP: &str = "local found = redis.call('KEYS', ARGV[1] .. '*') table.sort(found) local dump = {} \
                    for i, key in ipairs(found) do dump[i] = { key, redis.call('DUMP', key) } end return dump";
/// How far the clock of Redis goes back in a step: less than any delay, so that what is due is not told by it.
const CLOCK_BACK_MS: i64 = 300_000;
/// Longer ago than anything.
const LONG: Duration = Duration::from_secs(1_000_000_000);
/// The workflow of every other task.
const FLOW: &str = "flow";
const ERROR: &str = r#"{"type":"Broken","message":"\"no\" \\ luck"}"#;
/// Where the time of its queue entry stands in a record's header.
const ENTRY_MS: std::ops::Range<usize> = 20..26;
/// And its place among those of the same millisecond.
const ENTRY_SEQ: std::ops::Range<usize> = 26..30;

/// What went wrong, for a person.
pub(crate) type Outcry = String;

/// Holds the state that Redis has against that of the model, line by line.
pub(crate) fn same_state(found: &BTreeSet<String>, expected: &BTreeSet<String>) -> Result<(), Outcry> {
    if found == expected {
        return Ok(());
    }
    let only = |these: &BTreeSet<String>, those: &BTreeSet<String>| {
        let lines: Vec<_> = these.difference(those).map(|line| format!("    {line}")).collect();
        lines.join("\n")
    };
    Err(format!(
        "state\n  only redis\n{}\n  only model\n{}",
        only(found, expected),
        only(expected, found)
    ))
}

pub(crate) struct World {
    pub(crate) model: Model,
    store: Store,
    raw: MultiplexedConnection,
    partition: Partition,
    /// What the partition's keys begin with.
    prefix: String,
    /// How far the model's time is ahead of that of Redis.
    shift_ms: i64,
    last_event: String,
    last_call: Option<(ReplicaId, Op)>,
    /// The id of a forged entry that was just written.
    stray: Option<String>,
    /// How many were written.
    strays: u64,
    /// Nobody has noticed yet that the clock went back.
    is_clock_back: bool,
    /// By how much it was found gone back.
    went_back_ms: i64,
    /// When somebody looked at the timers last, by a clock of our own.
    looked: Option<Instant>,
}

impl World {
    /// An empty partition under a prefix of its own.
    pub(crate) async fn new(server: &Server, prefix: &str) -> Self {
        let mut endpoint = Endpoint::new(&server.url());
        endpoint.prefix = prefix.to_owned();
        endpoint.response_timeout = std::time::Duration::from_secs(60);
        Self {
            model: Model::default(),
            store: Store::new(endpoint).unwrap(),
            raw: server.connect().await.unwrap(),
            partition: Partition::default(),
            prefix: format!("{prefix}:{{0}}:"),
            shift_ms: 0,
            last_event: "0".to_owned(),
            last_call: None,
            stray: None,
            strays: 0,
            is_clock_back: false,
            went_back_ms: 0,
            looked: None,
        }
    }

    /// Takes all steps, from an empty partition on.
    pub(crate) async fn run(server: &Server, prefix: &str, steps: &[Step]) -> Result<(), Outcry> {
        let mut world = Self::new(server, prefix).await;
        let mut calls = Vec::new();
        for step in prologue().iter().chain(steps) {
            if let Step::Elapse { hour } = step {
                world.elapse(if *hour { 3_600_000 } else { 600_000 }).await;
                continue;
            }
            if let Step::ClockBack = step {
                world.turn_clock_back().await;
                continue;
            }
            if let Step::Gap = step {
                world.look_away().await;
                continue;
            }
            let next = step.resolve(&world.model, world.shift_ms);
            let Some((by, op)) = next.or_else(|| world.last_call.clone()) else {
                continue;
            };
            calls.push(format!("{by} {op:?}"));
            world.apply(by, &op).await.map_err(|outcry| story(&calls, &outcry))?;
            world.last_call = Some((by, op));
        }
        Ok(())
    }

    /// Calls both sides and compares.
    pub(crate) async fn apply(&mut self, by: ReplicaId, op: &Op) -> Result<Reply, Outcry> {
        let before_ms = self.now_ms().await;
        let found = self.call(by, op).await?;
        let events = self.store.events_after(self.partition, &self.last_event, 10_000).await;
        let events = events.map_err(|error| format!("{error:?}"))?;
        // What the call took for the time is written in its events.
        let now_ms = events
            .first()
            .and_then(|event| parse_ms(&event.timestamp))
            .unwrap_or(before_ms);
        if let Some(event) = events.last() {
            self.last_event.clone_from(&event.entry_id);
        }

        if matches!(op, Op::Promote { .. }) {
            let was_back = self.is_clock_back;
            self.follow_clock().await?;
            let asleep_ms = self.asleep_ms().await;
            self.model.looked(asleep_ms);
            // A machine that stands still for a while makes a gap of its own.
            let looked = self.looked.replace(Instant::now());
            if looked.is_some_and(|looked| looked.elapsed() > LOOK_GAP) && !was_back {
                self.model.nobody_looks(true);
            }
        }
        let (expected, expected_events) = self.model.apply(by, op, now_ms + self.shift_ms);

        let numbers = |id: String| {
            let (ms, seq) = id.split_once('-')?;
            Some((ms.parse().ok()?, seq.parse().ok()?))
        };
        if let Some((ms, seq)) = self.stray.take().and_then(numbers) {
            let waiting = self.model.lanes().values().flat_map(|lane| &lane.waiting);
            let newest = waiting.map(|entry| entry.number).max().unwrap_or_default();
            self.model.entered(newest, ms, seq);
        }
        let is_alike = match (&found, &expected) {
            // The time to the next differs by what passed since `now_ms` was asked for.
            (Reply::Promoted(found, next, late), Reply::Promoted(expected, expected_next, expected_late)) => {
                let gap_ms = next.unwrap_or(-1) - expected_next.unwrap_or(-1);
                (found, late) == (expected, expected_late)
                    && next.is_some() == expected_next.is_some()
                    && gap_ms.abs() < 60_000
            }
            (found, expected) => found == expected,
        };
        if !is_alike {
            return Err(format!("reply\n  redis {found:?}\n  model {expected:?}"));
        }
        self.compare_events(&events, &expected_events)?;
        self.compare_state().await?;
        Ok(found)
    }

    /// Every key of the partition with its content.
    pub(crate) async fn dump(&mut self) -> Vec<(String, Vec<u8>)> {
        self.now_ms().await;
        let mut eval = redis::cmd("EVAL");
        eval.arg(DUMP).arg(0).arg(&self.prefix);
        eval.query_async(&mut self.raw).await.unwrap()
    }

    /// The time in Redis. Forgets on the way that nothing was overdue, which functions believe for a moment.
    async fn now_ms(&mut self) -> i64 {
        let mut pipeline = redis::pipe();
        pipeline.hdel(format!("{}meta", self.prefix), "overdue_ms").ignore();
        pipeline.cmd("TIME");
        let ((seconds, micros),): ((i64, i64),) = pipeline.query_async(&mut self.raw).await.unwrap();
        seconds * 1000 + micros / 1000
    }

    /// Has Redis believe that its clock went back.
    async fn turn_clock_back(&mut self) {
        let seen = self.now_ms().await + CLOCK_BACK_MS;
        let mut set = redis::cmd("HSET");
        set.arg(format!("{}meta", self.prefix)).arg("clock_ms").arg(seen);
        set.query_async::<()>(&mut self.raw).await.unwrap();
        self.is_clock_back = true;
        self.model.nobody_looks(false);
    }

    /// Has Redis believe that nobody has looked at the timers for a while.
    async fn look_away(&mut self) {
        let seen = self.now_ms().await - GAP_MS;
        let mut set = redis::cmd("HSET");
        set.arg(format!("{}meta", self.prefix)).arg("clock_ms").arg(seen);
        set.arg("looked_ms").arg(seen);
        set.query_async::<()>(&mut self.raw).await.unwrap();
        self.is_clock_back = false;
        self.model.nobody_looks(true);
        self.model.nobody_looked_for(GAP_MS);
    }

    /// For how long nobody looked, as Redis has it.
    async fn asleep_ms(&mut self) -> i64 {
        let mut get = redis::cmd("HGET");
        get.arg(format!("{}meta", self.prefix)).arg("asleep_ms");
        let found: Option<i64> = get.query_async(&mut self.raw).await.unwrap();
        found.unwrap_or_default()
    }

    /// Tells the model by how much Redis found its clock gone back.
    async fn follow_clock(&mut self) -> Result<(), Outcry> {
        let horizon = self.store.horizon(self.partition).await;
        let went_back_ms = i64::try_from(horizon.map_err(|error| format!("{error:?}"))?.went_back_ms).unwrap();
        let by_ms = went_back_ms - std::mem::replace(&mut self.went_back_ms, went_back_ms);
        let expected = if std::mem::take(&mut self.is_clock_back) {
            CLOCK_BACK_MS - 60_000..=CLOCK_BACK_MS
        } else {
            0..=0
        };
        if !expected.contains(&by_ms) {
            return Err(format!("the clock went back by {by_ms} ms, not {expected:?}"));
        }
        self.model.clock_went_back(by_ms);
        Ok(())
    }

    async fn elapse(&mut self, ms: i64) {
        let mut eval = redis::cmd("EVAL");
        eval.arg(ELAPSE).arg(2);
        eval.arg(format!("{}timers", self.prefix))
            .arg(format!("{}handlers", self.prefix))
            .arg(ms)
            .arg(&self.prefix);
        for id in self.model.desks().keys() {
            eval.arg(id.to_string());
        }
        eval.query_async::<()>(&mut self.raw).await.unwrap();
        self.shift_ms += ms;
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each function")]
    async fn call(&mut self, by: ReplicaId, op: &Op) -> Result<Reply, Outcry> {
        let (store, partition) = (&self.store, self.partition);
        let said = |error| format!("{op:?} failed: {error:?}");
        Ok(match op {
            Op::Join {
                max_size,
                max_running,
                workers,
                announce,
                names,
                limits,
                agents,
            } => {
                let limits = limits.iter();
                let limits = limits
                    .map(|(name, most)| {
                        (
                            name.to_string(),
                            NonZeroU32::new(u32::try_from(*most).unwrap()).unwrap(),
                        )
                    })
                    .collect();
                let mut task_names: Vec<String> = names.iter().map(ToString::to_string).collect();
                task_names.extend(agents.iter().map(|(name, route)| {
                    let (agent, silence_ms, timeout_ms) = (&route.agent, route.silence_ms, route.timeout_ms);
                    format!("{name} {agent} {silence_ms} {timeout_ms}")
                }));
                let joining = Joining {
                    max_size: *max_size,
                    max_running: *max_running,
                    workers: *workers,
                    started_at: "2026-01-01T00:00:00.000Z",
                    announce: *announce,
                    task_names: &task_names,
                    limits: &limits,
                };
                store.join(partition, by, &joining).await.map_err(said)?;
                Reply::Done
            }
            Op::Create {
                check_names,
                tasks,
                appetite,
            } => {
                let tasks: Vec<_> = tasks.iter().map(|new| self.real_task(new)).collect();
                let appetite = real_appetite(appetite);
                let asker = if *check_names {
                    real::Asker::Caller
                } else {
                    real::Asker::Program
                };
                let (words, claimed) = store
                    .create(partition, by, asker, &appetite, &tasks)
                    .await
                    .map_err(said)?;
                let words = words.into_iter().map(|word| match word {
                    real::Created::Ok => Word::Ok,
                    real::Created::Duplicate => Word::Duplicate,
                    real::Created::Unknown => Word::Unknown,
                    real::Created::Full => Word::Full,
                    real::Created::MemoryShort => unreachable!("nobody says that memory is short"),
                    real::Created::TooManyQueues => unreachable!("the tests name fewer queues than there may be"),
                    real::Created::Unresolved(_) | real::Created::KeyTaken | real::Created::Ended => {
                        unreachable!("no task has to do with another")
                    }
                });
                Reply::Words(words.collect(), Self::started(claimed)?)
            }
            Op::Claim(appetite) => {
                let (claimed, _) = store
                    .claim(partition, by, &real_appetite(appetite))
                    .await
                    .map_err(said)?;
                Reply::Words(Vec::new(), Self::started(claimed)?)
            }
            Op::Settle { settlements, appetite } => {
                let settlements: Vec<_> = settlements
                    .iter()
                    .map(|one| real::Settlement {
                        task_id: one.task,
                        attempt: one.attempt,
                        outcome: real_outcome(one.outcome),
                    })
                    .collect();
                let appetite = real_appetite(appetite);
                let (words, claimed) = store
                    .settle(partition, by, &appetite, &settlements)
                    .await
                    .map_err(said)?;
                let words = words.into_iter().map(|word| match word {
                    real::Settled::Ok => Word::Ok,
                    real::Settled::Retry => Word::Retry,
                    real::Settled::Duplicate => Word::Duplicate,
                    real::Settled::Stale => Word::Stale,
                    real::Settled::Missing => Word::Missing,
                });
                Reply::Words(words.collect(), Self::started(claimed)?)
            }
            Op::Cancel { cause, tasks } => {
                let words = store
                    .cancel(partition, by, cause.as_deref(), None, tasks)
                    .await
                    .map_err(said)?;
                let words = words.into_iter().map(|word| match word {
                    real::Cancelled::Ok => Word::Ok,
                    real::Cancelled::Terminal => Word::Terminal,
                    real::Cancelled::Missing => Word::Missing,
                });
                Reply::Words(words.collect(), Vec::new())
            }
            Op::Promote { limit } => {
                let limit = u32::try_from(*limit).unwrap();
                let promoted = store.promote(partition, by, limit).await.map_err(said)?;
                Reply::Promoted(
                    usize::try_from(promoted.count).unwrap(),
                    promoted.next_ms.map(|next_ms| i64::try_from(next_ms).unwrap()),
                    promoted.expired,
                )
            }
            Op::Answer(sayings) => {
                let answers: Vec<Answer> = sayings
                    .iter()
                    .map(|saying| inboxes::answer(saying, real_outcome))
                    .collect();
                let words = store.answer(partition, by, &answers).await.map_err(said)?;
                let words = words.into_iter().map(|verdict| match verdict.word {
                    Answered::Ok => Word::Ok,
                    Answered::Retry => Word::Retry,
                    Answered::Duplicate => Word::Duplicate,
                    Answered::Stale => Word::Stale,
                    Answered::Other => Word::Other,
                    Answered::Terminal => Word::Terminal,
                    Answered::Missing => Word::Missing,
                    Answered::Early => Word::Early,
                });
                Reply::Words(words.collect(), Vec::new())
            }
            Op::Lend(loan) => {
                let wanted = agents::Loan {
                    agent: &loan.agent,
                    queue: &loan.queue,
                    max: loan.max,
                    silence_ms: u64::try_from(loan.silence_ms).unwrap(),
                    max_wait_ms: 300_000_000_000,
                    reads_inbox: loan.reads_inbox,
                    task_names: loan.names.as_deref().unwrap_or_default(),
                };
                let lent = store.lend(partition, by, &wanted).await.map_err(said)?;
                let assigned = lent.assignments.iter().map(|payload| inboxes::attempt_in(payload));
                Reply::Lent(Self::started(lent.tasks)?, assigned.collect())
            }
            Op::Read {
                agent,
                process,
                count,
                again,
                acknowledges,
            } => {
                let inbox = format!("{}agent:{agent}", self.prefix);
                let mut raw = self.raw.clone();
                let reading = (agent, process.as_str(), *count, *again, *acknowledges);
                Reply::Read(inboxes::read(&mut raw, &inbox, reading).await?)
            }
            Op::Beat {
                number,
                workers,
                looks,
                renew_names,
                held,
            } => {
                let beat = Beat {
                    number: *number,
                    since_ms: looks.then_some(0),
                    workers: *workers,
                    renew_names: *renew_names,
                    held: held.clone(),
                    ..Beat::default()
                };
                match store.beat(partition, by, &beat).await.map_err(said)? {
                    BeatReply::Ok { gone, lost } => Reply::Beaten {
                        gone,
                        lost: Self::started(lost)?,
                    },
                    BeatReply::Stranger => Reply::Stranger,
                }
            }
            Op::Takeover { victim, seen, limit } => {
                let limit = u32::try_from(*limit).unwrap();
                let answer = store.takeover(partition, by, victim.as_str(), seen, limit).await;
                match answer.map_err(said)? {
                    Takeover::Ok(moved, is_done) => Reply::TakenOver(usize::try_from(moved).unwrap(), is_done),
                    Takeover::Alive => Reply::Alive,
                }
            }
            Op::Leave { announce } => {
                let has_left = store.leave(partition, by, *announce).await.map_err(said)?;
                if has_left { Reply::Left } else { Reply::Busy }
            }
            Op::SetLimits { max_size, max_running } => {
                let limits = Limits {
                    max_size: *max_size,
                    max_running: *max_running,
                };
                let has_changed = store.set_limits(partition, &operator(by), None, limits).await;
                Reply::Words(vec![news(has_changed.map_err(said)?)], Vec::new())
            }
            Op::Pause { queue, is_paused } => {
                let has_changed = store.set_paused(partition, &operator(by), queue, *is_paused).await;
                Reply::Words(vec![news(has_changed.map_err(said)?)], Vec::new())
            }
            Op::Trim {
                everything,
                max_events,
                limit,
            } => {
                let retention = Retention {
                    age: if *everything { Duration::ZERO } else { LONG },
                    max_events: *max_events as u64,
                    dead_letters: LONG,
                };
                let limit = u32::try_from(*limit).unwrap();
                match store
                    .trim(partition, by, Some(&retention), limit, false)
                    .await
                    .map_err(said)?
                {
                    None => Reply::Stranger,
                    Some(trimmed) => Reply::Trimmed(
                        usize::try_from(trimmed.events).unwrap(),
                        usize::try_from(trimmed.tasks).unwrap(),
                        trimmed.is_more,
                    ),
                }
            }
            Op::Circuit { name, is_open } => {
                let pause = is_open.then_some(std::time::Duration::from_secs(9));
                let answer = store.set_circuit(partition, by, name.as_str(), pause).await;
                match answer.map_err(said)? {
                    real::Paused::Ok => Reply::Done,
                    real::Paused::Stranger => Reply::Stranger,
                    real::Paused::Unknown => Reply::Unregistered,
                }
            }
            Op::Trial { name, slot } => {
                let claimed = store.claim_trial(partition, by, *slot, name.as_str()).await;
                Reply::Words(Vec::new(), Self::started(claimed.map_err(said)?.into_iter().collect())?)
            }
            Op::Requeue { letters, max_retries } => {
                let ids: Vec<DeadLetterId> = letters
                    .iter()
                    .map(|(task, attempt)| DeadLetterId::Task(*task, *attempt))
                    .collect();
                let mut requeues = Vec::new();
                for (id, letter) in ids.iter().zip(store.letters(&ids).await.map_err(said)?) {
                    // Another policy changes the body too.
                    let policy = max_retries.map(|count| {
                        let mut policy = RetryPolicy::QUICK;
                        policy.max_retries = count;
                        policy
                    });
                    let body = letter
                        .zip(policy)
                        .map(|(letter, policy)| letter.body_with(policy).unwrap());
                    requeues.push(Requeue {
                        letter: *id,
                        body,
                        max_retries: *max_retries,
                    });
                }
                let words = store.requeue(partition, &operator(by), &requeues).await.map_err(said)?;
                let words = words.into_iter().map(|word| match word {
                    RequeuedTask::Ok(life) => (Word::Ok, Some(life)),
                    RequeuedTask::Duplicate(life) => (Word::Duplicate, Some(life)),
                    RequeuedTask::Illegal(_) => (Word::Illegal, None),
                    RequeuedTask::Missing => (Word::Missing, None),
                    other @ (RequeuedTask::Saga | RequeuedTask::InputsGone | RequeuedTask::Other(_)) => {
                        unreachable!("{other:?} of a task")
                    }
                });
                Reply::Lives(words.collect())
            }
            Op::Discard { letters } => {
                let ids: Vec<DeadLetterId> = letters
                    .iter()
                    .map(|(task, attempt)| DeadLetterId::Task(*task, *attempt))
                    .collect();
                let words = store
                    .remove_dead_letters(partition, &operator(by), Removal::Discard, &ids)
                    .await;
                let words = words.map_err(said)?.into_iter().map(|word| match word {
                    Removed::Ok => Word::Ok,
                    Removed::Missing => Word::Missing,
                    Removed::Duplicate => unreachable!("no trigger was put back"),
                });
                Reply::Words(words.collect(), Vec::new())
            }
            Op::Stray { queue, priority, task } => {
                // The functions know a task's entry by its id, not by its stream, so a forged one in another stream
                // passes for it when both are the first of the same millisecond. Nothing but luck makes that happen.
                self.strays += 1;
                let key = self.store.keys().queue(partition, queue, *priority);
                let now_ms = self.now_ms().await;
                let id = format!("{now_ms}-{}", 1_000_000 * self.strays);
                let mut add = redis::cmd("XADD");
                add.arg(key).arg(id).arg("t").arg(task.to_string());
                self.stray = Some(add.query_async::<String>(&mut self.raw).await.unwrap());
                // What a function numbers within the same millisecond would stand before it, and is to come behind.
                while self.now_ms().await <= now_ms {}
                Reply::Done
            }
        })
    }

    fn real_task(&self, new: &NewTask) -> record::NewTask {
        let mut trigger = TaskTrigger::new(new.name.clone());
        trigger.agent_id.clone_from(&new.agent);
        trigger.start = match new.start {
            Start::At(due_ms) => Start::At(due_ms - self.shift_ms),
            start @ (Start::Now | Start::After(_)) => start,
        };
        // A large record is changed in place, a small one rewritten.
        if new.max_retries % 2 == 1 {
            trigger.metadata = serde_json::value::to_raw_value(&[("big", "x".repeat(3000))]).unwrap();
        }
        let mut retry = RetryPolicy::STANDARD;
        retry.max_retries = new.max_retries;
        record::NewTask {
            id: new.id,
            trigger,
            event_id: new.event_id.clone(),
            correlation_id: correlation_of(new.id),
            trace: None,
            saga: None,
            workflow_id: is_in_flow(new.id).then(|| FLOW.parse().unwrap()),
            retry,
            queue: new.queue.clone(),
            priority: new.priority,
            #[allow(clippy::cast_precision_loss, reason = "no timeout of a test is that long")]
            timeout_seconds: new.timeout_ms.map(|timeout_ms| timeout_ms as f64 / 1000.0),
        }
    }

    fn started(claimed: Vec<Claimed>) -> Result<Vec<Started>, Outcry> {
        let one = |claimed: Claimed| {
            let record = Record::parse(claimed.task_id, &claimed.record)
                .map_err(|error| format!("{} was given with {error}", claimed.task_id))?;
            Ok(Started {
                task: claimed.task_id,
                attempt: claimed.attempt,
                slot: claimed.slot,
                retries: record.retry_count,
                max_retries: record.max_retries,
            })
        };
        claimed.into_iter().map(one).collect()
    }

    // --- events ---

    fn compare_events(&self, found: &[Event], expected: &[ModelEvent]) -> Result<(), Outcry> {
        for (found, expected) in found.iter().zip(expected) {
            let problems = self.differences(found, expected);
            if !problems.is_empty() {
                return Err(format!("event {expected}: {}\n  redis {found:?}", problems.join("; ")));
            }
        }
        if found.len() == expected.len() {
            return Ok(());
        }
        let found: Vec<_> = found
            .iter()
            .map(|event| format!("{} {}", event.event_type, event.event_id))
            .collect();
        let expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
        Err(format!("events\n  redis {found:?}\n  model {expected:?}"))
    }

    fn differences(&self, found: &Event, expected: &ModelEvent) -> Vec<String> {
        let mut problems = Vec::new();
        let mut same = |what: &str, found: &str, expected: &str| {
            if found != expected {
                problems.push(format!("{what} is {found}, should be {expected}"));
            }
        };
        same("type", &found.event_type, expected.event_type.as_str());
        same(
            "event_id",
            &found.event_id,
            &format!("{}/{}", expected.subject, expected.seq),
        );
        same("cause", &found.causation_id, &expected.causation_id);
        same(
            "source",
            &found.source_agent,
            &format!("orchestration-runtime/{}", expected.source),
        );
        let payload: serde_json::Value = serde_json::from_str(found.payload.get()).unwrap_or_default();
        let mut facts = expected.facts.clone();
        if let (Some(attempt), Ok(id)) = (expected.attempt, expected.subject.parse::<TaskId>()) {
            same("correlation", &found.correlation_id, &correlation_of(id));
            facts.push(("/task_id", Fact::Text(expected.subject.clone())));
            facts.push(("/attempt", Fact::Number(attempt.into())));
        }
        for (pointer, fact) in &facts {
            let found = payload.pointer(pointer);
            let is_so = match fact {
                Fact::Text(text) => found.and_then(serde_json::Value::as_str) == Some(text),
                Fact::Number(number) => found.and_then(serde_json::Value::as_u64) == Some(*number),
                Fact::Moment(ms) => {
                    let found = found.and_then(serde_json::Value::as_str).and_then(parse_ms);
                    found.map(|found| found + self.shift_ms) == Some(*ms)
                }
                Fact::Nothing => found.is_some_and(serde_json::Value::is_null),
            };
            if !is_so {
                problems.push(format!("{pointer} should be {fact:?}"));
            }
        }
        problems
    }

    // --- state ---

    async fn compare_state(&mut self) -> Result<(), Outcry> {
        let found = self.lines_of_redis().await?;
        let expected = self.lines_of_model();
        same_state(&found, &expected)
    }

    async fn lines_of_redis(&mut self) -> Result<BTreeSet<String>, Outcry> {
        let ids: Vec<TaskId> = (0..=TASKS).map(task_id).collect();
        let mut eval = redis::cmd("EVAL");
        eval.arg(LOOK).arg(0).arg(&self.prefix);
        for id in &ids {
            eval.arg(id.to_string());
        }
        let (raws, lines): (Vec<Value>, Vec<String>) = eval
            .query_async(&mut self.raw)
            .await
            .map_err(|error| format!("{error:?}"))?;
        let mut lines: BTreeSet<String> = lines.into_iter().collect();
        let timers: Vec<String> = lines
            .iter()
            .filter_map(|line| line.strip_prefix("timers "))
            .flat_map(|timers| timers.split(' ').map(str::to_owned))
            .collect();
        for (id, due_ms) in timers.iter().filter_map(|timer| timer.split_once('=')) {
            let (Ok(id), Ok(due_ms)) = (id.parse(), due_ms.parse::<i64>()) else {
                continue;
            };
            self.model.timed(id, due_ms + self.shift_ms, TOLERANCE_MS);
        }
        for (id, raw) in ids.iter().zip(raws) {
            if let Value::BulkString(raw) = raw {
                lines.insert(line_of_record(*id, &raw)?);
                let entry_ms = raw[ENTRY_MS].iter().fold(0, |ms, byte| (ms << 8) | i64::from(*byte));
                if let Some(entry) = self.model.tasks().get(id).map(|task| task.entry) {
                    let entry_seq = raw[ENTRY_SEQ].iter().fold(0, |seq, byte| (seq << 8) | u64::from(*byte));
                    self.model.entered(entry, entry_ms, entry_seq);
                }
            }
        }
        let query = DeadLetterQuery::default();
        let letters = self.store.list_dead_letters(&query, 1000, None).await;
        for letter in letters.map_err(|error| format!("{error:?}"))?.letters {
            let record = letter.record().ok_or("a dead letter without its task")?;
            lines.insert(format!(
                "letter {} life {} seq {} {} of {}",
                letter.id,
                letter.life(),
                record.seq,
                record.state,
                record.max_retries
            ));
        }
        let statistics = self
            .store
            .statistics(self.partition)
            .await
            .map_err(|error| format!("{error:?}"))?;
        for (name, value) in statistics.counters.iter().filter(|(name, _)| name != "duration_ms") {
            lines.insert(format!("counter {name} {value}"));
        }
        for (name, ranks) in &statistics.queues {
            lines.insert(format!("queue {name} {ranks:?}"));
        }
        for (name, ranks) in &statistics.aside {
            lines.insert(format!("aside {name} {ranks:?}"));
        }
        for (name, _) in &statistics.paused {
            lines.insert(format!("paused {name}"));
        }
        lines.insert(format!("dead letters {}", statistics.dead_letters));
        lines.insert(format!("ended {}", statistics.ended_last_minute));
        Ok(lines)
    }

    fn lines_of_model(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        let due = self.model.timers().into_iter();
        let due = due.map(|(due_ms, id)| format!("{id}={}", due_ms - self.shift_ms));
        let timers = std::iter::once("timers".to_owned())
            .chain(due)
            .collect::<Vec<_>>()
            .join(" ");
        lines.insert(timers);
        for (id, replica) in self.model.replicas() {
            lines.insert(format!("beat {id} {}", replica.beat));
            lines.extend(replica.names.iter().map(|name| format!("can {id} {name}")));
            lines.extend(replica.paused.iter().map(|name| format!("paused {id} {name}")));
        }
        lines.extend(self.model.lanes().iter().filter_map(line_of_lane));
        for (id, task) in self.model.tasks() {
            let place = match task.place {
                Place::Queued => 'Q',
                Place::Parked => 'K',
                Place::Desk => 'A',
                Place::Delayed { .. } => 'D',
            };
            let owner = match &task.owner {
                Some(owner @ model::Owner::Worker(..)) => owner.to_string(),
                Some(model::Owner::Agent(_)) => "agent".to_owned(),
                None => "-".to_owned(),
            };
            lines.insert(format!(
                "task {id} {} {place} {} attempt {} retries {}/{} losses {} seq {} owner {owner} note {}",
                task.state,
                task.priority,
                task.attempt,
                task.retries,
                task.max_retries,
                task.losses,
                task.seq,
                task.state.is_terminal()
            ));
        }
        for (name, value) in self.model.counters() {
            lines.insert(format!("counter {name} {value}"));
        }
        for queue in self.model.queues() {
            let ranks = Priority::ALL.map(|priority| {
                let home = Home::Queue(queue.clone());
                let lane = |home| self.model.lanes().get(&LaneKey { priority, home });
                let held = |home| lane(home).map_or(0, |lane| lane.held.len());
                let waiting = lane(home.clone()).map_or(0, |lane| lane.waiting.len());
                (waiting, held(home) + held(Home::Desk(queue.clone())))
            });
            lines.insert(format!("queue {queue} {ranks:?}"));
        }
        let flow = self.model.tasks().keys().filter(|id| is_in_flow(**id));
        let mut flow: Vec<String> = flow.map(ToString::to_string).collect();
        flow.sort();
        lines.insert(format!("group {}", flow.join(" ")).trim_end().to_owned());
        let queues: BTreeSet<_> = self.model.tasks().values().map(|task| &task.queue).collect();
        for queue in queues {
            let ranks = Priority::ALL.map(|priority| self.model.aside(queue, priority));
            if ranks != [0; 4] {
                lines.insert(format!("aside {queue} {ranks:?}"));
            }
        }
        for (name, (most, tasks)) in self.model.limited() {
            let mut tasks: Vec<String> = tasks.iter().map(ToString::to_string).collect();
            tasks.sort();
            let line = format!("limit {name} {most} {}", tasks.join(" "));
            lines.insert(line.trim_end().to_owned());
        }
        lines.extend(self.model.paused().iter().map(|queue| format!("paused {queue}")));
        lines.insert(format!("dead letters {}", self.model.letters().len()));
        for ((id, attempt), letter) in self.model.letters() {
            let task = &letter.task;
            lines.insert(format!(
                "letter {id}.{attempt} life {} seq {} {} of {}",
                task.life, task.seq, task.state, task.max_retries
            ));
        }
        for (id, task) in self.model.tasks().iter().filter(|(_, task)| task.life > 1) {
            lines.insert(format!("life {id} {}", task.life));
        }
        lines.extend(inboxes::lines(&self.model));
        let ends = TaskState::ALL.into_iter().filter(|state| state.is_terminal());
        let counters = self.model.counters();
        let ended: u64 = ends.map(|state| counters[&state.as_str().to_lowercase()]).sum();
        lines.insert(format!("ended {ended}"));
        lines
    }
}

/// The record of a task as a line.
fn line_of_record(id: TaskId, raw: &[u8]) -> Result<String, Outcry> {
    let record = Record::parse(id, raw).map_err(|error| format!("{id}: {error}"))?;
    let owner = match record.owner {
        Some(Owner::Worker(replica, slot)) => format!("{replica}/{slot}"),
        Some(Owner::Agent) => "agent".to_owned(),
        None => "-".to_owned(),
    };
    Ok(format!(
        "task {id} {} {} {} attempt {} retries {}/{} losses {} seq {} owner {owner} note {}",
        record.state,
        char::from(raw[1]),
        record.priority,
        record.attempt,
        record.retry_count,
        record.max_retries,
        record.losses,
        record.seq,
        record.tail.is_some()
    ))
}

/// A lane with its entries and who holds them; nothing of an empty one.
fn line_of_lane((key, lane): (&LaneKey, &Lane)) -> Option<String> {
    let held = lane.held.iter().map(|(entry, owner)| (entry, holder(owner)));
    let waiting = lane.waiting.iter().map(|entry| (entry, "-".to_owned()));
    let entries: Vec<_> = held
        .chain(waiting)
        .map(|(entry, owner)| format!("{}@{owner}", entry.task))
        .collect();
    let (kind, name) = match &key.home {
        Home::Shelf(name) => ("parked", format!("@{name}")),
        Home::Parked(name) => ("parked", name.to_string()),
        Home::Queue(queue) => ("queue", queue.to_string()),
        Home::Desk(queue) => ("agents", queue.to_string()),
    };
    let (priority, entries) = (key.priority.key_part(), entries.join(" "));
    (!entries.is_empty()).then(|| format!("lane {kind}:{name}:{priority} {entries}"))
}

/// Under which name an entry is held.
fn holder(owner: &model::Owner) -> String {
    match owner {
        model::Owner::Worker(replica, _) => replica.to_string(),
        model::Owner::Agent(_) => owner.to_string(),
    }
}

fn is_in_flow(id: TaskId) -> bool {
    id.to_string().starts_with(['0', '2', '4', '6', '8', 'a', 'c', 'e'])
}

fn correlation_of(id: TaskId) -> String {
    format!("chain of {id}")
}

/// The word for whether anything has changed.
const fn news(has_changed: bool) -> Word {
    if has_changed { Word::Ok } else { Word::Duplicate }
}

fn operator(id: ReplicaId) -> Operator {
    Operator {
        id,
        actor: "a \"tester\"".to_owned(),
        reason: None,
    }
}

fn real_appetite(appetite: &Appetite) -> real::Appetite {
    real::Appetite {
        slots: appetite.slots.clone(),
        runs_any: appetite.runs_any,
        max_wait_ms: appetite.max_wait_ms,
    }
}

fn real_outcome(outcome: Outcome) -> real::Outcome {
    let error = ERROR.to_owned();
    match outcome {
        Outcome::Completed => real::Outcome::Completed {
            result: "[1,{}]".to_owned(),
            summary: None,
        },
        Outcome::Failed { delay_ms } => real::Outcome::Failed {
            error,
            delay_ms: delay_ms.into(),
        },
        Outcome::Timeout { delay_ms } => real::Outcome::Timeout {
            error,
            delay_ms: delay_ms.into(),
        },
        Outcome::Rejected => real::Outcome::Rejected { error },
        Outcome::Released => real::Outcome::Released(real::Release::Shutdown),
    }
}

fn story(calls: &[String], outcry: &str) -> Outcry {
    format!(
        "after {} calls, the last of them\n{}\n{outcry}",
        calls.len(),
        calls.last().map_or("", |call| call)
    )
}
