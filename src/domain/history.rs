//! Reads a whole log in order and names everything in it that can not be.
//!
//! Each subject's events are numbered from 1 without a gap; a task's events, folded over the table of states, must be
//! legal moves from one `created` to exactly one end a life. A requeue begins the next life of the same task, out of the
//! dead letter of the one before; retries are counted anew in each. Pure: events go in, violations come out.
//!
//! Knows nothing of the stored state and of triggers: whether those agree with the log is asked elsewhere.

use std::collections::BTreeMap;
use std::fmt;

use super::event::{Event, EventType};
use super::state::{TaskMove, TaskState};

/// What is wrong with one subject's history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// Numbers are missing.
    #[error("number {found} follows where {expected} is due")]
    Gap {
        /// The number that is due.
        expected: u64,
        /// The number that stands there.
        found: u64,
    },
    /// A number comes a second time.
    #[error("number {0} comes a second time")]
    Repeat(u64),
    /// Something happens to a task that was not created.
    #[error("`{0}` before the task was created")]
    NotCreated(EventType),
    /// A task is created a second time.
    #[error("created a second time")]
    CreatedTwice,
    /// A move that the state does not allow: a start of what runs, an end of what ended, an end without a start.
    #[error("`{event}` of a task that is {state}")]
    IllegalMove {
        /// The state before.
        state: TaskState,
        /// What is said to have happened.
        event: EventType,
    },
    /// An attempt that does not count on.
    #[error("attempt {found} starts after attempt {before}")]
    AttemptNotRising {
        /// The attempt before.
        before: u64,
        /// The attempt that is said to start.
        found: u64,
    },
    /// The number of retries that an event tells is not how many there were in this life.
    #[error("{found} retries are told, {counted} were made in this life")]
    RetriesMiscounted {
        /// How many there were since the life began.
        counted: u64,
        /// How many the event tells.
        found: u64,
    },
    /// A life that is not the next one.
    #[error("life {found} begins after life {before}")]
    LifeNotNext {
        /// The life before.
        before: u64,
        /// The life that is said to begin.
        found: u64,
    },
    /// A life begins out of another dead letter than that of the life before.
    #[error("requeued out of the dead letter `{found}`, but lay in `{expected}`")]
    OtherDeadLetter {
        /// The dead letter of the life before.
        expected: String,
        /// The one that is named.
        found: String,
    },
    /// The chain changes within one task.
    #[error("the correlation id changes from `{before}` to `{found}`")]
    OtherChain {
        /// The chain so far.
        before: String,
        /// The chain of this event.
        found: String,
    },
    /// The log is over and the task is not.
    #[error("the task is still {0} at the end of the log")]
    Unfinished(TaskState),
    /// A task failed for good and nothing says that it is kept.
    #[error("the task is {0} and lies in no dead letter")]
    NotBuried(TaskState),
}

/// A flaw and where it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Whose history it is.
    pub subject: String,
    /// The entry of the log at which it shows; `None` for what shows only at the end.
    pub entry_id: Option<String>,
    /// What is wrong.
    pub flaw: Flaw,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.entry_id {
            Some(entry_id) => write!(f, "{} at {entry_id}: {}", self.subject, self.flaw),
            None => write!(f, "{}: {}", self.subject, self.flaw),
        }
    }
}

/// What a whole log amounts to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// How many events were read.
    pub events: u64,
    /// How many subjects they are about.
    pub subjects: u64,
    /// How many tasks ended up in which state, by the log alone.
    pub tasks: BTreeMap<&'static str, u64>,
    /// What can not be, in the order in which it shows.
    pub violations: Vec<Violation>,
}

/// A log as far as it was read.
#[derive(Debug, Default)]
pub struct History {
    events: u64,
    subjects: BTreeMap<String, Subject>,
    violations: Vec<Violation>,
}

#[derive(Debug, Default)]
struct Subject {
    seq: u64,
    task: Option<Task>,
}

#[derive(Debug)]
struct Task {
    state: TaskState,
    attempt: u64,
    correlation_id: String,
    /// The dead letter that it lies in.
    buried_as: Option<String>,
    life: u64,
    /// Attempts and retries of this life; an attempt that was handed back counts as none.
    attempts: u64,
    retries: u64,
}

/// What of a task's payload counts here.
#[derive(serde::Deserialize, Default)]
struct Counted {
    #[serde(default)]
    attempt: u64,
    retry_count: Option<u64>,
    life: Option<u64>,
    dead_letter_id: Option<String>,
}

/// Reads a whole log of a system that is at rest.
#[must_use]
pub fn verify<'a>(events: impl IntoIterator<Item = &'a Event>) -> Verdict {
    let mut history = History::default();
    for event in events {
        history.read(event);
    }
    history.close()
}

impl History {
    /// Reads the next event of the log.
    pub fn read(&mut self, event: &Event) {
        self.events += 1;
        let subject = self.subjects.entry(event.subject().to_owned()).or_default();
        let mut flaws = Vec::new();
        let (expected, found) = (subject.seq + 1, event.seq());
        if found < expected {
            flaws.push(Flaw::Repeat(found));
        } else {
            if found > expected {
                flaws.push(Flaw::Gap { expected, found });
            }
            subject.seq = found;
            // Types of later versions only count as numbers.
            let kind = EventType::ALL
                .into_iter()
                .find(|kind| kind.as_str() == event.event_type);
            if let Some(kind) = kind {
                subject.fold(kind, event, &mut flaws);
            }
        }
        self.violations.extend(flaws.into_iter().map(|flaw| Violation {
            subject: event.subject().to_owned(),
            entry_id: Some(event.entry_id.clone()),
            flaw,
        }));
    }

    /// How many attempts of a task's present life count against its retries: all that began but those that were handed
    /// back. At most one more than it may be retried, which is known elsewhere. `None` for what is no task.
    #[must_use]
    pub fn attempts_used(&self, subject: &str) -> Option<u64> {
        self.subjects.get(subject)?.task.as_ref().map(|task| task.attempts)
    }

    /// The log is over and the system at rest: what did not end is a violation.
    #[must_use]
    pub fn close(mut self) -> Verdict {
        let mut tasks = BTreeMap::new();
        let subjects = self.subjects.len() as u64;
        for (name, subject) in self.subjects {
            let Some(task) = subject.task else { continue };
            *tasks.entry(task.state.as_str()).or_default() += 1;
            let must_be_buried = matches!(task.state, TaskState::Failed | TaskState::Timeout);
            let flaw = if !task.state.is_terminal() {
                Flaw::Unfinished(task.state)
            } else if must_be_buried && task.buried_as.is_none() {
                Flaw::NotBuried(task.state)
            } else {
                continue;
            };
            self.violations.push(Violation {
                subject: name,
                entry_id: None,
                flaw,
            });
        }
        Verdict {
            events: self.events,
            subjects,
            tasks,
            violations: self.violations,
        }
    }
}

impl Subject {
    fn fold(&mut self, kind: EventType, event: &Event, flaws: &mut Vec<Flaw>) {
        let step = match kind {
            EventType::TaskCreated => {
                if self.task.is_some() {
                    flaws.push(Flaw::CreatedTwice);
                } else {
                    self.task = Some(Task::new(TaskState::Pending, event));
                }
                return;
            }
            EventType::TaskStarted => TaskMove::Claim,
            EventType::TaskRetryScheduled => TaskMove::Retry,
            EventType::TaskReleased => TaskMove::Release,
            EventType::TaskCompleted => TaskMove::Succeed,
            EventType::TaskFailed => TaskMove::Fail,
            EventType::TaskTimeout => TaskMove::Expire,
            EventType::TaskCancelled => TaskMove::Cancel,
            EventType::TaskRequeued => TaskMove::Requeue,
            EventType::TaskDeadLettered => {
                match &mut self.task {
                    Some(task) => task.bury(event, flaws),
                    None => flaws.push(Flaw::NotCreated(kind)),
                }
                return;
            }
            EventType::TriggerRejected
            | EventType::CommandRefused
            | EventType::WorkflowStarted
            | EventType::WorkflowCompleted
            | EventType::WorkflowFailed
            | EventType::WorkflowCancelled
            | EventType::SagaStarted
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
            | EventType::SagaResumed
            | EventType::WorkerPoolStatus
            | EventType::OperatorAction
            | EventType::HistoryRolledBack
            | EventType::MetricsSnapshot => return,
        };
        if let Some(task) = &mut self.task {
            task.follow(step, kind, event, flaws);
        } else {
            flaws.push(Flaw::NotCreated(kind));
            self.task = Some(Task::new(claimed_state(step), event));
        }
    }
}

impl Task {
    fn new(state: TaskState, event: &Event) -> Self {
        Self {
            state,
            attempt: Counted::of(event).attempt,
            correlation_id: event.correlation_id.clone(),
            buried_as: None,
            life: 1,
            attempts: 0,
            retries: 0,
        }
    }

    fn follow(&mut self, step: TaskMove, kind: EventType, event: &Event, flaws: &mut Vec<Flaw>) {
        if self.correlation_id != event.correlation_id {
            flaws.push(Flaw::OtherChain {
                before: self.correlation_id.clone(),
                found: event.correlation_id.clone(),
            });
            self.correlation_id.clone_from(&event.correlation_id);
        }
        self.state = self.state.after(step).unwrap_or_else(|| {
            flaws.push(Flaw::IllegalMove {
                state: self.state,
                event: kind,
            });
            // Believed all the same, or one flaw would show as many.
            claimed_state(step)
        });
        let counted = Counted::of(event);
        match step {
            TaskMove::Claim => {
                let (before, found) = (self.attempt, counted.attempt);
                if found <= before {
                    flaws.push(Flaw::AttemptNotRising { before, found });
                }
                self.attempt = found;
                self.attempts += 1;
            }
            TaskMove::Retry => self.retries += 1,
            TaskMove::Release => self.attempts = self.attempts.saturating_sub(1),
            TaskMove::Requeue => self.begin_life(&counted, flaws),
            TaskMove::Succeed | TaskMove::Fail | TaskMove::Expire | TaskMove::Cancel => {}
        }
        if let Some(found) = counted.retry_count.filter(|found| *found != self.retries) {
            let counted = self.retries;
            flaws.push(Flaw::RetriesMiscounted { counted, found });
            self.retries = found;
        }
    }

    fn begin_life(&mut self, counted: &Counted, flaws: &mut Vec<Flaw>) {
        let (before, found) = (self.life, counted.life.unwrap_or(0));
        if found != before + 1 {
            flaws.push(Flaw::LifeNotNext { before, found });
        }
        self.life = found.max(before);
        // One that was never buried shows as an illegal move.
        if let (Some(expected), Some(found)) = (self.buried_as.take(), &counted.dead_letter_id)
            && expected != *found
        {
            let found = found.clone();
            flaws.push(Flaw::OtherDeadLetter { expected, found });
        }
        (self.attempts, self.retries) = (0, 0);
    }

    /// A dead letter belongs to a life that failed, once.
    fn bury(&mut self, event: &Event, flaws: &mut Vec<Flaw>) {
        if self.buried_as.is_some() || !matches!(self.state, TaskState::Failed | TaskState::Timeout) {
            flaws.push(Flaw::IllegalMove {
                state: self.state,
                event: EventType::TaskDeadLettered,
            });
        }
        self.buried_as = Some(Counted::of(event).dead_letter_id.unwrap_or_default());
    }
}

impl Counted {
    fn of(event: &Event) -> Self {
        serde_json::from_str(event.payload.get()).unwrap_or_default()
    }
}

/// The state that a move leads to, wherever it comes from.
const fn claimed_state(step: TaskMove) -> TaskState {
    match step {
        TaskMove::Claim => TaskState::Running,
        TaskMove::Succeed => TaskState::Completed,
        TaskMove::Retry | TaskMove::Release | TaskMove::Requeue => TaskState::Pending,
        TaskMove::Fail => TaskState::Failed,
        TaskMove::Expire => TaskState::Timeout,
        TaskMove::Cancel => TaskState::Cancelled,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    /// An event of the task `t`: type without `orchestration.task.`, number, attempt.
    type Row = (&'static str, u64, u64);

    fn log(rows: &[Row]) -> Vec<Event> {
        let rows = rows.iter().zip(1..);
        rows.map(|((kind, seq, attempt), place)| Event {
            entry_id: format!("{place}-0"),
            event_type: format!("orchestration.task.{kind}"),
            source_agent: "orchestration-runtime/r-00000000".to_owned(),
            event_id: format!("t/{seq}"),
            correlation_id: "c".to_owned(),
            causation_id: "e".to_owned(),
            timestamp: "2026-01-31T12:00:00.000Z".to_owned(),
            payload: payload(kind, *attempt),
            traceparent: None,
            tracestate: None,
        })
        .collect()
    }

    /// Of what begins a life or ends in a dead letter: as it would be of a second life after one attempt.
    fn payload(kind: &str, attempt: u64) -> Box<RawValue> {
        let more = match kind {
            "dead_lettered" => format!(r#","dead_letter_id":"t.{attempt}""#),
            "requeued" => format!(r#","dead_letter_id":"t.{attempt}","life":2"#),
            _ => String::new(),
        };
        RawValue::from_string(format!(r#"{{"attempt":{attempt}{more}}}"#)).unwrap()
    }

    fn flaws(rows: &[Row]) -> Vec<String> {
        let violations = verify(&log(rows)).violations;
        violations.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_way_to_live_is_without_flaw() {
        let lives: [&[Row]; 5] = [
            &[("created", 1, 0), ("started", 2, 1), ("completed", 3, 1)],
            &[("created", 1, 0), ("cancelled", 2, 0)],
            &[
                ("created", 1, 0),
                ("started", 2, 1),
                ("retry_scheduled", 3, 1),
                ("started", 4, 2),
                ("released", 5, 2),
                ("started", 6, 3),
                ("cancelled", 7, 3),
            ],
            &[
                ("created", 1, 0),
                ("started", 2, 1),
                ("timeout", 3, 1),
                ("dead_lettered", 4, 1),
            ],
            &[
                ("created", 1, 0),
                ("started", 2, 1),
                ("failed", 3, 1),
                ("dead_lettered", 4, 1),
                ("requeued", 5, 1),
                ("started", 6, 2),
                ("failed", 7, 2),
                ("dead_lettered", 8, 2),
            ],
        ];

        for life in lives {
            assert_eq!(flaws(life), Vec::<String>::new());
        }
        let verdict = verify(&log(lives[3]));
        assert_eq!((verdict.events, verdict.subjects), (4, 1));
        assert_eq!(verdict.tasks, BTreeMap::from([("TIMEOUT", 1)]));
    }

    #[test]
    fn each_broken_history_shows_its_one_flaw() {
        let cases: [(&[Row], &str); 13] = [
            (
                &[("created", 1, 0), ("started", 3, 1), ("completed", 4, 1)],
                "t at 2-0: number 3 follows where 2 is due",
            ),
            (
                &[("created", 2, 0), ("started", 3, 1), ("completed", 4, 1)],
                "t at 1-0: number 2 follows where 1 is due",
            ),
            (
                &[
                    ("created", 1, 0),
                    ("started", 2, 1),
                    ("completed", 3, 1),
                    ("completed", 3, 1),
                ],
                "t at 4-0: number 3 comes a second time",
            ),
            (
                &[("started", 1, 1), ("completed", 2, 1)],
                "t at 1-0: `orchestration.task.started` before the task was created",
            ),
            (
                &[
                    ("created", 1, 0),
                    ("created", 2, 0),
                    ("started", 3, 1),
                    ("completed", 4, 1),
                ],
                "t at 2-0: created a second time",
            ),
            (
                &[("created", 1, 0), ("completed", 2, 0)],
                "t at 2-0: `orchestration.task.completed` of a task that is PENDING",
            ),
            (
                &[
                    ("created", 1, 0),
                    ("started", 2, 1),
                    ("started", 3, 2),
                    ("completed", 4, 2),
                ],
                "t at 3-0: `orchestration.task.started` of a task that is RUNNING",
            ),
            (
                &[
                    ("created", 1, 0),
                    ("started", 2, 1),
                    ("completed", 3, 1),
                    ("cancelled", 4, 1),
                ],
                "t at 4-0: `orchestration.task.cancelled` of a task that is COMPLETED",
            ),
            (
                &[
                    ("created", 1, 0),
                    ("cancelled", 2, 0),
                    ("requeued", 3, 0),
                    ("cancelled", 4, 0),
                ],
                "t at 3-0: `orchestration.task.requeued` of a task that is CANCELLED",
            ),
            (
                &[
                    ("created", 1, 0),
                    ("started", 2, 1),
                    ("completed", 3, 1),
                    ("dead_lettered", 4, 1),
                ],
                "t at 4-0: `orchestration.task.dead_lettered` of a task that is COMPLETED",
            ),
            (
                &[
                    ("created", 1, 0),
                    ("started", 2, 1),
                    ("retry_scheduled", 3, 1),
                    ("started", 4, 1),
                    ("completed", 5, 1),
                ],
                "t at 4-0: attempt 1 starts after attempt 1",
            ),
            (
                &[("created", 1, 0), ("started", 2, 1)],
                "t: the task is still RUNNING at the end of the log",
            ),
            (
                &[("created", 1, 0), ("started", 2, 1), ("failed", 3, 1)],
                "t: the task is FAILED and lies in no dead letter",
            ),
        ];

        for (rows, flaw) in cases {
            assert_eq!(flaws(rows), [flaw], "{rows:?}");
        }
    }

    #[test]
    fn each_life_counts_for_itself() {
        let rows = [
            ("created", 1, 0),
            ("started", 2, 1),
            ("retry_scheduled", 3, 1),
            ("started", 4, 2),
            ("failed", 5, 2),
            ("dead_lettered", 6, 2),
            ("requeued", 7, 2),
            ("started", 8, 3),
            ("released", 9, 3),
            ("started", 10, 4),
            ("failed", 11, 4),
            ("dead_lettered", 12, 4),
        ];
        let told = |place: usize, payload: &str| {
            let mut events = log(&rows);
            let members = [
                (2, r#"{"attempt":1,"retry_count":1}"#),
                (4, r#"{"attempt":2,"retry_count":1}"#),
                (10, r#"{"attempt":4,"retry_count":0}"#),
                (place, payload),
            ];
            for (place, payload) in members {
                events[place].payload = RawValue::from_string(payload.to_owned()).unwrap();
            }
            let mut history = History::default();
            for event in &events {
                history.read(event);
            }
            let used = history.attempts_used("t");
            let violations = history.close().violations;
            (used, violations.iter().map(ToString::to_string).collect::<Vec<_>>())
        };

        assert_eq!(told(0, r#"{"attempt":0}"#), (Some(1), Vec::new()));
        for (place, payload, flaw) in [
            (
                10,
                r#"{"attempt":4,"retry_count":1}"#,
                "t at 11-0: 1 retries are told, 0 were made in this life",
            ),
            (
                6,
                r#"{"attempt":2,"dead_letter_id":"t.2","life":3}"#,
                "t at 7-0: life 3 begins after life 1",
            ),
            (
                6,
                r#"{"attempt":2,"dead_letter_id":"t.1","life":2}"#,
                "t at 7-0: requeued out of the dead letter `t.1`, but lay in `t.2`",
            ),
        ] {
            assert_eq!(told(place, payload).1, [flaw], "{payload}");
        }
    }

    #[test]
    fn a_task_stays_in_its_chain() {
        let mut events = log(&[("created", 1, 0), ("cancelled", 2, 0)]);
        "d".clone_into(&mut events[1].correlation_id);

        let violations = verify(&events).violations;

        assert_eq!(
            violations[0].to_string(),
            "t at 2-0: the correlation id changes from `c` to `d`"
        );
        assert_eq!(violations.len(), 1);
    }

    #[test]
    fn what_is_no_task_only_has_to_count_on() {
        let mut events = log(&[("of_a_later_version", 1, 0), ("of_a_later_version", 3, 0)]);
        "orchestration.worker_pool.status".clone_into(&mut events[0].event_type);

        let verdict = verify(&events);

        assert_eq!(verdict.violations.len(), 1);
        assert_eq!(verdict.violations[0].flaw, Flaw::Gap { expected: 2, found: 3 });
        assert!(verdict.tasks.is_empty());
    }
}
