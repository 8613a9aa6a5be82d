//! Times as text, the way RFC 3339 writes them.
//!
//! The date library reads more than the RFC allows and less than its last day, so the shape is checked here, the parts
//! are read by the library, and the offset is applied to milliseconds.

use jiff::civil::DateTime;

/// The last millisecond of the year 9999, UTC.
const LAST_MS: i64 = 253_402_300_799_999;

/// Milliseconds since the Unix epoch of an RFC 3339 time (`2026-01-31T12:00:00.5+01:00`), or `None` if it is none.
///
/// What is finer than a millisecond is cut off. A leap second is read as the second before it.
#[must_use]
pub fn parse_ms(text: &str) -> Option<i64> {
    const SHAPE: &[u8; 19] = b"dddd-dd-ddTdd:dd:dd";
    if !text.is_ascii() || text.len() < "2026-01-31T12:00:00Z".len() {
        return None;
    }
    let (second, rest) = text.split_at(SHAPE.len());
    let fits = |(byte, shape): (u8, &u8)| match shape {
        b'd' => byte.is_ascii_digit(),
        b'T' => matches!(byte, b'T' | b't' | b' '),
        other => byte == *other,
    };
    if !second.bytes().zip(SHAPE).all(fits) {
        return None;
    }
    let (fraction_ms, offset) = split_fraction(rest)?;
    let offset_ms = i64::from(offset_minutes(offset)?) * 60_000;
    let local: DateTime = second.parse().ok()?;
    let since_epoch = local.duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0));
    let at_ms = since_epoch.as_secs() * 1000 + fraction_ms - offset_ms;
    (at_ms <= LAST_MS).then_some(at_ms)
}

/// The milliseconds of `.123456` and what follows them.
fn split_fraction(text: &str) -> Option<(i64, &str)> {
    let Some(fraction) = text.strip_prefix('.') else {
        return Some((0, text));
    };
    let end = fraction.find(|letter: char| !letter.is_ascii_digit())?;
    if end == 0 {
        return None;
    }
    let (digits, rest) = fraction.split_at(end);
    let ms = digits
        .bytes()
        .chain(*b"00")
        .take(3)
        .fold(0, |ms, digit| ms * 10 + i64::from(digit - b'0'));
    Some((ms, rest))
}

/// Minutes east of Greenwich.
fn offset_minutes(text: &str) -> Option<i16> {
    match text.as_bytes() {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), hour @ .., b':', _, _] if hour.len() == 2 => {
            let (hours, minutes) = (two_digits(hour)?, two_digits(&text.as_bytes()[4..])?);
            let east = hours * 60 + minutes;
            (hours < 24 && minutes < 60).then_some(if *sign == b'-' { -east } else { east })
        }
        _ => None,
    }
}

fn two_digits(text: &[u8]) -> Option<i16> {
    match text {
        [ten, one] if ten.is_ascii_digit() && one.is_ascii_digit() => {
            Some(i16::from(ten - b'0') * 10 + i16::from(one - b'0'))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_is_the_same_in_every_notation() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t00:00:00z", 0),
            ("1970-01-01 01:00:00+01:00", 0),
            ("1969-12-31T23:30:00-00:30", 0),
            ("1970-01-01T00:00:00.1Z", 100),
            ("1970-01-01T00:00:00.0129999999999Z", 12),
            ("2026-01-31T12:00:00.5-00:00", 1_769_860_800_500),
            ("2016-12-31T23:59:60Z", 1_483_228_799_000),
            ("9999-12-31T23:59:59.999Z", LAST_MS),
            ("1969-12-31T23:59:59.999Z", -1),
        ] {
            assert_eq!(parse_ms(text), Some(ms), "{text}");
        }
    }

    #[test]
    fn what_only_resembles_a_time_is_refused() {
        for text in [
            "",
            "now",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00Z",
            "20260131T120000Z",
            "2026-02-30T12:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T12:00:61Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00.5",
            "2026-01-31T12:00:00+0100",
            "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00+1:00",
            "2026-01-31T12:00:00+01:00[Europe/Berlin]",
            "2026-01-31T12:00:00Z ",
            "+12026-01-31T12:00:00Z",
            "9999-12-31T23:59:59-00:01",
            "２026-01-31T12:00:00Z",
        ] {
            assert_eq!(parse_ms(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,19}", digits in "[0-9T:.Z+ -]{15,35}") {
            prop_assert_eq!(parse_ms(&text), None);
            prop_assert!(parse_ms(&digits).is_none_or(|at_ms| at_ms <= LAST_MS));
        }
    }
}
