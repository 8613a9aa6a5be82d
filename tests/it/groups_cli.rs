//! `waooaw workflow` and `waooaw saga`: what they print, and how they end.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::support::cli::Cli;
use crate::support::history::check_all_ended;
use crate::support::redis::TestRedis;

/// A file with a payload, named as it should be read.
fn file(payload: &Value) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    file.write_all(payload.to_string().as_bytes()).unwrap();
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

fn echo(key: &str, dependencies: &[&str]) -> Value {
    json!({ "task_id": key, "name": "echo", "args": [key], "dependencies": dependencies })
}

fn diamond(id: &str) -> Value {
    let tasks = [
        echo("top", &[]),
        echo("left", &["top"]),
        echo("right", &["top"]),
        echo("bottom", &["left", "right"]),
    ];
    json!({ "workflow_id": id, "name": "a diamond", "tasks": tasks })
}

#[tokio::test]
async fn a_workflow_is_started_once_awaited_and_shown_as_a_tree() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let workflow = file(&diamond("w-1"));
    let words = ["workflow", "start", path(&workflow), "--event-id", "once"];

    let started = Cli::on(&redis, &words).set("WAOOAW_OUTPUT", "json").json().await;
    assert_eq!(started, json!({ "workflow_id": "w-1", "created": true }));
    let again = [&words[..], &["--wait", "30"]].concat();
    let ended = Cli::on(&redis, &again).set("WAOOAW_OUTPUT", "json").json().await;

    assert_eq!(ended["state"], "COMPLETED");
    assert_eq!(ended["counts"]["COMPLETED"], 4);
    assert_eq!(
        ended["execution_batches"],
        json!([["top"], ["left", "right"], ["bottom"]])
    );
    let shown = Cli::on(&redis, &["workflow", "show", "w-1"]).run().await.expect(0);
    shown.is_plain();
    for line in [
        "name          a diamond",
        "tasks         4 COMPLETED",
        "top  COMPLETED",
        "  left  COMPLETED",
        "    bottom  COMPLETED  also after right",
        "  right  COMPLETED",
    ] {
        assert!(shown.out.lines().any(|one| one == line), "{line}: {shown:?}");
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_workflow_that_fails_or_is_stopped_says_so_by_its_exit_code() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut failing = diamond("fails");
    failing["tasks"][1] = json!({ "task_id": "left", "name": "fail", "dependencies": ["top"],
        "kwargs": { "message": "no luck", "permanent": true } });
    let failing = file(&failing);

    let ended = Cli::on(&redis, &["workflow", "start", path(&failing), "--wait"])
        .run()
        .await
        .expect(1);
    assert!(ended.err.contains("workflow `fails` ended as FAILED"), "{ended:?}");
    assert!(ended.out.contains("left  FAILED"), "{ended:?}");
    assert!(ended.out.contains("bottom  CANCELLED"), "{ended:?}");

    let long = json!({ "workflow_id": "long", "tasks": [
        { "task_id": "first", "name": "sleep", "args": [60000] },
        { "task_id": "second", "name": "sleep", "args": [60000], "dependencies": ["first"] },
    ] });
    let long = file(&long);
    let waited = Cli::on(&redis, &["workflow", "start", path(&long), "--wait", "0.5"])
        .run()
        .await
        .expect(1);
    assert!(waited.err.contains("is RUNNING after 0.5 s of waiting"), "{waited:?}");
    Cli::on(&redis, &["workflow", "stop", "long", "--reason", "enough"])
        .run()
        .await
        .expect(0);
    redis.log().await.until_count("workflow.cancelled", 1).await;
    Cli::on(&redis, &["workflow", "stop", "long"]).run().await.expect(1);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_is_no_workflow_or_saga_is_refused_and_what_is_not_there_is_not_found() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let ring = file(&json!({ "tasks": [echo("a", &["b"]), echo("b", &["a"])] }));
    let unknown = file(&json!({ "tasks": [{ "task_id": "a", "name": "nobody_knows" }] }));
    let empty = file(&json!({ "steps": [] }));
    let padding = "x".repeat(1 << 20);
    let large = file(&json!({ "tasks": [{ "task_id": "a", "name": "echo", "args": [padding] }] }));
    let large_saga = file(&json!({ "steps": [{ "name": "a", "action": "echo", "args": [padding] }] }));

    for (words, code, said) in [
        (vec!["workflow", "start", path(&ring)], 2, "a"),
        (vec!["workflow", "start", path(&unknown)], 2, "nobody_knows"),
        (vec!["saga", "start", path(&empty)], 2, "steps"),
        (vec!["workflow", "start", path(&large)], 2, "must have at most 1048576"),
        (vec!["saga", "start", path(&large_saga)], 2, "must have at most 1048576"),
        (vec!["workflow", "show", "none"], 4, "none"),
        (vec!["workflow", "stop", "none"], 4, "none"),
        (vec!["saga", "show", "none"], 4, "none"),
        (vec!["saga", "cancel", "none"], 4, "none"),
        (vec!["saga", "resume", "none"], 4, "none"),
        (vec!["saga", "show", "a b"], 4, "a b"),
        (vec!["saga", "resume", "a b"], 4, "a b"),
        (vec!["workflow", "show", "a b"], 4, "a b"),
        (vec!["workflow", "stop", "a b", "--yes"], 4, "a b"),
    ] {
        let ended = Cli::on(&redis, &words).run().await.expect(code);
        assert!(ended.err.contains(said), "{words:?}: {ended:?}");
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_saga_shows_both_lanes_and_what_can_be_done() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let broken = json!({ "message": "no luck", "permanent": true });
    let saga = json!({ "saga_id": "order", "steps": [
        { "name": "reserve", "action": "echo", "compensation": "echo" },
        { "name": "charge", "action": "echo", "compensation": "fail", "compensation_kwargs": broken },
        { "name": "ship", "action": "fail", "kwargs": broken, "compensation": "echo" },
    ] });
    let saga = file(&saga);

    let ended = Cli::on(&redis, &["saga", "start", path(&saga), "--wait", "30"])
        .run()
        .await
        .expect(1);
    assert!(ended.err.contains("saga `order` ended as FAILED"), "{ended:?}");
    assert!(ended.out.contains("NOT UNDONE"), "{ended:?}");
    assert!(ended.out.contains("not undone: charge"), "{ended:?}");
    assert!(ended.out.contains("waooaw saga resume order"), "{ended:?}");
    let shown = Cli::on(&redis, &["saga", "show", "order"])
        .set("WAOOAW_OUTPUT", "json")
        .json()
        .await;
    assert_eq!(shown["uncompensated_steps"], json!(["charge"]));
    assert_eq!(shown["compensated_steps"], json!(["reserve"]));

    let resumed = Cli::on(&redis, &["saga", "resume", "order", "--actor", "ops"])
        .run()
        .await
        .expect(0);
    resumed.is_plain();
    let mut log = redis.log().await;
    log.until_count("saga.failed", 2).await;
    assert_eq!(log.all("saga.resumed")[0].text("actor"), "ops");
    // Behind its end there is nothing to cancel.
    Cli::on(&redis, &["saga", "cancel", "order"]).run().await.expect(1);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_saga_that_is_cancelled_goes_back() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let saga = file(&json!({ "saga_id": "trip", "steps": [
        { "name": "hotel", "action": "echo", "compensation": "echo" },
        { "name": "wait", "action": "sleep", "args": [60000] },
    ] }));
    Cli::on(&redis, &["saga", "start", path(&saga)]).run().await.expect(0);
    let mut log = redis.log().await;
    log.until_count("saga.step_started", 2).await;

    Cli::on(&redis, &["saga", "cancel", "trip", "--reason", "rain", "--yes"])
        .run()
        .await
        .expect(0);

    log.until_count("saga.compensated", 1).await;
    let shown = Cli::on(&redis, &["saga", "show", "trip"]).run().await.expect(0);
    assert!(shown.out.contains("COMPENSATED"), "{shown:?}");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_is_under_way_is_counted_and_a_wrong_count_is_mended() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let late = json!({ "task_id": "a", "name": "noop", "delay_seconds": 600 });
    let workflow = file(&json!({ "workflow_id": "w", "tasks": [late] }));
    let step = json!({ "name": "a", "action": "sleep", "kwargs": { "ms": 600_000 } });
    let saga = file(&json!({ "saga_id": "s", "steps": [step] }));
    Cli::on(&redis, &["workflow", "start", path(&workflow)])
        .run()
        .await
        .expect(0);
    Cli::on(&redis, &["saga", "start", path(&saga)]).run().await.expect(0);
    let counted = async || {
        let stats = Cli::on(&redis, &["stats", "--output", "json"]).json().await;
        (stats["running_workflows"].clone(), stats["running_sagas"].clone())
    };
    let one_each = (json!(1), json!(1));
    assert_eq!(counted().await, one_each);
    let shown = Cli::on(&redis, &["stats"]).run().await.expect(0);
    assert!(shown.out.contains("workflows  1"), "{shown:?}");
    Cli::on(&redis, &["doctor"]).run().await.expect(0);

    let _: i64 = redis
        .ask(&["HSET", "waooaw:{0}:groups", "workflow", "7", "saga", "0"])
        .await;
    let ill = Cli::on(&redis, &["doctor"]).run().await.expect(1);
    assert!(ill.out.contains("is 7, and counting anew gives 1"), "{ill:?}");
    Cli::on(&redis, &["doctor", "--repair", "--yes"]).run().await.expect(0);

    assert_eq!(counted().await, one_each);
    Cli::on(&redis, &["doctor"]).run().await.expect(0);
}
