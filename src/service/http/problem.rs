//! What a client is told when something can not be done: a problem document (RFC 9457) with a code that does not change.
//!
//! The codes are those of the library's errors, and a few of HTTP itself. Nothing of Redis's address, of a token or of a
//! payload goes into one.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::rejection::{Reason, Rejection};
use crate::error::Error;
use crate::store::StoreError;

/// How much of a problem's words is told, and how much of the path that was asked for.
const DETAIL_BYTES_MAX: usize = 2048;
const INSTANCE_BYTES_MAX: usize = 1024;

/// The media type of a problem.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// A problem document (RFC 9457).
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Problem {
    /// `urn:waooaw:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:waooaw:problem:TaskNotFound")]
    kind: String,
    /// The same for every problem of this code.
    #[schema(example = "There is no such task")]
    title: &'static str,
    /// The status of the answer.
    #[schema(example = 404, minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong this time, and what to do about it.
    detail: String,
    /// The path that was asked for.
    #[serde(skip_serializing_if = "String::is_empty")]
    instance: String,
    /// For programs; stable.
    #[schema(example = "TaskNotFound")]
    code: &'static str,
    /// As in the header `x-request-id`, and in the log of the replica.
    #[serde(skip_serializing_if = "String::is_empty")]
    request_id: String,
    /// Each fault on its own, where a value was refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldProblem>,
    /// Tasks that depend on each other in a ring: each on the next, the first again at the end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cycle: Vec<String>,
    #[serde(skip)]
    retry_after_seconds: Option<u32>,
    #[serde(skip)]
    header: Option<(HeaderName, HeaderValue)>,
}

/// What is wrong with one field.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct FieldProblem {
    /// Its path, such as `retry.jitter`; null where it is the whole.
    #[schema(required = true)]
    field: Option<String>,
    /// What is wrong with it.
    message: String,
}

/// Every code, its status, and its title.
pub(super) const CODES: [(&str, StatusCode, &str); 27] = [
    ("TaskNotFound", StatusCode::NOT_FOUND, "There is no such task"),
    ("WorkflowNotFound", StatusCode::NOT_FOUND, "There is no such workflow"),
    ("SagaNotFound", StatusCode::NOT_FOUND, "There is no such saga"),
    (
        "WorkerNotFound",
        StatusCode::NOT_FOUND,
        "There is no such worker or replica",
    ),
    (
        "DeadLetterNotFound",
        StatusCode::NOT_FOUND,
        "There is no such dead letter",
    ),
    ("QueueNotFound", StatusCode::NOT_FOUND, "There is no such queue"),
    ("NotFound", StatusCode::NOT_FOUND, "There is no such resource"),
    (
        "MethodNotAllowed",
        StatusCode::METHOD_NOT_ALLOWED,
        "The resource does not know this method",
    ),
    ("TaskQueueFull", StatusCode::TOO_MANY_REQUESTS, "The queue is full"),
    (
        "CyclicDependency",
        StatusCode::UNPROCESSABLE_ENTITY,
        "Tasks depend on each other in a ring",
    ),
    (
        "InvalidDependency",
        StatusCode::UNPROCESSABLE_ENTITY,
        "A dependency is not known",
    ),
    (
        "InvalidField",
        StatusCode::UNPROCESSABLE_ENTITY,
        "A value can not be accepted",
    ),
    (
        "UnknownTask",
        StatusCode::UNPROCESSABLE_ENTITY,
        "No replica can run this task",
    ),
    (
        "PayloadTooLarge",
        StatusCode::PAYLOAD_TOO_LARGE,
        "The body is too large",
    ),
    (
        "UnsupportedMediaType",
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "The body is not JSON",
    ),
    (
        "RequestTimeout",
        StatusCode::REQUEST_TIMEOUT,
        "The request did not arrive in time",
    ),
    (
        "DependencyNotSatisfied",
        StatusCode::CONFLICT,
        "A dependency is not completed",
    ),
    (
        "InvalidTransition",
        StatusCode::CONFLICT,
        "The state does not allow this",
    ),
    ("WorkerPoolFull", StatusCode::CONFLICT, "The worker pool is full"),
    (
        "NoWorkersAvailable",
        StatusCode::SERVICE_UNAVAILABLE,
        "There are no workers",
    ),
    ("Unauthorized", StatusCode::UNAUTHORIZED, "A token is needed"),
    ("Forbidden", StatusCode::FORBIDDEN, "The token does not allow this"),
    (
        "RedisUnavailable",
        StatusCode::SERVICE_UNAVAILABLE,
        "Redis is unavailable",
    ),
    (
        "TooManyStreams",
        StatusCode::SERVICE_UNAVAILABLE,
        "Too many clients follow the events",
    ),
    (
        "ShuttingDown",
        StatusCode::SERVICE_UNAVAILABLE,
        "The replica is stopping",
    ),
    (
        "IncompatibleStore",
        StatusCode::INTERNAL_SERVER_ERROR,
        "Redis holds what this release can not work with",
    ),
    (
        "Internal",
        StatusCode::INTERNAL_SERVER_ERROR,
        "The replica made a mistake",
    ),
];

impl Problem {
    /// A problem of one of the codes.
    pub(super) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        let (status, title) = CODES.iter().find(|(known, ..)| *known == code).map_or(
            (StatusCode::INTERNAL_SERVER_ERROR, "The replica made a mistake"),
            |(_, status, title)| (*status, *title),
        );
        Self {
            kind: format!("urn:waooaw:problem:{code}"),
            title,
            status: status.as_u16(),
            detail: bounded(detail.into(), DETAIL_BYTES_MAX),
            instance: String::new(),
            code,
            request_id: String::new(),
            errors: Vec::new(),
            cycle: Vec::new(),
            retry_after_seconds: None,
            header: None,
        }
    }

    /// A value that can not be accepted, in words.
    pub(super) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Rejection::new(Reason::InvalidField, Some(field), message).into()
    }

    /// Tells when asking again makes sense.
    pub(super) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// Adds a header that belongs to this problem.
    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    /// Names the request that met it.
    pub(super) fn of_request(mut self, path: &str, request_id: &str) -> Self {
        self.instance = bounded(path.to_owned(), INSTANCE_BYTES_MAX);
        request_id.clone_into(&mut self.request_id);
        self
    }

    fn with_faults(mut self, rejection: &Rejection) -> Self {
        let fault = |problem: &crate::domain::rejection::Problem| FieldProblem {
            field: problem.field.clone(),
            message: problem.message.clone(),
        };
        self.errors = rejection.problems.iter().map(fault).collect();
        self.cycle.clone_from(&rejection.cycle);
        self
    }
}

/// The beginning of a text that somebody else may have made long.
fn bounded(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
    text
}

impl From<Rejection> for Problem {
    /// What can not be accepted, by its gravest fault.
    fn from(rejection: Rejection) -> Self {
        let code = match rejection.reason {
            Reason::TooLarge => "PayloadTooLarge",
            Reason::CyclicDependency => "CyclicDependency",
            Reason::InvalidDependency => "InvalidDependency",
            Reason::UnknownTask => "UnknownTask",
            Reason::StaleAttempt | Reason::InvalidTransition => "InvalidTransition",
            Reason::TooDeep
            | Reason::Malformed
            | Reason::UnknownEventType
            | Reason::MissingField
            | Reason::InvalidField
            | Reason::UnknownField
            | Reason::DuplicateKey
            | Reason::DuplicateId
            | Reason::NotFound => "InvalidField",
        };
        Self::new(code, rejection.to_string()).with_faults(&rejection)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidField(rejection)
            | Error::InvalidDependency(rejection)
            | Error::PayloadTooLarge(rejection) => rejection.into(),
            Error::CyclicDependency { ref cycle } => {
                let cycle = cycle.clone();
                let mut problem = Self::new("CyclicDependency", error.to_string());
                problem.cycle = cycle;
                problem
            }
            Error::TaskQueueFull { .. } => Self::new("TaskQueueFull", error.to_string()).retry_after(1),
            Error::NoWorkersAvailable => Self::new("NoWorkersAvailable", error.to_string()).retry_after(5),
            Error::RedisUnavailable(cause) => {
                tracing::warn!(problem = %Chain(&cause), "redis is unavailable to a request");
                Self::new("RedisUnavailable", "redis does not answer; ask again later").retry_after(1)
            }
            Error::Store(cause) => {
                tracing::error!(problem = %Chain(&cause), "a request met what redis should not hold");
                let detail = "redis answered what this release can not work with; the log of the replica tells more";
                Self::new("IncompatibleStore", detail)
            }
            Error::TaskNotFound(_)
            | Error::WorkflowNotFound(_)
            | Error::SagaNotFound(_)
            | Error::DeadLetterNotFound(_)
            | Error::QueueNotFound(_)
            | Error::WorkerNotFound(_)
            | Error::WorkerPoolFull { .. }
            | Error::UnknownTask(_)
            | Error::DependencyNotSatisfied { .. }
            | Error::InvalidTransition(_) => Self::new(error.code(), error.to_string()),
            Error::WorkflowExecution { .. }
            | Error::SagaExecution { .. }
            | Error::WaitTimeout(_)
            | Error::TaskFailed(_)
            | Error::MaxRetriesExceeded { .. }
            | Error::PermanentFailure { .. } => {
                tracing::error!(problem = %error, "a request met an error that no request can cause");
                Self::new("Internal", "the log of the replica tells more")
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Error::from(error).into()
    }
}

/// An error with all its causes, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some((name, value)) = self.header.clone() {
            headers.insert(name, value);
        }
        // Whoever knows the request's id writes the document anew with it.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_the_library_has_a_code_of_its_own_here() {
        let codes: std::collections::BTreeSet<_> = CODES.iter().map(|(code, ..)| code).collect();
        assert_eq!(codes.len(), CODES.len());

        for error in [
            Error::TaskNotFound("t".into()),
            Error::WorkflowNotFound("w".into()),
            Error::SagaNotFound("s".into()),
            Error::DeadLetterNotFound("d".into()),
            Error::QueueNotFound("q".into()),
            Error::WorkerNotFound("w".into()),
            Error::NoWorkersAvailable,
            Error::TaskQueueFull { max_size: 1 },
            Error::UnknownTask("t".into()),
            Error::InvalidTransition("t".into()),
            Error::CyclicDependency {
                cycle: vec!["a".into(), "a".into()],
            },
        ] {
            let (code, text) = (error.code(), error.to_string());
            let problem = Problem::from(error);
            assert_eq!((problem.code, problem.detail), (code, text));
        }
    }

    #[test]
    fn what_redis_says_stays_in_the_log() {
        let cause = StoreError::NotConnected("redis://user:hunter2@host".to_owned());
        let problem = Problem::from(Error::RedisUnavailable(cause));

        let text = serde_json::to_string(&problem).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("host"), "{text}");
        assert_eq!((problem.status, problem.retry_after_seconds), (503, Some(1)));
    }
}
