//! The scenes with tasks that belong together: a graph whose order is kept, and a saga that is undone.

use std::collections::BTreeMap;

use serde_json::json;

use super::Verdict;
use super::seen::Seen;
use super::stage::Stage;
use crate::cli::exit::Failure;
use crate::domain::event::EventType;
use crate::domain::trigger::{SAGA_START, WORKFLOW_START};

/// The tasks of the graph, each with what it waits for.
const GRAPH: [(&str, &[&str]); 5] = [
    ("fetch", &[]),
    ("clean", &["fetch"]),
    ("enrich", &["fetch"]),
    ("merge", &["clean", "enrich"]),
    ("report", &["merge"]),
];
/// The saga's steps; the last one fails.
const STEPS: [&str; 3] = ["reserve", "charge", "ship"];

/// Two tasks in the middle run at the same time, and nothing before what it waits for.
pub(super) async fn graph(stage: &mut Stage) -> Result<Verdict, Failure> {
    const ID: &str = "nightly-report";
    let mark = stage.mark();
    let tasks: Vec<_> = GRAPH
        .iter()
        .map(|(key, dependencies)| {
            json!({ "task_id": key, "name": "sleep", "kwargs": { "ms": 250 }, "dependencies": dependencies })
        })
        .collect();
    stage
        .publish(WORKFLOW_START, ID, &json!({ "workflow_id": ID, "tasks": tasks }))
        .await?;
    let kinds = [
        EventType::WorkflowStarted,
        EventType::WorkflowCompleted,
        EventType::WorkflowFailed,
    ];
    let is_over = |seen: &[Seen]| {
        let end = |event: &Seen| event.subject == ID && event.kind != Some(EventType::WorkflowStarted);
        seen.iter().any(end)
    };
    let done = |seen: &[Seen]| {
        seen.iter()
            .filter(|event| event.is(EventType::TaskCompleted, ID))
            .count()
    };
    stage
        .watch(
            mark,
            &kinds[..1],
            |seen| format!("{} of {} completed", done(seen), GRAPH.len()),
            is_over,
        )
        .await?;

    let seen = stage.since(mark);
    let keys: BTreeMap<&str, &str> = seen
        .iter()
        .filter(|event| event.is(EventType::TaskCreated, ID))
        .map(|event| (event.subject.as_str(), event.text("key")))
        .collect();
    // Places in the log: what stands there first happened first.
    let places = |kind: EventType| -> BTreeMap<&str, usize> {
        let of_kind = seen.iter().enumerate().filter(|(_, event)| event.is(kind, ID));
        of_kind
            .filter_map(|(place, event)| Some((*keys.get(event.subject.as_str())?, place)))
            .collect()
    };
    let (starts, ends) = (places(EventType::TaskStarted), places(EventType::TaskCompleted));
    for (key, dependencies) in GRAPH {
        if let Some(place) = starts.get(key) {
            let event = &seen[*place];
            let after = if dependencies.is_empty() {
                String::new()
            } else {
                format!("after {}", dependencies.join(" and "))
            };
            stage
                .screen
                .happened(stage.seconds_at(event.at_ms), "started", key, &after)?;
        }
    }
    let kept = GRAPH
        .iter()
        .flat_map(|(key, dependencies)| dependencies.iter().map(move |before| (*key, *before)));
    let edges = kept.clone().count();
    let is_kept = |(key, before): &(&str, &str)| matches!((starts.get(key), ends.get(before)), (Some(start), Some(end)) if end < start);
    let held = kept.filter(is_kept).count();
    let is_beside =
        |one: &str, other: &str| matches!((starts.get(one), ends.get(other)), (Some(start), Some(end)) if start < end);
    let beside = is_beside("clean", "enrich") && is_beside("enrich", "clean");
    let ended = seen
        .iter()
        .filter(|event| event.subject == ID && event.kind == Some(EventType::WorkflowCompleted))
        .count();
    Ok(Verdict::new(
        held == edges && beside && ended == 1 && ends.len() == GRAPH.len(),
        format!(
            "{held} of {edges} edges kept, the two in the middle {}; {} of {} tasks completed, the graph {} time",
            if beside {
                "ran side by side"
            } else {
                "did not run side by side"
            },
            ends.len(),
            GRAPH.len(),
            ended
        ),
    ))
}

/// The last step fails, and what those before it did is undone in reverse.
pub(super) async fn saga(stage: &mut Stage) -> Result<Verdict, Failure> {
    const ID: &str = "order-789";
    let mark = stage.mark();
    let steps: Vec<_> = STEPS
        .iter()
        .map(|name| match *name {
            "ship" => json!({ "name": name, "action": "fail", "compensation": "sleep",
                "kwargs": { "message": "no carrier", "permanent": true }, "compensation_kwargs": { "ms": 1 } }),
            _ => json!({ "name": name, "action": "sleep", "kwargs": { "ms": 200 }, "compensation": "sleep" }),
        })
        .collect();
    stage
        .publish(SAGA_START, ID, &json!({ "saga_id": ID, "steps": steps }))
        .await?;
    let kinds = [
        EventType::SagaStarted,
        EventType::SagaStepStarted,
        EventType::SagaStepCompleted,
        EventType::SagaStepFailed,
        EventType::SagaCompensating,
        EventType::SagaStepCompensated,
        EventType::SagaStepCompensationFailed,
        EventType::SagaCompleted,
        EventType::SagaCompensated,
        EventType::SagaFailed,
    ];
    let ends = &kinds[7..];
    let is_end = |event: &&Seen| event.subject == ID && event.kind.is_some_and(|kind| ends.contains(&kind));
    stage
        .watch(
            mark,
            &kinds,
            |_| String::new(),
            |seen| seen.iter().any(|event| is_end(&event)),
        )
        .await?;

    let seen = stage.since(mark);
    let steps_of = |kind: EventType| -> Vec<&str> {
        let of_kind = seen
            .iter()
            .filter(|event| event.subject == ID && event.kind == Some(kind));
        of_kind.map(|event| event.text("step")).collect()
    };
    let done = steps_of(EventType::SagaStepCompleted);
    let failed = steps_of(EventType::SagaStepFailed);
    let undone = steps_of(EventType::SagaStepCompensated);
    let mut due = done.clone();
    due.reverse();
    let end = seen.iter().find(is_end).and_then(|event| event.kind);
    let is_good =
        done == STEPS[..2] && failed == STEPS[2..] && undone == due && end == Some(EventType::SagaCompensated);
    Ok(Verdict::new(
        is_good,
        format!(
            "{} done, {} failed; undone were {}, where {} was due; the end is {}",
            done.join(" and "),
            failed.join(" and "),
            undone.join(", "),
            due.join(", "),
            end.map_or("missing", EventType::as_str)
        ),
    ))
}
