//! The order in which tasks are served.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use waooaw_orchestration::{Handlers, Priority, ReplicaOptions, Task, TaskQueue, TaskQueueOptions};

use crate::support::history::check_all_ended;
use crate::support::local::LocalReplica;
use crate::support::redis::TestRedis;
use crate::support::{holds, wait_for};

/// From the least urgent to the most.
const UPWARDS: [Priority; 4] = [Priority::Background, Priority::Low, Priority::Normal, Priority::High];

fn sleep(name: &str, ms: u64) -> Task {
    Task::new("sleep").kwargs(json!({ "ms": ms })).event_id(name)
}

async fn put(queue: &TaskQueue, task: Task) {
    queue.enqueue(task).await.unwrap();
}

#[tokio::test]
async fn a_full_queue_is_served_by_priority_and_in_order_within_one() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    let mut expected = Vec::new();
    for priority in UPWARDS {
        let mut names = Vec::new();
        for number in 0..100 {
            let name = format!("{} {number}", priority.as_str());
            put(&queue, Task::new("noop").event_id(&name).priority(priority)).await;
            names.push(name);
        }
        expected.splice(0..0, names);
    }

    let _replica = redis.replica().workers(3).start().await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 400).await;

    assert_eq!(log.started(), expected);
    check_all_ended(&redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_triggers_of_all_priorities_are_shared_by_three_replicas() {
    const COUNT: usize = 10_000;
    let redis = TestRedis::start().await;
    let settings = redis.replica().set("TASK_QUEUE_MAX_SIZE", "0");
    let mut replicas = settings.start_many(3).await;

    let triggers = (0..COUNT).map(|number| {
        let priority = UPWARDS[number % 4].as_str();
        (
            format!("e-{number}"),
            json!({ "task_name": "noop", "priority": priority }),
        )
    });
    redis.trigger_all(triggers).await;
    // Looked at from afar: reading the log meanwhile would take one of few cores from some of the three.
    let watcher = redis.queue().await;
    wait_for("all are completed", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let statistics = watcher.get_statistics().await.unwrap();
        holds(statistics.completed_count == COUNT as u64, || {
            format!("{} are completed", statistics.completed_count)
        })
    })
    .await;
    check_all_ended(&redis).await;

    let log = redis.log().await;
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    for event in log.all("task.completed") {
        *shares.entry(event.replica()).or_default() += 1;
    }
    // On a machine that is busy one may get less of it than the others.
    let fair = COUNT * 18 / 100..=COUNT * 52 / 100;
    assert!(
        shares.len() == 3 && shares.values().all(|share| fair.contains(share)),
        "{shares:?}"
    );
    for replica in &mut replicas {
        assert!(replica.stop().await.success());
    }
    let _others = settings.start_many(3).await;
    let statistics = redis.queue().await.get_statistics().await.unwrap();
    assert_eq!((statistics.completed_count, statistics.total_count), (10_000, 10_000));
    assert_eq!(statistics.worker_pool.max_workers, 30);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn an_overdue_background_task_starts_within_eight_under_a_flood_of_high_ones() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    put(&queue, sleep("overdue", 20).priority(Priority::Background)).await;
    for number in 0..120 {
        put(&queue, sleep(&format!("high {number}"), 20).priority(Priority::High)).await;
    }

    let settings = redis.replica().workers(1).set("WAOOAW_QUEUE__MAX_WAIT", "1s");
    let _replica = settings.start().await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 121).await;

    let due = log.all("task.created")[0].time_ms("created_at") + 1000;
    let starts = log.all("task.started");
    let place = starts
        .iter()
        .position(|event| event.text("trigger_event_id") == "overdue")
        .unwrap();
    let between = starts[..place]
        .iter()
        .filter(|event| event.time_ms("started_at") > due)
        .count();
    assert!(between <= 8, "{between} others were started first");
    assert!(place < 100, "it was started when the flood was nearly over: {place}");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_high_task_among_many_overdue_ones_starts_within_two_claims() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    for number in 0..60 {
        put(&queue, sleep(&format!("low {number}"), 50).priority(Priority::Low)).await;
    }
    // Let them become overdue.
    tokio::time::sleep(Duration::from_millis(600)).await;

    let settings = redis.replica().workers(1).set("WAOOAW_QUEUE__MAX_WAIT", "500ms");
    let _replica = settings.start().await;
    let mut log = redis.log().await;
    for number in 0..3 {
        log.until_count("task.started", log.count("task.started") + 7).await;
        put(&queue, sleep(&format!("high {number}"), 1).priority(Priority::High)).await;
        log.until(&format!("high {number} has started"), |log| {
            log.started().contains(&format!("high {number}").as_str()).then_some(())
        })
        .await;
    }
    log.until_count("task.completed", 63).await;

    for number in 0..3 {
        let name = format!("high {number}");
        let place = |kind: &str| {
            let found = log
                .events
                .iter()
                .position(|event| event.kind == kind && event.text("trigger_event_id") == name);
            found.unwrap()
        };
        let between = log.events[place("task.created")..place("task.started")]
            .iter()
            .filter(|event| event.kind == "task.started")
            .count();
        assert!(between <= 1, "{between} others were started before {name}");
    }
    check_all_ended(&redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_only_where_its_handler_is_and_in_its_turn() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    let common = |handlers: Handlers| handlers.with_async("common", |(): (), _| async { Ok(()) });
    let mut expected = Vec::new();
    for priority in UPWARDS {
        let mut names = Vec::new();
        for number in 0..10 {
            let name = format!("{} {number}", priority.as_str());
            put(&queue, Task::new("rare").event_id(&name).priority(priority)).await;
            put(&queue, Task::new("common").priority(priority)).await;
            names.push(name);
        }
        expected.splice(0..0, names);
    }

    let plain = LocalReplica::start(&redis, ReplicaOptions::new(common(Handlers::new()))).await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 40).await;
    assert_eq!(log.all("task.started").len(), 40);
    let mut options = ReplicaOptions::new(common(Handlers::new()).with_async("rare", |(): (), _| async { Ok(()) }));
    options.workers = 2;
    let capable = LocalReplica::start(&redis, options).await;
    log.until_count("task.completed", 80).await;

    let rare: Vec<_> = log
        .all("task.started")
        .into_iter()
        .filter(|event| event.text("task_name") == "rare")
        .collect();
    let order: Vec<&str> = rare.iter().map(|event| event.text("trigger_event_id")).collect();
    assert_eq!(order, expected);
    for event in rare {
        assert_eq!(event.replica(), capable.id());
    }
    check_all_ended(&redis).await;
    plain.stop().await;
    capable.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_without_a_replica_for_them_do_not_hold_up_those_that_have_one() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    for _ in 0..200 {
        put(&queue, Task::new("rare").priority(Priority::High)).await;
    }
    put(&queue, Task::new("common").event_id("common")).await;

    let mut options = ReplicaOptions::new(Handlers::new().with_async("common", |(): (), _| async { Ok(()) }));
    options.workers = 2;
    let replica = LocalReplica::start(&redis, options).await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 1).await;

    assert_eq!(log.started(), ["common"]);
    crate::support::history::check(&redis).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_waited_for_their_handlers_run_in_the_order_in_which_they_came() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    let mut expected = Vec::new();
    for number in 0..30 {
        let name = format!("e-{number}");
        let task = Task::new(["gamma", "alpha", "beta"][number % 3]).event_id(&name);
        put(&queue, task).await;
        expected.push(name);
    }
    put(&queue, Task::new("common")).await;
    let common = || Handlers::new().with_async("common", |(): (), _| async { Ok(()) });
    let plain = LocalReplica::start(&redis, ReplicaOptions::new(common())).await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 1).await;

    let mut handlers = Handlers::new();
    for name in ["alpha", "beta", "gamma"] {
        handlers = handlers.with_async(name, |(): (), _| async { Ok(()) });
    }
    let mut options = ReplicaOptions::new(handlers);
    options.workers = 1;
    let capable = LocalReplica::start(&redis, options).await;
    log.until_count("task.completed", 31).await;

    assert_eq!(log.started()[1..], expected);
    plain.stop().await;
    capable.stop().await;
}

#[tokio::test]
async fn tasks_of_two_queues_are_served_in_the_order_in_which_they_came() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    let mut expected = Vec::new();
    for number in 0..20 {
        let name = format!("e-{number}");
        put(&queue, Task::new("noop").event_id(&name).queue(["b", "a"][number % 2])).await;
        expected.push(name);
    }

    let _replica = redis.replica().workers(1).start().await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 20).await;

    assert_eq!(log.started(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_flood_does_not_make_an_overdue_task_wait_longer_than_eight() {
    let redis = TestRedis::start().await;
    let mut options = TaskQueueOptions::new(&redis.url());
    options.max_size = Some(0);
    let queue = TaskQueue::connect(options).await.unwrap();
    let high = |_| async { put(&queue, Task::new("noop").priority(Priority::High)).await };
    futures_util::future::join_all((0..6000).map(high)).await;
    put(
        &queue,
        Task::new("noop").event_id("overdue").priority(Priority::Background),
    )
    .await;

    let settings = redis.replica().workers(1).set("WAOOAW_QUEUE__MAX_WAIT", "300ms");
    let _replica = settings.start().await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 6001).await;

    let background = log.all("task.created").pop().unwrap();
    assert_eq!(background.text("trigger_event_id"), "overdue");
    let due = background.time_ms("created_at") + 300;
    let starts = log.all("task.started");
    let place = starts
        .iter()
        .position(|event| event.text("trigger_event_id") == "overdue")
        .unwrap();
    let between = starts[..place]
        .iter()
        .filter(|event| event.time_ms("started_at") > due)
        .count();
    assert!(
        between <= 8,
        "{between} others were started first, it was number {place}"
    );
    assert!(place < 5900, "the flood was over: {place}");
}
