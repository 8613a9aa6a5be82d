//! Asks before something is done that can not be undone.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;

use super::exit::Failure;

/// What ends one thing.
#[derive(Debug, Args)]
pub(super) struct EndArgs {
    /// Its id
    #[arg(value_name = "ID")]
    pub(super) id: String,
    /// Your own words, for the log
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,
}

/// Goes on when the person says so, or `--yes` has said so before. Where nobody can be asked, the flag is needed.
pub(super) fn confirm(question: &str, is_agreed: bool) -> Result<(), Failure> {
    if is_agreed {
        return Ok(());
    }
    if !is_anyone_there() {
        return Err(Failure::usage(&format!(
            "{question} nobody is there to be asked: say so with --yes, or look first with --dry-run"
        )));
    }
    ask(question)
}

/// The same for what a script may do without a word, because it names exactly one thing: only a person is asked.
pub(super) fn confirm_on_terminal(question: &str, is_agreed: bool) -> Result<(), Failure> {
    if is_agreed || !is_anyone_there() {
        return Ok(());
    }
    ask(question)
}

fn is_anyone_there() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

fn ask(question: &str) -> Result<(), Failure> {
    let mut terminal = std::io::stderr().lock();
    write!(terminal, "{question} [y/N] ")
        .and_then(|()| terminal.flush())
        .unwrap_or_default();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).unwrap_or_default();
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was done").named("Declined")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Cli;

    #[test]
    fn whatever_stops_something_takes_yes() {
        for words in [
            &["task", "cancel", "a"][..],
            &["workflow", "stop", "a"],
            &["saga", "cancel", "a"],
            &["queue", "pause", "a"],
            &["workers", "scale", "--add", "1"],
        ] {
            for yes in ["-y", "--yes"] {
                let line = ["waooaw"].iter().chain(words).chain([&yes]);
                assert!(Cli::try_parse_from(line).is_ok(), "{words:?} {yes}");
            }
        }
    }
}
