//! `waooaw bench`: how fast, how quick, how heavy, how well shared, how soon through a graph, on a Redis and replicas of
//! its own.
//!
//! Every run checks its own result against the log before a number of it is shown; a run with a wrong result is a
//! failed benchmark.

mod figures;
mod graph;
mod latency;
mod memory;
mod progress;
mod rig;
mod scale;
mod tally;
mod throughput;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::exit::Failure;
use super::output;
use super::signals::Signals;
use graph::{ChainArgs, FanArgs};
use latency::LatencyArgs;
use memory::MemoryArgs;
use rig::{RigOptions, with_rig};
use scale::ScaleArgs;
use throughput::ThroughputArgs;

/// What `bench` takes.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
    /// Measure this often and show the median of each number
    #[arg(long, global = true, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    repeat: u16,
    /// Run the own Redis without its append-only file
    #[arg(long, global = true)]
    no_persistence: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// No-op tasks in bulk: published, created, drained, and the whole life
    Throughput(ThroughputArgs),
    /// Trigger to start and to completed event, at a steady rate
    Latency(LatencyArgs),
    /// What a pending task weighs in Redis
    Memory(MemoryArgs),
    /// Sleepers on 1, 2, 4 and 8 replicas, and a replica that joins in the middle
    Scale(ScaleArgs),
    /// A workflow whose tasks stand one behind the other
    Chain(ChainArgs),
    /// A workflow of one task, many that depend on it, and one that depends on those
    Fan(FanArgs),
    /// All of them, with their defaults
    All,
}

/// Arguments that were not given.
#[derive(clap::Parser)]
struct Defaults<T: Args> {
    #[command(flatten)]
    args: T,
}

fn defaults<T: Args>() -> Result<T, Failure> {
    let parsed = <Defaults<T> as clap::Parser>::try_parse_from(["bench"]);
    parsed
        .map(|defaults| defaults.args)
        .map_err(|problem| Failure::usage(&problem.to_string()))
}

/// Runs until everything is measured or the user interrupts.
pub(crate) async fn run(context: &Context, args: BenchArgs) -> Result<(), Failure> {
    let interrupted = CancellationToken::new();
    tokio::spawn(cancel_on_signal(interrupted.clone())?);
    let bench = Bench {
        rig: RigOptions {
            context,
            is_persistent: !args.no_persistence,
            interrupted,
        },
        repeat: args.repeat,
    };
    let setup = bench.setup().await?;
    if !context.is_json() {
        output::line(&setup.line())?;
    }
    let mut found = Map::new();
    found.insert("setup".to_owned(), as_json(&setup)?);
    let is_json = context.is_json();
    let mut add = |name: &str, value: Value| found.insert(name.to_owned(), value);
    match args.what {
        What::Throughput(args) => {
            add("throughput", bench.throughput(&args, is_json).await?);
        }
        What::Latency(args) => {
            add("latency", bench.latency(&args, is_json).await?);
        }
        What::Memory(args) => {
            add("memory", bench.memory(&args, is_json).await?);
        }
        What::Scale(args) => {
            add("scale", bench.scale(&args, is_json).await?);
        }
        What::Chain(args) => {
            add("chain", bench.chain(&args, is_json).await?);
        }
        What::Fan(args) => {
            add("fan", bench.fan(&args, is_json).await?);
        }
        What::All => {
            add("throughput", bench.throughput(&defaults()?, is_json).await?);
            add("latency", bench.latency(&defaults()?, is_json).await?);
            add("memory", bench.memory(&defaults()?, is_json).await?);
            add("scale", bench.scale(&defaults()?, is_json).await?);
            add("chain", bench.chain(&defaults()?, is_json).await?);
            add("fan", bench.fan(&defaults()?, is_json).await?);
        }
    }
    if is_json {
        output::json(&found)?;
    }
    if !context.is_quiet() {
        let words: Vec<String> = std::env::args().skip(1).collect();
        eprintln!(
            "every result was checked against the log; again: waooaw {}",
            words.join(" ")
        );
    }
    Ok(())
}

/// The first signal asks to take everything down in order; the second ends the process.
fn cancel_on_signal(interrupted: CancellationToken) -> Result<impl Future<Output = ()>, Failure> {
    let mut signals = Signals::listen()?;
    Ok(async move {
        signals.any().await;
        interrupted.cancel();
        signals.any().await;
        std::process::exit(130);
    })
}

/// What the numbers were measured on.
#[derive(Debug, Serialize)]
struct Setup {
    version: &'static str,
    redis_version: String,
    is_own_redis: bool,
    persistence: String,
    cores: usize,
    repeat: u16,
}

impl Setup {
    fn line(&self) -> String {
        format!(
            "waooaw {} on redis {} ({}), {}, {} cores, {}",
            self.version,
            self.redis_version,
            if self.is_own_redis { "its own" } else { "given" },
            self.persistence,
            self.cores,
            match self.repeat {
                1 => "one run".to_owned(),
                runs => format!("medians of {runs} runs"),
            }
        )
    }
}

struct Bench<'a> {
    rig: RigOptions<'a>,
    repeat: u16,
}

impl Bench<'_> {
    async fn setup(&self) -> Result<Setup, Failure> {
        let (redis_version, is_logged) = with_rig(&self.rig, async |rig| {
            let server = rig.store.server_info("server").await?;
            let persistence = rig.store.server_info("persistence").await?;
            let version = server.get("redis_version").cloned().unwrap_or_default();
            Ok((version, persistence.get("aof_enabled").is_some_and(|flag| flag == "1")))
        })
        .await?;
        let is_own_redis = !self.rig.context.names_redis();
        let persistence = match (is_logged, is_own_redis) {
            (true, true) => "append-only file every second, never rewritten",
            (true, false) => "append-only file",
            (false, _) => "no append-only file",
        };
        Ok(Setup {
            version: env!("CARGO_PKG_VERSION"),
            redis_version,
            is_own_redis,
            persistence: persistence.to_owned(),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            repeat: self.repeat,
        })
    }

    /// Measures as often as asked for; answers the medians.
    async fn repeat<T: Serialize + DeserializeOwned>(
        &self,
        measure: impl AsyncFn() -> Result<T, Failure>,
    ) -> Result<(T, Value), Failure> {
        let mut runs = Vec::new();
        for _ in 0..self.repeat {
            runs.push(as_json(&measure().await?)?);
        }
        let middle = figures::median(&runs);
        let typed = serde_json::from_value(middle.clone())
            .map_err(|problem| Failure::failed(&format!("can not sum up the runs: {problem}")))?;
        Ok((typed, middle))
    }

    async fn throughput(&self, args: &ThroughputArgs, is_json: bool) -> Result<Value, Failure> {
        let (found, value) = self.repeat(async || throughput::run(&self.rig, args).await).await?;
        if !is_json {
            found.print(args.commands)?;
        }
        Ok(value)
    }

    async fn latency(&self, args: &LatencyArgs, is_json: bool) -> Result<Value, Failure> {
        let (found, value) = self.repeat(async || latency::run(&self.rig, args).await).await?;
        if !is_json {
            found.print()?;
        }
        Ok(value)
    }

    async fn memory(&self, args: &MemoryArgs, is_json: bool) -> Result<Value, Failure> {
        let (found, value) = self.repeat(async || memory::run(&self.rig, args).await).await?;
        if !is_json {
            found.print()?;
        }
        Ok(value)
    }

    async fn scale(&self, args: &ScaleArgs, is_json: bool) -> Result<Value, Failure> {
        let (found, value) = self.repeat(async || scale::run(&self.rig, args).await).await?;
        if !is_json {
            found.print()?;
        }
        Ok(value)
    }

    async fn chain(&self, args: &ChainArgs, is_json: bool) -> Result<Value, Failure> {
        let (found, value) = self.repeat(async || graph::chain(&self.rig, args).await).await?;
        if !is_json {
            found.print()?;
        }
        Ok(value)
    }

    async fn fan(&self, args: &FanArgs, is_json: bool) -> Result<Value, Failure> {
        let (found, value) = self.repeat(async || graph::fan(&self.rig, args).await).await?;
        if !is_json {
            found.print()?;
        }
        Ok(value)
    }
}

fn as_json(value: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|problem| Failure::failed(&format!("can not write JSON: {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_has_a_default() {
        assert_eq!(defaults::<ThroughputArgs>().unwrap().tasks, 100_000);
        assert_eq!(defaults::<LatencyArgs>().unwrap().rate.get(), 200);
        assert_eq!(defaults::<MemoryArgs>().unwrap().tasks, 20_000);
        assert_eq!(defaults::<ScaleArgs>().unwrap().replicas, 8);
        assert_eq!(defaults::<ChainArgs>().unwrap().length, 1000);
        assert_eq!(defaults::<FanArgs>().unwrap().width, 1000);
    }
}
