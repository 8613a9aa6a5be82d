//! What operators do to queues and workers, as typed calls.

use super::connection::Args;
use super::dead_letters::Operator;
use super::library::Function;
use super::reply::{integer, items, string, text, worded};
use super::{Store, StoreError};
use crate::domain::id::{Partition, QueueName, ReplicaId};

/// Limits to be set; `None` leaves one as it is, 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The most tasks that are not terminal.
    pub max_size: Option<u64>,
    /// The most tasks that run.
    pub max_running: Option<u64>,
}

/// How many workers are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// So many more.
    Add(u16),
    /// So many fewer, though never fewer than the minimum.
    Remove(u16),
    /// So many and, from now on, never more.
    Max(u16),
}

/// What a replica was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The replica.
    pub replica: String,
    /// Counts up for each replica.
    pub number: u64,
    /// How many workers it had, or was to have, before.
    pub before: u16,
    /// How many it is to have.
    pub workers: u16,
    /// How many it may have.
    pub max_workers: u16,
}

/// What became of a request for more or fewer workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scaled {
    /// Every replica that was meant is asked.
    Ok(Vec<Wish>),
    /// This replica can not have so many: its workers and the most that it may have. Nobody is asked.
    Full(String, u16, u16),
    /// There is no such replica. Nobody is asked.
    Missing(String),
    /// There is no replica that could be asked.
    Empty,
}

/// What a replica says of its workers.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Whether it takes no more tasks.
    pub is_draining: bool,
    /// How many workers it has.
    pub workers: u16,
    /// The fewest that it may have.
    pub min_workers: u16,
    /// The most that it may have.
    pub max_workers: u16,
    /// Whether it moves between the two by itself.
    pub autoscale: bool,
    /// The number of the last wish that it carried out.
    pub applied: u64,
    /// What each worker did, see [`super::workers::pack`]; empty says nothing of them.
    pub figures: String,
}

/// What a replica learns with a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportReply {
    /// Nothing is asked of it.
    Ok,
    /// It is to have other numbers of workers.
    Wish {
        /// Counts up.
        number: u64,
        /// How many workers.
        workers: u16,
        /// How many it may have.
        max_workers: u16,
    },
    /// Nobody knows it.
    Stranger,
}

impl Store {
    /// Changes limits for all replicas at once, in one partition; `target` is the queue that was named. `false` when they
    /// were set so before.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn set_limits(
        &self,
        partition: Partition,
        operator: &Operator,
        target: Option<&QueueName>,
        limits: Limits,
    ) -> Result<bool, StoreError> {
        let share = |limit: Option<u64>| limit.map_or(String::new(), |limit| self.share_of(limit).to_string());
        let member =
            |name: &str, limit: Option<u64>| limit.map_or(String::new(), |limit| format!(",\"{name}\":{limit}"));
        let [actor, reason] = operator.words();
        let mut args = Args::default();
        args.show(operator.id)
            .push(share(limits.max_size))
            .push(share(limits.max_running))
            .push(actor)
            .push(reason)
            .push(target.map_or("\"*\"".to_owned(), |queue| format!("\"{queue}\"")))
            .push(member("max_size", limits.max_size) + &member("max_running", limits.max_running));
        let (word, _) = worded(self.call(Function::Limits, partition, args).await?, "limits")?;
        Ok(word == "ok")
    }

    /// Hands out nothing more of a queue of one partition, or again; `false` when it was so before.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn set_paused(
        &self,
        partition: Partition,
        operator: &Operator,
        queue: &QueueName,
        is_paused: bool,
    ) -> Result<bool, StoreError> {
        let [actor, reason] = operator.words();
        let mut args = Args::default();
        args.show(operator.id)
            .show(queue)
            .push(if is_paused { "pause" } else { "resume" })
            .push(actor)
            .push(reason);
        let (word, _) = worded(self.call(Function::Pause, partition, args).await?, "pause")?;
        Ok(word == "ok")
    }

    /// Asks replicas for more or fewer workers; all that have any where none is named. The same operator asks once.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again with the same operator is safe.
    pub async fn scale(
        &self,
        operator: &Operator,
        scaling: Scaling,
        replica: Option<&str>,
    ) -> Result<Scaled, StoreError> {
        const NAME: &str = "scale";
        const WRONG: StoreError = StoreError::Protocol(NAME);
        let [actor, reason] = operator.words();
        let (what, count) = match scaling {
            Scaling::Add(count) => ("add", count),
            Scaling::Remove(count) => ("remove", count),
            Scaling::Max(count) => ("max", count),
        };
        let mut args = Args::default();
        args.show(operator.id).push(what).show(count).push(actor).push(reason);
        if let Some(replica) = replica {
            args.push(replica);
        }
        // What is asked of replicas stands in one place, whatever the number of partitions.
        let home = Partition::default();
        let (word, mut rest) = worded(self.call(Function::Scale, home, args).await?, NAME)?;
        let mut name = || rest.next().and_then(string).ok_or(WRONG);
        match word.as_str() {
            "empty" => Ok(Scaled::Empty),
            "missing" => Ok(Scaled::Missing(name()?)),
            "full" => {
                let replica = name()?;
                let mut count = || small(rest.next().as_ref().and_then(integer)).ok_or(WRONG);
                Ok(Scaled::Full(replica, count()?, count()?))
            }
            _ => {
                let rows = rest.next().and_then(items).ok_or(WRONG)?;
                let rows = rows.into_iter().map(|row| items(row).and_then(wish).ok_or(WRONG));
                Ok(Scaled::Ok(rows.collect::<Result<_, _>>()?))
            }
        }
    }

    /// Says what a replica's workers did, and learns how many it should have.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn report(&self, replica: ReplicaId, report: &Report) -> Result<ReportReply, StoreError> {
        const NAME: &str = "report";
        let mut args = Args::default();
        args.show(replica)
            .push(if report.is_draining { "draining" } else { "running" })
            .show(report.workers)
            .show(report.min_workers)
            .show(report.max_workers)
            .flag(report.autoscale)
            .show(report.applied)
            .push(report.figures.as_str());
        let home = Partition::default();
        let (word, mut rest) = worded(self.call(Function::Report, home, args).await?, NAME)?;
        if word == "stranger" {
            return Ok(ReportReply::Stranger);
        }
        let wish = rest.next().and_then(string).ok_or(StoreError::Protocol(NAME))?;
        let mut numbers = wish.split(' ').map(str::parse::<u64>);
        let mut next = || numbers.next().and_then(Result::ok);
        Ok(match (next(), next(), next()) {
            (Some(number), Some(workers), Some(max)) => ReportReply::Wish {
                number,
                workers: u16::try_from(workers).unwrap_or(u16::MAX),
                max_workers: u16::try_from(max).unwrap_or(u16::MAX),
            },
            _ => ReportReply::Ok,
        })
    }
}

fn small(number: Option<i64>) -> Option<u16> {
    u16::try_from(number?).ok()
}

fn wish(row: Vec<redis::Value>) -> Option<Wish> {
    let [replica, number, before, workers, max_workers] = <[_; 5]>::try_from(row).ok()?;
    Some(Wish {
        replica: text(&replica)?.to_owned(),
        number: u64::try_from(integer(&number)?).ok()?,
        before: small(integer(&before))?,
        workers: small(integer(&workers))?,
        max_workers: small(integer(&max_workers))?,
    })
}
