//! What is forgotten: events that leave the log, and with the last of a life the task.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Fact, Model, ModelEvent, Reply, Turn};
use crate::domain::event::EventType;
use crate::domain::id::TaskId;
use crate::domain::state::TaskState;

/// How long after a removal was told the next is kept back, to be told together with others.
pub const TELL_MS: i64 = 60_000;

/// The log, and what is remembered of what left it.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    log: VecDeque<Line>,
    /// How many tasks were forgotten, by the state in which they ended.
    forgotten: BTreeMap<TaskState, u64>,
    /// The dead letters of forgotten tasks, by task and attempt: a task that is made anew and fails alike replaces its own.
    buried: BTreeSet<(TaskId, u32)>,
    /// Events and tasks that went since it was last told, and when that was.
    untold: (u64, u64),
    told_ms: Option<i64>,
    /// Whether it was cleaned up behind agents.
    is_tidy: bool,
}

/// An event of the log.
#[derive(Debug, Clone)]
struct Line {
    task: Option<TaskId>,
    seq: u32,
    /// It tells of a removal; that it goes is not told in turn.
    is_notice: bool,
}

impl Model {
    /// How many tasks were forgotten, by the state in which they ended.
    #[must_use]
    pub fn forgotten(&self) -> &BTreeMap<TaskState, u64> {
        &self.kept.forgotten
    }

    /// How many dead letters there are.
    #[must_use]
    pub fn dead_letters(&self) -> usize {
        let dead = self.tasks.iter().filter(|(_, task)| is_dead(task.state));
        let letters = dead.map(|(id, task)| (*id, task.attempt));
        letters
            .chain(self.kept.buried.iter().copied())
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// Timers move with a clock that went back.
    pub fn clock_went_back(&mut self, by_ms: i64) {
        self.shift_watches(by_ms);
        for task in self.tasks.values_mut() {
            if let super::Place::Delayed { due_ms } = &mut task.place {
                *due_ms -= by_ms;
            }
        }
    }

    /// Appends to the log what a call said.
    pub(super) fn note(&mut self, events: &[ModelEvent]) {
        let lines = events.iter().map(|event| Line {
            task: event.subject.parse().ok(),
            seq: event.seq,
            is_notice: event.event_type == EventType::OperatorAction
                && event.facts.contains(&("/action", Fact::Text("trim".to_owned()))),
        });
        self.kept.log.extend(lines);
    }

    pub(super) fn trim(&mut self, turn: &mut Turn, everything: bool, max_events: usize, limit: usize) -> Reply {
        if !self.replicas.contains_key(&turn.by) {
            return Reply::Stranger;
        }
        let length = self.kept.log.len();
        // One more than is over, for the notice.
        let surplus = if length > max_events {
            length - max_events + 1
        } else {
            0
        };
        let removed = if everything { length } else { surplus.min(length) }.min(limit);
        let mut tasks = 0;
        for line in self.kept.log.drain(..removed).collect::<Vec<_>>() {
            self.kept.untold.0 += u64::from(!line.is_notice);
            let is_last = |id: &TaskId| {
                let task = self.tasks.get(id);
                task.is_some_and(|task| task.state.is_terminal() && task.seq == line.seq)
            };
            if let Some((id, task)) = line.task.filter(is_last).and_then(|id| self.tasks.remove_entry(&id)) {
                if is_dead(task.state) {
                    self.kept.buried.insert((id, task.attempt));
                }
                self.forget_desk(id);
                *self.kept.forgotten.entry(task.state).or_default() += 1;
                tasks += 1;
            }
        }
        self.kept.untold.1 += tasks;
        let is_more = removed == limit;
        let is_time = self.kept.told_ms.is_none_or(|told_ms| turn.now_ms - told_ms >= TELL_MS);
        // Every ten seconds, and no case takes so long.
        if !is_more && !std::mem::replace(&mut self.kept.is_tidy, true) {
            self.tidy_agents(turn.now_ms, everything);
        }
        if !is_more && self.kept.untold.0 > 0 && is_time {
            self.tell_trimmed(turn);
        }
        Reply::Trimmed(removed, usize::try_from(tasks).unwrap_or(usize::MAX), is_more)
    }

    fn tell_trimmed(&mut self, turn: &mut Turn) {
        let (events, tasks) = std::mem::take(&mut self.kept.untold);
        self.kept.told_ms = Some(turn.now_ms);
        let Some(replica) = self.replicas.get_mut(&turn.by) else {
            return;
        };
        replica.seq += 1;
        let subject = turn.by.to_string();
        turn.events.push(ModelEvent {
            event_type: EventType::OperatorAction,
            seq: replica.seq,
            attempt: None,
            causation_id: format!("{subject}/{}", replica.seq),
            source: turn.by,
            facts: vec![
                ("/action", Fact::Text("trim".to_owned())),
                ("/actor", Fact::Text(subject.clone())),
                ("/events", Fact::Number(events)),
                ("/tasks", Fact::Number(tasks)),
            ],
            subject,
        });
    }
}

const fn is_dead(state: TaskState) -> bool {
    matches!(state, TaskState::Failed | TaskState::Timeout)
}
