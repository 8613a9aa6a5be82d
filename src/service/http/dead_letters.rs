//! Dead letters: look at them, bring them back, remove them.

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Api;
use super::access::{Access, Caller};
use super::body::{By, operator};
use super::openapi::Retry;
use super::problem::Problem;
use super::request::{Fields, Id, Query};
use super::routes::Routes;
use crate::domain::dead_letter::DeadLetterKind;
use crate::runtime::dead_letters::{DeadLetterPage, DeadLetters, Requeued};
use crate::runtime::request;
use crate::service::config::Role;
use crate::store::letter::DeadLetterDocument;
use crate::store::letter_listing::DeadLetterQuery;

pub(super) fn routes(routes: Routes) -> Routes {
    let (read, admin) = (Access::Needs(Role::Read), Access::Needs(Role::Admin));
    routes
        .add(__path_list, list, read, &[])
        .add(__path_show, show, read, &["DeadLetterNotFound"])
        .add(
            __path_requeue,
            requeue,
            admin,
            &["DeadLetterNotFound", "InvalidTransition"],
        )
        .add(__path_discard, discard, admin, &["DeadLetterNotFound"])
}

fn letters(api: &Api) -> DeadLetters {
    DeadLetters::new(api.store().clone())
}

/// Lists dead letters, the latest first.
///
/// A page may be short, even empty, and still have one after it: each looks at a bounded number of dead letters.
#[utoipa::path(get, path = "/v1/dead-letters", operation_id = "list_dead_letters", tag = "dead letters",
    params(
        ("kind" = Option<DeadLetterKind>, Query, description = "Only those of this kind; any case will do"),
        ("reason" = Option<String>, Query, description = "Only those of this reason"),
        ("task_name" = Option<String>, Query, description = "Only those of this task name"),
        ("text" = Option<String>, Query, description = "Only those whose error holds this text"),
        ("from" = Option<String>, Query, description = "Only those since then, RFC 3339", format = DateTime),
        ("to" = Option<String>, Query, description = "Only those until then, RFC 3339", format = DateTime),
        ("limit" = Option<u16>, Query, description = "How many to a page, 50 by default", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "Go on where the page before ended: its next_cursor")),
    responses((status = 200, body = DeadLetterPage, description = "A page")))]
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
#[utoipa::path(get, path = "/v1/dead-letters/{id}", operation_id = "get_dead_letter", tag = "dead letters",
    params(("id" = String, Path, description = "The dead letter")),
    responses((status = 200, body = DeadLetterDocument, description = "The dead letter")))]
async fn show(State(api): State<Api>, Id(id): Id) -> Result<Json<DeadLetterDocument>, Problem> {
    Ok(Json(letters(&api).get(&id).await?))
}

/// How a task goes on.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = Requeue)]
#[serde(default, deny_unknown_fields)]
struct Again {
    /// Who you are, for the log; by default the role of your token.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    actor: Option<String>,
    /// Your own words, for the log; at most 1024 bytes.
    #[schema(max_length = 1024)]
    reason: Option<String>,
    /// Another policy from now on: the name of a preset, or an object.
    #[schema(value_type = Option<Retry>)]
    retry: Option<Box<RawValue>>,
}

/// Lets a task run again with all its retries, or puts a rejected trigger back on its stream.
#[utoipa::path(post, path = "/v1/dead-letters/{id}/requeue", operation_id = "requeue_dead_letter", tag = "dead letters",
    params(("id" = String, Path, description = "The dead letter")), request_body = Again,
    responses((status = 200, body = Requeued, description = "What waits again")))]
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
#[utoipa::path(delete, path = "/v1/dead-letters/{id}", operation_id = "discard_dead_letter", tag = "dead letters",
    params(("id" = String, Path, description = "The dead letter")), request_body = By,
    responses((status = 204, description = "It is gone")))]
async fn discard(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    Fields(body): Fields<By>,
) -> Result<StatusCode, Problem> {
    letters(&api).discard(&body.operator(caller)?, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
