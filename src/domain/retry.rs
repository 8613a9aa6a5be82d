//! How often a failed task is tried again, and how long it waits before each try.
//!
//! A policy is a few numbers; [`RetryPolicy::delay`] is the one formula. Who waits, and who counts, is decided elsewhere:
//! the functions in Redis count retries and keep the due time, so a wait survives the replica that scheduled it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// How the delay grows from one retry to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RetryStrategy {
    /// `initial_delay × backoff_multiplierⁿ⁻¹` before retry `n`.
    #[default]
    Exponential,
    /// `initial_delay + increment × (n − 1)`; constant as long as the increment is 0, its default.
    Linear,
    /// `initial_delay × 1, 1, 2, 3, 5, …`
    Fibonacci,
}

impl<'de> Deserialize<'de> for RetryStrategy {
    /// Reads its name, in any case.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const NAMES: [&str; 3] = ["EXPONENTIAL", "LINEAR", "FIBONACCI"];
        let text = String::deserialize(deserializer)?;
        match NAMES.into_iter().position(|name| name.eq_ignore_ascii_case(&text)) {
            Some(0) => Ok(Self::Exponential),
            Some(1) => Ok(Self::Linear),
            Some(_) => Ok(Self::Fibonacci),
            None => Err(D::Error::unknown_variant(&text, &NAMES)),
        }
    }
}

/// When a failed attempt is followed by another. Fields that an object leaves out are those of [`RetryPolicy::STANDARD`],
/// but no delay that is left out contradicts the one that is given.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "GivenPolicy")]
#[non_exhaustive]
#[doc(alias = "RetryConfig")]
pub struct RetryPolicy {
    /// Extra attempts after the first.
    pub max_retries: u32,
    /// The wait before the first retry, in seconds.
    pub initial_delay_seconds: f64,
    /// The longest wait, in seconds; also after jitter.
    pub max_delay_seconds: f64,
    /// By how much an exponential delay grows each time, at least 1.
    pub backoff_multiplier: f64,
    /// How the delay grows.
    pub strategy: RetryStrategy,
    /// What a linear delay gains each time, in seconds.
    pub increment_seconds: f64,
    /// The fraction by which a delay varies both ways, 0 to 1.
    pub jitter: f64,
}

/// What somebody said of a policy.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct GivenPolicy {
    pub(super) max_retries: Option<u32>,
    pub(super) initial_delay_seconds: Option<f64>,
    pub(super) max_delay_seconds: Option<f64>,
    pub(super) backoff_multiplier: Option<f64>,
    pub(super) strategy: Option<RetryStrategy>,
    pub(super) increment_seconds: Option<f64>,
    pub(super) jitter: Option<f64>,
}

impl From<GivenPolicy> for RetryPolicy {
    fn from(given: GivenPolicy) -> Self {
        let standard = Self::STANDARD;
        // Of the two delays a default gives way to what was said: a limit below it lowers the first delay, a first delay
        // above it raises the limit. A number out of its range pulls nothing along, so that only it is refused.
        let sensible = |seconds: Option<f64>| seconds.filter(|one| (0.0..=Self::LONGEST_DELAY_SECONDS).contains(one));
        let initial_above = sensible(given.initial_delay_seconds).unwrap_or(0.0);
        let max_below = sensible(given.max_delay_seconds).unwrap_or(f64::INFINITY);
        Self {
            max_retries: given.max_retries.unwrap_or(standard.max_retries),
            initial_delay_seconds: given
                .initial_delay_seconds
                .unwrap_or(standard.initial_delay_seconds.min(max_below)),
            max_delay_seconds: given
                .max_delay_seconds
                .unwrap_or(standard.max_delay_seconds.max(initial_above)),
            backoff_multiplier: given.backoff_multiplier.unwrap_or(standard.backoff_multiplier),
            strategy: given.strategy.unwrap_or(standard.strategy),
            increment_seconds: given.increment_seconds.unwrap_or(standard.increment_seconds),
            jitter: given.jitter.unwrap_or(standard.jitter),
        }
    }
}

/// A value of a policy that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct InvalidPolicy {
    /// The field at fault, or `retry` for the whole.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl RetryPolicy {
    /// Five retries, 0.5 s doubling up to 30 s: for operations that must go through.
    #[doc(alias = "RETRY_POLICY_AGGRESSIVE")]
    pub const AGGRESSIVE: Self = Self::preset(5, 0.5, 30.0, 2.0);
    /// Three retries, 1 s doubling up to 60 s: the default.
    #[doc(alias = "RETRY_POLICY_STANDARD")]
    pub const STANDARD: Self = Self::preset(3, 1.0, 60.0, 2.0);
    /// Two retries, 2 s tripling up to 120 s: for targets that need rest.
    #[doc(alias = "RETRY_POLICY_CONSERVATIVE")]
    pub const CONSERVATIVE: Self = Self::preset(2, 2.0, 120.0, 3.0);
    /// Three retries, 0.1 s growing by half up to 5 s: when time matters more than success.
    #[doc(alias = "RETRY_POLICY_QUICK")]
    pub const QUICK: Self = Self::preset(3, 0.1, 5.0, 1.5);

    /// The longest delay that any policy may ask for, in seconds: a year.
    pub const LONGEST_DELAY_SECONDS: f64 = 365.0 * 86_400.0;
    /// The most retries that any policy may ask for; the record has three bytes for the count.
    pub const MOST_RETRIES: u32 = 1_000_000;

    const fn preset(max_retries: u32, initial: f64, max: f64, multiplier: f64) -> Self {
        Self {
            max_retries,
            initial_delay_seconds: initial,
            max_delay_seconds: max,
            backoff_multiplier: multiplier,
            strategy: RetryStrategy::Exponential,
            increment_seconds: 0.0,
            jitter: 0.1,
        }
    }

    /// Every value of the policy that makes no sense.
    #[must_use]
    pub fn problems(&self) -> Vec<InvalidPolicy> {
        let mut problems = Vec::new();
        let mut check = |is_fine: bool, field, problem: String| {
            if !is_fine {
                problems.push(InvalidPolicy { field, problem });
            }
        };
        let seconds = 0.0..=Self::LONGEST_DELAY_SECONDS;
        check(
            self.max_retries <= Self::MOST_RETRIES,
            "max_retries",
            format!("is {}, must be at most {}", self.max_retries, Self::MOST_RETRIES),
        );
        for (field, value) in [
            ("initial_delay_seconds", self.initial_delay_seconds),
            ("max_delay_seconds", self.max_delay_seconds),
            ("increment_seconds", self.increment_seconds),
        ] {
            check(
                seconds.contains(&value),
                field,
                format!("is {value}, must be from 0 to {}", seconds.end()),
            );
        }
        check(
            self.max_delay_seconds >= self.initial_delay_seconds,
            "max_delay_seconds",
            format!(
                "is {}, below `initial_delay_seconds` {}",
                self.max_delay_seconds, self.initial_delay_seconds
            ),
        );
        check(
            (1.0..=1000.0).contains(&self.backoff_multiplier),
            "backoff_multiplier",
            format!("is {}, must be from 1 to 1000", self.backoff_multiplier),
        );
        check(
            (0.0..=1.0).contains(&self.jitter),
            "jitter",
            format!("is {}, must be from 0 to 1", self.jitter),
        );
        problems
    }

    /// The wait before retry `retry` (the first is 1). `chance` is a random number from 0 to 1 that places the delay in
    /// the jitter's band; 0.5 is its middle. Never longer than `max_delay_seconds`.
    #[must_use]
    pub fn delay(&self, retry: u32, chance: f64) -> Duration {
        let earlier = retry.saturating_sub(1);
        let base = match self.strategy {
            RetryStrategy::Exponential => {
                self.initial_delay_seconds * self.backoff_multiplier.powi(i32::try_from(earlier).unwrap_or(i32::MAX))
            }
            RetryStrategy::Linear => self.initial_delay_seconds + self.increment_seconds * f64::from(earlier),
            RetryStrategy::Fibonacci => self.initial_delay_seconds * fibonacci(retry),
        };
        // `0 × ∞` is not a number: no first delay means no delay at all.
        let base = if base.is_nan() {
            0.0
        } else {
            base.min(self.max_delay_seconds)
        };
        let chance = if chance.is_nan() { 0.5 } else { chance.clamp(0.0, 1.0) };
        let jittered = base * (1.0 + self.jitter * (2.0 * chance - 1.0));
        Duration::from_secs_f64(jittered.clamp(0.0, self.max_delay_seconds.clamp(0.0, Self::LONGEST_DELAY_SECONDS)))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::STANDARD
    }
}

/// The `n`th Fibonacci number, the first two being 1.
fn fibonacci(n: u32) -> f64 {
    let (mut current, mut next) = (1.0_f64, 1.0_f64);
    for _ in 1..n.min(1500) {
        (current, next) = (next, current + next);
    }
    current
}

/// The presets by name.
const PRESETS: [(&str, RetryPolicy); 4] = [
    ("AGGRESSIVE", RetryPolicy::AGGRESSIVE),
    ("STANDARD", RetryPolicy::STANDARD),
    ("CONSERVATIVE", RetryPolicy::CONSERVATIVE),
    ("QUICK", RetryPolicy::QUICK),
];

impl FromStr for RetryPolicy {
    type Err = InvalidPolicy;

    /// Reads the name of a preset, in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        PRESETS
            .into_iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map(|(_, policy)| policy)
            .ok_or_else(|| InvalidPolicy {
                field: "retry",
                problem: format!(
                    "is `{}`, which is no preset: expected AGGRESSIVE, STANDARD, CONSERVATIVE or QUICK",
                    text.chars().take(64).collect::<String>()
                ),
            })
    }
}

impl fmt::Display for RetryPolicy {
    /// The preset's name, or the numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PRESETS.into_iter().find(|(_, policy)| policy == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(
                f,
                "{:?} {} retries from {} s to {} s",
                self.strategy, self.max_retries, self.initial_delay_seconds, self.max_delay_seconds
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(policy: &RetryPolicy, retries: u32) -> Vec<f64> {
        (1..=retries)
            .map(|retry| policy.delay(retry, 0.5).as_secs_f64())
            .collect()
    }

    #[test]
    fn the_presets_are_those_of_the_mission_document() {
        assert_eq!(seconds(&RetryPolicy::AGGRESSIVE, 5), [0.5, 1.0, 2.0, 4.0, 8.0]);
        assert_eq!(seconds(&RetryPolicy::STANDARD, 3), [1.0, 2.0, 4.0]);
        assert_eq!(seconds(&RetryPolicy::CONSERVATIVE, 2), [2.0, 6.0]);
        assert_eq!(seconds(&RetryPolicy::QUICK, 3), [0.1, 0.15, 0.225]);
        assert_eq!("quick".parse(), Ok(RetryPolicy::QUICK));
        assert_eq!(RetryPolicy::QUICK.to_string(), "QUICK");
        assert!("SLOW".parse::<RetryPolicy>().is_err());
    }

    #[test]
    fn a_delay_that_is_left_out_gives_way_to_the_one_that_is_given() {
        let read = |text: &str| serde_json::from_str::<RetryPolicy>(text).unwrap();
        let delays = |text: &str| {
            let policy = read(text);
            assert_eq!(policy.problems(), [], "{text}");
            (policy.initial_delay_seconds, policy.max_delay_seconds)
        };

        assert_eq!(delays(r#"{"max_delay_seconds":0.5}"#), (0.5, 0.5));
        assert_eq!(
            delays(r#"{"max_retries":2,"initial_delay_seconds":120}"#),
            (120.0, 120.0)
        );
        assert_eq!(delays(r#"{"max_delay_seconds":5}"#), (1.0, 5.0));
        assert_eq!(delays(r#"{"initial_delay_seconds":5}"#), (5.0, 60.0));
        assert_eq!(read("{}"), RetryPolicy::STANDARD);
        // Who gives both means both, and a number out of its range is not passed on.
        let both = read(r#"{"initial_delay_seconds":2,"max_delay_seconds":1}"#);
        assert_eq!(both.problems()[0].field, "max_delay_seconds");
        let negative = read(r#"{"initial_delay_seconds":-1}"#);
        assert_eq!(negative.problems().len(), 1);
    }

    #[test]
    fn a_strategy_is_read_in_any_case() {
        let read = |text: &str| serde_json::from_str::<RetryStrategy>(text).map_err(|error| error.to_string());

        assert_eq!(read(r#""linear""#), Ok(RetryStrategy::Linear));
        assert_eq!(read(r#""Fibonacci""#), Ok(RetryStrategy::Fibonacci));
        for strategy in [
            RetryStrategy::Exponential,
            RetryStrategy::Linear,
            RetryStrategy::Fibonacci,
        ] {
            assert_eq!(read(&serde_json::to_string(&strategy).unwrap()), Ok(strategy));
        }
        assert!(read(r#""cubic""#).unwrap_err().contains("expected one of"));
    }

    #[test]
    fn each_strategy_follows_its_series() {
        let linear = RetryPolicy {
            strategy: RetryStrategy::Linear,
            initial_delay_seconds: 2.0,
            ..RetryPolicy::STANDARD
        };
        assert_eq!(seconds(&linear, 3), [2.0, 2.0, 2.0]);
        assert_eq!(
            seconds(
                &RetryPolicy {
                    increment_seconds: 2.0,
                    ..linear
                },
                3
            ),
            [2.0, 4.0, 6.0]
        );
        let fibonacci = RetryPolicy {
            strategy: RetryStrategy::Fibonacci,
            ..RetryPolicy::STANDARD
        };
        assert_eq!(seconds(&fibonacci, 6), [1.0, 1.0, 2.0, 3.0, 5.0, 8.0]);
    }

    #[test]
    fn no_delay_leaves_its_bounds_whatever_the_numbers() {
        let capped = RetryPolicy {
            max_delay_seconds: 5.0,
            jitter: 1.0,
            ..RetryPolicy::STANDARD
        };
        for retry in [0, 1, 2, 11, 1000, u32::MAX] {
            for strategy in [
                RetryStrategy::Exponential,
                RetryStrategy::Linear,
                RetryStrategy::Fibonacci,
            ] {
                for initial_delay_seconds in [0.0, 1.0] {
                    for chance in [0.0, 0.5, 1.0, f64::NAN] {
                        let policy = RetryPolicy {
                            initial_delay_seconds,
                            strategy,
                            ..capped
                        };
                        assert!(
                            policy.delay(retry, chance) <= Duration::from_secs(5),
                            "{policy:?} {retry} {chance}"
                        );
                    }
                }
            }
        }
        assert_eq!(
            RetryPolicy { jitter: 0.0, ..capped }.delay(11, 0.9),
            Duration::from_secs(5)
        );
        assert_eq!(RetryPolicy::STANDARD.delay(1, 0.0), Duration::from_millis(900));
        assert_eq!(RetryPolicy::STANDARD.delay(1, 1.0), Duration::from_millis(1100));
    }

    #[test]
    fn each_senseless_value_is_named() {
        let wrong = RetryPolicy {
            max_retries: u32::MAX,
            initial_delay_seconds: -1.0,
            max_delay_seconds: f64::NAN,
            backoff_multiplier: 0.5,
            increment_seconds: f64::INFINITY,
            jitter: 1.5,
            ..RetryPolicy::STANDARD
        };
        let fields: Vec<_> = wrong.problems().into_iter().map(|problem| problem.field).collect();
        for field in [
            "max_retries",
            "initial_delay_seconds",
            "max_delay_seconds",
            "increment_seconds",
            "backoff_multiplier",
            "jitter",
        ] {
            assert!(fields.contains(&field), "{field}");
        }
        assert!(RetryPolicy::STANDARD.problems().is_empty());
    }

    /// Any policy that is accepted, with numbers from ordinary to extreme.
    fn any_policy() -> impl Strategy<Value = RetryPolicy> {
        let longest = RetryPolicy::LONGEST_DELAY_SECONDS;
        let seconds = || prop_oneof![Just(0.0), 0.0..10.0, 0.0..longest];
        let strategy = prop_oneof![
            Just(RetryStrategy::Exponential),
            Just(RetryStrategy::Linear),
            Just(RetryStrategy::Fibonacci)
        ];
        let jitter = prop_oneof![Just(0.0), Just(1.0), 0.0..=1.0];
        (
            0..=RetryPolicy::MOST_RETRIES,
            seconds(),
            seconds(),
            1.0..=1000.0,
            strategy,
            seconds(),
            jitter,
        )
            .prop_map(
                |(max_retries, one, other, backoff_multiplier, strategy, increment_seconds, jitter): (
                    _,
                    f64,
                    f64,
                    _,
                    _,
                    _,
                    _,
                )| {
                    RetryPolicy {
                        max_retries,
                        initial_delay_seconds: one.min(other),
                        max_delay_seconds: one.max(other),
                        backoff_multiplier,
                        strategy,
                        increment_seconds,
                        jitter,
                    }
                },
            )
    }

    /// Retries from the first to far beyond what any float can hold.
    fn any_retry() -> impl Strategy<Value = u32> {
        prop_oneof![1_u32..20, 1_u32..2000, any::<u32>()]
    }

    proptest! {
        #[test]
        fn a_delay_never_exceeds_its_limit_nor_leaves_the_band_of_its_jitter(
            policy in any_policy(), retry in any_retry(), chance in 0.0..=1.0,
        ) {
            prop_assert_eq!(policy.problems(), []);
            let middle = RetryPolicy { jitter: 0.0, ..policy }.delay(retry, chance).as_secs_f64();
            let delay = policy.delay(retry, chance).as_secs_f64();
            let tolerance = 1e-9 + middle * 1e-12;

            prop_assert!(delay <= policy.max_delay_seconds + 1e-9);
            prop_assert!(delay >= middle * (1.0 - policy.jitter) - tolerance);
            prop_assert!(delay <= middle * (1.0 + policy.jitter) + tolerance);
        }

        #[test]
        fn a_later_retry_never_waits_less_at_the_same_chance(
            policy in any_policy(), retry in any_retry(), chance in 0.0..=1.0,
        ) {
            prop_assert!(policy.delay(retry, chance) <= policy.delay(retry.saturating_add(1), chance));
        }

        #[test]
        fn more_chance_never_means_a_shorter_wait(
            policy in any_policy(), retry in any_retry(), one in 0.0..=1.0, other in 0.0..=1.0,
        ) {
            let (less, more) = (f64::min(one, other), f64::max(one, other));
            prop_assert!(policy.delay(retry, less) <= policy.delay(retry, more));
        }

        #[test]
        fn below_the_limit_each_strategy_is_its_formula(
            policy in any_policy(), retry in 1_u32..60,
        ) {
            let policy = RetryPolicy { jitter: 0.0, ..policy };
            let (initial, limit) = (policy.initial_delay_seconds, policy.max_delay_seconds);
            let delay = |retry| policy.delay(retry, 0.5).as_secs_f64();
            let expected = match policy.strategy {
                RetryStrategy::Exponential => {
                    (1..retry).fold(initial, |delay, _| delay * policy.backoff_multiplier)
                }
                RetryStrategy::Linear => (1..retry).fold(initial, |delay, _| delay + policy.increment_seconds),
                RetryStrategy::Fibonacci => {
                    let series = (1..retry).fold((1.0, 1.0), |(one, two), _| (two, one + two));
                    initial * series.0
                }
            }
            .min(limit);

            prop_assert!((delay(retry) - expected).abs() <= 1e-9 + expected * 1e-9, "{} {expected}", delay(retry));
            prop_assert!((delay(1) - initial).abs() <= 1e-9);
        }
    }
}
