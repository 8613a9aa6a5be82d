//! A saga as it is right now: what programs, the HTTP API and the command line are shown of it.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::value::RawValue;

use super::group::records;
use crate::domain::id::Name;
use crate::domain::saga_state::{CompensationStatus, SagaState, StepState};
use crate::domain::state::TaskState;
use crate::error::Error;
use crate::store::Store;
use crate::store::document::timestamp;
use crate::store::groups::GroupKind;
use crate::store::record::Record;

/// A saga as it is right now.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Saga)]
#[non_exhaustive]
pub struct SagaExecution {
    /// Its id.
    pub saga_id: String,
    /// Its name, JSON: a text or `null`.
    #[schema(value_type = Option<String>)]
    pub name: Box<RawValue>,
    /// Where it is.
    #[schema(value_type = String)]
    pub state: SagaState,
    /// Its steps, as they were given.
    pub steps: Vec<StepExecution>,
    /// Names of the steps that completed, in the order in which they did.
    pub completed_steps: Vec<String>,
    /// Names of the steps that are undone, in the order in which they were.
    pub compensated_steps: Vec<String>,
    /// Names of the steps that could not be undone, in the order in which that was tried.
    pub uncompensated_steps: Vec<String>,
    /// The step whose failure let it go back.
    pub failed_step: Option<String>,
    /// How far the way back got.
    #[schema(value_type = String)]
    pub compensation_status: CompensationStatus,
    /// When it was accepted.
    pub started_at: Option<String>,
    /// When it ended.
    pub completed_at: Option<String>,
    /// How long it took.
    pub duration_ms: Option<i64>,
}

/// A step of a saga as it is right now.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Step)]
#[non_exhaustive]
pub struct StepExecution {
    /// Its name.
    pub name: String,
    /// Where it is, both ways.
    #[schema(value_type = String)]
    pub state: StepState,
    /// The task that carries it out.
    pub task_id: Option<String>,
    /// What it came to.
    #[schema(value_type = serde_json::Value, required = true)]
    pub result: Option<Box<RawValue>>,
    /// Why it failed, or why it could not be undone.
    #[schema(value_type = Option<crate::store::document::TaskErrorDocument>)]
    pub error: Option<Box<RawValue>>,
    /// The task that undoes it.
    pub compensation_task_id: Option<String>,
    /// When it was undone.
    pub compensated_at: Option<String>,
}

impl SagaExecution {
    /// Whether it has ended: completed, gone back, or failed.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        self.state.is_terminal()
    }

    /// A step by its name.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<&StepExecution> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// Itself where it completed, else the error that says how it ended.
    ///
    /// # Errors
    ///
    /// [`Error::SagaExecution`].
    pub fn into_success(self) -> Result<Self, Error> {
        if self.state == SagaState::Completed {
            return Ok(self);
        }
        Err(Error::SagaExecution {
            saga_id: self.saga_id,
            failed_step: self.failed_step,
            compensation_status: self.compensation_status,
        })
    }
}

const fn forward(state: TaskState) -> StepState {
    match state {
        TaskState::Pending => StepState::Pending,
        TaskState::Running => StepState::Running,
        TaskState::Completed => StepState::Completed,
        TaskState::Failed => StepState::Failed,
        TaskState::Timeout => StepState::Timeout,
        TaskState::Cancelled => StepState::Cancelled,
    }
}

/// Names in the order of their places; the first of two with the same place first.
fn in_order(mut names: Vec<(u64, String)>) -> Vec<String> {
    names.sort_by_key(|(place, _)| *place);
    names.into_iter().map(|(_, name)| name).collect()
}

/// A saga's record.
///
/// # Errors
///
/// [`Error::SagaNotFound`], [`Error::RedisUnavailable`].
pub async fn saga_execution(store: &Store, id: &Name) -> Result<SagaExecution, Error> {
    let not_found = || Error::SagaNotFound(id.to_string());
    let group = store.group(id).await?.filter(|group| group.kind == GroupKind::Saga);
    let group = group.ok_or_else(not_found)?;
    let fields: HashMap<String, String> = store.steps(id).await?.into_iter().collect();
    let tasks: HashMap<String, Record> = records(store, id)
        .await?
        .into_iter()
        .map(|record| (record.id.to_string(), record))
        .collect();
    let (mut steps, mut completed, mut compensated, mut uncompensated) = (vec![], vec![], vec![], vec![]);
    for number in 0..group.total {
        let field = |letter: char| fields.get(&format!("{letter}{number}"));
        let place = |letter: char| field(letter).and_then(|place| place.parse().ok()).unwrap_or_default();
        let name = field('n').cloned().unwrap_or_default();
        let task = field('f').and_then(|task| tasks.get(task));
        let undo = field('t').and_then(|task| tasks.get(task));
        let fate = field('z').map_or("", String::as_str);
        if field('o').is_some() {
            completed.push((place('o'), name.clone()));
        }
        match fate {
            "X" => compensated.push((place('q'), name.clone())),
            "U" => uncompensated.push((place('q'), name.clone())),
            _ => {}
        }
        let tail = |record: Option<&Record>, is_result: bool| {
            record
                .filter(|record| (record.state == TaskState::Completed) == is_result)
                .and_then(|record| record.tail.clone())
        };
        steps.push(StepExecution {
            state: match fate {
                "X" => StepState::Compensated,
                "U" => StepState::CompensationFailed,
                _ if undo.is_some() => StepState::Compensating,
                _ => task.map_or(StepState::Pending, |record| forward(record.state)),
            },
            task_id: field('f').cloned(),
            result: tail(task, true),
            error: if fate == "U" {
                tail(undo, false)
            } else {
                tail(task, false)
            },
            compensation_task_id: field('t').cloned(),
            compensated_at: field('m').and_then(|ms| ms.parse().ok()).map(timestamp),
            name,
        });
    }
    let state = SagaState::from_letter(group.state).unwrap_or(SagaState::Running);
    Ok(SagaExecution {
        saga_id: id.to_string(),
        name: group.name,
        state,
        steps,
        completed_steps: in_order(completed),
        compensated_steps: in_order(compensated),
        compensation_status: CompensationStatus::of(state, !uncompensated.is_empty()),
        uncompensated_steps: in_order(uncompensated),
        failed_step: group.failed_step,
        started_at: Some(timestamp(group.created_ms)),
        completed_at: group.finished_ms.map(timestamp),
        duration_ms: group.finished_ms.map(|to| (to - group.created_ms).max(0)),
    })
}
