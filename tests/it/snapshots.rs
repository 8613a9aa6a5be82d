//! The stream of metrics snapshots.

use redis::FromRedisValue;
use redis::streams::StreamRangeReply;
use serde_json::{Value, json};

use crate::support::history::check_all_ended;
use crate::support::redis::TestRedis;
use crate::support::wait_for;

async fn snapshots(redis: &TestRedis) -> Vec<(std::collections::BTreeMap<String, String>, Value)> {
    let page: StreamRangeReply = redis.ask(&["XRANGE", "waooaw:metrics", "-", "+"]).await;
    let read = |entry: redis::streams::StreamId| {
        let fields: std::collections::BTreeMap<String, String> = entry
            .map
            .into_iter()
            .map(|(name, value)| (name, String::from_redis_value(value).unwrap()))
            .collect();
        let payload = serde_json::from_str(&fields["payload"]).unwrap();
        (fields, payload)
    };
    page.ids.into_iter().map(read).collect()
}

#[tokio::test]
async fn each_replica_publishes_what_the_statistics_say_until_it_stops() {
    let redis = TestRedis::start().await;
    let settings = redis
        .replica()
        .workers(3)
        .set("WAOOAW_METRICS__SNAPSHOT_INTERVAL", "300ms");
    let mut replicas = settings.start_many(2).await;
    let ids = [replicas[0].id().await, replicas[1].id().await];
    let add = json!({ "task_name": "add", "args": [1, 2] });
    redis
        .trigger_all((0..5).map(|number| (format!("e-{number}"), add.clone())))
        .await;

    let found = wait_for("both have published after the tasks had ended", async || {
        let found = snapshots(&redis).await;
        let has_seen = |id: &String| {
            let mut of = found.iter().filter(|(_, payload)| payload["replica"] == id.as_str());
            of.any(|(_, payload)| payload["task_queue"]["completed"] == 5)
        };
        if ids.iter().all(has_seen) {
            Ok(found)
        } else {
            Err(format!("{} snapshots", found.len()))
        }
    })
    .await;

    for id in &ids {
        let of = found.iter().filter(|(_, payload)| payload["replica"] == id.as_str());
        for (number, (fields, _)) in (1..).zip(of) {
            assert_eq!(fields["event_type"], "orchestration.metrics.snapshot");
            assert_eq!(fields["source_agent"], format!("orchestration-runtime/{id}"));
            assert_eq!(fields["event_id"], format!("{id}/{number}"));
            assert_eq!(
                (&fields["correlation_id"], &fields["causation_id"]),
                (&fields["event_id"], &fields["event_id"])
            );
            crate::support::log::time_ms(&fields["timestamp"]);
        }
    }
    let (_, last) = found.last().unwrap();
    let statistics = serde_json::to_value(redis.queue().await.get_statistics().await.unwrap()).unwrap();
    for name in [
        "completed_count",
        "pending_count",
        "by_priority",
        "total_count",
        "max_size",
    ] {
        assert_eq!(last["task_queue"][name], statistics[name], "{name}");
    }
    assert_eq!(
        (&last["task_queue"]["total_tasks"], &last["task_queue"]["pending"]),
        (&json!(5), &json!(0))
    );
    for name in [
        "active_workers",
        "idle_workers",
        "max_workers",
        "tasks_completed",
        "utilization_percentage",
    ] {
        assert_eq!(last["worker_pool"][name], statistics["worker_pool"][name], "{name}");
    }
    assert_eq!(last["worker_pool"]["max_workers"], 6);

    for replica in &mut replicas {
        assert!(replica.stop().await.success());
    }
    let count = snapshots(&redis).await.len();
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    assert_eq!(snapshots(&redis).await.len(), count);
    // They are no part of the log.
    assert_eq!(redis.log().await.count("metrics.snapshot"), 0);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn snapshots_of_more_than_an_hour_ago_are_forgotten() {
    let redis = TestRedis::start().await;
    for number in 1..=300 {
        let id = format!("{number}-0");
        redis
            .ask::<String>(&["XADD", "waooaw:metrics", &id, "payload", "{}"])
            .await;
    }

    let _replica = redis
        .replica()
        .set("WAOOAW_METRICS__SNAPSHOT_INTERVAL", "200ms")
        .start()
        .await;

    wait_for("the old ones are gone", async || {
        let length: usize = redis.ask(&["XLEN", "waooaw:metrics"]).await;
        crate::support::holds(length < 150, || format!("{length} are left"))
    })
    .await;
}
