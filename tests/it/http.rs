//! What the HTTP side of a replica says of it.

use std::time::Duration;

use serde_json::json;

use crate::support::redis::{TestRedis, task_of};
use crate::support::{PATIENCE, holds, wait_for};

#[tokio::test]
async fn a_replica_that_works_is_healthy_and_ready() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;

    let (status, body) = replica.get("/healthz").await.unwrap();
    assert_eq!((status, body["status"].as_str()), (200, Some("ok")));
    let (status, body) = replica.get("/readyz").await.unwrap();
    assert_eq!((status, body["status"].as_str()), (200, Some("ready")));
    assert!(body["replica"].as_str().unwrap().starts_with("r-"));
    assert_eq!(replica.get("/nothing").await.unwrap().0, 404);
}

#[tokio::test]
async fn a_replica_that_drains_is_healthy_and_not_ready() {
    let redis = TestRedis::start().await;
    let mut replica = redis.replica().start().await;
    redis
        .trigger("e", &json!({ "task_name": "sleep", "kwargs": { "ms": 1500 } }))
        .await;
    redis.log().await.until_task(task_of("e"), "task.started").await;

    replica.signal("TERM");

    wait_for("it says that it drains", async || {
        let answer = replica.get("/readyz").await;
        holds(
            answer
                .as_ref()
                .is_some_and(|(status, body)| *status == 503 && body["status"] == "draining"),
            || format!("{answer:?}"),
        )
    })
    .await;
    assert_eq!(replica.get("/healthz").await.unwrap().0, 200);
    assert!(replica.ended().await.success());
}

#[tokio::test]
async fn a_replica_without_redis_is_healthy_and_joins_when_it_comes() {
    let redis = TestRedis::not_started(false);
    let replica = redis.replica().spawn();

    replica.until_readiness(503, PATIENCE).await;
    assert_eq!(replica.get("/readyz").await.unwrap().1["status"], "joining");
    assert_eq!(replica.get("/healthz").await.unwrap().0, 200);
    redis.start_again().await;
    replica.until_readiness(200, Duration::from_secs(15)).await;

    redis.trigger("e", &json!({ "task_name": "noop" })).await;
    redis.log().await.until_task(task_of("e"), "task.completed").await;
    crate::support::history::check_all_ended(&redis).await;
}
