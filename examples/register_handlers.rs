//! A replica with handlers of one's own: a program that links the library and joins the others on the same Redis.
//!
//! ```text
//! REDIS_URL=redis://127.0.0.1:PORT cargo run --example register_handlers
//! redis-cli -p PORT XADD waooaw:triggers '*' event_type orchestration.task.trigger source_agent me \
//!     payload '{"task_name":"greet","kwargs":{"name":"Ada"}}'
//! ```

#![allow(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use waooaw_orchestration::{Endpoint, Handlers, Replica, ReplicaOptions, Store, TaskContext, TaskError};

#[derive(Deserialize)]
struct Greet {
    name: String,
}

#[derive(Serialize)]
struct Greeting {
    text: String,
    attempt: u32,
}

/// Arguments arrive typed; what does not fit fails the task for good, without a retry.
async fn greet(args: Greet, task: TaskContext) -> Result<Greeting, TaskError> {
    if args.name.is_empty() {
        return Err(TaskError::permanent("no_name", "whom to greet?"));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    println!("{} attempt {}: greeting {}", task.task_id, task.attempt, args.name);
    Ok(Greeting {
        text: format!("Hello, {}!", args.name),
        attempt: task.attempt,
    })
}

/// Computes without yielding, so it runs on a thread of its own, and looks now and then whether it should stop.
fn count_primes(below: u64, task: &TaskContext) -> Result<u64, TaskError> {
    let mut primes = 0;
    for candidate in 2..below {
        if candidate % 4096 == 0 && task.cancelled.is_cancelled() {
            return Err(TaskError::new("stopped on request"));
        }
        let divisors = (2..).take_while(|divisor| divisor * divisor <= candidate);
        primes += u64::from(divisors.into_iter().all(|divisor| candidate % divisor != 0));
    }
    Ok(primes)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned());
    let handlers = Handlers::new()
        .with_async("greet", greet)
        .with_blocking("count_primes", |(below,): (u64,), task| count_primes(below, task));

    let stop = CancellationToken::new();
    // Two handles: the beat that says "I live" has a connection and a thread of its own.
    let (store, beat_store) = (Store::new(Endpoint::new(&url))?, Store::new(Endpoint::new(&url))?);
    let replica = Replica::new(store, beat_store, ReplicaOptions::new(handlers), stop.clone());
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    println!("running greet and count_primes; Ctrl-C drains and ends");
    // Runs until it is stopped, then drains: running tasks get 30 s, the rest is handed back.
    replica.run().await?;
    Ok(())
}
