//! A Redis of the test's own: a process, a folder, a port; gone with its owner.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisResult};
use serde_json::Value;
use tempfile::TempDir;
use waooaw_orchestration::{Endpoint, Store, TaskId, TaskQueue, TaskQueueOptions};

use super::log::Log;
use super::replica::Settings;

/// A way to send commands that outlives its connections: the next command after one broke makes a new one.
pub(crate) struct Line {
    client: Client,
    /// How long an answer may take.
    patience: Duration,
    connection: tokio::sync::Mutex<Option<MultiplexedConnection>>,
}

impl Line {
    /// Connects with the first command.
    pub(crate) fn new(url: &str, patience: Duration) -> Self {
        Self {
            client: Client::open(url).unwrap(),
            patience,
            connection: tokio::sync::Mutex::new(None),
        }
    }

    /// Sends one command, when those before it are answered.
    pub(crate) async fn send<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let mut slot = self.connection.lock().await;
        let mut connection = if let Some(connection) = slot.take() {
            connection
        } else {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(self.patience.min(Duration::from_secs(5))))
                .set_response_timeout(Some(self.patience));
            self.client
                .get_multiplexed_async_connection_with_config(&config)
                .await?
        };
        let answer = command.query_async(&mut connection).await;
        // Whose answers do not come in time may never hear again.
        let is_broken = |error: &redis::RedisError| error.is_unrecoverable_error() || error.is_timeout();
        if !answer.as_ref().err().is_some_and(is_broken) {
            *slot = Some(connection);
        }
        answer
    }

    /// Gives up the connection.
    async fn hang_up(&self) {
        *self.connection.lock().await = None;
    }
}

/// A server that can be stopped and started again on the same port and folder.
pub(crate) struct TestRedis {
    folder: TempDir,
    port: u16,
    is_durable: bool,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    server: Mutex<Option<Child>>,
    client: Client,
    line: Line,
}

impl TestRedis {
    /// A running server that keeps nothing on disk.
    pub(crate) async fn start() -> Self {
        let redis = Self::not_started(false);
        redis.start_again().await;
        redis
    }

    /// A running server with an append-only file.
    pub(crate) async fn start_durable() -> Self {
        let redis = Self::not_started(true);
        redis.start_again().await;
        redis
    }

    /// An address at which no server runs yet.
    pub(crate) fn not_started(is_durable: bool) -> Self {
        let port = free_port();
        Self {
            folder: tempfile::tempdir().unwrap(),
            port,
            is_durable,
            options: Vec::new(),
            environment: Vec::new(),
            server: Mutex::new(None),
            client: Client::open(url(port)).unwrap(),
            line: Line::new(&url(port), Duration::from_secs(20)),
        }
    }

    /// The same with options of `redis-server` beside its own.
    pub(crate) fn with_options(mut self, options: &[&str]) -> Self {
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
        self
    }

    /// The same with these environment variables.
    pub(crate) fn with_environment(mut self, environment: Vec<(String, String)>) -> Self {
        self.environment = environment;
        self
    }

    /// Starts the server, and waits until it has read its data and answers.
    pub(crate) async fn start_again(&self) {
        let log = self.folder.path().join("redis.log");
        let server = Command::new(program())
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no"])
            .args(["--appendonly", if self.is_durable { "yes" } else { "no" }])
            .arg("--dir")
            .arg(self.folder.path())
            .arg("--logfile")
            .arg(&log)
            .args(&self.options)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be on the PATH; `make redis` sees to it");
        *self.server.lock().unwrap() = Some(server);
        let began = Instant::now();
        while self.try_send::<String>(&redis::cmd("PING")).await.is_err() {
            let ended = self.server.lock().unwrap().as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < Duration::from_secs(20),
                "redis did not start: {ended:?}\n{}",
                std::fs::read_to_string(&log).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks the server to end, as an operator would, and waits until it has.
    pub(crate) async fn stop(&self) {
        let mut server = self.server.lock().unwrap().take().expect("it runs");
        super::replica::signal("TERM", server.id());
        tokio::task::spawn_blocking(move || server.wait().unwrap())
            .await
            .unwrap();
        self.line.hang_up().await;
    }

    /// Ends the server as a crash would.
    pub(crate) async fn kill(&self) {
        let mut server = self.server.lock().unwrap().take().expect("it runs");
        server.kill().unwrap();
        tokio::task::spawn_blocking(move || server.wait().unwrap())
            .await
            .unwrap();
        self.line.hang_up().await;
    }

    /// Copies what is on disk right now; see [`TestRedis::restore`].
    pub(crate) fn save_copy(&self) {
        copy_files(
            &self.folder.path().join("appendonlydir"),
            &self.folder.path().join("copy"),
        );
    }

    /// Puts the copy in the place of what is on disk; the server must not run.
    pub(crate) fn restore(&self) {
        let files = self.folder.path().join("appendonlydir");
        std::fs::remove_dir_all(&files).unwrap();
        copy_files(&self.folder.path().join("copy"), &files);
    }

    /// Loses power just before the transaction in which `text` was written for the first time, and starts again.
    pub(crate) async fn lose_power_before(&self, text: &str) {
        self.kill().await;
        let path = self.append_only_file().expect("it is durable");
        let content = std::fs::read(&path).unwrap();
        let find = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).position(|window| window == text);
        let written = find(&content, text.as_bytes()).expect("it was written");
        let begin = b"*1\r\n$5\r\nMULTI\r\n";
        let mut kept = 0;
        while let Some(next) = find(&content[kept..written], begin) {
            kept += next + begin.len();
        }
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len((kept - begin.len()) as u64).unwrap();
        self.start_again().await;
    }

    /// Sends a signal by its name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        let server = self.server.lock().unwrap();
        super::replica::signal(name, server.as_ref().expect("it runs").id());
    }

    /// The file that the server appends to, the part that grows.
    pub(crate) fn append_only_file(&self) -> Option<PathBuf> {
        let files = std::fs::read_dir(self.folder.path().join("appendonlydir")).ok()?;
        files
            .filter_map(|file| Some(file.ok()?.path()))
            .filter(|path| path.to_string_lossy().ends_with(".incr.aof"))
            .max()
    }

    /// What the server logged.
    pub(crate) fn server_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("redis.log")).unwrap_or_default()
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        url(self.port)
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How replicas on this server are started.
    pub(crate) fn replica(&self) -> Settings {
        Settings::new(&self.url())
    }

    /// The library's handle to it.
    pub(crate) fn store(&self) -> Store {
        Store::new(Endpoint::new(&self.url())).unwrap()
    }

    /// The library's queue on it.
    pub(crate) async fn queue(&self) -> TaskQueue {
        TaskQueue::connect(TaskQueueOptions::new(&self.url())).await.unwrap()
    }

    /// The log, read from its beginning.
    pub(crate) async fn log(&self) -> Log<'_> {
        let mut log = Log::new(self);
        log.refresh().await;
        log
    }

    /// Sends one command.
    pub(crate) async fn try_send<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        self.line.send(command).await
    }

    /// Sends one command that must succeed.
    pub(crate) async fn send<T: FromRedisValue>(&self, command: &Cmd) -> T {
        self.try_send(command).await.unwrap()
    }

    /// How often functions were called.
    pub(crate) async fn function_calls(&self) -> usize {
        let statistics: String = self.ask(&["INFO", "commandstats"]).await;
        let calls = statistics.split("cmdstat_fcall:calls=").nth(1);
        calls.unwrap().split(',').next().unwrap().parse().unwrap()
    }

    /// Sends words as a command that must succeed.
    pub(crate) async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        self.send(&command).await
    }

    /// Appends one entry to a stream; answers its id.
    pub(crate) async fn add(&self, stream: &str, fields: &[(&[u8], &[u8])]) -> String {
        let mut command = redis::cmd("XADD");
        command.arg(stream).arg("*");
        for (name, value) in fields {
            command.arg(*name).arg(*value);
        }
        self.send(&command).await
    }

    /// Publishes what asks for a task.
    pub(crate) async fn trigger(&self, event_id: &str, payload: &Value) -> String {
        self.add("waooaw:triggers", &trigger_fields(event_id, &payload.to_string()))
            .await
    }

    /// Publishes many in order, in one go.
    pub(crate) async fn trigger_all(&self, triggers: impl IntoIterator<Item = (String, Value)>) {
        let triggers: Vec<(String, String)> = triggers.into_iter().map(|(id, json)| (id, json.to_string())).collect();
        // On a busy machine an answer may take longer than the half second of the default.
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(self.line.patience));
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connection.unwrap();
        for chunk in triggers.chunks(1000) {
            let mut pipeline = redis::pipe();
            for (event_id, payload) in chunk {
                let command = pipeline.cmd("XADD").arg("waooaw:triggers").arg("*");
                for (name, value) in trigger_fields(event_id, payload) {
                    command.arg(name).arg(value);
                }
                command.ignore();
            }
            let () = pipeline.query_async(&mut connection).await.unwrap();
        }
    }

    /// Publishes what asks for the end of a task; answers the entry's id.
    pub(crate) async fn cancel(&self, event_id: &str, task: TaskId) -> String {
        let payload = serde_json::json!({ "task_id": task.to_string(), "reason": "changed my mind" }).to_string();
        self.add(
            "waooaw:commands",
            &[
                (b"event_type", b"orchestration.task.cancel"),
                (b"source_agent", b"tester"),
                (b"event_id", event_id.as_bytes()),
                (b"payload", payload.as_bytes()),
            ],
        )
        .await
    }

    /// How many entries of a stream are delivered and not acknowledged; 0 without the stream or its group.
    pub(crate) async fn pending(&self, stream: &str, group: &str) -> usize {
        let mut command = redis::cmd("XPENDING");
        command.arg(stream).arg(group);
        match self.try_send::<redis::Value>(&command).await {
            Ok(redis::Value::Array(summary)) => usize::from_redis_value(summary[0].clone()).unwrap(),
            Ok(other) => panic!("XPENDING {stream}: {other:?}"),
            Err(error) if error.code() == Some("NOGROUP") => 0,
            Err(error) => panic!("XPENDING {stream}: {error}"),
        }
    }

    /// All streams that hold tasks.
    pub(crate) async fn task_streams(&self) -> Vec<String> {
        let mut streams = Vec::new();
        for (registry, kind) in [
            ("waooaw:{0}:queues", "queue"),
            ("waooaw:{0}:parks", "parked"),
            ("waooaw:{0}:desks", "agents"),
        ] {
            for name in self.ask::<Vec<String>>(&["SMEMBERS", registry]).await {
                for priority in ["high", "normal", "low", "background"] {
                    streams.push(format!("waooaw:{{0}}:{kind}:{name}:{priority}"));
                }
            }
        }
        streams
    }

    /// The consumers of a stream's group.
    pub(crate) async fn consumers(&self, stream: &str, group: &str) -> Vec<String> {
        let mut command = redis::cmd("XINFO");
        command.arg("CONSUMERS").arg(stream).arg(group);
        let rows: Vec<std::collections::HashMap<String, redis::Value>> =
            self.try_send(&command).await.unwrap_or_default();
        rows.into_iter()
            .map(|row| String::from_redis_value(row["name"].clone()).unwrap())
            .collect()
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        if let Some(mut server) = self
            .server
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take()
        {
            // It may have ended by itself, which is as good.
            server.kill().unwrap_or_default();
            server.wait().map(drop).unwrap_or_default();
        }
    }
}

/// The fields of a trigger from the agent `tester`.
pub(crate) fn trigger_fields<'a>(event_id: &'a str, payload: &'a str) -> [(&'a [u8], &'a [u8]); 4] {
    [
        (b"event_type", b"orchestration.task.trigger"),
        (b"source_agent", b"tester"),
        (b"event_id", event_id.as_bytes()),
        (b"payload", payload.as_bytes()),
    ]
}

/// The task that a trigger of `tester` makes outside any workflow.
pub(crate) fn task_of(event_id: &str) -> TaskId {
    TaskId::derive("tester", event_id, None, None, 1)
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

/// A port that nobody listens on. Below those that systems hand out to clients: a server that is down for a while must
/// find its port free again, and who tries to reach it meanwhile must not end up connected to itself.
pub(crate) fn free_port() -> u16 {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 397).unwrap() * 50;
    loop {
        let port = 10_000 + (start + COUNT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    ["redis-server", "valkey-server"]
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| "redis-server".into())
}
