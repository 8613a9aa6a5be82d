//! What a command gets from its surroundings: flags, environment, configuration, a handle to Redis.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use super::exit::Failure;
use super::{Global, OutputFormat};
use crate::service::config::{self, Config, Flag, Loaded, Sources};
use crate::service::{telemetry, wiring};
use crate::store::{Endpoint, Store};

/// The surroundings of a command.
pub(crate) struct Context {
    global: Global,
    environment: BTreeMap<String, String>,
}

impl Context {
    /// The surroundings of this process.
    pub(crate) fn new(global: Global) -> Self {
        let text = |value: std::ffi::OsString| value.into_string().ok();
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
            .collect();
        Self { global, environment }
    }

    /// How to print.
    pub(crate) fn is_json(&self) -> bool {
        self.global.output == OutputFormat::Json
    }

    /// Whether to leave out what is nice to know.
    pub(crate) fn is_quiet(&self) -> bool {
        self.global.quiet
    }

    /// Whether to show what is otherwise kept in the background.
    pub(crate) fn is_verbose(&self) -> bool {
        self.global.verbose > 0
    }

    /// Whether an address of Redis was given on the command line; the environment and files do not count.
    pub(crate) fn names_redis(&self) -> bool {
        self.global.redis_url.is_some()
    }

    /// Reads the configuration, with the command's own flags on top of the common ones.
    pub(crate) fn load(&self, flags: Vec<Flag>) -> Result<Loaded, Failure> {
        let directory = std::env::current_dir()
            .map_err(|problem| Failure::usage(&format!("can not see the working directory: {problem}")))?;
        let mut all = Vec::new();
        if let Some(url) = &self.global.redis_url {
            all.push(Flag {
                name: "--redis-url",
                key: "redis.url",
                value: url.clone(),
            });
        }
        let level = match (self.global.quiet, self.global.verbose) {
            (true, _) => Some(("-q", "warn")),
            (false, 0) => None,
            (false, 1) => Some(("-v", "debug")),
            (false, _) => Some(("-vv", "trace")),
        };
        if let Some((name, level)) = level {
            all.push(Flag {
                name,
                key: "telemetry.log_level",
                value: level.to_owned(),
            });
        }
        all.extend(flags);
        let sources = Sources {
            directory: &directory,
            environment: &self.environment,
            file: self.global.config.as_deref(),
            flags: all,
        };
        Ok(config::load(&sources)?)
    }

    /// Reads the configuration and installs the log; for commands that run a service.
    pub(crate) fn start_service(&self, flags: Vec<Flag>) -> Result<Config, Failure> {
        let loaded = self.load(flags)?;
        telemetry::init(
            &loaded.config.telemetry,
            std::io::stderr().is_terminal(),
            !self.has_color(),
        )
        .map_err(|problem| Failure::usage(&problem.to_string()))?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        Ok(loaded.config)
    }

    /// Who types: the user's name where the environment has it.
    pub(crate) fn user(&self) -> String {
        let names = ["USER", "LOGNAME"].into_iter();
        let mut known = names
            .filter_map(|name| self.environment.get(name))
            .filter(|name| !name.is_empty());
        known.next().map_or("cli".to_owned(), Clone::clone)
    }

    /// Whether there may be colours: nobody set `NO_COLOR`.
    pub(crate) fn has_color(&self) -> bool {
        self.environment.get("NO_COLOR").is_none_or(String::is_empty)
    }

    /// Where Redis is, for people: host and port, and nothing that is secret.
    pub(crate) fn redis_address(&self) -> Result<String, Failure> {
        let endpoint = self.endpoint()?;
        let host_and_port = url::Url::parse(&endpoint.url).ok().and_then(|url| {
            let host = url.host_str()?.to_owned();
            Some(format!("{host}:{}", url.port().unwrap_or(6379)))
        });
        Ok(host_and_port.unwrap_or_else(|| "redis".to_owned()))
    }

    /// Where Redis is. A number of partitions that nobody chose is left to what Redis holds.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Failure> {
        let loaded = self.load(Vec::new())?;
        let mut endpoint = wiring::endpoint(&loaded.config)?;
        if !loaded.is_chosen("redis.partitions") {
            endpoint.partitions = None;
        }
        Ok(endpoint)
    }

    /// A handle to Redis, which knows how many partitions are there.
    pub(crate) async fn store(&self) -> Result<Store, Failure> {
        let store = Store::new(self.endpoint()?)?;
        store.find_partitions().await?;
        Ok(store)
    }
}
