//! The profiles that are shipped, each under the load that it is for.

use serde_json::json;
use waooaw_orchestration::{Error, Task};

use crate::support::history::{check, check_all_ended};
use crate::support::redis::TestRedis;

#[tokio::test]
async fn the_profile_for_high_throughput_takes_in_more_than_the_default_and_drains_it() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().profile("high-throughput");
    let _replicas = settings.start_many(2).await;
    let statistics = redis.queue().await.get_statistics().await.unwrap();
    assert_eq!((statistics.max_size, statistics.max_running), (10_000, 100));

    let operator = waooaw_orchestration::Operator::new("tester", None);
    let store = redis.store();
    waooaw_orchestration::runtime::operate::pause_queue(&store, &operator, "default")
        .await
        .unwrap();
    redis
        .trigger_all((0..3000).map(|number| (format!("e-{number}"), json!({ "task_name": "noop" }))))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.created", 3000).await;
    assert_eq!(redis.queue().await.get_statistics().await.unwrap().pending_count, 3000);
    waooaw_orchestration::runtime::operate::resume_queue(&store, &operator, "default")
        .await
        .unwrap();

    log.until_count("task.completed", 3000).await;
    assert!(log.running().into_iter().max() <= Some(100));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn the_profile_for_low_latency_refuses_early_and_bounds_what_runs() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().profile("low-latency");
    let _replicas = settings.start_many(3).await;
    let queue = redis.queue().await;
    for number in 0..100 {
        let task = Task::new("sleep").kwargs(json!({ "ms": 3000 }));
        queue.enqueue(task.event_id(&format!("e-{number}"))).await.unwrap();
    }

    let refused = queue.enqueue(Task::new("noop")).await.unwrap_err();

    assert!(matches!(refused, Error::TaskQueueFull { max_size: 100 }), "{refused:?}");
    let mut log = redis.log().await;
    log.until_count("task.started", 20).await;
    assert_eq!(queue.get_statistics().await.unwrap().running_count, 20);
    for task in log.all("task.created") {
        queue.cancel_task(task.subject.parse().unwrap()).await.unwrap();
    }
    assert_eq!(log.running().into_iter().max(), Some(20));
    check(&redis).await;
}

#[tokio::test]
async fn the_profile_for_waiting_tasks_runs_fifty_on_one_replica() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().profile("io-bound").start().await;

    redis
        .trigger_all((0..60).map(|number| {
            let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 1500 } });
            (format!("e-{number}"), sleep)
        }))
        .await;

    let mut log = redis.log().await;
    log.until_count("task.completed", 60).await;
    assert_eq!(log.running().into_iter().max(), Some(50));
    check_all_ended(&redis).await;
}
