//! How numbers look on the screen: with their thousands apart, as times, as bars.

/// A limit as it stands behind a number.
pub(super) fn limit_text(limit: u64) -> String {
    if limit == 0 {
        "no limit".to_owned()
    } else {
        format!("of {}", grouped(limit))
    }
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time as people say it, in at most seven places.
pub(super) fn span_text(seconds: f64) -> String {
    if seconds < 0.000_5 {
        "0 s".to_owned()
    } else if seconds < 0.999_5 {
        format!("{:.0} ms", seconds * 1000.0)
    } else if seconds < 99.95 {
        format!("{seconds:.1} s")
    } else if seconds < 5970.0 {
        format!("{:.0} min", seconds / 60.0)
    } else if seconds < 172_800.0 {
        format!("{:.1} h", seconds / 3600.0)
    } else {
        format!("{:.0} d", seconds / 86_400.0)
    }
}

/// How many eighths of a cell a part of something fills.
fn eighths(part: u64, whole: u64, room: usize) -> usize {
    let all = u128::from(u64::try_from(room).unwrap_or(u64::MAX)) * 8;
    let filled = u128::from(part.min(whole)) * all / u128::from(whole.max(1));
    // A little is not nothing.
    usize::try_from(filled).unwrap_or(0).max(usize::from(part > 0))
}

/// A bar with eighths of a cell.
pub(super) fn bar(part: u64, whole: u64, room: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let filled = eighths(part, whole, room);
    if room == 0 {
        return String::new();
    }
    format!("{}{}", "█".repeat(filled / 8), PARTS[filled % 8])
}

/// A bar in a box of its whole length.
pub(super) fn meter(part: u64, whole: u64, room: usize) -> String {
    let filled = eighths(part, whole, room).div_ceil(8).min(room);
    format!("{}{}", "▰".repeat(filled), "▱".repeat(room - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_short() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        let spans = [0.0, 0.042, 1.0, 99.9, 130.0, 7200.0, 864_000.0].map(span_text);
        assert_eq!(spans, ["0 s", "42 ms", "1.0 s", "99.9 s", "2 min", "2.0 h", "10 d"]);
        assert_eq!(bar(1, 1000, 10), "▏");
        assert_eq!(bar(1000, 1000, 3), "███");
        assert_eq!(meter(5, 10, 10), "▰▰▰▰▰▱▱▱▱▱");
        assert_eq!(meter(0, 0, 4), "▱▱▱▱");
    }
}
