//! The binary: parses the arguments and runs the command.

use std::process::ExitCode;

fn main() -> ExitCode {
    waooaw_orchestration::cli::main()
}
