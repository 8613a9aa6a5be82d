//! Counts the workflows and sagas that are under way anew, from their records.
//!
//! The records are read one after the other while others start and end. The log says whether any did meanwhile: then what was
//! counted is of no moment, and they are counted again. Where they start and end all the time nothing is said.

use std::collections::HashSet;

use super::{Auditor, Finding, WentBack};
use crate::domain::history::{GROUP_COUNTS, Guarantee};
use crate::store::StoreError;
use crate::store::audit::Question;
use crate::store::groups::GroupKind;

/// How often they are counted until nobody starts or ends meanwhile.
const TRIES: usize = 3;
/// The letters of states that are no end; that of one which is not told of yet is none of them.
const UNDER_WAY: [char; 3] = ['P', 'R', 'G'];

impl Auditor<'_> {
    /// Compares how many are under way with their records.
    pub(super) async fn compare_groups(&mut self) -> Result<Result<(), WentBack>, StoreError> {
        let question = || Question {
            measure: true,
            ..Question::default()
        };
        if self.look(question()).await?.is_err() {
            return Ok(Err(WentBack));
        }
        for _ in 0..TRIES {
            let before = self.told();
            let (workflows, sagas) = self.count_groups().await?;
            let Ok(look) = self.look(question()).await? else {
                return Ok(Err(WentBack));
            };
            if self.told() != before {
                continue;
            }
            for (kind, due) in [(GroupKind::Workflow, workflows), (GroupKind::Saga, sagas)] {
                let name = format!("groups {}", kind.as_str());
                let is = look.facts.number(&name);
                if is != due {
                    let message = format!("is {is}, and counting anew gives {due}");
                    self.found.push(Finding::new(Guarantee::Counters, &name, message));
                    self.repairable.counters.push((name, due - is));
                }
            }
            break;
        }
        Ok(Ok(()))
    }

    /// What the events that were read say of starts and ends: each changes one of the numbers.
    fn told(&self) -> [i64; GROUP_COUNTS.len()] {
        GROUP_COUNTS.map(|name| self.history.groups(name))
    }

    /// How many workflows and sagas are under way, by their records.
    async fn count_groups(&self) -> Result<(i64, i64), StoreError> {
        let (mut workflows, mut sagas, mut seen) = (0, 0, HashSet::new());
        let mut cursor = "0".to_owned();
        loop {
            let (next, groups) = self.store.scan_groups(self.partition, &cursor).await?;
            for (name, kind, state) in groups {
                if !seen.insert(name) || !UNDER_WAY.contains(&state) {
                    continue;
                }
                match kind {
                    GroupKind::Workflow => workflows += 1,
                    GroupKind::Saga => sagas += 1,
                }
            }
            if next == "0" {
                return Ok((workflows, sagas));
            }
            cursor = next;
        }
    }
}
