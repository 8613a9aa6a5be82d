//! What happens to the work of a replica that dies or falls silent.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::history::check_all_ended;
use crate::support::redis::{TestRedis, task_of};
use crate::support::{holds, wait_for};

#[tokio::test]
async fn what_a_killed_replica_ran_is_finished_by_others_within_twenty_seconds() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(4);
    let mut victim = settings.start().await;
    let id = victim.id().await;
    let _others = settings.start_many(2).await;
    redis
        .trigger_all((0..12).map(|number| {
            let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 2000 } });
            (format!("e-{number}"), sleep)
        }))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.started", 12).await;

    victim.kill();
    let killed = Instant::now();
    log.until_count("task.completed", 12).await;
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
    check_all_ended(&redis).await;
    log.refresh().await;

    let held: BTreeSet<&str> = log
        .all("task.started")
        .into_iter()
        .filter(|event| event.replica() == id)
        .map(|event| event.subject.as_str())
        .collect();
    let lost: BTreeSet<&str> = log
        .all("task.retry_scheduled")
        .into_iter()
        .map(|event| {
            assert_eq!(event.payload["error"]["type"], "lost");
            assert_eq!(event.payload["delay_seconds"].as_f64(), Some(0.0));
            event.subject.as_str()
        })
        .collect();
    assert_eq!((held.len(), &lost), (4, &held));
    wait_for("the dead replica is forgotten", async || {
        let known: Vec<String> = redis.ask(&["HKEYS", "waooaw:{0}:beats"]).await;
        holds(!known.contains(&id), || format!("{known:?}"))
    })
    .await;
    log.refresh().await;
    let of_victim = log.of(&id);
    assert_eq!(of_victim.last().unwrap().text("state"), "lost");
}

#[tokio::test]
async fn a_replica_that_was_frozen_changes_nothing_and_comes_back_under_a_new_name() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(4);
    let frozen = settings.start().await;
    let id = frozen.id().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 1500 } });
    redis
        .trigger_all((0..4).map(|number| (format!("e-{number}"), sleep.clone())))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.started", 4).await;

    frozen.signal("STOP");
    let mut other = settings.start().await;
    log.until_count("task.completed", 4).await;
    let before = log.events.len();
    frozen.signal("CONT");
    wait_for("it joins under a new name", async || {
        let answer = frozen.get("/readyz").await;
        let is_new = answer
            .as_ref()
            .is_some_and(|(status, body)| *status == 200 && body["replica"] != json!(id));
        holds(is_new, || format!("{answer:?}"))
    })
    .await;
    assert!(other.stop().await.success());
    redis.trigger("after", &json!({ "task_name": "noop" })).await;
    let done = log.until_task(task_of("after"), "task.completed").await;

    assert_eq!(done.replica(), frozen.id().await);
    assert!(
        log.events[before..]
            .iter()
            .all(|event| event.kind == "worker_pool.status" || event.subject == task_of("after").to_string()),
        "{}",
        log.summary()
    );
    for number in 0..4 {
        let life = log.life(task_of(&format!("e-{number}"))).join(" ");
        assert_eq!(life, "created started retry_scheduled started completed");
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn the_third_loss_in_a_row_is_permanent() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(1);
    let payload = json!({ "task_name": "sleep", "kwargs": { "ms": 60_000 }, "max_retries": 9 });
    redis.trigger("poison", &payload).await;
    let mut log = redis.log().await;

    for started in 1..=3 {
        let mut replica = settings.start().await;
        log.until_count("task.started", started).await;
        replica.kill();
    }
    let _last = settings.start().await;
    log.until_task(task_of("poison"), "task.dead_lettered").await;

    let life = log.life(task_of("poison")).join(" ");
    assert_eq!(
        life,
        "created started retry_scheduled started retry_scheduled started failed dead_lettered"
    );
    assert_eq!(log.all("task.failed")[0].payload["error"]["type"], "lost");
    check_all_ended(&redis).await;
}
