//! Sagas against a ledger outside Redis, which command handlers write: whatever fails, is cancelled or dies, the net effect is
//! nothing, everything, or exactly what the saga names as not undone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use waooaw_orchestration::{Error, RetryPolicy, SagaBuilder, SagaExecution, SagaState, SagaStep, Sagas};

use crate::support::history::check_all_ended;
use crate::support::log::Log;
use crate::support::redis::TestRedis;
use crate::support::replica::{ReplicaProcess, Settings};
use crate::support::wait_within;

const STEPS: [&str; 3] = ["reserve", "charge", "ship"];
const WELL: &str = "well 0";
/// How long a matrix may take on a busy machine.
const LONG: Duration = Duration::from_secs(240);

/// The file that the handlers write.
struct Ledger {
    _folder: tempfile::TempDir,
    file: PathBuf,
}

impl Ledger {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger");
        std::fs::write(&file, "").unwrap();
        Self { _folder: folder, file }
    }

    /// Replicas that have the handler.
    fn settings(&self, redis: &TestRedis) -> Settings {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/ledger.sh");
        let config = format!(
            "[handlers.book]\nkind = \"command\"\nargv = [\"sh\", {:?}, {:?}]\n",
            script.to_str().unwrap(),
            self.file.to_str().unwrap()
        );
        redis.replica().workers(12).config(&config)
    }

    /// The steps of an order that are done and not undone; an effect that is there is not made twice.
    fn open(&self, order: &str) -> BTreeSet<String> {
        let mut open = BTreeSet::new();
        for line in std::fs::read_to_string(&self.file).unwrap().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if words[1] == order {
                match words[0] {
                    "+" => drop(open.insert(words[2].to_owned())),
                    _ => drop(open.remove(words[2])),
                }
            }
        }
        open
    }
}

/// An order: how each step goes, and how it is undone.
#[derive(Clone)]
struct Order {
    name: String,
    forward: [&'static str; 3],
    back: [&'static str; 3],
    /// At which of its saga's events it is cancelled.
    cancelled_at: Option<usize>,
    /// How it must end, and what is left open then; `None` where that depends on the moment.
    expected: Option<(SagaState, Vec<&'static str>)>,
}

impl Order {
    fn new(name: &str, expected: Option<(SagaState, Vec<&'static str>)>) -> Self {
        Self {
            name: name.replace(' ', "-"),
            forward: [WELL; 3],
            back: [WELL; 3],
            cancelled_at: None,
            expected,
        }
    }

    fn with(mut self, step: usize, mode: &'static str) -> Self {
        self.forward[step] = mode;
        self
    }

    /// Whether what undoes a step takes effect and never says so.
    fn is_mute(&self) -> bool {
        self.back.contains(&"act_and_hang -1")
    }

    fn undone(mut self, step: usize, mode: &'static str) -> Self {
        self.back[step] = mode;
        self
    }

    async fn start(&self, sagas: &Sagas) {
        let policy = |max_retries| {
            let mut policy = RetryPolicy::QUICK;
            policy.max_retries = max_retries;
            policy
        };
        let mut saga = SagaBuilder::new().saga_id(&self.name).name("order");
        for (place, step) in STEPS.iter().enumerate() {
            let (forward, back) = (self.forward[place], self.back[place]);
            let plan = |sign: char, mode: &str| json!({ "plan": format!("{} {step} {sign} {mode}", self.name) });
            let mut step = SagaStep::new(step, "book")
                .compensation("book")
                .args(plan('+', forward))
                .compensation_args(plan('-', back))
                .retry(policy(1))
                .compensation_retry(policy(3));
            if forward.contains("hang") || back.contains("hang") {
                // Long enough for what does not hang, also on a busy machine.
                step = step.timeout(Duration::from_secs(3));
            }
            saga = saga.add_step(step);
        }
        saga.build().unwrap().start(sagas).await.unwrap();
    }
}

/// Every step that fails in every way, every compensation that does, and a cancel at every event.
fn orders() -> Vec<Order> {
    let everything = || Some((SagaState::Completed, STEPS.to_vec()));
    let nothing = || Some((SagaState::Compensated, vec![]));
    let only = |steps: &[&'static str]| Some((SagaState::Failed, steps.to_vec()));
    let mut orders = vec![Order::new("well", everything())];
    for (place, step) in STEPS.into_iter().enumerate() {
        for mode in ["fail -1", "refuse -1", "act_and_hang -1", "hang -1"] {
            orders.push(Order::new(&format!("{step}.{mode}"), nothing()).with(place, mode));
        }
        for mode in ["fail 1", "act_and_hang 1"] {
            orders.push(Order::new(&format!("{step}.{mode}"), everything()).with(place, mode));
        }
        // What undoes it, of the last one since it is in doubt.
        let broken = |name: &str, expected, mode| {
            let order = Order::new(&format!("back.{step}.{name}"), expected).undone(place, mode);
            if place == 2 {
                order.with(2, "act_and_hang -1")
            } else {
                order.with(2, "refuse -1")
            }
        };
        for mode in ["fail 2", "act_and_hang 1", "hang 1"] {
            orders.push(broken(mode, nothing(), mode));
        }
        for mode in ["fail -1", "refuse -1"] {
            orders.push(broken(mode, only(&[step]), mode));
        }
        // It takes effect each time and never says so: named, since nobody can know.
        orders.push(broken("mute", Some((SagaState::Failed, vec![])), "act_and_hang -1"));
    }
    let stuck = Order::new("back.both", only(&["charge", "reserve"])).with(2, "refuse -1");
    orders.push(stuck.undone(0, "refuse -1").undone(1, "fail -1"));
    for at in 1..=8 {
        let mut order = Order::new(&format!("cancelled.{at}"), None);
        (order.forward, order.cancelled_at) = (["slowly -1"; 3], Some(at));
        orders.push(order);
    }
    orders
}

/// What a saga says and what the ledger shows must come to the same.
fn check(ledger: &Ledger, execution: &SagaExecution) {
    let open = ledger.open(&execution.saga_id);
    let named: BTreeSet<String> = execution.uncompensated_steps.iter().cloned().collect();
    let id = &execution.saga_id;
    match execution.state {
        SagaState::Completed => assert_eq!(open.len(), STEPS.len(), "{id}: {open:?}"),
        SagaState::Compensated => assert_eq!(open, BTreeSet::new(), "{id}: {execution:#?}"),
        // One that takes effect and never says so is named and not open.
        SagaState::Failed => assert!(
            open.is_subset(&named) && !named.is_empty(),
            "{id}: {open:?} of {named:?}"
        ),
        state @ (SagaState::Pending | SagaState::Running | SagaState::Compensating) => panic!("{id} is {state}"),
    }
}

/// Waits until all have ended; meanwhile cancels those that are to be.
async fn until_all_ended(sagas: &Sagas, log: &mut Log<'_>, orders: &[Order]) -> Vec<SagaExecution> {
    let mut cancelled = BTreeSet::new();
    wait_within(LONG, "all sagas have ended", async || {
        log.refresh().await;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut open: BTreeSet<&str> = orders.iter().map(|order| order.name.as_str()).collect();
        for event in log.events.iter().filter(|event| event.kind.starts_with("saga.")) {
            *counts.entry(&event.subject).or_default() += 1;
            if ["saga.completed", "saga.compensated", "saga.failed"].contains(&event.kind.as_str()) {
                open.remove(event.subject.as_str());
            }
        }
        for order in orders {
            let is_due = order
                .cancelled_at
                .is_some_and(|at| counts.get(order.name.as_str()) >= Some(&at));
            if is_due && cancelled.insert(order.name.clone()) {
                match sagas.cancel(&order.name, None).await {
                    // It was quicker.
                    Ok(()) | Err(Error::InvalidTransition(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        if open.is_empty() {
            Ok(())
        } else {
            Err(format!("{open:?}\n{}", log.summary()))
        }
    })
    .await;
    let mut executions = Vec::new();
    for order in orders {
        executions.push(sagas.get(&order.name).await.unwrap());
    }
    executions
}

#[tokio::test]
async fn whatever_fails_or_is_cancelled_the_ledger_shows_nothing_everything_or_what_is_named() {
    let redis = TestRedis::start().await;
    let ledger = Ledger::new();
    let mut replicas = ledger.settings(&redis).start_many(3).await;
    let sagas = Sagas::new(redis.store());
    let orders = orders();

    for order in &orders {
        order.start(&sagas).await;
    }
    let mut log = redis.log().await;
    let executions = until_all_ended(&sagas, &mut log, &orders).await;

    for (order, execution) in orders.iter().zip(&executions) {
        check(&ledger, execution);
        if let Some((state, left)) = &order.expected {
            assert_eq!(execution.state, *state, "{execution:#?}");
            let left: BTreeSet<String> = left.iter().map(ToString::to_string).collect();
            assert_eq!(ledger.open(&order.name), left, "{execution:#?}");
        }
        if execution.state == SagaState::Failed && !order.is_mute() {
            let named: BTreeSet<String> = execution.uncompensated_steps.iter().cloned().collect();
            assert_eq!(ledger.open(&order.name), named, "{execution:#?}");
        }
    }
    let both = executions
        .iter()
        .find(|execution| execution.saga_id == "back.both")
        .unwrap();
    assert_eq!(both.uncompensated_steps, ["charge", "reserve"]);
    let is_cancelled = |execution: &&SagaExecution| execution.saga_id.starts_with("cancelled");
    let undone = executions
        .iter()
        .filter(is_cancelled)
        .filter(|one| one.state == SagaState::Compensated);
    assert!(undone.count() >= 6, "the cancels came too late");
    for replica in &mut replicas {
        replica.stop().await;
    }
    check_all_ended(&redis).await;
}

/// Kills the replica that said this, and lets another take its place.
async fn replace(settings: &Settings, replicas: &mut Vec<ReplicaProcess>, source: &str) {
    for place in 0..replicas.len() {
        if source.ends_with(&replicas[place].id().await) {
            replicas.remove(place).kill();
            replicas.push(settings.start().await);
            return;
        }
    }
}

#[tokio::test]
async fn a_replica_killed_at_each_event_and_all_of_them_at_once_leave_nothing_behind() {
    let redis = TestRedis::start().await;
    let ledger = Ledger::new();
    let settings = ledger.settings(&redis);
    let mut replicas = settings.start_many(3).await;
    let sagas = Sagas::new(redis.store());

    // For each event a saga of its own, which meets it; the last two lose all replicas, one forward and one back.
    let moments = [
        "saga.started",
        "saga.step_started",
        "saga.step_completed",
        "saga.step_failed",
        "saga.compensating",
        "saga.step_compensated",
        "saga.step_compensation_failed",
        "saga.compensated",
        "saga.step_completed all",
        "saga.step_compensated all",
    ];
    let mut orders = Vec::new();
    let mut log = redis.log().await;
    for (number, moment) in moments.into_iter().enumerate() {
        let mut order = Order::new(&format!("killed.{number}"), None).with(2, "refuse -1");
        (order.forward[0], order.forward[1]) = ("slowly -1", "slowly -1");
        order.back = ["slowly -1"; 3];
        if moment == "saga.step_compensation_failed" {
            order.back[1] = "refuse -1";
        }
        order.start(&sagas).await;
        let kind = moment.strip_suffix(" all").unwrap_or(moment);
        let source = log
            .until(moment, |log| {
                let of_it = log.of(&order.name).into_iter().find(|event| event.kind == kind);
                of_it.map(|event| event.fields["source_agent"].clone())
            })
            .await;
        if kind == moment {
            replace(&settings, &mut replicas, &source).await;
        } else {
            replicas.iter_mut().for_each(ReplicaProcess::kill);
            replicas = settings.start_many(3).await;
        }
        orders.push(order);
    }
    let executions = until_all_ended(&sagas, &mut log, &orders).await;

    for execution in &executions {
        check(&ledger, execution);
        assert_ne!(execution.state, SagaState::Completed, "{execution:#?}");
    }
    assert!(
        log.count("task.retry_scheduled") > 0,
        "nobody held anything when it was killed"
    );
    for replica in &mut replicas {
        replica.stop().await;
    }
    check_all_ended(&redis).await;
}
