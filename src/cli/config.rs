//! `waooaw config`: what is configured, and by what.

use clap::Subcommand;

use super::context::Context;
use super::exit::{Failure, say};
use super::output;
use crate::service::wiring;

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every value in effect with its source, secrets masked; name all problems if there are any
    #[command(after_help = "\
Examples:
  waooaw config check
  WAOOAW_QUEUE__MAX_SIZE=50 waooaw config check --output json")]
    Check,
}

/// Prints the configuration.
pub(super) fn run(context: &Context, command: &ConfigCommand) -> Result<(), Failure> {
    let ConfigCommand::Check = command;
    let loaded = context.load(Vec::new())?;
    wiring::check_handlers(&loaded.config)?;
    if context.is_json() {
        return output::json(&serde_json::json!({ "items": loaded.values, "warnings": loaded.warnings }));
    }
    let rows = loaded.values.into_iter();
    let rows = rows.map(|value| vec![value.key, value.value, value.source]).collect();
    output::table(&["key", "value", "source"], rows)?;
    for warning in loaded.warnings {
        say(&format!("warning: {warning}"));
    }
    Ok(())
}
