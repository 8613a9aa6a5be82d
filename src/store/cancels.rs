//! Many cancels in one go, each with a cause of its own, and a cheap look at what is known.

use super::connection::Args;
use super::functions::Cancelled;
use super::library::Function;
use super::record::json_text;
use super::reply::{integer, items, text, worded};
use super::{Store, StoreError};
use crate::domain::id::{Name, Partition, ReplicaId, TaskId};

/// One command that asks for the end of a task.
#[derive(Debug, Clone, Copy)]
pub struct Cancel<'a> {
    /// The task.
    pub task: TaskId,
    /// The `event_id` of the command.
    pub cause: &'a str,
    /// The caller's own words.
    pub message: Option<&'a str>,
}

/// What a command is about.
#[derive(Debug, Clone, Copy)]
pub enum About<'a> {
    /// A task.
    Task(TaskId),
    /// A workflow or a saga.
    Group(&'a Name),
}

impl Cancel<'_> {
    fn args(&self, actor: ReplicaId) -> Args {
        let members = self
            .message
            .map_or(String::new(), |message| format!(",\"message\":{}", json_text(message)));
        let mut args = Args::default();
        args.show(actor)
            .push("requested")
            .push(self.cause)
            .push(members)
            .show(self.task);
        args
    }
}

impl Store {
    /// Carries out commands of one partition in one round trip; a word for each in order.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; it is unknown then which took effect, and calling again is safe.
    pub async fn cancel_each(
        &self,
        partition: Partition,
        actor: ReplicaId,
        commands: &[Cancel<'_>],
    ) -> Result<Vec<Cancelled>, StoreError> {
        let calls: Vec<Args> = commands.iter().map(|command| command.args(actor)).collect();
        let answers = self.call_all(Function::Cancel, partition, &calls).await?;
        let mut words = Vec::with_capacity(answers.len());
        for answer in answers {
            let (_, mut rest) = worded(answer, "cancel")?;
            let list = rest.next().and_then(items).unwrap_or_default();
            words.push(match list.first().and_then(text) {
                Some("ok") => Cancelled::Ok,
                Some("terminal") => Cancelled::Terminal,
                Some("missing") => Cancelled::Missing,
                _ => return Err(StoreError::Protocol("cancel")),
            });
        }
        Ok(words)
    }

    /// Which of some things there are, in order. Of a group also one that is only a name that tasks carry.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn are_known(&self, things: &[About<'_>]) -> Result<Vec<bool>, StoreError> {
        let (mut pipeline, partitions) = (redis::pipe(), self.partition_count());
        for thing in things {
            match *thing {
                About::Task(task) => pipeline.cmd("EXISTS").arg(self.keys().task(task)),
                About::Group(id) => pipeline
                    .cmd("EXISTS")
                    .arg(self.keys().group_record(id, partitions))
                    .arg(self.keys().group(id, partitions)),
            };
        }
        let answers = self.send_all(&pipeline).await?;
        Ok(answers.iter().map(|answer| integer(answer) > Some(0)).collect())
    }
}
