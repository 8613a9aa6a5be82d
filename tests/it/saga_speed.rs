//! How quick sagas are: one with many steps, and many at once. Bounds are generous, for machines that are busy; what was
//! measured is printed.

use std::time::{Duration, Instant};

use serde_json::json;
use waooaw_orchestration::{Handlers, ReplicaOptions, SagaBuilder, SagaState, SagaStep, Sagas};

use crate::support::history::check_all_ended;
use crate::support::local::LocalReplica;
use crate::support::redis::TestRedis;
use crate::support::{holds, wait_within};

#[tokio::test]
async fn fifty_steps_of_ten_milliseconds_take_little_more_than_their_sum() {
    let redis = TestRedis::start().await;
    let handlers = Handlers::new().with_async("nap", |(): (), _| async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(())
    });
    let replica = LocalReplica::start(&redis, ReplicaOptions::new(handlers)).await;
    let sagas = Sagas::new(redis.store());

    let mut shortest = i64::MAX;
    for _ in 0..3 {
        let steps = (0..50).map(|number| SagaStep::new(&format!("step-{number}"), "nap").compensation("nap"));
        let saga = steps.fold(SagaBuilder::new(), SagaBuilder::add_step);
        let execution = saga.execute(&sagas).await.unwrap();
        assert_eq!(execution.completed_steps.len(), 50);
        shortest = shortest.min(execution.duration_ms.unwrap());
    }

    eprintln!("50 steps of 10 ms: {shortest} ms");
    assert!((500..5_000).contains(&shortest), "{shortest} ms");
    replica.stop().await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_thousand_sagas_over_three_replicas_all_end_as_they_must() {
    const COUNT: usize = 1000;
    let redis = TestRedis::start().await;
    let mut replicas = redis.replica().workers(20).start_many(3).await;
    let broken = json!({ "message": "no luck", "permanent": true });

    let began = Instant::now();
    for number in 0..COUNT {
        let steps: Vec<_> = (0..5)
            .map(|step| {
                if step == 4 && number % 10 == 0 {
                    json!({ "name": "step-4", "action": "fail", "kwargs": broken, "compensation": "noop" })
                } else {
                    json!({ "name": format!("step-{step}"), "action": "echo", "args": [step], "compensation": "echo" })
                }
            })
            .collect();
        let (id, payload) = (
            format!("saga-{number}"),
            json!({ "saga_id": format!("saga-{number}"), "steps": steps }),
        );
        let (kind, payload) = ("orchestration.saga.start", payload.to_string());
        let fields = [
            "event_type",
            kind,
            "source_agent",
            "tester",
            "event_id",
            &id,
            "payload",
            &payload,
        ];
        let words = [&["XADD", "waooaw:triggers", "*"][..], &fields[..]].concat();
        redis.ask::<String>(&words).await;
    }
    let mut log = redis.log().await;
    wait_within(Duration::from_secs(240), "all sagas have ended", async || {
        log.refresh().await;
        let ended = log.count("saga.completed") + log.count("saga.compensated") + log.count("saga.failed");
        holds(ended == COUNT, || format!("{ended}; {}", log.summary()))
    })
    .await;
    let took = began.elapsed();

    eprintln!(
        "{COUNT} sagas of five steps over three replicas: {:.1} s",
        took.as_secs_f64()
    );
    assert_eq!(log.count("saga.completed"), COUNT * 9 / 10);
    assert_eq!(log.count("saga.compensated"), COUNT / 10);
    assert_eq!(log.count("saga.step_compensated"), COUNT / 10 * 4);
    let sagas = Sagas::new(redis.store());
    let one = sagas.get("saga-990").await.unwrap();
    assert_eq!(one.state, SagaState::Compensated);
    assert_eq!(one.compensated_steps, ["step-3", "step-2", "step-1", "step-0"]);
    for replica in &mut replicas {
        replica.stop().await;
    }
    check_all_ended(&redis).await;
}
