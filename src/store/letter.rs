//! One dead letter: what is kept of it, and the document that people and programs are shown.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use super::document::timestamp;
use super::record::{Record, Spec, json_text};
use crate::domain::dead_letter::DeadLetterId;
use crate::domain::envelope::Envelope;
use crate::domain::netstring::read_netstrings;
use crate::domain::retry::RetryPolicy;

/// An id that no entry has: an event that answers to it has none of its own.
const NO_ENTRY: &str = "0-0";

/// A dead letter as it is kept.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Its name.
    pub id: DeadLetterId,
    fields: BTreeMap<String, Vec<u8>>,
}

/// A dead letter.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = DeadLetter)]
pub struct DeadLetterDocument {
    /// Its id.
    pub dead_letter_id: String,
    /// What failed.
    #[schema(value_type = crate::domain::dead_letter::DeadLetterKind)]
    pub kind: String,
    /// The task; null for a trigger that became none.
    pub task_id: Option<String>,
    /// What the task runs.
    pub task_name: Option<String>,
    /// Why it is here, as a code: how the task ended, or why the trigger was refused.
    pub reason: String,
    /// `{type, message}`, and for a trigger each of its `errors`.
    #[schema(value_type = crate::store::document::TaskErrorDocument)]
    pub error: Box<RawValue>,
    /// The last hundred attempts, over all lives of the task.
    #[schema(value_type = Vec<crate::store::document::AttemptDocument>)]
    pub attempts: Vec<Box<RawValue>>,
    /// What was asked for: of a task in the words of `task.trigger`, of a trigger the fields of its entry.
    #[schema(value_type = Object)]
    pub original: Box<RawValue>,
    /// When it came here.
    pub dead_lettered_at: String,
    /// The chain of events that it belongs to.
    pub correlation_id: String,
}

/// What a task was asked for, by the names of `task.trigger`.
#[derive(Serialize)]
struct OriginalTask<'a> {
    event_id: &'a str,
    task_name: &'a str,
    args: &'a RawValue,
    kwargs: &'a RawValue,
    priority: &'static str,
    queue: &'a str,
    workflow_id: Option<&'a str>,
    saga_id: Option<&'a str>,
    step: Option<&'a str>,
    agent_id: Option<&'a str>,
    key: Option<&'a str>,
    dependencies: &'a [String],
    parent_task_id: Option<&'a str>,
    timeout_seconds: Option<f64>,
    max_retries: u32,
    retry: RetryPolicy,
    delay_seconds: Option<f64>,
    run_at: Option<String>,
    tags: &'a RawValue,
    metadata: &'a RawValue,
    created_at: String,
    traceparent: Option<&'a str>,
    tracestate: Option<&'a str>,
}

/// The error of a trigger in the form of a task's.
#[derive(Serialize)]
struct Rejected {
    #[serde(rename = "type")]
    kind: String,
    message: String,
    errors: Box<RawValue>,
}

/// Names and values of a stream entry.
pub type EntryFields = Vec<(Vec<u8>, Vec<u8>)>;

/// Why a trigger can not be put back: only its beginning was kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "only the first {kept} of the {bytes} bytes of the trigger were kept (sha256 {sha256}); its sender has to publish it again"
)]
pub struct OnlyBeginning {
    bytes: String,
    sha256: String,
    kept: usize,
}

impl Letter {
    /// A letter of these fields; `None` when there is none.
    pub(super) fn new(id: DeadLetterId, fields: Vec<(String, Vec<u8>)>) -> Option<Self> {
        (!fields.is_empty()).then(|| Self {
            id,
            fields: fields.into_iter().collect(),
        })
    }

    fn bytes(&self, name: &str) -> &[u8] {
        self.fields.get(name).map_or(&[], Vec::as_slice)
    }

    /// A text, with marks in the place of what is not UTF-8.
    fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(self.bytes(name)).into_owned()
    }

    /// How much memory it takes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// The task, the trigger or the step that it holds: `task`, `trigger` or `saga_step`.
    #[must_use]
    pub fn kind(&self) -> String {
        self.text("kind")
    }

    /// Which of the task's lives failed, from 1; 0 of a trigger.
    #[must_use]
    pub fn life(&self) -> u32 {
        self.text("life").parse().unwrap_or_default()
    }

    /// The task as it was when it failed for good; `None` of a trigger.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        let (DeadLetterId::Task(id, _) | DeadLetterId::Late(id)) = self.id else {
            return None;
        };
        Record::parse(id, &[self.bytes("header"), self.bytes("body")].concat()).ok()
    }

    /// What the task is called, or would have been.
    #[must_use]
    pub fn task_name(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Named {
            task_name: String,
        }
        if self.fields.contains_key("task_name") {
            return Some(self.text("task_name"));
        }
        let parts = self.parts();
        let fields = pairs(&parts);
        let envelope = Envelope::decode(NO_ENTRY, &fields).ok()?;
        let named: Named = serde_json::from_str(&envelope.payload).ok()?;
        Some(named.task_name)
    }

    /// Whether a text occurs in it, whatever its case and however JSON escapes it: in its names, its error, or what was
    /// asked for.
    #[must_use]
    pub fn mentions(&self, text: &str) -> bool {
        let wanted = text.to_lowercase();
        let found = |text: &[u8]| {
            let text = String::from_utf8_lossy(text);
            let is_in = |text: &str| text.to_lowercase().contains(&wanted);
            is_in(&text) || (text.contains('\\') && is_in(&unescaped(&text)))
        };
        self.id.to_string().contains(&wanted)
            || self
                .fields
                .iter()
                .any(|(name, value)| name != "header" && name != "dead_lettered_at" && found(value))
    }

    /// The body of the task's record with another policy; `None` where there is no task.
    #[must_use]
    pub fn body_with(&self, policy: RetryPolicy) -> Option<String> {
        let body = std::str::from_utf8(self.bytes("body")).ok()?;
        let (place, _) = body.match_indices('\n').nth(5)?;
        let (front, spec) = body.split_at(place + 1);
        let mut spec = Spec::read(spec)?;
        spec.retry = (policy != RetryPolicy::STANDARD).then_some(policy);
        Some(format!("{front}{}", spec.text()))
    }

    /// The `event_id` of a rejected trigger; the id of its entry where it had none of its own.
    #[must_use]
    pub fn trigger_event_id(&self) -> String {
        self.text("trigger_event_id")
    }

    /// The fields of a rejected trigger as they came, to be put back on the stream. One that had no `event_id` gets that
    /// of its first entry, so that putting it back twice makes nothing twice.
    ///
    /// # Errors
    ///
    /// [`OnlyBeginning`] where it was too large to be kept whole.
    pub fn entry_fields(&self) -> Result<EntryFields, OnlyBeginning> {
        let (parts, is_whole) = read_netstrings(self.bytes("original"));
        if let Some(cut) = self.cut() {
            return Err(cut);
        }
        if !is_whole {
            return Err(OnlyBeginning {
                bytes: "unknown number".to_owned(),
                sha256: "unknown".to_owned(),
                kept: self.bytes("original").len(),
            });
        }
        let borrowed = pairs(&parts);
        let mut fields: EntryFields = borrowed
            .iter()
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect();
        let has_no_id = Envelope::decode(NO_ENTRY, &borrowed).is_ok_and(|envelope| envelope.event_id == NO_ENTRY);
        if has_no_id {
            // One that is empty counts as none.
            fields.retain(|(name, _)| name != b"event_id");
            fields.push((b"event_id".to_vec(), self.bytes("trigger_event_id").to_vec()));
        }
        Ok(fields)
    }

    fn parts(&self) -> Vec<&[u8]> {
        read_netstrings(self.bytes("original")).0
    }

    fn cut(&self) -> Option<OnlyBeginning> {
        let cut = self.text("cut");
        let (bytes, sha256) = cut.split_once(' ')?;
        Some(OnlyBeginning {
            bytes: bytes.to_owned(),
            sha256: sha256.to_owned(),
            kept: self.bytes("original").len(),
        })
    }

    /// The document of it.
    #[must_use]
    pub fn document(&self) -> DeadLetterDocument {
        let (task_id, error, original) = match self.id {
            DeadLetterId::Task(id, _) | DeadLetterId::Late(id) => {
                (Some(id.to_string()), self.raw("error"), self.original_task())
            }
            DeadLetterId::Trigger(_) => (None, self.rejection(), self.original_trigger()),
        };
        let mut notes: Vec<(u64, &Vec<u8>)> = self
            .fields
            .iter()
            .filter_map(|(name, note)| Some((name.strip_prefix('a')?.parse().ok()?, note)))
            .collect();
        notes.sort_unstable();
        let notes = notes.into_iter().map(|(_, note)| json_or_text(note));
        DeadLetterDocument {
            dead_letter_id: self.id.to_string(),
            kind: self.kind(),
            task_id,
            task_name: self.task_name(),
            reason: self.text("reason"),
            error,
            attempts: notes.collect(),
            original,
            dead_lettered_at: self.text("dead_lettered_at"),
            correlation_id: self.text("correlation_id"),
        }
    }

    fn raw(&self, name: &str) -> Box<RawValue> {
        json_or_text(self.bytes(name))
    }

    /// The error of a trigger.
    fn rejection(&self) -> Box<RawValue> {
        #[derive(serde::Deserialize)]
        struct Problem {
            field: Option<String>,
            message: String,
        }
        let problems: Vec<Problem> = serde_json::from_slice(self.bytes("error")).unwrap_or_default();
        let message: Vec<String> = problems
            .into_iter()
            .map(|problem| match problem.field {
                Some(field) => format!("`{field}` {}", problem.message),
                None => problem.message,
            })
            .collect();
        let rejected = Rejected {
            kind: self.text("reason"),
            message: message.join("; "),
            errors: self.raw("error"),
        };
        to_raw_value(&rejected).unwrap_or_default()
    }

    fn original_task(&self) -> Box<RawValue> {
        let Some(record) = self.record() else {
            return raw(&json!({ "body": self.text("body") }));
        };
        let (body, spec) = (&record.body, &record.body.spec);
        #[allow(clippy::cast_precision_loss, reason = "a year of milliseconds stays far below 2^53")]
        let delay_seconds = spec.delay_ms.map(|ms| ms as f64 / 1000.0);
        let original = OriginalTask {
            event_id: &body.trigger_event_id,
            task_name: &body.task_name,
            args: &spec.args,
            kwargs: &spec.kwargs,
            priority: record.priority.as_str(),
            queue: body.queue.as_str(),
            workflow_id: body.workflow_id.as_deref(),
            saga_id: body.saga.as_ref().map(|(saga, _)| saga.as_str()),
            step: body.saga.as_ref().map(|(_, step)| step.as_str()),
            agent_id: spec.agent_id.as_deref(),
            key: spec.key.as_deref(),
            dependencies: &spec.dependencies,
            parent_task_id: spec.parent_task_id.as_deref(),
            timeout_seconds: spec.timeout_seconds,
            max_retries: record.max_retries,
            retry: RetryPolicy {
                max_retries: record.max_retries,
                ..spec.retry.unwrap_or(RetryPolicy::STANDARD)
            },
            delay_seconds,
            run_at: spec.run_at_ms.map(timestamp),
            tags: &spec.tags,
            metadata: &spec.metadata,
            created_at: timestamp(record.created_ms),
            traceparent: body.traceparent.as_deref(),
            tracestate: body.tracestate.as_deref(),
        };
        to_raw_value(&original).unwrap_or_default()
    }

    /// The fields of the entry by name. What is no text is `{"base64": …}`; a name that came twice has a list; of an
    /// entry that was cut, `_cut` tells what the whole was.
    fn original_trigger(&self) -> Box<RawValue> {
        let mut fields = Map::new();
        // Of one that was cut the last name may have lost its value.
        for part in self.parts().chunks(2) {
            let name = String::from_utf8_lossy(part[0]).into_owned();
            let value = shown(part.get(1).copied().unwrap_or_default());
            match fields.get_mut(&name) {
                None => drop(fields.insert(name, value)),
                Some(Value::Array(values)) => values.push(value),
                Some(first) => *first = Value::Array(vec![first.take(), value]),
            }
        }
        if let Some(cut) = self.cut() {
            let bytes: Option<u64> = cut.bytes.parse().ok();
            fields.insert(
                "_cut".to_owned(),
                json!({ "bytes": bytes, "sha256": cut.sha256, "kept_bytes": cut.kept }),
            );
        }
        raw(&Value::Object(fields))
    }
}

/// Fields and values, out of them in turn.
fn pairs<'a>(parts: &[&'a [u8]]) -> Vec<(&'a [u8], &'a [u8])> {
    parts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

fn shown(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => json!({ "base64": BASE64_STANDARD.encode(bytes) }),
    }
}

fn raw(value: &Value) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_default()
}

/// JSON as it stands; anything else as a text.
fn json_or_text(bytes: &[u8]) -> Box<RawValue> {
    let text = String::from_utf8_lossy(bytes);
    RawValue::from_string(text.clone().into_owned())
        .or_else(|_| RawValue::from_string(json_text(&text)))
        .unwrap_or_default()
}

/// A text with what JSON escapes in strings as it reads; what is no escape stays.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        // Two escapes together may be one character.
        let mut end = at;
        while rest.as_bytes().get(end) == Some(&b'\\') {
            let length = if rest[end..].starts_with("\\u") { 6 } else { 2 };
            if !rest.is_char_boundary(end + length) || end + length > rest.len() {
                break;
            }
            end += length;
        }
        let escapes = &rest[at..end];
        match serde_json::from_str::<String>(&format!("\"{escapes}\"")) {
            Ok(read) if end > at => plain.push_str(&read),
            _ => {
                end = at + 1;
                plain.push('\\');
            }
        }
        rest = &rest[end..];
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::netstring::netstrings;

    const ID: &str = "0190f5d1-7c1e-8a3b-8c4d-000000000000";

    fn trigger(fields: &[(&[u8], &[u8])], more: &[(&str, &str)]) -> Letter {
        let mut all = vec![("original".to_owned(), netstrings(fields))];
        all.extend(
            [
                ("kind", "trigger"),
                ("reason", "unknown_task"),
                (
                    "error",
                    r#"[{"field":"task_name","message":"is not known"},{"field":null,"message":"x"}]"#,
                ),
                ("trigger_event_id", "5-0"),
            ]
            .iter()
            .chain(more)
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())),
        );
        Letter::new(ID.parse().unwrap(), all).unwrap()
    }

    #[test]
    fn a_trigger_is_shown_field_by_field() {
        let payload = br#"{"task_name":"mail","args":[1e400]}"#;
        let letter = trigger(
            &[
                (b"event_type", b"orchestration.task.trigger"),
                (b"source_agent", b"sales"),
                (b"payload", payload),
            ],
            &[],
        );

        let document = letter.document();

        assert_eq!(document.task_name.as_deref(), Some("mail"));
        let original: Value = serde_json::from_str(document.original.get()).unwrap();
        assert_eq!(original["payload"], String::from_utf8_lossy(payload).as_ref());
        assert_eq!(
            document.error.get(),
            concat!(
                r#"{"type":"unknown_task","message":"`task_name` is not known; x","#,
                r#""errors":[{"field":"task_name","message":"is not known"},{"field":null,"message":"x"}]}"#
            )
        );
        assert!(letter.mentions("MAIL") && letter.mentions("not known") && !letter.mentions("fax"));
    }

    #[test]
    fn what_is_no_text_comes_twice_or_was_cut_is_shown_all_the_same() {
        let letter = trigger(
            &[
                (b"a", b"\xff"),
                (b"b", b"1"),
                (b"b", b"2"),
                (b"b", b"3"),
                (b"a\xff", b""),
            ],
            &[("cut", "2000000 00ff")],
        );

        let original: Value = serde_json::from_str(letter.document().original.get()).unwrap();

        assert_eq!(
            original,
            json!({
                "a": { "base64": "/w==" }, "b": ["1", "2", "3"], "a\u{fffd}": "",
                "_cut": { "bytes": 2_000_000, "sha256": "00ff", "kept_bytes": 40 },
            })
        );
        let problem = letter.entry_fields().unwrap_err().to_string();
        assert!(problem.contains("2000000") && problem.contains("00ff"), "{problem}");
    }

    #[test]
    fn a_trigger_goes_back_under_the_name_that_it_had() {
        let own: [(&[u8], &[u8]); 3] = [
            (b"event_type", b"orchestration.task.trigger"),
            (b"source_agent", b"sales"),
            (b"payload", b"{}"),
        ];
        let text = |fields: EntryFields| {
            let fields = fields.into_iter().map(|(name, value)| {
                let [name, value] = [name, value].map(|bytes| String::from_utf8(bytes).unwrap());
                format!("{name}={value}")
            });
            fields.skip(2).collect::<Vec<_>>().join(" ")
        };

        let with = |more: &[(&'static [u8], &'static [u8])]| {
            let fields = [&own[..], more].concat();
            text(trigger(&fields, &[]).entry_fields().unwrap())
        };

        assert_eq!(with(&[]), "payload={} event_id=5-0");
        assert_eq!(with(&[(b"event_id", b"")]), "payload={} event_id=5-0");
        assert_eq!(with(&[(b"event_id", b"mine")]), "payload={} event_id=mine");
        // What could not be read goes back as it came.
        assert_eq!(with(&[(b"payload", b"{}")]), "payload={} payload={}");
    }

    #[test]
    fn a_text_is_found_however_json_escapes_it() {
        assert_eq!(
            unescaped(r#"K\u00f6ln \ud83d\ude00 say \"hi\" a\/b"#),
            "Köln 😀 say \"hi\" a/b"
        );
        for odd in ["\\", "a\\", r"\u12", r"\uzzzz x", r"\ü", r"\ud83d x"] {
            assert_eq!(unescaped(odd), odd);
        }
        let body = br#"{"metadata":{"city":"K\u00d6ln","note":"say \"hi\""}}"#.to_vec();
        let letter = Letter::new(format!("{ID}.2").parse().unwrap(), vec![("body".to_owned(), body)]).unwrap();
        for text in ["Köln", "say \"hi\"", r"k\u00d6", "metadata"] {
            assert!(letter.mentions(text), "{text}");
        }
        assert!(!letter.mentions("Bonn"));
    }

    #[test]
    fn a_policy_is_exchanged_and_nothing_else() {
        let body = concat!(
            "default\nmail\nw\ne\n\n\n",
            r#"{"args":[1e400],"retry":{"max_retries":9,"initial_delay_seconds":1.0,"max_delay_seconds":60.0,"#,
            r#""backoff_multiplier":2.0,"strategy":"EXPONENTIAL","increment_seconds":0.0,"jitter":0.1},"key":"k"}"#
        );
        let fields = vec![("body".to_owned(), body.as_bytes().to_vec())];
        let letter = Letter::new(format!("{ID}.2").parse().unwrap(), fields).unwrap();

        let changed = letter.body_with(RetryPolicy::STANDARD).unwrap();

        assert_eq!(
            changed,
            "default\nmail\nw\ne\n\n\n7.0.0{\"args\":[1e400],\"key\":\"k\"}"
        );
        let quick = letter.body_with(RetryPolicy::QUICK).unwrap();
        let spec: Spec = Spec::read(quick.rsplit_once('\n').unwrap().1).unwrap();
        assert_eq!(spec.retry, Some(RetryPolicy::QUICK));
    }
}
