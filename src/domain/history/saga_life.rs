//! One saga as its events and those of its tasks tell it.
//!
//! A step has ended when its task has; the steps that completed or are in doubt stand in the order of their ends. From the
//! turn on they are owed in reverse, and every compensation must be of the one that is due. The first task that is created
//! for a step carries it out; what comes later undoes it.

use std::collections::BTreeMap;

use super::flaw::Flaw;
use super::life::Counted;
use crate::domain::event::EventType;
use crate::domain::id::TaskId;
use crate::domain::saga_state::{SagaMove, SagaState};
use crate::domain::state::TaskState;

/// Errors behind which an action may have had its effect all the same; `store/lua/end.lua` knows them too.
const DOUBTFUL: [&str; 7] = [
    "timeout",
    "lost",
    "cancelled",
    "connection_broken",
    "invalid_result",
    "result_too_large",
    "panic",
];

/// A saga as far as its events were read.
#[derive(Debug)]
pub(super) struct SagaLife {
    state: SagaState,
    total: u64,
    pivot: Option<Box<str>>,
    /// Whether the pivot completed before anything failed.
    has_passed: bool,
    /// Whether a step ended without success, so that nothing new begins.
    has_failed: bool,
    steps: BTreeMap<Box<str>, Step>,
    /// Steps that completed, in that order.
    completed: Vec<Box<str>>,
    /// Steps that are to be undone, the one that is due last.
    owed: Vec<Box<str>>,
    /// The step that is being undone.
    current: Option<Box<str>>,
    /// Steps that could not be undone, in the order in which that was tried.
    left_over: Vec<Box<str>>,
    /// Steps that are undone, in the order in which they were.
    undone: Vec<Box<str>>,
}

/// A step as far as its tasks were read.
#[derive(Debug)]
struct Step {
    task: TaskId,
    state: TaskState,
    is_doubtful: bool,
    /// Whether it was given up between two attempts, so that its cancel leaves nothing open.
    was_idle: bool,
    /// What undoes it, or last did.
    undo: Option<Undo>,
}

#[derive(Debug)]
struct Undo {
    task: TaskId,
    state: TaskState,
    has_started: bool,
}

/// Whether an error leaves open if the action took effect.
fn is_doubtful(counted: &Counted) -> bool {
    let kind = counted.error.as_ref().and_then(|error| error.kind.as_deref());
    kind.is_some_and(|kind| DOUBTFUL.contains(&kind))
}

fn texts(names: &[Box<str>]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

impl SagaLife {
    /// A saga that is started.
    pub(super) fn started(counted: &Counted) -> Self {
        Self {
            state: SagaState::Pending,
            total: counted.total_steps.unwrap_or_default(),
            pivot: counted.pivot.as_deref().map(Into::into),
            has_passed: false,
            has_failed: false,
            steps: BTreeMap::new(),
            completed: Vec::new(),
            owed: Vec::new(),
            current: None,
            left_over: Vec::new(),
            undone: Vec::new(),
        }
    }

    /// Whether nothing is left to be waited for, and yet it has not ended. It turns round and ends in the same step as the
    /// task that is the last.
    pub(super) fn is_stuck(&self) -> bool {
        match self.state {
            SagaState::Pending | SagaState::Running => self.total > 0 && self.open_steps() == 0,
            SagaState::Compensating => self.current.is_none() && self.owed.is_empty(),
            SagaState::Completed | SagaState::Compensated | SagaState::Failed => false,
        }
    }

    /// How many of its steps have not ended, those included that were not told of.
    fn open_steps(&self) -> u64 {
        let ended = self.steps.values().filter(|step| step.state.is_terminal()).count() as u64;
        self.total.saturating_sub(ended)
    }

    /// An event of one of its tasks, after which that is in `state`.
    pub(super) fn follow_task(
        &mut self,
        kind: EventType,
        id: TaskId,
        counted: &Counted,
        state: Option<TaskState>,
        flaws: &mut Vec<Flaw>,
    ) {
        let (Some(name), Some(state)) = (counted.step.as_deref(), state) else {
            return;
        };
        let Some(step) = self.steps.get_mut(name) else {
            let step = Step {
                task: id,
                state,
                is_doubtful: false,
                was_idle: false,
                undo: None,
            };
            self.steps.insert(name.into(), step);
            return;
        };
        if step.task == id {
            step.was_idle = kind == EventType::TaskCancelled && step.state == TaskState::Pending;
            step.state = state;
            let is_handed_back = kind == EventType::TaskReleased && counted.reason.as_deref() == Some("shutdown");
            step.is_doubtful |= is_handed_back || (kind == EventType::TaskRetryScheduled && is_doubtful(counted));
            if kind == EventType::TaskStarted && self.state != SagaState::Pending && self.state != SagaState::Running {
                flaws.push(Flaw::StepAfterTurn(name.to_owned()));
            }
            return;
        }
        let is_begun = matches!(kind, EventType::TaskCreated | EventType::TaskRequeued);
        let undo = step.undo.get_or_insert(Undo {
            task: id,
            state,
            has_started: false,
        });
        undo.state = state;
        if is_begun {
            (undo.task, undo.has_started) = (id, false);
            self.begin_undoing(name, flaws);
        } else if kind == EventType::TaskStarted {
            undo.has_started = true;
            if self.current.as_deref() != Some(name) {
                flaws.push(Flaw::UndoneOutOfTurn {
                    step: name.to_owned(),
                    due: self.due(),
                });
            }
        }
    }

    /// The step that is to be undone now.
    fn due(&self) -> Option<String> {
        self.current.as_ref().or(self.owed.last()).map(ToString::to_string)
    }

    /// A compensation is made, or gets another life.
    fn begin_undoing(&mut self, name: &str, flaws: &mut Vec<Flaw>) {
        let is_due = self.state == SagaState::Compensating
            && self.current.is_none()
            && self.owed.last().is_some_and(|due| **due == *name);
        if !is_due {
            flaws.push(Flaw::UndoneOutOfTurn {
                step: name.to_owned(),
                due: self.due(),
            });
        }
        self.take_owed(name);
        self.current = Some(name.into());
    }

    /// Takes a step off those that are to be undone, wherever it stands, or one flaw would show as many.
    fn take_owed(&mut self, name: &str) {
        if let Some(place) = self.owed.iter().rposition(|owed| **owed == *name) {
            self.owed.remove(place);
        }
    }

    /// One of its own events; not the first.
    #[allow(clippy::wildcard_enum_match_arm, reason = "only types of a saga come here")]
    pub(super) fn follow(&mut self, kind: EventType, counted: &Counted, flaws: &mut Vec<Flaw>) {
        let name = counted.step.as_deref().unwrap_or_default();
        match kind {
            EventType::SagaStarted => flaws.push(Flaw::SagaToldAgain(kind)),
            EventType::SagaStepStarted => {
                self.check_step(kind, name, |step| step.state == TaskState::Running, flaws);
                if self.state == SagaState::Pending {
                    self.state = SagaState::Running;
                }
            }
            EventType::SagaStepCompleted => {
                self.check_step(kind, name, |step| step.state == TaskState::Completed, flaws);
                if self.completed.iter().any(|known| **known == *name) {
                    flaws.push(Flaw::StepOtherwise {
                        event: kind,
                        step: name.to_owned(),
                    });
                    return;
                }
                self.completed.push(name.into());
                self.owed.push(name.into());
                self.has_passed |= !self.has_failed && self.pivot.as_deref() == Some(name);
            }
            EventType::SagaStepFailed => {
                let is_over = |step: &Step| step.state.is_terminal() && step.state != TaskState::Completed;
                self.check_step(kind, name, is_over, flaws);
                self.has_failed = true;
                let step = self.steps.get(name);
                let is_idle = step.is_some_and(|step| step.was_idle);
                if (is_doubtful(counted) && !is_idle) || step.is_some_and(|step| step.is_doubtful) {
                    self.owed.push(name.into());
                }
            }
            EventType::SagaCompensating => self.turn_round(counted, flaws),
            EventType::SagaStepCompensated => self.undo(kind, name, counted, flaws),
            EventType::SagaStepCompensationFailed => {
                self.undo(kind, name, counted, flaws);
                self.left_over.push(name.into());
            }
            EventType::SagaStepLateSuccess => self.succeed_late(name, counted),
            EventType::SagaCompleted => self.end(kind, SagaMove::Complete, SagaState::Completed, counted, flaws),
            EventType::SagaCompensated => self.end(kind, SagaMove::Undo, SagaState::Compensated, counted, flaws),
            EventType::SagaFailed => self.end(kind, SagaMove::GiveUp, SagaState::Failed, counted, flaws),
            EventType::SagaResumed => self.resume(flaws),
            _ => {}
        }
    }

    /// What is told of a step must be what its task tells.
    fn check_step(&self, event: EventType, name: &str, is_so: impl Fn(&Step) -> bool, flaws: &mut Vec<Flaw>) {
        if !self.steps.get(name).is_some_and(is_so) {
            let step = name.to_owned();
            flaws.push(Flaw::StepOtherwise { event, step });
        }
    }

    fn go(&mut self, step: SagaMove, event: EventType, to: SagaState, flaws: &mut Vec<Flaw>) {
        if self.state.after(step) != Some(to) {
            flaws.push(Flaw::SagaMove {
                state: self.state,
                event,
            });
        }
        // Believed all the same, or one flaw would show as many.
        self.state = to;
    }

    fn turn_round(&mut self, counted: &Counted, flaws: &mut Vec<Flaw>) {
        let open = self.open_steps();
        if open > 0 {
            flaws.push(Flaw::SagaTurnedEarly(open));
        }
        if self.has_passed {
            flaws.push(Flaw::BehindPivot);
        }
        self.go(
            SagaMove::TurnRound,
            EventType::SagaCompensating,
            SagaState::Compensating,
            flaws,
        );
        let due: Vec<Box<str>> = self.owed.iter().rev().cloned().collect();
        compare("steps_to_compensate", counted.steps_to_compensate.as_ref(), &due, flaws);
    }

    /// A step is undone, or is not.
    fn undo(&mut self, event: EventType, name: &str, counted: &Counted, flaws: &mut Vec<Flaw>) {
        let due = self.due();
        let is_due = due.as_deref() == Some(name);
        if self.state != SagaState::Compensating || !is_due {
            flaws.push(Flaw::UndoneOutOfTurn {
                step: name.to_owned(),
                due,
            });
        }
        let wanted = |state: TaskState| {
            let is_done = state == TaskState::Completed;
            state.is_terminal() && is_done == (event == EventType::SagaStepCompensated)
        };
        let undo = self.steps.get(name).and_then(|step| step.undo.as_ref());
        let is_so = match (&counted.task_id, undo) {
            (Some(task), Some(undo)) => self.current.is_some() && *task == undo.task.to_string() && wanted(undo.state),
            // What nothing undoes counts as undone.
            (None, _) => self.current.is_none() && event == EventType::SagaStepCompensated,
            (Some(_), None) => false,
        };
        if !is_so && is_due {
            let step = name.to_owned();
            flaws.push(Flaw::StepOtherwise { event, step });
        }
        if self.current.as_deref() == Some(name) {
            self.current = None;
        } else {
            self.take_owed(name);
        }
        self.left_over.retain(|left| **left != *name);
        self.undone.retain(|undone| **undone != *name);
        if event == EventType::SagaStepCompensated {
            self.undone.push(name.into());
        }
    }

    /// A success of a step that had been given up: it is undone as what ended last, unless its turn is still to come.
    fn succeed_late(&mut self, name: &str, counted: &Counted) {
        if self.has_passed {
            return;
        }
        if self.state.is_terminal() {
            if counted.has_compensation == Some(true) {
                self.undone.retain(|undone| **undone != *name);
                self.left_over.retain(|left| **left != *name);
                // Undone first when somebody resumes the saga.
                self.left_over.insert(0, name.into());
            }
            return;
        }
        let is_begun = |step: &Step| step.undo.as_ref().is_some_and(|undo| undo.has_started);
        let is_to_come = self.owed.iter().any(|owed| **owed == *name)
            || (self.current.as_deref() == Some(name) && !self.steps.get(name).is_some_and(is_begun));
        if !is_to_come {
            self.left_over.retain(|left| **left != *name);
            self.undone.retain(|undone| **undone != *name);
            self.owed.push(name.into());
        }
    }

    fn end(&mut self, event: EventType, step: SagaMove, to: SagaState, counted: &Counted, flaws: &mut Vec<Flaw>) {
        let before = flaws.len();
        let open = self.open_steps();
        if open > 0 {
            flaws.push(Flaw::SagaTurnedEarly(open));
        }
        let from = self.state;
        self.go(step, event, to, flaws);
        if flaws.len() > before {
            return;
        }
        if from == SagaState::Compensating
            && let Some(step) = self.due()
        {
            flaws.push(Flaw::NotUndone(step));
            return;
        }
        let has_all = self.completed.len() as u64 == self.total;
        let is_rightly_so = if to == SagaState::Completed {
            has_all
        } else if to == SagaState::Compensated {
            self.left_over.is_empty()
        } else if from == SagaState::Running {
            // Behind the pivot something was given up.
            self.has_passed && !has_all
        } else {
            !self.left_over.is_empty()
        };
        if !is_rightly_so {
            flaws.push(Flaw::SagaOtherEnd {
                event,
                left: texts(&self.left_over),
            });
            return;
        }
        compare(
            "completed_steps",
            counted.completed_steps.as_ref(),
            &self.completed,
            flaws,
        );
        compare(
            "compensated_steps",
            counted.compensated_steps.as_ref(),
            &self.undone,
            flaws,
        );
        compare(
            "uncompensated_steps",
            counted.uncompensated_steps.as_ref(),
            &self.left_over,
            flaws,
        );
    }

    /// An operator lets it go on: back from where it failed to undo, or behind the pivot forward.
    fn resume(&mut self, flaws: &mut Vec<Flaw>) {
        let (event, is_forward) = (EventType::SagaResumed, self.has_passed);
        if is_forward {
            self.go(SagaMove::ResumeForward, event, SagaState::Running, flaws);
            self.has_failed = false;
            let completed = &self.completed;
            self.owed.retain(|owed| completed.contains(owed));
            return;
        }
        if self.left_over.is_empty() && self.state.after(SagaMove::ResumeBack).is_some() {
            flaws.push(Flaw::SagaMove {
                state: self.state,
                event,
            });
        }
        self.go(SagaMove::ResumeBack, event, SagaState::Compensating, flaws);
        self.owed = std::mem::take(&mut self.left_over).into_iter().rev().collect();
    }
}

/// A list of steps that an event names, against what happened.
fn compare(what: &'static str, told: Option<&Vec<String>>, found: &[Box<str>], flaws: &mut Vec<Flaw>) {
    if let Some(told) = told
        && !told.iter().map(String::as_str).eq(found.iter().map(|name| &**name))
    {
        flaws.push(Flaw::OtherSteps {
            what,
            told: told.clone(),
            found: texts(found),
        });
    }
}

#[cfg(test)]
mod tests;
