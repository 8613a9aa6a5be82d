//! Runs tasks by a POST to a service.
//!
//! The request goes to the one address of the configuration, never to one from a payload: redirects are not followed, the
//! environment names no proxy, and link-local addresses are refused after the name was resolved. What the answer means
//! is decided in `answer`. Dropping the future closes the connection, so a service sees that its answer is not wanted.
//!
//! Never decides whether another attempt follows, and never waits between two: that is the replica's.

mod answer;
mod resolver;
mod retry_after;
mod signature;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use tokio::net::TcpStream;
use url::{Host, Url};

use super::excerpt::Secrets;
use super::handler::{Handler, HandlerFuture, HandlerResult, TaskContext, TaskError};
use super::invocation;
use super::work::RESULT_BYTES_MAX;
use crate::domain::address::is_forbidden;
use resolver::{ForbiddenAddress, Resolver};
pub use signature::{InvalidSecret, Signer};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a probe may take; it is made while nothing else is.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an idle connection is asked whether its other end is there. A machine that vanished is so noticed within a
/// minute, also by a task without timeout.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How long a connection without use is kept: less than most services do, so that few requests meet one that just closed.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// What a handler can not be made of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTarget {
    /// The address makes no sense; it may hold secrets, so it is not repeated.
    #[error("the address is none that begins with http:// or https://")]
    Url,
    /// A header makes no sense.
    #[error("`{0}` is not a valid HTTP header, or one that the runtime sets itself")]
    Header(String),
    /// The signing secret makes no sense.
    #[error(transparent)]
    Secret(#[from] InvalidSecret),
    /// The client can not be made, for want of trusted certificates for instance.
    #[error("no HTTP client: {0}")]
    Client(String),
}

/// Headers that frame a message or belong to one connection: they follow from the body and are nobody's to set.
const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a configured header of this name can be sent.
#[must_use]
pub fn may_be_set(header: &str) -> bool {
    HeaderName::from_bytes(header.as_bytes()).is_ok_and(|name| !FRAMING.contains(&name.as_str()))
}

/// Where tasks of one name are sent.
#[derive(Clone)]
pub struct HttpHandler {
    target: Arc<Target>,
}

struct Target {
    client: Client,
    url: Url,
    headers: HeaderMap,
    signer: Option<Signer>,
    /// What no error may quote.
    secrets: Secrets,
}

impl HttpHandler {
    /// A handler that posts to `url` with these headers, signed when there is a secret.
    ///
    /// # Errors
    ///
    /// [`InvalidTarget`] by what is wrong.
    pub fn new<'a>(
        url: &str,
        headers: impl IntoIterator<Item = (&'a str, &'a str)>,
        signing_secret: Option<&str>,
    ) -> Result<Self, InvalidTarget> {
        let url = Url::parse(url).map_err(|_| InvalidTarget::Url)?;
        if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
            return Err(InvalidTarget::Url);
        }
        let mut secrets = Secrets::default();
        let mut own = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        for (name, text) in headers {
            let invalid = || InvalidTarget::Header(name.to_owned());
            if !may_be_set(name) {
                return Err(invalid());
            }
            let mut value = HeaderValue::from_str(text).map_err(|_| invalid())?;
            value.set_sensitive(true);
            own.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?, value);
            secrets.add(text);
        }
        secrets.add(url.password().unwrap_or_default());
        url.query_pairs().for_each(|(_, value)| secrets.add(&value));
        let signer = signing_secret.map(Signer::new).transpose()?;
        secrets.add(signing_secret.unwrap_or_default());
        let client = client(url.scheme() == "https").map_err(|error| InvalidTarget::Client(chain(&error)))?;
        let headers = own;
        Ok(Self {
            target: Arc::new(Target {
                client,
                url,
                headers,
                signer,
                secrets,
            }),
        })
    }
}

/// A client of its own for each target, so that one that is slow takes no connections from another.
fn client(is_secure: bool) -> reqwest::Result<Client> {
    // Rustls picks no provider by itself; the second installation of a process fails harmlessly.
    rustls::crypto::ring::default_provider()
        .install_default()
        .unwrap_or_default();
    let builder = Client::builder()
        .user_agent(concat!("waooaw/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .no_proxy()
        .dns_resolver(Resolver)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .tcp_keepalive(KEEPALIVE)
        .tcp_keepalive_interval(KEEPALIVE)
        .tcp_keepalive_retries(2_u32)
        .pool_idle_timeout(IDLE_MAX);
    if is_secure {
        builder.build()
    } else {
        // Nothing to trust: a machine without certificates can still reach its own services.
        builder.tls_certs_only([]).build()
    }
}

impl Handler for HttpHandler {
    fn run(&self, task: TaskContext) -> HandlerFuture {
        let target = Arc::clone(&self.target);
        Box::pin(async move { target.post(&task).await })
    }

    fn has_target(&self) -> bool {
        true
    }

    fn probe(&self) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        let target = Arc::clone(&self.target);
        Box::pin(async move {
            tokio::time::timeout(PROBE_TIMEOUT, target.is_reachable())
                .await
                .unwrap_or(false)
        })
    }
}

impl Target {
    async fn post(&self, task: &TaskContext) -> HandlerResult {
        // A literal address is never resolved.
        if let Some(address) = self.literal().filter(|address| is_forbidden(*address)) {
            return Err(forbidden(&ForbiddenAddress(address).to_string()));
        }
        let body = invocation::json(task);
        let headers = self.headers_for(task, &body);
        let request = self.client.post(self.url.clone()).headers(headers).body(body);
        let mut response = request.send().await.map_err(|error| self.broken(error))?;
        let (body, is_whole) = read(&mut response).await.map_err(|error| self.broken(error))?;
        answer::result(response.status(), response.headers(), &body, is_whole, &self.secrets)
    }

    /// The configured headers, and above them those that are ours to set.
    fn headers_for(&self, task: &TaskContext, body: &str) -> HeaderMap {
        let mut headers = self.headers.clone();
        // An id has no character that a header could not carry; a trace state may.
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        let id = task.task_id.to_string();
        set("content-type", "application/json");
        set("idempotency-key", &id);
        if let Some(traceparent) = &task.traceparent {
            set("traceparent", traceparent);
            set("tracestate", task.tracestate.as_deref().unwrap_or_default());
        }
        if let Some(signer) = &self.signer {
            let timestamp = jiff::Timestamp::now().as_second();
            set("webhook-id", &id);
            set("webhook-timestamp", &timestamp.to_string());
            set("webhook-signature", &signer.sign(&id, timestamp, body.as_bytes()));
        }
        headers
    }

    /// The address, where the configuration names one instead of a host.
    fn literal(&self) -> Option<IpAddr> {
        match self.url.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }

    /// Whether anybody listens there, without saying anything.
    async fn is_reachable(&self) -> bool {
        let Some(port) = self.url.port_or_known_default() else {
            return false;
        };
        let addresses = match (self.literal(), self.url.domain()) {
            (Some(address), _) => vec![address],
            (None, Some(name)) => resolver::allowed_addresses(name).await.unwrap_or_default(),
            (None, None) => Vec::new(),
        };
        for address in addresses.into_iter().filter(|address| !is_forbidden(*address)) {
            if TcpStream::connect((address, port)).await.is_ok() {
                return true;
            }
        }
        false
    }

    /// What a request that got no whole answer means.
    fn broken(&self, error: reqwest::Error) -> TaskError {
        let is_connecting = error.is_connect();
        let is_ours = error.is_builder();
        // The address may hold secrets.
        let error = error.without_url();
        if let Some(address) = forbidden_in(&error) {
            return forbidden(&address.to_string());
        }
        let causes = self.secrets.masked(&chain(&error));
        if is_ours {
            TaskError::permanent("invalid_request", &causes)
        } else if is_connecting {
            TaskError::unreachable(&format!("can not connect: {causes}"))
        } else {
            // The request may have been acted upon.
            TaskError {
                is_unreachable: true,
                ..TaskError::new(&format!("the connection broke before the answer was whole: {causes}"))
                    .with_kind("connection_broken")
            }
        }
    }
}

fn forbidden(what: &str) -> TaskError {
    TaskError::permanent("forbidden_address", what)
}

/// The forbidden address that an error is about, if it is about one.
fn forbidden_in(error: &reqwest::Error) -> Option<&ForbiddenAddress> {
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        if let Some(found) = source.downcast_ref() {
            return Some(found);
        }
        cause = source.source();
    }
    None
}

/// What is behind an error, from the outermost cause in; the error itself only says that sending failed.
fn chain(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        causes.push(source.to_string());
        cause = source.source();
    }
    if causes.is_empty() {
        causes.push(error.to_string());
    }
    causes.join(": ")
}

/// The body up to a little more than is kept of a result, and whether that is all of it.
async fn read(response: &mut Response) -> reqwest::Result<(Vec<u8>, bool)> {
    let announced = response.content_length().unwrap_or_default();
    let mut body = Vec::with_capacity(usize::try_from(announced).unwrap_or_default().min(RESULT_BYTES_MAX));
    while let Some(chunk) = response.chunk().await? {
        let room = RESULT_BYTES_MAX - body.len();
        if chunk.len() > room {
            body.extend_from_slice(&chunk[..room]);
            return Ok((body, false));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((body, true))
}
