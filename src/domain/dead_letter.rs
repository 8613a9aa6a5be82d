//! The names of dead letters: what failed for good, or could not be accepted.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::id::{Partition, TaskId};

/// Names one dead letter. A task has one for each of its lives that failed; a step of a saga one for a success that was
/// reported behind the end of its saga; a rejected trigger has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeadLetterId {
    /// A task, with the last attempt of the life that failed.
    Task(TaskId, u32),
    /// A step of a saga that succeeded too late, with its task.
    Late(TaskId),
    /// A rejected trigger.
    Trigger(Uuid),
}

impl DeadLetterId {
    /// The partition that holds it, among `count`.
    #[must_use]
    pub fn partition(self, count: u16) -> Partition {
        match self {
            Self::Task(task, _) | Self::Late(task) => task.partition(),
            Self::Trigger(_) => Partition::of_name(&self.to_string(), count),
        }
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(task, attempt) => write!(f, "{task}.{attempt}"),
            Self::Late(task) => write!(f, "{task}.late"),
            Self::Trigger(id) => id.hyphenated().fmt(f),
        }
    }
}

/// The text names no dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not the id of a dead letter: expected `<task id>.<attempt>`, `<task id>.late`, or the UUID of a rejected trigger"
)]
pub struct InvalidDeadLetterId;

impl FromStr for DeadLetterId {
    type Err = InvalidDeadLetterId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((task, attempt)) = text.split_once('.') else {
            return Uuid::try_parse(text)
                .map(Self::Trigger)
                .map_err(|_| InvalidDeadLetterId);
        };
        if attempt == "late" {
            return task.parse().map(Self::Late).map_err(|_| InvalidDeadLetterId);
        }
        let is_plain = attempt.bytes().all(|byte| byte.is_ascii_digit()) && !attempt.starts_with('0');
        match (task.parse(), attempt.parse()) {
            (Ok(task), Ok(attempt)) if is_plain => Ok(Self::Task(task, attempt)),
            (Ok(_) | Err(_), Ok(_) | Err(_)) => Err(InvalidDeadLetterId),
        }
    }
}

/// What a dead letter holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, utoipa::ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum DeadLetterKind {
    /// A task that failed for good.
    Task,
    /// A trigger that was rejected.
    Trigger,
    /// A step of a saga; it comes back with its saga.
    SagaStep,
}

impl DeadLetterKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Task, Self::Trigger, Self::SagaStep];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Trigger => "trigger",
            Self::SagaStep => "saga_step",
        }
    }
}

impl fmt::Display for DeadLetterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a kind of dead letter: expected task, trigger or saga_step")]
pub struct UnknownKind(String);

impl FromStr for DeadLetterKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownKind(super::id::shortened(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: &str = "0190f5d1-7c1e-8a3b-8c4d-000000000007";

    #[test]
    fn an_id_round_trips_and_finds_its_partition() {
        for text in [&format!("{TASK}.12"), &format!("{TASK}.late"), TASK] {
            let id: DeadLetterId = text.parse().unwrap();
            assert_eq!(id.to_string(), *text);
        }
        for of_task in ["1", "late"] {
            let id: DeadLetterId = format!("{TASK}.{of_task}").parse().unwrap();
            assert_eq!(id.partition(16).number(), 7);
        }
        let trigger: DeadLetterId = TASK.parse().unwrap();
        assert_eq!(trigger.partition(16), Partition::of_name(TASK, 16));
        for text in [
            "",
            "x",
            ".1",
            "x.1",
            "x.late",
            &format!("{TASK}."),
            &format!("{TASK}.01"),
            &format!("{TASK}.+1"),
        ] {
            assert_eq!(text.parse::<DeadLetterId>(), Err(InvalidDeadLetterId), "{text}");
        }
    }

    #[test]
    fn a_kind_round_trips() {
        for kind in DeadLetterKind::ALL {
            assert_eq!(kind.as_str().to_uppercase().parse(), Ok(kind));
        }
        assert!("tasks".parse::<DeadLetterKind>().is_err());
    }
}
