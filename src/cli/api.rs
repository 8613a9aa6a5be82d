//! `waooaw api openapi`: the HTTP interface as a document for programs.

use clap::Subcommand;

use super::exit::Failure;
use super::output;
use crate::service::openapi;

/// What can be asked about the HTTP interface.
#[derive(Debug, Subcommand)]
pub(crate) enum ApiCommand {
    /// Print the OpenAPI 3.1 document, as `/openapi.json` answers it
    Openapi,
}

/// Runs the command.
pub(super) fn run(command: &ApiCommand) -> Result<(), Failure> {
    let ApiCommand::Openapi = command;
    output::document(&openapi())
}
