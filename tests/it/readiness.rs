//! Readiness means that triggers and tasks are really consumed.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::history::check_all_ended;
use crate::support::redis::{TestRedis, task_of};
use crate::support::replica::ReplicaProcess;
use crate::support::{PATIENCE, wait_within};

/// What operators are promised.
const PROMISE: Duration = Duration::from_secs(5);

/// Waits until readiness is answered with `status`; answers how long that took, and what it said.
async fn until(replica: &ReplicaProcess, status: u16) -> (Duration, serde_json::Value) {
    let began = Instant::now();
    let body = wait_within(PATIENCE, &format!("readiness {status}"), async || {
        match replica.get("/readyz").await {
            Some((found, body)) if found == status => Ok(body),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    (began.elapsed(), body)
}

#[tokio::test]
async fn a_frozen_redis_is_noticed_within_five_seconds_and_so_is_its_return() {
    let redis = TestRedis::start().await;
    let replicas = redis.replica().start_many(2).await;

    // More than once: where in its rounds a replica is met is chance.
    for frozen_for in [0, 3, 7] {
        redis.signal("STOP");
        for replica in &replicas {
            let began = Instant::now();
            let (_, body) = until(replica, 503).await;
            assert!(began.elapsed() < PROMISE, "{:?} {body}", began.elapsed());
            assert_eq!(body["status"], "deaf");
        }
        tokio::time::sleep(Duration::from_secs(frozen_for)).await;
        redis.signal("CONT");
        let began = Instant::now();
        for replica in &replicas {
            let (_, body) = until(replica, 200).await;
            assert!(began.elapsed() < PROMISE, "{:?} {body}", began.elapsed());
        }
    }

    redis.trigger("after", &json!({ "task_name": "noop" })).await;
    redis.log().await.until_task(task_of("after"), "task.completed").await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_is_noticed() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;

    redis
        .ask::<String>(&["CONFIG", "SET", "min-replicas-to-write", "1"])
        .await;
    let (took, body) = until(&replica, 503).await;
    assert!(took < PROMISE, "{took:?} {body}");
    assert!(
        body["not_progressing"].as_array().unwrap().contains(&json!("beat")),
        "{body}"
    );
    redis
        .ask::<String>(&["CONFIG", "SET", "min-replicas-to-write", "0"])
        .await;
    let (took, body) = until(&replica, 200).await;
    assert!(took < PROMISE, "{took:?} {body}");

    check_all_ended(&redis).await;
}

/// Programs that keep all cores busy, until it is dropped.
struct Load(Vec<Child>);

impl Load {
    fn start() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let burn = |_| {
            Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .stdin(Stdio::null())
                .spawn()
                .unwrap()
        };
        Self((0..cores * 3).map(burn).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().unwrap_or_default();
            child.wait().map(drop).unwrap_or_default();
        }
    }
}

#[tokio::test]
async fn an_idle_replica_on_a_busy_machine_stays_ready() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;

    let load = Load::start();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(8) {
        let answer = replica.get("/readyz").await;
        assert!(answer.as_ref().is_none_or(|(status, _)| *status == 200), "{answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(load);

    check_all_ended(&redis).await;
}
