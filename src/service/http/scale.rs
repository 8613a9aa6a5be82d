//! What an autoscaler asks: how much waits, and how many replicas that is work for.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::access::Access;
use super::problem::Problem;
use super::routes::Routes;
use crate::runtime::overview::Overview;
use crate::service::config::Role;

pub(super) fn routes(routes: Routes) -> Routes {
    routes.add(__path_scale, scale, Access::Needs(Role::Read), &[])
}

/// What the whole deployment has to do, in plain numbers; up to 5 s old.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(super) struct Scale {
    /// Tasks that could start at once if there were workers, and triggers that no replica has acted upon. What is delayed,
    /// blocked or in a paused queue does not count.
    waiting_tasks: u64,
    /// Tasks that run.
    running_tasks: u64,
    /// Replicas with workers.
    replicas: u64,
    /// Workers of all replicas.
    workers: u64,
    /// How many workers one replica may have, on average; where there is no replica, as many as this one is configured to.
    workers_per_replica: u64,
    /// The part of the workers that is busy, from 0 to 100.
    utilization_percentage: f64,
    /// For how long the task or trigger that has waited longest could have started.
    oldest_waiting_seconds: f64,
    /// So many replicas could run at once what waits and what runs: (`waiting_tasks` + `running_tasks`) /
    /// `workers_per_replica`, rounded up, at least 1. No more may run at a time than `max_running` says, where it is set.
    desired_replicas: u64,
}

impl Scale {
    fn new(overview: &Overview, own_workers_max: u16) -> Self {
        let statistics = &overview.statistics;
        let pool = &statistics.worker_pool;
        let waiting_tasks = overview.ready_tasks + overview.inbound[0].1.waiting;
        let workers_per_replica = pool
            .max_workers
            .checked_div(overview.replicas)
            .unwrap_or_else(|| u64::from(own_workers_max))
            .max(1);
        Self {
            waiting_tasks,
            running_tasks: statistics.running_count,
            replicas: overview.replicas,
            workers: overview.workers(),
            workers_per_replica,
            utilization_percentage: pool.utilization_percentage,
            oldest_waiting_seconds: overview.oldest_waiting_seconds(),
            desired_replicas: desired_replicas(
                waiting_tasks + statistics.running_count,
                statistics.max_running,
                workers_per_replica,
            ),
        }
    }
}

/// How many replicas could run so many tasks at once.
fn desired_replicas(tasks: u64, max_running: u64, workers_per_replica: u64) -> u64 {
    let at_once = if max_running == 0 {
        tasks
    } else {
        tasks.min(max_running)
    };
    at_once.div_ceil(workers_per_replica).max(1)
}

/// What the whole deployment has to do, for an autoscaler such as KEDA's `metrics-api`.
#[utoipa::path(get, path = "/v1/scale", operation_id = "get_scale", tag = "figures",
    responses((status = 200, body = Scale, description = "How much there is to do, and with what")))]
pub(super) async fn scale(State(api): State<Api>) -> Result<Json<Scale>, Problem> {
    let overview = api.lookout().overview().await;
    let overview = overview.ok_or_else(|| Problem::new("RedisUnavailable", "redis did not answer in time"))?;
    Ok(Json(Scale::new(&overview, api.replica().workers().max)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_to_be_workers_for_all_that_could_run_at_once_and_never_none() {
        for (tasks, max_running, workers_per_replica, wanted) in [
            (0, 0, 10, 1),
            (10, 0, 10, 1),
            (11, 0, 10, 2),
            (1000, 0, 10, 100),
            (1000, 35, 10, 4),
            (5, 35, 10, 1),
        ] {
            assert_eq!(
                desired_replicas(tasks, max_running, workers_per_replica),
                wanted,
                "{tasks} {max_running} {workers_per_replica}"
            );
        }
    }
}
