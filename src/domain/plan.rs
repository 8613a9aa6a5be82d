//! In what order tasks that depend on each other can run, and which of them at once.
//!
//! The same for a graph of a program's own and for a workflow that is asked for.

use serde::{Deserialize, Serialize};

use super::layers::{Layers, Ring};

/// In what order tasks can run. As JSON its fields stand in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[non_exhaustive]
pub struct ExecutionPlan {
    /// Every task behind what it depends on: batch by batch.
    pub order: Vec<String>,
    /// Which tasks can run at once: each batch needs only those before it. In a batch they stand as they were added. For
    /// information, since a task starts when what it depends on is completed and does not wait for a whole batch.
    pub execution_batches: Vec<Vec<String>>,
    /// How many tasks there are.
    pub total_tasks: usize,
    /// How many can run at once, at most: the size of the largest batch.
    pub max_parallel_tasks: usize,
    /// How many batches there are: the number of tasks in the longest chain.
    pub levels: usize,
    /// What is legal and seldom wise.
    pub warnings: Vec<String>,
}

impl ExecutionPlan {
    /// More levels than this bring a warning: each adds its whole delay to the workflow, and one more place to fail.
    pub const ADVISED_LEVELS: usize = 5;

    /// The plan of `count` tasks; `name` and `dependencies` answer for each place.
    pub(super) fn of<'d>(
        count: usize,
        name: impl Fn(usize) -> String,
        dependencies: impl Fn(usize) -> &'d [u32],
    ) -> Result<Self, Ring> {
        let layers = Layers::new(count, dependencies)?;
        let named = |places: &[u32]| places.iter().map(|&place| name(place as usize)).collect::<Vec<_>>();
        let execution_batches: Vec<_> = layers.iter().map(named).collect();
        let levels = execution_batches.len();
        let mut warnings = Vec::new();
        if levels > Self::ADVISED_LEVELS {
            warnings.push(format!(
                "the longest chain has {levels} levels; at most {} are advised",
                Self::ADVISED_LEVELS
            ));
        }
        Ok(Self {
            order: named(layers.order()),
            total_tasks: count,
            max_parallel_tasks: execution_batches.iter().map(Vec::len).max().unwrap_or_default(),
            levels,
            execution_batches,
            warnings,
        })
    }
}
