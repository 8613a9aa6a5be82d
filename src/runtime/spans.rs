//! Spans of what a replica does, for whoever collects traces: trigger, ingest, attempt, result.
//!
//! A span of a trigger with a `traceparent` belongs to the trace of whoever published it. What comes without one gets a trace
//! of its own, derived from its `correlation_id`, so that all replicas that have to do with it speak of the same. A handler is
//! handed the context of its attempt, so what it calls goes on from there; events carry the context of the trigger as it
//! came.
//!
//! Without the feature `otlp`, or before somebody said where to send spans, nothing is made and nothing is kept.

#[cfg(feature = "otlp")]
mod kept;
#[cfg(not(feature = "otlp"))]
mod unkept;

#[cfg(feature = "otlp")]
pub(super) use kept::{AttemptSpan, ResultSpan, ingested};
#[cfg(feature = "otlp")]
pub use kept::{Ids, start};
#[cfg(not(feature = "otlp"))]
pub(super) use unkept::{AttemptSpan, ResultSpan, ingested};

use crate::domain::id::TaskId;
use crate::store::record::{Body, NewTask};

/// W3C trace context: `traceparent` and `tracestate`.
type Context<'a> = Option<(&'a str, Option<&'a str>)>;

/// What an inbound event asked for.
#[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "only spans ask"))]
pub(super) struct Ingested<'a> {
    context: Context<'a>,
    correlation_id: &'a str,
    event_id: &'a str,
    /// `task`, `workflow` or `saga`.
    kind: &'static str,
    id: String,
    name: &'a str,
}

impl<'a> Ingested<'a> {
    /// A task.
    pub(super) fn task(task: &'a NewTask) -> Self {
        Self {
            context: borrowed(task.trace.as_ref()),
            correlation_id: &task.correlation_id,
            event_id: &task.event_id,
            kind: "task",
            id: task.id.to_string(),
            name: task.trigger.task_name.as_str(),
        }
    }

    /// A workflow or a saga.
    pub(super) fn group(group: &'a crate::store::groups::NewGroup) -> Self {
        Self {
            context: borrowed(group.trace.as_ref()),
            correlation_id: &group.correlation_id,
            event_id: &group.event_id,
            kind: group.kind.as_str(),
            id: group.id.to_string(),
            name: group.name.as_deref().unwrap_or_default(),
        }
    }
}

fn borrowed(trace: Option<&(String, Option<String>)>) -> Context<'_> {
    trace.map(|(parent, state)| (parent.as_str(), state.as_deref()))
}

/// What an attempt is about.
#[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "only spans ask"))]
pub(super) struct Attempt<'a> {
    pub(super) task_id: TaskId,
    pub(super) number: u32,
    pub(super) body: &'a Body,
    pub(super) priority: &'static str,
    pub(super) worker: String,
}

impl Attempt<'_> {
    #[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "only spans ask"))]
    fn context(&self) -> Context<'_> {
        let parent = self.body.traceparent.as_deref()?;
        Some((parent, self.body.tracestate.as_deref()))
    }
}
