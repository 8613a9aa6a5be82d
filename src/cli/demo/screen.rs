//! What the tour looks like: lines that stay, and on a terminal one that moves.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

use crate::cli::exit::Failure;
use crate::cli::output;

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";
const CYAN: &str = "36";

/// Where the tour is told.
#[derive(Clone)]
pub(super) struct Screen {
    /// The line that moves; on standard error, where the terminal is.
    bar: Option<ProgressBar>,
    is_coloured: bool,
    /// Whether standard output is for the JSON document alone.
    is_json: bool,
    is_quiet: bool,
}

impl Screen {
    /// The story goes to standard output; beside a JSON document to standard error.
    pub(super) fn new(is_json: bool, is_quiet: bool) -> Self {
        let is_lively = output::is_lively();
        let bar = (is_lively && !is_quiet).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self {
            bar,
            is_coloured: is_lively && (is_json || std::io::stdout().is_terminal()),
            is_json,
            is_quiet,
        }
    }

    /// Writes a line that stays.
    pub(super) fn say(&self, text: &str) -> Result<(), Failure> {
        let write = || {
            if !self.is_json {
                return output::line(text);
            }
            if !self.is_quiet {
                eprintln!("{text}");
            }
            Ok(())
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Changes the line that moves, where there is one.
    pub(super) fn status(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    /// Takes away the line that moves.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Opens a scene.
    pub(super) fn title(&self, title: &str, shows: &str) -> Result<(), Failure> {
        self.status("");
        self.say(&format!("\n{}: {shows}", self.paint(BOLD, title)))
    }

    /// Something that happened: when, what, to whom, and what there is to say about it.
    pub(super) fn happened(&self, seconds: f64, what: &str, whom: &str, detail: &str) -> Result<(), Failure> {
        if self.is_quiet {
            return Ok(());
        }
        let time = self.paint(DIM, &format!("{seconds:6.2} s"));
        let what = self.paint(CYAN, &format!("{what:<10}"));
        let line = match (whom.is_empty(), detail.is_empty()) {
            (_, true) => format!("  {time}  {what} {whom}"),
            (true, false) => format!("  {time}  {what} {detail}"),
            (false, false) => format!("  {time}  {what} {whom}  {}", self.paint(DIM, detail)),
        };
        self.say(&line)
    }

    /// Closes a scene.
    pub(super) fn verdict(&self, is_good: bool, text: &str) -> Result<(), Failure> {
        let mark = if is_good {
            self.paint(GREEN, "ok ")
        } else {
            self.paint(RED, "BAD")
        };
        self.status("");
        self.say(&format!("  {mark}  {text}"))
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.is_coloured {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
