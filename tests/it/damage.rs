//! What somebody wrote past the functions stops nothing but what it is about, and is named.

use serde_json::json;

use crate::support::cli::Cli;
use crate::support::history::check_all_ended;
use crate::support::redis::{TestRedis, task_of};
use crate::support::replica::ask;
use crate::support::{holds, wait_for};

#[tokio::test]
async fn a_list_names_tasks_with_damaged_records_and_shows_the_others() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let mut log = redis.log().await;
    for number in 0..4 {
        redis
            .trigger(&format!("e-{number}"), &json!({ "task_name": "noop" }))
            .await;
    }
    log.until_count("task.completed", 4).await;
    let [first, cut, other, last] = [0, 1, 2, 3].map(|number| task_of(&format!("e-{number}")).to_string());
    redis
        .ask::<()>(&["SET", &format!("waooaw:{{0}}:t:{cut}"), "no record"])
        .await;
    let key = format!("waooaw:{{0}}:t:{other}");
    redis.ask::<usize>(&["DEL", &key]).await;
    redis.ask::<usize>(&["HSET", &key, "no", "record"]).await;

    let listed = Cli::on(&redis, &["task", "list", "--output", "json"]).json().await;
    let (status, over_http) = ask(replica.http_port(), "GET", "/v1/tasks", None, None).await.unwrap();
    let told = Cli::on(&redis, &["task", "list"]).run().await.expect(0);

    assert_eq!((status, &over_http), (200, &listed));
    let names: Vec<&str> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["task_id"].as_str().unwrap())
        .collect();
    assert_eq!(names, [&*last, &*first]);
    assert_eq!(listed["damaged"], json!([other, cut]));
    assert!(told.out.contains(&first) && told.out.contains(&last), "{told:?}");
    for damaged in [&cut, &other] {
        let line = format!("task {damaged} is left out: its record is damaged");
        assert!(told.err.contains(&line), "{told:?}");
    }
}

#[tokio::test]
async fn a_queue_whose_stream_is_none_stands_still_alone_and_is_named_until_it_is_mended() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().set("WAOOAW_METRICS__SNAPSHOT_INTERVAL", "1s");
    let replica = settings.start().await;
    let mut log = redis.log().await;
    let sleeper = json!({ "task_name": "sleep", "kwargs": { "ms": 1500 }, "queue": "bad" });
    redis.trigger("runs", &sleeper).await;
    log.until_task(task_of("runs"), "task.started").await;
    let key = "waooaw:{0}:queue:bad:normal";
    redis.ask::<()>(&["SET", key, "not mine"]).await;

    let of_bad = json!({ "task_name": "noop", "queue": "bad" });
    let delayed = json!({ "task_name": "noop", "queue": "bad", "delay_seconds": 0.2 });
    redis
        .trigger_all([
            ("waits".to_owned(), of_bad),
            ("delayed".to_owned(), delayed),
            ("good".to_owned(), json!({ "task_name": "noop" })),
            (
                "later".to_owned(),
                json!({ "task_name": "noop", "delay_seconds": 0.5, "priority": "LOW" }),
            ),
        ])
        .await;
    for event_id in ["good", "later", "runs"] {
        log.until_task(task_of(event_id), "task.completed").await;
    }
    wait_for("a replica says what is wrong", async || {
        let said = replica.log();
        let is_named = said
            .lines()
            .any(|line| line.contains("ERROR") && line.contains(key) && line.contains("doctor --repair"));
        holds(is_named, || said)
    })
    .await;
    let listed = Cli::on(&redis, &["task", "list", "--state", "pending", "--output", "json"])
        .json()
        .await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2, "{listed}");
    for words in [
        &["queue", "list"][..],
        &["stats"],
        &["workers", "list"],
        &["task", "explain", &task_of("waits").to_string()],
    ] {
        Cli::on(&redis, words).run().await.expect(0);
    }
    let sick = Cli::on(&redis, &["doctor", "--output", "json"])
        .run()
        .await
        .expect(1)
        .json();
    let failed: Vec<&serde_json::Value> = sick["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["status"] == "fail")
        .collect();
    assert_eq!((failed.len(), &failed[0]["name"]), (1, &json!("streams")), "{sick}");
    assert!(failed[0]["message"].as_str().unwrap().contains(key), "{sick}");

    redis.ask::<usize>(&["DEL", key]).await;
    Cli::on(&redis, &["doctor", "--repair", "--yes"]).run().await.expect(0);
    for event_id in ["waits", "delayed"] {
        log.until_task(task_of(event_id), "task.completed").await;
    }
    check_all_ended(&redis).await;
}
