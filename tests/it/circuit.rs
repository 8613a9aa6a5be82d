//! Handlers whose target does not answer wait for it instead of using up retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use waooaw_orchestration::runtime::explain::{self, Why};

use crate::support::history::check_all_ended;
use crate::support::log::Log;
use crate::support::redis::{TestRedis, task_of};
use crate::support::service::{Answer, Service};
use crate::support::{holds, wait_for};

fn config(url: &str) -> String {
    format!(
        "[retry]\ndefault = {{ max_retries = 3, initial_delay_seconds = 0.1, max_delay_seconds = 0.2 }}\n\
         [handlers.mail]\nkind = \"http\"\nurl = \"{url}\"\ntimeout_seconds = 5\n"
    )
}

/// Puts in tasks `mail-0` to `mail-<count - 1>`.
async fn mails(redis: &TestRedis, count: usize) {
    redis
        .trigger_all((0..count).map(|number| (format!("mail-{number}"), json!({ "task_name": "mail" }))))
        .await;
}

/// Waits until a replica says that its circuit is open.
async fn until_open(redis: &TestRedis, replica: &str) -> String {
    let key = format!("waooaw:{{0}}:replica:{replica}");
    wait_for("the circuit is open", async || {
        let until: Option<String> = redis.ask(&["HGET", &key, "circuit:mail"]).await;
        until.ok_or_else(|| "closed".to_owned())
    })
    .await
}

async fn until_closed(redis: &TestRedis, replica: &str) {
    let key = format!("waooaw:{{0}}:replica:{replica}");
    wait_for("the circuit is closed", async || {
        let until: Option<String> = redis.ask(&["HGET", &key, "circuit:mail"]).await;
        holds(until.is_none(), || format!("{until:?}"))
    })
    .await;
}

/// Starts that count: those that were not handed back.
fn paid(log: &Log<'_>) -> usize {
    log.count("task.started") - log.count("task.released")
}

#[tokio::test]
async fn while_a_target_is_down_its_tasks_wait_and_no_retry_is_used() {
    let redis = TestRedis::start().await;
    let mut service = Service::down(|_, _| Answer::new(200, "1"));
    let replica = redis
        .replica()
        .workers(4)
        .config(&config(&service.url("/")))
        .start()
        .await;
    let id = replica.id().await;
    let mut log = redis.log().await;

    mails(&redis, 40).await;
    let until = until_open(&redis, &id).await;
    crate::support::log::time_ms(&until);
    wait_for("a task that waits says why", async || {
        let mut waits = None;
        for number in 0..40 {
            let task = task_of(&format!("mail-{number}"));
            let said = explain::explain(&redis.store(), task).await.unwrap();
            if said.reason == Why::TargetDown {
                waits = Some(said.details["replicas"][0]["replica"].clone());
            }
        }
        holds(waits == Some(json!(id)), || format!("{waits:?}"))
    })
    .await;
    log.refresh().await;
    // Ten misses open it; no more than the other workers were under way.
    let before = paid(&log);
    assert!((10..=13).contains(&before), "{}", log.summary());

    // Its place in the queue hinders nobody, its name stays known, and looking for the target costs nothing.
    redis
        .trigger_all((0..20).map(|number| (format!("noop-{number}"), json!({ "task_name": "noop" }))))
        .await;
    log.until_count("task.completed", 20).await;
    let registered: Option<f64> = redis.ask(&["ZSCORE", "waooaw:{0}:handlers", "mail"]).await;
    assert!(registered.is_some());
    wait_for("the target was looked for twice", async || {
        let found = replica.log().matches("the target of a handler does not answer").count();
        holds(found >= 3, || format!("{found} lines"))
    })
    .await;
    log.refresh().await;
    assert_eq!(paid(&log), before + 20, "{}", log.summary());
    assert_eq!(log.count("task.dead_lettered"), 0);

    service.up().await;
    log.until_count("task.completed", 60).await;
    until_closed(&redis, &id).await;
    assert_eq!(service.requests().len(), 40);
    assert_eq!(log.count("task.retry_scheduled"), before);
    assert!(
        log.all("task.released")
            .iter()
            .all(|event| event.text("reason") == "circuit_open")
    );
    assert!(replica.log().contains("the target of a handler answers again"));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_target_that_answers_badly_is_tried_with_one_task_at_a_time() {
    let redis = TestRedis::start().await;
    let is_well = Arc::new(AtomicBool::new(false));
    let health = Arc::clone(&is_well);
    let service = Service::start(move |_, _| {
        if health.load(Ordering::SeqCst) {
            Answer::new(200, "1")
        } else {
            Answer::new(503, "starting")
        }
    })
    .await;
    let replica = redis
        .replica()
        .workers(8)
        .config(&config(&service.url("/")))
        .start()
        .await;
    let id = replica.id().await;

    mails(&redis, 30).await;
    until_open(&redis, &id).await;
    let before = service.requests().len();
    assert!((10..=17).contains(&before), "{before}");
    service.until_requests(before + 2).await;
    let trials: Vec<_> = service.requests()[before..]
        .iter()
        .map(|request| request.came)
        .collect();
    // The waits are 1 s and 2 s, a tenth more or less.
    assert!(trials[1] - trials[0] > Duration::from_millis(1500), "{trials:?}");
    is_well.store(true, Ordering::SeqCst);

    let mut log = redis.log().await;
    log.until_count("task.completed", 30).await;
    until_closed(&redis, &id).await;
    assert!(service.requests().len() <= before + 3 + 30);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn tasks_go_to_the_replica_that_reaches_the_target() {
    let redis = TestRedis::start().await;
    let nobody = Service::down(|_, _| Answer::Cut);
    let service = Service::start(|_, _| Answer::new(200, "1")).await;
    let mut cut_off = redis
        .replica()
        .workers(2)
        .config(&config(&nobody.url("/")))
        .start()
        .await;
    let id = cut_off.id().await;
    mails(&redis, 12).await;
    until_open(&redis, &id).await;

    let other = redis
        .replica()
        .workers(2)
        .config(&config(&service.url("/")))
        .start()
        .await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 12).await;
    let ran_by = other.id().await;
    assert!(log.all("task.completed").iter().all(|event| event.replica() == ran_by));

    // It leaves, and another dies, with the circuit open; nothing of it is left behind.
    assert!(cut_off.stop().await.success());
    let keys: Vec<String> = redis.ask(&["KEYS", &format!("*{id}*")]).await;
    assert_eq!(keys, [""; 0]);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_a_dead_replica_had_paused_runs_elsewhere() {
    let redis = TestRedis::start().await;
    let nobody = Service::down(|_, _| Answer::Cut);
    let service = Service::start(|_, _| Answer::new(200, "1")).await;
    let mut victim = redis
        .replica()
        .workers(2)
        .config(&config(&nobody.url("/")))
        .start()
        .await;
    let id = victim.id().await;
    mails(&redis, 12).await;
    until_open(&redis, &id).await;

    victim.kill();
    let _other = redis
        .replica()
        .workers(2)
        .config(&config(&service.url("/")))
        .start()
        .await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 12).await;
    wait_for("the dead replica is forgotten", async || {
        let keys: Vec<String> = redis.ask(&["KEYS", &format!("*{id}*")]).await;
        holds(keys.is_empty(), || format!("{keys:?}"))
    })
    .await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn tasks_that_hang_until_their_time_is_up_open_the_circuit_too() {
    let redis = TestRedis::start().await;
    let is_well = Arc::new(AtomicBool::new(false));
    let health = Arc::clone(&is_well);
    let service = Service::start(move |_, _| {
        if health.load(Ordering::SeqCst) {
            Answer::new(200, "1")
        } else {
            Answer::Hang
        }
    })
    .await;
    let quick = config(&service.url("/")).replace("timeout_seconds = 5", "timeout_seconds = 0.3");
    let replica = redis.replica().workers(5).config(&quick).start().await;

    mails(&redis, 15).await;
    until_open(&redis, &replica.id().await).await;
    is_well.store(true, Ordering::SeqCst);
    let mut log = redis.log().await;
    log.until_count("task.completed", 15).await;

    assert_eq!(log.all("task.retry_scheduled")[0].payload["error"]["type"], "timeout");
    check_all_ended(&redis).await;
}
