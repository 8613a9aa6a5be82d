//! Ends what a command has started, should the command be killed and can not.
//!
//! A shell reads from a pipe what began and what has ended. The pipe closes with the command, however that ends; what is listed
//! then is ended: replicas first, with the time to drain, then their Redis, and a folder of the command's own is removed. Where
//! there is no `sh` there is no guard, and everything else works.

use std::fmt::Display;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Reads `replica ID`, `server ID`, `folder PATH` and `ended WHICH`, one a line.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
replicas= servers= folder=
without() { for one in $1; do [ "$one" = "$2" ] || printf ' %s' "$one"; done; }
while read -r what which; do
  case $what in
    replica) replicas="$replicas $which" ;;
    server) servers="$servers $which" ;;
    folder) folder=$which ;;
    ended)
      replicas=$(without "$replicas" "$which") servers=$(without "$servers" "$which")
      [ "$folder" != "$which" ] || folder= ;;
  esac
done
wait_for() {
  left=$1; shift
  while [ "$left" -gt 0 ]; do
    some=
    for one in "$@"; do ! kill -0 "$one" || some=1; done
    [ -n "$some" ] || return
    sleep 1; left=$((left - 1))
  done
  kill -KILL "$@"
}
[ -z "$replicas" ] || { kill -TERM $replicas; wait_for 45 $replicas; }
[ -z "$servers" ] || { kill -TERM $servers; wait_for 5 $servers; }
[ -z "$folder" ] || rm -rf -- "$folder"
"#;

static PIPE: OnceLock<Option<Mutex<ChildStdin>>> = OnceLock::new();

/// A replica runs.
pub(super) fn replica(process: Option<u32>) {
    if let Some(process) = process {
        tell("replica", &process);
    }
}

/// A Redis runs.
pub(super) fn server(process: Option<u32>) {
    if let Some(process) = process {
        tell("server", &process);
    }
}

/// There is a folder that goes with the command.
pub(super) fn folder(path: &std::path::Path) {
    tell("folder", &path.display());
}

/// One of them is gone.
pub(super) fn ended(which: &impl Display) {
    tell("ended", which);
}

fn tell(what: &str, which: &impl Display) {
    if let Some(pipe) = PIPE.get_or_init(start) {
        let mut pipe = pipe.lock().unwrap_or_else(PoisonError::into_inner);
        // A guard that is gone guards nothing, and nothing waits for it.
        writeln!(pipe, "{what} {which}").unwrap_or_default();
    }
}

#[allow(clippy::zombie_processes, reason = "it ends after this process and not before")]
fn start() -> Option<Mutex<ChildStdin>> {
    let mut guard = Command::new("sh")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // It needs nothing of where its command stands and what it knows, such as passwords.
        .current_dir("/")
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        // Neither an interrupt nor the end of the terminal is meant for it.
        .process_group(0)
        .spawn()
        .ok()?;
    guard.stdin.take().map(Mutex::new)
}
