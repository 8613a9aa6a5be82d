//! The dead letters for people and programs: list them, look at one, let what is in them have another life, or discard
//! them. The command line and the HTTP service ask through this module.
//!
//! A task that is requeued goes on as the same task; a rejected trigger goes back to its stream under its own `event_id`.
//! Either may be asked for twice, after an answer that got lost: it happens once.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::request::new_actor;
use crate::domain::dead_letter::{DeadLetterId, DeadLetterKind};
use crate::domain::id::{Partition, TaskId};
use crate::domain::rejection::{Reason, Rejection};
use crate::domain::retry::RetryPolicy;
use crate::error::Error;
use crate::store::cursor::Cursor;
use crate::store::dead_letters::{Operator, Removal, Removed, Requeue, RequeuedTask};
use crate::store::letter::{DeadLetterDocument, Letter};
use crate::store::letter_listing::DeadLetterQuery;
use crate::store::listing::ListError;
use crate::store::{Endpoint, Store, StoreError};

/// How many dead letters one call handles: each may hold a mebibyte, and no call may keep Redis for long.
pub const BATCH: usize = 32;
/// How many bytes of changed records one call takes.
const CALL_BYTES: usize = 1 << 20;
/// How many a sweep looks for at once.
const SWEEP: usize = 1000;

impl Operator {
    /// Somebody with an id of their own, drawn anew. One for each command or request.
    #[must_use]
    pub fn new(actor: &str, reason: Option<&str>) -> Self {
        Self {
            id: new_actor(),
            actor: actor.to_owned(),
            reason: reason.map(str::to_owned),
        }
    }
}

/// A page of dead letters.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DeadLetterPage {
    /// The dead letters, in order.
    pub items: Vec<DeadLetterDocument>,
    /// Where the next page begins; null after the last.
    pub next_cursor: Option<String>,
}

/// What was requeued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[non_exhaustive]
pub struct Requeued {
    /// The dead letter, which is gone.
    pub dead_letter_id: String,
    /// `task` or `trigger`.
    pub kind: &'static str,
    /// The task that waits again.
    pub task_id: Option<String>,
    /// Which of its lives begins; the first was its second.
    pub life: Option<u32>,
    /// The `event_id` of the trigger that is back on its stream.
    pub trigger_event_id: Option<String>,
}

/// The dead letters on one Redis.
///
/// ```no_run
/// # async fn example() -> Result<(), waooaw_orchestration::Error> {
/// use waooaw_orchestration::{DeadLetterQuery, DeadLetters, Endpoint, Operator};
///
/// let letters = DeadLetters::connect(Endpoint::new("redis://127.0.0.1:6379"))?;
/// let query = DeadLetterQuery { reason: Some("timeout".to_owned()), ..DeadLetterQuery::default() };
/// for letter in letters.list(&query, 50, None).await?.items {
///     println!("{} {}", letter.dead_letter_id, letter.error);
///     letters.requeue(&Operator::new("night shift", None), &letter.dead_letter_id, None).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DeadLetters {
    store: Store,
}

impl DeadLetters {
    /// Those at `endpoint`; connects with the first call.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] when the address makes no sense.
    pub fn connect(endpoint: Endpoint) -> Result<Self, Error> {
        Ok(Self::new(Store::new(endpoint)?))
    }

    /// Those of a store.
    #[must_use]
    pub const fn new(store: Store) -> Self {
        Self { store }
    }

    /// A page of up to `limit` dead letters, the latest first unless asked otherwise. `cursor` is the `next_cursor` of the
    /// page before. A page may be short, even empty, and still have one after it: each looks at a bounded number.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] for a cursor of another list, [`Error::RedisUnavailable`].
    pub async fn list(
        &self,
        query: &DeadLetterQuery,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<DeadLetterPage, Error> {
        self.store.find_partitions().await?;
        let refuse =
            |message: String| Error::InvalidField(Rejection::new(Reason::InvalidField, Some("cursor"), message));
        let cursor = cursor
            .map(str::parse::<Cursor>)
            .transpose()
            .map_err(|error| refuse(error.to_string()))?;
        let page = match self.store.list_dead_letters(query, limit.max(1), cursor).await {
            Ok(page) => page,
            Err(ListError::Cursor(error)) => return Err(refuse(error.to_string())),
            Err(ListError::Store(error)) => return Err(error.into()),
        };
        Ok(DeadLetterPage {
            items: page.letters.iter().map(Letter::document).collect(),
            next_cursor: page.next.map(|next| next.to_string()),
        })
    }

    /// One dead letter.
    ///
    /// # Errors
    ///
    /// [`Error::DeadLetterNotFound`], [`Error::RedisUnavailable`].
    pub async fn get(&self, id: &str) -> Result<DeadLetterDocument, Error> {
        self.store.find_partitions().await?;
        let letter = self.store.letter(self.parse(id)?).await?;
        Ok(letter.ok_or_else(|| not_found(id))?.document())
    }

    /// Lets what is in a dead letter have another life; with `retry` under another policy. A task then waits at the tail of
    /// its priority, with all its retries, whatever `queue.max_size` says.
    ///
    /// # Errors
    ///
    /// [`Error::DeadLetterNotFound`]; [`Error::InvalidTransition`] when the task is not failed any more, belongs to a saga,
    /// or the trigger was not kept whole; [`Error::InvalidField`] for a policy that makes no sense, or for a trigger;
    /// [`Error::RedisUnavailable`], after which asking again is safe.
    pub async fn requeue(&self, operator: &Operator, id: &str, retry: Option<RetryPolicy>) -> Result<Requeued, Error> {
        self.store.find_partitions().await?;
        let id = self.parse(id)?;
        let done = self.requeue_many(operator, &[id], retry).await?;
        done.into_iter()
            .next()
            .unwrap_or_else(|| Err(not_found(&id.to_string())))
    }

    /// The same for many, in order; one that is refused does not stop the others.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] for a policy that makes no sense; [`Error::RedisUnavailable`], after which some may have been
    /// requeued, and asking again is safe.
    pub async fn requeue_many(
        &self,
        operator: &Operator,
        ids: &[DeadLetterId],
        retry: Option<RetryPolicy>,
    ) -> Result<Vec<Result<Requeued, Error>>, Error> {
        let outcomes = self.requeue_each(operator, ids, retry).await?;
        Ok(outcomes
            .into_iter()
            .map(|outcome| outcome.map_err(Error::from))
            .collect())
    }

    /// The same, telling apart what only its saga may bring back.
    pub(crate) async fn requeue_each(
        &self,
        operator: &Operator,
        ids: &[DeadLetterId],
        retry: Option<RetryPolicy>,
    ) -> Result<Vec<Result<Requeued, NotRequeued>>, Error> {
        self.store.find_partitions().await?;
        if let Some(problem) = retry.and_then(|policy| policy.problems().into_iter().next()) {
            let rejection = Rejection::new(Reason::InvalidField, Some("retry"), problem.to_string());
            return Err(Error::InvalidField(rejection));
        }
        let mut outcomes = Vec::with_capacity(ids.len());
        for run in self.runs(ids) {
            match run[0] {
                DeadLetterId::Task(..) | DeadLetterId::Late(_) => {
                    outcomes.extend(self.requeue_tasks(operator, run, retry).await?);
                }
                DeadLetterId::Trigger(_) => {
                    for id in run {
                        let outcome = self.put_back(operator, *id, retry).await?;
                        outcomes.push(outcome.map_err(NotRequeued::Refused));
                    }
                }
            }
        }
        Ok(outcomes)
    }

    async fn requeue_tasks(
        &self,
        operator: &Operator,
        ids: &[DeadLetterId],
        retry: Option<RetryPolicy>,
    ) -> Result<Vec<Result<Requeued, NotRequeued>>, Error> {
        let mut requeues = Vec::with_capacity(ids.len());
        let letters = match retry {
            Some(_) => self.store.letters(ids).await?,
            None => vec![None; ids.len()],
        };
        for (id, letter) in ids.iter().zip(letters) {
            let body = letter.zip(retry).and_then(|(letter, policy)| letter.body_with(policy));
            requeues.push(Requeue {
                letter: *id,
                max_retries: retry.filter(|_| body.is_some()).map(|policy| policy.max_retries),
                body,
            });
        }
        let partition = self.partition(ids[0]);
        let mut outcomes = Vec::with_capacity(ids.len());
        while outcomes.len() < ids.len() {
            let rest = &requeues[outcomes.len()..];
            let words = match self
                .store
                .requeue(partition, operator, &rest[..within(rest, CALL_BYTES)])
                .await
            {
                Err(StoreError::NotJoined) => vec![RequeuedTask::Missing; rest.len()],
                words => words?,
            };
            if words.is_empty() {
                return Err(Error::Store(StoreError::Protocol("requeue")));
            }
            let done = rest.iter().zip(words);
            outcomes.extend(done.map(|(requeue, word)| requeued_task(requeue.letter, word)));
        }
        Ok(outcomes)
    }

    /// Puts a trigger back on its stream and then takes its letter away. Should this end in between, the letter stays, and
    /// the trigger comes a second time under the same id.
    async fn put_back(
        &self,
        operator: &Operator,
        id: DeadLetterId,
        retry: Option<RetryPolicy>,
    ) -> Result<Result<Requeued, Error>, Error> {
        let mut requeued = Requeued {
            dead_letter_id: id.to_string(),
            kind: DeadLetterKind::Trigger.as_str(),
            task_id: None,
            life: None,
            trigger_event_id: None,
        };
        if let Some(letter) = self.store.letter(id).await? {
            if retry.is_some() {
                let message = format!("`{id}` is a rejected trigger, which goes back as it came");
                let rejection = Rejection::new(Reason::InvalidField, Some("retry"), message);
                return Ok(Err(Error::InvalidField(rejection)));
            }
            let fields = match letter.entry_fields() {
                Ok(fields) => fields,
                Err(problem) => return Ok(Err(Error::InvalidTransition(format!("dead letter `{id}`: {problem}")))),
            };
            self.store.put_back_trigger(&fields).await?;
            requeued.trigger_event_id = Some(letter.trigger_event_id());
        }
        let words = self.remove(operator, Removal::PutBack, &[id]).await?;
        Ok(match words.first() {
            Some(Removed::Ok) => Ok(requeued),
            Some(Removed::Duplicate) => {
                requeued.trigger_event_id = self.store.event_put_back(id).await?;
                Ok(requeued)
            }
            // Somebody else was faster, and the trigger is back all the same.
            Some(Removed::Missing) | None if requeued.trigger_event_id.is_some() => Ok(requeued),
            Some(Removed::Missing) | None => Err(not_found(&id.to_string())),
        })
    }

    /// Removes a dead letter for good.
    ///
    /// # Errors
    ///
    /// [`Error::DeadLetterNotFound`], also when an earlier call removed it; [`Error::RedisUnavailable`], after which asking
    /// again is safe.
    pub async fn discard(&self, operator: &Operator, id: &str) -> Result<(), Error> {
        self.store.find_partitions().await?;
        let id = self.parse(id)?;
        let done = self.discard_many(operator, &[id]).await?;
        done.into_iter()
            .next()
            .unwrap_or_else(|| Err(not_found(&id.to_string())))
    }

    /// The same for many, in order; one that is missing does not stop the others.
    ///
    /// # Errors
    ///
    /// [`Error::RedisUnavailable`], after which some may have been removed.
    pub async fn discard_many(
        &self,
        operator: &Operator,
        ids: &[DeadLetterId],
    ) -> Result<Vec<Result<(), Error>>, Error> {
        self.store.find_partitions().await?;
        let mut outcomes = Vec::with_capacity(ids.len());
        for run in self.runs(ids) {
            let words = self.remove(operator, Removal::Discard, run).await?;
            outcomes.extend(run.iter().zip(words).map(|(id, word)| match word {
                Removed::Ok | Removed::Duplicate => Ok(()),
                Removed::Missing => Err(not_found(&id.to_string())),
            }));
        }
        Ok(outcomes)
    }

    async fn remove(
        &self,
        operator: &Operator,
        removal: Removal,
        ids: &[DeadLetterId],
    ) -> Result<Vec<Removed>, StoreError> {
        let partition = self.partition(ids[0]);
        match self.store.remove_dead_letters(partition, operator, removal, ids).await {
            Err(StoreError::NotJoined) => Ok(vec![Removed::Missing; ids.len()]),
            words => words,
        }
    }

    /// Walks over all that fit, the longest dead first, and only over those that are dead already: one that is requeued and
    /// fails again does not come a second time.
    ///
    /// # Errors
    ///
    /// [`Error::RedisUnavailable`].
    pub async fn sweep(&self, query: &DeadLetterQuery) -> Result<Sweep, Error> {
        self.store.find_partitions().await?;
        let latest_ms = self.store.latest_dead_letter_ms().await?;
        let end_ms = latest_ms.map_or(0, |ms| ms.saturating_add(1));
        Ok(Sweep {
            store: self.store.clone(),
            query: DeadLetterQuery {
                before_ms: Some(query.before_ms.map_or(end_ms, |before_ms| before_ms.min(end_ms))),
                oldest_first: true,
                ..query.clone()
            },
            cursor: None,
            found: Vec::new(),
            is_over: false,
        })
    }

    fn partition(&self, id: DeadLetterId) -> Partition {
        id.partition(self.store.partition_count())
    }

    /// Reads an id; one that names nothing here is as good as unknown.
    fn parse(&self, text: &str) -> Result<DeadLetterId, Error> {
        let id: DeadLetterId = text.parse().map_err(|_| not_found(text))?;
        if self.partition(id).number() < self.store.partition_count() {
            Ok(id)
        } else {
            Err(not_found(text))
        }
    }

    /// The ids in their order, in runs of one partition and kind that one call may handle.
    fn runs<'a>(&self, ids: &'a [DeadLetterId]) -> impl Iterator<Item = &'a [DeadLetterId]> {
        let is_task = |id: &DeadLetterId| !matches!(id, DeadLetterId::Trigger(_));
        let mut runs = Vec::new();
        let mut rest = ids;
        while let Some(first) = rest.first() {
            let is_alike =
                |id: &&DeadLetterId| self.partition(**id) == self.partition(*first) && is_task(id) == is_task(first);
            let length = rest.iter().take(BATCH).take_while(is_alike).count();
            let (run, behind) = rest.split_at(length);
            runs.push(run);
            rest = behind;
        }
        runs.into_iter()
    }
}

/// A walk over dead letters; see [`DeadLetters::sweep`].
pub struct Sweep {
    store: Store,
    query: DeadLetterQuery,
    cursor: Option<Cursor>,
    /// What was found and not handed out yet, the next one last.
    found: Vec<DeadLetterId>,
    is_over: bool,
}

impl Sweep {
    /// The next of them, at most `count`; `None` after the last.
    ///
    /// # Errors
    ///
    /// [`Error::RedisUnavailable`]; calling again is safe.
    pub async fn next(&mut self, count: usize) -> Result<Option<Vec<DeadLetterId>>, Error> {
        while self.found.is_empty() && !self.is_over {
            let page = self
                .store
                .list_dead_letter_ids(&self.query, SWEEP, self.cursor.clone())
                .await;
            let page = match page {
                Ok(page) => page,
                Err(ListError::Cursor(_)) => return Err(Error::Store(StoreError::Protocol("cursor"))),
                Err(ListError::Store(error)) => return Err(error.into()),
            };
            self.is_over = page.next.is_none();
            self.cursor = page.next;
            self.found = page.ids;
            self.found.reverse();
        }
        let rest = self.found.len().saturating_sub(count.max(1));
        let ids: Vec<DeadLetterId> = self.found.drain(rest..).rev().collect();
        Ok((!ids.is_empty()).then_some(ids))
    }
}

/// Spreads work over time: so many a second, evenly.
#[derive(Debug)]
pub struct Pace {
    per_second: f64,
    began: Instant,
    done: u64,
}

impl Pace {
    /// A pace of so many a second, which must be over 0.
    #[must_use]
    pub fn new(per_second: f64) -> Self {
        Self {
            per_second,
            began: Instant::now(),
            done: 0,
        }
    }

    /// How many to do at once, so that the pace looks even: what falls into a tenth of a second.
    #[must_use]
    pub fn portion(&self) -> usize {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "clamped to what one call handles"
        )]
        let portion = (self.per_second / 10.0).clamp(1.0, BATCH as f64) as usize;
        portion
    }

    /// Waits until `count` more may be done.
    pub async fn wait(&mut self, count: usize) {
        let due = self.due(count);
        if let Some(due) = self.began.checked_add(due) {
            tokio::time::sleep_until(due).await;
        }
    }

    /// How long after the beginning `count` more are due.
    fn due(&mut self, count: usize) -> Duration {
        #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
        let due = Duration::try_from_secs_f64(self.done as f64 / self.per_second).unwrap_or(Duration::MAX);
        self.done += count as u64;
        due
    }
}

/// How many from the first on have at most so many bytes together; at least one.
fn within(requeues: &[Requeue], bytes: usize) -> usize {
    let mut sum = 0;
    let fitting = requeues.iter().take_while(|requeue| {
        sum += requeue.body.as_ref().map_or(0, String::len);
        sum <= bytes
    });
    fitting.count().max(1)
}

fn not_found(id: &str) -> Error {
    Error::DeadLetterNotFound(id.chars().take(200).collect())
}

/// Why a dead letter was not requeued.
#[derive(Debug)]
pub(crate) enum NotRequeued {
    /// It is of a step of a saga, which only `saga resume` brings back.
    SagaStep(TaskId),
    /// For any other reason.
    Refused(Error),
}

impl From<NotRequeued> for Error {
    fn from(not: NotRequeued) -> Self {
        match not {
            NotRequeued::SagaStep(task) => Self::InvalidTransition(format!(
                "task `{task}` is a step of a saga, which comes back with its saga: resume that"
            )),
            NotRequeued::Refused(error) => error,
        }
    }
}

fn requeued_task(id: DeadLetterId, word: RequeuedTask) -> Result<Requeued, NotRequeued> {
    let (DeadLetterId::Task(task, _) | DeadLetterId::Late(task)) = id else {
        return Err(NotRequeued::Refused(not_found(&id.to_string())));
    };
    let refused = |text: String| Err(NotRequeued::Refused(Error::InvalidTransition(text)));
    match word {
        RequeuedTask::Ok(life) | RequeuedTask::Duplicate(life) => Ok(Requeued {
            dead_letter_id: id.to_string(),
            kind: DeadLetterKind::Task.as_str(),
            task_id: Some(task.to_string()),
            life: Some(life),
            trigger_event_id: None,
        }),
        RequeuedTask::Illegal(state) => {
            let state = state.map_or("of another release", |state| state.as_str());
            refused(format!(
                "task `{task}` is {state} and no more what dead letter `{id}` holds: it can not be requeued"
            ))
        }
        RequeuedTask::Saga => Err(NotRequeued::SagaStep(task)),
        RequeuedTask::InputsGone => refused(format!(
            "task `{task}` needs the results of other tasks, which are not kept any more: start its workflow again"
        )),
        RequeuedTask::Other(kind) => refused(format!("dead letter `{id}` is a {kind} and can not be requeued")),
        RequeuedTask::Missing => Err(NotRequeued::Refused(not_found(&id.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept_over_time() {
        let mut pace = Pace::new(50.0);
        assert_eq!(pace.portion(), 5);

        let due: Vec<u128> = (0..4).map(|_| pace.due(5).as_millis()).collect();

        assert_eq!(due, [0, 100, 200, 300]);
        assert_eq!((Pace::new(0.5).portion(), Pace::new(1e9).portion()), (1, BATCH));
    }
}
