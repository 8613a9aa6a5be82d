//! What a benchmark runs on: a Redis with an empty prefix, and replicas. All of it is gone afterwards, however it ends.
//!
//! A Redis that was named by the caller is shared with others: only keys under a random prefix are touched and removed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::progress::Progress;
use super::tally::statistics;
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::fleet::{FleetOptions, ReplicaProcess};
use crate::cli::redis_server::{Persistence, RedisServer};
use crate::runtime::handler::Handlers;
use crate::runtime::replica::{Readiness, Replica, ReplicaHandle, ReplicaOptions};
use crate::store::{Endpoint, Store, StoreError};

/// How long anything may stand still before a benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many triggers one pipeline carries.
const PIPELINE: usize = 500;
/// The name that threads of a replica inside this process bear.
const THREAD_NAME: &str = "bench-replica";

/// How to build rigs.
pub(super) struct RigOptions<'a> {
    pub(super) context: &'a Context,
    pub(super) is_persistent: bool,
    /// Fires when the user wants no more.
    pub(super) interrupted: CancellationToken,
}

/// A folder that goes with its owner.
struct TemporaryFolder(PathBuf);

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // Nothing can be done about a folder that does not go.
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// A Redis and replicas.
pub(super) struct Rig {
    endpoint: Endpoint,
    pub(super) store: Store,
    replicas: Vec<ReplicaProcess>,
    server: Option<RedisServer>,
    is_quiet: bool,
    /// Last, so that the server is gone before its folder goes.
    _folder: Option<TemporaryFolder>,
}

/// Builds a rig, lets `act` use it, and takes it down again, also when `act` fails or the user interrupts.
pub(super) async fn with_rig<T>(
    options: &RigOptions<'_>,
    act: impl AsyncFnOnce(&mut Rig) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut rig = tokio::select! {
        biased;
        () = options.interrupted.cancelled() => return Err(interrupted()),
        rig = Rig::start(options) => rig?,
    };
    let outcome = tokio::select! {
        biased;
        () = options.interrupted.cancelled() => Err(interrupted()),
        outcome = act(&mut rig) => outcome,
    };
    let cleaned = rig.take_down().await;
    let value = outcome?;
    cleaned?;
    Ok(value)
}

fn interrupted() -> Failure {
    Failure::failed("interrupted")
}

impl Rig {
    async fn start(options: &RigOptions<'_>) -> Result<Self, Failure> {
        let random = uuid::Uuid::new_v4().simple().to_string();
        let prefix = format!("bench-{}", &random[..12]);
        let mut folder = None;
        let mut server = None;
        let mut endpoint = if options.context.names_redis() {
            options.context.endpoint()?
        } else {
            let path = std::env::temp_dir().join(format!("waooaw-{prefix}"));
            folder = Some(TemporaryFolder(path.clone()));
            let persistence = if options.is_persistent {
                Persistence::EverySecond
            } else {
                Persistence::None
            };
            let own = RedisServer::start(&path, persistence).await?;
            let endpoint = Endpoint::new(&own.url());
            server = Some(own);
            endpoint
        };
        endpoint.prefix.clone_from(&prefix);
        endpoint.partitions = Some(1);
        let is_quiet = options.context.is_quiet();
        let store = Store::new(endpoint.clone())?;
        if server.is_some() {
            // A rewrite would take a core away from whatever is measured at that moment.
            store.never_rewrite().await?;
        } else if !is_quiet {
            eprintln!("on the given redis, under {prefix}:*; these keys are removed afterwards");
        }
        Ok(Self {
            endpoint,
            store,
            replicas: Vec::new(),
            server,
            is_quiet,
            _folder: folder,
        })
    }

    /// Stops the replicas, removes the keys or the whole server.
    async fn take_down(mut self) -> Result<(), Failure> {
        self.stop_replicas().await;
        match self.server.take() {
            Some(server) => server.stop().await,
            None => drop(self.store.remove_everything().await?),
        }
        Ok(())
    }

    /// Starts replica processes and waits until all are ready, unless they are to begin at once on what is there.
    pub(super) async fn start_replicas(&mut self, count: u16, workers: u16, wait: bool) -> Result<(), Failure> {
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let options = FleetOptions {
            redis_url: self.endpoint.url.clone(),
            workers,
            settings: vec![
                setting("WAOOAW_REDIS__PREFIX", &self.endpoint.prefix),
                setting("WAOOAW_REDIS__PARTITIONS", "1"),
                setting("WAOOAW_REDIS__ALLOW_NO_PERSISTENCE", "true"),
                setting("WAOOAW_QUEUE__MAX_SIZE", "0"),
                setting("WAOOAW_QUEUE__MAX_RUNNING", "0"),
                setting("WAOOAW_TELEMETRY__LOG_LEVEL", "warn"),
            ],
            first_port: None,
            show_logs: !self.is_quiet,
        };
        let first = self.replicas.len();
        for _ in 0..count {
            let number = u16::try_from(self.replicas.len() + 1).unwrap_or(u16::MAX);
            self.replicas.push(ReplicaProcess::start(&options, number)?);
        }
        if wait {
            for replica in &mut self.replicas[first..] {
                tokio::select! {
                    ready = until_ready(replica.http_port()) => ready?,
                    () = tokio::time::sleep(PATIENCE) => return Err(Failure::failed("a replica did not become ready")),
                }
            }
        }
        Ok(())
    }

    /// Lets the replicas drain and end.
    pub(super) async fn stop_replicas(&mut self) {
        let stops = self.replicas.drain(..).map(ReplicaProcess::stop);
        futures_util::future::join_all(stops).await;
    }

    /// The CPU time that the replica processes have used so far, in microseconds; nothing where no system tells.
    pub(super) fn replicas_cpu_us(&self) -> Option<f64> {
        self.replicas
            .iter()
            .map(|replica| process_cpu_us(replica.process_id()?))
            .sum()
    }

    /// A replica inside this process, on threads of its own. With no workers it reads triggers and makes tasks, and
    /// leaves them in the queue: the code of every replica, cut where a free slot would be needed.
    pub(super) fn start_inside(&self, handlers: Handlers, workers: u16) -> Result<Inside, Failure> {
        let stop = CancellationToken::new();
        let mut options = ReplicaOptions::new(handlers);
        options.workers = workers;
        options.max_size = Some(0);
        let (store, beat_store) = (Store::new(self.endpoint.clone())?, Store::new(self.endpoint.clone())?);
        let replica = Replica::new(store, beat_store, options, stop.clone());
        let handle = replica.handle();
        let (sender, ended) = oneshot::channel();
        let failed = |problem| Failure::failed(&format!("can not start a thread for a replica: {problem}"));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name(THREAD_NAME)
            .build()
            .map_err(failed)?;
        std::thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .spawn(move || {
                let outcome = runtime.block_on(replica.run());
                runtime.shutdown_timeout(Duration::from_millis(100));
                // Nobody listens any more after an interrupt.
                sender.send(outcome).unwrap_or_default();
            })
            .map_err(failed)?;
        Ok(Inside { handle, stop, ended })
    }

    /// Publishes triggers with these payloads in pipelines; answers how long it took.
    pub(super) async fn publish(
        &self,
        step: &'static str,
        payloads: impl ExactSizeIterator<Item = String>,
    ) -> Result<Duration, Failure> {
        let total = payloads.len();
        let mut progress = Progress::new(step, total as u64, self.is_quiet);
        let stream = self.store.keys().triggers();
        let mut payloads = payloads.peekable();
        let mut done = 0;
        let began = Instant::now();
        while payloads.peek().is_some() {
            let batch: Vec<String> = payloads.by_ref().take(PIPELINE).collect();
            let events: Vec<_> = batch
                .iter()
                .map(|payload| {
                    vec![
                        ("event_type", "orchestration.task.trigger"),
                        ("source_agent", "bench"),
                        ("payload", payload.as_str()),
                    ]
                })
                .collect();
            self.store.publish_all(&stream, &events).await?;
            done += batch.len() as u64;
            progress.set(done);
        }
        Ok(began.elapsed())
    }

    /// Waits until so many tasks wait in the queue and no trigger is left.
    pub(super) async fn until_created(&self, step: &'static str, expected: u64) -> Result<(), Failure> {
        let store = &self.store;
        self.until(step, expected, async || {
            let created = statistics(store).await?.total_count;
            let left = store.inbound_length(&store.keys().triggers()).await?;
            Ok((created, created >= expected && left == 0))
        })
        .await
    }

    /// Waits until so many tasks have ended.
    pub(super) async fn until_ended(&self, step: &'static str, expected: u64) -> Result<(), Failure> {
        let store = &self.store;
        self.until(step, expected, async || {
            let found = statistics(store).await?;
            let ended = found.total_count - found.pending_count - found.running_count;
            Ok((ended, ended >= expected))
        })
        .await
    }

    /// Looks until something is done; gives up when nothing moves any more.
    pub(super) async fn until(
        &self,
        step: &'static str,
        total: u64,
        look: impl AsyncFn() -> Result<(u64, bool), Failure>,
    ) -> Result<(), Failure> {
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        let mut progress = Progress::new(step, total, self.is_quiet);
        let mut last = (0, Instant::now());
        loop {
            let (done, is_over) = look().await?;
            if is_over {
                return Ok(());
            }
            progress.set(done);
            if done != last.0 {
                last = (done, Instant::now());
            } else if last.1.elapsed() > PATIENCE {
                return Err(Failure::failed(&format!(
                    "{step}: nothing has moved for {PATIENCE:?}, at {done} of {total}"
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether to say less.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// Another handle to the same Redis, with a connection of its own.
    pub(super) fn another_store(&self) -> Result<Store, Failure> {
        Ok(Store::new(self.endpoint.clone())?)
    }
}

/// A replica inside this process.
pub(super) struct Inside {
    handle: ReplicaHandle,
    stop: CancellationToken,
    ended: oneshot::Receiver<Result<(), StoreError>>,
}

impl Inside {
    /// Waits until it consumes triggers.
    pub(super) async fn until_ready(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        while self.handle.readiness() != Readiness::Ready {
            if let Ok(outcome) = self.ended.try_recv() {
                outcome?;
                return Err(Failure::failed("a replica ended by itself"));
            }
            if began.elapsed() > PATIENCE {
                return Err(Failure::failed("a replica did not become ready"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Lets it drain and end.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        self.stop.cancel();
        match (&mut self.ended).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(Failure::failed("a replica ended badly")),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Asks a replica until it says that it is ready.
async fn until_ready(port: u16) -> Result<(), Failure> {
    loop {
        if is_ready(port).await.unwrap_or(false) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn is_ready(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}

/// The CPU time of a process, user and system, in microseconds.
fn process_cpu_us(process_id: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process_id}/stat")).ok()?;
    ticks_of(&stat).map(|ticks| ticks * MICROSECONDS_PER_TICK)
}

/// The kernel tells user space in hundredths of a second on every machine that it runs on, see `man 5 proc`.
const MICROSECONDS_PER_TICK: f64 = 10_000.0;

/// Fields 14 and 15 of a line of `/proc/<pid>/stat`; the second field may hold blanks, but ends the last parenthesis.
fn ticks_of(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some(next()? + next()?)
}

/// The CPU time that the replicas inside this process have used, in microseconds, without their beating threads.
pub(super) fn inside_cpu_us() -> Option<f64> {
    let mut nanoseconds = 0.0;
    for entry in std::fs::read_dir("/proc/self/task").ok()? {
        let folder = entry.ok()?.path();
        // A thread may end while it is looked at.
        let Ok(name) = std::fs::read_to_string(folder.join("comm")) else {
            continue;
        };
        if name.trim_end() == THREAD_NAME {
            let times = std::fs::read_to_string(folder.join("schedstat")).ok()?;
            nanoseconds += times.split_ascii_whitespace().next()?.parse::<f64>().ok()?;
        }
    }
    Some(nanoseconds / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_read_behind_the_name() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 3 0 12 1 2";

        assert_eq!(ticks_of(stat), Some(42.0));
        assert_eq!(ticks_of("7 (a) S 1"), None);
    }
}
