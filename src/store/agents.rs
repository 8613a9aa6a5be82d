//! Tasks that agents hold: what they say of them, and what is known beside the record.

use std::time::Duration;

use serde_json::value::RawValue;

use super::connection::Args;
use super::functions::{Bells, Claimed, Outcome, Settlement, claimed, words};
use super::library::Function;
use super::reply::{items, string, worded};
use super::{Store, StoreError};
use crate::domain::event::EntryId;
use crate::domain::id::{Name, Partition, QueueName, ReplicaId, TaskId};

/// What an agent says of an attempt.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The task.
    pub task_id: TaskId,
    /// The attempt.
    pub attempt: u32,
    /// Who says so; `None` for whoever holds the attempt.
    pub who: Option<String>,
    /// The event that says so, so that a second delivery is known as one.
    pub event_id: Option<String>,
    /// Its entry in the stream.
    pub entry_id: Option<String>,
    /// What.
    pub said: Said,
}

/// How an agent's attempt goes.
#[derive(Debug, Clone)]
pub enum Said {
    /// It goes on; how far it is, JSON, where that is said.
    Beat(Option<String>),
    /// It is over.
    Ended(Outcome),
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// It counts.
    Ok,
    /// It counts, and another attempt follows.
    Retry,
    /// This very event came before; nothing changed.
    Duplicate,
    /// The attempt is not the current one, or no agent's; nothing changed.
    Stale,
    /// Another agent holds the attempt; nothing changed.
    Other,
    /// The task had ended; nothing changed.
    Terminal,
    /// There is no such task.
    Missing,
    /// The time of the attempt is not up; nothing changed.
    Early,
}

/// What somebody outside asks for.
#[derive(Debug, Clone)]
pub struct Loan<'a> {
    /// Who asks, by an agent's name.
    pub agent: &'a Name,
    /// Out of which queue.
    pub queue: &'a QueueName,
    /// How many at most.
    pub max: u16,
    /// How long it may be silent.
    pub silence_ms: u64,
    /// How long a lower priority may wait before it is served out of turn.
    pub max_wait_ms: u64,
    /// Whether unread assignments in the inbox of the name are handed out too.
    pub reads_inbox: bool,
    /// The names of the tasks that it carries out; none for all.
    pub task_names: &'a [Name],
}

/// What was handed out to somebody outside.
#[derive(Debug)]
pub struct Lent {
    /// Tasks out of the queue.
    pub tasks: Vec<Claimed>,
    /// Assignments out of the inbox: JSON.
    pub assignments: Vec<String>,
    /// What to wait behind for more.
    pub bells: Bells,
}

/// What is known of a task because an agent has or had it.
#[derive(Debug, Clone, Default)]
pub struct AgentSide {
    /// Which agent.
    pub agent: String,
    /// The entry of the assignment in its inbox; `None` where it was claimed over HTTP.
    pub inbox: Option<String>,
    /// How long it may be silent.
    pub silence_ms: u64,
    /// When it was last heard of, ms since the epoch.
    pub beat_ms: Option<i64>,
    /// How far it said it is, JSON.
    pub progress: Option<Box<RawValue>>,
}

/// What became of an answer, and the attempt that it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What became of it.
    pub word: Answered,
    /// The attempt, where the answer ended one.
    pub ended: Option<EndedAttempt>,
}

/// An attempt that an agent's answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedAttempt {
    /// The name of its task.
    pub task_name: String,
    /// How long it took.
    pub took: Duration,
    /// Whether it was a step of a saga, or was to undo one.
    pub is_of_saga: bool,
}

impl Verdict {
    fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let word = Answered::read(words.next()?)?;
        let ended = match (words.next(), words.next(), words.next()) {
            (Some(task_name), Some(took_ms), Some(is_of_saga)) => Some(EndedAttempt {
                task_name: task_name.to_owned(),
                took: Duration::from_millis(took_ms.parse().ok()?),
                is_of_saga: is_of_saga == "1",
            }),
            _ => None,
        };
        Some(Self { word, ended })
    }
}

impl Answered {
    fn read(word: &str) -> Option<Self> {
        Some(match word {
            "ok" => Self::Ok,
            "retry" => Self::Retry,
            "duplicate" => Self::Duplicate,
            "stale" => Self::Stale,
            "other" => Self::Other,
            "terminal" => Self::Terminal,
            "missing" => Self::Missing,
            "early" => Self::Early,
            _ => return None,
        })
    }
}

impl Answer {
    fn push(&self, args: &mut Args) {
        args.show(self.task_id)
            .push(self.who.as_deref().unwrap_or_default())
            .push(self.event_id.as_deref().unwrap_or_default())
            .push(self.entry_id.as_deref().unwrap_or_default());
        match &self.said {
            Said::Beat(progress) => {
                args.push(format!("{} beat 0", self.attempt))
                    .push(progress.as_deref().unwrap_or_default());
            }
            Said::Ended(outcome) => {
                let settlement = Settlement {
                    task_id: self.task_id,
                    attempt: self.attempt,
                    outcome: outcome.clone(),
                };
                let (verdict, data) = settlement.verdict();
                args.push(verdict).push(data);
            }
        }
    }
}

impl Store {
    /// Takes what agents say of attempts of one partition, in order.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe where every answer names its event.
    pub async fn answer(
        &self,
        partition: Partition,
        actor: ReplicaId,
        answers: &[Answer],
    ) -> Result<Vec<Verdict>, StoreError> {
        let mut args = Args::default();
        args.show(actor);
        for answer in answers {
            answer.push(&mut args);
        }
        let (_, mut rest) = worded(self.call(Function::Answer, partition, args).await?, "answer")?;
        words(rest.next(), "answer", Verdict::read)
    }

    /// Hands out waiting tasks to somebody outside.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. When it is unknown whether the call took effect, what it handed out is lost with time.
    pub async fn lend(&self, partition: Partition, actor: ReplicaId, loan: &Loan<'_>) -> Result<Lent, StoreError> {
        const NAME: &str = "lend";
        let mut args = Args::default();
        args.show(actor)
            .push(loan.agent.as_str())
            .push(loan.queue.as_str())
            .show(loan.max)
            .show(loan.silence_ms)
            .show(loan.max_wait_ms)
            .flag(loan.reads_inbox);
        for name in loan.task_names {
            args.push(name.as_str());
        }
        let (_, mut rest) = worded(self.call(Function::Lend, partition, args).await?, NAME)?;
        let tasks = claimed(rest.next(), NAME)?;
        let texts = |value: Option<redis::Value>| -> Result<Vec<String>, StoreError> {
            let list = value.and_then(items).ok_or(StoreError::Protocol(NAME))?;
            Ok(list.into_iter().filter_map(string).collect())
        };
        let assignments = texts(rest.next())?;
        let mut bells = texts(rest.next())?.into_iter();
        let after = bells.next().unwrap_or_default();
        Ok(Lent {
            tasks,
            assignments,
            bells: bells.map(|stream| (stream, after.clone())).collect(),
        })
    }

    /// What is known of a task because an agent has or had it.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn agent_side(&self, id: TaskId) -> Result<AgentSide, StoreError> {
        let mut side = AgentSide::default();
        for (name, value) in self.hash(&self.keys().agent_side(id)).await? {
            match name.as_str() {
                "agent" => side.agent = value,
                "inbox" => side.inbox = Some(value),
                "silence" => side.silence_ms = value.parse().unwrap_or_default(),
                "beat" => side.beat_ms = value.parse().ok(),
                "progress" => side.progress = RawValue::from_string(value).ok(),
                _ => {}
            }
        }
        Ok(side)
    }

    /// Whether an agent's group has read an entry of its inbox.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn has_read(&self, partition: Partition, agent: &str, entry: &str) -> Result<bool, StoreError> {
        let key = self.keys().inbox(partition, agent);
        let mut command = redis::cmd("XINFO");
        command.arg("GROUPS").arg(&key);
        let groups = match self.send(&command).await {
            Ok(groups) => items(groups).unwrap_or_default(),
            Err(_) => return Ok(false),
        };
        for group in groups {
            let fields = super::inspect::named_values(group);
            let field = |name: &str| {
                fields
                    .iter()
                    .find(|(known, _)| known == name)
                    .map(|(_, value)| value.as_str())
            };
            if field("name") == Some(agent) {
                let last: Option<EntryId> = field("last-delivered-id").and_then(|id| id.parse().ok());
                let entry: Option<EntryId> = entry.parse().ok();
                return Ok(last >= entry);
            }
        }
        Ok(false)
    }
}
