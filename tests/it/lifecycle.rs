//! One task from its trigger to its end, by every road.

use serde_json::{Value, json};
use waooaw_orchestration::{Handlers, ReplicaOptions, TaskError};

use crate::support::history::{check, check_all_ended};
use crate::support::local::LocalReplica;
use crate::support::log::LogEvent;
use crate::support::redis::{TestRedis, task_of};
use crate::support::{holds, wait_for};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The names in a payload beyond those that all events of tasks carry.
fn own_names(event: &LogEvent) -> Vec<&str> {
    let common = ["task_id", "task_name", "workflow_id", "attempt", "trigger_event_id"];
    let object = event.payload.as_object().unwrap();
    for name in common {
        assert!(object.contains_key(name), "no {name} in {event:?}");
    }
    let mut names: Vec<&str> = object.keys().map(String::as_str).collect();
    names.retain(|name| !common.contains(name));
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_trigger_by_hand_is_created_started_and_completed_with_every_field() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;

    let fields: [(&[u8], &[u8]); 7] = [
        (b"event_type", b"orchestration.task.trigger"),
        (b"source_agent", b"sales"),
        (b"event_id", b"e-1"),
        (b"correlation_id", b"order-7"),
        (b"traceparent", TRACE.as_bytes()),
        (b"tracestate", b"vendor=1"),
        (
            b"payload",
            br#"{"task_name":"multiply","args":[6,7],"priority":"high"}"#,
        ),
    ];
    redis.add("waooaw:triggers", &fields).await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 1).await;

    let created = log.all("task.created")[0];
    let id = created.text("task_id").to_owned();
    let life: Vec<&LogEvent> = log.of(&id);
    let kinds: Vec<&str> = life.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["task.created", "task.started", "task.completed"]);
    let source = format!("orchestration-runtime/{}", replica.id().await);
    for (place, event) in life.iter().enumerate() {
        let names: Vec<&str> = event.fields.keys().map(String::as_str).collect();
        let all =
            "causation_id correlation_id event_id event_type payload source_agent timestamp traceparent tracestate";
        assert_eq!(names.join(" "), all);
        assert_eq!(event.fields["source_agent"], source);
        assert_eq!(event.event_id, format!("{id}/{}", place + 1));
        assert_eq!(event.correlation_id, "order-7");
        assert_eq!(event.fields["traceparent"], TRACE);
        assert_eq!(event.fields["tracestate"], "vendor=1");
        crate::support::log::time_ms(&event.fields["timestamp"]);
        assert_eq!(event.text("task_name"), "multiply");
        assert_eq!(event.text("workflow_id"), "order-7");
        assert_eq!(event.text("trigger_event_id"), "e-1");
    }
    assert_eq!(id.len(), 36);
    assert_eq!(created.causation_id, "e-1");
    assert_eq!(life[1].causation_id, format!("{id}/1"));
    assert_eq!(life[2].causation_id, format!("{id}/2"));

    let all = "agent_id blocked_by created_at key priority queue run_at";
    assert_eq!(own_names(created).join(" "), all);
    assert_eq!(created.payload["priority"], "HIGH");
    assert_eq!(created.payload["queue"], "default");
    assert_eq!(created.payload["blocked_by"], json!([]));
    for name in ["agent_id", "key", "run_at"] {
        assert_eq!(created.payload[name], Value::Null);
    }
    assert_eq!(own_names(life[1]), ["started_at", "worker_id"]);
    let (worker, slot) = life[1].text("worker_id").split_once('/').unwrap();
    assert_eq!(worker, replica.id().await);
    assert!(slot.parse::<u16>().unwrap() < 10);
    assert_eq!(
        own_names(life[2]),
        ["completed_at", "duration_ms", "result", "worker_id"]
    );
    assert_eq!(life[2].payload["result"], json!(42));
    assert_eq!(life[2].payload["worker_id"], life[1].payload["worker_id"]);
    let duration = life[2].payload["duration_ms"].as_i64().unwrap();
    assert_eq!(
        duration,
        life[2].time_ms("completed_at") - life[1].time_ms("started_at")
    );
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn an_event_without_id_is_named_after_its_entry() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    let fields: [(&[u8], &[u8]); 3] = [
        (b"event_type", b"orchestration.task.trigger"),
        (b"source_agent", b"sales"),
        (b"payload", br#"{"task_name":"noop"}"#),
    ];
    let first = redis.add("waooaw:triggers", &fields).await;
    let second = redis.add("waooaw:triggers", &fields).await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 2).await;

    for (event, entry) in log.all("task.created").into_iter().zip([first, second]) {
        assert_eq!(event.causation_id, entry);
        assert_eq!(event.correlation_id, entry);
        assert_eq!(event.payload["workflow_id"], Value::Null);
    }
    for event in log.all("task.completed") {
        assert_eq!(event.payload["result"], Value::Null);
        assert!(!event.fields.contains_key("traceparent"));
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn arguments_come_out_byte_for_byte() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let args = r#"[12345678901234567890123, 1e2, [], {"b":1,"a":{}}, "\u00e9\n"]"#;
    let kwargs = r#"{"z": 1.0,"a":[ ]}"#;

    let payload = format!(r#"{{"task_name":"echo","args":{args},"kwargs":{kwargs}}}"#);
    redis
        .add("waooaw:triggers", &crate::support::redis::trigger_fields("e", &payload))
        .await;
    let mut log = redis.log().await;
    let completed = log.until_task(task_of("e"), "task.completed").await;

    let expected = format!(r#""result":{{"args":{args},"kwargs":{kwargs},"inputs":{{}}}}"#);
    assert!(completed.fields["payload"].contains(&expected), "{completed:?}");
    let task = redis.queue().await.get_task(task_of("e")).await.unwrap();
    assert_eq!((task.args.get(), task.kwargs.get()), (args, kwargs));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_result_over_64_kib_is_in_the_document_and_only_named_by_the_event() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let large = "x".repeat(70_000);

    redis
        .trigger("e", &json!({ "task_name": "echo", "args": [large] }))
        .await;
    let mut log = redis.log().await;
    let completed = log.until_task(task_of("e"), "task.completed").await;

    assert_eq!(completed.payload["result"], Value::Null);
    assert!(completed.payload["result_bytes"].as_u64().unwrap() > 70_000);
    assert_eq!(completed.text("result_sha256").len(), 64);
    let task = redis.queue().await.get_task(task_of("e")).await.unwrap();
    assert!(task.result.unwrap().get().contains(&large));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_task_that_fails_twice_is_tried_a_third_time() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    let payload = json!({ "task_name": "flaky", "kwargs": { "fail_times": 2 }, "retry": "QUICK" });
    redis.trigger("e", &payload).await;
    let mut log = redis.log().await;
    let completed = log.until_task(task_of("e"), "task.completed").await;

    let life = log.life(task_of("e")).join(" ");
    assert_eq!(
        life,
        "created started retry_scheduled started retry_scheduled started completed"
    );
    assert_eq!(completed.payload["result"], json!({ "attempt": 3 }));
    for (event, delay) in log.all("task.retry_scheduled").into_iter().zip([0.1, 0.15]) {
        assert_eq!(own_names(event), ["delay_seconds", "due_at", "error", "retry_count"]);
        assert_eq!(event.payload["error"]["type"], "handler_error");
        assert!((event.payload["delay_seconds"].as_f64().unwrap() - delay).abs() <= delay * 0.11);
    }
    let starts = log.all("task.started");
    for (retry, start) in log.all("task.retry_scheduled").into_iter().zip(&starts[1..]) {
        assert!(start.time_ms("started_at") >= retry.time_ms("due_at"));
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_task_out_of_retries_fails_once_and_lies_in_the_dead_letters() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    let retry = json!({ "max_retries": 5, "initial_delay_seconds": 0.05, "jitter": 0 });
    let message = json!({ "message": "Connection timeout" });
    redis
        .trigger(
            "e",
            &json!({ "task_name": "fail", "kwargs": message, "retry": retry, "max_retries": 1 }),
        )
        .await;
    let mut log = redis.log().await;
    let buried = log.until_task(task_of("e"), "task.dead_lettered").await;

    let life = log.life(task_of("e")).join(" ");
    assert_eq!(life, "created started retry_scheduled started failed dead_lettered");
    let failed = log.all("task.failed")[0];
    assert_eq!(
        own_names(failed),
        ["attempts", "error", "failed_at", "retry_count", "worker_id"]
    );
    assert_eq!(
        failed.payload["error"],
        json!({ "type": "handler_error", "message": "Connection timeout" })
    );
    assert_eq!(
        (&failed.payload["retry_count"], &failed.payload["attempts"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(own_names(&buried), ["dead_letter_id"]);
    let key = format!("waooaw:{{0}}:dead:{}", buried.text("dead_letter_id"));
    let kind: String = redis.ask(&["HGET", &key, "kind"]).await;
    assert_eq!(kind, "task");
    let task = redis.queue().await.get_task(task_of("e")).await.unwrap();
    assert_eq!((task.state, task.retry_count), ("FAILED", 1));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_permanent_failure_is_not_tried_again() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    redis
        .trigger("e", &json!({ "task_name": "fail", "kwargs": { "permanent": true } }))
        .await;
    // Two arguments are wanted, and one that can never be a number.
    redis
        .trigger("f", &json!({ "task_name": "add", "args": ["x", 1] }))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.dead_lettered", 2).await;

    for id in ["e", "f"] {
        assert_eq!(log.life(task_of(id)).join(" "), "created started failed dead_lettered");
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_ends_and_the_last_one_is_a_timeout() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    let retry = json!({ "max_retries": 1, "initial_delay_seconds": 0.05 });
    redis
        .trigger(
            "e",
            &json!({ "task_name": "sleep", "kwargs": { "ms": 60_000 }, "timeout_seconds": 0.2, "retry": retry }),
        )
        .await;
    let mut log = redis.log().await;
    log.until_task(task_of("e"), "task.dead_lettered").await;

    let life = log.life(task_of("e")).join(" ");
    assert_eq!(life, "created started retry_scheduled started timeout dead_lettered");
    assert_eq!(log.all("task.retry_scheduled")[0].payload["error"]["type"], "timeout");
    let timeout = log.all("task.timeout")[0];
    assert_eq!(
        own_names(timeout),
        ["attempts", "error", "failed_at", "retry_count", "worker_id"]
    );
    assert_eq!(timeout.payload["error"]["type"], "timeout");
    let started = log.all("task.started")[1].time_ms("started_at");
    assert!((200..2000).contains(&(timeout.time_ms("failed_at") - started)));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_delayed_task_waits_for_its_time() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    redis
        .trigger("after", &json!({ "task_name": "noop", "delay_seconds": 0.7 }))
        .await;
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(700);
    redis
        .trigger("at", &json!({ "task_name": "noop", "run_at": at.to_string() }))
        .await;
    redis
        .trigger(
            "past",
            &json!({ "task_name": "noop", "run_at": "1999-12-31T23:59:59Z" }),
        )
        .await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 3).await;

    for (id, expected) in [
        (
            "after",
            log.of(&task_of("after").to_string())[0].time_ms("created_at") + 700,
        ),
        ("at", at.as_millisecond()),
        ("past", crate::support::log::time_ms("1999-12-31T23:59:59.000Z")),
    ] {
        let life = log.of(&task_of(id).to_string());
        assert_eq!(life[0].time_ms("run_at"), expected, "{id}");
        let late = life[1].time_ms("started_at") - expected.max(life[0].time_ms("created_at"));
        assert!((0..1000).contains(&late), "{id} started {late} ms after it was due");
    }
    check_all_ended(&redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_handler_fails_one_attempt_and_nothing_else() {
    let redis = TestRedis::start().await;
    let handlers = Handlers::new()
        .with_async(
            "explode",
            |(): (), task: waooaw_orchestration::TaskContext| async move {
                assert!(task.attempt > 1, "the first attempt explodes");
                Ok(())
            },
        )
        .with_blocking("explode_blocking", |(): (), task| {
            assert!(task.attempt > 1, "the first attempt explodes");
            Ok(())
        })
        .with_async("refuse", |(): (), _| async {
            Err::<(), _>(TaskError::permanent("no_stock", "none left"))
        });
    let replica = LocalReplica::start(&redis, ReplicaOptions::new(handlers)).await;

    for name in ["explode", "explode_blocking"] {
        redis
            .trigger(name, &json!({ "task_name": name, "retry": "QUICK" }))
            .await;
    }
    redis.trigger("refuse", &json!({ "task_name": "refuse" })).await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 2).await;
    log.until_count("task.dead_lettered", 1).await;

    for name in ["explode", "explode_blocking"] {
        let life = log.life(task_of(name)).join(" ");
        assert_eq!(life, "created started retry_scheduled started completed", "{name}");
    }
    for event in log.all("task.retry_scheduled") {
        assert_eq!(event.payload["error"]["type"], "panic");
        assert!(
            event.payload["error"]["message"]
                .as_str()
                .unwrap()
                .contains("the first attempt explodes")
        );
    }
    assert_eq!(log.all("task.failed")[0].payload["error"]["type"], "no_stock");
    check_all_ended(&redis).await;
    replica.stop().await;
}

#[tokio::test]
async fn a_cancel_stops_what_runs_waits_or_is_delayed() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().workers(1).start().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 60_000 } });
    redis.trigger("running", &sleep).await;
    let mut log = redis.log().await;
    log.until_task(task_of("running"), "task.started").await;
    redis.trigger("waiting", &sleep).await;
    redis
        .trigger("delayed", &json!({ "task_name": "noop", "delay_seconds": 60 }))
        .await;
    log.until_count("task.created", 3).await;

    for id in ["waiting", "delayed", "running"] {
        redis.cancel(&format!("cancel {id}"), task_of(id)).await;
    }
    log.until_count("task.cancelled", 3).await;
    // The slot is free again, although the handler would sleep on.
    redis.trigger("next", &json!({ "task_name": "noop" })).await;
    log.until_task(task_of("next"), "task.completed").await;

    assert_eq!(log.life(task_of("waiting")), ["created", "cancelled"]);
    assert_eq!(log.life(task_of("delayed")), ["created", "cancelled"]);
    assert_eq!(log.life(task_of("running")), ["created", "started", "cancelled"]);
    for id in ["waiting", "delayed", "running"] {
        let cancelled = log.until_task(task_of(id), "task.cancelled").await;
        assert_eq!(own_names(&cancelled), ["message", "reason", "root_cause_task_id"]);
        assert_eq!(cancelled.text("reason"), "requested");
        assert_eq!(cancelled.text("message"), "changed my mind");
        assert_eq!(cancelled.causation_id, format!("cancel {id}"));
    }
    assert_eq!(log.count("command.refused"), 0);
    check_all_ended(&redis).await;
    drop(replica);
}

#[tokio::test]
async fn a_cancel_that_comes_twice_is_harmless_and_one_that_comes_late_is_refused() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().set("WAOOAW_QUEUE__REFERENCE_WAIT", "1s");
    let _replicas = settings.start_many(2).await;
    redis
        .trigger("delayed", &json!({ "task_name": "noop", "delay_seconds": 60 }))
        .await;
    redis.trigger("finished", &json!({ "task_name": "noop" })).await;
    let mut log = redis.log().await;
    log.until_task(task_of("finished"), "task.completed").await;
    log.until_task(task_of("delayed"), "task.created").await;

    redis.cancel("twice", task_of("delayed")).await;
    redis.cancel("twice", task_of("delayed")).await;
    let late = redis.cancel("late", task_of("finished")).await;
    let lost = redis.cancel("lost", task_of("never heard of")).await;
    log.until_count("command.refused", 2).await;
    check_all_ended(&redis).await;
    log.refresh().await;

    assert_eq!(log.life(task_of("delayed")), ["created", "cancelled"]);
    for (entry, id, task, reason) in [
        (late, "late", "finished", "invalid_transition"),
        (lost, "lost", "never heard of", "not_found"),
    ] {
        let refused = log.of(&entry);
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].kind, "command.refused");
        assert_eq!((refused[0].seq, refused[0].causation_id.as_str()), (1, id));
        assert_eq!(refused[0].text("reason"), reason);
        assert_eq!(refused[0].text("command"), "orchestration.task.cancel");
        assert_eq!(refused[0].text("task_id"), task_of(task).to_string());
    }
    assert_eq!(log.count("command.refused"), 2);
}

#[tokio::test]
async fn a_cancel_waits_for_a_task_that_is_not_there_yet() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    redis.cancel("early", task_of("e")).await;
    // It was read when it is pending; that it is not refused yet is what is waited for here.
    wait_for("the command was read", async || {
        let pending = redis.pending("waooaw:commands", "orchestrators").await;
        holds(pending == 1, || format!("{pending} pending"))
    })
    .await;
    redis
        .trigger("e", &json!({ "task_name": "noop", "delay_seconds": 60 }))
        .await;
    let mut log = redis.log().await;
    log.until_task(task_of("e"), "task.cancelled").await;

    assert_eq!(log.life(task_of("e")), ["created", "cancelled"]);
    assert_eq!(log.count("command.refused"), 0);
    check(&redis).await;
}
