//! Commands about tasks, workflows and sagas, and those among them that are about something not known yet.
//!
//! Two replicas may read a trigger and a command about its task in either order, so a command waits for a while for what
//! it is about to appear. What comes in is carried out many at a time; what waits is looked up many at a time and at fixed
//! intervals, so that a flood of commands about nothing does not slow down the others.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::agents;
use super::backoff::Waits;
use super::replica::Run;
use crate::domain::id::{Partition, TaskId};
use crate::domain::trigger::{
    SAGA_CANCEL, SagaCancel, TASK_CANCEL, TASK_HEARTBEAT, TASK_RESULT, TaskCancel, TaskHeartbeat, TaskResult,
    WORKFLOW_STOP, WorkflowStop,
};
use crate::store::StoreError;
use crate::store::agents::{Answer, Answered, Said};
use crate::store::cancels::{About, Cancel};
use crate::store::functions::Cancelled;
use crate::store::groups::{GroupKind, Stopped};

/// How often what waits is looked up.
pub(super) const REFERENCE_PAUSE: Duration = Duration::from_millis(250);
/// How many commands one round trip carries out.
const CANCEL_BATCH: usize = 128;
/// How many answers of agents one call takes; a result may be large.
const ANSWER_BATCH: usize = 16;
/// How many waiting commands one round trip looks up.
const LOOK_BATCH: usize = 1000;
/// How many may wait; beyond it the oldest have waited long enough.
const WAITING_MAX: usize = 10_000;

/// What a command asks for.
pub(super) enum Target {
    /// The end of a task.
    Cancel(TaskCancel),
    /// The end of a workflow.
    Workflow(WorkflowStop),
    /// The way back of a saga.
    Saga(SagaCancel),
    /// An agent's word that its attempt is over.
    Result(TaskResult),
    /// An agent's word that it is still at work.
    Heartbeat(TaskHeartbeat),
}

impl Target {
    /// The type of the event that asks for it.
    pub(super) const fn event_type(&self) -> &'static str {
        match self {
            Self::Cancel(_) => TASK_CANCEL,
            Self::Workflow(_) => WORKFLOW_STOP,
            Self::Saga(_) => SAGA_CANCEL,
            Self::Result(_) => TASK_RESULT,
            Self::Heartbeat(_) => TASK_HEARTBEAT,
        }
    }

    /// The field that names what it is about, and what that is.
    pub(super) const fn field(&self) -> (&'static str, &'static str) {
        match self {
            Self::Cancel(_) | Self::Result(_) | Self::Heartbeat(_) => ("task_id", "task"),
            Self::Workflow(_) => ("workflow_id", "workflow"),
            Self::Saga(_) => ("saga_id", "saga"),
        }
    }

    /// The caller's words.
    fn reason(&self) -> Option<&str> {
        match self {
            Self::Cancel(cancel) => cancel.reason.as_deref(),
            Self::Workflow(stop) => stop.reason.as_deref(),
            Self::Saga(cancel) => cancel.reason.as_deref(),
            Self::Result(_) | Self::Heartbeat(_) => None,
        }
    }

    /// The task or the group that it is about.
    const fn about(&self) -> About<'_> {
        match self {
            Self::Cancel(cancel) => About::Task(cancel.task_id),
            Self::Result(result) => About::Task(result.task_id),
            Self::Heartbeat(beat) => About::Task(beat.task_id),
            Self::Workflow(stop) => About::Group(&stop.workflow_id),
            Self::Saga(cancel) => About::Group(&cancel.saga_id),
        }
    }
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// It is done.
    Ok,
    /// What it is about had ended before.
    Terminal,
    /// What it is about does not exist (yet).
    Missing,
    /// The saga is behind its pivot.
    Passed,
    /// The attempt is no agent's, or not the current one.
    Stale,
    /// The attempt is another agent's.
    Other,
}

impl From<Cancelled> for Word {
    fn from(word: Cancelled) -> Self {
        match word {
            Cancelled::Ok => Self::Ok,
            Cancelled::Terminal => Self::Terminal,
            Cancelled::Missing => Self::Missing,
        }
    }
}

impl From<Answered> for Word {
    fn from(word: Answered) -> Self {
        match word {
            Answered::Ok | Answered::Retry | Answered::Duplicate | Answered::Early => Self::Ok,
            Answered::Stale => Self::Stale,
            Answered::Other => Self::Other,
            Answered::Terminal => Self::Terminal,
            Answered::Missing => Self::Missing,
        }
    }
}

impl From<Stopped> for Word {
    fn from(word: Stopped) -> Self {
        match word {
            Stopped::Ok => Self::Ok,
            Stopped::Terminal => Self::Terminal,
            Stopped::Missing => Self::Missing,
            Stopped::Passed => Self::Passed,
        }
    }
}

/// A command about something that exists, or will.
pub(super) struct Command {
    pub(super) since: Instant,
    pub(super) entry_id: String,
    /// Who asks, as the envelope says.
    pub(super) source_agent: String,
    pub(super) event_id: String,
    pub(super) correlation_id: String,
    pub(super) target: Target,
}

/// The commands about something that is not known yet, the oldest first.
pub(super) struct References {
    waiting: Vec<Command>,
    looked_at: Instant,
}

impl References {
    pub(super) fn new() -> Self {
        Self {
            waiting: Vec::new(),
            looked_at: Instant::now(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a command that came in this entry waits.
    pub(super) fn has(&self, entry_id: &str) -> bool {
        self.waiting.iter().any(|command| command.entry_id == entry_id)
    }

    /// Carries out new commands, and those that waited for something that is known by now. Answers each that has come to
    /// an end, with its end; `None` where Redis was away until the replica left.
    pub(super) async fn carry_out(&mut self, run: &Arc<Run>, commands: Vec<Command>) -> Option<Vec<(Command, Word)>> {
        let mut ended = Vec::new();
        let known: HashSet<String> = self.waiting.iter().map(|one| one.entry_id.clone()).collect();
        // What is read a second time and waits already goes on waiting.
        let mut tried: Vec<Command> = commands
            .into_iter()
            .filter(|one| !known.contains(&one.entry_id))
            .collect();
        if self.looked_at.elapsed() >= REFERENCE_PAUSE {
            tried.extend(self.appeared(run).await?);
            self.looked_at = Instant::now();
        }
        let mut missing = Vec::new();
        for (command, word) in carry_out_all(run, tried).await? {
            if word == Word::Missing {
                missing.push(command);
            } else {
                ended.push((command, word));
            }
        }
        self.waiting.append(&mut missing);
        self.waiting.sort_by_key(|command| command.since);
        let surplus = self.waiting.len().saturating_sub(WAITING_MAX);
        let overdue = self
            .waiting
            .partition_point(|command| command.since.elapsed() >= run.options.reference_wait);
        let given_up = self.waiting.drain(..overdue.max(surplus));
        ended.extend(given_up.map(|command| (command, Word::Missing)));
        Some(ended)
    }

    /// Takes out those about something that has appeared.
    async fn appeared(&mut self, run: &Run) -> Option<Vec<Command>> {
        let mut found = Vec::new();
        let mut rest = Vec::new();
        let mut waiting = std::mem::take(&mut self.waiting).into_iter();
        loop {
            let batch: Vec<Command> = waiting.by_ref().take(LOOK_BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let about: Vec<About<'_>> = batch.iter().map(|command| command.target.about()).collect();
            let known = until_done(run, "can not look for what is not known", || {
                run.store.are_known(&about)
            })
            .await;
            let Some(known) = known else {
                rest.extend(batch);
                rest.extend(waiting);
                self.waiting = rest;
                return None;
            };
            for (command, is_known) in batch.into_iter().zip(known) {
                if is_known { &mut found } else { &mut rest }.push(command);
            }
        }
        self.waiting = rest;
        Some(found)
    }
}

/// Carries out commands, each kind as many at a time as there may be.
async fn carry_out_all(run: &Run, commands: Vec<Command>) -> Option<Vec<(Command, Word)>> {
    let mut ended = Vec::new();
    let (mut cancels, mut answers) = (Vec::new(), Vec::new());
    for command in commands {
        let (kind, id) = match &command.target {
            Target::Cancel(_) => {
                cancels.push(command);
                continue;
            }
            Target::Result(_) | Target::Heartbeat(_) => {
                answers.push(command);
                continue;
            }
            Target::Workflow(stop) => (GroupKind::Workflow, &stop.workflow_id),
            Target::Saga(cancel) => (GroupKind::Saga, &cancel.saga_id),
        };
        let (cause, reason) = (Some(command.event_id.as_str()), command.target.reason());
        let word = until_done(run, "can not stop", || {
            run.store.stop(run.replica, kind, id, cause, reason)
        })
        .await?;
        ended.push((command, word.into()));
    }
    ended.extend(cancel_all(run, cancels).await?);
    ended.extend(answer_all(run, answers).await?);
    Some(ended)
}

/// What agents say of their attempts.
async fn answer_all(run: &Run, commands: Vec<Command>) -> Option<Vec<(Command, Word)>> {
    let partitions = run.store.partition_count();
    let mut by_partition: BTreeMap<Partition, Vec<(Command, Answer)>> = BTreeMap::new();
    let mut ended = Vec::new();
    for command in commands {
        let (task_id, attempt, said) = match &command.target {
            Target::Result(result) => {
                let outcome =
                    until_done(run, "can not look for a task", || agents::outcome(&run.store, result)).await?;
                (result.task_id, result.attempt, Said::Ended(outcome))
            }
            Target::Heartbeat(beat) => {
                let progress = beat.progress.as_ref().map(|progress| progress.get().to_owned());
                (beat.task_id, beat.attempt, Said::Beat(progress))
            }
            Target::Cancel(_) | Target::Workflow(_) | Target::Saga(_) => continue,
        };
        if task_id.partition().number() >= partitions {
            ended.push((command, Word::Missing));
            continue;
        }
        let answer = Answer {
            task_id,
            attempt,
            who: Some(command.source_agent.clone()),
            event_id: Some(command.event_id.clone()),
            entry_id: Some(command.entry_id.clone()),
            said,
        };
        by_partition
            .entry(task_id.partition())
            .or_default()
            .push((command, answer));
    }
    for (partition, mut rest) in by_partition {
        while !rest.is_empty() {
            let later = rest.split_off(rest.len().min(ANSWER_BATCH));
            let (commands, answers): (Vec<Command>, Vec<Answer>) =
                std::mem::replace(&mut rest, later).into_iter().unzip();
            let verdicts = until_done(run, "can not take what agents say", || {
                run.store.answer(partition, run.replica, &answers)
            })
            .await?;
            for (answer, verdict) in answers.iter().zip(&verdicts) {
                run.meters.answered(&answer.said, verdict);
            }
            if verdicts.iter().any(|verdict| verdict.word == Answered::Retry) {
                run.timers.ring(partition);
            }
            let words = verdicts.into_iter().map(|verdict| verdict.word.into());
            ended.extend(commands.into_iter().zip(words));
        }
    }
    Some(ended)
}

/// Cancels tasks, as many at a time as there may be.
async fn cancel_all(run: &Run, commands: Vec<Command>) -> Option<Vec<(Command, Word)>> {
    let partitions = run.store.partition_count();
    let mut by_partition: BTreeMap<Partition, Vec<(Command, TaskId)>> = BTreeMap::new();
    let mut ended = Vec::new();
    for command in commands {
        let Target::Cancel(cancel) = &command.target else {
            continue;
        };
        let task = cancel.task_id;
        if task.partition().number() < partitions {
            by_partition.entry(task.partition()).or_default().push((command, task));
        } else {
            ended.push((command, Word::Missing));
        }
    }
    for (partition, commands) in by_partition {
        let mut commands = commands.into_iter();
        loop {
            let batch: Vec<(Command, TaskId)> = commands.by_ref().take(CANCEL_BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let cancels: Vec<Cancel<'_>> = batch
                .iter()
                .map(|(command, task)| Cancel {
                    task: *task,
                    cause: &command.event_id,
                    message: command.target.reason(),
                })
                .collect();
            let words = until_done(run, "can not cancel", || {
                run.store.cancel_each(partition, run.replica, &cancels)
            });
            let words = words.await?;
            ended.extend(
                batch
                    .into_iter()
                    .zip(words)
                    .map(|((command, _), word)| (command, word.into())),
            );
        }
    }
    Some(ended)
}

/// Calls until it works; `None` when the replica has left.
async fn until_done<T, F>(run: &Run, what: &'static str, mut call: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut waits = Waits::new();
    loop {
        match call().await {
            Ok(value) => return Some(value),
            Err(error) => {
                run.report(&error, what);
                if !waits.pause(&run.left).await {
                    return None;
                }
            }
        }
    }
}
