//! The streams that agents write to: triggers and commands.
//!
//! They lie outside the partitions, so reading an event and acting on it are two steps, made safe by ids that are
//! derived from the event: act, then acknowledge and delete. What a replica has read and not acknowledged stays in the
//! pending list under its name; another takes it over when that replica is dead, never because time has passed.

use redis::Value;

use super::connection::{Args, Blocking};
use super::library::Function;
use super::reply::{integer, items, string, text, worded};
use super::{Store, StoreError};
use crate::domain::id::ReplicaId;

/// The consumer group of the replicas on both streams.
pub const GROUP: &str = "orchestrators";

/// One entry of a stream: its id and its fields in order, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The id that Redis gave it.
    pub id: String,
    /// Its fields and values.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// How many bytes its fields and values have.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// The fields as slices.
    #[must_use]
    pub fn borrowed(&self) -> Vec<(&[u8], &[u8])> {
        self.fields
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()))
            .collect()
    }
}

/// Where the readers of a stream stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InboundFront {
    /// The oldest entry that was delivered and not acted upon, and to whom.
    pub oldest: Option<(String, String)>,
    /// The entry up to which all were delivered; empty without a group.
    pub delivered: String,
}

/// How much of an inbound stream is not acted upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InboundLook {
    /// All entries.
    pub waiting: u64,
    /// Those of them that a replica has read.
    pub pending: u64,
    /// When the oldest came, ms since the epoch.
    pub oldest_ms: Option<u64>,
}

/// The two numbers of an entry id, by which entries are ordered.
#[must_use]
pub fn entry_numbers(id: &str) -> (u64, u64) {
    let (ms, seq) = id.split_once('-').unwrap_or((id, "0"));
    (ms.parse().unwrap_or_default(), seq.parse().unwrap_or_default())
}

/// Reads the entries of one stream out of a list of `[id, [field, value, …]]`. An entry that was deleted while it was
/// pending has no fields.
pub(super) fn entries(value: Value) -> Option<Vec<Entry>> {
    let mut found = Vec::new();
    for row in items(value)? {
        let mut row = items(row)?.into_iter();
        let id = row.next().and_then(string)?;
        let mut fields = Vec::new();
        let mut values = row.next().and_then(items).unwrap_or_default().into_iter();
        while let (Some(Value::BulkString(name)), Some(Value::BulkString(value))) = (values.next(), values.next()) {
            fields.push((name, value));
        }
        found.push(Entry { id, fields });
    }
    Some(found)
}

/// A read of up to `count` entries for a replica, without what says from where.
fn group_read(replica: ReplicaId, count: usize) -> redis::Cmd {
    let mut command = redis::cmd("XREADGROUP");
    command.arg("GROUP").arg(GROUP).arg(replica.as_str());
    command.arg("COUNT").arg(count);
    command
}

/// The entries of the first stream in an answer of `XREAD` or `XREADGROUP`; none after a wait in vain.
fn first_stream(value: Value, command: &'static str) -> Result<Vec<Entry>, StoreError> {
    let streams = items(value).ok_or(StoreError::Protocol(command))?;
    let Some(stream) = streams.into_iter().next() else {
        return Ok(Vec::new());
    };
    items(stream)
        .and_then(|pair| pair.into_iter().nth(1))
        .and_then(entries)
        .ok_or(StoreError::Protocol(command))
}

/// Whether the server says that the group, or the stream under it, is not there.
fn is_missing_group(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused(error) if error.code() == Some("NOGROUP"))
}

impl Store {
    /// Makes the group of a stream, and the stream, where they are missing.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn make_inbound_group(&self, stream: &str) -> Result<(), StoreError> {
        let mut command = redis::cmd("XGROUP");
        // From the beginning: what was published before the first replica ran counts too.
        command.arg("CREATE").arg(stream).arg(GROUP).arg("0").arg("MKSTREAM");
        match self.send(&command).await {
            Err(StoreError::Refused(error)) if error.code() == Some("BUSYGROUP") => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Waits for new entries of a stream, on a connection of its own, and takes up to `count` of them.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. Entries that were delivered in an answer that got lost stay pending under the replica's
    /// name; [`Store::reread_inbound`] finds them.
    pub async fn read_inbound(
        &self,
        reader: &mut Blocking,
        stream: &str,
        replica: ReplicaId,
        count: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut command = group_read(replica, count);
        command
            .arg("BLOCK")
            .arg(reader.wait_ms())
            .arg("STREAMS")
            .arg(stream)
            .arg(">");
        match reader.send(&command).await {
            Ok(value) => first_stream(value, "XREADGROUP"),
            Err(error) if is_missing_group(&error) => {
                self.make_inbound_group(stream).await?;
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// What was delivered to the replica and not acknowledged, after the entry `after`.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn reread_inbound(
        &self,
        stream: &str,
        replica: ReplicaId,
        after: &str,
        count: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut command = group_read(replica, count);
        command.arg("STREAMS").arg(stream).arg(after);
        match self.send(&command).await {
            Ok(value) => first_stream(value, "XREADGROUP"),
            Err(error) if is_missing_group(&error) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Takes entries that were acted upon off their stream, over the connection of this number: the one since before
    /// they were acted upon. A Redis that restarted in between may have forgotten the act and remember the entry.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; act upon the entries again before calling again.
    pub async fn acknowledge(&self, stream: &str, ids: &[String], connection: u64) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut args = Args::default();
        args.push(GROUP);
        let mut ascending: Vec<&str> = ids.iter().map(String::as_str).collect();
        ascending.sort_by_key(|id| entry_numbers(id));
        for id in ascending {
            args.push(id);
        }
        let keys = [stream];
        let call = self.call_on(Some(connection), Function::Acknowledge, &keys, args);
        match call.await {
            Err(error) if is_missing_group(&error) => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// The oldest entry that was delivered and not acted upon, with the replica that it was delivered to; and the entry
    /// up to which all were delivered.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn inbound_front(&self, stream: &str) -> Result<InboundFront, StoreError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("XPENDING").arg(stream).arg(GROUP).arg("-").arg("+").arg(1);
        pipeline.cmd("XINFO").arg("GROUPS").arg(stream);
        let mut answers = self.send_all(&pipeline).await?.into_iter();
        let mut rows = || {
            let rows = answers.next().and_then(items);
            rows.ok_or(StoreError::Protocol("XPENDING"))
        };
        let oldest = rows()?.into_iter().next().and_then(items).and_then(|row| {
            let mut row = row.into_iter().filter_map(string);
            Some((row.next()?, row.next()?))
        });
        let delivered = rows()?.into_iter().filter_map(items).find_map(|row| {
            let mut name = None;
            let mut delivered = None;
            let mut row = row.into_iter();
            while let (Some(field), Some(value)) = (row.next(), row.next()) {
                match text(&field) {
                    Some("name") => name = string(value),
                    Some("last-delivered-id") => delivered = string(value),
                    _ => {}
                }
            }
            delivered.filter(|_| name.as_deref() == Some(GROUP))
        });
        Ok(InboundFront {
            oldest,
            delivered: delivered.unwrap_or_default(),
        })
    }

    /// Returns what was delivered to a replica that leaves and not acted upon, as if it had not been delivered, and
    /// removes the consumer. Answers how many entries there were.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn give_back_inbound(&self, stream: &str, replica: ReplicaId) -> Result<u64, StoreError> {
        let mut args = Args::default();
        args.push(GROUP).push(replica.as_str());
        let (_, mut rest) = worded(
            self.call_with_keys(Function::GiveBack, &[stream], args).await?,
            "give_back",
        )?;
        let count = rest.next().as_ref().and_then(integer);
        Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default())
    }

    /// The consumers of a stream's group.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn inbound_consumers(&self, stream: &str) -> Result<Vec<String>, StoreError> {
        let mut command = redis::cmd("XINFO");
        command.arg("CONSUMERS").arg(stream).arg(GROUP);
        let rows = match self.send(&command).await {
            Ok(value) => items(value).ok_or(StoreError::Protocol("XINFO"))?,
            // No stream or no group yet: no consumers.
            Err(StoreError::Refused(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(rows
            .into_iter()
            .filter_map(|row| items(row)?.into_iter().nth(1).and_then(string))
            .collect())
    }

    /// Takes over up to 100 pending entries of a dead replica, for [`Store::reread_inbound`], and removes the consumer
    /// when it has none left. Answers how many were taken.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn inherit_inbound(&self, stream: &str, replica: ReplicaId, victim: &str) -> Result<usize, StoreError> {
        let mut pending = redis::cmd("XPENDING");
        pending.arg(stream).arg(GROUP).arg("-").arg("+").arg(100).arg(victim);
        let rows = match self.send(&pending).await {
            Ok(value) => items(value).ok_or(StoreError::Protocol("XPENDING"))?,
            Err(error) if is_missing_group(&error) => return Ok(0),
            Err(error) => return Err(error),
        };
        let ids: Vec<String> = rows
            .into_iter()
            .filter_map(|row| items(row)?.into_iter().next().and_then(string))
            .collect();
        if ids.is_empty() {
            self.forget_inbound_consumer(stream, victim).await?;
            return Ok(0);
        }
        let mut claim = redis::cmd("XCLAIM");
        claim
            .arg(stream)
            .arg(GROUP)
            .arg(replica.as_str())
            .arg(0)
            .arg(&ids)
            .arg("JUSTID");
        self.send(&claim).await?;
        Ok(ids.len())
    }

    /// Removes a consumer that has nothing pending; one that has is left alone.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn forget_inbound_consumer(&self, stream: &str, consumer: &str) -> Result<bool, StoreError> {
        let mut args = Args::default();
        args.push(GROUP).push(consumer);
        let (word, _) = worded(self.call_with_keys(Function::Forget, &[stream], args).await?, "forget")?;
        Ok(word == "ok")
    }

    /// Appends one event to an inbound stream; answers its entry id.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. After [`StoreError::Unavailable`] it is unknown whether it was appended; an `event_id` of
    /// the caller's own makes sending again safe.
    pub async fn publish(&self, stream: &str, fields: &[(&str, &str)]) -> Result<String, StoreError> {
        let mut command = redis::cmd("XADD");
        command.arg(stream).arg("*");
        for (name, value) in fields {
            command.arg(*name).arg(*value);
        }
        string(self.send(&command).await?).ok_or(StoreError::Protocol("XADD"))
    }

    /// Appends many events to an inbound stream in one go.
    ///
    /// # Errors
    ///
    /// As for [`Store::publish`].
    pub async fn publish_all(&self, stream: &str, events: &[Vec<(&str, &str)>]) -> Result<(), StoreError> {
        let mut pipeline = redis::pipe();
        for fields in events {
            let command = pipeline.cmd("XADD").arg(stream).arg("*");
            for (name, value) in fields {
                command.arg(*name).arg(*value);
            }
        }
        self.send_all(&pipeline).await.map(drop)
    }

    /// How many entries of an inbound stream are not acted upon yet.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn inbound_length(&self, stream: &str) -> Result<u64, StoreError> {
        let length = self.send(redis::cmd("XLEN").arg(stream)).await?;
        Ok(integer(&length)
            .and_then(|length| u64::try_from(length).ok())
            .unwrap_or_default())
    }
}

impl Store {
    /// How much of an inbound stream is not acted upon, and since when.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn inbound_look(&self, stream: &str) -> Result<InboundLook, StoreError> {
        const WRONG: StoreError = StoreError::Protocol("XRANGE");
        let mut pipeline = redis::pipe();
        pipeline.cmd("XLEN").arg(stream);
        pipeline.cmd("XRANGE").arg(stream).arg("-").arg("+").arg("COUNT").arg(1);
        let mut answers = self.send_all(&pipeline).await?.into_iter();
        let waiting = answers.next().as_ref().and_then(integer).ok_or(WRONG)?;
        let oldest = answers.next().and_then(entries).ok_or(WRONG)?.into_iter().next();
        let pending = match self.send(redis::cmd("XPENDING").arg(stream).arg(GROUP)).await {
            Ok(summary) => items(summary).and_then(|summary| summary.first().and_then(integer)),
            // Nobody has read it yet.
            Err(error) if is_missing_group(&error) => None,
            Err(error) => return Err(error),
        };
        let count = |number: i64| u64::try_from(number).unwrap_or_default();
        Ok(InboundLook {
            waiting: count(waiting),
            pending: pending.map_or(0, count),
            oldest_ms: oldest.map(|entry| entry_numbers(&entry.id).0),
        })
    }
}

/// Waits behind streams, without a group: wakes when any has news.
///
/// # Errors
///
/// Any [`StoreError`]; waiting again is safe.
pub async fn wait_behind(
    reader: &mut Blocking,
    streams: &[(String, String)],
) -> Result<Vec<(String, Vec<Entry>)>, StoreError> {
    let mut command = redis::cmd("XREAD");
    command
        .arg("COUNT")
        .arg(100)
        .arg("BLOCK")
        .arg(reader.wait_ms())
        .arg("STREAMS");
    for (stream, _) in streams {
        command.arg(stream);
    }
    for (_, id) in streams {
        command.arg(id);
    }
    let answer = items(reader.send(&command).await?).ok_or(StoreError::Protocol("XREAD"))?;
    let mut news = Vec::new();
    for stream in answer {
        let mut pair = items(stream).ok_or(StoreError::Protocol("XREAD"))?.into_iter();
        let name = pair.next().as_ref().and_then(text).unwrap_or_default().to_owned();
        let entries = pair.next().and_then(entries).ok_or(StoreError::Protocol("XREAD"))?;
        news.push((name, entries));
    }
    Ok(news)
}
