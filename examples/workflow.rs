//! A pipeline as a workflow: fetch, transform and load, then tell somebody and update the figures, both at once. The second run
//! meets bad data: what depends on it is cancelled.
//!
//! ```text
//! waooaw dev                                                     # in one terminal; prints the address of its Redis
//! REDIS_URL=redis://127.0.0.1:PORT cargo run --example workflow  # in another
//! ```

#![allow(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use waooaw_orchestration::{
    Endpoint, Error, Handlers, Replica, ReplicaOptions, Store, Task, TaskError, WorkflowBuilder, Workflows,
};

#[derive(Deserialize)]
struct Source {
    rows: Vec<Value>,
}

/// The result of a task that this one depends on.
fn input<T: serde::de::DeserializeOwned>(inputs: &RawValue, key: &str) -> Result<T, TaskError> {
    let read = serde_json::from_str::<Value>(inputs.get()).map(|mut inputs| inputs[key].take());
    read.and_then(serde_json::from_value)
        .map_err(|error| TaskError::permanent("bad_data", &error.to_string()))
}

fn stages() -> Handlers {
    Handlers::new()
        .with_async("fetch_data", |source: Source, _task| async move { Ok(source.rows) })
        .with_async("transform_data", |(): (), task| async move {
            let rows: Vec<i64> = input(&task.inputs, "fetch")?;
            Ok(rows.iter().map(|row| row * 10).collect::<Vec<_>>())
        })
        .with_async("load_data", |(): (), task| async move {
            let rows: Vec<i64> = input(&task.inputs, "transform")?;
            Ok(json!({ "rows": rows.len(), "sum": rows.iter().sum::<i64>() }))
        })
        .with_async("send_notification", |(): (), task| async move {
            let loaded: Value = input(&task.inputs, "load")?;
            Ok(format!("{} rows are in", loaded["rows"]))
        })
        .with_async("update_metrics", |(): (), task| async move {
            let loaded: Value = input(&task.inputs, "load")?;
            Ok(loaded["sum"].clone())
        })
}

fn pipeline(rows: &Value) -> WorkflowBuilder {
    WorkflowBuilder::new()
        .name("pipeline")
        .add_task(Task::new("fetch_data").key("fetch").kwargs(json!({ "rows": rows })))
        .add_task(Task::new("transform_data").key("transform").dependencies(&["fetch"]))
        .add_task(Task::new("load_data").key("load").dependencies(&["transform"]))
        .add_task(Task::new("send_notification").key("notify").dependencies(&["load"]))
        .add_task(Task::new("update_metrics").key("metrics").dependencies(&["load"]))
        .timeout(Duration::from_secs(30))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned());
    let store = || Store::new(Endpoint::new(&url));
    // Any replica on the same Redis could run the tasks; here it is this very program.
    let stop = CancellationToken::new();
    let replica = Replica::new(store()?, store()?, ReplicaOptions::new(stages()), stop.clone());
    let running = tokio::spawn(replica.run());

    let workflows = Workflows::new(store()?);
    for rows in [json!([1, 2, 3]), json!([1, "two", 3])] {
        let workflow = pipeline(&rows).build()?;
        println!("{rows}");
        let outcome = loop {
            match workflow.execute(&workflows).await {
                // Until the replica has said what it can do.
                Err(Error::UnknownTask(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
                outcome => break outcome,
            }
        };
        let workflow_id = match outcome {
            Ok(execution) => execution.workflow_id,
            Err(Error::WorkflowExecution { workflow_id, .. }) => workflow_id,
            Err(error) => return Err(error.into()),
        };
        for task in workflows.tasks(&workflow_id).await? {
            let key = task.key.unwrap_or_default();
            let why = task.error.filter(|_| task.state == "FAILED");
            let end = task.result.or(why).map_or_else(String::new, |json| json.to_string());
            println!("  {key:<10} {:<10} {end}", task.state);
        }
    }
    stop.cancel();
    running.await??;
    Ok(())
}
