//! The HTTP interface: what each route does, and to whom it answers.

use serde_json::{Value, json};

use crate::support::history::check_all_ended;
use crate::support::redis::{TestRedis, task_of};
use crate::support::replica::{ReplicaProcess, ask};

/// Sends a request without a token.
async fn call(replica: &ReplicaProcess, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    let body = body.map(Value::to_string);
    ask(replica.http_port(), method, path, None, body.as_deref())
        .await
        .unwrap()
}

async fn get(replica: &ReplicaProcess, path: &str) -> Value {
    let (status, body) = call(replica, "GET", path, None).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

async fn post(replica: &ReplicaProcess, path: &str, body: &Value) -> Value {
    let (status, answer) = call(replica, "POST", path, Some(body)).await;
    assert!((200..300).contains(&status), "{path}: {status} {answer}");
    answer
}

fn envelope(event_type: &str, event_id: &str, payload: &Value) -> Value {
    json!({ "event_type": event_type, "source_agent": "shop", "event_id": event_id, "payload": payload })
}

fn trigger(event_id: &str, payload: &Value) -> Value {
    envelope("orchestration.task.trigger", event_id, payload)
}

#[tokio::test]
async fn a_task_is_triggered_looked_at_and_cancelled() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let add = trigger("once", &json!({ "task_name": "add", "args": [5, 3] }));

    let accepted = post(&replica, "/v1/triggers", &add).await;
    assert_eq!(accepted["created"], true);
    let id = accepted["task_id"].as_str().unwrap().to_owned();
    assert_eq!(post(&replica, "/v1/triggers", &add).await["created"], false);
    log.until_task(id.parse().unwrap(), "task.completed").await;
    let task = get(&replica, &format!("/v1/tasks/{id}")).await;
    assert_eq!(
        (&task["state"], &task["result"], &task["trigger_event_id"]),
        (&json!("COMPLETED"), &json!(8), &json!("once"))
    );
    let events = get(&replica, &format!("/v1/tasks/{id}/events")).await;
    assert_eq!(events["items"].as_array().unwrap().len(), 3);
    assert_eq!(events["complete"], true);
    let listed = get(&replica, "/v1/tasks?state=completed&trigger_event_id=once").await;
    assert_eq!(listed["items"][0]["task_id"], id.as_str());

    let slow = trigger("long", &json!({ "task_name": "sleep", "args": [60000] }));
    let slow = post(&replica, "/v1/triggers", &slow).await;
    let slow = slow["task_id"].as_str().unwrap();
    log.until_task(slow.parse().unwrap(), "task.started").await;
    let why = get(&replica, &format!("/v1/tasks/{slow}/explain")).await;
    assert_eq!(why["state"], "RUNNING");
    post(
        &replica,
        &format!("/v1/tasks/{slow}/cancel"),
        &json!({ "reason": "enough" }),
    )
    .await;
    log.until_task(slow.parse().unwrap(), "task.cancelled").await;
    let (status, again) = call(&replica, "POST", &format!("/v1/tasks/{slow}/cancel"), None).await;
    assert_eq!((status, again["code"].as_str()), (409, Some("InvalidTransition")));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn workflows_and_sagas_are_started_shown_and_ended() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let tasks = json!([
        { "task_id": "a", "name": "echo", "args": [1] },
        { "task_id": "b", "name": "echo", "dependencies": ["a"] },
    ]);
    let workflow = json!({ "workflow_id": "w", "tasks": tasks });

    let plan = post(&replica, "/v1/workflows/plan", &workflow).await;
    assert_eq!(plan["execution_batches"], json!([["a"], ["b"]]));
    let started = envelope("orchestration.workflow.start", "w-start", &workflow);
    assert_eq!(post(&replica, "/v1/triggers", &started).await["workflow_id"], "w");
    log.until_count("workflow.completed", 1).await;
    assert_eq!(get(&replica, "/v1/workflows/w").await["state"], "COMPLETED");
    let listed = get(&replica, "/v1/workflows/w/tasks").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);

    let steps = json!([
        { "name": "hotel", "action": "echo", "compensation": "echo" },
        { "name": "wait", "action": "sleep", "args": [60000] },
    ]);
    let saga = envelope(
        "orchestration.saga.start",
        "s-start",
        &json!({ "saga_id": "s", "steps": steps }),
    );
    assert_eq!(post(&replica, "/v1/triggers", &saga).await["saga_id"], "s");
    log.until_count("saga.step_started", 2).await;
    post(&replica, "/v1/sagas/s/cancel", &json!({})).await;
    log.until_count("saga.compensated", 1).await;
    let saga = get(&replica, "/v1/sagas/s").await;
    assert_eq!(
        (&saga["state"], &saga["compensated_steps"]),
        (&json!("COMPENSATED"), &json!(["wait", "hotel"]))
    );
    let (status, refused) = call(&replica, "POST", "/v1/sagas/s/resume", None).await;
    assert_eq!((status, refused["code"].as_str()), (409, Some("InvalidTransition")));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn dead_letters_queues_workers_and_figures_are_operated() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().workers(3).start().await;
    let mut log = redis.log().await;
    let hopeless = json!({ "task_name": "fail", "kwargs": { "message": "no luck", "permanent": true } });
    for event_id in ["f-1", "f-2"] {
        post(&replica, "/v1/triggers", &trigger(event_id, &hopeless)).await;
    }
    log.until_count("task.dead_lettered", 2).await;

    let list = get(&replica, "/v1/dead-letters?limit=1").await;
    let first = list["items"][0]["dead_letter_id"].as_str().unwrap().to_owned();
    let cursor = list["next_cursor"].as_str().unwrap();
    let rest = get(&replica, &format!("/v1/dead-letters?cursor={cursor}")).await;
    let second = rest["items"][0]["dead_letter_id"].as_str().unwrap().to_owned();
    assert_eq!(
        get(&replica, &format!("/v1/dead-letters/{first}")).await["kind"],
        "task"
    );
    let requeued = post(
        &replica,
        &format!("/v1/dead-letters/{first}/requeue"),
        &json!({ "actor": "ops", "retry": "QUICK" }),
    )
    .await;
    assert_eq!(requeued["life"], 2);
    log.until_count("task.dead_lettered", 3).await;
    let path = format!("/v1/dead-letters/{second}");
    assert_eq!(call(&replica, "DELETE", &path, None).await.0, 204);
    assert_eq!(call(&replica, "GET", &path, None).await.0, 404);

    post(&replica, "/v1/queues/default/pause", &json!({ "reason": "a look" })).await;
    assert_eq!(get(&replica, "/v1/queues").await["items"][0]["paused"], true);
    post(&replica, "/v1/queues/default/resume", &json!({})).await;
    let limits = json!({ "max_running": 7 });
    let (code, _) = call(&replica, "PATCH", "/v1/queues/default", Some(&limits)).await;
    assert_eq!(code, 200);
    let figures = get(&replica, "/v1/stats").await;
    assert_eq!(
        (&figures["max_running"], &figures["failed_count"]),
        (&json!(7), &json!(3))
    );

    let (status, full) = call(&replica, "POST", "/v1/workers/scale", Some(&json!({ "add": 1 }))).await;
    assert_eq!((status, full["code"].as_str()), (409, Some("WorkerPoolFull")));
    let scaled = post(&replica, "/v1/workers/scale", &json!({ "remove": 1 })).await;
    assert_eq!(scaled["items"][0]["workers"], 2, "{scaled}");
    let workers = get(&replica, "/v1/workers").await;
    let worker = workers["items"][0]["worker_id"].as_str().unwrap();
    assert_eq!(
        get(&replica, &format!("/v1/workers/{worker}")).await["worker_id"],
        worker
    );
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_is_wrong_has_its_code_and_names_the_field() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let unknown = trigger("u", &json!({ "task_name": "nobody_knows" }));
    let extra = trigger("x", &json!({ "task_name": "echo", "argz": [] }));
    let ring = json!({ "tasks": [
        { "task_id": "a", "name": "echo", "dependencies": ["b"] },
        { "task_id": "b", "name": "echo", "dependencies": ["a"] },
    ] });
    let stop = envelope("orchestration.workflow.stop", "st", &json!({ "workflow_id": "none" }));
    for (method, path, body, status, code) in [
        ("GET", "/v1/tasks/none", None, 404, "TaskNotFound"),
        ("GET", "/v1/workflows/none", None, 404, "WorkflowNotFound"),
        ("GET", "/v1/sagas/none", None, 404, "SagaNotFound"),
        ("GET", "/v1/dead-letters/none", None, 404, "DeadLetterNotFound"),
        ("GET", "/v1/workers/none", None, 404, "WorkerNotFound"),
        ("POST", "/v1/queues/none/pause", None, 404, "QueueNotFound"),
        ("GET", "/nowhere", None, 404, "NotFound"),
        ("DELETE", "/v1/stats", None, 405, "MethodNotAllowed"),
        ("GET", "/v1/tasks?limit=0", None, 422, "InvalidField"),
        ("GET", "/v1/tasks?what=1", None, 422, "InvalidField"),
        ("POST", "/v1/triggers", Some(&unknown), 422, "UnknownTask"),
        ("POST", "/v1/triggers", Some(&extra), 422, "InvalidField"),
        ("POST", "/v1/triggers", Some(&stop), 422, "InvalidField"),
        ("POST", "/v1/commands", Some(&stop), 404, "WorkflowNotFound"),
        ("POST", "/v1/workflows/plan", Some(&ring), 422, "CyclicDependency"),
        ("POST", "/v1/workers/scale", Some(&json!({})), 422, "InvalidField"),
    ] {
        let (got, problem) = call(&replica, method, path, body).await;
        assert_eq!(
            (got, problem["code"].as_str()),
            (status, Some(code)),
            "{method} {path}: {problem}"
        );
        assert_eq!(problem["status"], status, "{method} {path}: {problem}");
    }
    let (_, problem) = call(&replica, "POST", "/v1/triggers", Some(&extra)).await;
    assert!(problem["errors"].to_string().contains("argz"), "{problem}");
    let (_, problem) = call(&replica, "POST", "/v1/workflows/plan", Some(&ring)).await;
    assert_eq!(problem["cycle"], json!(["a", "b", "a"]));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn no_route_takes_a_parameter_that_it_does_not_know() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let document = get(&replica, "/openapi.json").await;
    let routes = document["paths"].as_object().unwrap().iter();
    let routes =
        routes.flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(move |method| (path, method)));

    let mut looked = 0;
    for (path, method) in routes.filter(|(path, _)| path.starts_with("/v1/")) {
        let path = path.replace(['{', '}'], "");
        let (status, problem) = call(&replica, &method.to_uppercase(), &format!("{path}?whot=1"), None).await;
        assert_eq!(
            (status, problem["code"].as_str()),
            (422, Some("InvalidField")),
            "{method} {path}"
        );
        assert_eq!(problem["errors"][0]["field"], "whot", "{method} {path}: {problem}");
        looked += 1;
    }

    assert!(looked > 30, "{looked}");
    // What probes and scrapers add is let pass.
    assert_eq!(call(&replica, "GET", "/healthz?whot=1", None).await.0, 200);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn queues_come_in_pages() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    for queue in ["b", "a", "c"] {
        redis
            .trigger(queue, &json!({ "task_name": "noop", "queue": queue }))
            .await;
        redis.log().await.until_task(task_of(queue), "task.completed").await;
    }

    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(&replica, &format!("/v1/queues?limit=3&cursor={cursor}")).await;
        names.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|queue| queue["name"].clone()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }

    assert_eq!(names, ["a", "b", "c", "default"]);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_token_opens_what_its_role_may() {
    let redis = TestRedis::start().await;
    let config = r#"
        [[http.tokens]]
        token = "reader-0123456789abcdef0123456789abcdef"
        role = "read"
        [[http.tokens]]
        token = "sender-0123456789abcdef0123456789abcdef"
        role = "trigger"
        [[http.tokens]]
        token = "master-0123456789abcdef0123456789abcdef"
        role = "admin"
    "#;
    let replica = redis.replica().config(config).start().await;
    let port = replica.http_port();
    let tokens = [None, Some("wrong"), Some("reader"), Some("sender"), Some("master")];
    let whole = |token: &str| format!("{token}-0123456789abcdef0123456789abcdef");
    let body = trigger("t", &json!({ "task_name": "noop" })).to_string();
    for (method, path, body, expected) in [
        ("GET", "/healthz", None, [200, 200, 200, 200, 200]),
        ("GET", "/v1/stats", None, [401, 401, 200, 200, 200]),
        ("GET", "/v1/scale", None, [401, 401, 200, 200, 200]),
        ("GET", "/metrics", None, [401, 401, 200, 200, 200]),
        ("POST", "/v1/triggers", Some(&*body), [401, 401, 403, 202, 202]),
        ("POST", "/v1/queues/default/pause", None, [401, 401, 403, 403, 200]),
        ("DELETE", "/v1/dead-letters/none", None, [401, 401, 403, 403, 404]),
        ("GET", "/nowhere", None, [401, 401, 404, 404, 404]),
    ] {
        for (token, expected) in tokens.iter().zip(expected) {
            let token = token.map(whole);
            let (status, answer) = ask(port, method, path, token.as_deref(), body).await.unwrap();
            assert_eq!(status, expected, "{method} {path} {token:?}: {answer}");
        }
    }
    let log = replica.log();
    assert!(!log.contains("0123456789abcdef"), "{log}");
}

#[tokio::test]
async fn events_are_paged_and_followed_live() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let redis = TestRedis::start().await;
    let mut replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", replica.http_port()))
        .await
        .unwrap();
    let request =
        "GET /v1/events?type=orchestration.task.* HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let mut until = async |what: &str| {
        let mut bytes = [0; 4096];
        while !seen.contains(what) {
            let read = tokio::time::timeout(crate::support::PATIENCE, stream.read(&mut bytes));
            let count = read.await.expect(what).unwrap();
            assert!(count > 0, "the stream ended before `{what}`: {seen}");
            seen.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        seen.clone()
    };
    until("retry: 2000").await;

    post(
        &replica,
        "/v1/triggers",
        &trigger("live", &json!({ "task_name": "noop" })),
    )
    .await;
    until("orchestration.task.completed").await;
    log.until_count("task.completed", 1).await;
    let mut found = Vec::new();
    let mut path = "/v1/events?type=orchestration.task.*&limit=1".to_owned();
    loop {
        let page = get(&replica, &path).await;
        found.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|event| event["event_type"].clone()),
        );
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("/v1/events?type=orchestration.task.*&limit=1&after={cursor}");
    }
    assert_eq!(
        found,
        [
            "orchestration.task.created",
            "orchestration.task.started",
            "orchestration.task.completed"
        ]
    );
    let cloud = get(
        &replica,
        "/v1/events?type=orchestration.task.created&format=cloudevents",
    )
    .await;
    assert_eq!(cloud["items"][0]["specversion"], "1.0");
    let (status, refused) = call(&replica, "GET", "/v1/events?after=nonsense", None).await;
    assert_eq!((status, refused["code"].as_str()), (422, Some("InvalidField")));

    replica.signal("TERM");
    until("event: bye").await;
    assert!(replica.ended().await.success());
    check_all_ended(&redis).await;
}
