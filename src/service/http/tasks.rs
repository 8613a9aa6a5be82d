//! Tasks: look at them, list them, cancel them.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::access::Access;
use super::body::Reason;
use super::problem::Problem;
use super::request::{Fields, Id, Query};
use super::routes::Routes;
use super::triggers::cancel_task;
use crate::domain::event::Event;
use crate::domain::id::TaskId;
use crate::domain::state::TaskState;
use crate::error::Error;
use crate::runtime::audit::task_events;
use crate::runtime::explain::{Explanation, explain};
use crate::runtime::request::{self, TaskPage};
use crate::service::config::Role;
use crate::store::document::TaskDocument;
use crate::store::listing::TaskQuery;

pub(super) fn routes(routes: Routes) -> Routes {
    let read = Access::Needs(Role::Read);
    routes
        .add(__path_list, list, read, &[])
        .add(__path_show, show, read, &["TaskNotFound"])
        .add(__path_events, events, read, &["TaskNotFound"])
        .add(__path_why, why, read, &["TaskNotFound"])
        .add(
            __path_cancel,
            cancel,
            Access::Needs(Role::Admin),
            &["TaskNotFound", "InvalidTransition"],
        )
}

/// What is no id of a task names none.
pub(super) fn task_id(text: &str) -> Result<TaskId, Problem> {
    text.parse()
        .map_err(|_| Error::TaskNotFound(crate::domain::id::shortened(text)).into())
}

/// Lists tasks: those that wait or run by queue and priority, those of a workflow by creation, all others the latest made or
/// ended first.
///
/// A page may be short, even empty, and still have one after it: each looks at a bounded number of tasks.
#[utoipa::path(get, path = "/v1/tasks", operation_id = "list_tasks", tag = "tasks",
    params(
        ("state" = Option<TaskState>, Query, description = "Only those in this state; any case will do"),
        ("queue" = Option<String>, Query, description = "Only those of this queue"),
        ("workflow_id" = Option<String>, Query, description = "Only those of this workflow"),
        ("trigger_event_id" = Option<String>, Query, description = "Only those that this event asked for"),
        ("limit" = Option<u16>, Query, description = "How many to a page, 50 by default", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "Go on where the page before ended: its next_cursor")),
    responses((status = 200, body = TaskPage, description = "A page")))]
pub(super) async fn list(State(api): State<Api>, mut query: Query) -> Result<Json<TaskPage>, Problem> {
    let wanted = TaskQuery {
        state: query.parsed("state"),
        queue: query.parsed("queue"),
        workflow: query.parsed("workflow_id"),
        trigger_event_id: query.text("trigger_event_id"),
        created_before_ms: None,
        limit: query.limit(),
    };
    let cursor = query.text("cursor");
    query.finish()?;
    let page = request::list_tasks(api.store(), &wanted, cursor.as_deref()).await?;
    Ok(Json(page))
}

/// A task with everything that is kept of it.
#[utoipa::path(get, path = "/v1/tasks/{id}", operation_id = "get_task", tag = "tasks",
    params(("id" = String, Path, description = "The task")),
    responses((status = 200, body = TaskDocument, description = "The task")))]
pub(super) async fn show(State(api): State<Api>, Id(id): Id) -> Result<Json<TaskDocument>, Problem> {
    Ok(Json(request::task_document(api.store(), task_id(&id)?).await?))
}

/// All events of a task.
#[derive(Serialize, ToSchema)]
pub(super) struct TaskEvents {
    /// In order.
    items: Vec<Event>,
    /// Always null: they are few enough for one page.
    #[schema(required = true)]
    next_cursor: Option<String>,
    /// Whether all are here; else the first were trimmed.
    complete: bool,
}

/// The events of a task, in order.
#[utoipa::path(get, path = "/v1/tasks/{id}/events", operation_id = "get_task_events", tag = "tasks",
    params(("id" = String, Path, description = "The task")),
    responses((status = 200, body = TaskEvents, description = "Its events")))]
pub(super) async fn events(State(api): State<Api>, Id(id): Id) -> Result<Json<TaskEvents>, Problem> {
    let (_, items) = task_events(api.store(), task_id(&id)?, &|_| ()).await?;
    Ok(Json(TaskEvents {
        complete: items.first().is_some_and(|event| event.seq() == 1),
        items,
        next_cursor: None,
    }))
}

/// Why a task does not run, or where it does.
#[utoipa::path(get, path = "/v1/tasks/{id}/explain", operation_id = "explain_task", tag = "tasks",
    params(("id" = String, Path, description = "The task")),
    responses((status = 200, body = Explanation, description = "Why")))]
pub(super) async fn why(State(api): State<Api>, Id(id): Id) -> Result<Json<Explanation>, Problem> {
    Ok(Json(explain(api.store(), task_id(&id)?).await?))
}

/// Stops a task, wherever it waits or runs; answers the task.
#[utoipa::path(post, path = "/v1/tasks/{id}/cancel", operation_id = "cancel_task", tag = "tasks",
    params(("id" = String, Path, description = "The task")), request_body = Reason,
    responses((status = 200, body = TaskDocument, description = "The task; one that runs ends a little later")))]
pub(super) async fn cancel(
    State(api): State<Api>,
    Id(id): Id,
    Fields(body): Fields<Reason>,
) -> Result<Json<TaskDocument>, Problem> {
    let id = task_id(&id)?;
    let reason = body.checked()?;
    cancel_task(&api, id, reason.as_deref()).await?;
    Ok(Json(request::task_document(api.store(), id).await?))
}
