//! What becomes of workflows that are refused, fail, are stopped, or grow while they run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use waooaw_orchestration::domain::rejection::Reason;
use waooaw_orchestration::domain::workflow::WorkflowTrigger;
use waooaw_orchestration::runtime::defaults::{Defaults, Origin};
use waooaw_orchestration::runtime::group;
use waooaw_orchestration::runtime::request::new_actor;
use waooaw_orchestration::runtime::workflow_execution::workflow_execution;
use waooaw_orchestration::{
    DeadLetters, Endpoint, Error, Handlers, Operator, ReplicaOptions, Store, Task, TaskContext, TaskError, TaskId,
    TaskQueue, Workflow, Workflows,
};

use crate::support::cli::Cli;
use crate::support::history::check_all_ended;
use crate::support::http::request;
use crate::support::local::LocalReplica;
use crate::support::redis::{TestRedis, trigger_fields};
use crate::support::replica::ask;
use crate::support::scene::{told, verify};
use crate::support::workflow::publish;
use crate::support::{holds, wait_for, wait_within};

/// The task of a node in a workflow that the event of the same name started.
fn node(workflow: &str, key: &str) -> TaskId {
    TaskId::derive("tester", workflow, Some(workflow), Some(key), 1)
}

/// The task that an event asked for in a workflow.
fn joined(event_id: &str, workflow: &str) -> TaskId {
    TaskId::derive("tester", event_id, Some(workflow), None, 1)
}

async fn start(redis: &TestRedis, id: &str, rest: Value) {
    let mut payload = json!({ "workflow_id": id });
    for (name, value) in rest.as_object().unwrap() {
        payload[name] = value.clone();
    }
    publish(redis, "workflow.start", id, &payload).await;
}

/// A task that fails at once and for good.
fn failing(key: &str) -> Value {
    json!({ "task_id": key, "name": "fail", "kwargs": { "permanent": true } })
}

async fn document(redis: &TestRedis, id: &str) -> Value {
    let document = workflow_execution(&redis.store(), &id.parse().unwrap()).await.unwrap();
    serde_json::to_value(document).unwrap()
}

/// Keys of tasks and groups.
async fn group_keys(redis: &TestRedis) -> BTreeSet<String> {
    let keys: Vec<String> = redis.ask(&["KEYS", "waooaw:{0}:*"]).await;
    let kinds = ["t", "w", "group", "keys", "d", "n", "s", "e", "u", "work", "staging"];
    keys.into_iter()
        .filter(|key| kinds.contains(&key.split(':').nth(2).unwrap_or_default()))
        .collect()
}

#[tokio::test]
async fn a_graph_that_can_not_be_is_refused_with_its_reason_and_leaves_no_key_behind() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().set("WAOOAW_QUEUE__REFERENCE_WAIT", "1s");
    let _replica = settings.start().await;
    let task =
        |key: &str, dependencies: &[&str]| json!({ "task_id": key, "name": "noop", "dependencies": dependencies });
    let cases = [
        (
            "cyclic",
            json!([task("a", &["c"]), task("b", &["a"]), task("c", &["b"])]),
            "cyclic_dependency",
        ),
        ("itself", json!([task("a", &["a"])]), "cyclic_dependency"),
        ("twice", json!([task("a", &[]), task("a", &[])]), "duplicate_key"),
        ("unknown", json!([task("a", &["z"])]), "invalid_dependency"),
        ("empty", json!([]), "invalid_field"),
        (
            "stranger",
            json!([task("a", &[]), { "task_id": "b", "name": "nobody_runs_this" }]),
            "unknown_task",
        ),
    ];

    for (id, tasks, _) in &cases {
        start(&redis, id, json!({ "tasks": tasks })).await;
    }
    let saga = json!({ "steps": [{ "name": "a", "action": "noop", "compensation": "nobody_runs_this" }] });
    publish(&redis, "saga.start", "saga", &saga).await;
    let mut log = redis.log().await;
    log.until_count("trigger.rejected", cases.len() + 1).await;

    for (id, _, reason) in &cases {
        let refused: Vec<_> = log.all("trigger.rejected");
        let refused = refused
            .iter()
            .find(|event| event.text("trigger_event_id") == *id)
            .unwrap();
        assert_eq!(refused.text("reason"), *reason, "{refused:?}");
        let key = format!("waooaw:{{0}}:dead:{}", refused.text("dead_letter_id"));
        assert_eq!(redis.ask::<String>(&["HGET", &key, "kind"]).await, "trigger");
    }
    assert_eq!(group_keys(&redis).await, BTreeSet::new());

    // An id that another trigger took, for a workflow and a saga alike.
    start(&redis, "w", json!({ "tasks": [task("a", &[])] })).await;
    log.until_count("workflow.completed", 1).await;
    let before = group_keys(&redis).await;
    publish(
        &redis,
        "workflow.start",
        "x",
        &json!({ "workflow_id": "w", "tasks": [task("b", &[])] }),
    )
    .await;
    let steps = json!([{ "name": "a", "action": "noop" }]);
    publish(&redis, "saga.start", "y", &json!({ "saga_id": "w", "steps": steps })).await;
    log.until_count("trigger.rejected", cases.len() + 3).await;
    for event in &log.all("trigger.rejected")[cases.len() + 1..] {
        assert_eq!(event.text("reason"), "duplicate_id");
    }
    assert_eq!(group_keys(&redis).await, before);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_workflow_is_refused_whole_when_a_task_that_carried_its_id_before_has_one_of_its_keys() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let early = json!({ "task_name": "noop", "workflow_id": "w", "key": "t250", "delay_seconds": 600 });
    redis.trigger("early", &early).await;
    let mut log = redis.log().await;
    log.until_task(joined("early", "w"), "task.created").await;
    let before = group_keys(&redis).await;
    // More than one call stages.
    let tasks = |count: u32| -> Vec<Value> {
        let task = |number| json!({ "task_id": format!("t{number}"), "name": "noop" });
        (0..count).map(task).collect()
    };

    start(&redis, "w", json!({ "tasks": tasks(300) })).await;
    log.until_count("trigger.rejected", 1).await;

    let refused = &log.all("trigger.rejected")[0].payload;
    assert_eq!(refused["reason"], "duplicate_key");
    assert_eq!(refused["errors"][0]["field"], "tasks.t250.task_id");
    assert_eq!(group_keys(&redis).await, before);
    let flow = json!({ "workflow_id": "w", "tasks": tasks(300) }).to_string();
    let asked = Workflows::new(redis.store())
        .start(&Workflow::from_json(&flow).unwrap())
        .await;
    let Err(Error::InvalidField(problem)) = asked else {
        panic!("{asked:?}")
    };
    assert_eq!(problem.reason, Reason::DuplicateKey);
    // Without the key it begins, and takes the task in.
    start(&redis, "w", json!({ "workflow_id": "w", "tasks": tasks(250) })).await;
    log.until_count("workflow.started", 1).await;
    wait_for("the task is taken in", async || {
        let total = document(&redis, "w").await["total_tasks"].clone();
        holds(total == 251, || total.to_string())
    })
    .await;
}

#[tokio::test]
async fn a_large_start_that_was_abandoned_half_way_is_swept_and_can_be_made_anew() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let tasks: Vec<Value> = (0..5000)
        .map(|number| {
            let before: Vec<String> = (number > 0).then(|| format!("t{}", number - 1)).into_iter().collect();
            json!({ "task_id": format!("t{number}"), "name": "noop", "dependencies": before })
        })
        .collect();
    let payload = json!({ "workflow_id": "w", "tasks": tasks });
    let trigger = WorkflowTrigger::parse(&payload.to_string()).unwrap();
    let origin = Origin {
        source_agent: "tester",
        event_id: "w",
        correlation_id: None,
        trace: None,
    };
    let group = Defaults::default().workflow(trigger, &origin, 1);
    let store = redis.store();
    tokio::select! {
        started = group::start(&store, new_actor(), group) => panic!("too fast: {started:?}"),
        () = async {
            while group_keys(&redis).await.len() < 500 {}
        } => {}
    }
    let statistics = redis.queue().await.get_statistics().await.unwrap();
    assert_eq!(statistics.by_queue["default"].pending_count, 0);

    // As if an hour had passed.
    let () = redis.ask(&["ZADD", "waooaw:{0}:staging", "1", "w"]).await;
    wait_for("it is swept", async || {
        let keys = group_keys(&redis).await;
        holds(keys.is_empty(), || format!("{} keys: {:?}", keys.len(), keys.first()))
    })
    .await;
    assert_eq!(redis.ask::<String>(&["HGET", "waooaw:{0}:meta", "opening"]).await, "0");
    drop(replica);

    let _replicas = redis.replica().start_many(2).await;
    publish(&redis, "workflow.start", "w", &payload).await;
    let mut log = redis.log().await;
    wait_within(Duration::from_secs(60), "it completes", async || {
        log.refresh().await;
        holds(log.count("workflow.completed") == 1, || log.summary())
    })
    .await;
    assert_eq!(log.count("task.completed"), 5000);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_workflow_larger_than_the_queue_is_admitted_whole_in_its_turn() {
    let redis = TestRedis::start().await;
    let _replicas = redis
        .replica()
        .workers(2)
        .set("TASK_QUEUE_MAX_SIZE", "4")
        .start_many(3)
        .await;
    let wide = |count: usize| -> Vec<Value> {
        (0..count)
            .map(|number| json!({ "task_id": format!("t{number}"), "name": "sleep", "kwargs": { "ms": 20 } }))
            .collect()
    };

    for round in 0..6 {
        for (kind, size) in [("workflow", 10), ("task", 1)] {
            let id = format!("{kind}-{round}");
            if kind == "task" {
                redis.trigger(&id, &json!({ "task_name": "noop" })).await;
            } else {
                start(&redis, &id, json!({ "tasks": wide(size) })).await;
            }
        }
    }
    let mut log = redis.log().await;
    log.until_count("workflow.completed", 6).await;
    log.until_count("task.completed", 66).await;

    // A trigger is admitted only while there is room, so never more wait than one of them brings beyond the limit.
    let (mut open, mut most) = (0_usize, 0);
    for event in &log.events {
        match event.kind.as_str() {
            "task.created" => open += 1,
            "task.completed" => open -= 1,
            _ => {}
        }
        most = most.max(open);
    }
    assert!(most <= 13, "{most}");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_child_waits_as_long_as_a_full_queue_keeps_its_parent_from_being_read() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(1).set("TASK_QUEUE_MAX_SIZE", "1");
    let _replica = settings.set("WAOOAW_QUEUE__REFERENCE_WAIT", "1s").start().await;
    let task = |key: &str, dependencies: &[&str]| json!({ "task_name": "noop", "workflow_id": "w", "key": key, "dependencies": dependencies });

    redis.trigger("child", &task("child", &["parent"])).await;
    let mut log = redis.log().await;
    // Long enough for the child to be read alone.
    wait_for("the child waits", async || {
        let pending = redis.pending("waooaw:triggers", "orchestrators").await;
        holds(pending == 1, || format!("{pending} pending"))
    })
    .await;
    for number in 0..2 {
        let slow = json!({ "task_name": "sleep", "kwargs": { "ms": 1200 } });
        redis.trigger(&format!("slow-{number}"), &slow).await;
    }
    redis.trigger("parent", &task("parent", &[])).await;
    log.until_count("task.completed", 4).await;

    assert_eq!(log.count("trigger.rejected"), 0);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_workflow_lives_in_one_partition_of_several() {
    let redis = TestRedis::start().await;
    let partitions = 4;
    let settings = redis.replica().set("WAOOAW_REDIS__PARTITIONS", &partitions.to_string());
    let _replicas = settings.start_many(2).await;
    let mut endpoint = Endpoint::new(&redis.url());
    endpoint.partitions = Some(partitions);
    let store = Store::new(endpoint).unwrap();

    let tasks = json!([
        { "task_id": "d", "name": "echo", "dependencies": ["b", "c"] },
        { "task_id": "b", "name": "add", "args": [1, 1], "dependencies": ["a"] },
        { "task_id": "c", "name": "add", "args": [1, 2], "dependencies": ["a"] },
        { "task_id": "a", "name": "noop" },
    ]);
    for number in 0..12 {
        // Half of them leave their id open.
        let id = if number % 2 == 0 {
            json!(format!("flow-{number}"))
        } else {
            Value::Null
        };
        let payload = json!({ "workflow_id": id, "tasks": tasks });
        publish(&redis, "workflow.start", &format!("e-{number}"), &payload).await;
    }
    publish(&redis, "workflow.stop", "stop", &json!({ "workflow_id": "flow-0" })).await;
    let mut homes = BTreeSet::new();
    wait_for("all workflows end", async || {
        let mut ended = 0;
        for partition in store.partitions() {
            let events = store.events_after(partition, "0", 100_000).await.unwrap();
            let of_workflows = events
                .iter()
                .filter(|event| event.event_type.starts_with("orchestration.workflow."));
            for event in of_workflows.filter(|event| event.event_type != "orchestration.workflow.started") {
                ended += 1;
                homes.insert(partition);
                let id = event.subject().parse().unwrap();
                for task in store.workflow_tasks(&id).await.unwrap() {
                    assert_eq!(task.partition(), partition);
                }
            }
        }
        holds(ended >= 12, || format!("{ended}"))
    })
    .await;
    assert!(homes.len() > 1, "{homes:?}");
    let report = verify(&store).await;
    assert!(report.ok, "{}", told(&report.violations));
}

#[tokio::test]
async fn what_depends_on_a_failure_is_cancelled_and_names_its_root() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    let tasks = json!([
        failing("a"),
        { "task_id": "b", "name": "noop", "dependencies": ["a"] },
        { "task_id": "c", "name": "noop", "dependencies": ["b"] },
        { "task_id": "free", "name": "noop" },
    ]);
    start(&redis, "w", json!({ "tasks": tasks })).await;
    let mut log = redis.log().await;
    log.until_count("workflow.failed", 1).await;

    let root = node("w", "a").to_string();
    for key in ["b", "c"] {
        assert_eq!(log.life(node("w", key)), ["created", "cancelled"]);
        let cancelled = log.of(&node("w", key).to_string())[1];
        assert_eq!(cancelled.text("reason"), "dependency_failed");
        assert_eq!(cancelled.text("root_cause_task_id"), root);
    }
    assert_eq!(log.life(node("w", "free")), ["created", "started", "completed"]);
    let failed = log.all("workflow.failed")[0];
    assert_eq!(failed.text("root_cause_task_id"), root);
    let counts = json!({ "PENDING": 0, "RUNNING": 0, "COMPLETED": 1, "FAILED": 1, "TIMEOUT": 0, "CANCELLED": 2 });
    assert_eq!(failed.payload["counts"], counts);
    let document = document(&redis, "w").await;
    assert_eq!((&document["state"], &document["counts"]), (&json!("FAILED"), &counts));
    assert_eq!(document["execution_batches"], json!([["a", "free"], ["b"], ["c"]]));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_task_may_run_all_the_same_without_the_input_that_failed() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    let tasks = json!([
        failing("bad"),
        { "task_id": "good", "name": "add", "args": [1, 2] },
        { "task_id": "tidy", "name": "echo", "dependencies": ["bad", "good"], "on_dependency_failure": "run" },
        { "task_id": "rest", "name": "noop", "dependencies": ["bad"] },
    ]);
    start(&redis, "one", json!({ "tasks": tasks })).await;
    let all = json!([
        failing("bad"),
        { "task_id": "tidy", "name": "echo", "dependencies": ["bad"] },
        { "task_id": "rest", "name": "noop", "dependencies": ["bad"], "on_dependency_failure": "cancel" },
    ]);
    start(&redis, "all", json!({ "on_dependency_failure": "run", "tasks": all })).await;
    let mut log = redis.log().await;
    log.until_count("workflow.failed", 2).await;

    let inputs = |workflow: &str| {
        let id = node(workflow, "tidy").to_string();
        log.of(&id)[2].payload["result"]["inputs"].clone()
    };
    assert_eq!(inputs("one"), json!({ "bad": null, "good": 3 }));
    assert_eq!(inputs("all"), json!({ "bad": null }));
    for workflow in ["one", "all"] {
        assert_eq!(log.life(node(workflow, "rest")), ["created", "cancelled"]);
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_is_in_the_way_is_found_among_many() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let keys: Vec<String> = (0..30).map(|number| format!("k{number:02}")).collect();
    let mut tasks: Vec<Value> = keys
        .iter()
        .map(|key| json!({ "task_id": key, "name": "noop", "delay_seconds": 600 }))
        .collect();
    tasks.push(json!({ "task_id": "last", "name": "noop", "dependencies": keys }));
    let start_waiting = async |id: &str, tasks: &[Value]| {
        start(&redis, id, json!({ "on_dependency_failure": "wait", "tasks": tasks })).await;
    };
    start_waiting("slow", &tasks).await;
    tasks[25] = failing("k25");
    start_waiting("stuck", &tasks).await;
    let mut log = redis.log().await;
    log.until_task(node("slow", "last"), "task.created").await;
    log.until_task(node("stuck", "k25"), "task.dead_lettered").await;

    let explained = async |workflow: &str| {
        let task = node(workflow, "last").to_string();
        Cli::on(&redis, &["task", "explain", &task]).run().await.expect(0).out
    };
    let (slow, stuck) = (explained("slow").await, explained("stuck").await);

    assert!(
        slow.contains("it waits for 30 other tasks to end: `k00` and 29 more"),
        "{slow}"
    );
    assert!(stuck.contains("it waits for `k25`, which ended as FAILED"), "{stuck}");
}

#[tokio::test]
async fn what_waits_for_an_operator_goes_on_after_a_requeue() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    let tasks = json!([
        { "task_id": "a", "name": "flaky", "kwargs": { "fail_times": 1 }, "max_retries": 0 },
        { "task_id": "b", "name": "noop", "dependencies": ["a"] },
    ]);
    start(&redis, "w", json!({ "on_dependency_failure": "wait", "tasks": tasks })).await;
    start(&redis, "v", json!({ "on_dependency_failure": "wait", "tasks": tasks })).await;
    let mut log = redis.log().await;
    log.until_count("task.dead_lettered", 2).await;
    assert_eq!(document(&redis, "w").await["state"], "RUNNING");
    let statistics = redis.queue().await.get_statistics().await.unwrap();
    assert_eq!(statistics.pending_count, 2);
    assert_eq!(statistics.by_queue["default"].pending_count, 2);
    let blocked = node("w", "b").to_string();
    let told = Cli::on(&redis, &["task", "explain", &blocked]).run().await.expect(0);
    let expected =
        "PENDING: it waits for `a`, which ended as FAILED: requeue it from the dead letters, or cancel this task";
    assert!(told.out.starts_with(expected), "{told:?}");

    let letter = log
        .of(&node("w", "a").to_string())
        .last()
        .unwrap()
        .text("dead_letter_id")
        .to_owned();
    let letters = DeadLetters::connect(Endpoint::new(&redis.url())).unwrap();
    letters
        .requeue(&Operator::new("tester", None), &letter, None)
        .await
        .unwrap();
    redis.cancel("c", node("v", "b")).await;
    log.until_count("workflow.completed", 1).await;
    log.until_count("workflow.failed", 1).await;

    assert_eq!(log.life(node("w", "b")), ["created", "started", "completed"]);
    assert_eq!(log.life(node("v", "b")), ["created", "cancelled"]);
    let completed = log.all("workflow.completed")[0];
    assert_eq!(completed.payload["counts"]["COMPLETED"], 2);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_stop_cancels_what_is_not_over_and_comes_before_its_workflow_too() {
    let redis = TestRedis::start().await;
    let _replica = redis
        .replica()
        .workers(2)
        .set("WAOOAW_QUEUE__REFERENCE_WAIT", "2s")
        .start()
        .await;
    let tasks = json!([
        { "task_id": "done", "name": "noop", "priority": "HIGH" },
        { "task_id": "long", "name": "sleep", "kwargs": { "ms": 60_000 }, "dependencies": ["done"] },
        { "task_id": "last", "name": "noop", "dependencies": ["long"] },
    ]);
    start(&redis, "w", json!({ "tasks": tasks })).await;
    // Only a name that tasks carry.
    redis
        .trigger(
            "label",
            &json!({ "task_name": "noop", "workflow_id": "name", "delay_seconds": 600 }),
        )
        .await;
    let mut log = redis.log().await;
    log.until_task(node("w", "long"), "task.started").await;
    log.until_task(joined("label", "name"), "task.created").await;

    publish(
        &redis,
        "workflow.stop",
        "stop-w",
        &json!({ "workflow_id": "w", "reason": "no more" }),
    )
    .await;
    publish(&redis, "workflow.stop", "stop-name", &json!({ "workflow_id": "name" })).await;
    publish(
        &redis,
        "workflow.stop",
        "stop-later",
        &json!({ "workflow_id": "later" }),
    )
    .await;
    publish(
        &redis,
        "workflow.stop",
        "stop-never",
        &json!({ "workflow_id": "never" }),
    )
    .await;
    log.until_count("workflow.cancelled", 1).await;
    start(
        &redis,
        "later",
        json!({ "tasks": [{ "task_id": "a", "name": "sleep", "kwargs": { "ms": 60_000 } }] }),
    )
    .await;
    log.until_count("workflow.cancelled", 2).await;
    publish(&redis, "workflow.stop", "stop-again", &json!({ "workflow_id": "w" })).await;
    log.until_count("command.refused", 2).await;

    for key in ["long", "last"] {
        let id = node("w", key).to_string();
        let cancelled = *log.of(&id).last().unwrap();
        assert_eq!(
            (cancelled.text("reason"), cancelled.text("message")),
            ("workflow_stopped", "no more")
        );
        assert_eq!(cancelled.causation_id, "stop-w");
    }
    assert_eq!(log.life(joined("label", "name")), ["created", "cancelled"]);
    assert_eq!(log.of("name").len(), 0);
    let refused: Vec<(&str, &str)> = log
        .all("command.refused")
        .iter()
        .map(|event| (event.text("workflow_id"), event.text("reason")))
        .collect();
    assert_eq!(
        BTreeSet::from_iter(refused),
        BTreeSet::from([("w", "invalid_transition"), ("never", "not_found")])
    );
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_task_without_a_priority_takes_its_parents_else_its_workflows() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let tasks = json!([
        { "task_id": "gate", "name": "sleep", "kwargs": { "ms": 60_000 } },
        { "task_id": "own", "name": "noop", "priority": "BACKGROUND" },
    ]);
    start(&redis, "w", json!({ "priority": "HIGH", "tasks": tasks })).await;
    let mut log = redis.log().await;
    log.until_task(node("w", "gate"), "task.started").await;

    let parent = node("w", "own").to_string();
    let stranger = TaskId::derive("x", "y", None, None, 1).to_string();
    let task = |more: Value| {
        let mut payload = json!({ "task_name": "noop", "workflow_id": "w" });
        for (name, value) in more.as_object().unwrap() {
            payload[name] = value.clone();
        }
        payload
    };
    redis.trigger("plain", &task(json!({}))).await;
    redis.trigger("child", &task(json!({ "parent_task_id": parent }))).await;
    redis
        .trigger("orphan", &task(json!({ "parent_task_id": stranger })))
        .await;
    redis
        .trigger("own", &task(json!({ "parent_task_id": parent, "priority": "LOW" })))
        .await;
    let workflow = |id: &str| {
        json!({ "workflow_id": id, "priority": "LOW", "tasks": [
            { "task_id": "plain", "name": "noop" },
            { "task_id": "child", "name": "noop", "parent_task_id": parent },
        ]})
    };
    publish(&redis, "workflow.start", "v", &workflow("v")).await;
    let over_http = json!({
        "event_type": "orchestration.workflow.start", "source_agent": "tester", "event_id": "u", "payload": workflow("u"),
    });
    let body = over_http.to_string();
    let (status, answer) = ask(replica.http_port(), "POST", "/v1/triggers", None, Some(&body))
        .await
        .unwrap();
    assert_eq!(status, 202, "{answer}");
    log.until_count("workflow.completed", 2).await;
    for event in ["plain", "child", "orphan", "own"] {
        log.until_task(joined(event, "w"), "task.completed").await;
    }

    let priority = |id: TaskId| log.of(&id.to_string())[0].text("priority");
    assert_eq!(priority(node("w", "gate")), "HIGH");
    assert_eq!(priority(joined("plain", "w")), "HIGH");
    assert_eq!(priority(joined("child", "w")), "BACKGROUND");
    assert_eq!(priority(joined("orphan", "w")), "HIGH");
    assert_eq!(priority(joined("own", "w")), "LOW");
    for workflow in ["v", "u"] {
        assert_eq!(priority(node(workflow, "plain")), "LOW");
        assert_eq!(priority(node(workflow, "child")), "BACKGROUND");
    }
    publish(&redis, "workflow.stop", "stop", &json!({ "workflow_id": "w" })).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn tasks_join_a_workflow_until_it_is_over() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().set("WAOOAW_QUEUE__REFERENCE_WAIT", "1s").start().await;
    let tasks = json!([
        { "task_id": "gate", "name": "sleep", "kwargs": { "ms": 1500 } },
        { "task_id": "two", "name": "add", "args": [1, 1] },
    ]);
    start(&redis, "w", json!({ "tasks": tasks })).await;
    let mut log = redis.log().await;
    log.until_task(node("w", "two"), "task.completed").await;

    let two = node("w", "two").to_string();
    let join = |more: Value| {
        let mut payload = json!({ "task_name": "echo", "workflow_id": "w" });
        for (name, value) in more.as_object().unwrap() {
            payload[name] = value.clone();
        }
        payload
    };
    redis
        .trigger("later", &join(json!({ "key": "later", "dependencies": ["gate", two] })))
        .await;
    redis
        .trigger("last", &join(json!({ "key": "last", "dependencies": ["later"] })))
        .await;
    redis.trigger("taken", &join(json!({ "key": "two" }))).await;
    redis
        .trigger("unknown", &join(json!({ "dependencies": ["nobody"] })))
        .await;
    let elsewhere = json!({ "task_name": "noop", "dependencies": [two] });
    redis.trigger("elsewhere", &elsewhere).await;
    log.until_count("workflow.completed", 1).await;
    redis.trigger("too late", &join(json!({}))).await;
    log.until_count("trigger.rejected", 4).await;

    let result = &log.of(&joined("later", "w").to_string())[2].payload["result"];
    assert_eq!(result["inputs"], json!({ "gate": null, two: 2 }));
    let completed = log.all("workflow.completed")[0];
    assert_eq!(completed.payload["total_tasks"], 4);
    assert!(completed.payload["counts"]["COMPLETED"] == 4, "{completed:?}");
    let reasons: BTreeSet<(&str, &str)> = log
        .all("trigger.rejected")
        .iter()
        .map(|event| (event.text("trigger_event_id"), event.text("reason")))
        .collect();
    let expected = [
        ("taken", "duplicate_key"),
        ("unknown", "invalid_dependency"),
        ("elsewhere", "invalid_dependency"),
        ("too late", "invalid_field"),
    ];
    assert_eq!(reasons, BTreeSet::from(expected));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_trigger_of_a_chain_whose_workflow_has_ended_makes_a_task_without_one() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    start(&redis, "w", json!({ "tasks": [{ "task_id": "a", "name": "noop" }] })).await;
    let steps = json!([{ "name": "a", "action": "noop" }]);
    publish(&redis, "saga.start", "s", &json!({ "saga_id": "s", "steps": steps })).await;
    let mut log = redis.log().await;
    log.until_count("workflow.completed", 1).await;
    log.until_count("saga.completed", 1).await;
    let envelope = |event_id: &str, chain: &str, payload: &Value| {
        json!({
            "event_type": "orchestration.task.trigger", "source_agent": "tester", "event_id": event_id,
            "correlation_id": chain, "payload": payload,
        })
    };
    let publish_in = async |event_id: &str, chain: &str, payload: &Value| {
        let payload = payload.to_string();
        let mut fields = trigger_fields(event_id, &payload).to_vec();
        fields.push((b"correlation_id", chain.as_bytes()));
        redis.add("waooaw:triggers", &fields).await;
    };

    let noop = json!({ "task_name": "noop" });
    for _ in 0..2 {
        publish_in("after w", "w", &noop).await;
        publish_in("after s", "s", &noop).await;
    }
    publish_in("named", "w", &json!({ "task_name": "noop", "workflow_id": "w" })).await;
    log.until_count("trigger.rejected", 1).await;
    let mut answers = Vec::new();
    for _ in 0..2 {
        let body = envelope("by http", "s", &noop).to_string();
        let headers = [("Content-Type", "application/json")];
        let answer = request(replica.http_port(), "POST", "/v1/triggers", &headers, Some(&body)).await;
        answers.push(answer.json());
    }

    assert_eq!(log.all("trigger.rejected")[0].text("trigger_event_id"), "named");
    for (event_id, chain) in [("after w", "w"), ("after s", "s"), ("by http", "s")] {
        let task = joined(event_id, chain);
        log.until_task(task, "task.completed").await;
        assert_eq!(log.life(task), ["created", "started", "completed"]);
        let created = log.of(&task.to_string())[0];
        assert_eq!(
            (&created.payload["workflow_id"], created.correlation_id.as_str()),
            (&Value::Null, chain)
        );
    }
    assert_eq!(answers[0]["task_id"], answers[1]["task_id"]);
    assert_eq!(
        (&answers[0]["created"], &answers[1]["created"]),
        (&json!(true), &json!(false))
    );
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_running_handler_adds_children_to_its_workflow() {
    let redis = TestRedis::start().await;
    let queue = Arc::new(redis.queue().await);
    let handlers = Handlers::new()
        .with_async("split", move |(): (), context: TaskContext| {
            let queue = Arc::clone(&queue);
            async move { split(&queue, &context).await }
        })
        .with_async("noop", |(): (), _| async { Ok(Value::Null) });
    let replica = LocalReplica::start(&redis, ReplicaOptions::new(handlers)).await;

    start(
        &redis,
        "w",
        json!({ "priority": "LOW", "tasks": [{ "task_id": "split", "priority": "HIGH" }] }),
    )
    .await;
    let mut log = redis.log().await;
    log.until_count("workflow.completed", 1).await;

    let completed = log.all("workflow.completed")[0];
    assert_eq!(completed.payload["total_tasks"], 4, "{completed:?}");
    for event in log
        .all("task.created")
        .iter()
        .filter(|event| event.text("task_name") == "noop")
    {
        assert_eq!((event.text("workflow_id"), event.text("priority")), ("w", "HIGH"));
    }
    assert_eq!(document(&redis, "w").await["counts"]["COMPLETED"], 4);
    replica.stop().await;
    check_all_ended(&redis).await;
}

/// Makes three children, the last of which waits for the others.
async fn split(queue: &TaskQueue, context: &TaskContext) -> Result<Value, TaskError> {
    let children: [(&str, &[&str]); 3] = [("one", &[]), ("two", &[]), ("both", &["one", "two"])];
    for (key, dependencies) in children {
        let child = Task::new("noop")
            .workflow_id(context.workflow_id.as_deref().unwrap())
            .key(key)
            .dependencies(dependencies)
            .parent(context.task_id)
            .event_id(&format!("{}/{key}", context.task_id));
        let made = queue.enqueue(child).await;
        made.map_err(|error| TaskError::permanent("no_child", &error.to_string()))?;
    }
    Ok(Value::Null)
}
