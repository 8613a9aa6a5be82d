//! How many partitions a deployment has, for those who come to one that exists.
//!
//! The number is fixed by the first replica and stands with the keys. With a smaller one a client would see only a part of
//! everything, and with any other look for a task in the wrong place; so clients ask before their first call.
//!
//! Replicas do not ask: they say what they are configured with, and joining refuses what differs.

use super::reply::text;
use super::{Store, StoreError};
use crate::domain::id::Partition;

impl Store {
    /// Takes over the number of partitions that Redis holds, or, where the endpoint names one, makes sure that it is the same.
    /// Costs one round trip until the number is known, then nothing. Where no replica was ever here, or the user may not look,
    /// the endpoint's number stays.
    ///
    /// # Errors
    ///
    /// [`StoreError::Partitions`] when the endpoint names another number, any [`StoreError`] of the connection.
    pub async fn find_partitions(&self) -> Result<(), StoreError> {
        if self.knows_partitions() {
            return Ok(());
        }
        let mut command = redis::cmd("HGET");
        command.arg(self.keys().meta(Partition::default())).arg("partitions");
        let value = match self.send(&command).await {
            Err(error) if error.is_denied() => return Ok(()),
            value => value?,
        };
        let Some(found) = text(&value) else {
            return Ok(());
        };
        let count = found
            .parse()
            .ok()
            .filter(|count| (1..=Partition::MAX_COUNT).contains(count));
        match (count, self.configured_partitions()) {
            (Some(count), None) => self.note_partitions(count),
            (Some(count), Some(configured)) if count == configured => self.note_partitions(count),
            (_, configured) => {
                return Err(StoreError::Partitions {
                    found: found.to_owned(),
                    configured: configured.unwrap_or(1),
                });
            }
        }
        Ok(())
    }
}
