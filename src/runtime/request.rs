//! What a caller asks for directly, without the stream of triggers: a task, its end, lists.
//!
//! A trigger on the stream is answered by an event; here the answer is the return value. Both go through the same
//! checks: what is asked for is read from the same envelope and payload, and made by the same function in Redis.
//! The command line and the HTTP service ask through this module, so that they can not disagree.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::defaults::{Defaults, Origin};
use super::group;
use super::inherit::inherit;
use crate::domain::envelope::Envelope;
use crate::domain::id::{Name, ReplicaId, TaskId};
use crate::domain::rejection::{Reason, Rejection};
use crate::domain::retry::RetryPolicy;
use crate::domain::trigger::{Inbound, TASK_CANCEL, TASK_TRIGGER, TaskCancel, TaskTrigger, interpret};
use crate::error::Error;
use crate::store::cursor::Cursor;
use crate::store::document::{TaskDocument, Ties};
use crate::store::functions::{Appetite, Asker, Cancelled, Created, Joining};
use crate::store::listing::{ListError, TaskQuery};
use crate::store::record::{Flags, NewTask, Record};
use crate::store::{Store, StoreError};

/// What became of a request for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// The task.
    pub task_id: TaskId,
    /// Whether it is new; `false` when the same request had made it before.
    pub is_new: bool,
}

/// A name for a program that holds no tasks, as it stands in the events that it causes.
#[must_use]
pub fn new_actor() -> ReplicaId {
    ReplicaId::from_random(uuid::Uuid::new_v4().as_u64_pair().1)
}

/// Reads a trigger for one task by the rules of the stream.
///
/// # Errors
///
/// [`Error::InvalidField`] with everything that is wrong, [`Error::PayloadTooLarge`].
pub fn read_trigger(source_agent: &str, event_id: &str, payload: &str) -> Result<TaskTrigger, Error> {
    let Inbound::Task(trigger) = read(TASK_TRIGGER, source_agent, event_id, payload)? else {
        return Err(Error::Store(StoreError::Protocol("trigger")));
    };
    Ok(*trigger)
}

/// Reads a request to end one task by the rules of the stream.
///
/// # Errors
///
/// [`Error::InvalidField`] with everything that is wrong, [`Error::PayloadTooLarge`].
pub fn read_cancel(source_agent: &str, event_id: &str, payload: &str) -> Result<TaskCancel, Error> {
    let Inbound::Cancel(cancel) = read(TASK_CANCEL, source_agent, event_id, payload)? else {
        return Err(Error::Store(StoreError::Protocol("cancel")));
    };
    Ok(cancel)
}

/// Reads a retry policy by the rules of a trigger: the name of a preset in JSON, or an object; `None` for null.
///
/// # Errors
///
/// [`Error::InvalidField`] with everything that is wrong, [`Error::PayloadTooLarge`].
pub fn read_policy(policy: &str) -> Result<Option<RetryPolicy>, Error> {
    let payload = format!(r#"{{"task_name":"-","retry":{policy}}}"#);
    Ok(read_trigger("-", "-", &payload)?.retry)
}

/// Puts an event about something that exists on the bus, where whoever it concerns reads it.
///
/// # Errors
///
/// [`Error::RedisUnavailable`]; the same event may be put there again.
pub async fn publish_command(store: &Store, envelope: &Envelope<'_>) -> Result<(), Error> {
    let mut fields = vec![
        ("event_type", &*envelope.event_type),
        ("source_agent", &*envelope.source_agent),
        ("event_id", &*envelope.event_id),
        ("payload", &*envelope.payload),
    ];
    let optional = [
        ("correlation_id", &envelope.correlation_id),
        ("traceparent", &envelope.traceparent),
        ("tracestate", &envelope.tracestate),
    ];
    fields.extend(
        optional
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?))),
    );
    store.publish(&store.keys().commands(), &fields).await?;
    Ok(())
}

/// Reads a payload by the rules of the stream.
///
/// # Errors
///
/// [`Error::InvalidField`] with everything that is wrong, [`Error::PayloadTooLarge`].
pub fn read(event_type: &str, source_agent: &str, event_id: &str, payload: &str) -> Result<Inbound, Error> {
    Ok(interpret(&envelope(event_type, source_agent, event_id, payload)?)?)
}

/// What is asked for as an event, if it could be one.
pub(super) fn envelope<'a>(
    event_type: &'a str,
    source_agent: &'a str,
    event_id: &'a str,
    payload: &'a str,
) -> Result<Envelope<'a>, Error> {
    // On the stream the id of the entry takes the place of an empty one; here nothing would.
    if event_id.is_empty() {
        let empty = Rejection::new(Reason::InvalidField, Some("event_id"), "is empty");
        return Err(Error::InvalidField(empty));
    }
    let fields = [
        ("event_type", event_type),
        ("source_agent", source_agent),
        ("event_id", event_id),
        ("payload", payload),
    ]
    .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    Ok(Envelope::decode(event_id, &fields).map_err(|refused| refused.rejection)?)
}

/// Makes the task that a trigger asks for; the same origin makes it once.
///
/// # Errors
///
/// [`Error::UnknownTask`], [`Error::InvalidDependency`], [`Error::InvalidField`] (its key is taken, its workflow has ended),
/// [`Error::TaskQueueFull`], [`Error::RedisUnavailable`]; asking again is safe.
pub async fn submit(
    store: &Store,
    actor: ReplicaId,
    defaults: &Defaults,
    origin: &Origin<'_>,
    trigger: TaskTrigger,
) -> Result<Submitted, Error> {
    let task = defaults.task(trigger, origin, store.partition_count());
    create_one(store, actor, Asker::Caller, task).await
}

/// Makes one task.
pub(super) async fn create_one(
    store: &Store,
    actor: ReplicaId,
    asker: Asker,
    mut task: NewTask,
) -> Result<Submitted, Error> {
    inherit(store, [&mut task]).await?;
    let task_id = task.id;
    let mut tasks = [task];
    let mut created = ask_for_one(store, actor, asker, &tasks).await?;
    if created == Some(Created::Ended) && tasks[0].leave_default_workflow() {
        created = ask_for_one(store, actor, asker, &tasks).await?;
    }
    match created {
        Some(Created::Ok) => Ok(Submitted { task_id, is_new: true }),
        Some(Created::Duplicate) => Ok(Submitted { task_id, is_new: false }),
        Some(Created::Full) => {
            let max_size = super::queue::statistics(store).await?.max_size;
            Err(Error::TaskQueueFull { max_size })
        }
        Some(Created::MemoryShort) => Err(Error::RedisUnavailable(StoreError::OutOfMemory)),
        Some(Created::TooManyQueues) => {
            let message = format!("`{}` would be one queue more than there may be", tasks[0].queue);
            Err(Error::InvalidField(Rejection::new(
                Reason::InvalidField,
                Some("queue"),
                message,
            )))
        }
        Some(Created::Unresolved(name)) => Err(Error::InvalidDependency(Rejection::new(
            Reason::InvalidDependency,
            Some("dependencies"),
            unresolved(&name, &tasks[0]),
        ))),
        Some(Created::KeyTaken) => Err(Error::InvalidField(Rejection::new(
            Reason::DuplicateKey,
            Some("key"),
            key_taken(&tasks[0]),
        ))),
        Some(Created::Ended) => Err(Error::InvalidField(Rejection::new(
            Reason::InvalidField,
            Some("workflow_id"),
            workflow_ended(&tasks[0]),
        ))),
        Some(Created::Unknown) => Err(Error::UnknownTask(tasks[0].trigger.task_name.to_string())),
        None => Err(Error::Store(StoreError::Protocol("create"))),
    }
}

/// What becomes of one task that is to be made.
async fn ask_for_one(
    store: &Store,
    actor: ReplicaId,
    asker: Asker,
    task: &[NewTask; 1],
) -> Result<Option<Created>, StoreError> {
    let appetite = Appetite::none();
    let create = || store.create(task[0].id.partition(), actor, asker, &appetite, task);
    let (words, _) = match create().await {
        // No replica was ever here, so none has registered the name; and the first replica decides how many partitions
        // there are, not somebody who asks.
        Err(StoreError::NotJoined) if asker == Asker::Caller => return Ok(Some(Created::Unknown)),
        Err(StoreError::NotJoined) => {
            make_keys(store, actor, None, None).await?;
            create().await
        }
        other => other,
    }?;
    Ok(words.into_iter().next())
}

/// Why a task that depends on something unknown is refused.
pub(super) fn unresolved(name: &str, task: &NewTask) -> String {
    match &task.workflow_id {
        Some(workflow) => format!("`{name}` is neither a key nor a task id of workflow `{workflow}`"),
        None => format!("`{name}` is no id of a task without workflow; keys need a `workflow_id`"),
    }
}

/// Why a task with another's key is refused.
pub(super) fn key_taken(task: &NewTask) -> String {
    let key = task.trigger.key.as_ref().map_or("", crate::domain::id::Name::as_str);
    format!("another task of the workflow has the key `{key}`")
}

/// Why a task that comes too late for its workflow is refused.
pub(super) fn workflow_ended(task: &NewTask) -> String {
    let workflow = task.workflow_id.as_ref().map_or("", crate::domain::id::Name::as_str);
    format!("`{workflow}` has ended or is a saga; no task can join it")
}

/// Makes the keys of all partitions where they are missing, with these limits; `None` leaves what is set.
pub(super) async fn make_keys(
    store: &Store,
    actor: ReplicaId,
    max_size: Option<u64>,
    max_running: Option<u64>,
) -> Result<(), StoreError> {
    let joining = Joining {
        max_size,
        max_running,
        workers: None,
        started_at: "",
        announce: false,
        task_names: &[],
        limits: &BTreeMap::new(),
    };
    for partition in store.partitions() {
        store.join(partition, actor, &joining).await?;
    }
    Ok(())
}

/// Ends a task that waits or runs, wherever; `false` when it had ended before.
///
/// # Errors
///
/// [`Error::TaskNotFound`], [`Error::RedisUnavailable`]; asking again is safe.
pub async fn cancel(store: &Store, actor: ReplicaId, task: TaskId, message: Option<&str>) -> Result<bool, Error> {
    let missing = || Error::TaskNotFound(task.to_string());
    if task.partition().number() >= store.partition_count() {
        return Err(missing());
    }
    match store.cancel(task.partition(), actor, None, message, &[task]).await {
        Ok(words) => match words.first() {
            Some(Cancelled::Ok) => Ok(true),
            Some(Cancelled::Terminal) => Ok(false),
            Some(Cancelled::Missing) | None => Err(missing()),
        },
        Err(StoreError::NotJoined) => Err(missing()),
        Err(error) => Err(error.into()),
    }
}

/// A task's document with everything that is kept of it.
///
/// # Errors
///
/// [`Error::TaskNotFound`], [`Error::RedisUnavailable`].
pub async fn task_document(store: &Store, task: TaskId) -> Result<TaskDocument, Error> {
    let record = store
        .task(task)
        .await?
        .ok_or_else(|| Error::TaskNotFound(task.to_string()))?;
    Ok(document(store, record).await?)
}

pub(super) async fn document(store: &Store, record: Record) -> Result<TaskDocument, StoreError> {
    let due_ms = if record.is_delayed {
        store.due_ms(record.id).await?
    } else {
        None
    };
    let notes = if record.retry_count > 0 {
        store.attempt_notes(record.id).await?
    } else {
        Vec::new()
    };
    let ties = if record.flags.has(Flags::HAS_DEPENDENCIES) || record.flags.has(Flags::IS_STEP) {
        let open = store.dependencies(record.id).await?;
        Ties {
            inputs: store.inputs(&record).await?,
            blocked_by: open
                .into_iter()
                .filter(|one| one.is_open)
                .map(|one| one.task_id)
                .collect(),
            agent: None,
        }
    } else {
        Ties::default()
    };
    let agent = if record.flags.has(Flags::BY_AGENT) {
        Some(store.agent_side(record.id).await?)
    } else {
        None
    };
    let ties = Ties { agent, ..ties };
    Ok(TaskDocument::new(record, due_ms, &notes, ties))
}

/// How many documents are put together at once; their reads share the connection.
const DOCUMENTS_AT_ONCE: usize = 32;

async fn documents(store: &Store, records: Vec<Record>) -> Result<Vec<TaskDocument>, StoreError> {
    let documents = records.into_iter().map(|record| document(store, record));
    futures_util::stream::iter(documents)
        .buffered(DOCUMENTS_AT_ONCE)
        .try_collect()
        .await
}

/// All tasks of a workflow, in order of creation.
///
/// # Errors
///
/// [`Error::RedisUnavailable`].
pub(super) async fn workflow_tasks(store: &Store, id: &Name) -> Result<Vec<TaskDocument>, Error> {
    Ok(documents(store, group::records(store, id).await?).await?)
}

/// A page of tasks.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TaskPage {
    /// The tasks, in order.
    pub items: Vec<TaskDocument>,
    /// Where the next page begins; null after the last.
    pub next_cursor: Option<String>,
    /// Tasks that the page would have and whose records are damaged. Left out where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
}

/// Lists tasks. `cursor` is the `next_cursor` of the page before. A page may be short, even empty, and still have one
/// after it: each looks at a bounded number of tasks.
///
/// # Errors
///
/// [`Error::InvalidField`] for a cursor of another list, [`Error::RedisUnavailable`].
pub async fn list_tasks(store: &Store, query: &TaskQuery, cursor: Option<&str>) -> Result<TaskPage, Error> {
    let refuse = |message: String| Error::InvalidField(Rejection::new(Reason::InvalidField, Some("cursor"), message));
    let cursor = cursor
        .map(str::parse::<Cursor>)
        .transpose()
        .map_err(|error| refuse(error.to_string()))?;
    let page = match store.list_tasks(query, cursor).await {
        Ok(page) => page,
        Err(ListError::Cursor(error)) => return Err(refuse(error.to_string())),
        Err(ListError::Store(error)) => return Err(error.into()),
    };
    Ok(TaskPage {
        items: documents(store, page.records).await?,
        next_cursor: page.next.map(|next| next.to_string()),
        damaged: page.damaged.iter().map(ToString::to_string).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_held_to_the_limits_of_the_stream() {
        let refused = |event_id: &str, payload: &str| match read_trigger("s", event_id, payload) {
            Err(Error::InvalidField(rejection) | Error::PayloadTooLarge(rejection)) => rejection.reason,
            other => panic!("{other:?}"),
        };

        assert!(read_trigger("s", "e", r#"{"task_name":"echo"}"#).is_ok());
        assert_eq!(refused("e", r#"{"task_name":"echo","x":1}"#), Reason::UnknownField);
        assert_eq!(refused("e\n", r#"{"task_name":"echo"}"#), Reason::InvalidField);
        assert_eq!(refused("", r#"{"task_name":"echo"}"#), Reason::InvalidField);
        let deep = format!(r#"{{"task_name":"echo","args":{}{}}}"#, "[".repeat(64), "]".repeat(64));
        assert_eq!(refused("e", &deep), Reason::TooDeep);
        let large = format!(r#"{{"task_name":"echo","args":["{}"]}}"#, "x".repeat(1 << 20));
        assert_eq!(refused("e", &large), Reason::TooLarge);
        for event_type in [TASK_TRIGGER, "orchestration.workflow.start", "orchestration.saga.start"] {
            let error = read(event_type, "s", "e", &large).unwrap_err();
            assert_eq!(error.code(), "PayloadTooLarge", "{event_type}");
        }
    }
}
