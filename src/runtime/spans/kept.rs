//! Spans made with `OpenTelemetry`; where they go is whoever's affair that calls [`start`].

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use opentelemetry::global::{BoxedSpan, BoxedTracer};
use opentelemetry::trace::{
    Span, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use sha2::{Digest, Sha256};

use super::{Attempt, Ingested};

/// Makes spans, once somebody said where they go.
static TRACER: OnceLock<BoxedTracer> = OnceLock::new();

/// From now on spans are made, by the provider of this process.
pub fn start() {
    TRACER.get_or_init(|| global::tracer("waooaw-orchestration"));
}

thread_local! {
    /// The trace of the next span without a parent.
    static NEXT_TRACE: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// Ids by chance, but for traces that are derived.
#[derive(Debug, Default)]
pub struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        NEXT_TRACE.take().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}

/// The trace of a chain that nobody traces.
fn derived(correlation_id: &str) -> TraceId {
    let digest = Sha256::new()
        .chain_update("trace\u{1f}")
        .chain_update(correlation_id)
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    TraceId::from_bytes(bytes)
}

/// Somebody else's span; `None` where the text is none.
fn remote((parent, state): (&str, Option<&str>)) -> Option<Context> {
    let mut parts = parent.split('-');
    let (_version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let flags = u8::from_str_radix(flags, 16).ok()?;
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(flags) & TraceFlags::SAMPLED,
        true,
        state
            .and_then(|state| state.parse::<TraceState>().ok())
            .unwrap_or_default(),
    );
    context
        .is_valid()
        .then(|| Context::new().with_remote_span_context(context))
}

/// Begins a span under somebody else's, or in the trace of its chain.
fn begin(
    tracer: &BoxedTracer,
    builder: opentelemetry::trace::SpanBuilder,
    context: super::Context<'_>,
    correlation_id: &str,
) -> BoxedSpan {
    if let Some(parent) = context.and_then(remote) {
        return tracer.build_with_context(builder, &parent);
    }
    NEXT_TRACE.set(Some(derived(correlation_id)));
    let span = tracer.build_with_context(builder, &Context::new());
    NEXT_TRACE.set(None);
    span
}

/// An inbound event, which entered its stream at `came_ms`, was acted upon.
pub(in crate::runtime) fn ingested<'a>(event: impl FnOnce() -> Ingested<'a>, came_ms: u64) {
    let Some(tracer) = TRACER.get() else { return };
    let event = event();
    let builder = tracer
        .span_builder("ingest")
        .with_kind(SpanKind::Consumer)
        .with_start_time(SystemTime::UNIX_EPOCH + Duration::from_millis(came_ms))
        .with_attributes([
            KeyValue::new("messaging.system", "redis"),
            KeyValue::new("waooaw.trigger_event_id", event.event_id.to_owned()),
            KeyValue::new("waooaw.kind", event.kind),
            KeyValue::new("waooaw.id", event.id),
            KeyValue::new("waooaw.name", event.name.to_owned()),
        ]);
    begin(tracer, builder, event.context, event.correlation_id).end();
}

/// An attempt that runs.
pub(in crate::runtime) struct AttemptSpan(Option<BoxedSpan>);

impl AttemptSpan {
    /// It starts.
    pub(in crate::runtime) fn begin<'a>(attempt: impl FnOnce() -> Attempt<'a>) -> Self {
        let Some(tracer) = TRACER.get() else {
            return Self(None);
        };
        let attempt = attempt();
        let body = attempt.body;
        let mut attributes = vec![
            KeyValue::new("waooaw.task_id", attempt.task_id.to_string()),
            KeyValue::new("waooaw.task_name", body.task_name.clone()),
            KeyValue::new("waooaw.attempt", i64::from(attempt.number)),
            KeyValue::new("waooaw.queue", body.queue.to_string()),
            KeyValue::new("waooaw.priority", attempt.priority),
            KeyValue::new("waooaw.worker_id", attempt.worker.clone()),
            KeyValue::new("waooaw.trigger_event_id", body.trigger_event_id.clone()),
        ];
        if let Some(workflow) = &body.workflow_id {
            attributes.push(KeyValue::new("waooaw.workflow_id", workflow.clone()));
        }
        if let Some((saga, step)) = &body.saga {
            attributes.push(KeyValue::new("waooaw.saga_id", saga.clone()));
            attributes.push(KeyValue::new("waooaw.step", step.clone()));
        }
        let builder = tracer
            .span_builder(format!("attempt {}", body.task_name))
            .with_kind(SpanKind::Internal)
            .with_attributes(attributes);
        let span = begin(tracer, builder, attempt.context(), &body.correlation_id);
        Self(Some(span))
    }

    /// What its handler is to hand on, in place of the trigger's.
    pub(in crate::runtime) fn context(&self) -> Option<(String, Option<String>)> {
        let context = self.0.as_ref()?.span_context();
        let flags = context.trace_flags() & TraceFlags::SAMPLED;
        let parent = format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), flags.to_u8());
        let state = context.trace_state().header();
        context
            .is_valid()
            .then(|| (parent, (!state.is_empty()).then_some(state)))
    }

    /// It ended in this way.
    pub(in crate::runtime) fn end(self, outcome: &'static str) -> Option<ResultSpan> {
        let mut span = self.0?;
        let tracer = TRACER.get()?;
        span.set_attribute(KeyValue::new("waooaw.outcome", outcome));
        if matches!(outcome, "failed" | "rejected" | "timeout") {
            span.set_status(Status::error(outcome));
        }
        span.end();
        let parent = Context::new().with_remote_span_context(span.span_context().clone());
        let builder = tracer.span_builder("result").with_kind(SpanKind::Client);
        Some(ResultSpan(tracer.build_with_context(builder, &parent)))
    }
}

/// The way of a result into Redis.
pub(in crate::runtime) struct ResultSpan(BoxedSpan);

impl ResultSpan {
    /// Redis answered this.
    pub(in crate::runtime) fn end(mut self, answer: &'static str) {
        self.0.set_attribute(KeyValue::new("waooaw.answer", answer));
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_taken_as_it_came_and_nonsense_is_none() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = remote((text, Some("vendor=1"))).unwrap();
        let span = context.span().span_context().clone();

        assert_eq!(span.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(span.span_id().to_string(), "b7ad6b7169203331");
        assert!(span.is_sampled() && span.is_remote());
        assert_eq!(span.trace_state().header(), "vendor=1");
        for nonsense in [
            "",
            "00",
            "00-xx-yy-01",
            "00-00000000000000000000000000000000-0000000000000000-01",
        ] {
            assert!(remote((nonsense, None)).is_none(), "{nonsense}");
        }
    }

    #[test]
    fn a_chain_has_one_trace_of_its_own() {
        assert_eq!(derived("a"), derived("a"));
        assert_ne!(derived("a"), derived("b"));
    }
}
