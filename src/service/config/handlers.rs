//! What runs a task of a given name, and the task's defaults.
//!
//! Every kind is read and checked here in full. Whether this program can run a kind, and whether a builtin of that name
//! exists, is for those who run them to say.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use url::{Host, Url};

use super::check::Check;
use super::path::KeyPath;
use super::raw::RawHandler;
use super::secret::{Secret, SecretUrl};
use crate::domain::address::is_forbidden;
use crate::domain::id::Name;
use crate::domain::priority::Priority;
use crate::domain::retry::RetryPolicy;
use crate::runtime::http_handler::{Signer, may_be_set};

/// One `[handlers.<task_name>]`. What is `None` is decided by the trigger, or by the defaults of all tasks.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HandlerConfig {
    /// What runs the task.
    pub kind: HandlerKind,
    /// The queue of triggers that name none.
    pub queue: Option<Name>,
    /// How long one attempt may take where the trigger does not say.
    pub timeout: Option<Duration>,
    /// How its failures are retried where the trigger does not say.
    pub retry: Option<RetryPolicy>,
    /// The priority of triggers that name none.
    pub priority: Option<Priority>,
    /// How many tasks of this name run at a time, across all replicas.
    pub max_running: Option<NonZeroU32>,
}

/// What runs a task.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum HandlerKind {
    /// The function of the same name that comes with this program.
    Builtin,
    /// A POST to a service.
    Http {
        /// Where to.
        url: SecretUrl,
        /// Sent along; values are secret since they often are credentials.
        headers: BTreeMap<String, Secret>,
        /// Signs each request as Standard Webhooks do.
        signing_secret: Option<Secret>,
    },
    /// A program, started once per attempt, without a shell.
    Command {
        /// The program and its arguments.
        argv: Vec<String>,
        /// What it sees besides what every program sees; values are secret since they often are credentials.
        env: BTreeMap<String, Secret>,
    },
    /// An agent, which gets the task through its inbox.
    Agent {
        /// Which.
        agent_id: Name,
        /// How long it may be silent.
        heartbeat_timeout: Duration,
    },
}

/// How long an agent may be silent where the configuration does not say, in seconds.
const HEARTBEAT_TIMEOUT_SECONDS: f64 = 60.0;

/// Each kind with the fields that only it has.
const KINDS: [(&str, &[&str]); 4] = [
    ("builtin", &[]),
    ("http", &["url", "headers", "signing_secret"]),
    ("command", &["argv", "env"]),
    ("agent", &["agent_id", "heartbeat_timeout_seconds"]),
];

pub(super) fn checked(
    raw: BTreeMap<String, Option<RawHandler>>,
    check: &mut Check<'_>,
) -> BTreeMap<Name, HandlerConfig> {
    let mut handlers = BTreeMap::new();
    for (name, raw) in raw {
        let path = KeyPath::from("handlers").key(&name);
        let Some(raw) = raw else { continue };
        let task_name = name.parse().map_err(|error: crate::domain::id::InvalidId| {
            check.refuse_key(&path, error.to_string());
        });
        if let (Some(handler), Ok(task_name)) = (checked_handler(raw, &path, check), task_name) {
            handlers.insert(task_name, handler);
        }
    }
    handlers
}

fn checked_handler(mut raw: RawHandler, path: &KeyPath, check: &mut Check<'_>) -> Option<HandlerConfig> {
    let queue = raw
        .queue
        .take()
        .and_then(|queue| check.parsed(path.key("queue"), &queue));
    let timeout = raw
        .timeout_seconds
        .map(|seconds| check.seconds(path.key("timeout_seconds"), seconds));
    let retry = raw.retry.take().map(|retry| check.retry(path.key("retry"), &retry));
    let priority = raw
        .priority
        .take()
        .and_then(|priority| check.parsed(path.key("priority"), &priority));
    let max_running = raw
        .max_running
        .and_then(|limit| check.limit(path.key("max_running"), limit));
    let kind = checked_kind(raw, path, check)?;
    Some(HandlerConfig {
        kind,
        queue,
        timeout,
        retry,
        priority,
        max_running,
    })
}

fn checked_kind(raw: RawHandler, path: &KeyPath, check: &mut Check<'_>) -> Option<HandlerKind> {
    const EXPECTED: &str = "expected `builtin`, `http`, `command` or `agent`";
    let kind_path = path.key("kind");
    let Some(kind) = raw.kind.clone() else {
        // A kind of the wrong type has been reported already.
        if check.tree.get(&kind_path).is_none() {
            check.refuse(kind_path, format!("is missing: {EXPECTED}"));
        }
        return None;
    };
    for (other, fields) in KINDS.into_iter().filter(|(other, _)| *other != kind) {
        for field in fields {
            if KINDS.iter().any(|(known, _)| *known == kind) && check.tree.get(&path.key(field)).is_some() {
                check.refuse(path.key(field), format!("belongs to kind `{other}`, not to `{kind}`"));
            }
        }
    }
    match kind.as_str() {
        "builtin" => Some(HandlerKind::Builtin),
        "http" => checked_http(raw, path, check),
        "command" => checked_command(raw, path, check),
        "agent" => checked_agent(&raw, path, check),
        _ => {
            check.refuse(kind_path, EXPECTED);
            None
        }
    }
}

fn checked_http(raw: RawHandler, path: &KeyPath, check: &mut Check<'_>) -> Option<HandlerKind> {
    let url = required(raw.url, path, "url", check);
    if let Some(url) = &url {
        match Url::parse(url) {
            Ok(url) if ["http", "https"].contains(&url.scheme()) && url.has_host() => {
                if literal_address(&url).is_some_and(is_forbidden) {
                    let place = path.key("url");
                    check.warnings.push(format!(
                        "{place} is link-local or a metadata service: every request will be refused"
                    ));
                }
            }
            Ok(_) | Err(_) => check.refuse(
                path.key("url"),
                "expected an address that begins with http:// or https://",
            ),
        }
    }
    let mut headers = BTreeMap::new();
    for (name, value) in raw.headers.unwrap_or_default() {
        let Some(value) = value else { continue };
        let place = path.key("headers").key(&name);
        if !is_header_name(&name) || value.chars().any(|c| c.is_control() && c != '\t') {
            check.refuse(place, "is not a valid HTTP header");
        } else if !may_be_set(&name) {
            check.refuse_key(&place, "belongs to the connection and can not be set");
        }
        headers.insert(name, Secret::new(value));
    }
    if let Some(Err(problem)) = raw.signing_secret.as_deref().map(Signer::new) {
        check.refuse(path.key("signing_secret"), problem.to_string());
    }
    Some(HandlerKind::Http {
        url: SecretUrl::new(url?),
        headers,
        signing_secret: raw.signing_secret.map(Secret::new),
    })
}

/// The address, where a URL names one instead of a host.
fn literal_address(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// Whether a name is a token of RFC 9110, section 5.6.2.
fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn checked_command(raw: RawHandler, path: &KeyPath, check: &mut Check<'_>) -> Option<HandlerKind> {
    let argv: Vec<_> = required(raw.argv, path, "argv", check)?.into_iter().flatten().collect();
    if argv.first().is_none_or(String::is_empty) || argv.iter().any(|argument| argument.contains('\0')) {
        check.refuse(path.key("argv"), "expected a program and its arguments");
    }
    let mut env = BTreeMap::new();
    for (name, value) in raw.env.unwrap_or_default() {
        let Some(value) = value else { continue };
        let place = path.key("env").key(&name);
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            check.refuse(place, "is not a valid environment variable");
        } else if name.starts_with("WAOOAW_") {
            check.refuse_key(&place, "names that begin with WAOOAW_ are set by the runtime");
        }
        env.insert(name, Secret::new(value));
    }
    Some(HandlerKind::Command { argv, env })
}

fn checked_agent(raw: &RawHandler, path: &KeyPath, check: &mut Check<'_>) -> Option<HandlerKind> {
    let seconds = raw.heartbeat_timeout_seconds.unwrap_or(HEARTBEAT_TIMEOUT_SECONDS);
    let heartbeat_timeout = check.seconds(path.key("heartbeat_timeout_seconds"), seconds);
    let agent_id = required(raw.agent_id.as_deref(), path, "agent_id", check)?;
    Some(HandlerKind::Agent {
        agent_id: check.parsed(path.key("agent_id"), agent_id)?,
        heartbeat_timeout,
    })
}

/// A field that the kind can not do without.
fn required<T>(value: Option<T>, path: &KeyPath, field: &str, check: &mut Check<'_>) -> Option<T> {
    let place = path.key(field);
    // One of the wrong type has been reported already.
    if value.is_none() && check.tree.get(&place).is_none() {
        check.refuse(place, "is missing");
    }
    value
}
