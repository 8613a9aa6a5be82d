//! Tasks that a service carries out: what it is sent, and what its answers mean.

use std::time::{Duration, Instant};

use base64::Engine as _;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use waooaw_orchestration::Task;

use crate::support::history::check_all_ended;
use crate::support::redis::{TestRedis, task_of};
use crate::support::service::{Answer, SLACK, Service};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const KEY: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn handler(name: &str, url: &str) -> String {
    format!("[handlers.{name}]\nkind = \"http\"\nurl = \"{url}\"\n")
}

#[tokio::test]
async fn a_task_is_posted_as_it_came_and_the_answer_is_its_result() {
    let redis = TestRedis::start().await;
    let service = Service::start(|_, _| Answer::new(200, "{\"z\":1, \"a\":12345678901234567890123}\n")).await;
    let config = handler("bill", &service.url("/bill?key=geheim7"))
        + "timeout_seconds = 60\n"
        + "headers = { Authorization = \"Bearer hunter2\", Content-Type = \"text/plain\", X-Team = \"a b\" }\n"
        + &format!("signing_secret = \"whsec_{KEY}\"\n")
        + &handler("plain", &service.url("/plain"));
    let _replica = redis.replica().config(&config).start().await;
    let payload = r#"{"task_name":"bill","args":[12345678901234567890123, 1e2],"kwargs":{"z":1.0,"a":[ ]},"workflow_id":"order-7","metadata":{"b":{},"a":1}}"#;
    let fields: [(&[u8], &[u8]); 6] = [
        (b"event_type", b"orchestration.task.trigger"),
        (b"source_agent", b"tester"),
        (b"event_id", b"e-1"),
        (b"traceparent", TRACE.as_bytes()),
        (b"tracestate", b"vendor=1"),
        (b"payload", payload.as_bytes()),
    ];

    redis.add("waooaw:triggers", &fields).await;
    redis.trigger("e-2", &json!({ "task_name": "plain" })).await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 2).await;

    let requests = service.requests();
    let request = requests
        .iter()
        .find(|request| request.path() == "/bill?key=geheim7")
        .unwrap();
    let completed = log
        .all("task.completed")
        .into_iter()
        .find(|event| event.text("task_name") == "bill");
    let completed = completed.unwrap();
    let id = completed.text("task_id");
    assert_eq!(request.line, "POST /bill?key=geheim7 HTTP/1.1");
    let deadline = request.json()["deadline"].as_str().unwrap().to_owned();
    let expected = format!(
        "{{\"task_id\":\"{id}\",\"attempt\":1,\"name\":\"bill\",\"args\":[12345678901234567890123, 1e2],\
         \"kwargs\":{{\"z\":1.0,\"a\":[ ]}},\"inputs\":{{}},\"workflow_id\":\"order-7\",\
         \"metadata\":{{\"b\":{{}},\"a\":1}},\"deadline\":\"{deadline}\"}}"
    );
    assert_eq!(request.body, expected);
    let started = log.of(id)[1].time_ms("started_at");
    let allowed_ms = crate::support::log::time_ms(&deadline) - started;
    assert!((59_000..=61_000).contains(&allowed_ms), "{allowed_ms}");
    for (name, value) in [
        ("idempotency-key", id),
        ("content-type", "application/json"),
        ("authorization", "Bearer hunter2"),
        ("x-team", "a b"),
        ("traceparent", TRACE),
        ("tracestate", "vendor=1"),
        ("webhook-id", id),
    ] {
        assert_eq!(request.headers[name], value, "{name}");
    }
    let timestamp = &request.headers["webhook-timestamp"];
    assert!(
        (timestamp.parse::<i64>().unwrap() - started / 1000).abs() <= 2,
        "{timestamp}"
    );
    let key = base64::engine::general_purpose::STANDARD.decode(KEY).unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{id}.{timestamp}.{}", request.body).as_bytes());
    let signature = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    assert_eq!(request.headers["webhook-signature"], format!("v1,{signature}"));
    assert!(completed.fields["payload"].contains("\"result\":{\"z\":1, \"a\":12345678901234567890123},"));

    let plain = requests.iter().find(|request| request.path() == "/plain").unwrap();
    assert_eq!(plain.json()["deadline"], json!(null));
    assert_eq!(plain.json()["workflow_id"], json!(null));
    assert!(
        plain
            .headers
            .keys()
            .all(|name| !name.starts_with("webhook-") && !name.starts_with("trace"))
    );
    check_all_ended(&redis).await;
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one table of answers")]
async fn each_answer_completes_the_task_or_ends_it_or_brings_it_back() {
    let redis = TestRedis::start().await;
    let service = Service::start(|request, _| {
        let again = |answer: Answer| {
            if request.json()["attempt"] == 1 {
                answer
            } else {
                Answer::new(200, "\"late\"")
            }
        };
        match request.path() {
            "/empty" => Answer::new(204, ""),
            "/blank" => Answer::new(200, " \n"),
            "/moved" => Answer::new(302, "").header("Location", "/stolen"),
            "/missing" => Answer::new(404, "no such thing as Bearer hunter2hunter2 or s3cretkey"),
            "/conflict" => Answer::new(409, "x".repeat(20_000) + "the end"),
            "/html" => Answer::new(200, "<html>sorry</html>"),
            "/big" => Answer::new(200, vec![b' '; 3 << 20]),
            "/large" => Answer::new(200, format!("\"{}\"", "x".repeat(100_000))),
            "/busy" => again(Answer::new(429, "").header("Retry-After", "2")),
            "/date" => again(
                Answer::new(503, "")
                    .header("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
                    .header("Retry-After", "Sun, 06 Nov 1994 08:49:39 GMT"),
            ),
            "/early" => again(Answer::new(425, "")),
            "/timeout" => again(Answer::new(408, "")),
            "/error" => again(Answer::new(500, "Traceback")),
            "/gateway" => again(Answer::new(502, "")),
            "/cut" => again(Answer::Cut),
            _ => Answer::new(200, "\"stolen\""),
        }
    })
    .await;
    let paths = [
        "empty", "blank", "moved", "missing", "conflict", "html", "big", "large", "busy", "date", "early", "timeout",
        "error", "gateway", "cut",
    ];
    let mut config = "[retry]\ndefault = { max_retries = 2, initial_delay_seconds = 0.1, jitter = 0 }\n".to_owned();
    for path in paths {
        config += &handler(path, &service.url(&format!("/{path}")));
        config += "headers = { Authorization = \"Bearer hunter2hunter2\" }\nsigning_secret = \"s3cretkey\"\n";
    }
    let replica = redis.replica().config(&config).start().await;

    redis
        .trigger_all(paths.map(|path| (path.to_owned(), json!({ "task_name": path }))))
        .await;
    let mut log = redis.log().await;
    log.until("all have ended", |log| {
        (log.events.iter().filter(|event| event.is_terminal()).count() == paths.len()).then_some(())
    })
    .await;

    let life = |path: &str| log.life(task_of(path)).join(" ");
    let last = |path: &str, kind: &str| {
        let subject = task_of(path).to_string();
        log.all(kind)
            .into_iter()
            .find(|event| event.subject == subject)
            .unwrap()
            .clone()
    };
    for path in ["empty", "blank", "large"] {
        assert_eq!(life(path), "created started completed", "{path}");
    }
    assert_eq!(last("empty", "task.completed").payload["result"], json!(null));
    assert_eq!(last("blank", "task.completed").payload["result"], json!(null));
    assert_eq!(last("large", "task.completed").payload["result_bytes"], 100_002);
    for (path, kind, message) in [
        ("moved", "handler_error", "302 Found; redirects are not followed"),
        ("missing", "handler_error", "404 Not Found: no such thing as *** or ***"),
        ("conflict", "handler_error", "409 Conflict: …xxx"),
        (
            "html",
            "invalid_result",
            "200 OK is no JSON (expected value at line 1 column 1): <html>sorry</html>",
        ),
        ("big", "result_too_large", "more than 1048576 bytes"),
    ] {
        assert_eq!(life(path), "created started failed dead_lettered", "{path}");
        let error = &last(path, "task.failed").payload["error"];
        assert_eq!(error["type"], kind, "{path}");
        assert!(error["message"].as_str().unwrap().contains(message), "{path}: {error}");
    }
    let conflict = last("conflict", "task.failed").payload["error"]["message"].clone();
    let conflict = conflict.as_str().unwrap();
    assert!(
        conflict.ends_with("xthe end") && conflict.len() < 8 << 10,
        "{}",
        conflict.len()
    );
    for (path, kind, delay) in [
        ("busy", "handler_error", 2.0),
        ("date", "handler_error", 2.0),
        ("early", "handler_error", 0.1),
        ("timeout", "handler_error", 0.1),
        ("error", "handler_error", 0.1),
        ("gateway", "handler_error", 0.1),
        ("cut", "connection_broken", 0.1),
    ] {
        assert_eq!(
            life(path),
            "created started retry_scheduled started completed",
            "{path}"
        );
        let retry = last(path, "task.retry_scheduled");
        assert_eq!(retry.payload["error"]["type"], kind, "{path}: {retry:?}");
        assert_eq!(retry.payload["delay_seconds"].as_f64(), Some(delay), "{path}");
        assert_eq!(last(path, "task.completed").payload["result"], "late");
    }
    let requests = service.requests();
    assert!(requests.iter().all(|request| request.path() != "/stolen"));
    let busy: Vec<Instant> = requests
        .iter()
        .filter(|request| request.path() == "/busy")
        .map(|request| request.came)
        .collect();
    assert!(busy[1] - busy[0] + SLACK >= Duration::from_secs(2));
    let all = log
        .events
        .iter()
        .map(|event| event.fields["payload"].clone())
        .collect::<String>();
    for secret in ["hunter2", "s3cretkey"] {
        assert!(!all.contains(secret) && !replica.log().contains(secret), "{secret}");
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_cancel_and_a_timeout_close_the_connection_at_once() {
    let redis = TestRedis::start().await;
    let service = Service::start(|_, _| Answer::Hang).await;
    let replica = redis
        .replica()
        .config(&handler("slow", &service.url("/")))
        .start()
        .await;
    let _other = redis
        .replica()
        .config(&handler("slow", &service.url("/")))
        .start()
        .await;
    let mut log = redis.log().await;

    redis.trigger("one", &json!({ "task_name": "slow" })).await;
    service.until_requests(1).await;
    redis.cancel("stop", task_of("one")).await;
    log.until_task(task_of("one"), "task.cancelled").await;
    let cancelled = Instant::now();
    let hung_up = service.until_hung_up(1).await;
    assert!(hung_up.saturating_duration_since(cancelled) < Duration::from_secs(2));

    let payload = json!({ "task_name": "slow", "timeout_seconds": 0.5, "max_retries": 0 });
    redis.trigger("two", &payload).await;
    log.until_task(task_of("two"), "task.timeout").await;
    let expired = Instant::now();
    let hung_up = service.until_hung_up(2).await;
    assert!(hung_up.saturating_duration_since(expired) < Duration::from_secs(2));
    drop(replica);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn link_local_addresses_are_refused_and_no_payload_names_another() {
    let redis = TestRedis::start().await;
    let service = Service::start(|_, _| Answer::new(200, "1")).await;
    let config = handler("metadata", "http://169.254.169.254/latest")
        + &handler("mapped", "http://[::ffff:169.254.169.254]:80/")
        + &handler("decimal", "http://2852039166/")
        + &handler("local", "http://[fe80::1]/")
        + &handler("fine", &service.url("/fine"));
    let _replica = redis.replica().config(&config).start().await;
    let refused = ["metadata", "mapped", "decimal", "local"];

    for name in refused {
        redis.trigger(name, &json!({ "task_name": name })).await;
    }
    let elsewhere = json!({ "url": "http://127.0.0.1:1/", "headers": { "Host": "elsewhere" } });
    let payload = json!({ "task_name": "fine", "kwargs": elsewhere, "metadata": elsewhere });
    redis.trigger("fine", &payload).await;
    let mut log = redis.log().await;
    for name in refused {
        let failed = log.until_task(task_of(name), "task.failed").await;
        assert_eq!(failed.payload["error"]["type"], "forbidden_address", "{name}");
        assert_eq!(failed.payload["attempts"], 1);
    }
    log.until_task(task_of("fine"), "task.completed").await;

    assert_eq!(service.requests()[0].path(), "/fine");
    assert_ne!(service.requests()[0].headers["host"], "elsewhere");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_secure_service_without_a_trusted_certificate_is_not_spoken_to() {
    let redis = TestRedis::start().await;
    // It answers plain text where a handshake should begin.
    let service = Service::start(|_, _| Answer::Cut).await;
    let url = service.url("/").replace("http:", "https:");
    let _replica = redis.replica().config(&handler("secure", &url)).start().await;

    redis
        .trigger(
            "one",
            &json!({ "task_name": "secure", "max_retries": 0, "timeout_seconds": 5 }),
        )
        .await;
    let mut log = redis.log().await;
    log.until("it has ended", |log| {
        log.events.iter().find(|event| event.is_terminal()).map(|_| ())
    })
    .await;

    assert_eq!(service.requests().len(), 0);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_task_made_by_somebody_who_does_not_know_the_handler_has_its_timeout() {
    let redis = TestRedis::start().await;
    let service = Service::start(|_, _| Answer::Hang).await;
    let config = handler("slow", &service.url("/")) + "timeout_seconds = 0.4\n";
    let _replica = redis.replica().config(&config).start().await;
    let task = Task::new("slow").retry("QUICK".parse().unwrap());

    let id = redis.queue().await.enqueue(task).await.unwrap();

    let mut log = redis.log().await;
    let ended = log.until_task(id, "task.timeout").await;
    assert_eq!(ended.payload["attempts"], 4);
    assert!(service.requests()[0].json()["deadline"].is_string());
    check_all_ended(&redis).await;
}
