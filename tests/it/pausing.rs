//! Queues that are paused, and limits that an operator sets.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waooaw_orchestration::runtime::operate;
use waooaw_orchestration::{Error, Handlers, Limits, Operator, ReplicaOptions, Task};

use crate::support::cli::Cli;
use crate::support::history::{check, check_all_ended};
use crate::support::local::LocalReplica;
use crate::support::redis::{TestRedis, task_of};
use crate::support::{holds, wait_for};

fn operator() -> Operator {
    Operator::new("night shift", Some("to \"see\""))
}

fn noop(queue: &str) -> Value {
    json!({ "task_name": "noop", "queue": queue })
}

#[tokio::test]
async fn a_replica_whose_every_queue_is_paused_waits_in_peace() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().workers(2).start().await;
    let store = redis.store();
    assert!(operate::pause_queue(&store, &operator(), "default").await.unwrap());
    redis.trigger("waits", &noop("default")).await;
    let mut log = redis.log().await;
    log.until_task(task_of("waits"), "task.created").await;

    assert!(operate::resume_queue(&store, &operator(), "default").await.unwrap());

    log.until_task(task_of("waits"), "task.completed").await;
    assert!(!replica.log().contains("can not wait for work"), "{}", replica.log());
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn nothing_of_a_paused_queue_starts_and_everything_still_enters_it() {
    let redis = TestRedis::start().await;
    let _replicas = redis.replica().workers(4).start_many(2).await;
    let store = redis.store();
    let slow = json!({ "task_name": "sleep", "kwargs": { "ms": 1500 }, "queue": "reports" });
    let flaky = json!({ "task_name": "flaky", "kwargs": { "fail_times": 1 }, "queue": "reports",
        "retry": { "initial_delay_seconds": 0.6, "jitter": 0 } });
    redis.trigger("runs", &slow).await;
    redis.trigger("fails", &flaky).await;
    let mut log = redis.log().await;
    log.until_task(task_of("runs"), "task.started").await;
    log.until_task(task_of("fails"), "task.retry_scheduled").await;

    assert!(operate::pause_queue(&store, &operator(), "reports").await.unwrap());
    assert!(!operate::pause_queue(&store, &operator(), "reports").await.unwrap());
    redis.trigger("new", &noop("reports")).await;
    let mut delayed = noop("reports");
    delayed["delay_seconds"] = json!(0.3);
    redis.trigger("due", &delayed).await;
    redis.trigger("other", &noop("default")).await;
    // What ran goes on, and another queue does not notice.
    log.until_task(task_of("other"), "task.completed").await;
    log.until_task(task_of("runs"), "task.completed").await;
    wait_for("the retry and the delayed task are due", async || {
        let queue = operate::queue(&store, "reports").await.unwrap();
        let delayed: usize = redis.ask(&["ZCARD", "waooaw:{0}:timers"]).await;
        holds(queue.pending_count == 3 && delayed == 0, || {
            format!("{queue:?}, {delayed} delayed")
        })
    })
    .await;

    // A program that takes any task is told the same.
    let none = redis.queue().await.dequeue(Duration::from_millis(200)).await.unwrap();
    assert!(none.is_none(), "{none:?}");
    log.refresh().await;
    assert_eq!(log.life(task_of("new")), ["created"]);
    assert_eq!(log.life(task_of("fails")), ["created", "started", "retry_scheduled"]);
    let queue = operate::queue(&store, "reports").await.unwrap();
    assert!(queue.paused && queue.ready_count == 0 && queue.running_count == 0);
    assert_eq!(queue.paused_by.as_deref(), Some("night shift"));
    assert_eq!(queue.paused_reason.as_deref(), Some("to \"see\""));
    assert!(queue.oldest_waiting_seconds.unwrap() >= 0.0);
    check(&redis).await;

    let asked = Instant::now();
    assert!(operate::resume_queue(&store, &operator(), "reports").await.unwrap());
    log.until_task(task_of("new"), "task.started").await;
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    log.until_task(task_of("fails"), "task.completed").await;
    log.until_task(task_of("due"), "task.completed").await;

    let actions: Vec<(&str, &str, &str)> = log
        .all("operator.action")
        .iter()
        .map(|event| (event.text("action"), event.text("target"), event.text("actor")))
        .collect();
    assert_eq!(
        actions,
        [
            ("pause", "reports", "night shift"),
            ("resume", "reports", "night shift")
        ]
    );
    assert_eq!(log.all("operator.action")[0].text("reason"), "to \"see\"");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_pause_outlives_replicas_and_redis() {
    let redis = TestRedis::start_durable().await;
    let mut replica = redis.replica().start().await;
    operate::pause_queue(&redis.store(), &operator(), "default")
        .await
        .unwrap();
    assert!(replica.stop().await.success());
    redis.stop().await;
    redis.start_again().await;

    let _replica = redis.replica().start().await;
    redis.trigger("waits", &noop("default")).await;
    let mut log = redis.log().await;
    log.until_task(task_of("waits"), "task.created").await;
    redis.trigger("passes", &noop("other")).await;
    log.until_task(task_of("passes"), "task.completed").await;

    assert_eq!(log.life(task_of("waits")), ["created"]);
    operate::resume_queue(&redis.store(), &operator(), "default")
        .await
        .unwrap();
    log.until_task(task_of("waits"), "task.completed").await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_parked_task_of_a_paused_queue_waits_too() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    let id = queue.enqueue(Task::new("multiply").args([6, 7])).await.unwrap();
    let handlers = Handlers::new().with_async("other", |(): (), _| async move { Ok(0) });
    let lacks_it = LocalReplica::start(&redis, ReplicaOptions::new(handlers)).await;
    wait_for("the task is parked", async || {
        let parked: usize = redis.ask(&["XLEN", "waooaw:{0}:parked:multiply:normal"]).await;
        holds(parked == 1, || format!("{parked} are"))
    })
    .await;
    check(&redis).await;

    operate::pause_queue(&redis.store(), &operator(), "default")
        .await
        .unwrap();
    let _has_it = redis.replica().start().await;
    wait_for("it is back in its queue", async || {
        let waiting: usize = redis.ask(&["XLEN", "waooaw:{0}:queue:default:normal"]).await;
        holds(waiting == 1, || format!("{waiting} wait"))
    })
    .await;
    check(&redis).await;
    let mut log = redis.log().await;
    assert_eq!(log.life(id), ["created"]);

    operate::resume_queue(&redis.store(), &operator(), "default")
        .await
        .unwrap();
    log.until_task(id, "task.completed").await;
    lacks_it.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn limits_that_an_operator_set_outlive_what_is_configured() {
    let redis = TestRedis::start().await;
    let configured = redis.replica().workers(6).set("TASK_QUEUE_MAX_RUNNING", "1");
    let mut first = configured.set("TASK_QUEUE_MAX_SIZE", "50").start().await;
    let store = redis.store();
    let sleep = |ms: u64| json!({ "task_name": "sleep", "kwargs": { "ms": ms } });
    redis
        .trigger_all((0..4).map(|number| (format!("e-{number}"), sleep(2500))))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.created", 4).await;
    log.until_count("task.started", 1).await;

    let limits = Limits {
        max_running: Some(4),
        ..Limits::default()
    };
    let asked = Instant::now();
    assert!(operate::set_limits(&store, &operator(), None, limits).await.unwrap());
    log.until_count("task.started", 4).await;
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(!operate::set_limits(&store, &operator(), None, limits).await.unwrap());
    log.until_count("task.completed", 4).await;
    assert!(first.stop().await.success());

    // Only what was set stays: the other limit is still the configuration's.
    let other = redis
        .replica()
        .set("TASK_QUEUE_MAX_RUNNING", "2")
        .set("TASK_QUEUE_MAX_SIZE", "70");
    let _second = other.start().await;
    let statistics = redis.queue().await.get_statistics().await.unwrap();
    assert_eq!((statistics.max_running, statistics.max_size), (4, 70));
    log.refresh().await;
    let told = log.all("operator.action");
    assert_eq!((told.len(), &told[0].payload["max_running"]), (1, &json!(4)));
    assert_eq!((told[0].text("action"), told[0].text("target")), ("set", "*"));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn the_command_line_pauses_resumes_and_sets() {
    let redis = TestRedis::start().await;
    // Before anybody ran.
    let list = Cli::on(&redis, &["queue", "list", "--output", "json"]).json().await;
    assert_eq!(list["items"][0]["name"], "default");
    Cli::on(&redis, &["queue", "pause", "other", "--output", "json"])
        .run()
        .await
        .refused(4, "QueueNotFound");
    let set = Cli::on(&redis, &["queue", "set", "--max-size", "3", "--output", "json"])
        .json()
        .await;
    assert_eq!((&set["changed"], &set["max_size"]), (&json!(true), &json!(3)));
    let _replica = redis.replica().set("TASK_QUEUE_MAX_SIZE", "9").start().await;

    let words = [
        "queue", "pause", "default", "--actor", "me", "--reason", "why not", "--output", "json",
    ];
    let paused = Cli::on(&redis, &words).json().await;
    assert_eq!((&paused["changed"], &paused["paused"]), (&json!(true), &json!(true)));
    assert_eq!(
        (&paused["paused_by"], &paused["paused_reason"]),
        (&json!("me"), &json!("why not"))
    );
    assert_eq!(Cli::on(&redis, &words).json().await["changed"], false);
    Cli::on(&redis, &["trigger", "noop", "--priority", "HIGH"])
        .run()
        .await
        .expect(0);
    let list = Cli::on(&redis, &["queue", "list", "--output", "json"]).json().await;
    let queue = &list["items"][0];
    assert_eq!(
        (&queue["name"], &queue["by_priority"]["HIGH"]),
        (&json!("default"), &json!(1))
    );
    assert_eq!(
        (&queue["pending_count"], &list["next_cursor"]),
        (&json!(1), &Value::Null)
    );
    let table = Cli::on(&redis, &["queue", "list"]).run().await.expect(0);
    assert!(table.out.contains("by me: why not"), "{}", table.out);
    table.is_plain();

    Cli::on(&redis, &["queue", "resume", "default"]).run().await.expect(0);
    redis.log().await.until_count("task.completed", 1).await;
    Cli::on(&redis, &["queue", "resume", "nowhere", "--output", "json"])
        .run()
        .await
        .refused(4, "QueueNotFound");
    Cli::on(
        &redis,
        &["queue", "set", "nowhere", "--max-size", "3", "--output", "json"],
    )
    .run()
    .await
    .refused(4, "QueueNotFound");
    Cli::on(&redis, &["queue", "set", "--output", "json"])
        .run()
        .await
        .refused(2, "Usage");
    let set = Cli::on(
        &redis,
        &["queue", "set", "default", "--max-running", "7", "--output", "json"],
    )
    .json()
    .await;
    assert_eq!((&set["max_size"], &set["max_running"]), (&json!(3), &json!(7)));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_queue_is_paused_before_anything_of_it_is_taken_for_known() {
    let redis = TestRedis::start().await;
    let _queue = redis.queue().await;

    let unknown = operate::pause_queue(&redis.store(), &operator(), "no such").await;
    assert!(matches!(unknown, Err(Error::QueueNotFound(_))), "{unknown:?}");
    let without = operate::set_limits(&redis.store(), &operator(), None, Limits::default()).await;
    assert!(matches!(without, Err(Error::InvalidField(_))), "{without:?}");
}

#[tokio::test]
async fn delayed_and_blocked_tasks_count_in_their_queue() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    for number in 0..3 {
        let task = Task::new("later").queue("reports").delay(Duration::from_secs(3600));
        queue.enqueue(task.event_id(&format!("{number}"))).await.unwrap();
    }
    let statistics = queue.get_statistics().await.unwrap();
    let reports = &statistics.by_queue["reports"];
    assert_eq!((reports.pending_count, reports.by_priority["NORMAL"]), (3, 3));
    assert!(statistics.oldest_pending_at.is_some());
    let listed = operate::queue(&redis.store(), "reports").await.unwrap();
    assert_eq!((listed.pending_count, listed.ready_count), (3, 0));
    // It has no stream yet, and can be paused all the same.
    assert!(
        operate::pause_queue(&redis.store(), &operator(), "reports")
            .await
            .unwrap()
    );

    let first: waooaw_orchestration::TaskId = queue
        .enqueue(
            Task::new("later")
                .queue("reports")
                .event_id("1")
                .delay(Duration::from_secs(3600)),
        )
        .await
        .unwrap();
    assert!(queue.cancel_task(first).await.unwrap());
    assert_eq!(
        queue.get_statistics().await.unwrap().by_queue["reports"].pending_count,
        2
    );
    check(&redis).await;
}
