//! Queues, workers and figures: look at them, pause, limit, scale.

use axum::Json;
use axum::extract::{Extension, State};
use serde::{Deserialize, Serialize};

use super::Api;
use super::access::{Access, Caller};
use super::body::{By, operator};
use super::problem::Problem;
use super::request::{Fields, Halves, Id, Query};
use super::routes::Routes;
use crate::runtime::operate::{self, QueueStatus, ScaledDocument, WorkerDocument, WorkerPage};
use crate::runtime::queue;
use crate::service::config::Role;
use crate::store::document::StatisticsDocument;
use crate::store::operate::{Limits, Scaling};

pub(super) fn routes(routes: Routes) -> Routes {
    let (read, admin) = (Access::Needs(Role::Read), Access::Needs(Role::Admin));
    routes
        .get("/v1/stats", read, stats)
        .get("/v1/queues", read, queues)
        .patch("/v1/queues/{id}", admin, set_limits)
        .post("/v1/queues/{id}/pause", admin, pause)
        .post("/v1/queues/{id}/resume", admin, resume)
        .get("/v1/workers", read, workers)
        .get("/v1/workers/{id}", read, worker_by_encoded_id)
        .get("/v1/workers/{replica}/{number}", read, worker)
        .post("/v1/workers/scale", admin, scale)
}

/// A list that has one page.
#[derive(Serialize)]
struct Page<T> {
    items: Vec<T>,
    /// Always null.
    next_cursor: Option<String>,
}

fn page<T>(items: Vec<T>) -> Json<Page<T>> {
    Json(Page {
        items,
        next_cursor: None,
    })
}

/// Counts of tasks, queues and workers.
async fn stats(State(api): State<Api>) -> Result<Json<StatisticsDocument>, Problem> {
    Ok(Json(queue::statistics(api.store()).await?))
}

/// All queues.
async fn queues(State(api): State<Api>) -> Result<Json<Page<QueueStatus>>, Problem> {
    Ok(page(operate::list_queues(api.store()).await?))
}

/// The limits of all queues together; 0 is no limit, an absent one stays.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NewLimits {
    /// The most tasks that are not terminal.
    max_size: Option<u64>,
    /// The most tasks that run.
    max_running: Option<u64>,
    /// Who you are, for the log; by default the role of your token.
    actor: Option<String>,
    /// Your own words, for the log.
    reason: Option<String>,
}

/// Sets limits; they hold for all queues together, on all replicas.
async fn set_limits(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Id(name): Id,
    Fields(body): Fields<NewLimits>,
) -> Result<Json<QueueStatus>, Problem> {
    let operator = operator(caller, body.actor.as_deref(), body.reason.as_deref())?;
    let limits = Limits {
        max_size: body.max_size,
        max_running: body.max_running,
    };
    operate::set_limits(api.store(), &operator, Some(&name), limits).await?;
    Ok(Json(operate::queue(api.store(), &name).await?))
}

/// Hands out no more tasks of a queue.
async fn pause(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Id(name): Id,
    Fields(body): Fields<By>,
) -> Result<Json<QueueStatus>, Problem> {
    operate::pause_queue(api.store(), &body.operator(caller)?, &name).await?;
    Ok(Json(operate::queue(api.store(), &name).await?))
}

/// Hands out tasks of a queue again.
async fn resume(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Id(name): Id,
    Fields(body): Fields<By>,
) -> Result<Json<QueueStatus>, Problem> {
    operate::resume_queue(api.store(), &body.operator(caller)?, &name).await?;
    Ok(Json(operate::queue(api.store(), &name).await?))
}

/// The workers of all replicas, or of one with `replica`.
async fn workers(State(api): State<Api>, mut query: Query) -> Result<Json<WorkerPage>, Problem> {
    let (replica, cursor, limit) = (query.text("replica"), query.text("cursor"), query.limit());
    query.finish()?;
    let page = operate::list_workers(api.store(), replica.as_deref(), cursor.as_deref(), limit).await?;
    Ok(Json(page))
}

/// A worker, by its id of replica and number; the slash may be written as `%2F`.
async fn worker_by_encoded_id(State(api): State<Api>, Id(id): Id) -> Result<Json<WorkerDocument>, Problem> {
    Ok(Json(operate::worker(api.store(), &id).await?))
}

/// A worker, by its id of replica and number.
async fn worker(State(api): State<Api>, Halves(replica, number): Halves) -> Result<Json<WorkerDocument>, Problem> {
    let id = format!("{replica}/{number}");
    Ok(Json(operate::worker(api.store(), &id).await?))
}

/// How many workers are wanted: one of `add`, `remove` and `max`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    /// Of this replica only.
    replica: Option<String>,
    /// So many more.
    add: Option<u16>,
    /// So many fewer, though never fewer than the minimum.
    remove: Option<u16>,
    /// So many and, from now on, never more.
    max: Option<u16>,
    /// Who you are, for the log; by default the role of your token.
    actor: Option<String>,
    /// Your own words, for the log.
    reason: Option<String>,
}

/// Has more workers or fewer, on one replica or on all; answers what each replica made of it.
async fn scale(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Fields(body): Fields<Wanted>,
) -> Result<Json<Page<ScaledDocument>>, Problem> {
    let operator = operator(caller, body.actor.as_deref(), body.reason.as_deref())?;
    let scaling = match (body.add, body.remove, body.max) {
        (Some(count), None, None) => Scaling::Add(count),
        (None, Some(count), None) => Scaling::Remove(count),
        (None, None, Some(count)) => Scaling::Max(count),
        _ => return Err(Problem::invalid("add", "give exactly one of `add`, `remove` and `max`")),
    };
    let items = operate::scale(api.store(), &operator, scaling, body.replica.as_deref()).await?;
    Ok(page(items))
}
