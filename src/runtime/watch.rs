//! Does what somebody must do: queues tasks that are due, takes back what silent replicas held, listens to the bell.
//!
//! Every replica does all of it. Each step is an idempotent function, so two at once do no harm and nobody needs to
//! lead.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::agents;
use super::backoff::Waits;
use super::replica::Run;
use super::work::IDLE_WAIT;
use crate::domain::id::Partition;
use crate::store::StoreError;
use crate::store::functions::Takeover;
use crate::store::inbound::wait_behind;

/// How long a beat must stand still before its owner counts as silent.
const SILENCE: Duration = Duration::from_secs(8);
/// The longest gap between own beats within which others may be judged.
const OWN_GAP_MAX: Duration = Duration::from_secs(3);
/// How often the beats of others are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How many tasks one call takes back.
const TAKEOVER_BATCH: u32 = 200;
/// How many due tasks one call queues.
const PROMOTE_BATCH: u32 = 500;
/// The longest time between looks at the timers; the replica that set one looks when it is due.
const PROMOTE_INTERVAL: Duration = Duration::from_secs(1);

/// When the replica's own beats got through.
#[derive(Default)]
pub(crate) struct OwnBeats {
    /// Since when without a gap, and the last.
    span: Mutex<Option<(Instant, Instant)>>,
}

impl OwnBeats {
    /// Notes a beat that got through.
    pub(super) fn note(&self, at: Instant) {
        let mut span = self.span.lock().unwrap_or_else(PoisonError::into_inner);
        *span = Some(match *span {
            Some((since, last)) if at.duration_since(last) <= OWN_GAP_MAX => (since, at),
            _ => (at, at),
        });
    }

    /// Since when beats get through without a gap, or `None` when they do not right now.
    fn steady_since(&self, now: Instant) -> Option<Instant> {
        let span = self.span.lock().unwrap_or_else(PoisonError::into_inner);
        span.filter(|(_, last)| now.duration_since(*last) <= OWN_GAP_MAX)
            .map(|(since, _)| since)
    }
}

/// Who was seen with which beat since when.
#[derive(Default)]
struct Sightings {
    seen: BTreeMap<String, (String, Instant)>,
}

impl Sightings {
    /// Takes in a look at all beats; answers whose stood still for too long, with the beat of each.
    fn look(
        &mut self,
        beats: BTreeMap<String, String>,
        steady_since: Option<Instant>,
        now: Instant,
    ) -> Vec<(String, String)> {
        let mut seen = BTreeMap::new();
        for (replica, beat) in beats {
            let since = match self.seen.remove(&replica) {
                Some((known, since)) if known == beat => since,
                _ => now,
            };
            seen.insert(replica, (beat, since));
        }
        self.seen = seen;
        let Some(steady_since) = steady_since else {
            return Vec::new();
        };
        self.seen
            .iter()
            .filter(|(_, (_, since))| now.duration_since((*since).max(steady_since)) >= SILENCE)
            .map(|(replica, (beat, _))| (replica.clone(), beat.clone()))
            .collect()
    }
}

/// Takes back what silent replicas held.
pub(super) async fn watch_others(run: Arc<Run>, partition: Partition) {
    let mut sightings = Sightings::default();
    loop {
        tokio::select! {
            () = run.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        if let Err(error) = look_once(&run, partition, &mut sightings).await {
            run.report(&error, "can not watch the other replicas");
        }
    }
}

async fn look_once(run: &Arc<Run>, partition: Partition, sightings: &mut Sightings) -> Result<(), StoreError> {
    let mut beats = run.store.beats(partition).await?;
    let streams = [run.store.keys().triggers(), run.store.keys().commands()];
    // Whoever reads without a beat counts as silent: its entries must not wait for ever.
    for stream in &streams {
        for consumer in run.store.inbound_consumers(stream).await? {
            beats.entry(consumer).or_default();
        }
    }
    beats.remove(run.replica.as_str());
    let now = Instant::now();
    let mut outcome = Ok(());
    for (victim, beat) in sightings.look(beats, run.beats.steady_since(now), now) {
        match take_over(run, partition, &streams, &victim, &beat).await {
            Ok(Some(tasks)) => {
                run.meters.taken_back(tasks);
                warn!(replica = victim, tasks, "took over from a silent replica");
            }
            Ok(None) => {}
            // What can not be mended about one must not keep the tasks of the others.
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    outcome
}

/// Takes back all that a silent replica held; answers how many tasks, or `None` when it came back or is not done with.
async fn take_over(
    run: &Arc<Run>,
    partition: Partition,
    streams: &[String; 2],
    victim: &str,
    beat: &str,
) -> Result<Option<u64>, StoreError> {
    let mut taken = 0;
    loop {
        match run
            .store
            .takeover(partition, run.replica, victim, beat, TAKEOVER_BATCH)
            .await?
        {
            Takeover::Alive => return Ok(None),
            Takeover::Ok(moved, is_done) => {
                taken += moved;
                if is_done {
                    inherit(run, streams, victim).await?;
                    return Ok(Some(taken));
                }
                if moved == 0 {
                    return Ok(None);
                }
            }
        }
    }
}

/// Takes over what a dead replica had read of the inbound streams and not acted upon.
async fn inherit(run: &Arc<Run>, streams: &[String; 2], victim: &str) -> Result<(), StoreError> {
    for (stream, reread) in streams.iter().zip(&run.reread) {
        let mut inherited = 0;
        loop {
            let taken = run.store.inherit_inbound(stream, run.replica, victim).await?;
            inherited += taken;
            if taken == 0 {
                break;
            }
        }
        if inherited > 0 {
            info!(
                replica = victim,
                stream,
                entries = inherited,
                "inherited unfinished inbound events"
            );
            reread.store(true, Ordering::Release);
        }
    }
    Ok(())
}

/// Queues delayed tasks when their time has come.
pub(super) async fn promote_due(run: Arc<Run>, partition: Partition) {
    let mut waits = Waits::new();
    loop {
        let pause = match run.store.promote(partition, run.replica, PROMOTE_BATCH).await {
            Ok(promoted) => {
                waits.reset();
                agents::expire(&run, partition, &promoted.expired).await;
                run.meters.taken_back(promoted.lost);
                if promoted.count == u64::from(PROMOTE_BATCH) {
                    continue;
                }
                promoted
                    .next_ms
                    .map_or(PROMOTE_INTERVAL, Duration::from_millis)
                    .min(PROMOTE_INTERVAL)
            }
            Err(error) => {
                run.report(&error, "can not queue what is due");
                waits.next()
            }
        };
        tokio::select! {
            () = run.stop.cancelled() => return,
            () = run.timers.heard(partition) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Passes on what rings: an attempt to abort, room to claim again, a queue to look at.
pub(super) async fn listen(run: Arc<Run>, partition: Partition) {
    let mut reader = run.store.blocking(IDLE_WAIT);
    let mut waits = Waits::new();
    let bell = run.store.keys().bell(partition);
    // From now on; what rang before is found by the first beat and the first claim.
    let mut last = "$".to_owned();
    loop {
        let behind = [(bell.clone(), last.clone())];
        let news = tokio::select! {
            () = run.left.cancelled() => return,
            news = wait_behind(&mut reader, &behind) => news,
        };
        match news {
            Ok(news) => {
                waits.reset();
                for entry in news.into_iter().flat_map(|(_, entries)| entries) {
                    let field = |name: &[u8]| {
                        let value = entry.fields.iter().find(|(field, _)| field == name);
                        value.and_then(|(_, value)| std::str::from_utf8(value).ok())
                    };
                    let task = || field(b"about").and_then(|id| id.parse().ok());
                    match field(b"what") {
                        Some("cancel") => task().into_iter().for_each(|task| run.holdings.abort(task)),
                        Some("abort") => task().into_iter().for_each(|task| run.holdings.give_up(task)),
                        Some("work") => run.timers.ring(partition),
                        Some("scale") if field(b"about") == Some(run.replica.as_str()) => run.scaling.notify_one(),
                        _ => {
                            run.bell.ring(partition);
                            run.room.notify_one();
                            run.circuits.ring();
                        }
                    }
                    last.clone_from(&entry.id);
                }
            }
            Err(error) => {
                run.report(&error, "can not hear the bell");
                if !waits.pause(&run.left).await {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beats(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(replica, beat)| ((*replica).to_owned(), (*beat).to_owned()))
            .collect()
    }

    #[test]
    fn only_a_beat_that_stood_still_while_ones_own_got_through_counts_as_silent() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut sightings = Sightings::default();

        assert!(
            sightings
                .look(beats(&[("a", "1"), ("b", "1")]), Some(start), start)
                .is_empty()
        );
        assert!(
            sightings
                .look(beats(&[("a", "1"), ("b", "2")]), Some(start), at(7))
                .is_empty()
        );
        assert_eq!(
            sightings.look(beats(&[("a", "1"), ("b", "2")]), Some(start), at(8)),
            [("a".to_owned(), "1".to_owned())]
        );
        assert!(sightings.look(beats(&[("a", "1")]), None, at(60)).is_empty());
        assert!(sightings.look(beats(&[("a", "1")]), Some(at(59)), at(60)).is_empty());
    }

    #[test]
    fn a_gap_in_the_own_beats_starts_the_patience_anew() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let own = OwnBeats::default();

        assert_eq!(own.steady_since(start), None);
        own.note(start);
        own.note(at(2));
        assert_eq!(own.steady_since(at(3)), Some(start));
        assert_eq!(own.steady_since(at(6)), None);
        own.note(at(6));
        assert_eq!(own.steady_since(at(6)), Some(at(6)));
    }
}
