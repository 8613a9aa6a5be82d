//! `waooaw saga`: starts sagas, shows them, lets them go back or try again.

mod lanes;

use clap::Subcommand;
use indicatif::ProgressStyle;

use super::confirm::{EndArgs, confirm_on_terminal};
use super::context::Context;
use super::exit::Failure;
use super::group::StartArgs;
use super::{group, output};
use crate::domain::id::Name;
use crate::domain::saga_state::{SagaState, StepState};
use crate::domain::trigger::SAGA_START;
use crate::runtime::group::{cancel_saga, resume_saga, saga_id};
use crate::runtime::request;
use crate::runtime::saga_execution::{SagaExecution, StepExecution, saga_execution};
use crate::store::Store;

/// What can be done with sagas.
#[derive(Debug, Subcommand)]
pub(crate) enum SagaCommand {
    /// Start a saga from a file, and on request wait until it has ended
    #[command(after_help = "\
The file holds the payload of orchestration.saga.start. With --wait the command shows both lanes, forward and back, and
exits with 0 when the saga completed, with 1 otherwise.

Examples:
  waooaw saga start order.yaml
  waooaw saga start order.yaml --event-id order-4711 --wait 60")]
    Start(StartArgs),
    /// Show a saga: what each step did, what undid it, and what can be done now
    #[command(after_help = "\
Examples:
  waooaw saga show order-4711
  waooaw saga show order-4711 --output json")]
    Show {
        /// The saga
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Let a saga go back: its completed steps are undone in reverse order
    #[command(after_help = "\
Refused behind the pivot, from which there is no way back. Asks first on a terminal, unless --yes has said so.

Example:
  waooaw saga cancel order-4711 --reason 'the customer left'")]
    Cancel(EndArgs),
    /// Try again exactly what could not be undone, or what was given up behind the pivot
    #[command(after_help = "\
Example:
  waooaw saga resume order-4711")]
    Resume {
        /// The saga
        #[arg(value_name = "ID")]
        id: String,
        /// Who says so, for the log [default: your user name]
        #[arg(long, value_name = "NAME")]
        actor: Option<String>,
    },
}

/// Does what is asked.
pub(super) async fn run(context: &Context, command: SagaCommand) -> Result<(), Failure> {
    match command {
        SagaCommand::Start(args) => start(context, &args).await,
        SagaCommand::Show { id } => show(context, &context.store().await?, &saga_id(&id)?).await,
        SagaCommand::Cancel(EndArgs { id, reason, yes }) => {
            let (store, id) = (context.store().await?, saga_id(&id)?);
            confirm_on_terminal(&format!("let saga `{id}` go back?"), yes)?;
            cancel_saga(&store, request::new_actor(), &id, reason.as_deref()).await?;
            show(context, &store, &id).await
        }
        SagaCommand::Resume { id, actor } => {
            let (store, id) = (context.store().await?, saga_id(&id)?);
            let who = actor.unwrap_or_else(|| context.user());
            resume_saga(&store, request::new_actor(), &id, &who).await?;
            show(context, &store, &id).await
        }
    }
}

async fn start(context: &Context, args: &StartArgs) -> Result<(), Failure> {
    let store = context.store().await?;
    let started = args.start(context, &store, SAGA_START).await?;
    let Some(patience) = args.wait else {
        return group::print_started(context, "saga_id", &started);
    };
    let id = started.id;
    let spinner = if context.is_quiet() {
        None
    } else {
        output::spinner(String::new())
    };
    // The time stands in the first line: the lanes fill those below.
    if let (Some(spinner), Ok(style)) = (&spinner, ProgressStyle::with_template("{spinner} {elapsed:>3}  {msg}")) {
        spinner.set_style(style);
    }
    let watched = group::watch(&store, &id, group::deadline(patience), async |_| {
        if let Some(spinner) = &spinner {
            spinner.set_message(lanes::show(&saga_execution(&store, &id).await?));
        }
        Ok(())
    })
    .await;
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    let is_over = watched?;
    let saga = saga_execution(&store, &id).await?;
    print(context, &saga)?;
    let good = SagaState::Completed.as_str();
    group::verdict(&format!("saga `{id}`"), saga.state.as_str(), good, is_over, patience)
}

async fn show(context: &Context, store: &Store, id: &Name) -> Result<(), Failure> {
    print(context, &saga_execution(store, id).await?)
}

/// What the way back did with a step.
const fn lane_back(step: &StepExecution) -> &'static str {
    match step.state {
        StepState::Compensated => "undone",
        StepState::CompensationFailed => "NOT UNDONE",
        StepState::Compensating => "being undone",
        StepState::Pending
        | StepState::Running
        | StepState::Completed
        | StepState::Failed
        | StepState::Timeout
        | StepState::Cancelled => "",
    }
}

fn print(context: &Context, saga: &SagaExecution) -> Result<(), Failure> {
    if group::printed_json(context, saga)? {
        return Ok(());
    }
    let name = group::shown_name(&saga.name);
    let rows = [
        ("saga_id", Some(saga.saga_id.clone())),
        ("name", name),
        ("state", Some(saga.state.to_string())),
        ("failed_step", saga.failed_step.clone()),
        ("compensation", Some(saga.compensation_status.to_string())),
        ("started_at", saga.started_at.clone()),
        ("completed_at", saga.completed_at.clone()),
        ("duration_ms", saga.duration_ms.map(|duration| duration.to_string())),
    ];
    let rows: Vec<(&str, String)> = rows
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    output::fields(&rows)?;
    output::table(
        &["step", "forward", "back", "error"],
        saga.steps.iter().map(|step| row(saga, step)).collect(),
    )?;
    if let Some(advice) = advice(saga) {
        for line in advice.lines() {
            output::line(&output::plain(line))?;
        }
    }
    Ok(())
}

fn row(saga: &SagaExecution, step: &StepExecution) -> Vec<String> {
    let forward = if saga.completed_steps.contains(&step.name) {
        "COMPLETED"
    } else if lane_back(step).is_empty() {
        step.state.as_str()
    } else {
        // It did not complete, and was undone for what it may have done.
        "in doubt"
    };
    let error = step.error.as_ref().map_or(String::new(), |error| said(error.get()));
    vec![
        step.name.clone(),
        forward.to_owned(),
        lane_back(step).to_owned(),
        output::cut(&error, 80),
    ]
}

/// An error in words. That a step was given up with its saga its state says.
fn said(error: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Error {
        r#type: String,
        message: String,
    }
    match serde_json::from_str::<Error>(error) {
        Ok(error) if error.r#type == "cancelled" => String::new(),
        Ok(error) => format!("{}: {}", error.r#type, error.message),
        Err(_) => error.to_owned(),
    }
}

/// What an operator can do now.
fn advice(saga: &SagaExecution) -> Option<String> {
    let id = &saga.saga_id;
    let open = saga.uncompensated_steps.join(", ");
    match saga.state {
        SagaState::Failed | SagaState::Compensated if !open.is_empty() => Some(format!(
            "not undone: {open}\n\
             mend what stands in the way, then try exactly these again: waooaw saga resume {id}\n\
             or undo them by hand; what they were asked for is kept:   waooaw dlq list --kind saga_step"
        )),
        SagaState::Failed => Some(format!(
            "given up behind its pivot, from which there is no way back\n\
             mend what stands in the way, then go on: waooaw saga resume {id}"
        )),
        SagaState::Pending | SagaState::Running => Some(format!("to let it go back: waooaw saga cancel {id}")),
        SagaState::Compensating => saga
            .steps
            .iter()
            .find(|step| step.state == StepState::Compensating)
            .and_then(|step| step.compensation_task_id.as_ref())
            .map(|task| format!("why it is not undone yet: waooaw task explain {task}")),
        SagaState::Completed | SagaState::Compensated => None,
    }
}
