//! The log of events: paged by query, and live as server-sent events.
//!
//! Who follows has a place in the log and reads on from there whenever something new came and the client has taken what it
//! was sent before. So a slow client holds one batch and nothing piles up for it; what it missed it reads later, or is told
//! by an event `gap` that it was trimmed meanwhile. What is new is read once for all clients together ([`feed`](super::feed)).

use std::cmp::max;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::watch;
use utoipa::ToSchema;

use super::Api;
use super::access::Access;
use super::feed::{FOLLOWERS_MAX, newest};
use super::openapi::Format;
use super::problem::Problem;
use super::request::Query;
use super::routes::Routes;
use crate::domain::event::{EntryId, Event, Pattern};
use crate::domain::id::Partition;
use crate::service::config::Role;
use crate::store::{Store, StoreError};

/// How many entries are read at once for a page, and how many one page looks at.
const PAGE_BATCH: usize = 500;
const PAGE_ENTRIES_MAX: usize = 10_000;
/// How many entries one client is sent at once.
const FOLLOW_BATCH: usize = 100;
/// How much one client is sent at once, but for the last event of it. What a client does not take stays in the log.
const FOLLOW_BYTES: usize = 256 << 10;
/// How much one page has, but for its last event.
const PAGE_BYTES: usize = 4 << 20;
/// How often a client hears something, so that it and what is between know that the other side is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) fn routes(routes: Routes) -> Routes {
    let codes = &["TooManyStreams", "ShuttingDown"];
    routes.add(__path_events, events, Access::Needs(Role::Read), codes)
}

/// A place in the log of each partition, as text their entry ids with commas between them.
struct Cursor(Vec<EntryId>);

impl Cursor {
    /// Reads a cursor; one id alone stands for the same place in every partition, and `0` for the beginning.
    fn read(text: &str, partitions: u16) -> Option<Self> {
        let ids: Option<Vec<EntryId>> = text
            .split(',')
            .map(|id| {
                if id == "0" {
                    Some(EntryId::default())
                } else {
                    id.parse().ok()
                }
            })
            .collect();
        let ids = ids?;
        match ids.len() {
            1 => Some(Self(vec![ids[0]; partitions.into()])),
            count if count == usize::from(partitions) => Some(Self(ids)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, id) in self.0.iter().enumerate() {
            write!(f, "{}{id}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Which events are wanted, and how they are told.
struct Wanted {
    pattern: Option<Pattern>,
    subject: Option<String>,
    is_cloud_event: bool,
}

impl Wanted {
    fn fits(&self, event: &Event) -> bool {
        self.pattern
            .as_ref()
            .is_none_or(|pattern| pattern.matches(&event.event_type))
            && self.subject.as_ref().is_none_or(|subject| event.subject() == subject)
    }

    fn told(&self, event: &Event) -> Result<Box<RawValue>, serde_json::Error> {
        if !self.is_cloud_event {
            return serde_json::value::to_raw_value(event);
        }
        serde_json::value::to_raw_value(&CloudEvent {
            specversion: "1.0",
            id: &event.event_id,
            source: &event.source_agent,
            kind: &event.event_type,
            time: &event.timestamp,
            subject: event.subject(),
            datacontenttype: "application/json",
            correlationid: &event.correlation_id,
            causationid: &event.causation_id,
            traceparent: event.traceparent.as_deref(),
            tracestate: event.tracestate.as_deref(),
            data: &event.payload,
        })
    }
}

/// An event in the form of CloudEvents 1.0.
#[derive(Serialize, ToSchema)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    time: &'a str,
    subject: &'a str,
    datacontenttype: &'static str,
    correlationid: &'a str,
    causationid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    tracestate: Option<&'a str>,
    #[schema(value_type = Object)]
    data: &'a RawValue,
}

/// An event in the form that was asked for.
#[derive(ToSchema)]
#[schema(as = AnyEvent)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its description is used: each is written as it is read")]
enum AnyEvent<'a> {
    /// As on the bus.
    Native(Event),
    /// With `format=cloudevents`.
    CloudEvent(CloudEvent<'a>),
}

/// A page of events.
#[derive(Serialize, ToSchema)]
struct EventPage {
    /// Oldest first.
    #[schema(value_type = Vec<AnyEvent>)]
    items: Vec<Box<RawValue>>,
    /// Where the list goes on, if it does.
    next_cursor: Option<String>,
    /// Where the page ended, also when it was the last: what comes later is behind it.
    resume_after: String,
    /// Whether events behind `after` were trimmed before they were read.
    gap: bool,
}

/// Events of the log, oldest first; with `Accept: text/event-stream` those that come, as they come.
///
/// A stream goes on behind `Last-Event-ID`, or `after`, or `from`, and else begins with what comes next. An event `gap` says
/// that some were trimmed (`trimmed`) or undone (`rolled_back`) before they could be sent, and where it goes on; `bye` that
/// the replica stops. Each event's `id` is where to go on behind it.
#[utoipa::path(get, path = "/v1/events", operation_id = "read_events", tag = "events",
    params(
        ("after" = Option<String>, Query, description = "Only those behind this place: `0`, an entry id, or a `next_cursor`"),
        ("cursor" = Option<String>, Query, description = "The same as `after`, as other lists call it"),
        ("type" = Option<String>, Query, description = "Only those of this type; `*` at the end stands for anything, and several may stand with commas between them"),
        ("subject" = Option<String>, Query, description = "Only those of this task, workflow, saga or replica"),
        ("from" = Option<String>, Query, description = "Only those since then, RFC 3339", format = DateTime),
        ("to" = Option<String>, Query, description = "Only those until then, RFC 3339; not for a stream", format = DateTime),
        ("limit" = Option<u16>, Query, description = "How many to a page, 50 by default", minimum = 1, maximum = 1000),
        ("format" = Option<Format>, Query, description = "In which form; `native` by default"),
        ("Last-Event-ID" = Option<String>, Header, description = "For a stream: the id of the last event that was seen")),
    responses((status = 200, description = "A page, or a stream", content(
        (EventPage = "application/json"), (String = "text/event-stream")))))]
async fn events(State(api): State<Api>, headers: HeaderMap, mut query: Query) -> Result<Response, Problem> {
    let store = api.store();
    let partitions = store.partition_count();
    let after = query.text("after");
    let cursor = query.text("cursor");
    let pattern: Option<Pattern> = query.parsed("type");
    let subject = query.text("subject");
    let (from, to) = (query.moment("from"), query.moment("to"));
    let limit = query.limit();
    let format = query.text("format");
    query.finish()?;
    let is_cloud_event = match format.as_deref() {
        None | Some("native") => false,
        Some("cloudevents") => true,
        Some(_) => return Err(Problem::invalid("format", "expected `native` or `cloudevents`")),
    };
    let wanted = Wanted {
        pattern,
        subject,
        is_cloud_event,
    };
    let read = |field: &str, text: &str| {
        let wrong = || Problem::invalid(field, "expected 0, an entry id, or a `next_cursor` of this list");
        Cursor::read(text, partitions).ok_or_else(wrong)
    };
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let is_live = accepts.is_some_and(|accept| accept.to_ascii_lowercase().contains("text/event-stream"));
    let last_seen = headers.get("last-event-id").map(|id| id.to_str().unwrap_or("?"));
    let given = match (last_seen.filter(|id| is_live && !id.is_empty()), after.or(cursor)) {
        (Some(id), _) => Some(read("Last-Event-ID", id)?),
        (None, Some(text)) => Some(read("after", &text)?),
        (None, None) => None,
    };
    let begin = from.map(|ms| EntryId {
        ms: u64::try_from(ms).unwrap_or_default().saturating_sub(1),
        number: u64::MAX,
    });
    if is_live {
        if to.is_some() {
            return Err(Problem::invalid("to", "makes no sense for a stream, which has no end"));
        }
        return follow(&api, given, begin, wanted).await;
    }
    let mut cursor = given.unwrap_or_else(|| Cursor(vec![EntryId::default(); partitions.into()]));
    for place in &mut cursor.0 {
        *place = max(*place, begin.unwrap_or_default());
    }
    let upto = to.map(|ms| EntryId {
        ms: u64::try_from(ms).unwrap_or_default(),
        number: u64::MAX,
    });
    let page = page(store, cursor, upto, limit, &wanted).await?;
    Ok(Json(page).into_response())
}

struct Part {
    partition: Partition,
    /// What was passed.
    passed: EntryId,
    /// What was read.
    read: EntryId,
    ready: VecDeque<Event>,
    is_over: bool,
}

async fn page(
    store: &Store,
    cursor: Cursor,
    upto: Option<EntryId>,
    limit: usize,
    wanted: &Wanted,
) -> Result<EventPage, Problem> {
    let mut parts: Vec<Part> = store
        .partitions()
        .zip(cursor.0)
        .map(|(partition, after)| Part {
            partition,
            passed: after,
            read: after,
            ready: VecDeque::new(),
            is_over: false,
        })
        .collect();
    let (mut items, mut entries, mut bytes, mut gap) = (Vec::new(), 0, 0, false);
    let is_over = loop {
        for part in &mut parts {
            // As long as a partition may have more, its next event must be known before another's is the earliest.
            while part.ready.is_empty() && !part.is_over && entries < PAGE_ENTRIES_MAX {
                let found = store.log_part(part.partition, part.read, upto, PAGE_BATCH).await?;
                let is_asked_for_all = part.read == EntryId::default();
                gap |= !is_asked_for_all && found.trimmed_to.is_some_and(|trimmed| trimmed > part.read);
                part.passed = part.read;
                match found.last {
                    Some(last) => part.read = last,
                    None => part.is_over = true,
                }
                entries += found.events.len() + found.strangers.len();
                part.ready.extend(found.events);
                if part.ready.is_empty() {
                    part.passed = part.read;
                }
            }
        }
        if items.len() >= limit || bytes >= PAGE_BYTES {
            break false;
        }
        let place = |event: &Event| event.entry_id.parse::<EntryId>().unwrap_or_default();
        let waiting = parts.iter_mut().filter(|part| !part.ready.is_empty());
        let Some(part) = waiting.min_by_key(|part| part.ready.front().map(place)) else {
            break parts.iter().all(|part| part.is_over);
        };
        let Some(event) = part.ready.pop_front() else { continue };
        part.passed = if part.ready.is_empty() {
            part.read
        } else {
            place(&event)
        };
        if wanted.fits(&event) {
            let told = wanted.told(&event).map_err(unwritable)?;
            bytes += told.get().len();
            items.push(told);
        }
    };
    let has_more = !is_over && parts.iter().any(|part| !part.is_over || !part.ready.is_empty());
    let reached = Cursor(parts.iter().map(|part| part.passed).collect()).to_string();
    Ok(EventPage {
        items,
        next_cursor: has_more.then(|| reached.clone()),
        resume_after: reached,
        gap,
    })
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn unwritable(error: serde_json::Error) -> Problem {
    tracing::error!(%error, "an event can not be written as JSON");
    Problem::new("Internal", "the log of the replica tells more")
}

/// A place among those who follow, given up with its owner.
struct Seat(Api);

impl Seat {
    fn take(api: &Api) -> Result<Self, Problem> {
        let feed = &api.0.feed;
        if feed.stop().is_cancelled() {
            return Err(Problem::new("ShuttingDown", "ask another replica").retry_after(1));
        }
        if !feed.join() {
            let detail = format!("{FOLLOWERS_MAX} clients follow already; ask another replica, or later");
            return Err(Problem::new("TooManyStreams", detail).retry_after(10));
        }
        Ok(Self(api.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.0.feed.leave();
    }
}

/// Somebody who follows.
struct Follower {
    seat: Seat,
    news: watch::Receiver<u64>,
    cursor: Cursor,
    wanted: Arc<Wanted>,
    /// What is said before anything is read.
    greeting: Option<String>,
    is_over: bool,
}

async fn follow(api: &Api, given: Option<Cursor>, begin: Option<EntryId>, wanted: Wanted) -> Result<Response, Problem> {
    let seat = Seat::take(api)?;
    // Before the place is known, so that nothing falls in between.
    let news = api.0.feed.news();
    let newest: Vec<EntryId> = newest(api.store()).await?.into_iter().map(|(_, id)| id).collect();
    let mut greeting = "retry: 2000\n\n".to_owned();
    let cursor = match (given, begin) {
        (Some(mut cursor), _) => {
            if cursor.0.iter().zip(&newest).any(|(asked, newest)| asked > newest) {
                let requested = cursor.to_string();
                for (place, newest) in cursor.0.iter_mut().zip(&newest) {
                    *place = (*place).min(*newest);
                }
                greeting.push_str(&gap("rolled_back", &requested, &cursor));
            }
            cursor
        }
        (None, Some(begin)) => Cursor(vec![begin; newest.len()]),
        (None, None) => Cursor(newest),
    };
    let follower = Follower {
        seat,
        news,
        cursor,
        wanted: Arc::new(wanted),
        greeting: Some(greeting),
        is_over: false,
    };
    let stream = futures_util::stream::unfold(follower, async |mut follower| {
        let text = follower.next().await?;
        Some((Ok::<Bytes, Infallible>(Bytes::from(text)), follower))
    });
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/event-stream"),
        // Proxies shall hand on what comes as it comes.
        ("x-accel-buffering", "no"),
    ];
    Ok((headers, Body::from_stream(Box::pin(stream))).into_response())
}

/// Says that events are missing, and where it goes on.
fn gap(reason: &str, requested: &str, cursor: &Cursor) -> String {
    let data = json!({ "reason": reason, "requested": requested, "continues_after": cursor.to_string() });
    format!("id: {cursor}\nevent: gap\ndata: {data}\n\n")
}

impl Follower {
    /// What is to be sent next; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        if self.is_over {
            return None;
        }
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting);
        }
        let stop = self.seat.0.0.feed.stop().clone();
        loop {
            self.news.mark_unchanged();
            let read = tokio::select! {
                biased;
                () = stop.cancelled() => return Some(self.farewell()),
                read = self.read() => read,
            };
            match read {
                Ok((text, _)) if !text.is_empty() => return Some(text),
                Ok((_, true)) => continue,
                Ok((_, false)) => {}
                Err(error) => {
                    tracing::debug!(%error, "can not read the log for a stream");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Some(self.farewell()),
                _ = self.news.changed() => {}
                // An id without data moves the place of a client that sees nothing of what happens.
                () = tokio::time::sleep(KEEP_ALIVE) => return Some(format!(": keep-alive\nid: {}\n\n", self.cursor)),
            }
        }
    }

    fn farewell(&mut self) -> String {
        self.is_over = true;
        "event: bye\ndata: {\"reason\":\"shutdown\"}\n\n".to_owned()
    }

    /// Reads on; what is to be said, and whether there may be more.
    async fn read(&mut self) -> Result<(String, bool), StoreError> {
        let api = self.seat.0.clone();
        let feed = &api.0.feed;
        let (mut text, mut has_read) = (String::new(), false);
        for (number, partition) in api.store().partitions().enumerate() {
            let after = self.cursor.0[number];
            if let Some((events, reached)) =
                feed.behind(partition, after, FOLLOW_BATCH, |event| self.wanted.fits(event))
            {
                has_read |= reached > after;
                self.say(number, events.iter().map(AsRef::as_ref), Some(reached), &mut text);
                continue;
            }
            let turn = feed.turn().await;
            let part = api.store().log_part(partition, after, None, FOLLOW_BATCH).await?;
            if let Some(trimmed) = part.trimmed_to
                && trimmed > after
                && after != EntryId::default()
            {
                let requested = self.cursor.to_string();
                self.cursor.0[number] = trimmed;
                text.push_str(&gap("trimmed", &requested, &self.cursor));
            }
            has_read |= part.last.is_some();
            self.say(number, part.events.iter(), part.last, &mut text);
            drop(turn);
        }
        Ok((text, has_read))
    }

    /// Says events of a partition, as far as they fit, and moves its place behind them; behind all of them is `reached`.
    fn say<'e>(
        &mut self,
        number: usize,
        events: impl Iterator<Item = &'e Event>,
        reached: Option<EntryId>,
        text: &mut String,
    ) {
        for event in events {
            if text.len() >= FOLLOW_BYTES {
                return;
            }
            let Ok(place) = event.entry_id.parse() else { continue };
            self.cursor.0[number] = max(self.cursor.0[number], place);
            if self.wanted.fits(event)
                && let Ok(told) = self.wanted.told(event)
            {
                message(text, &self.cursor, told.get());
            }
        }
        if let Some(reached) = reached {
            self.cursor.0[number] = max(self.cursor.0[number], reached);
        }
    }
}

/// One message; JSON of several lines stays one value.
fn message(text: &mut String, cursor: &Cursor, json: &str) {
    // Writing to a text can not fail.
    writeln!(text, "id: {cursor}").unwrap_or_default();
    for line in json.split(['\n', '\r']) {
        writeln!(text, "data: {line}").unwrap_or_default();
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_one_place_or_one_for_each_partition() {
        let read = |text: &str, partitions| Cursor::read(text, partitions).map(|cursor| cursor.to_string());

        assert_eq!(read("0", 2).as_deref(), Some("0-0,0-0"));
        assert_eq!(read("5-1", 1).as_deref(), Some("5-1"));
        assert_eq!(read("5-1,6-0", 2).as_deref(), Some("5-1,6-0"));
        for wrong in ["", "x", "5", "5-1,", "1-1,2-2,3-3", "-1-1", "5-99999999999999999999"] {
            assert_eq!(read(wrong, 2), None, "{wrong}");
        }
    }

    #[test]
    fn json_of_several_lines_is_one_message() {
        let mut text = String::new();
        message(&mut text, &Cursor(vec![EntryId { ms: 5, number: 1 }]), "{\"a\":\r\n1}");

        assert_eq!(text, "id: 5-1\ndata: {\"a\":\ndata: \ndata: 1}\n\n");
    }
}
