//! What the program logs, so far: which filters it accepts.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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
    use super::*;

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
