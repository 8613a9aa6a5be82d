//! Workers: what each of them does right now.

use std::fmt;

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, utoipa::ToSchema)]
#[schema(rename_all = "UPPERCASE")]
pub enum WorkerState {
    /// Ready for a task.
    Idle,
    /// Runs one.
    Busy,
    /// The last one failed, a moment ago; it is as ready as an idle one.
    Error,
    /// Takes no more.
    Stopped,
}

impl WorkerState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Idle, Self::Busy, Self::Error, Self::Stopped];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "IDLE",
            Self::Busy => "BUSY",
            Self::Error => "ERROR",
            Self::Stopped => "STOPPED",
        }
    }

    /// Its letter where many are written in a row.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Idle => 'I',
            Self::Busy => 'B',
            Self::Error => 'E',
            Self::Stopped => 'S',
        }
    }

    /// The state of a letter.
    #[must_use]
    pub fn from_letter(letter: char) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.letter() == letter)
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_leads_back_to_its_state() {
        for state in WorkerState::ALL {
            assert_eq!(WorkerState::from_letter(state.letter()), Some(state));
        }
    }
}
