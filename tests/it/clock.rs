//! What happens when the clock of Redis jumps.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::clock::Clock;
use crate::support::history::check_all_ended;
use crate::support::proxy::{Fate, Proxy, Trap};
use crate::support::redis::{TestRedis, task_of};
use crate::support::wait_for;
use waooaw_orchestration::Task;

/// A Redis with a clock of its own, where that can be had.
async fn redis_with_clock() -> Option<(TestRedis, Clock)> {
    let clock = Clock::new()?;
    let redis = TestRedis::not_started(false).with_environment(clock.environment());
    redis.start_again().await;
    Some((redis, clock))
}

#[tokio::test]
async fn a_clock_that_goes_back_makes_no_delay_longer() {
    let Some((redis, clock)) = redis_with_clock().await else {
        return;
    };
    let _replicas = redis.replica().start_many(2).await;
    let retry = json!({ "max_retries": 1, "initial_delay_seconds": 3.0, "max_delay_seconds": 3.0 });
    redis
        .trigger("retried", &json!({ "task_name": "fail", "retry": retry }))
        .await;
    redis
        .trigger("delayed", &json!({ "task_name": "noop", "delay_seconds": 3.0 }))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.retry_scheduled", 1).await;
    log.until_count("task.created", 2).await;
    let began = Instant::now();

    clock.shift(-600);
    log.until_task(task_of("delayed"), "task.completed").await;
    log.until_task(task_of("retried"), "task.failed").await;

    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_delay_that_began_on_a_clock_that_was_ahead_for_a_moment_is_not_longer() {
    let Some((redis, clock)) = redis_with_clock().await else {
        return;
    };
    // So that the name is known, and yet nobody looks at the clock.
    let mut replica = redis.replica().start().await;
    replica.stop().await;

    clock.shift(600);
    let delayed = Task::new("noop").delay(Duration::from_secs(1));
    let task = redis.queue().await.enqueue(delayed).await.unwrap();
    clock.shift(0);
    let _replica = redis.replica().start().await;
    let mut log = redis.log().await;
    log.until_task(task, "task.completed").await;

    check_all_ended(&redis).await;
}

#[tokio::test]
async fn an_assignment_that_got_lost_before_the_clock_went_back_is_found() {
    let Some((redis, clock)) = redis_with_clock().await else {
        return;
    };
    clock.shift(600);
    let proxy = Proxy::start(redis.port()).await;
    let _replica = proxy.replica().start().await;
    let trap = proxy.set(Trap::on("claim", Fate::LoseReply).answered_with("echo"));

    let task = redis.queue().await.enqueue(Task::new("echo")).await.unwrap();
    trap.until_sprung().await;
    clock.shift(0);
    let mut log = redis.log().await;
    log.until_task(task, "task.completed").await;

    assert_eq!(log.life(task).join(" "), "created started completed");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_takes_no_work_from_anybody() {
    let Some((redis, clock)) = redis_with_clock().await else {
        return;
    };
    let _replicas = redis.replica().workers(3).start_many(2).await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 3000 } });
    redis
        .trigger_all((0..6).map(|number| (format!("e-{number}"), sleep.clone())))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.started", 6).await;

    clock.shift(3000);
    wait_for("all are done", async || {
        log.refresh().await;
        let done = log.count("task.completed");
        crate::support::holds(done == 6, || log.summary())
    })
    .await;

    assert_eq!(log.count("task.started"), 6);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_makes_no_handler_unknown() {
    let Some((redis, clock)) = redis_with_clock().await else {
        return;
    };
    let _replica = redis.replica().start().await;
    let mut log = redis.log().await;

    // As when a machine wakes up in the morning.
    clock.shift(8 * 3600);
    redis.trigger("after", &json!({ "task_name": "noop" })).await;
    log.until_task(task_of("after"), "task.completed").await;

    redis
        .trigger("nobody", &json!({ "task_name": "nobody_has_this" }))
        .await;
    log.until_count("trigger.rejected", 1).await;
    check_all_ended(&redis).await;
}

/// What an agent of the id `sales` has in its inbox and has not read.
async fn read_inbox(redis: &TestRedis) -> redis::streams::StreamReadReply {
    let inbox = "waooaw:{0}:agent:sales";
    redis
        .ask(&["XREADGROUP", "GROUP", "sales", "one", "STREAMS", inbox, ">"])
        .await
}

const SALES: &str =
    "[handlers.\"sales.quote\"]\nkind = \"agent\"\nagent_id = \"sales\"\nheartbeat_timeout_seconds = 2\n";

#[tokio::test]
async fn a_clock_that_goes_back_lets_no_agent_be_silent_or_slow_for_longer() {
    let Some((redis, clock)) = redis_with_clock().await else {
        return;
    };
    clock.shift(600);
    let _replica = redis.replica().config(SALES).start().await;
    let once = json!({ "max_retries": 0 });
    let silent = json!({ "task_name": "sales.quote", "retry": once });
    let mut slow = silent.clone();
    slow["timeout_seconds"] = json!(1.5);
    for (event_id, payload) in [("silent", &silent), ("beating", &silent), ("slow", &slow)] {
        redis.trigger(event_id, payload).await;
    }
    let mut log = redis.log().await;
    log.until_count("task.started", 3).await;
    let read = read_inbox(&redis).await;
    assert_eq!(read.keys[0].ids.len(), 3);
    let beat = json!({ "task_id": task_of("beating").to_string(), "attempt": 1, "progress": 1 }).to_string();
    let fields: [(&[u8], &[u8]); 3] = [
        (b"event_type", b"orchestration.task.heartbeat"),
        (b"source_agent", b"sales"),
        (b"payload", beat.as_bytes()),
    ];
    redis.add("waooaw:commands", &fields).await;
    wait_for("the heartbeat is heard", async || {
        let side = redis.store().agent_side(task_of("beating")).await.unwrap();
        crate::support::holds(side.beat_ms.is_some(), || format!("{side:?}"))
    })
    .await;

    clock.shift(0);
    for (event_id, end) in [("silent", "failed"), ("beating", "failed"), ("slow", "timeout")] {
        log.until_task(task_of(event_id), &format!("task.{end}")).await;
    }

    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_makes_no_agent_silent() {
    let Some((redis, clock)) = redis_with_clock().await else {
        return;
    };
    let _replica = redis.replica().config(SALES).start().await;
    redis.trigger("one", &json!({ "task_name": "sales.quote" })).await;
    let mut log = redis.log().await;
    log.until_count("task.started", 1).await;
    let read = read_inbox(&redis).await;
    assert_eq!(read.keys[0].ids.len(), 1);
    let seen_ms = async || -> i64 { redis.ask(&["HGET", "waooaw:{0}:meta", "clock_ms"]).await };
    let before_ms = seen_ms().await;

    clock.shift(3000);
    wait_for("somebody has looked at the timers", async || {
        let seen_ms = seen_ms().await;
        crate::support::holds(seen_ms > before_ms + 2_000_000, || {
            format!("{seen_ms} after {before_ms}")
        })
    })
    .await;
    let answer = json!({ "task_id": task_of("one").to_string(), "attempt": 1, "status": "completed" }).to_string();
    let fields: [(&[u8], &[u8]); 3] = [
        (b"event_type", b"orchestration.task.result"),
        (b"source_agent", b"sales"),
        (b"payload", answer.as_bytes()),
    ];
    redis.add("waooaw:commands", &fields).await;
    log.until_task(task_of("one"), "task.completed").await;

    assert_eq!(log.life(task_of("one")).join(" "), "created started completed");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_leaves_the_attempts_of_agents_their_time() {
    let Some((redis, clock)) = redis_with_clock().await else {
        return;
    };
    let patient = SALES.replace("_seconds = 2", "_seconds = 3600");
    let _replica = redis.replica().config(&patient).start().await;
    let mut task = json!({ "task_name": "sales.quote", "retry": { "max_retries": 0 }, "timeout_seconds": 600 });
    redis.trigger("long", &task).await;
    task["timeout_seconds"] = json!(4);
    redis.trigger("short", &task).await;
    let mut log = redis.log().await;
    log.until_count("task.started", 2).await;
    let began = Instant::now();

    clock.shift(3000);
    log.until_task(task_of("short"), "task.timeout").await;
    let ran = began.elapsed();
    // And back, which makes it no longer.
    clock.shift(0);
    task["timeout_seconds"] = json!(1);
    redis.trigger("later", &task).await;
    log.until_task(task_of("later"), "task.timeout").await;
    let answer = json!({ "task_id": task_of("long").to_string(), "attempt": 1, "status": "completed" }).to_string();
    let fields: [(&[u8], &[u8]); 3] = [
        (b"event_type", b"orchestration.task.result"),
        (b"source_agent", b"sales"),
        (b"payload", answer.as_bytes()),
    ];
    redis.add("waooaw:commands", &fields).await;
    log.until_task(task_of("long"), "task.completed").await;

    // A time in which nobody may have looked is not told from a jump.
    assert!(ran > Duration::from_secs(1) && ran < Duration::from_secs(12), "{ran:?}");
    check_all_ended(&redis).await;
}
