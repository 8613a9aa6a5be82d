//! What can happen, and what it does: the calls as the functions in `src/store/lua` carry them out, the replica as
//! `src/runtime` behaves, and the faults.

use std::sync::atomic::{AtomicU64, Ordering};

use super::guard::Broken;
use super::state::{
    Call, GAP, Held, LONG_OUTAGE, Life, NAMES, Name, Outcome, REPLICAS, SILENCE, Settlement, State, Task, Violation,
    name, replica_of,
};

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

/// What the steps went through, so that a model in which nothing happens does not pass.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) stale_settlements: AtomicU64,
    pub(crate) repeated_settlements: AtomicU64,
    pub(crate) takeovers: AtomicU64,
    pub(crate) takeovers_of_the_living: AtomicU64,
    pub(crate) found_by_a_beat: AtomicU64,
    pub(crate) fenced: AtomicU64,
    pub(crate) strangers_turned_away: AtomicU64,
    pub(crate) power_losses: AtomicU64,
}

impl Seen {
    /// The counts now.
    pub(crate) fn of(seen: &Self) -> Self {
        let copy = |counter: &AtomicU64| AtomicU64::new(counter.load(Ordering::Relaxed));
        Self {
            stale_settlements: copy(&seen.stale_settlements),
            repeated_settlements: copy(&seen.repeated_settlements),
            takeovers: copy(&seen.takeovers),
            takeovers_of_the_living: copy(&seen.takeovers_of_the_living),
            found_by_a_beat: copy(&seen.found_by_a_beat),
            fenced: copy(&seen.fenced),
            strangers_turned_away: copy(&seen.strangers_turned_away),
            power_losses: copy(&seen.power_losses),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The rules, with at most one of them broken.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) broken: Option<Broken>,
    pub(crate) bounds: Bounds,
    pub(crate) seen: Seen,
}

impl Rules {
    fn breaks(&self, rule: Broken) -> bool {
        self.broken == Some(rule)
    }

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

    /// Two seconds pass, for everybody: a stopped process does not stop the clock.
    fn tick(&self, state: &mut State) {
        let could_take_back = (0..REPLICAS).any(|index| {
            let replica = &state.replicas[index];
            let is_steady = replica.steady.is_some() && replica.beaten <= GAP;
            state.is_connected(index) && replica.had_turn && !replica.was_away && is_steady
        });
        let owner = state.redis.owner;
        let is_orphan = state.redis.task == Task::Running && !state.is_in_use(owner);
        state.orphaned = if is_orphan && could_take_back {
            state.orphaned + 1
        } else {
            0
        };
        if state.orphaned > SILENCE + 2 {
            state.violate(Violation::NeverTakenBack);
        }
        state.frozen = state.frozen.map(|age| (age + 1).min(LONG_OUTAGE));
        for replica in &mut state.replicas {
            if replica.life == Life::Dead {
                continue;
            }
            replica.beaten = (replica.beaten + 1).min(GAP + 1);
            replica.steady = replica.steady.map(|age| (age + 1).min(SILENCE));
            for age in replica.sightings.iter_mut().flatten() {
                *age = (*age + 1).min(SILENCE);
            }
            if !replica.had_turn {
                replica.late = replica.late.saturating_sub(1);
            }
            replica.had_turn = false;
        }
        if self.breaks(Broken::JudgedByRedisClock) {
            state
                .redis
                .quiet
                .iter_mut()
                .for_each(|age| *age = (*age + 1).min(SILENCE));
        }
        if self.breaks(Broken::JudgedByIdleTime) {
            state.redis.idle = (state.redis.idle + 1).min(SILENCE);
        }
    }

    /// `beat`, and what the replica does with its answer.
    fn beat(&self, state: &mut State, by: usize, is_answered: bool) {
        let own = state.name(by);
        if !state.redis.knows(own) {
            if is_answered {
                self.fence(state, by);
            }
            return;
        }
        for replica in &mut state.replicas {
            replica.moved |= 1 << own;
        }
        if let Some(Call::Takeover { victim, has_moved }) = &mut state.stuck {
            *has_moved |= *victim == own;
        }
        state.redis.quiet[by] = 0;
        let is_owner = state.redis.task == Task::Running && state.redis.owner == own;
        let had_beaten_since = state.redis.has_beaten_since;
        state.redis.has_beaten_since |= is_owner;
        if !is_answered {
            return;
        }
        let (attempt, execution) = (state.redis.attempt, state.redis.execution);
        let replica = &mut state.replicas[by];
        if replica.steady.is_none() || replica.beaten > GAP {
            // From now on it must be patient anew, and so must who waits for it.
            replica.steady = Some(0);
            state.orphaned = 0;
        }
        (replica.beaten, replica.late, replica.was_away) = (0, 0, false);
        match replica.held {
            Some(held) if !(is_owner && held.attempt == attempt) => {
                if !self.breaks(Broken::BeatHidesGone) {
                    replica.held = None;
                }
            }
            Some(_) => {}
            None if is_owner && had_beaten_since && !self.breaks(Broken::BeatHidesLostClaims) => {
                // Not while its end is on its way: what is held stays on the list until it is settled.
                if replica.outbox.is_none_or(|settlement| settlement.attempt != attempt) {
                    count(&self.seen.found_by_a_beat);
                    self.enter(state, by, (attempt, execution));
                }
            }
            None => {}
        }
        let replica = &state.replicas[by];
        let is_own = |held: Held| is_owner && held.attempt == attempt;
        let is_unknown = is_owner && replica.held.is_none() && replica.outbox.is_none() && replica.reply.is_none();
        if replica.held.is_some_and(|held| !is_own(held)) {
            state.violate(Violation::RunsWhatIsNotItsOwn);
        }
        state.untold = match (is_owner, is_unknown) {
            (true, true) => state.untold + 1,
            (true, false) => 0,
            (false, _) => state.untold,
        };
        if state.untold > 1 {
            state.violate(Violation::NeverHandedOutAgain);
        }
    }

    /// The replica learns that nobody knows it: it drops everything and joins under a new name.
    fn fence(&self, state: &mut State, by: usize) {
        count(&self.seen.fenced);
        let replica = &mut state.replicas[by];
        (replica.held, replica.outbox, replica.reply) = (None, None, None);
        replica.sightings = [None; REPLICAS * NAMES];
        (replica.moved, replica.steady, replica.beaten) = (0, Some(0), 0);
        (replica.late, replica.was_away) = (0, false);
        if usize::from(replica.incarnation) + 1 == NAMES {
            // Out of names: as good as gone for good.
            die(state, by);
            return;
        }
        replica.incarnation += 1;
        state.orphaned = 0;
        state.redis.known |= 1 << state.name(by);
        state.redis.quiet[by] = 0;
    }

    /// A look at the beats of all others, and what follows from it.
    fn look(&self, state: &mut State, by: usize, fate: Fate) {
        if state.replicas[by].life == Life::Dead {
            return;
        }
        let own = state.name(by);
        let known = state.redis.known;
        let replica = &mut state.replicas[by];
        let is_steady = replica.beaten <= GAP;
        let steady = replica.steady.filter(|_| is_steady);
        let mut silent = Vec::new();
        for index in 0..REPLICAS {
            for incarnation in 0..NAMES {
                let other = name(index, u8::try_from(incarnation).expect("there are few names"));
                let sighting = &mut replica.sightings[usize::from(other)];
                if known & (1 << other) == 0 || other == own {
                    *sighting = None;
                    continue;
                }
                let age = match *sighting {
                    Some(age) if replica.moved & (1 << other) == 0 => age,
                    Some(_) | None => 0,
                };
                *sighting = Some(age);
                let is_silent = if self.breaks(Broken::JudgedDespiteOwnGap) {
                    age >= SILENCE
                } else if self.breaks(Broken::JudgedByRedisClock) {
                    state.redis.quiet[index] >= SILENCE
                } else {
                    steady.is_some_and(|steady| age.min(steady) >= SILENCE)
                };
                if is_silent && !self.breaks(Broken::NobodyTakesOver) {
                    silent.push(other);
                }
            }
        }
        replica.moved = 0;
        for victim in silent {
            if fate == Fate::TakeoverStuck && state.stuck.is_none() {
                state.stuck = Some(Call::Takeover {
                    victim,
                    has_moved: false,
                });
            } else {
                self.takeover(state, victim, false);
            }
        }
        let redis = &state.redis;
        if self.breaks(Broken::JudgedByIdleTime) && redis.task == Task::Running && redis.idle >= SILENCE {
            let owner = redis.owner;
            self.take_back(state, owner);
        }
    }

    fn takeover(&self, state: &mut State, victim: Name, has_moved: bool) {
        if !state.redis.knows(victim) {
            return;
        }
        if has_moved && !self.breaks(Broken::TakeoverIgnoresSeenBeat) {
            count(&self.seen.takeovers_of_the_living);
            return;
        }
        count(&self.seen.takeovers);
        self.take_back(state, victim);
        state.redis.forget(victim);
    }

    fn take_back(&self, state: &mut State, victim: Name) {
        let index = replica_of(victim);
        let replica = &state.replicas[index];
        if state.is_in_use(victim) && replica.life == Life::Up && !replica.is_cut && !replica.was_away {
            state.violate(Violation::LostWhileAlive);
        }
        let redis = &mut state.redis;
        if redis.task == Task::Running && redis.owner == victim {
            redis.task = Task::Queued;
        }
    }

    /// Answers the attempt and the execution that it stands for.
    fn claim(&self, state: &mut State, by: Name) -> Option<(u8, u8)> {
        if !state.redis.knows(by) && !self.breaks(Broken::ClaimServesStrangers) {
            count(&self.seen.strangers_turned_away);
            return None;
        }
        if state.redis.task != Task::Queued || state.claims == self.bounds.claims {
            return None;
        }
        state.claims += 1;
        state.untold = 0;
        let redis = &mut state.redis;
        redis.task = Task::Running;
        redis.owner = by;
        if redis.attempt == 0 || !self.breaks(Broken::ClaimKeepsAttempt) {
            redis.attempt += 1;
        }
        redis.execution = state.claims;
        let replica = &state.replicas[replica_of(by)];
        let is_same = |held: &Held| held.attempt == redis.attempt && replica.saw_loss;
        if let Some(held) = replica.held.filter(is_same) {
            // The claim for what it runs was undone, and it is given the same attempt anew: what runs stands for it.
            redis.execution = held.execution;
        }
        (redis.has_beaten_since, redis.idle) = (false, 0);
        Some((redis.attempt, redis.execution))
    }

    /// An attempt arrives at its replica, from a claim or a beat.
    fn enter(&self, state: &mut State, by: usize, (attempt, execution): (u8, u8)) {
        let replica = &mut state.replicas[by];
        match &replica.held {
            Some(held) if held.attempt >= attempt => {
                if held.execution == execution && self.breaks(Broken::EnteredTwice) {
                    state.violate(Violation::RanTwice);
                }
            }
            Some(_) | None => {
                replica.held = Some(Held { attempt, execution });
            }
        }
    }

    /// Sends what is in the outbox.
    fn send_end(&self, state: &mut State, by: usize, answer: Answer) {
        let Some(settlement) = state.replicas[by].outbox else {
            return;
        };
        let own = state.name(by);
        if answer == Answer::Stuck {
            (state.stuck, state.is_awaited) = (Some(Call::Settle { by: own, settlement }), true);
            return;
        }
        self.settle(state, own, settlement);
        if answer == Answer::Prompt {
            confirmed(state, by);
        }
    }

    fn settle(&self, state: &mut State, by: Name, settlement: Settlement) {
        let redis = &mut state.redis;
        let is_running = redis.task == Task::Running || self.breaks(Broken::SettleIgnoresState);
        let is_owner = redis.owner == by || self.breaks(Broken::SettleIgnoresOwner);
        let is_attempt = redis.attempt == settlement.attempt || self.breaks(Broken::SettleIgnoresAttempt);
        if !(is_running && is_owner && is_attempt) {
            let was_settled = redis.owner == by && redis.attempt == settlement.attempt;
            count(if was_settled {
                &self.seen.repeated_settlements
            } else {
                &self.seen.stale_settlements
            });
            return;
        }
        let is_stale = redis.execution != settlement.execution;
        match settlement.outcome {
            Outcome::Completed => {
                redis.task = Task::Done;
                redis.ends += 1;
            }
            Outcome::Failed => redis.task = Task::Queued,
        }
        let ends = redis.ends;
        if is_stale {
            state.violate(Violation::StaleSettlement);
        }
        if ends > 1 {
            state.violate(Violation::EndedTwice);
        }
    }

    /// The call that was stuck gets to Redis; its answer finds the sender, if that still waits.
    fn arrive(&self, state: &mut State, is_answered: bool) {
        let Some(call) = state.stuck.take() else { return };
        let is_answered = is_answered && std::mem::take(&mut state.is_awaited);
        match call {
            Call::Claim { by } => {
                let given = self.claim(state, by);
                let index = replica_of(by);
                let waits = is_answered && state.is_in_use(by) && state.is_connected(index);
                if let Some(given) = given.filter(|_| waits) {
                    self.enter(state, index, given);
                }
            }
            Call::Settle { by, settlement } => {
                self.settle(state, by, settlement);
                let index = replica_of(by);
                let waits = is_answered && state.is_in_use(by) && state.is_connected(index);
                if waits && state.replicas[index].outbox == Some(settlement) {
                    confirmed(state, index);
                }
            }
            Call::Takeover { victim, has_moved } => self.takeover(state, victim, has_moved),
        }
    }
}

/// A replica hears that what it sent is settled, or not its own.
fn confirmed(state: &mut State, by: usize) {
    let replica = &mut state.replicas[by];
    let Some(settlement) = replica.outbox.take() else {
        return;
    };
    if replica.held.is_some_and(|held| held.attempt == settlement.attempt) {
        replica.held = None;
    }
}

/// Whether time may go on: whoever can beat, join and look does so in every tick.
fn may_tick(state: &State) -> bool {
    (0..REPLICAS).all(|index| {
        let replica = &state.replicas[index];
        !state.is_connected(index) || replica.late > 0 || replica.had_turn
    })
}

fn die(state: &mut State, who: usize) {
    let replica = &mut state.replicas[who];
    replica.life = Life::Dead;
    // Nobody can tell any more what it was like.
    (replica.held, replica.outbox, replica.reply) = (None, None, None);
    replica.sightings = [None; REPLICAS * NAMES];
    (replica.moved, replica.steady, replica.beaten, replica.late) = (0, None, 0, 0);
    (replica.is_cut, replica.had_turn, replica.was_away) = (false, false, false);
    replica.saw_loss = false;
    if state.is_behind(who) {
        state.is_awaited = false;
    }
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
