//! Workflows and sagas: what is asked for becomes what the store makes; how they end. What the store knows of them is told by
//! `workflow_execution` and `saga_execution`.
//!
//! Ids are derived from the request, so the same one makes the same group once, whoever carries it out.

use std::collections::BTreeSet;

use super::defaults::{Defaults, Origin};
use super::inherit::inherit;
use crate::domain::id::{Name, ReplicaId, TaskId, shortened};
use crate::domain::rejection::{Reason, Rejection};
use crate::domain::saga::SagaTrigger;
use crate::domain::trigger::TaskTrigger;
use crate::domain::workflow::{FailurePolicy, WorkflowTrigger};
use crate::error::Error;
use crate::store::functions::{Appetite, Asker};
use crate::store::groups::{GroupKind, Member, NewGroup, Staged, Stopped};
use crate::store::record::{Flags, NewTask, Record};
use crate::store::{Store, StoreError};

/// The workflow that somebody means. What can be no id of one names none.
///
/// # Errors
///
/// [`Error::WorkflowNotFound`].
pub fn workflow_id(text: &str) -> Result<Name, Error> {
    text.parse().map_err(|_| Error::WorkflowNotFound(shortened(text)))
}

/// The saga that somebody means. What can be no id of one names none.
///
/// # Errors
///
/// [`Error::SagaNotFound`].
pub fn saga_id(text: &str) -> Result<Name, Error> {
    text.parse().map_err(|_| Error::SagaNotFound(shortened(text)))
}

/// The id of a group that is not named: derived from what asked for it.
fn group_id(given: Option<Name>, origin: &Origin<'_>) -> Name {
    given.unwrap_or_else(|| {
        let id = TaskId::derive(origin.source_agent, origin.event_id, None, Some("group"), 1);
        id.to_string()
            .parse()
            .unwrap_or_else(|_| unreachable!("a UUID is a name"))
    })
}

/// The id of what a group calls `key`.
fn member_id(origin: &Origin<'_>, group: &Name, key: &str, partitions: u16) -> TaskId {
    TaskId::derive(
        origin.source_agent,
        origin.event_id,
        Some(group.as_str()),
        Some(key),
        partitions,
    )
}

const fn policy_flag(policy: FailurePolicy) -> u16 {
    match policy {
        FailurePolicy::Cancel => 0,
        FailurePolicy::Run => Flags::RUNS_ANYWAY,
        FailurePolicy::Wait => Flags::WAITS_ANYWAY,
    }
}

fn trace(origin: &Origin<'_>) -> Option<(String, Option<String>)> {
    origin
        .trace
        .map(|(parent, state)| (parent.to_owned(), state.map(str::to_owned)))
}

impl Defaults {
    /// The workflow that a trigger asks for.
    #[must_use]
    pub fn workflow(&self, trigger: WorkflowTrigger, origin: &Origin<'_>, partitions: u16) -> NewGroup {
        let id = group_id(trigger.workflow_id, origin);
        let derive = |key: &str| member_id(origin, &id, key, partitions);
        let keys: Vec<Name> = trigger
            .tasks
            .iter()
            .filter_map(|task| task.trigger.key.clone())
            .collect();
        let ids: Vec<TaskId> = keys.iter().map(|key| derive(key.as_str())).collect();
        let members = trigger
            .tasks
            .into_iter()
            .zip(&ids)
            .map(|(task, task_id)| {
                let mut flags =
                    Flags::IN_GROUP | policy_flag(task.on_dependency_failure.unwrap_or(trigger.on_dependency_failure));
                if task.has_dependents {
                    flags |= Flags::HAS_DEPENDENTS;
                }
                let places = task.depends_on.iter().filter_map(|place| usize::try_from(*place).ok());
                let depends_on: Vec<(TaskId, Name)> = places.map(|place| (ids[place], keys[place].clone())).collect();
                if !depends_on.is_empty() {
                    flags |= Flags::HAS_DEPENDENCIES;
                }
                let mut asked = task.trigger;
                asked.workflow_id = Some(id.clone());
                let own = asked.priority;
                let mut new = self.task(asked, origin, partitions);
                new.priority = own.or(trigger.priority).unwrap_or(new.priority);
                new.id = *task_id;
                Member {
                    task: new,
                    flags,
                    depends_on,
                }
            })
            .collect();
        NewGroup {
            kind: GroupKind::Workflow,
            identity: derive(""),
            name: trigger.name,
            policy: trigger.on_dependency_failure.as_str(),
            priority: trigger.priority.map(crate::domain::priority::Priority::as_str),
            correlation_id: origin.correlation_id.unwrap_or(origin.event_id).to_owned(),
            event_id: origin.event_id.to_owned(),
            trace: trace(origin),
            members,
            steps: Vec::new(),
            compensations: Vec::new(),
            id,
        }
    }

    /// The saga that a trigger asks for.
    #[must_use]
    pub fn saga(&self, trigger: SagaTrigger, origin: &Origin<'_>, partitions: u16) -> NewGroup {
        let id = group_id(trigger.saga_id, origin);
        let derive = |key: &str| member_id(origin, &id, key, partitions);
        let names: Vec<Name> = trigger.steps.iter().map(|step| step.name.clone()).collect();
        let ids: Vec<TaskId> = names.iter().map(|name| derive(name.as_str())).collect();
        let mut has_dependents = vec![false; ids.len()];
        let places = |depends_on: &[u32]| -> Vec<usize> {
            depends_on
                .iter()
                .filter_map(|place| usize::try_from(*place).ok())
                .collect()
        };
        for step in &trigger.steps {
            for place in places(&step.depends_on) {
                has_dependents[place] = true;
            }
        }
        let task = |asked: TaskTrigger, task_id: TaskId, step: &Name| -> NewTask {
            let mut new = self.task(asked, origin, partitions);
            new.id = task_id;
            new.workflow_id = None;
            new.saga = Some((id.clone(), step.clone()));
            new
        };
        let (mut members, mut steps, mut compensations) = (Vec::new(), Vec::new(), Vec::new());
        let numbers: Vec<u32> = trigger.steps.iter().map(|step| step.index).collect();
        let mut ancestors: Vec<BTreeSet<usize>> = Vec::new();
        for (place, step) in trigger.steps.into_iter().enumerate() {
            let number = numbers[place];
            let mut own = Vec::new();
            let mut field = |letter: char, value: String| own.push((format!("{letter}{number}"), value));
            field('n', step.name.to_string());
            field('f', ids[place].to_string());
            if step.pivot {
                field('p', "1".to_owned());
                steps.push(("pivot".to_owned(), step.name.to_string()));
            }
            let mut flags = Flags::IN_GROUP | Flags::IS_STEP;
            if has_dependents[place] {
                flags |= Flags::HAS_DEPENDENTS;
            }
            let direct = places(&step.depends_on);
            let before = before(&direct, &ancestors);
            if before.len() < place {
                // Else it comes after all that stand before it, which need not be listed.
                let numbers: Vec<String> = before.iter().map(|place| numbers[*place].to_string()).collect();
                field('a', numbers.join(","));
            }
            ancestors.push(before);
            let depends_on: Vec<(TaskId, Name)> = direct
                .into_iter()
                .map(|place| (ids[place], names[place].clone()))
                .collect();
            if !depends_on.is_empty() {
                flags |= Flags::HAS_DEPENDENCIES;
            }
            if let Some(compensation) = step.compensation {
                let undo_id = derive(&format!("{}/undo", step.name));
                if compensation.agent_id.is_none() {
                    compensations.push((step.name.clone(), compensation.task_name.clone()));
                }
                let undo = task(compensation, undo_id, &step.name);
                field('k', undo.undo_recipe());
                steps.push((format!("c{undo_id}"), number.to_string()));
            }
            steps.append(&mut own);
            steps.push((format!("i{}", ids[place]), number.to_string()));
            members.push(Member {
                task: task(step.action, ids[place], &step.name),
                flags,
                depends_on,
            });
        }
        NewGroup {
            kind: GroupKind::Saga,
            identity: derive(""),
            name: trigger.name,
            policy: FailurePolicy::Cancel.as_str(),
            priority: None,
            correlation_id: origin.correlation_id.unwrap_or(origin.event_id).to_owned(),
            event_id: origin.event_id.to_owned(),
            trace: trace(origin),
            members,
            steps,
            compensations,
            id,
        }
    }
}

/// All steps that end before one starts which waits for `direct`.
fn before(direct: &[usize], ancestors: &[BTreeSet<usize>]) -> BTreeSet<usize> {
    let mut all: BTreeSet<usize> = direct.iter().copied().collect();
    for place in direct {
        all.extend(&ancestors[*place]);
    }
    all
}

/// What became of a request for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The workflow or saga.
    pub id: Name,
    /// Whether it is new; `false` when the same request had made it before.
    pub is_new: bool,
}

/// Why a group that another request made can not be made again.
pub(super) fn taken(group: &NewGroup) -> Rejection {
    let (field, what) = match group.kind {
        GroupKind::Workflow => ("workflow_id", "workflow"),
        GroupKind::Saga => ("saga_id", "saga"),
    };
    let message = format!(
        "`{}` is the id of a workflow or saga that another request made; this {what} needs another",
        group.id
    );
    Rejection::new(Reason::DuplicateId, Some(field), message)
}

/// Why a workflow is refused one of whose keys a task has that carried its id before.
pub(super) fn taken_key(group: &NewGroup, key: &str) -> Rejection {
    let message = format!("a task that carried the id `{}` before has the key `{key}`", group.id);
    Rejection::new(Reason::DuplicateKey, Some(&format!("tasks.{key}.task_id")), message)
}

/// Makes a group at once.
///
/// # Errors
///
/// [`Error::UnknownTask`], [`Error::TaskQueueFull`], [`Error::InvalidField`] (its id or a key of its tasks is taken),
/// [`Error::RedisUnavailable`]; asking again is safe.
pub async fn start(store: &Store, actor: ReplicaId, mut group: NewGroup) -> Result<Started, Error> {
    inherit(store, group.members.iter_mut().map(|member| &mut member.task)).await?;
    let staged = match store.stage(actor, Asker::Caller, &Appetite::none(), &group).await {
        // No replica was ever here, so none has registered the names.
        Err(StoreError::NotJoined) => Staged::Unknown(
            group
                .members
                .first()
                .map(|member| member.task.trigger.task_name.to_string())
                .unwrap_or_default(),
        ),
        other => other?.0,
    };
    let started = |is_new| Started {
        id: group.id.clone(),
        is_new,
    };
    match staged {
        Staged::Ok => Ok(started(true)),
        Staged::Duplicate => Ok(started(false)),
        Staged::Taken => Err(Error::InvalidField(taken(&group))),
        Staged::KeyTaken(key) => Err(Error::InvalidField(taken_key(&group, &key))),
        Staged::Unknown(name) => Err(Error::UnknownTask(name)),
        Staged::Full => {
            let max_size = super::queue::statistics(store).await?.max_size;
            Err(Error::TaskQueueFull { max_size })
        }
        Staged::TooManyQueues => Err(Error::InvalidField(too_many_queues())),
    }
}

/// Which field names a task that nobody can run, and what to say of it.
pub(super) fn unknown_names(group: &NewGroup, name: &str) -> (String, String) {
    let (list, field) = match group.kind {
        GroupKind::Workflow => ("tasks", "name"),
        GroupKind::Saga => ("steps", "action"),
    };
    let of_task = |member: &Member| member.task.trigger.task_name.as_str() == name;
    let undoes = |(_, task): &&(Name, Name)| task.as_str() == name;
    let field = if let Some(member) = group.members.iter().find(|member| of_task(member)) {
        match &member.task.trigger.key {
            Some(key) => format!("{list}.{key}.{field}"),
            None => format!("{list}.{field}"),
        }
    } else if let Some((step, _)) = group.compensations.iter().find(undoes) {
        format!("{list}.{step}.compensation")
    } else {
        list.to_owned()
    };
    (
        field,
        format!("no replica has registered `{name}` within the last hour"),
    )
}

pub(super) fn too_many_queues() -> Rejection {
    let message = "there would be more named queues than there may be".to_owned();
    Rejection::new(Reason::InvalidField, Some("queue"), message)
}

/// Ends a workflow; `false` when it had ended before.
///
/// # Errors
///
/// [`Error::WorkflowNotFound`], [`Error::RedisUnavailable`].
pub async fn stop_workflow(store: &Store, actor: ReplicaId, id: &Name, message: Option<&str>) -> Result<bool, Error> {
    match stopped(store.stop(actor, GroupKind::Workflow, id, None, message).await)? {
        Stopped::Ok => Ok(true),
        Stopped::Terminal | Stopped::Passed => Ok(false),
        Stopped::Missing => Err(Error::WorkflowNotFound(id.to_string())),
    }
}

/// Lets a saga go back.
///
/// # Errors
///
/// [`Error::SagaNotFound`], [`Error::InvalidTransition`] when it has ended or is behind its pivot,
/// [`Error::RedisUnavailable`].
pub async fn cancel_saga(store: &Store, actor: ReplicaId, id: &Name, message: Option<&str>) -> Result<(), Error> {
    match stopped(store.stop(actor, GroupKind::Saga, id, None, message).await)? {
        Stopped::Ok => Ok(()),
        Stopped::Terminal => Err(Error::InvalidTransition(format!("saga `{id}` has ended"))),
        Stopped::Passed => Err(Error::InvalidTransition(format!(
            "saga `{id}` is behind its pivot: there is no way back"
        ))),
        Stopped::Missing => Err(Error::SagaNotFound(id.to_string())),
    }
}

/// Lets a saga try again what it could not undo.
///
/// # Errors
///
/// [`Error::SagaNotFound`], [`Error::InvalidTransition`] when there is nothing to resume, [`Error::RedisUnavailable`].
pub async fn resume_saga(store: &Store, actor: ReplicaId, id: &Name, who: &str) -> Result<(), Error> {
    match stopped(store.resume(actor, id, who).await)? {
        Stopped::Ok => Ok(()),
        Stopped::Terminal | Stopped::Passed => Err(Error::InvalidTransition(format!(
            "saga `{id}` has nothing to resume: nothing that it could not undo, nothing given up behind its pivot"
        ))),
        Stopped::Missing => Err(Error::SagaNotFound(id.to_string())),
    }
}

fn stopped(answer: Result<Stopped, StoreError>) -> Result<Stopped, Error> {
    match answer {
        Err(StoreError::NotJoined) => Ok(Stopped::Missing),
        other => Ok(other?),
    }
}

/// How many records are read at once.
const RECORDS_BATCH: usize = 200;

/// The tasks of a group in the order in which they came.
///
/// # Errors
///
/// [`Error::RedisUnavailable`].
pub async fn records(store: &Store, id: &Name) -> Result<Vec<Record>, Error> {
    let ids = store.workflow_tasks(id).await?;
    let mut records = Vec::with_capacity(ids.len());
    for ids in ids.chunks(RECORDS_BATCH) {
        records.extend(store.tasks(ids).await?.into_iter().flatten());
    }
    Ok(records)
}
