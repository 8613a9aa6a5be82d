//! Sagas for programs: built, started, awaited by whoever knows the id.

use std::time::{Duration, Instant};

use serde_json::json;
use waooaw_orchestration::{
    CompensationStatus, Endpoint, Error, RetryPolicy, SagaBuilder, SagaState, SagaStep, Sagas, StepState, Store,
};

use crate::support::child::ChildProcess;
use crate::support::history::check_all_ended;
use crate::support::redis::TestRedis;
use crate::support::saga::Shop;

fn of(name: &str, more: &serde_json::Value) -> serde_json::Value {
    let mut arguments = json!({ "of": name });
    arguments
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().cloned().unwrap());
    arguments
}

fn deed(name: &str, more: &serde_json::Value) -> SagaStep {
    let undo = of(name, &json!({}));
    SagaStep::new(name, "do")
        .compensation("undo")
        .args(of(name, more))
        .compensation_args(undo)
        .retry(RetryPolicy::QUICK)
}

/// The part of a child that starts a saga and does not live to see its end.
pub(crate) async fn play_caller(url: &str, say: impl Fn(&str)) {
    let sagas = Sagas::new(Store::new(Endpoint::new(url)).unwrap());
    let saga = SagaBuilder::new()
        .saga_id("by-child")
        .add_step(deed("a", &json!({})))
        .add_step(deed("b", &json!({ "gate": "b" })))
        .build()
        .unwrap();
    // What `execute` does, with a word in between.
    saga.start(&sagas).await.unwrap();
    say("started");
    saga.execute(&sagas).await.unwrap();
    say("ended");
}

#[tokio::test]
async fn a_saga_goes_on_when_its_caller_is_killed_and_another_caller_awaits_it() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;

    let mut caller = ChildProcess::start(&redis, "saga");
    caller.hear("started").await;
    redis.log().await.until_count("saga.step_started", 2).await;
    caller.kill().await;
    let sagas = Sagas::new(redis.store());
    let waiting = {
        let sagas = sagas.clone();
        tokio::spawn(async move { sagas.wait("by-child", Some(Duration::from_secs(30))).await })
    };
    let running = sagas.get("by-child").await.unwrap();
    assert_eq!((running.state, running.is_ended()), (SagaState::Running, false));
    assert_eq!(running.step("b").map(|step| step.state), Some(StepState::Running));
    shop.open_gate("b");

    let execution = waiting.await.unwrap().unwrap();
    assert_eq!(
        (execution.state, execution.completed_steps),
        (SagaState::Completed, vec!["a".into(), "b".into()])
    );
    assert_eq!(shop.book(), ["+a", "+b"]);
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn execute_answers_the_record_or_how_the_saga_failed() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;
    let sagas = Sagas::new(redis.store()).source_agent("shop");

    let good = SagaBuilder::new()
        .name("good")
        .add_step(deed("a", &json!({})))
        .execute(&sagas)
        .await
        .unwrap();
    assert_eq!((good.state, good.name.get()), (SagaState::Completed, r#""good""#));
    assert!(good.duration_ms.is_some() && good.failed_step.is_none());

    let broken = json!({ "fails": -1, "permanent": true });
    let undone = SagaBuilder::new()
        .add_step(deed("b", &json!({})))
        .add_step(deed("c", &broken))
        .execute(&sagas)
        .await;
    let Err(Error::SagaExecution {
        saga_id,
        failed_step,
        compensation_status,
    }) = undone
    else {
        panic!("{undone:?}")
    };
    assert_eq!(
        (failed_step.as_deref(), compensation_status),
        (Some("c"), CompensationStatus::Complete)
    );
    assert_eq!(sagas.get(&saga_id).await.unwrap().compensated_steps, ["b"]);

    let stuck = deed("d", &json!({})).compensation_args(of("d", &broken));
    let failed = SagaBuilder::new()
        .add_step(stuck)
        .add_step(deed("e", &broken))
        .execute(&sagas)
        .await;
    let said = failed.unwrap_err().to_string();
    assert!(
        said.ends_with("did not complete: step `e` failed; compensation: incomplete"),
        "{said}"
    );
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_saga_is_one_request_and_waiting_for_it_ends_in_time() {
    let redis = TestRedis::start().await;
    let shop = Shop::default();
    let replica = shop.replica(&redis).await;
    let sagas = Sagas::new(redis.store());

    let build = || {
        SagaBuilder::new()
            .event_id("e-1")
            .add_step(deed("a", &json!({ "gate": "a" })))
    };
    let saga = build().timeout(Duration::from_millis(300)).build().unwrap();
    let began = Instant::now();
    let waited = saga.execute(&sagas).await;
    assert!(matches!(waited, Err(Error::WaitTimeout(_))), "{waited:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
    // The same again, from another value of the same request too.
    let id = saga.start(&sagas).await.unwrap();
    assert_eq!(build().build().unwrap().start(&sagas).await.unwrap(), id);

    sagas.cancel(&id, Some("enough")).await.unwrap();
    let ended = sagas.wait(&id, None).await.unwrap();
    assert_eq!((ended.state, &ended.failed_step), (SagaState::Compensated, &None));
    assert!(matches!(
        sagas.resume(&id, "me").await,
        Err(Error::InvalidTransition(_))
    ));
    assert!(matches!(sagas.wait("nobody", None).await, Err(Error::SagaNotFound(_))));
    let other = SagaBuilder::new()
        .saga_id(&id)
        .add_step(deed("z", &json!({})))
        .build()
        .unwrap();
    assert!(matches!(other.start(&sagas).await, Err(Error::InvalidField(_))));
    let unknown = SagaBuilder::new()
        .add_step(SagaStep::new("a", "nobody_knows"))
        .build()
        .unwrap();
    assert!(matches!(unknown.start(&sagas).await, Err(Error::UnknownTask(_))));
    replica.stop().await;
    check_all_ended(&redis).await;
}
