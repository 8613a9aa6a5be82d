//! Shows that a benchmark moves: a bar on a terminal, a line every few seconds otherwise.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::figures::{float, grouped};
use crate::cli::output;

/// The time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(3);

/// One step of a benchmark under way; gone from the terminal when dropped.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    step: &'static str,
    total: u64,
    told: Instant,
    is_quiet: bool,
}

impl Progress {
    /// The beginning of a step over `total` things.
    pub(super) fn new(step: &'static str, total: u64, is_quiet: bool) -> Self {
        let bar = (output::is_lively() && !is_quiet).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            // The template is a constant that a test reads.
            bar.set_style(style());
            bar.set_message(step);
            bar
        });
        Self {
            bar,
            step,
            total,
            told: Instant::now(),
            is_quiet,
        }
    }

    /// How many of the things are done.
    pub(super) fn set(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if !self.is_quiet && self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            eprintln!(
                "{}: {} of {}",
                self.step,
                grouped(float(done)),
                grouped(float(self.total))
            );
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{msg:24} {bar:32} {human_pos} of {human_len} {per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_of_the_bar_is_one() {
        assert!(ProgressStyle::with_template("{msg:24} {bar:32} {human_pos} of {human_len} {per_sec}").is_ok());
    }
}
