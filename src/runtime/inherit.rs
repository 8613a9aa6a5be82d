//! The priority of a task that names none: its parent's, else its workflow's, else what its handler has.

use std::collections::BTreeMap;

use crate::domain::id::{Name, TaskId};
use crate::domain::priority::Priority;
use crate::store::record::NewTask;
use crate::store::{Store, StoreError};

/// Gives tasks whose trigger names no priority that of the task they name as parent, else that of their workflow if it was
/// started with one. Costs nothing when no task needs it, else at most two round trips.
pub(super) async fn inherit<'a>(
    store: &Store,
    tasks: impl IntoIterator<Item = &'a mut NewTask>,
) -> Result<(), StoreError> {
    let mut heirs: Vec<&mut NewTask> = tasks
        .into_iter()
        .filter(|task| task.trigger.priority.is_none() && task.saga.is_none())
        .filter(|task| task.trigger.parent_task_id.is_some() || task.workflow_id.is_some())
        .collect();
    if heirs.is_empty() {
        return Ok(());
    }
    let is_here = |id: &TaskId| id.partition().number() < store.partition_count();
    let mut parents: BTreeMap<TaskId, Option<Priority>> = heirs
        .iter()
        .filter_map(|task| task.trigger.parent_task_id.filter(is_here))
        .map(|id| (id, None))
        .collect();
    let ids: Vec<TaskId> = parents.keys().copied().collect();
    parents = ids.iter().copied().zip(store.priorities(&ids).await?).collect();
    heirs.retain_mut(|task| {
        let of_parent = task
            .trigger
            .parent_task_id
            .and_then(|id| parents.get(&id).copied().flatten());
        if let Some(priority) = of_parent {
            task.priority = priority;
        }
        of_parent.is_none()
    });
    let mut workflows: BTreeMap<Name, Option<Priority>> = heirs
        .iter()
        .filter_map(|task| task.workflow_id.clone())
        .map(|id| (id, None))
        .collect();
    let ids: Vec<Name> = workflows.keys().cloned().collect();
    let found = store.group_priorities(&ids.iter().collect::<Vec<_>>()).await?;
    workflows = ids
        .into_iter()
        .zip(found.into_iter().map(|name| name.and_then(|name| name.parse().ok())))
        .collect();
    for task in heirs {
        let of_workflow = task
            .workflow_id
            .as_ref()
            .and_then(|id| workflows.get(id).copied().flatten());
        if let Some(priority) = of_workflow {
            task.priority = priority;
        }
    }
    Ok(())
}
