//! The command line as a person or a program uses it: a process, its two outputs and its exit code.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::COVERAGE;
use super::redis::TestRedis;

/// How long a command may take; the longest are the tour and the benchmarks on a busy machine.
const LONGEST: Duration = Duration::from_secs(120);

/// A command to be run, in an environment with nothing in it but what is set here, in an empty folder.
pub(crate) struct Cli {
    command: Command,
    folder: TempDir,
    text: String,
}

impl Cli {
    /// Words as one types them.
    pub(crate) fn new(words: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let temporary = folder.path().join("tmp");
        std::fs::create_dir(&temporary).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_waooaw"));
        command
            .args(words)
            .env_clear()
            // Where `redis-server` and `kill` are, and where it is to be written which lines ran.
            .envs(["PATH", COVERAGE].into_iter().filter_map(|name| {
                let value = std::env::var_os(name)?;
                Some((OsString::from(name), value))
            }))
            .env("TMPDIR", &temporary)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Self {
            command,
            folder,
            text: format!("waooaw {}", words.join(" ")),
        }
    }

    /// The same against a Redis, which is told by `REDIS_URL` and nothing else.
    pub(crate) fn on(redis: &TestRedis, words: &[&str]) -> Self {
        Self::new(words).set("REDIS_URL", &redis.url())
    }

    /// An environment variable.
    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// The folder in which it will run.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file in the folder in which it runs.
    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        std::fs::write(self.folder.path().join(name), content).unwrap();
        self
    }

    /// Starts it.
    pub(crate) fn spawn(mut self) -> Running {
        Running {
            child: self.command.spawn().unwrap(),
            folder: self.folder,
            text: self.text,
        }
    }

    /// Runs it to its end.
    pub(crate) async fn run(self) -> Ran {
        self.spawn().ended().await
    }

    /// Runs it to its end, which must be a good one; answers its output, read as JSON.
    pub(crate) async fn json(self) -> Value {
        self.run().await.expect(0).json()
    }
}

/// A command that was started; killed with its owner.
pub(crate) struct Running {
    child: Child,
    folder: TempDir,
    text: String,
}

impl Running {
    /// Sends a signal by its name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        super::replica::signal(name, self.child.id().expect("it runs"));
    }

    /// The folder in which it was started.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(self) -> Ran {
        let Self { child, folder, text } = self;
        let output = tokio::time::timeout(LONGEST, child.wait_with_output())
            .await
            .unwrap_or_else(|_| panic!("still running: {text}"))
            .unwrap();
        Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
            folder,
            text,
        }
    }
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    folder: TempDir,
    text: String,
}

impl Ran {
    /// It ended with this exit code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}: {self:?}", self.text);
        self
    }

    /// What it printed, one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What it printed, one JSON value a line.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let lines = self.out.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }

    /// The error that a program is told, with everything around it in its place.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        let document: Value = serde_json::from_str(&self.err).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let error = document["error"].clone();
        assert!(
            error["message"].as_str().is_some_and(|text| !text.is_empty()),
            "{self:?}"
        );
        error
    }

    /// It ended with this exit code and this error, which is on standard error, as JSON.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, name: &str) {
        assert_eq!(self.code, Some(code), "{}: {self:?}", self.text);
        assert_eq!(self.error()["code"], name, "{self:?}");
    }

    /// Nothing of what it printed moves the cursor of a terminal or colours it.
    #[track_caller]
    pub(crate) fn is_plain(&self) {
        let is_plain = |text: &str| !text.chars().any(|letter| letter.is_control() && letter != '\n');
        assert!(is_plain(&self.out) && is_plain(&self.err), "{self:?}");
    }

    /// What is left of it: files in its temporary folder, and processes.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.folder.path().join("tmp")).unwrap();
        let mut left: Vec<String> = files.map(|file| file.unwrap().path().display().to_string()).collect();
        left.extend(processes_of(&self.folder.path().canonicalize().unwrap()));
        left
    }
}

/// The processes that were started with this folder in their surroundings, or work in it; where the system tells.
pub(crate) fn processes_of(folder: &Path) -> Vec<String> {
    let needle = folder.to_str().unwrap();
    let Ok(all) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for process in all.flatten() {
        let path = process.path();
        let read = |name: &str| {
            let bytes = std::fs::read(path.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let works_there = std::fs::read_link(path.join("cwd")).is_ok_and(|there| there.starts_with(folder));
        if works_there || read("environ").contains(needle) {
            found.push(format!("{}: {}", path.display(), read("cmdline")));
        }
    }
    found
}
