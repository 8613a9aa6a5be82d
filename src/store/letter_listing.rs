//! Lists dead letters, a page at a time.
//!
//! They stand in one sorted set by time, so a page begins behind a place in it, whatever was removed since. Each page
//! looks at a bounded number of letters and reads a bounded number of bytes; its [`Cursor`] says where the next goes on.
//! Partitions follow one another.

use super::cursor::{Cursor, InvalidCursor, Place};
use super::letter::Letter;
use super::listing::ListError;
use super::reply::{bytes, integer, items, string};
use super::{Store, StoreError};
use crate::domain::dead_letter::{DeadLetterId, DeadLetterKind};
use crate::domain::id::Partition;

/// How many letters one page looks at, at most.
const LETTERS_MAX: usize = 20_000;
/// After how many bytes of letters a page ends early.
const PAGE_BYTES: usize = 8 << 20;
/// And after how many that were read, wanted or not.
const READ_BYTES: usize = 32 << 20;
/// How many are looked at at once.
const BATCH: usize = 500;
/// How many are read whole at once; each keeps what was asked for, which can have a mebibyte.
const WHOLE: usize = 10;

/// Which dead letters are wanted; all that fit every condition.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterQuery {
    /// Of this kind.
    pub kind: Option<DeadLetterKind>,
    /// For this reason: `handler_error`, `timeout`, `lost`, or that of a rejection.
    pub reason: Option<String>,
    /// Of tasks of this name, or of triggers that asked for one.
    pub task_name: Option<String>,
    /// Dead since before this moment, ms since the epoch.
    pub before_ms: Option<i64>,
    /// Dead since this moment or later, ms since the epoch.
    pub after_ms: Option<i64>,
    /// With this text in their names, their error or what was asked for, whatever its case.
    pub text: Option<String>,
    /// The longest dead first; else the latest.
    pub oldest_first: bool,
}

/// A page of dead letters.
#[derive(Debug)]
pub struct LetterPage {
    /// The letters.
    pub letters: Vec<Letter>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<Cursor>,
}

/// A page of the names of dead letters.
#[derive(Debug)]
pub struct LetterIdPage {
    /// The names.
    pub ids: Vec<DeadLetterId>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<Cursor>,
}

/// One of the sorted set.
struct Row {
    id: DeadLetterId,
    behind: Place,
}

/// What was looked at at once.
struct Batch {
    rows: Vec<Row>,
    looked_at: usize,
    next: Option<Place>,
}

/// What a page is made of.
struct Found {
    id: DeadLetterId,
    letter: Option<Letter>,
}

impl DeadLetterQuery {
    /// Whether only the whole letter tells.
    fn needs_all(&self) -> bool {
        // A trigger's task is named in its payload.
        self.text.is_some() || (self.task_name.is_some() && self.kind != Some(DeadLetterKind::Task))
    }

    fn fits_outside(&self, kind: &str, reason: &str, task_name: Option<&str>) -> bool {
        self.kind.is_none_or(|wanted| wanted.as_str() == kind)
            && self.reason.as_ref().is_none_or(|wanted| wanted == reason)
            && (task_name.is_none() || self.task_name.is_none() || self.task_name.as_deref() == task_name)
    }

    fn fits(&self, letter: &Letter) -> bool {
        (self.task_name.is_none() || letter.task_name() == self.task_name)
            && self.text.as_ref().is_none_or(|text| letter.mentions(text))
    }
}

impl Store {
    /// A page of up to `limit` dead letters.
    ///
    /// # Errors
    ///
    /// [`ListError::Cursor`] for a cursor of another list, or any [`StoreError`].
    pub async fn list_dead_letters(
        &self,
        query: &DeadLetterQuery,
        limit: usize,
        cursor: Option<Cursor>,
    ) -> Result<LetterPage, ListError> {
        let (found, next) = self.letter_page(query, limit, cursor, true).await?;
        let letters = found.into_iter().filter_map(|found| found.letter).collect();
        Ok(LetterPage { letters, next })
    }

    /// As [`Store::list_dead_letters`], only the names: whoever handles many need not read them.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn list_dead_letter_ids(
        &self,
        query: &DeadLetterQuery,
        limit: usize,
        cursor: Option<Cursor>,
    ) -> Result<LetterIdPage, ListError> {
        let (found, next) = self.letter_page(query, limit, cursor, query.needs_all()).await?;
        let ids = found.into_iter().map(|found| found.id).collect();
        Ok(LetterIdPage { ids, next })
    }

    /// When the latest died of all that are kept, ms since the epoch.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn latest_dead_letter_ms(&self) -> Result<Option<i64>, StoreError> {
        let mut latest = None;
        for partition in self.partitions() {
            let mut command = redis::cmd("ZRANGE");
            command
                .arg(self.keys().dead(partition))
                .arg(-1)
                .arg(-1)
                .arg("WITHSCORES");
            let row = items(self.send(&command).await?).ok_or(StoreError::Protocol("ZRANGE"))?;
            latest = latest.max(row.get(1).and_then(score_ms));
        }
        Ok(latest)
    }

    /// One dead letter.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn letter(&self, id: DeadLetterId) -> Result<Option<Letter>, StoreError> {
        Ok(self.letters(&[id]).await?.pop().flatten())
    }

    /// Several dead letters, in order.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn letters(&self, ids: &[DeadLetterId]) -> Result<Vec<Option<Letter>>, StoreError> {
        let mut letters = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(WHOLE) {
            let mut pipeline = redis::pipe();
            for id in chunk {
                pipeline.cmd("HGETALL").arg(self.letter_key(*id));
            }
            for (id, value) in chunk.iter().zip(self.send_all(&pipeline).await?) {
                let fields = super::inspect::pairs(value).ok_or(StoreError::Protocol("HGETALL"))?;
                letters.push(Letter::new(*id, fields));
            }
        }
        Ok(letters)
    }

    fn letter_key(&self, id: DeadLetterId) -> String {
        let partition = id.partition(self.partition_count());
        self.keys().dead_letter(partition, &id.to_string())
    }

    async fn letter_page(
        &self,
        query: &DeadLetterQuery,
        limit: usize,
        cursor: Option<Cursor>,
        reads_all: bool,
    ) -> Result<(Vec<Found>, Option<Cursor>), ListError> {
        let mut place = match cursor {
            Some(Cursor(place @ Place::Letters { partition, .. })) if partition.number() < self.partition_count() => {
                place
            }
            Some(_) => return Err(InvalidCursor.into()),
            None => beginning(Partition::default()),
        };
        let mut found = Vec::new();
        let (mut looked_at, mut read_bytes, mut page_bytes) = (0, 0, 0);
        // Where the page is full, if it is; one more than wanted is looked for, so that the last page knows that it is.
        let mut full_at: Option<Place> = None;
        loop {
            let batch = self.letter_batch(query, &place).await?;
            looked_at += batch.looked_at.max(1);
            for chunk in batch.rows.chunks(WHOLE) {
                let ids: Vec<DeadLetterId> = chunk.iter().map(|row| row.id).collect();
                let letters = if reads_all {
                    self.letters(&ids).await?
                } else {
                    vec![None; ids.len()]
                };
                for (row, letter) in chunk.iter().zip(letters) {
                    let size = letter.as_ref().map_or(0, Letter::size);
                    read_bytes += size;
                    if reads_all && !letter.as_ref().is_some_and(|letter| query.fits(letter)) {
                        continue;
                    }
                    if full_at.is_some() {
                        return Ok((found, full_at.map(Cursor)));
                    }
                    page_bytes += size;
                    found.push(Found { id: row.id, letter });
                    if found.len() >= limit || page_bytes >= PAGE_BYTES {
                        full_at = Some(row.behind.clone());
                    }
                }
                if let Some(last) = chunk.last().filter(|_| read_bytes >= READ_BYTES) {
                    let next = full_at.unwrap_or_else(|| last.behind.clone());
                    return Ok((found, Some(Cursor(next))));
                }
            }
            match batch.next {
                None => return Ok((found, None)),
                Some(next) if looked_at >= LETTERS_MAX => {
                    return Ok((found, Some(Cursor(full_at.unwrap_or(next)))));
                }
                Some(next) => place = next,
            }
        }
    }

    /// The letters behind a place that fit as far as their outside tells.
    async fn letter_batch(&self, query: &DeadLetterQuery, place: &Place) -> Result<Batch, StoreError> {
        let Place::Letters { partition, behind } = place else {
            return Ok(Batch {
                rows: Vec::new(),
                looked_at: 0,
                next: None,
            });
        };
        let scored = self.scored_letters(*partition, query, behind.as_ref()).await?;
        let is_full = scored.len() == BATCH;
        let next_partition = || self.partition_after(*partition).map(beginning);
        let at = |(ms, id): &(i64, String)| Place::Letters {
            partition: *partition,
            behind: Some((*ms, id.clone())),
        };
        let is_over = |(ms, _): &(i64, String)| {
            if query.oldest_first {
                query.before_ms.is_some_and(|before_ms| *ms >= before_ms)
            } else {
                query.after_ms.is_some_and(|after_ms| *ms < after_ms)
            }
        };
        let next = match scored.last() {
            Some(last) if is_full && !is_over(last) => Some(at(last)),
            Some(_) | None => next_partition(),
        };
        let wanted: Vec<&(i64, String)> = scored
            .iter()
            .take_while(|row| !is_over(row))
            // The place itself and what stands with it may come again, where it was found by its time.
            .filter(|(ms, id)| match behind {
                Some((last_ms, last)) if ms == last_ms && query.oldest_first => id > last,
                Some((last_ms, last)) if ms == last_ms => id < last,
                Some(_) | None => true,
            })
            .collect();
        let mut rows = Vec::with_capacity(wanted.len());
        if !wanted.is_empty() {
            let mut pipeline = redis::pipe();
            for (_, id) in &wanted {
                let key = self.keys().dead_letter(*partition, id);
                pipeline
                    .cmd("HMGET")
                    .arg(key)
                    .arg("kind")
                    .arg("reason")
                    .arg("task_name");
            }
            for (row, value) in wanted.iter().zip(self.send_all(&pipeline).await?) {
                let outside = items(value).ok_or(StoreError::Protocol("HMGET"))?;
                let outside = |place: usize| {
                    outside
                        .get(place)
                        .and_then(bytes)
                        .and_then(|text| str::from_utf8(text).ok())
                };
                let Some(kind) = outside(0) else { continue };
                if let Ok(id) = row.1.parse::<DeadLetterId>()
                    && query.fits_outside(kind, outside(1).unwrap_or_default(), outside(2))
                {
                    rows.push(Row { id, behind: at(row) });
                }
            }
        }
        Ok(Batch {
            rows,
            looked_at: scored.len(),
            next,
        })
    }

    /// Up to a batch of times and names in the order of the query, from a place on.
    async fn scored_letters(
        &self,
        partition: Partition,
        query: &DeadLetterQuery,
        behind: Option<&(i64, String)>,
    ) -> Result<Vec<(i64, String)>, StoreError> {
        let key = self.keys().dead(partition);
        let (rank, range) = if query.oldest_first {
            ("ZRANK", "ZRANGE")
        } else {
            ("ZREVRANK", "ZREVRANGE")
        };
        // How many stand in front of all that may be wanted.
        let mut count = redis::cmd("ZCOUNT");
        count.arg(&key);
        let start = match (behind, query.oldest_first) {
            (Some((ms, id)), oldest_first) => {
                let rank = self.send(redis::cmd(rank).arg(&key).arg(id)).await?;
                if let Some(rank) = integer(&rank) {
                    Some(rank + 1)
                } else {
                    if oldest_first {
                        count.arg("-inf").arg(format!("({ms}"));
                    } else {
                        count.arg(format!("({ms}")).arg("+inf");
                    }
                    None
                }
            }
            (None, true) => match query.after_ms {
                Some(after_ms) => {
                    count.arg("-inf").arg(format!("({after_ms}"));
                    None
                }
                None => Some(0),
            },
            (None, false) => match query.before_ms {
                Some(before_ms) => {
                    count.arg(before_ms).arg("+inf");
                    None
                }
                None => Some(0),
            },
        };
        let start = match start {
            Some(start) => start,
            None => integer(&self.send(&count).await?).unwrap_or_default(),
        };
        let mut command = redis::cmd(range);
        command
            .arg(&key)
            .arg(start)
            .arg(start + i64::try_from(BATCH - 1).unwrap_or_default())
            .arg("WITHSCORES");
        let mut values = items(self.send(&command).await?)
            .ok_or(StoreError::Protocol("ZRANGE"))?
            .into_iter();
        let mut rows = Vec::new();
        while let (Some(id), Some(score)) = (values.next().and_then(string), values.next()) {
            rows.push((score_ms(&score).unwrap_or_default(), id));
        }
        Ok(rows)
    }
}

fn beginning(partition: Partition) -> Place {
    Place::Letters {
        partition,
        behind: None,
    }
}

/// A score, which is a whole number of milliseconds.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a score is a whole number of milliseconds"
)]
fn score_ms(score: &redis::Value) -> Option<i64> {
    let text = bytes(score).and_then(|text| str::from_utf8(text).ok())?;
    text.parse::<f64>().ok().map(|score| score as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outside_decides_where_it_can() {
        let query = DeadLetterQuery {
            task_name: Some("mail".to_owned()),
            ..DeadLetterQuery::default()
        };

        assert!(query.needs_all());
        assert!(query.fits_outside("task", "timeout", Some("mail")));
        assert!(!query.fits_outside("task", "timeout", Some("fax")));
        assert!(query.fits_outside("trigger", "unknown_task", None));
        let tasks = DeadLetterQuery {
            kind: Some(DeadLetterKind::Task),
            reason: Some("lost".to_owned()),
            ..query
        };
        assert!(!tasks.needs_all());
        assert!(tasks.fits_outside("task", "lost", Some("mail")));
        assert!(!tasks.fits_outside("task", "timeout", Some("mail")));
        assert!(!tasks.fits_outside("trigger", "lost", None));
    }
}
