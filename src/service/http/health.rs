//! Whether the process lives, and whether the replica does its work.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::access::Access;
use super::routes::Routes;
use crate::runtime::replica::Readiness;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .add(__path_healthz, healthz, Access::Open, &[])
        .add(__path_readyz, readyz, Access::Open, &[])
}

/// The process answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`.
    #[schema(value_type = String, example = "ok")]
    status: &'static str,
}

/// The process answers; that is all.
#[utoipa::path(get, path = "/healthz", operation_id = "get_health", tag = "health",
    responses((status = 200, body = Health, description = "It lives")))]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether the replica does its work.
#[derive(Serialize, ToSchema)]
pub(super) struct Ready {
    /// `ready`, or why not: `joining`, `draining`, `deaf` or `exhausted`.
    #[schema(value_type = String)]
    status: &'static str,
    /// The name under which it runs now.
    #[schema(required = true)]
    replica: Option<String>,
    /// The loops that do not get through to Redis.
    #[schema(value_type = Vec<String>)]
    not_progressing: Vec<&'static str>,
    /// How many blocking functions go on after their attempts have ended.
    detached: u16,
}

/// Triggers and tasks are really being consumed: every loop got through to Redis within the last seconds.
#[utoipa::path(get, path = "/readyz", operation_id = "get_readiness", tag = "health",
    responses((status = 200, body = Ready, description = "It does its work"), (status = 503, body = Ready, description = "It does not do its work")))]
pub(super) async fn readyz(State(api): State<Api>) -> (StatusCode, Json<Ready>) {
    let replica = &api.0.replica;
    let (code, status, not_progressing) = match replica.readiness() {
        Readiness::Ready => (StatusCode::OK, "ready", Vec::new()),
        Readiness::Joining => (StatusCode::SERVICE_UNAVAILABLE, "joining", Vec::new()),
        Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining", Vec::new()),
        Readiness::Deaf(loops) => (StatusCode::SERVICE_UNAVAILABLE, "deaf", loops),
        Readiness::Exhausted => (StatusCode::SERVICE_UNAVAILABLE, "exhausted", Vec::new()),
    };
    let ready = Ready {
        status,
        replica: replica.replica_id().map(|id| id.to_string()),
        not_progressing,
        detached: replica.detached(),
    };
    (code, Json(ready))
}
