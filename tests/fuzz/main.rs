//! The fuzz targets without a fuzzer: every seed, and some thousand mutations of the seeds, the same ones each time.
//!
//! `make fuzz` runs the same targets under libFuzzer, which finds its way by coverage. This is the short form: it shows
//! that the targets work, that no seed has come to fail, and catches what lies near the surface. `WAOOAW_TEST_SEED`
//! chooses other mutations.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail where it stands; the lint only knows functions that are tests"
)]

mod mutate;
mod targets;

use std::path::Path;

use mutate::Mutator;

/// How many mutated inputs each target gets.
const RUNS: usize = 20_000;
/// Chosen once.
const SEED: u64 = 0x5eed;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let Ok(entries) = std::fs::read_dir(&folder) else {
        // The published package has no seeds.
        return Vec::new();
    };
    let mut seeds: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

fn run(name: &str, target: fn(&[u8]), runs: usize) {
    let seeds = corpus(name);
    for (file, seed) in &seeds {
        assert!(holds(target, seed), "the seed {name}/{file} fails");
    }
    let number = std::env::var("WAOOAW_TEST_SEED").map_or(SEED, |text| text.parse().unwrap());
    let mut mutator = Mutator::new(number, seeds.into_iter().map(|(_, seed)| seed).collect());
    for run in 0..runs {
        let input = mutator.next_input();
        assert!(
            holds(target, &input),
            "WAOOAW_TEST_SEED={number}, input {run} of {name}: {}",
            input.escape_ascii()
        );
    }
}

fn holds(target: fn(&[u8]), input: &[u8]) -> bool {
    std::panic::catch_unwind(|| target(input)).is_ok()
}

#[test]
fn no_entry_of_a_stream_breaks_the_decoder() {
    run("envelope", targets::envelope, RUNS);
}

#[test]
fn no_payload_breaks_the_reading_of_triggers() {
    run("trigger", targets::trigger, RUNS);
}

#[test]
fn no_file_breaks_the_configuration() {
    run("config", targets::config, RUNS / 8);
}
