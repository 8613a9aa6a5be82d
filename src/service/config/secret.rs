//! Values that must not show up in logs, and what is shown in their place.
//!
//! A type that masks itself is the only reliable way: a configuration gets printed by `{:?}` somewhere sooner or later.

use std::fmt;

use url::Url;

/// What stands in for a secret.
pub(super) const MASK: &str = "***";

/// A text that prints as `***`. Has no `==` on purpose: comparing tokens must not take a time that depends on the match.
#[derive(Clone)]
pub struct Secret(Box<str>);

impl Secret {
    /// Hides `text`.
    #[must_use]
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// An address that prints without its password and its query: `redis://user:***@host`.
#[derive(Clone)]
pub struct SecretUrl(Box<str>);

impl SecretUrl {
    /// Hides the secret parts of `text`, which should be a URL.
    #[must_use]
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The whole address, for the one place that connects.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked_url(&self.0))
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked_url(&self.0))
    }
}

/// The address without its password and its query. Wherever the parts can not be told apart for sure, a password with
/// an unescaped `/` for instance, only the scheme is left.
pub(super) fn masked_url(text: &str) -> String {
    let scheme_only = || {
        text.split_once("://")
            .map_or_else(|| MASK.to_owned(), |(scheme, _)| format!("{scheme}://{MASK}"))
    };
    let Some(mut url) = Url::parse(text).ok().filter(Url::has_host) else {
        return if text.contains(['@', '?']) {
            scheme_only()
        } else {
            text.to_owned()
        };
    };
    if [Some(url.path()), url.query(), url.fragment()]
        .into_iter()
        .flatten()
        .any(|part| part.contains('@'))
    {
        return scheme_only();
    }
    if url.password().is_none() && url.query().is_none() {
        return text.to_owned();
    }
    if url.password().is_some() && url.set_password(Some(MASK)).is_err() {
        return scheme_only();
    }
    if url.query().is_some() {
        url.set_query(Some(MASK));
    }
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::new("hunter2");

        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(secret.reveal(), "hunter2");
    }

    #[test]
    fn an_address_prints_without_its_password() {
        for (typed, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("rediss://user:hunter2@host:6380/1", "rediss://user:***@host:6380/1"),
            ("redis://:hunter2@host", "redis://:***@host"),
            ("https://host/hook?key=hunter2", "https://host/hook?***"),
            ("redis://user:hunter2/x@host", "redis://***"),
            ("redis://user:12/hunter2@host", "redis://***"),
            ("redis://user:12#hunter2@host", "redis://***"),
            ("redis://user:12?hunter2@host", "redis://***"),
            ("user:hunter2@host", "***"),
            ("localhost:6379", "localhost:6379"),
        ] {
            assert_eq!(SecretUrl::new(typed).to_string(), shown, "{typed}");
            assert_eq!(SecretUrl::new(typed).reveal(), typed);
        }
    }
}
