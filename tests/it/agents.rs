//! Tasks that agents carry out: programs outside, here played by the test, which read their inbox and answer on the bus.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waooaw_orchestration::runtime::{explain, operate, request};
use waooaw_orchestration::{Limits, Operator, TaskId};

use crate::support::agent::{Agent, Letter, letters};
use crate::support::history::{check, check_all_ended};
use crate::support::log::Log;
use crate::support::redis::{TestRedis, task_of};
use crate::support::workflow::publish;
use crate::support::{holds, wait_for, wait_within};

fn quote() -> Value {
    json!({ "task_name": "sales.quote", "agent_id": "sales" })
}

async fn until_refused(log: &mut Log<'_>, entry: &str) -> Value {
    log.until("the command is refused", |log| {
        let refused = log.all("command.refused");
        let found = refused.into_iter().find(|event| event.subject == entry);
        found.map(|event| event.payload.clone())
    })
    .await
}

#[tokio::test]
async fn a_task_for_an_agent_goes_through_its_inbox_and_comes_back_with_a_result() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let args = "[ 12345678901234567890, \"a \\u00e9\" , [] ]";
    let payload = format!(
        r#"{{"task_name":"sales.quote","agent_id":"sales","args":{args},"kwargs":{{"deep": {{"empty":{{}}}}}},"metadata":{{"z":1,"a":2}},"timeout_seconds":60}}"#
    );
    let fields: [(&[u8], &[u8]); 5] = [
        (b"event_type", b"orchestration.task.trigger"),
        (b"source_agent", b"tester"),
        (b"event_id", b"one"),
        (
            b"traceparent",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        (b"payload", payload.as_bytes()),
    ];
    redis.add("waooaw:triggers", &fields).await;
    let sales = Agent::new(&redis, "sales");
    let task = task_of("one");

    let letter = sales.next().await;
    let mut log = redis.log().await;
    let started = log.until_task(task, "task.started").await;
    assert_eq!(started.text("worker_id"), "agent:sales");
    let middle = format!(
        r#"{{"task_id":"{task}","attempt":1,"name":"sales.quote","args":{args},"kwargs":{{"deep": {{"empty":{{}}}}}},"inputs":{{}},"workflow_id":null,"metadata":{{"z":1,"a":2}},"deadline":""#
    );
    assert!(letter.text.starts_with(&middle), "{}", letter.text);
    assert_eq!(letter.event_id, format!("{task}.1/1"));
    let holders = redis.consumers("waooaw:{0}:agents:default:normal", "workers").await;
    assert!(holders.contains(&"agent:sales".to_owned()), "{holders:?}");
    sales
        .say(
            "heartbeat",
            json!({ "task_id": task.to_string(), "attempt": 1, "progress": { "percent": 40 } }),
        )
        .await;
    wait_for("the progress shows", async || {
        let document = request::task_document(&redis.store(), task).await.unwrap();
        let progress = document.progress.map(|progress| progress.get().to_owned());
        holds(progress.as_deref() == Some(r#"{"percent":40}"#), || {
            format!("{progress:?}")
        })
    })
    .await;
    check(&redis).await;
    sales.complete(&letter, json!({ "price": 7 })).await;
    let completed = log.until_task(task, "task.completed").await;

    assert_eq!(completed.payload["result"], json!({ "price": 7 }));
    assert_eq!(completed.text("worker_id"), "agent:sales");
    let document = request::task_document(&redis.store(), task).await.unwrap();
    assert_eq!(document.worker_id.as_deref(), Some("agent:sales"));
    assert_eq!(document.agent_id.as_deref(), Some("sales"));
    // Nothing is left in the inbox.
    let left: usize = redis.ask(&["XLEN", &sales.inbox()]).await;
    assert_eq!(left, 0);
    assert_eq!(redis.pending(&sales.inbox(), "sales").await, 0);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_handler_of_kind_agent_needs_no_agent_in_the_trigger_and_brings_its_defaults() {
    let redis = TestRedis::start().await;
    let config = "[handlers.\"ship.parcel\"]\nkind = \"agent\"\nagent_id = \"shipping\"\nqueue = \"parcels\"\npriority = \"HIGH\"\n\
                  timeout_seconds = 1\nretry = { max_retries = 0 }\n";
    // One replica knows of the agent, and any may read the trigger.
    let _one = redis.replica().config(config).start().await;
    let _other = redis.replica().start().await;
    redis
        .trigger("late", &json!({ "task_name": "ship.parcel", "metadata": { "box": 1 } }))
        .await;
    let shipping = Agent::new(&redis, "shipping");

    let letter = shipping.next().await;
    assert_eq!(letter.payload["name"], "ship.parcel");
    assert_eq!(letter.payload["metadata"], json!({ "box": 1 }));
    assert!(letter.payload["deadline"].is_string(), "{}", letter.text);
    let mut log = redis.log().await;
    let created = log.until_task(task_of("late"), "task.created").await;
    assert_eq!(created.payload["agent_id"], "shipping");
    // Its time runs out, by a timer in Redis.
    log.until("the attempt ends", |log| {
        log.of(&task_of("late").to_string())
            .into_iter()
            .find(|event| event.kind == "task.timeout" || event.kind == "task.retry_scheduled")
            .cloned()
    })
    .await;
    let document = request::task_document(&redis.store(), task_of("late")).await.unwrap();
    assert!(
        document
            .error
            .unwrap()
            .get()
            .contains("exceeded max execution time of 1 s")
    );
    wait_for("no assignment of the attempt is left", async || {
        let assigned = letters_in(&redis, &shipping.inbox()).await;
        let left = assigned.iter().filter(|one| one.payload["attempt"] == 1).count();
        holds(left == 0, || format!("{assigned:?}"))
    })
    .await;
    redis.cancel("enough", task_of("late")).await;
    check_all_ended(&redis).await;
}

async fn letters_in(redis: &TestRedis, inbox: &str) -> Vec<Letter> {
    let entries: redis::Value = redis.ask(&["XRANGE", inbox, "-", "+"]).await;
    letters(redis::Value::Array(vec![redis::Value::Array(vec![
        redis::Value::BulkString(inbox.as_bytes().to_vec()),
        entries,
    ])]))
}

#[tokio::test]
async fn a_name_with_a_handler_of_its_own_is_not_handed_to_the_agent_that_is_named() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;

    redis
        .trigger("own", &json!({ "task_name": "echo", "agent_id": "sales" }))
        .await;
    let mut log = redis.log().await;
    let completed = log.until_task(task_of("own"), "task.completed").await;

    assert!(completed.text("worker_id").starts_with("r-"), "{completed:?}");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_failed_attempt_is_retried_by_the_policy_and_a_permanent_failure_is_not() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut flaky = quote();
    flaky["retry"] = json!({ "max_retries": 2, "initial_delay_seconds": 0.3, "jitter": 0 });
    redis.trigger("flaky", &flaky).await;
    let sales = Agent::new(&redis, "sales");
    let mut log = redis.log().await;

    let first = sales.next().await;
    sales.fail(&first, true).await;
    let retry = log.until_task(task_of("flaky"), "task.retry_scheduled").await;
    assert_eq!(retry.payload["error"]["type"], "OutOfStock");
    assert_eq!(retry.payload["delay_seconds"], 0.3);
    let second = sales.next().await;
    assert_eq!(second.payload["attempt"], 2);
    sales.fail(&second, false).await;
    let failed = log.until_task(task_of("flaky"), "task.failed").await;

    assert_eq!(failed.text("worker_id"), "agent:sales");
    assert_eq!(failed.payload["attempts"], 2);
    log.until_task(task_of("flaky"), "task.dead_lettered").await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn late_double_foreign_and_unknown_answers_change_nothing_and_are_told_once() {
    let redis = TestRedis::start().await;
    let _replica = redis
        .replica()
        .set("WAOOAW_QUEUE__REFERENCE_WAIT", "200ms")
        .start()
        .await;
    let mut again = quote();
    again["retry"] = json!({ "initial_delay_seconds": 0.0, "jitter": 0 });
    redis.trigger("one", &again).await;
    let sales = Agent::new(&redis, "sales");
    let mut log = redis.log().await;
    let first = sales.next().await;
    sales.fail(&first, true).await;
    let second = sales.next().await;

    let late = sales.complete(&first, json!("late")).await;
    let foreign = sales
        .say_as(
            "buying",
            None,
            "result",
            json!({ "task_id": second.payload["task_id"], "attempt": 2, "status": "completed" }),
        )
        .await;
    let beat = sales
        .say(
            "heartbeat",
            json!({ "task_id": second.payload["task_id"], "attempt": 1 }),
        )
        .await;
    let unknown = sales
        .say(
            "result",
            json!({ "task_id": task_of("nothing").to_string(), "attempt": 1, "status": "completed" }),
        )
        .await;
    for (entry, reason) in [
        (&late, "stale_attempt"),
        (&foreign, "stale_attempt"),
        (&beat, "stale_attempt"),
        (&unknown, "not_found"),
    ] {
        assert_eq!(until_refused(&mut log, entry).await["reason"], reason);
    }
    // Who sent something faulty finds the answer by the id that it named; nothing of it is kept.
    let id = task_of("one").to_string();
    let faulty = sales
        .say("result", json!({ "task_id": id, "attempt": 2, "status": "perhaps" }))
        .await;
    let large = sales
        .say(
            "result",
            json!({ "task_id": id, "attempt": 2, "status": "completed", "result": "x".repeat(2 << 20) }),
        )
        .await;
    for (entry, reason) in [(&faulty, "invalid_field"), (&large, "too_large")] {
        let refused = until_refused(&mut log, entry).await;
        assert_eq!(
            (&refused["reason"], &refused["task_id"], &refused["attempt"]),
            (&json!(reason), &json!(id), &json!(2))
        );
        assert!(!refused["errors"].to_string().contains("kept"), "{refused}");
    }
    log.refresh().await;
    assert_eq!(log.life(task_of("one")).last(), Some(&"started"));
    // One process of the agent may answer by a name of its own.
    sales
        .say_as(
            "sales/two",
            Some("the end"),
            "result",
            json!({ "task_id": second.payload["task_id"], "attempt": 2, "status": "completed", "result": 2 }),
        )
        .await;
    log.until_task(task_of("one"), "task.completed").await;
    let double = sales.complete(&second, json!("double")).await;
    assert_eq!(until_refused(&mut log, &double).await["reason"], "invalid_transition");
    // The same event once more was heard before.
    sales
        .say_as(
            "sales/two",
            Some("the end"),
            "result",
            json!({ "task_id": second.payload["task_id"], "attempt": 2, "status": "completed", "result": 2 }),
        )
        .await;
    check_all_ended(&redis).await;
    log.refresh().await;
    assert_eq!(log.count("command.refused"), 7, "{:?}", log.all("command.refused"));
}

#[tokio::test]
async fn silence_after_the_assignment_was_read_loses_the_attempt_and_an_unread_one_waits() {
    let redis = TestRedis::start().await;
    let config = "[handlers.\"sales.quote\"]\nkind = \"agent\"\nagent_id = \"sales\"\nheartbeat_timeout_seconds = 1\n";
    let _replica = redis.replica().config(config).start().await;
    redis.trigger("one", &json!({ "task_name": "sales.quote" })).await;
    let sales = Agent::new(&redis, "sales");
    let mut log = redis.log().await;
    log.until_task(task_of("one"), "task.started").await;
    // Longer than it may be silent; nobody has read it.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    log.refresh().await;
    assert_eq!(log.life(task_of("one")), ["created", "started"]);
    let told = explain::explain(&redis.store(), task_of("one")).await.unwrap();
    assert!(told.summary.contains("no process of the agent has read it"), "{told:?}");

    for attempt in 1..=3 {
        let letter = sales.next().await;
        assert_eq!(letter.payload["attempt"], attempt);
        let beaten = Instant::now();
        if attempt == 1 {
            while beaten.elapsed() < Duration::from_millis(2500) {
                sales
                    .say(
                        "heartbeat",
                        json!({ "task_id": letter.payload["task_id"], "attempt": 1 }),
                    )
                    .await;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            log.refresh().await;
            assert_eq!(log.life(task_of("one")), ["created", "started"]);
        }
        if attempt < 3 {
            log.until("the attempt is lost", |log| {
                (log.count("task.retry_scheduled") == attempt).then_some(())
            })
            .await;
        }
    }
    let failed = log.until_task(task_of("one"), "task.failed").await;

    assert_eq!(failed.payload["error"]["type"], "lost");
    let lost = log.all("task.retry_scheduled");
    assert!(
        lost.iter().all(|event| event.payload["error"]["type"] == "lost"),
        "{lost:?}"
    );
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn an_agent_is_told_to_stop_and_the_task_is_cancelled_at_once() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    redis.trigger("one", &quote()).await;
    let sales = Agent::new(&redis, "sales");
    let letter = sales.next().await;

    redis.cancel("stop", task_of("one")).await;
    let mut log = redis.log().await;
    log.until_task(task_of("one"), "task.cancelled").await;

    let told = wait_for("word of the cancel", async || {
        let letters = sales.read().await;
        letters.first().cloned().ok_or_else(|| "nothing".to_owned())
    })
    .await;
    assert_eq!(told.kind, "orchestration.task.cancel");
    assert_eq!(
        told.payload,
        json!({ "task_id": letter.payload["task_id"], "attempt": 1, "reason": "requested" })
    );
    let late = sales.complete(&letter, json!(1)).await;
    assert_eq!(until_refused(&mut log, &late).await["reason"], "invalid_transition");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn agents_count_in_max_running_and_get_what_waits_in_order_when_there_is_room() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().set("WAOOAW_QUEUE__MAX_RUNNING", "2").start().await;
    let store = redis.store();
    for number in 0..6 {
        let mut task = quote();
        task["args"] = json!([number]);
        task["priority"] = json!(if number == 5 { "HIGH" } else { "NORMAL" });
        redis.trigger(&format!("t{number}"), &task).await;
    }
    let mut log = redis.log().await;
    log.until_count("task.created", 6).await;
    let sales = Agent::new(&redis, "sales");
    let mut order = Vec::new();
    let mut held = Vec::new();
    wait_for("two are handed over", async || {
        held.extend(sales.read().await);
        holds(held.len() == 2, || format!("{held:?}"))
    })
    .await;
    assert_eq!(operate::queue(&store, "default").await.unwrap().running_count, 2);
    check(&redis).await;

    while let Some(letter) = held.first().cloned() {
        held.remove(0);
        order.push(letter.payload["args"][0].as_u64().unwrap());
        sales.complete(&letter, json!(null)).await;
        log.until_count("task.completed", order.len()).await;
        held.extend(sales.read().await);
        assert!(held.len() <= 2, "{held:?}");
    }

    assert_eq!(order.len(), 6);
    assert!(order.iter().position(|one| *one == 5) <= Some(2), "{order:?}");
    let normal: Vec<u64> = order.into_iter().filter(|one| *one < 5).collect();
    assert_eq!(normal, [0, 1, 2, 3, 4]);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_queue_full_of_running_agent_tasks_takes_results_and_a_cancel_and_drains() {
    let redis = TestRedis::start().await;
    let _replica = redis
        .replica()
        .workers(2)
        .set("TASK_QUEUE_MAX_SIZE", "20")
        .start()
        .await;
    redis
        .trigger_all((0..40).map(|number| (format!("t{number}"), quote())))
        .await;
    let sales = Agent::new(&redis, "sales");
    let mut log = redis.log().await;
    log.until_count("task.started", 20).await;
    redis.cancel("one of them", task_of("t0")).await;
    log.until_count("task.cancelled", 1).await;

    let mut done = 0;
    wait_within(Duration::from_secs(60), "all are done", async || {
        for letter in sales.read().await {
            if letter.kind == "orchestration.task.assigned" {
                sales.complete(&letter, json!(null)).await;
                done += 1;
            }
        }
        log.refresh().await;
        holds(log.count("task.completed") + log.count("task.cancelled") == 40, || {
            log.summary()
        })
    })
    .await;

    assert!(done >= 39, "{done}");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn an_agent_gets_its_task_while_every_worker_is_busy() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().workers(1).start().await;
    redis
        .trigger("busy", &json!({ "task_name": "sleep", "kwargs": { "ms": 20000 } }))
        .await;
    redis.trigger("queued", &json!({ "task_name": "noop" })).await;
    let mut log = redis.log().await;
    log.until_task(task_of("busy"), "task.started").await;
    let began = Instant::now();

    redis.trigger("one", &quote()).await;
    let sales = Agent::new(&redis, "sales");
    let letter = sales.next().await;
    sales.complete(&letter, json!(1)).await;
    log.until_task(task_of("one"), "task.completed").await;

    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(log.life(task_of("queued")), ["created"]);
    redis.cancel("enough", task_of("busy")).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_paused_queue_hands_nothing_over_until_it_goes_on() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let (store, operator) = (redis.store(), Operator::new("night shift", None));
    assert!(operate::pause_queue(&store, &operator, "default").await.unwrap());
    redis.trigger("one", &quote()).await;
    let mut log = redis.log().await;
    log.until_task(task_of("one"), "task.created").await;
    let queue = operate::queue(&store, "default").await.unwrap();
    assert_eq!((queue.pending_count, queue.running_count), (1, 0));
    check(&redis).await;

    assert!(operate::resume_queue(&store, &operator, "default").await.unwrap());
    let sales = Agent::new(&redis, "sales");
    let letter = sales.next().await;
    // A limit that is raised makes room too.
    let limits = Limits {
        max_size: None,
        max_running: Some(1),
    };
    operate::set_limits(&store, &operator, None, limits).await.unwrap();
    redis.trigger("two", &quote()).await;
    log.until_task(task_of("two"), "task.created").await;
    assert!(sales.read().await.is_empty());
    let limits = Limits {
        max_size: None,
        max_running: Some(2),
    };
    operate::set_limits(&store, &operator, None, limits).await.unwrap();
    let second = sales.next().await;
    sales.complete(&letter, json!(1)).await;
    sales.complete(&second, json!(2)).await;

    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_queue_that_only_agents_serve_is_not_forgotten_while_something_waits_there() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().set("WAOOAW_QUEUE__MAX_RUNNING", "1").start().await;
    let mut parcel = quote();
    parcel["queue"] = json!("parcels");
    redis.trigger("first", &parcel).await;
    redis.trigger("second", &parcel).await;
    let sales = Agent::new(&redis, "sales");
    let first = sales.next().await;

    // It is cleaned up every ten seconds; now it is time again.
    let meta = "waooaw:{0}:meta";
    let _: i64 = redis.ask(&["HDEL", meta, "tidied_ms"]).await;
    wait_for("it is cleaned up", async || {
        let is_done: bool = redis.ask(&["HEXISTS", meta, "tidied_ms"]).await;
        holds(is_done, || "not yet".to_owned())
    })
    .await;
    sales.complete(&first, json!(1)).await;
    let second = sales.next().await;

    assert_eq!(second.payload["task_id"], task_of("second").to_string());
    sales.complete(&second, json!(2)).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn killed_replicas_lose_no_task_of_an_agent_and_it_answers_those_that_come_after() {
    let redis = TestRedis::start_durable().await;
    let mut replicas = redis.replica().start_many(2).await;
    redis.trigger("one", &quote()).await;
    redis.trigger("two", &quote()).await;
    let sales = Agent::new(&redis, "sales");
    let mut held = vec![sales.next().await];
    wait_for("both are read", async || {
        held.extend(sales.read().await);
        held.dedup_by(|one, other| one.entry == other.entry);
        holds(held.len() == 2, || format!("{held:?}"))
    })
    .await;
    drop(replicas.pop());
    drop(replicas);

    sales.complete(&held[0], json!(1)).await;
    redis.kill().await;
    redis.start_again().await;
    let _anew = redis.replica().start().await;
    let mut log = redis.log().await;
    log.until_task(
        held[0].payload["task_id"].as_str().unwrap().parse().unwrap(),
        "task.completed",
    )
    .await;
    sales.complete(&held[1], json!(2)).await;

    check_all_ended(&redis).await;
    log.refresh().await;
    assert_eq!(log.count("task.started"), 2, "no attempt was lost");
}

#[tokio::test]
async fn an_answer_that_came_while_no_replica_ran_counts_however_long_that_was() {
    let redis = TestRedis::start().await;
    let config = "[handlers.\"sales.quote\"]\nkind = \"agent\"\nagent_id = \"sales\"\nheartbeat_timeout_seconds = 1\n";
    let settings = redis.replica().config(config);
    let mut replica = settings.start().await;
    redis.trigger("one", &quote()).await;
    let sales = Agent::new(&redis, "sales");
    let letter = sales.next().await;
    replica.kill();
    sales.complete(&letter, json!(7)).await;

    // Longer than the agent may be silent, and than anybody takes to look again.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let _replica = settings.start().await;
    let mut log = redis.log().await;
    log.until_task(task_of("one"), "task.completed").await;

    assert_eq!(log.life(task_of("one")).join(" "), "created started completed");
}

#[tokio::test]
async fn another_process_of_the_agent_takes_over_and_the_first_is_fenced() {
    let redis = TestRedis::start().await;
    let config = "[handlers.\"sales.quote\"]\nkind = \"agent\"\nagent_id = \"sales\"\nheartbeat_timeout_seconds = 1\n";
    let _replica = redis.replica().config(config).start().await;
    redis.trigger("one", &quote()).await;
    let zombie = Agent::new(&redis, "sales");
    let first = zombie.next().await;
    let mut log = redis.log().await;
    log.until_task(task_of("one"), "task.retry_scheduled").await;

    let fresh = Agent {
        process: "two",
        ..Agent::new(&redis, "sales")
    };
    let second = fresh.next().await;
    assert_eq!(second.payload["attempt"], 2);
    let late = zombie.complete(&first, json!("zombie")).await;
    assert_eq!(until_refused(&mut log, &late).await["reason"], "stale_attempt");
    fresh.complete(&second, json!("fresh")).await;
    let completed = log.until_task(task_of("one"), "task.completed").await;

    assert_eq!(completed.payload["result"], "fresh");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn agents_carry_out_a_workflow_and_get_the_results_of_those_before() {
    let redis = TestRedis::start().await;
    let _replicas = redis.replica().start_many(2).await;
    let payload = json!({ "workflow_id": "order", "tasks": [
        { "task_id": "check", "name": "stock.check", "agent_id": "stock", "args": [3] },
        { "task_id": "add", "name": "add", "args": [5, 3] },
        { "task_id": "quote", "name": "sales.quote", "agent_id": "sales", "dependencies": ["check", "add"] },
        { "task_id": "end", "name": "echo", "dependencies": ["quote"] },
    ]});
    redis
        .add(
            "waooaw:triggers",
            &[
                (b"event_type", b"orchestration.workflow.start"),
                (b"source_agent", b"tester"),
                (b"payload", payload.to_string().as_bytes()),
            ],
        )
        .await;
    let (stock, sales) = (Agent::new(&redis, "stock"), Agent::new(&redis, "sales"));

    let letter = stock.next().await;
    assert_eq!(letter.payload["workflow_id"], "order");
    stock.complete(&letter, json!({ "left": 9 })).await;
    let letter = sales.next().await;
    assert_eq!(letter.payload["inputs"], json!({ "check": { "left": 9 }, "add": 8 }));
    sales.complete(&letter, json!("cheap")).await;
    let mut log = redis.log().await;
    log.until_count("workflow.completed", 1).await;

    let end = log
        .all("task.completed")
        .into_iter()
        .find(|event| event.text("task_name") == "echo")
        .unwrap()
        .clone();
    assert_eq!(end.payload["result"]["inputs"], json!({ "quote": "cheap" }));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_saga_step_of_an_agent_that_fell_silent_is_in_doubt_and_is_undone_by_the_agent() {
    let redis = TestRedis::start().await;
    let config = "[handlers.\"pay.charge\"]\nkind = \"agent\"\nagent_id = \"pay\"\nheartbeat_timeout_seconds = 1\nretry = { max_retries = 0 }\n";
    let _replica = redis.replica().config(config).start().await;
    let payload = json!({ "saga_id": "s1", "steps": [
        { "name": "reserve", "action": "echo", "compensation": "noop" },
        { "name": "charge", "action": "pay.charge", "compensation": "pay.refund", "agent_id": "pay", "retry": { "max_retries": 0 } },
    ]});
    start_saga(&redis, &payload).await;
    let pay = Agent::new(&redis, "pay");
    let charge = pay.next().await;
    assert_eq!(charge.payload["name"], "pay.charge");

    let refund = pay.next().await;
    assert_eq!(refund.payload["name"], "pay.refund");
    pay.complete(&refund, json!(null)).await;
    let mut log = redis.log().await;
    log.until_count("saga.compensated", 1).await;

    let compensating = log.all("saga.compensating")[0].payload.clone();
    assert_eq!(compensating["steps_to_compensate"], json!(["charge", "reserve"]));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_cancelled_saga_tells_the_agent_and_undoes_its_step() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let payload = json!({ "saga_id": "s1", "steps": [
        { "name": "charge", "action": "pay.charge", "compensation": "noop", "agent_id": "pay" },
    ]});
    start_saga(&redis, &payload).await;
    let pay = Agent::new(&redis, "pay");
    pay.next().await;

    publish(&redis, "saga.cancel", "cancel", &json!({ "saga_id": "s1" })).await;
    let told = wait_for("word of the cancel", async || {
        let letters = pay.read().await;
        letters.first().cloned().ok_or_else(|| "nothing".to_owned())
    })
    .await;
    let mut log = redis.log().await;
    log.until_count("saga.compensated", 1).await;

    assert_eq!(told.payload["reason"], "saga_aborted");
    assert_eq!(
        log.all("saga.compensating")[0].payload["steps_to_compensate"],
        json!(["charge"])
    );
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_success_of_a_cancelled_step_that_comes_behind_the_end_of_its_saga_is_kept_and_verified() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let payload = json!({ "saga_id": "s1", "steps": [{ "name": "charge", "action": "pay.charge", "agent_id": "pay" }]});
    start_saga(&redis, &payload).await;
    let pay = Agent::new(&redis, "pay");
    let letter = pay.next().await;
    publish(&redis, "saga.cancel", "cancel", &json!({ "saga_id": "s1" })).await;
    let mut log = redis.log().await;
    log.until_count("saga.compensated", 1).await;

    pay.complete(&letter, json!("charged")).await;
    log.until_count("saga.step_late_success", 1).await;

    let kept = log.all("saga.step_late_success")[0].text("dead_letter_id").to_owned();
    assert_eq!(kept, format!("{}.late", letter.payload["task_id"].as_str().unwrap()));
    check_all_ended(&redis).await;
}

async fn start_saga(redis: &TestRedis, payload: &Value) {
    let payload = payload.to_string();
    redis
        .add(
            "waooaw:triggers",
            &[
                (b"event_type", b"orchestration.saga.start"),
                (b"source_agent", b"tester"),
                (b"payload", payload.as_bytes()),
            ],
        )
        .await;
}

#[tokio::test]
async fn what_an_outsider_spoiled_is_found_and_mended() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    redis.trigger("one", &quote()).await;
    let sales = Agent::new(&redis, "sales");
    let letter = sales.next().await;
    let task: TaskId = task_of("one");
    let _: i64 = redis.ask(&["ZREM", "waooaw:{0}:timers", &task.to_string()]).await;
    let _: i64 = redis.ask(&["DEL", &sales.inbox()]).await;

    let ran = crate::support::cli::Cli::on(&redis, &["audit", "verify"]).run().await;
    assert!(ran.out.contains("no timer looks after it"), "{}", ran.out);
    crate::support::cli::Cli::on(&redis, &["doctor", "--repair", "--yes"])
        .run()
        .await;
    // The look that the timer brings finds that the assignment is gone, and writes it again.
    let again = sales.next().await;

    assert_eq!(again.text, letter.text);
    sales.complete(&again, json!(1)).await;
    check_all_ended(&redis).await;
}
