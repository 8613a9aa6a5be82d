//! The task queue as programs that link the library see it, within one process and across several.

use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use waooaw_orchestration::{Error, Priority, RetryPolicy, Task, TaskId};

use crate::support::child::ChildProcess;
use crate::support::history::{check, check_all_ended};
use crate::support::redis::TestRedis;

fn quick() -> RetryPolicy {
    "QUICK".parse().unwrap()
}

#[tokio::test]
async fn a_task_goes_in_and_comes_out_as_it_was_put_in() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    let task = Task::new("process_data")
        .args(["data-123"])
        .kwargs(json!({ "deep": { "a": [] } }))
        .metadata(json!({ "who": "me" }))
        .priority(Priority::High)
        .workflow_id("workflow-1")
        .timeout(Duration::from_secs(5))
        .queue("billing");

    let id = queue.enqueue(task).await.unwrap();
    let waiting = queue.get_task(id).await.unwrap();
    assert_eq!(
        (waiting.state, waiting.name.as_str(), waiting.priority),
        ("PENDING", "process_data", "HIGH")
    );
    assert_eq!((waiting.attempt, waiting.retry_count, waiting.max_retries), (0, 0, 3));
    assert_eq!(
        (waiting.queue.as_str(), waiting.workflow_id.as_deref()),
        ("billing", Some("workflow-1"))
    );
    assert!(waiting.started_at.is_none() && waiting.completed_at.is_none() && waiting.agent_id.is_none());

    let taken = queue.dequeue(Duration::from_secs(5)).await.unwrap().unwrap();
    assert_eq!(
        (taken.task_id, taken.attempt, taken.name.as_str()),
        (id, 1, "process_data")
    );
    assert_eq!(taken.args.get(), r#"["data-123"]"#);
    assert_eq!(taken.kwargs.get(), r#"{"deep":{"a":[]}}"#);
    assert_eq!(taken.metadata.get(), r#"{"who":"me"}"#);
    assert_eq!(
        (taken.workflow_id.as_deref(), taken.timeout),
        (Some("workflow-1"), Some(Duration::from_secs(5)))
    );
    let running = queue.get_task(id).await.unwrap();
    assert!(running.state == "RUNNING" && running.started_at.is_some() && running.duration_ms.is_none());

    queue.complete_task(id, &json!({ "status": "success" })).await.unwrap();
    let done = queue.get_task(id).await.unwrap();
    assert_eq!(
        (done.state, done.result.unwrap().get()),
        ("COMPLETED", r#"{"status":"success"}"#)
    );
    assert!(done.completed_at.is_some() && done.duration_ms.is_some());
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn whoever_knows_a_task_can_wait_for_its_end() {
    let redis = TestRedis::start().await;
    let (queue, other) = (redis.queue().await, redis.queue().await);
    let id = queue.enqueue(Task::new("add").args([5, 3])).await.unwrap();

    let late = queue.wait(id, Some(Duration::from_millis(100))).await.unwrap_err();
    assert!(matches!(late, Error::WaitTimeout(_)), "{late:?}");
    assert!(late.to_string().contains(" is PENDING after 0.1 s"), "{late}");
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.wait(id, None).await }
    });
    other.dequeue(Duration::from_secs(5)).await.unwrap().unwrap();
    other.complete_task(id, &8).await.unwrap();

    let done = waiting.await.unwrap().unwrap();
    assert_eq!((done.state, done.result.unwrap().get()), ("COMPLETED", "8"));
    assert_eq!(queue.wait(id, None).await.unwrap().state, "COMPLETED");
    let unknown = TaskId::derive("nobody", "nothing", None, None, 1);
    assert!(matches!(queue.wait(unknown, None).await, Err(Error::TaskNotFound(_))));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_task_has_the_options_that_a_trigger_has() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    let later = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 100);
    let delayed = Task::new("work")
        .run_at(later)
        .max_retries(7)
        .tags([("shop", "berlin")]);
    let for_agent = Task::new("count_stock")
        .agent_id("stock")
        .tags([("a", "1"), ("b", "2")]);

    let delayed = queue.enqueue(delayed).await.unwrap();
    let for_agent = queue.enqueue(for_agent).await.unwrap();

    let delayed = queue.get_task(delayed).await.unwrap();
    assert_eq!(
        (delayed.run_at.as_deref(), delayed.max_retries, delayed.tags.get()),
        (Some("2069-12-07T00:00:00.000Z"), 7, r#"{"shop":"berlin"}"#)
    );
    let for_agent = queue.get_task(for_agent).await.unwrap();
    assert_eq!(
        (for_agent.agent_id.as_deref(), for_agent.tags.get()),
        (Some("stock"), r#"{"a":"1","b":"2"}"#)
    );
    // Nobody can do it but the agent, who has it.
    assert_eq!(redis.ask::<u64>(&["XLEN", "waooaw:{0}:agent:stock"]).await, 1);
    assert!(queue.dequeue(Duration::from_millis(100)).await.unwrap().is_none());
    check(&redis).await;
}

#[tokio::test]
async fn an_empty_queue_lets_a_wait_end_in_its_time() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    // The first call joins, which takes its own time.
    assert!(queue.dequeue(Duration::from_millis(1)).await.unwrap().is_none());

    let began = Instant::now();
    assert!(queue.dequeue(Duration::from_millis(100)).await.unwrap().is_none());

    assert!((Duration::from_millis(95)..Duration::from_secs(1)).contains(&began.elapsed()));
}

#[tokio::test]
async fn a_wait_ends_when_a_task_comes_to_any_queue() {
    let redis = TestRedis::start().await;
    let (taking, giving) = (redis.queue().await, redis.queue().await);
    for queue in ["default", "a-new-one"] {
        let waiting = tokio::spawn({
            let taking = taking.clone();
            async move { taking.dequeue(Duration::from_secs(20)).await.unwrap().unwrap() }
        });
        // Long enough for the wait to have begun; if it has not, the task is found at once.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let began = Instant::now();
        let id = giving.enqueue(Task::new("work").queue(queue)).await.unwrap();

        assert_eq!(waiting.await.unwrap().task_id, id);
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{queue}: {:?}",
            began.elapsed()
        );
        taking.complete_task(id, &()).await.unwrap();
    }
    check_all_ended(&redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_programs_that_put_in_and_take_out_at_once_share_without_overlap() {
    let redis = TestRedis::start().await;
    let ids = futures_util::future::join_all(
        (0..10).map(|_| async { redis.queue().await.enqueue(Task::new("work")).await.unwrap() }),
    )
    .await;
    let statistics = redis.queue().await.get_statistics().await.unwrap();
    assert_eq!((statistics.pending_count, statistics.total_count), (10, 10));

    let mut taken = futures_util::future::join_all((0..10).map(|_| async {
        let queue = redis.queue().await;
        let task = queue.dequeue(Duration::from_secs(20)).await.unwrap().unwrap();
        queue.complete_task(task.task_id, &()).await.unwrap();
        task.task_id
    }))
    .await;

    let mut ids: Vec<TaskId> = ids;
    ids.sort_unstable();
    taken.sort_unstable();
    assert_eq!(taken, ids);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_failed_attempt_is_retried_and_the_last_one_fails_the_task() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    let mut policy = quick();
    policy.max_retries = 1;
    let id = queue.enqueue(Task::new("work").retry(policy)).await.unwrap();

    for attempt in 1..=2 {
        let task = queue.dequeue(Duration::from_secs(20)).await.unwrap().unwrap();
        assert_eq!((task.task_id, task.attempt), (id, attempt));
        queue.fail_task(id, "Something went wrong").await.unwrap();
        let document = queue.get_task(id).await.unwrap();
        assert!(document.error.unwrap().get().contains("Something went wrong"));
    }

    let document = queue.get_task(id).await.unwrap();
    assert_eq!((document.state, document.retry_count), ("FAILED", 1));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_a_program_does_not_hold_it_can_not_end() {
    let redis = TestRedis::start().await;
    let (queue, other) = (redis.queue().await, redis.queue().await);
    let id = queue.enqueue(Task::new("work")).await.unwrap();
    let unknown = TaskId::derive("nobody", "nothing", None, None, 1);

    let not_taken = queue.complete_task(id, &()).await.unwrap_err();
    assert!(matches!(not_taken, Error::InvalidTransition(_)), "{not_taken:?}");
    queue.dequeue(Duration::from_secs(5)).await.unwrap().unwrap();
    let not_theirs = other.fail_task(id, "mine").await.unwrap_err();
    assert!(matches!(not_theirs, Error::InvalidTransition(_)), "{not_theirs:?}");
    queue.complete_task(id, &1).await.unwrap();
    let twice = queue.complete_task(id, &2).await.unwrap_err();
    assert!(matches!(twice, Error::InvalidTransition(_)), "{twice:?}");
    assert_eq!(queue.get_task(id).await.unwrap().result.unwrap().get(), "1");
    assert!(!queue.cancel_task(id).await.unwrap());

    assert!(matches!(queue.get_task(unknown).await, Err(Error::TaskNotFound(_))));
    assert!(matches!(queue.cancel_task(unknown).await, Err(Error::TaskNotFound(_))));
    assert!(matches!(
        queue.complete_task(unknown, &()).await,
        Err(Error::TaskNotFound(_))
    ));
    assert!(matches!(
        queue.fail_task(unknown, "").await,
        Err(Error::TaskNotFound(_))
    ));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_task_that_is_cancelled_while_it_is_held_can_not_be_completed() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    let id = queue.enqueue(Task::new("work")).await.unwrap();
    let task = queue.dequeue(Duration::from_secs(5)).await.unwrap().unwrap();

    assert!(redis.queue().await.cancel_task(id).await.unwrap());
    tokio::time::timeout(Duration::from_secs(5), task.cancelled.cancelled())
        .await
        .expect("the holder is told");
    let late = queue.complete_task(id, &()).await.unwrap_err();

    assert!(matches!(late, Error::InvalidTransition(_)), "{late:?}");
    assert_eq!(queue.get_task(id).await.unwrap().state, "CANCELLED");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_workflow_lists_its_own_tasks_in_order() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    let mut ids = Vec::new();
    for workflow in ["one", "two", "one"] {
        ids.push(queue.enqueue(Task::new("work").workflow_id(workflow)).await.unwrap());
    }

    let list = queue.get_workflow_tasks("one").await.unwrap();
    let listed: Vec<String> = list.into_iter().map(|task| task.task_id).collect();
    assert_eq!(listed, [ids[0].to_string(), ids[2].to_string()]);
    assert!(queue.get_workflow_tasks("three").await.unwrap().is_empty());
    assert!(matches!(
        queue.get_workflow_tasks("no name").await,
        Err(Error::InvalidField(_))
    ));
    check(&redis).await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_it_is_put_in() {
    let redis = TestRedis::start().await;
    let queue = redis.queue().await;
    let mut policy = quick();
    policy.backoff_multiplier = 0.5;

    for task in [
        Task::new("no name"),
        Task::new("work").args(5),
        Task::new("work").kwargs([1]),
        Task::new("work").queue("a:b"),
        Task::new("work").workflow_id(""),
        Task::new("work").retry(policy),
        Task::new("work").timeout(Duration::ZERO),
        Task::new("work").timeout(Duration::MAX),
        Task::new("work").delay(Duration::from_secs(400 * 86_400)),
        Task::new("work").agent_id("no name"),
        Task::new("work").max_retries(u32::MAX),
        Task::new("work")
            .run_at(SystemTime::UNIX_EPOCH)
            .delay(Duration::from_secs(1)),
        Task::new("work").event_id(""),
        Task::new("work").event_id("two\nlines"),
        Task::new("work").event_id(&"x".repeat(257)),
    ] {
        let shown = format!("{task:?}");
        let refused = queue.enqueue(task).await;
        assert!(
            matches!(refused, Err(Error::InvalidField(_))),
            "{refused:?} for {shown}"
        );
    }
    assert_eq!(queue.get_statistics().await.unwrap().total_count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_held_by_a_program_that_dies_comes_back_to_another() {
    let redis = TestRedis::start().await;
    let mut holder = ChildProcess::start(&redis, "hold");
    holder.hear("waiting").await;
    // A wait must cost nothing: a fixed time is what it is measured over.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let before = holder.cpu_ticks();
    tokio::time::sleep(Duration::from_secs(2)).await;
    if let (Some(before), Some(after)) = (before, holder.cpu_ticks()) {
        assert!(
            after - before <= 4,
            "waiting cost {} ms of CPU in two seconds",
            (after - before) * 10
        );
    }

    let mut giver = ChildProcess::start(&redis, "enqueue");
    let id = giver.hear("enqueued").await;
    assert_eq!(holder.hear("took").await, format!("{id} 1"));
    let mut finisher = ChildProcess::start(&redis, "finish");
    finisher.hear("waiting").await;
    holder.kill().await;
    let killed = Instant::now();
    assert_eq!(finisher.hear("completed").await, format!("{id} 2"));
    assert!(killed.elapsed() < Duration::from_secs(15), "{:?}", killed.elapsed());

    let log = redis.log().await;
    let life = log.life(id.parse().unwrap()).join(" ");
    assert_eq!(life, "created started retry_scheduled started completed");
    assert_eq!(log.all("task.retry_scheduled")[0].payload["error"]["type"], "lost");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_program_that_lets_go_of_its_queue_is_no_loss_and_no_worker() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().workers(3).start().await;
    let queue = redis.queue().await;
    let id = queue.enqueue(Task::new("work").queue("by-hand")).await.unwrap();
    while let Some(task) = queue.dequeue(Duration::from_secs(5)).await.unwrap() {
        queue.complete_task(task.task_id, &()).await.unwrap();
        if task.task_id == id {
            break;
        }
    }
    drop(queue);

    // Long enough for a silent member to be noticed.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let log = redis.log().await;
    let states: Vec<&str> = log
        .all("worker_pool.status")
        .iter()
        .map(|event| event.text("state"))
        .collect();
    assert!(!states.contains(&"lost"), "{states:?}");
    let workers = redis
        .queue()
        .await
        .get_statistics()
        .await
        .unwrap()
        .worker_pool
        .max_workers;
    assert_eq!(workers, 3);
}
