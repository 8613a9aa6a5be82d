//! What is to be broken: one Redis, three replicas, an agent, and a network between them.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::agent::{SILENCE, Working};
use super::journal::Journal;
use super::support::clock::Clock;
use super::support::oracle::AGENT;
use super::support::proxy::Proxy;
use super::support::redis::TestRedis;
use super::support::replica::{ReplicaProcess, Settings};
use super::support::resp::{message_length, words};

/// How often the length of the append-only file is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// What Redis may lose with the power: `appendfsync everysec`.
const FSYNC: Duration = Duration::from_secs(1);

/// The name of the tasks that an agent carries out.
pub(crate) const HANDMADE: &str = "handmade";

/// One replica and its way to Redis.
pub(crate) struct Place {
    pub(crate) proxy: Proxy,
    settings: Settings,
    pub(crate) process: Option<ReplicaProcess>,
    /// Until when it stands still.
    pub(crate) stopped_until: Option<Instant>,
    /// When a new one is to come.
    pub(crate) comes_at: Option<Instant>,
}

/// Everything that one seed runs.
pub(crate) struct Rig {
    pub(crate) redis: Arc<TestRedis>,
    pub(crate) clock: Option<Clock>,
    pub(crate) places: Vec<Place>,
    /// Replicas that were asked to stop and may still be at it.
    pub(crate) leaving: Vec<ReplicaProcess>,
    /// The agent's way to Redis, and the agent.
    pub(crate) way: Proxy,
    pub(crate) working: Working,
    pub(crate) journal: Arc<Journal>,
    /// The names of replicas that may have lost work, since something was done to them.
    harmed: BTreeSet<String>,
    /// What replicas logged that are no more.
    logs: Vec<String>,
    lengths: Arc<Mutex<VecDeque<(Instant, u64)>>>,
    /// When Redis may have lost its last moments.
    pub(crate) cuts: Vec<Instant>,
    /// From when to when Redis was frozen, in which it flushed nothing.
    pub(crate) stood_still: Vec<(Instant, Instant)>,
}

impl Rig {
    /// Starts it all and waits until every replica is ready.
    pub(crate) async fn start(seed: u64, journal: Arc<Journal>) -> Self {
        let clock = Clock::new();
        let mut redis = TestRedis::not_started(true).with_options(&[
            "--enable-debug-command",
            "yes",
            // Rewriting would begin a new file; what is cut must be the one that grows.
            "--auto-aof-rewrite-percentage",
            "0",
        ]);
        if let Some(clock) = &clock {
            redis = redis.with_environment(clock.environment());
        }
        let redis = Arc::new(redis);
        redis.start_again().await;
        let mut places = Vec::new();
        let for_agent = format!(
            "[handlers.{HANDMADE}]\nkind = \"agent\"\nagent_id = \"{AGENT}\"\nheartbeat_timeout_seconds = {}\n",
            SILENCE.as_secs()
        );
        for number in 0..3 {
            let proxy = Proxy::start(redis.port()).await;
            let mut settings = proxy
                .replica()
                .workers(6)
                .quiet()
                .set("WAOOAW_SHUTDOWN__GRACE", "3s")
                .set("WAOOAW_QUEUE__REFERENCE_WAIT", "2s")
                .set("TASK_QUEUE_MAX_SIZE", "300")
                .config(&for_agent);
            if number == 2 {
                // One that lacks some of the handlers.
                let names = ["echo", "sleep", "flaky", "fail"];
                let config = names
                    .map(|name| format!("[handlers.{name}]\nkind = \"builtin\"\n"))
                    .concat();
                settings = settings.without_builtin().config(&(config + &for_agent));
            }
            places.push(Place {
                proxy,
                process: Some(settings.spawn()),
                settings,
                stopped_until: None,
                comes_at: None,
            });
        }
        for place in &places {
            place.process.as_ref().expect("it was just started").until_ready().await;
        }
        let way = Proxy::start(redis.port()).await;
        let working = Working::start(&way.url(), seed, &journal);
        let rig = Self {
            redis,
            clock,
            places,
            leaving: Vec::new(),
            way,
            working,
            journal,
            harmed: BTreeSet::new(),
            logs: Vec::new(),
            lengths: Arc::default(),
            cuts: Vec::new(),
            stood_still: Vec::new(),
        };
        rig.watch_file();
        rig
    }

    /// Looks all the time how long the append-only file is, for the moment when the power goes.
    fn watch_file(&self) {
        let lengths = Arc::clone(&self.lengths);
        let path = self.redis.append_only_file().expect("it is durable");
        tokio::spawn(async move {
            loop {
                let length = std::fs::metadata(&path).map_or(0, |file| file.len());
                {
                    let mut lengths = lengths.lock().unwrap();
                    let now = Instant::now();
                    lengths.push_back((now, length));
                    while lengths.front().is_some_and(|(at, _)| now.duration_since(*at) > FSYNC) {
                        lengths.pop_front();
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        });
    }

    /// Kills Redis. While its disk is slow to take the flush before, Redis answers first and writes later, so that the
    /// death of the process alone can cost the last moments, too.
    pub(crate) async fn kill_redis(&mut self) {
        self.cuts.push(Instant::now());
        // What somebody let go of in these moments may come back to him.
        let left: Vec<String> = self.leaving.iter().flat_map(|process| names(&process.log())).collect();
        self.harmed.extend(left);
        self.redis.kill().await;
    }

    /// Kills Redis and cuts its file: `share` of 1000 parts of what came in the last second are lost. A flush to the disk
    /// once a second allows any share. Answers how many bytes were lost.
    pub(crate) async fn lose_power(&mut self, share: u64) -> u64 {
        let path = self.redis.append_only_file().expect("it is durable");
        let durable = self.lengths.lock().unwrap().front().map_or(0, |(_, length)| *length);
        self.kill_redis().await;
        let content = std::fs::read(&path).unwrap();
        let length = content.len() as u64;
        let kept = length - length.saturating_sub(durable) * share / 1000;
        let kept = whole_transactions(&content[..usize::try_from(kept).unwrap()]) as u64;
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(kept).unwrap();
        // What was seen of the longer file says nothing about this one.
        self.lengths.lock().unwrap().clear();
        length - kept
    }

    /// Starts a replica in a place that has none.
    pub(crate) fn start_replica(&mut self, number: usize) {
        let place = &mut self.places[number];
        place.comes_at = None;
        if place.process.is_none() {
            place.process = Some(place.settings.spawn());
            self.journal.say(&format!("replica {number} starts"));
        }
    }

    /// Kills the replica of a place; a new one comes after a while.
    pub(crate) fn kill_replica(&mut self, number: usize, absence: Duration) -> bool {
        self.harm(number);
        let place = &mut self.places[number];
        place.stopped_until = None;
        place.comes_at = Some(Instant::now() + absence);
        let Some(mut process) = place.process.take() else {
            return false;
        };
        process.kill();
        self.logs.push(process.log());
        true
    }

    /// Asks the replica of a place to stop, with a new one in its place at once.
    pub(crate) fn roll_replica(&mut self, number: usize) -> bool {
        // One that stands still would hear of it much later.
        if self.places[number].stopped_until.is_some() {
            return false;
        }
        let Some(process) = self.places[number].process.take() else {
            return false;
        };
        process.signal("TERM");
        self.leaving.push(process);
        self.start_replica(number);
        true
    }

    /// From now on the replica of a place may lose work without being wrong.
    pub(crate) fn harm(&mut self, number: usize) {
        if let Some(process) = &self.places[number].process {
            self.harmed.extend(names(&process.log()));
        }
    }

    /// What is due: stopped replicas go on, killed ones come back.
    pub(crate) fn mend_what_is_due(&mut self) {
        let now = Instant::now();
        for number in 0..self.places.len() {
            let place = &mut self.places[number];
            if place.stopped_until.is_some_and(|until| until <= now) {
                place.stopped_until = None;
                if let Some(process) = &place.process {
                    process.signal("CONT");
                    self.journal.say(&format!("replica {number} goes on"));
                }
            }
            if self.places[number].comes_at.is_some_and(|at| at <= now) {
                self.start_replica(number);
            }
        }
    }

    /// Whether something is still to be mended.
    pub(crate) fn is_waiting(&self) -> bool {
        let waits = |place: &Place| place.stopped_until.is_some() || place.comes_at.is_some();
        self.places.iter().any(waits)
    }

    /// The replicas that may have lost work: those that something was done to, and those that left in a hurry.
    pub(crate) fn may_have_lost(&self) -> BTreeSet<String> {
        let mut names = self.harmed.clone();
        for process in &self.leaving {
            let log = process.log();
            if log.contains("left with tasks in hand") || log.contains("can not say goodbye") {
                names.extend(self::names(&log));
            }
        }
        names
    }

    /// The names of those that live.
    pub(crate) fn living(&self) -> BTreeSet<String> {
        let processes = self.places.iter().filter_map(|place| place.process.as_ref());
        processes.filter_map(|process| names(&process.log()).pop()).collect()
    }

    /// Keeps everything that tells what happened in a folder.
    pub(crate) fn keep(&self, folder: &Path) {
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap_or_default();
        write("redis.log", &self.redis.server_log());
        let processes = self.places.iter().filter_map(|place| place.process.as_ref());
        let living = processes.chain(&self.leaving).map(ReplicaProcess::log);
        for (number, log) in self.logs.iter().cloned().chain(living).enumerate() {
            write(&format!("replica-{number}.log"), &log);
        }
        if let Some(file) = self.redis.append_only_file() {
            std::fs::copy(file, folder.join("appendonly.incr.aof"))
                .map(drop)
                .unwrap_or_default();
        }
    }
}

/// How much of an append-only file ends with a whole transaction.
///
/// Redis drops a torn one by itself when it reads the file. But 7.0 cuts the file behind the last whole command, so that
/// the beginning of the transaction stays in it, and the next reading joins that to what was appended since: state and
/// log part. What is tested here is our part, so the file is cut as `redis-check-aof --fix` does it.
fn whole_transactions(content: &[u8]) -> usize {
    let (mut at, mut whole, mut is_open) = (0, 0, false);
    while let Some(length) = message_length(&content[at..]) {
        let words = words(&content[at..at + length]);
        at += length;
        match words.first() {
            Some(&b"MULTI") => is_open = true,
            Some(&b"EXEC") => is_open = false,
            _ => {}
        }
        if !is_open {
            whole = at;
        }
    }
    whole
}

/// The names under which a replica ran, by its log.
fn names(log: &str) -> Vec<String> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["message"] == "joined")
        .filter_map(|line| line["replica"].as_str().map(str::to_owned))
        .collect()
}
