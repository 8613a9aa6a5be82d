//! Sagas at their edges: what is given up, what comes late, what lies behind the pivot, and who may do what.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waooaw_orchestration::runtime::request::new_actor;
use waooaw_orchestration::store::groups::{GroupKind, Stopped};
use waooaw_orchestration::{DeadLetterKind, DeadLetterQuery, DeadLetters, Error, Operator, ReplicaOptions, TaskError};

use crate::support::history::check_all_ended;
use crate::support::local::LocalReplica;
use crate::support::redis::TestRedis;
use crate::support::saga::{Shop, cancel, failing, plain, resume, retry, show, start, step, story, until};

const NONE: Value = Value::Null;

/// A replica with `dig` beside the others: a blocking function that ends when the gate `dug` opens or, where it `listens`,
/// a while after it is told to end.
async fn with_digger(redis: &TestRedis, shop: &Shop, listens: bool) -> LocalReplica {
    let digger = shop.clone();
    let dig = move |of: serde_json::Map<String, Value>, task: &waooaw_orchestration::TaskContext| {
        while !(digger.is_open("dug") || listens && task.cancelled.is_cancelled()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if listens {
            std::thread::sleep(Duration::from_millis(300));
        }
        digger.note(format!("+{}", of["of"].as_str().unwrap()));
        Ok::<_, TaskError>("dug")
    };
    let handlers = shop.handlers().with_blocking("dig", dig);
    LocalReplica::start(redis, ReplicaOptions::new(handlers)).await
}

fn digging(name: &str, more: &Value) -> Value {
    let mut step = step(name, &NONE, &NONE, more);
    step["action"] = json!("dig");
    step
}

#[tokio::test]
async fn a_running_step_of_a_cancelled_saga_ends_at_once_even_where_nobody_listens() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;

    let deaf = step(
        "b",
        &json!({ "acts_first": true, "gate": "never", "deaf": true }),
        &NONE,
        &NONE,
    );
    start(&redis, "s", &json!([plain("a"), deaf])).await;
    redis.log().await.until_count("saga.step_started", 2).await;
    let asked = Instant::now();
    cancel(&redis, "s").await.unwrap();
    let document = until(&redis, "s", "COMPENSATED").await;

    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert_eq!(shop.book(), ["+a", "+b", "-b", "-a"]);
    assert_eq!(document["failed_step"], NONE);
    assert_eq!(document["compensated_steps"], json!(["b", "a"]));
    let log = redis.log().await;
    assert_eq!(
        story(&log, "s").join(", "),
        "started, started a, completed a, started b, failed b, compensating, compensated b, compensated a, compensated"
    );
    for kind in ["saga.compensating", "task.cancelled"] {
        assert_eq!(log.all(kind)[0].payload["message"], "changed my mind", "{kind}");
    }
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_blocking_step_has_ended_when_its_thread_has_and_only_then_is_anything_undone() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = with_digger(&redis, &shop, true).await;

    start(&redis, "s", &json!([plain("a"), digging("b", &NONE)])).await;
    redis.log().await.until_count("saga.step_started", 2).await;
    cancel(&redis, "s").await.unwrap();
    until(&redis, "s", "COMPENSATED").await;

    assert_eq!(shop.book(), ["+a", "+b", "-b", "-a"]);
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_success_behind_the_end_of_its_step_is_undone_and_behind_that_of_its_saga_kept_until_somebody_resumes() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = with_digger(&redis, &shop, false).await;

    // Both threads outlive their step by far. One saga is held on its way back, the other is over when they succeed.
    let brief = json!({ "timeout_seconds": 0.2 });
    let held = step("a", &NONE, &json!({ "gate": "back" }), &NONE);
    start(&redis, "going", &json!([held, digging("b", &brief)])).await;
    start(&redis, "gone", &json!([plain("c"), digging("d", &brief)])).await;
    until(&redis, "gone", "COMPENSATED").await;
    let mut log = redis.log().await;
    log.until_count("saga.step_compensated", 3).await;
    shop.open_gate("dug");
    log.until_count("saga.step_late_success", 2).await;
    shop.open_gate("back");
    let going = until(&redis, "going", "COMPENSATED").await;

    assert_eq!(going["compensated_steps"], json!(["a", "b"]));
    assert_eq!(shop.inputs("-b"), json!({ "b": "dug" }));
    let of = |names: [&str; 2]| -> Vec<String> {
        let is_of = |entry: &String| names.contains(&entry[1..].as_ref());
        shop.book().into_iter().filter(is_of).collect()
    };
    assert_eq!(of(["a", "b"]), ["+a", "-b", "+b", "-a", "-b"]);
    assert_eq!(of(["c", "d"]), ["+c", "-d", "-c", "+d"]);
    let gone = show(&redis, "gone").await;
    assert_eq!(gone["uncompensated_steps"], json!(["d"]));
    assert_eq!(gone["compensation_status"], "incomplete");
    let query = DeadLetterQuery {
        kind: Some(DeadLetterKind::SagaStep),
        reason: Some("late_success".to_owned()),
        ..DeadLetterQuery::default()
    };
    let dead_letters = DeadLetters::new(redis.store());
    let letters = dead_letters.list(&query, 9, None).await.unwrap();
    assert_eq!(letters.items.len(), 1);
    // What it stands beside is what had failed.
    let task = gone["steps"][1]["task_id"].as_str().unwrap();
    assert_eq!(letters.items[0].dead_letter_id, format!("{task}.late"));
    assert_eq!(dead_letters.get(&format!("{task}.1")).await.unwrap().reason, "timeout");
    let refused = dead_letters
        .requeue(&Operator::new("ada", None), &format!("{task}.late"), None)
        .await;
    assert!(refused.unwrap_err().to_string().contains("resume that"));
    assert_eq!(shop.inputs("-d"), json!({ "d": null }));

    resume(&redis, "gone").await.unwrap();
    let gone = until(&redis, "gone", "COMPENSATED").await;
    assert_eq!(shop.inputs("-d"), json!({ "d": "dug" }));
    let undoing = gone["steps"][1]["compensation_task_id"].as_str().unwrap();
    let undoing = redis.queue().await.get_task(undoing.parse().unwrap()).await.unwrap();
    assert_eq!(undoing.inputs.get(), r#"{"d":"dug"}"#);
    assert!(dead_letters.list(&query, 9, None).await.unwrap().items.is_empty());
    assert_eq!(of(["c", "d"]), ["+c", "-d", "-c", "+d", "-d"]);
    assert_eq!(gone["uncompensated_steps"], json!([]));
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_step_stays_in_doubt_when_a_later_attempt_fails_for_good() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;

    let doubtful = step(
        "b",
        &json!({ "acts_first": true, "hangs": 1, "fails": -1, "permanent": true }),
        &NONE,
        &json!({ "timeout_seconds": 0.2, "retry": retry(3) }),
    );
    start(&redis, "s", &json!([plain("a"), doubtful])).await;
    let document = until(&redis, "s", "COMPENSATED").await;

    assert_eq!(shop.book(), ["+a", "+b", "+b", "-b", "-a"]);
    assert_eq!(document["failed_step"], "b");
    assert_eq!(document["completed_steps"], json!(["a"]));
    assert_eq!(document["compensated_steps"], json!(["b", "a"]));
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn lists_of_steps_stand_in_the_order_in_which_things_happened() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;

    let stuck = json!({ "fails": -1, "permanent": true });
    let beside = json!({ "depends_on": [] });
    let gated = |name: &str| step(name, &json!({ "gate": name }), &NONE, &beside);
    let steps = json!([
        gated("a"),
        gated("b"),
        step("c", &json!({ "gate": "c" }), &stuck, &beside),
        step("d", &json!({ "gate": "d" }), &stuck, &beside),
        step("e", &stuck, &NONE, &json!({ "depends_on": ["a", "b", "c", "d"] })),
    ]);
    start(&redis, "s", &steps).await;
    let mut log = redis.log().await;
    for (count, name) in (1..).zip(["d", "b", "a", "c"]) {
        shop.open_gate(name);
        log.until_count("saga.step_completed", count).await;
    }
    let document = until(&redis, "s", "FAILED").await;

    log.refresh().await;
    let event = &log.all("saga.failed")[0].payload;
    for told in [&document, event] {
        assert_eq!(told["completed_steps"], json!(["d", "b", "a", "c"]));
        assert_eq!(told["compensated_steps"], json!(["a", "b"]));
        assert_eq!(told["uncompensated_steps"], json!(["c", "d"]));
    }
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_is_handed_back_while_its_saga_goes_back_is_not_begun_again() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let mut options = ReplicaOptions::new(shop.handlers());
    options.grace = Duration::from_millis(100);
    let first = LocalReplica::start(&redis, options).await;

    let beside = json!({ "depends_on": [] });
    let steps = json!([
        step(
            "slow",
            &json!({ "acts_first": true, "gate": "never", "deaf": true }),
            &NONE,
            &beside
        ),
        step(
            "bad",
            &json!({ "gate": "bad", "fails": -1, "permanent": true }),
            &NONE,
            &beside
        ),
    ]);
    start(&redis, "s", &steps).await;
    let mut log = redis.log().await;
    log.until_count("saga.step_started", 2).await;
    shop.open_gate("bad");
    log.until_count("saga.step_failed", 1).await;
    first.stop().await;
    let second = shop.replica(&redis).await;
    let document = until(&redis, "s", "COMPENSATED").await;

    assert_eq!(shop.book(), ["+slow", "-slow"]);
    assert!(document["steps"][0]["compensated_at"].is_string());
    log.refresh().await;
    let slow = document["steps"][0]["task_id"].as_str().unwrap().to_owned();
    let starts = log.of(&slow).into_iter().filter(|event| event.kind == "task.started");
    assert_eq!(starts.count(), 1);
    second.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn behind_the_pivot_there_is_only_forward_and_an_operator_gives_up_and_goes_on() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;

    let after = |name: &str, on: &str, deed: Value| step(name, &deed, &NONE, &json!({ "depends_on": [on] }));
    let steps = json!([
        plain("a"),
        step("p", &NONE, &NONE, &json!({ "pivot": true })),
        after("x", "p", json!({ "gate": "x" })),
        after("y", "p", json!({ "gate": "y", "deaf": true })),
        after("z", "x", json!({ "fails": 3 })),
    ]);
    start(&redis, "s", &steps).await;
    let mut log = redis.log().await;
    log.until_count("saga.step_started", 4).await;
    assert!(matches!(cancel(&redis, "s").await, Err(Error::InvalidTransition(_))));

    // Given up while another runs: that one completes, and what comes after it does not start.
    let task = show(&redis, "s").await["steps"][3]["task_id"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(redis.queue().await.cancel_task(task).await.unwrap());
    log.until_count("saga.step_failed", 1).await;
    shop.open_gate("x");
    let document = until(&redis, "s", "FAILED").await;
    assert_eq!(document["failed_step"], "y");
    assert_eq!(document["completed_steps"], json!(["a", "p", "x"]));
    assert_eq!(document["compensation_status"], "none");
    assert_eq!(document["steps"][4]["state"], "CANCELLED");

    shop.open_gate("y");
    resume(&redis, "s").await.unwrap();
    let document = until(&redis, "s", "COMPLETED").await;
    // Without a retry of its own `z` was tried until it succeeded.
    assert_eq!(document["steps"][4]["result"]["attempt"], 4);
    assert_eq!(shop.book()[..3], ["+a", "+p", "+x"]);
    assert_eq!(document["failed_step"], NONE);
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_command_that_comes_twice_is_known_and_tasks_of_a_saga_come_back_with_it_alone() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;

    let stuck = step("a", &NONE, &json!({ "fails": -1, "permanent": true }), &NONE);
    start(&redis, "s", &json!([stuck, failing("b")])).await;
    until(&redis, "s", "FAILED").await;
    let letters = DeadLetters::new(redis.store());
    let all = letters.list(&DeadLetterQuery::default(), 9, None).await.unwrap();
    assert_eq!(all.items.len(), 2);
    for letter in all.items {
        let refused = letters
            .requeue(&Operator::new("ada", None), &letter.dead_letter_id, None)
            .await;
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("resume that"), "{said}");
    }

    start(
        &redis,
        "t",
        &json!([step("w", &json!({ "gate": "never" }), &NONE, &NONE)]),
    )
    .await;
    redis.log().await.until_count("saga.step_started", 3).await;
    let command = async || {
        let store = redis.store();
        let id = "t".parse().unwrap();
        store
            .stop(new_actor(), GroupKind::Saga, &id, Some("cancel-1"), None)
            .await
            .unwrap()
    };
    assert_eq!(command().await, Stopped::Ok);
    until(&redis, "t", "COMPENSATED").await;
    assert_eq!(command().await, Stopped::Ok);
    replica.stop().await;
    check_all_ended(&redis).await;
}
