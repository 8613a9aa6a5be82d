//! One saga as plain as it can be written: what the functions make of its tasks' ends, and of what is asked of it.
//!
//! The oracle of the functions in Redis for everything that a saga adds to tasks, as the model of the partition is for the
//! tasks themselves: a property test applies the same calls to both. Tasks are only as far here as a saga has to do with
//! them: all wait in one queue, and a retry waits for its time only behind the pivot.

mod words;

use std::collections::{BTreeMap, BTreeSet};

pub use words::{Abort, Plan, SagaEvent, SagaOp, SagaOutcome, SagaReply, SagaTask, StepFate, Subject, Work};

use crate::domain::event::EventType;
use crate::domain::saga_state::{SagaMove, SagaState};
use crate::domain::state::{TaskMove, TaskState};

/// The loss in a row that is permanent.
const LOSSES_MAX: u8 = 3;
/// What a step behind the pivot waits before it is tried again after an error that is not to be retried.
const STUBBORN_MS: i64 = 5_000;

/// A task that ended within a call.
#[derive(Debug, Clone, Copy)]
struct Ending {
    work: Work,
    state: TaskState,
}

/// One saga.
#[derive(Debug, Clone)]
pub struct SagaModel {
    plans: Vec<Plan>,
    /// `None` before it is started.
    pub state: Option<SagaState>,
    /// Why it goes back.
    pub abort: Abort,
    /// Whether its pivot completed before that.
    pub has_passed: bool,
    /// How many steps have not ended.
    pub left: usize,
    /// The step that failed.
    pub failed_step: Option<usize>,
    /// Its tasks.
    pub tasks: BTreeMap<Work, SagaTask>,
    /// Its steps.
    pub fates: Vec<StepFate>,
    /// Steps to undo, in the order of their ends.
    pub owed: Vec<usize>,
    /// Steps that could not be undone.
    pub left_over: Vec<usize>,
    /// The dead letters: task and last attempt.
    pub letters: BTreeSet<(Work, u32)>,
    /// Those of late successes.
    pub late_letters: BTreeSet<Work>,
    queue: Vec<Work>,
    /// The command that asked for the way back, where it was one.
    stopped_by: Option<u8>,
    completed: u32,
    verdicts: u32,
    again: u32,
    seq: u32,
    entries: u64,
    now_ms: i64,
    events: Vec<SagaEvent>,
    endings: Vec<Ending>,
    is_to_sweep: bool,
}

impl SagaModel {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(plans: Vec<Plan>) -> Self {
        Self {
            left: plans.len(),
            fates: vec![StepFate::default(); plans.len()],
            plans,
            state: None,
            abort: Abort::None,
            has_passed: false,
            failed_step: None,
            tasks: BTreeMap::new(),
            owed: Vec::new(),
            left_over: Vec::new(),
            letters: BTreeSet::new(),
            late_letters: BTreeSet::new(),
            queue: Vec::new(),
            stopped_by: None,
            completed: 0,
            verdicts: 0,
            again: 0,
            seq: 0,
            entries: 0,
            now_ms: 0,
            events: Vec::new(),
            endings: Vec::new(),
            is_to_sweep: false,
        }
    }

    /// Does what is asked; the answer, and the events in order.
    pub fn apply(&mut self, op: &SagaOp, now_ms: i64) -> (SagaReply, Vec<SagaEvent>) {
        self.now_ms = now_ms;
        let reply = match op {
            SagaOp::Start => SagaReply::Word(self.start()),
            SagaOp::Claim { by, slots } => SagaReply::Taken(self.claim(*by, *slots)),
            SagaOp::Settle {
                by,
                work,
                attempt,
                outcome,
            } => SagaReply::Word(self.settle(*by, *work, *attempt, *outcome)),
            SagaOp::CancelTask(work) => SagaReply::Word(self.cancel_task(*work)),
            SagaOp::Cancel(cause) => SagaReply::Word(self.cancel(*cause)),
            SagaOp::Resume => SagaReply::Word(self.resume()),
            SagaOp::Takeover(victim) => SagaReply::Count(self.take_over(*victim)),
            SagaOp::Promote => SagaReply::Count(self.promote()),
        };
        self.follow();
        (reply, std::mem::take(&mut self.events))
    }

    // --- calls ---

    fn start(&mut self) -> &'static str {
        if self.state.is_some() {
            return "duplicate";
        }
        self.state = Some(SagaState::Pending);
        self.tell_saga(EventType::SagaStarted, None);
        for step in 0..self.plans.len() {
            let (is_blocked, max_retries) = (!self.plans[step].depends_on.is_empty(), self.plans[step].max_retries);
            self.make(Work::Step(step), max_retries, is_blocked);
        }
        "ok"
    }

    fn claim(&mut self, by: u8, slots: usize) -> Vec<(Work, u32)> {
        let count = slots.min(self.queue.len());
        let taken: Vec<Work> = self.queue.drain(..count).collect();
        taken
            .into_iter()
            .map(|work| {
                let attempt = self.change(work, |task| {
                    task.state = moved(task.state, TaskMove::Claim);
                    task.attempt += 1;
                    task.owner = Some(by);
                    task.attempt
                });
                self.tell_task(EventType::TaskStarted, work);
                if work.is_step() && attempt == 1 {
                    if self.state == Some(SagaState::Pending) {
                        self.go(SagaMove::Begin);
                    }
                    self.tell_saga(EventType::SagaStepStarted, Some(work.step()));
                }
                (work, attempt)
            })
            .collect()
    }

    fn settle(&mut self, by: u8, work: Work, attempt: u32, outcome: SagaOutcome) -> &'static str {
        let Some(task) = self.tasks.get(&work).cloned() else {
            return "missing";
        };
        let is_given_up = task.state.is_terminal() && task.state != TaskState::Completed;
        if outcome == SagaOutcome::Completed && work.is_step() && task.attempt >= attempt && is_given_up {
            self.succeed_late(work);
        }
        if task.attempt != attempt || task.owner != Some(by) {
            return "stale";
        }
        if task.state != TaskState::Running {
            let was_taken_away = task.state == TaskState::Cancelled || task.losses > 0;
            return if was_taken_away { "stale" } else { "duplicate" };
        }
        let goes_back = work.is_step() && self.abort != Abort::None;
        let is_given_back = matches!(outcome, SagaOutcome::HandedBack | SagaOutcome::Unstarted);
        if outcome == SagaOutcome::Completed {
            self.change(work, |task| task.losses = 0);
            self.end(work, EventType::TaskCompleted, TaskMove::Succeed);
            return "ok";
        }
        if is_given_back && !goes_back {
            let is_doubtful = work.is_step() && outcome == SagaOutcome::HandedBack;
            self.change(work, |task| {
                task.state = moved(task.state, TaskMove::Release);
                task.losses = 0;
                task.is_doubtful |= is_doubtful;
            });
            self.tell_task(EventType::TaskReleased, work);
            self.enqueue(work);
            return "ok";
        }
        self.fail(work, outcome, true)
    }

    /// An attempt ends without success: another follows, or the task ends.
    fn fail(&mut self, work: Work, outcome: SagaOutcome, is_settled: bool) -> &'static str {
        let task = &self.tasks[&work];
        let mut may_retry = outcome != SagaOutcome::Rejected && task.retries < task.max_retries;
        let mut delay_ms = 0;
        if work.is_step() {
            let leaves_doubt = match outcome {
                SagaOutcome::Broken | SagaOutcome::Timeout | SagaOutcome::Aborted | SagaOutcome::HandedBack => true,
                SagaOutcome::Completed | SagaOutcome::Failed | SagaOutcome::Rejected | SagaOutcome::Unstarted => false,
            };
            // Every loss leaves doubt.
            self.change(work, |task| task.is_doubtful |= leaves_doubt || !is_settled);
            if self.abort != Abort::None {
                may_retry = false;
            } else if self.has_passed {
                may_retry = true;
                delay_ms = if outcome == SagaOutcome::Rejected {
                    STUBBORN_MS
                } else {
                    0
                };
            }
        }
        if is_settled {
            self.change(work, |task| task.losses = 0);
        }
        if may_retry {
            let due_ms = (delay_ms > 0).then(|| self.now_ms + delay_ms);
            self.change(work, |task| {
                task.state = moved(task.state, TaskMove::Retry);
                task.retries += 1;
                task.due_ms = due_ms;
            });
            self.tell_task(EventType::TaskRetryScheduled, work);
            if due_ms.is_none() {
                self.enqueue(work);
            }
            return "retry";
        }
        match outcome {
            SagaOutcome::Aborted | SagaOutcome::Unstarted | SagaOutcome::HandedBack => {
                self.end(work, EventType::TaskCancelled, TaskMove::Cancel);
            }
            SagaOutcome::Timeout => self.bury(work, EventType::TaskTimeout, TaskMove::Expire),
            SagaOutcome::Completed | SagaOutcome::Failed | SagaOutcome::Broken | SagaOutcome::Rejected => {
                self.bury(work, EventType::TaskFailed, TaskMove::Fail);
            }
        }
        "ok"
    }

    fn cancel_task(&mut self, work: Work) -> &'static str {
        let Some(task) = self.tasks.get(&work) else {
            return "missing";
        };
        if task.state.is_terminal() {
            return "terminal";
        }
        if task.state == TaskState::Running && work.is_step() && !self.has_passed {
            // The step has ended only when its handler has.
            return self.cancel(None);
        }
        self.drop_task(work);
        "ok"
    }

    /// Ends a task that has not ended.
    fn drop_task(&mut self, work: Work) {
        let is_running = self.tasks[&work].state == TaskState::Running;
        self.change(work, |task| task.is_doubtful |= is_running && work.is_step());
        self.queue.retain(|waiting| *waiting != work);
        self.end(work, EventType::TaskCancelled, TaskMove::Cancel);
    }

    fn cancel(&mut self, cause: Option<u8>) -> &'static str {
        let Some(state) = self.state else { return "missing" };
        if cause.is_some() && self.stopped_by == cause {
            return "ok";
        }
        match state {
            SagaState::Compensating => "ok",
            SagaState::Completed | SagaState::Compensated | SagaState::Failed => "terminal",
            SagaState::Pending | SagaState::Running if self.has_passed => "passed",
            SagaState::Pending | SagaState::Running => {
                if self.abort != Abort::Cancelled {
                    self.abort = Abort::Cancelled;
                    self.stopped_by = cause;
                    self.is_to_sweep = true;
                }
                "ok"
            }
        }
    }

    fn resume(&mut self) -> &'static str {
        let Some(state) = self.state else { return "missing" };
        if state == SagaState::Compensating {
            return "ok";
        }
        let is_forward = state == SagaState::Failed && self.has_passed;
        let may_go_back = state.after(SagaMove::ResumeBack).is_some() && !self.left_over.is_empty();
        if !is_forward && !may_go_back {
            return "terminal";
        }
        self.go(if is_forward {
            SagaMove::ResumeForward
        } else {
            SagaMove::ResumeBack
        });
        self.tell_saga(EventType::SagaResumed, None);
        let left_over = &self.left_over;
        self.late_letters
            .retain(|work| !is_forward && !left_over.contains(&work.step()));
        if is_forward {
            self.go_on();
        } else {
            // They failed in the order in which they are to be undone.
            self.owed.extend(std::mem::take(&mut self.left_over).into_iter().rev());
            self.undo_next();
        }
        "ok"
    }

    /// Behind the pivot what was given up is tried again.
    fn go_on(&mut self) {
        (self.abort, self.failed_step, self.stopped_by) = (Abort::None, None, None);
        for step in 0..self.plans.len() {
            let work = Work::Step(step);
            if self.tasks[&work].state == TaskState::Completed {
                continue;
            }
            self.left += 1;
            self.fates[step].fate = None;
            self.owed.retain(|owed| *owed != step);
            self.revive(work);
        }
    }

    fn take_over(&mut self, victim: u8) -> usize {
        let is_held = |task: &SagaTask| task.state == TaskState::Running && task.owner == Some(victim);
        let held = self.tasks.iter().filter(|(_, task)| is_held(task));
        let mut held: Vec<(u64, Work)> = held.map(|(work, task)| (task.entry, *work)).collect();
        held.sort_unstable();
        for (_, work) in &held {
            let losses = self.change(*work, |task| {
                task.losses += 1;
                task.losses
            });
            let outcome = if losses >= LOSSES_MAX {
                SagaOutcome::Rejected
            } else {
                SagaOutcome::Failed
            };
            self.fail(*work, outcome, false);
        }
        held.len()
    }

    fn promote(&mut self) -> usize {
        let mut due: Vec<(i64, Work)> = self
            .tasks
            .iter()
            .filter_map(|(work, task)| Some((task.due_ms.filter(|due| *due <= self.now_ms)?, *work)))
            .collect();
        due.sort_unstable();
        for (_, work) in &due {
            self.change(*work, |task| task.due_ms = None);
            self.enqueue(*work);
        }
        due.len()
    }

    // --- what follows ---

    /// What follows from the ends of tasks, until nothing does.
    fn follow(&mut self) {
        loop {
            let endings = std::mem::take(&mut self.endings);
            let mut completed = Vec::new();
            for ending in &endings {
                self.ended(*ending);
                if ending.state == TaskState::Completed && ending.work.is_step() {
                    completed.push(ending.work.step());
                }
            }
            if self.endings.is_empty() && std::mem::take(&mut self.is_to_sweep) {
                self.sweep();
            }
            for step in completed {
                self.release(step);
            }
            if self.endings.is_empty() && !self.is_to_sweep {
                return;
            }
        }
    }

    /// One dependency is met; written down even when nothing starts any more.
    fn release(&mut self, done: usize) {
        for step in 0..self.plans.len() {
            if !self.plans[step].depends_on.contains(&done) || self.abort != Abort::None {
                continue;
            }
            let is_met = self.is_ready(step);
            let task = &self.tasks[&Work::Step(step)];
            if is_met && task.state == TaskState::Pending && task.is_blocked {
                self.change(Work::Step(step), |task| task.is_blocked = false);
                self.enqueue(Work::Step(step));
            }
        }
    }

    /// Whether all that a step waits for has completed.
    fn is_ready(&self, step: usize) -> bool {
        let is_done = |before: &usize| self.tasks[&Work::Step(*before)].state == TaskState::Completed;
        self.plans[step].depends_on.iter().all(is_done)
    }

    /// Gives up the steps that wait.
    fn sweep(&mut self) {
        if self.left == 0 {
            return;
        }
        for step in 0..self.plans.len() {
            if self.tasks[&Work::Step(step)].state == TaskState::Pending {
                self.drop_task(Work::Step(step));
            }
        }
    }

    fn ended(&mut self, ending: Ending) {
        let step = ending.work.step();
        if !ending.work.is_step() {
            if self.state == Some(SagaState::Compensating) {
                self.undoing_ended(step, ending.state == TaskState::Completed);
            }
            return;
        }
        self.left -= 1;
        if ending.state == TaskState::Completed {
            self.completed += 1;
            self.fates[step].fate = Some('C');
            self.fates[step].place = Some(self.completed);
            self.owed.push(step);
            self.tell_saga(EventType::SagaStepCompleted, Some(step));
            self.has_passed |= self.abort == Abort::None && self.plans[step].is_pivot;
        } else {
            self.step_failed(step, ending.state == TaskState::Cancelled);
        }
        if self.left > 0 {
            return;
        }
        if self.abort == Abort::None {
            self.finish(SagaMove::Complete);
        } else if self.has_passed {
            self.finish(SagaMove::GiveUp);
        } else {
            let lists = vec![self.owed.iter().rev().copied().collect()];
            self.go(SagaMove::TurnRound);
            self.tell_saga(EventType::SagaCompensating, None);
            if let Some(event) = self.events.last_mut() {
                (event.failed_step, event.lists) = (Some(self.failed_step), lists);
            }
            self.undo_next();
        }
    }

    fn step_failed(&mut self, step: usize, is_cancelled: bool) {
        let task = &self.tasks[&Work::Step(step)];
        let (is_doubtful, has_started) = (task.is_doubtful, task.attempt > 0);
        if is_doubtful {
            self.fates[step].fate = Some('D');
            self.owed.push(step);
        }
        if has_started {
            self.tell_saga(EventType::SagaStepFailed, Some(step));
        }
        if self.abort != Abort::None {
            return;
        }
        self.abort = if is_cancelled { Abort::Cancelled } else { Abort::Failed };
        if !is_cancelled || self.has_passed {
            self.failed_step = Some(step);
        }
        self.is_to_sweep = self.left > 0;
    }

    fn undoing_ended(&mut self, step: usize, is_undone: bool) {
        if is_undone {
            self.undone(step);
        } else {
            self.note_verdict(step, 'U');
            self.left_over.push(step);
            self.tell_saga(EventType::SagaStepCompensationFailed, Some(step));
        }
        self.undo_next();
    }

    fn undone(&mut self, step: usize) {
        self.note_verdict(step, 'X');
        self.tell_saga(EventType::SagaStepCompensated, Some(step));
    }

    fn note_verdict(&mut self, step: usize, fate: char) {
        self.verdicts += 1;
        self.fates[step].fate = Some(fate);
        self.fates[step].verdict = Some(self.verdicts);
    }

    /// Undoes the step that ended last, of those that are left; ends the saga behind the first.
    fn undo_next(&mut self) {
        while let Some(step) = self.owed.pop() {
            let Some(max_retries) = self.plans[step].undo_retries else {
                self.undone(step);
                continue;
            };
            let has_completed = self.fates[step].place.is_some();
            self.fates[step].fate = Some(if has_completed { 'C' } else { 'D' });
            self.left_over.retain(|left| *left != step);
            match self.fates[step].undo {
                Some(before) if self.tasks[&before].state != TaskState::Completed => self.revive(before),
                before => {
                    // The one before did its work, and the step's late success came behind it.
                    self.again += u32::from(before.is_some());
                    let work = Work::Undo(step, if before.is_some() { self.again } else { 0 });
                    self.fates[step].undo = Some(work);
                    self.make(work, max_retries, false);
                }
            }
            return;
        }
        let is_whole = self.left_over.is_empty();
        self.finish(if is_whole { SagaMove::Undo } else { SagaMove::GiveUp });
    }

    fn succeed_late(&mut self, work: Work) {
        let step = work.step();
        let (Some(state), false) = (self.state, std::mem::replace(&mut self.fates[step].has_come_late, true)) else {
            return;
        };
        let has_undo = self.plans[step].undo_retries.is_some();
        let is_over = state.is_terminal();
        if is_over {
            if has_undo && !self.has_passed {
                self.note_verdict(step, 'U');
                self.left_over.retain(|left| *left != step);
                self.left_over.insert(0, step);
            }
            self.late_letters.insert(work);
        } else if !self.has_passed {
            let undo = self.fates[step].undo.map(|undo| &self.tasks[&undo]);
            let is_still_to_begin = undo.is_none_or(|undo| undo.state == TaskState::Pending && undo.attempt == 0);
            if !(self.fates[step].fate == Some('D') && is_still_to_begin) {
                self.fates[step].fate = Some('D');
                self.left_over.retain(|left| *left != step);
                self.owed.push(step);
            }
        }
        self.tell_saga(EventType::SagaStepLateSuccess, Some(step));
    }

    /// Ends it.
    fn finish(&mut self, step: SagaMove) {
        let by = |wanted: &dyn Fn(&StepFate) -> Option<u32>| {
            let places = self
                .fates
                .iter()
                .zip(0..)
                .filter_map(|(fate, step)| Some((wanted(fate)?, step)));
            let mut places: Vec<(u32, usize)> = places.collect();
            places.sort_unstable();
            places.into_iter().map(|(_, step)| step).collect()
        };
        let lists = vec![
            by(&|fate| fate.place),
            by(&|fate| fate.verdict.filter(|_| fate.fate == Some('X'))),
            by(&|fate| fate.verdict.filter(|_| fate.fate == Some('U'))),
        ];
        self.go(step);
        let kind = match self.state {
            Some(SagaState::Completed) => EventType::SagaCompleted,
            Some(SagaState::Compensated) => EventType::SagaCompensated,
            _ => EventType::SagaFailed,
        };
        self.tell_saga(kind, None);
        if let Some(event) = self.events.last_mut() {
            (event.failed_step, event.lists) = (Some(self.failed_step), lists);
        }
    }

    // --- tasks ---

    fn make(&mut self, work: Work, max_retries: u32, is_blocked: bool) {
        let task = SagaTask {
            state: TaskState::Pending,
            is_blocked,
            due_ms: None,
            attempt: 0,
            retries: 0,
            max_retries,
            losses: 0,
            seq: 0,
            entry: 0,
            owner: None,
            is_doubtful: false,
            life: 1,
        };
        self.tasks.insert(work, task);
        if !is_blocked {
            self.enqueue(work);
        }
        self.tell_task(EventType::TaskCreated, work);
    }

    /// Another life, at the tail of the queue; of a step, behind what was given up with it.
    fn revive(&mut self, work: Work) {
        let task = &self.tasks[&work];
        self.letters.remove(&(work, task.attempt));
        let is_blocked = work.is_step() && !self.is_ready(work.step());
        self.change(work, |task| {
            task.state = TaskState::Pending;
            (task.retries, task.losses, task.owner) = (0, 0, None);
            task.life += 1;
            task.is_blocked = is_blocked;
        });
        self.tell_task(EventType::TaskRequeued, work);
        if !is_blocked {
            self.enqueue(work);
        }
    }

    /// Lets a task wait for its turn, at the tail.
    fn enqueue(&mut self, work: Work) {
        self.entries += 1;
        let entry = self.entries;
        self.change(work, |task| task.entry = entry);
        self.queue.push(work);
    }

    fn end(&mut self, work: Work, kind: EventType, step: TaskMove) {
        let state = self.change(work, |task| {
            task.state = moved(task.state, step);
            task.due_ms = None;
            task.is_blocked = false;
            task.state
        });
        self.tell_task(kind, work);
        self.endings.push(Ending { work, state });
    }

    fn bury(&mut self, work: Work, kind: EventType, step: TaskMove) {
        self.end(work, kind, step);
        self.letters.insert((work, self.tasks[&work].attempt));
        self.tell_task(EventType::TaskDeadLettered, work);
    }

    fn change<T>(&mut self, work: Work, change: impl FnOnce(&mut SagaTask) -> T) -> T {
        change(self.tasks.get_mut(&work).expect("only known tasks are changed"))
    }

    fn go(&mut self, step: SagaMove) {
        let from = self.state.unwrap_or(SagaState::Pending);
        self.state = Some(
            from.after(step)
                .unwrap_or_else(|| unreachable!("{step:?} of a saga that is {from}")),
        );
    }

    // --- events ---

    fn tell_saga(&mut self, kind: EventType, step: Option<usize>) {
        self.seq += 1;
        self.events.push(SagaEvent {
            kind,
            subject: Subject::Saga,
            seq: self.seq,
            step,
            failed_step: None,
            lists: Vec::new(),
        });
    }

    fn tell_task(&mut self, kind: EventType, work: Work) {
        let seq = self.change(work, |task| {
            task.seq += 1;
            task.seq
        });
        self.events.push(SagaEvent {
            kind,
            subject: Subject::Task(work),
            seq,
            step: Some(work.step()),
            failed_step: None,
            lists: Vec::new(),
        });
    }
}

/// The state behind a move, which the callers have seen to be legal.
fn moved(state: TaskState, step: TaskMove) -> TaskState {
    state
        .after(step)
        .unwrap_or_else(|| unreachable!("{step:?} of a task that is {state}"))
}
