//! What was asked for, against what the log says became of it.
//!
//! Whoever triggers a task knows what its handler does with each attempt and what its retry policy allows. So the log can
//! be read with that in hand: each end must be one that the handler can give at that attempt, each delay must lie in the
//! band of the policy, nothing starts before it is due, and only who was really gone lost anything.

use std::collections::BTreeMap;

use waooaw_orchestration::RetryPolicy;

use super::log::{Log, LogEvent, time_ms};
use super::redis::task_of;
use super::script::{Act, Script};

/// The agent that carries out what has a script.
pub(crate) const AGENT: &str = "bot";

/// What is wrong with an attempt that starts before its time.
const TOO_EARLY: &str = "it starts before it is due";
/// What is wrong with an attempt that was taken from its agent before its time.
const TOO_SOON: &str = "it is taken back before its time";

/// Whether a problem is one of times alone. They tell nothing when the clock that wrote them jumped.
pub(crate) fn is_of_time(problem: &str) -> bool {
    problem.starts_with(TOO_EARLY) || problem.starts_with(TOO_SOON)
}

/// What a handler does with the attempts of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Each succeeds.
    Succeeds,
    /// So many fail, the next succeeds.
    FailsFor(u64),
    /// Each fails.
    Fails,
    /// Each takes longer than it may.
    Outlasts,
    /// An agent does as it is told.
    Scripted(Script),
}

impl Behaviour {
    /// Whether any attempt may succeed.
    pub(crate) fn may_succeed(self) -> bool {
        match self {
            Self::Succeeds | Self::FailsFor(_) => true,
            Self::Fails | Self::Outlasts => false,
            Self::Scripted(script) => script.may_succeed(),
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Promise {
    pub(crate) behaviour: Behaviour,
    pub(crate) policy: RetryPolicy,
    /// From its creation on.
    pub(crate) delay_ms: i64,
    /// Whether somebody asked for its end.
    pub(crate) is_cancelled: bool,
    /// How long an agent may be silent, ms.
    pub(crate) silence_ms: i64,
    /// How long an attempt of an agent may take, ms.
    pub(crate) timeout_ms: Option<i64>,
}

impl Promise {
    /// At once and without anybody interfering.
    pub(crate) fn new(behaviour: Behaviour, policy: RetryPolicy) -> Self {
        Self {
            behaviour,
            policy,
            delay_ms: 0,
            is_cancelled: false,
            silence_ms: 60_000,
            timeout_ms: None,
        }
    }

    /// Whether an attempt, by number, may end in this way: the type of the error, or `None` for a result. Losses are beside it.
    fn allows(&self, attempt: u64, problem: Option<&str>) -> bool {
        let expected = match self.behaviour {
            Behaviour::Succeeds => None,
            Behaviour::FailsFor(times) => (attempt <= times).then_some("handler_error"),
            Behaviour::Fails => Some("handler_error"),
            Behaviour::Outlasts => Some("timeout"),
            Behaviour::Scripted(script) => {
                let act = script.act(attempt);
                return match problem {
                    None => act.may_succeed(),
                    Some("timeout") => self.timeout_ms.is_some(),
                    Some(problem) => act.fails() && problem == Act::PROBLEM,
                };
            }
        };
        expected == problem
    }

    /// Whether a failure of an attempt, by number, is one for good.
    fn is_for_good(&self, attempt: u64, problem: &str) -> bool {
        let Behaviour::Scripted(script) = self.behaviour else {
            return false;
        };
        script.act(attempt) == Act::GivesUp && problem == Act::PROBLEM
    }

    /// Who carries it out, where that is an agent.
    fn is_agents(&self) -> bool {
        matches!(self.behaviour, Behaviour::Scripted(_))
    }
}

/// What the log says of one task.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// What can not be.
    pub(crate) problems: Vec<String>,
    /// The terminal event, without `task.`; empty while there is none.
    pub(crate) end: String,
    /// How long after it was due each attempt that followed a delay started, ms.
    pub(crate) late_ms: Vec<i64>,
    /// The replicas that lost it.
    pub(crate) lost_by: Vec<String>,
    /// Where in the band of its policy each delay lies, from 0 to 1.
    pub(crate) jitter: Vec<f64>,
}

/// The events of each task, in order.
pub(crate) fn lives<'a>(log: &'a Log<'_>) -> BTreeMap<&'a str, Vec<&'a LogEvent>> {
    let mut lives: BTreeMap<&str, Vec<&LogEvent>> = BTreeMap::new();
    for event in log.events.iter().filter(|event| event.kind.starts_with("task.")) {
        lives.entry(&event.subject).or_default().push(event);
    }
    lives
}

/// Reads one life against its promise.
pub(crate) fn read(promise: &Promise, events: &[&LogEvent]) -> Told {
    let mut reading = Reading {
        promise,
        told: Told::default(),
        due_ms: 0,
        started_ms: 0,
        is_delayed: false,
        retries: 0,
        losses: 0,
    };
    for event in events {
        reading.read(event);
    }
    reading.told
}

/// A policy with delays of one's own.
pub(crate) fn policy(max_retries: u32, initial: f64, max: f64) -> RetryPolicy {
    let mut policy = RetryPolicy::STANDARD;
    policy.max_retries = max_retries;
    policy.initial_delay_seconds = initial;
    policy.max_delay_seconds = max;
    policy
}

/// Every task that was asked for ended once, as its handler must end it; answers who lost how much.
pub(crate) fn assert_kept(promises: &BTreeMap<String, Promise>, log: &Log<'_>) -> BTreeMap<String, usize> {
    let lives = lives(log);
    assert_eq!(lives.len(), promises.len());
    let mut losses: BTreeMap<String, usize> = BTreeMap::new();
    for (event_id, promise) in promises {
        let task = task_of(event_id).to_string();
        let told = read(promise, &lives[task.as_str()]);
        assert!(told.problems.is_empty(), "{event_id}: {:#?}", told.problems);
        assert!(!told.end.is_empty(), "{event_id} did not end");
        for replica in told.lost_by {
            *losses.entry(replica).or_default() += 1;
        }
    }
    losses
}

/// Tasks that end at the first attempt, unless that is lost.
pub(crate) fn succeeding(count: usize, name: &str) -> BTreeMap<String, Promise> {
    (0..count)
        .map(|number| {
            let promise = Promise::new(Behaviour::Succeeds, RetryPolicy::STANDARD);
            (format!("{name}-{number}"), promise)
        })
        .collect()
}

struct Reading<'a> {
    promise: &'a Promise,
    told: Told,
    due_ms: i64,
    started_ms: i64,
    /// Whether the next start follows a delay.
    is_delayed: bool,
    retries: u32,
    losses: u32,
}

impl Reading<'_> {
    fn expect(&mut self, is_so: bool, what: &str, event: &LogEvent) {
        if !is_so {
            self.told
                .problems
                .push(format!("{what}: {} {} {}", event.event_id, event.kind, event.payload));
        }
    }

    fn read(&mut self, event: &LogEvent) {
        let at_ms = time_ms(&event.fields["timestamp"]);
        let attempt = event.payload["attempt"].as_u64().unwrap_or_default();
        let problem = event.payload["error"]["type"].as_str().unwrap_or_default();
        match event.kind.as_str() {
            "task.created" => {
                self.due_ms = at_ms + self.promise.delay_ms;
                self.is_delayed = self.promise.delay_ms > 0;
            }
            "task.started" => {
                self.expect(at_ms >= self.due_ms, TOO_EARLY, event);
                self.started_ms = at_ms;
                let is_agents = event.text("worker_id") == format!("agent:{AGENT}");
                self.expect(is_agents == self.promise.is_agents(), "somebody else has it", event);
                if self.is_delayed {
                    self.told.late_ms.push(at_ms - self.due_ms);
                }
            }
            "task.retry_scheduled" => {
                self.retries += 1;
                let told = event.payload["retry_count"].as_u64();
                self.expect(told == Some(u64::from(self.retries)), "a retry counts wrong", event);
                self.expect(
                    self.retries <= self.promise.policy.max_retries,
                    "more retries than there may be",
                    event,
                );
                self.attempt_ends(event, attempt, problem);
                let is_for_good = self.promise.is_for_good(attempt, problem);
                self.expect(!is_for_good, "another try after a failure for good", event);
                self.expect(self.losses < 3, "another try after the third loss in a row", event);
                self.delayed(event, at_ms, problem == "lost");
            }
            "task.released" => {
                self.losses = 0;
                (self.due_ms, self.is_delayed) = (at_ms, false);
            }
            "task.completed" => {
                let is_fine = self.promise.allows(attempt, None);
                self.expect(is_fine, "this attempt can not succeed", event);
                if self.promise.is_agents() {
                    let is_own = event.payload["result"]["attempt"] == event.payload["attempt"];
                    self.expect(is_own, "the result of another attempt", event);
                }
                "completed".clone_into(&mut self.told.end);
            }
            "task.failed" | "task.timeout" => {
                self.attempt_ends(event, attempt, problem);
                let is_final = self.retries == self.promise.policy.max_retries
                    || self.losses == 3
                    || self.promise.is_for_good(attempt, problem);
                self.expect(is_final, "given up with tries left", event);
                let is_timeout = event.kind == "task.timeout";
                self.expect(is_timeout == (problem == "timeout"), "the wrong end", event);
                event.kind["task.".len()..].clone_into(&mut self.told.end);
            }
            "task.requeued" => {
                (self.retries, self.losses) = (0, 0);
                (self.due_ms, self.is_delayed) = (at_ms, false);
            }
            "task.cancelled" => {
                self.expect(self.promise.is_cancelled, "nobody cancelled it", event);
                "cancelled".clone_into(&mut self.told.end);
            }
            _ => {}
        }
    }

    /// An attempt without success: by its handler, or because its replica was gone or its agent silent.
    fn attempt_ends(&mut self, event: &LogEvent, attempt: u64, problem: &str) {
        if self.promise.is_agents() {
            let took_ms = time_ms(&event.fields["timestamp"]) - self.started_ms;
            let least_ms = match problem {
                "lost" => self.promise.silence_ms,
                "timeout" => self.promise.timeout_ms.unwrap_or_default(),
                _ => 0,
            };
            self.expect(took_ms >= least_ms, TOO_SOON, event);
        }
        if problem == "lost" {
            self.losses += 1;
            let message = event.payload["error"]["message"].as_str().unwrap_or_default();
            let replica = message.split(' ').nth(1).unwrap_or_default();
            self.told.lost_by.push(replica.to_owned());
        } else {
            self.losses = 0;
            let is_fine = self.promise.allows(attempt, Some(problem));
            self.expect(is_fine, "this attempt can not end like that", event);
        }
    }

    fn delayed(&mut self, event: &LogEvent, at_ms: i64, is_lost: bool) {
        let delay = event.payload["delay_seconds"].as_f64().unwrap_or(f64::NAN);
        let due_ms = event.time_ms("due_at");
        #[allow(clippy::cast_precision_loss, reason = "no delay of a test is that long")]
        let told = (due_ms - at_ms) as f64 / 1000.0;
        self.expect((told - delay).abs() < 0.0015, "due_at and delay_seconds differ", event);
        if is_lost {
            self.expect(delay == 0.0, "a lost task waits", event);
        } else {
            let bound = |chance| self.promise.policy.delay(self.retries, chance).as_secs_f64();
            let (least, most) = (bound(0.0), bound(1.0));
            let is_fine = (least - 0.0015..=most + 0.0015).contains(&delay);
            if most > least {
                self.told.jitter.push((delay - least) / (most - least));
            }
            self.expect(is_fine, &format!("a delay outside {least} to {most} s"), event);
        }
        (self.due_ms, self.is_delayed) = (due_ms, delay > 0.0);
    }
}
