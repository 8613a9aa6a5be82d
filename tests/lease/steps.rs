//! What can happen, in which order, and what is a fault.

use super::guard::Broken;
use super::rules::{Rules, count, die};
use super::state::{Call, LONG_OUTAGE, Life, Outcome, REPLICAS, Settlement, State, Task};

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Two seconds pass.
    Tick,
    /// A replica beats and looks at the others, in one order or the other.
    Turn {
        by: usize,
        looks_first: bool,
        fate: Fate,
    },
    Claim {
        by: usize,
        answer: Answer,
    },
    /// The answer of a claim that took its time.
    Deliver {
        to: usize,
    },
    /// A handler ends and its end is sent.
    End {
        by: usize,
        outcome: Outcome,
        answer: Answer,
    },
    /// The end that was not answered is sent again.
    EndAgain {
        by: usize,
        answer: Answer,
    },
    /// The call that was stuck arrives.
    Arrive {
        is_answered: bool,
    },
    Stop {
        who: usize,
    },
    Continue {
        who: usize,
    },
    Crash {
        who: usize,
    },
    Cut {
        who: usize,
    },
    Heal {
        who: usize,
    },
    Freeze,
    Thaw,
    PowerLoss,
}

/// What goes wrong in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    Fine,
    /// The answer of the beat gets lost.
    BeatLost,
    /// The call that takes over is stuck.
    TakeoverStuck,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    /// It is carried out and answered.
    Prompt,
    /// It is carried out; the answer takes its time.
    Slow,
    /// It is carried out; the answer gets lost.
    Lost,
    /// It is on its way and arrives at any time.
    Stuck,
}

/// How far the model goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Faults of all kinds together.
    pub(crate) faults: u8,
    /// Claims altogether.
    pub(crate) claims: u8,
    /// Replicas stop, continue, crash and lose the network; Redis freezes; answers of beats get lost, takeovers are stuck.
    pub(crate) has_outages: bool,
    /// Claims and settlements are late, lost or stuck; attempts fail and are tried again.
    pub(crate) has_bad_calls: bool,
    /// Redis loses its last write.
    pub(crate) has_power_loss: bool,
}

impl Rules {
    /// Carries out a step; `None` where it changes nothing.
    pub(crate) fn take(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        if is_fault(step) {
            next.faults += 1;
        }
        match step {
            Step::Tick => self.tick(&mut next),
            Step::Turn { by, looks_first, fate } => {
                next.replicas[by].had_turn = true;
                if next.is_behind(by) {
                    // It gives up waiting for what is stuck.
                    next.is_awaited = false;
                }
                if std::mem::take(&mut next.replicas[by].saw_loss) && !self.breaks(Broken::NameKeptAfterLoss) {
                    self.fence(&mut next, by);
                }
                if looks_first {
                    self.look(&mut next, by, fate);
                }
                self.beat(&mut next, by, fate != Fate::BeatLost);
                if !looks_first {
                    self.look(&mut next, by, fate);
                }
            }
            Step::Claim { by, answer } => {
                let own = next.name(by);
                match answer {
                    Answer::Stuck => (next.stuck, next.is_awaited) = (Some(Call::Claim { by: own }), true),
                    Answer::Prompt => {
                        let given = self.claim(&mut next, own)?;
                        self.enter(&mut next, by, given);
                    }
                    Answer::Slow => next.replicas[by].reply = Some(self.claim(&mut next, own)?),
                    Answer::Lost => {
                        self.claim(&mut next, own)?;
                    }
                }
            }
            Step::Deliver { to } => {
                let given = next.replicas[to].reply.take()?;
                self.enter(&mut next, to, given);
            }
            Step::End { by, outcome, answer } => {
                let held = next.replicas[by].held?;
                next.replicas[by].outbox = Some(Settlement {
                    attempt: held.attempt,
                    execution: held.execution,
                    outcome,
                });
                self.send_end(&mut next, by, answer);
            }
            Step::EndAgain { by, answer } => self.send_end(&mut next, by, answer),
            Step::Arrive { is_answered } => self.arrive(&mut next, is_answered),
            Step::Stop { who } => {
                next.replicas[who].life = Life::Stopped;
                next.replicas[who].was_away = true;
            }
            Step::Continue { who } => {
                next.replicas[who].life = Life::Up;
                next.replicas[who].late = 1;
            }
            Step::Crash { who } => die(&mut next, who),
            Step::Cut { who } => {
                let replica = &mut next.replicas[who];
                (replica.is_cut, replica.was_away, replica.reply) = (true, true, None);
            }
            Step::Heal { who } => {
                next.replicas[who].is_cut = false;
                next.replicas[who].late = 1;
            }
            Step::Freeze => next.frozen = Some(0),
            Step::Thaw => {
                // A call that still waits is answered now; who has given up tries again within a tick.
                let late = u8::from(next.frozen.take()? == LONG_OUTAGE);
                next.replicas.iter_mut().for_each(|replica| replica.late = late);
            }
            Step::PowerLoss => {
                count(&self.seen.power_losses);
                next.redis = next.before.take()?;
                // Every connection ends with the server.
                (next.stuck, next.is_awaited) = (None, false);
                for replica in next.replicas.iter_mut().filter(|replica| replica.life != Life::Dead) {
                    (replica.reply, replica.late, replica.saw_loss) = (None, 1, true);
                }
            }
        }
        if !self.bounds.has_power_loss || next.faults >= self.bounds.faults {
            // No power loss can follow.
            next.before = None;
        } else if next.redis.written() != state.redis.written() && step != Step::PowerLoss {
            next.before = Some(state.redis.clone());
        }
        (next != *state).then_some(next)
    }

    /// All that can happen next, in a stable order.
    pub(crate) fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        if state.violation.is_some() {
            return;
        }
        let bounds = &self.bounds;
        let may_fail = state.faults < bounds.faults;
        let may_stick = may_fail && state.stuck.is_none();
        let answers: Vec<Answer> = [
            (Answer::Prompt, true),
            (Answer::Lost, may_fail && bounds.has_bad_calls),
            (Answer::Stuck, may_stick && bounds.has_bad_calls),
        ]
        .into_iter()
        .filter_map(|(answer, is_possible)| is_possible.then_some(answer))
        .collect();
        if may_tick(state) {
            steps.push(Step::Tick);
        }
        for by in 0..REPLICAS {
            let replica = &state.replicas[by];
            if replica.life == Life::Dead {
                continue;
            }
            if state.is_connected(by) {
                if !replica.had_turn {
                    for looks_first in [false, true] {
                        let turn = |fate| Step::Turn { by, looks_first, fate };
                        steps.push(turn(Fate::Fine));
                        if may_fail && bounds.has_outages {
                            steps.push(turn(Fate::BeatLost));
                        }
                        if may_stick && bounds.has_outages {
                            steps.push(turn(Fate::TakeoverStuck));
                        }
                    }
                }
                let is_free = !state.is_behind(by);
                if is_free
                    && state.redis.task == Task::Queued
                    && replica.reply.is_none()
                    && state.claims < bounds.claims
                {
                    steps.extend(answers.iter().map(|&answer| Step::Claim { by, answer }));
                    if may_fail && bounds.has_bad_calls {
                        steps.push(Step::Claim {
                            by,
                            answer: Answer::Slow,
                        });
                    }
                    if may_stick && !bounds.has_bad_calls {
                        steps.push(Step::Claim {
                            by,
                            answer: Answer::Stuck,
                        });
                    }
                }
                if replica.reply.is_some() {
                    steps.push(Step::Deliver { to: by });
                }
                if !is_free {
                    // Everything waits.
                } else if replica.outbox.is_some() {
                    steps.extend(answers.iter().map(|&answer| Step::EndAgain { by, answer }));
                } else if replica.held.is_some() {
                    let outcomes: &[Outcome] = if bounds.has_bad_calls {
                        &[Outcome::Completed, Outcome::Failed]
                    } else {
                        &[Outcome::Completed]
                    };
                    for &outcome in outcomes {
                        steps.extend(answers.iter().map(|&answer| Step::End { by, outcome, answer }));
                    }
                }
            }
            if replica.life == Life::Stopped {
                steps.push(Step::Continue { who: by });
            } else if may_fail && bounds.has_outages {
                steps.push(Step::Stop { who: by });
                steps.push(Step::Crash { who: by });
                if !replica.is_cut {
                    steps.push(Step::Cut { who: by });
                }
            }
            if replica.is_cut {
                steps.push(Step::Heal { who: by });
            }
        }
        if state.stuck.is_some() && state.frozen.is_none() {
            steps.push(Step::Arrive { is_answered: true });
            steps.push(Step::Arrive { is_answered: false });
        }
        if state.frozen.is_some() {
            steps.push(Step::Thaw);
        } else if may_fail {
            if bounds.has_outages {
                steps.push(Step::Freeze);
            }
            if state.before.is_some() {
                steps.push(Step::PowerLoss);
            }
        }
    }
}

/// Whether time may go on: whoever can beat, join and look does so in every tick.
fn may_tick(state: &State) -> bool {
    (0..REPLICAS).all(|index| {
        let replica = &state.replicas[index];
        !state.is_connected(index) || replica.late > 0 || replica.had_turn
    })
}

fn is_fault(step: Step) -> bool {
    match step {
        Step::Turn { fate, .. } => fate != Fate::Fine,
        Step::Claim { answer, .. } | Step::End { answer, .. } | Step::EndAgain { answer, .. } => {
            answer != Answer::Prompt
        }
        Step::Stop { .. } | Step::Crash { .. } | Step::Cut { .. } | Step::Freeze | Step::PowerLoss => true,
        Step::Tick
        | Step::Deliver { .. }
        | Step::Arrive { .. }
        | Step::Continue { .. }
        | Step::Heal { .. }
        | Step::Thaw => false,
    }
}
