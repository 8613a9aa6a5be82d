//! What is read off a request: its path, its query and its body, all of them within limits.
//!
//! Every fault of a query is told at once, and what is not known is refused by name, as on the bus.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::domain::envelope::Envelope;
use crate::domain::rejection::{Problem as Fault, Reason, Rejection};
use crate::domain::trigger::TaskCancel;

/// The most bytes of a body: as many as an entry of the bus may have.
pub(super) const BODY_BYTES_MAX: usize = Envelope::MAX_BYTES;
/// The most bytes of a query.
const QUERY_BYTES_MAX: usize = 8 << 10;
/// How much of a body that is too large is read and thrown away before the answer, in bytes. Many clients write all of it before
/// they read, and one that is hung up on then never sees why.
const DRAINED_BYTES_MAX: usize = 8 << 20;
/// How long that may take.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);
/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// How many items a page has where the request does not say.
pub(super) const LIMIT_DEFAULT: u16 = 50;
/// The most items of a page.
pub(super) const LIMIT_MAX: u16 = 1000;
/// The longest name of an actor, in bytes.
pub(super) const ACTOR_BYTES_MAX: usize = 256;

/// The id in the path.
pub(super) struct Id(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Self(id)),
            Err(_) => Err(Problem::new("NotFound", "the path is not valid UTF-8")),
        }
    }
}

/// The two halves of an id that has a slash.
pub(super) struct Halves(pub(super) String, pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Halves {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<(String, String)>::from_request_parts(parts, state).await {
            Ok(Path((first, second))) => Ok(Self(first, second)),
            Err(_) => Err(Problem::new("NotFound", "the path is not valid UTF-8")),
        }
    }
}

/// The query of a request, read parameter by parameter.
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    faults: Vec<Fault>,
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let text = parts.uri.query().unwrap_or_default();
        if text.len() > QUERY_BYTES_MAX {
            let message = format!("has {} bytes, must have at most {QUERY_BYTES_MAX}", text.len());
            return Err(Problem::invalid("query", message));
        }
        Ok(Self {
            pairs: url::form_urlencoded::parse(text.as_bytes()).into_owned().collect(),
            faults: Vec::new(),
        })
    }
}

impl Query {
    fn fault(&mut self, field: &str, message: impl Into<String>) {
        self.faults.push(Fault {
            field: Some(field.to_owned()),
            message: message.into(),
        });
    }

    /// The parameter's text; an empty one counts as absent.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        let (own, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pairs)
            .into_iter()
            .partition(|(known, _)| known == name);
        self.pairs = rest;
        if own.len() > 1 {
            self.fault(name, "comes more than once");
        }
        let (_, value) = own.into_iter().next()?;
        (!value.is_empty()).then_some(value)
    }

    /// The parameter as what it should be.
    pub(super) fn parsed<T>(&mut self, name: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.text(name)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(name, error.to_string());
                None
            }
        }
    }

    /// The parameter as a moment in RFC 3339, in ms since the epoch.
    pub(super) fn moment(&mut self, name: &str) -> Option<i64> {
        let text = self.text(name)?;
        let moment = crate::domain::rfc3339::parse_ms(&text);
        if moment.is_none() {
            self.fault(name, "expected a time in RFC 3339, such as 2026-01-31T12:00:00Z");
        }
        moment
    }

    /// How many items a page may have.
    pub(super) fn limit(&mut self) -> usize {
        let Some(text) = self.text("limit") else {
            return LIMIT_DEFAULT.into();
        };
        match text.parse::<u16>() {
            Ok(limit) if (1..=LIMIT_MAX).contains(&limit) => limit.into(),
            Ok(_) | Err(_) => {
                self.fault("limit", format!("expected a number from 1 to {LIMIT_MAX}"));
                LIMIT_DEFAULT.into()
            }
        }
    }

    /// Refuses what is wrong and what is left.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        let unknown: Vec<String> = self.pairs.iter().map(|(name, _)| name.clone()).collect();
        for name in unknown.iter().take(16) {
            self.fault(&crate::domain::id::shortened(name), "is not a known parameter");
        }
        if self.faults.is_empty() {
            return Ok(());
        }
        Err(Rejection {
            reason: Reason::InvalidField,
            problems: self.faults,
            cycle: Vec::new(),
        }
        .into())
    }
}

/// A body of JSON, as text; empty where there is none.
pub(super) struct JsonText(pub(super) String);

impl<S: Send + Sync> FromRequest<S> for JsonText {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        read(&parts.headers, body).await.map(Self)
    }
}

async fn read(headers: &HeaderMap, body: Body) -> Result<String, Problem> {
    let too_large = || {
        let detail = format!("a body may have {BODY_BYTES_MAX} bytes");
        Problem::new("PayloadTooLarge", detail)
    };
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok());
    if announced
        .and_then(|length| length.parse().ok())
        .is_some_and(|length: u64| length > BODY_BYTES_MAX as u64)
    {
        // Who asks first whether to send it reads the answer first, too.
        if !headers.contains_key(header::EXPECT) {
            drain(body.into_data_stream()).await;
        }
        return Err(too_large());
    }
    let mut pieces = body.into_data_stream();
    let bytes = match tokio::time::timeout(BODY_PATIENCE, collect(&mut pieces)).await {
        Ok(Ok(Some(bytes))) => bytes,
        Ok(Ok(None)) => {
            drain(pieces).await;
            return Err(too_large());
        }
        Ok(Err(_)) => return Err(Problem::new("RequestTimeout", "the body broke off")),
        Err(_) => return Err(Problem::new("RequestTimeout", "the body did not arrive within 30 s")),
    };
    if bytes.is_empty() {
        return Ok(String::new());
    }
    if !is_json(headers) {
        let detail = "send the header `Content-Type: application/json`";
        return Err(Problem::new("UnsupportedMediaType", detail));
    }
    String::from_utf8(bytes).map_err(|_| {
        let message = "is not valid UTF-8";
        Rejection::new(Reason::Malformed, Some("body"), message).into()
    })
}

/// The whole of a body, or `None` as soon as it is too large.
async fn collect(pieces: &mut BodyDataStream) -> Result<Option<Vec<u8>>, axum::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        if bytes.len() + piece.len() > BODY_BYTES_MAX {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes))
}

/// Reads on, within limits, and keeps nothing.
async fn drain(mut pieces: BodyDataStream) {
    let reading = async {
        let mut drained = 0;
        while let Some(Ok(piece)) = pieces.next().await {
            drained += piece.len();
            if drained > DRAINED_BYTES_MAX {
                break;
            }
        }
    };
    tokio::time::timeout(DRAIN_PATIENCE, reading).await.unwrap_or_default();
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| {
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
    })
}

/// A body of JSON with these fields; without a body all of them are absent.
pub(super) struct Fields<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Fields<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let JsonText(text) = JsonText::from_request(request, state).await?;
        let text = if text.is_empty() { "{}" } else { &text };
        // Structures would be read from lists too.
        if !text.trim_start().starts_with('{') {
            return Err(Rejection::new(Reason::Malformed, Some("body"), "is not a JSON object").into());
        }
        let mut reader = serde_json::Deserializer::from_str(text);
        let read = serde_path_to_error::deserialize(&mut reader);
        let value = read.map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." { "body" } else { &path };
            Problem::from(Rejection::new(
                Reason::InvalidField,
                Some(field),
                error.inner().to_string(),
            ))
        })?;
        if let Err(error) = reader.end() {
            return Err(Rejection::new(Reason::Malformed, Some("body"), error.to_string()).into());
        }
        Ok(Self(value))
    }
}

/// Somebody's own words for what they do, and their name: within limits.
pub(super) fn check_words(actor: Option<&str>, reason: Option<&str>) -> Result<(), Problem> {
    if let Some(actor) = actor
        && (actor.is_empty() || actor.len() > ACTOR_BYTES_MAX || actor.contains(char::is_control))
    {
        let message = format!("must have 1 to {ACTOR_BYTES_MAX} bytes and no control characters");
        return Err(Problem::invalid("actor", message));
    }
    if let Some(reason) = reason
        && reason.len() > TaskCancel::MAX_REASON_BYTES
    {
        let message = format!(
            "has {} bytes, must have at most {}",
            reason.len(),
            TaskCancel::MAX_REASON_BYTES
        );
        return Err(Problem::invalid("reason", message));
    }
    Ok(())
}
