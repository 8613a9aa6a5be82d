//! How long things are kept, and that nothing is left of them then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;
use waooaw_orchestration::domain::id::{Name, Partition, QueueName, ReplicaId};
use waooaw_orchestration::domain::trigger::TaskTrigger;
use waooaw_orchestration::store::functions::{Appetite, Asker, Joining, Outcome, Settlement};
use waooaw_orchestration::store::groups::{GroupKind, Member, NewGroup, Staged};
use waooaw_orchestration::store::record::NewTask;
use waooaw_orchestration::{Handlers, Priority, ReplicaOptions, Retention, RetryPolicy, Store, Task, TaskId};

use crate::support::history::check_all_ended;
use crate::support::local::LocalReplica;
use crate::support::redis::{TestRedis, task_of};
use crate::support::{holds, wait_for};

const META: &str = "waooaw:{0}:meta";
const EVENTS: &str = "waooaw:{0}:events";
const LIMIT: u32 = 500;

fn member() -> ReplicaId {
    ReplicaId::from_random(7)
}

/// A member that does nothing by itself.
async fn join(redis: &TestRedis) -> Store {
    let store = redis.store();
    let joining = Joining {
        max_size: None,
        max_running: None,
        workers: Some(1),
        started_at: "2026-01-01T00:00:00.000Z",
        announce: true,
        task_names: &["work".to_owned()],
        limits: &BTreeMap::new(),
    };
    store.join(Partition::default(), member(), &joining).await.unwrap();
    store
}

fn keep(age: Duration, max_events: u64) -> Retention {
    Retention {
        age,
        max_events,
        ..Retention::default()
    }
}

/// Puts in a task and completes it.
async fn live(redis: &TestRedis, store: &Store) {
    redis.queue().await.enqueue(Task::new("work")).await.unwrap();
    let appetite = Appetite {
        slots: vec![0],
        ..Appetite::none()
    };
    let (claimed, _) = store.claim(Partition::default(), member(), &appetite).await.unwrap();
    let settlement = Settlement {
        task_id: claimed[0].task_id,
        attempt: 1,
        outcome: Outcome::Completed {
            result: "null".to_owned(),
            summary: None,
        },
    };
    store
        .settle(Partition::default(), member(), &Appetite::none(), &[settlement])
        .await
        .unwrap();
}

/// Lets the next removal be told at once.
async fn forget_last_notice(redis: &TestRedis) {
    redis.ask::<usize>(&["HDEL", META, "told_ms"]).await;
}

/// All keys but those that are there for a reason of their own: the numbers of the last minute, and what wakes replicas.
async fn keys(redis: &TestRedis) -> BTreeSet<String> {
    let keys: BTreeSet<String> = redis.ask(&["KEYS", "*"]).await;
    let is_bounded = |key: &String| ["waooaw:{0}:rate", "waooaw:{0}:ready"].contains(&key.as_str());
    keys.into_iter().filter(|key| !is_bounded(key)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_retention_nothing_is_left_of_any_task_but_its_dead_letter() {
    const EACH: usize = 400;
    let redis = TestRedis::start().await;
    let settings = redis
        .replica()
        .set("WAOOAW_RETENTION__AGE", "3s")
        .set("TASK_QUEUE_MAX_SIZE", "0");
    let mut replica = settings.start().await;
    redis.trigger("first", &json!({ "task_name": "noop" })).await;
    redis.log().await.until_task(task_of("first"), "task.completed").await;
    let gone = async |id: String| {
        wait_for("a task is forgotten", async || {
            let there: bool = redis.ask(&["EXISTS", &id]).await;
            holds(!there, || id.clone())
        })
        .await;
    };
    gone(format!("waooaw:{{0}}:t:{}", task_of("first"))).await;
    let fresh = keys(&redis).await;

    // What the process has no handler for is parked for a while.
    let special = Handlers::new().with_async("special", |(): (), _| async { Ok(()) });
    let mut options = ReplicaOptions::new(special);
    options.workers = 2;
    options.retention = None;
    options.max_size = None;
    let local = LocalReplica::start(&redis, options).await;
    let kinds = [
        json!({ "task_name": "echo", "workflow_id": "flow" }),
        json!({ "task_name": "special" }),
        json!({ "task_name": "noop", "delay_seconds": 0.3 }),
        json!({ "task_name": "flaky", "kwargs": { "fail_times": 2 }, "retry": "QUICK" }),
        json!({ "task_name": "fail", "kwargs": { "permanent": true }, "workflow_id": "flow" }),
        json!({ "task_name": "noop", "delay_seconds": 3600 }),
        json!({ "task_name": "noop", "prioritee": 1 }),
    ];
    for (kind, payload) in kinds.iter().enumerate() {
        redis
            .trigger_all((0..EACH).map(|number| (format!("{kind}-{number}"), payload.clone())))
            .await;
    }
    for number in 0..EACH {
        redis
            .cancel(&format!("c-{number}"), task_of(&format!("5-{number}")))
            .await;
        // Refused: its task has ended, or is ended by the other.
        redis
            .cancel(&format!("d-{number}"), task_of(&format!("5-{number}")))
            .await;
    }
    wait_for("everything has ended", async || {
        let statistics = redis.queue().await.get_statistics().await.unwrap();
        let ended = statistics.completed_count + statistics.failed_count + statistics.cancelled_count;
        holds(ended == 6 * EACH as u64 + 1, || format!("{statistics:?}"))
    })
    .await;
    local.stop().await;

    let dead: usize = wait_for("only dead letters are left", async || {
        let left: Vec<String> = keys(&redis).await.difference(&fresh).cloned().collect();
        let (dead, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|key| key.contains(":dead"));
        match others.first() {
            None => Ok(dead.len()),
            Some(other) => Err(format!("{} others, such as {other}", others.len())),
        }
    })
    .await;
    // Those of failed tasks, of rejected triggers, and their index.
    assert_eq!(dead, 2 * EACH + 1);
    let statistics = redis.queue().await.get_statistics().await.unwrap();
    assert_eq!(statistics.dead_letter_count, 2 * EACH as u64);
    assert_eq!(statistics.total_count, 6 * EACH as u64 + 1);
    let horizon = redis.store().horizon(Partition::default()).await.unwrap();
    assert_eq!(horizon.tasks, 6 * EACH as u64 + 1, "{horizon:?}");

    replica.stop().await;
    let _next = settings.set("WAOOAW_RETENTION__DEAD_LETTERS", "1s").start().await;
    wait_for("dead letters go by their own time", async || {
        let left: Vec<String> = keys(&redis).await.symmetric_difference(&fresh).cloned().collect();
        // The replica has another name.
        let left: Vec<_> = left.iter().filter(|key| !key.contains(":r-")).collect();
        holds(left.is_empty(), || {
            format!("{} keys, such as {:?}", left.len(), left.first())
        })
    })
    .await;
}

#[tokio::test]
async fn a_log_at_rest_settles_at_its_limit_and_tells_of_each_removal_once() {
    const MAX: u64 = 10;
    let redis = TestRedis::start().await;
    let store = join(&redis).await;
    for _ in 0..20 {
        live(&redis, &store).await;
    }
    let retention = keep(Duration::from_secs(3600), MAX);
    let sweep = async || {
        forget_last_notice(&redis).await;
        let trimmed = store.trim(Partition::default(), member(), Some(&retention), LIMIT, false);
        trimmed.await.unwrap().expect("it is a member")
    };

    let first = sweep().await;
    let length: u64 = redis.ask(&["XLEN", EVENTS]).await;
    let log = redis.log().await;

    assert_eq!(length, MAX);
    // 61 events, of which 9 stay, and the notice.
    assert_eq!((first.events, first.tasks, first.is_more), (52, 17, false));
    let notice = log.events.last().unwrap();
    assert_eq!(notice.kind, "operator.action");
    assert_eq!(
        (
            notice.text("action"),
            notice.text("target"),
            notice.text("actor"),
            notice.text("reason")
        ),
        ("trim", "events", member().as_str(), "retention")
    );
    assert_eq!(notice.payload["events"], 52);
    assert_eq!(notice.payload["tasks"], 17);
    let horizon = store.horizon(Partition::default()).await.unwrap();
    assert_eq!(notice.text("trimmed_to"), horizon.trimmed_to.clone().unwrap());
    assert_eq!((horizon.events, horizon.tasks), (52, 17));

    for _ in 0..5 {
        let again = sweep().await;
        assert_eq!((again.events, again.is_more), (0, false), "it does not settle");
    }
    // All of it grows old, the notice too: that is told of once, and that this notice goes is not.
    let retention = keep(Duration::ZERO, MAX);
    let old = async || {
        forget_last_notice(&redis).await;
        let trimmed = store.trim(Partition::default(), member(), Some(&retention), LIMIT, false);
        let trimmed = trimmed.await.unwrap().expect("it is a member");
        (trimmed.events, redis.ask::<u64>(&["XLEN", EVENTS]).await)
    };
    assert_eq!(old().await, (10, 1));
    assert_eq!(old().await, (1, 0));
    assert_eq!(old().await, (0, 0));
}

#[tokio::test]
async fn a_task_that_lives_outlasts_its_events_and_goes_with_its_last() {
    let redis = TestRedis::start().await;
    let store = join(&redis).await;
    let task = redis.queue().await.enqueue(Task::new("work")).await.unwrap();
    let record = store.keys().task(task);
    let sweep = async || {
        let everything = keep(Duration::ZERO, 1);
        let trimmed = store.trim(Partition::default(), member(), Some(&everything), LIMIT, false);
        trimmed.await.unwrap().expect("it is a member");
        redis.ask::<bool>(&["EXISTS", &record]).await
    };

    assert!(sweep().await, "it waits");
    let appetite = Appetite {
        slots: vec![0],
        ..Appetite::none()
    };
    let (claimed, _) = store.claim(Partition::default(), member(), &appetite).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert!(sweep().await, "it runs");
    let settlement = Settlement {
        task_id: task,
        attempt: 1,
        outcome: Outcome::Rejected { error: "{}".to_owned() },
    };
    store
        .settle(Partition::default(), member(), &Appetite::none(), &[settlement])
        .await
        .unwrap();
    assert!(!sweep().await, "it has ended");

    assert_eq!(redis.queue().await.get_statistics().await.unwrap().dead_letter_count, 1);
    let again = redis.queue().await.get_task(task).await.unwrap_err();
    assert_eq!(again.code(), "TaskNotFound");
}

#[tokio::test]
async fn a_queue_that_nobody_uses_for_a_day_is_forgotten_and_others_are_not() {
    let redis = TestRedis::start().await;
    let store = join(&redis).await;
    let queue = redis.queue().await;
    for name in ["busy", "idle"] {
        queue.enqueue(Task::new("work").queue(name)).await.unwrap();
    }
    let stale = |priority| format!("waooaw:{{0}}:queue:old:{priority}");
    redis.ask::<usize>(&["SADD", "waooaw:{0}:queues", "old"]).await;
    for priority in ["high", "normal", "low", "background"] {
        let stream = stale(priority);
        let made: String = redis
            .ask(&["XGROUP", "CREATE", &stream, "workers", "0", "MKSTREAM"])
            .await;
        assert_eq!(made, "OK");
        let entry: String = redis.ask(&["XADD", &stream, "1000-1", "t", "x"]).await;
        redis.ask::<usize>(&["XDEL", &stream, &entry]).await;
    }
    redis
        .ask::<usize>(&["ZADD", "waooaw:{0}:handlers", "1000", "long ago"])
        .await;

    let trimmed = store.trim(Partition::default(), member(), None, LIMIT, false).await;
    trimmed.unwrap().expect("it is a member");

    let queues: BTreeSet<String> = redis.ask(&["SMEMBERS", "waooaw:{0}:queues"]).await;
    assert_eq!(queues, ["busy", "default", "idle"].map(str::to_owned).into());
    for priority in ["high", "normal", "low", "background"] {
        assert!(!redis.ask::<bool>(&["EXISTS", &stale(priority)]).await);
    }
    let names: Vec<String> = redis.ask(&["ZRANGE", "waooaw:{0}:handlers", "0", "-1"]).await;
    assert_eq!(names, ["work"]);
}

#[tokio::test]
async fn delays_do_not_last_longer_when_the_clock_of_redis_goes_back() {
    const COUNT: usize = 2500;
    let redis = TestRedis::start().await;
    let _replica = redis.replica().set("TASK_QUEUE_MAX_SIZE", "0").start().await;
    let delayed = json!({ "task_name": "noop", "delay_seconds": 3600 });
    redis
        .trigger_all((0..COUNT).map(|number| (format!("e-{number}"), delayed.clone())))
        .await;
    redis.log().await.until_count("task.created", COUNT).await;

    // As if Redis had been nearly an hour ahead until now.
    let (seconds, _): (u64, u64) = redis.ask(&["TIME"]).await;
    let ahead = ((seconds + 3599) * 1000).to_string();
    redis.ask::<usize>(&["HSET", META, "clock_ms", &ahead]).await;
    redis.log().await.until_count("task.completed", COUNT).await;

    let went_back = redis.store().horizon(Partition::default()).await.unwrap().went_back_ms;
    assert!((3_590_000..3_600_000).contains(&went_back), "{went_back}");
    assert!(!redis.ask::<bool>(&["EXISTS", "waooaw:{0}:shifting"]).await);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn who_joined_never_may_not_trim() {
    let redis = TestRedis::start().await;
    redis.queue().await.enqueue(Task::new("work")).await.unwrap();
    let store = redis.store();
    let everything = keep(Duration::ZERO, 1);

    let trimmed = store.trim(Partition::default(), member(), Some(&everything), LIMIT, false);

    assert_eq!(trimmed.await.unwrap(), None);
    assert_eq!(redis.ask::<u64>(&["XLEN", EVENTS]).await, 1);
}

/// A task of the workflow `deal`.
fn member_of_deal(number: u32) -> NewTask {
    let deal: Name = "deal".parse().unwrap();
    NewTask {
        id: TaskId::derive("tester", "deal", Some("deal"), Some(&number.to_string()), 1),
        trigger: TaskTrigger::new("work".parse().unwrap()),
        event_id: "deal".to_owned(),
        correlation_id: "deal".to_owned(),
        trace: None,
        workflow_id: Some(deal),
        saga: None,
        retry: RetryPolicy::STANDARD,
        queue: QueueName::default(),
        priority: Priority::Normal,
        timeout_seconds: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tasks_of_a_workflow_go_with_the_workflow() {
    // More than one call forgets.
    const COUNT: u32 = 700;
    let redis = TestRedis::start().await;
    let store = join(&redis).await;
    let first = member_of_deal(0).id;
    let flags = |number| if number == 0 { 4 | 2 } else { 4 | 1 };
    let members = (0..COUNT).map(|number| Member {
        task: member_of_deal(number),
        flags: flags(number),
        depends_on: (number > 0)
            .then(|| (first, "first".parse().unwrap()))
            .into_iter()
            .collect(),
    });
    let group = NewGroup {
        id: "deal".parse().unwrap(),
        kind: GroupKind::Workflow,
        identity: TaskId::derive("tester", "deal", None, None, 1),
        name: None,
        policy: "cancel",
        priority: None,
        correlation_id: "deal".to_owned(),
        event_id: "deal".to_owned(),
        trace: None,
        members: members.collect(),
        steps: Vec::new(),
        compensations: Vec::new(),
    };
    let sweep = async || {
        let everything = keep(Duration::ZERO, 1);
        let trimmed = store.trim(Partition::default(), member(), Some(&everything), 300, false);
        trimmed.await.unwrap().expect("it is a member")
    };
    let sweep_all = async || while sweep().await.is_more {};
    let fresh = keys(&redis).await;
    let staged = store
        .stage(member(), Asker::Program, &Appetite::none(), &group)
        .await
        .unwrap();
    assert_eq!(staged.0, Staged::Ok);

    // The first ends long before the others; they read what came of it.
    let appetite = Appetite {
        slots: vec![0],
        ..Appetite::none()
    };
    store.promote(Partition::default(), member(), 100).await.unwrap();
    let (claimed, _) = store.claim(Partition::default(), member(), &appetite).await.unwrap();
    assert_eq!(claimed[0].task_id, first);
    let settlement = Settlement {
        task_id: first,
        attempt: 1,
        outcome: Outcome::Completed {
            result: "1".to_owned(),
            summary: None,
        },
    };
    store
        .settle(Partition::default(), member(), &Appetite::none(), &[settlement])
        .await
        .unwrap();
    sweep_all().await;
    assert!(
        redis.ask::<bool>(&["EXISTS", &store.keys().task(first)]).await,
        "its workflow goes on"
    );

    let mut options = ReplicaOptions::new(Handlers::new().with_async("work", |(): (), _| async { Ok(()) }));
    options.retention = None;
    let local = LocalReplica::start(&redis, options).await;
    wait_for("the workflow has ended", async || {
        let group = store.group(&"deal".parse().unwrap()).await.unwrap();
        holds(group.as_ref().is_some_and(|group| group.state == 'C'), || {
            "it has not".to_owned()
        })
    })
    .await;
    local.stop().await;
    redis.ask::<usize>(&["HDEL", META, "told_ms"]).await;
    sweep_all().await;

    let left = keys(&redis).await;
    // The replica made the inbound streams, and how many workflows have ended is counted for good.
    let left: Vec<_> = left
        .difference(&fresh)
        .filter(|key| key.starts_with("waooaw:{0}:") && *key != "waooaw:{0}:groups")
        .collect();
    assert!(left.is_empty(), "{} keys, such as {:?}", left.len(), left.first());
    let horizon = store.horizon(Partition::default()).await.unwrap();
    assert_eq!(horizon.tasks, u64::from(COUNT));
}
