//! Lists tasks, a page at a time.
//!
//! There is no index by state: it would cost every task a write at each of its moves, for a question that people ask
//! now and then. So a list is read off what is there anyway. What waits and what runs stands in the queue streams, the
//! parked streams and the delayed set; a workflow's tasks in its list; everything else is found by walking the log of
//! events backwards. Each page looks at a bounded number of entries, and its [`Cursor`] says where the next goes on.
//!
//! Pages are no snapshot: a task that moves between two of them may be in both, or in neither.

use super::cursor::{Cursor, InvalidCursor, Place, Shelf};
use super::inspect::Kept;
use super::record::Record;
use super::reply::{integer, items, string, text};
use super::{Store, StoreError};
use crate::domain::event::{Event, EventType};
use crate::domain::id::{Name, Partition, QueueName, TaskId};
use crate::domain::priority::Priority;
use crate::domain::state::TaskState;

/// How many entries one page looks at, at most.
const ENTRIES_MAX: usize = 20_000;
/// How many entries are read at once.
const BATCH: usize = 500;
/// How many records are read at once; a record with its result can have a mebibyte and more.
const RECORDS: usize = 20;
/// How much the records of one page have, but for the last of them.
const PAGE_BYTES: usize = 4 << 20;

/// Which tasks are wanted; all that fit every condition.
#[derive(Debug, Clone)]
pub struct TaskQuery {
    /// In this state.
    pub state: Option<TaskState>,
    /// Of this queue.
    pub queue: Option<QueueName>,
    /// Of this workflow.
    pub workflow: Option<Name>,
    /// That this event asked for.
    pub trigger_event_id: Option<String>,
    /// Made before this moment, ms since the epoch.
    pub created_before_ms: Option<i64>,
    /// How many to a page, at least 1.
    pub limit: usize,
}

impl TaskQuery {
    /// All tasks, so many to a page.
    #[must_use]
    pub const fn all(limit: usize) -> Self {
        Self {
            state: None,
            queue: None,
            workflow: None,
            trigger_event_id: None,
            created_before_ms: None,
            limit,
        }
    }

    fn fits(&self, record: &Record) -> bool {
        self.state.is_none_or(|state| record.state == state)
            && self.queue.as_ref().is_none_or(|queue| record.body.queue == *queue)
            && self
                .workflow
                .as_ref()
                .is_none_or(|workflow| record.body.workflow_id.as_deref() == Some(workflow.as_str()))
            && self
                .trigger_event_id
                .as_ref()
                .is_none_or(|event_id| record.body.trigger_event_id == *event_id)
            && self
                .created_before_ms
                .is_none_or(|before_ms| record.created_ms < before_ms)
    }

    /// What kind of place this list walks over.
    fn walks(&self, place: &Place) -> bool {
        let is_live = matches!(self.state, Some(TaskState::Pending | TaskState::Running));
        match place {
            Place::Workflow { .. } => self.workflow.is_some(),
            Place::Shelf { .. } => self.workflow.is_none() && is_live,
            Place::Log { .. } => self.workflow.is_none() && !is_live,
            Place::Letters { .. } => false,
        }
    }
}

/// A page of tasks.
#[derive(Debug)]
pub struct RecordPage {
    /// The tasks.
    pub records: Vec<Record>,
    /// Those that stand where the page looked, and whose records can not be read.
    pub damaged: Vec<TaskId>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<Cursor>,
}

/// Why a page can not be given.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The cursor is none, or of another list.
    #[error(transparent)]
    Cursor(#[from] InvalidCursor),
    /// Redis.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is found at a place: tasks, each with the place behind it and the event that led there, if any.
struct Batch {
    found: Vec<(Place, TaskId, Option<Sign>)>,
    entries: usize,
    next: Option<Place>,
}

/// What an event of the log says of its task.
struct Sign {
    /// The state that it ended in; `None` for the event of its making.
    ended: Option<TaskState>,
    timestamp: String,
}

impl Sign {
    fn of(event: &Event) -> Option<(TaskId, Self)> {
        let is = |kind: EventType| event.event_type == kind.as_str();
        let ended = if is(EventType::TaskCreated) {
            None
        } else if is(EventType::TaskCompleted) {
            Some(TaskState::Completed)
        } else if is(EventType::TaskFailed) {
            Some(TaskState::Failed)
        } else if is(EventType::TaskTimeout) {
            Some(TaskState::Timeout)
        } else if is(EventType::TaskCancelled) {
            Some(TaskState::Cancelled)
        } else {
            return None;
        };
        let sign = Self {
            ended,
            timestamp: event.timestamp.clone(),
        };
        Some((event.subject().parse().ok()?, sign))
    }

    /// Whether the task is listed where this event stands. Every task has several events and is to be listed once:
    /// where it ended, or where it was made if it has not ended or did so after the walk began.
    fn lists(&self, record: &Record, newest_ms: i64) -> bool {
        let ended_ms = record
            .finished_ms
            .filter(|&ms| record.state.is_terminal() && ms <= newest_ms);
        match (self.ended, ended_ms) {
            (None, None) => true,
            (Some(state), Some(ms)) => state == record.state && self.timestamp == super::document::timestamp(ms),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

impl Store {
    /// A page of tasks: those that wait or run by queue and priority, those of a workflow by creation, all others the
    /// latest made or ended first, each partition on its own.
    ///
    /// # Errors
    ///
    /// [`ListError::Cursor`] for a cursor of another list, or any [`StoreError`].
    pub async fn list_tasks(&self, query: &TaskQuery, cursor: Option<Cursor>) -> Result<RecordPage, ListError> {
        let mut place = match cursor {
            Some(Cursor(place)) if query.walks(&place) && place.partition().number() < self.partition_count() => place,
            Some(_) => return Err(InvalidCursor.into()),
            None => self.first_place(query).await?,
        };
        let mut page = RecordPage {
            records: Vec::new(),
            damaged: Vec::new(),
            next: None,
        };
        let mut full_at = None;
        let (mut entries, mut bytes) = (0, 0);
        loop {
            let batch = self.batch(query, &place).await?;
            entries += batch.entries.max(1);
            for chunk in batch.found.chunks(RECORDS) {
                let ids: Vec<TaskId> = chunk.iter().map(|(_, id, _)| *id).collect();
                for ((behind, id, sign), kept) in chunk.iter().zip(self.kept(&ids).await?) {
                    let newest_ms = behind.newest_ms();
                    let record = match kept {
                        Kept::Record(record)
                            if query.fits(&record)
                                && sign.as_ref().is_none_or(|sign| sign.lists(&record, newest_ms)) =>
                        {
                            Some(*record)
                        }
                        Kept::Record(_) | Kept::Nothing => continue,
                        // Nobody can tell whether it fits, and each of its events leads to it.
                        Kept::Damaged if page.damaged.contains(id) => continue,
                        Kept::Damaged => None,
                    };
                    // One more than wanted is looked for, so that the last page knows that it is the last.
                    if let Some(full_at) = full_at {
                        page.next = Some(Cursor(full_at));
                        return Ok(page);
                    }
                    if let Some(record) = record {
                        bytes += record.bytes();
                        page.records.push(record);
                    } else {
                        page.damaged.push(*id);
                    }
                    if page.records.len() + page.damaged.len() >= query.limit || bytes >= PAGE_BYTES {
                        full_at = Some(behind.clone());
                    }
                }
            }
            match batch.next {
                None => return Ok(page),
                Some(next) if entries >= ENTRIES_MAX => {
                    page.next = Some(Cursor(full_at.unwrap_or(next)));
                    return Ok(page);
                }
                Some(next) => place = next,
            }
        }
    }

    async fn first_place(&self, query: &TaskQuery) -> Result<Place, StoreError> {
        let place = Place::Workflow { offset: 0 };
        if query.walks(&place) {
            return Ok(place);
        }
        let place = Place::Shelf {
            partition: Partition::default(),
            shelf: None,
            after: String::new(),
        };
        if query.walks(&place) {
            return Ok(place);
        }
        self.log_place(Partition::default()).await
    }

    async fn log_place(&self, partition: Partition) -> Result<Place, StoreError> {
        let newest = self.last_event_id(partition).await?;
        let newest_ms = newest.split('-').next().and_then(|ms| ms.parse().ok());
        Ok(Place::Log {
            partition,
            before: "+".to_owned(),
            newest_ms: newest_ms.unwrap_or_default(),
        })
    }

    async fn batch(&self, query: &TaskQuery, place: &Place) -> Result<Batch, StoreError> {
        match place {
            Place::Workflow { offset } => self.workflow_batch(query, *offset).await,
            Place::Shelf {
                partition,
                shelf,
                after,
            } => self.shelf_batch(query, *partition, shelf.as_ref(), after).await,
            Place::Log {
                partition,
                before,
                newest_ms,
            } => self.log_batch(query, *partition, before, *newest_ms).await,
            // No list of tasks walks over them.
            Place::Letters { .. } => Ok(Batch::nothing(None)),
        }
    }

    async fn workflow_batch(&self, query: &TaskQuery, offset: usize) -> Result<Batch, StoreError> {
        let Some(workflow) = &query.workflow else {
            return Ok(Batch::nothing(None));
        };
        let mut command = redis::cmd("LRANGE");
        command
            .arg(self.keys().group(workflow, self.partition_count()))
            .arg(offset)
            .arg(offset.saturating_add(BATCH - 1));
        let ids = items(self.send(&command).await?).ok_or(StoreError::Protocol("LRANGE"))?;
        let entries = ids.len();
        let found = ids
            .iter()
            .zip(offset + 1..)
            .filter_map(|(id, offset)| Some((Place::Workflow { offset }, text(id)?.parse().ok()?, None)))
            .collect();
        let next = (entries == BATCH).then_some(Place::Workflow {
            offset: offset + entries,
        });
        Ok(Batch { found, entries, next })
    }

    async fn shelf_batch(
        &self,
        query: &TaskQuery,
        partition: Partition,
        at: Option<&Shelf>,
        after: &str,
    ) -> Result<Batch, StoreError> {
        let shelves = self.shelves(query, partition).await?;
        // A shelf that went away is left out; the walk goes on with those behind it.
        let mut ahead = shelves.into_iter().filter(|shelf| at.is_none_or(|at| shelf >= at));
        let beginning = |shelf: Shelf| Place::Shelf {
            partition,
            shelf: Some(shelf),
            after: String::new(),
        };
        let mut entries = 0;
        while let Some(shelf) = ahead.next() {
            let after = if at == Some(&shelf) { after } else { "" };
            let rows = match &shelf {
                Shelf::Queue(queue, priority) => {
                    let key = self.keys().queue(partition, queue, *priority);
                    self.stream_rows(query, &key, after).await?
                }
                Shelf::Parked(name, priority) => {
                    let key = self.keys().parked(partition, name, *priority);
                    self.stream_rows(query, &key, after).await?
                }
                Shelf::ParkedForAgents(name, priority) => {
                    let key = self.keys().parked_for_agents(partition, name, *priority);
                    self.stream_rows(query, &key, after).await?
                }
                Shelf::Agents(queue, priority) => {
                    let key = self.keys().for_agents(partition, queue, *priority);
                    self.stream_rows(query, &key, after).await?
                }
                Shelf::Delayed => self.delayed_rows(partition, after).await?,
            };
            entries += rows.len();
            if rows.is_empty() {
                // An empty shelf is one round trip; those of a partition are looked at in one go.
                continue;
            }
            let is_full = rows.len() >= BATCH;
            let behind = |after: &str| Place::Shelf {
                partition,
                shelf: Some(shelf.clone()),
                after: after.to_owned(),
            };
            let next = match rows.last() {
                Some((last, _)) if is_full => Some(behind(last)),
                Some(_) | None => ahead.next().map(beginning).or_else(|| self.shelves_after(partition)),
            };
            let found = rows
                .iter()
                .filter_map(|(after, id)| Some((behind(after), (*id)?, None)))
                .collect();
            return Ok(Batch { found, entries, next });
        }
        Ok(Batch::nothing(self.shelves_after(partition)))
    }

    /// The shelves of the next partition.
    fn shelves_after(&self, partition: Partition) -> Option<Place> {
        Some(Place::Shelf {
            partition: self.partition_after(partition)?,
            shelf: None,
            after: String::new(),
        })
    }

    pub(super) fn partition_after(&self, partition: Partition) -> Option<Partition> {
        Partition::new(partition.number() + 1).filter(|next| next.number() < self.partition_count())
    }

    /// Where tasks that are wanted may stand in a partition, in the order of the list.
    async fn shelves(&self, query: &TaskQuery, partition: Partition) -> Result<Vec<Shelf>, StoreError> {
        let mut shelves = Vec::new();
        for queue in self.queue_names(partition).await? {
            if query.queue.as_ref().is_none_or(|wanted| *wanted == queue) {
                shelves.extend(Priority::ALL.map(|priority| Shelf::Queue(queue.clone(), priority)));
            }
        }
        for name in self.members(&self.keys().parks(partition)).await? {
            if let Some(Ok(name)) = name.strip_prefix('@').map(str::parse::<Name>) {
                shelves.extend(Priority::ALL.map(|priority| Shelf::ParkedForAgents(name.clone(), priority)));
            } else if let Ok(name) = name.parse::<Name>() {
                shelves.extend(Priority::ALL.map(|priority| Shelf::Parked(name.clone(), priority)));
            }
        }
        for queue in self.members(&self.keys().desks(partition)).await? {
            if let Ok(queue) = queue.parse::<QueueName>()
                && query.queue.as_ref().is_none_or(|wanted| *wanted == queue)
            {
                shelves.extend(Priority::ALL.map(|priority| Shelf::Agents(queue.clone(), priority)));
            }
        }
        if query.state != Some(TaskState::Running) {
            shelves.push(Shelf::Delayed);
        }
        shelves.sort_unstable();
        Ok(shelves)
    }

    /// The entries of a stream after one of them: those that are wanted may be among them.
    async fn stream_rows(
        &self,
        query: &TaskQuery,
        key: &str,
        after: &str,
    ) -> Result<Vec<(String, Option<TaskId>)>, StoreError> {
        // What runs was delivered, so the long tail that waits need not be read for it.
        let end = if query.state == Some(TaskState::Running) {
            match self.last_delivered(key).await? {
                Some(id) => id,
                None => return Ok(Vec::new()),
            }
        } else {
            "+".to_owned()
        };
        let begin = if after.is_empty() {
            "-".to_owned()
        } else {
            format!("({after}")
        };
        let mut command = redis::cmd("XRANGE");
        command.arg(key).arg(begin).arg(end).arg("COUNT").arg(BATCH);
        let answer = match self.send(&command).await {
            // No stream, so there is nothing in it.
            Err(error) if error.is_wrong_type() => return Ok(Vec::new()),
            answer => answer?,
        };
        let found = super::inbound::entries(answer).ok_or(StoreError::Protocol("XRANGE"))?;
        Ok(found
            .into_iter()
            .map(|entry| {
                let id = entry.fields.first().and_then(|(_, id)| std::str::from_utf8(id).ok());
                let id = id.and_then(|id| id.parse().ok());
                (entry.id, id)
            })
            .collect())
    }

    /// The last entry of a queue stream that was handed out; `None` when there is no such stream.
    async fn last_delivered(&self, key: &str) -> Result<Option<String>, StoreError> {
        let mut command = redis::cmd("XINFO");
        command.arg("GROUPS").arg(key);
        let groups = match self.send(&command).await {
            Ok(value) => items(value).ok_or(StoreError::Protocol("XINFO"))?,
            // No stream, so no groups.
            Err(StoreError::Refused(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        for group in groups {
            let mut fields = items(group).unwrap_or_default().into_iter();
            while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
                if text(&name) == Some("last-delivered-id") {
                    return Ok(string(value));
                }
            }
        }
        Ok(None)
    }

    /// The delayed tasks behind one of them, the next due first.
    async fn delayed_rows(
        &self,
        partition: Partition,
        after: &str,
    ) -> Result<Vec<(String, Option<TaskId>)>, StoreError> {
        let key = self.keys().timers(partition);
        // `after` is `<due ms> <task>`. The task may be queued by now; then all that are due no earlier follow.
        let start = match after.split_once(' ') {
            None => 0,
            Some((due_ms, member)) => {
                let rank = self.send(redis::cmd("ZRANK").arg(&key).arg(member)).await?;
                if let Some(rank) = integer(&rank) {
                    rank + 1
                } else {
                    let mut count = redis::cmd("ZCOUNT");
                    count.arg(&key).arg("-inf").arg(format!("({due_ms}"));
                    integer(&self.send(&count).await?).unwrap_or_default()
                }
            }
        };
        let mut command = redis::cmd("ZRANGE");
        command
            .arg(&key)
            .arg(start)
            .arg(start + i64::try_from(BATCH - 1).unwrap_or_default())
            .arg("WITHSCORES");
        let mut values = items(self.send(&command).await?)
            .ok_or(StoreError::Protocol("ZRANGE"))?
            .into_iter()
            .filter_map(string);
        let mut rows = Vec::new();
        while let (Some(member), Some(score)) = (values.next(), values.next()) {
            let id = member.parse().ok();
            rows.push((format!("{score} {member}"), id));
        }
        Ok(rows)
    }

    async fn log_batch(
        &self,
        query: &TaskQuery,
        partition: Partition,
        before: &str,
        newest_ms: i64,
    ) -> Result<Batch, StoreError> {
        let (last, entries, events) = self.read_log_back(partition, before, BATCH).await?;
        let place = |before: &str| Place::Log {
            partition,
            before: before.to_owned(),
            newest_ms,
        };
        let found = events
            .iter()
            .filter_map(|event| {
                let (id, sign) = Sign::of(event)?;
                let is_wanted = query.state.is_none() || sign.ended == query.state;
                is_wanted.then(|| (place(&event.entry_id), id, Some(sign)))
            })
            .collect();
        let next = if entries == BATCH {
            Some(place(&last))
        } else {
            match self.partition_after(partition) {
                Some(next) => Some(self.log_place(next).await?),
                None => None,
            }
        };
        Ok(Batch { found, entries, next })
    }
}

impl Batch {
    const fn nothing(next: Option<Place>) -> Self {
        Self {
            found: Vec::new(),
            entries: 0,
            next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cursor::tests::places;
    use super::*;

    #[test]
    fn a_cursor_belongs_to_its_kind_of_list() {
        let of = |state: Option<TaskState>, workflow: Option<&str>| TaskQuery {
            state,
            workflow: workflow.map(|name| name.parse().unwrap()),
            ..TaskQuery::all(1)
        };
        let kinds = |query: TaskQuery| -> Vec<bool> { places().iter().map(|place| query.walks(place)).collect() };
        let (workflow, log, shelf) = ([true, false, false], [false, true, false], [false, false, true]);
        let expected = |[w, l, s]: [bool; 3]| vec![w, l, l, s, s, s, s, s, s, s, false, false];

        assert_eq!(kinds(of(None, Some("w"))), expected(workflow));
        assert_eq!(kinds(of(Some(TaskState::Running), Some("w"))), expected(workflow));
        assert_eq!(kinds(of(None, None)), expected(log));
        assert_eq!(kinds(of(Some(TaskState::Failed), None)), expected(log));
        assert_eq!(kinds(of(Some(TaskState::Pending), None)), expected(shelf));
    }
}
