//! `waooaw dlq`: looks at what failed for good or was rejected, and brings it back.

mod change;

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;
use serde_json::value::RawValue;

use self::change::{Change, change};
use super::context::Context;
use super::exit::{Failure, say};
use super::{output, trigger};
use crate::domain::dead_letter::DeadLetterKind;
use crate::domain::retry::RetryPolicy;
use crate::error::Error;
use crate::runtime::dead_letters::DeadLetters;
use crate::runtime::request;
use crate::service::config::units;
use crate::store::Store;
use crate::store::letter::DeadLetterDocument;
use crate::store::letter_listing::DeadLetterQuery;

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters, the latest first
    #[command(after_help = "\
Examples:
  waooaw dlq list
  waooaw dlq list --reason timeout --task-name report --newer-than 1h
  waooaw dlq list --kind trigger --text 'no such customer' --output json")]
    List(ListArgs),
    /// Print a dead letter: the error, every attempt, and what was asked for
    #[command(after_help = "\
Example:
  waooaw dlq show 7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000.4")]
    Show {
        /// The dead letter
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Let tasks run again with all their retries, and put rejected triggers back on their stream
    #[command(after_help = "\
A task goes on under its own id, at the tail of its priority, whatever queue.max_size says. Asking twice is safe. With
--retry it gets another policy. Exits with 1 when one could not be requeued, 4 when there is no such dead letter.

Examples:
  waooaw dlq requeue 7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000.4
  waooaw dlq requeue --all --reason timeout --dry-run
  waooaw dlq requeue --all --task-name report --retry AGGRESSIVE --rate 20 --yes")]
    Requeue(RequeueArgs),
    /// Remove dead letters for good
    #[command(after_help = "\
Examples:
  waooaw dlq discard 7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000.4 --yes
  waooaw dlq discard --all --kind trigger --older-than 7d --message 'sent by a broken agent' --yes")]
    Discard(DiscardArgs),
}

/// Which dead letters.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only those that hold this: task, trigger or saga_step
    #[arg(long, value_name = "KIND")]
    kind: Option<DeadLetterKind>,
    /// Only those for this reason, such as handler_error, timeout, lost, unknown_task
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Only those of tasks of this name, or of triggers that asked for one
    #[arg(long, value_name = "NAME")]
    task_name: Option<String>,
    /// Only those that are dead for longer than this, such as 10m
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    older_than: Option<Duration>,
    /// Only those that are dead for less than this, such as 1h
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    newer_than: Option<Duration>,
    /// Only those with this text in their ids, their error or what was asked for, in any case
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
}

/// What `dlq list` takes.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: Filter,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Go on where the list before ended: its next_cursor
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

/// Which dead letters are to be changed, how fast, and who says so.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// The dead letters
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All that fit the filters, the longest dead first
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// At most so many a second
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Who says so, for the log [default: your user name]
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Your own words, for the log
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
}

/// What `dlq requeue` takes.
#[derive(Debug, Args)]
pub(crate) struct RequeueArgs {
    #[command(flatten)]
    selection: Selection,
    /// From now on AGGRESSIVE, STANDARD, CONSERVATIVE or QUICK, or a policy as a JSON object
    #[arg(long, value_name = "POLICY")]
    retry: Option<String>,
}

/// What `dlq discard` takes.
#[derive(Debug, Args)]
pub(crate) struct DiscardArgs {
    #[command(flatten)]
    selection: Selection,
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (0.001..=1_000_000.0).contains(rate))
        .ok_or_else(|| "expected a number a second, from 0.001 to 1000000".to_owned())
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.kind.is_none()
            && self.reason.is_none()
            && self.task_name.is_none()
            && self.older_than.is_none()
            && self.newer_than.is_none()
            && self.text.is_none()
    }

    async fn query(&self, store: &Store) -> Result<DeadLetterQuery, Failure> {
        let needs_clock = self.older_than.is_some() || self.newer_than.is_some();
        let now_ms = if needs_clock { store.now_ms().await? } else { 0 };
        let ago = |age: Duration| now_ms.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        Ok(DeadLetterQuery {
            kind: self.kind,
            reason: self.reason.clone(),
            task_name: self.task_name.clone(),
            before_ms: self.older_than.map(ago),
            after_ms: self.newer_than.map(ago),
            text: self.text.clone(),
            oldest_first: false,
        })
    }
}

/// Does what is asked.
pub(super) async fn run(context: &Context, command: DlqCommand) -> Result<(), Failure> {
    match command {
        DlqCommand::List(args) => list(context, args).await,
        DlqCommand::Show { id } => {
            let document = DeadLetters::new(context.store().await?).get(&id).await?;
            if context.is_json() {
                return output::json(&document);
            }
            output::fields(&details(&document))
        }
        DlqCommand::Requeue(args) => {
            let policy = args.retry.as_deref().map(read_policy).transpose()?;
            change(context, args.selection, Change::Requeue(policy)).await
        }
        DlqCommand::Discard(args) => change(context, args.selection, Change::Discard).await,
    }
}

/// Reads a policy by the rules of a trigger.
fn read_policy(text: &str) -> Result<RetryPolicy, Error> {
    Ok(request::read_policy(&trigger::policy_json(text)?)?.unwrap_or(RetryPolicy::STANDARD))
}

async fn list(context: &Context, args: ListArgs) -> Result<(), Failure> {
    let store = context.store().await?;
    let query = args.filter.query(&store).await?;
    let letters = DeadLetters::new(store);
    let page = letters
        .list(&query, usize::from(args.limit), args.cursor.as_deref())
        .await?;
    if context.is_json() {
        return output::json(&page);
    }
    let rows = page.items.iter().map(row).collect();
    output::table(
        &[
            "dead_letter_id",
            "kind",
            "task_name",
            "reason",
            "attempts",
            "dead_lettered_at",
            "error",
        ],
        rows,
    )?;
    if let Some(cursor) = page.next_cursor {
        say(&format!("there may be more: --cursor {cursor}"));
    }
    Ok(())
}

fn row(letter: &DeadLetterDocument) -> Vec<String> {
    vec![
        letter.dead_letter_id.clone(),
        letter.kind.clone(),
        letter.task_name.clone().unwrap_or_default(),
        letter.reason.clone(),
        letter.attempts.len().to_string(),
        letter.dead_lettered_at.clone(),
        output::cut(&message(&letter.error), 60),
    ]
}

/// What an error says, without its type.
fn message(error: &RawValue) -> String {
    #[derive(serde::Deserialize)]
    struct Message {
        message: String,
    }
    serde_json::from_str::<Message>(error.get()).map_or_else(|_| error.get().to_owned(), |error| error.message)
}

/// How much of a value is shown; JSON output has all of it.
const LONGEST: usize = 2000;

fn details(letter: &DeadLetterDocument) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("dead_letter_id", letter.dead_letter_id.clone()),
        ("kind", letter.kind.clone()),
    ];
    let optional = [("task_id", &letter.task_id), ("task_name", &letter.task_name)];
    rows.extend(
        optional
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.clone()?))),
    );
    rows.push(("reason", letter.reason.clone()));
    let error = serde_json::from_str(letter.error.get()).unwrap_or_default();
    rows.push(("error", output::cut(&output::error(&error), LONGEST)));
    rows.push(("dead_lettered_at", letter.dead_lettered_at.clone()));
    rows.push(("correlation_id", letter.correlation_id.clone()));
    let attempts = letter.attempts.iter();
    rows.extend(attempts.map(|attempt| ("attempt", output::cut(&attempt_words(attempt), LONGEST))));
    rows.push(("original", output::cut(letter.original.get(), LONGEST)));
    rows
}

/// An attempt as one line: its number, when and where it ran, and what it came to.
fn attempt_words(attempt: &RawValue) -> String {
    let attempt: Value = serde_json::from_str(attempt.get()).unwrap_or_default();
    let text = |name: &str| output::words(&attempt[name]);
    format!(
        "{} on {}, {} to {}: {}",
        text("attempt"),
        text("worker_id"),
        text("started_at"),
        text("ended_at"),
        output::error(&attempt["error"])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_as_in_a_trigger() {
        assert_eq!(read_policy("quick").unwrap(), RetryPolicy::QUICK);
        assert_eq!(read_policy(r#" {"max_retries":9} "#).unwrap().max_retries, 9);
        for wrong in ["slow", "{", r#"{"max_retries":9},"args":[1"#, r#"{"retries":9}"#, "9"] {
            assert!(read_policy(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_is_over_nothing() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "nan", "inf", "x"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
