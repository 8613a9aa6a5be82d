//! Looks at the server before a replica begins: what would lose tasks stops the start or is said aloud.
//!
//! Only at the start. A server that becomes read-only later has failed over, and that is an outage, to be waited out.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backoff::Waits;
use crate::store::health::Persistence;
use crate::store::{Store, StoreError};

/// Waits until the server tells about itself; `false` when stopped before that.
///
/// # Errors
///
/// [`StoreError::Unfit`] for a server that must not be used.
pub(super) async fn refuse_unfit(
    store: &Store,
    allow_no_persistence: bool,
    stop: &CancellationToken,
) -> Result<bool, StoreError> {
    let mut waits = Waits::new();
    let mut told = None::<Instant>;
    let health = loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return Ok(false),
            asked = store.health() => asked,
        };
        match asked {
            Ok(health) => break health,
            Err(problem) if problem.is_retryable() => {
                if told.is_none_or(|told| told.elapsed() > Duration::from_secs(5)) {
                    let cause = std::error::Error::source(&problem).map(ToString::to_string);
                    warn!(problem = %problem, cause, "can not join; trying again");
                    told = Some(Instant::now());
                }
                if !waits.pause(stop).await {
                    return Ok(false);
                }
            }
            // Joining says it better.
            Err(_) => return Ok(true),
        }
    };
    if let Some(unfit) = health.unfit() {
        return Err(unfit.into());
    }
    match health.persistence {
        Persistence::Nothing if allow_no_persistence => {
            info!("redis keeps nothing on disk; redis.allow_no_persistence allows it");
        }
        Persistence::Nothing => warn!(
            "REDIS KEEPS NOTHING ON DISK: a restart of it loses every task, the log and the dead letters. \
             Mend it with `redis-cli CONFIG SET appendonly yes` and in its configuration file, or say that it is meant \
             with redis.allow_no_persistence = true"
        ),
        Persistence::Unknown => info!("can not look whether redis keeps data on disk: CONFIG GET is not allowed"),
        Persistence::AppendOnly | Persistence::Snapshots => {}
    }
    if let Some(problem) = health.failed_save() {
        warn!(problem, "redis can not keep its data on disk right now");
    }
    let (used, limit) = health.memory();
    if limit > 0 && used.saturating_mul(100) >= limit.saturating_mul(85) {
        warn!(used, limit, "redis is short of memory");
    }
    Ok(true)
}
