//! Random steps. They name tasks and replicas by small numbers and become calls only when they are taken, by what the
//! model then knows, so that most of them make sense and any list of them can be shortened.

use proptest::prelude::*;
use waooaw_orchestration::domain::id::{Name, QueueName, ReplicaId, TaskId};
use waooaw_orchestration::domain::model::{
    Appetite, Loan, Model, NewTask, Op, Outcome, Owner, Route, Said, Saying, Settlement,
};
use waooaw_orchestration::domain::priority::Priority;
use waooaw_orchestration::domain::state::TaskState;
use waooaw_orchestration::domain::trigger::Start;

/// How many tasks a case knows.
pub(crate) const TASKS: u8 = 16;
/// The names of tasks.
const NAMES: [&str; 4] = ["echo", "mail", "team/scan", "call"];
const AGENTS: [&str; 2] = ["sales", "stock"];
/// How long an agent may be silent, and take: longer or shorter than a time that passes, or than two.
const TERMS: [(i64, i64); 4] = [(100_000, 0), (900_000, 0), (900_000, 700_000), (4_000_000, 500_000)];
const QUEUES: [&str; 2] = ["default", "bulk"];
/// So much that no case comes near by the time it takes.
const LONG_MS: u32 = 600_000;
/// A wait that nothing overruns.
const NEVER_MS: u64 = 300_000_000_000;
/// A moment long ago.
const PAST_MS: i64 = 1_000_000_000_000;

/// One step of a case.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Join {
        who: u8,
        names: u8,
        limits: u8,
        agents: u8,
        announce: bool,
        max_running: Option<u8>,
    },
    Create {
        who: u8,
        check_names: bool,
        tasks: Vec<Spec>,
        slots: u8,
    },
    Claim {
        who: u8,
        slots: u8,
        runs_any: bool,
        rescues: bool,
    },
    /// Without `who`: the owner of the first attempt.
    Settle {
        who: Option<u8>,
        picks: Vec<Pick>,
        slots: u8,
    },
    Cancel {
        cause: Option<u8>,
        picks: Vec<Pick>,
    },
    Promote {
        limit: u8,
    },
    Answer(Vec<Word>),
    Lend {
        agent: u8,
        queue: u8,
        max: u8,
        names: Option<u8>,
        reads_inbox: bool,
        terms: u8,
    },
    Read {
        agent: u8,
        process: u8,
        count: u8,
        again: bool,
        acknowledges: bool,
    },
    /// Nobody looks at the timers for a while.
    Gap,
    Beat {
        who: u8,
        looks: bool,
        renew_names: bool,
        hides: u8,
        picks: Vec<Pick>,
    },
    Takeover {
        who: u8,
        victim: u8,
        has_moved: bool,
        limit: u8,
    },
    Leave {
        who: u8,
        announce: bool,
    },
    Limits {
        max_size: Option<u8>,
        max_running: Option<u8>,
    },
    Circuit {
        who: u8,
        name: u8,
        is_open: bool,
    },
    Trial {
        who: u8,
        name: u8,
    },
    Stray {
        task: u8,
        priority: u8,
    },
    /// By age or by number.
    Trim {
        who: u8,
        everything: bool,
        max_events: u8,
        limit: u8,
    },
    /// The clock of Redis goes back.
    ClockBack,
    Pause {
        queue: u8,
        is_paused: bool,
    },
    Requeue {
        picks: Vec<Pick>,
        max_retries: Option<u8>,
    },
    Discard {
        picks: Vec<Pick>,
    },
    /// Time passes: all that is timed moves into the past.
    Elapse {
        hour: bool,
    },
    /// The last call once more, as after a lost reply.
    Repeat,
}

/// A task to be made.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    id: u8,
    name: u8,
    queue: u8,
    priority: u8,
    max_retries: u8,
    start: u8,
    agent: u8,
    timeout: u8,
}

/// Something that is said of an attempt.
#[derive(Debug, Clone)]
pub(crate) struct Word {
    pick: Pick,
    /// Mostly whoever has it.
    who: u8,
    event: u8,
    entry: u8,
    /// Whether it goes on.
    beats: bool,
}

/// An attempt: of a task that runs where `aims`, else of any.
#[derive(Debug, Clone)]
pub(crate) struct Pick {
    which: u8,
    aims: bool,
    skew: i8,
    outcome: u8,
}

/// Lists of steps.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 40)
}

/// Lists of steps most of which have to do with agents.
pub(crate) fn agent_steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(prop_oneof![3 => agent_step(), 1 => step()], 40)
}

fn agent_step() -> impl Strategy<Value = Step> {
    let for_agents = (spec(), 0..2_u8).prop_map(|(spec, agent)| Spec { agent, ..spec });
    prop_oneof![
        3 => (0..3_u8, 0..2_u8, prop::option::of(0..16_u8), 1..16_u8).prop_map(|(who, names, limits, agents)| Step::Join {
            who,
            names,
            limits: limits.unwrap_or_default(),
            agents,
            announce: false,
            max_running: None,
        }),
        5 => prop::collection::vec(for_agents, 1..6)
            .prop_map(|tasks| Step::Create { who: 0, check_names: true, tasks, slots: 0 }),
        4 => prop::collection::vec(word(), 1..4).prop_map(Step::Answer),
        2 => lend(),
        5 => read(0.4),
        5 => (2..9_u8).prop_map(|limit| Step::Promote { limit }),
        4 => prop::bool::weighted(0.3).prop_map(|hour| Step::Elapse { hour }),
        1 => (0..3_u8).prop_map(|who| Step::Claim { who, slots: 3, runs_any: true, rescues: false }),
        1 => Just(Step::Gap),
        1 => (0..3_u8).prop_map(|who| Step::Leave { who, announce: false }),
        1 => (0..3_u8).prop_map(|victim| Step::Takeover { who: 1, victim, has_moved: false, limit: 20 }),
    ]
}

fn lend() -> impl Strategy<Value = Step> {
    (
        0..2_u8,
        0..2_u8,
        1..4_u8,
        prop::option::of(1..16_u8),
        any::<bool>(),
        0..4_u8,
    )
        .prop_map(|(agent, queue, max, names, reads_inbox, terms)| Step::Lend {
            agent,
            queue,
            max,
            names,
            reads_inbox,
            terms,
        })
}

fn read(acknowledges: f64) -> impl Strategy<Value = Step> {
    (
        0..2_u8,
        0..2_u8,
        1..4_u8,
        prop::bool::weighted(0.3),
        prop::bool::weighted(acknowledges),
    )
        .prop_map(|(agent, process, count, again, acknowledges)| Step::Read {
            agent,
            process,
            count,
            again,
            acknowledges,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..4_u8;
    let slots = 0..6_u8;
    let few_agents = prop_oneof![2 => Just(0_u8), 1 => 1..16_u8];
    let few = || prop_oneof![3 => Just(0_u8), 1 => 1..4_u8];
    prop_oneof![
        3 => (who.clone(), 0..8_u8, 0..16_u8, few_agents, any::<bool>(), prop::option::of(0..6_u8)).prop_map(
            |(who, names, limits, agents, announce, max_running)| {
                Step::Join { who, names, limits, agents, announce, max_running }
            }
        ),
        8 => prop::collection::vec(word(), 1..4).prop_map(Step::Answer),
        3 => lend(),
        4 => read(0.2),
        1 => Just(Step::Gap),
        6 => (who.clone(), any::<bool>(), prop::collection::vec(spec(), 1..6), few())
            .prop_map(|(who, check_names, tasks, slots)| Step::Create { who, check_names, tasks, slots }),
        6 => (who.clone(), slots, any::<bool>(), any::<bool>())
            .prop_map(|(who, slots, runs_any, rescues)| Step::Claim { who, slots, runs_any, rescues }),
        8 => (prop::option::weighted(0.15, who.clone()), prop::collection::vec(pick(), 1..5), few())
            .prop_map(|(who, picks, slots)| Step::Settle { who, picks, slots }),
        2 => (prop::option::of(0..2_u8), prop::collection::vec(pick(), 1..3))
            .prop_map(|(cause, picks)| Step::Cancel { cause, picks }),
        2 => (1..5_u8).prop_map(|limit| Step::Promote { limit }),
        4 => (who.clone(), any::<bool>(), any::<bool>(), any::<u8>(), prop::collection::vec(pick(), 0..2)).prop_map(
            |(who, looks, renew_names, hides, picks)| Step::Beat { who, looks, renew_names, hides, picks }
        ),
        3 => (who.clone(), who.clone(), prop::bool::weighted(0.2), 1..6_u8)
            .prop_map(|(who, victim, has_moved, limit)| Step::Takeover { who, victim, has_moved, limit }),
        2 => (who.clone(), 0..3_u8, prop::bool::weighted(0.7))
            .prop_map(|(who, name, is_open)| Step::Circuit { who, name, is_open }),
        3 => (0..3_u8, 0..3_u8).prop_map(|(who, name)| Step::Trial { who, name }),
        1 => (who, any::<bool>()).prop_map(|(who, announce)| Step::Leave { who, announce }),
        1 => (prop::option::of(0..20_u8), prop::option::of(0..5_u8))
            .prop_map(|(max_size, max_running)| Step::Limits { max_size, max_running }),
        1 => (0..TASKS, 0..4_u8).prop_map(|(task, priority)| Step::Stray { task, priority }),
        3 => (0..2_u8, any::<bool>()).prop_map(|(queue, is_paused)| Step::Pause { queue, is_paused }),
        4 => (prop::collection::vec(pick(), 1..4), prop::option::weighted(0.3, 0..4_u8))
            .prop_map(|(picks, max_retries)| Step::Requeue { picks, max_retries }),
        1 => prop::collection::vec(pick(), 1..3).prop_map(|picks| Step::Discard { picks }),
        2 => any::<bool>().prop_map(|hour| Step::Elapse { hour }),
        6 => (0..4_u8, prop::bool::weighted(0.3), 1..20_u8, 1..12_u8).prop_map(
            |(who, everything, max_events, limit)| Step::Trim { who, everything, max_events, limit }
        ),
        1 => Just(Step::ClockBack),
        3 => Just(Step::Repeat),
    ]
}

fn spec() -> impl Strategy<Value = Spec> {
    let agent = prop_oneof![2 => Just(9_u8), 1 => 0..2_u8];
    let shape = (0..TASKS, 0..4_u8, 0..2_u8, 0..4_u8, 0..5_u8, 0..6_u8);
    (shape, agent, 0..6_u8).prop_map(
        |((id, name, queue, priority, max_retries, start), agent, timeout)| Spec {
            id,
            name,
            queue,
            priority,
            max_retries,
            start,
            agent,
            timeout,
        },
    )
}

fn word() -> impl Strategy<Value = Word> {
    let who = prop_oneof![5 => Just(0_u8), 1 => 1..5_u8];
    (pick(), who, 0..6_u8, 0..6_u8, prop::bool::weighted(0.4)).prop_map(|(pick, who, event, entry, beats)| Word {
        pick,
        who,
        event,
        entry,
        beats,
    })
}

fn pick() -> impl Strategy<Value = Pick> {
    let skew = prop_oneof![8 => Just(0_i8), 1 => Just(-1_i8), 1 => Just(1_i8)];
    (any::<u8>(), prop::bool::weighted(0.85), skew, 0..9_u8).prop_map(|(which, aims, skew, outcome)| Pick {
        which,
        aims,
        skew,
        outcome,
    })
}

/// The task of a number.
pub(crate) fn task_id(number: u8) -> TaskId {
    TaskId::derive("model", &format!("e-{number}"), None, None, 1)
}

/// The replica of a number.
pub(crate) fn replica(number: u8) -> ReplicaId {
    ReplicaId::from_random(number.into())
}

pub(crate) fn name(number: u8) -> Name {
    NAMES[usize::from(number) % NAMES.len()].parse().unwrap()
}

fn agent(number: u8) -> Name {
    AGENTS[usize::from(number) % AGENTS.len()].parse().unwrap()
}

/// Replica 0 can run the first two names, replica 1 all; the others are nobody yet.
pub(crate) fn prologue() -> Vec<Step> {
    let join = |who, names, announce| Step::Join {
        who,
        names,
        limits: 0,
        agents: 0,
        announce,
        max_running: None,
    };
    vec![join(0, 0b011, true), join(1, 0b111, false)]
}

fn appetite(slots: u8, runs_any: bool, rescues: bool) -> Appetite {
    Appetite {
        slots: (0..slots.into()).map(|slot| slot * 7).collect(),
        runs_any,
        // What is written by the call itself is dated by Redis, so only a plain claim may look for what waited long.
        max_wait_ms: if rescues { 0 } else { NEVER_MS },
        only: None,
    }
}

impl Step {
    /// Who calls, and what; `None` for a step that is no call. Times are the model's, `shift_ms` ahead of Redis.
    #[allow(clippy::too_many_lines, reason = "one arm for each kind of step")]
    pub(crate) fn resolve(&self, model: &Model, shift_ms: i64) -> Option<(ReplicaId, Op)> {
        Some(match self {
            Self::Join {
                who,
                names,
                limits,
                agents,
                announce,
                max_running,
            } => (
                replica(*who),
                Op::Join {
                    max_size: None,
                    max_running: max_running.map(Into::into),
                    workers: Some(4),
                    announce: *announce,
                    names: (0..3)
                        .filter(|bit| (names & !agents) >> bit & 1 == 1)
                        .map(name)
                        .collect(),
                    agents: (0..4)
                        .filter(|bit| agents >> bit & 1 == 1)
                        .map(|bit| {
                            let (silence_ms, timeout_ms) = TERMS[usize::from(who + bit) % TERMS.len()];
                            let agent = agent(who + bit);
                            (
                                name(bit),
                                Route {
                                    agent,
                                    silence_ms,
                                    timeout_ms,
                                },
                            )
                        })
                        .collect(),
                    // Small ones, and some higher than others.
                    limits: (0..4)
                        .filter(|bit| ((names & 0b111) | agents) & limits >> bit & 1 == 1)
                        .map(|bit| (name(bit), 1 + u64::from(who + limits + bit) % 3))
                        .collect(),
                },
            ),
            Self::Create {
                who,
                check_names,
                tasks,
                slots,
            } => (
                replica(*who),
                Op::Create {
                    check_names: *check_names,
                    tasks: tasks.iter().map(|spec| spec.task(shift_ms)).collect(),
                    appetite: appetite(*slots, false, false),
                },
            ),
            Self::Claim {
                who,
                slots,
                runs_any,
                rescues,
            } => (replica(*who), Op::Claim(appetite(*slots, *runs_any, *rescues))),
            Self::Settle { who, picks, slots } => {
                let aimed: Vec<_> = picks.iter().map(|pick| (pick.aim(model), pick.outcome())).collect();
                let task = model.tasks().get(&aimed[0].0.0);
                let owner = task.and_then(|task| task.owner.as_ref()?.replica());
                let by = who.map_or_else(|| owner.unwrap_or(replica(0)), replica);
                let settlements = aimed.into_iter();
                let settlements = settlements.map(|((task, attempt), outcome)| Settlement { task, attempt, outcome });
                (
                    by,
                    Op::Settle {
                        settlements: settlements.collect(),
                        appetite: appetite(*slots, false, false),
                    },
                )
            }
            Self::Cancel { cause, picks } => (
                replica(9),
                Op::Cancel {
                    cause: cause.map(|cause| format!("stop \"{cause}\"")),
                    tasks: picks.iter().map(|pick| pick.aim(model).0).collect(),
                },
            ),
            Self::Promote { limit } => (replica(0), Op::Promote { limit: (*limit).into() }),
            Self::Answer(words) => (
                replica(1),
                Op::Answer(words.iter().map(|word| word.saying(model)).collect()),
            ),
            Self::Lend {
                agent: number,
                queue,
                max,
                names,
                reads_inbox,
                terms,
            } => (
                replica(9),
                Op::Lend(Loan {
                    agent: agent(*number),
                    queue: QUEUES[usize::from(*queue)].parse().unwrap(),
                    max: (*max).into(),
                    names: names.map(|names| (0..4).filter(|bit| names >> bit & 1 == 1).map(name).collect()),
                    reads_inbox: *reads_inbox,
                    silence_ms: TERMS[usize::from(*terms)].0,
                }),
            ),
            Self::Read {
                agent: number,
                process,
                count,
                again,
                acknowledges,
            } => (
                replica(9),
                Op::Read {
                    agent: agent(*number),
                    process: format!("process-{process}"),
                    count: (*count).into(),
                    again: *again,
                    acknowledges: *acknowledges,
                },
            ),
            Self::Beat {
                who,
                looks,
                renew_names,
                hides,
                picks,
            } => {
                let by = replica(*who);
                let mut held: Vec<_> = model
                    .tasks()
                    .iter()
                    .filter(|(_, task)| {
                        task.state == TaskState::Running && task.owner.as_ref().and_then(Owner::replica) == Some(by)
                    })
                    .map(|(id, task)| (*id, task.attempt))
                    .enumerate()
                    .filter(|(place, _)| hides >> (place % 8) & 1 == 0)
                    // Now and then it has missed that it was given a task anew.
                    .map(|(_, (id, attempt))| (id, attempt - u32::from(hides % 3 == 2)))
                    .collect();
                for (id, attempt) in picks.iter().map(|pick| pick.aim(model)) {
                    if held.iter().all(|(listed, _)| *listed != id) {
                        held.push((id, attempt));
                    }
                }
                let number = model.replicas().get(&by).map_or(0, |replica| replica.beat) + 1;
                (
                    by,
                    Op::Beat {
                        number,
                        workers: 5,
                        looks: *looks,
                        renew_names: *renew_names,
                        held,
                    },
                )
            }
            Self::Takeover {
                who,
                victim,
                has_moved,
                limit,
            } => {
                let victim = replica(*victim);
                let beat = model
                    .replicas()
                    .get(&victim)
                    .map(|replica| replica.beat + u64::from(*has_moved));
                let seen = beat.map_or(if *has_moved { "1".to_owned() } else { String::new() }, |beat| {
                    beat.to_string()
                });
                (
                    replica(*who),
                    Op::Takeover {
                        victim,
                        seen,
                        limit: (*limit).into(),
                    },
                )
            }
            Self::Leave { who, announce } => (replica(*who), Op::Leave { announce: *announce }),
            Self::Circuit {
                who,
                name: which,
                is_open,
            } => (
                replica(*who),
                Op::Circuit {
                    name: name(*which),
                    is_open: *is_open,
                },
            ),
            Self::Trial { who, name: which } => (
                replica(*who),
                Op::Trial {
                    name: name(*which),
                    slot: 3,
                },
            ),
            Self::Limits { max_size, max_running } => (
                replica(9),
                Op::SetLimits {
                    max_size: max_size.map(Into::into),
                    max_running: max_running.map(Into::into),
                },
            ),
            Self::Stray { task, priority } => (
                replica(9),
                Op::Stray {
                    queue: QueueName::default(),
                    priority: Priority::from_rank(*priority).unwrap(),
                    task: task_id(*task),
                },
            ),
            Self::Pause { queue, is_paused } => (
                replica(9),
                Op::Pause {
                    queue: QUEUES[usize::from(*queue)].parse().unwrap(),
                    is_paused: *is_paused,
                },
            ),
            Self::Requeue { picks, max_retries } => (
                replica(9),
                Op::Requeue {
                    letters: picks.iter().map(|pick| pick.unearth(model)).collect(),
                    max_retries: max_retries.map(Into::into),
                },
            ),
            Self::Discard { picks } => (
                replica(9),
                Op::Discard {
                    letters: picks.iter().map(|pick| pick.unearth(model)).collect(),
                },
            ),
            Self::Trim {
                who,
                everything,
                max_events,
                limit,
            } => (
                replica(*who),
                Op::Trim {
                    everything: *everything,
                    max_events: (*max_events).into(),
                    limit: (*limit).into(),
                },
            ),
            Self::Elapse { .. } | Self::ClockBack | Self::Gap | Self::Repeat => return None,
        })
    }
}

impl Spec {
    fn task(&self, shift_ms: i64) -> NewTask {
        let delay_ms = |ms: u32| Start::After(std::time::Duration::from_millis(ms.into()));
        NewTask {
            id: task_id(self.id),
            name: name(self.name),
            queue: QUEUES[usize::from(self.queue)].parse().unwrap(),
            priority: Priority::from_rank(self.priority).unwrap(),
            max_retries: self.max_retries.into(),
            start: match self.start {
                0 => delay_ms(LONG_MS),
                1 => delay_ms(0),
                2 => Start::At(PAST_MS + shift_ms),
                _ => Start::Now,
            },
            event_id: format!("e-{}", self.id),
            agent: (self.agent < 9).then(|| agent(self.agent)),
            timeout_ms: (self.timeout == 0).then_some(650_000),
        }
    }
}

impl Word {
    fn saying(&self, model: &Model) -> Saying {
        let (task, attempt) = self.pick.aim_at_agents(model);
        let holder = model
            .desks()
            .get(&task)
            .map_or(agent(0), |desk| desk.route.agent.clone());
        let (who, outcome) = match self.who {
            0 => (Some(holder.to_string()), self.pick.outcome()),
            1 => (Some(format!("{holder}/one")), self.pick.outcome()),
            2 => (Some(format!("{holder}s")), self.pick.outcome()),
            3 => (None, self.pick.outcome()),
            // Whoever looks after timers says so.
            _ => (None, Outcome::Timeout { delay_ms: 0 }),
        };
        let said = match (self.beats, outcome) {
            (true, _) => Said::Beat((self.event > 1).then(|| format!("{}", self.event))),
            // Nobody gives back what an agent has.
            (false, Outcome::Released) => Said::Ended(Outcome::Completed),
            (false, outcome) => Said::Ended(outcome),
        };
        Saying {
            task,
            attempt,
            who,
            event_id: (self.event > 0).then(|| format!("said-{}", self.event)),
            entry: (self.entry > 0).then(|| self.entry.into()),
            said,
        }
    }
}

impl Pick {
    fn aim(&self, model: &Model) -> (TaskId, u32) {
        let running: Vec<_> = model
            .tasks()
            .iter()
            .filter(|(_, task)| task.state == TaskState::Running)
            .collect();
        let id = if self.aims && !running.is_empty() {
            *running[usize::from(self.which) % running.len()].0
        } else {
            task_id(self.which % (TASKS + 1))
        };
        let attempt = model.tasks().get(&id).map_or(1, |task| task.attempt);
        (id, attempt.saturating_add_signed(self.skew.into()))
    }

    /// What runs and an agent has or had, where it aims and there is such a task.
    fn aim_at_agents(&self, model: &Model) -> (TaskId, u32) {
        let runs = |id: &&TaskId| {
            let task = model.tasks().get(id);
            task.is_some_and(|task| task.state == TaskState::Running)
        };
        let running: Vec<TaskId> = model.desks().keys().filter(runs).copied().collect();
        if !self.aims || running.is_empty() {
            return self.aim(model);
        }
        let id = running[usize::from(self.which) % running.len()];
        (id, model.tasks()[&id].attempt.saturating_add_signed(self.skew.into()))
    }

    /// A dead letter where it aims and there is one; else what may have been one.
    fn unearth(&self, model: &Model) -> (TaskId, u32) {
        let letters: Vec<_> = model.letters().keys().copied().collect();
        if self.aims && self.outcome < 7 && !letters.is_empty() {
            let (id, attempt) = letters[usize::from(self.which) % letters.len()];
            return (id, attempt.saturating_add_signed(self.skew.into()));
        }
        let id = task_id(self.which % (TASKS + 1));
        let attempt = model.tasks().get(&id).map_or(1, |task| {
            // Now and then one that led to another life before.
            let before = task.revivals.keys().next_back();
            before.copied().unwrap_or(task.attempt)
        });
        (id, attempt)
    }

    fn outcome(&self) -> Outcome {
        match self.outcome {
            0 => Outcome::Released,
            1 => Outcome::Rejected,
            2 => Outcome::Failed { delay_ms: LONG_MS },
            3 | 4 => Outcome::Failed { delay_ms: 0 },
            5 => Outcome::Timeout { delay_ms: 0 },
            6 => Outcome::Timeout { delay_ms: LONG_MS },
            _ => Outcome::Completed,
        }
    }
}
