//! Holds what the functions make of a saga to the model in `domain::model::saga`.
//!
//! A case is a saga of a few steps and a list of calls, many of them wrong on purpose: attempts of others, ends that were told
//! before, cancels and resumes at any moment. After each call answer, events and everything stored are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestError};
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use waooaw_orchestration::domain::event::Event;
use waooaw_orchestration::domain::id::{Name, Partition, ReplicaId, TaskId};
use waooaw_orchestration::domain::model::saga::{
    Abort, Plan, SagaEvent, SagaModel, SagaOp, SagaOutcome, SagaReply, Subject, Work,
};
use waooaw_orchestration::domain::saga::SagaTrigger;
use waooaw_orchestration::domain::state::TaskState;
use waooaw_orchestration::runtime::defaults::{Defaults, Origin};
use waooaw_orchestration::store::functions::{
    Appetite, Asker, Cancelled, Claimed, Joining, Outcome, Release, Settled, Settlement, Takeover,
};
use waooaw_orchestration::store::groups::{GroupKind, Staged, Stopped};
use waooaw_orchestration::store::record::{Flags, Record};
use waooaw_orchestration::{Endpoint, Store};

use crate::server::Server;
use crate::world::same_state;
use crate::{number_in, runner, runtime};

const CASES: u32 = 96;
const SAGA: &str = "s";
/// So far does the clock go on, for whatever waits behind the pivot.
const ELAPSE_MS: i64 = 10_000;
/// Moves what waits for its time into the past.
const ELAPSE: &str = "for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do \
                      redis.call('ZINCRBY', KEYS[1], -ARGV[1], member) end";
/// What is stored of the saga, as lines.
const LOOK: &str = include_str!("look_saga.lua");

/// A saga, and what is done to it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    plans: Vec<Plan>,
    steps: Vec<Step>,
}

/// A call by small numbers, which becomes one by what the model then knows.
#[derive(Debug, Clone)]
enum Step {
    Start,
    Claim {
        by: u8,
        slots: u8,
    },
    /// Without `by`: the owner of the attempt.
    Settle {
        by: Option<u8>,
        which: u8,
        aims: bool,
        skew: i8,
        outcome: u8,
    },
    CancelTask {
        which: u8,
        aims: bool,
    },
    Cancel {
        cause: Option<u8>,
    },
    Resume,
    Takeover {
        victim: u8,
    },
    Elapse,
}

pub(crate) fn cases() -> impl Strategy<Value = Case> {
    let plan = (any::<u8>(), 0..3_u32, prop::option::weighted(0.8, 0..2_u32));
    let pivot = prop::option::weighted(0.4, 0..3_usize);
    (
        prop::collection::vec(plan, 1..5),
        pivot,
        prop::collection::vec(step(), 40),
    )
        .prop_map(|(plans, pivot, steps)| {
            let plans = plans
                .into_iter()
                .zip(0..)
                .map(|((edges, max_retries, undo_retries), number)| Plan {
                    // In a row as often as not.
                    depends_on: if edges % 2 == 0 {
                        (number > 0).then(|| number - 1).into_iter().collect()
                    } else {
                        (0..number).filter(|before| edges >> (before + 1) & 1 == 1).collect()
                    },
                    is_pivot: pivot == Some(number),
                    max_retries,
                    undo_retries,
                });
            Case {
                plans: plans.collect(),
                steps,
            }
        })
}

/// What chance hardly ever comes to: behind the pivot a step is given up while another runs, that one completes, and what
/// waits for it finds so when the saga goes on.
pub(crate) fn given_up_behind_the_pivot() -> Case {
    let plan = |depends_on: &[usize]| Plan {
        depends_on: depends_on.iter().copied().collect(),
        is_pivot: depends_on.is_empty(),
        max_retries: 0,
        undo_retries: Some(0),
    };
    let complete = || Step::Settle {
        by: None,
        which: 0,
        aims: true,
        skew: 0,
        outcome: 15,
    };
    Case {
        plans: vec![plan(&[]), plan(&[0]), plan(&[0]), plan(&[1])],
        steps: vec![
            complete(),
            Step::Claim { by: 0, slots: 2 },
            Step::CancelTask { which: 1, aims: true },
            complete(),
            Step::Resume,
            Step::Claim { by: 1, slots: 3 },
            complete(),
            complete(),
        ],
    }
}

fn step() -> impl Strategy<Value = Step> {
    let by = 0..3_u8;
    let skew = prop_oneof![9 => Just(0_i8), 2 => Just(-1_i8), 1 => Just(1_i8)];
    prop_oneof![
        1 => Just(Step::Start),
        8 => (by.clone(), 1..4_u8).prop_map(|(by, slots)| Step::Claim { by, slots }),
        12 => (prop::option::weighted(0.1, by.clone()), any::<u8>(), prop::bool::weighted(0.85), skew, 0..16_u8)
            .prop_map(|(by, which, aims, skew, outcome)| Step::Settle { by, which, aims, skew, outcome }),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(which, aims)| Step::CancelTask { which, aims }),
        2 => prop::option::of(0..2_u8).prop_map(|cause| Step::Cancel { cause }),
        3 => Just(Step::Resume),
        2 => by.prop_map(|victim| Step::Takeover { victim }),
        1 => Just(Step::Elapse),
    ]
}

impl Step {
    fn resolve(&self, model: &SagaModel) -> SagaOp {
        let pick = |which: u8, aims: bool| {
            let running: Vec<Work> = model
                .tasks
                .iter()
                .filter(|(_, task)| task.state == TaskState::Running)
                .map(|(work, _)| *work)
                .collect();
            let all: Vec<Work> = model.tasks.keys().copied().collect();
            let from = if aims && !running.is_empty() { running } else { all };
            // What is not there yet is asked for too.
            from.get(usize::from(which) % (from.len() + usize::from(!aims || from.is_empty())))
                .copied()
                .unwrap_or(Work::Step(0))
        };
        match self {
            Self::Start => SagaOp::Start,
            Self::Claim { by, slots } => SagaOp::Claim {
                by: *by,
                slots: (*slots).into(),
            },
            Self::Settle {
                by,
                which,
                aims,
                skew,
                outcome,
            } => {
                let work = pick(*which, *aims);
                let task = model.tasks.get(&work);
                SagaOp::Settle {
                    by: by.or(task.and_then(|task| task.owner)).unwrap_or(0),
                    work,
                    attempt: task
                        .map_or(1, |task| task.attempt)
                        .saturating_add_signed((*skew).into()),
                    outcome: match outcome {
                        0 => SagaOutcome::Timeout,
                        1 => SagaOutcome::Broken,
                        2 => SagaOutcome::HandedBack,
                        3 => SagaOutcome::Unstarted,
                        4 => SagaOutcome::Aborted,
                        5 | 6 => SagaOutcome::Rejected,
                        7 | 8 => SagaOutcome::Failed,
                        _ => SagaOutcome::Completed,
                    },
                }
            }
            Self::CancelTask { which, aims } => SagaOp::CancelTask(pick(*which, *aims)),
            Self::Cancel { cause } => SagaOp::Cancel(*cause),
            Self::Resume => SagaOp::Resume,
            Self::Takeover { victim } => SagaOp::Takeover(*victim),
            Self::Elapse => SagaOp::Promote,
        }
    }
}

fn replica(number: u8) -> ReplicaId {
    ReplicaId::from_random(u64::from(number) + 1)
}

fn step_name(step: usize) -> String {
    format!("step-{step}")
}

/// The id of a task, as the runtime derives it.
fn task_id(work: Work) -> TaskId {
    let derive = |key: &str| TaskId::derive("model", "start", Some(SAGA), Some(key), 1);
    match work {
        Work::Step(step) => derive(&step_name(step)),
        Work::Undo(step, 0) => derive(&format!("{}/undo", step_name(step))),
        Work::Undo(step, again) => {
            let first = derive(&format!("{}/undo", step_name(step))).to_string();
            format!("{again:08x}{}", &first[8..]).parse().unwrap()
        }
    }
}

fn definition(plans: &[Plan]) -> String {
    let steps: Vec<Value> = plans
        .iter()
        .enumerate()
        .map(|(number, plan)| {
            let names: Vec<String> = plan.depends_on.iter().map(|before| step_name(*before)).collect();
            let mut step = json!({ "name": step_name(number), "action": "do", "depends_on": names,
                "pivot": plan.is_pivot, "retry": { "max_retries": plan.max_retries } });
            if let Some(max_retries) = plan.undo_retries {
                step["compensation"] = json!("undo");
                step["compensation_retry"] = json!({ "max_retries": max_retries });
            }
            step
        })
        .collect();
    json!({ "saga_id": SAGA, "name": "model", "steps": steps }).to_string()
}

/// The model and a real partition side by side.
struct World {
    model: SagaModel,
    store: Store,
    raw: MultiplexedConnection,
    prefix: String,
    last_event: String,
    shift_ms: i64,
    beats: BTreeMap<u8, bool>,
    works: BTreeMap<TaskId, Work>,
}

/// Takes all steps, from an empty partition on.
pub(crate) async fn run(server: &Server, prefix: &str, case: &Case) -> Result<(), String> {
    let mut endpoint = Endpoint::new(&server.url());
    prefix.clone_into(&mut endpoint.prefix);
    endpoint.response_timeout = std::time::Duration::from_secs(60);
    let mut world = World {
        model: SagaModel::new(case.plans.clone()),
        store: Store::new(endpoint).unwrap(),
        raw: server.connect().await.unwrap(),
        prefix: format!("{prefix}:{{0}}:"),
        last_event: "0".to_owned(),
        shift_ms: 0,
        beats: BTreeMap::new(),
        works: BTreeMap::new(),
    };
    for step in 0..case.plans.len() {
        world.works.insert(task_id(Work::Step(step)), Work::Step(step));
        for again in 0..64 {
            world
                .works
                .insert(task_id(Work::Undo(step, again)), Work::Undo(step, again));
        }
    }
    let mut calls = Vec::new();
    let first = [Step::Start, Step::Claim { by: 0, slots: 2 }];
    for step in first.iter().chain(&case.steps) {
        if let Step::Elapse = step {
            world.elapse().await;
        }
        let op = step.resolve(&world.model);
        calls.push(format!("{op:?}"));
        let outcome = world.apply(&op, &case.plans).await;
        outcome.map_err(|outcry| format!("after\n  {}\n{outcry}", calls.join("\n  ")))?;
    }
    Ok(())
}

impl World {
    async fn elapse(&mut self) {
        let mut eval = redis::cmd("EVAL");
        eval.arg(ELAPSE)
            .arg(1)
            .arg(format!("{}timers", self.prefix))
            .arg(ELAPSE_MS);
        eval.query_async::<()>(&mut self.raw).await.unwrap();
        self.shift_ms += ELAPSE_MS;
    }

    async fn now_ms(&mut self) -> i64 {
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut self.raw).await.unwrap();
        seconds * 1000 + micros / 1000
    }

    /// Calls both sides and compares.
    async fn apply(&mut self, op: &SagaOp, plans: &[Plan]) -> Result<(), String> {
        let now_ms = self.now_ms().await + self.shift_ms;
        let found = self.call(op, plans).await?;
        let events = self
            .store
            .events_after(Partition::default(), &self.last_event, 10_000)
            .await;
        let events = events.map_err(|error| format!("{error:?}"))?;
        if let Some(event) = events.last() {
            self.last_event.clone_from(&event.entry_id);
        }
        let (expected, expected_events) = self.model.apply(op, now_ms);
        if found != expected {
            return Err(format!("reply\n  redis {found:?}\n  model {expected:?}"));
        }
        let found: Vec<String> = events.iter().filter_map(|event| self.line_of_event(event)).collect();
        let expected: Vec<String> = expected_events.iter().map(line_of_expected).collect();
        if found != expected {
            return Err(format!("events\n  redis {found:#?}\n  model {expected:#?}"));
        }
        self.compare_state().await
    }

    async fn join(&mut self, by: u8) {
        if self.beats.insert(by, true).is_some() {
            return;
        }
        let names = ["do".to_owned(), "undo".to_owned()];
        let joining = Joining {
            max_size: None,
            max_running: None,
            workers: Some(4),
            started_at: "2026-01-01T00:00:00.000Z",
            announce: false,
            task_names: &names,
            limits: &BTreeMap::new(),
        };
        self.store
            .join(Partition::default(), replica(by), &joining)
            .await
            .unwrap();
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each function")]
    async fn call(&mut self, op: &SagaOp, plans: &[Plan]) -> Result<SagaReply, String> {
        let said = |error| format!("{op:?} failed: {error:?}");
        let partition = Partition::default();
        for by in 0..3 {
            self.join(by).await;
        }
        let id: Name = SAGA.parse().unwrap();
        let nobody = replica(9);
        Ok(match op {
            SagaOp::Start => {
                let trigger = SagaTrigger::parse(&definition(plans)).map_err(|error| error.to_string())?;
                let origin = Origin {
                    source_agent: "model",
                    event_id: "start",
                    correlation_id: None,
                    trace: None,
                };
                let group = Defaults::default().saga(trigger, &origin, 1);
                let staged = self.store.stage(nobody, Asker::Caller, &Appetite::none(), &group).await;
                SagaReply::Word(match staged.map_err(said)?.0 {
                    Staged::Ok => "ok",
                    Staged::Duplicate => "duplicate",
                    other @ (Staged::Taken
                    | Staged::KeyTaken(_)
                    | Staged::Unknown(_)
                    | Staged::Full
                    | Staged::TooManyQueues) => {
                        return Err(format!("{other:?}"));
                    }
                })
            }
            SagaOp::Claim { by, slots } => {
                let appetite = Appetite {
                    slots: (0..u16::try_from(*slots).unwrap()).collect(),
                    ..Appetite::none()
                };
                let (claimed, _) = self
                    .store
                    .claim(partition, replica(*by), &appetite)
                    .await
                    .map_err(said)?;
                let one = |claimed: Claimed| (self.works[&claimed.task_id], claimed.attempt);
                SagaReply::Taken(claimed.into_iter().map(one).collect())
            }
            SagaOp::Settle {
                by,
                work,
                attempt,
                outcome,
            } => {
                let settlement = Settlement {
                    task_id: task_id(*work),
                    attempt: *attempt,
                    outcome: real_outcome(*outcome),
                };
                let settled = self
                    .store
                    .settle(partition, replica(*by), &Appetite::none(), &[settlement])
                    .await;
                SagaReply::Word(match settled.map_err(said)?.0[0] {
                    Settled::Ok => "ok",
                    Settled::Retry => "retry",
                    Settled::Duplicate => "duplicate",
                    Settled::Stale => "stale",
                    Settled::Missing => "missing",
                })
            }
            SagaOp::CancelTask(work) => {
                let words = self
                    .store
                    .cancel(partition, nobody, None, None, &[task_id(*work)])
                    .await
                    .map_err(said)?;
                SagaReply::Word(match words[0] {
                    Cancelled::Ok => "ok",
                    Cancelled::Terminal => "terminal",
                    Cancelled::Missing => "missing",
                })
            }
            SagaOp::Cancel(cause) => {
                let cause = cause.map(|cause| format!("stop-{cause}"));
                let word = self
                    .store
                    .stop(nobody, GroupKind::Saga, &id, cause.as_deref(), None)
                    .await;
                SagaReply::Word(stopped(word.map_err(said)?))
            }
            SagaOp::Resume => SagaReply::Word(stopped(self.store.resume(nobody, &id, "tester").await.map_err(said)?)),
            SagaOp::Takeover(victim) => {
                let name = replica(*victim).to_string();
                let seen = self
                    .store
                    .beats(partition)
                    .await
                    .map_err(said)?
                    .remove(&name)
                    .unwrap_or_default();
                self.beats.remove(victim);
                match self
                    .store
                    .takeover(partition, nobody, &name, &seen, 100)
                    .await
                    .map_err(said)?
                {
                    Takeover::Ok(moved, true) => SagaReply::Count(usize::try_from(moved).unwrap()),
                    other @ (Takeover::Ok(..) | Takeover::Alive) => return Err(format!("{other:?}")),
                }
            }
            SagaOp::Promote => {
                let promoted = self.store.promote(partition, nobody, 100).await.map_err(said)?;
                SagaReply::Count(usize::try_from(promoted.count).unwrap())
            }
        })
    }

    /// An event of the saga or its tasks as a line; replicas are not compared here.
    fn line_of_event(&self, event: &Event) -> Option<String> {
        let subject = event.subject();
        let payload: Value = serde_json::from_str(event.payload.get()).unwrap();
        let who = match subject.parse().ok().and_then(|id: TaskId| self.works.get(&id)) {
            Some(work) => format!("{work:?}"),
            None if subject == SAGA => "saga".to_owned(),
            None => return None,
        };
        let text = |name: &str| payload[name].as_str().unwrap_or("-").to_owned();
        let mut line = format!("{} {who}/{} {}", event.event_type, event.seq(), text("step"));
        if payload.get("failed_step").is_some() {
            write!(line, " failed {}", text("failed_step")).unwrap();
        }
        for name in [
            "steps_to_compensate",
            "completed_steps",
            "compensated_steps",
            "uncompensated_steps",
        ] {
            if let Some(list) = payload[name].as_array() {
                let names: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
                write!(line, " [{}]", names.join(",")).unwrap();
            }
        }
        Some(line)
    }

    async fn compare_state(&mut self) -> Result<(), String> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(LOOK).arg(0).arg(&self.prefix).arg(SAGA);
        for work in self.model.tasks.keys() {
            eval.arg(task_id(*work).to_string());
        }
        let (raws, lines): (Vec<Option<Vec<u8>>>, Vec<String>) = eval
            .query_async(&mut self.raw)
            .await
            .map_err(|error| format!("{error:?}"))?;
        let mut found: BTreeSet<String> = lines.into_iter().collect();
        for (work, raw) in self.model.tasks.keys().zip(raws) {
            let Some(raw) = raw else {
                found.insert(format!("task {work:?} is gone"));
                continue;
            };
            let record = Record::parse(task_id(*work), &raw).map_err(|error| error.to_string())?;
            let is_doubtful = record.flags.has(Flags::IN_DOUBT);
            found.insert(format!(
                "task {work:?} {} blocked {} delayed {} attempt {} retries {}/{} losses {} seq {} doubt {is_doubtful}",
                record.state,
                record.is_blocked,
                record.is_delayed,
                record.attempt,
                record.retry_count,
                record.max_retries,
                record.losses,
                record.seq
            ));
        }
        let expected = self.lines_of_model();
        same_state(&found, &expected)
    }

    fn lines_of_model(&self) -> BTreeSet<String> {
        let model = &self.model;
        let mut lines = BTreeSet::new();
        let Some(state) = model.state else { return lines };
        let abort = match model.abort {
            Abort::None => "",
            Abort::Failed => "failed",
            Abort::Cancelled => "cancelled",
        };
        let failed = model.failed_step.map_or(String::new(), step_name);
        lines.insert(format!(
            "saga {} abort {abort} passed {} left {} failed {failed}",
            state.letter(),
            if model.has_passed { "1" } else { "" },
            model.left
        ));
        let numbers = |steps: &[usize]| steps.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        lines.insert(format!("owed {}", numbers(&model.owed)));
        lines.insert(format!("left over {}", numbers(&model.left_over)));
        for (step, fate) in model.fates.iter().enumerate() {
            let number = |value: Option<u32>| value.map_or("-".to_owned(), |value| value.to_string());
            lines.insert(format!(
                "step {step} {} {} {} {} {}",
                fate.fate.map_or("-".to_owned(), |fate| fate.to_string()),
                number(fate.place),
                number(fate.verdict),
                fate.undo.map_or("-".to_owned(), |undo| task_id(undo).to_string()),
                if fate.has_come_late { "1" } else { "-" }
            ));
        }
        for (work, attempt) in &model.letters {
            lines.insert(format!("letter {}.{attempt}", task_id(*work)));
        }
        for work in &model.late_letters {
            lines.insert(format!("letter {}.late", task_id(*work)));
        }
        for (work, task) in &model.tasks {
            // A place is only where a task waits.
            let waits = task.state == TaskState::Pending;
            lines.insert(format!(
                "task {work:?} {} blocked {} delayed {} attempt {} retries {}/{} losses {} seq {} doubt {}",
                task.state,
                waits && task.is_blocked,
                waits && task.due_ms.is_some(),
                task.attempt,
                task.retries,
                task.max_retries,
                task.losses,
                task.seq,
                task.is_doubtful
            ));
        }
        lines
    }
}

fn line_of_expected(event: &SagaEvent) -> String {
    let who = match event.subject {
        Subject::Saga => "saga".to_owned(),
        Subject::Task(work) => format!("{work:?}"),
    };
    let step = event.step.map_or("-".to_owned(), step_name);
    let mut line = format!("{} {who}/{} {step}", event.kind.as_str(), event.seq);
    if let Some(failed) = event.failed_step {
        write!(line, " failed {}", failed.map_or("-".to_owned(), step_name)).unwrap();
    }
    for list in &event.lists {
        let names: Vec<String> = list.iter().map(|step| step_name(*step)).collect();
        write!(line, " [{}]", names.join(",")).unwrap();
    }
    line
}

fn stopped(word: Stopped) -> &'static str {
    match word {
        Stopped::Ok => "ok",
        Stopped::Terminal => "terminal",
        Stopped::Missing => "missing",
        Stopped::Passed => "passed",
    }
}

fn real_outcome(outcome: SagaOutcome) -> Outcome {
    let error = |kind: &str| format!(r#"{{"type":"{kind}","message":"no luck"}}"#);
    match outcome {
        SagaOutcome::Completed => Outcome::Completed {
            result: "{}".to_owned(),
            summary: None,
        },
        SagaOutcome::Failed => Outcome::Failed {
            error: error("handler_error"),
            delay_ms: 0,
        },
        SagaOutcome::Broken => Outcome::Failed {
            error: error("connection_broken"),
            delay_ms: 0,
        },
        SagaOutcome::Rejected => Outcome::Rejected {
            error: error("handler_error"),
        },
        // By its outcome alone, whatever the error is called.
        SagaOutcome::Timeout => Outcome::Timeout {
            error: error("handler_error"),
            delay_ms: 0,
        },
        SagaOutcome::HandedBack => Outcome::Released(Release::Shutdown),
        SagaOutcome::Unstarted => Outcome::Released(Release::CircuitOpen),
        SagaOutcome::Aborted => Outcome::Aborted,
    }
}

#[test]
fn the_functions_do_with_a_saga_what_the_model_does() {
    let cases_wanted = number_in("PROPTEST_CASES").map_or(CASES, |cases| u32::try_from(cases).unwrap());
    let seed = number_in("WAOOAW_TEST_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let runtime = runtime();
    let server = runtime.block_on(Server::start());
    let count = std::sync::atomic::AtomicU32::new(0);

    let fixed = runtime.block_on(run(&server, "fixed", &given_up_behind_the_pivot()));
    fixed.unwrap_or_else(|outcry| panic!("{outcry}"));
    let outcome = runner(cases_wanted, seed).run(&cases(), |case| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let result = runtime.block_on(run(&server, &format!("saga{number}"), &case));
        result.map_err(TestCaseError::fail)
    });

    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, case)) => {
            panic!("WAOOAW_TEST_SEED={seed}: {reason}\nthe shortest case that shows it: {case:#?}")
        }
        Err(TestError::Abort(reason)) => panic!("WAOOAW_TEST_SEED={seed}: {reason}"),
    }
}
