//! Workflows over the bus: graphs of tasks that start when what they depend on has completed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use waooaw_orchestration::TaskId;

use crate::support::history::check_all_ended;
use crate::support::redis::TestRedis;
use crate::support::workflow::{check_edges, publish, start_edges};
use crate::support::{holds, wait_within};

/// Keys with what each depends on.
fn edges(list: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    list.iter()
        .map(|(key, dependencies)| ((*key).to_owned(), owned(dependencies)))
        .collect()
}

/// The task of a node in a workflow that the event of the same name started.
fn node(workflow: &str, key: &str) -> TaskId {
    TaskId::derive("tester", workflow, Some(workflow), Some(key), 1)
}

#[tokio::test]
async fn a_diamond_runs_in_order_and_hands_results_on() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    let diamond = json!({ "workflow_id": "w", "name": "A diamond", "priority": "high", "tasks": [
        { "task_id": "d", "name": "echo", "dependencies": ["b", "c"], "priority": "LOW" },
        { "task_id": "b", "name": "add", "args": [1, 1], "dependencies": ["a"] },
        { "task_id": "c", "name": "multiply", "args": [2, 3], "dependencies": ["a"] },
        { "task_id": "a", "name": "echo", "args": ["x"] },
    ]});
    publish(&redis, "workflow.start", "w", &diamond).await;
    publish(&redis, "workflow.start", "w", &diamond).await;
    let mut log = redis.log().await;
    log.until_count("workflow.completed", 1).await;

    check_all_ended(&redis).await;
    log.refresh().await;
    check_edges(
        &log,
        "w",
        &edges(&[("a", &[]), ("b", &["a"]), ("c", &["a"]), ("d", &["b", "c"])]),
    );
    let own: Vec<&str> = log.of("w").iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(own, ["workflow.started", "workflow.completed"]);
    let started = log.all("workflow.started")[0];
    assert_eq!((started.text("workflow_id"), started.text("name")), ("w", "A diamond"));
    assert_eq!(started.payload["total_tasks"], 4);
    assert_eq!(started.causation_id, "w");
    let completed = log.all("workflow.completed")[0];
    let counts = json!({ "PENDING": 0, "RUNNING": 0, "COMPLETED": 4, "FAILED": 0, "TIMEOUT": 0, "CANCELLED": 0 });
    assert_eq!(completed.payload["counts"], counts);
    assert_eq!(completed.payload["root_cause_task_id"], Value::Null);
    let last = node("w", "d").to_string();
    let created = log.of(&last)[0];
    let blocked_by = json!([node("w", "b").to_string(), node("w", "c").to_string()]);
    let mut found = created.payload["blocked_by"].clone();
    found.as_array_mut().unwrap().sort_by_key(|id| *id != blocked_by[0]);
    assert_eq!(found, blocked_by);
    assert_eq!((created.text("priority"), created.text("key")), ("LOW", "d"));
    assert_eq!(log.of(&node("w", "a").to_string())[0].text("priority"), "HIGH");
    let result = &log.of(&last)[2].payload["result"];
    assert_eq!(result["inputs"], json!({ "b": 2, "c": 6 }));
}

#[tokio::test]
async fn a_saga_starts_on_the_bus_and_goes_back_on_a_command() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    let steps = json!([
        { "name": "reserve", "action": "echo", "args": [1], "compensation": "echo" },
        { "name": "pay", "action": "add", "args": [1, 2] },
    ]);
    publish(
        &redis,
        "saga.start",
        "s-1",
        &json!({ "saga_id": "s-1", "steps": steps }),
    )
    .await;
    // Read before the saga that it is about, it waits.
    publish(
        &redis,
        "saga.cancel",
        "c-1",
        &json!({ "saga_id": "s-2", "reason": "changed my mind" }),
    )
    .await;
    let mut log = redis.log().await;
    log.until_count("saga.completed", 1).await;
    let steps = json!([
        { "name": "reserve", "action": "noop", "compensation": "noop" },
        { "name": "wait", "action": "sleep", "kwargs": { "ms": 60_000 } },
    ]);
    publish(
        &redis,
        "saga.start",
        "s-2",
        &json!({ "saga_id": "s-2", "steps": steps }),
    )
    .await;
    log.until_count("saga.compensated", 1).await;

    publish(&redis, "saga.cancel", "c-2", &json!({ "saga_id": "s-1" })).await;
    log.until_count("command.refused", 1).await;
    let refused = log.all("command.refused")[0];
    assert_eq!(
        (refused.text("reason"), refused.text("saga_id")),
        ("invalid_transition", "s-1")
    );
    assert_eq!(refused.text("command"), "orchestration.saga.cancel");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn the_results_of_many_arrive_as_inputs() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut tasks: Vec<Value> = (0..40)
        .map(|number| json!({ "task_id": format!("t{number}"), "name": "add", "args": [number, 1] }))
        .collect();
    let names: Vec<String> = (0..40).map(|number| format!("t{number}")).collect();
    tasks.push(json!({ "task_id": "sum", "name": "echo", "dependencies": names }));

    publish(
        &redis,
        "workflow.start",
        "w",
        &json!({ "workflow_id": "w", "tasks": tasks }),
    )
    .await;
    let mut log = redis.log().await;
    let completed = log.until_task(node("w", "sum"), "task.completed").await;

    let expected: serde_json::Map<String, Value> = (0..40)
        .map(|number| (format!("t{number}"), json!(number + 1)))
        .collect();
    assert_eq!(completed.payload["result"]["inputs"], Value::Object(expected.clone()));
    let document = redis.queue().await.get_task(node("w", "sum")).await.unwrap();
    let inputs = serde_json::to_value(&document).unwrap()["inputs"].clone();
    assert_eq!(inputs, Value::Object(expected));
    check_all_ended(&redis).await;
}

/// Tasks one behind the other.
fn chain(length: usize) -> Vec<(String, Vec<String>)> {
    let name = |number: usize| format!("t{number}");
    (0..length)
        .map(|number| (name(number), number.checked_sub(1).map(name).into_iter().collect()))
        .collect()
}

/// One task, many that depend on it, and one that depends on all of those.
fn fan(width: usize) -> Vec<(String, Vec<String>)> {
    let middle: Vec<String> = (0..width).map(|number| format!("m{number}")).collect();
    let mut list = vec![("first".to_owned(), Vec::new())];
    list.extend(middle.iter().map(|name| (name.clone(), vec!["first".to_owned()])));
    list.push(("last".to_owned(), middle));
    list
}

/// The calls of functions that kept Redis for at least 5 ms, in microseconds, with the beginning of each.
async fn slow_calls(redis: &TestRedis) -> Vec<(i64, String)> {
    let rows: Vec<redis::Value> = redis.ask(&["SLOWLOG", "GET", "-1"]).await;
    rows.into_iter()
        .filter_map(|row| {
            let (_, _, micros, words, _, _): (i64, i64, i64, Vec<Vec<u8>>, String, String) =
                redis::FromRedisValue::from_redis_value(row).unwrap();
            let words = words
                .iter()
                .take(6)
                .map(|word| String::from_utf8_lossy(word).into_owned());
            let words = words.collect::<Vec<_>>().join(" ");
            words.starts_with("FCALL").then_some((micros, words))
        })
        .collect()
}

/// Runs one graph of tasks that do nothing over three replicas to its end.
async fn run(id: &str, edges: &[(String, Vec<String>)]) {
    let redis = TestRedis::start().await;
    for words in [["slowlog-log-slower-than", "5000"], ["slowlog-max-len", "1000"]] {
        let () = redis.ask(&["CONFIG", "SET", words[0], words[1]]).await;
    }
    let _replicas = redis.replica().start_many(3).await;

    start_edges(&redis, id, edges).await;
    let mut log = redis.log().await;
    wait_within(Duration::from_secs(120), "the workflow completes", async || {
        log.refresh().await;
        holds(log.count("workflow.completed") == 1, || log.summary())
    })
    .await;

    check_edges(&log, id, edges);
    let completed = log.all("workflow.completed")[0];
    assert_eq!(completed.payload["counts"]["COMPLETED"], edges.len());
    let slow = slow_calls(&redis).await;
    check_all_ended(&redis).await;
    // A machine that is busy with other tests takes Redis off its core now and then; a function that is slow is so often,
    // or by much.
    let calls = redis.function_calls().await;
    assert!(
        slow.len() <= 10 + calls / 20 && slow.iter().all(|call| call.0 < 60_000),
        "of {calls} calls, these took over 5 ms: {slow:?}"
    );
}

#[tokio::test]
async fn a_chain_of_1000() {
    run("chain", &chain(1000)).await;
}

#[tokio::test]
async fn out_to_1000_and_back_to_one() {
    run("fan", &fan(1000)).await;
}

#[tokio::test]
async fn the_example_with_eight_nodes_on_five_levels() {
    let list: [(&str, &[&str]); 8] = [
        ("start", &[]),
        ("fetch", &["start"]),
        ("rates", &["start"]),
        ("transform", &["fetch"]),
        ("check", &["fetch", "rates"]),
        ("load", &["transform", "check"]),
        ("notify", &["load"]),
        ("metrics", &["load"]),
    ];
    run("eight", &edges(&list)).await;
}

#[tokio::test]
async fn ten_thousand_deep() {
    run("deep", &chain(10_000)).await;
}

#[tokio::test]
async fn ten_thousand_wide() {
    run("wide", &fan(9_998)).await;
}

#[tokio::test]
async fn what_a_call_hands_out_itself_wakes_nobody() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().workers(4).start().await;

    start_edges(&redis, "chain", &chain(300)).await;
    redis.log().await.until_count("workflow.completed", 1).await;

    let rings: u64 = redis.ask(&["XLEN", "waooaw:{0}:ready"]).await;
    assert!(
        rings <= 10,
        "{rings} rings for 300 tasks, each started by the call that ended the one before"
    );
}

#[tokio::test]
async fn one_call_tells_of_few_tasks_where_each_waits_for_many() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let (parents, children) = (300, 100);
    let names: Vec<String> = (0..parents).map(|number| format!("p{number}")).collect();
    let mut graph: Vec<_> = names.iter().map(|name| (name.clone(), Vec::new())).collect();
    graph.extend((0..children).map(|number| (format!("c{number}"), names.clone())));

    start_edges(&redis, "dense", &graph).await;
    let mut log = redis.log().await;
    log.until_count("workflow.completed", 1).await;

    // Calls stamp their events with the millisecond in which they began, and each takes about one.
    let mut told: BTreeMap<&str, usize> = BTreeMap::new();
    for event in log.all("task.created") {
        let blockers = event.payload["blocked_by"].as_array().unwrap().len();
        *told.entry(&event.fields["timestamp"]).or_default() += 1 + blockers / 30;
    }
    let most = told.values().max().unwrap();
    assert!(*most <= 280, "as much work as {most} tasks at once");
}

#[tokio::test]
async fn a_thousand_children_that_are_triggered_before_their_parents() {
    let redis = TestRedis::start().await;
    let _replicas = redis.replica().start_many(3).await;
    let pairs = 1000;

    let task = |pair: usize, key: &str, dependencies: &[&str]| json!({ "task_name": "noop", "workflow_id": format!("p{pair}"), "key": key, "dependencies": dependencies });
    let triggers = (0..pairs).flat_map(|pair| {
        [
            (format!("child-{pair}"), task(pair, "child", &["parent"])),
            (format!("parent-{pair}"), task(pair, "parent", &[])),
        ]
    });
    redis.trigger_all(triggers).await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 2 * pairs).await;

    assert_eq!(log.count("trigger.rejected"), 0);
    for pair in 0..pairs {
        check_edges(
            &log,
            &format!("p{pair}"),
            &edges(&[("parent", &[]), ("child", &["parent"])]),
        );
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_carries_the_id_of_a_workflow_before_it_starts_is_taken_in() {
    const EARLY: usize = 150;
    let redis = TestRedis::start().await;
    let _replica = redis.replica().workers(2).start().await;
    let mut log = redis.log().await;
    let early = |number: usize| {
        let task =
            json!({ "task_name": "noop", "workflow_id": "late", "key": format!("e{number}"), "delay_seconds": 2 });
        (format!("early-{number}"), task)
    };
    let ended = json!({ "task_name": "noop", "workflow_id": "late" });
    redis.trigger_all([("ended".to_owned(), ended)]).await;
    log.until_count("task.completed", 1).await;
    redis.trigger_all((0..EARLY).map(early)).await;
    log.until_count("task.created", EARLY + 1).await;

    start_edges(&redis, "late", &edges(&[("only", &[])])).await;
    log.until_count("workflow.completed", 1).await;

    let completed = log.all("workflow.completed")[0].payload.clone();
    assert_eq!(completed["total_tasks"], EARLY + 1, "what had ended stays outside");
    assert_eq!(completed["counts"]["COMPLETED"], EARLY + 1);
    let last = log.events.last().unwrap();
    assert_eq!(last.kind, "workflow.completed", "it ends with its last task");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_trigger_may_depend_on_thousands() {
    let redis = TestRedis::start().await;
    let () = redis.ask(&["CONFIG", "SET", "slowlog-log-slower-than", "5000"]).await;
    let _replica = redis.replica().start().await;
    let parents: Vec<String> = (0..2_000).map(|number| format!("p{number}")).collect();

    let of = |key: &str| json!({ "task_name": "noop", "workflow_id": "wide", "key": key });
    redis
        .trigger_all(parents.iter().map(|key| (key.clone(), of(key))))
        .await;
    let mut child = of("child");
    child["dependencies"] = json!(parents);
    redis.trigger_all([("child".to_owned(), child)]).await;
    let mut log = redis.log().await;
    log.until_count("task.completed", parents.len() + 1).await;

    let names: Vec<&str> = parents.iter().map(String::as_str).collect();
    let mut graph = edges(&[("child", &names)]);
    graph.extend(parents.iter().map(|key| (key.clone(), Vec::new())));
    check_edges(&log, "wide", &graph);
    let slow = slow_calls(&redis).await;
    assert!(slow.iter().all(|call| call.0 < 50_000), "slow calls: {slow:?}");
}

/// A graph of up to 30 nodes, in any order, from a seed.
fn random_graph(seed: u64) -> Vec<(String, Vec<String>)> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    };
    let size = 1 + next(30);
    let density = 1 + next(4);
    let mut graph: Vec<(String, Vec<String>)> = (0..size)
        .map(|number| {
            let count = if number == 0 { 0 } else { next(density + 1) };
            let mut dependencies: Vec<String> = (0..count).map(|_| format!("n{}", next(number))).collect();
            dependencies.sort_unstable();
            dependencies.dedup();
            (format!("n{number}"), dependencies)
        })
        .collect();
    for place in (1..size).rev() {
        graph.swap(place, next(place + 1));
    }
    graph
}

#[tokio::test]
async fn random_graphs_over_three_replicas_of_which_some_are_killed() {
    let redis = TestRedis::start().await;
    let mut replicas = redis.replica().start_many(3).await;

    let graphs: Vec<_> = (0..40).map(|seed| (format!("g{seed}"), random_graph(seed))).collect();
    for (id, graph) in &graphs[..20] {
        start_edges(&redis, id, graph).await;
    }
    let mut log = redis.log().await;
    log.until_count("task.started", 50).await;
    replicas[0].kill();
    for (id, graph) in &graphs[20..] {
        start_edges(&redis, id, graph).await;
    }
    log.until_count("workflow.started", 25).await;
    replicas[1].kill();
    log.until_count("workflow.completed", graphs.len()).await;

    for (id, graph) in &graphs {
        check_edges(&log, id, graph);
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_half_run_graph_goes_on_after_all_replicas_were_killed() {
    let redis = TestRedis::start().await;
    let mut replicas = redis.replica().workers(4).start_many(3).await;
    let graph = fan(100);
    let tasks: Vec<Value> = graph
        .iter()
        .map(|(key, dependencies)| {
            json!({ "task_id": key, "name": "sleep", "kwargs": { "ms": 30 }, "dependencies": dependencies })
        })
        .collect();
    publish(
        &redis,
        "workflow.start",
        "w",
        &json!({ "workflow_id": "w", "tasks": tasks }),
    )
    .await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 40).await;

    for replica in &mut replicas {
        replica.kill();
    }
    let _others = redis.replica().start_many(2).await;
    log.until_count("workflow.completed", 1).await;

    check_edges(&log, "w", &graph);
    check_all_ended(&redis).await;
}
