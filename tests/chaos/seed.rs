//! One seed from its start to its verdict, on a thread of its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::journal::Journal;
use super::load::{self, Record};
use super::plan::plan;
use super::rig::Rig;
use super::storm::{self, Fired};
use super::verdict::{self, Verdict};

thread_local! {
    /// What a panic on this thread said.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of seeds go to their journals instead of to standard error.
pub(crate) fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        PANIC.with_borrow_mut(|slot| {
            let told = panic.to_string();
            match slot {
                // The first is the cause.
                Some(_) => {}
                None => *slot = Some(told),
            }
        });
    }));
}

/// What became of a seed.
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) fired: Fired,
    pub(crate) seen: BTreeMap<String, u64>,
    pub(crate) tasks: usize,
    problems: Vec<String>,
    took: Duration,
    kept: Option<PathBuf>,
}

impl Outcome {
    /// Whether nothing was found.
    pub(crate) fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self
            .fired
            .iter()
            .map(|(fault, times)| {
                if *times == 1 {
                    fault.to_string()
                } else {
                    format!("{fault}×{times}")
                }
            })
            .collect();
        let word = if self.is_good() { "ok  " } else { "FAIL" };
        let (seed, tasks, took) = (self.seed, self.tasks, self.took.as_secs_f64());
        write!(
            f,
            "{word} seed {seed:<5} {tasks:>5} tasks {took:>5.1} s  {}",
            faults.join(" ")
        )?;
        for problem in self.problems.iter().take(10) {
            write!(f, "\n     {problem}")?;
        }
        if self.problems.len() > 10 {
            write!(f, "\n     and {} more", self.problems.len() - 10)?;
        }
        if let Some(kept) = &self.kept {
            write!(f, "\n     what happened is in {}", kept.display())?;
        }
        Ok(())
    }
}

/// Runs a seed. All that it starts ends with it, whatever happens.
pub(crate) fn run(seed: u64, length: Duration, is_interrupted: &AtomicBool) -> Outcome {
    let began = Instant::now();
    let journal = Arc::new(Journal::new());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut fired = Fired::new();
    let mut kept = None;
    let ran = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let work = whole(seed, length, &journal, &mut fired, &mut kept);
            let interrupted = async {
                while !is_interrupted.load(Ordering::Acquire) {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            tokio::select! {
                verdict = work => verdict,
                () = interrupted => Verdict { problems: vec!["interrupted".to_owned()], ..Verdict::default() },
            }
        })
    }));
    let verdict = ran.unwrap_or_else(|_| {
        let told = PANIC.with_borrow_mut(Option::take).unwrap_or_default();
        Verdict {
            problems: vec![told],
            ..Verdict::default()
        }
    });
    PANIC.with_borrow_mut(Option::take);
    if !verdict.problems.is_empty() {
        let folder = folder(seed, &mut kept);
        let text = format!("{}\n{}\n", journal.text(), verdict.problems.join("\n"));
        std::fs::write(folder.join("journal.log"), text).unwrap_or_default();
    }
    Outcome {
        seed,
        fired,
        seen: verdict.seen,
        tasks: verdict.tasks,
        problems: verdict.problems,
        took: began.elapsed(),
        kept,
    }
}

/// Where to keep what happened.
fn folder(seed: u64, kept: &mut Option<PathBuf>) -> PathBuf {
    let folder = kept.get_or_insert_with(|| {
        let name = format!("waooaw-chaos-{}-seed-{seed}", std::process::id());
        std::env::temp_dir().join(name)
    });
    std::fs::create_dir_all(&*folder).unwrap_or_default();
    folder.clone()
}

/// Keeps what its rig leaves behind when the seed fails, a panic included.
struct Keeper<'a> {
    rig: Rig,
    seed: u64,
    kept: &'a mut Option<PathBuf>,
    is_good: bool,
}

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        if !self.is_good {
            self.rig.keep(&folder(self.seed, self.kept));
        }
    }
}

async fn whole(
    seed: u64,
    length: Duration,
    journal: &Arc<Journal>,
    fired: &mut Fired,
    kept: &mut Option<PathBuf>,
) -> Verdict {
    let steps = plan(seed, length);
    for step in &steps {
        fired.entry(step.fault).or_default();
        journal.say(&format!("plan: {:.3} s {}", step.at.as_secs_f64(), step.fault));
    }
    let rig = Rig::start(seed, Arc::clone(journal)).await;
    let mut keeper = Keeper {
        rig,
        seed,
        kept,
        is_good: false,
    };
    journal.say("started");
    let record = Record::default();
    let began = Instant::now();
    let (redis, rig) = (Arc::clone(&keeper.rig.redis), &mut keeper.rig);
    let (struck, ()) = tokio::join!(
        storm::run(rig, seed, &steps, began),
        load::run(&redis, &record, journal, seed, began + length)
    );
    fired.extend(struck);
    let mut verdict = match verdict::until_quiet(rig).await {
        Ok(()) => verdict::judge(rig, &record).await,
        Err(problem) => Verdict {
            problems: vec![problem],
            ..Verdict::default()
        },
    };
    verdict.problems.truncate(200);
    keeper.is_good = verdict.problems.is_empty();
    verdict
}
