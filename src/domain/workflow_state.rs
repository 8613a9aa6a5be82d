//! The states of a workflow.
//!
//! A workflow runs until its last task is terminal, and what the tasks came to decides how it ends; tasks that join it can not
//! bring it back. `store/lua/follow.lua` writes the letters.

use std::fmt;

use serde::{Serialize, Serializer};

/// Where a workflow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
#[schema(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WorkflowState {
    /// A task of it has not ended.
    Running,
    /// All have ended, and none so that it failed.
    Completed,
    /// One failed or timed out for good, or was cancelled so that others could not run.
    Failed,
    /// It was stopped, and none of its tasks failed.
    Cancelled,
}

impl WorkflowState {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 4] = [Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    /// Whether it has ended.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Running => false,
            Self::Completed | Self::Failed | Self::Cancelled => true,
        }
    }

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// The letter in the workflow's record.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Running => 'R',
            Self::Completed => 'C',
            Self::Failed => 'F',
            Self::Cancelled => 'X',
        }
    }

    /// The state of a letter in a workflow's record.
    #[must_use]
    pub fn from_letter(letter: char) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.letter() == letter)
    }
}

impl fmt::Display for WorkflowState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for WorkflowState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
