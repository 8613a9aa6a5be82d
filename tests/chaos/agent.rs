//! An agent that carries out tasks while things break: it reads its inbox and answers on the bus, as `docs/agents.md` says.
//!
//! What it does with an attempt stands in the task's script. Beside that it is careful: what it says it says again under the
//! same event id until Redis has taken it, and after each broken connection it looks for what it was given and did not hear of.
//! Now and then it dies, and begins anew with what is in its inbox.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::RedisResult;
use redis::streams::{StreamId, StreamReadReply};
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinHandle};

use super::chance::Chance;
use super::journal::Journal;
use super::support::oracle::AGENT;
use super::support::redis::Line;
use super::support::script::{Act, Script};

/// How long it may be silent.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);
/// Its inbox.
pub(crate) const INBOX: &str = "waooaw:{0}:agent:bot";
/// How long it waits for an answer of Redis.
const PATIENCE: Duration = Duration::from_secs(1);

/// An attempt of a task.
pub(crate) type Attempt = (String, u64);

/// The agent, over all its lives.
pub(crate) struct Agent {
    reading: Line,
    speaking: Line,
    journal: Arc<Journal>,
    /// Whether it dies no more.
    is_calm: AtomicBool,
    /// What it is at.
    work: Mutex<HashMap<Attempt, (Act, AbortHandle)>>,
    /// By which events it reported the end of each attempt.
    pub(crate) reported: Mutex<BTreeMap<Attempt, BTreeSet<String>>>,
    /// How often it was told to stop, and how often it died.
    pub(crate) seen: Mutex<BTreeMap<&'static str, u64>>,
}

/// The agent at work; it ends with its owner.
pub(crate) struct Working {
    pub(crate) agent: Arc<Agent>,
    reader: JoinHandle<()>,
}

impl Working {
    /// Starts it on this way to Redis.
    pub(crate) fn start(url: &str, seed: u64, journal: &Arc<Journal>) -> Self {
        let agent = Arc::new(Agent {
            reading: Line::new(url, PATIENCE),
            speaking: Line::new(url, PATIENCE),
            journal: Arc::clone(journal),
            is_calm: AtomicBool::new(false),
            work: Mutex::default(),
            reported: Mutex::default(),
            seen: Mutex::default(),
        });
        let reader = tokio::spawn(Arc::clone(&agent).run(seed));
        Self { agent, reader }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.reader.abort();
        self.agent.forget_everything();
    }
}

impl Agent {
    /// From now on it lives.
    pub(crate) fn calm_down(&self) {
        self.is_calm.store(true, Ordering::Release);
    }

    /// Whether it is at no task.
    pub(crate) fn is_idle(&self) -> bool {
        self.work.lock().unwrap().is_empty()
    }

    fn count(&self, what: &'static str) {
        *self.seen.lock().unwrap().entry(what).or_default() += 1;
    }

    fn forget_everything(&self) {
        for (_, (_, work)) in self.work.lock().unwrap().drain() {
            work.abort();
        }
    }

    async fn run(self: Arc<Self>, seed: u64) {
        let mut chance = Chance::new(seed, 4);
        let mut told = String::new();
        loop {
            if let Err(error) = self.read(&mut chance).await {
                let error = format!("the agent can not read: {error}");
                if error != told {
                    self.journal.say(&error);
                    told = error;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            } else {
                self.forget_everything();
                self.count("agent died");
                self.journal.say("the agent dies");
            }
        }
    }

    /// Reads the inbox until the connection breaks, or the agent dies.
    async fn read(self: &Arc<Self>, chance: &mut Chance) -> RedisResult<()> {
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(INBOX).arg(AGENT).arg("0").arg("MKSTREAM");
        match self.reading.send::<String>(&create).await {
            Err(error) if error.code() != Some("BUSYGROUP") => return Err(error),
            _ => {}
        }
        // What it was given before comes first.
        let mut after = "0".to_owned();
        while self.is_calm.load(Ordering::Acquire) || !chance.once_in(80) {
            let mut read = redis::cmd("XREADGROUP");
            read.arg("GROUP").arg(AGENT).arg("one").arg("COUNT").arg(20);
            read.arg("BLOCK").arg(200).arg("STREAMS").arg(INBOX).arg(&after);
            let reply: Option<StreamReadReply> = self.reading.send(&read).await?;
            let letters: Vec<StreamId> = reply
                .into_iter()
                .flat_map(|reply| reply.keys)
                .flat_map(|stream| stream.ids)
                .collect();
            if after != ">" {
                after = letters.last().map_or_else(|| ">".to_owned(), |last| last.id.clone());
            }
            for letter in letters {
                self.open(&letter).await?;
            }
        }
        Ok(())
    }

    async fn open(self: &Arc<Self>, letter: &StreamId) -> RedisResult<()> {
        // What was deleted meanwhile comes as a name without contents.
        let (Some(kind), Some(payload)) = (letter.get::<String>("event_type"), letter.get::<String>("payload")) else {
            return Ok(());
        };
        let payload: Value = serde_json::from_str(&payload).expect("it is JSON");
        let task = payload["task_id"].as_str().expect("it names its task").to_owned();
        let attempt = payload["attempt"].as_u64().expect("it names its attempt");
        let script = Script::read(&payload["kwargs"]);
        match (kind.as_str(), script) {
            ("orchestration.task.assigned", Some(script)) => self.begin((task, attempt), script.act(attempt)),
            ("orchestration.task.cancel", _) => {
                self.count("agent told to stop");
                self.stop(&(task, attempt));
                let mut done = redis::cmd("XACK");
                done.arg(INBOX).arg(AGENT).arg(&letter.id);
                let () = self.reading.send(&done).await?;
            }
            (kind, _) => panic!("a strange letter: {kind} {payload}"),
        }
        Ok(())
    }

    /// Stops what it does with an attempt. Who comes late does not listen either.
    fn stop(&self, attempt: &Attempt) {
        let mut work = self.work.lock().unwrap();
        let listens = work.get(attempt).is_some_and(|(act, _)| *act != Act::ComesLate);
        if let Some((_, stopped)) = listens.then(|| work.remove(attempt)).flatten() {
            stopped.abort();
        }
    }

    /// Notes by which event it reports the end of an attempt.
    fn note(&self, attempt: &Attempt, event_id: &str) {
        let mut reported = self.reported.lock().unwrap();
        reported.entry(attempt.clone()).or_default().insert(event_id.to_owned());
    }

    /// Sets about an attempt, unless it is at it already.
    fn begin(self: &Arc<Self>, attempt: Attempt, act: Act) {
        let mut work = self.work.lock().unwrap();
        if work.contains_key(&attempt) {
            return;
        }
        let agent = Arc::clone(self);
        let own = attempt.clone();
        let task = tokio::spawn(async move {
            agent.carry_out(&own, act).await;
            agent.work.lock().unwrap().remove(&own);
        });
        work.insert(attempt, (act, task.abort_handle()));
    }

    async fn carry_out(&self, attempt: &Attempt, act: Act) {
        match act {
            Act::Succeeds => self.report(attempt, 1, None).await,
            Act::Beats => {
                for beat in 1..=4_u64 {
                    let event_id = event_id(attempt, &format!("beat-{beat}"));
                    let payload =
                        json!({ "task_id": attempt.0, "attempt": attempt.1, "progress": { "percent": beat * 20 } });
                    self.say("heartbeat", &event_id, &payload).await;
                    tokio::time::sleep(SILENCE / 3).await;
                }
                self.report(attempt, 1, None).await;
            }
            Act::Repeats => {
                self.report(attempt, 1, None).await;
                self.report(attempt, 1, None).await;
                self.report(attempt, 2, None).await;
            }
            Act::Fails => self.report(attempt, 1, Some(true)).await,
            Act::GivesUp => self.report(attempt, 1, Some(false)).await,
            Act::ComesLate => {
                tokio::time::sleep(SILENCE * 2).await;
                self.report(attempt, 1, None).await;
            }
            Act::KeepsSilent => {}
        }
    }

    /// Reports the end of an attempt, a result or a failure that may be tried again or not.
    async fn report(&self, attempt: &Attempt, number: u64, is_retryable: Option<bool>) {
        let event_id = event_id(attempt, &number.to_string());
        let mut payload = json!({ "task_id": attempt.0, "attempt": attempt.1 });
        if let Some(is_retryable) = is_retryable {
            payload["status"] = json!("failed");
            payload["error"] = json!({ "type": Act::PROBLEM, "message": "none left" });
            payload["retryable"] = json!(is_retryable);
        } else {
            payload["status"] = json!("completed");
            payload["result"] = json!({ "attempt": attempt.1 });
        }
        self.note(attempt, &event_id);
        self.say("result", &event_id, &payload).await;
    }

    /// Says something until Redis has taken it.
    async fn say(&self, kind: &str, event_id: &str, payload: &Value) {
        let fields = [
            ("event_type", format!("orchestration.task.{kind}")),
            ("source_agent", AGENT.to_owned()),
            ("event_id", event_id.to_owned()),
            ("payload", payload.to_string()),
        ];
        let mut command = redis::cmd("XADD");
        command.arg("waooaw:commands").arg("*").arg(&fields);
        while self.speaking.send::<String>(&command).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The id of something that is said of an attempt.
fn event_id(attempt: &Attempt, what: &str) -> String {
    format!("{AGENT}:{}:{}:{what}", attempt.0, attempt.1)
}

/// The attempt that something is said of, by the event's id.
pub(crate) fn attempt_of(event_id: &str) -> Option<Attempt> {
    let mut parts = event_id.split(':');
    if parts.next() != Some(AGENT) {
        return None;
    }
    Some((parts.next()?.to_owned(), parts.next()?.parse().ok()?))
}
