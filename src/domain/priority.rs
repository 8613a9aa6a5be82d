//! The four priorities, highest first.

use std::fmt;
use std::str::FromStr;

/// How urgent a task is. The order of the variants is the order of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, utoipa::ToSchema)]
#[schema(rename_all = "UPPERCASE")]
#[doc(alias = "TaskPriority")]
pub enum Priority {
    /// Served first.
    High,
    /// What a trigger gets that names none.
    #[default]
    Normal,
    /// Served when nothing above waits.
    Low,
    /// Served last.
    Background,
}

impl Priority {
    /// All four, in order of service.
    pub const ALL: [Self; 4] = [Self::High, Self::Normal, Self::Low, Self::Background];

    /// The name on the wire: `HIGH`, `NORMAL`, `LOW` or `BACKGROUND`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "HIGH",
            Self::Normal => "NORMAL",
            Self::Low => "LOW",
            Self::Background => "BACKGROUND",
        }
    }

    /// The name in the queue's key: the same word in lower case.
    #[must_use]
    pub const fn key_part(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
            Self::Background => "background",
        }
    }

    /// The place in the order of service, 0 first.
    #[must_use]
    pub const fn rank(self) -> u8 {
        self as u8
    }

    /// The priority of `rank`, or `None` past the last.
    #[must_use]
    pub fn from_rank(rank: u8) -> Option<Self> {
        Self::ALL.get(usize::from(rank)).copied()
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no priority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a priority: expected HIGH, NORMAL, LOW or BACKGROUND")]
pub struct UnknownPriority(String);

impl FromStr for Priority {
    type Err = UnknownPriority;

    /// Reads a name in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|priority| priority.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownPriority(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_any_case_and_round_trip() {
        for priority in Priority::ALL {
            assert_eq!(priority.as_str().parse(), Ok(priority));
            assert_eq!(priority.key_part().parse(), Ok(priority));
            assert_eq!(Priority::from_rank(priority.rank()), Some(priority));
        }
        assert!("URGENT".parse::<Priority>().is_err());
        assert_eq!(Priority::from_rank(4), None);
    }
}
