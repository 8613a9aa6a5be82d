//! `waooaw saga`: starts sagas, shows them, lets them go back or try again.

use std::fmt::Write as _;

use clap::Subcommand;

use super::context::Context;
use super::exit::Failure;
use super::group::StartArgs;
use super::{group, output};
use crate::domain::id::Name;
use crate::domain::saga::SagaTrigger;
use crate::runtime::group::{SagaDocument, StepDocument, cancel_saga, resume_saga, saga_document};
use crate::runtime::request;
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
Refused behind the pivot, from which there is no way back.

Example:
  waooaw saga cancel order-4711 --reason 'the customer left'")]
    Cancel {
        /// The saga
        #[arg(value_name = "ID")]
        id: String,
        /// Your own words, for the log
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Try again exactly the compensations that failed for good
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
    let read = |id: &str| group::read_id("saga_id", id);
    match command {
        SagaCommand::Start(args) => start(context, &args).await,
        SagaCommand::Show { id } => show(context, &context.store()?, &read(&id)?).await,
        SagaCommand::Cancel { id, reason } => {
            let (store, id) = (context.store()?, read(&id)?);
            cancel_saga(&store, request::new_actor(), &id, reason.as_deref()).await?;
            show(context, &store, &id).await
        }
        SagaCommand::Resume { id, actor } => {
            let (store, id) = (context.store()?, read(&id)?);
            let who = actor.unwrap_or_else(|| context.user());
            resume_saga(&store, request::new_actor(), &id, &who).await?;
            show(context, &store, &id).await
        }
    }
}

async fn start(context: &Context, args: &StartArgs) -> Result<(), Failure> {
    let store = context.store()?;
    let started = args
        .start(context, &store, |payload, defaults, origin, partitions| {
            Ok(defaults.saga(SagaTrigger::parse(payload)?, origin, partitions))
        })
        .await?;
    let Some(patience) = args.wait else {
        return group::print_started(context, "saga_id", &started);
    };
    let id = started.id;
    let spinner = if context.is_quiet() {
        None
    } else {
        output::spinner(format!("saga {id}"))
    };
    let watched = group::watch(&store, &id, group::deadline(patience), async |_| {
        if let Some(spinner) = &spinner {
            spinner.set_message(output::plain(&lanes(&saga_document(&store, &id).await?)));
        }
        Ok(())
    })
    .await;
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    let is_over = watched?;
    let document = saga_document(&store, &id).await?;
    print(context, &document)?;
    group::verdict(&format!("saga `{id}`"), document.state, "COMPLETED", is_over, patience)
}

async fn show(context: &Context, store: &Store, id: &Name) -> Result<(), Failure> {
    print(context, &saga_document(store, id).await?)
}

/// How far both lanes are, on one line.
fn lanes(saga: &SagaDocument) -> String {
    let now = |wanted: &str| {
        let found = saga.steps.iter().find(|step| step.state == wanted);
        found.map_or(String::new(), |step| format!(" ({})", step.name))
    };
    let mut text = format!(
        "{}  forward {} of {}{}",
        saga.state,
        saga.completed_steps.len(),
        saga.steps.len(),
        now("RUNNING")
    );
    if saga.compensation_status != "none" {
        let due = saga.steps.iter().filter(|step| !lane_back(step).is_empty()).count();
        write!(
            text,
            "  back {} of {due}{}",
            saga.compensated_steps.len(),
            now("COMPENSATING")
        )
        .unwrap_or_default();
    }
    text
}

/// What the way back did with a step.
fn lane_back(step: &StepDocument) -> &'static str {
    match step.state {
        "COMPENSATED" => "undone",
        "COMPENSATION_FAILED" => "NOT UNDONE",
        "COMPENSATING" => "being undone",
        _ => "",
    }
}

fn print(context: &Context, saga: &SagaDocument) -> Result<(), Failure> {
    if group::printed_json(context, saga)? {
        return Ok(());
    }
    let name = Some(saga.name.get().to_owned()).filter(|name| name != "null");
    let rows = [
        ("saga_id", Some(saga.saga_id.clone())),
        ("name", name),
        ("state", Some(saga.state.to_owned())),
        ("failed_step", saga.failed_step.clone()),
        ("compensation", Some(saga.compensation_status.to_owned())),
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
        output::line(&output::plain(&advice))?;
    }
    Ok(())
}

fn row(saga: &SagaDocument, step: &StepDocument) -> Vec<String> {
    let forward = if saga.completed_steps.contains(&step.name) {
        "COMPLETED"
    } else if lane_back(step).is_empty() {
        step.state
    } else {
        // It did not complete, and was undone for what it may have done.
        "in doubt"
    };
    let error = step.error.as_ref().map_or("", |error| error.get());
    vec![
        step.name.clone(),
        forward.to_owned(),
        lane_back(step).to_owned(),
        output::cut(error, 200),
    ]
}

/// What an operator can do now.
fn advice(saga: &SagaDocument) -> Option<String> {
    let id = &saga.saga_id;
    match saga.state {
        "FAILED" if !saga.uncompensated_steps.is_empty() => Some(format!(
            "not undone: {}. Mend what stands in the way, then: waooaw saga resume {id}\n\
             or undo them by hand; their dead letters: waooaw dlq list --kind saga_step",
            saga.uncompensated_steps.join(", ")
        )),
        "PENDING" | "RUNNING" => Some(format!("to let it go back: waooaw saga cancel {id}")),
        _ => None,
    }
}
