//! A real Prometheus, as the compose file configures it, looks at replicas at work: every query of the dashboard answers, and
//! every rule can be evaluated.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::tools::tool;
use super::{in_project, read, yaml};
use crate::support::history::check_all_ended;
use crate::support::redis::{TestRedis, free_port};
use crate::support::replica::ReplicaProcess;
use crate::support::{holds, wait_for};

/// Panels that may be empty beside a system in good health with a limit on its queue.
const MAY_BE_EMPTY: [&str; 1] = ["Errors"];

/// A Prometheus; killed with its owner.
struct Prometheus {
    child: Child,
    port: u16,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

impl Prometheus {
    /// By the configuration of the project, but for where replicas are, how often it looks, and the token.
    fn start(program: &Path, folder: &Path, replicas: &[ReplicaProcess]) -> Self {
        let mut config = yaml("deploy/prometheus/prometheus.yaml").remove(0);
        config["global"] = json!({ "scrape_interval": "1s", "evaluation_interval": "1s" });
        let job = config["scrape_configs"][0].as_object_mut().unwrap();
        job.remove("dns_sd_configs").unwrap();
        job.remove("authorization").unwrap();
        let targets: Vec<String> = replicas
            .iter()
            .map(|one| format!("127.0.0.1:{}", one.http_port()))
            .collect();
        job.insert("static_configs".to_owned(), json!([{ "targets": targets }]));
        // JSON is YAML.
        std::fs::write(folder.join("prometheus.yaml"), config.to_string()).unwrap();
        std::fs::copy(in_project("deploy/prometheus/rules.yaml"), folder.join("rules.yaml")).unwrap();
        let port = free_port();
        let child = Command::new(program)
            .arg(format!("--config.file={}", folder.join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port }
    }

    /// What a query answers, or why it can not.
    async fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        let encoded: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let data = self.get(&format!("/api/v1/query?query={encoded}")).await?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }

    /// The data that a path of its interface answers, or what it says instead.
    async fn get(&self, path: &str) -> Result<Value, String> {
        // In this version of HTTP an answer comes whole, not in chunks.
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<String, std::io::Error>(answer)
        };
        let answer = ask.await.map_err(|problem| problem.to_string())?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let document: Value = serde_json::from_str(body).map_err(|problem| format!("{problem}: {answer}"))?;
        if document["status"] == "success" {
            Ok(document["data"].clone())
        } else {
            Err(answer)
        }
    }
}

#[tokio::test]
async fn every_query_of_the_dashboard_and_every_rule_answers_beside_replicas_at_work() {
    let Some(program) = tool(
        "prometheus",
        "the queries of the dashboard and the rules beside replicas",
    ) else {
        return;
    };
    let redis = TestRedis::start_durable().await;
    let limits = redis
        .replica()
        .set("TASK_QUEUE_MAX_RUNNING", "100")
        .set("TASK_QUEUE_MAX_SIZE", "5000");
    let replicas = limits.start_many(2).await;
    () = redis.ask(&["CONFIG", "SET", "maxmemory", "1gb"]).await;
    let folder = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(&program, folder.path(), &replicas);
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/waooaw.json")).unwrap();
    let mut waiting: Vec<(String, String)> = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let query = query.replace("$job", "waooaw").replace("$__rate_interval", "30s");
            let query = query.replace("$instance", ".*").replace("$task_name", ".*");
            waiting.push((panel["title"].as_str().unwrap().to_owned(), query));
        }
    }
    let all = waiting.len();

    // What a query is about may be over when it is asked, so work of all kinds goes on until each has answered.
    let mut number = 0;
    wait_for("every query has an answer", async || {
        number += 1;
        let work = [
            json!({ "task_name": "noop" }),
            json!({ "task_name": "sleep", "kwargs": { "ms": 300 }, "priority": "HIGH" }),
            json!({ "task_name": "flaky", "kwargs": { "fail_times": 1 }, "retry": "QUICK" }),
            json!({ "task_name": "fail", "kwargs": { "message": "no", "permanent": true } }),
        ];
        let work = (0..).map(|kind| format!("work-{number}-{kind}")).zip(work);
        redis.trigger_all(work).await;
        let mut left = Vec::new();
        for (title, query) in waiting.drain(..) {
            match prometheus.query(&query).await {
                Ok(rows) if !rows.is_empty() || MAY_BE_EMPTY.contains(&title.as_str()) => {}
                Ok(_) | Err(_) => left.push((title, query)),
            }
        }
        waiting = left;
        holds(waiting.is_empty(), || {
            format!("{} of {all}: {waiting:?}", waiting.len())
        })
    })
    .await;
    wait_for("every rule was evaluated", async || {
        let data = prometheus.get("/api/v1/rules").await?;
        let groups = data["groups"].as_array().unwrap();
        let rules: Vec<&Value> = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap())
            .collect();
        let health: BTreeSet<&str> = rules.iter().map(|rule| rule["health"].as_str().unwrap()).collect();
        let firing: Vec<&Value> = rules.iter().filter(|rule| rule["state"] == "firing").copied().collect();
        assert!(firing.is_empty(), "{firing:?}");
        holds(health == BTreeSet::from(["ok"]), || format!("{rules:?}"))
    })
    .await;

    drop(prometheus);
    check_all_ended(&redis).await;
}
