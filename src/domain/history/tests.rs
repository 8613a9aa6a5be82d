//! Ways to live that are without flaw, and broken histories that each show theirs.

use serde_json::value::RawValue;

use super::*;

const TASK: &str = "00000000-0000-8000-8000-000000000000";

/// An event of one task: type without `orchestration.task.`, number, attempt.
type Row = (&'static str, u64, u64);

fn log(rows: &[Row]) -> Vec<Event> {
    let rows = rows.iter().zip(1..);
    rows.map(|((kind, seq, attempt), place)| Event {
        entry_id: format!("{place}-0"),
        event_type: format!("orchestration.task.{kind}"),
        source_agent: "orchestration-runtime/r-00000000".to_owned(),
        event_id: format!("{TASK}/{seq}"),
        correlation_id: "c".to_owned(),
        causation_id: String::new(),
        timestamp: "2026-01-31T12:00:00.000Z".to_owned(),
        payload: RawValue::from_string(format!(r#"{{"attempt":{attempt}}}"#)).unwrap(),
        traceparent: None,
        tracestate: None,
    })
    .collect()
}

fn flaws(rows: &[Row]) -> Vec<String> {
    let violations = verify(&log(rows)).violations;
    let text = violations
        .iter()
        .map(|violation| violation.to_string().replacen(TASK, "t", 1));
    text.collect()
}

#[test]
fn every_way_to_live_is_without_flaw() {
    let lives: [&[Row]; 5] = [
        &[("created", 1, 0), ("started", 2, 1), ("completed", 3, 1)],
        &[("created", 1, 0), ("cancelled", 2, 0)],
        &[
            ("created", 1, 0),
            ("started", 2, 1),
            ("retry_scheduled", 3, 1),
            ("started", 4, 2),
            ("released", 5, 2),
            ("started", 6, 3),
            ("cancelled", 7, 3),
        ],
        &[
            ("created", 1, 0),
            ("started", 2, 1),
            ("timeout", 3, 1),
            ("dead_lettered", 4, 1),
        ],
        &[
            ("created", 1, 0),
            ("started", 2, 1),
            ("failed", 3, 1),
            ("dead_lettered", 4, 1),
            ("requeued", 5, 1),
            ("started", 6, 2),
            ("failed", 7, 2),
            ("dead_lettered", 8, 2),
        ],
    ];

    for life in lives {
        assert_eq!(flaws(life), Vec::<String>::new());
    }
    let verdict = verify(&log(lives[3]));
    assert_eq!((verdict.events, verdict.subjects), (4, 1));
    assert_eq!(verdict.tasks, BTreeMap::from([("TIMEOUT", 1)]));
}

#[test]
fn each_broken_history_shows_its_one_flaw() {
    let cases: [(&[Row], &str); 13] = [
        (
            &[("created", 1, 0), ("started", 3, 1), ("completed", 4, 1)],
            "t at 2-0: number 3 follows where 2 is due",
        ),
        (
            &[("created", 2, 0), ("started", 3, 1), ("completed", 4, 1)],
            "t at 1-0: number 2 follows where 1 is due",
        ),
        (
            &[
                ("created", 1, 0),
                ("started", 2, 1),
                ("completed", 3, 1),
                ("completed", 3, 1),
            ],
            "t at 4-0: number 3 comes a second time",
        ),
        (
            &[("started", 1, 1), ("completed", 2, 1)],
            "t at 1-0: `orchestration.task.started` before the task was created",
        ),
        (
            &[
                ("created", 1, 0),
                ("created", 2, 0),
                ("started", 3, 1),
                ("completed", 4, 1),
            ],
            "t at 2-0: created a second time",
        ),
        (
            &[("created", 1, 0), ("completed", 2, 0)],
            "t at 2-0: `orchestration.task.completed` of a task that is PENDING",
        ),
        (
            &[
                ("created", 1, 0),
                ("started", 2, 1),
                ("started", 3, 2),
                ("completed", 4, 2),
            ],
            "t at 3-0: `orchestration.task.started` of a task that is RUNNING",
        ),
        (
            &[
                ("created", 1, 0),
                ("started", 2, 1),
                ("completed", 3, 1),
                ("cancelled", 4, 1),
            ],
            "t at 4-0: `orchestration.task.cancelled` of a task that is COMPLETED",
        ),
        (
            &[
                ("created", 1, 0),
                ("cancelled", 2, 0),
                ("requeued", 3, 0),
                ("cancelled", 4, 0),
            ],
            "t at 3-0: `orchestration.task.requeued` of a task that is CANCELLED",
        ),
        (
            &[
                ("created", 1, 0),
                ("started", 2, 1),
                ("completed", 3, 1),
                ("dead_lettered", 4, 1),
            ],
            "t at 4-0: `orchestration.task.dead_lettered` of a task that is COMPLETED",
        ),
        (
            &[
                ("created", 1, 0),
                ("started", 2, 1),
                ("retry_scheduled", 3, 1),
                ("started", 4, 1),
                ("completed", 5, 1),
            ],
            "t at 4-0: attempt 1 starts after attempt 1",
        ),
        (
            &[("created", 1, 0), ("started", 2, 1)],
            "t: the task is still RUNNING at the end of the log",
        ),
        (
            &[("created", 1, 0), ("started", 2, 1), ("failed", 3, 1)],
            "t: the task is FAILED and lies in no dead letter",
        ),
    ];

    for (rows, flaw) in cases {
        assert_eq!(flaws(rows), [flaw], "{rows:?}");
    }
}

#[test]
fn a_task_stays_in_its_chain() {
    let mut events = log(&[("created", 1, 0), ("cancelled", 2, 0)]);
    "d".clone_into(&mut events[1].correlation_id);

    let violations = verify(&events).violations;

    assert_eq!(
        violations[0].to_string(),
        format!("{TASK} at 2-0: the correlation id changes to `d`")
    );
    assert_eq!(violations.len(), 1);
}

#[test]
fn what_is_of_a_later_version_only_has_to_count_on() {
    let mut events = log(&[("of_a_later_version", 1, 0), ("of_a_later_version", 3, 0)]);

    let verdict = verify(&events);

    assert_eq!(verdict.violations.len(), 1);
    assert_eq!(verdict.violations[0].flaw, Flaw::Gap { expected: 2, found: 3 });
    assert!(verdict.tasks.is_empty());
    for event in &mut events {
        "orchestration.group.of_a_later_version".clone_into(&mut event.event_type);
    }
    assert_eq!(verify(&events).violations.len(), 1);
}

fn event(subject: &str, seq: u64, kind: &str, payload: &str, place: u64) -> Event {
    let mut event = log(&[("created", seq, 0)]).remove(0);
    event.entry_id = format!("{place}-0");
    event.event_id = format!("{subject}/{seq}");
    event.event_type = format!("orchestration.{kind}");
    event.payload = RawValue::from_string(payload.to_owned()).unwrap();
    event
}

#[test]
fn a_task_is_created_by_the_trigger_that_it_names_and_its_retries_count_on() {
    let events = [
        event(
            TASK,
            1,
            "task.created",
            r#"{"attempt":0,"trigger_event_id":"other"}"#,
            1,
        ),
        event(TASK, 2, "task.started", r#"{"attempt":1}"#, 2),
        event(TASK, 3, "task.retry_scheduled", r#"{"attempt":1,"retry_count":2}"#, 3),
        event(TASK, 4, "task.cancelled", r#"{"attempt":1}"#, 4),
    ];

    let violations = verify(&events).violations;

    let found: Vec<_> = violations.iter().map(|one| one.flaw.guarantee()).collect();
    assert_eq!(
        found,
        [Guarantee::OncePerTrigger, Guarantee::RetryBudget],
        "{violations:?}"
    );
}

#[test]
fn a_task_starts_after_the_end_of_what_it_depends_on() {
    let first = "00000000-0000-8000-8000-000000001000";
    let created = format!(r#"{{"attempt":0,"trigger_event_id":"","blocked_by":["{first}"]}}"#);
    let log = |end: &str| {
        vec![
            event(first, 1, "task.created", r#"{"attempt":0,"trigger_event_id":""}"#, 1),
            event(TASK, 1, "task.created", &created, 2),
            event(first, 2, end, r#"{"attempt":1}"#, 3),
            event(TASK, 2, "task.started", r#"{"attempt":1}"#, 4),
            event(TASK, 3, "task.completed", r#"{"attempt":1}"#, 5),
        ]
    };

    assert_eq!(verify(&log("task.cancelled")).violations, []);
    let early = verify(&log("task.started")).violations;
    assert_eq!(early[0].flaw, Flaw::StartedTooEarly(first.parse().unwrap()));
}

#[test]
fn the_end_of_the_life_that_a_task_waits_for_lets_it_start() {
    let first = "00000000-0000-8000-8000-000000001000";
    let created = format!(r#"{{"attempt":0,"trigger_event_id":"","blocked_by":["{first}"]}}"#);
    let letter = format!("{first}.1");
    let buried = format!(r#"{{"attempt":1,"dead_letter_id":"{letter}"}}"#);
    let requeued = format!(r#"{{"attempt":1,"dead_letter_id":"{letter}","life":2}}"#);
    let log = |place_of_dependent: u64| {
        let mut events = vec![
            event(first, 1, "task.created", r#"{"attempt":0,"trigger_event_id":""}"#, 10),
            event(first, 2, "task.started", r#"{"attempt":1}"#, 20),
            event(first, 3, "task.failed", r#"{"attempt":1}"#, 30),
            event(first, 4, "task.dead_lettered", &buried, 40),
            event(first, 5, "task.requeued", &requeued, 50),
            event(TASK, 1, "task.created", &created, place_of_dependent),
            event(TASK, 2, "task.started", r#"{"attempt":1}"#, 60),
        ];
        events.sort_by_key(|event| event.entry_id.clone());
        events
    };

    let starts_early = |place| {
        let early = Flaw::StartedTooEarly(first.parse().unwrap());
        verify(&log(place)).violations.iter().any(|one| one.flaw == early)
    };
    assert!(!starts_early(15), "it waited for the first life");
    assert!(starts_early(55), "it waits for the second life");
}

#[test]
fn a_log_without_its_beginning_shows_no_gap_but_later_ones_do() {
    let rows: &[Row] = &[("started", 2, 1), ("completed", 3, 1)];
    let read = |rows: &[Row]| {
        let mut history = History::behind(EntryId::default(), Beginning::Cut);
        for event in &log(rows) {
            history.read(event);
        }
        history.close()
    };

    assert_eq!(read(rows).violations, []);
    assert_eq!(read(rows).tasks, BTreeMap::from([("COMPLETED", 1)]));
    assert_eq!(read(&[("started", 2, 1), ("completed", 4, 1)]).violations.len(), 1);
    assert_eq!(read(&[("dead_lettered", 5, 3)]).violations, []);
}

#[test]
fn what_was_trimmed_under_the_reader_is_no_gap() {
    let mut events = log(&[("created", 1, 0), ("started", 2, 1), ("completed", 5, 2)]);
    events[2].entry_id = "9-0".to_owned();
    let read = |hole: Option<&str>| {
        let mut history = History::default();
        history.read(&events[0]);
        history.read(&events[1]);
        if let Some(upto) = hole {
            history.skip_to(upto.parse().unwrap());
        }
        history.read(&events[2]);
        history.close().violations
    };

    assert_eq!(read(Some("7-0")), []);
    assert_eq!(read(None)[0].flaw, Flaw::Gap { expected: 3, found: 5 });
}

#[test]
fn each_life_goes_on_from_the_dead_letter_of_the_one_before() {
    let rows = [
        ("created", 1, 0),
        ("started", 2, 1),
        ("failed", 3, 1),
        ("dead_lettered", 4, 1),
        ("requeued", 5, 1),
        ("started", 6, 2),
        ("completed", 7, 2),
    ];
    let told = |payload: &str| {
        let mut events = log(&rows);
        let members = [(3, r#"{"attempt":1,"dead_letter_id":"t.1"}"#), (4, payload)];
        for (place, payload) in members {
            events[place].payload = RawValue::from_string(payload.to_owned()).unwrap();
        }
        let violations = verify(&events).violations;
        violations.into_iter().map(|one| one.flaw).collect::<Vec<_>>()
    };

    assert_eq!(told(r#"{"attempt":1,"dead_letter_id":"t.1","life":2}"#), []);
    assert_eq!(
        told(r#"{"attempt":1,"dead_letter_id":"t.1","life":3}"#),
        [Flaw::LifeNotNext { before: 1, found: 3 }]
    );
    let other = Flaw::OtherDeadLetter {
        expected: "t.1".to_owned(),
        found: "t.9".to_owned(),
    };
    assert_eq!(told(r#"{"attempt":1,"dead_letter_id":"t.9","life":2}"#), [other]);
}

#[test]
fn a_success_behind_the_end_of_its_saga_is_a_dead_letter() {
    let mut history = History::default();

    history.read(&event(
        "s",
        1,
        "saga.step_late_success",
        r#"{"dead_letter_id":"c.1"}"#,
        1,
    ));

    assert!(history.letter("c.1").is_some_and(|letter| !letter.is_gone));
}

#[test]
fn dead_letters_come_and_go_and_cuts_are_kept() {
    let mut history = History::default();
    for event in [
        event("a.1", 1, "trigger.rejected", r#"{"dead_letter_id":"a.1"}"#, 1),
        event("b.1", 1, "trigger.rejected", r#"{"dead_letter_id":"b.1"}"#, 2),
        event("r-1", 1, "operator.action", r#"{"action":"discard","target":"a.1"}"#, 3),
        event(
            "r-1",
            2,
            "history.rolled_back",
            r#"{"last_seen":"9-0","now_at":"2-0"}"#,
            4,
        ),
    ] {
        history.read(&event);
    }

    assert!(history.letter("a.1").is_some_and(|letter| letter.is_gone));
    assert!(history.letter("b.1").is_some_and(|letter| !letter.is_gone));
    assert_eq!(history.cuts()[0].now_at, "2-0");
    assert_eq!(history.close().violations, []);
}
