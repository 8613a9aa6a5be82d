//! How a replica ends when it is asked to.

use serde_json::json;

use crate::support::history::{check, check_all_ended};
use crate::support::log::Log;
use crate::support::redis::{TestRedis, task_of};
use crate::support::{holds, wait_for};

/// Nothing on any stream belongs to the consumer any more.
async fn assert_gone(redis: &TestRedis, id: &str) {
    let mut streams: Vec<(String, &str)> = redis
        .task_streams()
        .await
        .into_iter()
        .map(|stream| (stream, "workers"))
        .collect();
    for stream in ["waooaw:triggers", "waooaw:commands"] {
        streams.push((stream.to_owned(), "orchestrators"));
    }
    for (stream, group) in streams {
        let consumers = redis.consumers(&stream, group).await;
        assert!(!consumers.iter().any(|name| name == id), "{stream}: {consumers:?}");
    }
    for key in ["beats"] {
        let known: bool = redis.ask(&["HEXISTS", &format!("waooaw:{{0}}:{key}"), id]).await;
        assert!(!known, "{key}");
    }
}

#[tokio::test]
async fn running_tasks_finish_and_waiting_ones_stay_when_a_replica_is_asked_to_stop() {
    let redis = TestRedis::start().await;
    let mut replica = redis.replica().workers(4).start().await;
    let id = replica.id().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 1000 } });
    redis
        .trigger_all((0..6).map(|number| (format!("e-{number}"), sleep.clone())))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.created", 6).await;
    log.until_count("task.started", 4).await;

    assert_eq!(replica.stop().await.code(), Some(0));

    log.refresh().await;
    assert_eq!((log.count("task.started"), log.count("task.completed")), (4, 4));
    assert_eq!(log.count("task.released"), 0);
    assert_gone(&redis, &id).await;
    check(&redis).await;
    let _next = redis.replica().start().await;
    log.until_count("task.completed", 6).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_does_not_finish_within_the_grace_is_handed_back_at_no_cost() {
    let redis = TestRedis::start().await;
    let mut first = redis
        .replica()
        .workers(2)
        .set("WAOOAW_SHUTDOWN__GRACE", "1s")
        .start()
        .await;
    let id = first.id().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 3000 }, "max_retries": 0 });
    redis
        .trigger_all((0..2).map(|number| (format!("e-{number}"), sleep.clone())))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.started", 2).await;

    assert_eq!(first.stop().await.code(), Some(0));
    let second = redis.replica().start().await;
    log.until_count("task.completed", 2).await;

    for number in 0..2 {
        let task = task_of(&format!("e-{number}"));
        assert_eq!(log.life(task).join(" "), "created started released started completed");
        let document = redis.queue().await.get_task(task).await.unwrap();
        assert_eq!((document.attempt, document.retry_count), (2, 0));
    }
    for event in log.all("task.released") {
        assert_eq!(event.text("reason"), "shutdown");
    }
    for event in log.all("task.completed") {
        assert_eq!(event.replica(), second.id().await);
    }
    assert_gone(&redis, &id).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_replica_that_waits_for_room_stops_at_once_and_leaves_its_triggers_to_others() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(1).set("TASK_QUEUE_MAX_SIZE", "1");
    let mut replica = settings.start().await;
    let id = replica.id().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 1000 } });
    redis
        .trigger_all((0..4).map(|number| (format!("e-{number}"), sleep.clone())))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.started", 1).await;

    assert_eq!(replica.stop().await.code(), Some(0));
    assert_gone(&redis, &id).await;
    assert_eq!(redis.pending("waooaw:triggers", "orchestrators").await, 0);
    let _next = settings.start().await;
    log.until_count("task.completed", 4).await;

    check_all_ended(&redis).await;
}

/// The triggers in the order in which they became tasks.
fn admitted(log: &Log<'_>) -> Vec<String> {
    let created = log.all("task.created");
    created
        .iter()
        .map(|event| event.text("trigger_event_id").to_owned())
        .collect()
}

#[tokio::test]
async fn triggers_that_were_read_ahead_come_again_in_their_order_when_their_reader_leaves() {
    const COUNT: usize = 600;
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(1).set("TASK_QUEUE_MAX_SIZE", "1");
    let mut first = settings.start().await;
    let id = first.id().await;
    let mut second = settings.start().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 2000 } });
    redis.trigger("e-0", &sleep).await;
    let mut log = redis.log().await;
    log.until_count("task.started", 1).await;
    let names: Vec<String> = (0..COUNT).map(|number| format!("e-{number}")).collect();
    let short = |name: &String| (name.clone(), json!({ "task_name": "sleep", "kwargs": { "ms": 5 } }));
    redis.trigger_all(names[1..].iter().map(short)).await;
    wait_for("both have read ahead", async || {
        let consumers = redis.consumers("waooaw:triggers", "orchestrators").await;
        let pending = redis.pending("waooaw:triggers", "orchestrators").await;
        holds(consumers.len() == 2 && pending > 300, || {
            format!("{consumers:?} {pending}")
        })
    })
    .await;

    assert_eq!(first.stop().await.code(), Some(0));
    assert_gone(&redis, &id).await;
    log.until_count("task.completed", COUNT / 2).await;
    let _third = settings.start().await;
    assert_eq!(second.stop().await.code(), Some(0));
    log.until_count("task.completed", COUNT).await;

    let admitted = admitted(&log);
    let strays: Vec<_> = admitted
        .iter()
        .zip(&names)
        .enumerate()
        .filter(|(_, (one, other))| one != other)
        .collect();
    assert!(
        strays.is_empty(),
        "{} not in their place, first {:?}",
        strays.len(),
        &strays[..strays.len().min(8)]
    );
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn rolling_replicas_over_under_load_loses_nothing_and_uses_no_retry() {
    const COUNT: usize = 400;
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(4).set("TASK_QUEUE_MAX_SIZE", "0");
    let mut replicas = settings.start_many(2).await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 30 } });
    redis
        .trigger_all((0..COUNT).map(|number| (format!("e-{number}"), sleep.clone())))
        .await;

    for _ in 0..2 {
        for replica in &mut replicas {
            let next = settings.start().await;
            let mut before = std::mem::replace(replica, next);
            assert_eq!(before.stop().await.code(), Some(0));
        }
    }
    let mut log = redis.log().await;
    log.until_count("task.completed", COUNT).await;

    check_all_ended(&redis).await;
    assert_eq!(log.count("task.started"), COUNT);
    assert_eq!(log.count("task.retry_scheduled") + log.count("task.released"), 0);
}
