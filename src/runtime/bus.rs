//! The event bus for programs that link the library: publish triggers and commands, follow the log.
//!
//! A subscriber has a name, and Redis remembers under that name what it has seen: one that is killed resumes where it
//! stopped, with what it had been given and not confirmed first.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use crate::domain::event::{Event, Pattern};
use crate::domain::id::Partition;
use crate::domain::inbound::is_command;
use crate::domain::rejection::{Reason, Rejection};
use crate::error::Error;
use crate::store::{Blocking, Endpoint, Store};

/// An event to be published: a trigger or a command.
#[derive(Debug, Clone)]
#[must_use]
pub struct NewEvent {
    event_type: String,
    source_agent: String,
    payload: Result<String, Rejection>,
    event_id: String,
    correlation_id: Option<String>,
    traceparent: Option<String>,
}

impl NewEvent {
    /// An event of `source_agent` with a payload that serializes to a JSON object, and an id of its own.
    pub fn new(event_type: &str, source_agent: &str, payload: &impl Serialize) -> Self {
        let payload = serde_json::to_string(payload)
            .map_err(|error| Rejection::new(Reason::Malformed, Some("payload"), error.to_string()));
        Self {
            event_type: event_type.to_owned(),
            source_agent: source_agent.to_owned(),
            payload,
            event_id: uuid::Uuid::new_v4().to_string(),
            correlation_id: None,
            traceparent: None,
        }
    }

    /// The caller's own id: an event that is published twice under it has one effect.
    pub fn event_id(mut self, event_id: &str) -> Self {
        event_id.clone_into(&mut self.event_id);
        self
    }

    /// The chain that it belongs to.
    pub fn correlation_id(mut self, correlation_id: &str) -> Self {
        self.correlation_id = Some(correlation_id.to_owned());
        self
    }

    /// W3C trace context.
    pub fn traceparent(mut self, traceparent: &str) -> Self {
        self.traceparent = Some(traceparent.to_owned());
        self
    }
}

/// The bus on one Redis.
#[derive(Clone)]
pub struct EventBus {
    store: Store,
}

impl EventBus {
    /// How long a read waits before it looks whether its time is over.
    const WAIT: Duration = Duration::from_secs(1);

    /// The bus at `endpoint`; connects with the first call.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] when the address makes no sense.
    pub fn new(endpoint: Endpoint) -> Result<Self, Error> {
        Ok(Self {
            store: Store::new(endpoint)?,
        })
    }

    /// Publishes a trigger or a command; answers its event id.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] for a payload that is no JSON, [`Error::RedisUnavailable`]. Publishing again is safe.
    pub async fn publish(&self, event: &NewEvent) -> Result<String, Error> {
        let payload = event
            .payload
            .as_ref()
            .map_err(|rejection| Error::InvalidField(rejection.clone()))?;
        let mut fields = vec![
            ("event_type", event.event_type.as_str()),
            ("source_agent", event.source_agent.as_str()),
            ("event_id", event.event_id.as_str()),
            ("payload", payload.as_str()),
        ];
        if let Some(correlation_id) = &event.correlation_id {
            fields.push(("correlation_id", correlation_id));
        }
        if let Some(traceparent) = &event.traceparent {
            fields.push(("traceparent", traceparent));
        }
        let keys = self.store.keys();
        let stream = if is_command(&event.event_type) {
            keys.commands()
        } else {
            keys.triggers()
        };
        self.store.publish(&stream, &fields).await?;
        Ok(event.event_id.clone())
    }

    /// Subscribes under a name to the events whose type fits the pattern: exact, `*`, or a prefix such as
    /// `orchestration.task.*`. A new name begins with the oldest event that is kept; a known one where it stopped.
    ///
    /// # Errors
    ///
    /// [`Error::RedisUnavailable`], or [`Error::Store`] when Redis holds another number of partitions than the endpoint names.
    pub async fn subscribe(&self, name: &str, pattern: Pattern) -> Result<Subscription, Error> {
        self.store.find_partitions().await?;
        let mut partitions = Vec::new();
        for partition in self.store.partitions() {
            self.store.make_subscription(partition, name, "0").await?;
            let reader = self.store.blocking(Self::WAIT);
            partitions.push(Reading {
                partition,
                reader,
                own_after: Some("0".to_owned()),
            });
        }
        Ok(Subscription {
            store: self.store.clone(),
            name: name.to_owned(),
            pattern,
            partitions,
            ready: VecDeque::new(),
            unconfirmed: None,
        })
    }
}

struct Reading {
    partition: Partition,
    reader: Blocking,
    /// As long as there are events that were delivered before and not confirmed: after which entry to go on.
    own_after: Option<String>,
}

/// A place in the log under a name. Events come in the order of the log; with several partitions, of each log.
pub struct Subscription {
    store: Store,
    name: String,
    pattern: Pattern,
    partitions: Vec<Reading>,
    ready: VecDeque<(Partition, Event)>,
    unconfirmed: Option<(Partition, String)>,
}

impl Subscription {
    /// The next event, or `None` when none came within `timeout`. Asking for the next confirms the one before; a
    /// subscriber that is killed in between gets it again.
    ///
    /// # Errors
    ///
    /// [`Error::RedisUnavailable`]; calling again is safe.
    pub async fn next(&mut self, timeout: Duration) -> Result<Option<Event>, Error> {
        self.confirm().await?;
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            if let Some((partition, event)) = self.ready.pop_front() {
                self.unconfirmed = Some((partition, event.entry_id.clone()));
                return Ok(Some(event));
            }
            if tokio::time::Instant::now() >= deadline {
                return Ok(None);
            }
            for reading in &mut self.partitions {
                let own = reading.own_after.clone();
                let read = self.store.read_subscription(
                    &mut reading.reader,
                    reading.partition,
                    &self.name,
                    &self.name,
                    own.as_deref(),
                );
                // What a wait that is cut short was given is read again as unconfirmed.
                let Ok(read) = tokio::time::timeout_at(deadline, read).await else {
                    reading.own_after = Some("0".to_owned());
                    continue;
                };
                // An answer that got lost may have delivered events; they are read again as unconfirmed.
                let (ids, events) = match read {
                    Ok(read) => read,
                    Err(error) => {
                        reading.own_after = Some("0".to_owned());
                        return Err(error.into());
                    }
                };
                if let (Some(after), Some(last)) = (&mut reading.own_after, ids.last()) {
                    last.clone_into(after);
                } else {
                    reading.own_after = None;
                }
                let (fitting, other): (Vec<Event>, Vec<Event>) = events
                    .into_iter()
                    .partition(|event| self.pattern.matches(&event.event_type));
                let mut unwanted: Vec<String> = other.into_iter().map(|event| event.entry_id).collect();
                unwanted.extend(
                    ids.into_iter()
                        .filter(|id| fitting.iter().all(|event| event.entry_id != *id)),
                );
                self.ready
                    .extend(fitting.into_iter().map(|event| (reading.partition, event)));
                self.store
                    .acknowledge_events(reading.partition, &self.name, &unwanted)
                    .await?;
            }
        }
    }

    /// Confirms the event that was answered last.
    ///
    /// # Errors
    ///
    /// [`Error::RedisUnavailable`]; calling again is safe.
    pub async fn confirm(&mut self) -> Result<(), Error> {
        if let Some((partition, id)) = &self.unconfirmed {
            self.store
                .acknowledge_events(*partition, &self.name, std::slice::from_ref(id))
                .await?;
            self.unconfirmed = None;
        }
        Ok(())
    }
}
