//! `waooaw workflow plan`: from a file or standard input to the order in which its tasks would run, without Redis.

use serde_json::json;

use super::support::cli::Cli;

/// Eight tasks on five levels.
const EIGHT: &str = "\
name: report
tasks:
  - {task_id: start}
  - {task_id: fetch, dependencies: [start]}
  - {task_id: rates, dependencies: [start]}
  - {task_id: transform, name: transform_data, dependencies: [fetch]}
  - {task_id: check, dependencies: [fetch, rates]}
  - {task_id: load, dependencies: [transform, check], kwargs: {id: 123456789012345678901234567890}}
  - {task_id: notify, dependencies: [load]}
  - {task_id: metrics, dependencies: [load]}
";

fn plan(name: &str, content: &str) -> Cli {
    Cli::new(&["workflow", "plan", name]).file(name, content)
}

#[tokio::test]
async fn a_plan_needs_no_redis_and_is_the_same_from_yaml_and_json() {
    let expected = json!({
        "order": ["start", "fetch", "rates", "transform", "check", "load", "notify", "metrics"],
        "execution_batches": [
            ["start"], ["fetch", "rates"], ["transform", "check"], ["load"], ["notify", "metrics"],
        ],
        "total_tasks": 8,
        "max_parallel_tasks": 2,
        "levels": 5,
        "warnings": [],
    });
    let as_json = r#"{"tasks":[{"task_id":"a","dependencies":["b"]},{"task_id":"b"}]}"#;

    let from_yaml = plan("eight.yaml", EIGHT).set("WAOOAW_OUTPUT", "json").json().await;
    let from_json = plan("two.json", as_json).set("WAOOAW_OUTPUT", "json").json().await;

    assert_eq!(from_yaml, expected);
    assert_eq!(from_json["order"], json!(["b", "a"]));
}

#[tokio::test]
async fn people_see_what_can_run_at_once() {
    let ran = plan("eight.yml", EIGHT).run().await.expect(0);

    for line in [
        "notify, metrics",
        "total_tasks         8",
        "max_parallel_tasks  2",
        "levels              5",
    ] {
        assert!(ran.out.contains(line), "{line} is missing in\n{}", ran.out);
    }
    assert!(!ran.out.contains("warning"), "{}", ran.out);
}

#[tokio::test]
async fn a_deep_workflow_brings_a_warning_and_is_planned_all_the_same() {
    let chain = (0..6).map(|number| match number {
        0 => json!({ "task_id": "t0" }),
        _ => json!({ "task_id": format!("t{number}"), "dependencies": [format!("t{}", number - 1)] }),
    });
    let chain: Vec<_> = chain.collect();
    let definition = json!({ "tasks": chain }).to_string();

    let deep = plan("deep.json", &definition).set("WAOOAW_OUTPUT", "json").json().await;
    let shown = plan("deep.json", &definition).run().await.expect(0);

    assert_eq!(
        deep["warnings"],
        json!(["the longest chain has 6 levels; at most 5 are advised"])
    );
    assert!(
        shown.out.contains("warning             the longest chain has 6 levels"),
        "{}",
        shown.out
    );
}

#[tokio::test]
async fn what_is_no_workflow_is_bad_usage_and_named() {
    let cyclic = "tasks: [{task_id: a, dependencies: [b]}, {task_id: b, dependencies: [a]}]";
    for (content, code, message) in [
        (cyclic, "CyclicDependency", "a → b → a"),
        (
            "tasks: [{task_id: a, dependencies: [z]}]",
            "InvalidDependency",
            "names `z`",
        ),
        (
            "tasks: [{task_id: a}, {task_id: a}]",
            "InvalidField",
            "tasks[1].task_id",
        ),
        ("tasks: []", "InvalidField", "`tasks` is empty"),
        ("tasks: [{task_id: a, colour: blue}]", "InvalidField", "tasks[0].colour"),
        ("tasks: [", "InvalidField", "is not YAML"),
        (
            &format!("tasks: [{{task_id: a, args: [{}]}}]", "x".repeat(1 << 20)),
            "PayloadTooLarge",
            "`payload` has",
        ),
    ] {
        let ran = plan("bad.yaml", content)
            .set("WAOOAW_OUTPUT", "json")
            .run()
            .await
            .expect(2);
        let error = ran.error();
        assert_eq!(error["code"], code, "{content}");
        assert!(error["message"].as_str().unwrap().contains(message), "{error}");
        if code == "CyclicDependency" {
            assert_eq!(error["cycle"], json!(["a", "b", "a"]));
        }
    }
    let missing = Cli::new(&["workflow", "plan", "missing.yaml"]).run().await.expect(2);
    assert!(missing.err.contains("can not read `missing.yaml`"), "{}", missing.err);
}
