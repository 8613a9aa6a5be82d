//! What the model is made of: one task in Redis, a few replicas, the calls under way between them.
//!
//! Small numbers only, all of them bounded, so that every state can be visited. Time is counted in ticks of one beat, 2 s,
//! and every age stops at the last number that a rule can tell apart.

/// How many replicas there are.
pub(crate) const REPLICAS: usize = 2;
/// How many names a replica may use up; one that is fenced more often stays away.
pub(crate) const NAMES: usize = 3;
/// Ticks that a beat must stand still before its owner counts as silent: 8 s.
pub(crate) const SILENCE: u8 = 4;
/// The most ticks between own beats within which others may be judged: 3 s, rounded down.
pub(crate) const GAP: u8 = 1;

/// Ticks after which a call has given up, so that its caller comes back late: over 5 s, rounded down.
pub(crate) const LONG_OUTAGE: u8 = 2;

/// One name of one replica, as a number.
pub(crate) type Name = u8;

/// The name of a replica at a point of its life.
pub(crate) fn name(replica: usize, incarnation: u8) -> Name {
    u8::try_from(replica * NAMES).expect("there are few names") + incarnation
}

/// Whose name it is.
pub(crate) fn replica_of(name: Name) -> usize {
    usize::from(name) / NAMES
}

/// What Redis knows of the task, and of who lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Redis {
    pub(crate) task: Task,
    pub(crate) attempt: u8,
    pub(crate) owner: Name,
    /// Which run of the handler the last claim stands for. No rule reads it: it tells whether the rules were right.
    pub(crate) execution: u8,
    /// How many terminal events there are.
    pub(crate) ends: u8,
    /// Whether the owner has beaten since the claim.
    pub(crate) has_beaten_since: bool,
    /// The ticks since the claim; counted only where a broken rule asks.
    pub(crate) idle: u8,
    /// The names that have a beat, one bit each.
    pub(crate) known: u8,
    /// The ticks since the last beat of each replica by the clock of Redis; counted only where a broken rule asks.
    pub(crate) quiet: [u8; REPLICAS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Task {
    Queued,
    Running,
    Done,
}

/// A process that runs handlers.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is true or false by itself, in any mix"
)]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Replica {
    pub(crate) life: Life,
    /// Whether the network lets nothing through.
    pub(crate) is_cut: bool,
    pub(crate) incarnation: u8,
    /// Ticks since the last own beat that got through, by its own clock, up to `GAP + 1`.
    pub(crate) beaten: u8,
    /// Ticks since own beats get through without a gap, up to `SILENCE`; `None` when they do not.
    pub(crate) steady: Option<u8>,
    /// Ticks that it may let pass before it beats: after an outage it does not know at once that it can.
    pub(crate) late: u8,
    /// Whether it had its turn in this tick, in which it beats and looks at the others.
    pub(crate) had_turn: bool,
    /// For each name how many ticks its beat has stood still, up to `SILENCE`; `None` where it was never seen.
    pub(crate) sightings: [Option<u8>; REPLICAS * NAMES],
    /// The names whose beat has moved since the last look, one bit each.
    pub(crate) moved: u8,
    /// What it holds and runs.
    pub(crate) held: Option<Held>,
    /// What ended and is not known to be settled; sent until it is answered.
    pub(crate) outbox: Option<Settlement>,
    /// Whether Redis has lost something since its last turn.
    pub(crate) saw_loss: bool,
    /// The answer of a claim on its way: attempt and execution.
    pub(crate) reply: Option<(u8, u8)>,
    /// Whether it was stopped or cut off since its last good beat. No rule reads it.
    pub(crate) was_away: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Life {
    Up,
    Stopped,
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    pub(crate) attempt: u8,
    pub(crate) execution: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Settlement {
    pub(crate) attempt: u8,
    pub(crate) execution: u8,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Completed,
    Failed,
}

/// A call that is stuck on its way and arrives at any time, whatever has become of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Claim {
        by: Name,
    },
    Settle {
        by: Name,
        settlement: Settlement,
    },
    Takeover {
        victim: Name,
        /// Whether the victim's beat has moved since the caller saw it.
        has_moved: bool,
    },
}

/// What must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Violation {
    /// A task ended twice.
    EndedTwice,
    /// The end of one run of the handler counted for another.
    StaleSettlement,
    /// A replica that lives, is connected and says so was taken for dead.
    LostWhileAlive,
    /// An attempt ran twice in its replica.
    RanTwice,
    /// A replica goes on with what is not its own although it has beaten.
    RunsWhatIsNotItsOwn,
    /// The task is held by nobody and a replica that could take it back does not.
    NeverTakenBack,
    /// A replica was given the task, does not know, and is not told.
    NeverHandedOutAgain,
}

/// The whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) redis: Redis,
    /// Since how many ticks Redis stands still, up to `LONG_OUTAGE`.
    pub(crate) frozen: Option<u8>,
    /// What a power loss brings back: Redis before its last write. Kept as long as one may happen.
    pub(crate) before: Option<Redis>,
    pub(crate) replicas: [Replica; REPLICAS],
    /// At most one call is stuck.
    pub(crate) stuck: Option<Call>,
    /// Whether its caller waits for it: nothing passes it on the same connection. Beats have one of their own.
    pub(crate) is_awaited: bool,
    pub(crate) claims: u8,
    pub(crate) faults: u8,
    /// Ticks since nobody holds the running task while somebody could take it back.
    pub(crate) orphaned: u8,
    /// Beats of the owner that were not told of a task that it does not know to be its own.
    pub(crate) untold: u8,
    pub(crate) violation: Option<Violation>,
}

impl State {
    pub(crate) fn initial() -> Self {
        let replica = Replica {
            life: Life::Up,
            is_cut: false,
            incarnation: 0,
            beaten: 0,
            steady: Some(SILENCE),
            late: 0,
            had_turn: false,
            sightings: [None; REPLICAS * NAMES],
            moved: 0,
            held: None,
            outbox: None,
            saw_loss: false,
            reply: None,
            was_away: false,
        };
        let mut known = 0;
        for index in 0..REPLICAS {
            known |= 1 << name(index, 0);
        }
        Self {
            redis: Redis {
                task: Task::Queued,
                attempt: 0,
                owner: 0,
                execution: 0,
                ends: 0,
                has_beaten_since: false,
                idle: 0,
                known,
                quiet: [0; REPLICAS],
            },
            frozen: None,
            before: None,
            replicas: std::array::from_fn(|_| replica.clone()),
            stuck: None,
            is_awaited: false,
            claims: 0,
            faults: 0,
            orphaned: 0,
            untold: 0,
            violation: None,
        }
    }

    /// The name of a replica now.
    pub(crate) fn name(&self, index: usize) -> Name {
        name(index, self.replicas[index].incarnation)
    }

    /// Whether calls of a replica get through.
    pub(crate) fn is_connected(&self, index: usize) -> bool {
        let replica = &self.replicas[index];
        self.frozen.is_none() && replica.life == Life::Up && !replica.is_cut
    }

    /// Whether a name is one under which a replica lives.
    pub(crate) fn is_in_use(&self, name: Name) -> bool {
        let replica = &self.replicas[replica_of(name)];
        replica.life != Life::Dead && self.name(replica_of(name)) == name
    }

    /// Whether claims and settlements of a replica are behind one that is stuck.
    pub(crate) fn is_behind(&self, index: usize) -> bool {
        let by = match self.stuck {
            Some(Call::Claim { by } | Call::Settle { by, .. }) => by,
            Some(Call::Takeover { .. }) | None => return false,
        };
        self.is_awaited && replica_of(by) == index
    }

    pub(crate) fn violate(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }
}

impl Redis {
    pub(crate) fn knows(&self, name: Name) -> bool {
        self.known & (1 << name) != 0
    }

    /// What calls wrote, beside beats.
    pub(crate) fn written(&self) -> (Task, u8, u8, u8, u8) {
        (self.task, self.attempt, self.execution, self.ends, self.known)
    }

    pub(crate) fn forget(&mut self, name: Name) {
        self.known &= !(1 << name);
    }
}
