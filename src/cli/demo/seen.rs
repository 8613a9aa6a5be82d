//! An event of the log as the tour looks at it.

use jiff::Timestamp;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::domain::event::{Event, EventType};

/// An event that was read off the log, its parts taken apart.
pub(super) struct Seen {
    /// What happened; `None` for types of later versions.
    pub(super) kind: Option<EventType>,
    /// When, by the clock of Redis, in ms since the epoch.
    pub(super) at_ms: i64,
    /// Whose event it is: a task, a dead letter, a replica.
    pub(super) subject: String,
    /// Everything else.
    pub(super) payload: Value,
    /// The result, byte for byte; empty where there is none.
    pub(super) result: String,
}

/// What must not be taken apart.
#[derive(serde::Deserialize)]
struct Whole {
    result: Option<Box<RawValue>>,
}

impl Seen {
    /// Takes an event apart.
    pub(super) fn new(event: &Event) -> Self {
        let result = serde_json::from_str::<Whole>(event.payload.get()).ok();
        Self {
            result: result
                .and_then(|whole| whole.result)
                .map_or_else(String::new, |result| result.get().to_owned()),
            kind: EventType::ALL
                .into_iter()
                .find(|kind| kind.as_str() == event.event_type),
            at_ms: event.timestamp.parse().map_or(0, Timestamp::as_millisecond),
            subject: event.subject().to_owned(),
            payload: serde_json::from_str(event.payload.get()).unwrap_or_default(),
        }
    }

    /// The trigger that it goes back to, by the id that the tour gave it; empty for what has none.
    pub(super) fn label(&self) -> &str {
        self.text("trigger_event_id")
    }

    /// Whether it tells of this, about a trigger whose id begins so.
    pub(super) fn is(&self, kind: EventType, prefix: &str) -> bool {
        self.kind == Some(kind) && self.label().starts_with(prefix)
    }

    /// A text of the payload; empty where there is none.
    pub(super) fn text(&self, field: &str) -> &str {
        self.payload[field].as_str().unwrap_or_default()
    }

    /// The replica that ran or runs the attempt.
    pub(super) fn replica(&self) -> &str {
        self.text("worker_id").split('/').next().unwrap_or_default()
    }

    /// The attempt, from 1; 0 before the first.
    pub(super) fn attempt(&self) -> u64 {
        self.payload["attempt"].as_u64().unwrap_or_default()
    }

    /// The error's code and words.
    pub(super) fn error(&self) -> (&str, &str) {
        let part = |name: &str| self.payload["error"][name].as_str().unwrap_or_default();
        (part("type"), part("message"))
    }
}

/// The events of one kind about triggers whose id begins with `prefix`.
pub(super) fn of<'a>(seen: &'a [Seen], kind: EventType, prefix: &'a str) -> impl Iterator<Item = &'a Seen> + Clone {
    seen.iter().filter(move |event| event.is(kind, prefix))
}

/// How many of them there are.
pub(super) fn count(seen: &[Seen], kind: EventType, prefix: &str) -> usize {
    of(seen, kind, prefix).count()
}
