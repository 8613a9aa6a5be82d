//! A model of lease and fencing, all of whose states are visited.
//!
//! Two replicas, one task, Redis and the network between them: claims, beats, takeovers and settlements under every order
//! of stops, crashes, cut connections, a frozen Redis, a power loss that undoes its last write, and calls and answers
//! that are late or lost. What must never happen is in [`state::Violation`]. Then the guards are left out one after the
//! other, and each time a way must be found to what it guards against.
//!
//! Bounds: two faults of the kinds of [`OUTAGES`], [`BAD_CALLS`] and [`POWER_LOSS`], ages up to what a rule can tell apart,
//! three names a replica, one stuck call, two seconds as the unit of time. `WAOOAW_LEASE_FAULTS` sets another number of
//! faults and mixes all their kinds; with 2 that takes a minute, with more a machine with much memory.
//!
//! The rules are written again here, by hand, from `src/store/lua` and `src/runtime`: this checks the design. That the
//! functions are what the design says is checked by `tests/model`.

mod guard;
mod rules;
mod state;
mod steps;

use std::sync::atomic::Ordering;

use guard::Broken;
use rules::{Rules, Seen};
use state::{State, Violation};
use stateright::{Checker, HasDiscoveries, Model, Property};
use steps::{Bounds, Step};

/// Who judges whom, and when: all that can happen to replicas and to Redis.
const OUTAGES: Bounds = Bounds {
    faults: 2,
    claims: 2,
    has_outages: true,
    has_bad_calls: false,
    has_power_loss: false,
};
/// Whose end counts: all that can happen to claims and settlements.
const BAD_CALLS: Bounds = Bounds {
    faults: 2,
    claims: 3,
    has_outages: false,
    has_bad_calls: true,
    has_power_loss: false,
};
/// The same, with a write that is undone.
const POWER_LOSS: Bounds = Bounds {
    faults: 2,
    claims: 2,
    has_outages: false,
    has_bad_calls: true,
    has_power_loss: true,
};

impl Model for Rules {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::initial()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.steps(state, steps);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        self.take(state, step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn never(name: &'static str, condition: fn(&Rules, &State) -> bool) -> Property<Rules> {
            Property::always(name, condition)
        }
        vec![
            never("a task ends once", |_, state| {
                state.violation != Some(Violation::EndedTwice)
            }),
            never("only the run that a claim stands for settles it", |_, state| {
                state.violation != Some(Violation::StaleSettlement)
            }),
            never("a living, connected replica loses nothing", |_, state| {
                state.violation != Some(Violation::LostWhileAlive)
            }),
            never("an attempt runs once in its replica", |_, state| {
                state.violation != Some(Violation::RanTwice)
            }),
            never("a beat ends what is not one's own", |_, state| {
                state.violation != Some(Violation::RunsWhatIsNotItsOwn)
            }),
            never("what a dead replica held is taken back in time", |_, state| {
                state.violation != Some(Violation::NeverTakenBack)
            }),
            never("a claim whose answer was lost is handed out again", |_, state| {
                state.violation != Some(Violation::NeverHandedOutAgain)
            }),
        ]
    }
}

fn rules(broken: Option<Broken>, bounds: Bounds) -> Rules {
    Rules {
        broken,
        bounds,
        seen: Seen::default(),
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Visits every state.
fn explore(bounds: Bounds) -> Seen {
    let checker = rules(None, bounds).checker().threads(threads()).spawn_bfs().join();
    if let Some((property, path)) = checker.discoveries().into_iter().next() {
        panic!("{property}: does not hold after {:#?}", path.into_actions());
    }
    assert!(checker.is_done());
    let seen = &checker.model().seen;
    eprintln!("{bounds:?}: {} states, {seen:?}", checker.unique_state_count());
    Seen::of(seen)
}

#[test]
fn the_rules_hold_in_every_state() {
    if let Ok(faults) = std::env::var("WAOOAW_LEASE_FAULTS") {
        explore(Bounds {
            faults: faults.parse().unwrap(),
            claims: 3,
            has_outages: true,
            has_bad_calls: true,
            has_power_loss: true,
        });
        return;
    }

    let (outages, bad_calls, power_loss) = (explore(OUTAGES), explore(BAD_CALLS), explore(POWER_LOSS));

    // A model in which nothing happens would pass as well.
    for (what, count) in [
        ("a replica was taken over from", &outages.takeovers),
        ("a takeover met a beat that had moved", &outages.takeovers_of_the_living),
        ("a replica found itself fenced", &outages.fenced),
        ("a claim came from a stranger", &outages.strangers_turned_away),
        ("a settlement was stale", &bad_calls.stale_settlements),
        ("a settlement came again", &bad_calls.repeated_settlements),
        (
            "a beat found what a lost answer had handed out",
            &bad_calls.found_by_a_beat,
        ),
        ("power was lost", &power_loss.power_losses),
    ] {
        assert!(count.load(Ordering::Relaxed) > 0, "in no state {what}");
    }
}

/// What shows that a guard is missing, and where.
fn consequence(broken: Broken) -> (&'static str, Bounds) {
    let property = match broken {
        Broken::SettleIgnoresAttempt
        | Broken::SettleIgnoresOwner
        | Broken::ClaimKeepsAttempt
        | Broken::NameKeptAfterLoss => "only the run that a claim stands for settles it",
        Broken::SettleIgnoresState => "a task ends once",
        Broken::TakeoverIgnoresSeenBeat
        | Broken::JudgedDespiteOwnGap
        | Broken::JudgedByRedisClock
        | Broken::JudgedByIdleTime => "a living, connected replica loses nothing",
        Broken::ClaimServesStrangers | Broken::NobodyTakesOver => "what a dead replica held is taken back in time",
        Broken::BeatHidesLostClaims => "a claim whose answer was lost is handed out again",
        Broken::BeatHidesGone => "a beat ends what is not one's own",
        Broken::EnteredTwice => "an attempt runs once in its replica",
    };
    let bounds = match broken {
        Broken::SettleIgnoresAttempt
        | Broken::SettleIgnoresState
        | Broken::ClaimKeepsAttempt
        | Broken::BeatHidesLostClaims
        | Broken::BeatHidesGone
        | Broken::EnteredTwice => BAD_CALLS,
        Broken::SettleIgnoresOwner | Broken::NameKeptAfterLoss => POWER_LOSS,
        Broken::ClaimServesStrangers
        | Broken::TakeoverIgnoresSeenBeat
        | Broken::JudgedDespiteOwnGap
        | Broken::JudgedByRedisClock
        | Broken::JudgedByIdleTime
        | Broken::NobodyTakesOver => OUTAGES,
    };
    (property, bounds)
}

#[test]
fn no_guard_can_be_left_out() {
    let mut missed = Vec::new();
    for broken in Broken::ALL {
        let (property, bounds) = consequence(broken);
        let checker = rules(Some(broken), bounds)
            .checker()
            .threads(threads())
            .finish_when(HasDiscoveries::AnyOf([property].into()))
            .spawn_bfs()
            .join();
        match checker.discovery(property) {
            Some(path) => eprintln!(
                "{broken:?}: {property}, but for {:?} ({} states)",
                path.into_actions(),
                checker.unique_state_count()
            ),
            None => missed.push((broken, checker.unique_state_count())),
        }
    }
    assert!(missed.is_empty(), "nobody misses these guards: {missed:?}");
}
