//! Sagas for programs: start one, wait for one, look at it, let it go back or try again.
//!
//! Nobody owns a saga: its progress is state in Redis. Whoever starts one may go away, and anybody may wait for it.

use std::time::Duration;

use tokio::time::Instant;

use super::defaults::{Defaults, Origin};
use super::group;
use super::request::{self, Awaited, new_actor};
use super::saga_builder::Saga;
use super::saga_execution::{SagaExecution, saga_execution};
use crate::domain::id::{Name, ReplicaId, shortened};
use crate::error::Error;
use crate::store::Store;

/// The sagas on a Redis.
#[derive(Clone)]
pub struct Sagas {
    store: Store,
    actor: ReplicaId,
    source_agent: String,
    defaults: Defaults,
}

impl Sagas {
    /// Those on the Redis of a store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            actor: new_actor(),
            source_agent: "sagas".to_owned(),
            defaults: Defaults::default(),
        }
    }

    /// Under this name as the one who asks.
    #[must_use]
    pub fn source_agent(mut self, source_agent: &str) -> Self {
        source_agent.clone_into(&mut self.source_agent);
        self
    }

    /// Starts a saga, whole or not at all; answers its id. The same saga is started once.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTask`], [`Error::TaskQueueFull`], [`Error::InvalidField`] (its id is taken),
    /// [`Error::RedisUnavailable`]; asking again is safe.
    pub async fn start(&self, saga: &Saga) -> Result<String, Error> {
        self.store.find_partitions().await?;
        let origin = Origin {
            source_agent: &self.source_agent,
            event_id: &saga.event_id,
            correlation_id: None,
            trace: None,
        };
        let partitions = self.store.partition_count();
        let group = self.defaults.saga(saga.trigger.clone(), &origin, partitions);
        Ok(group::start(&self.store, self.actor, group).await?.id.to_string())
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
        let id = read_id(saga_id)?;
        self.store.find_partitions().await?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        match request::wait_for(&self.store, &Awaited::Saga(id.clone()), deadline).await? {
            None => Err(Error::SagaNotFound(id.to_string())),
            Some(true) => saga_execution(&self.store, &id).await,
            Some(false) => {
                let state = saga_execution(&self.store, &id).await?.state;
                let seconds = timeout.unwrap_or_default().as_secs_f64();
                Err(Error::WaitTimeout(format!(
                    "saga `{id}` is {state} after {seconds} s of waiting, and goes on"
                )))
            }
        }
    }

    /// A saga as it is right now.
    ///
    /// # Errors
    ///
    /// [`Error::SagaNotFound`], [`Error::RedisUnavailable`].
    pub async fn get(&self, saga_id: &str) -> Result<SagaExecution, Error> {
        let id = read_id(saga_id)?;
        self.store.find_partitions().await?;
        saga_execution(&self.store, &id).await
    }

    /// Lets a saga go back; `reason` is the caller's own words, for the log.
    ///
    /// # Errors
    ///
    /// [`Error::SagaNotFound`], [`Error::InvalidTransition`] when it has ended or is behind its pivot,
    /// [`Error::RedisUnavailable`].
    pub async fn cancel(&self, saga_id: &str, reason: Option<&str>) -> Result<(), Error> {
        let id = read_id(saga_id)?;
        self.store.find_partitions().await?;
        group::cancel_saga(&self.store, self.actor, &id, reason).await
    }

    /// Lets a saga try again exactly what it could not undo, or, behind its pivot, what was given up; `who` says so, for
    /// the log.
    ///
    /// # Errors
    ///
    /// [`Error::SagaNotFound`], [`Error::InvalidTransition`] when there is nothing to resume, [`Error::RedisUnavailable`].
    pub async fn resume(&self, saga_id: &str, who: &str) -> Result<(), Error> {
        let id = read_id(saga_id)?;
        self.store.find_partitions().await?;
        group::resume_saga(&self.store, self.actor, &id, who).await
    }
}

/// What is no id of a saga names none.
fn read_id(text: &str) -> Result<Name, Error> {
    text.parse().map_err(|_| Error::SagaNotFound(shortened(text)))
}
