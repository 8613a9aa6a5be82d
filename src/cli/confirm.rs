//! Asks before something is done that can not be undone.

use std::io::{BufRead, IsTerminal, Write};

use super::exit::Failure;

/// Goes on when the person says so, or `--yes` has said so before. Where nobody can be asked, the flag is needed.
pub(super) fn confirm(question: &str, is_agreed: bool) -> Result<(), Failure> {
    if is_agreed {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::usage(&format!(
            "{question} nobody is there to be asked: say so with --yes, or look first with --dry-run"
        )));
    }
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
