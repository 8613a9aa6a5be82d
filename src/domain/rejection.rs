//! Why something that was asked for is refused.
//!
//! Checking goes on after the first fault, so that a sender sees all of them at once. A [`Rejection`] carries one
//! [`Reason`] for programs, that of the gravest problem, and every [`Problem`] for people. What becomes of it, an event,
//! a dead letter or an HTTP answer, is decided elsewhere.

use std::fmt;

use serde::Serialize;

use super::id::shortened;

/// The code of a refusal, as it stands in `orchestration.trigger.rejected` and `orchestration.command.refused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It cannot be read at all: no JSON, no UTF-8, or a field that comes twice.
    Malformed,
    /// A required field is absent or empty.
    MissingField,
    /// A field has a value that it cannot have.
    InvalidField,
    /// The payload has a field that this type of event does not know.
    UnknownField,
    /// Nothing is done on events of this type.
    UnknownEventType,
    /// No replica has registered a task of this name.
    UnknownTask,
    /// The whole entry is over the limit of bytes.
    TooLarge,
    /// Arrays and objects lie deeper in each other than the limit.
    TooDeep,
    /// Tasks depend on each other in a ring.
    CyclicDependency,
    /// A dependency names nothing that is known.
    InvalidDependency,
    /// The key is taken by another task of the workflow.
    DuplicateKey,
    /// The id is taken by another trigger.
    DuplicateId,
    /// What the command is about does not exist.
    NotFound,
    /// The answer is for an attempt that is no longer the current one.
    StaleAttempt,
    /// The state does not allow it.
    InvalidTransition,
}

impl Reason {
    /// Every reason, the gravest first.
    ///
    /// What keeps an entry from being read comes before what is wrong with what was read, and that before what is wrong
    /// with the world it meets: the more a fault hides of the rest, the graver it is.
    pub const ALL: [Self; 15] = [
        Self::TooLarge,
        Self::TooDeep,
        Self::Malformed,
        Self::UnknownEventType,
        Self::MissingField,
        Self::InvalidField,
        Self::UnknownField,
        Self::UnknownTask,
        Self::CyclicDependency,
        Self::InvalidDependency,
        Self::DuplicateKey,
        Self::DuplicateId,
        Self::NotFound,
        Self::StaleAttempt,
        Self::InvalidTransition,
    ];

    /// The code on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::MissingField => "missing_field",
            Self::InvalidField => "invalid_field",
            Self::UnknownField => "unknown_field",
            Self::UnknownEventType => "unknown_event_type",
            Self::UnknownTask => "unknown_task",
            Self::TooLarge => "too_large",
            Self::TooDeep => "too_deep",
            Self::CyclicDependency => "cyclic_dependency",
            Self::InvalidDependency => "invalid_dependency",
            Self::DuplicateKey => "duplicate_key",
            Self::DuplicateId => "duplicate_id",
            Self::NotFound => "not_found",
            Self::StaleAttempt => "stale_attempt",
            Self::InvalidTransition => "invalid_transition",
        }
    }

    /// The place in [`Reason::ALL`].
    fn rank(self) -> usize {
        Self::ALL
            .iter()
            .position(|&reason| reason == self)
            .unwrap_or(Self::ALL.len())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is wrong, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The field at fault by its path, as `retry.jitter`; `None` where it is the whole.
    pub field: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(field) = &self.field {
            write!(f, "`{field}` ")?;
        }
        f.write_str(&self.message)
    }
}

/// A refusal with everything that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The reason of the gravest problem, by the order of [`Reason::ALL`].
    pub reason: Reason,
    /// Every problem, in the order in which they were found.
    pub problems: Vec<Problem>,
    /// Where tasks depend on each other in a ring, one such ring: each on the next, the first again at the end.
    pub cycle: Vec<String>,
}

impl Rejection {
    /// A refusal for one problem.
    #[must_use]
    pub fn new(reason: Reason, field: Option<&str>, message: impl Into<String>) -> Self {
        let problem = Problem {
            field: field.map(str::to_owned),
            message: message.into(),
        };
        Self {
            reason,
            problems: vec![problem],
            cycle: Vec::new(),
        }
    }

    /// The problems as the JSON array `errors` of an event: `[{"field": "priority", "message": "…"}]`.
    #[must_use]
    pub fn errors_json(&self) -> String {
        serde_json::to_string(&self.problems).unwrap_or_default()
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        for (place, problem) in self.problems.iter().enumerate() {
            write!(f, "{} {problem}", if place == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejection {}

/// What has been found wrong so far. Empty it costs nothing, so the good path does not allocate.
#[derive(Debug, Default)]
pub(super) struct Problems {
    gravest: Option<Reason>,
    listed: Vec<Problem>,
    unlisted: usize,
    cycle: Vec<String>,
}

impl Problems {
    /// The most problems that are told apart. An entry of one mebibyte can have a hundred thousand unknown fields, and
    /// the event that lists them must stay small.
    pub(super) const MAX_LISTED: usize = 32;

    /// Notes one. A field's name may come from the sender, so a long one is cut.
    pub(super) fn add(&mut self, reason: Reason, field: Option<&str>, message: impl Into<String>) {
        self.gravest = Some(match self.gravest {
            Some(gravest) if gravest.rank() <= reason.rank() => gravest,
            Some(_) | None => reason,
        });
        if self.is_full() {
            self.unlisted += 1;
        } else {
            self.listed.push(Problem {
                field: field.map(shortened),
                message: message.into(),
            });
        }
    }

    /// Notes that tasks depend on each other in a ring; `cycle` as in [`Rejection`].
    pub(super) fn add_cycle(&mut self, field: &str, cycle: Vec<String>) {
        self.add(Reason::CyclicDependency, Some(field), cycle_in_words(&cycle));
        self.cycle = cycle;
    }

    /// Whether a further problem would only be counted: its message need not be worked out.
    pub(super) fn is_full(&self) -> bool {
        self.listed.len() == Self::MAX_LISTED
    }

    /// Whether nothing is wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.gravest.is_none()
    }

    /// Whether `field` is among those at fault.
    pub(super) fn concern(&self, field: &str) -> bool {
        self.listed
            .iter()
            .any(|problem| problem.field.as_deref() == Some(field))
    }

    /// The refusal that they add up to, or `None` without any.
    pub(super) fn into_rejection(self) -> Option<Rejection> {
        let reason = self.gravest?;
        let mut problems = self.listed;
        if self.unlisted > 0 {
            problems.push(Problem {
                field: None,
                message: format!("and {} more problems", self.unlisted),
            });
        }
        Some(Rejection {
            reason,
            problems,
            cycle: self.cycle,
        })
    }
}

/// A ring as an error says it: `depends on itself: a → b → a`, a long one without its middle.
pub(crate) fn cycle_in_words(cycle: &[String]) -> String {
    const SHOWN: usize = 10;
    if cycle.len() <= SHOWN {
        return format!("depends on itself: {}", cycle.join(" → "));
    }
    format!(
        "depends on itself: {} → … {} more … → {}",
        cycle[..SHOWN - 2].join(" → "),
        cycle.len() - SHOWN + 1,
        cycle[cycle.len() - 1]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_code_in_snake_case() {
        let codes: std::collections::BTreeSet<_> = Reason::ALL.iter().map(ToString::to_string).collect();

        assert_eq!(codes.len(), Reason::ALL.len());
        assert!(
            codes
                .iter()
                .all(|code| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
        );
    }

    #[test]
    fn the_gravest_problem_gives_the_reason_and_none_is_lost() {
        let mut problems = Problems::default();
        problems.add(Reason::UnknownField, Some("prio"), "is not a field");
        problems.add(Reason::MissingField, Some("task_name"), "is required");
        problems.add(Reason::InvalidField, Some("priority"), "must be a string");

        let rejection = problems.into_rejection().unwrap();

        assert_eq!(rejection.reason, Reason::MissingField);
        assert_eq!(
            rejection.to_string(),
            "missing_field: `prio` is not a field; `task_name` is required; `priority` must be a string"
        );
    }

    #[test]
    fn nothing_wrong_is_no_rejection() {
        assert_eq!(Problems::default().into_rejection(), None);
    }

    #[test]
    fn a_flood_of_problems_is_counted_and_not_listed() {
        let mut problems = Problems::default();
        for _ in 0..100_000 {
            problems.add(Reason::UnknownField, Some(&"x".repeat(1000)), "is not a field");
        }
        problems.add(Reason::Malformed, None, "is not JSON");

        let rejection = problems.into_rejection().unwrap();

        assert_eq!(rejection.reason, Reason::Malformed);
        assert_eq!(rejection.problems.len(), Problems::MAX_LISTED + 1);
        assert_eq!(rejection.problems.last().unwrap().message, "and 99969 more problems");
        assert!(rejection.errors_json().len() < 4096);
    }

    #[test]
    fn errors_are_objects_with_a_field_and_a_message() {
        let rejection = Rejection::new(Reason::InvalidField, Some("priority"), "is \"x\"");

        assert_eq!(
            rejection.errors_json(),
            r#"[{"field":"priority","message":"is \"x\""}]"#
        );
        assert_eq!(
            Rejection::new(Reason::TooLarge, None, "is too large").errors_json(),
            r#"[{"field":null,"message":"is too large"}]"#
        );
    }
}
