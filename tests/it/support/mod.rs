//! What the tests stand on: servers, the way to them, replicas, other processes, and the log read back.

pub(crate) mod agent;
pub(crate) mod child;
pub(crate) mod cli;
pub(crate) mod clock;
pub(crate) mod history;
pub(crate) mod http;
pub(crate) mod local;
pub(crate) mod log;
pub(crate) mod oracle;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod replica;
pub(crate) mod resp;
pub(crate) mod saga;
pub(crate) mod scene;
pub(crate) mod schema;
pub(crate) mod script;
pub(crate) mod service;
pub(crate) mod workflow;

use std::time::{Duration, Instant};

/// The variable that names the file in which a process writes down which lines of it ran, when that is measured.
pub(crate) const COVERAGE: &str = "LLVM_PROFILE_FILE";

/// How long anything may take; far more than it needs, for machines that are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` answers `Ok`; what it answered last is told on failure.
pub(crate) async fn wait_for<T>(what: &str, condition: impl AsyncFnMut() -> Result<T, String>) -> T {
    wait_within(PATIENCE, what, condition).await
}

/// The same with a limit of its own.
pub(crate) async fn wait_within<T>(
    limit: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let began = Instant::now();
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(state) if began.elapsed() > limit => panic!("not within {limit:?}: {what}; at last: {state}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(15)).await,
        }
    }
}

/// `Ok` when it holds, else the state as text; for [`wait_for`].
pub(crate) fn holds(is_so: bool, state: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(state()) }
}
