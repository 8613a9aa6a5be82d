//! Workflows and sagas that a trigger asks for, and the priorities that tasks take from others.

use std::sync::Arc;

use tracing::debug;

use super::{Acting, Plan, Wish};
use crate::domain::id::Partition;
use crate::domain::rejection::{Reason, Rejection};
use crate::domain::trigger::Start;
use crate::runtime::backoff::Waits;
use crate::runtime::group::{taken, taken_key, too_many_queues, unknown_names};
use crate::runtime::inherit::inherit;
use crate::runtime::meters::Taken;
use crate::runtime::spans::{self, Ingested};
use crate::store::StoreError;
use crate::store::functions::Asker;
use crate::store::groups::{NewGroup, Staged};
use crate::store::inbound::{Entry, entry_numbers};

impl Acting {
    /// Gives tasks without a priority that of their parent or workflow.
    pub(super) async fn inherit(&self, plan: &mut Plan) {
        let mut waits = Waits::new();
        loop {
            let wishes = plan.wishes.values_mut().flatten();
            let tasks = wishes.flat_map(|wish| match wish {
                Wish::Tasks(_, tasks) => Vec::from_iter(tasks),
                Wish::Group(_, group) => group.members.iter_mut().map(|member| &mut member.task).collect(),
            });
            match inherit(&self.run.store, tasks).await {
                Ok(()) => return,
                Err(error) => self.run.report(&error, "can not look for priorities"),
            }
            if !waits.pause(&self.run.left).await {
                return;
            }
        }
    }

    /// Makes a workflow or a saga; while the queue is full it waits, and so does everything behind it in the stream.
    /// Answers it when older triggers are to be read before it.
    pub(super) async fn start(
        &mut self,
        partition: Partition,
        entry: Entry,
        group: &NewGroup,
        plan: &mut Plan,
        done: &mut Vec<String>,
    ) -> Option<Entry> {
        let run = Arc::clone(&self.run);
        let mut waits = Waits::new();
        let mut asker = Asker::Stream;
        loop {
            let appetite = run.spare_appetite();
            let offered = appetite.slots.clone();
            let must_wait = match run.store.stage(run.replica, asker, &appetite, group).await {
                Ok((staged, claimed)) => {
                    waits.reset();
                    run.progress.mark(self.source.name());
                    run.start_all(offered, claimed);
                    let rejection = match staged {
                        Staged::Ok => {
                            if group.members.iter().any(|one| one.task.trigger.start != Start::Now) {
                                run.timers.ring(partition);
                            }
                            self.took(Taken::Accepted, &entry.id);
                            spans::ingested(|| Ingested::group(group), entry_numbers(&entry.id).0);
                            done.push(entry.id);
                            return None;
                        }
                        Staged::Duplicate => {
                            debug!(id = %group.id, "a repeated trigger created nothing");
                            self.took(Taken::Duplicate, &entry.id);
                            done.push(entry.id);
                            return None;
                        }
                        Staged::Full => None,
                        Staged::Taken => Some(taken(group)),
                        Staged::KeyTaken(key) => Some(taken_key(group, &key)),
                        Staged::Unknown(name) => {
                            let (field, message) = unknown_names(group, &name);
                            Some(Rejection::new(Reason::UnknownTask, Some(&field), message))
                        }
                        Staged::TooManyQueues => Some(too_many_queues()),
                    };
                    if let Some(rejection) = rejection {
                        plan.refusals.push(self.refused_group(entry, group, &rejection));
                        return None;
                    }
                    true
                }
                Err(StoreError::OutOfMemory) => {
                    run.slots.give_back(offered);
                    run.report(&StoreError::OutOfMemory, "can not start a workflow or a saga");
                    true
                }
                Err(error) => {
                    run.slots.give_back(offered);
                    run.report(&error, "can not start a workflow or a saga");
                    if !waits.pause(&run.left).await {
                        return None;
                    }
                    false
                }
            };
            if must_wait {
                match self.turn(&entry.id, done).await {
                    Some(next) => asker = next,
                    None => return Some(entry),
                }
            }
        }
    }
}
