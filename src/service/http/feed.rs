//! What all clients that follow the log share: the newest part of it, and a bell.
//!
//! One reader a replica reads the log as it grows and keeps the last few megabytes. A client whose place lies in them costs
//! Redis nothing, so a thousand that wait are as cheap as one; only who has fallen behind reads from Redis, a few at a time.
//! While nobody follows nothing is read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use crate::domain::event::{EntryId, Event};
use crate::domain::id::Partition;
use crate::store::{Blocking, Store, StoreError};

/// How many clients may follow at a time.
pub(super) const FOLLOWERS_MAX: usize = 2048;
/// How many of them read from Redis at a time.
const READERS_MAX: usize = 8;
/// How many events are read at once.
const BATCH: usize = 500;
/// How much of the log is kept, over all partitions.
const TAIL_BYTES: usize = 8 << 20;
/// What an event costs beside its payload.
const EVENT_BYTES: usize = 512;
/// How long one wait for news takes at most.
const WAIT: Duration = Duration::from_secs(2);
/// How long to wait while Redis does not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// The shortest time between two rings: on a busy log more is sent at once instead of more often.
const RING_PAUSE: Duration = Duration::from_millis(50);

/// What clients that follow share.
pub(super) struct Feed {
    followers: AtomicUsize,
    has_followers: Notify,
    news: watch::Sender<u64>,
    readers: Semaphore,
    tails: RwLock<Vec<Tail>>,
    stop: CancellationToken,
}

/// The newest events of a partition: all behind `after`, up to `last`.
struct Tail {
    partition: Partition,
    after: EntryId,
    last: EntryId,
    events: VecDeque<(EntryId, Arc<Event>)>,
    bytes: usize,
}

impl Tail {
    fn new((partition, newest): (Partition, EntryId)) -> Self {
        Self {
            partition,
            after: newest,
            last: newest,
            events: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Takes in what was read behind its end, and lets go of the oldest over `most` bytes.
    fn grow(&mut self, last: EntryId, events: Vec<Event>, most: usize) {
        for event in events {
            let Ok(place) = event.entry_id.parse() else { continue };
            self.bytes += EVENT_BYTES + event.payload.get().len();
            self.events.push_back((place, Arc::new(event)));
        }
        self.last = last;
        while self.bytes > most
            && let Some((place, event)) = self.events.pop_front()
        {
            self.bytes -= EVENT_BYTES + event.payload.get().len();
            self.after = place;
        }
    }

    /// Those that fit of up to `count` events behind a place, and the place that is reached with them; `None` for a place
    /// before what is kept.
    fn behind(
        &self,
        place: EntryId,
        count: usize,
        fits: impl Fn(&Event) -> bool,
    ) -> Option<(Vec<Arc<Event>>, EntryId)> {
        if place < self.after {
            return None;
        }
        let first = self.events.partition_point(|(known, _)| *known <= place);
        let looked = self.events.range(first..).take(count);
        let reached = match self.events.get(first + count.saturating_sub(1)) {
            Some((last, _)) => *last,
            None => self.last.max(place),
        };
        let found = looked
            .filter(|(_, event)| fits(event))
            .map(|(_, event)| Arc::clone(event));
        Some((found.collect(), reached))
    }
}

impl Feed {
    /// A feed that ends all streams with `stop`.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self {
            followers: AtomicUsize::new(0),
            has_followers: Notify::new(),
            news: watch::Sender::new(0),
            readers: Semaphore::new(READERS_MAX),
            tails: RwLock::new(Vec::new()),
            stop,
        }
    }

    /// How many follow.
    pub(super) fn followers(&self) -> usize {
        self.followers.load(Ordering::Acquire)
    }

    /// Ends with the replica.
    pub(super) const fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Counts somebody who follows; `false` when there are too many.
    pub(super) fn join(&self) -> bool {
        if self.followers.fetch_add(1, Ordering::AcqRel) >= FOLLOWERS_MAX {
            self.leave();
            return false;
        }
        self.has_followers.notify_one();
        true
    }

    /// One who followed has gone.
    pub(super) fn leave(&self) {
        self.followers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Changes whenever the log has grown.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// A turn for who has to read from Redis.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.readers.acquire().await.ok()
    }

    /// Those that fit of up to `count` events of a partition behind a place, and the place that is reached with them, as far
    /// as they are kept here. Who wants few of them costs little: nothing is moved that does not fit.
    pub(super) fn behind(
        &self,
        partition: Partition,
        place: EntryId,
        count: usize,
        fits: impl Fn(&Event) -> bool,
    ) -> Option<(Vec<Arc<Event>>, EntryId)> {
        let tails = self.tails.read().unwrap_or_else(PoisonError::into_inner);
        let tail = tails.iter().find(|tail| tail.partition == partition)?;
        tail.behind(place, count, fits)
    }

    /// A panic while they were held can not have left half a change that matters.
    fn tails(&self) -> RwLockWriteGuard<'_, Vec<Tail>> {
        self.tails.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the newest part of the log, and rings whenever it has grown, as long as somebody follows.
    pub(super) async fn ring(&self, store: &Store) {
        let mut reader = store.blocking(WAIT);
        let ringing = async {
            loop {
                if let Err(problem) = self.follow(store, &mut reader).await {
                    tracing::debug!(%problem, "can not read the log for those who follow");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        tokio::select! { () = self.stop.cancelled() => (), () = ringing => () }
    }

    async fn follow(&self, store: &Store, reader: &mut Blocking) -> Result<(), StoreError> {
        if self.followers.load(Ordering::Acquire) == 0 {
            self.tails().clear();
            self.has_followers.notified().await;
        }
        if self.tails().is_empty() {
            let places = newest(store).await?;
            *self.tails() = places.into_iter().map(Tail::new).collect();
        }
        let mut places: Vec<(Partition, EntryId)> = {
            let tails = self.tails();
            tails.iter().map(|tail| (tail.partition, tail.last)).collect()
        };
        let most = TAIL_BYTES / places.len().max(1);
        for (partition, place) in &mut places {
            loop {
                let part = store.log_part(*partition, *place, None, BATCH).await?;
                let Some(last) = part.last else { break };
                *place = last;
                let is_last = part.events.len() + part.strangers.len() < BATCH;
                if let Some(tail) = self.tails().iter_mut().find(|tail| tail.partition == *partition) {
                    tail.grow(last, part.events, most);
                }
                if is_last {
                    break;
                }
            }
        }
        // Also for what came before the places were known.
        self.news.send_modify(|number| *number += 1);
        let places: Vec<_> = places
            .into_iter()
            .map(|(partition, id)| (partition, id.to_string()))
            .collect();
        store.wait_for_events(reader, &places).await?;
        tokio::time::sleep(RING_PAUSE).await;
        Ok(())
    }
}

/// The newest entry of each partition.
pub(super) async fn newest(store: &Store) -> Result<Vec<(Partition, EntryId)>, StoreError> {
    let mut places = Vec::new();
    for partition in store.partitions() {
        let id = store.last_event_id(partition).await?;
        places.push((partition, id.parse().unwrap_or_default()));
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> EntryId {
        EntryId { ms: 1, number }
    }

    fn event(number: u64) -> Event {
        let id = id(number).to_string();
        let fields = [
            ("event_type", "t"),
            ("source_agent", "s"),
            ("event_id", "x/1"),
            ("correlation_id", "c"),
            ("causation_id", "c"),
            ("timestamp", "2026-01-31T12:00:00.000Z"),
            ("payload", "{}"),
        ];
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        Event::from_fields(&id, &fields).unwrap()
    }

    fn behind(tail: &Tail, place: u64, count: usize) -> Option<(Vec<String>, String)> {
        let (events, reached) = tail.behind(id(place), count, |_| true)?;
        let ids = events.iter().map(|event| event.entry_id.clone()).collect();
        Some((ids, reached.to_string()))
    }

    fn ids(numbers: &[u64]) -> Vec<String> {
        numbers.iter().map(|number| id(*number).to_string()).collect()
    }

    #[test]
    fn a_place_in_the_tail_goes_on_without_a_gap_and_one_before_it_is_known_as_such() {
        let mut tail = Tail::new((Partition::default(), id(10)));
        assert_eq!(behind(&tail, 10, 5), Some((vec![], "1-10".to_owned())));
        assert_eq!(behind(&tail, 9, 5), None);

        // The entry 14 is no event.
        tail.grow(id(14), vec![event(11), event(12), event(13)], 1 << 20);
        assert_eq!(behind(&tail, 10, 2), Some((ids(&[11, 12]), "1-12".to_owned())));
        assert_eq!(behind(&tail, 12, 2), Some((ids(&[13]), "1-14".to_owned())));
        assert_eq!(behind(&tail, 14, 2), Some((vec![], "1-14".to_owned())));

        tail.grow(id(15), vec![event(15)], 2 * (EVENT_BYTES + 2));
        assert_eq!((tail.after, tail.events.len()), (id(12), 2));
        assert_eq!(behind(&tail, 11, 9), None);
        assert_eq!(behind(&tail, 12, 9), Some((ids(&[13, 15]), "1-15".to_owned())));
    }

    #[test]
    fn there_is_room_for_so_many() {
        let feed = Feed::new(CancellationToken::new());
        for _ in 0..FOLLOWERS_MAX {
            assert!(feed.join());
        }
        assert!(!feed.join());
        feed.leave();
        assert!(feed.join());
    }
}
