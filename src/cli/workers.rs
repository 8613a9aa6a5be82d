//! `waooaw workers`: looks at workers, has more of them or fewer.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Context;
use super::exit::{Failure, say};
use super::output;
use super::queue::By;
use crate::runtime::operate::{self, ReplicaDocument, ScaledDocument, WORKERS_MAX, WorkerDocument};
use crate::store::operate::Scaling;

/// What can be done with workers.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkersCommand {
    /// List replicas and their workers: what each runs, and what it has done
    #[command(after_help = "\
Tasks are those that run right now; counts are up to two seconds old.

Examples:
  waooaw workers list
  waooaw workers list --replica r-3d7fqneb --output json")]
    List(ListArgs),
    /// Have more workers or fewer, on all replicas or one
    #[command(after_help = "\
All replicas that are meant can do it, or nothing is changed (WorkerPoolFull). --add goes up to the maximum that a replica
was started with, --remove down to its minimum; --max sets the maximum, and the workers with it. Running tasks of workers
that are to go end first. A replica that is started again begins with what is configured.

Examples:
  waooaw workers scale --add 3
  waooaw workers scale --replica r-3d7fqneb --remove 2
  waooaw workers scale --max 50 --reason 'month end'")]
    Scale(ScaleArgs),
}

/// What `workers list` takes.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only those of this replica
    #[arg(long, value_name = "REPLICA")]
    replica: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,
    /// Go on where the list before ended: its next_cursor
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

/// What `workers scale` takes.
#[derive(Debug, Args)]
#[group(id = "scaling", required = true, multiple = false, args = ["add", "remove", "max"])]
pub(crate) struct ScaleArgs {
    /// Only this replica
    #[arg(long, value_name = "REPLICA")]
    replica: Option<String>,
    /// So many more
    #[arg(long, value_name = "N", value_parser = count())]
    add: Option<u16>,
    /// So many fewer
    #[arg(long, value_name = "N", value_parser = count())]
    remove: Option<u16>,
    /// So many, and never more
    #[arg(long, value_name = "N", value_parser = count())]
    max: Option<u16>,
    #[command(flatten)]
    by: By,
}

fn count() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=i64::from(WORKERS_MAX))
}

/// Does what is asked.
pub(super) async fn run(context: &Context, command: WorkersCommand) -> Result<(), Failure> {
    match command {
        WorkersCommand::List(args) => list(context, &args).await,
        WorkersCommand::Scale(args) => scale(context, &args).await,
    }
}

async fn list(context: &Context, args: &ListArgs) -> Result<(), Failure> {
    let store = context.store().await?;
    let limit = usize::from(args.limit);
    let page = operate::list_workers(&store, args.replica.as_deref(), args.cursor.as_deref(), limit).await?;
    if context.is_json() {
        return output::json(&page);
    }
    output::table(
        &["replica", "state", "workers", "busy", "range", "completed", "failed"],
        page.replicas.iter().map(replica_row).collect(),
    )?;
    output::table(
        &[
            "worker_id",
            "state",
            "task",
            "completed",
            "failed",
            "average",
            "errors",
            "busy time",
            "uptime",
        ],
        page.items.iter().map(row).collect(),
    )?;
    if let Some(cursor) = page.next_cursor {
        say(&format!("there may be more: --cursor {cursor}"));
    }
    Ok(())
}

fn replica_row(replica: &ReplicaDocument) -> Vec<String> {
    let by_itself = if replica.autoscale { ", by load" } else { "" };
    vec![
        replica.replica.clone(),
        replica.state.to_owned(),
        replica.workers.to_string(),
        replica.busy_workers.to_string(),
        format!("{} to {}{by_itself}", replica.min_workers, replica.max_workers),
        replica.tasks_completed.to_string(),
        replica.tasks_failed.to_string(),
    ]
}

fn row(worker: &WorkerDocument) -> Vec<String> {
    vec![
        worker.worker_id.clone(),
        worker.state.to_owned(),
        worker.current_task_id.clone().unwrap_or_default(),
        worker.tasks_completed.to_string(),
        worker.tasks_failed.to_string(),
        worker
            .average_duration_seconds
            .map_or(String::new(), |seconds| format!("{seconds:.3} s")),
        format!("{:.1} %", worker.error_rate * 100.0),
        format!("{:.1} %", worker.utilization_percentage),
        format!("{:.0} s", worker.uptime_seconds),
    ]
}

/// A list as programs read it.
#[derive(Serialize)]
struct Page {
    items: Vec<ScaledDocument>,
    next_cursor: Option<String>,
}

async fn scale(context: &Context, args: &ScaleArgs) -> Result<(), Failure> {
    let scaling = match (args.add, args.remove, args.max) {
        (Some(count), _, _) => Scaling::Add(count),
        (_, Some(count), _) => Scaling::Remove(count),
        (_, _, Some(count)) => Scaling::Max(count),
        (None, None, None) => return Err(Failure::usage("give one of --add, --remove and --max")),
    };
    let operator = args.by.operator(context);
    let items = operate::scale(&context.store().await?, &operator, scaling, args.replica.as_deref()).await?;
    let late: Vec<&str> = items
        .iter()
        .filter(|one| !one.is_done)
        .map(|one| one.replica.as_str())
        .collect();
    if !late.is_empty() {
        say(&format!("not carried out yet by {}", late.join(", ")));
    }
    if context.is_json() {
        let next_cursor = None;
        return output::json(&Page { items, next_cursor });
    }
    let row = |one: &ScaledDocument| {
        vec![
            one.replica.clone(),
            one.workers_before.to_string(),
            one.workers.to_string(),
            one.max_workers.to_string(),
        ]
    };
    output::table(
        &["replica", "before", "workers", "at most"],
        items.iter().map(row).collect(),
    )
}
