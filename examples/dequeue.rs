//! Takes tasks out of the queue by hand, one at a time, without handlers.
//!
//! ```text
//! REDIS_URL=redis://127.0.0.1:PORT cargo run --example dequeue
//! ```
//!
//! It takes whatever waits, so run it where no replica does (a `redis-server` alone is enough), and put something in
//! with `cargo run --example enqueue`. When it is killed between taking a task and ending it, the task comes back to
//! another member about ten seconds later.

#![allow(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::time::Duration;

use waooaw_orchestration::{TaskQueue, TaskQueueOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned());
    let queue = TaskQueue::connect(TaskQueueOptions::new(&url)).await?;

    // The wait is one blocking read: it costs no CPU and ends as soon as there is a task.
    while let Some(task) = queue.dequeue(Duration::from_secs(30)).await? {
        println!("{} {} attempt {}: {}", task.task_id, task.name, task.attempt, task.args);
        match task.arguments::<Vec<i64>>() {
            Ok(numbers) => queue.complete_task(task.task_id, &numbers.iter().sum::<i64>()).await?,
            // Retried as the task's policy says.
            Err(error) => queue.fail_task(task.task_id, &error.to_string()).await?,
        }
    }
    println!("nothing came for 30 s");
    Ok(())
}
