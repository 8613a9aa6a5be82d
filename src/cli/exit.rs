//! How a command ends: the exit codes and what is printed with them.

use std::process::ExitCode;

use crate::error::Error;
use crate::service::wiring::ServeError;
use crate::store::StoreError;

/// The thing that was asked about failed.
pub(super) const FAILED: u8 = 1;
/// The arguments or the configuration make no sense.
pub(super) const USAGE: u8 = 2;
/// Redis or the service can not be reached.
pub(super) const UNREACHABLE: u8 = 3;
/// There is no such thing.
pub(super) const NOT_FOUND: u8 = 4;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// The thing that was asked about failed.
    pub(crate) fn failed(text: &str) -> Self {
        Self {
            code: FAILED,
            text: text.to_owned(),
        }
    }

    /// The arguments or the configuration make no sense.
    pub(crate) fn usage(text: &str) -> Self {
        Self {
            code: USAGE,
            text: text.to_owned(),
        }
    }

    /// Something that is needed can not be reached.
    pub(crate) fn unreachable(text: &str) -> Self {
        Self {
            code: UNREACHABLE,
            text: text.to_owned(),
        }
    }

    /// There is no such thing.
    pub(crate) fn not_found(text: &str) -> Self {
        Self {
            code: NOT_FOUND,
            text: text.to_owned(),
        }
    }

    /// Prints the failure; a failure without words has said all that it has to say.
    pub(super) fn print(self) -> ExitCode {
        if !self.text.is_empty() {
            eprintln!("waooaw: {}", self.text);
        }
        ExitCode::from(self.code)
    }
}

/// The error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Unavailable(_) | StoreError::NotConnected(_) => UNREACHABLE,
            StoreError::InvalidUrl(_) => USAGE,
            StoreError::OutOfMemory
            | StoreError::NotJoined
            | StoreError::Schema { .. }
            | StoreError::Partitions { .. }
            | StoreError::NoFunctions
            | StoreError::Protocol(_)
            | StoreError::Refused(_) => FAILED,
        };
        Self {
            code,
            text: chain(&error),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = chain(&error);
        match error {
            Error::RedisUnavailable(source) | Error::Store(source) => Self {
                text,
                ..Self::from(source)
            },
            Error::TaskNotFound(_) => Self { code: NOT_FOUND, text },
            Error::InvalidField(_) | Error::UnknownTask(_) => Self { code: USAGE, text },
            Error::TaskQueueFull { .. } | Error::InvalidTransition(_) | Error::MaxRetriesExceeded { .. } => {
                Self { code: FAILED, text }
            }
        }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        let text = chain(&error);
        match error {
            ServeError::Store(source) => Self {
                text,
                ..Self::from(source)
            },
            ServeError::Listen { .. }
            | ServeError::Handlers(_)
            | ServeError::Unsupported(_)
            | ServeError::CaFile { .. } => Self { code: USAGE, text },
        }
    }
}
