//! `/metrics`: what a replica counted and what the deployment looks like, for Prometheus.
//!
//! The page is put together when it is asked for. What concerns this replica is read from its counters; what concerns all
//! of them comes from one look at Redis that is good for some seconds, and is left out while Redis does not answer. Every
//! metric stands in [`METRICS`], and a test compares that table with `docs/metrics.md`.
//!
//! The page has two forms: that of `OpenMetrics` for those who ask for it, and the older one of Prometheus.

use std::fmt;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Api;
use super::access::Access;
use super::problem::Problem;
use super::process;
use super::routes::Routes;
use crate::domain::histogram::Reading;
use crate::runtime::meters::Meters;
use crate::runtime::overview::Overview;
use crate::runtime::replica::{Readiness, ReplicaHandle};
use crate::service::config::Role;

pub(super) fn routes(routes: Routes) -> Routes {
    routes.add(__path_metrics, metrics, Access::Needs(Role::Read), &[])
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric as it is described.
struct Metric {
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Counter,
        labels,
        help,
    }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Gauge,
        labels,
        help,
    }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Histogram,
        labels,
        help,
    }
}

/// Every metric. The first block is about the deployment and the same on every replica; the second about the replica that
/// is asked.
const METRICS: [Metric; 48] = [
    gauge(
        "waooaw_redis_up",
        &[],
        "Whether Redis answered the last look, which is at most 5 s old",
    ),
    gauge(
        "waooaw_tasks_pending",
        &["priority"],
        "Tasks that wait, also for their time or for other tasks",
    ),
    gauge(
        "waooaw_tasks_ready",
        &[],
        "Tasks that could start at once if there were workers; none of paused queues",
    ),
    gauge(
        "waooaw_tasks_ready_oldest_seconds",
        &["priority"],
        "For how long the oldest task has been able to start, or waits for a replica with its handler; 0 without any; not of paused queues",
    ),
    gauge("waooaw_tasks_running", &[], "Tasks that run"),
    counter(
        "waooaw_tasks_ended_total",
        &["outcome"],
        "Tasks that ended, on all replicas, since the keys were made",
    ),
    gauge(
        "waooaw_workflows_running",
        &[],
        "Workflows under way, as workflow.start began them",
    ),
    counter(
        "waooaw_workflows_ended_total",
        &["outcome"],
        "Workflows that ended: completed, failed or cancelled",
    ),
    gauge("waooaw_sagas_running", &[], "Sagas under way, also on their way back"),
    counter(
        "waooaw_sagas_ended_total",
        &["outcome"],
        "Sagas that ended: completed, compensated, or failed, which waits for a person; one that is resumed ends once more",
    ),
    gauge(
        "waooaw_queue_max_size",
        &[],
        "The most tasks that may be pending or running; 0 is no limit",
    ),
    gauge(
        "waooaw_queue_max_running",
        &[],
        "The most tasks that may run; 0 is no limit",
    ),
    gauge(
        "waooaw_inbound_waiting_entries",
        &["stream"],
        "Events in an inbound stream that were not acted upon",
    ),
    gauge(
        "waooaw_inbound_pending_entries",
        &["stream"],
        "Those of them that a replica has read",
    ),
    gauge(
        "waooaw_inbound_oldest_seconds",
        &["stream"],
        "For how long the oldest of them has been there; 0 without any",
    ),
    gauge("waooaw_dead_letters", &[], "Dead letters that are kept"),
    gauge("waooaw_replicas", &[], "Replicas with workers"),
    gauge(
        "waooaw_redis_memory_used_bytes",
        &[],
        "What Redis uses; left out where its user may not ask",
    ),
    gauge(
        "waooaw_redis_memory_max_bytes",
        &[],
        "What Redis may use; 0 is no limit",
    ),
    gauge("waooaw_build_info", &["version"], "1; which version runs"),
    gauge(
        "waooaw_ready",
        &[],
        "Whether the replica does its work, as /readyz says",
    ),
    gauge(
        "waooaw_reader_progress_seconds",
        &["loop"],
        "For how long a loop has not got through to Redis; 0 while it waits for something else",
    ),
    counter(
        "waooaw_triggers_total",
        &["stream", "result"],
        "Inbound events that the replica acted upon",
    ),
    histogram(
        "waooaw_trigger_ingest_seconds",
        &["stream"],
        "From an inbound event's entry into its stream until it was acted upon",
    ),
    histogram(
        "waooaw_trigger_to_start_seconds",
        &[],
        "From a trigger to the first start of its task, for tasks without delay and dependencies; from the task's creation where the trigger has an event_id of its own",
    ),
    counter(
        "waooaw_tasks_finished_total",
        &["task_name", "outcome"],
        "Tasks that ended on the replica, or by an agent's answer that it took",
    ),
    counter(
        "waooaw_task_retries_total",
        &["task_name", "reason"],
        "Attempts that another follows; those lost with a dead replica or a silent agent under the name _other",
    ),
    histogram(
        "waooaw_task_wait_seconds",
        &["priority"],
        "From when a task could start to its start",
    ),
    histogram(
        "waooaw_task_run_seconds",
        &["task_name", "outcome"],
        "How long an attempt took",
    ),
    counter(
        "waooaw_tasks_lost_total",
        &[],
        "Tasks that the replica took back from dead ones and from silent agents",
    ),
    counter(
        "waooaw_stale_results_total",
        &[],
        "Results that were refused since the attempt was not the replica's any more",
    ),
    counter(
        "waooaw_dead_letters_added_total",
        &["kind"],
        "Dead letters that the replica made",
    ),
    gauge("waooaw_worker_slots", &[], "Workers"),
    gauge("waooaw_worker_slots_max", &[], "The most workers that there may be"),
    gauge("waooaw_worker_slots_busy", &[], "Workers that run a task"),
    gauge(
        "waooaw_worker_slots_detached",
        &[],
        "Workers held by a blocking function whose attempt is over",
    ),
    gauge(
        "waooaw_worker_utilization_ratio",
        &[],
        "The part of the workers that is busy or held, 0 to 1",
    ),
    gauge(
        "waooaw_circuit_open",
        &["task_name"],
        "Whether a handler is paused since its target does not answer",
    ),
    histogram(
        "waooaw_function_call_seconds",
        &["function"],
        "How long calls of a function in Redis took, with the way there and back",
    ),
    counter("waooaw_redis_errors_total", &["kind"], "Calls to Redis that failed"),
    counter("waooaw_http_requests_total", &["route", "method", "status"], "Answers"),
    histogram(
        "waooaw_http_request_seconds",
        &["route", "method", "status"],
        "How long an answer took until its first byte",
    ),
    gauge("waooaw_event_streams", &[], "Clients that follow the log live"),
    gauge(
        "process_resident_memory_bytes",
        &[],
        "Memory that the process uses; Linux only, as the four below",
    ),
    counter(
        "process_cpu_seconds_total",
        &[],
        "Time that the process has spent on processors",
    ),
    gauge("process_open_fds", &[], "Files and connections that are open"),
    gauge("process_max_fds", &[], "How many there may be"),
    gauge(
        "process_start_time_seconds",
        &[],
        "When the process began, since the Unix epoch",
    ),
];

/// One series.
struct Row {
    metric: &'static str,
    labels: Vec<String>,
    value: Value,
}

enum Value {
    Count(u64),
    Amount(f64),
    Durations(Reading),
}

impl Value {
    fn encode(&self, kind: Kind, series: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match (self, kind) {
            (Self::Count(count), _) => series.encode_counter::<NoLabelSet, _, u64>(count, None),
            (Self::Amount(amount), Kind::Counter) => series.encode_counter::<NoLabelSet, _, u64>(amount, None),
            (Self::Amount(amount), Kind::Gauge | Kind::Histogram) => series.encode_gauge(amount),
            (Self::Durations(reading), _) => {
                series.encode_histogram::<NoLabelSet>(reading.sum_seconds, reading.count, &reading.buckets, None)
            }
        }
    }
}

/// All series.
#[derive(Default)]
struct Page {
    rows: Vec<Row>,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("rows", &self.rows.len()).finish()
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
const fn as_float(count: u64) -> f64 {
    count as f64
}

impl Page {
    fn add<const N: usize>(&mut self, metric: &'static str, labels: [&str; N], value: Value) {
        self.rows.push(Row {
            metric,
            labels: labels.map(str::to_owned).to_vec(),
            value,
        });
    }

    fn count<const N: usize>(&mut self, metric: &'static str, labels: [&str; N], count: u64) {
        self.add(metric, labels, Value::Count(count));
    }

    fn level<const N: usize>(&mut self, metric: &'static str, labels: [&str; N], level: f64) {
        self.add(metric, labels, Value::Amount(level));
    }

    fn whole<const N: usize>(&mut self, metric: &'static str, labels: [&str; N], level: u64) {
        self.level(metric, labels, as_float(level));
    }

    fn flag<const N: usize>(&mut self, metric: &'static str, labels: [&str; N], is_so: bool) {
        self.level(metric, labels, if is_so { 1.0 } else { 0.0 });
    }

    fn durations<const N: usize>(&mut self, metric: &'static str, labels: [&str; N], reading: Reading) {
        self.add(metric, labels, Value::Durations(reading));
    }

    /// What concerns the whole deployment.
    fn overview(&mut self, overview: Option<&Overview>) {
        self.flag("waooaw_redis_up", [], overview.is_some());
        let Some(overview) = overview else { return };
        let statistics = &overview.statistics;
        for (priority, count) in &statistics.by_priority {
            self.whole("waooaw_tasks_pending", [priority], *count);
        }
        self.whole("waooaw_tasks_ready", [], overview.ready_tasks);
        for (priority, seconds) in overview.ready_oldest_seconds {
            self.level("waooaw_tasks_ready_oldest_seconds", [priority.as_str()], seconds);
        }
        self.whole("waooaw_tasks_running", [], statistics.running_count);
        for (outcome, count) in [
            ("completed", statistics.completed_count),
            ("failed", statistics.failed_count),
            ("timeout", statistics.timeout_count),
            ("cancelled", statistics.cancelled_count),
        ] {
            self.count("waooaw_tasks_ended_total", [outcome], count);
        }
        for group in &overview.groups {
            let (running, ended) = match group.kind {
                "saga" => ("waooaw_sagas_running", "waooaw_sagas_ended_total"),
                _ => ("waooaw_workflows_running", "waooaw_workflows_ended_total"),
            };
            self.whole(running, [], group.running);
            for (outcome, count) in group.ended {
                self.count(ended, [outcome], count);
            }
        }
        self.whole("waooaw_queue_max_size", [], statistics.max_size);
        self.whole("waooaw_queue_max_running", [], statistics.max_running);
        for (stream, status) in overview.inbound {
            self.whole("waooaw_inbound_waiting_entries", [stream], status.waiting);
            self.whole("waooaw_inbound_pending_entries", [stream], status.pending);
            self.level("waooaw_inbound_oldest_seconds", [stream], status.oldest_seconds);
        }
        self.whole("waooaw_dead_letters", [], statistics.dead_letter_count);
        self.whole("waooaw_replicas", [], overview.replicas);
        if let Some((used, max)) = overview.memory {
            self.whole("waooaw_redis_memory_used_bytes", [], used);
            self.whole("waooaw_redis_memory_max_bytes", [], max);
        }
    }

    /// What concerns the replica right now.
    fn replica(&mut self, replica: &ReplicaHandle) {
        self.flag("waooaw_build_info", [env!("CARGO_PKG_VERSION")], true);
        self.flag("waooaw_ready", [], replica.readiness() == Readiness::Ready);
        for (name, age) in replica.progress() {
            let seconds = age.map_or(0.0, |age| age.as_secs_f64());
            self.level("waooaw_reader_progress_seconds", [name], seconds);
        }
        let workers = replica.workers();
        let (slots, busy, detached) = (workers.slots.into(), workers.busy.into(), workers.detached.into());
        self.level("waooaw_worker_slots", [], slots);
        self.level("waooaw_worker_slots_max", [], workers.max.into());
        self.level("waooaw_worker_slots_busy", [], busy);
        self.level("waooaw_worker_slots_detached", [], detached);
        let used: f64 = busy + detached;
        // While there are to be fewer workers, those that go may be busy still.
        let ratio = if used > 0.0 {
            (used / slots.max(used)).min(1.0)
        } else {
            0.0
        };
        self.level("waooaw_worker_utilization_ratio", [], ratio);
        for (name, is_open) in replica.circuits().into_iter().take(CIRCUITS_MAX) {
            self.flag("waooaw_circuit_open", [&name], is_open);
        }
        self.meters(replica.meters());
    }

    fn meters(&mut self, meters: &Meters) {
        for (stream, result, count) in meters.taken() {
            self.count("waooaw_triggers_total", [stream, result], count);
        }
        for (stream, reading) in meters.ingest() {
            self.durations("waooaw_trigger_ingest_seconds", [stream], reading);
        }
        self.durations("waooaw_trigger_to_start_seconds", [], meters.trigger_to_start());
        for named in meters.by_name() {
            let name = named.task_name;
            for (outcome, count) in named.ended {
                self.count("waooaw_tasks_finished_total", [name, outcome], count);
            }
            for (reason, count) in named.again {
                self.count("waooaw_task_retries_total", [name, reason], count);
            }
            // Most handlers never end in most of the ways.
            for (outcome, reading) in named.run.into_iter().filter(|(_, reading)| reading.count > 0) {
                self.durations("waooaw_task_run_seconds", [name, outcome], reading);
            }
        }
        for (priority, reading) in meters.wait() {
            self.durations("waooaw_task_wait_seconds", [priority], reading);
        }
        self.count("waooaw_tasks_lost_total", [], meters.lost());
        self.count("waooaw_stale_results_total", [], meters.stale());
        for (kind, count) in meters.letters() {
            self.count("waooaw_dead_letters_added_total", [kind], count);
        }
    }

    /// What the edges of the process counted.
    fn edges(&mut self, api: &Api) {
        let calls = api.store().meters();
        for (function, reading) in calls.calls() {
            self.durations("waooaw_function_call_seconds", [function], reading);
        }
        for (kind, count) in calls.failures() {
            self.count("waooaw_redis_errors_total", [kind], count);
        }
        for (labels, reading) in api.traffic().read() {
            let labels = labels.each_ref().map(String::as_str);
            self.count("waooaw_http_requests_total", labels, reading.count);
            self.durations("waooaw_http_request_seconds", labels, reading);
        }
        self.whole("waooaw_event_streams", [], api.followers() as u64);
        if let Some(usage) = process::usage() {
            self.level("process_resident_memory_bytes", [], usage.resident_bytes);
            self.level("process_cpu_seconds_total", [], usage.cpu_seconds);
            self.level("process_open_fds", [], usage.open_fds);
            self.level("process_max_fds", [], usage.max_fds);
            self.level("process_start_time_seconds", [], usage.start_seconds);
        }
    }

    /// The page as text, by the standard of `OpenMetrics`.
    fn into_text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut page = String::new();
        text::encode(&mut page, &registry)?;
        Ok(page)
    }
}

/// How many handlers are told apart, as by the counters.
const CIRCUITS_MAX: usize = 200;

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for metric in &METRICS {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.metric == metric.name).collect();
            if rows.is_empty() {
                continue;
            }
            let (name, kind) = match metric.kind {
                // Its series get the ending from the encoder.
                Kind::Counter => (
                    metric.name.strip_suffix("_total").unwrap_or(metric.name),
                    MetricType::Counter,
                ),
                Kind::Gauge => (metric.name, MetricType::Gauge),
                Kind::Histogram => (metric.name, MetricType::Histogram),
            };
            let mut family = encoder.encode_descriptor(name, metric.help, None, kind)?;
            for row in rows {
                if metric.labels.is_empty() {
                    row.value.encode(metric.kind, &mut family)?;
                } else {
                    let values = row.labels.iter().map(String::as_str);
                    let labels: Vec<(&str, &str)> = metric.labels.iter().copied().zip(values).collect();
                    row.value.encode(metric.kind, &mut family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

/// The same page in the older form, where a counter is described under the name of its series, and nothing marks the end.
fn older_form(page: &str) -> String {
    let mut lines = String::with_capacity(page.len());
    for line in page.lines().filter(|line| *line != "# EOF") {
        let described = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        let name = described.and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        let is_counter =
            |metric: &Metric| metric.kind == Kind::Counter && metric.name.strip_suffix("_total") == Some(name);
        if !name.is_empty() && METRICS.iter().any(is_counter) {
            // The two words in front of the name are as long as each other.
            let (head, tail) = line.split_at("# HELP ".len() + name.len());
            lines.push_str(head);
            lines.push_str("_total");
            lines.push_str(tail);
        } else {
            lines.push_str(line);
        }
        lines.push('\n');
    }
    lines
}

fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    accepted
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("application/openmetrics-text"))
}

/// The metrics of the replica and of the deployment, in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", operation_id = "get_metrics", tag = "health",
    responses((status = 200, body = String, content_type = "text/plain", description = "The metrics as text")))]
pub(super) async fn metrics(State(api): State<Api>, headers: HeaderMap) -> Result<Response, Problem> {
    let overview = api.lookout().overview().await;
    let mut page = Page::default();
    page.overview(overview.as_deref());
    page.replica(api.replica());
    page.edges(&api);
    let failed = |_| Problem::new("Internal", "the metrics can not be written");
    let page = page.into_text().map_err(failed)?;
    Ok(if wants_open_metrics(&headers) {
        ([(header::CONTENT_TYPE, OPEN_METRICS)], page).into_response()
    } else {
        ([(header::CONTENT_TYPE, PLAIN)], older_form(&page)).into_response()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_name(kind: Kind) -> &'static str {
        match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }

    #[test]
    fn the_documentation_describes_each_metric_as_it_is() {
        let documentation = include_str!("../../../docs/metrics.md");
        let described: Vec<&str> = documentation
            .lines()
            .filter(|line| line.starts_with("| `waooaw_") || line.starts_with("| `process_"))
            .collect();
        let rows: Vec<String> = METRICS
            .iter()
            .map(|metric| {
                let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
                let (name, kind, help) = (metric.name, kind_name(metric.kind), metric.help);
                format!("| `{name}` | {kind} | {} | {help} |", labels.join(", "))
            })
            .collect();

        assert_eq!(described, rows, "docs/metrics.md should have\n{}", rows.join("\n"));
    }

    #[test]
    fn names_say_what_they_measure() {
        for metric in &METRICS {
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{}",
                metric.name
            );
            if metric.kind == Kind::Histogram {
                assert!(metric.name.ends_with("_seconds"), "{}", metric.name);
            }
            assert!(
                !metric.help.ends_with('.') && !metric.help.contains('\n'),
                "{}",
                metric.help
            );
        }
    }

    #[test]
    fn both_forms_tell_the_same() {
        let mut page = Page::default();
        page.count("waooaw_tasks_lost_total", [], 3);
        page.level("waooaw_ready", [], 1.0);
        let histogram = crate::domain::histogram::Histogram::new(&[0.5]);
        histogram.observe(std::time::Duration::from_millis(250));
        page.durations("waooaw_task_wait_seconds", ["HIGH"], histogram.read());

        let page = page.into_text().unwrap();

        assert_eq!(
            page,
            "\
# HELP waooaw_ready Whether the replica does its work, as /readyz says
# TYPE waooaw_ready gauge
waooaw_ready 1.0
# HELP waooaw_task_wait_seconds From when a task could start to its start
# TYPE waooaw_task_wait_seconds histogram
waooaw_task_wait_seconds_sum{priority=\"HIGH\"} 0.25
waooaw_task_wait_seconds_count{priority=\"HIGH\"} 1
waooaw_task_wait_seconds_bucket{le=\"0.5\",priority=\"HIGH\"} 1
waooaw_task_wait_seconds_bucket{le=\"+Inf\",priority=\"HIGH\"} 1
# HELP waooaw_tasks_lost Tasks that the replica took back from dead ones and from silent agents
# TYPE waooaw_tasks_lost counter
waooaw_tasks_lost_total 3
# EOF
"
        );
        let older = older_form(&page);
        assert!(
            older.contains("# TYPE waooaw_tasks_lost_total counter\nwaooaw_tasks_lost_total 3\n"),
            "{older}"
        );
        assert!(
            !older.contains("EOF") && older.contains("# TYPE waooaw_ready gauge\n"),
            "{older}"
        );
    }
}
