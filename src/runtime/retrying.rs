//! Tries an operation again by a retry policy: the policies of tasks, for whatever a program calls itself.
//!
//! A task that fails waits in Redis and survives the replica that scheduled it. What is tried here waits in the
//! process and ends with it: calls to other services from within a handler, or of the library itself.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::backoff::{Backoff, Schedule};
use super::handler::TaskError;
use super::work::{RETRY_AFTER_MAX, chance};
use crate::domain::retry::RetryPolicy;
use crate::error::Error;

/// What an operation is told about the attempt that it is to make.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RetryContext {
    /// What the caller named the operation, for logs.
    pub operation_name: Option<String>,
    /// The attempt, from 1.
    pub attempt: u32,
    /// How many more may follow it.
    pub retries_left: u32,
    /// The time since the first attempt began.
    pub elapsed: Duration,
    /// The part of it that was spent waiting between attempts.
    pub total_delay: Duration,
    /// Why the attempt before failed; `None` for the first.
    pub last_error: Option<TaskError>,
}

impl RetryPolicy {
    /// The wait after attempt `attempt` has failed, which is the wait before retry `attempt`; the first is 1. With the
    /// policy's jitter, so two calls differ; never longer than `max_delay_seconds`. [`RetryPolicy::delay`] is the same
    /// without chance.
    ///
    /// ```
    /// use std::time::Duration;
    /// use waooaw_orchestration::RetryPolicy;
    ///
    /// let mut policy = RetryPolicy::STANDARD;
    /// policy.jitter = 0.0;
    /// let delays: Vec<u64> = (1..=4).map(|attempt| policy.calculate_delay(attempt).as_secs()).collect();
    /// assert_eq!(delays, [1, 2, 4, 8]);
    /// assert_eq!(policy.calculate_delay(30), Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn calculate_delay(&self, attempt: u32) -> Duration {
        self.delay(attempt, chance())
    }

    /// Runs an operation until it succeeds, fails for good, or has used up the policy's retries. An error is whatever
    /// becomes a [`TaskError`], which says whether another attempt may do better, and may ask for a longer wait than the
    /// policy's ([`TaskError::with_retry_after`]).
    ///
    /// ```
    /// use waooaw_orchestration::{Error, RetryPolicy, TaskError};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let answer = RetryPolicy::QUICK
    ///     .execute_with_retry(|context| async move {
    ///         if context.attempt < 3 {
    ///             return Err(TaskError::new("the service is busy"));
    ///         }
    ///         Ok("done")
    ///     })
    ///     .await;
    /// assert_eq!(answer.unwrap(), "done");
    ///
    /// let refused = RetryPolicy::STANDARD
    ///     .execute_with_retry(|_| async { Err::<(), _>(TaskError::permanent("not_allowed", "the card is blocked")) })
    ///     .await;
    /// assert!(matches!(refused, Err(Error::PermanentFailure { attempt: 1, .. })));
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::MaxRetriesExceeded`] when the attempt after the last retry failed too, [`Error::PermanentFailure`] when
    /// an attempt failed with an error that is not retryable.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the attempt under way or the wait; nothing of it goes on.
    pub async fn execute_with_retry<T, E, F, Fut>(&self, operation: F) -> Result<T, Error>
    where
        F: FnMut(RetryContext) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Into<TaskError>,
    {
        self.execute(None, operation).await
    }

    /// The same for an operation with a name, which stands in its [`RetryContext`] and in the log.
    ///
    /// # Errors
    ///
    /// As [`RetryPolicy::execute_with_retry`].
    ///
    /// # Cancel safety
    ///
    /// As [`RetryPolicy::execute_with_retry`].
    pub async fn execute_named<T, E, F, Fut>(&self, operation_name: &str, operation: F) -> Result<T, Error>
    where
        F: FnMut(RetryContext) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Into<TaskError>,
    {
        self.execute(Some(operation_name), operation).await
    }

    async fn execute<T, E, F, Fut>(&self, operation_name: Option<&str>, mut operation: F) -> Result<T, Error>
    where
        F: FnMut(RetryContext) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Into<TaskError>,
    {
        let mut schedule = Schedule::new(*self, chance);
        let began = Instant::now();
        let mut total_delay = Duration::ZERO;
        let mut last_error = None;
        let mut attempt = 1;
        loop {
            let context = RetryContext {
                operation_name: operation_name.map(str::to_owned),
                attempt,
                retries_left: schedule.retries_left(),
                elapsed: began.elapsed(),
                total_delay,
                last_error: last_error.take(),
            };
            let error: TaskError = match operation(context).await {
                Ok(value) => return Ok(value),
                Err(error) => error.into(),
            };
            if !error.is_retryable {
                return Err(Error::PermanentFailure { attempt, error });
            }
            let Some(delay) = schedule.next_backoff() else {
                return Err(Error::MaxRetriesExceeded {
                    attempts: attempt,
                    last_error: error.to_string(),
                });
            };
            // Where the target asked for a wait, it knows best.
            let delay = delay.max(error.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX));
            debug!(operation = operation_name, attempt, delay_ms = delay.as_millis(), %error,
                "an operation failed; trying again");
            last_error = Some(error);
            tokio::time::sleep(delay).await;
            total_delay += delay;
            attempt = attempt.saturating_add(1);
        }
    }
}

impl From<Error> for TaskError {
    /// The error with its causes, retryable where the same request may succeed later, under its code.
    fn from(error: Error) -> Self {
        Self {
            is_retryable: error.is_retryable(),
            ..Self::from(&error).with_kind(error.code())
        }
    }
}

impl From<String> for TaskError {
    /// A failure that another attempt may not meet.
    fn from(message: String) -> Self {
        Self::new(&message)
    }
}

impl From<&str> for TaskError {
    /// A failure that another attempt may not meet.
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Without chance, so that the clock can be compared.
    fn exact(policy: RetryPolicy) -> RetryPolicy {
        RetryPolicy { jitter: 0.0, ..policy }
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_asks_for_a_wait_gets_it_up_to_an_hour() {
        for (asked, waited) in [(7, 7), (0, 1), (7200, 3600)] {
            let began = Instant::now();
            let outcome = exact(RetryPolicy::STANDARD)
                .execute_with_retry(|context| async move {
                    if context.attempt > 1 {
                        return Ok(());
                    }
                    Err(TaskError::new("busy").with_retry_after(Duration::from_secs(asked)))
                })
                .await;

            assert!(outcome.is_ok());
            assert_eq!(began.elapsed(), Duration::from_secs(waited));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_operation_is_told_where_it_stands_and_waits_by_the_schedule() {
        let began = Instant::now();
        let mut told = Vec::new();

        let outcome = exact(RetryPolicy::STANDARD)
            .execute_named("api_call", |context| {
                told.push(context.clone());
                async move {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    if context.attempt < 4 {
                        return Err(format!("no {}", context.attempt));
                    }
                    Ok(context.attempt)
                }
            })
            .await;

        assert_eq!(outcome.unwrap(), 4);
        // Waits of 1, 2 and 4 s between four attempts of half a second.
        assert_eq!(began.elapsed(), Duration::from_secs(9));
        let seen: Vec<_> = told
            .iter()
            .map(|context| {
                let last = context.last_error.as_ref().map(|error| error.message.as_str());
                (
                    context.attempt,
                    context.retries_left,
                    context.elapsed.as_millis(),
                    context.total_delay.as_millis(),
                    last,
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                (1, 3, 0, 0, None),
                (2, 2, 1500, 1000, Some("no 1")),
                (3, 1, 4000, 3000, Some("no 2")),
                (4, 0, 8500, 7000, Some("no 3")),
            ]
        );
        assert!(
            told.iter()
                .all(|context| context.operation_name.as_deref() == Some("api_call"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_last_retry_it_says_how_many_attempts_were_made_and_what_the_last_one_said() {
        for (policy, waited_ms) in [
            (RetryPolicy::AGGRESSIVE, 15_500),
            (RetryPolicy::STANDARD, 7_000),
            (RetryPolicy::CONSERVATIVE, 8_000),
            (RetryPolicy::QUICK, 475),
            (
                RetryPolicy {
                    max_retries: 0,
                    ..RetryPolicy::STANDARD
                },
                0,
            ),
        ] {
            let began = Instant::now();

            let outcome = exact(policy)
                .execute_with_retry(|context| async move { Err::<(), _>(format!("no {}", context.attempt)) })
                .await;

            let Err(Error::MaxRetriesExceeded { attempts, last_error }) = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(attempts, policy.max_retries + 1);
            assert!(last_error.ends_with(&format!("no {attempts}")), "{last_error}");
            assert_eq!(began.elapsed().as_millis(), waited_ms, "{policy}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_permanent_error_ends_it_at_once_with_the_error_itself() {
        let began = Instant::now();

        let outcome = RetryPolicy::AGGRESSIVE
            .execute_with_retry(|context| async move {
                if context.attempt == 1 {
                    return Err(TaskError::new("busy"));
                }
                Err::<(), _>(TaskError::permanent("not_allowed", "blocked"))
            })
            .await;

        let Err(Error::PermanentFailure { attempt: 2, error }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(
            (error.kind.as_str(), error.message.as_str()),
            ("not_allowed", "blocked")
        );
        assert!(began.elapsed() <= Duration::from_millis(550));
    }

    #[tokio::test(start_paused = true)]
    async fn errors_of_the_library_are_retried_when_the_same_request_may_succeed_later() {
        let attempts = AtomicU32::new(0);
        let call = async |error: fn() -> Error| {
            attempts.store(0, Ordering::Relaxed);
            let outcome = exact(RetryPolicy::QUICK)
                .execute_with_retry(|_| {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    async move { Err::<(), _>(error()) }
                })
                .await;
            (outcome.unwrap_err().code(), attempts.load(Ordering::Relaxed))
        };

        assert_eq!(
            call(|| Error::TaskQueueFull { max_size: 5 }).await,
            ("MaxRetriesExceeded", 4)
        );
        assert_eq!(
            call(|| Error::UnknownTask("x".to_owned())).await,
            ("PermanentFailure", 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_it_stops_the_attempt_or_the_wait_and_no_other_begins() {
        struct Counted(Arc<AtomicU32>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (begun, ended) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let policy = exact(RetryPolicy::STANDARD);
        let forever = || {
            let (begun, ended) = (Arc::clone(&begun), Arc::clone(&ended));
            policy.execute_with_retry(move |context| {
                begun.fetch_add(1, Ordering::Relaxed);
                let guard = Counted(Arc::clone(&ended));
                async move {
                    if context.attempt == 2 {
                        std::future::pending::<()>().await;
                    }
                    drop(guard);
                    Err::<(), _>("no")
                }
            })
        };

        // In the wait of a second after the first attempt.
        let cut = tokio::time::timeout(Duration::from_millis(500), forever()).await;
        assert!(cut.is_err());
        assert_eq!((begun.load(Ordering::Relaxed), ended.load(Ordering::Relaxed)), (1, 1));

        // In the second attempt, which never ends by itself.
        let cut = tokio::time::timeout(Duration::from_secs(60), forever()).await;
        assert!(cut.is_err());
        assert_eq!((begun.load(Ordering::Relaxed), ended.load(Ordering::Relaxed)), (3, 3));
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn it_can_run_in_a_task_of_its_own() {
        let outcome = tokio::spawn(async {
            RetryPolicy::STANDARD
                .execute_with_retry(|_| async { Ok::<_, TaskError>(7) })
                .await
        })
        .await;

        assert_eq!(outcome.unwrap().unwrap(), 7);
    }

    #[test]
    fn two_delays_differ_within_the_band_of_the_jitter() {
        let delays: Vec<Duration> = (0..200).map(|_| RetryPolicy::STANDARD.calculate_delay(2)).collect();

        let band = Duration::from_millis(1800)..=Duration::from_millis(2200);
        assert!(delays.iter().all(|delay| band.contains(delay)), "{delays:?}");
        assert!(delays.iter().any(|delay| *delay != delays[0]));
    }
}
