//! One started workflow as its events and those of its tasks tell it.
//!
//! Its tasks are those that are created under its id between its start and its end. What carried the id before and has not
//! ended is taken in soon after the start, which no event tells: of such a workflow the counts are known from below only.

use std::collections::BTreeMap;

use super::flaw::Flaw;
use crate::domain::event::EventType;
use crate::domain::state::TaskState;

/// What of the payload of a workflow's event counts.
#[derive(Debug, Default)]
pub(super) struct Told<'a> {
    /// How many tasks it has.
    pub(super) total: Option<u64>,
    /// How many are in which state.
    pub(super) counts: Option<&'a BTreeMap<String, u64>>,
}

/// A workflow as far as its events were read.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// How many tasks it had when it was started.
    begun_with: u64,
    /// How many were created.
    created: u64,
    /// How many of them have ended, by state.
    ended: BTreeMap<TaskState, u64>,
    /// Whether tasks carried its id before it was started.
    has_forerunners: bool,
    is_over: bool,
}

impl Flow {
    /// A workflow that is started; tasks may have carried its id before.
    pub(super) fn started(told: &Told<'_>, has_forerunners: bool) -> Self {
        Self {
            begun_with: told.total.unwrap_or_default(),
            has_forerunners,
            ..Self::default()
        }
    }

    /// Whether it has ended.
    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// One of its tasks is created.
    pub(super) const fn add(&mut self) {
        self.created += 1;
    }

    /// One of its tasks goes from one state to another.
    pub(super) fn follow(&mut self, before: Option<TaskState>, after: Option<TaskState>) {
        if self.is_over || before == after {
            return;
        }
        // A life that begins anew takes back the end of the one before.
        if let Some(count) = before.and_then(|state| self.ended.get_mut(&state)) {
            *count = count.saturating_sub(1);
        }
        if let Some(state) = after.filter(|state| state.is_terminal()) {
            *self.ended.entry(state).or_default() += 1;
        }
    }

    fn ends(&self, state: TaskState) -> u64 {
        self.ended.get(&state).copied().unwrap_or_default()
    }

    fn open(&self) -> u64 {
        self.created.max(self.begun_with) - self.ended.values().sum::<u64>().min(self.created)
    }

    /// Its end; `is_exact` where no event of its tasks may be missing.
    pub(super) fn end(&mut self, event: EventType, told: &Told<'_>, is_exact: bool, flaws: &mut Vec<Flaw>) {
        if std::mem::replace(&mut self.is_over, true) {
            flaws.push(Flaw::ToldAgain(event));
            return;
        }
        if !is_exact {
            return;
        }
        if self.open() > 0 {
            flaws.push(Flaw::EndedEarly(self.open()));
            return;
        }
        let failed = self.ends(TaskState::Failed) + self.ends(TaskState::Timeout);
        let is_failed = event == EventType::WorkflowFailed;
        // What was cancelled for a failure that was mended since lets it fail too.
        let may_fail = failed + self.ends(TaskState::Cancelled) > 0 || self.has_forerunners;
        if (failed > 0 && !is_failed) || (is_failed && !may_fail) {
            flaws.push(Flaw::OtherEnd { event, failed });
        }
        let mut compare = |what, told: Option<u64>, found| {
            let is_so = |told: u64| told == found || (self.has_forerunners && told > found);
            if let Some(told) = told.filter(|told| !is_so(*told)) {
                flaws.push(Flaw::Miscounted { what, told, found });
            }
        };
        compare("all", told.total, self.created);
        for state in TaskState::ALL.into_iter().filter(|state| state.is_terminal()) {
            let count = told.counts.and_then(|counts| counts.get(state.as_str()).copied());
            compare(state.as_str(), count, self.ends(state));
        }
    }

    /// Whether all its tasks have ended and it has not. A workflow ends in the same step as its last task.
    pub(super) fn is_stuck(&self) -> bool {
        !self.is_over && self.created > 0 && self.open() == 0 && !self.has_forerunners
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::super::verify;
    use super::*;
    use crate::domain::event::Event;

    /// The event that a word of a story stands for: subject, type, payload.
    fn told(word: &str) -> (&'static str, &'static str, &'static str) {
        const TASK: &str = "00000000-0000-8000-8000-000000000000";
        const OTHER: &str = "00000000-0000-8000-8000-000000001000";
        const CREATED: &str = r#"{"attempt":0,"trigger_event_id":"","workflow_id":"w"}"#;
        match word {
            "begin" => ("w", "workflow.started", r#"{"total_tasks":1}"#),
            "make" => (TASK, "task.created", CREATED),
            "run" => (TASK, "task.started", r#"{"attempt":1}"#),
            "rerun" => (TASK, "task.started", r#"{"attempt":2}"#),
            "complete" => (TASK, "task.completed", "{}"),
            "fail" => (TASK, "task.failed", "{}"),
            "bury" => (TASK, "task.dead_lettered", "{}"),
            "requeue" => (TASK, "task.requeued", r#"{"life":2}"#),
            // Carries the name alone when it comes before the beginning.
            "other" => (OTHER, "task.created", CREATED),
            "drop" => (OTHER, "task.cancelled", "{}"),
            "done" => (
                "w",
                "workflow.completed",
                r#"{"total_tasks":1,"counts":{"COMPLETED":1,"FAILED":0}}"#,
            ),
            "failed" => (
                "w",
                "workflow.failed",
                r#"{"total_tasks":1,"counts":{"COMPLETED":0,"FAILED":1}}"#,
            ),
            "stopped" => (
                "w",
                "workflow.cancelled",
                r#"{"total_tasks":2,"counts":{"COMPLETED":1,"CANCELLED":1}}"#,
            ),
            "miscount" => (
                "w",
                "workflow.completed",
                r#"{"total_tasks":2,"counts":{"COMPLETED":3}}"#,
            ),
            other => panic!("{other}"),
        }
    }

    fn flaws(story: &str) -> Vec<Flaw> {
        let mut numbers: BTreeMap<&str, u64> = BTreeMap::new();
        let events: Vec<Event> = story
            .split(' ')
            .zip(1..)
            .map(|(word, place)| {
                let (subject, kind, payload) = told(word);
                let number = numbers.entry(subject).or_default();
                *number += 1;
                Event {
                    entry_id: format!("{place}-0"),
                    event_type: format!("orchestration.{kind}"),
                    source_agent: "orchestration-runtime/r-00000000".to_owned(),
                    event_id: format!("{subject}/{number}"),
                    correlation_id: "c".to_owned(),
                    causation_id: String::new(),
                    timestamp: "2026-01-31T12:00:00.000Z".to_owned(),
                    payload: RawValue::from_string(payload.to_owned()).unwrap(),
                    traceparent: None,
                    tracestate: None,
                }
            })
            .collect();
        verify(&events).violations.into_iter().map(|one| one.flaw).collect()
    }

    #[test]
    fn every_way_of_a_workflow_is_without_flaw() {
        for story in [
            "begin make run complete done",
            "begin make other run complete drop stopped",
            // What came before and had not ended was taken in, if it did not end before that.
            "other begin make drop run complete done",
            "other begin make run complete drop stopped",
            "begin make run fail bury failed requeue rerun complete",
            "begin make run fail bury requeue rerun complete done",
        ] {
            assert_eq!(flaws(story), [], "{story}");
        }
    }

    #[test]
    fn each_broken_workflow_shows_its_flaw() {
        let miscounted = |what, told, found| Flaw::Miscounted { what, told, found };
        let other_end = |event, failed| Flaw::OtherEnd { event, failed };
        let cases = [
            (
                "make run complete done",
                vec![Flaw::NotStarted(EventType::WorkflowCompleted)],
            ),
            (
                "begin begin make run complete done",
                vec![Flaw::ToldAgain(EventType::WorkflowStarted)],
            ),
            (
                "begin make run complete done failed",
                vec![Flaw::ToldAgain(EventType::WorkflowFailed)],
            ),
            ("begin make run done complete", vec![Flaw::EndedEarly(1)]),
            ("begin done make run complete", vec![Flaw::EndedEarly(1)]),
            ("begin make run complete", vec![Flaw::NotEnded]),
            (
                "begin make run complete failed",
                vec![
                    other_end(EventType::WorkflowFailed, 0),
                    miscounted("COMPLETED", 0, 1),
                    miscounted("FAILED", 1, 0),
                ],
            ),
            (
                "begin make run fail bury done",
                vec![
                    other_end(EventType::WorkflowCompleted, 1),
                    miscounted("COMPLETED", 1, 0),
                    miscounted("FAILED", 0, 1),
                ],
            ),
            (
                "begin make run complete miscount",
                vec![miscounted("all", 2, 1), miscounted("COMPLETED", 3, 1)],
            ),
        ];
        for (story, expected) in cases {
            assert_eq!(flaws(story), expected, "{story}");
        }
    }
}
