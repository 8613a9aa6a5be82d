//! What the model and Redis know of agents, in a form to be compared.

use redis::aio::MultiplexedConnection;
use redis::streams::StreamReadReply;
use waooaw_orchestration::domain::id::{Name, TaskId};
use waooaw_orchestration::domain::model::{Model, Notice, Outcome, Reading, Said, Saying};
use waooaw_orchestration::store::agents::{self, Answer};
use waooaw_orchestration::store::functions;

use crate::world::Outcry;

/// What the model knows, as `look.lua` says it of Redis.
pub(crate) fn lines(model: &Model) -> Vec<String> {
    let mut lines = Vec::new();
    lines.push(format!("handing {}", model.handing()));
    for (name, route) in model.agent_names() {
        let (agent, silence_ms, timeout_ms) = (&route.agent, route.silence_ms, route.timeout_ms);
        lines.push(format!("agent of {name} {agent} {silence_ms} {timeout_ms}"));
    }
    for (id, desk) in model.desks() {
        let (agent, silence_ms, timeout_ms) = (&desk.route.agent, desk.route.silence_ms, desk.route.timeout_ms);
        let progress = desk.progress.as_deref().unwrap_or("-");
        let ends: Vec<String> = desk
            .ends
            .iter()
            .map(|(attempt, event)| format!(" r{attempt}={event}"))
            .collect();
        let ends = ends.concat();
        lines.push(format!("desk {id} {agent} {silence_ms} {timeout_ms} {progress}{ends}"));
    }
    for (agent, inbox) in model.inboxes() {
        let notices: Vec<String> = inbox.iter().map(line_of_notice).collect();
        lines.push(format!("inbox {agent} {}", notices.join(" ")).trim_end().to_owned());
    }
    lines
}

/// Reads an inbox as a process of an agent does: so many, again or what is new, and acknowledges what it reads or not.
pub(crate) async fn read(
    raw: &mut MultiplexedConnection,
    inbox: &str,
    (agent, process, count, again, acknowledges): (&Name, &str, usize, bool, bool),
) -> Result<Vec<(bool, TaskId, u32)>, Outcry> {
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(agent.as_str())
        .arg(process)
        .arg("COUNT")
        .arg(count);
    read.arg("STREAMS").arg(inbox).arg(if again { "0" } else { ">" });
    // Without an inbox there is nothing.
    let reply: Option<StreamReadReply> = read.query_async(raw).await.unwrap_or_default();
    let mut found = Vec::new();
    for letter in reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids) {
        let text = |name: &str| letter.get::<String>(name).ok_or("it is pending and deleted");
        let (task, attempt) = attempt_in(&text("payload")?);
        found.push((text("event_type")? == "orchestration.task.assigned", task, attempt));
        if acknowledges {
            let mut done = redis::cmd("XACK");
            done.arg(inbox).arg(agent.as_str()).arg(&letter.id);
            done.query_async::<()>(raw).await.unwrap();
        }
    }
    Ok(found)
}

fn line_of_notice(notice: &Notice) -> String {
    let kind = if notice.is_assignment { "assigned" } else { "cancel" };
    let reader = match &notice.reading {
        Reading::Held { by, .. } => by,
        Reading::Unread | Reading::Done => "-",
    };
    format!("{kind}:{}.{}@{reader}", notice.task, notice.attempt)
}

/// The attempt that an event in an inbox is about.
pub(crate) fn attempt_in(payload: &str) -> (TaskId, u32) {
    let payload: serde_json::Value = serde_json::from_str(payload).unwrap();
    let attempt = payload["attempt"].as_u64().unwrap();
    let task = payload["task_id"].as_str().unwrap().parse().unwrap();
    (task, u32::try_from(attempt).unwrap())
}

/// What an agent says, as the store takes it.
pub(crate) fn answer(saying: &Saying, outcome: fn(Outcome) -> functions::Outcome) -> Answer {
    Answer {
        task_id: saying.task,
        attempt: saying.attempt,
        who: saying.who.clone(),
        event_id: saying.event_id.clone(),
        entry_id: saying.entry.map(|entry| format!("{entry}-0")),
        said: match &saying.said {
            Said::Beat(progress) => agents::Said::Beat(progress.clone()),
            Said::Ended(ended) => agents::Said::Ended(outcome(*ended)),
        },
    }
}
