//! The states of a saga and the moves between them, and how far its way back got.
//!
//! The functions in Redis keep the same table in `store/lua/saga.lua`; a property test walks both side by side.

use std::fmt;

use serde::{Serialize, Serializer};

/// Where a saga is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SagaState {
    /// Accepted; none of its steps has started.
    Pending,
    /// It goes forward, or waits for running steps before it goes back.
    Running,
    /// Every step completed.
    Completed,
    /// Its steps are being undone.
    Compensating,
    /// Everything that it did is undone.
    Compensated,
    /// Something is left that was not undone; or a step behind the pivot was given up.
    Failed,
}

/// What can happen to a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SagaMove {
    /// Its first step starts.
    Begin,
    /// Its last step completed.
    Complete,
    /// No step runs any more and it goes back.
    TurnRound,
    /// The last of what was to be undone is.
    Undo,
    /// There is nothing more to try.
    GiveUp,
    /// An operator lets it try again what was not undone.
    ResumeBack,
    /// An operator lets it try again what was given up behind the pivot.
    ResumeForward,
}

impl SagaMove {
    /// Every move, in the order of the table below.
    pub const ALL: [Self; 7] = [
        Self::Begin,
        Self::Complete,
        Self::TurnRound,
        Self::Undo,
        Self::GiveUp,
        Self::ResumeBack,
        Self::ResumeForward,
    ];
}

impl SagaState {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Running,
        Self::Completed,
        Self::Compensating,
        Self::Compensated,
        Self::Failed,
    ];

    /// The state after `step`, or `None` where the move is refused.
    #[must_use]
    pub const fn after(self, step: SagaMove) -> Option<Self> {
        match self {
            Self::Pending => match step {
                SagaMove::Begin => Some(Self::Running),
                // Cancelled before anything started.
                SagaMove::TurnRound => Some(Self::Compensating),
                SagaMove::Complete
                | SagaMove::Undo
                | SagaMove::GiveUp
                | SagaMove::ResumeBack
                | SagaMove::ResumeForward => None,
            },
            Self::Running => match step {
                SagaMove::Complete => Some(Self::Completed),
                SagaMove::TurnRound => Some(Self::Compensating),
                SagaMove::GiveUp => Some(Self::Failed),
                SagaMove::Begin | SagaMove::Undo | SagaMove::ResumeBack | SagaMove::ResumeForward => None,
            },
            Self::Compensating => match step {
                SagaMove::Undo => Some(Self::Compensated),
                SagaMove::GiveUp => Some(Self::Failed),
                SagaMove::Begin
                | SagaMove::Complete
                | SagaMove::TurnRound
                | SagaMove::ResumeBack
                | SagaMove::ResumeForward => None,
            },
            // What went back whole may get the success of a step reported that had been given up.
            Self::Compensated => match step {
                SagaMove::ResumeBack => Some(Self::Compensating),
                SagaMove::Begin
                | SagaMove::Complete
                | SagaMove::TurnRound
                | SagaMove::Undo
                | SagaMove::GiveUp
                | SagaMove::ResumeForward => None,
            },
            Self::Failed => match step {
                SagaMove::ResumeBack => Some(Self::Compensating),
                SagaMove::ResumeForward => Some(Self::Running),
                SagaMove::Begin | SagaMove::Complete | SagaMove::TurnRound | SagaMove::Undo | SagaMove::GiveUp => None,
            },
            Self::Completed => None,
        }
    }

    /// Whether it has ended. One that can be resumed has ended too.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Pending | Self::Running | Self::Compensating => false,
            Self::Completed | Self::Compensated | Self::Failed => true,
        }
    }

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Compensating => "COMPENSATING",
            Self::Compensated => "COMPENSATED",
            Self::Failed => "FAILED",
        }
    }

    /// The letter in the saga's record.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Pending => 'P',
            Self::Running => 'R',
            Self::Completed => 'C',
            Self::Compensating => 'G',
            Self::Compensated => 'B',
            Self::Failed => 'F',
        }
    }

    /// The state of a letter in a saga's record.
    #[must_use]
    pub fn from_letter(letter: char) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.letter() == letter)
    }
}

/// How far a saga's way back got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CompensationStatus {
    /// It does not go back.
    None,
    /// It goes back right now.
    Running,
    /// Everything that it did is undone.
    Complete,
    /// Something is left that was not undone.
    Incomplete,
}

impl CompensationStatus {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Incomplete => "incomplete",
        }
    }

    /// What it is in a state, with or without steps that were not undone.
    #[must_use]
    pub const fn of(state: SagaState, has_uncompensated: bool) -> Self {
        match state {
            SagaState::Compensating => Self::Running,
            // A late success leaves something open behind a clean end.
            SagaState::Compensated | SagaState::Failed if has_uncompensated => Self::Incomplete,
            SagaState::Compensated => Self::Complete,
            SagaState::Pending | SagaState::Running | SagaState::Completed | SagaState::Failed => Self::None,
        }
    }
}

/// Where a step of a saga is, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepState {
    /// It waits.
    Pending,
    /// It runs.
    Running,
    /// It completed.
    Completed,
    /// It failed for good.
    Failed,
    /// Its last attempt ran out of time.
    Timeout,
    /// It was given up.
    Cancelled,
    /// It is being undone.
    Compensating,
    /// It is undone.
    Compensated,
    /// It could not be undone.
    CompensationFailed,
}

impl StepState {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Timeout => "TIMEOUT",
            Self::Cancelled => "CANCELLED",
            Self::Compensating => "COMPENSATING",
            Self::Compensated => "COMPENSATED",
            Self::CompensationFailed => "COMPENSATION_FAILED",
        }
    }
}

macro_rules! named {
    ($($kind:ty),*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    )*};
}

named!(SagaState, CompensationStatus, StepState);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saga_ends_where_its_steps_do_and_only_an_operator_moves_it_on() {
        let padded = |text: &str| format!("{text:<14}");
        let mut table = padded("state");
        for step in SagaMove::ALL {
            table.push_str(&padded(&format!("{step:?}")));
        }
        for state in SagaState::ALL {
            table.push('\n');
            table.push_str(&padded(&format!("{state:?}")));
            for step in SagaMove::ALL {
                let after = state.after(step).map_or("-".to_owned(), |after| format!("{after:?}"));
                table.push_str(&padded(&after));
            }
        }
        let table: Vec<&str> = table.lines().map(str::trim_end).collect();

        assert_eq!(
            table.join("\n"),
            "\
state         Begin         Complete      TurnRound     Undo          GiveUp        ResumeBack    ResumeForward
Pending       Running       -             Compensating  -             -             -             -
Running       -             Completed     Compensating  -             Failed        -             -
Completed     -             -             -             -             -             -             -
Compensating  -             -             -             Compensated   Failed        -             -
Compensated   -             -             -             -             -             Compensating  -
Failed        -             -             -             -             -             Compensating  Running"
        );
    }

    #[test]
    fn a_state_round_trips_through_its_letter() {
        for state in SagaState::ALL {
            assert_eq!(SagaState::from_letter(state.letter()), Some(state));
        }
        assert_eq!(SagaState::from_letter('S'), None);
    }
}
