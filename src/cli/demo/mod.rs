//! `waooaw demo`: a tour of what the runtime does, on a Redis and replicas of its own.
//!
//! Every scene publishes real triggers and shows the real log as it grows; what it then claims is computed from that
//! log. Afterwards the whole log is read again from its beginning and checked. However the tour ends, by itself, by a
//! failure or by Ctrl-C, its processes and its folder go with it.

mod groups;
mod scene;
mod screen;
mod seen;
mod stage;
mod summary;
mod takeover;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::context::Context;
use super::exit::Failure;
use super::output;
use super::signals::Signals;
use scene::Scene;
use screen::Screen;
use stage::Stage;
use summary::Summary;

/// The tour takes about 20 s; one that takes this long hangs.
const LONGEST: Duration = Duration::from_secs(60);

/// What a scene found, in one line that was computed and not written beforehand.
pub(super) struct Verdict {
    is_good: bool,
    text: String,
}

impl Verdict {
    /// `text` holds, or is what was found instead.
    fn new(is_good: bool, text: String) -> Self {
        Self { is_good, text }
    }
}

/// Runs the tour.
pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let mut signals = Signals::listen()?.with_hangup()?;
    let screen = Screen::new(context.is_json(), context.is_quiet());
    let folder = Folder(std::env::temp_dir().join(format!("waooaw-demo-{}", std::process::id())));
    let mut stage = None;
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(LONGEST, tour(&mut stage, &screen, &folder.0, context.is_verbose())) => outcome
            .unwrap_or_else(|_| Err(Failure::failed(&format!("the tour was not over within {} s", LONGEST.as_secs())))),
        () = signals.any() => Err(Failure::failed("interrupted")),
    };
    screen.clear();
    if let Some(stage) = stage {
        stage.tear_down().await;
    }
    folder.remove().await;
    let (summary, acts) = outcome?;
    let failed = acts.iter().filter(|(_, verdict)| !verdict.is_good).count() + usize::from(!summary.is_good());
    if context.is_json() {
        let scenes = acts.iter().map(|(scene, verdict)| {
            json!({ "scene": scene.title(), "shows": scene.shows(), "ok": verdict.is_good, "verdict": verdict.text })
        });
        let mut document = summary.document();
        document["ok"] = json!(failed == 0);
        document["scenes"] = scenes.collect();
        output::json(&document)?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::failed(&format!(
            "{failed} of {} verdicts are bad; `waooaw demo -v` shows the logs of the replicas",
            acts.len() + 1
        ))),
    }
}

/// All scenes, then the sum. The stage is left in its place, for whoever tears it down.
async fn tour(
    place: &mut Option<Stage>,
    screen: &Screen,
    folder: &Path,
    show_logs: bool,
) -> Result<(Summary, Vec<(Scene, Verdict)>), Failure> {
    let began = Instant::now();
    screen.say("A tour of the orchestration runtime, on a Redis and replicas of its own; about 20 seconds.")?;
    screen.status("starting Redis");
    let stage = place.insert(Stage::open(screen.clone(), folder, show_logs).await?);
    stage.open_replicas().await?;
    let mut acts = Vec::new();
    for (number, scene) in (1..).zip(Scene::ALL) {
        screen.title(&format!("{number}. {}", scene.title()), scene.shows())?;
        let verdict = scene.run(stage).await?;
        screen.verdict(verdict.is_good, &verdict.text)?;
        acts.push((scene, verdict));
    }
    screen.title(
        "What happened",
        "the replicas drain and leave; then the whole log is read again",
    )?;
    stage.close_replicas().await?;
    let summary = Summary::of(&stage.store).await?;
    summary.show(screen, began.elapsed())?;
    Ok((summary, acts))
}

/// Where Redis has its data; removed in the end, even after a panic.
struct Folder(PathBuf);

impl Folder {
    /// Removes it. A Redis that was just killed may still be making a file.
    async fn remove(&self) {
        for _ in 0..40 {
            if std::fs::remove_dir_all(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Usually gone by now; what can not be removed here is left to the system's own cleaning.
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}
