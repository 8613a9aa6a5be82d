//! Who may do what over HTTP, and what comes of requests that nobody in their right mind would send.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waooaw_orchestration::service::openapi;

use crate::support::cli::Cli;
use crate::support::history::{check, check_all_ended};
use crate::support::http::{Answer, request, send};
use crate::support::redis::{TestRedis, task_of};
use crate::support::{holds, wait_for};

const READER: &str = "reader-0123456789abcdef0123456789abcdef";
const SENDER: &str = "sender-0123456789abcdef0123456789abcdef";
const MASTER: &str = "master-0123456789abcdef0123456789abcdef";

fn tokens() -> String {
    [(READER, "read"), (SENDER, "trigger"), (MASTER, "admin")]
        .map(|(token, role)| format!("[[http.tokens]]\ntoken = \"{token}\"\nrole = \"{role}\"\n"))
        .concat()
}

/// An operation of the document.
struct Operation {
    method: String,
    path: String,
    told: Value,
}

impl Operation {
    fn all() -> Vec<Self> {
        let document = openapi();
        let mut all = Vec::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (verb, told) in operations.as_object().unwrap() {
                all.push(Self {
                    method: verb.to_ascii_uppercase(),
                    path: path.clone(),
                    told: told.clone(),
                });
            }
        }
        assert!(all.len() > 25, "{}", all.len());
        all
    }

    /// The path with this in the place of each id.
    fn at(&self, id: &str) -> String {
        let parts = self.path.split(['{', '}']).enumerate();
        parts
            .map(|(place, part)| if place % 2 == 1 { id } else { part })
            .collect()
    }

    fn body(&self) -> Option<&'static str> {
        (self.told["requestBody"].is_object()).then_some("{}")
    }

    async fn call(&self, port: u16, path: &str, token: Option<&str>) -> Answer {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let mut headers: Vec<(&str, &str)> = vec![("Content-Type", "application/json")];
        headers.extend(authorization.as_deref().map(|value| ("Authorization", value)));
        request(port, &self.method, path, &headers, self.body()).await
    }

    /// What holds of every answer to it.
    fn check(&self, answer: &Answer, about: &str) {
        let about = format!("{} {} {about}: {answer:?}", self.method, self.path);
        assert!(answer.status < 500, "{about}");
        assert!(
            self.told["responses"].get(answer.status.to_string()).is_some(),
            "a status that the document does not tell: {about}"
        );
        check_headers(answer, &about);
        if answer.status >= 400 {
            let codes = &self.told["responses"][answer.status.to_string()]["content"]["application/problem+json"]["schema"]
                ["properties"]["code"]["enum"];
            assert!(
                codes.as_array().unwrap().contains(&json!(answer.code())),
                "a code that the document does not tell: {about}"
            );
        }
    }
}

fn check_headers(answer: &Answer, about: &str) {
    assert_eq!(answer.header("x-content-type-options"), "nosniff", "{about}");
    assert_eq!(answer.header("cache-control"), "no-store", "{about}");
    assert_eq!(answer.header("x-frame-options"), "DENY", "{about}");
    assert_eq!(answer.header("referrer-policy"), "no-referrer", "{about}");
    assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin", "{about}");
    assert!(
        answer
            .header("content-security-policy")
            .starts_with("default-src 'none'"),
        "{about}"
    );
    assert!(!answer.header("x-request-id").is_empty(), "{about}");
    for absent in ["server", "set-cookie", "access-control-allow-origin", "injected"] {
        assert_eq!(answer.header(absent), "", "{about}");
    }
    if answer.status >= 400 {
        assert_eq!(answer.header("content-type"), "application/problem+json", "{about}");
        assert_eq!(answer.json()["request_id"], answer.header("x-request-id"), "{about}");
    }
}

/// The role that the contract gives a route.
fn role_by_contract(operation: &Operation) -> Option<&'static str> {
    let path = operation.path.as_str();
    let is_work = ["/claim", "/heartbeat", "/complete", "/fail"]
        .iter()
        .any(|end| path.ends_with(end));
    match operation.method.as_str() {
        _ if ["/healthz", "/readyz"].contains(&path) => None,
        "GET" => Some("read"),
        _ if path == "/v1/triggers" || is_work => Some("trigger"),
        _ => Some("admin"),
    }
}

#[tokio::test]
async fn every_route_is_closed_to_all_but_the_roles_of_the_contract() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().config(&tokens()).start().await;
    let port = replica.http_port();

    for operation in Operation::all() {
        let role = role_by_contract(&operation);
        assert_eq!(
            operation.told["x-role"].as_str(),
            role,
            "{} {}",
            operation.method,
            operation.path
        );
        let path = operation.at("none");
        let rank = |role: &str| ["read", "trigger", "admin"].iter().position(|known| *known == role);
        for (token, own) in [
            (None, None),
            (Some("wrong"), None),
            (Some(&READER[..READER.len() - 1]), None),
            (Some(READER), Some("read")),
            (Some(SENDER), Some("trigger")),
            (Some(MASTER), Some("admin")),
        ] {
            let answer = operation.call(port, &path, token).await;
            let about = format!("{} {path} as {own:?}: {answer:?}", operation.method);
            check_headers(&answer, &about);
            match (role, own) {
                (None, _) => assert_eq!(answer.status, 200, "{about}"),
                (Some(_), None) => {
                    assert_eq!(
                        (answer.status, answer.code().as_str()),
                        (401, "Unauthorized"),
                        "{about}"
                    );
                    assert!(answer.header("www-authenticate").starts_with("Bearer"), "{about}");
                }
                (Some(needed), Some(own)) if rank(own) < rank(needed) => {
                    assert_eq!((answer.status, answer.code().as_str()), (403, "Forbidden"), "{about}");
                    assert!(answer.body.contains(needed) && answer.body.contains(own), "{about}");
                }
                (Some(_), Some(_)) => {
                    assert!(![401, 403].contains(&answer.status), "{about}");
                    operation.check(&answer, "with a token that will do");
                }
            }
        }
    }
    for method in ["PUT", "OPTIONS", "TRACE", "PROPFIND", "get"] {
        for (path, with_token) in [("/v1/tasks", 405), ("/nowhere", 404), ("/", 404)] {
            assert_eq!(
                request(port, method, path, &[], None).await.status,
                401,
                "{method} {path}"
            );
            let authorization = format!("Bearer {MASTER}");
            let answer = request(port, method, path, &[("Authorization", &authorization)], None).await;
            assert_eq!(answer.status, with_token, "{method} {path}: {answer:?}");
        }
    }
    check_all_ended(&redis).await;
}

/// What somebody might try as an id, as it stands on the wire.
fn hostile() -> Vec<String> {
    let mut all: Vec<String> = [
        "..",
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "%2F",
        "a%2Fb%2Fc",
        "%5c..%5c",
        "{",
        "%7B0%7D",
        "{0}:meta",
        "*",
        "?",
        "%3F*",
        "%00",
        "a%00b",
        "%0d%0aInjected:%20yes",
        "%0a",
        "%ff%fe",
        "%ed%a0%80",
        "%c0%af",
        "%",
        "%zz",
        "%25%32%66",
        "%EF%BC%8F",
        "d%D0%B5fault",
        "%E2%80%AE",
        "%F0%9F%92%A9",
        "%20",
        "+",
        "'",
        "%22",
        "`",
        "$(id)",
        "%3Cscript%3E",
        ";",
        "&a=b",
        "=",
        "-1",
        "0",
        "1e999",
        "null",
        "99999999999999999999999",
        "__proto__",
        "[%5D",
        "4c59c34d-2213-81c6-8600-111abb62a000",
        "4C59C34D221381C68600111ABB62A000",
        "0-0",
        "0-1.1",
        "r-00000000%2F0",
        "r-00000000%2F-1",
    ]
    .map(str::to_owned)
    .into();
    all.push("a".repeat(10 << 10));
    all.push("%41".repeat(10 << 10));
    all.push("%F0%9F%92%A9".repeat(500));
    all
}

#[tokio::test]
async fn no_id_and_no_parameter_is_met_with_more_than_a_problem() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let port = replica.http_port();

    for operation in Operation::all() {
        if operation.path.contains('{') {
            for id in hostile() {
                let answer = operation.call(port, &operation.at(&id), None).await;
                let about = format!("{} {} with `{id:.80}`: {answer:?}", operation.method, operation.path);
                // What is no path by the letter does not even get so far.
                if answer.status == 400 && answer.body.is_empty() {
                    continue;
                }
                assert!((400..500).contains(&answer.status), "{about}");
                check_headers(&answer, &about);
                // What is another path to a router is answered as such.
                if !["NotFound", "MethodNotAllowed"].contains(&answer.code().as_str()) {
                    operation.check(&answer, &format!("`{id:.80}`"));
                }
                assert!(
                    answer.body.len() < 32 << 10,
                    "it is sent back whole: {}",
                    answer.body.len()
                );
            }
        }
        let parameters = operation.told["parameters"].as_array().cloned().unwrap_or_default();
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
            let name = parameter["name"].as_str().unwrap();
            for value in hostile() {
                let path = format!("{}?{name}={value}", operation.at("none"));
                let answer = operation.call(port, &path, None).await;
                if answer.status == 400 && answer.body.is_empty() {
                    continue;
                }
                operation.check(&answer, &format!("{name}=`{value:.80}`"));
            }
            let twice = format!("{}?{name}=1&{name}=1", operation.at("none"));
            operation.check(&operation.call(port, &twice, None).await, &twice);
        }
        let Some(_) = operation.body() else { continue };
        for body in [
            "null",
            "[]",
            "0",
            "\"\"",
            "{",
            "{}{}",
            "{\"a\":",
            "\u{feff}{}",
            "{\"\\u0000\":1}",
            "{\"reason\":1}",
            "{\"actor\":\"\"}",
            "{\"actor\":\"a\\nb\"}",
            "{\"max_size\":-1}",
            "{\"max_size\":1e400}",
            "{\"max_size\":18446744073709551615}",
            "{\"max_running\":1.5}",
            "{\"add\":70000}",
            "{\"add\":0}",
            "{\"add\":1,\"remove\":1}",
            "{\"replica\":\"*\",\"add\":1}",
            "{\"retry\":{\"jitter\":9}}",
            "{\"retry\":[]}",
            "{\"event_type\":\"x\",\"source_agent\":\"y\",\"payload\":{}}",
        ] {
            let headers = [("Content-Type", "application/json")];
            let path = operation.at("none");
            let answer = request(port, &operation.method, &path, &headers, Some(body)).await;
            operation.check(&answer, body);
            assert!(answer.status >= 400, "{} {path} {body}: {answer:?}", operation.method);
        }
    }
    let log = replica.log();
    assert!(!log.contains("panicked"), "{log}");
    check(&redis).await;
}

#[tokio::test]
async fn a_body_is_json_of_at_most_a_mebibyte_and_of_the_same_origin() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let port = replica.http_port();
    let trigger = json!({
        "event_type": "orchestration.task.trigger", "source_agent": "s", "event_id": "e", "payload": { "task_name": "noop" },
    })
    .to_string();
    let publish =
        async |headers: &[(&str, &str)], body: &str| request(port, "POST", "/v1/triggers", headers, Some(body)).await;
    let json = ("Content-Type", "application/json");

    for (headers, status, code) in [
        (vec![], 415, "UnsupportedMediaType"),
        (vec![("Content-Type", "text/plain")], 415, "UnsupportedMediaType"),
        (
            vec![("Content-Type", "application/x-www-form-urlencoded")],
            415,
            "UnsupportedMediaType",
        ),
        (
            vec![("Content-Type", "multipart/form-data; boundary=x")],
            415,
            "UnsupportedMediaType",
        ),
        (vec![json, ("Origin", "https://evil.example")], 403, "Forbidden"),
        (vec![json, ("Origin", "null")], 403, "Forbidden"),
        (vec![json, ("Sec-Fetch-Site", "cross-site")], 403, "Forbidden"),
        (vec![json, ("Host", "evil.example")], 403, "Forbidden"),
    ] {
        let answer = publish(&headers, &trigger).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{headers:?}: {answer:?}"
        );
    }
    // Refused by what is announced, before any of it is there.
    let announced = "POST /v1/triggers HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                     Content-Length: 1073741824\r\nConnection: close\r\n\r\n";
    let answer = send(port, announced.as_bytes()).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "PayloadTooLarge"));
    // And by what comes, where nothing is announced.
    let mut chunked = b"POST /v1/triggers HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                        Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        .to_vec();
    for _ in 0..20 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend_from_slice(&vec![b' '; 0x10000]);
        chunked.extend_from_slice(b"\r\n");
    }
    let answer = send(port, &chunked).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "PayloadTooLarge"));
    // Two lengths, or a length and chunks, are how requests are smuggled.
    for lengths in ["Content-Length: 2\r\nContent-Length: 3\r\n", "Content-Length: -1\r\n"] {
        let request =
            format!("POST /v1/triggers HTTP/1.1\r\nHost: localhost\r\n{lengths}Connection: close\r\n\r\n{{}}");
        assert_eq!(send(port, request.as_bytes()).await.status, 400, "{lengths}");
    }
    assert_eq!(publish(&[json], &trigger).await.status, 202);
    redis.log().await.until_count("task.completed", 1).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_request_names_itself_or_is_named() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let port = replica.http_port();

    let own = request(port, "GET", "/v1/tasks/none", &[("x-request-id", "order-7/a")], None).await;
    assert_eq!(own.header("x-request-id"), "order-7/a");
    assert_eq!(
        (&own.json()["request_id"], &own.json()["instance"]),
        (&json!("order-7/a"), &json!("/v1/tasks/none"))
    );
    for bad in ["", "a b", "\"<x>\"", &"x".repeat(129)] {
        let answer = request(port, "GET", "/v1/tasks/none", &[("x-request-id", bad)], None).await;
        assert!(answer.header("x-request-id").len() == 36, "{bad}: {answer:?}");
    }
}

#[tokio::test]
async fn who_says_nothing_loses_the_connection() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let began = Instant::now();
    let mut silent = Vec::new();
    for sent in ["", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow:"] {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", replica.http_port()))
            .await
            .unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        silent.push(stream);
    }

    for mut stream in silent {
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(60), read)
            .await
            .expect("it is closed")
            .unwrap();
    }
    assert!(
        began.elapsed() > Duration::from_secs(5),
        "who is merely slow is given time"
    );
    assert_eq!(replica.get("/healthz").await.unwrap().0, 200);
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one list of all places where something is said")]
async fn no_secret_is_in_anything_that_is_said() {
    let redis = TestRedis::start().await;
    let _: String = redis
        .ask(&[
            "ACL",
            "SETUSER",
            "keeper",
            "on",
            ">canary-redis-password",
            "~*",
            "&*",
            "+@all",
        ])
        .await;
    let url = redis.url().replace("redis://", "redis://keeper:canary-redis-password@");
    let config = format!(
        "{}\n[redis]\nurl = \"{url}\"\n[handlers.quote]\nkind = \"http\"\nurl = \"http://user:canary-url-password@127.0.0.1:1/q\"\n\
         signing_secret = \"canary-signing-secret-0123456789abcdef\"\n[handlers.quote.headers]\nauthorization = \"canary-header\"\n\
         [handlers.run]\nkind = \"command\"\nargv = [\"false\"]\n[handlers.run.env]\nKEY = \"canary-environment\"\n",
        tokens().replace("0123456789abcdef0123456789abcdef", "canary-token-0123456789abcdef0123")
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("config")).unwrap();
    std::fs::write(folder.path().join("config/default.toml"), &config).unwrap();
    let mut replica = redis
        .replica()
        .folder(folder.path())
        .redis_url(None)
        .set("RUST_LOG", "debug")
        .start()
        .await;
    let port = replica.http_port();
    let master = MASTER.replace("0123456789abcdef0123456789abcdef", "canary-token-0123456789abcdef0123");
    let authorization = format!("Bearer {master}");
    let mut said: BTreeMap<String, String> = BTreeMap::new();

    for name in ["quote", "run"] {
        redis
            .trigger(name, &json!({ "task_name": name, "max_retries": 0 }))
            .await;
        redis.log().await.until_task(task_of(name), "task.dead_lettered").await;
    }
    let task = task_of("quote");
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/v1/stats",
        "/v1/scale",
        "/v1/workers",
        "/v1/queues",
        "/v1/events",
        "/v1/tasks",
        "/v1/dead-letters",
        &format!("/v1/tasks/{task}"),
        &format!("/v1/tasks/{task}/explain"),
        "/nowhere",
    ] {
        let answer = request(port, "GET", path, &[("Authorization", &authorization)], None).await;
        said.insert(format!("GET {path}"), format!("{answer:?}"));
        let wrong = request(
            port,
            "GET",
            path,
            &[("Authorization", "Bearer canary-token-wrong")],
            None,
        )
        .await;
        said.insert(format!("GET {path} with a wrong token"), format!("{wrong:?}"));
    }
    for words in [
        &["--config", "c.toml", "config", "check"][..],
        &["--config", "c.toml", "doctor"],
        &["--config", "c.toml", "stats"],
        &["--config", "c.toml", "-vv", "task", "list"],
    ] {
        let ran = Cli::new(words).file("c.toml", &config).run().await;
        said.insert(words.join(" "), ran.out + &ran.err);
    }
    let broken = config
        .replace("role = \"read\"", "role = \"king\"")
        .replace("http://user", "htp://user");
    let ran = Cli::new(&["--config", "c.toml", "config", "check"])
        .file("c.toml", &broken)
        .run()
        .await;
    assert_eq!(ran.code, Some(2));
    said.insert("config check of a broken file".to_owned(), ran.out + &ran.err);
    let events = redis.log().await.events;
    said.insert("the log of events".to_owned(), format!("{events:?}"));
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]).await;
    for key in keys {
        let bytes: Option<Vec<u8>> = redis.ask(&["DUMP", &key]).await;
        said.insert(
            format!("key {key}"),
            String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned(),
        );
    }
    let process = replica.process();
    for file in ["cmdline", "comm"] {
        let bytes = std::fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
        said.insert(file.to_owned(), String::from_utf8_lossy(&bytes).into_owned());
    }
    // An outage is where addresses are told.
    redis.kill().await;
    let answer = request(port, "GET", "/v1/stats", &[("Authorization", &authorization)], None).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "RedisUnavailable"));
    said.insert("an outage".to_owned(), format!("{answer:?}"));
    wait_for("the outage is on the log", async || {
        let log = replica.log();
        holds(log.contains("redis is unavailable"), || log)
    })
    .await;
    replica.kill();
    said.insert("the log of the replica".to_owned(), replica.log());

    assert!(said.len() > 30, "{}", said.len());
    for (what, text) in said {
        assert!(!text.contains("canary"), "{what} tells a secret: {text}");
    }
}

#[tokio::test]
async fn off_loopback_nobody_listens_without_tokens_or_a_word_that_it_is_meant() {
    let redis = TestRedis::start().await;
    let ran = Cli::on(&redis, &["serve", "--http-addr", "0.0.0.0:0"]).run().await;
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(
        ran.err.contains("http.tokens") && ran.err.contains("allow_unauthenticated"),
        "{}",
        ran.err
    );
}

/// Whoever asks before there is any task finds the queue that tasks go to by default.
#[tokio::test]
async fn the_default_queue_is_there_before_its_first_task() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let port = replica.http_port();
    let json = [("Content-Type", "application/json")];
    let call = async |method: &str, path: &str, body: &str| request(port, method, path, &json, Some(body)).await;

    let listed = request(port, "GET", "/v1/queues", &[], None).await.json();
    assert_eq!(listed["items"][0]["name"], "default", "{listed}");
    let set = call("PATCH", "/v1/queues/default", "{\"max_running\":3}").await;
    assert_eq!((set.status, &set.json()["name"]), (200, &json!("default")));
    let whole = request(port, "GET", "/v1/queues", &[], None).await.json();
    assert_eq!(set.json(), whole["items"][0]);
    assert_eq!(
        (&set.json()["max_size"], &set.json()["max_running"]),
        (&json!(1000), &json!(3))
    );
    let paused = call("POST", "/v1/queues/default/pause", "{}").await;
    assert_eq!((paused.status, &paused.json()["paused"]), (200, &json!(true)));
    redis.trigger("held", &json!({ "task_name": "noop" })).await;
    redis.log().await.until_task(task_of("held"), "task.created").await;
    let resumed = call("POST", "/v1/queues/default/resume", "").await;
    assert_eq!((resumed.status, &resumed.json()["paused"]), (200, &json!(false)));
    redis.log().await.until_task(task_of("held"), "task.completed").await;
    assert_eq!(
        call("POST", "/v1/queues/other/pause", "{}").await.code(),
        "QueueNotFound"
    );
    let huge = call("PATCH", "/v1/queues/default", "{\"max_size\":18446744073709551615}").await;
    assert_eq!((huge.status, huge.code().as_str()), (422, "InvalidField"));
    check_all_ended(&redis).await;
}

/// A page of large tasks is short, and the list goes on behind it.
#[tokio::test]
async fn a_page_is_bounded_in_bytes_too() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let large = "x".repeat(900 << 10);
    let count = 12;
    for number in 0..count {
        redis
            .trigger(
                &format!("large-{number}"),
                &json!({ "task_name": "noop", "args": [large] }),
            )
            .await;
    }
    redis.log().await.until_count("task.completed", count).await;
    let (mut found, mut pages, mut path) = (0, 0, "/v1/tasks?limit=1000".to_owned());

    loop {
        let answer = request(replica.http_port(), "GET", &path, &[], None).await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.len() < 6 << 20, "{}", answer.body.len());
        let page = answer.json();
        found += page["items"].as_array().unwrap().len();
        pages += 1;
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("/v1/tasks?limit=1000&cursor={cursor}");
    }
    assert_eq!(found, count);
    assert!(pages > 2, "{pages}");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn who_writes_all_of_a_body_that_is_too_large_before_reading_is_told_so() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let piece = vec![b' '; 1 << 20];
    let head =
        "POST /v1/triggers HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n";

    for is_announced in [true, false] {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", replica.http_port()))
            .await
            .unwrap();
        let length = if is_announced {
            "Content-Length: 7340032"
        } else {
            "Transfer-Encoding: chunked"
        };
        stream
            .write_all(format!("{head}{length}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        for _ in 0..7 {
            if !is_announced {
                stream.write_all(b"100000\r\n").await.unwrap();
            }
            stream.write_all(&piece).await.unwrap();
            if !is_announced {
                stream.write_all(b"\r\n").await.unwrap();
            }
        }
        if !is_announced {
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();

        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("PayloadTooLarge"), "{answer}");
    }
}
