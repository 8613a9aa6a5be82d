//! The parts of an envelope, under the names that each form gives them.
//!
//! A [`Reading`] gathers the parts from wherever they stand, then checks each, then is an [`Envelope`] or a [`Refused`]
//! with everything that was wrong. Nothing is copied that the input can lend.

#![expect(
    clippy::result_large_err,
    reason = "a refusal is rare, and its size is paid on no other path"
)]

use std::borrow::Cow;

use super::envelope::{Envelope, Refused};
use super::object::{NotAnObject, Object, Text, is_deeper_than, kind, opens_object};
use super::rejection::{Problems, Reason};
use super::rfc3339;
use super::trace_context::{is_traceparent, is_tracestate};

/// The longest event type.
const MAX_TYPE_BYTES: usize = 128;
/// The longest name of a source, an event or a chain of events.
pub(super) const MAX_NAME_BYTES: usize = 256;

/// How the parts of an envelope are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Native,
    CloudEvent,
}

/// A part of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    EventType,
    SourceAgent,
    Payload,
    EventId,
    CorrelationId,
    Timestamp,
    Traceparent,
    Tracestate,
    SpecVersion,
}

impl Part {
    pub(super) const ALL: [Self; 9] = [
        Self::EventType,
        Self::SourceAgent,
        Self::Payload,
        Self::EventId,
        Self::CorrelationId,
        Self::Timestamp,
        Self::Traceparent,
        Self::Tracestate,
        Self::SpecVersion,
    ];

    fn named(name: &[u8], form: Form) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|part| part.name(form).is_some_and(|known| known.as_bytes() == name))
    }

    pub(super) const fn name(self, form: Form) -> Option<&'static str> {
        match form {
            Form::Native => match self {
                Self::EventType => Some("event_type"),
                Self::SourceAgent => Some("source_agent"),
                Self::Payload => Some("payload"),
                Self::EventId => Some("event_id"),
                Self::CorrelationId => Some("correlation_id"),
                Self::Timestamp => Some("timestamp"),
                Self::Traceparent => Some("traceparent"),
                Self::Tracestate => Some("tracestate"),
                Self::SpecVersion => None,
            },
            Form::CloudEvent => match self {
                Self::EventType => Some("type"),
                Self::SourceAgent => Some("source"),
                Self::Payload => Some("data"),
                Self::EventId => Some("id"),
                Self::CorrelationId => Some("correlationid"),
                Self::Timestamp => Some("time"),
                Self::Traceparent => Some("traceparent"),
                Self::Tracestate => Some("tracestate"),
                Self::SpecVersion => Some("specversion"),
            },
        }
    }

    /// Whether an unusable value is passed over in silence.
    const fn is_tracing(self) -> bool {
        matches!(self, Self::Traceparent | Self::Tracestate)
    }
}

/// An envelope of which some parts have been read.
pub(super) struct Reading<'a> {
    default_id: &'a str,
    pub(super) form: Form,
    texts: [Option<Cow<'a, str>>; Part::ALL.len()],
    pub(super) problems: Problems,
}

impl<'a> Reading<'a> {
    pub(super) fn new(default_id: &'a str, form: Form) -> Self {
        Self {
            default_id,
            form,
            texts: Default::default(),
            problems: Problems::default(),
        }
    }

    pub(super) fn take_fields<'f>(&mut self, fields: impl Iterator<Item = &'f (&'a [u8], &'a [u8])>)
    where
        'a: 'f,
    {
        for (name, value) in fields {
            let Some(part) = Part::named(name, self.form) else {
                continue;
            };
            match str::from_utf8(value) {
                Ok(_) if self.texts[part as usize].is_some() => self.note(Reason::Malformed, part, "comes twice"),
                Ok(text) => self.texts[part as usize] = Some(Cow::Borrowed(text)),
                Err(_) if part.is_tracing() => {}
                Err(error) => self.note(Reason::Malformed, part, not_utf8(error)),
            }
        }
    }

    pub(super) fn take_object(&mut self, object: &Object<'a>) {
        for part in Part::ALL {
            let Some(value) = part.name(self.form).and_then(|name| object.get(name)) else {
                continue;
            };
            if part == Part::Payload {
                self.texts[part as usize] = Some(Cow::Borrowed(value.get()));
                continue;
            }
            match serde_json::from_str::<Text<'a>>(value.get()) {
                Ok(Text(text)) => self.texts[part as usize] = Some(text),
                Err(_) if part.is_tracing() => {}
                Err(_) => self.note(
                    Reason::InvalidField,
                    part,
                    format!("must be a string, is {}", kind(value)),
                ),
            }
        }
    }

    fn note(&mut self, reason: Reason, part: Part, message: impl Into<String>) {
        self.problems.add(reason, part.name(self.form), message);
    }

    fn text(&self, part: Part) -> Option<&str> {
        self.texts[part as usize].as_deref()
    }

    fn take(&mut self, part: Part) -> Option<Cow<'a, str>> {
        self.texts[part as usize].take()
    }

    /// The envelope, or everything that is wrong with it.
    pub(super) fn finish(mut self) -> Result<Envelope<'a>, Refused> {
        self.check_names();
        self.check_form();
        self.check_payload();
        for part in [Part::EventType, Part::SourceAgent, Part::Payload] {
            let is_known_to_be_wrong = || part.name(self.form).is_some_and(|name| self.problems.concern(name));
            if self.text(part).is_none() && !is_known_to_be_wrong() {
                self.note(Reason::MissingField, part, "is required");
            }
        }
        if !self.problems.is_empty() {
            return Err(self.refuse());
        }
        let traceparent = self
            .take(Part::Traceparent)
            .filter(|text| is_traceparent(text.as_bytes()));
        let tracestate = self
            .take(Part::Tracestate)
            .filter(|text| traceparent.is_some() && is_tracestate(text));
        let present = "a required part that is absent is a problem";
        Ok(Envelope {
            event_type: self.take(Part::EventType).expect(present),
            source_agent: self.take(Part::SourceAgent).expect(present),
            event_id: self.take(Part::EventId).unwrap_or(Cow::Borrowed(self.default_id)),
            correlation_id: self.take(Part::CorrelationId),
            traceparent,
            tracestate,
            payload: self.take(Part::Payload).expect(present),
        })
    }

    /// What can be told about an entry that is refused.
    pub(super) fn refuse(mut self) -> Refused {
        self.check_names();
        let mut usable = |part| self.take(part).map(Cow::into_owned);
        let event_id = usable(Part::EventId).unwrap_or_else(|| self.default_id.to_owned());
        Refused {
            event_type: self.take(Part::EventType).map(Cow::into_owned),
            source_agent: self.take(Part::SourceAgent).map(Cow::into_owned),
            correlation_id: self
                .take(Part::CorrelationId)
                .map_or_else(|| event_id.clone(), Cow::into_owned),
            event_id,
            rejection: self
                .problems
                .into_rejection()
                .expect("only what has a problem is refused"),
        }
    }

    /// Takes out empty parts, and names that are too long or could not stand in a log line.
    fn check_names(&mut self) {
        for part in Part::ALL {
            if self.text(part) == Some("") {
                self.texts[part as usize] = None;
            }
        }
        for (part, most) in [
            (Part::EventType, MAX_TYPE_BYTES),
            (Part::SourceAgent, MAX_NAME_BYTES),
            (Part::EventId, MAX_NAME_BYTES),
            (Part::CorrelationId, MAX_NAME_BYTES),
        ] {
            let Some(text) = self.text(part) else { continue };
            let message = if text.len() > most {
                format!("has {} bytes, must have at most {most}", text.len())
            } else if text.chars().any(char::is_control) {
                "must not have control characters".to_owned()
            } else {
                continue;
            };
            self.note(Reason::InvalidField, part, message);
            self.texts[part as usize] = None;
        }
    }

    fn check_form(&mut self) {
        if self
            .text(Part::Timestamp)
            .is_some_and(|text| rfc3339::parse_ms(text).is_none())
        {
            self.note(
                Reason::InvalidField,
                Part::Timestamp,
                "must be an RFC 3339 time, as 2026-01-31T12:00:00Z",
            );
        }
        match (self.form, self.text(Part::SpecVersion)) {
            (Form::Native, _) | (Form::CloudEvent, Some("1.0")) => {}
            (Form::CloudEvent, Some(_)) => self.note(Reason::InvalidField, Part::SpecVersion, "must be 1.0"),
            (Form::CloudEvent, None) => self.note(Reason::MissingField, Part::SpecVersion, "is required"),
        }
    }

    fn check_payload(&mut self) {
        let Some(payload) = self.text(Part::Payload) else {
            return;
        };
        let (reason, message) = if is_deeper_than(payload.as_bytes(), Envelope::MAX_DEPTH) {
            (Reason::TooDeep, too_deep())
        } else if let Err(error) = opens_object(payload) {
            let reason = match error {
                NotAnObject::Malformed(_) | NotAnObject::DuplicateKey(_) => Reason::Malformed,
                NotAnObject::OtherKind(_) => Reason::InvalidField,
            };
            (reason, error.to_string())
        } else {
            return;
        };
        self.note(reason, Part::Payload, message);
    }
}

pub(super) fn too_large(bytes: usize) -> String {
    format!("the entry has {bytes} bytes, must have at most {}", Envelope::MAX_BYTES)
}

pub(super) fn too_deep() -> String {
    format!(
        "arrays and objects lie in each other more than {} deep",
        Envelope::MAX_DEPTH
    )
}

pub(super) fn not_utf8(error: std::str::Utf8Error) -> String {
    format!("is not valid UTF-8 at byte {}", error.valid_up_to())
}
