//! The counts that a partition keeps, in one consistent look.

use std::collections::BTreeMap;

use redis::Value;

use super::connection::Args;
use super::library::Function;
use super::reply::{integer, items, string, text, worded};
use super::{Store, StoreError};
use crate::domain::id::Partition;

/// The keeper of counts of one partition.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Name and value of each counter.
    pub counters: Vec<(String, u64)>,
    /// Queue name with (waiting, running) of each priority.
    pub queues: Vec<(String, [(u64, u64); 4])>,
    /// Since when the oldest waiting entry waits, ms since the epoch.
    pub oldest_ms: Option<i64>,
    /// Tasks ended in the last 60 s.
    pub ended_last_minute: u64,
    /// Dead letters kept.
    pub dead_letters: u64,
    /// What each replica reports: its id and its fields; `running` is how many tasks it holds right now.
    pub replicas: Vec<(String, Vec<(String, String)>)>,
    /// Since when the oldest entry of a queue waits, ms since the epoch.
    pub oldest_by_queue: Vec<(String, i64)>,
    /// Queue name with how many of its tasks wait elsewhere than in its streams, of each priority: parked, for their time
    /// or for other tasks.
    pub aside: Vec<(String, [u64; 4])>,
    /// Queues that nothing is handed out of; with JSON of who paused it, why and when.
    pub paused: Vec<(String, String)>,
    /// Since when the oldest task of each priority could start, ms since the epoch; not of paused queues.
    pub ready_since: [Option<i64>; 4],
    /// How many workflows and sagas are under way, by `workflow` and `saga`, and how often one ended so, by `saga failed` and
    /// the like.
    pub groups: BTreeMap<String, u64>,
    /// Streams of tasks under whose keys something else stands.
    pub wrong_streams: Vec<String>,
}

impl Store {
    /// The counters of all partitions; without those that no replica has ever joined.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn all_statistics(&self) -> Result<Vec<Statistics>, StoreError> {
        let mut all = Vec::new();
        for partition in self.partitions() {
            match self.statistics(partition).await {
                Ok(statistics) => all.push(statistics),
                Err(StoreError::NotJoined) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// One consistent look at a partition's counters.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotJoined`] as long as no replica has ever run.
    pub async fn statistics(&self, partition: Partition) -> Result<Statistics, StoreError> {
        const NAME: &str = "statistics";
        let mut args = Args::default();
        args.push("-");
        let (_, mut rest) = worded(self.call(Function::Statistics, partition, args).await?, NAME)?;
        let mut next = || rest.next().ok_or(StoreError::Protocol(NAME));
        let list = |value| items(value).ok_or(StoreError::Protocol(NAME));
        let count = |value: &Value| {
            integer(value)
                .and_then(|number| u64::try_from(number).ok())
                .unwrap_or_default()
        };
        let mut statistics = Statistics::default();
        let counters = list(next()?)?;
        for pair in counters.chunks_exact(2) {
            statistics
                .counters
                .push((text(&pair[0]).unwrap_or_default().to_owned(), count(&pair[1])));
        }
        for row in list(next()?)? {
            let mut row = list(row)?.into_iter();
            let name = row.next().and_then(string).ok_or(StoreError::Protocol(NAME))?;
            let mut ranks = [(0, 0); 4];
            for (rank, cell) in ranks.iter_mut().zip(row.by_ref()) {
                let cell = list(cell)?;
                *rank = (cell.first().map_or(0, count), cell.get(1).map_or(0, count));
            }
            if let Some(since_ms) = row.next().as_ref().and_then(integer).filter(|ms| *ms >= 0) {
                statistics.oldest_by_queue.push((name.clone(), since_ms));
            }
            statistics.queues.push((name, ranks));
        }
        statistics.oldest_ms = integer(&next()?).filter(|ms| *ms >= 0);
        statistics.ended_last_minute = count(&next()?);
        statistics.dead_letters = count(&next()?);
        for row in list(next()?)? {
            let mut texts = list(row)?.into_iter().filter_map(string);
            let id = texts.next().ok_or(StoreError::Protocol(NAME))?;
            let mut fields = Vec::new();
            while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
                fields.push((name, value));
            }
            statistics.replicas.push((id, fields));
        }
        let mut aside: BTreeMap<String, [u64; 4]> = BTreeMap::new();
        for pair in list(next()?)?.chunks_exact(2) {
            // The rank is one digit in front of the name.
            let (rank, queue) = text(&pair[0])
                .and_then(|field| field.split_at_checked(1))
                .unwrap_or_default();
            if let Some(waiting) = rank
                .parse()
                .ok()
                .and_then(|rank: usize| aside.entry(queue.to_owned()).or_default().get_mut(rank))
            {
                *waiting = count(&pair[1]);
            }
        }
        statistics.aside = aside.into_iter().collect();
        for pair in list(next()?)?.chunks_exact(2) {
            let [queue, words] = [&pair[0], &pair[1]].map(|value| text(value).unwrap_or_default().to_owned());
            statistics.paused.push((queue, words));
        }
        for (since, ms) in statistics.ready_since.iter_mut().zip(list(next()?)?) {
            *since = integer(&ms).filter(|ms| *ms >= 0);
        }
        for pair in list(next()?)?.chunks_exact(2) {
            statistics
                .groups
                .insert(text(&pair[0]).unwrap_or_default().to_owned(), count(&pair[1]));
        }
        statistics.wrong_streams = list(next()?)?.into_iter().filter_map(string).collect();
        Ok(statistics)
    }
}
