//! Dead letters: what is kept of a life that failed, and how another follows.

use super::{Fact, Model, Task, Turn, Word};
use crate::domain::event::EventType;
use crate::domain::id::TaskId;
use crate::domain::state::TaskMove;

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The task as it was then: a copy of its own.
    pub task: Task,
}

impl Model {
    /// The dead letters, by task and last attempt.
    #[must_use]
    pub const fn letters(&self) -> &std::collections::BTreeMap<(TaskId, u32), Letter> {
        &self.letters
    }

    /// Keeps a copy of a task that failed for good.
    pub(super) fn bury(&mut self, id: TaskId) {
        let task = self.tasks[&id].clone();
        self.letters.insert((id, task.attempt), Letter { task });
    }

    pub(super) fn requeue(
        &mut self,
        turn: &mut Turn,
        id: TaskId,
        attempt: u32,
        max_retries: Option<u32>,
    ) -> (Word, Option<u32>) {
        let Some(letter) = self.letters.get(&(id, attempt)) else {
            let begun = self.tasks.get(&id).and_then(|task| task.revivals.get(&attempt));
            return match begun {
                Some(life) => (Word::Duplicate, Some(*life)),
                None => (Word::Missing, None),
            };
        };
        let before = match self.tasks.get(&id) {
            Some(task) => {
                let state = task.state;
                if state.after(TaskMove::Requeue).is_none() || task.attempt != attempt {
                    return (Word::Illegal, None);
                }
                *self.revived.entry(state).or_default() += 1;
                task.clone()
            }
            // Its record was forgotten, and with it which dead letters led to which life.
            None => Task {
                revivals: std::collections::BTreeMap::new(),
                ..letter.task.clone()
            },
        };
        let Some(state) = before.state.after(TaskMove::Requeue) else {
            return (Word::Illegal, None);
        };
        let life = before.life + 1;
        let mut task = Task {
            state,
            life,
            retries: 0,
            losses: 0,
            owner: None,
            max_retries: max_retries.unwrap_or(before.max_retries),
            ..before
        };
        task.revivals.insert(attempt, life);
        self.tasks.insert(id, task);
        self.letters.remove(&(id, attempt));
        let cause = self.tell_operator(turn, "requeue", &format!("{id}.{attempt}"));
        let facts = vec![
            ("/dead_letter_id", Fact::Text(format!("{id}.{attempt}"))),
            ("/life", Fact::Number(life.into())),
        ];
        self.tell(turn, EventType::TaskRequeued, id, facts);
        if let Some(event) = turn.events.last_mut() {
            event.causation_id = cause;
        }
        self.wait(id, None, turn.now_ms);
        (Word::Ok, Some(life))
    }

    pub(super) fn discard(&mut self, turn: &mut Turn, id: TaskId, attempt: u32) -> Word {
        if self.letters.remove(&(id, attempt)).is_none() {
            return Word::Missing;
        }
        self.tell_operator(turn, "discard", &format!("{id}.{attempt}"));
        Word::Ok
    }
}
