//! `waooaw task`: looks at tasks, waits for them, cancels them.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::confirm::{EndArgs, confirm_on_terminal};
use super::context::Context;
use super::exit::{Failure, say};
use super::output;
use crate::domain::id::{Name, QueueName, TaskId, shortened};
use crate::domain::state::TaskState;
use crate::error::Error;
use crate::runtime::{explain, request, waiting};
use crate::service::config::units;
use crate::store::Store;
use crate::store::document::TaskDocument;
use crate::store::listing::TaskQuery;

/// What can be done with tasks.
#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Print a task
    #[command(after_help = "\
Example:
  waooaw task get 7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000")]
    Get {
        /// The task
        #[arg(value_name = "ID")]
        id: String,
    },
    /// List tasks; the latest made or ended first, those that wait or run by queue and priority
    #[command(after_help = "\
Examples:
  waooaw task list --state failed
  waooaw task list --state pending --queue billing --older-than 10m
  waooaw task list --workflow order-7 --limit 500 --output json")]
    List(ListArgs),
    /// Stop a task, wherever it waits or runs
    #[command(after_help = "\
Asks first on a terminal, unless --yes has said so.

Example:
  waooaw task cancel 7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000 --reason 'ordered twice'")]
    Cancel(EndArgs),
    /// Say why a task does not run, or where it does
    #[command(after_help = "\
Example:
  waooaw task explain 7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000")]
    Explain {
        /// The task
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Wait until a task has ended, and print it
    #[command(after_help = "\
Exits with 0 when it completed, 1 when it ended otherwise or time is up.

Example:
  waooaw task wait 7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000 --timeout 60")]
    Wait {
        /// The task
        #[arg(value_name = "ID")]
        id: String,
        /// The longest to wait
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        timeout: Option<f64>,
    },
}

/// What `task list` takes.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// PENDING, RUNNING, COMPLETED, FAILED, TIMEOUT or CANCELLED
    #[arg(long, value_name = "STATE")]
    state: Option<TaskState>,
    /// Only those of this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<QueueName>,
    /// Only those of this workflow
    #[arg(long, value_name = "WORKFLOW")]
    workflow: Option<Name>,
    /// Only those made longer ago than this, such as 10m
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    older_than: Option<Duration>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Go on where the list before ended: its next_cursor
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

/// Reads a number of seconds to wait: from 0 to a year.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.0..=31_536_000.0).contains(seconds))
        .ok_or_else(|| "expected a number of seconds from 0 to 31536000".to_owned())
}

/// Does what is asked.
pub(super) async fn run(context: &Context, command: TaskCommand) -> Result<(), Failure> {
    match command {
        TaskCommand::Get { id } => {
            let store = context.store().await?;
            let document = request::task_document(&store, task_id(&id)?).await?;
            print(context, &document)
        }
        TaskCommand::List(args) => list(context, args).await,
        TaskCommand::Cancel(EndArgs { id, reason, yes }) => cancel(context, &id, reason.as_deref(), yes).await,
        TaskCommand::Explain { id } => explain(context, &id).await,
        TaskCommand::Wait { id, timeout } => {
            let store = context.store().await?;
            wait(context, &store, task_id(&id)?, timeout).await
        }
    }
}

/// The task that was typed. What no task can be called names none; asked for once Redis is reached, as for any other.
pub(super) fn task_id(text: &str) -> Result<TaskId, Error> {
    text.parse().map_err(|_| Error::TaskNotFound(shortened(text)))
}

async fn explain(context: &Context, id: &str) -> Result<(), Failure> {
    let store = context.store().await?;
    let explanation = explain::explain(&store, task_id(id)?).await?;
    if context.is_json() {
        return output::json(&explanation);
    }
    output::line(&output::plain(&format!(
        "{}: {}",
        explanation.state, explanation.summary
    )))?;
    let rows: Vec<(&str, String)> = explanation
        .details
        .iter()
        .filter(|(_, value)| !value.is_null() && !value.as_array().is_some_and(Vec::is_empty))
        .map(|(name, value)| {
            let text = if name == "error" {
                output::error(value)
            } else {
                output::words(value)
            };
            (name.as_str(), output::cut(&text, LONGEST))
        })
        .collect();
    output::fields(&rows)
}

async fn cancel(context: &Context, id: &str, reason: Option<&str>, is_agreed: bool) -> Result<(), Failure> {
    let store = context.store().await?;
    let id = task_id(id)?.to_string();
    let payload = serde_json::json!({ "task_id": id, "reason": reason }).to_string();
    let command = request::read_cancel("cli", "-", &payload)?;
    confirm_on_terminal(&format!("cancel task `{id}`?"), is_agreed)?;
    let message = command.reason.as_deref();
    if !request::cancel(&store, request::new_actor(), command.task_id, message).await? {
        let state = request::task_document(&store, command.task_id).await?.state;
        return Err(Error::InvalidTransition(format!("task `{}` has ended as {state}", command.task_id)).into());
    }
    let document = request::task_document(&store, command.task_id).await?;
    if context.is_json() {
        return output::json(&document);
    }
    output::fields(&[
        ("task_id", document.task_id.clone()),
        ("state", document.state.to_owned()),
    ])
}

/// Waits until a task has ended, prints it, and fails when it did not complete.
pub(super) async fn wait(context: &Context, store: &Store, id: TaskId, patience: Option<f64>) -> Result<(), Failure> {
    let deadline = patience.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    let spinner = if context.is_quiet() {
        None
    } else {
        output::spinner(format!("waiting for task {id}"))
    };
    let outcome = waiting::wait_until_over(store, id, deadline).await;
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    let (document, is_over) = outcome?;
    print(context, &document)?;
    if document.state == TaskState::Completed.as_str() {
        return Ok(());
    }
    let text = if is_over {
        format!("task `{id}` ended as {}", document.state)
    } else {
        format!(
            "task `{id}` is {} after {} s of waiting",
            document.state,
            patience.unwrap_or_default()
        )
    };
    Err(Failure::failed(&text).named(if is_over { "TaskNotCompleted" } else { "WaitTimeout" }))
}

async fn list(context: &Context, args: ListArgs) -> Result<(), Failure> {
    let store = context.store().await?;
    let created_before_ms = match args.older_than {
        Some(age) => {
            let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            Some(store.now_ms().await?.saturating_sub(age_ms))
        }
        None => None,
    };
    let query = TaskQuery {
        state: args.state,
        queue: args.queue,
        workflow: args.workflow,
        trigger_event_id: None,
        created_before_ms,
        limit: usize::from(args.limit),
    };
    let page = request::list_tasks(&store, &query, args.cursor.as_deref()).await?;
    if context.is_json() {
        return output::json(&page);
    }
    let rows = page.items.iter().map(row).collect();
    output::table(
        &[
            "task_id",
            "name",
            "state",
            "queue",
            "priority",
            "attempt",
            "created_at",
            "workflow_id",
        ],
        rows,
    )?;
    for id in &page.damaged {
        say(&format!("task {id} is left out: its record is damaged"));
    }
    if let Some(cursor) = page.next_cursor {
        say(&format!("there may be more: --cursor {cursor}"));
    }
    Ok(())
}

fn row(task: &TaskDocument) -> Vec<String> {
    vec![
        task.task_id.clone(),
        task.name.clone(),
        task.state.to_owned(),
        task.queue.clone(),
        task.priority.to_owned(),
        task.attempt.to_string(),
        task.created_at.clone(),
        task.workflow_id.clone().unwrap_or_default(),
    ]
}

fn print(context: &Context, task: &TaskDocument) -> Result<(), Failure> {
    if context.is_json() {
        return output::json(task);
    }
    output::fields(&details(task))
}

/// How much of a value is shown; JSON output has all of it.
const LONGEST: usize = 2000;

/// What there is to say of a task, without what is absent or empty.
fn details(task: &TaskDocument) -> Vec<(&'static str, String)> {
    let json = |value: &RawValue| match value.get() {
        "[]" | "{}" => None,
        text => Some(output::cut(text, LONGEST)),
    };
    let maybe = |value: &Option<Box<RawValue>>| value.as_ref().map(|value| output::cut(value.get(), LONGEST));
    let joined = |names: &[String]| (!names.is_empty()).then(|| names.join(", "));
    let rows = [
        ("task_id", Some(task.task_id.clone())),
        ("name", Some(task.name.clone())),
        ("state", Some(task.state.to_owned())),
        ("queue", Some(task.queue.clone())),
        ("priority", Some(task.priority.to_owned())),
        ("key", task.key.clone()),
        ("workflow_id", task.workflow_id.clone()),
        ("agent_id", task.agent_id.clone()),
        ("parent_task_id", task.parent_task_id.clone()),
        ("dependencies", joined(&task.dependencies)),
        ("blocked_by", joined(&task.blocked_by)),
        ("args", json(&task.args)),
        ("kwargs", json(&task.kwargs)),
        ("inputs", json(&task.inputs)),
        ("tags", json(&task.tags)),
        ("metadata", json(&task.metadata)),
        ("attempt", Some(task.attempt.to_string())),
        ("retries", Some(format!("{} of {}", task.retry_count, task.max_retries))),
        (
            "timeout_seconds",
            task.timeout_seconds.map(|seconds| seconds.to_string()),
        ),
        ("created_at", Some(task.created_at.clone())),
        ("run_at", task.run_at.clone()),
        ("started_at", task.started_at.clone()),
        ("completed_at", task.completed_at.clone()),
        ("duration_ms", task.duration_ms.map(|duration| duration.to_string())),
        ("worker_id", task.worker_id.clone()),
        ("progress", maybe(&task.progress)),
        ("result", maybe(&task.result)),
        ("error", maybe(&task.error)),
        ("trigger_event_id", Some(task.trigger_event_id.clone())),
        ("correlation_id", Some(task.correlation_id.clone())),
    ];
    rows.into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}
