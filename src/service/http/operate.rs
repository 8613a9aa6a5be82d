//! Queues, workers and figures: look at them, pause, limit, scale.

use axum::Json;
use axum::extract::{Extension, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::access::{Access, Caller};
use super::body::{By, operator};
use super::problem::Problem;
use super::request::{Fields, Halves, Id, Query};
use super::routes::Routes;
use crate::domain::id::QueueName;
use crate::runtime::operate::{self, QueueStatus, ScaledDocument, WorkerDocument, WorkerPage};
use crate::runtime::queue;
use crate::service::config::Role;
use crate::store::document::StatisticsDocument;
use crate::store::operate::{Limits, Scaling};

pub(super) fn routes(routes: Routes) -> Routes {
    let (read, admin) = (Access::Needs(Role::Read), Access::Needs(Role::Admin));
    routes
        .add(__path_stats, stats, read, &[])
        .add(__path_queues, queues, read, &[])
        .add(__path_set_limits, set_limits, admin, &["QueueNotFound"])
        .add(__path_pause, pause, admin, &["QueueNotFound"])
        .add(__path_resume, resume, admin, &["QueueNotFound"])
        .add(__path_workers, workers, read, &["WorkerNotFound"])
        .add(
            __path_worker_by_encoded_id,
            worker_by_encoded_id,
            read,
            &["WorkerNotFound"],
        )
        .add(__path_worker, worker, read, &["WorkerNotFound"])
        .add(
            __path_scale,
            scale,
            admin,
            &["WorkerNotFound", "WorkerPoolFull", "NoWorkersAvailable"],
        )
}

/// A page of queues.
#[derive(Serialize, ToSchema)]
struct QueuePage {
    /// By name.
    items: Vec<QueueStatus>,
    /// Where the list goes on, if it does.
    next_cursor: Option<String>,
}

/// What replicas made of a wish, on one page.
#[derive(Serialize, ToSchema)]
struct ScaledPage {
    /// One for each replica that was asked.
    items: Vec<ScaledDocument>,
    /// Always null.
    next_cursor: Option<String>,
}

/// Counts of tasks, queues and workers.
#[utoipa::path(get, path = "/v1/stats", operation_id = "get_stats", tag = "figures",
    responses((status = 200, body = StatisticsDocument, description = "The counts")))]
async fn stats(State(api): State<Api>) -> Result<Json<StatisticsDocument>, Problem> {
    Ok(Json(queue::statistics(api.store()).await?))
}

/// All queues.
#[utoipa::path(get, path = "/v1/queues", operation_id = "list_queues", tag = "queues",
    params(("limit" = Option<u16>, Query, description = "How many to a page, 50 by default", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "Go on where the page before ended: its next_cursor")),
    responses((status = 200, body = QueuePage, description = "A page, by name")))]
async fn queues(State(api): State<Api>, mut query: Query) -> Result<Json<QueuePage>, Problem> {
    let (limit, cursor) = (query.limit(), query.parsed::<QueueName>("cursor"));
    query.finish()?;
    let mut items = operate::list_queues(api.store()).await?;
    if let Some(last) = cursor {
        items.retain(|queue| *queue.name > *last.as_str());
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    let last = items.last().filter(|_| has_more);
    let next_cursor = last.map(|queue| queue.name.clone());
    Ok(Json(QueuePage { items, next_cursor }))
}

/// The limits of all queues together; 0 is no limit, an absent one stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = Limits)]
#[serde(default, deny_unknown_fields)]
struct NewLimits {
    /// The most tasks that are not terminal.
    #[schema(maximum = 4_294_967_295_u64, nullable = false)]
    max_size: Option<u64>,
    /// The most tasks that run.
    #[schema(maximum = 4_294_967_295_u64, nullable = false)]
    max_running: Option<u64>,
    /// Who you are, for the log; by default the role of your token.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    actor: Option<String>,
    /// Your own words, for the log; at most 1024 bytes.
    #[schema(max_length = 1024)]
    reason: Option<String>,
}

/// Sets limits; they hold for all queues together, on all replicas.
#[utoipa::path(patch, path = "/v1/queues/{id}", operation_id = "set_limits", tag = "queues",
    params(("id" = String, Path, description = "The queue, which stands on the log with it")), request_body = NewLimits,
    responses((status = 200, body = QueueStatus, description = "The queue")))]
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
#[utoipa::path(post, path = "/v1/queues/{id}/pause", operation_id = "pause_queue", tag = "queues",
    params(("id" = String, Path, description = "The queue")), request_body = By,
    responses((status = 200, body = QueueStatus, description = "The queue")))]
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
#[utoipa::path(post, path = "/v1/queues/{id}/resume", operation_id = "resume_queue", tag = "queues",
    params(("id" = String, Path, description = "The queue")), request_body = By,
    responses((status = 200, body = QueueStatus, description = "The queue")))]
async fn resume(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Id(name): Id,
    Fields(body): Fields<By>,
) -> Result<Json<QueueStatus>, Problem> {
    operate::resume_queue(api.store(), &body.operator(caller)?, &name).await?;
    Ok(Json(operate::queue(api.store(), &name).await?))
}

/// The workers of all replicas, or of one.
#[utoipa::path(get, path = "/v1/workers", operation_id = "list_workers", tag = "workers",
    params(("replica" = Option<String>, Query, description = "Only those of this replica"),
        ("limit" = Option<u16>, Query, description = "How many to a page, 50 by default", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "Go on where the page before ended: its next_cursor")),
    responses((status = 200, body = WorkerPage, description = "A page, and all replicas")))]
async fn workers(State(api): State<Api>, mut query: Query) -> Result<Json<WorkerPage>, Problem> {
    let (replica, cursor, limit) = (query.text("replica"), query.text("cursor"), query.limit());
    query.finish()?;
    let page = operate::list_workers(api.store(), replica.as_deref(), cursor.as_deref(), limit).await?;
    Ok(Json(page))
}

/// A worker, by its id with the slash written as `%2F`.
#[utoipa::path(get, path = "/v1/workers/{id}", operation_id = "get_worker_by_id", tag = "workers",
    params(("id" = String, Path, description = "The worker: replica, `%2F` and number")),
    responses((status = 200, body = WorkerDocument, description = "The worker")))]
async fn worker_by_encoded_id(State(api): State<Api>, Id(id): Id) -> Result<Json<WorkerDocument>, Problem> {
    Ok(Json(operate::worker(api.store(), &id).await?))
}

/// A worker, by its id of replica and number.
#[utoipa::path(get, path = "/v1/workers/{replica}/{number}", operation_id = "get_worker", tag = "workers",
    params(("replica" = String, Path, description = "The replica"), ("number" = String, Path, description = "The number")),
    responses((status = 200, body = WorkerDocument, description = "The worker")))]
async fn worker(State(api): State<Api>, Halves(replica, number): Halves) -> Result<Json<WorkerDocument>, Problem> {
    let id = format!("{replica}/{number}");
    Ok(Json(operate::worker(api.store(), &id).await?))
}

/// How many workers are wanted: one of `add`, `remove` and `max`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ScaleWorkers)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    /// Of this replica only.
    replica: Option<String>,
    /// So many more.
    #[schema(minimum = 1, maximum = 10000, nullable = false)]
    add: Option<u16>,
    /// So many fewer, though never fewer than the minimum.
    #[schema(minimum = 1, maximum = 10000, nullable = false)]
    remove: Option<u16>,
    /// So many and, from now on, never more.
    #[schema(minimum = 1, maximum = 10000, nullable = false)]
    max: Option<u16>,
    /// Who you are, for the log; by default the role of your token.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    actor: Option<String>,
    /// Your own words, for the log; at most 1024 bytes.
    #[schema(max_length = 1024)]
    reason: Option<String>,
}

/// Has more workers or fewer, on one replica or on all; answers what each replica made of it.
#[utoipa::path(post, path = "/v1/workers/scale", operation_id = "scale_workers", tag = "workers", request_body = Wanted,
    responses((status = 200, body = ScaledPage, description = "What each replica made of it")))]
async fn scale(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Fields(body): Fields<Wanted>,
) -> Result<Json<ScaledPage>, Problem> {
    let operator = operator(caller, body.actor.as_deref(), body.reason.as_deref())?;
    let scaling = match (body.add, body.remove, body.max) {
        (Some(count), None, None) => Scaling::Add(count),
        (None, Some(count), None) => Scaling::Remove(count),
        (None, None, Some(count)) => Scaling::Max(count),
        _ => return Err(Problem::invalid("add", "give exactly one of `add`, `remove` and `max`")),
    };
    let items = operate::scale(api.store(), &operator, scaling, body.replica.as_deref()).await?;
    Ok(Json(ScaledPage {
        items,
        next_cursor: None,
    }))
}
