//! Dead letters: what is shown of them, and how what they hold comes back, through the library.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use waooaw_orchestration::domain::id::Name;
use waooaw_orchestration::domain::rejection::Reason;
use waooaw_orchestration::runtime::defaults::{Defaults, Origin};
use waooaw_orchestration::runtime::request::{new_actor, read_trigger};
use waooaw_orchestration::store::functions::{Appetite, Asker, Refusal};
use waooaw_orchestration::store::groups::{GroupKind, Member, NewGroup, Staged};
use waooaw_orchestration::store::record::Flags;
use waooaw_orchestration::{
    DeadLetterDocument, DeadLetterId, DeadLetterKind, DeadLetterQuery, DeadLetters, Endpoint, Error, Operator,
    RetryPolicy, Store, Task, TaskId, TaskQueue, TaskQueueOptions,
};

use crate::support::history::check_all_ended;
use crate::support::log::Log;
use crate::support::redis::{TestRedis, task_of, trigger_fields};
use crate::support::{holds, wait_for};

fn letters(redis: &TestRedis) -> DeadLetters {
    DeadLetters::new(redis.store())
}

fn operator() -> Operator {
    Operator::new("ada \"the\" operator", Some("repaired"))
}

fn value(raw: &serde_json::value::RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap()
}

/// All dead letters, in pages of `limit`.
async fn all(redis: &TestRedis, query: &DeadLetterQuery, limit: usize) -> Vec<DeadLetterDocument> {
    let (mut found, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let page = letters(redis).list(query, limit, cursor.as_deref()).await.unwrap();
        assert!(page.items.len() <= limit);
        found.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return found;
        }
    }
}

/// A task that fails for good at once; answers its dead letter.
async fn fail(redis: &TestRedis, log: &mut Log<'_>, event_id: &str, payload: Value) -> String {
    redis.trigger(event_id, &payload).await;
    let event = log.until_task(task_of(event_id), "task.dead_lettered").await;
    event.text("dead_letter_id").to_owned()
}

/// Waits until a task has ended so many times.
async fn until_ended(log: &mut Log<'_>, event_id: &str, times: usize) {
    let subject = task_of(event_id).to_string();
    log.until(&format!("{event_id} has ended {times} times"), |log| {
        let ends = log.of(&subject).into_iter().filter(|event| event.is_terminal());
        (ends.count() >= times).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_dead_letter_tells_what_was_asked_for_and_what_became_of_it() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let retry = json!({ "max_retries": 1, "initial_delay_seconds": 0.01, "jitter": 0 });
    let payload = json!({
        "task_name": "fail", "kwargs": { "message": "no such customer" }, "priority": "HIGH", "workflow_id": "order-7",
        "retry": retry, "tags": { "team": "sales" }, "metadata": { "n": [1, {}] },
    });
    redis.trigger("e", &payload).await;
    log.until_count("task.dead_lettered", 1).await;
    let id = log.all("task.dead_lettered")[0].text("dead_letter_id").to_owned();
    let task_id = log.all("task.dead_lettered")[0].subject.clone();

    let letter = letters(&redis).get(&id).await.unwrap();

    assert_eq!(letter.dead_letter_id, format!("{task_id}.2"));
    assert_eq!(letter.kind, "task");
    assert_eq!(letter.task_id, Some(task_id));
    assert_eq!(letter.task_name.as_deref(), Some("fail"));
    assert_eq!(letter.reason, "handler_error");
    assert_eq!(
        value(&letter.error),
        json!({ "type": "handler_error", "message": "no such customer" })
    );
    assert_eq!(letter.correlation_id, "e");
    assert_eq!(
        letter.dead_lettered_at,
        log.all("task.dead_lettered")[0].fields["timestamp"]
    );
    let attempts: Vec<Value> = letter.attempts.iter().map(|attempt| value(attempt)).collect();
    for (place, attempt) in attempts.iter().enumerate() {
        let names: BTreeSet<&str> = attempt.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            names,
            BTreeSet::from(["attempt", "ended_at", "error", "started_at", "worker_id"])
        );
        assert_eq!(attempt["attempt"], place + 1);
        assert!(attempt["worker_id"].as_str().unwrap().starts_with(&replica.id().await));
    }
    assert_eq!(attempts.len(), 2);
    let original = value(&letter.original);
    for (name, expected) in payload.as_object().unwrap() {
        if name != "retry" {
            assert_eq!(original[name], *expected, "{name}");
        }
    }
    assert_eq!(original["retry"]["initial_delay_seconds"], 0.01);
    assert_eq!(
        (&original["event_id"], &original["max_retries"]),
        (&json!("e"), &json!(1))
    );

    for unknown in ["x", "", &format!("{id}0"), "7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000"] {
        let answer = letters(&redis).get(unknown).await;
        assert!(matches!(answer, Err(Error::DeadLetterNotFound(_))), "{answer:?}");
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_rejected_trigger_is_shown_as_it_came() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let payload = r#"{"task_name":"nobody-knows","args":[1e400,{"b":1,"a":2}]}"#;
    let fields = [&trigger_fields("mine", payload)[..], &[(b"note", b"\xff\xfe")]].concat();
    redis.add("waooaw:triggers", &fields).await;
    let large = "x".repeat(2 << 20);
    redis.add("waooaw:triggers", &trigger_fields("large", &large)).await;
    let mut log = redis.log().await;
    log.until_count("trigger.rejected", 2).await;

    let found = all(&redis, &DeadLetterQuery::default(), 10).await;

    assert_eq!(found.len(), 2);
    let unknown = found.iter().find(|letter| letter.reason == "unknown_task").unwrap();
    assert_eq!((unknown.kind.as_str(), &unknown.task_id), ("trigger", &None));
    assert_eq!(unknown.task_name.as_deref(), Some("nobody-knows"));
    assert_eq!(unknown.correlation_id, "mine");
    assert!(unknown.attempts.is_empty());
    let original = value(&unknown.original);
    assert_eq!(original["payload"], payload);
    assert_eq!(original["note"], json!({ "base64": "//4=" }));
    let error = value(&unknown.error);
    assert_eq!(error["type"], "unknown_task");
    assert_eq!(error["errors"][0]["field"], "task_name");

    let cut = found.iter().find(|letter| letter.reason == "too_large").unwrap();
    let original = value(&cut.original);
    let kept = original["payload"].as_str().unwrap().len();
    assert!(kept > 60_000 && kept < 66_000, "{kept}");
    let bytes = original["_cut"]["bytes"].as_u64().unwrap();
    assert!(bytes > 2 << 20, "{original}");
    assert_eq!(original["_cut"]["sha256"].as_str().unwrap().len(), 64);
    let refused = letters(&redis).requeue(&operator(), &cut.dead_letter_id, None).await;
    let Err(Error::InvalidTransition(problem)) = refused else {
        panic!("{refused:?}")
    };
    assert!(problem.contains(&bytes.to_string()), "{problem}");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_list_has_every_letter_once_and_filters_what_is_asked_for() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    for number in 0..23 {
        let kwargs = json!({ "message": format!("broken {number}"), "permanent": true });
        redis
            .trigger(&format!("f{number}"), &json!({ "task_name": "fail", "kwargs": kwargs }))
            .await;
    }
    redis
        .trigger(
            "slow",
            &json!({ "task_name": "sleep", "kwargs": { "ms": 60_000 }, "timeout_seconds": 0.05, "max_retries": 0 }),
        )
        .await;
    redis.trigger("stranger", &json!({ "task_name": "nobody-knows" })).await;
    let mut log = redis.log().await;
    log.until_count("task.dead_lettered", 24).await;
    log.until_count("trigger.rejected", 1).await;
    let everything = DeadLetterQuery::default();

    for limit in [1, 7, 25, 100] {
        let found = all(&redis, &everything, limit).await;
        let ids: BTreeSet<&str> = found.iter().map(|letter| letter.dead_letter_id.as_str()).collect();
        assert_eq!((found.len(), ids.len()), (25, 25), "pages of {limit}");
        assert!(
            found.is_sorted_by(|a, b| a.dead_lettered_at >= b.dead_lettered_at),
            "the latest first"
        );
    }
    let oldest_first = DeadLetterQuery {
        oldest_first: true,
        ..everything.clone()
    };
    let mut upwards: Vec<String> = all(&redis, &oldest_first, 4)
        .await
        .into_iter()
        .map(|one| one.dead_letter_id)
        .collect();
    upwards.reverse();
    let downwards: Vec<String> = all(&redis, &everything, 4)
        .await
        .into_iter()
        .map(|one| one.dead_letter_id)
        .collect();
    assert_eq!(upwards, downwards);

    let with = |change: fn(&mut DeadLetterQuery)| {
        let mut query = DeadLetterQuery::default();
        change(&mut query);
        query
    };
    let now_ms = redis.store().now_ms().await.unwrap();
    let mut moments = with(|_| {});
    (moments.after_ms, moments.before_ms) = (Some(now_ms - 3_600_000), Some(now_ms + 1));
    let mut past = with(|_| {});
    past.before_ms = Some(now_ms - 3_600_000);
    let mut future = with(|_| {});
    future.after_ms = Some(now_ms + 3_600_000);
    for (query, count) in [
        (with(|query| query.kind = Some(DeadLetterKind::Trigger)), 1),
        (with(|query| query.kind = Some(DeadLetterKind::Task)), 24),
        (with(|query| query.reason = Some("timeout".to_owned())), 1),
        (with(|query| query.reason = Some("handler_error".to_owned())), 23),
        (with(|query| query.task_name = Some("fail".to_owned())), 23),
        (with(|query| query.task_name = Some("nobody-knows".to_owned())), 1),
        (with(|query| query.text = Some("BROKEN 1".to_owned())), 11),
        (with(|query| query.text = Some("stranger".to_owned())), 1),
        (moments, 25),
        (past, 0),
        (future, 0),
    ] {
        assert_eq!(all(&redis, &query, 5).await.len(), count, "{query:?}");
    }

    let refused = letters(&redis).list(&everything, 1, Some("77206f")).await;
    assert!(matches!(refused, Err(Error::InvalidField(_))), "{refused:?}");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn pages_go_on_whatever_is_taken_out_of_them() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    for number in 0..40 {
        let payload = json!({ "task_name": "fail", "kwargs": { "permanent": true } });
        redis.trigger(&format!("f{number}"), &payload).await;
    }
    let mut log = redis.log().await;
    log.until_count("task.dead_lettered", 40).await;
    let dead = letters(&redis);
    let (mut seen, mut cursor) = (BTreeSet::new(), None::<String>);

    loop {
        let page = dead
            .list(&DeadLetterQuery::default(), 3, cursor.as_deref())
            .await
            .unwrap();
        for letter in &page.items {
            assert!(seen.insert(letter.dead_letter_id.clone()), "twice: {letter:?}");
            dead.discard(&operator(), &letter.dead_letter_id).await.unwrap();
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }

    assert_eq!(seen.len(), 40);
    let again = dead.discard(&operator(), seen.first().unwrap()).await;
    assert!(matches!(again, Err(Error::DeadLetterNotFound(_))), "{again:?}");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_requeued_task_is_the_same_task_in_another_life() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let id = fail(
        &redis,
        &mut log,
        "e",
        json!({ "task_name": "flaky", "kwargs": { "fail_times": 3 }, "retry": "QUICK", "max_retries": 1 }),
    )
    .await;
    let dead = letters(&redis);

    let first = dead.requeue(&operator(), &id, None).await.unwrap();
    let again = dead.requeue(&operator(), &id, None).await.unwrap();

    assert_eq!(
        (first.task_id.clone(), first.life),
        (Some(task_of("e").to_string()), Some(2))
    );
    assert_eq!(first, again);
    until_ended(&mut log, "e", 2).await;
    let life = log.life(task_of("e")).join(" ");
    assert_eq!(
        life,
        "created started retry_scheduled started failed dead_lettered requeued \
         started retry_scheduled started completed"
    );
    let requeued = log.all("task.requeued")[0];
    assert_eq!(requeued.payload["dead_letter_id"], id);
    assert_eq!(requeued.payload["actor"], "ada \"the\" operator");
    assert_eq!(requeued.payload["life"], 2);
    assert_eq!(log.count("operator.action"), 1);
    let action = log.all("operator.action")[0];
    assert_eq!(
        action.payload,
        json!({ "action": "requeue", "target": id, "actor": "ada \"the\" operator", "reason": "repaired" })
    );
    assert_eq!((&action.causation_id, action.seq), (&action.event_id, 1));
    assert_eq!(requeued.causation_id, action.event_id);
    assert_eq!(
        (&action.correlation_id, &requeued.correlation_id),
        (&"e".to_owned(), &"e".to_owned())
    );
    let task = redis.queue().await.get_task(task_of("e")).await.unwrap();
    assert_eq!((task.state, task.attempt, task.retry_count), ("COMPLETED", 4, 1));
    let gone = dead.get(&id).await;
    assert!(matches!(gone, Err(Error::DeadLetterNotFound(_))), "{gone:?}");
    // Asking late is as good as asking twice.
    assert_eq!(dead.requeue(&operator(), &id, None).await.unwrap(), first);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_task_that_fails_again_lies_in_another_dead_letter_with_all_its_attempts() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let payload = json!({ "task_name": "fail", "max_retries": 0, "metadata": { "big": "x".repeat(3000) } });
    let first = fail(&redis, &mut log, "e", payload).await;
    let dead = letters(&redis);

    dead.requeue(&operator(), &first, None).await.unwrap();
    until_ended(&mut log, "e", 2).await;
    let found = all(&redis, &DeadLetterQuery::default(), 10).await;

    assert_eq!(found.len(), 1);
    assert_eq!(found[0].dead_letter_id, format!("{}.2", task_of("e")));
    assert_eq!(found[0].attempts.len(), 2);
    // The second life had the policy that it was given.
    let mut policy = RetryPolicy::QUICK;
    (policy.max_retries, policy.initial_delay_seconds) = (2, 0.01);
    let life = dead
        .requeue(&operator(), &found[0].dead_letter_id, Some(policy))
        .await
        .unwrap()
        .life;
    assert_eq!(life, Some(3));
    until_ended(&mut log, "e", 3).await;
    let delays: Vec<&Value> = log
        .all("task.retry_scheduled")
        .iter()
        .map(|event| &event.payload["delay_seconds"])
        .collect();
    assert_eq!(delays.len(), 2);
    assert!(delays.iter().all(|delay| delay.as_f64().unwrap() < 0.05), "{delays:?}");
    let letter = dead.get(&format!("{}.5", task_of("e"))).await.unwrap();
    let original = value(&letter.original);
    assert_eq!(
        (&original["max_retries"], &original["retry"]["max_delay_seconds"]),
        (&json!(2), &json!(5.0))
    );
    assert_eq!(original["metadata"]["big"].as_str().unwrap().len(), 3000);
    let mut senseless = RetryPolicy::QUICK;
    senseless.jitter = 2.0;
    let refused = dead.requeue(&operator(), &letter.dead_letter_id, Some(senseless)).await;
    assert!(matches!(refused, Err(Error::InvalidField(_))), "{refused:?}");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_requeue_comes_at_the_tail_and_is_not_refused_by_a_full_queue() {
    let redis = TestRedis::start().await;
    let mut replica = redis.replica().workers(1).start().await;
    let mut log = redis.log().await;
    let id = fail(&redis, &mut log, "e", json!({ "task_name": "fail", "max_retries": 0 })).await;
    // With the only replica away, what is put in waits.
    replica.stop().await;
    let ends = log.events.len();
    let store = redis.store();
    let partition = store.partitions().next().unwrap();
    let limits = waooaw_orchestration::Limits {
        max_size: Some(2),
        max_running: None,
    };
    store.set_limits(partition, &operator(), None, limits).await.unwrap();
    let queue = redis.queue().await;
    for _ in 0..2 {
        queue.enqueue(Task::new("noop")).await.unwrap();
    }
    let full = queue.enqueue(Task::new("noop")).await;
    assert!(matches!(full, Err(Error::TaskQueueFull { .. })), "{full:?}");

    letters(&redis).requeue(&operator(), &id, None).await.unwrap();

    assert_eq!(queue.get_statistics().await.unwrap().pending_count, 3);
    let _replica = redis.replica().workers(1).start().await;
    until_ended(&mut log, "e", 2).await;
    let started: Vec<String> = log.events[ends..]
        .iter()
        .filter(|event| event.kind == "task.started")
        .map(|event| event.text("task_name").to_owned())
        .collect();
    assert_eq!(started, ["noop", "noop", "fail"]);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_was_forgotten_is_made_again_from_its_dead_letter() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let payload = json!({
        "task_name": "flaky", "kwargs": { "fail_times": 2 }, "retry": "QUICK", "max_retries": 1, "workflow_id": "w",
        "priority": "LOW",
    });
    redis.trigger("e", &payload).await;
    log.until_count("task.dead_lettered", 1).await;
    let dead_lettered = log.all("task.dead_lettered")[0].clone();
    let task = dead_lettered.subject.clone();
    let before = redis.queue().await.get_task(task.parse().unwrap()).await.unwrap();
    // As retention does it.
    let removed: usize = redis
        .ask(&[
            "DEL",
            &format!("waooaw:{{0}}:t:{task}"),
            &format!("waooaw:{{0}}:x:{task}"),
        ])
        .await;
    assert_eq!(removed, 2);
    redis.ask::<()>(&["LREM", "waooaw:{0}:group:w", "1", &task]).await;

    letters(&redis)
        .requeue(&operator(), dead_lettered.text("dead_letter_id"), None)
        .await
        .unwrap();
    log.until_count("task.completed", 1).await;

    let life = log.life(task.parse().unwrap()).join(" ");
    assert!(life.ends_with("dead_lettered requeued started completed"), "{life}");
    let after = redis.queue().await.get_task(task.parse().unwrap()).await.unwrap();
    assert_eq!((after.state, after.attempt), ("COMPLETED", 3));
    assert_eq!(after.created_at, before.created_at);
    assert_eq!((after.priority, after.workflow_id), ("LOW", Some("w".to_owned())));
    let members: Vec<String> = redis.ask(&["LRANGE", "waooaw:{0}:group:w", "0", "-1"]).await;
    assert_eq!(members, [task]);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_task_that_lives_again_by_other_means_is_not_requeued() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let id = fail(
        &redis,
        &mut log,
        "e",
        json!({ "task_name": "flaky", "kwargs": { "fail_times": 1 }, "max_retries": 0 }),
    )
    .await;
    let key = format!("waooaw:{{0}}:dead:{id}");
    let copy: Vec<u8> = redis.ask(&["DUMP", &key]).await;
    let dead = letters(&redis);
    dead.requeue(&operator(), &id, None).await.unwrap();
    log.until_count("task.completed", 1).await;
    // The letter of the first life is there once more, as after a loss of memory.
    let mut restore = redis::cmd("RESTORE");
    restore.arg(&key).arg(0).arg(copy);
    redis.send::<()>(&restore).await;

    let refused = dead.requeue(&operator(), &id, None).await;

    let Err(Error::InvalidTransition(problem)) = refused else {
        panic!("{refused:?}")
    };
    assert!(problem.contains("COMPLETED"), "{problem}");
    redis.ask::<()>(&["DEL", &key]).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_rejected_trigger_goes_back_and_is_accepted_once_somebody_knows_its_task() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let unnamed = [
        (&b"event_type"[..], &b"orchestration.task.trigger"[..]),
        (b"source_agent", b"tester"),
        (b"payload", br#"{"task_name":"later"}"#),
    ];
    let entry = redis.add("waooaw:triggers", &unnamed).await;
    redis.trigger("named", &json!({ "task_name": "later" })).await;
    log.until_count("trigger.rejected", 2).await;
    let dead = letters(&redis);
    let ids: Vec<String> = log
        .all("trigger.rejected")
        .iter()
        .map(|event| event.text("dead_letter_id").to_owned())
        .collect();

    // Nobody knows it yet: it is rejected again, into a dead letter of its own.
    let back = dead.requeue(&operator(), &ids[0], None).await.unwrap();
    assert_eq!((back.kind, back.trigger_event_id.as_ref()), ("trigger", Some(&entry)));
    log.until_count("trigger.rejected", 3).await;
    let third = log.all("trigger.rejected")[2].clone();
    assert_eq!((third.text("trigger_event_id"), third.seq), (entry.as_str(), 1));
    assert_ne!(third.text("dead_letter_id"), ids[0]);
    // Asked again it answers the same and does nothing.
    assert_eq!(dead.requeue(&operator(), &ids[0], None).await.unwrap(), back);

    let handlers = waooaw_orchestration::Handlers::new().with_async(
        "later",
        |_: Vec<Value>, _: waooaw_orchestration::TaskContext| async {
            Ok::<_, waooaw_orchestration::TaskError>("at last")
        },
    );
    let stop = tokio_util::sync::CancellationToken::new();
    let endpoint = Endpoint::new(&redis.url());
    let options = waooaw_orchestration::ReplicaOptions::new(handlers);
    let member = waooaw_orchestration::Replica::new(
        Store::new(endpoint.clone()).unwrap(),
        Store::new(endpoint).unwrap(),
        options,
        stop.clone(),
    );
    let running = tokio::spawn(member.run());
    wait_for("somebody knows the task", async || {
        let known: Option<String> = redis.ask(&["ZSCORE", "waooaw:{0}:handlers", "later"]).await;
        holds(known.is_some(), || "nobody".to_owned())
    })
    .await;
    for id in [&ids[1], third.text("dead_letter_id")] {
        dead.requeue(&operator(), id, None).await.unwrap();
    }
    log.until_count("task.completed", 2).await;

    let triggers: BTreeSet<&str> = log
        .all("task.completed")
        .iter()
        .map(|event| event.text("trigger_event_id"))
        .collect();
    assert_eq!(triggers, BTreeSet::from(["named", entry.as_str()]));
    assert_eq!((log.count("operator.action"), log.count("task.created")), (3, 2));
    assert!(all(&redis, &DeadLetterQuery::default(), 10).await.is_empty());
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(20), running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_sweep_meets_each_letter_once_though_it_fails_again() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut log = redis.log().await;
    for number in 0..50 {
        let payload = json!({ "task_name": "fail", "kwargs": { "permanent": true } });
        redis.trigger(&format!("f{number}"), &payload).await;
    }
    log.until_count("task.dead_lettered", 50).await;
    let dead = letters(&redis);
    let who = operator();
    let mut sweep = dead.sweep(&DeadLetterQuery::default()).await.unwrap();
    let mut count = 0;

    while let Some(ids) = sweep.next(7).await.unwrap() {
        assert!(ids.len() <= 7);
        count += ids.len();
        for outcome in dead.requeue_many(&who, &ids, None).await.unwrap() {
            assert_eq!(outcome.unwrap().life, Some(2));
        }
        // Those are dead again before the next are looked for.
        log.until_count("task.dead_lettered", 50 + count).await;
    }

    assert_eq!(count, 50);
    assert_eq!(all(&redis, &DeadLetterQuery::default(), 100).await.len(), 50);
    let actions = log.all("operator.action");
    assert_eq!(actions.len(), 50);
    assert!(actions.iter().all(|event| event.subject == actions[0].subject));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn many_who_ask_at_once_begin_one_life() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let payload = json!({ "task_name": "flaky", "kwargs": { "fail_times": 1 }, "max_retries": 0 });
    let id = fail(&redis, &mut log, "e", payload).await;
    let dead = letters(&redis);

    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (dead, id) = (dead.clone(), id.clone());
        asking.spawn(async move { dead.requeue(&operator(), &id, None).await.unwrap() });
    }
    let answers: BTreeSet<Option<u32>> = asking.join_all().await.into_iter().map(|answer| answer.life).collect();

    assert_eq!(answers, BTreeSet::from([Some(2)]));
    log.until_count("task.completed", 1).await;
    assert_eq!((log.count("task.requeued"), log.count("operator.action")), (1, 1));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn an_entry_that_is_delivered_again_makes_no_second_letter_of_a_discarded_one() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let mut log = redis.log().await;
    redis.trigger("e", &json!({ "task_name": "nobody-knows" })).await;
    log.until_count("trigger.rejected", 1).await;
    let id = log.all("trigger.rejected")[0].subject.clone();
    let dead = letters(&redis);
    dead.discard(&operator(), &id).await.unwrap();

    // What a replica does that takes the entry over from one that died before it could acknowledge.
    let again = Refusal {
        subject: id.clone(),
        is_command: false,
        event_id: "e".to_owned(),
        correlation_id: "e".to_owned(),
        reason: Reason::UnknownTask,
        errors: "[]".to_owned(),
        members: format!(r#""trigger_event_id":"e","dead_letter_id":"{id}""#),
        original: Vec::new(),
        cut: None,
    };
    let store = redis.store();
    let partition = store.partitions().next().unwrap();
    store.reject(partition, new_actor(), &[again]).await.unwrap();

    let gone = dead.get(&id).await;
    assert!(matches!(gone, Err(Error::DeadLetterNotFound(_))), "{gone:?}");
    drop(replica);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn letters_of_all_partitions_are_found() {
    let redis = TestRedis::start().await;
    let mut endpoint = Endpoint::new(&redis.url());
    endpoint.partitions = Some(4);
    let mut options = TaskQueueOptions::new(&redis.url());
    options.endpoint = endpoint.clone();
    let queue = TaskQueue::connect(options).await.unwrap();
    let mut once = RetryPolicy::QUICK;
    once.max_retries = 0;
    for _ in 0..24 {
        queue.enqueue(Task::new("any").retry(once)).await.unwrap();
    }
    for _ in 0..24 {
        let task = queue.dequeue(Duration::from_secs(10)).await.unwrap().unwrap();
        queue.fail_task(task.task_id, "no luck").await.unwrap();
    }
    let dead = DeadLetters::connect(endpoint).unwrap();
    let (mut ids, mut cursor) = (BTreeSet::new(), None::<String>);
    loop {
        let page = dead
            .list(&DeadLetterQuery::default(), 5, cursor.as_deref())
            .await
            .unwrap();
        for letter in page.items {
            assert!(ids.insert(letter.dead_letter_id.clone()), "twice: {letter:?}");
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(ids.len(), 24);

    let mut sweep = dead.sweep(&DeadLetterQuery::default()).await.unwrap();
    while let Some(ids) = sweep.next(10).await.unwrap() {
        for outcome in dead.requeue_many(&operator(), &ids, None).await.unwrap() {
            assert_eq!(outcome.unwrap().life, Some(2));
        }
    }

    let statistics = queue.get_statistics().await.unwrap();
    assert_eq!(
        (
            statistics.pending_count,
            statistics.failed_count,
            statistics.dead_letter_count
        ),
        (24, 24, 0)
    );
    let elsewhere = format!("{}.1", TaskId::derive("s", "e", None, None, 4096));
    let unknown = dead.get(&elsewhere).await;
    assert!(matches!(unknown, Err(Error::DeadLetterNotFound(_))), "{unknown:?}");
}

#[tokio::test]
async fn large_tasks_are_requeued_in_calls_that_stay_short() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let kwargs = json!({ "permanent": true });
    let payload = json!({ "task_name": "fail", "kwargs": kwargs, "metadata": { "big": "x".repeat(700_000) } });
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        redis.trigger(name, &payload).await;
    }
    log.until_count("task.dead_lettered", names.len()).await;
    let dead = letters(&redis);
    let page = dead.list(&DeadLetterQuery::default(), 100, None).await.unwrap();
    let ids: Vec<DeadLetterId> = page
        .items
        .iter()
        .map(|one| one.dead_letter_id.parse().unwrap())
        .collect();
    assert_eq!(ids.len(), names.len());
    let calls = async || redis.function_calls().await;
    // Nobody else calls meanwhile.
    drop(replica);
    let before = calls().await;

    for outcome in dead.requeue_many(&operator(), &ids, None).await.unwrap() {
        assert_eq!(outcome.unwrap().life, Some(2));
    }

    assert_eq!(calls().await - before, 3);
    let _replica = redis.replica().start().await;
    log.until_count("task.dead_lettered", 2 * names.len()).await;
    let ids: Vec<DeadLetterId> = all(&redis, &DeadLetterQuery::default(), 100)
        .await
        .iter()
        .map(|one| one.dead_letter_id.parse().unwrap())
        .collect();
    for outcome in dead
        .requeue_many(&operator(), &ids, Some(RetryPolicy::QUICK))
        .await
        .unwrap()
    {
        assert_eq!(outcome.unwrap().life, Some(3));
    }
    check_all_ended(&redis).await;
}

/// A task of the workflow `w`.
fn member(name: &str, kwargs: &Value, flags: u16, depends_on: Vec<(TaskId, Name)>) -> Member {
    let payload = json!({ "task_name": name, "kwargs": kwargs, "workflow_id": "w", "max_retries": 0 });
    let trigger = read_trigger("tester", "start", &payload.to_string()).unwrap();
    let origin = Origin {
        source_agent: if depends_on.is_empty() { "first" } else { "second" },
        event_id: "start",
        correlation_id: None,
        trace: None,
    };
    let task = Defaults::default().task(trigger, &origin, 1);
    let flags = flags | Flags::IN_GROUP | Flags::WAITS_ANYWAY;
    Member {
        task,
        flags,
        depends_on,
    }
}

#[tokio::test]
async fn a_workflow_goes_on_when_what_it_waited_for_is_requeued() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut log = redis.log().await;
    let first = member("flaky", &json!({ "fail_times": 1 }), Flags::HAS_DEPENDENTS, Vec::new());
    let flaky = first.task.id;
    let input = vec![(flaky, "flaky".parse().unwrap())];
    let second = member("noop", &json!({}), Flags::HAS_DEPENDENCIES, input);
    let noop = second.task.id;
    let group = NewGroup {
        id: "w".parse().unwrap(),
        kind: GroupKind::Workflow,
        identity: TaskId::derive("tester", "start", None, None, 1),
        name: None,
        policy: "wait",
        priority: None,
        correlation_id: "start".to_owned(),
        event_id: "start".to_owned(),
        trace: None,
        members: vec![first, second],
        steps: Vec::new(),
        compensations: Vec::new(),
    };
    let staged = redis
        .store()
        .stage(new_actor(), Asker::Caller, &Appetite::none(), &group)
        .await
        .unwrap()
        .0;
    assert_eq!(staged, Staged::Ok);
    let buried = log.until_task(flaky, "task.dead_lettered").await;
    // The other waits until somebody decides.
    assert_eq!(log.life(noop), ["created"]);

    letters(&redis)
        .requeue(&operator(), buried.text("dead_letter_id"), None)
        .await
        .unwrap();
    log.until_count("workflow.completed", 1).await;

    assert_eq!(log.life(noop).join(" "), "created started completed");
    let ended = log.all("workflow.completed")[0];
    assert_eq!(ended.payload["counts"]["COMPLETED"], 2);
    assert_eq!(
        (&ended.payload["counts"]["FAILED"], &ended.payload["root_cause_task_id"]),
        (&json!(0), &Value::Null)
    );
    check_all_ended(&redis).await;
}
