//! Replicas inside the test's own process, with handlers of the test's own.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use waooaw_orchestration::runtime::replica::Readiness;
use waooaw_orchestration::{Replica, ReplicaHandle, ReplicaOptions, StoreError};

use super::redis::TestRedis;
use super::{holds, wait_for};

/// A replica that ends with its owner.
pub(crate) struct LocalReplica {
    handle: ReplicaHandle,
    stop: CancellationToken,
    running: JoinHandle<Result<(), StoreError>>,
}

impl LocalReplica {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(redis: &TestRedis, options: ReplicaOptions) -> Self {
        let stop = CancellationToken::new();
        let replica = Replica::new(redis.store(), redis.store(), options, stop.clone());
        let handle = replica.handle();
        let running = tokio::spawn(replica.run());
        wait_for("the replica is ready", async || {
            let readiness = handle.readiness();
            holds(readiness == Readiness::Ready, || format!("{readiness:?}"))
        })
        .await;
        Self { handle, stop, running }
    }

    /// The name under which it runs now.
    pub(crate) fn id(&self) -> String {
        self.handle.replica_id().expect("it has joined").to_string()
    }

    /// Lets it drain and leave.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}
