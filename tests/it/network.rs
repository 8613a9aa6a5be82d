//! What happens when the way to Redis is bad: answers that get lost after the fact, and connections that go silent.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waooaw_orchestration::{Task, TaskId};

use crate::support::history::{check, check_all_ended};
use crate::support::proxy::{Fate, Proxy, Trap};
use crate::support::redis::{TestRedis, task_of};
use crate::support::replica::ReplicaProcess;
use crate::support::{holds, wait_for, wait_within};

/// A Redis, a way to it and a replica at the end of it.
struct Line {
    redis: TestRedis,
    proxy: Proxy,
    replica: ReplicaProcess,
}

impl Line {
    async fn new() -> Self {
        let redis = TestRedis::start().await;
        let proxy = Proxy::start(redis.port()).await;
        let replica = proxy.replica().workers(4).start().await;
        Self { redis, proxy, replica }
    }

    async fn trigger(&self, event_id: &str, payload: Value) -> TaskId {
        self.redis.trigger(event_id, &payload).await;
        task_of(event_id)
    }

    /// Waits for the task's end, and answers what happened to it.
    async fn life_of(&self, task: TaskId, end: &str) -> String {
        let mut log = self.redis.log().await;
        log.until_task(task, end).await;
        check_all_ended(&self.redis).await;
        log.refresh().await;
        log.life(task).join(" ")
    }
}

#[tokio::test]
async fn a_lost_answer_of_create_makes_no_second_task_and_loses_none() {
    let line = Line::new().await;
    // Idle slots take the task in the same call: what it handed out is in the answer that gets lost.
    let trap = line
        .proxy
        .set(Trap::on("create", Fate::LoseReply).answered_with("echo"));

    let task = line
        .trigger("once", json!({ "task_name": "echo", "args": ["hello"] }))
        .await;

    assert_eq!(line.life_of(task, "task.completed").await, "created started completed");
    assert_eq!(trap.sprung(), 1);
}

#[tokio::test]
async fn a_lost_answer_of_claim_is_found_by_the_next_beat() {
    let line = Line::new().await;
    let trap = line.proxy.set(Trap::on("claim", Fate::LoseReply).answered_with("echo"));

    let task = line.redis.queue().await.enqueue(Task::new("echo")).await.unwrap();
    let began = Instant::now();

    assert_eq!(line.life_of(task, "task.completed").await, "created started completed");
    assert_eq!(trap.sprung(), 1);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_a_lost_answer_handed_to_a_replica_without_a_free_worker_runs_elsewhere() {
    let redis = TestRedis::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let _busy = proxy.replica().workers(1).start().await;
    let trap = proxy.set(Trap::on("claim", Fate::LoseReply).answered_with("echo"));

    let queue = redis.queue().await;
    let lost = queue.enqueue(Task::new("echo")).await.unwrap();
    trap.until_sprung().await;
    let sleeping = queue
        .enqueue(Task::new("sleep").kwargs(json!({ "ms": 20_000 })))
        .await
        .unwrap();
    let mut log = redis.log().await;
    log.until_task(sleeping, "task.started").await;
    let _other = redis.replica().workers(1).start().await;
    log.until_task(lost, "task.completed").await;

    assert_eq!(log.life(lost).join(" "), "created started released started completed");
    assert_eq!(log.all("task.released")[0].text("reason"), "no_worker");
    assert_eq!(log.life(sleeping).join(" "), "created started");
    queue.cancel_task(sleeping).await.unwrap();
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_lost_answer_of_settle_ends_nothing_twice() {
    let line = Line::new().await;
    let trap = line.proxy.set(Trap::on("settle", Fate::LoseReply).times(3));

    let sleep = line
        .trigger("sleep", json!({ "task_name": "sleep", "kwargs": { "ms": 100 } }))
        .await;
    let retry = json!({ "max_retries": 3, "initial_delay_seconds": 0.2, "max_delay_seconds": 1.0 });
    let flaky = json!({ "task_name": "flaky", "kwargs": { "fail_times": 1 }, "retry": retry });
    let flaky = line.trigger("flaky", flaky).await;
    let fail = line
        .trigger("fail", json!({ "task_name": "fail", "max_retries": 0 }))
        .await;

    trap.until_sprung().await;
    assert_eq!(line.life_of(sleep, "task.completed").await, "created started completed");
    let told = line.life_of(flaky, "task.completed").await;
    assert_eq!(told, "created started retry_scheduled started completed");
    let told = line.life_of(fail, "task.dead_lettered").await;
    assert_eq!(told, "created started failed dead_lettered");
}

#[tokio::test]
async fn a_lost_answer_of_settle_that_handed_out_work_leaves_none_behind() {
    let redis = TestRedis::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let _replica = proxy.replica().workers(1).start().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 50 } });
    redis.trigger("first", &sleep).await;
    redis.log().await.until_task(task_of("first"), "task.started").await;
    let trap = proxy.set(Trap::on("settle", Fate::LoseReply).answered_with("sleep"));

    redis
        .trigger_all((0..6).map(|number| (format!("e-{number}"), sleep.clone())))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 7).await;

    assert_eq!(trap.sprung(), 1);
    assert_eq!(log.count("task.started"), 7);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_lost_answer_of_cancel_refuses_nothing() {
    let line = Line::new().await;
    let task = line
        .trigger("long", json!({ "task_name": "sleep", "kwargs": { "ms": 60_000 } }))
        .await;
    line.redis.log().await.until_task(task, "task.started").await;
    let trap = line.proxy.set(Trap::on("cancel", Fate::LoseReply));

    line.redis.cancel("end it", task).await;

    assert_eq!(line.life_of(task, "task.cancelled").await, "created started cancelled");
    trap.until_sprung().await;
    check(&line.redis).await;
    assert_eq!(line.redis.log().await.count("command.refused"), 0);
}

#[tokio::test]
async fn a_lost_answer_of_acknowledge_leaves_nothing_pending() {
    let line = Line::new().await;
    let trap = line.proxy.set(Trap::on("acknowledge", Fate::LoseReply).times(2));

    let task = line.trigger("once", json!({ "task_name": "noop" })).await;

    assert_eq!(line.life_of(task, "task.completed").await, "created started completed");
    trap.until_sprung().await;
    check(&line.redis).await;
}

#[tokio::test]
async fn lost_answers_of_beats_leave_a_replica_its_name_and_its_work() {
    let line = Line::new().await;
    let id = line.replica.id().await;
    let trap = line.proxy.set(Trap::on("beat", Fate::LoseReply).times(3));

    let task = line
        .trigger("long", json!({ "task_name": "sleep", "kwargs": { "ms": 3000 } }))
        .await;

    assert_eq!(line.life_of(task, "task.completed").await, "created started completed");
    trap.until_sprung().await;
    assert_eq!(line.replica.id().await, id);
}

#[tokio::test]
async fn a_lost_answer_of_join_lets_nobody_join_twice() {
    let redis = TestRedis::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let trap = proxy.set(Trap::on("join", Fate::LoseReply).times(2));

    let replica = proxy.replica().start().await;

    assert_eq!(trap.sprung(), 2);
    let beats: Vec<String> = redis.ask(&["HKEYS", "waooaw:{0}:beats"]).await;
    assert_eq!(beats, [replica.id().await]);
    assert_eq!(redis.log().await.count("worker_pool.status"), 1);
    check(&redis).await;
}

#[tokio::test]
async fn lost_answers_of_promote_and_reject_do_their_work_once() {
    let line = Line::new().await;
    let promote = line.proxy.set(Trap::on("promote", Fate::LoseReply).times(2));
    let reject = line.proxy.set(Trap::on("reject", Fate::LoseReply));

    line.redis.trigger("wrong", &json!({ "no_such_field": 1 })).await;
    let task = line
        .trigger("later", json!({ "task_name": "noop", "delay_seconds": 0.5 }))
        .await;

    assert_eq!(line.life_of(task, "task.completed").await, "created started completed");
    promote.until_sprung().await;
    reject.until_sprung().await;
    check_all_ended(&line.redis).await;
    assert_eq!(line.redis.log().await.count("trigger.rejected"), 1);
}

#[tokio::test]
async fn a_lost_answer_of_takeover_takes_nothing_twice() {
    let redis = TestRedis::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let mut victim = redis.replica().workers(2).start().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 500 } });
    let endless = json!({ "task_name": "sleep", "kwargs": { "ms": 30_000 } });
    redis.trigger("long", &endless).await;
    let mut log = redis.log().await;
    log.until_task(task_of("long"), "task.started").await;
    let _other = proxy.replica().workers(2).start().await;
    let trap = proxy.set(Trap::on("takeover", Fate::LoseReply));

    victim.kill();
    redis.trigger("short", &sleep).await;
    trap.until_sprung().await;
    log.until_count("task.retry_scheduled", 1).await;
    log.until("the other runs it", |log| {
        (log.life(task_of("long")).len() >= 4).then_some(())
    })
    .await;
    redis.cancel("enough", task_of("long")).await;

    log.until_task(task_of("long"), "task.cancelled").await;
    let life = log.life(task_of("long")).join(" ");
    assert_eq!(life, "created started retry_scheduled started cancelled");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_lost_answer_of_leave_keeps_no_replica_from_ending() {
    let mut line = Line::new().await;
    let id = line.replica.id().await;
    let trap = line.proxy.set(Trap::on("leave", Fate::LoseReply));

    assert!(line.replica.stop().await.success());

    assert_eq!(trap.sprung(), 1);
    let beats: Vec<String> = line.redis.ask(&["HKEYS", "waooaw:{0}:beats"]).await;
    assert_eq!(beats, Vec::<String>::new());
    assert_eq!(line.redis.log().await.of(&id).last().unwrap().text("state"), "left");
    check(&line.redis).await;
}

#[tokio::test]
async fn a_reader_on_a_silent_connection_hears_again_within_its_deadline() {
    let line = Line::new().await;
    let trap = line
        .proxy
        .set(Trap::on("XREADGROUP", Fate::SilenceReply).about("waooaw:triggers"));
    trap.until_sprung().await;
    let began = Instant::now();

    let task = line.trigger("after", json!({ "task_name": "noop" })).await;

    // It waits 2 s for entries and 2 s more for an answer, then it connects anew.
    assert_eq!(line.life_of(task, "task.completed").await, "created started completed");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_trigger_that_was_read_into_a_silent_connection_is_not_lost() {
    let line = Line::new().await;
    let trap = line
        .proxy
        .set(Trap::on("XREADGROUP", Fate::SilenceReply).answered_with("swallowed"));

    let task = line.trigger("swallowed", json!({ "task_name": "noop" })).await;
    trap.until_sprung().await;
    let began = Instant::now();

    assert_eq!(line.life_of(task, "task.completed").await, "created started completed");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_doorbell_on_a_silent_connection_rings_again_within_its_deadline() {
    let line = Line::new().await;
    let trap = line.proxy.set(Trap::on("XREAD", Fate::SilenceReply).about(":ready"));
    trap.until_sprung().await;
    let began = Instant::now();

    // Not by a trigger, since creating hands out work on the side.
    let task = line.redis.queue().await.enqueue(Task::new("noop")).await.unwrap();

    assert_eq!(line.life_of(task, "task.completed").await, "created started completed");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_result_on_a_silent_connection_arrives_within_the_deadline_of_an_answer() {
    for fate in [Fate::SilenceReply, Fate::SilenceRequest] {
        let line = Line::new().await;
        let trap = line.proxy.set(Trap::on("settle", fate));

        let task = line.trigger("once", json!({ "task_name": "noop" })).await;
        trap.until_sprung().await;
        let began = Instant::now();

        // An answer may take 5 s (`redis.response_timeout`).
        assert_eq!(line.life_of(task, "task.completed").await, "created started completed");
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_replica_whose_connections_all_go_silent_for_a_moment_keeps_its_work() {
    let line = Line::new().await;
    let other = line.redis.replica().workers(1).start().await;
    let id = line.replica.id().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 15_000 } });
    line.redis
        .trigger_all((0..5).map(|number| (format!("e-{number}"), sleep.clone())))
        .await;
    let mut log = line.redis.log().await;
    log.until_count("task.started", 5).await;
    // The worst moment is just before a beat: its request gets lost, and the one before is two seconds old.
    let trap = line.proxy.set(Trap::on("beat", Fate::SilenceRequest));
    trap.until_sprung().await;
    line.proxy.silence();
    tokio::time::sleep(Duration::from_millis(500)).await;
    line.proxy.heal();

    log.until_count("task.completed", 5).await;

    assert_eq!(log.count("task.started"), 5, "{}", log.summary());
    assert_eq!(line.replica.id().await, id);
    drop(other);
    check_all_ended(&line.redis).await;
}

#[tokio::test]
async fn a_replica_that_is_refused_for_a_while_is_fenced_and_comes_back_under_a_new_name() {
    let line = Line::new().await;
    let _other = line.redis.replica().workers(4).start().await;
    let id = line.replica.id().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 20_000 } });
    line.redis
        .trigger_all((0..8).map(|number| (format!("e-{number}"), sleep.clone())))
        .await;
    let mut log = line.redis.log().await;
    log.until_count("task.started", 8).await;

    line.proxy.refuse();
    wait_for("nothing passes", async || {
        let open = line.proxy.connections();
        holds(open == 0, || format!("{open} connections"))
    })
    .await;
    log.until_count("task.retry_scheduled", 4).await;
    line.proxy.heal();
    wait_within(Duration::from_secs(15), "it joins under a new name", async || {
        let answer = line.replica.get("/readyz").await;
        let is_new = answer
            .as_ref()
            .is_some_and(|(status, body)| *status == 200 && body["replica"] != json!(id));
        holds(is_new, || format!("{answer:?}"))
    })
    .await;
    for number in 0..8 {
        line.redis
            .cancel(&format!("c-{number}"), task_of(&format!("e-{number}")))
            .await;
    }

    wait_for("all are cancelled", async || {
        log.refresh().await;
        holds(log.count("task.cancelled") == 8, || log.summary())
    })
    .await;
    for event in log.all("task.retry_scheduled") {
        let message = event.payload["error"]["message"].as_str().unwrap();
        assert!(message.contains(&id), "{message}");
    }
    check_all_ended(&line.redis).await;
}
