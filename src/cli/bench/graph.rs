//! How long a workflow takes: one whose tasks stand one behind the other, and one that fans out and in again.
//!
//! One start event makes all tasks, one ready replica runs them. The time is that between entries of Redis: from the
//! start event on its stream to the workflow's `completed` event on the log, and beside it from the first `created`. The
//! first has the making of the tasks in it, which whoever starts a workflow waits for too.
//!
//! The log has one order, so it says whether an edge was kept: what depends on a task starts behind its end.

use std::collections::HashMap;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::figures::{decimals, float, grouped, milliseconds};
use super::rig::{Rig, RigOptions, with_rig};
use super::tally::{Span, Tally, each_event, moment};
use super::throughput::Meter;
use crate::cli::exit::Failure;
use crate::cli::output;
use crate::domain::event::{Event, EventType};
use crate::domain::id::Partition;

/// The id of the workflow.
const WORKFLOW: &str = "bench";
/// How many of the newest events are looked at for the workflow's end: replicas speak up now and then.
const LOOKED_AT: usize = 8;
/// The events of a task's life.
const EVENTS_PER_TASK: u64 = 3;

/// What `bench chain` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct ChainArgs {
    /// How many tasks
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) length: u32,
    /// How many tasks the replica runs at once
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(super) workers: u16,
}

/// What `bench fan` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct FanArgs {
    /// How many tasks between the first and the last
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=9_998))]
    pub(super) width: u32,
    /// How many tasks the replica runs at once
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(super) workers: u16,
}

/// Tasks by their places, and the places of what each depends on.
struct Shape {
    name: &'static str,
    dependencies: Vec<Vec<usize>>,
}

impl Shape {
    /// Tasks one behind the other.
    fn chain(length: usize) -> Self {
        Self {
            name: "chain",
            dependencies: (0..length)
                .map(|place| place.checked_sub(1).into_iter().collect())
                .collect(),
        }
    }

    /// One task, many that depend on it, and one that depends on all of those.
    fn fan(width: usize) -> Self {
        let mut dependencies = vec![Vec::new()];
        dependencies.extend((0..width).map(|_| vec![0]));
        dependencies.push((1..=width).collect());
        Self {
            name: "fan",
            dependencies,
        }
    }

    fn tasks(&self) -> u64 {
        self.dependencies.len() as u64
    }

    /// What starts it.
    fn payload(&self) -> String {
        let tasks: Vec<_> = (0..)
            .zip(&self.dependencies)
            .map(|(place, dependencies)| {
                let dependencies: Vec<_> = dependencies.iter().map(|place| key(*place)).collect();
                json!({ "task_id": key(place), "name": "noop", "dependencies": dependencies })
            })
            .collect();
        json!({ "workflow_id": WORKFLOW, "tasks": tasks }).to_string()
    }
}

fn key(place: usize) -> String {
    format!("t{place}")
}

/// What was found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Graph {
    shape: String,
    tasks: u64,
    dependencies: u64,
    workers: u16,
    start_event_to_completed_ms: f64,
    first_task_to_completed_ms: f64,
    redis_cpu_us_per_task: f64,
    replica_cpu_us_per_task: Option<f64>,
    function_calls_per_task: f64,
}

/// Measures a chain once.
pub(super) async fn chain(options: &RigOptions<'_>, args: &ChainArgs) -> Result<Graph, Failure> {
    let shape = Shape::chain(args.length as usize);
    with_rig(options, async |rig| measure(rig, &shape, args.workers).await).await
}

/// Measures a fan once.
pub(super) async fn fan(options: &RigOptions<'_>, args: &FanArgs) -> Result<Graph, Failure> {
    let shape = Shape::fan(args.width as usize);
    with_rig(options, async |rig| measure(rig, &shape, args.workers).await).await
}

async fn measure(rig: &mut Rig, shape: &Shape, workers: u16) -> Result<Graph, Failure> {
    let payload = shape.payload();
    rig.start_replicas(1, workers, true).await?;

    let meter = Meter::start(&rig.store, rig.replicas_cpu_us()).await?;
    let fields = [
        ("event_type", "orchestration.workflow.start"),
        ("source_agent", "bench"),
        ("payload", payload.as_str()),
    ];
    rig.store.publish(&rig.store.keys().triggers(), &fields).await?;
    until_over(rig, shape).await?;
    let cost = meter.end(&rig.store, rig.replicas_cpu_us()).await?;
    rig.stop_replicas().await;

    let tally = Tally::read(&rig.store).await?;
    tally.require_completed(&rig.store, shape.tasks()).await?;
    let mut order = Order::new(shape);
    each_event(&rig.store, |event| order.read(event)).await?;
    order.require_kept(shape)?;
    let each = |whole: f64| whole / float(shape.tasks());
    Ok(Graph {
        shape: shape.name.to_owned(),
        tasks: shape.tasks(),
        dependencies: shape.dependencies.iter().map(|list| list.len() as u64).sum(),
        workers,
        start_event_to_completed_ms: milliseconds(tally.triggered.until(order.over)),
        first_task_to_completed_ms: milliseconds(tally.created.until(order.over)),
        redis_cpu_us_per_task: each(cost.cpu_us),
        replica_cpu_us_per_task: cost.replica_us.map(each),
        function_calls_per_task: each(float(cost.calls.get("fcall").copied().unwrap_or_default())),
    })
}

/// Waits for the workflow's end without calling a function: their calls are counted.
async fn until_over(rig: &Rig, shape: &Shape) -> Result<(), Failure> {
    let store = &rig.store;
    let log = store.keys().events(Partition::default());
    rig.until(shape.name, shape.tasks() * EVENTS_PER_TASK, async || {
        let newest = store.events_before(Partition::default(), "+", LOOKED_AT).await?;
        Ok((store.inbound_length(&log).await?, newest.iter().any(is_end)))
    })
    .await
}

fn is_end(event: &Event) -> bool {
    [
        EventType::WorkflowCompleted,
        EventType::WorkflowFailed,
        EventType::WorkflowCancelled,
    ]
    .iter()
    .any(|kind| kind.as_str() == event.event_type)
}

/// Where the events of the tasks stand on the log.
struct Order {
    /// The places of the tasks by their ids.
    places: HashMap<String, usize>,
    started: Vec<Option<u64>>,
    completed: Vec<Option<u64>>,
    position: u64,
    ends: u32,
    /// When the workflow completed.
    over: Span,
}

impl Order {
    fn new(shape: &Shape) -> Self {
        let nowhere = vec![None; shape.dependencies.len()];
        Self {
            places: HashMap::new(),
            started: nowhere.clone(),
            completed: nowhere,
            position: 0,
            ends: 0,
            over: Span::default(),
        }
    }

    fn read(&mut self, event: &Event) {
        self.position += 1;
        let kind = event.event_type.as_str();
        if kind == EventType::TaskCreated.as_str() {
            if let Some(place) = place_of(event) {
                self.places.insert(event.subject().to_owned(), place);
            }
        } else if kind == EventType::TaskStarted.as_str() {
            self.note(event, |order| &mut order.started);
        } else if kind == EventType::TaskCompleted.as_str() {
            self.note(event, |order| &mut order.completed);
        } else if is_end(event) {
            self.ends += 1;
            if kind == EventType::WorkflowCompleted.as_str() {
                self.over.add(moment(&event.entry_id));
            }
        }
    }

    fn note(&mut self, event: &Event, pick: fn(&mut Self) -> &mut Vec<Option<u64>>) {
        let (place, position) = (self.places.get(event.subject()).copied(), self.position);
        if let Some(known) = place.and_then(|place| pick(self).get_mut(place)) {
            *known = Some(position);
        }
    }

    /// Fails unless the workflow completed, once, and every task began behind the end of all that it depends on.
    fn require_kept(&self, shape: &Shape) -> Result<(), Failure> {
        let wrong =
            |problem: &str| Failure::failed(&format!("the result is wrong, so its numbers mean nothing: {problem}"));
        if self.ends != 1 || self.over.is_empty() {
            return Err(wrong(&format!(
                "the workflow has {} ends, not the one of a success",
                self.ends
            )));
        }
        for (place, dependencies) in shape.dependencies.iter().enumerate() {
            for dependency in dependencies {
                let is_kept = self.completed[*dependency]
                    .zip(self.started[place])
                    .is_some_and(|(end, start)| end < start);
                if !is_kept {
                    let (task, other) = (key(place), key(*dependency));
                    return Err(wrong(&format!("{task} did not start behind the end of {other}")));
                }
            }
        }
        Ok(())
    }
}

/// The place of a task by the key that its created event carries.
fn place_of(event: &Event) -> Option<usize> {
    #[derive(Deserialize)]
    struct Payload {
        key: String,
    }
    let payload: Payload = serde_json::from_str(event.payload.get()).ok()?;
    payload.key.strip_prefix('t')?.parse().ok()
}

impl Graph {
    pub(super) fn print(&self) -> Result<(), Failure> {
        output::line(&format!(
            "{}: {} no-op tasks with {} dependencies in one workflow, one replica of {} workers",
            self.shape,
            grouped(float(self.tasks)),
            grouped(float(self.dependencies)),
            self.workers
        ))?;
        let row = |name: &str, number: Option<f64>, places: usize| vec![name.to_owned(), decimals(number, places)];
        output::table(
            &["", ""],
            vec![
                row(
                    "start event to completed, ms",
                    Some(self.start_event_to_completed_ms),
                    0,
                ),
                row("first task to completed, ms", Some(self.first_task_to_completed_ms), 0),
                row("redis CPU, µs per task", Some(self.redis_cpu_us_per_task), 1),
                row("replica CPU, µs per task", self.replica_cpu_us_per_task, 1),
                row("function calls per task", Some(self.function_calls_per_task), 3),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::domain::workflow::WorkflowTrigger;

    fn event(subject: &str, kind: EventType, payload: &str) -> Event {
        Event {
            entry_id: "100-0".to_owned(),
            event_type: kind.to_string(),
            source_agent: "orchestration-runtime/r-00000001".to_owned(),
            event_id: format!("{subject}/1"),
            correlation_id: "90-0".to_owned(),
            causation_id: "90-0".to_owned(),
            timestamp: "1970-01-01T00:00:00.100Z".to_owned(),
            payload: RawValue::from_string(payload.to_owned()).unwrap(),
            traceparent: None,
            tracestate: None,
        }
    }

    /// Whether a chain of two whose log goes on like this is as it has to be.
    fn is_kept(lives: &[(&str, EventType)]) -> bool {
        let shape = Shape::chain(2);
        let mut order = Order::new(&shape);
        order.read(&event("a", EventType::TaskCreated, r#"{"key":"t0"}"#));
        order.read(&event("b", EventType::TaskCreated, r#"{"key":"t1"}"#));
        for (subject, kind) in lives {
            order.read(&event(subject, *kind, "{}"));
        }
        order.require_kept(&shape).is_ok()
    }

    #[test]
    fn what_starts_them_is_a_workflow_with_these_edges() {
        for (shape, tasks, edges) in [(Shape::chain(5), 5, 4), (Shape::fan(7), 9, 14)] {
            let workflow = WorkflowTrigger::parse(&shape.payload()).unwrap();
            let found: usize = workflow.tasks.iter().map(|task| task.depends_on.len()).sum();

            assert_eq!((workflow.tasks.len(), found), (tasks, edges), "{}", shape.name);
        }
    }

    #[test]
    fn an_edge_is_kept_when_the_end_stands_before_the_start() {
        use EventType::{TaskCompleted, TaskStarted, WorkflowCompleted};
        let (first, second) = ([("a", TaskStarted), ("a", TaskCompleted)], ("b", TaskStarted));
        let rest = [("b", TaskCompleted), (WORKFLOW, WorkflowCompleted)];

        assert!(is_kept(&[&first[..], &[second], &rest].concat()));
        assert!(!is_kept(&[&first[..1], &[second], &first[1..], &rest].concat()));
        assert!(!is_kept(&[&[second], &rest[..]].concat()));
    }

    #[test]
    fn a_workflow_ends_once_and_well() {
        use EventType::{TaskCompleted, TaskStarted, WorkflowCompleted, WorkflowFailed};
        let lives = [
            ("a", TaskStarted),
            ("a", TaskCompleted),
            ("b", TaskStarted),
            ("b", TaskCompleted),
        ];
        let ended = |ends: &[(&'static str, EventType)]| is_kept(&[&lives[..], ends].concat());

        assert!(ended(&[(WORKFLOW, WorkflowCompleted)]));
        assert!(!ended(&[]));
        assert!(!ended(&[(WORKFLOW, WorkflowFailed)]));
        assert!(!ended(&[(WORKFLOW, WorkflowCompleted), (WORKFLOW, WorkflowCompleted)]));
    }
}
