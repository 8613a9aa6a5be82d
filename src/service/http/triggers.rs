//! Events that start something, and events about something that exists, sent by HTTP instead of on the bus.
//!
//! They are carried out at once, by the rules of the bus, and what can not be is answered here and leaves no trace there. The
//! ids are derived as on the bus, so the same event sent on both has one effect.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Json, response::IntoResponse};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::access::Access;
use super::openapi::{Command, Trigger};
use super::problem::Problem;
use super::request::JsonText;
use super::routes::Routes;
use crate::domain::envelope::Envelope;
use crate::domain::rejection::{Reason, Rejection};
use crate::domain::trigger::{Inbound, interpret};
use crate::error::Error;
use crate::runtime::defaults::Origin;
use crate::runtime::{group, request};
use crate::service::config::Role;

pub(super) fn routes(routes: Routes) -> Routes {
    let (sender, admin) = (Access::Needs(Role::Trigger), Access::Needs(Role::Admin));
    let unstartable = &[
        "InvalidField",
        "UnknownTask",
        "CyclicDependency",
        "InvalidDependency",
        "TaskQueueFull",
    ];
    let unknown = &[
        "TaskNotFound",
        "WorkflowNotFound",
        "SagaNotFound",
        "InvalidTransition",
        "InvalidField",
    ];
    routes
        .add(__path_trigger, trigger, sender, unstartable)
        .add(__path_command, command, admin, unknown)
}

/// What was started.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Accepted {
    /// The event's id.
    event_id: String,
    /// The task, where it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    task_id: Option<String>,
    /// The workflow, where it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    workflow_id: Option<String>,
    /// The saga, where it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    saga_id: Option<String>,
    /// Whether it is new; false when the same event had made it before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    created: Option<bool>,
}

impl Accepted {
    fn new(event_id: &str) -> Self {
        Self {
            event_id: event_id.to_owned(),
            task_id: None,
            workflow_id: None,
            saga_id: None,
            created: None,
        }
    }
}

fn wrong_type(event_type: &str, belongs: &str) -> Problem {
    let message = format!("`{event_type}` is not taken here: send it to {belongs}");
    Rejection::new(Reason::UnknownEventType, Some("event_type"), message).into()
}

/// Starts a task, a workflow or a saga.
///
/// The body is an envelope of type `orchestration.task.trigger`, `orchestration.workflow.start` or
/// `orchestration.saga.start`.
#[utoipa::path(post, path = "/v1/triggers", operation_id = "publish_trigger", tag = "triggers",
    request_body = Trigger,
    responses((status = 202, body = Accepted, description = "It was started, now or by the same event before")))]
pub(super) async fn trigger(
    State(api): State<Api>,
    headers: HeaderMap,
    JsonText(body): JsonText,
) -> Result<impl IntoResponse, Problem> {
    let default_id = uuid::Uuid::new_v4().to_string();
    let envelope = Envelope::from_json(&body, &default_id).map_err(|refused| refused.rejection)?;
    let inbound = interpret(&envelope)?;
    let store = api.store();
    let header_trace = super::trace::context(&headers);
    let trace = match envelope.traceparent.as_deref() {
        Some(parent) => Some((parent, envelope.tracestate.as_deref())),
        None => header_trace,
    };
    let origin = Origin {
        source_agent: &envelope.source_agent,
        event_id: &envelope.event_id,
        correlation_id: envelope.correlation_id.as_deref(),
        trace,
    };
    let (defaults, actor, partitions) = (&api.0.defaults, api.0.actor, store.partition_count());
    let mut accepted = Accepted::new(&envelope.event_id);
    let is_new = match inbound {
        Inbound::Task(trigger) => {
            let submitted = request::submit(store, actor, defaults, &origin, *trigger).await?;
            accepted.task_id = Some(submitted.task_id.to_string());
            submitted.is_new
        }
        Inbound::Workflow(trigger) => {
            let started = group::start(store, actor, defaults.workflow(*trigger, &origin, partitions)).await?;
            accepted.workflow_id = Some(started.id.to_string());
            started.is_new
        }
        Inbound::Saga(trigger) => {
            let started = group::start(store, actor, defaults.saga(*trigger, &origin, partitions)).await?;
            accepted.saga_id = Some(started.id.to_string());
            started.is_new
        }
        Inbound::Cancel(_)
        | Inbound::WorkflowStop(_)
        | Inbound::SagaCancel(_)
        | Inbound::Result(_)
        | Inbound::Heartbeat(_) => return Err(wrong_type(&envelope.event_type, "/v1/commands")),
    };
    accepted.created = Some(is_new);
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

/// Ends something, or says how an agent's work goes.
///
/// The body is an envelope of type `orchestration.task.cancel`, `orchestration.workflow.stop`, `orchestration.saga.cancel`,
/// `orchestration.task.result` or `orchestration.task.heartbeat`. The first three are carried out at once. Word of an agent is
/// put on the bus: what is late or unknown is refused there, by an event `orchestration.command.refused`.
#[utoipa::path(post, path = "/v1/commands", operation_id = "publish_command", tag = "triggers",
    request_body = Command,
    responses((status = 202, body = Accepted, description = "It was carried out, or put on the bus")))]
pub(super) async fn command(State(api): State<Api>, JsonText(body): JsonText) -> Result<impl IntoResponse, Problem> {
    let default_id = uuid::Uuid::new_v4().to_string();
    let envelope = Envelope::from_json(&body, &default_id).map_err(|refused| refused.rejection)?;
    let inbound = interpret(&envelope)?;
    let (store, actor) = (api.store(), api.0.actor);
    let mut accepted = Accepted::new(&envelope.event_id);
    match inbound {
        Inbound::Cancel(cancel) => {
            cancel_task(&api, cancel.task_id, cancel.reason.as_deref()).await?;
            accepted.task_id = Some(cancel.task_id.to_string());
        }
        Inbound::WorkflowStop(stop) => {
            let id = stop.workflow_id;
            if !group::stop_workflow(store, actor, &id, stop.reason.as_deref()).await? {
                return Err(Error::InvalidTransition(format!("workflow `{id}` has ended")).into());
            }
            accepted.workflow_id = Some(id.to_string());
        }
        Inbound::SagaCancel(cancel) => {
            group::cancel_saga(store, actor, &cancel.saga_id, cancel.reason.as_deref()).await?;
            accepted.saga_id = Some(cancel.saga_id.to_string());
        }
        Inbound::Result(_) | Inbound::Heartbeat(_) => {
            request::publish_command(store, &envelope).await?;
        }
        Inbound::Task(_) | Inbound::Workflow(_) | Inbound::Saga(_) => {
            return Err(wrong_type(&envelope.event_type, "/v1/triggers"));
        }
    }
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

/// Ends a task; one that has ended is an error here.
pub(super) async fn cancel_task(api: &Api, id: crate::domain::id::TaskId, reason: Option<&str>) -> Result<(), Problem> {
    if request::cancel(api.store(), api.0.actor, id, reason).await? {
        return Ok(());
    }
    let state = request::task_document(api.store(), id).await?.state;
    Err(Error::InvalidTransition(format!("task `{id}` has ended as {state}")).into())
}
