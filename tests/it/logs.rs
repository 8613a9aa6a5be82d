//! What happens to a replica whose log nobody takes.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::support::history::check_all_ended;
use crate::support::redis::{TestRedis, free_port, task_of};
use crate::support::replica::{get, signal};
use crate::support::{holds, wait_for};

/// Ends a process with the test.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

/// A replica that has much to say, to a pipe.
async fn talkative(redis: &TestRedis) -> (Owned, u16) {
    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    let replica = Command::new(env!("CARGO_BIN_EXE_waooaw"))
        .args(["serve", "--builtin", "--redis-url", &redis.url(), "--http-addr"])
        .arg(format!("127.0.0.1:{port}"))
        .env("WAOOAW_TELEMETRY__LOG_LEVEL", "debug")
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let replica = Owned(replica);
    wait_for("it is ready", async || {
        let answer = get(port, "/readyz").await;
        holds(answer.as_ref().is_some_and(|(status, _)| *status == 200), || {
            format!("{answer:?}")
        })
    })
    .await;
    (replica, port)
}

/// More lines than a pipe and the queue before it hold.
async fn give_it_something_to_say(redis: &TestRedis) {
    redis
        .trigger_all((0..4000).map(|number| (format!("e-{number}"), json!({ "task_name": "noop" }))))
        .await;
    redis.log().await.until_count("task.completed", 4000).await;
}

#[tokio::test]
async fn a_replica_whose_log_nobody_reads_goes_on() {
    let redis = TestRedis::start().await;
    let (mut replica, port) = talkative(&redis).await;

    give_it_something_to_say(&redis).await;

    assert_eq!(get(port, "/readyz").await.unwrap().0, 200);
    signal("TERM", replica.0.id());
    wait_for("it ends", async || {
        let status = replica.0.try_wait().unwrap();
        holds(status.is_some_and(|status| status.code() == Some(0)), || {
            format!("{status:?}")
        })
    })
    .await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_replica_whose_log_is_gone_goes_on() {
    let redis = TestRedis::start().await;
    let (mut replica, port) = talkative(&redis).await;

    drop(replica.0.stderr.take());
    give_it_something_to_say(&redis).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    redis.trigger("after", &json!({ "task_name": "noop" })).await;
    redis.log().await.until_task(task_of("after"), "task.completed").await;

    assert_eq!(get(port, "/readyz").await.unwrap().0, 200);
    check_all_ended(&redis).await;
}
