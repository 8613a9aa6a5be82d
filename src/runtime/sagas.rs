//! Sagas for programs: start one, wait for one, look at it, let it go back or try again.
//!
//! Nobody owns a saga: its progress is state in Redis. Whoever starts one may go away, and anybody may wait for it.

use std::time::Duration;

use super::group;
use super::group_client::{GroupClient, waited_in_vain};
use super::saga_builder::Saga;
use super::saga_execution::{SagaExecution, saga_execution};
use crate::error::Error;
use crate::store::Store;
use crate::store::groups::GroupKind;

/// The sagas on a Redis. See [`SagaBuilder`](crate::SagaBuilder) for an example.
#[derive(Clone)]
pub struct Sagas {
    client: GroupClient,
}

impl Sagas {
    /// Those on the Redis of a store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            client: GroupClient::new(store, "sagas"),
        }
    }

    /// Under this name as the one who asks; `sagas` unless said.
    #[must_use]
    pub fn source_agent(mut self, source_agent: &str) -> Self {
        self.client.set_source_agent(source_agent);
        self
    }

    /// Starts a saga, whole or not at all; answers its id. The same saga is started once.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTask`], [`Error::TaskQueueFull`], [`Error::InvalidField`] (its id is taken),
    /// [`Error::RedisUnavailable`]; asking again is safe.
    pub async fn start(&self, saga: &Saga) -> Result<String, Error> {
        self.client
            .start(&saga.event_id, |defaults, origin, partitions| {
                defaults.saga(saga.trigger.clone(), origin, partitions)
            })
            .await
    }

    /// Waits until a saga has ended, whoever started it; its record as it is then, however it ended.
    ///
    /// # Errors
    ///
    /// [`Error::WaitTimeout`] when it has not ended within `timeout`; [`Error::SagaNotFound`], also when it is forgotten
    /// meanwhile; [`Error::RedisUnavailable`] when Redis is away at the beginning or for longer than half a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call changes nothing; the saga goes on.
    pub async fn wait(&self, saga_id: &str, timeout: Option<Duration>) -> Result<SagaExecution, Error> {
        let id = group::saga_id(saga_id)?;
        let is_over = self.client.wait(GroupKind::Saga, &id, timeout).await?;
        let Some(is_over) = is_over else {
            return Err(Error::SagaNotFound(id.to_string()));
        };
        let execution = saga_execution(self.client.store().await?, &id).await?;
        if is_over {
            return Ok(execution);
        }
        Err(waited_in_vain(GroupKind::Saga, &id, execution.state, timeout))
    }

    /// A saga as it is right now.
    ///
    /// # Errors
    ///
    /// [`Error::SagaNotFound`], [`Error::RedisUnavailable`].
    pub async fn get(&self, saga_id: &str) -> Result<SagaExecution, Error> {
        let id = group::saga_id(saga_id)?;
        saga_execution(self.client.store().await?, &id).await
    }

    /// Lets a saga go back; `reason` is the caller's own words, for the log.
    ///
    /// # Errors
    ///
    /// [`Error::SagaNotFound`], [`Error::InvalidTransition`] when it has ended or is behind its pivot,
    /// [`Error::RedisUnavailable`].
    pub async fn cancel(&self, saga_id: &str, reason: Option<&str>) -> Result<(), Error> {
        let id = group::saga_id(saga_id)?;
        group::cancel_saga(self.client.store().await?, self.client.actor, &id, reason).await
    }

    /// Lets a saga try again exactly what it could not undo, or, behind its pivot, what was given up; `who` says so, for
    /// the log.
    ///
    /// # Errors
    ///
    /// [`Error::SagaNotFound`], [`Error::InvalidTransition`] when there is nothing to resume, [`Error::RedisUnavailable`].
    pub async fn resume(&self, saga_id: &str, who: &str) -> Result<(), Error> {
        let id = group::saga_id(saga_id)?;
        group::resume_saga(self.client.store().await?, self.client.actor, &id, who).await
    }
}
