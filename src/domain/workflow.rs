//! What `orchestration.workflow.start` asks for.

use super::id::Name;
use super::priority::Priority;
use super::trigger::TaskTrigger;

/// What becomes of a task when one that it depends on ends without success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailurePolicy {
    /// It is cancelled, and so is all that depends on it.
    #[default]
    Cancel,
    /// It runs all the same, with `null` for that input.
    Run,
    /// It stays blocked until an operator decides.
    Wait,
}

/// A workflow that is asked for, checked as a whole.
#[derive(Debug, Clone)]
pub struct WorkflowTrigger {
    pub workflow_id: Option<Name>,
    pub name: Option<String>,
    pub priority: Option<Priority>,
    pub on_dependency_failure: FailurePolicy,
    pub tasks: Vec<WorkflowTask>,
}

#[derive(Debug, Clone)]
pub struct WorkflowTask {
    pub trigger: TaskTrigger,
    pub depends_on: Vec<u32>,
    pub has_dependents: bool,
    pub on_dependency_failure: Option<FailurePolicy>,
}
