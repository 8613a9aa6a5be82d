//! A program and all that it starts, as one thing that can be ended.
//!
//! The leader's process id is the group's. Signals go to the group only while the leader is there or was not yet reaped:
//! until then the kernel gives its id to nobody else, so a signal can not hit a stranger.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

use super::pipes::Pipes;

/// How long the end by force may take.
const HANG: Duration = Duration::from_secs(5);

/// A leader and its group. Dropping it ends the group by force.
pub(super) struct ProcessGroup {
    child: Child,
    leader: Option<Pid>,
    is_reaped: bool,
}

impl ProcessGroup {
    /// Starts a program as the leader of a group of its own.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let leader = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self {
            child,
            leader,
            is_reaped: false,
        })
    }

    /// Our ends of the leader's pipes; they are given once.
    pub(super) fn pipes(&mut self) -> Pipes {
        Pipes {
            input: self.child.stdin.take(),
            output: self.child.stdout.take(),
            errors: self.child.stderr.take(),
        }
    }

    /// Waits until the leader has exited, and ends by force what it left in its group.
    ///
    /// Cancel safe: it may be dropped and called again.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.leader_exited().await;
        self.signal(Signal::KILL);
        let status = self.child.wait().await;
        self.is_reaped = true;
        status
    }

    /// Waits until the leader has exited, without reaping it: its id stays its own until the group has got its signal.
    async fn leader_exited(&mut self) {
        // Listening begins before the first look, so no exit falls between the two.
        let (Some(leader), Ok(mut exits)) = (self.leader, signal(SignalKind::child())) else {
            return self.reap().await;
        };
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        loop {
            match waitid(WaitId::Pid(leader), look) {
                Ok(Some(_)) => return,
                Ok(None) | Err(Errno::INTR) => {}
                Err(_) => return self.reap().await,
            }
            if exits.recv().await.is_none() {
                return self.reap().await;
            }
        }
    }

    /// Waits for the leader the plain way. What it left is sent a signal a moment later; that its id is another group's by
    /// then is possible and has never been seen.
    async fn reap(&mut self) {
        if let Err(problem) = self.child.wait().await {
            warn!(%problem, "can not wait for a program");
        }
    }

    /// Sends a signal to all in the group.
    fn signal(&self, signal: Signal) {
        let Some(leader) = self.leader.filter(|_| !self.is_reaped) else {
            return;
        };
        match kill_process_group(leader, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(problem) => warn!(group = leader.as_raw_nonzero().get(), %problem, "can not signal a program"),
        }
    }

    /// Asks all in the group to end.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends all in the group by force; `false` for one that hangs in the kernel and does not end even so.
    pub(super) async fn kill(&mut self) -> bool {
        self.signal(Signal::KILL);
        tokio::time::timeout(HANG, self.ended()).await.is_ok()
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
