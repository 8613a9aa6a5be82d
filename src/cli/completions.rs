//! `waooaw completions`: a script for the shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::exit::Failure;
use super::output;

pub(super) const EXAMPLES: &str = "\
Examples:
  waooaw completions bash > ~/.local/share/bash-completion/completions/waooaw
  waooaw completions zsh > \"${fpath[1]}/_waooaw\"";

/// What `completions` takes.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub(super) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "waooaw", &mut script);
    output::line(String::from_utf8_lossy(&script).trim_end())
}
