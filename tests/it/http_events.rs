//! The log over HTTP: pages by query, and live with resume, words of gaps, and many who listen.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::history::check_all_ended;
use crate::support::http::{Stream, request};
use crate::support::redis::{TestRedis, task_of};
use crate::support::replica::ReplicaProcess;
use crate::support::{holds, wait_within};

async fn page(replica: &ReplicaProcess, query: &str) -> Value {
    let answer = request(replica.http_port(), "GET", &format!("/v1/events?{query}"), &[], None).await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    answer.json()
}

fn ids(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect()
}

/// Runs a task of nothing under this event and waits for its end.
async fn run(redis: &TestRedis, event_id: &str) {
    redis.trigger(event_id, &json!({ "task_name": "noop" })).await;
    redis.log().await.until_task(task_of(event_id), "task.completed").await;
}

#[tokio::test]
async fn the_log_is_paged_by_each_part_of_a_query() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    for event_id in ["a", "b", "c"] {
        run(&redis, event_id).await;
    }
    let log = redis.log().await;
    let all: Vec<String> = log.events.iter().map(|event| event.event_id.clone()).collect();

    assert_eq!(ids(&page(&replica, "").await), all);
    let first = page(&replica, "limit=4").await;
    assert_eq!(ids(&first), all[..4]);
    let next = first["next_cursor"].as_str().unwrap();
    assert_eq!(ids(&page(&replica, &format!("after={next}")).await), all[4..]);
    assert_eq!(ids(&page(&replica, &format!("cursor={next}&limit=1")).await), all[4..5]);
    let subject = task_of("b").to_string();
    let of_b: Vec<String> = all.iter().filter(|id| id.starts_with(&subject)).cloned().collect();
    assert_eq!(ids(&page(&replica, &format!("subject={subject}")).await), of_b);
    let completed = page(&replica, "type=orchestration.task.completed").await;
    assert_eq!(completed["items"].as_array().unwrap().len(), 3);
    let several = page(
        &replica,
        "type=orchestration.task.completed,orchestration.worker_pool.*",
    )
    .await;
    assert_eq!(several["items"].as_array().unwrap().len(), 4, "{several}");
    let any = page(&replica, "type=orchestration.worker_pool.*").await;
    assert_eq!(any["items"][0]["payload"]["state"], "joined");
    // Between the moments of the second task's first and last event.
    let moment = |id: &str| log.events.iter().find(|event| event.event_id == id).unwrap().fields["timestamp"].clone();
    let (from, to) = (moment(&of_b[0]), moment(of_b.last().unwrap()));
    let between = ids(&page(&replica, &format!("from={from}&to={to}")).await);
    assert!(of_b.iter().all(|id| between.contains(id)), "{between:?}");
    assert!(ids(&page(&replica, "to=2020-01-01T00:00:00Z").await).is_empty());
    assert!(ids(&page(&replica, "from=2099-01-01T00:00:00Z").await).is_empty());
    // Where a list ended, what comes later begins.
    let end = page(&replica, "").await;
    assert_eq!((&end["next_cursor"], &end["gap"]), (&Value::Null, &json!(false)));
    run(&redis, "later").await;
    let after = end["resume_after"].as_str().unwrap();
    let later = ids(&page(&replica, &format!("after={after}")).await);
    assert!(
        later.iter().all(|id| id.starts_with(&task_of("later").to_string())) && later.len() == 3,
        "{later:?}"
    );

    let cloud = page(&replica, &format!("subject={subject}&format=cloudevents")).await;
    let (cloud, native) = (
        &cloud["items"][2],
        &page(&replica, &format!("subject={subject}")).await["items"][2],
    );
    for (name, own) in [
        ("id", "event_id"),
        ("source", "source_agent"),
        ("type", "event_type"),
        ("time", "timestamp"),
        ("correlationid", "correlation_id"),
        ("causationid", "causation_id"),
        ("data", "payload"),
    ] {
        assert_eq!(cloud[name], native[own], "{name}");
    }
    assert_eq!(
        (&cloud["specversion"], &cloud["subject"]),
        (&json!("1.0"), &json!(subject))
    );
    // What we say can be said to us.
    let echoed = json!({ "specversion": "1.0", "id": "c", "source": "test", "type": "orchestration.task.trigger", "data": { "task_name": "noop" } });
    let headers = [("Content-Type", "application/cloudevents+json")];
    let port = replica.http_port();
    let taken = request(port, "POST", "/v1/triggers", &headers, Some(&echoed.to_string())).await;
    assert_eq!((taken.status, &taken.json()["event_id"]), (202, &json!("c")));
    for wrong in [
        "after=x",
        "limit=0",
        "limit=1001",
        "from=yesterday",
        "format=xml",
        "type=",
        "type=a,",
        "what=1",
    ] {
        let answer = request(port, "GET", &format!("/v1/events?{wrong}"), &[], None).await;
        let is_fine = wrong == "type=";
        assert_eq!(answer.status, if is_fine { 200 } else { 422 }, "{wrong}: {answer:?}");
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_stream_goes_on_where_it_broke_off() {
    let redis = TestRedis::start().await;
    let mut replica = redis.replica().start().await;
    let port = replica.http_port();
    let path = "/v1/events?type=orchestration.task.*";
    let mut stream = Stream::open(port, path, "").await;
    stream.until("retry: 2000").await;
    run(&redis, "a").await;
    let seen = stream.until("orchestration.task.completed").await;
    let last = seen
        .rsplit("id: ")
        .next()
        .unwrap()
        .split('\n')
        .next()
        .unwrap()
        .to_owned();
    drop(stream);
    run(&redis, "b").await;
    run(&redis, "c").await;

    let mut stream = Stream::open(port, path, &format!("Last-Event-ID: {last}\r\n")).await;
    stream.until("orchestration.task.completed").await;
    stream.until("orchestration.task.completed").await;
    let (b, c) = (task_of("b").to_string(), task_of("c").to_string());
    let expected: Vec<String> = [&b, &c]
        .iter()
        .flat_map(|id| (1..=3).map(move |seq| format!("{id}/{seq}")))
        .collect();
    let told = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let events = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter_map(|event| Some(event["event_id"].as_str()?.to_owned()))
            .collect()
    };
    stream.until("\n\n").await;
    assert_eq!(told(&stream.seen), expected);
    assert!(!stream.seen.contains("event: gap"), "{}", stream.seen);
    // From the beginning, as another form.
    let mut whole = Stream::open(port, &format!("{path}&after=0&format=cloudevents"), "").await;
    for _ in 0..3 {
        whole.until("\"type\":\"orchestration.task.completed\"").await;
    }

    // A replica that stops says so, and the stream ends well.
    replica.signal("TERM");
    stream.until("event: bye").await;
    stream.until_end().await;
    assert!(stream.seen.ends_with("0\r\n\r\n"), "{}", stream.seen);
    assert!(replica.ended().await.success());
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn who_was_away_for_too_long_is_told_of_the_gap() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let port = replica.http_port();
    for event_id in ["a", "b", "c"] {
        run(&redis, event_id).await;
    }
    let entry = async |event_id: &str| {
        let found = page(&replica, &format!("subject={}", task_of(event_id))).await;
        found["items"][2]["entry_id"].as_str().unwrap().to_owned()
    };
    let (first, second) = (entry("a").await, entry("b").await);
    // As retention does it.
    let _: u64 = redis
        .ask(&["XTRIM", "waooaw:{0}:events", "MINID", &next(&second)])
        .await;
    let _: u64 = redis.ask(&["HSET", "waooaw:{0}:meta", "trimmed_to", &second]).await;

    let mut stream = Stream::open(port, "/v1/events", &format!("Last-Event-ID: {first}\r\n")).await;
    let told = stream.until(&format!("{}/1", task_of("c"))).await;
    let gap = told.split("event: gap\ndata: ").nth(1).unwrap().lines().next().unwrap();
    let gap: Value = serde_json::from_str(gap).unwrap();
    assert_eq!(
        gap,
        json!({ "reason": "trimmed", "requested": first, "continues_after": second })
    );
    let page = page(&replica, &format!("after={first}")).await;
    assert_eq!(page["gap"], true);
    // A place that is not reached yet is one that Redis has lost.
    let mut ahead = Stream::open(port, "/v1/events", "Last-Event-ID: 99999999999999-0\r\n").await;
    let told = ahead.until("\"reason\":\"rolled_back\"").await;
    assert!(told.contains("event: gap"), "{told}");
}

/// The entry id behind another.
fn next(id: &str) -> String {
    let (ms, number) = id.split_once('-').unwrap();
    format!("{ms}-{}", number.parse::<u64>().unwrap() + 1)
}

/// What a process keeps in memory, in KiB.
fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How long it takes until so many tasks are done.
async fn work(redis: &TestRedis, name: &str, count: usize) -> Duration {
    let done = redis.log().await.count("task.completed");
    let began = Instant::now();
    let triggers = (0..count).map(|number| (format!("{name}-{number}"), json!({ "task_name": "noop" })));
    redis.trigger_all(triggers).await;
    wait_within(Duration::from_secs(60), "the tasks are done", async || {
        let log = redis.log().await;
        holds(log.count("task.completed") == done + count, || log.summary())
    })
    .await;
    began.elapsed()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_thousand_who_listen_and_one_who_does_not_read_cost_little() {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let clients = limit.maximum.map_or(1000, |files| files.saturating_sub(200).min(1000));
    let redis = TestRedis::start().await;
    let mut replica = redis.replica().start().await;
    let (port, process) = (replica.http_port(), replica.process());
    let alone = work(&redis, "alone", 300).await;
    let before_kib = resident_kib(process);

    let mut idle = Vec::new();
    for _ in 0..clients {
        let mut stream = Stream::open(port, "/v1/events?type=orchestration.saga.*", "").await;
        stream.until("retry: 2000").await;
        idle.push(stream);
    }
    let idle_kib = resident_kib(process).saturating_sub(before_kib);
    // Those who see every event beside those who see none.
    let mut eager = Stream::open(port, "/v1/events", "").await;
    eager.until("retry: 2000").await;
    let slow = Stream::open(port, "/v1/events", "").await;
    let watched = work(&redis, "watched", 300).await;
    // Far more than sockets take: results of 50 KiB.
    let large = "x".repeat(50 << 10);
    let triggers = (0..400).map(|number| {
        (
            format!("large-{number}"),
            json!({ "task_name": "echo", "args": [large] }),
        )
    });
    redis.trigger_all(triggers).await;
    let last = task_of("large-399").to_string();
    eager.until(&format!("{last}/3")).await;
    check_all_ended(&redis).await;
    let loaded_kib = resident_kib(process).saturating_sub(before_kib);
    let why = format!(
        "{clients} idle clients cost {idle_kib} KiB, with a slow one and 20 MiB of events {loaded_kib} KiB; 300 tasks took \
         {alone:?} without them and {watched:?} with them"
    );
    eprintln!("{why}");
    assert!(idle_kib < 64 << 10, "{why}");
    assert!(loaded_kib < 192 << 10, "{why}");
    assert!(watched < alone * 5 + Duration::from_secs(5), "{why}");
    // The others live, and see what is theirs.
    let saga = json!({ "saga_id": "s", "steps": [{ "name": "one", "action": "noop" }] }).to_string();
    let fields = [
        (&b"event_type"[..], &b"orchestration.saga.start"[..]),
        (b"source_agent", b"test"),
        (b"payload", saga.as_bytes()),
    ];
    redis.add("waooaw:triggers", &fields).await;
    for stream in &mut idle {
        stream.until("orchestration.saga.completed").await;
    }

    let began = Instant::now();
    replica.signal("TERM");
    for stream in &mut idle {
        stream.until("event: bye").await;
        stream.until_end().await;
    }
    assert!(replica.ended().await.success());
    let took = began.elapsed();
    eprintln!("it stopped within {took:?}, the slow one still not reading");
    assert!(took < Duration::from_secs(25), "{took:?}");
    drop(slow);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_stream_waits_out_an_outage() {
    let redis = TestRedis::start_durable().await;
    let replica = redis.replica().start().await;
    let mut stream = Stream::open(replica.http_port(), "/v1/events?type=orchestration.task.completed", "").await;
    stream.until("retry: 2000").await;
    run(&redis, "before").await;
    stream.until(&format!("{}/3", task_of("before"))).await;

    redis.stop().await;
    redis.start_again().await;
    replica.until_readiness(200, Duration::from_secs(30)).await;
    run(&redis, "after").await;
    stream.until(&format!("{}/3", task_of("after"))).await;
    check_all_ended(&redis).await;
}
