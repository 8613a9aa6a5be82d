//! Whether each of many tasks that fail keeps to its own retry policy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waooaw_orchestration::RetryStrategy;

use crate::support::history::check_all_ended;
use crate::support::oracle::{Behaviour, Promise, assert_kept, lives, policy, read};
use crate::support::redis::{TestRedis, task_of};
use crate::support::{holds, wait_within};

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
            Behaviour::Succeeds | Behaviour::Outlasts | Behaviour::Scripted(_) => false,
        };
        let started = events.iter().filter(|event| event.kind == "task.started").count() as u64;
        let expected = match promise.behaviour {
            Behaviour::FailsFor(times) => (times + 1).min(tries),
            Behaviour::Fails => tries,
            Behaviour::Succeeds | Behaviour::Outlasts | Behaviour::Scripted(_) => 1,
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
