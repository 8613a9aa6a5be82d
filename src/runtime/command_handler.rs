//! Runs tasks by starting a program, once per attempt and without a shell.
//!
//! The program reads the task as JSON from standard input and writes its result as JSON to standard output; its exit code
//! says how it went. It sees an environment of its own and leads a process group of its own, so whatever it starts ends
//! with it: when the leader has exited, and when the attempt is aborted, 5 s after all were asked to end.
//!
//! Never decides whether another attempt follows: that is the replica's.

mod pipes;
mod process_group;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::excerpt::{EXCERPT_BYTES, Secrets, excerpt, with_excerpt};
use super::handler::{Handler, HandlerFuture, HandlerResult, TaskContext, TaskError};
use super::invocation;
use super::work::RESULT_BYTES_MAX;
use pipes::{Heard, TooMuch, talk};
use process_group::ProcessGroup;

/// The exit code that says that another attempt would fail as well: `EX_DATAERR` of `sysexits.h`.
const PERMANENT: i32 = 65;
/// How long a program that was asked to end may take, before it is ended by force.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the pipes are read on when the program has ended. What it wrote is there at once; only a process that left its
/// group can hold them open.
const DRAIN: Duration = Duration::from_secs(1);

/// What a program sees of its replica's environment, where it is set.
pub const INHERITED: [&str; 7] = ["PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"];

/// A program that runs tasks of one name.
#[derive(Clone)]
pub struct CommandHandler {
    program: Arc<Program>,
}

struct Program {
    path: String,
    arguments: Vec<String>,
    environment: BTreeMap<OsString, OsString>,
    /// What no error may quote.
    secrets: Secrets,
    /// Programs that have not ended yet, also those of attempts that were aborted.
    running: TaskTracker,
}

impl CommandHandler {
    /// A handler that starts `program`, a path or a name to be found in the `PATH` of `environment`, with these
    /// arguments. The program sees `environment`, what it is told about its attempt, and nothing else. Values of
    /// `secrets` are masked in errors.
    #[must_use]
    pub fn new<'a>(
        program: &str,
        arguments: &[String],
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        secrets: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let running = TaskTracker::new();
        // Nobody waits for it but to see that it is empty.
        running.close();
        let mut masked = Secrets::default();
        secrets.into_iter().for_each(|secret| masked.add(secret));
        Self {
            program: Arc::new(Program {
                path: program.to_owned(),
                arguments: arguments.to_vec(),
                environment: environment.into_iter().collect(),
                secrets: masked,
                running,
            }),
        }
    }
}

impl Handler for CommandHandler {
    fn patience(&self) -> Duration {
        PATIENCE + DRAIN
    }

    fn run(&self, task: TaskContext) -> HandlerFuture {
        let program = Arc::clone(&self.program);
        Box::pin(async move {
            // Told so, or by dropping this future, the program is asked to end, which goes on in a task of its own.
            let stop = task.cancelled.child_token();
            let _ended_with_this = stop.clone().drop_guard();
            let running = program.running.clone();
            let attempt = running.spawn(async move { program.run(&task, &stop).await });
            match attempt.await {
                Ok(result) => result,
                Err(failure) => match failure.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Err(TaskError::new("the program was ended with its replica")),
                },
            }
        })
    }

    fn probe(&self) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        Box::pin(std::future::ready(self.program.is_there()))
    }

    fn cleaned_up(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let running = self.program.running.clone();
        Box::pin(async move { running.wait().await })
    }
}

/// How a program's run ended, for as far as it was watched.
enum Ending {
    Exited(io::Result<ExitStatus>),
    WroteTooMuch,
}

impl Program {
    /// Runs the program until it has ended by itself, or was ended because it wrote too much or `stop` asked for it.
    async fn run(&self, task: &TaskContext, stop: &CancellationToken) -> HandlerResult {
        let mut group = ProcessGroup::start(&mut self.command(task)).map_err(|error| self.not_started(&error))?;
        let input = invocation::json(task);
        let mut heard = Heard::default();
        let talking = talk(
            group.pipes(),
            input.as_bytes(),
            &mut heard,
            RESULT_BYTES_MAX,
            EXCERPT_BYTES,
        );
        let ending = watch(&mut group, talking, stop).await;
        self.judge(ending, &mut heard)
    }

    fn command(&self, task: &TaskContext) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(&self.environment)
            .env("WAOOAW_TASK_ID", task.task_id.to_string())
            .env("WAOOAW_TASK_NAME", &task.name)
            .env("WAOOAW_ATTEMPT", task.attempt.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let deadline = invocation::deadline(task);
        for (name, value) in [
            ("WAOOAW_DEADLINE", &deadline),
            ("WAOOAW_WORKFLOW_ID", &task.workflow_id),
            ("TRACEPARENT", &task.traceparent),
            ("TRACESTATE", &task.tracestate),
        ] {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command
    }

    /// The result, or the error, of a program that ended so.
    fn judge(&self, ending: Ending, heard: &mut Heard) -> HandlerResult {
        let said = excerpt(heard.errors(), &self.secrets);
        let status = match ending {
            Ending::WroteTooMuch => {
                let sentence = format!("the program wrote more than {RESULT_BYTES_MAX} bytes to standard output");
                return Err(TaskError::permanent(
                    "result_too_large",
                    &with_excerpt(&sentence, &said),
                ));
            }
            Ending::Exited(Ok(status)) => status,
            Ending::Exited(Err(error)) => {
                return Err(TaskError::new(&format!("can not tell how the program ended: {error}")));
            }
        };
        match (status.code(), status.signal()) {
            (Some(0), _) => invocation::result(&heard.output).map_err(|error| {
                let sentence = format!("standard output is no JSON ({error})");
                TaskError::permanent("invalid_result", &with_excerpt(&sentence, &said))
            }),
            (Some(PERMANENT), _) => {
                let sentence = format!("exit code {PERMANENT}");
                Err(TaskError::permanent("handler_error", &with_excerpt(&sentence, &said)))
            }
            (Some(code), _) => Err(TaskError::new(&with_excerpt(&format!("exit code {code}"), &said))),
            (None, Some(signal)) => {
                let sentence = format!("killed by signal {signal}{}", signal_name(signal));
                Err(TaskError::new(&with_excerpt(&sentence, &said)))
            }
            (None, None) => Err(TaskError::new(&with_excerpt(&format!("ended with {status}"), &said))),
        }
    }

    /// Another replica may have the program, or this one later; and to start none is no use to anybody.
    fn not_started(&self, error: &io::Error) -> TaskError {
        TaskError::unreachable(&format!("can not start `{}`: {error}", self.path))
    }

    /// Whether the program can be found and may be executed.
    fn is_there(&self) -> bool {
        let is_program = |path: &Path| {
            path.metadata()
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        };
        if self.path.contains('/') {
            return is_program(Path::new(&self.path));
        }
        let Some(folders) = self.environment.get(OsStr::new("PATH")) else {
            // The system has a place of its own to look for it.
            return true;
        };
        std::env::split_paths(folders).any(|folder| is_program(&folder.join(&self.path)))
    }
}

/// Listens until the program has ended. One that writes too much, or is to stop, is asked to end and, when it takes too
/// long, ended by force. It is listened to until then: a broken pipe would end it before it could clean up.
async fn watch(
    group: &mut ProcessGroup,
    talking: impl Future<Output = Result<(), TooMuch>>,
    stop: &CancellationToken,
) -> Ending {
    tokio::pin!(talking);
    let (mut is_silent, mut is_too_much) = (false, false);
    let mut force_at = None;
    let status = loop {
        tokio::select! {
            biased;
            heard = &mut talking, if !is_silent => {
                is_silent = true;
                is_too_much = heard.is_err();
                if is_too_much && force_at.is_none() {
                    group.terminate();
                    force_at = Some(Instant::now() + PATIENCE);
                }
            }
            status = group.ended() => break status,
            () = stop.cancelled(), if force_at.is_none() => {
                group.terminate();
                force_at = Some(Instant::now() + PATIENCE);
            }
            () = until(force_at) => {
                if !group.kill().await {
                    warn!("a program does not end even by force");
                }
                break Err(io::Error::other("it was ended by force"));
            }
        }
    };
    if !is_silent {
        is_too_much = tokio::time::timeout(DRAIN, talking).await == Ok(Err(TooMuch));
    }
    if is_too_much {
        Ending::WroteTooMuch
    } else {
        Ending::Exited(status)
    }
}

/// Waits for a moment; for ever without one.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The name of a signal that ends programs, in brackets.
const fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        14 => " (SIGALRM)",
        15 => " (SIGTERM)",
        24 => " (SIGXCPU)",
        25 => " (SIGXFSZ)",
        _ => "",
    }
}
