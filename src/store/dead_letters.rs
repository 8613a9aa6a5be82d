//! Takes dead letters away: tasks to wait again, triggers back to their stream, either for good.

use redis::Value;

use super::connection::Args;
use super::letter::EntryFields;
use super::library::Function;
use super::record::json_text;
use super::reply::{integer, items, string, text, worded};
use super::{Store, StoreError};
use crate::domain::dead_letter::DeadLetterId;
use crate::domain::id::{Partition, ReplicaId};
use crate::domain::state::TaskState;

/// Who does something by hand, as the log tells it.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The subject of the events; an id of its own, never that of a replica.
    pub id: ReplicaId,
    /// A person's or a program's name.
    pub actor: String,
    /// Their own words.
    pub reason: Option<String>,
}

impl Operator {
    /// What is said of them on the log, as JSON: the actor and the reason.
    pub(super) fn words(&self) -> [String; 2] {
        let reason = self.reason.as_deref().map_or("null".to_owned(), json_text);
        [json_text(&self.actor), reason]
    }
}

/// A task to be taken out of the dead letters.
#[derive(Debug, Clone)]
pub struct Requeue {
    /// Its dead letter.
    pub letter: DeadLetterId,
    /// The body of its record, where that changes.
    pub body: Option<String>,
    /// How often a failed attempt of the new life is followed by another, where that changes.
    pub max_retries: Option<u32>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequeuedTask {
    /// It waits again; the number of the life that begins.
    Ok(u32),
    /// It did so before, by this dead letter; the number of the life that began then. Nothing changed.
    Duplicate(u32),
    /// The task is in a state that does not come out of the dead letters, or is dead by a later attempt.
    Illegal(Option<TaskState>),
    /// It is a step of a saga, which comes back with its saga.
    Saga,
    /// It was forgotten, and with it the results of other tasks that it needs.
    InputsGone,
    /// The dead letter holds no task.
    Other(String),
    /// There is no such dead letter.
    Missing,
}

/// What became of a dead letter that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Ok,
    /// Its trigger was put back before; nothing changed.
    Duplicate,
    /// There is no such dead letter.
    Missing,
}

/// Why a dead letter is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Nobody wants it any more.
    Discard,
    /// Its trigger was put back on its stream.
    PutBack,
}

impl Store {
    /// Gives tasks out of the dead letters a new life; all must be of one partition. No limit refuses them. Where they are
    /// large, there are fewer answers than tasks: the rest is for another call.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn requeue(
        &self,
        partition: Partition,
        operator: &Operator,
        requeues: &[Requeue],
    ) -> Result<Vec<RequeuedTask>, StoreError> {
        const NAME: &str = "requeue";
        let [actor, reason] = operator.words();
        let mut args = Args::default();
        args.show(operator.id).push(actor).push(reason);
        for requeue in requeues {
            args.show(requeue.letter)
                .push(requeue.body.clone().unwrap_or_default())
                .push(requeue.max_retries.map_or(String::new(), |count| count.to_string()));
        }
        let (_, mut rest) = worded(self.call(Function::Requeue, partition, args).await?, NAME)?;
        let answers = rest.next().and_then(items).ok_or(StoreError::Protocol(NAME))?;
        answers
            .into_iter()
            .map(|answer| requeued(answer).ok_or(StoreError::Protocol(NAME)))
            .collect()
    }

    /// Removes dead letters of one partition, and says so on the log.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn remove_dead_letters(
        &self,
        partition: Partition,
        operator: &Operator,
        removal: Removal,
        letters: &[DeadLetterId],
    ) -> Result<Vec<Removed>, StoreError> {
        let [actor, reason] = operator.words();
        let mut args = Args::default();
        args.show(operator.id)
            .push(match removal {
                Removal::Discard => "discard",
                Removal::PutBack => "requeue",
            })
            .push(actor)
            .push(reason);
        for letter in letters {
            args.show(letter);
        }
        let (_, mut rest) = worded(self.call(Function::Discard, partition, args).await?, "discard")?;
        super::functions::words(rest.next(), "discard", |word| match word {
            "ok" => Some(Removed::Ok),
            "duplicate" => Some(Removed::Duplicate),
            "missing" => Some(Removed::Missing),
            _ => None,
        })
    }

    /// Puts a rejected trigger back on its stream.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe where the fields name their event.
    pub async fn put_back_trigger(&self, fields: &EntryFields) -> Result<(), StoreError> {
        let mut command = redis::cmd("XADD");
        command.arg(self.keys().triggers()).arg("*");
        for (name, value) in fields {
            command.arg(name).arg(value);
        }
        self.send(&command).await.map(drop)
    }

    /// The `event_id` of the trigger that was put back out of a dead letter within the last day.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn event_put_back(&self, id: DeadLetterId) -> Result<Option<String>, StoreError> {
        let key = self
            .keys()
            .gone_letter(id.partition(self.partition_count()), &id.to_string());
        let fate = string(self.send(redis::cmd("GET").arg(key)).await?);
        Ok(fate.and_then(|fate| Some(fate.strip_prefix("requeue ")?.to_owned())))
    }
}

fn requeued(answer: Value) -> Option<RequeuedTask> {
    let mut answer = items(answer)?.into_iter();
    let word = answer.next().and_then(string)?;
    let detail = answer.next();
    let life = || {
        detail
            .as_ref()
            .and_then(integer)
            .and_then(|life| u32::try_from(life).ok())
    };
    let letter = || detail.as_ref().and_then(text)?.bytes().next();
    Some(match word.as_str() {
        "ok" => RequeuedTask::Ok(life()?),
        "duplicate" => RequeuedTask::Duplicate(life()?),
        "illegal" => RequeuedTask::Illegal(letter().and_then(TaskState::from_letter)),
        "saga" => RequeuedTask::Saga,
        "inputs" => RequeuedTask::InputsGone,
        "other" => RequeuedTask::Other(detail.and_then(string).unwrap_or_default()),
        "missing" => RequeuedTask::Missing,
        _ => return None,
    })
}
