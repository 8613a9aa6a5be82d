//! `waooaw queue`: looks at queues, pauses and resumes them, sets the limits of all.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Context;
use super::exit::Failure;
use super::output;
use crate::runtime::operate::{self, QueueStatus};
use crate::store::dead_letters::Operator;
use crate::store::operate::Limits;

/// What can be done with queues.
#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List queues: what waits at each priority, what runs, what is paused
    #[command(after_help = "\
Examples:
  waooaw queue list
  waooaw queue list --output json")]
    List,
    /// Hand out nothing more of a queue; what runs goes on, and tasks still enter it
    #[command(after_help = "\
It stays paused, whatever restarts, until `waooaw queue resume`. Asking twice is safe.

Example:
  waooaw queue pause reports --reason 'the database is being moved'")]
    Pause(OneArgs),
    /// Hand out a queue's tasks again
    #[command(after_help = "\
Example:
  waooaw queue resume reports")]
    Resume(OneArgs),
    /// Set limits over all queues and replicas, for good
    #[command(after_help = "\
They take effect at once, and from then on configuration does not change them. They are those of all queues together; a
queue that is named must exist, and stands on the log.

Examples:
  waooaw queue set --max-running 100
  waooaw queue set --max-size 10000 --max-running 0 --reason 'the big import'")]
    Set(SetArgs),
}

/// Who says so.
#[derive(Debug, Args)]
pub(crate) struct By {
    /// Who says so, for the log [default: your user name]
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Why, for the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Taken as everywhere; nothing is asked here, since it can be undone
    #[arg(short, long)]
    #[allow(dead_code, reason = "scripts pass it to every command that changes something")]
    yes: bool,
}

impl By {
    /// The operator of one command.
    pub(super) fn operator(&self, context: &Context) -> Operator {
        let actor = self.actor.clone().unwrap_or_else(|| context.user());
        Operator::new(&actor, self.reason.as_deref())
    }
}

/// What `queue pause` and `queue resume` take.
#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    #[command(flatten)]
    by: By,
}

/// What `queue set` takes.
#[derive(Debug, Args)]
#[group(id = "limits", required = true, multiple = true, args = ["max_size", "max_running"])]
pub(crate) struct SetArgs {
    /// A queue to be named on the log
    #[arg(value_name = "QUEUE")]
    queue: Option<String>,
    /// The most tasks not yet finished, 0 for no limit (queue.max_size)
    #[arg(long, value_name = "N")]
    max_size: Option<u32>,
    /// The most tasks running at a time, 0 for no limit (queue.max_running)
    #[arg(long, value_name = "N")]
    max_running: Option<u32>,
    #[command(flatten)]
    by: By,
}

/// Does what is asked.
pub(super) async fn run(context: &Context, command: QueueCommand) -> Result<(), Failure> {
    match command {
        QueueCommand::List => list(context).await,
        QueueCommand::Pause(args) => set_paused(context, &args, true).await,
        QueueCommand::Resume(args) => set_paused(context, &args, false).await,
        QueueCommand::Set(args) => set(context, &args).await,
    }
}

/// A list as programs read it.
#[derive(Serialize)]
struct Page {
    items: Vec<QueueStatus>,
    next_cursor: Option<String>,
}

async fn list(context: &Context) -> Result<(), Failure> {
    let items = operate::list_queues(&context.store().await?).await?;
    if context.is_json() {
        // There are few enough for one page.
        let next_cursor = None;
        return output::json(&Page { items, next_cursor });
    }
    let rows = items.iter().map(row).collect();
    output::table(
        &[
            "queue",
            "pending",
            "high",
            "normal",
            "low",
            "background",
            "running",
            "waits since",
            "paused",
        ],
        rows,
    )
}

fn row(queue: &QueueStatus) -> Vec<String> {
    let waiting = crate::domain::priority::Priority::ALL
        .map(|priority| queue.by_priority.get(priority.as_str()).copied().unwrap_or_default());
    let mut row = vec![queue.name.clone(), queue.pending_count.to_string()];
    row.extend(waiting.map(|count| count.to_string()));
    row.push(queue.running_count.to_string());
    row.push(
        queue
            .oldest_waiting_seconds
            .map_or(String::new(), |seconds| format!("{seconds:.1} s")),
    );
    row.push(match (&queue.paused_by, &queue.paused_reason) {
        (Some(actor), Some(reason)) => format!("by {actor}: {}", output::cut(reason, 60)),
        (Some(actor), None) => format!("by {actor}"),
        (None, _) => String::new(),
    });
    row
}

/// A queue after a change, as programs read it.
#[derive(Serialize)]
struct Changed {
    /// Whether anything is different now.
    changed: bool,
    #[serde(flatten)]
    queue: QueueStatus,
}

async fn set_paused(context: &Context, args: &OneArgs, is_paused: bool) -> Result<(), Failure> {
    let store = context.store().await?;
    let operator = args.by.operator(context);
    let changed = if is_paused {
        operate::pause_queue(&store, &operator, &args.queue).await?
    } else {
        operate::resume_queue(&store, &operator, &args.queue).await?
    };
    let queue = operate::queue(&store, &args.queue).await?;
    if context.is_json() {
        return output::json(&Changed { changed, queue });
    }
    let state = match (is_paused, changed) {
        (true, true) => "paused",
        (true, false) => "paused before",
        (false, true) => "handed out again",
        (false, false) => "not paused",
    };
    output::fields(&[
        ("queue", queue.name.clone()),
        ("state", state.to_owned()),
        ("pending", queue.pending_count.to_string()),
        ("running", queue.running_count.to_string()),
    ])
}

/// The limits after a change, as programs read them.
#[derive(Serialize)]
struct SetLimits {
    changed: bool,
    max_size: u64,
    max_running: u64,
}

async fn set(context: &Context, args: &SetArgs) -> Result<(), Failure> {
    let store = context.store().await?;
    let operator = args.by.operator(context);
    let limits = Limits {
        max_size: args.max_size.map(Into::into),
        max_running: args.max_running.map(Into::into),
    };
    let changed = operate::set_limits(&store, &operator, args.queue.as_deref(), limits).await?;
    let statistics = crate::runtime::queue::statistics(&store).await?;
    let (max_size, max_running) = (statistics.max_size, statistics.max_running);
    if context.is_json() {
        return output::json(&SetLimits {
            changed,
            max_size,
            max_running,
        });
    }
    let limit = |limit: u64| {
        if limit == 0 {
            "no limit".to_owned()
        } else {
            limit.to_string()
        }
    };
    output::fields(&[("max_size", limit(max_size)), ("max_running", limit(max_running))])
}
