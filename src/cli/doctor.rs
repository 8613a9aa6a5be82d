//! `waooaw doctor`: looks at everything that a deployment stands on, and mends what can be mended.

use std::io::IsTerminal;

use clap::Args;
use serde_json::json;

use super::audit::Shown;
use super::context::Context;
use super::exit::{Failure, say};
use super::output;
use crate::runtime::doctor::{self, Diagnosis, Expectations, Status};
use crate::runtime::request;
use crate::store::{Store, StoreError};

pub(super) const EXAMPLES: &str = "\
Looking changes nothing. --repair puts tasks that stand nowhere back into their queues, removes entries and consumers
that belong to nobody, and sets counters right; it may run beside a working system and twice.
Exits with 0 when no check fails, 1 when one does (after the repair, where one is asked for), 3 when Redis can not be
reached.

Examples:
  waooaw doctor
  waooaw doctor --repair --yes";

/// What `doctor` takes.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Mend what can be mended
    #[arg(long)]
    repair: bool,
    /// Do not ask before
    #[arg(long, requires = "repair")]
    yes: bool,
    /// Who mends, for the log
    #[arg(long, value_name = "NAME", default_value = "cli", requires = "repair")]
    actor: String,
}

/// Looks, mends where that is asked for, and looks again.
pub(super) async fn run(context: &Context, args: DoctorArgs) -> Result<(), Failure> {
    let config = context.load(Vec::new())?.config;
    let store = Store::new(context.endpoint()?)?;
    // Whatever else is wrong is found below, and told as one of the checks.
    if let Err(error @ StoreError::Partitions { .. }) = store.find_partitions().await {
        return Err(error.into());
    }
    let expectations = Expectations {
        allow_no_persistence: config.redis.allow_no_persistence,
        load_functions: config.redis.load_functions,
    };
    let (mut diagnosis, findings) = examine(context, &store, expectations).await?;
    let mut mended = Vec::new();
    if args.repair && diagnosis.checks.iter().any(|check| check.repairable) {
        if !context.is_json() {
            print(&diagnosis)?;
        }
        agree(&args, &diagnosis)?;
        let shown = Shown::begin(context, "mending");
        let actor = request::new_actor();
        let outcome = doctor::mend(&store, actor, &args.actor, &findings, &|step| shown.tell(step)).await;
        shown.end();
        mended = outcome?;
        diagnosis = examine(context, &store, expectations).await?.0;
        if !context.is_json() {
            output::line("\nmended")?;
            for one in &mended {
                output::line(&format!("  {} {}", one.count, one.what))?;
            }
            output::line("")?;
        }
    }
    if context.is_json() {
        output::json(&json!({ "ok": diagnosis.ok, "checks": diagnosis.checks, "mended": mended }))?;
    } else {
        print(&diagnosis)?;
    }
    if diagnosis.ok {
        return Ok(());
    }
    let failed: Vec<&str> = diagnosis
        .checks
        .iter()
        .filter(|check| check.status == Status::Fail)
        .map(|check| check.name)
        .collect();
    Err(Failure::failed(&format!("failed: {}", failed.join(", "))).named("ChecksFailed"))
}

async fn examine(
    context: &Context,
    store: &Store,
    expectations: Expectations,
) -> Result<(Diagnosis, doctor::Findings), Failure> {
    let shown = Shown::begin(context, "looking");
    let outcome = doctor::examine(store, expectations, &|step| shown.tell(step)).await;
    shown.end();
    if let Err(StoreError::Unavailable(_) | StoreError::NotConnected(_)) = &outcome
        && !context.is_json()
    {
        output::line("FAIL  reachable          redis does not answer; check redis.url and whether it runs")?;
    }
    Ok(outcome?)
}

/// Asks before anything is changed.
fn agree(args: &DoctorArgs, diagnosis: &Diagnosis) -> Result<(), Failure> {
    if args.yes {
        return Ok(());
    }
    let names: Vec<&str> = diagnosis
        .checks
        .iter()
        .filter(|check| check.repairable)
        .map(|check| check.name)
        .collect();
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "--repair changes the store: say --yes where nobody can be asked",
        ));
    }
    say(&format!("mend {}? [y/N]", names.join(", ")));
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|problem| Failure::failed(&format!("can not read the answer: {problem}")))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::failed("nothing was changed"))
    }
}

fn print(diagnosis: &Diagnosis) -> Result<(), Failure> {
    for check in &diagnosis.checks {
        let sign = match check.status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        let text = format!("{sign}  {:<17}  {}", check.name, check.message);
        output::line(&output::plain(&text))?;
        if let Some(advice) = &check.advice {
            output::line(&format!("{:25}-> {}", "", output::plain(advice)))?;
        }
    }
    Ok(())
}
