//! Where the tour takes place: a Redis, replicas, and the log as far as it was read.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::screen::Screen;
use super::seen::Seen;
use crate::cli::exit::Failure;
use crate::cli::fleet::{FleetOptions, ReplicaProcess};
use crate::cli::redis_server::{Persistence, RedisServer};
use crate::domain::event::EventType;
use crate::domain::id::Partition;
use crate::domain::inbound::is_command;
use crate::store::{Blocking, Endpoint, Store};

/// Who publishes the triggers.
pub(super) const AGENT: &str = "tour";
/// How many tasks each replica runs at once: few, so that tasks have to wait.
pub(super) const WORKERS: u16 = 4;
/// How often the moving line moves while nothing happens.
const TICK: Duration = Duration::from_millis(100);
/// What must have happened within this time will not happen any more.
const PATIENCE: Duration = Duration::from_secs(20);

/// A replica of the tour.
pub(super) struct Member {
    /// Its name in the log.
    pub(super) id: String,
    /// Its process, as long as it lives.
    process: Option<ReplicaProcess>,
}

/// The stage.
pub(super) struct Stage {
    /// For everything but reading the log.
    pub(super) store: Store,
    pub(super) screen: Screen,
    redis: RedisServer,
    fleet: FleetOptions,
    members: Vec<Member>,
    reader: Blocking,
    last_entry: String,
    log: Vec<Seen>,
    began: Instant,
    began_ms: Option<i64>,
}

impl Stage {
    /// Starts Redis.
    pub(super) async fn open(screen: Screen, folder: &Path, show_logs: bool) -> Result<Self, Failure> {
        let redis = RedisServer::start(folder, Persistence::EverySecond).await?;
        let store = Store::new(Endpoint::new(&redis.url()))?;
        // What the tour relies on must not depend on the configuration that lies about.
        let settings = [
            ("WAOOAW_REDIS__PREFIX", "waooaw"),
            ("WAOOAW_REDIS__PARTITIONS", "1"),
            ("WAOOAW_QUEUE__MAX_SIZE", "1000"),
            ("WAOOAW_QUEUE__MAX_RUNNING", "0"),
            ("WAOOAW_QUEUE__MAX_WAIT", "60s"),
            ("WAOOAW_RETRY__DEFAULT", "STANDARD"),
            ("WAOOAW_SHUTDOWN__GRACE", "5s"),
        ];
        let fleet = FleetOptions {
            redis_url: redis.url(),
            workers: WORKERS,
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            first_port: None,
            show_logs,
        };
        Ok(Self {
            reader: store.blocking(TICK),
            store,
            screen,
            redis,
            fleet,
            members: Vec::new(),
            last_entry: "0-0".to_owned(),
            log: Vec::new(),
            began: Instant::now(),
            began_ms: None,
        })
    }

    /// Starts the two replicas that the tour begins with.
    pub(super) async fn open_replicas(&mut self) -> Result<(), Failure> {
        self.screen.say(&format!(
            "  Redis      port {}, process {}, append-only file synced every second",
            self.redis.port(),
            self.redis.process_id().unwrap_or_default()
        ))?;
        for _ in 0..2 {
            let number = self.add_replica().await?;
            let member = &self.members[number - 1];
            self.screen.say(&format!(
                "  replica {number}  process {}, {WORKERS} workers, in the log as {}",
                self.process_id(number),
                member.id
            ))?;
        }
        Ok(())
    }

    /// Starts a replica and waits until it has joined; answers its number, from 1.
    pub(super) async fn add_replica(&mut self) -> Result<usize, Failure> {
        let number = self.members.len() + 1;
        self.screen.status(&format!("starting replica {number}"));
        let mark = self.mark();
        let process = ReplicaProcess::start(&self.fleet, u16::try_from(number).unwrap_or(u16::MAX))?;
        self.members.push(Member {
            id: String::new(),
            process: Some(process),
        });
        let joined = |event: &&Seen| event.kind == Some(EventType::WorkerPoolStatus) && event.text("state") == "joined";
        let is_here = self
            .watch(
                mark,
                &[],
                |_| String::new(),
                |seen| seen.iter().any(|event| joined(&event)),
            )
            .await?;
        let id = self.log[mark..].iter().find(joined).map(|event| event.subject.clone());
        match id.filter(|_| is_here) {
            Some(id) => {
                self.members[number - 1].id = id;
                Ok(number)
            }
            None => Err(Failure::failed(&format!(
                "replica {number} did not join within {} s; `waooaw demo -v` shows its log",
                PATIENCE.as_secs()
            ))),
        }
    }

    /// The replica's process id.
    pub(super) fn process_id(&self, number: usize) -> u32 {
        let process = self.members[number - 1].process.as_ref();
        process.and_then(ReplicaProcess::process_id).unwrap_or_default()
    }

    /// The replica's name in the log.
    pub(super) fn replica_id(&self, number: usize) -> &str {
        &self.members[number - 1].id
    }

    /// Ends a replica with SIGKILL.
    pub(super) async fn kill_replica(&mut self, number: usize) {
        if let Some(mut process) = self.members[number - 1].process.take() {
            process.kill().await;
        }
    }

    /// Lets the replicas drain and leave.
    pub(super) async fn close_replicas(&mut self) -> Result<(), Failure> {
        let mark = self.mark();
        let processes: Vec<_> = self
            .members
            .iter_mut()
            .filter_map(|member| member.process.take())
            .collect();
        let leaving = processes.len();
        futures_util::future::join_all(processes.into_iter().map(ReplicaProcess::stop)).await;
        let left = |seen: &[Seen]| seen.iter().filter(|event| event.text("state") == "left").count();
        self.watch(
            mark,
            &[EventType::WorkerPoolStatus],
            |_| String::new(),
            |seen| left(seen) == leaving,
        )
        .await?;
        Ok(())
    }

    /// Ends everything at once.
    pub(super) async fn tear_down(mut self) {
        for member in &mut self.members {
            if let Some(mut process) = member.process.take() {
                process.kill().await;
            }
        }
        self.redis.stop().await;
    }

    /// Publishes an event under an id of the tour's own.
    pub(super) async fn publish(&self, event_type: &str, event_id: &str, payload: &Value) -> Result<(), Failure> {
        self.publish_text(event_type, event_id, &payload.to_string()).await
    }

    /// Publishes an event whose payload may be anything.
    pub(super) async fn publish_text(&self, event_type: &str, event_id: &str, payload: &str) -> Result<(), Failure> {
        let keys = self.store.keys();
        let stream = if is_command(event_type) {
            keys.commands()
        } else {
            keys.triggers()
        };
        self.store
            .publish(&stream, &fields(event_type, event_id, payload))
            .await?;
        Ok(())
    }

    /// Publishes the very same trigger many times in one go.
    pub(super) async fn publish_again_and_again(
        &self,
        times: usize,
        event_type: &str,
        event_id: &str,
        payload: &Value,
    ) -> Result<(), Failure> {
        let payload = payload.to_string();
        let copies = vec![fields(event_type, event_id, &payload).to_vec(); times];
        self.store.publish_all(&self.store.keys().triggers(), &copies).await?;
        Ok(())
    }

    /// Where the log is now; what is read later stands behind it.
    pub(super) fn mark(&self) -> usize {
        self.log.len()
    }

    /// What was read since.
    pub(super) fn since(&self, mark: usize) -> &[Seen] {
        &self.log[mark..]
    }

    /// Seconds since the tour began.
    pub(super) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// When something was, by the clock of Redis.
    #[allow(clippy::cast_precision_loss, reason = "a tour lasts less than 2^53 ms")]
    pub(super) fn seconds_at(&self, at_ms: i64) -> f64 {
        (at_ms - self.began_ms.unwrap_or(at_ms)) as f64 / 1000.0
    }

    /// Reads on and shows what comes, until `is_over`; `false` when that did not come to be. Events of the given kinds
    /// become lines; `status` is the line that moves.
    pub(super) async fn watch(
        &mut self,
        mark: usize,
        kinds: &[EventType],
        status: impl Fn(&[Seen]) -> String,
        is_over: impl Fn(&[Seen]) -> bool,
    ) -> Result<bool, Failure> {
        let patience = Instant::now();
        loop {
            if is_over(&self.log[mark..]) {
                return Ok(true);
            }
            if patience.elapsed() > PATIENCE {
                return Ok(false);
            }
            self.screen.status(&status(&self.log[mark..]));
            self.read_on(kinds).await?;
        }
    }

    /// Reads what comes within a tick.
    pub(super) async fn read_on(&mut self, kinds: &[EventType]) -> Result<(), Failure> {
        let partition = Partition::default();
        let (last, events) = self
            .store
            .follow_events(&mut self.reader, partition, &self.last_entry)
            .await?;
        self.last_entry = last;
        let new = self.log.len();
        self.log.extend(events.iter().map(Seen::new));
        if self.began_ms.is_none()
            && let Some(first) = self.log.first()
        {
            self.began = Instant::now();
            self.began_ms = Some(first.at_ms);
        }
        self.tell(new, kinds)
    }

    /// One line for neighbours of which there is the same to say.
    fn tell(&self, from: usize, kinds: &[EventType]) -> Result<(), Failure> {
        let mut group: Option<(i64, &'static str, String, Vec<&str>)> = None;
        let show = |(at_ms, what, detail, whom): (i64, &'static str, String, Vec<&str>)| {
            self.screen
                .happened(self.seconds_at(at_ms), what, &whom.join(" "), &detail)
        };
        for event in &self.log[from..] {
            let Some(kind) = event.kind.filter(|kind| kinds.contains(kind)) else {
                continue;
            };
            let (what, detail) = self.describe(kind, event);
            match &mut group {
                Some((_, known, same, whom)) if *known == what && *same == detail => whom.push(event.label()),
                _ => {
                    if let Some(group) = group.replace((event.at_ms, what, detail, vec![event.label()])) {
                        show(group)?;
                    }
                }
            }
        }
        group.map_or(Ok(()), show)
    }

    /// What happened in a word, and what there is to say about it.
    fn describe(&self, kind: EventType, event: &Seen) -> (&'static str, String) {
        let place = |id: &str| {
            let place = self.members.iter().position(|member| member.id == id);
            place.map_or_else(|| id.to_owned(), |place| format!("replica {}", place + 1))
        };
        let attempt = || match event.attempt() {
            1 => String::new(),
            attempt => format!(", attempt {attempt}"),
        };
        match kind {
            EventType::TaskCreated => ("created", String::new()),
            EventType::TaskStarted => ("started", format!("on {}{}", place(event.replica()), attempt())),
            EventType::TaskRetryScheduled => {
                let (code, message) = event.error();
                let delay = event.payload["delay_seconds"].as_f64().unwrap_or_default();
                let next = if delay > 0.0 {
                    format!("again in {delay:.1} s")
                } else {
                    "queued again at once".to_owned()
                };
                if code == "lost" {
                    ("lost", format!("its replica is gone; {next}"))
                } else {
                    ("failed", format!("{message}; {next}"))
                }
            }
            EventType::TaskReleased => ("released", format!("by {}", place(event.replica()))),
            EventType::TaskCompleted => {
                let result = match event.result.as_str() {
                    "" => String::new(),
                    result => format!(", result {result}"),
                };
                (
                    "completed",
                    format!("on {}{}{result}", place(event.replica()), attempt()),
                )
            }
            EventType::TaskFailed | EventType::TaskTimeout => ("failed", event.error().1.to_owned()),
            EventType::TaskDeadLettered => ("kept", "as a dead letter".to_owned()),
            EventType::TaskCancelled => ("cancelled", String::new()),
            EventType::TaskRequeued => ("requeued", String::new()),
            EventType::TriggerRejected | EventType::CommandRefused => {
                let errors = event.payload["errors"].as_array().into_iter().flatten();
                let errors: Vec<String> = errors.map(said).collect();
                ("rejected", format!("{}: {}", event.text("reason"), errors.join("; ")))
            }
            EventType::WorkflowStarted
            | EventType::WorkflowCompleted
            | EventType::WorkflowFailed
            | EventType::WorkflowCancelled => ("workflow", last_word(kind)),
            EventType::SagaStarted
            | EventType::SagaStepStarted
            | EventType::SagaStepCompleted
            | EventType::SagaStepFailed
            | EventType::SagaCompensating
            | EventType::SagaStepCompensated
            | EventType::SagaStepCompensationFailed
            | EventType::SagaStepLateSuccess
            | EventType::SagaCompleted
            | EventType::SagaCompensated
            | EventType::SagaFailed
            | EventType::SagaResumed => ("saga", format!("{} {}", last_word(kind), event.text("step"))),
            EventType::WorkerPoolStatus => ("replicas", format!("{} {}", place(&event.subject), event.text("state"))),
            EventType::OperatorAction | EventType::HistoryRolledBack | EventType::MetricsSnapshot => {
                ("noted", String::new())
            }
        }
    }
}

/// What happened, as the type's name ends: `step_failed` becomes "step failed".
fn last_word(kind: EventType) -> String {
    let (_, word) = kind.as_str().rsplit_once('.').unwrap_or_default();
    word.replace('_', " ")
}

/// One error of a refusal in words.
fn said(error: &Value) -> String {
    let part = |name: &str| error[name].as_str().unwrap_or_default();
    match (part("field"), part("message")) {
        ("", message) => message.to_owned(),
        (field, message) => format!("{field} {message}"),
    }
}

fn fields<'a>(event_type: &'a str, event_id: &'a str, payload: &'a str) -> [(&'static str, &'a str); 4] {
    [
        ("event_type", event_type),
        ("source_agent", AGENT),
        ("event_id", event_id),
        ("payload", payload),
    ]
}
