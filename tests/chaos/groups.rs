//! Workflows and sagas that are asked for while things break, and what must become of them.
//!
//! Each is small and drawn at random. What its tasks do is known before, so its events can be held against it: every edge is
//! respected, it ends once, and otherwise than well only for a reason that stands in the log.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::chance::Chance;
use super::load::{promise, quick, script};
use super::rig::HANDMADE;
use super::support::log::{Log, LogEvent};
use super::support::oracle::{Behaviour, Promise, Told, is_of_time, read};
use super::support::script::{Act, Script};

/// What was asked for.
#[derive(Debug, Clone)]
pub(crate) enum Group {
    Workflow(Vec<Node>),
    Saga(Vec<Step>),
}

/// A task of a workflow.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    key: String,
    depends_on: Vec<String>,
    /// Whether it runs after a failure of what it depends on.
    runs_anyway: bool,
    promise: Promise,
}

/// A step of a saga.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    name: String,
    depends_on: Vec<String>,
    has_compensation: bool,
    behaviour: Behaviour,
}

/// Something that a task does, as members of its payload; most of them go well.
fn deed(chance: &mut Chance) -> (&'static str, Value, Behaviour) {
    match chance.within(0..15) {
        0..5 => ("echo", json!({}), Behaviour::Succeeds),
        5..8 => ("sleep", json!({ "ms": chance.within(5..400) }), Behaviour::Succeeds),
        8..11 => {
            let times = chance.within(1..3);
            ("flaky", json!({ "fail_times": times }), Behaviour::FailsFor(times))
        }
        11 => ("fail", json!({ "message": "as asked" }), Behaviour::Fails),
        _ => {
            let script = script(chance);
            (HANDMADE, script.kwargs(), Behaviour::Scripted(script))
        }
    }
}

/// A workflow of a few tasks, and its payload.
pub(crate) fn workflow(chance: &mut Chance, id: &str) -> (Value, Group) {
    let (mut nodes, mut tasks) = (Vec::new(), Vec::new());
    for number in 0..chance.within(2..9) {
        let depends_on: Vec<String> = (0..number)
            .filter(|_| chance.once_in(3))
            .map(|other| format!("n{other}"))
            .collect();
        let (name, kwargs, behaviour) = deed(chance);
        let policy = quick(chance);
        let runs_anyway = chance.once_in(4);
        let key = format!("n{number}");
        tasks.push(json!({
            "task_id": key, "name": name, "kwargs": kwargs, "retry": policy, "dependencies": depends_on,
            "on_dependency_failure": if runs_anyway { "run" } else { "cancel" },
        }));
        let mut promise = promise(behaviour, policy);
        // By what it depends on, or by a stop.
        promise.is_cancelled = true;
        nodes.push(Node {
            key,
            depends_on,
            runs_anyway,
            promise,
        });
    }
    // In any order.
    chance.shuffle(&mut tasks);
    (json!({ "workflow_id": id, "tasks": tasks }), Group::Workflow(nodes))
}

/// What an agent does that undoes a step: it succeeds in the end.
fn reliable(chance: &mut Chance) -> Script {
    let mut acts = [Act::Succeeds; 4];
    acts[0] = *chance.pick(&[
        Act::Succeeds,
        Act::Fails,
        Act::KeepsSilent,
        Act::ComesLate,
        Act::Repeats,
    ]);
    Script(acts)
}

/// A saga of a few steps, and its payload. Its compensations succeed in the end.
pub(crate) fn saga(chance: &mut Chance, id: &str) -> (Value, Group) {
    let (mut steps, mut asked) = (Vec::new(), Vec::new());
    for number in 0..chance.within(1..6) {
        let name = format!("s{number}");
        let (action, kwargs, behaviour) = deed(chance);
        let mut step = json!({
            "name": name, "action": action, "kwargs": kwargs,
            "retry": { "max_retries": chance.within(1..4), "initial_delay_seconds": 0.1, "max_delay_seconds": 0.3 },
        });
        let has_compensation = !chance.once_in(4);
        if has_compensation {
            let times = chance.within(0..3);
            (step["compensation"], step["compensation_kwargs"]) = if chance.once_in(4) {
                (json!(HANDMADE), reliable(chance).kwargs())
            } else {
                (json!("flaky"), json!({ "fail_times": times }))
            };
            step["compensation_retry"] =
                json!({ "max_retries": 10, "initial_delay_seconds": 0.1, "max_delay_seconds": 0.3 });
        }
        let mut depends_on: Vec<String> = (number > 0).then(|| format!("s{}", number - 1)).into_iter().collect();
        if number > 1 && chance.once_in(3) {
            depends_on = vec![format!("s{}", chance.within(0..number))];
            step["depends_on"] = json!(depends_on);
        }
        asked.push(step);
        steps.push(Step {
            name,
            depends_on,
            has_compensation,
            behaviour,
        });
    }
    (json!({ "saga_id": id, "steps": asked }), Group::Saga(steps))
}

/// What can not be of what the log tells of a group that was started. `did_jump`: its clock went back, so times tell
/// nothing of an order.
pub(crate) fn judge(group: &Group, id: &str, log: &Log<'_>, did_jump: bool) -> Vec<String> {
    let mut problems = match group {
        Group::Workflow(nodes) => judge_workflow(nodes, id, log, did_jump),
        Group::Saga(steps) => judge_saga(steps, id, log),
    };
    for problem in &mut problems {
        problem.insert_str(0, &format!("{id}: "));
    }
    problems
}

/// The tasks of a group by `member` of their payloads, each with its events and where in the log they stand.
fn tasks_of<'a>(log: &'a Log<'_>, group: (&str, &str), member: &str) -> BTreeMap<String, Vec<(usize, &'a LogEvent)>> {
    let (mut names, mut tasks) = (BTreeMap::new(), BTreeMap::<String, Vec<_>>::new());
    for (at, event) in log.events.iter().enumerate() {
        if !event.kind.starts_with("task.") || event.text(group.0) != group.1 {
            continue;
        }
        if event.kind == "task.created" {
            let name = event.text(member).to_owned();
            names.insert(event.subject.as_str(), name);
        }
        if let Some(name) = names.get(event.subject.as_str()) {
            tasks.entry(name.clone()).or_default().push((at, event));
        }
    }
    tasks
}

fn judge_workflow(nodes: &[Node], id: &str, log: &Log<'_>, did_jump: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let own: Vec<&str> = log.of(id).iter().map(|event| event.kind.as_str()).collect();
    let is_fine = own.len() == 2 && own[0] == "workflow.started" && own[1] != own[0];
    if !is_fine {
        problems.push(format!("its own events are {own:?}"));
    }
    let tasks = tasks_of(log, ("workflow_id", id), "key");
    if tasks.len() != nodes.len() {
        problems.push(format!("{} tasks, not {}", tasks.len(), nodes.len()));
    }
    let place = |key: &str, is_it: &dyn Fn(&LogEvent) -> bool| {
        let events = tasks.get(key)?;
        events.iter().find(|(_, event)| is_it(event)).map(|(at, _)| *at)
    };
    for node in nodes {
        let Some(events) = tasks.get(&node.key) else { continue };
        let own: Vec<&LogEvent> = events.iter().map(|(_, event)| *event).collect();
        let told: Told = read(&node.promise, &own);
        let of_order = |problem: &&String| !(did_jump && is_of_time(problem));
        problems.extend(told.problems.iter().filter(of_order).cloned());
        if told.end.is_empty() {
            problems.push(format!("{} did not end", node.key));
        }
        let Some(start) = place(&node.key, &|event| event.kind == "task.started") else {
            continue;
        };
        for dependency in &node.depends_on {
            let end = if node.runs_anyway {
                place(dependency, &LogEvent::is_terminal)
            } else {
                place(dependency, &|event| event.kind == "task.completed")
            };
            if end.is_none_or(|end| end > start) {
                problems.push(format!("{} started before {dependency} had ended", node.key));
            }
        }
    }
    problems
}

fn judge_saga(steps: &[Step], id: &str, log: &Log<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    let own = log.of(id);
    let places_of = |kind: &str| -> Vec<(usize, &str)> {
        let of_kind = own.iter().enumerate().filter(|(_, event)| event.kind == kind);
        of_kind.map(|(at, event)| (at, event.text("step"))).collect()
    };
    let ends: Vec<&str> = own
        .iter()
        .map(|event| event.kind.as_str())
        .filter(|kind| ["saga.completed", "saga.compensated", "saga.failed"].contains(kind))
        .collect();
    let [end] = ends[..] else {
        return vec![format!("it ended with {ends:?}")];
    };
    let completed = places_of("saga.step_completed");
    let started = places_of("saga.step_started");
    let undone = places_of("saga.step_compensated");
    for step in steps {
        let Some((start, _)) = started.iter().find(|(_, name)| *name == step.name) else {
            continue;
        };
        for dependency in &step.depends_on {
            if !completed.iter().any(|(at, name)| name == dependency && at < start) {
                problems.push(format!("{} started before {dependency} had completed", step.name));
            }
        }
        let is_told_completed = completed.iter().any(|(_, name)| *name == step.name);
        if is_told_completed && !step.behaviour.may_succeed() {
            problems.push(format!("{} can not have completed", step.name));
        }
    }
    match end {
        "saga.completed" => {
            if completed.len() != steps.len() || !undone.is_empty() {
                problems.push(format!("completed, with {completed:?} done and {undone:?} undone"));
            }
        }
        "saga.compensated" => {
            // What was completed is undone, the last first.
            let done: BTreeSet<&str> = completed.iter().map(|(_, name)| *name).collect();
            let order: Vec<&str> = undone
                .iter()
                .map(|(_, name)| *name)
                .filter(|name| done.contains(name))
                .collect();
            let mut due: Vec<&str> = completed.iter().rev().map(|(_, name)| *name).collect();
            // A success that came late is undone when it comes.
            let late: BTreeSet<&str> = places_of("saga.step_late_success")
                .iter()
                .map(|(_, name)| *name)
                .collect();
            due.retain(|name| !late.contains(name));
            let order: Vec<&str> = order.into_iter().filter(|name| !late.contains(name)).collect();
            if order != due {
                problems.push(format!("undone in the order {order:?}, not {due:?}"));
            }
            for step in steps.iter().filter(|step| !step.has_compensation) {
                let tasks = own.iter().filter(|event| {
                    event.kind == "saga.step_compensated"
                        && event.text("step") == step.name
                        && !event.payload["task_id"].is_null()
                });
                if tasks.count() > 0 {
                    problems.push(format!(
                        "{} has nothing that undoes it, and was undone by a task",
                        step.name
                    ));
                }
            }
        }
        _ => {
            // All compensations succeed; only the third loss in a row ends one without.
            let is_lost = |event: &&&LogEvent| event.payload["error"]["type"] == "lost";
            let failed = own.iter().filter(|event| event.kind == "saga.step_compensation_failed");
            let (lost, all) = (failed.clone().filter(is_lost).count(), failed.count());
            if all == 0 || lost != all {
                problems.push(format!(
                    "failed, with {all} compensations failed and {lost} of them lost"
                ));
            }
        }
    }
    problems
}
