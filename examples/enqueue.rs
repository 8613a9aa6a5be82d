//! Puts a task into the queue and waits for its end.
//!
//! ```text
//! waooaw dev                                                    # in one terminal; prints the address of its Redis
//! REDIS_URL=redis://127.0.0.1:PORT cargo run --example enqueue  # in another
//! ```

#![allow(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::time::Duration;

use waooaw_orchestration::{Priority, Task, TaskQueue, TaskQueueOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned());
    let queue = TaskQueue::connect(TaskQueueOptions::new(&url)).await?;

    let task = Task::new("add").args([40, 2]).priority(Priority::High);
    let task_id = queue.enqueue(task).await?;
    println!("enqueued {task_id}");

    // Following the log of events costs less than asking; see the README. For one task this will do.
    for _ in 0..100 {
        let task = queue.get_task(task_id).await?;
        if let (state @ ("COMPLETED" | "FAILED"), result) = (task.state, &task.result) {
            println!("{state} after attempt {}: {result:?}", task.attempt);
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("still waiting: does a replica run `add`?");
    Ok(())
}
