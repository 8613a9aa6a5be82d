//! Takes log lines to where they go, and never keeps whoever logs waiting.
//!
//! Whoever reads the log may stop reading or go away, and a disk may be full. A task must not wait for that, and a replica must
//! not look dead for it. So one thread writes; lines wait for it in a queue with a bound, and those that find it full are
//! dropped and counted. When it gets through again, the log itself says how many are missing.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

/// How many lines wait at most; far more than a moment of much to say.
const LINES_MAX: usize = 4096;
/// How long the end of the process waits for the last lines.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the writing thread is given.
enum Item {
    Line(Vec<u8>),
    /// Everything before it is written: say so.
    Mark(SyncSender<()>),
}

/// The way to the writing thread; cheap to clone.
#[derive(Clone)]
pub(super) struct LogLines {
    items: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl LogLines {
    /// Starts the thread that writes to `output`.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (items, received) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_down(&received, output, &counted))?;
        Ok(Self { items, dropped })
    }

    /// Waits until what was logged before is written, for a while.
    pub(super) fn flush(&self) {
        let deadline = Instant::now() + FAREWELL;
        let (mark, written) = sync_channel(1);
        let mut item = Item::Mark(mark);
        while let Err(TrySendError::Full(back)) = self.items.try_send(item) {
            if Instant::now() >= deadline {
                return;
            }
            item = back;
            std::thread::sleep(Duration::from_millis(5));
        }
        // Neither answer changes anything: the process ends.
        written
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .unwrap_or_default();
    }
}

/// Writes until nobody can log any more.
fn write_down(items: &Receiver<Item>, mut output: impl Write, dropped: &AtomicU64) {
    for item in items {
        match item {
            Item::Line(line) => {
                if output.write_all(&line).and_then(|()| output.flush()).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let missing = dropped.swap(0, Ordering::Relaxed);
                if missing > 0 {
                    warn!(
                        lines = missing,
                        "the log was not read fast enough, or not at all: lines are missing here"
                    );
                }
            }
            Item::Mark(mark) => mark.try_send(()).unwrap_or_default(),
        }
    }
}

/// Takes one event; it comes as a whole.
pub(super) struct Line<'a>(&'a LogLines);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.items.try_send(Item::Line(bytes.to_vec())).is_err() {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use super::*;

    /// Keeps what is written; each write waits until it may go on.
    struct Slow {
        may_go_on: mpsc::Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.may_go_on.recv().map_err(io::Error::other)?;
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whoever_logs_waits_for_nobody_and_what_finds_no_room_is_counted() {
        let (go_on, may_go_on) = mpsc::channel();
        let written = Arc::default();
        let slow = Slow {
            may_go_on,
            written: Arc::clone(&written),
        };
        let lines = LogLines::start(slow).unwrap();

        // One is being written, or none yet.
        for _ in 0..LINES_MAX + 10 {
            lines.make_writer().write_all(b"line\n").unwrap();
        }
        let dropped = lines.dropped.load(Ordering::Relaxed);
        assert!((9..=10).contains(&dropped), "{dropped}");

        for _ in 0..=LINES_MAX {
            go_on.send(()).unwrap();
        }
        lines.flush();
        let count = written.lock().unwrap().len() / "line\n".len();
        assert_eq!(count as u64 + dropped, LINES_MAX as u64 + 10);
        assert_eq!(lines.dropped.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_output_that_takes_nothing_any_more_breaks_nothing() {
        let (go_on, may_go_on) = mpsc::channel();
        drop(go_on);
        let written = Arc::default();
        let lines = LogLines::start(Slow { may_go_on, written }).unwrap();

        lines.make_writer().write_all(b"line\n").unwrap();
        lines.flush();

        assert_eq!(lines.dropped.load(Ordering::Relaxed), 1);
    }
}
