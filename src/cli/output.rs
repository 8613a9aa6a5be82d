//! Prints results: a table for people, JSON for programs.

use std::io::{IsTerminal, Write};

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use super::exit::Failure;

/// Writes a line to standard output. A reader that went away ends the program quietly, as `head` expects.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(problem) if problem.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::closed_pipe()),
        Err(problem) => Err(Failure::failed(&format!("can not write: {problem}"))),
    }
}

/// Writes a value as JSON: indented on a terminal, one line otherwise.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = if std::io::stdout().is_terminal() {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    line(&text.map_err(|problem| Failure::failed(&format!("can not write JSON: {problem}")))?)
}

/// Writes a document that is kept in files, so that a change of it reads well.
pub(super) fn document(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value);
    line(&text.map_err(|problem| Failure::failed(&format!("can not write JSON: {problem}")))?)
}

/// Writes a value as JSON on one line.
pub(super) fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value);
    line(&text.map_err(|problem| Failure::failed(&format!("can not write JSON: {problem}")))?)
}

/// Writes names and values, one to a line.
pub(super) fn fields<N: AsRef<str>>(rows: &[(N, String)]) -> Result<(), Failure> {
    let width = rows
        .iter()
        .map(|(name, _)| name.as_ref().chars().count())
        .max()
        .unwrap_or_default();
    for (name, value) in rows {
        line(format!("{:width$}  {}", name.as_ref(), plain(value)).trim_end())?;
    }
    Ok(())
}

/// A value in words: members by name, what is null left out.
pub(super) fn words(value: &Value) -> String {
    let is_told = |value: &&Value| !value.is_null();
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => {
            let is_nested = items.iter().any(Value::is_object);
            let items: Vec<String> = items.iter().filter(is_told).map(words).collect();
            items.join(if is_nested { "; " } else { ", " })
        }
        Value::Object(members) => {
            let members = members.iter().filter(|(_, value)| is_told(value));
            let members: Vec<String> = members
                .map(|(name, value)| format!("{name} {}", words(value)))
                .collect();
            members.join(", ")
        }
    }
}

/// An error in words: its type and what it says.
pub(super) fn error(error: &Value) -> String {
    match (error["type"].as_str(), error["message"].as_str()) {
        (Some(kind), Some(message)) => format!("{kind}: {message}"),
        _ => words(error),
    }
}

/// A text without what would move the cursor of a terminal or colour it.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { '\u{fffd}' } else { letter })
        .collect()
}

/// The beginning of a text that is too long for its place.
pub(super) fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(longest.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Says on a terminal that something goes on; nothing elsewhere.
pub(super) fn spinner(message: String) -> Option<ProgressBar> {
    if !is_lively() {
        return None;
    }
    let spinner = ProgressBar::new_spinner().with_message(message);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {elapsed}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    Some(spinner)
}

/// Shows on a terminal how far something is; nothing elsewhere.
pub(super) fn bar(what: &'static str, total: u64) -> Option<ProgressBar> {
    if !is_lively() {
        return None;
    }
    let bar = ProgressBar::new(total).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos} of {len}  {eta}") {
        bar.set_style(style);
    }
    Some(bar)
}

/// Writes rows under headings.
pub(super) fn table(headings: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
    let mut table = Table::new();
    table
        .load_style(UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(headings.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell)).collect::<Vec<_>>());
    }
    line(&table.to_string())
}

/// Whether standard error may carry colour and moving progress: a terminal, and nobody asked for plain text.
pub(super) fn is_lively() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    std::io::stderr().is_terminal() && !is_set("NO_COLOR") && !is_dumb
}
