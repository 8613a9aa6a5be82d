//! The fields of a task that is asked for, each read from the payload and checked.
//!
//! What a field may be is decided here and nowhere else: by the type it becomes, or by its own rule below.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::value::RawValue;

use super::id::{InvalidId, Name};
use super::object::{NotAnObject, Object, kind};
use super::payload::{Payload, as_text};
use super::rejection::Reason;
use super::retry::{GivenPolicy, InvalidPolicy, RetryPolicy, RetryStrategy};
use super::rfc3339;
use super::trigger::{Start, TaskTrigger, literal};

/// What the payload of `orchestration.task.trigger` may have.
pub(super) const TASK_TRIGGER_FIELDS: [&str; 17] = [
    "task_name",
    "args",
    "kwargs",
    "priority",
    "workflow_id",
    "agent_id",
    "queue",
    "key",
    "dependencies",
    "parent_task_id",
    "timeout_seconds",
    "max_retries",
    "retry",
    "delay_seconds",
    "run_at",
    "tags",
    "metadata",
];

const RETRY_FIELDS: [&str; 7] = [
    "max_retries",
    "initial_delay_seconds",
    "max_delay_seconds",
    "backoff_multiplier",
    "strategy",
    "increment_seconds",
    "jitter",
];

impl TaskTrigger {
    /// Reads every field, and notes what is wrong with each. `None` after a problem with the name.
    pub(super) fn read(payload: &mut Payload<'_, '_>) -> Option<Self> {
        let task_name = payload.required("task_name");
        let trigger = Self::read_options(payload, task_name)?;
        if let Some(key) = trigger.key.as_ref().filter(|key| trigger.dependencies.contains(key)) {
            let cycle = vec![key.to_string(), key.to_string()];
            payload.problems().add_cycle("dependencies", cycle);
        }
        Some(trigger)
    }

    /// Reads every field but the name. `None` without one.
    pub(super) fn read_options(payload: &mut Payload<'_, '_>, task_name: Option<Name>) -> Option<Self> {
        Some(Self {
            args: verbatim(payload.array("args"), "[]"),
            kwargs: verbatim(payload.object("kwargs"), "{}"),
            priority: payload.parsed("priority"),
            workflow_id: payload.parsed("workflow_id"),
            agent_id: payload.parsed("agent_id"),
            queue: payload.parsed("queue"),
            key: payload.parsed("key"),
            dependencies: read_names(payload, "dependencies").unwrap_or_default(),
            parent_task_id: payload.parsed("parent_task_id"),
            timeout_seconds: read_timeout(payload),
            max_retries: payload.integer("max_retries", RetryPolicy::MOST_RETRIES),
            retry: read_retry(payload, "retry"),
            start: read_start(payload),
            tags: verbatim(read_tags(payload), "{}"),
            metadata: verbatim(payload.object("metadata"), "{}"),
            // Last, so that a wrong name does not hide what else is wrong.
            task_name: task_name?,
        })
    }
}

/// A JSON value as it came, or the default.
fn verbatim(value: Option<&RawValue>, default: &'static str) -> Box<RawValue> {
    value.map_or_else(|| literal(default), RawValue::to_owned)
}

/// A list of names; one that comes again is left out.
pub(super) fn read_names(payload: &mut Payload<'_, '_>, field: &str) -> Option<Vec<Name>> {
    let entries = payload.entries(field)?;
    if entries.len() > TaskTrigger::MAX_DEPENDENCIES {
        let message = format!(
            "has {} entries, must have at most {}",
            entries.len(),
            TaskTrigger::MAX_DEPENDENCIES
        );
        payload.note(Reason::InvalidField, field, message);
        return None;
    }
    let mut names: Vec<Name> = Vec::with_capacity(entries.len());
    for (place, entry) in entries.iter().enumerate() {
        match as_text(entry).and_then(|text| text.parse().map_err(|error: InvalidId| error.to_string())) {
            Ok(name) => names.push(name),
            Err(message) => payload.note(Reason::InvalidField, &format!("{field}[{place}]"), message),
        }
    }
    Some(without_repeats(names))
}

/// A few are compared with each other, many are hashed.
fn without_repeats(mut names: Vec<Name>) -> Vec<Name> {
    let is_repeat: Vec<bool> = if names.len() <= 16 {
        let comes_before = |place: usize| names[..place].contains(&names[place]);
        (0..names.len()).map(comes_before).collect()
    } else {
        let mut seen = HashSet::with_capacity(names.len());
        names.iter().map(|name| !seen.insert(name)).collect()
    };
    let mut is_repeat = is_repeat.into_iter();
    names.retain(|_| !is_repeat.next().unwrap_or_default());
    names
}

/// The longest that one attempt may take.
pub(super) fn read_timeout(payload: &mut Payload<'_, '_>) -> Option<f64> {
    payload.number(
        "timeout_seconds",
        format_args!("over 0, at most {}", TaskTrigger::LONGEST_SECONDS),
        |seconds| seconds > 0.0 && seconds <= TaskTrigger::LONGEST_SECONDS,
    )
}

/// The name of a preset, or an object; what the object leaves out is the standard's.
pub(super) fn read_retry(payload: &mut Payload<'_, '_>, field: &str) -> Option<RetryPolicy> {
    if payload.raw(field)?.get().starts_with('"') {
        return match payload.text(field)?.parse() {
            Ok(policy) => Some(policy),
            Err(error) => {
                let error: InvalidPolicy = error;
                payload.note(Reason::InvalidField, field, error.problem);
                None
            }
        };
    }
    if kind(payload.raw(field)?) != "an object" {
        payload.note(Reason::InvalidField, field, "must be the name of a preset or an object");
        return None;
    }
    let mut fields = payload.inner(field, &RETRY_FIELDS)?;
    let mut given = GivenPolicy {
        max_retries: fields.integer("max_retries", RetryPolicy::MOST_RETRIES),
        ..GivenPolicy::default()
    };
    // Ranges are the policy's own to check: here every number will do.
    let any = |_| true;
    for (field, place) in [
        ("initial_delay_seconds", &mut given.initial_delay_seconds),
        ("max_delay_seconds", &mut given.max_delay_seconds),
        ("backoff_multiplier", &mut given.backoff_multiplier),
        ("increment_seconds", &mut given.increment_seconds),
        ("jitter", &mut given.jitter),
    ] {
        *place = fields.number(field, "in reach of 64 bits", any);
    }
    if let Some(value) = fields.raw("strategy") {
        match serde_json::from_str::<RetryStrategy>(value.get()) {
            Ok(strategy) => given.strategy = Some(strategy),
            Err(_) => fields.note(
                Reason::InvalidField,
                "strategy",
                "must be EXPONENTIAL, LINEAR or FIBONACCI",
            ),
        }
    }
    let policy = RetryPolicy::from(given);
    for invalid in policy.problems() {
        fields.note(Reason::InvalidField, invalid.field, invalid.problem);
    }
    Some(policy)
}

fn read_start(payload: &mut Payload<'_, '_>) -> Start {
    if payload.raw("delay_seconds").is_some() && payload.raw("run_at").is_some() {
        payload.note(
            Reason::InvalidField,
            "run_at",
            "must not be given together with `delay_seconds`",
        );
    }
    let delay = payload
        .number(
            "delay_seconds",
            format_args!("from 0 to {}", TaskTrigger::LONGEST_SECONDS),
            |seconds| (0.0..=TaskTrigger::LONGEST_SECONDS).contains(&seconds),
        )
        .filter(|&seconds| seconds > 0.0)
        .map(|seconds| Start::After(Duration::from_secs_f64(seconds)));
    let run_at = payload.text("run_at").and_then(|text| {
        let at_ms = rfc3339::parse_ms(&text);
        if at_ms.is_none() {
            let message = "must be an RFC 3339 time up to the year 9999, as 2026-01-31T12:00:00Z";
            payload.note(Reason::InvalidField, "run_at", message);
        }
        at_ms.map(|at_ms| Start::At(at_ms.max(0)))
    });
    run_at.or(delay).unwrap_or_default()
}

fn read_tags<'a>(payload: &mut Payload<'a, '_>) -> Option<&'a RawValue> {
    let tags = payload.object("tags")?;
    match Object::parse(tags.get()) {
        Ok(object) => {
            for (key, value) in &object.fields {
                if let Err(message) = as_text(value) {
                    payload.note(Reason::InvalidField, &format!("tags.{key}"), message);
                }
            }
        }
        Err(NotAnObject::DuplicateKey(key)) => {
            payload.note(
                Reason::InvalidField,
                &format!("tags.{key}"),
                NotAnObject::DuplicateKey(key).to_string(),
            );
        }
        Err(error) => payload.note(Reason::InvalidField, "tags", error.to_string()),
    }
    Some(tags)
}

#[cfg(test)]
mod tests {
    use super::super::priority::Priority;
    use super::super::rejection::{Problems, Rejection};
    use super::*;

    fn read(payload: &str) -> Result<TaskTrigger, Rejection> {
        let mut problems = Problems::default();
        let object = Object::parse(payload).unwrap();
        let trigger = TaskTrigger::read(&mut Payload::new(object, "", &TASK_TRIGGER_FIELDS, &mut problems));
        problems.into_rejection().map_or_else(|| Ok(trigger.unwrap()), Err)
    }

    fn task(payload: &str) -> TaskTrigger {
        read(payload).unwrap()
    }

    /// The reason and the problems of a task that has these fields beside its name.
    fn refused(fields: &str) -> String {
        read(&format!(r#"{{"task_name":"t",{fields}}}"#))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn every_field_arrives() {
        let trigger = task(
            r#"{"task_name":"team/echo","args":[ 1e400 ,{"b":1,"a":2}],"kwargs":{"n":123456789012345678901234567890},
                "priority":"hiGH","workflow_id":"w","agent_id":"a","queue":"q","key":"k","dependencies":[],
                "parent_task_id":"0190f5d1-7c1e-8a3b-8c4d-000000000000","timeout_seconds":1.5,"max_retries":0,
                "retry":{"initial_delay_seconds":2,"strategy":"linear","jitter":null},"delay_seconds":0.25,
                "tags":{"b":"1","a":"\u0032"},"metadata":{"x":[[]]}}"#,
        );

        assert_eq!(trigger.task_name.as_str(), "team/echo");
        assert_eq!(trigger.args.get(), r#"[ 1e400 ,{"b":1,"a":2}]"#);
        assert_eq!(trigger.kwargs.get(), r#"{"n":123456789012345678901234567890}"#);
        assert_eq!(trigger.priority, Some(Priority::High));
        assert_eq!(trigger.workflow_id, "w".parse().ok());
        assert_eq!(trigger.agent_id, "a".parse().ok());
        assert_eq!(trigger.queue, "q".parse().ok());
        assert_eq!(trigger.key, "k".parse().ok());
        assert_eq!(
            trigger.parent_task_id,
            "0190f5d1-7c1e-8a3b-8c4d-000000000000".parse().ok()
        );
        assert_eq!((trigger.timeout_seconds, trigger.max_retries), (Some(1.5), Some(0)));
        let retry = RetryPolicy {
            initial_delay_seconds: 2.0,
            strategy: RetryStrategy::Linear,
            ..RetryPolicy::STANDARD
        };
        assert_eq!(trigger.retry, Some(retry));
        assert_eq!(trigger.start, Start::After(Duration::from_millis(250)));
        assert_eq!(trigger.tags.get(), r#"{"b":"1","a":"\u0032"}"#);
        assert_eq!(trigger.metadata.get(), r#"{"x":[[]]}"#);
    }

    #[test]
    fn a_task_starts_at_once_later_or_at_a_time() {
        for (fields, start) in [
            (r#""delay_seconds":0"#, Start::Now),
            (
                r#""delay_seconds":31536000"#,
                Start::After(Duration::from_secs(31_536_000)),
            ),
            (r#""run_at":"1970-01-01T01:00:00.5+01:00""#, Start::At(500)),
            (r#""run_at":"1900-01-01T00:00:00Z""#, Start::At(0)),
            (r#""run_at":"9999-12-31T23:59:59Z""#, Start::At(253_402_300_799_000)),
        ] {
            assert_eq!(
                task(&format!(r#"{{"task_name":"t",{fields}}}"#)).start,
                start,
                "{fields}"
            );
        }
    }

    #[test]
    fn each_field_refuses_what_it_cannot_be() {
        for (field, values) in [
            ("task_name", &[r#""""#, "1", r#""a b""#][..]),
            ("args", &["{}", r#""x""#, "1"]),
            ("kwargs", &["[]", "true"]),
            ("priority", &["1", r#""urgent""#, "[]", r#""\ud800""#]),
            ("workflow_id", &[r#""a b""#, "{}"]),
            ("agent_id", &["7", r#""""#]),
            ("queue", &[r#""a:b""#, "false"]),
            ("key", &[r#""*""#, "0"]),
            ("dependencies", &["{}", r#""a""#]),
            ("parent_task_id", &[r#""x""#, "5"]),
            ("timeout_seconds", &["0", "-1", "1e400", "31536001", r#""5""#]),
            (
                "max_retries",
                &["-1", "1.5", "1000001", "99999999999999999999", r#""3""#],
            ),
            ("retry", &["3", "[]", r#""SLOW""#, r#"{"jitter":1,"jitter":1}"#]),
            ("delay_seconds", &["-0.1", "1e9", r#""1""#]),
            ("run_at", &["0", r#""tomorrow""#, r#""2026-01-31""#]),
            ("tags", &["[]", r#""x""#]),
            ("metadata", &["[]", "1"]),
        ] {
            for value in values {
                let name = if field == "task_name" {
                    ""
                } else {
                    r#""task_name":"t","#
                };
                let rejection = read(&format!(r#"{{{name}"{field}":{value}}}"#)).unwrap_err();
                assert_eq!(rejection.reason, Reason::InvalidField, "{field} {value}");
                assert_eq!(rejection.problems[0].field.as_deref(), Some(field), "{value}");
            }
        }
    }

    #[test]
    fn a_dependency_that_comes_again_counts_once() {
        let dependencies = |list: &[String]| {
            let list = serde_json::to_string(list).unwrap();
            let trigger = task(&format!(r#"{{"task_name":"t","dependencies":{list}}}"#));
            let names: Vec<_> = trigger.dependencies.iter().map(ToString::to_string).collect();
            names
        };
        let few = ["b", "a", "b", "a", "c"].map(str::to_owned);
        let many: Vec<_> = (0..10_000).map(|number| (number % 5_000).to_string()).collect();

        assert_eq!(dependencies(&few), ["b", "a", "c"]);
        assert_eq!(dependencies(&many), many[..5_000]);
        assert_eq!(dependencies(&[]), Vec::<String>::new());
    }

    #[test]
    fn dependencies_have_a_limit_and_never_lead_back() {
        let many: Vec<_> = (0..10_001).map(|number| number.to_string()).collect();
        let rejection = read(r#"{"task_name":"t","key":"k","dependencies":["a","k"]}"#).unwrap_err();

        assert_eq!(
            refused(&format!(r#""dependencies":{many:?}"#)),
            "invalid_field: `dependencies` has 10001 entries, must have at most 10000"
        );
        assert_eq!(
            rejection.to_string(),
            "cyclic_dependency: `dependencies` depends on itself: k → k"
        );
        assert_eq!(rejection.cycle, ["k", "k"]);
    }

    #[test]
    fn what_is_wrong_inside_a_field_is_named_by_its_path() {
        assert_eq!(
            refused(r#""retry":{"jiter":0.1,"jitter":2,"strategy":"cubic"}"#),
            "invalid_field: `retry.jiter` is not a known field; did you mean `jitter`?; \
             `retry.strategy` must be EXPONENTIAL, LINEAR or FIBONACCI; `retry.jitter` is 2, must be from 0 to 1"
        );
        assert_eq!(
            refused(r#""dependencies":["a",1,"b c"]"#),
            "invalid_field: `dependencies[1]` must be a string, is a number; \
             `dependencies[2]` `b c` is not a valid name: expected 1 to 128 characters of A-Z a-z 0-9 . _ : / -"
        );
        assert_eq!(
            refused(r#""delay_seconds":1,"run_at":"2026-01-31T12:00:00Z""#),
            "invalid_field: `run_at` must not be given together with `delay_seconds`"
        );
    }
}
