//! Blocking functions that do not end when their attempt does.

use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use waooaw_orchestration::runtime::replica::Readiness;
use waooaw_orchestration::{
    Endpoint, Handlers, Replica, ReplicaHandle, ReplicaOptions, Store, StoreError, TaskContext, TaskError,
};

use crate::support::child::ChildProcess;
use crate::support::history::check_all_ended;
use crate::support::redis::{TestRedis, task_of};
use crate::support::{holds, wait_for};

/// What a stubborn function waits for, and how many have begun.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<(bool, u32)>, Condvar)>);

impl Gate {
    /// Waits, whatever anybody says.
    fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        state.1 += 1;
        while !state.0 {
            state = changed.wait(state).unwrap();
        }
    }

    fn open(&self) {
        self.0.0.lock().unwrap().0 = true;
        self.0.1.notify_all();
    }

    fn begun(&self) -> u32 {
        self.0.0.lock().unwrap().1
    }
}

/// However a test ends, nothing goes on after it.
impl Drop for Gate {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.open();
        }
    }
}

fn handlers(gate: &Gate) -> Handlers {
    let gate = gate.clone();
    Handlers::new()
        .with_blocking(
            "stubborn",
            move |(): (), _task: &TaskContext| -> Result<(), TaskError> {
                gate.pass();
                Ok(())
            },
        )
        .with_async("quick", |(): (), _| async { Ok(()) })
}

struct Running {
    handle: ReplicaHandle,
    stop: CancellationToken,
    run: JoinHandle<Result<(), StoreError>>,
}

fn start(url: &str, gate: &Gate, workers: u16, grace: Duration) -> Running {
    let store = || Store::new(Endpoint::new(url)).unwrap();
    let mut options = ReplicaOptions::new(handlers(gate));
    options.workers = workers;
    options.grace = grace;
    let stop = CancellationToken::new();
    let replica = Replica::new(store(), store(), options, stop.clone());
    Running {
        handle: replica.handle(),
        stop,
        run: tokio::spawn(replica.run()),
    }
}

async fn until(replica: &Running, readiness: Readiness) {
    wait_for(&format!("{readiness:?}"), async || {
        let now = replica.handle.readiness();
        holds(now == readiness, || format!("{now:?}"))
    })
    .await;
}

fn stubborn(timeout_seconds: Option<f64>) -> Value {
    json!({ "task_name": "stubborn", "max_retries": 0, "timeout_seconds": timeout_seconds })
}

/// What the log of this thread says while the answer lives.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A subscriber beside those of the tests. While there is only one, `tracing` asks the thread that first comes to a line
/// whether anybody listens, and keeps its answer for all threads.
static OTHER: LazyLock<tracing::Dispatch> =
    LazyLock::new(|| tracing::Dispatch::new(tracing_subscriber::fmt().with_writer(std::io::sink).finish()));

impl Heard {
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        LazyLock::force(&OTHER);
        let heard = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_writer(move || heard.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    /// The fields of the lines with this message.
    fn lines(&self, message: &str) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["fields"].take())
            .filter(|fields| fields["message"].as_str().is_some_and(|text| text.starts_with(message)))
            .collect()
    }
}

#[tokio::test]
async fn a_function_that_outlives_its_timeout_is_reported_and_keeps_its_worker_until_it_returns() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let redis = TestRedis::start().await;
    let gate = Gate::default();
    let replica = start(&redis.url(), &gate, 2, Duration::from_secs(10));
    until(&replica, Readiness::Ready).await;
    let mut log = redis.log().await;

    redis.trigger("one", &stubborn(Some(0.2))).await;
    let end = log.until_task(task_of("one"), "task.timeout").await;
    assert_eq!(end.payload["error"]["type"], "timeout");
    wait_for("it is counted", async || {
        let detached = replica.handle.detached();
        holds(detached == 1, || detached.to_string())
    })
    .await;
    assert_eq!(replica.handle.readiness(), Readiness::Ready);
    redis.trigger("quick", &json!({ "task_name": "quick" })).await;
    let quick = log.until_task(task_of("quick"), "task.completed").await;
    assert!(quick.text("worker_id").ends_with("/1"), "{:?}", quick.payload);
    wait_for("its replica's beat tells", async || {
        let pool = redis.queue().await.get_statistics().await.unwrap().worker_pool;
        let counts = (pool.detached_workers, pool.idle_workers, pool.active_workers);
        holds(counts == (1, 1, 0), || format!("{counts:?}"))
    })
    .await;
    wait_for("it is logged", async || {
        let lines = heard.lines("a blocking function goes on after its attempt has ended");
        let is_told = lines.first().is_some_and(|line| {
            let elapsed_ms = line["detached_ms"]
                .as_u64()
                .or_else(|| line["detached_ms"].as_str()?.parse().ok());
            line["task_id"] == task_of("one").to_string() && line["attempt"] == 1 && elapsed_ms >= Some(1000)
        });
        holds(is_told, || format!("{lines:?}"))
    })
    .await;

    // The second takes the last worker: from then on nothing runs here, and the replica says so.
    let two = task_of("two");
    redis.trigger("two", &stubborn(None)).await;
    log.until_task(two, "task.started").await;
    redis.cancel("cancel", two).await;
    log.until_task(two, "task.cancelled").await;
    until(&replica, Readiness::Exhausted).await;
    redis.trigger("waits", &json!({ "task_name": "quick" })).await;
    log.until_task(task_of("waits"), "task.created").await;
    wait_for("nothing can run", async || {
        let lines = heard.lines("every worker is held by a blocking function");
        holds(lines.len() == 1, || format!("{lines:?}"))
    })
    .await;
    log.refresh().await;
    assert_eq!(log.life(task_of("waits")), ["created"]);
    assert_eq!(gate.begun(), 2);

    gate.open();
    log.until_task(task_of("waits"), "task.completed").await;
    until(&replica, Readiness::Ready).await;
    assert_eq!(replica.handle.detached(), 0);
    replica.stop.cancel();
    replica.run.await.unwrap().unwrap();
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn being_fenced_frees_no_worker_whose_function_goes_on() {
    let redis = TestRedis::start().await;
    let gate = Gate::default();
    let replica = start(&redis.url(), &gate, 1, Duration::from_secs(10));
    until(&replica, Readiness::Ready).await;
    let mut log = redis.log().await;
    redis.trigger("one", &stubborn(Some(0.1))).await;
    log.until_task(task_of("one"), "task.timeout").await;
    until(&replica, Readiness::Exhausted).await;
    let before = replica.handle.replica_id();

    let _: u64 = redis.ask(&["DEL", "waooaw:{0}:beats"]).await;
    wait_for("it joins anew", async || {
        let now = replica.handle.replica_id();
        holds(now.is_some() && now != before, || format!("{now:?}"))
    })
    .await;

    until(&replica, Readiness::Exhausted).await;
    assert_eq!(replica.handle.detached(), 1);
    gate.open();
    until(&replica, Readiness::Ready).await;
    redis.trigger("quick", &json!({ "task_name": "quick" })).await;
    log.until_task(task_of("quick"), "task.completed").await;
    replica.stop.cancel();
    replica.run.await.unwrap().unwrap();
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_drain_waits_for_detached_functions_up_to_the_grace_and_says_how_many_it_left() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let redis = TestRedis::start().await;
    let mut log = redis.log().await;
    let (kind, stuck) = (Gate::default(), Gate::default());

    // One that returns within the grace is waited for.
    let replica = start(&redis.url(), &kind, 1, Duration::from_secs(20));
    until(&replica, Readiness::Ready).await;
    redis.trigger("kind", &stubborn(Some(0.1))).await;
    log.until_task(task_of("kind"), "task.timeout").await;
    replica.stop.cancel();
    wait_for("it drains", async || {
        let lines = heard.lines("draining");
        holds(lines.len() == 1, || format!("{lines:?}"))
    })
    .await;
    assert!(!replica.run.is_finished());
    kind.open();
    replica.run.await.unwrap().unwrap();
    assert_eq!(heard.lines("left").len(), 1);
    assert_eq!(heard.lines("left while blocking functions go on").len(), 0);

    // One that does not is left, and so is one whose task is handed back.
    let replica = start(&redis.url(), &stuck, 2, Duration::from_secs(1));
    until(&replica, Readiness::Ready).await;
    redis.trigger("stuck", &stubborn(Some(0.1))).await;
    log.until_task(task_of("stuck"), "task.timeout").await;
    redis.trigger("runs", &stubborn(None)).await;
    log.until_task(task_of("runs"), "task.started").await;
    let began = Instant::now();
    replica.stop.cancel();
    replica.run.await.unwrap().unwrap();
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(1) && took < Duration::from_secs(8),
        "{took:?}"
    );
    assert_eq!(heard.lines("left while blocking functions go on")[0]["abandoned"], 2);
    log.refresh().await;
    assert_eq!(log.life(task_of("runs")).join(" "), "created started released");

    stuck.open();
    let replica = start(&redis.url(), &stuck, 1, Duration::from_secs(10));
    log.until_task(task_of("runs"), "task.completed").await;
    replica.stop.cancel();
    replica.run.await.unwrap().unwrap();
    check_all_ended(&redis).await;
}

/// The child's part: see [`crate::support::child`].
pub(crate) async fn play_stubborn(url: &str, say: impl Fn(&str)) {
    let gate = Gate::default();
    let replica = start(url, &gate, 2, Duration::from_millis(300));
    wait_for("the attempt is over", async || {
        let detached = replica.handle.detached();
        holds(detached == 1, || detached.to_string())
    })
    .await;
    say("detached");
    replica.stop.cancel();
    replica.run.await.unwrap().unwrap();
    say(&format!("left {}", gate.begun()));
    // The gate never opens.
    std::mem::forget(gate);
}

#[tokio::test]
async fn a_process_ends_although_a_function_in_it_does_not() {
    let redis = TestRedis::start().await;
    redis.trigger("one", &stubborn(Some(0.1))).await;
    let mut child = ChildProcess::start(&redis, "stubborn");
    // The child opens a queue as all children do; its replica reads the trigger.
    child.hear("detached").await;

    assert_eq!(child.hear("left").await, "1");
    assert!(child.ended().await.success());
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_function_that_looks_at_its_token_frees_its_worker_at_once() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().workers(1).start().await;
    let mut log = redis.log().await;
    let pi = json!({
        "task_name": "monte_carlo_pi", "kwargs": { "samples": 1_000_000_000_000_u64 }, "max_retries": 0,
        "timeout_seconds": 0.2
    });

    redis.trigger("pi", &pi).await;
    redis.trigger("next", &json!({ "task_name": "noop" })).await;
    log.until_task(task_of("pi"), "task.timeout").await;
    log.until_task(task_of("next"), "task.completed").await;

    let (_, body) = replica.get("/readyz").await.unwrap();
    assert_eq!((&body["status"], &body["detached"]), (&json!("ready"), &json!(0)));
    assert!(
        !replica.log().contains("goes on after its attempt"),
        "{}",
        replica.log()
    );
    check_all_ended(&redis).await;
}
