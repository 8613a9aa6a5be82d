//! What happens while Redis is away, and after.

use std::time::Duration;

use serde_json::json;

use crate::support::history::check_all_ended;
use crate::support::redis::{TestRedis, trigger_fields};
use crate::support::{holds, wait_for};

/// Publishes `count` triggers at a steady pace, each again and again until Redis has taken it.
async fn publish_through(redis: &TestRedis, count: usize, ms: u64) {
    for number in 0..count {
        let payload = json!({ "task_name": "sleep", "kwargs": { "ms": ms } }).to_string();
        let event_id = format!("e-{number}");
        let mut command = redis::cmd("XADD");
        command.arg("waooaw:triggers").arg("*");
        for (name, value) in trigger_fields(&event_id, &payload) {
            command.arg(name).arg(value);
        }
        while redis.try_send::<String>(&command).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_redis_under_load_everything_accepted_is_done() {
    const COUNT: usize = 600;
    let redis = TestRedis::start_durable().await;
    let settings = redis.replica().workers(4).set("TASK_QUEUE_MAX_SIZE", "0");
    let mut replicas = settings.start_many(3).await;
    // They run when Redis goes and end while it is away.
    redis
        .trigger_all((0..6).map(|number| {
            let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 3000 }, "priority": "HIGH" });
            (format!("across {number}"), sleep)
        }))
        .await;
    redis.log().await.until_count("task.started", 6).await;

    let outage = async {
        redis.log().await.until_count("task.completed", 50).await;
        redis.stop().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        redis.start_again().await;
    };
    tokio::join!(publish_through(&redis, COUNT, 10), outage);
    let mut log = redis.log().await;
    wait_for("everything is done", async || {
        log.refresh().await;
        holds(log.count("task.completed") >= COUNT + 6, || log.summary())
    })
    .await;

    check_all_ended(&redis).await;
    for kind in [
        "task.retry_scheduled",
        "task.failed",
        "task.cancelled",
        "trigger.rejected",
    ] {
        assert_eq!(log.count(kind), 0, "{}", log.summary());
    }
    assert_eq!(log.count("task.created"), COUNT + 6);
    assert!(
        !log.all("worker_pool.status")
            .iter()
            .any(|event| event.text("state") == "lost")
    );
    for replica in &mut replicas {
        assert!(replica.is_alive());
        replica.until_readiness(200, Duration::from_secs(15)).await;
    }
}

#[tokio::test]
async fn a_replica_that_does_not_get_through_to_redis_is_not_ready_until_it_does() {
    let redis = TestRedis::start_durable().await;
    let replicas = redis.replica().start_many(2).await;

    redis.stop().await;
    for replica in &replicas {
        replica.until_readiness(503, Duration::from_secs(15)).await;
        assert_eq!(replica.get("/healthz").await.unwrap().0, 200);
    }
    redis.start_again().await;
    for replica in &replicas {
        replica.until_readiness(200, Duration::from_secs(15)).await;
    }

    redis
        .trigger_all((0..20).map(|number| (format!("e-{number}"), json!({ "task_name": "noop" }))))
        .await;
    redis.log().await.until_count("task.completed", 20).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn the_library_says_that_redis_is_away_and_works_again_by_itself() {
    let redis = TestRedis::start_durable().await;
    let queue = redis.queue().await;
    let task = || waooaw_orchestration::Task::new("work");
    queue.enqueue(task()).await.unwrap();

    redis.stop().await;
    let refused = queue.enqueue(task()).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.is_retryable()),
        ("RedisUnavailable", true),
        "{refused:?}"
    );
    redis.start_again().await;

    wait_for("the queue works again", async || {
        let outcome = queue.enqueue(task().event_id("again")).await;
        holds(outcome.is_ok(), || format!("{outcome:?}"))
    })
    .await;
    assert_eq!(queue.get_statistics().await.unwrap().pending_count, 2);
}
