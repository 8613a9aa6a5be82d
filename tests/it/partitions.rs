//! Several partitions: the main ways of a task over all of them, and that none waits for another.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waooaw_orchestration::domain::history::verify;
use waooaw_orchestration::domain::id::Partition;
use waooaw_orchestration::runtime::operate;
use waooaw_orchestration::store::document::StatisticsDocument;
use waooaw_orchestration::{
    DeadLetterQuery, DeadLetters, Endpoint, Error, Event, EventBus, Limits, Operator, Pattern, Scaling, Store,
    StoreError, TaskQueue, TaskQueueOptions,
};

use crate::support::cli::Cli;
use crate::support::redis::TestRedis;
use crate::support::replica::Settings;
use crate::support::{holds, wait_for};

const PARTITIONS: u16 = 4;

struct Divided {
    redis: TestRedis,
    store: Store,
}

impl Divided {
    async fn start() -> Self {
        let redis = TestRedis::start().await;
        let mut endpoint = Endpoint::new(&redis.url());
        endpoint.partitions = Some(PARTITIONS);
        let store = Store::new(endpoint).unwrap();
        Self { redis, store }
    }

    fn replica(&self) -> Settings {
        self.redis
            .replica()
            .set("WAOOAW_REDIS__PARTITIONS", &PARTITIONS.to_string())
    }

    async fn queue(&self) -> TaskQueue {
        let mut options = TaskQueueOptions::new(&self.redis.url());
        options.endpoint.partitions = Some(PARTITIONS);
        TaskQueue::connect(options).await.unwrap()
    }

    async fn statistics(&self) -> StatisticsDocument {
        waooaw_orchestration::runtime::queue::statistics(&self.store)
            .await
            .unwrap()
    }

    /// The log of one partition.
    async fn log(&self, partition: Partition) -> Vec<Event> {
        self.store.events_after(partition, "0", 100_000).await.unwrap()
    }

    /// Waits until the events of a kind are so many over all partitions.
    async fn until_count(&self, kind: &str, count: usize) {
        wait_for(&format!("{count} of {kind}"), async || {
            let mut found = 0;
            for partition in self.store.partitions() {
                found += self
                    .log(partition)
                    .await
                    .iter()
                    .filter(|event| event.event_type == kind)
                    .count();
            }
            holds(found >= count, || format!("{found}"))
        })
        .await;
    }

    /// Every task has ended, every log holds, and the sums are those of the logs.
    async fn check_all_ended(&self) {
        wait_for("every task has ended", async || {
            let statistics = self.statistics().await;
            let open = statistics.pending_count + statistics.running_count;
            let unread: usize = self.redis.ask(&["XLEN", "waooaw:triggers"]).await;
            holds(open == 0 && unread == 0, || format!("{open} have not, {unread} unread"))
        })
        .await;
        let (mut completed, mut failed) = (0, 0);
        let mut ids = BTreeSet::new();
        for partition in self.store.partitions() {
            let log = self.log(partition).await;
            for event in &log {
                let is_new = ids.insert(event.event_id.clone());
                assert!(is_new, "{event:?} in partition {partition}");
            }
            let verdict = verify(&log);
            assert!(verdict.violations.is_empty(), "{:?}", verdict.violations);
            let count = |kind: &str| log.iter().filter(|event| event.event_type == kind).count() as u64;
            completed += count("orchestration.task.completed");
            failed += count("orchestration.task.failed");
            assert!(
                count("orchestration.task.created") > 0,
                "partition {partition} had nothing to do"
            );
        }
        let statistics = self.statistics().await;
        assert_eq!(
            (statistics.completed_count, statistics.failed_count),
            (completed, failed)
        );
    }
}

/// A workflow whose tasks lie in this partition.
fn workflow_in(partition: u16) -> String {
    let mut names = (0..).map(|number| format!("flow-{number}"));
    names
        .find(|name| Partition::of_name(name, PARTITIONS).number() == partition)
        .unwrap()
}

fn task_in(partition: u16, name: &str, kwargs: &Value) -> Value {
    json!({ "task_name": name, "kwargs": kwargs, "workflow_id": workflow_in(partition) })
}

#[tokio::test]
async fn tasks_of_all_kinds_live_their_lives_in_every_partition() {
    let divided = Divided::start().await;
    let _replicas = divided.replica().workers(3).start_many(2).await;
    let mut triggers = Vec::new();
    for number in 0..40 {
        let payload = match number % 4 {
            0 => json!({ "task_name": "add", "args": [number, 1] }),
            1 => json!({ "task_name": "flaky", "kwargs": { "fail_times": 2 }, "retry": "QUICK" }),
            2 => json!({ "task_name": "fail", "kwargs": { "permanent": true } }),
            _ => json!({ "task_name": "noop", "delay_seconds": 0.4, "priority": "LOW" }),
        };
        triggers.push((format!("e-{number}"), payload));
    }

    divided.redis.trigger_all(triggers).await;

    divided.until_count("orchestration.task.created", 40).await;
    divided.check_all_ended().await;
    let statistics = divided.statistics().await;
    assert_eq!((statistics.completed_count, statistics.failed_count), (30, 10));
    assert_eq!(
        (statistics.dead_letter_count, statistics.worker_pool.max_workers),
        (10, 6)
    );
}

#[tokio::test]
async fn a_partition_with_much_to_do_does_not_keep_all_workers() {
    let divided = Divided::start().await;
    let _replica = divided.replica().workers(2).start().await;
    let slow = task_in(0, "sleep", &json!({ "ms": 150 }));
    divided
        .redis
        .trigger_all((0..80).map(|number| (format!("busy {number}"), slow.clone())))
        .await;
    divided.until_count("orchestration.task.started", 4).await;

    let asked = Instant::now();
    for partition in 1..PARTITIONS {
        let quick = task_in(partition, "noop", &json!({}));
        divided.redis.trigger(&format!("quick {partition}"), &quick).await;
    }
    wait_for("the others have had their turn", async || {
        let mut done = BTreeSet::new();
        for partition in divided.store.partitions().skip(1) {
            let log = divided.log(partition).await;
            if log
                .iter()
                .any(|event| event.event_type == "orchestration.task.completed")
            {
                done.insert(partition.number());
            }
        }
        holds(done.len() == 3, || format!("{done:?}"))
    })
    .await;

    // The backlog takes six seconds.
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    divided.check_all_ended().await;
}

#[tokio::test]
async fn delayed_tasks_are_due_in_time_in_every_partition() {
    let divided = Divided::start().await;
    let _replica = divided.replica().workers(4).start().await;
    let delayed = |partition: u16| {
        let mut payload = task_in(partition, "noop", &json!({}));
        payload["delay_seconds"] = json!(0.1);
        (format!("e-{partition}"), payload)
    };

    divided.redis.trigger_all((0..PARTITIONS).map(delayed)).await;

    divided.until_count("orchestration.task.completed", 4).await;
    for partition in divided.store.partitions() {
        let log = divided.log(partition).await;
        let at = |kind: &str| {
            let event = log.iter().find(|event| event.event_type == kind).unwrap();
            crate::support::log::time_ms(&event.timestamp)
        };
        let waited_ms = at("orchestration.task.started") - at("orchestration.task.created");
        assert!((100..700).contains(&waited_ms), "{partition}: {waited_ms} ms");
    }
    divided.check_all_ended().await;
}

#[tokio::test]
async fn what_a_dead_replica_ran_in_any_partition_is_finished_by_another() {
    let divided = Divided::start().await;
    let mut victim = divided.replica().workers(8).start().await;
    divided
        .redis
        .trigger_all((0..8).map(|number| {
            let slow = task_in(number % PARTITIONS, "sleep", &json!({ "ms": 1500 }));
            (format!("e-{number}"), slow)
        }))
        .await;
    divided.until_count("orchestration.task.started", 8).await;
    victim.kill();

    let _other = divided.replica().workers(8).start().await;
    divided.until_count("orchestration.task.completed", 8).await;
    divided.check_all_ended().await;
}

#[tokio::test]
async fn operators_reach_every_partition() {
    let divided = Divided::start().await;
    let _replicas = divided.replica().workers(4).start_many(2).await;
    let (store, operator) = (&divided.store, || Operator::new("tester", None));
    assert!(operate::pause_queue(store, &operator(), "default").await.unwrap());
    let noop = |number: u16| (format!("e-{number}"), task_in(number % PARTITIONS, "noop", &json!({})));
    divided.redis.trigger_all((0..12).map(noop)).await;
    divided.until_count("orchestration.task.created", 12).await;
    let queue = operate::queue(store, "default").await.unwrap();
    assert_eq!((queue.pending_count, queue.running_count, queue.paused), (12, 0, true));
    assert_eq!(operate::list_queues(store).await.unwrap().len(), 1);

    let limits = Limits {
        max_size: Some(100),
        max_running: Some(8),
    };
    assert!(operate::set_limits(store, &operator(), None, limits).await.unwrap());
    let statistics = divided.statistics().await;
    assert_eq!((statistics.max_size, statistics.max_running), (100, 8));
    let scaled = operate::scale(store, &operator(), Scaling::Max(6), None).await.unwrap();
    assert_eq!(scaled.iter().map(|one| one.workers).collect::<Vec<_>>(), [6, 6]);
    assert!(scaled.iter().all(|one| one.is_done));
    let page = operate::list_workers(store, None, None, 100).await.unwrap();
    assert_eq!((page.items.len(), page.replicas.len()), (12, 2));

    assert!(operate::resume_queue(store, &operator(), "default").await.unwrap());
    divided.until_count("orchestration.task.completed", 12).await;
    divided.check_all_ended().await;
}

#[tokio::test]
async fn a_program_takes_tasks_out_of_every_partition() {
    let divided = Divided::start().await;
    let queue = divided.queue().await;
    for number in 0..PARTITIONS {
        let task = waooaw_orchestration::Task::new("any").workflow_id(&workflow_in(number));
        queue.enqueue(task).await.unwrap();
    }

    for _ in 0..PARTITIONS {
        let task = queue.dequeue(Duration::from_secs(5)).await.unwrap().unwrap();
        queue.complete_task(task.task_id, &1).await.unwrap();
    }

    let pool = divided.statistics().await.worker_pool;
    assert_eq!((pool.active_workers, pool.max_workers), (0, 0));
    divided.check_all_ended().await;
}

#[tokio::test]
async fn who_names_no_number_of_partitions_takes_over_the_one_that_redis_holds() {
    let divided = Divided::start().await;
    let _replica = divided.replica().workers(4).start().await;
    let failing = |number: u16| {
        (
            format!("e-{number}"),
            task_in(number % PARTITIONS, "fail", &json!({ "permanent": true })),
        )
    };
    divided.redis.trigger_all((0..8).map(failing)).await;
    divided.until_count("orchestration.task.failed", 8).await;
    let ask = async |words: &[&str]| Cli::on(&divided.redis, words).set("WAOOAW_OUTPUT", "json").json().await;

    // The shipped file repeats the compiled value, which nobody chose.
    let stats = Cli::on(&divided.redis, &["stats", "--output", "json"]);
    std::fs::create_dir(stats.folder().join("config")).unwrap();
    let stats = stats
        .file("config/default.toml", "[redis]\npartitions = 1\n")
        .json()
        .await;
    assert_eq!(stats["failed_count"], 8);
    assert_eq!(ask(&["task", "list"]).await["items"].as_array().unwrap().len(), 8);
    let words = [
        "trigger",
        "noop",
        "--event-id",
        "once",
        "--workflow-id",
        &workflow_in(3),
    ];
    let mut made = vec![ask(&words).await];
    made.push(
        Cli::on(&divided.redis, &words)
            .set("WAOOAW_REDIS__PARTITIONS", "4")
            .set("WAOOAW_OUTPUT", "json")
            .json()
            .await,
    );
    assert_eq!(
        (&made[0]["created"], &made[1]["created"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(made[0]["task_id"], made[1]["task_id"]);
    let report = ask(&["audit", "verify"]).await;
    assert_eq!(report["violations"], json!([]));

    let endpoint = || Endpoint::new(&divided.redis.url());
    let letters = DeadLetters::connect(endpoint()).unwrap();
    assert_eq!(
        letters
            .list(&DeadLetterQuery::default(), 99, None)
            .await
            .unwrap()
            .items
            .len(),
        8
    );
    let queue = TaskQueue::connect(TaskQueueOptions::new(&divided.redis.url()))
        .await
        .unwrap();
    assert_eq!(queue.get_statistics().await.unwrap().failed_count, 8);
    let bus = EventBus::new(endpoint()).unwrap();
    let failed: Pattern = "orchestration.task.failed".parse().unwrap();
    let mut subscription = bus.subscribe("billing", failed).await.unwrap();
    for _ in 0..8 {
        assert!(subscription.next(Duration::from_secs(10)).await.unwrap().is_some());
    }
    divided.check_all_ended().await;
}

#[tokio::test]
async fn who_names_another_number_of_partitions_is_told_both() {
    let divided = Divided::start().await;
    let _replica = divided.replica().start().await;

    for words in [
        &["stats"][..],
        &["audit", "verify"],
        &["trigger", "noop"],
        &["dlq", "list"],
        &["doctor"],
    ] {
        let ran = Cli::on(&divided.redis, words)
            .set("WAOOAW_REDIS__PARTITIONS", "3")
            .run()
            .await;
        let ran = ran.expect(2);
        assert!(
            ran.err.contains("redis holds 4 partitions, but 3 are configured"),
            "{words:?}: {ran:?}"
        );
    }

    let mut options = TaskQueueOptions::new(&divided.redis.url());
    options.endpoint.partitions = Some(3);
    let bus = EventBus::new(options.endpoint.clone()).unwrap();
    let letters = DeadLetters::connect(options.endpoint.clone()).unwrap();
    let refused = [
        TaskQueue::connect(options).await.err(),
        bus.subscribe("billing", "*".parse().unwrap()).await.err(),
        letters.get("7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000.1").await.err(),
    ];
    for error in refused {
        assert!(
            matches!(error, Some(Error::Store(StoreError::Partitions { configured: 3, .. }))),
            "{error:?}"
        );
    }
}
