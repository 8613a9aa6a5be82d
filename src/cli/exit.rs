//! How a command ends: the exit codes and what is printed with them.

use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;

use crate::error::Error;
use crate::service::config::ConfigErrors;
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

/// Somebody asked a second time for the end, as shells count it.
const INTERRUPTED: u8 = 130;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    /// What programs are told: the name of the error.
    name: &'static str,
    text: String,
    /// Each problem on its own, where there may be several.
    errors: Option<serde_json::Value>,
    /// Tasks that depend on each other in a ring.
    cycle: Option<Vec<String>>,
}

impl Failure {
    fn new(code: u8, name: &'static str, text: &str) -> Self {
        Self {
            code,
            name,
            text: text.to_owned(),
            errors: None,
            cycle: None,
        }
    }

    /// The thing that was asked about failed.
    pub(crate) fn failed(text: &str) -> Self {
        Self::new(FAILED, "Failed", text)
    }

    /// The arguments or the configuration make no sense.
    pub(crate) fn usage(text: &str) -> Self {
        Self::new(USAGE, "Usage", text)
    }

    /// Something that is needed can not be reached.
    pub(crate) fn unreachable(text: &str) -> Self {
        Self::new(UNREACHABLE, "Unreachable", text)
    }

    /// There is no such thing.
    #[allow(dead_code, reason = "commands about workflows and dead letters need it")]
    pub(crate) fn not_found(text: &str) -> Self {
        Self::new(NOT_FOUND, "NotFound", text)
    }

    /// Nobody reads on: the end, without a word and without blame, as `head` expects.
    pub(crate) fn closed_pipe() -> Self {
        Self::new(0, "ClosedPipe", "")
    }

    /// Somebody did not wait for an orderly end.
    pub(crate) fn interrupted() -> Self {
        Self::new(INTERRUPTED, "Interrupted", "")
    }

    /// Gives the error a name of its own, for programs.
    pub(crate) fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// Adds what tells the problems apart, for programs.
    fn with_errors(mut self, errors: &impl Serialize) -> Self {
        self.errors = serde_json::to_value(errors).ok();
        self
    }

    /// Prints the failure; a failure without words has said all that it has to say.
    pub(super) fn print(self, is_json: bool) -> ExitCode {
        if !self.text.is_empty() {
            if is_json {
                let error = ErrorDocument {
                    code: self.name,
                    message: &self.text,
                    errors: self.errors.as_ref(),
                    cycle: self.cycle.as_deref(),
                };
                say(&serde_json::to_string(&Wrapped { error }).unwrap_or_default());
            } else {
                say(&format!("waooaw: {}", self.text));
            }
        }
        ExitCode::from(self.code)
    }
}

/// A failure as programs read it.
#[derive(Serialize)]
struct Wrapped<'a> {
    error: ErrorDocument<'a>,
}

#[derive(Serialize)]
struct ErrorDocument<'a> {
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<&'a serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cycle: Option<&'a [String]>,
}

/// Writes a line to standard error; nobody may be there to read it, which is no reason to panic.
pub(super) fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").unwrap_or_default();
}

/// The error with all its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = source.source();
    }
    text
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Unavailable(_) | StoreError::NotConnected(_) => UNREACHABLE,
            StoreError::InvalidUrl(_) | StoreError::Partitions { .. } => USAGE,
            StoreError::OutOfMemory
            | StoreError::NotJoined
            | StoreError::Schema { .. }
            | StoreError::NoFunctions
            | StoreError::Unfit(_)
            | StoreError::Protocol(_)
            | StoreError::Refused(_) => FAILED,
        };
        let name = if error.is_retryable() {
            "RedisUnavailable"
        } else {
            "Store"
        };
        Self::new(code, name, &chain(&error))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (name, text) = (error.code(), chain(&error));
        match error {
            Error::RedisUnavailable(source) | Error::Store(source) => Self {
                text,
                ..Self::from(source)
            },
            Error::TaskNotFound(_)
            | Error::WorkflowNotFound(_)
            | Error::SagaNotFound(_)
            | Error::DeadLetterNotFound(_)
            | Error::QueueNotFound(_)
            | Error::WorkerNotFound(_) => Self::new(NOT_FOUND, name, &text),
            Error::InvalidField(rejection)
            | Error::InvalidDependency(rejection)
            | Error::PayloadTooLarge(rejection) => Self::new(USAGE, name, &text).with_errors(&rejection.problems),
            Error::CyclicDependency { cycle } => Self {
                cycle: Some(cycle),
                ..Self::new(USAGE, name, &text)
            },
            Error::UnknownTask(_) => Self::new(USAGE, name, &text),
            Error::TaskQueueFull { .. }
            | Error::DependencyNotSatisfied { .. }
            | Error::InvalidTransition(_)
            | Error::WorkflowExecution { .. }
            | Error::SagaExecution { .. }
            | Error::WaitTimeout(_)
            | Error::MaxRetriesExceeded { .. }
            | Error::PermanentFailure { .. }
            | Error::WorkerPoolFull { .. }
            | Error::NoWorkersAvailable
            | Error::TaskFailed(_) => Self::new(FAILED, name, &text),
        }
    }
}

impl From<ConfigErrors> for Failure {
    fn from(problems: ConfigErrors) -> Self {
        Self::new(USAGE, "InvalidConfiguration", &problems.to_string()).with_errors(&problems.problems())
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
            | ServeError::Traces(_)
            | ServeError::CaFile { .. } => Self::usage(&text),
        }
    }
}
