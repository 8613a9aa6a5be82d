//! What an audit proves: each guarantee by its name, which programs rely on, and in the words of the contract.

use std::fmt;

use serde::{Serialize, Serializer};

/// One guarantee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Guarantee {
    /// Triggers and what they made.
    OncePerTrigger,
    /// Beginnings and ends.
    OneEndPerLife,
    /// Numbers.
    Sequence,
    /// Moves.
    LegalPath,
    /// The log against the records.
    StoredState,
    /// Attempts.
    RetryBudget,
    /// What depends on what.
    Dependencies,
    /// Workflows and their tasks.
    Workflows,
    /// Sagas and their steps.
    Sagas,
    /// What is undone of sagas, and in which order.
    Compensations,
    /// What runs, and who holds it.
    Owners,
    /// What waits, and where.
    Places,
    /// What failed for good.
    DeadLetters,
    /// Counts.
    Counters,
}

impl Guarantee {
    /// Every guarantee, in the order in which they are reported.
    pub const ALL: [Self; 14] = [
        Self::OncePerTrigger,
        Self::OneEndPerLife,
        Self::Sequence,
        Self::LegalPath,
        Self::StoredState,
        Self::RetryBudget,
        Self::Dependencies,
        Self::Workflows,
        Self::Sagas,
        Self::Compensations,
        Self::Owners,
        Self::Places,
        Self::DeadLetters,
        Self::Counters,
    ];

    /// The name, for programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OncePerTrigger => "once_per_trigger",
            Self::OneEndPerLife => "one_end_per_life",
            Self::Sequence => "sequence",
            Self::LegalPath => "legal_path",
            Self::StoredState => "stored_state",
            Self::RetryBudget => "retry_budget",
            Self::Dependencies => "dependencies",
            Self::Workflows => "workflows",
            Self::Sagas => "sagas",
            Self::Compensations => "compensations",
            Self::Owners => "owners",
            Self::Places => "places",
            Self::DeadLetters => "dead_letters",
            Self::Counters => "counters",
        }
    }

    /// What is guaranteed.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::OncePerTrigger => "every task was created once, by the trigger that it names",
            Self::OneEndPerLife => "every life of a task has at most one end, and nothing changes after it",
            Self::Sequence => "the numbers of each subject's events have no gap and no repeat",
            Self::LegalPath => "every move is one that the state allows, and a task stays in its chain",
            Self::StoredState => "folding the events gives the stored state",
            Self::RetryBudget => "attempts less those handed back are at most one more than the retries of a life",
            Self::Dependencies => {
                "no task starts before what it depends on has ended, and none is left waiting after it"
            }
            Self::Workflows => "a workflow ends once, with its last task, and says what became of all",
            Self::Sagas => "a saga moves as its steps do, and every ending of it comes once, after the last task",
            Self::Compensations => {
                "compensations are the exact reverse of completed and doubtful steps, and what was not undone is named"
            }
            Self::Owners => "what runs is held by its owner, and nothing else is held",
            Self::Places => "what waits stands once, where its record says",
            Self::DeadLetters => "what failed for good is kept until it is requeued, discarded or too old",
            Self::Counters => "counters are what counting anew gives",
        }
    }
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Guarantee {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
