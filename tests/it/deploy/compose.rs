//! The compose file: its form, and that what it starts works together, with processes in the place of containers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::tools::{succeed, tool};
use super::{drain_seconds, in_project, make_secrets, read, seconds, yaml};
use crate::support::history::check_all_ended;
use crate::support::redis::TestRedis;
use crate::support::replica::{Settings, ask};

const FILE: &str = "deploy/compose.yaml";

fn compose() -> Value {
    yaml(FILE).remove(0)
}

fn service(name: &str) -> Value {
    compose()["services"][name].clone()
}

fn services() -> BTreeMap<String, Value> {
    serde_json::from_value(compose()["services"].clone()).unwrap()
}

/// The words of a command.
fn words(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap_or_else(|problem| panic!("{problem}: {value}"))
}

#[test]
fn the_compose_file_and_the_workflow_fit_their_schemas() {
    let Some(check) = tool(
        "check-jsonschema",
        "the compose file and the workflow against their schemas",
    ) else {
        return;
    };

    for (schema, path) in [
        ("vendor.compose-spec", FILE),
        ("vendor.github-workflows", ".github/workflows/ci.yml"),
    ] {
        succeed(
            Command::new(&check)
                .args(["--builtin-schema", schema])
                .arg(in_project(path)),
            None,
        );
    }
}

#[test]
fn no_container_has_root_rights_or_a_file_system_to_write_to() {
    for (name, service) in services() {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        // An image without a version is another one tomorrow.
        let tag = service["image"]
            .as_str()
            .unwrap()
            .rsplit_once(':')
            .unwrap()
            .1
            .to_owned();
        assert!(
            tag.starts_with(|first: char| first.is_ascii_digit() || first == 'v'),
            "{name}: {tag}"
        );
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name}: {port}");
        }
        assert!(
            service.get("mem_limit").is_some() || service["deploy"]["resources"]["limits"].is_object(),
            "{name}"
        );
    }
    // Redis is for the replicas and for who is put beside them.
    assert_eq!(service("redis").get("ports"), None);
    assert_eq!(service("redis")["networks"], json!(["bus"]));
    assert_eq!(compose()["networks"]["bus"]["internal"], true);
}

#[test]
fn whatever_is_mounted_is_declared_and_there() {
    let folder = tempfile::tempdir().unwrap();
    make_secrets(folder.path());
    let compose = compose();
    for (name, service) in services() {
        for (kind, of) in [("configs", "source"), ("secrets", "")] {
            for mounted in service[kind].as_array().into_iter().flatten() {
                let declared = mounted.as_str().or(mounted[of].as_str()).unwrap();
                let file = compose[kind][declared]["file"]
                    .as_str()
                    .unwrap_or_else(|| panic!("{name}: {declared}"));
                let path = match file.strip_prefix("secrets/") {
                    Some(secret) => folder.path().join(secret),
                    None => in_project("deploy").join(file),
                };
                assert!(path.is_file(), "{name}: {}", path.display());
            }
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let volume = volume.as_str().unwrap().split(':').next().unwrap();
            assert!(compose["volumes"].get(volume).is_some(), "{name}: {volume}");
        }
        for network in service["networks"].as_array().into_iter().flatten() {
            assert!(
                compose["networks"].get(network.as_str().unwrap()).is_some(),
                "{name}: {network}"
            );
        }
    }
}

#[test]
fn a_stop_leaves_time_for_the_drain() {
    let replica = service("replica");

    assert!(seconds(replica["stop_grace_period"].as_str().unwrap()) >= drain_seconds() + 5);
    assert_eq!(replica["deploy"]["replicas"], 3);
    assert_eq!(replica["depends_on"]["redis"]["condition"], "service_healthy");
    // As many addresses as there may be replicas without another thought.
    assert_eq!(replica["ports"], json!(["127.0.0.1:8001-8009:8001"]));
}

/// A path in a container, as it is here: below the folder with secrets, or in the project.
fn here(text: &str, secrets: &Path) -> String {
    text.replace("/run/secrets", &secrets.display().to_string())
}

/// Starts Redis by the words of its service.
async fn start_redis(secrets: &Path) -> TestRedis {
    let command = words(&service("redis")["command"]);
    let (program, options) = command.split_first().unwrap();
    assert_eq!(program, "redis-server");
    let at = options.iter().position(|word| word == "--dir").unwrap();
    let mut options: Vec<String> = options.iter().map(|word| here(word, secrets)).collect();
    options.drain(at..at + 2);
    // Whoever looks at the end what became of it all.
    let users = secrets.join("redis-users.acl");
    let lines = std::fs::read_to_string(&users).unwrap();
    std::fs::remove_file(&users).unwrap();
    std::fs::write(&users, format!("{lines}user tester on nopass ~* &* +@all\n")).unwrap();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let redis = TestRedis::not_started(true).with_options(&options);
    redis.start_again().await;
    redis
}

/// How a replica is started by its service, with the files that are mounted where they are here.
fn replica_settings(redis: &TestRedis, secrets: &Path, folder: &Path) -> Settings {
    let service = service("replica");
    let config = service["configs"][0].clone();
    let target = config["target"].as_str().unwrap();
    let mounted = folder.join(
        target
            .strip_prefix("/app/")
            .expect("it is where the image looks for configuration"),
    );
    std::fs::create_dir_all(mounted.parent().unwrap()).unwrap();
    let source = compose()["configs"][config["source"].as_str().unwrap()]["file"].clone();
    let text = read(&format!("deploy/{}", source.as_str().unwrap()));
    std::fs::write(&mounted, here(&text, secrets)).unwrap();
    std::fs::copy(
        in_project("config/default.toml"),
        mounted.with_file_name("default.toml"),
    )
    .unwrap();
    let command = words(&service["command"]);
    assert_eq!(command[..2], ["serve", "--config"]);
    let url_file = PathBuf::from(here(&command[2], secrets));
    let url = std::fs::read_to_string(url_file).unwrap();
    let url: toml::Table = url.parse().unwrap();
    let url = url["redis"]["url"].as_str().unwrap();
    // The one name that only a network of containers knows.
    let url = url.replace("@redis:6379", &format!("@127.0.0.1:{}", redis.port()));
    let environment: BTreeMap<String, String> = serde_json::from_value(service["environment"].clone()).unwrap();
    let settings = Settings::new(&url).folder(folder).by_configuration_alone();
    environment
        .iter()
        .fold(settings, |settings, (name, value)| settings.set(name, value))
}

#[tokio::test]
async fn what_the_compose_file_starts_works_together() {
    let secrets = tempfile::tempdir().unwrap();
    make_secrets(secrets.path());
    let folder = tempfile::tempdir().unwrap();
    let redis = start_redis(secrets.path()).await;
    let replicas = replica_settings(&redis, secrets.path(), folder.path())
        .start_many(2)
        .await;
    let secret = |name: &str| {
        std::fs::read_to_string(secrets.path().join(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    let port = replicas[0].http_port();

    // Who has no token learns nothing but that it lives, and each role may what it should.
    let trigger = json!({
        "event_type": "orchestration.task.trigger", "source_agent": "shop", "event_id": "order-1",
        "payload": { "task_name": "add", "args": [40, 2] }
    })
    .to_string();
    let call = async |method: &str, path: &str, token: Option<&str>, body: Option<&str>| {
        ask(port, method, path, token, body).await.expect("it answers").0
    };
    assert_eq!(call("GET", "/healthz", None, None).await, 200);
    assert_eq!(call("GET", "/v1/stats", None, None).await, 401);
    assert_eq!(call("GET", "/v1/stats", Some(&secret("read-token")), None).await, 200);
    let read = secret("read-token");
    assert_eq!(call("POST", "/v1/triggers", Some(&read), Some(&trigger)).await, 403);
    let may_trigger = secret("trigger-token");
    assert_eq!(
        call("POST", "/v1/triggers", Some(&may_trigger), Some(&trigger)).await,
        202
    );
    let scale = Some("{\"max\":7}");
    assert_eq!(call("POST", "/v1/workers/scale", Some(&may_trigger), scale).await, 403);
    assert_eq!(
        call("POST", "/v1/workers/scale", Some(&secret("admin-token")), scale).await,
        200
    );

    // The users of Redis are those that they should be.
    let test = service("redis")["healthcheck"]["test"].clone();
    assert_eq!(test[0], "CMD-SHELL");
    assert!(test[1].as_str().unwrap().starts_with("redis-cli ping |"), "{test}");
    let default: Result<String, _> = redis.try_send(&redis::cmd("PING")).await;
    assert_eq!(default.as_deref(), Ok("PONG"));
    let mut denied = redis::cmd("XLEN");
    let denied: Result<u64, _> = redis.try_send(denied.arg("waooaw:triggers")).await;
    assert_eq!(denied.unwrap_err().code(), Some("NOPERM"));
    agent_publishes(&redis, &secret("agent-password")).await;

    // From here on the test needs to see everything.
    () = redis.ask(&["AUTH", "tester", "any"]).await;
    () = redis.ask(&["ACL", "SETUSER", "default", "+@all", "~*", "&*"]).await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 2).await;
    check_all_ended(&redis).await;
    for mut replica in replicas {
        assert!(replica.stop().await.success());
    }
}

/// An agent on the bus may send triggers and read the log, and nothing else.
async fn agent_publishes(redis: &TestRedis, password: &str) {
    let url = format!("redis://waooaw-agent:{password}@127.0.0.1:{}", redis.port());
    let mut agent = redis::Client::open(url)
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let mut add = redis::cmd("XADD");
    add.arg("waooaw:triggers").arg("*");
    for (name, value) in crate::support::redis::trigger_fields("order-2", r#"{"task_name":"noop"}"#) {
        add.arg(name).arg(value);
    }
    let _id: String = add.query_async(&mut agent).await.unwrap();
    let mut length = redis::cmd("XLEN");
    let _length: u64 = length.arg("waooaw:{0}:events").query_async(&mut agent).await.unwrap();
    let mut delete = redis::cmd("DEL");
    let denied: Result<u64, _> = delete.arg("waooaw:{0}:events").query_async(&mut agent).await;
    assert_eq!(denied.unwrap_err().code(), Some("NOPERM"));
}
