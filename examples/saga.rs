//! An order as a saga: reserve, charge, ship. The second one can not be shipped, and everything is undone.
//!
//! ```text
//! waooaw dev                                                 # in one terminal; prints the address of its Redis
//! REDIS_URL=redis://127.0.0.1:PORT cargo run --example saga  # in another
//! ```

#![allow(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use waooaw_orchestration::{
    Endpoint, Error, Handlers, Replica, ReplicaOptions, SagaBuilder, SagaStep, Sagas, Store, TaskError,
};

#[derive(Deserialize)]
struct Order {
    order: String,
    address: Option<String>,
}

/// The shop: what does a step, and what undoes it. Each may be called again, so real ones key what they do by the order.
fn shop() -> Handlers {
    let say = |what: &'static str| {
        move |order: Order, _task| async move {
            println!("  {what} {}", order.order);
            Ok(json!({ "order": order.order }))
        }
    };
    Handlers::new()
        .with_async("reserve_inventory", say("reserved"))
        .with_async("release_inventory", say("released"))
        .with_async("charge_customer", say("charged"))
        .with_async("refund_customer", say("refunded"))
        .with_async("cancel_shipment", say("recalled"))
        .with_async("create_shipment", |order: Order, _task| async move {
            let Some(address) = order.address else {
                return Err(TaskError::permanent("no_address", "where to?"));
            };
            println!("  shipped {} to {address}", order.order);
            Ok(json!({ "order": order.order }))
        })
}

fn saga(order: &serde_json::Value) -> SagaBuilder {
    let step = |name, action, compensation| SagaStep::new(name, action).compensation(compensation).args(order);
    SagaBuilder::new()
        .name("order")
        .add_step(step("reserve", "reserve_inventory", "release_inventory"))
        .add_step(step("charge", "charge_customer", "refund_customer"))
        .add_step(step("ship", "create_shipment", "cancel_shipment"))
        .timeout(Duration::from_secs(30))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned());
    let store = || Store::new(Endpoint::new(&url));
    // Any replica on the same Redis could do the steps; here it is this very program.
    let stop = CancellationToken::new();
    let replica = Replica::new(store()?, store()?, ReplicaOptions::new(shop()), stop.clone());
    let running = tokio::spawn(replica.run());

    let sagas = Sagas::new(store()?);
    for order in [
        json!({ "order": "o-1", "address": "1 Main Street" }),
        json!({ "order": "o-2" }),
    ] {
        println!("{order}");
        let outcome = loop {
            match saga(&order).execute(&sagas).await {
                // Until the replica has said what it can do.
                Err(Error::UnknownTask(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
                outcome => break outcome,
            }
        };
        match outcome {
            Ok(execution) => println!(
                "  {} in {} ms",
                execution.state,
                execution.duration_ms.unwrap_or_default()
            ),
            Err(error @ Error::SagaExecution { .. }) => println!("  {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    stop.cancel();
    running.await??;
    Ok(())
}
