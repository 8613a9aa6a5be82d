//! Replicas as processes of this same program, with their logs prefixed.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use super::exit::Failure;
use super::guard;
use super::redis_server::free_port;

/// What the replicas have in common.
#[derive(Debug, Clone)]
pub(crate) struct FleetOptions {
    /// Where Redis is.
    pub(crate) redis_url: String,
    /// How many tasks each runs at once.
    pub(crate) workers: u16,
    /// Settings as environment variables, such as `WAOOAW_QUEUE__MAX_SIZE`.
    pub(crate) settings: Vec<(String, String)>,
    /// The first HTTP port; each replica takes the next. Free ones without.
    pub(crate) first_port: Option<u16>,
    /// Whether their logs are shown, each line with the replica's number.
    pub(crate) show_logs: bool,
}

/// One replica.
pub(crate) struct ReplicaProcess {
    child: Child,
    http_port: u16,
}

impl ReplicaProcess {
    /// Starts replica number `number`, from 1.
    pub(crate) fn start(options: &FleetOptions, number: u16) -> Result<Self, Failure> {
        let program = std::env::current_exe()
            .map_err(|problem| Failure::failed(&format!("can not find this program: {problem}")))?;
        let http_port = match options.first_port {
            Some(first) => first
                .checked_add(number - 1)
                .ok_or_else(|| Failure::usage(&format!("there is no port {} behind {first}", number - 1)))?,
            None => free_port()?,
        };
        let output = || {
            if options.show_logs {
                Stdio::piped()
            } else {
                Stdio::null()
            }
        };
        let mut child = Command::new(program)
            .args(["serve", "--builtin", "--redis-url", &options.redis_url])
            .args([
                "--workers",
                &options.workers.to_string(),
                "--http-addr",
                &format!("127.0.0.1:{http_port}"),
            ])
            .envs(
                options
                    .settings
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str())),
            )
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            // Of a group of its own: an interrupt reaches the owner, who then asks each to drain.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|problem| Failure::failed(&format!("can not start a replica: {problem}")))?;
        guard::replica(child.id());
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(prefix(stdout, number));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(prefix(stderr, number));
        }
        Ok(Self { child, http_port })
    }

    /// Where it answers HTTP.
    pub(crate) fn http_port(&self) -> u16 {
        self.http_port
    }

    /// Its process.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until it ends by itself.
    pub(crate) async fn wait(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.child.wait().await
    }

    /// Ends it as a crash would.
    pub(crate) async fn kill(&mut self) {
        let process = self.child.id();
        // It may have ended by itself, which is as good.
        self.child.kill().await.unwrap_or_default();
        process.iter().for_each(guard::ended);
    }

    /// Asks it to drain, and waits until it has.
    pub(crate) async fn stop(mut self) {
        end(&mut self.child, Duration::from_secs(40)).await;
    }
}

/// Copies lines to standard error, each with the replica's number in front.
async fn prefix(stream: impl AsyncRead + Unpin, number: u16) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        eprintln!("[{number}] {line}");
    }
}

/// Asks a process to end, waits for it, and ends it by force when it takes longer than `patience`.
pub(super) async fn end(child: &mut Child, patience: Duration) {
    let process = child.id();
    end_unguarded(child, patience).await;
    process.iter().for_each(guard::ended);
}

async fn end_unguarded(child: &mut Child, patience: Duration) {
    if let Some(id) = child.id() {
        // Without unsafe code there is no signal to send but by a program.
        let asked = Command::new("kill")
            .args(["-TERM", &id.to_string()])
            .stderr(Stdio::null())
            .status()
            .await;
        if asked.is_ok_and(|status| status.success()) && tokio::time::timeout(patience, child.wait()).await.is_ok() {
            return;
        }
    }
    child.kill().await.unwrap_or_default();
}
