//! `waooaw events`: reads the log.

use std::collections::{BTreeMap, VecDeque};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::value::RawValue;

use super::context::Context;
use super::exit::{Failure, say};
use super::output;
use crate::domain::event::{Event, Pattern};
use crate::domain::id::Partition;
use crate::service::config::units;
use crate::store::cursor::is_entry_id;
use crate::store::{Blocking, Store, StoreError};

/// What can be done with events.
#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// Print events as they happen, until Ctrl-C
    #[command(after_help = "\
Examples:
  waooaw events tail
  waooaw events tail --type 'orchestration.task.*' --since 10m --output json
  waooaw events tail --subject 7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000 --no-follow")]
    Tail(TailArgs),
}

/// What `events tail` takes.
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Only events of this type, of types that begin alike, 'orchestration.task.*', or of several with commas between them
    #[arg(long = "type", value_name = "PATTERN", default_value = "*")]
    event_type: Pattern,
    /// Only events about this task, dead letter or replica
    #[arg(long, value_name = "ID")]
    subject: Option<String>,
    /// Where to begin: 0 for all, an entry id, a time ago such as 10m, or now; by default now, with --no-follow 0
    #[arg(long, value_name = "PLACE")]
    since: Option<Since>,
    /// Stop after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Stop at the end of the log
    #[arg(long)]
    no_follow: bool,
}

/// Where to begin reading.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Since {
    /// At the first event that is kept.
    Beginning,
    /// Behind the last.
    Now,
    /// Behind an entry.
    Entry(String),
    /// With what happened so long ago.
    Ago(Duration),
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "0" => Ok(Self::Beginning),
            "now" => Ok(Self::Now),
            id if is_entry_id(id) => Ok(Self::Entry(id.to_owned())),
            age => units::duration(age).map(Self::Ago).map_err(|_| {
                "expected 0, now, an entry id such as 1795447172120-0, or a time ago with its unit, such as 10m"
                    .to_owned()
            }),
        }
    }
}

/// Does what is asked.
pub(super) async fn run(context: &Context, command: EventsCommand) -> Result<(), Failure> {
    let EventsCommand::Tail(args) = command;
    let store = context.store().await?;
    tokio::select! {
        outcome = tail(context, &store, &args) => outcome,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(|problem| Failure::failed(&format!("can not listen for signals: {problem}")))
        }
    }
}

async fn tail(context: &Context, store: &Store, args: &TailArgs) -> Result<(), Failure> {
    let since = match &args.since {
        Some(since) => since.clone(),
        None if args.no_follow => Since::Beginning,
        None => Since::Now,
    };
    let mut log = Log::begin(store, &since).await?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut away = Away::default();
    loop {
        let event = match log.next(!args.no_follow).await {
            Ok(Some(event)) => event,
            Ok(None) if args.no_follow => return Ok(()),
            Ok(None) => {
                away.is_over();
                continue;
            }
            // Who follows waits for more anyway; who wants what is there is told that it can not be had.
            Err(error) if args.no_follow => return Err(error.into()),
            Err(error) => {
                away.pause(error).await?;
                continue;
            }
        };
        away.is_over();
        let is_wanted = args.event_type.matches(&event.event_type)
            && args.subject.as_ref().is_none_or(|subject| event.subject() == subject);
        if !is_wanted {
            continue;
        }
        if context.is_json() {
            output::json_line(&event)?;
        } else {
            output::line(&one_line(&event))?;
        }
        left -= 1;
        if left == 0 {
            return Ok(());
        }
    }
}

/// Redis went away: says so once, and once when it is back.
#[derive(Default)]
struct Away {
    tries: u32,
}

impl Away {
    async fn pause(&mut self, error: StoreError) -> Result<(), Failure> {
        if !error.is_retryable() {
            return Err(error.into());
        }
        if self.tries == 0 {
            say("waooaw: redis went away; trying again until it is back");
        }
        self.tries += 1;
        tokio::time::sleep(Duration::from_millis(250) * self.tries.min(8)).await;
        Ok(())
    }

    fn is_over(&mut self) {
        if self.tries > 0 {
            say("waooaw: redis is back");
        }
        self.tries = 0;
    }
}

/// How many events are read at once.
const BATCH: usize = 500;
/// How long one read waits for news.
const WAIT: Duration = Duration::from_secs(2);

/// The logs of all partitions as one, in the order of their entries.
struct Log {
    store: Store,
    reader: Blocking,
    parts: Vec<Part>,
}

struct Part {
    partition: Partition,
    after: String,
    ready: VecDeque<Event>,
}

impl Log {
    async fn begin(store: &Store, since: &Since) -> Result<Self, StoreError> {
        // A Redis that was never there is an error, not one that went away.
        store.ping().await?;
        let mut parts = Vec::new();
        for partition in store.partitions() {
            let after = match since {
                Since::Beginning => "0".to_owned(),
                Since::Now => store.last_event_id(partition).await?,
                Since::Entry(id) => id.clone(),
                Since::Ago(age) => {
                    let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
                    let from_ms = store.now_ms().await?.saturating_sub(age_ms);
                    format!("{}-{}", from_ms.saturating_sub(1).max(0), u64::MAX)
                }
            };
            parts.push(Part {
                partition,
                after,
                ready: VecDeque::new(),
            });
        }
        Ok(Self {
            store: store.clone(),
            reader: store.blocking(WAIT),
            parts,
        })
    }

    /// The next event; `None` at the end of the log, after a wait for more if that is wanted.
    async fn next(&mut self, waits: bool) -> Result<Option<Event>, StoreError> {
        for part in &mut self.parts {
            // As long as a partition may have more, its next event must be known before another's is the earliest.
            while part.ready.is_empty() {
                let (last, events) = self.store.read_log(part.partition, &part.after, BATCH).await?;
                if last == part.after {
                    break;
                }
                part.after = last;
                part.ready.extend(events);
            }
        }
        let ready = self.parts.iter_mut().filter(|part| !part.ready.is_empty());
        let earliest = ready.min_by_key(|part| part.ready.front().map(|event| place(&event.entry_id)));
        if let Some(part) = earliest {
            return Ok(part.ready.pop_front());
        }
        if waits {
            let places: Vec<_> = self
                .parts
                .iter()
                .map(|part| (part.partition, part.after.clone()))
                .collect();
            self.store.wait_for_events(&mut self.reader, &places).await?;
        }
        Ok(None)
    }
}

fn place(entry_id: &str) -> (u64, u64) {
    let (ms, seq) = entry_id.split_once('-').unwrap_or((entry_id, ""));
    (ms.parse().unwrap_or_default(), seq.parse().unwrap_or_default())
}

/// The facts of a payload that are worth a place on the line, in this order.
const FACTS: [&str; 20] = [
    "task_name",
    "attempt",
    "priority",
    "queue",
    "key",
    "workflow_id",
    "worker_id",
    "state",
    "workers",
    "action",
    "target",
    "actor",
    "reason",
    "message",
    "errors",
    "error",
    "retry_count",
    "delay_seconds",
    "duration_ms",
    "dead_letter_id",
];

/// How long one fact may be.
const LONGEST: usize = 120;

/// An event for people: when, what, about what, and what is to know of it.
fn one_line(event: &Event) -> String {
    let kind = event.event_type.strip_prefix("orchestration.");
    let mut line = format!(
        "{}  {:<22}  {}",
        event.timestamp,
        kind.unwrap_or(&event.event_type),
        event.subject()
    );
    let payload: BTreeMap<&str, &RawValue> = serde_json::from_str(event.payload.get()).unwrap_or_default();
    for fact in FACTS {
        let value = payload.get(fact).map_or("null", |value| value.get());
        if matches!(value, "null" | "[]" | "{}") || (fact == "attempt" && value == "0") {
            continue;
        }
        line.push_str("  ");
        line.push_str(fact);
        line.push('=');
        line.push_str(&output::cut(bare(value), LONGEST));
    }
    output::plain(&line)
}

/// A word without its quotes; anything else as the JSON that it is.
fn bare(json: &str) -> &str {
    let word = json.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    word.filter(|word| !word.is_empty() && !word.contains(['\\', ' ', '"']))
        .unwrap_or(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_a_place_or_a_time() {
        let read = |text: &str| text.parse::<Since>();

        assert_eq!(read("0"), Ok(Since::Beginning));
        assert_eq!(read("now"), Ok(Since::Now));
        assert_eq!(read("1795447172120-3"), Ok(Since::Entry("1795447172120-3".to_owned())));
        assert_eq!(read("1h30m"), Ok(Since::Ago(Duration::from_secs(5400))));
        for text in ["", "10", "5-", "-5", "yesterday", "1-2-3", "10 minutes"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn entries_are_ordered_by_number() {
        assert!(place("9-10") < place("10-2") && place("10-2") < place("10-10"));
    }

    #[test]
    fn a_line_has_the_facts_and_nothing_that_moves_the_cursor() {
        let fields = [
            ("event_type", "orchestration.task.failed"),
            ("source_agent", "s"),
            ("event_id", "t/4"),
            ("correlation_id", "c"),
            ("causation_id", "t/3"),
            ("timestamp", "2026-01-31T12:00:00.000Z"),
            (
                "payload",
                "{\"task_name\":\"echo\",\"attempt\":2,\"error\":{\"message\":\"\u{9b}31m red\"},\"key\":null,\"x\":1}",
            ),
        ]
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let event = Event::from_fields("5-0", &fields).unwrap();

        assert_eq!(
            one_line(&event),
            "2026-01-31T12:00:00.000Z  task.failed             t  task_name=echo  attempt=2  \
             error={\"message\":\"\u{fffd}31m red\"}"
        );
    }
}
