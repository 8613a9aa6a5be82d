//! What `orchestration.saga.start` asks for.

use super::id::Name;
use super::trigger::TaskTrigger;

/// A saga that is asked for, checked as a whole.
#[derive(Debug, Clone)]
pub struct SagaTrigger {
    pub saga_id: Option<Name>,
    pub name: Option<String>,
    pub steps: Vec<SagaStep>,
}

#[derive(Debug, Clone)]
pub struct SagaStep {
    /// Its place as it was given.
    pub index: u32,
    pub name: Name,
    pub action: TaskTrigger,
    pub compensation: Option<TaskTrigger>,
    pub depends_on: Vec<u32>,
    pub pivot: bool,
}
