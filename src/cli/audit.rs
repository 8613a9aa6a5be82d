//! `waooaw audit`: proves the guarantees, and tells the history of one task.

use clap::Subcommand;
use serde_json::Value;

use super::context::Context;
use super::exit::{Failure, say};
use super::{output, task};
use crate::runtime::audit::{self, Progress, Report, Scope, Step, Timeline};

/// How many violations are printed for people; JSON has more.
const SHOWN: usize = 50;

/// What can be audited.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Prove every guarantee from the log and the store, while the system works
    #[command(after_help = "\
Reads the whole log and every record, and changes nothing. What is still going on is told and is no violation.
Exits with 0 when every guarantee holds, 1 when one is broken.

Examples:
  waooaw audit verify
  waooaw audit verify --output json")]
    Verify,
    /// Tell the history of a task, event by event
    #[command(after_help = "\
Exits with 4 when neither the store nor the log knows the task.

Example:
  waooaw audit task 7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000")]
    Task {
        /// The task
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// Does what is asked.
pub(super) async fn run(context: &Context, command: AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::Verify => verify(context).await,
        AuditCommand::Task { id } => {
            let store = context.store().await?;
            let id = task::task_id(&id)?;
            let shown = Shown::begin(context, "reading the log");
            let outcome = audit::timeline(&store, id, &|step| shown.tell(step)).await;
            shown.end();
            print_timeline(context, &outcome?)
        }
    }
}

/// A line on a terminal that says how far it is; nothing elsewhere.
pub(super) struct Shown(Option<indicatif::ProgressBar>);

impl Shown {
    pub(super) fn begin(context: &Context, what: &str) -> Self {
        let is_shown = !context.is_quiet();
        Self(is_shown.then(|| output::spinner(what.to_owned())).flatten())
    }

    pub(super) fn tell(&self, progress: Progress) {
        if let Some(bar) = &self.0 {
            bar.set_message(format!("{} {}", progress.done, progress.stage));
        }
    }

    pub(super) fn end(self) {
        if let Some(bar) = self.0 {
            bar.finish_and_clear();
        }
    }
}

async fn verify(context: &Context) -> Result<(), Failure> {
    let store = context.store().await?;
    let shown = Shown::begin(context, "auditing");
    let outcome = audit::verify(&store, Scope::Everything, &|step| shown.tell(step)).await;
    shown.end();
    let report = outcome?;
    if context.is_json() {
        output::json(&report)?;
    } else {
        print_report(&report)?;
    }
    if report.ok {
        return Ok(());
    }
    let text = format!("{} violations", report.violation_count);
    Err(Failure::failed(&text).named("AuditFailed"))
}

fn print_report(report: &Report) -> Result<(), Failure> {
    let tasks: Vec<String> = report
        .tasks
        .iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let motion = report.in_motion;
    let mut rows = vec![
        (
            "read",
            format!(
                "{} events of {} subjects, {} records",
                report.events, report.subjects, report.records
            ),
        ),
        ("up to", report.upto.join(", ")),
        (
            "tasks",
            if tasks.is_empty() {
                "none".to_owned()
            } else {
                tasks.join(", ")
            },
        ),
        (
            "in motion",
            format!(
                "{} tasks wait, {} run, {} triggers and {} commands are not acted upon yet",
                motion.pending, motion.running, motion.triggers, motion.commands
            ),
        ),
    ];
    if motion.follow_ups > 0 {
        rows.push(("", format!("{} parts of long work are to be done", motion.follow_ups)));
    }
    for gap in &report.not_covered {
        rows.push((
            "not covered",
            format!(
                "{} events and {} tasks up to {} were trimmed from partition {}",
                gap.events, gap.tasks, gap.trimmed_to, gap.partition
            ),
        ));
    }
    for cut in &report.cuts {
        rows.push((
            "cut",
            format!(
                "redis lost its last moments: {} was seen, {} was left (told at {})",
                cut.last_seen, cut.now_at, cut.entry_id
            ),
        ));
    }
    output::fields(&rows)?;
    output::line("")?;
    for verdict in &report.guarantees {
        let sign = if verdict.violations == 0 { "ok  " } else { "FAIL" };
        let count = if verdict.violations == 0 {
            String::new()
        } else {
            format!("  ({})", verdict.violations)
        };
        output::line(&format!("{sign}  {:<17} {}{count}", verdict.name.name(), verdict.text))?;
    }
    if report.violations.is_empty() {
        return output::line("\nevery guarantee holds");
    }
    output::line("")?;
    for finding in report.violations.iter().take(SHOWN) {
        let place = finding
            .entry_id
            .as_ref()
            .map_or_else(String::new, |entry| format!(" at {entry}"));
        let text = format!("{}: {}{place}: {}", finding.guarantee, finding.subject, finding.message);
        output::line(&output::plain(&text))?;
    }
    let more = report.violation_count - report.violations.len().min(SHOWN) as u64;
    if more > 0 {
        say(&format!("and {more} more: --output json"));
    }
    Ok(())
}

fn print_timeline(context: &Context, timeline: &Timeline) -> Result<(), Failure> {
    if context.is_json() {
        return output::json(timeline);
    }
    output::fields(&[
        ("task_id", timeline.task_id.clone()),
        ("name", timeline.task_name.clone()),
        ("state", timeline.state.unwrap_or("forgotten").to_owned()),
        ("correlation_id", timeline.correlation_id.clone()),
    ])?;
    if !timeline.complete {
        say("the first events were trimmed from the log");
    }
    let rows = timeline.events.iter().map(|step| row(timeline, step)).collect();
    output::table(
        &["seq", "time", "after", "event", "life", "attempt", "worker", "details"],
        rows,
    )
}

fn row(timeline: &Timeline, step: &Step) -> Vec<String> {
    vec![
        step.seq.to_string(),
        step.timestamp.clone(),
        elapsed(step.since_last_ms),
        step.event.clone(),
        step.life.to_string(),
        step.attempt.to_string(),
        step.worker_id.clone().unwrap_or_default(),
        details(timeline, step),
    ]
}

/// A time that passed, as people say it.
fn elapsed(ms: i64) -> String {
    match ms {
        0 => String::new(),
        ms if ms.abs() < 10_000 => format!("{ms:+} ms"),
        ms if ms.abs() < 600_000 => format!("{:+} s", ms / 1000),
        ms => format!("{:+} min", ms / 60_000),
    }
}

/// What else an event says.
fn details(timeline: &Timeline, step: &Step) -> String {
    const LONGEST: usize = 200;
    let mut parts = Vec::new();
    if let Some(error) = &step.error {
        let error: Value = serde_json::from_str(error.get()).unwrap_or_default();
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        parts.push(format!("{}: {}", text("type"), output::cut(&text("message"), LONGEST)));
    }
    if let (Some(count), Some(delay)) = (step.retry_count, step.delay_seconds) {
        parts.push(format!("retry {count} in {delay:.3} s"));
    }
    if let (None, Some(due)) = (step.delay_seconds, &step.due_at) {
        parts.push(format!("due at {due}"));
    }
    if !step.blocked_by.is_empty() {
        parts.push(format!("waits for {} tasks", step.blocked_by.len()));
    }
    if let Some(duration) = step.duration_ms {
        parts.push(format!("took {duration} ms"));
    }
    for (name, value) in [
        ("reason", &step.reason),
        ("message", &step.message),
        ("by", &step.actor),
        ("kept as", &step.dead_letter_id),
    ] {
        if let Some(value) = value {
            parts.push(format!("{name} {}", output::cut(value, LONGEST)));
        }
    }
    let own = format!("{}/", timeline.task_id);
    if !step.causation_id.starts_with(&own) {
        parts.push(format!("because of {}", step.causation_id));
    }
    parts.join(", ")
}
