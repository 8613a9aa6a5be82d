//! What an answer of a service means for the attempt.

use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use super::super::excerpt::{Secrets, excerpt, with_excerpt};
use super::super::handler::{HandlerResult, TaskError};
use super::super::invocation;
use super::super::work::RESULT_BYTES_MAX;
use super::retry_after::retry_after;

/// The result of a 2xx, or the error of anything else. `is_whole` tells whether `body` is all of it.
pub(super) fn result(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    is_whole: bool,
    secrets: &Secrets,
) -> HandlerResult {
    if !status.is_success() {
        return Err(failure(status, headers, body, secrets));
    }
    if !is_whole {
        let message = format!("the answer has more than {RESULT_BYTES_MAX} bytes");
        return Err(TaskError::permanent("result_too_large", &message));
    }
    invocation::result(body).map_err(|error| {
        let sentence = format!("the answer {} is no JSON ({error})", describe(status));
        TaskError::permanent("invalid_result", &with_excerpt(&sentence, &excerpt(body, secrets)))
    })
}

fn failure(status: StatusCode, headers: &HeaderMap, body: &[u8], secrets: &Secrets) -> TaskError {
    let mut sentence = format!("the service answered {}", describe(status));
    if status.is_redirection() {
        sentence += "; redirects are not followed";
    }
    let message = with_excerpt(&sentence, &excerpt(body, secrets));
    if !may_be_retried(status) {
        return TaskError::permanent("handler_error", &message);
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    TaskError {
        // Said by what stands in front of a service that is not there, or by one that is about to go.
        is_unreachable: matches!(status.as_u16(), 502..=504),
        retry_after: text(RETRY_AFTER).and_then(|value| {
            let now_ms = jiff::Timestamp::now().as_millisecond();
            retry_after(value, text(DATE), now_ms)
        }),
        ..TaskError::new(&message)
    }
}

/// Whether the same request may fare better later.
fn may_be_retried(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429)
}

fn describe(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::time::Duration;

    use super::*;

    fn answered(status: u16, body: &str) -> HandlerResult {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, "7".parse().unwrap())]);
        let status = StatusCode::from_u16(status).unwrap();
        result(status, &headers, body.as_bytes(), true, &Secrets::default())
    }

    #[test]
    fn the_body_of_a_success_is_the_result_as_it_stands() {
        for (status, body, expected) in [
            (
                200,
                "{\"b\":1, \"a\":12345678901234567890123}",
                "{\"b\":1, \"a\":12345678901234567890123}",
            ),
            (201, " [1e2]\n", "[1e2]"),
            (202, "", "null"),
            (204, "", "null"),
            (299, " \r\n", "null"),
        ] {
            assert_eq!(answered(status, body).unwrap().get(), expected);
        }
    }

    #[test]
    fn each_status_is_final_or_retried_or_counted_as_unreachable() {
        let mut table = String::new();
        for status in [
            300, 301, 302, 304, 400, 401, 403, 404, 408, 409, 410, 422, 425, 429, 500, 501, 502, 503, 504, 599,
        ] {
            let error = answered(status, "why").unwrap_err();
            let word = match (error.is_retryable, error.is_unreachable) {
                (false, false) => "final",
                (true, false) => "retry",
                (true, true) => "unreachable",
                (false, true) => "never",
            };
            assert_eq!(error.retry_after, error.is_retryable.then_some(Duration::from_secs(7)));
            assert_eq!(error.kind, "handler_error");
            assert!(
                error.message.contains(&status.to_string()) && error.message.ends_with(": why"),
                "{error}"
            );
            writeln!(table, "{status} {word}").unwrap();
        }
        assert_eq!(
            table,
            "300 final\n301 final\n302 final\n304 final\n400 final\n401 final\n403 final\n404 final\n408 retry\n\
             409 final\n410 final\n422 final\n425 retry\n429 retry\n500 retry\n501 retry\n502 unreachable\n\
             503 unreachable\n504 unreachable\n599 retry\n"
        );
    }

    #[test]
    fn a_success_that_is_no_json_is_final() {
        for body in ["<html>", "{", "1 2", "NaN", "\"\u{1}\""] {
            let error = answered(200, body).unwrap_err();
            assert_eq!(
                (error.kind.as_str(), error.is_retryable),
                ("invalid_result", false),
                "{body}"
            );
        }
    }
}
