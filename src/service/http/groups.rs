//! Workflows and sagas: look at them, stop them, let them go back or try again.

use axum::Json;
use axum::extract::{Extension, State};

use super::Api;
use super::access::{Access, Caller};
use super::body::{By, Reason};
use super::problem::Problem;
use super::request::{Fields, Id, JsonText, Query};
use super::routes::Routes;
use crate::domain::graph::ExecutionPlan;
use crate::domain::id::{Name, shortened};
use crate::domain::workflow::WorkflowTrigger;
use crate::error::Error;
use crate::runtime::group::{self, SagaDocument, WorkflowDocument};
use crate::runtime::request::{self, TaskPage};
use crate::service::config::Role;
use crate::store::listing::TaskQuery;

pub(super) fn routes(routes: Routes) -> Routes {
    let (read, admin) = (Access::Needs(Role::Read), Access::Needs(Role::Admin));
    routes
        .post("/v1/workflows/plan", admin, plan)
        .get("/v1/workflows/{id}", read, workflow)
        .get("/v1/workflows/{id}/tasks", read, tasks)
        .post("/v1/workflows/{id}/stop", admin, stop)
        .get("/v1/sagas/{id}", read, saga)
        .post("/v1/sagas/{id}/cancel", admin, cancel)
        .post("/v1/sagas/{id}/resume", admin, resume)
}

/// What is no id of a workflow names none.
fn workflow_id(text: &str) -> Result<Name, Problem> {
    text.parse()
        .map_err(|_| Error::WorkflowNotFound(shortened(text)).into())
}

/// What is no id of a saga names none.
fn saga_id(text: &str) -> Result<Name, Problem> {
    text.parse().map_err(|_| Error::SagaNotFound(shortened(text)).into())
}

/// In what order the tasks of a workflow would run. The body is the payload of `orchestration.workflow.start`; nothing is
/// started.
async fn plan(JsonText(body): JsonText) -> Result<Json<ExecutionPlan>, Problem> {
    Ok(Json(WorkflowTrigger::parse(&body)?.plan()))
}

/// A workflow as it is right now.
async fn workflow(State(api): State<Api>, Id(id): Id) -> Result<Json<WorkflowDocument>, Problem> {
    Ok(Json(group::workflow_document(api.store(), &workflow_id(&id)?).await?))
}

/// The tasks of a workflow, by creation.
async fn tasks(State(api): State<Api>, Id(id): Id, mut query: Query) -> Result<Json<TaskPage>, Problem> {
    let mut wanted = TaskQuery::all(query.limit());
    wanted.workflow = Some(workflow_id(&id)?);
    wanted.state = query.parsed("state");
    let cursor = query.text("cursor");
    query.finish()?;
    let page = request::list_tasks(api.store(), &wanted, cursor.as_deref()).await?;
    Ok(Json(page))
}

/// Cancels what has not ended of a workflow; answers the workflow.
async fn stop(
    State(api): State<Api>,
    Id(id): Id,
    Fields(body): Fields<Reason>,
) -> Result<Json<WorkflowDocument>, Problem> {
    let id = workflow_id(&id)?;
    let reason = body.checked()?;
    if !group::stop_workflow(api.store(), api.0.actor, &id, reason.as_deref()).await? {
        let state = group::workflow_document(api.store(), &id).await?.state;
        return Err(Error::InvalidTransition(format!("workflow `{id}` has ended as {state}")).into());
    }
    Ok(Json(group::workflow_document(api.store(), &id).await?))
}

/// A saga as it is right now.
async fn saga(State(api): State<Api>, Id(id): Id) -> Result<Json<SagaDocument>, Problem> {
    Ok(Json(group::saga_document(api.store(), &saga_id(&id)?).await?))
}

/// Lets a saga go back; answers the saga.
async fn cancel(
    State(api): State<Api>,
    Id(id): Id,
    Fields(body): Fields<Reason>,
) -> Result<Json<SagaDocument>, Problem> {
    let id = saga_id(&id)?;
    let reason = body.checked()?;
    group::cancel_saga(api.store(), api.0.actor, &id, reason.as_deref()).await?;
    Ok(Json(group::saga_document(api.store(), &id).await?))
}

/// Lets a saga try again what it could not undo; answers the saga.
async fn resume(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    Fields(body): Fields<By>,
) -> Result<Json<SagaDocument>, Problem> {
    let id = saga_id(&id)?;
    let operator = body.operator(caller)?;
    group::resume_saga(api.store(), operator.id, &id, &operator.actor).await?;
    Ok(Json(group::saga_document(api.store(), &id).await?))
}
