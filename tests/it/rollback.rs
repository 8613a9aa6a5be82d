//! A Redis that lost its last moments, or everything.

use std::time::Duration;

use serde_json::json;
use waooaw_orchestration::domain::id::Partition;

use crate::support::history::{check, check_all_ended};
use crate::support::redis::{TestRedis, task_of};

/// Long enough for every replica to have seen the newest event.
const SEEN: Duration = Duration::from_millis(1500);

/// Whether one entry id stands behind another.
fn is_later(one: &str, other: &str) -> bool {
    let numbers = |id: &str| {
        let (ms, seq) = id.split_once('-').unwrap();
        (ms.parse::<u64>().unwrap(), seq.parse::<u64>().unwrap())
    };
    numbers(one) > numbers(other)
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_moments_are_told_once_and_everything_goes_on() {
    let redis = TestRedis::start_durable().await;
    let replicas = redis.replica().workers(4).start_many(3).await;
    let mut before = Vec::new();
    for replica in &replicas {
        before.push(replica.id().await);
    }
    let noops = |name: &'static str, count: usize| {
        (0..count).map(move |number| (format!("{name}-{number}"), json!({ "task_name": "noop" })))
    };
    redis.trigger_all(noops("kept", 20)).await;
    // They run when the copy is made, and have ended when it comes back.
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 1500 }, "max_retries": 0 });
    redis
        .trigger_all((0..4).map(|number| (format!("sleep-{number}"), sleep.clone())))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 20).await;
    log.until_count("task.started", 24).await;

    redis.save_copy();
    redis.trigger_all(noops("undone", 30)).await;
    log.until_count("task.completed", 54).await;
    tokio::time::sleep(SEEN).await;
    let last_seen = redis.store().last_event_id(Partition::default()).await.unwrap();
    redis.kill().await;
    redis.restore();
    redis.start_again().await;

    let mut log = redis.log().await;
    let told = log
        .until("somebody says so", |log| {
            log.all("history.rolled_back").first().map(|event| (*event).clone())
        })
        .await;
    assert_eq!(told.text("last_seen"), last_seen);
    assert!(is_later(&last_seen, told.text("now_at")), "{told:?}");
    // Every replica goes on under another name.
    log.until("all have joined anew", |log| {
        let joined = log.all("worker_pool.status");
        (joined.iter().filter(|event| event.text("state") == "joined").count() == 6).then_some(())
    })
    .await;
    redis.trigger_all(noops("after", 20)).await;
    log.until("the rest is done", |log| {
        let is_done = |name: String| log.life(task_of(&name)).last() == Some(&"completed");
        let after = (0..20).all(|number| is_done(format!("after-{number}")));
        let sleepers = (0..4).all(|number| is_done(format!("sleep-{number}")));
        (after && sleepers).then_some(())
    })
    .await;

    for replica in &replicas {
        assert!(!before.contains(&replica.id().await));
    }
    assert_eq!(log.count("history.rolled_back"), 1, "{}", log.summary());
    // What ran was given back at no cost: its handlers were not at fault.
    assert_eq!(log.count("task.retry_scheduled") + log.count("task.failed"), 0);
    let newest = redis.store().last_event_id(Partition::default()).await.unwrap();
    assert!(is_later(&newest, &last_seen));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn an_emptied_redis_is_joined_anew_and_told_of() {
    let redis = TestRedis::start().await;
    let replicas = redis.replica().start_many(2).await;
    redis
        .trigger_all((0..20).map(|number| (format!("e-{number}"), json!({ "task_name": "noop" }))))
        .await;
    redis.log().await.until_count("task.completed", 20).await;
    tokio::time::sleep(SEEN).await;

    redis.ask::<String>(&["FLUSHALL"]).await;
    let mut log = redis.log().await;
    log.until("both have joined anew", |log| {
        let joined = log.all("worker_pool.status");
        (joined.iter().filter(|event| event.text("state") == "joined").count() == 2).then_some(())
    })
    .await;
    log.until_count("history.rolled_back", 1).await;
    redis.trigger("after", &json!({ "task_name": "noop" })).await;
    log.until_task(task_of("after"), "task.completed").await;

    for replica in &replicas {
        replica.until_ready().await;
    }
    assert_eq!(log.count("history.rolled_back"), 1, "{}", log.summary());
    check(&redis).await;
}

#[tokio::test]
async fn a_log_that_was_cut_by_hand_is_no_loss() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let name = replica.id().await;
    redis.trigger("before", &json!({ "task_name": "noop" })).await;
    redis.log().await.until_task(task_of("before"), "task.completed").await;
    tokio::time::sleep(SEEN).await;

    redis.ask::<usize>(&["XTRIM", "waooaw:{0}:events", "MAXLEN", "0"]).await;
    tokio::time::sleep(SEEN).await;
    redis.trigger("after", &json!({ "task_name": "noop" })).await;
    let log = redis.log().await;
    let mut log = log;
    log.until_task(task_of("after"), "task.completed").await;

    assert_eq!(log.count("history.rolled_back"), 0);
    assert_eq!(replica.id().await, name);
}

#[tokio::test]
async fn an_entry_that_has_the_id_of_one_that_was_lost_stays() {
    let redis = TestRedis::start().await;
    let mut replica = redis.replica().start().await;
    replica.stop().await;
    let store = redis.store();
    let connection = store.connection_number().await.unwrap();
    redis.trigger("new", &json!({ "task_name": "noop" })).await;
    let entries: Vec<(String, Vec<String>)> = redis.ask(&["XRANGE", "waooaw:triggers", "-", "+"]).await;

    // What a replica says that was given another entry under this id, before Redis lost that.
    let id = entries[0].0.clone();
    store.acknowledge("waooaw:triggers", &[id], connection).await.unwrap();

    let _replica = redis.replica().start().await;
    redis.log().await.until_task(task_of("new"), "task.completed").await;
    check_all_ended(&redis).await;
}
