//! Workflows for programs: start one, wait for one, look at it, stop it.
//!
//! Nobody owns a workflow: its progress is state in Redis. Whoever starts one may go away, and anybody may wait for it.

use std::time::Duration;

use super::group;
use super::group_client::{GroupClient, waited_in_vain};
use super::request::workflow_tasks;
use super::workflow_builder::Workflow;
use super::workflow_execution::{WorkflowExecution, workflow_execution};
use crate::error::Error;
use crate::store::Store;
use crate::store::document::TaskDocument;
use crate::store::groups::GroupKind;

/// The workflows on a Redis. See [`WorkflowBuilder`](crate::WorkflowBuilder) for an example.
#[derive(Clone)]
pub struct Workflows {
    client: GroupClient,
}

impl Workflows {
    /// Those on the Redis of a store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            client: GroupClient::new(store, "workflows"),
        }
    }

    /// Under this name as the one who asks; `workflows` unless said.
    #[must_use]
    pub fn source_agent(mut self, source_agent: &str) -> Self {
        self.client.set_source_agent(source_agent);
        self
    }

    /// Starts a workflow, whole or not at all; answers its id. The same workflow is started once.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTask`], [`Error::TaskQueueFull`], [`Error::InvalidField`] (its id is taken),
    /// [`Error::RedisUnavailable`]; asking again is safe.
    pub async fn start(&self, workflow: &Workflow) -> Result<String, Error> {
        self.client
            .start(&workflow.event_id, |defaults, origin, partitions| {
                defaults.workflow(workflow.trigger.clone(), origin, partitions)
            })
            .await
    }

    /// Waits until a workflow has ended, whoever started it; its record as it is then, however it ended. Without `timeout` it
    /// waits for as long as that takes.
    ///
    /// # Errors
    ///
    /// [`Error::WaitTimeout`] when it has not ended within `timeout`; [`Error::WorkflowNotFound`], also when it is forgotten
    /// meanwhile, and for an id that tasks carry and nobody started: that has no end; [`Error::RedisUnavailable`] when Redis
    /// is away at the beginning or for longer than half a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call changes nothing; the workflow goes on.
    pub async fn wait(&self, workflow_id: &str, timeout: Option<Duration>) -> Result<WorkflowExecution, Error> {
        let id = group::workflow_id(workflow_id)?;
        let is_over = self.client.wait(GroupKind::Workflow, &id, timeout).await?;
        let Some(is_over) = is_over else {
            return Err(Error::WorkflowNotFound(id.to_string()));
        };
        let execution = workflow_execution(self.client.store().await?, &id).await?;
        if is_over {
            return Ok(execution);
        }
        Err(waited_in_vain(GroupKind::Workflow, &id, execution.state, timeout))
    }

    /// A workflow as it is right now.
    ///
    /// # Errors
    ///
    /// [`Error::WorkflowNotFound`], [`Error::RedisUnavailable`].
    pub async fn get(&self, workflow_id: &str) -> Result<WorkflowExecution, Error> {
        workflow_execution(self.client.store().await?, &group::workflow_id(workflow_id)?).await
    }

    /// All its tasks with their results, in order of creation; none of a workflow that does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::RedisUnavailable`].
    pub async fn tasks(&self, workflow_id: &str) -> Result<Vec<TaskDocument>, Error> {
        workflow_tasks(self.client.store().await?, &group::workflow_id(workflow_id)?).await
    }

    /// Cancels everything of a workflow that has not ended; `reason` is the caller's own words, for the log. What runs ends a
    /// little later.
    ///
    /// # Errors
    ///
    /// [`Error::WorkflowNotFound`], [`Error::InvalidTransition`] when it has ended, [`Error::RedisUnavailable`].
    pub async fn stop(&self, workflow_id: &str, reason: Option<&str>) -> Result<(), Error> {
        let id = group::workflow_id(workflow_id)?;
        let store = self.client.store().await?;
        if group::stop_workflow(store, self.client.actor, &id, reason).await? {
            return Ok(());
        }
        Err(Error::InvalidTransition(format!("workflow `{id}` has ended")))
    }
}
