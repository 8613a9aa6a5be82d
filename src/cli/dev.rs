//! `waooaw dev`: everything that is needed to try things out, with one command, and gone with Ctrl-C.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;

use super::context::Context;
use super::exit::Failure;
use super::fleet::{FleetOptions, ReplicaProcess};
use super::guard;
use super::redis_server::{Persistence, RedisServer};
use super::signals::Signals;

/// What `dev` takes.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// How many replicas to run, each a process
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    replicas: u16,
    /// How many tasks each runs at once
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    workers: u16,
    /// Where Redis keeps its data, and leaves it; by default a temporary folder that goes with it
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
}

/// Runs until Ctrl-C.
pub(crate) async fn run(context: &Context, args: DevArgs) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let config = context.load(Vec::new())?.config;
    // A folder of the user's own is kept, so that the next start goes on where this one stopped.
    let is_own_folder = args.data.is_none();
    let folder = args
        .data
        .unwrap_or_else(|| std::env::temp_dir().join(format!("waooaw-dev-{}", std::process::id())));
    if is_own_folder {
        guard::folder(&folder);
    }
    let redis = RedisServer::start(&folder, Persistence::EverySecond).await?;
    let mut settings = Vec::new();
    if std::io::stderr().is_terminal() {
        // The replicas write to a pipe, but a person reads it.
        settings.push(("WAOOAW_TELEMETRY__LOG_FORMAT".to_owned(), "pretty".to_owned()));
    }
    let options = FleetOptions {
        redis_url: redis.url(),
        workers: args.workers,
        settings,
        first_port: Some(config.http.addr.port()),
        show_logs: !context.is_quiet(),
    };
    let mut replicas = Vec::new();
    for number in 1..=args.replicas {
        replicas.push(ReplicaProcess::start(&options, number)?);
    }
    eprintln!("redis     {}   data in {}", redis.url(), redis.folder().display());
    for replica in &replicas {
        eprintln!("replica   http://127.0.0.1:{}/readyz", replica.http_port());
    }
    eprintln!(
        "publish   redis-cli -p {} XADD waooaw:triggers '*' event_type orchestration.task.trigger \\",
        redis.port()
    );
    eprintln!("            source_agent me payload '{{\"task_name\":\"echo\",\"args\":[\"hi\"]}}'");
    eprintln!("follow    REDIS_URL={} waooaw events tail", redis.url());
    eprintln!("stop      Ctrl-C");
    let outcome = tokio::select! {
        () = signals.any() => Ok(()),
        () = all_to_end(&mut replicas) => Err(Failure::failed("all replicas ended by themselves")),
    };
    // All at once: each may take as long as its grace.
    let stopping = async {
        futures_util::future::join_all(replicas.into_iter().map(ReplicaProcess::stop)).await;
        redis.stop().await;
    };
    let outcome = tokio::select! {
        () = stopping => outcome,
        // Dropped, they are killed.
        () = signals.any() => Err(Failure::interrupted()),
    };
    if is_own_folder && let Err(problem) = std::fs::remove_dir_all(&folder) {
        eprintln!("waooaw: can not remove {}: {problem}", folder.display());
    }
    outcome
}

/// Waits until every replica has ended by itself. One that is killed is part of trying things out.
async fn all_to_end(replicas: &mut [ReplicaProcess]) {
    let mut waits: Vec<_> = replicas
        .iter_mut()
        .enumerate()
        .map(|(place, replica)| Box::pin(async move { (place + 1, replica.wait().await) }))
        .collect();
    while !waits.is_empty() {
        let ((number, status), _, rest) = futures_util::future::select_all(waits).await;
        let how = status.map_or_else(|problem| problem.to_string(), |status| status.to_string());
        eprintln!("replica {number} ended by itself: {how}");
        waits = rest;
    }
}
