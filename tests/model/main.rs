//! Holds the functions in Redis to the model in `domain::model`.
//!
//! Random calls, many of them wrong on purpose, go to both; after each, answer, state and events are compared. The table of
//! states is walked whole, and last the functions are broken in many small ways to see that the comparison notices.
//!
//! `PROPTEST_CASES` sets the number of cases, `WAOOAW_TEST_SEED` the seed of a run that failed.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail where it stands; the lint only knows functions that are tests"
)]

mod agent_mutants;
mod inboxes;
mod mutants;
mod saga_mutants;
mod sagas;
mod server;
mod steps;
mod table;
mod world;

use std::sync::atomic::{AtomicU32, Ordering};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use server::Server;
use steps::{agent_steps, steps};
use world::World;

const CASES: u32 = 64;

#[test]
fn the_functions_do_what_the_model_does() {
    let cases = number_in("PROPTEST_CASES").map_or(CASES, |cases| u32::try_from(cases).unwrap());
    let seed = number_in("WAOOAW_TEST_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let runtime = runtime();
    let server = runtime.block_on(Server::start());
    let count = AtomicU32::new(0);

    let both = proptest::prop_oneof![steps(), agent_steps()];
    let outcome = runner(cases, seed).run(&both, |steps| {
        let prefix = format!("case{}", count.fetch_add(1, Ordering::Relaxed));
        let result = runtime.block_on(World::run(&server, &prefix, &steps));
        result.map_err(TestCaseError::fail)
    });

    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, steps)) => {
            panic!("WAOOAW_TEST_SEED={seed}: {reason}\nthe shortest list of steps that shows it: {steps:#?}")
        }
        Err(TestError::Abort(reason)) => panic!("WAOOAW_TEST_SEED={seed}: {reason}"),
    }
}

/// Draws cases from a seed.
fn runner(cases: u32, seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 1000,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn number_in(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
    )
}
