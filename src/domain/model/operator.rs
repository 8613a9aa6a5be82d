//! What operators do, as the log tells it.

use super::{Fact, Model, ModelEvent, Turn, Word};
use crate::domain::event::EventType;
use crate::domain::id::QueueName;

impl Model {
    /// Sets limits; what an operator has set is no longer what replicas are configured with.
    pub(super) fn set_limits(&mut self, turn: &mut Turn, max_size: Option<u64>, max_running: Option<u64>) -> Word {
        let is_news =
            |wanted: Option<u64>, is_set: bool, now: u64| wanted.is_some_and(|wanted| !is_set || wanted != now);
        if !is_news(max_size, self.is_size_set, self.max_size)
            && !is_news(max_running, self.is_running_set, self.max_running)
        {
            return Word::Duplicate;
        }
        self.max_size = max_size.unwrap_or(self.max_size);
        self.max_running = max_running.unwrap_or(self.max_running);
        self.is_size_set |= max_size.is_some();
        self.is_running_set |= max_running.is_some();
        self.tell_operator(turn, "set", "*");
        Word::Ok
    }

    /// Hands out nothing more of a queue, or again.
    pub(super) fn pause(&mut self, turn: &mut Turn, queue: &QueueName, is_paused: bool) -> Word {
        let has_changed = if is_paused {
            self.paused.insert(queue.clone())
        } else {
            self.paused.remove(queue)
        };
        if !has_changed {
            return Word::Duplicate;
        }
        self.tell_operator(turn, if is_paused { "pause" } else { "resume" }, queue.as_str());
        Word::Ok
    }

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
