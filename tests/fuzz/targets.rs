//! What is fuzzed: one function a target, from any bytes to claims that must hold for them.
//!
//! A target does not only look for panics. What is accepted must mean what was sent, what is refused must say why in
//! a form that can go into an event. The same functions run under libFuzzer (`make fuzz`) and, with mutated seeds and no
//! coverage, in the tests.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;
use tempfile::TempDir;
use waooaw_orchestration::domain::envelope::{Envelope, Refused};
use waooaw_orchestration::domain::rejection::Rejection;
use waooaw_orchestration::domain::trigger::{Inbound, TASK_TRIGGER, TaskTrigger, interpret};
use waooaw_orchestration::service::config::{Sources, load};

/// The id of the entry that every input stands for.
const ENTRY_ID: &str = "1700000000000-0";

/// Names and values of an entry, one after the other, with this between them. No text holds it, so seeds are easy to
/// write, and values may still be any bytes but this one.
const SEPARATOR: u8 = 0xff;

fn fields(data: &[u8]) -> Vec<(&[u8], &[u8])> {
    let parts: Vec<&[u8]> = data.split(|byte| *byte == SEPARATOR).collect();
    parts
        .chunks(2)
        .map(|pair| (pair[0], pair.get(1).copied().unwrap_or_default()))
        .collect()
}

/// An entry of a stream: in our own form, as attributes of an event of CloudEvents, or with a whole one in one field.
pub(crate) fn envelope(data: &[u8]) {
    let fields = fields(data);
    match Envelope::decode(ENTRY_ID, &fields) {
        Ok(envelope) => {
            holds_for(&envelope);
            same_when_sent_again(&envelope);
        }
        Err(refused) => says_why(&refused),
    }
    if let Ok(text) = std::str::from_utf8(data) {
        match Envelope::from_json(text, ENTRY_ID) {
            Ok(envelope) => holds_for(&envelope),
            Err(refused) => says_why(&refused),
        }
    }
}

/// The payload of an event, or a whole entry when it has a separator.
pub(crate) fn trigger(data: &[u8]) {
    let whole = fields(data);
    let payload = [
        (&b"event_type"[..], TASK_TRIGGER.as_bytes()),
        (b"source_agent", b"fuzz"),
        (b"correlation_id", b"chain-1"),
        (b"payload", data),
    ];
    let fields = if whole.len() > 1 { &whole[..] } else { &payload };
    let Ok(envelope) = Envelope::decode(ENTRY_ID, fields) else {
        return;
    };
    match interpret(&envelope) {
        Ok(Inbound::Task(task)) => {
            assert_eq!(envelope.event_type, TASK_TRIGGER);
            makes_sense(&task, &envelope);
        }
        Ok(_) => assert_ne!(envelope.event_type, TASK_TRIGGER),
        Err(rejection) => {
            is_told(&rejection);
            says_why(&envelope.refused(rejection));
        }
    }
}

/// A configuration file.
pub(crate) fn config(data: &[u8]) {
    thread_local! {
        static PLACE: RefCell<TempDir> = RefCell::new(tempfile::tempdir().expect("a folder for the file"));
    }
    PLACE.with_borrow(|place| {
        let file = place.path().join("fuzz.toml");
        std::fs::write(&file, data).expect("the folder is writable");
        let loaded = load(&Sources {
            directory: place.path(),
            environment: &BTreeMap::new(),
            file: Some(&file),
            flags: Vec::new(),
        });
        match loaded {
            Ok(loaded) => {
                assert!(loaded.values.iter().all(|value| !value.source.is_empty()));
                assert!(loaded.config.retry.default.problems().is_empty());
                assert!(loaded.config.worker_pool.max_workers >= loaded.config.worker_pool.min_workers);
                assert!(!format!("{:?}", loaded.config).is_empty());
            }
            Err(errors) => {
                assert!(!errors.problems().is_empty(), "refused without a problem");
                assert!(!errors.to_string().trim().is_empty());
            }
        }
    });
}

fn holds_for(envelope: &Envelope<'_>) {
    for (name, limit) in [
        (&envelope.event_type, 128),
        (&envelope.source_agent, 256),
        (&envelope.event_id, 256),
    ] {
        assert!(!name.is_empty() && name.len() <= limit, "{name:?}");
    }
    assert!(envelope.payload.len() <= Envelope::MAX_BYTES);
    assert!(envelope.payload.trim_start().starts_with('{'));
    assert!(envelope.tracestate.is_none() || envelope.traceparent.is_some());
}

/// An accepted event in our own form is the same event.
fn same_when_sent_again(envelope: &Envelope<'_>) {
    let mut fields: Vec<(&[u8], &[u8])> = vec![
        (b"event_type", envelope.event_type.as_bytes()),
        (b"source_agent", envelope.source_agent.as_bytes()),
        (b"event_id", envelope.event_id.as_bytes()),
        (b"payload", envelope.payload.as_bytes()),
    ];
    for (name, value) in [
        (&b"correlation_id"[..], &envelope.correlation_id),
        (b"traceparent", &envelope.traceparent),
        (b"tracestate", &envelope.tracestate),
    ] {
        fields.extend(value.as_ref().map(|value| (name, value.as_bytes())));
    }
    match Envelope::decode(ENTRY_ID, &fields) {
        Ok(again) => assert_eq!(*envelope, again),
        // Our own names are a little longer than those of CloudEvents.
        Err(refused) => assert!(
            refused.rejection.to_string().contains("bytes"),
            "{envelope:?} became {refused:?}"
        ),
    }
}

fn says_why(refused: &Refused) {
    is_told(&refused.rejection);
    assert!(!refused.event_id.is_empty() && !refused.correlation_id.is_empty());
}

/// The problems go into an event as JSON, which must stay small whatever was sent.
fn is_told(rejection: &Rejection) {
    assert!(!rejection.problems.is_empty());
    let json = rejection.errors_json();
    let told: Value = serde_json::from_str(&json).expect("the problems are JSON");
    assert_eq!(told.as_array().map(Vec::len), Some(rejection.problems.len()));
    assert!(json.len() < 64 << 10, "{} bytes of problems", json.len());
}

fn makes_sense(task: &TaskTrigger, envelope: &Envelope<'_>) {
    let as_sent: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(&envelope.payload).expect("what is accepted is JSON");
    for (name, kept, default) in [
        ("args", &task.args, "[]"),
        ("kwargs", &task.kwargs, "{}"),
        ("tags", &task.tags, "{}"),
        ("metadata", &task.metadata, "{}"),
    ] {
        let sent = as_sent.get(name).map_or(default, |value| value.get());
        assert!(kept.get() == sent || sent == "null", "{name}: {sent} became {kept}");
    }
    if let Some(policy) = task.retry {
        assert!(policy.problems().is_empty(), "{policy:?}");
    }
    if let Some(seconds) = task.timeout_seconds {
        assert!(seconds > 0.0 && seconds <= TaskTrigger::LONGEST_SECONDS, "{seconds}");
    }
    assert!(!task.task_name.as_str().is_empty() && task.task_name.as_str().len() <= 128);
}
