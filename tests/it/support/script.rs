//! What an agent of the tests is asked to do with each attempt of a task, so that what becomes of it is known before.
//!
//! The script travels in the task's `kwargs`. So an agent that was killed and started again does the same with an attempt as
//! before, and whoever reads the log knows what it was.

use serde_json::{Value, json};

/// What an agent does with one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Answers well.
    Succeeds,
    /// Answers well after heartbeats, over longer than it may be silent.
    Beats,
    /// Answers well, by the same event again, and by another one.
    Repeats,
    /// Reports a failure after which it may be tried again.
    Fails,
    /// Reports a failure for good.
    GivesUp,
    /// Answers well, when it has been silent for longer than it may be.
    ComesLate,
    /// Says nothing.
    KeepsSilent,
}

impl Act {
    /// The type of the error that it reports.
    pub(crate) const PROBLEM: &'static str = "OutOfStock";

    const ALL: [Self; 7] = [
        Self::Succeeds,
        Self::Beats,
        Self::Repeats,
        Self::Fails,
        Self::GivesUp,
        Self::ComesLate,
        Self::KeepsSilent,
    ];

    fn name(self) -> String {
        format!("{self:?}")
    }

    /// Whether an attempt may end with a result.
    pub(crate) const fn may_succeed(self) -> bool {
        match self {
            Self::Succeeds | Self::Beats | Self::Repeats | Self::ComesLate => true,
            Self::Fails | Self::GivesUp | Self::KeepsSilent => false,
        }
    }

    /// Whether it reports a failure.
    pub(crate) const fn fails(self) -> bool {
        match self {
            Self::Fails | Self::GivesUp => true,
            Self::Succeeds | Self::Beats | Self::Repeats | Self::ComesLate | Self::KeepsSilent => false,
        }
    }
}

/// The acts of the first attempts; all later ones are like the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Script(pub(crate) [Act; 4]);

impl Script {
    /// What happens at an attempt; the first is 1.
    pub(crate) fn act(self, attempt: u64) -> Act {
        let at = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        self.0[at.min(self.0.len() - 1)]
    }

    /// Whether any attempt may end with a result.
    pub(crate) fn may_succeed(self) -> bool {
        self.0.iter().any(|act| act.may_succeed())
    }

    /// The `kwargs` of its task.
    pub(crate) fn kwargs(self) -> Value {
        json!({ "script": self.0.map(Act::name) })
    }

    /// The script in the `kwargs` of a task.
    pub(crate) fn read(kwargs: &Value) -> Option<Self> {
        let names = kwargs["script"].as_array()?;
        let act = |name: &Value| Act::ALL.into_iter().find(|act| name.as_str() == Some(&act.name()));
        let acts: Vec<Act> = names.iter().filter_map(act).collect();
        acts.try_into().ok().map(Self)
    }
}
