//! The HTTP side of a replica: whether the process lives, and whether it does its work.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::runtime::replica::{Readiness, ReplicaHandle};

/// Answers until `stop`.
///
/// # Errors
///
/// An I/O error of the listener.
pub(super) async fn serve(
    listener: TcpListener,
    replica: ReplicaHandle,
    stop: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, router(replica))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

fn router(replica: ReplicaHandle) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(replica)
}

/// The process answers; that is all.
async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// Triggers and tasks are really being consumed: every loop got through to Redis within the last seconds.
async fn readyz(State(replica): State<ReplicaHandle>) -> (StatusCode, Json<Value>) {
    let id = replica.replica_id().map(|id| id.to_string());
    let (code, status, deaf) = match replica.readiness() {
        Readiness::Ready => (StatusCode::OK, "ready", Vec::new()),
        Readiness::Joining => (StatusCode::SERVICE_UNAVAILABLE, "joining", Vec::new()),
        Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining", Vec::new()),
        Readiness::Deaf(loops) => (StatusCode::SERVICE_UNAVAILABLE, "deaf", loops),
        Readiness::Exhausted => (StatusCode::SERVICE_UNAVAILABLE, "exhausted", Vec::new()),
    };
    (
        code,
        Json(json!({
            "status": status, "replica": id, "not_progressing": deaf, "detached": replica.detached(),
        })),
    )
}
