//! The end of the tour: what happened in numbers, and whether the log holds.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::screen::Screen;
use crate::cli::exit::Failure;
use crate::domain::history::{self, Verdict};
use crate::domain::id::Partition;
use crate::domain::state::TaskState;
use crate::runtime::queue::statistics;
use crate::store::Store;

/// How many events are read at once.
const BATCH: usize = 1000;

/// What the log and the counters say in the end.
pub(super) struct Summary {
    events: BTreeMap<String, u64>,
    history: Verdict,
    /// Tasks by state, by the counters that the functions keep.
    counted: BTreeMap<&'static str, u64>,
    dead_letters: u64,
}

impl Summary {
    /// Reads the whole log from its beginning, and the statistics.
    pub(super) async fn of(store: &Store) -> Result<Self, Failure> {
        let mut log = Vec::new();
        let mut after = "0-0".to_owned();
        loop {
            let mut batch = store.events_after(Partition::default(), &after, BATCH).await?;
            let Some(last) = batch.last() else { break };
            after.clone_from(&last.entry_id);
            log.append(&mut batch);
        }
        let mut events = BTreeMap::new();
        for event in &log {
            *events.entry(event.event_type.clone()).or_default() += 1;
        }
        let statistics = statistics(store).await?;
        let counted = TaskState::ALL
            .into_iter()
            .zip([
                statistics.pending_count,
                statistics.running_count,
                statistics.completed_count,
                statistics.failed_count,
                statistics.timeout_count,
                statistics.cancelled_count,
            ])
            .filter(|(_, count)| *count > 0)
            .map(|(state, count)| (state.as_str(), count))
            .collect();
        Ok(Self {
            events,
            history: history::verify(&log),
            counted,
            dead_letters: statistics.dead_letter_count,
        })
    }

    /// Whether the log breaks no rule, and log and counters say the same.
    pub(super) fn is_good(&self) -> bool {
        self.history.violations.is_empty() && self.history.tasks == self.counted && self.history.events > 0
    }

    /// For programs.
    pub(super) fn document(&self) -> Value {
        let violations: Vec<String> = self.history.violations.iter().map(ToString::to_string).collect();
        json!({
            "events": self.events,
            "tasks": self.counted,
            "dead_letter_count": self.dead_letters,
            "audit": {
                "ok": self.is_good(),
                "events": self.history.events,
                "subjects": self.history.subjects,
                "tasks": self.history.tasks,
                "violations": violations,
            },
        })
    }

    /// For people.
    pub(super) fn show(&self, screen: &Screen, took: Duration) -> Result<(), Failure> {
        for (event_type, count) in &self.events {
            screen.say(&format!("  {count:>5}  {event_type}"))?;
        }
        let tasks: Vec<String> = self
            .counted
            .iter()
            .map(|(state, count)| format!("{count} {state}"))
            .collect();
        screen.say(&format!(
            "  tasks by the counters: {}; dead letters: {}",
            tasks.join(", "),
            self.dead_letters
        ))?;
        for violation in &self.history.violations {
            screen.verdict(false, &violation.to_string())?;
        }
        let agreement = if self.history.tasks == self.counted {
            "the counters say the same as the log"
        } else {
            "the counters do not say the same as the log"
        };
        screen.verdict(
            self.is_good(),
            &format!(
                "{} events of {} subjects, {} of them tasks, checked for numbers without a gap, one created and one \
                 end each, and legal moves only: {} violations; {agreement}",
                self.history.events,
                self.history.subjects,
                self.history.tasks.values().sum::<u64>(),
                self.history.violations.len()
            ),
        )?;
        let program = std::env::args().next().unwrap_or_else(|| "waooaw".to_owned());
        screen.say(&format!(
            "\nThe tour took {:.1} s. Its Redis, its replicas and its folder go with it. To go on by hand:",
            took.as_secs_f64()
        ))?;
        let dev = format!("{program} dev --replicas 2");
        let places = [
            (
                &*dev,
                "the same to play with; says how to publish a trigger with redis-cli",
            ),
            (
                "redis-cli -p PORT XREAD STREAMS 'waooaw:{0}:events' 0",
                "there: the log that you saw",
            ),
            ("README.md", "how it works, guarantees and limits, configuration"),
            (
                "docs/events.md",
                "the bus as an agent sees it, with an example of every event",
            ),
            (
                "examples/",
                "publishing from Python, programs with handlers of their own",
            ),
        ];
        for (place, what) in places {
            screen.say(&format!("  {place:<55} {what}"))?;
        }
        Ok(())
    }
}
