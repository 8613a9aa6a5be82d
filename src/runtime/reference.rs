//! Commands about tasks, and those among them whose task is not known yet.
//!
//! Two replicas may read a trigger and a command about its task in either order, so a command waits for a while for its
//! task to appear. What comes in is carried out many at a time; what waits is looked up many at a time and at fixed
//! intervals, so that a flood of commands about nothing does not slow down the others.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::Waits;
use super::replica::Run;
use crate::domain::id::{Partition, TaskId};
use crate::domain::trigger::TaskCancel;
use crate::store::StoreError;
use crate::store::cancels::Cancel;
use crate::store::functions::Cancelled;

/// How often what waits is looked up.
pub(super) const REFERENCE_PAUSE: Duration = Duration::from_millis(250);
/// How many commands one round trip carries out.
const CANCEL_BATCH: usize = 128;
/// How many waiting commands one round trip looks up.
const LOOK_BATCH: usize = 1000;
/// How many may wait; beyond it the oldest have waited long enough.
const WAITING_MAX: usize = 10_000;

/// A command about a task.
pub(super) struct Command {
    pub(super) since: Instant,
    pub(super) entry_id: String,
    pub(super) event_id: String,
    pub(super) correlation_id: String,
    pub(super) cancel: TaskCancel,
}

/// The commands whose task is not known yet, the oldest first.
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

    /// Carries out new commands, and those that waited and whose task is known by now. Answers each that has come to
    /// an end, with its end; `None` where Redis was away until the replica left.
    pub(super) async fn carry_out(
        &mut self,
        run: &Arc<Run>,
        commands: Vec<Command>,
    ) -> Option<Vec<(Command, Cancelled)>> {
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
        for (command, word) in cancel_all(run, tried).await? {
            if word == Cancelled::Missing {
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
        ended.extend(given_up.map(|command| (command, Cancelled::Missing)));
        Some(ended)
    }

    /// Takes out those whose task has appeared.
    async fn appeared(&mut self, run: &Run) -> Option<Vec<Command>> {
        let mut found = Vec::new();
        let mut rest = Vec::new();
        let mut waiting = std::mem::take(&mut self.waiting).into_iter();
        loop {
            let batch: Vec<Command> = waiting.by_ref().take(LOOK_BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let tasks: Vec<TaskId> = batch.iter().map(|command| command.cancel.task_id).collect();
            let known = until_done(run, "can not look for tasks", || run.store.are_known(&tasks)).await;
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

/// Carries out commands, as many at a time as there may be.
async fn cancel_all(run: &Run, commands: Vec<Command>) -> Option<Vec<(Command, Cancelled)>> {
    let partitions = run.store.partition_count();
    let mut by_partition: std::collections::BTreeMap<Partition, Vec<Command>> = std::collections::BTreeMap::new();
    let mut ended = Vec::new();
    for command in commands {
        let home = command.cancel.task_id.partition();
        if home.number() < partitions {
            by_partition.entry(home).or_default().push(command);
        } else {
            ended.push((command, Cancelled::Missing));
        }
    }
    for (partition, commands) in by_partition {
        let mut commands = commands.into_iter();
        loop {
            let batch: Vec<Command> = commands.by_ref().take(CANCEL_BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let cancels: Vec<Cancel<'_>> = batch
                .iter()
                .map(|command| Cancel {
                    task: command.cancel.task_id,
                    cause: &command.event_id,
                    message: command.cancel.reason.as_deref(),
                })
                .collect();
            let words = until_done(run, "can not cancel", || {
                run.store.cancel_each(partition, run.replica, &cancels)
            });
            let words = words.await?;
            ended.extend(batch.into_iter().zip(words));
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
