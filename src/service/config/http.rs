//! Where the HTTP service listens, and whom it lets in.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use super::check::Check;
use super::path::KeyPath;
use super::raw::{RawHttp, RawToken};
use super::secret::Secret;

/// Section `http`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HttpConfig {
    /// Where to listen; port 0 lets the system choose.
    pub addr: SocketAddr,
    /// Who may come in. Once there is one, every route but the health checks asks for one.
    pub tokens: Vec<TokenConfig>,
    /// Whether to listen off loopback without any token.
    pub allow_unauthenticated: bool,
}

/// One bearer token, and what it is good for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TokenConfig {
    /// The token, typed in or read from its file.
    pub token: Secret,
    /// What it is good for.
    pub role: Role,
}

/// What a token is good for. Each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Looking.
    Read,
    /// Starting work, and doing it as an external worker.
    Trigger,
    /// Everything.
    Admin,
}

/// The text names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected `read`, `trigger` or `admin`")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "read" => Ok(Self::Read),
            "trigger" => Ok(Self::Trigger),
            "admin" => Ok(Self::Admin),
            _ => Err(UnknownRole),
        }
    }
}

impl HttpConfig {
    pub(super) fn checked(raw: RawHttp, check: &mut Check<'_>) -> Self {
        let has_tokens = !raw.tokens.is_empty();
        let addr = parse_addr(&raw.addr).unwrap_or_else(|| {
            check.refuse("http.addr", "expected an address and a port, such as 127.0.0.1:8001");
            (Ipv4Addr::LOCALHOST, 0).into()
        });
        if !addr.ip().is_loopback() && !has_tokens && !raw.allow_unauthenticated {
            check.refuse(
                "http.addr",
                "is reachable from outside: configure http.tokens, or set http.allow_unauthenticated = true",
            );
        }
        Self {
            addr,
            tokens: check_tokens(raw.tokens, check),
            allow_unauthenticated: raw.allow_unauthenticated,
        }
    }
}

fn parse_addr(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some((Ipv4Addr::LOCALHOST, port.parse().ok()?).into()),
        None => text.parse().ok(),
    }
}

fn check_tokens(raw: Vec<Option<RawToken>>, check: &mut Check<'_>) -> Vec<TokenConfig> {
    let mut seen = BTreeSet::new();
    let mut tokens = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let path = KeyPath::from("http.tokens").index(index);
        let Some(raw) = raw else {
            // One of the wrong type has been reported already, but a `null` is none, and must not pass for a token.
            if check.tree.shown(&path).is_none() {
                check.refuse(&path, "expected a table");
            }
            continue;
        };
        if raw.role.is_none() && check.tree.get(&path.key("role")).is_none() {
            check.refuse(&path, "has no `role`: expected `read`, `trigger` or `admin`");
        }
        let role = raw
            .role
            .as_deref()
            .and_then(|role| check.parsed(path.key("role"), role));
        let Some(token) = check_token(&path, raw, check) else {
            continue;
        };
        if !seen.insert(token.clone()) {
            check.refuse(&path, "is the same token as one before it");
        }
        tokens.extend(role.map(|role| TokenConfig {
            token: Secret::new(token),
            role,
        }));
    }
    tokens
}

/// The token itself, from where it was typed or from its file.
fn check_token(path: &KeyPath, raw: RawToken, check: &mut Check<'_>) -> Option<String> {
    let (place, token) = match (raw.token, raw.token_file) {
        (Some(token), None) => (path.key("token"), token),
        (None, Some(file)) => {
            let place = path.key("token_file");
            match fs::read_to_string(check.directory.join(file)) {
                Ok(token) => (place, token.trim().to_owned()),
                Err(error) => {
                    check.refuse(&place, format!("can not be read: {error}"));
                    return None;
                }
            }
        }
        (Some(_), Some(_)) | (None, None) => {
            check.refuse(path, "needs either `token` or `token_file`");
            return None;
        }
    };
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        check.refuse(&place, "expected a token of visible ASCII characters without spaces");
        return None;
    }
    Some(token)
}
