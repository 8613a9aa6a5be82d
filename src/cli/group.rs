//! What the commands about workflows and sagas share: starting one from a file, and watching it until it has ended.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use super::context::Context;
use super::exit::Failure;
use super::{definition, output, task};
use crate::domain::id::Name;
use crate::domain::trigger::Inbound;
use crate::error::Error;
use crate::runtime::defaults::{Defaults, Origin};
use crate::runtime::group::{self, Started};
use crate::runtime::request;
use crate::service::wiring;
use crate::store::groups::Group;
use crate::store::{Store, StoreError};

/// Whom the log names as the one who asked.
const SOURCE_AGENT: &str = "cli";
/// How often a group is looked at while somebody waits for it: one small read.
const LOOK: Duration = Duration::from_millis(100);

/// What starts a group.
#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// JSON or YAML; - for standard input
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Repeat a request under its id, and it is started only once
    #[arg(long, value_name = "ID")]
    event_id: Option<String>,
    /// Wait until it has ended, at most so many seconds, and print it
    #[arg(long, value_name = "SECONDS", value_parser = task::seconds)]
    #[allow(clippy::option_option, reason = "how clap spells a flag whose value may be left out")]
    pub(super) wait: Option<Option<f64>>,
}

impl StartArgs {
    /// Starts what the file asks for; it is the payload of an event of this type.
    pub(super) async fn start(&self, context: &Context, store: &Store, event_type: &str) -> Result<Started, Failure> {
        let event_id = match &self.event_id {
            Some(event_id) => event_id.clone(),
            None => uuid::Uuid::new_v4().to_string(),
        };
        let payload = definition::read(&self.file)?;
        let config = context.load(Vec::new())?.config;
        let defaults = Defaults {
            retry: config.retry.default,
            handlers: wiring::handler_defaults(&config),
        };
        let origin = Origin {
            source_agent: SOURCE_AGENT,
            event_id: &event_id,
            correlation_id: None,
            trace: None,
        };
        let partitions = store.partition_count();
        let new = match request::read(event_type, SOURCE_AGENT, &event_id, &payload)? {
            Inbound::Workflow(trigger) => defaults.workflow(*trigger, &origin, partitions),
            Inbound::Saga(trigger) => defaults.saga(*trigger, &origin, partitions),
            Inbound::Task(_)
            | Inbound::Cancel(_)
            | Inbound::WorkflowStop(_)
            | Inbound::SagaCancel(_)
            | Inbound::Result(_)
            | Inbound::Heartbeat(_) => return Err(Error::Store(StoreError::Protocol("start")).into()),
        };
        Ok(group::start(store, request::new_actor(), new).await?)
    }
}

/// What became of the request, under the name that the id has in documents.
pub(super) fn print_started(context: &Context, id_field: &'static str, started: &Started) -> Result<(), Failure> {
    if context.is_json() {
        let answer: serde_json::Map<String, serde_json::Value> = [
            (id_field.to_owned(), started.id.as_str().into()),
            ("created".to_owned(), started.is_new.into()),
        ]
        .into_iter()
        .collect();
        return output::json(&answer);
    }
    output::fields(&[
        (id_field, started.id.to_string()),
        ("created", started.is_new.to_string()),
    ])
}

/// A name as people read it; it is kept as the JSON that it came as.
pub(super) fn shown_name(name: &RawValue) -> Option<String> {
    serde_json::from_str::<Option<String>>(name.get()).unwrap_or_else(|_| Some(name.get().to_owned()))
}

/// Until when to wait.
pub(super) fn deadline(patience: Option<f64>) -> Option<Instant> {
    patience.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds))
}

/// Looks at a group until it has ended or the time is over, and lets `show` see each look that differs from the one
/// before. Answers whether it has ended.
pub(super) async fn watch(
    store: &Store,
    id: &Name,
    deadline: Option<Instant>,
    mut show: impl AsyncFnMut(&Group) -> Result<(), Failure>,
) -> Result<bool, Failure> {
    let mut before = None;
    loop {
        // What was forgotten meanwhile has ended.
        let Some(group) = store.group(id).await.map_err(Error::from)? else {
            return Ok(true);
        };
        let look = (
            group.state,
            group.seq,
            group.left,
            group.failed,
            group.timeout,
            group.cancelled,
        );
        if before != Some(look) {
            before = Some(look);
            show(&group).await?;
        }
        if group.finished_ms.is_some() {
            return Ok(true);
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Ok(false);
        }
        let left = deadline.map_or(LOOK, |deadline| deadline - now);
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

/// How the command ends that waited for a group.
pub(super) fn verdict(
    what: &str,
    state: &str,
    good: &str,
    is_over: bool,
    patience: Option<f64>,
) -> Result<(), Failure> {
    if state == good {
        return Ok(());
    }
    Err(if is_over {
        Failure::failed(&format!("{what} ended as {state}")).named("NotCompleted")
    } else {
        let seconds = patience.unwrap_or_default();
        Failure::failed(&format!("{what} is {state} after {seconds} s of waiting")).named("WaitTimeout")
    })
}

/// A document as JSON where it is asked for; `true` when it was.
pub(super) fn printed_json(context: &Context, document: &impl Serialize) -> Result<bool, Failure> {
    if context.is_json() {
        output::json(document)?;
    }
    Ok(context.is_json())
}
