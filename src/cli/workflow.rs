//! `waooaw workflow`: looks at a workflow before it is started.

use std::path::PathBuf;

use clap::Subcommand;

use super::context::Context;
use super::exit::Failure;
use super::{definition, output};
use crate::domain::graph::ExecutionPlan;
use crate::domain::workflow::WorkflowTrigger;
use crate::error::Error;

/// What can be done with workflows.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkflowCommand {
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
pub(super) fn run(context: &Context, command: &WorkflowCommand) -> Result<(), Failure> {
    match command {
        WorkflowCommand::Plan { file } => {
            let workflow = WorkflowTrigger::parse(&definition::read(file)?).map_err(Error::from)?;
            print(context, &workflow.plan())
        }
    }
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
