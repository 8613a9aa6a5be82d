//! What the process uses, for the metrics, as far as Linux tells it. Elsewhere there is nothing to tell.

use std::fs;

/// What a process uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// Memory that is really there, in bytes.
    pub(super) resident_bytes: f64,
    /// Time on processors, user and system, in seconds.
    pub(super) cpu_seconds: f64,
    /// Files and connections that are open.
    pub(super) open_fds: f64,
    /// How many there may be.
    pub(super) max_fds: f64,
    /// When it began, in seconds since the Unix epoch.
    pub(super) start_seconds: f64,
}

/// What this process uses right now.
pub(super) fn usage() -> Option<Usage> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    // The clock of these files ticks a hundred times a second whatever the kernel's does: USER_HZ.
    let ticks_per_second = 100.0;
    // The name of the program stands in brackets and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |place: usize| fields.get(place)?.parse::<f64>().ok();
    let boot_seconds: f64 = line(&boot, "btime ")?.trim().parse().ok()?;
    Some(Usage {
        resident_bytes: first_number(line(&status, "VmRSS:")?)? * 1024.0,
        cpu_seconds: (ticks(11)? + ticks(12)?) / ticks_per_second,
        #[allow(clippy::cast_precision_loss, reason = "a process has fewer files than 2^53")]
        open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as f64,
        max_fds: first_number(line(&limits, "Max open files")?).unwrap_or(f64::INFINITY),
        start_seconds: boot_seconds + ticks(19)? / ticks_per_second,
    })
}

fn line<'a>(text: &'a str, begin: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(begin))
}

fn first_number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_usage_of_a_process_is_plausible() {
        let usage = usage().unwrap();

        assert!((1e6..1e11).contains(&usage.resident_bytes), "{usage:?}");
        assert!((0.0..1e6).contains(&usage.cpu_seconds), "{usage:?}");
        assert!((3.0..=usage.max_fds).contains(&usage.open_fds), "{usage:?}");
        assert!(usage.start_seconds > 1.6e9, "{usage:?}");
    }
}
