//! `waooaw stats`: how much waits, runs and has ended.

use super::context::Context;
use super::exit::Failure;
use super::output;
use crate::runtime::queue::statistics;
use crate::store::document::StatisticsDocument;

pub(super) const EXAMPLES: &str = "\
Examples:
  waooaw stats
  waooaw stats --output json";

/// Prints the statistics.
pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let statistics = statistics(&context.store().await?).await?;
    if context.is_json() {
        return output::json(&statistics);
    }
    print(&statistics)
}

fn print(statistics: &StatisticsDocument) -> Result<(), Failure> {
    let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |seconds| format!("{seconds:.3} s"));
    let limit = |limit: u64| {
        if limit == 0 {
            "no limit".to_owned()
        } else {
            limit.to_string()
        }
    };
    let unfinished = statistics.pending_count + statistics.running_count;
    output::line("tasks")?;
    output::fields(&[
        ("  pending", statistics.pending_count.to_string()),
        ("  running", statistics.running_count.to_string()),
        ("  completed", statistics.completed_count.to_string()),
        ("  failed", statistics.failed_count.to_string()),
        ("  timeout", statistics.timeout_count.to_string()),
        ("  cancelled", statistics.cancelled_count.to_string()),
        ("  total", statistics.total_count.to_string()),
        ("  dead letters", statistics.dead_letter_count.to_string()),
        ("  per minute", statistics.throughput_per_minute.to_string()),
        ("  average duration", seconds(statistics.average_duration_seconds)),
        (
            "  oldest pending",
            statistics.oldest_pending_at.clone().unwrap_or_else(|| "-".to_owned()),
        ),
    ])?;
    output::line("\nunder way")?;
    output::fields(&[
        ("  workflows", statistics.running_workflows.to_string()),
        ("  sagas", statistics.running_sagas.to_string()),
    ])?;
    output::line("\nlimits")?;
    output::fields(&[
        (
            "  unfinished tasks",
            format!("{unfinished} of {}", limit(statistics.max_size)),
        ),
        (
            "  running tasks",
            format!("{} of {}", statistics.running_count, limit(statistics.max_running)),
        ),
    ])?;
    let pool = &statistics.worker_pool;
    output::line("\nworkers")?;
    output::fields(&[
        ("  busy", pool.active_workers.to_string()),
        ("  idle", pool.idle_workers.to_string()),
        ("  detached", pool.detached_workers.to_string()),
        ("  all", pool.max_workers.to_string()),
        ("  utilization", format!("{:.1} %", pool.utilization_percentage)),
    ])?;
    if statistics.by_queue.is_empty() {
        return Ok(());
    }
    output::line("\nqueues")?;
    let waiting = |by_priority: &std::collections::BTreeMap<&'static str, u64>| {
        crate::domain::priority::Priority::ALL
            .map(|priority| by_priority.get(priority.as_str()).copied().unwrap_or_default())
            .map(|count| count.to_string())
    };
    let rows = statistics
        .by_queue
        .iter()
        .map(|(name, queue)| {
            let mut row = vec![
                name.clone(),
                queue.pending_count.to_string(),
                queue.running_count.to_string(),
            ];
            row.extend(waiting(&queue.by_priority));
            row
        })
        .collect();
    output::table(
        &["queue", "pending", "running", "high", "normal", "low", "background"],
        rows,
    )
}
