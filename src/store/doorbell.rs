//! Waits behind queues: where a replica with free slots learns that there may be work.

use std::collections::HashMap;
use std::time::Duration;

use super::connection::Blocking;
use super::functions::Bells;
use super::inbound::wait_behind;
use super::{Store, StoreError};

/// The two numbers of an entry id.
type EntryNumbers = (u64, u64);

/// A wait behind many streams at once, without a group.
///
/// A claim that found too little tells from which entry id on there may be news. What rang is remembered by stream: a
/// clock that went back gives entries ids ahead of it, and those must not ring again and again.
pub struct Doorbell {
    reader: Blocking,
    heard: HashMap<String, EntryNumbers>,
}

impl Doorbell {
    /// A doorbell with a connection of its own that waits up to `wait` at a time.
    #[must_use]
    pub fn new(store: &Store, wait: Duration) -> Self {
        Self {
            reader: store.blocking(wait),
            heard: HashMap::new(),
        }
    }

    /// Waits until something enters one of the streams, or the time is over.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; waiting again is safe.
    ///
    /// # Cancel safety
    ///
    /// A wait that is dropped loses its connection, nothing else.
    pub async fn wait(&mut self, bells: &Bells) -> Result<(), StoreError> {
        self.heard
            .retain(|stream, _| bells.iter().any(|(known, _)| known == stream));
        let streams: Vec<(String, String)> = bells
            .iter()
            .map(|(stream, after)| {
                let heard = self.heard.get(stream).copied();
                let (ms, seq) = heard.max(numbers(after)).unwrap_or_default();
                (stream.clone(), format!("{ms}-{seq}"))
            })
            .collect();
        for (stream, entries) in wait_behind(&mut self.reader, &streams).await? {
            if let Some(last) = entries.last().and_then(|entry| numbers(&entry.id)) {
                self.heard.insert(stream, last);
            }
        }
        Ok(())
    }
}

fn numbers(id: &str) -> Option<EntryNumbers> {
    let (ms, seq) = id.split_once('-')?;
    Some((ms.parse().ok()?, seq.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_ids_are_ordered_by_their_numbers() {
        assert!(numbers("10-0") > numbers("9-18446744073709551615"));
        assert!(numbers("9-10") > numbers("9-9"));
        assert_eq!(numbers("$"), None);
    }
}
