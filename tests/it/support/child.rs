//! Other programs that link the library: this same test binary, started again to play a part.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio_util::sync::CancellationToken;
use waooaw_orchestration::runtime::builtin::with_builtin;
use waooaw_orchestration::runtime::replica::Readiness;
use waooaw_orchestration::{
    Endpoint, EventBus, Handlers, Replica, ReplicaOptions, Store, Task, TaskQueue, TaskQueueOptions,
};

use super::PATIENCE;
use super::redis::TestRedis;

/// Tells the started binary which part it plays, and on which Redis.
const PART: &str = "IT_CHILD_PART";
const REDIS: &str = "IT_CHILD_REDIS";
/// What stands in front of everything that a child says.
const MARK: &str = "CHILD ";

/// A child; killed with its owner.
pub(crate) struct ChildProcess {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl ChildProcess {
    /// Starts a child in a part; see [`child_process_entry`].
    pub(crate) fn start(redis: &TestRedis, part: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["support::child::child_process_entry", "--exact", "--nocapture"])
            .env(PART, part)
            .env(REDIS, redis.url())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next thing that it says, without its first word, which must be `word`.
    pub(crate) async fn hear(&mut self, word: &str) -> String {
        let hear = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                // The test harness may have begun the line.
                if let Some((_, said)) = line.split_once(MARK) {
                    return said.to_owned();
                }
            }
            panic!("the child ended without saying {word}");
        };
        let said = tokio::time::timeout(PATIENCE, hear)
            .await
            .unwrap_or_else(|_| panic!("the child did not say {word}"));
        let (first, rest) = said.split_once(' ').unwrap_or((&said, ""));
        assert_eq!(first, word, "{said}");
        rest.to_owned()
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("the child ends")
            .unwrap()
    }

    /// Whether it has not ended.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it as a crash would.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// The CPU time that it used so far, where the system tells; in hundredths of a second.
    pub(crate) fn cpu_ticks(&self) -> Option<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()?)).ok()?;
        // The name of the program may hold anything but ends with the last parenthesis.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?)
    }
}

#[allow(clippy::print_stdout, reason = "it is how a child speaks to its parent")]
fn say(what: &str) {
    // In front of the line may stand what the harness says.
    println!("{MARK}{what}");
}

/// Plays a part when it is started as one, else nothing:
///
/// - `abort`: runs tasks as a replica, says `ready`; one named `abort` ends the process at once. `abort beside` runs others
///   at the same time
/// - `enqueue`: puts one task in, says `enqueued <id>`
/// - `hold`: says `waiting`, takes one task, says `took <id> <attempt>`, and never ends it
/// - `finish`: says `waiting`, takes one task, completes it, says `completed <id> <attempt>`
/// - `stubborn`: a replica with a handler that never returns; says `detached` once its attempt has timed out, stops, says
///   `left <how many go on>`, and ends
/// - `saga`: builds a saga of two steps named `by-child`, says `started`, and waits for its end
/// - `workflow`: the same with a workflow of two tasks named `by-child`
/// - `subscribe`: says `event <id>` for each of five events under the name `auditor`, and then stands still
#[tokio::test]
async fn child_process_entry() {
    let (Ok(part), Ok(url)) = (std::env::var(PART), std::env::var(REDIS)) else {
        return;
    };
    match part.as_str() {
        // One alone, so that nothing shares the fate of what kills it.
        "abort" => return run_and_abort(&url, 1).await,
        "abort beside" => return run_and_abort(&url, 4).await,
        _ => {}
    }
    let queue = TaskQueue::connect(TaskQueueOptions::new(&url)).await.unwrap();
    match part.as_str() {
        "enqueue" => {
            let task = Task::new("by_hand").args([1, 2]).workflow_id("across");
            say(&format!("enqueued {}", queue.enqueue(task).await.unwrap()));
        }
        "hold" => {
            say("waiting");
            let task = queue.dequeue(PATIENCE).await.unwrap().expect("a task comes");
            say(&format!("took {} {}", task.task_id, task.attempt));
            std::future::pending::<()>().await;
        }
        "finish" => {
            say("waiting");
            let task = queue.dequeue(PATIENCE).await.unwrap().expect("a task comes");
            queue.complete_task(task.task_id, &"done").await.unwrap();
            say(&format!("completed {} {}", task.task_id, task.attempt));
        }
        "saga" => crate::saga_api::play_caller(&url, say).await,
        "workflow" => crate::workflow_api::play_caller(&url, say).await,
        "stubborn" => crate::detached::play_stubborn(&url, say).await,
        "subscribe" => {
            let bus = EventBus::new(Endpoint::new(&url)).unwrap();
            let pattern = "orchestration.task.*".parse().unwrap();
            let mut subscription = bus.subscribe("auditor", pattern).await.unwrap();
            for _ in 0..5 {
                let event = subscription.next(Duration::from_secs(30)).await.unwrap();
                say(&format!("event {}", event.expect("an event comes").event_id));
            }
            std::future::pending::<()>().await;
        }
        other => panic!("no part {other}"),
    }
}

/// A replica whose tasks named `abort` end its process as a crash in a handler would.
async fn run_and_abort(url: &str, workers: u16) {
    let handlers = with_builtin(Handlers::new()).with_async("abort", |(): (), _| async {
        std::process::abort();
        #[allow(unreachable_code, reason = "it gives the handler its type")]
        Ok(())
    });
    let mut options = ReplicaOptions::new(handlers);
    options.workers = workers;
    let store = || Store::new(Endpoint::new(url)).unwrap();
    let replica = Replica::new(store(), store(), options, CancellationToken::new());
    let handle = replica.handle();
    tokio::spawn(async move {
        while handle.readiness() != Readiness::Ready {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        say("ready");
    });
    replica.run().await.unwrap();
}
