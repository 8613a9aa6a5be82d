//! What an audit says in the end.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::domain::history::{Cut, Guarantee, Violation};

/// How many violations are told one by one; all are counted.
const TOLD_MAX: usize = 1000;

/// One thing that can not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The guarantee that it breaks.
    pub guarantee: Guarantee,
    /// What it is about: a task, a dead letter, an entry, a counter.
    pub subject: String,
    /// The entry of the log or stream at which it shows.
    pub entry_id: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl Finding {
    pub(super) fn new(guarantee: Guarantee, subject: &(impl ToString + ?Sized), message: impl Into<String>) -> Self {
        Self {
            guarantee,
            subject: subject.to_string(),
            entry_id: None,
            message: message.into(),
        }
    }

    pub(super) fn at(mut self, entry_id: &str) -> Self {
        self.entry_id = Some(entry_id.to_owned());
        self
    }
}

impl From<Violation> for Finding {
    fn from(violation: Violation) -> Self {
        Self {
            guarantee: violation.flaw.guarantee(),
            subject: violation.subject,
            entry_id: violation.entry_id,
            message: violation.flaw.to_string(),
        }
    }
}

/// One guarantee with what was found against it.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The name.
    pub name: Guarantee,
    /// What is guaranteed.
    pub text: &'static str,
    /// How many violations there are.
    pub violations: u64,
}

/// What has not come to rest; no violation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct InMotion {
    /// Tasks that wait.
    pub pending: u64,
    /// Tasks that run.
    pub running: u64,
    /// Triggers that are not acted upon yet.
    pub triggers: u64,
    /// Commands that are not acted upon yet.
    pub commands: u64,
    /// Tasks of groups that are not told of yet, and parts of other long work.
    pub follow_ups: u64,
}

/// A part of the past that is not there to be audited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotCovered {
    /// The partition.
    pub partition: u16,
    /// The last entry that was removed.
    pub trimmed_to: String,
    /// How many events were removed.
    pub events: u64,
    /// How many tasks went with them.
    pub tasks: u64,
}

/// The outcome of an audit.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Whether every guarantee holds.
    pub ok: bool,
    /// How many events were read.
    pub events: u64,
    /// How many subjects they are about.
    pub subjects: u64,
    /// How many task records were compared with them.
    pub records: u64,
    /// Tasks by state, by the log.
    pub tasks: BTreeMap<&'static str, u64>,
    /// How far the log of each partition was read.
    pub upto: Vec<String>,
    /// What is still going on.
    pub in_motion: InMotion,
    /// What was trimmed and can not be audited any more.
    pub not_covered: Vec<NotCovered>,
    /// Where Redis lost its last moments.
    pub cuts: Vec<Cut>,
    /// Every guarantee.
    pub guarantees: Vec<Verdict>,
    /// How many violations there are.
    pub violation_count: u64,
    /// The first of them.
    pub violations: Vec<Finding>,
}

/// What is found, with the counts of what is not told.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) told: Vec<Finding>,
    counts: BTreeMap<Guarantee, u64>,
}

impl Findings {
    pub(super) fn add(&mut self, finding: Finding) {
        *self.counts.entry(finding.guarantee).or_default() += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(finding);
        }
    }

    pub(super) fn finish(mut self, report: &mut Report) {
        self.told.sort_by_key(|finding| finding.guarantee);
        report.guarantees = Guarantee::ALL
            .into_iter()
            .map(|name| Verdict {
                name,
                text: name.text(),
                violations: self.counts.get(&name).copied().unwrap_or_default(),
            })
            .collect();
        report.violation_count = self.counts.values().sum();
        report.violations = self.told;
        report.ok = report.violation_count == 0;
    }
}
