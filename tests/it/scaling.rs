//! Workers: how many there are, what each does, and who changes that.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waooaw_orchestration::runtime::operate;
use waooaw_orchestration::{Error, Operator, Scaling};

use crate::support::cli::Cli;
use crate::support::history::check_all_ended;
use crate::support::redis::{TestRedis, task_of};
use crate::support::replica::ask;
use crate::support::{holds, wait_for, wait_within};

fn sleeper(ms: u64) -> Value {
    json!({ "task_name": "sleep", "kwargs": { "ms": ms } })
}

async fn workers(redis: &TestRedis, more: &[&str]) -> Value {
    let words = [&["workers", "list", "--output", "json"], more].concat();
    Cli::on(redis, &words).json().await
}

#[tokio::test]
async fn every_worker_is_listed_with_what_it_runs_and_did() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().workers(3).start().await;
    let id = replica.id().await;
    redis.trigger("good", &json!({ "task_name": "noop" })).await;
    let fail = json!({ "task_name": "fail", "kwargs": { "permanent": true } });
    redis.trigger("bad", &fail).await;
    let mut log = redis.log().await;
    log.until_task(task_of("good"), "task.completed").await;
    log.until_task(task_of("bad"), "task.failed").await;
    let failed_in = log.all("task.failed")[0].text("worker_id").to_owned();
    wait_for("the failure is reported", async || {
        let page = workers(&redis, &[]).await;
        let items = page["items"].as_array().unwrap();
        let shown = items.iter().find(|worker| worker["worker_id"] == failed_in.as_str());
        let is_shown = shown.is_some_and(|worker| worker["state"] == "ERROR" && worker["tasks_failed"] == 1);
        holds(is_shown && items.len() == 3, || page.to_string())
    })
    .await;

    redis.trigger("long", &sleeper(4000)).await;
    let started = log.until_task(task_of("long"), "task.started").await;
    let page = workers(&redis, &["--replica", &id]).await;
    let items = page["items"].as_array().unwrap();
    let ids: Vec<String> = (0..3).map(|slot| format!("{id}/{slot}")).collect();
    assert_eq!(
        items
            .iter()
            .map(|worker| worker["worker_id"].clone())
            .collect::<Vec<_>>(),
        ids
    );
    let busy = items
        .iter()
        .find(|worker| worker["worker_id"] == started.text("worker_id"))
        .unwrap();
    assert_eq!((&busy["state"], &busy["replica"]), (&json!("BUSY"), &json!(id)));
    assert_eq!(busy["current_task_id"], task_of("long").to_string());
    let sum = |name: &str| items.iter().map(|worker| worker[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("tasks_completed"), sum("tasks_failed")), (1, 1));
    let failed = items
        .iter()
        .find(|worker| worker["worker_id"] == failed_in.as_str())
        .unwrap();
    assert!(failed["error_rate"].as_f64().unwrap() > 0.0 && failed["average_duration_seconds"].is_number());
    for worker in items {
        assert!(worker["uptime_seconds"].as_f64().unwrap() > 0.0, "{worker}");
        assert!(
            (0.0..=100.0).contains(&worker["utilization_percentage"].as_f64().unwrap()),
            "{worker}"
        );
    }
    let summary = &page["replicas"][0];
    assert_eq!((&summary["workers"], &summary["busy_workers"]), (&json!(3), &json!(1)));
    assert_eq!(
        (&summary["min_workers"], &summary["max_workers"]),
        (&json!(2), &json!(3))
    );

    let first = workers(&redis, &["--limit", "2"]).await;
    let rest = workers(&redis, &["--cursor", first["next_cursor"].as_str().unwrap()]).await;
    assert_eq!(
        (
            first["items"].as_array().unwrap().len(),
            rest["items"].as_array().unwrap().len()
        ),
        (2, 1)
    );
    let words = ["workers", "list", "--replica", "r-nobody00", "--output", "json"];
    Cli::on(&redis, &words).run().await.refused(4, "WorkerNotFound");
    let one = operate::worker(&redis.store(), started.text("worker_id"))
        .await
        .unwrap();
    assert_eq!(one.state, "BUSY");
    let none = operate::worker(&redis.store(), "nobody").await;
    assert!(matches!(none, Err(Error::WorkerNotFound(_))), "{none:?}");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn replicas_are_scaled_from_afar_one_or_all() {
    let redis = TestRedis::start().await;
    let replicas = redis.replica().workers(4).start_many(2).await;
    let (a, b) = (replicas[0].id().await, replicas[1].id().await);
    let scale = async |words: &[&str]| {
        let words = [&["workers", "scale", "--output", "json"], words].concat();
        Cli::on(&redis, &words).run().await
    };
    scale(&["--add", "1"]).await.refused(1, "WorkerPoolFull");

    let asked = Instant::now();
    let down = scale(&["--replica", &a, "--remove", "9"]).await.expect(0).json();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let row = &down["items"][0];
    // Never below the minimum.
    assert_eq!(
        (&row["replica"], &row["workers"], &row["changed"]),
        (&json!(a), &json!(2), &json!(-2))
    );
    assert_eq!(row["done"], true);
    // All or none: one of the two has its most already.
    scale(&["--add", "1"]).await.refused(1, "WorkerPoolFull");
    assert_eq!(
        scale(&["--replica", &a, "--add", "1"]).await.expect(0).json()["items"][0]["workers"],
        3
    );
    scale(&["--replica", &a, "--add", "2"])
        .await
        .refused(1, "WorkerPoolFull");
    let max = scale(&["--max", "6", "--actor", "me"]).await.expect(0).json();
    let sizes: Vec<&Value> = max["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["workers"])
        .collect();
    assert_eq!(sizes, [&json!(6), &json!(6)]);
    scale(&["--replica", "r-nobody00", "--add", "1"])
        .await
        .refused(4, "WorkerNotFound");
    scale(&[]).await.refused(2, "Usage");
    scale(&["--add", "1", "--max", "2"]).await.refused(2, "Usage");

    redis
        .trigger_all((0..12).map(|number| (format!("e-{number}"), sleeper(1000))))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 12).await;
    assert_eq!(log.running().into_iter().max(), Some(12));
    let states = |replica: &str| -> Vec<(String, u64)> {
        let of = log.of(replica);
        of.iter()
            .map(|event| {
                (
                    event.text("state").to_owned(),
                    event.payload["workers"].as_u64().unwrap(),
                )
            })
            .collect()
    };
    let is = |rows: &[(&str, u64)]| -> Vec<(String, u64)> {
        rows.iter()
            .map(|(state, workers)| ((*state).to_owned(), *workers))
            .collect()
    };
    assert_eq!(
        states(&a),
        is(&[("joined", 4), ("scaled", 2), ("scaled", 3), ("scaled", 6)])
    );
    assert_eq!(states(&b), is(&[("joined", 4), ("scaled", 6)]));
    let actions: Vec<_> = log.all("operator.action");
    let targets: BTreeSet<&str> = actions
        .iter()
        .filter(|event| event.text("actor") == "me")
        .map(|event| event.text("target"))
        .collect();
    assert_eq!(targets, BTreeSet::from([a.as_str(), b.as_str()]));
    assert!(actions.iter().all(|event| event.text("action") == "scale"));
    let pool = redis.queue().await.get_statistics().await.unwrap().worker_pool;
    assert_eq!((pool.max_workers, pool.idle_workers), (12, 12));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn workers_that_are_to_go_finish_what_they_run() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().workers(4).start().await;
    redis
        .trigger_all((0..4).map(|number| (format!("e-{number}"), sleeper(1500))))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.started", 4).await;
    redis
        .trigger_all((4..8).map(|number| (format!("e-{number}"), sleeper(100))))
        .await;
    log.until_count("task.created", 8).await;

    let operator = Operator::new("tester", None);
    let scaled = operate::scale(&redis.store(), &operator, Scaling::Remove(3), None)
        .await
        .unwrap();
    assert_eq!((scaled[0].workers, scaled[0].is_done), (2, true));
    // The same request again is one request.
    let again = operate::scale(&redis.store(), &operator, Scaling::Remove(3), None)
        .await
        .unwrap();
    assert_eq!((again[0].workers_before, again[0].workers), (4, 2));
    let pool = redis.queue().await.get_statistics().await.unwrap().worker_pool;
    assert_eq!((pool.active_workers, pool.idle_workers), (4, 0));

    log.until_count("task.completed", 8).await;
    assert_eq!(log.count("task.retry_scheduled") + log.count("task.released"), 0);
    let running = log.running();
    let first_end = log
        .events
        .iter()
        .position(|event| event.kind == "task.completed")
        .unwrap();
    let after = running[first_end + 3..].iter().max().copied();
    assert!(after <= Some(2), "{after:?} ran at once after three had gone");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_replica_that_joins_anew_keeps_the_size_it_was_scaled_to() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().workers(4).start().await;
    let before = replica.id().await;
    let operator = Operator::new("tester", None);
    operate::scale(&redis.store(), &operator, Scaling::Max(7), None)
        .await
        .unwrap();

    // As if it had been taken for dead.
    redis.ask::<i64>(&["HDEL", "waooaw:{0}:beats", &before]).await;
    wait_for("it has joined anew", async || {
        let answer = replica.get("/readyz").await;
        let is_new = answer
            .as_ref()
            .is_some_and(|(status, body)| *status == 200 && body["replica"] != json!(before));
        holds(is_new, || format!("{answer:?}"))
    })
    .await;

    let page = workers(&redis, &[]).await;
    assert_eq!(
        (&page["replicas"][0]["workers"], &page["replicas"][0]["max_workers"]),
        (&json!(7), &json!(7))
    );
}

#[tokio::test]
async fn with_nobody_there_no_workers_are_available() {
    let redis = TestRedis::start().await;
    let words = ["workers", "scale", "--add", "1", "--output", "json"];
    Cli::on(&redis, &words).run().await.refused(1, "NoWorkersAvailable");
    let mut replica = redis.replica().start().await;
    assert!(replica.stop().await.success());

    Cli::on(&redis, &words).run().await.refused(1, "NoWorkersAvailable");
    assert_eq!(workers(&redis, &[]).await["items"], json!([]));
}

#[tokio::test]
async fn a_replica_that_drains_says_so_and_its_idle_workers_are_stopped() {
    let redis = TestRedis::start().await;
    let mut replica = redis.replica().workers(2).start().await;
    let id = replica.id().await;
    redis.trigger("long", &sleeper(2500)).await;
    let mut log = redis.log().await;
    log.until_task(task_of("long"), "task.started").await;

    replica.signal("TERM");
    log.until("it drains", |log| {
        log.of(&id)
            .iter()
            .any(|event| event.text("state") == "draining")
            .then_some(())
    })
    .await;
    let page = workers(&redis, &[]).await;
    let states: BTreeSet<&str> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|worker| worker["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, BTreeSet::from(["BUSY", "STOPPED"]));
    assert_eq!(page["replicas"][0]["state"], "draining");
    let words = ["workers", "scale", "--max", "9", "--output", "json"];
    Cli::on(&redis, &words).run().await.refused(1, "NoWorkersAvailable");

    assert!(replica.ended().await.success());
    log.refresh().await;
    let states: Vec<&str> = log.of(&id).iter().map(|event| event.text("state")).collect();
    assert_eq!(states, ["joined", "draining", "left"]);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn the_pool_grows_with_what_waits_and_shrinks_again_by_itself() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(9).set("WAOOAW_WORKER_POOL__AUTOSCALE", "true");
    let _replica = settings.set("WAOOAW_WORKER_POOL__MIN_WORKERS", "2").start().await;
    // Tasks for later are no reason for more workers now.
    let mut later = sleeper(1);
    later["delay_seconds"] = json!(600);
    redis
        .trigger_all((0..150).map(|number| (format!("later {number}"), later.clone())))
        .await;
    redis
        .trigger_all((0..250).map(|number| (format!("e-{number}"), sleeper(120))))
        .await;
    let mut log = redis.log().await;
    let sizes = |log: &crate::support::log::Log<'_>| -> Vec<u64> {
        let events = log.all("worker_pool.status");
        events
            .iter()
            .map(|event| event.payload["workers"].as_u64().unwrap())
            .collect()
    };
    log.until("the pool has its most workers", |log| {
        sizes(log).contains(&9).then_some(())
    })
    .await;
    log.until_count("task.completed", 250).await;
    // By two each time that nothing was to be done for three looks, a second apart: on a busy machine that is long.
    wait_within(
        Duration::from_secs(120),
        "the pool has its fewest workers",
        async || {
            log.refresh().await;
            holds(sizes(&log).last() == Some(&2), || log.summary())
        },
    )
    .await;

    let sizes = sizes(&log);
    assert_eq!(sizes[0], 2, "{sizes:?}");
    assert!(sizes.iter().all(|size| (2..=9).contains(size)), "{sizes:?}");
    assert_eq!(log.count("task.released") + log.count("task.retry_scheduled"), 0);
    assert_eq!(log.running().into_iter().max(), Some(9));
    let queue = redis.queue().await;
    for number in 0..150 {
        queue.cancel_task(task_of(&format!("later {number}"))).await.unwrap();
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_task_that_takes_long_is_logged_with_how_long_it_took() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().set("WAOOAW_TELEMETRY__SLOW_TASK", "200ms");
    let replica = settings.set("WAOOAW_TELEMETRY__LOG_FORMAT", "json").start().await;
    redis.trigger("quick", &sleeper(1)).await;
    redis.trigger("slow", &sleeper(400)).await;

    let lines = wait_for("the slow task is logged", async || {
        let log = replica.log();
        let slow: Vec<String> = log
            .lines()
            .filter(|line| line.contains("slow task"))
            .map(str::to_owned)
            .collect();
        if slow.is_empty() { Err(log) } else { Ok(slow) }
    })
    .await;

    redis.log().await.until_count("task.completed", 2).await;
    assert!(
        lines.len() == 1 && lines[0].contains(&task_of("slow").to_string()),
        "{lines:?}"
    );
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    let elapsed_ms = line["elapsed_ms"]
        .as_u64()
        .or_else(|| line["fields"]["elapsed_ms"].as_u64());
    assert!(elapsed_ms.is_some_and(|ms| ms >= 400), "{line}");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn one_replica_is_scaled_through_another_over_http() {
    let redis = TestRedis::start().await;
    // As many as the machine has cores, up to ten.
    let settings = redis.replica().workers_unsaid().set("WORKER_POOL_SIZE", "auto");
    let replicas = settings.start_many(2).await;
    let cores = std::thread::available_parallelism().unwrap().get().min(10);
    let [a, b] = [replicas[0].id().await, replicas[1].id().await];
    let before = workers(&redis, &[]).await;
    assert_eq!(before["items"].as_array().unwrap().len(), 2 * cores);

    let wish = json!({ "replica": b, "max": 7, "actor": "me", "reason": "a busy day" }).to_string();
    let (status, scaled) = ask(replicas[0].http_port(), "POST", "/v1/workers/scale", None, Some(&wish))
        .await
        .unwrap();

    assert_eq!(status, 200, "{scaled}");
    let after = workers(&redis, &[]).await;
    let of = |replica: &str| {
        let items = after["items"].as_array().unwrap();
        items.iter().filter(|worker| worker["replica"] == replica).count()
    };
    assert_eq!((of(&a), of(&b)), (cores, 7));
    let mut log = redis.log().await;
    log.refresh().await;
    let action = log.all("operator.action");
    assert_eq!(
        (
            action[0].text("action"),
            action[0].text("actor"),
            action[0].text("target")
        ),
        ("scale", "me", b.as_str())
    );
    check_all_ended(&redis).await;
}
