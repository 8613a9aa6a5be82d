//! What is broken when: a list that depends on the seed and on nothing else.

use std::fmt;
use std::time::Duration;

use super::chance::Chance;

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// SIGKILL for one replica; a new one comes after a moment.
    KillReplica,
    /// SIGKILL for all of them.
    KillAll,
    /// SIGSTOP for longer than a takeover takes, then SIGCONT.
    StopReplica,
    /// SIGTERM, with a new one beside it.
    RollReplica,
    /// SIGKILL for Redis; nothing that it wrote is lost.
    KillRedis,
    /// SIGSTOP for Redis, for seconds.
    FreezeRedis,
    /// SIGKILL for Redis, and its file cut back to what may have been on the disk.
    LosePower,
    /// One call that all others wait for.
    SleepRedis,
    /// A script of somebody's that runs too long: all others are told `BUSY`.
    BusyRedis,
    /// No memory left for new data.
    FillMemory,
    /// The function library is gone.
    FlushFunctions,
    /// Redis breaks all connections.
    KillClients,
    /// The network breaks all connections of one replica.
    CutConnections,
    /// The network refuses one replica for a while.
    RefuseReplica,
    /// The connections of one replica go silent.
    SilenceReplica,
    /// Answers to one replica come late.
    SlowNetwork,
    /// Redis carries out a call, and the answer is lost.
    LoseReplies,
    /// The clock of Redis jumps ahead, and back later.
    JumpClock,
}

impl Fault {
    /// All of them. Those next to each other go to different seeds.
    pub(crate) const ALL: [Self; 18] = [
        Self::KillReplica,
        Self::KillAll,
        Self::StopReplica,
        Self::KillRedis,
        Self::FreezeRedis,
        Self::LosePower,
        Self::SleepRedis,
        Self::BusyRedis,
        Self::FillMemory,
        Self::CutConnections,
        Self::RefuseReplica,
        Self::SilenceReplica,
        Self::LoseReplies,
        Self::SlowNetwork,
        Self::KillClients,
        Self::RollReplica,
        Self::FlushFunctions,
        Self::JumpClock,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, letter) in format!("{self:?}").chars().enumerate() {
            if letter.is_uppercase() && at > 0 {
                f.write_str("-")?;
            }
            write!(f, "{}", letter.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

/// One fault at its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
}

/// What a seed breaks. Any three seeds in a row have every kind of fault between them, since each takes a third of them
/// for sure and some others by chance; few kinds a seed, since those that meet should meet often.
pub(crate) fn plan(seed: u64, length: Duration) -> Vec<Step> {
    let mut chance = Chance::new(seed, 1);
    let mut kinds: Vec<Fault> = (0_u64..)
        .zip(Fault::ALL)
        .filter(|(number, _)| number % 3 == seed % 3)
        .map(|(_, fault)| fault)
        .collect();
    chance.shuffle(&mut kinds);
    // One about every second, each kind at least once.
    let wanted = usize::try_from(length.as_secs()).unwrap_or(usize::MAX).max(kinds.len());
    let others: Vec<Fault> = (0..3).map(|_| *chance.pick(&Fault::ALL)).collect();
    let pool = [kinds.clone(), others].concat();
    while kinds.len() < wanted {
        kinds.push(*chance.pick(&pool));
    }
    // What takes longest begins early, so that the run does not wait for its end.
    if let Some(place) = kinds.iter().position(|kind| *kind == Fault::StopReplica) {
        kinds.swap(0, place);
    }
    let gap_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX) / kinds.len() as u64;
    (0..)
        .zip(kinds)
        .map(|(number, fault)| Step {
            at: Duration::from_millis(300 + number * gap_ms + chance.within(0..gap_ms / 2 + 1)),
            fault,
        })
        .collect()
}
