//! How long a trigger takes to its handler and to its completed event, while the system has time.
//!
//! One clock for all three moments: the sender, the replica and the observer of the log are threads of this process,
//! each with connections of its own; Redis is another process. A trigger's time begins right before its `XADD` is sent
//! and its number is its argument, so the handler notes the moment at which it runs; the number comes back as the
//! result, so the observer of the log notes when the completed event arrived. Triggers are due at fixed moments; one
//! that is sent late is counted, since it hides that its forerunner was slow.

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::figures::{decimals, due, milliseconds, percentile};
use super::progress::Progress;
use super::rig::{Rig, RigOptions, inside_cpu_us, with_rig};
use super::tally::Tally;
use crate::cli::exit::Failure;
use crate::cli::output;
use crate::domain::event::{Event, EventType};
use crate::domain::id::Partition;
use crate::runtime::handler::Handlers;
use crate::store::{Store, StoreError};

/// The task that notes when it runs.
const PROBE: &str = "bench_probe";
/// What is sent first and not counted: connections and code get warm.
const WARM_UP: Duration = Duration::from_secs(1);
/// Triggers sent later than this count as late.
const LATE: Duration = Duration::from_millis(2);
/// How long the last events may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What `bench latency` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct LatencyArgs {
    /// Triggers a second
    #[arg(long, value_name = "N", default_value = "200")]
    pub(super) rate: NonZeroU32,
    /// For how long
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(super) seconds: u32,
    /// How many tasks the replica runs at once
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(super) workers: u16,
}

/// How some times are spread.
#[derive(Debug, Serialize, Deserialize)]
#[allow(
    clippy::struct_field_names,
    reason = "the names are those in JSON, where each carries its unit"
)]
pub(super) struct Spread {
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

/// What was found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Latency {
    triggers: u64,
    rate_per_second: u32,
    workers: u16,
    trigger_to_start: Spread,
    trigger_to_completed_event: Spread,
    late_triggers: u64,
    redis_cpu_us_per_task: f64,
    replica_cpu_us_per_task: Option<f64>,
}

impl Spread {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent| milliseconds(percentile(&times, percent));
        Self {
            p50_ms: at(50),
            p95_ms: at(95),
            p99_ms: at(99),
            max_ms: at(100),
        }
    }

    fn row(&self, name: &str) -> Vec<String> {
        let times = [self.p50_ms, self.p95_ms, self.p99_ms, self.max_ms];
        std::iter::once(name.to_owned())
            .chain(times.map(|time| decimals(Some(time), 3)))
            .collect()
    }
}

/// A moment for each trigger, by its number.
type Moments = Arc<Vec<OnceLock<Instant>>>;

fn moments(count: u32) -> Moments {
    Arc::new((0..count).map(|_| OnceLock::new()).collect())
}

fn note(moments: &Moments, number: u32) {
    if let Some(moment) = moments.get(number as usize) {
        // A second run of the same task would be found in the log.
        moment.set(Instant::now()).unwrap_or_default();
    }
}

/// Measures once.
pub(super) async fn run(options: &RigOptions<'_>, args: &LatencyArgs) -> Result<Latency, Failure> {
    with_rig(options, async |rig| measure(rig, args).await).await
}

async fn measure(rig: &mut Rig, args: &LatencyArgs) -> Result<Latency, Failure> {
    let rate = args.rate.get();
    let warm_up = u32::try_from(WARM_UP.as_secs()).unwrap_or(1).saturating_mul(rate);
    let count = rate.saturating_mul(args.seconds).saturating_add(warm_up);
    let (starts, ends) = (moments(count), moments(count));

    let noted = Arc::clone(&starts);
    let probe = Handlers::new().with_async(PROBE, move |(number,): (u32,), _| {
        note(&noted, number);
        async move { Ok(number) }
    });
    let mut replica = rig.start_inside(probe, args.workers)?;
    replica.until_ready().await?;
    let from = rig.store.last_event_id(Partition::default()).await?;
    let observer = tokio::spawn(observe(rig.another_store()?, from, Arc::clone(&ends), count));

    let redis_us = rig.store.server_cpu_us().await?;
    let replica_us = inside_cpu_us();
    let (sender, mut sent) = oneshot::channel();
    let (store, pace) = (rig.another_store()?, args.rate);
    std::thread::Builder::new()
        .name("bench-sender".to_owned())
        // After an interrupt nobody listens, and the thread ends with the process.
        .spawn(move || sender.send(send_all(&store, count, pace)).unwrap_or_default())
        .map_err(|problem| Failure::failed(&format!("can not start a thread: {problem}")))?;
    let mut progress = Progress::new("latency", count.into(), rig.is_quiet());
    let sent = loop {
        tokio::select! {
            sent = &mut sent => break sent,
            () = tokio::time::sleep(Duration::from_millis(250)) => {
                progress.set(starts.iter().filter(|moment| moment.get().is_some()).count() as u64);
            }
        }
    };
    let sent = sent.map_err(|_| Failure::failed("the sender ended badly"))??;
    match tokio::time::timeout(PATIENCE, observer).await {
        Ok(Ok(outcome)) => outcome?,
        Ok(Err(_)) | Err(_) => return Err(Failure::failed("not every trigger came to its completed event")),
    }
    drop(progress);
    let redis_us = rig.store.server_cpu_us().await? - redis_us;
    let replica_us = replica_us.zip(inside_cpu_us()).map(|(before, after)| after - before);
    replica.stop().await?;

    Tally::read(&rig.store)
        .await?
        .require_completed(&rig.store, count.into())
        .await?;
    let times = |ends: &Moments| -> Result<Vec<Duration>, Failure> {
        let all: Option<Vec<Duration>> = sent
            .iter()
            .zip(ends.iter())
            .skip(warm_up as usize)
            .map(|(trigger, moment)| Some(moment.get()?.duration_since(trigger.at)))
            .collect();
        all.ok_or_else(|| Failure::failed("a trigger without its moment"))
    };
    let late = sent.iter().skip(warm_up as usize).filter(|trigger| trigger.is_late);
    Ok(Latency {
        triggers: (count - warm_up).into(),
        rate_per_second: rate,
        workers: args.workers,
        trigger_to_start: Spread::of(times(&starts)?),
        trigger_to_completed_event: Spread::of(times(&ends)?),
        late_triggers: late.count() as u64,
        redis_cpu_us_per_task: redis_us / f64::from(count),
        replica_cpu_us_per_task: replica_us.map(|us| us / f64::from(count)),
    })
}

/// A trigger that was sent.
struct Sent {
    at: Instant,
    is_late: bool,
}

/// Sends every trigger when it is due, from a thread of its own.
fn send_all(store: &Store, count: u32, rate: NonZeroU32) -> Result<Vec<Sent>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|problem| Failure::failed(&format!("no async runtime: {problem}")))?;
    runtime.block_on(store.ping())?;
    let stream = store.keys().triggers();
    let begin = Instant::now();
    let mut sent = Vec::with_capacity(count as usize);
    for number in 0..count {
        let payload = format!(r#"{{"task_name":"{PROBE}","args":[{number}]}}"#);
        let fields = [
            ("event_type", "orchestration.task.trigger"),
            ("source_agent", "bench"),
            ("payload", payload.as_str()),
        ];
        let due = begin + due(number, rate);
        // The system's timer, since the one of tokio counts whole milliseconds.
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let at = Instant::now();
        runtime.block_on(store.publish(&stream, &fields))?;
        sent.push(Sent {
            at,
            is_late: at.duration_since(due) > LATE,
        });
    }
    Ok(sent)
}

/// Follows the log until every trigger's completed event was seen.
async fn observe(store: Store, from: String, ends: Moments, count: u32) -> Result<(), StoreError> {
    let mut reader = store.blocking(Duration::from_secs(1));
    let (mut after, mut seen) = (from, 0);
    while seen < count {
        let (last, events) = store.follow_events(&mut reader, Partition::default(), &after).await?;
        for number in events.iter().filter_map(completed) {
            note(&ends, number);
            seen += 1;
        }
        after = last;
    }
    Ok(())
}

/// The number that a completed event carries as its result.
fn completed(event: &Event) -> Option<u32> {
    #[derive(Deserialize)]
    struct Payload {
        result: u32,
    }
    (event.event_type == EventType::TaskCompleted.as_str())
        .then(|| serde_json::from_str::<Payload>(event.payload.get()).ok())
        .flatten()
        .map(|payload| payload.result)
}

impl Latency {
    pub(super) fn print(&self) -> Result<(), Failure> {
        output::line(&format!(
            "latency: {} triggers, {} a second, one replica of {} workers; {} sent late; {} µs of redis CPU and {} µs of replica CPU per task",
            self.triggers,
            self.rate_per_second,
            self.workers,
            self.late_triggers,
            decimals(Some(self.redis_cpu_us_per_task), 0),
            decimals(self.replica_cpu_us_per_task, 0),
        ))?;
        output::table(
            &["", "p50 ms", "p95 ms", "p99 ms", "max ms"],
            vec![
                self.trigger_to_start.row("trigger to start"),
                self.trigger_to_completed_event.row("trigger to completed event"),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_in_milliseconds() {
        let spread = Spread::of((1..=1000).rev().map(Duration::from_micros).collect());

        assert_eq!(spread.row("x"), ["x", "0.500", "0.950", "0.990", "1.000"]);
    }
}
