//! The dashboard: that Grafana can draw it, and that what it asks for exists.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{read, yaml};

const DASHBOARD: &str = "deploy/grafana/waooaw.json";

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).unwrap()
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().unwrap().iter().collect()
}

#[test]
fn the_dashboard_has_a_row_for_each_subject() {
    let dashboard = dashboard();
    let rows: Vec<&str> = panels(&dashboard)
        .into_iter()
        .filter(|panel| panel["type"] == "row")
        .map(|panel| panel["title"].as_str().unwrap())
        .collect();

    let expected = [
        "Overview",
        "Latency",
        "Queue",
        "Workers",
        "Retries and dead letters",
        "Workflows and sagas",
        "Redis",
        "HTTP",
    ];
    assert_eq!(rows, expected);
}

#[test]
fn panels_stand_side_by_side_and_each_says_what_it_shows() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();

    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is taken");
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                assert!(x < 24 && taken.insert((x, y)), "{title}: its place is taken");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().unwrap().ends_with('.'), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().unwrap();
        let names: BTreeSet<&str> = targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
        assert!(!targets.is_empty() && names.len() == targets.len(), "{title}");
    }
    // Without holes: each line is full.
    let height = taken.iter().map(|(_, y)| y + 1).max().unwrap();
    assert_eq!(taken.len() as u64, 24 * height);
}

#[test]
fn queries_use_variables_that_there_are_and_look_at_one_installation() {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let known: BTreeSet<&str> = variables
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    let mut used = BTreeSet::new();

    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            assert!(query.contains("job=\"$job\""), "{query}");
            for rest in query.split('$').skip(1) {
                let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
                used.insert(rest[..end.unwrap_or(rest.len())].to_owned());
            }
        }
    }

    used.remove("__rate_interval");
    let used: BTreeSet<&str> = used.iter().map(String::as_str).chain(["datasource"]).collect();
    assert_eq!(used, known);
}

#[test]
fn grafana_finds_the_dashboard_and_its_data() {
    let provider = yaml("deploy/grafana/provisioning/dashboards/waooaw.yaml").remove(0);
    let source = yaml("deploy/grafana/provisioning/datasources/prometheus.yaml").remove(0);
    let compose = yaml("deploy/compose.yaml").remove(0);
    let grafana = &compose["services"]["grafana"];

    let home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        .as_str()
        .unwrap();

    let folder = provider["providers"][0]["options"]["path"].as_str().unwrap();
    assert_eq!(home, format!("{folder}/waooaw.json"));
    let mounted = grafana["configs"].as_array().unwrap();
    assert!(mounted.iter().any(|config| config["target"] == home), "{mounted:?}");
    assert_eq!(source["datasources"][0]["url"], "http://prometheus:9090");
    assert!(compose["services"]["prometheus"].is_object());
}

/// The metrics that a text names; a part of a histogram stands for it.
fn named(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("waooaw_") {
        let rest = &text[at..];
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        names.insert(rest[..end.unwrap_or(rest.len())].to_owned());
    }
    names
}

#[test]
fn every_metric_of_dashboard_and_rules_is_one_that_replicas_export() {
    // That these are exported under load, and no others, `tests/it/metrics.rs` shows.
    let mut exported = BTreeSet::new();
    for line in read("docs/metrics.md")
        .lines()
        .filter(|line| line.starts_with("| `waooaw_"))
    {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`');
        if cells[2] == "histogram" {
            exported.extend(["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}")));
        } else {
            exported.insert(name.to_owned());
        }
    }

    for path in [
        DASHBOARD,
        "deploy/prometheus/rules.yaml",
        "deploy/prometheus/rules_test.yaml",
    ] {
        let used = named(&read(path));
        let unknown: Vec<&String> = used.difference(&exported).collect();
        assert!(!used.is_empty() && unknown.is_empty(), "{path}: {unknown:?}");
    }
}
