//! Programs outside the runtime: the agents of `examples/agents` as processes of their own, and workers over HTTP.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::cli::Cli;
use crate::support::history::check_all_ended;
use crate::support::redis::{TestRedis, task_of};
use crate::support::replica::{ReplicaProcess, ask};
use crate::support::{holds, wait_for, wait_within};

/// A program of `examples/agents`; killed with its owner.
struct Program {
    child: Child,
    name: &'static str,
    folder: PathBuf,
}

impl Program {
    fn start(name: &'static str, folder: &Path, variables: &[(&str, String)]) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/agents").join(name);
        let interpreter = if path.extension().is_some_and(|kind| kind == "sh") {
            "sh"
        } else {
            "python3"
        };
        let output = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join(format!("{name}.log")))
            .unwrap();
        let child = Command::new(interpreter)
            .arg(path)
            .current_dir(folder)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(variables.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self {
            child,
            name,
            folder: folder.to_owned(),
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.join(format!("{}.log", self.name))).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

const AGENTS: [&str; 4] = [
    "order_validator.py",
    "inventory_manager.py",
    "payment_processor.py",
    "shipping_agent.sh",
];

#[tokio::test]
async fn four_agents_carry_an_order_to_its_parcel_though_each_is_killed_at_work() {
    let redis = TestRedis::start().await;
    let mut replicas = redis.replica().start_many(2).await;
    let folder = TempDir::new().unwrap();
    let variables = [("REDIS_URL", redis.url()), ("WORK_SECONDS", "0.7".to_owned())];
    let start = |name| Program::start(name, folder.path(), &variables);
    let mut agents: Vec<Program> = AGENTS.map(start).into();
    let order = include_str!("../../examples/agents/order.json");
    let started = Cli::on(&redis, &["workflow", "start", "order.json", "--output", "json"])
        .file("order.json", order)
        .run()
        .await
        .expect(0);
    let workflow = started.json()["workflow_id"].as_str().unwrap().to_owned();

    let mut log = redis.log().await;
    for (place, name) in AGENTS.into_iter().enumerate() {
        // Each is killed while it carries out its step, and another process of it starts.
        wait_for("an agent is at work", async || {
            let said = agents[place].said();
            let is_at_work = said.contains("carries out") || said.contains("ships");
            holds(is_at_work, || format!("{name}: {said}"))
        })
        .await;
        let killed = std::mem::replace(&mut agents[place], start(name));
        drop(killed);
        let again = start(name);
        drop(std::mem::replace(&mut agents[place], again));
        if place == 1 {
            // And so is a replica.
            drop(replicas.pop());
        }
        log.until_count("task.completed", place + 1).await;
    }
    log.until_count("workflow.completed", 1).await;

    let shipped = log.all("task.completed").last().unwrap().payload["result"].clone();
    assert_eq!(shipped, json!({ "order_id": "order-789", "tracking": "WX-order-789" }));
    let paid: Value = serde_json::from_slice(&std::fs::read(folder.path().join("payments.json")).unwrap()).unwrap();
    let payments: Vec<&Value> = paid.as_object().unwrap().values().collect();
    assert_eq!(payments, [&json!(11200)], "{paid}");
    let shown = Cli::on(&redis, &["workflow", "show", &workflow, "--output", "json"])
        .json()
        .await;
    assert_eq!(shown["state"], "COMPLETED", "{shown}");
    check_all_ended(&redis).await;
}

async fn post(replica: &ReplicaProcess, path: &str, body: &Value) -> (u16, Value) {
    ask(replica.http_port(), "POST", path, None, Some(&body.to_string()))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_worker_in_plain_python_claims_heartbeats_and_completes_over_http() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let folder = TempDir::new().unwrap();
    let url = format!("http://127.0.0.1:{}", replica.http_port());
    let variables = [("WAOOAW_URL", url), ("WORK_SECONDS", "3".to_owned())];
    let worker = Program::start("http_worker.py", folder.path(), &variables);
    wait_for("the worker's task name is known", async || {
        let known: Option<String> = redis.ask(&["ZSCORE", "waooaw:{0}:handlers", "word_count"]).await;
        holds(known.is_some(), || worker.said())
    })
    .await;

    redis
        .trigger(
            "words",
            &json!({ "task_name": "word_count", "args": ["to be or not to be"] }),
        )
        .await;
    redis.trigger("none", &json!({ "task_name": "word_count" })).await;
    let mut log = redis.log().await;
    wait_for("a heartbeat came", async || {
        let beat: Option<String> = redis
            .ask(&["HGET", &format!("waooaw:{{0}}:g:{}", task_of("words")), "beat"])
            .await;
        holds(beat.is_some(), || worker.said())
    })
    .await;
    let completed = log.until_task(task_of("words"), "task.completed").await;
    let failed = log.until_task(task_of("none"), "task.failed").await;

    assert_eq!(
        completed.payload["result"],
        json!({ "to": 2, "be": 2, "or": 1, "not": 1 })
    );
    assert_eq!(completed.text("worker_id"), "agent:word-counter");
    assert_eq!(failed.payload["error"]["type"], "no_text");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_is_claimed_over_http_is_fenced_and_lost_in_silence() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let other = redis.replica().start().await;
    let claim = json!({ "worker_id": "w1", "max": 5, "task_names": ["count"], "heartbeat_timeout_seconds": 1 });
    let (status, none) = post(&replica, "/v1/queues/default/claim", &claim).await;
    assert_eq!((status, &none), (200, &json!({ "items": [], "next_cursor": null })));
    redis
        .trigger(
            "one",
            &json!({ "task_name": "count", "args": [12_345_678_901_234_567_890_u64], "timeout_seconds": 60 }),
        )
        .await;
    // What nobody else carries out waits for whoever does; here through another replica, and waiting for it.
    let mut patient = claim.clone();
    patient["wait_seconds"] = json!(20);
    let (_, claimed) = post(&other, "/v1/queues/default/claim", &patient).await;
    let first = claimed["items"][0].clone();
    assert_eq!(first["args"], json!([12_345_678_901_234_567_890_u64]), "{claimed}");
    assert!(first["deadline"].is_string());
    let path = |verb: &str| format!("/v1/tasks/{}/{verb}", task_of("one"));

    let beat = post(&replica, &path("heartbeat"), &json!({ "attempt": 1, "progress": [1] })).await;
    assert_eq!(
        beat,
        (200, json!({ "task_id": task_of("one").to_string(), "attempt": 1 }))
    );
    let mut log = redis.log().await;
    let lost = log.until_task(task_of("one"), "task.retry_scheduled").await;
    assert_eq!(lost.payload["error"]["type"], "lost");
    let late = post(&replica, &path("complete"), &json!({ "attempt": 1, "result": 1 })).await;
    assert_eq!(
        (late.0, &late.1["code"]),
        (409, &json!("InvalidTransition")),
        "{late:?}"
    );
    let (_, again) = post(&replica, "/v1/queues/default/claim", &patient).await;
    assert_eq!(again["items"][0]["attempt"], 2, "{again}");
    let foreign = post(&replica, &path("fail"), &json!({ "attempt": 2, "worker_id": "w2" })).await;
    assert_eq!(foreign.0, 409, "{foreign:?}");
    let done = post(
        &replica,
        &path("complete"),
        &json!({ "attempt": 2, "worker_id": "w1", "result": { "n": [] } }),
    )
    .await;
    assert_eq!(
        (done.0, &done.1["state"], &done.1["result"]),
        (200, &json!("COMPLETED"), &json!({ "n": [] }))
    );
    let double = post(&replica, &path("complete"), &json!({ "attempt": 2, "result": 1 })).await;
    assert_eq!(double.0, 409, "{double:?}");

    let nowhere = format!("/v1/tasks/{}/complete", task_of("nothing"));
    let (status, missing) = post(&replica, &nowhere, &json!({ "attempt": 1 })).await;
    assert_eq!((status, &missing["code"]), (404, &json!("TaskNotFound")));
    for (path, body) in [
        ("/v1/queues/default/claim", json!({})),
        ("/v1/queues/default/claim", json!({ "worker_id": "a b" })),
        ("/v1/queues/default/claim", json!({ "worker_id": "w", "max": 0 })),
        (
            "/v1/queues/default/claim",
            json!({ "worker_id": "w", "wait_seconds": 61 }),
        ),
        ("/v1/queues/default/claim", json!({ "worker_id": "w", "agent_id": "w" })),
        (path("complete").as_str(), json!({ "result": 1 })),
        (path("complete").as_str(), json!({ "attempt": 2, "status": "failed" })),
        (path("fail").as_str(), json!({ "attempt": 2, "result": 1 })),
    ] {
        let (status, refused) = post(&replica, path, &body).await;
        assert_eq!(
            (status, &refused["code"]),
            (422, &json!("InvalidField")),
            "{body}: {refused}"
        );
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn an_agent_may_get_its_inbox_and_answer_over_http() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    redis
        .trigger("one", &json!({ "task_name": "sales.quote", "agent_id": "sales" }))
        .await;
    let claim = json!({ "agent_id": "sales", "wait_seconds": 20 });
    let (mut item, mut tries) = (Value::Null, 0);
    while item.is_null() && tries < 5 {
        item = post(&replica, "/v1/queues/default/claim", &claim).await.1["items"][0].take();
        tries += 1;
    }
    assert_eq!(item["name"], "sales.quote");

    let path = format!("/v1/tasks/{}/fail", task_of("one"));
    let error = json!({ "attempt": 1, "agent_id": "sales", "error": { "message": "no" }, "retryable": false });
    let (status, task) = post(&replica, &path, &error).await;

    assert_eq!((status, &task["state"]), (200, &json!("FAILED")), "{task}");
    assert_eq!(task["error"], json!({ "type": "handler_error", "message": "no" }));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn an_agent_that_waits_hears_of_the_first_task_that_it_ever_gets() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    // The name is known once the claim has found nothing and waits.
    let claim = json!({ "agent_id": "sales", "wait_seconds": 20, "task_names": ["count"] });
    let waiting = post(&replica, "/v1/queues/default/claim", &claim);
    let triggering = async {
        wait_for("the agent waits", async || {
            let known: Option<String> = redis.ask(&["ZSCORE", "waooaw:{0}:handlers", "count"]).await;
            holds(known.is_some(), String::new)
        })
        .await;
        let quote = json!({ "task_name": "sales.quote", "agent_id": "sales" });
        redis.trigger("one", &quote).await;
    };

    let ((status, claimed), ()) = tokio::join!(waiting, triggering);

    assert_eq!((status, &claimed["items"][0]["name"]), (200, &json!("sales.quote")));
    let path = format!("/v1/tasks/{}/complete", task_of("one"));
    let (status, _) = post(&replica, &path, &json!({ "attempt": 1, "agent_id": "sales" })).await;
    assert_eq!(status, 200);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_worker_of_one_queue_gets_nothing_of_another() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let names = json!({ "worker_id": "w", "max": 10, "task_names": ["count"] });
    post(&replica, "/v1/queues/right/claim", &names).await;
    for number in 0..3 {
        let queue = if number == 1 { "right" } else { "wrong" };
        redis
            .trigger(&format!("t{number}"), &json!({ "task_name": "count", "queue": queue }))
            .await;
    }
    let mut log = redis.log().await;
    log.until_count("task.created", 3).await;
    let mut found = Vec::new();
    wait_within(Duration::from_secs(20), "the one of the right queue", async || {
        let (_, claimed) = post(&replica, "/v1/queues/right/claim", &names).await;
        found.extend(claimed["items"].as_array().unwrap().iter().cloned());
        holds(!found.is_empty(), || claimed.to_string())
    })
    .await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["task_id"], task_of("t1").to_string());
    let (_, others) = post(&replica, "/v1/queues/wrong/claim", &names).await;
    found.extend(others["items"].as_array().unwrap().iter().cloned());
    assert_eq!(found.len(), 3, "{others}");

    for item in found {
        let path = format!("/v1/tasks/{}/complete", item["task_id"].as_str().unwrap());
        assert_eq!(post(&replica, &path, &json!({ "attempt": 1 })).await.0, 200);
    }
    check_all_ended(&redis).await;
}
