//! Tasks that agents carry out: what is handed over, what they say, and when they are given up.

use std::collections::BTreeMap;

use super::words::{Said, Saying};
use super::{Fact, Home, LOSSES_MAX, LaneKey, Model, Outcome, Owner, Task, Turn, Word};
use crate::domain::event::EventType;
use crate::domain::id::{Name, QueueName, TaskId};
use crate::domain::priority::Priority;
use crate::domain::state::{TaskMove, TaskState};

/// How long an agent may be silent where nobody says.
const SILENCE_MS: i64 = 60_000;
/// How often the time of an attempt that is up is looked at until somebody has ended it.
const EXPIRY_MS: i64 = 1000;
/// How many ends of attempts are remembered, so that their second delivery does no harm.
const ENDS_KEPT: u32 = 16;

/// Which agent carries a task out, and on what terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The agent.
    pub agent: Name,
    /// How long it may be silent.
    pub silence_ms: i64,
    /// How long an attempt may take; 0 for as long as it likes.
    pub timeout_ms: i64,
}

/// What is known of a task because an agent has or had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desk {
    /// Who holds or held it, and on what terms.
    pub route: Route,
    /// When the attempt began.
    began_ms: i64,
    /// The same by the steady clock.
    since_ms: i64,
    /// The assignment of the attempt, where it went through the inbox.
    letter: Option<u64>,
    /// When the agent last said that it goes on.
    beat_ms: Option<i64>,
    /// When the assignment was found read and acknowledged.
    read_ms: Option<i64>,
    /// How far it said it is.
    pub progress: Option<String>,
    /// Attempt and entry of the last thing it said that counted.
    last: Option<(u32, u64)>,
    /// The events that ended attempts.
    pub ends: BTreeMap<u32, String>,
    /// When somebody looks whether it is silent or its time is up.
    timer_ms: Option<i64>,
}

/// An event in an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    number: u64,
    /// Whether it tells of an attempt that begins, else of one that was cancelled.
    pub is_assignment: bool,
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: u32,
    /// Who has read it.
    pub reading: Reading,
}

/// Whether an event in an inbox was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// By nobody.
    Unread,
    /// By this process, which has not acknowledged it.
    Held {
        /// Who.
        by: String,
        /// When it read it last.
        at_ms: i64,
    },
    /// And acknowledged.
    Done,
}

/// What an agent asks for over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loan {
    /// Who asks.
    pub agent: Name,
    /// Out of which queue.
    pub queue: QueueName,
    /// How many at most.
    pub max: u16,
    /// Tasks of which names; `None` for all.
    pub names: Option<Vec<Name>>,
    /// Whether what stands unread in its inbox is handed out too.
    pub reads_inbox: bool,
    /// How long it may be silent.
    pub silence_ms: i64,
}

impl Model {
    // --- what can be seen ---

    /// What is known of tasks that agents have or had.
    #[must_use]
    pub const fn desks(&self) -> &BTreeMap<TaskId, Desk> {
        &self.desks
    }

    /// The inboxes of the agents that are known.
    #[must_use]
    pub const fn inboxes(&self) -> &BTreeMap<Name, Vec<Notice>> {
        &self.inboxes
    }

    /// The names of tasks that agents carry out.
    #[must_use]
    pub const fn agent_names(&self) -> &BTreeMap<Name, Route> {
        &self.agent_names
    }

    /// The attempts that somebody looks after, by when.
    pub(super) fn watched(&self) -> impl Iterator<Item = (i64, TaskId)> {
        self.desks.iter().filter_map(|(id, desk)| Some((desk.timer_ms?, *id)))
    }

    /// Notes when Redis will look after an attempt, which counts from times that it takes itself. Refused when it is not
    /// about when it must be.
    pub fn timed(&mut self, id: TaskId, due_ms: i64, tolerance_ms: i64) -> bool {
        let timer = self.desks.get_mut(&id).and_then(|desk| desk.timer_ms.as_mut());
        let Some(timer_ms) = timer.filter(|timer_ms| (**timer_ms - due_ms).abs() <= tolerance_ms) else {
            return false;
        };
        *timer_ms = due_ms;
        true
    }

    /// Nobody has looked at the timers for longer than anybody takes to look again, or the next look is soon.
    pub const fn nobody_looks(&mut self, is_so: bool) {
        self.is_asleep = is_so;
    }

    /// For so long nobody has looked at the timers, which is not noted yet.
    pub const fn nobody_looked_for(&mut self, gap_ms: i64) {
        self.gap_ms = gap_ms;
    }

    /// Somebody looks, and notes for how long nobody has, all in all.
    pub const fn looked(&mut self, asleep_ms: i64) {
        (self.asleep_ms, self.gap_ms) = (asleep_ms, 0);
    }

    /// The time by a clock that stands still while nobody looks.
    const fn steady_ms(&self, now_ms: i64) -> i64 {
        now_ms - self.gap_ms - self.asleep_ms
    }

    // --- the functions ---

    /// A process of an agent reads its inbox: what is new, or `again` what it has read and not acknowledged.
    pub(super) fn read_inbox(
        &mut self,
        now_ms: i64,
        (agent, by): (&Name, &str),
        count: usize,
        again: bool,
        acknowledges: bool,
    ) -> Vec<(bool, TaskId, u32)> {
        let mut found = Vec::new();
        for notice in self.inboxes.get_mut(agent).into_iter().flatten() {
            let is_meant = match &notice.reading {
                Reading::Unread => !again,
                Reading::Held { by: reader, .. } => again && reader == by,
                Reading::Done => false,
            };
            if !is_meant || found.len() >= count {
                continue;
            }
            found.push((notice.is_assignment, notice.task, notice.attempt));
            notice.reading = if acknowledges {
                Reading::Done
            } else {
                Reading::Held {
                    by: by.to_owned(),
                    at_ms: now_ms,
                }
            };
        }
        found
    }

    /// What an agent says of an attempt.
    pub(super) fn answer(&mut self, turn: &mut Turn, saying: &Saying) -> Word {
        let Some(task) = self.tasks.get(&saying.task) else {
            return Word::Missing;
        };
        if let Some(word) = self.objection(turn.now_ms, task, saying) {
            return word;
        }
        let id = saying.task;
        let desk = self.desks.get_mut(&id).expect("who has no desk is objected to");
        let was_before = desk.was_before(saying);
        if let (Some(entry), false) = (saying.entry, was_before) {
            desk.last = Some((saying.attempt, entry));
        }
        let outcome = match &saying.said {
            Said::Beat(progress) => {
                desk.beat_ms = Some(turn.now_ms);
                if progress.is_some() {
                    desk.progress.clone_from(progress);
                }
                return Word::Ok;
            }
            Said::Ended(outcome) => *outcome,
        };
        if let Some(event_id) = &saying.event_id {
            desk.ends.insert(saying.attempt, event_id.clone());
            if let Some(oldest) = saying.attempt.checked_sub(ENDS_KEPT) {
                desk.ends.remove(&oldest);
            }
        }
        self.part(id, false);
        self.change(id, |task| task.losses = 0);
        self.end_attempt(turn, id, outcome, false)
    }

    /// Why something that an agent says does not count.
    fn objection(&self, now_ms: i64, task: &Task, saying: &Saying) -> Option<Word> {
        let is_current = task.attempt == saying.attempt;
        let is_over = task.state.is_terminal();
        let Some(desk) = self.desks.get(&saying.task) else {
            return Some(if is_over && is_current {
                Word::Terminal
            } else {
                Word::Stale
            });
        };
        if saying.event_id.is_some() && desk.ends.get(&saying.attempt) == saying.event_id.as_ref() {
            return Some(Word::Duplicate);
        }
        if matches!(saying.said, Said::Beat(_)) && desk.was_before(saying) {
            return Some(Word::Duplicate);
        }
        let agent = desk.route.agent.as_str();
        let is_self = |who: &str| who == agent || who.strip_prefix(agent).is_some_and(|rest| rest.starts_with('/'));
        if !saying.who.as_deref().is_none_or(is_self) {
            return Some(Word::Other);
        }
        if !is_current {
            return Some(Word::Stale);
        }
        if is_over {
            return Some(Word::Terminal);
        }
        if task.state != TaskState::Running || !matches!(task.owner, Some(Owner::Agent(_))) {
            return Some(Word::Stale);
        }
        let is_early = desk.route.timeout_ms == 0 || desk.since_ms + desk.route.timeout_ms > self.steady_ms(now_ms);
        let times_out = matches!(saying.said, Said::Ended(Outcome::Timeout { .. }));
        (times_out && is_early).then_some(Word::Early)
    }

    // --- parts of them ---

    /// Which agent carries out tasks of a name, where the caller named one or none.
    pub(super) fn route(&self, name: &Name, wanted: Option<&Name>, now_ms: i64) -> Option<Route> {
        if let Some(own) = self.agent_names.get(name) {
            let agent = wanted.unwrap_or(&own.agent).clone();
            return Some(Route { agent, ..own.clone() });
        }
        let agent = wanted.filter(|_| !self.is_known(name, now_ms))?.clone();
        Some(Route {
            agent,
            silence_ms: SILENCE_MS,
            timeout_ms: 0,
        })
    }

    /// An agent's attempt begins.
    pub(super) fn begin(&mut self, turn: &mut Turn, lane: &LaneKey, entry: super::Entry, route: Route) {
        let id = entry.task;
        self.served += 1;
        let owner = Owner::Agent(route.agent.clone());
        self.lanes.entry(lane.clone()).or_default().hold(entry, owner.clone());
        self.change(id, |task| {
            task.state = task.state.after(TaskMove::Claim).unwrap_or(task.state);
            task.attempt += 1;
            task.owner = Some(owner);
        });
        let facts = vec![
            ("/worker_id", Fact::Text(format!("agent:{}", route.agent))),
            ("/started_at", Fact::Moment(turn.now_ms)),
        ];
        self.tell(turn, EventType::TaskStarted, id, facts);
        let until_ms = if route.timeout_ms > 0 {
            route.silence_ms.min(route.timeout_ms)
        } else {
            route.silence_ms
        };
        let since_ms = self.steady_ms(turn.now_ms);
        let before = self.desks.remove(&id);
        let (last, ends) = before.map_or((None, BTreeMap::new()), |desk| (desk.last, desk.ends));
        self.desks.insert(
            id,
            Desk {
                route,
                began_ms: turn.now_ms,
                since_ms,
                letter: None,
                beat_ms: None,
                read_ms: None,
                progress: None,
                last,
                ends,
                timer_ms: Some(turn.now_ms + until_ms),
            },
        );
    }

    /// Hands a task over to the agent that it is for.
    pub(super) fn hand(&mut self, turn: &mut Turn, lane: &LaneKey, entry: super::Entry) {
        let task = &self.tasks[&entry.task];
        let mut route = task.route.clone().expect("only what is for an agent waits on a desk");
        route.timeout_ms = task.timeout_ms.unwrap_or(route.timeout_ms);
        let agent = route.agent.clone();
        self.begin(turn, lane, entry, route);
        let number = self.post(&agent, true, entry.task);
        self.desks
            .entry(entry.task)
            .and_modify(|desk| desk.letter = Some(number));
    }

    /// Puts an event into an inbox; its number.
    fn post(&mut self, agent: &Name, is_assignment: bool, task: TaskId) -> u64 {
        let attempt = self.tasks[&task].attempt;
        self.entries += 1;
        let number = self.entries;
        self.inboxes.entry(agent.clone()).or_default().push(Notice {
            number,
            is_assignment,
            task,
            attempt,
            reading: Reading::Unread,
        });
        number
    }

    /// An agent's attempt is over: its timer and its assignment go, and where it was cancelled it is told to stop.
    pub(super) fn part(&mut self, id: TaskId, is_cancelled: bool) {
        let Some(desk) = self.desks.get_mut(&id) else { return };
        desk.timer_ms = None;
        let Some(number) = desk.letter else { return };
        let agent = desk.route.agent.clone();
        if let Some(inbox) = self.inboxes.get_mut(&agent) {
            inbox.retain(|notice| notice.number != number);
        }
        if is_cancelled {
            self.post(&agent, false, id);
        }
    }

    /// When an agent was last heard of: now, as long as nobody has read the assignment.
    fn heard(&mut self, now_ms: i64, id: TaskId) -> i64 {
        let awake_ms = self.awake_ms;
        let Some(desk) = self.desks.get_mut(&id) else {
            return now_ms;
        };
        let since_ms = desk.beat_ms.unwrap_or_default().max(awake_ms);
        let Some(number) = desk.letter else {
            return since_ms.max(desk.began_ms);
        };
        let mut inbox = self.inboxes.get(&desk.route.agent).into_iter().flatten();
        let assignment = inbox.find(|notice| notice.number == number);
        match assignment.map(|notice| &notice.reading) {
            Some(Reading::Held { at_ms, .. }) => since_ms.max(*at_ms),
            Some(Reading::Done) => since_ms.max(*desk.read_ms.get_or_insert(now_ms)),
            Some(Reading::Unread) | None => now_ms,
        }
    }

    /// Looks whether an agent is silent or its time is up, and notes what is for somebody else to end.
    pub(super) fn look(&mut self, turn: &mut Turn, id: TaskId, expired: &mut Vec<(TaskId, u32)>) {
        let now_ms = turn.now_ms;
        let (route, since_ms) = (self.desks[&id].route.clone(), self.desks[&id].since_ms);
        let mut due_ms = i64::MAX;
        if route.timeout_ms > 0 {
            due_ms = now_ms + since_ms + route.timeout_ms - self.steady_ms(now_ms);
            if due_ms <= now_ms {
                expired.push((id, self.tasks[&id].attempt));
                self.watch(id, now_ms + EXPIRY_MS);
                return;
            }
        }
        let silent_from_ms = self.heard(now_ms, id) + route.silence_ms;
        if silent_from_ms > now_ms {
            self.watch(id, due_ms.min(silent_from_ms));
            return;
        }
        self.part(id, false);
        self.lose(turn, id);
    }

    fn watch(&mut self, id: TaskId, due_ms: i64) {
        self.desks.entry(id).and_modify(|desk| desk.timer_ms = Some(due_ms));
    }

    /// The attempt ends with its owner: it counts, and the task returns at once unless it was lost too often in a row.
    pub(super) fn lose(&mut self, turn: &mut Turn, id: TaskId) {
        let losses = self.change(id, |task| {
            task.losses += 1;
            task.losses
        });
        let outcome = if losses >= LOSSES_MAX {
            Outcome::Rejected
        } else {
            Outcome::Failed { delay_ms: 0 }
        };
        self.end_attempt(turn, id, outcome, true);
    }

    /// Timers move with a clock that went back.
    pub(super) fn shift_watches(&mut self, by_ms: i64) {
        for timer_ms in self.desks.values_mut().filter_map(|desk| desk.timer_ms.as_mut()) {
            *timer_ms -= by_ms;
        }
    }

    /// What was kept of a task beside its record goes with it.
    pub(super) fn forget_desk(&mut self, id: TaskId) {
        self.desks.remove(&id);
    }

    /// Somebody looks at the timers; after a time in which nobody did, silence counts from now.
    pub(super) fn wake(&mut self, now_ms: i64) {
        if std::mem::take(&mut self.is_asleep) {
            self.awake_ms = now_ms;
        }
    }

    /// What is left of agents that nothing is asked of.
    pub(super) fn tidy_agents(&mut self, now_ms: i64, everything: bool) {
        for inbox in self.inboxes.values_mut() {
            inbox.retain(|notice| notice.is_assignment || (notice.reading != Reading::Done && !everything));
        }
        // A queue that nothing entered; that of others is too short a time ago.
        let is_empty = |lane: &super::Lane| lane.waiting.is_empty() && lane.held.is_empty();
        let is_used = |queue: &QueueName| {
            self.lanes.iter().any(|(key, lane)| match &key.home {
                Home::Queue(own) => own == queue,
                Home::Desk(own) => own == queue && !is_empty(lane),
                Home::Shelf(_) | Home::Parked(_) => false,
            }) || Priority::ALL
                .into_iter()
                .any(|priority| self.aside(queue, priority) > 0)
        };
        let queues = self.queues.iter();
        let used = queues.filter(|queue| **queue == QueueName::default() || is_used(queue));
        self.queues = used.cloned().collect();
        let names = &self.names;
        let is_kept = |name: &Name| {
            names
                .get(name)
                .is_some_and(|seen_ms| now_ms - seen_ms < super::NAME_MEMORY_MS)
        };
        self.agent_names.retain(|name, _| is_kept(name));
    }
}

impl Desk {
    /// Whether what is said stands at or before the last that counted.
    fn was_before(&self, saying: &Saying) -> bool {
        let said = saying.entry.map(|entry| (saying.attempt, entry));
        self.last.is_some_and(|last| said.is_some_and(|said| said <= last))
    }
}
