//! Breaks a running system in many ways at once, and then looks whether anything was lost or went wrong.
//!
//! Each seed starts a Redis, three replicas and a network between them of its own, asks for tasks of all kinds, and
//! breaks things by a plan that depends on the seed alone. Then everything is mended; when it is quiet, the log is held
//! against itself, against what is stored, and against the record of what was asked for. A fault that was planned and
//! never happened fails the run too. The plan of a seed is always the same; how its steps meet the work is not.
//!
//! `make chaos` runs many seeds. Without arguments, as in `make test`, three short ones are run.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "it is a test with an output of its own; what fails fails its seed"
)]

#[path = "../it/support/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "what the integration tests stand on; not all of it is needed here"
)]
mod support;

mod agent;
mod answers;
mod chance;
mod groups;
mod journal;
mod load;
mod plan;
mod rig;
mod seed;
mod storm;
mod verdict;

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plan::Fault;
use seed::Outcome;

/// How many seeds must show everything that agents can meet with.
const MANY: usize = 10;

/// What to run.
struct Arguments {
    seeds: VecDeque<u64>,
    seconds: u64,
    jobs: usize,
}

impl Arguments {
    /// `None` when this test is not asked for.
    fn read() -> Result<Option<Self>, String> {
        let mut arguments = Self {
            seeds: (1..=3).collect(),
            seconds: 8,
            jobs: 3,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            let mut value = || value.clone().or_else(|| words.next()).unwrap_or_default();
            let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{name} {text}: {error}"));
            match name.as_str() {
                "--seeds" => arguments.seeds = seeds(&value())?,
                "--seconds" => arguments.seconds = number(&value())?.max(1),
                "--jobs" => arguments.jobs = usize::try_from(number(&value())?).unwrap_or(1).max(1),
                // What test runners ask of all test binaries.
                "--list" => return Ok(None),
                "--help" => return Err("chaos [--seeds 1..100 | 17 | 3,5,8] [--seconds 15] [--jobs 2]".to_owned()),
                flag if flag.starts_with("--") => {}
                filter if "chaos".contains(filter) => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(arguments))
    }
}

/// `17`, `3,5,8` or `1..100`, both ends included.
fn seeds(text: &str) -> Result<VecDeque<u64>, String> {
    let number = |text: &str| {
        text.trim()
            .parse::<u64>()
            .map_err(|error| format!("--seeds {text}: {error}"))
    };
    if let Some((first, last)) = text.split_once("..") {
        return Ok((number(first)?..=number(last.trim_start_matches('='))?).collect());
    }
    text.split(',').map(number).collect()
}

fn main() -> ExitCode {
    let arguments = match Arguments::read() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    seed::catch_panics();
    let is_interrupted = Arc::new(AtomicBool::new(false));
    listen_for_signals(Arc::clone(&is_interrupted));
    let began = Instant::now();
    let count = arguments.seeds.len();
    let seconds = arguments.seconds;
    println!(
        "chaos: {count} seeds of {seconds} s, {} at a time",
        arguments.jobs.min(count)
    );
    let waiting = Arc::new(Mutex::new(arguments.seeds));
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let workers: Vec<_> = (0..arguments.jobs.min(count))
        .map(|_| {
            let (waiting, outcomes) = (Arc::clone(&waiting), Arc::clone(&outcomes));
            let is_interrupted = Arc::clone(&is_interrupted);
            std::thread::spawn(move || {
                while let Some(seed) = next(&waiting, &is_interrupted) {
                    let outcome = seed::run(seed, Duration::from_secs(seconds), &is_interrupted);
                    println!("{outcome}");
                    outcomes.lock().unwrap().push(outcome);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap_or_default();
    }
    let outcomes = std::mem::take(&mut *outcomes.lock().unwrap());
    if is_interrupted.load(Ordering::Acquire) {
        println!("interrupted");
        return ExitCode::from(130);
    }
    summarize(&outcomes, seconds, began.elapsed())
}

fn next(waiting: &Mutex<VecDeque<u64>>, is_interrupted: &AtomicBool) -> Option<u64> {
    if is_interrupted.load(Ordering::Acquire) {
        return None;
    }
    waiting.lock().unwrap().pop_front()
}

/// A signal ends the seeds, and with them all processes that they started.
fn listen_for_signals(is_interrupted: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminate = signal(SignalKind::terminate()).unwrap();
            let mut interrupt = signal(SignalKind::interrupt()).unwrap();
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            is_interrupted.store(true, Ordering::Release);
        });
    });
}

fn summarize(outcomes: &[Outcome], seconds: u64, took: Duration) -> ExitCode {
    let mut fired: BTreeMap<Fault, u32> = BTreeMap::new();
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for outcome in outcomes {
        for (fault, times) in &outcome.fired {
            *fired.entry(*fault).or_default() += times;
        }
        for (what, times) in &outcome.seen {
            *seen.entry(what).or_default() += times;
        }
    }
    let list = |pairs: Vec<String>| pairs.join(", ");
    println!(
        "faults: {}",
        list(fired.iter().map(|(fault, times)| format!("{fault} {times}")).collect())
    );
    println!(
        "effects: {}",
        list(seen.iter().map(|(what, times)| format!("{what} {times}")).collect())
    );
    let can_jump = support::clock::Clock::new().is_some();
    if !can_jump {
        println!("the clock of Redis can not be made to jump here (it takes Linux and a C compiler)");
    }
    let in_vain: Vec<String> = fired
        .iter()
        .filter(|(fault, times)| **times == 0 && (can_jump || **fault != Fault::JumpClock))
        .map(|(fault, _)| fault.to_string())
        .collect();
    // A few short seeds may miss what comes by chance.
    let unseen: Vec<&str> = answers::EFFECTS
        .into_iter()
        .filter(|what| outcomes.len() >= MANY && seen.get(what).is_none_or(|times| *times == 0))
        .collect();
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.is_good()).collect();
    let tasks: usize = outcomes.iter().map(|outcome| outcome.tasks).sum();
    println!(
        "{} of {} seeds good, {tasks} tasks, {:.0} s",
        outcomes.len() - failed.len(),
        outcomes.len(),
        took.as_secs_f64()
    );
    if !in_vain.is_empty() {
        println!("planned and never happened: {}", in_vain.join(", "));
    }
    if !unseen.is_empty() {
        println!("never came about: {}", unseen.join(", "));
    }
    for outcome in &failed {
        println!("repeat with: make chaos SEEDS={} SECONDS={seconds}", outcome.seed);
    }
    if failed.is_empty() && in_vain.is_empty() && unseen.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
