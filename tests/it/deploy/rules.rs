//! The alert rules, their tests, and what the runbook says of them.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::tools::{succeed, tool};
use super::{in_project, read, yaml};

const RULES: &str = "deploy/prometheus/rules.yaml";
const RUNBOOK: &str = "docs/operations.md";

/// The alerts.
fn alerts() -> Vec<Value> {
    let rules = yaml(RULES).remove(0);
    let groups = rules["groups"].as_array().unwrap().clone();
    let rules = groups
        .into_iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone());
    rules.filter(|rule| rule["alert"].is_string()).collect()
}

fn name(alert: &Value) -> &str {
    alert["alert"].as_str().unwrap()
}

#[test]
fn prometheus_takes_its_configuration_and_the_rules_pass_their_tests() {
    let Some(promtool) = tool(
        "promtool",
        "the configuration of Prometheus, the alert rules and their tests",
    ) else {
        return;
    };
    let folder = in_project("deploy/prometheus");

    for words in [
        // The file with the token is not there.
        &["check", "config", "--syntax-only", "prometheus.yaml"][..],
        &["check", "rules", "--lint-fatal", "rules.yaml"],
        &["test", "rules", "rules_test.yaml"],
    ] {
        succeed(Command::new(&promtool).args(words).current_dir(&folder), None);
    }
}

#[test]
fn every_alert_is_tried_once_where_it_must_fire_and_once_where_it_must_not() {
    let tests = yaml("deploy/prometheus/rules_test.yaml").remove(0);
    let tests = tests["tests"].as_array().unwrap();

    for alert in alerts() {
        let of: Vec<&Value> = tests
            .iter()
            .flat_map(|test| test["alert_rule_test"].as_array().unwrap())
            .filter(|check| check["alertname"] == alert["alert"])
            .collect();
        let fires = |check: &Value| check.get("exp_alerts").is_some();
        assert!(
            of.iter().any(|check| fires(check)) && of.iter().any(|check| !fires(check)),
            "{}",
            name(&alert)
        );
    }
}

#[test]
fn every_alert_says_how_bad_it_is_what_it_means_and_where_the_runbook_has_more() {
    let runbook = read(RUNBOOK);
    let sections: BTreeSet<&str> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .filter(|heading| heading.starts_with("Waooaw"))
        .collect();

    let alerts = alerts();

    let names: BTreeSet<&str> = alerts.iter().map(name).collect();
    assert_eq!(names.len(), alerts.len(), "two have one name");
    assert_eq!(names, sections, "alerts, and sections of the runbook");
    for alert in &alerts {
        let severity = alert["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{}", name(alert));
        for part in ["summary", "description"] {
            assert!(
                alert["annotations"][part].as_str().unwrap().ends_with('.'),
                "{} {part}",
                name(alert)
            );
        }
        let expected = format!(
            "https://github.com/waooaw/orchestration/blob/main/{RUNBOOK}#{}",
            name(alert).to_lowercase()
        );
        assert_eq!(alert["annotations"]["runbook_url"], expected.as_str());
        // What has happened can not last; everything else must.
        assert_eq!(
            alert["for"].is_string(),
            name(alert) != "WaooawTasksLost",
            "{}",
            name(alert)
        );
    }
    for section in runbook
        .split("\n### ")
        .skip(1)
        .filter(|section| section.starts_with("Waooaw"))
    {
        let section = section.split("\n## ").next().unwrap();
        for part in ["**Means**", "**Look at**", "**Do**"] {
            assert!(section.contains(part), "{part}: {section}");
        }
    }
}

#[test]
fn the_thresholds_are_those_that_were_asked_for() {
    let all = alerts();
    let of = |name: &str| all.iter().find(|alert| alert["alert"] == name).unwrap()["expr"].clone();

    assert_eq!(of("WaooawQueueFilling"), "waooaw:queue_fill:ratio > 0.8");
    assert_eq!(of("WaooawWorkersBusy"), "waooaw:workers_busy:ratio > 0.9");
    assert_eq!(of("WaooawTasksStartLate"), "waooaw:trigger_to_start_seconds:p99 > 1");
    assert_eq!(of("WaooawTasksFail"), "waooaw:tasks_failed:ratio > 0.05");
    // Below the 85 % from which on nothing new is accepted.
    assert!(of("WaooawRedisMemoryShort").as_str().unwrap().ends_with("> 0.75\n"));
    // As /readyz has it.
    assert!(
        of("WaooawReaderDeaf")
            .as_str()
            .unwrap()
            .ends_with("(waooaw_reader_progress_seconds) > 10")
    );
}

#[test]
fn kubernetes_gets_the_same_rules() {
    let rule = yaml("deploy/kubernetes/components/monitoring/prometheus-rule.yaml").remove(0);

    assert_eq!(rule["spec"], yaml(RULES).remove(0));
}
