//! The envelope around everything that comes in: who says what, about which chain of events.
//!
//! An entry of a stream comes in one of three forms: our own fields, the attributes of a CloudEvents 1.0 event as
//! fields, or one field `cloudevent` with such an event as JSON. All give the same [`Envelope`]. An entry that has a
//! field `event_type` is read as our own form, since no attribute of CloudEvents may be called that. An optional field that
//! is empty counts as absent: a stream has no `null`.
//!
//! Size and nesting are checked on the bytes, before any parser runs. The payload is only seen to be text that begins
//! as an object does; that it is valid JSON is established by [`interpret`](super::trigger::interpret), so that it is
//! parsed once. Reading our own form copies nothing and does not allocate.
//!
//! A refusal lists everything that is wrong with the envelope. What the payload says is then not looked at.

#![expect(
    clippy::result_large_err,
    reason = "a refusal is rare, and its size is paid on no other path"
)]

use std::borrow::Cow;

use super::object::{NotAnObject, Object, is_deeper_than};
use super::parts::{Form, MAX_NAME_BYTES, Reading, not_utf8, too_deep, too_large};
use super::rejection::{Reason, Rejection};

/// An event as it came in, its fields checked, its payload still unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// What it is about, at most 128 bytes.
    pub event_type: Cow<'a, str>,
    /// Who speaks, at most 256 bytes.
    pub source_agent: Cow<'a, str>,
    /// Names the event within its source, at most 256 bytes; the id of its entry where the sender gave none.
    pub event_id: Cow<'a, str>,
    /// Names the chain of events, at most 256 bytes; `None` where the sender gave none.
    pub correlation_id: Option<Cow<'a, str>>,
    /// The W3C trace context's parent. One that is malformed is left out: tracing never stops the work.
    pub traceparent: Option<Cow<'a, str>>,
    /// The W3C trace context's vendor part, at most 512 bytes; never without a `traceparent`.
    pub tracestate: Option<Cow<'a, str>>,
    /// A JSON object, byte for byte as it came; see the module for what is checked.
    pub payload: Cow<'a, str>,
}

/// What could still be read off an entry that is refused, so that its sender finds the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// As given, where it is usable.
    pub event_type: Option<String>,
    /// As given, where it is usable.
    pub source_agent: Option<String>,
    /// As given, or the id of the entry where that is unusable.
    pub event_id: String,
    /// As given, or `event_id` where that is absent or unusable.
    pub correlation_id: String,
    /// Why it is refused.
    pub rejection: Rejection,
}

impl<'a> Envelope<'a> {
    /// The most bytes that the names and values of an entry may have together.
    pub const MAX_BYTES: usize = 1 << 20;
    /// How deep arrays and objects may lie in each other; `{}` has depth 1.
    pub const MAX_DEPTH: usize = 64;

    /// Reads the fields of the stream entry `entry_id`.
    ///
    /// # Errors
    /// [`Refused`], with every problem of the envelope.
    pub fn decode(entry_id: &'a str, fields: &[(&'a [u8], &'a [u8])]) -> Result<Self, Refused> {
        let bytes = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes <= Self::MAX_BYTES && !has(fields, "event_type") && has(fields, CLOUD_EVENT) {
            return Self::decode_structured(entry_id, fields);
        }
        let form = if has(fields, "event_type") || !has(fields, "specversion") {
            Form::Native
        } else {
            Form::CloudEvent
        };
        let mut reading = Reading::new(entry_id, form);
        if bytes > Self::MAX_BYTES {
            reading.problems.add(Reason::TooLarge, None, too_large(bytes));
            reading.take_fields(fields.iter().filter(|(_, value)| value.len() <= MAX_NAME_BYTES));
            return Err(reading.refuse());
        }
        reading.take_fields(fields.iter());
        reading.finish()
    }

    fn decode_structured(entry_id: &'a str, fields: &[(&'a [u8], &'a [u8])]) -> Result<Self, Refused> {
        let mut events = fields
            .iter()
            .filter(|(name, _)| *name == CLOUD_EVENT.as_bytes())
            .map(|(_, value)| *value);
        let message = match (events.next().map(str::from_utf8), events.next()) {
            (Some(Ok(text)), None) => return Self::from_object(text, entry_id, Some(CLOUD_EVENT)),
            (Some(Err(error)), None) => not_utf8(error),
            (Some(_) | None, _) => "comes twice".to_owned(),
        };
        let mut reading = Reading::new(entry_id, Form::CloudEvent);
        reading.problems.add(Reason::Malformed, Some(CLOUD_EVENT), message);
        Err(reading.refuse())
    }

    /// Reads an envelope that is one JSON object with the payload as an object inside, in our own form or in
    /// that of CloudEvents. `default_id` is the event's id where the object names none.
    ///
    /// # Errors
    /// [`Refused`], with every problem of the envelope.
    pub fn from_json(text: &'a str, default_id: &'a str) -> Result<Self, Refused> {
        Self::from_object(text, default_id, None)
    }

    /// `field` is the one that holds an event of CloudEvents; without it the object's keys tell its form.
    fn from_object(text: &'a str, default_id: &'a str, field: Option<&'static str>) -> Result<Self, Refused> {
        let mut reading = Reading::new(default_id, Form::CloudEvent);
        // The envelope is itself one level around the payload.
        let outcome = if text.len() > Self::MAX_BYTES {
            Err((Reason::TooLarge, field.map(str::to_owned), too_large(text.len())))
        } else if is_deeper_than(text.as_bytes(), Self::MAX_DEPTH + 1) {
            Err((Reason::TooDeep, field.map(str::to_owned), too_deep()))
        } else {
            Object::parse(text).map_err(|error| {
                let message = error.to_string();
                match error {
                    NotAnObject::Malformed(_) | NotAnObject::OtherKind(_) => {
                        (Reason::Malformed, field.map(str::to_owned), message)
                    }
                    NotAnObject::DuplicateKey(key) => (Reason::Malformed, Some(key), message),
                }
            })
        };
        match outcome {
            Ok(object) => {
                if field.is_none() && (object.get("event_type").is_some() || object.get("specversion").is_none()) {
                    reading.form = Form::Native;
                }
                reading.take_object(&object);
                reading.finish()
            }
            Err((reason, field, message)) => {
                reading.problems.add(reason, field.as_deref(), message);
                Err(reading.refuse())
            }
        }
    }

    /// The refusal of this event for a reason that lies behind its envelope.
    #[must_use]
    pub fn refused(&self, rejection: Rejection) -> Refused {
        Refused {
            event_type: Some(self.event_type.clone().into_owned()),
            source_agent: Some(self.source_agent.clone().into_owned()),
            event_id: self.event_id.clone().into_owned(),
            correlation_id: self
                .correlation_id
                .as_ref()
                .unwrap_or(&self.event_id)
                .clone()
                .into_owned(),
            rejection,
        }
    }
}

/// The field that holds a whole event of CloudEvents.
const CLOUD_EVENT: &str = "cloudevent";

fn has(fields: &[(&[u8], &[u8])], name: &str) -> bool {
    fields.iter().any(|(known, _)| *known == name.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parts::Part;
    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn decode<'a>(fields: &[(&'a str, &'a str)]) -> Result<Envelope<'a>, Refused> {
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        Envelope::decode("1-0", &fields)
    }

    /// A good entry with these fields on top.
    fn with<'a>(more: &[(&'a str, &'a str)]) -> Result<Envelope<'a>, Refused> {
        let mut fields = vec![("event_type", "t"), ("source_agent", "s"), ("payload", "{}")];
        fields.retain(|(name, _)| more.iter().all(|(other, _)| name != other));
        fields.extend(more);
        decode(&fields)
    }

    fn faults(refused: &Refused) -> Vec<&str> {
        refused
            .rejection
            .problems
            .iter()
            .map(|problem| problem.field.as_deref().unwrap_or("-"))
            .collect()
    }

    #[test]
    fn our_own_form_is_read_without_copying() {
        let envelope = with(&[("correlation_id", "c"), ("payload", " {\"a\":1}"), ("colour", "blue")]).unwrap();

        assert_eq!(envelope.event_id, "1-0");
        assert_eq!(envelope.correlation_id.as_deref(), Some("c"));
        assert!(matches!(envelope.payload, Cow::Borrowed(" {\"a\":1}")));
        assert!(matches!(envelope.event_type, Cow::Borrowed("t")));
    }

    #[test]
    fn all_forms_of_an_event_give_the_same_envelope() {
        let native = with(&[
            ("event_id", "e"),
            ("correlation_id", "c"),
            ("traceparent", TRACE),
            ("tracestate", "a=b"),
        ]);
        let json = format!(
            r#"{{"specversion":"1.0","id":"\u0065","source":"s","type":"t","correlationid":"c","time":null,"data":{{}},
                "traceparent":"{TRACE}","tracestate":"a=b","datacontenttype":"application/json"}}"#
        );
        let attributes = decode(&[
            ("specversion", "1.0"),
            ("id", "e"),
            ("source", "s"),
            ("type", "t"),
            ("time", "2026-01-31T12:00:00Z"),
            ("correlationid", "c"),
            ("data", "{}"),
            ("traceparent", TRACE),
            ("tracestate", "a=b"),
        ]);

        assert!(native.is_ok());
        assert_eq!(attributes, native);
        assert_eq!(decode(&[("cloudevent", &json)]), native);
        assert_eq!(Envelope::from_json(&json, "1-0"), native);
        let own = r#"{"event_type":"t","source_agent":"s","event_id":null,"payload":{}}"#;
        assert_eq!(Envelope::from_json(own, "1-0"), with(&[]));
    }

    #[test]
    fn everything_that_is_missing_or_wrong_is_said_at_once() {
        let refused = decode(&[("event_id", "e\n"), ("timestamp", "yesterday"), ("source_agent", "")]).unwrap_err();

        assert_eq!(refused.rejection.reason, Reason::MissingField);
        assert_eq!(
            faults(&refused),
            ["event_id", "timestamp", "event_type", "source_agent", "payload"]
        );
        assert_eq!(
            (refused.event_id.as_str(), refused.correlation_id.as_str()),
            ("1-0", "1-0")
        );
    }

    #[test]
    fn a_refusal_tells_what_could_still_be_read() {
        let refused = with(&[("event_id", "e"), ("correlation_id", "c"), ("payload", "[]")]).unwrap_err();

        assert_eq!(
            (refused.event_type.as_deref(), refused.source_agent.as_deref()),
            (Some("t"), Some("s"))
        );
        assert_eq!((refused.event_id.as_str(), refused.correlation_id.as_str()), ("e", "c"));
        let large = "x".repeat(2 << 20);
        let refused = with(&[("event_id", "e"), ("payload", &large)]).unwrap_err();
        assert_eq!((refused.event_id.as_str(), refused.correlation_id.as_str()), ("e", "e"));
        assert_eq!(faults(&refused), ["-"]);
    }

    #[test]
    fn each_hostile_entry_has_its_reason() {
        let nested = |depth: usize| format!("{{\"args\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        let (deep, deeper, deepest, open) = (nested(65), nested(1_000), nested(100_000), "[".repeat(100_000));
        let (long, large) = ("x".repeat(257), "x".repeat(2 << 20));
        for (name, value, reason) in [
            ("payload", "", Reason::MissingField),
            ("payload", "hello", Reason::Malformed),
            ("payload", "\0", Reason::Malformed),
            ("payload", "\u{feff}{}", Reason::Malformed),
            ("payload", "   ", Reason::Malformed),
            ("payload", "[1,", Reason::Malformed),
            ("payload", "[]", Reason::InvalidField),
            ("payload", "null", Reason::InvalidField),
            ("payload", "\"{}\"", Reason::InvalidField),
            ("payload", &deep, Reason::TooDeep),
            ("payload", &deeper, Reason::TooDeep),
            ("payload", &deepest, Reason::TooDeep),
            ("payload", &open, Reason::TooDeep),
            ("payload", &large, Reason::TooLarge),
            ("colour", &large, Reason::TooLarge),
            ("event_type", "", Reason::MissingField),
            ("event_type", &long[..129], Reason::InvalidField),
            ("source_agent", &long, Reason::InvalidField),
            ("event_id", &long, Reason::InvalidField),
            ("correlation_id", "a\u{85}b", Reason::InvalidField),
            ("timestamp", "2026-01-31", Reason::InvalidField),
            ("cloudevent", "{", Reason::Malformed),
        ] {
            let outcome = if name == "cloudevent" {
                decode(&[(name, value)])
            } else {
                with(&[(name, value)])
            };
            let refused = outcome.expect_err(name);
            assert_eq!(refused.rejection.reason, reason, "{name}: {}", refused.rejection);
        }
        assert!(with(&[("payload", &nested(64))]).is_ok());
    }

    #[test]
    fn bytes_that_are_not_text_are_malformed() {
        let refused = Envelope::decode(
            "1-0",
            &[(b"event_type", b"t"), (b"source_agent", b"s"), (b"payload", b"{\"\xff")],
        );

        let rejection = refused.unwrap_err().rejection;
        assert_eq!(
            rejection.to_string(),
            "malformed: `payload` is not valid UTF-8 at byte 2"
        );
    }

    #[test]
    fn a_field_that_comes_twice_is_named() {
        let refused = with(&[("event_id", "a"), ("event_id", "a")]).unwrap_err();
        assert_eq!(
            (refused.rejection.reason, faults(&refused)),
            (Reason::Malformed, vec!["event_id"])
        );

        let refused = Envelope::from_json(r#"{"payload":{},"payload":{}}"#, "x").unwrap_err();
        assert_eq!(
            (refused.rejection.reason, faults(&refused)),
            (Reason::Malformed, vec!["payload"])
        );

        let refused = decode(&[("cloudevent", "{}"), ("cloudevent", "{}")]).unwrap_err();
        assert_eq!(
            (refused.rejection.reason, faults(&refused)),
            (Reason::Malformed, vec!["cloudevent"])
        );
        assert!(with(&[("colour", "a"), ("colour", "b")]).is_ok());
    }

    #[test]
    fn a_json_envelope_is_held_to_the_same_limits() {
        let around = |payload: &str| format!(r#"{{"event_type":"t","source_agent":"s","payload":{payload}}}"#);
        let nested = |depth: usize| "{\"a\":".repeat(depth - 1) + "{}" + &"}".repeat(depth - 1);
        for (text, reason) in [
            (around(&nested(64)), None),
            (around(&nested(65)), Some(Reason::TooDeep)),
            (around(&nested(100_000)), Some(Reason::TooDeep)),
            (around(&"1".repeat(1 << 20)), Some(Reason::TooLarge)),
            (around("\"{}\""), Some(Reason::InvalidField)),
            (around("null"), Some(Reason::MissingField)),
            (around("{"), Some(Reason::Malformed)),
            ("[]".to_owned(), Some(Reason::Malformed)),
            (String::new(), Some(Reason::Malformed)),
            (
                r#"{"event_type":1,"source_agent":"s","payload":{}}"#.to_owned(),
                Some(Reason::InvalidField),
            ),
            (
                r#"{"specversion":"0.3","type":"t","source":"s","data":{}}"#.to_owned(),
                Some(Reason::InvalidField),
            ),
        ] {
            let outcome = Envelope::from_json(&text, "x");
            assert_eq!(
                outcome.err().map(|refused| refused.rejection.reason),
                reason,
                "{text:.60}"
            );
        }
    }

    #[test]
    fn a_broken_trace_context_is_left_out_in_silence() {
        for (traceparent, tracestate, kept) in [
            (TRACE, "a=b", (true, true)),
            (TRACE, "a\nb", (true, false)),
            ("00-zz", "a=b", (false, false)),
            ("", "a=b", (false, false)),
        ] {
            let envelope = with(&[("traceparent", traceparent), ("tracestate", tracestate)]).unwrap();
            assert_eq!(
                (envelope.traceparent.is_some(), envelope.tracestate.is_some()),
                kept,
                "{traceparent}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            fields in prop::collection::vec(
                (
                    prop_oneof![
                        prop::sample::select(Part::ALL.to_vec())
                            .prop_map(|part| part.name(Form::Native).unwrap_or(CLOUD_EVENT).as_bytes().to_vec()),
                        prop::sample::select(Part::ALL.to_vec())
                            .prop_map(|part| part.name(Form::CloudEvent).unwrap_or_default().as_bytes().to_vec()),
                    ],
                    prop_oneof![
                        prop::collection::vec(any::<u8>(), 0..60),
                        "[\\[\\]{}\":,a0\\\\ ]{0,60}".prop_map(String::into_bytes),
                        Just(b"{}".to_vec()),
                    ],
                ),
                0..8,
            ),
        ) {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (&name[..], &value[..])).collect();
            if let Err(refused) = Envelope::decode("1-0", &fields) {
                prop_assert!(!refused.rejection.problems.is_empty());
            }
        }
    }
}
