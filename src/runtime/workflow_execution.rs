//! A workflow as it is right now: what programs, the HTTP API and the command line are shown of it.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use serde_json::value::RawValue;

use super::group::records;
use crate::domain::id::Name;
use crate::domain::state::TaskState;
use crate::domain::workflow_state::WorkflowState;
use crate::error::Error;
use crate::store::Store;
use crate::store::document::timestamp;
use crate::store::groups::GroupKind;
use crate::store::record::Record;

/// A workflow as it is right now.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Workflow)]
#[non_exhaustive]
pub struct WorkflowExecution {
    /// Its id.
    pub workflow_id: String,
    /// Its name, JSON: a text or `null`.
    #[schema(value_type = Option<String>)]
    pub name: Option<Box<RawValue>>,
    /// Where it is.
    pub state: WorkflowState,
    /// How many tasks it has, with those that joined it.
    pub total_tasks: u64,
    /// How many of them are in each state, by the state's name.
    pub counts: BTreeMap<&'static str, u64>,
    /// Those that wait for nothing but a worker: their keys, or their ids where they have no key.
    pub ready_tasks: Vec<String>,
    /// All of them by how many others must end one after the other before they may start.
    pub execution_batches: Vec<Vec<String>>,
    /// The task whose failure is the reason that it did not complete.
    pub root_cause_task_id: Option<String>,
    /// When it was accepted.
    pub created_at: Option<String>,
    /// When it ended.
    pub completed_at: Option<String>,
    /// How long it took.
    pub duration_ms: Option<i64>,
}

impl WorkflowExecution {
    /// Whether it has ended: completed, failed or cancelled.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        self.state.is_terminal()
    }

    /// Itself where it completed, else the error that says how it ended.
    ///
    /// # Errors
    ///
    /// [`Error::WorkflowExecution`].
    pub fn into_success(self) -> Result<Self, Error> {
        if self.state == WorkflowState::Completed {
            return Ok(self);
        }
        Err(Error::WorkflowExecution {
            workflow_id: self.workflow_id,
            state: self.state,
            root_cause_task_id: self.root_cause_task_id,
        })
    }
}

/// What a task is called within its workflow: its key, else its id.
pub(crate) fn label(record: &Record) -> String {
    record.body.spec.key.clone().unwrap_or_else(|| record.id.to_string())
}

/// Tasks by how many others must end one after the other before they may start.
pub(crate) fn batches(records: &[Record]) -> Vec<Vec<String>> {
    let mut level_of: HashMap<String, usize> = HashMap::new();
    let mut batches: Vec<Vec<String>> = Vec::new();
    // What a task depends on came before it.
    for record in records {
        let dependencies = &record.body.spec.dependencies;
        let level = dependencies
            .iter()
            .filter_map(|name| level_of.get(name))
            .max()
            .map_or(0, |level| level + 1);
        level_of.insert(record.id.to_string(), level);
        level_of.insert(label(record), level);
        if batches.len() <= level {
            batches.resize_with(level + 1, Vec::new);
        }
        batches[level].push(label(record));
    }
    batches
}

/// A workflow's record. Of a name that tasks carry and nobody started, what their states amount to.
///
/// # Errors
///
/// [`Error::WorkflowNotFound`], [`Error::RedisUnavailable`].
pub async fn workflow_execution(store: &Store, id: &Name) -> Result<WorkflowExecution, Error> {
    let group = store.group(id).await?;
    let records = records(store, id).await?;
    let not_found = || Error::WorkflowNotFound(id.to_string());
    if group.as_ref().is_some_and(|group| group.kind != GroupKind::Workflow) || (group.is_none() && records.is_empty())
    {
        return Err(not_found());
    }
    let mut counts: BTreeMap<&'static str, u64> = TaskState::ALL.into_iter().map(|state| (state.as_str(), 0)).collect();
    for record in &records {
        *counts.entry(record.state.as_str()).or_default() += 1;
    }
    let ready_tasks = records
        .iter()
        .filter(|record| record.state == TaskState::Pending && !record.is_blocked && !record.is_delayed)
        .map(label)
        .collect();
    let total_tasks = group.as_ref().map_or(records.len() as u64, |group| group.total);
    // Those that are not told of yet wait too.
    let told: u64 = counts.values().sum();
    *counts.entry(TaskState::Pending.as_str()).or_default() += total_tasks.saturating_sub(told);
    let state = match &group {
        Some(group) => WorkflowState::from_letter(group.state).unwrap_or(WorkflowState::Running),
        None if records.iter().any(|record| !record.state.is_terminal()) => WorkflowState::Running,
        None if counts["FAILED"] + counts["TIMEOUT"] > 0 => WorkflowState::Failed,
        None if counts["CANCELLED"] > 0 => WorkflowState::Cancelled,
        None => WorkflowState::Completed,
    };
    let created_ms = match &group {
        Some(group) => Some(group.created_ms),
        None => records.iter().map(|record| record.created_ms).min(),
    };
    let finished_ms = match &group {
        Some(group) => group.finished_ms,
        None if state == WorkflowState::Running => None,
        None => records.iter().filter_map(|record| record.finished_ms).max(),
    };
    Ok(WorkflowExecution {
        workflow_id: id.to_string(),
        name: group.as_ref().map(|group| group.name.clone()),
        state,
        total_tasks,
        counts,
        ready_tasks,
        execution_batches: batches(&records),
        root_cause_task_id: group.and_then(|group| group.root_cause),
        created_at: created_ms.map(timestamp),
        completed_at: finished_ms.map(timestamp),
        duration_ms: created_ms.zip(finished_ms).map(|(from, to)| (to - from).max(0)),
    })
}
