//! Proves the guarantees from the log and the store, while the system works.
//!
//! The log is folded event by event. Then the records are looked at in batches, and each look tells at which entry of the
//! log it was taken: the fold is moved to just that entry and must say the same of each task. So nothing is seen between
//! two states, and no suspicion has to be asked about again. Where tasks stand (entries, pending lists, timers) the
//! functions compare on the spot. Counters come last, again at one entry.
//!
//! Memory grows with the tasks that the log tells of (about 150 bytes each), not with its events.

mod groups;
mod report;
mod timeline;

use std::collections::{HashMap, HashSet};

use crate::domain::event::EntryId;
use crate::domain::history::{Beginning, GROUP_COUNTS, Guarantee, History, TaskLife};
use crate::domain::id::{Partition, TaskId};
use crate::domain::priority::Priority;
use crate::domain::state::TaskState;
use crate::store::audit::{Facts, Look, Misplaced, Question, Row, Stored, Walk};
use crate::store::{Store, StoreError};
use report::Findings;
pub use report::{Finding, InMotion, NotCovered, Report, Verdict};
pub use timeline::{Step, Timeline, task_events, timeline};

/// How many events are read at once.
const EVENTS: usize = 1000;
/// How many tasks one look asks for: some 5 us of Redis each.
const TASKS: usize = 200;
/// How many entries one step of a walk looks at.
const ENTRIES: usize = 200;
/// How often an audit begins again because history went back under it.
const TRIES: usize = 3;
/// For how long dead letters are kept where nobody said: 30 days.
const LETTERS_MS: i64 = 2_592_000_000;
/// The time of a dead letter and that of its event are read one after the other.
const SLACK_MS: i64 = 1000;
/// The states in which a life of a task ends; each has a counter.
const ENDS: [TaskState; 4] = [
    TaskState::Completed,
    TaskState::Failed,
    TaskState::Timeout,
    TaskState::Cancelled,
];

/// What is audited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything that the log has, and the store.
    Everything,
    /// The store alone, with the events that are written meanwhile: what was counted long ago is not counted anew.
    Store,
}

/// How far an audit is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// What is looked at.
    pub stage: &'static str,
    /// How much of it was looked at.
    pub done: u64,
}

/// What a repair can act on.
#[derive(Debug, Default)]
pub(crate) struct Repairable {
    /// Tasks that stand nowhere, or not where they say.
    pub(crate) tasks: Vec<TaskId>,
    /// Walks that met something that belongs to no task.
    pub(crate) walks: Vec<Walk>,
    /// What must be added to counters, with how often they had been mended when this was found.
    pub(crate) counters: Vec<(String, i64)>,
    pub(crate) mends: i64,
}

/// An audit of one partition.
pub(crate) struct PartitionAudit {
    pub(crate) partition: Partition,
    pub(crate) repairable: Repairable,
}

/// Audits a system; `progress` is told of every step.
///
/// # Errors
///
/// Any [`StoreError`]; [`StoreError::NotConnected`] also when Redis lost its last moments again and again meanwhile.
pub async fn verify(
    store: &Store,
    scope: Scope,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Report, StoreError> {
    Ok(audit(store, scope, progress).await?.0)
}

/// As [`verify`], with what can be mended.
pub(crate) async fn audit(
    store: &Store,
    scope: Scope,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(Report, Vec<PartitionAudit>), StoreError> {
    let mut report = Report::default();
    let mut findings = Findings::default();
    let mut audits = Vec::new();
    for partition in store.partitions() {
        let mut found = None;
        for _ in 0..TRIES {
            found = Auditor::new(store, partition, scope, progress).run().await?;
            if found.is_some() {
                break;
            }
        }
        let auditor = found.ok_or_else(|| {
            StoreError::NotConnected("the log lost its last moments again and again while it was read".to_owned())
        })?;
        audits.push(auditor.finish(&mut report, &mut findings));
    }
    let keys = store.keys();
    report.in_motion.triggers = unread(store, &keys.triggers()).await?;
    report.in_motion.commands = unread(store, &keys.commands()).await?;
    findings.finish(&mut report);
    Ok((report, audits))
}

/// How many entries of an inbound stream are not acted upon: those held, and those that nobody was given yet.
async fn unread(store: &Store, stream: &str) -> Result<u64, StoreError> {
    let waiting = store.undelivered(stream).await?;
    let held = store.inbound_holders(stream).await?.unwrap_or_default();
    Ok(waiting + held.iter().map(|(_, count)| count).sum::<u64>())
}

/// History went back while it was read.
struct WentBack;

struct Auditor<'a> {
    store: &'a Store,
    partition: Partition,
    scope: Scope,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
    history: History,
    facts: Facts,
    /// Tasks whose record was looked at.
    seen: HashSet<TaskId>,
    /// What the records say of tasks that the events that were read do not.
    silent: HashMap<TaskId, (TaskState, Priority)>,
    staged: u64,
    records: u64,
    found: Vec<Finding>,
    repairable: Repairable,
}

impl<'a> Auditor<'a> {
    fn new(
        store: &'a Store,
        partition: Partition,
        scope: Scope,
        progress: &'a (dyn Fn(Progress) + Send + Sync),
    ) -> Self {
        Self {
            store,
            partition,
            scope,
            progress,
            history: History::default(),
            facts: Facts::default(),
            seen: HashSet::new(),
            silent: HashMap::new(),
            staged: 0,
            records: 0,
            found: Vec::new(),
            repairable: Repairable::default(),
        }
    }

    /// Audits once; `None` when history went back meanwhile.
    async fn run(mut self) -> Result<Option<Self>, StoreError> {
        let outcome = self.steps().await?;
        Ok(outcome.is_ok().then_some(self))
    }

    async fn steps(&mut self) -> Result<Result<(), WentBack>, StoreError> {
        let look = match self.store.inspect(self.partition, Question::default()).await {
            Ok(look) => look,
            Err(StoreError::NotJoined) => {
                self.without_keys().await?;
                return Ok(Ok(()));
            }
            Err(error) => return Err(error),
        };
        self.history = match self.scope {
            Scope::Everything if look.facts.trimmed_to().is_none() => History::default(),
            Scope::Everything => History::behind(EntryId::default(), Beginning::Cut),
            Scope::Store => History::behind(look.last, Beginning::Cut),
        };
        self.facts = look.facts;
        self.read_to(look.last).await?;
        if self.compare_records().await?.is_err() {
            return Ok(Err(WentBack));
        }
        self.walk_streams().await?;
        if self.compare_letters().await?.is_err() || self.compare_counters().await?.is_err() {
            return Ok(Err(WentBack));
        }
        // Where the log tells of all of them, that is compared.
        if self.scope == Scope::Store && self.compare_groups().await?.is_err() {
            return Ok(Err(WentBack));
        }
        let mut flaws: Vec<Finding> = self.history.take_violations().into_iter().map(Finding::from).collect();
        flaws.extend(self.history.unburied().into_iter().map(Finding::from));
        flaws.extend(self.history.unended().into_iter().map(Finding::from));
        flaws.append(&mut self.found);
        self.found = flaws;
        Ok(Ok(()))
    }

    /// Nobody ever joined, or what a partition knows of itself is gone.
    async fn without_keys(&mut self) -> Result<(), StoreError> {
        let last = self.store.last_event_id(self.partition).await?;
        if last != "0-0" {
            let message = "the partition has a log, and what it knows of itself is gone";
            self.found.push(Finding::new(Guarantee::StoredState, "meta", message));
        }
        Ok(())
    }

    fn tell(&self, stage: &'static str, done: u64) {
        (self.progress)(Progress { stage, done });
    }

    /// Reads the log up to an entry.
    async fn read_to(&mut self, upto: EntryId) -> Result<(), StoreError> {
        while self.history.position() < upto {
            let part = self
                .store
                .log_part(self.partition, self.history.position(), Some(upto), EVENTS)
                .await?;
            if let Some(trimmed) = part.trimmed_to {
                let first = part.events.first().and_then(|event| event.entry_id.parse().ok());
                self.history.skip_to(trimmed.min(first.map_or(upto, before)));
            }
            for event in &part.events {
                self.history.read(event);
            }
            for entry_id in &part.strangers {
                self.history.read_stranger(entry_id);
            }
            self.history.advance(part.last.unwrap_or(upto));
            self.tell("events", self.history.size().0);
        }
        Ok(())
    }

    /// Looks, and reads the log up to the moment of the look.
    async fn look(&mut self, mut question: Question<'_>) -> Result<Result<Look, WentBack>, StoreError> {
        question.position = Some(self.history.position());
        let look = match self.store.inspect(self.partition, question).await {
            Ok(look) => look,
            Err(StoreError::NotJoined) => return Ok(Err(WentBack)),
            Err(error) => return Err(error),
        };
        if !look.stands || look.last < self.history.position() {
            return Ok(Err(WentBack));
        }
        self.read_to(look.last).await?;
        self.facts = look.facts.clone();
        Ok(Ok(look))
    }

    /// Compares every record with the events, and every task of the log with its record.
    async fn compare_records(&mut self) -> Result<Result<(), WentBack>, StoreError> {
        let mut cursor = "0".to_owned();
        loop {
            let (next, ids) = self.store.scan_tasks(self.partition, &cursor).await?;
            if self.compare(ids).await?.is_err() {
                return Ok(Err(WentBack));
            }
            if next == "0" {
                break;
            }
            cursor = next;
        }
        let unseen: Vec<TaskId> = self
            .history
            .tasks()
            .map(|(id, _)| id)
            .filter(|id| !self.seen.contains(id))
            .collect();
        self.compare(unseen).await
    }

    async fn compare(&mut self, mut ids: Vec<TaskId>) -> Result<Result<(), WentBack>, StoreError> {
        ids.retain(|id| self.seen.insert(*id));
        for batch in ids.chunks(TASKS) {
            let question = Question {
                tasks: batch,
                ..Question::default()
            };
            let Ok(look) = self.look(question).await? else {
                return Ok(Err(WentBack));
            };
            for (id, stored) in batch.iter().zip(&look.tasks) {
                self.compare_one(*id, stored.as_ref());
            }
            self.tell("tasks", self.seen.len() as u64);
        }
        Ok(Ok(()))
    }

    fn compare_one(&mut self, id: TaskId, stored: Option<&Stored>) {
        let known = self.history.task(id).map(|(seq, life)| (seq, life.clone()));
        let Some(stored) = stored else {
            if let Some((seq, life)) = known
                && !self.is_forgotten(&life)
            {
                let message = format!("there is no record of it; its last event is number {seq}");
                self.found.push(Finding::new(Guarantee::StoredState, &id, message));
            }
            return;
        };
        self.records += 1;
        if stored.is_staged {
            self.staged += 1;
            return;
        }
        self.compare_place(id, stored);
        let Some((seq, life)) = known else {
            if self.history.is_whole() {
                let message = format!("it is {} and no event tells that it was created", stored.state);
                self.found.push(Finding::new(Guarantee::OncePerTrigger, &id, message));
            }
            self.silent.insert(id, (stored.state, stored.priority));
            return;
        };
        if life.priority.is_none() {
            self.silent.insert(id, (stored.state, stored.priority));
        }
        let mut differs = |what: &str, log: &dyn std::fmt::Display, store: &dyn std::fmt::Display| {
            let message = format!("{what} is {log} by its events and {store} in its record");
            self.found.push(Finding::new(Guarantee::StoredState, &id, message));
        };
        if stored.seq != seq {
            differs("its last number", &seq, &stored.seq);
        }
        if let Some(state) = life.state
            && state != stored.state
        {
            differs("its state", &state, &stored.state);
        }
        if life.state.is_some() && life.attempt != u64::from(stored.attempt) {
            differs("its attempt", &life.attempt, &stored.attempt);
        }
        if let Some(retries) = life.retries
            && retries != stored.retry_count
        {
            differs("its retry count", &retries, &stored.retry_count);
        }
        if let Some(priority) = life.priority
            && priority != stored.priority
        {
            differs("its priority", &priority, &stored.priority);
        }
        let used = life.started.saturating_sub(life.released);
        if used > stored.max_retries.saturating_add(1) && !stored.is_excepted {
            let message = format!(
                "{} attempts were started and {} handed back, with {} retries",
                life.started, life.released, stored.max_retries
            );
            self.found.push(Finding::new(Guarantee::RetryBudget, &id, message));
        }
    }

    /// Whether the record of a task may be gone: its last event was trimmed, and the record goes with that.
    fn is_forgotten(&self, life: &TaskLife) -> bool {
        life.state.is_none_or(TaskState::is_terminal) && self.facts.trimmed_to().is_some_and(|upto| life.last <= upto)
    }

    fn compare_place(&mut self, id: TaskId, stored: &Stored) {
        let Some((word, detail)) = &stored.problem else { return };
        let (guarantee, message) = misplacement(stored, *word, detail);
        self.found.push(Finding::new(guarantee, &id, message));
        self.repairable.tasks.push(id);
    }

    /// Walks over what tasks stand in: nothing else may stand there.
    async fn walk_streams(&mut self) -> Result<(), StoreError> {
        let mut walks = Vec::new();
        for stream in self.store.task_streams(self.partition).await? {
            walks.push(Walk::Entries(stream.clone()));
            walks.push(Walk::Pending(stream));
        }
        walks.extend([Walk::Timers, Walk::Limits]);
        // What comes while the walk lasts is not waited for.
        let end_ms = self.facts.number("now_ms");
        let mut looked = 0;
        for walk in walks {
            let mut cursor = String::new();
            loop {
                let part = self.store.survey(self.partition, &walk, &cursor, ENTRIES).await?;
                looked += part.looked;
                for row in &part.rows {
                    self.stray(&walk, row);
                }
                self.tell("entries", looked);
                cursor = part.next;
                let is_over = match &walk {
                    Walk::Entries(_) | Walk::Pending(_) => cursor
                        .parse::<EntryId>()
                        .is_ok_and(|at| i64::try_from(at.ms).unwrap_or(i64::MAX) > end_ms),
                    Walk::Timers | Walk::Limits | Walk::Letters => false,
                };
                if cursor.is_empty() || is_over {
                    break;
                }
            }
        }
        Ok(())
    }

    fn stray(&mut self, walk: &Walk, row: &Row) {
        let is_tolerated = *walk == Walk::Timers
            && ["went_back_ms", "back_ms", "shift_by_ms"]
                .iter()
                .any(|name| self.facts.has(name));
        if is_tolerated {
            // Timers that were under way while a clock went back end when they are due.
            return;
        }
        let finding = match walk {
            Walk::Entries(stream) => {
                let message = match (&*row.word, &*row.detail) {
                    ("unknown", _) => format!("an entry of `{stream}` names no task that exists"),
                    (_, "elsewhere") => format!("an entry of `{stream}` in which the task does not stand"),
                    (_, state) => format!("an entry of `{stream}` although the task is {state}"),
                };
                Finding::new(Guarantee::Places, subject(row), message).at(&row.place)
            }
            Walk::Pending(stream) => {
                let message = match &*row.word {
                    "no_entry" => format!("{} holds an entry of `{stream}` that is not there", row.detail),
                    "other_owner" => format!(
                        "its entry of `{stream}` is held by another than its owner {}",
                        row.detail
                    ),
                    "not_running" => format!("its entry of `{stream}` is held although it is {}", row.detail),
                    _ => format!("an entry of `{stream}` is held in which no task runs"),
                };
                Finding::new(Guarantee::Owners, subject(row), message).at(&row.place)
            }
            Walk::Timers => {
                let message = if row.word == "unknown" {
                    "a timer of a task that does not exist".to_owned()
                } else {
                    format!("a timer although the task is {} and not delayed", row.detail)
                };
                Finding::new(Guarantee::Places, subject(row), message)
            }
            Walk::Limits => {
                let state = if row.detail == "unknown" {
                    "does not exist"
                } else {
                    &row.detail
                };
                let message = format!("it counts as running for the limit of its name, and is {state}");
                Finding::new(Guarantee::Counters, subject(row), message)
            }
            Walk::Letters => {
                let message = "it is listed and its copy is gone";
                Finding::new(Guarantee::DeadLetters, &row.place, message)
            }
        };
        self.found.push(finding);
        if !self.repairable.walks.contains(walk) {
            self.repairable.walks.push(walk.clone());
        }
    }

    /// Compares the dead letters with the events, in both directions.
    async fn compare_letters(&mut self) -> Result<Result<(), WentBack>, StoreError> {
        let mut cursor = String::new();
        let mut looked = 0;
        loop {
            let part = self
                .store
                .survey(self.partition, &Walk::Letters, &cursor, ENTRIES)
                .await?;
            if part.last < self.history.position() {
                return Ok(Err(WentBack));
            }
            self.read_to(part.last).await?;
            looked += part.looked;
            for row in &part.rows {
                if row.word != "ok" {
                    self.stray(&Walk::Letters, row);
                } else if self.history.letter(&row.place).is_none() && self.is_told(&row.task) {
                    let message = "no event tells that it was made";
                    self.found
                        .push(Finding::new(Guarantee::DeadLetters, &row.place, message));
                }
            }
            self.tell("dead letters", looked);
            cursor = part.next;
            if cursor.is_empty() {
                break;
            }
        }
        let told: Vec<String> = self
            .history
            .letters()
            .filter(|(_, letter)| !letter.is_gone)
            .map(|(id, _)| id.to_owned())
            .collect();
        for batch in told.chunks(TASKS) {
            let question = Question {
                letters: batch,
                ..Question::default()
            };
            let Ok(look) = self.look(question).await? else {
                return Ok(Err(WentBack));
            };
            for (id, is_there) in batch.iter().zip(&look.letters) {
                let letter = self.history.letter(id).filter(|letter| !letter.is_gone && !is_there);
                if let Some(letter) = letter
                    && !self.is_expired(letter.made)
                {
                    let message = "it is gone, and no event tells that it was requeued or discarded";
                    self.found.push(Finding::new(Guarantee::DeadLetters, id, message));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Whether the log must tell of what was made at this moment, in ms.
    fn is_told(&self, made_ms: &str) -> bool {
        let made_ms: i64 = made_ms.parse().unwrap_or_default();
        match self.scope {
            Scope::Store => false,
            Scope::Everything => self
                .facts
                .trimmed_to()
                .is_none_or(|upto| made_ms > i64::try_from(upto.ms).unwrap_or(i64::MAX).saturating_add(SLACK_MS)),
        }
    }

    fn is_expired(&self, made: EntryId) -> bool {
        let kept_ms = match self.facts.number("kept_letters_ms") {
            0 => LETTERS_MS,
            kept_ms => kept_ms,
        };
        let made_ms = i64::try_from(made.ms).unwrap_or(i64::MAX);
        made_ms.saturating_add(kept_ms) <= self.facts.number("now_ms").saturating_add(SLACK_MS)
    }

    /// Counts anew, at one entry of the log, and compares with the counters of that moment.
    async fn compare_counters(&mut self) -> Result<Result<(), WentBack>, StoreError> {
        let question = Question {
            measure: true,
            ..Question::default()
        };
        let Ok(look) = self.look(question).await? else {
            return Ok(Err(WentBack));
        };
        let facts = look.facts;
        let mut counted: HashMap<String, i64> = HashMap::new();
        let mut count = |state: TaskState, priority: Option<Priority>| {
            let name = if state == TaskState::Pending {
                format!("p{}", priority.unwrap_or_default().rank())
            } else {
                counter_of(state)
            };
            *counted.entry(name).or_default() += 1;
        };
        for (id, life) in self.history.tasks() {
            let stored = self.silent.get(&id);
            let told = life.state.filter(|state| !state.is_terminal());
            let kept = stored.filter(|_| life.state.is_none()).map(|(state, _)| *state);
            if let Some(state) = told.or(kept) {
                count(state, life.priority.or(stored.map(|(_, priority)| *priority)));
            }
        }
        for (id, (state, priority)) in &self.silent {
            if self.history.task(*id).is_none() {
                count(*state, Some(*priority));
            }
        }
        // Ends are counted over all lives of a task, so by the log where it tells of the task.
        for state in ENDS {
            let ends = i64::try_from(self.history.ends(state)).unwrap_or(i64::MAX);
            *counted.entry(counter_of(state)).or_default() += ends;
        }
        let number = |name: &str| counted.get(name).copied().unwrap_or_default();
        let mut wrong = |name: &str, is: i64, due: i64, bound: &str| {
            let message = format!("is {is}, and counting anew gives {bound}{due}");
            self.found.push(Finding::new(Guarantee::Counters, name, message));
            self.repairable.counters.push((name.to_owned(), due - is));
        };
        for name in ["p0", "p1", "p2", "p3", "running"] {
            if facts.number(name) != number(name) {
                wrong(name, facts.number(name), number(name), "");
            }
        }
        if facts.number("parked") != facts.number("measured_parked") {
            wrong("parked", facts.number("parked"), facts.number("measured_parked"), "");
        }
        if facts.number("handing") != facts.number("measured_handing") {
            wrong("handing", facts.number("handing"), facts.number("measured_handing"), "");
        }
        if facts.number("backlog") != facts.number("measured_backlog") {
            wrong("backlog", facts.number("backlog"), facts.number("measured_backlog"), "");
        }
        let is_all_told = facts.number("measured_staging") == 0 && facts.number("measured_backlog") == 0;
        if is_all_told && facts.number("opening") != 0 {
            wrong("opening", facts.number("opening"), 0, "");
        }
        if self.scope == Scope::Everything {
            let (started, duration_ms) = self.history.work();
            let sum = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            let ends = ENDS.map(counter_of).map(|name| (number(&name), name));
            let sums = [
                (sum(started), "served".to_owned()),
                (sum(duration_ms), "duration_ms".to_owned()),
            ];
            for (due, name) in ends.into_iter().chain(sums) {
                let is = facts.number(&name);
                // What was trimmed was counted too.
                if self.history.is_whole() && is != due {
                    wrong(&name, is, due, "");
                } else if is < due {
                    wrong(&name, is, due, "at least ");
                }
            }
            for name in GROUP_COUNTS {
                let (is, due) = (facts.number(&format!("groups {name}")), self.history.groups(name));
                if self.history.is_whole() && is != due {
                    wrong(name, is, due, "");
                } else if name.contains(' ') && is < due {
                    wrong(name, is, due, "at least ");
                }
            }
            let removed = facts.number("log_added") - facts.number("trimmed_events") - facts.number("log_length");
            if facts.has("log_added") && removed != 0 {
                let message = format!("{removed} entries were removed without a word");
                self.found.push(Finding::new(Guarantee::Sequence, "log", message));
            }
        }
        self.repairable.mends = facts.number("mends");
        self.facts = facts;
        Ok(Ok(()))
    }

    /// Adds what was found to the whole.
    fn finish(self, report: &mut Report, findings: &mut Findings) -> PartitionAudit {
        let (events, subjects) = self.history.size();
        report.events += events;
        report.subjects += subjects;
        report.records += self.records;
        for (state, count) in self.history.states() {
            *report.tasks.entry(state).or_default() += count;
        }
        report.upto.push(self.history.position().to_string());
        report.cuts.extend_from_slice(self.history.cuts());
        let count = |name: &str| u64::try_from(self.facts.number(name)).unwrap_or_default();
        report.in_motion.pending += count("p0") + count("p1") + count("p2") + count("p3");
        report.in_motion.running += count("running");
        report.in_motion.follow_ups += self.staged + count("measured_backlog");
        if let Some(upto) = self.facts.trimmed_to() {
            report.not_covered.push(NotCovered {
                partition: self.partition.number(),
                trimmed_to: upto.to_string(),
                events: count("trimmed_events"),
                tasks: count("trimmed_tasks"),
            });
        }
        for finding in self.found {
            findings.add(finding);
        }
        PartitionAudit {
            partition: self.partition,
            repairable: self.repairable,
        }
    }
}

/// The name of a state's counter.
fn counter_of(state: TaskState) -> String {
    state.as_str().to_lowercase()
}

/// The entry just before another.
const fn before(entry: EntryId) -> EntryId {
    if entry.number > 0 {
        EntryId {
            ms: entry.ms,
            number: entry.number - 1,
        }
    } else {
        EntryId {
            ms: entry.ms.saturating_sub(1),
            number: u64::MAX,
        }
    }
}

fn subject(row: &Row) -> &str {
    if row.task.is_empty() { &row.place } else { &row.task }
}

/// What it means that a task does not stand where its record says.
fn misplacement(stored: &Stored, word: Misplaced, detail: &str) -> (Guarantee, String) {
    let is_running = stored.state == TaskState::Running;
    match word {
        Misplaced::NoEntry if is_running => (
            Guarantee::Owners,
            format!("it runs for {} and its entry is gone from `{detail}`", stored.owner),
        ),
        Misplaced::NoEntry => (
            Guarantee::Places,
            format!("it waits and its entry is gone from `{detail}`"),
        ),
        Misplaced::Unlisted => (
            Guarantee::Places,
            format!("it waits where nobody looks: `{detail}` is not listed"),
        ),
        Misplaced::NoGroup => (Guarantee::Places, format!("it waits in `{detail}`, which has no group")),
        Misplaced::Held => (Guarantee::Owners, format!("it waits and {detail} holds its entry")),
        Misplaced::Passed => (
            Guarantee::Places,
            format!("it waits in `{detail}` behind what was given out, so nobody is given it"),
        ),
        Misplaced::NoTimer if is_running => (
            Guarantee::Places,
            format!("it runs for {} and no timer looks after it", stored.owner),
        ),
        Misplaced::NoTimer => (Guarantee::Places, "it is delayed and has no timer".to_owned()),
        Misplaced::Unblocked => (
            Guarantee::Dependencies,
            "it is blocked and depends on nothing that is open".to_owned(),
        ),
        Misplaced::ReleasedLate => (
            Guarantee::Dependencies,
            format!("it waits for `{detail}`, which has ended"),
        ),
        Misplaced::Miscounted => (
            Guarantee::Dependencies,
            format!("it waits for {detail} tasks and counts another number"),
        ),
        Misplaced::Unheld => (
            Guarantee::Owners,
            format!("it runs for {} and nobody holds its entry of `{detail}`", stored.owner),
        ),
        Misplaced::OtherHolder => (
            Guarantee::Owners,
            format!("it runs for {} and {detail} holds its entry", stored.owner),
        ),
        Misplaced::Uncounted => (
            Guarantee::Counters,
            format!("it runs and does not count for the limit of `{detail}`"),
        ),
    }
}
