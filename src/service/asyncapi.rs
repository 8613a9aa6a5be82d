//! The AsyncAPI document of the bus: channels, messages, and the schema of every payload.
//!
//! An entry of a stream is a message: its field `payload` is the payload, its other fields are the headers. The document says
//! what the runtime does, so it receives what agents publish and sends what they read. Streams are told by the names that the
//! store gives them, under the prefix that is the default.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::domain::event::EventType;
use crate::domain::id::Partition;
use crate::domain::schema::{definitions, inbound, inbox, outbound, reference};
use crate::domain::trigger::{
    SAGA_CANCEL, SAGA_START, TASK_CANCEL, TASK_HEARTBEAT, TASK_RESULT, TASK_TRIGGER, WORKFLOW_START, WORKFLOW_STOP,
};
use crate::store::keys::Keys;

const ABOUT: &str = "\
Agents publish events on two Redis Streams and read what happens on another; what they are to carry out they find in an inbox. One entry is one event; every field is text. Here \
the field `payload`, a JSON object, is the message's payload, and the other fields are its headers.

`XADD waooaw:triggers * event_type orchestration.task.trigger source_agent sales payload '{\"task_name\":\"echo\"}'`

A CloudEvents 1.0 event is accepted too: its attributes as fields (`specversion`, `id`, `source`, `type`, `time`, \
`correlationid`, `data`), or one field `cloudevent` with structured-mode JSON. An event that lands on the other inbound stream \
is handled all the same. `waooaw` is `redis.prefix`.

Anything malformed, over 1 MiB or nested deeper than 64 becomes one `orchestration.trigger.rejected` or \
`orchestration.command.refused`. Payloads that are sent may get more members in a later version.";

/// The whole document.
#[must_use]
pub fn document() -> Value {
    let keys = Keys::new("waooaw");
    // Braces are part of the stream's name, and what stands in braces is a parameter here.
    let events = keys.events(Partition::default()).replace("{0}", "{partition}");
    let triggers = inbound::TRIGGERS.map(|(_, name)| name);
    let commands = inbound::COMMANDS.map(|(_, name)| name);
    let (metrics, log): (Vec<_>, Vec<_>) = EventType::ALL
        .into_iter()
        .partition(|kind| *kind == EventType::MetricsSnapshot);
    let names = |kinds: &[EventType]| kinds.iter().map(|kind| outbound::name(*kind)).collect::<Vec<_>>();
    let (metrics, log) = (names(&metrics), names(&log));
    let mut messages = BTreeMap::new();
    for (event_type, name) in inbound::TRIGGERS.into_iter().chain(inbound::COMMANDS) {
        messages.insert(name, message(event_type, name, "InboundHeaders", example(event_type)));
    }
    for kind in EventType::ALL {
        let name = outbound::name(kind);
        messages.insert(name, message(kind.as_str(), name, "OutboundHeaders", None));
    }
    for (event_type, name) in inbox::ASSIGNMENTS {
        messages.insert(name, message(event_type, name, "OutboundHeaders", None));
    }
    let assignments = inbox::ASSIGNMENTS.map(|(_, name)| name);
    let mut schemas = definitions();
    schemas.insert("InboundHeaders", inbound_headers());
    schemas.insert("OutboundHeaders", outbound_headers());
    let partition = json!({
        "description": "The number of the partition with braces around it, which make all its keys stay together: `{0}`, \
                        and with more partitions `{1}` and so on",
        "default": "{0}",
        "examples": ["{0}"],
    });
    let mut log_channel = channel(&events, "What happened; the log that holds in an audit", &log);
    log_channel["parameters"] = json!({ "partition": partition });
    let address = keys
        .inbox(Partition::default(), "{agent_id}")
        .replace("{0}", "{partition}");
    let about = "What an agent is to carry out, for a consumer group named after it";
    let mut inbox_channel = channel(&address, about, &assignments);
    inbox_channel["parameters"] = json!({
        "partition": partition,
        "agent_id": { "description": "The agent", "examples": ["sales"] },
    });
    let mut send_assignments = operation("send", "inbox", &assignments);
    // What the agent says of them, where all commands go.
    let answers = inbound::COMMANDS
        .into_iter()
        .filter(|(event_type, _)| [TASK_RESULT, TASK_HEARTBEAT].contains(event_type));
    send_assignments["reply"] = json!({
        "channel": { "$ref": "#/channels/commands" },
        "messages": answers
            .map(|(_, name)| json!({ "$ref": format!("#/channels/commands/messages/{name}") }))
            .collect::<Vec<_>>(),
    });
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "WAOOAW Orchestration Runtime: the bus",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "servers": {
            "redis": { "host": "127.0.0.1:6379", "protocol": "redis", "description": "`redis.url` by default" },
        },
        "channels": {
            "triggers": channel(&keys.triggers(), "Events that start something", &triggers),
            "commands": channel(&keys.commands(), "Events about something that exists; never waits behind triggers", &commands),
            "events": log_channel,
            "inbox": inbox_channel,
            "metrics": channel(&keys.metrics(), "Figures, about an hour of them; not part of the log", &metrics),
        },
        "operations": {
            "receiveTriggers": operation("receive", "triggers", &triggers),
            "receiveCommands": operation("receive", "commands", &commands),
            "sendEvents": operation("send", "events", &log),
            "sendAssignments": send_assignments,
            "sendMetrics": operation("send", "metrics", &metrics),
        },
        "components": { "messages": messages, "schemas": schemas },
    })
}

fn channel(address: &str, description: &str, names: &[&str]) -> Value {
    let messages: Map<String, Value> = names
        .iter()
        .map(|name| {
            (
                (*name).to_owned(),
                json!({ "$ref": format!("#/components/messages/{name}") }),
            )
        })
        .collect();
    json!({ "address": address, "description": description, "messages": messages })
}

fn operation(action: &str, channel: &str, names: &[&str]) -> Value {
    let messages: Vec<Value> = names
        .iter()
        .map(|name| json!({ "$ref": format!("#/channels/{channel}/messages/{name}") }))
        .collect();
    json!({ "action": action, "channel": { "$ref": format!("#/channels/{channel}") }, "messages": messages })
}

fn message(event_type: &str, name: &str, headers: &str, example: Option<Value>) -> Value {
    let mut message = json!({
        "name": event_type,
        "contentType": "application/json",
        "headers": {
            "allOf": [reference(headers)],
            "properties": { "event_type": { "const": event_type } },
        },
        "payload": reference(name),
    });
    if let Some(payload) = example {
        message["examples"] = json!([{
            "headers": { "event_type": event_type, "source_agent": "sales", "event_id": "order-1" },
            "payload": payload,
        }]);
    }
    message
}

/// Payloads as somebody would send them.
fn example(event_type: &str) -> Option<Value> {
    const TASK: &str = "4c59c34d-2213-81c6-8600-111abb62a000";
    Some(match event_type {
        TASK_TRIGGER => json!({ "task_name": "add", "args": [40, 2], "priority": "HIGH" }),
        WORKFLOW_START => json!({ "workflow_id": "order-2", "tasks": [
            { "task_id": "fetch", "name": "noop" },
            { "task_id": "ship", "name": "echo", "dependencies": ["fetch"] },
        ] }),
        SAGA_START => json!({ "saga_id": "trip-1", "steps": [
            { "name": "hotel", "action": "book_hotel", "compensation": "cancel_hotel", "kwargs": { "city": "Oslo" } },
            { "name": "flight", "action": "book_flight", "compensation": "cancel_flight" },
        ] }),
        TASK_CANCEL => json!({ "task_id": TASK, "reason": "customer withdrew" }),
        WORKFLOW_STOP => json!({ "workflow_id": "order-2" }),
        SAGA_CANCEL => json!({ "saga_id": "trip-1" }),
        TASK_RESULT => json!({ "task_id": TASK, "attempt": 1, "status": "completed", "result": { "price": 12 } }),
        TASK_HEARTBEAT => json!({ "task_id": TASK, "attempt": 1, "progress": 0.5 }),
        _ => return None,
    })
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn short(description: &str, longest: u32) -> Value {
    json!({ "type": "string", "description": description, "minLength": 1, "maxLength": longest })
}

fn inbound_headers() -> Value {
    json!({
        "type": "object",
        "description": "Other fields are ignored; an empty one counts as absent",
        "required": ["event_type", "source_agent"],
        "properties": {
            "event_type": short("What it is about", 128),
            "source_agent": short("Who speaks", 256),
            "event_id": short("Your own id: publishing again is safe then. By default the id of the entry", 256),
            "correlation_id": short("Constant over the whole chain that it belongs to; by default the `event_id`", 256),
            "timestamp": { "type": "string", "description": "RFC 3339", "format": "date-time" },
            "traceparent": text("W3C trace context; a malformed one is passed over"),
            "tracestate": text("W3C trace context"),
        },
    })
}

fn outbound_headers() -> Value {
    json!({
        "type": "object",
        "required": ["event_type", "source_agent", "event_id", "correlation_id", "causation_id", "timestamp"],
        "properties": {
            "event_type": text("What happened"),
            "source_agent": {
                "type": "string",
                "description": "`orchestration-runtime/<replica id>`",
                "pattern": "^orchestration-runtime/",
            },
            "event_id": {
                "type": "string",
                "description": "`<subject>/<seq>`, `seq` from 1 without a gap for each subject",
                "pattern": "^.+/[1-9][0-9]*$",
            },
            "correlation_id": text("Constant over the whole chain that a trigger starts"),
            "causation_id": text("The `event_id` of what directly caused it"),
            "timestamp": {
                "type": "string",
                "description": "RFC 3339 UTC with milliseconds",
                "format": "date-time",
                "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z$",
            },
            "traceparent": text("W3C trace context"),
            "tracestate": text("W3C trace context"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &str = include_str!("../../docs/asyncapi.json");

    #[test]
    fn the_committed_document_is_the_one_that_is_printed() {
        let committed: Value = serde_json::from_str(COMMITTED).unwrap_or_default();

        assert!(
            committed == document(),
            "docs/asyncapi.json is not what the code says: cargo run -- bus asyncapi > docs/asyncapi.json"
        );
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str));
                    fields.values().for_each(|inner| references(inner, found));
                }
                Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);

        for path in found {
            let pointer = path.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some_and(Value::is_object), "{path}");
        }
    }

    #[test]
    fn every_payload_that_may_come_in_has_an_example() {
        for (event_type, _) in inbound::TRIGGERS.into_iter().chain(inbound::COMMANDS) {
            assert!(example(event_type).is_some(), "{event_type}");
        }
    }
}
