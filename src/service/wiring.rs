//! Puts the parts together: from a checked configuration to a running replica with its HTTP side.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::config::{Config, HandlerKind, Secret};
use super::http;
use super::traces::{Traces, TracesError};
use crate::runtime::builtin::with_builtin;
use crate::runtime::command_handler::{CommandHandler, INHERITED};
use crate::runtime::defaults::Defaults;
use crate::runtime::defaults::HandlerDefaults;
use crate::runtime::handler::Handlers;
use crate::runtime::http_handler::HttpHandler;
use crate::runtime::replica::{Replica, ReplicaOptions};
use crate::store::upkeep::Retention;
use crate::store::{Endpoint, Store, StoreError};

/// Why a service can not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Redis holds something that this release can not work with.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The HTTP address is taken or not this machine's.
    #[error("can not listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The configuration asks for what this version does not have.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The file with the certificate of Redis's authority can not be read.
    #[error("can not read `redis.ca_file` {}", path.display())]
    CaFile {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Traces are to be sent and can not be.
    #[error(transparent)]
    Traces(#[from] TracesError),
    /// Handlers are configured that can not run.
    #[error("{0}")]
    Handlers(String),
}

/// Where Redis is, by the configuration.
///
/// # Errors
///
/// [`ServeError::Unsupported`] and [`ServeError::CaFile`].
pub fn endpoint(config: &Config) -> Result<Endpoint, ServeError> {
    let redis = &config.redis;
    let mut endpoint = Endpoint::new(redis.url.reveal());
    endpoint.prefix.clone_from(&redis.prefix);
    endpoint.partitions = Some(redis.partitions.get());
    endpoint.connect_timeout = redis.connect_timeout;
    endpoint.response_timeout = redis.response_timeout;
    endpoint.load_functions = redis.load_functions;
    if redis.cluster {
        return Err(ServeError::Unsupported(
            "`redis.cluster`: this version does not speak to a Redis Cluster",
        ));
    }
    if let Some(path) = &redis.ca_file {
        let certificate = std::fs::read(path).map_err(|source| ServeError::CaFile {
            path: path.clone(),
            source,
        })?;
        endpoint.ca_certificate = Some(certificate);
    }
    Ok(endpoint)
}

/// What tasks of a name get where their trigger says nothing, by the configuration.
#[must_use]
pub fn handler_defaults(config: &Config) -> BTreeMap<String, HandlerDefaults> {
    config
        .handlers
        .iter()
        .map(|(name, handler)| {
            let defaults = HandlerDefaults {
                // A name that fits no queue was refused when the configuration was read.
                queue: handler.queue.as_ref().and_then(|queue| queue.as_str().parse().ok()),
                timeout_seconds: handler.timeout.map(|timeout| timeout.as_secs_f64()),
                retry: handler.retry,
                priority: handler.priority,
            };
            (name.to_string(), defaults)
        })
        .collect()
}

/// Whether a service would start with the configured handlers.
///
/// # Errors
///
/// [`ServeError::Handlers`] with all problems, as a start would meet them.
pub fn check_handlers(config: &Config) -> Result<(), ServeError> {
    handlers(config, Handlers::new()).map(|_| ())
}

/// The handlers of the configuration on top of those that the program brings.
fn handlers(config: &Config, own: Handlers) -> Result<Handlers, ServeError> {
    let mut handlers = if config.handlers_builtin {
        with_builtin(own)
    } else {
        own
    };
    let builtin = with_builtin(Handlers::new());
    let mut problems = Vec::new();
    for (name, defaults) in handler_defaults(config) {
        let Some(handler) = config
            .handlers
            .iter()
            .find(|(known, _)| known.as_str() == name)
            .map(|(_, handler)| handler)
        else {
            continue;
        };
        match &handler.kind {
            HandlerKind::Builtin => {
                if !handlers.has(&name) {
                    match builtin.only(&name) {
                        Some(one) => handlers = handlers.merge(one),
                        None => problems.push(format!("`handlers.{name}`: there is no builtin of this name")),
                    }
                }
                handlers = handlers.with_defaults(&name, defaults);
            }
            HandlerKind::Http {
                url,
                headers,
                signing_secret,
            } => {
                let headers = headers.iter().map(|(name, value)| (name.as_str(), value.reveal()));
                match HttpHandler::new(url.reveal(), headers, signing_secret.as_ref().map(Secret::reveal)) {
                    Ok(handler) => handlers = handlers.with(&name, handler).with_defaults(&name, defaults),
                    Err(problem) => problems.push(format!("`handlers.{name}`: {problem}")),
                }
            }
            HandlerKind::Command { argv, env } => {
                let Some((program, arguments)) = argv.split_first() else {
                    continue;
                };
                let secrets = env.values().map(Secret::reveal);
                let handler = CommandHandler::new(program, arguments, environment(env), secrets);
                handlers = handlers.with(&name, handler).with_defaults(&name, defaults);
            }
            HandlerKind::Agent {
                agent_id,
                heartbeat_timeout,
            } => {
                handlers = handlers
                    .with_agent(&name, agent_id.clone(), *heartbeat_timeout)
                    .with_defaults(&name, defaults);
            }
        }
    }
    for (name, handler) in &config.handlers {
        if let Some(max_running) = handler.max_running {
            handlers = handlers.with_max_running(name.as_str(), max_running);
        }
    }
    if problems.is_empty() {
        Ok(handlers)
    } else {
        Err(ServeError::Handlers(problems.join("; ")))
    }
}

/// What a program sees: a few variables of this process, and above them those of its configuration.
fn environment(own: &BTreeMap<String, Secret>) -> BTreeMap<OsString, OsString> {
    let inherited = INHERITED
        .iter()
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    let own = own
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value.reveal())));
    inherited.chain(own).collect()
}

/// How a replica runs, by the configuration.
fn replica_options(config: &Config, own: Handlers) -> Result<ReplicaOptions, ServeError> {
    let mut options = ReplicaOptions::new(handlers(config, own)?);
    options.workers = u16::try_from(config.worker_pool.max_workers.get()).unwrap_or(u16::MAX);
    options.min_workers = u16::try_from(config.worker_pool.min_workers.get()).unwrap_or(u16::MAX);
    options.autoscale = config.worker_pool.autoscale;
    options.snapshot_interval = config.metrics.snapshot_interval;
    options.max_size = Some(config.queue.max_size.map_or(0, |limit| u64::from(limit.get())));
    options.max_running = Some(config.queue.max_running.map_or(0, |limit| u64::from(limit.get())));
    options.max_wait = config.queue.max_wait;
    options.reference_wait = config.queue.reference_wait;
    options.retry = config.retry.default;
    options.grace = config.shutdown.grace;
    options.slow_task = config.telemetry.slow_task;
    options.retention = Some(Retention {
        age: config.retention.age,
        max_events: config.retention.max_events.get(),
        dead_letters: config.retention.dead_letters,
    });
    options.allow_no_persistence = config.redis.allow_no_persistence;
    Ok(options)
}

/// Runs one replica with its HTTP side until `stop` and the drain that follows.
///
/// # Errors
///
/// A [`ServeError`] that no waiting can mend.
pub async fn serve(config: &Config, own: Handlers, stop: CancellationToken) -> Result<(), ServeError> {
    let options = replica_options(config, own)?;
    if options.handlers.is_empty() {
        warn!("no handlers: this replica reads triggers and runs nothing");
    }
    let endpoint = endpoint(config)?;
    let store = Store::new(endpoint)?;
    let (http_store, beat_store) = (store.beside()?, store.beside()?);
    let replica = Replica::new(store, beat_store, options, stop);
    let address = config.http.addr;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address, source })?;
    info!(%address, "http");
    let traces = Traces::start(&config.telemetry)?;
    let http_stop = CancellationToken::new();
    let defaults = Defaults {
        retry: config.retry.default,
        handlers: handler_defaults(config),
    };
    let api = http::Api::new(http_store, defaults, replica.handle(), http_stop.clone());
    let http = {
        let (config, stop) = (config.http.clone(), http_stop.clone());
        tokio::spawn(async move { http::serve(listener, api, &config, stop).await })
    };
    let outcome = replica.run().await;
    // While the replica drains, `/readyz` says so; only then does HTTP end.
    http_stop.cancel();
    match tokio::time::timeout(Duration::from_secs(2), http).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(problem)) => error!(%problem, "http ended badly"),
    }
    if let Some(traces) = traces {
        traces.finish().await;
    }
    Ok(outcome?)
}
