//! What a replica exports for Prometheus, and for whoever scales it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::history::{check, check_all_ended};
use crate::support::redis::{TestRedis, task_of};
use crate::support::replica::{ReplicaProcess, ask};
use crate::support::saga;
use crate::support::workflow::publish;
use crate::support::{holds, wait_for};

/// Asks for a page as text: its type and what it says.
async fn page(replica: &ReplicaProcess, path: &str, accept: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", replica.http_port())).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{head}");
    let kind = head
        .lines()
        .find_map(|line| line.strip_prefix("content-type: "))
        .unwrap();
    (kind.to_owned(), body.to_owned())
}

async fn metrics(replica: &ReplicaProcess) -> String {
    page(replica, "/metrics", "text/plain").await.1
}

/// The value of a series, by its text in front of the value.
fn value(page: &str, series: &str) -> Option<f64> {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    line.parse().ok()
}

/// Waits until series have these values.
async fn until_counted(replica: &ReplicaProcess, due: &[(&str, f64)]) {
    wait_for("the replica has counted what happened", async || {
        let page = metrics(replica).await;
        let is_wrong = |(series, due): &&(&str, f64)| value(&page, series) != Some(*due);
        let wrong: Vec<_> = due.iter().filter(is_wrong).collect();
        holds(wrong.is_empty(), || format!("{wrong:?}\n{page}"))
    })
    .await;
}

/// What the agent `sales` says of an attempt.
async fn answer(redis: &TestRedis, event_id: &str, task: &str, attempt: u32, status: &str) {
    let mut payload = json!({ "task_id": task_of(task).to_string(), "attempt": attempt, "status": status });
    if status == "failed" {
        payload["error"] = json!({ "type": "OutOfStock", "message": "none left" });
    }
    let payload = payload.to_string();
    let fields: [(&[u8], &[u8]); 4] = [
        (b"event_type", b"orchestration.task.result"),
        (b"source_agent", b"sales"),
        (b"event_id", event_id.as_bytes()),
        (b"payload", payload.as_bytes()),
    ];
    redis.add("waooaw:commands", &fields).await;
}

/// All metrics of the documentation.
fn documented() -> Vec<&'static str> {
    let documentation = include_str!("../../docs/metrics.md");
    let rows = documentation.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split_once('`').map(|(name, _)| name));
    names
        .filter(|name| name.starts_with("waooaw_") || name.starts_with("process_"))
        .collect()
}

/// Something of everything: results, failures, retries, timeouts, cancels, bad input.
async fn load(redis: &TestRedis) {
    let retry = json!({ "max_retries": 1, "initial_delay_seconds": 0 });
    redis
        .trigger_all([
            (
                "add".to_owned(),
                json!({ "task_name": "add", "args": [5, 3], "priority": "HIGH" }),
            ),
            ("fail".to_owned(), json!({ "task_name": "fail", "retry": retry })),
            (
                "slow".to_owned(),
                json!({ "task_name": "sleep", "args": [60_000], "timeout_seconds": 0.2, "max_retries": 0 }),
            ),
            ("long".to_owned(), json!({ "task_name": "sleep", "args": [60_000] })),
            ("nonsense".to_owned(), json!({ "no_name": 1 })),
            ("unknown".to_owned(), json!({ "task_name": "nobody-has-this" })),
        ])
        .await;
    redis
        .trigger("add", &json!({ "task_name": "add", "args": [5, 3] }))
        .await;
    let mut log = redis.log().await;
    log.until_task(task_of("long"), "task.started").await;
    redis.cancel("end it", task_of("long")).await;
    log.until_task(task_of("long"), "task.cancelled").await;
    redis.cancel("again", task_of("long")).await;
    log.until_count("command.refused", 1).await;
    log.until_count("task.dead_lettered", 2).await;
    log.until_count("trigger.rejected", 2).await;
    log.until_count("task.completed", 1).await;
}

#[tokio::test]
async fn every_metric_of_the_documentation_is_exported_and_counts_what_happened() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().workers(3).start().await;
    load(&redis).await;

    let counted = wait_for("the look at the deployment is as new as the log", async || {
        let page = metrics(&replica).await;
        let ended = value(&page, "waooaw_tasks_ended_total{outcome=\"completed\"}");
        let accepted = value(&page, "waooaw_triggers_total{stream=\"commands\",result=\"accepted\"}");
        holds(ended == Some(1.0) && accepted == Some(1.0), || page.clone()).map(|()| page)
    })
    .await;

    for name in documented() {
        let is_there = counted.lines().any(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']) || rest.starts_with("_bucket{"))
        });
        assert!(
            is_there || (name.starts_with("process_") && !cfg!(target_os = "linux")),
            "{name}\n{counted}"
        );
    }
    for (series, expected) in [
        ("waooaw_redis_up", 1.0),
        ("waooaw_ready", 1.0),
        ("waooaw_replicas", 1.0),
        ("waooaw_tasks_running", 0.0),
        ("waooaw_tasks_pending{priority=\"HIGH\"}", 0.0),
        ("waooaw_queue_max_size", 1000.0),
        ("waooaw_worker_slots", 3.0),
        ("waooaw_worker_slots_busy", 0.0),
        ("waooaw_dead_letters", 4.0),
        ("waooaw_triggers_total{stream=\"triggers\",result=\"accepted\"}", 4.0),
        ("waooaw_triggers_total{stream=\"triggers\",result=\"duplicate\"}", 1.0),
        ("waooaw_triggers_total{stream=\"triggers\",result=\"rejected\"}", 2.0),
        ("waooaw_triggers_total{stream=\"commands\",result=\"refused\"}", 1.0),
        (
            "waooaw_tasks_finished_total{task_name=\"add\",outcome=\"completed\"}",
            1.0,
        ),
        (
            "waooaw_tasks_finished_total{task_name=\"fail\",outcome=\"failed\"}",
            1.0,
        ),
        (
            "waooaw_tasks_finished_total{task_name=\"sleep\",outcome=\"timeout\"}",
            1.0,
        ),
        (
            "waooaw_tasks_finished_total{task_name=\"sleep\",outcome=\"cancelled\"}",
            1.0,
        ),
        ("waooaw_task_retries_total{task_name=\"fail\",reason=\"error\"}", 1.0),
        (
            "waooaw_task_run_seconds_count{task_name=\"fail\",outcome=\"failed\"}",
            2.0,
        ),
        ("waooaw_task_wait_seconds_count{priority=\"HIGH\"}", 1.0),
        ("waooaw_trigger_to_start_seconds_count", 4.0),
        ("waooaw_dead_letters_added_total{kind=\"task\"}", 2.0),
        ("waooaw_dead_letters_added_total{kind=\"trigger\"}", 2.0),
        ("waooaw_circuit_open{task_name=\"add\"}", 0.0),
    ] {
        assert_eq!(value(&counted, series), Some(expected), "{series}\n{counted}");
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_agents_end_counts_with_the_replica_that_hears_of_it() {
    let redis = TestRedis::start().await;
    let handlers = "[handlers.quote]\nkind = \"agent\"\nagent_id = \"sales\"\n\n\
                    [handlers.slow]\nkind = \"agent\"\nagent_id = \"sales\"\ntimeout_seconds = 0.2\n\n\
                    [handlers.silent]\nkind = \"agent\"\nagent_id = \"silent\"\nheartbeat_timeout_seconds = 0.2\n";
    let replica = redis.replica().config(handlers).start().await;
    let once = json!({ "max_retries": 0 });
    let twice = json!({ "max_retries": 1, "initial_delay_seconds": 0 });
    redis
        .trigger_all([
            ("good".to_owned(), json!({ "task_name": "quote" })),
            ("over http".to_owned(), json!({ "task_name": "quote" })),
            ("bad".to_owned(), json!({ "task_name": "quote", "retry": twice })),
            ("slow".to_owned(), json!({ "task_name": "slow", "retry": once })),
            ("silent".to_owned(), json!({ "task_name": "silent", "retry": once })),
            (
                "unknown".to_owned(),
                json!({ "task_name": "whatever", "agent_id": "sales" }),
            ),
        ])
        .await;
    let mut log = redis.log().await;
    log.until_count("task.started", 6).await;

    answer(&redis, "a1", "good", 1, "completed").await;
    answer(&redis, "a1", "good", 1, "completed").await;
    answer(&redis, "a2", "good", 1, "completed").await;
    answer(&redis, "a3", "bad", 1, "failed").await;
    log.until_count("task.retry_scheduled", 1).await;
    log.until_count("task.started", 7).await;
    answer(&redis, "a4", "bad", 2, "failed").await;
    answer(&redis, "a5", "unknown", 1, "completed").await;
    let path = format!("/v1/tasks/{}/complete", task_of("over http"));
    let body = json!({ "attempt": 1, "result": 1 }).to_string();
    let (status, said) = ask(replica.http_port(), "POST", &path, None, Some(&body))
        .await
        .unwrap();
    assert_eq!(status, 200, "{said}");
    // It reads what it never answers.
    () = redis
        .ask(&[
            "XREADGROUP",
            "GROUP",
            "silent",
            "one",
            "STREAMS",
            "waooaw:{0}:agent:silent",
            ">",
        ])
        .await;
    log.until_count("task.dead_lettered", 3).await;
    log.until_count("task.completed", 3).await;

    until_counted(
        &replica,
        &[
            (
                "waooaw_tasks_finished_total{task_name=\"quote\",outcome=\"completed\"}",
                2.0,
            ),
            (
                "waooaw_tasks_finished_total{task_name=\"quote\",outcome=\"failed\"}",
                1.0,
            ),
            (
                "waooaw_tasks_finished_total{task_name=\"slow\",outcome=\"timeout\"}",
                1.0,
            ),
            (
                "waooaw_tasks_finished_total{task_name=\"_other\",outcome=\"completed\"}",
                1.0,
            ),
            ("waooaw_task_retries_total{task_name=\"quote\",reason=\"error\"}", 1.0),
            (
                "waooaw_task_run_seconds_count{task_name=\"quote\",outcome=\"failed\"}",
                2.0,
            ),
            (
                "waooaw_task_run_seconds_count{task_name=\"slow\",outcome=\"timeout\"}",
                1.0,
            ),
            ("waooaw_tasks_lost_total", 1.0),
            ("waooaw_dead_letters_added_total{kind=\"task\"}", 2.0),
        ],
    )
    .await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn workflows_and_sagas_are_counted_while_they_run_and_by_how_they_end() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let workflow = async |id: &str, name: &str, kwargs: Value| {
        let task = json!({ "task_id": "one", "name": name, "kwargs": kwargs, "max_retries": 0 });
        let payload = json!({ "workflow_id": id, "name": id, "tasks": [task] });
        publish(&redis, "workflow.start", id, &payload).await;
    };
    let start_saga = async |id: &str, second: &str, undo: &str| {
        let payload = json!({ "saga_id": id, "name": id, "steps": [
            { "name": "one", "action": "noop", "compensation": undo, "compensation_retry": { "max_retries": 0 } },
            { "name": "two", "action": second, "retry": { "max_retries": 0 } },
        ] });
        publish(&redis, "saga.start", id, &payload).await;
    };

    workflow("w-good", "noop", json!({})).await;
    workflow("w-bad", "fail", json!({})).await;
    workflow("w-long", "sleep", json!({ "ms": 60_000 })).await;
    workflow("w-longer", "sleep", json!({ "ms": 60_000 })).await;
    start_saga("s-good", "noop", "noop").await;
    start_saga("s-undone", "fail", "noop").await;
    start_saga("s-stuck", "fail", "fail").await;
    log.until_count("saga.failed", 1).await;
    log.until_count("workflow.started", 4).await;
    publish(&redis, "workflow.stop", "stop", &json!({ "workflow_id": "w-long" })).await;
    log.until_count("workflow.cancelled", 1).await;
    saga::resume(&redis, "s-stuck").await.unwrap();
    log.until_count("saga.failed", 2).await;

    until_counted(
        &replica,
        &[
            ("waooaw_workflows_running", 1.0),
            ("waooaw_workflows_ended_total{outcome=\"completed\"}", 1.0),
            ("waooaw_workflows_ended_total{outcome=\"failed\"}", 1.0),
            ("waooaw_workflows_ended_total{outcome=\"cancelled\"}", 1.0),
            ("waooaw_sagas_running", 0.0),
            ("waooaw_sagas_ended_total{outcome=\"completed\"}", 1.0),
            ("waooaw_sagas_ended_total{outcome=\"compensated\"}", 1.0),
            ("waooaw_sagas_ended_total{outcome=\"failed\"}", 2.0),
        ],
    )
    .await;
    publish(
        &redis,
        "workflow.stop",
        "stop too",
        &json!({ "workflow_id": "w-longer" }),
    )
    .await;
    log.until_count("workflow.cancelled", 2).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn promtool_finds_no_fault_with_the_page() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    load(&redis).await;

    let (kind, text) = page(&replica, "/metrics", "*/*").await;
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let (kind, open) = page(
        &replica,
        "/metrics",
        "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
    )
    .await;
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(open.ends_with("# EOF\n"));

    // Not everybody has it: it comes with Debian's package `prometheus`.
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    if let Ok(mut promtool) = promtool {
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let verdict = promtool.wait_with_output().unwrap();
        let said = [verdict.stdout, verdict.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(verdict.status.success() && said.is_empty(), "{said}\n{text}");
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_a_replica_counted_outlives_its_name() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let before = replica.id().await;
    redis.trigger("e", &json!({ "task_name": "noop" })).await;
    redis.log().await.until_task(task_of("e"), "task.completed").await;
    let series = "waooaw_tasks_finished_total{task_name=\"noop\",outcome=\"completed\"}";

    // What a takeover leaves of a replica that was only slow.
    redis.ask::<u64>(&["HDEL", "waooaw:{0}:beats", &before]).await;
    wait_for("it joins under another name", async || {
        let answer = replica.get("/readyz").await;
        let id = answer.as_ref().and_then(|(_, body)| body["replica"].as_str());
        holds(id.is_some_and(|id| id != before), || format!("{answer:?}"))
    })
    .await;

    assert_eq!(value(&metrics(&replica).await, series), Some(1.0));
    redis.trigger("f", &json!({ "task_name": "noop" })).await;
    redis.log().await.until_task(task_of("f"), "task.completed").await;
    wait_for("it counts on", async || {
        let counted = value(&metrics(&replica).await, series);
        holds(counted == Some(2.0), || format!("{counted:?}"))
    })
    .await;
    check(&redis).await;
}

#[tokio::test]
async fn while_redis_is_away_the_page_says_so_at_once() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    assert_eq!(value(&metrics(&replica).await, "waooaw_redis_up"), Some(1.0));

    redis.signal("STOP");
    let page = wait_for("the last look is too old", async || {
        let began = std::time::Instant::now();
        let page = metrics(&replica).await;
        assert!(
            began.elapsed() < std::time::Duration::from_secs(4),
            "{:?}",
            began.elapsed()
        );
        holds(value(&page, "waooaw_redis_up") == Some(0.0), || page.clone()).map(|()| page)
    })
    .await;
    assert_eq!(value(&page, "waooaw_tasks_running"), None);
    assert!(value(&page, "waooaw_worker_slots").is_some());
    let (status, body) = ask(replica.http_port(), "GET", "/v1/scale", None, None).await.unwrap();
    assert_eq!((status, body["code"].as_str()), (503, Some("RedisUnavailable")));
    redis.signal("CONT");

    wait_for("it is seen again", async || {
        let page = metrics(&replica).await;
        holds(value(&page, "waooaw_redis_up") == Some(1.0), || page.clone())
    })
    .await;
    check(&redis).await;
}

#[tokio::test]
async fn an_autoscaler_learns_how_many_replicas_the_work_is_for() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().workers(4).start().await;
    let sleep = json!({ "task_name": "sleep", "args": [60_000] });
    redis
        .trigger_all((0..22).map(|number| (format!("e-{number}"), sleep.clone())))
        .await;
    let later = json!({ "task_name": "noop", "delay_seconds": 3600 });
    redis.trigger("later", &later).await;
    let mut log = redis.log().await;
    log.until_count("task.created", 23).await;
    log.until_count("task.started", 4).await;

    let scale = wait_for("the figures are new", async || {
        let (status, scale) = ask(replica.http_port(), "GET", "/v1/scale", None, None).await.unwrap();
        holds(status == 200 && scale["waiting_tasks"] == 18, || scale.to_string()).map(|()| scale)
    })
    .await;

    assert_eq!(
        (&scale["running_tasks"], &scale["replicas"], &scale["workers"]),
        (&json!(4), &json!(1), &json!(4))
    );
    assert_eq!(
        (&scale["workers_per_replica"], &scale["utilization_percentage"]),
        (&json!(4), &json!(100.0))
    );
    // 22 tasks for 4 workers each.
    assert_eq!(scale["desired_replicas"], 6);
    assert!(scale["oldest_waiting_seconds"].as_f64().unwrap() > 0.0, "{scale}");
    for number in 0..22 {
        redis
            .cancel(&format!("c-{number}"), task_of(&format!("e-{number}")))
            .await;
    }
    redis.cancel("c", task_of("later")).await;
    log.until_count("task.cancelled", 23).await;
    check_all_ended(&redis).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn ten_thousand_queued_tasks_take_a_replica_less_than_a_hundred_mebibytes() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(2).set("TASK_QUEUE_MAX_SIZE", "20000");
    let replica = settings.start().await;
    let operator = waooaw_orchestration::Operator::new("tester", None);
    redis.trigger("first", &json!({ "task_name": "noop" })).await;
    wait_for("there is a queue, and it is paused", async || {
        let paused = waooaw_orchestration::runtime::operate::pause_queue(&redis.store(), &operator, "default").await;
        paused.map_err(|problem| problem.to_string())
    })
    .await;
    for hundred in 0..100 {
        redis
            .trigger_all((0..100).map(|number| {
                let payload = json!({ "task_name": "echo", "args": ["x".repeat(100)] });
                (format!("e-{hundred}-{number}"), payload)
            }))
            .await;
    }
    let queue = redis.queue().await;
    wait_for("all are queued", async || {
        let pending = queue.get_statistics().await.unwrap().pending_count;
        holds(pending >= 10_000, || pending.to_string())
    })
    .await;

    let resident = value(&metrics(&replica).await, "process_resident_memory_bytes").unwrap();
    assert!(resident < 100.0 * 1024.0 * 1024.0, "{resident}");
    check(&redis).await;
}
