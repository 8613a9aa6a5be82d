//! Agents and workers outside, over HTTP: they claim tasks, say that they are at work, and end attempts.
//!
//! What they say is read by the rules of the bus, and decided by the same function in Redis; only what a request names otherwise
//! is put in its place here: the task stands in the path, and how the attempt ended in the route.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use super::Api;
use super::access::Access;
use super::problem::Problem;
use super::request::{Fields, Id, JsonText};
use super::routes::Routes;
use super::tasks::task_id;
use crate::domain::id::{Name, QueueName, TaskId};
use crate::domain::rejection::{Reason, Rejection};
use crate::domain::trigger::{Inbound, TASK_HEARTBEAT, TASK_RESULT};
use crate::runtime::agents::{self, Claim};
use crate::runtime::request;
use crate::service::config::Role;
use crate::store::document::TaskDocument;

/// The most tasks that one claim hands out.
const CLAIM_MAX: u16 = 100;
/// The longest that a claim waits for a task.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How many claims of a replica may wait at a time: each holds a connection to Redis. Others are answered at once.
const WAITING_MAX: usize = 256;
/// How long a worker may be silent where it does not say, and at most.
const SILENCE: Duration = Duration::from_secs(60);
const SILENCE_MAX: Duration = Duration::from_secs(24 * 3600);

static WAITING: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(WAITING_MAX));

pub(super) fn routes(routes: Routes) -> Routes {
    let worker = Access::Needs(Role::Trigger);
    let ends = &["TaskNotFound", "InvalidTransition", "InvalidField"];
    routes
        .add(__path_claim, claim, worker, &["InvalidField"])
        .add(__path_heartbeat, heartbeat, worker, ends)
        .add(__path_complete, complete, worker, ends)
        .add(__path_fail, fail, worker, ends)
}

/// What a worker wants: one of `worker_id` and `agent_id` says who it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = Claim)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    /// The worker's name, by which it owns what it is given.
    #[schema(max_length = 128)]
    worker_id: Option<String>,
    /// The same of an agent: it is given what waits unread in its inbox too, out of whatever queue.
    #[schema(max_length = 128)]
    agent_id: Option<String>,
    /// How many tasks at most, 1 by default.
    #[schema(minimum = 1, maximum = 100)]
    max: Option<u16>,
    /// The names of the tasks that it carries out; triggers of these names are accepted from now on. Without any it is given
    /// whatever waits in the queue.
    #[schema(max_items = 100)]
    task_names: Vec<String>,
    /// How long to wait for a task, at most 60; by default not at all.
    #[schema(minimum = 0, maximum = 60)]
    wait_seconds: Option<f64>,
    /// After how long without a heartbeat an attempt is lost, 60 by default.
    #[schema(minimum = 1, maximum = 86400)]
    heartbeat_timeout_seconds: Option<f64>,
}

/// What an agent or a worker is to carry out.
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "only its description is used: assignments pass through as they are made"
)]
struct Assignment {
    /// The task.
    task_id: String,
    /// The attempt: to be named with each heartbeat and with the end.
    attempt: u32,
    /// The task's name.
    name: String,
    /// Positional arguments.
    args: Vec<Value>,
    /// Named arguments.
    #[schema(value_type = Object)]
    kwargs: Value,
    /// The results of what it depends on, by name; null where they are too large.
    #[schema(value_type = Option<Object>)]
    inputs: Option<Value>,
    /// The workflow.
    workflow_id: Option<String>,
    /// Free-form data of the trigger.
    #[schema(value_type = Object)]
    metadata: Value,
    /// By when the attempt must have ended.
    deadline: Option<String>,
}

/// What was claimed.
#[derive(Serialize, ToSchema)]
struct Assignments {
    /// In the order in which they are to be served; none when nothing waits.
    #[schema(value_type = Vec<Assignment>)]
    items: Vec<Box<RawValue>>,
    /// Always null.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

fn invalid(field: &'static str, message: String) -> Problem {
    Rejection::new(Reason::InvalidField, Some(field), message).into()
}

/// A number of seconds within bounds.
fn seconds(
    field: &'static str,
    value: Option<f64>,
    default: Duration,
    min: f64,
    max: Duration,
) -> Result<Duration, Problem> {
    match value {
        None => Ok(default),
        Some(value) if (min..=max.as_secs_f64()).contains(&value) => Ok(Duration::from_secs_f64(value)),
        Some(_) => Err(invalid(field, format!("must be {min} to {}", max.as_secs()))),
    }
}

fn name(field: &'static str, text: &str) -> Result<Name, Problem> {
    text.parse()
        .map_err(|error: crate::domain::id::InvalidId| invalid(field, error.to_string()))
}

impl Wanted {
    fn checked(self) -> Result<Claim, Problem> {
        let (field, text, is_agent) = match (&self.worker_id, &self.agent_id) {
            (Some(worker), None) => ("worker_id", worker, false),
            (None, Some(agent)) => ("agent_id", agent, true),
            (Some(_), Some(_)) => {
                return Err(invalid(
                    "agent_id",
                    "must not be given together with worker_id".to_owned(),
                ));
            }
            (None, None) => {
                let message = "is required, or `agent_id`";
                return Err(Rejection::new(Reason::MissingField, Some("worker_id"), message).into());
            }
        };
        let max = self.max.unwrap_or(1);
        if !(1..=CLAIM_MAX).contains(&max) {
            return Err(invalid("max", format!("must be 1 to {CLAIM_MAX}")));
        }
        if self.task_names.len() > usize::from(CLAIM_MAX) {
            return Err(invalid("task_names", format!("must have at most {CLAIM_MAX} names")));
        }
        let task_names: Result<Vec<Name>, Problem> =
            self.task_names.iter().map(|text| name("task_names", text)).collect();
        Ok(Claim {
            worker: name(field, text)?,
            is_agent,
            max,
            task_names: task_names?,
            wait: seconds("wait_seconds", self.wait_seconds, Duration::ZERO, 0.0, WAIT_MAX)?,
            heartbeat_timeout: seconds(
                "heartbeat_timeout_seconds",
                self.heartbeat_timeout_seconds,
                SILENCE,
                1.0,
                SILENCE_MAX,
            )?,
        })
    }
}

/// Hands out waiting tasks of a queue to whoever asks, as attempts that it then holds.
///
/// An attempt ends by `complete` or `fail`. One that nothing is heard of for the heartbeat timeout is lost, and the task goes to
/// whoever comes next.
#[utoipa::path(post, path = "/v1/queues/{id}/claim", operation_id = "claim_tasks", tag = "agents",
    params(("id" = String, Path, description = "The queue")), request_body = Wanted,
    responses((status = 200, body = Assignments, description = "What is to be done; may be nothing")))]
async fn claim(
    State(api): State<Api>,
    Id(queue): Id,
    Fields(body): Fields<Wanted>,
) -> Result<Json<Assignments>, Problem> {
    let mut claim = body.checked()?;
    let queue: QueueName = queue
        .parse()
        .map_err(|_| Problem::from(crate::error::Error::QueueNotFound(crate::domain::id::shortened(&queue))))?;
    let seat = WAITING.try_acquire();
    if seat.is_err() {
        claim.wait = Duration::ZERO;
    }
    let items = agents::claim(api.store(), api.0.actor, &queue, &claim, api.0.feed.stop()).await?;
    Ok(Json(Assignments {
        items,
        next_cursor: None,
    }))
}

/// Word that an attempt goes on.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its description is used: the bus's own reader reads it")]
struct Beat {
    /// The attempt.
    #[schema(minimum = 1)]
    attempt: u32,
    /// Who says so, as it was claimed; checked where it is given.
    #[schema(max_length = 128)]
    worker_id: Option<String>,
    /// The same of an agent.
    #[schema(max_length = 128)]
    agent_id: Option<String>,
    /// How far it is: any JSON of at most 16 KiB. Without it what was said before stays.
    progress: Option<Value>,
}

/// Word that an attempt is done.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its description is used: the bus's own reader reads it")]
struct Completion {
    /// The attempt.
    #[schema(minimum = 1)]
    attempt: u32,
    /// Who says so, as it was claimed; checked where it is given.
    #[schema(max_length = 128)]
    worker_id: Option<String>,
    /// The same of an agent.
    #[schema(max_length = 128)]
    agent_id: Option<String>,
    /// Any JSON; null where none is given.
    result: Option<Value>,
}

/// What went wrong.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its description is used: the bus's own reader reads it")]
struct WorkerError {
    /// Your own word for it.
    #[schema(rename = "type", min_length = 1, max_length = 128)]
    kind: Option<String>,
    /// For people.
    message: Option<String>,
}

/// Word that an attempt failed.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its description is used: the bus's own reader reads it")]
struct Failure {
    /// The attempt.
    #[schema(minimum = 1)]
    attempt: u32,
    /// Who says so, as it was claimed; checked where it is given.
    #[schema(max_length = 128)]
    worker_id: Option<String>,
    /// The same of an agent.
    #[schema(max_length = 128)]
    agent_id: Option<String>,
    /// What went wrong.
    error: Option<WorkerError>,
    /// Whether another attempt makes sense; true where it is not given.
    retryable: Option<bool>,
}

/// What is said of an attempt, as on the bus, and who says so.
fn read_answer(
    event_type: &str,
    task: TaskId,
    status: Option<&str>,
    text: &str,
) -> Result<(Inbound, Option<Name>), Problem> {
    let text = if text.is_empty() { "{}" } else { text };
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text)
        .map_err(|error| Problem::from(Rejection::new(Reason::Malformed, Some("body"), error.to_string())))?;
    let mut who = None;
    for field in ["worker_id", "agent_id"] {
        let text: Option<String> = match fields.remove(field) {
            Some(value) => serde_json::from_str(value.get()).map_err(|error| invalid(field, error.to_string()))?,
            None => None,
        };
        if let Some(text) = text {
            who = Some(name(field, &text)?);
        }
    }
    let known = if status.is_some() {
        ["task_id", "status"].as_slice()
    } else {
        &["task_id"]
    };
    for field in known {
        if fields.contains_key(*field) {
            return Err(Rejection::new(Reason::UnknownField, Some(field), "is given by the path").into());
        }
    }
    let mut members = vec![format!("\"task_id\":\"{task}\"")];
    members.extend(status.map(|status| format!("\"status\":\"{status}\"")));
    members.extend(
        fields
            .iter()
            .map(|(field, value)| format!("{}:{}", Value::from(field.as_str()), value.get())),
    );
    let payload = format!("{{{}}}", members.join(","));
    Ok((request::read(event_type, "http", "http", &payload)?, who))
}

async fn finish(api: &Api, id: &str, status: &str, text: &str) -> Result<Json<TaskDocument>, Problem> {
    let task = task_id(id)?;
    let (said, who) = read_answer(TASK_RESULT, task, Some(status), text)?;
    if let Inbound::Result(result) = said {
        agents::finish(api.store(), api.replica().meters(), api.0.actor, &result, who.as_ref()).await?;
    }
    Ok(Json(request::task_document(api.store(), task).await?))
}

/// What is known after a heartbeat.
#[derive(Serialize, ToSchema)]
struct Beaten {
    /// The task.
    task_id: String,
    /// The attempt, which goes on.
    attempt: u32,
}

/// Says that an attempt goes on, and how far it is.
///
/// A conflict (409) means that the attempt is over: the task was cancelled, timed out, was lost or answered for.
#[utoipa::path(post, path = "/v1/tasks/{id}/heartbeat", operation_id = "heartbeat_task", tag = "agents",
    params(("id" = String, Path, description = "The task")), request_body = Beat,
    responses((status = 200, body = Beaten, description = "It goes on")))]
async fn heartbeat(State(api): State<Api>, Id(id): Id, JsonText(text): JsonText) -> Result<Json<Beaten>, Problem> {
    let task = task_id(&id)?;
    let (said, who) = read_answer(TASK_HEARTBEAT, task, None, &text)?;
    let Inbound::Heartbeat(beat) = said else {
        return Err(invalid("body", "is no heartbeat".to_owned()));
    };
    agents::heartbeat(api.store(), api.0.actor, &beat, who.as_ref()).await?;
    Ok(Json(Beaten {
        task_id: task.to_string(),
        attempt: beat.attempt,
    }))
}

/// Ends an attempt with a result; answers the task.
#[utoipa::path(post, path = "/v1/tasks/{id}/complete", operation_id = "complete_task", tag = "agents",
    params(("id" = String, Path, description = "The task")), request_body = Completion,
    responses((status = 200, body = TaskDocument, description = "The task")))]
async fn complete(State(api): State<Api>, Id(id): Id, JsonText(text): JsonText) -> Result<Json<TaskDocument>, Problem> {
    finish(&api, &id, "completed", &text).await
}

/// Ends an attempt without success; answers the task, which waits for another attempt or has failed.
#[utoipa::path(post, path = "/v1/tasks/{id}/fail", operation_id = "fail_task", tag = "agents",
    params(("id" = String, Path, description = "The task")), request_body = Failure,
    responses((status = 200, body = TaskDocument, description = "The task")))]
async fn fail(State(api): State<Api>, Id(id): Id, JsonText(text): JsonText) -> Result<Json<TaskDocument>, Problem> {
    finish(&api, &id, "failed", &text).await
}
