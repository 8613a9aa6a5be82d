//! The function library: its source, its name and the names of its functions.
//!
//! Function names are global in Redis and a library is replaced as a whole, so both carry the schema number and a
//! fingerprint of the source: replicas of two releases run side by side, each with its own library.

use std::sync::LazyLock;

use crate::domain::digest::sha256_hex;

/// The layout of the keys that the functions read and write.
pub const SCHEMA: &str = "1";

/// What the functions share, in the order in which later parts use earlier ones.
const SHARED: [&str; 19] = [
    include_str!("lua/context.lua"),
    include_str!("lua/record.lua"),
    include_str!("lua/event.lua"),
    include_str!("lua/operator.lua"),
    include_str!("lua/queue.lua"),
    include_str!("lua/group.lua"),
    include_str!("lua/limit.lua"),
    include_str!("lua/end.lua"),
    include_str!("lua/revive.lua"),
    include_str!("lua/saga.lua"),
    include_str!("lua/follow.lua"),
    include_str!("lua/take.lua"),
    include_str!("lua/consumer.lua"),
    include_str!("lua/clock.lua"),
    include_str!("lua/forget.lua"),
    include_str!("lua/admit.lua"),
    include_str!("lua/agent.lua"),
    include_str!("lua/agree.lua"),
    include_str!("lua/register.lua"),
];

/// The functions, each part with its own.
const FUNCTIONS: [&str; 31] = [
    include_str!("lua/join.lua"),
    include_str!("lua/create.lua"),
    include_str!("lua/stage.lua"),
    include_str!("lua/claim.lua"),
    include_str!("lua/settle.lua"),
    include_str!("lua/answer.lua"),
    include_str!("lua/lend.lua"),
    include_str!("lua/cancel.lua"),
    include_str!("lua/stop.lua"),
    include_str!("lua/resume.lua"),
    include_str!("lua/circuit.lua"),
    include_str!("lua/trial.lua"),
    include_str!("lua/beat.lua"),
    include_str!("lua/takeover.lua"),
    include_str!("lua/leave.lua"),
    include_str!("lua/promote.lua"),
    include_str!("lua/reject.lua"),
    include_str!("lua/acknowledge.lua"),
    include_str!("lua/statistics.lua"),
    include_str!("lua/limits.lua"),
    include_str!("lua/give_back.lua"),
    include_str!("lua/trim.lua"),
    include_str!("lua/recall.lua"),
    include_str!("lua/pause.lua"),
    include_str!("lua/report.lua"),
    include_str!("lua/scale.lua"),
    include_str!("lua/requeue.lua"),
    include_str!("lua/discard.lua"),
    include_str!("lua/inspect.lua"),
    include_str!("lua/repair.lua"),
    include_str!("lua/rights.lua"),
];

/// The library as Redis loads it.
pub struct Library {
    /// Its name, which is also the prefix of its functions' names.
    pub name: String,
    /// Its whole source.
    pub source: String,
}

/// The library of this release.
pub static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    let mut body = SHARED.join("\n");
    for part in FUNCTIONS {
        body.push_str("\ndo\n");
        body.push_str(part);
        body.push_str("end\n");
    }
    let fingerprint = sha256_hex(body.as_bytes());
    let name = format!("waooaw_{SCHEMA}_{}", &fingerprint[..8]);
    let source = format!("#!lua name={name}\nlocal LIBRARY = '{name}'\n{body}");
    Library { name, source }
});

/// The functions of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Function {
    /// A replica makes itself known.
    Join,
    /// Makes tasks.
    Create,
    /// Makes a workflow or a saga.
    Stage,
    /// Hands out work.
    Claim,
    /// Ends attempts and hands out work.
    Settle,
    /// Takes what agents say of their attempts.
    Answer,
    /// Hands out work to somebody outside.
    Lend,
    /// Stops tasks.
    Cancel,
    /// Ends a workflow or a saga before its time.
    Stop,
    /// A saga tries again what it could not undo.
    Resume,
    /// A replica says that it lives.
    Beat,
    /// Takes back what a silent replica held.
    Takeover,
    /// A replica says goodbye.
    Leave,
    /// Queues delayed tasks that are due.
    Promote,
    /// Keeps inbound events that can not be accepted.
    Reject,
    /// Takes inbound events off their stream.
    Acknowledge,
    /// Removes an idle consumer of an inbound stream.
    Forget,
    /// One consistent look at the counters.
    Statistics,
    /// Changes a limit at run time.
    Limits,
    /// A reader that leaves returns what it did not act upon.
    GiveBack,
    /// Forgets what was kept for long enough.
    Trim,
    /// Compares what a replica remembers of the log with what is there.
    Recall,
    /// Stops claiming the tasks of a name, or goes on with them.
    Circuit,
    /// Hands out one task of such a name.
    Trial,
    /// Hands out nothing more of a queue, or again.
    Pause,
    /// A replica says what its workers do.
    Report,
    /// Asks replicas for more or fewer workers.
    Scale,
    /// Gives tasks out of the dead letters a new life.
    Requeue,
    /// Removes dead letters.
    Discard,
    /// Looks at tasks at one moment of the log.
    Inspect,
    /// Walks over what tasks stand in.
    Survey,
    /// Mends what does not agree.
    Repair,
    /// Names the commands that the user may not use.
    Rights,
}

impl Function {
    /// Its name behind the library's.
    #[must_use]
    pub const fn short_name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Create => "create",
            Self::Stage => "stage",
            Self::Claim => "claim",
            Self::Settle => "settle",
            Self::Answer => "answer",
            Self::Lend => "lend",
            Self::Cancel => "cancel",
            Self::Stop => "stop",
            Self::Resume => "resume",
            Self::Beat => "beat",
            Self::Takeover => "takeover",
            Self::Leave => "leave",
            Self::Promote => "promote",
            Self::Reject => "reject",
            Self::Acknowledge => "acknowledge",
            Self::Forget => "forget",
            Self::Statistics => "statistics",
            Self::Limits => "limits",
            Self::GiveBack => "give_back",
            Self::Trim => "trim",
            Self::Recall => "recall",
            Self::Circuit => "circuit",
            Self::Trial => "trial",
            Self::Pause => "pause",
            Self::Report => "report",
            Self::Scale => "scale",
            Self::Requeue => "requeue",
            Self::Discard => "discard",
            Self::Inspect => "inspect",
            Self::Survey => "survey",
            Self::Repair => "repair",
            Self::Rights => "rights",
        }
    }

    /// Its name in Redis.
    #[must_use]
    pub fn name(self) -> String {
        format!("{}_{}", LIBRARY.name, self.short_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_of_the_functions_is_the_one_that_rust_speaks() {
        assert!(LIBRARY.source.contains(&format!("local SCHEMA = '{SCHEMA}'")));
    }

    #[test]
    fn every_part_explains_itself() {
        for part in SHARED.iter().chain(&FUNCTIONS) {
            assert!(
                part.starts_with("--[[\n"),
                "{}",
                part.lines().next().unwrap_or_default()
            );
        }
    }
}
