//! Runs a system for long under a steady load, and looks whether anything of it grows.
//!
//! Three replicas, one of which is replaced now and then, get triggers of all kinds, workflows and sagas. What has ended is
//! forgotten after a part of the time, so that from then on everything should weigh the same: the keys and the memory of
//! Redis; memory, files and threads of each replica. In the end everything must have ended, and the audit must be clean.
//!
//! `make soak` runs long. Without arguments, as in `make test`, it takes half a minute, and only what grows quickly shows.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "it is a test with an output of its own; what fails ends it"
)]

#[path = "../it/support/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "what the integration tests stand on; not all of it is needed here"
)]
mod support;

mod load;
mod sample;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use sample::{Sample, grown};
use support::cli::Cli;
use support::redis::TestRedis;
use support::replica::ReplicaProcess;
use support::{holds, wait_within};

/// How many replicas there are.
const REPLICAS: usize = 3;
/// How many samples are taken; those of the second quarter are held against those of the last.
const SAMPLES: u32 = 40;
/// How often a replica is replaced.
const REPLACEMENTS: u32 = 5;
/// How long everything may take to end after the last trigger.
const QUIET: Duration = Duration::from_secs(60);

/// What to run.
struct Arguments {
    seconds: u64,
    rate: u64,
}

impl Arguments {
    /// `None` when this test is not asked for.
    fn read() -> Result<Option<Self>, String> {
        let mut arguments = Self { seconds: 24, rate: 50 };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut number = || {
                let text = words.next().unwrap_or_default();
                text.parse::<u64>().map_err(|error| format!("{word} {text}: {error}"))
            };
            match word.as_str() {
                "--seconds" => arguments.seconds = number()?.max(10),
                "--rate" => arguments.rate = number()?.max(1),
                // What test runners ask of all test binaries.
                "--list" => return Ok(None),
                "--help" => return Err("soak [--seconds 1800] [--rate 50]: items per second".to_owned()),
                flag if flag.starts_with("--") => {}
                filter if "soak".contains(filter) => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(arguments))
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::read() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let problems = runtime.block_on(soak(&arguments));
    for problem in &problems {
        println!("soak: {problem}");
    }
    println!(
        "soak: {}",
        if problems.is_empty() {
            "nothing grew, nothing was lost"
        } else {
            "FAILED"
        }
    );
    ExitCode::from(u8::from(!problems.is_empty()))
}

async fn soak(arguments: &Arguments) -> Vec<String> {
    let length = Duration::from_secs(arguments.seconds);
    let kept = length / 8;
    println!(
        "soak: {} s, {} a second, kept for {} s",
        arguments.seconds,
        arguments.rate,
        kept.as_secs()
    );
    // What the file of Redis weighs is not asked here; without a rewrite it holds all that ever was.
    let redis = TestRedis::start().await;
    let kept = format!("{}s", kept.as_secs());
    let settings = redis
        .replica()
        .workers(10)
        .quiet()
        .set("WAOOAW_RETENTION__AGE", &kept)
        .set("WAOOAW_RETENTION__DEAD_LETTERS", &kept)
        .set("WAOOAW_SHUTDOWN__GRACE", "3s");
    let mut replicas = settings.start_many(REPLICAS).await;

    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    let (mut samples, mut sent, mut replaced) = (Vec::new(), 0, 0);
    while began.elapsed() < length {
        ticks.tick().await;
        let due = u64::try_from(began.elapsed().as_millis()).unwrap_or_default() * arguments.rate / 1000;
        load::send(&redis, sent..due).await;
        sent = due.max(sent);
        if began.elapsed() >= length * (replaced + 1) / (REPLACEMENTS + 1) {
            replace(
                &mut replicas,
                usize::try_from(replaced).unwrap_or_default() % REPLICAS,
                &settings,
            )
            .await;
            replaced += 1;
        }
        if began.elapsed() >= length * u32::try_from(samples.len() + 1).unwrap_or(SAMPLES) / SAMPLES {
            let sample = Sample::take(&redis, &replicas).await;
            println!("{:6} s  {sent:6} sent  {sample}", began.elapsed().as_secs());
            samples.push(sample);
        }
    }

    let mut problems = grown(&samples);
    wait_within(QUIET, "everything has ended", async || {
        let statistics = redis.queue().await.get_statistics().await.unwrap();
        let open = statistics.pending_count + statistics.running_count;
        holds(open == 0, || format!("{open} are open"))
    })
    .await;
    let verdict = Cli::on(&redis, &["audit", "verify"]).run().await;
    if verdict.code != Some(0) {
        problems.push(format!("audit verify: {}{}", verdict.out, verdict.err));
    }
    problems
}

/// Stops a replica in good order and starts another in its place.
async fn replace(replicas: &mut [ReplicaProcess], place: usize, settings: &support::replica::Settings) {
    let next = settings.start().await;
    let mut before = std::mem::replace(&mut replicas[place], next);
    assert!(before.stop().await.success(), "{}", before.log());
}
