//! A Redis that runs short of memory.

use serde_json::json;
use waooaw_orchestration::Task;

use crate::support::history::check_all_ended;
use crate::support::redis::TestRedis;
use crate::support::{holds, wait_for};

/// Sets the limit so that this part of it is used; by so much that what clients take and give back does not count.
async fn use_part(redis: &TestRedis, part: f64) {
    redis.ask::<usize>(&["SETRANGE", "ballast", "50000000", "x"]).await;
    let info: String = redis.ask(&["INFO", "memory"]).await;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let used: u32 = used.trim().parse().unwrap();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a limit of some megabytes"
    )]
    let limit = (f64::from(used) / part) as u64;
    redis
        .ask::<String>(&["CONFIG", "SET", "maxmemory", &limit.to_string()])
        .await;
}

#[tokio::test]
async fn new_tasks_wait_or_are_refused_when_memory_is_short_and_what_is_there_ends() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().workers(2).start().await;
    let queue = redis.queue().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 4000 } });
    redis
        .trigger_all((0..4).map(|number| (format!("before-{number}"), sleep.clone())))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.created", 4).await;

    use_part(&redis, 0.93).await;
    let refused = wait_for("new tasks are refused", async || {
        match queue.enqueue(Task::new("noop")).await {
            Err(error) => Ok(error),
            Ok(task) => {
                queue.cancel_task(task).await.unwrap();
                Err("it is taken".to_owned())
            }
        }
    })
    .await;
    assert_eq!((refused.code(), refused.is_retryable()), ("RedisUnavailable", true));
    let cause = std::error::Error::source(&refused).unwrap().to_string();
    assert!(cause.contains("short of memory"), "{cause}");
    log.refresh().await;
    let created = log.count("task.created");
    redis.trigger("waits", &json!({ "task_name": "noop" })).await;
    log.until_count("task.completed", 4).await;
    assert_eq!(log.count("task.created"), created, "{}", log.summary());
    assert_eq!(redis.ask::<usize>(&["XLEN", "waooaw:triggers"]).await, 1);

    redis.ask::<String>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    log.until_count("task.completed", 5).await;

    check_all_ended(&redis).await;
}

#[tokio::test]
async fn an_event_that_can_not_be_accepted_stops_no_reader_of_a_full_redis() {
    let redis = TestRedis::start().await;
    let mut first = redis.replica().start().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 60_000 }, "delay_seconds": 60 });
    redis.trigger("delayed", &sleep).await;
    let mut log = redis.log().await;
    log.until_count("task.created", 1).await;
    first.stop().await;
    redis.trigger("bad", &json!({ "no_name": 1 })).await;
    redis.trigger("good", &json!({ "task_name": "noop" })).await;
    redis.add("waooaw:commands", &[(b"event_type", b"nonsense")]).await;
    redis.cancel("cancel", crate::support::redis::task_of("delayed")).await;

    redis.ask::<String>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let _second = redis.replica().start().await;
    log.until_count("trigger.rejected", 1).await;
    log.until_count("command.refused", 1).await;
    log.until_count("task.cancelled", 1).await;
    assert_eq!(log.count("task.created"), 1);
    redis.ask::<String>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    log.until_count("task.completed", 1).await;

    wait_for("nothing is pending", async || {
        let pending = redis.pending("waooaw:triggers", "orchestrators").await;
        holds(pending == 0, || format!("{pending}"))
    })
    .await;
    check_all_ended(&redis).await;
}
