//! Workflows and sagas: look at them, stop them, let them go back or try again.

use axum::Json;
use axum::extract::{Extension, State};

use super::Api;
use super::access::{Access, Caller};
use super::body::{By, Reason};
use super::openapi::WorkflowStart;
use super::problem::Problem;
use super::request::{Fields, Id, JsonText, Query};
use super::routes::Routes;
use crate::domain::plan::ExecutionPlan;
use crate::domain::state::TaskState;
use crate::domain::workflow::WorkflowTrigger;
use crate::error::Error;
use crate::runtime::group;
use crate::runtime::request::{self, TaskPage};
use crate::runtime::saga_execution::{SagaExecution, saga_execution};
use crate::runtime::workflow_execution::{WorkflowExecution, workflow_execution};
use crate::service::config::Role;
use crate::store::listing::TaskQuery;

pub(super) fn routes(routes: Routes) -> Routes {
    let (read, admin) = (Access::Needs(Role::Read), Access::Needs(Role::Admin));
    routes
        .add(__path_plan, plan, admin, &["CyclicDependency", "InvalidDependency"])
        .add(__path_workflow, workflow, read, &["WorkflowNotFound"])
        .add(__path_tasks, tasks, read, &["WorkflowNotFound"])
        .add(__path_stop, stop, admin, &["WorkflowNotFound", "InvalidTransition"])
        .add(__path_saga, saga, read, &["SagaNotFound"])
        .add(__path_cancel, cancel, admin, &["SagaNotFound", "InvalidTransition"])
        .add(__path_resume, resume, admin, &["SagaNotFound", "InvalidTransition"])
}

/// In what order the tasks of a workflow would run.
///
/// The body is the payload of `orchestration.workflow.start`. Nothing is started, and handlers are not looked at.
#[utoipa::path(post, path = "/v1/workflows/plan", operation_id = "plan_workflow", tag = "workflows",
    request_body = WorkflowStart, responses((status = 200, body = ExecutionPlan, description = "The plan")))]
async fn plan(JsonText(body): JsonText) -> Result<Json<ExecutionPlan>, Problem> {
    Ok(Json(WorkflowTrigger::parse(&body)?.plan()))
}

/// A workflow as it is right now.
#[utoipa::path(get, path = "/v1/workflows/{id}", operation_id = "get_workflow", tag = "workflows",
    params(("id" = String, Path, description = "The workflow")),
    responses((status = 200, body = WorkflowExecution, description = "The workflow")))]
async fn workflow(State(api): State<Api>, Id(id): Id) -> Result<Json<WorkflowExecution>, Problem> {
    Ok(Json(workflow_execution(api.store(), &group::workflow_id(&id)?).await?))
}

/// The tasks of a workflow, by creation.
#[utoipa::path(get, path = "/v1/workflows/{id}/tasks", operation_id = "list_workflow_tasks", tag = "workflows",
    params(("id" = String, Path, description = "The workflow"),
        ("state" = Option<TaskState>, Query, description = "Only those in this state"),
        ("limit" = Option<u16>, Query, description = "How many to a page, 50 by default", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "Go on where the page before ended: its next_cursor")),
    responses((status = 200, body = TaskPage, description = "A page")))]
async fn tasks(State(api): State<Api>, Id(id): Id, mut query: Query) -> Result<Json<TaskPage>, Problem> {
    let mut wanted = TaskQuery::all(query.limit());
    let id = group::workflow_id(&id)?;
    wanted.workflow = Some(id.clone());
    wanted.state = query.parsed("state");
    let cursor = query.text("cursor");
    query.finish()?;
    let page = request::list_tasks(api.store(), &wanted, cursor.as_deref()).await?;
    if page.items.is_empty() && cursor.is_none() {
        // None of it, or no such workflow.
        workflow_execution(api.store(), &id).await?;
    }
    Ok(Json(page))
}

/// Cancels what has not ended of a workflow; answers the workflow.
#[utoipa::path(post, path = "/v1/workflows/{id}/stop", operation_id = "stop_workflow", tag = "workflows",
    params(("id" = String, Path, description = "The workflow")), request_body = Reason,
    responses((status = 200, body = WorkflowExecution, description = "The workflow; what runs ends a little later")))]
async fn stop(
    State(api): State<Api>,
    Id(id): Id,
    Fields(body): Fields<Reason>,
) -> Result<Json<WorkflowExecution>, Problem> {
    let id = group::workflow_id(&id)?;
    let reason = body.checked()?;
    if !group::stop_workflow(api.store(), api.0.actor, &id, reason.as_deref()).await? {
        let state = workflow_execution(api.store(), &id).await?.state;
        return Err(Error::InvalidTransition(format!("workflow `{id}` has ended as {state}")).into());
    }
    Ok(Json(workflow_execution(api.store(), &id).await?))
}

/// A saga as it is right now.
#[utoipa::path(get, path = "/v1/sagas/{id}", operation_id = "get_saga", tag = "sagas",
    params(("id" = String, Path, description = "The saga")),
    responses((status = 200, body = SagaExecution, description = "The saga")))]
async fn saga(State(api): State<Api>, Id(id): Id) -> Result<Json<SagaExecution>, Problem> {
    Ok(Json(saga_execution(api.store(), &group::saga_id(&id)?).await?))
}

/// Lets a saga go back; answers the saga.
#[utoipa::path(post, path = "/v1/sagas/{id}/cancel", operation_id = "cancel_saga", tag = "sagas",
    params(("id" = String, Path, description = "The saga")), request_body = Reason,
    responses((status = 200, body = SagaExecution, description = "The saga")))]
async fn cancel(
    State(api): State<Api>,
    Id(id): Id,
    Fields(body): Fields<Reason>,
) -> Result<Json<SagaExecution>, Problem> {
    let id = group::saga_id(&id)?;
    let reason = body.checked()?;
    group::cancel_saga(api.store(), api.0.actor, &id, reason.as_deref()).await?;
    Ok(Json(saga_execution(api.store(), &id).await?))
}

/// Lets a saga try again what it could not undo; answers the saga.
#[utoipa::path(post, path = "/v1/sagas/{id}/resume", operation_id = "resume_saga", tag = "sagas",
    params(("id" = String, Path, description = "The saga")), request_body = By,
    responses((status = 200, body = SagaExecution, description = "The saga")))]
async fn resume(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    Fields(body): Fields<By>,
) -> Result<Json<SagaExecution>, Problem> {
    let id = group::saga_id(&id)?;
    let operator = body.operator(caller)?;
    group::resume_saga(api.store(), operator.id, &id, &operator.actor).await?;
    Ok(Json(saga_execution(api.store(), &id).await?))
}
