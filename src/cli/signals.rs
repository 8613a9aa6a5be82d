//! The signals that ask a command to end.

use std::future::poll_fn;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::Failure;

/// SIGINT and SIGTERM from now on, instead of the end of the process.
pub(super) struct Signals(Vec<Signal>);

impl Signals {
    pub(super) fn listen() -> Result<Self, Failure> {
        let none = Self(Vec::with_capacity(3));
        none.and(SignalKind::interrupt())?.and(SignalKind::terminate())
    }

    /// SIGHUP too. Not for what may be started by `nohup`, which asks that it be ignored.
    pub(super) fn with_hangup(self) -> Result<Self, Failure> {
        self.and(SignalKind::hangup())
    }

    fn and(mut self, kind: SignalKind) -> Result<Self, Failure> {
        let signal =
            signal(kind).map_err(|problem| Failure::failed(&format!("can not listen for signals: {problem}")))?;
        self.0.push(signal);
        Ok(self)
    }

    /// Waits for the next of them.
    pub(super) async fn any(&mut self) {
        poll_fn(|context| {
            let came = self.0.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
            if came { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
