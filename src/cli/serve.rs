//! `waooaw serve`: one replica.

use clap::Args;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::context::Context;
use super::exit::Failure;
use super::signals::Signals;
use crate::runtime::handler::Handlers;
use crate::service::config::Flag;
use crate::service::wiring;

/// What `serve` takes beside the configuration.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// How many tasks to run at once (worker_pool.max_workers)
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Where to listen (http.addr)
    #[arg(long, value_name = "ADDRESS")]
    http_addr: Option<String>,
    /// Run the built-in handlers too (handlers_builtin)
    #[arg(long)]
    builtin: bool,
}

impl ServeArgs {
    fn flags(self) -> Vec<Flag> {
        let mut flags = Vec::new();
        let mut add = |name, key, value: Option<String>| {
            flags.extend(value.map(|value| Flag { name, key, value }));
        };
        add("--workers", "worker_pool.max_workers", self.workers);
        add("--http-addr", "http.addr", self.http_addr);
        add("--builtin", "handlers_builtin", self.builtin.then(|| "true".to_owned()));
        flags
    }
}

/// Runs until a signal asks it to stop and the drain is over.
pub(crate) async fn run(context: &Context, args: ServeArgs) -> Result<(), Failure> {
    let config = context.start_service(args.flags())?;
    let (stop, now) = (CancellationToken::new(), CancellationToken::new());
    tokio::spawn(stop_on_signal(stop.clone(), now.clone())?);
    tokio::select! {
        outcome = wiring::serve(&config, Handlers::new(), stop) => Ok(outcome?),
        // What runs is dropped with the runtime, and with it end the programs that it started.
        () = now.cancelled() => Err(Failure::interrupted()),
    }
}

/// The first SIGTERM or SIGINT asks for a drain, the second for the end of the process at once.
fn stop_on_signal(stop: CancellationToken, now: CancellationToken) -> Result<impl Future<Output = ()>, Failure> {
    let mut signals = Signals::listen()?;
    Ok(async move {
        signals.any().await;
        info!("asked to stop");
        stop.cancel();
        signals.any().await;
        warn!("asked twice; ending at once");
        now.cancel();
    })
}
