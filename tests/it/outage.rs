//! What happens while Redis is away, and after.

use std::time::Duration;

use serde_json::json;
use waooaw_orchestration::store::library::LIBRARY;

use crate::support::history::check_all_ended;
use crate::support::proxy::{Fate, Proxy, Trap};
use crate::support::redis::{TestRedis, task_of, trigger_fields};
use crate::support::{holds, wait_for};

/// Publishes `count` triggers at a steady pace, each again and again until Redis has taken it.
async fn publish_through(redis: &TestRedis, count: usize, ms: u64) {
    for number in 0..count {
        let payload = json!({ "task_name": "sleep", "kwargs": { "ms": ms } }).to_string();
        let event_id = format!("e-{number}");
        let mut command = redis::cmd("XADD");
        command.arg("waooaw:triggers").arg("*");
        for (name, value) in trigger_fields(&event_id, &payload) {
            command.arg(name).arg(value);
        }
        while redis.try_send::<String>(&command).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_redis_under_load_everything_accepted_is_done() {
    const COUNT: usize = 600;
    let redis = TestRedis::start_durable().await;
    let settings = redis.replica().workers(4).set("TASK_QUEUE_MAX_SIZE", "0");
    let mut replicas = settings.start_many(3).await;
    // They run when Redis goes and end while it is away.
    redis
        .trigger_all((0..6).map(|number| {
            let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 3000 }, "priority": "HIGH" });
            (format!("across {number}"), sleep)
        }))
        .await;
    redis.log().await.until_count("task.started", 6).await;

    let outage = async {
        redis.log().await.until_count("task.completed", 50).await;
        redis.stop().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        redis.start_again().await;
    };
    tokio::join!(publish_through(&redis, COUNT, 10), outage);
    let mut log = redis.log().await;
    wait_for("everything is done", async || {
        log.refresh().await;
        holds(log.count("task.completed") >= COUNT + 6, || log.summary())
    })
    .await;

    check_all_ended(&redis).await;
    for kind in [
        "task.retry_scheduled",
        "task.failed",
        "task.cancelled",
        "trigger.rejected",
    ] {
        assert_eq!(log.count(kind), 0, "{}", log.summary());
    }
    assert_eq!(log.count("task.created"), COUNT + 6);
    assert!(
        !log.all("worker_pool.status")
            .iter()
            .any(|event| event.text("state") == "lost")
    );
    for replica in &mut replicas {
        assert!(replica.is_alive());
        replica.until_readiness(200, Duration::from_secs(15)).await;
    }
}

#[tokio::test]
async fn a_replica_that_does_not_get_through_to_redis_is_not_ready_until_it_does() {
    let redis = TestRedis::start_durable().await;
    let replicas = redis.replica().start_many(2).await;

    redis.stop().await;
    for replica in &replicas {
        replica.until_readiness(503, Duration::from_secs(15)).await;
        assert_eq!(replica.get("/healthz").await.unwrap().0, 200);
    }
    redis.start_again().await;
    for replica in &replicas {
        replica.until_readiness(200, Duration::from_secs(15)).await;
    }

    redis
        .trigger_all((0..20).map(|number| (format!("e-{number}"), json!({ "task_name": "noop" }))))
        .await;
    redis.log().await.until_count("task.completed", 20).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_trigger_whose_task_redis_forgot_is_not_acknowledged() {
    let redis = TestRedis::start_durable().await;
    let proxy = Proxy::start(redis.port()).await;
    let replica = proxy.replica().start().await;
    // The replica knows that the task was made, and has not said that it is done with the trigger.
    let trap = proxy.set(Trap::on("acknowledge", Fate::SilenceRequest));
    redis.trigger("once", &json!({ "task_name": "noop" })).await;
    redis.log().await.until_task(task_of("once"), "task.started").await;
    trap.until_sprung().await;
    // Nor does it read the trigger again before it says so: it takes longer to find out that its reader is deaf.
    let deaf = proxy.set(Trap::on("XREADGROUP", Fate::SilenceReply).about("waooaw:triggers"));
    deaf.until_sprung().await;

    redis.lose_power_before(r#""trigger_event_id":"once""#).await;
    redis.log().await.until_task(task_of("once"), "task.completed").await;

    let log = redis.log().await;
    assert_eq!(log.life(task_of("once")).join(" "), "created started completed");
    check_all_ended(&redis).await;
    drop(replica);
}

#[tokio::test]
async fn the_library_says_that_redis_is_away_and_works_again_by_itself() {
    let redis = TestRedis::start_durable().await;
    let queue = redis.queue().await;
    let task = || waooaw_orchestration::Task::new("work");
    queue.enqueue(task()).await.unwrap();

    redis.stop().await;
    let refused = queue.enqueue(task()).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.is_retryable()),
        ("RedisUnavailable", true),
        "{refused:?}"
    );
    redis.start_again().await;

    wait_for("the queue works again", async || {
        let outcome = queue.enqueue(task().event_id("again")).await;
        holds(outcome.is_ok(), || format!("{outcome:?}"))
    })
    .await;
    assert_eq!(queue.get_statistics().await.unwrap().pending_count, 2);
}

#[tokio::test]
async fn taking_a_task_waits_no_longer_than_asked_while_redis_is_away() {
    let redis = TestRedis::start_durable().await;
    let queue = redis.queue().await;
    redis.stop().await;

    let began = std::time::Instant::now();
    let refused = queue.dequeue(Duration::from_millis(500)).await.unwrap_err();

    assert_eq!(refused.code(), "RedisUnavailable");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    redis.start_again().await;
    queue.enqueue(waooaw_orchestration::Task::new("work")).await.unwrap();
    let task = queue.dequeue(Duration::from_secs(10)).await.unwrap();
    queue.complete_task(task.unwrap().task_id, &1).await.unwrap();
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_replica_that_can_not_settle_gives_up_and_others_take_its_tasks() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().workers(1).start().await;
    let name = replica.id().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 1000 } });
    redis.trigger("e-0", &sleep).await;
    redis.log().await.until_count("task.started", 1).await;
    let load = async |source: &str| {
        let loaded: String = redis.ask(&["FUNCTION", "LOAD", "REPLACE", source]).await;
        assert_eq!(loaded, LIBRARY.name);
    };

    let begin = "local function settle(keys, args)";
    load(&LIBRARY.source.replace(begin, &format!("{begin}\n  error('broken')"))).await;
    wait_for("it goes by another name", async || {
        let now = replica.id().await;
        holds(now != name, || now)
    })
    .await;
    load(&LIBRARY.source).await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 1).await;

    assert_eq!(log.count("task.retry_scheduled"), 1);
    assert!(replica.log().contains("giving up"), "{}", replica.log());
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn an_idle_replica_that_is_rung_for_keeps_its_connections() {
    const RINGS: usize = 50;
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let made = async || {
        let info: String = redis.ask(&["INFO", "stats"]).await;
        let count = info
            .lines()
            .find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().trim().parse::<u64>().unwrap()
    };
    let claims = async || redis.function_calls().await;
    let (before, calls) = (made().await, claims().await);

    for ring in 0..RINGS {
        let heard = claims().await;
        redis
            .ask::<String>(&[
                "XADD",
                "waooaw:{0}:bell",
                "*",
                "what",
                "room",
                "about",
                &ring.to_string(),
            ])
            .await;
        wait_for("it asks for work", async || holds(claims().await > heard, String::new)).await;
    }

    let made = made().await - before;
    assert!(claims().await - calls >= RINGS);
    assert!(made < 5, "{made} connections for {RINGS} rings");
}
