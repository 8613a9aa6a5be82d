//! Workflows for programs: built, started, awaited by whoever knows the id.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;
use waooaw_orchestration::{
    Error, FailurePolicy, Handlers, Priority, ReplicaOptions, Task, TaskContext, TaskError, Workflow, WorkflowBuilder,
    WorkflowState, Workflows,
};

use crate::support::child::ChildProcess;
use crate::support::history::check_all_ended;
use crate::support::local::LocalReplica;
use crate::support::redis::TestRedis;

/// Handlers that a test leads: `give` answers its argument, `inputs` what it depends on, `fail` fails for good, and `wait` ends
/// when the test says so.
struct Stage {
    gate: watch::Sender<bool>,
    replica: LocalReplica,
}

impl Stage {
    async fn on(redis: &TestRedis) -> Self {
        let (gate, is_open) = watch::channel(false);
        let handlers = Handlers::new()
            .with_async("give", |(value,): (i64,), _task| async move { Ok(value) })
            .with_async("inputs", |(): (), task: TaskContext| async move { Ok(task.inputs) })
            .with_async("fail", |(): (), _task| async move {
                Err::<(), _>(TaskError::permanent("broken", "it always does"))
            })
            .with_async("wait", move |(): (), _task| {
                let mut is_open = is_open.clone();
                async move { Ok(is_open.wait_for(|is_open| *is_open).await.is_ok()) }
            });
        let replica = LocalReplica::start(redis, ReplicaOptions::new(handlers)).await;
        Self { gate, replica }
    }

    async fn leave(self, redis: &TestRedis) {
        self.replica.stop().await;
        check_all_ended(redis).await;
    }
}

/// The part of a child that starts a workflow and does not live to see its end.
pub(crate) async fn play_caller(url: &str, say: impl Fn(&str)) {
    let store = waooaw_orchestration::Store::new(waooaw_orchestration::Endpoint::new(url)).unwrap();
    let workflows = Workflows::new(store);
    let workflow = WorkflowBuilder::new()
        .workflow_id("by-child")
        .add_task(Task::new("wait"))
        .add_task(Task::new("inputs").dependencies(&["wait"]))
        .build()
        .unwrap();
    // What `execute` does, with a word in between.
    workflow.start(&workflows).await.unwrap();
    say("started");
    workflow.execute(&workflows).await.unwrap();
    say("ended");
}

#[tokio::test]
async fn execute_answers_the_record_and_results_go_to_what_depends_on_them() {
    let redis = TestRedis::start().await;
    let stage = Stage::on(&redis).await;
    let workflows = Workflows::new(redis.store()).source_agent("shop");

    let done = WorkflowBuilder::new()
        .name("sums")
        .priority(Priority::High)
        .add_task(Task::new("inputs").dependencies(&["five", "six"]))
        .add_task(Task::new("give").key("five").args([5]).tags([("of", "five")]))
        .add_task(Task::new("give").key("six").args([6]).priority(Priority::Low))
        .execute(&workflows)
        .await
        .unwrap();

    assert_eq!(
        (done.state, done.is_ended(), done.total_tasks),
        (WorkflowState::Completed, true, 3)
    );
    assert_eq!(done.name.unwrap().get(), r#""sums""#);
    assert_eq!(done.execution_batches, [vec!["five", "six"], vec!["inputs"]]);
    assert_eq!((done.counts["COMPLETED"], done.ready_tasks.len()), (3, 0));
    assert!(done.duration_ms.is_some() && done.root_cause_task_id.is_none());
    let tasks = workflows.tasks(&done.workflow_id).await.unwrap();
    let told = tasks.iter().map(|task| (task.key.as_deref().unwrap(), task.priority));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [("five", "HIGH"), ("six", "LOW"), ("inputs", "HIGH")]
    );
    let last = &tasks[2];
    assert_eq!(last.inputs.get(), r#"{"five":5,"six":6}"#);
    assert_eq!(last.result.as_ref().unwrap().get(), r#"{"five":5,"six":6}"#);
    assert_eq!(
        redis
            .queue()
            .await
            .get_workflow_tasks(&done.workflow_id)
            .await
            .unwrap()
            .len(),
        3
    );
    stage.leave(&redis).await;
}

#[tokio::test]
async fn a_workflow_that_fails_names_the_task_that_is_to_blame() {
    let redis = TestRedis::start().await;
    let stage = Stage::on(&redis).await;
    let workflows = Workflows::new(redis.store());

    let failed = WorkflowBuilder::new()
        .workflow_id("w")
        .add_task(Task::new("fail"))
        .add_task(Task::new("give").args([1]).dependencies(&["fail"]))
        .add_task(
            Task::new("inputs")
                .dependencies(&["fail"])
                .on_dependency_failure(FailurePolicy::Run),
        )
        .execute(&workflows)
        .await;

    let tasks = workflows.tasks("w").await.unwrap();
    let ends: Vec<_> = tasks.iter().map(|task| (task.name.as_str(), task.state)).collect();
    assert_eq!(
        ends,
        [("fail", "FAILED"), ("give", "CANCELLED"), ("inputs", "COMPLETED")]
    );
    let Err(error @ Error::WorkflowExecution { .. }) = failed else {
        panic!("{failed:?}")
    };
    let expected = format!("workflow `w` ended as FAILED, because of task `{}`", tasks[0].task_id);
    assert_eq!(error.to_string(), expected);
    assert_eq!((error.code(), error.is_retryable()), ("WorkflowExecution", false));
    stage.leave(&redis).await;
}

#[tokio::test]
async fn a_workflow_goes_on_when_its_caller_is_killed_and_another_caller_awaits_it() {
    let redis = TestRedis::start().await;
    let stage = Stage::on(&redis).await;
    let mut caller = ChildProcess::start(&redis, "workflow");
    caller.hear("started").await;
    redis.log().await.until_count("task.started", 1).await;
    caller.kill().await;

    let workflows = Workflows::new(redis.store());
    let waiting = {
        let workflows = workflows.clone();
        tokio::spawn(async move { workflows.wait("by-child", Some(Duration::from_secs(30))).await })
    };
    let running = workflows.get("by-child").await.unwrap();
    assert_eq!((running.state, running.is_ended()), (WorkflowState::Running, false));
    let blocked = &redis.queue().await.get_workflow_tasks("by-child").await.unwrap()[1];
    assert_eq!(blocked.blocked_by.len(), 1);
    stage.gate.send(true).unwrap();

    assert_eq!(waiting.await.unwrap().unwrap().state, WorkflowState::Completed);
    stage.leave(&redis).await;
}

#[tokio::test]
async fn a_workflow_is_one_request_can_be_stopped_and_waiting_for_it_ends_in_time() {
    let redis = TestRedis::start().await;
    let stage = Stage::on(&redis).await;
    let workflows = Workflows::new(redis.store());
    let definition = json!({ "tasks": [{ "task_id": "a", "name": "wait" }] }).to_string();
    let build = || Workflow::from_json(&definition).unwrap().event_id("e-1");

    let began = Instant::now();
    let waited = build().timeout(Duration::from_millis(300)).execute(&workflows).await;
    let told = waited.unwrap_err();
    assert!(matches!(told, Error::WaitTimeout(_)) && told.is_retryable(), "{told:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
    let id = build().start(&workflows).await.unwrap();
    assert_eq!(build().start(&workflows).await.unwrap(), id);
    assert!(
        told.to_string()
            .contains(&format!("workflow `{id}` is RUNNING after 0.3 s")),
        "{told}"
    );

    workflows.stop(&id, Some("enough")).await.unwrap();
    let ended = workflows.wait(&id, None).await.unwrap();
    assert_eq!(ended.state, WorkflowState::Cancelled);
    let said = ended.into_success().unwrap_err().to_string();
    assert_eq!(said, format!("workflow `{id}` ended as CANCELLED"));
    let again = workflows.stop(&id, None).await;
    assert!(matches!(again, Err(Error::InvalidTransition(_))), "{again:?}");
    stage.leave(&redis).await;
}

#[tokio::test]
async fn what_can_not_be_started_or_awaited_is_refused_by_its_reason() {
    let redis = TestRedis::start().await;
    let stage = Stage::on(&redis).await;
    let workflows = Workflows::new(redis.store());
    let of = |task: Task| WorkflowBuilder::new().add_task(task);
    of(Task::new("give").args([1]))
        .workflow_id("w")
        .execute(&workflows)
        .await
        .unwrap();

    for (workflow, code) in [
        (of(Task::new("give")).workflow_id("w"), "InvalidField"),
        (of(Task::new("nobody_knows")), "UnknownTask"),
        (of(Task::new("give")).event_id("two\nlines"), "InvalidField"),
        (of(Task::new("give")).event_id(""), "InvalidField"),
        (of(Task::new("give").dependencies(&["z"])), "InvalidDependency"),
        (of(Task::new("give").dependencies(&["give"])), "CyclicDependency"),
        (WorkflowBuilder::new(), "InvalidField"),
    ] {
        let shown = format!("{workflow:?}");
        let refused = workflow.execute(&workflows).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused} for {shown}");
    }
    let label = Task::new("give").args([1]).workflow_id("label");
    redis.queue().await.enqueue(label).await.unwrap();
    let labelled = workflows.wait("label", Some(Duration::from_secs(30))).await;
    assert!(matches!(labelled, Err(Error::WorkflowNotFound(_))), "{labelled:?}");
    for nothing in ["nobody", "no name"] {
        let refused = [
            workflows.get(nothing).await.unwrap_err(),
            workflows.stop(nothing, None).await.unwrap_err(),
            workflows.wait(nothing, None).await.unwrap_err(),
        ];
        assert!(
            refused.iter().all(|error| error.code() == "WorkflowNotFound"),
            "{refused:?}"
        );
    }
    redis.log().await.until_count("task.completed", 2).await;
    stage.leave(&redis).await;
}
