//! A workflow as a program puts it together.
//!
//! What is said becomes the payload of `orchestration.workflow.start` and is read by the rules of that event.

use std::time::Duration;

use super::fields::Fields;
use super::task::Task;
use super::workflow_execution::WorkflowExecution;
use super::workflows::Workflows;
use crate::domain::graph::DependencyGraph;
use crate::domain::plan::ExecutionPlan;
use crate::domain::priority::Priority;
use crate::domain::workflow::{FailurePolicy, WorkflowTrigger};
use crate::error::Error;

/// Puts a workflow together: tasks that depend on each other by their keys.
///
/// Each task starts when all that it depends on have completed, and finds their results in its inputs, by their keys. Tasks may
/// be added in any order.
///
/// ```no_run
/// # async fn example() -> Result<(), waooaw_orchestration::Error> {
/// use std::time::Duration;
/// use serde_json::json;
/// use waooaw_orchestration::{Endpoint, Error, Store, Task, WorkflowBuilder, Workflows};
///
/// let workflows = Workflows::new(Store::new(Endpoint::new("redis://127.0.0.1:6379"))?);
/// let workflow = WorkflowBuilder::new()
///     .name("nightly report")
///     .add_task(Task::new("fetch_data").key("fetch").kwargs(json!({ "day": "2026-01-31" })))
///     .add_task(Task::new("transform_data").key("transform").dependencies(&["fetch"]))
///     .add_task(Task::new("load_data").key("load").dependencies(&["transform"]))
///     .add_task(Task::new("send_notification").dependencies(&["load"]))
///     .add_task(Task::new("update_metrics").dependencies(&["load"]))
///     .timeout(Duration::from_secs(60))
///     .build()?;
/// assert_eq!(workflow.plan().levels, 4);
///
/// match workflow.execute(&workflows).await {
///     Ok(execution) => println!("completed: {}", execution.workflow_id),
///     Err(Error::WorkflowExecution { state, root_cause_task_id, .. }) => {
///         println!("{state}, because of {root_cause_task_id:?}");
///     }
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct WorkflowBuilder {
    fields: Fields,
    tasks: Vec<Task>,
    event_id: Option<String>,
    timeout: Option<Duration>,
}

impl WorkflowBuilder {
    /// A workflow without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// A workflow with the tasks of a graph. Their metadata, where they have any, must be objects.
    pub fn from_graph(graph: &DependencyGraph) -> Self {
        graph.nodes().fold(Self::new(), |builder, node| {
            let dependencies: Vec<&str> = node.dependencies.iter().map(String::as_str).collect();
            let mut task = Task::new(&node.name).key(&node.task_id).dependencies(&dependencies);
            if let Some(agent_id) = &node.agent_id {
                task = task.agent_id(agent_id);
            }
            if !node.metadata.is_null() {
                task = task.metadata(&node.metadata);
            }
            builder.add_task(task)
        })
    }

    /// Its id, under which others await it; drawn unless said. An id that another request used is refused.
    pub fn workflow_id(mut self, workflow_id: &str) -> Self {
        self.fields.set("workflow_id", workflow_id);
        self
    }

    /// Its name, for people; at most 256 bytes.
    pub fn name(mut self, name: &str) -> Self {
        self.fields.set("name", name);
        self
    }

    /// The priority of tasks that have none of their own and no parent's.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.fields.set("priority", priority.as_str());
        self
    }

    /// What becomes of tasks that depend on one that ended without success; [`FailurePolicy::Cancel`] unless said.
    pub fn on_dependency_failure(mut self, policy: FailurePolicy) -> Self {
        self.fields.set("on_dependency_failure", policy.as_str());
        self
    }

    /// One more task; at least one and at most 10,000. Without a [`Task::key`] it is called as what it runs.
    pub fn add_task(mut self, task: Task) -> Self {
        self.tasks.push(task);
        self
    }

    /// The caller's own id of the request, 1 to 256 bytes: starting it again under the same one starts nothing. Drawn unless
    /// said.
    pub fn event_id(mut self, event_id: &str) -> Self {
        self.event_id = Some(event_id.to_owned());
        self
    }

    /// How long [`Workflow::execute`] waits; without limit unless said. The workflow goes on either way.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The workflow, checked.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`], [`Error::InvalidDependency`] and [`Error::CyclicDependency`] with everything that is wrong.
    pub fn build(self) -> Result<Workflow, Error> {
        let mut payload = self.fields;
        payload.set_list("tasks", self.tasks.into_iter().map(Task::into_node));
        let mut workflow = Workflow::from_json(&payload.into_payload()?)?;
        workflow.timeout = self.timeout;
        workflow.event_id = self.event_id.unwrap_or(workflow.event_id);
        Ok(workflow)
    }

    /// Builds it, starts it and waits for its end.
    ///
    /// # Errors
    ///
    /// As [`WorkflowBuilder::build`] and [`Workflow::execute`].
    pub async fn execute(self, workflows: &Workflows) -> Result<WorkflowExecution, Error> {
        self.build()?.execute(workflows).await
    }
}

/// A workflow that was put together: one request, which starts one workflow however often it is made.
#[derive(Debug, Clone)]
pub struct Workflow {
    pub(super) trigger: WorkflowTrigger,
    pub(super) event_id: String,
    timeout: Option<Duration>,
}

impl Workflow {
    /// The workflow of a definition: the payload of `orchestration.workflow.start` as JSON, which the files of
    /// `waooaw workflow start` hold too.
    ///
    /// # Errors
    ///
    /// As [`WorkflowBuilder::build`].
    pub fn from_json(definition: &str) -> Result<Self, Error> {
        Ok(Self {
            trigger: WorkflowTrigger::parse(definition)?,
            event_id: uuid::Uuid::new_v4().to_string(),
            timeout: None,
        })
    }

    /// As [`WorkflowBuilder::event_id`].
    #[must_use]
    pub fn event_id(mut self, event_id: &str) -> Self {
        event_id.clone_into(&mut self.event_id);
        self
    }

    /// As [`WorkflowBuilder::timeout`].
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// In what order its tasks can run, and how many at once.
    #[must_use]
    pub fn plan(&self) -> ExecutionPlan {
        self.trigger.plan()
    }

    /// Starts it and does not wait; answers its id.
    ///
    /// # Errors
    ///
    /// As [`Workflows::start`].
    pub async fn start(&self, workflows: &Workflows) -> Result<String, Error> {
        workflows.start(self).await
    }

    /// Starts it and waits until it has completed. The workflow runs on the replicas: it goes on when the caller is gone, and
    /// whoever knows its id can await it with [`Workflows::wait`].
    ///
    /// # Errors
    ///
    /// [`Error::WorkflowExecution`] when it failed or was stopped, [`Error::WaitTimeout`] when it has not ended in time; and
    /// those of [`Workflows::start`].
    pub async fn execute(&self, workflows: &Workflows) -> Result<WorkflowExecution, Error> {
        let id = workflows.start(self).await?;
        workflows.wait(&id, self.timeout).await?.into_success()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::graph::TaskNode;

    fn keys(workflow: &Workflow) -> Vec<(&str, &str)> {
        let tasks = workflow.trigger.tasks.iter().map(|task| &task.trigger);
        tasks
            .map(|task| (task.key.as_ref().unwrap().as_str(), task.task_name.as_str()))
            .collect()
    }

    #[test]
    fn what_is_said_becomes_a_workflow_with_every_option() {
        let workflow = WorkflowBuilder::new()
            .workflow_id("order-7")
            .name("order")
            .priority(Priority::High)
            .on_dependency_failure(FailurePolicy::Wait)
            .event_id("e-7")
            .add_task(
                Task::new("ship_order")
                    .key("ship")
                    .dependencies(&["check"])
                    .on_dependency_failure(FailurePolicy::Run),
            )
            .add_task(Task::new("check").agent_id("stock").args([1]))
            .build()
            .unwrap();

        assert_eq!(keys(&workflow), [("check", "check"), ("ship", "ship_order")]);
        assert_eq!((workflow.event_id.as_str(), workflow.plan().levels), ("e-7", 2));
        let trigger = &workflow.trigger;
        assert_eq!(trigger.workflow_id.as_ref().unwrap().as_str(), "order-7");
        assert_eq!(
            (trigger.name.as_deref(), trigger.priority),
            (Some("order"), Some(Priority::High))
        );
        assert_eq!(trigger.on_dependency_failure, FailurePolicy::Wait);
        let [check, ship] = &trigger.tasks[..] else {
            panic!("not two tasks")
        };
        assert_eq!(check.trigger.agent_id.as_ref().unwrap().as_str(), "stock");
        assert_eq!(ship.on_dependency_failure, Some(FailurePolicy::Run));
    }

    #[test]
    fn a_graph_and_a_definition_are_workflows_too() {
        let mut graph = DependencyGraph::new();
        let pay = TaskNode::new("pay", "charge").depends_on(["check"]);
        graph.add_node(pay).unwrap();
        let check = TaskNode::new("check", "validate").for_agent("validator");
        graph.add_node(check.with_metadata(json!({ "order": 7 }))).unwrap();
        let definition = r#"{"tasks":[
            {"task_id":"pay","name":"charge","dependencies":["check"]},
            {"task_id":"check","name":"validate","agent_id":"validator","metadata":{"order":7}}]}"#;

        let by_graph = WorkflowBuilder::from_graph(&graph).build().unwrap();
        let by_definition = Workflow::from_json(definition).unwrap();

        assert_eq!(keys(&by_graph), [("check", "validate"), ("pay", "charge")]);
        assert_eq!(keys(&by_graph), keys(&by_definition));
        for workflow in [by_graph, by_definition] {
            let check = &workflow.trigger.tasks[0].trigger;
            assert_eq!(check.metadata.get(), r#"{"order":7}"#);
            assert_eq!(check.agent_id.as_ref().unwrap().as_str(), "validator");
        }
    }

    #[test]
    fn a_workflow_that_can_not_be_is_told_by_the_rules_of_the_event() {
        let refused = |tasks: &[Task]| {
            let builder = tasks
                .iter()
                .cloned()
                .fold(WorkflowBuilder::new(), WorkflowBuilder::add_task);
            builder.build().unwrap_err().to_string()
        };
        let a = || Task::new("a");

        assert!(refused(&[]).contains("`tasks` is empty"));
        assert!(refused(&[a(), a()]).contains("`tasks[1].task_id`"));
        assert!(
            refused(&[a().dependencies(&["b"]), Task::new("b").dependencies(&["a"])]).contains("depends on itself")
        );
        assert!(refused(&[a().workflow_id("w")]).contains("`tasks[0].workflow_id`"));
        assert!(refused(&[a().event_id("e")]).contains("`tasks[0].event_id`"));
        assert!(refused(&[a(), Task::new("b").args(5)]).contains("`tasks[1].args`"));
    }
}
