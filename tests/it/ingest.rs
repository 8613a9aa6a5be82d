//! What happens to what agents publish: the good, the repeated, the foreign and the hostile.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::history::check_all_ended;
use crate::support::redis::{TestRedis, task_of, trigger_fields};
use crate::support::{holds, wait_for};

/// Names and values of one entry.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_trigger_a_hundred_times_makes_one_task() {
    let redis = TestRedis::start().await;
    let settings = redis.replica();
    let mut replicas = settings.start_many(3).await;
    let payload = json!({ "task_name": "add", "args": [5, 3] }).to_string();
    let publish = async || {
        let sent = (0..100).map(|_| async { redis.add("waooaw:triggers", &trigger_fields("same", &payload)).await });
        futures_util::future::join_all(sent).await;
    };

    publish().await;
    let mut log = redis.log().await;
    log.until_task(task_of("same"), "task.completed").await;
    check_all_ended(&redis).await;
    for replica in &mut replicas {
        assert!(replica.stop().await.success());
    }
    let _others = settings.start_many(3).await;
    publish().await;
    check_all_ended(&redis).await;

    log.refresh().await;
    assert_eq!(log.count("task.created"), 1);
    assert_eq!(log.life(task_of("same")), ["created", "started", "completed"]);
    assert_eq!(log.all("task.completed")[0].payload["result"], 8);
}

#[tokio::test]
async fn the_same_id_from_another_agent_is_another_trigger() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    for agent in [b"sales", b"stock"] {
        let fields: [(&[u8], &[u8]); 4] = [
            (b"event_type", b"orchestration.task.trigger"),
            (b"source_agent", agent),
            (b"event_id", b"1"),
            (b"payload", br#"{"task_name":"noop"}"#),
        ];
        redis.add("waooaw:triggers", &fields).await;
    }

    redis.log().await.until_count("task.completed", 2).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_cloud_event_is_a_trigger_in_both_of_its_forms() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let attributes: [(&[u8], &[u8]); 7] = [
        (b"specversion", b"1.0"),
        (b"id", b"a"),
        (b"source", b"sales"),
        (b"type", b"orchestration.task.trigger"),
        (b"time", b"2026-01-31T12:00:00Z"),
        (b"correlationid", b"order-7"),
        (b"data", br#"{"task_name":"add","args":[1,2]}"#),
    ];
    let structured = json!({
        "specversion": "1.0", "id": "b", "source": "sales", "type": "orchestration.task.trigger",
        "correlationid": "order-7", "datacontenttype": "application/json",
        "data": { "task_name": "add", "args": [1, 2] },
    })
    .to_string();

    redis.add("waooaw:triggers", &attributes).await;
    redis
        .add("waooaw:triggers", &[(b"cloudevent", structured.as_bytes())])
        .await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 2).await;

    for (event, id) in log.all("task.created").into_iter().zip(["a", "b"]) {
        assert_eq!(
            (event.causation_id.as_str(), event.correlation_id.as_str()),
            (id, "order-7")
        );
        assert_eq!(event.text("workflow_id"), "order-7");
    }
    for event in log.all("task.completed") {
        assert_eq!(event.payload["result"], 3);
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn an_event_on_the_other_stream_is_handled_all_the_same() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let trigger = json!({ "task_name": "noop", "delay_seconds": 60 }).to_string();
    let cancel = json!({ "task_id": task_of("e").to_string() }).to_string();

    redis.add("waooaw:commands", &trigger_fields("e", &trigger)).await;
    redis.add("waooaw:commands", &trigger_fields("bad", "{}")).await;
    let fields: [(&[u8], &[u8]); 3] = [
        (b"event_type", b"orchestration.task.cancel"),
        (b"source_agent", b"tester"),
        (b"payload", cancel.as_bytes()),
    ];
    redis.add("waooaw:triggers", &fields).await;
    let bad: [(&[u8], &[u8]); 3] = [fields[0], fields[1], (b"payload", b"{}")];
    let bad = redis.add("waooaw:triggers", &bad).await;
    let mut log = redis.log().await;
    log.until_task(task_of("e"), "task.cancelled").await;
    log.until_count("trigger.rejected", 1).await;
    log.until_count("command.refused", 1).await;

    assert_eq!(log.all("trigger.rejected")[0].text("trigger_event_id"), "bad");
    assert_eq!(log.all("command.refused")[0].subject, bad);
    assert_eq!(log.all("command.refused")[0].text("reason"), "missing_field");
    check_all_ended(&redis).await;
}

/// One bad entry of each kind, with the reason that it must be refused for.
fn bad(number: usize) -> (Fields, &'static str) {
    let entry = |event_type: &str, payload: &[u8]| {
        vec![
            (b"event_type".to_vec(), event_type.as_bytes().to_vec()),
            (b"source_agent".to_vec(), b"mallory".to_vec()),
            (b"payload".to_vec(), payload.to_vec()),
        ]
    };
    let trigger = |payload: &[u8]| entry("orchestration.task.trigger", payload);
    let without = |name: &[u8]| {
        let mut fields = trigger(br#"{"task_name":"noop"}"#);
        fields.retain(|(known, _)| known != name);
        fields
    };
    let deep = |depth: usize| {
        format!(
            r#"{{"task_name":"noop","args":{}{}}}"#,
            "[".repeat(depth),
            "]".repeat(depth)
        )
    };
    match number % 20 {
        0 => (trigger(b"hello"), "malformed"),
        1 => (trigger(b"{\"task_name\":\"noop\"\0}"), "malformed"),
        2 => (trigger(b"\0\0\0"), "malformed"),
        3 => (trigger(b"{\"task_name\":\"\xff\xfe\"}"), "malformed"),
        4 => (trigger(br#"{"task_name":"noop","args":[],"args":[]}"#), "malformed"),
        5 => (trigger(deep(1000).as_bytes()), "too_deep"),
        6 => (trigger(deep(64).as_bytes()), "too_deep"),
        7 => (trigger(br#"{"task_name":7}"#), "invalid_field"),
        8 => (trigger(br#"{"task_name":"noop","args":{}}"#), "invalid_field"),
        9 => (trigger(br#"{"task_name":"noop","priority":"URGENT"}"#), "invalid_field"),
        10 => (
            trigger(br#"{"task_name":"noop","timeout_seconds":-1}"#),
            "invalid_field",
        ),
        11 => (trigger(b"[1,2]"), "invalid_field"),
        12 => (trigger(br#"{"task_name":"nobody_has_this"}"#), "unknown_task"),
        13 => (trigger(br#"{"task_name":"noop","colour":"blue"}"#), "unknown_field"),
        14 => (entry("orchestration.unheard.of", b"{}"), "unknown_event_type"),
        15 => (without(b"payload"), "missing_field"),
        16 => (without(b"source_agent"), "missing_field"),
        17 => (without(b"event_type"), "missing_field"),
        18 => (vec![(Vec::new(), Vec::new())], "missing_field"),
        _ if number % 100 == 19 => (trigger(&vec![b' '; 2 << 20]), "too_large"),
        _ => (trigger(b"{}"), "missing_field"),
    }
}

fn netstrings(fields: &Fields) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in fields.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend([part.len().to_string().as_bytes(), b":", part, b","].concat());
    }
    bytes
}

#[tokio::test]
async fn a_thousand_hostile_entries_are_each_refused_with_a_reason_and_stop_nothing() {
    const BAD: usize = 1000;
    const GOOD: usize = 100;
    let redis = TestRedis::start().await;
    let mut replicas = redis.replica().start_many(2).await;

    let mut expected = BTreeMap::new();
    for number in 0..BAD {
        if number % (BAD / GOOD) == 0 {
            redis
                .trigger(&format!("good {number}"), &json!({ "task_name": "noop" }))
                .await;
        }
        let (fields, reason) = bad(number);
        let borrowed: Vec<(&[u8], &[u8])> = fields
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()))
            .collect();
        let entry = redis.add("waooaw:triggers", &borrowed).await;
        expected.insert(entry, (fields, reason));
    }
    let mut log = redis.log().await;
    log.until_count("trigger.rejected", BAD).await;
    log.until_count("task.completed", GOOD).await;
    check_all_ended(&redis).await;
    log.refresh().await;

    assert_eq!((log.count("task.created"), log.count("trigger.rejected")), (GOOD, BAD));
    for event in log.all("trigger.rejected") {
        // Each by its entry, since none names itself.
        let (fields, reason) = expected.remove(event.text("trigger_event_id")).unwrap();
        assert_eq!(event.text("reason"), reason, "{event:?}");
        assert!(!event.payload["errors"].as_array().unwrap().is_empty(), "{event:?}");
        let id = event.text("dead_letter_id");
        assert_eq!((event.subject.as_str(), event.seq), (id, 1));
        assert_eq!(event.causation_id, event.text("trigger_event_id"));
        let key = format!("waooaw:{{0}}:dead:{id}");
        let (kept, kind, kept_reason): (Vec<u8>, String, String) =
            redis.ask(&["HMGET", &key, "original", "kind", "reason"]).await;
        assert_eq!((kind.as_str(), kept_reason.as_str()), ("trigger", reason));
        let original = netstrings(&fields);
        if reason == "too_large" {
            assert!(
                original.starts_with(&kept) && kept.len() >= 1024,
                "{} bytes kept",
                kept.len()
            );
            let errors = event.payload["errors"].to_string();
            assert!(
                errors.contains("sha256") && errors.contains(&original.len().to_string()),
                "{errors}"
            );
        } else {
            assert_eq!(kept, original, "{event:?}");
        }
    }
    assert!(expected.is_empty());
    for replica in &mut replicas {
        assert!(replica.is_alive());
        assert_eq!(replica.get("/readyz").await.unwrap().0, 200);
    }
}

#[tokio::test]
async fn what_is_read_by_a_replica_that_dies_is_acted_upon_by_another() {
    let redis = TestRedis::start().await;
    for id in ["a", "b", "c"] {
        redis.trigger(id, &json!({ "task_name": "noop" })).await;
    }
    // A reader that took them and was never seen again.
    let group = ["XGROUP", "CREATE", "waooaw:triggers", "orchestrators", "0"];
    redis.ask::<()>(&group).await;
    let read = "XREADGROUP GROUP orchestrators r-deadbeef STREAMS waooaw:triggers >";
    redis.ask::<redis::Value>(&read.split(' ').collect::<Vec<_>>()).await;
    assert_eq!(redis.pending("waooaw:triggers", "orchestrators").await, 3);

    let _replica = redis.replica().start().await;
    redis.log().await.until_count("task.completed", 3).await;

    check_all_ended(&redis).await;
    wait_for("the dead reader is forgotten", async || {
        let consumers = redis.consumers("waooaw:triggers", "orchestrators").await;
        holds(!consumers.iter().any(|name| name == "r-deadbeef"), || {
            format!("{consumers:?}")
        })
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_commands_about_nothing_does_not_slow_down_the_others() {
    const COUNT: usize = 4000;
    let redis = TestRedis::start().await;
    let _replica = redis.replica().set("WAOOAW_QUEUE__REFERENCE_WAIT", "4s").start().await;
    redis
        .trigger("e-0", &json!({ "task_name": "sleep", "kwargs": { "ms": 60_000 } }))
        .await;
    let mut log = redis.log().await;
    log.until_count("task.started", 1).await;
    let calls = async || redis.function_calls().await;

    for number in 0..COUNT {
        redis
            .cancel(&format!("c-{number}"), task_of(&format!("nobody-{number}")))
            .await;
    }
    redis.cancel("last", task_of("e-0")).await;
    let published = std::time::Instant::now();
    log.until_count("task.cancelled", 1).await;
    assert!(
        published.elapsed() < std::time::Duration::from_secs(2),
        "{:?}",
        published.elapsed()
    );
    let before = calls().await;
    log.until_count("command.refused", COUNT).await;

    // Each was tried once before that, and is refused now, many at a time.
    assert!(calls().await - before < COUNT, "{}", calls().await - before);
    check_all_ended(&redis).await;
}
