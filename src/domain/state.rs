//! The states of a task and the moves between them.
//!
//! The functions in Redis enforce the same table; `model` builds on it, and the test of the same name walks both side
//! by side.

use std::fmt;
use std::str::FromStr;

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
#[schema(rename_all = "UPPERCASE")]
pub enum TaskState {
    /// Waits: in its queue, for its time, or for what it depends on.
    Pending,
    /// A worker slot or an agent holds it.
    Running,
    /// Ended with a result.
    Completed,
    /// Ended with an error, retries exhausted or pointless.
    Failed,
    /// Ended because its last attempt ran out of time.
    Timeout,
    /// Stopped on request.
    Cancelled,
}

/// What can happen to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskMove {
    /// A slot takes it.
    Claim,
    /// Its handler returned a result.
    Succeed,
    /// Its attempt failed and another will follow.
    Retry,
    /// Its attempt was handed back unfinished.
    Release,
    /// Its attempt failed and no other will follow.
    Fail,
    /// Its last attempt ran out of time.
    Expire,
    /// Somebody asked for it to stop.
    Cancel,
    /// An operator gives it a new life out of the dead letters.
    Requeue,
}

impl TaskMove {
    /// Every move, in the order of the table below.
    pub const ALL: [Self; 8] = [
        Self::Claim,
        Self::Succeed,
        Self::Retry,
        Self::Release,
        Self::Fail,
        Self::Expire,
        Self::Cancel,
        Self::Requeue,
    ];
}

impl TaskState {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::Timeout,
        Self::Cancelled,
    ];

    /// The state after `step`, or `None` where the move is refused.
    #[must_use]
    pub const fn after(self, step: TaskMove) -> Option<Self> {
        match self {
            Self::Pending => match step {
                TaskMove::Claim => Some(Self::Running),
                TaskMove::Cancel => Some(Self::Cancelled),
                TaskMove::Succeed
                | TaskMove::Retry
                | TaskMove::Release
                | TaskMove::Fail
                | TaskMove::Expire
                | TaskMove::Requeue => None,
            },
            Self::Running => match step {
                TaskMove::Succeed => Some(Self::Completed),
                TaskMove::Retry | TaskMove::Release => Some(Self::Pending),
                TaskMove::Fail => Some(Self::Failed),
                TaskMove::Expire => Some(Self::Timeout),
                TaskMove::Cancel => Some(Self::Cancelled),
                TaskMove::Claim | TaskMove::Requeue => None,
            },
            Self::Failed | Self::Timeout => match step {
                TaskMove::Requeue => Some(Self::Pending),
                TaskMove::Claim
                | TaskMove::Succeed
                | TaskMove::Retry
                | TaskMove::Release
                | TaskMove::Fail
                | TaskMove::Expire
                | TaskMove::Cancel => None,
            },
            Self::Completed | Self::Cancelled => None,
        }
    }

    /// Whether the life is over.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Completed | Self::Failed | Self::Timeout | Self::Cancelled => true,
        }
    }

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
        }
    }

    /// The letter in the task's record.
    #[must_use]
    pub const fn letter(self) -> u8 {
        match self {
            Self::Pending => b'P',
            Self::Running => b'R',
            Self::Completed => b'C',
            Self::Failed => b'F',
            Self::Timeout => b'T',
            Self::Cancelled => b'X',
        }
    }

    /// The state of a letter in a task's record.
    #[must_use]
    pub fn from_letter(letter: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.letter() == letter)
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a task was cancelled, as its event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CancelReason {
    /// Somebody asked for it.
    Requested,
    /// Something that it depends on ended without success.
    DependencyFailed,
    /// Its workflow was stopped.
    WorkflowStopped,
    /// Its saga turned back.
    SagaAborted,
}

impl CancelReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [
        Self::Requested,
        Self::DependencyFailed,
        Self::WorkflowStopped,
        Self::SagaAborted,
    ];

    /// The code on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::DependencyFailed => "dependency_failed",
            Self::WorkflowStopped => "workflow_stopped",
            Self::SagaAborted => "saga_aborted",
        }
    }
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a state: expected PENDING, RUNNING, COMPLETED, FAILED, TIMEOUT or CANCELLED")]
pub struct UnknownState(String);

impl FromStr for TaskState {
    type Err = UnknownState;

    /// Reads a name in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownState(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transition_table() -> String {
        let padded = |text: &str| format!("{text:<10}");
        let mut table = padded("state");
        for step in TaskMove::ALL {
            table.push_str(&padded(&format!("{step:?}")));
        }
        for state in TaskState::ALL {
            table.push('\n');
            table.push_str(&padded(&format!("{state:?}")));
            for step in TaskMove::ALL {
                let after = state.after(step).map_or("-".to_owned(), |after| format!("{after:?}"));
                table.push_str(&padded(&after));
            }
        }
        table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn only_a_running_task_can_be_settled_and_only_a_dead_one_requeued() {
        assert_eq!(
            transition_table(),
            "\
state     Claim     Succeed   Retry     Release   Fail      Expire    Cancel    Requeue
Pending   Running   -         -         -         -         -         Cancelled -
Running   -         Completed Pending   Pending   Failed    Timeout   Cancelled -
Completed -         -         -         -         -         -         -         -
Failed    -         -         -         -         -         -         -         Pending
Timeout   -         -         -         -         -         -         -         Pending
Cancelled -         -         -         -         -         -         -         -"
        );
    }

    #[test]
    fn a_state_round_trips_through_its_name_and_its_letter() {
        for state in TaskState::ALL {
            assert_eq!(state.as_str().to_lowercase().parse(), Ok(state));
            assert_eq!(TaskState::from_letter(state.letter()), Some(state));
        }
        assert_eq!(TaskState::from_letter(b'?'), None);
    }
}
