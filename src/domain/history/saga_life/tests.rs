//! Histories of sagas as stories: each broken one shows its flaw, under its guarantee.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use super::super::guarantee::Guarantee;
use super::super::{Violation, verify};
use crate::domain::event::Event;

/// The id of the task that carries out (0) or undoes (1, and 2 the second time) a step.
fn task(step: &str, role: usize) -> String {
    let number = usize::from(step.as_bytes()[0]) * 16 + role;
    format!("00000000-0000-8000-8000-0000000{number:04x}0")
}

/// Tells a story: words `<what>:<step or list>`. Of a task: `+`created, `>`started, `ok`, `no` (failed and kept), `late`
/// (timed out and kept), `lost` and `retry` (to be tried again after an error in doubt and one that is not), `x` cancelled, `again` requeued; a digit behind it names what
/// undoes the step. Of the saga what its events are called, with steps behind it.
struct Teller {
    numbers: BTreeMap<String, u64>,
    attempts: BTreeMap<String, u64>,
    lives: BTreeMap<String, u64>,
    events: Vec<Event>,
}

impl Teller {
    fn tell(&mut self, subject: &str, kind: &str, payload: String) {
        let number = self.numbers.entry(subject.to_owned()).or_default();
        *number += 1;
        self.events.push(Event {
            entry_id: format!("{}-0", self.events.len() + 1),
            event_type: format!("orchestration.{kind}"),
            source_agent: "orchestration-runtime/r-00000000".to_owned(),
            event_id: format!("{subject}/{number}"),
            correlation_id: "c".to_owned(),
            causation_id: String::new(),
            timestamp: "2026-01-31T12:00:00.000Z".to_owned(),
            payload: RawValue::from_string(payload).unwrap(),
            traceparent: None,
            tracestate: None,
        });
    }

    fn of_task(&mut self, step: &str, role: usize, kind: &str, more: &str) {
        let id = task(step, role);
        let attempt = self.attempts.entry(id.clone()).or_default();
        *attempt += u64::from(kind == "started");
        let payload = format!(
            r#"{{"task_id":"{id}","saga_id":"s","step":"{step}","attempt":{attempt},"trigger_event_id":""{more}}}"#
        );
        self.tell(&id, &format!("task.{kind}"), payload);
    }

    fn word(&mut self, word: &str) {
        let (what, of) = word.split_once(':').unwrap_or((word, ""));
        let steps = |list: &str| {
            let names: Vec<String> = list
                .split(',')
                .filter(|name| !name.is_empty())
                .map(|name| format!("{name:?}"))
                .collect();
            format!("[{}]", names.join(","))
        };
        let (action, role) = match what.strip_suffix(['1', '2']) {
            Some(action) => (action, usize::from(what.as_bytes()[what.len() - 1] - b'0')),
            None => (what, 0),
        };
        match action {
            "+" => self.of_task(of, role, "created", ""),
            ">" => self.of_task(of, role, "started", ""),
            "ok" => self.of_task(of, role, "completed", r#","result":null"#),
            "x" => self.of_task(of, role, "cancelled", r#","reason":"saga_aborted""#),
            "lost" | "retry" => {
                let more = format!(r#","retry_count":1,"error":{{"type":"{action}"}}"#);
                self.of_task(of, role, "retry_scheduled", &more);
            }
            "no" | "late" => {
                let (kind, error) = if action == "no" {
                    ("failed", "no")
                } else {
                    ("timeout", "timeout")
                };
                self.of_task(of, role, kind, &format!(r#","error":{{"type":"{error}"}}"#));
                self.of_task(of, role, "dead_lettered", "");
            }
            "again" => {
                let life = self.lives.entry(task(of, role)).or_insert(1);
                *life += 1;
                let more = format!(r#","life":{life}"#);
                self.of_task(of, role, "requeued", &more);
            }
            "begin" | "pivotal" => {
                let pivot = if action == "pivotal" { r#""b""# } else { "null" };
                self.tell(
                    "s",
                    "saga.started",
                    format!(r#"{{"total_steps":{of},"pivot":{pivot}}}"#),
                );
            }
            "step_started" | "step_completed" => {
                let payload = format!(r#"{{"step":"{of}","task_id":"{}"}}"#, task(of, 0));
                self.tell("s", &format!("saga.{action}"), payload);
            }
            "step_failed" | "step_doubted" | "step_given_up" => {
                let error = match action {
                    "step_failed" => "no",
                    "step_doubted" => "timeout",
                    _ => "cancelled",
                };
                let payload = format!(r#"{{"step":"{of}","error":{{"type":"{error}"}}}}"#);
                self.tell("s", "saga.step_failed", payload);
            }
            "compensating" => {
                let payload = format!(r#"{{"failed_step":null,"steps_to_compensate":{}}}"#, steps(of));
                self.tell("s", "saga.compensating", payload);
            }
            "undone" => {
                let task = if role == 0 {
                    "null".to_owned()
                } else {
                    format!("{:?}", task(of, role))
                };
                let payload = format!(r#"{{"step":"{of}","task_id":{task},"error":null}}"#);
                self.tell("s", "saga.step_compensated", payload);
            }
            "stuck" => {
                let payload = format!(
                    r#"{{"step":"{of}","task_id":"{}","error":{{"type":"no"}}}}"#,
                    task(of, role)
                );
                self.tell("s", "saga.step_compensation_failed", payload);
            }
            "came_late" => {
                let payload = format!(
                    r#"{{"step":"{of}","task_id":"{}","has_compensation":true}}"#,
                    task(of, 0)
                );
                self.tell("s", "saga.step_late_success", payload);
            }
            "resumed" => self.tell("s", "saga.resumed", r#"{"actor":"me"}"#.to_owned()),
            "completed" | "compensated" | "failed" => {
                let mut lists = of.split('/');
                let mut list = || steps(lists.next().unwrap_or_default());
                let payload = format!(
                    r#"{{"completed_steps":{},"compensated_steps":{},"uncompensated_steps":{}}}"#,
                    list(),
                    list(),
                    list()
                );
                self.tell("s", &format!("saga.{action}"), payload);
            }
            other => panic!("{other}"),
        }
    }
}

fn violations(story: &str) -> Vec<Violation> {
    let mut teller = Teller {
        numbers: BTreeMap::new(),
        attempts: BTreeMap::new(),
        lives: BTreeMap::new(),
        events: Vec::new(),
    };
    story.split_whitespace().for_each(|word| teller.word(word));
    verify(&teller.events).violations
}

/// Two steps, of which the first completed.
const HALF: &str = "begin:2 +:a +:b >:a step_started:a ok:a step_completed:a >:b step_started:b";

#[test]
fn every_way_of_a_saga_is_without_flaw() {
    for story in [
        format!("{HALF} ok:b step_completed:b completed:a,b"),
        format!("{HALF} no:b step_failed:b compensating:a +1:a >1:a ok1:a undone1:a compensated:a/a"),
        // In doubt, by its last attempt or by one before.
        format!(
            "{HALF} late:b step_doubted:b compensating:b,a +1:b >1:b ok1:b undone1:b +1:a >1:a ok1:a undone1:a compensated:a/b,a"
        ),
        format!(
            "{HALF} lost:b >:b no:b step_failed:b compensating:b,a +1:b >1:b ok1:b undone1:b undone:a compensated:a/b,a"
        ),
        // Cancelled while it runs, which leaves open what it did, and between two attempts, which does not.
        format!("{HALF} x:b step_given_up:b compensating:b,a undone:b undone:a compensated:a/b,a"),
        format!("{HALF} retry:b x:b step_given_up:b compensating:a undone:a compensated:a/a"),
        format!("{HALF} lost:b x:b step_given_up:b compensating:b,a undone:b undone:a compensated:a/b,a"),
        // Cancelled before anything started.
        "begin:2 +:a +:b x:a x:b compensating: compensated:".to_owned(),
        // What could not be undone, and a second try of it.
        format!(
            "{HALF} no:b step_failed:b compensating:a +1:a >1:a no1:a stuck1:a failed:a//a \
             resumed again1:a >1:a ok1:a undone1:a compensated:a/a"
        ),
        // A late success while it goes back, and one behind the end.
        format!(
            "{HALF} late:b step_doubted:b compensating:b,a +1:b >1:b ok1:b undone1:b +1:a >1:a came_late:b ok1:a undone1:a \
             +2:b >2:b ok2:b undone2:b compensated:a/a,b"
        ),
        format!(
            "{HALF} late:b step_doubted:b compensating:b,a undone:b +1:a >1:a ok1:a undone1:a compensated:a/b,a \
             came_late:b resumed +1:b >1:b ok1:b undone1:b compensated:a/a,b"
        ),
        // Behind the pivot: given up, and resumed.
        "pivotal:3 +:a +:b +:c >:a step_started:a ok:a step_completed:a >:b step_started:b ok:b step_completed:b \
         >:c step_started:c no:c step_failed:c failed:a,b resumed again:c >:c ok:c step_completed:c completed:a,b,c"
            .to_owned(),
    ] {
        assert_eq!(violations(&story), [], "{story}");
    }
}

#[test]
fn each_broken_saga_breaks_exactly_its_guarantee() {
    use Guarantee::{Compensations, Sagas};
    let undo = |step: &str| format!("+1:{step} >1:{step} ok1:{step} undone1:{step}");
    let (a, b) = (undo("a"), undo("b"));
    let doubtful = format!("{HALF} late:b step_doubted:b");
    let cases = [
        // The order of compensations.
        (
            format!("{doubtful} compensating:a,b {b} {a} compensated:a/b,a"),
            Compensations,
        ),
        (
            format!("{doubtful} compensating:b,a +1:a >1:a ok1:a undone1:a {b} compensated:a/a,b"),
            Compensations,
        ),
        (
            format!("{doubtful} compensating:b,a {b} compensated:a/b"),
            Compensations,
        ),
        (format!("{doubtful} compensating:a {a} compensated:a/a"), Compensations),
        (
            format!("{HALF} x:b step_given_up:b compensating:a undone:a compensated:a/a"),
            Compensations,
        ),
        (
            format!("{HALF} retry:b x:b step_given_up:b compensating:b,a undone:b undone:a compensated:a/b,a"),
            Compensations,
        ),
        // One that never came to anything is undone.
        (
            format!("{HALF} no:b step_failed:b compensating:a {a} {b} compensated:a/a,b"),
            Compensations,
        ),
        (
            format!(
                "{HALF} no:b step_failed:b compensating:a {a} {} compensated:a/a",
                "+2:a >2:a ok2:a undone2:a"
            ),
            Compensations,
        ),
        // What could not be undone is passed over, or told wrongly.
        (
            format!("{HALF} no:b step_failed:b compensating:a +1:a >1:a no1:a stuck1:a compensated:a"),
            Compensations,
        ),
        (
            format!("{HALF} no:b step_failed:b compensating:a +1:a >1:a no1:a stuck1:a failed:a/a/"),
            Compensations,
        ),
        (
            format!("{HALF} no:b step_failed:b compensating:a {a} failed:a/a"),
            Compensations,
        ),
        (
            format!("{doubtful} compensating:b,a {b} {a} compensated:a/a,b"),
            Compensations,
        ),
        // A late success that nobody undoes.
        (
            format!("{doubtful} compensating:b,a {b} +1:a >1:a came_late:b ok1:a undone1:a compensated:a/b,a"),
            Compensations,
        ),
        // Back from behind the pivot.
        (
            "pivotal:3 +:a +:b +:c >:a step_started:a ok:a step_completed:a >:b step_started:b ok:b step_completed:b \
             >:c step_started:c no:c step_failed:c compensating:b,a undone:b undone:a compensated:a,b/b,a"
                .to_owned(),
            Compensations,
        ),
        // Beginnings, ends, and what steps do.
        ("+:a >:a ok:a step_completed:a".to_owned(), Sagas),
        (format!("begin:2 {HALF} ok:b step_completed:b completed:a,b"), Sagas),
        (
            format!("{HALF} ok:b step_completed:b completed:a,b completed:a,b"),
            Sagas,
        ),
        (
            format!("{HALF} no:b step_failed:b compensating:a {a} compensated:a/a compensated:a/a"),
            Sagas,
        ),
        (format!("{HALF} ok:b step_completed:b completed:b,a"), Sagas),
        (format!("{HALF} no:b step_failed:b completed:a"), Sagas),
        (format!("{HALF} no:b step_failed:b failed:a"), Compensations),
        (format!("{HALF} ok:b step_completed:b"), Sagas),
        (format!("{HALF} compensating:a {a} compensated:a/a ok:b"), Sagas),
        (format!("{HALF} step_completed:b ok:b completed:a,b"), Sagas),
        (
            format!(
                "{HALF} lost:b x:b step_doubted:b compensating:b,a {b} {a} compensated:a/b,a resumed compensated:a/b,a"
            ),
            Sagas,
        ),
    ];

    for (story, guarantee) in cases {
        let found = violations(&story);
        let broken: BTreeSet<Guarantee> = found.iter().map(|one| one.flaw.guarantee()).collect();
        assert_eq!(broken, BTreeSet::from([guarantee]), "{story}\n{found:#?}");
    }
}

#[test]
fn no_step_starts_once_its_saga_goes_back() {
    let story =
        format!("{HALF} no:b step_failed:b compensating:a again:b >:b ok:b +1:a >1:a ok1:a undone1:a compensated:a/a");

    let found = violations(&story);

    assert_eq!(found[0].flaw.guarantee(), Guarantee::Sagas, "{found:#?}");
}
