//! What replicas share, and what outsiders do to the Redis that they share.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::history::check_all_ended;
use crate::support::redis::{TestRedis, task_of};

#[tokio::test]
async fn a_replica_that_joins_takes_its_share() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(2).set("TASK_QUEUE_MAX_SIZE", "0");
    let first = settings.start().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 50 } });
    redis
        .trigger_all((0..120).map(|number| (format!("e-{number}"), sleep.clone())))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 10).await;

    let second = settings.start().await;
    log.until_count("task.completed", 120).await;

    let (first, second) = (first.id().await, second.id().await);
    let by_second: Vec<_> = log
        .all("task.completed")
        .into_iter()
        .filter(|event| event.replica() == second)
        .collect();
    assert!(by_second.len() > 20, "{} of 120", by_second.len());
    let joined = log
        .events
        .iter()
        .find(|event| event.kind == "worker_pool.status" && event.subject == second)
        .unwrap();
    let waited = by_second[0].time_ms("completed_at") - crate::support::log::time_ms(&joined.fields["timestamp"]);
    assert!(waited < 2000, "its first task ended after {waited} ms");
    let replicas: BTreeSet<&str> = log.all("task.started").iter().map(|event| event.replica()).collect();
    assert_eq!(replicas, BTreeSet::from([first.as_str(), second.as_str()]));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_replica_says_when_it_comes_and_goes() {
    let redis = TestRedis::start().await;
    let mut replica = redis.replica().workers(3).start().await;
    let id = replica.id().await;
    assert!(replica.stop().await.success());

    let log = redis.log().await;
    let states: Vec<(&str, u64)> = log
        .of(&id)
        .iter()
        .map(|event| (event.text("state"), event.payload["workers"].as_u64().unwrap()))
        .collect();
    assert_eq!(states, [("joined", 3), ("draining", 3), ("left", 0)]);
    for event in log.of(&id) {
        assert_eq!(
            (event.kind.as_str(), event.text("replica")),
            ("worker_pool.status", id.as_str())
        );
        assert_eq!(event.causation_id, event.event_id);
    }
}

#[tokio::test]
async fn losing_the_functions_and_scripts_stops_nothing() {
    let redis = TestRedis::start().await;
    let _replicas = redis.replica().start_many(2).await;
    redis.trigger("before", &json!({ "task_name": "noop" })).await;
    let mut log = redis.log().await;
    log.until_task(task_of("before"), "task.completed").await;
    redis
        .trigger("across", &json!({ "task_name": "sleep", "kwargs": { "ms": 500 } }))
        .await;
    log.until_task(task_of("across"), "task.started").await;

    redis.ask::<()>(&["FUNCTION", "FLUSH"]).await;
    redis.ask::<()>(&["SCRIPT", "FLUSH"]).await;
    redis.trigger("after", &json!({ "task_name": "noop" })).await;

    log.until_task(task_of("after"), "task.completed").await;
    log.until_task(task_of("across"), "task.completed").await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn after_all_keys_were_removed_new_work_is_done() {
    let redis = TestRedis::start().await;
    let mut replicas = redis.replica().start_many(2).await;
    redis
        .trigger("lost", &json!({ "task_name": "sleep", "kwargs": { "ms": 60_000 } }))
        .await;
    redis.log().await.until_task(task_of("lost"), "task.started").await;
    let before = [replicas[0].id().await, replicas[1].id().await];

    redis.ask::<()>(&["FLUSHALL"]).await;

    for (replica, before) in replicas.iter().zip(&before) {
        crate::support::wait_for("the replica has joined anew", async || {
            let answer = replica.get("/readyz").await;
            let is_new = answer
                .as_ref()
                .is_some_and(|(status, body)| *status == 200 && body["replica"] != json!(before));
            crate::support::holds(is_new, || format!("{answer:?}"))
        })
        .await;
    }
    redis
        .trigger_all((0..50).map(|number| (format!("e-{number}"), json!({ "task_name": "noop" }))))
        .await;
    redis.log().await.until_count("task.completed", 50).await;
    check_all_ended(&redis).await;
    for replica in &mut replicas {
        assert!(replica.is_alive());
    }
}
