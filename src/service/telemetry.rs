//! Sends the program's log to stderr: lines for people on a terminal, JSON for machines.
//!
//! stdout stays free for the output of commands. What libraries say through the `log` crate (the Redis client does)
//! arrives here too. Traces for a collector are not made here.

use std::io;
use std::sync::OnceLock;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use super::config::{LogFormat, TelemetryConfig};
use super::log_lines::LogLines;

/// The way that the log of this process takes.
static LINES: OnceLock<LogLines> = OnceLock::new();

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The filter names no level.
    #[error("`{0}` is neither a level nor a `target=level`: expected error, warn, info, debug, trace or off")]
    UnknownLevel(String),
    /// The filter can not be read.
    #[error("the log filter can not be read")]
    InvalidFilter(#[source] tracing_subscriber::filter::ParseError),
    /// The process has a log already.
    #[error("the log is set up already")]
    AlreadyInstalled(#[source] tracing_subscriber::util::TryInitError),
    /// There is no thread for the log.
    #[error("can not start writing the log")]
    NoThread(#[source] io::Error),
}

/// Sets up the log of this process. `is_terminal` and `no_color` tell about stderr and the variable `NO_COLOR`.
///
/// # Errors
/// When the filter is not valid, or when the process has a log already.
pub fn init(config: &TelemetryConfig, is_terminal: bool, no_color: bool) -> Result<(), TelemetryError> {
    let lines = LogLines::start(io::stderr()).map_err(TelemetryError::NoThread)?;
    let subscriber = subscriber(config, is_terminal, no_color, lines.clone())?;
    // Also makes the `log` crate's records arrive here.
    subscriber.try_init().map_err(TelemetryError::AlreadyInstalled)?;
    LINES.get_or_init(|| lines);
    Ok(())
}

/// Waits, not for long, until everything that was logged is written; for the end of the process.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush();
    }
}

/// The log that `config` describes, written to `writer`.
fn subscriber<W>(
    config: &TelemetryConfig,
    is_terminal: bool,
    no_color: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let is_pretty = match config.log_format {
        LogFormat::Auto => is_terminal,
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(parse_filter(&config.log_level)?)
        .with_writer(writer);
    Ok(if is_pretty {
        Box::new(log.with_ansi(is_terminal && !no_color).finish())
    } else {
        Box::new(log.json().flatten_event(true).with_span_list(false).finish())
    })
}

/// Reads a level, or directives as `EnvFilter` knows them.
///
/// A bare word that is no level would be taken for a target, so that `inof` logs nothing at all; it is refused. Who means
/// a target says `target=level`.
pub(super) fn parse_filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    let is_directive = |word: &str| {
        word.contains(['=', '[', ']', '{', '}']) || (!word.is_empty() && word.parse::<LevelFilter>().is_ok())
    };
    match text.split(',').map(str::trim).find(|word| !is_directive(word)) {
        Some(word) => Err(TelemetryError::UnknownLevel(word.to_owned())),
        None => EnvFilter::builder().parse(text).map_err(TelemetryError::InvalidFilter),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::service::config::Config;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a log of this kind writes for one warning and one message below its level.
    fn written(log_format: LogFormat, is_terminal: bool, no_color: bool) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let config = TelemetryConfig {
            log_format,
            log_level: "warn".into(),
            ..Config::default().telemetry
        };

        let log = subscriber(&config, is_terminal, no_color, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(log, || {
            let _span = tracing::warn_span!("attempt", attempt = 2).entered();
            tracing::warn!(task_id = "t-1", "task is slow");
            tracing::info!("not this");
        });

        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn machines_get_one_json_object_per_line() {
        for text in [
            written(LogFormat::Auto, false, false),
            written(LogFormat::Json, true, false),
        ] {
            let line: serde_json::Value = serde_json::from_str(&text).unwrap();

            assert_eq!(line["message"], "task is slow");
            assert_eq!(line["level"], "WARN");
            assert_eq!(line["task_id"], "t-1");
            assert_eq!(line["span"]["attempt"], 2);
        }
    }

    #[test]
    fn people_get_lines_and_colour_only_where_they_want_it() {
        assert!(written(LogFormat::Auto, true, false).contains("\x1b["));
        for plain in [
            written(LogFormat::Auto, true, true),
            written(LogFormat::Pretty, false, false),
        ] {
            assert!(plain.contains("task is slow") && !plain.contains("\x1b["), "{plain}");
            assert_eq!(plain.lines().count(), 1);
        }
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        for legal in [
            "info",
            "WARN",
            "off",
            "info,redis=debug",
            "waooaw_orchestration::store=trace",
            "[attempt]=debug",
        ] {
            assert!(parse_filter(legal).is_ok(), "{legal}");
        }
        for illegal in ["inof", "", "info,redis", "redis=loud", "info,"] {
            assert!(parse_filter(illegal).is_err(), "{illegal}");
        }
    }
}
