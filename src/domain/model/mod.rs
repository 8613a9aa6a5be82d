//! The state machine of one partition, as plain as it can be written: what every function of the library does.
//!
//! The functions in Redis are built for speed; this is built to be read, and to be the oracle that they are held to:
//! a property test applies the same calls to both and compares answer, state and events after each. Whether a task may
//! move is asked of [`TaskState::after`] alone. Time is an argument, nothing is kept twice: every counter is counted
//! anew, the timers are the delayed tasks. A batch is the same as its items one after the other.
//!
//! Leaves out what has no say in a task's fate: payloads, reports of replicas, rejected triggers, bells.

mod agent;
mod attempt;
mod lane;
mod letter;
mod operator;
pub mod saga;
mod take;
mod trim;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use agent::{Desk, Loan, Notice, Reading, Route};
pub use attempt::LOSSES_MAX;
pub use lane::{Entry, Home, Lane, LaneKey};
pub use letter::Letter;
pub use take::{LOOKS_BESIDE, LOOKS_PER_SLOT, RESCUE_EVERY};
pub use trim::TELL_MS;

use take::Wish;
pub use words::{Appetite, Fact, ModelEvent, NewTask, Op, Outcome, Reply, Said, Saying, Settlement, Started, Word};

use super::event::EventType;
use super::id::{Name, QueueName, ReplicaId, TaskId};
use super::priority::Priority;
use super::state::{TaskMove, TaskState};
use super::trigger::Start;

/// How long a task name is known after a replica last registered it.
pub const NAME_MEMORY_MS: i64 = 3_600_000;

/// A task as the model knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Which handler runs it.
    pub name: Name,
    /// The queue that it returns to.
    pub queue: QueueName,
    /// How urgent it is.
    pub priority: Priority,
    /// Where it is in its life.
    pub state: TaskState,
    /// Where it waits, or last waited.
    pub place: Place,
    /// How many attempts were started; the fencing token.
    pub attempt: u32,
    /// How many retries were used.
    pub retries: u32,
    /// How many may be used.
    pub max_retries: u32,
    /// How often in a row its owner fell silent.
    pub losses: u8,
    /// The number of its last event.
    pub seq: u32,
    /// Who has or had its last attempt.
    pub owner: Option<Owner>,
    /// The agent that it is for.
    pub route: Option<Route>,
    /// How long an attempt may take, where that was said.
    pub timeout_ms: Option<i64>,
    /// The entry that it waits or runs in; any other entry with its id is a stranger's.
    pub entry: u64,
    /// The command that cancelled it.
    pub cancelled_by: Option<String>,
    /// Which of its lives it is in.
    pub life: u32,
    /// By the last attempt of each life that failed and was followed by another: that other.
    pub revivals: BTreeMap<u32, u32>,
}

/// Who has an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A slot of a replica.
    Worker(ReplicaId, u16),
    /// An agent.
    Agent(Name),
}

impl Owner {
    /// The replica, where it is one's.
    #[must_use]
    pub const fn replica(&self) -> Option<ReplicaId> {
        match self {
            Self::Worker(replica, _) => Some(*replica),
            Self::Agent(_) => None,
        }
    }
}

impl fmt::Display for Owner {
    /// As events name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker(replica, slot) => write!(f, "{replica}/{slot}"),
            Self::Agent(agent) => write!(f, "agent:{agent}"),
        }
    }
}

/// Where a pending task waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In its queue.
    Queued,
    /// With its like, until a replica asks that has their handler, or there is room under a limit.
    Parked,
    /// For its agent, to be handed over.
    Desk,
    /// For its time.
    Delayed {
        /// When it is due.
        due_ms: i64,
    },
}

/// A replica that joined.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replica {
    /// Its last beat.
    pub beat: u64,
    /// How many workers it last reported.
    pub workers: u16,
    /// The names of the tasks that it can run.
    pub names: BTreeSet<Name>,
    /// The names that it registered and does not claim for now, since their target does not answer.
    pub paused: BTreeSet<Name>,
    /// The names of the tasks that it knows an agent for.
    pub assigns: BTreeSet<Name>,
    /// How many tasks of a name may run at a time, as far as its configuration says.
    pub limits: BTreeMap<Name, u64>,
    /// The number of its last event.
    pub seq: u32,
}

/// One partition.
#[derive(Debug, Clone)]
pub struct Model {
    tasks: BTreeMap<TaskId, Task>,
    lanes: BTreeMap<LaneKey, Lane>,
    replicas: BTreeMap<ReplicaId, Replica>,
    queues: BTreeSet<QueueName>,
    /// Task names by when a replica last registered them.
    names: BTreeMap<Name, i64>,
    max_size: u64,
    max_running: u64,
    /// Whether an operator has set the one and the other.
    is_size_set: bool,
    is_running_set: bool,
    /// The queues that nothing is handed out of.
    paused: BTreeSet<QueueName>,
    served: u64,
    entries: u64,
    kept: trim::Kept,
    /// The dead letters, by task and last attempt.
    letters: BTreeMap<(TaskId, u32), Letter>,
    /// How many tasks came back from an end, by the state in which that had left them.
    revived: BTreeMap<TaskState, u64>,
    /// How many events operators caused that are no replicas.
    operators: BTreeMap<ReplicaId, u32>,
    /// The names of tasks that agents carry out.
    agent_names: BTreeMap<Name, Route>,
    desks: BTreeMap<TaskId, Desk>,
    inboxes: BTreeMap<Name, Vec<Notice>>,
    /// Whether the next look at the timers comes after a time in which nobody looked.
    is_asleep: bool,
    /// When silence can have begun at the earliest.
    awake_ms: i64,
    /// For how long nobody looked, as far as it is noted.
    asleep_ms: i64,
    gap_ms: i64,
}

/// One call under way: who makes it, when, and what it appended to the log.
struct Turn {
    by: ReplicaId,
    now_ms: i64,
    events: Vec<ModelEvent>,
    /// The names that were at their limit when it began.
    full: BTreeSet<Name>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            tasks: BTreeMap::new(),
            lanes: BTreeMap::new(),
            replicas: BTreeMap::new(),
            queues: BTreeSet::new(),
            names: BTreeMap::new(),
            max_size: 1000,
            max_running: 0,
            is_size_set: false,
            is_running_set: false,
            paused: BTreeSet::new(),
            served: 0,
            entries: 0,
            kept: trim::Kept::default(),
            letters: BTreeMap::new(),
            revived: BTreeMap::new(),
            operators: BTreeMap::new(),
            agent_names: BTreeMap::new(),
            desks: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            is_asleep: true,
            awake_ms: 0,
            asleep_ms: 0,
            gap_ms: 0,
        }
    }
}

impl Model {
    /// Does what `by` asks at `now_ms`; the answer, and the events in order.
    pub fn apply(&mut self, by: ReplicaId, op: &Op, now_ms: i64) -> (Reply, Vec<ModelEvent>) {
        let names = self.tasks_with_limit().into_keys();
        let mut turn = Turn {
            by,
            now_ms,
            events: Vec::new(),
            full: names.filter(|name| self.room(name) == Some(0)).collect(),
        };
        let reply = match op {
            Op::Join { .. } => self.join(&mut turn, op),
            Op::Create {
                check_names,
                tasks,
                appetite,
            } => {
                let words = self.create(&mut turn, *check_names, tasks);
                Reply::Words(words, self.take(&mut turn, &Wish::beside(appetite)))
            }
            Op::Claim(appetite) => Reply::Words(Vec::new(), self.take(&mut turn, &Wish::alone(appetite))),
            Op::Settle { settlements, appetite } => {
                let words = settlements.iter().map(|one| self.settle(&mut turn, one)).collect();
                Reply::Words(words, self.take(&mut turn, &Wish::beside(appetite)))
            }
            Op::Cancel { cause, tasks } => {
                let words = tasks.iter().map(|id| self.cancel(&mut turn, cause.as_ref(), *id));
                let words = words.collect();
                self.hand_over(&mut turn, false);
                Reply::Words(words, Vec::new())
            }
            Op::Promote { limit } => self.promote(&mut turn, *limit),
            Op::Answer(sayings) => {
                let words = sayings.iter().map(|saying| self.answer(&mut turn, saying)).collect();
                self.hand_over(&mut turn, false);
                Reply::Words(words, Vec::new())
            }
            Op::Lend(loan) => self.lend(&mut turn, loan),
            Op::Read {
                agent,
                process,
                count,
                again,
                acknowledges,
            } => Reply::Read(self.read_inbox(now_ms, (agent, process), *count, *again, *acknowledges)),
            Op::Beat { .. } => self.beat(&turn, op),
            Op::Takeover { victim, seen, limit } => self.takeover(&mut turn, *victim, seen, *limit),
            Op::Leave { announce } => self.leave(&mut turn, *announce),
            Op::SetLimits { max_size, max_running } => {
                let word = self.set_limits(&mut turn, *max_size, *max_running);
                self.hand_over_if(&mut turn, word);
                Reply::Words(vec![word], Vec::new())
            }
            Op::Pause { queue, is_paused } => {
                let word = self.pause(&mut turn, queue, *is_paused);
                self.hand_over_if(&mut turn, word);
                Reply::Words(vec![word], Vec::new())
            }
            Op::Circuit { name, is_open } => self.set_circuit(by, name, *is_open),
            Op::Trial { name, slot } => {
                let is_paused = self
                    .replicas
                    .get(&by)
                    .is_some_and(|replica| replica.paused.contains(name));
                let appetite = Appetite {
                    slots: is_paused.then_some(*slot).into_iter().collect(),
                    only: Some(name.clone()),
                    ..Appetite::default()
                };
                let started = self.take(&mut turn, &Wish::beside(&appetite));
                Reply::Words(Vec::new(), started)
            }
            Op::Requeue { letters, max_retries } => {
                let one = |(task, attempt): &(TaskId, u32)| self.requeue(&mut turn, *task, *attempt, *max_retries);
                let lives = letters.iter().map(one).collect();
                self.hand_over(&mut turn, false);
                Reply::Lives(lives)
            }
            Op::Discard { letters } => {
                let words = letters
                    .iter()
                    .map(|(task, attempt)| self.discard(&mut turn, *task, *attempt));
                Reply::Words(words.collect(), Vec::new())
            }
            Op::Stray { queue, priority, task } => {
                let home = Home::Queue(queue.clone());
                self.enter(home, *priority, *task, now_ms, None);
                Reply::Done
            }
            Op::Trim {
                everything,
                max_events,
                limit,
            } => self.trim(&mut turn, *everything, *max_events, *limit),
        };
        self.note(&turn.events);
        (reply, turn.events)
    }

    // --- what can be seen ---

    /// All tasks.
    #[must_use]
    pub const fn tasks(&self) -> &BTreeMap<TaskId, Task> {
        &self.tasks
    }

    /// All lanes that were ever used, in the order of service.
    #[must_use]
    pub const fn lanes(&self) -> &BTreeMap<LaneKey, Lane> {
        &self.lanes
    }

    /// The replicas that joined and did not leave.
    #[must_use]
    pub const fn replicas(&self) -> &BTreeMap<ReplicaId, Replica> {
        &self.replicas
    }

    /// The queues that were ever used.
    #[must_use]
    pub const fn queues(&self) -> &BTreeSet<QueueName> {
        &self.queues
    }

    /// The queues that nothing is handed out of.
    #[must_use]
    pub const fn paused(&self) -> &BTreeSet<QueueName> {
        &self.paused
    }

    /// How many pending tasks of a queue and a priority wait elsewhere than in the queue's own streams.
    #[must_use]
    pub fn aside(&self, queue: &QueueName, priority: Priority) -> usize {
        let waits_aside = |task: &&Task| {
            let is_meant = task.state == TaskState::Pending && task.queue == *queue && task.priority == priority;
            is_meant && task.place != Place::Queued
        };
        self.tasks.values().filter(waits_aside).count()
    }

    /// The delayed tasks and the attempts of agents, the next due first.
    #[must_use]
    pub fn timers(&self) -> Vec<(i64, TaskId)> {
        let delayed = self.tasks.iter().filter_map(|(id, task)| task.due(*id));
        let mut timers: Vec<_> = delayed.chain(self.watched()).collect();
        timers.sort_unstable();
        timers
    }

    /// The limits and counters by name: `p0` to `p3` wait, each at its priority.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let count = |is: &dyn Fn(&Task) -> bool| self.tasks.values().filter(|task| is(task)).count() as u64;
        let is_pending = |task: &Task| task.state == TaskState::Pending;
        let mut counters = BTreeMap::from([
            ("max_size".to_owned(), self.max_size),
            ("max_running".to_owned(), self.max_running),
            ("served".to_owned(), self.served),
        ]);
        for priority in Priority::ALL {
            let waiting = count(&|task| is_pending(task) && task.priority == priority);
            counters.insert(format!("p{}", priority.rank()), waiting);
        }
        let parked = count(&|task| is_pending(task) && task.place == Place::Parked);
        counters.insert("parked".to_owned(), parked);
        counters.insert("paused".to_owned(), self.paused.len() as u64);
        let limited = self.tasks_with_limit().len() as u64;
        counters.insert("limited".to_owned(), limited);
        // Long work has no place in the model yet: no task has to do with another.
        counters.insert("opening".to_owned(), 0);
        counters.insert("backlog".to_owned(), 0);
        for state in TaskState::ALL.into_iter().filter(|state| *state != TaskState::Pending) {
            // An end stays counted when its task comes back.
            let ends = count(&|task| task.state == state)
                + self.revived.get(&state).copied().unwrap_or_default()
                + self.forgotten().get(&state).copied().unwrap_or_default();
            counters.insert(state.as_str().to_lowercase(), ends);
        }
        counters
    }

    /// Notes when Redis says that an entry was written: it dates entries itself, up to a few milliseconds after the call
    /// began, and what has waited longest is told by those dates.
    pub fn entered(&mut self, number: u64, since_ms: i64, since_seq: u64) {
        let waiting = self.lanes.values_mut().flat_map(|lane| &mut lane.waiting);
        for entry in waiting.filter(|entry| entry.number == number) {
            (entry.since_ms, entry.since_seq) = (since_ms, since_seq);
        }
    }

    // --- the functions ---

    fn join(&mut self, turn: &mut Turn, op: &Op) -> Reply {
        let Op::Join {
            max_size,
            max_running,
            workers,
            announce,
            names,
            limits,
            agents,
        } = op
        else {
            return Reply::Done;
        };
        self.max_size = max_size.filter(|_| !self.is_size_set).unwrap_or(self.max_size);
        self.max_running = max_running.filter(|_| !self.is_running_set).unwrap_or(self.max_running);
        self.queues.insert(QueueName::default());
        let Some(workers) = *workers else { return Reply::Done };
        let is_new = !self.replicas.contains_key(&turn.by);
        let seq = self.operators.remove(&turn.by).unwrap_or_default();
        let replica = self.replicas.entry(turn.by).or_insert_with(|| Replica {
            seq,
            ..Replica::default()
        });
        replica.workers = workers;
        replica.names.extend(names.iter().cloned());
        // What is said of a name that it can not run does not count.
        if !agents.is_empty() {
            replica.assigns = agents.keys().cloned().collect();
        }
        let own = limits
            .iter()
            .filter(|(name, _)| names.contains(name) || agents.contains_key(name));
        replica.limits = own.map(|(name, most)| (name.clone(), *most)).collect();
        let all = names.iter().chain(agents.keys());
        self.names.extend(all.map(|name| (name.clone(), turn.now_ms)));
        // A handler of one's own comes first.
        self.agent_names.retain(|name, _| !names.contains(name));
        for (name, route) in agents {
            self.agent_names.insert(name.clone(), route.clone());
            self.inboxes.entry(route.agent.clone()).or_default();
        }
        if is_new && *announce {
            turn.tell_pool(turn.by, replica, "joined", workers);
        }
        Reply::Done
    }

    /// Whether a replica registered a name within the last hour, or one that is there has it.
    fn is_known(&self, name: &Name, now_ms: i64) -> bool {
        self.names.get(name).is_some_and(|seen| now_ms - seen < NAME_MEMORY_MS)
            || (self.replicas.values()).any(|one| one.names.contains(name) || one.paused.contains(name))
    }

    fn create(&mut self, turn: &mut Turn, check_names: bool, tasks: &[NewTask]) -> Vec<Word> {
        let mut words = Vec::new();
        for new in tasks {
            let is_known = self.is_known(&new.name, turn.now_ms);
            let word = if self.tasks.contains_key(&new.id) {
                Word::Duplicate
            } else if check_names && !is_known && self.route_of(new, check_names, turn.now_ms).is_none() {
                Word::Unknown
            } else if self.max_size > 0 && self.count_open() >= self.max_size {
                // What comes after must not overtake.
                words.resize(tasks.len(), Word::Full);
                break;
            } else {
                let route = self.route_of(new, check_names, turn.now_ms);
                self.add(turn, new, route);
                Word::Ok
            };
            words.push(word);
        }
        words
    }

    /// Who takes tasks by hand carries them out, whatever agent they name.
    fn route_of(&self, new: &NewTask, check_names: bool, now_ms: i64) -> Option<Route> {
        let wanted = new.agent.as_ref().filter(|_| check_names);
        self.route(&new.name, wanted, now_ms)
    }

    fn add(&mut self, turn: &mut Turn, new: &NewTask, route: Option<Route>) {
        let due_ms = match new.start {
            Start::Now => None,
            Start::After(delay) => Some(turn.now_ms + i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)),
            Start::At(due_ms) => Some(due_ms),
        };
        let task = Task {
            name: new.name.clone(),
            queue: new.queue.clone(),
            priority: new.priority,
            state: TaskState::Pending,
            place: Place::Queued,
            attempt: 0,
            retries: 0,
            max_retries: new.max_retries,
            losses: 0,
            seq: 0,
            owner: None,
            route,
            timeout_ms: new.timeout_ms,
            entry: 0,
            cancelled_by: None,
            life: 1,
            revivals: BTreeMap::new(),
        };
        self.tasks.insert(new.id, task);
        self.wait(new.id, due_ms, turn.now_ms);
        let facts = vec![
            ("/priority", Fact::Text(new.priority.to_string())),
            ("/queue", Fact::Text(new.queue.to_string())),
            ("/run_at", due_ms.map_or(Fact::Nothing, Fact::Moment)),
            ("/created_at", Fact::Moment(turn.now_ms)),
        ];
        self.tell(turn, EventType::TaskCreated, new.id, facts);
        if let Some(event) = turn.events.last_mut() {
            event.causation_id.clone_from(&new.event_id);
        }
    }

    fn cancel(&mut self, turn: &mut Turn, cause: Option<&String>, id: TaskId) -> Word {
        let Some(task) = self.tasks.get(&id) else {
            return Word::Missing;
        };
        let Some(state) = task.state.after(TaskMove::Cancel) else {
            let is_repeated = task.state == TaskState::Cancelled && cause.is_some();
            return if is_repeated && task.cancelled_by.as_ref() == cause {
                Word::Ok
            } else {
                Word::Terminal
            };
        };
        let is_agents = task.state == TaskState::Running && matches!(task.owner, Some(Owner::Agent(_)));
        self.remove_entry(id);
        self.change(id, |task| {
            task.state = state;
            task.cancelled_by = cause.cloned();
        });
        if is_agents {
            self.part(id, true);
        }
        let facts = vec![("/reason", Fact::Text("requested".to_owned()))];
        self.tell(turn, EventType::TaskCancelled, id, facts);
        if let (Some(event), Some(cause)) = (turn.events.last_mut(), cause) {
            event.causation_id.clone_from(cause);
        }
        Word::Ok
    }

    fn promote(&mut self, turn: &mut Turn, limit: usize) -> Reply {
        let now_ms = turn.now_ms;
        self.wake(now_ms);
        let mut due = self.timers();
        due.retain(|(due_ms, _)| *due_ms <= now_ms);
        due.truncate(limit);
        let mut expired = Vec::new();
        for (_, id) in &due {
            if self.tasks[id].state == TaskState::Pending {
                self.wait(*id, None, now_ms);
            } else {
                self.look(turn, *id, &mut expired);
            }
        }
        self.hand_over(turn, true);
        let next = self.timers().first().map(|(due_ms, _)| (due_ms - now_ms).max(0));
        Reply::Promoted(due.len(), next, expired)
    }

    fn beat(&mut self, turn: &Turn, op: &Op) -> Reply {
        let Op::Beat {
            number,
            workers,
            looks,
            renew_names,
            held,
        } = op
        else {
            return Reply::Stranger;
        };
        let Some(replica) = self.replicas.get_mut(&turn.by) else {
            return Reply::Stranger;
        };
        replica.beat = *number;
        replica.workers = *workers;
        if *renew_names {
            let names = replica.names.union(&replica.paused).chain(&replica.assigns);
            self.names.extend(names.map(|name| (name.clone(), turn.now_ms)));
        }
        let is_own = |id: &TaskId| {
            let task = self.tasks.get(id).filter(|task| task.state == TaskState::Running)?;
            match task.owner {
                Some(Owner::Worker(owner, slot)) if owner == turn.by => Some((owner, slot, task)),
                Some(Owner::Worker(..) | Owner::Agent(_)) | None => None,
            }
        };
        let is_gone = |(id, attempt): &&(TaskId, u32)| is_own(id).is_none_or(|(_, _, task)| task.attempt != *attempt);
        let gone = held.iter().filter(is_gone).map(|(id, _)| *id).collect();
        let unlisted = self.held_by(turn.by).into_iter();
        let lost = unlisted
            .filter(|id| *looks && held.iter().all(|(listed, _)| listed != id))
            .filter_map(|id| {
                is_own(&id).map(|(_, slot, task)| Started {
                    task: id,
                    attempt: task.attempt,
                    slot,
                    retries: task.retries,
                    max_retries: task.max_retries,
                })
            })
            .collect();
        Reply::Beaten { gone, lost }
    }

    fn leave(&mut self, turn: &mut Turn, announce: bool) -> Reply {
        if !self.held_by(turn.by).is_empty() {
            return Reply::Busy;
        }
        if let Some(mut replica) = self.replicas.remove(&turn.by)
            && announce
        {
            turn.tell_pool(turn.by, &mut replica, "left", 0);
        }
        Reply::Left
    }

    fn set_circuit(&mut self, by: ReplicaId, name: &Name, is_open: bool) -> Reply {
        let Some(replica) = self.replicas.get_mut(&by) else {
            return Reply::Stranger;
        };
        if !replica.names.contains(name) && !replica.paused.contains(name) {
            return Reply::Unregistered;
        }
        if is_open {
            replica.names.remove(name);
            replica.paused.insert(name.clone());
        } else if replica.paused.remove(name) {
            replica.names.insert(name.clone());
        }
        Reply::Done
    }

    // --- parts of them ---

    fn count_in(&self, state: TaskState) -> u64 {
        self.tasks.values().filter(|task| task.state == state).count() as u64
    }

    /// The names with a limit, and the smallest that any replica says.
    fn tasks_with_limit(&self) -> BTreeMap<Name, u64> {
        let mut least: BTreeMap<Name, u64> = BTreeMap::new();
        for (name, most) in self.replicas.values().flat_map(|replica| &replica.limits) {
            let known = least.entry(name.clone()).or_insert(*most);
            *known = (*known).min(*most);
        }
        least
    }

    /// How many more tasks of a name may start; `None` where any number may.
    fn room(&self, name: &Name) -> Option<u64> {
        let most = self.tasks_with_limit().get(name).copied()?;
        let runs = |task: &&Task| task.state == TaskState::Running && task.name == *name;
        Some(most.saturating_sub(self.tasks.values().filter(runs).count() as u64))
    }

    /// The running tasks of names with a limit.
    #[must_use]
    pub fn limited(&self) -> BTreeMap<Name, (u64, BTreeSet<TaskId>)> {
        let runs = |name: &Name| {
            let tasks = self.tasks.iter();
            let running = tasks.filter(|(_, task)| task.state == TaskState::Running && task.name == *name);
            running.map(|(id, _)| *id).collect()
        };
        self.tasks_with_limit()
            .into_iter()
            .map(|(name, most)| (name.clone(), (most, runs(&name))))
            .collect()
    }

    fn count_open(&self) -> u64 {
        self.count_in(TaskState::Pending) + self.count_in(TaskState::Running)
    }

    /// What a replica holds: by queue and then by parked name, at each from the highest priority down.
    fn held_by(&self, replica: ReplicaId) -> Vec<TaskId> {
        let mut lanes: Vec<_> = self.lanes.iter().collect();
        lanes.sort_by_key(|(lane, _)| (lane.home.is_parked(), &lane.home, lane.priority));
        let held = lanes.into_iter().flat_map(|(_, lane)| &lane.held);
        held.filter(|(_, owner)| owner.replica() == Some(replica))
            .map(|(entry, _)| entry.task)
            .collect()
    }

    /// Lets a pending task wait: for its time, or at the tail of its priority when that has come.
    fn wait(&mut self, id: TaskId, due_ms: Option<i64>, now_ms: i64) {
        if let Some(due_ms) = due_ms.filter(|due_ms| *due_ms > now_ms) {
            self.change(id, |task| task.place = Place::Delayed { due_ms });
            return;
        }
        let task = &self.tasks[&id];
        let (home, place) = match task.route {
            Some(_) => (Home::Desk(task.queue.clone()), Place::Desk),
            None => (Home::Queue(task.queue.clone()), Place::Queued),
        };
        let number = self.enter(home, task.priority, id, now_ms, None);
        self.change(id, |task| {
            task.place = place;
            task.entry = number;
        });
    }

    /// Appends an entry to a lane; its number.
    fn enter(&mut self, home: Home, priority: Priority, task: TaskId, since_ms: i64, since_seq: Option<u64>) -> u64 {
        if let Home::Queue(queue) | Home::Desk(queue) = &home {
            self.queues.insert(queue.clone());
        }
        self.entries += 1;
        let number = self.entries;
        let lane = self.lanes.entry(LaneKey { priority, home }).or_default();
        lane.waiting.push_back(Entry {
            number,
            task,
            since_ms,
            // A new one is behind all that entered before.
            since_seq: since_seq.unwrap_or(u64::from(u32::MAX) + number),
        });
        number
    }

    /// Removes the entry that a task waits or runs in.
    fn remove_entry(&mut self, id: TaskId) {
        let number = self.tasks[&id].entry;
        for lane in self.lanes.values_mut() {
            lane.remove(number);
        }
    }

    fn change<T>(&mut self, id: TaskId, change: impl FnOnce(&mut Task) -> T) -> T {
        change(self.tasks.get_mut(&id).expect("only tasks that were found are changed"))
    }

    /// Appends an event of a task; its cause is the task's event before.
    fn tell(&mut self, turn: &mut Turn, event_type: EventType, id: TaskId, facts: Vec<(&'static str, Fact)>) {
        let (seq, attempt) = self.change(id, |task| {
            task.seq += 1;
            (task.seq, task.attempt)
        });
        turn.events.push(ModelEvent {
            event_type,
            subject: id.to_string(),
            seq,
            attempt: Some(attempt),
            causation_id: format!("{id}/{}", seq - 1),
            source: turn.by,
            facts,
        });
    }
}

impl Task {
    /// When it is due, for a task that waits for its time.
    fn due(&self, id: TaskId) -> Option<(i64, TaskId)> {
        match self.place {
            Place::Delayed { due_ms } if self.state == TaskState::Pending => Some((due_ms, id)),
            Place::Delayed { .. } | Place::Queued | Place::Parked | Place::Desk => None,
        }
    }
}

impl Turn {
    /// Appends an event of a replica; it is its own cause.
    fn tell_pool(&mut self, subject: ReplicaId, replica: &mut Replica, state: &str, workers: u16) {
        replica.seq += 1;
        self.events.push(ModelEvent {
            event_type: EventType::WorkerPoolStatus,
            subject: subject.to_string(),
            seq: replica.seq,
            attempt: None,
            causation_id: format!("{subject}/{}", replica.seq),
            source: self.by,
            facts: vec![
                ("/state", Fact::Text(state.to_owned())),
                ("/workers", Fact::Number(workers.into())),
            ],
        });
    }
}
