//! Waits for work: where a replica with free slots learns that there may be some.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use super::connection::Blocking;
use super::functions::Bells;
use super::inbound::{Entry, wait_behind};
use super::{Store, StoreError};

/// The two numbers of an entry id.
type EntryNumbers = (u64, u64);

/// A wait behind many streams at once, without a group.
///
/// A claim that found too little tells from which entry id on there may be news. What rang is remembered by stream: a
/// clock that went back gives entries ids ahead of it, and those must not ring again and again.
pub struct Doorbell {
    store: Store,
    wait: Duration,
    heard: HashMap<String, EntryNumbers>,
    /// Not under way: the connection.
    reader: Option<Blocking>,
    /// Under way: the streams, and the wait itself, which gives the connection back.
    listening: Option<(Vec<String>, Listening)>,
}

type News = Result<Vec<(String, Vec<Entry>)>, StoreError>;
type Listening = Pin<Box<dyn Future<Output = (Blocking, News)> + Send>>;

impl Doorbell {
    /// A doorbell with a connection of its own that waits up to `wait` at a time.
    #[must_use]
    pub fn new(store: &Store, wait: Duration) -> Self {
        Self {
            store: store.clone(),
            wait,
            heard: HashMap::new(),
            reader: None,
            listening: None,
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
    /// A wait that is dropped goes on with the next call, if that is behind the same streams: what Redis is asked does not
    /// change, and what came meanwhile ends it at once. So whoever is woken by something else does not need a new
    /// connection each time.
    pub async fn wait(&mut self, bells: &Bells) -> Result<(), StoreError> {
        if bells.is_empty() {
            // Redis refuses to wait behind nothing.
            tokio::time::sleep(self.wait).await;
            return Ok(());
        }
        self.heard
            .retain(|stream, _| bells.iter().any(|(known, _)| known == stream));
        let is_same = |streams: &[String]| streams.iter().eq(bells.iter().map(|(stream, _)| stream));
        if !self.listening.as_ref().is_some_and(|(streams, _)| is_same(streams)) {
            // Redis would serve nothing else on a connection that waits, so that one is lost.
            let reader = match self.listening.take() {
                Some(_) => None,
                None => self.reader.take(),
            };
            let mut reader = reader.unwrap_or_else(|| self.store.blocking(self.wait));
            let behind: Vec<(String, String)> = bells
                .iter()
                .map(|(stream, after)| {
                    let heard = self.heard.get(stream).copied();
                    let (ms, seq) = heard.max(numbers(after)).unwrap_or_default();
                    (stream.clone(), format!("{ms}-{seq}"))
                })
                .collect();
            let streams = behind.iter().map(|(stream, _)| stream.clone()).collect();
            let listening = async move {
                let news = wait_behind(&mut reader, &behind).await;
                (reader, news)
            };
            self.listening = Some((streams, Box::pin(listening)));
        }
        let Some((_, listening)) = &mut self.listening else {
            return Ok(());
        };
        let (reader, news) = listening.await;
        self.listening = None;
        self.reader = Some(reader);
        for (stream, entries) in news? {
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
