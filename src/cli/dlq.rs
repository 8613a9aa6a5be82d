//! `waooaw dlq`: looks at what failed for good or was rejected, and brings it back.

use std::collections::HashSet;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::confirm::confirm;
use super::context::Context;
use super::exit::{Failure, say};
use super::{output, trigger};
use crate::domain::dead_letter::{DeadLetterId, DeadLetterKind};
use crate::domain::retry::RetryPolicy;
use crate::error::Error;
use crate::runtime::dead_letters::{BATCH, DeadLetters, NotRequeued, Pace, Requeued};
use crate::runtime::request;
use crate::service::config::units;
use crate::store::Store;
use crate::store::dead_letters::Operator;
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

/// What is done with dead letters.
#[derive(Clone, Copy)]
enum Change {
    Requeue(Option<RetryPolicy>),
    Discard,
}

impl Change {
    const fn verb(self) -> &'static str {
        match self {
            Self::Requeue(_) => "requeue",
            Self::Discard => "discard",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Requeue(_) => "requeued",
            Self::Discard => "discarded",
        }
    }
}

/// How many of those handled are listed one by one; the counts say the rest.
const LISTED: usize = 1000;

/// What came of it, as programs read it.
#[derive(Serialize)]
struct Report {
    action: &'static str,
    dry_run: bool,
    /// How many fitted.
    matched: u64,
    /// How many were requeued or discarded.
    done: u64,
    /// How many could not be.
    failed: u64,
    /// How many were passed over, or would be: steps of sagas, which come back only with their saga.
    passed_over: u64,
    /// The first thousand of those that were done, or would be.
    items: Vec<Item>,
    /// The first thousand of those that could not be.
    errors: Vec<Problem>,
    /// Of what was refused first, how the command ends.
    #[serde(skip)]
    first_error: Option<Error>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Item {
    Requeued(Requeued),
    Named { dead_letter_id: String },
}

#[derive(Serialize)]
struct Problem {
    dead_letter_id: String,
    code: &'static str,
    message: String,
}

impl Report {
    fn new(change: Change, dry_run: bool) -> Self {
        Self {
            action: change.verb(),
            dry_run,
            matched: 0,
            done: 0,
            failed: 0,
            passed_over: 0,
            items: Vec::new(),
            errors: Vec::new(),
            first_error: None,
        }
    }

    fn list(&mut self, item: Item) {
        if self.items.len() < LISTED {
            self.items.push(item);
        }
    }

    fn add(&mut self, id: &str, outcome: Result<Item, Error>) {
        match outcome {
            Ok(item) => {
                self.done += 1;
                self.list(item);
            }
            Err(error) => {
                self.failed += 1;
                if self.errors.len() < LISTED {
                    self.errors.push(Problem {
                        dead_letter_id: id.to_owned(),
                        code: error.code(),
                        message: error.to_string(),
                    });
                }
                self.first_error.get_or_insert(error);
            }
        }
    }
}

async fn change(context: &Context, selection: Selection, change: Change) -> Result<(), Failure> {
    if !selection.all && !selection.filter.is_empty() {
        return Err(Failure::usage(
            "filters choose among all: say --all with them, or name dead letters without",
        ));
    }
    let store = context.store().await?;
    let letters = DeadLetters::new(store.clone());
    let actor = selection.actor.clone().unwrap_or_else(|| context.user());
    let job = Job {
        operator: Operator::new(&actor, selection.message.as_deref()),
        change,
        pace: selection.rate.map(Pace::new),
        is_bulk: selection.all,
        letters,
    };
    let report = if selection.all {
        let query = selection.filter.query(&store).await?;
        job.all(context, &selection, &query).await?
    } else {
        job.named(&selection).await?
    };
    let report = match report {
        // One that was asked for and could not be done is an error and nothing else.
        Report {
            first_error: Some(error),
            matched: 1,
            ..
        } if !selection.all => return Err(error.into()),
        report => report,
    };
    print(context, change, &report)?;
    match report.first_error {
        None => Ok(()),
        Some(error) if !selection.all => Err(error.into()),
        Some(_) => Err(Failure::failed(&format!(
            "{} could not be {}",
            report.failed,
            change.done()
        ))),
    }
}

/// One run of the command.
struct Job {
    letters: DeadLetters,
    operator: Operator,
    change: Change,
    pace: Option<Pace>,
    /// Whether filters choose the letters, and not names.
    is_bulk: bool,
}

impl Job {
    /// Those that were named, in their order.
    async fn named(mut self, selection: &Selection) -> Result<Report, Failure> {
        let mut report = Report::new(self.change, selection.dry_run);
        report.matched = selection.ids.len() as u64;
        if selection.dry_run {
            for id in &selection.ids {
                match self.letters.get(id).await {
                    Ok(letter) => report.list(Item::Named {
                        dead_letter_id: letter.dead_letter_id,
                    }),
                    Err(error @ Error::DeadLetterNotFound(_)) => report.add(id, Err(error)),
                    Err(error) => return Err(error.into()),
                }
            }
            return Ok(report);
        }
        if let Change::Discard = self.change {
            let question = format!("Discard {} for good?", counted(report.matched));
            confirm(&question, selection.yes)?;
        }
        for id in &selection.ids {
            match id.parse::<DeadLetterId>() {
                Ok(known) => self.handle(&[known], &mut report).await?,
                Err(_) => report.add(id, Err(Error::DeadLetterNotFound(id.clone()))),
            }
        }
        Ok(report)
    }

    /// All that fit, the longest dead first.
    async fn all(
        mut self,
        context: &Context,
        selection: &Selection,
        query: &DeadLetterQuery,
    ) -> Result<Report, Failure> {
        let mut report = Report::new(self.change, selection.dry_run);
        let spinner = output::spinner("looking".to_owned()).filter(|_| !context.is_quiet());
        let mut sweep = self.letters.sweep(query).await?;
        let mut samples = Vec::new();
        while let Some(ids) = sweep.next(LISTED).await? {
            report.matched += ids.len() as u64;
            let room = LISTED.saturating_sub(samples.len());
            samples.extend(ids.iter().take(room));
        }
        if let Some(spinner) = spinner {
            spinner.finish_and_clear();
        }
        if selection.dry_run {
            let steps = self.steps(query).await?;
            report.passed_over = steps.len() as u64;
            for id in samples.iter().filter(|id| !steps.contains(id)) {
                let dead_letter_id = id.to_string();
                report.list(Item::Named { dead_letter_id });
            }
            return Ok(report);
        }
        if report.matched == 0 {
            return Ok(report);
        }
        let for_good = match self.change {
            Change::Requeue(_) => "",
            Change::Discard => " for good",
        };
        let verb = match self.change {
            Change::Requeue(_) => "Requeue",
            Change::Discard => "Discard",
        };
        confirm(&format!("{verb} {}{for_good}?", counted(report.matched)), selection.yes)?;
        let bar = output::bar(self.change.verb(), report.matched).filter(|_| !context.is_quiet());
        let portion = self.pace.as_ref().map_or(BATCH, Pace::portion);
        let mut sweep = self.letters.sweep(query).await?;
        let (mut left, mut matched) = (report.matched, 0);
        // What has died since it was counted is left for another time.
        while let Some(mut ids) = sweep
            .next(portion.min(usize::try_from(left).unwrap_or(portion)))
            .await?
        {
            ids.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= ids.len() as u64;
            matched += ids.len() as u64;
            self.handle(&ids, &mut report).await?;
            if let Some(bar) = &bar {
                bar.set_position(matched);
            }
            if left == 0 {
                break;
            }
        }
        bar.iter().for_each(ProgressBar::finish_and_clear);
        report.matched = matched;
        Ok(report)
    }

    /// Those of them that a requeue passes over.
    async fn steps(&self, query: &DeadLetterQuery) -> Result<HashSet<DeadLetterId>, Failure> {
        let mut steps = HashSet::new();
        let may_hold_some = query.kind.is_none_or(|kind| kind == DeadLetterKind::SagaStep);
        if let (Change::Requeue(_), true) = (self.change, may_hold_some) {
            let query = DeadLetterQuery {
                kind: Some(DeadLetterKind::SagaStep),
                ..query.clone()
            };
            let mut sweep = self.letters.sweep(&query).await?;
            while let Some(ids) = sweep.next(LISTED).await? {
                steps.extend(ids);
            }
        }
        Ok(steps)
    }

    async fn handle(&mut self, ids: &[DeadLetterId], report: &mut Report) -> Result<(), Failure> {
        if let Some(pace) = &mut self.pace {
            pace.wait(ids.len()).await;
        }
        match self.change {
            Change::Requeue(policy) => {
                let outcomes = self.letters.requeue_each(&self.operator, ids, policy).await?;
                for (id, outcome) in ids.iter().zip(outcomes) {
                    match outcome {
                        // Nobody asked for this very one.
                        Err(NotRequeued::SagaStep(_)) if self.is_bulk => report.passed_over += 1,
                        outcome => {
                            let outcome = outcome.map(Item::Requeued).map_err(Error::from);
                            report.add(&id.to_string(), outcome);
                        }
                    }
                }
            }
            Change::Discard => {
                let outcomes = self.letters.discard_many(&self.operator, ids).await?;
                for (id, outcome) in ids.iter().zip(outcomes) {
                    let dead_letter_id = id.to_string();
                    report.add(&id.to_string(), outcome.map(|()| Item::Named { dead_letter_id }));
                }
            }
        }
        Ok(())
    }
}

fn counted(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} dead letter{plural}")
}

/// How many lines a person is shown of a long list.
const SHOWN: usize = 20;

fn print(context: &Context, change: Change, report: &Report) -> Result<(), Failure> {
    if context.is_json() {
        return output::json(report);
    }
    for problem in report.errors.iter().take(SHOWN) {
        say(&format!("{}: {}", problem.dead_letter_id, problem.message));
    }
    for item in report.items.iter().take(SHOWN) {
        output::line(&output::plain(&match item {
            Item::Requeued(requeued) => match (&requeued.task_id, requeued.life) {
                (Some(task), Some(life)) => format!("{}  life {life} of task {task}", requeued.dead_letter_id),
                _ => format!("{}  its trigger is back on the stream", requeued.dead_letter_id),
            },
            Item::Named { dead_letter_id } => dead_letter_id.clone(),
        }))?;
    }
    let shown = report.items.len().min(SHOWN) as u64;
    let listed = if report.dry_run {
        report.matched - report.failed - report.passed_over
    } else {
        report.done
    };
    if listed > shown {
        output::line(&format!("and {} more", listed - shown))?;
    }
    let summary = if report.dry_run {
        format!("would {} {}; nothing was done", change.verb(), counted(listed))
    } else {
        format!("{} {}", change.done(), counted(report.done))
    };
    output::line(&summary)?;
    if report.passed_over == 0 {
        return Ok(());
    }
    let (passed, steps) = if report.dry_run {
        ("would pass over", counted(report.passed_over))
    } else {
        ("passed over", counted(report.passed_over))
    };
    output::line(&format!(
        "{passed} {steps} of sagas, whose steps only `waooaw saga resume` brings back"
    ))
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
