//! Whole fleets that crash, freeze and roll over while they work: nothing is lost, nothing runs wild.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};
use waooaw_orchestration::RetryPolicy;

use crate::support::child::ChildProcess;
use crate::support::history::check_all_ended;
use crate::support::oracle::{Behaviour, Promise, assert_kept, policy, succeeding};
use crate::support::redis::{TestRedis, task_of};
use crate::support::{holds, wait_within};

fn sleep(ms: u64) -> Value {
    json!({ "task_name": "sleep", "kwargs": { "ms": ms } })
}

#[tokio::test]
async fn fifty_running_tasks_of_a_killed_replica_start_elsewhere_within_twelve_seconds() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(50).set("TASK_QUEUE_MAX_SIZE", "0");
    let mut victim = settings.start().await;
    let id = victim.id().await;
    let promises = succeeding(50, "e");
    redis
        .trigger_all(promises.keys().map(|event_id| (event_id.clone(), sleep(2500))))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.started", 50).await;
    let _others = redis.replica().workers(25).start_many(2).await;

    let (seconds, micros): (i64, i64) = redis.ask(&["TIME"]).await;
    victim.kill();
    log.until_count("task.completed", 50).await;

    check_all_ended(&redis).await;
    log.refresh().await;
    assert_eq!(assert_kept(&promises, &log), BTreeMap::from([(id, 50)]));
    let killed_ms = seconds * 1000 + micros / 1000;
    for event in log
        .all("task.started")
        .iter()
        .filter(|event| event.payload["attempt"] == 2)
    {
        let after_ms = event.time_ms("started_at") - killed_ms;
        assert!(after_ms <= 12_000, "{after_ms} ms after the kill: {event:?}");
    }
    let ended: BTreeSet<&str> = log
        .events
        .iter()
        .filter(|event| event.is_terminal())
        .map(|event| event.subject.as_str())
        .collect();
    let ends = log.events.iter().filter(|event| event.is_terminal()).count();
    assert_eq!((ended.len(), ends), (50, 50));
}

#[tokio::test]
async fn late_results_of_a_replica_that_stood_still_are_refused() {
    let redis = TestRedis::start().await;
    let frozen = redis.replica().workers(5).start().await;
    let id = frozen.id().await;
    let promises = succeeding(5, "e");
    // Their time is over while it stands still, so that it wakes up with results in hand.
    redis
        .trigger_all(promises.keys().map(|event_id| (event_id.clone(), sleep(1000))))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.started", 5).await;

    frozen.signal("STOP");
    let _other = redis.replica().workers(5).start().await;
    log.until_count("task.completed", 5).await;
    let before = redis.queue().await.get_statistics().await.unwrap();
    frozen.signal("CONT");
    wait_within(Duration::from_secs(30), "it joins under a new name", async || {
        let answer = frozen.get("/readyz").await;
        let is_new = answer
            .as_ref()
            .is_some_and(|(status, body)| *status == 200 && body["replica"] != json!(id));
        holds(is_new, || format!("{answer:?}"))
    })
    .await;

    check_all_ended(&redis).await;
    log.refresh().await;
    assert_eq!(assert_kept(&promises, &log), BTreeMap::from([(id.clone(), 5)]));
    assert!(log.all("task.completed").iter().all(|event| event.replica() != id));
    let after = redis.queue().await.get_statistics().await.unwrap();
    assert_eq!(before.completed_count, after.completed_count);
}

#[tokio::test]
async fn new_replicas_in_empty_read_only_folders_finish_what_all_the_dead_ones_left() {
    let redis = TestRedis::start_durable().await;
    let settings = redis.replica().workers(8).set("WAOOAW_QUEUE__REFERENCE_WAIT", "2s");
    let mut replicas = settings.start_many(3).await;
    let mut promises = succeeding(16, "running");
    let mut triggers: Vec<(String, Value)> = Vec::new();
    triggers.extend(promises.keys().map(|event_id| (event_id.clone(), sleep(3000))));
    let policy = policy(4, 2.0, 2.0);
    for number in 0..10 {
        let event_id = format!("retrying-{number}");
        let flaky = json!({ "task_name": "flaky", "kwargs": { "fail_times": 2 }, "retry": policy, "priority": "HIGH" });
        triggers.push((event_id.clone(), flaky));
        promises.insert(event_id, Promise::new(Behaviour::FailsFor(2), policy));
        let event_id = format!("delayed-{number}");
        triggers.push((event_id.clone(), json!({ "task_name": "noop", "delay_seconds": 4.0 })));
        let mut promise = Promise::new(Behaviour::Succeeds, RetryPolicy::STANDARD);
        promise.delay_ms = 4000;
        promises.insert(event_id, promise);
    }
    redis.trigger_all(triggers).await;
    let mut log = redis.log().await;
    log.until("some run, some wait for a retry", |log| {
        (log.count("task.retry_scheduled") >= 10 && log.running().last().is_some_and(|running| *running >= 10))
            .then_some(())
    })
    .await;

    let dead: BTreeSet<String> = {
        let mut ids = BTreeSet::new();
        for replica in &mut replicas {
            ids.insert(replica.id().await);
        }
        ids
    };
    for replica in &mut replicas {
        replica.kill();
    }
    // Some are published while nobody is there.
    let late = succeeding(5, "late");
    redis
        .trigger_all(
            late.keys()
                .map(|event_id| (event_id.clone(), json!({ "task_name": "noop" }))),
        )
        .await;
    promises.extend(late);
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
    let _new = settings.clone().folder(folder.path()).start_many(3).await;

    log.until_count("task.completed", promises.len()).await;
    check_all_ended(&redis).await;
    log.refresh().await;
    let losses = assert_kept(&promises, &log);
    assert!(
        losses.keys().all(|replica| dead.contains(replica)),
        "{losses:?} of {dead:?}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_loses_work_while_redis_is_frozen_and_then_down() {
    let redis = TestRedis::start_durable().await;
    let replicas = redis.replica().workers(4).start_many(3).await;
    let mut before = BTreeSet::new();
    for replica in &replicas {
        before.insert(replica.id().await);
    }
    let promises = succeeding(12, "e");
    // Some end while Redis is away, one replica's after it is back.
    redis
        .trigger_all(promises.keys().enumerate().map(|(number, event_id)| {
            let ms = if number % 3 == 0 { 36_000 } else { 8000 };
            (event_id.clone(), sleep(ms))
        }))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.started", 12).await;

    redis.signal("STOP");
    tokio::time::sleep(Duration::from_secs(20)).await;
    redis.signal("CONT");
    redis.stop().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    redis.start_again().await;

    wait_within(Duration::from_secs(60), "all are done", async || {
        log.refresh().await;
        holds(log.count("task.completed") == 12, || log.summary())
    })
    .await;
    check_all_ended(&redis).await;
    log.refresh().await;
    assert_eq!(assert_kept(&promises, &log), BTreeMap::new());
    assert_eq!((log.count("task.started"), log.count("task.retry_scheduled")), (12, 0));
    for replica in &replicas {
        assert!(before.contains(&replica.id().await), "somebody was fenced");
    }
}

#[tokio::test]
async fn a_long_task_without_a_timeout_runs_once_beside_living_replicas() {
    let redis = TestRedis::start().await;
    let _replicas = redis.replica().workers(2).start_many(3).await;
    // Well past what a takeover waits for; the chaos program's long form has room for more.
    redis.trigger("long", &sleep(22_000)).await;
    let mut log = redis.log().await;

    let done = log.until_task(task_of("long"), "task.completed").await;

    assert_eq!(done.payload["attempt"], 1);
    assert_eq!(log.life(task_of("long")).join(" "), "created started completed");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn one_of_three_replicas_that_is_asked_to_stop_under_load_fails_and_retries_nothing() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(6).set("TASK_QUEUE_MAX_SIZE", "0");
    let mut replicas = settings.start_many(3).await;
    let promises = succeeding(600, "e");
    redis
        .trigger_all(promises.keys().map(|event_id| (event_id.clone(), sleep(40))))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 100).await;

    let mut leaving = replicas.pop().unwrap();
    let id = leaving.id().await;
    assert_eq!(leaving.stop().await.code(), Some(0));
    log.refresh().await;
    assert!(log.count("task.completed") < 600, "the load was over too soon");
    log.until_count("task.completed", 600).await;

    check_all_ended(&redis).await;
    assert_eq!(assert_kept(&promises, &log), BTreeMap::new());
    assert_eq!(log.count("task.started"), 600);
    for kind in ["task.retry_scheduled", "task.released", "task.failed", "task.timeout"] {
        assert_eq!(log.count(kind), 0, "{kind}");
    }
    let mut streams: Vec<(String, &str)> = Vec::new();
    streams.extend(redis.task_streams().await.into_iter().map(|stream| (stream, "workers")));
    for stream in ["waooaw:triggers", "waooaw:commands"] {
        streams.push((stream.to_owned(), "orchestrators"));
    }
    for (stream, group) in streams {
        let consumers = redis.consumers(&stream, group).await;
        assert!(!consumers.contains(&id), "{stream}: {consumers:?}");
    }
}

#[tokio::test]
async fn what_runs_beside_a_task_that_kills_its_replica_is_not_given_up_with_it() {
    const BESIDE: usize = 3;
    let redis = TestRedis::start().await;
    // Takes back what the others leave; what it can run is not what kills.
    let _survivor = redis.replica().without_builtin().start().await;
    let mut log = redis.log().await;
    let mut is_first = true;
    loop {
        let mut child = ChildProcess::start(&redis, "abort beside");
        if std::mem::take(&mut is_first) {
            child.hear("ready").await;
            let beside = (0..BESIDE).map(|number| (format!("beside {number}"), sleep(1500)));
            let poison = json!({ "task_name": "abort", "max_retries": 9 });
            redis.trigger_all(beside.chain([("poison".to_owned(), poison)])).await;
        }
        wait_within(Duration::from_secs(60), "it dies, or has done everything", async || {
            log.refresh().await;
            let is_done = log.count("task.completed") == BESIDE && log.count("task.dead_lettered") == 1;
            holds(is_done || !child.is_alive(), || log.summary())
        })
        .await;
        if child.is_alive() {
            break;
        }
    }

    let life = log.life(task_of("poison")).join(" ");
    assert_eq!(
        life,
        "created started retry_scheduled started retry_scheduled started failed dead_lettered"
    );
    assert_eq!(log.count("task.failed"), 1);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_task_that_kills_its_replica_ends_in_the_dead_letters_and_not_the_fleet() {
    let redis = TestRedis::start().await;
    // Watches over the others; what it can run is not what kills.
    let survivor = redis.replica().start().await;
    let poison = json!({ "task_name": "abort", "max_retries": 9 });
    let mut children: Vec<ChildProcess> = (0..4).map(|_| ChildProcess::start(&redis, "abort")).collect();
    for child in &mut children {
        child.hear("ready").await;
    }
    redis.trigger("poison", &poison).await;
    let good = succeeding(20, "good");
    redis
        .trigger_all(good.keys().map(|event_id| (event_id.clone(), sleep(20))))
        .await;

    let mut log = redis.log().await;
    wait_within(Duration::from_secs(60), "it is given up", async || {
        log.refresh().await;
        holds(log.count("task.dead_lettered") == 1, || log.summary())
    })
    .await;

    let life = log.life(task_of("poison")).join(" ");
    assert_eq!(
        life,
        "created started retry_scheduled started retry_scheduled started failed dead_lettered"
    );
    let failed = log.all("task.failed")[0];
    assert_eq!(
        (
            failed.text("worker_id").is_empty(),
            failed.payload["error"]["type"].as_str()
        ),
        (false, Some("lost"))
    );
    log.until_count("task.completed", 20).await;
    // Three died of it; the fourth lives and works.
    let mut living = 0;
    for child in &mut children {
        living += usize::from(child.is_alive());
    }
    assert_eq!(living, 1);
    let known: Vec<String> = redis.ask(&["HKEYS", "waooaw:{0}:beats"]).await;
    assert!(known.contains(&survivor.id().await));
    check_all_ended(&redis).await;
}
