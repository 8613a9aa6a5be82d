//! The command line: one file a command family.
//!
//! Data goes to standard output, everything else to standard error. Every command needs only an address of Redis; none
//! needs the HTTP service.

mod bench;
mod context;
mod demo;
mod dev;
mod exit;
mod fleet;
mod output;
mod redis_server;
mod serve;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use context::Context;
use exit::Failure;

/// Turns trigger events on a Redis Stream into prioritised tasks, runs them, and keeps a record that holds in an audit.
#[derive(Debug, Parser)]
#[command(name = "waooaw", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// How to print: tables for people, JSON for programs
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "WAOOAW_OUTPUT",
        hide_env = true
    )]
    pub(crate) output: OutputFormat,
    /// Where Redis is, such as redis://127.0.0.1:6379 [env: REDIS_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) redis_url: Option<String>,
    /// A configuration file on top of those in config/
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<std::path::PathBuf>,
    /// Say less: warnings and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// How a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people
    #[default]
    Table,
    /// For programs; stable
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a replica: read triggers, run tasks
    Serve(serve::ServeArgs),
    /// Run a Redis of its own with some replicas, for trying things out
    Dev(dev::DevArgs),
    /// Show what the runtime does, on a Redis of its own; ends by itself
    Demo,
    /// Measure how fast it is, on a Redis and replicas of its own
    Bench(bench::BenchArgs),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(problem) => {
            // Help and version are printed by an "error" too; they are no failure.
            let code = if problem.use_stderr() { exit::USAGE } else { 0 };
            return match problem.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::from(exit::FAILED),
            };
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.print(),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|problem| Failure::failed(&format!("no async runtime: {problem}")))?;
    let context = Context::new(cli.global);
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => serve::run(&context, args).await,
            Command::Dev(args) => dev::run(&context, args).await,
            Command::Demo => demo::run(&context).await,
            Command::Bench(args) => bench::run(&context, args).await,
        }
    });
    // A blocking handler that does not end must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    outcome
}
