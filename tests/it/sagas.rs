//! Sagas: forward, back, and what is told of both.

use serde_json::{Value, json};
use waooaw_orchestration::{DeadLetterKind, DeadLetterQuery, DeadLetters, Error};

use crate::support::history::check_all_ended;
use crate::support::redis::TestRedis;
use crate::support::saga::{Shop, cancel, failing, plain, resume, retry, show, start, step, story, try_start, until};
use crate::support::workflow::publish;

const NONE: Value = Value::Null;

#[tokio::test]
async fn all_steps_succeed_in_order_and_each_gets_the_results_of_those_before() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;

    start(&redis, "s", &json!([plain("a"), plain("b"), plain("c")])).await;
    let document = until(&redis, "s", "COMPLETED").await;

    assert_eq!(shop.book(), ["+a", "+b", "+c"]);
    let did = |step: &str| json!({ "did": step, "attempt": 1 });
    assert_eq!(shop.inputs("+a"), json!({}));
    assert_eq!(shop.inputs("+c"), json!({ "a": did("a"), "b": did("b") }));
    assert_eq!(document["saga_id"], "s");
    assert_eq!(document["name"], "Saga s");
    assert_eq!(document["completed_steps"], json!(["a", "b", "c"]));
    assert_eq!(document["compensated_steps"], json!([]));
    assert_eq!(document["compensation_status"], "none");
    assert_eq!(document["failed_step"], Value::Null);
    assert!(document["duration_ms"].is_u64(), "{document}");
    assert_eq!(document["steps"][1]["state"], "COMPLETED");
    assert_eq!(document["steps"][1]["result"], did("b"));
    let log = redis.log().await;
    assert_eq!(
        story(&log, "s").join(", "),
        "started, started a, completed a, started b, completed b, started c, completed c, completed"
    );
    let started = log.all("saga.started")[0];
    assert_eq!(started.payload["total_steps"], 3);
    assert_eq!((started.text("saga_id"), started.text("name")), ("s", "Saga s"));
    let step_completed = log.all("saga.step_completed")[1];
    assert_eq!(step_completed.payload["result"], did("b"));
    assert_eq!(step_completed.payload["index"], 1);
    let task = log.of(step_completed.text("task_id"));
    assert_eq!((task[0].text("saga_id"), task[0].text("step")), ("s", "b"));
    assert_eq!(task[0].payload["workflow_id"], Value::Null);
    let end = log.all("saga.completed")[0];
    assert_eq!(end.payload["completed_steps"], json!(["a", "b", "c"]));
    assert_eq!(end.payload["uncompensated_steps"], json!([]));
    assert_eq!(end.correlation_id, started.correlation_id);
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn each_step_that_fails_lets_those_before_it_be_undone_in_reverse_order_with_their_results() {
    let redis = TestRedis::start().await;
    let names = ["a", "b", "c", "d"];

    for (place, failed) in names.iter().enumerate() {
        let shop = Shop::default();
        let replica = shop.replica(&redis).await;
        let id = format!("s-{failed}");
        let steps: Vec<Value> = names
            .iter()
            .map(|name| if name == failed { failing(name) } else { plain(name) })
            .collect();
        start(&redis, &id, &json!(steps)).await;
        let document = until(&redis, &id, "COMPENSATED").await;

        let forward = names[..place].iter().map(|name| format!("+{name}"));
        let back = names[..place].iter().rev().map(|name| format!("-{name}"));
        assert_eq!(shop.book(), forward.chain(back).collect::<Vec<_>>());
        for name in &names[..place] {
            let result = json!({ *name: { "did": name, "attempt": 1 } });
            assert_eq!(shop.inputs(&format!("-{name}")), result);
        }
        assert_eq!(document["failed_step"], *failed);
        assert_eq!(document["completed_steps"], json!(names[..place]));
        let reverse: Vec<&str> = names[..place].iter().rev().copied().collect();
        assert_eq!(document["compensated_steps"], json!(reverse));
        assert_eq!(document["compensation_status"], "complete");
        let step = &document["steps"][place];
        assert_eq!(
            (&step["state"], &step["error"]["type"]),
            (&json!("FAILED"), &json!("refused"))
        );
        for after in place + 1..names.len() {
            assert_eq!(document["steps"][after]["state"], "CANCELLED");
        }
        let log = redis.log().await;
        let compensating = log.all("saga.compensating")[place];
        assert_eq!(compensating.payload["steps_to_compensate"], json!(reverse));
        assert_eq!(compensating.text("failed_step"), *failed);
        assert_eq!(log.all("saga.step_failed")[place].payload["error"]["type"], "refused");
        for event in log
            .all("task.cancelled")
            .iter()
            .filter(|event| event.text("saga_id") == id)
        {
            assert_eq!(event.text("reason"), "saga_aborted");
            assert_eq!(event.payload["root_cause_task_id"], step["task_id"]);
        }
        let end = log.of(&id).last().copied().unwrap().clone();
        assert_eq!(end.kind, "saga.compensated");
        assert_eq!(end.text("failed_step"), *failed);
        replica.stop().await;
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_step_is_retried_before_the_saga_goes_back() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;

    let flaky = step("b", &json!({ "fails": 2 }), &NONE, &json!({ "retry": retry(2) }));
    start(&redis, "s", &json!([plain("a"), flaky])).await;
    let document = until(&redis, "s", "COMPLETED").await;

    assert_eq!(shop.book(), ["+a", "+b"]);
    assert_eq!(document["steps"][1]["result"]["attempt"], 3);
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_step_that_nothing_undoes_counts_as_undone() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;

    let bare = step("b", &NONE, &NONE, &json!({ "compensation": null }));
    start(&redis, "s", &json!([plain("a"), bare, plain("c"), failing("d")])).await;
    let document = until(&redis, "s", "COMPENSATED").await;

    assert_eq!(shop.book(), ["+a", "+b", "+c", "-c", "-a"]);
    assert_eq!(document["compensated_steps"], json!(["c", "b", "a"]));
    assert_eq!(document["steps"][1]["compensation_task_id"], Value::Null);
    assert!(document["steps"][1]["compensated_at"].is_string());
    let log = redis.log().await;
    let undone: Vec<(&str, bool)> = log
        .all("saga.step_compensated")
        .iter()
        .map(|event| (event.text("step"), event.payload["task_id"].is_null()))
        .collect();
    assert_eq!(undone, [("c", false), ("b", true), ("a", false)]);
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn only_steps_in_doubt_are_undone_of_those_that_failed() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;

    // The first attempt takes effect and runs out of time, the second fails for good.
    let timed_out = step(
        "b",
        &json!({ "acts_first": true, "gate": "never" }),
        &NONE,
        &json!({ "timeout_seconds": 0.1, "retry": retry(0) }),
    );
    start(&redis, "doubt", &json!([plain("a"), timed_out])).await;
    let document = until(&redis, "doubt", "COMPENSATED").await;
    assert_eq!(shop.book(), ["+a", "+b", "-b", "-a"]);
    assert_eq!(document["completed_steps"], json!(["a"]));
    assert_eq!(document["compensated_steps"], json!(["b", "a"]));
    assert_eq!(shop.inputs("-b"), json!({ "b": null }));

    let log = redis.log().await;
    assert_eq!(
        story(&log, "doubt").join(", "),
        "started, started a, completed a, started b, failed b, compensating, compensated b, compensated a, compensated"
    );
    assert_eq!(log.all("saga.step_failed")[0].payload["error"]["type"], "timeout");
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn steps_side_by_side_wait_for_what_they_name_and_are_undone_in_reverse_order_of_their_ends() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;
    let on = |names: Value| json!({ "depends_on": names });

    let steps = json!([
        plain("a"),
        step("b", &json!({ "gate": "b" }), &NONE, &on(json!(["a"]))),
        step("c", &json!({ "gate": "c" }), &NONE, &on(json!(["a"]))),
        step(
            "d",
            &json!({ "fails": -1, "permanent": true }),
            &NONE,
            &on(json!(["b", "c"]))
        ),
    ]);
    start(&redis, "s", &steps).await;
    let mut log = redis.log().await;
    log.until_count("saga.step_started", 3).await;
    shop.open_gate("c");
    log.until_count("saga.step_completed", 2).await;
    shop.open_gate("b");
    until(&redis, "s", "COMPENSATED").await;

    assert_eq!(shop.book(), ["+a", "+c", "+b", "-b", "-c", "-a"]);
    assert_eq!(shop.inputs("+c").as_object().unwrap().len(), 1);
    assert_eq!(shop.inputs("+d").as_object().unwrap().len(), 3);
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn running_siblings_of_a_failed_step_end_first_and_those_that_never_started_are_not_undone() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;
    let first = json!({ "depends_on": [] });

    let steps = json!([
        step("slow", &json!({ "gate": "slow" }), &NONE, &first),
        step(
            "bad",
            &json!({ "gate": "bad", "fails": -1, "permanent": true }),
            &NONE,
            &first
        ),
        step(
            "sulky",
            &json!({ "gate": "slow", "fails": 1 }),
            &NONE,
            &json!({ "depends_on": [], "retry": retry(5) })
        ),
        step("after", &NONE, &NONE, &json!({ "depends_on": ["slow"] })),
    ]);
    start(&redis, "s", &steps).await;
    let mut log = redis.log().await;
    log.until_count("saga.step_started", 3).await;
    shop.open_gate("bad");
    log.until_count("saga.step_failed", 1).await;
    assert_eq!(show(&redis, "s").await["state"], "RUNNING");
    shop.open_gate("slow");
    let document = until(&redis, "s", "COMPENSATED").await;

    // Nothing is tried again once the saga goes back.
    assert_eq!(shop.book(), ["+slow", "-slow"]);
    assert_eq!(document["failed_step"], "bad");
    assert_eq!(document["steps"][3]["state"], "CANCELLED");
    log.refresh().await;
    assert_eq!(log.count("saga.step_started"), 3);
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_compensation_that_fails_for_good_is_named_kept_and_tried_again_alone() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;

    // Three attempts fail in the first life; the fifth succeeds in the second.
    let stuck = |name: &str| {
        step(
            name,
            &NONE,
            &json!({ "fails": 4 }),
            &json!({ "compensation_retry": retry(2) }),
        )
    };
    start(
        &redis,
        "s",
        &json!([plain("a"), stuck("b"), plain("c"), stuck("d"), failing("e")]),
    )
    .await;
    let document = until(&redis, "s", "FAILED").await;
    assert_eq!(shop.book(), ["+a", "+b", "+c", "+d", "-c", "-a"]);
    assert_eq!(document["uncompensated_steps"], json!(["d", "b"]));
    assert_eq!(document["compensated_steps"], json!(["c", "a"]));
    assert_eq!(document["compensation_status"], "incomplete");
    assert_eq!(document["steps"][1]["state"], "COMPENSATION_FAILED");
    assert_eq!(document["steps"][1]["error"]["message"], "no luck");
    let mut log = redis.log().await;
    let failed = log.all("saga.failed")[0];
    assert_eq!(failed.payload["uncompensated_steps"], json!(["d", "b"]));
    assert_eq!(log.all("saga.step_compensation_failed")[0].text("step"), "d");
    let steps = DeadLetterQuery {
        kind: Some(DeadLetterKind::SagaStep),
        ..DeadLetterQuery::default()
    };
    let letters = DeadLetters::new(redis.store());
    // Of the step that failed, too.
    assert_eq!(letters.list(&steps, 9, None).await.unwrap().items.len(), 3);

    resume(&redis, "s").await.unwrap();
    let document = until(&redis, "s", "COMPENSATED").await;
    assert_eq!(shop.book(), ["+a", "+b", "+c", "+d", "-c", "-a", "-d", "-b"]);
    assert_eq!(document["uncompensated_steps"], json!([]));
    assert_eq!(document["compensated_steps"], json!(["c", "a", "d", "b"]));
    log.refresh().await;
    assert_eq!(log.all("saga.resumed")[0].text("actor"), "tester");
    assert_eq!(log.count("saga.step_compensated"), 4);
    assert!(matches!(resume(&redis, "s").await, Err(Error::InvalidTransition(_))));
    assert!(matches!(resume(&redis, "no").await, Err(Error::SagaNotFound(_))));
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_saga_is_started_once_and_its_id_is_its_own() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;

    let steps = json!([plain("a")]);
    assert!(try_start(&redis, "s", &steps).await.unwrap().is_new);
    assert!(!try_start(&redis, "s", &steps).await.unwrap().is_new);
    until(&redis, "s", "COMPLETED").await;
    assert!(!try_start(&redis, "s", &steps).await.unwrap().is_new);
    let unknown = json!([step("a", &NONE, &NONE, &json!({ "compensation": "nobody_knows" }))]);
    assert!(matches!(try_start(&redis, "t", &unknown).await, Err(Error::UnknownTask(name)) if name == "nobody_knows"));
    publish(&redis, "saga.start", "t", &json!({ "saga_id": "t", "steps": unknown })).await;
    let mut log = redis.log().await;
    log.until_count("trigger.rejected", 1).await;
    let error = &log.all("trigger.rejected")[0].payload["errors"][0];
    assert_eq!(error["field"], "steps.a.compensation", "{error}");

    assert_eq!(shop.book(), ["+a"]);
    assert!(matches!(cancel(&redis, "s").await, Err(Error::InvalidTransition(_))));
    assert!(matches!(cancel(&redis, "t").await, Err(Error::SagaNotFound(_))));
    replica.stop().await;
    check_all_ended(&redis).await;
}
