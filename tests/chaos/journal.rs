//! What one seed did, line by line, for the day when it fails.

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The lines of one seed.
pub(crate) struct Journal {
    began: Instant,
    lines: Mutex<String>,
}

impl Journal {
    /// An empty one that begins now.
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            lines: Mutex::default(),
        }
    }

    fn lines(&self) -> MutexGuard<'_, String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line with its time.
    pub(crate) fn say(&self, line: &str) {
        let mut lines = self.lines();
        writeln!(lines, "{:8.3} {line}", self.began.elapsed().as_secs_f64()).unwrap_or_default();
    }

    /// All of it.
    pub(crate) fn text(&self) -> String {
        self.lines().clone()
    }
}
