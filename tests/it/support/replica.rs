//! Replicas as processes of the binary.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::redis::free_port;
use super::{COVERAGE, wait_for, wait_within};

/// How a replica is started.
#[derive(Clone)]
pub(crate) struct Settings {
    redis_url: Option<String>,
    /// `None` leaves it to the configuration.
    workers: Option<u16>,
    profile: Option<String>,
    has_builtin: bool,
    is_quiet: bool,
    folder: Option<PathBuf>,
    environment: BTreeMap<String, String>,
    config: String,
}

impl Settings {
    pub(crate) fn new(redis_url: &str) -> Self {
        Self {
            redis_url: Some(redis_url.to_owned()),
            workers: Some(10),
            profile: None,
            has_builtin: true,
            is_quiet: false,
            folder: None,
            environment: BTreeMap::new(),
            config: String::new(),
        }
    }

    /// How many tasks it runs at once.
    pub(crate) fn workers(mut self, workers: u16) -> Self {
        self.workers = Some(workers);
        self
    }

    /// As many as the configuration says.
    pub(crate) fn workers_unsaid(mut self) -> Self {
        self.workers = None;
        self
    }

    /// Where Redis is; `None` leaves it to the configuration.
    pub(crate) fn redis_url(mut self, url: Option<&str>) -> Self {
        self.redis_url = url.map(str::to_owned);
        self
    }

    /// One of the profiles in `config/`, and nothing beside that it speaks of.
    pub(crate) fn profile(mut self, name: &str) -> Self {
        self.profile = Some(name.to_owned());
        self.workers = None;
        self.set("WAOOAW_ENV", name)
    }

    /// Says nothing of its log when the test fails; somebody else keeps it.
    pub(crate) fn quiet(mut self) -> Self {
        self.is_quiet = true;
        self
    }

    /// Started in this folder instead of one of its own.
    pub(crate) fn folder(mut self, folder: &std::path::Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Without the handlers that come with the program, but for those that are set.
    pub(crate) fn without_builtin(mut self) -> Self {
        self.has_builtin = false;
        self
    }

    /// As files and variables say, and nothing beside but where it listens.
    pub(crate) fn by_configuration_alone(mut self) -> Self {
        self.workers = None;
        self.has_builtin = false;
        self
    }

    /// A setting by its environment variable.
    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// What its `config/default.toml` says.
    pub(crate) fn config(mut self, text: &str) -> Self {
        text.clone_into(&mut self.config);
        self
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(&self) -> ReplicaProcess {
        let replica = self.spawn();
        replica.until_ready().await;
        replica
    }

    /// Starts several and waits until all are ready.
    pub(crate) async fn start_many(&self, count: usize) -> Vec<ReplicaProcess> {
        let replicas: Vec<ReplicaProcess> = (0..count).map(|_| self.spawn()).collect();
        for replica in &replicas {
            replica.until_ready().await;
        }
        replicas
    }

    /// Starts it and does not wait.
    pub(crate) fn spawn(&self) -> ReplicaProcess {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("config")).unwrap();
        std::fs::write(folder.path().join("config/default.toml"), &self.config).unwrap();
        let log = folder.path().join("replica.log");
        let output = File::create(&log).unwrap();
        let http_port = free_port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_waooaw"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            let is_setting = name.starts_with("WAOOAW_") || name.starts_with("TASK_QUEUE_");
            if is_setting || ["REDIS_URL", "WORKER_POOL_SIZE", "PORT"].contains(&name.as_str()) {
                command.env_remove(name);
            }
        }
        if let Some(profile) = &self.profile {
            let file = format!("config/{profile}.toml");
            let shipped = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(&file);
            std::fs::copy(shipped, folder.path().join(&file)).unwrap();
        }
        let workers = self.workers.map(|workers| format!("--workers={workers}"));
        let child = command
            .arg("serve")
            .args(self.redis_url.as_ref().map(|url| format!("--redis-url={url}")))
            .args(self.has_builtin.then_some("--builtin"))
            .args(workers)
            .args(["--http-addr", &format!("127.0.0.1:{http_port}")])
            // A backtrace would push what was logged before it out of the part that is shown.
            .env("RUST_BACKTRACE", "0")
            .envs(&self.environment)
            .current_dir(self.folder.as_deref().unwrap_or(folder.path()))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        ReplicaProcess {
            child,
            http_port,
            log,
            is_quiet: self.is_quiet,
            _folder: folder,
        }
    }
}

/// A replica; killed with its owner.
pub(crate) struct ReplicaProcess {
    child: Child,
    http_port: u16,
    log: PathBuf,
    is_quiet: bool,
    _folder: TempDir,
}

impl ReplicaProcess {
    /// Asks its HTTP side; `None` while that does not answer.
    pub(crate) async fn get(&self, path: &str) -> Option<(u16, Value)> {
        get(self.http_port, path).await
    }

    /// Where its HTTP side is.
    pub(crate) fn http_port(&self) -> u16 {
        self.http_port
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn until_ready(&self) {
        self.until_readiness(200, Duration::from_secs(60)).await;
    }

    /// Waits until its readiness is answered with `status`.
    pub(crate) async fn until_readiness(&self, status: u16, limit: Duration) {
        wait_within(limit, &format!("readiness {status}"), async || {
            let answer = self.get("/readyz").await;
            match &answer {
                Some((found, _)) if *found == status => Ok(()),
                _ => Err(format!("{answer:?}\n{}", self.log())),
            }
        })
        .await;
    }

    /// The name under which it runs now.
    pub(crate) async fn id(&self) -> String {
        wait_for("a replica has a name", async || {
            let answer = self.get("/readyz").await;
            let id = answer.as_ref().and_then(|(_, body)| body["replica"].as_str());
            id.map(str::to_owned).ok_or_else(|| format!("{answer:?}"))
        })
        .await
    }

    /// Its number.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process is there.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by its name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        signal(name, self.child.id());
    }

    /// Asks it to drain and waits until it has ended by itself.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let log = self.log.clone();
        let child = &mut self.child;
        wait_for("a replica ends", async || {
            let status = child.try_wait().unwrap();
            status.ok_or_else(|| std::fs::read_to_string(&log).unwrap_or_default())
        })
        .await
    }

    /// Gives it a moment to write down which lines ran, as one that is killed does not. The second signal ends it at once.
    fn end_in_order(&mut self) {
        for _ in 0..20 {
            let sent = Command::new("kill").arg(self.child.id().to_string()).status();
            std::thread::sleep(Duration::from_millis(50));
            if !sent.is_ok_and(|sent| sent.success()) || !self.is_alive() {
                return;
            }
        }
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for ReplicaProcess {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        if std::env::var_os(COVERAGE).is_some() && self.is_alive() {
            self.end_in_order();
        }
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
        if std::thread::panicking() && !self.is_quiet {
            let log = self.log();
            let from = log.lines().count().saturating_sub(40);
            let tail: Vec<&str> = log.lines().skip(from).collect();
            eprintln!(
                "--- log of the replica on port {}:\n{}",
                self.http_port,
                tail.join("\n")
            );
        }
    }
}

/// Asks who listens on a port of this machine; `None` while nobody answers.
pub(crate) async fn get(port: u16, path: &str) -> Option<(u16, Value)> {
    ask(port, "GET", path, None, None).await
}

/// Sends a request with a token and a body of JSON, where there are any; `None` while nobody answers.
pub(crate) async fn ask(
    port: u16,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<&str>,
) -> Option<(u16, Value)> {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        if let Some(token) = token {
            write!(request, "Authorization: Bearer {token}\r\n").unwrap();
        }
        if let Some(body) = body {
            let length = body.len();
            write!(
                request,
                "Content-Type: application/json\r\nContent-Length: {length}\r\n"
            )
            .unwrap();
        }
        request.push_str("\r\n");
        request.push_str(body.unwrap_or_default());
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
    };
    tokio::time::timeout(Duration::from_secs(5), ask).await.ok().flatten()
}

/// Without unsafe code there is no signal to send but by a program.
pub(crate) fn signal(name: &str, process: u32) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &process.to_string()])
        .status()
        .unwrap();
    assert!(sent.success(), "no process {process} to send {name} to");
}
