//! Dead letters: look at them, bring them back, remove them.

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Api;
use super::access::{Access, Caller};
use super::body::{By, operator};
use super::problem::Problem;
use super::request::{Fields, Id, Query};
use super::routes::Routes;
use crate::runtime::dead_letters::{DeadLetterPage, DeadLetters, Requeued};
use crate::runtime::request;
use crate::service::config::Role;
use crate::store::letter::DeadLetterDocument;
use crate::store::letter_listing::DeadLetterQuery;

pub(super) fn routes(routes: Routes) -> Routes {
    let (read, admin) = (Access::Needs(Role::Read), Access::Needs(Role::Admin));
    routes
        .get("/v1/dead-letters", read, list)
        .get("/v1/dead-letters/{id}", read, show)
        .post("/v1/dead-letters/{id}/requeue", admin, requeue)
        .delete("/v1/dead-letters/{id}", admin, discard)
}

fn letters(api: &Api) -> DeadLetters {
    DeadLetters::new(api.store().clone())
}

/// Lists dead letters, the latest first, by `kind`, `reason`, `task_name`, `text`, and by time with `from` and `to`.
async fn list(State(api): State<Api>, mut query: Query) -> Result<Json<DeadLetterPage>, Problem> {
    let wanted = DeadLetterQuery {
        kind: query.parsed("kind"),
        reason: query.text("reason"),
        task_name: query.text("task_name"),
        before_ms: query.moment("to"),
        after_ms: query.moment("from"),
        text: query.text("text"),
        oldest_first: false,
    };
    let (limit, cursor) = (query.limit(), query.text("cursor"));
    query.finish()?;
    Ok(Json(letters(&api).list(&wanted, limit, cursor.as_deref()).await?))
}

/// A dead letter with everything that is kept of it.
async fn show(State(api): State<Api>, Id(id): Id) -> Result<Json<DeadLetterDocument>, Problem> {
    Ok(Json(letters(&api).get(&id).await?))
}

/// How a task goes on.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Again {
    /// Who you are, for the log; by default the role of your token.
    actor: Option<String>,
    /// Your own words, for the log.
    reason: Option<String>,
    /// Another policy from now on: the name of a preset, or an object.
    retry: Option<Box<RawValue>>,
}

/// Lets a task run again with all its retries, or puts a rejected trigger back on its stream.
async fn requeue(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    Fields(body): Fields<Again>,
) -> Result<Json<Requeued>, Problem> {
    let operator = operator(caller, body.actor.as_deref(), body.reason.as_deref())?;
    let policy = match &body.retry {
        Some(policy) => request::read_policy(policy.get())?,
        None => None,
    };
    Ok(Json(letters(&api).requeue(&operator, &id, policy).await?))
}

/// Removes a dead letter for good.
async fn discard(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    Fields(body): Fields<By>,
) -> Result<StatusCode, Problem> {
    letters(&api).discard(&body.operator(caller)?, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
