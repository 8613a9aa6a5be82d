//! The event bus as programs that link the library see it.

use std::time::Duration;

use serde_json::json;
use waooaw_orchestration::{Endpoint, Event, EventBus, NewEvent, Subscription, Task};

use crate::support::child::ChildProcess;
use crate::support::history::check_all_ended;
use crate::support::redis::TestRedis;

const SHORT: Duration = Duration::from_millis(300);

/// Everything that comes until nothing does for a while.
async fn drain(subscription: &mut Subscription) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = subscription.next(SHORT).await.unwrap() {
        events.push(event);
    }
    events
}

#[tokio::test]
async fn what_is_published_is_acted_upon_and_heard() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let bus = EventBus::new(Endpoint::new(&redis.url())).unwrap();
    let mut ends = bus
        .subscribe("ends", "orchestration.task.completed".parse().unwrap())
        .await
        .unwrap();

    let payload = json!({ "task_name": "add", "args": [5, 3] });
    let event = NewEvent::new("orchestration.task.trigger", "sales", &payload).correlation_id("order-7");
    let id = bus.publish(&event).await.unwrap();
    // Publishing the same event again has no second effect.
    assert_eq!(bus.publish(&event).await.unwrap(), id);
    let heard = ends.next(Duration::from_secs(20)).await.unwrap().unwrap();

    assert_eq!((heard.correlation_id.as_str(), heard.seq()), ("order-7", 3));
    let payload: serde_json::Value = serde_json::from_str(heard.payload.get()).unwrap();
    assert_eq!(
        (&payload["result"], &payload["trigger_event_id"]),
        (&json!(8), &json!(id))
    );
    assert!(drain(&mut ends).await.is_empty());
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_pattern_picks_exact_types_prefixes_or_everything() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let bus = EventBus::new(Endpoint::new(&redis.url())).unwrap();
    redis.trigger("good", &json!({ "task_name": "noop" })).await;
    redis.trigger("bad", &json!({})).await;
    let mut log = redis.log().await;
    log.until_count("task.completed", 1).await;
    log.until_count("trigger.rejected", 1).await;
    check_all_ended(&redis).await;

    for (number, (pattern, expected)) in [
        ("*", log.events.len()),
        ("orchestration.*", log.events.len()),
        ("orchestration.task.*", 3),
        ("orchestration.task.created", 1),
        ("orchestration.trigger.rejected", 1),
        ("orchestration.task", 0),
        ("orchestration.saga.*", 0),
    ]
    .into_iter()
    .enumerate()
    {
        let mut subscription = bus
            .subscribe(&format!("s-{number}"), pattern.parse().unwrap())
            .await
            .unwrap();
        let heard = drain(&mut subscription).await;
        assert_eq!(heard.len(), expected, "{pattern}: {heard:?}");
    }
}

#[tokio::test]
async fn subscribers_of_two_names_both_hear_everything_and_of_one_name_share() {
    let redis = TestRedis::start().await;
    let bus = EventBus::new(Endpoint::new(&redis.url())).unwrap();
    let all = || "*".parse().unwrap();
    let mut first = bus.subscribe("first", all()).await.unwrap();
    let mut second = bus.subscribe("second", all()).await.unwrap();

    let queue = redis.queue().await;
    for _ in 0..3 {
        queue.enqueue(Task::new("work")).await.unwrap();
    }

    assert_eq!(drain(&mut first).await.len(), 3);
    assert_eq!(drain(&mut second).await.len(), 3);
    drop(first);
    queue.enqueue(Task::new("work")).await.unwrap();
    let mut again = bus.subscribe("first", all()).await.unwrap();
    assert_eq!(drain(&mut again).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_is_killed_resumes_where_it_stopped() {
    let redis = TestRedis::start().await;
    let mut child = ChildProcess::start(&redis, "subscribe");
    let queue = redis.queue().await;
    let mut ids = Vec::new();
    for _ in 0..12 {
        ids.push(format!("{}/1", queue.enqueue(Task::new("work")).await.unwrap()));
    }
    let mut heard = Vec::new();
    for _ in 0..5 {
        heard.push(child.hear("event").await);
    }
    assert_eq!(heard, ids[..5]);

    child.kill().await;
    ids.push(format!("{}/1", queue.enqueue(Task::new("work")).await.unwrap()));
    let bus = EventBus::new(Endpoint::new(&redis.url())).unwrap();
    let mut resumed = bus
        .subscribe("auditor", "orchestration.task.*".parse().unwrap())
        .await
        .unwrap();
    let rest: Vec<String> = drain(&mut resumed)
        .await
        .into_iter()
        .map(|event| event.event_id)
        .collect();

    // The fifth was given and not confirmed, so it comes again; nothing before it does.
    assert_eq!(rest, ids[4..]);
}
