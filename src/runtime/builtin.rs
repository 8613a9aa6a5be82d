//! Handlers for trying things out, on in `dev` and `demo`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::handler::{Handlers, TaskContext, TaskError};

#[derive(Deserialize)]
struct TwoNumbers {
    a: serde_json::Number,
    b: serde_json::Number,
}

#[derive(Deserialize)]
struct Sleep {
    ms: u64,
}

#[derive(Deserialize)]
struct Fail {
    #[serde(default = "default_message")]
    message: String,
    #[serde(default)]
    permanent: bool,
}

fn default_message() -> String {
    "failed on request".to_owned()
}

#[derive(Deserialize)]
struct Flaky {
    fail_times: u32,
}

#[derive(Deserialize)]
struct MonteCarloPi {
    samples: u64,
    #[serde(default)]
    seed: u64,
}

/// `noop`, `echo`, `add`, `multiply`, `sleep`, `fail`, `flaky` and `monte_carlo_pi`, added to `handlers`.
#[must_use]
pub fn with_builtin(handlers: Handlers) -> Handlers {
    handlers
        .with("noop", Noop)
        .with("echo", Echo)
        .with_async("add", |TwoNumbers { a, b }, _| async move {
            combine(&a, &b, i128::checked_add, |a, b| a + b)
        })
        .with_async("multiply", |TwoNumbers { a, b }, _| async move {
            combine(&a, &b, i128::checked_mul, |a, b| a * b)
        })
        .with_async("sleep", |Sleep { ms }, _| async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok(())
        })
        .with_async("fail", |Fail { message, permanent }: Fail, _| async move {
            let error = TaskError {
                is_retryable: !permanent,
                ..TaskError::new(&message)
            };
            Err::<(), _>(error)
        })
        .with_async("flaky", |Flaky { fail_times }, task: TaskContext| async move {
            if task.attempt <= fail_times {
                return Err(TaskError::new(&format!(
                    "attempt {} of {fail_times} that fail",
                    task.attempt
                )));
            }
            Ok(json!({ "attempt": task.attempt }))
        })
        .with_blocking("monte_carlo_pi", |MonteCarloPi { samples, seed }, task| {
            let mut inside = 0_u64;
            let mut state = seed;
            for sample in 0..samples {
                if sample % 65_536 == 0 && task.cancelled.is_cancelled() {
                    return Err(TaskError::new("stopped on request"));
                }
                let (x, y) = (unit(&mut state), unit(&mut state));
                inside += u64::from(x * x + y * y <= 1.0);
            }
            Ok(json!({ "inside": inside, "samples": samples }))
        })
}

/// Whole numbers stay whole; anything else, and what does not fit, is computed as a float.
fn combine(
    a: &serde_json::Number,
    b: &serde_json::Number,
    whole: impl Fn(i128, i128) -> Option<i128>,
    float: impl Fn(f64, f64) -> f64,
) -> Result<serde_json::Value, TaskError> {
    if let (Some(a), Some(b)) = (a.as_i128(), b.as_i128())
        && let Some(result) = whole(a, b)
        && let Ok(result) = i64::try_from(result)
    {
        return Ok(json!(result));
    }
    let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
    let result = float(a, b);
    if result.is_finite() {
        Ok(json!(result))
    } else {
        Err(TaskError::permanent("out_of_range", "the result does not fit a number"))
    }
}

/// The next number from 0 to 1 of a `SplitMix64` series, <https://prng.di.unimi.it/splitmix64.c>.
fn unit(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    // The leading 32 bits: exact in a float.
    f64::from(u32::try_from(z >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

/// Does nothing, whatever it is given: arguments that it does not read can not be wrong.
struct Noop;

impl super::handler::Handler for Noop {
    fn run(&self, _: TaskContext) -> super::handler::HandlerFuture {
        Box::pin(async { Ok(RawValue::NULL.to_owned()) })
    }
}

/// Gives back what it was given, byte for byte.
struct Echo;

impl super::handler::Handler for Echo {
    fn run(&self, task: TaskContext) -> super::handler::HandlerFuture {
        Box::pin(async move {
            let text = format!(
                "{{\"args\":{},\"kwargs\":{},\"inputs\":{}}}",
                task.args, task.kwargs, task.inputs
            );
            RawValue::from_string(text).map_err(|error| TaskError::permanent("invalid_result", &error.to_string()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_stay_whole() {
        let number = |text: &str| serde_json::from_str::<serde_json::Number>(text).unwrap();
        let add = |a, b| combine(&number(a), &number(b), i128::checked_add, |a, b| a + b);

        assert_eq!(add("5", "3").unwrap(), json!(8));
        assert_eq!(add("0.5", "1").unwrap(), json!(1.5));
        assert!(add("1e308", "1.7e308").is_err());
    }
}
