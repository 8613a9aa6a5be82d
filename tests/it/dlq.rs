//! `waooaw dlq`: what it prints, and how it ends.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::cli::Cli;
use crate::support::history::check_all_ended;
use crate::support::log::Log;
use crate::support::redis::{TestRedis, task_of};
use crate::support::workflow::publish;

/// Runs a command with JSON output that must end well.
async fn ask(redis: &TestRedis, words: &[&str]) -> Value {
    Cli::on(redis, words).set("WAOOAW_OUTPUT", "json").json().await
}

/// Tasks that fail for good at once; answers their dead letters.
async fn fail(redis: &TestRedis, log: &mut Log<'_>, ids: &[&str], payload: &Value) -> Vec<String> {
    for id in ids {
        redis.trigger(id, payload).await;
    }
    let mut letters = Vec::new();
    for id in ids {
        let event = log.until_task(task_of(id), "task.dead_lettered").await;
        letters.push(event.text("dead_letter_id").to_owned());
    }
    letters
}

fn hopeless() -> Value {
    json!({ "task_name": "fail", "kwargs": { "message": "no luck", "permanent": true } })
}

#[tokio::test]
async fn a_dead_letter_is_listed_shown_requeued_and_discarded() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let letters = fail(&redis, &mut log, &["a", "b", "c"], &hopeless()).await;

    let list = ask(&redis, &["dlq", "list", "--limit", "2"]).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    let cursor = list["next_cursor"].as_str().unwrap();
    let rest = ask(&redis, &["dlq", "list", "--cursor", cursor]).await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    assert_eq!(rest["next_cursor"], Value::Null);
    let names: BTreeSet<&str> = list["items"][0]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let contract = "dead_letter_id, kind, task_id, task_name, reason, error, attempts, original, dead_lettered_at, \
                    correlation_id";
    assert_eq!(names, contract.split(", ").collect());
    let table = Cli::on(&redis, &["dlq", "list"]).run().await.expect(0);
    assert!(letters.iter().all(|id| table.out.contains(id)), "{table:?}");
    table.is_plain();
    for filter in [
        ["--text", "NO LUCK"],
        ["--reason", "handler_error"],
        ["--task-name", "fail"],
        ["--newer-than", "1h"],
    ] {
        let found = ask(&redis, &["dlq", "list", filter[0], filter[1]]).await;
        assert_eq!(found["items"].as_array().unwrap().len(), 3, "{filter:?}");
    }
    for filter in [["--kind", "trigger"], ["--reason", "lost"], ["--older-than", "1h"]] {
        let found = ask(&redis, &["dlq", "list", filter[0], filter[1]]).await;
        assert_eq!(found, json!({ "items": [], "next_cursor": null }), "{filter:?}");
    }

    let shown = ask(&redis, &["dlq", "show", &letters[0]]).await;
    assert_eq!(
        shown["original"]["kwargs"],
        json!({ "message": "no luck", "permanent": true })
    );
    let shown = Cli::on(&redis, &["dlq", "show", &letters[0]]).run().await.expect(0);
    let attempt = shown.out.lines().find(|line| line.starts_with("attempt")).unwrap();
    assert!(
        attempt.contains(" 1 on r-") && attempt.ends_with("handler_error: no luck"),
        "{attempt}"
    );
    assert!(
        shown.out.lines().any(|line| line.ends_with("  handler_error: no luck")),
        "{shown:?}"
    );

    let words = ["dlq", "requeue", &letters[0], "--retry", "quick"];
    let report = Cli::on(&redis, &words)
        .set("WAOOAW_OUTPUT", "json")
        .set("USER", "ada")
        .json()
        .await;
    let item = json!({
        "dead_letter_id": letters[0], "kind": "task", "task_id": task_of("a").to_string(), "life": 2,
        "trigger_event_id": null,
    });
    assert_eq!(
        report,
        json!({
            "action": "requeue", "dry_run": false, "matched": 1, "done": 1, "failed": 0, "passed_over": 0,
            "items": [item], "errors": [],
        })
    );
    // The answer got lost, say.
    assert_eq!(
        ask(&redis, &["dlq", "requeue", &letters[0]]).await["items"][0]["life"],
        2
    );
    log.until_count("task.dead_lettered", 4).await;
    assert_eq!(log.all("task.requeued")[0].text("actor"), "ada");

    let discarded = [
        "dlq",
        "discard",
        &letters[1],
        "--yes",
        "--actor",
        "bob",
        "--message",
        "known to be broken",
    ];
    let report = ask(&redis, &discarded).await;
    assert_eq!(
        (&report["done"], &report["items"][0]["dead_letter_id"]),
        (&json!(1), &json!(letters[1]))
    );
    log.until_count("operator.action", 2).await;
    let action = &log.all("operator.action")[1].payload;
    let expected = json!({
        "action": "discard", "target": letters[1], "actor": "bob", "reason": "known to be broken",
    });
    assert_eq!(*action, expected);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_can_not_be_done_says_so_with_its_own_exit_code() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let letters = fail(&redis, &mut log, &["a", "b"], &hopeless()).await;
    let nobody = "7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000.1";
    let run = async |words: &[&str]| Cli::on(&redis, words).set("WAOOAW_OUTPUT", "json").run().await;

    for words in [
        &["dlq", "show", nobody][..],
        &["dlq", "show", "nonsense"],
        &["dlq", "requeue", nobody],
        &["dlq", "requeue", nobody, "--dry-run"],
        &["dlq", "discard", nobody, "--yes"],
    ] {
        run(words).await.refused(4, "DeadLetterNotFound");
    }
    for words in [
        &["dlq", "requeue"][..],
        &["dlq", "requeue", "--all"],
        &["dlq", "discard", &letters[0]],
        &["dlq", "discard", "--all", "--reason", "handler_error"],
        &["dlq", "requeue", &letters[0], "--all", "--yes"],
        &["dlq", "requeue", &letters[0], "--reason", "lost"],
        &["dlq", "requeue", "--all", "--yes", "--rate", "0"],
        &["dlq", "list", "--kind", "letter"],
        &["dlq", "list", "--limit", "0"],
    ] {
        run(words).await.refused(2, "Usage");
    }
    run(&["dlq", "requeue", &letters[0], "--retry", "SLOW"])
        .await
        .refused(2, "InvalidField");
    run(&["dlq", "list", "--cursor", "77206f"])
        .await
        .refused(2, "InvalidField");

    // One that is missing does not stop the other.
    let ran = run(&["dlq", "requeue", nobody, &letters[0]]).await;
    ran.refused(4, "DeadLetterNotFound");
    let report = ran.json();
    assert_eq!((&report["done"], &report["failed"]), (&json!(1), &json!(1)));
    assert_eq!(report["errors"][0]["dead_letter_id"], nobody);
    log.until_count("task.dead_lettered", 3).await;
    assert_eq!(log.count("operator.action"), 1);

    let away = Cli::new(&["dlq", "list", "--redis-url", "redis://127.0.0.1:1"])
        .run()
        .await;
    assert_eq!(away.code, Some(3), "{away:?}");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn many_are_requeued_at_a_pace_and_discarded_by_filter() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let names: Vec<String> = (0..30).map(|number| format!("f{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    fail(&redis, &mut log, &names, &hopeless()).await;
    redis.trigger("stranger", &json!({ "task_name": "nobody-knows" })).await;
    log.until_count("trigger.rejected", 1).await;

    let dry = ask(&redis, &["dlq", "requeue", "--all", "--kind", "task", "--dry-run"]).await;
    assert_eq!(
        (&dry["matched"], &dry["done"], &dry["dry_run"]),
        (&json!(30), &json!(0), &json!(true))
    );
    assert_eq!(dry["items"].as_array().unwrap().len(), 30);
    log.refresh().await;
    assert_eq!(log.count("operator.action"), 0);

    let began = Instant::now();
    let report = ask(
        &redis,
        &["dlq", "requeue", "--all", "--kind", "task", "--rate", "20", "--yes"],
    )
    .await;
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
    assert_eq!((&report["matched"], &report["done"]), (&json!(30), &json!(30)));
    log.until_count("task.dead_lettered", 60).await;
    assert_eq!(log.count("task.requeued"), 30);
    let order: Vec<&str> = log
        .all("task.requeued")
        .iter()
        .map(|event| event.text("dead_letter_id"))
        .collect();
    let buried: Vec<&str> = log.all("task.dead_lettered")[..30]
        .iter()
        .map(|event| event.text("dead_letter_id"))
        .collect();
    assert_eq!(
        order.iter().collect::<BTreeSet<_>>(),
        buried.iter().collect::<BTreeSet<_>>()
    );

    let words = ["dlq", "discard", "--all", "--task-name", "fail", "--yes"];
    let discarded = Cli::on(&redis, &words).run().await.expect(0);
    assert!(discarded.out.contains("discarded 30 dead letters"), "{discarded:?}");
    let left = ask(&redis, &["dlq", "list"]).await;
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(left["items"][0]["kind"], "trigger");
    let nothing = ask(&redis, &["dlq", "discard", "--all", "--reason", "lost", "--yes"]).await;
    assert_eq!(nothing["matched"], 0);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_bulk_requeue_passes_over_the_steps_of_sagas() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let steps = json!([
        { "name": "a", "action": "noop", "compensation": "noop" },
        { "name": "b", "action": "fail", "kwargs": { "permanent": true } },
    ]);
    publish(&redis, "saga.start", "s", &json!({ "saga_id": "s", "steps": steps })).await;
    log.until_count("saga.compensated", 1).await;
    let task = fail(&redis, &mut log, &["a"], &hopeless()).await.remove(0);

    let of_steps = ask(&redis, &["dlq", "list", "--kind", "saga_step"]).await;
    assert_eq!(of_steps["items"].as_array().unwrap().len(), 1);
    let step = of_steps["items"][0]["dead_letter_id"].as_str().unwrap();
    let of_tasks = ask(&redis, &["dlq", "list", "--kind", "task"]).await;
    assert_eq!(of_tasks["items"].as_array().unwrap().len(), 1);
    assert_eq!(of_tasks["items"][0]["dead_letter_id"], *task);
    let dry = ask(&redis, &["dlq", "requeue", "--all", "--dry-run"]).await;
    assert_eq!((&dry["matched"], &dry["passed_over"]), (&json!(2), &json!(1)));
    assert_eq!(dry["items"], json!([{ "dead_letter_id": task }]));
    let words = ["dlq", "requeue", "--all", "--yes"];
    let requeued = Cli::on(&redis, &words).run().await.expect(0);
    assert!(requeued.out.contains("requeued 1 dead letter\n"), "{requeued:?}");
    assert!(
        requeued.out.contains("passed over 1 dead letter of sagas"),
        "{requeued:?}"
    );
    log.until_count("task.requeued", 1).await;

    let named = Cli::on(&redis, &["dlq", "requeue", step]).run().await.expect(1);
    assert!(named.err.contains("resume that"), "{named:?}");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn without_any_letters_there_is_nothing_to_do() {
    let redis = TestRedis::start().await;

    let empty = json!({ "items": [], "next_cursor": null });
    assert_eq!(ask(&redis, &["dlq", "list"]).await, empty);
    let report = ask(&redis, &["dlq", "requeue", "--all", "--yes"]).await;
    assert_eq!((&report["matched"], &report["done"]), (&json!(0), &json!(0)));
    let ran = Cli::on(
        &redis,
        &[
            "dlq",
            "requeue",
            "7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000.1",
            "--output",
            "json",
        ],
    );
    ran.run().await.refused(4, "DeadLetterNotFound");
}
