//! How an attempt ends: settled by its owner, or lost with it.

use super::{Fact, Model, Outcome, Owner, Reply, Settlement, Task, Turn, Word};
use crate::domain::event::EventType;
use crate::domain::id::{ReplicaId, TaskId};
use crate::domain::state::{TaskMove, TaskState};

/// The loss in a row that is permanent: a task that kills whoever runs it must not go round for ever.
pub const LOSSES_MAX: u8 = 3;

impl Model {
    pub(super) fn settle(&mut self, turn: &mut Turn, settlement: &Settlement) -> Word {
        let Some(task) = self.tasks.get(&settlement.task) else {
            return Word::Missing;
        };
        let is_owner = task.owner.as_ref().and_then(Owner::replica) == Some(turn.by);
        if !is_owner || task.attempt != settlement.attempt {
            return Word::Stale;
        }
        if task.state.after(task.move_of(settlement.outcome)).is_none() {
            // The caller's own attempt has ended: by an earlier settlement, unless it was cancelled or taken away.
            return if task.state == TaskState::Cancelled || task.losses > 0 {
                Word::Stale
            } else {
                Word::Duplicate
            };
        }
        self.change(settlement.task, |task| task.losses = 0);
        self.end_attempt(turn, settlement.task, settlement.outcome, false)
    }

    /// Ends a running attempt. `is_lost` tells of its owner's silence.
    pub(super) fn end_attempt(&mut self, turn: &mut Turn, id: TaskId, outcome: Outcome, is_lost: bool) -> Word {
        let task = &self.tasks[&id];
        let step = task.move_of(outcome);
        let Some(state) = task.state.after(step) else {
            return Word::Stale;
        };
        let worker = task.owner.as_ref().map_or(String::new(), ToString::to_string);
        self.remove_entry(id);
        self.change(id, |task| task.state = state);
        let mut facts = Vec::new();
        if is_lost {
            facts.push(("/error/type", Fact::Text("lost".to_owned())));
        }
        match step {
            TaskMove::Succeed => {
                facts.push(("/worker_id", Fact::Text(worker)));
                facts.push(("/completed_at", Fact::Moment(turn.now_ms)));
                self.tell(turn, EventType::TaskCompleted, id, facts);
                Word::Ok
            }
            TaskMove::Release => {
                facts.push(("/reason", Fact::Text("shutdown".to_owned())));
                self.tell(turn, EventType::TaskReleased, id, facts);
                self.wait(id, None, turn.now_ms);
                Word::Ok
            }
            TaskMove::Retry => {
                let due_ms = turn.now_ms + i64::from(outcome.delay_ms());
                let retries = self.change(id, |task| {
                    task.retries += 1;
                    task.retries
                });
                facts.push(("/retry_count", Fact::Number(retries.into())));
                facts.push(("/due_at", Fact::Moment(due_ms)));
                self.tell(turn, EventType::TaskRetryScheduled, id, facts);
                self.wait(id, Some(due_ms), turn.now_ms);
                Word::Retry
            }
            TaskMove::Fail | TaskMove::Expire | TaskMove::Claim | TaskMove::Cancel | TaskMove::Requeue => {
                let task = &self.tasks[&id];
                let dead_letter = format!("{id}.{}", task.attempt);
                facts.push(("/retry_count", Fact::Number(task.retries.into())));
                facts.push(("/attempts", Fact::Number(task.attempt.into())));
                facts.push(("/worker_id", Fact::Text(worker)));
                facts.push(("/failed_at", Fact::Moment(turn.now_ms)));
                let kind = if step == TaskMove::Expire {
                    EventType::TaskTimeout
                } else {
                    EventType::TaskFailed
                };
                self.tell(turn, kind, id, facts);
                let facts = vec![("/dead_letter_id", Fact::Text(dead_letter))];
                self.tell(turn, EventType::TaskDeadLettered, id, facts);
                self.bury(id);
                Word::Ok
            }
        }
    }

    /// A lost attempt counts. The task returns at once, unless it is out of retries or has been lost too often in a row.
    pub(super) fn takeover(&mut self, turn: &mut Turn, victim: ReplicaId, seen: &str, limit: usize) -> Reply {
        let beat = self.replicas.get(&victim).map(|replica| replica.beat.to_string());
        if beat.unwrap_or_default() != seen {
            return Reply::Alive;
        }
        let mut lost = self.held_by(victim);
        lost.truncate(limit);
        for id in &lost {
            self.lose(turn, *id);
        }
        self.hand_over(turn, false);
        let is_done = lost.len() < limit;
        if is_done && let Some(mut replica) = self.replicas.remove(&victim) {
            let workers = replica.workers;
            turn.tell_pool(victim, &mut replica, "lost", workers);
        }
        Reply::TakenOver(lost.len(), is_done)
    }
}

impl Task {
    /// The move that an attempt's outcome asks for.
    const fn move_of(&self, outcome: Outcome) -> TaskMove {
        let may_retry = self.retries < self.max_retries;
        match outcome {
            Outcome::Completed => TaskMove::Succeed,
            Outcome::Released => TaskMove::Release,
            Outcome::Failed { .. } | Outcome::Timeout { .. } if may_retry => TaskMove::Retry,
            Outcome::Failed { .. } | Outcome::Rejected => TaskMove::Fail,
            Outcome::Timeout { .. } => TaskMove::Expire,
        }
    }
}

impl Outcome {
    const fn delay_ms(self) -> u32 {
        match self {
            Self::Failed { delay_ms } | Self::Timeout { delay_ms } => delay_ms,
            Self::Completed | Self::Rejected | Self::Released => 0,
        }
    }
}
