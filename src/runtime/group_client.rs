//! What programs that ask for workflows and those that ask for sagas share: a store, a name to ask under, a start, a wait.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

use super::defaults::{Defaults, Origin};
use super::group;
use super::request::{self, new_actor};
use super::waiting::{Awaited, wait_for};
use crate::domain::id::{Name, ReplicaId};
use crate::error::Error;
use crate::store::Store;
use crate::store::groups::{GroupKind, NewGroup};

/// One who starts groups and awaits them.
#[derive(Clone)]
pub(super) struct GroupClient {
    store: Store,
    pub(super) actor: ReplicaId,
    source_agent: String,
    defaults: Defaults,
}

impl GroupClient {
    pub(super) fn new(store: Store, source_agent: &str) -> Self {
        Self {
            store,
            actor: new_actor(),
            source_agent: source_agent.to_owned(),
            defaults: Defaults::default(),
        }
    }

    pub(super) fn set_source_agent(&mut self, source_agent: &str) {
        source_agent.clone_into(&mut self.source_agent);
    }

    /// The store, once it knows how many partitions there are.
    pub(super) async fn store(&self) -> Result<&Store, Error> {
        self.store.find_partitions().await?;
        Ok(&self.store)
    }

    /// Starts what a request of this id asks for; answers its id.
    pub(super) async fn start(
        &self,
        event_id: &str,
        group: impl FnOnce(&Defaults, &Origin<'_>, u16) -> NewGroup,
    ) -> Result<String, Error> {
        // That of an event could be called so: both stand in records and ids.
        request::envelope("-", &self.source_agent, event_id, "{}")?;
        let store = self.store().await?;
        let origin = Origin {
            source_agent: &self.source_agent,
            event_id,
            correlation_id: None,
            trace: None,
        };
        let group = group(&self.defaults, &origin, store.partition_count());
        Ok(group::start(store, self.actor, group).await?.id.to_string())
    }

    /// Waits until a group has ended. Answers whether it has within `timeout`; `None` where there is none (any more).
    pub(super) async fn wait(
        &self,
        kind: GroupKind,
        id: &Name,
        timeout: Option<Duration>,
    ) -> Result<Option<bool>, Error> {
        let store = self.store().await?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        wait_for(store, &Awaited::Group(kind, id.clone()), deadline).await
    }
}

/// What somebody is told who waited in vain.
pub(super) fn waited_in_vain(kind: GroupKind, id: &Name, state: impl Display, timeout: Option<Duration>) -> Error {
    let seconds = timeout.unwrap_or_default().as_secs_f64();
    Error::WaitTimeout(format!(
        "{} `{id}` is {state} after {seconds} s of waiting, and goes on",
        kind.as_str()
    ))
}
