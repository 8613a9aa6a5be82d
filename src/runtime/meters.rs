//! Counts what a replica does, for the metrics.
//!
//! One for each process: it outlives the names under which the replica joins, so what it counted only ever grows. Counting
//! takes no lock and remembers no id; by task name there are as many series as handlers, up to a limit, and one for the
//! rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::handler::Handlers;
use super::replica::Run;
use crate::domain::dead_letter::DeadLetterKind;
use crate::domain::histogram::{Histogram, Reading};
use crate::domain::priority::Priority;
use crate::store::agents::{Answered, Said, Verdict};
use crate::store::functions::{Outcome, Settled};
use crate::store::record::{Flags, Record};

/// The most names of tasks that are told apart.
const NAMES_MAX: usize = 200;
/// What the others go by.
const OTHER: &str = "_other";

/// How long tasks wait and run, in seconds.
const TASK_BOUNDS: [f64; 16] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
];

/// How a task or an attempt ended, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a result.
    Completed,
    /// With an error.
    Failed,
    /// Out of time.
    Timeout,
    /// Somebody ended it.
    Cancelled,
    /// Handed back; only an attempt ends so.
    Released,
}

impl End {
    /// Every way for an attempt; all but the last for a task.
    pub const ALL: [Self; 5] = [
        Self::Completed,
        Self::Failed,
        Self::Timeout,
        Self::Cancelled,
        Self::Released,
    ];

    /// Its name in the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Released => "released",
        }
    }

    /// The way of an attempt; one without an outcome was taken away from whoever ran it.
    pub(super) const fn of(outcome: Option<&Outcome>) -> Self {
        match outcome {
            Some(Outcome::Completed { .. }) => Self::Completed,
            Some(Outcome::Failed { .. } | Outcome::Rejected { .. }) => Self::Failed,
            Some(Outcome::Timeout { .. }) => Self::Timeout,
            Some(Outcome::Released(_)) => Self::Released,
            Some(Outcome::Aborted) | None => Self::Cancelled,
        }
    }
}

/// Why a task gets another attempt, where its name is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Its handler failed.
    Error,
    /// It ran out of time.
    Timeout,
    /// Its replica died, or its agent fell silent.
    Lost,
}

impl Again {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Error, Self::Timeout, Self::Lost];

    /// Its name in the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
        }
    }
}

/// What became of an inbound event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// What it asks for was done.
    Accepted,
    /// It had been done before.
    Duplicate,
    /// A trigger that can not be accepted; it is in the dead letters.
    Rejected,
    /// A command that can not be carried out.
    Refused,
}

impl Taken {
    /// Every way.
    pub const ALL: [Self; 4] = [Self::Accepted, Self::Duplicate, Self::Rejected, Self::Refused];

    /// Its name in the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Rejected => "rejected",
            Self::Refused => "refused",
        }
    }
}

/// The inbound streams, in the order in which they are counted.
pub const STREAMS: [&str; 2] = ["triggers", "commands"];

/// A number that only grows.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is counted of the tasks of one name.
struct Named {
    name: String,
    ended: [Count; 4],
    again: [Count; Again::ALL.len()],
    run: [Histogram; End::ALL.len()],
}

impl Named {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ended: Default::default(),
            again: Default::default(),
            run: End::ALL.map(|_| Histogram::new(&TASK_BOUNDS)),
        }
    }
}

/// Where an attempt is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    place: usize,
    letter: DeadLetterKind,
}

/// What a replica counts.
pub struct Meters {
    /// Those of the handlers, and behind them that of all other names.
    named: Vec<Named>,
    places: BTreeMap<String, usize>,
    wait: [Histogram; Priority::ALL.len()],
    trigger_to_start: Histogram,
    ingest: [Histogram; STREAMS.len()],
    taken: [[Count; Taken::ALL.len()]; STREAMS.len()],
    letters: [Count; DeadLetterKind::ALL.len()],
    lost: Count,
    stale: Count,
    /// What the clock of Redis is ahead of this machine's, ms.
    clock_ahead_ms: AtomicI64,
}

impl Meters {
    /// Nothing counted yet, by the names of these handlers.
    pub(crate) fn new(handlers: &Handlers) -> Self {
        let mut names = handlers.all_names();
        names.truncate(NAMES_MAX);
        names.push(OTHER.to_owned());
        Self {
            named: names.iter().map(|name| Named::new(name)).collect(),
            places: names.into_iter().zip(0..).collect(),
            wait: Priority::ALL.map(|_| Histogram::new(&TASK_BOUNDS)),
            trigger_to_start: Histogram::new(&TASK_BOUNDS),
            ingest: STREAMS.map(|_| Histogram::new(&TASK_BOUNDS)),
            taken: Default::default(),
            letters: Default::default(),
            lost: Count::default(),
            stale: Count::default(),
            clock_ahead_ms: AtomicI64::new(0),
        }
    }

    /// Where the attempts of a task are counted.
    pub(crate) fn label(&self, record: &Record) -> Label {
        self.label_of(
            &record.body.task_name,
            record.flags.has(Flags::IS_STEP) || record.flags.has(Flags::IS_COMPENSATION),
        )
    }

    fn label_of(&self, task_name: &str, is_of_saga: bool) -> Label {
        let other = self.named.len() - 1;
        Label {
            place: self.places.get(task_name).copied().unwrap_or(other),
            letter: if is_of_saga {
                DeadLetterKind::SagaStep
            } else {
                DeadLetterKind::Task
            },
        }
    }

    /// Notes what time it is for Redis and here.
    fn note_clock(&self, redis_ms: i64, own_ms: i64) {
        self.clock_ahead_ms
            .store(redis_ms.saturating_sub(own_ms), Ordering::Relaxed);
    }

    /// The time by the clock of Redis, about.
    fn redis_now_ms(&self) -> i64 {
        let own_ms = jiff::Timestamp::now().as_millisecond();
        own_ms.saturating_add(self.clock_ahead_ms.load(Ordering::Relaxed))
    }

    /// An attempt starts; `record` is as it was before.
    pub(crate) fn started(&self, record: &Record) {
        let now_ms = self.redis_now_ms();
        let since = |ms: i64| Duration::from_millis(u64::try_from(now_ms.saturating_sub(ms)).unwrap_or_default());
        let ready_ms = i64::try_from(record.entry_id.ms).unwrap_or(now_ms);
        self.wait[usize::from(record.priority.rank())].observe(since(ready_ms));
        let spec = &record.body.spec;
        let is_first = record.attempt == 0 && spec.delay_ms.is_none() && spec.run_at_ms.is_none();
        if is_first && !record.flags.has(Flags::HAS_DEPENDENCIES) && !record.flags.has(Flags::IS_STEP) {
            // A trigger without an id of its own goes by that of its entry.
            let came_ms = record.body.trigger_event_id.parse().ok();
            let came_ms = came_ms.and_then(|id: crate::domain::event::EntryId| i64::try_from(id.ms).ok());
            // Anybody may call an event `5-0`.
            let is_plausible = |ms: &i64| (0..86_400_000).contains(&record.created_ms.saturating_sub(*ms));
            let came_ms = came_ms.filter(is_plausible).unwrap_or(record.created_ms);
            self.trigger_to_start.observe(since(came_ms));
        }
    }

    /// An attempt ended after so long.
    pub(crate) fn ran(&self, label: Label, end: End, took: Duration) {
        self.named[label.place].run[end as usize].observe(took);
    }

    /// Somebody ended a task that ran here.
    pub(crate) fn cancelled(&self, label: Label) {
        self.named[label.place].ended[End::Cancelled as usize].add(1);
    }

    /// An attempt was settled, and Redis answered this.
    pub(crate) fn settled(&self, label: Label, outcome: &Outcome, word: Settled) {
        let named = &self.named[label.place];
        let end = End::of(Some(outcome));
        match word {
            Settled::Ok => {
                if let Some(count) = named.ended.get(end as usize) {
                    count.add(1);
                }
                if matches!(end, End::Failed | End::Timeout) {
                    self.letters[label.letter as usize].add(1);
                }
            }
            Settled::Retry => {
                let again = if end == End::Timeout {
                    Again::Timeout
                } else {
                    Again::Error
                };
                named.again[again as usize].add(1);
            }
            Settled::Stale => self.stale.add(1),
            Settled::Duplicate | Settled::Missing => {}
        }
    }

    /// An agent said of an attempt what Redis answered this to.
    pub(crate) fn answered(&self, said: &Said, verdict: &Verdict) {
        let Said::Ended(outcome) = said else { return };
        let Some(ended) = &verdict.ended else { return };
        let label = self.label_of(&ended.task_name, ended.is_of_saga);
        self.ran(label, End::of(Some(outcome)), ended.took);
        let word = if verdict.word == Answered::Retry {
            Settled::Retry
        } else {
            Settled::Ok
        };
        self.settled(label, outcome, word);
    }

    /// So many attempts were taken from dead replicas or silent agents. What their tasks are called is not known here.
    pub(crate) fn taken_back(&self, tasks: u64) {
        self.lost.add(tasks);
        if let Some(other) = self.named.last() {
            other.again[Again::Lost as usize].add(tasks);
        }
    }

    /// So many inbound events came to this; `stream` is a place in [`STREAMS`].
    pub(crate) fn took(&self, stream: usize, taken: Taken, events: u64) {
        self.taken[stream][taken as usize].add(events);
        if taken == Taken::Rejected {
            self.letters[DeadLetterKind::Trigger as usize].add(events);
        }
    }

    /// An inbound event was acted upon; `came_ms` is when it entered its stream.
    pub(crate) fn ingested(&self, stream: usize, came_ms: u64) {
        let now_ms = u64::try_from(self.redis_now_ms()).unwrap_or_default();
        self.ingest[stream].observe(Duration::from_millis(now_ms.saturating_sub(came_ms)));
    }

    /// What was counted by task name.
    pub fn by_name(&self) -> impl Iterator<Item = NamedReading<'_>> {
        self.named.iter().map(|named| NamedReading {
            task_name: &named.name,
            ended: End::ALL
                .into_iter()
                .zip(&named.ended)
                .map(|(end, count)| (end.as_str(), count.read()))
                .collect(),
            again: Again::ALL
                .into_iter()
                .zip(&named.again)
                .map(|(again, count)| (again.as_str(), count.read()))
                .collect(),
            run: End::ALL
                .into_iter()
                .zip(&named.run)
                .map(|(end, histogram)| (end.as_str(), histogram.read()))
                .collect(),
        })
    }

    /// How long tasks that could start waited, by priority.
    pub fn wait(&self) -> impl Iterator<Item = (&'static str, Reading)> + '_ {
        let readings = self.wait.iter().map(Histogram::read);
        Priority::ALL.into_iter().map(Priority::as_str).zip(readings)
    }

    /// From a trigger to the first start of its task.
    #[must_use]
    pub fn trigger_to_start(&self) -> Reading {
        self.trigger_to_start.read()
    }

    /// How long inbound events waited until they were acted upon, by stream.
    pub fn ingest(&self) -> impl Iterator<Item = (&'static str, Reading)> + '_ {
        STREAMS.into_iter().zip(self.ingest.iter().map(Histogram::read))
    }

    /// What became of inbound events: stream, result, how many.
    pub fn taken(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        STREAMS.into_iter().zip(&self.taken).flat_map(|(stream, counts)| {
            let counts = Taken::ALL.into_iter().zip(counts);
            counts.map(move |(taken, count)| (stream, taken.as_str(), count.read()))
        })
    }

    /// Dead letters that this replica made, by kind.
    pub fn letters(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.letters.iter().map(Count::read);
        DeadLetterKind::ALL.into_iter().map(DeadLetterKind::as_str).zip(counts)
    }

    /// Attempts taken from dead replicas and silent agents.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.read()
    }

    /// Results that came too late.
    #[must_use]
    pub fn stale(&self) -> u64 {
        self.stale.read()
    }
}

/// What was counted of the tasks of one name.
pub struct NamedReading<'a> {
    /// The name.
    pub task_name: &'a str,
    /// How many tasks ended how.
    pub ended: Vec<(&'static str, u64)>,
    /// How many got another attempt, and why.
    pub again: Vec<(&'static str, u64)>,
    /// How long attempts took, by how they ended.
    pub run: Vec<(&'static str, Reading)>,
}

/// How often the clock of Redis is compared with this machine's.
const CLOCK_INTERVAL: Duration = Duration::from_secs(5);
/// An answer that took longer tells too little of the time.
const CLOCK_PATIENCE: Duration = Duration::from_millis(100);

/// Compares the clock of Redis with this machine's until the run stops: when a task became ready is known by the one, when
/// it started by the other.
pub(super) async fn compare_clocks(run: Arc<Run>) {
    let mut is_known = false;
    loop {
        let began = Instant::now();
        if let Ok(redis_ms) = run.store.now_ms().await {
            let took = began.elapsed();
            if !is_known || took < CLOCK_PATIENCE {
                let half_ms = i64::try_from(took.as_millis() / 2).unwrap_or_default();
                run.meters
                    .note_clock(redis_ms + half_ms, jiff::Timestamp::now().as_millisecond());
                is_known = true;
            }
        }
        tokio::select! {
            () = run.stop.cancelled() => return,
            () = tokio::time::sleep(CLOCK_INTERVAL) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_up_to_a_limit() {
        let mut handlers = Handlers::new();
        for number in 0..NAMES_MAX + 50 {
            handlers = handlers.with_async(&format!("task-{number:03}"), async |(): (), _| Ok(()));
        }

        let meters = Meters::new(&handlers);

        let names: Vec<_> = meters.by_name().map(|reading| reading.task_name.to_owned()).collect();
        assert_eq!(names.len(), NAMES_MAX + 1);
        assert_eq!((names[0].as_str(), names[NAMES_MAX].as_str()), ("task-000", OTHER));
    }

    #[test]
    fn what_is_counted_stands_in_its_own_place() {
        for (number, end) in End::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, number);
        }
        for (number, again) in Again::ALL.into_iter().enumerate() {
            assert_eq!(again as usize, number);
        }
        for (number, taken) in Taken::ALL.into_iter().enumerate() {
            assert_eq!(taken as usize, number);
        }
        for (number, kind) in DeadLetterKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
    }

    #[test]
    fn only_what_redis_confirmed_counts_as_ended() {
        let meters = Meters::new(&Handlers::new());
        let label = Label {
            place: 0,
            letter: DeadLetterKind::Task,
        };
        let failed = || Outcome::Failed {
            error: String::new(),
            delay_ms: 0,
        };

        meters.settled(label, &failed(), Settled::Retry);
        meters.settled(label, &failed(), Settled::Ok);
        meters.settled(label, &failed(), Settled::Stale);
        meters.settled(label, &failed(), Settled::Duplicate);

        let reading = meters.by_name().next().unwrap();
        assert_eq!(
            reading.ended,
            [("completed", 0), ("failed", 1), ("timeout", 0), ("cancelled", 0)]
        );
        assert_eq!(reading.again, [("error", 1), ("timeout", 0), ("lost", 0)]);
        assert_eq!(meters.stale(), 1);
        assert_eq!(
            meters.letters().collect::<Vec<_>>(),
            [("task", 1), ("trigger", 0), ("saga_step", 0)]
        );
    }
}
