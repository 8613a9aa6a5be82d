//! The arithmetic of measuring: rates, percentiles, medians, pacing, and how numbers are shown.

use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::Value;

/// A count as a float.
#[allow(clippy::cast_precision_loss, reason = "counts and microseconds stay far below 2^53")]
pub(super) const fn float(count: u64) -> f64 {
    count as f64
}

/// How many a second, `count` within a time; 0 within no time at all.
pub(super) fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() {
        0.0
    } else {
        float(count) / time.as_secs_f64()
    }
}

/// The time by the nearest rank: the smallest that at least `percent` of the sorted times do not exceed.
pub(super) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// When the trigger of this number is due, from the first, at so many a second. Counted from the start, so that one
/// late trigger does not delay all that follow.
pub(super) fn due(number: u32, rate: NonZeroU32) -> Duration {
    Duration::from_nanos(u64::from(number) * 1_000_000_000 / u64::from(rate.get()))
}

/// A time in milliseconds.
pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// One value for several runs of the same measurement: the median of each number, and everything else as in the
/// first. Of an even number of runs it is the mean of the two in the middle; a number that some run lacks is lacking.
pub(super) fn median(runs: &[Value]) -> Value {
    let Some(first) = runs.first().cloned() else {
        return Value::Null;
    };
    if runs.len() == 1 {
        return first;
    }
    match first {
        Value::Number(_) => {
            let mut numbers: Vec<f64> = runs.iter().filter_map(Value::as_f64).collect();
            if numbers.len() < runs.len() {
                return Value::Null;
            }
            numbers.sort_by(f64::total_cmp);
            let middle = f64::midpoint(numbers[(numbers.len() - 1) / 2], numbers[numbers.len() / 2]);
            // What is counted in every run stays a whole number.
            runs.iter()
                .find(|run| run.as_f64() == Some(middle))
                .cloned()
                .unwrap_or_else(|| Value::from(middle))
        }
        Value::Array(items) => (0..items.len())
            .map(|place| median(&runs.iter().map(|run| run[place].clone()).collect::<Vec<_>>()))
            .collect(),
        Value::Object(members) => members
            .keys()
            .map(|name| {
                let values: Vec<Value> = runs.iter().map(|run| run[name].clone()).collect();
                (name.clone(), median(&values))
            })
            .collect(),
        other @ (Value::Null | Value::Bool(_) | Value::String(_)) => other,
    }
}

/// A whole number with its thousands apart.
pub(super) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with so many decimals, or a dash.
pub(super) fn decimals(number: Option<f64>, places: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.places$}"))
}

/// A share of one as per cent.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();

        assert_eq!(percentile(&times, 50), Duration::from_millis(100));
        assert_eq!(percentile(&times, 99), Duration::from_millis(198));
        assert_eq!(percentile(&times, 100), Duration::from_millis(200));
        assert_eq!(percentile(&times[..1], 50), Duration::from_millis(1));
        assert_eq!(percentile(&times[..3], 99), Duration::from_millis(3));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn pacing_does_not_drift() {
        let rate = NonZeroU32::new(3).unwrap();

        assert_eq!(due(0, rate), Duration::ZERO);
        assert_eq!(due(1, rate), Duration::from_nanos(333_333_333));
        assert_eq!(due(3_000_000, rate), Duration::from_secs(1_000_000));
    }

    #[test]
    fn a_rate_within_no_time_is_none() {
        assert!(per_second(5, Duration::ZERO).abs() < f64::EPSILON);
        assert!((per_second(5, Duration::from_millis(500)) - 10.0).abs() < f64::EPSILON);
    }

    #[test]
    fn of_several_runs_each_number_has_a_median_of_its_own() {
        let run =
            |tasks: u64, rate: f64, cpu: Option<f64>| json!({ "n": tasks, "list": [{ "rate": rate, "cpu": cpu }] });

        let middle = median(&[run(9, 30.0, Some(1.0)), run(9, 10.0, None), run(9, 20.0, Some(3.0))]);

        assert_eq!(middle, run(9, 20.0, None));
        assert_eq!(median(&[json!(1.0), json!(2.0)]), json!(1.5));
        assert_eq!(median(&[]), Value::Null);
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(grouped(1_234_567.4), "1,234,567");
        assert_eq!(grouped(999.6), "1,000");
        assert_eq!(grouped(12.0), "12");
        assert_eq!(grouped(-123_456.0), "-123,456");
    }
}
