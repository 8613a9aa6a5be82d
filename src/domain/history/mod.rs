//! Reads a log in order and names everything in it that can not be.
//!
//! Each subject's events are numbered from 1 without a gap; a task's events, folded over the table of states, must be
//! legal moves from one `created` to exactly one end a life. Pure: events go in, violations come out. A log may be read
//! from its middle on, where its beginning was trimmed, and while the system works: [`History`] stands at one entry, and
//! what it says of each task is how things were when that entry was written.
//!
//! Knows nothing of the stored state and of triggers: whether those agree with the log is asked elsewhere.

mod flaw;
mod flow;
mod guarantee;
mod life;
mod saga_life;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::event::{EntryId, Event, EventType};
use super::id::TaskId;
use super::state::TaskState;
pub use flaw::{Flaw, Violation};
use flow::{Flow, Told};
pub use guarantee::Guarantee;
pub use life::TaskLife;
use life::{Counted, hash};
use saga_life::SagaLife;

/// What a whole log amounts to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// How many events were read.
    pub events: u64,
    /// How many subjects they are about.
    pub subjects: u64,
    /// How many tasks ended up in which state, by the log alone.
    pub tasks: BTreeMap<&'static str, u64>,
    /// What can not be, in the order in which it shows.
    pub violations: Vec<Violation>,
}

/// How much of the log was there to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Beginning {
    /// Everything that ever happened.
    #[default]
    Whole,
    /// Only what came later: subjects may turn up with a number above 1.
    Cut,
}

/// Redis lost its last moments, and somebody noticed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Cut {
    /// The entry that says so.
    pub entry_id: String,
    /// Who says so.
    pub source_agent: String,
    /// The newest entry that was seen before.
    pub last_seen: String,
    /// The newest entry that was left.
    pub now_at: String,
}

/// A dead letter as the log tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Letter {
    /// Where its making stands.
    pub made: EntryId,
    /// Whether it was requeued or discarded since.
    pub is_gone: bool,
}

/// A log as far as it was read.
#[derive(Debug, Default)]
pub struct History {
    beginning: Beginning,
    position: EntryId,
    events: u64,
    tasks: HashMap<TaskId, (u64, TaskLife)>,
    others: HashMap<Box<str>, (u64, EntryId)>,
    letters: HashMap<Box<str>, Letter>,
    /// Workflows that were started, as far as their start was read.
    flows: HashMap<Arc<str>, Flow>,
    /// Ids of workflows, as hashes, that tasks carried while no such workflow was under way.
    labels: HashSet<u64>,
    /// Sagas, as far as their start was read.
    sagas: HashMap<Box<str>, SagaLife>,
    /// Parts that were removed before they were read: behind the first entry, up to the second.
    holes: Vec<(EntryId, EntryId)>,
    cuts: Vec<Cut>,
    started: u64,
    duration_ms: u64,
    ends: BTreeMap<TaskState, u64>,
    /// Workflows and sagas under way, and how often one ended how.
    groups: BTreeMap<String, i64>,
    violations: Vec<Violation>,
}

/// What is counted of workflows and sagas: those under way, and how often one ended how.
pub const GROUP_COUNTS: [&str; 8] = [
    "workflow",
    "workflow completed",
    "workflow failed",
    "workflow cancelled",
    "saga",
    "saga completed",
    "saga compensated",
    "saga failed",
];

/// Reads a whole log of a system that is at rest.
#[must_use]
pub fn verify<'a>(events: impl IntoIterator<Item = &'a Event>) -> Verdict {
    let mut history = History::default();
    for event in events {
        history.read(event);
    }
    history.close()
}

impl History {
    /// Nothing read yet, behind the entry `after`.
    #[must_use]
    pub fn behind(after: EntryId, beginning: Beginning) -> Self {
        Self {
            beginning,
            position: after,
            ..Self::default()
        }
    }

    /// Reads the next event of the log.
    pub fn read(&mut self, event: &Event) {
        self.events += 1;
        let at = event.entry_id.parse().unwrap_or(self.position);
        self.position = self.position.max(at);
        let mut flaws = Vec::new();
        // Types of later versions only count as numbers.
        let kind = EventType::of(&event.event_type);
        match event.subject().parse() {
            Ok(id) if event.event_type.starts_with("orchestration.task.") => {
                self.read_task(id, kind, event, at, &mut flaws);
            }
            Ok(_) | Err(_) => self.read_other(kind, event, at, &mut flaws),
        }
        self.violations.extend(flaws.into_iter().map(|flaw| Violation {
            subject: event.subject().to_owned(),
            entry_id: Some(event.entry_id.clone()),
            flaw,
        }));
    }

    /// An entry of the log is no event.
    pub fn read_stranger(&mut self, entry_id: &str) {
        self.violations.push(Violation {
            subject: entry_id.to_owned(),
            entry_id: Some(entry_id.to_owned()),
            flaw: Flaw::NoEvent,
        });
    }

    /// What stands behind the position up to this entry was removed before it could be read.
    pub fn skip_to(&mut self, upto: EntryId) {
        if upto > self.position {
            self.holes.push((self.position, upto));
            // What became of them meanwhile nobody can tell.
            self.sagas.clear();
            self.position = upto;
        }
    }

    /// The entry up to which it was read.
    #[must_use]
    pub const fn position(&self) -> EntryId {
        self.position
    }

    /// Says that it was read up to this entry, behind which there may be none for a while.
    pub fn advance(&mut self, to: EntryId) {
        self.position = self.position.max(to);
    }

    /// Whether everything that ever happened was read.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.beginning == Beginning::Whole && self.holes.is_empty()
    }

    /// A task with the number of its last event.
    #[must_use]
    pub fn task(&self, id: TaskId) -> Option<(u64, &TaskLife)> {
        self.tasks.get(&id).map(|(seq, life)| (*seq, life))
    }

    /// All tasks, in no order.
    pub fn tasks(&self) -> impl Iterator<Item = (TaskId, &TaskLife)> {
        self.tasks.iter().map(|(id, (_, life))| (*id, life))
    }

    /// A dead letter.
    #[must_use]
    pub fn letter(&self, id: &str) -> Option<Letter> {
        self.letters.get(id).copied()
    }

    /// All dead letters, in no order.
    pub fn letters(&self) -> impl Iterator<Item = (&str, Letter)> {
        self.letters.iter().map(|(id, letter)| (&**id, *letter))
    }

    /// How many events were read, and how many subjects they are about.
    #[must_use]
    pub fn size(&self) -> (u64, u64) {
        (self.events, (self.tasks.len() + self.others.len()) as u64)
    }

    /// How many attempts started, and how long those that completed took together, in milliseconds.
    #[must_use]
    pub const fn work(&self) -> (u64, u64) {
        (self.started, self.duration_ms)
    }

    /// How many times a life of a task ended in this state.
    #[must_use]
    pub fn ends(&self, state: TaskState) -> u64 {
        self.ends.get(&state).copied().unwrap_or_default()
    }

    /// How many workflows or sagas are under way, or how often one ended so; `name` is one of [`GROUP_COUNTS`].
    #[must_use]
    pub fn groups(&self, name: &str) -> i64 {
        self.groups.get(name).copied().unwrap_or_default()
    }

    /// Where Redis lost its last moments.
    #[must_use]
    pub fn cuts(&self) -> &[Cut] {
        &self.cuts
    }

    /// How many tasks are in which state, by the log alone.
    #[must_use]
    pub fn states(&self) -> BTreeMap<&'static str, u64> {
        let mut tasks = BTreeMap::new();
        for (_, life) in self.tasks.values() {
            if let Some(state) = life.state {
                *tasks.entry(state.as_str()).or_default() += 1;
            }
        }
        tasks
    }

    /// What was found so far, taken out.
    pub fn take_violations(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.violations)
    }

    /// Tasks that failed for good and that nothing says is kept. A failure and its dead letter are written in one step,
    /// so this holds at every entry that ends a step.
    #[must_use]
    pub fn unburied(&self) -> Vec<Violation> {
        let mut found: Vec<_> = self
            .tasks
            .iter()
            .filter_map(|(id, (_, life))| match life.state {
                Some(state @ (TaskState::Failed | TaskState::Timeout)) if !life.is_buried => {
                    Some((*id, Flaw::NotBuried(state)))
                }
                _ => None,
            })
            .collect();
        found.sort_unstable_by_key(|(id, _)| *id);
        found.into_iter().map(|(id, flaw)| at_end(id, flaw)).collect()
    }

    /// The log is over and the system at rest: what did not end is a violation.
    #[must_use]
    pub fn close(mut self) -> Verdict {
        let mut unfinished: Vec<_> = self
            .tasks
            .iter()
            .filter_map(|(id, (_, life))| Some((*id, life.state.filter(|state| !state.is_terminal())?)))
            .collect();
        unfinished.sort_unstable_by_key(|(id, _)| *id);
        let unfinished = unfinished
            .into_iter()
            .map(|(id, state)| at_end(id, Flaw::Unfinished(state)));
        let mut violations = self.take_violations();
        violations.extend(unfinished);
        violations.extend(self.unburied());
        violations.extend(self.unended());
        let (events, subjects) = self.size();
        Verdict {
            events,
            subjects,
            tasks: self.states(),
            violations,
        }
    }

    /// Whether events of a subject between two entries may have been removed before they were read.
    fn may_miss(&self, last: Option<EntryId>, at: EntryId) -> bool {
        match last {
            None => self.beginning == Beginning::Cut || !self.holes.is_empty(),
            Some(last) => self.holes.iter().any(|(from, upto)| last <= *from && at > *upto),
        }
    }

    /// Whether an event counts on; `None` for one that is to be passed over.
    fn count(&self, known: Option<(u64, EntryId)>, found: u64, at: EntryId, flaws: &mut Vec<Flaw>) -> Option<bool> {
        let expected = known.map_or(0, |(seq, _)| seq) + 1;
        if found < expected {
            flaws.push(Flaw::Repeat(found));
            return None;
        }
        let is_next = found == expected;
        if !is_next && !self.may_miss(known.map(|(_, last)| last), at) {
            flaws.push(Flaw::Gap { expected, found });
            return Some(true);
        }
        Some(is_next)
    }

    fn read_task(&mut self, id: TaskId, kind: Option<EventType>, event: &Event, at: EntryId, flaws: &mut Vec<Flaw>) {
        let known = self.tasks.get(&id).map(|(seq, life)| (*seq, life.last));
        let Some(is_next) = self.count(known, event.seq(), at, flaws) else {
            return;
        };
        let Some(kind) = kind else {
            let unknown = || (0, TaskLife::unknown(event, at));
            let (seq, life) = self.tasks.entry(id).or_insert_with(unknown);
            (*seq, life.last) = (event.seq(), at);
            return;
        };
        let counted = Counted::of(event);
        self.note(kind, &counted, at);
        let entry = self.tasks.remove(&id);
        let before = entry.as_ref().and_then(|(_, life)| life.state);
        let mut life = match (entry, kind) {
            (None, EventType::TaskCreated) => {
                let trigger = counted.trigger_event_id.as_deref().unwrap_or_default();
                if counted.saga_id.is_none() && event.causation_id != trigger {
                    flaws.push(Flaw::OtherTrigger {
                        cause: event.causation_id.clone(),
                        trigger: trigger.to_owned(),
                    });
                }
                let mut life = TaskLife::created(event, &counted, at);
                life.wait_for_lives(|id| self.tasks.get(&id)?.1.life);
                life
            }
            (None, _) => {
                if is_next {
                    flaws.push(Flaw::NotCreated(kind));
                }
                TaskLife::found(kind, event, &counted, at)
            }
            (Some((_, mut life)), EventType::TaskCreated) => {
                flaws.push(Flaw::CreatedTwice);
                life.last = at;
                life
            }
            (Some((_, mut life)), _) => {
                if !is_next {
                    life.lose_track();
                }
                // A step waits for those before it to succeed, any other task for their ends.
                let is_step = counted.saga_id.is_some();
                let may_start = |id: TaskId, awaited: u64| {
                    let (_, other) = self.tasks.get(&id)?;
                    let (state, is_over) = (other.state?, other.life? > awaited);
                    Some(state == TaskState::Completed || ((state.is_terminal() || is_over) && !is_step))
                };
                life.follow(kind, event, &counted, at, flaws, may_start);
                life
            }
        };
        self.follow_flow(kind, &counted, before, &mut life);
        if let Some(saga) = counted.saga_id.as_deref().and_then(|id| self.sagas.get_mut(id)) {
            saga.follow_task(kind, id, &counted, life.state, flaws);
        }
        self.tasks.insert(id, (event.seq(), life));
    }

    /// What an event of a task means for the workflow that it belongs to.
    fn follow_flow(&mut self, kind: EventType, counted: &Counted, before: Option<TaskState>, life: &mut TaskLife) {
        if kind == EventType::TaskCreated && life.flow.is_none() {
            let flow = counted
                .workflow_id
                .as_deref()
                .and_then(|id| self.flows.get_key_value(id));
            life.flow = flow.filter(|(_, flow)| !flow.is_over()).map(|(id, _)| Arc::clone(id));
            if life.flow.is_none() {
                self.labels.extend(counted.workflow_id.as_deref().map(hash));
            }
            if let Some(flow) = life.flow.as_ref().and_then(|id| self.flows.get_mut(id)) {
                flow.add();
            }
        } else if let Some(flow) = life.flow.as_ref().and_then(|id| self.flows.get_mut(id)) {
            flow.follow(before, life.state);
        }
    }

    /// What an event of a workflow means.
    fn read_flow(&mut self, kind: EventType, subject: &str, counted: &Counted, may_miss: bool, flaws: &mut Vec<Flaw>) {
        let told = Told {
            total: counted.total_tasks,
            counts: counted.counts.as_ref(),
        };
        let is_exact = self.holes.is_empty();
        let known = self.flows.get_mut(subject);
        match (kind, known) {
            (EventType::WorkflowStarted, None) => {
                let has_forerunners = self.labels.contains(&hash(subject));
                self.flows.insert(subject.into(), Flow::started(&told, has_forerunners));
            }
            (EventType::WorkflowStarted, Some(_)) => flaws.push(Flaw::ToldAgain(kind)),
            (EventType::WorkflowCompleted | EventType::WorkflowFailed | EventType::WorkflowCancelled, Some(flow)) => {
                flow.end(kind, &told, is_exact, flaws);
            }
            (EventType::WorkflowCompleted | EventType::WorkflowFailed | EventType::WorkflowCancelled, None)
                if !may_miss =>
            {
                flaws.push(Flaw::NotStarted(kind));
            }
            _ => {}
        }
    }

    /// Counts what an event says of how many workflows and sagas are under way.
    fn count_group(&mut self, kind: EventType) {
        let words = kind.as_str().strip_prefix("orchestration.");
        let Some((of, what)) = words.and_then(|words| words.split_once('.')) else {
            return;
        };
        let change = match (of, what) {
            ("workflow", "started") | ("saga", "started" | "resumed") => 1,
            ("workflow", "completed" | "failed" | "cancelled") | ("saga", "completed" | "compensated" | "failed") => -1,
            _ => return,
        };
        *self.groups.entry(of.to_owned()).or_default() += change;
        if change < 0 {
            *self.groups.entry(format!("{of} {what}")).or_default() += 1;
        }
    }

    /// What an event of a saga means.
    fn read_saga(&mut self, kind: EventType, subject: &str, counted: &Counted, may_miss: bool, flaws: &mut Vec<Flaw>) {
        match (kind, self.sagas.get_mut(subject)) {
            (EventType::SagaStarted, None) => {
                self.sagas.insert(subject.into(), SagaLife::started(counted));
            }
            (_, Some(saga)) => saga.follow(kind, counted, flaws),
            (_, None) if !may_miss => flaws.push(Flaw::SagaNotStarted(kind)),
            (_, None) => {}
        }
    }

    /// Workflows and sagas whose tasks have all ended and which have not. Both are written in one step, so this holds at every entry
    /// that ends a step.
    #[must_use]
    pub fn unended(&self) -> Vec<Violation> {
        if !self.holes.is_empty() {
            return Vec::new();
        }
        let stuck = self.flows.iter().filter(|(_, flow)| flow.is_stuck());
        let mut found: Vec<Violation> = stuck
            .map(|(id, _)| Violation {
                subject: id.to_string(),
                entry_id: None,
                flaw: Flaw::NotEnded,
            })
            .collect();
        let stuck = self.sagas.iter().filter(|(_, saga)| saga.is_stuck());
        found.extend(stuck.map(|(id, _)| Violation {
            subject: id.to_string(),
            entry_id: None,
            flaw: Flaw::SagaNotEnded,
        }));
        found.sort_unstable_by(|one, other| one.subject.cmp(&other.subject));
        found
    }

    fn read_other(&mut self, kind: Option<EventType>, event: &Event, at: EntryId, flaws: &mut Vec<Flaw>) {
        let subject = event.subject();
        let known = self.others.get(subject).copied();
        if self.count(known, event.seq(), at, flaws).is_none() {
            return;
        }
        let may_miss = self.may_miss(known.map(|(_, last)| last), at);
        self.others.insert(subject.into(), (event.seq(), at));
        let Some(kind) = kind else { return };
        if kind.as_str().starts_with("orchestration.task.") {
            flaws.push(Flaw::NoTask(kind));
            return;
        }
        self.count_group(kind);
        let counted = Counted::of(event);
        self.note(kind, &counted, at);
        if kind.as_str().starts_with("orchestration.saga.") {
            self.read_saga(kind, subject, &counted, may_miss, flaws);
        } else {
            self.read_flow(kind, subject, &counted, may_miss, flaws);
        }
        if kind == EventType::HistoryRolledBack {
            self.cuts.push(Cut {
                entry_id: event.entry_id.clone(),
                source_agent: event.source_agent.clone(),
                last_seen: counted.last_seen.unwrap_or_default(),
                now_at: counted.now_at.unwrap_or_default(),
            });
        }
    }

    /// What an event means for sums and dead letters.
    fn note(&mut self, kind: EventType, counted: &Counted, at: EntryId) {
        match kind {
            EventType::TaskStarted => self.started += 1,
            EventType::TaskCompleted => {
                self.duration_ms += counted.duration_ms.unwrap_or(0);
                self.end(TaskState::Completed);
            }
            EventType::TaskFailed => self.end(TaskState::Failed),
            EventType::TaskTimeout => self.end(TaskState::Timeout),
            EventType::TaskCancelled => self.end(TaskState::Cancelled),
            EventType::TaskDeadLettered | EventType::TriggerRejected | EventType::SagaStepLateSuccess => {
                if let Some(id) = counted.dead_letter_id.as_deref() {
                    let letter = Letter {
                        made: at,
                        is_gone: false,
                    };
                    self.letters.insert(id.into(), letter);
                }
            }
            EventType::TaskRequeued => self.lose_letter(counted.dead_letter_id.as_deref(), at),
            EventType::SagaResumed => {
                for id in &counted.dead_letter_ids {
                    self.lose_letter(Some(id), at);
                }
            }
            EventType::OperatorAction => {
                if matches!(counted.action.as_deref(), Some("discard" | "requeue")) {
                    self.lose_letter(counted.target.as_deref(), at);
                }
            }
            EventType::TaskCreated
            | EventType::TaskRetryScheduled
            | EventType::TaskReleased
            | EventType::CommandRefused
            | EventType::WorkflowStarted
            | EventType::WorkflowCompleted
            | EventType::WorkflowFailed
            | EventType::WorkflowCancelled
            | EventType::SagaStarted
            | EventType::SagaStepStarted
            | EventType::SagaStepCompleted
            | EventType::SagaStepFailed
            | EventType::SagaCompensating
            | EventType::SagaStepCompensated
            | EventType::SagaStepCompensationFailed
            | EventType::SagaCompleted
            | EventType::SagaCompensated
            | EventType::SagaFailed
            | EventType::WorkerPoolStatus
            | EventType::HistoryRolledBack
            | EventType::MetricsSnapshot => {}
        }
    }

    fn end(&mut self, state: TaskState) {
        *self.ends.entry(state).or_default() += 1;
    }

    fn lose_letter(&mut self, id: Option<&str>, at: EntryId) {
        let Some(id) = id else { return };
        let letter = self.letters.entry(id.into()).or_insert(Letter {
            made: at,
            is_gone: true,
        });
        letter.is_gone = true;
    }
}

fn at_end(id: TaskId, flaw: Flaw) -> Violation {
    Violation {
        subject: id.to_string(),
        entry_id: None,
        flaw,
    }
}

#[cfg(test)]
mod tests;
