//! Feeds a program and listens to it: all three pipes at once, so that none of them can block the other two.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

/// How much is read at once.
const CHUNK_BYTES: usize = 16 << 10;

/// The ends of the pipes that are ours.
#[derive(Default)]
pub(super) struct Pipes {
    pub(super) input: Option<ChildStdin>,
    pub(super) output: Option<ChildStdout>,
    pub(super) errors: Option<ChildStderr>,
}

/// What a program wrote.
#[derive(Default)]
pub(super) struct Heard {
    /// To standard output, all of it.
    pub(super) output: Vec<u8>,
    /// To standard error, the end of it.
    errors: VecDeque<u8>,
}

impl Heard {
    /// The end of what it wrote to standard error.
    pub(super) fn errors(&mut self) -> &[u8] {
        self.errors.make_contiguous()
    }
}

/// A program wrote more to standard output than may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMuch;

/// Writes `input` and reads until the program has closed all pipes. What it wrote is in `heard` at any time, up to
/// `output_max` bytes, and the last `errors_max`.
///
/// # Errors
///
/// [`TooMuch`], as soon as it writes more.
pub(super) async fn talk(
    pipes: Pipes,
    input: &[u8],
    heard: &mut Heard,
    output_max: usize,
    errors_max: usize,
) -> Result<(), TooMuch> {
    let Heard { output, errors } = heard;
    let listening = async {
        let mut is_too_much = false;
        listen(pipes.output, |chunk| {
            is_too_much = output.len() + chunk.len() > output_max;
            if !is_too_much {
                output.extend_from_slice(chunk);
            }
            !is_too_much
        })
        .await;
        if is_too_much { Err(TooMuch) } else { Ok(()) }
    };
    let hearing_errors = async {
        listen(pipes.errors, |chunk| {
            errors.extend(chunk);
            errors.drain(..errors.len().saturating_sub(errors_max));
            true
        })
        .await;
        Ok(())
    };
    let feeding = async {
        feed(pipes.input, input).await;
        Ok(())
    };
    tokio::try_join!(listening, hearing_errors, feeding).map(|_| ())
}

/// Writes all of it and closes the pipe. A program need not read what it is told: a broken pipe is no failure.
async fn feed(pipe: Option<ChildStdin>, input: &[u8]) {
    if let Some(mut pipe) = pipe {
        pipe.write_all(input).await.unwrap_or_default();
    }
}

/// Hands on what is read until the pipe is closed or broken, or `take` wants no more.
async fn listen(pipe: Option<impl AsyncRead + Unpin>, mut take: impl FnMut(&[u8]) -> bool) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(count) = pipe.read(&mut chunk).await {
        if count == 0 || !take(&chunk[..count]) {
            return;
        }
    }
}
