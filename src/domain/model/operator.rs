//! What operators do, as the log tells it.

use super::{Fact, Model, ModelEvent, Turn};
use crate::domain::event::EventType;

impl Model {
    /// Appends an event of the operator who calls, which is its own cause; its id. Whoever calls under the id of a replica
    /// counts on in that one's events.
    pub(super) fn tell_operator(&mut self, turn: &mut Turn, action: &str, target: &str) -> String {
        let seq = match self.replicas.get_mut(&turn.by) {
            Some(replica) => &mut replica.seq,
            None => self.operators.entry(turn.by).or_default(),
        };
        *seq += 1;
        let event_id = format!("{}/{seq}", turn.by);
        turn.events.push(ModelEvent {
            event_type: EventType::OperatorAction,
            subject: turn.by.to_string(),
            seq: *seq,
            attempt: None,
            causation_id: event_id.clone(),
            source: turn.by,
            facts: vec![
                ("/action", Fact::Text(action.to_owned())),
                ("/target", Fact::Text(target.to_owned())),
            ],
        });
        event_id
    }
}
