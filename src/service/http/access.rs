//! Who may do what: bearer tokens with roles, denied unless allowed.
//!
//! Every route is added with its [`Access`], so none can be without. What was not added as a route needs a token too: who has
//! none learns nothing, not even which paths there are. Tokens are kept as SHA-256 digests, and a token that is shown is
//! compared with all of them byte by byte to the end, so the time that it takes tells nothing.
//!
//! Without any token the service listens on loopback, where everybody may do everything, but for other people's web pages: a
//! browser on this machine would send their requests too. They give themselves away by the name that they call this host,
//! and by the headers that browsers add.

use std::collections::HashMap;
use std::hint::black_box;
use std::net::IpAddr;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::service::config::{HttpConfig, Role};

/// What a route asks of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing.
    Open,
    /// A token of this role or a higher one.
    Needs(Role),
}

/// Who asks, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    /// The role of their token; `None` where there are no tokens.
    role: Option<Role>,
}

impl Caller {
    /// What stands on the log where they give no name.
    pub(super) const fn name(self) -> &'static str {
        match self.role {
            None => "http",
            Some(Role::Read) => "http:read",
            Some(Role::Trigger) => "http:trigger",
            Some(Role::Admin) => "http:admin",
        }
    }
}

/// Checks requests.
pub(super) struct Guard {
    tokens: Vec<([u8; 32], Role)>,
    /// Whether others than this machine's programs are kept out by where it listens.
    trusts_loopback: bool,
    table: HashMap<(Method, String), Access>,
}

const BEARER: &str = "Bearer";

impl Guard {
    /// The tokens of the configuration, and the routes as they were added.
    pub(super) fn new(config: &HttpConfig, table: HashMap<(Method, String), Access>) -> Self {
        let tokens = config.tokens.iter();
        Self {
            tokens: tokens.map(|one| (digest(one.token.reveal()), one.role)).collect(),
            trusts_loopback: config.tokens.is_empty() && config.addr.ip().is_loopback(),
            table,
        }
    }

    /// Whether the request may go on, and who asks.
    fn check(&self, method: &Method, path: Option<&str>, headers: &HeaderMap) -> Result<Caller, Problem> {
        // What answers GET answers HEAD.
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let access = match path.and_then(|path| self.table.get(&(method.clone(), path.to_owned()))) {
            Some(access) => *access,
            // It will be answered that there is no such route or method, to those who may know.
            None => Access::Needs(Role::Read),
        };
        if self.trusts_loopback {
            check_is_no_web_page(method, headers)?;
        }
        let Access::Needs(needed) = access else {
            return Ok(Caller { role: None });
        };
        if self.tokens.is_empty() {
            return Ok(Caller { role: None });
        }
        let role = match bearer(headers) {
            Some(shown) => self.role_of(shown).ok_or_else(|| unauthorized(true))?,
            None => return Err(unauthorized(false)),
        };
        if role < needed {
            let detail = format!(
                "this needs a token of role `{}`, yours has `{}`",
                role_name(needed),
                role_name(role)
            );
            return Err(Problem::new("Forbidden", detail));
        }
        Ok(Caller { role: Some(role) })
    }

    /// The role of a token. Looks at every byte of every token, whichever fits.
    fn role_of(&self, shown: &str) -> Option<Role> {
        let shown = digest(shown);
        let mut found = None;
        for (token, role) in &self.tokens {
            let differing = token
                .iter()
                .zip(&shown)
                .fold(0, |bits, (a, b)| black_box(bits | (a ^ b)));
            if black_box(differing) == 0 {
                found = Some(*role);
            }
        }
        found
    }
}

/// A role as it is configured.
pub(super) const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Read => "read",
        Role::Trigger => "trigger",
        Role::Admin => "admin",
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The token that a request shows. One that comes twice counts as none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case(BEARER).then(|| token.trim())
}

fn unauthorized(is_wrong: bool) -> Problem {
    let (detail, challenge) = if is_wrong {
        (
            "the token is not known",
            "Bearer realm=\"waooaw\", error=\"invalid_token\"",
        )
    } else {
        (
            "send the header `Authorization: Bearer <token>` with a token of `http.tokens`",
            "Bearer realm=\"waooaw\"",
        )
    };
    Problem::new("Unauthorized", detail).with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

/// Refuses what a web page of somebody else makes a browser on this machine send.
fn check_is_no_web_page(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    // A name that is made to lead here would give a web page of that name access to everything.
    let host = text("host").unwrap_or_default();
    if !host.is_empty() && !is_this_machine(host) {
        let detail = "without `http.tokens` this service answers to `localhost` and to addresses, not to other names";
        return Err(Problem::new("Forbidden", detail));
    }
    if method.is_safe() {
        return Ok(());
    }
    let is_elsewhere = text("sec-fetch-site").is_some_and(|site| !["same-origin", "none"].contains(&site))
        || text("origin").is_some_and(|origin| origin.split_once("://").is_none_or(|(_, from)| from != host));
    if is_elsewhere {
        return Err(Problem::new(
            "Forbidden",
            "a web page of another origin may not change anything here",
        ));
    }
    Ok(())
}

fn is_this_machine(host: &str) -> bool {
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let bare = without_port.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.to_ascii_lowercase().ends_with(".localhost")
        || bare.parse::<IpAddr>().is_ok()
}

/// Lets a request through, or answers why not.
pub(super) async fn check(
    State(guard): State<std::sync::Arc<Guard>>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = path.as_ref().map(MatchedPath::as_str);
    match guard.check(request.method(), path, request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::config::{Config, Secret, TokenConfig};

    fn guard(tokens: &[(&str, Role)]) -> Guard {
        let mut config = Config::default().http;
        config.tokens = tokens
            .iter()
            .map(|(token, role)| TokenConfig {
                token: Secret::new(*token),
                role: *role,
            })
            .collect();
        let routes = [
            ((Method::GET, "/open"), Access::Open),
            ((Method::GET, "/read"), Access::Needs(Role::Read)),
            ((Method::POST, "/read"), Access::Needs(Role::Admin)),
        ];
        let routes = routes
            .into_iter()
            .map(|((method, path), access)| ((method, path.to_owned()), access));
        Guard::new(&config, routes.collect())
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (
                header::HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_token_opens_what_its_role_includes_and_nothing_else() {
        let guard = guard(&[("reader", Role::Read), ("boss", Role::Admin)]);
        let status = |method: &Method, path: &str, authorization: Option<&str>| {
            let headers = authorization.map_or_else(HeaderMap::new, |value| headers(&[("authorization", value)]));
            let checked = guard.check(method, Some(path), &headers);
            checked.map_or_else(|problem| problem.into_response().status().as_u16(), |_| 200)
        };

        for (method, path, authorization, expected) in [
            (Method::GET, "/open", None, 200),
            (Method::GET, "/read", None, 401),
            (Method::GET, "/read", Some("Bearer reader"), 200),
            (Method::HEAD, "/read", Some("bearer reader"), 200),
            (Method::GET, "/read", Some("Bearer boss"), 200),
            (Method::GET, "/read", Some("Bearer reade"), 401),
            (Method::GET, "/read", Some("Bearer reader2"), 401),
            (Method::GET, "/read", Some("Basic reader"), 401),
            (Method::GET, "/read", Some("reader"), 401),
            (Method::GET, "/read", Some("Bearer "), 401),
            (Method::POST, "/read", Some("Bearer reader"), 403),
            (Method::POST, "/read", Some("Bearer boss"), 200),
            (Method::DELETE, "/read", None, 401),
            (Method::GET, "/nothing", None, 401),
        ] {
            assert_eq!(
                status(&method, path, authorization),
                expected,
                "{method} {path} {authorization:?}"
            );
        }
        let twice = {
            let mut twice = headers(&[("authorization", "Bearer boss")]);
            twice.append("authorization", HeaderValue::from_static("Bearer boss"));
            twice
        };
        assert!(guard.check(&Method::GET, Some("/read"), &twice).is_err());
    }

    #[test]
    fn without_tokens_other_peoples_web_pages_stay_out() {
        let guard = guard(&[]);
        for (method, pairs, is_let_in) in [
            (Method::POST, vec![("host", "127.0.0.1:8001")], true),
            (Method::POST, vec![("host", "localhost:8001")], true),
            (Method::POST, vec![("host", "[::1]:8001")], true),
            (Method::GET, vec![("host", "evil.example")], false),
            (Method::GET, vec![("host", "localhost.evil.example:8001")], false),
            (
                Method::POST,
                vec![("host", "localhost:8001"), ("origin", "http://localhost:8001")],
                true,
            ),
            (
                Method::POST,
                vec![("host", "localhost:8001"), ("origin", "http://evil.example")],
                false,
            ),
            (
                Method::POST,
                vec![("host", "localhost:8001"), ("origin", "null")],
                false,
            ),
            (
                Method::POST,
                vec![("host", "localhost:8001"), ("sec-fetch-site", "cross-site")],
                false,
            ),
            (
                Method::POST,
                vec![("host", "localhost:8001"), ("sec-fetch-site", "same-origin")],
                true,
            ),
            (
                Method::GET,
                vec![("host", "localhost:8001"), ("sec-fetch-site", "cross-site")],
                true,
            ),
        ] {
            let outcome = guard.check(&method, Some("/read"), &headers(&pairs));
            assert_eq!(outcome.is_ok(), is_let_in, "{method} {pairs:?}");
        }
    }
}
