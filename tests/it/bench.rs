//! Short forms of the benchmarks: they run, check their own results, and tell what they found by the same names.

use serde_json::Value;

use crate::support::cli::Cli;

/// Runs one; what it leaves behind is nothing.
async fn run(words: &[&str]) -> Value {
    let words: Vec<&str> = ["bench", "--output", "json"].iter().chain(words).copied().collect();
    let ran = Cli::new(&words).run().await.expect(0);
    assert_eq!(ran.leftovers(), Vec::<String>::new());
    let document = ran.json();
    for key in [
        "version",
        "redis_version",
        "is_own_redis",
        "persistence",
        "cores",
        "repeat",
    ] {
        assert!(!document["setup"][key].is_null(), "{key}: {document}");
    }
    document
}

fn is_number(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value[key].is_number(), "{key}: {value}");
    }
}

#[tokio::test]
async fn throughput_tells_the_rate_of_each_phase() {
    let document = run(&["throughput", "-n", "2000"]).await;
    let found = &document["throughput"];
    assert_eq!(found["tasks"], 2000);
    for phase in ["published", "created", "drained", "whole_life"] {
        is_number(&found[phase], &["tasks_per_second", "redis_cpu_us_per_task"]);
        assert!(found[phase]["commands_per_task"].is_object(), "{phase}: {found}");
    }
}

#[tokio::test]
async fn latency_tells_start_and_completion() {
    let document = run(&["latency", "--seconds", "1"]).await;
    let found = &document["latency"];
    is_number(found, &["triggers", "rate_per_second", "late_triggers"]);
    for span in ["trigger_to_start", "trigger_to_completed_event"] {
        is_number(&found[span], &["p50_ms", "p95_ms", "p99_ms", "max_ms"]);
    }
}

#[tokio::test]
async fn memory_tells_what_a_task_weighs() {
    let document = run(&["memory", "-n", "500"]).await;
    let found = &document["memory"];
    assert_eq!(found["tasks"], 500);
    is_number(
        found,
        &[
            "total_bytes",
            "record_bytes",
            "queue_entry_bytes",
            "created_event_bytes",
        ],
    );
}

#[tokio::test]
async fn chain_and_fan_tell_how_long_a_workflow_takes() {
    for (shape, tasks, dependencies) in [("chain", 60, 59), ("fan", 62, 120)] {
        let document = run(&[shape, "-n", "60", "--workers", "20", "--repeat", "2"]).await;
        let found = &document[shape];
        assert_eq!(
            (&found["shape"], &found["tasks"]),
            (&Value::from(shape), &Value::from(tasks))
        );
        assert_eq!(found["dependencies"], dependencies);
        is_number(
            found,
            &[
                "start_event_to_completed_ms",
                "first_task_to_completed_ms",
                "redis_cpu_us_per_task",
                "function_calls_per_task",
            ],
        );
    }
}
