//! `waooaw dev`: everything that is needed to try things out, with one command, and gone with Ctrl-C.

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::context::Context;
use super::exit::Failure;
use super::fleet::{FleetOptions, ReplicaProcess};
use super::redis_server::{Persistence, RedisServer};

/// What `dev` takes.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// How many replicas to run, each a process
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    replicas: u16,
    /// How many tasks each runs at once
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    workers: u16,
    /// Where Redis keeps its data; a new folder in the system's temporary folder by default
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
}

/// Runs until Ctrl-C.
pub(crate) async fn run(context: &Context, args: DevArgs) -> Result<(), Failure> {
    let listen =
        |kind| signal(kind).map_err(|problem| Failure::failed(&format!("can not listen for signals: {problem}")));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let config = context.load(Vec::new())?.config;
    let folder = args
        .data
        .unwrap_or_else(|| std::env::temp_dir().join(format!("waooaw-dev-{}", std::process::id())));
    let redis = RedisServer::start(&folder, Persistence::EverySecond).await?;
    let options = FleetOptions {
        redis_url: redis.url(),
        workers: args.workers,
        settings: Vec::new(),
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
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        number = first_to_end(&mut replicas) => Some(number),
    };
    for replica in replicas {
        replica.stop().await;
    }
    redis.stop().await;
    match ended {
        None => Ok(()),
        Some(number) => Err(Failure::failed(&format!("replica {number} ended by itself"))),
    }
}

/// Waits until some replica ends by itself; answers its number.
async fn first_to_end(replicas: &mut [ReplicaProcess]) -> usize {
    let waits = replicas.iter_mut().map(|replica| Box::pin(replica.wait()));
    let (_, place, _) = futures_util::future::select_all(waits).await;
    place + 1
}
