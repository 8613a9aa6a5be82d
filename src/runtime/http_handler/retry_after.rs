//! How long a service asks to be left alone.

use std::time::Duration;

use jiff::fmt::rfc2822;

/// The wait that `Retry-After` asks for: seconds, or a date. A date is compared with the answer's own `date`, so the
/// clocks of the two machines need not agree; without one, with `now_ms`. `None` when it makes no sense.
pub(super) fn retry_after(value: &str, date: Option<&str>, now_ms: i64) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are a very long wait all the same.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let moment_ms = |text: &str| Some(rfc2822::parse(text.trim()).ok()?.timestamp().as_millisecond());
    let until_ms = moment_ms(value)?;
    let from_ms = date.and_then(moment_ms).unwrap_or(now_ms);
    let wait_ms = until_ms.saturating_sub(from_ms).max(0);
    Some(Duration::from_millis(wait_ms.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_read_and_nonsense_is_not() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let date_ms = 784_111_777_000;
        for (value, expected) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            let expected = expected.map(Duration::from_secs);
            assert_eq!(retry_after(value, Some(date), 0), expected, "{value}");
            assert_eq!(retry_after(value, None, date_ms), expected, "{value}");
        }
    }
}
