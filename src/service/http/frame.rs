//! What is around every answer: an id of its request, strict headers, a line in the log, and an answer even to what panics.

use std::any::Any;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;

use super::Api;
use super::problem::Problem;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is taken over from a request.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Headers of every answer that has none of that name: it is data for programs, and no browser shall take it for more.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Puts the frame around routes.
pub(super) fn around(router: Router<Api>, api: &Api) -> Router<Api> {
    router
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(api.clone(), frame))
}

/// The words of a panic may hold anything, so only the log has them.
#[allow(clippy::needless_pass_by_value, reason = "the layer hands it over")]
fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let words = cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied());
    tracing::error!(panic = words.unwrap_or("no words"), "a request panicked");
    Problem::new("Internal", "the log of the replica tells more").into_response()
}

async fn frame(State(api): State<Api>, path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let method = request.method().clone();
    let asked = request.uri().path().to_owned();
    // Paths hold ids; what is logged of one that is not known could be anything.
    let route = path.as_ref().map_or("-", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("http", request_id = %id);
    let began = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let told = problem.of_request(&asked, &id).into_response();
        let (parts, body) = told.into_parts();
        response = Response::from_parts(parts, body);
    }
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    let known = path.as_ref().map(MatchedPath::as_str);
    api.traffic().note(known, &method, response.status(), began.elapsed());
    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let status = response.status().as_u16();
    span.in_scope(|| tracing::debug!(%method, route, status, elapsed_ms, "answered"));
    response
}

/// The id that the request brings, where it is one that can be logged and sent; else a new one.
fn request_id(request: &Request) -> String {
    let brought = request.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok());
    let is_fine = |id: &&str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
        !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.bytes().all(is_plain)
    };
    brought
        .filter(is_fine)
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}
