//! Requeues or discards: those that are named, or all that fit, at a pace; and says what came of it.

use std::collections::HashSet;

use indicatif::ProgressBar;
use serde::Serialize;

use super::Selection;
use crate::cli::confirm::confirm;
use crate::cli::context::Context;
use crate::cli::exit::{Failure, say};
use crate::cli::output;
use crate::domain::dead_letter::{DeadLetterId, DeadLetterKind};
use crate::domain::retry::RetryPolicy;
use crate::error::Error;
use crate::runtime::dead_letters::{BATCH, DeadLetters, NotRequeued, Pace, Requeued};
use crate::store::dead_letters::Operator;
use crate::store::letter_listing::DeadLetterQuery;

/// What is done with dead letters.
#[derive(Clone, Copy)]
pub(super) enum Change {
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

/// Requeues or discards what is selected, and says what came of it.
pub(super) async fn change(context: &Context, selection: Selection, change: Change) -> Result<(), Failure> {
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
