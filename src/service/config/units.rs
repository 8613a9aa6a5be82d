//! Reads durations and sizes as people write them: `"30s"`, `"1h30m"`, `"1MiB"`.
//!
//! A number without a unit is refused: `30` could be seconds or milliseconds, and the wrong guess shows only under load.

use std::time::Duration;

/// The text is no duration, or no size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidQuantity {
    /// Not a duration.
    #[error("expected a duration with its unit, such as 250ms, 30s, 5m, 24h, 30d or 1h30m")]
    Duration,
    /// Not a size.
    #[error("expected a size with its unit, such as 512B, 64KiB, 1MiB or 2GB")]
    Size,
}

/// The units of a duration, in seconds.
const DURATIONS: [(&str, f64); 5] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];

/// The units of a size, in bytes.
const SIZES: [(&str, f64); 8] = [
    ("B", 1.0),
    ("kB", 1e3),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
];

/// Reads a duration: one or more numbers (fractions allowed), each with `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
/// [`InvalidQuantity::Duration`] for anything else, also for a number alone.
pub fn duration(text: &str) -> Result<Duration, InvalidQuantity> {
    let mut rest = text.trim();
    let mut seconds = 0.0;
    loop {
        let (amount, after) = amount(rest, &DURATIONS).ok_or(InvalidQuantity::Duration)?;
        seconds += amount;
        rest = after.trim_start();
        if rest.is_empty() {
            return Duration::try_from_secs_f64(seconds).map_err(|_| InvalidQuantity::Duration);
        }
    }
}

/// Reads a size in bytes: one number (fractions allowed) with `B`, `kB`, `MB`, `GB` or `KiB`, `MiB`, `GiB`.
///
/// # Errors
/// [`InvalidQuantity::Size`] for anything else, also for a number alone.
pub fn bytes(text: &str) -> Result<u64, InvalidQuantity> {
    const LARGEST: f64 = 9_007_199_254_740_992.0; // 2⁵³: up to here every whole number is exact
    match amount(text.trim(), &SIZES) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "amounts are never negative"
        )]
        Some((bytes, "")) if bytes <= LARGEST => Ok(bytes as u64),
        Some(_) | None => Err(InvalidQuantity::Size),
    }
}

/// The first amount of `text` in base units, and what follows it.
fn amount<'a>(text: &'a str, units: &[(&str, f64)]) -> Option<(f64, &'a str)> {
    let (number, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.')?);
    let rest = rest.trim_start();
    let (unit, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len()));
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    Some((number.parse::<f64>().ok()? * factor, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, milliseconds) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("1.5s", 1500),
            ("0s", 0),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("30d", 2_592_000_000),
            ("1h30m", 5_400_000),
            (" 1h 30m ", 5_400_000),
            ("30 s", 30_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn a_duration_without_a_unit_or_with_a_wrong_one_is_refused() {
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "30x",
            "30S",
            "1.2.3s",
            ".s",
            "1h30",
            "5M",
            "1e3s",
            "inf",
            &"9".repeat(400),
        ] {
            assert_eq!(duration(text), Err(InvalidQuantity::Duration), "{text}");
        }
        assert!(duration(&format!("{}d", "9".repeat(30))).is_err());
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, size) in [
            ("0B", 0),
            ("512B", 512),
            ("64KiB", 65_536),
            ("1MiB", 1_048_576),
            ("1.5MiB", 1_572_864),
            ("2GB", 2_000_000_000),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "1", "MiB", "-1B", "1mib", "1MiB2B", "1TB", "99999999999GiB"] {
            assert_eq!(bytes(text), Err(InvalidQuantity::Size), "{text}");
        }
    }
}
