//! `waooaw workflow`: plans, starts, shows and stops workflows.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use clap::Subcommand;

use super::confirm::{EndArgs, confirm_on_terminal};
use super::context::Context;
use super::exit::Failure;
use super::group::StartArgs;
use super::{definition, group, output};
use crate::domain::id::Name;
use crate::domain::plan::ExecutionPlan;
use crate::domain::state::TaskState;
use crate::domain::trigger::WORKFLOW_START;
use crate::domain::workflow::WorkflowTrigger;
use crate::domain::workflow_state::WorkflowState;
use crate::error::Error;
use crate::runtime::group::{records, stop_workflow, workflow_id};
use crate::runtime::request;
use crate::runtime::workflow_execution::{WorkflowExecution, label, workflow_execution};
use crate::store::Store;
use crate::store::groups::Group;
use crate::store::record::Record;

/// What can be done with workflows.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkflowCommand {
    /// Start a workflow from a file, and on request wait until it has ended
    #[command(after_help = "\
The file holds the payload of orchestration.workflow.start; it is accepted whole or refused whole. With --wait the command
shows how far it is and exits with 0 when the workflow completed, with 1 otherwise.

Examples:
  waooaw workflow start order.yaml
  waooaw workflow start order.yaml --event-id order-4711 --wait 60
  generate-workflow | waooaw workflow start - --wait --output json")]
    Start(StartArgs),
    /// Show a workflow and its tasks as a tree
    #[command(after_help = "\
A task stands under the first of those that it depends on; the others are named behind it.

Examples:
  waooaw workflow show order-4711
  waooaw workflow show order-4711 --output json")]
    Show {
        /// The workflow
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Cancel everything of a workflow that has not ended
    #[command(after_help = "\
Asks first on a terminal, unless --yes has said so.

Example:
  waooaw workflow stop order-4711 --reason 'the customer left'")]
    Stop(EndArgs),
    /// Print in what order the tasks of a workflow would run, without starting it; needs no Redis
    #[command(after_help = "\
The file holds the payload of orchestration.workflow.start. Whether a replica can run its tasks is not checked.
Exits with 2 when it is no legal workflow, as with a cycle or an unknown dependency.

Examples:
  waooaw workflow plan order.yaml
  generate-workflow | waooaw workflow plan - --output json")]
    Plan {
        /// JSON or YAML; - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Does what is asked.
pub(super) async fn run(context: &Context, command: WorkflowCommand) -> Result<(), Failure> {
    match command {
        WorkflowCommand::Start(args) => start(context, &args).await,
        WorkflowCommand::Show { id } => {
            let store = context.store().await?;
            show(context, &store, &workflow_id(&id)?).await
        }
        WorkflowCommand::Stop(EndArgs { id, reason, yes }) => {
            let id = workflow_id(&id)?;
            confirm_on_terminal(&format!("cancel all that has not ended of workflow `{id}`?"), yes)?;
            stop(context, &id, reason.as_deref()).await
        }
        WorkflowCommand::Plan { file } => {
            let workflow = WorkflowTrigger::parse(&definition::read(&file)?).map_err(Error::from)?;
            print(context, &workflow.plan())
        }
    }
}

async fn start(context: &Context, args: &StartArgs) -> Result<(), Failure> {
    let store = context.store().await?;
    let started = args.start(context, &store, WORKFLOW_START).await?;
    let Some(patience) = args.wait else {
        return group::print_started(context, "workflow_id", &started);
    };
    let id = started.id;
    let bar = if context.is_quiet() {
        None
    } else {
        output::bar("tasks", 0)
    };
    let deadline = group::deadline(patience);
    let watched = group::watch(&store, &id, deadline, async |group| {
        let Some(bar) = &bar else { return Ok(()) };
        bar.set_length(group.total);
        bar.set_position(group.total.saturating_sub(group.left));
        let running = running(&store, &id).await?;
        bar.set_message(standing(group, &running));
        Ok(())
    })
    .await;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let is_over = watched?;
    let document = workflow_execution(&store, &id).await?;
    if !group::printed_json(context, &document)? {
        print_document(&store, &id, &document).await?;
    }
    group::verdict(
        &format!("workflow `{id}`"),
        document.state.as_str(),
        WorkflowState::Completed.as_str(),
        is_over,
        patience,
    )
}

/// The names of some tasks that run.
async fn running(store: &Store, id: &Name) -> Result<Vec<String>, Failure> {
    const SHOWN: usize = 4;
    // A large one would be read again and again.
    const LARGEST: usize = 500;
    let records = records(store, id).await?;
    if records.len() > LARGEST {
        return Ok(Vec::new());
    }
    let running = records.iter().filter(|record| record.state == TaskState::Running);
    Ok(running.map(label).take(SHOWN).collect())
}

/// What stands beside the bar.
fn standing(group: &Group, running: &[String]) -> String {
    let failed = group.failed + group.timeout;
    let mut parts = vec!["tasks".to_owned()];
    if !running.is_empty() {
        parts.push(format!("running {}", output::cut(&running.join(", "), 40)));
    }
    if failed > 0 {
        parts.push(format!("failed {failed}"));
    }
    if group.cancelled > 0 {
        parts.push(format!("cancelled {}", group.cancelled));
    }
    output::plain(&parts.join("  "))
}

async fn show(context: &Context, store: &Store, id: &Name) -> Result<(), Failure> {
    let document = workflow_execution(store, id).await?;
    if group::printed_json(context, &document)? {
        return Ok(());
    }
    print_document(store, id, &document).await
}

async fn stop(context: &Context, id: &Name, reason: Option<&str>) -> Result<(), Failure> {
    let store = context.store().await?;
    if !stop_workflow(&store, request::new_actor(), id, reason).await? {
        let state = workflow_execution(&store, id).await?.state;
        return Err(Error::InvalidTransition(format!("workflow `{id}` has ended as {state}")).into());
    }
    show(context, &store, id).await
}

async fn print_document(store: &Store, id: &Name, document: &WorkflowExecution) -> Result<(), Failure> {
    let counts = document.counts.iter().filter(|(_, count)| **count > 0);
    let counts: Vec<String> = counts.map(|(state, count)| format!("{count} {state}")).collect();
    let name = document.name.as_ref().and_then(|name| group::shown_name(name));
    let rows = [
        ("workflow_id", Some(document.workflow_id.clone())),
        ("name", name),
        ("state", Some(document.state.to_string())),
        ("tasks", Some(counts.join(", "))),
        ("root_cause_task_id", document.root_cause_task_id.clone()),
        ("created_at", document.created_at.clone()),
        ("completed_at", document.completed_at.clone()),
        ("duration_ms", document.duration_ms.map(|duration| duration.to_string())),
    ];
    let rows: Vec<(&str, String)> = rows
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    output::fields(&rows)?;
    for line in tree(&records(store, id).await?) {
        output::line(&output::plain(&line))?;
    }
    Ok(())
}

/// How many tasks a tree shows.
const SHOWN: usize = 500;
/// How many steps a tree goes to the right.
const DEEPEST: usize = 20;

/// Tasks as a tree: each under the first of those that it depends on.
fn tree(records: &[Record]) -> Vec<String> {
    let names: Vec<String> = records.iter().map(label).collect();
    let by_name: HashMap<&str, usize> = names.iter().map(String::as_str).zip(0..).collect();
    let by_id: HashMap<String, usize> = records.iter().map(|record| record.id.to_string()).zip(0..).collect();
    let place = |name: &String| by_name.get(name.as_str()).or_else(|| by_id.get(name)).copied();
    let mut below: Vec<Vec<usize>> = vec![Vec::new(); records.len()];
    let mut roots = Vec::new();
    for (own, record) in records.iter().enumerate() {
        match record.body.spec.dependencies.iter().find_map(place) {
            Some(above) if above != own => below[above].push(own),
            Some(_) | None => roots.push(own),
        }
    }
    let mut lines = Vec::new();
    let mut seen = HashSet::new();
    let mut open: Vec<(usize, usize)> = roots.into_iter().rev().map(|root| (root, 0)).collect();
    while let Some((own, depth)) = open.pop() {
        if !seen.insert(own) {
            continue;
        }
        if lines.len() == SHOWN {
            lines.push(format!(
                "… {} more tasks: waooaw task list --workflow",
                records.len() - SHOWN
            ));
            break;
        }
        let record = &records[own];
        let more: Vec<&str> = record
            .body
            .spec
            .dependencies
            .iter()
            .skip(1)
            .map(String::as_str)
            .collect();
        let mut parts = vec![names[own].clone(), record.state.as_str().to_owned()];
        if record.attempt > 1 {
            parts.push(format!("attempt {}", record.attempt));
        }
        if !more.is_empty() {
            parts.push(format!("also after {}", output::cut(&more.join(", "), 60)));
        }
        lines.push("  ".repeat(depth.min(DEEPEST)) + &parts.join("  "));
        open.extend(below[own].iter().rev().map(|one| (*one, depth + 1)));
    }
    lines
}

fn print(context: &Context, plan: &ExecutionPlan) -> Result<(), Failure> {
    if context.is_json() {
        return output::json(plan);
    }
    let rows = (1..).zip(&plan.execution_batches).map(|(level, batch): (usize, _)| {
        let tasks = batch.len().to_string();
        vec![level.to_string(), tasks, listed(batch)]
    });
    output::table(&["level", "tasks", "can run at once"], rows.collect())?;
    let mut rows = vec![
        ("total_tasks", plan.total_tasks.to_string()),
        ("max_parallel_tasks", plan.max_parallel_tasks.to_string()),
        ("levels", plan.levels.to_string()),
    ];
    rows.extend(plan.warnings.iter().map(|warning| ("warning", warning.clone())));
    output::fields(&rows)
}

/// The first of many names: a wide batch must not fill the screen.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    if names.len() <= SHOWN {
        return names.join(", ");
    }
    format!("{}, … {} more", names[..SHOWN].join(", "), names.len() - SHOWN)
}
