//! What each step does: the calls as the functions in `src/store/lua` carry them out, and the replica as `src/runtime`
//! behaves.

use std::sync::atomic::{AtomicU64, Ordering};

use super::guard::Broken;
use super::state::{
    Call, GAP, Held, LONG_OUTAGE, Life, NAMES, Name, Outcome, REPLICAS, SILENCE, Settlement, State, Task, Violation,
    name, replica_of,
};
use super::steps::{Answer, Bounds, Fate};

/// The rules, with at most one of them broken.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) broken: Option<Broken>,
    pub(crate) bounds: Bounds,
    pub(crate) seen: Seen,
}

impl Rules {
    pub(crate) fn breaks(&self, rule: Broken) -> bool {
        self.broken == Some(rule)
    }

    /// Two seconds pass, for everybody: a stopped process does not stop the clock.
    pub(crate) fn tick(&self, state: &mut State) {
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
    pub(crate) fn beat(&self, state: &mut State, by: usize, is_answered: bool) {
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
        // What ended stays on the list of what is held until it is settled.
        let is_ended = replica.outbox.is_some_and(|settlement| settlement.attempt == attempt);
        if replica.held.is_some_and(|held| !(is_owner && held.attempt == attempt)) {
            if !self.breaks(Broken::BeatHidesGone) {
                replica.held = None;
            }
        } else if replica.held.is_none()
            && is_owner
            && had_beaten_since
            && !is_ended
            && !self.breaks(Broken::BeatHidesLostClaims)
        {
            count(&self.seen.found_by_a_beat);
            self.enter(state, by, (attempt, execution));
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
    pub(crate) fn fence(&self, state: &mut State, by: usize) {
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
    pub(crate) fn look(&self, state: &mut State, by: usize, fate: Fate) {
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
            Self::take_back(state, owner);
        }
    }

    pub(crate) fn takeover(&self, state: &mut State, victim: Name, has_moved: bool) {
        if !state.redis.knows(victim) {
            return;
        }
        if has_moved && !self.breaks(Broken::TakeoverIgnoresSeenBeat) {
            count(&self.seen.takeovers_of_the_living);
            return;
        }
        count(&self.seen.takeovers);
        Self::take_back(state, victim);
        state.redis.forget(victim);
    }

    pub(crate) fn take_back(state: &mut State, victim: Name) {
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
    pub(crate) fn claim(&self, state: &mut State, by: Name) -> Option<(u8, u8)> {
        if !state.redis.knows(by) && !self.breaks(Broken::ClaimServesStrangers) {
            count(&self.seen.strangers_turned_away);
            return None;
        }
        if state.redis.task != Task::Queued || state.claims == self.bounds.claims {
            return None;
        }
        state.claims += 1;
        (state.untold, state.orphaned) = (0, 0);
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
    pub(crate) fn enter(&self, state: &mut State, by: usize, (attempt, execution): (u8, u8)) {
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
    pub(crate) fn send_end(&self, state: &mut State, by: usize, answer: Answer) {
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

    pub(crate) fn settle(&self, state: &mut State, by: Name, settlement: Settlement) {
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
    pub(crate) fn arrive(&self, state: &mut State, is_answered: bool) {
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

pub(crate) fn die(state: &mut State, who: usize) {
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

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
