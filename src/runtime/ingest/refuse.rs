//! What can not be accepted: kept, and answered with an event.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::warn;

use super::{Acting, Source, named};
use crate::domain::digest::sha256_hex;
use crate::domain::envelope::Refused;
use crate::domain::id::{Partition, TaskId};
use crate::domain::netstring::netstrings;
use crate::domain::rejection::{Reason, Rejection};
use crate::runtime::backoff::Waits;
use crate::runtime::meters::Taken;
use crate::runtime::reference::{Command, Target, Word};
use crate::store::functions::{Cut, Refusal};
use crate::store::groups::NewGroup;
use crate::store::inbound::Entry;
use crate::store::record::NewTask;

/// How many refused events one call keeps.
const REFUSE_BATCH: usize = 16;
/// How much of an entry that is too large is kept.
const ORIGINAL_BYTES_MAX: usize = 1 << 20;
/// How much of it then.
const ORIGINAL_BYTES_CUT: usize = 64 << 10;

/// Which refused events the log tells of: each, but of a flood only the first. All of them are events and most are kept.
#[derive(Default)]
pub(super) struct Telling {
    since: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Telling {
    /// How many are told one by one within a while.
    const TOLD_MAX: u32 = 20;
    /// How long that is.
    const WHILE: Duration = Duration::from_secs(10);

    /// Whether one more is told of; with how many were not, since it was said last.
    fn may_tell(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) >= Self::WHILE) {
            self.since = Some(now);
            self.told = 0;
        }
        if self.told == Self::TOLD_MAX {
            self.untold += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

impl Acting {
    /// Keeps what can not be accepted. Answers the entries that are done.
    pub(super) async fn refuse(&mut self, refusals: Vec<(String, Refusal)>) -> Vec<String> {
        let mut by_partition: BTreeMap<Partition, (Vec<String>, Vec<Refusal>)> = BTreeMap::new();
        for (entry_id, refusal) in refusals {
            if let Some(untold) = self.telling.may_tell(Instant::now()) {
                if untold > 0 {
                    warn!(events = untold, "more inbound events were refused than the log told of");
                }
                warn!(
                    event_id = refusal.event_id,
                    reason = refusal.reason.as_str(),
                    "an inbound event was refused"
                );
            }
            let home = Partition::of_name(&refusal.subject, self.run.store.partition_count());
            let (entries, list) = by_partition.entry(home).or_default();
            entries.push(entry_id);
            list.push(refusal);
        }
        let mut done = Vec::new();
        for (partition, (entries, list)) in by_partition {
            for (entries, list) in entries.chunks(REFUSE_BATCH).zip(list.chunks(REFUSE_BATCH)) {
                let mut waits = Waits::new();
                while let Err(error) = self.run.store.reject(partition, self.run.replica, list).await {
                    self.run.report(&error, "can not keep refused events");
                    if !waits.pause(&self.run.left).await {
                        return done;
                    }
                }
                self.run.progress.mark(self.source.name());
                for (entry, refusal) in entries.iter().zip(list) {
                    let taken = if refusal.is_command {
                        Taken::Refused
                    } else {
                        Taken::Rejected
                    };
                    self.took(taken, entry);
                }
                done.extend_from_slice(entries);
            }
        }
        done
    }

    pub(super) fn refusal(&self, entry: &Entry, refused: &Refused) -> (String, Refusal) {
        let is_command = match refused.event_type.as_deref() {
            Some(kind) if crate::domain::inbound::is_command(kind) => true,
            Some(kind) if crate::domain::inbound::is_trigger(kind) => false,
            _ => self.source == Source::Commands,
        };
        let fields = entry.borrowed();
        let mut rejection = Cow::Borrowed(&refused.rejection);
        // Only triggers are kept.
        let original = if is_command { Vec::new() } else { netstrings(&fields) };
        let mut cut = None;
        let original = if original.len() > ORIGINAL_BYTES_MAX {
            let digest = sha256_hex(&original);
            let message = format!(
                "the original of {} bytes with sha256 {digest} is kept cut to {ORIGINAL_BYTES_CUT} bytes",
                original.len()
            );
            rejection
                .to_mut()
                .problems
                .push(crate::domain::rejection::Problem { field: None, message });
            cut = Some(Cut {
                bytes: original.len(),
                sha256: digest,
            });
            original[..ORIGINAL_BYTES_CUT].to_vec()
        } else {
            original
        };
        let refusal = if is_command {
            let command = refused.event_type.as_deref().unwrap_or_default();
            let about = named::members(entry);
            let members = format!("\"command\":{}{about}", serde_json::json!(command));
            (entry.id.clone(), members)
        } else {
            self.trigger_members(&entry.id, &refused.event_id)
        };
        let (subject, members) = refusal;
        let refusal = Refusal {
            subject,
            is_command,
            event_id: refused.event_id.clone(),
            correlation_id: refused.correlation_id.clone(),
            reason: rejection.reason,
            errors: rejection.errors_json(),
            members,
            original,
            cut,
        };
        (entry.id.clone(), refusal)
    }

    pub(super) fn unknown_task(&self, entry: Entry, task: &NewTask) -> (String, Refusal) {
        let message = format!(
            "no replica has registered `{}` within the last hour",
            task.trigger.task_name
        );
        let rejection = Rejection::new(Reason::UnknownTask, Some("task_name"), message);
        self.refused_task(entry, task, &rejection)
    }

    pub(super) fn too_many_queues(&self, entry: Entry, task: &NewTask) -> (String, Refusal) {
        let message = format!("`{}` would be one queue more than there may be", task.queue);
        let rejection = Rejection::new(Reason::InvalidField, Some("queue"), message);
        self.refused_task(entry, task, &rejection)
    }

    /// A trigger that looked fine and that the functions refused.
    pub(super) fn refused_task(&self, entry: Entry, task: &NewTask, rejection: &Rejection) -> (String, Refusal) {
        self.refused_trigger(entry, &task.event_id, &task.correlation_id, rejection)
    }

    /// The same of a workflow or a saga.
    pub(super) fn refused_group(&self, entry: Entry, group: &NewGroup, rejection: &Rejection) -> (String, Refusal) {
        self.refused_trigger(entry, &group.event_id, &group.correlation_id, rejection)
    }

    fn refused_trigger(
        &self,
        entry: Entry,
        event_id: &str,
        correlation_id: &str,
        rejection: &Rejection,
    ) -> (String, Refusal) {
        let (subject, members) = self.trigger_members(&entry.id, event_id);
        let refusal = Refusal {
            subject,
            is_command: false,
            event_id: event_id.to_owned(),
            correlation_id: correlation_id.to_owned(),
            reason: rejection.reason,
            errors: rejection.errors_json(),
            members,
            original: netstrings(&entry.borrowed()),
            cut: None,
        };
        (entry.id, refusal)
    }

    /// The dead letter's id, derived from the entry so that a second delivery makes no second letter, and what the
    /// event says of it.
    fn trigger_members(&self, entry_id: &str, event_id: &str) -> (String, String) {
        let id = TaskId::derive("dead-letter", &format!("{}/{entry_id}", self.stream), None, None, 1).to_string();
        let members = format!(
            "\"trigger_event_id\":{},\"dead_letter_id\":\"{id}\"",
            serde_json::json!(event_id)
        );
        (id, members)
    }
}

/// Why a command was not carried out; `None` when it was.
pub(super) fn refused_command(command: &Command, word: Word) -> Option<(String, Refusal)> {
    let (field, what) = command.target.field();
    let (reason, message) = match word {
        Word::Ok => return None,
        Word::Terminal => (Reason::InvalidTransition, format!("the {what} has ended")),
        Word::Passed => (
            Reason::InvalidTransition,
            "the saga is behind its pivot: there is no way back".to_owned(),
        ),
        Word::Missing => (Reason::NotFound, format!("there is no such {what}")),
        Word::Stale => (
            Reason::StaleAttempt,
            "the attempt is not under way, or no agent holds it".to_owned(),
        ),
        Word::Other => (Reason::StaleAttempt, "the attempt is another agent's".to_owned()),
    };
    let event_type = command.target.event_type();
    let about = match &command.target {
        Target::Cancel(cancel) => cancel.task_id.to_string(),
        Target::Workflow(stop) => stop.workflow_id.to_string(),
        Target::Saga(cancel) => cancel.saga_id.to_string(),
        Target::Result(result) => result.task_id.to_string(),
        Target::Heartbeat(beat) => beat.task_id.to_string(),
    };
    let field_named = match word {
        Word::Stale => "attempt",
        Word::Other => "source_agent",
        Word::Ok | Word::Terminal | Word::Passed | Word::Missing => field,
    };
    let refusal = Refusal {
        subject: command.entry_id.clone(),
        is_command: true,
        event_id: command.event_id.clone(),
        correlation_id: command.correlation_id.clone(),
        reason,
        errors: Rejection::new(reason, Some(field_named), message).errors_json(),
        members: format!("\"command\":\"{event_type}\",\"{field}\":\"{about}\""),
        // Only triggers are kept.
        original: Vec::new(),
        cut: None,
    };
    Some((command.entry_id.clone(), refusal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_flood_of_refused_events_the_log_tells_the_first_and_how_many_more_there_were() {
        let start = Instant::now();
        let mut telling = Telling::default();

        let told = (0..500).filter(|_| telling.may_tell(start).is_some()).count();

        assert_eq!(told, 20);
        assert_eq!(telling.may_tell(start + Telling::WHILE), Some(480));
        assert_eq!(telling.may_tell(start + Telling::WHILE), Some(0));
    }
}
