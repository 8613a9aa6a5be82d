//! Turns inbound events into tasks, workflows and sagas, and commands into deeds.
//!
//! One loop a stream, so that a command never waits behind triggers. An event is acted upon first and acknowledged
//! then; ids derived from the event make acting twice harmless. What can not be accepted is kept as a dead letter and
//! answered with an event; nothing stops the reader.

mod named;
mod refuse;
mod start;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::debug;

use super::backoff::Waits;
use super::defaults::Origin;
use super::meters::Taken;
use super::reference::{Command, REFERENCE_PAUSE, References, Target};
use super::replica::Run;
use super::request::{key_taken, unresolved, workflow_ended};
use super::spans::{self, Ingested};
use crate::domain::envelope::{Envelope, Refused};
use crate::domain::id::Partition;
use crate::domain::rejection::{Reason, Rejection};
use crate::domain::trigger::{Inbound, Start, interpret};
use crate::store::StoreError;
use crate::store::functions::{Asker, Created, Refusal};
use crate::store::groups::NewGroup;
use crate::store::inbound::{Entry, entry_numbers};
use crate::store::record::NewTask;

/// How many entries are read at once.
const READ_BATCH: usize = 128;
/// How long an idle reader waits before it asks again: readiness counts on it to get through much more often than it may
/// be deaf.
const READ_WAIT: Duration = Duration::from_secs(1);
/// How many bytes one answer should have at most.
const READ_BYTES: usize = 4 << 20;
/// How many bytes of triggers one call makes tasks of, so that no call keeps Redis for long.
const CREATE_BYTES: usize = 1 << 20;
/// How many dependencies the triggers have of which one call makes tasks, where each has fewer.
const CREATE_EDGES: usize = 500;
/// How long to wait for room in a full queue before asking again; room made by this replica wakes earlier.
const FULL_PAUSE: Duration = Duration::from_millis(10);
/// The fewest triggers that are tried at once while the queue is full.
const FULL_BATCH: usize = 8;
/// How long to wait for older triggers that another replica holds before trying all the same.
const TURN_PATIENCE: Duration = Duration::from_millis(1500);

/// Which of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Triggers,
    Commands,
}

impl Source {
    /// Its place among the flags that ask for a second reading.
    const fn index(self) -> usize {
        match self {
            Self::Triggers => 0,
            Self::Commands => 1,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Triggers => "triggers",
            Self::Commands => "commands",
        }
    }

    fn stream(self, run: &Run) -> String {
        match self {
            Self::Triggers => run.store.keys().triggers(),
            Self::Commands => run.store.keys().commands(),
        }
    }
}

/// Reads ahead: one batch waits while another is acted upon.
pub(super) async fn read(run: Arc<Run>, source: Source, batches: mpsc::Sender<Vec<Entry>>) {
    let stream = source.stream(&run);
    let mut reader = run.store.blocking(READ_WAIT);
    let mut waits = Waits::new();
    let mut after = None;
    let mut count = READ_BATCH;
    loop {
        if run.reread[source.index()].swap(false, Ordering::AcqRel) {
            after = Some("0".to_owned());
        }
        let read = async {
            match &after {
                Some(after) => run.store.reread_inbound(&stream, run.replica, after, count).await,
                None => run.store.read_inbound(&mut reader, &stream, run.replica, count).await,
            }
        };
        let entries = tokio::select! {
            biased;
            () = run.stop.cancelled() => return,
            entries = read => entries,
        };
        match entries {
            Ok(entries) => {
                waits.reset();
                run.progress.mark(source.name());
                // Large entries are read in fewer at once, so that an answer arrives within its deadline.
                let bytes: usize = entries.iter().map(Entry::bytes).sum();
                count = if bytes > READ_BYTES {
                    (count / 4).max(1)
                } else {
                    (count * 2).min(READ_BATCH)
                };
                if let Some(reached) = &mut after {
                    match entries.last() {
                        Some(last) => last.id.clone_into(reached),
                        None => after = None,
                    }
                }
                if !entries.is_empty() && batches.send(entries).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                run.report(&error, "can not read inbound events");
                count = (count / 4).max(1);
                // An answer that got lost may have delivered entries to this replica's name.
                run.reread[source.index()].store(true, Ordering::Release);
                if !waits.pause(&run.stop).await {
                    return;
                }
            }
        }
    }
}

/// Acts on what was read, until the reader ends.
pub(super) async fn act(run: Arc<Run>, source: Source, mut batches: mpsc::Receiver<Vec<Entry>>) {
    let mut acting = Acting {
        stream: source.stream(&run),
        source,
        run,
        references: References::new(),
        backlog: Vec::new(),
        orphans: Vec::new(),
        began: Instant::now(),
        held_up: Duration::ZERO,
        connection: None,
        telling: refuse::Telling::default(),
    };
    let mut quiet_since = Instant::now();
    loop {
        // What waits for older triggers looks for its turn as often as any.
        let pause = if acting.backlog.is_empty() {
            REFERENCE_PAUSE
        } else {
            FULL_PAUSE
        };
        let batch = if acting.references.is_empty() && acting.orphans.is_empty() && acting.backlog.is_empty() {
            batches.recv().await
        } else {
            match tokio::time::timeout(pause, batches.recv()).await {
                Ok(batch) => {
                    quiet_since = Instant::now();
                    batch
                }
                Err(_) => Some(Vec::new()),
            }
        };
        if quiet_since.elapsed() > TURN_PATIENCE && !acting.backlog.is_empty() {
            // Nothing older was read: look at all that is pending under the own name.
            acting.run.reread[source.index()].store(true, Ordering::Release);
            quiet_since = Instant::now();
        }
        let Some(batch) = batch else { return };
        let batch = acting.in_order(batch);
        acting.handle(batch).await;
    }
}

struct Acting {
    run: Arc<Run>,
    source: Source,
    stream: String,
    references: References,
    /// Tasks that depend on something not known yet, with when it was first missed by the time that passes here.
    orphans: Vec<(Duration, Entry, NewTask)>,
    /// When it began to act.
    began: Instant,
    /// How much of the time since it waited for room. What a task depends on may stand behind it in the stream, and is not
    /// read until then; so this time does not count.
    held_up: Duration,
    /// Triggers that wait for older ones to be read.
    backlog: Vec<Entry>,
    /// The connection since before what is not acknowledged yet was acted upon.
    connection: Option<u64>,
    /// Which refused events the log has told of.
    telling: refuse::Telling,
}

/// What a batch asks for.
#[derive(Default)]
struct Plan {
    /// By partition: what is to be made, in the order of the stream, since a task may name a workflow before it.
    wishes: BTreeMap<Partition, Vec<Wish>>,
    commands: Vec<Command>,
    refusals: Vec<(String, Refusal)>,
    /// Tasks that depend on something unknown, of this name.
    unresolved: Vec<(Entry, NewTask, String)>,
    done: Vec<String>,
}

/// What is to be made.
enum Wish {
    /// The entries, and the task that each asks for.
    Tasks(Vec<Entry>, Vec<NewTask>),
    /// A workflow or a saga.
    Group(Entry, Box<NewGroup>),
}

impl Plan {
    fn wish_task(&mut self, entry: Entry, task: NewTask) {
        let wishes = self.wishes.entry(task.id.partition()).or_default();
        if let Some(Wish::Tasks(entries, tasks)) = wishes.last_mut() {
            entries.push(entry);
            tasks.push(task);
        } else {
            wishes.push(Wish::Tasks(vec![entry], vec![task]));
        }
    }

    fn wish_group(&mut self, entry: Entry, group: NewGroup) {
        let wishes = self.wishes.entry(group.identity.partition()).or_default();
        wishes.push(Wish::Group(entry, Box::new(group)));
    }
}

impl Acting {
    /// What waits for older ones and what was just read, by age; each once.
    fn in_order(&mut self, batch: Vec<Entry>) -> Vec<Entry> {
        if self.backlog.is_empty() {
            return batch;
        }
        let mut entries = std::mem::take(&mut self.backlog);
        entries.extend(batch);
        entries.sort_by_key(|entry| entry_numbers(&entry.id));
        entries.dedup_by(|one, other| one.id == other.id);
        entries
    }

    async fn handle(&mut self, entries: Vec<Entry>) {
        if !self.connect().await {
            return;
        }
        let mut plan = Plan::default();
        for entry in entries {
            self.plan(entry, &mut plan);
        }
        let mut done = std::mem::take(&mut plan.done);
        // First, since making tasks may wait long for room.
        done.extend(self.refuse(std::mem::take(&mut plan.refusals)).await);
        self.inherit(&mut plan).await;
        for (partition, wishes) in std::mem::take(&mut plan.wishes) {
            let rest = self.make(partition, wishes, &mut plan, &mut done).await;
            self.backlog.extend(rest);
        }
        self.adopt(&mut plan, &mut done).await;
        done.extend(self.command(&mut plan).await);
        done.extend(self.refuse(std::mem::take(&mut plan.refusals)).await);
        self.acknowledge(&mut done).await;
    }

    /// Notes the connection before anything is acted upon; `false` when the replica leaves before there is one.
    async fn connect(&mut self) -> bool {
        let mut waits = Waits::new();
        loop {
            match self.run.store.connection_number().await {
                Ok(number) => {
                    self.connection = Some(number);
                    return true;
                }
                Err(error) => self.run.report(&error, "can not act upon inbound events"),
            }
            if !waits.pause(&self.run.left).await {
                return false;
            }
        }
    }

    /// Takes entries that were acted upon off their stream.
    ///
    /// Acting and acknowledging must go over one connection: across a break Redis may have lost power, and then it knows
    /// the entries and nothing of what came of them. They are read and acted upon again then, which does no harm.
    async fn acknowledge(&mut self, done: &mut Vec<String>) {
        let acknowledged = match self.connection {
            Some(connection) => self.run.store.acknowledge(&self.stream, done, connection).await,
            None => Ok(()),
        };
        done.clear();
        if let Err(error) = acknowledged {
            self.run.report(&error, "can not acknowledge");
            self.run.reread[self.source.index()].store(true, Ordering::Release);
            self.connect().await;
        }
    }

    fn plan(&self, entry: Entry, plan: &mut Plan) {
        if entry.fields.is_empty() {
            // Deleted while it was pending; nothing is left to act upon.
            plan.done.push(entry.id);
            return;
        }
        if self.orphans.iter().any(|(_, orphan, _)| orphan.id == entry.id) {
            // Read a second time; it waits already.
            return;
        }
        let fields = entry.borrowed();
        let envelope = match Envelope::decode(&entry.id, &fields) {
            Ok(envelope) => envelope,
            Err(refused) => {
                plan.refusals.push(self.refusal(&entry, &refused));
                return;
            }
        };
        let inbound = match interpret(&envelope) {
            Ok(inbound) => inbound,
            Err(rejection) => {
                let refused = Refused {
                    event_type: Some(envelope.event_type.to_string()),
                    source_agent: Some(envelope.source_agent.to_string()),
                    event_id: envelope.event_id.to_string(),
                    correlation_id: correlation(&envelope).to_owned(),
                    rejection,
                };
                plan.refusals.push(self.refusal(&entry, &refused));
                return;
            }
        };
        // An entry id names an event only within its stream.
        let source_agent = if self.source == Source::Commands && envelope.event_id == entry.id.as_str() {
            Cow::Owned(format!("{}\u{1f}commands", envelope.source_agent))
        } else {
            Cow::Borrowed(envelope.source_agent.as_ref())
        };
        let origin = Origin {
            source_agent: &source_agent,
            event_id: &envelope.event_id,
            correlation_id: envelope.correlation_id.as_deref(),
            trace: envelope
                .traceparent
                .as_deref()
                .map(|parent| (parent, envelope.tracestate.as_deref())),
        };
        let (defaults, partitions) = (&self.run.defaults, self.run.store.partition_count());
        let target = match inbound {
            Inbound::Task(trigger) => {
                let task = defaults.task(*trigger, &origin, partitions);
                return plan.wish_task(entry, task);
            }
            Inbound::Workflow(trigger) => {
                let group = defaults.workflow(*trigger, &origin, partitions);
                return plan.wish_group(entry, group);
            }
            Inbound::Saga(trigger) => {
                let group = defaults.saga(*trigger, &origin, partitions);
                return plan.wish_group(entry, group);
            }
            Inbound::Cancel(cancel) => Target::Cancel(cancel),
            Inbound::WorkflowStop(stop) => Target::Workflow(stop),
            Inbound::SagaCancel(cancel) => Target::Saga(cancel),
            Inbound::Result(result) => Target::Result(result),
            Inbound::Heartbeat(beat) => Target::Heartbeat(beat),
        };
        plan.commands.push(Command {
            since: Instant::now(),
            event_id: envelope.event_id.to_string(),
            correlation_id: correlation(&envelope).to_owned(),
            target,
            entry_id: entry.id.clone(),
            source_agent: envelope.source_agent.to_string(),
        });
    }

    /// Makes what is wished for in one partition, in order. Answers what waits for older triggers to be read.
    async fn make(
        &mut self,
        partition: Partition,
        wishes: Vec<Wish>,
        plan: &mut Plan,
        done: &mut Vec<String>,
    ) -> Vec<Entry> {
        let mut rest = Vec::new();
        for wish in wishes {
            match wish {
                // What comes behind one that waits waits with it.
                Wish::Tasks(entries, _) if !rest.is_empty() => rest.extend(entries),
                Wish::Group(entry, _) if !rest.is_empty() => rest.push(entry),
                Wish::Tasks(entries, tasks) => rest = self.create(partition, entries, tasks, plan, done).await,
                Wish::Group(entry, group) => rest.extend(self.start(partition, entry, &group, plan, done).await),
            }
            if self.run.left.is_cancelled() {
                // What is left in the stream is taken over by others.
                return Vec::new();
            }
        }
        rest
    }

    /// Makes the tasks; while the queue is full it waits, and so does everything behind it in the stream. Answers what
    /// waits for older triggers to be read.
    async fn create(
        &mut self,
        partition: Partition,
        mut entries: Vec<Entry>,
        mut tasks: Vec<NewTask>,
        plan: &mut Plan,
        done: &mut Vec<String>,
    ) -> Vec<Entry> {
        let run = Arc::clone(&self.run);
        let mut waits = Waits::new();
        let mut asker = Asker::Stream;
        let mut batch = tasks.len();
        while !tasks.is_empty() {
            batch = batch
                .clamp(FULL_BATCH, READ_BATCH)
                .min(within(entries.iter().map(Entry::bytes), CREATE_BYTES))
                .min(within(
                    tasks.iter().map(|task| task.trigger.dependencies.len()),
                    CREATE_EDGES,
                ));
            let appetite = run.spare_appetite();
            let offered = appetite.slots.clone();
            let tried = &tasks[..batch];
            match run.store.create(partition, run.replica, asker, &appetite, tried).await {
                Ok((words, claimed)) => {
                    waits.reset();
                    run.progress.mark(self.source.name());
                    run.start_all(offered, claimed);
                    let must_wait = |word: &Created| matches!(word, Created::Full | Created::MemoryShort);
                    let admitted = words.iter().take_while(|word| !must_wait(word)).count();
                    let (rest_of_entries, rest_of_tasks) = (entries.split_off(admitted), tasks.split_off(admitted));
                    let (mut entries_again, mut tasks_again) = (Vec::new(), Vec::new());
                    for ((entry, mut task), word) in entries.into_iter().zip(tasks).zip(words) {
                        match word {
                            Created::Ok => {
                                if task.trigger.start != Start::Now {
                                    run.timers.ring(partition);
                                }
                                self.took(Taken::Accepted, &entry.id);
                                spans::ingested(|| Ingested::task(&task), entry_numbers(&entry.id).0);
                                done.push(entry.id);
                            }
                            Created::Duplicate => {
                                debug!(task_id = %task.id, "a repeated trigger created nothing");
                                self.took(Taken::Duplicate, &entry.id);
                                done.push(entry.id);
                            }
                            Created::Unknown => plan.refusals.push(self.unknown_task(entry, &task)),
                            Created::Unresolved(name) => plan.unresolved.push((entry, task, name)),
                            Created::KeyTaken => plan.refusals.push(self.refused_task(
                                entry,
                                &task,
                                &Rejection::new(Reason::DuplicateKey, Some("key"), key_taken(&task)),
                            )),
                            // Nobody named the workflow, so its end is no reason to refuse.
                            Created::Ended if task.leave_default_workflow() => {
                                entries_again.push(entry);
                                tasks_again.push(task);
                            }
                            Created::Ended => plan.refusals.push(self.refused_task(
                                entry,
                                &task,
                                &Rejection::new(Reason::InvalidField, Some("workflow_id"), workflow_ended(&task)),
                            )),
                            Created::TooManyQueues => plan.refusals.push(self.too_many_queues(entry, &task)),
                            // Split off above: from the first one on, all are.
                            Created::Full | Created::MemoryShort => {}
                        }
                    }
                    entries_again.extend(rest_of_entries);
                    tasks_again.extend(rest_of_tasks);
                    (entries, tasks) = (entries_again, tasks_again);
                    let is_full = admitted < batch;
                    // About as many as there was room for, so that most of what is sent is admitted.
                    batch = if is_full { admitted * 2 } else { READ_BATCH };
                    if is_full {
                        match self.turn(&entries[0].id, done).await {
                            Some(next) => asker = next,
                            None => return entries,
                        }
                    }
                }
                Err(StoreError::OutOfMemory) => {
                    run.slots.give_back(offered);
                    run.report(&StoreError::OutOfMemory, "can not create tasks");
                    match self.turn(&entries[0].id, done).await {
                        Some(next) => asker = next,
                        None => return entries,
                    }
                }
                Err(error) => {
                    run.slots.give_back(offered);
                    run.report(&error, "can not create tasks");
                    if !waits.pause(&run.left).await {
                        return Vec::new();
                    }
                }
            }
        }
        Vec::new()
    }

    /// Tries again what depended on something unknown, and gives up what did so for too long.
    async fn adopt(&mut self, plan: &mut Plan, done: &mut Vec<String>) {
        let is_new = !plan.unresolved.is_empty();
        let mut first_missed: HashMap<String, Duration> = HashMap::new();
        let mut again: BTreeMap<Partition, (Vec<Entry>, Vec<NewTask>)> = BTreeMap::new();
        for (since, entry, task) in self.orphans.drain(..) {
            first_missed.insert(entry.id.clone(), since);
            let (entries, tasks) = again.entry(task.id.partition()).or_default();
            entries.push(entry);
            tasks.push(task);
        }
        for (partition, (entries, tasks)) in again {
            let rest = self.create(partition, entries, tasks, plan, done).await;
            self.backlog.extend(rest);
        }
        for (entry, task, name) in std::mem::take(&mut plan.unresolved) {
            let now = self.time();
            let since = first_missed.get(&entry.id).copied().unwrap_or(now);
            if now.saturating_sub(since) < self.run.options.reference_wait {
                self.orphans.push((since, entry, task));
            } else {
                let message = unresolved(&name, &task);
                let rejection = Rejection::new(Reason::InvalidDependency, Some("dependencies"), message);
                plan.refusals.push(self.refused_task(entry, &task, &rejection));
            }
        }
        if is_new {
            debug!(
                tasks = self.orphans.len(),
                "tasks wait for what they depend on to appear"
            );
        }
    }

    /// Counts what became of an entry.
    fn took(&self, taken: Taken, entry_id: &str) {
        let (meters, stream) = (&self.run.meters, self.source.index());
        meters.took(stream, taken, 1);
        meters.ingested(stream, entry_numbers(entry_id).0);
    }

    /// How long it has acted, without the time for which it waited for room.
    fn time(&self) -> Duration {
        self.began.elapsed().saturating_sub(self.held_up)
    }

    /// Waits for room, see [`Self::wait_for_turn`].
    async fn turn(&mut self, next: &str, done: &mut Vec<String>) -> Option<Asker> {
        let began = Instant::now();
        let asker = self.wait_for_turn(next, done).await;
        self.held_up += began.elapsed();
        asker
    }

    /// Waits for room in a full queue for what comes from the entry `next` on. Older triggers that another replica holds
    /// go first; should it have died with them, this one goes on after a while. `None` when the replica stops, or when
    /// older triggers came back and must be read before these.
    async fn wait_for_turn(&mut self, next: &str, done: &mut Vec<String>) -> Option<Asker> {
        // What is done must not look as if it still waited.
        self.acknowledge(done).await;
        let run = &self.run;
        let began = Instant::now();
        loop {
            tokio::select! {
                () = run.stop.cancelled() => return None,
                () = run.room.notified() => {}
                () = tokio::time::sleep(FULL_PAUSE) => {}
            }
            let front = match run.store.inbound_front(&self.stream).await {
                Ok(front) => front,
                Err(error) => {
                    run.report(&error, "can not see whose turn it is");
                    continue;
                }
            };
            run.progress.mark(self.source.name());
            let next = entry_numbers(next);
            if entry_numbers(&front.delivered) < next {
                // Older ones were given back by a replica that left.
                return None;
            }
            let Some((oldest, owner)) = front.oldest else {
                return Some(Asker::StreamInTurn);
            };
            if owner == run.replica.as_str() {
                // Inherited from a replica that died, or given back by one that left and read meanwhile.
                let is_unread = entry_numbers(&oldest) < next && !self.waits(&oldest);
                return (!is_unread).then_some(Asker::StreamInTurn);
            }
            if began.elapsed() > TURN_PATIENCE {
                return Some(Asker::Stream);
            }
        }
    }

    /// Whether what came in this entry waits for something to appear.
    fn waits(&self, entry_id: &str) -> bool {
        self.references.has(entry_id) || self.orphans.iter().any(|(_, entry, _)| entry.id == entry_id)
    }

    /// Carries out commands, and those that waited for what they are about. Answers the entries that are done.
    async fn command(&mut self, plan: &mut Plan) -> Vec<String> {
        let commands = std::mem::take(&mut plan.commands);
        let Some(ended) = self.references.carry_out(&self.run, commands).await else {
            return Vec::new();
        };
        let mut done = Vec::new();
        for (command, word) in ended {
            if let Some(refusal) = refuse::refused_command(&command, word) {
                plan.refusals.push(refusal);
            } else {
                self.took(Taken::Accepted, &command.entry_id);
                done.push(command.entry_id);
            }
        }
        done
    }
}

fn correlation<'a>(envelope: &'a Envelope<'_>) -> &'a str {
    envelope.correlation_id.as_deref().unwrap_or(&envelope.event_id)
}

/// How many from the first on are at most so much together; at least one.
fn within(sizes: impl Iterator<Item = usize>, most: usize) -> usize {
    let mut sum = 0;
    let fitting = sizes.take_while(|size| {
        sum += size;
        sum <= most
    });
    fitting.count().max(1)
}

/// Whether calling again can help; the loops end the run when it can not.
pub(super) fn is_final(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Schema { .. } | StoreError::Partitions { .. } | StoreError::NoFunctions
    )
}
