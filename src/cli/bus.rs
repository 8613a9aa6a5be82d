//! `waooaw bus asyncapi`: the bus as a document for programs.

use clap::Subcommand;

use super::exit::Failure;
use super::output;
use crate::service::asyncapi;

/// What can be asked about the bus.
#[derive(Debug, Subcommand)]
pub(crate) enum BusCommand {
    /// Print the AsyncAPI 3.0 document: streams, events, and the schema of every payload
    Asyncapi,
}

/// Runs the command.
pub(super) fn run(command: &BusCommand) -> Result<(), Failure> {
    let BusCommand::Asyncapi = command;
    output::document(&asyncapi::document())
}
