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
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::pipes::Pipes;

/// How long a group that was asked to end may take, before it is ended by force.
const PATIENCE: Duration = Duration::from_secs(5);

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

    /// Waits until the leader has exited, and ends by force what it left in its group.
    ///
    /// Cancel safe: it may be dropped and called again.
    async fn ended(&mut self) -> io::Result<ExitStatus> {
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

    /// Asks all in the group to end, and ends by force what is left when the leader has exited or the patience is over.
    async fn end(mut self) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(PATIENCE, self.ended()).await.is_ok() {
            return;
        }
        self.signal(Signal::KILL);
        // By force it ends at once, but for one that hangs in the kernel.
        if tokio::time::timeout(PATIENCE, self.ended()).await.is_err() {
            warn!(
                group = self.leader.map(|leader| leader.as_raw_nonzero().get()),
                "a program does not end even by force"
            );
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// A group that is ended in order when nobody waits for it any more: in the background, watched by `leftovers`.
pub(super) struct Guarded {
    group: Option<ProcessGroup>,
    leftovers: TaskTracker,
}

impl Guarded {
    pub(super) fn new(group: ProcessGroup, leftovers: &TaskTracker) -> Self {
        Self {
            group: Some(group),
            leftovers: leftovers.clone(),
        }
    }

    /// Our ends of the leader's pipes; they are given once.
    pub(super) fn pipes(&mut self) -> Pipes {
        let Some(group) = &mut self.group else {
            return Pipes::default();
        };
        Pipes {
            input: group.child.stdin.take(),
            output: group.child.stdout.take(),
            errors: group.child.stderr.take(),
        }
    }

    /// Waits until the leader has exited, and ends by force what it left in its group.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        let Some(group) = &mut self.group else {
            return Err(io::Error::other("the program was ended before"));
        };
        let status = group.ended().await;
        self.group = None;
        status
    }

    /// Ends it in the background.
    pub(super) fn end(&mut self) {
        let Some(group) = self.group.take() else { return };
        // Asked at once, not when the task gets its turn. Without a runtime it is dropped, which is the end as well.
        group.signal(Signal::TERM);
        if let Ok(runtime) = Handle::try_current() {
            self.leftovers.spawn_on(group.end(), &runtime);
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.end();
    }
}
