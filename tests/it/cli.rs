//! The command line: what it prints, where, and how it ends.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::cli::Cli;
use crate::support::history::{check, check_all_ended};
use crate::support::redis::{TestRedis, free_port};
use crate::support::{holds, wait_for};

/// An id that no task has.
const NOBODY: &str = "7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000";

/// Runs a command with JSON output that must end well.
async fn ask(redis: &TestRedis, words: &[&str]) -> Value {
    Cli::on(redis, words).set("WAOOAW_OUTPUT", "json").json().await
}

/// Makes a task; answers its id.
async fn trigger(redis: &TestRedis, words: &[&str]) -> String {
    let words: Vec<&str> = ["trigger"].iter().chain(words).copied().collect();
    let answer = ask(redis, &words).await;
    answer["task_id"].as_str().unwrap().to_owned()
}

/// Waits until a task is in a state.
async fn until_state(redis: &TestRedis, id: &str, state: &str) {
    wait_for(&format!("{id} is {state}"), async || {
        let task = ask(redis, &["task", "get", id]).await;
        holds(task["state"] == state, || task.to_string())
    })
    .await;
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

fn ids(items: &[Value]) -> Vec<&str> {
    items.iter().map(|task| task["task_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn trigger_prints_the_task_and_with_wait_its_end() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    let made = ask(&redis, &["trigger", "noop"]).await;
    assert_eq!(keys(&made), BTreeSet::from(["task_id", "event_id", "created"]));
    assert_eq!(made["created"], true);
    let id = made["task_id"].as_str().unwrap();
    until_state(&redis, id, "COMPLETED").await;

    let table = Cli::on(&redis, &["trigger", "noop"]).run().await.expect(0);
    let shown: Vec<&str> = table.out.lines().filter_map(|line| line.split("  ").next()).collect();
    assert_eq!(shown, ["task_id", "event_id", "created"], "{table:?}");

    let words = ["trigger", "add", "--args", "[40,2]", "--wait", "--output", "json"];
    let task = Cli::on(&redis, &words).json().await;
    assert_eq!((&task["state"], &task["result"]), (&json!("COMPLETED"), &json!(42)));

    let words = [
        "trigger",
        "fail",
        "--kwargs",
        r#"{"message":"no such customer","permanent":true}"#,
        "--wait",
        "--output=json",
    ];
    let failed = Cli::on(&redis, &words).run().await;
    failed.refused(1, "TaskNotCompleted");
    assert_eq!(failed.json()["error"]["message"], "no such customer");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn trigger_refuses_what_makes_no_sense_and_makes_nothing() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    for (words, code) in [
        (&["nobody_has_it"][..], "UnknownTask"),
        (&["echo", "--args", "[1"], "InvalidField"),
        (&["echo", "--args", "{}"], "InvalidField"),
        (&["echo", "--kwargs", "[]"], "InvalidField"),
        (&["echo", "--priority", "urgent"], "InvalidField"),
        (&["echo", "--retry", "sometimes"], "InvalidField"),
        (&["echo", "--timeout", "-1"], "InvalidField"),
        (&["echo", "--timeout", "soon"], "Usage"),
        (&["echo", "--nonsense"], "Usage"),
        (&[], "Usage"),
    ] {
        let words: Vec<&str> = ["trigger", "--output", "json"].iter().chain(words).copied().collect();
        let refused = Cli::on(&redis, &words).run().await;
        refused.refused(2, code);
        assert_eq!(refused.out, "", "{refused:?}");
    }
    let refused = Cli::on(&redis, &["trigger", "nobody_has_it"]).run().await.expect(2);
    assert!(refused.err.starts_with("waooaw: "), "{refused:?}");

    assert_eq!(ask(&redis, &["stats"]).await["total_count"], 0);
    check(&redis).await;
}

#[tokio::test]
async fn the_same_event_id_makes_one_task() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let words = ["trigger", "echo", "--args", "[1]", "--event-id", "nightly"];

    let first = ask(&redis, &words).await;
    let second = ask(&redis, &words).await;

    assert_eq!((&first["created"], &second["created"]), (&json!(true), &json!(false)));
    assert_eq!(first["event_id"], "nightly");
    assert_eq!(first["task_id"], second["task_id"]);
    check_all_ended(&redis).await;
    assert_eq!(ask(&redis, &["stats"]).await["total_count"], 1);
}

#[tokio::test]
async fn what_trigger_is_told_is_in_the_task_document() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let words = [
        "echo",
        "--kwargs",
        r#"{"b":12345678901234567890123,"a":[]}"#,
        "--priority",
        "high",
        "--workflow-id",
        "order-7",
        "--timeout",
        "2.5",
        "--retry",
        "aggressive",
        "--delay",
        "600",
        "--queue",
        "billing",
        "--key",
        "first",
        "--event-id",
        "e-1",
    ];
    let id = trigger(&redis, &words).await;

    let ran = Cli::on(&redis, &["task", "get", &id, "--output", "json"]).run().await;
    let task = ran.expect(0);
    assert!(
        task.out.contains(r#""kwargs":{"b":12345678901234567890123,"a":[]}"#),
        "{task:?}"
    );
    let task = task.json();
    let contract = "task_id, key, name, queue, priority, state, args, kwargs, inputs, agent_id, workflow_id, \
        dependencies, blocked_by, parent_task_id, tags, metadata, attempt, retry_count, max_retries, timeout_seconds, \
        created_at, run_at, started_at, completed_at, duration_ms, worker_id, progress, result, error, \
        trigger_event_id, correlation_id";
    assert_eq!(keys(&task), contract.split(", ").collect());
    for (field, value) in [
        ("task_id", json!(id)),
        ("name", json!("echo")),
        ("key", json!("first")),
        ("queue", json!("billing")),
        ("priority", json!("HIGH")),
        ("state", json!("PENDING")),
        ("workflow_id", json!("order-7")),
        ("timeout_seconds", json!(2.5)),
        ("max_retries", json!(5)),
        ("attempt", json!(0)),
        ("trigger_event_id", json!("e-1")),
    ] {
        assert_eq!(task[field], value, "{field}");
    }
    let time = |field: &str| crate::support::log::time_ms(task[field].as_str().unwrap());
    assert_eq!(time("run_at") - time("created_at"), 600_000);

    let id = trigger(&redis, &["noop", "--delay", "600", "--max-retries", "9"]).await;
    assert_eq!(ask(&redis, &["task", "get", &id]).await["max_retries"], 9);
    let id = trigger(&redis, &["noop", "--delay", "600", "--retry", r#"{"max_retries":7}"#]).await;
    assert_eq!(ask(&redis, &["task", "get", &id]).await["max_retries"], 7);
    check(&redis).await;
}

#[tokio::test]
async fn a_task_that_is_not_there_is_not_found_whatever_it_is_called() {
    let redis = TestRedis::start().await;
    for command in ["get", "cancel", "wait", "explain"] {
        // No task can have the second one.
        for id in [NOBODY, "no-uuid"] {
            let words = ["task", command, id, "--output", "json"];
            Cli::on(&redis, &words).run().await.refused(4, "TaskNotFound");
        }
    }
    let words = ["audit", "task", "no-uuid", "--output", "json"];
    Cli::on(&redis, &words).run().await.refused(4, "TaskNotFound");
}

#[tokio::test]
async fn task_list_finds_by_state_queue_workflow_and_age() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let completed = trigger(&redis, &["noop", "--workflow-id", "w-1"]).await;
    let failed = trigger(&redis, &["fail", "--kwargs", r#"{"permanent":true}"#]).await;
    let sleep = [
        "sleep",
        "--kwargs",
        r#"{"ms":600000}"#,
        "--queue",
        "slow",
        "--workflow-id",
        "w-1",
    ];
    let running = trigger(&redis, &sleep).await;
    let expired = trigger(
        &redis,
        &[
            "sleep",
            "--kwargs",
            r#"{"ms":600000}"#,
            "--timeout",
            "0.05",
            "--max-retries",
            "0",
        ],
    )
    .await;
    let pending = trigger(&redis, &["noop", "--delay", "600", "--queue", "later"]).await;
    let cancelled = trigger(&redis, &["noop", "--delay", "600"]).await;
    ask(&redis, &["task", "cancel", &cancelled]).await;
    for (id, state) in [
        (&completed, "COMPLETED"),
        (&failed, "FAILED"),
        (&running, "RUNNING"),
        (&expired, "TIMEOUT"),
    ] {
        until_state(&redis, id, state).await;
    }

    let find = async |filter: &[&str]| {
        let words: Vec<&str> = ["task", "list"].iter().chain(filter).copied().collect();
        let page = ask(&redis, &words).await;
        assert_eq!(keys(&page), BTreeSet::from(["items", "next_cursor"]));
        let items = page["items"].as_array().unwrap();
        ids(items).into_iter().map(str::to_owned).collect::<BTreeSet<String>>()
    };
    let set = |ids: &[&String]| ids.iter().map(|id| (*id).clone()).collect::<BTreeSet<String>>();
    assert_eq!(
        find(&[]).await,
        set(&[&completed, &failed, &running, &expired, &pending, &cancelled])
    );
    for (state, id) in [
        ("completed", &completed),
        ("FAILED", &failed),
        ("running", &running),
        ("timeout", &expired),
        ("pending", &pending),
        ("cancelled", &cancelled),
    ] {
        assert_eq!(find(&["--state", state]).await, set(&[id]), "{state}");
    }
    assert_eq!(find(&["--queue", "slow"]).await, set(&[&running]));
    assert_eq!(
        find(&["--queue", "later", "--state", "pending"]).await,
        set(&[&pending])
    );
    assert_eq!(find(&["--workflow", "w-1"]).await, set(&[&completed, &running]));
    assert_eq!(
        find(&["--workflow", "w-1", "--state", "running"]).await,
        set(&[&running])
    );
    assert_eq!(find(&["--workflow", "nobody"]).await, set(&[]));
    assert_eq!(find(&["--older-than", "1h"]).await, set(&[]));
    wait_for("the first has an age", async || {
        let old = find(&["--older-than", "1ms", "--state", "completed"]).await;
        holds(old == set(&[&completed]), || format!("{old:?}"))
    })
    .await;
    for words in [["--state", "asleep"], ["--limit", "0"], ["--cursor", "elsewhere"]] {
        let words: Vec<&str> = ["task", "list"].into_iter().chain(words).collect();
        Cli::on(&redis, &words).run().await.expect(2);
    }

    for id in [&running, &pending] {
        ask(&redis, &["task", "cancel", id]).await;
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn task_list_goes_on_by_cursor_and_shows_each_task_once() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut made = BTreeSet::new();
    for number in 0..11 {
        let queue = format!("q-{}", number % 2);
        let mut words = vec!["noop", "--workflow-id", "w", "--queue", &queue];
        if number % 3 == 0 {
            words.extend(["--delay", "600"]);
        }
        made.insert(trigger(&redis, &words).await);
    }
    wait_for("those that are due have ended", async || {
        let stats = ask(&redis, &["stats"]).await;
        holds(stats["completed_count"] == 7, || stats.to_string())
    })
    .await;

    for (filter, expected, least) in [
        (&[][..], 11, 4),
        (&["--workflow", "w"], 11, 4),
        (&["--state", "completed"], 7, 3),
        (&["--state", "pending"], 4, 2),
        (&["--queue", "q-0"], 6, 2),
    ] {
        let (mut seen, mut pages, mut cursor) = (Vec::new(), 0, None::<String>);
        loop {
            let mut words = vec!["task", "list", "--limit", "3"];
            words.extend(filter);
            if let Some(cursor) = &cursor {
                words.extend(["--cursor", cursor]);
            }
            let page = ask(&redis, &words).await;
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= 3, "{filter:?}");
            seen.extend(ids(items).into_iter().map(str::to_owned));
            pages += 1;
            assert!(pages < 50, "{filter:?} does not end");
            cursor = page["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        let unique: BTreeSet<String> = seen.iter().cloned().collect();
        assert_eq!((seen.len(), unique.len()), (expected, expected), "{filter:?}");
        assert!(unique.is_subset(&made), "{filter:?}");
        assert!(pages >= least, "{filter:?}: {pages}");
    }
    check(&redis).await;
}

#[tokio::test]
async fn task_cancel_stops_what_waits_and_what_runs_and_task_wait_says_so() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let waiting = trigger(&redis, &["noop", "--delay", "600"]).await;
    let running = trigger(&redis, &["sleep", "--kwargs", r#"{"ms":600000}"#]).await;
    until_state(&redis, &running, "RUNNING").await;

    let words = ["task", "wait", &waiting, "--timeout", "0.1", "--output", "json"];
    let waited = Cli::on(&redis, &words).run().await;
    waited.refused(1, "WaitTimeout");
    assert_eq!(waited.json()["state"], "PENDING");
    let patient = Cli::on(&redis, &["task", "wait", &running, "--output", "json"]).spawn();
    for id in [&waiting, &running] {
        let words = ["task", "cancel", id, "--reason", "ordered twice", "--output", "json"];
        let task = Cli::on(&redis, &words).json().await;
        assert_eq!((&task["task_id"], &task["state"]), (&json!(id), &json!("CANCELLED")));
        assert_eq!(task["error"], json!({ "type": "cancelled", "message": "requested" }));
    }
    let waited = patient.ended().await;
    waited.refused(1, "TaskNotCompleted");
    assert_eq!(waited.json()["state"], "CANCELLED");

    let words = ["task", "cancel", &waiting, "-y", "--output", "json"];
    Cli::on(&redis, &words).run().await.refused(1, "InvalidTransition");
    let log = redis.log().await;
    for event in log.all("task.cancelled") {
        assert_eq!(
            (event.text("reason"), event.text("message")),
            ("requested", "ordered twice")
        );
    }
    assert_eq!(log.count("task.cancelled"), 2);

    let completed = trigger(&redis, &["echo", "--args", "[1]"]).await;
    let task = ask(&redis, &["task", "wait", &completed]).await;
    assert_eq!(
        (&task["state"], &task["result"]["args"]),
        (&json!("COMPLETED"), &json!([1]))
    );
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn stats_have_every_key_and_are_those_of_all_replicas() {
    let redis = TestRedis::start().await;
    let _replicas = redis.replica().workers(3).start_many(2).await;
    for _ in 0..4 {
        trigger(&redis, &["noop"]).await;
    }
    trigger(&redis, &["fail", "--kwargs", r#"{"permanent":true}"#]).await;
    let later = trigger(&redis, &["noop", "--delay", "600", "--priority", "low"]).await;
    let cancelled = trigger(&redis, &["noop", "--delay", "600"]).await;
    ask(&redis, &["task", "cancel", &cancelled]).await;

    let stats = wait_for("the replicas have told what they did", async || {
        let stats = ask(&redis, &["stats"]).await;
        let pool = &stats["worker_pool"];
        let is_so = stats["completed_count"] == 4
            && stats["failed_count"] == 1
            && pool["max_workers"] == 6
            && pool["tasks_completed"] == 4
            && pool["active_workers"] == 0;
        holds(is_so, || stats.to_string()).map(|()| stats)
    })
    .await;

    let contract = "pending_count, running_count, completed_count, failed_count, timeout_count, cancelled_count, \
        total_count, by_priority, by_queue, average_duration_seconds, oldest_pending_at, throughput_per_minute, \
        max_size, max_running, dead_letter_count, worker_pool";
    assert_eq!(keys(&stats), contract.split(", ").collect());
    let pool = "active_workers, idle_workers, max_workers, utilization_percentage, tasks_completed, tasks_failed, \
        average_duration_seconds, throughput_per_minute";
    assert_eq!(keys(&stats["worker_pool"]), pool.split(", ").collect());
    for (key, count) in [
        ("pending_count", 1),
        ("running_count", 0),
        ("timeout_count", 0),
        ("cancelled_count", 1),
        ("total_count", 7),
        ("dead_letter_count", 1),
    ] {
        assert_eq!(stats[key], count, "{key}: {stats}");
    }
    assert_eq!(stats["by_priority"]["LOW"], 1);
    assert_eq!(stats["worker_pool"]["idle_workers"], 6);
    wait_for("the library counts the same", async || {
        let library = serde_json::to_value(redis.queue().await.get_statistics().await.unwrap()).unwrap();
        let stats = ask(&redis, &["stats"]).await;
        holds(library == stats, || format!("{library}\n{stats}"))
    })
    .await;
    ask(&redis, &["task", "cancel", &later]).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn events_tail_prints_what_is_there_one_json_document_a_line() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let id = trigger(&redis, &["echo", "--args", "[1]"]).await;
    trigger(&redis, &["noop"]).await;
    check_all_ended(&redis).await;
    let log = redis.log().await;
    let tail = async |more: &[&str]| {
        let words = ["events", "tail", "--no-follow", "--output", "json"];
        let words: Vec<&str> = words.iter().chain(more).copied().collect();
        let events = Cli::on(&redis, &words).run().await.expect(0).json_lines();
        let ids = events
            .iter()
            .map(|event| event["event_id"].as_str().unwrap().to_owned());
        (ids.collect::<Vec<String>>(), events)
    };

    let (seen, events) = tail(&["--since", "0", "--type", "orchestration.task.*"]).await;
    let expected: Vec<&str> = log
        .events
        .iter()
        .filter(|event| event.kind.starts_with("task."))
        .map(|event| event.event_id.as_str())
        .collect();
    assert_eq!(seen, expected);
    for (event, expected) in events
        .iter()
        .zip(log.events.iter().filter(|event| event.kind.starts_with("task.")))
    {
        let fields = [
            "event_type",
            "source_agent",
            "event_id",
            "correlation_id",
            "causation_id",
            "timestamp",
        ];
        for name in fields {
            assert_eq!(event[name], expected.fields[name], "{name}");
        }
        assert_eq!(event["payload"], expected.payload);
        assert!(event["entry_id"].as_str().unwrap().contains('-'));
    }
    assert_eq!(tail(&[]).await.0.len(), log.events.len());
    assert_eq!(tail(&["--type", "orchestration.task.completed"]).await.0.len(), 2);
    assert_eq!(tail(&["--subject", &id]).await.0.len(), 3);
    assert_eq!(tail(&["--limit", "2"]).await.0.len(), 2);
    assert_eq!(tail(&["--since", "now"]).await.0.len(), 0);
    assert_eq!(tail(&["--since", "1h"]).await.0.len(), log.events.len());
    let third = events[2]["entry_id"].as_str().unwrap();
    assert_eq!(
        tail(&["--since", third, "--type", "orchestration.task.*"]).await.0,
        seen[3..]
    );
    Cli::on(&redis, &["events", "tail", "--since", "yesterday"])
        .run()
        .await
        .expect(2);
}

#[tokio::test]
async fn events_tail_follows_until_it_has_as_many_as_wanted() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let words = [
        "events",
        "tail",
        "--since",
        "0",
        "--type",
        "orchestration.task.completed",
        "--limit",
        "3",
        "--output",
        "json",
    ];
    let tail = Cli::on(&redis, &words).spawn();
    let mut made = BTreeSet::new();
    for _ in 0..3 {
        made.insert(trigger(&redis, &["noop"]).await);
    }

    let events = tail.ended().await.expect(0).json_lines();

    let seen = events
        .iter()
        .map(|event| event["payload"]["task_id"].as_str().unwrap().to_owned());
    assert_eq!(seen.collect::<BTreeSet<String>>(), made);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn health_tells_ready_from_not_ready_from_nobody_there() {
    let health = async |port: u16, more: &[&str]| {
        let words: Vec<&str> = ["health", "--output", "json"].iter().chain(more).copied().collect();
        Cli::new(&words).set("PORT", &port.to_string()).run().await
    };
    health(free_port(), &[]).await.refused(3, "Unreachable");

    let redis = TestRedis::not_started(false);
    let replica = redis.replica().spawn();
    replica.until_readiness(503, crate::support::PATIENCE).await;
    let joining = health(replica.http_port(), &[]).await;
    joining.refused(1, "NotReady");
    assert_eq!(joining.json()["status"], "joining");
    let alive = health(replica.http_port(), &["--live"]).await.expect(0);
    assert_eq!(alive.json()["status"], "ok");

    redis.start_again().await;
    replica.until_ready().await;
    let ready = health(replica.http_port(), &[]).await.expect(0);
    assert_eq!(ready.json()["status"], "ready");

    let id = trigger(&redis, &["sleep", "--kwargs", r#"{"ms":25000}"#]).await;
    until_state(&redis, &id, "RUNNING").await;
    replica.signal("TERM");
    replica.until_readiness(503, crate::support::PATIENCE).await;
    let draining = health(replica.http_port(), &[]).await;
    draining.refused(1, "NotReady");
    assert_eq!(draining.json()["status"], "draining");
}

#[tokio::test]
async fn config_check_shows_every_value_with_its_source_and_no_secret() {
    let file = "[redis]\nurl = \"redis://ann:hunter2@redis.internal:6379\"\n\
        [[http.tokens]]\ntoken = \"letmein\"\nrole = \"read\"\n";
    let check = |more: &[&str]| {
        let words = ["config", "check", "--config", "mine.toml"];
        let words: Vec<&str> = words.iter().chain(more).copied().collect();
        let cli = Cli::new(&words).file("mine.toml", file);
        cli.set("WAOOAW_QUEUE__MAX_SIZE", "50").set("WORKER_POOL_SIZE", "7")
    };

    let ran = check(&["--output", "json"]).run().await.expect(0);
    let document = ran.json();
    let items = document["items"].as_array().unwrap();
    let of = |key: &str| items.iter().find(|item| item["key"] == key).unwrap();
    assert_eq!(of("queue.max_size")["value"], "50");
    assert_eq!(of("queue.max_size")["source"], "WAOOAW_QUEUE__MAX_SIZE");
    assert_eq!(of("worker_pool.max_workers")["source"], "WORKER_POOL_SIZE");
    assert_eq!(of("queue.max_wait")["source"], "default");
    assert!(of("redis.url")["source"].as_str().unwrap().contains("mine.toml"));
    assert!(of("redis.url")["value"].as_str().unwrap().contains("redis.internal"));
    assert_eq!(document["warnings"], json!([]));

    let table = check(&[]).run().await.expect(0);
    for ran in [&ran, &table] {
        assert!(!ran.out.contains("hunter2") && !ran.out.contains("letmein"), "{ran:?}");
    }
    for item in items {
        let (key, source) = (item["key"].as_str().unwrap(), item["source"].as_str().unwrap());
        let mut lines = table.out.lines();
        assert!(
            lines.any(|line| line.contains(key) && line.contains(source)),
            "{key}: {table:?}"
        );
    }
}

#[tokio::test]
async fn config_check_names_all_problems_at_once() {
    let check = |words: &[&str]| {
        let words: Vec<&str> = ["config", "check"].iter().chain(words).copied().collect();
        Cli::new(&words)
            .set("WAOOAW_QUEUE__MAX_SIZE", "many")
            .set("PORT", "99999")
            .set("WAOOAW_SHUTDOWN__GRACE", "30")
    };

    let refused = check(&["--output", "json"]).run().await;
    refused.refused(2, "InvalidConfiguration");
    let error = refused.error();
    let problems = error["errors"].as_array().unwrap();
    let found: BTreeSet<(&str, &str, &str)> = problems
        .iter()
        .map(|problem| {
            assert!(!problem["reason"].as_str().unwrap().is_empty(), "{problem}");
            let text = |name: &str| problem[name].as_str().unwrap();
            (text("key"), text("value"), text("source"))
        })
        .collect();
    let expected = BTreeSet::from([
        ("queue.max_size", "many", "WAOOAW_QUEUE__MAX_SIZE"),
        ("http.addr", "99999", "PORT"),
        ("shutdown.grace", "30", "WAOOAW_SHUTDOWN__GRACE"),
    ]);
    assert_eq!(found, expected);

    let refused = check(&[]).run().await.expect(2);
    for (key, value, source) in expected {
        assert!(
            refused
                .err
                .lines()
                .any(|line| line.contains(key) && line.contains(value) && line.contains(source)),
            "{key}: {refused:?}"
        );
    }
    Cli::new(&["config", "check", "--config", "missing.toml"])
        .run()
        .await
        .expect(2);
    // Where a start would fail, the check fails too.
    let unknown = Cli::new(&["config", "check", "--config", "mine.toml"])
        .file("mine.toml", "[handlers.myecho]\nkind = \"builtin\"\n")
        .run()
        .await;
    assert!(
        unknown
            .expect(2)
            .err
            .contains("`handlers.myecho`: there is no builtin of this name")
    );
    let warned = Cli::new(&["config", "check"])
        .set("WAOOAW_QUEUE__SIZE", "5")
        .run()
        .await;
    assert!(warned.expect(0).err.contains("WAOOAW_QUEUE__SIZE"));
}

#[tokio::test]
async fn completions_are_a_script_that_names_every_command() {
    let script = Cli::new(&["completions", "bash"]).run().await.expect(0);
    for word in [
        "complete -F _waooaw",
        "trigger",
        "task",
        "stats",
        "events",
        "health",
        "bench",
    ] {
        assert!(script.out.contains(word), "{word}");
    }
    assert_eq!(script.err, "");
}

#[tokio::test]
async fn without_redis_every_command_that_needs_it_ends_with_3() {
    let redis = TestRedis::not_started(false);
    for words in [
        &["trigger", "echo"][..],
        &["trigger", "echo", "--wait"],
        &["task", "get", NOBODY],
        &["task", "get", "no task can be called so"],
        &["task", "list"],
        &["task", "cancel", NOBODY],
        &["task", "wait", NOBODY, "--timeout", "5"],
        &["stats"],
        &["top"],
        &["events", "tail", "--no-follow"],
        &["events", "tail"],
        &["events", "tail", "--since", "0"],
    ] {
        let away = Cli::on(&redis, words).set("WAOOAW_OUTPUT", "json").run().await;
        away.refused(3, "RedisUnavailable");
        assert_eq!(away.out, "", "{away:?}");
    }
}

#[tokio::test]
async fn a_noop_takes_any_arguments() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let words = [
        "trigger",
        "noop",
        "--args",
        "[1]",
        "--kwargs",
        r#"{"a":2}"#,
        "--wait",
        "30",
    ];

    let done = Cli::on(&redis, &words).set("WAOOAW_OUTPUT", "json").json().await;

    assert_eq!((&done["state"], &done["result"]), (&json!("COMPLETED"), &json!(null)));
}

#[tokio::test]
async fn what_goes_into_a_pipe_is_plain_text() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    // A result that would colour a terminal, were it written as it is.
    let id = trigger(&redis, &["echo", "--args", r#"["\u001b[31mred"]"#]).await;
    until_state(&redis, &id, "COMPLETED").await;

    for words in [
        &["trigger", "noop"][..],
        &["trigger", "noop", "--wait"],
        &["task", "get", &id],
        &["task", "wait", &id],
        &["task", "list"],
        &["stats"],
        &["top"],
        &["events", "tail", "--no-follow"],
        &["config", "check"],
        &["completions", "zsh"],
        &["--help"],
        &["task", "--help"],
        &["--version"],
    ] {
        let plain = Cli::on(&redis, words).run().await.expect(0);
        plain.is_plain();
        assert!(!plain.out.is_empty(), "{plain:?}");
        let without_colour = Cli::on(&redis, words).set("NO_COLOR", "1").run().await.expect(0);
        without_colour.is_plain();
    }
    Cli::on(&redis, &["task", "get", "x"]).run().await.expect(4).is_plain();
    Cli::on(&redis, &["nonsense"]).run().await.expect(2).is_plain();
    check_all_ended(&redis).await;
}
