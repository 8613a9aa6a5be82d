//! What somebody breaks who writes past the functions: it costs what was broken, and nothing beside it.

use serde_json::json;

use crate::support::history::{check, check_all_ended};
use crate::support::redis::{TestRedis, task_of};
use crate::support::workflow::publish;
use crate::support::{holds, wait_for};

/// The stream of the tasks of normal priority in the usual queue.
const QUEUE: &str = "waooaw:{0}:queue:default:normal";

/// The key of a task's record.
fn record_of(event_id: &str) -> String {
    format!("waooaw:{{0}}:t:{}", task_of(event_id))
}

#[tokio::test]
async fn a_group_that_was_removed_under_running_tasks_costs_none_of_them() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().workers(2).start().await;
    let mut log = redis.log().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 1000 } });
    redis
        .trigger_all((0..2).map(|number| (format!("long {number}"), sleep.clone())))
        .await;
    log.until_count("task.started", 2).await;
    redis
        .trigger_all((0..10).map(|number| (format!("short {number}"), json!({ "task_name": "noop" }))))
        .await;
    log.until_count("task.created", 12).await;

    let _: u64 = redis.ask(&["XGROUP", "DESTROY", QUEUE, "workers"]).await;
    log.until_count("task.completed", 12).await;

    check_all_ended(&redis).await;
    assert_eq!((log.count("task.started"), log.count("task.retry_scheduled")), (12, 0));
}

#[tokio::test]
async fn a_group_that_was_removed_while_its_tasks_waited_is_made_anew() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().workers(2).start().await;
    let mut log = redis.log().await;
    // Two queues, one of which never had anything.
    redis
        .trigger("first", &json!({ "task_name": "noop", "queue": "other" }))
        .await;
    log.until_count("task.completed", 1).await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 1500 } });
    redis
        .trigger_all((0..2).map(|number| (format!("long {number}"), sleep.clone())))
        .await;
    log.until_count("task.started", 3).await;
    redis
        .trigger("waits", &json!({ "task_name": "noop", "queue": "other" }))
        .await;
    log.until_count("task.created", 4).await;

    let other = "waooaw:{0}:queue:other:normal";
    let _: u64 = redis.ask(&["XGROUP", "DESTROY", other, "workers"]).await;
    log.until_task(task_of("waits"), "task.completed").await;

    log.until_count("task.completed", 4).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn tasks_whose_group_was_made_anew_are_still_taken_over_when_their_replica_dies() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(2);
    let mut owner = settings.start().await;
    let mut log = redis.log().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 6000 } });
    redis
        .trigger_all((0..2).map(|number| (format!("long {number}"), sleep.clone())))
        .await;
    log.until_count("task.started", 2).await;
    let _other = settings.start().await;

    let _: u64 = redis.ask(&["XGROUP", "DESTROY", QUEUE, "workers"]).await;
    // Handing it out makes the group anew, and meets what runs again.
    redis.trigger("short", &json!({ "task_name": "noop" })).await;
    log.until_task(task_of("short"), "task.completed").await;
    check(&redis).await;
    owner.kill();
    log.until_count("task.completed", 3).await;

    check_all_ended(&redis).await;
    assert_eq!(log.count("task.retry_scheduled"), 2);
}

#[tokio::test]
async fn a_damaged_record_takes_no_other_task_with_it() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().workers(1).start().await;
    let mut log = redis.log().await;
    redis
        .trigger("long", &json!({ "task_name": "sleep", "kwargs": { "ms": 1500 } }))
        .await;
    log.until_count("task.started", 1).await;
    redis
        .trigger_all((0..6).map(|number| (format!("{number}"), json!({ "task_name": "noop" }))))
        .await;
    log.until_count("task.created", 7).await;

    redis.ask::<()>(&["SET", &record_of("1"), "too short"]).await;
    redis.ask::<()>(&["DEL", &record_of("2")]).await;
    redis.ask::<()>(&["HSET", &record_of("2"), "of another", "kind"]).await;
    // Its header stays, and what is behind it is none of ours.
    redis
        .ask::<()>(&["SETRANGE", &record_of("3"), "63", &"x".repeat(40)])
        .await;
    for number in [0, 4, 5] {
        let task = task_of(&number.to_string());
        let ended = log.until_task(task, "task.completed").await;
        assert_eq!(ended.payload["attempt"], 1);
    }
    let failed = log.until_task(task_of("3"), "task.failed").await;

    assert_eq!(failed.payload["error"]["type"], "damaged");
    wait_for("the queue is empty", async || {
        let pending = redis.pending(QUEUE, "workers").await;
        let length: usize = redis.ask(&["XLEN", QUEUE]).await;
        holds((pending, length) == (0, 0), || format!("{pending} of {length}"))
    })
    .await;
    assert!(!replica.log().contains("ERROR"), "{}", replica.log());
}

#[tokio::test]
async fn a_damaged_record_keeps_no_other_task_with_a_dead_replica() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(3);
    let mut victim = settings.start().await;
    let mut log = redis.log().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 1000 } });
    redis
        .trigger_all((0..3).map(|number| (format!("{number}"), sleep.clone())))
        .await;
    log.until_count("task.started", 3).await;

    victim.kill();
    redis.ask::<()>(&["SET", &record_of("0"), "too short"]).await;
    redis.ask::<()>(&["DEL", &record_of("1")]).await;
    redis.ask::<()>(&["HSET", &record_of("1"), "of another", "kind"]).await;
    let _other = settings.start().await;

    log.until_task(task_of("2"), "task.completed").await;
}

#[tokio::test]
async fn a_task_whose_inputs_can_not_be_read_fails_by_its_policy_and_does_not_run_wild() {
    // So many that they are asked for one by one.
    const PARENTS: usize = 20;
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let parents: Vec<String> = (0..PARENTS).map(|number| format!("p{number}")).collect();
    let mut tasks: Vec<_> = parents
        .iter()
        .map(|key| json!({ "task_id": key, "name": "noop" }))
        .collect();
    tasks.push(json!({
        "task_id": "child", "name": "noop", "dependencies": parents, "delay_seconds": 2, "retry": "QUICK", "max_retries": 1
    }));
    publish(
        &redis,
        "workflow.start",
        "wf",
        &json!({ "workflow_id": "w", "tasks": tasks }),
    )
    .await;
    log.until_count("task.completed", PARENTS).await;

    let broken = log.all("task.completed")[0].subject.clone();
    redis
        .ask::<()>(&["SETRANGE", &format!("waooaw:{{0}}:t:{broken}"), "63", "???\n\n"])
        .await;
    log.until_count("task.dead_lettered", 1).await;

    let failed = log.all("task.failed")[0];
    assert_eq!(failed.payload["error"]["type"], "inputs_unreadable");
    assert_eq!(
        log.life(failed.subject.parse().unwrap()).join(" "),
        "created started retry_scheduled started failed dead_lettered"
    );
    assert_eq!(log.count("task.released"), 0);
}
