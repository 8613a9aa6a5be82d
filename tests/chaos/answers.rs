//! What the log says of the agent's answers, against what the agent knows of them.

use std::collections::{BTreeMap, BTreeSet};

use super::agent::{Agent, Attempt, SILENCE, attempt_of};
use super::support::log::{Log, LogEvent, time_ms};
use super::support::oracle::{AGENT, lives};

/// What must come about in a run of many seeds; where one does not, the agent was not tested.
pub(crate) const EFFECTS: [&str; 6] = [
    "answers taken",
    "answers refused",
    "attempts lost by silence",
    "attempts kept by heartbeats",
    "agent told to stop",
    "agent died",
];

/// The answers that were refused, by attempt: the events, and where in the log that stands.
fn refused<'a>(log: &'a Log<'_>) -> BTreeMap<Attempt, Vec<(usize, &'a LogEvent)>> {
    let mut refused = BTreeMap::<Attempt, Vec<_>>::new();
    for (at, event) in log.events.iter().enumerate() {
        if event.kind != "command.refused" {
            continue;
        }
        if let Some(attempt) = attempt_of(&event.causation_id) {
            refused.entry(attempt).or_default().push((at, event));
        }
    }
    refused
}

/// Whether an event ends an attempt by what its agent said.
fn is_answer(event: &LogEvent) -> bool {
    let problem = &event.payload["error"]["type"];
    let is_end = event.kind == "task.retry_scheduled" || event.kind == "task.failed" || event.kind == "task.completed";
    is_end && event.text("worker_id") == format!("agent:{AGENT}") && problem != "lost" && problem != "timeout"
}

/// What can not be. `is_undone`: Redis may have lost its last moments, with attempts that answers are about. What is said of
/// such an attempt is found refused, while another of the same number may have begun by the time that the refusal is written.
pub(crate) fn judge(agent: &Agent, log: &Log<'_>, is_undone: bool) -> Vec<String> {
    let refused = refused(log);
    let lives = lives_with_places(log);
    let mut problems = Vec::new();
    for ((task, attempt), refusals) in &refused {
        let life = lives.get(task.as_str()).map_or(&[][..], Vec::as_slice);
        for (at, event) in refusals {
            problems.extend(wrongly_refused(life, *attempt, *at, event, is_undone));
        }
    }
    let reported = agent.reported.lock().unwrap();
    for (task, life) in &lives {
        for (_, event) in life.iter().filter(|(_, event)| is_answer(event)) {
            let attempt = ((*task).to_owned(), attempt_in(event));
            let Some(said) = reported.get(&attempt) else {
                problems.push(format!(
                    "the agent never said what {} tells: {}",
                    event.event_id, event.payload
                ));
                continue;
            };
            let refusals = refused.get(&attempt).into_iter().flatten();
            let not_taken: BTreeSet<&str> = refusals.map(|(_, event)| event.causation_id.as_str()).collect();
            // What counted is not refused, however often it comes.
            if said.iter().all(|event_id| not_taken.contains(event_id.as_str())) && !is_undone {
                problems.push(format!(
                    "attempt {} of {task} ended by an answer, and all were refused",
                    attempt.1
                ));
            }
        }
    }
    problems
}

/// The events of each task with their places in the log.
fn lives_with_places<'a>(log: &'a Log<'_>) -> BTreeMap<&'a str, Vec<(usize, &'a LogEvent)>> {
    let mut lives = BTreeMap::<&str, Vec<_>>::new();
    for (at, event) in log.events.iter().enumerate() {
        if event.kind.starts_with("task.") {
            lives.entry(&event.subject).or_default().push((at, event));
        }
    }
    lives
}

/// Refused rightly is only what comes after the end of its attempt.
fn wrongly_refused(
    life: &[(usize, &LogEvent)],
    attempt: u64,
    at: usize,
    refusal: &LogEvent,
    is_undone: bool,
) -> Option<String> {
    let before = || {
        life.iter()
            .take_while(|(place, _)| *place < at)
            .map(|(_, event)| *event)
    };
    let is_start = |event: &LogEvent| ["task.created", "task.started"].contains(&event.kind.as_str());
    let has_started = before().any(|event| event.kind == "task.started" && attempt_in(event) == attempt);
    let is_over = before().any(|event| !is_start(event) && attempt_in(event) >= attempt);
    let is_late = ["stale_attempt", "invalid_transition"].contains(&refusal.text("reason"));
    let is_right = is_undone || (has_started && is_over && is_late);
    (!is_right).then(|| format!("{} was refused wrongly: {}", refusal.causation_id, refusal.payload))
}

fn attempt_in(event: &LogEvent) -> u64 {
    event.payload["attempt"].as_u64().unwrap_or_default()
}

/// How often things happened to the agent.
pub(crate) fn seen(agent: &Agent, log: &Log<'_>) -> BTreeMap<String, u64> {
    let mut seen: BTreeMap<&str, u64> = agent.seen.lock().unwrap().clone();
    let silence_ms = i64::try_from(SILENCE.as_millis()).unwrap_or_default();
    for events in lives(log).into_values() {
        let mut started_ms = 0;
        for event in events {
            let at_ms = time_ms(&event.fields["timestamp"]);
            let message = event.payload["error"]["message"].as_str().unwrap_or_default();
            if event.kind == "task.started" {
                started_ms = at_ms;
            } else if message.starts_with("agent ") {
                *seen.entry("attempts lost by silence").or_default() += 1;
            } else if is_answer(event) {
                *seen.entry("answers taken").or_default() += 1;
                let is_long = event.kind == "task.completed" && at_ms - started_ms > silence_ms;
                *seen.entry("attempts kept by heartbeats").or_default() += u64::from(is_long);
            }
        }
    }
    let refusals: usize = refused(log).values().map(Vec::len).sum();
    seen.insert("answers refused", refusals as u64);
    seen.into_iter().map(|(what, times)| (what.to_owned(), times)).collect()
}
