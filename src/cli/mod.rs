//! The command line: one file a command family.
//!
//! Data goes to standard output, everything else to standard error. Every command needs only an address of Redis; none
//! needs the HTTP service.

#![allow(clippy::doc_markdown, reason = "the comments on arguments are printed as their help")]

mod api;
mod audit;
mod bench;
mod bus;
mod completions;
mod config;
mod confirm;
mod context;
mod definition;
mod demo;
mod dev;
mod dlq;
mod doctor;
mod events;
mod exit;
mod fleet;
mod functions;
mod group;
mod guard;
mod health;
mod output;
mod queue;
mod redis_server;
mod saga;
mod serve;
mod signals;
mod stats;
mod task;
mod top;
mod trigger;
mod workers;
mod workflow;
mod yaml;

use std::process::ExitCode;

use clap::error::ErrorKind;
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

/// What the help puts these under, so that a command's own options stand together.
const COMMON: &str = "Options of every command";

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
        hide_env = true,
        help_heading = COMMON
    )]
    pub(crate) output: OutputFormat,
    /// Where Redis is, such as redis://127.0.0.1:6379 [env: REDIS_URL]
    #[arg(long, global = true, help_heading = COMMON, value_name = "URL")]
    pub(crate) redis_url: Option<String>,
    /// A configuration file on top of those in config/
    #[arg(long, global = true, help_heading = COMMON, value_name = "FILE")]
    pub(crate) config: Option<std::path::PathBuf>,
    /// Say less: warnings and errors only
    #[arg(short, long, global = true, help_heading = COMMON, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; twice for everything
    #[arg(short, long, global = true, help_heading = COMMON, action = clap::ArgAction::Count)]
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
    /// Make a task now, and on request wait until it has ended
    #[command(after_help = trigger::EXAMPLES)]
    Trigger(trigger::TriggerArgs),
    /// Look at tasks, wait for them, cancel them
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Start workflows, look at them, stop them
    #[command(subcommand)]
    Workflow(workflow::WorkflowCommand),
    /// Start sagas, look at them, let them go back or try again
    #[command(subcommand)]
    Saga(saga::SagaCommand),
    /// Look at what failed for good or was rejected, and bring it back
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Look at queues, pause them, set the limits of all
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Look at workers, have more of them or fewer
    #[command(subcommand)]
    Workers(workers::WorkersCommand),
    /// Count tasks, queues and workers
    #[command(after_help = stats::EXAMPLES)]
    Stats,
    /// Watch what waits, runs and fails
    #[command(after_help = top::EXAMPLES)]
    Top(top::TopArgs),
    /// Read the log of events
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// Prove the guarantees; tell the history of a task
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Look at everything that a deployment stands on, and mend what can be mended
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::DoctorArgs),
    /// Ask a replica on this machine whether it works, for container checks
    #[command(after_help = health::EXAMPLES)]
    Health(health::HealthArgs),
    /// Describe the HTTP interface for programs
    #[command(subcommand)]
    Api(api::ApiCommand),
    /// Describe the bus for programs
    #[command(subcommand)]
    Bus(bus::BusCommand),
    /// Look at the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Load the functions into Redis, where replicas may not
    #[command(subcommand)]
    Functions(functions::FunctionsCommand),
    /// Print a script that completes commands in a shell
    #[command(after_help = completions::EXAMPLES)]
    Completions(completions::CompletionsArgs),
    /// Measure how fast it is, on a Redis and replicas of its own
    Bench(bench::BenchArgs),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(problem) => return refuse(&problem),
    };
    let is_json = cli.global.output == OutputFormat::Json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.print(is_json),
    }
}

/// Ends where the arguments make no sense, or ask for help.
fn refuse(problem: &clap::Error) -> ExitCode {
    // Help and version are printed by an "error" too; they are no failure, and a pipe that closes early is none either.
    if !problem.use_stderr() {
        problem.print().unwrap_or_default();
        return ExitCode::SUCCESS;
    }
    if asks_for_json() && problem.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let text = problem.render().to_string();
        let message = text.trim_start_matches("error: ").trim_end();
        return Failure::usage(message).print(true);
    }
    problem.print().unwrap_or_default();
    ExitCode::from(exit::USAGE)
}

/// Whether JSON is asked for by arguments that can not be parsed as a whole.
fn asks_for_json() -> bool {
    let args: Vec<_> = std::env::args_os().collect();
    let by_flag = args.iter().any(|arg| arg == "--output=json")
        || args.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json");
    by_flag || std::env::var_os("WAOOAW_OUTPUT").is_some_and(|format| format == "json")
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
            Command::Trigger(args) => trigger::run(&context, args).await,
            Command::Task(command) => task::run(&context, command).await,
            Command::Workflow(command) => workflow::run(&context, command).await,
            Command::Saga(command) => saga::run(&context, command).await,
            Command::Dlq(command) => dlq::run(&context, command).await,
            Command::Queue(command) => queue::run(&context, command).await,
            Command::Workers(command) => workers::run(&context, command).await,
            Command::Stats => stats::run(&context).await,
            Command::Top(args) => top::run(&context, args).await,
            Command::Events(command) => events::run(&context, command).await,
            Command::Audit(command) => audit::run(&context, command).await,
            Command::Doctor(args) => doctor::run(&context, args).await,
            Command::Health(args) => health::run(&context, &args).await,
            Command::Api(command) => api::run(&command),
            Command::Bus(command) => bus::run(&command),
            Command::Config(command) => config::run(&context, &command),
            Command::Functions(command) => functions::run(&context, &command).await,
            Command::Completions(args) => completions::run(&args),
            Command::Bench(args) => bench::run(&context, args).await,
        }
    });
    // A blocking handler that does not end must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    crate::service::telemetry::flush();
    outcome
}
