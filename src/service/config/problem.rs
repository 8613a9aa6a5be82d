//! What is wrong with a configuration: all of it, so that one look is enough.

use std::fmt;

use serde::Serialize;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ConfigProblem {
    /// The key, dotted; empty when a whole file can not be read.
    pub key: String,
    /// The value as it was typed, secrets masked. None for a key that is missing or unknown: a misspelt key may hold a
    /// secret.
    pub value: Option<String>,
    /// What is wrong with it.
    pub reason: String,
    /// Where it was typed: a file, a variable, a flag, or `default`.
    pub source: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            value,
            reason,
            source,
        } = self;
        match value {
            _ if key.is_empty() => write!(f, "{source}: {reason}"),
            Some(value) => write!(f, "{key} = `{value}` ({source}): {reason}"),
            None => write!(f, "{key} ({source}): {reason}"),
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub(super) Vec<ConfigProblem>);

impl ConfigErrors {
    /// The problems, at least one.
    #[must_use]
    pub fn problems(&self) -> &[ConfigProblem] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "the configuration has {} problem{plural}:", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigErrors {}
