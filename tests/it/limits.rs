//! How much may run and wait at once.

use std::time::{Duration, Instant};

use serde_json::json;
use waooaw_orchestration::{Error, Task, TaskQueue, TaskQueueOptions};

use crate::support::history::{check, check_all_ended};
use crate::support::redis::TestRedis;
use crate::support::{holds, wait_for};

fn sleeper(ms: u64) -> serde_json::Value {
    json!({ "task_name": "sleep", "kwargs": { "ms": ms } })
}

#[tokio::test]
async fn twenty_tasks_on_ten_workers_are_exactly_ten_running() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().workers(10).start().await;

    redis
        .trigger_all((0..20).map(|number| (format!("e-{number}"), sleeper(1500))))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.created", 20).await;
    log.until_count("task.started", 10).await;

    let statistics = redis.queue().await.get_statistics().await.unwrap();
    assert_eq!((statistics.running_count, statistics.pending_count), (10, 10));
    assert_eq!(statistics.worker_pool.active_workers, 10);
    assert_eq!(statistics.worker_pool.idle_workers, 0);
    log.until_count("task.completed", 20).await;
    assert_eq!(log.running().into_iter().max(), Some(10));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn max_running_holds_over_all_replicas_and_can_be_raised() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(5).set("TASK_QUEUE_MAX_RUNNING", "2");
    let _replicas = settings.start_many(2).await;

    redis
        .trigger_all((0..8).map(|number| (format!("short {number}"), sleeper(200))))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 8).await;
    assert_eq!(log.running().into_iter().max(), Some(2));
    assert_eq!(redis.queue().await.get_statistics().await.unwrap().max_running, 2);

    redis
        .trigger_all((0..8).map(|number| (format!("long {number}"), sleeper(4000))))
        .await;
    log.until_count("task.created", 16).await;
    log.until_count("task.started", 10).await;
    let asked = Instant::now();
    redis.queue().await.set_max_running(6).await.unwrap();
    log.until_count("task.started", 14).await;
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());

    log.until_count("task.completed", 16).await;
    assert_eq!(log.running().into_iter().max(), Some(6));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn triggers_beyond_max_size_wait_in_their_stream_in_order() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(1).set("TASK_QUEUE_MAX_SIZE", "5");
    let _replica = settings.start().await;
    let names: Vec<String> = (0..25).map(|number| format!("e-{number}")).collect();

    redis
        .trigger_all(names.iter().map(|name| (name.clone(), sleeper(60))))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.created", 5).await;
    let queue = redis.queue().await;
    let waiting: usize = redis.ask(&["XLEN", "waooaw:triggers"]).await;
    assert!(waiting > 0);
    log.until_count("task.completed", 25).await;

    let mut open = 0_i32;
    for event in &log.events {
        open += i32::from(event.kind == "task.created") - i32::from(event.is_terminal());
        assert!(open <= 5, "{open} at {event:?}");
    }
    assert_eq!(log.started(), names);
    assert_eq!(queue.get_statistics().await.unwrap().max_size, 5);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_full_queue_tells_the_library_and_room_lets_it_in_again() {
    let redis = TestRedis::start().await;
    let mut options = TaskQueueOptions::new(&redis.url());
    options.max_size = Some(2);
    let queue = TaskQueue::connect(options).await.unwrap();
    let first = queue.enqueue(Task::new("work").event_id("first")).await.unwrap();
    queue.enqueue(Task::new("work")).await.unwrap();

    let refused = queue.enqueue(Task::new("work")).await.unwrap_err();
    assert!(matches!(refused, Error::TaskQueueFull { max_size: 2 }), "{refused:?}");
    assert!(refused.to_string().contains("at capacity"));
    assert_eq!(queue.get_statistics().await.unwrap().total_count, 2);
    // What is in already is no news, full or not.
    assert_eq!(queue.enqueue(Task::new("work").event_id("first")).await.unwrap(), first);

    assert!(queue.cancel_task(first).await.unwrap());
    queue.enqueue(Task::new("work")).await.unwrap();
    check(&redis).await;
}

#[tokio::test]
async fn a_retry_is_admitted_to_a_full_queue() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(2).set("TASK_QUEUE_MAX_SIZE", "2");
    let _replica = settings.start().await;

    let flaky = json!({ "task_name": "flaky", "kwargs": { "fail_times": 2 }, "retry": "QUICK" });
    redis
        .trigger_all((0..6).map(|number| (format!("e-{number}"), flaky.clone())))
        .await;

    wait_for("all are completed", async || {
        let completed = redis.queue().await.get_statistics().await.unwrap().completed_count;
        holds(completed == 6, || format!("{completed} are"))
    })
    .await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn triggers_beyond_max_size_wait_in_order_over_two_replicas_too() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(2).set("TASK_QUEUE_MAX_SIZE", "5");
    let _replicas = settings.start_many(2).await;
    redis
        .trigger_all((0..1500).map(|number| (format!("{number}"), json!({ "task_name": "noop" }))))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 1500).await;

    let mut highest = 0;
    let mut worst = 0;
    for event in log.all("task.created") {
        let number: usize = event.text("trigger_event_id").parse().unwrap();
        highest = highest.max(number);
        worst = worst.max(highest - number);
    }
    assert!(worst <= 5, "one was admitted {worst} places after its turn");
    check_all_ended(&redis).await;
}
