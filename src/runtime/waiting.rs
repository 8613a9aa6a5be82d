//! Waits for the end of a task, a workflow or a saga, whoever runs it.
//!
//! What is waited for is the next event of it: nothing polls, but that the state is looked at now and then, since the log may
//! have been trimmed or lost. An outage of Redis is waited out for a while.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Waits;
use super::request::document;
use crate::domain::id::{Name, Partition, TaskId};
use crate::error::Error;
use crate::store::document::TaskDocument;
use crate::store::groups::GroupKind;
use crate::store::{Store, StoreError};

/// How long one read of the log waits.
const WAIT: Duration = Duration::from_secs(2);
/// After how long the task is looked at even when the log says nothing of it: the log may have been trimmed or lost.
const RECHECK: Duration = Duration::from_secs(5);
/// For how long Redis may be away while somebody waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until a task has ended, at most until `deadline`; its document as it is then. What it waits for is the task's
/// next event; it does not poll.
///
/// # Errors
///
/// [`Error::TaskNotFound`], also when the task goes away meanwhile; [`Error::RedisUnavailable`] when Redis is away at
/// the beginning or for longer than half a minute.
pub async fn wait_until_over(
    store: &Store,
    task: TaskId,
    deadline: Option<Instant>,
) -> Result<(TaskDocument, bool), Error> {
    let is_over = wait_for(store, &Awaited::Task(task), deadline).await?;
    let record = store.task(task).await?;
    match (is_over, record) {
        (Some(is_over), Some(record)) => Ok((document(store, record).await?, is_over)),
        _ => Err(Error::TaskNotFound(task.to_string())),
    }
}

/// What somebody waits for.
pub(super) enum Awaited {
    /// The end of a task.
    Task(TaskId),
    /// The end of a workflow or a saga that was started.
    Group(GroupKind, Name),
}

impl Awaited {
    fn partition(&self, store: &Store) -> Partition {
        match self {
            Self::Task(id) => id.partition(),
            Self::Group(_, id) => Partition::of_name(id.as_str(), store.partition_count()),
        }
    }

    fn subject(&self) -> String {
        match self {
            Self::Task(id) => id.to_string(),
            Self::Group(_, id) => id.to_string(),
        }
    }

    /// Whether it has come; `None` where there is nothing (any more) to wait for.
    async fn has_come(&self, store: &Store) -> Result<Option<bool>, StoreError> {
        match self {
            Self::Task(id) => Ok(store.task(*id).await?.map(|record| record.state.is_terminal())),
            Self::Group(kind, id) => {
                let group = store.group(id).await?.filter(|group| group.kind == *kind);
                Ok(group.map(|group| group.finished_ms.is_some()))
            }
        }
    }
}

/// Looks at something after each of its events until what is awaited has come, or `deadline`. Answers whether it has;
/// `None` where there is nothing (any more) to wait for.
///
/// # Errors
///
/// [`Error::RedisUnavailable`] when Redis is away at the beginning or for longer than half a minute.
pub(super) async fn wait_for(
    store: &Store,
    awaited: &Awaited,
    deadline: Option<Instant>,
) -> Result<Option<bool>, Error> {
    let (partition, subject) = (awaited.partition(store), awaited.subject());
    let mut after = store.last_event_id(partition).await?;
    // Looked at after the place in the log is known, so that no end falls in between.
    let mut seen = awaited.has_come(store).await?;
    let mut seen_at = Instant::now();
    let mut last_answer = Instant::now();
    let mut reader = store.blocking(WAIT);
    let mut waits = Waits::new();
    loop {
        if seen != Some(false) || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(seen);
        }
        let mut is_news = false;
        while !is_news && seen_at.elapsed() < RECHECK {
            let read = store.follow_events(&mut reader, partition, &after);
            let read = match deadline {
                Some(deadline) => match tokio::time::timeout_at(deadline, read).await {
                    Ok(read) => read,
                    Err(_) => break,
                },
                None => read.await,
            };
            match read {
                Ok((last, events)) => {
                    waits.reset();
                    last_answer = Instant::now();
                    after = last;
                    is_news = events.iter().any(|event| event.subject() == subject);
                }
                Err(error) => pause(error, last_answer, &mut waits, deadline).await?,
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
        }
        seen = loop {
            match awaited.has_come(store).await {
                Ok(state) => break state,
                Err(error) => pause(error, last_answer, &mut waits, deadline).await?,
            }
        };
        seen_at = Instant::now();
        last_answer = seen_at;
    }
}

/// Waits after a failure that may pass; gives up when Redis has been away for too long or time is up.
async fn pause(
    error: StoreError,
    last_answer: Instant,
    waits: &mut Waits,
    deadline: Option<Instant>,
) -> Result<(), Error> {
    let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
    if !error.is_retryable() || is_late || last_answer.elapsed() > PATIENCE {
        return Err(error.into());
    }
    waits.pause(&tokio_util::sync::CancellationToken::new()).await;
    Ok(())
}
