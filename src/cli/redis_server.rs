//! A Redis of one's own, for trying things out: a process, a folder, a free port; gone with its owner.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::exit::Failure;
use super::guard;
use crate::store::{Endpoint, Store};

/// The programs that can be the server, in the order in which they are looked for.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// How the server keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// An append-only file, synced every second.
    EverySecond,
    /// Nothing survives.
    None,
}

/// A running server.
pub(crate) struct RedisServer {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl RedisServer {
    /// Starts a server whose data is in `folder`, on a free port of the loopback interface.
    pub(crate) async fn start(folder: &Path, persistence: Persistence) -> Result<Self, Failure> {
        let program = find_program()?;
        std::fs::create_dir_all(folder)
            .map_err(|problem| Failure::failed(&format!("can not make {}: {problem}", folder.display())))?;
        let mut last = String::new();
        // Between finding a free port and using it another program may take it.
        for _ in 0..5 {
            let port = free_port()?;
            let log = folder.join("redis.log");
            let mut child = Command::new(&program)
                .args([
                    "--port",
                    &port.to_string(),
                    "--bind",
                    "127.0.0.1",
                    "--protected-mode",
                    "yes",
                ])
                .args(["--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no"])
                .args([
                    "--appendonly",
                    if persistence == Persistence::EverySecond {
                        "yes"
                    } else {
                        "no"
                    },
                ])
                .args(["--appendfsync", "everysec"])
                .arg("--dir")
                .arg(folder)
                .arg("--logfile")
                .arg(&log)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // Of a group of its own, so that an interrupt reaches the owner first and the replicas can drain.
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
                .map_err(|problem| Failure::failed(&format!("can not start {}: {problem}", program.display())))?;
            guard::server(child.id());
            let store = Store::new(Endpoint::new(&url(port)))?;
            for _ in 0..500 {
                if store.ping().await.is_ok() {
                    return Ok(Self {
                        child,
                        folder: folder.to_owned(),
                        port,
                    });
                }
                if matches!(child.try_wait(), Ok(Some(_))) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            last = std::fs::read_to_string(&log).unwrap_or_default();
        }
        let tail: Vec<&str> = last.lines().rev().take(3).collect();
        Err(Failure::failed(&format!("redis did not start: {}", tail.join("; "))))
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        url(self.port)
    }

    /// Where its data is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it.
    pub(crate) async fn stop(mut self) {
        super::fleet::end(&mut self.child, Duration::from_secs(5)).await;
    }
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

/// A port that nobody listens on right now.
pub(crate) fn free_port() -> Result<u16, Failure> {
    std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|problem| Failure::failed(&format!("no free port: {problem}")))
}

fn find_program() -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    PROGRAMS
        .iter()
        .flat_map(|program| folders.iter().map(move |folder| folder.join(program)))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Failure::unreachable("no redis-server on the PATH; install it, as `make redis` does"))
}
