//! `waooaw functions load`: for deployments whose replicas may not load functions themselves.

use clap::Subcommand;

use super::context::Context;
use super::exit::Failure;
use super::output;
use crate::store::Store;
use crate::store::library::LIBRARY;

/// What can be done with the function library.
#[derive(Debug, Subcommand)]
pub(crate) enum FunctionsCommand {
    /// Load this release's functions into Redis; older releases keep theirs
    Load,
}

/// Runs the command.
pub(crate) async fn run(context: &Context, command: &FunctionsCommand) -> Result<(), Failure> {
    match command {
        FunctionsCommand::Load => {
            let mut endpoint = context.endpoint()?;
            // The setting keeps replicas from loading; this command is who does it instead.
            endpoint.load_functions = true;
            Store::new(endpoint)?.load_functions().await?;
            if context.is_json() {
                return output::json(&serde_json::json!({ "library": LIBRARY.name }));
            }
            output::line(&format!("loaded {}", LIBRARY.name))
        }
    }
}
