//! The calls about handlers whose target does not answer.

use std::time::Duration;

use super::connection::Args;
use super::functions::{Claimed, Paused, claimed};
use super::library::Function;
use super::reply::worded;
use super::{Store, StoreError};
use crate::domain::id::{Partition, ReplicaId};

impl Store {
    /// Stops claiming the tasks of a name and says for how long it is left alone, or goes on with them (`None`).
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn set_circuit(
        &self,
        partition: Partition,
        replica: ReplicaId,
        name: &str,
        pause: Option<Duration>,
    ) -> Result<Paused, StoreError> {
        let mut args = Args::default();
        args.show(replica)
            .push(name)
            .push(pause.map_or(String::new(), |pause| pause.as_millis().to_string()));
        let (word, _) = worded(self.call(Function::Circuit, partition, args).await?, "circuit")?;
        match word.as_str() {
            "ok" => Ok(Paused::Ok),
            "stranger" => Ok(Paused::Stranger),
            "unknown" => Ok(Paused::Unknown),
            _ => Err(StoreError::Protocol("circuit")),
        }
    }

    /// Hands out one parked task of a name whose circuit is open.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. When it is unknown whether the call took effect, the next beat tells what was handed out.
    pub async fn claim_trial(
        &self,
        partition: Partition,
        replica: ReplicaId,
        slot: u16,
        name: &str,
    ) -> Result<Option<Claimed>, StoreError> {
        let mut args = Args::default();
        args.show(replica).show(slot).push(name);
        let (_, mut rest) = worded(self.call(Function::Trial, partition, args).await?, "trial")?;
        Ok(claimed(rest.next(), "trial")?.pop())
    }
}
