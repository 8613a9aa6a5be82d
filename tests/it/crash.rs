//! Whole fleets that crash, freeze and roll over while they work: nothing is lost, nothing runs wild.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waooaw_orchestration::{RetryPolicy, RetryStrategy};

use crate::support::child::ChildProcess;
use crate::support::history::check_all_ended;
use crate::support::log::Log;
use crate::support::oracle::{Behaviour, Promise, lives, read};
use crate::support::redis::{TestRedis, task_of};
use crate::support::{holds, wait_within};

fn sleep(ms: u64) -> Value {
    json!({ "task_name": "sleep", "kwargs": { "ms": ms } })
}

fn policy(max_retries: u32, initial: f64, max: f64) -> RetryPolicy {
    let mut policy = RetryPolicy::STANDARD;
    policy.max_retries = max_retries;
    policy.initial_delay_seconds = initial;
    policy.max_delay_seconds = max;
    policy
}

/// Every task that was asked for ended once, as its handler must end it; answers who lost how much.
fn assert_kept(promises: &BTreeMap<String, Promise>, log: &Log<'_>) -> BTreeMap<String, usize> {
    let lives = lives(log);
    assert_eq!(lives.len(), promises.len());
    let mut losses: BTreeMap<String, usize> = BTreeMap::new();
    for (event_id, promise) in promises {
        let task = task_of(event_id).to_string();
        let told = read(promise, &lives[task.as_str()]);
        assert!(told.problems.is_empty(), "{event_id}: {:#?}", told.problems);
        assert!(!told.end.is_empty(), "{event_id} did not end");
        for replica in told.lost_by {
            *losses.entry(replica).or_default() += 1;
        }
    }
    losses
}

fn succeeding(count: usize, name: &str) -> BTreeMap<String, Promise> {
    (0..count)
        .map(|number| {
            let promise = Promise::new(Behaviour::Succeeds, RetryPolicy::STANDARD);
            (format!("{name}-{number}"), promise)
        })
        .collect()
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

/// What fails at random: the handlers' part in it is fixed before, so that the log can be held against it.
fn mixture(count: u64) -> Vec<(String, Value, Promise)> {
    let mut state = 20_260_101_u64;
    let mut next = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let strategies = [
        RetryStrategy::Exponential,
        RetryStrategy::Linear,
        RetryStrategy::Fibonacci,
    ];
    let of_number = |number: u64| {
        let max_retries = u32::try_from(1 + next(4)).unwrap();
        let mut policy = policy(max_retries, 0.2, 0.8);
        policy.strategy = strategies[usize::try_from(next(3)).unwrap()];
        policy.increment_seconds = 0.15;
        policy.jitter = 0.2;
        // Seven of ten are fine; the others fail for a while, or always.
        let (mut payload, behaviour) = match next(100) {
            0..70 => (json!({ "task_name": "noop" }), Behaviour::Succeeds),
            70..90 => {
                let times = 1 + next(5);
                let flaky = json!({ "task_name": "flaky", "kwargs": { "fail_times": times } });
                (flaky, Behaviour::FailsFor(times))
            }
            _ => (json!({ "task_name": "fail" }), Behaviour::Fails),
        };
        payload["retry"] = json!(policy);
        (format!("e-{number}"), payload, Promise::new(behaviour, policy))
    };
    (0..count).map(of_number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_thousand_tasks_that_fail_at_random_each_keeps_to_its_policy() {
    const COUNT: u64 = 20_000;
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(64).set("TASK_QUEUE_MAX_SIZE", "0");
    let _replicas = settings.start_many(2).await;
    let tasks = mixture(COUNT);
    let began = Instant::now();
    let triggers = tasks
        .iter()
        .map(|(event_id, payload, _)| (event_id.clone(), payload.clone()));
    redis.trigger_all(triggers).await;
    let queue = redis.queue().await;
    wait_within(Duration::from_secs(300), "all have ended", async || {
        let statistics = queue.get_statistics().await.unwrap();
        let ended = statistics.completed_count + statistics.failed_count;
        holds(ended == COUNT, || {
            format!("{ended} of {COUNT} after {:?}", began.elapsed())
        })
    })
    .await;

    let log = redis.log().await;
    let lives = lives(&log);
    let (mut dead, mut exhausted) = (BTreeSet::new(), BTreeSet::new());
    let (mut late_ms, mut jitter) = (Vec::new(), Vec::new());
    for (event_id, _, promise) in &tasks {
        let task = task_of(event_id).to_string();
        let events = &lives[task.as_str()];
        let told = read(promise, events);
        assert!(told.problems.is_empty(), "{event_id}: {:#?}", told.problems);
        late_ms.extend(told.late_ms);
        jitter.extend(told.jitter);
        let tries = u64::from(promise.policy.max_retries) + 1;
        let must_fail = match promise.behaviour {
            Behaviour::FailsFor(times) => times >= tries,
            Behaviour::Fails => true,
            Behaviour::Succeeds | Behaviour::Outlasts => false,
        };
        let started = events.iter().filter(|event| event.kind == "task.started").count() as u64;
        let expected = match promise.behaviour {
            Behaviour::FailsFor(times) => (times + 1).min(tries),
            Behaviour::Fails => tries,
            Behaviour::Succeeds | Behaviour::Outlasts => 1,
        };
        assert_eq!(started, expected, "{event_id}");
        assert_eq!(told.end == "failed", must_fail, "{event_id}");
        if must_fail {
            exhausted.insert(task.clone());
        }
        if events.iter().any(|event| event.kind == "task.dead_lettered") {
            dead.insert(task);
        }
    }
    assert_eq!(dead, exhausted);
    let statistics = queue.get_statistics().await.unwrap();
    assert_eq!(statistics.dead_letter_count, exhausted.len() as u64);
    assert!(exhausted.len() > 1500, "{}", exhausted.len());
    assert_spread(&mut jitter);
    late_ms.sort_unstable();
    // A retried task comes back at the tail of its priority: as long as others wait there, being due is not starting.
    let median = late_ms[late_ms.len() / 2];
    eprintln!(
        "{} delays, median {median} ms late, {:?}",
        late_ms.len(),
        began.elapsed()
    );
    check_all_ended(&redis).await;
}

/// Delays really differ: the jitter uses all of its band.
fn assert_spread(jitter: &mut [f64]) {
    jitter.sort_by(f64::total_cmp);
    for tenth in 1..10 {
        let found = jitter[jitter.len() * tenth / 10];
        #[allow(clippy::cast_precision_loss, reason = "from 1 to 9")]
        let expected = tenth as f64 / 10.0;
        assert!((found - expected).abs() < 0.05, "{found} where {expected} is due");
    }
}

#[tokio::test]
async fn a_retry_starts_within_fifty_milliseconds_of_its_time() {
    let redis = TestRedis::start().await;
    let _replicas = redis.replica().workers(8).start_many(2).await;
    let policy = policy(3, 0.3, 2.0);
    let mut promises = BTreeMap::new();
    for number in 0..30 {
        let event_id = format!("e-{number}");
        let flaky = json!({ "task_name": "flaky", "kwargs": { "fail_times": 2 }, "retry": policy });
        redis.trigger(&event_id, &flaky).await;
        promises.insert(event_id, Promise::new(Behaviour::FailsFor(2), policy));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut log = redis.log().await;
    log.until_count("task.completed", 30).await;

    assert_kept(&promises, &log);
    let lives = lives(&log);
    let mut late_ms: Vec<i64> = Vec::new();
    for (event_id, promise) in &promises {
        let task = task_of(event_id).to_string();
        late_ms.extend(read(promise, &lives[task.as_str()]).late_ms);
    }
    late_ms.sort_unstable();
    assert_eq!(late_ms.len(), 60);
    // The machine may be busy with other tests; most are in time all the same.
    assert!(late_ms[45] <= 50, "{late_ms:?}");
    assert!(late_ms[59] <= 1000, "{late_ms:?}");
    check_all_ended(&redis).await;
}
